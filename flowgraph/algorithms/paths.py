"""Flow into one node, and the strongest paths that carry it.

Shares say what a node's inputs contribute to it. Followed against the arrows from a start node, as a rule the
logit, their products say what each edge contributes to the start. All numbers here are of |share|; the sign
of a signed method stays on the graph.

Edges are handled in *waves*: the edges into nodes whose every outgoing edge was handled before. A transformer
has few waves (some per layer) and many edges in each, so a wave is one vectorised step.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float, Int

from ..errors import ArgumentError
from ..graph import EDGE_COLUMNS, EDGE_KINDS, FlowGraph
from ..nodes import Node, label

_Waves = list[Int[np.ndarray, "_"]]

_STATES = ("embed", "resid_pre", "resid_mid", "resid_post")


@dataclass(frozen=True, slots=True)
class Path:
    """One path through a flow graph, in the direction of the arrows.

    Attributes
    ----------
    nodes
        The nodes, first to last; one more than there are edges.
    edges
        Index of each edge in the graph's columns.
    strength
        Product of |share| along the edges, in 0…1 where shares are.
    kinds
        Kind of each edge, one of :data:`flowgraph.graph.EDGE_KINDS`; empty where it is not known.

    Notes
    -----
    ``str(path)`` writes the labels with arrows, ``embed@3 → L23H4@7 → logit[ Tokyo]``, and leaves residual states out
    where they add nothing: a state ``resid_…@p`` is left out if the path came to it from a node of the same position by
    an edge that is not attention. So a label that follows a node of position p was reached along the residual stream of
    p, and a state is written only where attention brought the path there (from another position, or from its own), or
    at either end. ``nodes`` always holds every node.
    """

    nodes: tuple[Node, ...]
    edges: tuple[int, ...]
    strength: float
    kinds: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.nodes) != len(self.edges) + 1:
            raise ArgumentError(
                f"a path of {len(self.edges)} edges has {len(self.edges) + 1} nodes, not {len(self.nodes)}"
            )
        if self.kinds and len(self.kinds) != len(self.edges):
            raise ArgumentError(f"Path.kinds has {len(self.kinds)} entries for {len(self.edges)} edges")

    def __str__(self) -> str:
        kinds = self.kinds or ("",) * len(self.edges)
        steps = zip(pairwise(self.nodes), kinds, strict=True)
        middle = [node for (before, node), kind in steps if not _is_passing(before, node, kind)]
        if len(self.nodes) > 1 and (not middle or middle[-1] != self.nodes[-1]):
            middle.append(self.nodes[-1])
        return " → ".join(label(node) for node in (self.nodes[0], *middle))


def connected_flow(graph: FlowGraph, start: Node | None = None) -> Float[np.ndarray, "E"]:
    """Follow the shares against the arrows: the part of ``start`` that each edge carries.

    The start has flow 1. An edge has |share| × the flow of its target, and a node the sum of the flow of its
    outgoing edges. Where the shares into every node sum to 1, every cut between the inputs and the start
    therefore carries 1.

    Parameters
    ----------
    graph
        An acyclic graph.
    start
        Node whose inputs are followed. None: the logit node (of ``info.target``, if there are several), or in
        a graph without one the last residual state of ``info.position``.

    Returns
    -------
    [E] flow, a share of the start; 0 on structural edges and on edges that do not lead to the start.

    Raises
    ------
    ArgumentError
        If the graph has a cycle, or ``start`` is not in it or cannot be chosen.
    """
    return _flow_and_levels(graph, start, _waves(graph))[0]


def critical_levels(graph: FlowGraph, start: Node | None = None) -> Float[np.ndarray, "E"]:
    """Find the smallest flow on the best way from each edge to ``start``.

    The level of an edge is the largest value, over all its routes to the start, of the smallest
    :func:`connected_flow` on the route, the edge included (the widest path). It is at most the edge's own
    flow, and never larger than the level of some edge that leads on to the start; so the edges above any
    level hang together with the start.

    Parameters
    ----------
    graph, start
        As for :func:`connected_flow`.

    Returns
    -------
    [E] level, a share of the start; 0 where the flow is 0.

    Raises
    ------
    ArgumentError
        As for :func:`connected_flow`.
    """
    return _flow_and_levels(graph, start, _waves(graph))[1]


def keep_strongest(
    graph: FlowGraph,
    *,
    mass: float | None = 0.8,
    max_edges: int | None = 300,
    start: Node | None = None,
) -> FlowGraph:
    """Keep the strongest part of a graph that hangs together with ``start``.

    Edges are taken by decreasing :func:`critical_levels` (ties: the edge nearer to the start first, then the
    order of the graph), until they hold ``mass`` of the summed :func:`connected_flow` or are ``max_edges``.
    Every such prefix is connected: each edge has a way to the start over edges taken before it. Edges without
    flow, and so structural edges, are never taken.

    Parameters
    ----------
    graph
        An acyclic graph.
    mass
        Share of the summed flow to keep, above 0 and at most 1; None keeps every edge that has flow.
    max_edges
        Largest number of edges; None for no limit.
    start
        As for :func:`connected_flow`.

    Returns
    -------
    The graph of the kept edges, in the order they were taken. ``info.filters`` gains ``path_mass`` (if ``mass`` is
    given), ``max_edges`` only if that limit cut away edges that ``mass`` would have kept, and always ``kept_flow``: the
    kept share of the summed flow of ``graph``, 0 where nothing flows.

    Raises
    ------
    ArgumentError
        If ``mass`` or ``max_edges`` is out of range; else as for :func:`connected_flow`.
    """
    if mass is not None and not 0 < mass <= 1:
        raise ArgumentError(f"mass={mass} must be above 0 and at most 1, or None to keep every edge that has flow")
    if max_edges is not None and max_edges < 1:
        raise ArgumentError(f"max_edges={max_edges} must be 1 or more, or None for no limit")
    waves = _waves(graph)
    flow, levels = _flow_and_levels(graph, start, waves)
    order = _by_level(levels, waves)
    reached = np.cumsum(flow[order])
    total = float(reached[-1]) if len(order) else 0.0
    wanted = len(order) if mass is None else min(int(np.searchsorted(reached, mass * total)) + 1, len(order))
    count = wanted if max_edges is None else min(wanted, max_edges)
    filters: dict[str, float | int | str] = {}
    if mass is not None:
        filters["path_mass"] = mass
    if max_edges is not None and count < wanted:
        filters["max_edges"] = max_edges
    filters["kept_flow"] = float(reached[count - 1]) / total if total else 0.0
    return graph.keep(order[:count], **filters)


def strongest_paths(
    graph: FlowGraph,
    source: Node | None = None,
    target: Node | None = None,
    k: int = 10,
) -> list[Path]:
    """List the k paths with the largest product of |share|.

    Exact: each node keeps the k best paths that reach it, merged from its incoming edges with a heap. Time
    O(E + N·k·log E), memory O(N·k).

    Parameters
    ----------
    graph
        An acyclic graph. Two edges between the same nodes make two paths.
    source
        Where paths begin. None: any node that no weighted edge enters, such as the embeddings and the biases.
    target
        Where paths end. None: as ``start`` of :func:`connected_flow`.
    k
        Largest number of paths.

    Returns
    -------
    At most k paths, the strongest first; equally strong ones by the index of their last edge, then of the one before it,
    and so on. Paths have at least one edge, and a strength above 0: structural edges and edges of share 0 carry none.

    Raises
    ------
    ArgumentError
        If ``k`` is below 1, a node is not in the graph, or the graph has a cycle.
    """
    if k < 1:
        raise ArgumentError(f"k={k} must be 1 or more")
    waves = _waves(graph)
    if not graph.nodes and source is None and target is None:
        return []
    end = _start_index(graph, target, "target")
    origins = _origins(graph) if source is None else [_index_of(graph, source, "source")]
    if end in origins:
        return []
    best = _k_best(graph, origins, end, waves, k)
    return [_trace_back(graph, best, rank, end) for rank in range(len(best.get(end, ())))]


def merge_parallel(graph: FlowGraph) -> FlowGraph:
    """Take edges between the same two nodes together.

    Residual and self-attention carry the same state to the same place, so that in 30 layers 2³⁰ paths differ in nothing
    a reader would call a path. In the merged graph they are one edge: weight and share are summed, and it counts as
    ``residual`` if one of them is, otherwise as the strongest of them. Structural edges are left out.
    """
    kept = np.flatnonzero(~graph.structural)
    if not len(kept):
        return graph.keep(kept)
    pair = graph.source[kept].astype(np.int64) * len(graph.nodes) + graph.target[kept]
    # The edge that speaks for a pair comes first: a residual one, then the strongest.
    is_residual = graph.kind[kept] == EDGE_KINDS.index("residual")
    ordered = kept[np.lexsort((-np.abs(graph.share[kept]), ~is_residual, pair))]
    pair = graph.source[ordered].astype(np.int64) * len(graph.nodes) + graph.target[ordered]
    first = np.flatnonzero(np.r_[True, pair[1:] != pair[:-1]])
    columns = {name: getattr(graph, name)[ordered[first]].copy() for name in EDGE_COLUMNS}
    for name in ("weight", "share"):
        columns[name] = np.add.reduceat(getattr(graph, name)[ordered], first)
    return replace(graph, **columns)


# (strength, last edge or -1 where the path begins, rank of the rest among the paths of that edge's source)
_Entry = tuple[float, int, int]


def _k_best(graph: FlowGraph, origins: Sequence[int], end: int, waves: _Waves, k: int) -> dict[int, list[_Entry]]:
    """Find the k best paths from any origin into each node that leads to ``end``, best first."""
    share = _strength(graph)
    leads = _leads_to(graph, end, share, waves)
    best: dict[int, list[_Entry]] = {n: [(1.0, -1, 0)] for n in origins}
    for wave in reversed(waves):
        edges = wave[leads[graph.target[wave]] & (share[wave] > 0)]
        by_target: dict[int, list[tuple[int, int, float]]] = {}
        columns = (edges, graph.target[edges], graph.source[edges], share[edges])
        for e, node, before, strength in zip(*(column.tolist() for column in columns), strict=True):
            if before in best:
                by_target.setdefault(node, []).append((e, before, strength))
        for node, incoming in by_target.items():
            best[node] = _merge(incoming, best, k)
    return best


def _merge(incoming: Sequence[tuple[int, int, float]], best: dict[int, list[_Entry]], k: int) -> list[_Entry]:
    """Merge the paths that arrive over all ``(edge, source, share)`` into the k best."""
    heap = [(-best[before][0][0] * share, e, 0, before, share) for e, before, share in incoming]
    heapq.heapify(heap)
    merged: list[_Entry] = []
    while heap and len(merged) < k and heap[0][0] < 0:
        negative, e, rank, before, share = heap[0]
        merged.append((-negative, e, rank))
        if rank + 1 < len(best[before]):
            heapq.heapreplace(heap, (-best[before][rank + 1][0] * share, e, rank + 1, before, share))
        else:
            heapq.heappop(heap)
    return merged


def _trace_back(graph: FlowGraph, best: dict[int, list[_Entry]], rank: int, end: int) -> Path:
    strength, e, previous = best[end][rank]
    edges = []
    while e >= 0:
        edges.append(e)
        _, e, previous = best[int(graph.source[e])][previous]
    edges.reverse()
    nodes = [graph.nodes[graph.source[edges[0]]], *(graph.nodes[graph.target[e]] for e in edges)]
    kinds = tuple(EDGE_KINDS[graph.kind[e]] for e in edges)
    return Path(nodes=tuple(nodes), edges=tuple(edges), strength=strength, kinds=kinds)


def _waves(graph: FlowGraph) -> _Waves:
    """Split all edges into waves, last nodes first: an edge comes after every edge that leaves its target."""
    by_target = np.argsort(graph.target, kind="stable")
    degree = np.bincount(graph.target, minlength=len(graph.nodes))
    first = np.cumsum(degree) - degree
    waiting = np.bincount(graph.source, minlength=len(graph.nodes))
    ready = np.flatnonzero(waiting == 0)
    waves = []
    handled = 0
    while len(ready):
        handled += len(ready)
        counts = degree[ready]
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        edges = by_target[np.repeat(first[ready], counts) + within]
        if len(edges):
            waves.append(edges)
        sources = graph.source[edges]
        np.subtract.at(waiting, sources, 1)
        ready = np.unique(sources[waiting[sources] == 0])
    if handled < len(graph.nodes):
        stuck = graph.nodes[int(np.flatnonzero(waiting)[0])]
        raise ArgumentError(
            f"the graph has a cycle, through {label(stuck)} or after it; flow is defined only where every "
            "edge goes from an earlier to a later place of the forward pass"
        )
    return waves


def _flow_and_levels(
    graph: FlowGraph, start: Node | None, waves: _Waves
) -> tuple[Float[np.ndarray, "E"], Float[np.ndarray, "E"]]:
    share = _strength(graph)
    node_flow, node_level = np.zeros(len(graph.nodes)), np.zeros(len(graph.nodes))
    flow, levels = np.zeros(len(graph)), np.zeros(len(graph))
    if graph.nodes or start is not None:
        n = _start_index(graph, start, "start")
        node_flow[n], node_level[n] = 1.0, np.inf
    for edges in waves:
        sources, targets = graph.source[edges], graph.target[edges]
        flow[edges] = share[edges] * node_flow[targets]
        levels[edges] = np.minimum(flow[edges], node_level[targets])
        np.add.at(node_flow, sources, flow[edges])
        np.maximum.at(node_level, sources, levels[edges])
    return flow, levels


def _by_level(levels: Float[np.ndarray, "E"], waves: _Waves) -> Int[np.ndarray, "e"]:
    """Order edges above 0 by decreasing level; ties by wave, so that an edge never precedes its way on."""
    wave_of = np.zeros(len(levels), dtype=np.int64)
    for n, edges in enumerate(waves):
        wave_of[edges] = n
    order = np.lexsort((wave_of, -levels))
    return order[levels[order] > 0]


def _leads_to(graph: FlowGraph, end: int, share: Float[np.ndarray, "E"], waves: _Waves) -> Bool[np.ndarray, "N"]:
    """Mark the nodes with a path of positive shares to ``end``, and ``end`` itself."""
    leads = np.zeros(len(graph.nodes), dtype=bool)
    leads[end] = True
    for edges in waves:
        leads[graph.source[edges[leads[graph.target[edges]] & (share[edges] > 0)]]] = True
    return leads


def _strength(graph: FlowGraph) -> Float[np.ndarray, "E"]:
    """|share| in double precision, 0 on structural edges."""
    return np.where(graph.structural, 0.0, np.abs(graph.share.astype(np.float64)))


def _origins(graph: FlowGraph) -> list[int]:
    weighted = np.zeros(len(graph.nodes), dtype=bool)
    weighted[graph.target[~graph.structural]] = True
    return np.flatnonzero(~weighted).tolist()


def _start_index(graph: FlowGraph, node: Node | None, argument: str) -> int:
    if node is not None:
        return _index_of(graph, node, argument)
    logits = [n for n, other in enumerate(graph.nodes) if other.kind == "logit"]
    if len(logits) > 1:
        logits = [n for n in logits if graph.nodes[n].index == graph.info.target] or logits
    if len(logits) > 1:
        names = ", ".join(label(graph.nodes[n]) for n in logits[:5])
        raise ArgumentError(f"{argument}=None, and the graph has {len(logits)} logit nodes ({names}); name one")
    if logits:
        return logits[0]
    position = graph.info.position
    states = [n for n, other in enumerate(graph.nodes) if other.kind in _STATES and other.position == position]
    if not states:
        raise ArgumentError(
            f"{argument}=None, and the graph has neither a logit node nor a residual state of position "
            f"{position}; say which node is meant as {argument}="
        )
    return max(states, key=lambda n: _depth(graph.nodes[n]))


def _index_of(graph: FlowGraph, node: Node, argument: str) -> int:
    try:
        return graph.nodes.index(node)
    except ValueError:
        raise ArgumentError(
            f"{argument}={label(node)} is not one of the {len(graph.nodes):,} nodes of this graph; it may "
            "have been filtered away, or lie outside the layers of the graph"
        ) from None


def _depth(state: Node) -> tuple[int, int]:
    return (-1 if state.layer is None else state.layer, _STATES.index(state.kind))


def _is_passing(before: Node, node: Node, kind: str) -> bool:
    """Whether a step only moves on along the residual stream of one position."""
    return node.kind.startswith("resid_") and node.position == before.position and kind != "attention"
