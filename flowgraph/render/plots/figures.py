"""Analyses as plotly figures: one function for each, in the colours of the themes.

Every colour pair can be told apart by colour-blind readers and differs in shape or place as well. Axes of ranks are logarithmic
with rank 1 at the better end. Tokens are written as everywhere, every character visible, and escaped, since plotly reads a
little markup.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ...analyses import (
    EdgeTokens,
    HeadCircuit,
    LayerOverlap,
    NormFilter,
    RegularizationNeurons,
    TokenChange,
    Trajectory,
)
from ...charts import rendering
from ...charts.table import ThemeName
from ...charts.text import printable
from ...values.node import label
from ...values.reading import Reading
from ..scene.style import THEMES
from .plotting import panels, plotly_module, styled
from .plotting import token_text as _token

if TYPE_CHECKING:
    import plotly.graph_objects

_STEP_NAMES = {"centering": "centering", "scale": "scale", "gain": "gain γ", "bias": "bias β"}
_TOKENS_SHOWN = 3
_TICKS = 12


@rendering.figure.register(Trajectory)
def trajectory_figure(found: Trajectory, *, theme: ThemeName = "light") -> plotly.graph_objects.Figure:
    """Draw rank and log-probability of target and foil through all states, and of what attention and MLP add by themselves.

    Parameters
    ----------
    found
        From :func:`flowgraph.trajectory`.
    theme
        ``"light"`` or ``"dark"``.
    """
    colours, go = THEMES[theme], plotly_module("graph_objects")
    figure = panels(2, 1, shared_xaxes=True, vertical_spacing=0.06)
    middles = np.arange(*found.layers)
    token = _token(found.stream.target_token)
    lines: list[tuple[Any, ...]] = [
        ("stream", f"state, {token}", found.stream, found.depth, "target", colours.target, {"width": 2.5}),
        ("attention", f"attention alone, {token}", found.attention, middles + 0.5, "target", colours.attention, None),
        ("mlp", f"MLP alone, {token}", found.mlp, middles + 1.0, "target", colours.mlp, None),
    ]
    if found.stream.foil_token is not None:
        foil = {"width": 2, "dash": "dash"}
        name = f"state, {_token(found.stream.foil_token)} (foil)"
        lines.insert(1, ("stream", name, found.stream, found.depth, "foil", colours.pin, foil))
    symbols = {"stream": "circle", "attention": "triangle-up-open", "mlp": "square-open"}
    for series, name, reading, depth, aim, colour, line in lines:
        for row, quantity in enumerate(("rank", "log_probability"), start=1):
            figure.add_trace(
                go.Scatter(
                    x=depth, y=getattr(reading, f"{aim}_{quantity}"), name=name, legendgroup=name, showlegend=row == 1,
                    mode="markers" if line is None else "lines+markers", line=line and {**line, "color": colour},
                    marker={"color": colour, "symbol": symbols[series], "size": 5 if line else 7},
                    customdata=_hover(found, series, reading, aim),
                    hovertemplate="%{customdata[0]}<br>rank %{customdata[1]}, p = %{customdata[2]}<br>reads %{customdata[3]}"
                    f"<extra>{name}</extra>",
                ),
                row=row, col=1,
            )  # fmt: skip
    _rank_axis(figure, "y", row=1, col=1, title="rank (1 = best)")
    figure.update_yaxes(title_text="log-probability (nats)", row=2, col=1)
    figure.update_xaxes(**_depth_ticks(found))
    figure.update_xaxes(title_text="state after layer (between: after its attention)", row=2, col=1)
    place = f"position {found.position} ({_token(found.token)}), {escape(printable(found.model), quote=False)}"
    return styled(figure, colours, f"{token} through the residual stream at {place}", height=620)


@rendering.figure.register(NormFilter)
def norm_filter_figure(found: NormFilter, *, theme: ThemeName = "light") -> plotly.graph_objects.Figure:
    """Draw the tokens that a norm moves most: their ranks before and after, and which step changes their log-probability.

    Parameters
    ----------
    found
        From :func:`flowgraph.norm_filter`.
    theme
        ``"light"`` or ``"dark"``.
    """
    colours, go = THEMES[theme], plotly_module("graph_objects")
    titles = ("largest change in rank", "largest change in log-probability, by step")
    figure = panels(1, 2, horizontal_spacing=0.16, subplot_titles=titles)
    moved = _first_on_top(found.promoted_in_rank, found.demoted_in_rank)
    for n, change in enumerate(moved):
        colour = colours.raises if change.rank_before > change.rank_after else colours.lowers
        figure.add_trace(
            go.Scatter(
                x=[change.rank_before, change.rank_after], y=[n, n], mode="lines+markers", showlegend=False,
                line={"color": colour, "width": 2}, marker={"color": colour, "symbol": ["circle-open", "circle"], "size": 9},
                customdata=[[_token(change.token), change.rank_before, change.rank_after]] * 2,
                hovertemplate="%{customdata[0]}<br>rank %{customdata[1]:,} → %{customdata[2]:,}<extra></extra>",
            ),
            row=1, col=1,
        )  # fmt: skip
    _rank_axis(figure, "x", row=1, col=1, title="rank before (○) and after (●), 1 = best")
    _token_axis(figure, [change.token for change in moved], col=1)
    changed = _first_on_top(found.promoted_in_log_probability, found.demoted_in_log_probability)
    fills = {"centering": colours.residual, "scale": colours.muted, "gain": colours.attention, "bias": colours.mlp}
    hatches = {"centering": "x", "scale": ".", "gain": "", "bias": "/"}
    for n, step in enumerate(found.steps):
        figure.add_trace(
            go.Bar(
                x=[change.by_step[n] for change in changed], y=list(range(len(changed))), orientation="h",
                name=f"{_STEP_NAMES[step]}, {found.step_divergence[n]:.2g} nats", customdata=[_changed(c) for c in changed],
                marker={"color": fills[step], "pattern": {"shape": hatches[step]}, "line": {"width": 0}},
                hovertemplate="%{customdata[0]}<br>"
                + _STEP_NAMES[step]
                + " %{x:+.3g} nats<br>log-probability %{customdata[1]:.3g} → %{customdata[2]:.3g} nats<extra></extra>",
            ),
            row=1, col=2,
        )  # fmt: skip
    figure.update_xaxes(title_text="change of log-probability (nats)", zeroline=True, row=1, col=2)
    _token_axis(figure, [change.token for change in changed], col=2)
    figure.update_layout(barmode="relative", legend_title_text="step of the norm, divergence it makes")
    norm = "final norm" if found.layer is None else f"norm of layer {found.layer}, {found.part}"
    title = f"{norm}, at {_token(found.token)} (position {found.position}): top tokens shared {found.overlap:.0%}"
    return styled(figure, colours, title, height=150 + 22 * max(len(moved), len(changed), 6))


@rendering.figure.register(RegularizationNeurons)
def regularization_figure(found: RegularizationNeurons, *, theme: ThemeName = "light") -> plotly.graph_objects.Figure:
    """Draw how often neurons are active against the entropy of what they write, with some others for comparison.

    Parameters
    ----------
    found
        From :func:`flowgraph.regularization_neurons`.
    theme
        ``"light"`` or ``"dark"``.
    """
    colours, go = THEMES[theme], plotly_module("graph_objects")
    figure = go.Figure()
    cases = "prompts" if found.positions == "last" else "positions"
    rows = np.arange(*found.layers)
    other_layer = np.repeat(rows, len(found.other_neuron))
    groups = (
        ("others", other_layer, np.tile(found.other_neuron, len(rows)), found.other_entropy.ravel(), None),
        (f"in more than {found.threshold:.0%}", found.layer, found.neuron, found.reading.entropy, found.reading),
    )
    for name, layer, neuron, entropy, reading in groups:
        place = (layer - found.layers[0], neuron)
        words = [""] * len(layer) if reading is None else _words(reading)
        colour, symbol = (colours.residual, "circle-open") if reading is None else (colours.mlp, "diamond")
        columns = (layer, neuron, found.mean_activation[place], found.row_norm[place], words)
        figure.add_trace(
            go.Scatter(
                x=found.frequency[place], y=entropy, mode="markers", name=f"{name} ({len(layer):,})",
                marker={"color": colour, "symbol": symbol, "size": 6 if reading is None else 8, "opacity": 0.75},
                customdata=[list(row) for row in zip(*(_plain(column) for column in columns), strict=True)],
                hovertemplate="L%{customdata[0]}N%{customdata[1]}: active in %{x:.1%}, entropy %{y:.2f} nats<br>mean activation "
                "%{customdata[2]:.3g}, norm of its row %{customdata[3]:.3g}<br>%{customdata[4]}<extra></extra>",
            )
        )  # fmt: skip
    figure.add_vline(x=found.threshold, line={"color": colours.muted, "dash": "dot"})
    figure.add_hline(
        y=found.greatest_entropy, line={"color": colours.muted, "dash": "dot"}, annotation_position="bottom left",
        annotation={"text": "ln V: says nothing", "font": {"color": colours.muted, "size": 11}},
    )  # fmt: skip
    counted = "all" if found.most_active is None else f"the {found.most_active} most"
    how = "activation > 0" if found.most_active is None else f"among {counted} active of its layer"
    figure.update_xaxes(title_text=f"active in this part of {found.counted:,} {cases} ({how})", tickformat=".0%")
    figure.update_yaxes(title_text="entropy of its row, read in vocabulary (nats)")
    model = escape(printable(found.model), quote=False)
    share = f"more than {found.threshold:.0%} of {found.counted:,} {cases}"
    title = f"{len(found.neuron):,} of {found.frequency.size:,} neurons of {model} are active in {share}"
    return styled(figure, colours, title, height=480)


@rendering.figure.register(LayerOverlap)
def overlap_figure(found: LayerOverlap, *, theme: ThemeName = "light") -> plotly.graph_objects.Figure:
    """Draw top-k overlap layer by layer: every place as a dot, the mean as a line.

    Parameters
    ----------
    found
        From :func:`flowgraph.overlap_by_layer`.
    theme
        ``"light"`` or ``"dark"``.
    """
    colours, go = THEMES[theme], plotly_module("graph_objects")
    layers = found.first_layer + np.arange(len(found.mean))
    each = go.Scatter(
        x=np.repeat(layers, found.values.shape[1]), y=found.values.ravel(), mode="markers", name="one place",
        marker={"color": colours.residual, "size": 5, "opacity": 0.5},
        hovertemplate="L%{x}: %{y:.2f}<extra>one place</extra>",
    )  # fmt: skip
    mean = go.Scatter(
        x=layers, y=found.mean, mode="lines+markers", name=f"mean of {found.values.shape[1]:,} places",
        line={"color": colours.attention, "width": 2.5}, marker={"color": colours.attention, "size": 7},
        hovertemplate="L%{x}: %{y:.3f}<extra>mean</extra>",
    )  # fmt: skip
    figure = go.Figure([each, mean])
    figure.update_xaxes(title_text="layer", tickformat="d", dtick=max(1, len(layers) // _TICKS))
    figure.update_yaxes(
        title_text=f"I<sub>{found.k}</sub>: part of the top {found.k} tokens shared", range=[-0.04, 1.04]
    )
    return styled(figure, colours, f"Overlap of the top {found.k} tokens of two readings", height=420)


@rendering.figure.register(HeadCircuit)
def head_circuit_figure(found: HeadCircuit, *, theme: ThemeName = "light") -> plotly.graph_objects.Figure:
    """Draw what a head reads and writes: numbers of each source as bars, and the top tokens of query, key and value.

    Parameters
    ----------
    found
        From :func:`flowgraph.head_circuit`.
    theme
        ``"light"`` or ``"dark"``.
    """
    colours, go = THEMES[theme], plotly_module("graph_objects")
    bars = [("attention", "probability", found.pattern), ("of the output", "part (Σ = 1)", found.contribution)]
    bars += [] if found.logits is None else [("to the target", "logits", found.logits)]
    texts = [("query looks for", found.queries), ("key answers", found.keys), ("value brings", found.values)]
    figure = panels(
        1, len(bars) + len(texts), shared_yaxes=True, horizontal_spacing=0.015,
        column_widths=[0.12] * len(bars) + [0.2] * len(texts), subplot_titles=[head for head, *_ in (*bars, *texts)],
    )  # fmt: skip
    rows = list(range(len(found.sources)))[::-1]
    for col, (name, unit, values) in enumerate(bars, start=1):
        fill = [colours.raises if value >= 0 else colours.lowers for value in values]
        template = "%{y}: %{x:.3g} " + unit + f"<extra>{name}</extra>"
        bar = go.Bar(
            x=values,
            y=rows,
            width=0.45,
            orientation="h",
            marker={"color": fill},
            hovertemplate=template,
            showlegend=False,
        )
        figure.add_trace(bar, row=1, col=col)
        figure.update_xaxes(title_text=unit, nticks=4, zeroline=True, row=1, col=col)
    for col, (name, reading) in enumerate(texts, start=len(bars) + 1):
        words = go.Scatter(
            x=[0.02] * len(rows), y=rows, mode="text", text=[_lines(tokens) for tokens in reading.top_tokens],
            textposition="middle right", textfont={"color": colours.ink, "size": 11}, showlegend=False,
            hovertext=_words(reading), hovertemplate="%{hovertext}<extra>" + name + "</extra>",
        )  # fmt: skip
        figure.add_trace(words, row=1, col=col)
        figure.update_xaxes(visible=False, range=[0, 1], row=1, col=col)
        figure.update_yaxes(showgrid=False, row=1, col=col)
    figure.update_yaxes(tickvals=rows, ticktext=_sources(found), range=[-0.6, max(len(rows), 1) - 0.4])
    figure.update_yaxes(title_text="source: token, position", title_standoff=16, row=1, col=1)
    written = " · ".join(_token(token) for token in found.output.top_tokens[0][:_TOKENS_SHOWN])
    logit = "" if found.output_logits is None else f", {found.output_logits:+.2f} logits to the target"
    title = f"L{found.layer}H{found.head} at {_token(found.token)} (position {found.position}) writes {written}{logit}"
    subtitle = f"{len(rows)} sources, which hold {found.coverage:.0%} of Σ|part of its output|"
    return styled(figure, colours, title, height=190 + 58 * max(len(rows), 1), subtitle=subtitle)


@rendering.figure.register(EdgeTokens)
def edge_tokens_figure(found: EdgeTokens, *, theme: ThemeName = "light") -> plotly.graph_objects.Figure:
    """Draw the tokens that the vector along an edge promotes and suppresses, by their logits.

    Parameters
    ----------
    found
        From :func:`flowgraph.edge_tokens`.
    theme
        ``"light"`` or ``"dark"``.
    """
    colours, go = THEMES[theme], plotly_module("graph_objects")
    figure = panels(1, 2, horizontal_spacing=0.2, subplot_titles=("promoted", "suppressed"))
    sides = ((found.promoted, colours.raises), (found.suppressed, colours.lowers))
    for col, (entries, colour) in enumerate(sides, start=1):
        entries = entries[::-1]
        bar = go.Bar(
            x=[logit for *_, logit in entries], y=list(range(len(entries))), orientation="h", showlegend=False,
            marker={"color": colour},
            customdata=[[_token(token), f"{probability:.3g}"] for token, probability, _ in entries],
            hovertemplate="%{customdata[0]}: %{x:.3f} logits, p = %{customdata[1]}<extra></extra>",
        )  # fmt: skip
        figure.add_trace(bar, row=1, col=col)
        figure.update_xaxes(title_text="logit of the vector alone", zeroline=True, row=1, col=col)
        _token_axis(figure, [token for token, *_ in entries], col=col)
    number = "without a number" if found.weight is None else f"{found.weight:.3g} ({found.unit})"
    ends = " → ".join(escape(printable(label(node)), quote=False) for node in (found.source, found.target))
    subtitle = f"{found.kind}, {number}: {escape(found.carried, quote=False)}, length {found.reading.norm[0]:.3g}"
    return styled(figure, colours, ends, height=190 + 22 * max(len(found.promoted), 4), subtitle=subtitle)


def _rank_axis(figure: Any, axis: Literal["x", "y"], *, row: int, col: int, title: str) -> None:
    """A logarithmic axis of ranks with the best on top, or at the right."""
    update = figure.update_xaxes if axis == "x" else figure.update_yaxes
    update(type="log", autorange="reversed", dtick=1, tickformat=",d", title_text=title, row=row, col=col)


def _token_axis(figure: Any, tokens: Sequence[str], *, col: int) -> None:
    """Tokens from bottom to top; places are numbers, since different tokens may be written alike."""
    places = list(range(len(tokens)))
    around = [-0.7, max(len(tokens), 1) - 0.3]
    figure.update_yaxes(tickvals=places, ticktext=[_token(token) for token in tokens], range=around, row=1, col=col)


def _depth_ticks(found: Trajectory) -> dict[str, Any]:
    """Ticks at the states after each block, not too many."""
    first, stop = found.layers
    step = max(1, -(-(stop - first) // _TICKS))
    ends = list(range(first + step, stop + 1, step))
    values, names = [first, *ends], [found.sites[0], *(f"L{end - 1}" for end in ends)]
    return {"tickvals": values, "ticktext": names}


def _hover(found: Trajectory, series: str, reading: Reading, aim: str) -> list[list[str]]:
    """Site, rank, probability and top tokens of each point."""
    sites = found.sites if series == "stream" else [f"L{layer}.{series[:4]}_out" for layer in range(*found.layers)]
    ranks, probabilities = getattr(reading, f"{aim}_rank"), getattr(reading, f"{aim}_probability")
    columns = zip(sites, ranks, probabilities, _words(reading), strict=True)
    return [[site, f"{rank:,}", f"{probability:.3g}", words] for site, rank, probability, words in columns]


def _first_on_top(promoted: Sequence[TokenChange], demoted: Sequence[TokenChange]) -> list[TokenChange]:
    """From the bottom: what is demoted most … what is promoted most."""
    return [*demoted, *promoted[::-1]]


def _sources(found: HeadCircuit) -> list[str]:
    return [f"{_token(token)} <b>{i}</b>" for i, token in zip(found.sources, found.source_tokens, strict=True)]


def _changed(change: TokenChange) -> list[Any]:
    return [_token(change.token), change.log_probability_before, change.log_probability_after]


def _words(reading: Reading) -> list[str]:
    """Top tokens of each vector on one line."""
    return [" · ".join(map(_token, tokens[:5])) for tokens in reading.top_tokens]


def _lines(tokens: Iterable[str]) -> str:
    return "<br>".join(_token(token) for token in list(tokens)[:_TOKENS_SHOWN])


def _plain(column: Any) -> list[Any]:
    return column.tolist() if isinstance(column, np.ndarray) else list(column)
