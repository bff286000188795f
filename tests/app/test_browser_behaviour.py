"""The app as it is served, with its worker and its model, in a real browser: what people do to it, and what goes wrong around it."""

from __future__ import annotations

import io
import json
import os
import pickle
import signal
import urllib.request
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote
from xml.etree import ElementTree

import pytest
from flowgraph_webapp.recipe import LONGEST_TEXT, to_query
from flowgraph_webapp.server.run import RunQuestion
from flowgraph_webapp.server.service import Service
from flowgraph_webapp.session import read_session

from tests.app.conftest import Held, alive, until
from tests.app.tabs import QUERY, Opened, served
from tests.conftest import JAPAN, MARY

pytestmark = [pytest.mark.browser, pytest.mark.real_model, pytest.mark.slow]

STATE = "resid_post.23.-.7.-"
LABEL = "L23.resid_post@7"
SVG = "{http://www.w3.org/2000/svg}"
SHORT = "One two three"
"""A prompt that no test has asked before uses it as its beginning."""


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    running = Service(("smollm2",), examples=False)
    running.ask(RunQuestion("smollm2", JAPAN))
    yield running
    running.close()


@pytest.fixture(scope="module")
def address(service) -> Iterator[str]:
    with served(service) as found:
        yield found


@pytest.fixture(scope="module")
def recorded() -> Iterator[str]:
    """Address of a server that runs no model."""
    with served(Service(())) as found:
        yield found


@pytest.fixture
def without_model(browser, recorded) -> Iterator[Opened]:
    tab = Opened(browser, recorded, (1280, 800), "light")
    yield tab
    tab.context.close()
    assert tab.requests == []
    assert tab.messages == []


def trace(tab: Opened, prompt: str) -> None:
    tab.page.get_by_label("Prompt").fill(prompt)
    tab.page.get_by_role("button", name="Trace").click()


def notice(tab: Opened, words: str) -> str:
    tab.wait("document.getElementById('notice').textContent.includes(argument)", words)
    return tab.text("#notice")


def running(tab: Opened, service: Service) -> None:
    """Wait until the question of a tab is with the worker."""
    tab.page.wait_for_selector("#progress.running")
    until(lambda: service._dispatcher._running is not None, "the question to reach the worker")


def downloaded(tab: Opened, name: str) -> tuple[bytes, str]:
    tab.page.locator(f"{'#save-session' if 'session' in name else '#export'} summary").click()
    with tab.page.expect_download() as waiting:
        tab.page.locator(f"[data-export='{name}']").click()
    return Path(waiting.value.path()).read_bytes(), waiting.value.suggested_filename


def upload(tab: Opened, data: bytes, name: str = "study.flowgraph") -> None:
    file = {"name": name, "mimeType": "application/octet-stream", "buffer": data}
    tab.page.locator("#open-session input[type=file]").set_input_files(file)


# Runs that end badly


def test_a_run_is_cancelled_in_the_middle(tab, service):
    tab.drawn()
    before = tab.picture()
    with Held(service):
        trace(tab, f"{SHORT} cancelled")
        running(tab, service)
        assert tab.picture() == before
        tab.page.get_by_role("button", name="Cancel").click()
        notice(tab, "cancelled")
        assert tab.picture() == before
        tab.wait("!document.getElementById('cancel').checkVisibility()")
    tab.redrawn(lambda: tab.page.get_by_role("button", name="Trace").click())
    assert tab.text("#notice") == ""
    assert "cancelled" in tab.text("[data-part=ground]") + tab.text("[data-part=gutter]")


def test_a_worker_that_is_killed_once_is_not_noticed_and_twice_is_said(tab, service):
    tab.drawn()
    first = service.worker_pid

    def killed() -> None:
        with Held(service) as held:
            trace(tab, f"{SHORT} four")
            running(tab, service)
            os.kill(held.pid, signal.SIGKILL)

    tab.redrawn(killed)
    assert tab.text("#notice") == ""
    second = service.worker_pid
    assert second != first
    assert not alive(first)
    before = tab.picture()
    # What is asked after a picture is not what is to die here.
    tab.wait(
        "app.root().dataset.read === app.root().dataset.drawn && app.root().dataset.held === app.root().dataset.drawn"
    )
    with Held(service) as held:
        trace(tab, f"{SHORT} five")
        running(tab, service)
        os.kill(held.pid, signal.SIGKILL)
        third = until(lambda: service.worker_pid not in (None, held.pid) and service.worker_pid, "another worker")
        os.kill(third, signal.SIGKILL)
        said = notice(tab, "process ended")
    assert "ended 2 times while it worked on this" in said
    assert tab.picture() == before
    assert "four" in tab.text("[data-part=ground]") + tab.text("[data-part=gutter]")
    tab.redrawn(lambda: tab.page.get_by_role("button", name="Trace").click())
    assert tab.text("#notice") == ""


def test_a_model_that_fails_to_load_is_said_and_examples_still_open(browser, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama", "hidden_size": "wide"}', encoding="utf-8")
    broken = Service((str(tmp_path),))
    broken.warm()
    with served(broken) as place:
        tab = Opened(browser, place, (1280, 800), "light").goto()
        trace(tab, "Hello")
        tab.page.wait_for_selector("#notice .notice.problem")
        assert "Traceback" not in tab.text("#notice")
        assert not tab.page.locator(".skeleton").is_visible()
        tab.page.locator("#examples summary").click()
        tab.redrawn(lambda: tab.page.locator("#examples .example").first.click())
        assert tab.text("#notice") == ""
        assert tab.shown() > 50
        tab.context.close()
    assert (tab.requests, tab.messages) == ([], [])


# Addresses, sessions, files


def test_a_reload_shows_the_same(tab):
    tab.drawn(f"{QUERY}&method=norms&level=head&keep=200&selected={STATE}&tab=bars")
    tab.wait("document.getElementById('details').textContent.includes(argument)", LABEL)
    tab.page.wait_for_selector("#content .drawn > *")
    before, panel = tab.picture(), tab.text("#content")
    tab.page.reload()
    tab.wait("app.view")
    tab.wait("document.getElementById('details').textContent.includes(argument)", LABEL)
    tab.page.wait_for_selector("#content .drawn > *")
    assert tab.picture() == before
    assert tab.text("#content") == panel


def test_an_example_and_all_its_panels_need_no_worker(without_model):
    tab = without_model.goto()
    tab.redrawn(lambda: tab.page.locator(".opening .example").first.click())
    assert "Tokyo" in tab.text("#strip")
    for name in ("lens", "heads", "attention", "bars", "semantic"):
        tab.page.locator(f"[role=tab][data-tab={name}]").click()
        tab.page.wait_for_selector(f"#content .drawn[class*={name}] > *")
        assert tab.page.locator("#content .notice").count() == 0
    tab.redrawn(lambda: tab.choose("method", "norms"))


def test_an_example_starts_no_worker(browser):
    idle = Service(("smollm2",))
    with served(idle) as place:
        tab = Opened(browser, place, (1280, 800), "light")
        tab.drawn(to_query(idle.examples[0].recipe))
        tab.page.mouse.click(*tab.point(STATE))
        tab.wait("document.getElementById('details').textContent.includes(argument)", LABEL)
        assert idle.worker_pid is None
        tab.context.close()
    assert (tab.requests, tab.messages) == ([], [])


def test_a_session_is_saved_and_opened_where_there_is_no_model(tab, without_model):
    tab.drawn(f"{QUERY}&pins={STATE}&tab=heads&selected={STATE}")
    tab.page.wait_for_selector("#content .drawn > *")
    tab.wait("document.getElementById('details').textContent.includes(argument)", LABEL)
    before = tab.picture()
    data, name = downloaded(tab, "session.flowgraph")
    assert name.endswith("-session.flowgraph")
    there = without_model.goto()
    there.redrawn(lambda: upload(there, data))
    there.wait("app.pins.length === 1")
    there.page.wait_for_selector("#content .drawn > *")
    assert there.picture() == before
    assert there.evaluate("app.meta.keys[Number(app.pins[0].slice(1))]") == STATE
    there.page.locator(".toolbar .close").click()
    x, y = there.point(STATE)
    there.page.mouse.move(x - 60, y - 60)
    there.page.mouse.move(x, y, steps=8)
    there.page.locator("#stage [data-part=tip]").wait_for(state="visible")
    assert LABEL in there.text("#stage [data-part=tip]")
    there.keep(150)
    few = there.shown()
    assert few < len(before)
    there.wait("location.search.includes('keep=150')")
    picture, _ = downloaded(there, "graph.json")
    assert len(json.loads(picture)["edges"]) == few
    # What was not recorded is refused in words, and the picture stays.
    there.redrawn(lambda: there.choose("level", "head"))
    heads = there.picture()
    there.choose("method", "attention")
    notice(there, "was not recorded")
    assert there.picture() == heads


def test_a_trace_is_opened_and_what_a_session_leaves_out_is_said(without_model):
    there = without_model.goto()
    trace = (Path(__file__).parent.parent / "data" / "files_0_1" / "trace.safetensors").read_bytes()
    there.redrawn(lambda: upload(there, trace, "run.safetensors"))
    shown = there.picture()
    assert shown
    data, _ = downloaded(there, "session.flowgraph")
    assert read_session(data).trace.endswith(trace[-10_000:])
    assert there.text("#notice") == ""
    there.page.locator("#examples summary").click()
    there.redrawn(lambda: there.page.locator(".example").first.click())
    # Opening a file is a step that one goes back over.
    there.redrawn(there.page.go_back)
    assert there.picture() == shown
    there.redrawn(there.page.go_forward)
    data, _ = downloaded(there, "session.flowgraph")
    assert read_session(data).trace == b""
    assert "recorded elsewhere" in notice(there, "The session was saved without its trace")
    assert there.page.locator("#notice .quiet").is_visible()


def test_svg_and_pdf_are_exported(tab):
    tab.drawn()
    tab.keep(200)
    tab.wait("location.search.includes('keep=200')")
    data, name = downloaded(tab, "graph.svg")
    with zipfile.ZipFile(io.BytesIO(data)) as files:
        [svg] = [files.read(one) for one in files.namelist() if one.endswith(".svg")]
        [caption] = [files.read(one).decode() for one in files.namelist() if one.endswith(".caption.txt")]
    assert name.endswith(".zip")
    tree = ElementTree.fromstring(svg)
    assert tree.tag == f"{SVG}svg"
    assert tree.find(f".//{SVG}script") is None
    assert "".join(tree.itertext()).count("Japan") >= 1
    assert f"{tab.shown():,}" in caption
    data, _ = downloaded(tab, "graph.pdf")
    with zipfile.ZipFile(io.BytesIO(data)) as files:
        [pdf] = [files.read(one) for one in files.namelist() if one.endswith(".pdf")]
    assert pdf.startswith(b"%PDF-1.")
    assert pdf.rstrip().endswith(b"%%EOF")
    assert int(pdf.rpartition(b"startxref")[2].split()[0]) == pdf.rindex(b"xref", 0, pdf.rindex(b"startxref"))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"junk", "not a session"),
        (b"PK\x05\x06" + b"\x00" * 18, "missing"),
        (b"PK\x05\x06" + b"\xff" * 18, "lists more than"),
        (b"", "not a session"),
    ],
    ids=["junk", "empty-zip", "endless-zip", "nothing"],
)
def test_files_that_are_no_session_are_refused(tab, data, said):
    tab.drawn()
    before = tab.picture()
    upload(tab, data)
    notice(tab, said)
    assert tab.picture() == before


def test_a_crafted_session_runs_nothing(tab, tmp_path):
    target = tmp_path / "made"

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(target),)

    def crafted(**members: bytes) -> bytes:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as made:
            for name, data in members.items():
                made.writestr(name, data)
        return file.getvalue()

    tab.drawn()
    before = tab.picture()
    for data in (
        crafted(**{"session.json": pickle.dumps(Evil())}),
        crafted(**{"data.pkl": pickle.dumps(Evil())}),
        crafted(**{"../../session.json": b"{}"}),
        crafted(**{"session.json": b'{"format": "flowgraph-session", "version": 1, "recipe": {"model": "<b>x</b>"}}'}),
    ):
        tab.evaluate("window.dash_clientside.set_props('notice', { children: null })")
        upload(tab, data, name=f"{len(data)}.flowgraph")
        notice(tab, "cannot be opened")
    assert not target.exists()
    assert tab.page.locator("#notice b", has_text="x").count() == 0
    assert tab.picture() == before


def test_a_file_that_is_too_large_is_not_even_sent(tab):
    tab.drawn()
    sent = []
    tab.page.on("request", lambda request: sent.append(len(request.post_data_buffer or b"")))
    tab.page.locator("#open-session input[type=file]").evaluate(
        "(input) => { const files = new DataTransfer(); files.items.add(new File([new Uint8Array(65 * 2 ** 20)], 'huge.flowgraph'));"
        " input.files = files.files; input.dispatchEvent(new Event('change', { bubbles: true })); }"
    )
    assert "64 MiB" in notice(tab, "too large")
    assert max(sent, default=0) < 2**20


# Hostile prompts and addresses


@pytest.mark.parametrize(
    ("prompt", "shown"),
    [
        ("<script>window.hurt = 1</script><img src=x onerror='window.hurt = 1'>", "script"),
        ("שלום עולם مرحبا \u202egnp.exe", "ש"),
        ("a\x00b\x1b[31m\x07 \u200b\ufeff end", "end"),
        ("{{7*7}} ${alert(1)} ' OR 1=1 -- \\u003cb\\u003e", "OR"),
    ],
    ids=["markup", "right-to-left", "control", "templates"],
)
def test_hostile_prompts_are_text_everywhere(tab, prompt, shown):
    tab.goto()
    tab.redrawn(lambda: trace(tab, prompt))
    tab.page.locator("[role=tab][data-tab=lens]").click()
    tab.page.wait_for_selector("#content .drawn.lens > *")
    assert shown in tab.text("#content")
    tab.page.locator("[role=tab][data-tab=attention]").click()
    tab.page.wait_for_selector("#content .drawn.attention > *")
    assert tab.evaluate("window.hurt") is None
    assert tab.page.locator("main img, main script, #details img").count() == 0
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_prompts_that_are_too_long_are_refused_with_the_limit(tab):
    tab.drawn()
    before = [one[:2] for one in tab.picture()]
    trace(tab, "word " * 600)
    assert "at most 512" in notice(tab, "cannot be traced")
    tab.page.get_by_role("button", name="Dismiss").click()
    trace(tab, "a " * LONGEST_TEXT)
    assert len(tab.page.get_by_label("Prompt").input_value()) == LONGEST_TEXT
    # Beyond what the model itself can take, too: what is said is the limit that is met first.
    said = notice(tab, "10,001 tokens")
    assert "at most 512" in said
    assert "8192" not in said
    assert [one[:2] for one in tab.picture()] == before  # a little lower, under the strip that says it is old
    tab.goto(f"?text={'a' * (LONGEST_TEXT + 1)}")
    assert f"{LONGEST_TEXT:,}" in notice(tab, "20,001")


@pytest.mark.parametrize("model", ["/etc/passwd", "../../etc", "gpt2", "https://example.org/model", "smollm2\x00"])
def test_a_model_in_the_address_is_of_the_list_or_refused(tab, service, model):
    before = service.worker_pid
    tab.goto(f"?text=Hello&model={quote(model, safe='')}")
    tab.page.wait_for_selector("#notice .notice.problem")
    assert "model" in tab.text("#notice")
    assert tab.evaluate("app.view") is None
    assert service.worker_pid == before


# Several at once


def test_two_tabs_do_not_see_each_other(opened):
    one, two = opened(), opened()
    one.drawn()
    two.drawn(f"?text={quote(MARY)}&method=norms")
    one.page.mouse.click(*one.point(STATE))
    one.wait("document.getElementById('details').textContent.includes(argument)", LABEL)
    assert "selected" not in two.search()
    assert LABEL not in two.text("#details")
    one.redrawn(lambda: one.choose("level", "head"))
    assert two.search() == f"?model=smollm2&text={MARY}&method=norms"
    assert two.page.get_by_label("Prompt").input_value() == MARY
    assert two.page.locator("#level input:checked").get_attribute("value") == "token"
    first, second = one.picture(), two.picture()
    two.redrawn(lambda: two.choose("show", "all"))
    assert one.picture() == first
    assert two.picture() != second


def test_twenty_at_once_are_answered_or_told_that_the_server_is_busy(service, address, opened):
    tab = opened().drawn()
    before = tab.picture()
    prompts = [f"{SHORT} {word}" for word in ("six", "seven", "eight", "nine")]
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda n: drawn_over_http(address, prompts[n % 4], f"user-{n}"), range(20)))
    for n, answer in enumerate(answers):
        assert json.dumps(prompts[n % 4].split()[-1])[1:-1] in json.dumps(
            answer["response"]["picture"]["data"]["tokens"]
        )
        assert answer["response"]["picture"]["data"]["picture"] == f"flow-user-{n}"
        others = [one for one in answers if one is not answer]
        assert all(one["response"]["run"]["data"]["picture"] != f"flow-user-{n}" for one in others)
    assert tab.picture() == before


def test_a_full_queue_is_said_to_each_and_the_rest_is_answered(make_service, folder):
    small = make_service([folder], queue=4)
    small.ask(RunQuestion(folder, "Hello"))
    with served(small) as place, ThreadPoolExecutor(20) as pool:
        with Held(small):
            asked = [pool.submit(drawn_over_http, place, f"Hello {n}", f"user-{n}", folder) for n in range(20)]
            until(lambda: sum(one.done() for one in asked) == 15, "15 to be told that the server is busy")
        answers = [one.result() for one in asked]
    busy = [answer for answer in answers if "sideUpdate" in answer]
    assert len(busy) == 15
    assert all("4 questions are waiting" in json.dumps(answer["sideUpdate"]["notice"]) for answer in busy)
    assert sum("picture" in answer.get("response", {}) for answer in answers) == 5


def drawn_over_http(address: str, prompt: str, ticket: str, model: str = "smollm2") -> dict:
    """What the page's own request for a picture is answered."""
    with urllib.request.urlopen(f"{address}_dash-dependencies") as response:
        callbacks = json.load(response)
    [one] = [found for found in callbacks if "strip.children" in found["output"]]
    search = f"?text={quote(prompt)}&model={quote(model, safe='')}"
    value = {"id": ticket, "previous": None, "search": search, "run": ticket}
    outputs = [
        dict(zip(("id", "property"), part.rsplit(".", 1), strict=True))
        for part in one["output"].strip(".").split("...")
    ]
    body = {
        "output": one["output"], "outputs": outputs, "changedPropIds": ["ticket.data"],
        "inputs": [{**end, "value": value} for end in one["inputs"]], "state": [{**end, "value": None} for end in one["state"]],
    }  # fmt: skip
    request = urllib.request.Request(
        f"{address}_dash-update-component", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as response:
        return json.load(response)
