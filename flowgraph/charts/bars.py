"""Bars: numbers of places, from zero or from another number, in one column or in several side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from ..errors import ArgumentError
from .axis import Axis, Role
from .grid import Grid, Places
from .table import Table, columns_of


@dataclass(frozen=True, eq=False)
class Bar:
    """A bar for each place, or one of the parts that a bar is made of.

    Attributes
    ----------
    values
        [place] length of the bar with its sign, or where it ends if it has a start.
    tip
        ``tip(place)``: lines that say all about the bar.
    name
        For the legend, where a bar has several parts.
    role
        What it is, for its colour; None: the sign decides.
    start
        [place] where a bar begins that is a move from one number to another; None: at zero, or where the part before it ends.
    band
        [place, end] an interval around each value; None for none.
    """

    values: Float[np.ndarray, "place"]
    tip: Callable[[int], tuple[str, ...]]
    name: str = ""
    role: Role | None = None
    start: Float[np.ndarray, "place"] | None = None
    band: Float[np.ndarray, "place 2"] | None = None

    def side(self, place: int, *, is_rank: bool = False) -> Role:
        """Role of a bar: its own, or by its sign ``"raises"`` or ``"lowers"``; a better rank is a smaller one."""
        if self.role is not None:
            return self.role
        change = float(self.values[place]) - (0.0 if self.start is None else float(self.start[place]))
        return "raises" if (change < 0 if is_rank else change >= 0) else "lowers"


@dataclass(frozen=True, eq=False)
class Column:
    """What stands beside places: bars of one measure, or words.

    Attributes
    ----------
    places
        What it is of. Columns side by side that have the same places, the very object, share their names.
    axis
        What is measured; of words its title is what they are.
    bars
        The bars, or the parts that bars are made of: they are put end to end, those above zero and those below it apart.
    words
        [place] tokens of each place, the first ones first; empty where the column has bars.
    title
        Words above the column.
    """

    places: Places
    axis: Axis
    bars: tuple[Bar, ...] = ()
    words: tuple[tuple[str, ...], ...] = ()
    title: str = ""

    def __post_init__(self) -> None:
        sizes = {part.values.shape for part in self.bars} | ({(len(self.words),)} if self.words else set())
        if sizes - {(len(self.places),)}:
            raise ArgumentError(
                f"Column {self.axis.title!r} has shapes {sorted(sizes)}; there are {len(self.places)} places"
            )


def check_most(most: int) -> None:
    """Check how many places a chart is asked to show.

    Raises
    ------
    ArgumentError
        If that is not at least one.
    """
    if most < 1:
        raise ArgumentError(f"most={most} must be at least 1")


@dataclass(frozen=True, eq=False)
class Bars:
    """Columns side by side; :class:`~flowgraph.charts.grid.Grid` says what title, subtitle and about mean.

    Attributes
    ----------
    columns
        From left to right.
    is_upright
        Whether bars stand on the names of their places, as those of one column can; otherwise places are rows.
    parts_title
        What the parts of bars are, above their legend.
    """

    title: str
    columns: tuple[Column, ...]
    is_upright: bool = False
    subtitle: str = ""
    about: str = ""
    parts_title: str = ""

    def __post_init__(self) -> None:
        if self.is_upright and (len(self.columns) != 1 or self.columns[0].words):
            raise ArgumentError(f"Bars.is_upright is for one column of bars; there are {len(self.columns)} columns")

    def table(self) -> Table:
        """One row for each place of each column of bars: what it is called, ``measure``, and its numbers or words."""
        rows: list[dict[str, Any]] = []
        for column in self.columns:
            places = column.places
            for n, number in enumerate(places.numbers):
                row: dict[str, Any] = {places.name: number} if places.is_numbered else {}
                if places.tokens is not None:
                    row[f"{places.name}_token" if places.is_numbered else places.name] = places.tokens[n]
                row["measure"] = column.title or column.axis.title
                row |= {name: float(values[n]) for name, values in _numbers(column.bars)}
                if column.words:
                    row["words"] = " · ".join(column.words[n])
                rows.append(row)
        return Table(self.title, columns_of(rows, ()), words=("measure",), both_ends=True)

    def row(self) -> Grid:
        """Upright bars as a grid of one row, for looks that have no bars."""
        (column,) = self.columns
        values = np.sum([part.values for part in column.bars], axis=0)
        return Grid(
            title=self.title,
            rows=Places("", (0,)),
            columns=column.places,
            values=values[None],
            unit=column.axis.title,
            tip=lambda _row, place: tuple(line for part in column.bars for line in part.tip(place)),
            about=self.about,
        )


def _numbers(parts: Sequence[Bar]) -> list[tuple[str, np.ndarray]]:
    """Columns of a table: each part by its name, with its start and its band."""
    found = []
    for part in parts:
        if part.start is not None:
            found.append(("before", part.start))
        found.append((part.name or ("value" if part.start is None else "after"), part.values))
        if part.band is not None:
            found += [("low", part.band[:, 0]), ("high", part.band[:, 1])]
    return found
