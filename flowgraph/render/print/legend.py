"""The legend below a picture: what its colours, shapes and widths mean, with numbers; only what is there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ...charts.text import visible
from ...values.effects import is_picture_of_parts, shows_effects
from ...values.graph_info import GraphInfo
from ..scene.elements import Drawing
from ..scene.legend import EDGE_NAMES, SQUARES, own_names, width_steps
from ..scene.style import EFFECT_LABELS, RANK_LABELS, edge_stroke
from .content import Content, edge_line, node_mark
from .frame import Frame
from .shapes import Label, Line, Mark, Pill, Shape, baseline, text_width

_SIZE = 6.0
_ROW = 9.0
SWATCH, _GAP, _BETWEEN, _GROUP = 12.0, 2.5, 6.0, 15.0
# Texts are measured for the widest font; the gaps between entries are wide enough for what that is too much or too little.
_MEASURE = 0.92
_SHOWN_SHARE = 0.3
_EDGES = {**EDGE_NAMES, "to-head": "into a head"}
"""Class of an edge → what it is called, as short as paper asks for."""
_NODES = {
    "state": "residual state",
    "junction": "mid-block state",
    "block": "MLP",
    **SQUARES,
    "head": "attention head, its number",
    "expert": "expert, its number",
    "cross-head": "cross head: reads the encoder",
    "goal": "logit",
    "undefined": "shares by substitute",
    "pin": "pinned in the file",
}

_SQUARES = frozenset({"block", *SQUARES})


@dataclass(frozen=True, slots=True)
class Entry:
    """A sample and its name."""

    sample: Line | Mark | Pill | None
    text: str

    @property
    def width(self) -> float:
        """Points that sample and name take."""
        return self.room + _MEASURE * text_width(self.text, _SIZE)

    @property
    def room(self) -> float:
        """Points before the name."""
        if self.sample is None:
            return 0.0
        if isinstance(self.sample, Mark):
            return self.sample.size + 0.5 + _GAP
        if isinstance(self.sample, Pill):
            return self.sample.box[2] - self.sample.box[0] + 0.5 + _GAP
        return SWATCH + _GAP


Group = tuple[str, Sequence[Entry]]
"""What some samples have in common, and the samples."""


def legend_shapes(groups: Sequence[Group], width: float, top: float) -> tuple[list[Shape], float]:
    """Shapes of the legend of a picture of some width, from ``top`` downwards, and where it ends.

    Groups stand side by side while they fit; one that is wider than the picture is broken between its entries.
    """
    shapes: list[Shape] = []
    x, y, first = _GAP, top, top
    for title, entries in groups:
        lead = _MEASURE * text_width(title, _SIZE) + _BETWEEN
        whole = lead + sum(entry.width + _BETWEEN for entry in entries) - _BETWEEN
        # What follows a broken group would look like a part of it.
        if x > _GAP and (x + whole > width - _GAP or y > first):
            x, y = _GAP, y + _ROW
        first = y
        shapes.append(Label(title, (x, baseline(y + _ROW / 2, _SIZE)), _SIZE, "ink"))
        x += lead
        for entry in entries:
            if x > _GAP and x + entry.width > width - _GAP:
                x, y = 2 * _GAP + 4, y + _ROW
            shapes += _set(entry, x, y + _ROW / 2)
            x += entry.width + _BETWEEN
        x += _GROUP - _BETWEEN
    return shapes, y + _ROW if shapes else top


def _set(entry: Entry, x: float, middle: float) -> list[Shape]:
    name = Label(entry.text, (x + entry.room, baseline(middle, _SIZE)), _SIZE, "muted")
    sample = entry.sample
    if sample is None:
        return [name]
    if isinstance(sample, Mark):
        return [replace(sample, centre=(x + sample.size / 2, middle)), name]
    if isinstance(sample, Pill):
        wide, half = sample.box[2] - sample.box[0], (sample.box[3] - sample.box[1]) / 2
        return [replace(sample, box=(x, middle - half, x + wide, middle + half)), name]
    start, end = (x, middle), (x + SWATCH, middle)
    bend = None if sample.bend is None else (x + SWATCH / 2, middle - 4.0)
    return [replace(sample, start=start, end=end, bend=bend), name]


def flow_groups(content: Content, drawn: Drawing, fitted: Frame) -> list[Group]:
    """What a graph of flow or of effects has to explain."""
    nodes, edges = content.classes("node"), content.classes("edge")
    info, own, parts = drawn.graph.info, own_names(drawn.graph), is_picture_of_parts(drawn.graph)
    groups = [_ranks(content, info, fitted, nodes)]
    if any(name.startswith("effect") for name in nodes):
        steps = [Entry(_dot(content, fitted, f"head effect{n}"), text) for n, text in enumerate(EFFECT_LABELS)]
        groups.append((f"{'Effect' if parts else 'Direct effect'} ({info.unit})", steps))
    groups.append(("Nodes", _nodes(content, fitted, nodes, own)))
    groups.append(
        (
            "Edges",
            [Entry(_sample(content, name), own.get(name, text)) for name, text in _EDGES.items() if name in edges],
        )
    )
    if edges - {"structural", "stream"}:
        kind = "raises" if "raises" in edges or "lowers" in edges else "attention"
        bars = [Entry(_sample(content, kind, part), text) for text, part in width_steps(drawn)]
        measure = "effect" if shows_effects(drawn.graph) else "flow"
        groups.append((f"Width = {f'|effect| ({info.unit})' if parts else measure}", bars))
    return [(title, entries) for title, entries in groups if entries]


def _ranks(content: Content, info: GraphInfo, fitted: Frame, nodes: set[str]) -> Group:
    if not any(name in nodes for name in (f"k{n}" for n in range(len(RANK_LABELS)))):
        return "", []
    target = "the target" if info.target_token is None else content.spell(visible(info.target_token))
    steps = [Entry(_dot(content, fitted, f"state k{n}"), text) for n, text in enumerate(RANK_LABELS)]
    return f"Lens rank of {target}", steps


def _nodes(content: Content, fitted: Frame, nodes: set[str], own: Mapping[str, str]) -> list[Entry]:
    entries = []
    for name, text in _NODES.items():
        if name in nodes and not (name == "bias" and "block" in nodes):
            square = _block(nodes) if name == "block" else f"square {name}"
            own_classes = {
                "state": "state plain", "head": "head major", "expert": "head expert major", "cross-head": "head cross-head major",
            }  # fmt: skip
            classes = own_classes.get(name, square if name in _SQUARES else name)
            text = "MLP or bias" if name == "block" and "bias" in nodes else text
            entries.append(Entry(_dot(content, fitted, classes), own.get(name, text)))
    return entries


def _block(nodes: set[str]) -> str:
    """Classes of an MLP's sample: in the middle of the scale where colours are effects."""
    return "square effect2" if any(name.startswith("effect") for name in nodes) else "square"


def _dot(content: Content, fitted: Frame, classes: str) -> Mark:
    return node_mark({"classes": classes, "data": {"z": 8.0, "zd": 6.0}}, (0.0, 0.0), content, states=fitted.states)[1]


def _sample(content: Content, name: str, part: float = _SHOWN_SHARE) -> Line:
    kinds = dict.fromkeys(("raises", "lowers", "to-head", "cross", "to-cross"), "attention")
    kind = {**kinds, "from-head": "head", "from-cross": "head"}.get(name, name)
    width, tint = edge_stroke(kind, part)
    return edge_line(
        {"classes": name, "data": {"w": width, "o": tint}}, ((0.0, 0.0), (0.0, 0.0)), content, is_columns=False
    )
