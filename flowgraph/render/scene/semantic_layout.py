"""Where the pills of a semantic graph stand: one formula for the page and for every exported picture.

Time runs to the right and never back: a layer is a panel of columns, state → norm → query → key → value → head → what attention
adds → norm → gate → input → neuron → what the MLP adds, and the state it ends in opens the next panel. So the residual stream is
one straight line, and no edge runs backwards. Panels under each other were the other choice: each is as wide as the stage either
way, at 1280 and at 1600 px, but the stream would run back across the whole picture after every layer. Positions are rows, earlier
ones above, each with its residual line at the bottom. Source states stand in the state column, in the row of the first
position that reads them.

Places are in columns and rows (:func:`~flowgraph.render.scene.semantic_plan.plan_of`); a :class:`Grid` turns them into pixels. The page
repeats :meth:`Grid.fit`, from the same :data:`GRID` numbers, when its window changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# Pixels at zoom 1.
GRID: Mapping[str, Any] = {
    "column": (72, 120), "row": (16, 24), "pill": 18, "gap": 2,
    "margin": {"left": 12, "right": 12, "top": 26, "bottom": 10},
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Spot:
    """A pill's centre, in columns from the left and rows from the top, and its width in columns."""

    x: float
    y: float
    width: float


@dataclass(frozen=True, slots=True)
class Panel:
    """One layer at one position: its sides in columns, its top and its residual line in rows.

    ``right`` is that of the state it ends in, ``end`` that of what comes after the last layer.
    """

    layer: int
    position: int
    left: float
    right: float
    end: float
    top: float
    line: float


@dataclass(frozen=True, slots=True)
class Heading:
    """What a column shows."""

    text: str
    x: float
    layer: int


@dataclass(frozen=True)
class Plan:
    """Places of a whole graph.

    Attributes
    ----------
    spots
        [N] where the nodes stand.
    panels
        By position, then by layer.
    headings
        Of every panel's columns, from left to right.
    width, height
        Of the first panel with the state it ends in, and of the highest: what should fit on a stage.
    step
        From one panel to the next, in columns.
    """

    spots: tuple[Spot, ...]
    panels: tuple[Panel, ...]
    headings: tuple[Heading, ...]
    width: float
    height: float
    step: float


@dataclass(frozen=True, slots=True)
class Grid:
    """Pixels per column and per row."""

    column: float
    row: float

    @classmethod
    def fit(cls, plan: Plan, width: float, height: float) -> Grid:
        """Grid in which one panel fills a stage of ``width`` × ``height`` px, as far as its text stays readable."""
        margin = GRID["margin"]
        free = {"column": width - margin["left"] - margin["right"], "row": height - margin["top"] - margin["bottom"]}
        wanted = {"column": free["column"] / plan.width, "row": free["row"] / plan.height}
        return cls(*(float(min(GRID[name][1], max(GRID[name][0], wanted[name]))) for name in ("column", "row")))

    @property
    def pill(self) -> float:
        """Height of a pill in px."""
        return float(min(GRID["pill"], self.row - GRID["gap"]))

    def box(self, spot: Spot) -> tuple[float, float, float, float]:
        """(left, top, right, bottom) px of a pill."""
        x, y = GRID["margin"]["left"] + spot.x * self.column, GRID["margin"]["top"] + spot.y * self.row
        half = spot.width * self.column / 2
        return x - half, y - self.pill / 2, x + half, y + self.pill / 2
