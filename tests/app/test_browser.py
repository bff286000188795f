"""The app in a real browser, without a worker and without a network: what a person does, and what then is there."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from urllib.parse import quote

import pytest
from flowgraph_webapp.node_key import parse_node_key
from flowgraph_webapp.server.errors import Busy

from flowgraph import node_key
from flowgraph.errors import PromptError
from tests.app.conftest import until
from tests.app.fake_service import EXAMPLE, FakeService
from tests.app.tabs import QUERY, SIZES, Opened, served
from tests.browser import boxes
from tests.paper import printed, whole_on_paper

pytestmark = [pytest.mark.browser, pytest.mark.real_model]

READ = "resid_post.23.-.7.-"
"""The state of the last token after the layer in which it reads Japan."""


@pytest.fixture(scope="module")
def service() -> FakeService:
    return FakeService()


@pytest.fixture(scope="module")
def address(service) -> Iterator[str]:
    with served(service) as found:
        yield found


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_from_an_empty_page_to_a_picture(opened, scheme):
    tab = opened(SIZES[1], scheme).goto()
    assert tab.page.locator(".opening").is_visible()
    assert tab.page.get_by_label("Prompt").is_visible()
    tab.page.get_by_label("Prompt").fill(EXAMPLE)
    tab.redrawn(lambda: tab.page.get_by_role("button", name="Trace").click())
    assert not tab.page.locator(".opening").is_visible()
    assert "Tokyo" in tab.text("#strip")
    assert tab.shown() > 50
    assert "of the mass" in tab.text("#counter")
    assert tab.search() == f"?model=smollm2&text={EXAMPLE}"
    assert tab.evaluate("document.documentElement.dataset.theme") == scheme


def test_ctrl_enter_in_the_prompt_traces(tab):
    tab.goto()
    tab.page.get_by_label("Prompt").fill(EXAMPLE)
    tab.redrawn(lambda: tab.page.keyboard.press("Control+Enter"))
    assert tab.shown() > 50


def test_an_example_opens_from_the_empty_page_and_from_the_menu(tab):
    tab.goto()
    tab.redrawn(lambda: tab.page.locator(".opening .example").click())
    assert "example=japan" in tab.search()
    assert tab.page.get_by_label("Prompt").input_value() == EXAMPLE


def test_a_click_on_a_node_brings_its_details(tab):
    tab.drawn()
    tab.page.mouse.click(*tab.point(READ))
    tab.wait("document.getElementById('details').textContent.includes('L23.resid_post@7')")
    assert f"selected={READ}" in tab.search()
    tab.page.keyboard.press("Escape")
    tab.wait("!document.getElementById('details').textContent.includes('L23.resid_post@7')")
    assert "selected" not in tab.search()


def test_hovering_says_what_a_node_reads(tab):
    tab.drawn()
    x, y = tab.point(READ)
    tab.page.mouse.move(x - 60, y - 60)
    tab.page.mouse.move(x, y, steps=8)
    tip = tab.page.locator("#stage [data-part=tip]")
    tip.wait_for(state="visible")
    assert "L23.resid_post@7" in tip.inner_text()


def test_the_slider_filters_without_the_server_and_stays_in_the_address(tab, service):
    tab.drawn()
    tab.wait("app.root().dataset.read === app.root().dataset.drawn && app.root().dataset.held")
    before = tab.shown()
    asked = set(service.asked)  # the details ask the same once more
    tab.keep(150)
    few = tab.shown()
    assert few < before
    assert tab.text("#counter").startswith(f"{few} of ")
    tab.keep(1000)
    assert tab.shown() == tab.evaluate("app.cy.edges().length")
    tab.keep(150)
    tab.wait("location.search.includes('keep=150')")
    assert set(service.asked) == asked


def test_the_slider_keeps_its_value_without_the_focus_and_a_key_moves_it_by_one_step(tab):
    tab.drawn()
    slider = tab.page.locator("#keep")
    [box] = boxes(tab.page, "#keep")
    tab.page.mouse.click(box["x"] + 0.4 * box["width"], box["y"] + box["height"] / 2)
    level, few = int(slider.input_value()), tab.shown()
    assert 300 < level < 500
    tab.wait("location.search.includes(argument)", f"keep={level}")
    # Neither a click elsewhere nor Tab changes it.
    tab.page.locator("#counter").click()
    assert (int(slider.input_value()), tab.shown()) == (level, few)
    slider.focus()
    tab.page.keyboard.press("Tab")
    tab.page.wait_for_timeout(200)
    assert (int(slider.input_value()), tab.shown()) == (level, few)
    slider.focus()
    tab.page.keyboard.press("ArrowLeft")
    tab.wait("location.search.includes(argument)", f"keep={level - 1}")
    assert int(slider.input_value()) == level - 1
    assert few - 10 < tab.shown() <= few
    # What is typed over does not stay: back leads to the picture before, with its slider.
    tab.redrawn(lambda: tab.choose("method", "norms"))
    tab.redrawn(tab.page.go_back)
    assert int(slider.input_value()) == level - 1


ON_TOP = """(selector) => {
  const one = document.querySelector(selector), box = one.getBoundingClientRect();
  return one.contains(document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2));
}"""
"""Whether an element covers what lies at its middle."""


def test_a_refusal_is_seen_and_what_is_still_shown_is_said_to_be_old(tab, service):
    tab.drawn()
    tab.wait("app.root().dataset.read === app.root().dataset.drawn && app.root().dataset.held")
    before = tab.picture()
    prompt = tab.page.get_by_label("Prompt")
    service.failure = PromptError("the prompt has 994 tokens")
    prompt.fill("word " * 400 + "\nand a line")
    tab.page.keyboard.press("Control+Enter")
    tab.wait("document.getElementById('notice').textContent.includes('994 tokens')")
    tab.wait("document.activeElement.id !== 'prompt'")
    tab.wait("document.querySelector('.behind').checkVisibility()")
    tab.wait(f"({ON_TOP})('#notice .notice')")
    assert boxes(tab.page, "#prompt")[0]["height"] == 30
    assert "+ 1 line" in tab.evaluate("getComputedStyle(document.querySelector('.ask'), '::after').content")
    # It stands where the predictions stood: the picture stays where it is, and none of it is covered.
    assert EXAMPLE in tab.text(".behind")
    assert not tab.page.locator(".predictions").is_visible()
    strip, stage = boxes(tab.page, ".behind", "#stage")
    assert strip["y"] + strip["height"] <= stage["y"]
    assert tab.picture() == before
    # No file of a picture that nobody asks for any more.
    tab.page.locator("#export summary").click()
    assert not tab.page.locator("[data-export='graph.svg']").is_visible()
    assert "trace a prompt" in tab.text("#export .menu-body")
    tab.page.keyboard.press("Escape")
    # Details are of the picture that is shown, and nothing is offered that would ask the refused run.
    tab.evaluate("window.dash_clientside.set_props('picture', { selected: argument })", READ)
    tab.wait("document.getElementById('details').textContent.includes('L23.resid_post@7')")
    assert not any(tab.page.locator(one).is_visible() for one in (".tests", "#continue", "#finder"))
    tab.page.locator("[role=tab][data-tab=heads]").click()
    tab.wait("document.querySelector('.why-empty').checkVisibility()")
    assert "was not traced" in tab.text(".why-empty")
    # A notice that comes while somebody writes on does not lie under the box.
    prompt.click()
    tab.page.keyboard.type("x")
    tab.wait(
        "document.querySelector('#notice .notice').getBoundingClientRect().top"
        " >= document.getElementById('prompt').getBoundingClientRect().bottom"
    )
    prompt.fill(EXAMPLE)
    tab.page.keyboard.press("Control+Enter")
    tab.wait("document.querySelector('#content').textContent.includes('H8')")
    assert not tab.page.locator(".behind").is_visible()
    assert tab.evaluate("document.activeElement.id") != "prompt"


def test_what_was_measured_and_what_is_not_drawn_follow_the_picture(tab):
    tab.drawn()
    tab.wait("app.root().dataset.held === app.root().dataset.drawn")
    assert "L28 MLP +5.08, not drawn (share below .02; proximity measures nearness, not logits)" in tab.text(".writers")
    assert "L29 MLP +2.82, not drawn" not in tab.text(".writers")
    tab.page.get_by_role("button", name="Test this graph").click()
    tab.page.wait_for_selector(".effect-box h3")
    shown = tab.shown()
    assert not tab.page.locator(".stale").is_visible()
    tab.keep(20)
    assert f"Measured with {shown} edges shown; now there are {tab.shown()}." in tab.text(".stale")
    assert "not drawn (the slider hides it)" in tab.text(".writers")
    tab.page.locator(".writers .link").first.click()
    tab.wait("document.getElementById('details').textContent.includes('Two measures')")
    assert tab.page.locator(".effect-box").count() == 0
    tab.page.get_by_role("button", name="Ablate").click()
    tab.page.wait_for_selector(".effect-box h3")
    tab.redrawn(lambda: tab.page.locator("#strip [data-token]").nth(1).click())
    tab.wait("!document.querySelector('.effect-box')")
    tab.wait("app.root().dataset.held === app.root().dataset.drawn")
    assert "␣Tokyo" not in tab.text(".writers")


def test_a_selected_edge_is_marked_is_in_the_address_and_fits_into_the_window(opened):
    tab = opened().drawn()
    edge = tab.evaluate(
        "app.data.edges.findIndex((one, i) => app.meta.edge_kinds[i] === 'attention' && one.data.source !== one.data.target)"
    )
    tab.evaluate(
        "window.dash_clientside.set_props('picture', { selected: `edge.${app.meta.edge_index[argument]}` })", edge
    )
    tab.wait("document.getElementById('details').textContent.includes('attention edge')")
    assert tab.evaluate("app.cy.edges('.chosen').map((one) => Number(one.style('underlay-opacity')) > 0)") == [True]
    assert "selected=attention~" in tab.search()
    copy = opened((1100, 700)).drawn(tab.page.url.partition("/?")[2].join(("?", "")))
    copy.wait("document.getElementById('details').textContent.includes('attention edge')")
    assert copy.evaluate("app.cy.edges('.chosen').map((one) => Number(one.id().slice(1)))") == [edge]
    copy.evaluate("app.root().setAttribute('data-right', '')")
    for width in (360, 900, 1280):
        copy.page.set_viewport_size({"width": width, "height": 700})
        assert copy.evaluate(
            "[...document.querySelectorAll('#details *')].every((one) => one.getBoundingClientRect().right <= innerWidth)"
        )
    # Nothing that scripts or assistive technology scroll to moves the page away.
    copy.evaluate("['#app', 'main'].forEach((one) => { document.querySelector(one).scrollTop = 200; })")
    assert copy.evaluate("['#app', 'main'].map((one) => document.querySelector(one).scrollTop)") == [0, 0]
    copy.redrawn(lambda: copy.evaluate("app.address.change({ method: 'norms' })"))


def test_a_refusal_fits_into_a_narrow_window_and_the_header_covers_nothing(opened):
    tab = opened((360, 780)).goto("?text=A+prompt&wrong=1")
    tab.wait("document.getElementById('notice').textContent.includes('wrong')")
    box, prompt, tools, main = boxes(tab.page, "#notice .notice", "#prompt", "#help", "#app main")
    assert box["x"] >= 0
    assert box["width"] > 300
    assert box["x"] + box["width"] <= 360
    assert box["height"] < 400
    assert prompt["y"] >= 0
    assert tools["y"] + tools["height"] <= main["y"]


def test_another_method_is_another_picture_and_back_returns(tab):
    tab.drawn()
    first = tab.picture()
    tab.redrawn(lambda: tab.choose("method", "norms"))
    assert tab.search().endswith("&method=norms")
    second = tab.picture()
    assert second != first
    tab.redrawn(tab.page.go_back)
    assert tab.picture() == first
    assert tab.page.locator("#method input:checked").get_attribute("value") == "proximity"
    tab.redrawn(tab.page.go_forward)
    assert tab.picture() == second
    assert tab.page.locator("#method input:checked").get_attribute("value") == "norms"


def test_the_address_gives_the_same_picture_again(opened):
    tab = opened().drawn()
    tab.redrawn(lambda: tab.choose("level", "head"))
    tab.keep(300)
    tab.choose("width", "share")
    tab.page.mouse.click(*tab.point(READ))
    tab.wait("location.search.includes('keep=300') && location.search.includes('selected=')")
    copy = opened()
    copy.drawn(tab.page.url.partition("/?")[2].join(("?", "")))
    assert copy.picture() == tab.picture()
    assert copy.page.locator("#width input:checked").get_attribute("value") == "share"
    copy.wait("document.getElementById('details').textContent.includes('L23.resid_post@7')")


def test_a_double_click_starts_the_flow_there_and_the_chip_leads_back(tab):
    tab.drawn()
    state = "resid_post.22.-.3.-"
    tab.redrawn(lambda: tab.page.mouse.dblclick(*tab.point(state)))
    assert "start=resid_post.22.3" in tab.search()
    assert "L22.resid_post@3" in tab.text("#start")
    tab.redrawn(lambda: tab.page.get_by_text("back to the logit").click())
    assert "start" not in tab.search()
    assert tab.text("#start") == ""


def test_two_pins_show_the_ways_between_them(tab):
    tab.drawn(QUERY + f"&pins={READ},resid_post.9.-.3.-")
    tab.wait("app.cy.edges('.way').length > 0")
    ways = tab.evaluate("app.cy.edges('.way').map((e) => [e.data('source'), e.data('target')])")
    first, last = (f"n{tab.evaluate('app.meta.keys.indexOf(argument)', key)}" for key in ("resid_post.9.-.3.-", READ))
    # Every edge lies on a way: its source is reached from the one pin, or is it, and so on to the other.
    assert {s for s, _ in ways} - {t for _, t in ways} == {first}
    assert {t for _, t in ways} - {s for s, _ in ways} == {last}
    tab.page.keyboard.press("Escape")
    tab.page.locator("#stage").focus()
    tab.page.keyboard.press("Escape")
    tab.wait("app.cy.edges('.way').length === 0")
    assert "pins" not in tab.search()


def test_a_predicted_token_becomes_target_with_shift_foil(tab):
    tab.drawn()
    chips = tab.page.locator("#strip [data-token]")
    tab.redrawn(lambda: chips.nth(1).click(modifiers=["Shift"]))
    assert tab.page.locator("#strip .chip.foil").count() == 1
    tab.redrawn(lambda: tab.page.locator("#strip [data-token]").nth(2).click())
    assert "target=" in tab.search()
    assert "foil=" in tab.search()


def test_every_panel_opens_and_closes(tab, service):
    tab.drawn()
    for name, words in (
        ("lens", "rank of"),
        ("heads", "H8"),
        ("attention", "L29"),
        ("bars", "logits"),
        ("semantic", "neurons"),
    ):
        before = len(service.asked)
        tab.page.locator(f"[role=tab][data-tab={name}]").click()
        # The words may stand in the panel before; the panel is another one when the server was asked.
        until(lambda at=before: len(service.asked) > at, f"the question of {name}")
        tab.wait("document.querySelector('#content').textContent.includes(argument)", words)
        assert f"tab={name}" in tab.search()
        assert tab.page.locator("#content .notice").count() == 0
    tab.page.locator(".toolbar .close").click()
    tab.wait("!document.querySelector('.panel').checkVisibility()")
    assert "tab=" not in tab.search()


def test_a_cell_of_a_panel_selects_the_node_everywhere(tab):
    tab.drawn(QUERY + "&tab=lens")
    cell = tab.page.locator("#content [data-pick='resid_post.23.-.7.-']").first
    cell.click()
    tab.wait("document.getElementById('details').textContent.includes('L23.resid_post@7')")
    tab.wait("app.cy.nodes('.chosen').length === 1")
    assert "selected=resid_post.23.-.7.-" in tab.search()


def test_nodes_are_found_by_label_token_and_word(tab):
    tab.drawn()
    for text, label in (("L23.resid_post@7", "L23.resid_post@7"), ("Japan", "@3"), ("tokyo", "logit[")):
        tab.page.keyboard.press("Escape")
        tab.page.locator("#stage").focus()
        tab.page.keyboard.press("/")
        tab.page.keyboard.type(text)
        assert label in tab.text("#matches li:first-child")
        tab.page.locator("#search").fill("")
    tab.page.locator("#search").fill("Sh")
    assert "word" in tab.text("#matches")
    tab.page.keyboard.press("Enter")
    tab.wait("app.selected")


def test_arrow_keys_walk_and_p_pins(tab):
    tab.drawn()
    tab.page.locator("#stage").focus()
    walked = []
    for key in ("ArrowUp", "ArrowDown", "ArrowLeft", "ArrowDown"):
        before = tab.evaluate("app.selected")
        tab.page.keyboard.press(key)
        tab.wait("app.selected !== argument", before)
        walked.append(parse_node_key(tab.evaluate("app.selected")))
    logit, last, left, below = walked
    assert logit.kind == "logit"
    assert (last.layer, last.position) == (29, 7)
    assert left.position < last.position
    assert below != left
    assert (below.position, below.layer <= left.layer) == (left.position, True)
    tab.page.keyboard.press("p")
    tab.wait("new URLSearchParams(location.search).get('pins') === argument", node_key(below))


def test_a_long_run_says_its_stage_and_can_be_cancelled(tab, service):
    tab.drawn()
    before = tab.picture()
    service.hold.clear()
    try:
        tab.choose("method", "attention")
        tab.wait("document.getElementById('progress').textContent.includes('tracing 40 %')")
        assert tab.page.locator("#cancel").is_visible()
        assert tab.picture() == before
        tab.page.locator("#cancel").click()
        tab.wait("document.getElementById('notice').textContent.includes('cancelled')")
    finally:
        service.hold.set()
    assert not tab.page.locator("#cancel").is_visible()
    assert tab.picture() == before
    tab.redrawn(lambda: tab.page.get_by_role("button", name="Trace").click())
    assert tab.text("#notice") == ""


def test_an_error_keeps_the_last_picture_and_can_be_dismissed(tab, service):
    tab.drawn()
    tab.wait("app.root().dataset.read === app.root().dataset.drawn && app.root().dataset.held")
    before = tab.picture()
    service.failure = Busy("32 questions are waiting")
    tab.choose("method", "norms")
    tab.wait("document.getElementById('notice').textContent.includes('32 questions')")
    assert tab.picture() == before
    tab.page.get_by_role("button", name="Dismiss").click()
    tab.wait("document.getElementById('notice').textContent === ''")


def test_controls_are_set_from_the_address(tab):
    said = f"text={quote('a <b> & c')}&chat=1&method=norms&show=all&level=head&threshold=0.05&heads_in=21,3&layer=3&fill=entropy&width=share"
    tab.goto(f"?{said}")
    tab.wait("document.querySelector('#method input:checked').value === 'norms'")
    assert tab.page.get_by_label("Prompt").input_value() == "a <b> & c"
    assert tab.page.locator("#chat input").is_checked()
    for name, value in {
        "show": "all",
        "level": "head",
        "fill": "entropy",
        "width": "share",
        "orientation": "auto",
    }.items():
        assert tab.page.locator(f"#{name} input:checked").get_attribute("value") == value
    assert [tab.page.locator(f"#{name}").input_value() for name in ("threshold", "heads_in")] == ["0.05", "21, 3"]


def test_a_bare_address_opens_with_the_first_model(browser):
    with served(FakeService(("other", "smollm2"))) as place:
        tab = Opened(browser, place, SIZES[0], "light").goto()
        assert tab.text("#model").strip() == "other"
        tab.page.get_by_label("Prompt").fill(EXAMPLE)
        tab.page.get_by_role("button", name="Trace").click()
        tab.wait("location.search.includes('model=other')")
        tab.context.close()


def test_a_malformed_address_is_explained_and_the_page_still_works(tab):
    tab.goto("?text=x&method=magic")
    tab.wait("document.getElementById('notice').textContent.includes('magic')")
    tab.page.get_by_label("Prompt").fill(EXAMPLE)
    tab.redrawn(lambda: tab.page.get_by_role("button", name="Trace").click())
    assert tab.text("#notice") == ""
    assert tab.search() == f"?model=smollm2&text={EXAMPLE}"


def test_a_score_that_does_not_exist_is_said_like_every_other_choice(tab):
    tab.goto(f"{QUERY}&tab=heads&score=zz")
    words = "score='zz' cannot be used; expected one of direct_logit"
    tab.wait("document.getElementById('notice').textContent.includes(argument)", words)
    tab.redrawn(lambda: tab.evaluate("app.address.change({ score: 'entropy', show: 'all' })"))
    assert tab.text("#notice") == ""


def test_the_score_that_is_shown_stays_when_something_else_changes(tab):
    tab.drawn(f"{QUERY}&tab=heads")
    tab.wait("document.getElementById('score').textContent.includes('direct logit')")
    tab.redrawn(lambda: tab.choose("method", "norms"))
    assert "direct logit" in tab.text("#score")


def test_an_address_without_a_model_says_it_from_the_first_change_on(tab):
    tab.drawn(QUERY)
    drawn = tab.evaluate("app.root().dataset.drawn")
    tab.evaluate("app.address.change({ tab: 'bars' })")
    tab.page.wait_for_selector("#content .bars")
    assert tab.search() == f"?model=smollm2&text={EXAMPLE}&tab=bars"
    # It is the same picture: nothing is drawn anew.
    assert tab.evaluate("app.root().dataset.drawn") == drawn


def test_themes_go_round_and_are_remembered(opened):
    tab = opened().drawn()
    seen = []
    for _ in range(3):
        tab.page.locator("#theme").click()
        seen.append(tab.evaluate("document.documentElement.dataset.theme"))
    assert seen == ["dark", "print", "light"]
    tab.page.locator("#theme").click()
    tab.drawn()
    assert tab.evaluate("[document.documentElement.dataset.theme, app.root().dataset.theme]") == ["dark", "dark"]


def test_the_page_is_printed_whole_and_light_and_is_then_as_before(opened):
    tab = opened(scheme="dark").drawn()
    tab.page.mouse.click(*tab.point(READ))
    tab.page.locator("[role=tab][data-tab=lens]").click()
    tab.wait("document.querySelector('#content').textContent.length > 40")
    look = "[document.documentElement.dataset.theme, localStorage.getItem('flowgraph-theme'), location.search]"
    before = tab.evaluate(look)
    pdf, seen = printed(tab.page, "window.flowgraphApp.cy", "#stage")
    assert pdf.startswith(b"%PDF-")
    whole_on_paper(seen)
    assert tab.evaluate(look) == before


def test_where_nothing_was_traced_no_file_is_offered(tab):
    tab.goto()
    for menu, names in (("#export", ("graph.svg", "lens.csv")), ("#save-session", ("session.flowgraph",))):
        tab.page.locator(f"{menu} summary").click()
        assert tab.page.locator(f"{menu} .menu-body").is_visible()
        assert not any(tab.page.locator(f"[data-export='{name}']").is_visible() for name in names)
    assert tab.page.locator("#open-session").is_visible()
    tab.drawn()
    tab.page.locator("#export summary").click()
    assert tab.page.locator("[data-export='graph.svg']").is_visible()
    assert tab.page.locator("[data-export='lens.csv']").is_visible()
    assert not tab.page.locator("#export .untaken").is_visible()


def test_the_view_is_exported_with_its_slider(tab):
    tab.drawn()
    tab.keep(200)
    tab.wait("location.search.includes('keep=200')")
    tab.page.locator("#export summary").click()
    with tab.page.expect_download() as waiting:
        tab.page.locator("[data-export='graph.svg']").click()
    assert waiting.value.suggested_filename.endswith(".zip") or waiting.value.suggested_filename.endswith(".svg")
    assert not tab.page.locator("#export .menu-body").is_visible()


@pytest.mark.parametrize("size", [*SIZES, (900, 700)], ids=lambda size: "x".join(map(str, size)))
def test_nothing_runs_out_of_the_window(opened, size):
    tab = opened(size).drawn()
    assert tab.evaluate(
        "document.documentElement.scrollWidth <= innerWidth && document.documentElement.scrollHeight <= innerHeight"
    )
    boxes = tab.page.locator("header .button:visible, header textarea, #model").evaluate_all(
        "(found) => found.map((one) => { const box = one.getBoundingClientRect(); return [box.left, box.right, box.top, box.bottom]; })"
    )
    assert all(
        0 <= left < right <= size[0] and 0 <= top < bottom <= 48 for left, right, top, bottom in boxes if right > left
    )
    boxes.sort()
    assert all(a[1] <= b[0] + 0.5 for a, b in pairwise(boxes) if a[1] > a[0])
    if size[0] >= 1280:
        assert tab.evaluate("document.getElementById('stage').clientWidth") >= 0.6 * size[0]


def test_in_a_narrow_window_the_panes_are_drawers(opened):
    tab = opened((900, 700)).drawn()
    left = tab.page.locator("aside.left")
    assert not left.is_visible()
    tab.page.locator("#left-drawer").click()
    assert left.is_visible()
    tab.page.mouse.click(*tab.point(READ))
    tab.page.locator("#right-drawer").click()
    tab.wait("document.getElementById('details').textContent.includes('L23.resid_post@7')")


def test_on_a_phone_the_header_takes_two_rows_and_nothing_is_cut_off(opened):
    tab = opened((400, 800)).drawn()
    main, *parts = boxes(tab.page, "main", "#prompt", "#trace", "#examples summary", "#help", "#left-drawer")
    assert all(box["x"] >= 0 and box["x"] + box["width"] <= 400 for box in parts)
    assert all(box["y"] >= 0 and box["y"] + box["height"] <= main["y"] for box in parts)
    for i, one in enumerate(parts):
        for other in parts[:i]:
            beside = one["x"] >= other["x"] + other["width"] or other["x"] >= one["x"] + one["width"]
            assert beside or one["y"] >= other["y"] + other["height"] or other["y"] >= one["y"] + one["height"]


def test_a_prompt_that_tries_to_be_markup_stays_text(tab):
    tab.goto()
    tab.page.get_by_label("Prompt").fill("<img src=x onerror=alert(1)> & </script> of")
    tab.redrawn(lambda: tab.page.get_by_role("button", name="Trace").click())
    assert tab.page.locator("main img").count() == 0
    tab.page.locator("[role=tab][data-tab=lens]").click()
    tab.wait("document.querySelector('#content').textContent.length > 40")
    assert tab.page.locator("#content img").count() == 0
