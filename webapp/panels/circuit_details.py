"""What the page says of a circuit: what was searched and found, every edge with its effect, and a node or an edge of it.

``panel(answer)`` is of the whole, ``node_panel(answer, node, pinned)`` and ``edge_panel(answer, edge)`` of a part. Edges are
selected as ``edge.17``. What is said of edges is :class:`flowgraph.CircuitEdges`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import flowgraph
from flowgraph import CircuitEdges, FlowGraph, Node

from ..present import html
from ..present.attributes import named
from ..present.buttons import acts
from ..present.drawn import Element, Fact, drawn, element, facts, link, token
from ..present.figures import percent, plural, signed
from ..present.tables import Cell, Column, table
from .circuit import Circuit, Pair

if TYPE_CHECKING:
    from dash.development.base_component import Component

MOST_ROWS = 200
_MOST_PAIRS = 3


def panel(answer: Circuit) -> Component:
    """How the circuit was found, its prompts, and its edges."""
    edges = flowgraph.circuit_edges(answer.graph)
    tree = element(
        "div",
        element("h3", "Circuit"),
        element("p", f"Of {answer.about}.", cls="place"),
        facts([(name, _said(value), unit) for name, value, unit in edges.facts()]),
        element("p", edges.note, cls="note"),
        *_prompts(answer.pairs),
        effect_table(edges, range(len(answer.graph)), "Edges, by |effect|"),
        cls="details",
    )
    return drawn(tree, name="circuit", label="Details of the circuit")


def node_panel(answer: Circuit, node: Node, pinned: Sequence[str]) -> Component:
    """The edges at a node of the circuit."""
    graph, edges = answer.graph, flowgraph.circuit_edges(answer.graph)
    if node not in graph.nodes:
        body = [element("p", "Not in this circuit: none of its edges touches this.", cls="note")]
    else:
        n = graph.nodes.index(node)
        ways = ((graph.target, "What it reads, by |effect|"), (graph.source, "What reads it, by |effect|"))
        found = (effect_table(edges, [e for e in range(len(graph)) if ends[e] == n], title) for ends, title in ways)
        body = [one for one in found if one is not None]
    tree = element("div", element("h3", str(node)), *body, cls="details")
    return html.Div(
        [acts(node, pinned), drawn(tree, name="circuit", label=f"Details of {node}")], className="node-panel"
    )


def edge_panel(answer: Circuit, edge: int) -> Component:
    """What an edge of the circuit contributes."""
    graph, edges = answer.graph, flowgraph.circuit_edges(answer.graph)
    source, target = (graph.nodes[ends[edge]] for ends in (graph.source, graph.target))
    found: list[Fact] = [
        ("from", link(source, str(source)), ""),
        ("to", link(target, str(target)), edges.reads(edge)),
        ("effect", signed(float(graph.weight[edge]), 3), graph.info.unit),
        *([("of the gap", percent(float(graph.weight[edge]), edges.gap), "")] if edges.gap else []),
        ("of what is known to enter there", signed(float(graph.share[edge]), 3), ""),
    ]
    side = "supports the answer" if graph.weight[edge] > 0 else "works against the answer"
    tree = element(
        "div",
        element("h3", "Edge of the circuit"),
        facts(found),
        element(
            "p",
            f"It {side}. {'Measured by cutting it.' if edges.measured else 'A first-order estimate.'}",
            cls="note",
        ),
        cls="details",
    )
    return drawn(tree, name="circuit", label="Details of an edge", selected=f"edge.{edge}")


def effect_table(of: CircuitEdges, edges: Sequence[int], title: str) -> Element | None:
    """A sortable table of edges and their effects, the strongest first; each row selects its edge. None without edges."""
    if not edges:
        return None
    order = of.order(edges)
    largest = abs(float(of.graph.weight[order[0]])) or 1.0
    lines = [_row(of, e, largest) for e in order[:MOST_ROWS]]
    columns = (Column("edge"), Column("bar", kind="plot"), Column("effect", of.graph.info.unit, "number"))
    made = table(title, columns, lines)
    more = len(order) - MOST_ROWS
    rest = element("p", f"and {plural(more, 'weaker edge')}; all are in the exports", cls="note") if more > 0 else None
    return element("div", made, rest)


def caption(answer: Circuit) -> list[Component]:
    """What the picture shows, in a line; the whole story on hover."""
    info = answer.graph.info
    text = f"{info.method} in {info.unit}, {answer.about}: {len(answer.graph):,} {answer.note}"
    return [html.Span(text, title=answer.graph.caption())]


def mass_hint(graph: FlowGraph) -> str:
    """What the slider goes by."""
    how = "measured" if flowgraph.circuit_edges(graph).measured else "estimated"
    return (
        f"Edges appear from the largest effect downwards, each {how} by itself. The mass is the summed |share| of all edges whose "
        "effect is known."
    )


def chip(answer: Circuit) -> list[Component]:
    """That a circuit is shown, with the way back to the flow graph."""
    method = flowgraph.circuit_edges(answer.graph).method
    back = html.Button(
        "back to the flow graph",
        type="button",
        className="link",
        title="Show the flow graph of this prompt again; the circuit stays in the history of the browser",
        **named({"data-leave": "circuit"}),
    )
    said = [html.Span("circuit, ", className="note"), html.B(method)]
    return [html.Span(said, className="chip start", title=f"of {answer.about}"), back]


def _row(of: CircuitEdges, edge: int, largest: float) -> list[Cell]:
    graph = of.graph
    source, target = graph.nodes[graph.source[edge]], graph.nodes[graph.target[edge]]
    value = float(graph.weight[edge])
    reads = of.reads(edge).replace("its", "", 1)
    name = element(
        "button", str(source), element("span", " → ", cls="at"), str(target), element("span", reads, cls="at"),
        type="button", cls="link", data_pick=f"edge.{edge}",
    )  # fmt: skip
    side = "up" if value >= 0 else "down"
    bar = element("i", cls=f"measure {side}", v_from="0", v_size=f"{min(1.0, abs(value) / largest):.3f}")
    return [Cell(name), Cell(element("span", bar, cls="track")), Cell(signed(value, 3), value)]


def _said(value: str | int | float) -> str:
    """A fact of the search: counts with commas, a number of the metric with its sign."""
    if isinstance(value, str):
        return value
    return f"{value:,}" if isinstance(value, int) else signed(value)


def _prompts(pairs: Sequence[Pair]) -> list[Element]:
    blocks = [element("div", *_pair_text(pair), cls="pair") for pair in pairs[:_MOST_PAIRS]]
    more = len(pairs) - _MOST_PAIRS
    return blocks + ([element("p", f"and {plural(more, 'more pair')} of prompts", cls="note")] if more > 0 else [])


def _pair_text(pair: Pair) -> list[Element]:
    against = ["the mean logit"] if pair.foil is None else [token(pair.foil)]
    return [
        element("p", element("span", "clean ", cls="note"), pair.clean),
        element("p", element("span", "corrupted ", cls="note"), pair.corrupted),
        element(
            "p",
            element("span", "logit of ", cls="note"),
            token(pair.target),
            element("span", " minus ", cls="note"),
            *against,
        ),
    ]
