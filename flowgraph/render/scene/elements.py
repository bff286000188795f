"""A flow graph as slim plain data: what Cytoscape draws, and what the page says about it.

Ids are ``n17`` for node 17 and ``e5`` for the fifth strongest edge. Every node and edge carries its critical level
``c``: it is shown while ``c`` is at most the slider's value, and every such selection hangs together with the start. Edges of a
graph that was cut so that they have no way to the start any more come after all of these, the strongest first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from ...charts.text import abbreviated, picture_label, visible
from ...values.connected_flow import flow_levels
from ...values.effects import edge_strengths, is_part, is_picture_of_parts, node_effects, shows_effects
from ...values.flow_graph import EDGE_KINDS, FlowGraph
from ...values.graph_axes import column_of, is_circuit
from ...values.mass import edge_mass, into_start
from ...values.node import ERRORS, FEATURES, STACKS, Node, label
from ...values.reading import NodeReading
from ..words.caption import mass_of
from .layout import Place, places
from .noted import note_facts
from .style import edge_stroke, effect_step, rank_decade, square_size

MOST_EDGES = 3000
LEVELS = 1000
OPENING_MASS = 0.8
OPENING_EDGES = 300
_OPENING_EDGES_SIGNED = 120  # every one of them ends in the logit
_ASKED = frozenset({"path_mass", "nucleus", "mass", "threshold", "top_k"})
_MAJOR_HEADS = 48
COLOURED_KINDS = frozenset({"embed", "resid_pre", "resid_post"})
"""Kinds of nodes whose colour and label say what they read."""
_BIASES = frozenset({"attn_bias", "cross_bias", "mlp_bias", "final_norm_bias", "unembed_bias"})
_HEADS = frozenset({"head", "cross_head", "kv_group", "cross_kv_group"})
_SQUARES = {
    "feature": "feature", "attn_feature": "attn-feature", **dict.fromkeys(ERRORS, "error"), **dict.fromkeys(_BIASES, "bias"),
    **dict.fromkeys(("mlp", "neuron"), ""), "shared_expert": "shared-expert", "sink": "sink", "mixer": "mixer",
}  # fmt: skip
"""Kinds of nodes that are squares → class that tells them from an MLP; all that are not named here are parts of the model."""
_NAMED_FEATURES = 40
_LONGEST_NAME = 60
_TOP, _BOTTOM = 10, 5
_DENSE_SQUARE = 0.6
_SIGNED_SQUARE = 4  # shares of one logit are small
_PART_SQUARE = 6  # the colour of the weakest part can be seen
_CERTAIN = 0.3


@dataclass(frozen=True, eq=False)
class Drawing:
    """A graph made ready to draw.

    Attributes
    ----------
    graph
        What is drawn: the graph itself, or its strongest :data:`MOST_EDGES` edges, of those that lead to the start if any do.
    order
        [E] edges of ``graph`` from the first shown to the last.
    flow
        [E] flow of each edge of ``graph`` into the start, along everything that the method gives (:mod:`flowgraph.values.mass`);
        of effects |weight| / the largest.
    node_flow
        [N] flow from each node to the start over the edges of the graph; the start has 1 itself.
    level
        [E] critical level of each edge of ``graph``, in 1…:data:`LEVELS`.
    mass
        [E] :func:`flowgraph.mass` of the first 1, 2, … edges of ``order``.
    is_flow_mass
        True if that is of summed flow, False if it is of Σ|share|.
    places
        [N] where the nodes stand.
    start
        Index of the node that the flow runs to; None in a graph without nodes.
    """

    graph: FlowGraph
    order: Int[np.ndarray, "E"]
    flow: Float[np.ndarray, "E"]
    node_flow: Float[np.ndarray, "N"]
    level: Int[np.ndarray, "E"]
    mass: Float[np.ndarray, "E"]
    is_flow_mass: bool
    places: tuple[Place, ...]
    start: int | None

    @property
    def is_signed(self) -> bool:
        """Whether edges raise or lower something, rather than bring a share."""
        return self.graph.info.unit == "logits" or shows_effects(self.graph) or bool((self.graph.share < 0).any())

    @property
    def node_level(self) -> Int[np.ndarray, "N"]:
        """[N] level of each node: that of its first edge; 0 for the start and for nodes without edges."""
        level = np.full(len(self.graph.nodes), LEVELS + 1)
        for end in (self.graph.source, self.graph.target):
            np.minimum.at(level, end, self.level)
        level[level > LEVELS] = 0
        if self.start is not None:
            level[self.start] = 0
        return level

    @property
    def is_asked_for(self) -> bool:
        """Whether the graph was cut to what somebody asked for, rather than to what fits; what is said of a picture is said of all of it."""
        return is_picture_of_parts(self.graph) or not _ASKED.isdisjoint(self.graph.info.filters)

    @property
    def page_level(self) -> int:
        """The slider's value when a page opens: all that was asked for, as its caption says, or as much as can be read."""
        return LEVELS if self.is_asked_for else self.opening_level

    @property
    def opening_level(self) -> int:
        """The slider's value at the start: what was asked for, or as much as can be read at a glance.

        At a glance: :data:`OPENING_MASS` of the mass, at most :data:`OPENING_EDGES` edges.
        """
        ranked = self.level[self.order]
        asked_for = self.is_asked_for
        if asked_for and len(ranked) <= OPENING_EDGES:
            return LEVELS
        most = _OPENING_EDGES_SIGNED if self.is_signed else OPENING_EDGES
        if self.is_flow_mass and not asked_for:
            most = min(most, int(np.searchsorted(self.mass, OPENING_MASS)) + 1)
        if len(ranked) <= most or ranked[0] >= ranked[most]:
            return LEVELS
        with_ties = int(ranked[most - 1])
        return with_ties if int((ranked <= with_ties).sum()) <= OPENING_EDGES else int(ranked[most]) - 1


def drawing(graph: FlowGraph) -> Drawing:
    """Order a graph's edges, place its nodes, and cut it to what a page can show."""
    graph = graph if shows_effects(graph) or not len(graph) else into_start(graph)
    flow, width = _carried(graph)
    node_flow = _outflow(graph, flow)
    order = _order(graph, node_flow, flow, width)
    mass = np.minimum(1.0, np.cumsum(edge_mass(graph)[order]))
    drawn = graph
    if len(graph) > MOST_EDGES:
        sent = order[:MOST_EDGES]
        leads = width[sent] > 0
        # Where the start itself was cut away nothing leads to it, and the strongest edges are as good as any.
        sent = sent[leads] if leads.any() else sent
        drawn, flow, width, mass = graph.keep(sent), flow[sent], width[sent], mass[: len(sent)]
        node_flow = node_flow[np.unique([graph.source[sent], graph.target[sent]])]
        order = np.arange(len(sent))
    start = _start(drawn, width, order)
    if start is not None:
        node_flow[start] = 1.0
    return Drawing(
        graph=drawn, order=order, flow=flow, node_flow=node_flow, mass=mass,
        level=_part_levels(drawn, width) if is_picture_of_parts(graph) else _levels(flow, order),
        is_flow_mass=graph.measured.flow is not None, places=places(drawn, node_flow.tolist()), start=start,
    )  # fmt: skip


def shown_graph(graph: FlowGraph, keep: int | None = None) -> FlowGraph:
    """The part of a graph that the slider shows: the edges whose level is at most ``keep``; None: where the graph opens."""
    drawn = drawing(graph)
    level = drawn.opening_level if keep is None else keep
    if not len(drawn.graph) or int(drawn.level.max()) <= level:
        return graph
    return drawn.graph.keep(drawn.level <= level, slider_level=level)


def _carried(graph: FlowGraph) -> tuple[Float[np.ndarray, "E"], Float[np.ndarray, "E"]]:
    """What edges carry, and the levels at which they are shown."""
    if not len(graph) or shows_effects(graph):
        size = np.abs(graph.weight.astype(np.float64))
        return size / (float(size.max(initial=0.0)) or 1.0), edge_strengths(graph)
    levels = flow_levels(graph, graph.flow)
    return (levels if graph.flow is None else graph.flow), levels


def _order(
    graph: FlowGraph,
    node_flow: Float[np.ndarray, "N"],
    flow: Float[np.ndarray, "E"],
    width: Float[np.ndarray, "E"],
) -> Int[np.ndarray, "E"]:
    """Widest connection first; of equally wide ones the nearer to the start, so that every prefix hangs together."""
    placed = places(graph, node_flow.tolist())
    depth = np.array([place.layer for place in placed])[graph.target] if len(graph) else np.zeros(0)
    # Edges without a way to the start are ordered by what they carry, wherever they are.
    return np.lexsort((-flow, np.where(width > 0, -depth, -flow), -width))


def _outflow(graph: FlowGraph, flow: Float[np.ndarray, "E"]) -> Float[np.ndarray, "N"]:
    total = np.zeros(len(graph.nodes))
    np.add.at(total, graph.source, flow)
    return total


def _cumulative(flow: Float[np.ndarray, "E"]) -> Float[np.ndarray, "E"]:
    total = float(flow.sum())
    return np.minimum(1.0, np.cumsum(flow) / total) if total else np.zeros(len(flow))


def _levels(flow: Float[np.ndarray, "E"], order: Int[np.ndarray, "E"]) -> Int[np.ndarray, "E"]:
    """Levels along the order, in 1…LEVELS; edges that carry nothing come at the very end.

    Half of a level is the mass reached and half the number of edges reached: by mass alone, the many weak edges would
    share the last step of the slider.
    """
    reached = np.arange(1, len(order) + 1) / max(1, len(order))
    steps = np.ceil(LEVELS * (_cumulative(flow[order]) + reached) / 2 - 1e-9).astype(np.int64)
    steps[flow[order] <= 0] = LEVELS
    level = np.zeros(len(order), dtype=np.int64)
    level[order] = np.clip(steps, 1, LEVELS)
    return level


def _part_levels(graph: FlowGraph, strength: Float[np.ndarray, "E"]) -> Int[np.ndarray, "E"]:
    """Levels by the number of parts reached, which bring the lines that lead to and from them."""
    parts = np.sort(-strength[is_part(graph)])
    reached = np.searchsorted(parts, -strength, side="right")
    return np.maximum(1, np.ceil(LEVELS * reached / max(1, len(parts)) - 1e-9).astype(np.int64))


def _start(graph: FlowGraph, width: Float[np.ndarray, "E"], order: Int[np.ndarray, "E"]) -> int | None:
    """Node that the flow runs to: the widest edge ends there; without flow, the logit or the last state."""
    if shows_effects(graph) and any(node.kind in ("logit", "logits") for node in graph.nodes):
        return next(n for n, node in enumerate(graph.nodes) if node.kind in ("logit", "logits"))
    if len(order) and width[order[0]] > 0:
        return int(graph.target[order[0]])
    ends = [
        n for n, node in enumerate(graph.nodes) if node.position in (None, graph.info.position) and node.stack is None
    ]
    depth = {n: (graph.nodes[n].kind == "logit", graph.nodes[n].layer or 0, n) for n in ends}
    return max(depth, key=lambda n: depth[n], default=None)


def elements(drawn: Drawing) -> dict[str, list[dict[str, Any]]]:
    """``{"nodes": […], "edges": […]}`` as Cytoscape takes them, without positions; edges from first to last shown."""
    return {"nodes": _nodes(drawn), "edges": _edges(drawn)}


def _nodes(drawn: Drawing) -> list[dict[str, Any]]:
    graph, levels, flow = drawn.graph, drawn.node_level, drawn.node_flow
    labels, priorities = _state_labels(drawn)
    outgoing = _outgoing(graph)
    heads = [n for n, node in enumerate(graph.nodes) if node.kind in (*_HEADS, "expert")]
    major = set(sorted(heads, key=lambda n: -flow[n])[:_MAJOR_HEADS])
    undefined = set(graph.undefined)
    found = []
    for n, node in enumerate(graph.nodes):
        place = drawn.places[n]
        data = {
            "id": f"n{n}", "c": int(levels[n]), "x": round(place.token, 2), "y": round(place.layer, 2),
            "k": place.slot, "n": place.slots,
        }  # fmt: skip
        if labels[n]:
            data["lb"] = labels[n]
        classes = [*_shape_classes(drawn, n, outgoing), *priorities[n]]
        if "square" in classes[0].split():
            share = max((abs(float(graph.share[e])) for e in outgoing[n]), default=0.0)
            size = square_size(_SIGNED_SQUARE * share if drawn.is_signed else share)
            if is_picture_of_parts(graph):
                size = round(_PART_SQUARE + square_size(flow[n]) / 2, 1)
            data |= {"z": size, "zd": round(_DENSE_SQUARE * size, 1)}
        if n in major:
            classes.append("major")
        if node in undefined:
            classes.append("undefined")
        found.append({"data": data, "classes": " ".join(classes)})
    return found


def _shape_classes(drawn: Drawing, n: int, outgoing: Sequence[Sequence[int]]) -> list[str]:
    node, graph = drawn.graph.nodes[n], drawn.graph
    if node.kind in ("logit", "logits"):
        return ["goal"]
    if node.kind in ("resid_mid", "resid_cross"):
        return ["junction"]
    if node.kind in COLOURED_KINDS:
        return ["state", rank_class(graph.readings[n] if graph.readings else None)]
    further = {"expert": " expert", "cross_head": " cross-head", "cross_kv_group": " cross-head"}.get(node.kind, "")
    is_numbered = node.kind in _HEADS or further
    shape = f"head{further}" if is_numbered else f"square {_SQUARES.get(node.kind, 'part')}".rstrip()
    if graph.info.unit != "logits" or not outgoing[n] or is_circuit(graph):
        return [shape]
    return [shape, f"effect{effect_step(float(sum(graph.weight[e] for e in outgoing[n])))}"]


def classes_of(items: Sequence[Mapping[str, Any]]) -> set[str]:
    """Classes that occur among nodes or edges; ``block`` stands for squares of MLPs, which have no class of their own.

    Heads that read an encoder are ``cross-head``, experts are ``expert``, and neither is ``head``.
    """
    found: set[str] = set()
    for item in items:
        names = set(item["classes"].split())
        found |= names - {"head"} if names & {"cross-head", "expert"} else names
        if "square" in names and names.isdisjoint(_SQUARES.values()) and "part" not in names:
            found.add("block")
    return found


def rank_class(reading: NodeReading | None) -> str:
    """Class of a node's fill: the decade of the target's rank, or ``plain`` where there is none."""
    if reading is None or reading.target_rank is None:
        return "plain"
    return f"k{rank_decade(reading.target_rank)}"


def _outgoing(graph: FlowGraph) -> list[list[int]]:
    outgoing: list[list[int]] = [[] for _ in graph.nodes]
    for e, n in enumerate(graph.source.tolist()):
        outgoing[n].append(e)
    return outgoing


def _state_labels(drawn: Drawing) -> tuple[list[str], list[list[str]]]:
    """Label and priority class of each node; most have neither.

    ``p3``: the start, and where the target first comes to rank 1. ``p2``: what the state reads as changes from the layer
    below to a word that is fairly certain. ``p1``: any other change.
    """
    graph = drawn.graph
    labels = [""] * len(graph.nodes)
    priorities: list[list[str]] = [[] for _ in graph.nodes]
    below: dict[Place, NodeReading] = {}
    first_best: set[Place] = set()
    features = [n for n, node in enumerate(graph.nodes) if node.kind in FEATURES and node.token]
    strongest = set(sorted(features, key=lambda n: -drawn.node_flow[n])[:_NAMED_FEATURES])
    for n in sorted(range(len(graph.nodes)), key=lambda n: drawn.places[n].layer):
        node = graph.nodes[n]
        line = replace(drawn.places[n], layer=0.0)
        if node.kind in _HEADS:
            labels[n] = str(node.head)
        elif node.kind == "expert":
            labels[n] = str(node.index)
        elif node.kind == "logit" or (is_circuit(graph) and node.layer is None):
            labels[n], priorities[n] = goal_label(drawn, node, n), ["p3"]
        elif node.kind in FEATURES and node.token:
            labels[n] = abbreviated(picture_label(node.token), _LONGEST_NAME)
            priorities[n] = ["p2" if n in strongest else "p1"]
        reading = graph.readings[n] if graph.readings else None
        if node.kind in COLOURED_KINDS and reading is not None and reading.top:
            priority = _priority(reading, below.get(line))
            if is_picture_of_parts(graph):
                # A picture of few parts is about these; what the lens reads between them would drown their numbers.
                priority = priority and "p1"
            elif n == drawn.start or (reading.target_rank == 1 and line not in first_best):
                priority = "p3"
            if reading.target_rank == 1:
                first_best.add(line)
            below[line] = reading
            if priority:
                labels[n], priorities[n] = picture_label(reading.top[0][0]), [priority]
    return labels, priorities


def goal_label(drawn: Drawing, node: Node, n: int | None = None) -> str:
    """Text beside a logit: its token, and the model's probability of it; beside an end of a circuit its name.

    ``n`` is the node's number, by which a probability of its own is found that came with the graph.
    """
    info, notes = drawn.graph.info, drawn.graph.notes
    note = notes[n] if notes and n is not None else None
    if node.kind != "logit":
        return label(node)
    text = picture_label(node.token) if node.token is not None else f"token {node.index}"
    probability = info.target_probability if node.index == info.target else None if note is None else note.probability
    return text if probability is None else f"{text} {probability:.2f}".replace(" 0.", " .")


def _priority(reading: NodeReading, below: NodeReading | None) -> str:
    token, probability, _ = reading.top[0]
    if below is not None and below.top[0][0] == token:
        return ""
    is_word = any(character.isalnum() for character in token)
    return "p2" if is_word and probability >= _CERTAIN else "p1"


def _edges(drawn: Drawing) -> list[dict[str, Any]]:
    graph = drawn.graph
    found = []
    for rank, e in enumerate(drawn.order.tolist()):
        kind, structural = EDGE_KINDS[graph.kind[e]], bool(graph.structural[e])
        share, flow = float(graph.share[e]), float(drawn.flow[e])
        classes = _edge_classes(drawn, e, kind)
        pen = "self" if "self" in classes else "attention" if drawn.is_signed else kind
        width, opacity = edge_stroke(pen, flow)
        width_by_share, opacity_by_share = edge_stroke(pen, share)
        data = {
            "id": f"e{rank}", "source": f"n{graph.source[e]}", "target": f"n{graph.target[e]}",
            "c": int(drawn.level[e]), "w": width, "o": opacity, "ws": width_by_share, "os": opacity_by_share,
        }  # fmt: skip
        if not structural:
            data |= {"v": _short(graph.weight[e]), "s": _short(share), "f": _short(flow)}
        found.append({"data": data, "classes": " ".join(classes)})
    return found


def _edge_classes(drawn: Drawing, e: int, kind: str) -> list[str]:
    graph = drawn.graph
    source, target = graph.nodes[graph.source[e]], graph.nodes[graph.target[e]]
    if graph.structural[e]:
        is_stream = is_picture_of_parts(graph) and kind != "mlp_in"
        return ["stream" if is_stream else "structural"]
    if drawn.is_signed:
        sign = "lowers" if graph.share[e] < 0 else "raises"
        in_trunk = target.kind == "logit" and source.position in (None, graph.info.position) and source.stack is None
        return [sign, "trunk"] if in_trunk else [sign]
    if kind == "sink":
        return ["sink"]
    if target.kind in _HEADS:
        return ["to-cross" if target.kind == "cross_head" else "to-head"]
    if source.kind in _HEADS:
        return ["from-cross" if source.kind == "cross_head" else "from-head"]
    if kind == "attention":
        if source.stack != target.stack:
            return ["cross"]
        return ["self"] if source.position == target.position else ["attention"]
    return ["mlp"] if kind in ("mlp", "mlp_in", "expert") else [kind]


def facts(drawn: Drawing) -> dict[str, Any]:
    """What the page says about nodes and edges, in the order of their ids.

    ``vocabulary`` holds each token text once; readings refer to it. A reading is ``[norm, entropy, target rank, target
    probability, target logit, [[token, probability, logit], …], [[token, logit], …]]``, or None.
    """
    graph, flow = drawn.graph, drawn.node_flow
    vocabulary: dict[str, int] = {}
    readings = graph.readings or (None,) * len(graph.nodes)
    return {
        "labels": [label(_readable(node)) for node in graph.nodes],
        "kinds": [node.kind for node in graph.nodes],
        "positions": [None if node.position is None else column_of(graph, node) for node in graph.nodes],
        "flows": [_short(value) for value in flow],
        "readings": [None if reading is None else _reading(reading, vocabulary) for reading in readings],
        "edge_kinds": [EDGE_KINDS[graph.kind[e]] for e in drawn.order],
        "edge_places": [edge_place(graph, e) for e in drawn.order.tolist()],
        "notes": note_facts(graph),
        # Two digits more than are shown, so that the page does not round what was rounded.
        "mass": [round(100 * float(value), 4) for value in drawn.mass],
        "mass_of": mass_of(graph),
        "vocabulary": list(vocabulary),
        **(_effect_facts(drawn) if is_picture_of_parts(graph) else {}),
    }


def _effect_facts(drawn: Drawing) -> dict[str, Any]:
    """Of a picture of parts: how many parts the first 1, 2, … edges hold, the sum of their effects, and the effect of each node."""
    graph = drawn.graph
    parts = is_part(graph)[drawn.order]
    effects = np.where(parts, graph.weight[drawn.order].astype(np.float64), 0.0)
    return {
        "parts": np.cumsum(parts).tolist(),
        "effects": [_short(float(value)) for value in np.cumsum(effects)],
        "node_effects": [None if np.isnan(value) else _short(float(value)) for value in node_effects(graph)],
    }


def edge_place(graph: FlowGraph, e: int) -> str:
    """Layer, and at head level the head, that an edge belongs to, as labels of nodes have it."""
    if graph.layer[e] < 0:
        return ""
    source, target = graph.nodes[graph.source[e]], graph.nodes[graph.target[e]]
    stack = "" if target.stack is None else f"{STACKS[target.stack]}."
    reads_other = source.stack != target.stack or "cross_head" in (source.kind, target.kind)
    part = ".cross" if reads_other else ""
    head = f"{'.' if reads_other else ''}H{graph.head[e]}" if graph.head[e] >= 0 else ""
    return f"{stack}L{graph.layer[e]}{part}{head}"


def _readable(node: Node) -> Node:
    return node if node.token is None else replace(node, token=visible(node.token))


def _reading(reading: NodeReading, vocabulary: dict[str, int]) -> list[Any]:
    def entry(token: str) -> int:
        return vocabulary.setdefault(visible(token), len(vocabulary))

    return [
        _short(reading.norm),
        _short(reading.entropy),
        reading.target_rank,
        _short(reading.target_probability),
        _short(reading.target_logit),
        [[entry(token), _short(probability), _short(logit)] for token, probability, logit in reading.top[:_TOP]],
        [[entry(token), _short(logit)] for token, _, logit in reading.bottom[:_BOTTOM]],
    ]


def _short(value: float | None) -> float | None:
    """Four significant digits: more than the page prints, less than a float takes."""
    return None if value is None else float(f"{value:.4g}")
