"""Bars as a picture for a paper: upright over their places, or columns of bars, moves and words beside rows of places."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ...charts.bars import Bar, Bars, Column
from ...charts.text import printable, visible
from ...errors import ArgumentError
from ..scene.chart_roles import ROLES
from .build import Look
from .content import Spell
from .frame import AXIS_SIZE, LONGEST_TICK, PAD
from .grid import place_names, place_ticks
from .plot import LEAD, Sample, box, centred, finished, heading, legend, scale
from .shapes import Label, Line, Mark, Picture, Shape, baseline, shortened, text_width

_TALL = 0.42
_LEAST_PLACE, _LEAST_COLUMN, _LEAST_WORDS = 1.5, 22.0, 36.0
"""Width of a bar, of a column of bars, and of one of words."""
_WORDS_SHOWN = 3
_THICK = 0.62
"""Bar of a row, or of a place, that its bar fills."""
_BESIDE = 8.0
"""Room between columns."""


def bars_picture(bars: Bars, look: Look, spell: Spell = str) -> Picture:
    """Shapes of bars.

    Raises
    ------
    ArgumentError
        If there is no place, or the width has no room for all columns.
    """
    if not all(len(column.places) for column in bars.columns):
        raise ArgumentError(f"{bars.title!r} has no numbers; there is nothing to draw")
    shapes, top = heading(bars.title, bars.subtitle, look.points, spell=spell)
    draw = _upright if bars.is_upright else _side_by_side
    more, lowest = draw(bars, look, top + PAD, spell)
    shapes += more
    samples = [
        Sample(part.name, part.role or "main", "bar")
        for column in bars.columns
        if len(column.bars) > 1
        for part in column.bars
    ]
    if look.legend and samples:
        lowest += LEAD
        if bars.parts_title:
            shapes.append(Label(spell(f"{bars.parts_title}:"), (PAD, baseline(lowest, AXIS_SIZE)), AXIS_SIZE, "muted"))
            lowest += LEAD
        entries, lowest = legend(samples, look.points, lowest, spell=spell)
        shapes += entries
    return finished(shapes, lowest, look, title=bars.title, about=bars.about or bars.title, spell=spell)


def _upright(bars: Bars, look: Look, top: float, spell: Spell) -> tuple[list[Shape], float]:
    """One column of bars that stand on the names of their places."""
    (column,) = bars.columns
    bottom = top + _TALL * look.points
    y = scale(column.axis, _ends(column), bottom, top, is_from_zero=True)
    ticks = y.ticks(22.0)
    left = PAD + LEAD + max(text_width(name, AXIS_SIZE) for _, name in ticks) + 3
    right = look.points - 2 * PAD
    pitch = (right - left) / len(column.places)
    if pitch < _LEAST_PLACE:
        fit = int((right - left) / _LEAST_PLACE)
        raise ArgumentError(
            f"the picture has {len(column.places)} columns, and a width of {look.points:g} points has room for {fit}; take a wider "
            "picture (width=), or group tokens (.grouped)"
        )
    shapes: list[Shape] = []
    for at, name in ticks:
        shapes.append(Line((left, at), (right, at), "line", 0.5))
        shapes.append(Label(name, (left - 3, baseline(at, AXIS_SIZE)), AXIS_SIZE, "ink", "end"))
    for part, start, end, n in _spans(column):
        x = left + pitch * (n + 0.5)
        shapes.append(_bar(part, n, (x, y.place(start)), (x, y.place(end)), _THICK * pitch))
    shapes.append(Line((left, y.place(0.0)), (right, y.place(0.0)), "muted", 0.7))
    shapes += box(left, top, right, bottom)
    title = shortened(spell(printable(column.axis.title)), AXIS_SIZE, bottom - top)
    shapes.append(Label(title, (PAD + AXIS_SIZE, (top + bottom) / 2), AXIS_SIZE, "muted", "middle", angle=90.0))
    more, lowest = place_ticks(column.places, (left, right, bottom), spell)
    return [*shapes, *more], lowest


def _side_by_side(bars: Bars, look: Look, top: float, spell: Spell) -> tuple[list[Shape], float]:
    """Columns from left to right; those of the same places share the names at the left."""
    is_shared = len({id(column.places) for column in bars.columns}) == 1
    named = bars.columns[:1] if is_shared else bars.columns
    names = {id(column.places): place_names(column.places, spell) for column in named}
    # The last number of an axis hangs over the right end.
    room = look.points - 2 * PAD - AXIS_SIZE - _BESIDE * (len(bars.columns) - 1)
    widths = _widths(bars, look, room - sum(max(map(_width, names[id(column.places)])) + 3 for column in named))
    pitch = (
        (_WORDS_SHOWN + 0.4) * 1.15 * AXIS_SIZE if any(column.words for column in bars.columns) else 1.45 * AXIS_SIZE
    )
    heads = [
        centred(column.title, (0.0, 0.0), width, spell=spell)
        for column, width in zip(bars.columns, widths, strict=True)
    ]
    top += LEAD * max(map(len, heads))
    shapes: list[Shape] = []
    left, lowest = PAD, top
    for column, width, head in zip(bars.columns, widths, heads, strict=True):
        if column in named:
            beside = names[id(column.places)]
            left += max(map(_width, beside)) + 3
            for n, name in enumerate(beside):
                shapes.append(
                    Label(name, (left - 3, baseline(top + pitch * (n + 0.5), AXIS_SIZE)), AXIS_SIZE, "ink", "end")
                )
        bottom = top + pitch * len(column.places)
        above = (left + width / 2, top - 0.5 * AXIS_SIZE - LEAD * (len(head) - 1))
        shapes += centred(column.title, above, width, spell=spell)
        if column.words:
            shapes += _words(column, (left + 2, top), width - 2, pitch, spell)
        else:
            shapes += _rows(column, (left, top, left + width, bottom), pitch)
            axis = centred(_axis_title(column), (left + width / 2, bottom + 2 * LEAD), width + _BESIDE - 2, spell=spell)
            shapes += axis
            lowest = max([lowest, bottom + LEAD, *(label.at[1] + 1 for label in axis)])
        lowest = max(lowest, bottom)
        left += width + _BESIDE
    return shapes, lowest


def _widths(bars: Bars, look: Look, room: float) -> list[float]:
    """Width of each column in points, of the ``room`` that they share."""
    weights = [1.7 if column.words else 1.0 for column in bars.columns]
    widths = [room * weight / sum(weights) for weight in weights]
    least = [_LEAST_WORDS if column.words else _LEAST_COLUMN for column in bars.columns]
    if any(width < needed for width, needed in zip(widths, least, strict=True)):
        wider = int(look.points - room + sum(weights) * max(n / w for n, w in zip(least, weights, strict=True))) + 1
        raise ArgumentError(
            f"the picture has {len(bars.columns)} columns side by side, and a width of {look.points:g} points has no room for "
            f"them; give width={wider} or more"
        )
    return widths


def _rows(column: Column, where: tuple[float, float, float, float], pitch: float) -> Iterator[Shape]:
    """Bars, or moves, of one column, with the axis below."""
    left, top, right, bottom = where
    is_move = any(part.start is not None for part in column.bars)
    x = scale(column.axis, _ends(column), left, right, is_from_zero=not is_move)
    # A name at an end hangs over by half of it.
    ticks = x.ticks(max(text_width(name, AXIS_SIZE) for _, name in x.ticks(24.0)) + 6)
    for at, name in ticks:
        yield Line((at, top), (at, bottom), "line", 0.5)
        yield Label(name, (at, bottom + LEAD), AXIS_SIZE, "ink", "middle")
    for part, start, end, n in _spans(column):
        y = top + pitch * (n + 0.5)
        ends = (x.place(start), y), (x.place(end), y)
        if is_move:
            colour = ROLES[part.side(n, is_rank=column.axis.scale == "rank")].colour
            yield Line(*ends, colour, 1.0)
            yield Mark("circle", ends[0], 3.6, "background", colour, 0.8)
            yield Mark("circle", ends[1], 4.0, colour, colour, 0.0)
        else:
            thick = min(_THICK * pitch, 1.1 * AXIS_SIZE)
            yield _bar(part, n, *ends, thick)
            if part.band is not None:
                low, high = (x.place(float(value)) for value in part.band[n])
                yield Line((low, y), (high, y), "ink", 0.7)
                yield from (Line((at, y - 1.6), (at, y + 1.6), "ink", 0.7) for at in (low, high))
    if not is_move:
        yield Line((x.place(0.0), top), (x.place(0.0), bottom), "muted", 0.7)
    yield from box(left, top, right, bottom)


def _axis_title(column: Column) -> str:
    return column.axis.title + " (○ → ●)" * any(bar.start is not None for bar in column.bars)


def _words(column: Column, at: tuple[float, float], width: float, pitch: float, spell: Spell) -> Iterator[Label]:
    """The first tokens of each place, one below the other."""
    left, top = at
    for n, words in enumerate(column.words):
        shown = words[:_WORDS_SHOWN]
        for line, word in enumerate(shown):
            middle = top + pitch * (n + 0.5) + 1.15 * AXIS_SIZE * (line - (len(shown) - 1) / 2)
            text = shortened(spell(visible(word)), AXIS_SIZE, width)
            yield Label(text, (left, baseline(middle, AXIS_SIZE)), AXIS_SIZE, "ink")


def _bar(part: Bar, n: int, start: tuple[float, float], end: tuple[float, float], thick: float) -> Line:
    look = ROLES[part.side(n)]
    return Line(start, end, look.colour, thick, tint=look.tint)


def _spans(column: Column) -> Iterator[tuple[Bar, float, float, int]]:
    """Bar, start, end and place of each bar; parts of a sign are put end to end."""
    stacked = {sign: np.zeros(len(column.places)) for sign in (False, True)}
    for part in column.bars:
        for n, value in enumerate(part.values.tolist()):
            if part.start is not None:
                yield part, float(part.start[n]), value, n
            elif value:
                below = stacked[value < 0]
                yield part, float(below[n]), float(below[n] + value), n
                below[n] += value


def _ends(column: Column) -> list[float]:
    """All numbers that an axis has to hold."""
    found = [value for _, start, end, _ in _spans(column) for value in (start, end)]
    return found + [float(value) for part in column.bars if part.band is not None for value in part.band.ravel()]


def _width(name: str) -> float:
    return min(LONGEST_TICK, text_width(name, AXIS_SIZE))
