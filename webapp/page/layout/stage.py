"""The centre: predicted tokens, the flow graph with its axes, and the panels below it."""

from __future__ import annotations

from collections.abc import Sequence

from dash import dcc, html

from ...panels import PANELS, standing
from ...present.attributes import named
from ...present.ids import Id
from ..flow_picture import FlowPicture
from .examples import Example, example_list
from .words import TABS

_KEYS = "Arrow keys walk along tokens and layers. Enter gives the details, P pins, Escape clears. Plus, minus and 0 zoom and fit."

_WHY_EMPTY = {
    "while-tracing": "The prompt is being traced. This panel comes after the picture.",
    "while-behind": "This panel would be about a prompt that was not traced. Trace it, or go back to the one that is shown.",
    "while-nothing": "Nothing has been traced yet that this panel could be about.",
}
"""When the panel is empty → why, in words."""


def centre(examples: Sequence[Example]) -> html.Main:
    """Strip, notices, picture, panels."""
    return html.Main(
        [
            html.Div(
                [
                    html.P(className="behind", role="status", **named({"data-show": "behind"})),
                    html.Div(id=Id.STRIP, className="predictions", role="group", **named({"aria-label": "Next token"})),
                    html.Div(id=Id.START, className="start"),
                    *standing("strip"),
                    _zoom(),
                ],
                className="strip",
            ),
            *standing("below_strip"),
            html.Div(id=Id.NOTICE, className="notices", role="alert"),
            html.Div([_stage(examples), _writers(), _status(), _panel()], className="scroll"),
            html.P(_KEYS, id="keys", className="hidden"),
        ]
    )


def _zoom() -> html.Div:
    signs = (("+", "plus", "Zoom in (+)"), ("-", "minus", "Zoom out (−)"), ("0", "fit", "Fit the picture (f)"))
    return html.Div(
        [
            html.Button(
                html.I(className=f"icon icon-{icon}", **named({"aria-hidden": "true"})),
                type="button", className="button small", title=hint, **named({"aria-label": hint, "data-key": key}),
            )
            for key, icon, hint in signs
        ],
        className="zoom",
    )  # fmt: skip


def _stage(examples: Sequence[Example]) -> html.Div:
    return html.Div(
        [
            FlowPicture(id=Id.PICTURE),
            html.Div(className="axis gutter", **named({"data-part": "gutter", "aria-hidden": "true"})),
            html.Div(className="axis ground", **named({"data-part": "ground", "aria-hidden": "true"})),
            html.Div(className="axis towers", **named({"data-part": "towers", "aria-hidden": "true"})),
            html.P("No picture: what is asked for above was not traced.", className="undrawn"),
            html.P(className="empty-note", **named({"data-part": "empty"})),
            html.Div(className="tip", role="tooltip", **named({"data-part": "tip"})),
            _opening(examples),
            html.Div([html.Div(className="bone") for _ in range(7)], className="skeleton", **named({"aria-hidden": "true"})),
        ],
        id=Id.STAGE,
        className="stage",
        tabIndex="0",
        role="application",
        **named({"data-part": "stage", "aria-label": "Flow graph: tokens along one axis, layers along the other", "aria-describedby": "keys"}),
    )  # fmt: skip


def _opening(examples: Sequence[Example]) -> html.Div:
    """What is there before the first prompt."""
    return html.Div(
        [
            html.H2("Where did the model’s next word come from?"),
            html.P(
                "Type a prompt above and press Trace. The picture shows the way of the information: tokens along one axis, "
                "layers along the other, and an edge wherever one state was added to another."
            ),
            html.P("Or open a recorded run:"),
            example_list(examples),
        ],
        id=Id.EMPTY,
        className="opening",
    )


def _writers() -> html.P:
    """Large parts of the logit that the picture does not show; the scripts fill it."""
    return html.P(className="writers", **named({"data-show": "writers"}))


def _status() -> html.Div:
    tabs = [
        html.Button(
            title, type="button", className="tab", title=hint, role="tab", tabIndex="0",
            **named({"data-tab": name, "aria-selected": "false", "aria-controls": Id.CONTENT}),
        )
        for name, (title, hint) in TABS.items()
    ]  # fmt: skip
    return html.Div(
        [
            html.P(id=Id.CAPTION, className="caption"),
            html.P(className="kept-printed", **named({"data-show": "kept", "aria-hidden": "true"})),
            html.Div(tabs, id=Id.TABS, className="tabs", role="tablist", **named({"aria-label": "Panels"})),
        ],
        className="status",
    )


def _panel() -> html.Section:
    return html.Section(
        [
            html.Div(
                [
                    *(html.Div([*panel.controls()], className=f"for-panel for-{panel.name}") for panel in PANELS),
                    html.A("CSV", href="export/panel.csv", className="button small away", download="", title="The numbers of this panel", **named({"data-export": "panel.csv"})),
                    html.Button("Close", type="button", className="button small close", title="Close the panel", **named({"data-tab": ""})),
                ],
                className="toolbar",
            ),
            html.Div(id=Id.CONTENT, className="content", role="tabpanel"),
            html.P([html.Span(text, className=name) for name, text in _WHY_EMPTY.items()], className="why-empty"),
        ],
        className="panel",
    )  # fmt: skip


def search_box() -> html.Div:
    """Where nodes are found."""
    return html.Div(
        [
            dcc.Input(id=Id.SEARCH, type="search", placeholder="Find a token, node or word ( / )", autoComplete="off", className="box"),
            html.Ul(id=Id.MATCHES, className="matches", **named({"data-part": "matches"})),
        ],
        className="search",
    )  # fmt: skip


def details() -> html.Aside:
    """The right pane."""
    return html.Aside(
        [
            search_box(),
            *standing("right_pane"),
        ],
        className="pane right",
        **named({"aria-label": "Details"}),
    )
