"""What the page offers of what it shows: nothing that can only be refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dash import html
from dash.development.base_component import Component

from flowgraph import Node
from flowgraph.errors import ArgumentError

from ...node_key import parse_node_key
from ...panels import PANELS
from ...panels.circuit import CircuitTestQuestion
from ...panels.effects import AblateQuestion, FaithfulQuestion
from ...panels.flow import SketchQuestion
from ...recipe import Recipe
from ...server.question import Question
from ...server.run import Run, RunQuestion
from .asking import ask

if TYPE_CHECKING:
    from ...server.service import Service

EDGE = "edge."
_NO_PASS = "a graph from a file is shown, without the run of a model behind it. Trace its prompt to have one."
_NO_MODEL = "this server does not run the model {0!r}. Start it with ‘flowgraph app --model {0}’."


def can_ask(service: Service, recipe: Recipe, run: Run) -> bool:
    """Whether a model can be asked about a run: it is the pass of one that this server has, and no graph out of a file."""
    return bool(run.token_ids) and recipe.model in service.models


def offered(service: Service, recipe: Recipe, run: Run) -> dict[str, Any]:
    """For the scripts: whether the model can be asked, and which panels have an answer."""
    asks = can_ask(service, recipe, run)
    panels = [panel.name for panel in PANELS if asks or service.known(panel.question(recipe, run)) is not None]
    return {"asks": asks, "panels": panels, "file": not run.token_ids}


def offer_tests(service: Service, recipe: Recipe, run: Run, what: str, buttons: list[Component]) -> list[Component]:
    """The buttons that test something, or why it cannot be tested where the answer was not recorded."""
    if not buttons or can_ask(service, recipe, run):
        return buttons
    if run.token_ids:
        question: Question[Any] = test_of(service, recipe, what)
        if service.known(question) is not None:
            return buttons
    why = _NO_MODEL.format(recipe.model) if run.token_ids else _NO_PASS
    return [html.P(f"Nothing can be tested here: {why}", className="note untested")]


def test_of(service: Service, recipe: Recipe, what: str) -> AblateQuestion | FaithfulQuestion | CircuitTestQuestion:
    """The question that tests a node key, ``edge.17`` of the graph, or the ``graph`` itself.

    Raises
    ------
    FlowgraphError
        If there is no such thing, or it cannot be tested.
    """
    if what == "graph":
        return FaithfulQuestion.of(recipe) if recipe.circuit == "none" else CircuitTestQuestion.of(recipe)
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


def edge_of(key: str, count: int) -> int:
    """The number of an edge from its key.

    Raises
    ------
    ArgumentError
        If the graph has no such edge.
    """
    text = key.removeprefix(EDGE)
    if not (text.isascii() and text.isdecimal() and len(text) < 8 and int(text) < count):
        raise ArgumentError(f"{key[:40]!r} is not an edge of this graph; its {count:,} edges are counted from 0")
    return int(text)
