"""axe-core over every state of the page: contrast, names, roles, landmarks and focus order, in light and in dark."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from flowgraph_webapp.recipe import to_query
from flowgraph_webapp.server.service import Service

from tests.app.tabs import SIZES, WAIT, Opened, served

pytestmark = [pytest.mark.browser, pytest.mark.slow]

RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]
OFF: dict[str, str] = {}
"""Rule that is switched off → why."""
COLOURS = ["color-contrast", "link-in-text-block"]
"""The rules that look at colours: all that another theme can break."""
STATE = "resid_post.23.-.7.-"
# Of rules that hold, axe lists one element and no more, which halves its time.
_ASK = """async ([runOnly, off]) => {
  const { violations, passes } = await window.axe.run(document, {
    runOnly, rules: Object.fromEntries(off.map((name) => [name, { enabled: false }])), resultTypes: ['violations'],
  });
  const said = violations.flatMap((rule) => rule.nodes.map((node) => `${rule.id}: ${node.html.slice(0, 160)} — ${node.failureSummary}`));
  return [said, passes.length];
}"""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The bundled examples, without a model."""
    with served(Service(())) as found:
        yield found


@pytest.fixture(scope="module")
def query() -> str:
    service = Service(())
    service.close()
    return to_query(next(one.recipe for one in service.examples if one.id == "capital-of-japan"))


def violations(tab: Opened, only: list[str] | None = None) -> list[str]:
    """What axe finds, one sentence for each element; by the rules of these names only, if they are given."""
    import axe_playwright_python.base as axe

    if not tab.page.evaluate("Boolean(window.axe)"):
        tab.page.evaluate(axe.AXE_SCRIPT)
    rules = {"type": "tag", "values": RULES} if only is None else {"type": "rule", "values": only}
    found, passed = tab.page.evaluate(_ASK, [rules, list(OFF)])
    assert passed > (10 if only is None else 0)
    return found


def graph(tab: Opened) -> None:
    tab.page.wait_for_selector("#details table")


def node(tab: Opened) -> None:
    tab.evaluate("(app.tell({ selected: argument }), app.togglePin(argument))", STATE)
    tab.wait("document.getElementById('details').textContent.includes('L23.resid_post@7')")


def edge(tab: Opened) -> None:
    graph(tab)
    tab.page.locator("#details [data-pick^='edge.']").first.click()
    tab.wait("app.selected?.startsWith('edge.')")
    tab.page.wait_for_selector("#details [data-pick^='resid'], #details [data-pick^='logit']")


def panel(name: str):
    def show(tab: Opened) -> None:
        tab.page.locator(f"[role=tab][data-tab={name}]").click()
        tab.page.wait_for_selector("#content .drawn > *", timeout=WAIT)
        tab.wait("document.querySelector(`[role=tab][data-tab=${argument}]`).ariaSelected === 'true'", name)

    return show


def menu(name: str):
    def show(tab: Opened) -> None:
        tab.page.locator(f"#{name} summary").click()
        assert tab.page.locator(f"#{name} .menu-body").is_visible()

    return show


def help_text(tab: Opened) -> None:
    tab.page.locator("#help").click()
    assert tab.page.locator("#help-text").is_visible()


def choices(tab: Opened) -> None:
    """The list of a drop-down."""
    panel("heads")(tab)
    tab.page.locator("#score").click()
    tab.page.wait_for_selector(".dash-dropdown-content[aria-labelledby] input")


ON_THE_GRAPH = {
    "graph": graph, "node": node, "edge": edge,
    **{name: panel(name) for name in ("lens", "heads", "attention", "bars", "semantic")},
    **{f"menu-{name}": menu(name) for name in ("examples", "export", "save-session")},
    "help": help_text, "choices": choices,
}  # fmt: skip
"""What is opened beside the graph: in one tab, since loading the page takes longer than all that follows."""


def empty(tab: Opened, _query: str) -> None:
    tab.goto()
    tab.page.wait_for_selector(".opening .example")


def search(tab: Opened, query: str) -> None:
    tab.drawn(f"{query}&keep=200")
    tab.page.locator("#search").fill("Tokyo")
    tab.page.wait_for_selector("#matches li")


def notice(tab: Opened, query: str) -> None:
    tab.drawn(query)
    tab.redrawn(lambda: tab.choose("level", "head"))
    tab.choose("method", "norms")
    tab.page.wait_for_selector("#notice .notice")


def absent(tab: Opened, query: str) -> None:
    """A panel that cannot be shown says why in its place."""
    tab.drawn(f"{query}&tab=semantic".replace("semantic_layers=23,24", "semantic_layers=3,5"))
    tab.page.wait_for_selector("#content .notice")


def drawers(tab: Opened, query: str) -> None:
    tab.page.set_viewport_size({"width": 900, "height": 700})
    tab.drawn(query)
    tab.page.locator("#left-drawer").click()
    assert tab.page.locator("aside.left").is_visible()


PAGES = {"empty": empty, "search": search, "notice": notice, "absent": absent, "drawers": drawers}


@pytest.fixture(scope="module")
def with_graph(browser, address, query) -> Iterator[Opened]:
    """One tab for all that is opened beside the graph."""
    tab = Opened(browser, address, SIZES[1], "light").drawn(query)
    yield tab
    tab.context.close()
    assert tab.requests == []
    assert tab.messages == []


@pytest.fixture
def on_the_graph(with_graph) -> Opened:
    """That tab, light and with nothing opened."""
    tab = with_graph
    tab.page.keyboard.press("Escape")
    tab.evaluate(
        "(app.address.change({ tab: '' }), app.tell({ selected: null }), app.pins.length && app.togglePin(argument))",
        STATE,
    )
    while tab.evaluate("document.documentElement.dataset.theme") != "light":
        tab.evaluate("app.nextTheme()")
    tab.wait("!document.querySelector('.panel').checkVisibility() && !app.selected && !app.pins.length")
    assert tab.page.locator("details[open] .menu-body, #help-text:visible, .dash-dropdown-content").count() == 0
    return tab


def audit(tab: Opened, *, in_full: bool = False) -> None:
    """Hold the page against the rules in light and in dark; there against those that look at colours, or ``in_full``."""
    assert violations(tab) == []
    tab.evaluate("app.nextTheme()")
    assert tab.evaluate("document.documentElement.dataset.theme") == "dark"
    # Some colours change gradually.
    tab.wait("!document.getAnimations().some((one) => one instanceof CSSTransition)")
    assert violations(tab, None if in_full else COLOURS) == []


@pytest.mark.parametrize("name", ON_THE_GRAPH)
def test_everyone_can_use_the_graph_and_what_opens_beside_it(on_the_graph, name):
    ON_THE_GRAPH[name](on_the_graph)
    # What a theme changes beside colours, such as the name of its button, is the same everywhere.
    audit(on_the_graph, in_full=name == "graph")


@pytest.mark.parametrize("name", PAGES)
def test_everyone_can_use_other_pages(opened, query, name):
    tab = opened(SIZES[1])
    PAGES[name](tab, query)
    audit(tab)


def test_what_a_page_asks_for_elsewhere_is_noted_and_fails(browser, address):
    tab = Opened(browser, address, SIZES[0], "light")
    # A page without the rules of the app's, which would not let it ask.
    tab.page.goto("about:blank")
    for place in ("http://example.org/a", "http://192.0.2.7/b"):
        asked = "fetch(argument, { mode: 'no-cors' }).then(() => 'answered', () => 'failed')"
        assert tab.evaluate(asked, place) == "failed"
    assert tab.requests == ["http://example.org/a", "http://192.0.2.7/b"]
    tab.context.close()


def test_the_tab_key_goes_through_the_page_as_it_reads(tab):
    empty(tab, "")
    names = ("model", "prompt", "trace", "examples", "theme", "help", "method", "keep")
    for name in names:
        tab.page.wait_for_selector(f"#{name}", state="attached")  # menus and sliders come with a script of their own
    tab.evaluate("document.activeElement.blur()")
    reached = []
    for _ in range(60):
        tab.page.keyboard.press("Tab")
        if tab.evaluate("document.activeElement === document.body"):
            break
        assert tab.evaluate("document.activeElement.checkVisibility()")
        assert tab.evaluate("document.activeElement.closest('[aria-hidden=true]') === null")
        reached.append(tab.evaluate("document.activeElement.id || document.activeElement.closest('[id]').id"))
    first = [name for n, name in enumerate(reached) if name not in reached[:n]]
    places = [first.index(name) for name in names]
    assert places == sorted(places)
    assert first.index("keep") < first.index("stage") < first.index("search")


def test_a_menu_is_chosen_from_with_keys(tab, query):
    tab.drawn(f"{query}&tab=heads")
    tab.page.wait_for_selector("#content .drawn > *", timeout=WAIT)
    tab.page.locator("#score").focus()
    assert tab.evaluate("document.activeElement.tabIndex") == 0
    tab.page.keyboard.press("Enter")
    for value in ("direct_logit", "entropy", "sink"):
        tab.wait("document.activeElement.value === argument", value)
        tab.page.keyboard.press("Space" if value == "sink" else "ArrowDown")
    tab.wait("location.search.includes('score=sink')")
    assert tab.page.get_by_role("button", name="Score sink (share)").count() == 1


def test_help_takes_the_focus_and_gives_it_back(tab):
    empty(tab, "")
    tab.page.locator("#help").click()
    assert tab.evaluate("document.activeElement.id") == "help-text"
    tab.page.keyboard.press("Escape")
    assert not tab.page.locator("#help-text").is_visible()
    assert tab.evaluate("[document.activeElement.id, document.activeElement.ariaExpanded]") == ["help", "false"]


def test_choices_are_heard_with_their_group(on_the_graph):
    tab = on_the_graph
    for group, chosen in (("Method", "proximity"), ("Show", "routes"), ("Level", "token"), ("Edge width", "flow")):
        box = tab.page.get_by_role("radiogroup", name=group)
        assert box.get_by_role("radio", checked=True).get_attribute("value") == chosen
    assert tab.page.get_by_role("slider", name="Layers from", exact=True).count() == 1
    assert tab.page.get_by_role("application", name="Flow graph").count() == 1
