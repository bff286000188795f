"""How the model goes on with the traced prompt; progress and cancelling meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dash import Dash, Input, Output, State

from flowgraph.errors import FlowgraphError

from ...panels.continuation import GenerateQuestion, continuation
from ...present.errors import panel_error
from ...recipe import from_query
from ...server.errors import Cancelled
from ..ids import Id
from .asking import ask
from .following import follow

if TYPE_CHECKING:
    from ...server.service import Service

_RUNNING = [
    (Output(Id.CONTINUATION_PROGRESS, "className"), "growing", "idle"),
    (Output(Id.CONTINUATION_POLL, "disabled"), False, True),
]


def register(app: Dash, service: Service) -> None:
    """Connect the callbacks."""

    @app.callback(
        Output(Id.CONTINUATION, "children"), Input(Id.CONTINUATION_TICKET, "data"), running=_RUNNING, prevent_initial_call=True
    )  # fmt: skip
    def go_on(ticket: dict[str, Any] | None) -> Any:
        return None if ticket is None else continued(service, ticket)

    follow(
        app,
        service,
        State(Id.CONTINUATION_TICKET, "data"),
        poll=Id.CONTINUATION_POLL,
        progress=Id.CONTINUATION_PROGRESS,
        cancel=Id.CONTINUATION_CANCEL,
    )


def continued(service: Service, ticket: dict[str, Any]) -> Any:
    """The tokens that the model adds, or why there are none; nothing where the question was taken back."""
    if ticket["previous"]:
        service.cancel(ticket["previous"])
    try:
        question = GenerateQuestion.of(from_query(ticket["search"]), ticket["count"])
        return continuation(ask(service, question, ticket["id"]), question.run)
    except Cancelled:
        return None
    except FlowgraphError as error:
        return panel_error(error)
