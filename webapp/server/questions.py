"""What the page can ask: one frozen dataclass for each kind, which is its own cache key.

A question holds what its answer depends on and nothing else, so that two pages that look at the same thing in another way
share the answer.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import flowgraph
from flowgraph.errors import ArgumentError

from ..recipe import (
    CHOICES,
    LARGEST_LEVEL,
    MOST_GENERATED,
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
from .circuit_questions import CircuitQuestion as CircuitQuestion
from .circuit_questions import CircuitTestQuestion as CircuitTestQuestion
from .circuit_questions import CorruptQuestion as CorruptQuestion
from .circuit_questions import TokenQuestion as TokenQuestion
from .runs import ModelQuestion as ModelQuestion
from .runs import RunQuestion as RunQuestion

Select = Literal["contribution", "norm", "attention", "target"]
SELECTS: tuple[str, ...] = ("contribution", "norm", "attention", "target")
MOST_POSITIONS = 64
ABLATED: tuple[str, ...] = ("head", "attn", "mlp", "neuron", "embed", "resid_pre", "resid_mid", "resid_post")
"""Kinds of nodes that can be set to zero."""


@dataclass(frozen=True)
class _OfGraph:
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

    run: RunQuestion
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


@dataclass(frozen=True)
class GraphQuestion(_OfGraph):
    """The flow graph: edges of a method, as many as can be drawn."""


@dataclass(frozen=True)
class SketchQuestion(_OfGraph):
    """The same graph with readings of those nodes alone whose colour or label needs them: it is there in less than half the time."""


@dataclass(frozen=True)
class LensQuestion:
    """Every state, read in vocabulary."""

    run: RunQuestion


@dataclass(frozen=True)
class HeadsQuestion:
    """Scores of every head."""

    run: RunQuestion


@dataclass(frozen=True)
class AttentionQuestion:
    """The attention pattern of one layer."""

    run: RunQuestion
    layer: int

    def __post_init__(self) -> None:
        check_index("layer", -1 if self.layer is None else self.layer)


@dataclass(frozen=True)
class BarsQuestion:
    """The logit as a sum of what wrote it."""

    run: RunQuestion


@dataclass(frozen=True)
class NodeQuestion:
    """What one node says."""

    run: RunQuestion
    node: flowgraph.Node


@dataclass(frozen=True)
class SemanticQuestion:
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

    run: RunQuestion
    layers: tuple[int, int] | None = None
    positions: tuple[int, ...] | None = None
    select: Select = "contribution"

    def __post_init__(self) -> None:
        check_window("layers", self.layers)
        check_choice("select", self.select, SELECTS)
        if self.positions is not None and not 0 < len(self.positions) <= MOST_POSITIONS:
            raise ArgumentError(
                f"positions= names {len(self.positions)} positions; expected 1 to {MOST_POSITIONS}, or None"
            )
        for position in self.positions or ():
            check_index("positions", position)


@dataclass(frozen=True)
class AblateQuestion:
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

    run: RunQuestion
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


@dataclass(frozen=True)
class FaithfulQuestion(_OfGraph):
    """What becomes of the answer with nothing left but what a graph shows.

    Attributes
    ----------
    keep
        Level of the slider; None: where the graph opens.
    """

    keep: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_index("keep", self.keep, LARGEST_LEVEL)


@dataclass(frozen=True)
class GenerateQuestion:
    """How the model goes on, taking its best token each time."""

    run: RunQuestion
    count: int = 16

    def __post_init__(self) -> None:
        if type(self.count) is not int or not 1 <= self.count <= MOST_GENERATED:
            raise ArgumentError(f"count={self.count!r} cannot be used; expected 1 to {MOST_GENERATED} tokens")


BACKGROUND = (CircuitQuestion, CircuitTestQuestion)
"""Questions that take minutes: others are answered between their steps."""
RunBased = (
    GraphQuestion | SketchQuestion | LensQuestion | HeadsQuestion | AttentionQuestion | BarsQuestion | NodeQuestion | SemanticQuestion
    | GenerateQuestion | AblateQuestion | FaithfulQuestion | CorruptQuestion | TokenQuestion | CircuitQuestion
    | CircuitTestQuestion
)  # fmt: skip
"""Questions about a run."""
Question = ModelQuestion | RunQuestion | RunBased


def run_of(question: Question) -> RunQuestion | None:
    """The run that a question is about; None for a model's."""
    if isinstance(question, ModelQuestion):
        return None
    return question if isinstance(question, RunQuestion) else question.run


def with_run(question: Question, run: RunQuestion) -> Question:
    """The same question about another run."""
    if isinstance(question, ModelQuestion):
        return question
    return run if isinstance(question, RunQuestion) else replace(question, run=run)


def run_question(recipe: Recipe) -> RunQuestion:
    """The run of a recipe.

    Raises
    ------
    PromptError
        If the recipe has no text.
    """
    return RunQuestion(
        recipe.model, recipe.text, recipe.chat, recipe.position, recipe.target, recipe.foil, recipe.session
    )


def graph_question(recipe: Recipe) -> GraphQuestion:
    """The graph of a recipe."""
    return GraphQuestion(
        run_question(recipe),
        recipe.method,
        recipe.show,
        recipe.level,
        # Rollout and flow are of the whole matrix and know no threshold.
        float(recipe.threshold) if recipe.show in ("all", "routes") else 0.0,
        recipe.layers,
        None if recipe.start is None else flowgraph.parse_node(recipe.start),
        # At the level of heads every layer is shown as its heads.
        tuple(sorted(set(recipe.heads_in))) if recipe.level == "token" else (),
    )


def sketch_question(recipe: Recipe) -> SketchQuestion:
    """The graph of a recipe, as it is drawn at first."""
    return SketchQuestion(**_of_graph(graph_question(recipe)))


def whole_question(question: Question) -> Question:
    """The question whose answer holds that of this one: of a sketch, the graph."""
    return GraphQuestion(**_of_graph(question)) if isinstance(question, SketchQuestion) else question


def _of_graph(question: _OfGraph) -> dict[str, Any]:
    return {item.name: getattr(question, item.name) for item in fields(_OfGraph)}


def faithful_question(recipe: Recipe) -> FaithfulQuestion:
    """The test of the graph of a recipe, as its slider shows it."""
    return FaithfulQuestion(**_of_graph(graph_question(recipe)), keep=recipe.keep)


def circuit_question(recipe: Recipe) -> CircuitQuestion:
    """The circuit of a recipe."""
    run, is_pair = run_question(recipe), recipe.task == "none"
    corrupted, prompts = (recipe.corrupted, 1) if is_pair else ("", recipe.prompts)
    return CircuitQuestion(run, recipe.circuit, corrupted, recipe.task, prompts, recipe.budget)


def circuit_test_question(recipe: Recipe) -> CircuitTestQuestion:
    """The test of the circuit of a recipe, as its slider shows it."""
    asked = circuit_question(recipe)
    values = {item.name: getattr(asked, item.name) for item in fields(asked)}
    return CircuitTestQuestion(**values, keep=recipe.keep)


def lens_question(recipe: Recipe) -> LensQuestion:
    """The lens of a recipe."""
    return LensQuestion(run_question(recipe))


def heads_question(recipe: Recipe) -> HeadsQuestion:
    """The head scores of a recipe."""
    return HeadsQuestion(run_question(recipe))


def attention_question(recipe: Recipe, layer: int) -> AttentionQuestion:
    """The attention of one layer, which no target changes."""
    return AttentionQuestion(replace(run_question(recipe), target=None, foil=None), layer)


def bars_question(recipe: Recipe) -> BarsQuestion:
    """The logit bars of a recipe."""
    return BarsQuestion(run_question(recipe))


def node_question(recipe: Recipe, node: flowgraph.Node) -> NodeQuestion:
    """What a node says under a recipe."""
    return NodeQuestion(run_question(recipe), node)


def semantic_question(
    recipe: Recipe, positions: tuple[int, ...] | None = None, select: Select = "contribution"
) -> SemanticQuestion:
    """The semantic graph of a recipe: of its window, else of its layer, else of the last layer."""
    layers = recipe.semantic_layers
    if layers is None and recipe.layer is not None:
        layers = (recipe.layer, recipe.layer + 1)
    return SemanticQuestion(run_question(recipe), layers, positions, select)


def generate_question(recipe: Recipe, count: int = 16) -> GenerateQuestion:
    """How the prompt of a recipe goes on, which neither position nor target changes."""
    return GenerateQuestion(replace(run_question(recipe), position=None, target=None, foil=None), count)
