"""The semantic graph as a page and as a Sankey figure: places, pens, words, and what a person sees in a real browser."""

from __future__ import annotations

import base64
import hashlib
import html as markup
import json
import re
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

import flowgraph
from flowgraph import Node, semantic_graph
from flowgraph.charts.text import visible
from flowgraph.errors import ArgumentError
from flowgraph.render import render_html
from flowgraph.render.page.semantic_page import statements
from flowgraph.render.plots.sankey import THIN as THIN_LINK
from flowgraph.render.plots.sankey import sankey
from flowgraph.render.scene.semantic_elements import THIN, carried, pill_text, semantic_elements, semantic_facts, stroke
from flowgraph.render.scene.semantic_layout import GRID, Grid
from flowgraph.render.scene.semantic_legend import semantic_legend
from flowgraph.render.scene.semantic_plan import plan_of, strengths
from flowgraph.render.scene.semantic_style import pill_fills, semantic_stylesheet
from flowgraph.render.scene.style import THEMES, edge_stroke, rank_decade
from flowgraph.render.words.caption import percent
from flowgraph.values.flow_graph import EDGE_KINDS
from tests.browser import boxes
from tests.conftest import IDS, JAPAN
from tests.paper import printed, whole_on_paper
from tests.synthetic_graphs import HOSTILE, token_graph
from tests.test_html_browser import _CY, SIZES, browser, opened  # noqa: F401
from tests.test_views import _contrast

STAGES = ((1072.0, 684.0), (1068.0, 834.0), (700.0, 500.0))
COLUMNS = (
    {"embed", "position_embed"}, {"resid_pre"}, {"attn_norm"}, {"query"}, {"key"}, {"value", "head_rest"}, {"head"},
    {"row"}, {"attn", "resid_mid"}, {"mlp_norm"}, {"gate"}, {"neuron_in"}, {"neuron", "mlp_rest", "mlp_bias"}, {"mlp"},
    {"resid_post"}, {"final_norm"}, {"logit"},
)  # fmt: skip
KINDS_OF_GRAPH = {
    "llama": ("llama", {}),
    "a layer": ("llama", {"layers": 1}),
    "positions": ("llama", {"positions": [1, 3, 6], "foil": 9}),
    "rows": ("gemma2", {"rows_per_block": 6, "heads": 2}),
    "some heads": ("qwen3", {"heads": [1, 3], "sources_per_head": 7}),
    "everything": ("gpt2", {"sources_per_head": 7, "rows_per_block": 12, "neurons_per_block": 40}),
    "parallel": ("gpt_neox", {"positions": [0, 6]}),
    "post-norm": ("bert", {"positions": [2, 5]}),
    "post-norm decoder": ("opt_post_norm", {}),
    "no head": ("bert_headless", {}),
    "no neurons": ("llama", {"neurons_per_block": 0}),
}


@pytest.fixture(scope="module")
def graphs(tiny):
    made = {}

    def graph(name):
        if name not in made:
            family, options = KINDS_OF_GRAPH[name]
            made[name] = semantic_graph(flowgraph.trace(tiny(family), IDS, position=-1), **options)
        return made[name]

    return graph


@pytest.fixture(params=KINDS_OF_GRAPH, name="graph")
def _graph(request, graphs):
    return graphs(request.param)


def hostile(graph):
    """The graph of a prompt, and with readings, of which every token is an attack on whatever shows it."""
    words = [HOSTILE[n % len(HOSTILE)] for n in range(len(graph.nodes))]
    readings = [
        None if reading is None else replace(
            reading,
            top=tuple((words[(n + i) % len(words)], p, logit) for i, (_, p, logit) in enumerate(reading.top)),
            bottom=tuple((words[(n - i) % len(words)], p, logit) for i, (_, p, logit) in enumerate(reading.bottom)),
        )
        for n, reading in enumerate(graph.readings)
    ]  # fmt: skip
    info = replace(graph.info, tokens=HOSTILE[: len(graph.info.tokens)], target_token="<img src=x onerror=alert(1)>")
    return replace(graph, info=info, readings=tuple(readings))


# --- places -------------------------------------------------------------------------------------------------------


def overlaps(graph, stage) -> list[tuple[str, str]]:
    plan = plan_of(graph)
    grid = Grid.fit(plan, *stage)
    boxes = sorted((grid.box(spot), str(node)) for spot, node in zip(plan.spots, graph.nodes, strict=True))
    found = []
    for i, (a, name) in enumerate(boxes):
        for b, other in boxes[i + 1 :]:
            if b[0] >= a[2] - 1e-6:
                break
            if min(a[3], b[3]) - max(a[1], b[1]) > 1e-6:
                found.append((name, other))
    return found


@pytest.mark.parametrize("stage", STAGES, ids=str)
def test_pills_never_overlap(graph, stage):
    assert overlaps(graph, stage) == []


def test_pills_of_some_of_the_edges_do_not_overlap_either(graph):
    rng = np.random.default_rng(0)
    for part in (0.02, 0.3, 0.7):
        kept = graph.keep(rng.random(len(graph)) < part)
        assert overlaps(kept, STAGES[0]) == []


def test_no_edge_runs_backwards(graph):
    spots = plan_of(graph).spots
    for s, t in zip(graph.source, graph.target, strict=True):
        ahead = spots[t].x - spots[s].x
        is_down = (graph.nodes[s].kind, graph.nodes[t].kind) == ("attn", "resid_mid")
        assert ahead == pytest.approx(0) if is_down else ahead > 0.3, (graph.nodes[s], graph.nodes[t])


def test_columns_stand_in_the_order_of_the_computation(graph):
    plan = plan_of(graph)
    first = graph.info.layers[0]
    x = {}
    for node, spot in zip(graph.nodes, plan.spots, strict=True):
        if node.layer in (None, first) and not (
            node.layer is None and len({n.layer for n in graph.nodes}) > 2 and node.kind in ("final_norm", "logit")
        ):
            x.setdefault(node.kind, spot.x)
    present = [[x[kind] for kind in kinds if kind in x] for kinds in COLUMNS]
    for column in present:
        assert max(column, default=0) == pytest.approx(min(column, default=0))
    for left, right in pairwise(column[0] for column in present if column):
        assert left < right


def test_layers_follow_each_other_along_one_straight_line(graph):
    plan = plan_of(graph)
    place = dict(zip(graph.nodes, plan.spots, strict=True))
    rows = sorted({panel.position for panel in plan.panels})
    lines = []
    for row in rows:
        states = [
            spot
            for node, spot in place.items()
            if node.kind in ("resid_pre", "resid_mid", "resid_post") and node.position == row
        ]
        assert len({spot.y for spot in states}) == 1
        assert states[0].y == {panel.line for panel in plan.panels if panel.position == row}.pop()
        lines.append(states[0].y)
        inside = [
            spot.y for node, spot in place.items() if node.kind in ("head", "neuron", "key") and node.position == row
        ]
        assert max(inside, default=0) < states[0].y
    assert lines == sorted(lines)
    for panel, following in pairwise(panel for panel in plan.panels if panel.position == rows[-1]):
        assert following.layer == panel.layer + 1
        # The state that one layer ends in is the one that the next begins with.
        assert following.left == pytest.approx(panel.right - 0.86)


def test_what_belongs_together_stands_on_one_line_the_strongest_first(graphs):
    graph = graphs("llama")
    place = dict(zip(graph.nodes, plan_of(graph).spots, strict=True))
    part = dict(zip(graph.nodes, strengths(graph), strict=True))
    for node, spot in place.items():
        if node.kind == "value":
            assert place[replace(node, kind="key")].y == spot.y
        if node.kind == "neuron":
            assert place[replace(node, kind="gate")].y == place[replace(node, kind="neuron_in")].y == spot.y
        if node.kind == "head":
            assert place[replace(node, kind="query")].y == spot.y
    for kind in ("head", "neuron"):
        for layer in (0, 1):
            column = [node for node in graph.nodes if (node.kind, node.layer) == (kind, layer)]
            assert len(column) > 3
            column.sort(key=lambda node: place[node].y)
            shares = [part[node] for node in column]
            assert shares == sorted(shares, reverse=True)
    rest = next(node for node in graph.nodes if node.kind == "mlp_rest" and node.layer == 0)
    assert place[rest].y > max(spot.y for node, spot in place.items() if node.kind == "neuron" and node.layer == 0)


def test_sources_stand_in_the_order_of_the_prompt(graphs):
    graph = graphs("positions")
    place = dict(zip(graph.nodes, plan_of(graph).spots, strict=True))
    sources = [node for node in graph.nodes if node.kind == "resid_pre" and node.position in (0, 2, 4, 5)]
    assert len(sources) >= 3
    ordered = sorted(sources, key=lambda node: place[node].y)
    assert [node.position for node in ordered] == sorted(node.position for node in sources)
    assert len({place[node].x for node in sources}) == 1


def test_places_depend_on_the_graph_alone(graph):
    assert plan_of(graph) == plan_of(graph)
    order = np.random.default_rng(1).permutation(len(graph))
    again = graph.keep(order)
    assert again.nodes == graph.nodes
    assert plan_of(again) == plan_of(graph)


@pytest.mark.parametrize("stage", STAGES, ids=str)
def test_a_panel_fills_the_stage_as_far_as_text_stays_readable(graph, stage):
    plan = plan_of(graph)
    grid = Grid.fit(plan, *stage)
    for name, pitch, extent, room in (
        ("column", grid.column, plan.width, stage[0]),
        ("row", grid.row, plan.height, stage[1]),
    ):
        low, high = GRID[name]
        assert low <= pitch <= high
        if pitch > low:
            assert extent * pitch <= room
    assert grid.pill <= grid.row - GRID["gap"]


# --- pens and words -----------------------------------------------------------------------------------------------


def test_widths_are_numbers_that_the_graph_has(graph):
    units = set()
    for e, item in enumerate(semantic_elements(graph, plan_of(graph))["edges"]):
        unit, data = graph.unit_of(e), item["data"]
        units.add(unit)
        number = {"contribution": abs(graph.share[e]), "logits": abs(graph.share[e]), "attention": graph.weight[e]}.get(
            unit
        )
        if number is None:
            assert carried(graph, e) is None
            assert data["w"] == THIN
        else:
            assert carried(graph, e) == pytest.approx(float(number))
            pen = "residual" if EDGE_KINDS[graph.kind[e]] in ("residual", "embed") else "self"
            assert (data["w"], data["o"]) == edge_stroke(pen, float(number)) == stroke(graph, e)
        assert data["v"] == pytest.approx(graph.weight[e], rel=1e-3)
        assert data["s"] == pytest.approx(graph.share[e], rel=1e-3)
        assert ("negative" in item["classes"].split()) == (graph.weight[e] < 0)
        assert unit in item["classes"].split()
    assert {"contribution", "attention", "norm", "activation"} <= units | {"activation"}


def test_pills_are_filled_by_the_rank_of_the_target(graphs):
    graph = graphs("llama")
    for item, reading, node in zip(
        semantic_elements(graph, plan_of(graph))["nodes"], graph.readings, graph.nodes, strict=True
    ):
        if node.kind == "logit":
            assert "goal" in item["classes"]
        else:
            assert f"k{rank_decade(reading.target_rank)}" in item["classes"].split()
    headless = semantic_elements(graphs("no head"), plan_of(graphs("no head")))["nodes"]
    assert not any(re.search(r"\bk\d", item["classes"]) for item in headless)


def test_pills_say_what_they_are_and_read(graphs):
    graph = graphs("llama")
    text = {node: pill_text(graph, n, {6}) for n, node in enumerate(graph.nodes)}
    top = {
        node: visible(reading.top[0][0].removeprefix(" "))
        for node, reading in zip(graph.nodes, graph.readings, strict=True)
        if reading
    }
    tokens = graph.info.tokens
    for node, words in text.items():
        assert words
        assert words.splitlines() == [words]
        if node.kind == "head":
            assert words == f"H{node.head} {top[node]}"
        if node.kind == "neuron":
            assert words == f"{node.index} {top[node]}"
        if node.kind == "key":
            assert words == f"{visible(tokens[node.index].removeprefix(' '))}@{node.index}"
        if node.kind == "resid_post":
            assert words == (
                f"L{node.layer} out"
                if node.position == 6
                else f"{visible(tokens[node.position].removeprefix(' '))}@{node.position}"
            )
    several = [pill_text(graphs("positions"), n, {1, 3, 6}) for n, node in enumerate(graphs("positions").nodes)
               if node.kind == "resid_post" and node.position == 3]  # fmt: skip
    assert several == ["L0 out@3", "L1 out@3"]


@pytest.mark.parametrize("theme", THEMES.values(), ids=THEMES)
def test_text_on_every_pill_is_readable(theme):
    for fill, text in pill_fills(theme):
        assert _contrast(fill, text) >= 4.5, (fill, text)
    selectors = [rule["selector"] for rule in semantic_stylesheet(theme)]
    assert selectors.index(".dim") > max(selectors.index(name) for name in ("edge", ".k0", ".negative"))


def test_facts_are_those_of_the_graph(graph):
    data = semantic_facts(graph)
    assert data["edge_units"] == [graph.unit_of(e) for e in range(len(graph))]
    for row, reading in zip(data["readings"], graph.readings, strict=True):
        if reading is None:
            assert row is None
            continue
        assert row.get("rank") == reading.target_rank
        assert row.get("foil_rank") == reading.foil_rank
        assert row["norm"] == pytest.approx(reading.norm, rel=1e-3)
        for name in ("activation", "contribution", "coverage", "entropy"):
            value = getattr(reading, name)
            assert (name in row) == (value is not None)
            if value is not None:
                assert row[name] == pytest.approx(value, rel=1e-3)
        for name in ("top", "bottom"):
            assert [data["vocabulary"][token] for token, *_ in row[name]] == [
                visible(token) for token, *_ in getattr(reading, name)
            ]


def test_statements_say_how_much_is_shown(graphs):
    graph = graphs("llama")
    readings = dict(zip(graph.nodes, graph.readings, strict=True))
    text = " ".join(statements(graph, 1, 6))
    mlp = readings[Node("mlp", layer=1, position=6)]
    d_mlp = 20 + readings[Node("mlp_rest", layer=1, position=6)].left_out
    assert (
        f"20 of {d_mlp} neurons hold {percent(mlp.coverage)} of Σ |contribution| of the MLP; the others are one node, rest."
        in text
    )
    heads = [reading.coverage for node, reading in readings.items() if node.kind == "head" and node.layer == 1]
    assert (
        f"hold {percent(min(heads)).removesuffix(' %')}–{percent(max(heads))} of Σ |contribution| of the head" in text
    )
    assert f"All {len(heads)} heads." in text
    assert f"MLP {mlp.contribution:+.2f} logits".replace("-", "−") in text
    some = " ".join(statements(graphs("some heads"), 0, 6))
    assert "2 heads hold " in some
    assert "of attention; the others are one node, rest" in some
    assert "6 rows of W_O hold " in " ".join(statements(graphs("rows"), 0, 6))
    everything = " ".join(statements(graphs("everything"), 0, 6))
    assert "hold 100 % of Σ |contribution| of the head" in everything
    assert not any("neuron" in line for line in statements(graphs("no neurons"), 0, 6))


def test_the_legend_names_the_units_that_are_there(graphs):
    graph = graphs("llama")
    whole = semantic_legend(graph, ["contribution", "negative", "stream", "attention", "activation", "norm", "logits"])
    for words in (
        "width: |share|",
        "width: the probability",
        "dashed below 0",
        "points against its target",
        "residual stream",
        "rank of",
    ):
        assert words in whole
    part = semantic_legend(graph, ["norm"])
    assert "width: the probability" not in part
    assert "Width" not in part
    assert "no head to read with" in semantic_legend(graphs("no head"), ["norm"])


# --- the document -------------------------------------------------------------------------------------------------


def embedded(document: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', document, re.DOTALL)[1])


def test_every_graph_makes_a_page_that_holds_all_of_it(graph, tmp_path):
    document = graph.save(tmp_path / "graph.html").read_text(encoding="utf-8")
    assert document == render_html(graph)
    data = embedded(document)
    assert len(data["nodes"]) == len(graph.nodes)
    assert len(data["edges"]["classes"]) == len(data["edge_panels"]) == len(graph)
    assert len(data["blocks"]) == len(data["plan"]["panels"])
    assert "$" not in document.split("<script>")[0].split('id="data"')[0]
    assert markup.escape(graph.caption()) in document


def test_graphs_with_little_or_nothing_make_pages_too(graphs):
    graph = graphs("llama")
    assert "No nodes to draw" in render_html(graph.keep(np.zeros(len(graph), dtype=bool)))
    assert "No nodes to draw" not in render_html(graph.keep(np.arange(3)))


def test_tokens_cannot_break_out_of_the_page(graphs):
    document = render_html(hostile(graphs("llama")))
    assert document.count("</script>") == 3
    assert "<img" not in document
    assert "<!--" not in re.sub(r"<script>.*?</script>", "", document, flags=re.DOTALL)


def test_the_page_fetches_nothing_and_runs_what_it_names(graphs):
    document = render_html(graphs("llama"))
    policy = markup.unescape(re.search(r'Content-Security-Policy" content="([^"]*)"', document)[1])
    assert "default-src 'none'" in policy
    scripts = re.findall(r"<script>(.*?)</script>", document, re.DOTALL)
    assert len(scripts) == 2
    for script in scripts:
        assert f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" in policy
    ours = re.sub(r"<script>.*?</script>", "", document, count=1, flags=re.DOTALL)
    assert not re.search(r"""(src|href)=["'](?!data:)""", ours)


# --- the Sankey figure --------------------------------------------------------------------------------------------


def test_links_are_as_wide_as_their_part(graph):
    trace = sankey(graph).data[0]
    assert list(trace.link.source) == graph.source.tolist()
    assert list(trace.link.target) == graph.target.tolist()
    for e, value in enumerate(trace.link.value):
        unit = graph.unit_of(e)
        expected = {
            "contribution": abs(graph.share[e]),
            "logits": abs(graph.share[e]),
            "attention": graph.weight[e],
        }.get(unit, THIN_LINK)
        assert value == pytest.approx(max(float(expected), 1e-6))
        assert f"{graph.weight[e]:.4g} {unit}<br>" in trace.link.customdata[e]
    assert all(0 < place < 1 for place in (*trace.node.x, *trace.node.y))
    assert len(trace.node.label) == len(graph.nodes)


def test_the_figure_says_which_links_are_thin(graphs):
    layout = sankey(graphs("llama")).layout
    assert "activation and norm: one thin width" in layout.title.subtitle.text
    assert "attention: width = probability" in layout.title.subtitle.text
    assert "semantic, select=contribution" in layout.title.text.replace("<br>", " ")
    names = [trace.name for trace in sankey(graphs("llama")).data[1:]]
    assert "attention" in names
    assert any(name.startswith("rank of ") for name in names)


def test_figures_show_hostile_tokens_as_text(graphs):
    figure = sankey(hostile(graphs("llama")))
    texts = [
        *figure.data[0].node.label,
        *figure.data[0].node.customdata,
        *figure.data[0].link.customdata,
        figure.layout.title.text,
    ]
    for text in texts:
        assert not re.search(r"<(?!b>|/b>|br>)", text), text
    assert any("&lt;/script&gt;" in text for text in texts)
    page = figure.to_html(include_plotlyjs=False)
    assert "<img src=x" not in page


def test_other_graphs_have_no_sankey_figure():
    with pytest.raises(ArgumentError, match="'proximity', whose edges all carry one unit"):
        sankey(token_graph(layers=2))


# --- in the browser -----------------------------------------------------------------------------------------------


@pytest.mark.browser
@pytest.mark.parametrize("name", KINDS_OF_GRAPH)
def test_pages_open_quietly_with_pills_where_python_puts_them(opened, graphs, name):  # noqa: F811
    graph = graphs(name)
    page = opened(graph, SIZES[len(name) % 2], ("light", "dark")[len(name) % 2])
    width, height = page.evaluate("[cy.width(), cy.height()]")
    plan = plan_of(graph)
    grid = Grid.fit(plan, float(width), float(height))
    boxes = page.evaluate(
        "cy.nodes().map((node) => [node.position('x'), node.position('y'), node.data('pw'), node.data('ph')])"
    )
    for spot, (x, y, across, down) in zip(plan.spots, boxes, strict=True):
        left, top, right, bottom = grid.box(spot)
        assert (x, y) == pytest.approx(((left + right) / 2, (top + bottom) / 2), abs=0.51)
        assert across == pytest.approx(right - left, abs=0.51)
        assert down == pytest.approx(bottom - top)
    assert page.evaluate("cy.edges().length") == len(graph)
    assert page.evaluate("cy.zoom()") <= 1
    assert graph.info.method in page.text(".origin")


@pytest.mark.browser
def test_edges_leave_and_arrive_at_the_sides_of_pills(opened, graphs):  # noqa: F811
    page = opened(graphs("llama"))
    ends = page.evaluate(
        "cy.edges('.curve, .trunk').map((edge) => { const [start, end] = [edge.sourceEndpoint(), edge.targetEndpoint()];"
        " const [source, target] = [edge.source(), edge.target()];"
        " return [start.x - source.position('x') - source.outerWidth() / 2, end.x - target.position('x') + target.outerWidth() / 2,"
        " start.y - source.position('y'), end.y - target.position('y')]; })"
    )
    assert len(ends) > 50
    assert np.abs(ends).max() < 1
    # The branches of a norm rise upright.
    bends = page.evaluate("cy.edges('.trunk').map((edge) => edge.segmentPoints().map((point) => point.x))")
    assert all(first == pytest.approx(second, abs=0.2) for first, second in bends)


@pytest.mark.browser
def test_hovering_a_pill_says_its_numbers_and_lifts_its_way(opened, graphs):  # noqa: F811
    graph = graphs("llama")
    page = opened(graph)
    node = Node(
        "value",
        layer=0,
        head=1,
        position=6,
        index=next(n.index for n in graph.nodes if n.kind == "value" and (n.layer, n.head) == (0, 1)),
    )
    n = graph.nodes.index(node)
    reading = graph.readings[n]
    text = page.hover(f"n{n}")
    assert str(node) in text
    assert f"writes {visible(reading.top[0][0])}" in text
    assert f"least {visible(reading.bottom[0][0])}" in text
    assert f"rank of {visible(graph.info.target_token)} {reading.target_rank:,}" in text
    for words in (" nats", "norm ", "attention ", " logits"):
        assert words in text
    lifted = set(page.evaluate("cy.nodes('.lift').map((node) => node.id())"))
    names = {str(graph.nodes[int(name[1:])]) for name in lifted}
    assert {f"L0H1.key[{node.index}]@6", "L0H1.query@6", "L0H1@6", "L0.attn@6"} <= names
    assert page.evaluate("cy.elements('.dim').length") > 50
    page.page.mouse.move(5, 5)
    page.page.wait_for_selector("[data-part=tip]", state="hidden")
    assert page.evaluate("cy.elements('.dim, .lift').length") == 0


@pytest.mark.browser
def test_hovering_an_edge_says_weight_and_unit(opened, graphs):  # noqa: F811
    graph = graphs("a layer")
    page = opened(graph)
    seen = set()
    for e in range(len(graph)):
        unit, kind = graph.unit_of(e), EDGE_KINDS[graph.kind[e]]
        if unit in seen or kind in ("query", "mlp_in", "norm", "rest", "residual"):
            continue
        page.page.mouse.move(5, 5)
        page.page.wait_for_selector("[data-part=tip]", state="hidden")
        page.evaluate(
            "void cy.$id(argument).emit({ type: 'mouseover', renderedPosition: { x: 300, y: 300 } })", f"e{e}"
        )
        page.page.wait_for_selector("[data-part=tip]", state="visible")
        text = page.text("[data-part=tip]")
        assert f" {unit}: " in text
        assert str(graph.nodes[graph.source[e]]) in text
        assert "of what enters the target in this unit" in text
        page.evaluate("void cy.$id(argument).emit('mouseout')", f"e{e}")
        seen.add(unit)
    assert {"contribution", "attention", "activation", "norm"} <= seen


@pytest.mark.browser
def test_layers_and_positions_are_a_key_away(opened, graphs):  # noqa: F811
    graph = graphs("positions")
    page = opened(graph)
    press = page.page.keyboard.press
    assert page.text("[data-part=where]").startswith("layer 0, position 6")
    assert statements(graph, 0, 6)[0] in page.text("[data-part=coverage]")
    page.page.locator("[data-part=stage]").focus()
    press("PageDown")
    assert page.text("[data-part=where]").startswith("layer 1, position 6")
    assert page.page.locator("[data-part=later]").is_disabled()
    press("PageUp")
    page.page.locator("[data-part=position]").select_option("3")
    assert page.text("[data-part=where]").startswith("layer 0, position 3")
    rows = page.page.locator("[data-part=table] tbody tr")
    edges = [e for e in range(len(graph)) if graph.layer[e] == 0 and graph.query_pos[e] == 3]
    assert len(edges) <= rows.count() <= len(edges) + 20
    assert "position 3" in page.page.locator("[data-part=table] caption").text_content()
    page.page.locator("[data-part=stage]").focus()
    press("a")
    assert page.evaluate("cy.zoom()") < 0.8
    extent = page.evaluate("[cy.extent(), cy.elements().boundingBox()].map(({ x1, x2, y1, y2 }) => [x1, x2, y1, y2])")
    assert extent[0][0] <= extent[1][0]
    assert extent[1][1] <= extent[0][1]
    press("0")
    assert page.evaluate("cy.zoom()") > 0.79


@pytest.mark.browser
def test_the_keyboard_follows_edges_and_columns(opened, graphs):  # noqa: F811
    graph = graphs("llama")
    page = opened(graph)
    page.page.locator("[data-part=stage]").focus()
    press = page.page.keyboard.press

    def chosen() -> str:
        return page.text("[data-part=details] h3").split(" ")[0]

    press("ArrowRight")
    assert chosen() == "L0.attn@6"
    press("ArrowLeft")
    part = dict(zip(graph.nodes, strengths(graph), strict=True))
    best = max((node for node in graph.nodes if node.kind == "head" and node.layer == 0), key=lambda node: part[node])
    assert chosen() == str(best)
    press("ArrowDown")
    assert chosen().startswith("L0H")
    assert chosen() != str(best)
    press("ArrowUp")
    assert chosen() == str(best)
    assert "writes" in page.page.locator("[data-part=live]").text_content()
    press("Escape")
    assert page.evaluate("cy.elements('.chosen, .lift, .dim').length") == 0
    assert "Click a pill" in page.page.locator("[data-part=details]").text_content()


@pytest.mark.browser
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_details_do_not_cover_what_they_speak_of(opened, graphs, size):  # noqa: F811
    graph = graphs("a layer")
    page = opened(graph, size)
    for node in (Node("mlp", layer=1, position=6), Node("query", layer=1, head=2, position=6)):
        n = graph.nodes.index(node)
        page.page.mouse.click(*page.point(f"n{n}"))
        assert page.text("[data-part=details] h3").startswith(str(node))
        assert "norm" in page.text("[data-part=details] .facts")
        [panel] = boxes(page.page, "[data-part=details]")
        x, y = page.point(f"n{n}")
        assert not (panel["x"] <= x <= panel["x"] + panel["width"] and panel["y"] <= y <= panel["y"] + panel["height"])
        page.page.keyboard.press("Escape")


@pytest.mark.browser
def test_headings_do_not_overlap(opened, graphs):  # noqa: F811
    for size in SIZES:
        page = opened(graphs("llama"), size)
        boxes = page.page.locator("[data-part=heads] span").evaluate_all(
            "(found) => found.filter((one) => !one.hidden).map((one) => [one.getBoundingClientRect().left, one.getBoundingClientRect().right])"
        )
        assert len(boxes) > 8
        for (_, right), (left, _) in pairwise(sorted(boxes)):
            assert right <= left + 0.5


@pytest.mark.browser
def test_hostile_tokens_are_text_in_the_browser(opened, graphs):  # noqa: F811
    page = opened(hostile(graphs("positions")))
    assert page.page.locator("img").count() == 0
    page.page.locator("[data-part=search]").fill("l0h1@6")
    page.page.locator("[data-part=matches] button").first.click()
    assert page.text("[data-part=details] h3").startswith("L0H1@6")
    assert page.page.locator("[data-part=details] img, [data-part=tip] img").count() == 0


@pytest.mark.browser
def test_a_layer_is_printed_whole_and_the_screen_is_then_as_before(opened, graphs):  # noqa: F811
    page = opened(graphs("a layer"), SIZES[0], "dark")
    _, seen = printed(page.page, _CY, "[data-part=stage]")
    whole_on_paper(seen)


@pytest.mark.browser
def test_search_brings_a_pill_into_view(opened, graphs):  # noqa: F811
    page = opened(graphs("llama"), SIZES[0])
    page.page.locator("[data-part=search]").fill("L1.mlp@6")
    page.page.keyboard.press("Enter")
    assert page.text("[data-part=details] h3").startswith("L1.mlp@6")
    x, y = page.evaluate("((place) => [place.x, place.y])(cy.nodes('.chosen').renderedPosition())")
    width, height = page.evaluate("[cy.width(), cy.height()]")
    assert 0 <= x <= width
    assert 0 <= y <= height


@pytest.mark.browser
@pytest.mark.real_model
@pytest.mark.slow
def test_all_layers_of_the_real_model_open(opened, smollm2):  # noqa: F811
    graph = semantic_graph(flowgraph.trace(smollm2, JAPAN))
    assert len(graph.nodes) > 4_000
    assert overlaps(graph, STAGES[0]) == []
    page = opened(graph)
    assert page.evaluate("cy.nodes().length") == len(graph.nodes)
    page.page.locator("[data-part=layer]").select_option("23")
    n = graph.nodes.index(Node("head", layer=23, head=4, position=7))
    assert "writes ␣Japanese" in page.hover(f"n{n}")
    assert page.evaluate("cy.zoom()") > 0.9


@pytest.mark.parametrize("name", ["gpt2", "llama", "gpt_neox"])
def test_the_style_of_visit_is_drawn(traces, name):
    """It has kinds and a unit of its own; every node has a place and a name, and the legend says what edges mean."""
    graph = semantic_graph(traces(name), layers=(0, 2), style="visit")
    plan = plan_of(graph)
    boxes = {(spot.x, spot.y) for spot in plan.spots}
    assert len(boxes) == len(graph.nodes)
    texts = [pill_text(graph, n, [6]) for n in range(len(graph.nodes))]
    assert not any("None" in text for text in texts)
    page = render_html(graph)
    assert "VISIT&#x27;s own weight" in page or "VISIT's own weight" in page
    assert "the rules of VISIT" in page
