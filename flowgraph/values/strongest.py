"""The strongest connected part of a graph."""

from __future__ import annotations

from dataclasses import replace
from numbers import Integral, Real
from typing import Any

import numpy as np

from ..errors import ArgumentError
from .arguments import takes
from .connected_flow import by_level, flow_levels, topological_levels
from .flow_graph import FlowGraph
from .mass import edge_mass, into_start
from .node import Node


@takes(FlowGraph)
def keep_strongest(
    graph: FlowGraph,
    *,
    mass: float | None = 0.8,
    max_edges: int | None = 300,
    start: Node | None = None,
) -> FlowGraph:
    """Keep the strongest part of a graph that is connected to ``start``.

    Edges are taken by decreasing level (ties: the edge nearer to the start first, then the order of the graph), until they hold
    ``mass`` of the whole, see :func:`flowgraph.mass`, or are ``max_edges``. The level of an edge is the smallest flow on the
    best way from it to the start over edges of ``graph``, as for :func:`critical_levels`. The flow is that of the whole graph,
    so a second cut takes edges in the same order as the first. Every such prefix is connected: each edge has a way to the start
    over edges taken before it. Edges without such a way, among them structural edges, are never taken.

    Parameters
    ----------
    graph
        An acyclic graph.
    mass
        Part of the whole flow into the start to keep, above 0 and at most 1. It refers to the whole even if the graph was cut
        before. None keeps every edge that has a way to the start.
    max_edges
        Largest number of edges; None for no limit.
    start
        As for :func:`connected_flow`.

    Returns
    -------
    The graph of the kept edges, in the order they were taken. ``info.filters`` gains ``path_mass`` (if ``mass`` is given), and
    ``max_edges`` only if that limit cut away edges that ``mass`` would have kept.

    Raises
    ------
    ArgumentError
        If ``mass`` or ``max_edges`` is out of range; else as for :func:`connected_flow`.

    Examples
    --------
    >>> graph = fg.build_graph(trace, method="proximity", readings=False)
    >>> len(fg.keep_strongest(graph, mass=None, max_edges=50))
    50
    """
    if mass is not None and not (isinstance(mass, Real) and 0 < mass <= 1):
        raise ArgumentError(
            f"mass={mass!r} must be a number above 0 and at most 1, or None to keep every edge that has flow"
        )
    if max_edges is not None and not (isinstance(max_edges, Integral) and max_edges >= 1):
        raise ArgumentError(f"max_edges={max_edges!r} must be 1 or more, or None for no limit")
    graph = into_start(graph, start)
    depths = topological_levels(graph)
    # The flow of the whole graph, so that a graph cut twice keeps the same edges as one cut once.
    order = by_level(flow_levels(graph, graph.flow, start, depths=depths), depths)
    # Edges come in the order in which they are taken, so the running sum is the mass of each prefix.
    reached = np.cumsum(edge_mass(graph)[order])
    # Rounding must not ask for one more edge.
    wanted = len(order) if mass is None else min(int(np.searchsorted(reached, mass * (1 - 1e-12))) + 1, len(order))
    count = wanted if max_edges is None else min(wanted, max_edges)
    filters: dict[str, float | int | str] = {}
    if mass is not None:
        filters["path_mass"] = mass
    if max_edges is not None and count < wanted:
        filters["max_edges"] = max_edges
    return made_by(graph.keep(order[:count], **filters), "keep_strongest", mass=mass, max_edges=max_edges)


def made_by(graph: FlowGraph, function: str, **arguments: Any) -> FlowGraph:
    """Add one more call to ``made_by`` in the graph's provenance; a graph without earlier calls stays as it is."""
    before = graph.info.provenance.get("made_by")
    if before is None:
        return graph
    call = f"flowgraph.{function}(…, {', '.join(f'{name}={value!r}' for name, value in arguments.items())})"
    provenance = {**graph.info.provenance, "made_by": f"{before}; {call}"}
    return replace(graph, info=replace(graph.info, provenance=provenance))
