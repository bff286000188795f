"""The centre: predicted tokens, the flow graph with its axes, and the panels below it."""

from __future__ import annotations

from collections.abc import Sequence

from dash import dcc, html

from ...present.attributes import named
from ...present.ids import Id
from ...recipe import MOST_GENERATED
from ..flow_picture import FlowPicture
from .examples import Example, example_list
from .finder import finder, progress_row
from .parts import group, hidden_label, switch
from .words import FILLS, TABS

_KEYS = "Arrow keys walk along tokens and layers. Enter gives the details, P pins, Escape clears. Plus, minus and 0 zoom and fit."

_WHY_EMPTY = {
    "while-tracing": "The prompt is being traced. This panel comes after the picture.",
    "while-behind": "This panel would be about a prompt that was not traced. Trace it, or go back to the one that is shown.",
    "while-nothing": "Nothing has been traced yet that this panel could be about.",
}
"""When the panel is empty → why, in words."""
_HINTS = html.P("Details of what is selected stand here.", className="note")


def centre(examples: Sequence[Example]) -> html.Main:
    """Strip, notices, picture, panels."""
    return html.Main(
        [
            html.Div(
                [
                    html.Div(id=Id.STRIP, className="predictions", role="group", **named({"aria-label": "Next token"})),
                    html.Div(id=Id.START, className="start"),
                    _going_on(),
                    _zoom(),
                ],
                className="strip",
            ),
            _continuation(),
            html.P(className="behind", role="status", **named({"data-show": "behind"})),
            html.Div(id=Id.NOTICE, className="notices", role="alert"),
            html.Div([_stage(examples), _writers(), _status(), _panel()], className="scroll"),
            html.P(_KEYS, id="keys", className="hidden"),
        ]
    )


def _going_on() -> html.Div:
    """How many tokens the model is to add."""
    hint = f"Tokens to add, 1 to {MOST_GENERATED}"
    return html.Div(
        [
            hidden_label(hint, Id.COUNT),
            dcc.Input(id=Id.COUNT, type="number", min=1, max=MOST_GENERATED, step=1, value=8, className="box"),
            html.Button(
                "Continue", id=Id.CONTINUE, type="button", className="button small", n_clicks=0,
                title="Let the model go on with the traced prompt, taking its best token each time",
            ),
        ],
        className="going-on",
        title=hint,
    )  # fmt: skip


def _continuation() -> html.Div:
    """The row of what the model adds; not there while there is nothing."""
    return html.Div(
        [
            html.Div(
                [
                    html.Span(id=Id.CONTINUATION_PROGRESS, className="idle", role="status", **named({"aria-live": "polite"})),
                    html.Button("Cancel", id=Id.CONTINUATION_CANCEL, type="button", className="button small", title="Stop adding tokens", n_clicks=0),
                ],
                className="growth",
            ),
            html.Div(id=Id.CONTINUATION),
        ],
        className="continuation",
    )  # fmt: skip


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
            html.Div(tabs, id=Id.TABS, className="tabs", role="tablist", **named({"aria-label": "Panels"})),
        ],
        className="status",
    )


def _panel() -> html.Section:
    return html.Section(
        [
            html.Div(
                [
                    group("Fill", "What colours a cell", switch(Id.FILL, FILLS, "rank"), name="for-lens"),
                    group("Score", "What is shown of each head", _choice(Id.SCORE), name="for-heads"),
                    group("Layer", "Whose attention is shown", _choice(Id.LAYER), name="for-attention"),
                    group("Layers", "Which layers are drawn", _window(), _shown("semantic"), name="for-semantic"),
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


def _choice(control: Id) -> dcc.Dropdown:
    return dcc.Dropdown(id=control, options=[], clearable=False, searchable=False, className="choice")


def _window() -> dcc.RangeSlider:
    return dcc.RangeSlider(
        id=Id.SEMANTIC_LAYERS, min=0, max=1, step=1, value=[0, 1], pushable=1, marks=None, allow_direct_input=False,
        className="slider",
    )  # fmt: skip


def _shown(what: str) -> html.Span:
    return html.Span(className="note", **named({"data-show": what}))


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
            finder(),
            progress_row(Id.TEST_PROGRESS, Id.TEST_CANCEL, "Stop this test"),
            html.P(className="stale", role="status", **named({"data-show": "stale"})),
            html.Div(id=Id.EFFECT, className="effects", **named({"aria-live": "polite"})),
            html.Div(_HINTS, id=Id.DETAILS),
        ],
        className="pane right",
        **named({"aria-label": "Details"}),
    )
