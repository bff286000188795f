"""Components of Dash's HTML, imported when the first is made: the process that answers questions draws nothing and needs no Dash."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__all__ = ["H2", "B", "Button", "Div", "I", "Label", "Li", "P", "Section", "Span", "Textarea", "Ul"]

if TYPE_CHECKING:
    from dash.html import H2, B, Button, Div, I, Label, Li, P, Section, Span, Textarea, Ul
else:

    def __getattr__(name: str) -> Any:
        from dash import html

        return getattr(html, name)
