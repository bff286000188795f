"""Graph files for other programs, each opened by a reader that this project did not write."""

from __future__ import annotations

import csv
import json
import math
import os
import re
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import networkx
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import flowgraph
from flowgraph.errors import ArgumentError, NonFiniteError
from flowgraph.files.csv_file import save_csv, to_csv, to_csv_metadata
from flowgraph.files.dot import to_dot
from flowgraph.files.gexf import to_gexf
from flowgraph.files.gml import to_gml
from flowgraph.files.graphml import to_graphml
from flowgraph.files.neuronpedia import to_neuronpedia
from flowgraph.values.flow_graph import FlowGraph
from flowgraph.values.graph_info import info_dict
from flowgraph.values.node import NODE_KINDS, Node, label
from flowgraph.values.reading import NodeReading
from tests.graphs import HOSTILE_TOKENS, Edge, dags, graph_of, logits_graph, token_graph
from tests.synthetic_graphs import HOSTILE

# The shape checks that run in tests sample lists at random, also while hypothesis draws a graph.
pytestmark = pytest.mark.filterwarnings("ignore:Do not use the `random` module")

A, B = Node("embed", position=0), Node("resid_post", layer=0, position=0)
FORMULAS = ("=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", ";=cmd|'/c calc'!A0;", "\\", '\\"', "a\\", "\\N\\\\")
WORDS = (*HOSTILE_TOKENS, *HOSTILE, *FORMULAS, "\ud83d", "&#65;", "⟨000B⟩", "(p=", "None", "1.0")


def hostile_graph() -> FlowGraph:
    """Tokens, logits and readings of everything that a format could trip over."""
    graph = token_graph(
        5, tokens=HOSTILE_TOKENS, layers=1, model='=a; "model"\n\x00', filters={"threshold": 0.01, "by": "=é"}
    )
    logits = tuple(Node("logit", index=n, position=0, token=word) for n, word in enumerate(WORDS))
    words = tuple((word, 0.5, -1.0) for word in WORDS)
    readings = (*graph.readings, *(NodeReading(norm=1e-300, top=words) for _ in logits))
    return FlowGraph(**{**vars(graph), "nodes": (*graph.nodes, *logits), "readings": readings})


GRAPHS = {
    "token": token_graph(1),
    "unread": token_graph(1, read=False),
    "head": token_graph(2, heads=2, layers=2),
    "parallel": token_graph(3, parallel=True),
    "structural": token_graph(4, structural_mlp=True),
    "hostile": hostile_graph(),
    "logits": logits_graph(6),
    "no edges": graph_of([], nodes=[A, B]),
    "empty": graph_of([]),
    "undefined": graph_of([Edge(A, B, 0.1 + 0.2), Edge(A, B, -1e-300)], undefined=(B,)),
    "large": graph_of([Edge(A, B, 1e300)], total_edges=2**40, total_share=1e300),
}
NAMES = pytest.mark.parametrize("name", [*GRAPHS, "semantic"])


@pytest.fixture(name="graph")
def any_graph(name: str, request: pytest.FixtureRequest) -> FlowGraph:
    if name != "semantic":
        return GRAPHS[name]
    trace = flowgraph.trace(request.getfixturevalue("tiny")("llama"), [20, 31, 42, 53], position=-1)
    found = flowgraph.semantic_graph(trace, sources_per_head=2, rows_per_block=3, neurons_per_block=3)
    assert len({found.unit_of(e) for e in range(len(found))}) > 2
    return found


def kept(data: dict[str, Any]) -> dict[str, Any]:
    """What a format with flat attributes keeps of plain data."""
    return {name: value for name, value in data.items() if value is not None and value != ""}


def by_number(text: str, illegal: str) -> str:
    return re.sub(illegal, lambda match: f"⟨{ord(match.group()):04X}⟩", text)


def assert_flat(read: dict[str, Any], data: dict[str, Any], illegal: str) -> None:
    """Attributes as read hold exactly the data: texts by number where illegal, lists and tables as JSON."""
    assert read.keys() == kept(data).keys()
    for name, value in kept(data).items():
        if isinstance(value, str):
            assert read[name] == by_number(value, illegal), name
        elif isinstance(value, list | dict):
            assert json.loads(read[name]) == value, name
        else:
            assert read[name] == value, name
            assert type(read[name]) is type(value), name


# GEXF

XML = "[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]"


@NAMES
def test_gexf_keeps_nodes_and_edges(graph: FlowGraph, tmp_path: Path) -> None:
    path = tmp_path / "graph.gexf"
    path.write_text(to_gexf(graph), encoding="utf-8")
    read = networkx.read_gexf(path)
    assert list(read.nodes) == [f"n{n}" for n in range(len(graph.nodes))]
    for n in range(len(graph.nodes)):
        assert_flat(read.nodes[f"n{n}"], graph.node_dict(n), XML)
    found = edges_by_id(read)
    assert sorted(found) == sorted(f"e{e}" for e in range(len(graph)))
    for e in range(len(graph)):
        source, target, data = found[f"e{e}"]
        assert (source, target) == (f"n{graph.source[e]}", f"n{graph.target[e]}")
        assert data.pop("structural") is bool(graph.structural[e])
        if graph.structural[e]:
            assert data.pop("weight") == 0
        assert_flat(data, graph.edge_dict(e), XML)


def edges_by_id(read: networkx.DiGraph) -> dict[str, tuple[str, str, dict[str, Any]]]:
    if read.is_multigraph():
        return {
            key: (s, t, {k: v for k, v in data.items() if k != "id"})
            for s, t, key, data in read.edges(keys=True, data=True)
        }
    return {data["id"]: (s, t, {k: v for k, v in data.items() if k != "id"}) for s, t, data in read.edges(data=True)}


@NAMES
def test_gexf_declares_what_it_uses_and_says_where_it_is_from(graph: FlowGraph) -> None:
    space = "{http://www.gexf.net/1.2draft}"
    root = ElementTree.fromstring(to_gexf(graph))
    assert (root.tag, root.get("version")) == (f"{space}gexf", "1.2")
    assert [child.tag.removeprefix(space) for child in root] == ["meta", "graph"]
    for owner in ("node", "edge"):
        declared = root.findall(f".//{space}attributes[@class='{owner}']/{space}attribute")
        types = {entry.get("id"): entry.get("type") for entry in declared}
        assert len(types) == len(declared)
        assert set(types.values()) <= {"long", "double", "string", "boolean"}
        used = {value.get("for") for value in root.findall(f".//{space}{owner}//{space}attvalue")}
        assert used == set(types)
    caption, _, info = str(root.findtext(f"{space}meta/{space}description")).partition("\n")
    assert caption == graph.caption()
    assert json.loads(info) == json.loads(json.dumps(info_dict(graph.info)))
    drawn = [float(element.get("value", "")) for element in root.iter("{http://www.gexf.net/1.2draft/viz}thickness")]
    np.testing.assert_allclose(drawn, 0.5 + 7.5 * np.minimum(1, np.abs(graph.share)), rtol=1e-5)
    assert root.findtext(f"{space}meta/{space}creator") == f"flowgraph {flowgraph.__version__}"


# What the schema of GEXF 1.2 allows where our files have something: element → (attributes that it needs, those it may have,
# children). Children come in any order, but for meta before graph.
GEXF = "{http://www.gexf.net/1.2draft}"
VIZ = "{http://www.gexf.net/1.2draft/viz}"
GEXF_SCHEMA: dict[str, tuple[set[str], set[str], set[str]]] = {
    f"{GEXF}gexf": ({"version"}, {"variant"}, {f"{GEXF}meta", f"{GEXF}graph"}),
    f"{GEXF}meta": (set(), {"lastmodifieddate"}, {f"{GEXF}creator", f"{GEXF}keywords", f"{GEXF}description"}),
    f"{GEXF}creator": (set(), set(), set()),
    f"{GEXF}description": (set(), set(), set()),
    f"{GEXF}graph": (
        set(),
        {"defaultedgetype", "mode", "idtype"},
        {f"{GEXF}attributes", f"{GEXF}nodes", f"{GEXF}edges"},
    ),
    f"{GEXF}attributes": ({"class"}, {"mode"}, {f"{GEXF}attribute"}),
    f"{GEXF}attribute": ({"id", "title", "type"}, set(), {f"{GEXF}default", f"{GEXF}options"}),
    f"{GEXF}nodes": (set(), {"count"}, {f"{GEXF}node"}),
    f"{GEXF}edges": (set(), {"count"}, {f"{GEXF}edge"}),
    f"{GEXF}node": (
        {"id"},
        {"label"},
        {f"{GEXF}attvalues", f"{VIZ}size", f"{VIZ}color", f"{VIZ}position", f"{VIZ}shape"},
    ),
    f"{GEXF}edge": (
        {"id", "source", "target"},
        {"label", "type", "weight"},
        {f"{GEXF}attvalues", f"{VIZ}thickness", f"{VIZ}color", f"{VIZ}shape"},
    ),
    f"{GEXF}attvalues": (set(), set(), {f"{GEXF}attvalue"}),
    f"{GEXF}attvalue": ({"for", "value"}, set(), set()),
    f"{VIZ}thickness": ({"value"}, set(), set()),
}
ENUMERATED = {
    "version": {"1.2"}, "defaultedgetype": {"directed", "undirected", "mutual"}, "mode": {"static", "dynamic"},
    "class": {"node", "edge"}, "type": {"integer", "long", "double", "float", "boolean", "liststring", "string", "anyURI"},
}  # fmt: skip
XSD_FLOAT = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
LEXICAL = {
    "long": re.compile(r"[+-]?\d+"), "double": XSD_FLOAT, "boolean": re.compile("true|false|0|1"), "string": re.compile(r"(?s).*"),
}  # fmt: skip


def assert_follows_the_schema(root: ElementTree.Element) -> None:
    assert root.tag == f"{GEXF}gexf"
    for element in root.iter():
        needed, allowed, children = GEXF_SCHEMA[element.tag]
        assert needed <= set(element.keys()) <= needed | allowed, element.tag
        assert {child.tag for child in element} <= children, element.tag
        for name in ENUMERATED.keys() & element.keys():
            assert element.get(name) in ENUMERATED[name]
        if children:
            assert not (element.text or "").strip()
    graph = root.find(f"{GEXF}graph")
    assert graph is not None
    assert [child.tag for child in root] == [f"{GEXF}meta", f"{GEXF}graph"]
    for name in ("nodes", "edges"):
        assert len(graph.findall(f"{GEXF}{name}")) == 1
    ids = [node.get("id") for node in graph.iter(f"{GEXF}node")]
    assert len(set(ids)) == len(ids)
    edges = list(graph.iter(f"{GEXF}edge"))
    assert len({edge.get("id") for edge in edges}) == len(edges)
    for edge in edges:
        assert {edge.get("source"), edge.get("target")} <= set(ids)
        assert XSD_FLOAT.fullmatch(edge.get("weight", ""))
    for width in graph.iter(f"{VIZ}thickness"):
        assert float(width.get("value", "-1")) >= 0
    for owner in ("node", "edge"):
        declared = {
            one.get("id"): str(one.get("type"))
            for one in graph.findall(f"{GEXF}attributes[@class='{owner}']/{GEXF}attribute")
        }
        for element in graph.iter(f"{GEXF}{owner}"):
            assert len(element.findall(f"{GEXF}attvalues")) == 1
            for value in element.iter(f"{GEXF}attvalue"):
                assert LEXICAL[declared[value.get("for")]].fullmatch(value.get("value", "")), value.attrib


@NAMES
def test_gexf_follows_its_schema(graph: FlowGraph) -> None:
    assert_follows_the_schema(ElementTree.fromstring(to_gexf(graph)))


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ('version="1.2"', 'version="9"'),
        (' id="n0"', ' id="n1"'),
        ('target="n', 'target="x'),
        ('type="double"', 'type="real"'),
        ('for="kind"', 'for="undeclared"'),
        ("<nodes>", "<nodes><edge/>"),
        ("</edges>", "</edges><edges></edges>"),
        ('title="', 'name="'),
        ('value="true"', 'value="True"'),
        (' weight="', ' weight="nan'),
    ],
)
def test_the_rules_of_the_schema_can_fail(right: str, wrong: str) -> None:
    text = to_gexf(token_graph(structural_mlp=True))
    assert right in text
    with pytest.raises((AssertionError, KeyError)):
        assert_follows_the_schema(ElementTree.fromstring(text.replace(right, wrong, 1)))


# GML


@NAMES
def test_gml_keeps_everything(graph: FlowGraph) -> None:
    text = to_gml(graph)
    assert text.isascii()
    read = networkx.parse_gml(text, label="id")
    assert isinstance(read, networkx.MultiDiGraph)
    assert list(read.nodes) == list(range(len(graph.nodes)))
    for n in range(len(graph.nodes)):
        data = graph.node_dict(n)
        assert re.fullmatch(re.escape(data["label"]) + r"( \(\d+\))?", read.nodes[n]["label"])
        assert_flat({**read.nodes[n], "label": data["label"]}, data, "(?!)")
    assert len(networkx.parse_gml(text)) == len(graph.nodes), "labels are unique"
    edges = {key: (s, t, data) for s, t, key, data in read.edges(keys=True, data=True)}
    for e in range(len(graph)):
        source, target, data = edges[e]
        assert (source, target) == (graph.source[e], graph.target[e])
        assert data.pop("structural", 0) == graph.structural[e]
        assert_flat(data, graph.edge_dict(e), "(?!)")
    about = {"generator": f"flowgraph {flowgraph.__version__}", "caption": graph.caption(), **info_dict(graph.info)}
    if graph.info.total_edges >= 2**31:
        about["total_edges"] = str(about["total_edges"])
    # networkx reads the text [] as a list.
    assert_flat({k: json.dumps(v) if isinstance(v, list) else v for k, v in read.graph.items()}, about, "(?!)")


@NAMES
def test_gml_opens_in_igraph(graph: FlowGraph, tmp_path: Path) -> None:
    igraph = pytest.importorskip("igraph")
    path = tmp_path / "graph.gml"
    path.write_text(to_gml(graph), encoding="ascii")
    read = igraph.Graph.Read_GML(str(path))
    assert read.is_directed()
    assert read.get_edgelist() == list(zip(graph.source.tolist(), graph.target.tolist(), strict=True))
    if len(graph) and not graph.structural.any():
        np.testing.assert_allclose(read.es["share"], graph.share, rtol=1e-12)
        assert read.vs["kind"] == [node.kind for node in graph.nodes]


# DOT

DOT = r'[\x00\n\r\ud800-\udfff]|\\(?=["\\]|\Z)'


def assert_dot(read: dict[str, str], data: dict[str, Any]) -> None:
    """The project's attributes are the data; DOT itself knows texts only."""
    expected = {name: value for name, value in kept(data).items() if name != "label"}
    assert {name for name in read if name.startswith("flow_")} == {f"flow_{name}" for name in expected}
    for name, value in expected.items():
        found = read[f"flow_{name}"]
        if isinstance(value, str):
            assert found == by_number(value, DOT)
        else:
            assert json.loads(found) == value


def unquoted(read: dict[str, str]) -> dict[str, str]:
    """In quotes, nothing but a quotation mark is escaped."""
    return {name: value[1:-1].replace('\\"', '"') if value[:1] == '"' else value for name, value in read.items()}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", ["token", "structural", "hostile", "logits", "no edges", "empty", "semantic"])
def test_dot_opens_in_pydot(graph: FlowGraph) -> None:
    pydot = pytest.importorskip("pydot")
    if len(graph) > 60:  # it reads some thirty lines a second
        some = set(range(0, len(graph), len(graph) // 50)) | set(np.flatnonzero(graph.structural)[:5].tolist())
        graph = graph.keep(sorted(some))
    (read,) = pydot.graph_from_dot_data(to_dot(graph))
    nodes = {node.get_name(): node.get_attributes() for node in read.get_nodes()}
    for n in range(len(graph.nodes)):
        assert_dot(unquoted(nodes[f"n{n}"]), graph.node_dict(n))
    edges = read.get_edges()
    assert len(edges) == len(graph)
    for e, edge in enumerate(edges):
        assert (edge.get_source(), edge.get_destination()) == (f"n{graph.source[e]}", f"n{graph.target[e]}")
        data = edge.get_attributes()
        assert_dot(unquoted(data), graph.edge_dict(e))
        assert float(data["penwidth"]) == pytest.approx(0.4 + 5.6 * min(1, abs(graph.share[e])), rel=1e-5)
        assert (data.get("style") == "dashed") is bool(graph.structural[e])
        assert (data.get("arrowhead") == "tee") is bool(graph.share[e] < 0)


@pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz is not installed")
@NAMES
def test_dot_opens_in_graphviz(graph: FlowGraph) -> None:
    done = subprocess.run(["dot", "-Tjson"], input=to_dot(graph).encode(), capture_output=True, check=True)
    assert done.stderr == b""
    # Graphviz leaves control characters as they are in its JSON.
    read = json.loads(done.stdout, strict=False)
    drawn = {entry["name"]: entry for entry in read.get("objects", []) if "nodes" not in entry}
    heights: dict[tuple[int | None, str], set[str]] = {}
    for n, node in enumerate(graph.nodes):
        shown = drawn[f"n{n}"]
        # Every node gets each attribute that any node has, empty where it has none.
        assert_dot({name: value for name, value in shown.items() if value != ""}, graph.node_dict(n))
        heights.setdefault((node.layer, node.kind), set()).add(shown["pos"].split(",")[1])
    assert all(len(found) == 1 for found in heights.values()), "one rank for each kind and layer"
    assert len(read.get("edges", [])) == len(graph)


def test_dot_labels_are_literal() -> None:
    tokens = ('\\N "&lt;" \\', "b")
    text = to_dot(graph_of([Edge(A, B, 1.0)], tokens=tokens))
    assert 'label="embed@0\\n\\\\N \\"&amp;lt;\\" \\\\"' in text


# CSV


def tables(graph: FlowGraph) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    texts = to_csv(graph)
    for text in texts:
        text.encode("utf-8")
        assert text.endswith("\r\n")
    nodes, edges = (list(csv.DictReader(text.splitlines(keepends=True), strict=True)) for text in texts)
    return nodes, edges


@NAMES
def test_csv_keeps_nodes_and_edges(graph: FlowGraph) -> None:
    nodes, edges = tables(graph)
    assert [row["id"] for row in nodes] == [f"n{n}" for n in range(len(graph.nodes))]
    for n, row in enumerate(nodes):
        for name, value in graph.node_dict(n).items():
            assert_cell(row[name], value, plain=name in ("kind", "label"))
    assert len(edges) == len(graph)
    for e, row in enumerate(edges):
        assert (row["source"], row["target"]) == (f"n{graph.source[e]}", f"n{graph.target[e]}")
        assert row["structural"] == ("true" if graph.structural[e] else "false")
        for name, value in graph.edge_dict(e).items():
            assert_cell(row[name], value, plain=name in ("kind", "unit"))
        assert json.loads(row["model"]) == graph.info.model
        assert json.loads(row["method"]) == graph.info.method_text
        assert json.loads(row["filters"]) == dict(graph.info.filters)
        assert row["generator"] == f"flowgraph {flowgraph.__version__}"


def assert_cell(cell: str, value: Any, plain: bool) -> None:
    if value is None:
        assert cell == ""
    elif plain:
        assert cell.startswith(value.partition("[")[0])
    else:
        assert json.loads(cell) == value


@NAMES
def test_csv_holds_no_formula(graph: FlowGraph) -> None:
    """Neither as one field nor where a program ends fields at semicolons, tabs or every line feed."""
    for text in to_csv(graph):
        assert all(line.isprintable() for line in text.removesuffix("\r\n").split("\r\n"))
        for row in csv.reader(text.splitlines(keepends=True)):
            for cell in row:
                assert ";" not in cell
                if cell[:1] in ("=", "+", "-", "@", "|", "%"):
                    float(cell)


def test_csv_writes_both_tables(tmp_path: Path) -> None:
    paths = save_csv(GRAPHS["token"], tmp_path / "a.b.csv")
    assert [path.name for path in paths] == ["a.b.nodes.csv", "a.b.edges.csv"]
    assert [path.read_bytes().decode() for path in paths] == list(to_csv(GRAPHS["token"]))
    save_csv(GRAPHS["logits"], tmp_path / "a.b.csv")
    assert [path.read_bytes().decode() for path in paths] == list(to_csv(GRAPHS["logits"]))
    metadata = tmp_path / "a.b.csv-metadata.json"
    assert metadata.read_text(encoding="utf-8") == to_csv_metadata(GRAPHS["logits"], "a.b")
    assert sorted(tmp_path.iterdir()) == sorted([*paths, metadata])


@NAMES
def test_csv_metadata_say_what_the_tables_do_not(graph: FlowGraph) -> None:
    """Every field of the graph's origin, and the type of every column, by which each of its fields reads back."""
    metadata = json.loads(to_csv_metadata(graph, "a b#").encode("utf-8"))
    (note,) = metadata["notes"]
    assert note == json.loads(json.dumps(kept_values(info_dict(graph.info)))) | {
        "generator": f"flowgraph {flowgraph.__version__}",
        "caption": graph.caption(),
    }
    assert [table["url"] for table in metadata["tables"]] == ["a%20b%23.nodes.csv", "a%20b%23.edges.csv"]
    for table, text, rows in zip(metadata["tables"], to_csv(graph), tables(graph), strict=True):
        columns = table["tableSchema"]["columns"]
        assert ",".join(column["name"] for column in columns) == text.partition("\r\n")[0]
        for column in columns:
            for row in rows:
                if row[column["name"]]:
                    READ[column["datatype"]](row[column["name"]])
    (first, second) = (table["tableSchema"] for table in metadata["tables"])
    assert {key["columnReference"] for key in second["foreignKeys"]} == {"source", "target"}
    assert all(
        key["reference"] == {"resource": "a%20b%23.nodes.csv", "columnReference": first["primaryKey"]}
        for key in second["foreignKeys"]
    )


READ = {"string": str, "integer": int, "double": float, "json": json.loads, "boolean": ["false", "true"].index}


def kept_values(data: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in data.items() if value is not None}


def test_csv_says_the_types_of_its_columns() -> None:
    first, second = json.loads(to_csv_metadata(GRAPHS["head"], "a"))["tables"]
    types = {
        column["name"]: column.get("datatype")
        for table in (first, second)
        for column in table["tableSchema"]["columns"]
    }
    assert {name: types[name] for name in ("id", "label", "token", "position", "weight", "structural", "filters")} == {
        "id": "string", "label": "string", "token": "json", "position": "integer", "weight": "double",
        "structural": "boolean", "filters": "json",
    }  # fmt: skip


EXISTING = pytest.mark.parametrize("existing", ["a.nodes.csv", "a.edges.csv", "a.csv-metadata.json"])


@EXISTING
def test_csv_replaces_none_unless_told(existing: str, tmp_path: Path) -> None:
    (tmp_path / existing).write_text("before")
    with pytest.raises(ArgumentError, match=rf"{re.escape(existing)}' exists; pass overwrite=True"):
        save_csv(GRAPHS["token"], tmp_path / "a.csv", overwrite=False)
    assert [entry.read_text() for entry in tmp_path.iterdir()] == ["before"]


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("before", [b"before", None])
@pytest.mark.parametrize(
    ("failing", "earlier"), [("a.edges.csv", ["a.nodes.csv"]), ("a.csv-metadata.json", ["a.nodes.csv", "a.edges.csv"])]
)
def test_csv_writes_all_or_none(
    failing: str, earlier: list[str], before: bytes | None, links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One file fails after those before it were written."""
    (tmp_path / failing).mkdir()
    for name in earlier:
        if before is not None:
            (tmp_path / name).write_bytes(before)
    if not links:
        monkeypatch.setattr(os, "link", no_links)
    with pytest.raises(ArgumentError, match=rf"{re.escape(failing)}' is a folder"):
        save_csv(GRAPHS["token"], tmp_path / "a.csv")
    assert {entry.name for entry in tmp_path.iterdir()} == {failing, *(() if before is None else earlier)}
    assert before is None or all((tmp_path / name).read_bytes() == before for name in earlier)


def no_links(*_: object) -> None:
    raise OSError("no such thing here")


def test_csv_says_what_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="is not a folder"):
        save_csv(GRAPHS["token"], tmp_path / "missing" / "a.csv")


# Neuronpedia

TEXT, NUMBER = {"type": "string"}, {"type": "number"}
SCHEMA = {
    "type": "object",
    "required": ["metadata", "qParams", "nodes", "links"],
    "properties": {
        "metadata": {
            "type": "object",
            "required": ["slug", "scan", "prompt_tokens", "prompt"],
            "properties": {
                "slug": {"type": "string", "pattern": "^[a-z0-9]+(-[a-z0-9]+)*$"},
                "scan": TEXT,
                "prompt_tokens": {"type": "array", "items": TEXT},
                "prompt": TEXT,
                "transcoder_list": {"type": "array", "items": TEXT},
                "node_threshold": NUMBER,
            },
            "not": {"anyOf": [{"required": ["schema_version"]}, {"required": ["feature_details"]}]},
        },
        "qParams": {
            "type": "object",
            "required": ["pinnedIds", "supernodes", "linkType", "clickedId", "sg_pos"],
            "properties": {
                "pinnedIds": {"type": "array", "items": TEXT},
                "supernodes": {"type": "array", "items": {"type": "array", "items": TEXT, "minItems": 2}},
                "linkType": TEXT,
                "clickedId": TEXT,
                "sg_pos": TEXT,
            },
        },
        "nodes": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": [
                    "node_id", "feature", "layer", "ctx_idx", "feature_type", "jsNodeId", "clerp", "influence",
                    "activation", "is_target_logit",
                ],
                "properties": {
                    "node_id": TEXT,
                    "feature": {"type": "integer"},
                    "layer": {"type": "string", "pattern": "^(E|[1-9][0-9]*)$"},
                    "ctx_idx": {"type": "integer", "minimum": 0},
                    "feature_type": {
                        "enum": [
                            "cross layer transcoder", "lorsa", "lorsa error", "mlp reconstruction error", "embedding",
                            "logit",
                        ]
                    },
                    "jsNodeId": TEXT,
                    "clerp": TEXT,
                    "influence": {"type": ["number", "null"], "minimum": 0, "maximum": 1},
                    "activation": {"type": ["number", "null"]},
                    "token_prob": {"type": "number", "minimum": 0, "maximum": 1},
                    "is_target_logit": {"type": "boolean"},
                },
            },
        },
        "links": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["source", "target", "weight"],
                "properties": {"source": TEXT, "target": TEXT, "weight": {"type": "number", "not": {"const": 0}}},
            },
        },
    },
}  # fmt: skip


def neuronpedia(graph: FlowGraph) -> dict[str, Any]:
    text = to_neuronpedia(graph)
    text.encode("utf-8")
    data: dict[str, Any] = json.loads(text, parse_constant=pytest.fail)
    return data


WITH_LAYERS = pytest.mark.parametrize("name", [*(name for name in GRAPHS if name != "empty"), "semantic"])


@WITH_LAYERS
def test_neuronpedia_has_the_shape_of_theirs(graph: FlowGraph) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    data = neuronpedia(graph)
    jsonschema.validate(data, SCHEMA)
    ids = [node["node_id"] for node in data["nodes"]]
    assert len(set(ids)) == len(ids) == len(graph.nodes)
    assert {end for link in data["links"] for end in (link["source"], link["target"])} <= set(ids)
    assert len({(link["source"], link["target"]) for link in data["links"]}) == len(data["links"])
    # What their page finds a node by when it is pointed at.
    assert len({(node["layer"], node["feature"], node["ctx_idx"]) for node in data["nodes"]}) == len(ids)
    assert data["metadata"]["prompt_tokens"] == list(graph.info.tokens)


@WITH_LAYERS
def test_neuronpedia_draws_it(graph: FlowGraph) -> None:
    """What their page computes while it opens a graph, in its own steps."""
    data = neuronpedia(graph)
    numbers = [int(node["layer"]) for node in data["nodes"] if node["layer"] != "E" and node["feature_type"] != "logit"]
    assert max(numbers) > 0, "or it says: No layer found"
    logits = [node for node in data["nodes"] if node["feature_type"] == "logit"]
    assert {int(node["layer"]) for node in logits} <= {max(numbers) + 1}
    for node in logits:
        token, probability = node["clerp"].split('"')[1], node["clerp"].split("(p=")[1].split(")")[0]
        own = graph.nodes[node["feature"]]
        assert own.kind == "logit"
        if re.fullmatch(r"[ !#-'*-~]+", own.token or ""):
            assert token == own.token
        if own.index == graph.info.target and graph.info.target_probability is not None:
            assert node["is_target_logit"]
            assert float(probability) == pytest.approx(graph.info.target_probability, abs=5e-4)
            assert node["token_prob"] == graph.info.target_probability
        else:
            assert probability == "?"
            assert "token_prob" not in node


@WITH_LAYERS
def test_neuronpedia_links_are_sums_of_edges(graph: FlowGraph) -> None:
    data = neuronpedia(graph)
    place = {node["node_id"]: n for n, node in enumerate(data["nodes"])}
    numbers = graph.weight if graph.unit is None else graph.share
    sums: dict[tuple[int, int], list[float]] = {}
    for e in range(len(graph)):
        sums.setdefault((int(graph.source[e]), int(graph.target[e])), []).append(float(numbers[e]))
    expected = {ends: math.fsum(values) for ends, values in sums.items() if math.fsum(values)}
    assert {(place[link["source"]], place[link["target"]]): link["weight"] for link in data["links"]} == expected
    for link in data["links"]:
        assert all(edge["kind"] in flowgraph.values.flow_graph.EDGE_KINDS for edge in link["flowgraph"])


KINDS = {
    "embed": "embedding", "logit": "logit", "head": "lorsa", "mlp": "cross layer transcoder",
    "neuron": "cross layer transcoder", "resid_post": "cross layer transcoder", "mlp_rest": "mlp reconstruction error",
    "mlp_bias": "mlp reconstruction error", "attn_rest": "lorsa error", "head_rest": "lorsa error",
}  # fmt: skip


@pytest.mark.parametrize("kind", NODE_KINDS)
def test_neuronpedia_kinds_and_layers(kind: str) -> None:
    node = Node(kind, layer=2, head=1, position=3, index=4)  # type: ignore[arg-type]
    data = neuronpedia(graph_of([], nodes=[B, node]))["nodes"][1]
    assert data["feature_type"] == KINDS.get(kind, data["feature_type"])
    assert data["layer"] == ("E" if kind in ("embed", "position_embed") else "2" if kind == "logit" else "3")
    assert data["flowgraph"]["kind"] == kind


def test_neuronpedia_influence_is_cumulative() -> None:
    """Of influence 0.5, 0.3, 0.2 on the logit, and 0.5 over the first two: the smallest number is the strongest node."""
    logit, first, second, third, below = (
        Node("logit", index=1), *(Node("mlp", layer=n, position=0) for n in (3, 2, 1)), Node("embed", position=0),
    )  # fmt: skip
    edges = [Edge(first, logit, 0.5), Edge(second, logit, -0.3), Edge(third, logit, 0.2), Edge(below, third, 1.0)]
    graph = graph_of(edges, nodes=[logit, third, second, first, below, Node("mlp", layer=9)])
    found = [node["influence"] for node in neuronpedia(graph)["nodes"]]
    assert found[0] is None
    # third and below both have 0.2; the one that comes first in the graph is counted first.
    np.testing.assert_allclose(found[1:], [1.0 / 1.2, 0.8 / 1.2, 0.5 / 1.2, 1.0, 1.0])
    assert neuronpedia(graph)["metadata"]["node_threshold"] == 1.0


@given(graph=dags(normalised=True))
def test_neuronpedia_influence_ranks_nodes(graph: FlowGraph) -> None:
    start = max(range(len(graph.nodes)), key=lambda n: graph.nodes[n].layer)
    assume(start in graph.target)  # a topmost node that nothing enters explains nothing
    graph = FlowGraph(**{**vars(graph), "nodes": tuple(
        Node("resid_post", layer=node.layer, position=7 if n == start else 0) for n, node in enumerate(graph.nodes)
    )})  # fmt: skip
    plain = flowgraph.influence(graph)
    found = [node["influence"] for node in neuronpedia(graph)["nodes"]]
    others = [n for n in range(len(found)) if n != start]
    if not any(plain[n] for n in others):
        assert set(found) == {None}
        return
    assert found[start] == 0
    for one, other in pairwise(sorted(others, key=lambda n: (found[n], -plain[n]))):
        assert plain[one] >= plain[other]
    for n in others:
        stronger = sum(plain[m] for m in others if plain[m] > plain[n]) / sum(plain[m] for m in others)
        as_strong = sum(plain[m] for m in others if plain[m] >= plain[n]) / sum(plain[m] for m in others)
        assert stronger - 1e-9 <= found[n] <= as_strong + 1e-9


def test_neuronpedia_without_one_end_has_no_influence() -> None:
    two = [Edge(B, Node("logit", index=n), 1.0) for n in (1, 2)]
    cycle = [Edge(B, Node("mlp", layer=0), 1.0), Edge(Node("mlp", layer=0), B, 1.0)]
    for edges in (two, cycle):
        data = neuronpedia(graph_of(edges))
        assert {node["influence"] for node in data["nodes"]} == {None}
        assert "node_threshold" not in data["metadata"]


@pytest.mark.parametrize("edges", [[], [Edge(A, Node("logit", index=1), 1.0)]])
def test_neuronpedia_needs_a_layer(edges: list[Edge]) -> None:
    with pytest.raises(ArgumentError, match="no node but embeddings and logits"):
        to_neuronpedia(graph_of(edges))


# All of them


@given(graph=dags(), text=st.text(), number=st.floats(allow_nan=False, allow_infinity=False))
def test_any_graph_opens_everywhere(graph: FlowGraph, text: str, number: float) -> None:
    reading = NodeReading(norm=number, top=((text, number, -0.0),), target_rank=3)
    logit = Node("logit", index=4, position=0, token=text)
    info = flowgraph.GraphInfo(**{**info_dict(graph.info), "tokens": (text,), "model": text, "layers": (0, 9)})
    readings = (*[reading] * len(graph.nodes), None)
    graph = FlowGraph(**{**vars(graph), "nodes": (*graph.nodes, logit), "readings": readings, "info": info})
    ends = sorted(zip(graph.source.tolist(), graph.target.tolist(), strict=True))
    gexf = ElementTree.fromstring(to_gexf(graph))
    assert sum(element.tag.endswith("}edge") for element in gexf.iter()) == len(graph)
    gml = networkx.parse_gml(to_gml(graph), label="id")
    assert sorted(gml.edges()) == ends
    assert [gml.nodes[n]["norm"] for n in range(len(graph.nodes) - 1)] == [number] * (len(graph.nodes) - 1)
    if text not in ("", "[]", "()"):
        assert gml.nodes[len(graph.nodes) - 1]["token"] == text
    nodes, edges = tables(graph)
    assert sorted((int(row["source"][1:]), int(row["target"][1:])) for row in edges) == ends
    assert [json.loads(row["token"]) for row in nodes if row["token"]] == [text]
    assert neuronpedia(graph)["metadata"]["prompt"] == text


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("write", [to_gexf, to_gml, to_dot, to_csv, to_graphml, to_neuronpedia])
def test_numbers_that_are_none_are_refused(write: Any, bad: float) -> None:
    graph = graph_of([Edge(A, B, 1.0)])
    with pytest.raises(NonFiniteError, match=r"nodes\[1\]"):
        write(graph.with_readings([None, NodeReading(norm=bad)]))
    with pytest.raises(NonFiniteError, match=r"nodes\[1\]"):
        write(graph.with_readings([None, NodeReading(norm=1.0, top=((" a", 0.5, bad),))]))
    with pytest.raises(NonFiniteError, match="graph"):
        write(graph_of([Edge(A, B, 1.0)], filters={"threshold": bad}))


@pytest.mark.parametrize("write", [to_gexf, to_gml, to_dot, to_csv, to_graphml, to_neuronpedia])
def test_numpy_numbers_are_written(write: Any) -> None:
    filters: Any = {}
    graph = graph_of([Edge(A, B, 1.0)], filters=filters)
    filters.update(threshold=np.float32(0.5), top_k=np.int64(3))
    assert "0.5" in "".join(write(graph))
    assert "float32" not in "".join(write(graph))


@pytest.mark.parametrize("write", [to_gexf, to_gml, to_dot, to_csv, to_neuronpedia])
def test_the_same_graph_makes_the_same_file(write: Any) -> None:
    assert write(token_graph(1)) == write(token_graph(1))


def test_labels_stay_labels() -> None:
    """The label of a node is that of the one grammar, in every format that shows one."""
    graph = GRAPHS["head"]
    gexf = ElementTree.fromstring(to_gexf(graph))
    shown = [element.get("label") for element in gexf.iter() if element.tag.endswith("}node")]
    assert shown == [label(node) for node in graph.nodes]
    assert [row["label"] for row in tables(graph)[0]] == shown
