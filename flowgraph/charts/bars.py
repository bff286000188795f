"""Bars: one number for each place of one axis."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from ..errors import ArgumentError
from .grid import Grid, Places


@dataclass(frozen=True, eq=False)
class Bars:
    """A number for each place; :class:`~flowgraph.charts.grid.Grid` says what the attributes mean.

    Attributes
    ----------
    values
        [place] in ``unit``.
    measure
        What the numbers are of, for their axis.
    """

    title: str
    places: Places
    values: Float[np.ndarray, "place"]
    measure: str
    unit: str
    tip: Callable[[int], tuple[str, ...]]
    about: str = ""

    def __post_init__(self) -> None:
        if self.values.shape != (len(self.places),):
            raise ArgumentError(f"Bars.values has shape {self.values.shape}; there are {len(self.places)} places")

    def row(self) -> Grid:
        """The same as a grid of one row, for looks that have no bars."""
        return Grid(
            title=self.title,
            rows=Places("", (0,)),
            columns=self.places,
            values=self.values[None],
            unit=self.unit,
            tip=lambda _row, column: self.tip(column),
            about=self.about,
        )
