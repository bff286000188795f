"""A circuit beside its picture: what was searched and found, every edge with its effect, and what a node or an edge has to do with it.

``panel(answer)`` is of the whole, ``node_panel(answer, node, pinned)`` and ``edge_panel(answer, edge)`` of a part. Edges are
selected as ``edge.17``.
"""

from __future__ import annotations

from collections.abc import Sequence

from dash import html
from dash.development.base_component import Component

from flowgraph import FlowGraph, Node
from flowgraph.render import visible

from ..present.attributes import named
from ..present.drawn import Element, drawn, element, facts, link, token
from ..present.figures import plural, signed
from ..present.tables import Cell, Column, table
from ..server.answers import Circuit, CircuitTest, Pair
from .details import acts
from .effects import boxed, test_button

MOST_ROWS = 200
_MOST_PAIRS = 3
_READS = {"query": "its query", "key": "its key", "value": "its value"}
"""Kind of edge → what of its target reads it, where that has several things that read."""
_MEASURED = "Each edge was cut by itself, and the answer measured. Effects do not add up: edges depend on each other."
_ESTIMATED = (
    "Effects are first-order estimates; no edge was cut to confirm them. The search backward confirms what it shows."
)
_ABLATIONS = {"resample": "the corrupted prompt’s", "zero": "nothing"}
_TEST = "Run the model once more with every edge that this picture does not show bringing what it brings for the corrupted prompt"
Fact = tuple[Element | str, Element | str, str]


def is_measured(graph: FlowGraph) -> bool:
    """Whether the effects of a circuit were measured and not estimated."""
    return graph.info.method == "circuit: backward"


def panel(answer: Circuit) -> Component:
    """How the circuit was found, its prompts, and its edges."""
    graph = answer.graph
    tree = element(
        "div",
        element("h3", "Circuit"),
        element("p", f"Of {answer.about}.", cls="place"),
        facts(search_facts(graph)),
        element("p", _MEASURED if is_measured(graph) else _ESTIMATED, cls="note"),
        _untested(graph),
        *_prompts(answer.pairs),
        effect_table(graph, range(len(graph)), "Edges, by |effect|"),
        cls="details",
    )
    return drawn(tree, name="circuit", label="Details of the circuit")


def offer() -> list[Component]:
    """The button that tests the circuit."""
    return [test_button("graph", "Test this circuit", _TEST)]


def circuit_effect(answer: CircuitTest) -> Component:
    """How much of the answer the circuit keeps by itself."""
    gap = answer.full - answer.empty
    rows: list[Fact] = [
        ("the model", signed(answer.full), answer.unit),
        ("no edge, the corrupted prompt", signed(answer.empty), answer.unit),
        ("this circuit alone", signed(answer.kept), answer.unit),
    ]
    if gap:
        rows.append(("of the gap", _part(answer.kept - answer.empty, gap), ""))
    said = (
        f"{answer.metric.capitalize()} on {plural(answer.prompts, 'prompt')}; {plural(answer.edges, 'edge')} of the picture are left, all "
        "others bring the corrupted prompt’s. Never clipped: above 100 % where what is left out works against the answer."
    )
    title = "Test of this circuit"
    tree = element("div", element("h3", title), element("p", said, cls="note"), facts(rows), cls="details")
    return boxed(tree, title)


def node_panel(answer: Circuit, node: Node, pinned: Sequence[str]) -> Component:
    """The edges at a node of the circuit."""
    graph = answer.graph
    if node not in graph.nodes:
        body = [element("p", "Not in this circuit: none of its edges touches this.", cls="note")]
    else:
        n = graph.nodes.index(node)
        ways = ((graph.target, "What it reads, by |effect|"), (graph.source, "What reads it, by |effect|"))
        found = (effect_table(graph, [e for e in range(len(graph)) if ends[e] == n], title) for ends, title in ways)
        body = [one for one in found if one is not None]
    tree = element("div", element("h3", str(node)), *body, cls="details")
    return html.Div(
        [acts(node, pinned), drawn(tree, name="circuit", label=f"Details of {node}")], className="node-panel"
    )


def edge_panel(answer: Circuit, edge: int) -> Component:
    """What an edge of the circuit contributes."""
    graph = answer.graph
    source, target = (graph.nodes[ends[edge]] for ends in (graph.source, graph.target))
    found: list[Fact] = [
        ("from", link(source, str(source)), ""),
        ("to", link(target, str(target)), _reads(graph, edge)),
        ("effect", signed(float(graph.weight[edge]), 3), graph.info.unit),
        ("of the gap", _part(float(graph.weight[edge]), float(graph.info.options["gap"])), ""),
        ("of what is known to enter there", signed(float(graph.share[edge]), 3), ""),
    ]
    side = "supports the answer" if graph.weight[edge] > 0 else "works against the answer"
    tree = element(
        "div",
        element("h3", "Edge of the circuit"),
        facts(found),
        element(
            "p",
            f"It {side}. {'Measured by cutting it.' if is_measured(graph) else 'A first-order estimate.'}",
            cls="note",
        ),
        cls="details",
    )
    return drawn(tree, name="circuit", label="Details of an edge", selected=f"edge.{edge}")


def search_facts(graph: FlowGraph) -> list[Fact]:
    """What the search says of itself, in its own numbers."""
    said, unit = graph.info.options, graph.info.unit
    found: list[Fact] = [
        ("method", graph.info.method.removeprefix("circuit: "), ""),
        ("a cut edge brings", _ABLATIONS.get(str(said["ablation"]), str(said["ablation"])), ""),
        ("measured", str(said["metric"]), ""),
        ("prompts", str(said["prompts"]), ""),
        ("gap, clean less corrupted", signed(float(said["gap"])), unit),
        ("edges", f"{len(graph):,}", ""),
    ]
    names = {
        "forwards": "forwards run", "backwards": "backwards run", "layer_runs": "runs of one layer", "budget": "budget, forwards",
        "steps": "runs between the prompts", "tested": "edges cut", "untested": "left untested",
    }  # fmt: skip
    return found + [(text, f"{int(said[name]):,}", "") for name, text in names.items() if name in said]


def effect_table(graph: FlowGraph, edges: Sequence[int], title: str) -> Element | None:
    """A sortable table of edges and their effects, the strongest first; each row selects its edge. None without edges."""
    if not edges:
        return None
    order = sorted(edges, key=lambda e: -abs(float(graph.weight[e])))
    largest = max(abs(float(graph.weight[e])) for e in order) or 1.0
    lines = [_row(graph, e, largest) for e in order[:MOST_ROWS]]
    columns = (Column("edge"), Column("bar", kind="plot"), Column("effect", graph.info.unit, "number"))
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
    how = "measured" if is_measured(graph) else "estimated"
    return (
        f"Edges appear from the largest effect downwards, each {how} by itself. The mass is the summed |share| of all edges whose "
        "effect is known."
    )


def chip(answer: Circuit) -> list[Component]:
    """That a circuit is shown, with the way back to the flow graph."""
    method = answer.graph.info.method.removeprefix("circuit: ")
    back = html.Button(
        "back to the flow graph",
        type="button",
        className="link",
        title="Show the flow graph of this prompt again; the circuit stays in the history of the browser",
        **named({"data-leave": "circuit"}),
    )
    said = [html.Span("circuit, ", className="note"), html.B(method)]
    return [html.Span(said, className="chip start", title=f"of {answer.about}"), back]


def found_box(answer: Circuit, query: str) -> Component:
    """That a search has ended, and a way to its result."""
    show = html.Button(
        "Show it", type="button", className="button small", title="Show this circuit", **named({"data-go": query})
    )
    said = f"{plural(len(answer.graph), 'edge')}, {answer.note.removeprefix('edges ')}"
    return html.Div([html.P([html.B("Circuit found: "), said, ".", *_found_for(answer)]), show], className="found-box")


def _found_for(answer: Circuit) -> list[str]:
    """Whose circuit it is: the page may look at another prompt by now."""
    if answer.graph.info.options.get("prompts") != 1 or not answer.pairs:
        return [f" Of {answer.about}."]
    pair = answer.pairs[0]
    against = "the mean logit" if pair.foil is None else visible(pair.foil)
    return [f" Of “{pair.clean}”: {visible(pair.target)} against {against}."]


def _row(graph: FlowGraph, edge: int, largest: float) -> list[Cell]:
    source, target = graph.nodes[graph.source[edge]], graph.nodes[graph.target[edge]]
    value = float(graph.weight[edge])
    reads = _reads(graph, edge).replace("its", "", 1)
    name = element(
        "button", str(source), element("span", " → ", cls="at"), str(target), element("span", reads, cls="at"),
        type="button", cls="link", data_pick=f"edge.{edge}",
    )  # fmt: skip
    side = "up" if value >= 0 else "down"
    bar = element("i", cls=f"measure {side}", v_from="0", v_size=f"{min(1.0, abs(value) / largest):.3f}")
    return [Cell(name), Cell(element("span", bar, cls="track")), Cell(signed(value, 3), value)]


def _reads(graph: FlowGraph, edge: int) -> str:
    return _READS.get(str(graph.edge_dict(edge)["kind"]), "")


def _part(value: float, gap: float) -> str:
    return f"{100 * value / gap:.1f} %".replace("-", "−")


def _untested(graph: FlowGraph) -> Element | None:
    left = int(graph.info.options.get("untested", 0))
    if not left:
        return None
    text = f"{plural(left, 'edge')} that may be large enough could not be tested with this budget; a larger one would."
    return element("p", text, cls="note")


def _prompts(pairs: Sequence[Pair]) -> list[Element]:
    blocks = [element("div", *_pair(pair), cls="pair") for pair in pairs[:_MOST_PAIRS]]
    more = len(pairs) - _MOST_PAIRS
    return blocks + ([element("p", f"and {plural(more, 'more pair')} of prompts", cls="note")] if more > 0 else [])


def _pair(pair: Pair) -> list[Element]:
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
