"""What one node says: its vector in vocabulary, what it adds to the logit, where it looks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flowgraph
from flowgraph import DirectLogitAttribution, LoadedModel, Node, NodeReading, Trace
from flowgraph.errors import ArgumentError

from ..server.answers import NodeAnswer
from ..server.questions import NodeQuestion, RunQuestion
from ..server.traces import Check, Traces

TOKENS = 10
"""Top and bottom tokens of a node's reading."""
NEURONS = 50
"""Strongest neurons: so many are shown of a logit, and so many of a layer are read."""
_STATES = ("embed", "resid_pre", "resid_mid", "resid_post", "attn", "mlp", "head")
_WITHOUT_VECTOR: Mapping[str, str] = {
    "logit": "a logit is a number and has no vector to read",
    "logits": "logits are numbers and have no vector to read",
    "unembed_bias": "a bias of the head is a number for each token and has no vector to read",
    "position_embed": "position vectors are added before the first layer and are not read by themselves",
    **dict.fromkeys(
        ("feature", "attn_feature", "mlp_error", "attn_error"),
        "it belongs to a dictionary that the model does not have; what is known of it stands in the graph's file",
    ),
    **dict.fromkeys(
        ("head_rest", "attn_rest", "mlp_rest"),
        "what a rest stands for depends on the picture; its reading is shown in the semantic graph",
    ),
}


def has_attribution(loaded: LoadedModel) -> bool:
    """Whether a logit of the model is the sum of its parts."""
    anatomy = loaded.anatomy
    return anatomy.has_head and anatomy.family.head_kind != "masked" and anatomy.wiring != "post_norm"


def node(traces: Traces, question: NodeQuestion, check: Check) -> NodeAnswer:
    """What one node says."""
    trace = traces.trace(question.run, check)
    asked = question.node
    if asked.kind in ("feature", "attn_feature", "mlp_error", "attn_error"):
        return NodeAnswer(asked, str(asked), None, None, None, _WITHOUT_VECTOR[asked.kind])
    refuse_outside(trace, asked)
    check("reading a node", None)
    reading, note = _reading(trace, asked)
    contribution, why = _contribution(traces, question.run, trace, asked, reading, check)
    attention = None
    if asked.kind == "head" and asked.position is not None:
        row = trace.pattern[asked.layer or 0, asked.head or 0, asked.position]
        attention = tuple(row.double().tolist())
    return NodeAnswer(asked, str(asked), reading, contribution, attention, "; ".join(filter(None, (note, why))))


def refuse_outside(trace: Trace, asked: Node) -> None:
    """Refuse a node that this run does not have.

    Raises
    ------
    ArgumentError
        If one of its numbers is too large, or a state has no position.
    """
    anatomy = trace.model.anatomy
    vocabulary = anatomy.d_vocab if anatomy.has_head else 0
    limits = {
        "layer": trace.n_layers,
        "head": trace.n_heads,
        "position": len(trace.tokens),
        "index": vocabulary if asked.kind == "logit" else max(len(trace.tokens), *_widths(trace)),
    }
    for name, below in limits.items():
        value = getattr(asked, name)
        if value is not None and not value < below:
            raise ArgumentError(f"node {asked}: {name}={value} is outside this run; expected 0…{below - 1}")
    if asked.position is None and asked.kind in _STATES:
        raise ArgumentError(f"node {asked} has no position; a state, a head or an MLP is at a token")


def _widths(trace: Trace) -> tuple[int, int]:
    anatomy = trace.model.anatomy
    return anatomy.n_heads * anatomy.d_head, anatomy.blocks[0].mlp_output.d_in


def _reading(trace: Trace, asked: Node) -> tuple[NodeReading | None, str]:
    if asked.kind in _WITHOUT_VECTOR:
        return None, _WITHOUT_VECTOR[asked.kind]
    if asked.kind in _STATES:
        if asked.kind == "resid_mid" and trace.resid_mid is None:
            raise ArgumentError(
                f"node {asked}: blocks of this model are parallel and have no state between their parts"
            )
        return flowgraph.node_readings(trace, [asked], k=TOKENS)[0], ""
    return _inner_reading(trace, asked)


def _inner_reading(trace: Trace, asked: Node) -> tuple[NodeReading | None, str]:
    """Reading of a node inside a layer: from a semantic graph that shows it."""
    if asked.position is None:
        return None, "a bias that stands for no token is read in the semantic graph"
    rows = _widths(trace)[0]
    sizes: dict[str, Any] = {
        "sources_per_head": len(trace.tokens) if asked.kind in ("key", "value") else 1,
        "rows_per_block": rows if asked.kind == "row" else 0,
        "heads": 1 if asked.head is None else [asked.head],
    }
    layer = trace.n_layers - 1 if asked.layer is None else asked.layer
    position = trace.position if asked.layer is None else asked.position
    for select in ("contribution", "target") if has_attribution(trace.model) else ("contribution",):
        found = flowgraph.semantic_graph(
            trace, layers=layer, positions=position, **sizes, neurons_per_block=NEURONS, select=select, k=TOKENS
        )
        if asked in found.nodes:
            return found.readings[found.nodes.index(asked)], ""
        if asked.kind not in ("neuron", "neuron_in", "gate"):
            return None, f"this pass has no {asked}"
    return None, f"{asked} is not among the {NEURONS} neurons that matter most there, and is not read"


def _contribution(
    traces: Traces, run: RunQuestion, trace: Trace, asked: Node, reading: NodeReading | None, check: Check
) -> tuple[float | None, str]:
    """What a node adds to the logit, in logits, and why nothing is said where nothing is."""
    if not has_attribution(trace.model):
        return None, "this model's logits are no sums of parts"
    if asked.position not in (None, trace.position):
        return None, f"only nodes of position {trace.position} add to its logit themselves"
    added = _added(traces.attribution(run, check), asked)
    if added is None and reading is not None:
        added = reading.contribution
    return added, ""


def _added(parts: DirectLogitAttribution, asked: Node) -> float | None:
    layer = 0 if asked.layer is None else asked.layer
    bias = parts.biases.get
    match asked.kind:
        case "head":
            return float(parts.heads[layer, asked.head])
        case "attn":
            return float(parts.heads[layer].sum()) + bias(f"L{layer}.attn_bias", 0.0)
        case "mlp":
            return float(parts.mlps[layer]) + bias(f"L{layer}.mlp_bias", 0.0)
        case "neuron":
            return float(parts.neurons[layer, asked.index])
        case "embed":
            return parts.embedding
        case "position_embed":
            return parts.position_embedding
        case "attn_bias" | "mlp_bias":
            return bias(f"L{layer}.{asked.kind}")
        case "final_norm_bias" | "unembed_bias":
            return bias(asked.kind)
    return None
