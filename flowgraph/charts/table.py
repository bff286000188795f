"""Tables: what a result shows in a notebook, hands to pandas and writes to files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..atomic_file import as_path
from ..errors import ArgumentError
from . import rendering

if TYPE_CHECKING:
    import pandas  # type: ignore[import-untyped, unused-ignore]

ThemeName = Literal["light", "dark"]


class Tabular(ABC):
    """What has a table: it shows it in notebooks and terminals, and its numbers go to pandas and to files."""

    @abstractmethod
    def table(self) -> Table:
        """The result as a table with one row for each thing it speaks of."""

    def arrays(self) -> dict[str, np.ndarray]:
        """Name → array, as :meth:`to_npz` writes them: the columns of the table, unless the class says otherwise."""
        return self.table().column_arrays()

    def to_dataframe(self) -> pandas.DataFrame:
        """The table as a ``pandas.DataFrame``.

        Raises
        ------
        ArgumentError
            If pandas is not installed.
        """
        return data_frame(self.table().columns)

    def to_csv(self) -> str:
        """The table as CSV, see :mod:`flowgraph.files.tables`."""
        return rendering.csv(self.table())

    def to_npz(self) -> bytes:
        """The arrays as a NumPy archive, which ``numpy.load(…, allow_pickle=False)`` reads."""
        return rendering.npz(self)

    def save(self, path: str | Path, *, overwrite: bool = True, **options: Any) -> Path:
        """Write the numbers, whole or not at all: ``.csv`` the table, ``.npz`` the arrays of :meth:`arrays`.

        Returns
        -------
        The path.

        Raises
        ------
        ArgumentError
            If the ending is another one, the file exists and ``overwrite`` is False, or it cannot be written.
        NonFiniteError
            If a number is NaN or infinite.
        """
        if options:
            raise ArgumentError(f"{', '.join(options)}= is for pictures; {as_path(path).name!r} holds the numbers")
        return rendering.save.function(Tabular)(self, path, overwrite=overwrite)

    def _repr_html_(self) -> str:
        return rendering.html(self.table())

    def __str__(self) -> str:
        return rendering.text(self.table())


@dataclass(frozen=True, eq=False)
class Table(Tabular):
    """Columns of equal length.

    Attributes
    ----------
    title
        What the table is about, on one line.
    columns
        Name → values. None stands for a value that does not exist, such as the head of an MLP.
    words
        Columns whose texts are this project's own words. All other texts come from a prompt or a model.
    note
        What is to be said below the table; empty for nothing.
    both_ends
        Where not all rows can be shown: whether the last ones are shown beside the first ones.
    """

    title: str
    columns: Mapping[str, Sequence[Any] | np.ndarray]
    words: tuple[str, ...] = ()
    note: str = ""
    both_ends: bool = False

    def __post_init__(self) -> None:
        sizes = {name: len(values) for name, values in self.columns.items()}
        if len(set(sizes.values())) > 1:
            raise ArgumentError(f"Table has columns of different lengths: {sizes}")

    def __len__(self) -> int:
        """Number of rows."""
        return next((len(values) for values in self.columns.values()), 0)

    def __repr__(self) -> str:
        return f"Table({self.title!r}, {len(self):,} rows × {len(self.columns)} columns)"

    def table(self) -> Table:
        """The table itself."""
        return self

    def column_arrays(self) -> dict[str, np.ndarray]:
        """Each column as an array: texts as unicode; an index that does not exist is −1, any other number NaN, as is a column without any."""
        return {name: _array(values) for name, values in self.columns.items()}


def columns_of(rows: Iterable[Mapping[str, Any]], first: Sequence[str]) -> dict[str, list[Any]]:
    """Columns of rows that need not have the same keys: ``first``, then every other key in the order of appearance."""
    rows = list(rows)
    names = dict.fromkeys([*first, *(name for row in rows for name in row)])
    return {name: [row.get(name) for row in rows] for name in names}


def data_frame(columns: Mapping[str, Sequence[Any] | np.ndarray]) -> pandas.DataFrame:
    """A ``pandas.DataFrame`` of columns; integers of which some do not exist are pandas' ``Int64``.

    Raises
    ------
    ArgumentError
        If pandas is not installed.
    """
    try:
        import pandas  # type: ignore[import-untyped, unused-ignore]
    except ModuleNotFoundError as error:
        raise ArgumentError(
            "to_dataframe() needs pandas, which is not installed: pip install 'transformer-flowgraph[notebook]'"
        ) from error
    return pandas.DataFrame(
        {
            name: pandas.array(list(values), dtype="Int64") if _has_gaps(values, int) else values
            for name, values in columns.items()
        }
    )


def _has_gaps(values: Sequence[Any] | np.ndarray, kind: type) -> bool:
    """Whether some values of a column are None and the others, at least one, of this type."""
    if isinstance(values, np.ndarray):
        return False
    held = [value for value in values if value is not None]
    return 0 < len(held) < len(values) and all(type(value) is kind for value in held)


def _array(values: Sequence[Any] | np.ndarray) -> np.ndarray:
    if isinstance(values, np.ndarray):
        return values
    for kind, gap in ((int, -1), (float, float("nan")), (str, "")):
        if _has_gaps(values, kind):
            return np.array([gap if value is None else value for value in values])
    return np.full(len(values), np.nan) if values and all(value is None for value in values) else np.array(values)
