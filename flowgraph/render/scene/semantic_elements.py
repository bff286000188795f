"""A semantic graph as slim plain data: pills with their text, edges with their pen, and what the page says about them.

Ids are ``n17`` for node 17 and ``e5`` for edge 5, in the graph's order. Nodes carry their place in columns and rows.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

from ...charts.text import picture_label, visible
from ...values.flow_graph import EDGE_KINDS, FlowGraph
from ...values.node import FEATURES, Node, label
from ...values.reading import NodeReading
from .elements import rank_class
from .semantic_layout import Plan
from .semantic_plan import strengths
from .style import edge_stroke

THIN = 0.8
"""Width in px of an edge whose number has nothing to be compared with: a length, or a factor of a product."""

_TOP, _BOTTOM = 10, 5
_BEFORE = 0.1
_OPACITY = {"norm": 0.45, "activation": 0.6, "visit": 0.6}
_STREAM = frozenset({"residual", "embed"})
_QUIET = frozenset(
    {"query", "key", "gate", "neuron_in", "attn_norm", "mlp_norm", "cross_query", "cross_key", "cross_norm"}
)
_DOWN = {("attn", "resid_mid"), ("attn", "resid_cross"), ("cross_attn", "resid_mid")}
_NAMES = {
    "attn_norm": "norm", "mlp_norm": "norm", "resid_mid": "mid", "head_rest": "rest", "attn_rest": "rest",
    "mlp_rest": "rest", "attn_bias": "bias", "mlp_bias": "bias", "attn_norm_bias": "norm bias",
    "mlp_norm_bias": "norm bias", "final_norm": "final norm", "final_norm_bias": "norm bias", "unembed_bias": "bias",
    "attn": "attn", "mlp": "mlp", "qkv": "q k v", "concat_heads": "heads", "mlp_bias_in": "bias in",
    "cross_norm": "norm", "resid_cross": "mid", "cross_head_rest": "rest", "cross_rest": "rest", "cross_bias": "bias",
    "cross_norm_bias": "norm bias", "cross_attn": "×",
    "mlp_error": "error", "attn_error": "error", "logits": "logits", "shared_expert": "shared", "sink": "sink",
}  # fmt: skip


def is_comparable(unit: str) -> bool:
    """Whether the edges of a unit are drawn by a number: parts of one sum, or a query's attention, which sums to 1."""
    return unit in ("contribution", "attention", "logits")


def carried(graph: FlowGraph, e: int) -> float | None:
    """What the width of an edge stands for: |share| of a sum's parts, the attention itself; None where nothing compares."""
    unit = graph.unit_of(e)
    if graph.structural[e] or not is_comparable(unit):
        return None
    return abs(float(graph.weight[e] if unit == "attention" else graph.share[e]))


def pill_text(graph: FlowGraph, n: int, rows: Collection[int]) -> str:
    """Text on a pill: what it is, in as few characters as its column allows, and what it reads as.

    ``rows`` are the positions that have panels: states of other positions are sources, and are named by their token.
    """
    node = graph.nodes[n]
    reading = graph.readings[n] if graph.readings else None
    word = picture_label(reading.top[0][0]) if reading is not None and reading.top else ""
    if node.kind == "cross_key":
        return _token_at(graph, node.index, "encoder")
    if node.kind in ("key", "embed", "position_embed"):
        position = node.index if node.kind == "key" else node.position
        return _token_at(graph, position) if node.kind != "position_embed" else f"position {position}"
    if node.kind in ("resid_pre", "resid_post"):
        return _state_text(graph, node, rows)
    if node.kind == "logit":
        return visible(node.token) if node.token is not None else f"token {node.index}"
    name = _name(node)
    if node.kind in ("value", "cross_value", "gate", "neuron_in"):
        has_norm = reading is not None and node.kind in ("value", "cross_value")
        return word or (f"norm {reading.norm:.3g}" if has_norm and reading is not None else name)
    if node.kind in _NAMES and node.kind not in ("attn", "cross_attn", "mlp"):
        return name
    return f"{name} {word}" if word else name


def _name(node: Node) -> str:
    if node.kind in _NAMES:
        return _NAMES[node.kind]
    if node.kind in ("head", "query", "value", "cross_head", "cross_query", "cross_value"):
        return f"H{node.head}"
    if node.kind == "kv_group":
        return f"KV{node.head}"
    if node.kind in FEATURES:
        return visible(node.token) if node.token else f"feature {node.index}"
    return (
        f"{node.index} {'in' if node.kind == 'neuron_in' else 'gate'}"
        if node.kind in ("gate", "neuron_in")
        else f"{node.index}"
    )


def _token_at(graph: FlowGraph, position: int | None, stack: str | None = None) -> str:
    tokens = graph.info.tokens_of(stack)
    if position is None or position >= len(tokens):
        return f"@{position}"
    return f"{picture_label(tokens[position])}@{position}"


def _state_text(graph: FlowGraph, node: Node, rows: Collection[int]) -> str:
    """The token of a source; of a state that the graph leads on from, the layer that it enters or leaves."""
    if node.position not in rows:
        return _token_at(graph, node.position)
    at = "" if len(rows) == 1 else f"@{node.position}"
    return f"L{node.layer} {'in' if node.kind == 'resid_pre' else 'out'}{at}"


def semantic_elements(graph: FlowGraph, plan: Plan) -> dict[str, list[dict[str, Any]]]:
    """``{"nodes": […], "edges": […]}`` as Cytoscape takes them, without positions in pixels."""
    return {"nodes": _nodes(graph, plan), "edges": _edges(graph, plan)}


def _nodes(graph: FlowGraph, plan: Plan) -> list[dict[str, Any]]:
    found, rows = [], {panel.position for panel in plan.panels}
    for n, (node, spot) in enumerate(zip(graph.nodes, plan.spots, strict=True)):
        reading = graph.readings[n] if graph.readings else None
        classes = ["pill", "goal" if node.kind == "logit" else rank_class(reading)]
        if node.kind in _QUIET:
            classes.append("quiet")
        data = {
            "id": f"n{n}", "x": round(spot.x, 3), "y": round(spot.y, 3), "w": round(spot.width, 3),
            "lb": pill_text(graph, n, rows),
        }  # fmt: skip
        found.append({"data": data, "classes": " ".join(classes)})
    return found


def _edges(graph: FlowGraph, plan: Plan) -> list[dict[str, Any]]:
    found, bends = [], _bends(graph, plan)
    for e in range(len(graph)):
        width, opacity = stroke(graph, e)
        data: dict[str, Any] = {
            "id": f"e{e}", "source": f"n{graph.source[e]}", "target": f"n{graph.target[e]}", "w": width, "o": opacity,
        }  # fmt: skip
        if not graph.structural[e]:
            data |= {"v": _short(graph.weight[e]), "s": _short(graph.share[e])}
        classes = edge_classes(graph, plan, e)
        if "trunk" in classes:
            data["b"] = bends[int(graph.source[e])]
        found.append({"data": data, "classes": " ".join(classes)})
    return found


def _bends(graph: FlowGraph, plan: Plan) -> dict[int, float]:
    """Source → column at which all its trunk edges turn: just before the nearest of their targets."""
    found: dict[int, float] = {}
    for e in range(len(graph)):
        s, t = int(graph.source[e]), int(graph.target[e])
        if _way(graph.nodes[s], graph.nodes[t], plan, s, t) == "trunk":
            spot = plan.spots[t]
            found[s] = min(found.get(s, spot.x), round(spot.x - spot.width / 2 - _BEFORE, 3))
    return found


def stroke(graph: FlowGraph, e: int) -> tuple[float, float]:
    """Width in px and opacity of an edge."""
    part = carried(graph, e)
    if part is None:
        return THIN, _OPACITY.get(graph.unit_of(e), 0.45)
    kind = EDGE_KINDS[graph.kind[e]]
    return edge_stroke("residual" if kind in _STREAM else "self", part)


def edge_classes(graph: FlowGraph, plan: Plan, e: int) -> list[str]:
    """Classes of an edge: its unit, whether it is negative, and the way it is drawn."""
    kind = EDGE_KINDS[graph.kind[e]]
    source, target = (graph.nodes[n] for n in (graph.source[e], graph.target[e]))
    classes = ["structural"] if graph.structural[e] else [graph.unit_of(e)]
    if kind in _STREAM:
        classes.append("stream")
    if graph.weight[e] < 0:
        classes.append("negative")
    if kind in ("key", "value"):
        classes.append("from-source")
    return [*classes, _way(source, target, plan, int(graph.source[e]), int(graph.target[e]))]


def _way(source: Node, target: Node, plan: Plan, s: int, t: int) -> str:
    """How an edge runs: straight, down, as a trunk with branches, or as a curve that leaves and arrives level."""
    if (source.kind, target.kind) in _DOWN:
        return "down"
    if source.kind == "attn" and target.kind == "resid_post":
        return "under"
    if target.kind in ("query", "cross_query", "gate", "neuron_in", "mlp_rest") and source.kind not in (
        "key",
        "value",
        "cross_key",
        "cross_value",
    ):
        return "trunk"
    return "level" if abs(plan.spots[s].y - plan.spots[t].y) < 1e-6 else "curve"


def semantic_facts(graph: FlowGraph) -> dict[str, Any]:
    """What the page says about nodes and edges, in the graph's order.

    ``vocabulary`` holds each token text once; readings refer to it.
    """
    vocabulary: dict[str, int] = {}
    readings = graph.readings or (None,) * len(graph.nodes)
    return {
        "labels": [label(_readable(node)) for node in graph.nodes],
        "kinds": [node.kind for node in graph.nodes],
        "positions": [_token_position(node) for node in graph.nodes],
        "flows": [_short(value) for value in strengths(graph)],
        "readings": [None if reading is None else _reading(reading, vocabulary) for reading in readings],
        "edge_kinds": [EDGE_KINDS[kind] for kind in graph.kind],
        "edge_units": [graph.unit_of(e) for e in range(len(graph))],
        "vocabulary": list(vocabulary),
    }


def _token_position(node: Node) -> int | None:
    """Position of the token that a node's title names: of a key or value its source; none of those of an encoder."""
    if node.kind in ("cross_key", "cross_value"):
        return None
    return node.index if node.kind in ("key", "value") else node.position


def _readable(node: Node) -> Node:
    return node if node.token is None else replace(node, token=visible(node.token))


def _reading(reading: NodeReading, vocabulary: dict[str, int]) -> dict[str, Any]:
    def entries(found: Sequence[tuple[str, float, float]], most: int) -> list[list[Any]]:
        return [
            [vocabulary.setdefault(visible(token), len(vocabulary)), _short(probability), _short(logit)]
            for token, probability, logit in found[:most]
        ]

    numbers = {
        "norm": reading.norm, "entropy": reading.entropy, "probability": reading.target_probability,
        "logit": reading.target_logit, "foil_probability": reading.foil_probability,
        "activation": reading.activation, "contribution": reading.contribution, "coverage": reading.coverage,
    }  # fmt: skip
    found: dict[str, Any] = {name: _short(value) for name, value in numbers.items() if value is not None}
    ranks = {"rank": reading.target_rank, "foil_rank": reading.foil_rank}
    found |= {name: rank for name, rank in ranks.items() if rank is not None}
    return found | {"top": entries(reading.top, _TOP), "bottom": entries(reading.bottom, _BOTTOM)}


def _short(value: float | None) -> float | None:
    """Four significant digits: more than the page prints, less than a float takes."""
    return None if value is None else float(f"{value:.4g}")
