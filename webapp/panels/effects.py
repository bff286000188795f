"""Tests by intervention: the buttons that ask for them, and what came of one beside the baseline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import flowgraph
from flowgraph import FlowGraph, Node
from flowgraph.errors import ArgumentError, FlowgraphError
from flowgraph.render import visible

from ..node_key import EDGE, edge_of, parse_node_key
from ..present import html
from ..present.attributes import named
from ..present.buttons import boxed, test_button
from ..present.drawn import Element, element, facts, token
from ..present.errors import panel_error
from ..present.figures import percent, signed
from ..present.ids import Id
from ..present.wiring import NOTHING, View, follow
from ..recipe import Recipe, check_index, from_query
from ..registered import POSTED
from ..server.asking import ask, can_ask
from ..server.errors import Cancelled
from ..server.question import Question, recorded
from ..server.run import NO_TEXT, OfRun, Run, RunQuestion
from ..server.traces import Check, Traces, reporting
from .circuit_effect import CircuitTestQuestion, circuit_effect
from .flow import OfGraph, OfShown, SketchQuestion
from .kept_answer import TEST_HINT, ZERO_HINT, KeptQuestion, badge, kept_box, refused_box, tested_picture

if TYPE_CHECKING:
    from dash import Dash
    from dash.development.base_component import Component

    from flowgraph import Effect, PatternEdit, Trace

    from ..server.service import Service

ABLATED: tuple[str, ...] = ("head", "attn", "mlp", "neuron", "expert", "embed", "resid_pre", "resid_mid", "resid_post")
"""Kinds of nodes that can be set to zero."""
_OTHERS_STAY = "The other keys keep their attention."
_NODE = "Run the model once more with what this writes set to zero, and see what becomes of the answer"
_EDGE = "Run the model once more without what is read over this edge; the other keys keep their attention"
_CAVEAT = (
    "Zeros at many places take a model far from anything it has seen: a small number may speak of that and not of the picture. "
    "It is never clipped."
)
_NO_PASS = "a graph from a file is shown, without the run of a model behind it. {0}."
_TRACE_IT = "Trace its prompt to have one"
_NO_MODEL = "this server does not run the model {0!r}. Start it with ‘flowgraph app --model {0}’."


@dataclass(frozen=True)
class Ablation:
    """What a change of the run does to its answer.

    Attributes
    ----------
    what
        What was set to zero, in words.
    target_token, foil_token
        Whose logits are measured: target minus foil, or minus the mean logit where ``foil_token`` is None.
    unit
        ``"logits"``.
    before, after
        The difference without and with the change.
    note
        What has to be known to read it; empty where nothing has.
    """

    what: str
    target_token: str
    foil_token: str | None
    unit: Literal["logits"]
    before: float
    after: float
    note: str


@recorded
@dataclass(frozen=True)
class AblateQuestion(OfRun[Ablation]):
    """What becomes of the answer without a part of the run, which is set to zero.

    Attributes
    ----------
    run
        The pass.
    node
        What writes: a head, all heads of a layer (``attn``), an MLP, a neuron or a state, at its position.
    source
        Of a head or of all heads: only what it reads at this position. None: all that the node writes.
    """

    node: flowgraph.Node
    source: int | None = None

    def __post_init__(self) -> None:
        check_index("source", self.source)
        if self.node.kind not in ABLATED:
            raise ArgumentError(
                f"{self.node} cannot be taken out; what can be is {', '.join(ABLATED)}. Choose such a node, or an attention edge"
            )
        if self.node.position is None:
            raise ArgumentError(f"{self.node} has no position; choose it at a token")
        if self.source is not None and self.node.kind not in ("head", "attn"):
            raise ArgumentError(
                f"{self.node} reads no other token; only a head, or all heads of a layer, can lose a source"
            )

    def answer(self, traces: Traces, check: Check) -> Ablation:
        """The answer without one part of the run."""
        trace = traces.trace(self.run, check)
        node, source = self.node, self.source
        if source is None:
            return _said(trace, _effect(trace, node, check), str(node), "")
        if source >= len(trace.tokens):
            raise ArgumentError(f"source={source} is outside this run of {len(trace.tokens)} tokens")
        entry = flowgraph.PatternEdit(node.layer or 0, node.head, node.position, source)
        return _said(trace, _effect(trace, entry, check), f"what {node} reads at {source}", _OTHERS_STAY)


@recorded
@dataclass(frozen=True)
class FaithfulQuestion(OfShown[Ablation], OfGraph[Ablation]):
    """What becomes of the answer with nothing left but what a graph shows, and zeros in the place of all else."""

    def answer(self, traces: Traces, check: Check) -> Ablation:
        """The answer with nothing left but what the graph shows, and the residual stream."""
        trace, shown = tested_picture(self, traces, check)
        effect = _effect(trace, shown, check, outside=True)
        return _said(trace, effect, "all but what is shown", _left(shown))


def _effect(trace: Trace, what: Node | PatternEdit | FlowGraph, check: Check, *, outside: bool = False) -> Effect:
    progress, cancel = reporting(check, "measuring the change")
    return flowgraph.ablate(trace.model, trace, what, outside=outside, progress=progress, cancel=cancel)


def _said(trace: Trace, effect: Effect, what: str, note: str) -> Ablation:
    assert trace.target_token is not None  # a model without a head was refused by the intervention
    return Ablation(what, trace.target_token, trace.foil_token, "logits", effect.mean_before, effect.mean_after, note)


def _left(shown: FlowGraph) -> str:
    has_mlps = any(node.kind == "mlp" for node in shown.nodes)
    left = f"{len(shown):,} edges and the residual stream are left."
    return left if has_mlps else f"{left} No MLP is shown, so all of them are out."


def offer(key: str | None, node: Node | None, edge: tuple[FlowGraph, int] | None, run: Run) -> list[Component]:
    """The button that tests what is selected; none where nothing can be tested.

    Parameters
    ----------
    key
        The selection: a node, ``edge.17``, or None for the whole graph.
    node, edge
        What is selected.
    run
        The pass.
    """
    if not run.has_head:
        return []
    if key is None:
        return [test_button("graph", "Test this graph", TEST_HINT)]
    if node is not None and node.kind in ABLATED and node.position is not None:
        return [test_button(key, "Ablate", _NODE)]
    if edge is not None and edge[0].edge_dict(edge[1])["kind"] == "attention":
        return [test_button(key, "Ablate", _EDGE)]
    return []


def effect(answer: Ablation, *, whole: bool) -> Component:
    """What a test gave.

    Parameters
    ----------
    answer
        What was measured.
    whole
        Whether a graph was tested: then the part of the baseline that is left is said, with what limits it.
    """
    change = answer.after - answer.before
    above = "the mean" if answer.foil_token is None else visible(answer.foil_token)
    # Logits of this page are of several kinds; these are differences.
    unit = f"{answer.unit} above {above}"
    rows: list[tuple[Element | str, Element | str, str]] = [
        ("the model", signed(answer.before), unit),
        ("what is shown alone" if whole else "without it", signed(answer.after), unit),
        ("change", signed(change), answer.unit),
    ]
    if whole and answer.before > 0:
        rows.append(("left of the baseline", percent(answer.after, answer.before), ""))
    title = "Test of this graph, with zeros" if whole else f"Without {answer.what}"
    tree = element(
        "div",
        element("h3", title),
        _measured(answer),
        facts(rows),
        element("p", _CAVEAT, cls="note") if whole else None,
        cls="details",
    )
    return boxed(tree, title)


def _measured(answer: Ablation) -> Element:
    against = ["the mean logit"] if answer.foil_token is None else ["that of ", token(answer.foil_token)]
    said = f". What is taken out is set to zero. {answer.note}".rstrip()
    return element("p", "Logit of ", token(answer.target_token), " minus ", *against, said, cls="note")


def offer_tests(service: Service, recipe: Recipe, run: Run, what: str, buttons: list[Component]) -> list[Component]:
    """The buttons that test something, or why it cannot be tested where the answer was not recorded."""
    if not buttons or can_ask(service, recipe, run):
        return buttons
    if run.token_ids:
        if _is_known(service, recipe, what):
            return buttons
        if what == "graph" and recipe.circuit == "none" and _is_known(service, recipe, "graph.zero"):
            return [test_button("graph.zero", "Test this graph, with zeros", ZERO_HINT)]
    why = _NO_MODEL.format(recipe.model) if run.token_ids else _NO_PASS.format(_TRACE_IT if run.is_text else NO_TEXT)
    return [html.P(f"Nothing can be tested here: {why}", className="note untested")]


def _is_known(service: Service, recipe: Recipe, what: str) -> bool:
    question: Question[Any] = test_of(service, recipe, what, ())
    return service.known(question) is not None


def test_of(
    service: Service, recipe: Recipe, what: str, corrupted: Sequence[str]
) -> AblateQuestion | FaithfulQuestion | KeptQuestion | CircuitTestQuestion:
    """The question that tests a node key, ``edge.17`` of the graph, or the ``graph`` itself; ``graph.zero`` is the graph beside zeros.

    ``corrupted`` are the counterfactual prompts that a graph is tested with; none: those that are proposed.

    Raises
    ------
    FlowgraphError
        If there is no such thing, or it cannot be tested.
    """
    if what == "graph" and recipe.circuit == "none":
        return replace(KeptQuestion.of(recipe), corrupted=tuple(corrupted))
    if what == "graph":
        return CircuitTestQuestion.of(recipe)
    if what == "graph.zero" and recipe.circuit == "none":
        return FaithfulQuestion.of(recipe)
    if recipe.circuit != "none":
        raise ArgumentError(
            "only a circuit as a whole is tested; go back to the flow graph to ablate a part of this prompt's run"
        )
    if not what.startswith(EDGE):
        return AblateQuestion(RunQuestion.of(recipe), parse_node_key(what))
    graph = ask(service, SketchQuestion.of(recipe)).graph
    about = graph.edge_dict(edge_of(what, len(graph)))
    if about["kind"] != "attention":
        raise ArgumentError(f"a {about['kind']} edge cannot be taken out by itself; ablate the node that it comes from")
    kind: Any = "attn" if about["head"] is None else "head"
    reader = Node(kind, about["layer"], about["head"], about["query_pos"])
    return AblateQuestion(RunQuestion.of(recipe), reader, about["key_pos"])


class _Test(View):
    id: str | None
    previous: str | None
    what: str | None
    corrupted: list[str]


POSTED.add(f"{Id.PICTURE}.test", _Test | None)


POLLS = (Id.TEST_POLL,)


def right_pane() -> list[Component]:
    """How far a test is, and what came of it."""
    from ..present.parts import progress_row

    return [
        progress_row(Id.TEST_PROGRESS, Id.TEST_CANCEL, "Stop this test"),
        html.P(className="stale", role="status", **named({"data-show": "stale"})),
        html.Div(id=Id.EFFECT, className="effects", **named({"aria-live": "polite"})),
    ]


def wires(app: Dash, service: Service) -> None:
    """Connect the callbacks: a test, how far it is, and what came of it."""
    from dash import Input, Output, State

    running = [
        (Output(Id.EFFECT, "className"), "effects loading", "effects"),
        (Output(Id.TEST_PROGRESS, "className"), "growing", "idle"),
        (Output(Id.TEST_POLL, "disabled"), False, True),
    ]

    @app.callback(
        Output(Id.EFFECT, "children"), Output(Id.PICTURE, "kept"), Input(Id.PICTURE, "test"), running=running,
        prevent_initial_call=True,
    )  # fmt: skip
    def test(ticket: dict[str, Any] | None) -> tuple[Component | list[Component], dict[str, Any] | None]:
        return (NOTHING, None) if ticket is None else tested(service, ticket)

    follow(app, service, State(Id.PICTURE, "test"), poll=Id.TEST_POLL, progress=Id.TEST_PROGRESS, cancel=Id.TEST_CANCEL)


def tested(service: Service, ticket: dict[str, Any]) -> tuple[Component | list[Component], dict[str, Any] | None]:
    """What a test gave, or why it gave nothing, nothing where it was taken back; and what the picture is told of what it keeps."""
    if ticket["previous"]:
        service.cancel(ticket["previous"])
    if ticket["what"] is None:
        return NOTHING, None
    question: Question[Any] | None = None
    try:
        recipe = from_query(ticket["search"])
        question = test_of(service, recipe, ticket["what"], ticket["corrupted"])
        if isinstance(question, KeptQuestion):
            found = ask(service, question, ticket["id"])
            return kept_box(found), {"ticket": ticket["id"], "text": badge(found)}
        if isinstance(question, CircuitTestQuestion):
            return circuit_effect(ask(service, question, ticket["id"])), None
        return effect(ask(service, question, ticket["id"]), whole=isinstance(question, FaithfulQuestion)), None
    except Cancelled:
        return NOTHING, None
    except FlowgraphError as error:
        if isinstance(question, KeptQuestion):
            return refused_box(recipe, error, ticket["corrupted"]), None
        return panel_error(error), None
