"""The table of edge methods. What a method is computed with is imported when it first weighs: the table itself is light."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from inspect import Signature, signature
from typing import Any

from ..errors import ArgumentError
from ..importing import late

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,63}")
_FOLDER = __name__.rpartition(".")[0]


@dataclass(frozen=True)
class EdgeMethod:
    """One edge method; called with a trace it gives the weights.

    Attributes
    ----------
    name
        What it is called by.
    unit
        Unit of its weights.
    meaning
        What a weight says, in one sentence.
    registered
        The function of a method from outside; None: a function of the method's name stands in the module of its name, beside this
        one.
    """

    name: str
    unit: str
    meaning: str
    registered: Callable[..., Any] | None = None

    @property
    def function(self) -> Callable[..., Any]:
        """The function of a trace that gives :class:`flowgraph.EdgeWeights`; its keyword arguments are the method's options."""
        if self.registered is not None:
            return self.registered
        found: Callable[..., Any] = getattr(late(f"{_FOLDER}.{self.name}"), self.name)
        return found

    def refusal(self, model: Any) -> str:
        """Why the method cannot be used with a model, in a sentence; empty where nothing is known against it."""
        if self.registered is not None:
            return ""
        found = getattr(late(f"{_FOLDER}.{self.name}"), "refusal", None)
        return "" if found is None else str(found(model))

    @property
    def __signature__(self) -> Signature:
        return signature(self.function)

    def __call__(self, trace: Any, **options: Any) -> Any:
        """Weights of a trace."""
        return self.function(trace, **options)


EDGE_METHODS: dict[str, Callable[..., Any]] = {
    method.name: method
    for method in (
        EdgeMethod("attention", "share", "Attention probabilities, heads averaged; half of a state is attention, half its own residual."),
        EdgeMethod("norms", "norm", "Length of the vectors that are added up: attention weight times transformed value."),
        EdgeMethod("proximity", "share", "How much nearer a part brings the sum of the others to the whole: information flow routes."),
        EdgeMethod("logits", "logits", "What each part wrote in the direction of the target, minus the foil."),
        EdgeMethod("ff", "norm", "Length of what comes from a token through attention and the feed-forward block together."),
    )
}  # fmt: skip
"""Method → function of a trace; its keyword arguments are the method's options."""


def register_method(name: str, function: Callable[..., Any], *, unit: str, meaning: str) -> None:
    """Add an edge method of your own, for Python, the command line and the app of this process.

    Parameters
    ----------
    name
        What it is called by.
    function
        Function of a trace that gives :class:`flowgraph.EdgeWeights`; its keyword arguments are the method's options.
    unit
        Unit of its weights, as ``"share"``.
    meaning
        What a weight says, in one sentence.

    Raises
    ------
    ArgumentError
        If the name is taken, is no name in small letters, or no function is given.

    Examples
    --------
    >>> def twice(trace):
    ...     return fg.edge_weights(trace, method="attention")
    >>> fg.register_method("twice", twice, unit="share", meaning="The attention method under another name.")
    >>> len(fg.build_graph(trace, method="twice", threshold=0.1)) > 0
    True
    >>> del fg.EDGE_METHODS["twice"]
    """
    if not (isinstance(name, str) and _NAME.fullmatch(name)):
        raise ArgumentError(f"name={name!r} is no name of a method; expected up to 64 small letters, digits, - or _")
    if name in EDGE_METHODS:
        raise ArgumentError(f"name={name!r} is taken; the methods are {', '.join(EDGE_METHODS)}")
    if not callable(function):
        raise ArgumentError(
            f"function is a {type(function).__name__}; expected a function of a trace that gives EdgeWeights"
        )
    EDGE_METHODS[name] = EdgeMethod(name, unit, meaning, function)
