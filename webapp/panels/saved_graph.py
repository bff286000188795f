"""A saved graph as a session: what the page needs to draw it, and nothing that the file does not say."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from flowgraph import FlowGraph, node_key
from flowgraph.render import cut_note, drawing, pinned

from ..recipe import CHOICES, LONGEST_TEXT, MOST_PINS, Recipe
from ..server.question import Question
from ..server.run import Run, RunQuestion
from ..session import Annotations, Session
from .flow import MOST_EDGES, GraphAnswer, GraphQuestion
from .semantic import Semantic, SemanticQuestion


def session_of_graph(graph: FlowGraph, title: str = "") -> Session:
    """A session that holds one graph, which may come from any program.

    Parameters
    ----------
    graph
        As :meth:`flowgraph.FlowGraph.load` or :func:`flowgraph.import_graph` give it.
    title
        What to call it.
    """
    cut = ""
    if len(graph) > MOST_EDGES:
        drawn = drawing(graph)
        cut = f"; {cut_note(graph, drawn)}"
        graph = drawn.graph
    graph = replace(graph, info=replace(graph.info, **_completed(graph)))
    recipe = _recipe(graph)
    answers: dict[Question[Any], Any] = {RunQuestion.of(recipe): _run(graph)}
    note = f"a saved graph, {graph.info.level} level{cut}"
    answers[GraphQuestion.of(recipe)] = GraphAnswer(graph, note)
    if recipe.tab == "semantic":
        answers[SemanticQuestion.of(recipe)] = Semantic(graph, note)
    pins = tuple(node_key(graph.nodes[n]) for n in pinned(graph)[:MOST_PINS])
    return Session(title[:200], recipe, Annotations(pins), answers)


def _completed(graph: FlowGraph) -> dict[str, Any]:
    """Tokens and layers that all nodes lie in, where the file says fewer."""
    positions = [node.position for node in graph.nodes if node.position is not None]
    layers = [node.layer for node in graph.nodes if node.layer is not None]
    tokens = graph.info.tokens
    missing = range(len(tokens), max([graph.info.position, *positions]) + 1)
    total = max([graph.info.total_layers, graph.info.layers[1], *(layer + 1 for layer in layers), 1])
    first, stop = graph.info.layers
    return {
        "tokens": (*tokens, *(f"#{n}" for n in missing)),
        "total_layers": total,
        "layers": (first, stop) if first < stop else (0, total),
    }


def _recipe(graph: FlowGraph) -> Recipe:
    info = graph.info
    known = {name: value for name, value in (("method", info.method), ("level", info.level)) if value in CHOICES[name]}
    name = "".join(character for character in info.model if character.isprintable())[:400]
    # Half a surrogate pair, as a token may be, cannot stand in an address.
    text = "".join(info.tokens).encode("utf-8", "replace").decode()[:LONGEST_TEXT]
    recipe = Recipe(model=name or "unknown", text=text or "?", show="all", **known)  # type: ignore[arg-type]
    if info.method != "semantic":
        return recipe
    return replace(recipe, tab="semantic", semantic_layers=info.layers)


def _run(graph: FlowGraph) -> Run:
    info = graph.info
    heads = [node.head for node in graph.nodes if node.head is not None]
    return Run(
        model=info.model,
        family="",
        prompt=None,
        tokens=info.tokens,
        token_ids=(),
        position=info.position,
        n_layers=info.total_layers,
        n_heads=max(heads, default=-1) + 1,
        layers=(0, info.total_layers),
        causal=True,
        target=info.target,
        target_token=info.target_token,
        foil=info.foil,
        foil_token=info.foil_token,
        predictions=(),
        has_head=info.target is not None,
        has_attribution=False,
        seconds=0.0,
        is_text=info.is_text,
    )
