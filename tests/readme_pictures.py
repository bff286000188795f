"""Make the pictures of the README and the docs from the real model, and one from a tiny translator: ``python -m tests.readme_pictures``."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from flowgraph_webapp.recipe import to_query
from flowgraph_webapp.server.service import Service
from playwright.sync_api import Browser, sync_playwright

import flowgraph
from flowgraph.cli import main
from tests.app.tabs import served
from tests.browser import launch
from tests.prompts import JAPAN
from tests.tiny_translator import translator

FOLDER = Path(__file__).parent.parent / ".github" / "pictures"


COMMANDS = {"flow": ["trace", JAPAN], "semantic": ["semantic", JAPAN, "--layers", "23"]}


SELECTED = "resid_mid.23.-.7.-"
VIEWS = {
    "flow": "", "lens": "Lens grid", "heads": "Heads", "attention": "Attention", "bars": "Logit bars", "semantic": "Semantic",
}  # fmt: skip
"""Picture of the app → the tab it shows; the flow graph is behind none."""


def make_app(browser: Browser) -> None:
    """Write one picture per view of the app, from a bundled example and so without a model; the first in both themes."""
    service = Service()
    search = to_query(replace(service.examples[0].recipe, selected=SELECTED))
    with served(service) as address:
        for name, tab in VIEWS.items():
            for theme in ("light", "dark") if name == "flow" else ("light",):
                context = browser.new_context(viewport={"width": 1280, "height": 800}, color_scheme=theme)
                page = context.new_page()
                page.goto(address + search)
                page.wait_for_selector("canvas")
                if tab:
                    page.get_by_role("tab", name=tab).click()
                page.wait_for_timeout(4_000)
                if name == "semantic":  # it opens on what is selected
                    page.locator("#content button:text-is('fit')").click()
                    page.wait_for_timeout(1_000)
                page.screenshot(path=FOLDER / f"app-{name}-{theme}.png")


def make_two_stacks(folder: Path) -> Path:
    """Write the page of a sentence that a tiny translator never saw, up to its last word."""
    trace = flowgraph.trace(translator(), flowgraph.inputs(text="the car is old", target_text="das auto ist"))
    return flowgraph.build_graph(trace, level="head", threshold=0.02).save(folder / "encoder-decoder.html")


def shoot(browser: Browser, page_file: Path, height: int = 800) -> None:
    """Take a picture of a page in both themes."""
    for theme in ("light", "dark"):
        context = browser.new_context(viewport={"width": 1280, "height": height}, color_scheme=theme)
        page = context.new_page()
        page.goto(page_file.as_uri())
        page.wait_for_timeout(1_500)
        page.screenshot(path=FOLDER / f"{page_file.stem}-{theme}.png")


def make() -> None:
    """Write one picture per page and theme."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = launch(playwright)
        make_app(browser)
        for name, command in COMMANDS.items():
            page_file = Path(folder) / f"{name}.html"
            if main([*command, "-o", str(page_file), "--quiet"]):
                raise SystemExit(f"{page_file.name} could not be written")
            shoot(browser, page_file)
        shoot(browser, make_two_stacks(Path(folder)), 640)
        browser.close()


if __name__ == "__main__":
    make()
