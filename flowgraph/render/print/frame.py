"""How large a picture is and where its nodes stand: :mod:`flowgraph.render.scene.layout` with margins that its texts need.

A page of paper has a width and little more, so the width is given and the height follows from the graph. Tokens are columns
while each has room to be told apart, otherwise rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise

from ...errors import ArgumentError
from ..scene.layout import LAYOUT, Extent, Geometry, Place
from .shapes import Point, text_width

SCALE = 0.6
"""Points per pixel of the page: its text of 10 px is 6 points on paper, the least that journals print."""
COLUMN_WIDTHS = {"one-column": 234.0, "two-column": 486.0}
"""3.25 and 6.75 in, in points."""
AXIS_SIZE, LAYER_SIZE = 7.0, 6.0
LONGEST_TICK = 58.0
PAD = 4.0

_EDGE = 3.0
_COLUMN_LEAST, _COLUMN_TIGHT = 34.0, 11.0
_LAYER_LEAST, _LAYER_FAIR, _LAYER_HEADS, _LAYER_MOST = 7.0, 13.0, 22.0, 40.0
_ROW_LEAST, _ROW_FAIR, _ROW_MOST = 7.0, 13.0, 40.0
_DENSE, _DENSE_HEADS = 16.5, 30.0
_END, _NAME = 8.0, 18.0
_TALL, _FULL = 0.72, 560.0
_NARROW, _NARROW_TALL = 300.0, 1.15


@dataclass(frozen=True, slots=True)
class Needs:
    """What a picture must hold.

    Attributes
    ----------
    places
        Of all its nodes.
    room
        Extent of the graph.
    ticks
        [T] texts of the tokens on their axis.
    layers
        First and one past the last layer.
    beside
        Room in points right of the last node, for its label.
    stacks
        Names of several stacks, which stand beside their tokens; some of their blocks attend twice. Empty for one stack.
    """

    places: tuple[Place, ...]
    room: Extent
    ticks: tuple[str, ...]
    layers: tuple[int, int]
    beside: float
    stacks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Frame:
    """A geometry with its margins.

    Attributes
    ----------
    geometry
        In pixels of the page; :meth:`point` is in points.
    width, ground
        Points: width of the picture, and where the graph ends and the axis below it begins.
    side
        Points: where the labels of the axis on the left end.
    angle
        Degrees by which the tokens below the columns are turned.
    is_dense
        Whether nodes are drawn small.
    """

    geometry: Geometry
    width: float
    ground: float
    side: float
    angle: float
    is_dense: bool

    @property
    def is_columns(self) -> bool:
        """Whether tokens are columns."""
        return self.geometry.orientation == "columns"

    @property
    def states(self) -> tuple[str, ...]:
        """Classes that all nodes have on top of their own."""
        return (self.geometry.orientation, *(("dense",) if self.is_dense else ()))

    def point(self, place: Place) -> Point:
        """Points from the upper left corner."""
        x, y = self.geometry.pixel(place)
        return x * SCALE, y * SCALE

    @property
    def token_pitch(self) -> float:
        """Points from one token to the next."""
        return self.geometry.token_pitch * SCALE

    @property
    def layer_pitch(self) -> float:
        """Points from one layer to the next."""
        return self.geometry.layer_pitch * SCALE


def frame(needs: Needs, width: float) -> Frame:
    """Fit a picture into ``width`` points.

    Raises
    ------
    ArgumentError
        If neither the tokens nor the layers fit side by side.
    """
    column = _column_pitch(needs, width)
    layer = _row_layer_pitch(needs, width)
    if column >= _COLUMN_LEAST or (layer < _LAYER_LEAST and column >= _COLUMN_TIGHT):
        return _columns(needs, width, column)
    if layer >= _LAYER_LEAST:
        return _rows(needs, width, layer)
    least = min(
        width + (_COLUMN_TIGHT - column) * SCALE * (needs.room.tokens - 1),
        width + (_LAYER_LEAST - layer) * SCALE * _depth(needs, "rows"),
    )
    raise ArgumentError(
        f"width={width:g} points is too narrow for {len(needs.ticks)} tokens and {needs.room.layers:.0f} layers; "
        f"give width={math.ceil(least + 1)} or more, or draw fewer layers"
    )


def _columns(needs: Needs, width: float, pitch: float) -> Frame:
    first = Geometry(
        "columns", min(pitch, float(LAYOUT["columns"]["token_pitch"][1])), _column_layer_pitch(needs, width), 0.0, 0.0
    )
    side = _gutter(needs) * SCALE - PAD
    used = (
        _gutter(needs)
        + _overhang(needs, first)
        + max(
            (len(needs.ticks) - 1) * first.token_pitch + _beside(needs),
            (needs.room.tokens - 1) * first.token_pitch + _END,
        )
    )
    spare = max(0.0, width / SCALE - used)
    # A picture that does not need its width stands in the middle, labels of the layers included.
    left = _gutter(needs) + _overhang(needs, first) + spare / 2
    top = _EDGE / SCALE + 8 + needs.room.layers * first.layer_pitch
    is_dense = first.layer_pitch < _DENSE
    if needs.room.slots > 1:
        is_dense = first.layer_pitch < _DENSE_HEADS or first.token_pitch < LAYOUT["readable_pitch"]
    geometry = replace(first, left=left, top=top)
    angle = _angle(needs, geometry)
    return Frame(geometry, width, top * SCALE + PAD + 1, side + spare / 2 * SCALE, angle, is_dense)


def _rows(needs: Needs, width: float, layer_pitch: float) -> Frame:
    rows = LAYOUT["rows"]
    layer = min(layer_pitch, 2 * _LAYER_MOST)
    most = _FULL / SCALE / needs.room.tokens
    wanted = _TALL * width / SCALE / needs.room.tokens
    low = max(_ROW_LEAST, min(_ROW_FAIR, most))
    token = min(_ROW_MOST, max(low, min(wanted, most)))
    first = Geometry("rows", token, layer, 0.0, 0.0)
    top = _EDGE / SCALE + max(_NAME if needs.stacks else 8.0, _overhang(needs, first) + 5)
    left = _gutter_rows(needs) + 0.2 * layer
    spare = max(0.0, width / SCALE - left - (needs.room.layers + rows["after"]) * layer - _beside(needs))
    ground = (top + (needs.room.tokens - 1) * token) * SCALE + 2 * PAD
    side = _gutter_rows(needs) * SCALE - PAD + spare / 2 * SCALE
    return Frame(replace(first, left=left + spare / 2, top=top), width, ground, side, 0.0, min(token, layer) < _DENSE)


def _gutter(needs: Needs) -> float:
    last = max(needs.layers[1] - 1, 0)
    return (_EDGE + text_width(f"L{last}", LAYER_SIZE) + PAD) / SCALE + 4


def _gutter_rows(needs: Needs) -> float:
    longest = max((text_width(tick, AXIS_SIZE, is_bold=True) for tick in needs.ticks), default=0.0)
    named = max((text_width(name, LAYER_SIZE) for name in needs.stacks), default=0.0)
    return (_EDGE + max(min(LONGEST_TICK, longest), named) + PAD) / SCALE


def _beside(needs: Needs) -> float:
    return (needs.beside + _EDGE) / SCALE


def _overhang(needs: Needs, geometry: Geometry) -> float:
    """How far nodes stand out before the first token's line, in pixels."""
    along = 0 if geometry.orientation == "columns" else 1
    return max([0.0, *(-geometry.pixel(place)[along] for place in needs.places)]) + 4


def _column_pitch(needs: Needs, width: float) -> float:
    free = width / SCALE - _gutter(needs)
    # Texts stand beside the last token; biases have a column of their own, which may lie further out.
    ends = [(len(needs.ticks) - 1, _beside(needs)), (needs.room.tokens - 1, _END)]
    pitch = _COLUMN_LEAST
    for _ in range(4):  # nodes beside the first column stand out further the wider the columns are
        out = _overhang(needs, Geometry("columns", pitch, 1.0, 0.0, 0.0))
        pitch = max(1.0, min((free - out - beside) / max(steps, 1e-9) for steps, beside in ends))
    return pitch


def _column_layer_pitch(needs: Needs, width: float) -> float:
    depth = _depth(needs, "columns")
    wanted = (_NARROW_TALL if width <= _NARROW else _TALL) * width
    fair = _LAYER_HEADS if needs.room.slots > 1 else _LAYER_FAIR
    most = max(_LAYER_LEAST, _FULL / SCALE / depth)
    return min(max(wanted / SCALE / depth, fair), most, _LAYER_MOST * (1.6 if needs.stacks else 1.0))


def _row_layer_pitch(needs: Needs, width: float) -> float:
    return (width / SCALE - _gutter_rows(needs) - _beside(needs)) / (_depth(needs, "rows") + 0.2)


def _depth(needs: Needs, orientation: str) -> float:
    return needs.room.layers + float(LAYOUT[orientation]["above" if orientation == "columns" else "after"])


def _angle(needs: Needs, geometry: Geometry) -> float:
    """Tokens below columns lie flat where all have room, or lean, or stand."""
    pitch = geometry.token_pitch * SCALE
    widths = [min(LONGEST_TICK, text_width(tick, AXIS_SIZE, is_bold=True)) for tick in needs.ticks]
    left = geometry.left * SCALE
    flat = all((a + b) / 2 + 3 <= pitch for a, b in pairwise(widths))
    if flat and all(width / 2 + _EDGE <= left for width in widths[:1]):
        return 0.0
    lean = math.sin(math.radians(45))
    leans = pitch * lean >= 1.2 * AXIS_SIZE and all(w * lean <= left + n * pitch - _EDGE for n, w in enumerate(widths))
    return 45.0 if leans else 90.0
