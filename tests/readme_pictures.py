"""Make the README's pictures from the real model: ``python -m tests.readme_pictures``."""

from __future__ import annotations

import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from flowgraph.cli import main
from tests.browser import launch

FOLDER = Path(__file__).parent.parent / ".github" / "pictures"
JAPAN = "The capital of Japan is the city of"


def make() -> None:
    """Write one picture per theme."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        page_file = Path(folder) / "flow.html"
        if main(["trace", JAPAN, "-o", str(page_file), "--quiet"]):
            raise SystemExit("the page could not be written")
        browser = launch(playwright)
        for theme in ("light", "dark"):
            context = browser.new_context(viewport={"width": 1280, "height": 800}, color_scheme=theme)
            page = context.new_page()
            page.goto(page_file.as_uri())
            page.wait_for_timeout(1_500)
            page.screenshot(path=FOLDER / f"flow-{theme}.png")
        browser.close()


if __name__ == "__main__":
    make()
