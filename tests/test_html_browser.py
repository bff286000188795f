"""The page in a real browser, without any network: what a person sees, reads and does."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from flowgraph.algorithms import keep_strongest
from flowgraph.charts.text import visible
from flowgraph.render import render_html
from flowgraph.render.page.document import document
from flowgraph.render.page.html import page_of
from flowgraph.render.scene.elements import drawing
from flowgraph.render.scene.layout import Geometry, extent
from tests.browser import launch
from tests.paper import printed, whole_on_paper
from tests.synthetic_graphs import (
    HOSTILE,
    JAPAN,
    empty_graph,
    head_graph,
    logits_graph,
    token_graph,
    with_structural,
)  # fmt: skip

pytestmark = pytest.mark.browser

SIZES = ((1280, 800), (1600, 950))
_CY = "document.querySelector('[data-part=picture]')._cyreg.cy"
SIXTY = tuple(f" word{i}" if i % 3 else f" longer-word-{i}" for i in range(60))

GRAPHS = {
    "token": lambda: token_graph(layers=12),
    "strongest": lambda: keep_strongest(token_graph()),
    "structural": lambda: with_structural(token_graph(layers=6)),
    "heads": lambda: head_graph(layers=8),
    "logits": lambda: logits_graph(),
    "logits of heads": lambda: logits_graph(level="head"),
    "parallel": lambda: token_graph(layers=6, parallel=True),
    "window": lambda: token_graph(layers=12, first=7),
    "no head": lambda: token_graph(layers=6, head=False),
    "one token": lambda: token_graph(("Hello",), layers=6),
    "sixty tokens": lambda: token_graph(SIXTY, layers=6),
    "hostile": lambda: token_graph(HOSTILE, layers=4),
    "no edges": empty_graph,
    "nothing at all": lambda: empty_graph(with_nodes=False),
}


@pytest.fixture(scope="module")
def browser() -> Iterator:
    if os.environ.get("FLOWGRAPH_SKIP_BROWSER") == "1":
        pytest.skip("FLOWGRAPH_SKIP_BROWSER=1")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = launch(playwright)
        yield opened
        opened.close()


class Opened:
    """A page of a graph, with everything it asked for and complained about."""

    def __init__(self, browser, path: Path, size: tuple[int, int], scheme: str) -> None:
        self.requests: list[str] = []
        self.messages: list[str] = []
        self.context = browser.new_context(
            viewport={"width": size[0], "height": size[1]}, color_scheme=scheme, reduced_motion="reduce"
        )
        self.context.route("**/*", self._only_from_disk)
        self.page = self.context.new_page()
        self.page.on("console", lambda message: self.messages.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.messages.append(f"error: {error}"))
        self.page.on("dialog", lambda dialog: self.messages.append(f"dialog: {dialog.message}"))
        self.page.goto(path.as_uri())
        self.page.wait_for_function(f"() => {_CY} && {_CY}.zoom() > 0")

    def _only_from_disk(self, route) -> None:
        if route.request.url.startswith("file://"):
            route.continue_()
            return
        self.requests.append(route.request.url)
        route.abort()

    def evaluate(self, code: str, argument=None):
        return self.page.evaluate(f"(argument) => {{ const cy = {_CY}; return {code}; }}", argument)

    def shown(self, what: str = "edges") -> list[str]:
        return self.evaluate(f"cy.{what}().not('.off').map((item) => item.id())")

    def keep(self, level: int) -> None:
        self.page.locator("[data-part=keep]").evaluate(
            "(box, level) => { box.value = level; box.dispatchEvent(new Event('input')); }", level
        )

    def point(self, item: str) -> tuple[float, float]:
        """Where an element is in the window; of an edge, its middle."""
        x, y = self.evaluate(
            "((item) => { const ends = item.isEdge() ? [item.source(), item.target()] : [item];"
            " const points = ends.map((end) => end.renderedPosition());"
            " const box = document.querySelector('[data-part=picture]').getBoundingClientRect();"
            " const mean = (axis) => points.reduce((sum, point) => sum + point[axis], 0) / points.length;"
            " return [mean('x') + box.x, mean('y') + box.y]; })(cy.$id(argument))",
            item,
        )
        return x, y

    def hover(self, item: str) -> str:
        """The tip. A picture that is fitted again while the pointer rests shows none until the pointer moves on."""
        from playwright.sync_api import TimeoutError as Missed

        tip = self.page.locator("[data-part=tip]")
        for left in reversed(range(5)):
            self.page.mouse.move(1, 1)
            self.page.mouse.move(*self.point(item))
            try:
                tip.wait_for(state="visible", timeout=6_000)
                break
            except Missed:
                if not left:
                    raise
        return tip.inner_text()

    def id_of(self, label: str) -> str:
        return self.evaluate(
            "`n${JSON.parse(document.getElementById('data').textContent).labels.indexOf(argument)}`", label
        )

    def text(self, selector: str) -> str:
        return self.page.locator(selector).inner_text()


@pytest.fixture
def opened(browser, tmp_path):
    pages: list[Opened] = []

    def open_graph(graph, size=SIZES[1], scheme="light") -> Opened:
        path = tmp_path / f"flow-{len(pages)}.html"
        path.write_text(render_html(graph), encoding="utf-8")
        pages.append(Opened(browser, path, size, scheme))
        return pages[-1]

    yield open_graph
    for page in pages:
        page.context.close()
        assert page.requests == []
        assert page.messages == []


@pytest.mark.parametrize("name", GRAPHS)
def test_every_graph_opens_quietly_and_counts_its_edges(opened, name):
    graph = GRAPHS[name]()
    page = opened(graph, SIZES[len(name) % 2])
    data_edges = len(drawing(graph).graph)
    page.keep(1000)
    assert len(page.shown()) == data_edges
    numbered = int((~graph.structural).sum()) if len(graph) == data_edges else data_edges
    assert page.text("[data-part=counter]").startswith(f"{numbered:,} of {graph.info.total_edges:,} edge")
    assert page.text("footer p").startswith("smollm2-135m · ")


@pytest.fixture(params=[(8, 0), (14, 1), (24, 0), (60, 1), (200, 0)], ids=str)
def axis_page(request, opened):
    tokens, size = request.param
    words = (JAPAN + SIXTY + SIXTY + SIXTY + SIXTY)[:tokens]
    return opened(token_graph(words, layers=12, threshold=0.3), SIZES[size])


def _boxes(page: Opened, selector: str) -> list[dict]:
    return page.page.locator(selector).evaluate_all(
        "(found) => found.filter((one) => !one.hidden).map((one) => { const box = one.getBoundingClientRect();"
        " return { left: box.left, right: box.right, top: box.top, bottom: box.bottom, text: one.textContent }; })"
    )


def _overlap(a: dict, b: dict) -> bool:
    slack = 0.5
    across = min(a["right"], b["right"]) - max(a["left"], b["left"])
    down = min(a["bottom"], b["bottom"]) - max(a["top"], b["top"])
    return across > slack and down > slack


def test_axis_labels_never_overlap(axis_page):
    boxes = _boxes(axis_page, ".axis .tick")
    assert len(boxes) > 1
    layers = _boxes(axis_page, ".axis span:not(.tick)")
    for labels in (boxes, layers):
        for a, b in pairwise(labels):
            assert not _overlap(a, b), (a, b)


@pytest.mark.parametrize(
    ("name", "size"), [("token", 0), ("token", 1), ("strongest", 1), ("window", 0), ("sixty tokens", 0)]
)
def test_labels_in_the_picture_do_not_overlap_at_the_default_zoom(opened, name, size):
    page = opened(GRAPHS[name](), SIZES[size])
    boxes = page.evaluate(
        "cy.nodes('[lb]').not('.off').not('.head').filter((node) => node.style('label')).map((node) => {"
        " const box = node.boundingBox({ includeNodes: false, includeEdges: false, includeLabels: true });"
        " return { left: box.x1, right: box.x2, top: box.y1, bottom: box.y2, text: node.data('lb') }; })"
    )
    assert boxes
    for i, a in enumerate(boxes):
        for b in boxes[i + 1 :]:
            depth = min(a["bottom"], b["bottom"]) - max(a["top"], b["top"])
            across = min(a["right"], b["right"]) - max(a["left"], b["left"])
            # A label's box is taller than its letters by the padding of its plate.
            assert depth <= 5 or across <= 1, (a, b)


@pytest.mark.parametrize(("name", "size"), [("heads", 0), ("heads", 1), ("logits", 1), ("sixty tokens", 0)])
def test_nodes_stand_where_the_python_formula_puts_them(opened, name, size):
    graph = GRAPHS[name]()
    drawn = drawing(graph)
    page = opened(graph, SIZES[size])
    for orientation in ("columns", "rows", "columns"):
        page.page.locator(f"input[value={orientation}]").check(force=True)
        width, height = page.evaluate("[cy.width(), cy.height()]")
        geometry = Geometry.fit(extent(drawn.graph, drawn.places), float(width), float(height), orientation)
        found = page.evaluate("cy.nodes().map((node) => [node.position('x'), node.position('y')])")
        for place, (x, y) in zip(drawn.places, found, strict=True):
            assert (x, y) == pytest.approx(geometry.pixel(place), abs=0.3)
        assert page.evaluate("cy.zoom()") == 1


def test_tokens_are_columns_or_rows_by_room(opened):
    for words, size, expected in (
        (JAPAN, SIZES[0], "columns"),
        (SIXTY, SIZES[1], "rows"),
        (SIXTY[:18], SIZES[0], "rows"),
    ):
        page = opened(token_graph(words, layers=4), size)
        assert expected in page.page.locator("[data-part=stage]").get_attribute("class")


def test_the_slider_hides_edges_and_what_stays_is_connected(opened):
    graph = token_graph(layers=12)
    page = opened(graph)
    start = f"n{drawing(graph).start}"
    places = page.evaluate("cy.nodes().map((node) => [node.id(), node.position('x'), node.position('y')])")
    counts = []
    for level in (1000, 700, 400, 100, 5):
        page.keep(level)
        counts.append(len(page.shown()))
        assert page.text("[data-part=counter]").startswith(f"{counts[-1]:,} of {len(graph):,} edges,")
        edges = page.evaluate("cy.edges().not('.off').map((e) => [e.source().id(), e.target().id()])")
        reached, size = {start}, 0
        while size < len(reached):
            size = len(reached)
            reached |= {source for source, target in edges if target in reached}
        if level < 1000:
            assert {source for source, _ in edges} <= reached
            assert set(page.shown("nodes")) == reached
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] < counts[0]
    assert page.evaluate("cy.nodes().map((node) => [node.id(), node.position('x'), node.position('y')])") == places
    assert page.evaluate("cy.edges('.off').every((edge) => edge.style('visibility') === 'hidden')")
    page.keep(700)
    assert len(page.shown()) == counts[1]


def test_the_counter_explains_itself_and_is_announced(opened):
    page = opened(token_graph(layers=8))
    assert "|share| × the flow of its target" in page.page.locator("[data-part=counter]").get_attribute("title")
    page.keep(300)
    page.page.wait_for_function(
        "() => document.querySelector('[data-part=live]').textContent === document.querySelector('[data-part=keep]').ariaValueText"
    )
    said = page.page.locator("[data-part=live]").text_content()
    assert said.endswith(" of the mass")
    assert said.replace(" ", "") == page.text("[data-part=counter]").replace("\n", "").replace(" ", "")


def test_hovering_a_node_shows_its_reading_and_dims_the_rest(opened):
    graph = token_graph(layers=12)
    page = opened(graph)
    page.keep(1000)
    node = page.id_of("L5.resid_post@7")
    reading = graph.readings[int(node[1:])]
    text = page.hover(node)
    assert "L5.resid_post@7 ␣of" in text
    assert f"reads {visible(reading.top[0][0])}" in text
    assert f"rank of ␣Tokyo {reading.target_rank:,}" in text
    assert "nats · norm" in text
    assert "flow to the start" in text
    lifted = page.evaluate("cy.edges('.lift').map((edge) => edge.target().id())")
    assert f"n{drawing(graph).start}" in lifted
    assert page.evaluate("cy.elements('.dim').length") > 0
    page.page.mouse.move(5, 5)
    page.page.wait_for_selector("[data-part=tip]", state="hidden")
    assert page.evaluate("cy.elements('.dim, .lift').length") == 0


def test_hovering_an_edge_shows_weight_share_and_flow(opened):
    graph = logits_graph(layers=6)
    page = opened(graph)
    edge = page.evaluate(
        "cy.edges('.lowers').not('.trunk').not('.off').max((edge) => Math.abs(edge.data('v'))).ele.data()"
    )
    text = page.hover(edge["id"])
    assert "→ logit[␣Tokyo]" in text
    assert f"weight −{abs(edge['v']):.2f} logits" in text
    assert "share −" in text
    assert "flow to the start" in text


def test_a_click_fills_the_details_and_escape_empties_them(opened):
    graph = token_graph(layers=12)
    page = opened(graph)
    page.keep(1000)
    node = page.id_of("L8.resid_mid@7")
    reading = graph.readings[int(node[1:])]
    page.page.locator("[data-part=search]").fill("l8.resid_mid@7")
    page.page.locator("[data-part=matches] button").first.click()
    details = page.text("[data-part=details]")
    assert details.startswith("L8.resid_mid@7")
    for part in ("probability of ␣Tokyo", "entropy", "in, by share", "out, by flow", "lowest (logit)", "residual"):
        assert part in details
    assert f"{reading.target_rank:,}" in details
    rows = page.page.locator("[data-part=details] table").nth(2).locator("td.number").all_inner_texts()
    into = sorted((abs(float(s)) for s in graph.share[graph.target == int(node[1:])]), reverse=True)
    assert [row for row in rows if not row.startswith("<")] == [f"{s:.3f}" for s in into[: len(rows)] if s >= 0.0005]
    page.page.locator("[data-part=details] button.link").first.click()
    assert " edge\n" in page.text("[data-part=details]")
    page.page.keyboard.press("Escape")
    assert "Click a node or an edge" in page.text("[data-part=details]")
    assert page.evaluate("cy.elements('.chosen').length") == 0


@pytest.mark.parametrize("name", ["logits", "logits of heads"])
def test_lists_of_logits_are_sorted_by_size_and_show_their_signs(opened, name):
    page = opened(GRAPHS[name]())
    assert "strongest moves between tokens, by |logits|" in page.text("[data-part=details]")
    texts = page.page.locator("[data-part=details] td.number").all_inner_texts()
    values = [float(text.replace("−", "-")) for text in texts]
    assert [abs(value) for value in values] == sorted(map(abs, values), reverse=True)
    assert min(values) < 0 < max(values)
    assert {text[0] for text in texts} == {"+", "−"}
    page.evaluate("cy.nodes('.goal').emit('tap')")
    assert "in, by |share|" in page.text("[data-part=details]")
    rows = page.page.locator("[data-part=details] table").last.locator("td.number").all_inner_texts()
    assert {text[0] for text in rows} == {"+", "−"}


def test_roles_stand_in_the_tip_and_in_the_details_as_text(opened):
    graph = head_graph(layers=4)
    roles = [
        (("previous_token", 0.9731), ("<b>bold</b>", -3.25)) if node.kind == "head" else () for node in graph.nodes
    ]
    first = next(n for n, node in enumerate(graph.nodes) if node.kind == "head")
    line = "roles: previous token 0.973, <b>bold</b> −3.25"
    page = opened(replace(graph, roles=tuple(roles)))
    page.keep(1000)
    assert line in page.hover(f"n{first}")
    page.page.mouse.click(*page.point(f"n{first}"))
    assert line in page.text("[data-part=details]")
    state = page.id_of("L2.resid_post@7")
    page.page.mouse.click(*page.point(state))
    assert page.text("[data-part=details]").startswith("L2.resid_post@7")
    assert "roles" not in page.text("[data-part=details]")
    nothing = opened(replace(graph, roles=((),) * len(graph.nodes)))
    nothing.keep(1000)
    nothing.page.mouse.click(*nothing.point(f"n{first}"))
    assert "roles: none" in nothing.text("[data-part=details]")
    unasked = opened(graph)
    unasked.keep(1000)
    unasked.page.mouse.click(*unasked.point(f"n{first}"))
    assert "roles" not in unasked.text("[data-part=details]")


def test_clicks_on_the_canvas_select_and_control_click_pins(opened):
    page = opened(token_graph(layers=12))
    node = page.id_of("L10.resid_post@7")
    page.page.mouse.click(*page.point(node))
    assert page.text("[data-part=details]").startswith("L10.resid_post@7")
    page.page.keyboard.down("Control")
    page.page.mouse.click(*page.point(node))
    page.page.keyboard.up("Control")
    assert page.evaluate("cy.elements('.pin').map((item) => item.id())") == [node]
    page.page.keyboard.press("Escape")
    assert page.evaluate("cy.elements('.pin').length") == 1
    page.page.keyboard.press("Escape")
    assert page.evaluate("cy.elements('.pin').length") == 0


def test_edges_without_a_number_say_so(opened):
    page = opened(with_structural(token_graph(layers=6)))
    page.keep(1000)
    page.page.locator("[data-part=search]").fill("l3.mlp@7")
    page.page.locator("[data-part=matches] button").first.click()
    assert page.text("[data-part=details]").count("no number under this method") >= 2
    assert "without a number" in page.text("aside.left")


def test_the_keyboard_walks_pins_zooms_and_fits(opened):
    graph = token_graph(layers=12)
    page = opened(graph)
    page.page.locator("[data-part=stage]").focus()
    press = page.page.keyboard.press

    def chosen() -> str:
        return page.text("[data-part=details] h3").split(" ")[0]

    press("ArrowDown")
    assert chosen() == "logit[␣Tokyo]"
    press("ArrowDown")
    assert chosen() == "L11.resid_post@7"
    seen = {chosen()}
    for _ in range(200):
        press("ArrowDown")
        seen.add(chosen())
    column = {page.evaluate("cy.$id(argument).data('x')", item): item for item in page.shown("nodes")}
    in_column = page.evaluate("cy.nodes().not('.off').filter((node) => node.data('x') === 7).length")
    assert len(column) > 1
    assert len(seen) == in_column - 1
    press("ArrowLeft")
    assert not chosen().endswith("@7")
    press("p")
    assert page.evaluate("cy.nodes('.pin.chosen').length") == 1
    assert (
        "reads" in page.page.locator("[data-part=live]").text_content()
        or "writes" in page.page.locator("[data-part=live]").text_content()
    )
    press("+")
    press("+")
    assert page.evaluate("cy.zoom()") == pytest.approx(1.5625)
    assert page.evaluate("cy.nodes('.near').length") > 0
    press("-")
    press("0")
    assert page.evaluate("[cy.zoom(), cy.pan().x, cy.pan().y]") == [1, 0, 0]


def test_the_theme_follows_the_system_and_can_be_replace(opened):
    page = opened(token_graph(layers=6), scheme="dark")

    def ground() -> tuple[str, str]:
        body = page.page.evaluate("() => getComputedStyle(document.body).backgroundColor")
        return body, page.evaluate("cy.nodes('.k5').first().style('background-color')")

    assert ground() == ("rgb(18, 22, 28)", "rgb(18,22,28)")
    page.page.get_by_role("button", name="Dark theme").click()
    assert ground() == ("rgb(255, 255, 255)", "rgb(255,255,255)")
    assert page.page.get_by_role("button", name="Dark theme").get_attribute("aria-pressed") == "false"


@pytest.mark.parametrize(
    ("name", "scheme"),
    [
        ("token", "light"),
        ("token", "dark"),
        ("sixty tokens", "light"),
        ("heads", "dark"),
        ("hostile", "light"),
        ("no head", "dark"),
    ],
)
def test_a_page_is_printed_whole_and_light_and_is_then_as_before(opened, name, scheme):
    page = opened(GRAPHS[name](), SIZES[0], scheme)
    page.keep(500)
    page.page.mouse.wheel(0, -300)
    pdf, seen = printed(page.page, _CY, "[data-part=stage]")
    assert pdf.startswith(b"%PDF-")
    assert seen["before"]["theme"] == scheme
    whole_on_paper(seen)


def test_a_page_in_a_frame_leaves_printing_to_its_owner(opened, tmp_path):
    page = opened(token_graph(layers=6))
    inside = tmp_path / "inside.html"
    inside.write_text(document(page_of(token_graph(layers=6)), compact=True), encoding="utf-8")
    page.page.goto(inside.as_uri())
    page.page.wait_for_function(f"() => {_CY}")
    _, seen = printed(page.page, _CY, "[data-part=stage]")
    assert not seen["paper"]["printing"]
    assert seen["paper"]["canvas"] is None


def test_width_can_stand_for_share_or_flow(opened):
    page = opened(token_graph(layers=6))
    widths = "cy.edges('.attention').map((edge) => parseFloat(edge.style('width')))"
    by_flow = page.evaluate(widths)
    page.page.locator("input[value=share]").check(force=True)
    assert page.text(".width-mode") == "share"
    by_share = page.evaluate(widths)
    assert all(share >= flow for share, flow in zip(by_share, by_flow, strict=True))
    assert by_share != by_flow
    page.page.locator("input[value=flow]").check(force=True)
    assert page.evaluate(widths) == by_flow


def test_hostile_tokens_appear_as_text(opened):
    page = opened(token_graph(HOSTILE, layers=4))
    ticks = page.page.locator(".axis .tick").evaluate_all("(found) => found.map((one) => one.textContent)")
    assert ticks == [visible(token) for token in HOSTILE]
    assert page.page.locator("img").count() == 0
    page.page.locator("[data-part=search]").fill("onerror")
    assert "<img src=x onerror=alert(1)>" in page.text("[data-part=matches]")
    for node in ("L2.resid_post@18", "embed@0"):
        page.page.locator("[data-part=search]").fill(node)
        page.page.locator("[data-part=matches] button").first.click()
        assert node in page.text("[data-part=details] h3")


def test_search_finds_nodes_and_brings_back_what_was_filtered(opened):
    graph = token_graph(layers=12)
    page = opened(graph)
    page.keep(20)
    node = page.id_of("L1.resid_post@3")
    assert node not in page.shown("nodes")
    page.page.locator("[data-part=search]").fill("japan")
    assert "more node" in page.text("[data-part=matches]")
    page.page.locator("[data-part=search]").fill("L1.resid_post@3")
    assert "filtered" in page.text("[data-part=matches]")
    page.page.keyboard.press("Enter")
    assert node in page.shown("nodes")
    assert page.text("[data-part=details] h3").startswith("L1.resid_post@3")
    page.page.locator("[data-part=search]").fill("nowhere")
    assert page.text("[data-part=matches]") == "no node of this name, and none whose reading has this word"


def test_search_finds_the_words_that_nodes_read(opened):
    graph = token_graph(layers=4)
    page = opened(graph)
    said = "".join(graph.info.tokens).lower()
    words = {token.strip() for one in graph.readings if one is not None for token, _, _ in one.top}
    page.page.locator("[data-part=search]").fill(
        next(word for word in sorted(words) if word and word.lower() not in said)
    )
    page.page.wait_for_selector("[data-part=matches] button")
    assert "word" in page.text("[data-part=matches]")


def test_a_hidden_table_lists_the_strongest_edges_shown(opened):
    graph = token_graph(layers=12)
    page = opened(graph)
    page.keep(1000)
    rows = page.page.locator("[data-part=table] tbody tr")
    assert rows.count() == 200
    assert "unembedding" in rows.first.text_content()
    page.keep(50)
    visible_rows = rows.evaluate_all("(found) => found.filter((row) => !row.hidden).length")
    assert visible_rows == min(200, len(page.shown()))


def test_controls_have_names(opened):
    page = opened(token_graph(layers=4))
    for role, name in (
        ("slider", "Keep the strongest flow"),
        ("searchbox", "Find a token or node"),
        ("button", "Zoom in"),
    ):
        assert page.page.get_by_role(role, name=name).count() == 1
    described = page.page.get_by_role("application").get_attribute("aria-describedby")
    assert page.text(f"#{described}").startswith("Arrow keys")
    assert page.page.get_by_role("radio").count() == 5


def test_an_empty_graph_says_why_and_still_shows_readings(opened):
    page = opened(empty_graph())
    assert "No edges to draw" in page.text("[data-part=empty]")
    assert "reads" in page.hover(page.id_of("L2.resid_post@3"))


def test_positions_follow_the_window(opened):
    page = opened(token_graph(layers=12), SIZES[0])
    before = page.evaluate("cy.nodes().map((node) => node.position('x'))")
    page.page.set_viewport_size({"width": 1900, "height": 1000})
    page.page.wait_for_function("(width) => Math.abs(%s.width() - width) < 1" % _CY, arg=1900 - 532)  # noqa: UP031
    after = page.evaluate("cy.nodes().map((node) => node.position('x'))")
    assert max(after) > max(before)


def test_a_signed_graph_shows_its_biases_in_a_column_of_their_own(opened):
    page = opened(logits_graph(layers=6))
    page.keep(1000)
    column = page.evaluate("cy.nodes('.bias').map((node) => node.position('x'))")
    target = page.evaluate("cy.nodes('.goal').first().position('x')")
    assert len(set(column)) == 1
    assert column[0] > target + 20
    assert page.evaluate("cy.edges('.lowers').every((edge) => edge.style('line-style') === 'dashed')")


def _two_stacks(words: int, position: int):
    """A graph of flow into one of many written words, from a source of twelve tokens."""
    from flowgraph.values.graph_info import StackInfo

    graph = token_graph(SIXTY[:words], layers=2, threshold=0.2)
    info = replace(graph.info, stacks=(StackInfo("encoder", SIXTY[:12], 2),), position=position)
    at = next(n for n, node in enumerate(graph.nodes) if node.kind == "logit")
    into = graph.target == at
    last = next(
        n for n, node in enumerate(graph.nodes) if (node.kind, node.layer, node.position) == ("resid_post", 1, position)
    )
    source = np.where(into, last, graph.source)
    return replace(graph, info=info, source=source)


@pytest.mark.parametrize("orientation", ["rows", "columns"])
def test_a_long_picture_opens_where_the_explained_word_stands(opened, orientation):
    graph = _two_stacks(60, 3)
    drawn = drawing(graph)
    page = opened(graph, SIZES[0])
    page.page.locator(f"input[value={orientation}]").check(force=True)
    stage = page.page.locator("[data-part=stage]").bounding_box()
    x, y = page.point(f"n{drawn.start}")
    assert stage["x"] + 40 <= x <= stage["x"] + stage["width"]
    assert stage["y"] <= y <= stage["y"] + stage["height"]
    moved = page.evaluate("cy.pan()")
    assert moved["x" if orientation == "columns" else "y"] > 0
    names = _boxes(page, ".axis .stack")
    assert [one["text"] for one in names] == ["encoder", "decoder"]
