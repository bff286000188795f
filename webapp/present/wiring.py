"""What callbacks of panels have in common: what the page sends, functions of the browser, progress and taking back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypedDict

from .ids import Id
from .progress import progress_text

if TYPE_CHECKING:
    from dash import Dash, Input, Output, State
    from dash.development.base_component import Component

    from ..server.service import Service

NOTHING: list[Component] = []
"""Children of a place that holds no panel: of None, Dash would keep the ids of those that were there, and ask for them in vain."""


class View(TypedDict):
    """What is looked at: an address."""

    search: str


class Ticket(View):
    """A question about a view, and the one that it takes the place of."""

    id: str
    previous: str | None


def in_browser(app: Dash, function: str, *ends: Output | Input | State) -> None:
    """Connect a function of ``assets/*.js``. It runs at once if it alone writes something."""
    from dash import ClientsideFunction, Output

    outputs = [end for end in ends if isinstance(end, Output)]
    at_once = [end for end in outputs if not end.allow_duplicate]
    app.clientside_callback(ClientsideFunction("flowgraph", function), *ends, prevent_initial_call=not at_once)


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
    from dash import Input, Output

    @app.callback(Output(progress, "children"), Input(poll, "n_intervals"), ticket)
    def watch(_polls: int, asked: dict[str, Any] | None) -> Any:
        return progress_text(service.progress(asked["id"]) if asked and asked["id"] else None)

    @app.callback(Input(cancel, "n_clicks"), ticket, prevent_initial_call=True)
    def take_back(_clicks: int, asked: dict[str, Any] | None) -> None:
        if asked and asked["id"]:
            service.cancel(asked["id"])
