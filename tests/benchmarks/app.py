"""The web app as a person meets it: what passes between an action and the picture, against what it may take.

Measured in headless Chromium, in the page itself, from the event to the frame after the last thing that was drawn.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from statistics import median
from typing import Any

import flowgraph

from .pairs import Row
from .subject import TEXT, Setup

NEEDS = ("playwright", "dash", "dash_cytoscape", "waitress")
N_TOKENS = 16
ELEMENTS = (2_000, 10_000)
"""Elements in the picture while it is moved."""
_WAIT = 120_000
_SIZE = {"width": 1600, "height": 950}
FRAME = "const frame = () => new Promise((done) => requestAnimationFrame(done));"
_DRAWN = """() => new Promise((done) => {
  const app = window.flowgraphApp;
  const begun = performance.now();
  const before = app.root().dataset.drawn ?? '';
  const watch = new MutationObserver(() => {
    if ((app.root().dataset.drawn ?? '') === before) return;
    watch.disconnect();
    requestAnimationFrame(() => requestAnimationFrame(() => done((performance.now() - begun) / 1000)));
  });
  watch.observe(app.root(), { attributes: true, attributeFilter: ['data-drawn'] });
  ACT
})"""
STEP = f"""async (level) => {{
  {FRAME}
  const {{ cy }} = window.flowgraphApp;
  const shown = () => cy.edges().not('.off').length;
  const before = shown();
  const box = document.getElementById('keep');
  const begun = performance.now();
  box.value = level;
  box.dispatchEvent(new Event('input', {{ bubbles: true }}));
  while (shown() === before) await frame();
  await new Promise((done) => cy.one('render', done));
  await frame();
  return (performance.now() - begun) / 1000;
}}"""
_WATCH_CLICK = """(words) => {
  const box = document.getElementById('details');
  window.clicked = new Promise((done) => {
    let begun = 0;
    document.addEventListener('pointerdown', () => { begun = performance.now(); }, { capture: true, once: true });
    const watch = new MutationObserver(() => {
      if (!begun || !box.textContent.includes(words)) return;
      watch.disconnect();
      requestAnimationFrame(() => requestAnimationFrame(() => done((performance.now() - begun) / 1000)));
    });
    watch.observe(box, { childList: true, subtree: true, characterData: true });
  });
}"""
_ADD = """(wanted) => {
  const { cy } = window.flowgraphApp;
  const edges = cy.edges().not('.scaffold').map((edge) => edge.json());
  cy.batch(() => cy.edges('.off').removeClass('off'));
  const missing = wanted - cy.elements().length;
  const made = Array.from({ length: Math.max(0, missing) }, (_, n) => {
    const { data, classes } = edges[n % edges.length];
    return { group: 'edges', data: { ...data, id: `more${n}` }, classes: classes.replace('off', '') };
  });
  cy.add(made);
  return cy.elements().length;
}"""
_PAN = f"""async (frames) => {{
  {FRAME}
  const {{ cy }} = window.flowgraphApp;
  await frame();
  const times = [];
  for (let n = 0; n < frames; n += 1) {{
    const begun = performance.now();
    const rendered = new Promise((done) => cy.one('render', done));
    cy.panBy({{ x: n % 40 < 20 ? 6 : -6, y: n % 40 < 20 ? 3 : -3 }});
    await rendered;
    await frame();
    times.push((performance.now() - begun) / 1000);
  }}
  return times;
}}"""
_POINT = """(node) => {
  const { cy } = window.flowgraphApp;
  const box = document.getElementById('picture').getBoundingClientRect();
  const at = cy.$id(`n${node}`).renderedPosition();
  return [at.x + box.x, at.y + box.y];
}"""
_CLICKABLE = """() => {
  const { cy, meta } = window.flowgraphApp;
  const shown = cy.nodes().filter((node) => /^n\\d+$/.test(node.id()) && !node.hasClass('off') && node.connectedEdges().not('.off').length);
  return shown.map((node) => Number(node.id().slice(1))).filter((n) => meta.keys[n].startsWith('resid_post')).map((n) => [n, meta.labels[n]]);
}"""


def rows(setup: Setup) -> Iterator[Row]:
    """Start, an example, a prompt, the slider, a click, and moving the picture."""
    from playwright.sync_api import sync_playwright

    from tests.browser import launch

    with sync_playwright() as playwright:
        browser = launch(playwright)
        yield app_row(
            "flowgraph app, start to interactive page", 4.0, repeated(setup, lambda _: _start(setup, browser))
        )
        yield from _with_model(setup, browser)
        yield from _large_picture(setup, browser)
        browser.close()


def app_row(work: str, most: float, times: list[float], note: str = "") -> Row:
    """Measured times against the time that they may take."""
    ratios = [one / most for one in times]
    said = f"worst {max(times):.3g} s; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    note = f"{note}; {said}" if note else said
    about = (median(ratios), min(ratios), max(ratios), None, len(times), median(times), most)
    return Row(work, f"target of {_limit(most)}", *about, "s", note)


def _limit(most: float) -> str:
    return f"{most:g} s" if most >= 1 else f"{most * 1000:.0f} ms"


def repeated(setup: Setup, once: Callable[[int], float]) -> list[float]:
    """Seconds of doing something, as often as pairs are timed."""
    return [once(n) for n in range(setup.pairs)]


def _start(setup: Setup, browser: Any) -> float:
    """From the command to a page whose prompt can be typed into, by the clock of this process."""
    command = [sys.executable, "-m", "flowgraph.cli", "app", "--no-browser", "--port", "0", "--model", setup.name]
    begun = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert process.stdout is not None
        found = None
        while found is None:
            line = process.stdout.readline()
            if not line:
                raise RuntimeError("the app ended before it said where it is")
            found = re.search(r"http://\S+/", line)
        with opened_page(browser) as page:
            page.goto(found.group())
            page.locator("#prompt").fill("a")
            page.wait_for_function("() => window.flowgraphApp.root()?.hasAttribute('data-empty')")
            return time.perf_counter() - begun
    finally:
        process.terminate()
        process.wait()


def _with_model(setup: Setup, browser: Any) -> Iterator[Row]:
    """An example, which no model is asked for; prompts of 16 tokens and clicks, which a warm model answers."""
    from flowgraph_webapp.recipe import Recipe
    from flowgraph_webapp.server.model import ModelQuestion
    from flowgraph_webapp.server.run import RunQuestion
    from flowgraph_webapp.server.service import Service

    from tests.app.tabs import served

    service = Service((setup.name,))
    with served(service) as address, opened_page(browser) as page:

        def example(_: int) -> float:
            page.goto(address)
            page.wait_for_selector(".opening .example")
            return _acted(page, "document.querySelector('.opening .example').click();")

        yield app_row("example, click to drawn", 1.0, repeated(setup, example))
        service.ask(ModelQuestion(setup.name))
        forwards: list[float] = []

        def prompt(n: int) -> float:
            text = _prompt(setup, n)
            page.goto(address)
            page.locator("#prompt").fill(text)
            spent = _acted(page, "document.getElementById('trace').click();")
            run: Any = service.ask(RunQuestion.of(Recipe(model=setup.name, text=text)))
            forwards.append(run.seconds)
            return spent - run.seconds

        drawn = repeated(setup, prompt)
        note = f"forward pass {median(forwards):.3g} s more, at worst {max(forwards):.3g} s"
        yield app_row(f"prompt of {N_TOKENS} tokens, end of forward to drawn", 1.0, drawn, note)
        yield app_row("click on a node to its details", 0.25, _clicks(setup, page))


def _acted(page: Any, act: str) -> float:
    """Seconds from an action in the page to the frame in which another picture stands."""
    spent: float = page.evaluate(_DRAWN.replace("ACT", act))
    return spent


def _prompt(setup: Setup, n: int) -> str:
    """Another 16 tokens each time, cut from the text."""
    tokenizer = setup.loaded.tokenizer
    ids = tokenizer(TEXT)["input_ids"]
    return str(tokenizer.decode(ids[3 * n : 3 * n + N_TOKENS])).strip()


def _clicks(setup: Setup, page: Any) -> list[float]:
    """Clicks on states that are drawn, each for the first time."""
    found = page.evaluate(_CLICKABLE)
    times = []
    for node, label in found[:: max(1, len(found) // setup.pairs)][: setup.pairs]:
        x, y = page.evaluate(_POINT, node)
        page.mouse.move(x, y)
        page.evaluate(_WATCH_CLICK, label)
        page.mouse.click(x, y)
        times.append(float(page.evaluate("window.clicked")))
        page.keyboard.press("Escape")
    return times


def _large_picture(setup: Setup, browser: Any) -> Iterator[Row]:
    """A graph of about 300 nodes and 2,000 edges: its slider, and how it is moved."""
    from flowgraph_webapp.panels.saved_graph import session_of_graph
    from flowgraph_webapp.recipe import to_query
    from flowgraph_webapp.server.service import Service

    from tests.app.tabs import served
    from tests.synthetic_graphs import token_graph

    tokens = tuple(f" w{n}" for n in range(30))
    whole = token_graph(tokens, layers=4, mlp=False, threshold=0.0)
    graph = flowgraph.keep_strongest(whole, mass=None, max_edges=2_000)
    service = Service(())
    opened = service.add_session(session_of_graph(graph))
    with served(service) as address, opened_page(browser) as page:
        page.goto(address + to_query(replace(opened.recipe, keep=1_000)))
        page.wait_for_function("() => window.flowgraphApp.root()?.dataset.drawn")
        size = f"{len(graph.nodes):,} nodes, {len(graph):,} edges"
        # Between all edges and some of them, so that the picture is never a light one.
        steps = repeated(setup, lambda n: float(page.evaluate(STEP, 700 - n if n % 2 == 0 else 1_000 - n)))
        yield app_row(f"slider step to redrawn, {size}", 0.15, steps)
        for wanted in ELEMENTS:
            count = page.evaluate(_ADD, wanted)
            times = page.evaluate(_PAN, max(10, 4 * setup.pairs))
            yield app_row(f"frame while the picture is moved, {count:,} elements", 1 / 30, times)


@contextmanager
def opened_page(browser: Any) -> Iterator[Any]:
    """A page of the size that the app is measured at."""
    context = browser.new_context(viewport=_SIZE)
    context.set_default_timeout(_WAIT)
    yield context.new_page()
    context.close()
