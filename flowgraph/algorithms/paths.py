"""The strongest paths of a flow graph.

The strength of a path is the product of |share| along it: the part of its end that came this way.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float

from ..errors import ArgumentError
from ..values.arguments import takes
from ..values.connected_flow import (
    TopologicalLevels,
    critical_levels,
    index_of,
    start_index,
    strength_of,
    topological_levels,
)
from ..values.flow_graph import EDGE_COLUMNS, EDGE_KINDS, FlowGraph
from ..values.mass import carrying
from ..values.node import Node, label

# Number of strongest edges that are tried first; a graph with fewer edges is searched whole at once.
_TRIED_FIRST = 20_000


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
        Kind of each edge, one of :data:`flowgraph.values.flow_graph.EDGE_KINDS`; empty where it is not known.

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


@takes(FlowGraph)
def strongest_paths(
    graph: FlowGraph,
    source: Node | None = None,
    target: Node | None = None,
    k: int = 10,
) -> list[Path]:
    """List the k paths with the largest product of |share|.

    Exact: each node keeps the k best paths that reach it, merged from its incoming edges with a heap. Time
    O(E + N·k·log E), memory O(N·k). In a large graph only its strongest edges are tried first: where no share is above 1,
    a path is at most as strong as the critical level of each of its edges, so paths stronger than the level of every edge
    left out are the strongest of all.

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

    Examples
    --------
    >>> graph = fg.build_graph(trace, method="proximity", readings=False)
    >>> (path,) = fg.strongest_paths(graph, k=1)
    >>> str(path.nodes[-1])
    'logit[ Tokyo]'
    """
    if k < 1:
        raise ArgumentError(f"k={k} must be 1 or more")
    depths = topological_levels(graph)
    if not graph.nodes and source is None and target is None:
        return []
    end = start_index(graph, target, "target")
    origins = _origins(graph) if source is None else [index_of(graph, source, "source")]
    if end in origins:
        return []
    share = strength_of(graph)
    best: dict[int, list[_Entry]] = {}
    # A share above 1 could make a path stronger than its weakest edge; 1e-9 lets rounding pass.
    if len(graph) > _TRIED_FIRST and share.max() <= 1 + 1e-9:
        levels = critical_levels(graph, graph.nodes[end])
        cutoff = np.partition(levels, -_TRIED_FIRST)[-_TRIED_FIRST]
        best = _k_best(graph, origins, end, depths, k, np.where(levels >= cutoff, share, 0.0))
        # Too few paths, or a last one that an edge left out could beat: search all edges.
        if len(best.get(end, ())) < k or best[end][-1][0] < cutoff:
            best = {}
    if not best:
        best = _k_best(graph, origins, end, depths, k, share)
    return [_trace_back(graph, best, rank, end) for rank in range(len(best.get(end, ())))]


@takes(FlowGraph)
def merge_parallel(graph: FlowGraph) -> FlowGraph:
    """Take edges between the same two nodes together.

    Residual and self-attention carry the same state to the same place, so that in 30 layers 2³⁰ paths differ in nothing
    a reader would call a path. In the merged graph they are one edge: weight and share are summed, and it counts as
    ``residual`` if one of them is, otherwise as the strongest of them. Structural edges are left out.

    Examples
    --------
    >>> graph = fg.build_graph(trace, method="proximity", readings=False)
    >>> len(fg.merge_parallel(graph)) <= len(graph)
    True
    """
    kept = np.flatnonzero(~graph.structural)
    if not len(kept):
        return graph.keep(kept)
    graph = carrying(graph, graph.measured)
    pair = graph.source[kept].astype(np.int64) * len(graph.nodes) + graph.target[kept]
    # The edge that speaks for a pair comes first: a residual one, then the strongest.
    is_residual = graph.kind[kept] == EDGE_KINDS.index("residual")
    ordered = kept[np.lexsort((-np.abs(graph.share[kept]), ~is_residual, pair))]
    pair = graph.source[ordered].astype(np.int64) * len(graph.nodes) + graph.target[ordered]
    first = np.flatnonzero(np.r_[True, pair[1:] != pair[:-1]])
    columns = {name: getattr(graph, name)[ordered[first]].copy() for name in EDGE_COLUMNS}
    for name in ("weight", "share") if graph.flow is None else ("weight", "share", "flow"):
        columns[name] = np.add.reduceat(getattr(graph, name)[ordered], first)
    return replace(graph, **columns)


# (strength, last edge or -1 where the path begins, rank of the rest among the paths of that edge's source)
_Entry = tuple[float, int, int]


def _k_best(
    graph: FlowGraph, origins: Sequence[int], end: int, depths: TopologicalLevels, k: int, share: Float[np.ndarray, "E"]
) -> dict[int, list[_Entry]]:
    """Find the k best paths from any origin into each node that leads to ``end``, best first."""
    leads = _leads_to(graph, end, share, depths)
    best: dict[int, list[_Entry]] = {n: [(1.0, -1, 0)] for n in origins}
    # Levels run from the end back. Reversed, all paths into a source are known before an edge leaves it.
    for depth in reversed(depths):
        edges = depth[leads[graph.target[depth]] & (share[depth] > 0)]
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
    # A product that has underflowed to 0 is no path.
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


def _leads_to(
    graph: FlowGraph, end: int, share: Float[np.ndarray, "E"], depths: TopologicalLevels
) -> Bool[np.ndarray, "N"]:
    """Mark the nodes with a path of positive shares to ``end``, and ``end`` itself."""
    leads = np.zeros(len(graph.nodes), dtype=bool)
    leads[end] = True
    for edges in depths:
        leads[graph.source[edges[leads[graph.target[edges]] & (share[edges] > 0)]]] = True
    return leads


def _origins(graph: FlowGraph) -> list[int]:
    weighted = np.zeros(len(graph.nodes), dtype=bool)
    weighted[graph.target[~graph.structural]] = True
    return np.flatnonzero(~weighted).tolist()


def _is_passing(before: Node, node: Node, kind: str) -> bool:
    """Whether a step only moves on along the residual stream of one position."""
    return node.kind.startswith("resid_") and node.position == before.position and kind != "attention"
