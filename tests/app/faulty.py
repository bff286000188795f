"""A question whose answer has a fault. The worker, another process, imports it from here."""

from __future__ import annotations

from dataclasses import dataclass

from flowgraph_webapp.server.question import Question
from flowgraph_webapp.server.traces import Check, Traces


@dataclass(frozen=True)
class FaultyQuestion(Question[int]):
    """Looks up what is not there."""

    def answer(self, traces: Traces, check: Check) -> int:
        return {}["nothing"]
