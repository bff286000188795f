"""Other web pages in the same browser, and programs that leave or read slowly: the app answers its own page, and them not."""

from __future__ import annotations

import contextlib
import http.server
import json
import socket
import threading
import time
import urllib.error
import urllib.request
from urllib.parse import quote, urlsplit

import pytest
from flowgraph_webapp.app import create_app
from flowgraph_webapp.page.wires.downloads import FORMATS
from flowgraph_webapp.panels.circuit import CircuitQuestion
from flowgraph_webapp.panels.continuation import GenerateQuestion
from flowgraph_webapp.panels.flow import GraphQuestion
from flowgraph_webapp.panels.heads import HeadsQuestion
from flowgraph_webapp.panels.lens import LensQuestion
from flowgraph_webapp.recipe import Recipe, to_query
from flowgraph_webapp.server import dispatch
from flowgraph_webapp.server.dispatch import MOST_WAITERS
from flowgraph_webapp.server.errors import Busy, Cancelled, NotYet
from flowgraph_webapp.server.run import RunQuestion
from flowgraph_webapp.server.service import Service
from flowgraph_webapp.server.serving import THREADS

from tests.app.conftest import (  # noqa: F401
    PATIENCE,
    TEXT,
    Held,
    asking,
    browser,
    folder,
    make_service,
    open_question,
    question_of,
    service,
    until,
)
from tests.app.tabs import served
from tests.security.mutations import of_json

HOST = "127.0.0.1:8050"
OWN = f"http://{HOST}"
CROSS = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "empty"}
NAVIGATES = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
SEARCH = "task=ioi&circuit=backward&prompts=64&budget=1000000"


@pytest.fixture(scope="module")
def page():
    """The routes of the app, without a model."""
    known = Service([])
    yield create_app(known).server.test_client()
    known.close()


# Where a request comes from

LINKED = [NAVIGATES, NAVIGATES | {"Sec-Fetch-Site": "same-site"}, {"Referer": "https://wiki.example/page"}]
OWNS = [
    {}, {"Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Site": "none"}, {"Origin": OWN}, {"Referer": f"{OWN}/?text=a"},
    {"Sec-Fetch-Site": "same-origin", "Origin": "https://a.proxy.in.between"}, {"Origin": OWN.upper().replace("HTTP", "http")},
]  # fmt: skip
OTHERS = [
    CROSS, CROSS | {"Sec-Fetch-Site": "same-site"}, CROSS | {"Origin": OWN}, {"Sec-Fetch-Site": "something new"},
    {"Sec-Fetch-Site": ""}, CROSS | {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"},
    {"Origin": "null"}, {"Origin": "https://evil.example"}, {"Origin": "http://127.0.0.1:9999"}, {"Origin": "http://localhost:8050"},
    {"Origin": f"http://evil.example/{HOST}"}, {"Origin": f"http://{HOST}.evil.example"}, {"Origin": f"http://{HOST}@evil.example"},
    {"Origin": f"{OWN}, https://evil.example"},
]  # fmt: skip


def asked(page, path, method="GET", **headers):
    return page.open(
        path, method=method, headers={"Host": HOST, **headers}, **({"json": {}} if method == "POST" else {})
    )


@pytest.mark.parametrize("headers", OWNS)
def test_the_page_itself_and_programs_are_answered(page, headers):
    for path in ("/", "/?text=a", "/_dash-layout", "/page/theme.css"):
        assert asked(page, path, **headers).status_code == 200
    assert asked(page, "/export/graph.svg?text=x", **headers).status_code in (400, 409)
    assert asked(page, "/_dash-update-component", "POST", **headers).status_code not in (403, 415)


@pytest.mark.parametrize("headers", OTHERS)
def test_other_pages_are_refused_on_every_route(page, headers):
    routes = {rule.rule for rule in page.application.url_map.iter_rules()}
    assert {"/", "/export/<name>", "/_dash-update-component", "/page/<name>"} <= routes
    for route in routes:
        path = route.replace("<name>", "graph.svg").replace("<path:path>", "x").replace("<path:filename>", "x")
        for method in ("GET", "POST", "PUT", "OPTIONS", "HEAD"):
            assert asked(page, path, method, **headers).status_code == 403, (method, path)


@pytest.mark.parametrize("headers", LINKED)
def test_a_link_elsewhere_opens_the_page_and_nothing_else(page, headers):
    assert asked(page, "/?text=a&circuit=backward", **headers).status_code == 200
    others = ("/export/graph.svg?text=x", "/_dash-layout", "/page/theme.css", "/x", "/assets/app.css")
    for path in others:
        assert asked(page, path, **headers).status_code == 403, path
    assert asked(page, "/", "POST", **headers).status_code == 403


def test_a_form_cannot_ask_a_question(page):
    body = json.dumps({"output": "picture.children", "outputs": [], "inputs": [], "changedPropIds": []})
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""):
        assert page.post("/_dash-update-component", data=body, content_type=kind).status_code == 415


def test_a_request_of_many_small_values_is_refused_before_it_is_parsed(page):
    for body in (b"[[],[]" + b",[]" * 200_000 + b"]", b"[" * 200_001, b'{"a":' * 200_001):
        answer = page.post("/_dash-update-component", data=body, content_type="application/json")
        assert answer.status_code == 413


def test_every_answer_says_that_it_is_for_this_page_alone(page):
    paths = {"/": 200, "/export/graph.svg?text=x": 409, "/page/nothing": 404, "/_dash-layout": 200}
    answers = [asked(page, path) for path in paths]
    assert [answer.status_code for answer in answers] == list(paths.values())
    answers.append(asked(page, "/", **CROSS))
    for answer in answers:
        assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert answer.headers["Cross-Origin-Opener-Policy"] == "same-origin"
        assert "Access-Control-Allow-Origin" not in answer.headers


# Questions that are none

_EXAMPLE = "?text=The%20capital%20of%20Japan%20is%20the%20city%20of&example=japan"
_TICKET = {"id": "t", "previous": None, "search": _EXAMPLE, "run": "r"}
_FORM = {
    "task": "none",
    "corrupted": "a",
    "answer": "",
    "against": "",
    "prompts": 8,
    "circuit": "backward",
    "budget": None,
}
_VALUES = {
    "ticket.data": _TICKET, "picture.drawn": "flow-t", "run.data": {"key": "r", "search": _EXAMPLE}, "picture.pins": ["embed.3"],
    "picture.selected": "resid_mid.23.7", "panel.data": {"tab": "lens", "search": _EXAMPLE, "key": "", "first": 2},
    "continuation-ticket.data": _TICKET | {"count": 3}, "picture.test": _TICKET | {"what": "graph", "corrupted": []},
    "picture.curve_wanted": _TICKET | {"corrupted": [], "points": 8, "random": 0},
    "picture.proposal": {"search": _EXAMPLE}, "find-ticket.data": _TICKET | {"form": _FORM}, "open-session.contents": "data:;base64,QUJD",
    "open-session.filename": "a.flowgraph",
}  # fmt: skip
"""What the page may send, by the end of a callback; all others are counts of clicks."""


def bodies(page):
    """One request of the page for each callback of the server, as Dash's client writes it."""
    for one in page.get("/_dash-dependencies").get_json():
        if one["clientside_function"] is not None:
            continue
        ends = [part.rpartition(".") for part in one["output"].strip(".").split("...")]
        outputs = [{"id": name, "property": prop} for name, _, prop in ends]
        with_values = {
            kind: [end | {"value": _VALUES.get(f"{end['id']}.{end['property']}", 1)} for end in one[kind]]
            for kind in ("inputs", "state")
        }
        asked_first = one["inputs"][0]
        yield {
            "output": one["output"], "outputs": outputs if one["output"].startswith("..") else outputs[0],
            "changedPropIds": [f"{asked_first['id']}.{asked_first['property']}"], **with_values,
        }  # fmt: skip


def posted(page, body: bytes):
    return page.post("/_dash-update-component", data=body, content_type="application/json")


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{}", b"[]", b"null", b"1", b'"a"', b"{", b"nonsense", b"\xff", b"NaN", b"[" * 20_000, b'{"output": null}', b'{"output": []}',
        b'{"output": "x.y"}', b'{"output": "..strip.children.."}', b'{"output": "content.children"}',
        b'{"output": "content.children", "outputs": {"id": "content", "property": "children"}, "inputs": [1]}',
    ],
)  # fmt: skip
def test_what_is_no_question_is_refused_in_words(page, body, caplog):
    answer = posted(page, body)
    said = answer.get_data(as_text=True)
    assert (answer.status_code, answer.mimetype) == (400, "text/plain")
    assert said.startswith("This is no question that the page asks: ")
    assert "Traceback" not in said
    assert not caplog.records


def test_the_page_itself_asks_every_question(page):
    said = [(posted(page, json.dumps(body).encode()).status_code, body["output"]) for body in bodies(page)]
    assert len(said) > 15
    assert not [one for one in said if one[0] not in (200, 204)]


def test_changed_questions_are_refused_or_answered(page, caplog, factor):
    """Any value of any request, replaced, left out, doubled or named otherwise: no fault of the program comes of it."""
    refusals = 0
    for n, body in enumerate(bodies(page)):
        for changed in of_json(body, 60 * factor, seed=n):
            status = posted(page, changed).status_code
            assert status in (200, 204, 400), (status, changed)
            assert not [record for record in caplog.records if record.levelname == "ERROR"], changed
            refusals += status == 400
    assert refusals > 300


# Exports


def fetched(address: str, **headers: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=60) as answer:
            return answer.status, answer.read().decode("utf-8", "replace")
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.mark.slow
def test_an_export_starts_nothing_and_says_what_to_do(make_service, folder):  # noqa: F811
    asked_by = make_service([folder])
    recipe = Recipe(model=folder, text=TEXT)
    query = to_query(recipe)
    circuit = to_query(Recipe(model=folder, text=TEXT, circuit="backward", task="ioi", prompts=64, budget=1_000_000))
    with served(asked_by) as address:
        for name in (*(f"graph{ending}" for ending in FORMATS), "lens.csv", "bars.csv", "session.flowgraph"):
            status, said = fetched(f"{address}export/{name}{query}")
            assert (status, "the page" in said) == (409, True), said
        assert "Search the circuit" in fetched(f"{address}export/graph.json{circuit}")[1]
        assert asked_by.worker_pid is None
        asked_by.ask(RunQuestion.of(recipe))
        status, said = fetched(f"{address}export/graph.svg{query}")
        assert (status, "Trace the prompt in the page" in said) == (409, True)
        asked_by.ask(GraphQuestion.of(recipe))
        names = [f"graph{ending}" for ending in FORMATS]
        names += [f"{panel}.csv" for panel in ("lens", "heads", "attention", "bars", "semantic")]
        for name in (*names, "session.flowgraph"):
            assert fetched(f"{address}export/{name}{query}")[0] == 200, name


@pytest.mark.slow
def test_an_export_waits_for_what_the_page_waits_for(service, folder, asking):  # noqa: F811
    question = GraphQuestion.of(Recipe(model=folder, text=TEXT, target=44))
    with Held(service):
        page_asks = asking(service, question, "drawn")
        open_question(service, "drawn")
        until(lambda: service.progress("drawn").name != "waiting", "the question to be handed over")
        with pytest.raises(NotYet):
            service.ready(GraphQuestion.of(Recipe(model=folder, text=TEXT, target=45)))
        taken = threading.Thread(target=lambda: found.append(service.ready(question)))
        found: list = []
        taken.start()
    taken.join(PATIENCE)
    assert found == [page_asks.result(PATIENCE)]


# Those who wait


@pytest.mark.slow
def test_those_who_wait_are_counted_whatever_they_wait_for(make_service, folder, asking, monkeypatch):  # noqa: F811
    busy = make_service([folder], queue=64)
    busy.ask(question_of(folder, 1))
    monkeypatch.setattr(dispatch, "MOST_WAITERS", 6)
    same, other = LensQuestion(RunQuestion(folder, TEXT)), HeadsQuestion(RunQuestion(folder, TEXT))
    with Held(busy):
        waiting = [asking(busy, same, f"t{n}") for n in range(5)] + [asking(busy, other, "t5")]
        for n in range(6):
            open_question(busy, f"t{n}")
        for question in (same, other, question_of(folder, 3)):
            with pytest.raises(Busy, match="6 questions are waiting"):
                busy.ask(question, ticket="more")
        assert busy._dispatcher._waiters == 6
    assert all(one.result(PATIENCE) for one in waiting)
    assert busy._dispatcher._waiters == 0
    assert busy.ask(question_of(folder, 3))


def test_threads_are_left_for_pages():
    assert THREADS >= MOST_WAITERS + 16


def leaving(service, question, closed: threading.Event, raised: list) -> threading.Thread:  # noqa: F811
    """Who asks, and leaves when ``closed`` is set."""

    def ask() -> None:
        try:
            service.ask(question, gone=closed.is_set)
        except Cancelled as error:
            raised.append(error)

    return threading.Thread(target=ask)


@pytest.mark.slow
def test_a_closed_connection_takes_its_question_back(make_service, folder, asking, monkeypatch):  # noqa: F811
    monkeypatch.setattr(dispatch, "LEFT", 0.2)
    left = make_service([folder])
    left.ask(question_of(folder, 1))
    closed = threading.Event()
    question = GenerateQuestion(RunQuestion(folder, TEXT, position=1), 40)
    with Held(left):
        raised: list[Exception] = []
        one = leaving(left, question, closed, raised)
        one.start()
        until(lambda: left._dispatcher._running is not None, "the question to be handed over")
        closed.set()
        one.join(PATIENCE)
        assert len(raised) == 1
        assert left._dispatcher._waiters == 0
        until(lambda: question not in left._dispatcher._jobs, "the run to be given up")
    assert left.ask(question_of(folder, 2))


@pytest.mark.slow
def test_a_page_that_is_loaded_anew_finds_its_run(make_service, folder, asking):  # noqa: F811
    left = make_service([folder])
    left.ask(question_of(folder, 1))
    closed = threading.Event()
    question = question_of(folder, 5)
    with Held(left):
        one = leaving(left, question, closed, [])
        one.start()
        until(lambda: left._dispatcher._running is not None, "the question to be handed over")
        number = left._dispatcher._running.number
        closed.set()
        one.join(PATIENCE)
        again = asking(left, question, "again")
        open_question(left, "again")
        assert left._dispatcher._jobs[question].number == number
    assert again.result(PATIENCE).target == 15


@pytest.mark.slow
def test_sixty_connections_that_leave_or_never_read_keep_nobody_waiting(make_service, folder):  # noqa: F811
    """Raw sockets say nothing of where they come from: questions that wait behind a stopped worker, and large files."""
    crowded = make_service([folder], queue=64)
    crowded.ask(RunQuestion.of(Recipe(model=folder, text=TEXT)))
    with served(crowded) as address:
        place = urlsplit(address)
        host = (place.hostname, place.port)
        callbacks = json.loads(fetched(f"{address}_dash-dependencies")[1])
        with Held(crowded):
            asks = [
                sent(host, question(callbacks, f"/?text={quote(TEXT)}&model={quote(folder)}&target={n}", f"t{n}"))
                for n in range(60)
            ]
            until(lambda: crowded._dispatcher._waiters == MOST_WAITERS, "the questions to arrive")
            assert answered_within(address, 1.0)
            for one in asks:
                one.close()
            until(lambda: crowded._dispatcher._waiters == 0, "closed connections to free their threads")
            assert answered_within(address, 1.0)
        never = [sent(host, f"GET /page/cytoscape.js HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode() * 4) for _ in range(60)]
        slow = [sent(host, b"GET / HTTP/1.1\r\nHost: " + b"1") for _ in range(60)]
        assert answered_within(address, 1.0)
        for one in (*never, *slow):
            one.close()


def sent(host: tuple[str, int], data: bytes) -> socket.socket:
    """A connection that has sent something, and reads nothing."""
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    made.settimeout(PATIENCE)
    made.connect(host)
    made.sendall(data)
    return made


def question(callbacks: list, search: str, ticket: str) -> bytes:
    """The request of a page that draws."""
    [one] = [found for found in callbacks if "strip.children" in found["output"]]
    value = {"id": ticket, "previous": None, "search": search.removeprefix("/"), "run": ticket}
    ends = [part.rsplit(".", 1) for part in one["output"].strip(".").split("...")]
    body = json.dumps({
        "output": one["output"], "outputs": [{"id": name, "property": prop} for name, prop in ends], "state": [],
        "inputs": [{**end, "value": value} for end in one["inputs"]], "changedPropIds": ["ticket.data"],
    }).encode()  # fmt: skip
    head = f"POST /_dash-update-component HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def answered_within(address: str, seconds: float) -> bool:
    """Whether the page comes in time; the best of three, since other programs run on this machine too."""
    times = []
    for _ in range(3):
        begun = time.monotonic()
        with urllib.request.urlopen(address, timeout=30) as answer:
            answer.read()
        times.append(time.monotonic() - begun)
    return min(times) < seconds


# A page of somebody else's, in Chromium

_HOSTILE = """
<!doctype html><meta charset=utf-8><body><script>
window.statuses = [];
async function attack(address, search) {
  for (let round = 0; round < 10; round += 1) {
    const stop = new AbortController();
    for (let n = 0; n < 6; n += 1) {
      const url = `${address}export/graph.json?${search}&keep=${round * 6 + n}`;
      fetch(url, { mode: 'no-cors', signal: stop.signal }).then(() => statuses.push('read'), () => statuses.push('refused'));
    }
    await new Promise((done) => setTimeout(done, 150));
    stop.abort();
  }
  for (const path of ['', 'page/theme.css', '_dash-layout']) {
    await fetch(address + path).then(() => statuses.push('read'), () => statuses.push('refused'));
  }
  const body = JSON.stringify({ output: 'x', inputs: [], outputs: [] });
  await fetch(address + '_dash-update-component', { method: 'POST', mode: 'no-cors', body })
    .then(() => statuses.push('opaque'), () => statuses.push('refused'));
  const image = new Image();
  image.src = address + 'assets/favicon.svg';
  await new Promise((done) => { image.onload = () => done(statuses.push('read')); image.onerror = done; });
  const frame = document.body.appendChild(document.createElement('iframe'));
  frame.src = address;
  const form = document.body.appendChild(document.createElement('form'));
  Object.assign(form, { action: address + '_dash-update-component', method: 'post', enctype: 'text/plain', target: 'nowhere' });
  form.submit();
  await new Promise((done) => setTimeout(done, 300));
}
</script><a id=link>the flow</a>
"""


@contextlib.contextmanager
def hosted(text: str):
    """A page at another port of this machine."""

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.parametrize("elsewhere", ["localhost", "127.0.0.1"])
def test_a_hostile_page_in_the_same_browser_reaches_nothing(make_service, folder, browser, elsewhere):  # noqa: F811
    """At another name it is another site, at another port of the same name the same site; both are refused."""
    guarded = make_service([folder])
    guarded.ask(RunQuestion.of(Recipe(model=folder, text=TEXT)))
    search = f"text={quote(TEXT)}&model={quote(folder, safe='')}&{SEARCH}"
    with served(guarded) as address, hosted(_HOSTILE) as port:
        context = browser.new_context()
        tab = context.new_page()
        tab.goto(f"http://{elsewhere}:{port}/")
        tab.evaluate("([address, search]) => attack(address, search)", [address, search])
        assert answered_within(address, 1.0)
        assert tab.evaluate("statuses") == ["refused"] * 64
        assert guarded._dispatcher._waiters == 0
        assert guarded._dispatcher._searching is None
        # A link there opens the page.
        tab.evaluate("(address) => { document.getElementById('link').href = address; }", address)
        tab.click("#link")
        tab.wait_for_selector("#prompt")
        context.close()


@pytest.mark.slow
def test_a_search_cannot_be_started_without_the_page(make_service, folder):  # noqa: F811
    lone = make_service([folder])
    lone.ask(RunQuestion.of(Recipe(model=folder, text=TEXT)))
    question = CircuitQuestion(RunQuestion(folder, TEXT), "backward", "", "ioi", 64, 1_000_000)
    with pytest.raises(NotYet):
        lone.ready(question)
    assert question not in lone._dispatcher._jobs
