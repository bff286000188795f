"""What a function takes: arguments are held against their classes and annotations, so that a wrong one is named."""

from __future__ import annotations

import ast
import difflib
import math
import operator
import sys
from collections import abc
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from inspect import Parameter, signature, unwrap
from numbers import Real
from types import UnionType
from typing import Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin

from ..errors import ArgumentError, KeywordError

P = ParamSpec("P")
R = TypeVar("R")

_MADE_BY = {
    "Trace": "flowgraph.trace(model, text) makes one",
    "FlowGraph": "flowgraph.build_graph(trace) makes one, FlowGraph.load(path) and flowgraph.import_graph(path) read one",
    "GraphColumns": "flowgraph.build_graph(trace) makes a graph, FlowGraph.load(path) and flowgraph.import_graph(path) read one",
    "EdgeWeights": "flowgraph.edge_weights(trace) makes one",
    "Reading": "flowgraph.logit_lens(trace) and flowgraph.read(trace, vectors) make one",
    "TokenMatrix": "flowgraph.attention_rollout(trace) and flowgraph.norm_map(trace) make one",
    "HeadScores": "flowgraph.head_scores(trace) makes one",
    "Trajectory": "flowgraph.trajectory(trace) makes one",
    "NormFilter": "flowgraph.norm_filter(trace, layer=…) makes one",
    "RegularizationNeurons": "flowgraph.regularization_neurons(model, prompts) makes one",
    "LayerOverlap": "flowgraph.overlap_by_layer(one, other) makes one",
    "HeadCircuit": "flowgraph.head_circuit(trace, layer=…, head=…) makes one",
    "EdgeTokens": "flowgraph.edge_tokens(trace, graph, edge) makes one",
    "Faithfulness": "flowgraph.faithfulness(model, data, graph) makes one",
}


def takes(
    *kinds: type | tuple[type, ...], instead: Mapping[str, str] | None = None
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Refuse a call whose first arguments are of other classes, or whose others do not fit their annotations.

    Annotations are read where they are plain: numbers, strings, flags, classes, functions, and lists of these. Numbers
    of NumPy and torch become those of Python. A limit, ``max_…``, may be any number, and a seed is not negative. Tokens
    and metrics are left to the function, which says more about them.

    Parameters
    ----------
    *kinds
        Class, or several, of the first argument, of the second, and so on.
    instead
        Name that is no argument of the function → what to write in its place, in words.

    Raises
    ------
    ArgumentError
        From the function, naming the argument, what it was and what makes the right thing.
    KeywordError
        From the function, for a name that is none of its arguments.
    """
    wanted = tuple(kind if isinstance(kind, tuple) else (kind,) for kind in kinds)

    def of(function: Callable[P, R]) -> Callable[P, R]:
        places = signature(function).parameters
        names = tuple(places)[: len(wanted)]
        others = tuple(places)[len(wanted) :]
        is_closed = all(place.kind is not Parameter.VAR_KEYWORD for place in places.values())
        checks: dict[str, Callable[[Any], Any]] = {}  # what annotations name is known when the function is first called

        @wraps(function)
        def checked(*args: P.args, **kwargs: P.kwargs) -> R:
            if is_closed and not kwargs.keys() <= places.keys():
                raise _unknown_name(
                    function.__name__, next(one for one in kwargs if one not in places), places, instead
                )
            for place, (name, classes) in enumerate(zip(names, wanted, strict=True)):
                # One that is missing altogether is told by Python.
                if place < len(args) or name in kwargs:
                    given = args[place] if place < len(args) else kwargs[name]
                    if not isinstance(given, classes):
                        raise ArgumentError(_message(function.__name__, name, given, classes))
            if not checks:
                checks.update({name: _check(unwrap(function), places[name]) for name in others})
            rest = [check(value) for check, value in zip(checks.values(), args[len(names) :], strict=False)]
            named = {name: checks[name](value) if name in checks else value for name, value in kwargs.items()}
            return function(*args[: len(names)], *rest, *args[len(places) :], **named)  # type: ignore[arg-type]

        return checked

    return of


K = TypeVar("K", bound=type)


def takes_fields(kind: K) -> K:
    """Refuse a dataclass made with values that do not fit the annotations of its fields, as :func:`takes` does for a function."""
    kind.__init__ = takes()(kind.__init__)  # type: ignore[misc]
    return kind


class _UnfitError(Exception):
    """A value is not of a kind; of a list, with what in it is not."""


_Kind = tuple[str, Callable[[Any], Any]]
"""What is expected, in words, and the value as it is handed on."""


def _check(function: Callable[..., Any], place: Parameter) -> Callable[[Any], Any]:
    """Whether one argument fits what is written at its place; it is handed on as it is where that says too little."""
    name, written = place.name, place.annotation
    packed = place.kind in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
    if packed or not isinstance(written, str) or written == _ANSWER or name == "metric":
        return lambda value: value
    kinds = _kinds(ast.parse(written, mode="eval").body, function.__globals__)
    if kinds is None:
        return lambda value: value
    own = _LIMIT if name.startswith("max_") else _SEED if name == "seed" else None
    if own is not None:
        kinds = [own if kind is _PLAIN["int"] else kind for kind in kinds]

    def check(value: Any) -> Any:
        try:
            return _first_fit(value, kinds)
        except _UnfitError as error:
            inner = f" that holds {_shown(error.args[0])}" if error.args else ""
            raise ArgumentError(
                f"{_called(function)}({name}=…) expects {_words(kinds)}, and got {_shown(value)}{inner}"
            ) from None

    return check


def _called(function: Callable[..., Any]) -> str:
    """The name that a call of the function has: of the one that makes an object, its class."""
    kind, _, name = function.__qualname__.rpartition(".")
    return kind if name == "__init__" else function.__name__


def _kinds(written: ast.expr, known: Mapping[str, Any]) -> list[_Kind] | None:
    """The kinds that an annotation names; None if one of them is not a plain one."""
    match written:
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            one, other = _kinds(left, known), _kinds(right, known)
            return None if one is None or other is None else [*one, *other]
        case ast.Constant(value=None):
            return [("None", _none)]
        case ast.Name(id=name) if name in _PLAIN:
            return [_PLAIN[name]]
        case ast.Name(id=name):
            return _named(known.get(name))
        case ast.Subscript(value=ast.Name(id="Literal"), slice=values):
            several = values.elts if isinstance(values, ast.Tuple) else [values]
            return _one_of([one.value for one in several if isinstance(one, ast.Constant)])
        case ast.Subscript(value=ast.Name(id="Callable")):
            return [("a function", _function)]
        case ast.Subscript(value=ast.Name(id="Sequence" | "Iterable"), slice=of):
            inner = _kinds(of, known)
            return None if inner is None else [(f"a list (each {_words(inner)})", lambda value: _several(value, inner))]
        case ast.Subscript(value=ast.Name(id="Mapping")):
            return [("a mapping", lambda value: _instance(value, Mapping))]
        case ast.Subscript(value=ast.Name(id="tuple"), slice=ast.Tuple(elts=parts)):
            ends = [_kinds(part, known) for part in parts]
            if any(end is None for end in ends):
                return None
            each = [end for end in ends if end is not None]
            return [(f"({', '.join(map(_words, each))})", lambda value: _tuple(value, each))]
    return None


def _named(value: Any) -> list[_Kind] | None:
    """The kind that a name of the function's module stands for."""
    if get_origin(value) is Literal:
        return _one_of(get_args(value))
    if get_origin(value) is UnionType or get_origin(value) is Union:
        several = [_named(one) for one in get_args(value)]
        return None if None in several else [kind for one in several if one is not None for kind in one]
    if value is type(None):
        return [("None", _none)]
    if isinstance(value, type) and value.__name__ in _PLAIN:
        return [_PLAIN[value.__name__]]
    if isinstance(value, type) and value is not Any and not getattr(value, "_is_protocol", False):
        return [(_a(value), lambda given: _instance(given, value))]
    return [("a function", _function)] if get_origin(value) is abc.Callable else None


def _one_of(values: Iterable[Any]) -> list[_Kind]:
    """The one word; of several the kind, for which of them there are is said by the function."""
    several = tuple(values)
    if len(several) > 1:
        return [_PLAIN[name] for name in dict.fromkeys(type(value).__name__ for value in several)]

    def fit(value: Any) -> Any:
        if not isinstance(value, str) or value not in several:
            raise _UnfitError
        return value

    return [(repr(several[0]), fit)]


def _words(kinds: list[_Kind]) -> str:
    return " or ".join(dict.fromkeys(words for words, _ in kinds))


def _of_numpy(value: Any, kind: str) -> bool:
    """Whether a value is of a class of NumPy, which is not imported to find out: where nobody did, there is no such value."""
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, getattr(numpy, kind))


def _none(value: Any) -> None:
    if value is not None:
        raise _UnfitError


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise _UnfitError
    return value


def _flag(value: Any) -> bool:
    is_flag, is_whole = (
        isinstance(value, bool) or _of_numpy(value, "bool_"),
        isinstance(value, int) or _of_numpy(value, "integer"),
    )
    if is_flag or (is_whole and value in (0, 1)):
        return bool(value)
    raise _UnfitError


def _whole(value: Any) -> int:
    if isinstance(value, bool) or _of_numpy(value, "bool_"):
        raise _UnfitError
    try:
        return operator.index(value)
    except (TypeError, ValueError, RuntimeError) as error:  # a tensor of several numbers
        raise _UnfitError from error


def _number(value: Any) -> Any:
    if isinstance(value, bool) or _of_numpy(value, "bool_"):
        raise _UnfitError
    if isinstance(value, Real):
        found: Any = value
        return found.item() if _of_numpy(value, "generic") else found
    if getattr(value, "shape", None) != () or getattr(value, "is_complex", bool)():
        raise _UnfitError
    try:
        return float(value)
    except (TypeError, ValueError) as error:  # an array of one text
        raise _UnfitError from error


def _limit(value: Any) -> Any:
    number = _number(value)
    if math.isnan(number):
        raise _UnfitError
    return number


def _seed(value: Any) -> int:
    number = _whole(value)
    if number < 0:
        raise _UnfitError
    return number


def _function(value: Any) -> Any:
    if not callable(value):
        raise _UnfitError
    return value


def _instance(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise _UnfitError
    return value


def _several(value: Any, kinds: list[_Kind]) -> Any:
    if isinstance(value, (str, bytes, Mapping)) or not hasattr(value, "__iter__"):
        raise _UnfitError
    try:
        several = list(value)
    except TypeError as error:  # a tensor of one number
        raise _UnfitError from error
    found = []
    for one in several:
        try:
            found.append(_first_fit(one, kinds))
        except _UnfitError:
            raise _UnfitError(one) from None
    return found


def _tuple(value: Any, ends: list[list[_Kind]]) -> tuple[Any, ...]:
    if isinstance(value, range):  # range(0, 2) holds 0 and 1, and would be taken for its first and its end
        raise _UnfitError
    found = _several(value, [("", lambda one: one)])
    if len(found) != len(ends):
        raise _UnfitError
    return tuple(_first_fit(one, kinds) for one, kinds in zip(found, ends, strict=True))


def _first_fit(value: Any, kinds: list[_Kind]) -> Any:
    inner: tuple[Any, ...] = ()
    for _, fit in kinds:
        try:
            return fit(value)
        except _UnfitError as error:
            inner = inner or error.args
    raise _UnfitError(*inner)


_PLAIN: dict[str, _Kind] = {
    "bool": ("True or False", _flag),
    "str": ("a str", _text),
    "int": ("a whole number", _whole),
    "SupportsIndex": ("a whole number", _whole),
    "float": ("a number", _number),
}
_LIMIT: _Kind = ("a number", _limit)
_SEED: _Kind = ("a whole number that is not negative", _seed)
_ANSWER = "str | int | None"
"""A token and its id, which the vocabulary looks at."""
_LONGEST_SHOWN = 40


def _shown(value: Any) -> str:
    """A value in an error: itself where it is short, else what it is."""
    if value is None or isinstance(value, (str, int, float, complex)) or _of_numpy(value, "generic"):
        text = repr(value)
        if len(text) <= _LONGEST_SHOWN:
            return text
    return _a(type(value))


def _unknown_name(
    function: str, name: str, places: Mapping[str, Parameter], instead: Mapping[str, str] | None
) -> KeywordError:
    known = [
        one for one, place in places.items() if place.kind not in (Parameter.VAR_POSITIONAL, Parameter.POSITIONAL_ONLY)
    ]
    near = difflib.get_close_matches(name, known, n=1)
    if instead is not None and name in instead:
        advice = instead[name]
    else:
        advice = f"did you mean {near[0]}=?" if near else f"it takes {', '.join(known)}"
    return KeywordError(f"{function}({name}=…): there is no such argument; {advice}")


def _message(function: str, name: str, given: Any, classes: tuple[type, ...]) -> str:
    expected = " or ".join(_a(kind) for kind in classes)
    was = "None" if given is None else _a(type(given))
    advice = "; ".join(_MADE_BY[kind.__name__] for kind in classes if kind.__name__ in _MADE_BY)
    if type(given).__name__ == "Traces" and any(kind.__name__ == "Trace" for kind in classes):
        was, advice = f"the traces of a batch of {len(given)} prompts", f"take one of them: {function}(traces[0])"
    return f"{function}({name}=…) expects {expected}, and got {was}" + (f"; {advice}" if advice else "")


def _a(kind: type) -> str:
    """The class with its article; the columns that functions work on are those of a graph."""
    name = "FlowGraph" if kind.__name__ == "GraphColumns" else kind.__name__
    return f"{'an' if name[0] in 'AEIOaeio' else 'a'} {name}"
