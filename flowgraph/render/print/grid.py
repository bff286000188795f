"""A grid as a picture for a paper: a square for each number, the deeper its colour the more it stands out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ...charts.grid import Grid, Places
from ...charts.text import printable, visible
from ...errors import ArgumentError
from .build import Look, caption_lines
from .content import Spell
from .frame import AXIS_SIZE, LONGEST_TICK, PAD
from .ink import THEMES, palette
from .shapes import Anchor, Label, Line, Mark, Picture, Shape, baseline, shortened, text_width

_LEAST, _MOST = 1.5, 22.0
_LEAST_WORD, _MOST_WORD = 16.0, 48.0
"""Width of a cell that has room for a word, and of one that has room for most."""
_WASH = 0.45
"""The strongest colour behind a word, on which ink is still easy to read."""
_SCALE_CELLS, _SCALE_SIDE = 6, 9.0


def grid_picture(grid: Grid, look: Look, spell: Spell = str) -> Picture:
    """Shapes of a grid.

    Raises
    ------
    ArgumentError
        If the grid has no places, or more columns than the width has room for.
    """
    if not grid.values.size:
        raise ArgumentError(f"{grid.title!r} has no numbers; there is nothing to draw")
    strength = grid.strength
    rows = place_names(grid.rows, spell)
    left = 2 * PAD + 1.2 * AXIS_SIZE + max(text_width(tick, AXIS_SIZE) for tick in rows)
    words, side = _fitted_cells(grid, look, look.points - left - PAD)
    tall = side if words is None else 1.6 * AXIS_SIZE
    upward = grid.rows.is_upward
    top = PAD + 1.6 * AXIS_SIZE
    bottom, right = top + tall * len(rows), left + side * len(grid.columns)
    heights = [top + tall * ((len(rows) - 1 - n if upward else n) + 0.5) for n in range(len(rows))]
    title = spell(printable(grid.title))
    shapes: list[Shape] = [
        Label(
            shortened(title, AXIS_SIZE, look.points - 2 * PAD, True),
            (PAD, PAD + AXIS_SIZE),
            AXIS_SIZE,
            "ink",
            is_bold=True,
        )
    ]
    if words is None:
        shapes += _cells(strength, heights, left, side)
    else:
        shapes += _words(words, strength, heights, left, side, spell)
    shapes += [Line((left, y), (right, y), "muted", 0.5) for y in (top, bottom)]
    shapes += [Line((x, top), (x, bottom), "muted", 0.5) for x in (left, right)]
    labels, lowest = _axes(grid, rows, heights, (left, top, right, bottom), spell)
    shapes += labels
    if look.legend:
        lowest += 1.6 * AXIS_SIZE
        shapes += _scale(grid, 1.0 if words is None else _WASH, (left, lowest))
        lowest += _SCALE_SIDE
    caption = printable(grid.about or grid.title)
    if look.caption:
        lines, lowest = caption_lines(spell(caption), look.points, lowest)
        shapes += lines
    height = round(max(lowest, _height_of_title(grid.rows, top, bottom)) + 2 * PAD, 2)
    return Picture(look.points, height, tuple(shapes), palette(THEMES[look.theme]), title, caption)


def _fitted_cells(grid: Grid, look: Look, room: float) -> tuple[tuple[tuple[str, ...], ...] | None, float]:
    """The words that cells have room for, if any, and the width of a cell in points."""
    each = room / len(grid.columns)
    if grid.words is not None and each >= _LEAST_WORD:
        return grid.words, min(_MOST_WORD, each)
    side = min(_MOST, each)
    if side < _LEAST:
        raise ArgumentError(
            f"the picture has {len(grid.columns)} columns, and a width of {look.points:g} points has room for "
            f"{int(room / _LEAST)}; take a wider picture (width=), or group tokens (.grouped)"
        )
    return None, side


def _axes(
    grid: Grid, rows: list[str], heights: list[float], box: tuple[float, float, float, float], spell: Spell
) -> tuple[list[Shape], float]:
    """Ticks and titles of both axes, and where the lowest of them ends."""
    left, top, right, bottom = box
    tall = (bottom - top) / len(rows)
    shapes: list[Shape] = []
    every = max(1, -int(-1.1 * AXIS_SIZE // tall))
    for n in range(0, len(rows), every):
        shapes.append(Label(rows[n], (left - 2, baseline(heights[n], AXIS_SIZE)), AXIS_SIZE, "ink", "end"))
    below, lowest = place_ticks(grid.columns, (left, right, bottom), spell)
    shapes += below
    title = Label(grid.rows.axis_title, (PAD + AXIS_SIZE, (top + bottom) / 2), AXIS_SIZE, "muted", "middle", angle=90.0)
    return [*shapes, title], lowest


def place_ticks(places: Places, box: tuple[float, float, float], spell: Spell) -> tuple[list[Shape], float]:
    """Names and title below places, which fill ``box`` (left, right, bottom) evenly, and where the title ends."""
    left, right, bottom = box
    names, side = place_names(places, spell), (right - left) / len(places)
    shapes: list[Shape] = []
    every = max(1, -int(-1.1 * AXIS_SIZE // side))
    flat = max(text_width(name, AXIS_SIZE) for name in names) < 0.95 * side
    for n in range(0, len(names), every):
        x = left + side * (n + 0.5)
        if flat:
            shapes.append(Label(names[n], (x, bottom + 1.3 * AXIS_SIZE), AXIS_SIZE, "ink", "middle"))
        else:
            shapes.append(Label(names[n], (x + 0.35 * AXIS_SIZE, bottom + 2), AXIS_SIZE, "ink", "end", angle=90.0))
    longest = max(text_width(names[n], AXIS_SIZE) for n in range(0, len(names), every))
    lowest = bottom + (1.6 * AXIS_SIZE if flat else 4 + longest) + 1.2 * AXIS_SIZE
    shapes.append(Label(places.axis_title, ((left + right) / 2, lowest), AXIS_SIZE, "muted", "middle"))
    return shapes, lowest


def _height_of_title(rows: Places, top: float, bottom: float) -> float:
    """Where a turned title beside a low grid ends."""
    return (top + bottom) / 2 + text_width(rows.axis_title, AXIS_SIZE) / 2


def place_names(places: Places, spell: Spell) -> list[str]:
    """What places are called: their tokens, or their numbers where there are none."""
    if places.tokens is None:
        return [str(number) for number in places.numbers]
    return [shortened(spell(visible(token)), AXIS_SIZE, LONGEST_TICK) for token in places.tokens]


def _cells(strength: np.ndarray, heights: list[float], left: float, side: float) -> Iterator[Mark]:
    signed = bool(strength.min() < 0)
    for row, column in np.argwhere(strength != 0):
        yield _cell((left + side * (column + 0.5), heights[row]), side, float(strength[row, column]), signed)


def _words(
    words: Sequence[Sequence[str]], strength: np.ndarray, heights: list[float], left: float, side: float, spell: Spell
) -> Iterator[Shape]:
    """A band of colour for each place, and its word on it."""
    for row, column in np.ndindex(strength.shape):
        start, middle = left + side * column, heights[row]
        part = float(strength[row, column])
        if part:
            yield Line(
                (start, middle), (start + side, middle), _fill(part, False), 1.6 * AXIS_SIZE, tint=_WASH * abs(part)
            )
        word = shortened(spell(visible(words[row][column])), AXIS_SIZE, side - 2)
        yield Label(word, (start + side / 2, baseline(middle, AXIS_SIZE)), AXIS_SIZE, "ink", "middle")


def _fill(part: float, signed: bool) -> str:
    return "attention" if not signed else "raises" if part > 0 else "lowers"


def _cell(centre: tuple[float, float], side: float, part: float, signed: bool) -> Mark:
    """A square that stands out by a part of the most; nothing is the background."""
    fill = _fill(part, signed)
    return Mark("square", centre, side, fill, fill, 0.0, tint=abs(part))


def _scale(grid: Grid, wash: float, at: tuple[float, float]) -> Iterator[Shape]:
    """Squares from one end of the scale to the other, as deep as the places are, and what both ends are."""
    x, y = at
    signed = grid.is_signed
    ends = [-grid.end if signed else 0.0, grid.end]
    first, last = (f"{10**end:,.0f}" if grid.is_logarithmic else f"{end:.3g}" for end in ends)
    yield Label(first, (x, baseline(y, AXIS_SIZE)), AXIS_SIZE, "ink")
    x += text_width(first, AXIS_SIZE) + 3
    for n in range(_SCALE_CELLS + signed):
        part = n / (_SCALE_CELLS - 1 + signed) if not signed else 2 * n / _SCALE_CELLS - 1
        shown = 1.0 - part if grid.strongest == "low" else part
        yield _cell((x + _SCALE_SIDE * (n + 0.5), y), _SCALE_SIDE, shown * wash, signed)
    anchor: Anchor = "start"
    x += _SCALE_SIDE * (_SCALE_CELLS + signed) + 3
    yield Label(f"{last} {grid.unit}", (x, baseline(y, AXIS_SIZE)), AXIS_SIZE, "ink", anchor)
