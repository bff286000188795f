"""A chain of matrices between states as a flow graph: the common part of rollout and attention flow.

State (k, t) is token t after k blocks. Block l has at most two edges from (l, s) to (l + 1, t): ``attention``, and for s = t also
``residual``, which stands for all that stays at its position. Of several stacks a block is a step of their joint chain: positions
are those of all stacks, and a state that a step leaves alone is the same state after it, so that no edge is between.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, SupportsIndex

import numpy as np
from jaxtyping import Bool, Float, Int

from ..errors import ArgumentError, GraphTooLargeError
from ..methods.build import check_filters
from ..methods.node_readings import READ_AT_MOST, node_readings
from ..methods.origin import called, origin
from ..methods.weigh import edge_weights
from ..values.edge_weights import EdgeWeights
from ..values.flow_graph import EDGE_COLUMNS, EDGE_KINDS, FlowGraph
from ..values.graph_info import GraphInfo
from ..values.joint import Joint
from ..values.node import Node, NodeKind, label
from ..values.trace import Trace
from .attention import Blocks, layer_matrices, of_stacks

Readings = bool | Literal["auto"]


@dataclass(frozen=True, eq=False)
class Chain:
    """The blocks up to a start state.

    Attributes
    ----------
    blocks
        [query_pos, key_pos] of each block, as rollout and attention flow take them.
    stays
        [layer, position] the part of the diagonal that stays at its position without attention.
    info
        Where they come from; ``layers`` are those of the blocks, and ``position`` is that of the start.
    start
        The state above the last block.
    joint
        The steps of several stacks, which the blocks are then; None for one stack.
    """

    blocks: Blocks
    stays: Float[np.ndarray, "layer position"]
    info: GraphInfo
    start: Node
    joint: Joint | None = None

    @property
    def token(self) -> int:
        """Position of the start, of several stacks among those of all."""
        found = self.start.position if self.joint is None else self.joint.position_of(self.start)
        assert found is not None
        return found

    @property
    def count(self) -> int:
        """Number of positions."""
        return len(self.info.tokens) if self.joint is None else self.joint.count

    @property
    def enters(self) -> Bool[np.ndarray, "layer position"]:
        """[layer, position] whether a block writes to the state there; False only where another stack's step passes by."""
        if self.joint is None:
            return np.ones((len(self.blocks), self.count), bool)
        return self.joint.enters[: len(self.blocks)]

    @cached_property
    def written(self) -> Int[np.ndarray, "depth position"]:
        """[depth, position] how many blocks there are up to the last one that wrote to the state."""
        depth = np.arange(1, len(self.blocks) + 1)[:, None]
        at = np.where(self.enters, depth, 0)
        found: np.ndarray = np.vstack([np.zeros((1, self.count), int), np.maximum.accumulate(at)])
        return found

    def state(self, depth: int, position: int) -> Node:
        """Token ``position`` after ``depth`` blocks, the last of which wrote to it."""
        if self.joint is not None:
            if not depth:
                return self.joint.node("embed", None, None, position)
            kind: NodeKind = "resid_post" if self.joint.has_mlp[depth - 1, position] else "resid_mid"
            return self.joint.node(kind, depth - 1, None, position)
        first = self.info.layers[0]
        if depth:
            return Node("resid_post", layer=first + depth - 1, position=position)
        return Node("resid_pre", layer=first, position=position) if first else Node("embed", position=position)


def chain_to(
    weights_or_trace: Any,
    start: Node | None,
    position: SupportsIndex | None,
    method: str,
    residual: bool | None,
) -> Chain:
    """The blocks of a trace or of weights, up to a start state.

    Raises
    ------
    ArgumentError
        If nothing can be made of them, see :func:`flowgraph.algorithms.attention.layer_matrices`, or there is no such state.
    """
    is_usable = isinstance(weights_or_trace, EdgeWeights | Trace)
    if not is_usable:
        raise ArgumentError(
            f"expected a trace or the weights of edge_weights, got {type(weights_or_trace).__name__}: a graph names tokens and "
            "model; for arrays take attention_rollout, attention_flow or flow_edges"
        )
    of_all = of_stacks(weights_or_trace, method, residual)
    if isinstance(of_all, EdgeWeights) and of_all.joint is not None:
        return _joint_chain(of_all, weights_or_trace, start, position, residual)
    blocks = layer_matrices(weights_or_trace, method=method, residual=residual)
    if isinstance(weights_or_trace, Trace) and method == "attention":
        info = origin(weights_or_trace, "attention", "share")
        info = info if residual is None else replace(info, options={"residual": str(residual).lower()})
        sums = np.stack([block.sum(1) for block in layer_matrices(weights_or_trace, residual=False)])
        # On the diagonal of (A + I) / row sum the identity has 1 / row sum.
        stays = np.zeros(sums.shape) if residual is False else 1.0 / (sums + 1.0)
    else:
        is_trace = isinstance(weights_or_trace, Trace)
        weights: EdgeWeights = edge_weights(weights_or_trace, method=method) if is_trace else weights_or_trace
        info, stays = weights.info, _stays(weights)
    start = _start(info, start, position)
    assert start.layer is not None
    depth = start.layer - info.layers[0] + 1
    info = _at(info, weights_or_trace, start)
    return Chain(blocks[:depth], stays[:depth], info, start)


def _joint_chain(
    weights: EdgeWeights,
    weights_or_trace: Any,
    start: Node | None,
    position: SupportsIndex | None,
    residual: bool | None,
) -> Chain:
    """The steps of several stacks up to a start state."""
    joint, info = weights.joint, weights.info
    assert joint is not None
    blocks, stays = layer_matrices(weights, residual=residual), _stays(weights)
    if start is not None and start.stack is not None:
        start = _start(_stack_info(info, start), start, position)
        # The target belongs to another stack, and what it has does not run into this state.
        info = _without_target(info)
    else:
        start = _start(info, start, position)
        info = _at(info, weights_or_trace, start)
    row = joint.row_of(start)
    assert row is not None
    return Chain(blocks[: row + 1], stays[: row + 1], info, start, joint)


def _stack_info(info: GraphInfo, start: Node) -> GraphInfo:
    """The layers and tokens of the stack of a node in place of those of the last one."""
    found = next((one for one in info.stacks if one.name == start.stack), None)
    if found is None:
        raise ArgumentError(f"start={label(start)} is of a stack that there is not; expected one of these: "
                            f"{', '.join(repr(one.name) for one in info.stacks)}")  # fmt: skip
    return replace(info, layers=(0, found.layers), tokens=found.tokens)


def _stays(weights: EdgeWeights) -> Float[np.ndarray, "layer position"]:
    """The part of a state that stays at its position without attention, of all that enters the state."""
    assert weights.residual is not None
    along = np.abs(weights.residual).astype(np.float64)
    if weights.parallel and weights.mlp is not None:
        along += np.abs(weights.mlp)
    whole = along + np.abs(weights.attention_summed).sum(-1, dtype=np.float64)
    if weights.apart is not None:
        whole += weights.apart
    found: np.ndarray = np.divide(along, whole, out=np.zeros_like(along), where=whole > 0)
    return found


def _start(info: GraphInfo, start: Node | None, position: SupportsIndex | None) -> Node:
    """The start state. None is the last state at ``position``; without a position too, at the explained one."""
    (first, stop), count = info.layers, len(info.tokens)
    if start is None:
        index = info.position if position is None else operator.index(position)
        if not -count <= index < count:
            raise ArgumentError(f"position={index} is not one of the {count} tokens (0…{count - 1}, or negative)")
        return Node("resid_post", layer=stop - 1, position=index % count)
    if position is not None:
        raise ArgumentError(f"start={label(start)} has a position; leave position={operator.index(position)} out")
    if start.layer not in range(first, stop) or start.position not in range(count) or start.kind != "resid_post":
        raise ArgumentError(
            f"start={label(start)} is not a state that a block writes; expected resid_post of layers {first}…{stop - 1} at one "
            f"of {count} positions"
        )
    return start


def _at(info: GraphInfo, weights_or_trace: Any, start: Node) -> GraphInfo:
    """The origin of a graph that ends in a state. At another position than the explained one, it holds the prediction there."""
    assert start.layer is not None
    assert start.position is not None
    info = replace(info, layers=(info.layers[0], start.layer + 1))
    if start.position == info.position:
        return info
    info = replace(info, position=start.position)
    if (
        isinstance(weights_or_trace, Trace)
        and weights_or_trace.logits is not None
        and weights_or_trace.logits.ndim == 2
    ):
        there = replace(weights_or_trace, position=start.position)
        return replace(info, target_probability=origin(there, info.method, info.unit).target_probability)
    # The target belongs to another position, and nothing is known of this one.
    return _without_target(info)


def _without_target(info: GraphInfo) -> GraphInfo:
    return replace(info, target=None, target_token=None, target_probability=None, foil=None, foil_token=None)


def graph_of(
    chain: Chain,
    carried: Float[np.ndarray, "layer query_pos key_pos"],
    entered: Float[np.ndarray, "layer query_pos"],
    *,
    method: str,
    threshold: float,
    top_k: int | None,
    max_edges: int,
    **options: float | int | str,
) -> FlowGraph:
    """The graph of the flow over each edge; only edges that are strong enough.

    Parameters
    ----------
    chain
        The blocks and where they come from.
    carried
        Flow over each edge of the blocks, both kinds together.
    entered
        Flow into each state above a block; a share is a part of it.
    method, **options
        Name and options of the method.
    threshold, top_k, max_edges
        As for :func:`flowgraph.build_graph`, of what is carried instead of the share.

    Raises
    ------
    ArgumentError
        If a filter is out of its range.
    GraphTooLargeError
        If more than ``max_edges`` edges remain.
    """
    check_filters("token", threshold, None, top_k=top_k, max_edges=max_edges)
    by_kind = _by_kind(chain, carried)
    amounts = np.concatenate([part[part > 0] for part in by_kind.values()])
    keep = {kind: (part > 0) & (part >= threshold) for kind, part in by_kind.items()}
    count = sum(int(mask.sum()) for mask in keep.values())
    # Edges as large as the smallest of the first k all stay for now; the columns settle the ties by position.
    if top_k is not None and count > top_k:
        least = np.partition(amounts, len(amounts) - top_k)[len(amounts) - top_k]
        keep = {kind: mask & (by_kind[kind] >= least) for kind, mask in keep.items()}
        count = sum(int(mask.sum()) for mask in keep.values())
    if min(count, top_k or count) > max_edges:
        raise GraphTooLargeError(
            f"this graph has {count:,} edges, more than max_edges={max_edges:,}; set threshold=, the least that an edge must "
            "carry, or top_k=, start in an earlier layer, or raise max_edges="
        )
    columns = _columns(by_kind, keep, entered, chain, top_k)
    filters: dict[str, float | int | str] = {"threshold": threshold} if threshold else {}
    filters |= {} if top_k is None else {"top_k": top_k}
    value = float(entered[-1, chain.token])
    columns["flow"] = columns["weight"] / value if value else np.zeros(len(columns["weight"]))
    info = replace(
        chain.info, method=method, unit="share", level="token", options={**chain.info.options, **options},
        total_edges=len(amounts), total_share=float(np.count_nonzero(entered[chain.enters])),
        filters=filters | {"start": label(chain.start)}, flow_into=label(chain.start),
        provenance={
            **chain.info.provenance,
            "made_by": called(
                method.split(" of ")[0] + "_graph", method=chain.info.method, **(dict(chain.info.options) | options | {
                    "start": label(chain.start), "threshold": threshold or None, "top_k": top_k,
                }),
            ),
        },
        total_flow=float(amounts.sum()) / value if value else 0.0,
    )  # fmt: skip
    return _assembled(columns, chain, info)


def _by_kind(
    chain: Chain, carried: Float[np.ndarray, "layer query_pos key_pos"]
) -> dict[str, Float[np.ndarray, "layer query_pos key_pos"]]:
    """Flow over each kind of edge: on the diagonal each kind has its part of the capacity."""
    diagonal = np.stack([np.diagonal(block) for block in chain.blocks])
    # The diagonal is attention to oneself and the residual stream; flow splits over both in proportion.
    part = np.divide(chain.stays, diagonal, out=np.zeros_like(diagonal), where=diagonal > 0)
    at = np.arange(carried.shape[-1])
    residual = np.zeros_like(carried)
    # Rounding may put the part a digit above 1.
    residual[:, at, at] = carried[:, at, at] * np.minimum(part, 1.0)
    # What another stack's step passes by is on no edge.
    writes = chain.enters[..., None]
    return {"attention": (carried - residual) * writes, "residual": residual * writes}


def _columns(
    by_kind: dict[str, Float[np.ndarray, "layer query_pos key_pos"]],
    keep: dict[str, Bool[np.ndarray, "layer query_pos key_pos"]],
    entered: Float[np.ndarray, "layer query_pos"],
    chain: Chain,
    top_k: int | None,
) -> dict[str, Any]:
    """Columns of the kept edges by layer, kind and positions; of ties at the border of ``top_k`` the earlier stay."""
    count, pieces = entered.shape[1], []
    for kind, mask in keep.items():
        layer, query, key = np.nonzero(mask)
        weight = by_kind[kind][mask]
        number = np.full(len(weight), EDGE_KINDS.index(kind))
        pieces.append((layer, number, query, key, weight, weight / entered[layer, query]))
    layer, number, query, key, weight, share = (np.concatenate(part) for part in zip(*pieces, strict=True))
    order = np.lexsort((key, query, number, layer))
    if top_k is not None:
        # A stable sort of edges in graph order: of ties the earlier ones stay.
        order = np.sort(order[np.argsort(-weight[order], kind="stable")[:top_k]])
        order = order[np.lexsort((key[order], query[order], number[order], layer[order]))]
    layer, number, query, key = layer[order], number[order], query[order], key[order]
    none = np.full(len(order), -1)
    source, target = (chain.written[depth, at] * count + at for depth, at in ((layer, key), (layer + 1, query)))
    if chain.joint is None:
        layer = layer + chain.info.layers[0]
    else:
        layer, query, key = chain.joint.layer_of(layer, query), chain.joint.own(query), chain.joint.own(key)
    values = (
        source, target, number, layer, none, query, key, weight[order], share[order], np.zeros(len(order), bool)
    )  # fmt: skip
    return dict(zip(EDGE_COLUMNS, values, strict=True))


def _assembled(columns: dict[str, Any], chain: Chain, info: GraphInfo) -> FlowGraph:
    # The start is a node even if no edge reaches it.
    start = len(chain.blocks) * chain.count + chain.token
    used, numbered = np.unique(np.concatenate([columns["source"], columns["target"], [start]]), return_inverse=True)
    source, target = numbered[:-1].reshape(2, -1)
    nodes = tuple(chain.state(*divmod(code, chain.count)) for code in used.tolist())
    return FlowGraph(nodes=nodes, **(columns | {"source": source, "target": target}), info=info)


def with_node_readings(graph: FlowGraph, weights_or_trace: Any, readings: Readings) -> FlowGraph:
    """The graph with its nodes read in vocabulary, as :func:`flowgraph.build_graph` does.

    Raises
    ------
    ArgumentError
        If readings are asked for without a trace.
    """
    if readings is False or not isinstance(weights_or_trace, Trace):
        if readings is True:
            raise ArgumentError("readings=True needs a trace; weights alone do not hold the vectors")
        return graph
    if readings == "auto" and len(graph.nodes) > READ_AT_MOST:
        return graph
    return graph.with_readings(node_readings(weights_or_trace, graph.nodes))
