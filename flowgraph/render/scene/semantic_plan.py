"""The places of a semantic graph: columns once, then each panel's blocks, then what stands on and around the residual lines."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from ...values.flow_graph import UNITS, FlowGraph
from ...values.node import OWN, Node
from .semantic_layout import Heading, Panel, Plan, Spot

MOST_SPREAD = 1.5

_PILL, _SMALL = 0.86, 0.5


class _Stage(NamedTuple):
    """One column of a panel; ``clear`` is the free room before it, in columns."""

    name: str
    heading: str
    width: float
    clear: float


# Before what attention and the MLP add there is more room: many edges end there.
_STAGES = (
    _Stage("embed", "embedding", _PILL, 0.0),
    _Stage("state", "state", _PILL, 0.16),
    _Stage("attn_norm", "", _SMALL, 0.1),
    _Stage("qkv", "", _SMALL, 0.1),
    _Stage("query", "query", _PILL, 0.2),
    _Stage("key", "source (key)", _PILL, 0.22),
    _Stage("value", "value writes", _PILL, 0.14),
    _Stage("head", "head writes", _PILL, 0.2),
    _Stage("concat_heads", "heads joined", _PILL, 0.36),
    _Stage("row", "row of W_O", _PILL, 0.2),
    _Stage("attn", "attention", _PILL, 0.36),
    _Stage("cross_norm", "", _SMALL, 0.12),
    _Stage("cross_query", "cross query", _PILL, 0.2),
    _Stage("cross_key", "encoder (key)", _PILL, 0.22),
    _Stage("cross_value", "value writes", _PILL, 0.14),
    _Stage("cross_head", "cross head", _PILL, 0.2),
    _Stage("cross_row", "row of W_O", _PILL, 0.2),
    _Stage("cross_attn", "cross", _PILL, 0.36),
    _Stage("mlp_norm", "", _SMALL, 0.12),
    _Stage("gate", "gate reads", _PILL, 0.2),
    _Stage("neuron_in", "up reads", _PILL, 0.2),
    _Stage("neuron", "neuron writes", _PILL, 0.14),
    _Stage("mlp", "MLP", _PILL, 0.36),
)
_OUT_CLEAR = 0.26
_AFTER_GATE = 0.14
_STAGE_OF = {
    "embed": "embed", "position_embed": "embed", "resid_pre": "state", "resid_post": "state", "resid_mid": "attn", "resid_cross": "attn",
    "cross_head_rest": "cross_value", "cross_bias": "cross_head", "cross_norm_bias": "cross_head", "cross_rest": "cross_head",
    "head_rest": "value", "attn_bias": "head", "attn_norm_bias": "head", "attn_rest": "head",
    "kv_group": "head", "cross_kv_group": "cross_head", "mixer": "head", "attn_feature": "head", "attn_error": "head", "feature": "neuron", "mlp_error": "neuron",
    "mlp_rest": "neuron", "mlp_bias": "neuron", "mlp_norm_bias": "neuron", "mlp_bias_in": "neuron_in",
    "expert": "neuron", "shared_expert": "neuron", "sink": "value",
}  # fmt: skip
_NARROW = frozenset({"resid_mid", "resid_cross", "attn_norm", "cross_norm", "mlp_norm", "qkv"})
_RESID = frozenset({"resid_pre", "resid_post"})
_STATES = _RESID | {"embed", "position_embed"}
_ENDS = {"final_norm": 1, "final_norm_bias": 1, "unembed_bias": 2, "logit": 2, "logits": 2}
_NORM_BIASES = frozenset({"attn_norm_bias", "cross_norm_bias", "mlp_norm_bias"})
_GROUP_GAP, _LINE_GAP, _NORM_BIAS_GAP, _ROW_GAP = 0.25, 1.5, 2.7, 1.4
_ABOVE_LINE = 1.2
_END_STEP = _PILL + 0.18
_LEAST_ROWS = 4.0


class _Block(NamedTuple):
    """Rows of nodes, from the top of their block, and how many rows they take."""

    y: dict[int, float]
    rows: float


def plan_of(graph: FlowGraph) -> Plan:
    """Places of a semantic graph; they depend on the graph alone, and a graph of any of its edges has places too."""
    return _Planner(graph).plan()


def strengths(graph: FlowGraph) -> list[float]:
    """[N] |share| that each node has in what it is a part of; 0 for what is no part of anything."""
    unit, found = UNITS.index("contribution"), [0.0] * len(graph.nodes)
    for e, n in enumerate(graph.source.tolist()):
        if graph.unit is not None and graph.unit[e] == unit:
            found[n] = max(found[n], abs(float(graph.share[e])))
    return found


class _Planner:
    """Lays out one graph: columns once, then each panel, then what stands on and around the residual lines."""

    def __init__(self, graph: FlowGraph) -> None:
        self.graph, self.strength = graph, strengths(graph)
        self.first, self.stop = graph.info.layers
        inner = [node for node in graph.nodes if node.layer is not None and node.kind not in _STATES]
        self.rows = sorted({node.position for node in inner if node.position is not None}) or [graph.info.position]
        self.crosses = any(node.kind == "cross_attn" for node in graph.nodes)
        self.x, self.step = self._columns()
        self.members: dict[tuple[int, int], list[int]] = defaultdict(list)
        for n, node in enumerate(graph.nodes):
            if node.kind not in _STATES and node.kind not in _ENDS:
                position = graph.info.position if node.position is None else node.position
                self.members[node.layer or 0, position].append(n)
        self.sources = self._sources()
        self.embed_step = 2.0 if any(node.kind == "position_embed" for node in graph.nodes) else 1.0
        self.y: dict[int, float] = {}
        self.first_y: dict[int | None, float] = {}
        self.line: dict[int, float] = {}

    def plan(self) -> Plan:
        """Panels first, from the top; then what stands between them."""
        panels: list[Panel] = []
        top = 0.0
        for row in self.rows:
            height = max(self._height(layer, row) for layer in range(self.first, self.stop))
            has_norm_bias = any(node.kind in _NORM_BIASES and node.position == row for node in self.graph.nodes)
            self.line[row] = top + height + (_NORM_BIAS_GAP if has_norm_bias else _LINE_GAP) - 0.5
            for layer in range(self.first, self.stop):
                self._place(layer, row, top, height)
                panels.append(self._panel(layer, row, top))
            top = self.line[row] + 0.5 + _ROW_GAP
        spots = tuple(self._spot(n, node) for n, node in enumerate(self.graph.nodes))
        width = panels[0].end - panels[0].left
        height = max(panel.line + 0.5 - panel.top for panel in panels)
        return Plan(spots, tuple(panels), self._headings(), width, height, self.step)

    def _panel(self, layer: int, row: int, top: float) -> Panel:
        left = 0.0 if layer == self.first else self._state_x(layer) - _PILL / 2
        right = self._state_x(layer + 1) + _PILL / 2
        has_ends = layer == self.stop - 1 and row == self.graph.info.position
        ends = [_ENDS[node.kind] for node in self.graph.nodes if node.kind in _ENDS]
        end = right + max(ends, default=0) * _END_STEP if has_ends else right
        return Panel(layer, row, left, right, end, top, self.line[row])

    def _state_x(self, layer: int) -> float:
        """Centre of the column of the states that enter a layer."""
        return self.x["state"] + (layer - self.first) * self.step

    def _columns(self) -> tuple[dict[str, float], float]:
        """Centres of the columns of the first panel, and the distance from one panel to the next."""
        used = {self._stage(node.kind) for node in self.graph.nodes} | {"state", "attn", "mlp"}
        follows = {"cross_norm": "attn", "mlp_norm": "cross_attn" if self.crosses else "attn"}
        centres: dict[str, float] = {}
        edge, last = 0.0, ""
        for stage in _STAGES:
            if stage.name not in used:
                continue
            clear = _AFTER_GATE if stage.name == "neuron_in" and last == "gate" else stage.clear if last else 0.0
            # A norm stands on the residual line, beside the state in the middle, which stands below what attention adds.
            if stage.name in follows:
                edge = centres[follows[stage.name]] + _SMALL / 2
            centres[stage.name] = edge + clear + stage.width / 2
            edge, last = max(edge, centres[stage.name] + stage.width / 2), stage.name
            if stage.name in follows:
                edge = max(edge, centres[follows[stage.name]] + _PILL / 2)
        return centres, edge + _OUT_CLEAR + _PILL / 2 - centres["state"]

    def _stage(self, kind: str) -> str:
        """Column of a kind of node; the state after attention to the encoder stands below what that adds."""
        if kind == "resid_mid" and self.crosses:
            return "cross_attn"
        return _STAGE_OF.get(kind, kind)

    def _sources(self) -> dict[tuple[int, int], list[int]]:
        """(layer, row) → states of other positions in its state column, by position."""
        reader: dict[int, int] = {}
        for e, n in enumerate(self.graph.source.tolist()):
            position = int(self.graph.query_pos[e])
            if position in self.rows:
                reader[n] = min(position, reader.get(n, position))
        found: dict[tuple[int, int], list[int]] = defaultdict(list)
        for n, node in enumerate(self.graph.nodes):
            if node.kind in _RESID and node.position not in self.rows:
                found[self._panel_of(node), reader.get(n, self.rows[-1])].append(n)
        for group in found.values():
            group.sort(key=lambda n: self.graph.nodes[n].position or 0)
        return found

    def _panel_of(self, node: Node) -> int:
        """Layer whose state column a state stands in."""
        layer = self.first if node.layer is None else node.layer
        return layer + (node.kind == "resid_post")

    def _height(self, layer: int, row: int) -> float:
        """Rows of a panel above its residual line."""
        blocks = (block.rows for _, block in self._blocks(layer, row))
        return max(_LEAST_ROWS, self.embed_step * len(self.sources[layer, row]), *blocks)

    def _blocks(self, layer: int, row: int) -> tuple[tuple[str, _Block], ...]:
        """Heads and rows of the output projection of each attention, and neurons, with what each adds up to."""
        members = self.members[layer, row]
        cross = [n for n in members if self.graph.nodes[n].kind in OWN]
        rest = [
            n for kind in ("mlp_error", "mlp_rest", "mlp_bias_in", "mlp_bias") for n in members if self._is(n, kind)
        ]
        neurons = self._list(members, ("neuron", "gate", "neuron_in", "feature"), rest)
        attention = [("attn", [n for n in members if n not in set(cross)]), ("cross_attn", cross)]
        return (*((name, block) for name, some in attention for block in self._attention(some)), ("mlp", neurons))

    def _attention(self, members: Sequence[int]) -> tuple[_Block, _Block]:
        """Heads and rows of one attention; what is left over of it follows the last of its columns."""
        leftover = [
            n for kind in ("attn_feature", "attn_error", "attn_rest", "attn_bias") for n in members if self._is(n, kind)
        ]
        has_rows = any(self._is(n, "row") for n in members)
        heads = self._heads(members, [] if has_rows else leftover)
        return heads, self._list(members, ("row",), leftover if has_rows else [])

    def _heads(self, members: Sequence[int], leftover: Sequence[int]) -> _Block:
        """The strongest head first; each with its sources, and with its query and itself at half their height."""
        groups: dict[int, list[int]] = defaultdict(list)
        for n in members:
            head = self.graph.nodes[n].head
            if head is not None:
                groups[head].append(n)
        strength = {h: self._head_strength(group) for h, group in groups.items()}
        found: dict[int, float] = {}
        top = 0.0
        for h in sorted(groups, key=lambda h: (-strength[h], h)):
            lines = self._head_lines(groups[h])
            count = max(1, len(set(lines.values())))
            found |= {n: top + (lines[n] + 0.5 if n in lines else count / 2) for n in groups[h]}
            top += count + _GROUP_GAP
        found |= {n: top + place + 0.5 for place, n in enumerate(leftover)}
        return _Block(found, top + len(leftover))

    def _head_strength(self, group: Sequence[int]) -> float:
        """What the head makes up of all attention; of a graph without that, its strongest source."""
        of_head = [self.strength[n] for n in group if self._is(n, "head")]
        return max(of_head or [self.strength[n] for n in group])

    def _head_lines(self, group: Sequence[int]) -> dict[int, int]:
        """Line of each key, value and rest of one head; key and value of a source share one."""
        lines: dict[int, int] = {}
        of_source: dict[int | None, int] = {}
        for n in sorted(group, key=lambda n: self._is(n, "head_rest")):
            if self._kind(n) in ("key", "value", "head_rest"):
                lines[n] = of_source.setdefault(self.graph.nodes[n].index, len(of_source))
        return lines

    def _list(self, members: Sequence[int], kinds: Sequence[str], leftover: Sequence[int]) -> _Block:
        """One row for each index, the strongest first, then what is left over."""
        strength: dict[int | None, float] = {}
        listed = [n for n in members if self._kind(n) in kinds]
        for n in listed:
            index = self.graph.nodes[n].index
            strength[index] = max(self.strength[n], strength.get(index, 0.0))
        order = {index: place for place, index in enumerate(sorted(strength, key=lambda index: -strength[index]))}
        found = {n: order[self.graph.nodes[n].index] + 0.5 for n in listed}
        found |= {n: len(order) + place + 0.5 for place, n in enumerate(leftover)}
        return _Block(found, float(len(order) + len(leftover)))

    def _place(self, layer: int, row: int, top: float, height: float) -> None:
        """Rows of one panel: each block spread over its height, a little, and what it adds up to at its middle."""
        blocks = self._blocks(layer, row)
        middle = dict.fromkeys(("attn", "cross_attn", "mlp"), top + height / 2)
        for place, (name, block) in enumerate(blocks):
            if block.y:
                spread = min(MOST_SPREAD, height / block.rows)
                self.y |= {n: top + y * spread for n, y in block.y.items()}
                middle[name] = top + block.rows * spread / 2
            if place == 0:
                middle["concat_heads"] = middle["attn"]
        for n in self.members[layer, row]:
            kind = self.graph.nodes[n].kind
            if kind in _NORM_BIASES:
                self.y[n] = self.line[row] - _ABOVE_LINE
            elif n not in self.y:
                self.y[n] = middle.get(kind, self.line[row])
        group = self.sources[layer, row]
        for place, n in enumerate(group):
            self.y[n] = top + (place + 0.5) * height / len(group)
            if layer == self.first:
                self.first_y[self.graph.nodes[n].position] = self.y[n]

    def _kind(self, n: int) -> str:
        """Kind of a node; of attention to the encoder that of the same part of attention."""
        kind = self.graph.nodes[n].kind
        return OWN.get(kind, kind)

    def _is(self, n: int, kind: str) -> bool:
        return self._kind(n) == kind

    def _spot(self, n: int, node: Node) -> Spot:
        if node.kind in _ENDS:
            return self._end_spot(n, node)
        if node.kind in _STATES:
            return self._state_spot(n, node)
        stage = self._stage(node.kind)
        layer = self.first if node.layer is None else node.layer
        if node.kind in ("attn_rest", "attn_bias") and "row" in self.x:
            stage = "row"
        if node.kind in ("cross_rest", "cross_bias") and "cross_row" in self.x:
            stage = "cross_row"
        width = _SMALL if node.kind in _NARROW else _PILL
        return Spot(self.x[stage] + (layer - self.first) * self.step, self.y[n], width)

    def _row(self, node: Node) -> int:
        return self.graph.info.position if node.position is None else node.position

    def _state_spot(self, n: int, node: Node) -> Spot:
        on_line = self.line.get(self._row(node), 0.0)
        if node.kind in _RESID:
            return Spot(self._state_x(self._panel_of(node)), self.y.get(n, on_line), _PILL)
        y = self.first_y.get(node.position, on_line)
        return Spot(self.x["embed"], y - (node.kind == "position_embed"), _PILL)

    def _end_spot(self, n: int, node: Node) -> Spot:
        """What comes after the last layer: on its line, and what shares the column, as the foil, above."""
        column = [m for m, other in enumerate(self.graph.nodes) if _ENDS.get(other.kind) == _ENDS[node.kind]]
        first = ("final_norm", self.graph.info.target)
        column.sort(key=lambda m: self.graph.nodes[m].kind not in first and self.graph.nodes[m].index not in first)
        line = self.line.get(self.graph.info.position, max(self.line.values()))
        x = self._state_x(self.stop) + _ENDS[node.kind] * _END_STEP
        return Spot(x, line - column.index(n) * _ABOVE_LINE, _PILL)

    def _headings(self) -> tuple[Heading, ...]:
        names = {stage.name: stage.heading for stage in _STAGES}
        if "gate" not in self.x:
            names["neuron_in"] = "neuron reads"
        found = []
        for layer in range(self.first, self.stop):
            for name, x in self.x.items():
                if names[name] and (name != "embed" or layer == 0):
                    found.append(Heading(names[name], x + (layer - self.first) * self.step, layer))
        return tuple(found)
