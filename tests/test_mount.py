"""The page scripts mounted by somebody else: several in one document, on a picture that is lent, and taken away again."""

from __future__ import annotations

import json

import pytest

from flowgraph.render import page_bundle, page_data, page_styles
from flowgraph.render.page.document import LIBRARY, asset, embedded_json
from flowgraph.render.page.html import page_of
from tests.graphs import graph_of
from tests.synthetic_graphs import empty_graph, head_graph, logits_graph, token_graph
from tests.test_html_browser import browser  # noqa: F401
from tests.test_semantic_views import graphs  # noqa: F401

pytestmark = pytest.mark.browser

SIZE = {"width": 1500, "height": 900}
MOUNT = """
window.calls = {};
window.views = {};
window.told = (name) => Object.fromEntries(['select', 'pin', 'open', 'level', 'width', 'orientation', 'theme']
  .map((what) => [what, (value) => (window.calls[name] ??= []).push([what, value])]));
window.show = (name, options = {}) => {
  const data = JSON.parse(document.getElementById(`data-${name}`).textContent);
  window.views[name] = window.flowgraph[data.kind].mount(document.getElementById(name), data, { ...window.told(name), ...options });
};
window.cyOf = (name) => document.getElementById(name).querySelector('[data-part=picture]')._cyreg?.cy;
"""


class Document:
    """A document with the shells of several graphs, none mounted yet."""

    def __init__(self, page, messages: list[str]) -> None:
        self.page = page
        self.messages = messages

    def run(self, code: str, argument=None):
        return self.page.evaluate(f"(argument) => {{ {code} }}", argument)

    def value(self, code: str, argument=None):
        return self.run(f"return {code};", argument)

    def show(self, *names: str) -> None:
        for name in names:
            self.run(f"show('{name}')")
            self.page.wait_for_function(f"() => cyOf('{name}').zoom() > 0")

    def calls(self, name: str) -> list:
        found = self.value(f"window.calls['{name}'] ?? []")
        self.run("window.calls = {}")
        return found

    def click(self, name: str, item: str, *, count: int = 1, modifier: str | None = None) -> None:
        x, y = self.value(
            f"(() => {{ const box = document.querySelector('#{name} [data-part=picture]').getBoundingClientRect();"
            f" const at = cyOf('{name}').$id(argument).renderedPosition(); return [at.x + box.x, at.y + box.y]; }})()",
            item,
        )
        if modifier:
            self.page.keyboard.down(modifier)
        self.page.mouse.click(x, y, click_count=count)
        if modifier:
            self.page.keyboard.up(modifier)


@pytest.fixture
def document(browser):  # noqa: F811
    opened: list[tuple] = []

    def build(**shown) -> Document:
        context = browser.new_context(viewport=SIZE, reduced_motion="reduce")
        context.route("**/*", lambda route: route.abort())
        page, messages = context.new_page(), []
        page.on("console", lambda message: messages.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: messages.append(f"error: {error}"))
        context.on("request", lambda request: messages.append(f"request: {request.url}"))
        roots = ""
        for name, graph in shown.items():
            found = page_of(graph)
            data = f'<script type="application/json" id="data-{name}">{embedded_json(found.data)}</script>'
            roots += f'<div class="flowgraph" id="{name}" data-kind="{found.kind}">{found.shell}</div>{data}'
        style = f"<style>body {{ margin: 0; --height: 440px; }} {page_styles()}</style>"
        scripts = "".join(f"<script>{text}</script>" for text in (asset(LIBRARY), page_bundle(), MOUNT))
        page.set_content(f"<!doctype html><html><head>{style}</head><body>{roots}{scripts}</body></html>")
        opened.append((context, messages))
        return Document(page, messages)

    yield build
    for context, messages in opened:
        context.close()
        assert messages == []


def _number(graph, label: str) -> int:
    return next(n for n, node in enumerate(graph.nodes) if str(node) == label)


def test_two_pages_in_one_document_leave_each_other_alone(document):
    graph = token_graph(layers=8)
    both = document(a=graph, b=logits_graph(layers=6))
    both.show("a", "b")
    ids = both.value("[...document.querySelectorAll('[id]')].map((one) => one.id)")
    assert len(set(ids)) == len(ids)
    assert both.value("document.querySelector('#b [data-part=keep]').labels.length") == 1
    before = both.value("cyOf('b').elements('.off').length")
    keep = both.page.locator("#a [data-part=keep]")
    keep.evaluate("(box) => { box.value = 50; box.dispatchEvent(new Event('input')); }")
    assert both.value("cyOf('b').elements('.off').length") == before
    assert both.calls("a") == [["level", 50]]
    both.page.locator("#b input[value=share]").check(force=True)
    assert both.page.locator("#a input[value=flow]").is_checked()
    assert both.value("cyOf('a').edges('.by-share').length") == 0
    both.page.locator("#b [data-part=theme]").click()
    assert both.value("[a.dataset.theme, b.dataset.theme]") == ["light", "dark"]
    node = f"n{_number(graph, 'L7.resid_post@7')}"
    both.click("a", node)
    assert both.page.locator("#a [data-part=details]").inner_text().startswith("L7.resid_post@7")
    assert "Click a node or an edge" in both.page.locator("#b [data-part=details]").inner_text()
    assert both.calls("a") == [["select", node]]


def test_a_person_is_heard_and_the_program_is_not(document):
    graph = token_graph(layers=8)
    one = document(a=graph)
    one.show("a")
    first, second = (f"n{_number(graph, label)}" for label in ("L7.resid_post@7", "L6.resid_post@7"))
    one.click("a", first)
    one.click("a", second, modifier="Control")
    one.page.keyboard.press("Enter")
    one.page.keyboard.press("Escape")
    one.page.keyboard.press("Escape")
    said = [["select", first], ["pin", [second]], ["open", first], ["select", None], ["pin", []]]
    assert one.calls("a") == said
    one.click("a", first, count=2)
    assert [call for call in one.calls("a") if call[0] == "open"] == [["open", first]]
    one.page.locator("#a input[value=rows]").check(force=True)
    one.page.locator("#a [data-part=theme]").click()
    assert one.calls("a") == [["orientation", "rows"], ["theme", "dark"]]
    one.run(
        "const view = views.a; view.setLevel(1000); view.select('n3'); view.pin(['n1', 'n2']); view.setWidth('share');"
        " view.setOrientation('columns'); view.setTheme('light'); view.fit(); view.select(null);"
    )
    assert one.calls("a") == []
    assert one.value("cyOf('a').nodes('.pin').map((node) => node.id())") == ["n1", "n2"]
    assert one.page.locator("#a input[value=columns]").is_checked()
    assert one.page.locator("#a input[value=share]").is_checked()


def test_a_selection_from_outside_brings_back_what_was_filtered(document):
    graph = token_graph(layers=12)
    one = document(a=graph)
    one.show("a")
    one.run("views.a.setLevel(5)")
    hidden = one.value("cyOf('a').nodes('.off').last().id()")
    one.run("views.a.select(argument)", hidden)
    assert one.value("cyOf('a').nodes('.chosen').not('.off').map((node) => node.id())") == [hidden]
    level = one.value("Number(document.querySelector('#a [data-part=keep]').value)")
    assert one.calls("a") == [["level", level]]
    one.run("views.a.select('n999999')")
    assert one.value("cyOf('a').elements('.chosen').length") == 0


MADE = {
    "token": lambda: token_graph(layers=8),
    "heads": lambda: head_graph(layers=4),
    "logits": lambda: logits_graph(layers=4),
    "no edges": empty_graph,
    "nothing": lambda: empty_graph(with_nodes=False),
}


@pytest.mark.parametrize("name", [*MADE, "llama", "positions"])
def test_destroying_a_page_leaves_nothing_behind(document, graphs, name):  # noqa: F811
    graph = MADE[name]() if name in MADE else graphs(name)
    one = document(a=graph)
    whole = "document.body.outerHTML"
    before = one.value(whole)
    for _ in range(2):
        one.show("a")
        assert one.value(whole) != before
        if len(graph.nodes):
            one.run("views.a.select('n0'); views.a.setTheme('dark'); views.a.pin(['n0']);")
        one.page.locator("#a [data-part=stage]").press("+")
        one.page.locator("#a [data-part=search]").fill("a")
        one.page.locator("#a [data-part=search]").fill("")
        one.run("const cy = cyOf('a'); if (cy.nodes().length) cy.nodes()[0].emit('mouseover'); views.a.destroy();")
        one.page.wait_for_timeout(600)
        assert one.value(whole) == before


LEND = """
const data = JSON.parse(document.getElementById('data-a').textContent);
const container = document.querySelector('#a [data-part=picture]');
container.removeAttribute('data-part');
const copy = (item) => ({ ...item, data: { ...item.data } });
window.lent = cytoscape({ container, elements: { nodes: data.nodes.map(copy), edges: data.edges.map(copy) },
  layout: { name: 'preset' }, style: [{ selector: 'node', style: { label: 'data(id)' } }], minZoom: 0.5, maxZoom: 2 });
window.added = [];
window.lent.on('add remove', (event) => window.added.push(event.type));
window.state = () => ({ style: lent.style().json(), zooms: [lent.minZoom(), lent.maxZoom()],
  flags: [lent.autoungrabify(), lent.autounselectify(), lent.boxSelectionEnabled()],
  elements: lent.elements().map((item) => [item.id(), JSON.parse(JSON.stringify(item.data())), item.classes()]),
  listeners: lent._private.emitter.listeners.length });
"""


@pytest.mark.parametrize("name", ["token", "heads", "nothing", "llama"])
def test_a_picture_that_is_lent_is_given_back_as_it_was(document, graphs, name):  # noqa: F811
    one = document(a=MADE[name]() if name in MADE else graphs(name))
    one.run(LEND)
    before = one.value("state()")
    one.run(
        "show('a', { cy: lent }); if (lent.nodes().length) { views.a.select('n0'); views.a.pin(['n0']); } views.a.setTheme('dark');"
    )
    during = one.value("state()")
    assert during["style"] != before["style"]
    assert during["flags"] == [True, True, False]
    if before["elements"]:
        assert during["elements"] != before["elements"]
    one.run("views.a.destroy()")
    assert one.value("state()") == before
    assert one.value("added") == []


def test_a_lent_picture_stands_where_the_pages_own_would(document):
    graph = token_graph(layers=6)
    one = document(a=graph)
    places = "cy.nodes().map((node) => [node.id(), node.position('x'), node.position('y'), node.hasClass('off')])"
    one.show("a")
    own = one.value(f"((cy) => {places})(cyOf('a'))")
    one.run("views.a.destroy()")
    one.run(LEND)
    one.run("show('a', { cy: lent })")
    assert one.value(f"((cy) => {places})(lent)") == own


def test_a_picture_that_is_gone_does_not_stop_its_page_from_going(document):
    one = document(a=token_graph(layers=4))
    one.run(LEND)
    one.run("show('a', { cy: lent }); lent.destroy(); views.a.destroy();")
    assert one.page.locator("#a .scaffold").count() == 0


PARTS = (
    "gutter",
    "ground",
    "tip",
    "keep",
    "counter",
    "table",
    "live",
    "details",
    "search",
    "matches",
    "empty",
    "theme",
)


@pytest.mark.parametrize("name", ["token", "llama"])
def test_parts_that_are_missing_are_left_out(document, graphs, name):  # noqa: F811
    graph = MADE[name]() if name in MADE else graphs(name)
    one = document(a=graph)
    gone = json.dumps([*PARTS, "heads", "rows", "where", "coverage", "earlier", "later", "layer", "position"])
    one.run(
        f"for (const part of {gone}) document.querySelectorAll(`#a [data-part=${{part}}]`).forEach((one) => one.remove());"
    )
    one.show("a")
    one.run(
        "views.a.select('n1'); views.a.setLevel(500); views.a.setWidth('share'); cyOf('a').$id('n1').emit({ type: 'mouseover', renderedPosition: { x: 9, y: 9 } });"
    )
    one.page.wait_for_timeout(200)
    one.page.locator("#a [data-part=stage]").press("ArrowLeft")
    assert one.value("cyOf('a').elements('.chosen').length") == 1
    one.run("views.a.destroy()")


def test_a_root_without_a_stage_is_refused(document):
    one = document(a=token_graph(layers=3))
    one.run("document.querySelector('#a [data-part=stage]').remove()")
    with pytest.raises(Exception, match='no element with data-part="stage"'):
        one.run("show('a')")


def test_page_data_is_plain_and_names_its_kind(graphs):  # noqa: F811
    for graph, kind in ((token_graph(layers=3), "flow"), (graphs("llama"), "semantic"), (graph_of([]), "flow")):
        data = page_data(graph)
        assert data["kind"] == kind
        assert json.loads(embedded_json(data))["nodes"] == data["nodes"]
        assert set(data["styles"]) == {"light", "dark"}


def test_styles_reach_no_further_than_the_root():
    depth, selectors, start = 0, [], 0
    text = page_styles()
    for i, character in enumerate(text):
        if character == "{":
            if depth == 0:
                selectors.append(text[start:i].strip())
            depth += 1
        elif character == "}":
            depth -= 1
            start = i + 1
    assert depth == 0
    allowed = {f".flowgraph{end}" for end in ("", '[data-theme="dark"]', '[data-kind="semantic"]')}
    assert set(selectors) == allowed
    assert all(name in text for name in ("--ink", "--pill-0", "--unit-norm"))
