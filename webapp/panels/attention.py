"""Attention of one layer: a map of queries and keys, lines between tokens, and the strongest pairs as a table.

``panel(attention, run, *, heads=(), selected=None) -> Component``: ``heads`` are those that are summed at first, empty for all;
``selected`` is a node key. The browser sums heads and tokens (``assets/panels_attention.js``) and writes the setting ``heads``.
``rows(attention, run) -> (header, rows)``: one row for each pair that a head may see.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from jaxtyping import Float

from flowgraph import Node
from flowgraph.errors import ArgumentError
from flowgraph.render import visible

from ..node_key import parse_node_key
from ..present.drawn import Element, drawn, element, link, token
from ..present.figures import plural, probability
from ..present.ids import Id
from ..present.tables import Cell, Column, table
from ..recipe import Recipe, check_index
from ..server.question import recorded, require
from ..server.run import OfRun, Run, RunQuestion, same
from ..server.traces import Check, Traces
from .panel import Panel, Sheet, Value

if TYPE_CHECKING:
    from dash.development.base_component import Component

MOST_TOKENS = 128
"""Queries that are sent to the browser; of a longer prompt those around the position."""
_PAIRS = 20
_LEVELS = 65_535
_SCALE = (0.01, 0.1, 0.3, 0.6, 1.0)


@dataclass(frozen=True, eq=False)
class Attention:
    """The attention pattern of one layer: [head, query_pos, key_pos] probabilities."""

    layer: int
    pattern: Float[np.ndarray, "head query_pos key_pos"]

    def __post_init__(self) -> None:
        shape = self.pattern.shape
        require(len(shape) == 3 and shape[1] == shape[2], f"Attention.pattern has shape {shape}")


@recorded
@dataclass(frozen=True)
class AttentionQuestion(OfRun[Attention]):
    """The attention pattern of one layer."""

    layer: int
    quick = True

    def __post_init__(self) -> None:
        check_index("layer", -1 if self.layer is None else self.layer)

    @classmethod
    def of(cls, recipe: Recipe, layer: int) -> Self:
        """The attention of one layer, which no target changes."""
        return cls(replace(RunQuestion.of(recipe), target=None, foil=None), layer)

    def answer(self, traces: Traces, check: Check) -> Attention:
        """The attention pattern of one layer."""
        trace = traces.trace(self.run, check)
        if not self.layer < trace.n_layers:
            raise ArgumentError(f"layer={self.layer} is outside the model; its layers are 0…{trace.n_layers - 1}")
        return Attention(self.layer, trace.pattern[self.layer].float().cpu().numpy())

    def refuse_unfit(self, run: Run, answer: Attention) -> None:
        """As the base class says."""
        same("Attention.pattern", answer.pattern.shape, (run.n_heads, len(run.tokens), len(run.tokens)))
        same("Attention.layer", answer.layer, self.layer)
        same("Attention.layer", 0 <= answer.layer < run.n_layers, True)


def panel(attention: Attention, run: Run, *, heads: Sequence[int] = (), selected: str | None = None) -> Component:
    """Map, lines and strongest pairs of a layer.

    Parameters
    ----------
    attention
        The pattern of the layer.
    run
        The pass it belongs to.
    heads
        Heads that are averaged at first; numbers that the layer does not have are ignored, none means all.
    selected
        Key of a node: its position is the query that is shown at first.
    """
    count = len(attention.pattern)
    chosen = [head for head in heads if head < count] or list(range(count))
    shown = window(run)
    data = model(attention, run, shown, chosen, _query(run, shown, selected))
    tree = element(
        "div",
        element("div", _chips(attention, run, chosen), _sink(shown), _scale(), cls="panel-head"),
        element("p", cls="says", data_role="says", aria_live="polite"),
        element(
            "div",
            element("div", cls="map", data_role="map"),
            element("div", element("div", cls="lines", data_role="lines"), _pairs(attention, run), cls="beside"),
            cls="views",
        ),
        _window_note(run, shown),
        cls="attention",
        data_widget="attention",
        data_model=json.dumps(data, ensure_ascii=False, separators=(",", ":")),
    )
    return drawn(tree, name="attention", label=f"Attention of layer {attention.layer}", selected=selected)


def window(run: Run) -> range:
    """Tokens that are shown."""
    tokens = len(run.tokens)
    start = max(0, min(run.position - MOST_TOKENS * 3 // 4, tokens - MOST_TOKENS))
    return range(start, min(tokens, start + MOST_TOKENS))


def model(attention: Attention, run: Run, shown: range, chosen: list[int], query: int) -> dict[str, Any]:
    """What the browser sums.

    Returns
    -------
    ``pattern`` are the probabilities of the shown queries and keys in steps of 1/65,535, [head, query, key] as base64 of
    little-endian integers; where tokens are left out, a last key holds what goes to all of them.
    """
    part = _shown_pattern(attention.pattern, shown)
    steps = np.rint(np.clip(part, 0, 1) * _LEVELS).astype("<u2")
    return {
        "layer": attention.layer,
        "heads": len(attention.pattern),
        "chosen": chosen,
        "query": query,
        "tokens": [visible(run.tokens[t]) for t in shown],
        "first": shown.start,
        "others": len(run.tokens) - len(shown),
        "causal": run.causal,
        "levels": _LEVELS,
        "pattern": base64.b64encode(steps.tobytes()).decode("ascii"),
    }


def rows(attention: Attention, run: Run) -> Sheet:
    """Every pair of a query and a key that it may see."""
    header = ("layer", "head", "query_position", "query_token", "key_position", "key_token", "attention")
    found: list[tuple[Value, ...]] = []
    for head, pattern in enumerate(attention.pattern):
        for query, line in enumerate(pattern):
            for key, value in enumerate(line[: query + 1] if run.causal else line):
                found.append((attention.layer, head, query, run.tokens[query], key, run.tokens[key], float(value)))
    return header, found


def _shown_pattern(pattern: Float[np.ndarray, "head query key"], shown: range) -> Float[np.ndarray, "head query shown"]:
    inside = pattern[:, shown.start : shown.stop, shown.start : shown.stop]
    if len(shown) == pattern.shape[-1]:
        return inside
    rest = pattern[:, shown.start : shown.stop].sum(-1, keepdims=True) - inside.sum(-1, keepdims=True)
    return np.concatenate([inside, rest], -1)


def _query(run: Run, shown: range, selected: str | None) -> int:
    """Index among the shown tokens of the query that is looked at first."""
    position = None if selected is None else parse_node_key(selected).position
    return (position if position in shown else run.position) - shown.start  # type: ignore[operator]


def _chips(attention: Attention, run: Run, chosen: Sequence[int]) -> Element:
    everything = len(chosen) == len(attention.pattern)
    chips = [
        element("button", f"H{head}", type="button", cls="toggle", data_head=str(head), data_tip=_chip_tip(attention, run, head),
                aria_pressed=str(not everything and head in chosen).lower())
        for head in range(len(attention.pattern))
    ]  # fmt: skip
    whole = element("button", "all", type="button", cls="toggle", data_head="all", aria_pressed=str(everything).lower())
    return element("div", whole, *chips, role="group", aria_label="Heads that are averaged", cls="toggles")


def _chip_tip(attention: Attention, run: Run, head: int) -> str:
    """Where a head looks from the position that is explained, the first token apart."""
    line = attention.pattern[head, run.position]
    best = [int(key) for key in np.argsort(-line, kind="stable")[:3] if line[key] > 0]
    places = "\n".join(f"{visible(run.tokens[key])} at {key}\t{probability(float(line[key]))}" for key in best)
    return f"L{attention.layer}H{head} from {visible(run.tokens[run.position])} at {run.position}\n{places}"


def _sink(shown: range) -> Element:
    """Switch for the first token, at which many heads look when they look for nothing."""
    hint = "Many heads rest on the first token. Without it the other keys of a row are scaled to add up to 1."
    if shown.start:
        hint = "The first token is not among those shown."
    box = element("input", type="checkbox", data_role="sink", disabled=bool(shown.start))
    return element("label", box, " hide first token and renormalise", cls="check", title=hint)


def _scale() -> Element:
    steps = [
        element(
            "span",
            element("i", cls="swatch", v_part=f"{value**0.5:.3f}"),
            f"{value:g}".removeprefix("0"),
            cls="fill-step",
        )
        for value in _SCALE
    ]
    return element("div", element("span", "attention", cls="scale-name"), *steps, cls="fill-scale plain")


def _window_note(run: Run, shown: range) -> Element | None:
    if len(shown) == len(run.tokens):
        return None
    others = len(run.tokens) - len(shown)
    text = (
        f"Shown are tokens {shown.start}–{shown.stop - 1} of {plural(len(run.tokens), 'token')}. "
        f"What they read from the other {others:,} is one column, “others”. The numbers of all pairs are in the CSV file."
    )
    return element("p", text, cls="note")


def _pairs(attention: Attention, run: Run) -> Element:
    """The strongest pairs of different tokens, without the first token."""
    pattern = attention.pattern.copy()
    pattern[:, :, 0] = 0
    tokens = np.arange(pattern.shape[-1])
    pattern[:, tokens, tokens] = 0
    flat = pattern.ravel()
    strongest = np.argpartition(flat, max(0, flat.size - _PAIRS))[-_PAIRS:]
    order = strongest[np.argsort(-flat[strongest], kind="stable")]
    lines, nodes = [], []
    for place in order:
        head, query, key = (int(n) for n in np.unravel_index(place, pattern.shape))
        if pattern[head, query, key] <= 0:
            continue
        node = Node("head", layer=attention.layer, head=head, position=query)
        value = float(pattern[head, query, key])
        cells = [
            Cell(link(node, str(node)), head),
            *(Cell(_place(run, at), at) for at in (query, key)),
            Cell(probability(value), value),
        ]
        lines.append(cells)
        nodes.append(node)
    heads = (Column("head"), Column("from query"), Column("to key"), Column("attention", kind="number"))
    caption = f"Strongest pairs of layer {attention.layer}, without the first token and a token itself"
    return table(caption, heads, lines, nodes=nodes, by=(3, "descending"))


def _place(run: Run, position: int) -> Element:
    return element("span", token(run.tokens[position]), element("span", f" {position}", cls="note"))


def _question(recipe: Recipe, run: Run) -> AttentionQuestion:
    return AttentionQuestion.of(recipe, run.n_layers - 1 if recipe.layer is None else recipe.layer)


def controls() -> list[Component]:
    """Whose attention is shown."""
    from ..present.parts import group, late_choice

    return [group("Layer", "Whose attention is shown", late_choice(Id.LAYER))]


PANEL = Panel(
    "attention",
    "Attention",
    "Attention patterns of one layer.",
    _question,
    lambda answer, run, view: panel(answer, run, heads=view.recipe.heads, selected=view.recipe.selected_node),
    rows,
    fields=("layer",),
    view=("layer", "heads"),
    controls=controls,
)
