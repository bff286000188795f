"""Answers, made from flowgraph's public functions; one function for each kind of question. Runs in the worker only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any

import numpy as np

import flowgraph
from flowgraph import DirectLogitAttribution, HeadScores, Node, Reading, Trace
from flowgraph.errors import ArgumentError

from ..panels.ablation import ablate, faithful
from ..panels.discovery import circuit, circuit_test, corrupt, token
from ..panels.generation import generate
from ..panels.graphs import graph
from ..panels.node_answers import NEURONS, node
from .answers import Answer, Attention, Bar, Bars, Heads, Lens, Model, Prediction, Run, Semantic
from .messages import LOADING
from .questions import (
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
    ModelQuestion,
    NodeQuestion,
    RunQuestion,
    SemanticQuestion,
    SketchQuestion,
    TokenQuestion,
)
from .traces import READ_AT_ONCE, Check, Traces

BEST = 10
"""Predictions of a run."""
LENS_TOKENS = 5
MOST_SEMANTIC_NODES = 2_000


def model(traces: Traces, question: ModelQuestion, check: Check) -> Model:
    """What the model is; what is compiled at its first use is made ready too, so that no question waits for it."""
    loaded = traces.model(question.model, check)
    anatomy = loaded.anatomy
    check(f"{LOADING}: making ready", None)
    flowgraph.edge_weights(flowgraph.trace(loaded, [0, 0], position=0), method="proximity")
    return Model(
        name=loaded.name,
        family=anatomy.family.name,
        n_layers=len(anatomy.blocks),
        n_heads=anatomy.n_heads,
        context=anatomy.context,
        causal=anatomy.causal,
        has_head=anatomy.has_head,
        has_attribution=loaded.has_attribution,
        chat=bool(getattr(loaded.tokenizer, "chat_template", None)),
    )


def run(traces: Traces, question: RunQuestion, check: Check) -> Run:
    """What the model says at a position."""
    trace, seconds = traces.run(question, check)
    same = ("family", "prompt", "tokens", "token_ids", "position", "n_layers", "n_heads", "layers", "causal",
            "target", "target_token", "foil", "foil_token")  # fmt: skip
    return Run(
        model=trace.model_name,
        **{name: getattr(trace, name) for name in same},
        predictions=_predictions(trace),
        has_head=trace.model.anatomy.has_head,
        has_attribution=trace.model.has_attribution,
        seconds=seconds,
    )


def lens(traces: Traces, question: LensQuestion, check: Check) -> Lens:
    """Every state after every layer, read in vocabulary; some layers at a time, so that it can be taken back."""
    trace = traces.trace(question.run, check)
    states = trace.resid_post
    step = max(1, READ_AT_ONCE // states.shape[1])
    parts = []
    for first in range(0, len(states), step):
        check("reading states", first / len(states))
        parts.append(flowgraph.read(trace, states[first : first + step], k=min(LENS_TOKENS, _vocabulary(trace))))
    joined = _joined(parts, (states.shape[0], states.shape[1]))
    return joined.named(("layer", "position"), first_layer=trace.layers[0], prompt_tokens=trace.tokens)


def heads(traces: Traces, question: HeadsQuestion, check: Check) -> Heads:
    """Scores of every head."""
    trace = traces.trace(question.run, check)
    check("scoring heads", None)
    return heads_answer(flowgraph.head_scores(trace))


def heads_answer(found: HeadScores) -> Heads:
    """Scores of heads as an answer."""
    # What a head writes comes first where it is known: it speaks of the target, the others of attention alone.
    scores = sorted(found.scores.values(), key=lambda score: score.name != "direct_logit")
    return Heads(
        scores={score.name: score.values for score in scores},
        units={score.name: score.unit for score in scores},
        descriptions={score.name: score.description for score in scores},
        layers=found.layers,
        bounds={score.name: (score.lowest, score.highest) for score in scores},
        undefined=dict(found.undefined),
        strongest_key=found.strongest_key,
    )


def attention(traces: Traces, question: AttentionQuestion, check: Check) -> Attention:
    """The attention pattern of one layer."""
    trace = traces.trace(question.run, check)
    if not question.layer < trace.n_layers:
        raise ArgumentError(f"layer={question.layer} is outside the model; its layers are 0…{trace.n_layers - 1}")
    return Attention(question.layer, trace.pattern[question.layer].float().cpu().numpy())


def bars(traces: Traces, question: BarsQuestion, check: Check) -> Bars:
    """The logit as a sum over everything that wrote it."""
    trace = traces.trace(question.run, check)
    parts = traces.attribution(question.run, check)
    rows = _rows(trace, parts)
    neurons = _strongest_neurons(parts)
    word = trace.model.vocabulary.string
    return Bars(
        rows=rows,
        total=parts.total,
        logit=parts.logit,
        error=parts.completeness_error,
        unit="logits",
        heads=parts.heads,
        mlps=parts.mlps,
        sources=parts.heads_by_source.sum((0, 1)),
        neurons=neurons,
        neurons_rest=float(parts.mlps.sum()) - sum(bar.value for bar in neurons),
        target=parts.target,
        foil=parts.foil,
        target_token=word(parts.target),
        foil_token=None if parts.foil is None else word(parts.foil),
    )


def semantic(traces: Traces, question: SemanticQuestion, check: Check) -> Semantic:
    """The semantic graph of some layers; of the last one where none is named."""
    trace = traces.trace(question.run, check)
    check("reading parts", None)
    layers = question.layers or (trace.n_layers - 1, trace.n_layers)
    drawn = flowgraph.semantic_graph(
        trace, layers=layers, positions=question.positions, select=question.select, max_nodes=MOST_SEMANTIC_NODES
    )
    said = f"layer {layers[0]}" if layers[1] - layers[0] == 1 else f"layers {layers[0]} to {layers[1] - 1}"
    return Semantic(drawn, f"{said}, parts chosen by {question.select}")


COMPUTE: Mapping[type, Callable[[Traces, Any, Check], Answer]] = {
    ModelQuestion: model, RunQuestion: run, GraphQuestion: graph, SketchQuestion: graph, LensQuestion: lens, HeadsQuestion: heads,
    AttentionQuestion: attention, BarsQuestion: bars, NodeQuestion: node, SemanticQuestion: semantic,
    GenerateQuestion: generate, AblateQuestion: ablate, FaithfulQuestion: faithful, CorruptQuestion: corrupt, TokenQuestion: token,
    CircuitQuestion: circuit, CircuitTestQuestion: circuit_test,
}  # fmt: skip
"""Kind of question → what answers it."""


def _vocabulary(trace: Trace) -> int:
    return int(trace.model.anatomy.d_vocab) if trace.model.anatomy.has_head else LENS_TOKENS


def _predictions(trace: Trace) -> tuple[Prediction, ...]:
    if trace.logits is None:
        return ()
    logits = trace.logits.double()
    probabilities = logits.softmax(-1)
    best: list[int] = logits.topk(min(BEST, len(logits))).indices.tolist()
    asked = [token for token in (trace.target, trace.foil) if token is not None and token not in best]
    word = trace.model.vocabulary.string
    return tuple(Prediction(i, word(i), float(probabilities[i]), float(logits[i])) for i in [*best, *asked])


def _joined(parts: list[Reading], shape: tuple[int, int]) -> Reading:
    """One reading of the rows of several, which speak of the same target."""
    columns: dict[str, Any] = {}
    for item in fields(Reading):
        values = [getattr(part, item.name) for part in parts]
        if isinstance(values[0], np.ndarray):
            columns[item.name] = np.concatenate(values)
        elif item.name in ("top_tokens", "bottom_tokens"):
            columns[item.name] = tuple(row for value in values for row in value)
    return replace(parts[0], **columns, shape=shape)


def _rows(trace: Trace, parts: DirectLogitAttribution) -> tuple[Bar, ...]:
    at = parts.position
    rows = [_bar(Node("embed", position=at), parts.embedding)]
    if trace.position_embedding is not None:
        rows.append(_bar(Node("position_embed", position=at), parts.position_embedding))
    for layer in range(len(parts.mlps)):
        rows += [_bar(Node("head", layer, head, at), value) for head, value in enumerate(parts.heads[layer].tolist())]
        rows.append(_bar(Node("mlp", layer, position=at), float(parts.mlps[layer])))
    for name, value in parts.biases.items():
        place, dot, kind = name.rpartition(".")
        rows.append(_bar(Node(kind, int(place[1:]) if dot else None), value))  # type: ignore[arg-type]
    return tuple(rows)


def _strongest_neurons(parts: DirectLogitAttribution) -> tuple[Bar, ...]:
    width = parts.neurons.shape[1]
    order = np.argsort(-np.abs(parts.neurons), axis=None, kind="stable")[:NEURONS]
    places = [(int(place) // width, int(place) % width) for place in order]
    return tuple(
        _bar(Node("neuron", layer, position=parts.position, index=n), float(parts.neurons[layer, n]))
        for layer, n in places
    )


def _bar(node: Node, value: float) -> Bar:
    return Bar(str(node), node.kind, node.layer, node.head, node.position, node.index, value)
