"""Flow graphs for the page: the edges that :func:`flowgraph.picture_edges` chooses, with the readings of their nodes."""

from __future__ import annotations

import flowgraph
from flowgraph.render import COLOURED_KINDS

from ..server.answers import MOST_EDGES, GraphAnswer
from ..server.questions import GraphQuestion, SketchQuestion
from ..server.traces import Check, Traces

Asked = GraphQuestion | SketchQuestion


def graph(traces: Traces, question: Asked, check: Check) -> GraphAnswer:
    """The flow graph of a run."""
    weights = traces.weights(question.run, question.method, check)
    if question.layers is not None:
        weights = weights.window(*question.layers)
    check("drawing the graph", None)
    drawn, note = flowgraph.picture_edges(
        weights,
        show=question.show,
        level=question.level,
        heads_in=question.heads_in,
        threshold=question.threshold,
        start=question.start,
        max_edges=MOST_EDGES,
    )
    wanted = [n for n in drawn.nodes if isinstance(question, GraphQuestion) or n.kind in COLOURED_KINDS]
    readings = dict(zip(wanted, traces.readings(question.run, wanted, check), strict=True))
    return GraphAnswer(drawn.with_readings(tuple(readings.get(node) for node in drawn.nodes)), note)
