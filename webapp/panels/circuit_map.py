"""The small map of a circuit that a search has found: dash-cytoscape's component, used through its public properties."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from flowgraph import FlowGraph, node_key
from flowgraph.render import THEMES, page_data

from ..present import html
from ..present.attributes import named
from ..present.ids import Id

if TYPE_CHECKING:
    from dash.development.base_component import Component

_SIZE = (250, 140)
_EDGE = 10
"""Pixels: of the map, and between its border and the outermost nodes."""
_GREY = "#8592A0"
"""Seen on the backgrounds of all themes."""
_STYLES = [
    {"selector": "node", "style": {"width": 7, "height": 7, "background-color": _GREY}},
    {"selector": ".mlp, .square", "style": {"shape": "rectangle"}},
    {
        "selector": "edge",
        "style": {"width": "mapData(size, 0, 1, 0.6, 3)", "line-color": THEMES["light"].effects[-1], "opacity": 0.75},
    },
    {"selector": ".lowers", "style": {"line-color": THEMES["light"].effects[0], "line-style": "dashed"}},
]


def circuit_map() -> Component:
    """The map, empty until something is found. A tap on a node shows the circuit with that node selected."""
    import dash_cytoscape as cyto  # type: ignore[import-untyped]  # the process that answers questions has no Dash

    shown = cyto.Cytoscape(
        id=Id.FOUND_MAP,
        elements=[],
        stylesheet=_STYLES,
        layout={"name": "preset", "fit": False},
        autoRefreshLayout=False,
        style={"width": f"{_SIZE[0]}px", "height": f"{_SIZE[1]}px"},
        autoungrabify=True,
        autounselectify=True,
        userZoomingEnabled=False,
        userPanningEnabled=False,
    )
    label = "Map of the circuit that was found: heads and MLPs from left to right, layers from bottom to top"
    return html.Div(shown, className="found-map", role="img", **named({"aria-label": label}))


def map_elements(graph: FlowGraph) -> list[dict[str, Any]]:
    """Nodes and edges of a circuit as the component takes them: ``key`` is the node's, ``size`` is |weight| over the largest."""
    data = page_data(graph)
    x, y = (_spread([one["data"][axis] for one in data["nodes"]], size) for axis, size in zip("xy", _SIZE, strict=True))
    nodes = [
        {
            "data": {"id": one["data"]["id"], "key": node_key(node)},
            "position": {"x": x[n], "y": _SIZE[1] - y[n]},
            "classes": node.kind,
        }
        for n, (one, node) in enumerate(zip(data["nodes"], graph.nodes, strict=True))
    ]
    largest = max((abs(one["data"].get("v", 0.0)) for one in data["edges"]), default=0.0) or 1.0
    edges = [
        {
            "data": {
                "id": one["data"]["id"], "source": one["data"]["source"], "target": one["data"]["target"],
                "size": abs(one["data"].get("v", 0.0)) / largest,
            },
            "classes": "lowers" if one["data"].get("v", 0.0) < 0 else "",
        }
        for one in data["edges"]
    ]  # fmt: skip
    return [*nodes, *edges]


def _spread(places: Sequence[float], size: int) -> list[float]:
    """Places along one side of the map, from its first edge."""
    first, last = min(places), max(places)
    room = size - 2 * _EDGE
    return [_EDGE + room * ((one - first) / (last - first) if last > first else 0.5) for one in places]
