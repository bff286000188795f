"""The semantic graph of some layers: every vector a pill that says what it holds. The page scripts of flowgraph draw it.

``panel(semantic, run) -> Component``: ``assets/panels.js`` mounts ``window.flowgraph.semantic`` on the parts made here, and
selects by node key like every panel.
``rows(semantic) -> (header, rows)``: one row for each edge.
"""

from __future__ import annotations

import json

from dash.development.base_component import Component

from flowgraph import FlowGraph, node_key
from flowgraph.render import RANK_LABELS, caption, page_data, visible

from ..present.drawn import Element, drawn, element
from ..server.answers import Run, Semantic

_UNITS = {
    "contribution": "part of the target that a vector makes up",
    "attention": "attention probability",
    "activation": "what a vector is multiplied by",
    "norm": "length of a vector",
    "share": "share of the target",
    "logits": "logits",
    "visit": "width as VISIT draws it",
}
_ZOOM = (
    ("+", "+", "Zoom in (+)"),
    ("-", "−", "Zoom out (−)"),
    ("0", "fit", "Fit this layer (0)"),
    ("a", "all", "Show the whole graph (A)"),
)
_KEYS = (
    "Arrow keys left and right follow the strongest edge, up and down walk along a column. Page Up and Page Down go to the layer "
    "before and after. Escape clears. Plus, minus, 0 and A zoom, fit the layer and show the whole graph."
)


def panel(semantic: Semantic, run: Run, *, selected: str | None = None) -> Component:
    """Picture, legend, and the parts that the scripts fill.

    Parameters
    ----------
    semantic
        The graph.
    run
        The pass it belongs to.
    selected
        Key of the node that is marked.
    """
    graph = semantic.graph
    data = {"page": page_data(graph), "keys": [node_key(node) for node in graph.nodes]}
    parts = element("div", _walk(), element("p", semantic.note, cls="note"), _zoom(), cls="panel-head")
    tree = element(
        "div",
        element("div", parts, _stage(), element("p", caption(graph), cls="note"), cls="picture-side"),
        element(
            "div", element("div", data_part="details", cls="side-details"), _coverage(), _legend(graph, run), cls="side"
        ),
        element("div", cls="hidden", data_part="table"),
        element("p", _KEYS, cls="hidden", data_part="keys"),
        element("p", cls="hidden", data_part="live", aria_live="polite"),
        cls="flowgraph semantic",
        data_kind="semantic",
        data_widget="semantic",
        data_model=json.dumps(data, ensure_ascii=False, separators=(",", ":")),
    )
    return drawn(tree, name="semantic-panel", label="Semantic graph", selected=selected)


def rows(semantic: Semantic) -> tuple[tuple[str, ...], list[tuple[str | int | float, ...]]]:
    """Every edge with its ends, its number and its unit."""
    graph = semantic.graph
    header = ("source", "target", "kind", "layer", "head", "weight", "unit", "share")
    found: list[tuple[str | int | float, ...]] = []
    for e in range(len(graph)):
        about = graph.edge_dict(e)
        ends = (str(graph.nodes[graph.source[e]]), str(graph.nodes[graph.target[e]]))
        values = (about[name] for name in ("kind", "layer", "head", "weight", "unit", "share"))
        found.append((*ends, *("" if value is None else value for value in values)))
    return header, found


def _stage() -> Element:
    return element(
        "div",
        element("div", data_part="picture"),
        element("div", cls="axis", data_part="heads", aria_hidden="true"),
        element("div", data_part="rows", aria_hidden="true"),
        element("p", cls="empty", data_part="empty"),
        element("div", data_part="tip", role="tooltip"),
        cls="stage",
        data_part="stage",
        tabindex="0",
        role="application",
        aria_label="Semantic graph: layers from left to right, each in columns from state to what is written",
        data_aria_describedby="keys",
    )


def _walk() -> Element:
    def step(part: str, sign: str, name: str) -> Element:
        return element("button", sign, type="button", cls="button small", data_part=part, aria_label=name, title=name)

    return element(
        "div",
        step("earlier", "‹", "Layer before (Page Up)"),
        element("select", data_part="layer", aria_label="Layer"),
        step("later", "›", "Layer after (Page Down)"),
        element("select", data_part="position", aria_label="Position"),
        cls="pager",
    )


def _zoom() -> Element:
    buttons = [
        element("button", sign, type="button", cls="button small", data_key=key, aria_label=hint, title=hint)
        for key, sign, hint in _ZOOM
    ]
    return element("div", *buttons, cls="pager")


def _coverage() -> Element:
    return element(
        "section",
        element("h3", data_part="where"),
        element("div", data_part="coverage"),
        aria_live="polite",
        cls="coverage",
    )


def _legend(graph: FlowGraph, run: Run) -> Element:
    """Fill of the pills, and the unit of each colour of edge."""
    fills = [element("span", text, cls=f"fill-step fill-{step}") for step, text in enumerate(RANK_LABELS)]
    target = "the target" if run.target_token is None else visible(run.target_token)
    units = sorted({graph.unit_of(e) for e in range(len(graph))})
    lines = [
        element("p", element("i", cls=f"unit {unit}"), element("b", unit), f" {_UNITS[unit]}", cls="unit-line")
        for unit in units
    ]
    return element(
        "section",
        element("h3", f"Pills: rank of {target}"),
        element("div", *fills, cls="fill-scale"),
        element("h3", "Edges: unit of the weight; dashed where it is negative"),
        *lines,
        cls="legend",
    )
