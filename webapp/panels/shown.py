"""What of a graph is on the screen."""

from __future__ import annotations

from flowgraph import FlowGraph
from flowgraph.render import drawing


def shown_graph(graph: FlowGraph, keep: int | None) -> FlowGraph:
    """The part of a graph that the slider shows: the edges whose level is at most ``keep``; None: where the graph opens."""
    drawn = drawing(graph)
    level = drawn.opening_level if keep is None else keep
    if not len(drawn.graph) or int(drawn.level.max()) <= level:
        return graph
    return drawn.graph.keep(drawn.level <= level, slider_level=level)
