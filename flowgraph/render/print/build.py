"""Put a picture together: the graph, its axes, the labels that found a place, the legend, the caption."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...charts.text import printable
from ...errors import ArgumentError
from ...values.effects import is_picture_of_parts
from ...values.flow_graph import FlowGraph
from ...values.graph_axes import column_of, columns, heights, is_circuit, stack_spans
from ...values.node import Node
from ..page.semantic_page import statements
from ..scene.elements import Drawing, drawing
from ..scene.layout import extent
from ..scene.noted import group_sizes
from ..words.caption import caption, mass_of, model_text, percent, prompt_text
from .axes import layer_ticks, stack_names, token_ticks
from .content import Content, Spell, edge_shapes, node_shapes, scaffold, wishes
from .frame import COLUMN_WIDTHS, PAD, Frame, Needs, frame
from .ink import THEMES, ThemeName, palette
from .labels import Ground
from .legend import Group, flow_groups, legend_shapes
from .semantic import semantic_shapes
from .semantic_ink import pill_palette, semantic_groups
from .shapes import Box, Label, Line, Picture, Pill, Plate, Shape, corners, wrapped

_SEMANTIC = frozenset({"semantic", "visit"})
_WRITERS = frozenset({"head", "attn", "cross_head", "cross_attn", "neuron", "mlp"})
_MOST_GROUPS = 12
_CAPTION_SIZE, _CAPTION_LEAD = 6.0, 8.0
_NARROWEST, _WIDEST = 100.0, 5000.0


@dataclass(frozen=True, slots=True)
class Look:
    """How a picture is made.

    Attributes
    ----------
    width
        ``"one-column"`` (3.25 in), ``"two-column"`` (6.75 in) or points. The height follows from the graph.
    theme
        ``"light"``, or ``"print"`` in black and greys.
    legend, caption
        Whether to set below what colours, shapes and widths mean, and the caption.

    Raises
    ------
    ArgumentError
        If the width or theme is none of these.
    """

    width: str | int | float = "two-column"
    theme: ThemeName = "light"
    legend: bool = True
    caption: bool = False

    def __post_init__(self) -> None:
        if self.theme not in THEMES:
            raise ArgumentError(f"theme={self.theme!r}; expected one of {', '.join(map(repr, THEMES))}")
        is_number = isinstance(self.width, int | float) and not isinstance(self.width, bool)
        if self.width not in COLUMN_WIDTHS and not (is_number and _NARROWEST <= self.points <= _WIDEST):
            names = ", ".join(map(repr, COLUMN_WIDTHS))
            raise ArgumentError(
                f"width={self.width!r}; expected {names} or a number of points in {_NARROWEST:g}…{_WIDEST:g}"
            )

    @property
    def points(self) -> float:
        """The width in points."""
        return COLUMN_WIDTHS[self.width] if isinstance(self.width, str) else float(self.width)


def picture(graph: FlowGraph, look: Look = Look(), spell: Spell = str) -> Picture:
    """Shapes of a flow graph on paper.

    Parameters
    ----------
    graph
        Any graph; of flow with more than :data:`MOST_EDGES` edges the strongest are drawn, and the caption says so.
    look
        Width, theme, and what stands below.
    spell
        How a text from the graph is written in a format that cannot set every character.

    Raises
    ------
    ArgumentError
        If the graph does not fit into the width, or a semantic one would be higher than two pages.
    """
    points = look.points
    drawn = _semantic(graph, look, spell) if is_semantic(graph) else _flow(graph, look, spell)
    shapes, bottom = [*drawn.shapes], drawn.bottom
    if look.legend:
        more, bottom = legend_shapes(drawn.groups, points, bottom + PAD)
        shapes += more
    text = " · ".join([caption(graph), *drawn.notes])
    if look.caption:
        lines, bottom = caption_lines(spell(text), points, bottom)
        shapes += lines
    title = f"{model_text(graph.info)}: {prompt_text(graph.info, 60)}"
    colours = palette(THEMES[look.theme]) | pill_palette(look.theme)
    return Picture(
        points, round(bottom + PAD, 2), tuple(shapes), colours, title, text, printable(graph.info.provenance_text)
    )


def caption_lines(text: str, width: float, top: float) -> tuple[list[Label], float]:
    """A caption in lines of a page ``width`` points wide, set below ``top``, and where it ends."""
    lines = [
        Label(line, (PAD, top + PAD + (n + 1) * _CAPTION_LEAD), _CAPTION_SIZE, "ink")
        for n, line in enumerate(wrapped(text, width - 2 * PAD, _CAPTION_SIZE))
    ]
    return lines, top + PAD + len(lines) * _CAPTION_LEAD


def is_semantic(graph: FlowGraph) -> bool:
    """Whether a graph is text in columns rather than flow between states."""
    return graph.info.method in _SEMANTIC


@dataclass(frozen=True, slots=True)
class _Drawn:
    """The graph on paper and where it ends, what the legend explains, and what the caption adds."""

    shapes: Sequence[Shape]
    bottom: float
    groups: Sequence[Group]
    notes: Sequence[str]


def _flow(graph: FlowGraph, look: Look, spell: Spell) -> _Drawn:
    drawn = drawing(graph)
    content = Content.of(drawn, look.theme, spell)
    ticks = tuple(spell(name) for name in columns(graph))
    needs = Needs(
        drawn.places,
        extent(drawn.graph, drawn.places),
        ticks,
        heights(graph),
        content.beside(),
        tuple(name for name, *_ in stack_spans(graph)),
    )
    fitted = frame(needs, look.points)
    shapes, lost = _graph_shapes(content, fitted, ticks, graph)
    bottom = max(_bottom(shape) for shape in shapes) + PAD if shapes else fitted.ground
    return _Drawn(
        shapes,
        bottom,
        flow_groups(content, drawn, fitted),
        _left_out(graph, drawn, content, lost),
    )


def _semantic(graph: FlowGraph, look: Look, spell: Spell) -> _Drawn:
    shapes, bottom = semantic_shapes(graph, look.points, look.theme, spell=spell)
    inner = [node for node in graph.nodes if node.kind in _WRITERS]
    places = sorted({(n.layer, n.position) for n in inner if n.layer is not None and n.position is not None})
    notes = []
    for layer, position in places:
        said = " ".join(statements(graph, layer, position))
        notes.append(f"layer {layer} at position {position}: {said}" if len(places) > 1 else said)
    return _Drawn(shapes, bottom, semantic_groups(graph, look.theme, spell), [note for note in notes if note])


def _graph_shapes(content: Content, fitted: Frame, ticks: Sequence[str], graph: FlowGraph) -> tuple[list[Shape], int]:
    """The graph with its axes, and the number of labels that found no place."""
    first, end = heights(graph)
    explained = -1 if is_circuit(graph) else column_of(graph, Node("logits", position=graph.info.position))
    axes = token_ticks(content, fitted, ticks, target=explained) + layer_ticks(fitted, first, end)
    named, brackets = stack_names(fitted, axes, stack_spans(graph))
    lines, landings = edge_shapes(content, fitted)
    marks, numbers = node_shapes(content, fitted)
    # Left of where the axis ends its labels are alone.
    ground = Ground((fitted.side + 1.0, 1.0, fitted.width - 1.0, fitted.ground))
    ground.boxes += [mark.box() for mark in marks] + [label.box() for label in axes if not label.angle]
    ground.take_lines(lines)
    wanted = wishes(content, fitted)
    labels = ground.place(wanted)
    plates = [Plate(_behind(label)) for label in labels]
    behind = scaffold(content, fitted, len(ticks), layers=end - first)
    return [*behind, *lines, *landings, *plates, *marks, *numbers, *labels, *axes, *brackets, *named], len(
        wanted
    ) - len(labels)


def _behind(label: Label) -> Box:
    """Where a text is in most fonts, rather than where it is at most: what is behind it should not be cut for nothing."""
    left, top, right, bottom = label.box()
    spare = 0.09 * (right - left)
    ends = {"start": (0.0, spare), "middle": (spare / 2, spare / 2), "end": (spare, 0.0)}[label.anchor]
    return left + ends[0] - 0.5, top + 0.05 * label.size, right - ends[1] + 0.5, bottom - 0.04 * label.size


def _bottom(shape: Shape) -> float:
    match shape:
        case Label():
            return max(y for _, y in corners(shape))
        case Line():
            return max(shape.start[1], shape.end[1])
        case Plate() | Pill():
            return shape.box[3]
        case _:
            return shape.box()[3]


def _left_out(graph: FlowGraph, drawn: Drawing, content: Content, lost: int) -> list[str]:
    notes = []
    if len(content.edges) < len(graph):
        mass = f", {percent(float(drawn.mass[len(content.edges) - 1]))} {mass_of(graph)}"
        held = "" if is_picture_of_parts(graph) else mass
        notes.append(f"drawn: the strongest {len(content.edges):,} of {len(graph):,} edges{held}")
    if lost:
        notes.append(f"{lost:,} node label{'s' if lost > 1 else ''} left out for want of room")
    groups = [f"{printable(name)} ({size:,})" for name, size in group_sizes(drawn.graph).items()]
    if groups:
        notes.append(
            f"groups of nodes in the file: {', '.join(groups[:_MOST_GROUPS])}{', …' * (len(groups) > _MOST_GROUPS)}"
        )
    return notes
