"""A table as a picture for a paper: its first rows as text, with a rule above and below."""

from __future__ import annotations

from ...charts.table import Table
from ...charts.text import printable
from ...errors import ArgumentError
from ..words.table import MOST_ROWS, cells, is_number, said
from .build import Look
from .content import Spell
from .frame import AXIS_SIZE, PAD
from .plot import LEAD, finished, heading
from .shapes import Anchor, Label, Line, Picture, shortened, text_width

_BESIDE = 8.0
"""Room between columns."""
_LEAST = 12.0


def table_picture(table: Table, look: Look, spell: Spell = str) -> Picture:
    """Shapes of a table; long texts are cut where the width asks for it.

    Raises
    ------
    ArgumentError
        If there are no rows, or the width has no room for all columns.
    """
    rows = [[spell(text) for text in row] for row in cells(table, MOST_ROWS)]
    if not rows:
        raise ArgumentError(f"{table.title!r} has no rows; there is nothing to draw")
    names = [spell(printable(name)) for name in table.columns]
    room = look.points - 2 * PAD - _BESIDE * (len(names) - 1)
    needed = [max(text_width(text, AXIS_SIZE) for text in column) for column in zip(names, *rows, strict=True)]
    widths = _fitting(needed, room)
    if any(width < min(_LEAST, whole) for width, whole in zip(widths, needed, strict=True)):
        wider = int(look.points + _LEAST * len(names) - room) + 1
        raise ArgumentError(
            f"the table has {len(names)} columns, and a width of {look.points:g} points has no room for them; give "
            f"width={wider} or more"
        )
    shapes, y = heading(table.title, "", look.points, spell=spell)
    right = PAD + sum(widths) + _BESIDE * (len(names) - 1)
    y += PAD
    shapes.append(Line((PAD, y), (right, y), "ink", 0.8))
    sides: list[Anchor] = ["end" if is_number(values) else "start" for values in table.columns.values()]
    for n, row in enumerate([names, *rows]):
        y += LEAD
        x = PAD
        for text, width, side in zip(row, widths, sides, strict=True):
            at = (x + width if side == "end" else x, y)
            shapes.append(Label(shortened(text, AXIS_SIZE, width), at, AXIS_SIZE, "ink" if n else "muted", side))
            x += width + _BESIDE
        if n == 0:
            y += 0.5 * AXIS_SIZE
            shapes.append(Line((PAD, y), (right, y), "muted", 0.5))
    y += 0.5 * AXIS_SIZE
    shapes.append(Line((PAD, y), (right, y), "ink", 0.8))
    about = ". ".join([table.title, *said(table, MOST_ROWS)])
    return finished(shapes, y, look, title=table.title, about=about, spell=spell)


def _fitting(widths: list[float], room: float) -> list[float]:
    """Widths of columns that fit: those of the widest ones are cut to the same."""
    if sum(widths) <= room:
        return widths
    for left, width in enumerate(sorted(widths)):
        share = room / (len(widths) - left)
        if width > share:
            return [min(one, share) for one in widths]
        room -= width
    return widths
