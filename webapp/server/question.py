"""What can be asked: one frozen dataclass for each kind of question, which is its own cache key and knows how it is answered.

A question holds what its answer depends on and nothing else, so that two pages that look at the same thing in another way
share the answer.
"""

from __future__ import annotations

from typing import Any, ClassVar, Generic, TypeVar

from flowgraph.errors import ArgumentError

from ..registered import KINDS
from .traces import Check, Traces

A = TypeVar("A")
K = TypeVar("K", bound="type[Question[Any]]")


class Question(Generic[A]):
    """Something that the worker answers with an ``A``: a frozen dataclass of texts, numbers and arrays, or a value of flowgraph.

    Attributes
    ----------
    long
        Whether it takes minutes: others are answered between its steps.
    quick
        Whether it is read off a trace in about the time of one pass, so that a download may wait for it.
    kept
        Whether the answer is kept for those who ask the same later.
    """

    long: ClassVar[bool] = False
    quick: ClassVar[bool] = False
    kept: ClassVar[bool] = True

    def answer(self, traces: Traces, check: Check) -> A:
        """The answer. Runs in the worker only.

        Parameters
        ----------
        traces
            What the worker holds: models, traces, weights, readings.
        check
            To be called where a stage begins or goes on; raises where the question was taken back.
        """
        raise NotImplementedError

    @property
    def whole(self) -> Question[A]:
        """The question whose answer holds that of this one; most often the same."""
        return self

    @property
    def edge_methods(self) -> tuple[str, ...]:
        """Edge methods whose weights, recorded with a trace, answer it without the model."""
        return ()

    @property
    def read_sites(self) -> tuple[str, ...]:
        """Sites whose readings, recorded with a trace, answer it without the model."""
        return ()


def recorded(kind: K) -> K:
    """Class decorator: session files keep the answers of this kind of question, under the name of its class."""
    KINDS.add(kind.__name__, kind)
    return kind


def answer_type(kind: type[Question[A]]) -> type[A]:
    """What a kind of question is answered with: the ``A`` of its ``Question[A]``."""
    (found,) = {base.__args__[0] for base in vars(kind)["__orig_bases__"] if issubclass(base.__origin__, Question)}
    answer: type[A] = found
    return answer


def require(holds: bool, message: str) -> None:
    """Refuse an answer that does not fit together."""
    if not holds:
        raise ArgumentError(message)
