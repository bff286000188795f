"""Some layers as their heads, the others with heads together: the same numbers, and the same sums."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from urllib.parse import quote

import numpy as np
import pytest
from flowgraph_webapp.panels.flow import GraphQuestion
from flowgraph_webapp.recipe import Recipe, from_query, to_query
from flowgraph_webapp.server.run import RunQuestion
from flowgraph_webapp.server.traces import Traces
from flowgraph_webapp.session import read_session, write_session

import flowgraph as fg
from flowgraph.algorithms import picture_edges
from flowgraph.algorithms.routes import routes_threshold
from flowgraph.errors import ArgumentError
from tests.app.conftest import TEXT
from tests.app.fake_service import EXAMPLE, FakeService
from tests.app.tabs import Opened, served
from tests.app.test_app import Page, notice_of
from tests.browser import launch


def unheard(_stage, _part=None):
    pass


@pytest.fixture(scope="module")
def traces(folder) -> Traces:
    return Traces([folder], 2**30, 512)


@pytest.fixture(scope="module")
def run(folder) -> RunQuestion:
    return RunQuestion(folder, TEXT)


def named(graph: fg.FlowGraph, number: str) -> dict:
    values = getattr(graph, number)
    return {
        (graph.nodes[graph.source[e]], graph.nodes[graph.target[e]], int(graph.kind[e])): float(values[e])
        for e in range(len(graph))
    }


def test_a_registered_method_is_drawn_without_a_word_about_it_in_the_app(traces, run):
    def doubled(trace):
        weights = fg.edge_weights(trace, method="proximity")
        return replace(weights, info=replace(weights.info, method="doubled"))

    with pytest.raises(ArgumentError, match="method='doubled' cannot be used"):
        Recipe(text="a", method="doubled")
    fg.register_method("doubled", doubled, unit="share", meaning="Proximity by another name.")
    try:
        recipe = from_query(f"?text={quote(run.text)}&model={quote(run.model)}&method=doubled&heads_in=1")
        answer = GraphQuestion.of(recipe).answer(traces, unheard)
        like = GraphQuestion.of(replace(recipe, method="proximity")).answer(traces, unheard)
        assert named(answer.graph, "weight") == named(like.graph, "weight")
        assert (answer.graph.info.method, answer.note) == ("doubled", like.note)
        shown = GraphQuestion.of(replace(recipe, heads_in=(), show="rollout")).answer(traces, unheard)
        assert shown.graph.info.method == "rollout of doubled"
    finally:
        del fg.EDGE_METHODS["doubled"]


def test_routes_of_opened_layers_hang_together(traces, run):
    answer = GraphQuestion(run, threshold=0.02, heads_in=(1,)).answer(traces, unheard)
    assert (np.abs(answer.graph.share) >= 0.02).all()
    assert (fg.connected_flow(answer.graph) > 0).all()
    assert {node.layer for node in answer.graph.nodes if node.kind == "head"} == {1}
    assert "heads of L1 one by one" in answer.note
    assert answer.graph.info.filters["heads_in"] == "1"


def test_opening_a_layer_keeps_the_threshold_of_the_others(traces, run, monkeypatch):
    # So that the least threshold does not do.
    monkeypatch.setattr(picture_edges, "routes_threshold", partial(routes_threshold, most_edges=40))
    notes = [GraphQuestion(run, heads_in=layers).answer(traces, unheard).note for layers in ((), (1,))]
    closed, opened = (re.search(r"share ≥ (\S+?)(,|;|$)", note)[1] for note in notes)
    assert closed == opened != ".01"


@pytest.mark.parametrize(
    ("question", "words"),
    [
        ({"method": "norms"}, "do not add up to those for the heads together"),
        ({"method": "ff"}, "takes heads together"),
        ({"show": "rollout"}, "between tokens"),
        ({"heads_in": (99,)}, "heads_in=99 is not among the layers"),
        ({"heads_in": (0,), "layers": (1, 2)}, "heads_in=0 is not among the layers that are drawn, 1…1"),
    ],
)
def test_what_cannot_be_mixed_is_refused_with_the_reason(traces, run, question, words):
    with pytest.raises(ArgumentError, match=words):
        GraphQuestion(run, **{"heads_in": (1,)} | question).answer(traces, unheard)


def test_the_recipe_says_the_layers():
    recipe = Recipe(text="a", heads_in=(23, 21, 23))
    assert to_query(recipe) == "?model=smollm2&text=a&heads_in=23,21,23"
    assert from_query(to_query(recipe)) == recipe
    assert GraphQuestion.of(recipe).heads_in == (21, 23)
    assert GraphQuestion.of(Recipe(text="a", level="head", heads_in=(3,))).heads_in == ()
    for bad in ("x", "-1", "1,,2", "9999999999"):
        with pytest.raises(ArgumentError, match="heads_in"):
            from_query(f"?text=a&heads_in={bad}")
    with pytest.raises(ArgumentError, match="heads_in"):
        Recipe(heads_in=[1])  # type: ignore[arg-type]


def test_a_session_keeps_the_layers(traces, run):
    recipe = Recipe(model=run.model, text=run.text, heads_in=(1,))
    question = GraphQuestion.of(recipe)
    answers = {one: one.answer(traces, unheard) for one in (run, question)}
    session = read_session(write_session(recipe, answers))
    assert session.recipe == recipe
    assert named(session.answers[question].graph, "share") == named(answers[question].graph, "share")


@pytest.mark.real_model
def test_drawing_says_which_layers_are_opened_and_why_some_methods_cannot():
    page = Page(FakeService())
    status, answer = page.draw(f"?text={EXAMPLE}&heads_in=23")
    assert status == 200
    assert "heads of L23 one by one" in json.dumps(answer["response"]["caption"])
    assert any(key.startswith("head.23.") for key in answer["response"]["picture"]["data"]["keys"])
    _, refused = page.draw(f"?text={EXAMPLE}&heads_in=23&method=norms")
    assert "do not add up" in notice_of(refused)


@pytest.fixture(scope="module")
def tab() -> Iterator[Opened]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright, served(FakeService()) as address:
        browser = launch(playwright)
        opened = Opened(browser, address, (1280, 800), "light")
        yield opened
        opened.context.close()
        browser.close()
    assert opened.requests == []
    assert opened.messages == []


@pytest.mark.browser
@pytest.mark.real_model
def test_layers_are_opened_by_name_and_by_a_click_on_their_label(tab):
    tab.drawn()
    box = tab.page.get_by_label("heads in layers")
    box.fill("L21, 23-24")
    tab.redrawn(lambda: box.press("Enter"))
    assert tab.search() == f"?model=smollm2&text={EXAMPLE}&heads_in=21,23,24"
    layers = (
        "[...new Set(app.meta.keys.filter((key) => key.startsWith('head.')).map((key) => key.split('.')[1]))].sort()"
    )
    # No head of layer 24 reaches the threshold, which stays as it is.
    assert tab.evaluate(layers) == ["21", "23"]
    tab.redrawn(lambda: tab.page.locator("#stage .axis > span", has_text="L24").click())
    assert tab.search() == f"?model=smollm2&text={EXAMPLE}&heads_in=21,23"
    assert box.input_value() == "21, 23"
    tab.redrawn(tab.page.go_back)
    assert tab.search() == f"?model=smollm2&text={EXAMPLE}&heads_in=21,23,24"
    assert tab.evaluate(layers) == ["21", "23"]
