"""Asking the service on behalf of a page: whoever closes the page takes the question back."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from .question import A, Question

if TYPE_CHECKING:
    from ..recipe import Recipe
    from .run import Run
    from .service import Known, Service


def ask(service: Service | Known, question: Question[A], ticket: str | None = None) -> A:
    """The answer of a question; blocks until there is one.

    Raises
    ------
    FlowgraphError
        As :meth:`~flowgraph_webapp.server.service.Service.ask`.
    """
    return service.ask(question, ticket=ticket, gone=_gone())


def can_ask(service: Service, recipe: Recipe, run: Run) -> bool:
    """Whether a model can be asked about a run: it is the pass of one that this server has, and no graph out of a file."""
    return bool(run.token_ids) and recipe.model in service.models


def _gone() -> Callable[[], bool] | None:
    """Whether the connection that this request came over is closed; None outside of a request."""
    import flask  # the process that answers questions has no requests

    if not flask.has_request_context():
        return None
    gone: Callable[[], bool] = flask.request.environ.get("waitress.client_disconnected", lambda: False)
    return gone
