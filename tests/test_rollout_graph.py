"""Graphs of rollout and of attention flow: what enters a state leaves it, and the ends are the numbers of the matrices."""

from __future__ import annotations

from dataclasses import replace

import networkx as nx
import numpy as np
import pytest

import flowgraph
from flowgraph import Node, attention_flow, attention_rollout, flow_graph, rollout_graph
from flowgraph.algorithms import connected_flow, flow_edges, keep_strongest
from flowgraph.algorithms.attention import layer_matrices
from flowgraph.errors import ArgumentError, GraphTooLargeError
from flowgraph.values.flow_graph import EDGE_KINDS
from tests.conftest import IDS
from tests.graphs import same

METHODS = ("attention", "norms", "proximity")
FAMILIES = ("llama", "gpt2", "gpt_neox", "bert")
NEAR = {"rtol": 1e-10, "atol": 1e-14}


def amounts(graph):
    """(what enters, what leaves) each node, by node."""
    entered, left = np.zeros(len(graph.nodes)), np.zeros(len(graph.nodes))
    np.add.at(entered, graph.target, graph.weight)
    np.add.at(left, graph.source, graph.weight)
    return dict(zip(graph.nodes, entered, strict=True)), dict(zip(graph.nodes, left, strict=True))


def lowest(graph, count):
    """[count] what leaves each input."""
    left = amounts(graph)[1]
    first = graph.info.layers[0]
    inputs = [Node("resid_pre", layer=first, position=p) if first else Node("embed", position=p) for p in range(count)]
    return np.array([left.get(node, 0.0) for node in inputs])


def assert_balanced(graph, start, value):
    entered, left = amounts(graph)
    for node in graph.nodes:
        if node == start:
            assert entered[node] == pytest.approx(value, rel=1e-12)
            assert left[node] == 0
        elif node.kind in ("embed", "resid_pre"):
            assert entered[node] == 0
        else:
            assert entered[node] == pytest.approx(left[node], rel=1e-10, abs=1e-14)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("place", [(1, 6), (1, 2), (0, 4)])
def test_a_rollout_graph_is_one_row_of_rollout(traces, family, method, place):
    trace = traces(family)
    layer, position = place
    start = Node("resid_post", layer=layer, position=position)
    graph = rollout_graph(trace, start, method=method)
    row = attention_rollout(trace, method=method)[layer, position]
    np.testing.assert_allclose(lowest(graph, len(IDS)), row, **NEAR)
    assert_balanced(graph, start, 1.0)
    assert graph.weight.sum() == pytest.approx(layer + 1)
    assert graph.info.method == f"rollout of {method}"
    assert (graph.info.unit, graph.info.level) == ("share", "token")
    assert graph.info.layers == (0, layer + 1)
    assert graph.info.total_edges == len(graph)
    assert graph.shown_share == pytest.approx(1.0)
    # Its shares, followed from the start, are the amounts: so it is drawn as what it is.
    np.testing.assert_allclose(connected_flow(graph, start), graph.weight, **NEAR)
    np.testing.assert_allclose(connected_flow(graph), graph.weight, **NEAR)


def test_every_edge_against_a_product_written_out(traces):
    trace = traces("llama")
    pattern = np.asarray(trace.pattern, dtype=np.float64).mean(1)
    graph = rollout_graph(trace)
    held = {(2, len(IDS) - 1): 1.0}
    expected = {}
    for depth in (2, 1):
        for i in range(len(IDS)):
            amount = held.get((depth, i), 0.0)
            for j in range(i + 1):
                for kind, part in (("attention", pattern[depth - 1, i, j]), ("residual", float(i == j))):
                    if amount * part > 0:
                        expected[depth - 1, i, j, kind] = amount * part / (1 + pattern[depth - 1, i].sum())
                        held[depth - 1, j] = held.get((depth - 1, j), 0.0) + expected[depth - 1, i, j, kind]
    keys = zip(graph.layer, graph.query_pos, graph.key_pos, (EDGE_KINDS[kind] for kind in graph.kind), strict=True)
    found = {(int(a), int(b), int(c), kind): w for (a, b, c, kind), w in zip(keys, graph.weight, strict=True)}
    assert found.keys() == expected.keys()
    for key, weight in found.items():
        assert weight == pytest.approx(expected[key], rel=1e-9)


@pytest.mark.parametrize("residual", [True, False])
def test_the_residual_stream_is_an_edge_of_its_own(traces, residual):
    graph = rollout_graph(traces("gpt2"), residual=residual)
    along = graph.kind == EDGE_KINDS.index("residual")
    assert (graph.query_pos[along] == graph.key_pos[along]).all()
    assert bool(along.any()) == residual
    np.testing.assert_allclose(graph.share[along], 0.5, rtol=1e-6)
    row = attention_rollout(traces("gpt2"), residual=residual)[-1, -1]
    np.testing.assert_allclose(lowest(graph, len(IDS)), row, **NEAR)
    assert graph.info.method_text == f"rollout of attention, residual={str(residual).lower()}"


@pytest.mark.parametrize("method", METHODS)
def test_weights_and_their_trace_give_the_same_graph(traces, method):
    trace = traces("llama")
    weights = flowgraph.edge_weights(trace, method=method)
    of_trace, of_weights = rollout_graph(trace, method=method), rollout_graph(weights)
    assert of_trace.nodes == of_weights.nodes
    np.testing.assert_allclose(of_trace.weight, of_weights.weight, rtol=1e-6)
    assert of_weights.readings == ()
    with pytest.raises(ArgumentError, match="readings=True needs a trace"):
        rollout_graph(weights, readings=True)


def test_what_a_method_has_on_no_edge_is_lost_on_the_way(traces):
    """As much as rollout loses, and at every state the same part of what it holds."""
    weights = flowgraph.edge_weights(traces("llama"), method="norms")
    rest = 0.3 * np.abs(weights.residual)
    weights = replace(weights, rest=rest)
    graph = rollout_graph(weights)
    row = attention_rollout(weights)[-1, -1]
    assert row.sum() < 0.999
    np.testing.assert_allclose(lowest(graph, len(IDS)), row, **NEAR)
    whole = np.abs(weights.residual) + np.abs(weights.attention_summed).sum(-1) + rest
    if weights.parallel and weights.mlp is not None:
        whole = whole + np.abs(weights.mlp)
    entered, left = amounts(graph)
    for node in graph.nodes:
        if node.kind == "resid_post" and node.layer == 0:
            assert left[node] == pytest.approx(entered[node] / (1 - rest[0, node.position] / whole[0, node.position]))


def test_windows_of_layers(traces):
    weights = flowgraph.edge_weights(traces("llama"), method="proximity").window(1, 2)
    graph = rollout_graph(weights)
    assert {node.kind for node in graph.nodes} == {"resid_pre", "resid_post"}
    assert graph.info.layers == (1, 2)
    np.testing.assert_allclose(lowest(graph, len(IDS)), attention_rollout(weights)[-1, -1], **NEAR)


# Attention flow


@pytest.mark.parametrize(
    ("family", "method", "source"),
    [
        ("llama", "attention", 0), ("llama", "norms", 3), ("llama", "proximity", -1),
        ("gpt_neox", "attention", 3), ("gpt_neox", "norms", -1), ("gpt_neox", "proximity", 0),
        ("bert", "attention", -1), ("bert", "norms", 0), ("bert", "proximity", 3),
    ],
)  # fmt: skip
def test_a_flow_graph_holds_the_edges_of_a_maximum_flow(traces, family, method, source):
    trace = traces(family)
    weights = flowgraph.edge_weights(trace, method=method)
    last = len(IDS) - 1
    graph = flow_graph(weights, source=source)
    value = attention_flow(weights, source=last, target=source)
    start = Node("resid_post", layer=1, position=last)
    assert_balanced(graph, start, value)
    inputs = lowest(graph, len(IDS))
    assert inputs[source] == pytest.approx(value)
    assert np.delete(inputs, source % len(IDS)).sum() == 0
    cut = flowgraph.minimum_cut(weights, source=last, target=source)
    assert cut.value == pytest.approx(value)
    assert graph.info.options["value"] == float(f"{value:.3g}")
    assert graph.info.options["source"] == f"embed@{source % len(IDS)}"
    edges = flow_edges(weights, source=last, target=source)
    carried = np.zeros((2, len(IDS), len(IDS)))
    np.add.at(carried, (graph.layer, graph.query_pos, graph.key_pos), graph.weight)
    np.testing.assert_allclose(carried[edges.layer, edges.query_pos, edges.key_pos], edges.weight, **NEAR)
    assert carried.sum() == pytest.approx(edges.weight.sum())
    # No edge of either kind carries more than its own capacity.
    whole = np.stack(layer_matrices(weights))
    assert (carried <= whole * (1 + 1e-12)).all()
    np.testing.assert_allclose(connected_flow(graph, start), graph.weight / value, rtol=1e-9)


def together(blocks, position):
    """Maximum flow from all inputs together, by networkx."""
    graph = nx.DiGraph()
    graph.add_node((len(blocks), position))
    for layer, block in enumerate(blocks):
        for i, j in np.argwhere(block > 0).tolist():
            graph.add_edge((layer + 1, i), (layer, j), capacity=float(block[i, j]))
    for j in range(len(blocks[0])):
        graph.add_edge((0, j), "inputs")
    return nx.maximum_flow_value(graph, (len(blocks), position), "inputs")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("part", [0.0, 2.0])
def test_all_inputs_together(traces, method, part):
    weights = flowgraph.edge_weights(traces("llama"), method=method)
    # With a part on no edge, rows no longer sum to 1, and the value is no longer 1.
    rng = np.random.default_rng(0)
    weights = replace(weights, rest=part * np.abs(weights.residual) * rng.random(weights.residual.shape))
    graph = flow_graph(weights, position=4)
    start = Node("resid_post", layer=1, position=4)
    value = graph.weight[graph.target == graph.nodes.index(start)].sum()
    assert value == pytest.approx(together(layer_matrices(weights), 4), rel=1e-9)
    assert (value == pytest.approx(1.0)) == (part == 0)
    assert_balanced(graph, start, value)
    assert lowest(graph, len(IDS)).sum() == pytest.approx(value)
    assert graph.info.options["source"] == "all inputs"
    assert flow_graph(traces("llama"), source=2).weight.sum() > 0


def test_nothing_flows_from_a_later_token(traces):
    graph = flow_graph(traces("llama"), source=5, position=2)
    assert len(graph) == 0
    assert graph.nodes == (Node("resid_post", layer=1, position=2),)
    assert graph.info.options["value"] == 0
    assert "0 of 0 edges" in graph.caption()


# What both do alike


@pytest.mark.parametrize("make", [rollout_graph, flow_graph])
def test_filters(traces, make):
    trace = traces("llama")
    whole = make(trace)
    ranked = np.sort(whole.weight)[::-1]
    strong = make(trace, threshold=float(ranked[9]))
    assert sorted(strong.weight.tolist(), reverse=True) == ranked[: len(strong)].tolist()
    assert strong.weight.min() >= ranked[9]
    few = make(trace, top_k=5)
    assert len(few) == 5
    np.testing.assert_allclose(np.sort(few.weight)[::-1], ranked[:5])
    assert few.info.filters["top_k"] == 5
    assert few.kept_mass == pytest.approx(ranked[:5].sum() / ranked.sum())
    assert few.info.total_edges == strong.info.total_edges == len(whole)
    assert "top k 5" in few.caption()
    with pytest.raises(GraphTooLargeError, match=rf"has {len(whole)} edges, more than max_edges=3"):
        make(trace, max_edges=3)
    assert len(make(trace, top_k=3, max_edges=3)) == 3
    assert keep_strongest(whole, mass=0.5).shown_share < 1
    ties = make(trace, residual=True, top_k=2)
    assert len(ties) == 2
    assert len(make(trace, threshold=1.0, position=0, residual=False)) == 2  # the first token has nothing but itself


@pytest.mark.parametrize("make", [rollout_graph, flow_graph])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"start": Node("resid_mid", layer=1, position=2)},
            r"start=L1\.resid_mid@2 is not a state that a block writes",
        ),
        (
            {"start": Node("resid_post", layer=7, position=2)},
            r"expected resid_post of layers 0…1 at one of 7 positions",
        ),
        ({"start": Node("resid_post", layer=1, position=9)}, "is not a state"),
        ({"start": Node("resid_post", layer=1)}, "is not a state"),
        ({"start": Node("logit", index=3)}, "is not a state"),
        ({"start": Node("resid_post", layer=1, position=2), "position": 2}, "leave position=2 out"),
        ({"position": 7}, "position=7 is not one of the 7 tokens"),
        ({"position": -8}, "position=-8 is not one of the 7 tokens"),
        ({"threshold": 2.0}, "threshold=2.0 must lie between 0 and 1"),
        ({"top_k": 0}, "top_k=0 must be at least 1"),
        ({"method": "logits"}, "end in the logit"),
        ({"method": "magic"}, "magic"),
        ({"method": "proximity", "residual": True}, "hold the residual stream already"),
    ],
)
def test_wrong_arguments(traces, make, options, message):
    with pytest.raises(ArgumentError, match=message):
        make(traces("llama"), **options)


def test_more_wrong_arguments(traces):
    with pytest.raises(ArgumentError, match="source=7 is not one of the 7 tokens"):
        flow_graph(traces("llama"), source=7)
    with pytest.raises(ArgumentError, match="for arrays take attention_rollout"):
        rollout_graph(np.ones((1, 2, 2)) / 2)
    only = flowgraph.edge_weights(traces("llama"), method="logits")
    with pytest.raises(ArgumentError, match="end in the logit"):
        flow_graph(only)


def test_another_position_has_its_own_probability_or_no_target(traces):
    trace = traces("llama")
    graph = rollout_graph(trace, position=2)
    assert graph.info.position == 2
    if trace.logits.ndim == 2:
        expected = float(trace.logits[2].double().softmax(-1)[trace.target])
        assert graph.info.target_probability == pytest.approx(expected)
    else:
        assert graph.info.target is None
    of_weights = rollout_graph(flowgraph.edge_weights(trace, method="attention"), position=2)
    assert of_weights.info.target is None
    assert " at position " not in of_weights.caption()
    assert rollout_graph(trace).info.target == trace.target


@pytest.mark.parametrize("make", [rollout_graph, flow_graph])
def test_readings_drawing_and_files(traces, make, tmp_path):
    graph = make(traces("llama"), start=Node("resid_post", layer=1, position=4))
    assert all(reading is not None for reading in graph.readings)
    assert make(traces("llama"), readings=False).readings == ()
    for name in ("graph.html", "graph.svg", "graph.gexf", "graph.tex"):
        graph.save(tmp_path / name)
    assert same(flowgraph.FlowGraph.load(graph.save(tmp_path / "graph.json")), graph)
    assert str(graph.explain())


@pytest.mark.real_model
def test_the_country_reaches_the_last_token(smollm2):
    trace = flowgraph.trace(smollm2, "The capital of Japan is the city of")
    graph = rollout_graph(trace, method="proximity")
    np.testing.assert_allclose(lowest(graph, 8), attention_rollout(trace, method="proximity")[-1, -1], **NEAR)
    flow = flow_graph(trace, source=3, method="proximity")
    value = attention_flow(flowgraph.edge_weights(trace, method="proximity"), source=7, target=3)
    assert flow.info.options["value"] == float(f"{value:.3g}")
