"""The grid of heads: layers from bottom to top, heads as columns, coloured by one score.

``panel(heads, run, *, score="", selected=None) -> Component``: ``score`` is a name in ``heads.scores``, empty for the first;
``selected`` is a node key. A click selects the head at the position that is explained.
``options(heads) -> list``: what a dropdown of the scores offers.
``rows(heads) -> (header, rows)``: one row for each head, a column for each score.
"""

from __future__ import annotations

import numpy as np
from dash.development.base_component import Component

from flowgraph import Node
from flowgraph.render import visible

from ..present.drawn import Element, drawn, element, message, pick
from ..present.figures import signed, weight
from ..present.palette import BOUNDS, EVEN_BOUNDS, step_class, step_of
from ..server.answers import Heads, Run

_MOST_WRITTEN = 16
"""Heads of a layer up to which the numbers stand in the cells; of more they stand in the tips."""
_LABEL = "Heads: layers from bottom to top, heads from left to right"


def panel(heads: Heads, run: Run, *, score: str = "", selected: str | None = None) -> Component:
    """The grid of one score.

    Parameters
    ----------
    heads
        Scores of every head.
    run
        The pass they belong to.
    score
        Which; of one that is not there the panel says why.
    selected
        Key of the node that is marked.
    """
    name = score or next(iter(heads.scores), "")
    if name not in heads.scores:
        return message(_missing(name, heads), label=_LABEL)
    values = heads.scores[name]
    unit, is_signed = heads.units[name], is_diverging(heads, name)
    largest = float(np.abs(values).max()) if values.size else 0.0
    tree = element(
        "div",
        element("div", element("p", heads.descriptions[name], cls="about"), _legend(name, unit, largest, is_signed), cls="panel-head"),
        element("div", _grid(heads, run, name, largest), cls="grid-box"),
        element("p", _strongest(heads, run, name), cls="note"),
        _absent(heads),
        cls="heads",
    )  # fmt: skip
    return drawn(tree, name="heads", label=_LABEL, selected=selected)


def is_diverging(heads: Heads, name: str) -> bool:
    """Whether a score has a sign: it is in logits, or some value is below 0."""
    return heads.units[name] == "logits" or bool((heads.scores[name] < 0).any())


def _bounds(heads: Heads, name: str) -> tuple[float, ...]:
    return BOUNDS if is_diverging(heads, name) else EVEN_BOUNDS


def options(heads: Heads) -> list[dict[str, str]]:
    """Scores for a dropdown: name, and what it says."""
    return [
        {"label": f"{_words(name)} ({heads.units[name]})", "value": name, "title": heads.descriptions[name]}
        for name in heads.scores
    ]


def rows(heads: Heads) -> tuple[tuple[str, ...], list[tuple[str | int | float, ...]]]:
    """Every head with all its scores, the unit in the name of the column."""
    header = ("layer", "head", *(f"{name}_{heads.units[name]}" for name in heads.scores))
    layers, count = next((score.shape for score in heads.scores.values()), (0, 0))
    found: list[tuple[str | int | float, ...]] = [
        (heads.layers[0] + layer, head, *(float(score[layer, head]) for score in heads.scores.values()))
        for layer in range(layers)
        for head in range(count)
    ]
    return header, found


def _grid(heads: Heads, run: Run, name: str, largest: float) -> Element:
    values, first = heads.scores[name], heads.layers[0]
    count = values.shape[1]
    lines = []
    for layer in reversed(range(values.shape[0])):
        cells = []
        for head in range(count):
            node = Node("head", layer=first + layer, head=head, position=run.position)
            value = float(values[layer, head])
            classes = step_class(step_of(value, largest, _bounds(heads, name)))
            text = _written(value, heads, name) if count <= _MOST_WRITTEN else _sign(value, largest)
            tip = f"L{first + layer}H{head}\n{_words(name)}\t{_exact(value, heads, name)}{_looks_at(heads, run, layer, head)}"
            cells.append(pick("td", node, text, role="gridcell", cls=classes, data_tip=tip))
        lines.append(element("tr", element("th", f"L{first + layer}", scope="row"), *cells))
    tops = [element("th", f"H{head}", scope="col") for head in range(count)]
    return element(
        "table", element("tbody", *lines), element("tfoot", element("tr", element("td", cls="corner"), *tops)), role="grid",
        aria_label=f"{_words(name)} by layer and head; arrow keys walk, Enter selects",
        cls=f"cells{'' if count <= _MOST_WRITTEN else ' narrow'}",
        v_count=count,
        v_least="50px",
    )  # fmt: skip


def _looks_at(heads: Heads, run: Run, layer: int, head: int) -> str:
    if heads.strongest_key is None:
        return ""
    key = int(heads.strongest_key[layer, head])
    return f"\nlooks most at\t{visible(run.tokens[key])} at {key}"


def _legend(name: str, unit: str, largest: float, is_signed: bool) -> Element:
    """The scale with the numbers at which its steps begin."""
    ends = [bound * largest for bound in (BOUNDS if is_signed else EVEN_BOUNDS)]
    steps = [(n, f"≥ {weight(end, unit)}" if not is_signed else f"≥ {signed(end)}") for n, end in enumerate(ends, 1)]
    if is_signed:
        lower = [(-n, f"≤ {signed(-end)}") for n, end in enumerate(ends, 1)]
        steps = [*reversed(lower), (0, "≈ 0"), *steps]
    else:
        steps = [(0, f"< {weight(ends[0], unit)}"), *steps]
    shown = [element("span", text, cls=f"fill-step {step_class(step)}") for step, text in steps]
    return element("div", element("span", f"{_words(name)} in {unit}", cls="scale-name"), *shown, cls="fill-scale")


def _strongest(heads: Heads, run: Run, name: str) -> str:
    values = heads.scores[name]
    order = np.argsort(-np.abs(values).ravel(), kind="stable")[:3]
    places = [np.unravel_index(n, values.shape) for n in order]
    found = [
        f"L{heads.layers[0] + int(layer)}H{int(head)} {_exact(float(values[layer, head]), heads, name)}"
        for layer, head in places
    ]
    return f"Strongest: {', '.join(found)}. A click selects the head at position {run.position}."


def _missing(name: str, heads: Heads) -> str:
    reason = heads.undefined.get(name, "it is not a score of this page")
    return f"There is no score {_words(name)!r} here: {reason}. Scores here: {', '.join(map(_words, heads.scores)) or 'none'}."


def _absent(heads: Heads) -> Element | None:
    """Scores that this run does not have, and why."""
    if not heads.undefined:
        return None
    return element(
        "p",
        "Not here: ",
        "; ".join(f"{_words(name)} ({why})" for name, why in heads.undefined.items()),
        ".",
        cls="note",
    )


def _words(name: str) -> str:
    return name.replace("_", " ")


def _written(value: float, heads: Heads, name: str) -> str:
    """A number that fits in a cell; nothing is rounded to 0 or 1."""
    if is_diverging(heads, name):
        return signed(value) if value == 0 or abs(value) >= 0.005 else "≈ 0"
    if 0.995 <= value < 1:
        return "> .99"
    return weight(value, "") if value >= 1 or 0 < value < 0.005 else f"{value:.2f}".removeprefix("0")


def _sign(value: float, largest: float) -> str:
    return "−" if value < 0 and step_of(value, largest) else ""


def _exact(value: float, heads: Heads, name: str) -> str:
    text = signed(value, 3) if is_diverging(heads, name) else weight(value, heads.units[name])
    return f"{text} {heads.units[name]}"
