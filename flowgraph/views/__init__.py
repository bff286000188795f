"""Pictures of flow graphs as plain data that tests can read, and the pages, widgets and scripts made of them.

All but the caption is loaded when first asked for: a caller that wants the one need not wait for the others.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .caption import caption

if TYPE_CHECKING:
    from .document import page_bundle, page_library, page_styles
    from .elements import Drawing, drawing
    from .html import page_data, render_html
    from .legend import legend_of
    from .semantic_style import pill_fills
    from .style import RANK_LABELS, THEMES, Theme, css_variables, rank_decade
    from .text import visible

_WHERE = {
    **dict.fromkeys(("Drawing", "drawing"), "elements"),
    "legend_of": "legend",
    "page_bundle": "document",
    "page_data": "html",
    "page_library": "document",
    "page_styles": "document",
    "render_html": "html",
    "pill_fills": "semantic_style",
    **dict.fromkeys(("RANK_LABELS", "THEMES", "Theme", "css_variables", "rank_decade"), "style"),
    "visible": "text",
}

__all__ = [
    "RANK_LABELS", "THEMES", "Drawing", "Theme", "caption", "css_variables", "drawing", "legend_of", "page_bundle", "page_data", "page_library",
    "page_styles", "pill_fills", "rank_decade", "render_html", "visible",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'flowgraph.views' has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_WHERE[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
