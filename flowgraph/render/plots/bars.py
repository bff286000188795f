"""Bars as plotly figures: upright over their places, or columns of bars, moves and words beside rows of places."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ...charts import rendering
from ...charts.bars import Bar, Bars, Column
from ...charts.table import ThemeName
from ..scene.chart_roles import ROLES
from ..scene.style import Theme, theme_of
from .plotting import axis_options, panels, plain_text, plotly_module, styled, ticks, tips, token_text

if TYPE_CHECKING:
    import plotly.graph_objects

_WORDS_SHOWN = 3
_MOST_TICKS = 40


@rendering.figure.register(Bars)
def bars_figure(bars: Bars, *, theme: ThemeName = "light") -> plotly.graph_objects.Figure:
    """Draw bars: upright ones above their places, others from left to right beside them.

    Parameters
    ----------
    bars
        What is to be seen.
    theme
        ``"light"`` or ``"dark"``.
    """
    colours = theme_of(theme)
    if bars.is_upright:
        (column,) = bars.columns
        figure = panels(1, 1)
        _add_bars(figure, column, colours, 1, is_upright=True)
        figure.update_yaxes(zeroline=True, **axis_options(column.axis, _MOST_TICKS))
        ticks(figure.update_xaxes, column.places, _MOST_TICKS)
        height = 430
    else:
        figure = _side_by_side(bars, colours)
        rows = max((len(column.places) for column in bars.columns), default=0)
        height = 190 + (58 if _has_words(bars) else 22) * max(rows, 5)
    figure.update_layout(barmode="relative")
    if bars.parts_title:
        figure.update_layout(legend_title_text=plain_text(bars.parts_title))
    return styled(figure, colours, plain_text(bars.title), height=height, subtitle=plain_text(bars.subtitle))


def _side_by_side(bars: Bars, colours: Theme) -> Any:
    """A panel for each column; columns of the same places share the names at the left."""
    is_shared = len({id(column.places) for column in bars.columns}) == 1
    figure = panels(
        1, len(bars.columns), shared_yaxes=is_shared, horizontal_spacing=0.015 if is_shared else 0.18,
        column_widths=[0.2 if column.words else 0.12 for column in bars.columns],
        subplot_titles=[plain_text(column.title) for column in bars.columns],
    )  # fmt: skip
    for col, column in enumerate(bars.columns, start=1):
        count = len(column.places)
        if column.words:
            _add_words(figure, column, colours, col)
        elif any(part.start is not None for part in column.bars):
            _add_moves(figure, column, colours, col)
        else:
            _add_bars(figure, column, colours, col, is_upright=False, width=0.45 if _has_words(bars) else None)
        if col == 1 or not is_shared:
            ticks(figure.update_yaxes, column.places, count, row=1, col=col)
            around = [-0.6, max(count, 1) - 0.4]
            figure.update_yaxes(tickvals=_rows(column), range=around, showgrid=True, row=1, col=col)
            figure.update_yaxes(title_text=plain_text(column.places.title), title_standoff=16, row=1, col=col)
    return figure


def _add_bars(
    figure: Any, column: Column, colours: Theme, col: int, *, is_upright: bool, width: float | None = None
) -> None:
    go, is_stacked = plotly_module("graph_objects"), len(column.bars) > 1
    places = list(column.places.numbers) if is_upright else _rows(column)
    for part in column.bars:
        values, band = part.values.tolist(), _whiskers(part, colours)
        along = (
            {"x": places, "y": values, "error_y": band} if is_upright else {"x": values, "y": places, "error_x": band}
        )
        figure.add_trace(
            go.Bar(
                **along, orientation="v" if is_upright else "h", name=plain_text(part.name), showlegend=is_stacked, width=width,
                marker={"color": _fills(part, colours), "line": {"width": 0}, **_hatch(part)}, customdata=_tips(part),
                hovertemplate="%{customdata}<extra></extra>",
            ),
            row=1, col=col,
        )  # fmt: skip
    if not is_upright:
        few = {"nticks": 4} if width else {}
        figure.update_xaxes(zeroline=True, **few, **axis_options(column.axis, _MOST_TICKS), row=1, col=col)


def _add_moves(figure: Any, column: Column, colours: Theme, col: int) -> None:
    """A line for each place, from an open mark to a filled one."""
    go = plotly_module("graph_objects")
    for part in column.bars:
        assert part.start is not None
        fills, texts = _fills(part, colours, is_rank=column.axis.scale == "rank"), _tips(part)
        moves = zip(part.start.tolist(), part.values.tolist(), _rows(column), strict=True)
        for n, (before, after, row) in enumerate(moves):
            figure.add_trace(
                go.Scatter(
                    x=[before, after], y=[row, row], mode="lines+markers", showlegend=False, line={"color": fills[n], "width": 2},
                    marker={"color": fills[n], "symbol": ["circle-open", "circle"], "size": 9}, customdata=[texts[n]] * 2,
                    hovertemplate="%{customdata}<extra></extra>",
                ),
                row=1, col=col,
            )  # fmt: skip
    options = axis_options(column.axis, _MOST_TICKS)
    figure.update_xaxes(**(options | {"title_text": f"{options['title_text']} (○ → ●)"}), row=1, col=col)


def _add_words(figure: Any, column: Column, colours: Theme, col: int) -> None:
    go = plotly_module("graph_objects")
    figure.add_trace(
        go.Scatter(
            x=[0.02] * len(column.places), y=_rows(column), mode="text", textposition="middle right", showlegend=False,
            text=["<br>".join(map(token_text, words[:_WORDS_SHOWN])) for words in column.words],
            textfont={"color": colours.ink, "size": 11},
            hovertext=[" · ".join(map(token_text, words)) for words in column.words],
            hovertemplate="%{hovertext}<extra>" + plain_text(column.axis.title) + "</extra>",
        ),
        row=1, col=col,
    )  # fmt: skip
    figure.update_xaxes(visible=False, range=[0, 1], row=1, col=col)
    figure.update_yaxes(showgrid=False, row=1, col=col)


def _has_words(bars: Bars) -> bool:
    return any(column.words for column in bars.columns)


def _rows(column: Column) -> list[int]:
    """Heights of the places, the first on top."""
    return list(range(len(column.places)))[::-1]


def _tips(part: Bar) -> list[str]:
    return tips([part.tip(n) for n in range(len(part.values))])


def _fills(part: Bar, colours: Theme, *, is_rank: bool = False) -> list[str]:
    return [getattr(colours, ROLES[part.side(n, is_rank=is_rank)].colour) for n in range(len(part.values))]


def _hatch(part: Bar) -> dict[str, Any]:
    return {} if part.role is None else {"pattern": {"shape": ROLES[part.role].hatch}}


def _whiskers(part: Bar, colours: Theme) -> dict[str, Any] | None:
    if part.band is None:
        return None
    below, above = np.abs(part.band - part.values[:, None]).T.tolist()
    return {
        "type": "data",
        "symmetric": False,
        "array": above,
        "arrayminus": below,
        "color": colours.ink,
        "thickness": 1.2,
        "width": 4,
    }
