"""A grid: a number, and perhaps a word, for each place of two axes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from ..errors import ArgumentError
from .table import Table

Tip = Callable[[int, int], tuple[str, ...]]


@dataclass(frozen=True)
class Places:
    """What stands along an axis.

    Attributes
    ----------
    name
        What one of them is: ``"layer"``, ``"position"``, ``"head"``.
    numbers
        What they are called, in order.
    tokens
        Tokens beside the numbers; None where they are not known.
    title
        Words beside the axis; the name where nothing else is said.
    is_upward
        Whether the first stands at the bottom, as layers do.
    is_numbered
        Whether the numbers are shown beside tokens, which then need not differ.
    """

    name: str
    numbers: tuple[int, ...]
    tokens: tuple[str, ...] | None = None
    title: str = ""
    is_upward: bool = False
    is_numbered: bool = True

    def __post_init__(self) -> None:
        if self.tokens is not None and len(self.tokens) != len(self.numbers):
            raise ArgumentError(f"Places has {len(self.tokens)} tokens for {len(self.numbers)} numbers")

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def axis_title(self) -> str:
        """Words beside the axis."""
        return self.title or self.name


@dataclass(frozen=True, eq=False)
class Grid:
    """Numbers in rows and columns, as every look of them needs it: no colour, no pixel.

    Attributes
    ----------
    title
        What is seen, on one line.
    rows, columns
        What stands along the axes.
    values
        [row, column] in ``unit``.
    unit
        Unit of the values, for the scale.
    tip
        ``tip(row, column)``: lines that say all about a place.
    words
        [row][column] a token in each place; None for numbers only.
    strongest
        Which values stand out: high ones, or low ones, as of ranks.
    most
        Value at the end of the scale; None: the largest size.
    is_logarithmic
        Whether the scale is of log₁₀, for values from 1 on.
    subtitle
        One more line about the whole.
    about
        What is shown, in words, for captions.
    notes
        Lines below.
    """

    title: str
    rows: Places
    columns: Places
    values: Float[np.ndarray, "row column"]
    unit: str
    tip: Tip
    words: tuple[tuple[str, ...], ...] | None = None
    strongest: Literal["high", "low"] = "high"
    most: float | None = None
    is_logarithmic: bool = False
    subtitle: str = ""
    about: str = ""
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        expected = (len(self.rows), len(self.columns))
        if self.values.shape != expected:
            raise ArgumentError(f"Grid.values has shape {self.values.shape}; rows and columns say {expected}")
        if (
            self.words is not None
            and (len(self.words), *{len(row) for row in self.words}) != expected
            and all(expected)
        ):
            raise ArgumentError(f"Grid.words has {len(self.words)} rows; rows and columns say {expected}")

        if self.strongest == "low" and self.values.size and self.values.min() < 0:
            raise ArgumentError(f"Grid.strongest='low' is for values from 0 on; the least is {self.values.min():.3g}")

    def table(self) -> Table:
        """One row for each place: its numbers and tokens along both axes, ``value``, and ``word`` where there are words."""
        where = np.indices(self.values.shape).reshape(2, -1)
        columns: dict[str, Any] = {}
        for places, at in zip((self.rows, self.columns), where, strict=True):
            columns[places.name] = np.array(places.numbers, dtype=np.int64)[at]
            if places.tokens is not None:
                columns[f"{places.name}_token"] = [places.tokens[n] for n in at]
        columns["value"] = self.values.ravel()
        if self.words is not None:
            columns["word"] = [word for row in self.words for word in row]
        return Table(self.title, columns, note=f"value: {self.unit}")

    @property
    def is_signed(self) -> bool:
        """Whether some values are below zero, so that the scale has two sides."""
        return bool(self.values.size and self.values.min() < 0)

    @property
    def scaled(self) -> Float[np.ndarray, "row column"]:
        """[row, column] the values as the scale counts them."""
        values = self.values.astype(np.float64)
        return np.log10(values) if self.is_logarithmic else values

    @property
    def end(self) -> float:
        """Value at the end of the scale, as the scale counts."""
        if self.most is not None:
            return self.most
        scaled = self.scaled
        return (float(np.abs(scaled).max()) if scaled.size else 0.0) or 1.0

    @property
    def strength(self) -> Float[np.ndarray, "row column"]:
        """[row, column] how much each place stands out: between 0 and 1, or −1 and 1 where values have a sign."""
        part = np.clip(self.scaled / self.end, -1.0, 1.0)
        return 1.0 - part if self.strongest == "low" else part
