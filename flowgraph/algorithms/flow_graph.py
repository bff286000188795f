"""Attention flow as a graph: the edges that carry a maximum flow from input tokens to a state."""

from __future__ import annotations

import operator
from typing import Any, SupportsIndex

import numpy as np
from jaxtyping import Float

from ..errors import ArgumentError
from ..methods.build import MAX_EDGES
from ..values.arguments import takes
from ..values.flow_graph import FlowGraph
from ..values.node import Node, label
from .max_flow import flow_edges
from .state_graph import Chain, Readings, chain_to, graph_of, with_node_readings


@takes()
def flow_graph(
    weights_or_trace: Any,
    start: Node | None = None,
    *,
    source: SupportsIndex | None = None,
    position: SupportsIndex | None = None,
    method: str = "attention",
    residual: bool | None = None,
    threshold: float = 0.0,
    top_k: int | None = None,
    max_edges: int = MAX_EDGES,
    readings: Readings = "auto",
) -> FlowGraph:
    """Build the graph of a maximum flow from input tokens to one state.

    Capacities are those of :func:`flowgraph.attention_flow`. An edge's ``weight`` is its flow, and its ``share`` the part of all
    flow into its target. On the diagonal, attention and residual carry flow in proportion to their capacities. A maximum flow is
    rarely the only one; the same input gives the same one.

    Parameters
    ----------
    weights_or_trace
        A trace, or dense weights of a method whose edges run from state to state, whose shares are the capacities.
    start
        The state that the flow runs to, as the start of :func:`flowgraph.rollout_graph`. None: the last one at ``position``.
    source
        Input token that it comes from; negative counts from the end. Those of an encoder–decoder are numbered as
        :func:`flowgraph.attention_flow` does it, the encoder's first. None: all of them together, as from one source without a
        limit. That is one flow, not the sum of the flows from each token, which share the same capacities. Where the rows of
        capacities sum to 1, all of the start's inputs can be filled at once, and its value is 1.
    position, method, residual, threshold, top_k, max_edges, readings
        As for :func:`flowgraph.rollout_graph`.

    Returns
    -------
    Graph between states, ``info.method`` ``"flow of …"``, unit share; ``info.options`` hold the ``source`` and the ``value`` of
    the flow, to three digits. The flow into a state is the flow out of it. The graph has no edges if nothing can flow.

    Raises
    ------
    ArgumentError
        As for :func:`flowgraph.rollout_graph`; or if ``source`` is out of range.
    GraphTooLargeError
        If more than ``max_edges`` edges remain.

    References
    ----------
    Abnar & Zuidema (2020), "Quantifying Attention Flow in Transformers".

    Examples
    --------
    >>> graph = fg.flow_graph(trace, source=3)
    >>> graph.info.method, graph.info.options["source"]
    ('flow of attention', 'embed@3')
    >>> arrives = graph.weight[graph.source == graph.nodes.index(fg.Node("embed", position=3))].sum()
    >>> bool(abs(arrives - fg.attention_flow(trace, source=-1, target=3)) < 1e-9)
    True
    """
    chain = chain_to(weights_or_trace, start, position, method, residual)
    if source is not None:
        source = _token(source, chain.count)
    carried = _carried(chain, source)
    value = float(carried[-1, chain.token].sum())
    graph = graph_of(
        chain, carried, carried.sum(-1), method=f"flow of {chain.info.method}", threshold=threshold, top_k=top_k,
        max_edges=max_edges, source="all inputs" if source is None else label(chain.state(0, source)), value=float(f"{value:.3g}"),
    )  # fmt: skip
    return with_node_readings(graph, weights_or_trace, readings)


def _carried(chain: Chain, source: int | None) -> Float[np.ndarray, "layer query_pos key_pos"]:
    """The flow over each edge of the blocks."""
    blocks, below = chain.blocks, 0
    if source is None:
        # One more block below leads from every input to one token, wider than all that the start can take.
        gate = np.zeros_like(blocks[0])
        gate[:, 0] = blocks[-1][chain.token].sum()
        blocks, below, source = [gate, *blocks], 1, 0
    found = flow_edges(blocks, source=chain.token, target=source, residual=False)
    of_model = found.layer >= below
    # The block that was put in front is no block of the model, so its edges are left out.
    carried = np.zeros((len(chain.blocks), *chain.blocks[0].shape))
    carried[found.layer[of_model] - below, found.query_pos[of_model], found.key_pos[of_model]] = found.weight[of_model]
    return carried


def _token(source: SupportsIndex, count: int) -> int:
    index = operator.index(source)
    if not -count <= index < count:
        raise ArgumentError(f"source={index} is not one of the {count} tokens (0…{count - 1}, or negative)")
    return index % count
