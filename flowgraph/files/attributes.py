r"""Attributes and texts for formats that hold one value of a simple type at a time.

In all of these formats

- None and empty texts are left out;
- lists and tables (``top_tokens``, ``roles``, ``tokens``, ``filters`` …) are JSON texts;
- a character that the format cannot hold is written by its number: ``⟨000B⟩`` for a vertical tab, and inside a JSON
  text as JSON's own ``\u000b``, which reads back.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ..errors import ArgumentError, NonFiniteError
from ..values.flow_graph import FlowGraph
from ..values.graph_info import info_dict
from ..version import __version__

Simple = str | int | float

GENERATOR = f"flowgraph {__version__}"


def about(graph: FlowGraph) -> dict[str, Any]:
    """A file's facts about the whole graph: the program, the caption, and the fields of ``graph.info``."""
    return {"generator": GENERATOR, "caption": graph.caption(), **info_dict(graph.info)}


def flat(data: Mapping[str, Any], place: str, illegal: re.Pattern[str] | None = None) -> dict[str, Simple]:
    """Attributes of simple types, as the module says.

    Parameters
    ----------
    data
        Plain data of the graph, a node or an edge.
    place
        Place of the data in the graph, for the error.
    illegal
        Characters that the format cannot hold; None leaves every text as it is.

    Raises
    ------
    NonFiniteError
        If a number is NaN or infinite, which most formats cannot hold and no reader expects.
    """
    found: dict[str, Simple] = {}
    for name, value in data.items():
        if value is None or value == "":
            continue
        if isinstance(value, str):
            found[name] = spelled(value, illegal)
        elif isinstance(value, list | tuple | dict):
            text = json_text(value, f"{place}.{name}")
            found[name] = text if illegal is None else json_spelled(text, illegal)
        else:
            found[name] = finite(value, f"{place}.{name}")
    return found


def spelled(text: str, illegal: re.Pattern[str] | None) -> str:
    """A text whose illegal characters are written by their numbers: ``⟨000B⟩``."""
    return text if illegal is None else illegal.sub(lambda match: f"⟨{ord(match.group()):04X}⟩", text)


def json_spelled(text: str, illegal: re.Pattern[str]) -> str:
    """A JSON text whose illegal characters are written with JSON's own escapes, so that it still reads back."""
    return illegal.sub(lambda match: json.dumps(match.group())[1:-1], text)


def json_text(value: Any, place: str) -> str:
    """JSON of a value, with every character that prints as it is.

    Raises
    ------
    NonFiniteError
        If a number in it is NaN or infinite.
    """
    try:
        # NaN is no JSON; a file with it would be refused by every strict reader.
        return json.dumps(value, ensure_ascii=False, allow_nan=False, default=plain)
    except ValueError as error:
        raise _not_finite(place) from error


def plain(value: Any) -> Any:
    """The Python number of a NumPy one.

    Raises
    ------
    ArgumentError
        If it is something else.
    """
    if isinstance(value, np.generic):
        return value.item()
    raise ArgumentError(f"{value!r} of type {type(value).__name__} cannot be written to a file")


def types_of(rows: Iterable[Mapping[str, Simple]]) -> dict[str, type]:
    """Name → type of all attributes of some rows, in the order they first occur; float where some are int."""
    types: dict[str, type] = {}
    for row in rows:
        for name, value in row.items():
            # A column with one fraction is a column of fractions.
            known = types.setdefault(name, type(value))
            if known is int and isinstance(value, float):
                types[name] = float
    return types


def finite(value: Any, place: str) -> int | float:
    """A number as one of Python's own.

    Raises
    ------
    NonFiniteError
        If it is NaN or infinite.
    """
    number: int | float = value if type(value) in (bool, int, float) else plain(value)
    if isinstance(number, float) and not math.isfinite(number):
        raise _not_finite(place)
    return number


def _not_finite(place: str) -> NonFiniteError:
    return NonFiniteError(f"{place} is NaN or infinite, and graph files hold finite numbers only")
