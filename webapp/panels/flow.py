"""The flow graph on the page: Cytoscape elements, what the page scripts need beside them, start, caption and legend."""

from __future__ import annotations

from typing import Any

import dash_cytoscape as cyto  # type: ignore[import-untyped]
from dash import html
from dash.development.base_component import Component

import flowgraph
from flowgraph import node_key
from flowgraph.render import Drawing, drawing, facts

from ..present.attributes import named
from ..server.answers import GraphAnswer
from .prediction import token_text

_NOT_STARTS = frozenset({"logit", "final_norm", "attn_bias", "mlp_bias", "final_norm_bias", "unembed_bias"})
_GOAL = {"selector": "node.goal[lb]", "style": {"text-margin-y": -1}}
"""The logit's label stands higher, so that it does not touch that of the state below it."""
_HIDDEN = [{"selector": "*", "style": {"visibility": "hidden"}}]
"""Until the page scripts have placed and coloured the elements."""


def picture(data: dict[str, Any], name: str) -> Component:
    """The Cytoscape component of a graph.

    Parameters
    ----------
    data
        What :func:`flowgraph.render.page_data` gives.
    name
        Id of the component. Each graph needs one of its own: the same element id in another graph is another thing.
    """
    shown: Component = cyto.Cytoscape(
        id=name,
        elements={"nodes": data["nodes"], "edges": data["edges"]},
        stylesheet=_HIDDEN,
        layout={"name": "preset", "fit": False},
        className="cytoscape",
        style={"width": "100%", "height": "100%"},
        autoungrabify=True,
        autounselectify=True,
        autoRefreshLayout=False,
        responsive=False,
        boxSelectionEnabled=False,
        minZoom=0.25,
        maxZoom=8,
    )
    return shown


def meta(data: dict[str, Any], drawn: Drawing, name: str) -> dict[str, Any]:
    """What the page scripts need beside the elements: facts, styles, and which element is which node or edge."""
    found = {key: value for key, value in data.items() if key not in ("nodes", "edges")}
    return found | {
        "picture": name,
        # The page follows routes as far as it can draw them, and opens on what can be read at a glance.
        "level": drawn.opening_level,
        "keys": [node_key(node) for node in drawn.graph.nodes],
        "starts": [_start(node) for node in drawn.graph.nodes],
        "edge_index": drawn.order.tolist(),
        "styles": {theme: [*rules, _GOAL, *_way_rules(rules)] for theme, rules in data["styles"].items()},
    }


def readings(graph: flowgraph.FlowGraph, name: str) -> dict[str, Any]:
    """What every node of a picture reads or writes; it comes after the picture, which shows only what some of them read."""
    said = facts(drawing(graph))
    return {"picture": name, "readings": said["readings"], "vocabulary": said["vocabulary"]}


def _start(node: flowgraph.Node) -> str | None:
    """A node as a start in the address; None where no flow can run to it."""
    return None if node.kind in _NOT_STARTS or node.position is None else node_key(node, short=True)


def _way_rules(rules: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """How edges on a way between two pinned nodes look: in the colour of a pin."""
    pin = next(rule["style"]["border-color"] for rule in rules if rule["selector"] == "node.pin")
    return [
        {"selector": "edge.way", "style": {"line-color": pin, "target-arrow-color": pin, "line-opacity": 1, "z-index": 70}}
    ]  # fmt: skip


def start_chip(start: flowgraph.Node | None, graph: flowgraph.FlowGraph) -> list[Component]:
    """Which node the flow runs to, with the way back to the logit; nothing while it is the logit."""
    if start is None:
        return []
    token: list[Any] = [] if start.position is None else [" ", token_text(graph.info.tokens[start.position])]
    back = html.Button(
        "back to the logit",
        type="button",
        className="link",
        title="Follow the flow into the logit again",
        **named({"data-start": ""}),
    )
    return [
        html.Span([html.Span("flow into ", className="note"), html.B(str(start)), *token], className="chip start"),
        back,
    ]


def caption(answer: GraphAnswer) -> list[Component]:
    """What the picture shows of the whole, in a line; the whole story on hover."""
    info = answer.graph.info
    size = f"{info.method_text} in {info.unit}, {answer.note}"
    return [html.Span(size, title=answer.graph.caption())]


def mass_hint(drawn: Drawing) -> str:
    """What the slider goes by, and what its percentage is a part of."""
    measure = (
        "the summed flow of the edges, as a part of that of all edges of the method"
        if drawn.is_flow_mass
        else "the summed |share| of all edges of the method"
    )
    return (
        "Edges appear from the strongest connected flow downwards, so that whatever is shown leads to the start node. "
        f"The mass is {measure}. Residual and MLP edges count too and hold most of it."
    )
