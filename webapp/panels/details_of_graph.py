"""What stands beside the picture while nothing is selected: the strongest moves between tokens, and what can be done."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from flowgraph import FlowGraph

from ..present.drawn import Element, drawn, element, token
from ..present.tables import Cell, Column, table
from ..server.run import Run
from .edges import Listed, has_signs, moved_between, strength_column, strongest_moves, with_sign

if TYPE_CHECKING:
    from dash.development.base_component import Component


def panel(graph: FlowGraph | None, run: Run) -> Component:
    """Where to look first.

    Parameters
    ----------
    graph
        The graph on the screen; None where there is none yet.
    run
        The pass.
    """
    return drawn(_opening(graph, run), name="details", label="Details")


def _opening(graph: FlowGraph | None, run: Run) -> Element:
    """Where to look first, and what can be done."""
    start = "; a double click makes it the start of the flow" if run.token_ids else ""
    ways = element(
        "div",
        element("p", "Click a node, an edge or a cell for its numbers."),
        element("p", f"Ctrl + click pins a node{start}."),
        cls="hint",
    )
    found: list[Listed] = [] if graph is None else strongest_moves(graph)
    if graph is None or not found:
        return element("div", element("p", _no_moves(graph), cls="note"), ways, cls="details")
    return element("div", _moves(graph, found, run), ways, cls="details")


def _no_moves(graph: FlowGraph | None) -> str:
    """Why there are no strongest moves."""
    if graph is None:
        return "No graph is drawn yet."
    key, query = moved_between(graph)
    if ((key >= 0) & (query >= 0) & (key != query)).any():
        return "No edge between different tokens carries flow into the start."
    if ((key < 0) | (query < 0)).any():
        return "No edge is known to lead from one token to another; some say no positions."
    return "No edge of this graph leads from one token to another."


def _moves(graph: FlowGraph, found: Sequence[Listed], run: Run) -> Element:
    lines = []
    for one in found:
        (source, key), (target, query) = (_at(graph, column, run) for column in (one.key, one.query))
        go = element(
            "button",
            source,
            element("span", f" {key}", cls="note"),
            " → ",
            target,
            element("span", f" {query}", cls="note"),
            type="button",
            cls="link",
            data_pick=f"edge.{one.edge}",
        )
        lines.append([Cell(go), Cell(one.place, one.layer), Cell(with_sign(graph, one.strength), one.strength)])
    columns = (Column("move"), Column("layer", kind="number"), strength_column(graph))
    title = "Strongest moves between tokens"
    if not has_signs(graph):
        return table(title, columns, lines, by=(2, "descending"))
    return table(f"{title}, by |{columns[2].unit if columns[2].unit == 'logits' else 'flow'}|", columns, lines)


def _at(graph: FlowGraph, column: int, run: Run) -> tuple[Element, str]:
    """The token of a column, and its number within its stack."""
    stack, position = graph.info.at_column(column)
    tokens = run.tokens if stack is None else graph.info.tokens_of(stack)
    return token(tokens[position]), str(position) if stack is None else f"{position} of the {stack}"
