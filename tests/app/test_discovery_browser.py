"""A search for a circuit in Chromium: from the form to its picture, with the page usable meanwhile, and back."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import quote

import pytest
from flowgraph_webapp.panels.circuit import CircuitQuestion
from flowgraph_webapp.recipe import Recipe, to_query
from flowgraph_webapp.server.run import RunQuestion
from flowgraph_webapp.server.service import Service
from playwright.sync_api import expect

from tests.app.conftest import TEXT, Held
from tests.app.tabs import served
from tests.app.test_accessibility import COLOURS, violations

pytestmark = [pytest.mark.browser, pytest.mark.slow]

OTHER = "The mat sat on the cat"


@pytest.fixture(scope="module")
def circuits(folder) -> Service:
    service = Service([folder], examples=False)
    service.ask(RunQuestion(folder, TEXT))
    return service


@pytest.fixture(scope="module")
def address(circuits) -> Iterator[str]:
    with served(circuits) as found:
        yield found


@pytest.fixture
def opened_form(opened, folder):
    """``opened_form(scheme)`` → a tab in which the prompt is drawn and the form is open."""

    def open_form(scheme: str = "light"):
        tab = opened(scheme=scheme).drawn(f"?model={quote(folder)}&text={quote(TEXT)}")
        tab.page.locator("#finder summary").click()
        expect(tab.page.locator("#proposed")).not_to_be_empty()
        tab.page.locator("#corrupted").fill(OTHER)
        return tab

    return open_form


def shows_circuit(tab) -> None:
    tab.wait("app.root().hasAttribute('data-circuit') && app.view && app.cy.nodes('[id ^= \"n\"]').length")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_from_the_form_to_the_circuit_and_back(opened_form, circuits, folder, scheme):
    tab = opened_form(scheme)
    page = tab.page
    page.locator("#budget").fill("60")
    page.locator("#find").click()
    shows_circuit(tab)
    recipe = Recipe(model=folder, text=TEXT, circuit="backward", corrupted=OTHER, budget=60)
    graph = circuits.ask(CircuitQuestion.of(recipe)).graph
    assert tab.evaluate("app.data.edges.length") == len(graph)
    assert "circuit=backward" in tab.search()
    assert violations(tab) == []
    details = page.locator("#details")
    expect(details).to_contain_text("gap, clean less corrupted")
    expect(details).to_contain_text("Each edge was cut by itself")
    expect(page.locator("#caption")).to_contain_text("circuit: backward in logits")
    details.locator("[data-pick]").first.click()
    expect(details).to_contain_text("Edge of the circuit")
    details.locator("[data-pick]").first.click()
    expect(details).to_contain_text("What reads it")
    page.get_by_role("button", name="back to the flow graph").click()
    tab.wait("!app.root().hasAttribute('data-circuit') && app.data.position !== null")
    assert "circuit" not in tab.search()
    page.go_back()
    shows_circuit(tab)
    expect(page.locator("#corrupted")).to_have_value(OTHER)


def test_a_link_to_a_circuit_opens_it_with_its_form(opened, folder):
    query = to_query(Recipe(model=folder, text=TEXT, circuit="eap-ig", corrupted=OTHER, budget=30))
    tab = opened()
    tab.goto(query)
    shows_circuit(tab)
    expect(tab.page.locator("#corrupted")).to_have_value(OTHER)
    expect(tab.page.locator("#circuit")).to_contain_text("eap-ig")
    assert tab.page.locator("#budget").input_value() == "30"
    # A choice about the flow graph shows that graph again.
    tab.choose("method", "norms")
    tab.wait("!app.root().hasAttribute('data-circuit')")
    assert "circuit" not in tab.search()
    assert "method=norms" in tab.search()


def test_the_page_stays_usable_while_it_searches_and_a_search_can_be_cancelled(opened_form, circuits):
    tab = opened_form()
    page = tab.page
    page.locator("#budget").fill("61")
    with Held(circuits):
        page.locator("#find").click()
        expect(page.locator("#find-cancel")).to_be_visible()
        expect(page.locator("#find-progress .stage-name")).not_to_be_empty()
        # What is known already is answered at once.
        tab.evaluate("dash_clientside.set_props('picture', { selected: 'edge.0' })")
        expect(page.locator("#details")).to_contain_text("edge")
        page.locator("#find-cancel").click()
        expect(page.locator("#found")).to_contain_text("The search was cancelled.")
    expect(page.locator("#find")).to_be_visible()
    assert "circuit" not in tab.search()
    page.locator("#find").click()
    shows_circuit(tab)


def test_what_was_written_stays_with_its_prompt(opened_form, folder):
    """Another target is no other prompt; another prompt has another counterpart."""
    tab = opened_form()
    page = tab.page
    tab.redrawn(lambda: page.locator("[data-token]").nth(2).click(modifiers=["Shift"]))
    assert page.locator("#corrupted").input_value() == OTHER
    page.locator("#prompt").fill(OTHER)
    tab.redrawn(lambda: page.locator("#trace").click())
    expect(page.locator("#corrupted")).not_to_have_value(OTHER)


def test_who_went_on_is_not_taken_back(opened_form, circuits):
    tab = opened_form()
    page = tab.page
    page.locator("#budget").fill("62")
    with Held(circuits):
        page.locator("#find").click()
        expect(page.locator("#find-progress .stage-name")).not_to_be_empty()
        tab.choose("method", "norms")
    expect(page.locator("#found")).to_contain_text("Circuit found:")
    tab.wait("app.root().dataset.drawn")
    assert "circuit" not in tab.search()
    page.get_by_role("button", name="Show it").click()
    shows_circuit(tab)
    assert "budget=62" in tab.search()


@pytest.mark.parametrize(
    ("corrupted", "message"),
    [("The", "make them equally long"), (TEXT, "change nothing"), ("", "the corrupted prompt is empty")],
)
def test_what_is_wrong_is_said_in_the_form(opened_form, corrupted, message):
    tab = opened_form()
    tab.page.locator("#corrupted").fill(corrupted)
    tab.page.locator("#find").click()
    expect(tab.page.locator("#found")).to_contain_text(message)
    expect(tab.page.locator("#find")).to_be_visible()
    assert "circuit" not in tab.search()


def test_a_test_can_be_cancelled(opened_form, circuits):
    tab = opened_form()
    with Held(circuits):
        tab.page.get_by_role("button", name="Test this graph").click()
        expect(tab.page.locator("#test-progress .stage-name")).not_to_be_empty()
        tab.page.locator("#test-cancel").click()
        expect(tab.page.locator("#test-cancel")).to_be_hidden()
    assert tab.page.locator("#effect").inner_text() == ""
    tab.page.get_by_role("button", name="Test this graph").click()
    expect(tab.page.locator("#effect")).to_contain_text("random pictures")
    tab.page.get_by_role("button", name="Set to zero instead").click()
    expect(tab.page.locator("#effect")).to_contain_text("left of the baseline")


def test_the_curve_over_the_slider_grows_and_can_be_stopped(opened_form, circuits):
    tab = opened_form()
    # Norms give every part a length, so that the whole graph keeps all of the answer.
    tab.redrawn(lambda: tab.evaluate("app.address.change({ method: 'norms', show: 'all', level: 'head' })"))
    with Held(circuits):
        tab.page.locator("#curve").click()
        expect(tab.page.locator("#curve")).to_have_text("Stop measuring")
        tab.page.locator("#curve").click()
        expect(tab.page.locator("#curve")).to_have_text("What each level keeps")
    assert tab.page.locator(".curve svg").count() == 0
    tab.page.locator("#curve").click()
    expect(tab.page.locator(".curve-said")).to_contain_text("Random pictures keep at most", timeout=60_000)
    assert tab.page.locator(".curve .kept, .curve .random").count() == 2
    smallest = tab.page.locator("[data-level]")
    expect(smallest).to_contain_text("edges")
    level = smallest.get_attribute("data-level")
    smallest.click()
    assert tab.text("#counter").startswith(smallest.inner_text().split()[0])
    assert tab.page.locator("#keep").input_value() == level
    tab.redrawn(lambda: tab.choose("method", "proximity"))
    assert tab.page.locator(".curve svg").count() == 0


def test_every_field_of_the_form_has_a_name(opened_form):
    page = opened_form().page
    for name in ("Corrupted text", "Answer", "minus", "Budget"):
        expect(page.locator("#finder").get_by_label(name, exact=True)).to_be_visible()
    for name in ("Searched with", "Method"):
        expect(page.locator("#finder").get_by_role("button", name=re.compile(f"^{name}"))).to_be_visible()
    page.locator("#task").click()
    page.locator(".dash-dropdown-content label", has_text="task: ioi, flip").click()
    expect(page.locator("#finder").get_by_label("Examples", exact=True)).to_be_visible()
    expect(page.locator("#corrupted")).to_be_hidden()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_form_is_held_against_axe(opened_form, circuits, scheme):
    tab = opened_form(scheme)
    rules = None if scheme == "light" else COLOURS
    assert violations(tab, rules) == []
    with Held(circuits):
        tab.page.locator("#budget").fill("63" if scheme == "light" else "64")
        tab.page.locator("#find").click()
        expect(tab.page.locator("#find-progress .stage-name")).not_to_be_empty()
        assert violations(tab, rules) == []
        tab.page.locator("#find-cancel").click()
        expect(tab.page.locator("#found")).to_contain_text("The search was cancelled.")
        assert violations(tab, rules) == []
