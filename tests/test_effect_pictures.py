"""Pages, prints and sentences of graphs whose parts were chosen for the answer: they speak of effects, and say what is kept."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

import flowgraph
from flowgraph import FlowGraph
from flowgraph.circuits.effect_graph import effect_graph
from flowgraph.interventions.parts import Part
from flowgraph.render import render_html
from flowgraph.render.page.html import page_data, page_of
from flowgraph.render.print.build import Look, picture
from flowgraph.render.print.shapes import Label
from flowgraph.render.scene.elements import LEVELS, drawing
from flowgraph.render.words.kept import badge, kept_of, kept_sentences
from flowgraph.values.effects import edge_strengths, is_part, shows_effects
from tests.conftest import IDS
from tests.graphs import token_graph

LAST = len(IDS) - 1
PARTS = {
    Part(0, 2): 2.0,
    Part(0, 2, head=1, source=2): 0.05,
    Part(1, 2): 0.4,
    Part(1, LAST, head=0, source=2): 3.0,
    Part(1, LAST, head=0, source=1): -3.5,
    Part(1, LAST, head=3, source=2): -0.25,
    Part(1, LAST): -1.5,
}
STATEMENT = {
    "text": "keeps 97 % of “ a<b>” and so on", "f": 0.97, "low": 0.951, "high": 1.0, "answer": " a<b>", "foils": [" c&d", " c&d"],
    "counterfactuals": [[" one", " two"], [" one", " three"]], "random": 0.001, "other_heads": -0.06, "unseen": True,
    "searched": {"f": 0.99},
}  # fmt: skip


class _Measured:
    def __init__(self, data: Mapping[str, Any]) -> None:
        self.data = data

    def statement(self) -> Mapping[str, Any]:
        return self.data


@pytest.fixture(scope="module")
def bare(tiny) -> FlowGraph:
    return effect_graph(flowgraph.trace(tiny("llama"), IDS), PARTS, 100, frozenset({2}))


@pytest.fixture(scope="module")
def graph(bare) -> FlowGraph:
    return bare.with_faithfulness(_Measured(STATEMENT))


def words_of(graph: FlowGraph) -> str:
    """The visible text of a page's markup."""
    return re.sub(r"<[^>]*>", " ", shown_markup(graph))


def shown_markup(graph: FlowGraph) -> str:
    """The markup without controls that are hidden."""
    return re.sub(r"<fieldset[^>]*\bhidden>.*?</fieldset>", "", page_of(graph).shell, flags=re.DOTALL)


def test_parts_appear_by_effect_and_bring_the_lines_that_they_stand_between(graph):
    drawn = drawing(graph)
    parts, size = is_part(graph), np.abs(graph.weight)
    assert int(parts.sum()) == len(PARTS)
    in_order = [e for e in drawn.order if parts[e]]
    assert [size[e] for e in in_order] == sorted((abs(weight) for weight in PARTS.values()), reverse=True)
    for e in in_order:
        # A part comes with the number of parts that are at least as strong.
        assert drawn.level[e] == np.ceil(LEVELS * (size[parts] >= size[e]).sum() / len(PARTS))
    strengths = edge_strengths(graph)
    by_ends = {
        (str(graph.nodes[s]), str(graph.nodes[t])): strengths[e]
        for e, (s, t) in enumerate(zip(graph.source, graph.target, strict=True))
    }
    for e in range(len(graph)):
        source, target = graph.nodes[graph.source[e]], graph.nodes[graph.target[e]]
        if target.kind == "mlp":
            assert strengths[e] == pytest.approx(abs(PARTS[Part(target.layer, target.position)]))
        if source.kind == "head":
            read = [
                abs(w)
                for part, w in PARTS.items()
                if (part.layer, part.position, part.head) == (source.layer, source.position, source.head)
            ]
            assert strengths[e] == pytest.approx(max(max(read), abs(graph.weight[e])))
    # Every part goes through the last line of the stream, and the strongest of them brings it.
    unembed = next(e for e in range(len(graph)) if graph.nodes[graph.target[e]].kind == "logit")
    assert strengths[unembed] == pytest.approx(3.5)
    assert len(by_ends) == len(graph)


def test_a_line_of_the_stream_comes_with_the_weakest_part_on_its_best_way(bare):
    # Between the MLP of layer 0 at position 2 and what is read there in layer 1: read by effects 3 and −0.25.
    strengths = edge_strengths(bare)
    stream = [e for e in range(len(bare)) if bare.structural[e] and bare.nodes[bare.target[e]].kind == "resid_post"]
    stream = [e for e in stream if bare.nodes[bare.target[e]].position == 2 and bare.nodes[bare.target[e]].layer == 0]
    assert [strengths[e] for e in stream] == [pytest.approx(3.0)]
    above = [
        e
        for e in range(len(bare))
        if bare.structural[e] and bare.nodes[bare.target[e]].position == 2 and bare.nodes[bare.target[e]].layer == 1
    ]
    assert all(strengths[e] <= 3.0 for e in above)


def test_no_text_of_a_picture_of_parts_speaks_of_flow_or_mass(graph):
    assert shows_effects(graph)
    assert not shows_effects(token_graph())
    said = [words_of(graph), graph.caption(), repr(graph), graph.chart().title, str(graph.explain())]
    said += [label.text for label in picture(graph, Look(caption=True)).shapes if isinstance(label, Label)]
    said += re.findall(r'title="([^"]*)"', shown_markup(graph))
    for text in said:
        assert not re.search(
            r"\bflow\b|\bmass\b|\bshare\b|direct effect", text.replace("flowgraph", ""), re.IGNORECASE
        ), text
    flow = words_of(token_graph())
    assert "strongest flow" in flow
    assert "mass" in render_html(token_graph())


def test_the_legend_says_which_colour_brings_the_answer_and_widths_in_logits(graph):
    text = words_of(graph)
    for said in ("brings the answer", "works against it", "stream between parts", "Width = |effect|, logits"):
        assert said in text
    printed = [label.text for label in picture(graph, Look()).shapes if isinstance(label, Label)]
    assert "Effect (logits)" in printed
    assert "Width = |effect| (logits)" in printed
    at = printed.index("Width = |effect| (logits)")
    # The largest effect is 3.5 logits.
    assert printed[at + 1 : at + 5] == ["3", "1", ".3", ".1"]


def test_colours_are_those_of_the_effects(graph):
    data = page_data(graph)
    classes = {graph.nodes[n]: node["classes"].split() for n, node in enumerate(data["nodes"])}
    effects = dict(zip(graph.nodes, data["node_effects"], strict=True))
    for node, names in classes.items():
        if node.kind == "mlp":
            expected = PARTS[Part(node.layer, node.position)]
            assert effects[node] == pytest.approx(expected, rel=1e-3)
            assert ("effect0" in names) == (expected < -1)
            assert ("effect4" in names) == (expected > 1)
        if node.kind == "head":
            total = sum(
                w for p, w in PARTS.items() if (p.layer, p.position, p.head) == (node.layer, node.position, node.head)
            )
            assert effects[node] == pytest.approx(total, rel=1e-3)
        if node.kind in ("embed", "resid_mid", "resid_post", "logit"):
            assert effects[node] is None
    assert data["parts"][-1] == len(PARTS)
    assert data["effects"][-1] == pytest.approx(sum(PARTS.values()), rel=1e-3)


def test_the_badge_says_what_is_kept_and_is_gone_where_it_is_not_known(graph, bare):
    shell = page_of(graph).shell
    assert (
        badge(kept_of(graph.info)) == "keeps 97 % of ‘a<b>’ rather than ‘c&d’ · 2 unseen prompts 95–100 % · random 0 %"
    )
    assert "keeps 97 % of ‘a&lt;b&gt;’ rather than ‘c&amp;d’" in shell
    assert 'title="keeps 97 % of “ a&lt;b&gt;” and so on"' in shell
    assert "a<b>" not in render_html(graph)
    for other in (bare, graph.keep(range(len(graph) - 1))):
        assert kept_of(other.info) is None
        assert "keeps" not in page_of(other).shell + str(other.explain())
    assert "97 % of ‘a&lt;b&gt;’" in page_of(graph.keep(range(len(graph)))).shell


@pytest.mark.parametrize(
    "broken",
    [
        {"f": float("nan")},
        {"f": 10**400},
        {"f": "1"},
        {"f": True},
        {"answer": 3},
        {"foils": []},
        {"foils": "ab"},
        {"text": None},
    ],
    ids=str,
)
def test_a_statement_in_another_form_is_no_badge(bare, broken):
    assert kept_of(bare.with_faithfulness(_Measured(STATEMENT | broken)).info) is None


def test_what_was_measured_is_said_for_what_it_is(bare):
    def kept(**changes: Any):
        data = {name: value for name, value in (STATEMENT | changes).items() if value is not None}
        return kept_of(bare.with_faithfulness(_Measured(data)).info)

    one = {"low": 0.97, "high": 0.97, "counterfactuals": [[" one", " two"]]}
    assert badge(kept(**one)).split(" · ")[1] == "one unseen prompt"
    assert badge(kept(**one, unseen=False)).split(" · ")[1] == "one prompt of the search"
    assert badge(kept(unseen=None, random=None)).split(" · ")[1:] == ["2 counterfactuals 95–100 %"]
    assert badge(kept(low=-0.2, foils=[" a", " b", " c", " d"])).endswith(
        "‘a’ or ‘b’ or 2 others · 2 unseen prompts −20 to 100 % · random 0 %"
    )
    said, chance = kept_sentences(kept())
    assert "2 prompts that the search did not see (“␣two” for “␣one” and “␣three” for “␣one”)" in said
    assert said.endswith("beside those of the search they keep 99 %.")
    assert "keep −6 %" in chance
    (alone,) = kept_sentences(kept(unseen=False, random=None, other_heads=None))
    assert "the prompts of the search" in alone
    assert "there was no other" in alone
    assert "did not see" not in alone


def test_sentences_name_the_strongest_terms_and_mlps(graph):
    found = graph.explain().sentences
    brings, against, *mlps = (sentence for sentence in found if sentence.edges)
    assert [float(graph.weight[e]) for e in brings.edges] == [3.0, 0.05]
    assert brings.text.split(": ")[1].startswith(f"L1H0 at position {LAST} (")
    assert "reads position 2 (" in brings.text
    assert "(+3.00 logits)" in brings.text
    assert [float(graph.weight[e]) for e in against.edges] == [-3.5, -0.25]
    assert "(−3.50 logits)" in against.text
    assert [sum(float(graph.weight[e]) for e in sentence.edges) for sentence in mlps] == pytest.approx([2.4, -1.5])
    assert "2 MLPs" in mlps[0].text
    assert "+2.40 logits together" in mlps[0].text
    assert "−1.50 logits" in mlps[1].text


def test_a_picture_of_many_parts_opens_whole(tiny):
    trace = flowgraph.trace(tiny("llama"), IDS)
    many = {
        Part(layer, q, head, s): 1.0 + layer + q + head + s
        for layer in range(2)
        for head in range(4)
        for q in range(len(IDS))
        for s in range(q + 1)
    }
    drawn = drawing(effect_graph(trace, many, 1000, frozenset({0})))
    assert drawn.page_level == LEVELS


@pytest.mark.browser
def test_the_page_counts_parts_and_lists_effects(graph, tmp_path):
    if os.environ.get("FLOWGRAPH_SKIP_BROWSER") == "1":
        pytest.skip("FLOWGRAPH_SKIP_BROWSER=1")
    from playwright.sync_api import sync_playwright

    from tests.browser import launch

    path = graph.save(tmp_path / "parts.html")
    with sync_playwright() as playwright:
        browser = launch(playwright)
        page = browser.new_page()
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(path.as_uri())
        text = lambda part: page.locator(f"[data-part={part}]").inner_text().replace("\n", " ")  # noqa: E731
        page.wait_for_function("document.querySelector('[data-part=counter]').innerText.includes('of')")
        assert text("counter").split() == ["7", "of", "100", "parts,", "+0.20", "logits", "together"]
        assert "attention terms, by |effect| in logits" in text("details").lower()
        assert "−3.50" in text("details")
        assert page.locator(".kept").inner_text().startswith("keeps 97 % of ‘a<b>’")
        assert not page.locator("fieldset", has_text="Edge width").is_visible()
        page.locator("[data-part=keep]").evaluate("box => { box.value = 300; box.dispatchEvent(new Event('input')); }")
        assert text("counter").split() == ["2", "of", "100", "parts,", "−0.50", "logits", "together"]
        page.locator("[data-part=details] button.link").first.click()
        assert "effect" in text("details")
        assert "share" not in text("details")
        assert errors == []
        browser.close()


@pytest.mark.parametrize("function", [flowgraph.keep_strongest, flowgraph.connected_flow, flowgraph.critical_levels])
def test_what_follows_flow_refuses_a_picture_of_parts(graph, function):
    with pytest.raises(flowgraph.ArgumentError, match="effects on the answer and no flow"):
        function(graph)
