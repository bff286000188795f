"""Questions on their way to the worker: who waits for each, how far it is, and what came of it."""

from __future__ import annotations

import logging
import secrets
import threading
import time
import traceback
from dataclasses import dataclass, field
from typing import Any

from flowgraph.errors import FlowgraphError

from .errors import Cancelled, InternalError, WorkerDied
from .messages import KNOWN_ERRORS, Answered, Message, Refused
from .question import Question

logger = logging.getLogger(__name__)

ATTEMPTS = 2
"""Workers that may die of one question."""
WAITING = "waiting"


@dataclass(frozen=True)
class Stage:
    """Where a question is.

    Attributes
    ----------
    name
        ``"waiting"``, ``"starting"``, ``"loading the model"``, ``"tracing"`` …
    part
        What part of the stage is done, 0 to 1; None where that is not known.
    waiting
        How many questions are answered before this one; 0 for the one that runs.
    """

    name: str
    part: float | None
    waiting: int


@dataclass(frozen=True)
class Failure:
    """An error, made anew for everyone who asked."""

    error: type[FlowgraphError]
    message: str


CANCELLED = "the question was cancelled"
GIVEN_UP = Failure(Cancelled, CANCELLED)


@dataclass(eq=False)
class Job:
    """One question, and everybody who waits for its answer.

    Attributes
    ----------
    deaths
        How often a worker died while it had the question.
    begun
        When the time of the question began; None while the worker is busy with another.
    loading
        Whether its model is still being loaded.
    given_up
        When it was taken back from the worker; None while it is wanted.
    why
        What is said if it is given up.
    left
        When the last who waited for it closed the connection; None while somebody waits, or where it was taken back.
    """

    question: Question[Any]
    number: int
    asks: list[Ask] = field(default_factory=list)
    stage: Stage = field(default_factory=lambda: Stage(WAITING, None, 0))
    result: Any = None
    deaths: int = 0
    begun: float | None = None
    loading: bool = False
    given_up: float | None = None
    why: Failure = GIVEN_UP
    left: float | None = None

    @property
    def is_long(self) -> bool:
        """Whether others are answered between its steps."""
        return self.question.long


@dataclass(eq=False)
class Ask:
    """One who waits; ``heard`` is when they last asked how far it is."""

    job: Job
    ticket: str | None
    woken: threading.Event = field(default_factory=threading.Event)
    cancelled: bool = False
    heard: float = field(default_factory=time.monotonic)


DIED = Failure(
    WorkerDied,
    f"the process that runs the model ended {ATTEMPTS} times while it worked on this; perhaps its memory did not "
    "suffice. Ask again, with a shorter prompt if it ends once more",
)


def outcome(message: Message, why: Failure) -> Any:
    """The answer that a message of the worker brings, or a :class:`Failure`; ``why`` where the question was taken back."""
    if isinstance(message, Answered):
        return message.answer
    if not isinstance(message, Refused):
        return why
    if message.details is None:
        return Failure(KNOWN_ERRORS[message.error], message.message)
    return _logged(message.details)


def internal(error: Exception) -> Failure:
    """A fault of the program, in this process."""
    return _logged("".join(traceback.format_exception(error)))


def _logged(details: str) -> Failure:
    """A fault of the program: its details stay in the log."""
    reference = secrets.token_hex(4)
    logger.error("internal error %s\n%s", reference, details)
    return Failure(
        InternalError,
        f"this could not be answered: an internal error, reference {reference}. The server's log says more",
    )
