"""Logit bars: a logit (minus the foil's) as a sum, by layer, head, neuron or source token; each grouping adds up to all of it.

``panel(bars, run, *, selected=None) -> Component``: ``selected`` is a node key. The four groupings are all in the component; the
switch between them is in the browser.
``rows(bars) -> (header, rows)``: every component and the total.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from flowgraph import Node
from flowgraph.render import visible

from ..present.drawn import Element, drawn, element, link, token
from ..present.figures import plural, short, signed
from ..present.tables import Cell, Column, table
from ..server.question import recorded, require
from ..server.run import OfRun, Run, same
from ..server.traces import Check, Traces
from .panel import Panel, Sheet, Value

if TYPE_CHECKING:
    from dash.development.base_component import Component

    from flowgraph import DirectLogitAttribution, Trace

NEURONS = 50
"""Strongest neurons: so many are known one by one."""
_SHOWN = 16
_BIASES = frozenset({"attn_bias", "cross_bias", "mlp_bias", "final_norm_bias", "unembed_bias"})
_EMBEDDINGS = ("embed", "position_embed")


@dataclass(frozen=True)
class Bar:
    """One part of a logit.

    Attributes
    ----------
    label, kind
        How it is written, and the kind of node: ``head``, ``cross_head``, ``mixer``, ``mlp``, ``neuron``, ``embed``, ``position_embed``, ``attn_bias`` …
    layer, head, position, index
        Where it is in the model; None where the kind has none. ``index`` is that of a neuron.
    value
        What it adds to the logit.
    """

    label: str
    kind: str
    layer: int | None
    head: int | None
    position: int | None
    index: int | None
    value: float


@dataclass(frozen=True, eq=False)
class Bars:
    """A logit (minus that of the foil) as a sum.

    Attributes
    ----------
    rows
        Every component: embeddings, heads, MLPs, biases; their sum is ``total``.
    total, logit, error
        Σ rows; the model's own logit; |total − logit| / max(1, |logit|).
    unit
        ``"logits"``.
    heads, mlps
        [layer, head] and [layer] what heads and MLPs add.
    sources
        [position] what heads brought from each token, all heads together.
    neurons, neurons_rest
        The strongest 50 neurons, and the sum of all others; together Σ mlps.
    target, foil, target_token, foil_token
        Whose logit it is.
    """

    rows: tuple[Bar, ...]
    total: float
    logit: float
    error: float
    unit: Literal["logits"]
    heads: Float[np.ndarray, "layer head"]
    mlps: Float[np.ndarray, "layer"]
    sources: Float[np.ndarray, "position"]
    neurons: tuple[Bar, ...]
    neurons_rest: float
    target: int
    foil: int | None
    target_token: str
    foil_token: str | None

    def __post_init__(self) -> None:
        layers = len(self.mlps)
        require(self.heads.shape[:1] == (layers,), f"Bars.heads has {self.heads.shape} for {layers} layers")


@recorded
@dataclass(frozen=True)
class BarsQuestion(OfRun[Bars]):
    """The logit as a sum of what wrote it."""

    quick = True

    def answer(self, traces: Traces, check: Check) -> Bars:
        """The logit as a sum over everything that wrote it."""
        trace = traces.trace(self.run, check)
        parts = traces.attribution(self.run, check)
        rows = _components(trace, parts)
        neurons = _strongest_neurons(parts)
        word = trace.model.answers.string
        return Bars(
            rows=rows,
            total=parts.total,
            logit=parts.logit,
            error=parts.completeness_error,
            unit="logits",
            heads=parts.heads,
            mlps=parts.mlps,
            sources=parts.heads_by_source.sum((0, 1)),
            neurons=neurons,
            neurons_rest=float(parts.mlps.sum()) - sum(bar.value for bar in neurons),
            target=parts.target,
            foil=parts.foil,
            target_token=word(parts.target),
            foil_token=None if parts.foil is None else word(parts.foil),
        )

    def refuse_unfit(self, run: Run, answer: Bars) -> None:
        """As the base class says."""
        same("Bars.heads", answer.heads.shape, (run.n_layers, run.n_heads))
        same("Bars.sources", answer.sources.shape, (len(run.tokens),))


def _components(trace: Trace, parts: DirectLogitAttribution) -> tuple[Bar, ...]:
    at = parts.position
    rows = [_one(Node("embed", position=at), parts.embedding)]
    if trace.position_embedding is not None:
        rows.append(_one(Node("position_embed", position=at), parts.position_embedding))
    for layer in range(len(parts.mlps)):
        rows += [_one(Node("head", layer, head, at), value) for head, value in enumerate(parts.heads[layer].tolist())]
        crossed = [] if parts.cross_heads is None else parts.cross_heads[layer].tolist()
        rows += [_one(Node("cross_head", layer, head, at), value) for head, value in enumerate(crossed)]
        if parts.mixers is not None:
            rows.append(_one(Node("mixer", layer, position=at), float(parts.mixers[layer])))
        rows.append(_one(Node("mlp", layer, position=at), float(parts.mlps[layer])))
    for name, value in parts.biases.items():
        place, dot, kind = name.rpartition(".")
        rows.append(_one(Node(kind, int(place[1:]) if dot else None), value))  # type: ignore[arg-type]
    return tuple(rows)


def _strongest_neurons(parts: DirectLogitAttribution) -> tuple[Bar, ...]:
    width = parts.neurons.shape[1]
    order = np.argsort(-np.abs(parts.neurons), axis=None, kind="stable")[:NEURONS]
    places = [(int(place) // width, int(place) % width) for place in order]
    return tuple(
        _one(Node("neuron", layer, position=parts.position, index=n), float(parts.neurons[layer, n]))
        for layer, n in places
    )


def _one(node: Node, value: float) -> Bar:
    return Bar(str(node), node.kind, node.layer, node.head, node.position, node.index, value)


class Part(NamedTuple):
    """One bar: its name, its value in logits, and its node where it is one."""

    name: Element | str
    value: float
    node: Node | None = None


def panel(bars: Bars, run: Run, *, selected: str | None = None) -> Component:
    """The four groupings of the sum.

    Parameters
    ----------
    bars
        The sum.
    run
        The pass it belongs to.
    selected
        Key of the node that is marked.
    """
    found = groupings(bars, run)
    switch = [
        element("button", f"by {name}", type="button", data_switch=name, aria_pressed=str(not n).lower())
        for n, name in enumerate(found)
    ]
    groups = [_group(bars, name, parts, hidden=bool(n)) for n, (name, parts) in enumerate(found.items())]
    tree = element(
        "div",
        element(
            "div",
            element("div", *switch, role="group", aria_label="Parts of the sum", cls="switch-row"),
            _equation(bars),
            cls="panel-head",
        ),
        *groups,
        cls="bars",
    )
    return drawn(tree, name="bars", label="Logit bars: the logit as a sum of what wrote it", selected=selected)


def groupings(bars: Bars, run: Run) -> dict[str, list[Part]]:
    """Name → parts, the strongest first, then what is left of their kind, then the other kinds whole."""
    at, first = run.position, run.layers[0]
    layers = range(len(bars.mlps))
    attention = [
        Part(f"L{first + n} attention", float(bars.heads[n].sum()), Node("attn", first + n, position=at))
        for n in layers
    ]
    mlp = [Part(f"L{first + n} MLP", float(bars.mlps[n]), Node("mlp", first + n, position=at)) for n in layers]
    crossed = _by_layer(bars, "cross_head")
    attention += [Part(f"L{layer} cross-attention", value) for layer, value in crossed.items()]
    mixers = [_part(bar) for bar in bars.rows if bar.kind == "mixer"]
    heads = [_part(bar) for bar in bars.rows if bar.kind in ("head", "cross_head")]
    neurons = [_part(bar) for bar in bars.neurons]
    sources = [
        Part(element("span", token(run.tokens[t]), element("span", f" {t}", cls="note")), float(value), Node("embed", position=t))
        for t, value in enumerate(bars.sources)
    ]  # fmt: skip
    every_head = Part(f"all {plural(bars.heads.size, 'head')}", float(bars.heads.sum()))
    every_mlp = Part(f"all {plural(len(bars.mlps), 'MLP')}", float(bars.mlps.sum()))
    fixed = _fixed(bars)
    every_mixer = [Part(f"all {plural(len(mixers), 'mixer')}", sum(part.value for part in mixers))] if mixers else []
    every_cross = [Part("all heads that read the encoder", sum(crossed.values()))] if crossed else []
    return {
        "layer": [*_strongest(attention + mixers + mlp, "attentions and MLPs"), *fixed],
        "head": [*_strongest(heads, "heads"), every_mlp, *every_mixer, *fixed],
        "neuron": [*_strongest(neurons, "neurons", bars.neurons_rest), every_head, *every_cross, *every_mixer, *fixed],
        "source token": [*_strongest(sources, "source tokens"), *every_cross, every_mlp, *every_mixer, *fixed],
    }


def _by_layer(bars: Bars, kind: str) -> dict[int, float]:
    """Layer → sum of its parts of a kind; empty where there are none."""
    found: dict[int, float] = {}
    for bar in bars.rows:
        if bar.kind == kind and bar.layer is not None:
            found[bar.layer] = found.get(bar.layer, 0.0) + bar.value
    return found


def rows(bars: Bars) -> Sheet:
    """Every component, their sum, and the model's own logit."""
    header = ("component", "kind", "layer", "head", "position", f"value_{bars.unit}")
    found: list[tuple[Value, ...]] = [
        (bar.label, bar.kind, bar.layer, bar.head, bar.position, bar.value) for bar in bars.rows
    ]
    ends = (("sum of components", bars.total), ("logit of the model", bars.logit))
    return header, [*found, *((name, None, None, None, None, value) for name, value in ends)]


def _part(bar: Bar) -> Part:
    return Part(bar.label, bar.value, Node(bar.kind, bar.layer, bar.head, bar.position, bar.index))  # type: ignore[arg-type]


def _strongest(parts: list[Part], noun: str, beyond: float | None = None) -> list[Part]:
    """The strongest parts, and the others as one; ``beyond`` is the sum of those that are not among the parts."""
    ranked = sorted(parts, key=lambda part: -abs(part.value))
    left = ranked[_SHOWN:]
    if not left and beyond is None:
        return ranked
    name = f"rest: {len(left):,} {noun}" if beyond is None else f"rest: all other {noun}"
    return [*ranked[:_SHOWN], Part(name, sum(part.value for part in left) + (beyond or 0.0))]


def _fixed(bars: Bars) -> list[Part]:
    """Embeddings one by one, biases together."""
    found = [_part(bar) for bar in bars.rows if bar.kind in _EMBEDDINGS]
    biases = [bar.value for bar in bars.rows if bar.kind in _BIASES]
    return [*found, Part(f"{len(biases):,} bias vectors", sum(biases))] if biases else found


def _group(bars: Bars, name: str, parts: Sequence[Part], *, hidden: bool) -> Element:
    low = min(0.0, *(part.value for part in parts))
    high = max(0.0, *(part.value for part in parts))
    span = (high - low) or 1.0
    lines = [
        [Cell(_name(part)), Cell(_bar(part.value, low, span)), Cell(signed(part.value), part.value)] for part in parts
    ]
    columns = (Column(name), Column("bar", kind="plot"), Column("adds", "logits", "number"))
    caption = f"{_aim(bars)} by {name}, the strongest first; bars end at {signed(low)} and {signed(high)} logits"
    made = table(caption, columns, lines, nodes=[part.node for part in parts])
    return element("div", made, data_group=name, hidden=hidden, cls="group")


def _name(part: Part) -> Element:
    if part.node is not None:
        return link(part.node, part.name)
    return element("span", part.name, cls="note")


def _bar(value: float, low: float, span: float) -> Element:
    zero = -low / span
    start = zero + min(0.0, value) / span
    side = "up" if value >= 0 else "down"
    bar = element("i", cls=f"measure {side}", v_from=f"{start:.4f}", v_size=f"{abs(value) / span:.4f}")
    return element("span", bar, cls="track", v_zero=f"{zero:.4f}")


def _aim(bars: Bars) -> str:
    target = f"logit of {visible(bars.target_token)}"
    return target if bars.foil_token is None else f"{target} minus that of {visible(bars.foil_token)}"


def _equation(bars: Bars) -> Element:
    """The sum in words, and how far it is from the model's own logit."""
    off = f"{short(bars.error)} of the logit is lost to rounding" if bars.error else "nothing is lost to rounding"
    away = float(np.abs(bars.total - bars.logit))
    return element(
        "p",
        "all parts together ",
        element("b", signed(bars.total)),
        f" = {_aim(bars)} ",
        element("b", signed(bars.logit)),
        f" logits; {off}.",
        cls="about",
        title=f"|sum − logit| = {away:.3g}; relative to max(1, |logit|): {bars.error:.3g}",
    )


PANEL = Panel(
    "bars",
    "Logit bars",
    "The logit as a sum of what wrote it.",
    lambda recipe, _run: BarsQuestion.of(recipe),
    lambda answer, run, view: panel(answer, run, selected=view.recipe.selected_node),
    lambda answer, _run: rows(answer),
    words=("component", "kind"),
)
