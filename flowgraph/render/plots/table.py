"""Tables as plotly figures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...charts import rendering
from ...charts.table import Table, ThemeName
from ..scene.style import theme_of
from ..words.table import cells, is_number, said
from .plotting import plain_text, plotly_module, styled

if TYPE_CHECKING:
    import plotly.graph_objects

_MOST = 1000
_IN_VIEW, _ROW = 20, 22
"""Rows that are seen without scrolling, and the height of one."""


@rendering.figure.register(Table)
def table_figure(table: Table, *, theme: ThemeName = "light") -> plotly.graph_objects.Figure:
    """Draw a table, the first 1,000 rows of it; those out of view are scrolled to.

    Parameters
    ----------
    table
        Any table.
    theme
        ``"light"`` or ``"dark"``.
    """
    colours, go = theme_of(theme), plotly_module("graph_objects")
    rows = cells(table, _MOST)
    sides = ["right" if is_number(values) else "left" for values in table.columns.values()]
    shared = {"align": sides, "line": {"color": colours.line}, "height": _ROW}
    columns = [[plain_text(row[n]) for row in rows] for n in range(len(table.columns))]
    figure = go.Figure(
        go.Table(
            header={**shared, "values": list(map(plain_text, table.columns)), "fill": {"color": colours.pane}, "font": {"color": colours.muted}},
            cells={**shared, "values": columns, "fill": {"color": colours.background}, "font": {"color": colours.ink}},
        )
    )  # fmt: skip
    height = 150 + _ROW * min(len(rows), _IN_VIEW)
    return styled(
        figure, colours, plain_text(table.title), height=height, subtitle=plain_text(" · ".join(said(table, _MOST)))
    )
