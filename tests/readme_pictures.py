"""Make the README's pictures from the real model: ``python -m tests.readme_pictures``."""

from __future__ import annotations

import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from flowgraph.cli import main
from tests.browser import launch

FOLDER = Path(__file__).parent.parent / ".github" / "pictures"
JAPAN = "The capital of Japan is the city of"


COMMANDS = {"flow": ["trace", JAPAN], "semantic": ["semantic", JAPAN, "--layers", "23"]}


def make() -> None:
    """Write one picture per page and theme."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = launch(playwright)
        for name, command in COMMANDS.items():
            page_file = Path(folder) / f"{name}.html"
            if main([*command, "-o", str(page_file), "--quiet"]):
                raise SystemExit(f"{page_file.name} could not be written")
            for theme in ("light", "dark"):
                context = browser.new_context(viewport={"width": 1280, "height": 800}, color_scheme=theme)
                page = context.new_page()
                page.goto(page_file.as_uri())
                page.wait_for_timeout(1_500)
                page.screenshot(path=FOLDER / f"{name}-{theme}.png")
        browser.close()


if __name__ == "__main__":
    make()
