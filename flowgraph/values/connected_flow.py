"""Flow into one node: the contribution of each edge to it.

A share is the contribution of an input to its node. Products of shares, against the arrows from a start node, give the
contribution of each edge to the start; the start is usually the logit. All numbers here are of |share|; the sign of a signed
method stays on the graph.

The functions handle edges in *topological levels*: a level holds the edges into all nodes whose outgoing edges are done. A transformer
has few levels (some per layer) and many edges in each, so a level is one vectorised step.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from ..errors import ArgumentError
from .arguments import takes
from .graph_columns import GraphColumns
from .graph_info import EFFECT
from .node import Node, label

_STATES = ("embed", "resid_pre", "resid_mid", "resid_post")
TopologicalLevels = list[Int[np.ndarray, "_"]]
"""Indices of edges, level by level."""


@takes(GraphColumns)
def connected_flow(graph: GraphColumns, start: Node | None = None) -> Float[np.ndarray, "E"]:
    """Follow the shares against the arrows: the part of ``start`` that each edge carries.

    The start has flow 1. An edge has |share| × the flow of its target, and a node the sum of the flow of its
    outgoing edges. Where the shares into every node sum to 1, every cut between the inputs and the start
    therefore carries 1.

    Parameters
    ----------
    graph
        An acyclic graph.
    start
        Node whose inputs are followed. None: the node that ``info.flow_into`` names, else the logit node (of ``info.target``, if
        there are several). A graph without a logit starts at its only end, as in the routes into a chosen node; with several
        ends it starts at the last residual state of ``info.position``.

    Returns
    -------
    [E] flow, a share of the start; 0 on structural edges and on edges that do not lead to the start.

    Raises
    ------
    ArgumentError
        If the graph has a cycle, or ``start`` is not in it or cannot be chosen.

    Examples
    --------
    >>> graph = fg.build_graph(trace, method="proximity", readings=False)
    >>> flow = fg.connected_flow(graph)
    >>> into_logit = graph.target == len(graph.nodes) - 1
    >>> flow[into_logit].round(6).tolist()  # all that reaches the logit
    [1.0]
    """
    return _flow_of(graph, start, topological_levels(graph))


@takes(GraphColumns)
def critical_levels(graph: GraphColumns, start: Node | None = None) -> Float[np.ndarray, "E"]:
    """Find the smallest flow on the best way from each edge to ``start``.

    Each route from an edge to the start has a smallest :func:`connected_flow`, the edge included. The level of
    the edge is the largest of these numbers over all its routes (the widest path). It is at most the edge's own
    flow, and at most the level of an edge that leads on to the start; so the edges above any level are connected
    to the start.

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

    Examples
    --------
    >>> graph = fg.build_graph(trace, method="proximity", readings=False)
    >>> bool((fg.critical_levels(graph) <= fg.connected_flow(graph)).all())
    True
    """
    depths = topological_levels(graph)
    return flow_levels(graph, _flow_of(graph, start, depths), start, depths=depths)


def topological_levels(graph: GraphColumns) -> TopologicalLevels:
    """Split all edges into levels, last nodes first: an edge comes after every edge that leaves its target."""
    by_target = np.argsort(graph.target, kind="stable")
    degree = np.bincount(graph.target, minlength=len(graph.nodes))
    # Edges sorted by target, with the first of each node, so that all edges into a set of nodes are one slice each.
    first = np.cumsum(degree) - degree
    waiting = np.bincount(graph.source, minlength=len(graph.nodes))
    ready = np.flatnonzero(waiting == 0)
    depths = []
    handled = 0
    while len(ready):
        handled += len(ready)
        counts = degree[ready]
        # Places within each node's slice, for all ready nodes at once.
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        edges = by_target[np.repeat(first[ready], counts) + within]
        if len(edges):
            depths.append(edges)
        sources = graph.source[edges]
        # `waiting[sources] -= 1` would count a source once, however many of its edges are handled.
        np.subtract.at(waiting, sources, 1)
        ready = np.unique(sources[waiting[sources] == 0])
    # A node on a cycle waits for itself forever.
    if handled < len(graph.nodes):
        stuck = graph.nodes[int(np.flatnonzero(waiting)[0])]
        raise ArgumentError(
            f"the graph has a cycle, through {label(stuck)} or after it; flow is defined only where every "
            "edge goes from an earlier to a later place of the forward pass"
        )
    return depths


def _flow_of(graph: GraphColumns, start: Node | None, depths: TopologicalLevels) -> Float[np.ndarray, "E"]:
    share, node_flow, flow = strength_of(graph), np.zeros(len(graph.nodes)), np.zeros(len(graph))
    if graph.nodes or start is not None:
        node_flow[start_index(graph, start, "start")] = 1.0
    for edges in depths:
        flow[edges] = share[edges] * node_flow[graph.target[edges]]
        # `node_flow[source] += …` would count a node once, however many edges of the level leave it.
        np.add.at(node_flow, graph.source[edges], flow[edges])
    return flow


def flow_levels(
    graph: GraphColumns,
    flow: Float[np.ndarray, "E"] | None,
    start: Node | None = None,
    *,
    depths: TopologicalLevels | None = None,
) -> Float[np.ndarray, "E"]:
    """[E] smallest flow on the best way from each edge to the start over edges of this graph; 0 without such a way.

    ``flow`` may be that of a larger graph; None: :func:`connected_flow` along this one. A cut graph may carry the flow of the
    whole and have no edge that touches the start any more: then no edge has a way.
    """
    # A graph that lost its start has no ways left, but its flow of the whole graph still stands.
    if flow is not None and start is None and _is_cut_from_its_start(graph):
        return np.zeros(len(graph))
    depths = topological_levels(graph) if depths is None else depths
    flow = _flow_of(graph, start, depths) if flow is None else flow
    node_level, levels = np.zeros(len(graph.nodes)), np.zeros(len(graph))
    if graph.nodes or start is not None:
        # The way from the start to itself has no edge that could limit it.
        node_level[start_index(graph, start, "start")] = np.inf
    for edges in depths:
        levels[edges] = np.minimum(flow[edges], node_level[graph.target[edges]])
        np.maximum.at(node_level, graph.source[edges], levels[edges])
    return levels


def by_level(levels: Float[np.ndarray, "E"], depths: TopologicalLevels) -> Int[np.ndarray, "e"]:
    """Order edges above 0 by decreasing level; ties by topological level, so that an edge never precedes its way on."""
    depth_of = np.zeros(len(levels), dtype=np.int64)
    for n, edges in enumerate(depths):
        depth_of[edges] = n
    order = np.lexsort((depth_of, -levels))
    return order[levels[order] > 0]


def strength_of(graph: GraphColumns) -> Float[np.ndarray, "E"]:
    """|share| in double precision, 0 on structural edges."""
    return np.where(graph.structural, 0.0, np.abs(graph.share.astype(np.float64)))


def start_index(graph: GraphColumns, node: Node | None, argument: str) -> int:
    """Index of ``node``; for None, of the node that flow runs to.

    This is the node that ``info.flow_into`` names. Without it, it is the logit, the only end, or the last residual state. In a
    graph of another program that has none of these, or several logits and no target, it is the end with the most |weight| into
    it.
    """
    if graph.info.method == EFFECT:
        raise ArgumentError(
            "the numbers of a picture of parts are effects on the answer and no flow, so nothing of it runs into a node; take fewer parts "
            "by flowgraph.explain_answer(…, most=), or choose edges with graph.keep(…)"
        )
    if node is not None:
        return index_of(graph, node, argument)
    if graph.info.flow_into is not None:
        known = [n for n, other in enumerate(graph.nodes) if label(other) == graph.info.flow_into]
        if known:
            return known[0]
    if _is_cut_from_its_start(graph):
        raise ArgumentError(
            f"{argument}=None, and the flow of this graph runs to {graph.info.flow_into}, which none of its edges touches: it was "
            f"cut away; name another node as {argument}=, or cut the graph so that edges into {graph.info.flow_into} stay"
        )
    logits = [n for n, other in enumerate(graph.nodes) if other.kind in ("logit", "logits")]
    if len(logits) > 1:
        # Attribution graphs have several logits; the target's is the one that the graph explains.
        logits = [n for n in logits if graph.nodes[n].index == graph.info.target] or logits
    if len(logits) > 1:
        logits = [n for n in logits if graph.nodes[n].position == graph.info.position] or logits
    if len(logits) > 1 and _is_of_another_program(graph):
        return _fed_most(graph, logits)
    if len(logits) > 1:
        names = ", ".join(label(graph.nodes[n]) for n in logits[:5])
        raise ArgumentError(f"{argument}=None, and the graph has {len(logits)} logit nodes ({names}); name one")
    if logits:
        return logits[0]
    # Routes into a chosen node have no logit: their only end is that node.
    ends = np.setdiff1d(graph.target, graph.source)
    if len(ends) == 1:
        return int(ends[0])
    position = graph.info.position
    states = [n for n, other in enumerate(graph.nodes) if other.kind in _STATES and other.position == position]
    if not states and _is_of_another_program(graph):
        return _fed_most(graph, ends.tolist() or list(range(len(graph.nodes))))
    if not states:
        raise ArgumentError(
            f"{argument}=None, and the graph has neither a logit node nor a residual state of position "
            f"{position}; say which node is meant as {argument}="
        )
    return max(states, key=lambda n: _depth(graph.nodes[n]))


def _is_cut_from_its_start(graph: GraphColumns) -> bool:
    """Whether the edges carry a flow into a node that is no longer in the graph."""
    into = graph.info.flow_into
    return graph.flow is not None and into is not None and all(label(node) != into for node in graph.nodes)


def _is_of_another_program(graph: GraphColumns) -> bool:
    return bool(graph.info.outside) or graph.info.method == "imported"


def _fed_most(graph: GraphColumns, candidates: Sequence[int]) -> int:
    """The candidate with the most |weight| into it; the first of equal ones."""
    into = np.bincount(graph.target, weights=np.abs(graph.weight), minlength=len(graph.nodes))
    return max(candidates, key=lambda n: into[n])


def index_of(graph: GraphColumns, node: Node, argument: str) -> int:
    """Index of a node; an :class:`ArgumentError` names the argument if it is not in the graph."""
    try:
        return graph.nodes.index(node)
    except ValueError:
        raise ArgumentError(
            f"{argument}={label(node)} is not one of the {len(graph.nodes):,} nodes of this graph; it may "
            "have been filtered away, or lie outside the layers of the graph"
        ) from None


def _depth(state: Node) -> tuple[int, int]:
    return (-1 if state.layer is None else state.layer, _STATES.index(state.kind))
