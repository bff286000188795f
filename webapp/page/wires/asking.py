"""Asking the service on behalf of a page: whoever closes the page takes the question back."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import flask

from ...panels.circuit import Circuit, CircuitQuestion
from ...panels.flow import GraphAnswer, GraphQuestion, SketchQuestion
from ...server.question import A, Question

if TYPE_CHECKING:
    from ...recipe import Recipe
    from ...server.service import Known, Service


def ask(service: Service | Known, question: Question[A], ticket: str | None = None) -> A:
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
        return ask(service, CircuitQuestion.of(recipe), ticket)
    question: Question[GraphAnswer] = SketchQuestion.of(recipe) if sketch else GraphQuestion.of(recipe)
    return ask(service, question, ticket)
