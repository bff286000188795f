"""Lines as plotly figures: axes of ranks are logarithmic with rank 1 at the better end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ...charts import rendering
from ...charts.lines import Lines, Panel, Rule, Series
from ...charts.table import ThemeName
from ..scene.chart_roles import ROLES
from ..scene.style import Theme, theme_of
from .plotting import axis_options, panels, plain_text, plotly_module, styled, tips

if TYPE_CHECKING:
    import plotly.graph_objects

_SYMBOLS = {
    "circle": "circle",
    "ring": "circle-open",
    "triangle": "triangle-up-open",
    "diamond": "diamond-open",
    "square": "square-open",
}
_CROWDED = 40
"""Joined points from which on they are drawn small."""
_TICKS = 16
_DIMMED = 0.8


@rendering.figure.register(Lines)
def lines_figure(lines: Lines, *, theme: ThemeName = "light") -> plotly.graph_objects.Figure:
    """Draw lines, their panels one below the other.

    Parameters
    ----------
    lines
        What is to be seen.
    theme
        ``"light"`` or ``"dark"``.
    """
    colours, several = theme_of(theme), [series for panel in lines.panels for series in panel.series]
    figure = panels(len(lines.panels), 1, shared_xaxes=True, vertical_spacing=0.06)
    # One line alone is what the axis says.
    has_legend = len(several) > 1 or any(series.band is not None for series in several)
    named: set[str] = set()
    for row, panel in enumerate(lines.panels, start=1):
        for series in panel.series:
            for trace in _traces(series, colours):
                trace.showlegend = has_legend and trace.name not in named
                named.add(trace.name)
                figure.add_trace(trace, row=row, col=1)
        for rule in panel.rules:
            _add_rule(figure, rule, panel, colours, row)
        figure.update_yaxes(**axis_options(panel.y, _TICKS), row=row, col=1)
    shown = axis_options(lines.x, _TICKS)
    title = shown.pop("title_text")
    figure.update_xaxes(**shown)
    figure.update_xaxes(title_text=title, row=len(lines.panels), col=1)
    height = 250 + 185 * len(lines.panels)
    return styled(figure, colours, plain_text(lines.title), height=height, subtitle=plain_text(lines.subtitle))


def _traces(series: Series, colours: Theme) -> list[Any]:
    """The band, if there is one, and the points."""
    go, look = plotly_module("graph_objects"), ROLES[series.role]
    colour, x = getattr(colours, look.colour), series.x.tolist()
    made = []
    if series.band is not None:
        low, high = series.band.T.tolist()
        made.append(
            go.Scatter(
                x=[*x, *x[::-1]], y=[*high, *low[::-1]], fill="toself", mode="lines", line={"width": 0}, fillcolor=colour,
                opacity=0.25, hoverinfo="skip", name=plain_text(series.band_name), legendgroup=plain_text(series.band_name),
            )
        )  # fmt: skip
    size = 5 if series.is_joined and len(x) > _CROWDED else 6 if series.role == "rest" else 7
    line = {"color": colour, "width": 2 if look.is_dashed else 2.5, "dash": "dash" if look.is_dashed else "solid"}
    made.append(
        go.Scatter(
            x=x, y=series.y.tolist(), name=plain_text(series.name), legendgroup=plain_text(series.name),
            mode="lines+markers" if series.is_joined else "markers", line=line if series.is_joined else None,
            marker={"color": colour, "symbol": _SYMBOLS[look.mark], "size": size, "opacity": _DIMMED if series.role == "rest" else 1.0},
            customdata=tips([series.tip(n) for n in range(len(x))]),
            hovertemplate=f"%{{customdata}}<extra>{plain_text(series.name)}</extra>",
        )
    )  # fmt: skip
    return made


def _add_rule(figure: Any, rule: Rule, panel: Panel, colours: Theme, row: int) -> None:
    line = {"color": colours.muted, "width": 1, "dash": "dash"}
    if rule.along == "y":
        figure.add_vline(x=rule.at, line=line, annotation_text=plain_text(rule.name), row=row, col=1)
        return
    if rule.along == "both":
        x, y = (np.concatenate([getattr(series, name) for series in panel.series]) for name in "xy")
        ends = [float(max(x.min(), y.min())), float(min(x.max(), y.max()))]
        corners = {"x0": ends[0], "y0": ends[0], "x1": ends[1], "y1": ends[1]}
        figure.add_shape(type="line", line=line, layer="below", **corners, row=row, col=1)
        middle = sum(ends) / 2
        place = {"x": middle, "y": middle, "xanchor": "left", "yanchor": "top", "showarrow": False}
        figure.add_annotation(text=plain_text(rule.name), **place, row=row, col=1)
        return
    # Above all points there is no room over the line.
    is_top = all((series.y < rule.at).all() for series in panel.series)
    where = "bottom left" if is_top else "top left"
    figure.add_hline(
        y=rule.at, line=line, annotation_text=plain_text(rule.name), annotation_position=where, row=row, col=1
    )
