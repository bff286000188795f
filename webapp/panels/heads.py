"""The grid of heads: layers from bottom to top, heads as columns, coloured by one score.

``panel(heads, run, *, score="", selected=None) -> Component``: ``score`` is a name in ``heads.scores``, empty for the first;
``selected`` is a node key. A click selects the head at the position that is explained.
``options(heads) -> list``: what a dropdown of the scores offers.
``rows(heads) -> (header, rows)``: one row for each head, a column for each score.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

import flowgraph
from flowgraph import Node
from flowgraph.render import visible

from ..present.drawn import Element, drawn, element, message, pick
from ..present.figures import signed, weight
from ..present.ids import Id
from ..present.palette import BOUNDS, EVEN_BOUNDS, step_class, step_of
from ..recipe import from_query
from ..server.asking import ask
from ..server.question import recorded, require
from ..server.run import OfRun, Run, same
from ..server.traces import Check, Traces
from .panel import Panel, Sheet, Value
from .setting import Setting

if TYPE_CHECKING:
    from dash import Dash
    from dash.development.base_component import Component

    from flowgraph import HeadScores

    from ..server.service import Service

_MOST_WRITTEN = 16
"""Heads of a layer up to which the numbers stand in the cells; of more they stand in the tips."""
_LABEL = "Heads: layers from bottom to top, heads from left to right"


@dataclass(frozen=True, eq=False)
class Heads:
    """Scores of every head.

    Attributes
    ----------
    scores
        Name → [layer, head] score; NaN-free. The first is the one to show unless another is chosen.
    units, descriptions
        Name → unit of the score, and what it says in a sentence.
    layers
        First and one-past-last layer of the rows.
    bounds
        Name → lowest and highest value that the score can have; None where nothing bounds it.
    undefined
        Name → why this prompt or model has no such score.
    strongest_key
        [layer, head] the other position that the explained one attends to most; None where it sees no other.
    """

    scores: dict[str, Float[np.ndarray, "layer head"]]
    units: dict[str, str]
    descriptions: dict[str, str]
    layers: tuple[int, int]
    bounds: dict[str, tuple[float | None, float | None]]
    undefined: dict[str, str]
    strongest_key: Int[np.ndarray, "layer head"] | None

    def __post_init__(self) -> None:
        names = [set(named) for named in (self.scores, self.units, self.descriptions, self.bounds)]
        require(
            all(name == names[0] for name in names), "Heads: scores, units, descriptions and bounds differ in names"
        )
        shapes = {score.shape for score in self.scores.values()}
        rows = self.layers[1] - self.layers[0]
        require(len(shapes) <= 1 and all(s[0] == rows for s in shapes), f"Heads.scores {shapes} for {rows} layers")


@recorded
@dataclass(frozen=True)
class HeadsQuestion(OfRun[Heads]):
    """Scores of every head."""

    quick = True

    def answer(self, traces: Traces, check: Check) -> Heads:
        """Scores of every head."""
        trace = traces.trace(self.run, check)
        check("scoring heads", None)
        return heads_answer(flowgraph.head_scores(trace))

    def refuse_unfit(self, run: Run, answer: Heads) -> None:
        """As the base class says."""
        shape = (run.layers[1] - run.layers[0], run.n_heads)
        for name, score in answer.scores.items():
            same(f"Heads.scores.{name[:40]}", score.shape, shape)
        same("Heads.layers", answer.layers, run.layers)
        keys = answer.strongest_key
        if keys is not None:
            same("Heads.strongest_key", keys.shape, shape)
            same("Heads.strongest_key", bool(((keys >= 0) & (keys < len(run.tokens))).all()), True)


def heads_answer(found: HeadScores) -> Heads:
    """Scores of heads as an answer."""
    # What a head writes comes first where it is known: it speaks of the target, the others of attention alone.
    scores = sorted(found.scores.values(), key=lambda score: score.name != "direct_logit")
    return Heads(
        scores={score.name: score.values for score in scores},
        units={score.name: score.unit for score in scores},
        descriptions={score.name: score.description for score in scores},
        layers=found.layers,
        bounds={score.name: (score.lowest, score.highest) for score in scores},
        undefined=dict(found.undefined),
        strongest_key=found.strongest_key,
    )


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


def rows(heads: Heads) -> Sheet:
    """Every head with all its scores, the unit in the name of the column."""
    header = ("layer", "head", *(f"{name}_{heads.units[name]}" for name in heads.scores))
    layers, count = next((score.shape for score in heads.scores.values()), (0, 0))
    found: list[tuple[Value, ...]] = [
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


def controls() -> list[Component]:
    """Which score is shown."""
    from ..present.parts import group, late_choice

    return [group("Score", "What is shown of each head", late_choice(Id.SCORE))]


PANEL = Panel(
    "heads",
    "Heads",
    "Scores of every attention head.",
    lambda recipe, _run: HeadsQuestion.of(recipe),
    lambda answer, run, view: panel(answer, run, score=view.recipe.score, selected=view.recipe.selected_node),
    lambda answer, _run: rows(answer),
    fields=("score",),
    view=("score",),
    settings=(Setting(Id.SCORE, "first"),),
    controls=controls,
)


def wires(app: Dash, service: Service) -> None:
    """Connect the callback that offers the scores of a run."""
    from dash import Input, Output, no_update

    @app.callback(
        Output(Id.SCORE, "options"), Output(Id.SCORE, "value"), Input(Id.PANEL, "data"), prevent_initial_call=True
    )
    def offer_scores(shown: dict[str, Any] | None) -> tuple[Any, Any]:
        if shown is None or shown["tab"] != PANEL.name:
            return no_update, no_update
        recipe = from_query(shown["search"])
        offered = options(ask(service, HeadsQuestion.of(recipe)))
        return offered, recipe.score or offered[0]["value"]
