"""Some layers as their heads, the others with heads together: the same numbers, and the same sums."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import flowgraph as fg
from flowgraph.errors import ArgumentError
from tests.conftest import IDS, LINEAR_REPRESENTATIVES, REPRESENTATIVES

ADDITIVE = ("attention", "proximity", "logits")
CASES = [(name, method) for name in REPRESENTATIVES for method in ("attention", "proximity")]
CASES += [(name, "logits") for name in LINEAR_REPRESENTATIVES]

Named = dict[tuple[fg.Node, fg.Node, int], float]


@pytest.fixture(scope="module")
def weights_of(tiny):
    made: dict[tuple[str, str], fg.EdgeWeights] = {}

    def get(name: str, method: str) -> fg.EdgeWeights:
        if (name, method) not in made:
            made[name, method] = fg.edge_weights(fg.trace(tiny(name), IDS, position=-1), method=method)
        return made[name, method]

    return get


def named(graph: fg.FlowGraph, values: np.ndarray) -> Named:
    found = {
        (graph.nodes[graph.source[e]], graph.nodes[graph.target[e]], int(graph.kind[e])): float(values[e])
        for e in range(len(graph))
    }
    assert len(found) == len(graph)
    return found


def kind_of(graph: fg.FlowGraph, e: int) -> Any:
    return graph.edge_dict(e)["kind"]


def naive(weights: fg.EdgeWeights, layers: tuple[int, ...]) -> Named:
    """Weights of the graph put together edge by edge from that of tokens and that of heads."""
    together = fg.build_graph(weights, readings=False)
    by_head = fg.build_graph(weights, level="head", readings=False)
    found = {
        edge: weight
        for e, (edge, weight) in enumerate(named(together, together.weight).items())
        if not (kind_of(together, e) == "attention" and together.layer[e] in layers)
    }
    return found | {
        edge: weight
        for e, (edge, weight) in enumerate(named(by_head, by_head.weight).items())
        if by_head.layer[e] in layers and "head" in (edge[0].kind, edge[1].kind)
    }


def carried(graph: fg.FlowGraph, layer: int) -> Counter:
    """Flow from each token into each state over attention of a layer, heads taken together."""
    found: Counter = Counter()
    flow = fg.connected_flow(graph)
    for e in np.flatnonzero(graph.layer == layer):
        if kind_of(graph, int(e)) == "attention":
            found[int(graph.key_pos[e]), int(graph.query_pos[e])] += float(flow[e])
    return found


@pytest.mark.parametrize(("name", "method"), CASES)
@pytest.mark.parametrize("layers", [(), (1,), (0, 1)])
def test_the_graph_is_that_of_tokens_but_for_the_opened_layers(weights_of, name, method, layers):
    weights = weights_of(name, method)
    graph = fg.build_graph(weights, heads_in=layers)
    expected = naive(weights, layers)
    assert named(graph, graph.weight) == expected
    into: Counter = Counter()
    for (_, target, _kind), weight in expected.items():
        into[target] += abs(weight)
    shares = {edge: weight / into[edge[1]] if into[edge[1]] else 0.0 for edge, weight in expected.items()}
    assert named(graph, graph.share) == pytest.approx(shares, abs=1e-12)
    assert graph.info.total_edges == int((~graph.structural).sum())
    assert graph.info.total_share == pytest.approx(float(np.abs(graph.share).sum()))
    assert graph.info.filters == ({"heads_in": ", ".join(map(str, layers))} if layers else {})


@pytest.mark.parametrize(("name", "method"), CASES)
@pytest.mark.parametrize("layers", [(1,), (0, 1)])
def test_the_flow_is_that_along_its_own_edges(weights_of, name, method, layers):
    graph = fg.build_graph(weights_of(name, method), heads_in=layers)
    alone = replace(graph, flow=None, info=replace(graph.info, flow_into=None, total_flow=None))
    flow = fg.connected_flow(alone)
    np.testing.assert_allclose(graph.flow, flow, atol=1e-9)
    assert graph.info.total_flow == pytest.approx(float(flow.sum()))
    cut = fg.build_graph(weights_of(name, method), heads_in=layers, threshold=0.05)
    expected = named(graph, graph.flow)
    assert named(cut, cut.flow) == pytest.approx({edge: expected[edge] for edge in named(cut, cut.flow)})
    assert (np.abs(cut.share) >= 0.05).all()
    assert 0 < len(cut) < len(graph)


@pytest.mark.parametrize(("name", "method"), [case for case in CASES if case[1] != "logits"])
def test_heads_carry_what_the_layer_carried_together(weights_of, name, method):
    weights = weights_of(name, method)
    assert weights.additive
    together, opened = fg.build_graph(weights), fg.build_graph(weights, heads_in=[1])
    for layer in range(*weights.info.layers):
        before = carried(together, layer)
        assert sum(before.values()) > 0.001
        assert dict(carried(opened, layer)) == pytest.approx(dict(before), abs=1e-7)


@pytest.mark.parametrize("name", LINEAR_REPRESENTATIVES)
def test_logits_of_heads_sum_to_those_of_the_edges_they_stand_for(weights_of, name):
    weights = weights_of(name, "logits")
    assert weights.additive
    opened = fg.build_graph(weights, heads_in=[1])
    heads = sum(float(opened.weight[e]) for e in range(len(opened)) if kind_of(opened, e) == "head")
    assert heads == pytest.approx(float(weights.attention_summed[1].sum()), abs=1e-5)


def test_methods_whose_heads_do_not_add_up_say_so(weights_of):
    for method in ("norms", "ff"):
        assert not weights_of("llama", method).additive
    weights = weights_of("llama", "norms")
    summed = replace(weights, additive=True)
    together, opened = fg.build_graph(summed), fg.build_graph(summed, heads_in=[1])
    assert dict(carried(opened, 1)) != pytest.approx(dict(carried(together, 1)), abs=1e-3)


def test_all_layers_opened_are_the_graph_of_heads(weights_of):
    for method in ADDITIVE:
        weights = weights_of("llama", method)
        opened = fg.build_graph(weights, heads_in=range(*weights.info.layers))
        whole = fg.build_graph(weights, level="head")
        for column in ("weight", "share", "flow"):
            assert named(opened, getattr(opened, column)) == pytest.approx(named(whole, getattr(whole, column)))


def test_an_opened_layer_in_a_window_joins_the_layer_below(weights_of):
    weights = weights_of("llama", "proximity")
    graph = fg.build_graph(weights, layers=(1, 2), heads_in=[1])
    assert {node.layer for node in graph.nodes if node.kind == "resid_pre"} == {1}
    whole = fg.build_graph(weights, layers=(1, 2), level="head")
    assert named(graph, graph.share) == pytest.approx(named(whole, whole.share))


def test_the_flow_into_a_head_of_an_opened_layer(weights_of):
    weights = weights_of("llama", "proximity")
    head = fg.Node("head", layer=1, head=0, position=len(IDS) - 1)
    graph = fg.build_graph(weights, heads_in=[1], start=head)
    assert graph.info.flow_into == "L1H0@6"
    alone = replace(graph, flow=None, info=replace(graph.info, flow_into=None, total_flow=None))
    np.testing.assert_allclose(graph.flow, fg.connected_flow(alone, head), atol=1e-9)
    with pytest.raises(ArgumentError, match="start=L1H0@6 is not a node of these weights"):
        fg.build_graph(weights, heads_in=[0], start=head)


def test_the_strongest_of_a_mass(weights_of):
    with pytest.warns(FutureWarning, match="mass="):
        graph = fg.build_graph(weights_of("llama", "proximity"), heads_in=[1], mass=0.5)
    assert graph.kept_mass >= 0.5
    assert (fg.connected_flow(graph) > 0).all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"method": "norms"},
            "heads_in=1 cannot be shown under the method 'norms': its numbers for heads do not add up",
        ),
        ({"method": "ff"}, "heads_in=1 cannot be shown under the method 'ff': it takes heads together"),
        ({"parts": "token"}, "under the method 'proximity, parts=token': it takes heads together"),
        ({"level": "head"}, "level='head' shows all layers so; use level='token'"),
        ({"heads_in": [99]}, "heads_in=99 is not among the layers that are drawn, 0…1"),
        ({"heads_in": [0], "layers": (1, 2)}, "heads_in=0 is not among the layers that are drawn, 1…1"),
        ({"heads_in": [-1]}, "heads_in=-1 is not among"),
    ],
)
def test_what_cannot_be_opened_is_refused_with_the_reason(tiny, options, words):
    with pytest.raises(ArgumentError, match=words):
        fg.build_graph(fg.trace(tiny("llama"), IDS), **{"heads_in": [1]} | options)


def test_a_saved_trace_says_which_weights_add_up(tiny, tmp_path):
    trace = fg.trace(tiny("llama"), IDS).record(methods=["proximity", "norms"])
    trace.save(tmp_path / "run.safetensors")
    read = fg.Trace.load(tmp_path / "run.safetensors")
    assert fg.edge_weights(read, method="proximity").additive
    assert not fg.edge_weights(read, method="norms").additive
    assert len(fg.build_graph(read, heads_in=[1], readings=False))


def test_a_file_from_before_says_it_by_its_methods(tiny, tmp_path):
    path = fg.trace(tiny("llama"), IDS).record(methods=["attention", "norms"]).save(tmp_path / "run.safetensors")
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["flowgraph"])
    for about in header["weights"].values():
        del about["additive"]
    save_file(load_file(path), path, {"flowgraph": json.dumps(header)})
    read = fg.Trace.load(path)
    assert fg.edge_weights(read, method="attention").additive
    assert not fg.edge_weights(read, method="norms").additive
