"""What the browser does alone: from controls to the address, and from the address to a ticket for the server."""

from __future__ import annotations

from dash import ClientsideFunction, Dash, Input, Output, State

from ...present.chart_panel import every_chart
from ...present.ids import Id
from ...present.wiring import in_browser

_SHARED = (Id.LAYER, Id.SCORE)
"""Controls whose choices, and first value, come with an answer."""
_RESTORED = (
    Id.MODEL, Id.PROMPT, Id.CHAT, Id.THRESHOLD, Id.HEADS_IN, Id.POSITION, Id.METHOD, Id.SHOW, Id.LEVEL, Id.WIDTH, Id.ORIENTATION,
    Id.FILL, *_SHARED,
)  # fmt: skip
"""Controls that are set from the address, in the order in which ``restore`` gives them. That runs in the browser: a slow answer could
undo what was chosen meanwhile."""


def register(app: Dash) -> None:
    """Connect the functions of ``assets/*.js``."""
    address = Input(Id.LOCATION, "search")
    app.clientside_callback(
        ClientsideFunction("flowgraph", "restore"),
        *(Output(name, "value", allow_duplicate=name in _SHARED) for name in _RESTORED),
        address,
        State(Id.LAYER, "options"),
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
    chosen = (*settings, Id.WIDTH, Id.ORIENTATION, Id.FILL, Id.SCORE, Id.LAYER, Id.LAYERS, Id.SEMANTIC_LAYERS)
    in_browser(
        app, "choose", *(Input(name, "value") for name in chosen), State(Id.LAYERS, "max"), State(Id.SCORE, "options")
    )
