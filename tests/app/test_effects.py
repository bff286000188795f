"""Tests by intervention in the app: the run once more without what is selected, beside the baseline."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from flowgraph_webapp.panels.effects import AblateQuestion, Ablation, FaithfulQuestion, effect, offer
from flowgraph_webapp.panels.flow import GraphQuestion
from flowgraph_webapp.recipe import Recipe
from flowgraph_webapp.server.run import RunQuestion
from flowgraph_webapp.server.traces import Traces
from flowgraph_webapp.session import read_session, write_session

import flowgraph as fg
from flowgraph.errors import ArgumentError
from flowgraph.render import shown_graph
from tests.app.conftest import TEXT
from tests.app.fake_service import EXAMPLE, FakeService
from tests.app.tabs import QUERY, Opened, served
from tests.app.test_app import Page
from tests.browser import launch

HEAD = fg.Node("head", 1, 0, 8)


def unheard(_stage, _part=None):
    pass


@pytest.fixture(scope="module")
def traces(folder) -> Traces:
    return Traces([folder], 2**30, 512)


@pytest.fixture(scope="module")
def run(folder) -> RunQuestion:
    return RunQuestion(folder, TEXT)


def ask(traces, question):
    return question.answer(traces, unheard)


@pytest.mark.parametrize("foil", [None, 9])
def test_the_baseline_is_the_run_itself(traces, folder, foil):
    run = RunQuestion(folder, TEXT, target=5, foil=foil)
    answer = ask(traces, AblateQuestion(run, HEAD))
    logits = traces.trace(run, unheard).logits.double()
    against = logits.mean() if foil is None else logits[foil]
    assert answer.before == pytest.approx(float(logits[5] - against), abs=1e-5)
    assert (answer.foil_token is None) == (foil is None)


@pytest.mark.parametrize("node", [HEAD, fg.Node("mlp", 0, position=2), fg.Node("resid_mid", 0, position=1)])
def test_a_node_is_taken_out(traces, run, node):
    trace = traces.trace(run, unheard)
    answer = ask(traces, AblateQuestion(run, node))
    expected = fg.ablate(trace.model, trace, node)
    assert (answer.before, answer.after) == (expected.mean_before, expected.mean_after)
    assert answer.after != answer.before
    assert answer.what == str(node)


def test_all_sources_of_a_head_together_are_the_head(traces, run):
    """A head without any of its keys writes nothing."""
    trace = traces.trace(run, unheard)
    entries = [fg.PatternEdit(1, 0, 8, key) for key in range(9)]
    together = fg.ablate(trace.model, trace, entries).mean_after
    assert together == pytest.approx(ask(traces, AblateQuestion(run, HEAD)).after, abs=1e-5)
    one = ask(traces, AblateQuestion(run, HEAD, 2))
    assert one.after == fg.ablate(trace.model, trace, entries[2]).mean_after
    assert one.what == "what L1H0@8 reads at 2"


def test_a_graph_of_everything_loses_nothing_and_a_part_of_it_something(traces, run):
    whole = ask(traces, FaithfulQuestion(run, method="norms", show="all", keep=1000))
    assert whole.after == pytest.approx(whole.before, abs=1e-4)
    part = FaithfulQuestion(run, threshold=0.1, keep=300)
    graph = ask(traces, GraphQuestion(run, threshold=0.1)).graph
    trace = traces.trace(run, unheard)
    expected = fg.ablate(trace.model, trace, shown_graph(graph, 300), outside=True)
    assert ask(traces, part).after == expected.mean_after
    assert "edges and the residual stream are left" in ask(traces, part).note


def test_opened_layers_are_tested_as_they_are_shown(traces, run):
    opened = ask(traces, FaithfulQuestion(run, show="all", keep=1000, heads_in=(0, 1)))
    heads = ask(traces, FaithfulQuestion(run, show="all", keep=1000, level="head"))
    together = ask(traces, FaithfulQuestion(run, show="all", keep=1000))
    assert opened.after == pytest.approx(heads.after, abs=1e-5)
    assert opened.after != pytest.approx(together.after, abs=1e-3)


@pytest.mark.parametrize(
    ("node", "source", "words"),
    [
        (fg.Node("logit", index=3), None, "cannot be taken out"),
        (fg.Node("head", 1, 0), None, "has no position"),
        (fg.Node("mlp", 1, position=2), 1, "reads no other token"),
    ],
)
def test_what_cannot_be_taken_out_is_refused(run, node, source, words):
    with pytest.raises(ArgumentError, match=words):
        AblateQuestion(run, node, source)


@pytest.mark.parametrize(
    ("question", "words"),
    [
        (lambda run: AblateQuestion(run, fg.Node("head", 99, 0, 3)), "layer=99 does not exist; this model has 2"),
        (lambda run: AblateQuestion(run, HEAD, 500), "source=500 is outside"),
        (lambda run: FaithfulQuestion(run, method="logits"), "edges from state to state"),
        (lambda run: FaithfulQuestion(run, show="rollout"), "edges from state to state"),
        (lambda run: FaithfulQuestion(run, start=fg.Node("resid_post", 1, position=2)), "go back to the logit"),
    ],
)
def test_what_cannot_be_tested_says_why(traces, run, question, words):
    with pytest.raises(ArgumentError, match=words):
        ask(traces, question(run))


def test_the_test_of_a_recipe_is_of_the_graph_as_the_slider_shows_it(run):
    recipe = Recipe(text="a", method="norms", threshold=0.2, keep=400)
    asked = FaithfulQuestion.of(recipe)
    assert (asked.method, asked.threshold, asked.keep) == ("norms", 0.2, 400)
    assert FaithfulQuestion.of(Recipe(text="a")) != FaithfulQuestion.of(recipe)


def test_a_session_keeps_what_was_tested(traces, run):
    questions = (run, AblateQuestion(run, HEAD, 2), FaithfulQuestion(run, keep=500))
    answers = {one: ask(traces, one) for one in questions}
    session = read_session(write_session(Recipe(model=run.model, text=run.text), answers))
    for question in questions[1:]:
        assert session.answers[question] == answers[question]


def test_the_effect_stands_beside_the_baseline_with_units():
    shown = str(effect(Ablation("L1H0@3", " <i>", None, "logits", 2.0, -0.5, ""), whole=False))
    assert "+2.00" in shown
    assert "−0.50" in shown
    assert "−2.50" in shown
    assert "baseline" not in shown
    whole = str(effect(Ablation("x", "a", "b", "logits", 2.0, -0.5, "3 edges"), whole=True))
    assert "−25.0 %" in whole
    assert "far from anything" in whole


@pytest.fixture(scope="module")
def page() -> Page:
    return Page(FakeService())


def run_test(page, what, search=f"?text={EXAMPLE}"):
    value = {"id": "e-1", "previous": None, "search": search, "what": what, "corrupted": []}
    status, answer = page.call("picture.test", "effect.children", value=value)
    assert status == 200
    return json.dumps(answer["response"], ensure_ascii=False)


@pytest.mark.real_model
def test_the_head_that_brings_japan_is_missed(page):
    said = run_test(page, "head.23.4.7.-")
    assert "Without L23H4@7" in said
    numbers = page.service.ask(AblateQuestion(RunQuestion("smollm2", EXAMPLE), fg.Node("head", 23, 4, 7)))
    assert numbers.after < numbers.before - 1
    assert f"{numbers.before:+.2f}" in said


@pytest.mark.real_model
@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("edge.999999", "is not an edge"),
        ("nonsense", "is not a kind of node"),
        ("logit.-.-.-.19081", "cannot be taken out"),
        ("head.99.0.7.-", "layer=99 does not exist"),
    ],
)
def test_what_cannot_be_tested_is_said_beside_the_details(page, what, words):
    assert words in run_test(page, what)


@pytest.mark.real_model
def test_only_what_can_be_tested_offers_a_test(page):
    run = page.service.ask(RunQuestion("smollm2", EXAMPLE))
    graph = page.service.ask(GraphQuestion(RunQuestion("smollm2", EXAMPLE))).graph
    kinds = [graph.edge_dict(e)["kind"] for e in range(len(graph))]
    assert len(offer("edge", None, (graph, kinds.index("attention")), run)) == 1
    assert offer("edge", None, (graph, kinds.index("residual")), run) == []
    assert offer("logit", fg.Node("logit", index=3), None, run) == []
    assert "Test this graph" in str(offer(None, None, None, run))


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


def _exported(tab) -> str:
    tab.page.locator("#export summary").click()
    with tab.page.expect_download() as waiting:
        tab.page.locator("[data-export='graph.json']").click()
    return Path(waiting.value.path()).read_text(encoding="utf-8")


@pytest.mark.browser
@pytest.mark.real_model
def test_a_test_appears_beside_the_details_and_goes_with_the_selection(tab):
    tab.drawn(f"{QUERY}&selected=head.23.4.7.-")
    effect = tab.page.locator("#effect")
    tab.page.get_by_role("button", name="Ablate").click()
    effect.locator(".effect-box").wait_for()
    assert "without it" in effect.inner_text()
    tab.evaluate("dash_clientside.set_props('picture', { selected: null })")
    tab.wait("!document.querySelector('.effect-box')")
    tab.page.get_by_role("button", name="Test this graph").click()
    effect.locator(".effect-box").wait_for()
    assert "random pictures" in effect.inner_text()
    # What is kept stands beside the slider while exactly this picture is shown, and goes with its files.
    tab.wait("document.querySelector('.kept-badge').textContent")
    kept = tab.text(".kept-badge")
    assert re.match(r"keeps \d+\s% of the answer against ‘\w+’.*; random pictures \d+\s%", kept)
    level = tab.page.locator("#keep").input_value()
    assert '"kept"' in _exported(tab)
    tab.keep(300)
    assert tab.text(".kept-badge") == ""
    assert '"kept"' not in _exported(tab)
    tab.keep(int(level))
    assert tab.text(".kept-badge") == kept
    # The prompts can be changed; one that is no counterpart is refused, and stays in its box.
    boxes = effect.locator("[data-counterfactual]")
    for n in range(boxes.count() - 1):
        boxes.nth(n).fill("")
    boxes.last.fill("The capital of Peru")
    effect.get_by_role("button", name="Test with these").click()
    tab.wait("document.querySelector('.effect-box').innerText.includes('has 4 tokens, and the prompt 8')")
    boxes.first.fill("The capital of Peru is the city of")
    effect.get_by_role("button", name="Test with these").click()
    tab.wait("document.querySelector('.kept-badge').textContent.includes('against ‘Peru’;')")
    effect.get_by_role("button", name="Set to zero instead").click()
    tab.wait("document.querySelector('.effect-box').innerText.includes('left of the baseline')")
    effect.get_by_role("button", name="Close").click()
    tab.wait("!document.querySelector('.effect-box')")
