"""Grids as plotly figures. Layers run from bottom to top, as in the flow page, all else from left to right and down."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ...charts import rendering
from ...charts.grid import Grid
from ...charts.table import ThemeName
from ...charts.text import abbreviated
from ..scene.style import Theme, theme_of
from .plotting import LONGEST_WORD, plain_text, plotly_module, styled, ticks, tips, token_text

if TYPE_CHECKING:
    import plotly.graph_objects

_MOST_WITH_TEXT = 24
"""Columns up to which a cell has room for a word."""
_MOST_COLUMN_TICKS, _MOST_ROW_TICKS = 40, 16


@rendering.figure.register(Grid)
def grid_figure(grid: Grid, *, theme: ThemeName = "light") -> plotly.graph_objects.Figure:
    """Draw a grid as a heatmap, with the words of its places where there is room for them.

    Parameters
    ----------
    grid
        What is to be seen.
    theme
        ``"light"`` or ``"dark"``.
    """
    colours, go = theme_of(theme), plotly_module("graph_objects")
    rows, columns = len(grid.rows), len(grid.columns)
    texts = [tips([grid.tip(row, column) for column in range(columns)]) for row in range(rows)]
    cells: dict[str, Any] = {"xgap": 1, "ygap": 1}
    if grid.words is not None:
        words = [[token_text(abbreviated(word, LONGEST_WORD)) for word in row] for row in grid.words]
        cells |= {"text": words, "textfont": {"color": colours.ink}}
        cells["texttemplate"] = "%{text}" if columns <= _MOST_WITH_TEXT else ""
    figure = go.Figure(
        go.Heatmap(
            z=grid.scaled, x=list(grid.columns.numbers), y=list(grid.rows.numbers), customdata=texts, **_scale(grid, colours), **cells,
            hovertemplate="%{customdata}<extra></extra>",
        )
    )  # fmt: skip
    ticks(figure.update_yaxes, grid.rows, _MOST_ROW_TICKS, autorange=None if grid.rows.is_upward else "reversed")
    ticks(figure.update_xaxes, grid.columns, _MOST_COLUMN_TICKS)
    height = 140 + (48 if grid.subtitle else 30 * (grid.words is None)) + (19 if grid.words else 15) * max(rows, 10)
    return styled(figure, colours, plain_text(grid.title), height=height, subtitle=plain_text(grid.subtitle))


def _scale(grid: Grid, colours: Theme) -> dict[str, Any]:
    """Colours from nothing to the end of the scale, or from lowering over nothing to raising."""
    bar: dict[str, Any] = {
        "title": {"text": plain_text(grid.unit), "side": "right"},
        "thickness": 12,
        "outlinewidth": 0,
    }
    if grid.is_logarithmic:
        decades = list(range(int(np.ceil(grid.end)) + 1))
        bar |= {"tickvals": decades, "ticktext": [f"{10**decade:,}" for decade in decades]}
    if grid.is_signed:
        steps = [[0.0, colours.lowers], [0.5, colours.background], [1.0, colours.raises]]
        return {"colorscale": steps, "zmin": -grid.end, "zmax": grid.end, "colorbar": bar}
    strongest = colours.attention if grid.words is None else _wash(colours)
    ends = [colours.background, strongest] if grid.strongest == "high" else [strongest, colours.background]
    return {"colorscale": [[0.0, ends[0]], [1.0, ends[1]]], "zmin": 0.0, "zmax": grid.end, "colorbar": bar}


def _wash(colours: Theme) -> str:
    """The strongest colour of a cell on which a word in the theme's ink is still easy to read."""
    pairs = zip(bytes.fromhex(colours.attention[1:]), bytes.fromhex(colours.background[1:]), strict=True)
    return "#" + "".join(f"{round(0.6 * top + 0.4 * below):02X}" for top, below in pairs)
