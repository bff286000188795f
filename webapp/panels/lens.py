"""The lens grid: what every state says, layers from bottom to top, tokens as columns.

``panel(lens, run, *, fill="rank", selected=None, start=None, first=None) -> Component``: ``lens`` is a Reading of shape (layer,
position); ``fill`` is what colours a cell; ``selected`` and ``start`` are node keys; ``first`` is the first token shown of a
long prompt, None for those around the position. Writes the setting ``first``.
``rows(lens, run) -> (header, rows)``: one row for each state.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

import flowgraph
from flowgraph import Node, NodeReading, Reading, node_key, parse_node
from flowgraph.render import RANK_LABELS, rank_decade, visible

from ..present.drawn import Element, drawn, element, pick, token
from ..present.figures import count, plural, probability, signed
from ..present.ids import Id
from ..server.question import recorded
from ..server.run import OfRun, Run, same
from ..server.traces import READ_AT_ONCE, Check, Traces
from .panel import Panel, Sheet, Value, View
from .setting import Setting

if TYPE_CHECKING:
    from dash.development.base_component import Component

    from flowgraph import Trace

MOST_COLUMNS = 64
"""Tokens that are shown at once: of 30 layers that is 1,920 cells, about as many as a browser lays out at once."""
LENS_TOKENS = 5
"""Best tokens of each state that are read."""
_TOP = 5
_PROBABILITIES = (0.5, 0.1, 0.01, 1e-3, 1e-4)
_ENTROPIES = (1.0, 2.0, 4.0, 6.0, 8.0)


class Fill(NamedTuple):
    """What colours a cell: its title, the texts of the six steps, and the step of a reading."""

    title: Callable[[str], str]
    steps: tuple[str, ...]
    step: Callable[[NodeReading], int]


FILLS = {
    "rank": Fill("rank of {}".format, RANK_LABELS, lambda reading: rank_decade(reading.target_rank or 1)),
    "probability": Fill(
        "probability of {}".format,
        ("≥ .5", "≥ .1", "≥ .01", "≥ .001", "≥ 1e−4", "less"),
        lambda reading: sum((reading.target_probability or 0.0) < bound for bound in _PROBABILITIES),
    ),
    "entropy": Fill(
        lambda _: "entropy in nats",
        ("< 1", "< 2", "< 4", "< 6", "< 8", "more"),
        lambda reading: sum((reading.entropy or 0.0) >= bound for bound in _ENTROPIES),
    ),
}


@recorded
@dataclass(frozen=True)
class LensQuestion(OfRun[Reading]):
    """Every state after every layer, read in vocabulary: shape (layer, position)."""

    quick = True

    @property
    def read_sites(self) -> tuple[str, ...]:
        """As the base class says."""
        return ("resid_post",)

    def answer(self, traces: Traces, check: Check) -> Reading:
        """Every state after every layer, read in vocabulary; some layers at a time, so that it can be taken back."""
        trace = traces.trace(self.run, check)
        states = trace.resid_post
        step = max(1, READ_AT_ONCE // states.shape[1])
        parts = []
        for first in range(0, len(states), step):
            check("reading states", first / len(states))
            parts.append(flowgraph.read(trace, states[first : first + step], k=min(LENS_TOKENS, _vocabulary(trace))))
        joined = _joined(parts, (states.shape[0], states.shape[1]))
        return joined.named(("layer", "position"), first_layer=trace.layers[0], prompt_tokens=trace.tokens)

    def refuse_unfit(self, run: Run, answer: Reading) -> None:
        """As the base class says."""
        shape = (run.layers[1] - run.layers[0], len(run.tokens))
        same("Reading.shape", answer.shape, shape)
        for end in ("top", "bottom"):
            width = getattr(answer, f"{end}_token_ids").shape[1]
            same(f"Reading.{end}_tokens", {len(row) for row in getattr(answer, f"{end}_tokens")}, {width})
            for name in ("logits", "probabilities"):
                same(f"Reading.{end}_{name}", getattr(answer, f"{end}_{name}").shape, (shape[0] * shape[1], width))


def panel(
    lens: Reading,
    run: Run,
    *,
    fill: str = "rank",
    selected: str | None = None,
    start: str | None = None,
    first: int | None = None,
) -> Component:
    """The grid of what every state says.

    Parameters
    ----------
    lens
        Reading of shape (layer, position) of the states after the layers of the run.
    run
        The pass it belongs to.
    fill
        Key of :data:`FILLS`.
    selected, start
        Keys of the nodes that are marked.
    first
        First token shown, where not all fit.
    """
    shown = window(len(run.tokens), run.position, first)
    tree = element(
        "div",
        element("div", _legend(lens, FILLS[fill], start), _walk(len(run.tokens), shown), cls="panel-head"),
        element("div", _grid(lens, run, fill, shown, start), cls="grid-box"),
        cls="lens",
    )
    return drawn(
        tree, name="lens", label="Lens grid: layers from bottom to top, tokens from left to right", selected=selected
    )


def window(tokens: int, position: int, first: int | None) -> range:
    """Tokens that are shown: all, or as many as fit from ``first``, by default with the position near the end."""
    if tokens <= MOST_COLUMNS:
        return range(tokens)
    start = position - MOST_COLUMNS * 3 // 4 if first is None else first
    start = max(0, min(start, tokens - MOST_COLUMNS))
    return range(start, start + MOST_COLUMNS)


def rows(lens: Reading, run: Run) -> Sheet:
    """Every state: layer, position, token, its five best tokens with their probabilities, target and entropy."""
    best = min(_TOP, lens.top_token_ids.shape[-1])
    header = ("layer", "position", "token", *(f"{what}_{n}" for n in range(1, best + 1) for what in ("top", "probability")),
              "target", "target_rank", "target_probability", "target_logit", "entropy_nats", "norm")  # fmt: skip
    found: list[tuple[Value, ...]] = []
    for n, reading in enumerate(lens):
        layer, position = divmod(n, lens.shape[1])
        pairs = [value for text, chance, _ in reading.top[:best] for value in (text, chance)]
        about = (reading.target_rank, reading.target_probability, reading.target_logit, reading.entropy, reading.norm)
        found.append((run.layers[0] + layer, position, run.tokens[position], *pairs, lens.target_token, *about))
    return header, found


def _grid(lens: Reading, run: Run, fill: str, shown: range, start: str | None) -> Element:
    heads = [
        element("th", token(run.tokens[t]), element("span", str(t), cls="at"), scope="col", title=f"{visible(run.tokens[t])} at {t}",
                cls="here" if t == run.position else None)
        for t in shown
    ]  # fmt: skip
    lines = [_line(lens, run, layer, FILLS[fill], shown, start) for layer in reversed(range(lens.shape[0]))]
    corner = element("td", cls="corner")
    return element(
        "table",
        element("tbody", *lines),
        element("tfoot", element("tr", corner, *heads)),
        role="grid",
        aria_label="States by layer and token; arrow keys walk, Enter selects",
        cls="cells",
        v_count=len(shown),
        v_least="56px",
    )


def _line(lens: Reading, run: Run, layer: int, fill: Fill, shown: range, start: str | None) -> Element:
    number = run.layers[0] + layer
    cells = []
    for t in shown:
        reading = lens[layer, t]
        node = Node("resid_post", layer=number, position=t)
        classes = f"fill-{fill.step(reading)}{' start' if node_key(node) == start else ''}"
        text, tip = visible(reading.top[0][0]), _tip(lens, run, node, reading)
        cells.append(pick("td", node, text, role="gridcell", cls=classes, data_tip=tip))
    return element("tr", element("th", f"L{number}", scope="row"), *cells)


def _tip(lens: Reading, run: Run, node: Node, reading: NodeReading) -> str:
    """Lines of the full reading; a tab stands between a name and its number."""
    lines = [f"layer {node.layer}, {visible(run.tokens[node.position or 0])} at {node.position}"]
    lines += [f"{visible(text)}\t{probability(chance)}" for text, chance, _ in reading.top[:_TOP]]
    lines += about_target(lens.target_token, reading.target_rank, reading.target_probability, reading.target_logit)
    if reading.entropy is not None:
        lines.append(f"entropy\t{reading.entropy:.2f} nats")
    return "\n".join(lines)


def about_target(name: str, rank: int | None, chance: float | None, logit: float | None) -> list[str]:
    """Lines on a token that is asked about."""
    shown = visible(name)
    lines = [] if rank is None else [f"rank of {shown}\t{count(rank)}"]
    lines += [] if chance is None else [f"probability of {shown}\t{probability(chance)}"]
    return lines if logit is None else [*lines, f"logit of {shown}\t{signed(logit)}"]


def _legend(lens: Reading, fill: Fill, start: str | None) -> Element:
    steps = [element("span", text, cls=f"fill-step fill-{n}") for n, text in enumerate(fill.steps)]
    marks = [element("span", "selected", cls="mark chosen")]
    if start is not None:
        marks.append(element("span", "start of the flow", cls="mark start"))
    return element(
        "div",
        element("span", fill.title(visible(lens.target_token)), cls="scale-name"),
        *steps,
        *marks,
        cls="fill-scale",
    )


def _walk(tokens: int, shown: range) -> Element | None:
    """What part of a long prompt is shown, and buttons to the others."""
    if len(shown) == tokens:
        return None
    step = len(shown) // 2
    before, after = max(0, shown.start - step), min(tokens - len(shown), shown.start + step)
    return element(
        "div",
        _button("Earlier", before, shown.start == 0),
        element("span", f"tokens {shown.start}–{shown.stop - 1} of {plural(tokens, 'token')}", cls="note"),
        _button("Later", after, shown.stop == tokens),
        cls="pager",
    )


def _button(text: str, first: int, disabled: bool) -> Element:
    return element(
        "button", text, type="button", cls="button small", data_set="first", data_value=str(first), disabled=disabled,
        aria_label=f"{text} tokens",
    )  # fmt: skip


def _vocabulary(trace: Trace) -> int:
    return int(trace.model.anatomy.d_vocab) if trace.model.anatomy.has_head else LENS_TOKENS


def _joined(parts: list[Reading], shape: tuple[int, int]) -> Reading:
    """One reading of the rows of several, which speak of the same target."""
    columns: dict[str, Any] = {}
    for item in fields(Reading):
        values = [getattr(part, item.name) for part in parts]
        if isinstance(values[0], np.ndarray):
            columns[item.name] = np.concatenate(values)
        elif item.name in ("top_tokens", "bottom_tokens"):
            columns[item.name] = tuple(row for value in values for row in value)
    return replace(parts[0], **columns, shape=shape)


def _draw(answer: Reading, run: Run, view: View) -> Component:
    recipe = view.recipe
    start = None if recipe.start is None else node_key(parse_node(recipe.start))
    return panel(answer, run, fill=recipe.fill, selected=recipe.selected_node, start=start, first=view.first)


FILL_HINTS = {
    "rank": "Rank of the target among all tokens, 1 being the best.",
    "probability": "Probability of the target.",
    "entropy": "How undecided the state is, in nats.",
}
"""What colours a cell → what that means."""


def controls() -> list[Component]:
    """What colours a cell."""
    from ..present.parts import group, switch

    return [group("Fill", "What colours a cell", switch(Id.FILL, FILL_HINTS, "rank"))]


PANEL = Panel(
    "lens",
    "Lens grid",
    "What every state would say if it were the last.",
    lambda recipe, _run: LensQuestion.of(recipe),
    _draw,
    rows,
    fields=("fill", "start"),
    view=("fill",),
    settings=(Setting(Id.FILL, "choice"),),
    controls=controls,
)
