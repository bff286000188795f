"""The one process that holds the models: its own loop, and the handle that the service has of it.

Everything compiled and everything large lives there; the process of the web server imports neither torch nor transformers.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import traceback
from dataclasses import dataclass
from typing import Any

from flowgraph.errors import FlowgraphError

from .memory import give_back
from .messages import KNOWN_ERRORS, Answered, Begun, Message, Refused, Settings, Staged, Stopped
from .question import Question

_MANY = 2**26
"""Bytes that went out of what is kept, after which free memory is given back to the system."""


class Worker:
    """A worker process, seen from the service. At a time one question is handed to it, and one in the background.

    Attributes
    ----------
    fresh
        Whether nothing was heard of it yet: it is still starting.
    """

    def __init__(self, settings: Settings) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        # Without a lock: a worker that is killed holding one would leave it locked.
        self._cancelled = context.Array("q", 2, lock=False)
        self._process = context.Process(
            target=work, args=(theirs, self._cancelled, settings), name="flowgraph-worker", daemon=True
        )
        self._process.start()
        theirs.close()
        self.fresh = True

    @property
    def pid(self) -> int:
        """Number of the process."""
        return self._process.pid or 0

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process.is_alive()

    def ask(self, number: int, question: Question[Any]) -> None:
        """Hand over a question; raises ``OSError`` where the process is gone."""
        self._connection.send((number, question))

    def cancel(self, number: int, in_background: bool = False) -> None:
        """Take a question back; the worker stops at its next stage."""
        self._cancelled[in_background] = number

    def receive(self, seconds: float) -> Message | None:
        """The next message, None if there is none in this time; raises ``EOFError`` where the process is gone."""
        ready = multiprocessing.connection.wait([self._connection, self._process.sentinel], seconds)
        if self._connection in ready:
            message: Message = self._connection.recv()
            self.fresh = False
            return message
        if ready:
            raise EOFError("the worker ended")
        return None

    def stop(self) -> None:
        """End the process now."""
        self._process.kill()
        self._process.join()
        self._connection.close()
        self._process.close()


def work(connection: Any, cancelled: Any, settings: Settings) -> None:
    """Answer questions until the service hangs up. Runs in the worker process."""
    # Ctrl-C in a terminal reaches every process of the group; only the service decides when this one ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    from .traces import Traces

    _hush_transformers()
    traces = Traces(settings.models, settings.cache_bytes, settings.most_tokens, settings.loading)
    desk = _Desk(connection, cancelled, traces)
    with contextlib.suppress(EOFError, OSError):  # the service hung up
        while True:
            desk.answer()


@dataclass(frozen=True)
class _Desk:
    """What the worker needs for every question: the ends of the service, and everything it holds."""

    connection: Any
    cancelled: Any
    traces: Any

    def answer(self) -> None:
        """Answer the next question; waits for one."""
        number, question = self.connection.recv()
        check = _Check(self, number, question.long)
        self.connection.send(self._outcome(question, check))
        if self.traces.kept.dropped > _MANY:
            self.traces.kept.dropped = 0
            give_back()

    def answer_between(self) -> None:
        """Answer what came during a search, if it stands still so that a pass of another prompt cannot disturb it."""
        if not (self.connection.poll() and self.traces.stands_still()):
            return
        import torch

        number, question = self.connection.recv()
        self.connection.send(Begun(number))
        with torch.enable_grad():  # as it is where nothing else runs
            self.connection.send(self._outcome(question, _Check(self, number, False)))

    def _outcome(self, question: Question[Any], check: _Check) -> Message:
        number = check.number
        try:
            return Answered(number, question.answer(self.traces, check))
        except _TakenBack:
            return Stopped(number)
        except FlowgraphError as error:
            known = KNOWN_ERRORS.get(type(error).__name__)
            details = None if known is type(error) else traceback.format_exc()
            return Refused(number, type(error).__name__, str(error), details)
        except Exception as error:  # the worker outlives whatever goes wrong; the service logs it under a reference
            return Refused(number, type(error).__name__, str(error), traceback.format_exc())


class _TakenBack(BaseException):
    """Raised where a question that was taken back looks whether it still stands."""


@dataclass(frozen=True)
class _Check:
    """Reports a stage, and raises where the question was taken back; in the background others are answered meanwhile."""

    desk: _Desk
    number: int
    in_background: bool

    def __call__(self, stage: str, part: float | None = None) -> None:
        self._stop_if_taken_back()
        self.desk.connection.send(Staged(self.number, stage, part))
        if self.in_background:
            self.desk.answer_between()
            self._stop_if_taken_back()

    def _stop_if_taken_back(self) -> None:
        if self.desk.cancelled[self.in_background] == self.number:
            raise _TakenBack


def _end_with_parent() -> None:
    """End this process when the server's has ended, in whatever way, even in the middle of a run."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


def _hush_transformers() -> None:
    """Keep the library's own progress bars and hints out of the server's log."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
