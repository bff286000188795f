"""The panels below the picture: each is asked for when its tab is open."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from dash import Dash, Input, Output, no_update
from dash.development.base_component import Component

from flowgraph import node_key, parse_node
from flowgraph.errors import ArgumentError, FlowgraphError

from ...panels import attention, bars, heads, lens, semantic
from ...present.errors import panel_error
from ...recipe import Recipe, check_index, from_query
from ...server.questions import (
    attention_question,
    bars_question,
    heads_question,
    lens_question,
    run_question,
    semantic_question,
)
from ..ids import Id
from .asking import ask

if TYPE_CHECKING:
    from ...server.service import Service

_RUNNING = [(Output(Id.CONTENT, "className"), "content loading", "content")]


def register(app: Dash, service: Service) -> None:
    """Connect the callbacks."""

    @app.callback(Output(Id.CONTENT, "children"), Input(Id.PANEL, "data"), running=_RUNNING, prevent_initial_call=True)
    def show(panel: dict[str, Any] | None) -> Component | None:
        if panel is None:
            return None
        try:
            return panel_of(panel["tab"], service, from_query(panel["search"]), panel["first"])
        except FlowgraphError as error:
            return panel_error(error)

    @app.callback(
        Output(Id.SCORE, "options"), Output(Id.SCORE, "value"), Input(Id.PANEL, "data"), prevent_initial_call=True
    )
    def offer_scores(panel: dict[str, Any] | None) -> tuple[Any, Any]:
        if panel is None or panel["tab"] != "heads":
            return no_update, no_update
        recipe = from_query(panel["search"])
        options = heads.options(ask(service, heads_question(recipe)))
        return options, recipe.score or options[0]["value"]


def panel_of(tab: str, service: Service, recipe: Recipe, first: int | None = None) -> Component:
    """The panel of a tab.

    Parameters
    ----------
    tab
        Key of one of the panels.
    service
        What answers.
    recipe
        What is looked at.
    first
        First token of a lens that does not fit; None: around the position that is explained.

    Raises
    ------
    FlowgraphError
        If there is no such tab, or its question cannot be answered.
    """
    if tab not in _PANELS:
        raise ArgumentError(f"tab={tab!r} is not a panel; expected one of {', '.join(_PANELS)}")
    check_index("first", first)
    return _lens(service, recipe, first) if tab == "lens" else _PANELS[tab](service, recipe)


def _lens(service: Service, recipe: Recipe, first: int | None = None) -> Component:
    run, answer = ask(service, run_question(recipe)), ask(service, lens_question(recipe))
    start = None if recipe.start is None else node_key(parse_node(recipe.start))
    return lens.panel(answer, run, fill=recipe.fill, selected=recipe.selected_node, start=start, first=first)


def _heads(service: Service, recipe: Recipe) -> Component:
    run, answer = ask(service, run_question(recipe)), ask(service, heads_question(recipe))
    return heads.panel(answer, run, score=recipe.score, selected=recipe.selected_node)


def _attention(service: Service, recipe: Recipe) -> Component:
    run = ask(service, run_question(recipe))
    layer = run.n_layers - 1 if recipe.layer is None else recipe.layer
    answer = ask(service, attention_question(recipe, layer))
    return attention.panel(answer, run, heads=recipe.heads, selected=recipe.selected_node)


def _bars(service: Service, recipe: Recipe) -> Component:
    run, answer = ask(service, run_question(recipe)), ask(service, bars_question(recipe))
    return bars.panel(answer, run, selected=recipe.selected_node)


def _semantic(service: Service, recipe: Recipe) -> Component:
    run, answer = ask(service, run_question(recipe)), ask(service, semantic_question(recipe))
    return semantic.panel(answer, run, selected=recipe.selected_node)


_PANELS: Mapping[str, Callable[[Service, Recipe], Component]] = {
    "lens": _lens, "heads": _heads, "attention": _attention, "bars": _bars, "semantic": _semantic,
}  # fmt: skip
