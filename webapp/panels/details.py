"""Details of a node or an edge of the flow graph, or, with nothing selected, the strongest moves between tokens.

``panel(answer, graph, run, *, pinned=()) -> Component``: ``answer`` is None where nothing is selected; ``graph`` is the graph on
the screen; ``pinned`` are node keys. Buttons ``{"type": "act", "act": "pin" | "unpin" | "start", "node": key}``.
``edge_panel(graph, edge, run) -> Component``: ``edge`` is its index in the graph. Edges are selected as ``edge.17``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import flowgraph
from flowgraph import FlowGraph, Node, NodeReading
from flowgraph.errors import FlowgraphError, ModelNeededError
from flowgraph.render import note_facts, roles_text, visible

from ..node_key import EDGE, edge_of, parse_node_key
from ..present import html
from ..present.buttons import acts
from ..present.drawn import Element, drawn, element, facts, link, token
from ..present.errors import panel_error
from ..present.figures import count, plural, probability, short, signed, weight
from ..present.ids import Id
from ..present.tables import Cell, Column, table
from ..present.wiring import NOTHING
from ..recipe import Recipe, from_query
from ..registered import POSTED
from ..server.asking import ask, can_ask
from ..server.question import recorded
from ..server.run import OfRun, Run, RunQuestion, same
from ..server.traces import Check, Traces
from . import circuit
from .circuit import Circuit
from .edges import (
    Listed,
    edge_table,
    edges_at,
    flows,
    has_signs,
    moved_between,
    strength_column,
    strongest_moves,
    with_sign,
)
from .effects import offer, offer_tests
from .picture import shown

if TYPE_CHECKING:
    from dash import Dash
    from dash.development.base_component import Component

    from ..present.wiring import View
    from ..server.service import Service

_PARTS = frozenset({"head", "attn", "mlp", "neuron", "attn_bias", "mlp_bias"})
_KEYS = 8
Fact = tuple[Element | str, Element | str, str]


@dataclass(frozen=True)
class NodeAnswer:
    """:class:`flowgraph.NodeDetails` as session files hold it.

    The node is also there as it is written, attention is a list, and the tokens are the run's.
    """

    node: Node
    label: str
    reading: NodeReading | None
    contribution: float | None
    attention: tuple[float, ...] | None
    note: str


@recorded
@dataclass(frozen=True)
class NodeQuestion(OfRun[NodeAnswer]):
    """What one node says."""

    node: flowgraph.Node

    def answer(self, traces: Traces, check: Check) -> NodeAnswer:
        """What one node says."""
        trace, asked = traces.trace(self.run, check), self.node
        is_added = trace.model.has_attribution and asked.position in (None, trace.position)
        parts = traces.attribution(self.run, check) if is_added else None
        check("reading a node", None)
        said = flowgraph.node_details(trace, asked, attribution=parts)
        attention = None if said.attention is None else tuple(said.attention.tolist())
        return NodeAnswer(asked, str(asked), said.reading, said.contribution, attention, said.note)

    def refuse_unfit(self, run: Run, answer: NodeAnswer) -> None:
        """As the base class says."""
        same("NodeAnswer.node", answer.node, self.node)
        same("NodeAnswer.attention", len(answer.attention or ()) in (0, len(run.tokens)), True)


def panel(
    answer: NodeAnswer | None, graph: FlowGraph | None, run: Run, *, pinned: Sequence[str] = (), starts: bool = True
) -> Component:
    """What a node says, or where to look first.

    Parameters
    ----------
    answer
        The node; None where nothing is selected.
    graph
        The graph on the screen; None where there is none yet.
    run
        The pass.
    pinned
        Keys of the pinned nodes.
    starts
        Whether the flow into another node can be asked for.
    """
    if answer is None:
        return drawn(_opening(graph, run), name="details", label="Details")
    node = answer.node
    n = graph.nodes.index(node) if graph is not None and node in graph.nodes else None
    tree = element(
        "div",
        element("h3", node_label(node)),
        _place(node, run),
        _roles(graph, n),
        element("p", f"Not said: {answer.note}.", cls="note") if answer.note else None,
        facts(_facts(answer, graph, n, run)),
        _two_measures(answer, run),
        *_vocabulary(answer.reading, ", read alone" if _is_part(node) else ""),
        _looks_at(answer, run),
        *([] if graph is None else _edges(graph, n)),
        cls="details",
    )
    return html.Div(
        [acts(node, pinned, starts=starts), drawn(tree, name="details", label=f"Details of {answer.label}")],
        className="node-panel",
    )


def edge_panel(graph: FlowGraph, edge: int, run: Run) -> Component:
    """What an edge carries.

    Parameters
    ----------
    graph
        The graph on the screen.
    edge
        Index of the edge in it.
    run
        The pass.
    """
    about = graph.edge_dict(edge)
    source, target = (graph.nodes[ends[edge]] for ends in (graph.source, graph.target))
    found: list[Fact] = [
        ("from", link(source, node_label(source)), token_of(source, run)),
        ("to", link(target, node_label(target)), token_of(target, run)),
    ]
    if about["head"] is not None:
        found.append(("head", f"L{about['layer']}H{about['head']}", ""))
    if about["weight"] is None:
        found.append(("weight", "none", "under this method"))
    else:
        # Where the weight is a share of the same whole, it would say the same number twice.
        if about["unit"] != "share":
            found.append(("weight", weight(about["weight"], about["unit"]), about["unit"]))
        found += [
            (
                "part of what enters the target",
                signed(about["share"], 3) if has_signs(graph) else probability(about["share"]),
                "",
            ),
            ("flow to the start", _flow(graph, edge), "share"),
        ]
    lowers = element("p", "It lowers its target.", cls="note") if (about["share"] or 0) < 0 else None
    tree = element("div", element("h3", f"{about['kind'].replace('_', ' ')} edge"), facts(found), lowers, cls="details")
    return drawn(tree, name="details", label="Details of an edge", selected=f"edge.{edge}")


def _flow(graph: FlowGraph, edge: int) -> str:
    """Flow of an edge, its sign where edges have one."""
    value = float(flows(graph)[edge])
    return signed(-value if graph.share[edge] < 0 else value, 3) if has_signs(graph) else probability(value)


def node_label(node: Node) -> str:
    """The label, its token as it can be read."""
    return str(node if node.token is None else replace(node, token=visible(node.token)))


def token_of(node: Node, run: Run) -> str:
    """The token that a node stands at, in words."""
    if node.stack is not None or node.position is None or node.position >= len(run.tokens):
        return ""
    return visible(run.tokens[node.position])


def _place(node: Node, run: Run) -> Element:
    if node.stack is not None:
        return element("p", f"layer {node.layer} of the {node.stack} · position {node.position}", cls="place")
    layer = "no layer" if node.layer is None else f"layer {node.layer} of {run.n_layers}"
    if node.position is None or node.position >= len(run.tokens):
        return element("p", layer, cls="place")
    return element("p", f"{layer} · ", token(run.tokens[node.position]), f" at position {node.position}", cls="place")


def _roles(graph: FlowGraph | None, n: int | None) -> Element | None:
    """Roles of a head, where the graph carries them."""
    if graph is None or n is None or not graph.roles or graph.nodes[n].kind != "head":
        return None
    return element("p", f"roles: {roles_text(graph.roles[n])}", cls="note")


def _facts(answer: NodeAnswer, graph: FlowGraph | None, n: int | None, run: Run) -> list[Fact]:
    said = note_facts(graph) if graph is not None and n is not None else []
    found: list[Fact] = [(name, value, "") for name, value in (said[n] or [] if said and n is not None else [])]
    reading = answer.reading
    if answer.contribution is not None:
        found.append(("adds to the logit", signed(answer.contribution), "logits"))
    if graph is not None and n is not None and len(graph):
        flow = sum(flows(graph)[edge] for edge in edges_at(graph, n, "out"))
        found.append(
            (
                "flow to the start",
                "1, it is the start" if not edges_at(graph, n, "out") else probability(float(flow)),
                "",
            )
        )
    if reading is None:
        return found
    alone = "read alone, " if _is_part(answer.node) else ""
    found += _asked(
        f"{alone}target", run.target_token, reading.target_rank, reading.target_probability, reading.target_logit
    )
    found += _asked(f"{alone}foil", run.foil_token, reading.foil_rank, reading.foil_probability, reading.foil_logit)
    if reading.entropy is not None:
        found.append(("entropy", f"{reading.entropy:.2f}", "nats"))
    found.append(("norm", short(reading.norm), ""))
    if reading.activation is not None:
        found.append(("activation", signed(reading.activation, 3), ""))
    return found


def _is_part(node: Node) -> bool:
    """Whether a node is a part that is added to a state, and no state itself."""
    return node.kind in _PARTS


def _two_measures(answer: NodeAnswer, run: Run) -> Element | None:
    """What a part adds and what it says alone are two things, and may contradict each other."""
    reading, added = answer.reading, answer.contribution
    if (
        not _is_part(answer.node)
        or reading is None
        or added is None
        or reading.target_rank is None
        or run.target_token is None
    ):
        return None
    aim: list[Element | str] = [token(run.target_token)]
    if run.foil_token is not None:
        aim += [" minus that of ", token(run.foil_token)]
    above = reading.target_rank - 1
    stands = (
        f"{visible(run.target_token)} is the first of all tokens"
        if not above
        else f"{plural(above, 'other token')} {'stands' if above == 1 else 'stand'} above {visible(run.target_token)}"
    )
    return element(
        "p", f"Two measures: it adds {signed(added)} to the logit of ", *aim, "; read alone, through the final norm, ", stands,
        ". What is added to one token says nothing of what is added to the others.", cls="note measures",
    )  # fmt: skip


def _asked(role: str, text: str | None, rank: int | None, chance: float | None, logit: float | None) -> list[Fact]:
    """Rank, probability and logit of target or foil on one line."""
    said = [] if rank is None else [f"rank {count(rank)}"]
    said += [] if chance is None else [f"p {probability(chance)}"]
    said += [] if logit is None else [signed(logit)]
    name = element("span", f"{role} ", "" if text is None else token(text))
    return [(name, ", ".join(said), "logits" if logit is not None else "")] if text is not None and said else []


def _vocabulary(reading: NodeReading | None, how: str) -> list[Element]:
    """Highest and lowest tokens, each with its bar; ``how`` the vector was read is part of their names."""
    if reading is None or not reading.top:
        return []
    most = max(chance for _, chance, _ in reading.top) or 1.0
    top = [
        [
            Cell(token(text)),
            Cell(_gauge(chance / most, "up")),
            Cell(probability(chance), chance),
            Cell(signed(logit), logit),
        ]
        for text, chance, logit in reading.top
    ]
    columns = (
        Column("says"),
        Column("bar", kind="plot"),
        Column("probability", kind="number"),
        Column("logit", kind="number"),
    )
    found = [table(f"Highest tokens{how}", columns, top, by=(2, "descending"))]
    if reading.bottom:
        least = max(abs(logit) for *_, logit in reading.bottom) or 1.0
        low = [
            [
                Cell(token(text)),
                Cell(_gauge(abs(logit) / least, "down" if logit < 0 else "up")),
                Cell(signed(logit), logit),
            ]
            for text, _, logit in reading.bottom
        ]
        heads = (Column("says least"), Column("bar", kind="plot"), Column("logit", kind="number"))
        found.append(table(f"Lowest tokens{how}", heads, low, by=(2, "ascending")))
    return found


def _looks_at(answer: NodeAnswer, run: Run) -> Element | None:
    """Where a head looks, the strongest keys first, and what the others hold."""
    if not answer.attention:
        return None
    ranked = sorted(enumerate(answer.attention), key=lambda pair: -pair[1])
    lines = [
        [
            Cell(element("span", token(run.tokens[key]), element("span", f" {key}", cls="note")), key),
            Cell(_gauge(value, "up")),
            Cell(probability(value), value),
        ]
        for key, value in ranked[:_KEYS]
        if value > 0
    ]
    columns = (Column("looks at"), Column("bar", kind="plot"), Column("attention", kind="number"))
    left = [value for _, value in ranked[_KEYS:] if value > 0]
    rest = (
        element("p", f"The other {len(left):,} keys together: {probability(sum(left))}.", cls="note") if left else None
    )
    return element("div", table("Attention", columns, lines, by=(2, "descending")), rest)


def _gauge(part: float, side: str) -> Element:
    return element("span", element("i", cls=f"measure {side}", v_from="0", v_size=f"{min(1.0, part):.3f}"), cls="track")


def _edges(graph: FlowGraph, n: int | None) -> list[Element]:
    if n is None:
        return [element("p", "Not in the graph on the screen: no kept edge touches it.", cls="note")]
    return [
        table_
        for way, title in (("in", "What enters"), ("out", "Where it goes"))
        if (table_ := edge_table(graph, edges_at(graph, n, way), title, "source" if way == "in" else "target"))
        is not None
    ]


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
            f" {key} → ",
            target,
            f" {query}",
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


def node_of_graph(graph: FlowGraph, n: int) -> NodeAnswer:
    """What a saved graph says of its node ``n`` where the model cannot be asked: its reading, if it was saved with one."""
    node = graph.nodes[n]
    reading = graph.readings[n] if graph.readings else None
    unsaid = "what it adds to the logit" if reading is not None else "what it says in vocabulary and adds to the logit"
    return NodeAnswer(node, str(node), reading, None, None, f"{unsaid}; this is what the file says, without the model")


POSTED.add(f"{Id.PICTURE}.selected", str | None)
POSTED.add(f"{Id.PICTURE}.pins", list[str] | None)


def wires(app: Dash, service: Service) -> None:
    """Connect the callback of the right pane."""
    from dash import Input, Output

    @app.callback(
        Output(Id.DETAILS, "children"),
        Input(Id.PICTURE, "selected"), Input(Id.RUN, "data"), Input(Id.PICTURE, "pins"), prevent_initial_call=True,
    )  # fmt: skip
    def tell(key: str | None, run: View | None, pins: list[str] | None) -> Component | list[Component]:
        if run is None:
            return NOTHING
        try:
            # The address may ask for a run by now that was refused: details are of what is shown.
            return details_of(service, from_query(run["search"]), key, tuple(pins or ()))
        except FlowgraphError as error:
            return panel_error(error)


def details_of(service: Service, recipe: Recipe, key: str | None, pins: tuple[str, ...]) -> Component:
    """Details of a node, of an edge, or of the graph as a whole.

    Raises
    ------
    FlowgraphError
        If the key is none, or the node cannot be read.
    """
    run, answer = ask(service, RunQuestion.of(recipe)), shown(service, recipe, sketch=True)

    def tested(what: str, buttons: list[Component]) -> list[Component]:
        return offer_tests(service, recipe, run, what, buttons)

    if isinstance(answer, Circuit):
        return _of_circuit(answer, key, pins, tested("graph", circuit.offer()))
    graph = answer.graph
    if key is None:
        return _with_test(panel(None, graph, run), tested("graph", offer(None, None, None, run)))
    if key.startswith(EDGE):
        edge = edge_of(key, len(graph))
        return _with_test(edge_panel(graph, edge, run), tested(key, offer(key, None, (graph, edge), run)))
    node = parse_node_key(key)
    found = _node(service, recipe, node, graph)
    told = panel(found, graph, run, pinned=pins, starts=can_ask(service, recipe, run))
    return _with_test(told, tested(key, offer(key, node, None, run)))


def _node(service: Service, recipe: Recipe, node: Node, graph: FlowGraph) -> NodeAnswer:
    """What the model says of a node; what the graph does, where that came from a file and the model is not here."""
    n = graph.nodes.index(node) if node in graph.nodes else None
    if n is not None and graph.notes and graph.notes[n] is not None:
        return node_of_graph(graph, n)
    try:
        return ask(service, NodeQuestion.of(recipe, node))
    except ModelNeededError:
        if n is None:
            raise
        return node_of_graph(graph, n)


def _of_circuit(answer: Circuit, key: str | None, pins: tuple[str, ...], tests: list[Component]) -> Component:
    if key is None:
        return _with_test(circuit.panel(answer), tests)
    if key.startswith(EDGE):
        return circuit.edge_panel(answer, edge_of(key, len(answer.graph)))
    return circuit.node_panel(answer, parse_node_key(key), pins)


def _with_test(panel: Component, buttons: list[Component]) -> Component:
    return html.Div([html.Div(buttons, className="tests"), panel] if buttons else panel)
