"""Whether an answer out of a file belongs to its run: as many layers, heads and tokens, and the place that was asked for."""

from __future__ import annotations

from typing import Any

from flowgraph import FlowGraph, Reading
from flowgraph.errors import FileFormatError

from .answers import Attention, Bars, Circuit, GraphAnswer, Heads, NodeAnswer, Run, Semantic
from .questions import AttentionQuestion, NodeQuestion, Question


def refuse_unfit(run: Run, question: Question, answer: Any) -> None:
    """Refuse an answer whose shapes are not those of its run.

    Raises
    ------
    FileFormatError
        If they differ, or the answer is about another place than the question.
    """
    layers, heads, tokens = run.layers[1] - run.layers[0], run.n_heads, len(run.tokens)
    match answer:
        case Run():
            _same("Run.predictions", all(0 <= p.probability <= 1 for p in answer.predictions), True)
        case GraphAnswer() | Semantic():
            _check_graph(run, answer.graph)
        case Circuit():
            _same("the circuit's number of layers", answer.graph.info.total_layers, run.n_layers)
            _same("a position in a circuit", {node.position for node in answer.graph.nodes}, {None})
            _check_nodes(run, answer.graph)
        case Reading():
            _check_reading(answer, (layers, tokens))
        case Heads():
            for name, score in answer.scores.items():
                _same(f"Heads.scores.{name[:40]}", score.shape, (layers, heads))
            _same("Heads.layers", answer.layers, run.layers)
            if answer.strongest_key is not None:
                _same("Heads.strongest_key", answer.strongest_key.shape, (layers, heads))
                keys = answer.strongest_key
                _same("Heads.strongest_key", bool(((keys >= 0) & (keys < tokens)).all()), True)
        case Attention():
            _same("Attention.pattern", answer.pattern.shape, (heads, tokens, tokens))
            _same("Attention.layer", answer.layer, question.layer if isinstance(question, AttentionQuestion) else None)
            _same("Attention.layer", 0 <= answer.layer < run.n_layers, True)
        case Bars():
            _same("Bars.heads", answer.heads.shape, (run.n_layers, heads))
            _same("Bars.sources", answer.sources.shape, (tokens,))
        case NodeAnswer():
            _same("NodeAnswer.node", answer.node, question.node if isinstance(question, NodeQuestion) else None)
            _same("NodeAnswer.attention", len(answer.attention or ()) in (0, tokens), True)


def _check_graph(run: Run, graph: FlowGraph) -> None:
    _same("the graph's tokens", graph.info.tokens, run.tokens)
    _same("the graph's number of layers", graph.info.total_layers, run.n_layers)
    _same("the graph's position", graph.info.position < len(run.tokens), True)
    _check_nodes(run, graph)


def _check_nodes(run: Run, graph: FlowGraph) -> None:
    limits = {"layer": run.n_layers, "position": len(run.tokens), "head": max(run.n_heads, 1)}
    for node in graph.nodes:
        for name, below in limits.items():
            value = getattr(node, name)
            if value is not None and value >= below:
                raise FileFormatError(f"the node {node} of a graph has {name}={value}; its run has {below}")


def _check_reading(reading: Reading, shape: tuple[int, int]) -> None:
    _same("Reading.shape", reading.shape, shape)
    for end in ("top", "bottom"):
        width = getattr(reading, f"{end}_token_ids").shape[1]
        _same(f"Reading.{end}_tokens", {len(row) for row in getattr(reading, f"{end}_tokens")}, {width})
        for name in ("logits", "probabilities"):
            _same(f"Reading.{end}_{name}", getattr(reading, f"{end}_{name}").shape, (shape[0] * shape[1], width))


def _same(what: str, found: Any, expected: Any) -> None:
    if found != expected:
        raise FileFormatError(f"{what} is {str(found)[:80]}; its run needs {str(expected)[:80]}")
