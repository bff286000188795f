"""Circuits: what a search for one begins with, and the search itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

import flowgraph
from flowgraph import FlowGraph, LoadedModel, Trace
from flowgraph.errors import ArgumentError, PromptError
from flowgraph.render import shown_graph

from ..server.answers import MOST_EDGES, Circuit, CircuitTest, Counterpart, Pair, Token
from ..server.questions import CircuitQuestion, CircuitTestQuestion, CorruptQuestion, TokenQuestion
from ..server.traces import Check, Traces, prompt_ids

_Asked = CircuitQuestion | CircuitTestQuestion
_OF_BUDGET = ("cutting edges", "running readers")
"""How the stages begin whose part is that of the budget that is used; the search may end before it is."""
_NAMES = "Its first names became others. Change what you like, as long as it has as many tokens."
_WORDS = (
    "No first name to exchange, so every word became a random other. Better: take the prompt itself, and change only what decides "
    "the answer."
)
_NO_TEXT = "No text of as many tokens came out; write one: the prompt once more, without what decides the answer."


def corrupt(traces: Traces, question: CorruptQuestion, check: Check) -> Counterpart:
    """A counterpart of a prompt: with other names, or where it has none with other words."""
    loaded = traces.model(question.run.model, check)
    found, note = _corrupted(loaded, question.run.text)
    ids = traces.trace(question.run, check).token_ids
    is_text = isinstance(found, str) and len(prompt_ids(loaded, found, question.run.chat)) == len(ids)
    return Counterpart(str(found), note) if is_text else Counterpart("", _NO_TEXT)


def token(traces: Traces, question: TokenQuestion, check: Check) -> Token:
    """The one token that a text is."""
    vocabulary = traces.model(question.run.model, check).vocabulary
    found = vocabulary.target_id(question.text, question.name)
    return Token(found, vocabulary.string(found))


def circuit(traces: Traces, question: _Asked, check: Check) -> Circuit:
    """The circuit of a task, or of a prompt beside its counterpart."""
    # Whatever prompt is on the page: the circuit of a task is the same.
    source: Any = question.run if question.task == "none" else question.run.model
    key = (
        "circuit",
        source,
        *(getattr(question, name) for name in ("method", "corrupted", "task", "prompts", "budget")),
    )
    search = _of_pair if question.task == "none" else _of_task
    found: Circuit = traces.made(key, lambda: search(traces, question, check))
    return found


def circuit_test(traces: Traces, question: CircuitTestQuestion, check: Check) -> CircuitTest:
    """The answer with nothing left but the edges of a circuit that the slider shows; all others bring the corrupted prompt's."""
    found = circuit(traces, question, check).graph
    kept = shown_graph(found, question.keep)
    said, unit = found.info.options, found.info.unit
    full, empty, left = (_tested_pair if question.task == "none" else _tested_task)(traces, question, kept, check)
    return CircuitTest(len(kept), int(said["prompts"]), str(said["metric"]), unit, full, empty, left)


def _tested_pair(traces: Traces, question: _Asked, kept: FlowGraph, check: Check) -> tuple[float, float, float]:
    clean, corrupted = _pair(traces, question, check)
    progress, cancel = reporting(check, "measuring what the circuit keeps")
    effect = flowgraph.patch(
        clean.model, clean, corrupted, kept, "noise", outside=True, progress=progress, cancel=cancel
    )
    assert effect.clean is not None  # of a patch both are measured
    assert effect.corrupted is not None
    return float(effect.clean.mean()), float(effect.corrupted.mean()), effect.mean_after


def _tested_task(traces: Traces, question: _Asked, kept: FlowGraph, check: Check) -> tuple[float, float, float]:
    loaded = traces.model(question.run.model, check)
    data = flowgraph.task(loaded, question.task, count=question.prompts)
    progress, cancel = reporting(check, "measuring what the circuit keeps")
    found = flowgraph.faithfulness(loaded, data, kept, sizes=(1.0,), bootstrap=0, progress=progress, cancel=cancel)
    return float(found.full.mean()), float(found.by_prompt[0].mean()), float(found.by_prompt[-1].mean())


def _pair(traces: Traces, question: _Asked, check: Check) -> tuple[Trace, Trace]:
    """The prompt and its counterpart; traces both, so that the explained position is the same."""
    trace = traces.trace(question.run, check)
    trace.model.require_head("a circuit for the answer")
    _refuse_other_length(trace, prompt_ids(trace.model, question.corrupted, question.run.chat))
    other = replace(question.run, text=question.corrupted, position=trace.position, target=None, foil=None)
    return trace, traces.trace(other, check)


def _of_pair(traces: Traces, question: _Asked, check: Check) -> Circuit:
    trace, other = _pair(traces, question, check)
    graph, note = _discovered(trace.model, question, check, clean=trace, corrupted=other)
    assert trace.target_token is not None  # a model without a head was refused
    pair = Pair(question.run.text, question.corrupted, trace.target_token, trace.foil_token)
    return Circuit(graph, note, f"this prompt at position {trace.position}", (pair,))


def _of_task(traces: Traces, question: _Asked, check: Check) -> Circuit:
    loaded = traces.model(question.run.model, check)
    check("drawing examples", None)
    data = flowgraph.task(loaded, question.task, count=question.prompts)
    graph, note = _discovered(loaded, question, check, data=data)
    pairs = tuple(Pair(*(str(part) for part in (e.clean, e.corrupted, e.target, e.foil))) for e in data.examples)
    return Circuit(graph, note, f"{data.name}: {data.description}", pairs)


def _discovered(loaded: LoadedModel, question: _Asked, check: Check, **prompts: Any) -> tuple[FlowGraph, str]:
    """The circuit, as much of it as can be drawn, and what was taken in words."""
    progress, cancel = reporting(check, "searching")
    check("running the prompts", None)

    def tell(stage: str, part: float | None) -> None:
        progress(f"{stage}; of the budget" if part is not None and stage.startswith(_OF_BUDGET) else stage, part)

    method: Any = question.method
    graph = flowgraph.discover(loaded, method=method, budget=question.budget, progress=tell, cancel=cancel, **prompts)
    note = f"edges whose effect is at least {float(graph.info.filters['threshold']):.0%} of the gap".replace("%", " %")
    if len(graph) <= MOST_EDGES:
        return graph, note
    strongest = np.arange(len(graph)) < MOST_EDGES  # a circuit lists the strongest first
    return graph.keep(strongest, max_edges=MOST_EDGES), f"{note}; the strongest {MOST_EDGES:,} of {len(graph):,}"


def reporting(check: Check, stage: str) -> tuple[Callable[[str, float | None], None], Callable[[], bool]]:
    """``progress`` and ``cancel`` as flowgraph's long functions take them; ``cancel`` raises by itself.

    Parameters
    ----------
    check
        Whom to tell.
    stage
        What is done until more is known.
    """
    last: tuple[str, float | None] = (stage, None)

    def progress(name: str, part: float | None) -> None:
        nonlocal last
        last = (name, part)
        check(name, part)

    def cancel() -> bool:
        check(*last)
        return False

    return progress, cancel


def _corrupted(loaded: LoadedModel, text: str) -> tuple[object, str]:
    try:
        return flowgraph.corrupt(loaded, text, "names"), _NAMES
    except ArgumentError:  # no names: that is no reason to propose nothing
        pass
    try:
        return flowgraph.corrupt(loaded, text, "tokens"), _WORDS
    except ArgumentError:
        return (), _NO_TEXT


def _refuse_other_length(trace: Trace, ids: list[int]) -> None:
    if len(ids) == len(trace.token_ids):
        return
    parts = " | ".join(trace.model.vocabulary.strings(ids[:64]))
    raise PromptError(
        f"the corrupted prompt has {len(ids)} tokens and the prompt {len(trace.token_ids)}, so a position is not the same place in "
        f"both; make them equally long. The corrupted one: {parts}{' …' if len(ids) > 64 else ''}"
    )
