"""What all plotly figures share: the library itself, imported late, the colours of a theme, and tokens as text of a figure."""

from __future__ import annotations

import importlib
from html import escape
from typing import Any

from ...charts.text import visible
from ..scene.style import FONT, Theme


def plotly_module(module: str) -> Any:
    """A module of plotly, which is imported with the first figure."""
    try:
        return importlib.import_module(f"plotly.{module}")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "figures are drawn with plotly, which is not installed: pip install 'transformer-flowgraph[app]'"
        ) from error


def panels(rows: int, cols: int, **options: Any) -> Any:
    """A figure of several panels, see ``plotly.subplots.make_subplots``."""
    return plotly_module("subplots").make_subplots(rows=rows, cols=cols, **options)


def styled(figure: Any, colours: Theme, title: str, *, height: int, subtitle: str = "") -> Any:
    """The figure in the colours of a theme, with room for its title and its legend below."""
    has_legend = any(trace.showlegend is not False for trace in figure.data)
    axis = {"gridcolor": colours.line, "linecolor": colours.line, "zerolinecolor": colours.muted, "automargin": True}
    for axes in (figure.select_xaxes(), figure.select_yaxes()):
        for one in axes:
            # A line at zero only where zero means something: elsewhere it would mark the first token of a list.
            one.update(**axis, zeroline=bool(one.zeroline))
    figure.update_annotations(font_color=colours.muted, font_size=12)
    figure.update_layout(
        template="none", height=height, font={"family": FONT, "size": 12, "color": colours.ink},
        title={"text": title, "font": {"size": 15}, "subtitle": {"text": subtitle, "font": {"color": colours.muted}}, "x": 0, "xanchor": "left", "y": 1, "yanchor": "top", "pad": {"t": 14, "l": 20}},
        paper_bgcolor=colours.background, plot_bgcolor=colours.background,
        margin={"l": 64, "r": 20, "t": 86 if subtitle else 72, "b": 84 if has_legend else 54},
        legend={"orientation": "h", "yanchor": "bottom", "y": 0.01, "yref": "container", "x": 0, "font": {"color": colours.ink}},
        hoverlabel={"bgcolor": colours.pane, "font": {"color": colours.ink}, "bordercolor": colours.line},
    )  # fmt: skip
    return figure


def token_text(token: str) -> str:
    """A token as text of a figure: visible, and without anything that plotly would read as markup or as a formula."""
    return plain_text(visible(token))


def plain_text(text: str) -> str:
    """Words as text of a figure, in which plotly reads neither markup nor a formula."""
    return escape(text, quote=False).replace("$", "&#36;")
