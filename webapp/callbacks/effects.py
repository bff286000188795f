"""Tests by intervention, beside the details of what is tested."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dash import Dash, Input, Output
from dash.development.base_component import Component

from flowgraph import Node
from flowgraph.errors import ArgumentError, FlowgraphError

from ..ids import Id
from ..node_key import parse_node_key
from ..present.effects import effect
from ..present.errors import panel_error
from ..recipe import Recipe, from_query
from ..service.errors import Cancelled
from ..service.questions import AblateQuestion, FaithfulQuestion, faithful_question, graph_question, run_question
from .asking import ask
from .details import EDGE, edge_of

if TYPE_CHECKING:
    from ..service.service import Service

_RUNNING = [(Output(Id.EFFECT, "className"), "effects loading", "effects")]


def register(app: Dash, service: Service) -> None:
    """Connect the callback."""

    @app.callback(Output(Id.EFFECT, "children"), Input(Id.TEST, "data"), running=_RUNNING, prevent_initial_call=True)
    def test(ticket: dict[str, Any] | None) -> Component | None:
        return None if ticket is None else tested(service, ticket)


def tested(service: Service, ticket: dict[str, Any]) -> Component | None:
    """What a test gave, or why it gave nothing; nothing where it was taken back."""
    if ticket["previous"]:
        service.cancel(ticket["previous"])
    try:
        question = test_of(service, from_query(ticket["search"]), ticket["what"])
        return effect(ask(service, question, ticket["id"]), whole=isinstance(question, FaithfulQuestion))
    except Cancelled:
        return None
    except FlowgraphError as error:
        return panel_error(error)


def test_of(service: Service, recipe: Recipe, what: str) -> AblateQuestion | FaithfulQuestion:
    """The question that tests a node key, ``edge.17`` of the graph, or the ``graph`` itself.

    Raises
    ------
    FlowgraphError
        If there is no such thing, or it cannot be tested.
    """
    if what == "graph":
        return faithful_question(recipe)
    if not what.startswith(EDGE):
        return AblateQuestion(run_question(recipe), parse_node_key(what))
    graph = ask(service, graph_question(recipe)).graph
    about = graph.edge_dict(edge_of(what, len(graph)))
    if about["kind"] != "attention":
        raise ArgumentError(f"a {about['kind']} edge cannot be taken out by itself; ablate the node that it comes from")
    kind: Any = "attn" if about["head"] is None else "head"
    reader = Node(kind, about["layer"], about["head"], about["query_pos"])
    return AblateQuestion(run_question(recipe), reader, about["key_pos"])
