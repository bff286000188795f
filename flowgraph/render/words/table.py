"""Tables as texts: the cells that every look of a table shows, and lines for terminals."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...charts import rendering
from ...charts.table import Table
from ...charts.text import abbreviated, printable, visible

MOST_ROWS = 20
"""Rows of a table that are shown."""


@rendering.text.register(Table)
def table_text(table: Table, *, most: int = MOST_ROWS) -> str:
    """A table as lines of text; rows are left out as in :func:`flowgraph.render.page.tables.table_html`."""
    rows = [list(map(printable, table.columns)), *cells(table, most)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    numbers = [is_number(values) for values in table.columns.values()]
    lines = [
        "  ".join(
            text.rjust(width) if number else text.ljust(width)
            for text, width, number in zip(row, widths, numbers, strict=True)
        ).rstrip()
        for row in rows
    ]
    return "\n".join([printable(table.title), *lines, *map(printable, said(table, most))])


def cells(table: Table, most: int) -> list[list[str]]:
    """The rows that are shown, as texts; one of ``⋮`` stands for what is left out between both ends."""
    shown = list(range(min(len(table), most)))
    if table.both_ends and len(table) > most:
        shown[most // 2 :] = range(len(table) - (most - most // 2), len(table))
    columns = []
    for name, values in table.columns.items():
        text = printable if name in table.words else _short_token
        picked = [value.item() if isinstance(value, np.generic) else value for value in (values[i] for i in shown)]
        columns.append(["" if v is None else text(v) if isinstance(v, str) else short(v) for v in picked])
    rows = [list(row) for row in zip(*columns, strict=True)]
    if shown and shown[-1] != len(shown) - 1:
        rows.insert(most // 2, ["⋮"] * len(columns))
    return rows


def said(table: Table, most: int) -> list[str]:
    """Lines below a table: what is left out, and its note."""
    left_out = f"{len(table) - most:,} of {len(table):,} rows are not shown: to_dataframe() has all"
    return [left_out] * (len(table) > most) + [table.note] * bool(table.note)


def is_number(values: Any) -> bool:
    """Whether a column holds numbers, which stand at the right."""
    return not any(isinstance(value, str) for value in values[: 2**10])


def short(value: float | int | bool) -> str:
    """A number with three digits; whole numbers whole."""
    return str(value) if isinstance(value, int) else f"{value:.3g}"


def _short_token(token: str) -> str:
    return visible(abbreviated(token))
