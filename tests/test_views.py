"""The page as data: token text, caption, colours, places, elements, legend and the document itself."""

from __future__ import annotations

import base64
import hashlib
import html as markup
import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest

import flowgraph
from flowgraph.algorithms import connected_flow, keep_strongest
from flowgraph.charts.text import picture_label, printable, prompt_line, visible
from flowgraph.errors import ArgumentError
from flowgraph.render import caption, render_html
from flowgraph.render.page.document import embedded_json
from flowgraph.render.scene.elements import (
    LEVELS,
    MOST_EDGES,
    OPENING_EDGES,
    OPENING_MASS,
    drawing,
    elements,
    facts,
    rank_class,
)
from flowgraph.render.scene.layout import LAYOUT, Extent, Geometry, Place, extent, places
from flowgraph.render.scene.legend import legend_html, sections
from flowgraph.render.scene.style import (
    DARK,
    EFFECT_LABELS,
    LIGHT,
    RANK_LABELS,
    THEMES,
    css_variables,
    edge_stroke,
    effect_step,
    rank_decade,
    stylesheet,
)  # fmt: skip
from flowgraph.render.words.caption import percent
from flowgraph.values.node import NODE_KINDS, WITHOUT_LAYER, Node
from tests.graphs import graph_of
from tests.synthetic_graphs import (
    HOSTILE,
    JAPAN,
    empty_graph,
    head_graph,
    logits_graph,
    token_graph,
    with_structural,
)  # fmt: skip

EVERY_GRAPH = {
    "token": lambda: token_graph(layers=8),
    "attention": lambda: with_structural(token_graph(layers=6)),
    "heads": lambda: head_graph(layers=4, heads=4),
    "logits": lambda: logits_graph(layers=6),
    "logits of heads": lambda: logits_graph(layers=6, heads=4, level="head"),
    "parallel": lambda: token_graph(layers=5, parallel=True),
    "window": lambda: token_graph(layers=12, first=7),
    "no head": lambda: token_graph(layers=4, head=False),
    "one token": lambda: token_graph(("Hello",), layers=3),
    "sixty tokens": lambda: token_graph(tuple(f" word{i}" for i in range(60)), layers=4),
    "hostile": lambda: token_graph(HOSTILE, layers=3),
    "strongest": lambda: keep_strongest(token_graph(layers=10), max_edges=60),
    "no edges": lambda: empty_graph(),
    "nothing at all": lambda: empty_graph(with_nodes=False),
}


@pytest.fixture(params=EVERY_GRAPH, name="graph")
def _graph(request):
    return EVERY_GRAPH[request.param]()


# --- text ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("token", "expected"),
    [
        (" Tokyo", "␣Tokyo"),
        ("a b", "a b"),
        ("  x ", "␣␣x␣"),
        (" ", "␣"),
        ("   ", "␣␣␣"),
        ("", ""),
        ("\n\n", "⏎⏎"),
        ("\ta", "⇥a"),
        ("\u00a0", "⟨00A0⟩"),
        ("\u200b", "⟨200B⟩"),
        ("\x00", "⟨0000⟩"),
        ("\u202e", "⟨202E⟩"),
        ("\ud800", "⟨D800⟩"),
        ("\U000e0001", "⟨E0001⟩"),
        ("\u0301", "◌\u0301"),
        (" שלום", "\u200e␣\u2068שלום\u2069"),
        ("مرحبا ", "\u200e\u2068مرحبا\u2069␣"),
        ("</script>", "</script>"),
    ],
)
def test_visible_shows_every_character(token, expected):
    assert visible(token) == expected


@pytest.mark.parametrize("token", HOSTILE)
def test_visible_is_one_line_and_can_be_encoded(token):
    text = visible(token)
    assert text.splitlines() == [text]
    assert text.encode("utf-8")


def test_picture_labels_drop_the_space_before_a_word_but_never_become_empty():
    assert picture_label(" Tokyo") == "Tokyo"
    assert picture_label(" ") == "␣"
    assert picture_label("  ") == "␣␣"


def test_prompt_line_is_cut_with_an_ellipsis():
    assert prompt_line(("The", " capital", "\n", "of")) == "The capital⏎of"
    assert prompt_line(("abcdef",), 4) == "abc…"
    assert printable("a\tb") == "a⇥b"


# --- caption ------------------------------------------------------------------------------------------------------


def test_caption_is_one_line_and_says_what_is_hidden():
    whole = token_graph()
    kept = keep_strongest(whole, mass=0.8, max_edges=100)
    text = caption(kept)
    assert "\n" not in text
    for part in (
        "smollm2-135m",
        "“The capital of Japan is the city of”",
        "proximity (share)",
        "token level",
        "30 layers",
    ):
        assert part in text
    assert "␣Tokyo 0.85 at position 7" in text
    assert f"at most 100 edges · 100 of {len(whole):,} edges" in text
    assert f"{percent(kept.kept_mass)} of the mass" in text


def test_caption_of_a_window_and_of_edges_without_a_number():
    assert "layers 7–11 of 12" in caption(token_graph(layers=12, first=7))
    graph = with_structural(token_graph(layers=6))
    numbered = int((~graph.structural).sum())
    assert f"{numbered:,} of {graph.info.total_edges:,} edges" in caption(graph)
    assert f"and {len(graph) - numbered:,} without a number" in caption(graph)


@pytest.mark.parametrize(
    ("part", "text"),
    [(0.0, "0 %"), (1.0, "100 %"), (0.8, "80 %"), (0.8123, "81.2 %"), (0.9999, "99.9 %"), (1e-6, "< 0.1 %")],
)
def test_percent_never_rounds_to_all_or_nothing(part, text):
    assert percent(part) == text


# --- style --------------------------------------------------------------------------------------------------------


def _luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(a: str, b: str) -> float:
    high, low = sorted((_luminance(a), _luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", THEMES.values(), ids=THEMES)
def test_text_is_readable_in_every_theme(theme):
    for text in (theme.ink, theme.muted):
        for ground in (theme.background, theme.pane):
            assert _contrast(text, ground) >= 4.5
    for fill, text in zip(theme.effects, theme.effect_text, strict=True):
        assert _contrast(fill, text) >= 4.5, (fill, text)
    for mark in (theme.attention, theme.mlp, theme.residual, theme.ranks[0]):
        assert _contrast(mark, theme.background) >= 3


def test_rank_one_contrasts_most_in_both_themes():
    for theme in (LIGHT, DARK):
        contrasts = [_contrast(colour, theme.background) for colour in theme.ranks]
        assert contrasts == sorted(contrasts, reverse=True)


@pytest.mark.parametrize(
    ("rank", "label"),
    [(1, "1"), (2, "≤10"), (10, "≤10"), (11, "≤100"), (1000, "≤1k"), (1001, "≤10k"), (10**4, "≤10k"), (10**5, "more")],
)
def test_rank_decades(rank, label):
    assert RANK_LABELS[rank_decade(rank)] == label


@pytest.mark.parametrize(
    ("effect", "label"), [(-2.0, "< −1"), (-0.5, "−1…0"), (-0.1, "≈ 0"), (0.0, "≈ 0"), (0.5, "0…1"), (1.5, "> 1")]
)
def test_effect_steps(effect, label):
    assert EFFECT_LABELS[effect_step(effect)] == label


def test_strokes_grow_with_what_they_carry():
    assert edge_stroke("attention", 0.01) == (1.3, 0.39)
    for kind in ("attention", "residual", "mlp"):
        widths = [edge_stroke(kind, x) for x in (0.0, 0.01, 0.1, 0.5, 1.0)]
        assert widths == sorted(widths)
        assert all(0 < opacity <= 1 for _, opacity in widths)
    assert edge_stroke("attention", -0.3) == edge_stroke("attention", 0.3)


def test_stylesheets_use_only_colours_of_their_theme_and_states_come_last():
    for theme in (LIGHT, DARK):
        known = set(re.findall(r"#[0-9A-F]{6}", repr(theme)))
        sheet = stylesheet(theme)
        assert set(re.findall(r"#[0-9A-Fa-f]{6}", json.dumps(sheet))) <= known
        selectors = [rule["selector"] for rule in sheet]
        assert selectors.index(".off") > max(selectors.index(name) for name in ("edge", ".head", ".k0", ".lowers"))
        assert not any("'" in str(rule["style"].get("font-family", "")) for rule in sheet)


def test_css_variables_cover_both_themes():
    light, dark = css_variables().split(':root[data-theme="dark"]')
    assert "--ink: #1B2430" in light
    assert "--ink: #E6EAF0" in dark
    assert "--ranks-4" in light
    assert set(re.findall(r"--[\w-]+", dark)) <= set(re.findall(r"--[\w-]+", light))


# --- layout -------------------------------------------------------------------------------------------------------


def test_earlier_is_always_lower(graph):
    placed = drawing(graph).places
    drawn = drawing(graph).graph
    for source, target in zip(drawn.source, drawn.target, strict=True):
        assert placed[source].layer < placed[target].layer


def test_no_two_nodes_stand_on_each_other(graph):
    placed = drawing(graph).places
    assert len({(p.token, p.layer, p.slot) for p in placed}) == len(placed)


def test_heads_stand_beside_the_line_strongest_first():
    nodes = tuple(Node("head", layer=0, head=h, position=1) for h in range(3))
    graph = replace(empty_graph(with_nodes=False), nodes=nodes, readings=())
    assert [place.slot for place in places(graph, [0.1, 0.7, 0.2])] == [3, 1, 2]


def test_biases_have_their_own_column_right_of_the_target():
    drawn = drawing(logits_graph(layers=4))
    for node, place in zip(drawn.graph.nodes, drawn.places, strict=True):
        if node.kind.endswith("bias"):
            assert place.token == len(JAPAN) - 0.5
    assert extent(drawn.graph, drawn.places).tokens == len(JAPAN) + 0.5


def test_a_window_begins_at_the_bottom():
    drawn = drawing(token_graph(layers=12, first=7))
    assert min(place.layer for place in drawn.places) == 0
    assert extent(drawn.graph, drawn.places).layers == pytest.approx(5.6)


@pytest.mark.parametrize(("width", "last_columns"), [(1600.0 - 532, 18), (1280.0 - 488, 13)])
def test_tokens_are_columns_while_each_gets_52_px(width, last_columns):
    room = [Extent(tokens=float(n), layers=30.6, slots=1) for n in (last_columns, last_columns + 1)]
    assert [Geometry.fit(one, width, 800.0).orientation for one in room] == ["columns", "rows"]


@pytest.mark.parametrize("tokens", [1, 2, 8, 13, 18, 30, 60])
@pytest.mark.parametrize("layers", [1.6, 12.6, 30.6])
@pytest.mark.parametrize("size", [(1068.0, 834.0), (792.0, 684.0)])
def test_everything_is_on_the_stage_at_zoom_one(tokens, layers, size):
    room = Extent(tokens=float(tokens), layers=layers, slots=1)
    geometry = Geometry.fit(room, *size)
    margin = LAYOUT[geometry.orientation]["margin"]
    corners = [geometry.pixel(Place(t, y)) for t in (0.0, tokens - 1.0) for y in (0.0, layers)]
    for x, y in corners:
        assert margin["left"] - 1 <= x <= size[0] - 20
        assert y <= size[1] - margin["bottom"] + 6
    if tokens < 60:
        assert min(y for _, y in corners) >= 8


def test_a_very_long_prompt_keeps_the_target_in_view():
    geometry = Geometry.fit(Extent(tokens=400.0, layers=30.6, slots=1), 1068.0, 834.0)
    assert geometry.token_pitch == 12
    assert 700 < geometry.pixel(Place(399.0, 30.6))[1] < 834
    assert geometry.pixel(Place(0.0, 0.0))[1] < 0


def test_places_beside_a_line_do_not_reach_the_next_column():
    geometry = Geometry.fit(Extent(tokens=8.0, layers=30.6, slots=9), 1068.0, 834.0)
    aside = [geometry.pixel(Place(3.0, 1.0, slot, 9))[0] for slot in range(1, 10)]
    assert aside == sorted(aside, reverse=True)
    assert min(aside) > geometry.pixel(Place(2.0, 1.0))[0]
    assert geometry.pixel(Place(3.0, 1.0, 1, 9))[0] == pytest.approx(geometry.pixel(Place(3.0, 1.0))[0] - 13)


def test_a_stage_without_a_size_is_refused():
    with pytest.raises(ArgumentError, match=r"0\.0 × 10\.0 px"):
        Geometry.fit(Extent(1.0, 1.0, 1), 0.0, 10.0)


# --- elements -----------------------------------------------------------------------------------------------------


def test_every_selection_of_the_slider_is_connected_to_the_start(graph):
    drawn = drawing(graph)
    parts = elements(drawn)
    start = f"n{drawn.start}"
    leading = [e["data"] for e in parts["edges"] if e["data"]["c"] < LEVELS]
    for level in range(0, LEVELS, 25):
        shown = [edge for edge in leading if edge["c"] <= level]
        reached, grown = {start}, True
        while grown:
            found = {edge["source"] for edge in shown if edge["target"] in reached} | reached
            grown, reached = len(found) > len(reached), found
        assert {edge["source"] for edge in shown} <= reached


def test_even_equally_strong_edges_appear_nearest_to_the_start_first():
    graph = token_graph(("a",), layers=20, mlp=False)
    edges = elements(drawing(graph))["edges"]
    reached = {f"n{drawing(graph).start}"}
    for edge in edges:
        if "f" in edge["data"] and edge["data"]["f"] > 0:
            assert edge["data"]["target"] in reached
            reached.add(edge["data"]["source"])


def test_edges_come_in_the_order_of_their_level_and_nodes_with_their_first_edge(graph):
    parts = elements(drawing(graph))
    levels = [edge["data"]["c"] for edge in parts["edges"]]
    assert levels == sorted(levels)
    assert all(isinstance(level, int) and 1 <= level <= LEVELS for level in levels)
    level_of = {node["data"]["id"]: node["data"]["c"] for node in parts["nodes"]}
    for edge in parts["edges"]:
        for end in ("source", "target"):
            assert level_of[edge["data"][end]] <= edge["data"]["c"]


def test_edges_without_a_way_to_the_start_wait_for_the_end_of_the_slider():
    graph = with_structural(token_graph(layers=6))
    drawn = drawing(graph)
    assert (drawn.level[drawn.flow == 0] == LEVELS).all()
    edges = elements(drawn)["edges"]
    structural = [edge for edge in edges if edge["classes"] == "structural"]
    assert len(structural) == int(graph.structural.sum())
    assert not any(key in edge["data"] for edge in structural for key in ("v", "s", "f"))


def test_numbers_on_edges_are_those_of_the_graph():
    graph = token_graph(layers=6)
    drawn = drawing(graph)
    for edge, e in zip(elements(drawn)["edges"], drawn.order, strict=True):
        data = edge["data"]
        assert (data["source"], data["target"]) == (f"n{graph.source[e]}", f"n{graph.target[e]}")
        assert data["s"] == pytest.approx(graph.share[e], rel=1e-3)
        assert data["v"] == pytest.approx(graph.weight[e], rel=1e-3)
        assert data["f"] == pytest.approx(drawn.flow[e], rel=1e-3, abs=1e-12)


def test_mass_of_the_counter_ends_where_the_caption_does():
    whole = token_graph(layers=10)
    for graph in (whole, keep_strongest(whole, max_edges=80), whole.keep(whole.share > 0.05, threshold=0.05)):
        mass = drawing(graph).mass
        assert (np.diff(mass) >= -1e-12).all()
        assert mass[-1] == pytest.approx(graph.kept_mass)
        assert drawing(graph).is_flow_mass


def test_the_mass_along_the_slider_is_that_of_the_edges_it_has_kept():
    graph = token_graph(layers=4)
    drawn = drawing(graph)
    for count in (1, 5, 20, len(graph) // 2, len(graph)):
        assert drawn.mass[count - 1] == pytest.approx(flowgraph.mass(graph, drawn.order[:count])), count


def test_a_large_graph_is_cut_to_its_strongest_edges_and_says_so():
    graph = token_graph(tuple(f" w{i}" for i in range(40)), layers=12, threshold=0.0005)
    assert len(graph) > MOST_EDGES
    drawn = drawing(graph)
    assert len(drawn.graph) == len(elements(drawn)["edges"]) == MOST_EDGES
    ends = list(zip(graph.source, graph.target, graph.kind, strict=True))
    whole = {(graph.nodes[s], graph.nodes[t], k): f for (s, t, k), f in zip(ends, connected_flow(graph), strict=True)}
    for e in range(0, MOST_EDGES, 50):
        ends_of_e = drawn.graph.nodes[drawn.graph.source[e]], drawn.graph.nodes[drawn.graph.target[e]]
        assert drawn.flow[e] == whole[(*ends_of_e, drawn.graph.kind[e])]
    document = render_html(graph)
    assert f"drawn: the strongest 3,000 of {len(graph):,} edges" in document


def build_few():
    """A graph that somebody has already cut to what they want to see."""
    return keep_strongest(token_graph(layers=4), mass=0.99, max_edges=None)


def test_the_opening_shows_what_can_be_read_at_a_glance():
    drawn = drawing(token_graph())
    assert len(drawn.graph) > 300
    assert 0 < int((drawn.level <= drawn.opening_level).sum()) <= 300
    assert float(drawn.mass[int((drawn.level <= drawn.opening_level).sum()) - 1]) <= 0.82
    few = drawing(build_few())
    assert few.opening_level == LEVELS


def test_positions_do_not_depend_on_what_is_filtered():
    graph = token_graph(layers=8)
    kept = keep_strongest(graph, max_edges=40)
    whole = dict(zip(graph.nodes, drawing(graph).places, strict=True))
    assert all(whole[node] == place for node, place in zip(kept.nodes, drawing(kept).places, strict=True))


def test_signed_graphs_are_drawn_by_sign():
    drawn = drawing(logits_graph())
    assert drawn.is_signed
    for edge in elements(drawn)["edges"]:
        assert ("lowers" in edge["classes"]) == (edge["data"]["s"] < 0)
    squares = [node["classes"] for node in elements(drawn)["nodes"] if "square" in node["classes"]]
    assert squares
    assert all("effect" in classes for classes in squares)


def test_states_are_filled_by_rank_and_neutral_without_one():
    graph = token_graph(layers=6)
    for node, item, reading in zip(graph.nodes, elements(drawing(graph))["nodes"], graph.readings, strict=True):
        if node.kind in ("embed", "resid_post"):
            assert f"k{rank_decade(reading.target_rank)}" in item["classes"].split()
    assert rank_class(None) == "plain"
    headless = elements(drawing(token_graph(layers=3, head=False)))["nodes"]
    assert not any(re.search(r"\bk\d", node["classes"]) for node in headless)


def test_labels_stand_where_a_reading_changes():
    graph = token_graph(layers=12)
    items = dict(zip(graph.nodes, elements(drawing(graph))["nodes"], strict=True))
    reading_of = dict(zip(graph.nodes, graph.readings, strict=True))
    for layer in range(1, 12):
        for position in range(len(JAPAN)):
            here, below = (Node("resid_post", layer=n, position=position) for n in (layer, layer - 1))
            is_same = reading_of[here].top[0][0] == reading_of[below].top[0][0]
            if is_same and reading_of[here].target_rank != 1:
                assert "lb" not in items[here]["data"]
    logit = next(item for node, item in items.items() if node.kind == "logit")
    assert logit["data"]["lb"] == "Tokyo .85"
    assert "p3" in logit["classes"]


def test_undefined_targets_are_marked():
    graph = token_graph(layers=3)
    node = Node("resid_mid", layer=1, position=2)
    marked = replace(graph, undefined=(node,))
    item = elements(drawing(marked))["nodes"][graph.nodes.index(node)]
    assert "undefined" in item["classes"].split()


def test_facts_refer_to_a_vocabulary_of_visible_tokens():
    graph = token_graph(HOSTILE, layers=2)
    data = facts(drawing(graph))
    for row, reading in zip(data["readings"], graph.readings, strict=True):
        if reading is None:
            assert row is None
            continue
        assert [data["vocabulary"][token] for token, _, _ in row[5]] == [visible(token) for token, _, _ in reading.top]
        assert row[2] == reading.target_rank
    assert "logit[␣Tokyo]" in data["labels"]
    assert len(data["mass"]) == len(data["edge_kinds"]) == len(data["edge_places"]) == len(graph)


# --- legend -------------------------------------------------------------------------------------------------------


def _legend(graph) -> str:
    drawn = drawing(graph)
    parts = elements(drawn)
    names = [sorted({c for item in parts[which] for c in item["classes"].split()}) for which in ("edges", "nodes")]
    return legend_html(sections(drawn, *names))


def test_the_legend_names_only_what_is_there():
    token, heads, signed = (
        _legend(token_graph(layers=4)),
        _legend(head_graph(layers=3)),
        _legend(logits_graph(layers=3)),
    )
    assert "residual stream" in token
    assert "attention head" not in token
    assert "attention head" in heads
    assert "raises the logit" in signed
    assert "residual stream" not in signed
    assert "≤10k" in token
    assert all(f">{step}<" in token.replace("</i>", ">") for step in (".3", ".1", ".03", ".01"))
    assert "without a number" in _legend(with_structural(token_graph(layers=3)))


def test_the_legend_says_why_nodes_are_neutral():
    assert "norm only" in _legend(token_graph(layers=2, head=False))
    assert "not read" in _legend(replace(token_graph(layers=2), readings=()))


# --- the document -------------------------------------------------------------------------------------------------


def _embedded(document: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', document, re.DOTALL)[1])


def test_every_graph_makes_a_page_whose_data_can_be_read_back(graph):
    document = render_html(graph)
    data = _embedded(document)
    assert len(data["nodes"]) == len(graph.nodes)
    assert len(data["edges"]["classes"]) == len(graph)
    assert data["tokens"] == [visible(token) for token in graph.info.tokens]
    assert "$" not in document.split("<script>")[0]
    assert document.encode("utf-8")


def test_tokens_cannot_break_out_of_the_data():
    text = embedded_json({"a": "</script><!--&\u2028\u2029"})
    assert not set("<>&\u2028\u2029") & set(text)
    assert json.loads(text) == {"a": "</script><!--&\u2028\u2029"}
    document = render_html(token_graph(HOSTILE, layers=3))
    assert document.count("</script>") == 3
    assert "<img" not in document
    assert "<!--" not in re.sub(r"<script>.*?</script>", "", document, flags=re.DOTALL)


def test_numbers_that_are_not_finite_are_refused_in_json():
    with pytest.raises(ValueError, match="JSON"):
        embedded_json({"a": float("nan")})


def test_the_policy_names_the_hash_of_every_script():
    document = render_html(token_graph(layers=2))
    policy = markup.unescape(re.search(r'Content-Security-Policy" content="([^"]*)"', document)[1])
    scripts = re.findall(r"<script>(.*?)</script>", document, re.DOTALL)
    assert len(scripts) == 2
    for script in scripts:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert "unsafe-eval" not in policy


def test_the_page_asks_for_nothing_and_moves_nothing():
    document = render_html(token_graph(layers=2))
    ours = re.sub(r"<script>.*?</script>", "", document, count=1, flags=re.DOTALL)
    assert not re.search(r"""(src|href)=["'](?!data:)""", ours)
    assert "http" not in re.sub(r"http-equiv", "", ours)
    assert not re.search(r"\b(animation|transition)\s*:", ours)
    assert 'lang="en"' in document


def test_the_page_stays_small():
    rng = np.random.default_rng(0)
    graph = token_graph(tuple(f" w{i}" for i in range(9)), layers=16, threshold=0.0)
    used = np.flatnonzero(rng.random(len(graph)) < 2)[:2000]
    small = graph.keep(used)
    assert len(small) >= 1000
    per_edge = (len(render_html(small).encode()) - len(render_html(small.keep(used[:500])).encode())) / (
        len(small) - 500
    )
    assert per_edge < 330
    assert len(render_html(_three_hundred_nodes()).encode()) <= 1_000_000


def _three_hundred_nodes():
    """About 300 nodes and 2,000 edges."""
    graph = token_graph(tuple(f" w{i}" for i in range(24)), layers=4, threshold=0.0)
    assert len(graph.nodes) >= 300
    assert len(graph) >= 1500
    return graph


def test_headers_say_what_is_shown():
    document = render_html(token_graph(layers=6))
    text = re.sub(r"<[^>]+>", " ", document.split("<script")[0])
    for part in (
        "smollm2-135m",
        "proximity",
        "in share",
        "8 tokens, 6 layers",
        "␣Tokyo",
        ".85",
        "The capital of Japan",
    ):
        assert part in text
    assert markup.escape(caption(token_graph(layers=6))) in document


def test_pages_without_a_head_or_without_edges_say_so():
    assert "the graph names no target" in render_html(token_graph(layers=2, head=False))
    document = render_html(empty_graph())
    assert "No edges to draw: 0 of 273 edges, 0 % of the mass. Filters: threshold 0.99." in document


def test_the_same_graph_makes_the_same_page():
    assert render_html(token_graph(layers=5)) == render_html(token_graph(layers=5))


def test_the_opening_is_what_the_command_line_keeps():
    graph = token_graph()
    drawn, kept = drawing(graph), keep_strongest(graph, mass=OPENING_MASS, max_edges=OPENING_EDGES)
    shown = int((drawn.level <= drawn.opening_level).sum())
    assert abs(shown - len(kept)) <= 0.1 * len(kept)
    concentrated = keep_strongest(graph, mass=0.3, max_edges=None)
    assert drawing(concentrated).opening_level == LEVELS


def test_the_target_is_not_called_a_prediction():
    """It may be another token than the model's best, or stand at a mask."""
    document = render_html(token_graph(layers=2))
    assert '<span class="note">target</span>' in document
    assert "next token" not in document


def test_every_kind_of_node_has_a_place():
    """Files of other programs may hold any of them in any graph."""
    nodes = [Node(kind, layer=None if kind in WITHOUT_LAYER else 1, head=2, position=0, index=4) for kind in NODE_KINDS]
    graph = graph_of([], nodes=nodes)
    found = places(graph, [0.0] * len(nodes))
    assert len(found) == len(NODE_KINDS)
    assert all(math.isfinite(place.layer) for place in found)
