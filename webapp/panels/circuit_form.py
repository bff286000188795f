"""Where a circuit is searched: with what, how, and at what price."""

from __future__ import annotations

from typing import Any

from dash import dcc, html

from ..present.attributes import named
from ..present.ids import Id
from ..present.parts import progress_row
from ..recipe import LONGEST_TEXT, MOST_FORWARDS, MOST_PROMPTS, Recipe
from .circuit_map import circuit_map

TASKS = {
    "none": ("this text, and corrupted", "The prompt that is traced, beside one without what decides."),
    "ioi-flip": ("task: ioi, flip", "Who is given something: the name that occurs once; corrupted by the other name in the second subject’s place."),
    "ioi": ("task: ioi, abc", "Who is given something: the name that occurs once; corrupted by three other names."),
    "greater-than": ("task: greater-than", "A span of years ends later than it starts; corrupted by a start that rules nothing out."),
    "induction": ("task: induction", "A sequence of random words repeats; corrupted by a first part of other words."),
    "agreement": ("task: agreement", "The verb agrees with its noun; corrupted by the noun’s other number."),
    "colored-objects": ("task: colored-objects", "The color of one of three things; corrupted by asking for another."),
    "capitals": ("task: capitals", "The capital of a country; corrupted by another country."),
}  # fmt: skip
"""What a circuit is searched with → how it is called, and what it is."""
CIRCUITS = {
    "backward": ("backward", "Estimates of every edge, and the strongest cut one by one: each edge of the result was measured."),
    "eap-ig-exact": ("eap-ig-exact", "Gradients averaged over five runs between the two prompts, and the strongest edges cut one by one: each edge was measured."),
    "eap": ("eap", "Change · gradient of every edge, from one forward and one backward pass. Estimates only."),
    "eap-qk": ("eap-qk", "The same, with attention run anew for edges into queries and keys. Estimates only."),
    "eap-ig": ("eap-ig", "Gradients averaged over five runs between the two prompts. Estimates only."),
}  # fmt: skip
"""How a circuit is searched → how it is called, and what it does."""
_CORRUPTED_HINT = "The prompt once more, with as many tokens, but without what decides its answer"
_ANSWER_HINT = "One token, with its space before it. Empty: the target that is chosen above"
_AGAINST_HINT = "One token. Empty: the foil that is chosen above, or the mean logit if none is"
_BUDGET_HINT = "Most forwards of one prompt that the search may run. Empty: 500 for each prompt"


def finder() -> html.Details:
    """The form of a search, its progress, and what came of it."""
    return html.Details(
        [
            html.Summary("Find the circuit", title="Search the edges between heads and MLPs by which the model gives its answer"),
            html.Div(
                [_source(), _pair(), _task(), _method(), _go(), html.Div(id=Id.FOUND, **named({"aria-live": "polite"})), circuit_map()],
                className="finder-body",
            ),
        ],
        id=Id.FINDER,
        className="finder",
        **named({"data-source": "none"}),
    )  # fmt: skip


def _source() -> html.Div:
    control = _choice(Id.TASK, TASKS, "none")
    return html.Div(
        _field("Searched with", control, Id.TASK, "What the circuit is searched with"), className="of-tasks"
    )


def _pair() -> html.Div:
    words = dcc.Textarea(
        id=Id.CORRUPTED, rows=2, maxLength=LONGEST_TEXT, spellCheck=False, className="corrupted", title=_CORRUPTED_HINT
    )
    return html.Div(
        [
            _field("Corrupted text", words, Id.CORRUPTED, _CORRUPTED_HINT),
            html.P(id=Id.PROPOSED, className="note"),
            html.Div(
                [
                    _field("Answer", _text(Id.ANSWER, "as above"), Id.ANSWER, _ANSWER_HINT),
                    _field("minus", _text(Id.AGAINST, "as above"), Id.AGAINST, _AGAINST_HINT),
                ],
                className="fields",
            ),
        ],
        className="for-pair",
    )


def _task() -> html.Div:
    count = dcc.Input(
        id=Id.PROMPTS, type="number", min=1, max=MOST_PROMPTS, step=1, value=Recipe().prompts, className="box"
    )
    hint = f"How many examples are drawn, 1 to {MOST_PROMPTS}; always the same ones"
    return html.Div(_field("Examples", count, Id.PROMPTS, hint), className="for-task")


def _method() -> html.Div:
    budget = dcc.Input(
        id=Id.BUDGET, type="number", min=1, max=MOST_FORWARDS, step=1, placeholder="auto", className="box"
    )
    return html.Div(
        [
            _field("Method", _choice(Id.CIRCUIT, CIRCUITS, "backward"), Id.CIRCUIT, "How edges are found"),
            _field("Budget", budget, Id.BUDGET, _BUDGET_HINT),
        ],
        className="fields",
    )  # fmt: skip


def _go() -> html.Div:
    hint = "It runs in the background: the page stays usable, and others are answered between its steps"
    return html.Div(
        [
            html.Button("Find", id=Id.FIND, type="button", className="button primary", title=hint, n_clicks=0),
            progress_row(Id.FIND_PROGRESS, Id.FIND_CANCEL, "Stop the search"),
        ],
        className="go",
    )


def _field(title: str, control: Any, name: Id, hint: str) -> html.Div:
    return html.Div([html.Label(title, htmlFor=name, title=hint), control], className="field", title=hint)


def _text(name: Id, placeholder: str) -> dcc.Input:
    return dcc.Input(id=name, type="text", placeholder=placeholder, maxLength=200, autoComplete="off", className="box")


def _choice(name: Id, options: dict[str, tuple[str, str]], value: str) -> dcc.Dropdown:
    listed: Any = [{"label": text, "value": key, "title": hint} for key, (text, hint) in options.items()]
    return dcc.Dropdown(id=name, options=listed, value=value, clearable=False, searchable=False)
