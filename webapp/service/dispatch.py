"""The queue before the worker: one question at a time, the same question once, and a worker that is always there again."""

from __future__ import annotations

import logging
import secrets
import threading
import time
import traceback
from collections import deque
from dataclasses import dataclass, field

from flowgraph.errors import FlowgraphError

from .answers import Answer
from .errors import Busy, Cancelled, Closed, InternalError, TimedOut, WorkerDied
from .questions import Question
from .sizes import Cache, size_of
from .worker import KNOWN_ERRORS, LOADING, Answered, Message, Refused, Settings, Staged, Worker

logger = logging.getLogger(__name__)

GRACE = 1.0
"""Seconds in which a worker must obey before it is killed."""
LONGEST_LOADING = 1_800.0
"""Seconds for a process to start and a model to be fetched and loaded; the timeout of a question starts after that."""
_GLANCE = 0.05
"""Seconds between two looks at whether a question that runs is still wanted."""
_ATTEMPTS = 2
_MOST_SPENT = 1_000
STARTING = "starting"
WAITING = "waiting"
_CLOSING = "the server is closing"
_CANCELLED = "the question was cancelled"


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
class _Failure:
    """An error, made anew for everyone who asked."""

    error: type[FlowgraphError]
    message: str


@dataclass(eq=False)
class _Job:
    """One question, and everybody who waits for its answer."""

    question: Question
    number: int
    asks: list[_Ask] = field(default_factory=list)
    stage: Stage = field(default_factory=lambda: Stage(WAITING, None, 0))
    result: Answer | _Failure | None = None


@dataclass(eq=False)
class _Ask:
    """One who waits."""

    job: _Job
    ticket: str | None
    woken: threading.Event = field(default_factory=threading.Event)
    cancelled: bool = False


class Dispatcher:
    """Hands questions to one worker, one after another.

    Parameters
    ----------
    settings
        What the worker may load and keep.
    cache_bytes
        Bound of all answers that are kept.
    queue
        Most questions that wait.
    timeout
        Seconds that an answer may take, once the model is loaded.
    """

    def __init__(self, settings: Settings, cache_bytes: int, queue: int, timeout: float) -> None:
        self._settings, self._queue, self._timeout = settings, queue, timeout
        self.answers: Cache[Question, Answer] = Cache(cache_bytes)
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._jobs: dict[Question, _Job] = {}
        self._waiting: deque[_Job] = deque()
        self._running: _Job | None = None
        self._tickets: dict[str, list[_Ask]] = {}
        self._spent: deque[str] = deque(maxlen=_MOST_SPENT)
        self._worker: Worker | None = None
        self._thread: threading.Thread | None = None
        self._count = 0
        self._closed = False

    @property
    def worker_pid(self) -> int | None:
        """Number of the worker process; None while there is none."""
        worker = self._worker
        return None if worker is None else worker.pid

    def kept(self, question: Question) -> Answer | None:
        """The answer that is kept for a question."""
        with self._lock:
            return self.answers.get(question)

    def keep(self, question: Question, answer: Answer) -> None:
        """Keep an answer that came from elsewhere."""
        size = size_of((question, answer))
        with self._lock:
            self.answers.put(question, answer, size)

    def kept_for(self, run: Question) -> dict[Question, Answer]:
        """All answers that are kept about a run."""
        with self._lock:
            return {q: answer for q, answer in self.answers.items() if run in (q, getattr(q, "run", None))}

    def ask(self, question: Question, ticket: str | None) -> Answer:
        """The answer: kept, or the worker's; blocks until there is one."""
        with self._lock:
            if self._closed:
                raise Closed(_CLOSING)
            if ticket in self._spent:
                raise Cancelled(_CANCELLED)
            found = self.answers.get(question)
            if found is not None:
                return found
            ask = _Ask(self._job(question), ticket)
            ask.job.asks.append(ask)
            if ticket is not None:
                self._tickets.setdefault(ticket, []).append(ask)
        try:
            ask.woken.wait()
        finally:
            self._withdraw(ask)
        if ask.cancelled:
            raise Cancelled(_CANCELLED)
        result = ask.job.result
        if isinstance(result, _Failure):
            raise result.error(result.message)
        assert result is not None
        return result

    def progress(self, ticket: str) -> Stage | None:
        """Where the last question of a ticket is; None where none is open."""
        with self._lock:
            asks = self._tickets.get(ticket)
            if not asks:
                return None
            job = asks[-1].job
            if job not in self._waiting:
                return job.stage
            return Stage(WAITING, None, self._waiting.index(job) + (self._running is not None))

    def cancel(self, ticket: str) -> bool:
        """Take back every question of a ticket, those too that it has not asked yet; whether one was open."""
        with self._lock:
            self._spent.append(ticket)
            asks = self._tickets.get(ticket, [])
            for ask in asks:
                ask.cancelled = True
                ask.woken.set()
            return bool(asks)

    def close(self) -> None:
        """Refuse every open and every further question, and end the worker."""
        with self._lock:
            self._closed = True
            for job in list(self._jobs.values()):
                self._finish(job, _Failure(Closed, _CLOSING))
            self._waiting.clear()
            self._changed.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join()

    def _job(self, question: Question) -> _Job:
        """The job that answers a question already, or a new one at the end of the queue."""
        job = self._jobs.get(question)
        if job is not None:
            return job
        if len(self._waiting) >= self._queue:
            raise Busy(f"{len(self._waiting)} questions are waiting, as many as this server lets wait; try again soon")
        self._count += 1
        job = self._jobs[question] = _Job(question, self._count)
        self._waiting.append(job)
        if self._thread is None:
            self._thread = threading.Thread(target=self._dispatch, name="flowgraph-dispatch", daemon=True)
            self._thread.start()
        self._changed.notify_all()
        return job

    def _withdraw(self, ask: _Ask) -> None:
        """Forget one who waits, and a job that nobody waits for and that has not begun."""
        with self._lock:
            ask.job.asks.remove(ask)
            if ask.ticket is not None:
                asks = self._tickets[ask.ticket]
                asks.remove(ask)
                if not asks:
                    del self._tickets[ask.ticket]
            if not ask.job.asks and ask.job in self._waiting:
                self._waiting.remove(ask.job)
                del self._jobs[ask.job.question]

    def _dispatch(self) -> None:
        """Answer one job after another until the service is closed."""
        while True:
            with self._lock:
                while not (self._waiting or self._closed):
                    self._changed.wait()
                if self._closed:
                    break
                job = self._running = self._waiting.popleft()
                job.stage = Stage(STARTING, None, 0)
            try:
                result = self._answer(job)
            except Exception as error:  # whoever waits must hear of a fault here too, and the next question goes on
                result = _internal(error)
                self._discard_worker()
            with self._lock:
                self._finish(job, result)
                self._running = None
        self._discard_worker()

    def _finish(self, job: _Job, result: Answer | _Failure) -> None:
        """Hand a result to everybody who waits for it."""
        if job.result is not None:
            return
        job.result = result
        if not isinstance(result, _Failure):
            self.answers.put(job.question, result, size_of((job.question, result)))
        if self._jobs.get(job.question) is job:
            del self._jobs[job.question]
        for ask in job.asks:
            ask.woken.set()

    def _answer(self, job: _Job) -> Answer | _Failure:
        """Ask the worker; a second one, if the first dies of something else than our own hand."""
        for _ in range(_ATTEMPTS):
            if self._worker is None or not self._worker.alive:
                self._discard_worker()
                self._worker = Worker(self._settings)
            try:
                self._worker.ask(job.number, job.question)
                return self._followed(job, self._worker)
            except (EOFError, OSError):
                logger.warning("worker %d ended while it worked on question %d", self._worker.pid, job.number)
                self._discard_worker()
                job.stage = Stage(STARTING, None, 0)
        return _Failure(
            WorkerDied,
            f"the process that runs the model ended {_ATTEMPTS} times while it worked on this; perhaps its memory did not "
            "suffice. Ask again, with a shorter prompt if it ends once more",
        )

    def _followed(self, job: _Job, worker: Worker) -> Answer | _Failure:
        """Follow a question until its answer comes, nobody wants it, or its time is over."""
        begun, loading = time.monotonic(), worker.fresh
        given_up, why = 0.0, _Failure(Cancelled, _CANCELLED)
        while True:
            message = worker.receive(_GLANCE)
            now = time.monotonic()
            if isinstance(message, Staged):
                if message.number == job.number:
                    job.stage = Stage(message.name, message.part, 0)
                    begun, loading = self._clock(message, begun, loading, now)
            elif message is not None and message.number == job.number:
                return _result(message, why)
            if given_up:
                if now - given_up > (0 if self._closed else GRACE):
                    self._discard_worker()
                    return why
                continue
            limit = LONGEST_LOADING if loading else self._timeout
            if now - begun > limit:
                why = _Failure(
                    TimedOut, f"no answer after {limit:g} seconds; the run was stopped at {job.stage.name!r}"
                )
            if now - begun > limit or self._unwanted(job):
                self._retire(job)
                given_up = now
                worker.cancel(job.number)

    @staticmethod
    def _clock(message: Staged, begun: float, loading: bool, now: float) -> tuple[float, bool]:
        """When the time of a question began, and whether its model is still being loaded."""
        still = message.name.startswith(LOADING)
        return (now if loading and not still else begun), still

    def _unwanted(self, job: _Job) -> bool:
        """Whether nobody waits for a job any more."""
        with self._lock:
            return self._closed or not job.asks

    def _retire(self, job: _Job) -> None:
        """Let nobody join a job that is given up."""
        with self._lock:
            if self._jobs.get(job.question) is job:
                del self._jobs[job.question]

    def _discard_worker(self) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.stop()


def _result(message: Message, why: _Failure) -> Answer | _Failure:
    if isinstance(message, Answered):
        return message.answer
    if not isinstance(message, Refused):
        return why
    if message.details is None:
        return _Failure(KNOWN_ERRORS[message.error], message.message)
    return _logged(message.details)


def _internal(error: Exception) -> _Failure:
    return _logged("".join(traceback.format_exception(error)))


def _logged(details: str) -> _Failure:
    """A fault of the program: its details stay in the log."""
    reference = secrets.token_hex(4)
    logger.error("internal error %s\n%s", reference, details)
    return _Failure(
        InternalError,
        f"this could not be answered: an internal error, reference {reference}. The server's log says more",
    )
