"""Grids as plotly heatmaps: the lens, a matrix of tokens, and one score of all heads.

Layers run from bottom to top, as in the flow page, tokens from left to right, and queries from top to bottom.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from jaxtyping import Float

from ...charts import rendering
from ...charts.table import ThemeName
from ...errors import ArgumentError
from ...lenses.head_scores import HeadScores
from ...values.reading import LensColour, Reading
from ...values.token_matrix import TokenMatrix
from ..scene.style import THEMES, Theme
from .plotting import plotly_module, styled, token_text

if TYPE_CHECKING:
    import plotly.graph_objects

_MOST_WITH_TEXT = 24
"""Columns up to which a cell has room for a word."""
_LONGEST_WORD = 9
_TICKS = 40


@rendering.figure.register(Reading)
def lens_figure(
    reading: Reading, *, colour: LensColour = "probability", theme: ThemeName = "light"
) -> plotly.graph_objects.Figure:
    """Draw a reading of two axes as a grid: the top token of every vector, coloured by one number.

    Parameters
    ----------
    reading
        A reading of shape (layer, position), such as that of :func:`flowgraph.logit_lens`, or any other of two axes.
    colour
        ``"probability"`` of the top token; ``"rank"`` of the target, on a logarithmic scale with rank 1 the strongest colour;
        ``"entropy"`` of the distribution over the vocabulary, in nats, 0 the strongest colour.
    theme
        ``"light"`` or ``"dark"``.

    Raises
    ------
    ArgumentError
        If the reading has not two axes, or ``colour`` is another word.
    """
    if len(reading.shape) != 2 or not len(reading):
        raise ArgumentError(f"reading has shape {reading.shape}; a grid needs two axes, such as (layer, position)")
    if colour not in get_args(LensColour):
        raise ArgumentError(f"colour={colour!r} is not known; expected one of {', '.join(get_args(LensColour))}")
    colours, go = THEMES[theme], plotly_module("graph_objects")
    values, scale = _lens_colours(reading, colour, colours)
    rows, columns = reading.shape
    words = np.array([token_text(_short(tokens[0])) for tokens in reading.top_tokens]).reshape(reading.shape)
    grid = go.Heatmap(
        z=values, x=list(range(columns)), y=list(range(rows)), text=words, xgap=1, ygap=1, **scale,
        textfont={"color": colours.ink}, texttemplate="%{text}" if columns <= _MOST_WITH_TEXT else "",
        customdata=np.array(_lens_hover(reading)).reshape(rows, columns, -1),
        hovertemplate="%{customdata[0]}<br>%{customdata[1]}<br>%{customdata[2]}<extra></extra>",
    )  # fmt: skip
    figure = go.Figure(grid)
    _lens_axes(figure, reading)
    names = " and ".join(reading.axis_names)
    title = f"Top token of every {names}" + (
        f", rank of {token_text(reading.target_token)}" if colour == "rank" else ""
    )
    return styled(figure, colours, title, height=140 + 19 * max(rows, 8))


@rendering.figure.register(TokenMatrix)
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
    colours, go = THEMES[theme], plotly_module("graph_objects")
    names = [_places(matrix, axis) for axis in range(matrix.ndim)]
    if matrix.ndim == 1:
        bars = go.Bar(
            x=list(range(len(matrix))), y=matrix.values, marker={"color": colours.attention}, showlegend=False
        )
        figure = go.Figure(bars.update(customdata=names[0], hovertemplate="%{customdata}: %{y:.4g}<extra></extra>"))
        figure.update_yaxes(title_text=f"{matrix.measure} ({matrix.unit})")
    else:
        hover = [[f"{above} ← {below}" for below in names[1]] for above in names[0]]
        grid = go.Heatmap(
            z=matrix.values, x=list(range(len(names[1]))), y=list(range(len(names[0]))), customdata=hover,
            **_scale(colours, matrix.values, matrix.unit),
            hovertemplate="%{customdata}: %{z:.4g}<extra></extra>",
        )  # fmt: skip
        figure = go.Figure(grid)
        # Layers from bottom to top; queries as in every picture of attention, from top to bottom.
        direction = None if matrix.axes[0] == "layer" else "reversed"
        _ticks(figure.update_yaxes, names[0], _AXIS_TITLES[matrix.axes[0]], autorange=direction)
    _ticks(figure.update_xaxes, names[-1], _AXIS_TITLES[matrix.axes[-1]])
    title = f"{matrix.measure} ({matrix.unit})"
    return styled(
        figure,
        colours,
        title[:1].upper() + title[1:],
        height=420 if matrix.ndim == 1 else 170 + 15 * max(len(matrix), 14),
    )


@rendering.figure.register(HeadScores)
def head_scores_figure(
    scores: HeadScores, score: str | None = None, *, theme: ThemeName = "light"
) -> plotly.graph_objects.Figure:
    """Draw one score of all heads as a heatmap over layers and heads.

    Parameters
    ----------
    scores
        From :func:`flowgraph.head_scores`.
    score
        Which one; default ``"direct_logit"`` where it is defined, otherwise the first.
    theme
        ``"light"`` or ``"dark"``.

    Raises
    ------
    ArgumentError
        If the score does not exist or is not defined for this prompt.
    """
    if score is None:
        score = "direct_logit" if "direct_logit" in scores.scores else next(iter(scores.scores), "entropy")
    found = scores.score(score)
    colours, go = THEMES[theme], plotly_module("graph_objects")
    rows, heads = found.values.shape
    layers = list(range(*scores.layers))
    grid = go.Heatmap(
        z=found.values, x=list(range(heads)), y=layers, xgap=1, ygap=1, **_scale(colours, found.values, found.unit),
        hovertemplate="L%{y}H%{x}: %{z:.4g} " + found.unit + "<extra></extra>",
    )  # fmt: skip
    figure = go.Figure(grid)
    figure.update_xaxes(title_text="head", dtick=max(1, heads // _TICKS + 1), showgrid=False)
    figure.update_yaxes(title_text="layer", dtick=max(1, rows // 16), showgrid=False)
    name = score.replace("_", " ")
    subtitle = f"{found.description} ({found.unit})"
    return styled(figure, colours, f"Heads by {name}", height=170 + 15 * max(rows, 12), subtitle=subtitle)


_AXIS_TITLES = {"layer": "layer", "query_pos": "query: token that is written", "key_pos": "key: token that is read"}


def _scale(colours: Theme, values: Float[np.ndarray, "..."], unit: str) -> dict[str, Any]:
    """Colours from nothing to the largest value, or from lowering over nothing to raising."""
    largest = float(np.abs(values).max()) if values.size else 0.0
    largest = largest or 1.0
    bar = {"title": {"text": unit, "side": "right"}, "thickness": 12, "outlinewidth": 0}
    if values.size and values.min() < 0:
        steps = [[0.0, colours.lowers], [0.5, colours.background], [1.0, colours.raises]]
        return {"colorscale": steps, "zmin": -largest, "zmax": largest, "colorbar": bar}
    steps = [[0.0, colours.background], [1.0, colours.attention]]
    return {"colorscale": steps, "zmin": 0.0, "zmax": largest, "colorbar": bar}


def _lens_colours(
    reading: Reading, colour: LensColour, colours: Theme
) -> tuple[Float[np.ndarray, "rows columns"], dict[str, Any]]:
    """Number of each cell, and the scale it is coloured by."""
    strongest = _wash(colours)
    if colour == "probability":
        values = reading.top_probabilities[:, 0].astype(np.float64).reshape(reading.shape)
        upward = [[0.0, colours.background], [1.0, strongest]]
        return values, {**_scale(colours, values, "probability of the top token"), "colorscale": upward, "zmax": 1.0}
    downward = [[0.0, strongest], [1.0, colours.background]]
    if colour == "entropy":
        values = reading.entropy.astype(np.float64).reshape(reading.shape)
        return values, {**_scale(colours, values, "entropy (nats)"), "colorscale": downward}
    values = np.log10(reading.target_rank.astype(np.float64)).reshape(reading.shape)
    scale = {**_scale(colours, values, "rank of the target"), "colorscale": downward}
    decades = list(range(int(np.ceil(values.max())) + 1))
    scale["colorbar"] |= {"tickvals": decades, "ticktext": [f"{10**decade:,}" for decade in decades]}
    return values, scale


def _wash(colours: Theme) -> str:
    """The strongest colour of a cell on which a word in the theme's ink is still easy to read."""
    pairs = zip(bytes.fromhex(colours.attention[1:]), bytes.fromhex(colours.background[1:]), strict=True)
    return "#" + "".join(f"{round(0.6 * top + 0.4 * below):02X}" for top, below in pairs)


def _lens_hover(reading: Reading) -> list[list[str]]:
    """Place, best tokens and numbers of each vector."""
    columns = [_column(reading, i) for i in range(reading.shape[1])]
    rows = [f"{reading.axis_names[0]} {value}" for value in reading.axis_values(0)]
    places = [f"{row}, {column}" for row in rows for column in columns]
    found = []
    for n, place in enumerate(places):
        best = zip(reading.top_tokens[n][:5], reading.top_probabilities[n], strict=False)
        words = " · ".join(f"{token_text(token)} {probability:.2f}" for token, probability in best)
        rank = f"rank of {token_text(reading.target_token)}: {reading.target_rank[n]:,}"
        found.append([place, words, f"{rank}, entropy {reading.entropy[n]:.2f} nats"])
    return found


def _lens_axes(figure: Any, reading: Reading) -> None:
    rows = [str(value) for value in reading.axis_values(0)]
    _ticks(figure.update_yaxes, rows, reading.axis_names[0], most=16)
    _ticks(figure.update_xaxes, [_column(reading, i) for i in range(reading.shape[1])], reading.axis_names[1])


def _column(reading: Reading, i: int) -> str:
    if reading.axis_names[1] == "position" and reading.prompt_tokens:
        return f"{i} {token_text(_short(reading.prompt_tokens[i]))}"
    return str(reading.axis_values(1)[i])


def _places(matrix: TokenMatrix, axis: int) -> list[str]:
    """What the rows along an axis are called: a layer's number, or position and token."""
    numbers = matrix.places(axis)
    if matrix.axes[axis] == "layer" or matrix.tokens is None:
        return [str(number) for number in numbers]
    return [f"{n} {token_text(_short(token))}" for n, token in zip(numbers, matrix.tokens, strict=True)]


def _ticks(update: Any, names: list[str], title: str, *, most: int = _TICKS, autorange: str | None = None) -> None:
    """Ticks at places counted from 0, evenly thinned out where there are many."""
    step = max(1, -(-len(names) // most))
    shown = list(range(0, len(names), step))
    options = {} if autorange is None else {"autorange": autorange}
    update(title_text=title, tickvals=shown, ticktext=[names[n] for n in shown], showgrid=False, **options)


def _short(token: str) -> str:
    return token if len(token) <= _LONGEST_WORD else token[: _LONGEST_WORD - 1] + "…"
