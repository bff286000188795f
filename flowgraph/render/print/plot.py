"""What printed charts share: scales of numbers with their ticks, broken lines, marks, and legends."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from ...charts.axis import Axis, Role
from ...charts.text import printable
from ..scene.chart_roles import ROLES
from .build import Look, caption_lines
from .content import Spell
from .frame import AXIS_SIZE, PAD
from .ink import THEMES, palette
from .shapes import DASHES, Label, Line, Mark, Picture, Point, Shape, baseline, shortened, text_width, wrapped

LEAD = 1.3 * AXIS_SIZE
"""From one line of text to the next."""
_SAMPLE = 14.0
_GAP = 10.0
_PLACES = 6
"""Decimal places from which on a number is written with an exponent."""


class Scale(NamedTuple):
    """Numbers of an axis between two points of the page, ``first`` being that of the least number."""

    axis: Axis
    least: float
    most: float
    first: float
    last: float

    def place(self, value: float) -> float:
        """Where a number is."""
        least, most = self._counted(self.least), self._counted(self.most)
        part = (self._counted(value) - least) / ((most - least) or 1.0)
        return self.first + (1.0 - part if self.axis.scale == "rank" else part) * (self.last - self.first)

    def ticks(self, room: float) -> list[tuple[float, str]]:
        """(point, name) of ticks, at most one for each ``room`` points."""
        most = max(2, int(abs(self.last - self.first) / room))
        if self.axis.ticks:
            shown = [tick for tick in self.axis.ticks if self.least <= tick[0] <= self.most]
            return [(self.place(value), name) for value, name in shown[:: max(1, -(-len(shown) // most))]]
        return [(self.place(value), self._name(value, step)) for value, step in self._values(most)]

    def _counted(self, value: float) -> float:
        return math.log10(max(value, 1e-300)) if self.axis.is_logarithmic else value

    def _values(self, most: int) -> list[tuple[float, float]]:
        """Round numbers of the axis, each with the step that it is a multiple of."""
        if self.axis.is_logarithmic:
            low, high = math.ceil(math.log10(self.least) - 1e-9), math.floor(math.log10(self.most) + 1e-9)
            if high - low >= 1:
                decades = range(low, high + 1, max(1, -(-(high - low + 1) // most)))
                return [(10.0**decade, 10.0**decade) for decade in decades]
        rough = (self.most - self.least) / most or 1.0
        base = 10.0 ** math.floor(math.log10(rough))
        step = next(base * n for n in (1, 2, 5, 10) if base * n >= rough * (1 - 1e-9))
        step = max(step, 1.0) if self.axis.scale == "rank" else step
        first, last = math.ceil(self.least / step - 1e-9), math.floor(self.most / step + 1e-9)
        return [(step * n, step) for n in range(first, last + 1)]

    def _name(self, value: float, step: float) -> str:
        """A tick's number with as many places as its step has."""
        if self.axis.is_percent:
            value, step = 100 * value, 100 * step
        places = max(0, -math.floor(math.log10(step) + 1e-9))
        name = f"{value:,.{places}f}" if places <= _PLACES else f"{value:.3g}"
        return name.replace("-", "−") + " %" * self.axis.is_percent


def scale(axis: Axis, values: Sequence[float], first: float, last: float, *, is_from_zero: bool = False) -> Scale:
    """A scale that holds all values with a little room around them, or just the ends that the axis says."""
    if axis.ends is not None:
        return Scale(axis, *axis.ends, first, last)
    held = [*values, 0.0] if is_from_zero else list(values) or [0.0]
    least, most = min(held), max(held)
    if axis.is_logarithmic:
        spare = (most / least) ** 0.04 if most > least else 2.0
        return Scale(
            axis,
            max(least / spare, 1.0) if axis.scale == "rank" and least <= 1 else least / spare,
            most * spare,
            first,
            last,
        )
    spare = 0.04 * (most - least) or 0.5
    # A bar stands on its axis: no room on a side where there is none.
    low = 0.0 if is_from_zero and least == 0 else spare
    high = 0.0 if is_from_zero and most == 0 else spare
    return Scale(axis, least - low, most + high, first, last)


def box(left: float, top: float, right: float, bottom: float) -> list[Shape]:
    """The frame of a panel."""
    corners = [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]
    return [Line(start, end, "muted", 0.5) for start, end in pairwise(corners)]


def path(points: Sequence[Point], colour: str, width: float, *, is_dashed: bool = False) -> Iterator[Line]:
    """Straight lines from point to point; dashes run on round the corners."""
    if not is_dashed:
        yield from (Line(start, end, colour, width) for start, end in pairwise(points))
        return
    # Each Line begins its own dashes anew, so short ones would look solid.
    lengths, n, left = DASHES["dashed"], 0, DASHES["dashed"][0]
    for start, end in pairwise(points):
        whole = math.dist(start, end)
        done = 0.0
        while done < whole - 1e-9:
            step = min(left, whole - done)
            if n == 0:
                yield Line(
                    _between(start, end, done / whole), _between(start, end, (done + step) / whole), colour, width
                )
            done, left = done + step, left - step
            if left <= 1e-9:
                n = 1 - n
                left = lengths[n]


def _between(start: Point, end: Point, part: float) -> Point:
    return start[0] + part * (end[0] - start[0]), start[1] + part * (end[1] - start[1])


def mark(role: Role, at: Point, size: float) -> Mark:
    """The mark of a role's points."""
    look = ROLES[role]
    if look.mark == "circle":
        return Mark("circle", at, size, look.colour, look.colour, 0.0)
    return Mark(look.mark if look.mark in ("square", "diamond") else "circle", at, size, "background", look.colour, 0.7)


class Sample(NamedTuple):
    """One entry of a legend."""

    name: str
    role: Role
    kind: str
    """``"line"``, ``"points"``, ``"bar"`` or ``"band"``."""


def legend(samples: Sequence[Sample], width: float, top: float, *, spell: Spell) -> tuple[list[Shape], float]:
    """Entries from left to right, in as many lines as they need, and where they end."""
    shapes: list[Shape] = []
    x, y = PAD, top
    for sample in samples:
        name = shortened(spell(printable(sample.name)), AXIS_SIZE, width - 2 * PAD - _SAMPLE - 3)
        long = _SAMPLE + 3 + text_width(name, AXIS_SIZE)
        if x > PAD and x + long > width - PAD:
            x, y = PAD, y + LEAD
        look, middle = ROLES[sample.role], (x + _SAMPLE / 2, y)
        match sample.kind:
            case "bar":
                shapes.append(Line((x + 3, y), (x + _SAMPLE - 3, y), look.colour, 6.0, tint=look.tint))
            case "band":
                shapes.append(Line((middle[0], y - 3.5), (middle[0], y + 3.5), look.colour, 1.0, tint=0.5))
            case _:
                if sample.kind == "line":
                    shapes += path([(x, y), (x + _SAMPLE, y)], look.colour, 1.1, is_dashed=look.is_dashed)
                shapes.append(mark(sample.role, middle, 3.4))
        shapes.append(Label(name, (x + _SAMPLE + 3, baseline(y, AXIS_SIZE)), AXIS_SIZE, "ink"))
        x += long + _GAP
    return shapes, y + 0.5 * LEAD if samples else top


def centred(text: str, at: Point, room: float, *, spell: Spell, most: int = 3) -> list[Label]:
    """A title in the middle of ``room`` points, in at most so many lines from ``at`` on."""
    lines = wrapped(spell(printable(text)), room, AXIS_SIZE, most=most) if text else []
    return [Label(line, (at[0], at[1] + n * LEAD), AXIS_SIZE, "muted", "middle") for n, line in enumerate(lines)]


def heading(title: str, subtitle: str, width: float, *, spell: Spell) -> tuple[list[Shape], float]:
    """The title, in bold, the line below it, and where they end."""
    shapes: list[Shape] = []
    y = PAD + AXIS_SIZE
    for text, is_bold in ((title, True), (subtitle, False)):
        lines = wrapped(spell(printable(text)), width - 2 * PAD, AXIS_SIZE, is_bold=is_bold) if text else []
        for line in lines:
            shapes.append(Label(line, (PAD, y), AXIS_SIZE, "ink" if is_bold else "muted", is_bold=is_bold))
            y += LEAD
    return shapes, y - 0.3 * AXIS_SIZE


def finished(shapes: list[Shape], bottom: float, look: Look, *, title: str, about: str, spell: Spell) -> Picture:
    """The page, with its caption below if that is asked for."""
    caption = printable(about)
    if look.caption:
        lines, bottom = caption_lines(spell(caption), look.points, bottom)
        shapes = [*shapes, *lines]
    height = round(bottom + 2 * PAD, 2)
    return Picture(look.points, height, tuple(shapes), palette(THEMES[look.theme]), spell(printable(title)), caption)
