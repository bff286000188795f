"""The graph itself as shapes: edges, nodes, the lines behind them, and the texts beside the nodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ..scene.elements import Drawing, classes_of, elements
from ..scene.layout import Place
from ..scene.noted import pinned
from .frame import SCALE, Frame
from .ink import ThemeName, style_of
from .labels import Wish
from .shapes import Anchor, Box, Label, Line, Mark, Point, baseline, shortened, text_width

Spell = Callable[[str], str]
MOST_EDGES = 2000
LABEL_SIZE = 6.0
_NUMBER_LEAST = 5.0
_LONGEST = 54.0
_LABELLED_ROW = 12.0
_LAYERS_PER_LINE = 5
_FAINTEST = {"light": 0.0, "print": 0.3}
_MARKS: Mapping[str, Literal["square", "diamond"]] = {"rectangle": "square", "diamond": "diamond"}
_LABEL_CLASSES = {"p3": 3, "p2": 2}


@dataclass(frozen=True, eq=False)
class Content:
    """What of a drawing is on paper: its first edges, and the nodes that they touch.

    Attributes
    ----------
    nodes, edges
        As :func:`flowgraph.render.scene.elements.elements` writes them; nodes by their number, edges from the strongest.
    places
        [N] of all nodes of the drawing.
    theme, spell
        Colours; and how a text is written where not every character can be set.
    """

    nodes: Mapping[int, dict[str, Any]]
    edges: tuple[dict[str, Any], ...]
    places: tuple[Place, ...]
    theme: ThemeName
    spell: Spell

    @classmethod
    def of(cls, drawn: Drawing, theme: ThemeName, spell: Spell) -> Content:
        """The strongest :data:`MOST_EDGES` edges of a drawing."""
        parts = elements(drawn)
        edges = parts["edges"][:MOST_EDGES]
        pins = set(pinned(drawn.graph))
        touched = {edge["data"][end] for edge in edges for end in ("source", "target")}
        nodes = {
            n: node | {"classes": f"{node['classes']} pin"} if n in pins else node
            for n, node in enumerate(parts["nodes"])
            # Level 0: the start, and nodes that no edge of the graph touches.
            if node["data"]["id"] in touched or node["data"]["c"] == 0
        }
        return cls(nodes, tuple(edges), drawn.places, theme, spell)

    def classes(self, tag: Literal["node", "edge"]) -> set[str]:
        """Classes that occur among the nodes or edges."""
        return classes_of(list(self.nodes.values()) if tag == "node" else self.edges)

    def beside(self) -> float:
        """Room in points that the label of the last node needs beside it."""
        goals = [node["data"]["lb"] for node in self.nodes.values() if "lb" in node["data"] and "p3" in node["classes"]]
        return max([0.0, *(min(_LONGEST, text_width(self.spell(goal), LABEL_SIZE, True)) for goal in goals)]) + 9


def scaffold(content: Content, frame: Frame, tokens: int, *, layers: int) -> list[Line]:
    """A line for every token and every five layers, so that long edges can be followed."""
    style = style_of("edge", ("scaffold",), content.theme)
    top = max([float(layers), *(content.places[n].layer for n in content.nodes)])
    ends = [((float(t), 0.0), (float(t), float(layers))) for t in range(tokens)]
    ends += [
        ((0.0, float(y)), (tokens - 1.0, float(y))) for y in range(0, int(top) + 1, _LAYERS_PER_LINE) if tokens > 1
    ]
    return [
        Line(frame.point(Place(*a)), frame.point(Place(*b)), style["line-color"], style["width"] * SCALE * 0.7)
        for a, b in ends
    ]


def edge_line(edge: Mapping[str, Any], ends: tuple[Point, Point], content: Content, *, is_columns: bool) -> Line:
    """One edge; its ends in points."""
    style = style_of("edge", edge["classes"].split(), content.theme)
    data = edge["data"]
    tint = _value(style["line-opacity"], data)
    if "trunk" not in edge["classes"]:
        tint = max(tint, _FAINTEST[content.theme] + (1 - _FAINTEST[content.theme]) * tint)
    bend = None
    if style["curve-style"] == "unbundled-bezier":
        middle = tuple((a + b) / 2 for a, b in zip(*ends, strict=True))
        away = style["control-point-distances"][0] * SCALE
        bend = (middle[0] + away, middle[1]) if is_columns else (middle[0], middle[1] + away)
    width = _value(style["width"], data) * SCALE
    return Line(*ends, style["line-color"], width, tint, style.get("line-style", "solid"), bend)


def edge_shapes(content: Content, frame: Frame) -> tuple[list[Line], list[Mark]]:
    """Edges from the lowest to the uppermost, and dots where attention lands.

    Within one kind the weakest are drawn first, so that none hides a stronger one.
    """
    ranked: list[tuple[int, Line]] = []
    landings: dict[Point, Mark] = {}
    for edge in reversed(content.edges):
        style = style_of("edge", edge["classes"].split(), content.theme)
        source, target = (frame.point(content.places[int(edge["data"][end][1:])]) for end in ("source", "target"))
        line = edge_line(edge, (source, target), content, is_columns=frame.is_columns)
        ranked.append((style["z-index"], line))
        if style.get("target-arrow-shape") == "circle":
            size = max(1.3, 1.35 * line.width)
            landings[target] = Mark("circle", target, size, line.colour, line.colour, 0.0, "solid", line.tint)
    return [line for _, line in sorted(ranked, key=lambda entry: (entry[0], entry[1].width))], list(landings.values())


def node_mark(node: Mapping[str, Any], centre: Point, content: Content, *, states: tuple[str, ...]) -> tuple[int, Mark]:
    """One node and its height above the page; ``states`` are classes of the picture: ``columns``, ``dense``."""
    style = style_of("node", (*node["classes"].split(), *states), content.theme)
    size = _value(style["width"], node["data"]) * SCALE
    width = style["border-width"] * SCALE
    mark = Mark(
        _MARKS.get(style.get("shape", ""), "circle"), centre, size, style["background-color"],
        style["border-color"], width, "fine" if style.get("border-style") == "dashed" else "solid",
    )  # fmt: skip
    return style["z-index"], mark


def node_shapes(content: Content, frame: Frame) -> tuple[list[Mark], list[Label]]:
    """Nodes from the lowest to the uppermost, and the numbers in heads that have room for them."""
    states = frame.states
    found = []
    for n, node in content.nodes.items():
        height, mark = node_mark(node, frame.point(content.places[n]), content, states=states)
        found.append((height, -content.places[n].slot, n, mark))
    found.sort(key=lambda entry: entry[:3])
    marks = [mark for *_, mark in found]
    numbers: list[Label] = []
    above: list[Mark] = []
    for _, _, n, mark in reversed(found):
        classes = content.nodes[n]["classes"].split()
        if "head" not in classes:
            continue
        if "major" in classes and not any(_meet(mark, other) for other in above):
            numbers += _number(content, n, mark, states)
        above.append(mark)
    return marks, numbers


def wishes(content: Content, frame: Frame) -> list[Wish]:
    """Texts that nodes would like beside them: the start and where the target takes the lead first, then sure readings."""
    found = []
    states = frame.states
    for n, node in content.nodes.items():
        classes = node["classes"].split()
        priority = max((_LABEL_CLASSES.get(name, 0) for name in classes), default=0)
        if priority < 3 and not frame.is_columns and frame.token_pitch < _LABELLED_ROW:
            continue  # between narrow rows nobody can tell which a text belongs to
        if not priority or "lb" not in node["data"] or "head" in classes:
            continue
        _, mark = node_mark(node, frame.point(content.places[n]), content, states=states)
        is_goal = "goal" in classes
        text = content.spell(node["data"]["lb"])
        candidates = _candidates(text, mark, frame, is_bold=priority == 3, is_goal=is_goal)
        found.append(Wish(priority + is_goal, candidates, must=priority == 3))
    return found


def _candidates(text: str, mark: Mark, frame: Frame, *, is_bold: bool, is_goal: bool) -> tuple[Label, ...]:
    size = LABEL_SIZE
    text = shortened(text, size, _LONGEST, is_bold)
    (x, y), away = mark.centre, (mark.size + mark.border_width) / 2 + 1.2
    middle = baseline(y, size)
    below, above = middle + 0.55 * size, middle - 0.55 * size
    right: list[tuple[Anchor, Point]] = [("start", (x + away, v)) for v in (below, middle, above)]
    left: list[tuple[Anchor, Point]] = [("end", (x - away, v)) for v in (above, middle)]
    over: list[tuple[Anchor, Point]] = [("middle", (x, v)) for v in (y - away - 0.24 * size, y + away + 0.76 * size)]
    order = [*right, *left] if frame.is_columns else [*over, *right, *left]
    if is_goal:
        order.insert(0, right[1])
    colour = "ink" if is_bold else "muted"
    return tuple(Label(text, at, size, colour, anchor, is_bold) for anchor, at in order)


def _number(content: Content, n: int, mark: Mark, states: tuple[str, ...]) -> list[Label]:
    node = content.nodes[n]
    style = style_of("node", (*node["classes"].split(), *states), content.theme)
    size, text = max(_NUMBER_LEAST, style["font-size"] * SCALE), node["data"]["lb"]
    # The measure is that of the widest font; digits in any other have a little more room.
    if 0.9 * text_width(text, size) > mark.size - mark.border_width:
        return []
    return [Label(text, (mark.centre[0], baseline(mark.centre[1], size)), size, style["color"], "middle")]


def _meet(one: Mark, other: Mark) -> bool:
    a, b = _inner(one), _inner(other)
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _inner(mark: Mark) -> Box:
    """Where a number may stand: diamonds that touch at their corners do not hide one another's."""
    if mark.shape != "diamond":
        return mark.box()
    (x, y), away = mark.centre, mark.size / 3
    return x - away, y - away, x + away, y + away


def _value(value: Any, data: Mapping[str, Any]) -> float:
    """A number of the stylesheet, or the element's own, as ``data(w)`` says."""
    return float(data[value[5:-1]] if isinstance(value, str) else value)
