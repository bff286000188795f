"""Results as small pieces of static HTML for notebooks.

They are shown on pages that are not ours, light or dark, with and without a kernel: so nothing is fetched and nothing runs, text
keeps the colour of the page, and numbers lie behind it as a wash of blue (or orange below zero) that is legible on both.
"""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from ...charts import rendering
from ...charts.bars import Bars
from ...charts.grid import Grid, Places
from ...charts.lines import Lines
from ...charts.overview import Overview
from ...charts.table import Table
from ...charts.text import abbreviated, printable, visible
from ..scene.style import LIGHT
from ..words.table import MOST_ROWS, cells, is_number, said, short

if TYPE_CHECKING:
    from ...values.trace import Trace

MOST_LAYERS, MOST_POSITIONS = 32, 14
"""Rows and columns of a grid that are shown."""

_RAISES, _LOWERS = (tuple(bytes.fromhex(colour[1:])) for colour in (LIGHT.raises, LIGHT.lowers))
_STRONGEST = 0.6
_CELL = "padding:1px 6px;white-space:nowrap"
_LINE = "border-bottom:1px solid rgba(128,128,128,.45)"
_TABLE = "border-collapse:collapse;font-size:12px;line-height:1.45;margin:4px 0"


@rendering.html.register(Table)
def table_html(table: Table, *, most: int = MOST_ROWS) -> str:
    """A table as HTML: its title, its first rows (or those at both ends), and a line that says how many are left out.

    Parameters
    ----------
    table
        Any table.
    most
        Rows that are shown.
    """
    return _framed(table.title, _rows_html(table, most), said(table, most))


@rendering.html.register(Grid)
def grid_html(grid: Grid) -> str:
    """A grid as a table of washed cells with words, or where there are none with the numbers; each says its tip.

    Of many layers some, evenly spaced, of many other places the last are shown, and a line says so.
    """
    shown = [_shown(places) for places in (grid.rows, grid.columns)]
    strength = grid.strength
    names = [_names(grid.rows), _names(grid.columns)]
    lines = []
    for row in shown[0][:: -1 if grid.rows.is_upward else 1]:
        cells = []
        for column in shown[1]:
            value = float(grid.values[row, column])
            text = _digits(value, grid.end) if grid.words is None else visible(abbreviated(grid.words[row][column]))
            cells.append(_cell(text, float(strength[row, column]), "\n".join(grid.tip(int(row), int(column)))))
        lines.append((names[0][row] if grid.rows.name else grid.unit, cells))
    corner = " \\ ".join(name for name in (grid.rows.name, grid.columns.name) if name)
    notes = [*grid.notes, f"each cell: {'its top token, ' if grid.words else ''}{grid.unit}; pointed at, its numbers"]
    notes += ["empty cells: exactly 0"] * bool(grid.words is None and (grid.values == 0).any())
    for places, which in zip((grid.rows, grid.columns), shown, strict=True):
        notes += _left_out(len(places), which, {"query": "queries"}.get(places.name, f"{places.name}s"))
    return _framed(grid.title, _grid(corner, [names[1][i] for i in shown[1]], lines), notes)


@rendering.html.register(Bars)
def bars_html(bars: Bars) -> str:
    """Upright bars as a grid of one row, others as the table of their numbers."""
    return grid_html(bars.row()) if bars.is_upright else table_html(bars.table())


@rendering.html.register(Lines)
def lines_html(lines: Lines) -> str:
    """The numbers of all points: a picture of lines cannot be a table of cells."""
    return table_html(lines.table())


@rendering.html.register(Overview)
def overview_html(overview: Overview) -> str:
    """A small picture for each grid, and the table."""
    pictures = "".join(_small_picture(name, grid) for name, grid in overview.grids.items())
    notes = said(overview.table, MOST_ROWS)
    if overview.grids:
        grid = next(iter(overview.grids.values()))
        top, bottom = (f"{grid.rows.name} {grid.rows.numbers[end]}" for end in (-1, 0))
        left = f"{grid.columns.name} {grid.columns.numbers[0]}"
        place = f"{top} on top, {bottom} at the bottom, {left} at the left"
        notes = [f"pictures: {place}; bluer is more, orange is below 0", *notes]
    body = (
        f'<div style="display:flex;flex-wrap:wrap;gap:14px;margin:6px 0">{pictures}</div>{_rows_html(overview.table)}'
    )
    return _framed(overview.title, body, notes)


def trace_html(trace: Trace, predictions: Table | None) -> str:
    """A trace: its prompt, what the model predicts, and the tensors it keeps.

    Parameters
    ----------
    trace
        Any trace.
    predictions
        The best tokens at its position; None where they cannot be told.
    """
    shown = _last(len(trace.tokens), 60)
    marked = f"background:rgba({','.join(map(str, _RAISES))},.35);"
    chips = "".join(
        f'<span style="{marked if i == trace.position else ""}border:1px solid rgba(128,128,128,.45);border-radius:3px;'
        f'padding:0 4px;margin:1px;display:inline-block"><span style="opacity:.7">{i}</span> {_escaped(visible(trace.tokens[i]))}'
        "</span>"
        for i in shown
    )
    head = _head(["site", "shape", "type", "MB"])
    rows = [
        "".join(f'<td style="{_CELL}">{_escaped(text)}</td>' for text in (name, *_size(tensor)))
        for name, tensor in trace.sites.items()
    ]
    notes = _left_out(len(trace.tokens), shown, "tokens")
    notes += [
        f"marked: position {trace.position}, which is explained; all tensors together {trace.nbytes / 2**20:.1f} MB"
    ]
    best = "" if predictions is None else table_html(predictions)
    return _framed(
        repr(trace), f'<div style="font-size:12px;line-height:1.9">{chips}</div>{best}{_table(head, rows)}', notes
    )


def _rows_html(table: Table, most: int = MOST_ROWS) -> str:
    """The rows of a table that are shown."""
    sides = ["right" if is_number(values) else "left" for values in table.columns.values()]
    lines = [
        "".join(
            f'<td style="{_CELL};text-align:{side}">{_escaped(text)}</td>'
            for text, side in zip(row, sides, strict=True)
        )
        for row in cells(table, most)
    ]
    return _table(_head(list(table.columns), sides), lines)


def _framed(title: str, body: str, notes: Sequence[str]) -> str:
    """A result under its title, in a box that scrolls by itself where it is wide."""
    said = "".join(f'<div style="opacity:.8;font-size:11px">{_escaped(printable(note))}</div>' for note in notes)
    head = f'<div style="font-weight:600;font-size:12px">{_escaped(printable(title))}</div>'
    return f'<div style="overflow-x:auto;max-width:100%;margin:4px 0">{head}{body}{said}</div>'


def _head(names: Sequence[str], sides: Sequence[str] | None = None) -> str:
    """The line above a table: names of the columns, at the left unless ``sides`` says otherwise."""
    return "".join(
        f'<th style="{_CELL};{_LINE};text-align:{side}">{_escaped(printable(name))}</th>'
        for name, side in zip(names, sides or ["left"] * len(names), strict=True)
    )


def _table(head: str, rows: Sequence[str]) -> str:
    lines = "".join(f"<tr>{row}</tr>" for row in rows)
    return f'<table style="{_TABLE}"><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>'


def _grid(corner: str, columns: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> str:
    """A table of cells with names above and at the left."""
    lines = [f'<th style="{_CELL};text-align:left">{_escaped(name)}</th>{"".join(cells)}' for name, cells in rows]
    return _table(_head([corner, *columns]), lines)


def _cell(text: str, strength: float, hint: str) -> str:
    """A cell whose wash says how strong it is, between −1 and 1."""
    wash = f"background:{_wash(strength)};" if strength else ""
    return f'<td style="{wash}padding:1px 6px;white-space:nowrap;text-align:left" title="{_escaped(hint)}">{_escaped(text)}</td>'


def _digits(value: float, largest: float) -> str:
    """A number in a cell: short, and nothing for 0."""
    if value == 0:
        return ""
    return f"{value:.2f}".replace("0.", ".", 1) if 0.1 <= largest < 10 else short(value)


def _wash(strength: float) -> str:
    red, green, blue = _LOWERS if strength < 0 else _RAISES
    return f"rgba({red},{green},{blue},{_STRONGEST * min(1.0, abs(strength)):.2f})"


def _small_picture(name: str, grid: Grid) -> str:
    """A picture of a grid, a few pixels for each place, with its smallest and largest value below."""
    rows, columns = grid.values.shape
    side = max(3, min(9, 150 // max(rows, 1)))
    source = _png(grid.values[::-1] if grid.rows.is_upward else grid.values)
    held = f"{short(float(grid.values.min()))} … {short(float(grid.values.max()))}"
    name = _escaped(name.replace("_", " "))
    return (
        f'<div style="font-size:11px;text-align:center;min-width:84px"><div>{name}</div><img src="{source}" '
        f'alt="{name} of {rows} {grid.rows.name}s × {columns} {grid.columns.name}s, {held}" width="{columns * side}" '
        f'height="{rows * side}" style="image-rendering:pixelated;border:1px solid rgba(128,128,128,.45);display:inline-block;margin:2px 0">'
        f'<div style="opacity:.8">{held}</div></div>'
    )


def _png(values: Float[np.ndarray, "rows columns"]) -> str:
    """A pixel for each value, as transparent as it is small, as the address of a PNG picture."""
    largest = float(np.abs(values).max()) or 1.0
    pixels = np.zeros((*values.shape, 4), dtype=np.uint8)
    pixels[..., :3] = np.where((values < 0)[..., None], _LOWERS, _RAISES)
    pixels[..., 3] = np.rint(255 * np.abs(values) / largest)
    # Each line begins with the number of its filter: 0, none.
    lines = np.concatenate([np.zeros((len(values), 1), dtype=np.uint8), pixels.reshape(len(values), -1)], axis=1)
    size = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 8, 6, 0, 0, 0)
    chunks = ((b"IHDR", size), (b"IDAT", zlib.compress(lines.tobytes(), 9)), (b"IEND", b""))
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
    return "data:image/png;base64," + base64.b64encode(data).decode("ascii")


def _names(places: Places) -> list[str]:
    """What stands beside rows and above columns."""
    numbers = [str(number) for number in places.numbers]
    if places.tokens is None:
        return numbers
    return [f"{n} {visible(abbreviated(token))}" for n, token in zip(numbers, places.tokens, strict=True)]


def _shown(places: Places) -> Int[np.ndarray, "shown"]:
    return _spread(len(places), MOST_LAYERS) if places.is_upward else _last(len(places), MOST_POSITIONS)


def _size(tensor: Any) -> tuple[str, str, str]:
    shape = " × ".join(map(str, tensor.shape))
    return shape, str(tensor.dtype).removeprefix("torch."), f"{tensor.nelement() * tensor.element_size() / 2**20:.2f}"


def _spread(count: int, most: int) -> Int[np.ndarray, "shown"]:
    """Places evenly from first to last, at most so many."""
    found: np.ndarray = np.unique(np.linspace(0, max(count - 1, 0), min(count, most)).round().astype(np.int64))
    return found


def _last(count: int, most: int) -> Int[np.ndarray, "shown"]:
    found: np.ndarray = np.arange(max(0, count - most), count)
    return found


def _left_out(count: int, shown: Int[np.ndarray, "shown"], what: str) -> list[str]:
    """A line that says which of them are shown, where not all are."""
    if len(shown) == count:
        return []
    which = "the last" if shown[0] > 0 else "evenly spaced"
    return [f"{len(shown)} of {count:,} {what} are shown, {which}: to_dataframe() has all"]


def _escaped(text: str) -> str:
    return escape(text, quote=True)
