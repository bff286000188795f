"""Questions in, answers out: recorded ones at once, known ones from the cache, all others from the one worker process."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from flowgraph.errors import ArgumentError, FlowgraphError, ModelNeededError

from ..recipe import Recipe, check_model
from ..session import Annotations, Session, read_session, with_trace, write_session
from ..session.archive import LARGEST_FILE
from ..session.container import LARGEST_TRACE
from .dispatch import Dispatcher
from .errors import Busy, NotYet
from .jobs import Stage
from .messages import MOST_TOKENS, Settings
from .model import ModelQuestion
from .question import A, Question
from .recorded import Example, Examples, Sessions
from .run import NO_TEXT, RunQuestion, run_of, with_run
from .trace_file import TraceFileQuestion

logger = logging.getLogger(__name__)

CACHE_BYTES = 256 * 2**20
WORKER_BYTES = 2**30
PATIENCE = 20.0
"""Seconds that an export waits for an answer."""


_NOT_RUN_HERE = (
    f"its answers were recorded elsewhere, and no trace of at most {LARGEST_TRACE // 2**20} MiB with them. In Python, fg.trace of the "
    "prompt gives one"
)
_NOT_TRACED = "this server no longer holds the pass. Press Trace, and save again"


class SavedSession(NamedTuple):
    """A session file, and why it holds no trace; empty where it does."""

    data: bytes
    without_trace: str


class Known:
    """What a service knows already, for those who may start no work: asks it as a service is asked."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def ask(
        self,
        question: Question[A],
        *,
        ticket: str | None = None,  # noqa: ARG002  of those who ask a service
        gone: Callable[[], bool] | None = None,
    ) -> A:
        """As :meth:`Service.ready`."""
        return self._service.ready(question, gone=gone)


class Service:
    """Answers the questions of all pages. Its methods may be called from any thread.

    The process that holds the models starts with the first question that is not recorded.

    Parameters
    ----------
    models
        Names and folders that may be asked for; the first is the one that a page opens with.
    cache_bytes
        Bound of all answers that are kept.
    queue
        Most questions that wait.
    timeout
        Seconds that one answer may take, once its model is loaded.
    examples
        Whether the bundled examples are offered.
    worker_bytes
        Bound of traces, weights and readings that the worker keeps.
    most_tokens
        Longest prompt that is traced.
    loading
        Options of :func:`flowgraph.load_model` that hold for every model.
    """

    def __init__(
        self,
        models: Sequence[str] = ("smollm2",),
        *,
        cache_bytes: int = CACHE_BYTES,
        queue: int = 32,
        timeout: float = 120.0,
        examples: bool = True,
        worker_bytes: int = WORKER_BYTES,
        most_tokens: int = MOST_TOKENS,
        loading: Mapping[str, Any] | None = None,
    ) -> None:
        for name in models:
            check_model(name)
        self.models = tuple(models)
        self._recorded = Examples() if examples else None
        self._sessions = Sessions()
        self._opening = threading.Lock()
        settings = Settings(self.models, worker_bytes, most_tokens, loading or {})
        self._dispatcher = Dispatcher(settings, cache_bytes, queue, timeout)

    @property
    def examples(self) -> tuple[Example, ...]:
        """The bundled examples."""
        return () if self._recorded is None else self._recorded.listed()

    @property
    def worker_pid(self) -> int | None:
        """Number of the process that holds the models; None while there is none."""
        return self._dispatcher.worker_pid

    @property
    def cached_bytes(self) -> int:
        """Bytes of the answers that are kept."""
        return self._dispatcher.answers.bytes

    def ask(self, question: Question[A], *, ticket: str | None = None, gone: Callable[[], bool] | None = None) -> A:
        """The answer of a question; blocks until there is one.

        Parameters
        ----------
        question
            What is asked.
        ticket
            Name under which the caller can follow the question and take it back.
        gone
            Whether the connection of a page that asks is closed: then the question is taken back. What a page asks has an
            end in any case: five minutes without a sign of it.

        Raises
        ------
        FlowgraphError
            Whatever flowgraph says of the question, under its own class and in its own words; of this module's neighbours
            ``Cancelled``, ``Busy``, ``TimedOut``, ``WorkerDied``, ``Closed``, ``InternalError``
            (:mod:`flowgraph_webapp.server.errors`).
        ArgumentError
            If the model is not one of :attr:`models`, or the session is not open.
        ModelNeededError
            If only a recording speaks of this model, and it does not hold the answer.
        """
        question, run, session, found = self._looked_up(question)
        if found is not None:
            return found
        self._refuse_model(question.model if isinstance(question, ModelQuestion) else run, session)
        return self._dispatcher.ask(question, ticket, gone)

    def ready(self, question: Question[A], *, gone: Callable[[], bool] | None = None) -> A:
        """The answer of a question, without long work.

        It is known, a page waits for it at this moment, or it is a quick one about a prompt that was traced.

        Raises
        ------
        NotYet
            If there is no such answer.
        FlowgraphError
            As for :meth:`ask`.
        """
        question, run, session, found = self._looked_up(question)
        if found is None:
            self._refuse_model(question.model if isinstance(question, ModelQuestion) else run, session)
            found = self._dispatcher.join(question, PATIENCE, gone)
        if found is None and run is not None and question.quick and self._dispatcher.has_traced(run):
            found = self._dispatcher.ask(question, None, gone, PATIENCE)
        if found is None:
            raise NotYet("this has not been computed here, or is no longer kept")
        return found

    def known(self, question: Question[A]) -> A | None:
        """The answer of a question where it was recorded or is kept; None where it would have to be computed.

        Raises
        ------
        ArgumentError
            If its session is not open.
        """
        run = run_of(question)
        session = None
        if run is not None and run.session is not None:
            session = self._sessions.session(run.session)
            run = replace(run, session=None)
            question = with_run(question, run)
        found = (self._known(known, run, session) for known in dict.fromkeys((question.whole, question)))
        return next((answer for answer in found if answer is not None), None)

    def progress(self, ticket: str) -> Stage | None:
        """Where the question of a ticket is; None where none is open."""
        return self._dispatcher.progress(ticket)

    def cancel(self, ticket: str) -> bool:
        """Take back what a ticket asked or has yet to ask; whether a question was open.

        A ticket is then spent: one page draws in several questions, and none of them is to begin after it went on to the next.
        Others who ask the same under another ticket still get their answer.
        """
        return self._dispatcher.cancel(ticket)

    def open_session(self, data: bytes) -> Session:
        """Open a session file, which may come from anywhere; nothing in it is run.

        Returns
        -------
        The session with its id; a recipe that names it is answered from it first.

        Raises
        ------
        FileFormatError
            If it is no session, or anything in it is not what it should be.
        Busy
            If other files take long: they are opened one after another.
        """
        if not self._opening.acquire(timeout=PATIENCE):
            raise Busy("other files are being opened; try again soon")
        try:
            return self.add_session(read_session(data))
        finally:
            self._opening.release()

    def add_session(self, session: Session) -> Session:
        """Open a session that was made here."""
        return self._sessions.add(session)

    def session(self, id: str) -> Session:
        """An opened session.

        Raises
        ------
        ArgumentError
            If it is not open on this server.
        """
        return self._sessions.session(id)

    def session_file(self, recipe: Recipe, annotations: Annotations | None = None, title: str = "") -> SavedSession:
        """A session file of what is looked at: every answer about the recipe's run that is known here, and its trace.

        Raises
        ------
        FlowgraphError
            As for :meth:`ready`: the run itself must be known.
        """
        asked = RunQuestion.of(recipe)
        run = replace(asked, session=None)
        answers: dict[Question[Any], Any] = {run: self.ready(asked)} | self._answered(asked)
        plain = replace(asked, target=None, foil=None)
        if plain != asked:
            answers |= self._of_no_target(plain)
        data = write_session(recipe, answers, annotations, title or recipe.text[:80])
        trace, why = self._trace(asked, list(answers))
        if len(data) + len(trace) > LARGEST_FILE:
            return SavedSession(data, f"its answers leave no room for it in {LARGEST_FILE // 2**20} MiB")
        return SavedSession(with_trace(data, trace), why)

    def warm(self, model: str | None = None) -> None:
        """Start the worker and load a model behind the page's back; what goes wrong is said to the first who asks."""
        if model is not None or self.models:
            question = ModelQuestion(model or self.models[0])
            threading.Thread(target=self._load, args=(question,), name="flowgraph-warm", daemon=True).start()

    def close(self) -> None:
        """End the worker; every open question is refused."""
        self._dispatcher.close()

    def _looked_up(self, question: Question[A]) -> tuple[Question[A], RunQuestion | None, Session | None, A | None]:
        """A question as the worker is asked it, its run, the session that it names, and its answer where that is known."""
        run = run_of(question)
        session = None
        if run is not None and run.session is not None:
            session = self._sessions.session(run.session)
            run = replace(run, session=None)
            question = with_run(question, run)
        for known in dict.fromkeys((question.whole, question)):
            found = self._known(known, run, session)
            if found is not None:
                return question, run, session, found
        return question, run, session, None

    def _known(self, question: Question[A], run: RunQuestion | None, session: Session | None) -> A | None:
        """What a session, the cache or an example answers; of a graph from a file, only what is in it."""
        if session is not None and session.is_graph_file:
            return session.answers.get(question)
        found = None if session is None else session.answers.get(question)
        found = self._dispatcher.kept(question) if found is None else found
        if found is None and run is not None and self._recorded is not None:
            found = self._recorded.answer(run, question)
            if found is not None:
                self._dispatcher.keep(question, found)
        return found

    def _answered(self, asked: RunQuestion) -> dict[Question[Any], Any]:
        """Every answer about a run that is kept, or recorded in the session that the run names."""
        run = replace(asked, session=None)
        kept = self._dispatcher.kept_for(run)
        answers: dict[Question[Any], Any] = {}
        for question in kept:
            # A page that has drawn a sketch waits for the whole.
            whole = question.whole
            found = kept.get(whole) or self._dispatcher.join(whole, PATIENCE)
            answers |= {} if found is None else {whole: found}
        if asked.session is not None:
            answers |= {q: answer for q, answer in self.session(asked.session).answers.items() if run_of(q) == run}
        return answers

    def _of_no_target(self, plain: RunQuestion) -> dict[Question[Any], Any]:
        """Answers of the same pass that depend on no target, as attention does: with the run without one, which they are about."""
        answers, run = self._answered(plain), replace(plain, session=None)
        if not answers or run in answers:
            return answers
        if run.model in self.models and self._dispatcher.has_traced(run):
            return {run: self._dispatcher.ask(run, None, None, PATIENCE)} | answers
        return {}

    def _trace(self, asked: RunQuestion, answered: Sequence[Question[Any]]) -> tuple[bytes, str]:
        """The trace that answers about a run came from, as a file; empty where there is none, and then why.

        A pass that was recorded elsewhere is not run again: other weights may go by the name of its model.
        """
        if asked.session is not None:
            session = self.session(asked.session)
            is_its_run = bool(session.trace) and RunQuestion.of(session.recipe) == asked
            return (session.trace, "") if is_its_run else (b"", _NOT_RUN_HERE)
        if self._recorded is not None and self._recorded.holds(asked):
            return b"", _NOT_RUN_HERE
        methods = dict.fromkeys(method for question in answered for method in question.edge_methods)
        readings = dict.fromkeys(site for question in answered for site in question.read_sites)
        try:
            file = self.ready(TraceFileQuestion(asked, tuple(methods), tuple(readings)))
        except NotYet:
            return b"", _NOT_TRACED
        if not file.data:
            return b"", (
                f"it has {file.size / 2**20:,.0f} MiB, and a session takes at most {LARGEST_TRACE // 2**20}. In Python, Trace.save "
                "writes traces of any size"
            )
        return file.data, ""

    def _load(self, question: ModelQuestion) -> None:
        try:
            self.ask(question)
        except FlowgraphError as error:
            logger.warning("%s could not be loaded: %s", question.model, error)

    def _refuse_model(self, asked: RunQuestion | str | None, session: Session | None) -> None:
        """Refuse a model that this server does not run; some questions are about none."""
        if asked is None:
            return
        name = asked.model if isinstance(asked, RunQuestion) else asked
        if session is not None and session.is_graph_file:
            shown = "A graph from a file is shown, without the run of a model behind it"
            if not session.is_text:
                raise ModelNeededError(f"{shown}. {NO_TEXT}")
            do = "press Trace" if name in self.models else f"start with --model {name}"
            raise ModelNeededError(f"{shown}; {do} to run its prompt")
        if name in self.models:
            return
        recorded = isinstance(asked, RunQuestion) and self._recorded is not None and self._recorded.holds(asked)
        if session is not None or recorded or not self.models:
            raise ModelNeededError(
                f"This was not recorded, and this server does not run the model {name!r}; start it with "
                f"'flowgraph app --model {name}' to ask more, or go back to what was recorded"
            )
        raise ArgumentError(f"model={name!r} is not one of the models of this server: {', '.join(self.models)}")
