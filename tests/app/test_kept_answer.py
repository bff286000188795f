"""The test of a picture by counterfactual prompts, as the app asks for it."""

from __future__ import annotations

import inspect
from dataclasses import replace

import pytest
from flowgraph_webapp.page.wires import downloads
from flowgraph_webapp.page.wires.downloads import Measured, exported
from flowgraph_webapp.panels import kept_answer
from flowgraph_webapp.panels.effects import test_of as question_of_test
from flowgraph_webapp.panels.flow import GraphQuestion
from flowgraph_webapp.panels.kept_answer import KeptQuestion, badge, kept_box, refused_box
from flowgraph_webapp.panels.kept_curve import CurveQuestion
from flowgraph_webapp.recipe import Recipe
from flowgraph_webapp.server.run import RunQuestion
from flowgraph_webapp.server.traces import Traces
from flowgraph_webapp.session import read_session, write_session

import flowgraph as fg
from flowgraph.errors import ArgumentError, NoCounterfactualError, PromptError, UnsupportedReadingError
from flowgraph.render import shown_graph
from tests.app.conftest import TEXT

OTHER = "The dog sat on the mat"
LEAST = 1e-4
"""Logits: a random model hardly tells two prompts apart."""


def unheard(_stage, _part=None):
    pass


@pytest.fixture(autouse=True)
def _small_gaps(monkeypatch):
    monkeypatch.setattr(kept_answer, "LEAST_GAP", LEAST)


@pytest.fixture(scope="module")
def traces(folder) -> Traces:
    found = Traces([folder], 2**30, 512)
    assert sum(p.numel() for p in found.model(folder, unheard).model.parameters()) < 1_000_000
    return found


@pytest.fixture(scope="module")
def run(traces, folder) -> RunQuestion:
    """A run whose answer falls when the cat becomes a dog."""
    clean, other = (traces.trace(RunQuestion(folder, text), unheard).logits for text in (TEXT, OTHER))
    falls = clean.log_softmax(-1) - other.log_softmax(-1)
    answer = int(falls.argmax())
    assert answer != int(other.argmax())
    return RunQuestion(folder, TEXT, target=answer)


@pytest.fixture
def found(traces, run):
    question = KeptQuestion(run, threshold=0.1, keep=400, corrupted=(OTHER,))
    return question, question.answer(traces, unheard)


def test_the_numbers_are_those_of_the_library_for_what_the_slider_shows(traces, run, found):
    trace = traces.trace(run, unheard)
    graph = shown_graph(GraphQuestion(run, threshold=0.1).answer(traces, unheard).graph, 400)
    expected = fg.graph_faithfulness(trace.model, trace, graph, corrupted=OTHER, least_gap=LEAST)
    _, answer = found
    assert (answer.f, answer.lost, answer.rank, answer.terms) == (
        expected.f,
        expected.lost,
        expected.rank,
        expected.terms,
    )
    assert answer.random == pytest.approx(float(expected.blind.mean()))
    assert answer.prompts == (OTHER,)
    assert answer.exchanged == expected.counterfactuals
    statement = expected.statement()
    assert answer.statement() == {
        name: pytest.approx(value) if isinstance(value, float) else value for name, value in statement.items()
    }


def test_the_least_gap_is_the_librarys(monkeypatch):
    monkeypatch.undo()
    assert inspect.signature(fg.graph_faithfulness).parameters["least_gap"].default == kept_answer.LEAST_GAP


def test_a_picture_of_everything_keeps_all_of_it(traces, run):
    question = KeptQuestion(run, method="norms", show="all", level="head", keep=1000, corrupted=(OTHER,))
    assert question.answer(traces, unheard).f == pytest.approx(1, abs=1e-3)


def test_each_point_of_the_curve_is_the_test_of_what_the_slider_shows_there(traces, run):
    asked = CurveQuestion(run, method="norms", show="all", level="head", corrupted=(OTHER,), points=4, random=1)
    curve = asked.answer(traces, unheard)
    assert curve.levels[-1] == 1000
    assert len(curve.levels) > 2
    for level, edges, f in zip(curve.levels, curve.edges, curve.f, strict=True):
        question = KeptQuestion(run, method="norms", show="all", level="head", keep=level, corrupted=(OTHER,))
        assert question.answer(traces, unheard).f == pytest.approx(f, abs=1e-5)
        assert edges == len(shown_graph(GraphQuestion(**question.about()).answer(traces, unheard).graph, level))
    assert len(curve.random) == len(curve.f)
    read = read_session(
        write_session(
            Recipe(model=run.model, text=run.text, target=run.target), {run: run.answer(traces, unheard), asked: curve}
        )
    )
    assert read.answers[asked] == curve
    for wrong in ({"points": 0}, {"points": 65}, {"random": 9}):
        with pytest.raises(ArgumentError, match="cannot be used; expected"):
            CurveQuestion(run, **wrong)


def test_beside_proposals_the_foil_of_the_page_is_not_used(traces, run):
    trace = traces.trace(run, unheard)
    foil = int(trace.logits.argsort()[-5])
    compared = replace(run, foil=foil)
    answer = KeptQuestion(compared, threshold=0.1, keep=400).answer(traces, unheard)
    assert trace.model.answers.string(foil) not in answer.foils
    curve = CurveQuestion(compared, threshold=0.1, points=3).answer(traces, unheard)
    whole = KeptQuestion(compared, threshold=0.1, keep=curve.levels[-1]).answer(traces, unheard)
    assert curve.f[-1] == pytest.approx(whole.f, abs=1e-5)


def test_a_session_keeps_what_was_measured(run, traces, found):
    question, answer = found
    read = read_session(
        write_session(
            Recipe(model=run.model, text=run.text, target=run.target),
            {run: run.answer(traces, unheard), question: answer},
        )
    )
    assert read.answers[question] == answer


def test_what_is_said_names_what_was_exchanged_and_what_chance_keeps(found):
    _, answer = found
    several = replace(
        answer,
        f=0.72,
        random=0.0,
        exchanged=((" a", " b"), (" a", " c"), (" a", " d"), (" a", " e")),
        by_prompt=(0.5,) * 4,
        prompts=(OTHER,) * 4,
    )
    assert (
        badge(several).replace("\N{NO-BREAK SPACE}", " ")
        == "keeps 72 % of the answer against ‘b’, ‘c’ and 2 more; random pictures 0 %"
    )
    assert badge(replace(several, exchanged=((" a", " b"),), random=None)).endswith("against ‘b’")
    said = str(kept_box(several))
    assert "‘e’ for ‘a’" in said
    assert OTHER in said


@pytest.mark.parametrize(
    ("error", "recipe", "offers"),
    [
        (NoCounterfactualError("no word"), Recipe(text="a"), ("data-counterfactual", "graph.zero")),
        (UnsupportedReadingError("gated"), Recipe(text="a"), ("graph.zero",)),
        (ArgumentError("go back"), Recipe(text="a", show="rollout"), ()),
    ],
)
def test_what_was_not_tested_offers_what_can_be_done_instead(error, recipe, offers):
    said = str(refused_box(recipe, error, ()))
    assert str(error)[1:] in said
    assert [one for one in ("data-counterfactual", "graph.zero") if one in said] == list(offers)


@pytest.mark.parametrize(
    ("corrupted", "error"),
    [(("The dog",), PromptError), ((TEXT,), ArgumentError), (("",), PromptError), ((OTHER,) * 9, ArgumentError)],
)
def test_prompts_that_are_no_counterparts_are_refused(traces, run, corrupted, error):
    with pytest.raises(error):
        KeptQuestion(run, corrupted=corrupted).answer(traces, unheard)


def test_proposals_of_a_chat_are_what_a_person_would_type(traces, run):
    trace = replace(traces.trace(run, unheard), prompt=f"<user>{TEXT}<end>")
    chat = replace(run, chat=True)
    assert kept_answer._edited(chat, trace, f"<user>{OTHER}<end>") == OTHER
    assert kept_answer._edited(chat, trace, f"<other>{OTHER}<end>") == f"<other>{OTHER}<end>"
    assert kept_answer._edited(run, trace, OTHER) == OTHER


class _Answers:
    """A service that knows what it is given."""

    def __init__(self, answers):
        self.answers = answers

    def ready(self, question, *, gone=None):
        if question not in self.answers:
            raise downloads.NotYet("not computed")
        return self.answers[question]


def test_a_file_says_what_was_measured_of_exactly_its_picture(traces, run, found):
    question, answer = found
    graph = GraphQuestion(run, threshold=0.1)
    service = _Answers({graph: graph.answer(traces, unheard), question: answer})
    recipe = Recipe(model=run.model, text=run.text, target=run.target, threshold=0.1, keep=400)
    assert question_of_test(service, recipe, "graph", (OTHER,)) == question
    said, without = (
        exported(service, recipe, "graph.json", Measured(400, (OTHER,))),
        exported(service, recipe, "graph.json"),
    )
    assert (answer.text.split(" of ")[0].encode() in said.data, said.note) == (True, "")
    assert b'"kept"' not in without.data
    # Another prompt, or a picture of another size: the test is not of this one.
    for tested in (Measured(400, (TEXT,)), Measured(None, (OTHER,))):
        file = exported(service, recipe, "graph.json", tested)
        assert b'"kept"' not in file.data
        assert "Test the picture again" in file.note
    service.answers[replace(question, keep=20)] = answer
    assert b'"kept"' not in exported(service, recipe, "graph.json", Measured(20, (OTHER,))).data


@pytest.mark.parametrize(
    "header", ["%7B", "[]", '{"keep": -1, "corrupted": []}', '{"keep": 1, "corrupted": [2]}', '{"keep": 1}']
)
def test_a_request_that_names_no_test_is_refused(header):
    with pytest.raises((ArgumentError, downloads.FlowgraphError)):
        downloads._tested(header)
    assert downloads._tested("") is None
