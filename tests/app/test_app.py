"""The app over HTTP: what the browser asks, and what it is answered, without a browser."""

from __future__ import annotations

import ast
import base64
import json
import re
import zipfile
from io import BytesIO
from pathlib import Path
from urllib.parse import quote

import flowgraph_webapp
import pytest
from flowgraph_webapp.app import LARGEST_REQUEST, create_app
from flowgraph_webapp.page.layout import words
from flowgraph_webapp.page.wires.downloads import FORMATS
from flowgraph_webapp.panels.bars import BarsQuestion
from flowgraph_webapp.panels.flow import GraphQuestion, SketchQuestion
from flowgraph_webapp.panels.lens import LensQuestion
from flowgraph_webapp.panels.picture import largest_writers
from flowgraph_webapp.present.ids import Id
from flowgraph_webapp.recipe import Recipe, from_query
from flowgraph_webapp.server.errors import Busy
from flowgraph_webapp.server.run import RunQuestion
from flowgraph_webapp.session import write_session

import flowgraph
from flowgraph.render import page_data
from tests.app.fake_service import EXAMPLE, FakeService

pytestmark = pytest.mark.real_model

QUERY = f"?text={quote(EXAMPLE)}"


class Page:
    """A browser without a screen: posts to callbacks as Dash's own scripts do."""

    def __init__(self, service: FakeService) -> None:
        self.service = service
        self.app = create_app(service)
        self.client = self.app.server.test_client()
        self.callbacks = self.client.get("/_dash-dependencies").get_json()

    def call(self, callback_input: str, output: str = "", state: dict | None = None, **inputs):
        """The answer of the callback with this input (``ticket.data``) and, of several, this output."""
        wanted = [
            one for one in self.callbacks
            if one["clientside_function"] is None and output in one["output"]
            and callback_input in {f"{i['id']}.{i['property']}" for i in one["inputs"]}
        ]  # fmt: skip
        assert len(wanted) == 1, (callback_input, output, [one["output"] for one in wanted])
        [one] = wanted
        values = {callback_input: inputs.pop("value", None)} | (state or {})
        ends = {
            kind: [{**end, "value": values.get(f"{end['id']}.{end['property']}")} for end in one[kind]]
            for kind in ("inputs", "state")
        }
        parts = [part.rpartition(".") for part in one["output"].strip(".").split("...")]
        outputs = [{"id": name, "property": prop} for name, _, prop in parts]
        several = outputs if one["output"].startswith("..") else outputs[0] if parts[0][0] else []
        body = {"output": one["output"], "outputs": several, "changedPropIds": [callback_input], **ends}
        response = self.client.post("/_dash-update-component", json=body)
        answer = response.get_json() if response.status_code == 200 else None
        return response.status_code, answer

    def draw(self, search: str = QUERY, **ticket):
        value = {"id": "t-1", "previous": None, "search": search, "run": "run", **ticket}
        return self.call("ticket.data", "strip.children", value=value)

    def panel(self, tab: str, search: str = QUERY, first=None):
        value = {"tab": tab, "search": search, "key": "", "first": first}
        return self.call("panel.data", "content.children", value=value)

    def details(self, key, search: str = QUERY, pins=()):
        state = {"run.data": {"key": "run", "search": search}, "picture.pins": list(pins)}
        return self.call("picture.selected", "details.children", state, value=key)


@pytest.fixture(scope="module")
def page() -> Page:
    return Page(FakeService())


def notice_of(answer) -> str:
    return json.dumps(answer["sideUpdate"]["notice"]["children"])


def test_the_page_comes_whole_from_here_and_forbids_the_rest(page):
    response = page.client.get("/")
    text = response.get_data(as_text=True)
    policy = response.headers["Content-Security-Policy"]
    assert '<html lang="en">' in text
    assert "script-src 'self'" in policy
    assert "unsafe-eval" not in policy
    assert "frame-ancestors 'none'" in policy
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    addresses = re.findall(r'(?:src|href)="([^"]+)"', text)
    assert any("flowgraph.js" in one for one in addresses)
    for address in addresses:
        assert not re.match(r"(https?:)?//", address), address
        assert page.client.get("/" + address.lstrip("/")).status_code == 200, address


def test_the_bare_address_leads_to_what_the_server_was_started_with(page):
    client = create_app(page.service, QUERY).server.test_client()
    response = client.get("/")
    assert (response.status_code, response.headers["Location"]) == (302, f"/{QUERY}")
    assert client.get("/?text=other").status_code == 200
    assert client.get("/page/flowgraph.js").status_code == 200


def test_page_files_are_known_by_name_and_not_sent_twice(page):
    response = page.client.get("/page/flowgraph.js")
    assert "mount" in response.get_data(as_text=True)
    again = page.client.get("/page/flowgraph.js", headers={"If-None-Match": response.headers["ETag"]})
    assert again.status_code == 304
    assert page.client.get("/page/other.js").status_code == 404


def test_drawing_asks_once_for_run_and_graph_and_answers_all_of_the_picture(page):
    page.service.asked.clear()
    status, answer = page.draw()
    assert status == 200
    shown = answer["response"]
    assert [type(one).__name__ for one in page.service.asked] == ["RunQuestion", "SketchQuestion"]
    picture = shown["picture"]["data"]
    assert picture["picture"] == "flow-t-1"
    assert len(picture["edges"]) == len(picture["edge_index"]) > 100
    assert shown["run"]["data"] == {
        "key": "run",
        "picture": "flow-t-1",
        "goes_on": True,
        "lacks": [],
        "parts": True,
        "search": QUERY,
        "asks": True,
        "file": False,
        "panels": ["lens", "heads", "attention", "bars", "semantic"],
        "text": True,
    }
    assert shown["notice"]["children"] is None
    assert shown["layers"] == {"max": 30, "value": [0, 30]}
    assert "Tokyo" in json.dumps(shown["strip"])


@pytest.mark.parametrize("view", ["", "&level=head", "&method=norms", "&start=resid_post.22.3"])
def test_what_the_picture_does_not_show_of_its_nodes_comes_after_it(page, view):
    search = QUERY + view
    _, answer = page.draw(search)
    ticket = {"id": "t-1", "previous": None, "search": search, "run": "run"}
    status, then = page.call("picture.drawn", "picture.readings", {"ticket.data": ticket}, value="flow-t-1")
    assert status == 200
    late = then["response"]["picture"]["readings"]
    assert late["picture"] == answer["response"]["picture"]["data"]["picture"]
    recipe = from_query(search)
    sketch, whole = (page_data(page.service.ask(made(recipe)).graph) for made in (SketchQuestion.of, GraphQuestion.of))
    first = answer["response"]["picture"]["data"]["readings"]
    assert sum(one is None for one in first) > sum(one is None for one in late["readings"])
    # Colours, labels and all the rest are final before the rest has been read.
    assert sketch | {name: late[name] for name in ("readings", "vocabulary")} == whole


@pytest.mark.parametrize("start", ["resid_post.22.3", "head.23.4.7", "mlp.10.2"])
def test_flow_into_a_chosen_node_is_drawn_and_exported(page, start):
    search = f"{QUERY}&start={start}" + ("&level=head" if start.startswith("head") else "")
    _, answer = page.draw(search)
    data = answer["response"]["picture"]["data"]
    assert data["starts"][data["start"]] == start
    assert start.split(".")[1] in json.dumps(answer["response"]["start"])
    assert page.client.get(f"/export/graph.html{search}").status_code == 200


def test_what_only_the_view_says_leaves_the_question_the_same(page):
    page.service.asked.clear()
    page.draw(
        QUERY + "&keep=100&width=share&selected=resid_post.3.-.2.-&pins=resid_post.3.-.2.-&tab=heads&fill=entropy"
    )
    page.draw(QUERY)
    questions = [one for one in page.service.asked if isinstance(one, SketchQuestion)]
    assert questions[0] == questions[1]


def test_the_former_run_is_taken_back(page):
    page.draw(previous="t-0")
    assert "t-0" in page.service.cancelled


@pytest.mark.parametrize(
    ("search", "said"),
    [
        ("?text=x&method=magic", "magic"),
        ("?text=x&nonsense=1", "nonsense"),
        ("?text=x&layers=9", "layers"),
        ("?text=x&start=resid_post.23", "start"),
        ("?text=x&method=logits&show=flow", "choose the method"),
        ("?text=x&model=../etc", "etc"),
        ("?text=%ff", "address"),
    ],
)
def test_an_address_that_cannot_be_used_is_explained_and_nothing_else_changes(page, search, said):
    status, answer = page.draw(search)
    assert status == 200
    assert said in notice_of(answer)
    assert answer.get("response", {}) == {}


def test_a_layer_that_the_model_does_not_have_is_said_and_the_picture_is_drawn(page):
    _, answer = page.draw(QUERY + "&layer=99")
    response = answer["response"]
    said = json.dumps(response["notice"]["children"], ensure_ascii=False)
    assert "layer=99 is not a layer of this model; its layers are 0…29, and the last is chosen" in said
    assert response["layer"]["value"] == 29
    assert response["picture"]["data"]
    _, answer = page.draw(QUERY + "&layer=29")
    assert answer["response"]["notice"]["children"] is None


def test_a_busy_server_is_said_beside_the_picture(page):
    page.service.failure = Busy("32 questions are waiting, as many as this server lets wait")
    _, answer = page.draw()
    assert "busy" in notice_of(answer)
    assert "32 questions" in notice_of(answer)


@pytest.mark.parametrize("ticket", [{"id": "x"}, {"id": "x", "previous": None, "search": 5, "run": ""}, [], "text"])
def test_a_ticket_that_no_page_writes_is_refused(page, ticket):
    assert page.call("ticket.data", "strip.children", value=ticket) == (400, None)


def test_no_answer_of_the_server_can_undo_what_was_chosen_meanwhile(page):
    controls = {
        Id.MODEL,
        Id.PROMPT,
        Id.CHAT,
        Id.METHOD,
        Id.SHOW,
        Id.LEVEL,
        Id.HEADS_IN,
        Id.THRESHOLD,
        Id.WIDTH,
        Id.ORIENTATION,
        Id.FILL,
    }
    writers = [one for one in page.callbacks if any(f"{name}.value" in one["output"] for name in controls)]
    assert len(writers) == 1
    assert writers[0]["clientside_function"]["function_name"] == "restore"


@pytest.mark.parametrize("tab", words.TABS)
def test_every_panel_is_answered(page, tab):
    status, answer = page.panel(tab)
    assert status == 200
    shown = json.dumps(answer["response"]["content"]["children"])
    assert "notice" not in shown
    assert len(shown) > 500


def test_panels_ask_for_themselves_alone(page):
    page.service.asked.clear()
    page.panel("lens")
    assert {type(one).__name__ for one in page.service.asked} == {"RunQuestion", "LensQuestion"}
    assert any(isinstance(one, LensQuestion) for one in page.service.asked)


@pytest.mark.parametrize(
    ("tab", "search", "said"),
    [("other", QUERY, "other"), ("attention", QUERY + "&layer=99", "99"), ("lens", "?text=", "empty")],
)
def test_a_panel_that_cannot_be_shown_says_why_in_its_place(page, tab, search, said):
    _, answer = page.panel(tab, search)
    assert said in json.dumps(answer["response"]["content"]["children"])


def test_a_closed_panel_asks_nothing(page):
    page.service.asked.clear()
    _, answer = page.call("panel.data", "content.children", value=None)
    assert answer["response"]["content"]["children"] == []
    assert page.service.asked == []


def test_scores_of_heads_are_offered_with_the_panel(page):
    value = {"tab": "heads", "search": QUERY, "key": "", "first": None}
    _, answer = page.call("panel.data", "score.options", value=value)
    options = answer["response"]["score"]["options"]
    assert answer["response"]["score"]["value"] == options[0]["value"]
    assert len(options) > 2


def test_details_of_a_node_an_edge_and_the_whole(page):
    _, node = page.details("resid_mid.23.-.7.-", pins=["resid_mid.23.-.7.-"])
    text = json.dumps(node["response"], ensure_ascii=False)
    assert "L23.resid_mid@7" in text
    assert "unpin" in text
    _, edge = page.details("edge.0")
    assert "share" in json.dumps(edge["response"])
    _, whole = page.details(None)
    assert "Japan" in json.dumps(whole["response"])


@pytest.mark.parametrize("key", ["resid_mid.99.-.7.-", "edge.999999", "edge.x", "nonsense", "<img src=x>", "logit"])
def test_details_of_nothing_say_so(page, key):
    status, answer = page.details(key)
    assert status == 200
    assert "notice" in json.dumps(answer["response"])


def test_progress_and_cancelling_go_by_ticket(page):
    state = {"ticket.data": {"id": "t-9", "previous": None, "search": QUERY}}
    _, answer = page.call("poll.n_intervals", state=state, value=1)
    assert "starting" in json.dumps(answer)
    page.call("cancel.n_clicks", state=state, value=1)
    assert "t-9" in page.service.cancelled


@pytest.mark.parametrize("ending", FORMATS)
def test_the_graph_is_exported_in_every_format(page, ending):
    response = page.client.get(f"/export/graph{ending}{QUERY}&keep=200")
    assert response.status_code == 200, response.get_data(as_text=True)
    name = re.search(r"filename=([^;]+)", response.headers["Content-Disposition"])[1]
    assert re.fullmatch(r"[a-z0-9.-]+", name)
    assert len(response.data) > 200


def test_an_exported_table_brings_both_halves_and_what_makes_it_again(page):
    response = page.client.get(f"/export/graph.csv{QUERY}")
    archive = zipfile.ZipFile(BytesIO(response.data))
    names = {name.split(".", 1)[1]: name for name in archive.namelist()}
    assert set(names) == {"edges.csv", "nodes.csv", "csv-metadata.json"}
    (note,) = json.loads(archive.read(names["csv-metadata.json"]))["notes"]
    provenance = page.client.get(f"/export/graph.json{QUERY}").get_json()["graph"]["provenance"]
    assert provenance["weights"]
    assert note["provenance"] == provenance


def test_an_exported_graph_has_the_edges_that_the_slider_shows(page):
    counts = [
        len(page.client.get(f"/export/graph.json{QUERY}&keep={keep}").get_json()["edges"]) for keep in (100, 1000)
    ]
    assert 0 < counts[0] < counts[1]


@pytest.mark.parametrize("tab", words.TABS)
def test_numbers_of_every_panel_are_exported(page, tab):
    response = page.client.get(f"/export/{tab}.csv{QUERY}")
    lines = response.get_data(as_text=True).splitlines()
    assert response.mimetype == "text/csv"
    assert len(lines) > 5


@pytest.mark.parametrize(
    "address",
    ["/export/graph.exe?text=x", "/export/other.csv?text=x", "/export/graph.svg?text=x&method=magic", "/export/graph.svg",
     "/export/graph", "/export/..%5C..%5Cetc.svg?text=x"],
)  # fmt: skip
def test_other_files_are_refused_in_words(page, address):
    response = page.client.get(address)
    assert response.status_code == 400
    assert response.mimetype == "text/plain"


def test_no_path_leads_out_of_the_export(page):
    for address in (
        "/export/../app.py",
        "/export/%2e%2e/app.py",
        "/export/..%2fapp.py",
        "/assets/../app.py",
        "/page/../app.py",
    ):
        assert "create_app" not in page.client.get(address).get_data(as_text=True)


def test_a_session_is_saved_and_opened_again(page):
    page.draw()
    data = page.client.get(f"/export/session.flowgraph{QUERY}&pins=resid_post.3.-.2.-").data
    contents = "data:application/octet-stream;base64," + base64.b64encode(data).decode()
    _, answer = page.call("open-session.contents", value=contents)
    recipe = from_query(answer["response"]["location"]["search"])
    assert recipe.text == EXAMPLE
    assert recipe.session == "opened"
    _, drawn = page.draw(answer["response"]["location"]["search"], id="t-2")
    assert len(drawn["response"]["picture"]["data"]["edges"]) > 100


@pytest.mark.parametrize("contents", ["data:;base64,bm8gc2Vzc2lvbg==", "data:;base64,###", "nothing", ""])
def test_what_is_no_session_is_refused(page, contents):
    status, answer = page.call("open-session.contents", value=contents)
    assert status == 200
    assert "cannot be opened" in notice_of(answer)


def test_a_request_beyond_the_limit_is_not_read(page):
    too_long = {"CONTENT_LENGTH": str(LARGEST_REQUEST + 1)}
    response = page.client.post("/_dash-update-component", json={}, environ_overrides=too_long)
    assert response.status_code == 413


def test_callbacks_are_wires_of_at_most_ten_lines():
    root, seen = Path(flowgraph_webapp.__file__).parent, 0
    for path in [*(root / "page" / "wires").glob("*.py"), *(root / "panels").glob("*.py")]:
        for one in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(one, ast.FunctionDef) and any(
                ast.unparse(by).startswith("app.") for by in one.decorator_list
            ):
                seen += 1
                assert one.end_lineno - one.body[0].lineno < 10, f"{path.name}: {one.name}"
    assert seen > 10


def test_every_control_of_the_browser_exists(page):
    layout = json.dumps(page.client.get("/_dash-layout").get_json())
    for one in page.callbacks:
        for end in [*one["inputs"], *one["state"]]:
            # Panels come and go: their ids are patterns.
            assert end["id"].startswith("{") or f'"id": "{end["id"]}"' in layout
    assert Id.KEEP.value in layout


@pytest.mark.parametrize(
    "query", ["", "&method=logits", "&level=head", "&heads_in=23", "&start=resid_post.23.7", "&show=all"]
)
def test_files_and_captions_say_the_mass_of_what_they_contain_as_the_screen_does(page, tmp_path, query):
    _, answer = page.draw(QUERY + query)
    picture = answer["response"]["picture"]["data"]
    edges = picture["edges"]
    for keep in (picture["level"], 15, 300, 1_000):
        shown = sum(edge["data"]["c"] <= keep for edge in edges)
        screen = picture["mass"][shown - 1] if shown else 0.0
        data = page.client.get(f"/export/graph.json{QUERY}{query}&keep={keep}").get_data()
        (tmp_path / "graph.json").write_bytes(data)
        file = flowgraph.FlowGraph.load(tmp_path / "graph.json")
        assert len(file) == shown
        assert 100 * file.kept_mass == pytest.approx(screen, abs=0.06), keep
        drawn = page_data(file)
        assert (drawn["mass"] or [0.0])[-1] == pytest.approx(screen, abs=0.06)
        assert drawn["level"] == 1_000 or sum(edge["data"]["c"] <= drawn["level"] for edge in drawn["edges"]) < shown
        with zipfile.ZipFile(
            BytesIO(page.client.get(f"/export/graph.svg{QUERY}{query}&keep={keep}").get_data())
        ) as files:
            for name in files.namelist():
                # A caption for LaTeX has its signs escaped, and spaces where lines may break.
                text = re.sub(r"\\(?=%)|\\,|~", " ", files.read(name).decode())
                said = re.findall(r"([\d.]+)\s+%\s+of\s+the\s+mass", text)
                assert said, name
                assert all(float(one) == pytest.approx(screen, abs=0.1) for one in said), (keep, name, said)


def test_of_a_session_that_does_not_hold_the_sum_none_is_computed(page):
    recipe = Recipe(text=EXAMPLE)
    graph, bars = GraphQuestion.of(recipe), BarsQuestion.of(recipe)
    answers = {question: page.service.ask(question) for question in (RunQuestion.of(recipe), graph, bars)}
    for held in (False, True):
        kept = {question: answer for question, answer in answers.items() if held or question != bars}
        session = page.service.open_session(write_session(recipe, kept))
        page.service.asked.clear()
        said = largest_writers(page.service, session.recipe, "t-9")
        assert not any(isinstance(question, BarsQuestion) for question in page.service.asked)
        assert ("not recorded" in said.get("failed", "")) is not held
        assert len(said["parts"]) == (3 if held else 0)
