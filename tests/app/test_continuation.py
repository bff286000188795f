"""How the model goes on: its tokens as buttons, each of which can become the token that is explained."""

from __future__ import annotations

import json
from collections.abc import Iterator
from urllib.parse import parse_qs

import pytest
from flowgraph_webapp.panels.continuation import GenerateQuestion, Generation, continuation
from flowgraph_webapp.recipe import Recipe
from flowgraph_webapp.server.run import RunQuestion

from tests.app.fake_service import EXAMPLE, FakeService
from tests.app.tabs import QUERY, Opened, served
from tests.app.test_app import Page
from tests.browser import launch

RUN = RunQuestion("smollm2", "a <b>")
MADE = Generation((" <i>", "\n", " c"), (7, 8, 9), "a <b> <i>\n c", ("a <b>", None, "a <b> <i>\n"), ended=True)


def buttons(components) -> list[dict]:
    row = components[0].to_plotly_json()["props"]
    return [one.to_plotly_json()["props"] for one in row["children"][1].children]


def test_each_token_says_from_which_text_it_is_explained():
    first, second, third = buttons(continuation(MADE, RUN))
    assert (first["data-grown"], first["data-aim"]) == ("a <b>", "7")
    assert (third["data-grown"], third["data-aim"]) == ("a <b> <i>\n", "9")
    assert "data-grown" not in second
    assert second["aria-disabled"] == "true"
    assert "tokenizer would cut" in second["title"]


def test_the_end_of_a_text_is_said():
    assert "ends the text" in str(continuation(MADE, RUN))
    nothing = Generation((), (), "a <b>", (), ended=True)
    assert "The model ends the text here." in str(continuation(nothing, RUN))


def test_neither_position_nor_target_changes_how_a_text_goes_on():
    question = GenerateQuestion.of(Recipe(text="a", position=0, target=3, foil=4), 5)
    assert question == GenerateQuestion(RunQuestion("smollm2", "a"), 5)


@pytest.fixture(scope="module")
def service() -> FakeService:
    return FakeService()


@pytest.fixture(scope="module")
def page(service) -> Page:
    return Page(service)


def go_on(page, count=3, **ticket):
    value = {"id": "c-1", "previous": None, "search": f"?text={EXAMPLE}", "count": count, **ticket}
    return page.call("continuation-ticket.data", "continuation.children", value=value)


@pytest.mark.real_model
def test_going_on_answers_the_tokens_of_the_model_itself(page, service):
    status, answer = go_on(page)
    assert status == 200
    text = json.dumps(answer["response"])
    made = service.ask(GenerateQuestion(RunQuestion("smollm2", EXAMPLE), 3))
    assert [text.count(f'"data-aim": "{made.token_ids[n]}"') for n in range(3)] == [1, 1, 1]
    assert made.tokens[0] == " Tokyo"
    assert text.count("data-grown") == 3


@pytest.mark.real_model
@pytest.mark.parametrize("count", [0, 65, 2.5])
def test_a_count_that_cannot_be_is_refused_in_the_row(page, count):
    status, answer = go_on(page, count)
    assert status == 200
    assert "1 to 64 tokens" in json.dumps(answer["response"])


@pytest.mark.real_model
@pytest.mark.parametrize("count", [None, "5", [5]])
def test_a_count_that_is_no_number_is_no_question_of_the_page(page, count):
    assert go_on(page, count) == (400, None)


@pytest.mark.real_model
def test_a_continuation_that_was_taken_back_leaves_nothing(page, service):
    service.hold.clear()
    service.cancelled.add("c-2")
    status, answer = go_on(page, 2, id="c-2")
    service.hold.set()
    assert status == 200
    assert answer["response"]["continuation"]["children"] is None


@pytest.fixture(scope="module")
def tab() -> Iterator[Opened]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright, served(FakeService()) as address:
        browser = launch(playwright)
        opened = Opened(browser, address, (1280, 800), "light")
        yield opened
        opened.context.close()
        browser.close()
    assert opened.requests == []
    assert opened.messages == []


@pytest.mark.browser
@pytest.mark.real_model
def test_a_token_of_the_continuation_becomes_the_one_that_is_explained(tab):
    tab.drawn(f"{QUERY}&selected=resid_post.23.-.7.-&keep=150")
    tab.page.get_by_label("Tokens to add, 1 to 64").fill("3")
    tab.page.get_by_role("button", name="Continue").click()
    tab.page.wait_for_selector(".grown-token")
    tokens = tab.page.locator(".grown-token")
    assert tokens.count() == 3
    assert tokens.nth(0).get_attribute("aria-pressed") == "true"
    target = tokens.nth(1).get_attribute("data-aim")
    tab.redrawn(lambda: tokens.nth(1).click())
    assert parse_qs(tab.evaluate("location.search")[1:]) == {
        "model": ["smollm2"], "text": [f"{EXAMPLE} Tokyo"], "target": [target],
    }  # fmt: skip
    assert tab.page.get_by_label("Prompt").input_value() == f"{EXAMPLE} Tokyo"
    assert tab.page.locator("#strip .chip.target").get_attribute("data-token") == target
    assert tokens.nth(1).get_attribute("aria-pressed") == "true"
    tab.redrawn(tab.page.go_back)
    assert tokens.nth(0).get_attribute("aria-pressed") == "true"
    tab.page.get_by_label("Prompt").fill("Another text")
    tab.redrawn(lambda: tab.page.keyboard.press("Control+Enter"))
    assert tokens.count() == 0


@pytest.mark.browser
@pytest.mark.real_model
def test_explaining_a_word_of_a_conversation_says_what_became_of_the_prompt_and_leads_back(tab):
    tab.drawn("?text=Say%20yes&chat=1")
    tab.page.get_by_label("Tokens to add, 1 to 64").fill("2")
    tab.page.get_by_role("button", name="Continue").click()
    tab.page.wait_for_selector(".grown-token")
    assert not tab.page.locator(".written-out").is_visible()
    tab.redrawn(lambda: tab.page.locator("[data-grown]").nth(1).click())
    assert tab.page.get_by_label("Prompt").input_value() != "Say yes"
    assert "chat template written out" in tab.text(".written-out")
    tab.redrawn(lambda: tab.page.get_by_role("button", name="back to what you wrote").click())
    assert parse_qs(tab.evaluate("location.search")[1:]) == {"model": ["smollm2"], "text": ["Say yes"], "chat": ["1"]}
    assert tab.page.get_by_label("Prompt").input_value() == "Say yes"
    assert tab.page.locator("#chat input").is_checked()
    assert not tab.page.locator(".written-out").is_visible()
