"""Graphs read from files: the project's own GraphML exactly, those of other programs by stated rules, hostile ones not."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import networkx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import flowgraph
import flowgraph.files.graphml_reader as graphml_reader
import flowgraph.files.imports as imports
from flowgraph.errors import ArgumentError, FileFormatError
from flowgraph.files.graphml import load_graphml, to_graphml
from flowgraph.files.graphml_reader import read_graphml
from flowgraph.files.imports import graph_of, import_graph
from flowgraph.files.neuronpedia import to_neuronpedia
from flowgraph.values.flow_graph import EDGE_KINDS, FlowGraph
from flowgraph.values.node import Node
from flowgraph.values.reading import NodeReading
from tests.graphs import Edge, dags, same, token_graph
from tests.graphs import graph_of as built
from tests.graphs import nodes as any_node
from tests.test_graph_files import GRAPHS, NAMES, any_graph  # noqa: F401  a fixture

# The shape checks that run in tests sample lists at random, also while hypothesis draws a graph.
pytestmark = pytest.mark.filterwarnings("ignore:Do not use the `random` module")

A, B = Node("embed", position=0), Node("resid_post", layer=0, position=0)

# GraphML of this project


@NAMES
def test_graphml_round_trip_is_exact(graph: FlowGraph, tmp_path: Path) -> None:
    path = tmp_path / "graph.GraphML"
    path.write_text(to_graphml(graph), encoding="utf-8")
    for load in (load_graphml, import_graph):
        loaded = load(path)
        assert same(loaded, graph)
        assert to_graphml(loaded) == to_graphml(graph)


@given(graph=dags(), number=st.floats(allow_nan=False, allow_infinity=False), text=st.text(), node=any_node())
def test_graphml_round_trip_of_anything(
    graph: FlowGraph,
    number: float,
    text: str,
    node: Node,
    tmp_path_factory: Any,
) -> None:
    reading = NodeReading(norm=number, top=((text, number, -0.0),), entropy=number, target_rank=3)
    more = (Node("logit", index=77, position=0, token=text), *({node} - set(graph.nodes)))
    info = flowgraph.GraphInfo(**{**vars(graph.info), "model": text, "target_token": text, "tokens": (text, "b")})
    graph = FlowGraph(
        **{**vars(graph), "nodes": (*graph.nodes, *more), "undefined": more, "info": info},
    ).with_readings([reading] * len(graph.nodes) + [None] * len(more))
    path = tmp_path_factory.mktemp("any") / "graph.graphml"
    path.write_text(to_graphml(graph), encoding="utf-8")
    assert same(load_graphml(path), graph)


def test_graphml_after_networkx_wrote_it_again(tmp_path: Path) -> None:
    """Another order of edges, and other names of keys, do not matter."""
    path = tmp_path / "graph.graphml"
    networkx.write_graphml(networkx.parse_graphml(to_graphml(GRAPHS["hostile"]), force_multigraph=True), path)
    assert same(load_graphml(path), GRAPHS["hostile"])


def test_graphml_with_a_node_taken_away_is_no_longer_ours(tmp_path: Path) -> None:
    path = tmp_path / "graph.graphml"
    whole = GRAPHS["head"]
    changed = networkx.parse_graphml(to_graphml(whole), force_multigraph=True)
    changed.remove_node("n3")
    networkx.write_graphml(changed, path)
    with pytest.raises(FileFormatError, match="changed by another program; import_graph reads such files"):
        load_graphml(path)
    loaded = import_graph(path)
    assert loaded.nodes == whole.nodes[:3] + whole.nodes[4:]
    assert loaded.info == whole.info
    assert [r and r.norm for r in loaded.readings] == [r and r.norm for n, r in enumerate(whole.readings) if n != 3]
    kept = (whole.source != 3) & (whole.target != 3)
    assert sorted(loaded.weight) == sorted(whole.weight[kept])


def test_graphml_of_another_program(tmp_path: Path) -> None:
    path = tmp_path / "graph.graphml"
    plain = networkx.DiGraph(name="roads")
    plain.add_edge("a", "b", weight=3)
    plain.add_edge("c", "b", weight=-1.0)
    plain.nodes["a"]["position"] = 1
    networkx.write_graphml(plain, path)
    loaded = import_graph(path)
    assert [node.token for node in loaded.nodes] == ["a", "b", "c"]
    assert [node.layer for node in loaded.nodes] == [0, 1, 0]
    assert loaded.info.model == "roads"
    np.testing.assert_array_equal(loaded.share, [0.75, -0.25])


HEAD = '<graphml xmlns="http://graphml.graphdrawing.org/xmlns">'
KEYS = (
    '<key id="w" for="edge" attr.name="weight" attr.type="double"/>'
    '<key id="l" for="node" attr.name="layer" attr.type="int"><default>2</default></key>'
    '<key id="u" for="all" attr.name="unit"/>'
)
PAIR = '<node id="a"/><node id="b"/><edge source="a" target="b"><data key="w">{}</data></edge>'


def graphml(body: str) -> bytes:
    return f'{HEAD}{KEYS}<graph edgedefault="directed">{body}</graph></graphml>'.encode()


def test_graphml_reads_defaults_and_types() -> None:
    data = read_graphml(graphml(PAIR.format(" 1e-3 ") + '<data key="u">x</data>'))
    assert data["nodes"] == [{"layer": 2, "id": "a"}, {"layer": 2, "id": "b"}]
    assert data["edges"] == [{"source": "a", "target": "b", "key": None, "weight": 0.001}]
    assert data["graph"] == {"unit": "x"}
    assert data["directed"] is True


ENTITIES = '<!DOCTYPE g [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (ENTITIES.encode() + graphml("<node id='&b;'/>"), "line 1: it declares a document type"),
        (b'<!DOCTYPE g SYSTEM "file:///etc/passwd">' + graphml(""), "it declares a document type"),
        (b'<!DOCTYPE g [<!ENTITY % x SYSTEM "http://a/b">%x;]>' + graphml(""), "it declares a document type"),
        (graphml("<node id='&b;'/>"), "it is not XML: undefined entity"),
        (b"", "it is not XML: no element found"),
        (b"{}", "it is not XML"),
        (b"<graphml>", "it is not XML: no element found"),
        (b"<html/>", "its first element is <html>"),
        (b"<graphml/>", "there is no <graph> in it"),
        (graphml("").replace(b"</graphml>", b"<graph/></graphml>"), "there is a second <graph>"),
        ('<?xml version="1.0" encoding="UTF-16"?>'.encode("utf-16") + graphml(""), "it is not XML"),
        (graphml("<node id='\xff'/>").replace("\xff".encode(), b"\xff"), "it is not XML: not well-formed"),
        (b"<a>" * 100_000, "its first element is <a>"),
        (graphml("<node id='a'>" + "<x>" * 100_000), "its elements are nested too deeply"),
        (graphml("<node id='a'><graph/></node>"), "there is a <graph> in its graph"),
        (graphml("<hyperedge/>"), "there is a <hyperedge> in its graph"),
        (graphml("<node/>"), "<node> has no id="),
        (graphml("<edge source='a'/>"), "<edge> has no target="),
        (graphml("<edge source='a' target='a' directed='false'/>"), "an edge has no direction"),
        (
            graphml("<data key='nobody'>x</data>"),
            "<data> of graph has key='nobody'; expected one that a <key> declares",
        ),
        (graphml("<data key='w'>1</data>"), "<data> of graph has key='w'"),
        (graphml(PAIR.format("much")), "weight is 'much'; expected a value of its type, double"),
        (graphml(PAIR.format("1_0")), "weight is '1_0'"),
        (graphml(PAIR.format("1.2.3")), "weight is '1.2.3'"),
        (graphml("<node id='a'><data key='l'>1.5</data></node>"), "layer is '1.5'; expected a value of its type, int"),
        (graphml("<node id='a'><data key='l'>" + "9" * 5000 + "</data></node>"), "layer is '999"),
        (graphml(PAIR.format("NaN")), "edges[0].weight is nan; expected a finite number"),
        (graphml(PAIR.format("-inf")), "edges[0].weight is -inf; expected a finite number"),
        (graphml(PAIR.format("1e999")), "edges[0].weight is inf; expected a finite number"),
        (graphml(PAIR + PAIR.format(1)), "weight is '{}'"),
        (graphml(PAIR.format(1) + "<node id='a'/>"), "nodes[2].id is 'a'; expected another id than that of nodes[0]"),
        (graphml(PAIR.format(1)).replace(b'"directed"', b'"undirected"'), "directed is False; expected true"),
        (graphml("<node id='a'/><edge source='a' target='z'/>"), "edges[0].target is 'z'; expected the id of a node"),
        (graphml("<node id='a'/><node id='b'/><edge source='a' target='b'/>"), "edges[0].weight is missing"),
    ],
)
def test_hostile_graphml(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "graph.graphml"
    path.write_bytes(content)
    with pytest.raises(FileFormatError, match=re.escape(message)) as caught:
        import_graph(path)
    assert str(path) in str(caught.value)


def test_graphml_with_too_many_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphml_reader, "MOST_EDGES", 0)
    with pytest.raises(FileFormatError, match="more than 0 nodes or edges"):
        read_graphml(graphml(PAIR.format(1)))


EXACT = [
    ("exact", "[]", "graph.exact is a list of 0; expected an object"),
    ("exact", "{", "it is not JSON"),
    ("exact", '{"undefined": [9], "label_tokens": {}, "graph": {}, "nodes": {}}', "graph.undefined[0] is 9"),
    ("exact", '{"undefined": [], "label_tokens": {"0": 3}, "graph": {}, "nodes": {}}', "nodes[0].label_token is 3"),
    ("exact", '{"undefined": [], "label_tokens": {}, "graph": {"model": 1}, "nodes": {}}', "graph.model is 1"),
    ("exact", '{"undefined": [], "label_tokens": {}, "graph": {}}', "graph.exact.nodes is missing"),
    ("version", 2, "graph.version is 2; expected 1"),
    ("tokens", "[1]", "graph.tokens[0] is 1; expected a text"),
    ("tokens", "[1", "it is not JSON"),
    ("total_share", "x", "graph.total_share is 'x'; expected a number"),
]


@pytest.mark.parametrize(("name", "value", "message"), EXACT)
def test_damaged_graphml_of_this_project(name: str, value: Any, message: str, tmp_path: Path) -> None:
    plain = networkx.parse_graphml(to_graphml(GRAPHS["undefined"]), force_multigraph=True)
    plain.graph[name] = value
    networkx.write_graphml(plain, tmp_path / "graph.graphml")
    with pytest.raises(FileFormatError, match=re.escape(message)):
        load_graphml(tmp_path / "graph.graphml")


@given(data=st.data())
def test_graphml_with_a_part_replaced_loads_or_is_refused(data: st.DataObject, tmp_path_factory: Any) -> None:
    text = to_graphml(GRAPHS["undefined"])
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 40)))
    path = tmp_path_factory.mktemp("any") / "graph.graphml"
    path.write_bytes((text[:start] + data.draw(st.text(max_size=8)) + text[end:]).encode("utf-8", "replace"))
    try:
        loaded = import_graph(path)
    except FileFormatError:
        return
    assert len(loaded) <= 2


# Node-link JSON


def link_data() -> dict[str, Any]:
    """A graph that knows nothing of this project but a few of its words."""
    return {
        "directed": True,
        "multigraph": True,
        "graph": {"name": "toy"},
        "nodes": [
            {"id": "tok", "kind": "embed", "position": 0, "token": "The", "colour": "red"},
            {"id": 7, "kind": "head", "layer": 0, "head": 3, "position": 1, "norm": 2.5, "top_tokens": ["a"],
             "top_probabilities": [0.5], "top_logits": [1.0]},
            {"id": "f", "label": "some feature", "layer": 1, "entropy": 2.0},
            {"id": "out", "kind": "logit", "index": 5, "token": " x"},
        ],
        "edges": [
            {"source": "tok", "target": 7, "key": 0, "weight": 2},
            {"source": "tok", "target": 7, "key": 1, "weight": -6.0},
            {"source": 7, "target": "f", "key": 0, "weight": None, "length": 9},
            {"source": "f", "target": "out", "key": 0, "weight": 0.5, "kind": "unembed", "query_pos": 1},
        ],
    }  # fmt: skip


def test_node_link_data_becomes_a_graph(tmp_path: Path) -> None:
    path = tmp_path / "graph.json"
    path.write_text(json.dumps(link_data()))
    loaded = import_graph(path)
    embed, head, feature, logit = loaded.nodes
    assert embed == Node("embed", position=0)
    assert head == Node("head", layer=0, head=3, position=1)
    assert (feature, feature.token) == (Node("neuron", layer=1, index=2), "some feature")
    assert (logit, logit.token) == (Node("logit", index=5), " x")
    np.testing.assert_array_equal(loaded.source, [0, 0, 1, 2])
    np.testing.assert_array_equal(loaded.target, [1, 1, 2, 3])
    np.testing.assert_array_equal(loaded.weight, [2, -6, 0, 0.5])
    np.testing.assert_array_equal(loaded.share, [0.25, -0.75, 0, 1])
    np.testing.assert_array_equal(loaded.structural, [False, False, True, False])
    np.testing.assert_array_equal(loaded.query_pos, [1, 1, -1, 1])
    np.testing.assert_array_equal(loaded.key_pos, [0, 0, 1, -1])
    assert [EDGE_KINDS[kind] for kind in loaded.kind] == ["embed", "embed", "head", "unembed"]
    assert [r and r.top for r in loaded.readings] == [None, (("a", 0.5, 1.0),), None, None]
    info = loaded.info
    assert (info.method, info.unit, info.model, info.level) == ("imported", "weight", "toy", "token")
    assert (info.tokens, info.layers, info.total_layers, info.position) == (("The", ""), (0, 2), 2, 1)
    assert (info.total_edges, info.total_share) == (3, 2.0)


@pytest.mark.parametrize("links", ["edges", "links"])
@pytest.mark.parametrize("kind", [networkx.DiGraph, networkx.MultiDiGraph])
def test_what_networkx_writes_is_read(kind: Any, links: str) -> None:
    plain = kind([("a", "b", {"weight": 1.0}), ("b", "c", {"weight": 2.0}), ("a", "c", {"weight": 6.0})])
    plain.add_node("alone")
    loaded = graph_of(networkx.node_link_data(plain, edges=links))
    assert [(node.token, node.layer) for node in loaded.nodes] == [("a", 0), ("b", 1), ("c", 2), ("alone", 0)]
    assert sorted(zip(loaded.source.tolist(), loaded.target.tolist(), loaded.share.tolist(), strict=True)) == [
        (0, 1, 1.0), (0, 2, 0.75), (1, 2, 0.25),
    ]  # fmt: skip


def test_the_least_that_is_needed() -> None:
    """As D3 writes it: no directed, multigraph or graph."""
    loaded = graph_of({"nodes": [{"id": 1}, {"id": "1"}], "links": [{"source": 1, "target": "1", "weight": 3}]})
    assert [node.layer for node in loaded.nodes] == [0, 1]
    assert loaded.share.tolist() == [1.0]
    assert graph_of({"nodes": [], "links": []}).nodes == ()


@NAMES
def test_a_graph_with_another_name_on_it_is_still_the_same(graph: FlowGraph) -> None:
    """The words of this project are all understood: without its format and version, only these are missing."""
    data = json.loads(flowgraph.files.json_file.to_json(graph))
    assert same(graph_of(data), graph)
    undefined = data["graph"].pop("undefined")
    del data["graph"]["format"], data["graph"]["version"]
    loaded = graph_of(data)
    assert same(FlowGraph(**{**vars(loaded), "undefined": tuple(loaded.nodes[n] for n in undefined)}), graph)


@given(graph=dags(), unit=st.sampled_from(["norm", "logits", "furlongs"]))
def test_shares_are_those_of_what_enters_a_target(graph: FlowGraph, unit: str) -> None:
    data = json.loads(flowgraph.files.json_file.to_json(graph))
    edges = [{name: edge[name] for name in ("source", "target", "key", "weight")} for edge in data["edges"]]
    loaded = graph_of({"graph": {"unit": unit}, "nodes": data["nodes"], "edges": edges})
    assert loaded.info.unit == unit
    for e, edge in enumerate(edges):
        whole = sum(abs(other["weight"] or 0) for other in edges if other["target"] == edge["target"])
        assert loaded.share[e] == pytest.approx((edge["weight"] or 0) / (whole or 1))
    assert loaded.structural.tolist() == graph.structural.tolist()


@given(dags())
def test_layers_are_longest_ways(graph: FlowGraph) -> None:
    plain = networkx.MultiDiGraph()
    plain.add_nodes_from(range(len(graph.nodes)))
    plain.add_edges_from(zip(graph.source.tolist(), graph.target.tolist(), strict=True), weight=1)
    loaded = graph_of(networkx.node_link_data(plain, edges="edges"))
    layers: dict[int, int] = {}
    for n in networkx.topological_sort(plain):
        layers[n] = max((layers[source] + 1 for source in plain.predecessors(n)), default=0)
    assert [node.layer for node in loaded.nodes] == [layers[n] for n in range(len(layers))]


def test_huge_weights_have_finite_shares() -> None:
    nodes = [{"id": n} for n in range(3)]
    edges = [{"source": n, "target": 2, "weight": 1.7e308} for n in (0, 1)]
    assert graph_of({"nodes": nodes, "edges": edges}).share.tolist() == [0.5, 0.5]


def test_units_of_edges() -> None:
    data = link_data()
    for edge, unit in zip(data["edges"], ("attention", "norm", "norm", "norm"), strict=True):
        edge["unit"] = unit
    loaded = graph_of(data | {"graph": {"unit": "norm"}})
    assert [loaded.unit_of(e) for e in range(4)] == ["attention", "norm", "norm", "norm"]
    assert loaded.share.tolist() == [1, -1, 0, 1]
    for edge in data["edges"]:
        edge["unit"] = "metres"
    assert graph_of(data).info.unit == "metres"


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
    ("directed", False, "directed is False; expected true"),
    ("nodes", ..., "nodes is missing"),
    ("nodes", {}, "nodes is an object of 0; expected a list"),
    ("edges", ..., "links is missing"),
    ("graph", [], "graph is a list of 0; expected an object"),
    ("graph.tokens", 3, "graph.tokens is 3; expected a list"),
    ("graph.tokens", ["a"], "nodes[1].position is 1; expected 0…0, since graph.tokens has 1"),
    ("graph.method", 3, "graph.method is 3; expected a text"),
    ("graph.unit", [1], "graph.unit is a list of 1; expected a text"),
    ("graph.layers", [0], "graph.layers is a list of 1"),
    ("graph.filters", 3, "graph.filters is 3; expected an object"),
    ("nodes[1]", None, "nodes[1] is null; expected an object"),
    ("nodes[1].id", ..., "nodes[1].id is missing"),
    ("nodes[1].id", "tok", "nodes[1].id is 'tok'; expected another id than that of nodes[0]"),
    ("nodes[1].id", True, "nodes[1].id is True; expected a text or an integer"),
    ("nodes[1].id", [1], "nodes[1].id is a list of 1; expected a text or an integer"),
    ("nodes[1].layer", ..., "nodes[1]: a node of kind 'head' needs layer="),
    ("nodes[1].layer", "E", "nodes[1].layer is 'E'; expected an integer"),
    ("nodes[1].layer", 2**31, "nodes[1].layer is 2147483648; expected 0…9999"),
    ("nodes[1].layer", 10**400, "nodes[1].layer is an integer of more than 64 bits"),
    ("nodes[1].position", 10**7, "nodes[1].position is 10000000; expected 0…999999"),
    ("nodes[1].position", -1, "nodes[1].position is -1"),
    ("nodes[1].head", 1.0, "nodes[1].head is 1.0; expected an integer"),
    ("nodes[1].norm", "large", "nodes[1].norm is 'large'; expected a number"),
    ("nodes[1].top_tokens", [1], "nodes[1].top_tokens[0] is 1; expected a text"),
    ("nodes[2]", {"id": "f", "kind": "embed", "position": 0}, "nodes[2] is the same node as nodes[0]"),
    ("nodes[3].index", ..., "nodes[3]: a node of kind 'logit' needs index="),
    ("edges[1]", [1], "edges[1] is a list of 1; expected an object"),
    ("edges[1].source", ..., "edges[1].source is missing"),
    ("edges[1].source", "7", "edges[1].source is '7'; expected the id of a node"),
    ("edges[1].target", {}, "edges[1].target is an object of 0; expected the id of a node"),
    ("edges[1].target", True, "edges[1].target is True; expected the id of a node"),
    ("edges[1].key", 0, "edges[1] joins the same nodes as edges[0]; expected another key"),
    ("edges[1].key", 1.5, "edges[1].key is 1.5; expected a text or an integer"),
    ("edges[1].weight", ..., "edges[1].weight is missing"),
    ("edges[1].weight", "1", "edges[1].weight is '1'; expected a number"),
    ("edges[1].weight", 10**400, "edges[1].weight is an integer of more than 64 bits; expected a finite number"),
    ("edges[1].weight", float("inf"), "edges[1].weight is inf; expected a finite number"),
    ("edges[1].query_pos", "x", "edges[1].query_pos is 'x'; expected an integer"),
    ("edges[1].target", "tok", "nodes[0] lies on a cycle of edges, or after one"),
    ("edges[3].target", "tok", "nodes[0] lies on a cycle of edges, or after one"),
]  # fmt: skip


@pytest.mark.parametrize(("place", "value", "message"), WRONG)
def test_wrong_values_are_refused_by_place(place: str, value: Any, message: str) -> None:
    data = link_data()
    graph_of(copy.deepcopy(data))
    change(data, place, value)
    with pytest.raises(FileFormatError, match=re.escape(message)):
        graph_of(data)


def test_layers_of_unknown_nodes_are_all_given_or_none() -> None:
    data = {"nodes": [{"id": 0, "layer": 4}, {"id": 1}], "edges": []}
    with pytest.raises(
        FileFormatError, match=re.escape("nodes[0].layer is 4; expected no layer, as nodes[1] has none")
    ):
        graph_of(data)


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(data=st.data())
def test_a_value_replaced_by_anything_is_read_or_refused(data: st.DataObject) -> None:
    plain = data.draw(st.sampled_from([link_data, theirs]))()
    rows = [name for name, value in plain.items() if isinstance(value, list)]
    places = [*plain, *(f"{name}[{n}]" for name in rows for n in range(len(plain[name])))]
    places += [f"{name}[{n}].{field}" for name in rows for n, row in enumerate(plain[name]) for field in row]
    places += [f"{name}.{field}" for name in ("graph", "metadata") if name in plain for field in plain[name]]
    change(plain, data.draw(st.sampled_from(places)), data.draw(JUNK))
    try:
        loaded = graph_of(plain)
    except FileFormatError:
        return
    assert len(loaded.nodes) <= 8


@given(JUNK)
def test_anything_else_is_refused(junk: Any) -> None:
    with pytest.raises(FileFormatError):
        graph_of(junk)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is not JSON"),
        (b"null", "the file is null; expected an object"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"nodes": [{"id": NaN}], "edges": []}', "nodes[0].id is NaN"),
        (b'{"nodes": [{"id": 1, "note": Infinity}], "edges": []}', "nodes[0].note is Infinity"),
        (b'{"nodes": [{"id": ' + b"9" * 5000 + b'}], "edges": []}', "it is not JSON"),
        (b"\xff", "byte 0 is not UTF-8"),
    ],
)
def test_hostile_json(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "graph.json"
    path.write_bytes(content)
    with pytest.raises(FileFormatError, match=re.escape(message)) as caught:
        import_graph(path)
    assert str(path) in str(caught.value)


def test_sizes_have_limits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(imports, "MOST_EDGES", 3)
    with pytest.raises(FileFormatError, match="edges has 4 entries; at most 3 are read"):
        graph_of(link_data())
    monkeypatch.setattr(imports, "MOST_NODES", 3)
    with pytest.raises(FileFormatError, match="nodes has 4 entries; at most 3 are read"):
        graph_of(link_data())
    monkeypatch.setattr(flowgraph.files.json_file, "LARGEST_FILE", 10)
    for name in ("a.json", "a.graphml"):
        (tmp_path / name).write_bytes(b" " * 11)
        with pytest.raises(FileFormatError, match="it is larger than"):
            import_graph(tmp_path / name)


def test_files_that_are_not_there_or_have_another_name(tmp_path: Path) -> None:
    (tmp_path / "folder.json").mkdir()
    for name, message in {
        "missing.json": "is not there; name a .json file",
        "missing.graphml": "is not there; name a .graphml file",
        "folder.json": "is a folder; name a .json file",
        "graph.gexf": "graphs are read from .json and .graphml files",
    }.items():
        with pytest.raises(ArgumentError, match=message):
            import_graph(tmp_path / name)
    with pytest.raises(ArgumentError, match="is not there; name a file"):
        load_graphml(tmp_path / "missing.graphml")


# Neuronpedia


def theirs() -> dict[str, Any]:
    """A small attribution graph in the words of circuit-tracer."""
    feature = {"jsNodeId": "x", "clerp": "", "activation": 1.5, "run_idx": 0}
    return {
        "metadata": {"slug": "s", "scan": "gemma-2-2b", "prompt_tokens": ["<bos>", "The"], "prompt": "The",
                     "node_threshold": 0.8, "schema_version": 1},
        "qParams": {"pinnedIds": [], "supernodes": [], "linkType": "both", "clickedId": "", "sg_pos": ""},
        "nodes": [
            {**feature, "node_id": "E_2_1", "feature": 1, "layer": "E", "ctx_idx": 1, "feature_type": "embedding"},
            {**feature, "node_id": "0_253_1", "feature": 32638, "layer": "0", "ctx_idx": 1, "influence": 0.4,
             "feature_type": "cross layer transcoder"},
            {**feature, "node_id": "3_17_1", "feature": 9, "layer": 3, "ctx_idx": 1, "feature_type": "lorsa"},
            {**feature, "node_id": "err", "feature": -1, "layer": "3", "ctx_idx": 1,
             "feature_type": "mlp reconstruction error"},
            {**feature, "node_id": "err2", "feature": None, "layer": "3", "ctx_idx": 0, "feature_type": "lorsa error"},
            {**feature, "node_id": "27_651_1", "feature": 651, "layer": "27", "ctx_idx": 1, "feature_type": "logit",
             "clerp": 'Output " "cat"" (p=0.611)', "is_target_logit": True, "token_prob": 0.611},
            {**feature, "node_id": "27_9_1", "feature": 9, "layer": "27", "ctx_idx": 1, "feature_type": "logit",
             "clerp": "output: 'dog' (p=0.1)", "is_target_logit": False, "token_prob": 0.1},
        ],
        "links": [
            {"source": "E_2_1", "target": "0_253_1", "weight": 2.0},
            {"source": "0_253_1", "target": "27_651_1", "weight": -3.0},
            {"source": "err", "target": "27_651_1", "weight": 1.0},
            {"source": "3_17_1", "target": "27_9_1", "weight": 1.0},
        ],
    }  # fmt: skip


def test_attribution_graphs_are_read(tmp_path: Path) -> None:
    path = tmp_path / "graph.neuronpedia.json"
    path.write_text(json.dumps(theirs()))
    loaded = import_graph(path)
    assert loaded.nodes == (
        Node("embed", position=1),
        Node("feature", layer=0, index=253, position=1),
        Node("attn_feature", layer=3, index=17, position=1),
        Node("mlp_error", layer=3, position=1),
        Node("attn_error", layer=3, position=0),
        Node("logit", index=651, position=1),
        Node("logit", index=9, position=1),
    )
    assert [node.token for node in loaded.nodes[5:]] == [' "cat"', "dog"]
    assert [EDGE_KINDS[kind] for kind in loaded.kind] == ["embed", "feature", "error", "feature"]
    np.testing.assert_array_equal(loaded.share, [1, -0.75, 0.25, 1])
    info = loaded.info
    assert (info.model, info.method, info.level, info.tokens) == (
        "gemma-2-2b", "attribution graph", "feature", ("<bos>", "The"),
    )  # fmt: skip
    assert (info.target, info.target_token, info.target_probability, info.position) == (651, ' "cat"', 0.611, 1)
    assert info.layers == (0, 4)
    assert flowgraph.influence(loaded)[:2].tolist() == [0.75, 0.75]


def test_features_without_a_number_in_their_id() -> None:
    data = theirs()
    data["nodes"][1]["node_id"] = data["links"][0]["target"] = data["links"][1]["source"] = "1_253_1"
    assert graph_of(data).nodes[1] == Node("feature", layer=0, index=32638, position=1)


WRONG_ATTRIBUTION = [
    ("metadata", [], "metadata is a list of 0; expected an object"),
    ("metadata.scan", ..., "metadata.scan is missing"),
    ("metadata.prompt_tokens", "The", "metadata.prompt_tokens is 'The'; expected a list"),
    ("metadata.prompt_tokens[0]", 3, "metadata.prompt_tokens[0] is 3; expected a text"),
    ("metadata.prompt_tokens", ["The"], "nodes[0].position is 1; expected 0…0"),
    ("nodes[1].node_id", ..., "nodes[1].node_id is missing"),
    ("nodes[1].node_id", 3, "nodes[1].node_id is 3; expected a text"),
    ("nodes[1].node_id", "E_2_1", "nodes[1].id is 'E_2_1'; expected another id than that of nodes[0]"),
    ("nodes[1].feature_type", "bias", "nodes[1].feature_type is 'bias'; expected one of embedding, logit, "),
    ("nodes[1].ctx_idx", -1, "nodes[1].ctx_idx is -1"),
    ("nodes[1].layer", "E", "nodes[1].layer is 'E'; expected the number of a layer"),
    ("nodes[1].layer", None, "nodes[1].layer is null"),
    ("nodes[1].layer", "99999", "nodes[1].layer is 99999; expected 0…9999"),
    ("nodes[3].layer", ..., "nodes[3].layer is missing"),
    ("nodes[5].clerp", 3, "nodes[5].clerp is 3; expected a text"),
    ("nodes[1].activation", "strong", "nodes[1].note.activation is 'strong'; expected a number"),
    ("nodes[1].influence", 10**400, "nodes[1].note.influence is an integer of more than 64 bits; expected a finite number"),
    ("metadata.info", {"a": float("inf")}, "metadata.info.a is inf; expected a finite number"),
    ("qParams", [], "qParams is a list of 0; expected an object"),
    ("links", ..., "links is missing"),
    ("links[1].source", "nobody", "links[1].source is 'nobody'; expected the id of a node"),
    ("links[1].weight", None, "links[1].weight is null; expected a number"),
    ("links[1].weight", float("nan"), "links[1].weight is nan; expected a finite number"),
    ("links[1].target", "E_2_1", "lies on a cycle of edges"),
    ("links[1]", {"source": "E_2_1", "target": "0_253_1", "weight": 1.0}, "links[1] joins the same nodes as links[0]"),
]  # fmt: skip


@pytest.mark.parametrize(("place", "value", "message"), WRONG_ATTRIBUTION)
def test_wrong_attribution_graphs_are_refused_by_place(place: str, value: Any, message: str) -> None:
    data = theirs()
    change(data, place, value)
    with pytest.raises(FileFormatError, match=re.escape(message)):
        graph_of(data)


@pytest.mark.parametrize("name", ["token", "head", "parallel", "hostile", "logits", "semantic"])
def test_attribution_graphs_of_this_project_come_back(graph: FlowGraph) -> None:
    """Nodes and all edges with a number; what their links leave out is stated, and is nothing here."""
    loaded = graph_of(json.loads(to_neuronpedia(graph)))
    order = sorted(range(len(graph)), key=lambda e: (graph.source[e], graph.target[e]))
    again = sorted(range(len(loaded)), key=lambda e: (loaded.source[e], loaded.target[e]))
    kept = FlowGraph(**{**vars(graph), **{name: getattr(graph, name)[order].copy() for name in COLUMNS(graph)}})
    found = FlowGraph(**{**vars(loaded), **{name: getattr(loaded, name)[again].copy() for name in COLUMNS(loaded)}})
    assert same(found, kept)


def COLUMNS(graph: FlowGraph) -> tuple[str, ...]:
    columns = flowgraph.values.flow_graph.EDGE_COLUMNS
    return columns if graph.unit is None else (*columns, "unit")


def test_structural_edges_do_not_come_back_from_attribution_graphs() -> None:
    graph = token_graph(4, structural_mlp=True, layers=1)
    loaded = graph_of(json.loads(to_neuronpedia(graph)))
    assert loaded.nodes == graph.nodes
    assert sorted(loaded.weight) == sorted(graph.weight[~graph.structural])


def test_imported_graphs_can_be_shown_and_saved(tmp_path: Path) -> None:
    for data in (link_data(), theirs()):
        loaded = graph_of(data)
        assert loaded.caption()
        path = tmp_path / "graph.json"
        loaded.save(path)
        assert same(FlowGraph.load(path), loaded)


def test_a_graph_may_be_deep(tmp_path: Path) -> None:
    """A way of many edges is followed by a loop, not by calls."""
    count = 2_000
    nodes = [{"id": n} for n in range(count)]
    edges = [{"source": n, "target": n + 1, "weight": 1} for n in range(count - 1)]
    assert graph_of({"nodes": nodes, "edges": edges}).nodes[-1].layer == count - 1


def test_built_graphs_read_back(tmp_path: Path) -> None:
    graph = built([Edge(A, B, 0.5)], model="\r\n\t \x0b", tokens=("\r",))
    path = tmp_path / "a.graphml"
    path.write_text(to_graphml(graph), encoding="utf-8")
    assert same(load_graphml(path), graph)


@pytest.mark.parametrize("ending", ["json", "graphml"])
def test_a_file_of_this_project_with_a_cycle_is_refused(ending: str, tmp_path: Path) -> None:
    """Drawing and flow refuse a cycle; a file that has one says so when it is opened."""
    first, second = Node("neuron", layer=0, index=1), Node("neuron", layer=1, index=2)
    path = built([Edge(first, second, 1.0), Edge(second, first, 1.0)]).save(tmp_path / f"g.{ending}")
    for read in (FlowGraph.load, import_graph):
        with pytest.raises(FileFormatError, match="has a cycle, through L0N1"):
            read(path)
