"""The flow graph: which one is asked for, its edges and readings, and what is said of it beside the picture."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Generic, Self

import flowgraph
from flowgraph import FlowGraph, node_key, parse_node
from flowgraph.render import COLOURED_KINDS, Drawing, drawing, facts

from ..present import html
from ..present.attributes import named
from ..recipe import (
    CHOICES,
    LARGEST_LEVEL,
    Level,
    Method,
    Recipe,
    Show,
    check_choice,
    check_index,
    check_layers,
    check_method,
    check_share,
    check_window,
)
from ..server.question import A, recorded, require
from ..server.run import OfRun, Run, RunQuestion, same_run
from ..server.traces import Check, Traces
from .prediction import token_text

if TYPE_CHECKING:
    from dash.development.base_component import Component

MOST_EDGES = 3_000
"""Edges of a graph that is handed to the page."""
_NOT_STARTS = frozenset({"logit", "final_norm", "attn_bias", "mlp_bias", "final_norm_bias", "unembed_bias"})
_GOAL = {"selector": "node.goal[lb]", "style": {"text-margin-y": -1}}
"""The logit's label stands higher, so that it does not touch that of the state below it."""


@dataclass(frozen=True, eq=False)
class GraphAnswer:
    """A flow graph of at most 3,000 edges, its nodes read; and in words what was taken of the whole."""

    graph: FlowGraph
    note: str

    def __post_init__(self) -> None:
        require(len(self.graph) <= MOST_EDGES, f"GraphAnswer.graph has {len(self.graph):,} edges, over {MOST_EDGES:,}")


@dataclass(frozen=True)
class OfGraph(OfRun[A], Generic[A]):
    """Which flow graph is meant.

    Attributes
    ----------
    run
        The pass.
    method, show, level, threshold, layers
        As in :class:`~flowgraph_webapp.recipe.Recipe`.
    start
        Node that flow runs to; None: the logit.
    heads_in
        Layers whose heads are shown one by one at level ``"token"``, in order.
    """

    method: Method = "proximity"
    show: Show = "routes"
    level: Level = "token"
    threshold: float = 0.0
    layers: tuple[int, int] | None = None
    start: flowgraph.Node | None = None
    heads_in: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_layers("heads_in", self.heads_in)
        check_method(self.method)
        for name in ("show", "level"):
            check_choice(name, getattr(self, name), CHOICES[name])
        check_share("threshold", self.threshold)
        check_window("layers", self.layers)

    @classmethod
    def of(cls, recipe: Recipe) -> Self:
        """About the graph of a recipe."""
        return cls(**_of_recipe(recipe))

    def about(self) -> dict[str, Any]:
        """Its fields that say which graph is meant."""
        return {item.name: getattr(self, item.name) for item in fields(OfGraph)}

    @property
    def edge_methods(self) -> tuple[str, ...]:
        """As the base class says."""
        return (self.method,)


@dataclass(frozen=True)
class OfShown(OfRun[A], Generic[A]):
    """About the part of a graph that its slider shows.

    Attributes
    ----------
    keep
        Level of the slider; None: where the graph opens.
    """

    keep: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_index("keep", self.keep, LARGEST_LEVEL)

    @classmethod
    def of(cls, recipe: Recipe) -> Self:
        """About what a recipe shows of its graph."""
        return replace(super().of(recipe), keep=recipe.keep)


@recorded
@dataclass(frozen=True)
class GraphQuestion(OfGraph[GraphAnswer]):
    """The flow graph: edges of a method, as many as can be drawn."""

    def answer(self, traces: Traces, check: Check) -> GraphAnswer:
        """The flow graph of a run."""
        return _graph(traces, self, check)

    def refuse_unfit(self, run: Run, answer: GraphAnswer) -> None:
        """As the base class says."""
        same_run(run, answer.graph)


@dataclass(frozen=True)
class SketchQuestion(OfGraph[GraphAnswer]):
    """The same graph with readings of those nodes alone whose colour or label needs them: it is there in less than half the time."""

    def answer(self, traces: Traces, check: Check) -> GraphAnswer:
        """The flow graph of a run, few of its nodes read."""
        return _graph(traces, self, check)

    @property
    def whole(self) -> GraphQuestion:
        """The graph, its nodes read."""
        return GraphQuestion(**self.about())


def _of_recipe(recipe: Recipe) -> dict[str, Any]:
    return {
        "run": RunQuestion.of(recipe),
        "method": recipe.method,
        "show": recipe.show,
        "level": recipe.level,
        # Rollout and flow are of the whole matrix and know no threshold.
        "threshold": float(recipe.threshold) if recipe.show in ("all", "routes") else 0.0,
        "layers": recipe.layers,
        "start": None if recipe.start is None else parse_node(recipe.start),
        # At the level of heads every layer is shown as its heads.
        "heads_in": tuple(sorted(set(recipe.heads_in))) if recipe.level == "token" else (),
    }


def _graph(traces: Traces, question: GraphQuestion | SketchQuestion, check: Check) -> GraphAnswer:
    """The flow graph of a run."""
    weights = traces.weights(question.run, question.method, check)
    if question.layers is not None:
        weights = weights.window(*question.layers)
    check("drawing the graph", None)
    drawn, note = flowgraph.picture_edges(
        weights,
        show=question.show,
        level=question.level,
        heads_in=question.heads_in,
        threshold=question.threshold,
        start=question.start,
        max_edges=MOST_EDGES,
    )
    wanted = [n for n in drawn.nodes if isinstance(question, GraphQuestion) or n.kind in COLOURED_KINDS]
    readings = dict(zip(wanted, traces.readings(question.run, wanted, check), strict=True))
    return GraphAnswer(drawn.with_readings(tuple(readings.get(node) for node in drawn.nodes)), note)


def picture_data(data: dict[str, Any], drawn: Drawing, name: str) -> dict[str, Any]:
    """What shows a graph in the page: its elements, facts and styles, and which element is which node or edge.

    Parameters
    ----------
    data
        What :func:`flowgraph.render.page_data` gives of the graph.
    drawn
        The drawing of the graph.
    name
        Name of the picture, another for each.
    """
    return data | {
        "picture": name,
        # The page follows routes as far as it can draw them, and opens on what can be read at a glance.
        "level": drawn.opening_level,
        "keys": [node_key(node) for node in drawn.graph.nodes],
        "starts": [_start(node) for node in drawn.graph.nodes],
        "edge_index": drawn.order.tolist(),
        "styles": {theme: [*rules, _GOAL, *_way_rules(rules)] for theme, rules in data["styles"].items()},
    }


def readings(graph: flowgraph.FlowGraph, name: str) -> dict[str, Any]:
    """What every node of a picture reads or writes; it comes after the picture, which shows only what some of them read."""
    said = facts(drawing(graph))
    return {"picture": name, "readings": said["readings"], "vocabulary": said["vocabulary"]}


def _start(node: flowgraph.Node) -> str | None:
    """A node as a start in the address; None where no flow can run to it."""
    return None if node.kind in _NOT_STARTS or node.position is None else node_key(node, short=True)


def _way_rules(rules: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """How edges on a way between two pinned nodes look: in the colour of a pin."""
    pin = next(rule["style"]["border-color"] for rule in rules if rule["selector"] == "node.pin")
    return [
        {"selector": "edge.way", "style": {"line-color": pin, "target-arrow-color": pin, "line-opacity": 1, "z-index": 70}}
    ]  # fmt: skip


def start_chip(start: flowgraph.Node | None, graph: flowgraph.FlowGraph) -> list[Component]:
    """Which node the flow runs to, with the way back to the logit; nothing while it is the logit."""
    if start is None:
        return []
    token: list[Any] = (
        [] if start.position is None else [" ", token_text(graph.info.tokens_of(start.stack)[start.position])]
    )
    back = html.Button(
        "back to the logit",
        type="button",
        className="link",
        title="Follow the flow into the logit again",
        **named({"data-start": ""}),
    )
    return [
        html.Span([html.Span("flow into ", className="note"), html.B(str(start)), *token], className="chip start"),
        back,
    ]


def caption(answer: GraphAnswer) -> list[Component]:
    """What the picture shows of the whole, in a line; the whole story on hover."""
    info = answer.graph.info
    size = f"{info.method_text} in {info.unit}, {answer.note}"
    return [html.Span(size, title=answer.graph.caption())]


def mass_hint(drawn: Drawing) -> str:
    """What the slider goes by, and what its percentage is a part of."""
    if drawn.graph.info.method == "effect":
        return (
            "Parts appear from the largest effect downwards: the change of the logit difference, in logits, as all parts of the picture are "
            "faded in together. What fewer parts keep of the answer was not measured."
        )
    measure = (
        "the summed flow of the edges, as a part of that of all edges of the method"
        if drawn.is_flow_mass
        else "the summed |share| of all edges of the method"
    )
    return (
        "Edges appear from the strongest connected flow downwards, so that whatever is shown leads to the start node. "
        f"The mass is {measure}. Residual and MLP edges count too and hold most of it."
    )
