"""What one node says, as an answer of the server."""

from __future__ import annotations

import flowgraph

from ..server.answers import NodeAnswer
from ..server.questions import NodeQuestion
from ..server.traces import Check, Traces

NEURONS = 50
"""Strongest neurons of a logit that are shown."""


def node(traces: Traces, question: NodeQuestion, check: Check) -> NodeAnswer:
    """What one node says."""
    trace, asked = traces.trace(question.run, check), question.node
    is_added = trace.model.has_attribution and asked.position in (None, trace.position)
    parts = traces.attribution(question.run, check) if is_added else None
    check("reading a node", None)
    said = flowgraph.node_details(trace, asked, attribution=parts)
    attention = None if said.attention is None else tuple(said.attention.tolist())
    return NodeAnswer(asked, str(asked), said.reading, said.contribution, attention, said.note)
