"""What the browser does alone: from controls to the address, and from the address to a ticket for the server."""

from __future__ import annotations

from dash import ClientsideFunction, Dash, Input, Output, State

from ...panels import panel_settings
from ...present.chart_panel import every_chart
from ...present.ids import Id
from ...present.wiring import in_browser

_RESTORED = (
    Id.MODEL, Id.PROMPT, Id.CHAT, Id.THRESHOLD, Id.HEADS_IN, Id.POSITION, Id.METHOD, Id.SHOW, Id.LEVEL, Id.WIDTH, Id.ORIENTATION,
)  # fmt: skip
"""Controls that are set from the address, in the order in which ``restore`` gives them; those of panels follow. That runs in the browser: a slow answer could
undo what was chosen meanwhile."""


def register(app: Dash) -> None:
    """Connect the functions of ``assets/*.js``."""
    address = Input(Id.LOCATION, "search")
    own = panel_settings()
    late = [one.id for one in own if one.usual in ("first", "last")]
    restored = [*_RESTORED, *(one.id for one in own if one.usual != "window")]
    offered = [State(name, "options") for name in late]
    app.clientside_callback(
        ClientsideFunction("flowgraph", "restore"),
        *(Output(name, "value", allow_duplicate=name in late) for name in restored),
        address,
        *offered,
        prevent_initial_call="initial_duplicate",
    )
    in_browser(app, "ticket", Output(Id.TICKET, "data"), address)
    in_browser(app, "panel", Output(Id.PANEL, "data"), address, Input(Id.RUN, "data"))
    in_browser(app, "countLines", Input(Id.PROMPT, "value"))
    in_browser(app, "settle", address, Input(Id.RUN, "data"))
    in_browser(app, "fold", Input(Id.RUN, "data"), Input(Id.NOTICE, "children"))
    in_browser(
        app, "setting", Output(Id.PANEL, "data", allow_duplicate=True), Input(every_chart(), "setting"), State(Id.PANEL, "data")
    )  # fmt: skip
    settings = (Id.METHOD, Id.SHOW, Id.LEVEL, Id.HEADS_IN, Id.THRESHOLD, Id.POSITION)
    asked = (State(name, "value") for name in (Id.PROMPT, Id.MODEL, Id.CHAT, *settings))
    in_browser(app, "trace", Output(Id.TICKET, "data", allow_duplicate=True), Input(Id.TRACE, "n_clicks"), *asked)
    chosen = (*settings, Id.WIDTH, Id.ORIENTATION, Id.LAYERS, *(one.id for one in own))
    in_browser(app, "choose", *(Input(name, "value") for name in chosen), State(Id.LAYERS, "max"), *offered)
