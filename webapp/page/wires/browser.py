"""What the browser does alone: from controls to the address, and from the address to a ticket for the server."""

from __future__ import annotations

from dash import ClientsideFunction, Dash, Input, Output, State

from ...present.chart_panel import every_chart
from ..ids import Id

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
    _wire(app, "ticket", Output(Id.TICKET, "data"), address)
    _wire(app, "panel", Output(Id.PANEL, "data"), address, Input(Id.RUN, "data"))
    _wire(app, "countLines", Input(Id.PROMPT, "value"))
    _wire(app, "settle", address, Input(Id.RUN, "data"))
    _wire(app, "fold", Input(Id.RUN, "data"), Input(Id.NOTICE, "children"))
    _wire(app, "opened", Input(Id.OPENED, "data"))
    _wire(
        app, "setting", Output(Id.PANEL, "data", allow_duplicate=True), Input(every_chart(), "setting"), State(Id.PANEL, "data")
    )  # fmt: skip
    _wire(
        app,
        "markGrown",
        Output(Id.CONTINUATION, "children", allow_duplicate=True),
        address,
        Input(Id.CONTINUATION, "children"),
    )
    _wire(
        app,
        "goOn",
        Output(Id.CONTINUATION_TICKET, "data"),
        Input(Id.CONTINUE, "n_clicks"),
        Input(Id.COUNT, "n_submit"),
        State(Id.COUNT, "value"),
    )
    _wire(app, "chooseTask", Input(Id.TASK, "value"))
    _wire(app, "showFound", Input(Id.FOUND_AT, "data"))
    _wire(app, "openFound", Input(Id.FOUND_MAP, "tapNodeData"))
    form = (Id.TASK, Id.CORRUPTED, Id.ANSWER, Id.AGAINST, Id.PROMPTS, Id.CIRCUIT, Id.BUDGET)
    written = (
        Output(name, "value", allow_duplicate=True)
        for name in (Id.TASK, Id.CORRUPTED, Id.PROMPTS, Id.CIRCUIT, Id.BUDGET)
    )
    _wire(app, "fillForm", *written, Output(Id.PROPOSED, "children", allow_duplicate=True), Input(Id.PICTURE, "drawn"))
    _wire(
        app,
        "find",
        Output(Id.FIND_TICKET, "data"),
        Input(Id.FIND, "n_clicks"),
        *(State(name, "value") for name in form),
    )
    settings = (Id.METHOD, Id.SHOW, Id.LEVEL, Id.HEADS_IN, Id.THRESHOLD, Id.POSITION)
    asked = (State(name, "value") for name in (Id.PROMPT, Id.MODEL, Id.CHAT, *settings))
    _wire(app, "trace", Output(Id.TICKET, "data", allow_duplicate=True), Input(Id.TRACE, "n_clicks"), *asked)
    chosen = (*settings, Id.WIDTH, Id.ORIENTATION, Id.FILL, Id.SCORE, Id.LAYER, Id.LAYERS, Id.SEMANTIC_LAYERS)
    _wire(
        app, "choose", *(Input(name, "value") for name in chosen), State(Id.LAYERS, "max"), State(Id.SCORE, "options")
    )


def _wire(app: Dash, function: str, *ends: Output | Input | State) -> None:
    outputs = [end for end in ends if isinstance(end, Output)]
    at_once = [end for end in outputs if not end.allow_duplicate]
    app.clientside_callback(ClientsideFunction("flowgraph", function), *ends, prevent_initial_call=not at_once)
