"""What all plotly figures share: the library itself, imported late, the colours of a theme, and tokens as text of a figure."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from ...charts.axis import Axis
from ...charts.grid import Places
from ...charts.text import abbreviated, visible
from ..scene.style import FONT, Theme

LONGEST_WORD = 9
"""Characters of a token beside its number, or in a cell."""
LONGEST_NAME = 24
"""Characters of a token that stands alone beside an axis."""


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
    has_legend = any(getattr(trace, "showlegend", False) is not False for trace in figure.data)
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


def tips(tips: Sequence[Sequence[str]]) -> list[str]:
    """Tips as texts of a figure. They are escaped all at once: a grid has hundreds of thousands."""
    lines = ["\n".join(tip) for tip in tips]
    escaped = plain_text("\x1f".join(lines)).replace("\n", "<br>").split("\x1f") if lines else []
    assert len(escaped) == len(lines), "a tip holds a separator; tokens in tips are written visibly"
    return escaped


def ticks(update: Any, places: Places, most: int, *, autorange: str | None = None, **where: int) -> None:
    """Ticks at the places' numbers, evenly thinned out where there are many; ``where`` says in which panel."""
    names = [str(number) for number in places.numbers]
    if places.tokens is not None:
        words = [
            token_text(abbreviated(token, LONGEST_WORD if places.is_numbered else LONGEST_NAME))
            for token in places.tokens
        ]
        names = [f"{name} {word}" for name, word in zip(names, words, strict=True)] if places.is_numbered else words
    shown = list(range(0, len(names), max(1, -(-len(names) // max(most, 1)))))
    options = {} if autorange is None else {"autorange": autorange}
    update(
        title_text=plain_text(places.axis_title), tickvals=[places.numbers[n] for n in shown], ticktext=[names[n] for n in shown],
        showgrid=False, **options, **where,
    )  # fmt: skip


def axis_options(axis: Axis, most: int) -> dict[str, Any]:
    """Options of plotly's axis: its title, its scale and at most so many named ticks."""
    options: dict[str, Any] = {"title_text": plain_text(axis.title)}
    if axis.scale == "rank":
        options |= {"type": "log", "autorange": "reversed", "dtick": 1, "tickformat": ",d"}
    if axis.scale == "log":
        options |= {"type": "log", "dtick": 1, "tickformat": ",d", "minor": {"ticks": "outside", "ticklen": 3}}
    if axis.is_percent:
        options["tickformat"] = ".0%"
    if axis.ticks:
        shown = axis.ticks[:: max(1, -(-len(axis.ticks) // most))]
        options |= {"tickvals": [place for place, _ in shown], "ticktext": [plain_text(text) for _, text in shown]}
    if axis.ends is not None:
        options["range"] = [float(np.log10(end)) if axis.is_logarithmic else end for end in axis.ends]
    return options
