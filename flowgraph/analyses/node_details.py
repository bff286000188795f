"""What one node says: its vector in vocabulary, what it adds to the logit, where it looks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..errors import ArgumentError
from ..lenses.direct_attribution import DirectLogitAttribution, direct_logit_attribution, logit_direction
from ..lenses.experts import expert_count, expert_vector, layer_experts
from ..methods.node_readings import node_readings
from ..semantic import semantic_graph
from ..values.arguments import takes
from ..values.node import ERRORS, FEATURES, OWN, Node
from ..values.node_details import NodeDetails
from ..values.reading import NodeReading
from ..values.trace import Trace

MOST_NEURONS = 50
"""Of a layer the neurons that matter most: so many are read."""
_OF_A_DICTIONARY = FEATURES | ERRORS
_STATES = (
    "embed",
    "resid_pre",
    "resid_cross",
    "resid_mid",
    "resid_post",
    "attn",
    "mlp",
    "head",
    "cross_head",
    "mixer",
    "expert",
    "shared_expert",
)
_WITHOUT_VECTOR: Mapping[str, str] = {
    "logit": "a logit is a number and has no vector to read",
    "logits": "logits are numbers and have no vector to read",
    "unembed_bias": "a bias of the head is a number for each token and has no vector to read",
    "sink": "a sink is a number that heads' attention is spent on, and has no vector to read",
    "position_embed": "position vectors are added before the first layer and are not read by themselves",
    **dict.fromkeys(
        _OF_A_DICTIONARY,
        "it belongs to a dictionary that the model does not have; what is known of it stands in the graph's file",
    ),
    **dict.fromkeys(
        ("head_rest", "attn_rest", "mlp_rest", "cross_head_rest", "cross_rest"),
        "what a rest stands for depends on the picture; its reading is shown in the semantic graph",
    ),
}


@takes(Trace, Node)
def node_details(
    trace: Trace, node: Node, *, attribution: DirectLogitAttribution | None = None, k: int = 10
) -> NodeDetails:
    """Say what one node of a pass says: its vector in vocabulary, what it adds to the logit, and where a head looks.

    Parameters
    ----------
    trace
        The pass, with its model.
    node
        A node of :func:`flowgraph.build_graph` or :func:`flowgraph.semantic_graph`; a state, a head or an MLP with its position.
        What is inside a layer (queries, keys, values, neurons …) is read as the semantic graph reads it.
    attribution
        :func:`flowgraph.direct_logit_attribution` at the trace's position, where it is known already; None: worked out if the node
        can have a contribution.
    k
        How many tokens on either side.

    Raises
    ------
    ArgumentError
        If the pass has no such node.
    ModelNeededError
        If the trace has no model.

    Examples
    --------
    >>> said = fg.node_details(trace, fg.Node("head", layer=23, head=4, position=7))
    >>> said
    NodeDetails(L23H4@7, adds +2.68 logits)
    >>> said.reading.top[0][0]
    ' Japanese'
    >>> round(float(said.attention[3]), 2)  # to " Japan"
    0.92
    """
    if node.kind in _OF_A_DICTIONARY:
        return NodeDetails(node, None, None, None, trace.tokens, _WITHOUT_VECTOR[node.kind])
    if node.stack is not None:
        return _in_stack(trace, node, k)
    _refuse_outside(trace, node)
    reading, note = _reading(trace, node, k)
    contribution, why = _contribution(trace, node, reading, attribution)
    attention, tokens = None, trace.tokens
    if node.kind in ("head", "cross_head") and node.position is not None:
        pattern = trace.pattern if node.kind == "head" else trace.cross_pattern
        row = pattern[(node.layer or 0) - trace.layers[0], node.head or 0, node.position]
        attention = row.double().cpu().numpy()
        if node.kind == "cross_head":
            tokens = trace.tokens_read_by()
    return NodeDetails(node, reading, contribution, attention, tokens, "; ".join(filter(None, (note, why))))


def _in_stack(trace: Trace, node: Node, k: int) -> NodeDetails:
    """What a node of another stack says: how long its vector is, and where a head looks; nothing of it is in vocabulary."""
    if node.stack is None or node.stack not in trace.stacks:
        raise ArgumentError(f"node {node}: this trace has no stack {node.stack!r}")
    found = node_details(trace.stacks[node.stack], replace(node, stack=None), k=k)
    if node.kind == "cross_head":
        found = replace(found, tokens=trace.tokens_read_by(node.stack))
    note = f"the head reads what the last stack writes, so nodes of the {node.stack} are not read in vocabulary"
    return replace(found, node=node, contribution=None, note=note)


def _refuse_outside(trace: Trace, asked: Node) -> None:
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
        "index": _indices(trace, asked, vocabulary),
    }
    for name, below in limits.items():
        value = getattr(asked, name)
        if value is not None and not value < below:
            raise ArgumentError(f"node {asked}: {name}={value} is outside this run; expected 0…{below - 1}")
    first, stop = trace.layers
    if asked.layer is not None and not first <= asked.layer < stop:
        raise ArgumentError(
            f"node {asked}: layer={asked.layer} is not among the layers that the trace keeps, {first}…{stop - 1}"
        )
    if asked.position is None and asked.kind in _STATES:
        raise ArgumentError(f"node {asked} has no position; a state, a head or an MLP is at a token")


def _sources(trace: Trace) -> int:
    """How many positions of an encoder there are; 0 without one."""
    return trace.cross_pattern.shape[-1] if trace.model.anatomy.cross is not None else 0


def _indices(trace: Trace, asked: Node, vocabulary: int) -> int:
    """How many indices nodes of this kind have."""
    if asked.kind == "logit":
        return vocabulary
    if asked.kind == "expert" and asked.layer is not None and asked.layer < trace.n_layers:
        mlp = trace.model.anatomy.blocks[asked.layer].mlp
        count = None if mlp is None else expert_count(mlp)
        if count is not None:
            return count
    return max(len(trace.tokens), _sources(trace), *_widths(trace))


def _widths(trace: Trace) -> tuple[int, int]:
    anatomy = trace.model.anatomy
    return anatomy.n_heads * anatomy.d_value, anatomy.blocks[0].n_neurons


def _reading(trace: Trace, asked: Node, k: int) -> tuple[NodeReading | None, str]:
    if asked.kind in _WITHOUT_VECTOR:
        return None, _WITHOUT_VECTOR[asked.kind]
    if asked.kind in _STATES:
        if asked.kind == "resid_mid" and trace.resid_mid is None:
            raise ArgumentError(
                f"node {asked}: blocks of this model are parallel and have no state between their parts"
            )
        return node_readings(trace, [asked], k=k)[0], ""
    return _inner_reading(trace, asked, k)


def _inner_reading(trace: Trace, asked: Node, k: int) -> tuple[NodeReading | None, str]:
    """Reading of a node inside a layer: from a semantic graph that shows it."""
    if asked.position is None:
        return None, "a bias that stands for no token is read in the semantic graph"
    rows, kind = _widths(trace)[0], OWN.get(asked.kind, asked.kind)
    sizes: dict[str, Any] = {
        "sources_per_head": (_sources(trace) if asked.kind in OWN else len(trace.tokens))
        if kind in ("key", "value")
        else 1,
        "rows_per_block": rows if kind == "row" else 0,
        "heads": 1 if asked.head is None else [asked.head],
    }
    layer = trace.n_layers - 1 if asked.layer is None else asked.layer
    position = trace.position if asked.layer is None else asked.position
    for select in ("contribution", "target") if trace.model.has_attribution else ("contribution",):
        found = semantic_graph(
            trace, layers=layer, positions=position, **sizes, neurons_per_block=MOST_NEURONS, select=select, k=k
        )
        if asked in found.nodes:
            return found.readings[found.nodes.index(asked)], ""
        if asked.kind not in ("neuron", "neuron_in", "gate"):
            return None, f"this pass has no {asked}"
    return None, f"{asked} is not among the {MOST_NEURONS} neurons that matter most there, and is not read"


def _contribution(
    trace: Trace, asked: Node, reading: NodeReading | None, parts: DirectLogitAttribution | None
) -> tuple[float | None, str]:
    """What a node adds to the logit, in logits, and why nothing is said where nothing is."""
    if not trace.model.has_attribution:
        return None, "this model's logits are no sums of parts"
    if asked.position not in (None, trace.position):
        return None, f"only nodes of position {trace.position} add to its logit themselves"
    parts = direct_logit_attribution(trace, position=trace.position) if parts is None else parts
    added = _of_expert(trace, asked) if asked.kind in ("expert", "shared_expert") else _added(parts, asked)
    if added is None and reading is not None:
        added = reading.contribution
    return added, ""


def _of_expert(trace: Trace, asked: Node) -> float | None:
    """What an expert adds to the logit; norms on the stream, in post-norm blocks, turn its direction, and nothing is said."""
    if trace.wiring == "post_norm" or trace.target is None or asked.layer is None:
        return None
    direction, _ = logit_direction(trace, trace.target, trace.foil, trace.position)
    return float(expert_vector(layer_experts(trace, asked.layer - trace.layers[0]), asked) @ direction)


def _added(parts: DirectLogitAttribution, asked: Node) -> float | None:
    layer = 0 if asked.layer is None else asked.layer
    bias = parts.biases.get
    match asked.kind:
        case "head":
            return float(parts.heads[layer, asked.head])
        case "cross_head":
            return None if parts.cross_heads is None else float(parts.cross_heads[layer, asked.head])
        case "attn":
            return float(parts.heads[layer].sum()) + bias(f"L{layer}.attn_bias", 0.0)
        case "mixer":
            return None if parts.mixers is None else float(parts.mixers[layer])
        case "mlp":
            return float(parts.mlps[layer]) + bias(f"L{layer}.mlp_bias", 0.0)
        case "neuron":
            return float(parts.neurons[layer, asked.index])
        case "embed":
            return parts.embedding
        case "position_embed":
            return parts.position_embedding
        case "attn_bias" | "cross_bias" | "mlp_bias":
            return bias(f"L{layer}.{asked.kind}")
        case "final_norm_bias" | "unembed_bias":
            return bias(asked.kind)
    return None
