"""Some layers as their heads, the others with heads together: the same numbers, and the same sums."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
from flowgraph_webapp.panels import graphs
from flowgraph_webapp.panels.mixed import ADDITIVE, mixed_graph
from flowgraph_webapp.recipe import Recipe, from_query, to_query
from flowgraph_webapp.server.compute import COMPUTE
from flowgraph_webapp.server.questions import GraphQuestion, RunQuestion, graph_question
from flowgraph_webapp.server.traces import Traces
from flowgraph_webapp.session import read_session, write_session

import flowgraph as fg
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


def weights_of(traces, run, method) -> fg.EdgeWeights:
    return traces.weights(run, method, unheard)


def named(graph: fg.FlowGraph, number: str) -> dict:
    values = getattr(graph, number)
    return {
        (graph.nodes[graph.source[e]], graph.nodes[graph.target[e]], int(graph.kind[e])): float(values[e])
        for e in range(len(graph))
    }


def carried(graph: fg.FlowGraph, layer: int, values: np.ndarray) -> Counter:
    """What attention of a layer carries from each token into each state, heads taken together."""
    found: Counter = Counter()
    for e in np.flatnonzero(graph.layer == layer):
        if graph.edge_dict(int(e))["kind"] == "attention":
            found[int(graph.key_pos[e]), int(graph.query_pos[e])] += float(values[e])
    return found


@pytest.mark.parametrize("method", ADDITIVE)
def test_all_layers_opened_are_the_graph_of_heads_and_none_that_of_tokens(traces, run, method):
    weights = weights_of(traces, run, method)
    every = tuple(range(*weights.info.layers))
    for layers, level in ((every, "head"), ((), "token")):
        mixed = mixed_graph(weights, layers, max_edges=10**6)
        expected = fg.build_graph(weights, level=level, readings=False)
        for number in ("weight", "share"):
            assert named(mixed, number) == pytest.approx(named(expected, number), abs=1e-12)


@pytest.mark.parametrize("method", ["attention", "proximity"])
def test_heads_carry_what_the_layer_carried_together(traces, run, method):
    weights = weights_of(traces, run, method)
    together = fg.build_graph(weights, readings=False)
    opened = mixed_graph(weights, (1,), max_edges=10**6)
    for layer in range(*weights.info.layers):
        before = carried(together, layer, fg.connected_flow(together))
        assert sum(before.values()) > 0.001
        after = carried(opened, layer, fg.connected_flow(opened))
        assert dict(after) == pytest.approx(dict(before), abs=1e-7)


@pytest.mark.parametrize("method", ["attention", "proximity"])
def test_shares_of_heads_into_a_state_sum_to_that_of_the_edges_they_stand_for(traces, run, method):
    weights = weights_of(traces, run, method)
    together, opened = fg.build_graph(weights, readings=False), mixed_graph(weights, (1,), max_edges=10**6)
    sums = []
    for graph, kind in ((together, "attention"), (opened, "head")):
        found: Counter = Counter()
        for e in np.flatnonzero(graph.layer == 1):
            if graph.edge_dict(int(e))["kind"] == kind:
                found[graph.nodes[graph.target[e]]] += abs(float(graph.share[e]))
        sums.append(dict(found))
    assert sums[1] == pytest.approx(sums[0], abs=1e-7)


def test_logits_of_heads_sum_to_those_of_the_edges_they_stand_for(traces, run):
    weights = weights_of(traces, run, "logits")
    opened = mixed_graph(weights, (1,), max_edges=10**6)
    heads = sum(float(opened.weight[e]) for e in range(len(opened)) if opened.edge_dict(e)["kind"] == "head")
    assert heads == pytest.approx(float(weights.attention_summed[1].sum()), abs=1e-9)


def test_an_opened_layer_in_a_window_joins_the_layer_below(traces, run):
    weights = weights_of(traces, run, "proximity").window(1, 2)
    graph = mixed_graph(weights, (1,), max_edges=10**6)
    states = {node for node in graph.nodes if node.kind == "resid_pre"}
    assert {node.layer for node in states} == {1}
    assert named(graph, "share") == pytest.approx(named(fg.build_graph(weights, level="head", readings=False), "share"))


def test_routes_of_opened_layers_hang_together(traces, run):
    answer = COMPUTE[GraphQuestion](traces, GraphQuestion(run, threshold=0.02, heads_in=(1,)), unheard)
    assert (np.abs(answer.graph.share) >= 0.02).all()
    assert (fg.connected_flow(answer.graph) > 0).all()
    assert {node.layer for node in answer.graph.nodes if node.kind == "head"} == {1}
    assert "heads of L1 one by one" in answer.note
    assert answer.graph.info.filters["heads_in"] == "1"


def test_opening_a_layer_keeps_the_threshold_of_the_others(traces, run, monkeypatch):
    monkeypatch.setattr(graphs, "MOST_ROUTES", 40)  # so that the least threshold does not do
    notes = [COMPUTE[GraphQuestion](traces, GraphQuestion(run, heads_in=layers), unheard).note for layers in ((), (1,))]
    closed, opened = (re.search(r"share ≥ (\S+?)(,|;|$)", note)[1] for note in notes)
    assert closed == opened != ".01"


@pytest.mark.parametrize(
    ("question", "words"),
    [
        ({"method": "norms"}, "lengths of what the heads bring do not add up"),
        ({"method": "ff"}, "takes heads together"),
        ({"show": "rollout"}, "between tokens"),
        ({"heads_in": (99,)}, "heads_in=99 is not among the layers"),
        ({"heads_in": (0,), "layers": (1, 2)}, "heads_in=0 is not among the layers that are drawn, 1…1"),
    ],
)
def test_what_cannot_be_mixed_is_refused_with_the_reason(traces, run, question, words):
    with pytest.raises(ArgumentError, match=words):
        COMPUTE[GraphQuestion](traces, GraphQuestion(run, **{"heads_in": (1,)} | question), unheard)


def test_the_recipe_says_the_layers():
    recipe = Recipe(text="a", heads_in=(23, 21, 23))
    assert to_query(recipe) == "?text=a&heads_in=23,21,23"
    assert from_query(to_query(recipe)) == recipe
    assert graph_question(recipe).heads_in == (21, 23)
    assert graph_question(Recipe(text="a", level="head", heads_in=(3,))).heads_in == ()
    for bad in ("x", "-1", "1,,2", "9999999999"):
        with pytest.raises(ArgumentError, match="heads_in"):
            from_query(f"?text=a&heads_in={bad}")
    with pytest.raises(ArgumentError, match="heads_in"):
        Recipe(heads_in=[1])  # type: ignore[arg-type]


def test_a_session_keeps_the_layers(traces, run):
    recipe = Recipe(model=run.model, text=run.text, heads_in=(1,))
    question = graph_question(recipe)
    answers = {one: COMPUTE[type(one)](traces, one, unheard) for one in (run, question)}
    session = read_session(write_session(recipe, answers))
    assert session.recipe == recipe
    assert named(session.answers[question].graph, "share") == named(answers[question].graph, "share")


@pytest.mark.real_model
def test_drawing_says_which_layers_are_opened_and_why_some_methods_cannot():
    page = Page(FakeService())
    status, answer = page.draw(f"?text={EXAMPLE}&heads_in=23")
    assert status == 200
    assert "heads of L23 one by one" in json.dumps(answer["response"]["caption"])
    assert any(key.startswith("head.23.") for key in answer["response"]["meta"]["data"]["keys"])
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
    assert tab.search() == f"?text={EXAMPLE}&heads_in=21,23,24"
    layers = (
        "[...new Set(app.meta.keys.filter((key) => key.startsWith('head.')).map((key) => key.split('.')[1]))].sort()"
    )
    # No head of layer 24 reaches the threshold, which stays as it is.
    assert tab.evaluate(layers) == ["21", "23"]
    tab.redrawn(lambda: tab.page.locator("#stage .axis > span", has_text="L24").click())
    assert tab.search() == f"?text={EXAMPLE}&heads_in=21,23"
    assert box.input_value() == "21, 23"
    tab.redrawn(tab.page.go_back)
    assert tab.search() == f"?text={EXAMPLE}&heads_in=21,23,24"
    assert tab.evaluate(layers) == ["21", "23"]
