"""Flow graphs of invented forward passes, in the schema that the edge methods write; seeded, without any model."""

from __future__ import annotations

import numpy as np

from flowgraph.values.flow_graph import EDGE_KINDS, FlowGraph
from flowgraph.values.graph_info import GraphInfo
from flowgraph.values.node import Node
from flowgraph.values.reading import NodeReading

JAPAN = ("The", " capital", " of", " Japan", " is", " the", " city", " of")
HOSTILE = (
    "</script>", " <!--", '"quotes\'', "\n", "\t", " 日本", "🎉", " שלום", "\x00", "\u00a0", "\u202e", "&amp;", "e\u0301",
    "\u0301", "<img src=x onerror=alert(1)>", " ", "   ", "\u2028", "averyveryverylongtokenindeed",
)  # fmt: skip
_WORDS = (
    " Tokyo", " Japan", " Osaka", " the", ".", ",", "\n", " and", " city", "Sh", "\u00a0", " (", " is", "'s", " of",
    " Kyoto", " K", " my", "</script>", " שלום", " 日本", "dismant", "soever", " a", "ern", " to", " new", " old", " in",
)  # fmt: skip
_EMPTY = -1


class _Columns:
    """Nodes and edge columns while a graph is being put together."""

    def __init__(self) -> None:
        self.nodes: dict[Node, int] = {}
        self.rows: list[tuple] = []

    def node(self, node: Node) -> int:
        return self.nodes.setdefault(node, len(self.nodes))

    def edge(self, source: Node, target: Node, kind: str, weight: float, share: float, *, head: int = _EMPTY) -> None:
        layer = next((n.layer for n in (target, source) if n.layer is not None), _EMPTY)
        positions = [_EMPTY if n.position is None else n.position for n in (target, source)]
        ends = (self.node(source), self.node(target), EDGE_KINDS.index(kind))
        self.rows.append((*ends, layer, head, *positions, weight, share, False))

    def graph(self, info: GraphInfo, structural: tuple[tuple[Node, Node, str], ...] = ()) -> FlowGraph:
        for source, target, kind in structural:
            self.edge(source, target, kind, 0.0, 0.0)
            self.rows[-1] = (*self.rows[-1][:-1], True)
        names = ("source", "target", "kind", "layer", "head", "query_pos", "key_pos", "weight", "share", "structural")
        columns = list(zip(*self.rows, strict=True)) or [()] * len(names)
        kinds = [int] * 7 + [float] * 2 + [bool]
        arrays = {n: np.array(c, dtype=k) for n, c, k in zip(names, columns, kinds, strict=True)}
        return FlowGraph(nodes=tuple(self.nodes), **arrays, info=info)


def token_graph(
    tokens: tuple[str, ...] = JAPAN,
    *,
    layers: int = 30,
    first: int = 0,
    method: str = "proximity",
    parallel: bool = False,
    head: bool = True,
    mlp: bool = True,
    threshold: float = 0.01,
    seed: int = 0,
) -> FlowGraph:
    """Token level: attention, residual and MLP edges whose shares sum to about 1 at each target."""
    rng = np.random.default_rng(seed)
    columns = _Columns()
    count = len(tokens)
    for layer in range(first, layers):
        for t in range(count):
            here, middle, after = _states(layer, first, t, parallel)
            loud = 0.35 if rng.random() < 0.12 else 0.06
            amounts = rng.dirichlet(np.full(t + 1, 0.25)) * loud
            for s in range(t + 1):
                if amounts[s] >= threshold:
                    columns.edge(_states(layer, first, s, parallel)[0], middle, "attention", amounts[s], amounts[s])
            columns.edge(here, middle, "residual", 1 - loud, 1 - loud)
            if mlp:
                out = float(rng.beta(1.2, 8)) if layer else 0.6
                square = Node("mlp", layer=layer, position=t)
                columns.edge(here if parallel else middle, square, "mlp_in", 1.0, 1.0)
                columns.edge(square, after, "mlp", out, out)
                if not parallel:
                    columns.edge(middle, after, "residual", 1 - out, 1 - out)
            elif not parallel:
                columns.edge(middle, after, "residual", 1.0, 1.0)
    if head:
        columns.edge(_states(layers - 1, first, count - 1, parallel)[2], _logit(), "unembed", 1.0, 1.0)
    return _read(columns.graph(_info(columns, tokens, method, "share", "token", layers, first, head)), rng, head)


def head_graph(tokens: tuple[str, ...] = JAPAN, *, layers: int = 12, heads: int = 9, seed: int = 1) -> FlowGraph:
    """Head level: attention into heads, heads into the residual stream."""
    rng = np.random.default_rng(seed)
    columns = _Columns()
    for layer in range(layers):
        for t in range(len(tokens)):
            here, middle, after = _states(layer, 0, t, False)
            outs = rng.dirichlet(np.full(heads, 0.2)) * (0.5 if rng.random() < 0.2 else 0.12)
            for h in np.flatnonzero(outs > 0.01):
                node = Node("head", layer=layer, head=int(h), position=t)
                for s, part in enumerate(rng.dirichlet(np.full(t + 1, 0.2))):
                    if part > 0.02:
                        source = _states(layer, 0, s, False)[0]
                        columns.edge(source, node, "attention", part, part, head=int(h))
                columns.edge(node, middle, "head", outs[h], outs[h], head=int(h))
            columns.edge(here, middle, "residual", 1 - outs.sum(), 1 - outs.sum())
            out, square = float(rng.beta(1.2, 8)), Node("mlp", layer=layer, position=t)
            columns.edge(middle, square, "mlp_in", 1.0, 1.0)
            columns.edge(square, after, "mlp", out, out)
            columns.edge(middle, after, "residual", 1 - out, 1 - out)
    columns.edge(_states(layers - 1, 0, len(tokens) - 1, False)[2], _logit(), "unembed", 1.0, 1.0)
    return _read(columns.graph(_info(columns, tokens, "proximity", "share", "head", layers, 0, True)), rng, True)


def logits_graph(
    tokens: tuple[str, ...] = JAPAN, *, layers: int = 12, heads: int = 9, level: str = "token", seed: int = 2
) -> FlowGraph:
    """Direct logit attribution: signed edges of every part into the logit."""
    rng = np.random.default_rng(seed)
    last = len(tokens) - 1
    parts: list[tuple[Node, Node, str, float, int]] = []
    for layer in range(layers):
        strength = 0.05 + 0.5 * (layer / layers) ** 3
        for s in range(last + 1):
            source = _states(layer, 0, s, False)[0]
            if level == "token":
                parts.append((source, _logit(), "attention", rng.normal(0, strength), _EMPTY))
                continue
            for h in np.flatnonzero(rng.random(heads) < 0.4):
                node = Node("head", layer=layer, head=int(h), position=last)
                parts.append((source, node, "attention", rng.normal(0, strength / 3), int(h)))
        parts.append((Node("mlp", layer=layer, position=last), _logit(), "mlp", rng.normal(0.2, strength * 2), _EMPTY))
        parts.append((Node("mlp_bias", layer=layer), _logit(), "bias", rng.normal(0, 0.05), _EMPTY))
    parts += _head_sums(parts)
    parts.append((Node("embed", position=last), _logit(), "embed", 0.3, _EMPTY))
    parts.append((Node("position_embed", position=last), _logit(), "embed", -0.1, _EMPTY))
    parts.append((Node("final_norm_bias"), _logit(), "bias", 0.1, _EMPTY))
    columns = _Columns()
    into: dict[Node, float] = {}
    for _, target, _, weight, _ in parts:
        into[target] = into.get(target, 0.0) + abs(weight)
    for source, target, kind, weight, h in parts:
        columns.edge(source, target, kind, weight, weight / into[target], head=h)
    return _read(columns.graph(_info(columns, tokens, "logits", "logits", level, layers, 0, True)), rng, True)


def _head_sums(parts: list) -> list:
    sums: dict[Node, float] = {}
    for _, target, _, weight, _ in parts:
        if target.kind == "head":
            sums[target] = sums.get(target, 0.0) + weight
    return [(node, _logit(), "head", weight, node.head) for node, weight in sums.items()]


def empty_graph(*, with_nodes: bool = True) -> FlowGraph:
    """A graph whose filters kept no edge."""
    whole = token_graph(layers=6)
    kept = whole.keep(np.zeros(0, dtype=int), threshold=0.99)
    return kept if not with_nodes else FlowGraph(
        nodes=whole.nodes, **{name: getattr(kept, name) for name in _COLUMNS}, info=kept.info, readings=whole.readings
    )  # fmt: skip


_COLUMNS = ("source", "target", "kind", "layer", "head", "query_pos", "key_pos", "weight", "share", "structural")


def with_structural(graph: FlowGraph) -> FlowGraph:
    """The graph with its MLP edges turned into edges without a number."""
    kinds = [EDGE_KINDS.index("mlp_in"), EDGE_KINDS.index("mlp")]
    structural = np.isin(graph.kind, kinds)
    columns = {name: getattr(graph, name) for name in _COLUMNS}
    columns |= {"structural": structural, "weight": np.where(structural, 0.0, graph.weight)}
    columns |= {"share": np.where(structural, 0.0, graph.share)}
    return FlowGraph(nodes=graph.nodes, **columns, info=graph.info, readings=graph.readings)


def _states(layer: int, first: int, position: int, parallel: bool) -> tuple[Node, Node, Node]:
    """State before a block, where attention arrives, and the state after the block."""
    after = Node("resid_post", layer=layer, position=position)
    if layer == first:
        before = Node("embed", position=position) if not first else Node("resid_pre", layer=layer, position=position)
    else:
        before = Node("resid_post", layer=layer - 1, position=position)
    return before, after if parallel else Node("resid_mid", layer=layer, position=position), after


def _logit() -> Node:
    return Node("logit", index=20790, token=" Tokyo")


def _info(columns, tokens, method, unit, level, layers, first, head) -> GraphInfo:
    known = {"target": 20790, "target_token": " Tokyo", "target_probability": 0.8512} if head else {}
    return GraphInfo(
        method=method, unit=unit, level=level, model="smollm2-135m", tokens=tuple(tokens), layers=(first, layers),
        total_layers=layers, position=len(tokens) - 1, total_edges=len(columns.rows),
        total_share=float(sum(abs(row[8]) for row in columns.rows)), **known,
    )  # fmt: skip


def _read(graph: FlowGraph, rng: np.random.Generator, head: bool) -> FlowGraph:
    return graph.with_readings([_reading(node, graph, rng, head) for node in graph.nodes])


def _reading(node: Node, graph: FlowGraph, rng: np.random.Generator, head: bool) -> NodeReading | None:
    if node.kind == "logit" or node.position is None:
        return None
    norm = float(rng.gamma(4, 20))
    if not head:
        return NodeReading(norm=norm)
    depth = ((node.layer if node.layer is not None else -1) + 1) / graph.info.total_layers
    is_target = node.position == graph.info.position
    rank = int(10 ** (5 * max(0.0, 1 - depth**4 if is_target else 0.8 + 0.3 * rng.random() - 0.2 * depth)))
    words = [" Tokyo" if rank <= 1 else _WORDS[1 + (node.position * 7 + int(depth * 9)) % (len(_WORDS) - 1)]]
    words += [w for w in rng.permutation(_WORDS).tolist() if w not in words][:9]
    probabilities = np.sort(rng.dirichlet(np.full(11, 0.4)))[::-1][:10]
    logits = np.sort(rng.normal(12, 2, 10))[::-1]
    bottom = tuple((w, float(rng.random() * 1e-12), float(-9 - i)) for i, w in enumerate(words[::-1]))
    probability = float(probabilities[0]) if rank <= 1 else float(probabilities[1] / rank**1.5)
    return NodeReading(
        norm=norm, top=tuple(zip(words, map(float, probabilities), map(float, logits), strict=True)), bottom=bottom,
        target_logit=float(logits[0] - np.log(rank)), target_probability=probability,
        target_log_probability=float(np.log(probability)), target_rank=max(1, rank), entropy=float(rng.gamma(3, 1)),
    )  # fmt: skip
