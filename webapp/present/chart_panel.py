"""``ChartPanel``: the component that draws a tree of elements and tells which node was picked in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dash import ALL
from dash.development.base_component import Component

CHART = "chart"
"""``type`` in the ids of all panels; their ``of`` is the name."""
_PROPS = ["id", "chart", "name", "label", "selected", "n_picks", "setting"]
_NONE: list[str] = []


class ChartPanel(Component):
    """A panel, drawn in the browser by ``assets/chart_panel.js``.

    Parameters
    ----------
    chart
        The tree: ``[tag, attributes, child, …]``, children are trees or texts. See :func:`~flowgraph_webapp.present.drawn.element`.
    name
        What is drawn: ``"lens"``. The id of the component is ``{"type": "chart", "of": name}``, and its class has the name.
    label
        What a screen reader calls it.
    selected
        Key of a node, or ``"edge.17"``: what is marked wherever it occurs. The component sets it when something is picked.
    n_picks
        How often something was picked. The component counts it.
    setting
        ``{"name", "value"}``: the last setting of the panel that was changed in it. The component sets it.
    """

    _namespace = "flowgraph_webapp"
    _type = "ChartPanel"
    _prop_names = _PROPS
    _children_props = _base_nodes = _valid_wildcard_attributes = _NONE

    def __init__(self, chart: Sequence[Any], *, name: str, label: str, selected: str | None = None) -> None:
        super().__init__(id={"type": CHART, "of": name}, chart=list(chart), name=name, label=label, selected=selected)


def every_chart() -> dict[str, Any]:
    """Id of all panels that are on the page, for callbacks."""
    return {"type": CHART, "of": ALL}
