"""The semantic graph of some layers: every vector a pill that says what it holds. The page scripts of flowgraph draw it.

``panel(semantic, run) -> Component``: ``assets/chart_panel.js`` mounts ``window.flowgraph.semantic`` on the parts made here, and
selects by node key like every panel.
``rows(semantic) -> (header, rows)``: one row for each edge.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

import flowgraph
from flowgraph import FlowGraph, node_key
from flowgraph.errors import ArgumentError
from flowgraph.render import RANK_LABELS, caption, page_data, visible

from ..present.attributes import named
from ..present.drawn import Element, drawn, element
from ..present.ids import Id
from ..recipe import Recipe, check_choice, check_index, check_window
from ..server.question import recorded
from ..server.run import OfRun, Run, RunQuestion, same_run
from ..server.traces import Check, Traces
from .panel import Panel, Sheet, Value
from .setting import Setting, looked_at

if TYPE_CHECKING:
    from dash.development.base_component import Component

Select = Literal["contribution", "norm", "attention", "target"]
SELECTS: tuple[str, ...] = ("contribution", "norm", "attention", "target")
MOST_POSITIONS = 64
MOST_NODES = 2_000
_UNITS = {
    "contribution": "part of the target that a vector makes up",
    "attention": "attention probability",
    "activation": "what a vector is multiplied by",
    "norm": "length of a vector",
    "share": "share of the target",
    "logits": "logits",
    "visit": "width as VISIT draws it",
}
_ZOOM = (
    ("+", "+", "Zoom in (+)"),
    ("-", "−", "Zoom out (−)"),
    ("0", "fit", "Fit this layer (0)"),
    ("a", "all", "Show the whole graph (A)"),
)
_KEYS = (
    "Arrow keys left and right follow the strongest edge, up and down walk along a column. Page Up and Page Down go to the layer "
    "before and after. Escape clears. Plus, minus, 0 and A zoom, fit the layer and show the whole graph."
)


@dataclass(frozen=True, eq=False)
class Semantic:
    """The semantic graph of some layers, and in words what was taken."""

    graph: FlowGraph
    note: str


@recorded
@dataclass(frozen=True)
class SemanticQuestion(OfRun[Semantic]):
    """The semantic graph of some layers.

    Attributes
    ----------
    run
        The pass.
    layers
        First and one-past-last layer; None: the last layer.
    positions
        Query positions; None: the one that is explained.
    select
        What decides which parts are shown, as for :func:`flowgraph.semantic_graph`.
    """

    layers: tuple[int, int] | None = None
    positions: tuple[int, ...] | None = None
    select: Select = "contribution"
    quick = True

    def __post_init__(self) -> None:
        check_window("layers", self.layers)
        check_choice("select", self.select, SELECTS)
        if self.positions is not None and not 0 < len(self.positions) <= MOST_POSITIONS:
            raise ArgumentError(
                f"positions= names {len(self.positions)} positions; expected 1 to {MOST_POSITIONS}, or None"
            )
        for position in self.positions or ():
            check_index("positions", position)

    @classmethod
    def of(cls, recipe: Recipe, positions: tuple[int, ...] | None = None, select: Select = "contribution") -> Self:
        """The semantic graph of a recipe: of its window, else of its layer, else of the last layer."""
        layers = recipe.semantic_layers
        if layers is None and recipe.layer is not None:
            layers = (recipe.layer, recipe.layer + 1)
        return cls(RunQuestion.of(recipe), layers, positions, select)

    def answer(self, traces: Traces, check: Check) -> Semantic:
        """The semantic graph of some layers; of the last one where none is named."""
        trace = traces.trace(self.run, check)
        check("reading parts", None)
        layers = self.layers or (trace.n_layers - 1, trace.n_layers)
        drawn = flowgraph.semantic_graph(
            trace, layers=layers, positions=self.positions, select=self.select, max_nodes=MOST_NODES
        )
        said = f"layer {layers[0]}" if layers[1] - layers[0] == 1 else f"layers {layers[0]} to {layers[1] - 1}"
        return Semantic(drawn, f"{said}, parts chosen by {self.select}")

    def refuse_unfit(self, run: Run, answer: Semantic) -> None:
        """As the base class says."""
        same_run(run, answer.graph)


def panel(semantic: Semantic, run: Run, *, selected: str | None = None) -> Component:
    """Picture, legend, and the parts that the scripts fill.

    Parameters
    ----------
    semantic
        The graph.
    run
        The pass it belongs to.
    selected
        Key of the node that is marked.
    """
    graph = semantic.graph
    data = {"page": page_data(graph), "keys": [node_key(node) for node in graph.nodes]}
    parts = element("div", _walk(), element("p", semantic.note, cls="note"), _zoom(), cls="panel-head")
    tree = element(
        "div",
        element("div", parts, _stage(), element("p", caption(graph), cls="note"), cls="picture-side"),
        element(
            "div", element("div", data_part="details", cls="side-details"), _coverage(), _legend(graph, run), cls="side"
        ),
        element("div", cls="hidden", data_part="table"),
        element("p", _KEYS, cls="hidden", data_part="keys"),
        element("p", cls="hidden", data_part="live", aria_live="polite"),
        cls="flowgraph semantic",
        data_kind="semantic",
        data_widget="semantic",
        data_model=json.dumps(data, ensure_ascii=False, separators=(",", ":")),
    )
    return drawn(tree, name="semantic-panel", label="Semantic graph", selected=selected)


def rows(semantic: Semantic) -> Sheet:
    """Every edge with its ends, its number and its unit."""
    graph = semantic.graph
    header = ("source", "target", "kind", "layer", "head", "weight", "unit", "share")
    found: list[tuple[Value, ...]] = []
    for e in range(len(graph)):
        about = graph.edge_dict(e)
        ends = (str(graph.nodes[graph.source[e]]), str(graph.nodes[graph.target[e]]))
        values = (about[name] for name in ("kind", "layer", "head", "weight", "unit", "share"))
        found.append((*ends, *values))
    return header, found


def _stage() -> Element:
    return element(
        "div",
        element("div", data_part="picture"),
        element("div", cls="axis", data_part="heads", aria_hidden="true"),
        element("div", data_part="rows", aria_hidden="true"),
        element("p", cls="empty", data_part="empty"),
        element("div", data_part="tip", role="tooltip"),
        cls="stage",
        data_part="stage",
        tabindex="0",
        role="application",
        aria_label="Semantic graph: layers from left to right, each in columns from state to what is written",
        data_aria_describedby="keys",
    )


def _walk() -> Element:
    def step(part: str, sign: str, name: str) -> Element:
        return element("button", sign, type="button", cls="button small", data_part=part, aria_label=name, title=name)

    return element(
        "div",
        step("earlier", "‹", "Layer before (Page Up)"),
        element("select", data_part="layer", aria_label="Layer"),
        step("later", "›", "Layer after (Page Down)"),
        element("select", data_part="position", aria_label="Position"),
        cls="pager",
    )


def _zoom() -> Element:
    buttons = [
        element("button", sign, type="button", cls="button small", data_key=key, aria_label=hint, title=hint)
        for key, sign, hint in _ZOOM
    ]
    return element("div", *buttons, cls="pager")


def _coverage() -> Element:
    return element(
        "section",
        element("h3", data_part="where"),
        element("div", data_part="coverage"),
        aria_live="polite",
        cls="coverage",
    )


def _legend(graph: FlowGraph, run: Run) -> Element:
    """Fill of the pills, and the unit of each colour of edge."""
    fills = [element("span", text, cls=f"fill-step fill-{step}") for step, text in enumerate(RANK_LABELS)]
    target = "the target" if run.target_token is None else visible(run.target_token)
    units = sorted({graph.unit_of(e) for e in range(len(graph))})
    lines = [
        element("p", element("i", cls=f"unit {unit}"), element("b", unit), f" {_UNITS[unit]}", cls="unit-line")
        for unit in units
    ]
    return element(
        "section",
        element("h3", f"Pills: rank of {target}"),
        element("div", *fills, cls="fill-scale"),
        element("h3", "Edges: unit of the weight; dashed where it is negative"),
        *lines,
        cls="legend",
    )


def _of_run(recipe: Recipe, run: Run) -> dict[str, Any]:
    layer = looked_at(recipe, run)
    return {"max": run.n_layers, "value": list(recipe.semantic_layers or (layer, layer + 1))}


def controls() -> list[Component]:
    """Which layers are drawn."""
    from dash import dcc
    from dash import html as components

    from ..present.parts import group

    window = dcc.RangeSlider(
        id=Id.SEMANTIC_LAYERS, min=0, max=1, step=1, value=[0, 1], pushable=1, marks=None, allow_direct_input=False,
        className="slider",
    )  # fmt: skip
    shown = components.Span(className="note", **named({"data-show": "semantic_layers"}))
    return [group("Layers", "Which layers are drawn", window, shown)]


PANEL = Panel(
    "semantic",
    "Semantic",
    "A layer as a graph of vectors, each read in vocabulary.",
    lambda recipe, _run: SemanticQuestion.of(recipe),
    lambda answer, run, view: panel(answer, run, selected=view.recipe.selected_node),
    lambda answer, _run: rows(answer),
    fields=("layer", "semantic_layers"),
    view=("semantic_layers",),
    settings=(Setting(Id.SEMANTIC_LAYERS, "window", ("max", "value"), _of_run),),
    controls=controls,
    words=("source", "target", "kind", "unit"),
)
