"""Graphs of other programs in the app: what is clicked is answered from the file, and nothing is said that the file does not say."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace

import flowgraph_webapp.panels.details as details
import pytest
from flowgraph_webapp.node_key import parse_node_key
from flowgraph_webapp.page.wires.downloads import exported
from flowgraph_webapp.panels.bars import BarsQuestion
from flowgraph_webapp.panels.effects import FaithfulQuestion, offer_tests
from flowgraph_webapp.panels.flow import GraphQuestion
from flowgraph_webapp.panels.heads import HeadsQuestion
from flowgraph_webapp.panels.lens import LensQuestion
from flowgraph_webapp.panels.picture import about_picture, about_run, goes_on, offered
from flowgraph_webapp.panels.recorded_node import recorded_node
from flowgraph_webapp.panels.saved_graph import session_of_graph
from flowgraph_webapp.present.buttons import test_button as button_of
from flowgraph_webapp.recipe import to_query
from flowgraph_webapp.server.run import RunQuestion
from flowgraph_webapp.server.service import Service
from flowgraph_webapp.session import read_session

import flowgraph as fg
from flowgraph import node_key
from flowgraph.circuits.effect_graph import effect_graph
from flowgraph.errors import ModelNeededError
from flowgraph.interventions.parts import Part
from tests.app.conftest import saved
from tests.app.tabs import SIZES, Opened, served
from tests.attribution_graphs import attribution_graph
from tests.conftest import IDS
from tests.test_circuit_files import circuit

UNSAID = ("This needs the model", "no head over a vocabulary", "No edge of this graph leads from one token to another")


@pytest.fixture(scope="module")
def viewing():
    """A service that runs no model at all."""
    service = Service([], examples=False)
    yield service
    service.close()


@pytest.fixture(params=["features", "circuit", "unknown"])
def graph(request, tmp_path):
    """A graph out of a file: of features, a circuit, of nodes of no known kind."""
    unknown = {
        "nodes": [{"id": name} for name in "abcd"],
        "edges": [
            {"source": s, "target": t, "weight": w} for s, t, w in (("a", "b", 1), ("a", "c", -2), ("b", "d", 3))
        ],
    }
    data = {"features": attribution_graph(), "circuit": circuit(), "unknown": unknown}[request.param]
    (tmp_path / "g.json").write_text(json.dumps(data))
    return fg.import_graph(tmp_path / "g.json")


def text_of(component) -> str:
    return re.sub(
        r"<[^>]*>",
        " ",
        json.dumps(component.to_plotly_json(), default=lambda part: part.to_plotly_json(), ensure_ascii=False),
    )


def test_every_node_and_edge_answers_from_the_file(viewing, graph):
    session = viewing.add_session(session_of_graph(graph))
    shown = viewing.ask(GraphQuestion.of(session.recipe)).graph
    notes = shown.notes or (None,) * len(shown.nodes)
    for n, node in enumerate(shown.nodes):
        said = text_of(details.details_of(viewing, session.recipe, node_key(node), ()))
        assert not [words for words in UNSAID if words in said]
        note = notes[n]
        if note is not None and note.activation is not None:
            assert f"{note.activation:.4g}" in said
            assert f"{note.influence:.4g}" in said
        if note is not None and note.label and node.kind in ("feature", "attn_feature") and note.label.isalpha():
            assert note.label in said
    for edge in range(min(len(shown), 20)):
        assert "from" in text_of(details.details_of(viewing, session.recipe, f"edge.{edge}", ()))
    opening = text_of(details.details_of(viewing, session.recipe, None, ()))
    assert not [words for words in UNSAID if words in opening] or not _moves(shown)


def test_nothing_is_offered_that_can_only_be_refused(viewing, graph, tmp_path):
    """Also where the server has a model of the name in the file: it was not run on this, and would speak of something else."""
    name = saved(tmp_path / "model", "llama")
    having = Service([name], examples=False)
    named = replace(graph, info=replace(graph.info, model=name))
    for service, shown in ((viewing, graph), (having, named)):
        session = service.add_session(session_of_graph(shown))
        run = service.ask(RunQuestion.of(session.recipe))
        told = offered(service, session.recipe, run)
        assert told == {"asks": False, "panels": [], "file": True, "text": True}
        assert not goes_on(run)
        keys = [None, *(node_key(node) for node in shown.nodes), *(f"edge.{n}" for n in range(len(shown)))]
        for key in keys[:60]:
            said = json.dumps(text_of(details.details_of(service, session.recipe, key, ())))
            assert "data-test" not in said
            assert "Start here" not in said
        # Whatever is asked all the same says what to do, and starts no model.
        for ask in (LensQuestion.of, HeadsQuestion.of, BarsQuestion.of, FaithfulQuestion.of):
            with pytest.raises(ModelNeededError, match=r"A graph from a file .* run its prompt"):
                service.ask(ask(session.recipe))
        with pytest.raises(ModelNeededError, match=r"A graph from a file .* run its prompt"):
            exported(service, session.recipe, "lens.csv")
        assert exported(service, session.recipe, "graph.json")[0]
        assert service.worker_pid is None
    having.close()


def test_of_a_recording_what_it_holds_is_offered_without_its_model():
    without, having = Service([]), Service(["smollm2"])
    recipe = without.examples[0].recipe
    run = without.ask(RunQuestion.of(recipe))
    assert offered(without, recipe, run) == {
        "asks": False, "file": False, "panels": ["lens", "heads", "attention", "bars", "semantic"], "text": True,
    }  # fmt: skip
    assert offered(having, recipe, run)["asks"]
    [button] = offer_tests(having, recipe, run, "graph", [button_of("graph", "Test this graph", "")])
    assert "data-test" in text_of(button)
    [said] = offer_tests(without, recipe, run, "graph", [button_of("graph", "Test this graph", "")])
    assert "data-test" not in text_of(said)
    assert "this server does not run the model 'smollm2'" in text_of(said)
    without.close()
    having.close()


def test_a_recorded_lens_and_head_tell_what_they_hold_of_a_node_that_was_not_recorded():
    """Every cell of the panels answers without the model: a state as the lens has it, a head by its score and its attention."""
    service = Service([])
    recipe = service.examples[0].recipe
    run, graph = service.ask(RunQuestion.of(recipe)), service.ask(GraphQuestion.of(recipe)).graph
    scores, lens = service.known(HeadsQuestion.of(recipe)), service.known(LensQuestion.of(recipe))
    seen = 0
    for layer, head in ((0, 0), (12, 3), (23, 4), (29, 8)):
        node = fg.Node("head", layer=layer, head=head, position=run.position)
        if node in graph.nodes:
            continue
        seen += 1
        found = recorded_node(service, recipe, run, node)
        assert found.contribution == scores.scores["direct_logit"][layer, head]
        assert "without the model" in found.note
        assert "Not said" in text_of(details.details_of(service, recipe, node_key(node), ()))
    assert seen > 1
    for layer, position in ((0, 0), (17, 3), (29, 7)):
        found = recorded_node(service, recipe, run, fg.Node("resid_post", layer=layer, position=position))
        assert found.reading == lens[layer, position]
        assert found.note == ""
    # Of the last position alone a head adds to the logit; what it says elsewhere is not known.
    with pytest.raises(ModelNeededError, match="was not recorded"):
        details.details_of(service, recipe, node_key(fg.Node("mlp", layer=3, position=0)), ())
    attending = replace(recipe, layer=23)
    at = fg.Node("head", layer=23, head=4, position=5)
    assert recorded_node(service, attending, run, at).attention.sum() == pytest.approx(1, abs=1e-3)
    service.close()


def test_a_file_of_an_image_is_not_offered_to_be_traced_as_a_text(graph):
    info = replace(graph.info, tokens=graph.info.tokens or ("patch 0, 0",), provenance={"token_ids": []})
    assert graph.info.is_text
    assert not info.is_text
    assert not replace(graph.info, provenance={"token_ids": [3], "encoder_reads": "audio"}).is_text
    service = Service([], examples=False)
    session = service.add_session(session_of_graph(replace(graph, info=info)))
    run = service.ask(RunQuestion.of(session.recipe))
    assert offered(service, session.recipe, run) == {"asks": False, "panels": [], "file": True, "text": False}
    with pytest.raises(ModelNeededError, match=r"of an image or a sound.*inputs\(image=…\)") as refused:
        service.ask(HeadsQuestion.of(session.recipe))
    assert "Trace" not in str(refused.value)
    [said] = offer_tests(service, session.recipe, run, "graph", [button_of("graph", "Test this graph", "")])
    assert "flowgraph.inputs(audio=…)" in text_of(said)
    assert not read_session(service.session_file(session.recipe, session.annotations).data).is_text
    service.close()


def test_the_details_of_a_graph_file_say_why_nothing_is_tested(viewing, tmp_path):
    (tmp_path / "g.json").write_text(json.dumps(circuit()))
    graph = fg.import_graph(tmp_path / "g.json")
    session = viewing.add_session(
        session_of_graph(replace(graph, info=replace(graph.info, target=3, target_token=" x")))
    )
    said = text_of(details.details_of(viewing, session.recipe, None, ()))
    assert "Nothing can be tested here: a graph from a file is shown" in said
    assert "double click" not in said


def _moves(graph) -> bool:
    ends = [(graph.nodes[s].position, graph.nodes[t].position) for s, t in zip(graph.source, graph.target, strict=True)]
    return any(None not in pair and pair[0] != pair[1] for pair in ends)


def test_the_whole_page_of_a_foreign_graph_is_drawn(viewing, graph):
    session = viewing.add_session(session_of_graph(graph))
    run, answer = viewing.ask(RunQuestion.of(session.recipe)), viewing.ask(GraphQuestion.of(session.recipe))
    ticket = {"id": "t", "run": "r", "search": to_query(session.recipe)}
    said = text_of_all(about_picture(session.recipe, answer, ticket, run)) + text_of_all(about_run(session.recipe, run))
    assert "no head over a vocabulary" not in said


def text_of_all(parts) -> str:
    return json.dumps(parts, default=lambda part: part.to_plotly_json())


def test_a_session_of_a_foreign_graph_is_saved_and_opened(viewing, graph):
    session = viewing.add_session(session_of_graph(graph))
    again = read_session(viewing.session_file(session.recipe, session.annotations).data)
    found = next(
        answer.graph for question, answer in again.answers.items() if type(question).__name__ == "GraphQuestion"
    )
    assert (found.nodes, found.notes, found.info.outside) == (graph.nodes, graph.notes, graph.info.outside)
    assert again.annotations == session.annotations


def test_what_the_file_pins_is_pinned(viewing, tmp_path):
    (tmp_path / "g.json").write_text(json.dumps(attribution_graph()))
    graph = fg.import_graph(tmp_path / "g.json")
    pins = session_of_graph(graph).annotations.pins
    ids = {node_key(node): note.id for node, note in zip(graph.nodes, graph.notes, strict=True)}
    assert [ids[pin] for pin in pins] == attribution_graph()["qParams"]["pinnedIds"]


def test_keys_of_features_are_read():
    node = fg.Node("attn_feature", layer=3, position=2, index=2**53 - 1)
    assert parse_node_key(node_key(node)) == node


_SEEN = """app.meta.keys.find((key, n) => key.startsWith('feature.') && app.cy.$id(`n${n}`).visible() &&
  app.cy.$id(`n${n}`).connectedEdges().length > 2)"""


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_click_on_a_feature_answers_from_the_file(browser, scheme, tmp_path):
    (tmp_path / "g.json").write_text(json.dumps(attribution_graph(tokens=5, layers=3, features=12, links=50)))
    service = Service([], examples=False)
    session = service.add_session(session_of_graph(fg.import_graph(tmp_path / "g.json")))
    with served(service) as address:
        tab = Opened(browser, address, SIZES[0], scheme).drawn(to_query(session.recipe))
        key = tab.evaluate(_SEEN)
        tab.page.mouse.click(*tab.point(key))
        tab.wait("document.querySelector('#details').innerText.includes('influence, by the file')")
        said = tab.text("body")
        # Only what the file can answer is offered.
        assert (
            tab.evaluate(
                "[...document.querySelectorAll('[role=tab], .of-run, #finder, #continue, [data-test]')].filter((one) => one.checkVisibility()).length"
            )
            == 0
        )
        assert "press Trace" not in said
        assert "Trace runs its prompt in the model that is chosen above" in said
        tab.page.locator("#trace").click()
        tab.wait("document.getElementById('notice').textContent.includes('No model is chosen')")
        tab.page.locator("[data-dismiss=notice]").click()
        if folder := os.environ.get("FLOWGRAPH_PICTURES"):
            tab.page.screenshot(path=f"{folder}/foreign-{scheme}.png")
        tab.context.close()
    assert not [words for words in UNSAID if words in said]
    assert "activation" in said
    assert tab.requests == tab.messages == []


@pytest.mark.browser
def test_the_slider_of_a_picture_of_parts_keeps_effects(browser, tiny, tmp_path):
    parts = {Part(0, 2): 2.0, Part(1, len(IDS) - 1, head=0, source=2): -3.0}
    graph = effect_graph(fg.trace(tiny("llama"), IDS), parts, 100, frozenset({2}))
    service = Service([], examples=False)
    session = service.add_session(session_of_graph(fg.FlowGraph.load(graph.save(tmp_path / "g.json"))))
    with served(service) as address:
        tab = Opened(browser, address, SIZES[0], "light").drawn(to_query(session.recipe))
        assert tab.text("#keep-title") == "Keep the strongest effects"
        assert "2 of 100 parts" in tab.text("#counter")
        assert "largest effect downwards" in tab.page.locator("#counter").get_attribute("title")
        assert not tab.page.locator("#width").is_visible()
        tab.context.close()
    assert tab.requests == tab.messages == []
