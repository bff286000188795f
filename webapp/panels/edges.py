"""Edges of the graph on the screen as tables: those at a node, and those that lead from one token to another."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from flowgraph import FlowGraph, Node, connected_flow
from flowgraph.render import edge_place

from ..present.drawn import Element, element, link, node_label, token
from ..present.figures import plural, probability, signed, weight
from ..present.tables import Cell, Column, Order, table

MOST_ROWS = 200
_MOVES = 12


class Listed(NamedTuple):
    """An edge from one token to another: its index, columns of key and query, where it is, and its strength.

    ``strength`` is the edge's weight where these are logits, and its flow otherwise, with the sign of its share.
    """

    edge: int
    key: int
    query: int
    layer: int
    place: str
    strength: float


def strengths(graph: FlowGraph) -> Float[np.ndarray, "E"]:
    """[E] what lists of edges go by: logits where that is the unit, else the flow into the start; both with their sign."""
    if graph.info.unit == "logits":
        return np.where(graph.structural, 0.0, graph.weight.astype(np.float64))
    return np.where(graph.share < 0, -flows(graph), flows(graph))


def strength_column(graph: FlowGraph) -> Column:
    """The head of a column of :func:`strengths`."""
    return Column("adds", "logits", "number") if graph.info.unit == "logits" else Column("flow", "share", "number")


def has_signs(graph: FlowGraph) -> bool:
    """Whether some edge lowers its target: then what is sorted by strength is sorted by |strength|."""
    return graph.info.unit == "logits" or bool((graph.share < 0).any())


def with_sign(graph: FlowGraph, value: float) -> str:
    """A strength in words: signs are shown wherever one is possible."""
    if graph.info.unit == "logits":
        return weight(value, "logits")
    return signed(value, 3) if has_signs(graph) else probability(value)


@lru_cache(maxsize=4)
def flows(graph: FlowGraph) -> Float[np.ndarray, "E"]:
    """[E] flow of each edge into the start, as the picture has it; a graph is compared by identity."""
    if graph.flow is not None:  # along everything that the method gives, of which this graph is a part
        return graph.flow
    return connected_flow(graph) if len(graph) else np.zeros(0)


def edges_at(graph: FlowGraph, n: int, way: str) -> list[int]:
    """Edges into (``"in"``) or out of (``"out"``) a node, the strongest first: by share into it, by flow out of it."""
    ends = graph.target if way == "in" else graph.source
    found = np.flatnonzero(ends == n)
    strength = np.abs(graph.share[found]) if way == "in" else flows(graph)[found]
    return [int(edge) for edge in found[np.argsort(-strength, kind="stable")]]


def moved_between(graph: FlowGraph) -> tuple[Int[np.ndarray, "E"], Int[np.ndarray, "E"]]:
    """[E] positions that each edge leads from and to: its own, else those of its ends; −1 where neither says one.

    The logit stands at the position that is explained.
    """
    places = np.array([_position(node, graph) for node in graph.nodes], dtype=np.int64)
    if not len(graph):
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    own = (graph.key_pos >= 0) & (graph.query_pos >= 0)
    # Positions of several stacks stand in one row, the encoder's first.
    first = np.array([graph.info.column(node.stack, 0) for node in graph.nodes], dtype=np.int64)
    key, query = graph.key_pos + first[graph.source], graph.query_pos + first[graph.target]
    return np.where(own, key, places[graph.source]), np.where(own, query, places[graph.target])


def _position(node: Node, graph: FlowGraph) -> int:
    if node.position is not None:
        return graph.info.column(node.stack, node.position)
    return graph.info.column(None, graph.info.position) if node.kind == "logit" else -1


def strongest_moves(graph: FlowGraph) -> list[Listed]:
    """Edges between different tokens of the largest |strength|, the strongest first."""
    strength = strengths(graph)
    key, query = moved_between(graph)
    moves = (key >= 0) & (query >= 0) & (key != query) & (strength != 0)
    order = np.flatnonzero(moves)[np.argsort(-np.abs(strength[moves]), kind="stable")][:_MOVES]
    return [
        Listed(
            int(e),
            int(key[e]),
            int(query[e]),
            int(graph.layer[e]),
            edge_place(graph, int(e)),
            float(strength[e]),
        )
        for e in order
    ]


def edge_table(graph: FlowGraph, edges: Sequence[int], title: str, end: str) -> Element | None:
    """A sortable table of edges at one node; each row selects the node at the other end. None without edges."""
    if not edges:
        return None
    units = sorted({graph.unit_of(e) for e in edges})
    # Where the weight is a share of the same whole, it would say the same number twice.
    has_weight = units != ["share"]
    lines = [_row(graph, e, end, has_weight) for e in edges[:MOST_ROWS]]
    ends = graph.source if end == "source" else graph.target
    heads = [Column("source" if end == "source" else "target")]
    heads += (
        [Column("weight", units[0] if len(units) == 1 and units != ["weight"] else "", "number")] if has_weight else []
    )
    heads += [Column("share", kind="number"), Column("flow", kind="number")]
    by: Order | None = (len(heads) - (2 if end == "source" else 1), "descending")
    if has_signs(graph):
        # A column's arrow would speak of the signed numbers.
        title, by = f"{title}, by |{'share' if end == 'source' else 'flow'}|", None
    made = table(title, heads, lines, nodes=[graph.nodes[ends[e]] for e in edges[:MOST_ROWS]], by=by)
    more = len(edges) - MOST_ROWS
    return element("div", made, element("p", f"and {plural(more, 'weaker edge')}", cls="note") if more > 0 else None)


def _row(graph: FlowGraph, e: int, end: str, has_weight: bool) -> list[Cell]:
    node = graph.nodes[(graph.source if end == "source" else graph.target)[e]]
    about = graph.edge_dict(e)
    head = "" if about["head"] is None or node.kind == "head" else f", H{about['head']}"
    at = None
    tokens = graph.info.tokens_of(node.stack)
    if node.position is not None and node.position < len(tokens):
        at = element("span", " ", token(tokens[node.position]), cls="at")
    name = element(
        "span",
        link(node, node_label(node)),
        at,
        element("span", f"{about['kind'].replace('_', ' ')}{head}", cls="kind"),
    )
    if about["weight"] is None:
        nothing = [Cell("none", title="no number under this method")]
        return [Cell(name), *(nothing * has_weight), Cell("none"), Cell("none")]
    share = float(about["share"])
    cells = [Cell(name)]
    if has_weight:
        cells.append(Cell(weight(about["weight"], about["unit"]), about["weight"], about["unit"]))
    flow = float(flows(graph)[e]) * (-1 if share < 0 else 1)
    text = (lambda value: signed(value, 3)) if has_signs(graph) else probability
    return [*cells, Cell(text(share), share), Cell(text(flow), flow)]
