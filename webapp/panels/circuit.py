"""Circuits as the app asks for them: of a prompt beside its counterpart, or of a task, searched by :func:`flowgraph.discover`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, Self

import numpy as np

import flowgraph
from flowgraph import FlowGraph
from flowgraph.errors import PromptError

from ..recipe import CHOICES, Recipe, Task, check_choice, check_effort, check_text
from ..recipe import Circuit as Search
from ..server.question import A, recorded, require
from ..server.run import OfRun, Run, RunQuestion, inside_run, same
from ..server.traces import Check, Traces, prompt_ids, reporting, source_ids
from .flow import MOST_EDGES

if TYPE_CHECKING:
    from flowgraph import Inputs, LoadedModel, TaskData, Trace

_CORRUPTED = {"ioi-flip": ("ioi", "flip"), "ioi": ("ioi", "abc")}
"""Where a task has several corruptions: choice → task and corruption."""
_OF_BUDGET = ("cutting edges", "running readers")
"""How the stages begin whose part is that of the budget that is used; the search may end before it is."""


@dataclass(frozen=True)
class Pair:
    """A prompt and its corrupted counterpart, the answer and a wrong one; texts of tokens are as the tokenizer has them.

    ``foil`` is None where the answer is compared with the mean logit.
    """

    clean: str
    corrupted: str
    target: str
    foil: str | None


@dataclass(frozen=True, eq=False)
class Circuit:
    """A circuit of at most 3,000 edges, what was taken of it in words, and the prompts that it was searched with."""

    graph: FlowGraph
    note: str
    about: str
    pairs: tuple[Pair, ...]

    def __post_init__(self) -> None:
        require(0 < len(self.graph) <= MOST_EDGES, f"Circuit.graph has {len(self.graph):,} edges")


@dataclass(frozen=True)
class OfCircuit(OfRun[A], Generic[A]):
    """Which circuit is meant.

    Attributes
    ----------
    run
        The pass; of a task's circuit, where it is shown.
    method
        How it is searched.
    corrupted, task, prompts
        The prompt's counterpart, or a task and how many of its examples; one of the two.
    budget
        As in :class:`~flowgraph_webapp.recipe.Recipe`.
    """

    method: Search
    corrupted: str = ""
    task: Task = "none"
    prompts: int = 1
    budget: int | None = None

    def __post_init__(self) -> None:
        check_choice("circuit", self.method, CHOICES["circuit"][1:])
        check_choice("task", self.task, CHOICES["task"])
        check_text(self.corrupted, "corrupted")
        check_effort(self.prompts, self.budget)
        if self.task == "none" and not self.corrupted:
            raise PromptError(
                "the corrupted prompt is empty; write the prompt once more without what decides its answer, or choose a task"
            )

    long = True

    @classmethod
    def of(cls, recipe: Recipe) -> Self:
        """About the circuit of a recipe."""
        is_pair = recipe.task == "none"
        corrupted, prompts = (recipe.corrupted, 1) if is_pair else ("", recipe.prompts)
        return cls(RunQuestion.of(recipe), recipe.circuit, corrupted, recipe.task, prompts, recipe.budget)

    def circuit(self, traces: Traces, check: Check) -> Circuit:
        """The circuit of a task, or of a prompt beside its counterpart."""
        # Whatever prompt is on the page: the circuit of a task is the same.
        source: Any = self.run if self.task == "none" else self.run.model
        key = (
            "circuit",
            source,
            *(getattr(self, name) for name in ("method", "corrupted", "task", "prompts", "budget")),
        )
        search = _of_pair if self.task == "none" else _of_task
        found: Circuit = traces.made(key, lambda: search(traces, self, check))
        return found


@recorded
@dataclass(frozen=True)
class CircuitQuestion(OfCircuit[Circuit]):
    """The circuit by which the model gives its answer."""

    def answer(self, traces: Traces, check: Check) -> Circuit:
        """The circuit, searched for unless it was found."""
        return self.circuit(traces, check)

    def refuse_unfit(self, run: Run, answer: Circuit) -> None:
        """As the base class says."""
        same("the circuit's number of layers", answer.graph.info.total_layers, run.n_layers)
        same("a position in a circuit", {node.position for node in answer.graph.nodes}, {None})
        inside_run(run, answer.graph)


def pair_of(traces: Traces, question: OfCircuit[Any], check: Check) -> tuple[Trace, Trace | Inputs]:
    """The prompt and its counterpart, so that the explained position is the same.

    Of an encoder–decoder the decoder has written the same in both: what its encoder reads is exchanged.
    """
    trace = traces.trace(question.run, check)
    trace.model.require_head("a circuit for the answer")
    if "encoder" in trace.stacks:
        read = flowgraph.inputs(text=question.corrupted, target_ids=trace.token_ids)
        _refuse_other_length(trace.stacks["encoder"], source_ids(trace.model, question.corrupted))
        return trace, read
    _refuse_other_length(trace, prompt_ids(trace.model, question.corrupted, question.run.chat))
    other = replace(question.run, text=question.corrupted, position=trace.position, target=None, foil=None)
    return trace, traces.trace(other, check)


def _of_pair(traces: Traces, question: OfCircuit[Any], check: Check) -> Circuit:
    trace, other = pair_of(traces, question, check)
    graph, note = _discovered(trace.model, question, check, clean=trace, corrupted=other)
    assert trace.target_token is not None  # a model without a head was refused
    pair = Pair(question.run.text, question.corrupted, trace.target_token, trace.foil_token)
    return Circuit(graph, note, f"this prompt at position {trace.position}", (pair,))


def _of_task(traces: Traces, question: OfCircuit[Any], check: Check) -> Circuit:
    loaded = traces.model(question.run.model, check)
    check("drawing examples", None)
    data = task_of(loaded, question)
    graph, note = _discovered(loaded, question, check, data=data)
    pairs = tuple(Pair(*(str(part) for part in (e.clean, e.corrupted, e.target, e.foil))) for e in data.examples)
    return Circuit(graph, note, f"{data.name}: {data.description}; corruption {data.corruption}", pairs)


def task_of(loaded: LoadedModel, question: OfCircuit[Any]) -> TaskData:
    """The examples that a question means."""
    name, corruption = _CORRUPTED.get(question.task, (question.task, None))
    return flowgraph.task(loaded, name, corruption=corruption, count=question.prompts)


def _discovered(loaded: LoadedModel, question: OfCircuit[Any], check: Check, **prompts: Any) -> tuple[FlowGraph, str]:
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


def _refuse_other_length(trace: Trace, ids: list[int]) -> None:
    if len(ids) == len(trace.token_ids):
        return
    parts = " | ".join(trace.model.vocabulary.strings(ids[:64]))
    raise PromptError(
        f"the corrupted prompt has {len(ids)} tokens and the prompt {len(trace.token_ids)}, so a position is not the same place in "
        f"both; make them equally long. The corrupted one: {parts}{' …' if len(ids) > 64 else ''}"
    )
