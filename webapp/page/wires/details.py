"""The right pane: what the selected node or edge says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dash import Dash, Input, Output, html
from dash.development.base_component import Component

from flowgraph import FlowGraph, Node
from flowgraph.errors import FlowgraphError, ModelNeededError

from ...node_key import parse_node_key
from ...panels import circuit, details
from ...panels.circuit import Circuit
from ...panels.details import NodeAnswer, NodeQuestion
from ...panels.effects import offer
from ...panels.saved_graph import node_of_graph
from ...present.errors import panel_error
from ...recipe import Recipe, from_query
from ...server.run import RunQuestion
from ..ids import Id
from .asking import ask, shown
from .charts import NOTHING
from .offers import EDGE, can_ask, edge_of, offer_tests

if TYPE_CHECKING:
    from ...server.service import Service


def register(app: Dash, service: Service) -> None:
    """Connect the callback."""

    @app.callback(
        Output(Id.DETAILS, "children"),
        Input(Id.PICTURE, "selected"), Input(Id.RUN, "data"), Input(Id.PICTURE, "pins"), prevent_initial_call=True,
    )  # fmt: skip
    def tell(key: str | None, run: dict[str, Any] | None, pins: list[str] | None) -> Component | list[Component]:
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
        return _with_test(details.panel(None, graph, run), tested("graph", offer(None, None, None, run)))
    if key.startswith(EDGE):
        edge = edge_of(key, len(graph))
        return _with_test(details.edge_panel(graph, edge, run), tested(key, offer(key, None, (graph, edge), run)))
    node = parse_node_key(key)
    found = _node(service, recipe, node, graph)
    panel = details.panel(found, graph, run, pinned=pins, starts=can_ask(service, recipe, run))
    return _with_test(panel, tested(key, offer(key, node, None, run)))


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
