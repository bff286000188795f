"""A stand-in for the service: the same real answers, computed in this process, without a worker or a queue."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from flowgraph_webapp.recipe import Recipe
from flowgraph_webapp.server.dispatch import Stage
from flowgraph_webapp.server.errors import Cancelled
from flowgraph_webapp.server.messages import MOST_TOKENS
from flowgraph_webapp.server.recorded import Example
from flowgraph_webapp.server.run import RunQuestion, run_of, with_run
from flowgraph_webapp.server.service import SavedSession
from flowgraph_webapp.server.traces import Traces
from flowgraph_webapp.session import Annotations, Session, read_session, write_session

EXAMPLE = "The capital of Japan is the city of"


class FakeService:
    """Answers every question once, and keeps the answers.

    Attributes
    ----------
    asked
        Every question that was put, in order.
    hold
        While it is cleared, questions with a ticket wait, as they would behind a long run.
    failure
        An error that the next question with a ticket raises.
    """

    def __init__(self, models: Sequence[str] = ("smollm2",)) -> None:
        self.models = tuple(models)
        self.examples = (
            Example("japan", "The capital of Japan", Recipe(model=models[0], text=EXAMPLE, example="japan")),
        )
        self.asked: list[Any] = []
        self.sessions: dict[str, Session] = {}
        self.cancelled: set[str] = set()
        self.failure: Exception | None = None
        self.hold = threading.Event()
        self.hold.set()
        self._lock = threading.RLock()
        self._kept: dict[Any, Any] = {}
        self._traces = Traces(models, 2**28, MOST_TOKENS)
        self._stages: dict[str, Stage] = {}

    def ready(self, question: Any, *, gone: Any = None) -> Any:
        return self.ask(question)

    def ask(self, question: Any, *, ticket: str | None = None, gone: Any = None) -> Any:
        self.asked.append(question)
        run = run_of(question)
        if run is not None and run.session is not None:
            question = with_run(question, replace(run, session=None))
            found = self.sessions[run.session].answers.get(question.whole)
            if found is not None:
                return found
        if ticket is not None:
            self._wait(ticket)
        with self._lock:
            if question not in self._kept:
                self._kept[question] = question.answer(self._traces, lambda *_: None)
            return self._kept[question]

    def known(self, question: Any) -> Any:
        run = run_of(question)
        assert run is not None
        found = self.sessions[run.session].answers if run.session is not None else self._kept
        return found.get(with_run(question, replace(run, session=None)))

    def _wait(self, ticket: str) -> None:
        failure, self.failure = self.failure, None
        if failure is not None:
            raise failure
        self._stages[ticket] = Stage("tracing", 0.4, 2)
        while not self.hold.wait(0.02):
            if ticket in self.cancelled:
                raise Cancelled("the question was cancelled")
        self._stages.pop(ticket, None)

    def open_session(self, data: bytes) -> Session:
        return self.add_session(read_session(data))

    def add_session(self, session: Session) -> Session:
        session = replace(session, id="opened", recipe=replace(session.recipe, session="opened"))
        self.sessions["opened"] = session
        return session

    def session_file(self, recipe: Recipe, annotations: Annotations | None = None, title: str = "") -> SavedSession:
        run = replace(RunQuestion.of(recipe), session=None)
        answers = {run: self.ask(run)}
        asked = {q.whole for q in self._kept if getattr(q, "run", None) == run}
        answers |= {question: self.ask(question) for question in asked}
        return SavedSession(write_session(recipe, answers, annotations, title), "it is a stand-in")

    def progress(self, ticket: str) -> Stage | None:
        return self._stages.get(ticket)

    def cancel(self, ticket: str) -> bool:
        self.cancelled.add(ticket)
        return ticket in self._stages

    def close(self) -> None:
        self.hold.set()
