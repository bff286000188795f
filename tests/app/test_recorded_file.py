"""One file for a trace and a session: each opens where the other does, and files of release 0.1 open as before."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from pathlib import Path

import flowgraph_webapp.server.service as of_service
import flowgraph_webapp.server.trace_file as of_trace
import numpy as np
import pytest
import torch
from flowgraph_webapp.page.wires.downloads import NOTE, exported
from flowgraph_webapp.panels.attention import AttentionQuestion
from flowgraph_webapp.panels.bars import BarsQuestion
from flowgraph_webapp.panels.flow import GraphQuestion
from flowgraph_webapp.panels.kept_answer import KeptQuestion
from flowgraph_webapp.panels.kept_curve import CurveQuestion
from flowgraph_webapp.panels.lens import LensQuestion
from flowgraph_webapp.recipe import Recipe, to_query
from flowgraph_webapp.registered import KINDS
from flowgraph_webapp.server.recorded import EXAMPLES
from flowgraph_webapp.server.run import RunQuestion
from flowgraph_webapp.server.service import Service
from flowgraph_webapp.server.trace_file import TraceFileQuestion
from flowgraph_webapp.server.traces import Traces
from flowgraph_webapp.session import container, open_recorded, read_session, with_trace, write_session
from safetensors import safe_open

import flowgraph as fg
from flowgraph.cli.app import _opened
from flowgraph.errors import FileFormatError, ModelNeededError
from flowgraph.files import trace_reader
from tests.app.conftest import TEXT
from tests.app.fake_service import FakeService
from tests.app.test_app import Page, notice_of
from tests.app.test_session import equal

OLD = Path(__file__).parent.parent / "data" / "files_0_1"
"""Written by release 0.1: a session with an answer of every kind, and a trace."""
FOIL = 31


def unheard(_stage: str, _part: float | None = None) -> None:
    pass


@pytest.fixture(scope="module")
def recipe(folder) -> Recipe:
    return Recipe(model=folder, text=TEXT, foil=FOIL)


@pytest.fixture(scope="module")
def saved(service, recipe, tmp_path_factory) -> Path:
    """A session that the app saved, with its trace."""
    for question in (RunQuestion.of(recipe), GraphQuestion.of(recipe), LensQuestion.of(recipe)):
        service.ask(question)
    data, why = service.session_file(recipe)
    assert why == ""
    path = tmp_path_factory.mktemp("files") / "study.flowgraph"
    path.write_bytes(data)
    return path


@pytest.fixture
def viewing(make_service) -> Service:
    """A service that runs no model."""
    return make_service([])


def same_tensors(one: fg.Trace, other: fg.Trace) -> None:
    assert set(one.sites) == set(other.sites)
    for name, tensor in one.sites.items():
        torch.testing.assert_close(tensor, other.sites[name], rtol=0, atol=0)
    torch.testing.assert_close(one.logits, other.logits, rtol=0, atol=0)


# A session opens as a trace


def test_a_session_holds_the_trace_that_its_answers_came_from(saved, folder):
    trace = fg.Trace.load(saved)
    expected = fg.trace(fg.load_model(folder), TEXT, foil=FOIL)
    same_tensors(trace, expected)
    for name in ("tokens", "position", "target", "target_token", "foil", "foil_token", "fingerprint", "prompt", "fed"):
        assert getattr(trace, name) == getattr(expected, name)
    session = read_session(saved.read_bytes())
    graph = session.answers[GraphQuestion.of(session.recipe)].graph
    # What the page showed is answered without the model.
    again, _ = fg.picture_edges(fg.edge_weights(trace, method="proximity"))
    assert again.nodes == graph.nodes
    np.testing.assert_array_equal(again.weight, graph.weight)
    lens = session.answers[LensQuestion.of(session.recipe)]
    assert fg.logit_lens(trace)[1, -1].top[0][0] == lens[1, -1].top[0][0]
    with pytest.raises(ModelNeededError, match="recorded with it were 'proximity'"):
        fg.edge_weights(trace, method="norms")
    same_tensors(trace, trace.attach(folder))


def test_any_reader_of_safetensors_opens_it(saved):
    with safe_open(saved, framework="np") as file:
        assert "session" in file.keys()  # noqa: SIM118
        assert json.loads(file.metadata()["flowgraph"])["trace"]["tokens"]
        assert file.get_tensor("session").tobytes() == container.parts(saved.read_bytes()).session
        assert file.get_tensor("logits").dtype == np.float32


def test_the_names_are_those_of_the_library():
    assert (container.SESSION, container.KEY) == (trace_reader.SESSION, trace_reader.KEY)
    assert container.LARGEST_TRACE < container.LARGEST_FILE


def test_a_session_without_a_trace_says_what_it_is(saved, tmp_path):
    path = tmp_path / "session.flowgraph"
    path.write_bytes(with_trace(saved.read_bytes(), b""))
    assert read_session(path.read_bytes()).trace == b""
    for file, said in ((path, "saved without its trace"), (OLD / "session.flowgraph", "of release 0.1")):
        with pytest.raises(FileFormatError, match="which holds answers and not the tensors of a pass") as refused:
            fg.Trace.load(file)
        assert said in str(refused.value)
        assert "'flowgraph app FILE' shows them" in str(refused.value)


# It opens in the app, and is saved there again


def test_it_opens_without_the_model_and_keeps_its_trace(viewing, saved):
    session = _opened(viewing, saved)
    assert viewing.ask(GraphQuestion.of(session.recipe)).graph.nodes
    assert viewing.worker_pid is None
    data, why = viewing.session_file(session.recipe)
    assert why == ""
    assert container.parts(data).trace == container.parts(saved.read_bytes()).trace
    # Of another target it is not the trace.
    other = write_session(replace(session.recipe, foil=None), {})
    assert container.parts(other).trace == b""


def test_what_depends_on_no_target_is_saved_with_a_target_too(service, viewing, recipe, saved):
    attention = AttentionQuestion.of(recipe, 1)
    assert attention.run.foil is None
    service.ask(attention)
    session = read_session(service.session_file(recipe).data)
    assert set(session.answers) >= {attention, attention.run, RunQuestion.of(recipe), GraphQuestion.of(recipe)}
    # It stays where it is opened and saved again.
    opened = viewing.open_session(service.session_file(recipe).data)
    assert set(read_session(viewing.session_file(opened.recipe).data).answers) == set(session.answers)


def test_the_same_session_is_the_same_bytes(saved):
    data = saved.read_bytes()
    assert with_trace(data, container.parts(data).trace) == data
    assert with_trace(with_trace(data, b""), container.parts(data).trace) == data


@pytest.mark.parametrize(
    ("name", "value"),
    [("tokens", ["a"]), ("tokens", None), ("position", 0), ("target", 1), ("foil", None), ("model_name", "other")],
)
def test_a_trace_of_another_pass_is_refused(saved, name, value):
    session, trace = container.parts(saved.read_bytes())
    header, tensors = container._taken_apart(trace)
    about = json.loads(header["__metadata__"]["flowgraph"])
    about["trace"][name] = value
    header["__metadata__"]["flowgraph"] = json.dumps(about)
    with pytest.raises(FileFormatError, match=rf"trace\.{name} is"):
        read_session(container.joined(session, container._file(header, tensors)))


def test_a_trace_without_its_run_is_refused(saved):
    session = read_session(saved.read_bytes())
    for recipe in (Recipe(), session.recipe):
        data = with_trace(write_session(recipe, {}), session.trace)
        with pytest.raises(FileFormatError, match="no answer about the run that it would be of"):
            read_session(data)


# Where there is no trace to save, the page says why


def test_a_trace_that_is_too_large_is_left_out(folder, monkeypatch):
    traces = Traces([folder], 2**30, 512)
    question = TraceFileQuestion(RunQuestion(folder, TEXT), ("proximity", "norms"), ("resid_post",))
    whole = question.answer(traces, unheard)
    bare = replace(question, methods=(), readings=()).answer(traces, unheard)
    assert len(bare.data) < len(whole.data)
    monkeypatch.setattr(of_trace, "LARGEST_TRACE", len(whole.data) - 1)
    assert question.answer(traces, unheard) == bare
    monkeypatch.setattr(of_trace, "LARGEST_TRACE", bare.size - 1)
    assert question.answer(traces, unheard) == of_trace.TraceFile(b"", bare.size)


def test_what_is_left_out_is_said(service, recipe, saved, monkeypatch):
    ready = service.ready
    too_large = of_trace.TraceFile(b"", 100 * 2**20)
    monkeypatch.setattr(
        service, "ready", lambda q, **options: too_large if isinstance(q, TraceFileQuestion) else ready(q, **options)
    )
    file = exported(service, recipe, "session.flowgraph")
    assert "saved without its trace: it has 100 MiB, and a session takes at most 40" in file.note
    assert read_session(file.data).trace == b""
    monkeypatch.undo()
    assert exported(service, recipe, "session.flowgraph").note == ""
    monkeypatch.setattr(of_service, "LARGEST_FILE", 10_000)
    assert "its answers leave no room for it" in exported(service, recipe, "session.flowgraph").note


def test_a_trace_is_large_and_not_kept_among_answers(service, recipe, saved):
    before = service.cached_bytes
    assert service.ready(TraceFileQuestion(RunQuestion.of(recipe))).data
    assert service.cached_bytes == before


def test_what_was_recorded_elsewhere_is_not_run_again(make_service, folder):
    service = make_service([folder, "tiny", "smollm2"], examples=True)
    old = _opened(service, OLD / "session.flowgraph")
    assert "recorded elsewhere" in service.session_file(old.recipe).without_trace
    assert "recorded elsewhere" in service.session_file(service.examples[0].recipe).without_trace
    assert service.worker_pid is None


def test_a_pass_that_is_gone_is_not_run_again(make_service, folder):
    service = make_service([folder])
    recipe = Recipe(model=folder, text=TEXT)
    traces = Traces([folder], 2**30, 512)
    service._dispatcher.keep(RunQuestion.of(recipe), RunQuestion.of(recipe).answer(traces, unheard))
    assert "no longer holds the pass" in service.session_file(recipe).without_trace
    assert service.worker_pid is None


# A trace opens in the app


@pytest.fixture
def page(folder) -> Page:
    return Page(FakeService([folder]))


def uploaded(page: Page, data: bytes, name: str):
    contents = "data:;base64," + base64.b64encode(data).decode()
    return page.call("open-session.contents", state={"open-session.filename": name}, value=contents)[1]


def test_the_upload_takes_a_trace(page, saved):
    trace = container.parts(saved.read_bytes()).trace
    answer = uploaded(page, trace, "run.safetensors")
    session = page.service.sessions["opened"]
    assert answer["response"]["location"]["search"] == to_query(session.recipe)
    assert (session.title, session.trace) == ("run.safetensors", trace)
    assert GraphQuestion.of(session.recipe) in {replace(q, run=replace(q.run, session="opened")) for q in session.answers
                                               if isinstance(q, GraphQuestion)}  # fmt: skip
    assert uploaded(page, saved.read_bytes(), "x")["response"]["location"]["search"]
    assert page.service.sessions["opened"].title == TEXT


def test_the_upload_names_a_damaged_trace_and_not_where_it_lay(page, saved):
    trace = container.parts(saved.read_bytes()).trace
    later = trace.replace(rb"\"version\": 1", rb"\"version\": 9", 1)
    for data, words in (
        (trace[:-8], "perhaps the file was cut off"),
        (later, "'run.safetensors' is a trace of version 9"),
    ):
        said = notice_of(uploaded(page, data, "run.safetensors"))
        assert "cannot be opened" in said
        assert words in said
        assert "/tmp" not in said


def test_the_command_line_and_the_upload_open_the_same(viewing, saved, tmp_path):
    path = tmp_path / "run.safetensors"
    fg.Trace.load(saved).save(path)
    session = _opened(viewing, path)
    assert session.trace == path.read_bytes()
    graph = viewing.ask(GraphQuestion.of(session.recipe)).graph
    with pytest.raises(ModelNeededError):
        viewing.ask(BarsQuestion(RunQuestion.of(session.recipe)))
    # Saved in the app it is a session, and still the trace.
    data, why = viewing.session_file(session.recipe)
    assert why == ""
    (tmp_path / "again.flowgraph").write_bytes(data)
    same_tensors(fg.Trace.load(tmp_path / "again.flowgraph"), fg.Trace.load(path))
    again = _opened(viewing, tmp_path / "again.flowgraph")
    assert viewing.ask(GraphQuestion.of(again.recipe)).graph.nodes == graph.nodes


def test_a_trace_file_of_the_page_is_said_to_hold_no_session(saved):
    with pytest.raises(FileFormatError, match="holds no session"):
        read_session(container.parts(saved.read_bytes()).trace)


# Files of release 0.1


def test_a_session_of_release_0_1_opens(viewing):
    data = (OLD / "session.flowgraph").read_bytes()
    session = read_session(data)
    assert (session.title, session.trace) == ("A study of 0.1", b"")
    assert len(session.answers) == 22
    assert {type(question) for question in session.answers} == set(KINDS.values()) - {KeptQuestion, CurveQuestion}
    assert [note.text for note in session.annotations.notes] == ["línea\n猫", "<script>"]
    opened = _opened(viewing, OLD / "session.flowgraph")
    assert viewing.ask(GraphQuestion.of(opened.recipe)).graph.nodes
    assert viewing.ask(AttentionQuestion.of(opened.recipe, 1)).pattern.shape == (4, 9, 9)
    # Written again, it holds the same.
    again = read_session(write_session(session.recipe, session.answers, session.annotations, session.title))
    assert list(again.answers) == list(session.answers)
    for question, answer in session.answers.items():
        equal(answer, again.answers[question], type(question).__name__)


def test_a_trace_of_release_0_1_opens(viewing):
    trace = fg.Trace.load(OLD / "trace.safetensors")
    assert trace.foil == FOIL
    assert fg.build_graph(trace, method="logits").nodes
    session = _opened(viewing, OLD / "trace.safetensors")
    assert viewing.ask(GraphQuestion.of(session.recipe)).graph.nodes


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.flowgraph")), ids=lambda path: path.stem)
def test_bundled_examples_open(path):
    session = open_recorded(path.read_bytes())
    assert RunQuestion.of(session.recipe) in session.answers


def test_the_note_of_a_file_is_sent_to_the_page(page, recipe):
    search = to_query(recipe)
    page.draw(search)
    response = page.client.get(f"/export/session.flowgraph{search}")
    assert "without%20its%20trace" in response.headers[NOTE]
