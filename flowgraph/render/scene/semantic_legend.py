"""The legend of semantic graphs: what colours, widths and dashes mean, unit by unit, and only what the graph has."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from ...charts.text import visible
from ...values.flow_graph import FlowGraph
from .style import RANK_LABELS, edge_stroke

WIDTH_STEPS = (1.0, 0.3, 0.1, 0.03, 0.01)
# Unit → class of its line, name, what the number is and what is drawn of it.
_UNITS = {
    "contribution": ("contribution", "contribution", "part of its target; width: |share|"),
    "attention": ("unit-attention", "attention", "width: the probability"),
    "activation": ("activation", "activation", "one width; dashed below 0"),
    "norm": ("norm", "norm", "length of what is read; one width"),
    "logits": ("logits", "logits", "logit of the last state"),
    "visit": ("visit", "visit", "VISIT's own weight of the edge; one width"),
}  # fmt: skip


def semantic_legend(graph: FlowGraph, edge_classes: Sequence[str]) -> str:
    """HTML of the legend.

    Parameters
    ----------
    graph
        What is drawn.
    edge_classes
        The classes that occur among its edges.
    """
    parts = [_fills(graph)]
    if edge_classes:
        parts.append(_block("Edges", f'<dl class="units">{_unit_rows(edge_classes)}</dl>'))
    if {"contribution", "attention"} & set(edge_classes):
        parts.append(_block("Width", f'<div class="scale">{_widths()}</div>'))
    return "\n".join(parts)


def _block(title: str, body: str) -> str:
    return f'<section class="legend"><h2>{title}</h2>{body}</section>'


def _fills(graph: FlowGraph) -> str:
    if all(reading is None or reading.target_rank is None for reading in graph.readings):
        why = "the model has no head to read with, nodes carry their norm" if graph.readings else "nodes were not read"
        return _block("Node colour", f'<p class="note">Neutral: {why}.</p>')
    token = graph.info.target_token
    target = "the target" if token is None else f'<b class="token">{escape(visible(token))}</b>'
    steps = "".join(f'<span class="k{step}">{name}</span>' for step, name in enumerate(RANK_LABELS))
    return _block("Node colour", f'<p class="note">rank of {target} in the reading</p><div class="fills">{steps}</div>')


def _unit_rows(edge_classes: Sequence[str]) -> str:
    rows = []
    for unit, (line, name, says) in _UNITS.items():
        if unit not in edge_classes:
            continue
        rows.append(f'<dt><i class="line {line}"></i>{name}</dt><dd>{says}</dd>')
        if unit == "contribution" and "negative" in edge_classes:
            rows.append(
                '<dt><i class="line contribution negative"></i>contribution below 0</dt><dd>points against its target</dd>'
            )
        if unit == "contribution" and "stream" in edge_classes:
            rows.append('<dt><i class="line stream"></i>residual stream</dt><dd>a contribution, drawn thinner</dd>')
    return "".join(rows)


def _widths() -> str:
    return "".join(
        f'<span class="step"><i class="bar" style="height:{width}px;opacity:{opacity}"></i>{f"{part:g}".removeprefix("0")}</span>'
        for part in WIDTH_STEPS
        for width, opacity in (edge_stroke("self", part),)
    )
