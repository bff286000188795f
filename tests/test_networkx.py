"""Graphs in networkx: what its writers take, and what comes back."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import networkx
import numpy as np
import pytest

from flowgraph.errors import ArgumentError, FileFormatError
from flowgraph.files import import_graph
from flowgraph.files.imports import graph_of
from flowgraph.values.flow_graph import FlowGraph
from flowgraph.values.node import Node
from tests.attribution_graphs import attribution_graph
from tests.graphs import HOSTILE_TOKENS, Edge, logits_graph, same, token_graph
from tests.graphs import graph_of as built


@cache
def graphs() -> dict[str, FlowGraph]:
    """Graphs of all sorts: read, with parallel edges, without edges, with hostile tokens, of features."""
    parallel = built(
        [Edge(Node("embed", position=0), Node("head", layer=0, head=1, position=1), s) for s in (0.5, -0.2, None)]
    )
    tokens = token_graph(tokens=HOSTILE_TOKENS, structural_mlp=True)
    return {
        "token": token_graph(),
        "undefined": built([Edge(Node("embed", position=0), Node("resid_post", layer=1), 0.5)], undefined=(Node("resid_post", layer=1),)),
        "logits": logits_graph(),
        "hostile": tokens,
        "parallel": parallel,
        "single": built([], nodes=[Node("embed", position=1)]),
        "features": graph_of(attribution_graph()),
    }  # fmt: skip


NAMES = tuple(graphs())


@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_a_graph_comes_back(name: str, plain: bool) -> None:
    graph = graphs()[name]
    assert same(FlowGraph.from_networkx(graph.to_networkx(plain=plain)), graph)


@pytest.mark.parametrize("name", NAMES)
def test_values_of_a_plain_graph_are_texts_and_numbers(name: str) -> None:
    plain = graphs()[name].to_networkx(plain=True)
    rows = [plain.graph, *(row for _, row in plain.nodes(data=True)), *(row for *_, row in plain.edges(data=True))]
    assert {type(value) for row in rows for value in row.values()} <= {str, int, float, bool}
    assert all(isinstance(key, str) for key in plain)


def written(graph: Any, folder: Path) -> dict[str, Callable[[], Any]]:
    """Everything that networkx writes, and what it reads of it."""
    return {
        "graphml": lambda: (networkx.write_graphml(graph, folder / "g.graphml"), networkx.read_graphml(folder / "g.graphml"))[1],
        "gexf": lambda: (networkx.write_gexf(graph, folder / "g.gexf"), networkx.read_gexf(folder / "g.gexf"))[1],
        "gml": lambda: (networkx.write_gml(graph, folder / "g.gml"), networkx.read_gml(folder / "g.gml"))[1],
        "pajek": lambda: (networkx.write_pajek(graph, folder / "g.net"), networkx.read_pajek(folder / "g.net"))[1],
        "adjacency list": lambda: (networkx.write_multiline_adjlist(graph, folder / "g.txt"), graph)[1],
        "node-link": lambda: networkx.node_link_graph(_json(networkx.node_link_data(graph, edges="edges")), edges="edges"),
        "cytoscape": lambda: networkx.cytoscape_graph(_json(networkx.cytoscape_data(graph))),
        "adjacency": lambda: networkx.adjacency_graph(_json(networkx.adjacency_data(graph))),
    }  # fmt: skip


def _json(data: Any) -> Any:
    return json.loads(json.dumps(data))


@pytest.mark.parametrize("format", list(written(None, Path())))
@pytest.mark.parametrize("name", NAMES)
def test_networkx_writes_plain_graphs(name: str, format: str, tmp_path: Path) -> None:
    graph = graphs()[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pajek says of each number that it is no text
        plain = graph.to_networkx(plain=True)
        if (name, format) == ("hostile", "pajek"):  # a line feed in a token ends a line of Pajek's
            networkx.write_pajek(plain, tmp_path / "g.net")
            return
        found = written(plain, tmp_path)[format]()
    assert len(found) == len(graph.nodes)
    assert found.number_of_edges() == len(graph)


@pytest.mark.parametrize("name", NAMES)
def test_pydot_writes_plain_graphs(name: str, tmp_path: Path) -> None:
    pytest.importorskip("pydot")
    networkx.nx_pydot.write_dot(graphs()[name].to_networkx(plain=True), tmp_path / "g.dot")
    assert (tmp_path / "g.dot").read_text(encoding="utf-8", errors="surrogateescape").startswith("digraph")


@pytest.mark.parametrize("format", ["graphml", "node-link", "cytoscape", "adjacency"])
@pytest.mark.parametrize("name", NAMES)
def test_what_networkx_wrote_and_read_is_the_same_graph(name: str, format: str, tmp_path: Path) -> None:
    graph = graphs()[name]
    assert same(FlowGraph.from_networkx(written(graph.to_networkx(plain=True), tmp_path)[format]()), graph)


@pytest.mark.parametrize("format", ["graphml", "node-link", "cytoscape", "adjacency"])
@pytest.mark.parametrize("name", NAMES)
def test_files_of_networkx_are_imported(name: str, format: str, tmp_path: Path) -> None:
    graph = graphs()[name]
    plain = graph.to_networkx(plain=True)
    path = tmp_path / ("g.graphml" if format == "graphml" else "g.json")
    if format == "graphml":
        networkx.write_graphml(plain, path)
    else:
        data = {
            "node-link": lambda g: networkx.node_link_data(g, edges="links"),
            "cytoscape": networkx.cytoscape_data,
            "adjacency": networkx.adjacency_data,
        }
        path.write_text(json.dumps(data[format](plain)))
    assert same(import_graph(path), graph)


def test_a_graph_of_another_program_is_read() -> None:
    given = networkx.DiGraph([("a", "b", {"weight": 1.0}), ("b", "c", {"weight": -3.0}), ("a", "c", {"weight": 1.0})])
    graph = FlowGraph.from_networkx(given)
    assert [node.token for node in graph.nodes] == ["a", "b", "c"]
    assert graph.share.tolist() == [1.0, 0.25, -0.75]
    nodes = networkx.MultiDiGraph()
    nodes.add_edge(Node("embed", position=0), Node("logit", index=3, token=" x"), weight=2.0)
    graph = FlowGraph.from_networkx(nodes)
    assert (graph.nodes, graph.nodes[1].token) == ((Node("embed", position=0), Node("logit", index=3)), " x")


@pytest.mark.parametrize("weight", [np.float64(0.25), np.float32(0.25), np.int64(2)])
def test_values_of_numpy_are_read(weight: Any) -> None:
    given = networkx.DiGraph(name=np.str_("mine"), total_layers=np.int64(3))
    given.add_node(np.int64(7), kind=np.str_("head"), layer=np.int64(0), head=np.int32(1))
    given.add_node("b", kind="mlp", layer=np.int64(1), known=np.bool_(True))
    given.add_edge(np.int64(7), "b", weight=weight)
    graph = FlowGraph.from_networkx(given)
    assert (graph.info.model, graph.info.total_layers) == ("mine", 3)
    assert graph.nodes == (Node("head", layer=0, head=1), Node("mlp", layer=1))
    assert graph.weight.tolist() == [float(weight)]


def test_a_cut_plain_graph_is_still_read() -> None:
    graph = token_graph()
    plain = graph.to_networkx(plain=True)
    plain.remove_node("n5")
    left = FlowGraph.from_networkx(plain)
    assert left.nodes == tuple(node for n, node in enumerate(graph.nodes) if n != 5)
    assert left.info.tokens == graph.info.tokens


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"a": 1}, "graph is a dict; expected a networkx.MultiDiGraph"),
        (networkx.Graph([(1, 2)]), "graph is undirected"),
        (networkx.DiGraph([(1, 2)]), r"edges\[0\].weight is missing"),
        (networkx.DiGraph([(1, 2, {"weight": 1}), (2, 1, {"weight": 1})]), "lies on a cycle"),
        (networkx.DiGraph([((1, 2), 2, {"weight": 1})]), r"nodes\[0\].id is"),
        (networkx.DiGraph([(1, 2, {"weight": float("nan")})]), r"edges\[0\].weight is nan; expected a finite number"),
    ],
)
def test_other_graphs_are_refused_with_their_place(given: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        FlowGraph.from_networkx(given)


@pytest.mark.parametrize("place", ["id", "source", "target", "key"])
@pytest.mark.parametrize("value", [None, 3, [1], {"a": 1}, "n99"])
def test_changed_plain_data_is_read_or_refused(place: str, value: Any) -> None:
    data = _json(networkx.node_link_data(token_graph(layers=1).to_networkx(plain=True), edges="edges"))
    rows = data["nodes" if place == "id" else "edges"]
    rows[1][place] = value
    if place == "key" and not isinstance(value, (list, dict)):
        assert len(graph_of(data)) == len(rows)  # a key tells parallel edges apart, and says nothing else
    else:
        with pytest.raises(FileFormatError):
            graph_of(data)


@pytest.mark.parametrize("data", [{"elements": []}, {"elements": {"nodes": [1], "edges": []}}, {"adjacency": [], "nodes": [{}]},
                                  {"adjacency": [[1]], "nodes": [{"id": 0}]}, {"elements": {"nodes": [], "edges": []}, "data": [[1]]}])  # fmt: skip
def test_damaged_cytoscape_and_adjacency_data_are_refused(data: Any) -> None:
    with pytest.raises(FileFormatError):
        graph_of(data)


def test_graphml_with_a_nested_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "g.graphml"
    for text in (
        '<graphml><key id="a" for="node"><key id="b"><default>1</default></key><default>2</default></key>'
        '<graph><node id="n"><data key="a">1</data></node></graph></graphml>',
        '<graphml><key id="a"><data key="zz"/><default>1</default></key><graph/></graphml>',
        '<graphml><graph><key id="a"/><node id="n"><data key="a">1</data></node></graph></graphml>',
    ):
        path.write_text(text)
        with pytest.raises(FileFormatError, match=r"there is a <(key|data)> in"):
            import_graph(path)
