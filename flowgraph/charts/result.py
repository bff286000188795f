"""A result: numbers that say what is to be seen of them, and are drawn, shown and written by what is registered for that."""

from __future__ import annotations

from abc import abstractmethod
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..atomic_file import as_path
from . import rendering
from .bars import Bars
from .diagram import Diagram
from .grid import Grid
from .lines import Lines
from .overview import Overview
from .table import Table, Tabular, ThemeName

if TYPE_CHECKING:
    import plotly.graph_objects

Chart = Grid | Bars | Lines | Table | Diagram[Any]
_NUMBERS = (".csv", ".npz")


class Result(Tabular):
    """What a function found. A class says its ``chart``; figure, notebook, data frame and files follow from it.

    A class that has more numbers than its chart shows says its ``table`` as well; one whose chart is its table must.
    """

    @abstractmethod
    def chart(self) -> Chart:
        """What is to be seen: numbers, words, units and titles. Subclasses may have options."""

    def table(self) -> Table:
        """The numbers: those of the chart, unless the class says otherwise."""
        return self.chart().table()

    def overview(self) -> Chart | Overview:
        """What a notebook shows at first: a grid or a diagram, otherwise the table with the numbers."""
        chart = self.chart()
        return chart if isinstance(chart, Grid | Diagram) else self.table()

    def figure(self, *choice: Any, theme: ThemeName = "light", **options: Any) -> plotly.graph_objects.Figure:
        """The chart as a plotly figure that can be changed.

        Parameters
        ----------
        theme
            Colours: ``"light"`` or ``"dark"``.
        *choice, **options
            As for :meth:`chart`.
        """
        return rendering.figure(self.chart(*choice, **options), theme=theme)

    def show(self, *choice: Any, **options: Any) -> None:
        """Show the figure, as plotly does here: in a notebook below the cell, else in the browser.

        Parameters
        ----------
        *choice, **options
            As for :meth:`figure`.
        """
        self.figure(*choice, **options).show()

    def save(self, path: str | Path, *, overwrite: bool = True, **options: Any) -> Path:
        """Write the numbers (``.csv``, ``.npz``), or the chart as a picture for a paper (``.svg``, ``.pdf``, ``.png``, ``.tex``).

        Parameters
        ----------
        path
            Where to; the ending chooses.
        overwrite
            Whether a file of this name may be replaced.
        **options
            For pictures: those of :meth:`chart`, and ``width``, ``theme``, ``caption`` and ``dpi`` as for
            :func:`flowgraph.render_picture`.

        Returns
        -------
        The path.

        Raises
        ------
        ArgumentError
            If the ending is another one, the chart does not fit into the width, a file exists and ``overwrite`` is False, or it
            cannot be written.
        NonFiniteError
            If a number is NaN or infinite.
        """
        path = as_path(path)
        if path.suffix.lower() in _NUMBERS:
            return super().save(path, overwrite=overwrite, **options)
        of_chart = {name: options.pop(name) for name in signature(self.chart).parameters if name in options}
        return rendering.picture(self.chart(**of_chart), path, overwrite=overwrite, **options)

    def _repr_html_(self) -> str:
        return rendering.html(self.overview())
