"""Record the examples that the app opens with: ``python -m tests.app_examples`` writes webapp/examples/*.flowgraph."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from flowgraph_webapp.panels.attention import AttentionQuestion
from flowgraph_webapp.panels.bars import BarsQuestion
from flowgraph_webapp.panels.details import NodeQuestion
from flowgraph_webapp.panels.flow import GraphAnswer, GraphQuestion
from flowgraph_webapp.panels.heads import HeadsQuestion
from flowgraph_webapp.panels.lens import LensQuestion
from flowgraph_webapp.panels.semantic import SemanticQuestion
from flowgraph_webapp.recipe import Recipe
from flowgraph_webapp.server.question import Question
from flowgraph_webapp.server.recorded import EXAMPLES
from flowgraph_webapp.server.run import Run, RunQuestion
from flowgraph_webapp.server.traces import Traces
from flowgraph_webapp.session import write_session

from flowgraph import EDGE_METHODS

MODEL = "smollm2"
LARGEST = 3 * 2**20


@dataclass(frozen=True)
class Subject:
    """One example: what is asked, against which token, and which layer its semantic graph shows."""

    title: str
    text: str
    layer: int
    foil: str | None = None


SUBJECTS = {
    "capital-of-japan": Subject("A fact: the capital of Japan", "The capital of Japan is the city of", 23),
    "drink-to-mary": Subject(
        "A name: who gets the drink",
        "When Mary and John went to the store, John gave a drink to",
        25,
        " John",
    ),
    "tower-and-colosseum": Subject(
        "A pattern: the same sentence again", "The Eiffel Tower is in Paris. The Colosseum is in", 23, " Paris"
    ),
}


def record(traces: Traces, subject: Subject) -> tuple[Recipe, dict[Question[Any], Any]]:
    """Every answer that the page asks for when it opens the example and looks around."""
    vocabulary = traces.model(MODEL, unheard).vocabulary
    foil = None if subject.foil is None else vocabulary.target_id(subject.foil, "foil")
    recipe = Recipe(
        model=MODEL,
        text=subject.text,
        foil=foil,
        layer=subject.layer,
        semantic_layers=(subject.layer, subject.layer + 1),
    )
    run = RunQuestion.of(recipe).answer(traces, unheard)
    assert isinstance(run, Run)
    questions: list[Question[Any]] = [RunQuestion.of(recipe)]
    questions += [GraphQuestion.of(replace(recipe, method=method)) for method in EDGE_METHODS]
    questions += [GraphQuestion.of(replace(recipe, show=show)) for show in ("all", "rollout", "flow")]
    questions += [GraphQuestion.of(replace(recipe, level="head"))]
    questions += [
        LensQuestion.of(recipe),
        HeadsQuestion.of(recipe),
        BarsQuestion.of(recipe),
        SemanticQuestion.of(recipe),
    ]
    questions += [AttentionQuestion.of(recipe, layer) for layer in range(run.n_layers)]
    # Attention depends on no target, so it is of the same pass without one: that run is recorded too.
    questions += [RunQuestion.of(replace(recipe, foil=None))] if foil is not None else []
    answers = {question: question.answer(traces, unheard) for question in questions}
    drawn = answers[GraphQuestion.of(recipe)]
    assert isinstance(drawn, GraphAnswer)
    nodes = [NodeQuestion.of(recipe, node) for node in drawn.graph.nodes]
    return recipe, answers | {question: question.answer(traces, unheard) for question in nodes}


def unheard(_stage: str, _part: float | None = None) -> None:
    """Nobody waits, and nobody takes a question back."""


def main() -> None:
    """Write all examples."""
    traces = Traces([MODEL], 2**30, 512)
    EXAMPLES.mkdir(exist_ok=True)
    for name, subject in SUBJECTS.items():
        recipe, answers = record(traces, subject)
        data = write_session(recipe, answers, title=subject.title)
        if len(data) > LARGEST:
            raise SystemExit(f"{name} has {len(data):,} bytes, more than {LARGEST:,}")
        (EXAMPLES / f"{name}.flowgraph").write_bytes(data)
        run = answers[RunQuestion.of(recipe)]
        assert isinstance(run, Run)
        print(f"{name}: {run.target_token!r}, {len(answers):,} answers, {len(data) / 2**20:.2f} MB")


if __name__ == "__main__":
    main()
