"""The left pane: how flow is measured, what of it is drawn, and what the marks mean."""

from __future__ import annotations

from dash import dcc, html

from flowgraph import DEFAULT_METHOD

from ...present.attributes import named
from ...present.drawn import Element, drawn, element
from ...present.ids import Id
from ...present.parts import group, hidden_label, switch
from ...recipe import LARGEST_LEVEL
from ...server.run import NO_TEXT
from .words import LEVELS, METHODS, ORIENTATIONS, SHOWS, WIDTHS

_KEEP_HINT = (
    "Edges appear from the strongest connected flow downwards, so that whatever is shown leads to the start node."
)
_CURVE_HINT = "How much of the answer the picture keeps at each level of the slider, when all that it does not show comes from counterfactual prompts"
_KEPT_HINT = "Measured for exactly this picture: everything that it does not show comes from the counterfactual prompts of the test beside it."
_HEADS_IN_HINT = (
    "At level token: layers that are shown as their heads, as 21, 23 or 20-24; a click on L23 beside the picture does the same. For "
    "the methods attention, proximity and logits, whose heads add up to what they bring together."
)
_CIRCUIT_NOTE = "A circuit is shown. What is chosen here is about the flow graph, and shows it again."
_FILE_NOTE = (
    "A graph from a file is shown, without the run of a model behind it. Methods, levels and panels come with a run: Trace runs its "
    "prompt in the model that is chosen above."
)
_NO_TEXT_NOTE = f"A file is shown, without the run of a model behind it. {NO_TEXT}."
_POSITION_HINT = "Token whose prediction is explained, counted from 0. Empty: the last one, or in a masked model the one that stands for the gap."
_THRESHOLD_HINT = "Smallest share of its target that an edge must have to be followed. Empty: chosen for the method, and said below the picture."


def controls() -> html.Aside:
    """The pane with every choice about the graph."""
    return html.Aside(
        [
            group("Method", "How the weight of an edge is measured", _methods(), name="methods of-run"),
            group("Show", "Which edges of the method are drawn", switch(Id.SHOW, SHOWS, "routes"), name="of-run"),
            group(
                "Level",
                "Heads of a layer together, or one by one",
                switch(Id.LEVEL, LEVELS, "token"),
                _heads_in(),
                name="of-run",
            ),
            _keep(),
            group("Edge width", "What the width of an edge says", switch(Id.WIDTH, WIDTHS, "flow"), name="of-widths"),
            group("Tokens as", "Where the tokens stand", switch(Id.ORIENTATION, ORIENTATIONS, "auto")),
            _layers(),
            _threshold(),
            _position(),
            html.P(_CIRCUIT_NOTE, className="note circuit-only"),
            html.P(_FILE_NOTE, className="note file-only text-only"),
            html.P(_NO_TEXT_NOTE, className="note file-only no-text-only"),
            html.Div(id=Id.LEGEND, className="legends"),
        ],
        className="pane left",
        **named({"aria-label": "What is shown"}),
    )


def _methods() -> dcc.RadioItems:
    def option(name: str, unit: str, hint: str) -> dict[str, object]:
        label = html.Span([html.Span(name), html.Span(unit, className="unit")], className="method")
        return {"label": label, "value": name, "title": f"{hint} In {unit}."}

    return dcc.RadioItems(
        id=Id.METHOD, options=[option(name, *about) for name, about in METHODS.items()], value=DEFAULT_METHOD, className="list"
    )  # fmt: skip


def _heads_in() -> html.Div:
    box = dcc.Input(
        id=Id.HEADS_IN,
        type="text",
        placeholder="none",
        debounce=True,
        maxLength=400,
        autoComplete="off",
        className="box",
    )
    return html.Div(
        [html.Label("heads in layers", htmlFor=Id.HEADS_IN, className="note"), box], className="beside-box", title=_HEADS_IN_HINT
    )  # fmt: skip


def _keep() -> html.Section:
    return html.Section(
        [
            html.H2(html.Label("Keep the strongest flow", htmlFor=Id.KEEP, title=_KEEP_HINT, id=Id.KEEP_TITLE)),
            html.Div(className="curve", **named({"data-show": "curve"})),
            drawn(_slider(), name="range", label="Slider"),
            html.P(id=Id.COUNTER, className="counter", title=_KEEP_HINT, **named({"data-part": "counter"})),
            html.Button("What each level keeps", id=Id.CURVE, type="button", className="link of-test", title=_CURVE_HINT),
            html.P(className="note curve-said", role="status", **named({"data-show": "curve-said"})),
            html.P(className="kept-badge", role="status", title=_KEPT_HINT, **named({"data-show": "kept"})),
        ],
        className="control",
    )  # fmt: skip


def _slider() -> Element:
    """An input of the page's own: one of Dash would put back its own value whenever it loses the focus."""
    return element(
        "input", type="range", id=Id.KEEP, data_part="keep", min=0, max=LARGEST_LEVEL, step=1, value=LARGEST_LEVEL
    )


def _position() -> html.Section:
    box = dcc.Input(
        id=Id.POSITION, type="number", min=0, step=1, placeholder="auto", debounce=True, className="box"
    )  # fmt: skip
    return html.Section(
        [html.H2(html.Label("Position", htmlFor=Id.POSITION, title=_POSITION_HINT)), box],
        className="control of-run",
        title=_POSITION_HINT,
    )


def _layers() -> html.Fieldset:
    slider = dcc.RangeSlider(
        id=Id.LAYERS, min=0, max=1, step=1, value=[0, 1], pushable=1, marks=None, allow_direct_input=False, className="slider"
    )  # fmt: skip
    hint = "First and last layer that are drawn; flow is followed inside this window"
    return group(
        "Layers", hint, slider, html.P(className="note", **named({"data-show": "layers"})), name="window of-run"
    )


def _threshold() -> html.Section:
    box = dcc.Input(
        id=Id.THRESHOLD, type="number", min=0, max=1, step="any", placeholder="auto", debounce=True, className="box"
    )  # fmt: skip
    return html.Section(
        [html.H2(html.Span("Threshold", title=_THRESHOLD_HINT)), hidden_label("Threshold, a share", Id.THRESHOLD), box],
        className="control of-run",
        title=_THRESHOLD_HINT,
    )
