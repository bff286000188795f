"""Searching a circuit in the background: what to begin with, progress and cancelling, and the address of what was found."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from dash import Dash, Input, Output, State, no_update

from flowgraph.errors import FlowgraphError

from ...panels.circuit import CircuitQuestion, CorruptQuestion, TokenQuestion, found_box
from ...present.errors import search_error
from ...recipe import Recipe, from_query, to_query
from ...server.run import RunQuestion
from ..circuit_map import map_elements
from ..ids import Id
from .asking import ask
from .following import follow

if TYPE_CHECKING:
    from ...server.service import Service

_RUNNING = [
    (Output(Id.FIND_PROGRESS, "className"), "growing", "idle"),
    (Output(Id.FIND_POLL, "disabled"), False, True),
]


def register(app: Dash, service: Service) -> None:
    """Connect the callbacks."""

    @app.callback(
        Output(Id.CORRUPTED, "value", allow_duplicate=True), Output(Id.PROPOSED, "children"), Input(Id.PICTURE, "proposal"),
        prevent_initial_call=True,
    )  # fmt: skip
    def propose(wanted: dict[str, Any] | None) -> tuple[Any, Any]:
        return (no_update, no_update) if wanted is None else proposed(service, wanted["search"])

    @app.callback(
        Output(Id.FOUND, "children"), Output(Id.FOUND_MAP, "elements"), Output(Id.FOUND_AT, "data"), Input(Id.FIND_TICKET, "data"), running=_RUNNING,
        prevent_initial_call=True,
    )  # fmt: skip
    def find(ticket: dict[str, Any] | None) -> tuple[Any, Any, Any]:
        return (None, [], None) if ticket is None else found(service, ticket)

    follow(
        app, service, State(Id.FIND_TICKET, "data"), poll=Id.FIND_POLL, progress=Id.FIND_PROGRESS, cancel=Id.FIND_CANCEL
    )


def proposed(service: Service, search: str) -> tuple[Any, Any]:
    """A counterpart of the prompt and what was changed in it, or why there is none."""
    try:
        made = ask(service, CorruptQuestion(RunQuestion.of(from_query(search))))
    except FlowgraphError as error:
        return no_update, str(error)
    return made.text, made.note


def found(service: Service, ticket: dict[str, Any]) -> tuple[Any, Any, Any]:
    """What came of a search, its map, and the address that shows it; the service keeps the answer for it."""
    if ticket["previous"]:
        service.cancel(ticket["previous"])
    try:
        recipe = recipe_of(service, ticket)
        answer = ask(service, CircuitQuestion.of(recipe), ticket["id"])
        query = to_query(recipe)
    except FlowgraphError as error:
        return search_error(error), [], no_update
    return found_box(answer, query), map_elements(answer.graph), {"search": query, "from": ticket["search"]}


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
