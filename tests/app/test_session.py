"""Session files: exact there and back, and nothing that an enemy puts into one gets further than its reason."""

from __future__ import annotations

import dataclasses
import io
import json
import pickle
import random
import re
import struct
import zipfile

import flowgraph_webapp.session.archive as archive
import numpy as np
import pytest
from flowgraph_webapp.panels.attention import AttentionQuestion
from flowgraph_webapp.panels.bars import BarsQuestion
from flowgraph_webapp.panels.continuation import GenerateQuestion
from flowgraph_webapp.panels.details import NodeQuestion
from flowgraph_webapp.panels.flow import MOST_EDGES, GraphAnswer, GraphQuestion
from flowgraph_webapp.panels.heads import HeadsQuestion
from flowgraph_webapp.panels.lens import LensQuestion
from flowgraph_webapp.panels.saved_graph import session_of_graph
from flowgraph_webapp.panels.semantic import SemanticQuestion
from flowgraph_webapp.recipe import Recipe
from flowgraph_webapp.server.model import ModelQuestion
from flowgraph_webapp.server.recorded import EXAMPLES
from flowgraph_webapp.server.run import Run, RunQuestion
from flowgraph_webapp.server.service import Service
from flowgraph_webapp.server.traces import Traces
from flowgraph_webapp.session import Annotations, Note, open_recorded, read_session, write_session

import flowgraph as fg
from flowgraph.errors import ArgumentError, FileFormatError, ModelNeededError
from flowgraph.values.mass import into_start
from tests.app.conftest import TEXT
from tests.graphs import Edge, graph_of


def unheard(_stage, _part=None):
    pass


RECIPE = Recipe(model="tiny", text=TEXT, layers=(0, 2), pins=("mlp.1.-.2.-",), start="resid_post.1.3", fill="entropy")
NOTES = Annotations(("head.1.2.3.-",), (Note(None, "línea\n猫"), Note("mlp.1.-.2.-", "<script>")))


@pytest.fixture(scope="module")
def answers(tiny):
    traces = Traces(["tiny"], 2**30, 512)
    traces._loaded["tiny"] = tiny("llama")
    run, aimed = RunQuestion("tiny", TEXT), RunQuestion("tiny", TEXT, target=30, foil=31)
    start = fg.Node("resid_post", layer=1, position=3)
    questions = [
        run, aimed, GraphQuestion(run), GraphQuestion(run, "norms", "all", "head", 0.1, (0, 1), start=None),
        GraphQuestion(run, start=start), GraphQuestion(run, "attention", "flow"), LensQuestion(run), LensQuestion(aimed),
        HeadsQuestion(run), AttentionQuestion(run, 0), AttentionQuestion(run, 1), BarsQuestion(aimed),
        SemanticQuestion(run, (1, 2), (2, 3), "norm"), GenerateQuestion(run, 4),
        NodeQuestion(run, fg.Node("head", 1, 2, 3)), NodeQuestion(run, fg.Node("logit", index=3)),
    ]  # fmt: skip
    return {question: question.answer(traces, unheard) for question in questions}


@pytest.fixture(scope="module")
def data(answers):
    return write_session(RECIPE, answers, NOTES, "A study")


def equal(one, other, place=""):
    """Values that are the same to the last bit."""
    assert type(one) is type(other) or (isinstance(one, dict) and isinstance(other, dict)), place
    if isinstance(one, np.ndarray):
        np.testing.assert_array_equal(one, other, strict=place.rsplit(".", 1)[-1] not in GRAPH_COLUMNS, err_msg=place)
    elif dataclasses.is_dataclass(one):
        for field in dataclasses.fields(one):
            equal(getattr(one, field.name), getattr(other, field.name), f"{place}.{field.name}")
    elif isinstance(one, dict):
        assert list(one) == list(other), place
        for name in one:
            equal(one[name], other[name], f"{place}.{name}")
    elif isinstance(one, tuple):
        assert len(one) == len(other), place
        for n, pair in enumerate(zip(one, other, strict=True)):
            equal(*pair, f"{place}[{n}]")
    else:
        assert one == other, place


GRAPH_COLUMNS = ("source", "target", "kind", "layer", "head", "query_pos", "key_pos", "weight", "share", "unit")
"""flowgraph's own format reads these back as int64 and float64, the same numbers."""


# There and back


def test_everything_comes_back_exactly(data, answers):
    session = read_session(data)
    assert (session.title, session.recipe, session.annotations) == ("A study", RECIPE, NOTES)
    assert set(session.answers) == set(answers)
    for question, answer in answers.items():
        equal(answer, session.answers[question], type(question).__name__)


def test_the_same_session_is_the_same_bytes(data, answers):
    assert write_session(RECIPE, answers, NOTES, "A study") == data
    assert write_session(RECIPE, read_session(data).answers, NOTES, "A study") == data


def test_an_empty_session():
    session = read_session(write_session(Recipe(), {}))
    assert (session.recipe, dict(session.answers), session.annotations) == (Recipe(), {}, Annotations())


def test_where_it_was_opened_is_not_in_the_file(answers):
    session = read_session(write_session(dataclasses.replace(RECIPE, session="abc", example="x"), answers))
    assert (session.recipe.session, session.recipe.example) == (None, None)


def test_what_cannot_be_written_is_refused(answers):
    run = RunQuestion("tiny", TEXT)
    with pytest.raises(ArgumentError, match="about a run that is not recorded"):
        write_session(RECIPE, {LensQuestion(run): answers[LensQuestion(run)]})
    with pytest.raises(ArgumentError, match="is about no run"):
        write_session(RECIPE, {ModelQuestion("tiny"): answers[run]})
    with pytest.raises(ArgumentError, match="not finite"):
        write_session(RECIPE, {run: dataclasses.replace(answers[run], seconds=float("nan"))})
    broken = dataclasses.replace(answers[LensQuestion(run)], entropy=np.full(len(answers[LensQuestion(run)]), np.inf))
    with pytest.raises(ArgumentError, match="not finite"):
        write_session(RECIPE, {run: answers[run], LensQuestion(run): broken})
    with pytest.raises(ArgumentError, match="at most 5,000"):
        Note(None, "x" * 5_001)


# Hostile files


def members(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        return {info.filename: file.read(info) for info in file.infolist()}


def zipped(parts: dict[str, bytes], **options) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED, **options) as file:
        for name, part in parts.items():
            file.writestr(name, part)
    return made.getvalue()


@dataclasses.dataclass
class Instead:
    """What a change puts in the place of the whole member."""

    value: object


def changed(data: bytes, name: str, change) -> bytes:
    """The file with one JSON member changed in place."""
    parts = members(data)
    parsed = json.loads(parts[name])
    found = change(parsed)
    parts[name] = json.dumps(found.value if isinstance(found, Instead) else parsed).encode()
    return zipped(parts)


def member_of(data: bytes, kind: str) -> str:
    listed = json.loads(members(data)["session.json"])["answers"]
    return next(entry["member"] for entry in listed if entry["kind"] == kind)


def test_rezipping_is_no_change(data):
    assert set(read_session(zipped(members(data))).answers) == set(read_session(data).answers)


@pytest.mark.parametrize("wrong", [b"", b"PK", b"not a zip at all", b"PK\x03\x04" + b"\0" * 500, b"\0" * 10_000])
def test_no_zip(wrong):
    with pytest.raises(FileFormatError, match=r"not a session|cut off"):
        read_session(wrong)


def test_every_truncation_is_refused(data):
    for end in [*range(0, len(data), len(data) // 50), len(data) - 1, len(data) - 22]:
        with pytest.raises(FileFormatError):
            read_session(data[:end])


def test_flipped_bytes_are_refused_or_harmless(data, answers):
    randomly = np.random.default_rng(0)
    refused = 0
    for place in randomly.integers(0, len(data), 150):
        broken = bytearray(data)
        broken[place] ^= 1 << int(randomly.integers(8))
        try:
            session = read_session(bytes(broken))
        except FileFormatError:
            refused += 1
        else:  # a date, or another byte that nothing is read from
            assert set(session.answers) == set(answers)
    assert refused > 100


def test_a_bomb_is_refused_before_it_is_unpacked(data, monkeypatch):
    zeros = zipped({"session.json": b" " * (archive.LARGEST_MEMBER + 1)})
    assert len(zeros) < 2**20
    many = zipped({"session.json": b"{}"} | {f"arrays/{n}.npy": b" " * (archive.LARGEST_MEMBER - 1) for n in range(5)})
    monkeypatch.setattr(zipfile.ZipFile, "open", None)
    with pytest.raises(FileFormatError, match=r"'session\.json' unpacks to 67,108,865 bytes"):
        read_session(zeros)
    with pytest.raises(FileFormatError, match="the file unpacks to"):
        read_session(many)


def test_a_member_that_lies_about_its_size(data):
    honest = zipped({"session.json": b" " * 5_000_000})
    place = honest.rindex(b"PK\x01\x02") + 24
    lying = bytearray(honest)
    struct.pack_into("<L", lying, place, 100)
    with pytest.raises(FileFormatError, match=r"'session\.json'"):
        read_session(bytes(lying))
    struct.pack_into("<L", lying, place, 60_000_000)
    with pytest.raises(FileFormatError, match=r"'session\.json'"):
        read_session(bytes(lying))


def test_too_many_members(data):
    with pytest.raises(FileFormatError, match="more than 5,000 members"):
        read_session(zipped({f"arrays/{n}.npy": b"" for n in range(5_001)}))
    with pytest.raises(FileFormatError, match="larger than 64 MiB"):
        read_session(b"\0" * (archive.LARGEST_FILE + 1))


@pytest.mark.parametrize(
    "name",
    ["../session.json", "/etc/passwd", "arrays/../../x.npy", "C:\\x.json", "session.json/", "arrays/1.pkl", "a", "arrays/x.npy",
     "arrays/1.npy\n", "ARRAYS/1.npy", "arrays//1.npy", "arrays/1234567.npy"],
)  # fmt: skip
def test_names_that_a_session_does_not_have(data, name):
    with pytest.raises(FileFormatError, match="which is none of a session"):
        read_session(zipped(members(data) | {name: b""}))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_the_same_member_twice(data):
    made = io.BytesIO(zipped(members(data)))
    with zipfile.ZipFile(made, "a") as file:
        file.writestr("session.json", b"{}")
    with pytest.raises(FileFormatError, match=r"'session\.json' twice"):
        read_session(made.getvalue())


def test_a_number_that_is_too_large_to_be_one(data):
    """JSON knows no infinity, and Python's reader makes one of it all the same."""
    whole = members(data)
    text = re.sub(rb'"threshold": ?[^,}]+', b'"threshold": 1e999', whole["session.json"], count=1)
    with pytest.raises(FileFormatError, match=r"recipe\.threshold is inf; expected a finite number"):
        read_session(zipped(whole | {"session.json": text}))


def test_missing_members(data):
    whole = members(data)
    for name in whole:
        with pytest.raises(FileFormatError, match=r"missing|expected null or 0"):
            read_session(zipped({other: part for other, part in whole.items() if other != name}))


def test_other_ways_of_packing(data):
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_LZMA) as file:
        file.writestr("session.json", b"{}")
    with pytest.raises(FileFormatError, match="packed in a way"):
        read_session(made.getvalue())


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "is not JSON"),
        (b"[]", "expected an object"),
        (b"null", "expected an object"),
        (b"\xff", "not UTF-8"),
        (b"{}", "format is None; expected 'flowgraph-session'"),
        (b'{"format": "flowgraph-session", "version": 2}', "version is 2; expected 1"),
        (b'{"format": "flowgraph-session", "version": "1"}', "version is '1'"),
        (b"[" * 5_000_000, "holds 5,000,000 lists, objects and entries"),
        (b"[" * 500_000, "nested too deeply"),
        (b'{"a":' * 2_000_000, "nested too deeply"),
        (b'{"format": ' + b"9" * 1_000_000 + b"}", "is not JSON"),
        (b'{"format": NaN}', "holds NaN"),
        (b'{"format": -Infinity}', "holds -Infinity"),
    ],
)
def test_manifests_that_are_none(text, reason):
    with pytest.raises(FileFormatError, match=reason):
        read_session(zipped({"session.json": text}))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda m: m.update(extra=1), "says 'extra'"),
        (lambda m: m.pop("title"), r"session\.json\.title is missing"),
        (lambda m: m.update(title=5), "title is 5; expected a text"),
        (lambda m: m["recipe"].update(text=None), "recipe.text is None"),
        (lambda m: m["recipe"].update(method="__import__('os')"), "expected one of attention"),
        (lambda m: m["recipe"].update(threshold=1e999), "holds Infinity"),
        (lambda m: m["recipe"].update(threshold=5), "threshold=5"),
        (lambda m: m["recipe"].update(position=10**30), "expected a whole number"),
        (lambda m: m["recipe"].update(position=True), "expected a whole number"),
        (lambda m: m["recipe"].update(pins=["x"]), "pins"),
        (lambda m: m["recipe"].update(layers=[1]), "expected 2 entries"),
        (lambda m: m["recipe"].update(text="x" * 20_001), "20,001 characters"),
        (lambda m: m["annotations"].update(pins=["head.1.2.3.-"] * 300), "at most 200 pins"),
        (lambda m: m["annotations"]["notes"][0].update(text="x" * 9_999), "at most 5,000"),
        (lambda m: m["annotations"]["notes"][0].update(node="x"), "is not a kind of node"),
        (lambda m: m.update(runs=m["runs"] * 100), "about 100 runs"),
        (lambda m: m["runs"][0].update(session="abc"), "names a session"),
        (lambda m: m["runs"][0].update(text=""), "the prompt is empty"),
        (lambda m: m.update(answers=m["answers"] * 2000), "at most 20,000 answers"),
        (lambda m: m.update(answers=m["answers"] * 2), "recorded twice"),
        (lambda m: m["answers"].pop(0), "about a run that it does not hold"),
        (lambda m: m["answers"][0].update(kind="os.system"), "kind is 'os.system'"),
        (lambda m: m["answers"][0].update(kind="ModelQuestion"), "kind is 'ModelQuestion'"),
        (lambda m: m["answers"][0].update(run=7), r"run is 7; expected 0…1"),
        (lambda m: m["answers"][0].update(run=-1), r"run is -1"),
        (lambda m: m["answers"][0].update(member="../x"), "'../x' is missing"),
        (lambda m: m["answers"][0].update(entry=99), "99"),
        (lambda m: m["answers"][0].update(entry=-1), "-1"),
        (lambda m: m["answers"][2]["about"].update(x=1), "expected the fields method, show"),
        (lambda m: m["answers"][2].update(about=[]), "expected the fields"),
        (lambda m: m["answers"][2]["about"].update(threshold="0"), "expected a finite number"),
        (lambda m: m["answers"][4]["about"]["start"].update(kind="evil"), "expected one of"),
        (lambda m: m["answers"][4]["about"]["start"].update(layer=-5), "must be 0 or more"),
        (lambda m: m["answers"][4]["about"]["start"].pop("head"), "head is missing"),
    ],
)
def test_manifests_that_say_wrong_things(data, change, reason):
    with pytest.raises(FileFormatError, match=reason):
        read_session(changed(data, "session.json", change))


@pytest.mark.parametrize(
    ("kind", "change", "reason"),
    [
        ("RunQuestion", lambda a: a[0].update(tokens=[]), "Run.tokens is empty"),
        ("RunQuestion", lambda a: a[0].update(tokens=["a"]), "does not fit|is outside"),
        ("RunQuestion", lambda a: a[0].update(position=10**9), "outside the prompt"),
        ("RunQuestion", lambda a: a[0].update(layers=[5, 1]), "is no window"),
        ("RunQuestion", lambda a: a[0].update(n_layers=10**9), "is no window|its run needs"),
        ("RunQuestion", lambda a: a[0].update(seconds="fast"), "expected a finite number"),
        ("RunQuestion", lambda a: a[0]["predictions"][0].update(probability=7), "Run.predictions"),
        ("RunQuestion", lambda a: a[0].update(evil=1), "says 'evil', which Run does not have"),
        ("RunQuestion", lambda a: Instead({"0": 1}), "expected a list"),
        ("GraphQuestion", lambda a: a[0]["graph"].update(readings=[0]), "1 readings for"),
        ("GraphQuestion", lambda a: a[0]["graph"].update(readings=[10**6]), "expected null or 0"),
        ("GraphQuestion", lambda a: a[0]["graph"].update(graph="session.json"), "graph"),
        ("GraphQuestion", lambda a: a[0].update(graph="x"), "expected an object"),
        ("LensQuestion", lambda a: a[0].update(shape=[2, 2**40]), "shape"),
        ("LensQuestion", lambda a: a[0].update(shape=[-1, -1]), "shape|needs"),
        ("LensQuestion", lambda a: a[0].update(top_tokens=[]), "top_tokens"),
        ("LensQuestion", lambda a: a[0]["top_tokens"][0].pop(), "top_tokens"),
        ("LensQuestion", lambda a: a[0].update(norm=a[0]["top_logits"]), "norm"),
        ("LensQuestion", lambda a: a[0].update(top_logits=a[0]["top_token_ids"]), "top_logits is int"),
        ("LensQuestion", lambda a: a[0].update(axes=["layer"]), "axes"),
        ("HeadsQuestion", lambda a: a[0].update(layers=[0, 9]), "Heads.scores"),
        ("HeadsQuestion", lambda a: a[0]["units"].pop("entropy"), "differ in names"),
        ("AttentionQuestion", lambda a: a[0].update(layer=1), "Attention.layer is 1"),
        ("BarsQuestion", lambda a: a[0].update(unit="euros"), "expected one of logits"),
        ("BarsQuestion", lambda a: a[0].update(sources=a[0]["mlps"]), "Bars.sources"),
        ("NodeQuestion", lambda a: a.reverse(), "NodeDetails.node"),
        ("NodeQuestion", lambda a: a[0].update(attention=[0.5]), "NodeDetails.attention"),
        ("NodeQuestion", lambda a: a[0]["reading"].update(norm=None), "expected a finite number"),
        ("GenerateQuestion", lambda a: a[0].update(prompts=[]), "Generation"),
        ("SemanticQuestion", lambda a: a[0].pop("note"), "note is missing"),
    ],
)
def test_answers_that_are_wrong(data, kind, change, reason):
    with pytest.raises(FileFormatError, match=reason):
        read_session(changed(data, member_of(data, kind), change))


def test_graphs_are_read_by_flowgraphs_own_reader(data):
    name = next(name for name in members(data) if name.startswith("graphs/"))
    for change, reason in (
        (lambda g: g["edges"][0].update(weight="x"), r"edges\[0\]\.weight"),
        (lambda g: g["nodes"][1].update(position=99), "its run has"),
        (lambda g: g["nodes"][1].update(layer=99), "its run has|more|layer"),
        (lambda g: g["graph"].update(tokens=["a"]), "the graph's tokens"),
        (lambda g: g["graph"].update(total_layers=500), "number of layers"),
        (lambda g: g["graph"].update(format="x"), "format"),
    ):
        with pytest.raises(FileFormatError, match=reason) as refused:
            read_session(changed(data, name, change))
        assert "/tmp" not in str(refused.value)


def npy(array: np.ndarray, **options) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array, **options)
    return file.getvalue()


def header(text: str, rest: bytes = b"") -> bytes:
    line = text.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(line)) + line + rest


class Trap:
    """Runs as soon as it is unpickled."""

    sprung = False

    def __reduce__(self):
        return _spring, ()


def _spring():
    Trap.sprung = True


@pytest.mark.parametrize(
    "array",
    [
        npy(np.array([Trap()], dtype=object), allow_pickle=True),
        pickle.dumps(Trap()),
        b"", b"\x93NUMPY", npy(np.zeros((2, 3), dtype=np.complex128)), npy(np.array(["a"])), npy(np.zeros(3, ">f8")),
        npy(np.zeros((4, 8, 8)), version=(2, 0)), npy(np.asfortranarray(np.zeros((2, 3)))), npy(np.zeros((4, 8, 8)))[:-8],
        npy(np.zeros((4, 8, 8))) + b"x",
        header("{'descr': '<f4', 'fortran_order': False, 'shape': (999999999, 999999999), }"),
        header("{'descr': '<f4', 'fortran_order': False, 'shape': (2, -1), }"),
        header("{'descr': '<f4', 'fortran_order': False, 'shape': (0, 9999999999999), }"),
        header("{'descr': __import__('os'), 'fortran_order': False, 'shape': (), }"),
        header("{'descr': '<f4', 'fortran_order': False, 'shape': (1,1,1,1,1,1), }", b"\0" * 4),
        header("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", pickle.dumps(Trap())),
        header("(" * 100), npy(np.full((4, 7, 7), np.nan, np.float32)), npy(np.full((4, 7, 7), np.inf, np.float32)),
        npy(np.zeros((4, 7, 6), np.float32)), npy(np.zeros((7, 7), np.float32)), npy(np.zeros((4, 7, 7), np.int32)),
    ],
    ids=lambda array: repr(array[10:60]),
)  # fmt: skip
def test_arrays_that_are_none(data, array):
    pattern = json.loads(members(data)[member_of(data, "AttentionQuestion")])[0]["pattern"]
    with pytest.raises(FileFormatError, match=r"AttentionQuestion|answers/|Attention"):
        read_session(zipped(members(data) | {pattern: array}))
    assert not Trap.sprung


# In the service


@pytest.fixture
def viewing():
    service = Service([], examples=False)
    yield service
    service.close()


def test_a_session_answers_without_a_model(viewing, data, answers):
    session = viewing.open_session(data)
    assert session.recipe.session == session.id
    assert viewing.session(session.id) is session
    found = viewing.ask(LensQuestion.of(session.recipe))
    equal(answers[LensQuestion(RunQuestion("tiny", TEXT))], found)
    with pytest.raises(ModelNeededError, match="This was not recorded, and this server does not run the model 'tiny'"):
        viewing.ask(GraphQuestion(RunQuestion.of(session.recipe), threshold=0.77))
    assert viewing.worker_pid is None


def test_a_session_speaks_for_itself_alone(viewing, data):
    session = viewing.open_session(data)
    with pytest.raises(ModelNeededError):
        viewing.ask(RunQuestion.of(RECIPE))  # the same question outside of the session
    with pytest.raises(ArgumentError, match="is not open on this server; open its file again"):
        viewing.ask(RunQuestion.of(dataclasses.replace(RECIPE, session="another")))
    again = viewing.open_session(data)
    assert again.id != session.id


def test_a_forged_session_reaches_nobody_else(viewing, data):
    forged = changed(data, member_of(data, "RunQuestion"), lambda a: a[0].update(target_token="FORGED"))
    session = viewing.open_session(forged)
    assert viewing.ask(RunQuestion.of(session.recipe)).target_token == "FORGED"
    other = viewing.open_session(data)
    assert viewing.ask(RunQuestion.of(other.recipe)).target_token != "FORGED"


def test_old_sessions_are_closed_when_there_are_many(viewing, data):
    first = viewing.open_session(data)
    for _ in range(16):
        viewing.open_session(write_session(Recipe(), {}))
    with pytest.raises(ArgumentError, match="is not open"):
        viewing.session(first.id)


def test_what_is_looked_at_is_saved(viewing, data, answers):
    session = viewing.open_session(data)
    saved = read_session(viewing.session_file(session.recipe, NOTES).data)
    run = RunQuestion("tiny", TEXT)
    assert set(saved.answers) == {question for question in answers if run in (question, getattr(question, "run", None))}
    assert (saved.title, saved.annotations) == (TEXT, NOTES)
    equal(answers[GraphQuestion(run)], saved.answers[GraphQuestion(run)])


# A saved graph as a session


def test_a_saved_graph_is_drawn(viewing, answers, tmp_path):
    graph = answers[GraphQuestion(RunQuestion("tiny", TEXT))].graph
    session = viewing.add_session(session_of_graph(fg.FlowGraph.load(graph.save(tmp_path / "g.json")), "g.json"))
    answer = viewing.ask(GraphQuestion.of(session.recipe))
    assert answer.graph.nodes == graph.nodes
    assert viewing.ask(RunQuestion.of(session.recipe)).tokens == graph.info.tokens
    assert answer.note == "a saved graph, token level"
    again = read_session(viewing.session_file(session.recipe).data)
    assert again.answers[RunQuestion.of(dataclasses.replace(session.recipe, session=None))].model == graph.info.model


def test_a_saved_semantic_graph_is_drawn(viewing, answers):
    graph = next(answer.graph for question, answer in answers.items() if isinstance(question, SemanticQuestion))
    session = viewing.add_session(session_of_graph(graph))
    assert session.recipe.tab == "semantic"
    assert viewing.ask(SemanticQuestion.of(session.recipe)).graph.nodes == graph.nodes


def test_a_graph_that_says_little_is_drawn(viewing, answers):
    graph = answers[GraphQuestion(RunQuestion("tiny", TEXT))].graph
    bare = dataclasses.replace(
        graph,
        info=dataclasses.replace(
            graph.info, tokens=(), model="\n", method="theirs", layers=(0, 0), total_layers=0, target=None
        ),
    )
    session = viewing.add_session(session_of_graph(bare))
    run, answer = viewing.ask(RunQuestion.of(session.recipe)), viewing.ask(GraphQuestion.of(session.recipe))
    assert isinstance(run, Run)
    assert isinstance(answer, GraphAnswer)
    assert len(run.tokens) > max(node.position for node in graph.nodes if node.position is not None)
    assert run.n_layers == 2
    assert read_session(viewing.session_file(session.recipe).data).answers


def many_edges(info: dict) -> dict:
    """A file of another program: 120 nodes, each with an edge to every later one, the first 5,000 of them, of random weights."""
    chance = random.Random(0)
    pairs = [(s, t) for s in range(120) for t in range(s + 1, 120)][:5_000]
    edges = [{"source": f"n{s}", "target": f"n{t}", "weight": chance.uniform(-1, 1)} for s, t in pairs]
    return {"nodes": [{"id": f"n{n}"} for n in range(120)], "edges": edges, **info}


def test_a_graph_of_too_many_edges_says_what_is_drawn_of_it(viewing, tmp_path):
    (tmp_path / "g.json").write_text(json.dumps(many_edges({})))
    graph = fg.import_graph(tmp_path / "g.json")
    answer = viewing.ask(GraphQuestion.of(viewing.add_session(session_of_graph(graph)).recipe))
    count = len(answer.graph)
    assert 0 < count <= MOST_EDGES
    assert f"drawn: the {count:,} of 5,000 edges that lead to the start" in answer.note


def test_a_graph_whose_start_was_cut_away_is_not_drawn_empty(viewing):
    nodes = [fg.Node("resid_post", layer, position=p) for layer in range(5) for p in range(32)]
    last = fg.Node("logit", index=7)
    edges = [
        Edge(nodes[32 * layer + s], nodes[32 * (layer + 1) + t], 1 / (2 + s + t))
        for layer in range(4) for t in range(32) for s in range(32)
    ]  # fmt: skip
    about = {"tokens": ("a",) * 32, "position": 31, "layers": (0, 5), "total_layers": 5}
    whole = into_start(graph_of([*edges, Edge(nodes[-1], last, 1.0)], **about))
    cut = whole.keep(np.array([whole.nodes[target] != last for target in whole.target]))
    assert len(cut) > MOST_EDGES
    answer = viewing.ask(GraphQuestion.of(viewing.add_session(session_of_graph(cut)).recipe))
    assert len(answer.graph) == MOST_EDGES
    assert f"drawn: the strongest 3,000 of {len(cut):,} edges" in answer.note
    # The strongest are those that carried most into the start that is gone.
    assert answer.graph.flow.min() >= np.sort(cut.flow)[-MOST_EDGES]


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.flowgraph")), ids=lambda path: path.stem)
def test_graphs_of_an_example_know_the_whole_that_their_mass_is_a_part_of(path):
    session = open_recorded(path.read_bytes())
    graphs = [answer.graph for answer in session.answers.values() if isinstance(answer, GraphAnswer)]
    assert len(graphs) == 9
    assert {graph.info.whole for graph in graphs} == {"method"}
