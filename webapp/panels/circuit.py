"""A circuit beside its picture: what was searched and found, every edge with its effect, and what a node or an edge has to do with it.

``panel(answer)`` is of the whole, ``node_panel(answer, node, pinned)`` and ``edge_panel(answer, edge)`` of a part. Edges are
selected as ``edge.17``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, Self, TypedDict

import numpy as np

import flowgraph
from flowgraph import FlowGraph, Node
from flowgraph.errors import ArgumentError, FlowgraphError, PromptError
from flowgraph.render import shown_graph, visible

from ..present import html
from ..present.attributes import named
from ..present.buttons import acts, boxed, test_button
from ..present.drawn import Element, Fact, drawn, element, facts, link, token
from ..present.errors import search_error
from ..present.figures import plural, signed
from ..present.ids import Id
from ..present.tables import Cell, Column, table
from ..present.wiring import Ticket, View, follow, in_browser
from ..recipe import (
    CHOICES,
    Recipe,
    Task,
    check_choice,
    check_effort,
    check_text,
    from_query,
    to_query,
)
from ..recipe import Circuit as Search
from ..registered import POSTED
from ..server.asking import ask
from ..server.question import A, recorded, require
from ..server.run import OfRun, Run, RunQuestion, inside_run, same
from ..server.traces import Check, Traces, prompt_ids, reporting
from .circuit_map import map_elements
from .flow import MOST_EDGES, OfShown

if TYPE_CHECKING:
    from dash import Dash
    from dash.development.base_component import Component

    from flowgraph import LoadedModel, Trace

    from ..server.service import Service

MOST_ROWS = 200
_MOST_PAIRS = 3
_OF_BUDGET = ("cutting edges", "running readers")
"""How the stages begin whose part is that of the budget that is used; the search may end before it is."""
_NAMES = "Its first names became others. Change what you like, as long as it has as many tokens."
_WORDS = (
    "No first name to exchange, so every word became a random other. Better: take the prompt itself, and change only what decides "
    "the answer."
)
_NO_TEXT = "No text of as many tokens came out; write one: the prompt once more, without what decides the answer."
_READS = {"query": "its query", "key": "its key", "value": "its value"}
"""Kind of edge → what of its target reads it, where that has several things that read."""
_MEASURED = "Each edge was cut by itself, and the answer measured. Effects do not add up: edges depend on each other."
_ESTIMATED = (
    "Effects are first-order estimates; no edge was cut to confirm them. The search backward confirms what it shows."
)
_ABLATIONS = {"resample": "the corrupted prompt’s", "zero": "nothing"}
_TEST = "Run the model once more with every edge that this picture does not show bringing what it brings for the corrupted prompt"


@dataclass(frozen=True)
class Pair:
    """A prompt and its corrupted counterpart, the answer and a wrong one; texts of tokens are as the tokenizer has them.

    ``foil`` is None where the answer is compared with the mean logit.
    """

    clean: str
    corrupted: str
    target: str
    foil: str | None


@dataclass(frozen=True, eq=False)
class Circuit:
    """A circuit of at most 3,000 edges, what was taken of it in words, and the prompts that it was searched with."""

    graph: FlowGraph
    note: str
    about: str
    pairs: tuple[Pair, ...]

    def __post_init__(self) -> None:
        require(0 < len(self.graph) <= MOST_EDGES, f"Circuit.graph has {len(self.graph):,} edges")


@dataclass(frozen=True)
class CircuitTest:
    """What the answer is with nothing left but a circuit.

    Attributes
    ----------
    edges, prompts
        How many edges were left, and on how many prompts it was measured.
    metric, unit
        What was measured.
    full, empty, kept
        Its mean with all edges of the model, with none, and with those of the circuit.
    """

    edges: int
    prompts: int
    metric: str
    unit: str
    full: float
    empty: float
    kept: float


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
        ids = traces.trace(self.run, check).token_ids
        is_text = isinstance(found, str) and len(prompt_ids(loaded, found, self.run.chat)) == len(ids)
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


@dataclass(frozen=True)
class OfCircuit(OfRun[A], Generic[A]):
    """Which circuit is meant.

    Attributes
    ----------
    run
        The pass; of a task's circuit, where it is shown.
    method
        How it is searched.
    corrupted, task, prompts
        The prompt's counterpart, or a task and how many of its examples; one of the two.
    budget
        As in :class:`~flowgraph_webapp.recipe.Recipe`.
    """

    method: Search
    corrupted: str = ""
    task: Task = "none"
    prompts: int = 1
    budget: int | None = None

    def __post_init__(self) -> None:
        check_choice("circuit", self.method, CHOICES["circuit"][1:])
        check_choice("task", self.task, CHOICES["task"])
        check_text(self.corrupted, "corrupted")
        check_effort(self.prompts, self.budget)
        if self.task == "none" and not self.corrupted:
            raise PromptError(
                "the corrupted prompt is empty; write the prompt once more without what decides its answer, or choose a task"
            )

    long = True

    @classmethod
    def of(cls, recipe: Recipe) -> Self:
        """About the circuit of a recipe."""
        is_pair = recipe.task == "none"
        corrupted, prompts = (recipe.corrupted, 1) if is_pair else ("", recipe.prompts)
        return cls(RunQuestion.of(recipe), recipe.circuit, corrupted, recipe.task, prompts, recipe.budget)

    def circuit(self, traces: Traces, check: Check) -> Circuit:
        """The circuit of a task, or of a prompt beside its counterpart."""
        # Whatever prompt is on the page: the circuit of a task is the same.
        source: Any = self.run if self.task == "none" else self.run.model
        key = (
            "circuit",
            source,
            *(getattr(self, name) for name in ("method", "corrupted", "task", "prompts", "budget")),
        )
        search = _of_pair if self.task == "none" else _of_task
        found: Circuit = traces.made(key, lambda: search(traces, self, check))
        return found


@recorded
@dataclass(frozen=True)
class CircuitQuestion(OfCircuit[Circuit]):
    """The circuit by which the model gives its answer."""

    def answer(self, traces: Traces, check: Check) -> Circuit:
        """The circuit, searched for unless it was found."""
        return self.circuit(traces, check)

    def refuse_unfit(self, run: Run, answer: Circuit) -> None:
        """As the base class says."""
        same("the circuit's number of layers", answer.graph.info.total_layers, run.n_layers)
        same("a position in a circuit", {node.position for node in answer.graph.nodes}, {None})
        inside_run(run, answer.graph)


@recorded
@dataclass(frozen=True)
class CircuitTestQuestion(OfShown[CircuitTest], OfCircuit[CircuitTest]):
    """What becomes of the answer with nothing left but a circuit."""

    def answer(self, traces: Traces, check: Check) -> CircuitTest:
        """The answer with nothing left but the edges of a circuit that the slider shows; all others bring the corrupted prompt's."""
        found = self.circuit(traces, check).graph
        kept = shown_graph(found, self.keep)
        said, unit = found.info.options, found.info.unit
        full, empty, left = (_tested_pair if self.task == "none" else _tested_task)(traces, self, kept, check)
        return CircuitTest(len(kept), int(said["prompts"]), str(said["metric"]), unit, full, empty, left)


def _tested_pair(traces: Traces, question: OfCircuit[Any], kept: FlowGraph, check: Check) -> tuple[float, float, float]:
    clean, corrupted = _pair(traces, question, check)
    progress, cancel = reporting(check, "measuring what the circuit keeps")
    effect = flowgraph.patch(
        clean.model, clean, corrupted, kept, "noise", outside=True, progress=progress, cancel=cancel
    )
    assert effect.clean is not None  # of a patch both are measured
    assert effect.corrupted is not None
    return float(effect.clean.mean()), float(effect.corrupted.mean()), effect.mean_after


def _tested_task(traces: Traces, question: OfCircuit[Any], kept: FlowGraph, check: Check) -> tuple[float, float, float]:
    loaded = traces.model(question.run.model, check)
    data = flowgraph.task(loaded, question.task, count=question.prompts)
    progress, cancel = reporting(check, "measuring what the circuit keeps")
    found = flowgraph.faithfulness(loaded, data, kept, sizes=(1.0,), bootstrap=0, progress=progress, cancel=cancel)
    return float(found.full.mean()), float(found.by_prompt[0].mean()), float(found.by_prompt[-1].mean())


def _pair(traces: Traces, question: OfCircuit[Any], check: Check) -> tuple[Trace, Trace]:
    """The prompt and its counterpart; traces both, so that the explained position is the same."""
    trace = traces.trace(question.run, check)
    trace.model.require_head("a circuit for the answer")
    _refuse_other_length(trace, prompt_ids(trace.model, question.corrupted, question.run.chat))
    other = replace(question.run, text=question.corrupted, position=trace.position, target=None, foil=None)
    return trace, traces.trace(other, check)


def _of_pair(traces: Traces, question: OfCircuit[Any], check: Check) -> Circuit:
    trace, other = _pair(traces, question, check)
    graph, note = _discovered(trace.model, question, check, clean=trace, corrupted=other)
    assert trace.target_token is not None  # a model without a head was refused
    pair = Pair(question.run.text, question.corrupted, trace.target_token, trace.foil_token)
    return Circuit(graph, note, f"this prompt at position {trace.position}", (pair,))


def _of_task(traces: Traces, question: OfCircuit[Any], check: Check) -> Circuit:
    loaded = traces.model(question.run.model, check)
    check("drawing examples", None)
    data = flowgraph.task(loaded, question.task, count=question.prompts)
    graph, note = _discovered(loaded, question, check, data=data)
    pairs = tuple(Pair(*(str(part) for part in (e.clean, e.corrupted, e.target, e.foil))) for e in data.examples)
    return Circuit(graph, note, f"{data.name}: {data.description}", pairs)


def _discovered(loaded: LoadedModel, question: OfCircuit[Any], check: Check, **prompts: Any) -> tuple[FlowGraph, str]:
    """The circuit, as much of it as can be drawn, and what was taken in words."""
    progress, cancel = reporting(check, "searching")
    check("running the prompts", None)

    def tell(stage: str, part: float | None) -> None:
        progress(f"{stage}; of the budget" if part is not None and stage.startswith(_OF_BUDGET) else stage, part)

    method: Any = question.method
    graph = flowgraph.discover(loaded, method=method, budget=question.budget, progress=tell, cancel=cancel, **prompts)
    note = f"edges whose effect is at least {float(graph.info.filters['threshold']):.0%} of the gap".replace("%", " %")
    if len(graph) <= MOST_EDGES:
        return graph, note
    strongest = np.arange(len(graph)) < MOST_EDGES  # a circuit lists the strongest first
    return graph.keep(strongest, max_edges=MOST_EDGES), f"{note}; the strongest {MOST_EDGES:,} of {len(graph):,}"


def _corrupted(loaded: LoadedModel, text: str) -> tuple[object, str]:
    try:
        return flowgraph.corrupt(loaded, text, "names"), _NAMES
    except ArgumentError:  # no names: that is no reason to propose nothing
        pass
    try:
        return flowgraph.corrupt(loaded, text, "tokens"), _WORDS
    except ArgumentError:
        return (), _NO_TEXT


def _refuse_other_length(trace: Trace, ids: list[int]) -> None:
    if len(ids) == len(trace.token_ids):
        return
    parts = " | ".join(trace.model.vocabulary.strings(ids[:64]))
    raise PromptError(
        f"the corrupted prompt has {len(ids)} tokens and the prompt {len(trace.token_ids)}, so a position is not the same place in "
        f"both; make them equally long. The corrupted one: {parts}{' …' if len(ids) > 64 else ''}"
    )


def is_measured(graph: FlowGraph) -> bool:
    """Whether the effects of a circuit were measured and not estimated."""
    return graph.info.method == "circuit: backward"


def panel(answer: Circuit) -> Component:
    """How the circuit was found, its prompts, and its edges."""
    graph = answer.graph
    tree = element(
        "div",
        element("h3", "Circuit"),
        element("p", f"Of {answer.about}.", cls="place"),
        facts(search_facts(graph)),
        element("p", _MEASURED if is_measured(graph) else _ESTIMATED, cls="note"),
        _untested(graph),
        *_prompts(answer.pairs),
        effect_table(graph, range(len(graph)), "Edges, by |effect|"),
        cls="details",
    )
    return drawn(tree, name="circuit", label="Details of the circuit")


def offer() -> list[Component]:
    """The button that tests the circuit."""
    return [test_button("graph", "Test this circuit", _TEST)]


def circuit_effect(answer: CircuitTest) -> Component:
    """How much of the answer the circuit keeps by itself."""
    gap = answer.full - answer.empty
    rows: list[Fact] = [
        ("the model", signed(answer.full), answer.unit),
        ("no edge, the corrupted prompt", signed(answer.empty), answer.unit),
        ("this circuit alone", signed(answer.kept), answer.unit),
    ]
    if gap:
        rows.append(("of the gap", _part(answer.kept - answer.empty, gap), ""))
    said = (
        f"{answer.metric.capitalize()} on {plural(answer.prompts, 'prompt')}; {plural(answer.edges, 'edge')} of the picture are left, all "
        "others bring the corrupted prompt’s. Never clipped: above 100 % where what is left out works against the answer."
    )
    title = "Test of this circuit"
    tree = element("div", element("h3", title), element("p", said, cls="note"), facts(rows), cls="details")
    return boxed(tree, title)


def node_panel(answer: Circuit, node: Node, pinned: Sequence[str]) -> Component:
    """The edges at a node of the circuit."""
    graph = answer.graph
    if node not in graph.nodes:
        body = [element("p", "Not in this circuit: none of its edges touches this.", cls="note")]
    else:
        n = graph.nodes.index(node)
        ways = ((graph.target, "What it reads, by |effect|"), (graph.source, "What reads it, by |effect|"))
        found = (effect_table(graph, [e for e in range(len(graph)) if ends[e] == n], title) for ends, title in ways)
        body = [one for one in found if one is not None]
    tree = element("div", element("h3", str(node)), *body, cls="details")
    return html.Div(
        [acts(node, pinned), drawn(tree, name="circuit", label=f"Details of {node}")], className="node-panel"
    )


def edge_panel(answer: Circuit, edge: int) -> Component:
    """What an edge of the circuit contributes."""
    graph = answer.graph
    source, target = (graph.nodes[ends[edge]] for ends in (graph.source, graph.target))
    found: list[Fact] = [
        ("from", link(source, str(source)), ""),
        ("to", link(target, str(target)), _reads(graph, edge)),
        ("effect", signed(float(graph.weight[edge]), 3), graph.info.unit),
        ("of the gap", _part(float(graph.weight[edge]), float(graph.info.options["gap"])), ""),
        ("of what is known to enter there", signed(float(graph.share[edge]), 3), ""),
    ]
    side = "supports the answer" if graph.weight[edge] > 0 else "works against the answer"
    tree = element(
        "div",
        element("h3", "Edge of the circuit"),
        facts(found),
        element(
            "p",
            f"It {side}. {'Measured by cutting it.' if is_measured(graph) else 'A first-order estimate.'}",
            cls="note",
        ),
        cls="details",
    )
    return drawn(tree, name="circuit", label="Details of an edge", selected=f"edge.{edge}")


def search_facts(graph: FlowGraph) -> list[Fact]:
    """What the search says of itself, in its own numbers."""
    said, unit = graph.info.options, graph.info.unit
    found: list[Fact] = [
        ("method", graph.info.method.removeprefix("circuit: "), ""),
        ("a cut edge brings", _ABLATIONS.get(str(said["ablation"]), str(said["ablation"])), ""),
        ("measured", str(said["metric"]), ""),
        ("prompts", str(said["prompts"]), ""),
        ("gap, clean less corrupted", signed(float(said["gap"])), unit),
        ("edges", f"{len(graph):,}", ""),
    ]
    names = {
        "forwards": "forwards run", "backwards": "backwards run", "layer_runs": "runs of one layer", "budget": "budget, forwards",
        "steps": "runs between the prompts", "tested": "edges cut", "untested": "left untested",
    }  # fmt: skip
    return found + [(text, f"{int(said[name]):,}", "") for name, text in names.items() if name in said]


def effect_table(graph: FlowGraph, edges: Sequence[int], title: str) -> Element | None:
    """A sortable table of edges and their effects, the strongest first; each row selects its edge. None without edges."""
    if not edges:
        return None
    order = sorted(edges, key=lambda e: -abs(float(graph.weight[e])))
    largest = max(abs(float(graph.weight[e])) for e in order) or 1.0
    lines = [_row(graph, e, largest) for e in order[:MOST_ROWS]]
    columns = (Column("edge"), Column("bar", kind="plot"), Column("effect", graph.info.unit, "number"))
    made = table(title, columns, lines)
    more = len(order) - MOST_ROWS
    rest = element("p", f"and {plural(more, 'weaker edge')}; all are in the exports", cls="note") if more > 0 else None
    return element("div", made, rest)


def caption(answer: Circuit) -> list[Component]:
    """What the picture shows, in a line; the whole story on hover."""
    info = answer.graph.info
    text = f"{info.method} in {info.unit}, {answer.about}: {len(answer.graph):,} {answer.note}"
    return [html.Span(text, title=answer.graph.caption())]


def mass_hint(graph: FlowGraph) -> str:
    """What the slider goes by."""
    how = "measured" if is_measured(graph) else "estimated"
    return (
        f"Edges appear from the largest effect downwards, each {how} by itself. The mass is the summed |share| of all edges whose "
        "effect is known."
    )


def chip(answer: Circuit) -> list[Component]:
    """That a circuit is shown, with the way back to the flow graph."""
    method = answer.graph.info.method.removeprefix("circuit: ")
    back = html.Button(
        "back to the flow graph",
        type="button",
        className="link",
        title="Show the flow graph of this prompt again; the circuit stays in the history of the browser",
        **named({"data-leave": "circuit"}),
    )
    said = [html.Span("circuit, ", className="note"), html.B(method)]
    return [html.Span(said, className="chip start", title=f"of {answer.about}"), back]


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


def _row(graph: FlowGraph, edge: int, largest: float) -> list[Cell]:
    source, target = graph.nodes[graph.source[edge]], graph.nodes[graph.target[edge]]
    value = float(graph.weight[edge])
    reads = _reads(graph, edge).replace("its", "", 1)
    name = element(
        "button", str(source), element("span", " → ", cls="at"), str(target), element("span", reads, cls="at"),
        type="button", cls="link", data_pick=f"edge.{edge}",
    )  # fmt: skip
    side = "up" if value >= 0 else "down"
    bar = element("i", cls=f"measure {side}", v_from="0", v_size=f"{min(1.0, abs(value) / largest):.3f}")
    return [Cell(name), Cell(element("span", bar, cls="track")), Cell(signed(value, 3), value)]


def _reads(graph: FlowGraph, edge: int) -> str:
    return _READS.get(str(graph.edge_dict(edge)["kind"]), "")


def _part(value: float, gap: float) -> str:
    return f"{100 * value / gap:.1f} %".replace("-", "−")


def _untested(graph: FlowGraph) -> Element | None:
    left = int(graph.info.options.get("untested", 0))
    if not left:
        return None
    text = f"{plural(left, 'edge')} that may be large enough could not be tested with this budget; a larger one would."
    return element("p", text, cls="note")


def _prompts(pairs: Sequence[Pair]) -> list[Element]:
    blocks = [element("div", *_pair_text(pair), cls="pair") for pair in pairs[:_MOST_PAIRS]]
    more = len(pairs) - _MOST_PAIRS
    return blocks + ([element("p", f"and {plural(more, 'more pair')} of prompts", cls="note")] if more > 0 else [])


def _pair_text(pair: Pair) -> list[Element]:
    against = ["the mean logit"] if pair.foil is None else [token(pair.foil)]
    return [
        element("p", element("span", "clean ", cls="note"), pair.clean),
        element("p", element("span", "corrupted ", cls="note"), pair.corrupted),
        element(
            "p",
            element("span", "logit of ", cls="note"),
            token(pair.target),
            element("span", " minus ", cls="note"),
            *against,
        ),
    ]


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
