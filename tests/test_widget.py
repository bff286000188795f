"""Graphs in notebooks: frames that live without a kernel, and the widget that is connected with one."""

from __future__ import annotations

import builtins
import importlib.util
import json
import sys
import webbrowser
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlparse

import numpy as np
import pytest

from flowgraph.errors import ArgumentError
from flowgraph.render import render_html
from flowgraph.render.notebook.widget import FlowWidget
from flowgraph.render.scene.elements import MOST_EDGES, drawing
from flowgraph.values.node import Node
from tests.browser import boxes
from tests.synthetic_graphs import HOSTILE, empty_graph, head_graph, token_graph
from tests.test_html_browser import browser  # noqa: F401
from tests.test_semantic_views import graphs  # noqa: F401

# --- frames -------------------------------------------------------------------------------------------------------


class _Frames(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[dict] = []
        self.others: list[str] = []

    def handle_starttag(self, tag, attrs):
        if tag == "iframe":
            self.found.append(dict(attrs))
        else:
            self.others.append(tag)


def _frame(markup: str) -> dict:
    parser = _Frames()
    parser.feed(markup)
    assert len(parser.found) == 1
    assert parser.others == []
    return parser.found[0]


@pytest.mark.parametrize("tokens", [("a", "b's"), HOSTILE], ids=["plain", "hostile"])
def test_a_graph_shows_itself_in_a_frame_of_its_own(tokens):
    graph = token_graph(tokens, layers=3)
    frame = _frame(graph._repr_html_())
    assert frame["sandbox"] == "allow-scripts"
    assert frame["height"] == "640"
    assert frame["title"].startswith("smollm2-135m: ")
    page, alone = frame["srcdoc"], render_html(graph)
    assert page.replace('class="flowgraph compact"', 'class="flowgraph"') == alone
    assert repr(graph).startswith("FlowGraph('proximity'")


def test_the_page_of_a_large_graph_stays_below_a_megabyte():
    graph = token_graph(tuple(f" word{i}" for i in range(25)), layers=6, threshold=0.0)
    graph = graph.keep(np.arange(2000))
    assert len(graph) == 2000
    assert len(graph.nodes) >= 300
    assert all(len(reading.top) == len(reading.bottom) == 10 for reading in graph.readings if reading is not None)
    assert len(render_html(graph).encode()) <= 1_000_000
    assert len(graph._repr_html_().encode()) <= 1_000_000


def test_show_displays_in_ipython(monkeypatch):
    from IPython import display

    shown = []
    monkeypatch.setattr(sys.modules["IPython"], "get_ipython", lambda: object())
    monkeypatch.setattr(display, "display", lambda data, raw: shown.append((data, raw)))
    graph = token_graph(layers=3)
    graph.show(height=300, theme="dark")
    ((data, raw),) = shown
    assert raw
    assert data["text/plain"] == repr(graph)
    frame = _frame(data["text/html"])
    assert frame["height"] == "300"
    assert 'data-kind="flow" data-theme="dark"' in frame["srcdoc"]


def test_show_opens_the_browser_without_ipython(monkeypatch):
    opened = []
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    monkeypatch.setattr(webbrowser, "open", opened.append)
    graph = token_graph(layers=3)
    graph.show()
    path = Path(unquote(urlparse(opened[0]).path))
    assert path.read_text(encoding="utf-8") == render_html(graph)
    path.unlink()


@pytest.mark.parametrize(
    ("wrong", "says"),
    [({"height": 10}, "height=10"), ({"height": 4001}, "height=4001"), ({"height": True}, "height=True"), ({"theme": "pink"}, "theme='pink'")],
)  # fmt: skip
def test_show_says_what_is_wrong(wrong, says):
    with pytest.raises(ArgumentError, match=says):
        token_graph(layers=2).show(**wrong)


@pytest.mark.browser
def test_frames_on_one_page_live_apart_and_ask_for_nothing(browser, graphs):  # noqa: F811
    context = browser.new_context(viewport={"width": 1000, "height": 2000})
    context.route("**/*", lambda route: route.abort())
    page, messages = context.new_page(), []
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    context.on("request", lambda request: messages.append(request.url))
    graph = token_graph(layers=8)
    shown = (graph, head_graph(layers=4), graphs("llama"))
    page.set_content("".join(one._repr_html_() for one in shown))
    frames = page.frames[1:]
    counts = "(() => { const cy = document.querySelector('[data-part=picture]')._cyreg.cy; return [cy.nodes().length, cy.edges('.off').length, cy.elements('.chosen').length]; })()"
    for frame, one in zip(frames, shown, strict=True):
        frame.wait_for_function("() => document.querySelector('[data-part=picture]')?._cyreg?.cy.zoom() > 0")
        assert frame.evaluate(counts)[0] == len(one.nodes)
    before = [frame.evaluate(counts) for frame in frames]
    keep = frames[0].locator("[data-part=keep]")
    keep.evaluate("(box) => { box.value = 20; box.dispatchEvent(new Event('input')); }")
    frames[0].locator("[data-part=search]").fill("L7.resid_post@7")
    frames[0].locator("[data-part=search]").press("Enter")
    assert frames[0].locator("[data-part=details]").inner_text().startswith("L7.resid_post@7")
    after = [frame.evaluate(counts) for frame in frames]
    assert after[0][2] == 1
    assert after[0][1] > before[0][1]
    assert after[1:] == before[1:]
    assert frames[0].evaluate("document.documentElement.scrollHeight <= innerHeight")
    context.close()
    assert messages == []


# --- the widget in Python -----------------------------------------------------------------------------------------


@pytest.fixture
def graph():
    return token_graph(layers=6)


def test_what_the_browser_says_is_read_as_nodes(graph):
    view = graph.widget()
    assert isinstance(view, FlowWidget)
    assert view.selection == view.pins == ()
    assert view.level == drawing(graph).opening_level
    view.set_state({"selection": ["n5"], "pins": ["n1", "n2"], "level": 300, "width": "share", "theme": "dark"})
    assert view.selection == (graph.nodes[5],)
    assert view.pins == graph.nodes[1:3]
    assert (view.level, view.width, view.theme) == (300, "share", "dark")
    edge = int(graph.source[7]), int(graph.target[7])
    view.set_state({"selection": [f"n{end}" for end in edge]})
    assert view.selection == tuple(graph.nodes[end] for end in edge)


def test_nodes_are_sent_as_ids(graph):
    node = Node("resid_post", layer=2, position=3)
    view = graph.widget(selection=node, pins=graph.nodes[:2], level=10)
    assert view.get_state(["selection", "pins", "level"]) == {
        "selection": [f"n{graph.nodes.index(node)}"], "pins": ["n0", "n1"], "level": 10,
    }  # fmt: skip
    view.selection = None
    assert view.selection == ()
    view.selection = [node]
    assert view.selection == (node,)
    seen = []
    view.observe(lambda change: seen.append(change["new"]), "selection")
    view.set_state({"selection": ["n0"]})
    assert seen == [(graph.nodes[0],)]


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("selection", Node("embed", position=99), "embed@99 is no node of the picture"),
        ("selection", "n3", "selection='n3' must be a Node"),
        ("selection", 3, "selection=3 must be a Node"),
        ("selection", ["n3"], "n3 is no node"),
        ("pins", [Node("mlp", layer=99, position=0)], "L99.mlp@0 is no node"),
        ("level", 1001, "level=1001 must be a whole number between 0 and 1,000"),
        ("level", 0.5, "level=0.5"),
        ("level", True, "level=True"),
        ("width", "thick", "width='thick' is not known; expected one of flow, share"),
        ("theme", "pink", "theme='pink'"),
        ("height", 3, "height=3"),
    ],
)
def test_a_wrong_value_is_refused(graph, name, value, says):
    view = graph.widget()
    with pytest.raises(ArgumentError, match=says):
        setattr(view, name, value)
    with pytest.raises(ArgumentError, match=says):
        graph.widget(**{name: value})


def test_two_selected_nodes_are_the_ends_of_an_edge(graph):
    view = graph.widget()
    ends = {(int(s), int(t)) for s, t in zip(graph.source, graph.target, strict=True)}
    apart = next(
        (s, t) for s in range(len(graph.nodes)) for t in range(len(graph.nodes)) if s != t and (s, t) not in ends
    )
    for wrong in ([graph.nodes[n] for n in apart], graph.nodes[:3]):
        with pytest.raises(ArgumentError, match="one node, or source and target of one edge"):
            view.selection = wrong


def test_an_unknown_trait_or_id_is_refused(graph):
    with pytest.raises(ArgumentError, match="colour: not a trait of the widget; expected height, level, pins"):
        graph.widget(colour="red")
    with pytest.raises(ArgumentError, match="'n999', which the picture does not have"):
        graph.widget().set_state({"selection": ["n999"]})


def test_of_a_large_graph_only_what_is_drawn_can_be_selected():
    graph = token_graph(tuple(f" w{i}" for i in range(40)), layers=12, threshold=0.0005)
    assert len(graph) > MOST_EDGES
    view = graph.widget()
    drawn = drawing(graph).graph.nodes
    view.set_state({"selection": ["n7"]})
    assert view.selection == (drawn[7],)


def test_without_anywidget_the_way_to_it_is_said(graph, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        "flowgraph.render.notebook.notebook.find_spec", lambda name: None if name == "anywidget" else found(name)
    )
    with pytest.raises(ArgumentError, match=r"pip install 'transformer-flowgraph\[notebook\]'"):
        graph.widget()


def test_a_graph_needs_no_notebook_package(graph, monkeypatch):
    imported, real = [], builtins.__import__

    def watched(name, *rest, **more):
        imported.append(name.split(".")[0])
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", watched)
    graph._repr_html_()
    assert not {"IPython", "anywidget", "ipywidgets", "traitlets"} & set(imported)


def test_the_module_fetches_nothing(graph):
    view = graph.widget()
    ours = view._esm.split("const cytoscape = held.exports;")[1]
    for word in ("http", "import ", "import(", "fetch("):
        assert word not in ours
    assert "@import" not in view._css
    assert "url(" not in view._css


# --- the widget in the browser ------------------------------------------------------------------------------------

HARNESS = """
window.makeModel = (state) => {
  const heard = {};
  return {
    state: { ...state }, sent: [],
    get(name) { return this.state[name]; },
    set(name, value) {
      this.state[name] = value;
      for (const act of heard[`change:${name}`] ?? []) act();
      this.waiting = name;
    },
    save_changes() { this.sent.push([this.waiting, this.state[this.waiting]]); },
    on(event, act) { (heard[event] ??= []).push(act); },
    off(event, act) { heard[event] = heard[event].filter((one) => one !== act); },
    count: () => Object.values(heard).flat().length,
  };
};
window.start = async (source, states) => {
  const url = URL.createObjectURL(new Blob([source], { type: 'text/javascript' }));
  const { default: widget } = await import(url);
  window.models = {};
  window.ends = {};
  for (const [name, state] of Object.entries(states)) {
    models[name] = makeModel(state);
    const el = document.createElement('div');
    el.id = name;
    document.body.append(el);
    ends[name] = await widget.render({ model: models[name], el });
  }
};
window.cyOf = (name) => document.querySelector(`#${name} [data-part=picture]`)._cyreg.cy;
"""


class _Cells:
    """Widgets in one document, each with a model of its own."""

    def __init__(self, page, views: dict[str, FlowWidget]) -> None:
        self.page = page
        one = next(iter(views.values()))
        page.set_content(f"<!doctype html><style>body {{ width: 900px; }} {one._css}</style><script>{HARNESS}</script>")
        # Notebooks may have a module loader; the library must not speak to it.
        page.evaluate("() => { window.define = () => { throw new Error('define'); }; window.define.amd = {}; }")
        names = ("_page", "selection", "pins", "level", "width", "theme", "height")
        states = {name: view.get_state(names) for name, view in views.items()}
        page.evaluate("([source, states]) => start(source, states)", [one._esm, json.loads(json.dumps(states))])
        for name in views:
            page.wait_for_function(f"() => cyOf('{name}').zoom() > 0")

    def value(self, code: str, argument=None):
        return self.page.evaluate(f"(argument) => {code}", argument)

    def sent(self, name: str) -> list:
        return self.value(f"models.{name}.sent.splice(0)")

    def chosen(self, name: str) -> list[str]:
        return self.value(f"cyOf('{name}').elements('.chosen').map((item) => item.id())")

    def click(self, name: str, item: str, modifier: str | None = None) -> None:
        x, y = self.value(
            f"(() => {{ const box = document.querySelector('#{name} [data-part=picture]').getBoundingClientRect();"
            f" const at = cyOf('{name}').$id(argument).renderedPosition(); return [at.x + box.x, at.y + box.y]; }})()",
            item,
        )
        if modifier:
            self.page.keyboard.down(modifier)
        self.page.mouse.click(x, y)
        if modifier:
            self.page.keyboard.up(modifier)


@pytest.fixture
def cells(browser):  # noqa: F811
    opened = []

    def build(**views: FlowWidget) -> _Cells:
        context = browser.new_context(viewport={"width": 1000, "height": 1500}, reduced_motion="reduce")
        context.route("**/*", lambda route: route.abort())
        page, messages = context.new_page(), []
        page.on("console", lambda message: messages.append(message.text))
        page.on("pageerror", lambda error: messages.append(str(error)))
        context.on("request", lambda request: None if request.url.startswith("blob:") else messages.append(request.url))
        opened.append((context, messages))
        return _Cells(page, views)

    yield build
    for context, messages in opened:
        context.close()
        assert messages == []


def _id(graph, label: str) -> str:
    return f"n{next(n for n, node in enumerate(graph.nodes) if str(node) == label)}"


@pytest.mark.browser
def test_clicks_reach_the_model_and_the_model_reaches_the_picture(cells):
    graph = token_graph(layers=8)
    found = cells(a=graph.widget(), b=graph.widget(level=1000, theme="dark", height=500))
    node, other = _id(graph, "L7.resid_post@7"), _id(graph, "L3.resid_post@7")
    found.click("a", node)
    assert found.sent("a") == [["selection", [node]]]
    found.click("a", other, modifier="Control")
    assert found.sent("a") == [["pins", [other]]]
    assert found.chosen("b") == []
    assert found.sent("b") == []
    found.value("models.b.set('selection', [argument])", other)
    assert found.chosen("b") == [other]
    assert found.chosen("a") == [node]
    assert found.sent("b") == []
    edge = found.value("cyOf('b').edges('.attention').first().data()")
    found.value("models.b.set('selection', argument)", [edge["source"], edge["target"]])
    assert found.chosen("b") == [edge["id"]]
    found.value("models.b.set('selection', [])")
    assert found.chosen("b") == []
    found.value("models.b.set('level', 30)")
    assert found.value("cyOf('b').edges('.off').length") > 0
    found.value("models.b.set('pins', [argument])", node)
    assert found.value("cyOf('b').nodes('.pin').map((one) => one.id())") == [node]
    found.value("models.b.set('width', 'share')")
    assert found.page.locator("#b input[value=share]").is_checked()
    assert found.page.locator("#a input[value=flow]").is_checked()
    assert found.page.locator("#b .flowgraph").get_attribute("data-theme") == "dark"
    assert boxes(found.page, "#b .flowgraph")[0]["height"] == 500
    assert found.sent("b") == []


@pytest.mark.browser
def test_controls_reach_the_model_and_the_end_leaves_nothing(cells):
    graph = token_graph(layers=8)
    found = cells(a=graph.widget())
    keep = found.page.locator("#a [data-part=keep]")
    keep.evaluate("(box) => { box.value = 900; box.dispatchEvent(new Event('input')); }")
    found.page.locator("#a input[value=share]").check(force=True)
    found.page.locator("#a [data-part=theme]").click()
    assert found.sent("a") == [["level", 900], ["width", "share"], ["theme", "dark"]]
    edge = found.value("cyOf('a').edges('.attention').not('.off').first().data()")
    found.value("void cyOf('a').$id(argument).emit('tap')", edge["id"])
    assert found.sent("a") == [["selection", [edge["source"], edge["target"]]]]
    assert found.chosen("a") == [edge["id"]]
    found.value("ends.a()")
    assert found.value("models.a.count()") == 0
    assert found.page.locator("#a").inner_html() == ""


@pytest.mark.browser
@pytest.mark.parametrize("name", ["llama", "positions"])
def test_semantic_graphs_are_widgets_too(cells, graphs, name):  # noqa: F811
    graph = graphs(name)
    found = cells(a=graph.widget(), b=token_graph(layers=4).widget())
    n = next(n for n, node in enumerate(graph.nodes) if node.kind == "attn")
    found.value("models.a.set('selection', [argument])", f"n{n}")
    assert found.page.locator("#a [data-part=details] h3").inner_text().startswith(str(graph.nodes[n]))
    other = next(n for n, node in enumerate(graph.nodes) if node.kind == "mlp")
    found.value("void cyOf('a').$id(argument).emit('tap')", f"n{other}")
    assert found.sent("a") == [["selection", [f"n{other}"]]]
    assert found.chosen("b") == []


@pytest.mark.browser
def test_a_widget_follows_the_notebooks_theme_and_survives_an_empty_graph(cells):
    found = cells(a=empty_graph(with_nodes=False).widget())
    assert "No edges to draw" in found.page.locator("#a [data-part=empty]").inner_text()
    found.page.evaluate("() => { document.body.dataset.jpThemeLight = 'false'; }")
    found.value("models.a.set('theme', 'auto')")
    assert found.page.locator("#a .flowgraph").get_attribute("data-theme") == "dark"
