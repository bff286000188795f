"""Pruning of attribution graphs by cumulative influence, as circuit-tracer defines it.

Influence here goes to every logit by its probability; in :func:`flowgraph.prune` it goes to one node.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from ..errors import ArgumentError
from ..values.connected_flow import TopologicalLevels, start_index, topological_levels
from ..values.flow_graph import FlowGraph
from ..values.nucleus import nucleus_mask

_INPUTS = frozenset({"embed", "position_embed"})
# An error stands for all that the replacement model does not explain, so no edge enters it.
_WITHOUT_INPUTS = _INPUTS | {"mlp_error", "attn_error"}


def check_thresholds(node_threshold: float | None, edge_threshold: float | None, top: int | None) -> None:
    """Refuse thresholds out of their range.

    Raises
    ------
    ArgumentError
        If one is out of its range.
    """
    for name, part in (("node_threshold", node_threshold), ("edge_threshold", edge_threshold)):
        if part is not None and not 0 < part <= 1:
            raise ArgumentError(f"{name}={part} must lie above 0 and at most at 1; 0.8 keeps 80 % of the influence")
    if top is not None and (isinstance(top, bool) or not isinstance(top, int) or top < 1):
        raise ArgumentError(f"top={top!r} must be a number of nodes, 1 or more")


def pruned(
    graph: FlowGraph, node_threshold: float | None = None, edge_threshold: float | None = None, top: int | None = None
) -> FlowGraph:
    """Keep the nodes and then the edges with the most influence on the logits, as far as they are connected.

    With Â[target, source] = Σ|weight| of the edges between two nodes / Σ|weight| of all edges into the target, and p the
    probability of each logit (where none is known: 1 at the node that the graph explains), the influence of nodes is
    p (Â + Â² + …), without a logit's own entry.

    1. Keep the fewest nodes whose influence together reaches ``node_threshold`` of that of all nodes, but at most ``top``.
       Embeddings and logits are always kept and do not count for ``top``.
    2. Normalise the edges between them again, and keep the fewest whose scores together reach ``edge_threshold`` of the sum. The
       score of an edge is Â × (influence of its target + p there).
    3. Nodes without an edge out go with their edges, and so do nodes without an edge in, except errors. This repeats until no
       such node is left; embeddings and logits stay.

    Parameters
    ----------
    graph
        An acyclic graph.
    node_threshold, edge_threshold
        Above 0 and at most 1; None leaves its step out. Equal ones are taken in the order of the graph.
    top
        Most nodes; None: any number.

    Returns
    -------
    The graph of the kept edges and the nodes that they touch, with the thresholds in ``info.filters``.

    Raises
    ------
    ArgumentError
        If a threshold is out of its range or leaves no edge, or the graph has a cycle.

    References
    ----------
    Ameisen et al. (2025), "Circuit Tracing: Revealing Computational Graphs in Language Models".
    """
    check_thresholds(node_threshold, edge_threshold, top)
    depths, strength = (
        topological_levels(graph),
        np.where(graph.structural, 0.0, np.abs(graph.weight.astype(np.float64))),
    )
    probability = _probability(graph)
    always = np.array([node.kind in _INPUTS or node.kind in ("logit", "logits") for node in graph.nodes], dtype=bool)
    always |= probability > 0
    influence, _ = _spread(graph, strength, probability, depths)
    nodes = np.ones(len(graph.nodes), dtype=bool)
    if node_threshold is not None:
        nodes = nucleus_mask(np.zeros(len(influence), dtype=np.int64), influence, node_threshold)
    if top is not None:
        ranked = np.flatnonzero(nodes & ~always)
        nodes[ranked[np.argsort(-influence[ranked], kind="stable")][top:]] = False
    nodes |= always
    edges = nodes[graph.source] & nodes[graph.target]
    if edge_threshold is not None:
        _, scores = _spread(graph, np.where(edges, strength, 0.0), probability, depths)
        edges &= nucleus_mask(np.zeros(len(scores), dtype=np.int64), scores, edge_threshold)
    asked = {"node_threshold": node_threshold, "edge_threshold": edge_threshold, "top": top}
    filters = {name: value for name, value in asked.items() if value is not None}
    connected = _connected(graph, edges, always)
    if len(graph) and not connected.any():
        said = ", ".join(f"{name}={value}" for name, value in filters.items())
        raise ArgumentError(
            f"{said}: nothing is left, as no kept edge leads from an input or an error over kept edges to a logit; take larger ones"
        )
    return graph.keep(connected, **filters)


def _probability(graph: FlowGraph) -> Float[np.ndarray, "N"]:
    """[N] weights of the nodes that influence goes to: the logits by probability, or the one node that the graph explains."""
    found = np.zeros(len(graph.nodes))
    for n, note in enumerate(graph.notes):
        if note is not None and graph.nodes[n].kind == "logit":
            found[n] = max(0.0, note.probability or 0.0)
    if graph.nodes and not found.any():
        found[start_index(graph, None, "start")] = 1.0
    return found


def _spread(
    graph: FlowGraph, strength: Float[np.ndarray, "E"], probability: Float[np.ndarray, "N"], depths: TopologicalLevels
) -> tuple[Float[np.ndarray, "N"], Float[np.ndarray, "E"]]:
    """Influence of nodes, without their own entry in ``probability``, and scores of edges."""
    whole = np.bincount(graph.target, weights=strength, minlength=len(graph.nodes))[graph.target]
    part = np.divide(strength, whole, out=np.zeros_like(strength), where=whole > 0)
    nodes, scores = probability.copy(), np.zeros(len(graph))
    for edges in depths:
        scores[edges] = part[edges] * nodes[graph.target[edges]]
        # `nodes[source] += …` would count a source once, however many edges of the level leave it.
        np.add.at(nodes, graph.source[edges], scores[edges])
    return nodes - probability, scores


def _connected(graph: FlowGraph, edges: Bool[np.ndarray, "E"], always: Bool[np.ndarray, "N"]) -> Bool[np.ndarray, "E"]:
    """The edges that are left without nodes that no edge enters or no edge leaves."""
    is_fed = always | np.array([node.kind in _WITHOUT_INPUTS for node in graph.nodes], dtype=bool)
    # To drop a node may cut the last edge of another, so the loop runs until nothing changes.
    while True:
        leaves = always.copy()
        leaves[graph.source[edges]] = True
        entered = is_fed.copy()
        entered[graph.target[edges]] = True
        alive = leaves & entered
        left: np.ndarray = edges & alive[graph.source] & alive[graph.target]
        if left.sum() == edges.sum():
            return left
        edges = left
