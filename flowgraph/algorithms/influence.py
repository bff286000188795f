"""Influence of nodes on one node of a graph, and pruning by it.

The algebra is that of attribution graphs: Â is the matrix of |share|, normalised so that the edges into every node sum to 1, and
powers of Â are indirect influence. One pass, level by level as for flow, gives the exact sum over all powers.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from ..errors import ArgumentError
from ..values.arguments import takes
from ..values.connected_flow import TopologicalLevels, start_index, strength_of, topological_levels
from ..values.flow_graph import FlowGraph
from ..values.node import Node
from ..values.nucleus import nucleus_mask
from ..values.strongest import made_by

_BEGINNINGS = ("embed", "position_embed", "resid_pre")
"""Kinds of states that the forward pass begins with, within the layers of the graph."""


@takes(FlowGraph)
def influence(graph: FlowGraph, start: Node | None = None) -> Float[np.ndarray, "N"]:
    """Sum what each node contributes to ``start``, directly and over other nodes.

    With Â[target, source] = Σ|share| of the edges between two nodes / Σ|share| of the edges *of this graph* that enter the
    target, influence is p Σ_k Âᵏ = p (I − Â)⁻¹, where p is 1 at the start and 0 elsewhere. So the start has influence 1, and
    each node passes all that it has on to the nodes that enter it.

    :func:`connected_flow` differs: it takes shares as they are, so edges that a filter has cut away are missing from the flow.
    Here the edges that are left stand for all of them. On a whole graph, where shares into a node sum to 1, both agree.

    Parameters
    ----------
    graph
        An acyclic graph.
    start
        As for :func:`connected_flow`.

    Returns
    -------
    [N] influence, a share of the start; 0 for nodes that do not lead to it over edges with a share.

    Raises
    ------
    ArgumentError
        If the graph has a cycle, or ``start`` is not in it or cannot be chosen.

    References
    ----------
    Ameisen et al. (2025), "Circuit Tracing: Revealing Computational Graphs in Language Models". There p holds the probabilities
    of several logits, and a node's own entry in p is left out.

    Examples
    --------
    >>> graph = fg.build_graph(trace, method="proximity", readings=False)
    >>> share = dict(zip(map(str, graph.nodes), fg.influence(graph)))
    >>> bool(share["L23.resid_post@7"] > share["L22.resid_post@3"])
    True
    """
    depths = topological_levels(graph)
    if not graph.nodes and start is None:
        return np.zeros(0)
    return _influence_and_scores(graph, strength_of(graph), start_index(graph, start, "start"), depths)[0]


@takes(FlowGraph)
def prune(graph: FlowGraph, node_mass: float = 0.8, edge_mass: float = 0.98, *, start: Node | None = None) -> FlowGraph:
    """Keep the nodes with the most influence on ``start`` and the strongest edges between them, as far as they are connected.

    1. The fewest nodes whose summed :func:`influence` reaches ``node_mass`` of that of all nodes but the start. The start is
       always kept, and so are the states that the graph begins with (embeddings, position embeddings, resid_pre of a window).
    2. The fewest edges between them whose summed scores reach ``edge_mass``, after the edges are normalised again; the score of an
       edge is Â × the influence of its target.
    3. Of these edges, those on a path to the start from an input: a node of ``graph`` that no edge with a share enters.

    Structural edges and edges of share 0 are never kept. A larger ``edge_mass`` keeps the same edges and maybe more. So does a
    larger ``node_mass`` in the first step, and in all where ``edge_mass`` is 1; below that, more nodes also compete for edges.

    Parameters
    ----------
    graph
        An acyclic graph.
    node_mass, edge_mass
        Shares of the summed influence and of the summed scores to keep, above 0 and at most 1. Equal ones are taken in the
        order of the graph.
    start
        As for :func:`connected_flow`.

    Returns
    -------
    The graph of the kept edges in the order of ``graph``, with ``node_mass`` and ``edge_mass`` in ``info.filters``; without
    edges and nodes where no such path is left.

    Raises
    ------
    ArgumentError
        If a mass is out of its range; else as for :func:`influence`.

    References
    ----------
    Ameisen et al. (2025), "Circuit Tracing: Revealing Computational Graphs in Language Models". The last step differs: here every
    node that nothing enters is an input, embedding or not.

    Examples
    --------
    >>> graph = fg.build_graph(trace, method="proximity", readings=False)
    >>> small = fg.prune(graph)
    >>> len(small.nodes) < len(graph.nodes)
    True
    """
    for name, mass in (("node_mass", node_mass), ("edge_mass", edge_mass)):
        if not 0 < mass <= 1:
            raise ArgumentError(f"{name}={mass} must lie above 0 and at most at 1")
    depths = topological_levels(graph)
    kept = np.zeros(len(graph), dtype=bool)
    if graph.nodes or start is not None:
        n = start_index(graph, start, "start")
        nodes = _strong_nodes(graph, n, depths, node_mass)
        kept = _between_inputs_and(graph, _strong_edges(graph, nodes, n, depths, edge_mass), n, depths)
    pruned = graph.keep(np.flatnonzero(kept), node_mass=node_mass, edge_mass=edge_mass)
    return made_by(pruned, "prune", node_mass=node_mass, edge_mass=edge_mass)


def _influence_and_scores(
    graph: FlowGraph, strength: Float[np.ndarray, "E"], start: int, depths: TopologicalLevels
) -> tuple[Float[np.ndarray, "N"], Float[np.ndarray, "E"]]:
    """Influence of nodes on the start, and scores of edges: an edge's part of its target's inputs × the target's influence."""
    whole = np.bincount(graph.target, weights=strength, minlength=len(graph.nodes))[graph.target]
    part = np.divide(strength, whole, out=np.zeros_like(strength), where=whole > 0)
    nodes, scores = np.zeros(len(graph.nodes)), np.zeros(len(graph))
    nodes[start] = 1.0
    for edges in depths:
        scores[edges] = part[edges] * nodes[graph.target[edges]]
        # `nodes[source] += …` would count a source once, however many edges of the level leave it.
        np.add.at(nodes, graph.source[edges], scores[edges])
    return nodes, scores


def _strong_nodes(graph: FlowGraph, start: int, depths: TopologicalLevels, mass: float) -> Bool[np.ndarray, "N"]:
    """The fewest nodes that reach the mass, besides the start, and the states that the graph begins with."""
    found, _ = _influence_and_scores(graph, strength_of(graph), start, depths)
    # The start has influence 1 and is kept anyway: in the sum it would use up the mass.
    found[start] = 0.0
    strong = nucleus_mask(np.zeros(len(found), dtype=np.int64), found, mass)
    strong[start] = True
    strong |= np.array([node.kind in _BEGINNINGS for node in graph.nodes])
    return strong


def _strong_edges(
    graph: FlowGraph, nodes: Bool[np.ndarray, "N"], start: int, depths: TopologicalLevels, mass: float
) -> Bool[np.ndarray, "E"]:
    """The fewest edges between these nodes that reach the mass of their summed scores."""
    among = np.where(nodes[graph.source] & nodes[graph.target], strength_of(graph), 0.0)
    _, scores = _influence_and_scores(graph, among, start, depths)
    return nucleus_mask(np.zeros(len(graph), dtype=np.int64), scores, mass)


def _between_inputs_and(
    graph: FlowGraph, edges: Bool[np.ndarray, "E"], start: int, depths: TopologicalLevels
) -> Bool[np.ndarray, "E"]:
    """The edges that lie on a path of ``edges`` from an input of the graph to the start."""
    leads = np.zeros(len(graph.nodes), dtype=bool)
    leads[start] = True
    for depth in depths:
        leads[graph.source[depth[edges[depth] & leads[graph.target[depth]]]]] = True
    fed = np.bincount(graph.target, weights=strength_of(graph), minlength=len(graph.nodes)) == 0
    for depth in reversed(depths):
        fed[graph.target[depth[edges[depth] & fed[graph.source[depth]]]]] = True
    connected: np.ndarray = edges & leads[graph.target] & fed[graph.source]
    return connected
