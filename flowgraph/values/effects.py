"""Graphs whose numbers are effects on the answer rather than flow: circuits, and pictures of parts."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from .connected_flow import TopologicalLevels, topological_levels
from .graph_axes import is_circuit
from .graph_columns import EDGE_KINDS, GraphColumns
from .graph_info import EFFECT

PARTS = ("attention", "mlp", "mixer")
"""Kinds of edges that are parts of a picture: a term from its source into a head, and what an MLP or a mixer writes."""


def shows_effects(graph: GraphColumns) -> bool:
    """Whether the numbers of a graph's edges are effects; edges of equal effect need not lead to one another, as flow does."""
    return is_picture_of_parts(graph) or is_circuit(graph)


def is_picture_of_parts(graph: GraphColumns) -> bool:
    """Whether a graph shows parts at positions, chosen for their effects, as :func:`flowgraph.explain_answer` does."""
    return graph.info.method == EFFECT


def is_part(graph: GraphColumns) -> Bool[np.ndarray, "E"]:
    """[E] whether an edge of a picture of parts is a part; all others lead to and from parts."""
    kinds = [EDGE_KINDS.index(name) for name in PARTS]
    return np.asarray(np.isin(graph.kind, kinds) & ~graph.structural)


def node_effects(graph: GraphColumns) -> Float[np.ndarray, "N"]:
    """[N] effect of the head, MLP or mixer of a node in a picture of parts, in logits; NaN for states and logits."""
    effects = np.zeros(len(graph.nodes))
    is_writer = np.array([node.kind in ("head", "mlp", "mixer") for node in graph.nodes], dtype=bool)
    np.add.at(effects, graph.source, graph.weight.astype(np.float64))
    return np.where(is_writer, effects, np.nan)


def edge_strengths(graph: GraphColumns) -> Float[np.ndarray, "E"]:
    """[E] |effect| from which on an edge belongs to what is shown.

    In a circuit that is the edge's own |effect|. In a picture of parts a head's output comes with the strongest term that the head reads,
    an MLP's input with the MLP, and an edge of the stream with the parts on both of its sides: it has the largest |effect| that every
    part on some way through it reaches.

    Raises
    ------
    ArgumentError
        If the graph has a cycle.
    """
    size = np.abs(graph.weight.astype(np.float64))
    if not is_picture_of_parts(graph):
        return size
    kind = np.array([EDGE_KINDS[n] for n in graph.kind], dtype=object)
    parts, count = is_part(graph), len(graph.nodes)
    read, written = np.zeros(count), np.zeros(count)
    np.maximum.at(read, graph.target[parts], size[parts])
    np.maximum.at(written, graph.source[parts], size[parts])
    size = np.where(kind == "head", np.maximum(size, read[graph.source]), size)
    size = np.where(kind == "mlp_in", written[graph.target], size)
    stream = graph.structural & (kind != "mlp_in")
    # Where the stream ends without being read, nothing is stronger than what was written there.
    arriving = np.zeros(count)
    np.maximum.at(arriving, graph.target, np.where(stream, 0.0, size))
    at_end = np.where([node.kind == "logit" for node in graph.nodes], np.inf, arriving)
    before, after = _widest(graph, np.where(stream, np.inf, size), topological_levels(graph), at_end)
    between = np.minimum(before[graph.source], after[graph.target])
    # Where no part stands at either side, as in a graph that lost its parts, nothing is stronger.
    between = np.where(np.isfinite(between), between, size.max(initial=0.0))
    return np.where(stream, between, size)


def _widest(
    graph: GraphColumns, size: Float[np.ndarray, "E"], depths: TopologicalLevels, at_end: Float[np.ndarray, "N"]
) -> tuple[Float[np.ndarray, "N"], Float[np.ndarray, "N"]]:
    """[N] the smallest size on the best way from a beginning to each node, infinite there, and from it to an end, ``at_end`` there."""
    before = np.where(np.isin(np.arange(len(graph.nodes)), graph.target), 0.0, np.inf)
    after = np.where(np.isin(np.arange(len(graph.nodes)), graph.source), 0.0, at_end)
    for edges in depths:
        np.maximum.at(after, graph.source[edges], np.minimum(size[edges], after[graph.target[edges]]))
    for edges in reversed(depths):
        np.maximum.at(before, graph.target[edges], np.minimum(size[edges], before[graph.source[edges]]))
    return before, after
