"""Numbers of a panel as CSV."""

from __future__ import annotations

import csv
import io
import json

Sheet = tuple[tuple[str, ...], list[tuple[str | int | float, ...]]]
"""Names of the columns, and the rows."""
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def csv_of(sheet: Sheet) -> str:
    """A sheet as CSV, names of the columns first.

    Texts that a spreadsheet would take for a formula, or that begin or end with a space, are written as JSON texts, with their
    quotation marks: ``" Tokyo"`` shows where the token begins and computes nothing.
    """
    header, rows = sheet
    file = io.StringIO(newline="")
    writer = csv.writer(file, lineterminator="\r\n")
    writer.writerow(header)
    writer.writerows([_cell(value) for value in row] for row in rows)
    return file.getvalue()


def _cell(value: str | int | float) -> str | int | float:
    if not isinstance(value, str):
        return value
    is_plain = value == value.strip() and value.isprintable() and not value.startswith(_FORMULA)
    return value if is_plain else json.dumps(value, ensure_ascii=False)
