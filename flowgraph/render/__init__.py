"""Pictures of flow graphs as plain data that tests can read, and the pages, widgets and scripts made of them.

All but the caption is loaded when first asked for: a caller that wants the one need not wait for the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..charts.text import visible, whole_percent
from ..importing import late_names
from .words.caption import caption

if TYPE_CHECKING:
    from .page.document import page_bundle, page_library, page_styles
    from .page.html import cut_note, page_data, render_html
    from .scene.attention_codes import AttentionPanel, attention_data
    from .scene.elements import COLOURED_KINDS, Drawing, drawing, edge_place, facts, shown_graph
    from .scene.legend import LegendMark, LegendSection, legend_of, legend_sections
    from .scene.noted import note_facts, pinned
    from .scene.roles import roles_text
    from .scene.semantic_style import pill_fills
    from .scene.style import RANK_LABELS, THEMES, Theme, css_variables, rank_decade

_WHERE = {
    **dict.fromkeys(("COLOURED_KINDS", "Drawing", "drawing", "edge_place", "facts", "shown_graph"), "scene.elements"),
    **dict.fromkeys(("LegendMark", "LegendSection", "legend_of", "legend_sections"), "scene.legend"),
    **dict.fromkeys(("AttentionPanel", "attention_data"), "scene.attention_codes"),
    "note_facts": "scene.noted",
    "page_bundle": "page.document",
    **dict.fromkeys(("cut_note", "page_data"), "page.html"),
    "page_library": "page.document",
    "pinned": "scene.noted",
    "page_styles": "page.document",
    "render_html": "page.html",
    "pill_fills": "scene.semantic_style",
    "roles_text": "scene.roles",
    **dict.fromkeys(("RANK_LABELS", "THEMES", "Theme", "css_variables", "rank_decade"), "scene.style"),
}

__all__ = [
    "COLOURED_KINDS",
    "RANK_LABELS",
    "THEMES",
    "AttentionPanel",
    "Drawing",
    "LegendMark",
    "LegendSection",
    "Theme",
    "attention_data",
    "caption",
    "css_variables",
    "cut_note",
    "drawing",
    "edge_place",
    "facts",
    "legend_of",
    "legend_sections",
    "note_facts",
    "page_bundle",
    "page_data",
    "page_library",
    "page_styles",
    "pill_fills",
    "pinned",
    "rank_decade",
    "render_html",
    "roles_text",
    "shown_graph",
    "visible",
    "whole_percent",
]  # fmt: skip


__getattr__ = late_names(__name__, _WHERE)


def __dir__() -> list[str]:
    return sorted(__all__)
