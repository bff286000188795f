"""Attention of a layer as it is drawn: a map of queries and keys, lines between tokens, and the strongest pairs as a table.

``panel(attention, run, *, heads=(), selected=None) -> Component``: ``heads`` are those that are summed at first, empty for all;
``selected`` is a node key. Flowgraph's own page scripts sum heads and tokens in the browser, and write the setting ``heads``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from flowgraph import Node
from flowgraph.render import AttentionPanel, attention_data, visible

from ..node_key import parse_node_key
from ..present.drawn import Element, drawn, element, link, token
from ..present.figures import plural, probability
from ..present.tables import Cell, Column, table
from ..server.run import Run
from .attention_pattern import Attention, StackAttention

if TYPE_CHECKING:
    from dash.development.base_component import Component

MOST_TOKENS = 128
"""Queries that are sent to the browser; of a longer prompt those around the position."""
_PAIRS = 20
_SCALE = (0.01, 0.1, 0.3, 0.6, 1.0)


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
    tree = _views(
        data, _chips(f"L{attention.layer}H", attention.pattern[:, run.position], run.tokens, run.position, chosen), _sink(shown),
        _pairs(attention, run), _window_note(run, shown),
    )  # fmt: skip
    if attention.others:
        tree = _in_groups(attention, run, tree)
    return drawn(tree, name="attention", label=f"Attention of layer {attention.layer}", selected=selected)


def _views(
    data: dict[str, Any], chips: Element, sink: Element, pairs: Element, note: Element | None = None, **attributes: Any
) -> Element:
    """Map, lines and pairs of one pattern, which the browser draws from ``data``."""
    return element(
        "div",
        element("div", chips, sink, _scale(), cls="panel-head"),
        element("p", cls="says", data_role="says", aria_live="polite"),
        element(
            "div",
            element("div", cls="map", data_role="map"),
            element("div", element("div", cls="lines", data_role="lines"), pairs, cls="beside"),
            cls="views",
        ),
        note,
        cls="attention",
        data_widget="attention",
        data_model=json.dumps(data, ensure_ascii=False, separators=(",", ":")),
        **attributes,
    )


def _in_groups(attention: Attention, run: Run, own: Element) -> Element:
    """The attention of every stack and between them, one of them shown at a time."""
    groups = {"decoder": own} | {_title(one): _of_stack(attention.layer, one, run) for one in attention.others}
    switch = [
        element("button", name, type="button", data_switch=name, aria_pressed=str(not n).lower())
        for n, name in enumerate(groups)
    ]
    return element(
        "div",
        element("div", element("div", *switch, role="group", aria_label="Stacks", cls="switch-row"), cls="panel-head"),
        *(element("div", one, data_group=name, hidden=bool(n)) for n, (name, one) in enumerate(groups.items())),
    )


def _title(one: StackAttention) -> str:
    return "decoder reads encoder" if one.is_cross else one.name.partition(".")[0]


def _of_stack(layer: int, one: StackAttention, run: Run) -> Element:
    """Map, lines and pairs of a pattern that is not the run's own; of long texts the first tokens."""
    pattern = one.pattern[:, :MOST_TOKENS, :MOST_TOKENS]
    queries, keys = one.queries[:MOST_TOKENS], one.keys[:MOST_TOKENS]
    at = min(run.position, len(queries) - 1) if one.is_cross else len(queries) - 1
    prefix = f"L{layer}.cross.H" if one.is_cross else f"enc.L{layer}H"
    chosen = list(range(len(pattern)))
    data = {
        **_numbers(layer, pattern, queries, keys), "layer": layer, "chosen": chosen, "query": at, "masked": False, "prefix": prefix,
        "kind": "cross_head" if one.is_cross else "head", "stack": one.stack, "first": 0, "others": 0, "named": False,
    }  # fmt: skip

    def node(head: int, query: int) -> Node:
        return Node("cross_head" if one.is_cross else "head", layer, head, query, stack=one.stack)

    sink = element(
        "label", element("input", type="checkbox", data_role="sink"), " hide first token and renormalise", cls="check"
    )
    pairs = _strongest(pattern, node, queries, keys, f"Strongest pairs of layer {layer}")
    cut = len(one.queries) > len(queries) or len(one.keys) > len(keys)
    note = (
        element("p", f"Shown are the first {MOST_TOKENS} tokens. All numbers are in the CSV file.", cls="note")
        if cut
        else None
    )
    return _views(data, _chips(prefix, pattern[:, at], keys, at, chosen, queries), sink, pairs, note)


def window(run: Run) -> range:
    """Tokens that are shown."""
    tokens = len(run.tokens)
    start = max(0, min(run.position - MOST_TOKENS * 3 // 4, tokens - MOST_TOKENS))
    return range(start, min(tokens, start + MOST_TOKENS))


def model(attention: Attention, run: Run, shown: range, chosen: list[int], query: int) -> dict[str, Any]:
    """What the browser sums.

    Returns
    -------
    The probabilities of the shown queries and keys as :func:`flowgraph.render.attention_data` has them; where tokens are left
    out, a last key holds what goes to all of them. ``masked`` says whether a query sees only the tokens before it, ``named``
    whether the address names the chosen heads.
    """
    others = len(run.tokens) - len(shown)
    tokens = [run.tokens[t] for t in shown]
    data = _numbers(
        attention.layer, _shown_pattern(attention.pattern, shown), tokens, [*tokens, *["others"] * bool(others)]
    )
    if others:
        data["keys"][-1] = f"{others:,} others"
    return {
        **data, "layer": attention.layer, "chosen": chosen, "query": query, "masked": run.causal, "prefix": f"L{attention.layer}H",
        "kind": "head", "stack": None, "first": shown.start, "others": others, "named": True,
    }  # fmt: skip


def _numbers(
    layer: int, pattern: Float[np.ndarray, "head query key"], queries: Sequence[str], keys: Sequence[str]
) -> dict[str, Any]:
    """Probabilities of one layer, as the page scripts take them."""
    weights = np.clip(pattern, 0, 1).astype(np.float32)[None]
    heads = tuple(range(len(pattern)))
    [data] = attention_data([AttentionPanel("attention", tuple(queries), tuple(keys), (layer,), heads, weights)])
    return data


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


def _chips(
    prefix: str,
    lines: Float[np.ndarray, "head key"],
    keys: Sequence[str],
    at: int,
    chosen: Sequence[int],
    queries: Sequence[str] | None = None,
) -> Element:
    """A switch for each head; its tip says where the head looks from position ``at``. ``queries`` are the keys unless said."""
    everything = len(chosen) == len(lines)
    chips = [
        element("button", f"H{head}", type="button", cls="toggle", data_head=str(head),
                data_tip=_chip_tip(f"{prefix}{head}", line, keys, visible((queries or keys)[at]), at),
                aria_pressed=str(not everything and head in chosen).lower())
        for head, line in enumerate(lines)
    ]  # fmt: skip
    whole = element("button", "all", type="button", cls="toggle", data_head="all", aria_pressed=str(everything).lower())
    return element("div", whole, *chips, role="group", aria_label="Heads that are averaged", cls="toggles")


def _chip_tip(name: str, line: Float[np.ndarray, "key"], keys: Sequence[str], query: str, at: int) -> str:
    """Where a head looks from a position."""
    best = [int(key) for key in np.argsort(-line, kind="stable")[:3] if line[key] > 0]
    places = "\n".join(f"{visible(keys[key])} at {key}\t{probability(float(line[key]))}" for key in best)
    return f"{name} from {query} at {at}\n{places}"


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
    pattern, layer = attention.pattern.copy(), attention.layer
    pattern[:, :, 0] = 0
    tokens = np.arange(pattern.shape[-1])
    pattern[:, tokens, tokens] = 0
    caption = f"Strongest pairs of layer {layer}, without the first token and a token itself"
    return _strongest(pattern, lambda head, at: Node("head", layer, head, at), run.tokens, run.tokens, caption)


def _strongest(
    pattern: Float[np.ndarray, "head query key"],
    node_of: Callable[[int, int], Node],
    queries: Sequence[str],
    keys: Sequence[str],
    caption: str,
) -> Element:
    """The strongest pairs as a table; a row selects ``node_of(head, query)``."""
    flat = pattern.ravel()
    strongest = np.argpartition(flat, max(0, flat.size - _PAIRS))[-_PAIRS:]
    order = strongest[np.argsort(-flat[strongest], kind="stable")]
    lines, nodes = [], []
    for place in order:
        head, query, key = (int(n) for n in np.unravel_index(place, pattern.shape))
        if pattern[head, query, key] <= 0:
            continue
        node = node_of(head, query)
        value = float(pattern[head, query, key])
        places = ((queries, query), (keys, key))
        cells = [
            Cell(link(node, str(node)), head),
            *(Cell(_place(tokens[at], at), at) for tokens, at in places),
            Cell(probability(value), value),
        ]
        lines.append(cells)
        nodes.append(node)
    heads = (Column("head"), Column("from query"), Column("to key"), Column("attention", kind="number"))
    return table(caption, heads, lines, nodes=nodes, by=(3, "descending"))


def _place(text: str, position: int) -> Element:
    return element("span", token(text), element("span", f" {position}", cls="note"))
