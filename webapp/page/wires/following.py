"""How far a question is, and taking it back: the same for everything that is asked with a ticket."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dash import Dash, Input, Output, State

from ...present.progress import progress_text
from ..ids import Id

if TYPE_CHECKING:
    from ...server.service import Service


def follow(app: Dash, service: Service, ticket: State, *, poll: Id, progress: Id, cancel: Id) -> None:
    """Connect the callbacks that follow the question of a ticket.

    Parameters
    ----------
    app, service
        The app, and what answers.
    ticket
        Where the ticket is, ``{"id", …}``.
    poll
        Interval at which the page asks.
    progress
        What shows how far the question is.
    cancel
        Button that takes it back.
    """

    @app.callback(Output(progress, "children"), Input(poll, "n_intervals"), ticket)
    def watch(_polls: int, asked: dict[str, Any] | None) -> Any:
        return progress_text(service.progress(asked["id"]) if asked and asked["id"] else None)

    @app.callback(Input(cancel, "n_clicks"), ticket, prevent_initial_call=True)
    def take_back(_clicks: int, asked: dict[str, Any] | None) -> None:
        if asked and asked["id"]:
            service.cancel(asked["id"])
