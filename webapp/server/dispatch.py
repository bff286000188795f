"""The queue before the worker: one question at a time, the same question once, and a worker that is always there again.

Questions that take minutes run in the background: the worker puts one aside between two of its steps to answer what came
meanwhile. So at most two are handed over at a time, one of each sort.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from .errors import Busy, Cancelled, Closed, TimedOut
from .jobs import ATTEMPTS, CANCELLED, DIED, GIVEN_UP, WAITING, Ask, Failure, Job, Stage, internal, outcome
from .memory import give_back
from .messages import LOADING, Begun, Message, Settings, Staged
from .question import A, Question
from .run import RunQuestion, run_of
from .sizes import Cache, size_of
from .worker import Worker

logger = logging.getLogger(__name__)

GRACE = 1.0
"""Seconds in which a worker must obey before it is killed."""
LONGEST_LOADING = 1_800.0
"""Seconds for a process to start and a model to be fetched and loaded; the timeout of a question starts after that."""
LONGEST_STEP = 900.0
"""Seconds in which a question in the background must say something; in all it may take as long as it needs."""
PATIENCE = 20.0
"""Seconds in which a question in the background must obey before its worker, which others use too, is killed."""
ABANDONED = 300.0
"""Seconds after which a page that does not ask how far its question is has left. Hidden tabs ask once a minute."""
LEFT = 5.0
"""Seconds that a run goes on after the last page that waited for it was closed: a page that is loaded anew asks again."""
MOST_WAITERS = 40
"""Questions that wait for an answer at once, those for the same answer counted one by one: each keeps a thread."""
_MANY = 2**24
"""Bytes of answers that went, after which free memory is given back to the system."""
_PULSE = 0.25
"""Seconds between two looks at whether who waits is still there."""
_GLANCE = 0.05
"""Seconds between two looks at whether a question that runs is still wanted."""
_MOST_SPENT = 1_000
STARTING = "starting"
PAUSING = "waiting until the search for a circuit pauses"
_CLOSING = "the server is closing"


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
        Seconds that an answer may take, once the model is loaded; one in the background may take longer.
    """

    def __init__(self, settings: Settings, cache_bytes: int, queue: int, timeout: float) -> None:
        self._settings, self._queue, self._timeout = settings, queue, timeout
        self.answers: Cache[Question[Any], Any] = Cache(cache_bytes)
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._jobs: dict[Question[Any], Job] = {}
        self._waiting: deque[Job] = deque()
        self._running: Job | None = None
        self._searching: Job | None = None
        self._tickets: dict[str, list[Ask]] = {}
        self._spent: deque[str] = deque(maxlen=_MOST_SPENT)
        self._worker: Worker | None = None
        self._thread: threading.Thread | None = None
        self._count = 0
        self._waiters = 0
        self._closed = False

    @property
    def worker_pid(self) -> int | None:
        """Number of the worker process; None while there is none."""
        worker = self._worker
        return None if worker is None else worker.pid

    def kept(self, question: Question[A]) -> A | None:
        """The answer that is kept for a question."""
        with self._lock:
            return self.answers.get(question)

    def keep(self, question: Question[A], answer: A) -> None:
        """Keep an answer that came from elsewhere."""
        size = size_of((question, answer))
        with self._lock:
            self.answers.put(question, answer, size)

    def kept_for(self, run: RunQuestion) -> dict[Question[Any], Any]:
        """All answers that are kept about a run."""
        with self._lock:
            return {q: answer for q, answer in self.answers.items() if run_of(q) == run}

    def has_traced(self, run: RunQuestion) -> bool:
        """Whether there is a worker and the answer of a run of the same prompt is kept, whatever its target."""
        with self._lock:
            runs = [question for question, _ in self.answers.items() if isinstance(question, RunQuestion)]
        same = replace(run, target=None, foil=None)
        return self._worker is not None and any(replace(one, target=None, foil=None) == same for one in runs)

    def ask(
        self,
        question: Question[A],
        ticket: str | None,
        gone: Callable[[], bool] | None = None,
        patience: float | None = None,
    ) -> A:
        """The answer: kept, or the worker's; blocks until there is one.

        Parameters
        ----------
        question
            What is asked.
        ticket
            Name under which the caller follows the question and takes it back.
        gone
            Whether the caller's connection is closed; None for a caller in this process.
        patience
            Seconds without a sign of the caller, as :meth:`progress` is one, after which it is no longer waited for; None: those
            of a page, and no limit for a caller in this process.
        """
        with self._lock:
            if self._closed:
                raise Closed(_CLOSING)
            if ticket in self._spent:
                raise Cancelled(CANCELLED)
            found: A | None = self.answers.get(question)
            if found is not None:
                return found
            ask = self._join(self._job(question), ticket)
        if patience is None and (ticket is not None or gone is not None):
            patience = ABANDONED
        answer: A = self._wait(ask, gone, patience)
        return answer

    def join(self, question: Question[A], patience: float, gone: Callable[[], bool] | None = None) -> A | None:
        """The answer that is kept or being made, waited for so many seconds; None where nobody has asked."""
        with self._lock:
            if self._closed:
                raise Closed(_CLOSING)
            job = self._jobs.get(question)
            if job is None or not job.asks:
                return self.answers.get(question)
            ask = self._join(job, None)
        answer: A = self._wait(ask, gone, patience)
        return answer

    def _join(self, job: Job, ticket: str | None) -> Ask:
        """Let one more wait for a job, if not too many wait already."""
        if self._waiters >= MOST_WAITERS:
            self._drop(job)
            raise Busy(f"{self._waiters} questions are waiting, as many as this server lets wait; try again soon")
        self._waiters += 1
        ask = Ask(job, ticket)
        job.asks.append(ask)
        job.left = None
        if ticket is not None:
            self._tickets.setdefault(ticket, []).append(ask)
        return ask

    def _wait(self, ask: Ask, gone: Callable[[], bool] | None, patience: float | None) -> Any:
        """Block until there is a result, the caller has left, or its patience is over."""
        try:
            while not ask.woken.wait(_PULSE):
                if gone is not None and gone():
                    ask.job.left = time.monotonic()
                    raise Cancelled("whoever asked has closed the connection")
                if patience is not None and time.monotonic() - ask.heard > patience:
                    raise TimedOut(f"no answer after {patience:g} seconds")
        finally:
            self._withdraw(ask)
        if ask.cancelled:
            raise Cancelled(CANCELLED)
        result = ask.job.result
        if isinstance(result, Failure):
            raise result.error(result.message)
        assert result is not None
        return result

    def progress(self, ticket: str) -> Stage | None:
        """Where the last question of a ticket is; None where none is open."""
        with self._lock:
            asks = self._tickets.get(ticket)
            if not asks:
                return None
            for ask in asks:
                ask.heard = time.monotonic()
            job = asks[-1].job
            if job not in self._waiting:
                return job.stage
            before = [one for one in self._waiting if one.is_long == job.is_long].index(job)
            held_up = self._searching or self._running if job.is_long else self._running
            return Stage(WAITING, None, before + (held_up is not None))

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
                self._finish(job, Failure(Closed, _CLOSING))
            self._waiting.clear()
            self._changed.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join()

    def _job(self, question: Question[Any]) -> Job:
        """The job that answers a question already, or a new one at the end of the queue."""
        job = self._jobs.get(question)
        if job is not None:
            return job
        # Of a worker that is free the first one does not wait; it only has not been handed over yet.
        if len(self._waiting) >= self._queue + (self._running is None):
            raise Busy(f"{len(self._waiting)} questions are waiting, as many as this server lets wait; try again soon")
        self._count += 1
        job = self._jobs[question] = Job(question, self._count)
        self._waiting.append(job)
        if self._thread is None:
            self._thread = threading.Thread(target=self._dispatch, name="flowgraph-dispatch", daemon=True)
            self._thread.start()
        self._changed.notify_all()
        return job

    def _withdraw(self, ask: Ask) -> None:
        """Forget one who waits, and a job that nobody waits for and that has not begun."""
        with self._lock:
            self._waiters -= 1
            ask.job.asks.remove(ask)
            if ask.ticket is not None:
                asks = self._tickets[ask.ticket]
                asks.remove(ask)
                if not asks:
                    del self._tickets[ask.ticket]
            self._drop(ask.job)

    def _drop(self, job: Job) -> None:
        """Forget a job that nobody waits for and that has not begun."""
        if not job.asks and job in self._waiting:
            self._waiting.remove(job)
            del self._jobs[job.question]

    def _dispatch(self) -> None:
        """Hand over, listen, look after what runs, until the service is closed."""
        while True:
            with self._lock:
                while not (self._waiting or self._active() or self._closed):
                    self._changed.wait()
                if self._closed:
                    break
                chosen = self._chosen()
            try:
                worker = self._alive_worker(chosen)
                for job in chosen:
                    self._hand_over(job, worker)
                self._listen(worker)
            except (EOFError, OSError):
                self._bury_worker()
            except Exception as error:  # whoever waits must hear of a fault here too, and the next question goes on
                for job in self._active():
                    self._finish(job, internal(error))
                self._discard_worker()
        self._discard_worker()

    def _active(self) -> list[Job]:
        """What the worker has: at most one question in the foreground and one in the background."""
        return [job for job in (self._running, self._searching) if job is not None]

    def _chosen(self) -> list[Job]:
        """Take what can be handed over now out of the queue.

        A search goes first where both can begin, since it lets others through. A question during which a worker has died is
        asked again by itself, so that it does not suffer from its neighbour a second time.
        """
        chosen = []
        short = next((job for job in self._waiting if not job.is_long), None)
        is_risky = short is not None and short.deaths > 0
        if not self._active() and not is_risky:
            self._searching = next((job for job in self._waiting if job.is_long), None)
            chosen += self._active()
        if self._running is None and short is not None and not (is_risky and self._searching):
            self._running = short
            chosen.append(short)
        for job in chosen:
            self._waiting.remove(job)
        return chosen

    def _alive_worker(self, chosen: list[Job]) -> Worker:
        """The worker, or a new one; raises ``EOFError`` where one has died of what it had before."""
        if self._worker is not None and self._worker.alive:
            return self._worker
        if any(job not in chosen for job in self._active()):
            raise EOFError("the worker ended")
        self._discard_worker()
        self._worker = Worker(self._settings)
        return self._worker

    def _hand_over(self, job: Job, worker: Worker) -> None:
        """Ask the worker; raises ``OSError`` where it has just died."""
        behind = not job.is_long and self._searching is not None
        job.stage = Stage(PAUSING if behind else STARTING, None, 0)
        job.begun = None if behind else time.monotonic()
        job.loading, job.given_up, job.why = worker.fresh, None, GIVEN_UP
        worker.ask(job.number, job.question)

    def _listen(self, worker: Worker) -> None:
        """Hear one message, and stop what nobody wants or what takes too long."""
        message = worker.receive(_GLANCE)
        now = time.monotonic()
        for job in self._active():
            if message is not None:
                self._hear(job, message, now)
            if job.result is None and self._worker is worker:
                self._look_after(job, worker, now)

    def _hear(self, job: Job, message: Message, now: float) -> None:
        """What a message says of a job; while another is answered, a search has no time of its own."""
        if message.number != job.number:
            job.begun = now if job.is_long else job.begun
        elif isinstance(message, Begun):
            job.stage, job.begun = Stage(STARTING, None, 0), now
        elif isinstance(message, Staged):
            still = message.name.startswith(LOADING)
            job.stage = Stage(message.name, message.part, 0)
            if job.is_long or job.begun is None or (job.loading and not still):
                job.begun = now
            job.loading = still
        else:
            self._finish(job, outcome(message, job.why))

    def _look_after(self, job: Job, worker: Worker, now: float) -> None:
        """Take back a job that nobody wants or whose time is over; end the worker if it does not obey."""
        if job.given_up is not None:
            if now - job.given_up > (PATIENCE if job.is_long else GRACE):
                self._discard_worker()
                self._put_back()
            return
        limit = LONGEST_LOADING if job.loading else LONGEST_STEP if job.is_long else self._timeout
        is_late = job.begun is not None and now - job.begun > limit
        if is_late:
            job.why = Failure(TimedOut, f"no answer after {limit:g} seconds; the run was stopped at {job.stage.name!r}")
        if is_late or self._unwanted(job, now):
            self._retire(job)
            job.given_up = now
            worker.cancel(job.number, job.is_long)

    def _bury_worker(self) -> None:
        """The worker died of something else than our own hand: ask once more what it had, but not for ever."""
        logger.warning("the worker ended while it worked on %s", [job.number for job in self._active()])
        self._discard_worker()
        for job in self._active():
            job.deaths += 1
            if job.given_up is None and job.deaths >= ATTEMPTS:
                self._finish(job, DIED)
        self._put_back()

    def _put_back(self) -> None:
        """What a worker had when it was ended comes first in the queue."""
        with self._lock:
            for job in self._active():
                if job.given_up is not None or not job.asks:
                    self._finish(job, job.why)
                else:
                    job.stage = Stage(WAITING, None, 0)
                    self._waiting.appendleft(job)
            self._running = self._searching = None

    def _finish(self, job: Job, result: Any) -> None:
        """Hand a result to everybody who waits for it."""
        with self._lock:
            self._running = None if job is self._running else self._running
            self._searching = None if job is self._searching else self._searching
            if job.result is not None:
                return
            job.result = result
            if job.question.kept and not isinstance(result, Failure):
                self.answers.put(job.question, result, size_of((job.question, result)))
                if self.answers.dropped > _MANY:
                    self.answers.dropped = 0
                    give_back()
            if self._jobs.get(job.question) is job:
                del self._jobs[job.question]
            for ask in job.asks:
                ask.woken.set()

    def _unwanted(self, job: Job, now: float) -> bool:
        """Whether nobody waits for a job any more.

        Where the last of them closed the page, it goes on for a while, and to its end while a model is being loaded: whoever
        asks next needs that too.
        """
        with self._lock:
            if self._closed or job.asks or job.left is None:
                return self._closed or all(ask.cancelled for ask in job.asks)
            return not job.loading and now - job.left > (ABANDONED if job.is_long else LEFT)

    def _retire(self, job: Job) -> None:
        """Let nobody join a job that is given up."""
        with self._lock:
            if self._jobs.get(job.question) is job:
                del self._jobs[job.question]

    def _discard_worker(self) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.stop()
