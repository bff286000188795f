"""The legend beside the picture: only what the graph really has, with numbers; as data, and as HTML."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from ...charts.text import visible
from ...values.effects import is_picture_of_parts, shows_effects
from ...values.flow_graph import FlowGraph
from ...values.graph_axes import is_circuit
from ...values.node import EXCHANGING
from .elements import Drawing, classes_of
from .style import EFFECT_LABELS, RANK_LABELS, edge_stroke

WIDTH_STEPS = (0.3, 0.1, 0.03, 0.01)
EDGE_NAMES = {
    "attention": "attention",
    "self": "attention to itself",
    "to-head": "attention into a head",
    "from-head": "head output",
    "cross": "attention to the encoder",
    "to-cross": "into a cross head",
    "from-cross": "cross head output",
    "residual": "residual stream",
    "mlp": "MLP",
    "mixer": "mixer output",
    "sink": "attention to a sink",
    "raises": "raises the logit",
    "lowers": "lowers the logit",
    "unembed": "last state to logit",
    "embed": "embedding",
    "bias": "bias",
    "feature": "feature output",
    "error": "what features leave out",
    "stream": "stream between parts",
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
IN_PICTURES_OF_PARTS = {
    "raises": "brings the answer",
    "lowers": "works against it",
    "structural": "what an MLP reads",
}
"""The same in pictures of parts."""
IN_ATTRIBUTION_GRAPHS = {"raises": "raises its target", "lowers": "lowers its target"}
"""The same where edges do not lead to one logit."""
SQUARES = {
    "bias": "bias",
    "feature": "feature of a transcoder",
    "attn-feature": "feature of attention",
    "error": "what the features leave out",
    "shared-expert": "shared expert",
    "mixer": "mixer of tokens",
    "sink": "sink, a key that holds nothing",
    "part": "other part of the model",
}
"""Class of a square → what it is; ``block`` stands for MLPs."""


def own_names(graph: FlowGraph) -> Mapping[str, str]:
    """What classes are called in this kind of graph, where that differs."""
    if is_circuit(graph):
        return IN_CIRCUITS
    if is_picture_of_parts(graph):
        return IN_PICTURES_OF_PARTS
    names = {} if graph.info.unit == "logits" else IN_ATTRIBUTION_GRAPHS
    if any(stack.name == EXCHANGING for stack in graph.info.stacks):
        return {**names, "cross": "attention to the other stack", "cross-head": "cross head: reads the other stack"}
    has_states = any(node.kind in ("resid_pre", "resid_post") for node in graph.nodes)
    return names if has_states or not graph.notes else {**names, "state": "embedding"}


@dataclass(frozen=True)
class LegendMark:
    """One thing that the legend explains.

    Attributes
    ----------
    look
        Classes of the sign, as the style sheets have them.
    text
        What it means.
    inside
        What is written in the sign.
    stroke
        Height in pixels and opacity of a bar; None for other signs.
    """

    look: str
    text: str
    inside: str = ""
    stroke: tuple[float, float] | None = None


@dataclass(frozen=True)
class LegendSection:
    """A part of the legend.

    Attributes
    ----------
    title
        What the marks show.
    marks
        One under the other as a list, or side by side as the steps of a scale.
    is_scale
        Whether they are steps of a scale.
    measure
        What follows the title and changes with what the page shows: ``"flow"``.
    note
        A line above the marks; the token stands in the place of ``{}``.
    token
        Text of a token, which may hold anything.
    """

    title: str
    marks: tuple[LegendMark, ...] = ()
    is_scale: bool = False
    measure: str = ""
    note: str = ""
    token: str = ""


def legend_sections(drawn: Drawing, data: Mapping[str, Any]) -> list[LegendSection]:
    """The legend of a drawing whose elements are made already: ``data["nodes"]`` and ``data["edges"]``."""
    edges, nodes = (sorted(classes_of(data[part])) for part in ("edges", "nodes"))
    return sections(drawn, edges, nodes)


def sections(drawn: Drawing, edge_classes: Sequence[str], node_classes: Sequence[str]) -> list[LegendSection]:
    """The parts of a legend.

    Parameters
    ----------
    drawn
        What is drawn.
    edge_classes, node_classes
        The classes that occur among its edges and nodes.
    """
    names = own_names(drawn.graph)
    found = [_node_fill(drawn)]
    if any(name.startswith("effect") for name in node_classes):
        found.append(_effects(drawn, node_classes))
    shapes = _shapes(node_classes, names)
    found += [LegendSection("Nodes", shapes)] if shapes else []
    if edge_classes:
        found += [_edge_kinds(edge_classes, names), _widths(drawn)]
    return found


def legend_of(drawn: Drawing, data: Mapping[str, Any]) -> str:
    """HTML of :func:`legend_sections`."""
    return legend_html(legend_sections(drawn, data))


def legend_html(parts: Sequence[LegendSection]) -> str:
    """HTML of the parts of a legend."""
    return "\n".join(map(_section_html, parts))


def _section_html(section: LegendSection) -> str:
    measure = f'<span class="width-mode">{escape(section.measure)}</span>' if section.measure else ""
    token = f'<b class="token">{escape(section.token)}</b>' if section.token else ""
    note = f'<p class="note">{escape(section.note).replace("{}", token)}</p>' if section.note else ""
    body = note + _marks_html(section)
    return f'<section class="legend"><h2>{escape(section.title)}{measure}</h2>{body}</section>'


def _marks_html(section: LegendSection) -> str:
    if not section.marks:
        return ""
    row, around = ("span", 'div class="steps"') if section.is_scale else ("li", 'ul class="marks"')
    first = 'span class="step"' if section.is_scale else "li"
    rows = "".join(f"<{first}>{_sign_html(mark)}{escape(mark.text)}</{row}>" for mark in section.marks)
    return f"<{around}>{rows}</{around.partition(' ')[0]}>"


def _sign_html(mark: LegendMark) -> str:
    style = "" if mark.stroke is None else f' style="height:{mark.stroke[0]}px;opacity:{mark.stroke[1]}"'
    return f'<i class="{mark.look}"{style}>{escape(mark.inside)}</i>'


def _node_fill(drawn: Drawing) -> LegendSection:
    readings = [reading for reading in drawn.graph.readings if reading is not None]
    if not readings:
        return LegendSection("Node colour", note="Neutral: the nodes were not read.")
    if all(reading.target_rank is None for reading in readings):
        note = "Neutral: the model has no head to read with. Nodes carry their norm only."
        return LegendSection("Node colour", note=note)
    token = drawn.graph.info.target_token
    steps = tuple(LegendMark(f"dot k{step}", name) for step, name in enumerate(RANK_LABELS))
    if token is None:
        return LegendSection("Node colour", steps, is_scale=True, note="rank of the target in the lens")
    return LegendSection("Node colour", steps, is_scale=True, note="rank of {} in the lens", token=visible(token))


def _effects(drawn: Drawing, node_classes: Sequence[str]) -> LegendSection:
    shapes = [name.replace("-", " ") for name in ("head", "cross-head", "square") if name in node_classes]
    title = " and ".join(filter(None, (", ".join(shapes[:-1]), *shapes[-1:]))).capitalize() + " colour"
    steps = tuple(LegendMark(f"dot effect{step}", name) for step, name in enumerate(EFFECT_LABELS))
    return LegendSection(title, steps, is_scale=True, note=f"{effect_name(drawn.graph)}, {drawn.graph.info.unit}")


def effect_name(graph: FlowGraph) -> str:
    """What the colour of a head or an MLP stands for."""
    if is_picture_of_parts(graph):
        return "effect: blue brings the answer, orange works against it"
    return "direct effect on the target"


def _shapes(node_classes: Sequence[str], own: Mapping[str, str]) -> tuple[LegendMark, ...]:
    names = (
        ("state", f"dot state {'plain' if 'plain' in node_classes else ''}", "residual state"),
        ("junction", "dot junction", "mid-block state"),
        ("block", "dot square", _square_name(node_classes)),
        *((name, f"dot square {name}", text) for name, text in _other_squares(node_classes)),
        ("head", "dot head", "attention head, number"),
        ("expert", "dot head expert", "expert, number"),
        ("cross-head", "dot head cross-head", "cross head: reads the encoder"),
        ("goal", "dot goal", "logit"),
        ("undefined", "dot undefined", "shares by substitute"),
    )
    return tuple(
        LegendMark(look, own.get(name, text), "4" if name in ("head", "expert", "cross-head") else "")
        for name, look, text in names
        if name in node_classes
    )


def _square_name(node_classes: Sequence[str]) -> str:
    return "MLP or bias" if "bias" in node_classes else "MLP"


def _other_squares(node_classes: Sequence[str]) -> list[tuple[str, str]]:
    """Squares that are no MLPs; biases beside MLPs are named with these."""
    return [(name, text) for name, text in SQUARES.items() if name != "bias" or "block" not in node_classes]


def _edge_kinds(edge_classes: Sequence[str], own: Mapping[str, str]) -> LegendSection:
    names = ((name, own.get(name, text)) for name, text in EDGE_NAMES.items() if name in edge_classes)
    return LegendSection("Edges", tuple(LegendMark(f"line {name}", text) for name, text in names))


def _widths(drawn: Drawing) -> LegendSection:
    steps = tuple(LegendMark("bar", text, stroke=edge_stroke("attention", part)) for text, part in width_steps(drawn))
    if is_picture_of_parts(drawn.graph):
        return LegendSection(f"Width = |effect|, {drawn.graph.info.unit}", steps, is_scale=True)
    return LegendSection("Width = ", steps, is_scale=True, measure="effect" if shows_effects(drawn.graph) else "flow")


def width_steps(drawn: Drawing) -> list[tuple[str, float]]:
    """What samples of an edge's width say, and the part of the largest that they stand for: round effects in a picture of parts."""
    largest = float(np.abs(drawn.graph.weight).max(initial=0.0)) if is_picture_of_parts(drawn.graph) else 0.0
    if not largest > 0:
        return [(_no_zero(part), part) for part in WIDTH_STEPS]
    power = math.floor(math.log10(largest) + 1e-9)
    values = [digit * 10.0**n for n in range(power, power - 4, -1) for digit in (3, 1)]
    fitting = [value for value in values if value <= largest * (1 + 1e-9)][: len(WIDTH_STEPS)]
    return [(_no_zero(value), value / largest) for value in fitting]


def _no_zero(value: float) -> str:
    return f"{value:.3g}".removeprefix("0")
