"""Files that somebody else made, changed in every way: refused with our own error, or loaded and then right to use."""

from __future__ import annotations

import contextlib
import io
import json
import random
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from flowgraph_webapp.panels.bars import BarsQuestion
from flowgraph_webapp.panels.flow import GraphQuestion
from flowgraph_webapp.panels.heads import HeadsQuestion
from flowgraph_webapp.panels.lens import LensQuestion
from flowgraph_webapp.panels.saved_trace import session_of_trace
from flowgraph_webapp.panels.semantic import SemanticQuestion
from flowgraph_webapp.recipe import Recipe
from flowgraph_webapp.server.run import RunQuestion
from flowgraph_webapp.server.traces import Traces
from flowgraph_webapp.session import read_session, with_trace, write_session
from flowgraph_webapp.session.archive import Archive
from flowgraph_webapp.session.container import holds_session, joined, parts
from safetensors.torch import load, save

import flowgraph
from flowgraph import Trace, import_graph
from flowgraph.errors import FileFormatError, FlowgraphError
from flowgraph.files.trace_reader import KEY
from tests.app.conftest import TEXT, folder  # noqa: F401
from tests.conftest import IDS
from tests.security.mutations import VALUES, changed, of_bytes, of_json, places, written
from tests.synthetic_graphs import head_graph, logits_graph, token_graph

# Traces


@pytest.fixture(scope="module")
def good(tiny, tmp_path_factory):
    """Header and tensors of a file that holds everything a trace can hold."""
    trace = flowgraph.trace(tiny("llama"), IDS, position=-1, target=7, foil=9)
    trace = trace.record(methods=["proximity", "logits", "norms"], readings=["resid_post", "head_out"], k=3)
    data = trace.save(tmp_path_factory.mktemp("traces") / "good.safetensors").read_bytes()
    tensors = load(data)
    size = int.from_bytes(data[:8], "little")
    return json.loads(json.loads(data[8 : 8 + size])["__metadata__"][KEY]), tensors, data


def file_of(header: bytes | dict, tensors: dict) -> bytes:
    text = header if isinstance(header, bytes) else written(header)
    return save({name: value.clone() for name, value in tensors.items()}, {KEY: text.decode("utf-8", "replace")})


def refused_or_right(data: bytes, path: Path) -> str | None:
    """Why a trace is refused; None where it loads, and then everything that needs no model works or says why not."""
    path.write_bytes(data)
    try:
        trace = Trace.load(path)
    except FileFormatError as error:
        return str(error)
    assert repr(trace)
    assert trace._repr_html_()
    assert len(trace.to_dataframe()) == len(trace.tokens)
    uses = [
        lambda: trace.save(path),
        lambda: flowgraph.logit_lens(trace)._repr_html_(),
        lambda: flowgraph.head_view(trace),
    ]
    for method, weights in trace.recorded_weights.items():
        assert repr(weights)
        assert weights._repr_html_()
        uses += [lambda method=method: flowgraph.build_graph(trace, method=method)._repr_html_()]
        uses += [lambda method=method: flowgraph.build_graph(trace, method=method, level="head").explain()]
    for reading in trace.recorded_readings.values():
        uses += [reading._repr_html_, reading.table, lambda reading=reading: reading[-1]]
    for use in uses:
        with contextlib.suppress(FlowgraphError):
            use()
    return None


def test_the_file_that_is_changed_is_right_itself(good, tmp_path):
    header, tensors, data = good
    assert refused_or_right(data, tmp_path / "a.safetensors") is None
    assert refused_or_right(file_of(header, tensors), tmp_path / "a.safetensors") is None


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("position",), 999), (("position",), -5), (("position",), 1.5), (("position",), "0"), (("position",), True),
        (("n_heads",), -3), (("n_heads",), "9"), (("n_heads",), 0), (("n_heads",), 5), (("n_layers",), 0),
        (("n_layers",), 10**30), (("n_layers",), 1), (("layers",), [5, 7]), (("layers",), [-1, 1]), (("layers",), []),
        (("layers",), [0]), (("layers",), [0, 1, 2]), (("layers",), [1, 1]), (("layers",), [0, 10**9]), (("layers",), "01"),
        (("tokens",), [1, 2, 3]), (("tokens",), []), (("tokens",), "abc"), (("tokens",), ["a"]), (("token_ids",), ["a", "b", "c"]),
        (("token_ids",), [-1] * len(IDS)), (("token_ids",), [10**9] * len(IDS)), (("wiring",), "nonsense"), (("wiring",), None),
        (("causal",), 5), (("causal",), None), (("fingerprint",), 5), (("fingerprint",), {"config": 5}), (("model_name",), None),
        (("prompt",), 5), (("family",), ["llama"]), (("target",), 10**6), (("target",), None), (("target_token",), None),
        (("foil",), -1), (("foil_token",), 5),
    ],
)  # fmt: skip
def test_what_the_header_of_a_trace_must_not_say(good, tmp_path, path, value):
    header, tensors, _ = good
    wrong = json.loads(json.dumps(header))
    wrong["trace"][path[0]] = value
    reason = refused_or_right(file_of(wrong, tensors), tmp_path / "a.safetensors")
    assert reason is not None
    assert any(word in reason for word in (f"trace.{path[0]}", "trace.layers", "trace.token_ids", "shape"))


@pytest.mark.parametrize("name", ["version", "format", "trace", "aliases", "weights", "readings"])
def test_parts_of_the_header(good, tmp_path, name):
    header, tensors, _ = good
    for value in (5, None, [], {"a": {}}, "x"):
        wrong = header | {name: value}
        assert refused_or_right(file_of(wrong, tensors), tmp_path / "a.safetensors") is not None or name == "format", (
            value
        )


def test_tensors_that_a_trace_does_not_have(good, tmp_path):
    header, tensors, _ = good
    pattern, logits = tensors["sites.pattern"], tensors["logits"]
    weights = tensors["weights.norms.attention"]
    wrong = [
        {"sites.pattern": torch.full_like(pattern, torch.nan)}, {"sites.pattern": -pattern}, {"sites.pattern": pattern * 5},
        {"sites.pattern": pattern.to(torch.int32)}, {"sites.pattern": pattern[:, :, :, :-1].contiguous()},
        {"sites.pattern": pattern[0]}, {"sites.pattern": pattern[:1]}, {"sites.pattern": pattern.bool()},
        {"logits": logits.to(torch.int32)}, {"logits": logits[:3]}, {"logits": logits[None, :]}, {"logits": torch.tensor(1.0)},
        {"logits": torch.zeros(0)}, {"logits": torch.full_like(logits, torch.inf)}, {"sites.z": tensors["sites.z"][..., :-1].contiguous()},
        {"sites.v": tensors["sites.v"].repeat(1, 2, 1, 1)[:, :3].contiguous()}, {"sites.unknown": pattern}, {"other": pattern},
        {"weights.norms.attention": weights[0]}, {"weights.norms.attention": weights[..., 0].contiguous()},
        {"weights.norms.attention": weights.to(torch.float16)}, {"weights.norms.attention": torch.full_like(weights, torch.nan)},
        {"weights.norms.other": weights}, {"weights.other.attention": weights},
        {"readings.resid_post.top_token_ids": -tensors["readings.resid_post.top_token_ids"]},
        {"readings.resid_post.top_token_ids": tensors["readings.resid_post.top_token_ids"] + 10**7},
        {"readings.resid_post.norm": tensors["readings.resid_post.norm"][:-1].contiguous()},
        {"readings.resid_post.target_probability": tensors["readings.resid_post.target_probability"] + 3},
        {"biases.attn": torch.ones(1)}, {"final_scale": torch.ones(2)}, {"position_embedding": torch.ones(3, 3)},
    ]  # fmt: skip
    for change in wrong:
        reason = refused_or_right(file_of(header, tensors | change), tmp_path / "a.safetensors")
        assert reason is not None, next(iter(change))
    for name in (
        "weights.norms.attention",
        "weights.norms.head",
        "readings.resid_post.norm",
        "readings.resid_post.top_logits",
    ):
        left = {key: value for key, value in tensors.items() if key != name}
        assert "missing" in refused_or_right(file_of(header, left), tmp_path / "a.safetensors")


def test_headers_that_grow_when_they_are_parsed(good, tmp_path):
    _, tensors, _ = good
    few = {"logits": tensors["logits"]}
    path = tmp_path / "a.safetensors"
    assert "nested too deeply" in refused_or_right(file_of(b"[" * 100_000, few), path)
    assert "entries" in refused_or_right(file_of(b"[[]" + b",[]" * 1_500_000 + b"]", few), path)
    assert "no number" in refused_or_right(file_of(b'{"version": NaN}', few), path)
    assert "64 MiB" in refused_or_right((2**40).to_bytes(8, "little") + b"{}", path)


@pytest.mark.slow
def test_changed_headers_of_traces(good, tmp_path, factor):
    header, tensors, _ = good
    path = tmp_path / "a.safetensors"
    reasons = [refused_or_right(file_of(text, tensors), path) for text in of_json(header, 300 * factor, seed=1)]
    assert 0 < sum(reason is None for reason in reasons) < len(reasons) / 2


@pytest.mark.slow
def test_changed_bytes_of_traces(good, tmp_path, factor):
    *_, data = good
    size = 8 + int.from_bytes(data[:8], "little")
    path = tmp_path / "a.safetensors"
    heads = [refused_or_right(wrong + data[size:], path) for wrong in of_bytes(data[:size], 300 * factor, seed=2)]
    anywhere = [refused_or_right(wrong, path) for wrong in of_bytes(data, 300 * factor, seed=3)]
    for reasons in (heads, anywhere):
        assert 0 < sum(reason is None for reason in reasons) < len(reasons)


# Graphs

# Small ones: a change then falls more often on what is checked than on one more number of a column.
GRAPHS = {
    "token": lambda: token_graph(layers=1),
    "head": lambda: head_graph(layers=1),
    "logits": lambda: logits_graph(layers=2),
}


def graph_files(tmp_path: Path) -> dict[str, bytes]:
    """Right files of every format that is read."""
    found = {}
    for name, make in GRAPHS.items():
        graph = make()
        for ending in (".json", ".graphml", ".neuronpedia.json"):
            found[f"{name}{ending}"] = graph.save(tmp_path / f"{name}{ending}").read_bytes()
    return found


def read_or_refused(data: bytes, path: Path) -> bool:
    """Whether a graph is read; whatever is read can be shown and written."""
    path.write_bytes(data)
    try:
        graph = import_graph(path)
    except FlowgraphError:
        return False
    assert repr(graph)
    for use in (graph.explain, lambda: graph.save(path.with_name("again.json"))):
        with contextlib.suppress(FlowgraphError):
            use()
    return True


@pytest.mark.slow
@pytest.mark.parametrize("ending", [".json", ".graphml", ".neuronpedia.json"])
def test_changed_bytes_of_graphs(tmp_path, factor, ending):
    files = {name: data for name, data in graph_files(tmp_path).items() if name.partition(".")[2] == ending[1:]}
    assert len(files) == len(GRAPHS)
    read = []
    for seed, (name, data) in enumerate(sorted(files.items())):
        path = tmp_path / f"wrong-{name}"
        assert read_or_refused(data, path)
        read += [read_or_refused(wrong, path) for wrong in of_bytes(data, 100 * factor, seed=seed)]
    # Some changes fall on a text that may be any, others break the file: both ways out have been taken.
    assert 0 < sum(read) < len(read)


@pytest.mark.slow
@pytest.mark.parametrize("ending", [".json", ".neuronpedia.json"])
def test_changed_values_of_graphs(tmp_path, factor, ending):
    files = {name: data for name, data in graph_files(tmp_path).items() if name.partition(".")[2] == ending[1:]}
    read = []
    for seed, (name, data) in enumerate(sorted(files.items())):
        path = tmp_path / f"wrong-{name}"
        read += [read_or_refused(wrong, path) for wrong in of_json(json.loads(data), 100 * factor, seed=seed)]
    assert 0 < sum(read) < len(read)


@pytest.mark.parametrize("ending", [".json", ".graphml"])
def test_graph_files_that_grow_when_they_are_parsed(tmp_path, ending):
    path = tmp_path / f"bomb{ending}"
    lists = b"[[]" + b",[]" * 4_000_000 + b"]"
    entities = b'<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;">]><graphml>&b;</graphml>'
    deep = {".json": b"[" * 200_000, ".graphml": b"<graphml>" * 200_000}[ending]
    for data in (lists, entities, deep, b'{"nodes": ' + lists + b"}"):
        path.write_bytes(data)
        with pytest.raises(FileFormatError):
            import_graph(path)


# Sessions


@pytest.fixture(scope="module")
def session(folder) -> bytes:  # noqa: F811
    """A right session file."""
    traces, run = Traces([folder], 2**28, 512), RunQuestion(folder, TEXT)
    questions = [
        run,
        GraphQuestion(run, threshold=0.1),
        LensQuestion(run),
        HeadsQuestion(run),
        BarsQuestion(run),
        SemanticQuestion(run, (1, 2)),
    ]
    answers = {question: question.answer(traces, lambda *_: None) for question in questions}
    return parts(write_session(Recipe(model=folder, text=TEXT), answers)).session


def members_of(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


def opened_or_refused(data: bytes) -> bool:
    """Whether a session is opened; then it can be written again."""
    try:
        found = read_session(data)
    except FileFormatError:
        return False
    with contextlib.suppress(FlowgraphError):
        assert write_session(found.recipe, found.answers, found.annotations, found.title)
    return True


@pytest.mark.slow
def test_changed_values_of_sessions(session, factor):
    assert opened_or_refused(session)
    members = members_of(session)
    texts = [name for name in members if name.endswith(".json")]
    for seed, name in enumerate(texts):
        value = json.loads(members[name])
        count = max(8, 150 // len(texts)) * factor
        for wrong in of_json(value, count, seed):
            opened_or_refused(zipped(members | {name: wrong}))


@pytest.mark.slow
def test_changed_bytes_of_sessions(session, factor):
    assert opened_or_refused(session)
    opened = [opened_or_refused(wrong) for wrong in of_bytes(session, 120 * factor, seed=11)]
    assert not all(opened)
    members = members_of(session)
    chance = random.Random(12)
    for _ in range(120 * factor):
        name = chance.choice(sorted(members))
        (wrong,) = of_bytes(members[name], 1, seed=chance.randrange(2**30))
        opened_or_refused(zipped(members | {name: wrong}))


@pytest.mark.parametrize("name", ["session.json", "readings.json", "answers/1.json"])
def test_a_session_that_grows_when_it_is_parsed_is_refused_before(session, name, monkeypatch):
    """A few kilobytes that unpack to tens of megabytes of brackets: counted, never parsed."""
    members = members_of(session)
    bomb = b"[[]" + b",[]" * (20 * 2**20) + b"]"
    data = zipped(members | {name: bomb})
    assert len(data) < 2**18 + len(session)
    parsed = []
    loads = json.loads
    monkeypatch.setattr(json, "loads", lambda text, **options: (parsed.append(len(text)), loads(text, **options))[1])
    with pytest.raises(FileFormatError, match="entries"):
        read_session(data)
    assert max(parsed, default=0) < 2**20


def test_a_session_has_no_links_no_paths_and_no_second_copies(session):
    members = members_of(session)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in members.items():
            info = zipfile.ZipInfo(name)
            if name == "readings.json":
                info.external_attr = 0o120777 << 16  # a symbolic link: read as the bytes that it is, never followed
                data = b"/etc/passwd"
            archive.writestr(info, data)
    with pytest.raises(FileFormatError):
        read_session(file.getvalue())
    for name in ("../session.json", "/etc/passwd", "answers/../../x.json", "answers/1.json\x00", "answers\\1.json"):
        with pytest.raises(FileFormatError):
            read_session(zipped(members | {name: b"[]"}))
    assert Archive(session).names == tuple(members)


# Sessions with the trace that their answers came from


@pytest.fixture(scope="module")
def both(session, folder, tmp_path_factory) -> bytes:  # noqa: F811
    """A right file that holds a session and a trace."""
    trace = flowgraph.trace(flowgraph.load_model(folder), TEXT).record(methods=["proximity"], readings=["resid_post"])
    return with_trace(session, trace.save(tmp_path_factory.mktemp("both") / "run.safetensors").read_bytes())


def header_of(data: bytes) -> tuple[dict, bytes]:
    size = 8 + int.from_bytes(data[:8], "little")
    return json.loads(data[8:size]), data[size:]


def with_header(header: dict | bytes, tensors: bytes) -> bytes:
    text = header if isinstance(header, bytes) else written(header)
    return len(text).to_bytes(8, "little") + text + tensors


def opened_both_ways(data: bytes, path: Path) -> tuple[bool, bool]:
    """Whether the app opens a file, and whether the library does; what the app kept as the trace, the library reads or refuses."""
    in_app = opened_or_refused(data)
    if in_app:
        refused_or_right(read_session(data).trace, path)
    return in_app, refused_or_right(data, path) is None


def test_the_file_of_both_is_right_itself(both, session, tmp_path):
    path = tmp_path / "both.flowgraph"
    path.write_bytes(both)
    assert opened_or_refused(both)
    assert Trace.load(path).recorded_weights
    header, tensors = header_of(both)
    path.write_bytes(with_header(header, tensors))
    assert opened_or_refused(path.read_bytes())
    assert Trace.load(path).recorded_weights
    assert parts(both).session == session


def test_every_truncated_file_of_both_is_refused(both, tmp_path):
    path = tmp_path / "both.flowgraph"
    for end in [*range(0, len(both), len(both) // 60), len(both) - 1, len(both) - len(parts(both).session), 8, 9]:
        assert not opened_or_refused(both[:end])
        path.write_bytes(both[:end])
        with pytest.raises(FileFormatError):
            Trace.load(path)


def wrong_entries(size: int, begin: int) -> list:
    """What the header must not say of its session."""
    right = {"dtype": "U8", "shape": [size - begin], "data_offsets": [begin, size]}
    return [
        None, [], 5, "x", {}, {"data_offsets": [begin, size]}, right | {"dtype": "F32"}, right | {"dtype": None},
        right | {"shape": [size]}, right | {"shape": []}, right | {"shape": [True]}, right | {"data_offsets": [begin, size + 1]},
        right | {"data_offsets": [begin - 1, size]}, right | {"data_offsets": [begin, size - 1]}, right | {"data_offsets": [size, begin]},
        right | {"data_offsets": [-1, size]}, right | {"data_offsets": [begin]}, right | {"data_offsets": [begin, str(size)]},
        right | {"data_offsets": [float(begin), size]}, right | {"data_offsets": [begin, 10**30]}, right | {"data_offsets": None},
        right | {"data_offsets": [0, size], "shape": [size]}, right | {"data_offsets": [begin, size - 1], "shape": [size - 1 - begin]}, right | {"data_offsets": [0, size - begin]},
    ]  # fmt: skip


def test_what_a_header_must_not_say_of_its_session(both, tmp_path):
    header, tensors = header_of(both)
    begin = header["session"]["data_offsets"][0]
    for entry in wrong_entries(len(tensors), begin):
        with pytest.raises(FileFormatError):
            read_session(with_header(header | {"session": entry}, tensors))
    for name, value in (("__metadata__", 5), ("__metadata__", {"flowgraph": 5}), ("__metadata__", {"flowgraph": "[]"}), ("__metadata__", {}),
                        ("__metadata__", {"flowgraph": "{"}), ("__metadata__", {"flowgraph": '{"trace": []}'})):  # fmt: skip
        with pytest.raises(FileFormatError):
            read_session(with_header(header | {name: value}, tensors))
        (tmp_path / "a").write_bytes(with_header(header | {name: value}, tensors))
        with pytest.raises(FileFormatError):
            Trace.load(tmp_path / "a")


def test_a_session_is_bytes_to_the_library_too(both, tmp_path):
    session, trace = parts(both)
    tensors, path = load(trace), tmp_path / "a.safetensors"
    header = header_of(trace)[0]["__metadata__"]
    for wrong in (torch.ones(3), torch.ones(3, dtype=torch.int8)):
        path.write_bytes(save(tensors | {"session": wrong}, header))
        with pytest.raises(FileFormatError, match="'session' is none of a trace"):
            Trace.load(path)
    # Whatever the bytes are, the library reads nothing of them.
    for harmless in (b"", b"junk", session[:-1], b"PK" * 1_000):
        path.write_bytes(joined(harmless, trace))
        assert Trace.load(path).tokens
        with pytest.raises(FileFormatError):
            read_session(path.read_bytes())


def test_headers_of_both_that_are_too_large_are_not_parsed(both, tmp_path, monkeypatch):
    _, tensors = header_of(both)
    path = tmp_path / "a"
    bomb = b'{"a":[[]' + b",[]" * 4_500_000 + b"]}"
    huge = [
        (2**62).to_bytes(8, "little") + both[8:],
        (2**40).to_bytes(8, "little") + both[8:],
        with_header(bomb, tensors),
    ]
    assert len(both) < huge[-1].__len__() < 2**24
    monkeypatch.setattr(json, "loads", lambda *_, **__: pytest.fail("it was parsed"))
    for data in huge:
        path.write_bytes(data)
        with pytest.raises(FileFormatError):
            read_session(data)
        if data[7] == 0:
            with path.open("rb") as file, pytest.raises(FileFormatError):
                holds_session(file)
        with pytest.raises(FileFormatError):
            Trace.load(path)


def test_headers_of_both_that_are_no_header(both, tmp_path):
    _, tensors = header_of(both)
    for text in (
        b"{" * 500_000,
        b'{"a":' * 500_000,
        b"{",
        b"{}",
        b'{"session": NaN}',
        b"{\xff}",
        b"{" + b"9" * 100_000 + b"}",
    ):
        with pytest.raises(FileFormatError):
            read_session(with_header(text, tensors))
        (tmp_path / "a").write_bytes(with_header(text, tensors))
        with pytest.raises(FileFormatError):
            Trace.load(tmp_path / "a")


@pytest.mark.slow
def test_changed_headers_of_both(both, tmp_path, factor):
    header, tensors = header_of(both)
    path = tmp_path / "both.flowgraph"
    opened = [opened_both_ways(with_header(text, tensors), path) for text in of_header(header, 50 * factor)]
    assert any(app for app, _ in opened)
    assert not all(app for app, _ in opened)
    assert not all(library for _, library in opened)


def of_header(header: dict, count: int):
    """Changed headers: of the whole, and of what the metadata say of the trace."""
    chance = random.Random(21)
    outside = {name: value for name, value in header.items() if name in ("session", "__metadata__", "logits")}
    inside = json.loads(header["__metadata__"][KEY])
    for _ in range(count):
        place = chance.choice(list(places(outside)))
        found = changed(outside, chance, place)
        yield written(header | found if isinstance(found, dict) else found)
        found = changed(inside, chance, chance.choice(list(places(inside["trace"], ("trace",)))))
        yield written(header | {"__metadata__": {KEY: json.dumps(found)}})


@pytest.mark.slow
def test_changed_bytes_of_both(both, tmp_path, factor):
    path = tmp_path / "both.flowgraph"
    size = 8 + int.from_bytes(both[:8], "little")
    wrong = [
        *of_bytes(both, 60 * factor, seed=22),
        *(head + both[size:] for head in of_bytes(both[:size], 60 * factor, seed=23)),
    ]
    opened = [opened_both_ways(data, path) for data in wrong]
    assert not all(app for app, _ in opened)
    assert not all(library for _, library in opened)


@pytest.mark.slow
def test_changed_traces_become_sessions_or_are_refused(good, tmp_path, factor):
    """What a changed trace shows in the app: whatever the library loads, the app draws or refuses in words."""
    header, tensors, _ = good
    path = tmp_path / "a.safetensors"
    drawn = 0
    for text in of_json(header, 200 * factor, seed=24):
        path.write_bytes(file_of(text, tensors))
        with contextlib.suppress(FlowgraphError):
            drawn += bool(session_of_trace(Trace.load(path), "a").answers)
    assert drawn


def test_every_kind_of_value_is_tried():
    kinds = {type(value) for value in VALUES}
    assert kinds == {type(None), bool, int, float, str, list, dict}
    tree = {"a": [1, {"b": np.pi}], "c": "d"}
    assert len(list(places(tree))) == 6
    assert changed(tree, random.Random(0), ("a", 0)) != tree
