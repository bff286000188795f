"""From dense weights to a sparse graph: the one place that lays out the schema of nodes and edges.

States per position are ``embed@p`` (a window that starts later: ``L3.resid_pre@p``), ``L0.resid_mid@p``, ``L0.resid_post@p`` …;
resid_pre of a block *is* resid_post of the one before. Edges, at token level:

- ``attention``: previous state@s → resid_mid@t, ``residual``: previous state@t → resid_mid@t
- ``mlp_in``: resid_mid@t → mlp@t, ``mlp``: mlp@t → resid_post@t, ``residual``: resid_mid@t → resid_post@t
- ``unembed``: last state@position → logit

At head level attention ends in ``LlHh@t`` and ``head`` goes on from there. In parallel blocks everything enters resid_post.
Weights that end in the logit run straight to it, at head level through the head; a share is then the signed part of Σ|weights|
into the logit, or into the head.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from ..errors import ArgumentError, GraphTooLargeError
from ..graph import EDGE_COLUMNS, EDGE_KINDS, FlowGraph
from ..nodes import NODE_KINDS, Node
from ..recorded import Trace
from .node_readings import READ_AT_MOST, node_readings
from .weights import EdgeWeights

MAX_EDGES = 200_000
"""Graphs above this are refused unless ``max_edges=`` allows them."""

Columns = dict[str, Any]


def build_graph(
    trace_or_weights: Trace | EdgeWeights,
    *,
    method: str | None = None,
    level: Literal["token", "head"] = "token",
    threshold: float = 0.0,
    mass: float | None = None,
    top_k: int | None = None,
    layers: tuple[int, int] | None = None,
    max_edges: int = MAX_EDGES,
    readings: bool | Literal["auto"] = "auto",
) -> FlowGraph:
    """Build the flow graph of a trace, keeping every edge unless told otherwise.

    Filters apply in this order; edges that have no number under the method go as soon as any filter is set.

    Parameters
    ----------
    trace_or_weights
        A trace, or dense weights from :func:`flowgraph.edge_weights`.
    method
        Edge method for a trace; default ``"attention"``.
    level
        ``"token"``: heads taken together. ``"head"``: a node for every head.
    threshold
        Keep edges with |share| at or above this.
    mass
        Per target keep the fewest incoming edges whose Σ|share| reaches this part of the target's total, 0 < mass ≤ 1.
    top_k
        Keep the k largest |share| of the graph.
    layers
        First and one-past-last layer of the graph.
    max_edges
        Refuse a larger graph, naming its size.
    readings
        Whether nodes carry their reading in vocabulary. ``"auto"``: where there is a trace, up to 2,000 nodes.

    Raises
    ------
    GraphTooLargeError
        If more than ``max_edges`` edges remain.
    ArgumentError
        If an argument is out of its range.
    """
    _check(level, threshold, mass, top_k, max_edges)
    weights = _weights(trace_or_weights, method)
    if layers is not None:
        weights = _window(weights, layers)
    parts = _logit_parts(weights, level) if weights.ends_in_logit else _state_parts(weights, level)
    columns, total_edges, total_share = _collect(parts, threshold, mass, top_k, max_edges)
    filters: dict[str, float | int | str] = {"threshold": threshold} if threshold else {}
    filters |= {name: value for name, value in (("mass", mass), ("top_k", top_k)) if value is not None}
    info = replace(weights.info, level=level, total_edges=total_edges, total_share=total_share, filters=filters)
    graph = _assemble(columns, weights, replace(info))
    if readings is False or not isinstance(trace_or_weights, Trace):
        if readings is True:
            raise ArgumentError("readings=True needs a trace; weights alone do not hold the vectors")
        return graph
    if readings == "auto" and len(graph.nodes) > READ_AT_MOST:
        return graph
    return graph.with_readings(node_readings(trace_or_weights, graph.nodes))


def _check(level: str, threshold: float, mass: float | None, top_k: int | None, max_edges: int) -> None:
    if level not in ("token", "head"):
        raise ArgumentError(f"level={level!r} is not known; expected 'token' or 'head'")
    if not 0.0 <= threshold <= 1.0:
        raise ArgumentError(f"threshold={threshold} must lie between 0 and 1: it is compared with |share|")
    if mass is not None and not 0.0 < mass <= 1.0:
        raise ArgumentError(f"mass={mass} must lie above 0 and at most at 1")
    if top_k is not None and top_k < 1:
        raise ArgumentError(f"top_k={top_k} must be at least 1")
    if max_edges < 1:
        raise ArgumentError(f"max_edges={max_edges} must be at least 1")


def _weights(trace_or_weights: Trace | EdgeWeights, method: str | None) -> EdgeWeights:
    if isinstance(trace_or_weights, EdgeWeights):
        if method not in (None, trace_or_weights.info.method):
            raise ArgumentError(
                f"method={method!r}, but these weights are {trace_or_weights.info.method!r}; leave method out"
            )
        return trace_or_weights
    from . import edge_weights

    return edge_weights(trace_or_weights, method=method or "attention")


def _window(weights: EdgeWeights, layers: tuple[int, int]) -> EdgeWeights:
    """The weights of some of the layers."""
    first, stop = weights.info.layers
    if not first <= layers[0] < layers[1] <= stop:
        raise ArgumentError(f"layers={layers} is not a window within {first}…{stop} (first, one past last)")
    rows = slice(layers[0] - first, layers[1] - first)
    cut: dict[str, Any] = {name: value[rows] for name, value in vars(weights).items() if isinstance(value, np.ndarray)}
    ends = weights.ends_in_logit or layers[1] == weights.info.total_layers
    return replace(weights, **cut, info=replace(weights.info, layers=layers), unembed=weights.unembed if ends else None)


class _Codes:
    """Nodes as integers while edges are still columns: kind, layer, head and position in one number."""

    def __init__(self, weights: EdgeWeights) -> None:
        _, h, _, t = weights.attention.shape
        self.sizes = (len(NODE_KINDS), weights.info.total_layers + 1, h + 1, t + 1)
        self.weights = weights

    def of(self, kind: str, layer: Any = -1, head: Any = -1, position: Any = -1) -> Any:
        """Code of nodes; −1 stands for None."""
        parts = (NODE_KINDS.index(kind), np.asarray(layer) + 1, np.asarray(head) + 1, np.asarray(position) + 1)
        code = np.asarray(parts[0])
        for part, size in zip(parts[1:], self.sizes[1:], strict=True):
            code = code * size + part
        return code

    def state(self, layer: int, position: Any) -> Any:
        """The state that enters a block."""
        first = self.weights.info.layers[0]
        if layer > first:
            return self.of("resid_post", layer - 1, -1, position)
        return self.of("embed", -1, -1, position) if first == 0 else self.of("resid_pre", layer, -1, position)

    def node(self, code: int) -> Node:
        """The node of a code."""
        fields = []
        for size in reversed(self.sizes[1:]):
            code, part = divmod(code, size)
            fields.append(None if part == 0 else int(part) - 1)
        position, head, layer = fields
        info = self.weights.info
        if NODE_KINDS[code] == "logit":
            token = info.target_token if info.foil_token is None else f"{info.target_token} − {info.foil_token}"
            return Node("logit", index=info.target, token=token)
        return Node(NODE_KINDS[code], layer=layer, head=head, position=position)  # type: ignore[arg-type]


def _edges(
    kind: str, source: Any, target: Any, weight: Any, share: Any, *, layer: int = -1, head: Any = -1, query: Any = -1,
    key: Any = -1, structural: bool = False,
) -> Columns:  # fmt: skip
    """Columns of some edges of one kind, everything broadcast to one length."""
    values = {
        "source": source, "target": target, "kind": EDGE_KINDS.index(kind), "layer": layer, "head": head,
        "query_pos": query, "key_pos": key, "weight": weight, "share": share, "structural": structural,
    }  # fmt: skip
    arrays = np.broadcast_arrays(*map(np.atleast_1d, values.values()))
    types = {"weight": np.float64, "share": np.float64, "structural": bool}
    return {name: a.astype(types.get(name, np.int64)) for name, a in zip(values, arrays, strict=True)}


def _state_parts(weights: EdgeWeights, level: str) -> Iterator[Columns]:
    """Edges of each layer, of methods whose edges run from state to state."""
    codes = _Codes(weights)
    first, stop = weights.info.layers
    for row, layer in enumerate(range(first, stop)):
        pieces = _attention_edges(weights, codes, row, layer, level)
        pieces += _residual_and_mlp_edges(weights, codes, row, layer)
        yield _joined(pieces)
    if weights.unembed is not None:
        last = codes.of("resid_post", stop - 1, -1, weights.info.position)
        yield _edges("unembed", last, codes.of("logit"), weights.unembed, 1.0, query=weights.info.position)


def _attention_edges(weights: EdgeWeights, codes: _Codes, row: int, layer: int, level: str) -> list[Columns]:
    """Attention into the state (token level), or into heads and from there into the state."""
    positions = np.asarray(weights.query_positions)
    into, scale_in = _entry(weights)
    assert scale_in is not None
    if level == "token":
        q, s = np.nonzero(weights.attention_summed[row])
        weight = weights.attention_summed[row][q, s]
        target = codes.of(into, layer, -1, positions[q])
        return [
            _edges("attention", codes.state(layer, s), target, weight, weight * scale_in[row, q], layer=layer,
                   query=positions[q], key=s)
        ]  # fmt: skip
    assert weights.scale_head is not None
    h, q, s = np.nonzero(weights.attention[row])
    weight = weights.attention[row][h, q, s].astype(np.float64)
    head = codes.of("head", layer, h, positions[q])
    reading = _edges("attention", codes.state(layer, s), head, weight, weight * weights.scale_head[row, h, q],
                     layer=layer, head=h, query=positions[q], key=s)  # fmt: skip
    h, q = np.nonzero(weights.head[row])
    weight = weights.head[row][h, q]
    writing = _edges("head", codes.of("head", layer, h, positions[q]), codes.of(into, layer, -1, positions[q]), weight,
                     weight * scale_in[row, q], layer=layer, head=h, query=positions[q], key=positions[q])  # fmt: skip
    return [reading, writing]


def _residual_and_mlp_edges(weights: EdgeWeights, codes: _Codes, row: int, layer: int) -> list[Columns]:
    at = np.asarray(weights.query_positions)
    into, scale_in = _entry(weights)
    assert weights.residual is not None
    assert scale_in is not None
    assert weights.scale_post is not None
    place: dict[str, Any] = {"layer": layer, "query": at, "key": at}
    before, after, mlp = codes.state(layer, at), codes.of("resid_post", layer, -1, at), codes.of("mlp", layer, -1, at)
    entry = codes.of(into, layer, -1, at)
    mlp_source = before if weights.parallel else entry
    pieces = [_edges("residual", before, entry, weights.residual[row], weights.residual[row] * scale_in[row], **place)]
    if weights.mlp is None or weights.mlp_in is None:
        pieces.append(_edges("mlp_in", mlp_source, mlp, 0.0, 0.0, structural=True, **place))
        pieces.append(_edges("mlp", mlp, after, 0.0, 0.0, structural=True, **place))
    else:
        pieces.append(_edges("mlp_in", mlp_source, mlp, weights.mlp_in[row], 1.0, **place))
        share = weights.mlp[row] * weights.scale_post[row]
        pieces.append(_edges("mlp", mlp, after, weights.mlp[row], share, **place))
    if not weights.parallel:
        assert weights.residual_mlp is not None
        share = weights.residual_mlp[row] * weights.scale_post[row]
        pieces.append(_edges("residual", entry, after, weights.residual_mlp[row], share, **place))
    return pieces


def _entry(weights: EdgeWeights) -> tuple[str, np.ndarray | None]:
    """Kind of state that attention enters, and the scale of what enters it."""
    return ("resid_post", weights.scale_post) if weights.parallel else ("resid_mid", weights.scale_mid)


def _logit_parts(weights: EdgeWeights, level: str) -> Iterator[Columns]:
    """All edges that end in the logit, in one part, since they share one target."""
    codes = _Codes(weights)
    at = weights.query_positions[0]
    logit = codes.of("logit")
    pieces = []
    through = []
    first, stop = weights.info.layers
    for row, layer in enumerate(range(first, stop)):
        place: dict[str, Any] = {"layer": layer, "query": at}
        if level == "token":
            s = np.flatnonzero(weights.attention_summed[row, 0])
            w = weights.attention_summed[row, 0, s]
            pieces.append(_edges("attention", codes.state(layer, s), logit, w, w, key=s, **place))
        else:
            h, s = np.nonzero(weights.attention[row, :, 0])
            w = weights.attention[row, h, 0, s]
            share = w / np.abs(weights.attention[row, :, 0]).sum(-1)[h]
            head = codes.of("head", layer, h, at)
            through.append(_edges("attention", codes.state(layer, s), head, w, share, head=h, key=s, **place))
            h = np.arange(weights.head.shape[1])
            w = weights.head[row, :, 0]
            pieces.append(_edges("head", codes.of("head", layer, h, at), logit, w, w, head=h, key=at, **place))
        assert weights.mlp is not None
        w = weights.mlp[row]
        pieces.append(_edges("mlp", codes.of("mlp", layer, -1, at), logit, w, w, key=at, **place))
    pieces += _further_parts(weights, codes, logit, at)
    into_logit = _joined(pieces)
    whole = np.abs(into_logit["weight"]).sum()
    into_logit["share"] = into_logit["weight"] / whole if whole > 0 else np.zeros_like(into_logit["weight"])
    yield _joined([*through, into_logit])


def _further_parts(weights: EdgeWeights, codes: _Codes, logit: Any, at: int) -> list[Columns]:
    """Embedding, position embedding and biases, unless a window leaves them out."""
    first, stop = weights.info.layers
    pieces = []
    for kind, weight in (("embed", weights.embedding), ("position_embed", weights.position_embedding)):
        if weight is not None and first == 0:
            pieces.append(_edges("embed", codes.of(kind, -1, -1, at), logit, weight, weight, query=at, key=at))
    for name, weight in weights.biases.items():
        layer_name, dot, kind = name.partition(".")
        layer = int(layer_name[1:]) if dot else -1
        if not dot or first <= layer < stop:
            source = codes.of(kind if dot else name, layer)
            pieces.append(_edges("bias", source, logit, weight, weight, layer=layer, query=at))
    return pieces


def _joined(pieces: list[Columns]) -> Columns:
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in EDGE_COLUMNS}


def _collect(
    parts: Iterator[Columns], threshold: float, mass: float | None, top_k: int | None, max_edges: int
) -> tuple[Columns, int, float]:
    """Filter part by part, so that a graph that is too large is counted and never held."""
    filtering = bool(threshold) or mass is not None or top_k is not None
    kept: list[Columns] = []
    count, total_edges, total_share = 0, 0, 0.0
    for part in parts:
        total_edges += int((~part["structural"]).sum())
        total_share += float(np.abs(part["share"]).sum())
        if filtering:
            part = _taken(part, ~part["structural"] & (np.abs(part["share"]) >= threshold))
        if mass is not None:
            part = _taken(part, _mass_mask(part["target"], part["share"], mass))
        if top_k is not None:
            part = _strongest(part, top_k)
        count += len(part["share"])
        if count <= max_edges or top_k is not None:
            kept.append(part)
    columns = _joined(kept) if kept else _edges("bias", [], [], [], [])
    if top_k is not None:
        columns = _strongest(columns, top_k)
        count = len(columns["share"])
    if count > max_edges:
        raise GraphTooLargeError(
            f"this graph has {count:,} edges, more than max_edges={max_edges:,}; set threshold=, mass= or top_k=, a window "
            "layers=(first, stop), level='token', or raise max_edges="
        )
    return columns, total_edges, total_share


def _taken(part: Columns, mask: np.ndarray) -> Columns:
    return {name: column[mask] for name, column in part.items()}


def _strongest(part: Columns, k: int) -> Columns:
    """The k edges with the largest |share|, in their old order; ties go to the earlier edge."""
    order = np.argsort(-np.abs(part["share"]), kind="stable")[:k]
    return _taken(part, np.sort(order))


def _mass_mask(target: np.ndarray, share: np.ndarray, mass: float) -> np.ndarray:
    """Per target, the fewest edges whose Σ|share| reaches ``mass`` of that target's Σ|share|."""
    size = np.abs(share)
    if mass == 1.0 or not len(size):
        positive: np.ndarray = size > 0
        return positive
    order = np.lexsort((-size, target))
    grouped = target[order]
    starts = np.flatnonzero(np.r_[True, grouped[1:] != grouped[:-1]])
    lengths = np.diff(np.r_[starts, len(order)])
    totals = np.repeat(np.add.reduceat(size[order], starts), lengths)
    # Parts of their own target's total, so that a running sum over all targets keeps its digits.
    part = np.divide(size[order], totals, out=np.zeros(len(order)), where=totals > 0)
    running = np.cumsum(part)
    before = running - part - np.repeat(running[starts] - part[starts], lengths)
    mask = np.zeros(len(share), bool)
    # An edge is needed as long as those before it have not reached the mass; rounding must not ask for one more.
    mask[order] = (before < mass - 1e-10) & (part > 0)
    return mask


def _assemble(columns: Columns, weights: EdgeWeights, info: Any) -> FlowGraph:
    codes = _Codes(weights)
    used, numbered = np.unique(np.concatenate([columns["source"], columns["target"]]), return_inverse=True)
    half = len(columns["source"])
    columns = columns | {"source": numbered[:half], "target": numbered[half:]}
    return FlowGraph(nodes=tuple(codes.node(int(code)) for code in used), **columns, info=info)
