"""The app in a tab of Chromium: how tests open it, look at it and touch it, and how it is served to them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

from flowgraph_webapp.app import create_app
from flowgraph_webapp.server.serving import LocalHosts, listening

from tests.browser import boxes
from tests.prompts import JAPAN

QUERY = f"?text={quote(JAPAN)}"
SIZES = ((1280, 800), (1600, 950))
WAIT = 60_000
"""Milliseconds after which a test gives up; none of them is about speed."""


@contextmanager
def served(service: Any) -> Iterator[str]:
    """The address of a page on a service; the service is closed at the end."""
    with listened(create_app(service).server) as address:
        try:
            yield address
        finally:
            service.close()


@contextmanager
def listened(application: Any) -> Iterator[str]:
    """The address of a WSGI application, by the server that ``flowgraph app`` uses."""
    server = listening(LocalHosts(application), "127.0.0.1", 0)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.effective_port}/"
    finally:
        server.task_dispatcher.shutdown()
        server.close()
        for connection in list(server._map.values()):  # those that a browser keeps for later
            connection.close()
        thread.join()


class Opened:
    """The app in a tab, with everything it asked for elsewhere and complained about."""

    def __init__(self, browser, address: str, size: tuple[int, int], scheme: str) -> None:
        self.address, self.requests, self.messages = address, [], []
        self.context = browser.new_context(
            viewport={"width": size[0], "height": size[1]}, color_scheme=scheme, reduced_motion="reduce"
        )
        self.context.set_default_timeout(WAIT)
        self.context.on("request", self._note)
        self.page = self.context.new_page()
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.messages.append(f"error: {error}"))
        self.page.on("dialog", lambda dialog: self.messages.append(f"dialog: {dialog.message}"))

    def _note(self, request) -> None:
        """Note what is asked for elsewhere; the browser has no address for it."""
        if not request.url.startswith((self.address, "data:", "blob:")):
            self.requests.append(request.url)

    def _hear(self, message) -> None:
        self.messages.append(f"{message.type}: {message.text}")

    def goto(self, search: str = "") -> Opened:
        self.page.goto(self.address + search)
        self.page.wait_for_selector("#prompt")
        return self

    def drawn(self, search: str = QUERY) -> Opened:
        self.goto(search)
        self.wait("app.view")
        return self

    def evaluate(self, code: str, argument=None):
        return self.page.evaluate(f"(argument) => {{ const app = window.flowgraphApp; return {code}; }}", argument)

    def wait(self, code: str, argument=None) -> None:
        self.page.wait_for_function(
            f"(argument) => {{ const app = window.flowgraphApp; return {code}; }}", arg=argument, timeout=WAIT
        )

    def redrawn(self, act) -> None:
        """Do something, and wait for another picture."""
        before = self.evaluate("app.root().dataset.drawn ?? ''")
        act()
        self.wait("(app.root().dataset.drawn ?? '') !== argument", before)

    def picture(self) -> list:
        """What is shown: every edge with its ends, its classes and its place."""
        return self.evaluate(
            "app.cy.edges().not('.off').map((e) => [e.id(), e.classes().filter((c) => c !== 'lift' && c !== 'dim').sort().join(' '),"
            " e.source().position(), e.target().position()])"
        )

    def shown(self) -> int:
        return self.evaluate("app.cy.edges().not('.off').length")

    def point(self, key: str) -> tuple[float, float]:
        """Where a node is seen, as soon as the picture stands still."""
        boxes(self.page, "#picture")
        x, y = self.evaluate(
            "(() => { const box = document.getElementById('picture').getBoundingClientRect();"
            " const at = app.cy.$id(`n${app.meta.keys.indexOf(argument)}`).renderedPosition(); return [at.x + box.x, at.y + box.y]; })()",
            key,
        )
        return x, y

    def search(self) -> str:
        return self.evaluate("decodeURIComponent(location.search)")

    def choose(self, control: str, value: str) -> None:
        self.page.locator(f"#{control} label", has_text=value).first.click()

    def keep(self, level: int) -> None:
        self.page.locator("#keep").evaluate(
            "(box, level) => { box.value = level; box.dispatchEvent(new Event('input', { bubbles: true })); }", level
        )

    def text(self, selector: str) -> str:
        return self.page.locator(selector).inner_text()
