"""Which edges of a method a picture shows, and in words which those are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from ..errors import ArgumentError, GraphTooLargeError
from ..methods.build import build_graph
from ..methods.mixed_levels import layers_opened
from ..values.arguments import takes
from ..values.edge_weights import EdgeWeights
from ..values.flow_graph import FlowGraph
from ..values.node import Node
from ..values.recipe import SHOWS, Show
from ..values.strongest import keep_strongest
from .flow_graph import flow_graph
from .rollout_graph import rollout_graph
from .routes import routes, routes_threshold

MOST_EDGES = 3_000
"""Edges of a picture."""
MOST_LISTED = 2_000_000
"""Edges that are listed before the strongest of them are taken."""


@takes(EdgeWeights)
def picture_edges(
    weights: EdgeWeights,
    *,
    show: Show = "routes",
    level: Literal["token", "head"] = "token",
    heads_in: Sequence[int] = (),
    threshold: float = 0.0,
    start: Node | None = None,
    max_edges: int = MOST_EDGES,
) -> tuple[FlowGraph, str]:
    """Choose the edges that a picture shows: the strongest that hang together, as many as a page can draw.

    Parameters
    ----------
    weights
        Dense weights; of a window of layers, ``weights.window(…)``.
    show
        ``"routes"``: what leads to the start over edges that reach the threshold. ``"all"``: every edge. ``"rollout"``, ``"flow"``:
        attention rollout and maximum flow between tokens, made of the weights.
    level, heads_in, start
        As for :func:`flowgraph.build_graph`.
    threshold
        Smallest share; 0: of routes the one that :func:`flowgraph.routes_threshold` chooses, else none. Rollout and flow have none.
    max_edges
        Most edges.

    Returns
    -------
    The graph, without readings, and in words which edges it has.

    Raises
    ------
    ArgumentError
        If the method does not have what is asked for, or an argument is out of its range.
    GraphTooLargeError
        If the routes have more edges than can be listed.

    Examples
    --------
    >>> graph, said = fg.picture_edges(fg.edge_weights(trace), threshold=0.05)
    >>> said
    'routes over edges of share ≥ .05'
    """
    if show not in SHOWS:
        raise ArgumentError(f"show={show!r} is not known; expected one of {', '.join(SHOWS)}")
    _refuse_combination(weights, show, level, heads_in)
    heads_in = layers_opened(weights, level, heads_in)
    if show in ("rollout", "flow"):
        graph, said = (
            (rollout_graph(weights, start), "rollout")
            if show == "rollout"
            else (flow_graph(weights, start), "maximum flow")
        )
    elif heads_in:
        graph, said = _opened(weights, show, heads_in, threshold, start)
    elif show == "all":
        graph, said = _all(weights, level, threshold, start)
    else:
        threshold = threshold or routes_threshold(weights, start, level=level, max_edges=MOST_LISTED)
        graph = routes(weights, start, threshold=threshold, level=level, max_edges=MOST_LISTED)
        said = f"routes over edges of share ≥ {_number(threshold)}"
    return _strongest(graph, said, start, max_edges)


def _refuse_combination(weights: EdgeWeights, show: str, level: str, heads_in: Sequence[int]) -> None:
    """Say what to choose where the weights of a method do not have what is asked for."""
    method = weights.info.method
    if show in ("rollout", "flow"):
        if weights.ends_in_logit:
            raise ArgumentError(
                f"{show} follows edges from state to state, and those of {method!r} all end in the logit; choose the method "
                "attention, norms or proximity, or show routes or all edges"
            )
        if level == "head" or heads_in:
            raise ArgumentError(f"{show} is between tokens, heads together; choose level token, or show routes")
    if level == "head" and weights.heads_together:
        raise ArgumentError(f"{method!r} takes heads together; choose level token, or the method norms or proximity")


def _all(
    weights: EdgeWeights, level: Literal["token", "head"], threshold: float, start: Node | None
) -> tuple[FlowGraph, str]:
    """Every edge, or above a size that still fits into memory the strongest."""
    said = f"all edges of share ≥ {_number(threshold)}" if threshold else "all edges"
    try:
        return build_graph(
            weights, level=level, threshold=threshold, start=start, max_edges=MOST_LISTED, readings=False
        ), said
    except GraphTooLargeError:
        graph = build_graph(
            weights,
            level=level,
            threshold=threshold,
            start=start,
            top_k=MOST_LISTED,
            max_edges=MOST_LISTED,
            readings=False,
        )
        return graph, f"the {MOST_LISTED:,} edges of the largest share"


def _opened(
    weights: EdgeWeights, show: str, heads_in: Sequence[int], threshold: float, start: Node | None
) -> tuple[FlowGraph, str]:
    """Some layers as their heads; routes are what is strong enough, of which only what leads to the start is kept later."""
    whole = build_graph(weights, heads_in=heads_in, start=start, max_edges=MOST_LISTED, readings=False)
    heads = f"heads of L{', L'.join(map(str, heads_in))} one by one"
    # Opening a layer changes nothing about the others: routes keep the threshold that they have while it is closed.
    if show == "routes" and not threshold:
        level: Literal["token", "head"] = "head" if start is not None and start.kind == "head" else "token"
        threshold = routes_threshold(weights, start, level=level, max_edges=MOST_LISTED)
    if not threshold:
        return whole, f"all edges, {heads}"
    kept = whole.keep(~whole.structural & (np.abs(whole.share) >= threshold), threshold=threshold)
    return kept, f"{'routes over' if show == 'routes' else 'all'} edges of share ≥ {_number(threshold)}, {heads}"


def _strongest(graph: FlowGraph, said: str, start: Node | None, max_edges: int) -> tuple[FlowGraph, str]:
    if not len(graph):
        return graph, f"{said}: none"
    count = len(graph)
    kept = keep_strongest(graph, mass=None, max_edges=max_edges, start=start)
    if len(kept) == count:
        return kept, said
    if len(kept) < max_edges:
        return kept, f"{said}; {len(kept):,} of {count:,} lead to {'the logit' if start is None else start}"
    return kept, f"{said}; the strongest {len(kept):,} of {count:,} that hang together"


def _number(share: float) -> str:
    return f"{share:g}".replace("0.", ".", 1) if share < 1 else f"{share:g}"
