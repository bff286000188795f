"""The panels below the picture: each is asked for when its tab is open."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dash import Dash, Input, Output
from dash.development.base_component import Component

from flowgraph.errors import ArgumentError, FlowgraphError

from ...panels import PANELS
from ...panels.panel import Panel, View
from ...present.errors import panel_error
from ...present.ids import Id
from ...present.wiring import NOTHING
from ...recipe import Recipe, check_index, from_query
from ...server.asking import ask
from ...server.run import RunQuestion

if TYPE_CHECKING:
    from ...server.service import Service

_RUNNING = [(Output(Id.CONTENT, "className"), "content loading", "content")]


def register(app: Dash, service: Service) -> None:
    """Connect the callbacks."""

    @app.callback(Output(Id.CONTENT, "children"), Input(Id.PANEL, "data"), running=_RUNNING, prevent_initial_call=True)
    def show(panel: dict[str, Any] | None) -> Component | list[Component]:
        if panel is None:
            return NOTHING
        try:
            return panel_of(panel["tab"], service, from_query(panel["search"]), panel["first"])
        except FlowgraphError as error:
            return panel_error(error)


def panel_of(tab: str, service: Service, recipe: Recipe, first: int | None = None) -> Component:
    """The panel of a tab.

    Parameters
    ----------
    tab
        Name of one of the panels.
    service
        What answers.
    recipe
        What is looked at.
    first
        First token of a panel that does not show all; None: around the position that is explained.

    Raises
    ------
    FlowgraphError
        If there is no such tab, or its question cannot be answered.
    """
    found: Panel[Any] | None = next((panel for panel in PANELS if panel.name == tab), None)
    if found is None:
        names = ", ".join(panel.name for panel in PANELS)
        raise ArgumentError(f"tab={tab!r} is not a panel; expected one of {names}")
    check_index("first", first)
    run = ask(service, RunQuestion.of(recipe))
    return found.draw(ask(service, found.question(recipe, run)), run, View(recipe, first))
