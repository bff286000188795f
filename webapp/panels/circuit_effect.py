"""The test of a circuit: what the answer is with nothing left but what the picture shows of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import flowgraph
from flowgraph import FlowGraph
from flowgraph.render import shown_graph

from ..present.buttons import boxed, test_button
from ..present.drawn import Fact, element, facts
from ..present.figures import percent, plural, signed
from ..server.question import recorded
from ..server.traces import Check, Traces, reporting
from .circuit import OfCircuit, pair_of, task_of
from .flow import OfShown

if TYPE_CHECKING:
    from dash.development.base_component import Component

_TEST = "Run the model once more with every edge that this picture does not show bringing what it brings for the corrupted prompt"


@dataclass(frozen=True)
class CircuitTest:
    """What the answer is with nothing left but a circuit.

    Attributes
    ----------
    edges, prompts
        How many edges were left, and on how many prompts it was measured.
    metric, unit
        What was measured.
    full, empty, kept
        Its mean with all edges of the model, with none, and with those of the circuit.
    corruption
        What was changed in the corrupted prompts; empty in files that did not say it.
    """

    edges: int
    prompts: int
    metric: str
    unit: str
    full: float
    empty: float
    kept: float
    corruption: str = ""


@recorded
@dataclass(frozen=True)
class CircuitTestQuestion(OfShown[CircuitTest], OfCircuit[CircuitTest]):
    """What becomes of the answer with nothing left but a circuit."""

    def answer(self, traces: Traces, check: Check) -> CircuitTest:
        """The answer with nothing left but the edges of a circuit that the slider shows; all others bring the corrupted prompt's."""
        found = self.circuit(traces, check).graph
        kept = shown_graph(found, self.keep)
        said, unit = found.info.options, found.info.unit
        full, empty, left = (_tested_pair if self.task == "none" else _tested_task)(traces, self, kept, check)
        changed = str(said.get("corruption", ""))
        return CircuitTest(len(kept), int(said["prompts"]), str(said["metric"]), unit, full, empty, left, changed)


def _tested_pair(traces: Traces, question: OfCircuit[Any], kept: FlowGraph, check: Check) -> tuple[float, float, float]:
    clean, corrupted = pair_of(traces, question, check)
    progress, cancel = reporting(check, "measuring what the circuit keeps")
    effect = flowgraph.patch(
        clean.model, clean, corrupted, kept, "noise", outside=True, progress=progress, cancel=cancel
    )
    assert effect.clean is not None  # of a patch both are measured
    assert effect.corrupted is not None
    return float(effect.clean.mean()), float(effect.corrupted.mean()), effect.mean_after


def _tested_task(traces: Traces, question: OfCircuit[Any], kept: FlowGraph, check: Check) -> tuple[float, float, float]:
    loaded = traces.model(question.run.model, check)
    data = task_of(loaded, question)
    progress, cancel = reporting(check, "measuring what the circuit keeps")
    found = flowgraph.faithfulness(loaded, data, kept, sizes=(1.0,), bootstrap=0, progress=progress, cancel=cancel)
    return float(found.full.mean()), float(found.by_prompt[0].mean()), float(found.by_prompt[-1].mean())


def offer() -> list[Component]:
    """The button that tests the circuit."""
    return [test_button("graph", "Test this circuit", _TEST)]


def circuit_effect(answer: CircuitTest) -> Component:
    """How much of the answer the circuit keeps by itself."""
    gap = answer.full - answer.empty
    rows: list[Fact] = [
        ("the model", signed(answer.full), answer.unit),
        ("no edge, the corrupted prompt", signed(answer.empty), answer.unit),
        ("this circuit alone", signed(answer.kept), answer.unit),
    ]
    if gap:
        rows.append(("of the gap", percent(answer.kept - answer.empty, gap), ""))
    corruption = f", corruption {answer.corruption}" if answer.corruption else ""
    said = (
        f"{answer.metric.capitalize()} on {plural(answer.prompts, 'prompt')}{corruption}; {plural(answer.edges, 'edge')} of the picture are left, all "
        "others bring the corrupted prompt’s. Never clipped: above 100 % where what is left out works against the answer."
    )
    title = "Test of this circuit"
    tree = element("div", element("h3", title), element("p", said, cls="note"), facts(rows), cls="details")
    return boxed(tree, title)
