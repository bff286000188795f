"""Values of known dataclasses as plain data and back: what is read must be exactly of the type that its field declares.

Arrays become members of their own in numpy's ``.npy`` form, graphs in flowgraph's own format, readings of nodes are kept once
however many graphs show them. Nothing is believed: a name that is no field, a missing field, a number that is not finite, an
array of another shape than it says, all are refused, and nothing that is read can name a type or a function.
"""

from __future__ import annotations

import dataclasses
import io
import json
import math
import re
import tempfile
import types
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

import numpy as np
from jaxtyping import AbstractArray

from flowgraph import FlowGraph, NodeReading, Reading
from flowgraph.errors import ArgumentError, FileFormatError

_AXES = ("axes", "first_layer", "prompt_tokens")
"""Fields of a reading that its method ``named`` sets."""
_LATER: Mapping[str, Any] = {
    "heads_in": [], "circuit": "none", "corrupted": "", "task": "none", "prompts": 8, "budget": None, "stack": None,
    "level": "full", "keys": None, "others": [], "is_text": True, "lacks": [], "corruption": "",
}  # fmt: skip
"""Fields that files did not have from the start, and what they then are."""
LARGEST_INTEGER = 2**53
MOST_ENTRIES = 2_000_000
_NPY = re.compile(
    rb"\x93NUMPY\x01\x00(?s:..)\{'descr': '(<f4|<f8|<i4|<i8)', 'fortran_order': False, "
    rb"'shape': \(((?:\d{1,9}, ?)*(?:\d{1,9})?)\), \} *\n"
)
_WIDTH = {"<f4": 4, "<f8": 8, "<i4": 4, "<i8": 8}


class Writer:
    """Turns values into plain data, and collects what has members of its own."""

    def __init__(self) -> None:
        self.members: dict[str, bytes] = {}
        self.readings: dict[NodeReading, int] = {}

    def plain(self, value: Any) -> Any:
        """A value of lists, texts, numbers, null and references to members."""
        if value is None or isinstance(value, bool | int | str):
            return value
        if isinstance(value, float):
            if not math.isfinite(value):
                raise ArgumentError(f"{value} is not finite, and a session file cannot hold it")
            return value
        if isinstance(value, np.ndarray):
            return self._member("arrays", "npy", _npy(value))
        if isinstance(value, FlowGraph):
            read = [None if reading is None else self._reading(reading) for reading in value.readings]
            return {"graph": self._member("graphs", "json", _graph_text(value)), "readings": read}
        if isinstance(value, Mapping):
            return {name: self.plain(entry) for name, entry in value.items()}
        if isinstance(value, tuple):
            return [self.plain(entry) for entry in value]
        return {field.name: self.plain(getattr(value, field.name)) for field in dataclasses.fields(value)}

    def _reading(self, reading: NodeReading) -> int:
        return self.readings.setdefault(reading, len(self.readings))

    def _member(self, folder: str, ending: str, data: bytes) -> str:
        name = f"{folder}/{len(self.members)}.{ending}"
        self.members[name] = data
        return name


class Reader:
    """Turns plain data back into values of a declared type.

    Parameters
    ----------
    member
        Gives the bytes of a member by its name.
    readings
        Readings that graphs refer to, as :class:`Writer` numbered them.
    """

    def __init__(self, member: Callable[[str], bytes], readings: Sequence[NodeReading] = ()) -> None:
        self._member, self._readings = member, readings

    def value(self, kind: Any, data: Any, place: str) -> Any:
        """The value of a declared type; ``place`` is where the data stands, for messages."""
        if kind is Any:
            return data
        origin = get_origin(kind)
        if origin in (Union, types.UnionType):
            return self._one_of(get_args(kind), data, place)
        if origin is Literal:
            if type(data) is not str or data not in get_args(kind):
                refuse(place, data, f"one of {', '.join(get_args(kind))}")
            return data
        if origin is tuple:
            return self._tuple(get_args(kind), data, place)
        if origin in (dict, Mapping):
            _check(place, data, dict)
            return {name: self.value(get_args(kind)[1], entry, f"{place}.{name[:40]}") for name, entry in data.items()}
        if kind in _SCALARS:
            return _SCALARS[kind](place, data)
        if kind is FlowGraph:
            return self._graph(data, place)
        if isinstance(kind, type) and issubclass(kind, AbstractArray):
            return self._array(kind, data, place)
        return self.record(kind, data, place)

    def record(self, kind: Any, data: Any, place: str) -> Any:
        """A dataclass from an object that has exactly its fields."""
        declared = _fields(kind)
        _check(place, data, dict)
        for name in data:
            if name not in declared:
                raise FileFormatError(f"{place} says {name[:40]!r}, which {kind.__name__} does not have")
        data = completed(data, declared)
        missing = [name for name in declared if name not in data]
        if missing:
            raise FileFormatError(f"{place}.{missing[0]} is missing")
        values = {name: self.value(hint, data[name], f"{place}.{name}") for name, hint in declared.items()}
        try:
            if kind is Reading:
                names = {name: values.pop(name) for name in _AXES}
                made = Reading(**values)
                return made.named(**names) if names["axes"] else made
            return kind(**values)
        except (ArgumentError, IndexError) as error:
            raise FileFormatError(f"{place}: {error}") from error

    def _one_of(self, kinds: tuple[Any, ...], data: Any, place: str) -> Any:
        if data is None and types.NoneType in kinds:
            return None
        (kind,) = (kind for kind in kinds if kind is not types.NoneType)
        return self.value(kind, data, place)

    def _tuple(self, kinds: tuple[Any, ...], data: Any, place: str) -> tuple[Any, ...]:
        _check(place, data, list)
        if len(kinds) == 2 and kinds[1] is ...:
            if len(data) > MOST_ENTRIES:
                raise FileFormatError(f"{place} has {len(data):,} entries; at most {MOST_ENTRIES:,} are read")
            return tuple(self.value(kinds[0], entry, f"{place}[{n}]") for n, entry in enumerate(data))
        if len(data) != len(kinds):
            refuse(place, data, f"{len(kinds)} entries")
        return tuple(
            self.value(kind, entry, f"{place}[{n}]") for n, (kind, entry) in enumerate(zip(kinds, data, strict=True))
        )

    def _array(self, kind: Any, data: Any, place: str) -> np.ndarray:
        array: np.ndarray = _array(self._member(_text(place, data)), place)
        fits = isinstance(array, kind)
        if not fits:
            raise FileFormatError(f"{place} is {array.dtype} of shape {array.shape}; expected {kind.__name__}")
        return array

    def _graph(self, data: Any, place: str) -> FlowGraph:
        _check(place, data, dict)
        if set(data) != {"graph", "readings"}:
            refuse(place, data, "a graph and its readings")
        graph = _graph(self._member(_text(f"{place}.graph", data["graph"])), place)
        _check(f"{place}.readings", data["readings"], list)
        readings = []
        for n, number in enumerate(data["readings"]):
            if number is not None and not (type(number) is int and 0 <= number < len(self._readings)):
                refuse(f"{place}.readings[{n}]", number, f"null or 0…{len(self._readings) - 1}")
            readings.append(None if number is None else self._readings[number])
        if readings and len(readings) != len(graph.nodes):
            raise FileFormatError(f"{place} has {len(readings)} readings for {len(graph.nodes)} nodes")
        return graph.with_readings(readings)


def completed(data: dict[str, Any], declared: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of an object, with those that files did not have from the start."""
    return {name: value for name, value in _LATER.items() if name in declared} | data


def strict_json(data: bytes, place: str) -> Any:
    """Parse JSON in which every number is finite and nothing nests without end."""

    def constant(name: str) -> NoReturn:
        raise FileFormatError(f"{place} holds {name}, which is no number in JSON")

    try:
        return json.loads(data.decode("utf-8"), parse_constant=constant)
    except UnicodeDecodeError as error:
        raise FileFormatError(f"{place}: byte {error.start} is not UTF-8") from error
    except RecursionError as error:
        raise FileFormatError(f"{place}: its lists or objects are nested too deeply") from error
    except FileFormatError:
        raise
    except ValueError as error:
        raise FileFormatError(f"{place} is not JSON: {error}") from error


def refuse(place: str, value: Any, expected: str) -> NoReturn:
    """Raise the error that says what was expected at a place."""
    shown = type(value).__name__ if isinstance(value, dict | list) else repr(value)[:60]
    raise FileFormatError(f"{place} is {shown}; expected {expected}")


def _check(place: str, data: Any, kind: type) -> None:
    # Exact types: True is an int to isinstance, and is no number here.
    if type(data) is not kind:
        refuse(place, data, "an object" if kind is dict else "a list")


def _integer(place: str, data: Any) -> int:
    if type(data) is not int or abs(data) > LARGEST_INTEGER:
        refuse(place, data, "a whole number of at most 53 bits")
    return data


def _number(place: str, data: Any) -> float:
    if type(data) is int:
        return float(_integer(place, data))
    if type(data) is not float or not math.isfinite(data):
        refuse(place, data, "a finite number")
    return data


def _text(place: str, data: Any) -> str:
    if type(data) is not str:
        refuse(place, data, "a text")
    return data


def _flag(place: str, data: Any) -> bool:
    if type(data) is not bool:
        refuse(place, data, "true or false")
    return data


_SCALARS: dict[Any, Callable[[str, Any], Any]] = {int: _integer, float: _number, str: _text, bool: _flag}


@cache
def _fields(kind: Any) -> dict[str, Any]:
    """Fields of a dataclass and the types they declare."""
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def _npy(array: np.ndarray) -> bytes:
    # Row by row and little-endian, so that there is one way to write each array.
    array = np.require(array.astype(array.dtype.newbyteorder("<"), copy=False), requirements="C")
    if array.dtype.str not in _WIDTH:
        raise ArgumentError(f"an array of {array.dtype} cannot be written to a session file")
    if not np.isfinite(array).all():
        raise ArgumentError("an array holds numbers that are not finite, and a session file cannot hold it")
    file = io.BytesIO()
    np.lib.format.write_array(file, array, version=(1, 0), allow_pickle=False)
    return file.getvalue()


def _array(data: bytes, place: str) -> np.ndarray:
    """An array from ``.npy``: the header is matched, never evaluated, and must say exactly what follows it."""
    head = _NPY.match(data[:4_096])
    if head is None:
        raise FileFormatError(f"{place} is not an array of numbers in the form that a session file has")
    kind = head[1].decode()
    shape = tuple(int(size) for size in head[2].replace(b" ", b"").split(b",") if size)
    if head.end() != 10 + int.from_bytes(data[8:10], "little") or len(shape) > 4:
        raise FileFormatError(f"{place}: the array's header is damaged")
    if math.prod(shape) * _WIDTH[kind] != len(data) - head.end():
        raise FileFormatError(f"{place}: the array says shape {shape} and has {len(data) - head.end():,} bytes")
    array = np.frombuffer(data, dtype=np.dtype(kind), offset=head.end()).reshape(shape).copy()
    if not np.isfinite(array).all():
        raise FileFormatError(f"{place} holds numbers that are not finite")
    return array


def _graph_text(graph: FlowGraph) -> bytes:
    """A graph without its readings, in flowgraph's own format."""
    with tempfile.TemporaryDirectory() as folder:
        return graph.with_readings(()).save(Path(folder) / "graph.json").read_bytes()


def _graph(data: bytes, place: str) -> FlowGraph:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graph.json"
        path.write_bytes(data)
        try:
            return FlowGraph.load(path)
        except FileFormatError as error:
            raise FileFormatError(str(error).replace(str(path), place)) from error
