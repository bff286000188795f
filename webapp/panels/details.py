"""Details beside the picture: of a node, of an edge, or, with nothing selected, of the graph as a whole.

What a node says is :func:`flowgraph.node_details`. What is drawn of it is in the modules beside this one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

import flowgraph
from flowgraph import FlowGraph, Node, NodeDetails, NodeReading
from flowgraph.errors import FlowgraphError, ModelNeededError

from ..node_key import EDGE, edge_of, parse_node_key
from ..present import html
from ..present.errors import panel_error
from ..present.ids import Id
from ..present.wiring import NOTHING
from ..recipe import Recipe, from_query
from ..registered import POSTED
from ..server.asking import ask, can_ask
from ..server.question import recorded
from ..server.run import OfRun, Run, RunQuestion, same
from ..server.traces import Check, Traces
from . import circuit_details, circuit_effect, details_of_edge, details_of_graph, details_of_node
from .circuit import Circuit
from .effects import offer, offer_tests
from .picture import shown
from .recorded_node import recorded_node

if TYPE_CHECKING:
    from dash import Dash
    from dash.development.base_component import Component

    from ..present.wiring import View
    from ..server.service import Service


@dataclass(frozen=True)
class FiledNode:
    """:class:`flowgraph.NodeDetails` as session files hold it.

    Attributes
    ----------
    node, reading, contribution, note
        As there.
    label
        The node as it is written.
    attention
        As there, as a list.
    keys
        The tokens of another stack that the node looks at; None: those of its run.
    """

    node: Node
    label: str
    reading: NodeReading | None
    contribution: float | None
    attention: tuple[float, ...] | None
    note: str
    keys: tuple[str, ...] | None = None


@recorded
@dataclass(frozen=True)
class NodeQuestion(OfRun[NodeDetails]):
    """What one node says."""

    node: Node
    filed_as = FiledNode

    def answer(self, traces: Traces, check: Check) -> NodeDetails:
        """What one node says."""
        trace = traces.trace(self.run, check)
        is_added = trace.model.has_attribution and self.node.position in (None, trace.position)
        parts = traces.attribution(self.run, check) if is_added else None
        check("reading a node", None)
        return flowgraph.node_details(trace, self.node, attribution=parts)

    def to_file(self, answer: NodeDetails, run: Run) -> FiledNode:
        """As the base class says."""
        attention = None if answer.attention is None else tuple(answer.attention.tolist())
        keys = None if answer.tokens == run.tokens else answer.tokens
        return FiledNode(
            answer.node, str(answer.node), answer.reading, answer.contribution, attention, answer.note, keys
        )

    def from_file(self, filed: FiledNode, run: Run) -> NodeDetails:
        """As the base class says."""
        attention = None if filed.attention is None else np.array(filed.attention)
        tokens = run.tokens if filed.keys is None else filed.keys
        return NodeDetails(filed.node, filed.reading, filed.contribution, attention, tokens, filed.note)

    def refuse_unfit(self, run: Run, answer: NodeDetails) -> None:  # noqa: ARG002  the tokens may be another stack's
        """As the base class says."""
        same("NodeDetails.node", answer.node, self.node)
        if answer.attention is not None:
            same("NodeDetails.attention", len(answer.attention), len(answer.tokens))


POSTED.add(f"{Id.PICTURE}.selected", str | None)
POSTED.add(f"{Id.PICTURE}.pins", list[str] | None)


def right_pane() -> list[Component]:
    """Where the details stand."""
    return [html.Div(html.P("Details of what is selected stand here.", className="note"), id=Id.DETAILS)]


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
        return _of_circuit(answer, key, pins, tested("graph", circuit_effect.offer()))
    graph = answer.graph
    if key is None:
        return _with_test(details_of_graph.panel(graph, run), tested("graph", offer(None, None, None, run)))
    if key.startswith(EDGE):
        edge = edge_of(key, len(graph))
        return _with_test(details_of_edge.panel(graph, edge, run), tested(key, offer(key, None, (graph, edge), run)))
    node = parse_node_key(key)
    found = _node(service, recipe, run, node, graph)
    told = details_of_node.panel(found, graph, run, pinned=pins, starts=can_ask(service, recipe, run))
    return _with_test(told, tested(key, offer(key, node, None, run)))


def _node(service: Service, recipe: Recipe, run: Run, node: Node, graph: FlowGraph) -> NodeDetails:
    """What the model says of a node; where it is not here, what was recorded, or what the graph says."""
    n = graph.nodes.index(node) if node in graph.nodes else None
    if n is not None and graph.notes and graph.notes[n] is not None:
        return NodeDetails.of_graph(graph, node)
    try:
        return ask(service, NodeQuestion.of(recipe, node))
    except ModelNeededError:
        known = recorded_node(service, recipe, run, node)
        if known is not None:
            return known
        if n is None:
            raise
        return NodeDetails.of_graph(graph, node)


def _of_circuit(answer: Circuit, key: str | None, pins: tuple[str, ...], tests: list[Component]) -> Component:
    if key is None:
        return _with_test(circuit_details.panel(answer), tests)
    if key.startswith(EDGE):
        return circuit_details.edge_panel(answer, edge_of(key, len(answer.graph)))
    return circuit_details.node_panel(answer, parse_node_key(key), pins)


def _with_test(panel: Component, buttons: list[Component]) -> Component:
    return html.Div([html.Div(buttons, className="tests"), panel] if buttons else panel)
