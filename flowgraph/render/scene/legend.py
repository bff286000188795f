"""The legend beside the picture: only what the graph really has, with numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from ...charts.text import visible
from ...values.flow_graph import FlowGraph
from .elements import Drawing, classes_of
from .layout import is_circuit
from .style import EFFECT_LABELS, RANK_LABELS, edge_stroke

WIDTH_STEPS = (0.3, 0.1, 0.03, 0.01)
EDGE_NAMES = {
    "attention": "attention",
    "self": "attention to itself",
    "to-head": "attention into a head",
    "from-head": "head output",
    "residual": "residual stream",
    "mlp": "MLP",
    "raises": "raises the logit",
    "lowers": "lowers the logit",
    "unembed": "last state to logit",
    "embed": "embedding",
    "bias": "bias",
    "feature": "feature output",
    "error": "what features leave out",
    "structural": "without a number",
}
"""Class of an edge → what it is called."""

IN_CIRCUITS = {
    "state": "embedding",
    "head": "attention head, or group of keys and values",
    "goal": "logits",
    "raises": "supports the answer",
    "lowers": "works against it",
}
"""What classes of nodes and edges are called in circuits."""
IN_ATTRIBUTION_GRAPHS = {"raises": "raises its target", "lowers": "lowers its target"}
"""The same where edges do not lead to one logit."""
SQUARES = {
    "bias": "bias",
    "feature": "feature of a transcoder",
    "attn-feature": "feature of attention",
    "error": "what the features leave out",
    "part": "other part of the model",
}
"""Class of a square → what it is; ``block`` stands for MLPs."""


def own_names(graph: FlowGraph) -> Mapping[str, str]:
    """What classes are called in this kind of graph, where that differs."""
    if is_circuit(graph):
        return IN_CIRCUITS
    names = {} if graph.info.unit == "logits" else IN_ATTRIBUTION_GRAPHS
    has_states = any(node.kind in ("resid_pre", "resid_post") for node in graph.nodes)
    return names if has_states or not graph.notes else {**names, "state": "embedding"}


def legend(drawn: Drawing, edge_classes: Sequence[str], node_classes: Sequence[str]) -> str:
    """HTML of the legend.

    Parameters
    ----------
    drawn
        What is drawn.
    edge_classes, node_classes
        The classes that occur among its edges and nodes.
    """
    parts = [_node_fill(drawn)]
    if any(name.startswith("effect") for name in node_classes):
        parts.append(_effects(drawn, node_classes))
    names = own_names(drawn.graph)
    parts.append(_shapes(node_classes, names))
    if edge_classes:
        parts += [_edge_kinds(edge_classes, names), _widths("effect" if is_circuit(drawn.graph) else "flow")]
    return "\n".join(parts)


def legend_of(drawn: Drawing, data: Mapping[str, Any]) -> str:
    """HTML of the legend of a drawing whose elements are made already: ``data["nodes"]`` and ``data["edges"]``."""
    edges, nodes = (sorted(classes_of(data[part])) for part in ("edges", "nodes"))
    return legend(drawn, edges, nodes)


def _block(title: str, body: str) -> str:
    return f'<section class="legend"><h2>{title}</h2>{body}</section>'


def _node_fill(drawn: Drawing) -> str:
    readings = [reading for reading in drawn.graph.readings if reading is not None]
    if not readings:
        return _block("Node colour", '<p class="note">Neutral: the nodes were not read.</p>')
    if all(reading.target_rank is None for reading in readings):
        note = "Neutral: the model has no head to read with. Nodes carry their norm only."
        return _block("Node colour", f'<p class="note">{note}</p>')
    token = drawn.graph.info.target_token
    target = "the target" if token is None else f'<b class="token">{escape(visible(token))}</b>'
    steps = "".join(
        f'<span class="step"><i class="dot k{step}"></i>{name}</span>' for step, name in enumerate(RANK_LABELS)
    )
    return _block(
        "Node colour",
        f'<p class="note">rank of {target} in the lens</p><div class="steps">{steps}</div>',
    )


def _effects(drawn: Drawing, node_classes: Sequence[str]) -> str:
    shapes = [name for shape, name in (("head", "Head"), ("square", "Square")) if shape in node_classes]
    title = " and ".join(shapes).capitalize() + " colour"
    steps = "".join(
        f'<span class="step"><i class="dot effect{step}"></i>{escape(name)}</span>'
        for step, name in enumerate(EFFECT_LABELS)
    )
    unit = escape(drawn.graph.info.unit)
    return _block(title, f'<p class="note">direct effect on the target, {unit}</p><div class="steps">{steps}</div>')


def _shapes(node_classes: Sequence[str], own: Mapping[str, str]) -> str:
    names = (
        ("state", f'<i class="dot state {"plain" if "plain" in node_classes else ""}"></i>', "residual state"),
        ("junction", '<i class="dot junction"></i>', "mid-block state"),
        ("block", '<i class="dot square"></i>', _square_name(node_classes)),
        *((name, f'<i class="dot square {name}"></i>', text) for name, text in _other_squares(node_classes)),
        ("head", '<i class="dot head">4</i>', "attention head, number"),
        ("goal", '<i class="dot goal"></i>', "logit"),
        ("undefined", '<i class="dot undefined"></i>', "shares by substitute"),
    )
    rows = "".join(f"<li>{mark}{own.get(name, text)}</li>" for name, mark, text in names if name in node_classes)
    return _block("Nodes", f'<ul class="marks">{rows}</ul>') if rows else ""


def _square_name(node_classes: Sequence[str]) -> str:
    return "MLP or bias" if "bias" in node_classes else "MLP"


def _other_squares(node_classes: Sequence[str]) -> list[tuple[str, str]]:
    """Squares that are no MLPs; biases beside MLPs are named with these."""
    return [(name, text) for name, text in SQUARES.items() if name != "bias" or "block" not in node_classes]


def _edge_kinds(edge_classes: Sequence[str], own: Mapping[str, str]) -> str:
    rows = "".join(
        f'<li><i class="line {name}"></i>{own.get(name, text)}</li>'
        for name, text in EDGE_NAMES.items()
        if name in edge_classes
    )
    return _block("Edges", f'<ul class="marks">{rows}</ul>')


def _widths(measure: str) -> str:
    strokes = "".join(
        f'<span class="step"><i class="bar" style="height:{width}px;opacity:{opacity}"></i>{f"{part:g}"[1:]}</span>'
        for part in WIDTH_STEPS
        for width, opacity in (edge_stroke("attention", part),)
    )
    return _block(f'Width = <span class="width-mode">{measure}</span>', f'<div class="steps">{strokes}</div>')
