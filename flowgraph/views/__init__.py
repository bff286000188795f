"""Pictures of flow graphs as plain data that tests can read, and the pages, widgets and scripts made of them.

All but the caption is loaded when first asked for: a caller that wants the one need not wait for the others.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .caption import caption

if TYPE_CHECKING:
    from .document import page_bundle, page_library, page_styles
    from .elements import COLOURED_KINDS, Drawing, drawing, facts
    from .html import cut_note, page_data, render_html
    from .legend import legend_of
    from .noted import note_facts, pinned
    from .roles import roles_text
    from .semantic_style import pill_fills
    from .style import RANK_LABELS, THEMES, Theme, css_variables, rank_decade
    from .text import visible

_WHERE = {
    **dict.fromkeys(("COLOURED_KINDS", "Drawing", "drawing", "facts"), "elements"),
    "legend_of": "legend",
    "note_facts": "noted",
    "page_bundle": "document",
    **dict.fromkeys(("cut_note", "page_data"), "html"),
    "page_library": "document",
    "pinned": "noted",
    "page_styles": "document",
    "render_html": "html",
    "pill_fills": "semantic_style",
    "roles_text": "roles",
    **dict.fromkeys(("RANK_LABELS", "THEMES", "Theme", "css_variables", "rank_decade"), "style"),
    "visible": "text",
}

__all__ = [
    "COLOURED_KINDS", "RANK_LABELS", "THEMES", "Drawing", "Theme", "caption", "css_variables", "cut_note", "drawing", "facts", "legend_of", "note_facts", "page_bundle", "page_data", "page_library",
    "page_styles", "pill_fills", "pinned", "rank_decade", "render_html", "roles_text", "visible",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'flowgraph.views' has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_WHERE[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
