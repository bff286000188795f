"""A circuit as a graph: nodes without positions, edges with the input that they end in and their contribution."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from ..interventions.network import LAST, Into
from ..values.flow_graph import EDGE_KINDS, FlowGraph
from ..values.graph_info import GraphInfo, StackInfo
from ..values.node import Node
from .backward import Found
from .pairs import Search

_KINDS: Mapping[Into, str] = {"q": "query", "k": "key", "v": "value", "mlp": "mlp_in", "logits": "unembed"}


def circuit_graph(
    search: Search,
    found: Found,
    method: str,
    *,
    notes: Mapping[str, float | int | str],
    threshold: float,
    top_k: int | None,
) -> FlowGraph:
    """The graph of the chosen edges, the strongest first."""
    places = np.argwhere(found.chosen)
    order = np.argsort(-np.abs(found.effects[found.chosen]), kind="stable")[:top_k]
    sources, receivers = places[order].T
    used = _nodes(search, sources, receivers)
    number = {node: n for n, node in enumerate(used)}
    ends = [search.receivers[r] for r in receivers]
    shares = _shares(search, found.effects)
    nowhere = np.full(len(order), -1)
    filters: dict[str, float | int | str] = {"threshold": threshold}
    return FlowGraph(
        nodes=used,
        source=np.array([number[search.sources[s]] for s in sources]),
        target=np.array([number[node] for node, _ in ends]),
        kind=np.array([EDGE_KINDS.index(_KINDS[into]) for _, into in ends]),
        layer=np.array([_or_none(node.layer) for node, _ in ends]),
        head=np.array([_or_none(node.head) for node, _ in ends]),
        query_pos=nowhere,
        key_pos=nowhere.copy(),
        # An effect is the change when the edge is cut; a contribution is its negative.
        weight=-found.effects[sources, receivers],
        share=shares[sources, receivers],
        structural=np.zeros(len(order), dtype=bool),
        info=_info(search, method, notes, filters if top_k is None else filters | {"top_k": top_k}, found, shares),
    )


def _nodes(search: Search, sources: np.ndarray, receivers: np.ndarray) -> tuple[Node, ...]:
    """Nodes that edges touch, in the order of computation, stack by stack; groups of keys and values before their layer's heads."""
    used = {search.sources[s] for s in sources} | {search.receivers[r][0] for r in receivers}
    kinds = ("embed", "kv_group", "head", "cross_kv_group", "cross_head", "mlp", "logits")
    towers = list(search.network.towers)

    def depth(node: Node) -> tuple[int, float, int, int]:
        layer = node.layer if node.layer is not None else -1 if node.kind == "embed" else math.inf
        return towers.index(node.stack or LAST), layer, kinds.index(node.kind), node.head or 0

    return tuple(sorted(used, key=depth))


def _shares(search: Search, effects: Float[np.ndarray, "source receiver"]) -> Float[np.ndarray, "source receiver"]:
    """Contribution of an edge as a part of Σ|contribution| of all edges into the same node whose effect is known."""
    known = -np.nan_to_num(effects)
    nodes = {node: n for n, node in enumerate(dict.fromkeys(node for node, _ in search.receivers))}
    owner = np.array([nodes[node] for node, _ in search.receivers])
    # All receivers of a node together: its queries, keys and values share one whole.
    into = np.bincount(owner, weights=np.abs(known).sum(0), minlength=len(nodes))[owner]
    shares: np.ndarray = np.divide(known, into, out=np.zeros_like(known), where=into > 0)
    return shares


def _info(
    search: Search,
    method: str,
    notes: Mapping[str, float | int | str],
    filters: Mapping[str, float | int | str],
    found: Found,
    shares: np.ndarray,
) -> GraphInfo:
    loaded, layers = search.loaded, len(search.loaded.anatomy.blocks)
    unit = search.metric.unit or search.metric.name
    return GraphInfo(
        method=f"circuit: {method}",
        unit=unit,
        level="head",
        model=loaded.name,
        tokens=(),
        layers=(0, layers),
        total_layers=layers,
        position=0,
        total_edges=int((~np.isnan(found.effects)).sum()),
        total_share=float(np.abs(shares).sum()),
        filters=filters,
        options=notes,
        stacks=tuple(
            StackInfo(tower.name, (), len(tower.anatomy.blocks))
            for tower in search.network.towers.values()
            if tower.stack
        ),
    )


def _or_none(number: int | None) -> int:
    """−1 stands for None in the columns of a graph."""
    return -1 if number is None else number
