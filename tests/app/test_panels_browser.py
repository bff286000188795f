"""The panels in a real browser, with real answers: what is drawn, what a click says, what a key does."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from dash import Dash, Input, Output, dcc, html
from flowgraph_webapp.node_key import parse_node_key
from flowgraph_webapp.page.flow_picture import FlowPicture
from flowgraph_webapp.page.wires import charts
from flowgraph_webapp.panels import (
    attention,
    bars,
    details_of_edge,
    details_of_graph,
    details_of_node,
    heads,
    lens,
    semantic,
)
from flowgraph_webapp.panels.attention_pattern import Attention, AttentionQuestion, StackAttention
from flowgraph_webapp.panels.bars import BarsQuestion
from flowgraph_webapp.panels.details import NodeQuestion
from flowgraph_webapp.panels.heads import HeadsQuestion
from flowgraph_webapp.panels.lens import LensQuestion
from flowgraph_webapp.panels.semantic import SemanticQuestion
from flowgraph_webapp.present.chart_panel import every_chart
from flowgraph_webapp.present.palette import panel_variables
from flowgraph_webapp.server.run import Run, RunQuestion
from flowgraph_webapp.server.traces import Traces
from werkzeug.serving import make_server

import flowgraph
from flowgraph import Node, node_key
from flowgraph.render import css_variables, page_bundle, page_styles
from tests.browser import boxes, launch
from tests.conftest import JAPAN
from tests.synthetic_graphs import HOSTILE

pytestmark = [pytest.mark.browser, pytest.mark.real_model]

ROOT = Path(__file__).parents[2]
MB = 2**20
HEAD = Node("head", layer=23, head=4, position=7)
STATE = Node("resid_post", layer=29, position=7)


_READ = np.random.default_rng(8).dirichlet(np.ones(3), (2, 8)).astype(np.float32)
BETWEEN = StackAttention("decoder.cross", _READ, tuple(f" q{n}" for n in range(8)), (" ein", " zwei", " drei"))
"""Two heads of eight positions that read three of an encoder."""


def answers() -> dict[str, object]:
    """Panel by panel what SmolLM2 says of one prompt."""
    traces = Traces(("smollm2",), 512 * MB, 2_000)
    asked = RunQuestion("smollm2", JAPAN)

    def ask(kind, *more):
        question = asked if kind is RunQuestion else kind(asked, *more)
        return question.answer(traces, lambda _stage, _part: None)

    trace, _ = traces.run(asked, lambda _stage, _part: None)
    graph = flowgraph.keep_strongest(flowgraph.build_graph(trace, method="proximity", level="head"), max_edges=800)
    run = ask(RunQuestion)
    states, scores, parts = ask(LensQuestion), ask(HeadsQuestion), ask(BarsQuestion)
    pattern = ask(AttentionQuestion, 23)
    long = _long(run)
    start = node_key(Node("resid_post", layer=27, position=7))
    return {
        "lens": lens.panel(states, run, selected=node_key(STATE), start=start),
        "lens-probability": lens.panel(states, run, fill="probability"),
        "lens-entropy": lens.panel(states, run, fill="entropy"),
        "lens-long": lens.panel(_repeated(states, len(long.tokens)), long),
        "heads": heads.panel(scores, run, selected=node_key(HEAD)),
        "heads-attention": heads.panel(scores, run, score=list(scores.scores)[-1]),
        "attention": attention.panel(pattern, run, heads=(4,)),
        "attention-long": attention.panel(_wide(long), long),
        "attention-stacks": attention.panel(replace(pattern, others=(BETWEEN,)), run),
        "bars": bars.panel(parts, run),
        "details": details_of_node.panel(ask(NodeQuestion, HEAD), graph, run, pinned=(node_key(HEAD),)),
        "details-state": details_of_node.panel(ask(NodeQuestion, STATE), graph, run),
        "details-edge": details_of_edge.panel(graph, 5, run),
        "details-none": details_of_graph.panel(graph, run),
        "semantic": semantic.panel(ask(SemanticQuestion, (23, 24), (7,)), run),
    }


def _long(run: Run) -> Run:
    """A run of 512 tokens, some of them hostile."""
    tokens = tuple((HOSTILE + run.tokens)[i % (len(HOSTILE) + 8)] for i in range(512))
    return replace(run, tokens=tokens, token_ids=(), position=511)


def _repeated(states, count):
    """The reading of 8 states of each layer as that of ``count``."""
    from dataclasses import fields

    layers, tokens = states.shape
    rows = np.array([layer * tokens + t % tokens for layer in range(layers) for t in range(count)])
    columns = {}
    for item in fields(states):
        value = getattr(states, item.name)
        if isinstance(value, np.ndarray):
            columns[item.name] = value[rows]
        elif item.name in ("top_tokens", "bottom_tokens"):
            columns[item.name] = tuple(value[row] for row in rows)
    return replace(states, **columns, shape=(layers, count))


def _wide(run: Run) -> Attention:
    count = len(run.tokens)
    logits = np.random.default_rng(0).normal(size=(9, count, count)).astype(np.float32) * 3
    logits[:, np.triu(np.ones((count, count), dtype=bool), 1)] = -np.inf
    logits -= logits.max(-1, keepdims=True)
    pattern = np.exp(logits)
    return Attention(3, pattern / pattern.sum(-1, keepdims=True))


def dash_app(panels) -> Dash:
    """One panel at a time, by the path; what panels say stands in the page."""
    app = Dash(
        __name__,
        assets_folder=str(ROOT / "webapp" / "assets"),
        assets_ignore=r"^(?!panels|callbacks|chart_panel|flow_picture).*$",
        external_scripts=["/page/flowgraph.js", "/page/cytoscape.js"],
        external_stylesheets=["/page/theme.css"],
        add_log_handler=False,
    )
    said = [html.Pre(id=f"said-{name}", className="said") for name in ("selection", "setting")]
    app.layout = html.Div(
        [
            dcc.Location(id="location"),
            html.Div(FlowPicture(id="picture"), hidden=True),
            html.Div(id="content"),
            *said,
        ],
        className="flowgraph",
    )
    files = {
        "flowgraph.js": page_bundle(panels=True),
        "cytoscape.js": (ROOT / "flowgraph/render/page/assets/cytoscape.min.js").read_text(encoding="utf-8"),
        "theme.css": css_variables()
        + panel_variables()
        + page_styles(panels=True)
        + "body { margin: 0; } .flowgraph { padding: 10px 14px; min-height: 100vh; } .said { display: none; }",
    }

    @app.server.get("/page/<name>")
    def page_file(name: str):
        return files[name], 200, {"Content-Type": "text/css" if name.endswith("css") else "text/javascript"}

    @app.callback(Output("content", "children"), Input("location", "pathname"))
    def show(path: str):
        return panels.get(path.strip("/"))

    charts.register(app)
    app.clientside_callback(
        "(key) => JSON.stringify(key ?? null)", Output("said-selection", "children"), Input("picture", "selected")
    )
    app.clientside_callback(
        "(said) => JSON.stringify(said.findLast(Boolean) ?? null)",
        Output("said-setting", "children"),
        Input(every_chart(), "setting"),
    )
    return app


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    if os.environ.get("FLOWGRAPH_SKIP_BROWSER") == "1":
        pytest.skip("FLOWGRAPH_SKIP_BROWSER=1")
    server = make_server("127.0.0.1", 0, dash_app(answers()).server, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture(scope="module")
def browser(url) -> Iterator:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = launch(playwright)
        yield opened
        opened.close()


class Opened:
    """A panel in a page of its own, with what the console said."""

    def __init__(self, browser, url: str, name: str, size=(1200, 700), scheme="light") -> None:
        self.messages: list[str] = []
        self.context = browser.new_context(viewport={"width": size[0], "height": size[1]}, reduced_motion="reduce")
        self.context.route(
            "**/*", lambda route: route.continue_() if route.request.url.startswith(url) else route.abort()
        )
        self.page = self.context.new_page()
        self.page.on("console", lambda message: self.messages.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.messages.append(f"error: {error}"))
        self.page.on("dialog", lambda dialog: self.messages.append(f"dialog: {dialog.message}"))
        self.page.add_init_script(
            # Set only where it changes: panels draw themselves anew when it does.
            "window.theme = (name) => { window.themeNow = name;"
            " for (const one of [document.documentElement, document.querySelector('.flowgraph')])"
            " if (one && one.dataset.theme !== name) one.dataset.theme = name; };"
            f"document.addEventListener('DOMContentLoaded', () => {{ theme('{scheme}');"
            " new MutationObserver(() => theme(window.themeNow)).observe(document.body, {childList: true, subtree: true}); });"
        )
        self.page.goto(f"{url}/{name}")
        self.page.wait_for_selector("#content .drawn > *")

    def said(self, name: str):
        text = self.page.locator(f"#said-{name}").text_content()
        return json.loads(text) if text else None

    def wait_said(self, name: str, value) -> None:
        text = json.dumps(value, separators=(",", ":"))
        self.page.wait_for_function(
            "([name, text]) => document.getElementById(`said-${name}`).textContent === text", arg=[name, text]
        )

    def select(self, key: str | None) -> None:
        """Select a node elsewhere on the page."""
        self.page.evaluate("(key) => window.dash_clientside.set_props('picture', { selected: key })", key)

    def redraw(self, name: str, chart: object) -> None:
        """Give the panel of a name another tree."""
        self.page.evaluate(
            "([of, chart]) => window.dash_clientside.set_props({ of, type: 'chart' }, { chart })", [name, chart]
        )

    def faults(self) -> list[str]:
        return [text for text in self.messages if not text.startswith(("info:", "log:", "debug:"))]


@pytest.fixture
def opened(browser, url):
    pages = []

    def show(name: str, **options) -> Opened:
        pages.append(Opened(browser, url, name, **options))
        return pages[-1]

    yield show
    for page in pages:
        page.context.close()


PANELS = (
    "lens", "lens-long", "heads", "attention", "attention-long", "bars", "details", "details-edge", "details-none", "semantic",
)  # fmt: skip

# What a screen reader needs: names, roles, order, text that can be read. Returns what is wrong.
AUDIT = """() => {
  const faults = [];
  const name = (e) => (e.getAttribute('aria-label') ?? e.textContent ?? '').trim() || e.title || e.closest('label')?.textContent.trim();
  for (const e of document.querySelectorAll('.drawn button, .drawn select, .drawn input, .drawn [tabindex="0"], .drawn [role=gridcell]')) {
    if (!name(e)) faults.push(`no name: ${e.outerHTML.slice(0, 120)}`);
  }
  for (const e of document.querySelectorAll('.drawn [role=grid]')) {
    if (e.querySelectorAll('[role=gridcell][tabindex="0"]').length !== 1) faults.push('a grid without one stop');
  }
  for (const e of document.querySelectorAll('.drawn table:not([role]) th')) {
    if (!e.scope || !e.textContent.trim()) faults.push(`head: ${e.outerHTML.slice(0, 120)}`);
  }
  for (const e of document.querySelectorAll('.drawn [role=group]')) if (!name(e)) faults.push('a group without a name');
  const ids = [...document.querySelectorAll('[id]')].map((e) => e.id);
  if (new Set(ids).size !== ids.length) faults.push('an id twice');
  const channels = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = (c) => c.slice(0, 3).map((x) => x / 255).map((x) => (x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4))
    .reduce((sum, x, i) => sum + x * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (e) => {
    for (let at = e; at; at = at.parentElement) {
      const colour = channels(getComputedStyle(at).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  for (const e of document.querySelectorAll('.drawn *')) {
    if (e.closest('[data-widget=semantic] .stage') || !e.offsetParent || e.closest(':disabled')) continue;
    if (![...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()) || /^[␣⏎⇥]+$/.test(e.textContent)) continue;
    const [a, b] = [light(channels(getComputedStyle(e).color)), light(ground(e))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) faults.push(`${ratio.toFixed(2)}: ${e.outerHTML.slice(0, 120)}`);
  }
  return [...new Set(faults)].slice(0, 8);
}"""


@pytest.mark.parametrize("name", PANELS)
def test_a_panel_can_be_read_by_everyone(opened, name):
    panel = opened(name, size=(320, 900) if name.startswith("details") else (1200, 700))
    for scheme in ("light", "dark"):
        panel.page.evaluate("(scheme) => theme(scheme)", scheme)
        panel.page.wait_for_timeout(100)
        panel.page.wait_for_function("() => !document.getAnimations().some((one) => one instanceof CSSTransition)")
        assert panel.page.evaluate(AUDIT) == [], scheme
    assert panel.faults() == []


@pytest.mark.parametrize("name", PANELS)
def test_a_panel_stays_within_a_narrow_window(opened, name):
    panel = opened(name, size=(320 if name.startswith("details") else 800, 700))
    assert panel.page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


def test_a_click_on_a_state_selects_it_everywhere(opened):
    panel = opened("lens")
    panel.page.locator('[data-pick="resid_post.25.-.3.-"]').click()
    panel.wait_said("selection", "resid_post.25.-.3.-")
    chosen = panel.page.locator("[role=gridcell].chosen")
    assert chosen.count() == 1
    assert chosen.get_attribute("aria-selected") == "true"
    panel.select("resid_post.24.-.2.-")
    panel.page.wait_for_selector('[data-pick="resid_post.24.-.2.-"].chosen')
    assert chosen.count() == 1
    panel.select(None)
    panel.page.wait_for_selector(".chosen[role=gridcell]", state="detached")
    # The same node can be picked again.
    panel.page.locator('[data-pick="resid_post.25.-.3.-"]').click()
    panel.wait_said("selection", "resid_post.25.-.3.-")
    assert chosen.count() == 1


def test_a_panel_that_comes_late_is_told_what_is_selected(opened):
    """Whatever its answer was made with: meanwhile something else may have been selected."""
    panel = opened("lens")
    assert panel.said("selection") is None
    panel.page.wait_for_selector(".chosen[role=gridcell]", state="detached")
    assert panel.faults() == []


def test_the_keyboard_walks_a_grid(opened):
    panel = opened("lens")
    panel.page.keyboard.press("Tab")
    focused = "document.activeElement.dataset.pick"
    assert panel.page.evaluate(focused) == node_key(STATE)
    for key, expected in (("ArrowLeft", "resid_post.29.-.6.-"), ("ArrowDown", "resid_post.28.-.6.-"), ("Home", "resid_post.28.-.0.-"),
                          ("ArrowLeft", "resid_post.28.-.0.-"), ("End", "resid_post.28.-.7.-")):  # fmt: skip
        panel.page.keyboard.press(key)
        assert panel.page.evaluate(focused) == expected
    assert "layer 28" in panel.page.locator(".panel-tip").inner_text()
    panel.page.keyboard.press("Enter")
    panel.wait_said("selection", "resid_post.28.-.7.-")


def test_the_tip_gives_the_whole_reading(opened):
    panel = opened("lens")
    panel.page.locator('[data-pick="resid_post.29.-.7.-"]').hover()
    tip = panel.page.locator(".panel-tip")
    assert tip.locator("p").count() == 10
    assert "rank of ␣Tokyo" in tip.inner_text()
    [box] = boxes(panel.page, ".panel-tip")
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 1200
    panel.page.mouse.move(1190, 690)
    assert not tip.is_visible()


def test_buttons_ask_for_other_tokens(opened):
    panel = opened("lens-long")
    panel.page.get_by_role("button", name="Earlier tokens").click()
    panel.wait_said("setting", {"name": "first", "value": 416})
    assert panel.page.get_by_role("button", name="Later tokens").is_disabled()
    assert panel.page.locator("th.here").is_visible()


def test_1920_cells_are_walked_without_1920_stops(opened):
    panel = opened("lens-long")
    assert panel.page.locator("[role=gridcell]").count() == 64 * 30
    assert panel.page.locator('[role=gridcell][tabindex="0"]').count() == 1


def test_heads_are_selected_at_the_position(opened):
    panel = opened("heads")
    panel.select(node_key(HEAD))
    assert panel.page.locator(".chosen").inner_text() == "+2.68"
    panel.page.locator('[data-pick="head.29.1.7.-"]').click()
    panel.wait_said("selection", "head.29.1.7.-")


def sums(panel: Opened, side: str = "right") -> list[float]:
    texts = panel.page.locator(f".tokens.{'key' if side == 'right' else 'query'} .value").all_text_contents()
    return [0.0 if text in ("", "< .001") else 1.0 if text == "> .999" else float(text) for text in texts]


def test_heads_and_tokens_are_summed_in_the_browser(opened, smollm2):
    panel = opened("attention")
    pattern = flowgraph.trace(smollm2, JAPAN).pattern[23].numpy()
    assert sums(panel) == pytest.approx(pattern[4, 7], abs=1.1e-3)
    panel.page.get_by_role("button", name="H1", exact=True).click()
    panel.wait_said("setting", {"name": "heads", "value": [1, 4]})
    assert sums(panel) == pytest.approx(pattern[[1, 4], 7].mean(0), abs=1.1e-3)
    queries = panel.page.locator(".tokens.query button")
    queries.nth(6).click()
    assert sums(panel) == pytest.approx(pattern[[1, 4]][:, [6, 7]].sum(1).mean(0), abs=6e-3)
    panel.page.get_by_role("button", name="all").click()
    panel.wait_said("setting", {"name": "heads", "value": []})
    queries.nth(6).click()
    assert sums(panel) == pytest.approx(pattern[:, 7].mean(0), abs=1.1e-3)
    panel.page.locator(".tokens.key button").nth(3).click()
    assert sums(panel, "left")[7] == pytest.approx(pattern[:, 7, 3].mean(), abs=1.1e-3)


def test_what_reads_another_stack_is_summed_over_its_tokens_and_picked_as_what_it_is(opened):
    panel = opened("attention-stacks")
    panel.page.get_by_role("button", name="decoder reads encoder").click()
    shown = panel.page.locator("[data-group]:not([hidden])")
    numbers = shown.locator(".tokens.key .value")
    assert [float(text) for text in numbers.all_inner_texts()] == pytest.approx(_READ[:, 7].mean(0), abs=1.1e-3)
    shown.get_by_role("button", name="H0", exact=True).click()
    assert [float(text) for text in numbers.all_inner_texts()] == pytest.approx(_READ[0, 7], abs=1.1e-3)
    canvas = shown.locator(".map canvas")
    size = canvas.bounding_box()["width"] / 3
    canvas.click(position={"x": 2.5 * size, "y": 4.5 * size})
    panel.wait_said("selection", "cross_head.23.0.4.-")
    assert [float(text) for text in numbers.all_inner_texts()] == pytest.approx(_READ[0, 4], abs=1.1e-3)


def test_without_the_first_token_rows_add_up_to_one_again(opened, smollm2):
    panel = opened("attention")
    pattern = flowgraph.trace(smollm2, JAPAN).pattern[23, 4, 7].numpy()
    panel.page.get_by_label("hide first token").check()
    assert sums(panel) == pytest.approx([0.0, *(pattern[1:] / pattern[1:].sum())], abs=1.1e-3)
    says = panel.page.locator(".says").inner_text()
    assert "First token hidden, rows renormalised" in says
    assert f"{pattern[0]:.3f}".removeprefix("0") in says


def test_the_map_says_its_numbers_and_selects_the_head(opened, smollm2):
    panel = opened("attention")
    pattern = flowgraph.trace(smollm2, JAPAN).pattern[23, 4].numpy()
    canvas = panel.page.locator(".map canvas")
    size = boxes(panel.page, ".map canvas")[0]["width"] / 8
    canvas.hover(position={"x": 3.5 * size, "y": 6.5 * size})
    tip = panel.page.locator(".panel-tip").inner_text()
    assert tip.startswith("␣city 6 → ␣Japan 3")
    assert f"{pattern[6, 3]:.3f}".removeprefix("0") in tip
    canvas.hover(position={"x": 6.5 * size, "y": 3.5 * size})
    assert "cannot see" in panel.page.locator(".panel-tip").inner_text()
    canvas.click(position={"x": 3.5 * size, "y": 6.5 * size})
    panel.wait_said("selection", "head.23.4.6.-")
    assert sums(panel) == pytest.approx(pattern[6], abs=1.1e-3)
    panel.page.keyboard.press("ArrowDown")
    assert panel.page.locator(".says").inner_text().startswith("␣of 7 → ")


def test_the_map_is_drawn_in_the_colours_of_the_theme(opened):
    def corner(scheme: str) -> list[int]:
        panel = opened("attention", scheme=scheme)
        panel.page.wait_for_timeout(150)
        return panel.page.evaluate(
            "[...document.querySelector('.map canvas').getContext('2d').getImageData(6, 6, 1, 1).data]"
        )

    assert corner("light")[:3] == pytest.approx([0x00, 0x72, 0xB2], abs=6)
    assert corner("dark")[:3] == pytest.approx([0x56, 0xB4, 0xE9], abs=6)


def test_bars_switch_their_grouping_and_select(opened):
    panel = opened("bars")
    groups = panel.page.locator(".group")
    assert [groups.nth(n).is_visible() for n in range(4)] == [True, False, False, False]
    panel.page.get_by_role("button", name="by head").click()
    assert [groups.nth(n).is_visible() for n in range(4)] == [False, True, False, False]
    panel.page.get_by_role("button", name="L23H4@7").click()
    panel.wait_said("selection", node_key(HEAD))
    assert panel.page.locator("tr.chosen:visible").count() == 1


def test_a_table_is_sorted_by_its_heads(opened):
    panel = opened("bars")
    group = panel.page.locator(".group").first
    values = "rows => rows.map(row => Number(row.lastElementChild.dataset.sort))"
    head = group.get_by_role("columnheader", name="adds logits")
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    found = group.locator("tbody tr").evaluate_all(values)
    assert found == sorted(found, reverse=True)
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert group.locator("tbody tr").evaluate_all(values) == found[::-1]
    group.get_by_role("button", name="layer").click()
    names = group.locator("tbody td:first-child").all_inner_texts()
    assert names.index("L11 MLP") < names.index("L23 MLP") < names.index("L29 MLP")


def test_an_edge_leads_to_its_other_end(opened):
    panel = opened("details", size=(320, 900))
    table = panel.page.locator("table", has_text="What enters")
    link = table.locator("button.link").first
    key = link.get_attribute("data-pick")
    assert parse_node_key(key).kind
    link.click()
    panel.wait_said("selection", key)


def test_moves_select_edges(opened):
    panel = opened("details-none", size=(320, 900))
    panel.page.locator("button.link").first.click()
    panel.page.wait_for_function("document.getElementById('said-selection').textContent.startsWith('\"edge.')")


def test_the_semantic_graph_is_mounted_selects_and_lets_go(opened):
    panel = opened("semantic")
    assert panel.page.locator("[data-part=layer] option").count() == 1
    assert panel.page.locator("[data-part=where]").inner_text().startswith("layer 23, position 7")
    panel.select("head.23.4.7.-")
    panel.page.wait_for_function("document.querySelector('[data-part=details] h3').textContent.includes('H4')")
    assert "H4" in panel.page.locator("[data-part=details] h3").inner_text()
    panel.page.locator("[data-part=stage]").click(position={"x": 230, "y": 300})
    panel.page.evaluate("window.dash_clientside.set_props('content', {children: null})")
    panel.page.wait_for_selector(".drawn", state="detached")
    assert panel.faults() == []


def test_headings_of_the_semantic_graph_do_not_touch(opened):
    gaps = opened("semantic", size=(790, 900)).page.evaluate("""() => {
      const heads = [...document.querySelectorAll('[data-part=heads] span:not([hidden])')];
      const boxes = heads.map((e) => e.getBoundingClientRect()).sort((one, other) => one.left - other.left);
      return boxes.slice(1).map((box, i) => box.left - boxes[i].right);
    }""")
    assert len(gaps) > 5
    assert min(gaps) > 1


def test_a_new_answer_is_drawn_in_the_place_of_the_old(opened):
    panel = opened("lens")
    box = panel.page.locator(".grid-box")
    box.evaluate("box => { box.scrollTop = 40; }")
    tree = panel.page.evaluate(
        "JSON.stringify(window.dash_component_api.getLayout({ of: 'lens', type: 'chart' }).props.chart)"
    )
    panel.redraw("lens", json.loads(tree.replace("fill-5", "fill-4")))
    panel.page.wait_for_function("!document.querySelector('.cells .fill-5')")
    assert box.evaluate("box => box.scrollTop") == 40


@pytest.mark.parametrize(
    "tree",
    [["script", {}, "alert(1)"], ["p", {"onclick": "alert(1)"}], ["img", {"src": "x", "onerror": "alert(1)"}]],
    ids=lambda tree: tree[0],
)
def test_nothing_that_is_not_listed_is_built(opened, tree):
    panel = opened("lens")
    panel.redraw("lens", tree)
    panel.page.wait_for_timeout(50)
    assert panel.page.locator("#content :is(script, img, [onclick])").count() == 0
    assert [text for text in panel.faults() if "flowgraph: no" in text]
    assert not [text for text in panel.messages if text.startswith("dialog")]
