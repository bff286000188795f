"""Checked values of a file that somebody else may have made, each with its place.

The reader trusts nothing: every read states the type that it needs, and a value of another type raises a
:class:`~flowgraph.errors.FileFormatError` that names the place, such as ``nodes[3].layer``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

import numpy as np
from jaxtyping import Bool, Float, Int

from ..errors import FileFormatError

T = TypeVar("T")

# Far above any layer, position or token id, and safe in every integer type that holds them.
LARGEST_INDEX = 2**31 - 1
# A number of edges counts those that were never listed: every token to every token, in every head.
LARGEST_COUNT = 2**63 - 1
# Numbers of features, some of which hold two numbers in one; every JSON reader holds them exactly.
LARGEST_FEATURE = 2**53 - 1
# No graph nests deeper; a deeper object would only exhaust whoever walks through it.
_DEEPEST = 32

# Lists, objects and their entries in the text of one file: three million edges have as many.
MOST_VALUES = 40_000_000
# A long text that is nothing but brackets and commas, which grows thirtyfold when it is parsed, is no file of anybody's.
_BYTES_TO_A_VALUE = 2
# Small files may be dense: they cannot grow to more than a few hundred megabytes.
_SMALL = 1_000_000

_MISSING = object()
_NAMES = {
    dict: "an object",
    list: "a list",
    str: "a text",
    int: "an integer",
    float: "a number",
    bool: "a boolean",
}


@dataclass(frozen=True, slots=True)
class Checked:
    """A value and where it was found."""

    value: Any
    place: str = ""

    def field(self, name: str) -> Checked:
        """Value of a field that must be there."""
        found = self.optional(name)
        if found is None:
            raise FileFormatError(f"{_join(self.place, name)} is missing")
        return found

    def optional(self, name: str) -> Checked | None:
        """Value of a field, or None where there is no such field."""
        value = self._of(dict).get(name, _MISSING)
        return None if value is _MISSING else Checked(value, _join(self.place, name))

    def items(self, at_most: int = LARGEST_INDEX) -> Iterator[Checked]:
        """Entries of a list."""
        values = self._of(list)
        if len(values) > at_most:
            raise FileFormatError(f"{self.place} has {len(values):,} entries; at most {at_most:,} are read")
        return (Checked(value, f"{self.place}[{n}]") for n, value in enumerate(values))

    def entries(self) -> Iterator[tuple[str, Checked]]:
        """Names and values of an object."""
        return ((name, Checked(value, _join(self.place, name))) for name, value in self._of(dict).items())

    def or_none(self, read: Callable[[Checked], T]) -> T | None:
        """None if the value is null; otherwise the result of ``read``."""
        return None if self.value is None else read(self)

    def text(self) -> str:
        """Read a text."""
        return str(self._of(str))

    def texts(self) -> tuple[str, ...]:
        """Read a list of texts."""
        return tuple(entry.text() for entry in self.items())

    def one_of(self, choices: Collection[str]) -> str:
        """Read one of some texts."""
        if self.text() not in choices:
            self.refuse(f"one of {', '.join(choices)}")
        return self.text()

    def flag(self) -> bool:
        """Read a boolean."""
        return bool(self._of(bool))

    def indices(self, below: int = LARGEST_INDEX) -> tuple[int, ...]:
        """Read a list of integers of 0 or more, and below ``below``."""
        return tuple(entry.index(below) for entry in self.items())

    def window(self, stop: int) -> tuple[int, int]:
        """Read the first and one past the last of a row that ends at ``stop``."""
        ends = self.indices(stop + 1)
        if len(ends) != 2 or not ends[0] < ends[1]:
            self.refuse(f"two integers, the first and one past the last within 0…{stop}")
        return ends[0], ends[1]

    def index(self, below: int = LARGEST_INDEX) -> int:
        """Read an integer of 0 or more, and below ``below``."""
        value = self._of(int)
        if not 0 <= value < below:
            raise FileFormatError(f"{self.place} is {_short(value)}; expected 0…{below - 1}")
        return int(value)

    def number(self) -> float:
        """Read a finite number."""
        value = self._of(float, int)
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            self.refuse("a finite number")
        return number

    def plain(self) -> dict[str, Any]:
        """Names and values of an object, unchecked, which may be changed."""
        return dict(self._of(dict))

    def json(self) -> dict[str, Any]:
        """Read an object of anything that JSON holds: finite numbers, and nested no deeper than 32 times."""
        found: dict[str, Any] = self._of(dict)
        # A loop and no recursion: a file may nest deeper than Python calls may.
        left = [(self, 0)]
        while left:
            entry, depth = left.pop()
            value = entry.value
            if depth > _DEEPEST:
                raise FileFormatError(f"{self.place} is nested more than {_DEEPEST} times")
            if isinstance(value, dict):
                left += [(inner, depth + 1) for _, inner in entry.entries()]
            elif isinstance(value, list):
                left += [(inner, depth + 1) for inner in entry.items()]
            elif isinstance(value, float) and not math.isfinite(value):
                entry.refuse("a finite number")
        return found

    def refuse(self, expected: str) -> NoReturn:
        """Raise the error that names the expected value."""
        raise FileFormatError(f"{self.place or 'the file'} is {_short(self.value)}; expected {expected}")

    def _of(self, *types: type) -> Any:
        # Exact types: True is an int to isinstance, and is not a layer.
        if type(self.value) not in types:
            self.refuse(_NAMES[types[0]])
        return self.value


@dataclass(frozen=True, slots=True)
class Rows:
    """A list of objects, read by columns: as strict as :class:`Checked`, and fast for millions of rows."""

    rows: list[dict[str, Any]]
    place: str

    @classmethod
    def of(cls, rows: Checked, at_most: int) -> Rows:
        """Check that ``rows`` is a list of objects."""
        for row in rows.items(at_most):
            if type(row.value) is not dict:
                row.refuse("an object")
        return cls(rows.value, rows.place)

    def column(self, name: str, read: Callable[[Checked], T], *types: type) -> list[Any]:
        """Values of one field, which every row must have. ``read`` raises on any that is not of ``types``."""
        values = [row.get(name, _MISSING) for row in self.rows]
        # The common case is one pass over the types of the whole column; only a wrong column is read value by value.
        if not set(map(type, values)) <= set(types):
            self._read_each(name, read)
        return values

    def indices(self, name: str, below: int = LARGEST_INDEX) -> Int[np.ndarray, "E"]:
        """Column of integers in 0…below−1."""
        values = self.column(name, lambda entry: entry.index(below), int)
        if values and not 0 <= min(values) <= max(values) < below:
            self._read_each(name, lambda entry: entry.index(below))
        return np.array(values, dtype=np.int64)

    def indices_or_none(self, name: str) -> Int[np.ndarray, "E"]:
        """Column of integers of 0 or more, −1 where the file has null."""
        values = self.column(name, lambda entry: entry.or_none(Checked.index), int, type(None))
        if not all(value is None or 0 <= value < LARGEST_INDEX for value in values):
            self._read_each(name, lambda entry: entry.or_none(Checked.index))
        return np.array([-1 if value is None else value for value in values], dtype=np.int64)

    def numbers_or_none(self, name: str) -> tuple[Float[np.ndarray, "E"], Bool[np.ndarray, "E"]]:
        """Column of finite numbers, 0 where the file has null; and where that is."""
        values = self.column(name, lambda entry: entry.or_none(Checked.number), float, int, type(None))
        missing = np.array([value is None for value in values], dtype=bool)
        try:
            numbers = np.array([0.0 if value is None else value for value in values], dtype=np.float64)
            finite = bool(np.isfinite(numbers).all())
        except OverflowError:
            finite = False
        if not finite:
            self._read_each(name, lambda entry: entry.or_none(Checked.number))
        return numbers, missing

    def _read_each(self, name: str, read: Callable[[Checked], Any]) -> None:
        """Read a column one value at a time, to stop with an error at the first that is wrong."""
        for n, row in enumerate(self.rows):
            read(Checked(row, f"{self.place}[{n}]").field(name))


def parsed_json(data: bytes, most: int = MOST_VALUES) -> Any:
    """Parse strict JSON, in which NaN and Infinity are no numbers; a text of too many values is refused before parsing.

    Parameters
    ----------
    data
        The text in UTF-8.
    most
        Lists, objects and their entries that are parsed.

    Raises
    ------
    FileFormatError
        If it is not JSON, nests too deeply, or holds too many values.
    """
    # json calls this for NaN and Infinity, which Python would otherwise accept.
    constants: list[str] = []

    def constant(name: str) -> float:
        constants.append(name)
        return float(name)

    # Counted before parsing, since the parser would already have used the memory.
    refuse_many_values(data, most)
    try:
        parsed = json.loads(data.decode("utf-8"), parse_constant=constant)
    except UnicodeDecodeError as error:
        raise FileFormatError(f"byte {error.start} is not UTF-8") from error
    except RecursionError as error:
        raise FileFormatError("its lists or objects are nested too deeply") from error
    except ValueError as error:
        raise FileFormatError(f"it is not JSON: {error}") from error
    if constants:
        place = next(not_finite(parsed, ""), "").lstrip(".")
        raise FileFormatError(f"{place} is {constants[0]}, which is no number in JSON; expected a finite number")
    return parsed


def refuse_many_values(data: bytes, most: int) -> None:
    """Refuse a text with too many lists, objects and entries, counted by the characters that begin them.

    Such characters within strings count too; real files have few of them.

    Raises
    ------
    FileFormatError
        If there are more than ``most``, or so many for the length of the text that it is no file of ours.
    """
    values = sum(map(data.count, (b"[", b"{", b",")))
    most = min(most, _SMALL + len(data) // _BYTES_TO_A_VALUE)
    if values > most:
        raise FileFormatError(
            f"it holds {values:,} lists, objects and entries in {len(data):,} bytes; at most {most:,} are read"
        )


def not_finite(data: Any, place: str) -> Iterator[str]:
    """Yield the places of numbers that are not finite; by a loop, since files nest deeper than calls may."""
    left = [(data, place)]
    while left:
        value, place = left.pop()
        if isinstance(value, dict):
            left.extend((entry, f"{place}.{name}") for name, entry in reversed(value.items()))
        elif isinstance(value, list):
            left.extend((value[n], f"{place}[{n}]") for n in reversed(range(len(value))))
        elif isinstance(value, float | np.floating) and not math.isfinite(value):
            yield place


def _join(place: str, name: str) -> str:
    return f"{place}.{_short(name)[1:-1]}" if place else _short(name)[1:-1]


def _short(value: Any) -> str:
    """Show a value in few characters, however large it is."""
    if value is None:
        return "null"
    if isinstance(value, dict | list):
        return f"{_NAMES[type(value)]} of {len(value)}"
    # To print a number of a million digits would take minutes.
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 64:
        return "an integer of more than 64 bits"
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:38]}…{text[-1]}"
