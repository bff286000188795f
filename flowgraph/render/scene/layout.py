"""Where nodes stand: one formula for the page and for every exported picture.

A node has a :class:`Place` in units of tokens and layers, which depends on the graph alone. A :class:`Geometry` turns
places into pixels for a stage of a given size. The page repeats :meth:`Geometry.fit` and :meth:`Geometry.pixel` when
its window changes, from the same :data:`LAYOUT` numbers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ...errors import ArgumentError
from ...values.flow_graph import FlowGraph
from ...values.graph_axes import circuit_column, column_of, columns, exchanges, heights, is_circuit, raised, stack_spans
from ...values.node import NODE_KINDS, Node

Orientation = Literal["columns", "rows"]

# Pixels at zoom 1 unless the name says otherwise.
LAYOUT: Mapping[str, Any] = {
    "readable_pitch": 52,
    "slot": {"first": 13, "columns": 0.3, "rows": 0.42, "step": 16, "crowded": 0.2, "gap": 14},
    "columns": {
        "token_pitch": (14, 150), "layer_pitch": 18, "lead": 0.6, "lead_heads": 1.3, "above": 0.4,
        "margin": {"left": 44, "right": 64, "top": 26, "bottom": 36}, "dense": {"top": 12, "bottom": 68},
    },
    "rows": {
        "token_pitch": (12, 40), "layer_pitch": 18, "lead": 0.5, "lead_heads": 1.2, "after": 0.4,
        "margin": {"left": 104, "right": 72, "top": 24, "bottom": 26},
    },
}  # fmt: skip

_ABOVE_BLOCK = {
    "resid_pre": 0.0, "attn_norm": 0.08, "qkv": 0.14, "query": 0.2, "key": 0.2, "value": 0.26, "head_rest": 0.3,
    "attn": 0.33, "head": 0.33, "kv_group": 0.33, "attn_rest": 0.33, "concat_heads": 0.38, "row": 0.42, "attn_bias": 0.5,
    "attn_norm_bias": 0.58, "resid_mid": 0.66, "mlp_norm": 0.72, "gate": 0.78, "neuron_in": 0.78, "mlp_bias_in": 0.78,
    "mlp": 0.87, "neuron": 0.87, "mlp_rest": 0.87, "mlp_bias": 0.87, "mlp_norm_bias": 0.94, "resid_post": 1.0,
    "resid_cross": 0.36, "cross_head": 0.55, "cross_kv_group": 0.55, "cross_bias": 0.62,
    "cross_norm": 0.42, "cross_query": 0.46, "cross_key": 0.46, "cross_value": 0.5, "cross_head_rest": 0.52, "cross_rest": 0.55,
    "cross_attn": 0.55, "cross_row": 0.6, "cross_norm_bias": 0.64, "mixer": 0.33, "attn_feature": 0.33, "attn_error": 0.33, "feature": 0.87, "mlp_error": 0.87,
    "expert": 0.77, "shared_expert": 0.77, "sink": 0.22,
}  # fmt: skip
_BEFORE_CROSS = {"head": 0.22, "kv_group": 0.22, "attn": 0.22, "attn_bias": 0.28}
"""The same in a block that attends twice, so that its heads do not stand on one another."""
_CROSS_FIRST = {"cross_head": 0.2, "cross_bias": 0.27, "head": 0.5, "attn": 0.5, "attn_bias": 0.58}
"""The same where blocks read another stack before their own."""
_ABOVE_TOP = {"final_norm": 0.1, "final_norm_bias": 0.2, "unembed_bias": 0.5, "logit": 0.6, "logits": 0.6}
_ON_THE_LINE = frozenset(
    {"embed", "resid_pre", "resid_cross", "resid_mid", "resid_post", "final_norm", "logit", "logits"}
)
_BIASES = frozenset({"attn_bias", "cross_bias", "mlp_bias", "final_norm_bias", "unembed_bias"})
_BESIDE = frozenset(NODE_KINDS) - _ON_THE_LINE - _BIASES
_BIAS_COLUMN = 0.5


@dataclass(frozen=True, slots=True)
class Place:
    """A node's place in units.

    Attributes
    ----------
    token
        Along the tokens, 0 at the first.
    layer
        Along the depth, 0 where the first layer of the graph begins.
    slot, slots
        0 on the token's line; otherwise the ``slot``-th of ``slots`` places beside it, 1 being the nearest.
    """

    token: float
    layer: float
    slot: int = 0
    slots: int = 1


@dataclass(frozen=True, slots=True)
class Extent:
    """How much room a graph needs: tokens and layers in units, and the most places beside one line."""

    tokens: float
    layers: float
    slots: int


def places(graph: FlowGraph, strength: Sequence[float]) -> tuple[Place, ...]:
    """[N] places of a graph's nodes.

    Parameters
    ----------
    graph
        Biases without a position stand in a slim column of their own, right of the target position.
    strength
        [N] the strongest of several nodes that share a place beside a line stands nearest to it.
    """
    if is_circuit(graph):
        return _circuit_places(graph)
    bases = [_base(node, graph) for node in graph.nodes]
    rivals: dict[tuple[float, float], list[int]] = defaultdict(list)
    for n, node in enumerate(graph.nodes):
        if node.kind in _BESIDE:
            rivals[bases[n]].append(n)
    slots = {}
    for group in rivals.values():
        for slot, n in enumerate(sorted(group, key=lambda n: (-strength[n], n)), start=1):
            slots[n] = (slot, len(group))
    slots |= _beside_the_target(graph, bases, strength)
    return tuple(Place(*base, *slots.get(n, (0, 1))) for n, base in enumerate(bases))


def _beside_the_target(
    graph: FlowGraph, bases: Sequence[tuple[float, float]], strength: Sequence[float]
) -> dict[int, tuple[int, int]]:
    """Slots of logits that would stand on another one: the target keeps the line, or the strongest where it is not there."""
    logits: dict[tuple[float, float], list[int]] = defaultdict(list)
    for n, node in enumerate(graph.nodes):
        if node.kind == "logit":
            logits[bases[n]].append(n)
    found: dict[int, tuple[int, int]] = {}
    for group in logits.values():
        group.sort(key=lambda n: (graph.nodes[n].index != graph.info.target, -strength[n], n))
        found |= {n: (slot, len(group) - 1) for slot, n in enumerate(group[1:], start=1)}
    return found


def extent(graph: FlowGraph, placed: Sequence[Place]) -> Extent:
    """Room that a graph needs; every token of the prompt and every layer counts, drawn or not."""
    first, end = heights(graph)
    wide = len(columns(graph))
    return Extent(
        tokens=max([float(wide), *(place.token + 1 for place in placed if place.token > wide - 1)]),
        layers=max([float(end - first), *(place.layer for place in placed)]),
        slots=max([1, *(place.slots for place in placed)]),
    )


def _circuit_places(graph: FlowGraph) -> tuple[Place, ...]:
    """A column for each number of a head, the embedding and the logits between two, so that no edge of theirs runs through a head."""
    first, end = graph.info.layers
    names = columns(graph)
    column = {name: float(n) for n, name in enumerate(names)}
    spans = {None if name == "decoder" else name: (start, stop) for name, start, stop in stack_spans(graph)}
    found = []
    for node in graph.nodes:
        if node.layer is None:
            start, stop = spans.get(node.stack, (0, len(names) - 1))
            middle = start + max(0, (stop - start) // 2) + 0.5
            found.append(Place(middle, 0.0 if node.kind == "embed" else end - first + _ABOVE_TOP["logit"]))
        else:
            above = _BEFORE_CROSS if graph.info.stacks and node.stack is None else {}
            height = above.get(node.kind, _ABOVE_BLOCK[node.kind])
            found.append(Place(column[circuit_column(node)], node.layer - first + height))
    return tuple(found)


def _base(node: Node, graph: FlowGraph) -> tuple[float, float]:
    first, end = graph.info.layers
    in_bias_column = node.kind in _BIASES and node.position is None
    token = column_of(graph, node) + (_BIAS_COLUMN if in_bias_column else 0.0)
    above = raised(graph, node.stack)
    if node.layer is not None:
        twice = _BEFORE_CROSS if graph.info.stacks and node.stack is None else {}
        twice = _CROSS_FIRST if exchanges(graph) else twice
        return token, above + node.layer - first + twice.get(node.kind, _ABOVE_BLOCK[node.kind])
    return token, above + (end - first + _ABOVE_TOP[node.kind] if node.kind in _ABOVE_TOP else 0.0)


@dataclass(frozen=True, slots=True)
class Geometry:
    """Pixels per token and per layer, and where token 0 and layer 0 are on the stage."""

    orientation: Orientation
    token_pitch: float
    layer_pitch: float
    left: float
    top: float

    @classmethod
    def fit(cls, room: Extent, width: float, height: float, orientation: Orientation | None = None) -> Geometry:
        """Geometry for a stage of ``width`` × ``height`` px.

        Tokens are columns while a column gets 52 px, otherwise rows, unless ``orientation`` decides. Pitches have
        least values: a very long prompt or deep model is larger than the stage, with its end in view.

        Raises
        ------
        ArgumentError
            If the stage has no size.
        """
        if width <= 0 or height <= 0:
            raise ArgumentError(f"the stage is {width} × {height} px; both must be more than 0")
        pitch = _column_pitch(room, width)
        is_wide = pitch >= LAYOUT["readable_pitch"]
        chosen = orientation or ("columns" if is_wide else "rows")
        if chosen == "rows":
            return cls._rows(room, width, height)
        return cls._columns(room, width, height, is_wide)

    @classmethod
    def _columns(cls, room: Extent, width: float, height: float, is_wide: bool) -> Geometry:
        columns = LAYOUT["columns"]
        margin = columns["margin"] | ({} if is_wide else columns["dense"])
        low, high = columns["token_pitch"]
        token = min(high, max(low, _column_pitch(room, width)))
        layer = max(
            columns["layer_pitch"],
            (height - margin["top"] - margin["bottom"]) / (room.layers + columns["above"]),
        )
        lead = 0.7 * _lead(room, "columns") * token
        slack = width - margin["left"] - margin["right"] - lead - (room.tokens - 1) * token
        left = margin["left"] + lead + (slack / 2 if slack > 0 else slack)
        bottom = height - margin["bottom"] - 0.25 * layer
        top = max(bottom, margin["top"] + room.layers * layer)
        return cls("columns", float(token), float(layer), float(left), float(top))

    @classmethod
    def _rows(cls, room: Extent, width: float, height: float) -> Geometry:
        rows = LAYOUT["rows"]
        margin = rows["margin"]
        low, high = rows["token_pitch"]
        lead = _lead(room, "rows")
        count = room.tokens - 0.5 + lead
        token = min(high, max(low, (height - margin["top"] - margin["bottom"]) / count))
        layer = max(rows["layer_pitch"], (width - margin["left"] - margin["right"]) / (room.layers + rows["after"]))
        slack = height - margin["top"] - margin["bottom"] - count * token
        top = margin["top"] + lead * token + min(0.0, slack)
        left = min(margin["left"] + 0.2 * layer, width - margin["right"] - room.layers * layer)
        return cls("rows", float(token), float(layer), float(left), float(top))

    def pixel(self, place: Place) -> tuple[float, float]:
        """(x, y) px of a place on the stage, y downwards."""
        aside = self._aside(place)
        if self.orientation == "columns":
            return self.left + place.token * self.token_pitch - aside, self.top - place.layer * self.layer_pitch
        return self.left + place.layer * self.layer_pitch, self.top + place.token * self.token_pitch - aside

    def _aside(self, place: Place) -> float:
        """Distance of a place from its token's line: to the left of a column, above a row."""
        if not place.slot:
            return 0.0
        slot = LAYOUT["slot"]
        first = min(slot["first"], slot[self.orientation] * self.token_pitch)
        room = max(0.0, self.token_pitch - first - slot["gap"])
        away = (place.slot - 1) * slot["step"]
        # The strongest come first: they get their full distance, and those that would meet the next line crowd.
        return float(first + min(away, room) + max(0.0, away - room) * slot["crowded"])


def _lead(room: Extent, orientation: Orientation) -> float:
    """Room before the first token's line, in pitches: for the squares and heads beside it."""
    return float(LAYOUT[orientation]["lead_heads" if room.slots > 1 else "lead"])


def _column_pitch(room: Extent, width: float) -> float:
    margin = LAYOUT["columns"]["margin"]
    return float((width - margin["left"] - margin["right"]) / (room.tokens - 1 + _lead(room, "columns")))
