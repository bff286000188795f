"""Results as small pieces of static HTML for notebooks, and as lines of text for terminals.

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
from ...charts.table import Table
from ...values.node import label
from ...values.reading import Reading
from ...values.token_matrix import TokenMatrix
from ..scene.style import LIGHT
from ..words.text import printable, visible

if TYPE_CHECKING:
    from ...lenses.head_scores import HeadScore, HeadScores
    from ...values.trace import Trace

MOST_ROWS = 20
"""Rows of a table that are shown."""
MOST_LAYERS, MOST_POSITIONS = 32, 14
"""Rows and columns of a grid that are shown."""

_RAISES, _LOWERS = (tuple(bytes.fromhex(colour[1:])) for colour in (LIGHT.raises, LIGHT.lowers))
_STRONGEST = 0.6
_LONGEST_TOKEN = 14
_LISTED = 5
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
    sides = ["right" if _is_number(values) else "left" for values in table.columns.values()]
    lines = [
        "".join(
            f'<td style="{_CELL};text-align:{side}">{_escaped(text)}</td>'
            for text, side in zip(row, sides, strict=True)
        )
        for row in _rows(table, most)
    ]
    head = _head(list(table.columns), sides)
    return _framed(table.title, _table(head, lines), _said(table, most))


@rendering.text.register(Table)
def table_text(table: Table, *, most: int = MOST_ROWS) -> str:
    """A table as lines of text, as :func:`table_html`."""
    rows = [list(map(printable, table.columns)), *_rows(table, most)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    numbers = [_is_number(values) for values in table.columns.values()]
    lines = [
        "  ".join(
            text.rjust(width) if number else text.ljust(width)
            for text, width, number in zip(row, widths, numbers, strict=True)
        ).rstrip()
        for row in rows
    ]
    return "\n".join([printable(table.title), *lines, *map(printable, _said(table, most))])


@rendering.text.register(Reading)
def reading_text(reading: Reading) -> str:
    """A reading as lines of text, see :func:`reading_list`."""
    return table_text(reading_list(reading))


def reading_list(reading: Reading) -> Table:
    """A reading as a list: one row for each vector, or of a single vector one for each of its top tokens."""
    if len(reading) == 1:
        table = reading.table()
        vector = reading[0]
        note = f"entropy {vector.entropy:.3g} nats, length {vector.norm:.3g}; rank of the target {vector.target_rank:,}"
        columns = {name: table.columns[name] for name in ("order", "token", "probability", "logit")}
        return Table(table.title, columns, note=note)
    where = np.indices(reading.shape).reshape(len(reading.shape), len(reading))
    columns = {name: reading.axis_values(n)[where[n]] for n, name in enumerate(reading.axis_names)}
    best = [" · ".join(map(_short, tokens[:_LISTED])) for tokens in reading.top_tokens]
    columns |= {"top_tokens": best, "probability": reading.top_probabilities[:, 0]}
    columns |= {name: getattr(reading, name) for name in ("target_rank", "entropy", "norm")}
    return Table(repr(reading), columns, words=("top_tokens",), note="probability: of the first token")


@rendering.html.register(Reading)
def reading_html(reading: Reading) -> str:
    """A reading as a grid of top tokens, the last row on top; one that has not two axes as :func:`reading_list`."""
    if len(reading.shape) != 2 or not len(reading):
        return table_html(reading_list(reading))
    rows, columns = reading.shape
    shown_rows, shown_columns = _spread(rows, MOST_LAYERS), _last(columns, MOST_POSITIONS)
    names = [str(value) for value in reading.axis_values(1)]
    if reading.axis_names[1] == "position" and reading.prompt_tokens:
        names = [f"{n} {_short(token)}" for n, token in zip(names, reading.prompt_tokens, strict=True)]
    grid = []
    for row in shown_rows[::-1]:
        cells = []
        for column in shown_columns:
            n = int(row * columns + column)
            probability = float(reading.top_probabilities[n, 0])
            hint = f"p {probability:.3f}, rank of {visible(reading.target_token)} {reading.target_rank[n]:,}"
            cells.append(_cell(_short(reading.top_tokens[n][0]), probability, hint))
        grid.append((str(reading.axis_values(0)[row]), cells))
    corner = " \\ ".join(reading.axis_names)
    notes = ["each cell: the top token, the bluer the more probable; pointed at, its probability and the target's rank"]
    notes += _left_out(rows, shown_rows, f"{reading.axis_names[0]}s") + _left_out(
        columns, shown_columns, f"{reading.axis_names[1]}s"
    )
    return _framed(repr(reading), _grid(corner, [names[i] for i in shown_columns], grid), notes)


@rendering.html.register(TokenMatrix)
def matrix_html(matrix: TokenMatrix) -> str:
    """A matrix of tokens as a grid of numbers; of several layers the last."""
    one, notes = matrix, []
    if matrix.ndim == 3:
        if not len(matrix):
            return _framed(repr(matrix), "", [])
        one = matrix.layer(-1)
        notes = [f"shown: layer {matrix.places(0)[-1]}; .layer(n) is another"] * (len(matrix) > 1)
    values = one.values if one.ndim == 2 else one.values[None]
    largest = float(np.abs(values).max()) if values.size else 0.0
    is_layered = one.axes[0] == "layer"
    shown_rows = _spread(len(values), MOST_LAYERS) if is_layered else _last(len(values), MOST_POSITIONS)
    shown_columns = _last(values.shape[1], MOST_POSITIONS)
    row_names = _names(one, 0) if one.ndim == 2 else [one.unit]
    column_names = _names(one, one.ndim - 1)
    grid = []
    for row in shown_rows[:: -1 if is_layered else 1]:
        cells = [_number_cell(float(values[row, column]), largest) for column in shown_columns]
        grid.append((row_names[row], cells))
    corner = " \\ ".join(_AXIS_NAMES[name] for name in one.axes)
    notes += ["empty cells: exactly 0"] * bool((values == 0).any())
    if one.ndim == 2:
        notes += _left_out(len(values), shown_rows, "layers" if is_layered else "queries")
    notes += _left_out(values.shape[1], shown_columns, "keys" if one.axes[-1] == "key_pos" else "positions")
    return _framed(repr(matrix), _grid(corner, [column_names[i] for i in shown_columns], grid), notes)


def head_scores_html(scores: HeadScores) -> str:
    """Scores of heads as one small picture for each score, and a table of the strongest heads."""
    pictures = "".join(_head_picture(score) for score in scores.scores.values())
    head = _head(["score", "strongest heads", "mean", "unit", "queries", "what it is"])
    rows = []
    for name, score in scores.scores.items():
        best = "sharpest: " * (name == "entropy")
        best += ", ".join(f"{label(node)} {_number(value)}" for node, value in scores.strongest(name, 4))
        texts = (name, best, _number(float(score.values.mean())), score.unit, str(score.queries), score.description)
        rows.append("".join(f'<td style="{_CELL}">{_escaped(text)}</td>' for text in texts))
    first, stop = scores.layers
    notes = [
        f"pictures: layer {stop - 1} on top, layer {first} at the bottom, head 0 at the left; bluer is more, orange is below 0"
    ]
    notes += [f"{name} is not defined here: {why}" for name, why in scores.undefined.items()]
    body = f'<div style="display:flex;flex-wrap:wrap;gap:14px;margin:6px 0">{pictures}</div>{_table(head, rows)}'
    return _framed(repr(scores), body, notes)


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


_AXIS_NAMES = {"layer": "layer", "query_pos": "query", "key_pos": "key"}


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


def _number_cell(value: float, largest: float) -> str:
    text = "" if value == 0 else f"{value:.2f}".replace("0.", ".", 1) if 0.1 <= largest < 10 else _number(value)
    return _cell(text, value / largest if largest else 0.0, f"{value:.6g}")


def _wash(strength: float) -> str:
    red, green, blue = _LOWERS if strength < 0 else _RAISES
    return f"rgba({red},{green},{blue},{_STRONGEST * min(1.0, abs(strength)):.2f})"


def _head_picture(score: HeadScore) -> str:
    """A picture of a score over layers (the last on top) and heads, with its largest and smallest value below."""
    rows, heads = score.values.shape
    side = max(3, min(9, 150 // max(rows, 1)))
    source = _png(score.values[::-1])
    held = f"{_number(float(score.values.min()))} … {_number(float(score.values.max()))}"
    name = score.name.replace("_", " ")
    return (
        f'<div style="font-size:11px;text-align:center;min-width:84px"><div>{_escaped(name)}</div><img src="{source}" '
        f'alt="{_escaped(name)} of {rows} layers × {heads} heads, {held}" width="{heads * side}" height="{rows * side}" '
        'style="image-rendering:pixelated;border:1px solid rgba(128,128,128,.45);display:inline-block;margin:2px 0">'
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


def _names(matrix: TokenMatrix, axis: int) -> list[str]:
    numbers = [str(number) for number in matrix.places(axis)]
    if matrix.axes[axis] == "layer" or matrix.tokens is None:
        return numbers
    return [f"{n} {_short(token)}" for n, token in zip(numbers, matrix.tokens, strict=True)]


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


def _rows(table: Table, most: int) -> list[list[str]]:
    """The rows that are shown, as texts; one of ``⋮`` stands for what is left out between both ends."""
    shown = list(range(min(len(table), most)))
    if table.both_ends and len(table) > most:
        shown[most // 2 :] = range(len(table) - (most - most // 2), len(table))
    columns = []
    for name, values in table.columns.items():
        text = printable if name in table.words else _short
        picked = [value.item() if isinstance(value, np.generic) else value for value in (values[i] for i in shown)]
        columns.append(["" if v is None else text(v) if isinstance(v, str) else _number(v) for v in picked])
    rows = [list(row) for row in zip(*columns, strict=True)]
    if shown and shown[-1] != len(shown) - 1:
        rows.insert(most // 2, ["⋮"] * len(columns))
    return rows


def _said(table: Table, most: int) -> list[str]:
    """Lines below a table: what is left out, and its note."""
    left_out = f"{len(table) - most:,} of {len(table):,} rows are not shown: to_dataframe() has all"
    return [left_out] * (len(table) > most) + [table.note] * bool(table.note)


def _is_number(values: Any) -> bool:
    return not any(isinstance(value, str) for value in values[: 2**10])


def _number(value: float | int | bool) -> str:
    return str(value) if isinstance(value, int) else f"{value:.3g}"


def _short(token: str) -> str:
    text = token if len(token) <= _LONGEST_TOKEN else token[: _LONGEST_TOKEN - 1] + "…"
    return visible(text)


def _escaped(text: str) -> str:
    return escape(text, quote=True)
