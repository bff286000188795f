"""Colours of semantic graphs on paper, and the legend that explains them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from ...charts.text import visible
from ...values.flow_graph import FlowGraph
from ..scene.semantic_elements import edge_classes
from ..scene.semantic_legend import WIDTH_STEPS
from ..scene.semantic_plan import plan_of
from ..scene.semantic_style import pill_fills, unit_colours
from ..scene.style import LIGHT, RANK_LABELS, edge_stroke
from .content import Spell
from .frame import SCALE
from .ink import NAMES, ThemeName
from .legend import SWATCH, Entry, Group
from .shapes import Dash, Line, Pill

_HOLLOW = len(RANK_LABELS) - 1
_BORDER, _STRONG = 0.5, 1.1
_FROM_SOURCE = 0.16
# Darkest for the best rank; text is black or white, whichever is easier to read on the grey.
_PRINT_FILLS = (
    ("#000000", "#FFFFFF"), ("#484848", "#FFFFFF"), ("#8C8C8C", "#000000"), ("#BDBDBD", "#000000"), ("#E2E2E2", "#000000"),
    ("#FFFFFF", "#000000"),
)  # fmt: skip
_UNITS = {
    "contribution": "contribution to its target",
    "attention": "attention",
    "activation": "activation",
    "norm": "length read",
    "logits": "logit of the last state",
    "visit": "weight of VISIT",
}
_COMPARED = ("contribution", "attention")


class PillInk(NamedTuple):
    """Names of the colours of a pill."""

    fill: str
    text: str
    border: str
    border_width: float
    is_bold: bool


class EdgeInk(NamedTuple):
    """How an edge is drawn, and its height above the page."""

    colour: str
    tint: float
    dash: Dash
    height: int


def pill_palette(theme: ThemeName) -> dict[str, str]:
    """Names of the colours of pills, and their ``#RRGGBB``."""
    fills = _PRINT_FILLS if theme == "print" else pill_fills(LIGHT)
    named = {f"pill{step}": fill for step, (fill, _) in enumerate(fills)}
    return named | {f"pilltext{step}": text for step, (_, text) in enumerate(fills)}


def pill_ink(classes: Collection[str], theme: ThemeName) -> PillInk:
    """Colours of a pill of these classes, as on the page."""
    if "goal" in classes:
        return PillInk("background", "ink", "target", _STRONG, is_bold=True)
    step = next((n for n in range(len(RANK_LABELS)) if f"k{n}" in classes), _HOLLOW)
    text = "muted" if step == _HOLLOW and "quiet" in classes else f"pilltext{step}"
    border = "line" if step == _HOLLOW else "residual" if step >= _HOLLOW - 2 else f"pill{step}"
    if theme == "print" and step == _HOLLOW:
        border = "residual"
    return PillInk(
        f"pill{step}", text, "target" if step == 0 else border, _STRONG if step == 0 else _BORDER, is_bold=False
    )


def edge_ink(classes: Collection[str], opacity: float, theme: ThemeName) -> EdgeInk:
    """Colour, strength and dashes of an edge of these classes."""
    unit = next((name for name in unit_colours(NAMES) if name in classes), None)
    is_stream = "stream" in classes
    colour = "residual" if is_stream or unit is None else unit_colours(NAMES)[unit]
    if "negative" in classes and unit == "contribution" and not is_stream:
        colour = "lowers"
    dash: Dash = "dotted" if unit is None else "dashed" if "negative" in classes else "solid"
    if theme == "print" and unit == "attention":
        dash = "fine"  # as black as a contribution
    height = 1 if "from-source" in classes else 2 if is_stream else 5 if unit == "contribution" else 4
    return EdgeInk(colour, _FROM_SOURCE if "from-source" in classes else opacity, dash, height)


def semantic_groups(graph: FlowGraph, theme: ThemeName, spell: Spell) -> list[Group]:
    """What a semantic graph has to explain; only what is there."""
    plan = plan_of(graph)
    there = {name for e in range(len(graph)) for name in edge_classes(graph, plan, e)}
    groups = [_ranks(graph, theme, spell), ("Edges", _edges(there, theme))]
    compared = [unit for unit in _COMPARED if unit in there]
    if compared:
        steps = [Entry(_sample({compared[0]}, part, theme), f"{part:g}".removeprefix("0")) for part in WIDTH_STEPS]
        what = {"contribution": "|share|", "attention": "the probability"}
        groups.append((f"Width: {' or '.join(what[unit] for unit in compared)}", steps))
    return [(title, entries) for title, entries in groups if entries]


def _ranks(graph: FlowGraph, theme: ThemeName, spell: Spell) -> Group:
    if all(reading is None or reading.target_rank is None for reading in graph.readings):
        return "", []
    token = graph.info.target_token
    target = "the target" if token is None else spell(visible(token))
    steps = []
    for step, text in enumerate(RANK_LABELS):
        ink = pill_ink([f"k{step}"], theme)
        steps.append(Entry(Pill((0.0, 0.0, 10.0, 6.0), ink.fill, ink.border, ink.border_width), text))
    return f"Rank of {target} in the reading", steps


def _edges(there: Collection[str], theme: ThemeName) -> Sequence[Entry]:
    entries = []
    for unit, text in _UNITS.items():
        if unit not in there:
            continue
        one_width = "" if unit in (*_COMPARED, "logits") else ", one width"
        entries.append(Entry(_sample({unit}, 0.3, theme), text + one_width))
        if unit == "contribution" and "negative" in there:
            entries.append(Entry(_sample({unit, "negative"}, 0.3, theme), "contribution below 0"))
        if unit == "contribution" and "stream" in there:
            entries.append(Entry(_sample({unit, "stream"}, 0.3, theme), "residual stream, drawn thinner"))
    return entries


def _sample(classes: set[str], part: float, theme: ThemeName) -> Line:
    is_compared = not classes.isdisjoint((*_COMPARED, "logits"))
    width, opacity = edge_stroke("residual" if "stream" in classes else "self", part) if is_compared else (0.8, 0.6)
    ink = edge_ink(classes, opacity, theme)
    return Line((0.0, 0.0), (SWATCH, 0.0), ink.colour, width * SCALE, ink.tint, ink.dash)
