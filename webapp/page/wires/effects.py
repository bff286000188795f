"""Tests by intervention, beside the details of what is tested."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dash import Dash, Input, Output, State
from dash.development.base_component import Component

from flowgraph.errors import FlowgraphError

from ...panels.circuit import CircuitTestQuestion, circuit_effect
from ...panels.effects import FaithfulQuestion, effect
from ...present.errors import panel_error
from ...recipe import from_query
from ...server.errors import Cancelled
from ..ids import Id
from .asking import ask
from .charts import NOTHING
from .following import follow
from .offers import test_of

if TYPE_CHECKING:
    from ...server.service import Service

_RUNNING = [
    (Output(Id.EFFECT, "className"), "effects loading", "effects"),
    (Output(Id.TEST_PROGRESS, "className"), "growing", "idle"),
    (Output(Id.TEST_POLL, "disabled"), False, True),
]


def register(app: Dash, service: Service) -> None:
    """Connect the callbacks."""

    @app.callback(Output(Id.EFFECT, "children"), Input(Id.PICTURE, "test"), running=_RUNNING, prevent_initial_call=True)
    def test(ticket: dict[str, Any] | None) -> Component | list[Component]:
        return NOTHING if ticket is None else tested(service, ticket)

    follow(app, service, State(Id.PICTURE, "test"), poll=Id.TEST_POLL, progress=Id.TEST_PROGRESS, cancel=Id.TEST_CANCEL)


def tested(service: Service, ticket: dict[str, Any]) -> Component | list[Component]:
    """What a test gave, or why it gave nothing; nothing where it was taken back."""
    if ticket["previous"]:
        service.cancel(ticket["previous"])
    if ticket["what"] is None:
        return NOTHING
    try:
        question = test_of(service, from_query(ticket["search"]), ticket["what"])
        if isinstance(question, CircuitTestQuestion):
            return circuit_effect(ask(service, question, ticket["id"]))
        return effect(ask(service, question, ticket["id"]), whole=isinstance(question, FaithfulQuestion))
    except Cancelled:
        return NOTHING
    except FlowgraphError as error:
        return panel_error(error)
