"""A semantic graph as shapes: the page's columns of pills, one band for each layer, the bands below each other.

Places come from :mod:`flowgraph.render.scene.semantic_plan`, where layers stand side by side. Paper has no room for that: here every
layer begins at the left again, with the states that it starts from, which are those that the band above ends in.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...charts.text import visible
from ...errors import ArgumentError
from ...values.flow_graph import FlowGraph
from ..scene.semantic_elements import semantic_elements
from ..scene.semantic_layout import Heading, Plan
from ..scene.semantic_plan import plan_of
from .content import Spell
from .frame import PAD, SCALE
from .ink import ThemeName
from .semantic_ink import edge_ink, pill_ink
from .shapes import Label, Line, Pill, Point, Shape, baseline, shortened, text_width

TALLEST = 1296.0
"""Two pages of 9 in, in points: more nobody can print, and few could read."""

_TEXT, _LEAST_TEXT, _HEADING, _TITLE = 5.5, 5.0, 5.0, 6.5
_ROW, _PILL = 9.0, 7.6
_COLUMN_LEAST, _COLUMN_TIGHT, _COLUMN_MOST = 27.0, 20.0, 50.0
_SIDE, _INSIDE = 3.0, 1.3
# Texts are measured for the widest font; in that one they may come this much nearer to the side of their pill.
_MEASURE = 0.95
_LEAD, _BAND = 6.2, 9.0
_BRIDGE = 0.8
"""Rows between a level edge above the residual line and the line."""


@dataclass(frozen=True, slots=True)
class Bands:
    """Points of columns and rows.

    Attributes
    ----------
    column
        From one column to the next.
    lefts
        For each layer the column that its band begins with.
    tops
        For each layer where the first row of its band begins.
    side
        Left of the first pill.
    """

    column: float
    lefts: Mapping[int, float]
    tops: Mapping[int, float]
    side: float

    def across(self, x: float, layer: int) -> float:
        """Points of a column in the band of a layer."""
        return self.side + (x - self.lefts[layer]) * self.column

    def down(self, y: float, layer: int) -> float:
        """Points of a row in the band of a layer."""
        return self.tops[layer] + y * _ROW

    def box(self, data: Mapping[str, Any], layer: int) -> tuple[float, float, float, float]:
        """(left, top, right, bottom) of a pill."""
        x, y, half = self.across(data["x"], layer), self.down(data["y"], layer), data["w"] * self.column / 2
        return x - half, y - _PILL / 2, x + half, y + _PILL / 2


def semantic_shapes(graph: FlowGraph, width: float, theme: ThemeName, *, spell: Spell) -> tuple[list[Shape], float]:
    """Shapes of a semantic graph, and where the lowest band ends.

    Raises
    ------
    ArgumentError
        If the columns do not fit into the width, or the bands would be higher than two pages.
    """
    plan = plan_of(graph)
    parts = semantic_elements(graph, plan)
    bands, bottom = _bands(graph, plan, width)
    lines, pills, labels = [], [], _titles(graph, plan, bands, spell)
    for layer in bands.tops:
        edges = [e for e in range(len(graph)) if _layer_of_edge(graph, e) == layer]
        shown = sorted(_nodes_of(graph, layer, edges))
        boxes = {n: bands.box(parts["nodes"][n]["data"], layer) for n in shown}
        lines += _lines(parts["edges"], edges, boxes, bands, layer, theme)
        for n in shown:
            pill, label = _pill(parts["nodes"][n], boxes[n], theme, spell)
            pills.append(pill)
            labels += label
        labels += _heading_labels([one for one in plan.headings if one.layer == layer], bands, layer)
    ordered = [line for _, line in sorted(lines, key=lambda entry: entry[0])]
    return [*ordered, *pills, *labels], bottom


def _bands(graph: FlowGraph, plan: Plan, width: float) -> tuple[Bands, float]:
    """Columns that fill the width, and bands below each other."""
    layers = list(range(*graph.info.layers))
    sides = {layer: [panel for panel in plan.panels if panel.layer == layer] for layer in layers}
    lefts = {layer: min(panel.left for panel in panels) for layer, panels in sides.items()}
    columns = max(panel.end - lefts[layer] for layer, panels in sides.items() for panel in panels)
    column = (width - 2 * _SIDE) / columns
    # A block that attends twice has half as many columns again.
    tightest = _COLUMN_TIGHT if any(node.kind == "cross_attn" for node in graph.nodes) else _COLUMN_LEAST
    if column < tightest:
        least = math.ceil(tightest * columns + 2 * _SIDE)
        raise ArgumentError(
            f"width={width:g} points is too narrow for {columns:.1f} columns of words; give width={least} or more, or show "
            "less of the graph: neurons_per_block=0 or rows_per_block=0 leave columns out"
        )
    column = min(column, _COLUMN_MOST)
    rows = max(panel.line for panel in plan.panels) + 0.5
    several = len(layers) > 1 or len({panel.position for panel in plan.panels}) > 1
    above = 2 * _LEAD + 2 + (_TITLE + 4 if several else 0)
    tall = above + rows * _ROW + _BAND
    if tall * len(layers) > TALLEST:
        raise ArgumentError(
            f"{len(layers)} layers at {len({panel.position for panel in plan.panels})} positions would be "
            f"{tall * len(layers) / 72:.0f} in high, and two pages hold {TALLEST / 72:g} in; choose fewer layers= or positions=, "
            "or fewer heads=, sources_per_head= and neurons_per_block=, or save the graph as .html"
        )
    side = _SIDE + (width - 2 * _SIDE - columns * column) / 2
    tops = {layer: PAD + n * tall + above for n, layer in enumerate(layers)}
    return Bands(column, lefts, tops, side), PAD + len(layers) * tall - _BAND


def _layer_of_edge(graph: FlowGraph, e: int) -> int:
    """Band of an edge; those without a layer lead into the first or out of the last."""
    first, stop = graph.info.layers
    if graph.layer[e] >= 0:
        return int(graph.layer[e])
    return first if graph.nodes[graph.source[e]].kind in ("embed", "position_embed") else stop - 1


def _nodes_of(graph: FlowGraph, layer: int, edges: Sequence[int]) -> set[int]:
    """Nodes that a band shows: the ends of its edges, and its own that have none."""
    first = graph.info.layers[0]
    touched = {int(n) for column in (graph.source, graph.target) for n in column}
    alone = {
        n for n, node in enumerate(graph.nodes)
        if n not in touched and (first if node.layer is None else node.layer) == layer
    }  # fmt: skip
    return alone | {int(column[e]) for column in (graph.source, graph.target) for e in edges}


def _heading_labels(headings: Sequence[Heading], bands: Bands, layer: int) -> list[Label]:
    """Names of the columns; two words stand below each other."""
    found = []
    for heading in headings:
        words = heading.text.split(" ", 1) if text_width(heading.text, _HEADING) > bands.column - 1 else [heading.text]
        for n, word in enumerate(reversed(words)):
            at = (bands.across(heading.x, layer), bands.tops[layer] - 3 - n * _LEAD)
            found.append(Label(shortened(word, _HEADING, bands.column - 1), at, _HEADING, "muted", "middle"))
    return found


def _titles(graph: FlowGraph, plan: Plan, bands: Bands, spell: Spell) -> list[Label]:
    """Layers above their bands and positions above their rows, where there are several."""
    layers, positions = list(bands.tops), sorted({panel.position for panel in plan.panels})
    if len(layers) == len(positions) == 1:
        return []
    found = []
    for panel in plan.panels:
        is_first = panel.position == positions[0]
        token = graph.info.tokens[panel.position]
        words = [f"Layer {panel.layer}"] if is_first else []
        words += [f"position {panel.position} {spell(visible(token))}"] if len(positions) > 1 else []
        if words:
            y = bands.tops[panel.layer] - 2 * _LEAD - 5 if is_first else bands.down(panel.top, panel.layer) - 2.4
            text = shortened(", ".join(words), _TITLE, 6 * bands.column, is_bold=True)
            found.append(Label(text, (bands.side, y), _TITLE, "ink", is_bold=True))
    return found


def _pill(
    node: Mapping[str, Any], box: tuple[float, float, float, float], theme: ThemeName, spell: Spell
) -> tuple[Pill, list[Label]]:
    ink = pill_ink(node["classes"].split(), theme)
    text, room = spell(node["data"]["lb"]), (box[2] - box[0] - 2 * _INSIDE) / _MEASURE
    size = _TEXT if text_width(text, _TEXT, ink.is_bold) <= room else _LEAST_TEXT
    text = shortened(text, size, room, ink.is_bold)
    at = ((box[0] + box[2]) / 2, baseline((box[1] + box[3]) / 2, size))
    label = Label(text, at, size, ink.text, "middle", ink.is_bold)
    return Pill(box, ink.fill, ink.border, ink.border_width), [label] if text else []


def _lines(
    edges: Sequence[Mapping[str, Any]],
    wanted: Collection[int],
    boxes: Mapping[int, tuple[float, float, float, float]],
    bands: Bands,
    layer: int,
    theme: ThemeName,
) -> list[tuple[int, Line]]:
    """Edges of one band with their height above the page."""
    found = []
    for e in wanted:
        data, classes = edges[e]["data"], edges[e]["classes"].split()
        source, target = (boxes[int(data[end][1:])] for end in ("source", "target"))
        ink = edge_ink(classes, data["o"], theme)
        width = (1.0 if "structural" in classes else data["w"]) * SCALE
        turn = bands.across(data["b"], layer) if "b" in data else None
        for start, end, bend in _way(classes[-1], source, target, turn, width):
            found.append((ink.height, Line(start, end, ink.colour, width, ink.tint, ink.dash, bend)))
    return found


def _way(
    way: str, source: Sequence[float], target: Sequence[float], turn: float | None, width: float
) -> list[tuple[Point, Point, Point | None]]:
    """The pieces of an edge, as the page draws it; level pieces reach round the corners of upright ones."""
    centre_x, centre_y = (source[0] + source[2]) / 2, (source[1] + source[3]) / 2
    end_x, end_y = (target[0] + target[2]) / 2, (target[1] + target[3]) / 2
    start, end = (source[2], centre_y), (target[0], end_y)
    if way == "down":
        return [((centre_x, source[3]), (end_x, target[1]), None)]
    half = width / 2
    if way == "under":
        y = end_y - _BRIDGE * _ROW
        level = ((centre_x - half, y), (end_x + half, y), None)
        return [((centre_x, source[3]), (centre_x, y), None), level, ((end_x, y), (end_x, target[1]), None)]
    if way == "trunk" and turn is not None:
        return [
            (start, (turn + half, start[1]), None),
            ((turn, start[1]), (turn, end[1]), None),
            ((turn - half, end[1]), end, None),
        ]
    if way == "level":
        return [(start, end, None)]
    middle = (start[0] + end[0]) / 2
    centre = (middle, (start[1] + end[1]) / 2)
    return [(start, centre, (middle, start[1])), (centre, end, (middle, end[1]))]
