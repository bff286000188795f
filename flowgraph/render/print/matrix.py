"""A matrix between tokens as a picture for a paper: a square for each number, the deeper its colour the larger the number."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ...errors import ArgumentError
from ...values.token_matrix import TokenMatrix
from ..words.text import visible
from .build import Look, caption_lines
from .content import Spell
from .frame import AXIS_SIZE, LONGEST_TICK, PAD
from .ink import THEMES, palette
from .shapes import Anchor, Label, Line, Mark, Picture, Shape, baseline, shortened, text_width

_LEAST, _MOST = 1.5, 22.0
_SCALE_CELLS, _SCALE_SIDE = 6, 9.0
_TITLES = {"layer": "layer", "query_pos": "query: token that is written", "key_pos": "key: token that is read"}


def matrix_picture(matrix: TokenMatrix, look: Look, spell: Spell = str) -> Picture:
    """Shapes of a matrix of two axes, or of one as a single row of squares.

    Queries run from top to bottom, layers from bottom to top, keys from left to right.

    Raises
    ------
    ArgumentError
        If the matrix has three axes, or more columns than the width has room for.
    """
    if matrix.ndim > 2:
        raise ArgumentError(f"matrix has the axes {matrix.axes}; one layer can be drawn, such as matrix.layer(-1)")
    values = matrix.values.reshape(-1, matrix.shape[-1])
    columns = _ticks(matrix, matrix.ndim - 1, spell)
    rows = _ticks(matrix, 0, spell) if matrix.ndim == 2 else [""]
    left = 2 * PAD + 1.2 * AXIS_SIZE + max(text_width(tick, AXIS_SIZE) for tick in rows)
    side = min(_MOST, (look.points - left - PAD) / len(columns))
    if side < _LEAST:
        room = int((look.points - left - PAD) / _LEAST)
        raise ArgumentError(
            f"the matrix has {len(columns)} columns, and a width of {look.points:g} points has room for {room}; take a wider "
            "picture (width=), or group tokens (.grouped)"
        )
    upward = matrix.axes[0] == "layer"
    top = PAD + 1.6 * AXIS_SIZE
    bottom, right = top + side * len(rows), left + side * len(columns)
    heights = [top + side * ((len(rows) - 1 - n if upward else n) + 0.5) for n in range(len(rows))]
    title = f"{matrix.measure} ({matrix.unit})"
    title = spell(title[:1].upper() + title[1:])
    shapes: list[Shape] = [
        Label(
            shortened(title, AXIS_SIZE, look.points - 2 * PAD, True),
            (PAD, PAD + AXIS_SIZE),
            AXIS_SIZE,
            "ink",
            is_bold=True,
        )
    ]
    largest = float(np.abs(values).max()) or 1.0
    shapes += _cells(values, heights, left, side, largest)
    for start, end in (
        ((left, top), (right, top)),
        ((left, bottom), (right, bottom)),
        ((left, top), (left, bottom)),
        ((right, top), (right, bottom)),
    ):
        shapes.append(Line(start, end, "muted", 0.5))
    every = max(1, -int(-1.1 * AXIS_SIZE // side))
    for n in range(0, len(rows), every):
        shapes.append(Label(rows[n], (left - 2, baseline(heights[n], AXIS_SIZE)), AXIS_SIZE, "ink", "end"))
    lowest = bottom
    flat = max(text_width(tick, AXIS_SIZE) for tick in columns) < 0.95 * side
    for n in range(0, len(columns), every):
        x = left + side * (n + 0.5)
        if flat:
            shapes.append(Label(columns[n], (x, bottom + 1.3 * AXIS_SIZE), AXIS_SIZE, "ink", "middle"))
        else:
            shapes.append(Label(columns[n], (x + 0.35 * AXIS_SIZE, bottom + 2), AXIS_SIZE, "ink", "end", angle=90.0))
    lowest += (
        1.6 * AXIS_SIZE if flat else 4 + max(text_width(columns[n], AXIS_SIZE) for n in range(0, len(columns), every))
    )
    lowest += 1.2 * AXIS_SIZE
    shapes.append(Label(_TITLES[matrix.axes[-1]], ((left + right) / 2, lowest), AXIS_SIZE, "muted", "middle"))
    if matrix.ndim == 2:
        shapes.append(
            Label(
                _TITLES[matrix.axes[0]], (PAD + AXIS_SIZE, (top + bottom) / 2), AXIS_SIZE, "muted", "middle", angle=90.0
            )
        )
    if look.legend:
        lowest += 1.6 * AXIS_SIZE
        shapes += _scale(values, largest, matrix.unit, (left, lowest))
        lowest += _SCALE_SIDE
    caption = _caption(matrix, values)
    if look.caption:
        lines, lowest = caption_lines(spell(caption), look.points, lowest)
        shapes += lines
    height = round(max(lowest, _height_of_title(matrix, top, bottom)) + 2 * PAD, 2)
    return Picture(look.points, height, tuple(shapes), palette(THEMES[look.theme]), title, caption)


def _height_of_title(matrix: TokenMatrix, top: float, bottom: float) -> float:
    """Where a turned title beside a low matrix ends."""
    return (top + bottom) / 2 + text_width(_TITLES[matrix.axes[0]], AXIS_SIZE) / 2 if matrix.ndim == 2 else bottom


def _ticks(matrix: TokenMatrix, axis: int, spell: Spell) -> list[str]:
    numbers = matrix.places(axis)
    if matrix.axes[axis] == "layer" or matrix.tokens is None:
        return [str(number) for number in numbers]
    return [shortened(spell(visible(token)), AXIS_SIZE, LONGEST_TICK) for token in matrix.tokens]


def _cells(values: np.ndarray, heights: list[float], left: float, side: float, largest: float) -> Iterator[Mark]:
    for row, column in np.argwhere(values != 0):
        value = float(values[row, column])
        yield _cell((left + side * (column + 0.5), heights[row]), side, value / largest, bool(values.min() < 0))


def _cell(centre: tuple[float, float], side: float, part: float, signed: bool) -> Mark:
    """A square for a part of the largest number; nothing is the background."""
    fill = "attention" if not signed else "raises" if part > 0 else "lowers"
    return Mark("square", centre, side, fill, fill, 0.0, tint=abs(part))


def _scale(values: np.ndarray, largest: float, unit: str, at: tuple[float, float]) -> Iterator[Shape]:
    """Squares from the least to the largest number, and what both are."""
    signed = bool(values.min() < 0)
    x, y = at
    least = -largest if signed else 0.0
    text = f"{least:.3g}"
    yield Label(text, (x, baseline(y, AXIS_SIZE)), AXIS_SIZE, "ink")
    x += text_width(text, AXIS_SIZE) + 3
    for n in range(_SCALE_CELLS + signed):
        part = n / (_SCALE_CELLS - 1 + signed) if not signed else 2 * n / _SCALE_CELLS - 1
        yield _cell((x + _SCALE_SIDE * (n + 0.5), y), _SCALE_SIDE, part, signed)
    anchor: Anchor = "start"
    x += _SCALE_SIDE * (_SCALE_CELLS + signed) + 3
    yield Label(f"{largest:.3g} {unit}", (x, baseline(y, AXIS_SIZE)), AXIS_SIZE, "ink", anchor)


def _caption(matrix: TokenMatrix, values: np.ndarray) -> str:
    """What the picture shows, and what its colours mean."""
    axes = " × ".join(
        f"{size} {_TITLES[name].split(':')[0]}{'s' * (size != 1)}"
        for size, name in zip(matrix.shape, matrix.axes, strict=True)
    )
    axes = axes.replace("querys", "queries")
    return f"{matrix.measure}, {axes}; colour: {matrix.unit}, from {values.min():.3g} to {values.max():.3g}"
