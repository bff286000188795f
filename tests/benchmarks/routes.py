"""What another threshold costs over known weights, against networkx on a graph of the same edges."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import networkx
import numpy as np

import flowgraph
from flowgraph.algorithms.routes import routes

from .pairs import Row, timed
from .subject import Setup, prompt

LENGTHS = (128,)
THRESHOLDS = (0.04, 0.01)
_ALL = 10**9


def rows(setup: Setup) -> Iterator[Row]:
    """At token and head level, against walking a thresholded graph that is there, and against making and walking it.

    networkx gets what costs it least: numbers for nodes, edges without attributes, and every edge's share worked out before.
    """
    for length in setup.lengths(LENGTHS) or setup.lengths((32,)):
        trace = flowgraph.trace(setup.loaded, prompt(setup.loaded, length))
        weights = flowgraph.edge_weights(trace, method="proximity")
        yield from _threshold_changes(weights, "token", setup.pairs)
        yield from _threshold_changes(weights, "head", setup.pairs)


def _threshold_changes(weights: flowgraph.EdgeWeights, level: Literal["token", "head"], pairs: int) -> Iterator[Row]:
    whole = flowgraph.build_graph(weights, level=level, readings=False, max_edges=_ALL)
    start = next(n for n, node in enumerate(whole.nodes) if node.kind == "logit")

    def made(threshold: float) -> networkx.DiGraph:
        strong = np.flatnonzero(~whole.structural & (np.abs(whole.share) >= threshold))
        graph = networkx.DiGraph()
        graph.add_edges_from(zip(whole.source[strong].tolist(), whole.target[strong].tolist(), strict=True))
        return graph

    def walked(graph: networkx.DiGraph) -> networkx.DiGraph:
        return graph.subgraph(networkx.ancestors(graph, start) | {start})

    for threshold in THRESHOLDS:
        work = f"routes, T = {len(weights.info.tokens)}, {level} level, shares ≥ {threshold}"

        def found(threshold: float = threshold) -> flowgraph.FlowGraph:
            return routes(weights, level=level, threshold=threshold, max_edges=_ALL)

        known = made(threshold)
        yield timed(work, found, "networkx, walk", lambda known=known: walked(known), pairs=pairs)  # type: ignore[misc]
        yield timed(work, found, "networkx, make and walk", lambda t=threshold: walked(made(t)), pairs=pairs)  # type: ignore[misc]
