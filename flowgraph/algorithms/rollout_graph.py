"""Attention rollout as a graph: the edges that one token's shares pass on their way through the blocks."""

from __future__ import annotations

from typing import Any, SupportsIndex

import numpy as np

from ..methods.build import MAX_EDGES
from ..values.arguments import takes
from ..values.flow_graph import FlowGraph
from ..values.node import Node
from .state_graph import Readings, chain_to, graph_of, with_node_readings


@takes()
def rollout_graph(
    weights_or_trace: Any,
    start: Node | None = None,
    *,
    position: SupportsIndex | None = None,
    method: str = "attention",
    residual: bool | None = None,
    threshold: float = 0.0,
    top_k: int | None = None,
    max_edges: int = MAX_EDGES,
    readings: Readings = "auto",
) -> FlowGraph:
    """Build the graph that one row of attention rollout runs through.

    The start holds 1. Against the arrows every state hands on all that it holds, each edge by its part of Ã = (A + I) / row sum.
    An edge's ``share`` is the entry of Ã, split into ``attention`` and ``residual`` on the diagonal; its ``weight`` is the amount
    that runs over it. The amounts at the inputs are the start's row of :func:`flowgraph.attention_rollout`.

    Parameters
    ----------
    weights_or_trace
        A trace, or dense weights of a method whose edges run from state to state, whose shares take the place of Ã.
    start
        A state that a block writes, ``Node("resid_post", layer=…, position=…)``; with ``stack="encoder"`` one of the encoder. None:
        the last one at ``position``.
    position
        Position of the start, of an encoder–decoder in the decoder; negative counts from the end, None is the one that is explained.
    method, residual
        For a trace, as for :func:`flowgraph.attention_rollout`.
    threshold
        Keep edges that carry at least this much of the start; :func:`flowgraph.keep_strongest` keeps a connected part.
    top_k
        Keep the k edges that carry most.
    max_edges
        Refuse a larger graph, naming its size.
    readings
        Whether nodes carry their reading in vocabulary. ``"auto"``: where there is a trace, up to 2,000 nodes.

    Returns
    -------
    Graph between states, ``info.method`` ``"rollout of …"``, unit share. Without filters, a state passes on all that enters it,
    except the part that is on no edge (``EdgeWeights.apart``). At another position than the explained one, the target keeps its
    token, with its probability there, if the trace holds logits of all positions; otherwise the graph has no target.

    Raises
    ------
    ArgumentError
        If nothing can be made of the input, see :func:`flowgraph.attention_rollout`, the start is not such a state, or a filter
        is out of its range.
    GraphTooLargeError
        If more than ``max_edges`` edges remain.

    References
    ----------
    Abnar & Zuidema (2020), "Quantifying Attention Flow in Transformers".

    Examples
    --------
    >>> graph = fg.rollout_graph(trace, method="proximity")
    >>> graph.info.method
    'rollout of proximity'
    >>> at_japan = graph.weight[graph.source == graph.nodes.index(fg.Node("embed", position=3))].sum()
    >>> bool(abs(at_japan - fg.attention_rollout(trace, method="proximity")[-1, -1, 3]) < 1e-9)
    True
    """
    chain = chain_to(weights_or_trace, start, position, method, residual)
    held = np.zeros((len(chain.blocks), chain.count))
    held[-1, chain.token] = 1.0
    for layer in range(len(chain.blocks) - 1, 0, -1):
        # Row s of a block says where the state at s comes from, so a row vector on the left goes one block down.
        held[layer - 1] = held[layer] @ chain.blocks[layer]
    carried = held[:, :, None] * np.stack(chain.blocks)
    graph = graph_of(
        chain, carried, held, method=f"rollout of {chain.info.method}", threshold=threshold, top_k=top_k, max_edges=max_edges
    )  # fmt: skip
    return with_node_readings(graph, weights_or_trace, readings)
