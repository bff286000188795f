"""Errors in words: what happened, why, and what to do."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from flowgraph.errors import (
    ArchitectureError,
    ArgumentError,
    FetchError,
    FileFormatError,
    FlowgraphError,
    GraphTooLargeError,
    ModelNeededError,
    NonFiniteError,
    PromptError,
    TargetError,
    UnknownModelError,
    UnsupportedReadingError,
)

from ..server.errors import Busy, Cancelled, Closed, TimedOut, WorkerDied
from . import html
from .attributes import named

if TYPE_CHECKING:
    from dash.development.base_component import Component


class _Words(NamedTuple):
    what: str
    do: str


_WORDS: tuple[tuple[type[Exception], _Words], ...] = (
    (Cancelled, _Words("The run was cancelled.", "The last picture is still here. Press Trace to run again.")),
    (Busy, _Words("The server is busy.", "Wait a moment, then press Trace again.")),
    (TimedOut, _Words("The run took too long.", "Shorten the prompt, or choose fewer layers or the token level.")),
    (WorkerDied, _Words("The model’s process ended.", "It was started again. A shorter prompt needs less memory.")),
    (Closed, _Words("The server is shutting down.", "Start it again, then reload this page.")),
    (PromptError, _Words("This prompt cannot be traced.", "Change the prompt and press Trace.")),
    (TargetError, _Words("This target cannot be explained.", "Choose one of the predicted tokens.")),
    (ModelNeededError, _Words("This needs the model.", "The last picture is still here.")),
    (UnknownModelError, _Words("This model is not offered here.", "Choose one from the list.")),
    (GraphTooLargeError, _Words("This graph is too large.", "Raise the threshold, choose fewer layers, or show routes.")),
    (NonFiniteError, _Words("The model gives numbers that are not finite.", "Its weights may be damaged.")),
    (FileFormatError, _Words("This file cannot be opened.", "Choose a session that this page wrote, or a trace that Trace.save wrote.")),
    (ArgumentError, _Words("This cannot be shown.", "Change the setting that is named, or go back.")),
    (ArchitectureError, _Words("This model is not understood.", "Another method may work; otherwise choose another model.")),
    (UnsupportedReadingError, _Words("This model cannot be read in this way.", "Choose another method or panel.")),
    (FetchError, _Words("The model could not be fetched.", "Look at the connection, then press Trace again.")),
)  # fmt: skip
"""Kind of error → what happened and what to do; the first that fits. The error itself says why."""

_WORD = re.compile(r"[a-z]+,? ")
_BROKEN = _Words(
    "Something went wrong in the program.", "The last picture is still here. The server’s log has the details."
)


def notice(error: Exception) -> Component:
    """An error beside the picture, which stays; it can be closed."""
    words = _words(error)
    close = html.Button("Dismiss", type="button", className="button small", **named({"data-dismiss": "notice"}))
    return html.Div([_text(words, _why(error)), close], className=f"notice {_tone(error)}")


def panel_error(error: Exception) -> Component:
    """An error in the place of a panel."""
    return html.Div(_text(_words(error), _why(error)), className=f"notice {_tone(error)} in-panel")


def search_error(error: Exception) -> Component:
    """Why a search for a circuit gave none, in its place."""
    words = _words(error)
    if isinstance(error, Cancelled):
        words = _Words("The search was cancelled.", "")
    elif isinstance(error, ArgumentError):
        words = _Words("No circuit was found:", "Change what is named, and search again.")
    return html.Div(_text(words, _why(error)), className=f"notice {_tone(error)} in-panel")


def _text(words: _Words, why: str) -> Component:
    # After a colon the reason goes on with the sentence.
    why = why if words.what.endswith(":") else sentence(why)
    reason = [html.Span(why, className="why")] if why else []
    return html.P([html.B(words.what), " ", *reason, " ", html.Span(words.do, className="do")])


def _words(error: Exception) -> _Words:
    return next((words for kind, words in _WORDS if isinstance(error, kind)), _BROKEN)


def _why(error: Exception) -> str:
    """The error's own sentence. Of a fault of the program nothing: its text could hold anything."""
    if isinstance(error, Cancelled) or not isinstance(error, FlowgraphError):
        return ""
    text = str(error).strip()
    return text if not text or text[-1] in ".!?" else f"{text}."


def sentence(text: str) -> str:
    """A text of an error as people write: names of arguments stay as they are, other first words get their capital."""
    text = text.strip()
    text = text[0].upper() + text[1:] if _WORD.match(text) else text
    return text if not text or text[-1] in ".!?" else f"{text}."


def _tone(error: Exception) -> str:
    return "quiet" if isinstance(error, Cancelled) else "problem"
