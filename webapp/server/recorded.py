"""Answers that were recorded: of the bundled examples, and of the sessions that are open on this server."""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from dataclasses import dataclass, replace
from pathlib import Path

from flowgraph.errors import ArgumentError

from ..recipe import Recipe
from ..session import Session, open_recorded
from .question import A, Question
from .run import RunQuestion
from .sizes import size_of

EXAMPLES = Path(__file__).parent.parent / "examples"
MOST_SESSIONS = 16
MOST_SESSION_BYTES = 512 * 2**20


@dataclass(frozen=True)
class Example:
    """A bundled example: its id, what to call it, and what it opens on."""

    id: str
    title: str
    recipe: Recipe


class Examples:
    """The bundled examples; their answers are unpacked when they are asked for."""

    def __init__(self, folder: Path = EXAMPLES) -> None:
        self._lock = threading.Lock()
        self._sessions = {path.stem: open_recorded(path.read_bytes()) for path in sorted(folder.glob("*.flowgraph"))}
        self._of_run: dict[RunQuestion, list[Session]] = {}
        for session in self._sessions.values():
            for question in session.answers:
                if isinstance(question, RunQuestion):
                    self._of_run.setdefault(question, []).append(session)

    def listed(self) -> tuple[Example, ...]:
        """All examples in the order of their names."""
        return tuple(
            Example(name, session.title, replace(session.recipe, example=name))
            for name, session in self._sessions.items()
        )

    def holds(self, run: RunQuestion) -> bool:
        """Whether a run was recorded in an example."""
        return run in self._of_run

    def answer(self, run: RunQuestion, question: Question[A]) -> A | None:
        """The recorded answer of a question about a run; None where there is none."""
        with self._lock:
            found = (session.answers.get(question) for session in self._of_run.get(run, ()))
            return next((answer for answer in found if answer is not None), None)


class Sessions:
    """Sessions that were opened; those that were not looked at for longest are closed when there are too many."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: OrderedDict[str, tuple[Session, int]] = OrderedDict()

    def add(self, session: Session) -> Session:
        """Open a session; its recipe names it from now on."""
        name = secrets.token_urlsafe(9)
        session = replace(session, id=name, recipe=replace(session.recipe, session=name, example=None))
        size = size_of(dict(session.answers)) + len(session.trace)
        with self._lock:
            self._open[name] = session, size
            while len(self._open) > 1 and (
                len(self._open) > MOST_SESSIONS or sum(held for _, held in self._open.values()) > MOST_SESSION_BYTES
            ):
                self._open.popitem(last=False)
        return session

    def session(self, name: str) -> Session:
        """The session of an id.

        Raises
        ------
        ArgumentError
            If there is none; the server may have been started again since.
        """
        with self._lock:
            if name not in self._open:
                raise ArgumentError(f"session={name[:64]!r} is not open on this server; open its file again")
            self._open.move_to_end(name)
            return self._open[name][0]
