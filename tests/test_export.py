import errno
import json
import math
import os
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import networkx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import flowgraph.files.json_file as json_file
from flowgraph.errors import (
    ArgumentError,
    FileFormatError,
    FlowgraphError,
    GraphTooLargeError,
    NonFiniteError,
)
from flowgraph.files import EXPORTERS, atomic_write_bytes, atomic_write_text, load_graph, save_graph
from flowgraph.files.graphml import to_graphml
from flowgraph.values.flow_graph import FlowGraph
from flowgraph.values.node import Node
from flowgraph.values.reading import NodeReading
from tests.graphs import HOSTILE_TOKENS, Edge, dags, graph_of, logits_graph, same, token_graph

# The shape checks that run in tests sample lists at random, also while hypothesis draws a graph.
pytestmark = pytest.mark.filterwarnings("ignore:Do not use the `random` module")


A, B = Node("embed", position=0), Node("resid_post", layer=0, position=0)

GRAPHS = {
    "token": token_graph(1),
    "unread": token_graph(1, read=False),
    "head": token_graph(2, heads=2, layers=2),
    "parallel": token_graph(3, parallel=True),
    "structural": token_graph(4, structural_mlp=True),
    "hostile": token_graph(5, tokens=HOSTILE_TOKENS, layers=1, filters={"threshold": 0.01, "top_k": 3, "by": "share"}),
    "logits": logits_graph(6),
    "no edges": graph_of([], nodes=[A, B]),
    "empty": graph_of([]),
    "undefined": graph_of([Edge(A, B, 0.1 + 0.2), Edge(A, B, -1e-300)], undefined=(B,), model='a "model"\n'),
}
NAMES = pytest.mark.parametrize("name", GRAPHS)


# JSON: round trip


@NAMES
def test_json_round_trip_is_exact(name: str, tmp_path: Path) -> None:
    path = tmp_path / "graph.JSON"
    assert GRAPHS[name].save(path) == path
    loaded = FlowGraph.load(path)
    assert same(loaded, GRAPHS[name])
    loaded.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == path.read_bytes()


def read_text(text: str, folder: Path) -> FlowGraph:
    path = folder / "graph.json"
    path.write_text(text, encoding="utf-8")
    return load_graph(path)


@given(graph=dags(), number=st.floats(allow_nan=False, allow_infinity=False), text=st.text())
def test_json_round_trip_of_anything(graph: FlowGraph, number: float, text: str, tmp_path_factory: Any) -> None:
    reading = NodeReading(norm=number, top=((text, number, -0.0),), entropy=number, target_rank=3)
    graph = graph.with_readings([None if n else reading for n in range(len(graph.nodes))])
    named = Node("logit", index=4, position=0, token=text)
    more = FlowGraph(**{**vars(graph), "nodes": (*graph.nodes, named), "readings": (*graph.readings, None)})
    loaded = read_text(json_file.to_json(more), tmp_path_factory.mktemp("any"))
    assert same(loaded, more)
    assert math.copysign(1, loaded.readings[0].top[0][2]) == -1


def test_json_keeps_half_a_surrogate_pair(tmp_path: Path) -> None:
    graph = graph_of([Edge(A, B, 1.0)], tokens=("\ud83d", "\U0001f600"))
    assert same(read_text(json_file.to_json(graph), tmp_path), graph)


def test_json_takes_float32_columns_and_numpy_numbers(tmp_path: Path) -> None:
    filters: dict[str, Any] = {}
    graph = graph_of([Edge(A, B, 1.0)], filters=filters)
    filters.update(threshold=np.float32(0.1), top_k=np.int64(3))
    narrow = FlowGraph(**{**vars(graph), "share": np.array([0.1], np.float32), "source": np.array([0], np.int32)})
    loaded = read_text(json_file.to_json(narrow), tmp_path)
    assert loaded.share.dtype == np.float64
    assert loaded.share[0] == narrow.share[0]
    assert loaded.info.filters == {"threshold": float(np.float32(0.1)), "top_k": 3}


@NAMES
def test_json_is_node_link_json(name: str) -> None:
    graph = GRAPHS[name]
    data = json.loads(json_file.to_json(graph))
    read = networkx.node_link_graph(data, edges="edges", multigraph=True, directed=True)
    assert isinstance(read, networkx.MultiDiGraph)
    assert read.graph["format"] == "flowgraph"
    assert read.graph["tokens"] == list(graph.info.tokens)
    assert dict(read.nodes(data=True)).keys() == set(range(len(graph.nodes)))
    assert read.number_of_edges() == len(graph)
    for n in range(len(graph.nodes)):
        assert graph.node_dict(n).items() <= read.nodes[n].items()
    expected = sorted(((int(s), int(t)), str(graph.edge_dict(e))) for e, (s, t) in enumerate(ends(graph)))
    assert sorted(((s, t), str(d)) for s, t, d in read.edges(data=True)) == expected


def ends(graph: FlowGraph) -> list[tuple[int, int]]:
    return list(zip(graph.source.tolist(), graph.target.tolist(), strict=True))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_json_refuses_what_is_not_finite(bad: float) -> None:
    graph = graph_of([Edge(A, B, 1.0)])
    reading = NodeReading(norm=1.0, top=((" a", 0.5, 1.0), (" b", 0.25, bad)))
    with pytest.raises(NonFiniteError, match=r"nodes\[1\]\.top_logits\[1\] is NaN or infinite"):
        json_file.to_json(graph.with_readings([None, reading]))
    with pytest.raises(NonFiniteError, match=r"graph\.target_probability"):
        json_file.to_json(graph_of([], target_probability=bad))


def test_json_refuses_to_write_what_cannot_be_read_back(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    text = json_file.to_json(GRAPHS["token"])
    monkeypatch.setattr(json_file, "LARGEST_FILE", len(text))
    assert len(read_text(json_file.to_json(GRAPHS["token"]), tmp_path)) == len(GRAPHS["token"])
    monkeypatch.setattr(json_file, "LARGEST_FILE", len(text) - 1)
    with pytest.raises(GraphTooLargeError, match="edges make a file of"):
        json_file.to_json(GRAPHS["token"])
    with pytest.raises(FileFormatError, match="it is larger than"):
        read_text(text, tmp_path)


# JSON: hostile files


def small() -> dict[str, Any]:
    reading = NodeReading(norm=1.5, top=((" a", 0.5, 1.0),), target_rank=2, entropy=0.5)
    edges = [
        Edge(A, B, 0.5, layer=0, query_pos=0, key_pos=0),
        Edge(A, B, None, "mlp"),
        Edge(A, B, -0.5, "residual"),
    ]
    graph = graph_of(edges, undefined=(B,), filters={"threshold": 0.5}).with_readings([reading, None])
    data: dict[str, Any] = json.loads(json_file.to_json(graph))
    return data


def change(data: Any, place: str, value: Any) -> None:
    """Set (or with ``...`` delete) what is at a place such as ``nodes[3].layer``."""
    *way, last = [int(part) if part.isdigit() else part for part in re.findall(r"\w+", place)]
    for part in way:
        data = data[part]
    if value is ...:
        del data[last]
    else:
        data[last] = value


WRONG = [
    ("graph", ..., "graph is missing"),
    ("graph", [], "graph is a list of 0; expected an object"),
    ("graph.format", "other", "graph.format is 'other'; expected 'flowgraph'"),
    ("graph.version", 2, "graph.version is 2; expected 1"),
    ("graph.version", True, "graph.version is True; expected an integer"),
    ("graph.version", "1", "graph.version is '1'; expected an integer"),
    ("graph.version", ..., "graph.version is missing"),
    ("directed", False, "directed is False; expected true"),
    ("multigraph", ..., "multigraph is missing"),
    ("graph.method", None, "graph.method is null; expected a text"),
    ("graph.tokens", "The", "graph.tokens is 'The'; expected a list"),
    ("graph.tokens[1]", 7, "graph.tokens[1] is 7; expected a text"),
    ("graph.layers", [0], "graph.layers is a list of 1; expected two integers"),
    ("graph.layers[1]", 1.0, "graph.layers[1] is 1.0; expected an integer"),
    ("graph.position", -1, "graph.position is -1; expected 0…"),
    ("graph.total_edges", 2**70, "graph.total_edges is an integer of more than 64 bits"),
    ("graph.total_share", "1", "graph.total_share is '1'; expected a number"),
    ("graph.target", 1.5, "graph.target is 1.5; expected an integer"),
    ("graph.filters", [], "graph.filters is a list of 0; expected an object"),
    ("graph.filters.threshold", {}, "graph.filters.threshold is an object of 0; expected a number"),
    ("graph.undefined", ..., "graph.undefined is missing"),
    ("graph.undefined[0]", 2, "graph.undefined[0] is 2; expected 0…1"),
    ("nodes", {}, "nodes is an object of 0; expected a list"),
    ("nodes[1]", None, "nodes[1] is null; expected an object"),
    ("nodes[1].id", 0, "nodes[1].id is 0; expected 1"),
    ("nodes[1].kind", "residual", "nodes[1].kind is 'residual'; expected one of embed, "),
    ("nodes[1].kind", ["embed"], "nodes[1].kind is a list of 1; expected a text"),
    ("nodes[1].layer", ..., "nodes[1].layer is missing"),
    ("nodes[1].layer", None, "nodes[1]: a node of kind 'resid_post' needs layer="),
    ("nodes[1].layer", True, "nodes[1].layer is True; expected an integer"),
    ("nodes[1].position", -3, "nodes[1].position is -3; expected 0…"),
    ("nodes[1].position", 2**31, "nodes[1].position is 2147483648; expected 0…"),
    ("nodes[1].position", 10**400, "nodes[1].position is an integer of more than 64 bits"),
    ("nodes[1].label_token", 3, "nodes[1].label_token is 3; expected a text"),
    (
        "nodes[1]",
        {"id": 1, "kind": "embed", "layer": None, "head": None, "position": 0, "index": None},
        "same node",
    ),
    ("nodes[0].norm", ..., "nodes[0].norm is missing"),
    ("nodes[0].norm", None, "nodes[0].norm is null; expected a number"),
    ("nodes[0].entropy", "much", "nodes[0].entropy is 'much'; expected a number"),
    ("nodes[0].target_rank", 2.0, "nodes[0].target_rank is 2.0; expected an integer"),
    ("nodes[0].top_tokens", ..., "nodes[0].top_tokens is missing"),
    ("nodes[0].top_tokens[0]", None, "nodes[0].top_tokens[0] is null; expected a text"),
    ("nodes[0].top_logits", [1, 2], "nodes[0].top_logits is a list of 2; expected 1 entries"),
    ("nodes[0].top_probabilities[0]", False, "nodes[0].top_probabilities[0] is False; expected a number"),
    ("edges", ..., "edges is missing"),
    ("edges[2]", [0, 1], "edges[2] is a list of 2; expected an object"),
    ("edges[2].source", 2, "edges[2].source is 2; expected 0…1"),
    ("edges[2].target", -1, "edges[2].target is -1; expected 0…1"),
    ("edges[2].target", 10**30, "edges[2].target is an integer of more than 64 bits; expected 0…1"),
    ("edges[2].target", "1", "edges[2].target is '1'; expected an integer"),
    ("edges[2].key", 1, "edges[2].key is 1; expected another number"),
    ("edges[2].key", ..., "edges[2].key is missing"),
    ("edges[2].kind", "road", "edges[2].kind is 'road'; expected one of attention, "),
    ("edges[2].kind", ["mlp"], "edges[2].kind is a list of 1; expected a text"),
    ("edges[2].layer", -1, "edges[2].layer is -1; expected 0…"),
    ("edges[2].head", 0.0, "edges[2].head is 0.0; expected an integer"),
    ("edges[2].query_pos", ..., "edges[2].query_pos is missing"),
    ("edges[2].key_pos", 10**25, "edges[2].key_pos is an integer of more than 64 bits"),
    ("edges[2].weight", ..., "edges[2].weight is missing"),
    ("edges[2].weight", None, "edges[2].share is -0.5; expected null exactly where weight is null"),
    ("edges[2].weight", "1", "edges[2].weight is '1'; expected a number"),
    ("edges[2].share", None, "edges[2].share is null; expected null exactly where weight is null"),
    ("edges[2].share", True, "edges[2].share is True; expected a number"),
    (
        "edges[2].share",
        10**400,
        "edges[2].share is an integer of more than 64 bits; expected a finite number",
    ),
    ("edges[2].unit", "metres", "edges[2].unit is 'metres'; expected 'norm' as in graph.unit, or one of share"),
]


def test_the_file_that_is_damaged_below_is_good(tmp_path: Path) -> None:
    assert len(read_text(json.dumps(small()), tmp_path)) == 3


@pytest.mark.parametrize(("place", "value", "message"), WRONG)
def test_wrong_values_are_refused_by_place(place: str, value: Any, message: str, tmp_path: Path) -> None:
    data = small()
    change(data, place, value)
    with pytest.raises(FileFormatError, match=re.escape(message)) as caught:
        read_text(json.dumps(data), tmp_path)
    assert str(tmp_path / "graph.json") in str(caught.value)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("place", "literal", "message"),
    [
        ("edges[2].share", "NaN", "edges[2].share is NaN, which is no number in JSON"),
        ("edges[0].weight", "-Infinity", "edges[0].weight is -Infinity"),
        ("edges[0].weight", "1e999", "edges[0].weight is inf; expected a finite number"),
        ("nodes[0].norm", "Infinity", "nodes[0].norm is Infinity"),
        ("nodes[0].norm", "-1e999", "nodes[0].norm is -inf; expected a finite number"),
        ("graph.filters.threshold", "NaN", "graph.filters.threshold is NaN"),
        ("nodes[1].note", "NaN", "nodes[1].note is NaN"),
        ("nodes[1].layer", "9" * 5000, "it is not JSON"),
    ],
)
def test_numbers_that_are_none(place: str, literal: str, message: str, tmp_path: Path) -> None:
    data = small()
    change(data, place, "HERE")
    with pytest.raises(FileFormatError, match=re.escape(message)):
        read_text(json.dumps(data).replace('"HERE"', literal), tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is not JSON"),
        (b"{", "it is not JSON"),
        (b"[1, 2", "it is not JSON"),
        (b"null", "the file is null; expected an object"),
        (b"[]", "the file is a list of 0; expected an object"),
        (b"{}", "graph is missing"),
        (b'{"graph": \xff}', "byte 10 is not UTF-8"),
        (b"[" * 200_000, "nested too deeply"),
        (b"\x80\x04\x95cos\nsystem\n", "byte 0 is not UTF-8"),
        (b"[" * 50 + b"NaN" + b"]" * 50, "is NaN"),
    ],
)
def test_files_that_are_something_else(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "graph.json"
    path.write_bytes(content)
    with pytest.raises(FileFormatError, match=message):
        load_graph(path)


@given(data=st.data())
def test_a_value_replaced_by_anything_loads_or_is_refused(data: st.DataObject, tmp_path_factory: Any) -> None:
    plain = small()
    places = [f"graph.{name}" for name in plain["graph"]]
    places += [
        f"{rows}[{n}].{name}" for rows in ("nodes", "edges") for n, row in enumerate(plain[rows]) for name in row
    ]
    junk = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=5,
    )
    change(plain, data.draw(st.sampled_from(places)), data.draw(junk))
    text = json.dumps(plain)
    cut = data.draw(st.just(len(text)) | st.integers(0, len(text)))
    try:
        loaded = read_text(text[:cut], tmp_path_factory.mktemp("junk"))
    except FileFormatError:
        return
    assert (len(loaded), len(loaded.nodes)) == (3, 2)


def test_too_many_rows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    text = json.dumps(small())
    monkeypatch.setattr(json_file, "MOST_EDGES", 2)
    with pytest.raises(FileFormatError, match="edges has 3 entries; at most 2"):
        read_text(text, tmp_path)
    monkeypatch.setattr(json_file, "MOST_NODES", 1)
    with pytest.raises(FileFormatError, match="nodes has 2 entries; at most 1"):
        read_text(text, tmp_path)


def test_load_needs_a_json_file(tmp_path: Path) -> None:
    (tmp_path / "folder.json").mkdir()
    for name, message in {
        "graph.gexf": "only graphs saved as .json or .graphml can be read back",
        "missing.json": "is not there; name a graph file",
        "folder.json": "is a folder; name a graph file",
    }.items():
        with pytest.raises(ArgumentError, match=message):
            load_graph(tmp_path / name)


# GraphML


@NAMES
def test_graphml_keeps_attributes(name: str, tmp_path: Path) -> None:
    graph = GRAPHS[name]
    path = graph.save(tmp_path / "graph.graphml")
    read = networkx.read_graphml(path, force_multigraph=True)
    assert isinstance(read, networkx.MultiDiGraph)
    assert list(read.nodes) == [f"n{n}" for n in range(len(graph.nodes))]
    for n in range(len(graph.nodes)):
        assert decoded(read.nodes[f"n{n}"]) == expected(graph.node_dict(n))
    edges = {key: (s, t, data) for s, t, key, data in read.edges(keys=True, data=True)}
    assert len(edges) == len(graph)
    for e, (source, target) in enumerate(ends(graph)):
        assert edges[f"e{e}"][:2] == (f"n{source}", f"n{target}")
        assert edges[f"e{e}"][2] == expected(graph.edge_dict(e))
    assert json.loads(read.graph["layers"]) == list(graph.info.layers)
    assert read.graph["total_share"] == graph.info.total_share
    assert json.loads(read.graph["filters"]) == dict(graph.info.filters)


def decoded(data: dict[str, Any]) -> dict[str, Any]:
    lists = re.compile("(top|bottom)_")
    return {name: json.loads(value) if lists.match(name) else value for name, value in data.items()}


VISIBLE = {"\x00": "⟨0000⟩", "\x0b": "⟨000B⟩", "\r": "⟨000D⟩", "\x1f": "⟨001F⟩", "\ufffe": "⟨FFFE⟩"}


def expected(data: dict[str, Any]) -> dict[str, Any]:
    """What is left of plain data: no None, no empty text, illegal characters written visibly.

    Inside lists JSON has its own escapes for control characters, so those come back as they were.
    """
    text = {name: value for name, value in data.items() if value is not None and value != ""}
    for name, value in text.items():
        pairs = VISIBLE.items() if isinstance(value, str) else [("\ufffe", "⟨FFFE⟩")]
        for char, shown in pairs:
            if isinstance(value, str):
                text[name] = text[name].replace(char, shown)
            elif isinstance(value, list) and name.endswith("_tokens"):
                text[name] = [token.replace(char, shown) for token in value]
    return text


def test_graphml_writes_illegal_characters_visibly() -> None:
    graph = graph_of([Edge(A, B, 1.0)], tokens=("a\x0bb\r\n\t\ud83d<&>⟨",))
    text = to_graphml(graph)
    assert "a⟨000B⟩b⟨000D⟩\n\t⟨D83D⟩&lt;&amp;&gt;⟨</data>" in text


@given(st.text(min_size=1))
def test_graphml_is_well_formed_whatever_the_tokens(token: str) -> None:
    graph = graph_of([Edge(A, B, 1.0), Edge(A, B, 0.5)], tokens=(token,), model=token)
    read = networkx.parse_graphml(to_graphml(graph))
    assert read.number_of_edges() == 2
    assert "\r" in token or read.graph["model"].startswith(token[0]) or read.graph["model"].startswith("⟨")


def test_graphml_structural_edges_have_no_numbers() -> None:
    graph = graph_of([Edge(A, B, None, "mlp"), Edge(A, B, 0.0, "residual")])
    read = networkx.parse_graphml(to_graphml(graph), force_multigraph=True)
    structural, zero = (read.edges["n0", "n1", key] for key in ("e0", "e1"))
    assert "weight" not in structural
    assert "share" not in structural
    assert (zero["weight"], zero["share"]) == (0.0, 0.0)


# save_graph and the files


def test_html_comes_from_the_view(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    view = ModuleType("flowgraph.render.page.html")
    view.render_html = lambda graph: f"<p>{len(graph)} ⟶"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "flowgraph.render.page.html", view)
    path = save_graph(GRAPHS["token"], str(tmp_path / "a.html"))
    assert path.read_text(encoding="utf-8") == f"<p>{len(GRAPHS['token'])} ⟶"


@pytest.mark.parametrize("name", ["graph", "graph.bmp", "graph.json.gz", ".json", "graph."])
def test_unknown_extensions(name: str, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=re.escape("expected one of .json, .graphml, .html, .csv, .gexf")):
        save_graph(GRAPHS["empty"], tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_overwrite(tmp_path: Path) -> None:
    path = save_graph(GRAPHS["token"], tmp_path / "a.json", overwrite=False)
    with pytest.raises(ArgumentError, match="exists; pass overwrite=True"):
        save_graph(GRAPHS["empty"], path, overwrite=False)
    assert same(load_graph(path), GRAPHS["token"])
    save_graph(GRAPHS["empty"], path)
    assert same(load_graph(path), GRAPHS["empty"])
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "a.json").mkdir()
    (tmp_path / "file").write_text("")
    os.mkfifo(tmp_path / "pipe.json")
    for name, message in {
        "missing/a.json": "missing', which is not a folder; make it first",
        "file/a.json": "file', which is not a folder",
        "a.json": "is a folder; give the name of a file",
        "pipe.json": "is not a regular file",
        "x" * 300 + ".json": "choose a shorter name",
    }.items():
        with pytest.raises(ArgumentError, match=message):
            save_graph(GRAPHS["token"], tmp_path / name)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.json", "file", "pipe.json"]


@pytest.mark.parametrize(("number", "advice"), [(errno.ENOSPC, "free some space"), (errno.EACCES, "may write to")])
def test_failed_writes_leave_nothing(number: int, advice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = atomic_write_text(tmp_path / "a.txt", "before")

    def fail(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(ArgumentError, match=f"{os.strerror(number)}; .*{advice}"):
        atomic_write_bytes(path, b"after")
    assert path.read_text() == "before"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


def test_interrupted_writes_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        atomic_write_text(tmp_path / "a.txt", "after")
    assert [entry.name for entry in tmp_path.iterdir()] == []


def test_a_failing_exporter_touches_nothing(tmp_path: Path) -> None:
    path = save_graph(GRAPHS["token"], tmp_path / "a.json")
    before = path.read_bytes()
    with pytest.raises(FlowgraphError):
        save_graph(graph_of([], target_probability=math.nan), path)
    assert path.read_bytes() == before


def test_text_is_utf8_with_its_own_line_ends(tmp_path: Path) -> None:
    assert atomic_write_text(tmp_path / "a.txt", "é\n\r\n").read_bytes() == b"\xc3\xa9\n\r\n"


def test_links_stay_links_and_names_may_be_long(tmp_path: Path) -> None:
    target = tmp_path / ("x" * 250 + ".txt")
    link = tmp_path / "link"
    target.write_text("before")
    link.symlink_to(target)
    assert atomic_write_text(link, "after") == link
    assert link.is_symlink()
    assert target.read_text() == "after"


def test_written_files_have_ordinary_permissions(tmp_path: Path) -> None:
    ordinary = tmp_path / "ordinary"
    ordinary.write_text("")
    written = atomic_write_text(tmp_path / "written", "")
    assert written.stat().st_mode == ordinary.stat().st_mode


def test_every_ending_writes_what_it_says(tmp_path: Path) -> None:
    """The longest ending counts, case does not, and files of graphs have no options."""
    graph = GRAPHS["token"]
    for end in EXPORTERS:
        name = tmp_path / f"graph.v2{end.upper()}"
        written = save_graph(graph, name)
        assert written.stat().st_size > 100
    assert "qParams" in json.loads((tmp_path / "graph.v2.NEURONPEDIA.JSON").read_text())
    assert (tmp_path / "graph.v2.nodes.csv").is_file() or list(tmp_path.glob("*nodes*"))
    assert same(load_graph(tmp_path / "graph.v2.GRAPHML"), load_graph(tmp_path / "graph.v2.JSON"))
    with pytest.raises(ArgumentError, match=r"theme= is an option of pictures; .json files have none"):
        save_graph(graph, tmp_path / "a.json", theme="print")
    assert (tmp_path / "graph.v2.SVG").read_text() != save_graph(graph, tmp_path / "b.svg", theme="print").read_text()
