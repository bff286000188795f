"""A service whose worker runs a tiny model, saved as a folder that the allow-list names."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from flowgraph_webapp.server.question import Question
from flowgraph_webapp.server.run import RunQuestion
from flowgraph_webapp.server.service import Service

from tests.app.tabs import SIZES, Opened
from tests.browser import launch
from tests.tiny_models import tiny_model

TEXT = "The cat sat on the mat"
PATIENCE = 120.0
"""Seconds after which a test gives up; none of them is about speed."""


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> str:
    """Folder of a tiny decoder with its tokenizer."""
    return saved(tmp_path_factory.mktemp("models") / "tiny", "llama")


@pytest.fixture(scope="session")
def encoder(tmp_path_factory) -> str:
    """Folder of a tiny masked language model."""
    return saved(tmp_path_factory.mktemp("models") / "masked", "bert")


def saved(path: Path, name: str) -> str:
    for part in tiny_model(name):
        part.save_pretrained(path)
    return str(path)


@pytest.fixture(scope="module")
def service(folder) -> Iterator[Service]:
    """One service with a warm worker for the tests of a module that leave it well."""
    with_worker = Service([folder], examples=False, queue=64)
    with_worker.ask(RunQuestion(folder, TEXT))
    yield with_worker
    with_worker.close()


@pytest.fixture
def make_service() -> Iterator[Callable[..., Service]]:
    """``make_service(models, …)`` → a service of its own, closed after the test."""
    made: list[Service] = []

    def make(models: list[str], **options: Any) -> Service:
        made.append(Service(models, **{"examples": False} | options))
        return made[-1]

    yield make
    for service in made:
        service.close()


@pytest.fixture
def asking() -> Iterator[Callable[..., Future]]:
    """``asking(service, question, ticket)`` → the answer to come, asked in a thread of its own."""
    with ThreadPoolExecutor(32) as pool:
        yield lambda service, question, ticket=None: pool.submit(service.ask, question, ticket=ticket)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if os.environ.get("FLOWGRAPH_SKIP_BROWSER") == "1":
        pytest.skip("FLOWGRAPH_SKIP_BROWSER=1")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = launch(playwright)
        yield opened
        opened.close()


@pytest.fixture
def opened(browser, address) -> Iterator[Callable[..., Opened]]:
    """``opened(size, scheme)`` → the page of the module's ``address`` in a tab, which may ask nothing elsewhere and complain of nothing."""
    tabs: list[Opened] = []

    def open_tab(size: tuple[int, int] = SIZES[0], scheme: str = "light") -> Opened:
        tabs.append(Opened(browser, address, size, scheme))
        return tabs[-1]

    yield open_tab
    for tab in tabs:
        tab.context.close()
        assert tab.requests == []
        assert tab.messages == []


@pytest.fixture
def tab(opened) -> Opened:
    return opened()


class Held:
    """A worker that stands still while the block runs, so that what is asked stays open."""

    def __init__(self, service: Service) -> None:
        self.pid = service.worker_pid

    def __enter__(self) -> Held:
        os.kill(self.pid, signal.SIGSTOP)
        return self

    def __exit__(self, *_: object) -> None:
        if alive(self.pid):
            os.kill(self.pid, signal.SIGCONT)


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and is not yet waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def until(holds: Callable[[], Any], what: str) -> Any:
    """Wait for something to become true."""
    end = time.monotonic() + PATIENCE
    while not (found := holds()):
        assert time.monotonic() < end, f"gave up waiting for {what}"
        time.sleep(0.01)
    return found


def open_question(service: Service, ticket: str) -> None:
    """Wait until a ticket's question is in the service."""
    until(lambda: service.progress(ticket) is not None, f"the question of {ticket}")


def question_of(folder: str, n: int) -> Question:
    """Questions that differ."""
    return RunQuestion(folder, TEXT, position=n % 4, target=10 + n)


__all__ = ["PATIENCE", "TEXT", "Held", "alive", "open_question", "question_of", "saved", "until"]
