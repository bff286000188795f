"""The picture: which graph an address shows, a flow graph or a circuit, and all that is said of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from flowgraph.errors import ArgumentError, FlowgraphError
from flowgraph.render import drawing, legend_sections, page_data

from ..present.errors import notice
from ..present.ids import Id
from ..present.legend import legend_components
from ..present.wiring import Ticket, View, follow
from ..recipe import Recipe, from_query
from ..registered import POSTED, TABS
from ..server.asking import ask, can_ask
from ..server.errors import Cancelled
from ..server.question import Question
from ..server.run import Run, RunQuestion
from . import circuit_details
from .bars import Bars, BarsQuestion
from .circuit import Circuit, CircuitQuestion
from .flow import (
    GraphAnswer,
    GraphQuestion,
    SketchQuestion,
    caption,
    mass_hint,
    picture_data,
    readings,
    start_chip,
)
from .prediction import predictions
from .setting import Setting
from .writers import writers

if TYPE_CHECKING:
    from dash import Dash
    from dash.development.base_component import Component

    from ..server.service import Known, Service


_OUTPUTS = {
    "strip": (Id.STRIP, "children"),
    "start": (Id.START, "children"),
    "picture": (Id.PICTURE, "data"),
    "legend": (Id.LEGEND, "children"),
    "caption": (Id.CAPTION, "children"),
    "mass": (Id.COUNTER, "title"),
    "layer_count": (Id.LAYERS, "max"),
    "layers": (Id.LAYERS, "value"),
    "run": (Id.RUN, "data"),
    "notice": (Id.NOTICE, "children"),
}
"""What is drawn of a run → the property of the page that shows it."""
POSTED.add(f"{Id.TICKET}.data", Ticket | None)
POSTED.add(f"{Id.PICTURE}.drawn", str | None)
POSTED.add(f"{Id.RUN}.data", View | None)


def wires(app: Dash, service: Service) -> None:
    """Connect the callbacks: drawing an address, how far that is, and what comes after the picture."""
    from dash import Input, Output, State, no_update

    ends = _OUTPUTS | {f"{one.id}.{prop}": (one.id, prop) for one in panel_settings() for prop in one.properties}
    outputs = {name: Output(*end) for name, end in ends.items()}
    running = [(Output(Id.PROGRESS, "className"), "running", "idle"), (Output(Id.POLL, "disabled"), False, True)]

    @app.callback(outputs, Input(Id.TICKET, "data"), running=running, prevent_initial_call=True)
    def draw(ticket: dict[str, Any] | None) -> dict[str, Any]:
        if ticket is None:
            return dict.fromkeys(outputs, no_update)
        if ticket["previous"]:
            service.cancel(ticket["previous"])
        recipe = from_query(ticket["search"])
        run = ask(service, RunQuestion.of(recipe), ticket["id"])
        answer = shown(service, recipe, ticket["id"], sketch=True)
        said = about_picture(recipe, answer, ticket, run)
        said["run"] |= offered(service, recipe, run)
        return {**about_run(recipe, run), **said, "notice": passed_over(recipe, run)}

    for prop, of in _AFTERWARDS.items():
        _after_drawing(app, service, prop, of)
    follow(app, service, State(Id.TICKET, "data"), poll=Id.POLL, progress=Id.PROGRESS, cancel=Id.CANCEL)


def _after_drawing(app: Dash, service: Service, prop: str, of: Callable[[Service, Recipe, str, str], Any]) -> None:
    """Give the picture a property as soon as it is drawn, unless the page has gone on to another picture."""
    from dash import Input, Output, State, no_update

    @app.callback(
        Output(Id.PICTURE, prop), Input(Id.PICTURE, "drawn"), State(Id.TICKET, "data"), prevent_initial_call=True
    )
    def give(drawn: str, ticket: dict[str, Any] | None) -> Any:
        if ticket is None or drawn != picture_name(ticket):
            return no_update
        try:
            return of(service, from_query(ticket["search"]), ticket["id"], drawn)
        except Cancelled:
            return no_update


def _readings(service: Service, recipe: Recipe, ticket: str, drawn: str) -> dict[str, Any]:
    """What every node says, which a sketch leaves open."""
    return readings(shown(service, recipe, ticket).graph, drawn)


def _writers(service: Service, recipe: Recipe, ticket: str, drawn: str) -> dict[str, Any]:
    """The largest writers of the answer, or why they are not known."""
    try:
        return {"picture": drawn, **largest_writers(service, recipe, ticket)}
    except Cancelled:
        raise
    except FlowgraphError as error:
        return {"picture": drawn, "about": "", "parts": [], "failed": str(error)}


_AFTERWARDS = {"readings": _readings, "writers": _writers}
"""Property of the picture → what gives it once the picture is drawn."""


def shown(
    service: Service | Known, recipe: Recipe, ticket: str | None = None, *, sketch: bool = False
) -> GraphAnswer | Circuit:
    """What the picture of a recipe shows: its flow graph, or a circuit; of a sketch, not all nodes have been read.

    Raises
    ------
    FlowgraphError
        As :meth:`~flowgraph_webapp.server.service.Service.ask`.
    """
    if recipe.circuit != "none":
        return ask(service, CircuitQuestion.of(recipe), ticket)
    question: Question[GraphAnswer] = SketchQuestion.of(recipe) if sketch else GraphQuestion.of(recipe)
    return ask(service, question, ticket)


def largest_writers(service: Service, recipe: Recipe, ticket: str) -> dict[str, Any]:
    """What wrote most of the answer, and whether the picture shows it; no parts where that has no meaning.

    Opening a session runs nothing: of one that does not hold the sum, nothing is said.
    """
    run = ask(service, RunQuestion.of(recipe))
    if not has_parts(recipe, run):
        return {"about": "", "parts": []}
    question = BarsQuestion.of(recipe)
    bars = ask(service, question, ticket) if recipe.session is None else service.known(question)
    if not isinstance(bars, Bars):
        return {"about": "", "parts": [], "failed": "the sum was not recorded in this session"}
    return writers(bars, run, recipe, shown(service, recipe, ticket, sketch=True).graph)


def about_run(recipe: Recipe, run: Run) -> dict[str, Any]:
    """Strip of predictions, how far the layers go, and what the settings of panels offer."""
    of_panels = {
        f"{one.id}.{prop}": value for one in panel_settings() for prop, value in one.of_run(recipe, run).items()
    }
    layers = list(recipe.layers or (0, run.n_layers))
    return {"strip": predictions(run), "layer_count": run.n_layers, "layers": layers, **of_panels}


def passed_over(recipe: Recipe, run: Run) -> Component | None:
    """What the address says of the view and this model does not have; the picture is drawn all the same."""
    said = [text for one in panel_settings() if (text := one.unfit(recipe, run)) is not None]
    return notice(ArgumentError("; ".join(said))) if said else None


def panel_settings() -> list[Setting]:
    """The settings of all panels, in the order of the tabs."""
    return [setting for panel in TABS.values() for setting in panel.settings]


def picture_name(ticket: dict[str, Any]) -> str:
    """Name of the picture that a ticket asks for."""
    return f"flow-{ticket['id']}"


def goes_on(run: Run) -> bool:
    """Whether the model of a run can go on with a text, and its circuits can be searched."""
    return run.has_head and run.causal and bool(run.token_ids)


def has_parts(recipe: Recipe, run: Run) -> bool:
    """Whether a picture is of the answer and of parts of it, so that it can be held against the sum."""
    is_of_answer = recipe.circuit == "none" and recipe.start is None and recipe.show in ("all", "routes")
    return run.has_attribution and is_of_answer


def about_picture(recipe: Recipe, answer: GraphAnswer | Circuit, ticket: dict[str, Any], run: Run) -> dict[str, Any]:
    """The picture and all that is said about it; ``run`` tells the panels that they can ask."""
    data, drawn, name = page_data(answer.graph), drawing(answer.graph), picture_name(ticket)
    said = _of_circuit(answer) if isinstance(answer, Circuit) else _of_graph(recipe, answer)
    return said | {
        "picture": picture_data(data, drawn, name),
        "legend": legend_components(legend_sections(drawn, data)),
        "run": {
            "key": ticket["run"],
            "picture": name,
            "goes_on": goes_on(run),
            "lacks": list(run.lacks),
            "parts": has_parts(recipe, run),
            "search": ticket["search"],
        },
    }


def _of_graph(recipe: Recipe, answer: GraphAnswer) -> dict[str, Any]:
    start = GraphQuestion.of(recipe).start
    return {
        "start": start_chip(start, answer.graph),
        "caption": caption(answer),
        "mass": mass_hint(drawing(answer.graph)),
    }


def _of_circuit(answer: Circuit) -> dict[str, Any]:
    return {
        "start": circuit_details.chip(answer),
        "caption": circuit_details.caption(answer),
        "mass": circuit_details.mass_hint(answer.graph),
    }


def offered(service: Service, recipe: Recipe, run: Run) -> dict[str, Any]:
    """For the scripts: whether the model can be asked, and which panels have an answer."""
    asks = can_ask(service, recipe, run)
    panels = [panel.name for panel in TABS.values() if asks or service.known(panel.question(recipe, run)) is not None]
    return {"asks": asks, "panels": panels, "file": not run.token_ids, "text": run.is_text}
