"""Attention views in a real browser, without any network: what is drawn, and the numbers beside the tokens."""

from __future__ import annotations

import os
import re

import numpy as np
import pytest

from flowgraph import head_view, model_view
from tests.browser import launch
from tests.synthetic_graphs import HOSTILE
from tests.test_attention_view import attention

pytestmark = pytest.mark.browser

WORDS = [f" w{n}" for n in range(8)]
WEIGHTS = attention(3, 10, 8, causal=True)
HALF_A_DIGIT = 5e-5


@pytest.fixture(scope="module")
def browser():
    if os.environ.get("FLOWGRAPH_SKIP_BROWSER") == "1":
        pytest.skip("FLOWGRAPH_SKIP_BROWSER=1")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = launch(playwright)
        yield opened
        opened.close()


@pytest.fixture(name="opened")
def _opened(browser, tmp_path):
    """``opened(*views)`` → their frames on one page, as notebooks show them; at the end nothing was asked for or went wrong."""
    contexts, complaints = [], []

    def open_views(*views, scheme="light", width=900):
        path = tmp_path / f"{len(contexts)}.html"
        path.write_text(
            f"<meta charset='utf-8'><meta name='color-scheme' content='{scheme}'>"
            + "".join(view._repr_html_() for view in views),
            encoding="utf-8",
        )
        context = browser.new_context(
            viewport={"width": width, "height": 800}, color_scheme=scheme, reduced_motion="reduce"
        )
        contexts.append(context)
        context.route("**/*", lambda route: route.continue_() if route.request.url == path.as_uri() else refuse(route))
        page = context.new_page()
        page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
        page.on("dialog", lambda dialog: complaints.append(f"dialog: {dialog.message}"))
        page.goto(path.as_uri())
        frames = page.frames[1:]
        for frame in frames:
            frame.wait_for_function("document.getElementById('exact')?.textContent")
        return frames

    def refuse(route):
        complaints.append(f"asked for {route.request.url}")
        route.abort()

    yield open_views
    for context in contexts:
        context.close()
    assert complaints == []


def head(*arguments, **options):
    return head_view(*arguments, html_action="return", **options)


def values(frame, side):
    """Number beside each token of a side; None where there is none."""
    texts = frame.locator(f".tokens.{side} .value").all_text_contents()
    return [None if text == "" else 0.0 if text.startswith("<") else float(text) for text in texts]


def pin(frame, side, *indices):
    for index in indices:
        frame.click(f'.tokens.{side} [data-index="{index}"]')
    frame.hover("footer")


def assert_shows(frame, side, expected, error=HALF_A_DIGIT + 1e-5):
    shown = values(frame, side)
    assert [value is None for value in shown] == [value == 0 for value in expected]
    assert np.allclose([value or 0 for value in shown], expected, atol=error)


def test_several_pinned_tokens_are_summed(opened):
    (frame,) = opened(head(WEIGHTS, WORDS, layer=1, heads=[2]))
    assert values(frame, "key") == [None] * 8
    pin(frame, "query", 7)
    assert_shows(frame, "key", WEIGHTS[1, 2, 7])
    pin(frame, "query", 4)
    assert_shows(frame, "key", WEIGHTS[1, 2, 7] + WEIGHTS[1, 2, 4])
    assert "Numbers: sum over 2 pinned queries; head 2." in frame.inner_text(".status")
    frame.click(".chip >> nth=5")
    assert_shows(frame, "key", WEIGHTS[1, [2, 5]][:, [4, 7]].sum(1).mean(0))
    frame.select_option("#layer", "2")
    assert_shows(frame, "key", WEIGHTS[2, [2, 5]][:, [4, 7]].sum(1).mean(0))
    pin(frame, "query", 4)
    assert_shows(frame, "key", WEIGHTS[2, [2, 5], 7].mean(0))
    frame.click("#none")
    assert values(frame, "key") == [None] * 8
    assert frame.inner_text(".status") == "No head is on."
    frame.click("#all")
    assert_shows(frame, "key", WEIGHTS[2, :, 7].mean(0))
    frame.locator("body").press("Escape")
    assert values(frame, "key") == [None] * 8


def test_keys_are_summed_too_and_both_sides_together(opened):
    (frame,) = opened(head(WEIGHTS, WORDS, heads=[9]))
    pin(frame, "key", 0, 3)
    assert_shows(frame, "query", WEIGHTS[0, 9][:, [0, 3]].sum(1))
    assert values(frame, "key") == [None] * 8
    pin(frame, "query", 5)
    assert_shows(frame, "key", WEIGHTS[0, 9, 5])
    assert frame.inner_text(".status").startswith("2 of 2 lines drawn")


def test_the_pointer_is_enough_and_the_tip_tells_head_by_head(opened):
    (frame,) = opened(head(WEIGHTS, WORDS, layer=2, heads=[0, 4]))
    frame.hover('.tokens.query [data-index="6"]')
    assert_shows(frame, "key", WEIGHTS[2, [0, 4], 6].mean(0))
    assert frame.is_hidden(".tip")
    pin(frame, "query", 6, 7)
    frame.hover('.tokens.key [data-index="1"]')
    shown = dict(
        frame.eval_on_selector_all(
            ".tip tr", "rows => rows.map((row) => [row.cells[0].textContent, row.cells[1].textContent])"
        )
    )
    assert {name: float(text) for name, text in shown.items()} == {
        f"head {h}": pytest.approx(WEIGHTS[2, h, 6:8, 1].sum(), abs=HALF_A_DIGIT + 2e-5) for h in (0, 4)
    }
    assert frame.inner_text(".tip p").startswith("␣w1 key 1, from 2 queries, summed")


def test_head_chips(opened):
    (frame,) = opened(head(WEIGHTS, WORDS))

    def pressed():
        return [
            n for n, chip in enumerate(frame.locator(".chip").all()) if chip.get_attribute("aria-pressed") == "true"
        ]

    assert pressed() == list(range(10))
    assert frame.locator(".chip").all_text_contents() == [str(n) for n in range(10)]
    frame.click(".chip >> nth=3")
    assert pressed() == [n for n in range(10) if n != 3]
    frame.dblclick(".chip >> nth=4")
    assert pressed() == [4]
    frame.dblclick(".chip >> nth=4")
    assert pressed() == list(range(10))
    frame.click(".chip >> nth=8", modifiers=["Shift"])
    assert pressed() == [8]


def test_two_on_one_page_do_not_meet(opened):
    first, second = opened(head(WEIGHTS, WORDS, heads=[1]), head(WEIGHTS[::-1].copy(), WORDS, heads=[1]))
    pin(first, "query", 7)
    assert_shows(first, "key", WEIGHTS[0, 1, 7])
    assert values(second, "key") == [None] * 8
    pin(second, "query", 3, 7)
    assert_shows(second, "key", WEIGHTS[2, 1, [3, 7]].sum(0))
    assert_shows(first, "key", WEIGHTS[0, 1, 7])


def test_sentences(opened):
    weights = attention(1, 2, 8)
    (frame,) = opened(head(weights, WORDS, 3, heads=[0]))
    frame.select_option("#sentences", "A-B")

    def tokens(side):
        return frame.eval_on_selector_all(
            f".tokens.{side} button", "all => all.map((one) => Number(one.dataset.index))"
        )

    assert (tokens("query"), tokens("key")) == ([0, 1, 2], [3, 4, 5, 6, 7])
    assert frame.inner_text(".status").startswith("15 of 15 lines drawn")
    pin(frame, "query", 1, 2)
    assert_shows(frame, "key", weights[0, 0, 1:3, 3:].sum(0))
    frame.select_option("#sentences", "B-A")
    assert (tokens("query"), tokens("key")) == ([3, 4, 5, 6, 7], [0, 1, 2])
    assert values(frame, "key") == [None] * 3
    frame.select_option("#sentences", "")
    assert tokens("query") == list(range(8))


def test_encoder_and_decoder_are_tabs(opened):
    cross = attention(2, 3, 4, 6)
    view = head(
        encoder_attention=attention(1, 2, 6), decoder_attention=attention(2, 3, 4, causal=True), cross_attention=cross,
        encoder_tokens=list("abcdef"), decoder_tokens=list("wxyz"), heads=[1],
    )  # fmt: skip
    (frame,) = opened(view)
    assert frame.locator("[role=tab]").all_text_contents() == ["encoder", "decoder", "cross"]
    assert frame.get_attribute("#tab-encoder", "aria-selected") == "true"
    frame.focus("#tab-encoder")
    frame.locator("#tab-encoder").press("ArrowLeft")
    assert frame.get_attribute("#tab-cross", "aria-selected") == "true"
    frame.click("#later")
    pin(frame, "query", 0, 3)
    assert_shows(frame, "key", cross[1, 1, 0] + cross[1, 1, 3])
    frame.click("#tab-decoder")
    assert values(frame, "key") == [None] * 4


def test_the_keyboard_reaches_everything(opened):
    (frame,) = opened(head(WEIGHTS, WORDS, heads=[0]))
    token = frame.locator('.tokens.query [data-index="0"]')
    token.focus()
    token.press("ArrowDown")
    frame.locator(":focus").press("End")
    frame.locator(":focus").press("Enter")
    assert_shows(frame, "key", WEIGHTS[0, 0, 7])
    frame.locator(":focus").press("ArrowRight")
    frame.locator(":focus").press("Home")
    assert frame.evaluate("[document.activeElement.dataset.side, document.activeElement.dataset.index]") == ["key", "0"]
    assert "sum" not in frame.inner_text(".picture > .hidden")
    assert "from 1 pinned query; head 0" in frame.inner_text(".picture > .hidden")
    assert frame.locator(".tokens [tabindex='0']").count() == 1


def test_long_texts_draw_the_strongest_lines_and_say_so(opened):
    weights = attention(1, 2, 512)
    (frame,) = opened(head(weights, [f"t{n}" for n in range(512)]))
    found = re.match(
        r"([\d,]+) of ([\d,]+) lines drawn, those from (0\.\d{4}) up: ([\d.]+) % of the attention \(at most 4,000 at once\)",
        frame.inner_text(".status"),
    )
    drawn, every, least, share = (float(text.replace(",", "")) for text in found.groups())
    assert 0 < drawn <= 4000
    assert every == (np.rint(weights * 65535) > 0).sum()
    codes = np.rint(weights.astype(float) * 65535).ravel()
    cut = next(cut for cut in np.unique(codes) if (codes >= cut).sum() <= 4000)
    assert drawn == (codes >= cut).sum()
    assert least == pytest.approx(cut / 65535, abs=HALF_A_DIGIT)
    assert share == pytest.approx(100 * codes[codes >= cut].sum() / codes.sum(), abs=0.5)
    frame.locator("#least").fill("9")
    assert frame.inner_text(".status").startswith(f"{(codes >= 0.3 * 65535).sum():,} of ")
    frame.locator('.tokens.key [data-index="511"]').scroll_into_view_if_needed()
    box = frame.evaluate(
        "(() => { const canvas = document.querySelector('.gap canvas').getBoundingClientRect();"
        " const view = document.querySelector('.scroller').getBoundingClientRect();"
        " return [canvas.top - view.top, canvas.height - view.height]; })()"
    )
    assert np.allclose(box, 0, atol=1)


PIXELS = """canvas => {
  const copy = document.createElement('canvas');
  [copy.width, copy.height] = [canvas.width, canvas.height];
  const pen = copy.getContext('2d', { willReadFrequently: true });
  pen.drawImage(canvas, 0, 0);
  const alpha = pen.getImageData(0, 0, copy.width, copy.height).data.filter((_, i) => i % 4 === 3);
  return [copy.height, ...alpha];
}"""


def pixels(frame, selector):
    """[row, column] how opaque each pixel of a canvas is."""
    height, *alpha = frame.eval_on_selector(selector, f"canvas => ({PIXELS})(canvas)")
    return np.array(alpha).reshape(height, -1)


def test_lines_start_and_end_at_their_tokens(opened):
    weights = np.zeros((1, 1, 5, 5), np.float32)
    weights[0, 0, :, 0] = 0.001
    weights[0, 0, 4, 1] = 1
    (frame,) = opened(head(weights, list("abcde")))
    frame.locator("#least").fill("12")
    assert frame.inner_text(".status").startswith("1 of 6 lines drawn")
    painted = pixels(frame, ".gap canvas") > 60
    row = 20 * len(painted) / frame.evaluate("document.querySelector('.gap canvas').clientHeight")
    ends = [{int(place // row) for place in np.flatnonzero(painted[:, column])} for column in (0, -1)]
    assert ends == [{4}, {1}]


def test_the_model_view_opens_a_head(opened):
    view = model_view(WEIGHTS, WORDS, include_layers=[0, 2], html_action="return")
    (frame,) = opened(view)
    assert frame.locator(".thumb").count() == 20
    assert frame.is_hidden(".large")
    frame.wait_for_function("document.querySelector('.thumb canvas').width > 30")
    assert (pixels(frame, ".thumb canvas") > 0).sum() > 50
    frame.click('.thumb[aria-label="Layer 2, head 7"]')
    assert frame.inner_text("h2") == "Layer 2, head 7"
    pin(frame, "query", 5, 6)
    assert_shows(frame, "key", WEIGHTS[2, 7, 5] + WEIGHTS[2, 7, 6])
    frame.locator('.thumb[aria-pressed="true"]').press("ArrowUp")
    assert frame.inner_text("h2") == "Layer 0, head 7"
    assert_shows(frame, "key", WEIGHTS[0, 7, 5] + WEIGHTS[0, 7, 6])
    frame.locator("body").press("Escape")
    assert values(frame, "key") == [None] * 8
    frame.locator("body").press("Escape")
    assert frame.is_hidden(".large")
    frame.locator('.thumb[aria-label="Layer 0, head 7"]').press("ArrowRight")
    frame.locator(":focus").press("Enter")
    assert frame.inner_text("h2") == "Layer 0, head 8"
    lines = pixels(frame, ".thumb canvas")
    frame.select_option("#drawn", "matrix")
    frame.wait_for_timeout(100)
    matrix = pixels(frame, ".thumb canvas")
    assert matrix.any()
    assert not np.array_equal(lines, matrix)


def test_hostile_tokens_are_text(opened):
    tokens = [*HOSTILE, "'\"><script>alert(1)</script>", "</iframe><script>alert(2)</script>"]
    weights = attention(1, 2, len(tokens))
    for frame in opened(head(weights, tokens), model_view(weights, tokens, html_action="return")):
        assert frame.locator("script").count() == 2
        assert frame.locator("img").count() == 0
        if frame.locator(".thumb").count():
            frame.click(".thumb >> nth=0")
        shown = frame.locator(".tokens.key .token").all_text_contents()
        assert "</iframe><script>alert(2)</script>" in shown
        assert "⟨202E⟩" in shown
        heights = frame.eval_on_selector_all(".tokens.key button", "all => all.map((one) => one.offsetHeight)")
        assert set(heights) == {20}


@pytest.mark.parametrize(
    ("scheme", "mode", "expected"), [("light", None, "light"), ("dark", None, "dark"), ("light", "dark", "dark")]
)
def test_themes(opened, scheme, mode, expected):
    (frame,) = opened(model_view(WEIGHTS, WORDS, display_mode=mode, html_action="return"), scheme=scheme)
    frame.wait_for_function(f"document.documentElement.dataset.theme === '{expected}'")
    frame.click("#theme")
    chosen = frame.evaluate("document.documentElement.dataset.theme")
    assert chosen != expected
    on_paper = "dispatchEvent(new Event('{}')) && document.documentElement.dataset.theme"
    assert [frame.evaluate(on_paper.format(name)) for name in ("beforeprint", "afterprint")] == ["light", chosen]


@pytest.mark.parametrize("width", [480, 900, 1600])
def test_nothing_runs_out_of_the_frame(opened, width):
    long = [" averyveryverylongtokenindeed" * 3, *WORDS[1:]]
    frames = opened(head(WEIGHTS, long), model_view(WEIGHTS, long, html_action="return"), width=width)
    frames[1].click(".thumb >> nth=3")
    for frame in frames:
        pin(frame, "query", 7)
        assert frame.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
        assert frame.evaluate("document.documentElement.scrollHeight - innerHeight") <= 0
