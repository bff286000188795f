"""The legend of the picture as components."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from . import html

if TYPE_CHECKING:
    from dash.development.base_component import Component

    from flowgraph.render import LegendMark, LegendSection


def legend_components(sections: Sequence[LegendSection]) -> list[Component]:
    """The parts of a legend, as :func:`flowgraph.render.legend_sections` gives them."""
    return [html.Section(_parts(one), className="legend") for one in sections]


def _parts(section: LegendSection) -> list[Component]:
    measure = [html.Span(section.measure, className="width-mode")] if section.measure else []
    found: list[Component] = [html.H2([section.title, *measure])]
    if section.note:
        before, mark, after = section.note.partition("{}")
        token = [html.B(section.token, className="token")] if mark else []
        found.append(html.P([before, *token, after], className="note"))
    if section.is_scale:
        found.append(html.Div([html.Span(_row(mark), className="step") for mark in section.marks], className="steps"))
    elif section.marks:
        found.append(html.Ul([html.Li(_row(mark)) for mark in section.marks], className="marks"))
    return found


def _row(mark: LegendMark) -> list[Any]:
    style = None if mark.stroke is None else {"height": f"{mark.stroke[0]}px", "opacity": str(mark.stroke[1])}
    return [html.I(mark.inside, className=mark.look, style=style), mark.text]
