"""The vector that travels along an edge of a graph, and why some edges have none."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import ArgumentError, UnsupportedReadingError
from ..lenses.query_key import row_of
from ..models.anatomy import upcast
from ..semantic.layer import Layer, part_of
from ..values.flow_graph import EDGE_KINDS, FlowGraph
from ..values.node import CROSS, OWN, Node, label
from ..values.trace import Trace

_SITES = {"resid_pre": "resid_pre", "resid_post": "resid_post", "attn": "attn_out", "mlp": "mlp_out"}
_IN_HEAD = "queries and keys are vectors of the head's own space, where no token has a direction; read the node instead"
_PROBABILITY = (
    "an attention probability goes along it, not a vector; what the head brings runs from the value to the head"
)
_NUMBER = (
    "one number goes along it, not a vector; what it multiplies is a row of weights, which is the node's own reading"
)
_NO_VECTOR = {
    ("query", "query"): _IN_HEAD,
    ("key", "key"): _IN_HEAD,
    ("attention", "key"): _PROBABILITY,
    ("attention", "value"): _PROBABILITY,
    ("mlp_in", "neuron_in"): _NUMBER,
    ("mlp_in", "gate"): _NUMBER,
    ("neuron", "neuron"): _NUMBER,
    ("head", "row"): _NUMBER,
    (
        "rest",
        "attn_rest",
    ): "it is what rows that are shown leave of a head; read the edge from the rest to attn instead",
}
"""(kind of edge, kind of its target) → why no vector travels along it."""
_NO_STATE = {
    "final_norm_bias": "it is added after the final norm, so the norm before the head must not see it",
    "unembed_bias": "it is added to the logits themselves, and lies in no direction of the residual stream",
}


@dataclass(frozen=True, eq=False)
class Carried:
    """What travels along an edge: a name for it, and the vector [d_model]."""

    name: str
    vector: Float[Tensor, "d_model"]


def carried(trace: Trace, graph: FlowGraph, edge: int) -> Carried:
    """The vector along an edge.

    Raises
    ------
    UnsupportedReadingError
        If no vector travels along it; the message says what does.
    ArgumentError
        If the graph does not say enough: it was filtered, or the trace has other layers.
    """
    kind, source, target = EDGE_KINDS[graph.kind[edge]], *_ends(graph, edge)
    if target.stack is not None:
        raise UnsupportedReadingError(
            f"edge {edge} ({label(source)} → {label(target)}) lies in the {target.stack}, whose vectors no head reads; what the decoder "
            "reads of it runs along the edges into its heads"
        )
    reason = _NO_VECTOR.get((kind, OWN.get(target.kind, target.kind))) or _NO_STATE.get(source.kind)
    if reason is not None:
        raise UnsupportedReadingError(
            f"edge {edge} ({label(source)} → {label(target)}, {kind}) cannot be read in vocabulary: {reason}"
        )
    if graph.info.method == "ff" and kind in ("attention", "residual"):
        raise UnsupportedReadingError(
            f"edge {edge} ({label(source)} → {label(target)}) is of method 'ff': it carries a part of the state together with "
            "what the MLP makes of that part, which a graph does not hold; build the graph with another method"
        )
    if kind in ("attention", "value") and source.kind not in ("value", "cross_value"):
        return _attended(trace, graph, edge, weighted=kind == "attention")
    if kind == "rest" and source.kind.endswith("_rest"):
        return _rest(trace, graph, edge)
    if kind == "embed":
        return _embedding(trace, source)
    if kind == "residual" and _is_with_itself(graph, target, trace):
        return _with_itself(trace, graph, edge)
    return _of_node(trace, source, int(graph.query_pos[edge]))


def _ends(graph: FlowGraph, edge: int) -> tuple[Node, Node]:
    return graph.nodes[graph.source[edge]], graph.nodes[graph.target[edge]]


def _layer(trace: Trace, layer: int | None, *, cross: bool = False) -> Layer:
    assert layer is not None
    row_of(trace, layer)  # refuses a layer that the trace does not keep
    return Layer(trace, layer, cross)


def _attended(trace: Trace, graph: FlowGraph, edge: int, *, weighted: bool) -> Carried:
    """What attention brings from one position: of one head, or of all together; the value alone where it is not weighted."""
    head, t, s = (int(getattr(graph, name)[edge]) for name in ("head", "query_pos", "key_pos"))
    source, target = _ends(graph, edge)
    crosses = source.stack is not None or target.kind in OWN
    layer = _layer(trace, int(graph.layer[edge]), cross=crosses)
    where = f"position {s} of the encoder" if crosses else f"position {s}"
    rows, amounts = layer.source_rows[:, s], layer.source_amounts(t)[:, s]
    if not weighted:
        return Carried(f"value of head {head} at {where}, through W_O", rows[head])
    if head >= 0:
        return Carried(f"what head {head} brings from {where}", amounts[head] * rows[head])
    return Carried(f"what all heads bring from {where}", amounts @ rows)


def _is_with_itself(graph: FlowGraph, target: Node, trace: Trace) -> bool:
    """Whether what a token keeps of itself through attention is on the residual edge: ALTI, in the step of attention."""
    after = "resid_mid" if trace.model.anatomy.cross is None else "resid_cross"
    return graph.info.options.get("parts") == "token" and (target.kind == after or trace.wiring == "parallel")


def _with_itself(trace: Trace, graph: FlowGraph, edge: int) -> Carried:
    source, _ = _ends(graph, edge)
    t, layer = int(graph.query_pos[edge]), _layer(trace, int(graph.layer[edge]))
    brought = layer.source_amounts(t)[:, t] @ layer.source_rows[:, t]
    return Carried("the state, and what attention brings from it", _of_node(trace, source, t).vector + brought)


def _embedding(trace: Trace, source: Node) -> Carried:
    """Token or position embedding, which are parts of the first state."""
    place = None if trace.position_embedding is None else upcast(trace.position_embedding[source.position])
    if source.kind == "position_embed":
        assert place is not None
        return Carried("position embedding", place)
    row_of(trace, 0)
    state = upcast(trace.resid_pre[0, source.position])
    return Carried("token embedding", state if place is None else state - place)


def _of_node(trace: Trace, node: Node, query_pos: int) -> Carried:
    """The node's own vector."""
    t = query_pos if node.position is None else node.position
    if node.kind in OWN:
        return _of_cross(trace, node, t)
    match node.kind:
        case "embed":
            row_of(trace, 0)
            return Carried("the state", upcast(trace.resid_pre[0, t]))
        case "resid_pre" | "resid_post" | "attn" | "mlp":
            name = {"attn": "what attention adds", "mlp": "what the MLP adds"}.get(node.kind, "the state")
            return Carried(name, upcast(trace.site(_SITES[node.kind])[_layer(trace, node.layer).row, t]))
        case "resid_cross":
            return Carried("the state", upcast(trace.resid_cross[_layer(trace, node.layer).row, t]))
        case "resid_mid":
            assert trace.resid_mid is not None
            return Carried("the state", upcast(trace.resid_mid[_layer(trace, node.layer).row, t]))
        case "final_norm":
            return Carried("the state after the final norm", _final(trace, t))
        case "attn_norm" | "mlp_norm":
            return Carried("the state after the norm", _normed(trace, node, t))
        case "attn_bias" | "mlp_bias" | "attn_norm_bias" | "mlp_norm_bias":
            return Carried("a bias", _bias(_layer(trace, node.layer), node.kind, t))
        case _:
            return _part(_layer(trace, node.layer), node, t)


def _of_cross(trace: Trace, node: Node, t: int) -> Carried:
    """The vector of a node of attention to the encoder, where it lies in the decoder's space."""
    layer, own = _layer(trace, node.layer, cross=True), replace(node, kind=OWN[node.kind])
    match own.kind:
        case "attn":
            return Carried("what attention to the encoder adds", upcast(layer.site("out")[layer.row, t]))
        case "attn_norm":
            return Carried(
                "the state after the norm", layer.normed("attention", t, upcast(layer.state_before[layer.row, t]))
            )
        case "attn_bias" | "attn_norm_bias":
            return Carried("a bias", _bias(layer, own.kind, t))
        case "value":
            found = _part(layer, own, t)
            return replace(found, name=f"what head {own.head} brings from position {own.index} of the encoder")
        case _:
            return _part(layer, own, t)


def _part(layer: Layer, node: Node, t: int) -> Carried:
    """A part of a sum: what a head, a source, a row or a neuron adds."""
    n = node.index
    match node.kind:
        case "head":
            amounts, rows = layer.source_amounts(t)[node.head], layer.source_rows[node.head]
            return Carried("what the head writes", amounts @ rows)
        case "value":
            amount, row = layer.source_amounts(t)[node.head, n], layer.source_rows[node.head, n]
            return Carried(f"what head {node.head} brings from position {n}", amount * row)
        case "row":
            return Carried("activation · row of W_O", layer.output_amounts(t)[n] * layer.output_rows[n])
        case "neuron":
            return Carried("activation · row of W_out", layer.neuron_amounts(t)[n] * layer.neuron_rows[n])
        case _:
            raise UnsupportedReadingError(
                f"{label(node)} is a node of kind {node.kind!r}, which has no vector of its own"
            )


def _normed(trace: Trace, node: Node, t: int) -> Tensor:
    layer = _layer(trace, node.layer)
    part = "attention" if node.kind == "attn_norm" else "mlp"
    middle = None if part == "attention" else trace.resid_mid
    return layer.normed(part, t, upcast((trace.resid_pre if middle is None else middle)[layer.row, t]))


def _final(trace: Trace, t: int) -> Tensor:
    norm = trace.model.anatomy.final_norm
    assert norm is not None
    row = _layer(trace, trace.n_layers - 1).row
    state = upcast(trace.resid_post[row, t])
    normed = norm.linear(state, norm.scale(state))
    return normed if norm.bias is None else normed + norm.bias


def _bias(layer: Layer, kind: str, t: int) -> Tensor:
    part = "attention" if kind.startswith("attn") else "mlp"
    bias = layer.state_bias(part) if kind.endswith("norm_bias") else layer.bias(part, t)
    assert bias is not None
    return bias


def _rest(trace: Trace, graph: FlowGraph, edge: int) -> Carried:
    """What of a sum is in no other node of the graph; the edge's own weight proves that nothing is missing."""
    source, target = _ends(graph, edge)
    crosses, asked = source.kind in OWN, source
    t, layer = source.position, _layer(trace, source.layer, cross=crosses)
    source = replace(source, kind=OWN.get(source.kind, source.kind))
    assert t is not None

    def beside(kind: str) -> list[int]:
        return _beside(graph, asked, CROSS.get(kind, kind) if crosses else kind)

    if source.kind == "mlp_rest":
        amounts, rows, shown = layer.neuron_amounts(t), layer.neuron_rows, beside("neuron")
    elif source.kind == "head_rest":
        amounts, rows = layer.source_amounts(t)[source.head], layer.source_rows[source.head]
        shown = beside("value")
    elif beside("row"):
        amounts, rows, shown = layer.output_amounts(t), layer.output_rows, beside("row")
    else:
        rows = torch.einsum("hs,hsd->hd", layer.source_amounts(t), layer.source_rows)
        amounts, shown = rows.new_ones(len(rows)), beside("head")
    amounts = amounts.clone()
    amounts[shown] = 0
    vector = amounts @ rows
    if abs(part_of(vector, _of_node(trace, target, t).vector) - float(graph.weight[edge])) > 1e-3:
        raise ArgumentError(
            f"edge {edge} stands for all that the graph does not show of {label(target)}, but some of what it did show was "
            "filtered away; ask for this edge of the graph as semantic_graph made it"
        )
    return Carried(f"the rest of {label(target)}", vector)


def _beside(graph: FlowGraph, rest: Node, kind: str) -> list[int]:
    """Numbers of the nodes of a kind at the same place: neurons, sources, rows of W_O, or heads."""
    here = (rest.layer, rest.position) if rest.head is None else (rest.layer, rest.position, rest.head)
    found = []
    for node in graph.nodes:
        place = (node.layer, node.position) if rest.head is None else (node.layer, node.position, node.head)
        number = node.head if kind == "head" else node.index
        if node.kind == kind and place == here and number is not None:
            found.append(number)
    return found
