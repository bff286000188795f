"""Between the panels and the rest of the page: what is picked in one is selected everywhere."""

from __future__ import annotations

from dash import ClientsideFunction, Dash, Input, Output, State

from ...present.chart_panel import every_chart
from ...present.ids import Id


def register(app: Dash) -> None:
    """Connect functions of ``assets/chart_panel.js``. A panel may come at any time: it is told what is selected then."""
    panels = every_chart()
    app.clientside_callback(
        ClientsideFunction("flowgraph", "picked"),
        Output(Id.PICTURE, "selected"),
        Input(panels, "n_picks"), State(panels, "selected"), State(panels, "id"), prevent_initial_call=True,
    )  # fmt: skip
    app.clientside_callback(
        ClientsideFunction("flowgraph", "markEverywhere"),
        Output(panels, "selected"),
        Input(Id.PICTURE, "selected"),
        Input(panels, "chart"),
        State(panels, "selected"),
    )
