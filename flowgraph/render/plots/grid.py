"""Grids and bars as plotly figures. Layers run from bottom to top, as in the flow page, all else from left to right and down."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...charts import rendering
from ...charts.bars import Bars
from ...charts.grid import Grid, Places
from ...charts.table import ThemeName
from ...charts.text import abbreviated
from ...errors import ArgumentError
from ...lenses.head_scores import HeadScores
from ...values.reading import LensColour, Reading
from ...values.token_matrix import TokenMatrix
from ..scene.style import THEMES, Theme
from .plotting import plain_text, plotly_module, styled, token_text

if TYPE_CHECKING:
    import plotly.graph_objects

_MOST_WITH_TEXT = 24
"""Columns up to which a cell has room for a word."""
_LONGEST_WORD = 9
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
    colours, go = THEMES[theme], plotly_module("graph_objects")
    rows, columns = len(grid.rows), len(grid.columns)
    tips = [_tips([grid.tip(row, column) for column in range(columns)]) for row in range(rows)]
    cells: dict[str, Any] = {"xgap": 1, "ygap": 1}
    if grid.words is not None:
        words = [[token_text(abbreviated(word, _LONGEST_WORD)) for word in row] for row in grid.words]
        cells |= {"text": words, "textfont": {"color": colours.ink}}
        cells["texttemplate"] = "%{text}" if columns <= _MOST_WITH_TEXT else ""
    figure = go.Figure(
        go.Heatmap(
            z=grid.scaled, x=list(grid.columns.numbers), y=list(grid.rows.numbers), customdata=tips, **_scale(grid, colours), **cells,
            hovertemplate="%{customdata}<extra></extra>",
        )
    )  # fmt: skip
    _ticks(figure.update_yaxes, grid.rows, _MOST_ROW_TICKS, autorange=None if grid.rows.is_upward else "reversed")
    _ticks(figure.update_xaxes, grid.columns, _MOST_COLUMN_TICKS)
    height = 140 + (48 if grid.subtitle else 30 * (grid.words is None)) + (19 if grid.words else 15) * max(rows, 10)
    return styled(figure, colours, plain_text(grid.title), height=height, subtitle=plain_text(grid.subtitle))


@rendering.figure.register(Bars)
def bars_figure(bars: Bars, *, theme: ThemeName = "light") -> plotly.graph_objects.Figure:
    """Draw bars, one above each place.

    Parameters
    ----------
    bars
        What is to be seen.
    theme
        ``"light"`` or ``"dark"``.
    """
    colours, go = THEMES[theme], plotly_module("graph_objects")
    places = range(len(bars.places))
    tips = _tips([bars.tip(n) for n in places])
    fill = [colours.lowers if value < 0 else colours.attention for value in bars.values.tolist()]
    figure = go.Figure(
        go.Bar(
            x=list(bars.places.numbers), y=bars.values, marker={"color": fill}, showlegend=False, customdata=tips,
            hovertemplate="%{customdata}<extra></extra>",
        )
    )  # fmt: skip
    figure.update_yaxes(title_text=plain_text(f"{bars.measure} ({bars.unit})"))
    _ticks(figure.update_xaxes, bars.places, _MOST_COLUMN_TICKS)
    return styled(figure, colours, plain_text(bars.title), height=420)


def lens_figure(
    reading: Reading, *, colour: LensColour = "probability", theme: ThemeName = "light"
) -> plotly.graph_objects.Figure:
    """Draw a reading of two axes as a grid: the top token of every vector, coloured by one number.

    Parameters
    ----------
    reading
        A reading of shape (layer, position), such as that of :func:`flowgraph.logit_lens`, or any other of two axes.
    colour
        As for :meth:`flowgraph.Reading.chart`.
    theme
        ``"light"`` or ``"dark"``.

    Raises
    ------
    ArgumentError
        If the reading has not two axes, or ``colour`` is another word.
    """
    return reading.figure(colour=colour, theme=theme)


def matrix_figure(matrix: TokenMatrix, *, theme: ThemeName = "light") -> plotly.graph_objects.Figure:
    """Draw one matrix of tokens as a heatmap, or one row of it as bars.

    Parameters
    ----------
    matrix
        A :class:`flowgraph.TokenMatrix` of two axes or one; of several layers take one with ``matrix.layer(n)``.
    theme
        ``"light"`` or ``"dark"``.

    Raises
    ------
    ArgumentError
        If it has three axes.
    """
    if matrix.ndim == 3:
        raise ArgumentError(f"matrix has the axes {matrix.axes}; one layer can be drawn, such as matrix.layer(-1)")
    return matrix.figure(theme=theme)


def head_scores_figure(
    scores: HeadScores, score: str | None = None, *, theme: ThemeName = "light"
) -> plotly.graph_objects.Figure:
    """Draw one score of all heads as a heatmap over layers and heads.

    Parameters
    ----------
    scores
        From :func:`flowgraph.head_scores`.
    score
        As for :meth:`flowgraph.HeadScores.chart`.
    theme
        ``"light"`` or ``"dark"``.

    Raises
    ------
    ArgumentError
        If the score does not exist or is not defined for this prompt.
    """
    return scores.figure(score=score, theme=theme)


def _tips(tips: Sequence[Sequence[str]]) -> list[str]:
    """Tips as texts of a figure. They are escaped all at once: a grid has hundreds of thousands."""
    lines = ["\n".join(tip) for tip in tips]
    escaped = plain_text("\x1f".join(lines)).replace("\n", "<br>").split("\x1f") if lines else []
    assert len(escaped) == len(lines), "a tip holds a separator; tokens in tips are written visibly"
    return escaped


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


def _ticks(update: Any, places: Places, most: int, *, autorange: str | None = None) -> None:
    """Ticks at the places' numbers, evenly thinned out where there are many."""
    names = [str(number) for number in places.numbers]
    if places.tokens is not None:
        words = (token_text(abbreviated(token, _LONGEST_WORD)) for token in places.tokens)
        names = [f"{name} {word}" for name, word in zip(names, words, strict=True)]
    shown = list(range(0, len(names), max(1, -(-len(names) // most))))
    options = {} if autorange is None else {"autorange": autorange}
    update(
        title_text=plain_text(places.axis_title), tickvals=[places.numbers[n] for n in shown], ticktext=[names[n] for n in shown], showgrid=False, **options
    )  # fmt: skip
