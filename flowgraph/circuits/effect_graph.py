"""A picture of parts as a flow graph: terms, heads and MLPs where they act, and each position's stream as lines between them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise

import numpy as np

from ..interventions.parts import Part
from ..methods.origin import origin
from ..values.flow_graph import EDGE_KINDS, FlowGraph
from ..values.graph_info import EFFECT
from ..values.node import Node
from ..values.trace import Trace


class _Edges:
    """Columns of edges, one edge at a time."""

    def __init__(self) -> None:
        self.rows: list[tuple[Node, Node, str, int, int, int, int, float | None]] = []

    def add(
        self, source: Node, target: Node, kind: str, *, layer: int = -1, head: int = -1, query: int, key: int = -1,
        weight: float | None = None,
    ) -> None:  # fmt: skip
        self.rows.append((source, target, kind, layer, head, query, query if key < 0 else key, weight))

    def graph(self, trace: Trace, possible: int) -> FlowGraph:
        """The graph; a share is a part of Σ|weight| into the same node."""
        nodes = tuple(sorted({end for row in self.rows for end in row[:2]}, key=_depth))
        number = {node: n for n, node in enumerate(nodes)}
        source = np.array([number[row[0]] for row in self.rows], dtype=np.int64)
        target = np.array([number[row[1]] for row in self.rows], dtype=np.int64)
        layer, head, query, key = (np.array([row[n] for row in self.rows], dtype=np.int64) for n in range(3, 7))
        weight = np.array([row[7] or 0.0 for row in self.rows])
        into = np.bincount(target, weights=np.abs(weight), minlength=len(nodes))[target]
        share = np.divide(weight, into, out=np.zeros_like(weight), where=into > 0)
        info = replace(
            origin(trace, EFFECT, "logits"), level="head", total_edges=possible, total_share=float(np.abs(share).sum())
        )
        return FlowGraph(
            nodes=nodes, source=source, target=target,
            kind=np.array([EDGE_KINDS.index(row[2]) for row in self.rows], dtype=np.int64), layer=layer,
            head=head, query_pos=query, key_pos=key, weight=weight, share=share, structural=np.array([row[7] is None for row in self.rows]), info=info,
        )  # fmt: skip


def effect_graph(trace: Trace, parts: Mapping[Part, float], possible: int, changed: frozenset[int]) -> FlowGraph:
    """The graph of parts with their effects.

    Parameters
    ----------
    trace
        The prompt's trace.
    parts
        Part → effect in logits, signed.
    possible
        How many parts there are to choose from.
    changed
        Positions whose tokens differ in some counterfactual: what is drawn begins there.
    """
    parallel = trace.wiring == "parallel"
    states = _states(parts, trace, changed, parallel=parallel)
    edges = _Edges()
    heads: dict[tuple[int, int, int], float] = {}
    for part, weight in parts.items():
        if part.head is not None and part.source is not None:
            head = Node("head", layer=part.layer, head=part.head, position=part.position)
            read = _last(states[part.source], 2 * part.layer)
            edges.add(
                read, head, "attention", layer=part.layer, head=part.head, query=part.position, key=part.source, weight=weight
            )  # fmt: skip
            key = (part.layer, part.head, part.position)
            heads[key] = heads.get(key, 0.0) + weight
            continue
        place = {"layer": part.layer, "query": part.position}
        if part.is_mixer:
            node = Node("mixer", layer=part.layer, position=part.position)
            edges.add(node, _after(part, parallel=parallel), "mixer", **place, weight=weight)
        else:
            node = Node("mlp", layer=part.layer, position=part.position)
            read = _last(states[part.position], 2 * part.layer + (0 if parallel else 1))
            edges.add(read, node, "mlp_in", **place)
            edges.add(node, _after(part, parallel=parallel), "mlp", **place, weight=weight)
    for (layer, index, position), weight in heads.items():
        head = Node("head", layer=layer, head=index, position=position)
        after = _after(Part(layer, position, index, position), parallel=parallel)
        edges.add(head, after, "head", layer=layer, head=index, query=position, weight=weight)
    for position, own in states.items():
        ordered = [own[depth] for depth in sorted(own)]
        for before, after in pairwise(ordered):
            edges.add(before, after, "residual", layer=after.layer or 0, query=position)
    if trace.position in states:
        logit = Node("logit", index=trace.target, token=_named(trace))
        edges.add(_last(states[trace.position], 2 * trace.n_layers), logit, "unembed", query=trace.position)
    return edges.graph(trace, possible)


def _states(
    parts: Mapping[Part, float], trace: Trace, changed: frozenset[int], *, parallel: bool
) -> dict[int, dict[int, Node]]:
    """Position → depth → state: where something is read or written. Embeddings stand where tokens differ, or nothing else is read."""
    found: dict[int, dict[int, Node]] = {at: {0: Node("embed", position=at)} for at in changed}
    for part in parts:
        after = _after(part, parallel=parallel)
        found.setdefault(part.position, {})[2 * part.layer + (1 if after.kind == "resid_mid" else 2)] = after
    for part in parts:
        reads = part.position if part.source is None else part.source
        depth = 2 * part.layer + (1 if part.head is None and not parallel else 0)
        own = found.setdefault(reads, {})
        if not any(below <= depth for below in own):
            own[0] = Node("embed", position=reads)
    if trace.position in found and not found[trace.position]:
        found[trace.position][0] = Node("embed", position=trace.position)
    return dict(sorted(found.items()))


def _after(part: Part, *, parallel: bool) -> Node:
    """The state that a part is added to."""
    is_middle = not parallel and (part.head is not None or part.is_mixer)
    return Node("resid_mid" if is_middle else "resid_post", layer=part.layer, position=part.position)


def _last(states: Mapping[int, Node], depth: int) -> Node:
    """The last state up to a depth."""
    return states[max(own for own in states if own <= depth)]


def _named(trace: Trace) -> str | None:
    return trace.target_token if trace.foil_token is None else f"{trace.target_token} − {trace.foil_token}"


_ORDER = {"embed": 0, "mixer": 1, "head": 1, "resid_mid": 2, "mlp": 3, "resid_post": 4, "logit": 5}


def _depth(node: Node) -> tuple[int, int, int, int]:
    """Order of computation."""
    layer = -1 if node.kind == "embed" else 10**9 if node.layer is None else node.layer
    return layer, _ORDER[node.kind], node.position or 0, node.head or 0
