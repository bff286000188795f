"""A faithfulness curve as a plotly figure: f over the number of edges that are kept, with its band."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from ...charts import rendering
from ...charts.table import ThemeName
from ...charts.text import printable
from ...circuits.bands import with_band
from ...circuits.faithfulness import Faithfulness
from ..scene.style import THEMES, Theme
from .plotting import plotly_module, styled

if TYPE_CHECKING:
    import plotly.graph_objects

_LOGARITHMIC_FROM = 100
"""Edges from which on their number is shown on a logarithmic axis, which has no place for 0."""
_HEIGHT = 420


@rendering.figure.register(Faithfulness)
def faithfulness_figure(found: Faithfulness, *, theme: ThemeName = "light") -> plotly.graph_objects.Figure:
    """Draw faithfulness over the number of edges, with its band; the lines at 0 and 1 are no edge and the whole model.

    Parameters
    ----------
    found
        From :func:`flowgraph.faithfulness`.
    theme
        ``"light"`` or ``"dark"``.
    """
    colours, go = THEMES[theme], plotly_module("graph_objects")
    figure = go.Figure()
    logarithmic = bool(found.edges[-1] > _LOGARITHMIC_FROM)
    shown = np.flatnonzero(found.edges > 0) if logarithmic else np.arange(len(found.edges))
    edges = found.edges[shown].tolist()
    if found.bands is not None:
        low, high = (found.bands[shown, end].tolist() for end in (0, 1))
        figure.add_trace(
            go.Scatter(
                x=[*edges, *edges[::-1]], y=[*high, *low[::-1]], fill="toself", mode="lines", line={"width": 0},
                fillcolor=colours.attention, opacity=0.25, hoverinfo="skip", name="95 % of the draws of the prompts",
            )
        )  # fmt: skip
    figure.add_trace(
        go.Scatter(
            x=edges, y=found.values[shown].tolist(), mode="lines+markers", name="faithfulness",
            line={"color": colours.attention, "width": 2.5}, marker={"size": 7}, customdata=_hover(found, shown),
            hovertemplate="%{customdata[0]}<br>f = %{customdata[1]}<br>%{customdata[2]}<extra></extra>",
        )
    )  # fmt: skip
    for height, name in ((1.0, "whole model"), (0.0, "no edge")):
        _line(figure, colours, height, name)
    figure.update_xaxes(title_text="edges of the circuit, the strongest first", type="log" if logarithmic else "linear")
    if logarithmic:
        figure.update_xaxes(dtick=1, minor={"ticks": "outside", "ticklen": 3})
    figure.update_yaxes(title_text="faithfulness f (not clipped)")
    title = f"Faithfulness {with_band(found.value, found.band)} with {found.edges[-1]:,} of {found.model_edges:,} edges"
    about = f"{found.how} ablation, {found.metric}, {len(found.full)} prompts of {found.task}, {found.model}"
    areas = f"CPR {with_band(found.cpr, found.cpr_band)}, CMD {with_band(found.cmd, found.cmd_band)}"
    subtitle = escape(printable(f"{about}; {areas}"), quote=False)
    return styled(figure, colours, title, height=_HEIGHT, subtitle=subtitle)


def _line(figure: Any, colours: Theme, height: float, name: str) -> None:
    line = {"color": colours.muted, "width": 1, "dash": "dash"}
    figure.add_hline(y=height, line=line, annotation_text=name, annotation_position="top left")


def _hover(found: Faithfulness, shown: np.ndarray) -> list[list[str]]:
    """Edges, f with its band, and the metric, of each size."""
    bands = found.bands
    rows = []
    for i in shown.tolist():
        band = None if bands is None else (float(bands[i, 0]), float(bands[i, 1]))
        metric = escape(f"{found.metric} {found.by_prompt[i].mean():.4g} {found.unit}", quote=False)
        rows.append([f"{found.edges[i]:,} edges", with_band(float(found.values[i]), band), metric])
    return rows
