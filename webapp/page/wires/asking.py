"""Asking the service, with the kind of answer that belongs to the kind of question."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, overload

import flask

from ...server.answers import (
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
from ...server.questions import (
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
    from ...recipe import Recipe
    from ...server.service import Known, Service


@overload
def ask(service: Service | Known, question: RunQuestion, ticket: str | None = None) -> Run: ...
@overload
def ask(
    service: Service | Known, question: GraphQuestion | SketchQuestion, ticket: str | None = None
) -> GraphAnswer: ...
@overload
def ask(service: Service | Known, question: LensQuestion, ticket: str | None = None) -> Lens: ...
@overload
def ask(service: Service | Known, question: HeadsQuestion, ticket: str | None = None) -> Heads: ...
@overload
def ask(service: Service | Known, question: AttentionQuestion, ticket: str | None = None) -> Attention: ...
@overload
def ask(service: Service | Known, question: BarsQuestion, ticket: str | None = None) -> Bars: ...
@overload
def ask(service: Service | Known, question: NodeQuestion, ticket: str | None = None) -> NodeAnswer: ...
@overload
def ask(service: Service | Known, question: SemanticQuestion, ticket: str | None = None) -> Semantic: ...
@overload
def ask(
    service: Service | Known, question: AblateQuestion | FaithfulQuestion, ticket: str | None = None
) -> Ablation: ...
@overload
def ask(service: Service | Known, question: CircuitQuestion, ticket: str | None = None) -> Circuit: ...
@overload
def ask(service: Service | Known, question: CircuitTestQuestion, ticket: str | None = None) -> CircuitTest: ...
@overload
def ask(service: Service | Known, question: CorruptQuestion, ticket: str | None = None) -> Counterpart: ...
@overload
def ask(service: Service | Known, question: TokenQuestion, ticket: str | None = None) -> Token: ...
@overload
def ask(service: Service | Known, question: GenerateQuestion, ticket: str | None = None) -> Generation: ...
def ask(service: Service | Known, question: Any, ticket: str | None = None) -> Any:
    """The answer of a question; blocks until there is one.

    Raises
    ------
    FlowgraphError
        As :meth:`~flowgraph_webapp.server.service.Service.ask`.
    """
    return service.ask(question, ticket=ticket, gone=_gone())


def _gone() -> Callable[[], bool] | None:
    """Whether the connection that this request came over is closed; None outside of a request."""
    if not flask.has_request_context():
        return None
    gone: Callable[[], bool] = flask.request.environ.get("waitress.client_disconnected", lambda: False)
    return gone


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
        return ask(service, circuit_question(recipe), ticket)
    return ask(service, sketch_question(recipe) if sketch else graph_question(recipe), ticket)
