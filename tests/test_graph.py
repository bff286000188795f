import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import networkx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowgraph.errors import ArgumentError
from flowgraph.values.flow_graph import EDGE_COLUMNS, EDGE_KINDS, UNITS, FlowGraph
from flowgraph.values.graph_info import info_dict
from flowgraph.values.node import NODE_KINDS, WITH_HEAD, WITH_INDEX, WITHOUT_LAYER, Node, label
from flowgraph.values.reading import NodeReading
from tests.graphs import HOSTILE_TOKENS, Edge, dags, graph_of, logits_graph, nodes, same, token_graph

# The shape checks that run in tests sample lists at random, also while hypothesis draws a graph.
pytestmark = pytest.mark.filterwarnings("ignore:Do not use the `random` module")


A, B = Node("embed", position=3), Node("resid_post", layer=0, position=3)
GRAPHS = [token_graph(1), token_graph(2, heads=2, layers=2), token_graph(3, parallel=True), logits_graph(4)]


def built(kind: type, values: dict[str, Any]) -> Any:
    """Construct a dataclass by its own checks alone, without the type checks that tests put before them."""
    made = object.__new__(kind)
    for item in fields(kind):
        object.__setattr__(made, item.name, values.get(item.name, item.default))
    made.__post_init__()
    return made


def two_edges(**changes: Any) -> FlowGraph:
    graph = graph_of([Edge(A, B, 0.25, "attention"), Edge(A, B, 0.75, "residual")])
    return FlowGraph(**{**vars(graph), **changes})


# Node and label


@pytest.mark.parametrize(
    ("node", "text"),
    [
        (Node("embed", position=3), "embed@3"),
        (Node("embed"), "embed"),
        (Node("position_embed", position=0), "position_embed@0"),
        (Node("attn", layer=3, position=5), "L3.attn@5"),
        (Node("head", layer=3, head=7, position=5), "L3H7@5"),
        (Node("head", layer=3, head=4), "L3H4"),
        (Node("kv_group", layer=3, head=1), "L3KV1"),
        (Node("mlp", layer=3, position=5), "L3.mlp@5"),
        (Node("resid_mid", layer=0, position=0), "L0.resid_mid@0"),
        (Node("neuron", layer=3, index=1460, position=5), "L3N1460@5"),
        (Node("mlp_bias", layer=2), "L2.mlp_bias"),
        (Node("unembed_bias"), "unembed_bias"),
        (Node("logit", index=17, token=" Tokyo"), "logit[ Tokyo]"),
        (Node("logit", index=17), "logit[17]"),
    ],
)
def test_label_grammar(node: Node, text: str) -> None:
    assert label(node) == str(node) == text


def is_promised(node: Node) -> bool:
    """Whether the label writes the whole identity: every field that the kind has, and no other."""
    allowed = {
        "layer": node.kind not in WITHOUT_LAYER, "head": node.kind in WITH_HEAD, "index": node.kind in WITH_INDEX,
    }  # fmt: skip
    return all(getattr(node, name) is None or has for name, has in allowed.items())


@given(st.lists(nodes(), unique=True, max_size=30))
def test_labels_of_distinct_nodes_are_distinct(drawn: list[Node]) -> None:
    assert all(is_promised(node) for node in drawn)
    assert len({label(node) for node in drawn}) == len(drawn)


@pytest.mark.parametrize("graph", GRAPHS)
def test_labels_of_a_graph_are_distinct(graph: FlowGraph) -> None:
    assert len({label(node) for node in graph.nodes}) == len(graph.nodes)


def test_token_is_no_part_of_a_nodes_identity() -> None:
    one, other = Node("logit", index=17, token=" Tokyo"), Node("logit", index=17)
    assert one == other
    assert hash(one) == hash(other)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "residual"}, "kind='residual' is not a kind of node; expected one of embed, "),
        ({"kind": "head", "layer": 1}, "a node of kind 'head' needs head="),
        ({"kind": "mlp"}, "a node of kind 'mlp' needs layer="),
        ({"kind": "neuron", "layer": 1}, "needs index="),
        ({"kind": "logit"}, "needs index="),
        ({"kind": "embed", "position": -1}, "position=-1 of a 'embed' node must be 0 or more"),
    ],
)
def test_impossible_nodes(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        built(Node, values)


def test_every_kind_can_be_made_and_labelled() -> None:
    made = [Node(kind, layer=1, head=2, position=3, index=4) for kind in NODE_KINDS]
    assert len({label(node) for node in made}) == len(NODE_KINDS)


# FlowGraph: invariants


@pytest.mark.parametrize("name", [name for name in EDGE_COLUMNS if name != "source"])
def test_columns_have_one_length(name: str) -> None:
    short = getattr(two_edges(), name)[:1].copy()
    with pytest.raises(ArgumentError, match=rf"FlowGraph.{name} has shape \(1,\); source has \(2,\)"):
        built(FlowGraph, {**vars(two_edges()), name: short})


@pytest.mark.parametrize("name", EDGE_COLUMNS)
def test_columns_are_frozen(name: str) -> None:
    with pytest.raises(ValueError, match="read-only"):
        getattr(two_edges(), name)[0] = 1


@pytest.mark.parametrize("bad", [-1, 2])
@pytest.mark.parametrize("name", ["source", "target"])
def test_edges_point_at_nodes(name: str, bad: int) -> None:
    with pytest.raises(ArgumentError, match=rf"FlowGraph.{name} must lie in 0…1"):
        two_edges(**{name: np.array([0, bad])})


def test_kinds_are_known() -> None:
    with pytest.raises(ArgumentError, match=rf"FlowGraph.kind must lie in 0…{len(EDGE_KINDS) - 1}"):
        two_edges(kind=np.array([0, len(EDGE_KINDS)]))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["weight", "share"])
def test_numbers_are_finite(name: str, bad: float) -> None:
    with pytest.raises(ArgumentError, match=rf"FlowGraph.{name} holds numbers that are not finite"):
        two_edges(**{name: np.array([0.5, bad])})


def test_nodes_are_distinct_and_readings_match_them() -> None:
    with pytest.raises(ArgumentError, match="the same node twice"):
        two_edges(nodes=(A, B, A))
    with pytest.raises(ArgumentError, match="readings has 1 rows for 2 nodes"):
        two_edges(readings=(None,))


def test_an_empty_graph_is_a_graph() -> None:
    empty = graph_of([])
    assert (len(empty), empty.shown_share, len(empty.to_networkx())) == (0, 0.0, 0)
    assert repr(empty) == "FlowGraph('norms', level='token', 0 nodes, 0 edges, 0 % of the mass)"


# keep


@given(dags(), st.data())
def test_keep_takes_edges_and_the_nodes_they_touch(graph: FlowGraph, data: st.DataObject) -> None:
    graph = graph.with_readings([NodeReading(norm=float(n)) for n in range(len(graph.nodes))])
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=len(graph), max_size=len(graph))), dtype=bool)
    kept = graph.keep(mask, threshold=0.1)
    assert described(kept) == [edge for edge, wanted in zip(described(graph), mask, strict=True) if wanted]
    assert set(kept.nodes) == {node for source, target, *_ in described(kept) for node in (source, target)}
    assert [r.norm for r in kept.readings if r] == [float(graph.nodes.index(node)) for node in kept.nodes]
    assert kept.info.filters == {"threshold": 0.1}
    assert kept.shown_share <= graph.shown_share == pytest.approx(1.0 if graph.info.total_share else 0.0)
    by_index = graph.keep(np.flatnonzero(mask), threshold=0.1)
    assert same(kept, by_index)


def described(graph: FlowGraph) -> list[tuple[Any, ...]]:
    others = [getattr(graph, name).tolist() for name in EDGE_COLUMNS[2:]]
    sources, targets = ([graph.nodes[n] for n in column] for column in (graph.source, graph.target))
    return list(zip(sources, targets, *others, strict=True))


def test_keep_adds_filters_in_order_and_leaves_the_graph_alone() -> None:
    graph = two_edges(undefined=(A, B))
    once = graph.keep(np.array([True, False]), threshold=0.2)
    twice = once.keep(np.array([0]), top_k=1)
    assert list(twice.info.filters.items()) == [("threshold", 0.2), ("top_k", 1)]
    assert (graph.info.filters, len(graph)) == ({}, 2)
    assert twice.undefined == (A, B)
    nothing = graph.keep(np.zeros(2, dtype=bool))
    assert (nothing.nodes, nothing.undefined, len(nothing)) == ((), (), 0)


def test_keep_order_of_indices() -> None:
    graph = token_graph(1)
    chosen = np.array([7, 2, 30])
    assert described(graph.keep(chosen)) == [described(graph)[e] for e in chosen]


def test_shown_share_is_the_part_that_is_left() -> None:
    graph = two_edges()
    assert graph.keep(np.array([False, True])).shown_share == pytest.approx(0.75)
    assert "1 edges, 75 % of the mass" in repr(graph.keep(np.array([1])))


# Plain data and networkx


@pytest.mark.parametrize("graph", GRAPHS)
def test_to_networkx_has_node_keys_and_all_edges(graph: FlowGraph) -> None:
    read = graph.to_networkx()
    assert isinstance(read, networkx.MultiDiGraph)
    assert tuple(read.nodes) == graph.nodes
    assert read.number_of_edges() == len(graph)
    assert networkx.is_directed_acyclic_graph(read)
    shares = sorted(data["share"] for *_, data in read.edges(data=True))
    assert shares == sorted(graph.share.tolist())
    assert read.graph["method"] == graph.info.method
    assert read.graph["tokens"] == list(graph.info.tokens)


def test_self_attention_and_residual_are_two_edges() -> None:
    read = token_graph(1).to_networkx()
    source, target = Node("embed", position=3), Node("resid_mid", layer=0, position=3)
    between = read.get_edge_data(source, target)
    assert [data["kind"] for data in between.values()] == ["attention", "residual"]
    assert {name: between[0][name] for name in ("layer", "head", "query_pos", "key_pos", "unit")} == {
        "layer": 0, "head": None, "query_pos": 3, "key_pos": 3, "unit": "norm",
    }  # fmt: skip


def test_structural_edges_have_no_numbers() -> None:
    graph = token_graph(1, structural_mlp=True)
    numbers = {(d["kind"] in ("mlp", "mlp_in"), d["weight"] is None, d["share"] is None)
               for *_, d in graph.to_networkx().edges(data=True)}  # fmt: skip
    assert numbers == {(True, True, True), (False, False, False)}


def test_nodes_carry_their_readings() -> None:
    reading = NodeReading(norm=2.5, top=((" a", 0.5, 1.0), (" b", 0.25, 0.5)), target_rank=3)
    read = two_edges().with_readings([reading, None]).to_networkx()
    assert read.nodes[A] == {
        "kind": "embed", "layer": None, "head": None, "position": 3, "index": None, "label": "embed@3",
        "token": " Japan", "norm": 2.5, "top_tokens": [" a", " b"], "top_probabilities": [0.5, 0.25],
        "top_logits": [1.0, 0.5], "target_rank": 3,
    }  # fmt: skip
    assert "norm" not in read.nodes[B]


def test_plain_data_is_json() -> None:
    graph = token_graph(1, tokens=HOSTILE_TOKENS, layers=1)
    rows: list[Callable[[int], dict[str, Any]]] = [graph.node_dict, graph.edge_dict]
    for row, count in zip(rows, (len(graph.nodes), len(graph)), strict=True):
        for n in range(count):
            assert json.loads(json.dumps(row(n), allow_nan=False)) == row(n)
    assert json.loads(json.dumps(info_dict(graph.info))) == info_dict(graph.info)
    token_of = {node: graph.node_dict(n)["token"] for n, node in enumerate(graph.nodes)}
    assert [token_of[Node("embed", position=p)] for p in range(len(HOSTILE_TOKENS))] == list(HOSTILE_TOKENS)
    assert token_of[Node("logit", index=17)] == " Tokyo"


@given(st.sampled_from(GRAPHS), st.data())
def test_reading_dicts_turn_back(graph: FlowGraph, data: st.DataObject) -> None:
    reading = data.draw(st.sampled_from([reading for reading in graph.readings if reading is not None]))
    assert NodeReading.from_dict(reading.to_dict()) == reading


def test_save_and_load_are_the_export_functions(tmp_path: Path) -> None:
    graph = GRAPHS[0]
    assert same(FlowGraph.load(graph.save(tmp_path / "a.json", overwrite=False)), graph)
    with pytest.raises(ArgumentError, match="exists"):
        graph.save(tmp_path / "a.json", overwrite=False)


def test_a_graph_needs_no_torch() -> None:
    code = (
        "import sys, flowgraph.values.flow_graph, flowgraph.algorithms, flowgraph.files; "
        "print([name for name in ('torch', 'transformers', 'dash') if name in sys.modules])"
    )
    root = Path(__file__).parents[1]
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert run.stdout.strip() == "[]"


def test_edges_may_differ_in_unit(tmp_path) -> None:
    graph = built(FlowGraph, {**vars(two_edges()), "unit": np.array([UNITS.index("norm"), UNITS.index("attention")])})
    assert [graph.unit_of(e) for e in range(2)] == ["norm", "attention"]
    assert [data["unit"] for *_, data in graph.to_networkx().edges(data=True)] == ["norm", "attention"]
    assert graph.keep(np.array([1])).unit_of(0) == "attention"
    graph.save(tmp_path / "units.json")
    assert same(FlowGraph.load(tmp_path / "units.json"), graph)
    with pytest.raises(ArgumentError, match=r"FlowGraph.unit must lie in"):
        built(FlowGraph, {**vars(two_edges()), "unit": np.array([0, len(UNITS)])})
    with pytest.raises(ArgumentError, match=r"FlowGraph.unit has shape \(1,\)"):
        built(FlowGraph, {**vars(two_edges()), "unit": np.array([0])})
