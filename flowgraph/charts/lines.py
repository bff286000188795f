"""Lines: series of points over one axis, in one panel or in several, one below the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from ..errors import ArgumentError
from .axis import Axis, Role
from .table import Table


@dataclass(frozen=True, eq=False)
class Series:
    """Points that belong together.

    Attributes
    ----------
    name
        For the legend. Series of this name in other panels are the same thing.
    role
        What the series is, for its colour and its mark.
    x, y
        [point] places, in the units of the axes.
    tip
        ``tip(point)``: lines that say all about a point.
    is_joined
        Whether a line runs through the points, in their order.
    band
        [point, end] an interval around each point; None for none.
    band_name
        What the interval is, for the legend.
    """

    name: str
    role: Role
    x: Float[np.ndarray, "point"]
    y: Float[np.ndarray, "point"]
    tip: Callable[[int], tuple[str, ...]]
    is_joined: bool = False
    band: Float[np.ndarray, "point 2"] | None = None
    band_name: str = ""

    def __post_init__(self) -> None:
        if self.x.shape != self.y.shape or self.x.ndim != 1:
            raise ArgumentError(f"Series {self.name!r} has x of shape {self.x.shape} and y of shape {self.y.shape}")
        if self.band is not None and self.band.shape != (len(self.x), 2):
            raise ArgumentError(f"Series {self.name!r} has a band of shape {self.band.shape} for {len(self.x)} points")


@dataclass(frozen=True)
class Rule:
    """A line for reference.

    Attributes
    ----------
    along
        ``"x"``: level, at a value of y; ``"y"``: upright, at a value of x; ``"both"``: where x and y are equal.
    at
        Its value; of ``"both"`` nothing.
    name
        Words beside it.
    """

    along: Literal["x", "y", "both"]
    at: float = 0.0
    name: str = ""


@dataclass(frozen=True, eq=False)
class Panel:
    """Series over one axis of values.

    Attributes
    ----------
    y
        Axis of the values.
    series
        From the lowest to the uppermost.
    rules
        Lines for reference.
    """

    y: Axis
    series: tuple[Series, ...]
    rules: tuple[Rule, ...] = ()


@dataclass(frozen=True, eq=False)
class Lines:
    """Panels, one below the other, over the same axis.

    Attributes
    ----------
    title
        What is seen, on one line.
    x
        Axis of all panels.
    panels
        From top to bottom.
    subtitle
        One more line about the whole.
    about
        What is shown, in words, for captions.
    """

    title: str
    x: Axis
    panels: tuple[Panel, ...]
    subtitle: str = ""
    about: str = ""

    def table(self) -> Table:
        """One row for each point: ``series``, ``measure`` (where there are several panels), ``x``, ``y``, and ``low``, ``high`` of bands."""
        rows = [(series, panel) for panel in self.panels for series in panel.series]
        columns: dict[str, Any] = {
            "series": [series.name for series, _ in rows for _ in series.x],
            "measure": [panel.y.title for series, panel in rows for _ in series.x],
            "x": np.concatenate([series.x for series, _ in rows]) if rows else [],
            "y": np.concatenate([series.y for series, _ in rows]) if rows else [],
        }
        if len(self.panels) < 2:
            del columns["measure"]
        for n, end in enumerate(("low", "high")):
            if any(series.band is not None for series, _ in rows):
                ends = [
                    [None] * len(series.x) if series.band is None else series.band[:, n].tolist() for series, _ in rows
                ]
                columns[end] = [value for part in ends for value in part]
        note = f"x: {self.x.title}" + (f"; y: {self.panels[0].y.title}" if len(self.panels) == 1 else "")
        return Table(self.title, columns, words=("measure",), note=note, both_ends=True)
