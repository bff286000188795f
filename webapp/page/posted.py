"""What the page sends to the server: each callback's inputs, and what is read of their values."""

from __future__ import annotations

import math
import types
from collections.abc import Mapping
from typing import Any, Union, get_args, get_origin, get_type_hints

from flowgraph.errors import ArgumentError, FileFormatError

from ..present.ids import Id
from ..present.wiring import View
from ..registered import POSTED
from ..session.codec import strict_json


class _Panel(View):
    tab: str
    first: int | None


POSTED.add(f"{Id.PANEL}.data", _Panel | None)
POSTED.add(f"{Id.OPEN}.contents", str | None)
POSTED.add(f"{Id.OPEN}.filename", str | None)
_COUNTS = frozenset({"n_clicks", "n_intervals"})
"""Properties that are numbers, whatever they are of."""
_KINDS: Mapping[Any, str] = {str: "a text", int: "a whole number", float: "a number", list: "a list", dict: "an object"}


def check_posted(body: bytes, callbacks: Mapping[str, Any]) -> None:
    """Refuse a request that is none of the page's own.

    Dash takes requests for what its client made, and fails inside when they are not.

    Parameters
    ----------
    body
        The request.
    callbacks
        ``app.callback_map`` of Dash.

    Raises
    ------
    ArgumentError, FileFormatError
        If the request is not JSON, calls no callback of the page, or hands over what that callback does not take.
    """
    asked = strict_json(body, "the request")
    _check(asked, dict, "the request")
    name = _check(asked.get("output"), str, "output")
    # Those that run in the browser are in the map without a function.
    if "callback" not in callbacks.get(name, {}):
        raise ArgumentError(f"output={name[:80]!r} is no callback of this page; reload it")
    callback = callbacks[name]
    for which in ("inputs", "state"):
        _check_ends(asked.get(which, []), callback[which], which)
    if not callback.get("no_output"):
        _check_outputs(asked.get("outputs"), name)
    for n, changed in enumerate(_check(asked.get("changedPropIds", []), list, "changedPropIds")):
        _check(changed, str, f"changedPropIds[{n}]")


def _check_ends(given: Any, ends: list[dict[str, str]], which: str) -> None:
    """Hold the inputs or states of a request against those of its callback."""
    if len(_check(given, list, which)) != len(ends):
        raise ArgumentError(f"{which} has {len(given)} entries; this callback takes {len(ends)}")
    for n, (one, end) in enumerate(zip(given, ends, strict=True)):
        place = f"{which}[{n}]"
        _check(one, dict, place)
        if (one.get("id"), one.get("property")) != (end["id"], end["property"]):
            raise ArgumentError(f"{place} is not {end['id']}.{end['property']}")
        is_count = end["property"] in _COUNTS
        _check(one.get("value"), int | None if is_count else POSTED[f"{end['id']}.{end['property']}"], f"{place}.value")


def _check_outputs(given: Any, name: str) -> None:
    """Hold the outputs of a request against the name of its callback, which lists them: ``..a.children...b.data..``."""
    is_several = name.startswith("..")
    _check(given, list if is_several else dict, "outputs")
    ends = [part.rpartition(".") for part in name.strip(".").split("...")]
    expected = [{"id": end, "property": _without_mark(prop)} for end, _, prop in ends]
    found = [
        {"id": one.get("id"), "property": _without_mark(str(one.get("property")))} if isinstance(one, dict) else one
        for one in (given if is_several else [given])
    ]
    if found != expected:
        raise ArgumentError("outputs are not those of this callback")


def _without_mark(prop: str) -> str:
    """A property without what Dash adds where several callbacks write it."""
    return prop.partition("@")[0]


def _check(value: Any, kind: Any, place: str) -> Any:
    """The value, if it is of a kind: a type, a union with None, a list, or an object with the keys of a TypedDict."""
    if get_origin(kind) in (Union, types.UnionType):
        if value is None:
            return value
        (kind,) = (one for one in get_args(kind) if one is not types.NoneType)
    plain = get_origin(kind) or (dict if kind not in _KINDS else kind)
    # Exact types: True is an int to isinstance, and is no number here.
    fits = type(value) in ((int, float) if plain is float else (plain,))
    if not fits or (type(value) is float and not math.isfinite(value)):
        raise FileFormatError(f"{place} is {type(value).__name__}; expected {_KINDS[plain]}")
    if plain is list and get_args(kind):
        for n, one in enumerate(value):
            _check(one, get_args(kind)[0], f"{place}[{n}]")
    if plain is dict and kind is not dict:
        for name, hint in get_type_hints(kind).items():
            if name not in value:
                raise FileFormatError(f"{place}.{name} is missing")
            _check(value[name], hint, f"{place}.{name}")
    return value
