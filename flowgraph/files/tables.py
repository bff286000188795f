r"""Numbers of results as files: CSV and NumPy archives.

CSV is UTF-8 without a byte order mark, with lines as in RFC 4180. Texts that come from a prompt or a model are JSON texts, as in
the tables of a graph (:mod:`flowgraph.files.csv_file`): ``" Tokyo"`` with its quotation marks shows where a token begins, reads
back exactly, and is no formula. The project's own words are written as they are; a value that does not exist is an empty field.

An archive ends in ``.npz`` and holds arrays only, none of Python objects. Texts are arrays of unicode. NumPy drops NUL characters
at their end; the token ids beside them are exact.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..atomic_file import as_path, atomic_write_bytes
from ..charts import rendering
from ..charts.table import Table, Tabular
from ..charts.text import printable
from ..errors import ArgumentError
from .attributes import finite, json_text

_ENDINGS = (".csv", ".npz")


@rendering.csv.register(Table)
def csv_text(table: Table) -> str:
    """Write a table as CSV, its column names in the first line.

    Raises
    ------
    NonFiniteError
        If a number is NaN or infinite.
    """
    file = io.StringIO(newline="")
    writer = csv.writer(file, lineterminator="\r\n")
    writer.writerow(table.columns)
    columns = [
        [_cell(value, name in table.words, f"{name}[{row}]") for row, value in enumerate(_plain(values))]
        for name, values in table.columns.items()
    ]
    writer.writerows(zip(*columns, strict=True))
    return file.getvalue()


@rendering.npz.register(Tabular)
def table_npz(result: Tabular) -> bytes:
    """The arrays of a result as a NumPy archive."""
    return npz_bytes(result.arrays())


def npz_bytes(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Write arrays as a compressed NumPy archive.

    Raises
    ------
    ArgumentError
        If an array holds Python objects.
    """
    for name, array in arrays.items():
        if array.dtype.hasobject:
            raise ArgumentError(
                f"{name} holds Python objects, which an archive of arrays does not; expected numbers or texts"
            )
    file = io.BytesIO()
    # allow_pickle=False: whoever opens the archive runs no code of it.
    np.savez_compressed(file, allow_pickle=False, **arrays)
    return file.getvalue()


@rendering.save.register(Tabular)
def save_table(result: Tabular, path: str | Path, *, overwrite: bool = True) -> Path:
    """Write the numbers of a result, whole or not at all; see :meth:`flowgraph.charts.table.Tabular.save`.

    Raises
    ------
    ArgumentError
        If the name ends in something else, the file exists and ``overwrite`` is False, or it cannot be written.
    NonFiniteError
        If a number is NaN or infinite.
    """
    path = as_path(path)
    end = path.suffix.lower()
    if end not in _ENDINGS:
        raise ArgumentError(
            f"path={str(path)!r} has the extension {path.suffix!r}; expected {' or '.join(_ENDINGS)}: the table as text, or "
            "its arrays"
        )
    data = result.to_csv().encode("utf-8") if end == ".csv" else result.to_npz()
    return atomic_write_bytes(path, data, overwrite=overwrite)


def _plain(values: Any) -> list[Any]:
    return values.tolist() if isinstance(values, np.ndarray) else list(values)


def _cell(value: Any, is_own: bool, place: str) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    # A word of our own begins with a letter; what does not could be taken for a formula, wherever it comes from.
    if isinstance(value, str) and is_own and value[:1].isalpha():
        return printable(value).replace(";", "⟨003B⟩")
    if isinstance(value, str):
        text = json_text(value, place)
        plain = text.isprintable() and ";" not in text
        return text if plain else "".join(map(_json_character, text))
    return repr(finite(value, place))


def _json_character(character: str) -> str:
    if character == ";":
        return "\\u003b"
    return character if character.isprintable() else json.dumps(character)[1:-1]
