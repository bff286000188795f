"""Attention of one head, or of several summed, as a plotly heatmap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ...errors import ArgumentError
from ...values.arguments import takes
from ...values.trace import Trace
from ..scene.attention_codes import AttentionPanel
from ..scene.attention_data import chosen, given, panel, token_texts, whole
from ..scene.style import FONT, THEMES, Theme
from .plotting import plotly_module, token_text

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

MOST_CELLS = 512 * 512
"""Cells of a figure; a longer text is shown in parts."""

_CELL, _LEAST, _MOST = 18, 380, 900
_SCALES = {"light": ("#FFFFFF", "#0072B2", "#00273D"), "dark": ("#12161C", "#1F86CC", "#F2F9FF")}


@takes()
def attention_figure(
    attention: Any,
    tokens: Sequence[str] | None = None,
    *,
    layer: int | None = None,
    heads: int | Sequence[int] | None = None,
    key_tokens: Sequence[str] | None = None,
    prettify_tokens: bool = True,
    theme: Literal["light", "dark"] = "light",
) -> Figure:
    """Draw the attention of one head, or the sum over several, as a heatmap: queries down, keys across.

    Parameters
    ----------
    attention
        [layer, head, query, key] attention weights in any of the forms that :func:`flowgraph.head_view` takes, also
        [query, key] of one head; or a :class:`flowgraph.Trace`.
    tokens
        [query] token strings; a trace knows its own.
    layer
        Its number, from 0; may be left out if there is only one.
    heads
        Number of a head, or several, from 0, which are summed; all heads if not given.
    key_tokens
        [key] token strings of cross attention; the same as ``tokens`` if not given.
    prettify_tokens
        Whether marks of tokenizers (``Ġ``, ``▁``, ``</w>``) are written as what they stand for.
    theme
        ``"light"`` or ``"dark"``.

    Returns
    -------
    A plotly figure. Axes count positions, since tokens repeat; the tokens are the labels of the ticks.

    Raises
    ------
    ArgumentError
        If an argument is missing or does not fit the others, or there are more than :data:`MOST_CELLS` cells.
    """
    if theme not in THEMES:
        raise ArgumentError(f'theme={theme!r}; expected "light" or "dark"')
    if attention is None:
        raise ArgumentError("attention= is None; make sure you set output_attentions=True and pass outputs.attentions")
    found = _panel(attention, tokens, key_tokens, layer, prettify_tokens)
    asked = [heads] if heads is not None and not hasattr(heads, "__iter__") else heads
    shown = chosen(asked, range(len(found.heads)), "heads", noun="head", source="attention")  # type: ignore[arg-type]
    weights = found.weights[0, list(shown)].sum(axis=0, dtype=np.float64)
    return _figure(found, weights, _what(shown, len(found.heads)), theme)


def _panel(attention: Any, tokens: Any, key_tokens: Any, layer: int | None, prettify: bool) -> AttentionPanel:
    is_single_head = getattr(attention, "ndim", None) == 2
    layers = given(attention[None] if is_single_head else attention, "attention")
    known = range(layers.first, layers.first + len(layers.layers))
    if layer is None and len(known) > 1:
        raise ArgumentError(f"layer= is missing; attention= has the layers {known[0]} to {known[-1]}")
    one = known[0] if layer is None else whole(layer, known, "layer", noun="layer", source="attention")
    if isinstance(attention, Trace) and tokens is None:
        queries = attention.tokens
    else:
        queries = token_texts(tokens, "tokens", prettify=prettify)
    keys = queries if key_tokens is None else token_texts(key_tokens, "key_tokens", prettify=prettify)
    if len(queries) * len(keys) > MOST_CELLS:
        raise ArgumentError(
            f"{len(queries):,} × {len(keys):,} cells are more than a figure of {MOST_CELLS:,} can hold; show a part, as "
            "attention[..., a:b, a:b] with tokens[a:b], or use head_view with include_layers="
        )
    name = "attention" if key_tokens is None else "cross"
    return panel(layers, name, queries, keys, include_layers=[one])


def _what(shown: tuple[int, ...], total: int) -> str:
    if len(shown) == 1:
        return f"head {shown[0]}"
    if len(shown) == total:
        return f"sum over all {total} heads"
    return f"sum over heads {', '.join(map(str, shown))}"


def _figure(found: AttentionPanel, weights: np.ndarray, what: str, theme: Literal["light", "dark"]) -> Figure:
    graph_objects = plotly_module("graph_objects")
    colours = THEMES[theme]
    rows, columns = list(map(token_text, found.queries)), list(map(token_text, found.keys))
    words = np.empty((*weights.shape, 2), dtype=object)
    words[..., 0], words[..., 1] = np.asarray(rows, object)[:, None], np.asarray(columns, object)[None, :]
    figure = graph_objects.Figure(
        graph_objects.Heatmap(
            z=weights, x=list(range(len(columns))), y=list(range(len(rows))), customdata=words,
            zmin=0, colorscale=[[n / 2, colour] for n, colour in enumerate(_SCALES[theme])],
            colorbar={"title": {"text": "attention" if what.startswith("head") else "attention, summed"}, "thickness": 14},
            hovertemplate="query %{y}: %{customdata[0]}<br>key %{x}: %{customdata[1]}<br>attention %{z:.4f}<extra></extra>",
        )
    )  # fmt: skip
    title = f"layer {found.layers[0]}, {what}"
    return figure.update_layout(**_layout(rows, columns, title, colours))


def _layout(rows: list[str], columns: list[str], title: str, colours: Theme) -> dict[str, Any]:
    wide, high = (min(max(_CELL * len(labels), _LEAST), _MOST) for labels in (columns, rows))
    axis = {"showgrid": False, "zeroline": False, "ticks": "", "tickfont": {"size": 11}, "automargin": True}
    return {
        "title": {"text": title, "font": {"size": 14}},
        "width": wide + 220,
        "height": high + 170,
        "font": {"family": FONT, "size": 12, "color": colours.ink},
        "paper_bgcolor": colours.background,
        "plot_bgcolor": colours.background,
        "xaxis": axis | _ticks(columns, wide) | {"title": {"text": "key"}, "tickangle": -60},
        "yaxis": axis | _ticks(rows, high) | {"title": {"text": "query"}, "autorange": "reversed"},
    }


def _ticks(labels: list[str], room: int) -> dict[str, Any]:
    """As many labels as can be read; the others are shown where the pointer is."""
    step = -(-len(labels) * 12 // room)
    places = list(range(0, len(labels), step))
    return {"tickvals": places, "ticktext": [labels[n] for n in places]}
