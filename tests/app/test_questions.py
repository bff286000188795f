"""Kinds of questions: each says once what its answer is, how it is made, and what of a file fits."""

from __future__ import annotations

import dataclasses
import pickle
from dataclasses import dataclass

import pytest
from flowgraph_webapp.panels import PANELS
from flowgraph_webapp.panels.bars import Bars, BarsQuestion
from flowgraph_webapp.panels.flow import GraphQuestion, SketchQuestion
from flowgraph_webapp.recipe import Recipe
from flowgraph_webapp.registered import KINDS, TABS, Registered
from flowgraph_webapp.server.model import ModelQuestion
from flowgraph_webapp.server.question import Question, answer_type, recorded
from flowgraph_webapp.server.run import OfRun, RunQuestion, run_of, with_run

from flowgraph import Reading
from flowgraph.errors import ArgumentError

RUN = RunQuestion("smollm2", "a")


@pytest.mark.parametrize("name", KINDS)
def test_a_kind_of_question_is_frozen_and_says_what_answers_it(name):
    kind = KINDS[name]
    assert kind.__name__ == name
    assert issubclass(kind, Question)
    assert kind.__dataclass_params__.frozen
    assert "answer" in vars(kind) or name == "RunQuestion"
    assert dataclasses.is_dataclass(answer_type(kind))


def test_answers_are_those_of_the_annotation():
    assert answer_type(BarsQuestion) is Bars
    assert answer_type(KINDS["LensQuestion"]) is Reading


def test_a_name_is_registered_once():
    with pytest.raises(ValueError, match="'BarsQuestion' is registered already"):

        @recorded
        @dataclass(frozen=True)
        class BarsQuestion(OfRun[Bars]):
            pass

    names: Registered[int] = Registered()
    names.add("a", 1)
    names.add("a", 1)
    with pytest.raises(ValueError, match="choose another name"):
        names.add("a", 2)


def test_the_panels_are_the_tabs_of_the_address():
    assert [panel.name for panel in PANELS] == list(TABS)
    for panel in PANELS:
        assert Recipe(tab=panel.name).tab == panel.name
    with pytest.raises(
        ArgumentError, match=r"tab='other' cannot be used; expected one of lens, heads, attention, bars, semantic"
    ):
        Recipe(tab="other")


def test_the_run_of_a_question_can_be_another():
    other = RunQuestion("smollm2", "b")
    graph = GraphQuestion(RUN, heads_in=(3,))
    assert run_of(graph) == run_of(RUN) == RUN
    assert with_run(graph, other) == GraphQuestion(other, heads_in=(3,))
    assert with_run(RUN, other) == other
    assert run_of(ModelQuestion("smollm2")) is None
    assert with_run(ModelQuestion("smollm2"), other) == ModelQuestion("smollm2")


def test_a_graph_holds_the_answer_of_its_sketch_and_they_are_not_the_same_question():
    sketch, graph = SketchQuestion(RUN, threshold=0.5), GraphQuestion(RUN, threshold=0.5)
    assert sketch.whole == graph == graph.whole
    assert sketch != graph
    assert pickle.loads(pickle.dumps(sketch)) == sketch  # as questions travel to the worker


def test_the_fields_of_a_panel_are_fields_of_the_address():
    for panel in PANELS:
        assert {field.name for field in dataclasses.fields(Recipe)} >= set(panel.fields)
