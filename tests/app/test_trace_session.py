"""A recorded trace in the app: what its file holds is answered as the model would, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from flowgraph_webapp.panels.attention import AttentionQuestion
from flowgraph_webapp.panels.bars import BarsQuestion
from flowgraph_webapp.panels.flow import GraphQuestion
from flowgraph_webapp.panels.heads import HeadsQuestion
from flowgraph_webapp.panels.lens import LensQuestion
from flowgraph_webapp.panels.saved_trace import session_of_trace
from flowgraph_webapp.recipe import to_query
from flowgraph_webapp.server.run import RunQuestion
from flowgraph_webapp.server.service import Service
from flowgraph_webapp.server.traces import Traces
from flowgraph_webapp.session import read_session, write_session

import flowgraph as fg
from flowgraph.cli.app import _opened
from flowgraph.errors import ModelNeededError
from flowgraph.values.flow_graph import EDGE_COLUMNS
from tests.app.conftest import TEXT

FOIL = 40


def unheard(_stage: str, _part: float | None = None) -> None:
    pass


@pytest.fixture(scope="module")
def traces(folder) -> Traces:
    return Traces([folder], 2**30, 512)


@pytest.fixture(scope="module")
def file(traces, folder, tmp_path_factory):
    trace = fg.trace(traces.model(folder, unheard), TEXT, foil=FOIL)
    recorded = trace.record(methods=["norms", "proximity", "ff"], readings=["resid_post"])
    return recorded.save(tmp_path_factory.mktemp("traces") / "run.safetensors")


def same_graph(one: fg.FlowGraph, other: fg.FlowGraph) -> None:
    assert one.nodes == other.nodes
    for name in (*EDGE_COLUMNS, "flow"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_the_file_answers_what_the_model_would(traces, folder, file):
    trace = fg.Trace.load(file)
    session = session_of_trace(trace, file.name)
    recipe = session.recipe
    assert (recipe.text, recipe.foil, recipe.position, recipe.method) == (TEXT, FOIL, trace.position, "proximity")
    graphs = [question for question in session.answers if isinstance(question, GraphQuestion)]
    assert {(one.method, one.show, one.level) for one in graphs} == {
        *((method, show, "token") for method in ("norms", "proximity", "ff") for show in ("routes", "all")),
        *((method, "routes", "head") for method in ("norms", "proximity")),
    }
    asked = replace(RunQuestion.of(recipe), model=folder)
    for question in graphs:
        expected = replace(question, run=asked).answer(traces, unheard)
        answer = session.answers[question]
        same_graph(answer.graph, expected.graph)
        assert answer.note == expected.note
    run, expected_run = session.answers[RunQuestion.of(recipe)], asked.answer(traces, unheard)
    for name in (
        "tokens",
        "position",
        "target",
        "target_token",
        "foil_token",
        "n_layers",
        "n_heads",
        "layers",
        "causal",
    ):
        assert getattr(run, name) == getattr(expected_run, name)
    best = {one.token_id: one for one in expected_run.predictions}
    assert [one.token_id for one in run.predictions] == [run.target, FOIL]
    for one in run.predictions:
        assert one.token == best[one.token_id].token
        assert one.probability == pytest.approx(best[one.token_id].probability)
    for layer in range(run.n_layers):
        question = AttentionQuestion.of(recipe, layer)
        expected_pattern = replace(question, run=replace(question.run, model=folder)).answer(traces, unheard).pattern
        np.testing.assert_array_equal(session.answers[question].pattern, expected_pattern)
    lens, question = session.answers[LensQuestion.of(recipe)], replace(LensQuestion.of(recipe), run=asked)
    assert [entry[0] for entry in lens[1, -1].top[:5]] == [
        entry[0] for entry in question.answer(traces, unheard)[1, -1].top
    ]
    scores, question = session.answers[HeadsQuestion.of(recipe)], replace(HeadsQuestion.of(recipe), run=asked)
    for name, values in question.answer(traces, unheard).scores.items():
        if name in scores.scores:
            np.testing.assert_allclose(scores.scores[name], values, atol=1e-6)
    assert len(scores.scores) > 2


def test_it_is_a_session_and_opens_on_a_server_without_models(file):
    session = session_of_trace(fg.Trace.load(file), file.name)
    again = read_session(write_session(session.recipe, session.answers, title=session.title))
    assert set(again.answers) == set(session.answers)
    service = Service([], examples=False)
    try:
        opened = _opened(service, file)
        assert opened.title == "run.safetensors"
        assert "session=" in to_query(opened.recipe)
        same_graph(
            service.ask(GraphQuestion.of(opened.recipe)).graph, session.answers[GraphQuestion.of(session.recipe)].graph
        )
        with pytest.raises(ModelNeededError, match="without the run of a model behind it"):
            service.ask(BarsQuestion(RunQuestion.of(opened.recipe)))
    finally:
        service.close()


def test_a_trace_of_ids_without_records(traces, folder, tmp_path):
    loaded = traces.model(folder, unheard)
    kept = fg.trace(loaded, [20, 31, 42], keep=["resid_post"]).save(tmp_path / "ids.safetensors")
    session = session_of_trace(fg.Trace.load(kept))
    assert [type(question) for question in session.answers] == [RunQuestion, RunQuestion]
