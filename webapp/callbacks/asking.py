"""Asking the service, with the kind of answer that belongs to the kind of question."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, overload

from ..service.answers import (
    Ablation,
    Attention,
    Bars,
    Circuit,
    CircuitTest,
    Counterpart,
    Generation,
    GraphAnswer,
    Heads,
    Lens,
    NodeAnswer,
    Run,
    Semantic,
    Token,
)
from ..service.questions import (
    AblateQuestion,
    AttentionQuestion,
    BarsQuestion,
    CircuitQuestion,
    CircuitTestQuestion,
    CorruptQuestion,
    FaithfulQuestion,
    GenerateQuestion,
    GraphQuestion,
    HeadsQuestion,
    LensQuestion,
    NodeQuestion,
    RunQuestion,
    SemanticQuestion,
    SketchQuestion,
    TokenQuestion,
    circuit_question,
    graph_question,
    sketch_question,
)

if TYPE_CHECKING:
    from ..recipe import Recipe
    from ..service.service import Service


@overload
def ask(service: Service, question: RunQuestion, ticket: str | None = None) -> Run: ...
@overload
def ask(service: Service, question: GraphQuestion | SketchQuestion, ticket: str | None = None) -> GraphAnswer: ...
@overload
def ask(service: Service, question: LensQuestion, ticket: str | None = None) -> Lens: ...
@overload
def ask(service: Service, question: HeadsQuestion, ticket: str | None = None) -> Heads: ...
@overload
def ask(service: Service, question: AttentionQuestion, ticket: str | None = None) -> Attention: ...
@overload
def ask(service: Service, question: BarsQuestion, ticket: str | None = None) -> Bars: ...
@overload
def ask(service: Service, question: NodeQuestion, ticket: str | None = None) -> NodeAnswer: ...
@overload
def ask(service: Service, question: SemanticQuestion, ticket: str | None = None) -> Semantic: ...
@overload
def ask(service: Service, question: AblateQuestion | FaithfulQuestion, ticket: str | None = None) -> Ablation: ...
@overload
def ask(service: Service, question: CircuitQuestion, ticket: str | None = None) -> Circuit: ...
@overload
def ask(service: Service, question: CircuitTestQuestion, ticket: str | None = None) -> CircuitTest: ...
@overload
def ask(service: Service, question: CorruptQuestion, ticket: str | None = None) -> Counterpart: ...
@overload
def ask(service: Service, question: TokenQuestion, ticket: str | None = None) -> Token: ...
@overload
def ask(service: Service, question: GenerateQuestion, ticket: str | None = None) -> Generation: ...
def ask(service: Service, question: Any, ticket: str | None = None) -> Any:
    """The answer of a question; blocks until there is one.

    Raises
    ------
    FlowgraphError
        As :meth:`~flowgraph_webapp.service.service.Service.ask`.
    """
    return service.ask(question, ticket=ticket)


def shown(
    service: Service, recipe: Recipe, ticket: str | None = None, *, sketch: bool = False
) -> GraphAnswer | Circuit:
    """What the picture of a recipe shows: its flow graph, or a circuit; of a sketch, not all nodes have been read.

    Raises
    ------
    FlowgraphError
        As :meth:`~flowgraph_webapp.service.service.Service.ask`.
    """
    if recipe.circuit != "none":
        return ask(service, circuit_question(recipe), ticket)
    return ask(service, sketch_question(recipe) if sketch else graph_question(recipe), ticket)
