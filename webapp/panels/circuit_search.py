"""The form that searches for a circuit: a counterpart of the prompt, what was found, and the way to it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypedDict

import flowgraph
from flowgraph.errors import ArgumentError, FlowgraphError
from flowgraph.render import visible

from ..present import html
from ..present.attributes import named
from ..present.errors import search_error
from ..present.figures import plural
from ..present.ids import Id
from ..present.wiring import Ticket, View, follow, in_browser
from ..recipe import Recipe, check_text, from_query, to_query
from ..registered import POSTED
from ..server.asking import ask
from ..server.question import recorded
from ..server.run import OfRun, RunQuestion
from ..server.traces import Check, Traces, prompt_ids, source_ids
from .circuit import Circuit, CircuitQuestion
from .circuit_map import map_elements

if TYPE_CHECKING:
    from dash import Dash
    from dash.development.base_component import Component

    from flowgraph import LoadedModel

    from ..server.service import Service

_NAMES = "Its first names became others. Change what you like, as long as it has as many tokens."
_WORDS = (
    "No first name to exchange, so every word became a random other. Better: take the prompt itself, and change only what decides "
    "the answer."
)
_NO_TEXT = "No text of as many tokens came out; write one: the prompt once more, without what decides the answer."


@dataclass(frozen=True)
class Counterpart:
    """A prompt that was made of another one; empty where none could be, and in words what was changed or why not."""

    text: str
    note: str


@dataclass(frozen=True)
class Token:
    """A token of the model."""

    token_id: int
    text: str


@recorded
@dataclass(frozen=True)
class CorruptQuestion(OfRun[Counterpart]):
    """A counterpart of the prompt, as many tokens long, without what decides."""

    def answer(self, traces: Traces, check: Check) -> Counterpart:
        """A counterpart of a prompt: with other names, or where it has none with other words."""
        loaded = traces.model(self.run.model, check)
        found, note = _corrupted(loaded, self.run.text)
        trace = traces.trace(self.run, check)
        read = trace.stacks.get("encoder", trace).token_ids
        is_text = isinstance(found, str) and len(_read(loaded, found, self.run.chat)) == len(read)
        return Counterpart(str(found), note) if is_text else Counterpart("", _NO_TEXT)


@recorded
@dataclass(frozen=True)
class TokenQuestion(OfRun[Token]):
    """The token that a text is; ``name`` is what the text is meant for, for the message."""

    text: str
    name: str

    def __post_init__(self) -> None:
        check_text(self.text, self.name)

    def answer(self, traces: Traces, check: Check) -> Token:
        """The one token that a text is."""
        vocabulary = traces.model(self.run.model, check).answers
        found = vocabulary.target_id(self.text, self.name)
        return Token(found, vocabulary.string(found))


def _read(loaded: LoadedModel, text: str, chat: bool) -> list[int]:
    """Token ids that the model reads of a text; of an encoder–decoder its encoder."""
    return source_ids(loaded, text) if loaded.stacks else prompt_ids(loaded, text, chat)


def _corrupted(loaded: LoadedModel, text: str) -> tuple[object, str]:
    try:
        return flowgraph.corrupt(loaded, text, "names"), _NAMES
    except ArgumentError:  # no names: that is no reason to propose nothing
        pass
    try:
        return flowgraph.corrupt(loaded, text, "tokens"), _WORDS
    except ArgumentError:
        return (), _NO_TEXT


def found_box(answer: Circuit, query: str) -> Component:
    """That a search has ended, and a way to its result."""
    show = html.Button(
        "Show it", type="button", className="button small", title="Show this circuit", **named({"data-go": query})
    )
    said = f"{plural(len(answer.graph), 'edge')}, {answer.note.removeprefix('edges ')}"
    return html.Div([html.P([html.B("Circuit found: "), said, ".", *_found_for(answer)]), show], className="found-box")


def _found_for(answer: Circuit) -> list[str]:
    """Whose circuit it is: the page may look at another prompt by now."""
    if answer.graph.info.options.get("prompts") != 1 or not answer.pairs:
        return [f" Of {answer.about}."]
    pair = answer.pairs[0]
    against = "the mean logit" if pair.foil is None else visible(pair.foil)
    return [f" Of “{pair.clean}”: {visible(pair.target)} against {against}."]


class _Form(TypedDict):
    task: str
    corrupted: str
    answer: str
    against: str
    prompts: float
    circuit: str
    budget: float | None


class _Wanted(Ticket):
    form: _Form


POSTED.add(f"{Id.PICTURE}.proposal", View | None)
POSTED.add(f"{Id.FIND_TICKET}.data", _Wanted | None)


STORES = (Id.FIND_TICKET,)
POLLS = (Id.FIND_POLL,)


def right_pane() -> list[Component]:
    """The form of a search."""
    from .circuit_form import finder

    return [finder()]


def wires(app: Dash, service: Service) -> None:
    """Connect the callbacks of a search: what to begin with, progress and cancelling, and the address of what was found."""
    from dash import Input, Output, State, no_update

    running = [
        (Output(Id.FIND_PROGRESS, "className"), "growing", "idle"),
        (Output(Id.FIND_POLL, "disabled"), False, True),
    ]

    @app.callback(
        Output(Id.CORRUPTED, "value", allow_duplicate=True), Output(Id.PROPOSED, "children"), Input(Id.PICTURE, "proposal"),
        prevent_initial_call=True,
    )  # fmt: skip
    def propose(wanted: dict[str, Any] | None) -> tuple[Any, Any]:
        return (no_update, no_update) if wanted is None else proposed(service, wanted["search"])

    @app.callback(
        Output(Id.FOUND, "children"), Output(Id.FOUND_MAP, "elements"), Output(Id.FOUND, "data-found"), Input(Id.FIND_TICKET, "data"),
        running=running, prevent_initial_call=True,
    )  # fmt: skip
    def find(ticket: dict[str, Any] | None) -> tuple[Any, Any, Any]:
        return (None, [], None) if ticket is None else found(service, ticket)

    follow(
        app, service, State(Id.FIND_TICKET, "data"), poll=Id.FIND_POLL, progress=Id.FIND_PROGRESS, cancel=Id.FIND_CANCEL
    )
    in_browser(app, "chooseTask", Input(Id.TASK, "value"))
    in_browser(app, "showFound", Input(Id.FOUND, "data-found"), State(Id.FIND_TICKET, "data"))
    in_browser(app, "openFound", Input(Id.FOUND_MAP, "tapNodeData"))
    form = (Id.TASK, Id.CORRUPTED, Id.ANSWER, Id.AGAINST, Id.PROMPTS, Id.CIRCUIT, Id.BUDGET)
    written = (
        Output(name, "value", allow_duplicate=True)
        for name in (Id.TASK, Id.CORRUPTED, Id.PROMPTS, Id.CIRCUIT, Id.BUDGET)
    )
    in_browser(
        app, "fillForm", *written, Output(Id.PROPOSED, "children", allow_duplicate=True), Input(Id.PICTURE, "drawn")
    )
    in_browser(
        app,
        "find",
        Output(Id.FIND_TICKET, "data"),
        Input(Id.FIND, "n_clicks"),
        *(State(name, "value") for name in form),
    )


def proposed(service: Service, search: str) -> tuple[Any, Any]:
    """A counterpart of the prompt and what was changed in it, or why there is none."""
    from dash import no_update

    try:
        made = ask(service, CorruptQuestion(RunQuestion.of(from_query(search))))
    except FlowgraphError as error:
        return no_update, str(error)
    return made.text, made.note


def found(service: Service, ticket: dict[str, Any]) -> tuple[Any, Any, Any]:
    """What came of a search, its map, and the address that shows it; the service keeps the answer for it."""
    from dash import no_update

    if ticket["previous"]:
        service.cancel(ticket["previous"])
    try:
        recipe = recipe_of(service, ticket)
        answer = ask(service, CircuitQuestion.of(recipe), ticket["id"])
        query = to_query(recipe)
    except FlowgraphError as error:
        return search_error(error), [], no_update
    return found_box(answer, query), map_elements(answer.graph), query


def recipe_of(service: Service, ticket: dict[str, Any]) -> Recipe:
    """The view of the circuit that a form asks for: the view that it was filled in at, with the circuit in the picture's place.

    Raises
    ------
    FlowgraphError
        If a field cannot be used, or an answer is not one token.
    """
    form, recipe = ticket["form"], from_query(ticket["search"])
    is_pair = form["task"] == "none"
    recipe = replace(
        recipe, circuit=form["circuit"], task=form["task"], corrupted=form["corrupted"] if is_pair else "",
        prompts=Recipe().prompts if is_pair else form["prompts"], budget=form["budget"], selected=None, pins=(), keep=None,
    )  # fmt: skip
    if not is_pair:
        return recipe
    asked = (("target", "answer"), ("foil", "against"))
    aims: dict[str, Any] = {
        name: _token(service, recipe, form[field], name, ticket["id"]) for name, field in asked if form[field]
    }
    return replace(recipe, **aims)


def _token(service: Service, recipe: Recipe, text: str, name: str, ticket: str) -> int:
    """The id of a token as people write it: its space may be typed as the mark that the page shows."""
    return ask(service, TokenQuestion(RunQuestion.of(recipe), text.replace("␣", " "), name), ticket).token_id
