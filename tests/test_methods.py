"""Edge methods and the schema of the graph: one checker over all methods, families and levels."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections import defaultdict

import networkx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import flowgraph
from flowgraph import Node, build_graph, edge_weights
from flowgraph.errors import ArgumentError, GraphTooLargeError, NotRecordedError
from flowgraph.methods import EDGE_METHODS, register_method
from flowgraph.methods.build import check_filters
from flowgraph.methods.logits import total
from flowgraph.values.flow_graph import EDGE_KINDS
from flowgraph.values.nucleus import nucleus_mask
from tests import naive
from tests.conftest import IDS, JAPAN, LINEAR_REPRESENTATIVES, REPRESENTATIVES

LEVELS = {"attention": ("token", "head"), "norms": ("token", "head"), "proximity": ("token", "head"), "ff": ("token",)}
"""Methods whose edges run from state to state, and the levels that their graphs have."""
CASES = [
    (name, method, level)
    for name in (*REPRESENTATIVES, "bert_headless")  # without a head no edge ends in a logit
    for method, levels in LEVELS.items()
    for level in levels
]
CASES += [(name, "logits", level) for name in LINEAR_REPRESENTATIVES for level in ("token", "head")]


def incoming_share(graph) -> dict[Node, float]:
    """Σ|share| of what enters each node."""
    sums: dict[Node, float] = defaultdict(float)
    for e in range(len(graph)):
        if not graph.structural[e]:
            sums[graph.nodes[graph.target[e]]] += abs(float(graph.share[e]))
    return sums


@pytest.mark.parametrize(("name", "method", "level"), CASES)
def test_schema(traces, name, method, level):
    """What every graph of every method must be."""
    trace = traces(name)
    graph = build_graph(trace, method=method, level=level, readings=False)
    info = graph.info
    assert (info.method, info.level, info.tokens) == (method, level, trace.tokens)
    assert info.total_edges == int((~graph.structural).sum())
    assert graph.shown_share == pytest.approx(1.0)
    assert np.isfinite(graph.weight).all()
    assert (np.sign(graph.weight) == np.sign(graph.share)).all()
    as_networkx = graph.to_networkx()
    assert networkx.is_directed_acyclic_graph(as_networkx)
    assert not list(networkx.isolates(as_networkx))
    for e in range(len(graph)):
        source, target, kind = graph.nodes[graph.source[e]], graph.nodes[graph.target[e]], EDGE_KINDS[graph.kind[e]]
        assert _depth(source, trace) < _depth(target, trace)
        if kind == "attention":
            assert source.position == graph.key_pos[e]
            if trace.causal:
                assert graph.key_pos[e] <= graph.query_pos[e]
        if kind in ("residual", "mlp", "mlp_in", "head") and target.kind != "logit":
            assert source.position == target.position == graph.query_pos[e]
        if trace.wiring == "parallel":
            assert "resid_mid" not in (source.kind, target.kind)
        if level == "token":
            assert "head" not in (source.kind, target.kind)


@pytest.mark.parametrize(("name", "method", "level"), CASES)
def test_shares_into_a_target_sum_to_one(traces, name, method, level):
    graph = build_graph(traces(name), method=method, level=level, readings=False)
    for node, share in incoming_share(graph).items():
        assert share == pytest.approx(1.0, abs=1e-6), node


@pytest.mark.parametrize("level", ["token", "head"])
@pytest.mark.parametrize("name", ["gpt2", "gpt_neox", "llama", "bert", "bert_headless"])
def test_attention_against_the_naive_twin(traces, name, level):
    trace = traces(name)
    graph = build_graph(trace, method="attention", level=level, readings=False)
    found = {
        (str(graph.nodes[graph.source[e]]), str(graph.nodes[graph.target[e]]), EDGE_KINDS[graph.kind[e]]): (
            None if graph.structural[e] else (float(graph.weight[e]), float(graph.share[e]))
        )
        for e in range(len(graph))
    }
    expected = naive.attention_edges(trace, level)
    assert found.keys() == expected.keys()
    for edge, numbers in expected.items():
        assert found[edge] == (None if numbers is None else pytest.approx(numbers, rel=1e-6)), edge


@pytest.mark.parametrize("name", [*REPRESENTATIVES, "opt_post_norm"])
def test_proximity_against_the_dense_formula(traces, name):
    trace = traces(name)
    weights = edge_weights(trace, method="proximity")
    for row in range(trace.n_layers):
        expected = [naive.proximity_step(*step) for step in naive.step_parts(trace, row)]
        np.testing.assert_allclose(weights.attention[row], expected[0]["heads"], atol=1e-6)
        np.testing.assert_allclose(weights.residual[row], expected[0]["residual"], atol=1e-6)
        np.testing.assert_allclose(weights.mlp[row], expected[-1]["mlp"], atol=1e-6)
        if not weights.parallel:
            np.testing.assert_allclose(weights.residual_mlp[row], expected[1]["residual"], atol=1e-6)
    assert not weights.attention[traces(name).pattern.numpy() == 0].any()


@pytest.mark.parametrize("name", [*REPRESENTATIVES, "opt_post_norm"])
def test_norms_against_the_dense_formula(traces, name):
    trace = traces(name)
    weights = edge_weights(trace, method="norms")
    for row in range(trace.n_layers):
        first, *_, last = (parts for _, parts in [*naive.step_parts(trace, row), *naive.step_parts(trace, row)[-1:]])
        heads = first["heads"]
        np.testing.assert_allclose(weights.attention[row], np.linalg.norm(heads, axis=-1), rtol=1e-5, atol=1e-6)
        summed = np.linalg.norm(heads.sum(0), axis=-1)
        np.testing.assert_allclose(weights.attention_summed[row], summed, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(weights.head[row], np.linalg.norm(heads.sum(2), axis=-1), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(weights.residual[row], np.linalg.norm(first["residual"], axis=-1), rtol=1e-5)
        np.testing.assert_allclose(weights.mlp[row], np.linalg.norm(last["mlp"], axis=-1), rtol=1e-5)


def test_a_sum_that_no_part_brings_nearer_is_listed_and_still_has_shares(traces):
    """An MLP that takes away most of the stream: neither part is nearer to what is left than nothing is."""
    trace = traces("llama")
    middle, post, mlp = trace.resid_mid.clone(), trace.resid_post.clone(), trace.mlp_out.clone()
    mlp[1, 2] = -0.9 * middle[1, 2] + 0.45 * middle[1, 2].roll(1)
    post[1, 2] = middle[1, 2] + mlp[1, 2]
    middle[1, 3], mlp[1, 3], post[1, 3] = 0.0, 0.0, 0.0
    post[1, 2] *= 1e-3
    changed = dataclasses.replace(trace, sites={**trace.sites, "resid_mid": middle, "resid_post": post, "mlp_out": mlp})
    weights = edge_weights(changed, method="proximity")
    assert Node("resid_post", layer=1, position=2) in weights.undefined
    whole = np.abs(mlp[1, 2].numpy()).sum() + np.abs(middle[1, 2].numpy()).sum()
    assert weights.mlp[1, 2] == pytest.approx(np.abs(mlp[1, 2].numpy()).sum() / whole, rel=1e-5)
    assert (weights.mlp[1, 3], weights.residual_mlp[1, 3]) == (0.0, 1.0)
    graph = build_graph(changed, method="proximity", readings=False)
    assert Node("resid_post", layer=1, position=2) in graph.undefined
    assert np.isfinite(graph.share).all()


@pytest.mark.parametrize("level", ["token", "head"])
@pytest.mark.parametrize("name", LINEAR_REPRESENTATIVES)
def test_logits_is_the_attribution(traces, name, level):
    trace = traces(name)
    parts = flowgraph.direct_logit_attribution(trace)
    weights = edge_weights(trace, method="logits")
    assert total(weights) == pytest.approx(parts.logit, abs=1e-4 * max(1, abs(parts.logit)))
    graph = build_graph(weights, level=level)
    logit = graph.nodes.index(Node("logit", index=trace.target))
    into_logit = graph.target == logit
    assert graph.weight[into_logit].sum() == pytest.approx(parts.logit, abs=1e-4 * max(1, abs(parts.logit)))
    by_kind = {kind: graph.weight[into_logit & (graph.kind == EDGE_KINDS.index(kind))].sum() for kind in EDGE_KINDS}
    heads = by_kind["attention" if level == "token" else "head"]
    assert heads == pytest.approx(parts.heads.sum(), abs=1e-9)
    assert by_kind["mlp"] == pytest.approx(parts.mlps.sum(), abs=1e-9)
    assert by_kind["embed"] == pytest.approx(parts.embedding + parts.position_embedding, abs=1e-9)
    assert by_kind["bias"] == pytest.approx(sum(parts.biases.values()), abs=1e-9)
    if level == "head":
        for h in range(trace.n_heads):
            head = graph.nodes.index(Node("head", layer=1, head=h, position=trace.position))
            assert graph.weight[graph.target == head].sum() == pytest.approx(parts.heads[1, h], abs=1e-9)


@pytest.mark.parametrize(("method", "level"), sorted({(method, level) for _, method, level in CASES}))
@settings(deadline=None, max_examples=25)
@given(
    threshold=st.sampled_from([0.0, 0.01, 0.05, 0.2, 0.5]),
    nucleus=st.sampled_from([None, 0.1, 0.5, 0.8, 1.0]),
    top_k=st.sampled_from([None, 1, 7, 60, 10**6]),
)
def test_filters_against_the_naive_twin(traces, level, method, threshold, nucleus, top_k):
    trace = traces("llama")
    whole = build_graph(trace, method=method, level=level, readings=False)
    graph = build_graph(
        trace, method=method, level=level, threshold=threshold, nucleus=nucleus, top_k=top_k, readings=False
    )
    assert _edge_set(graph) == _edge_set(
        whole.keep(np.array(naive.kept_edges(whole, threshold, nucleus, top_k), dtype=int))
    )
    assert graph.info.total_edges == whole.info.total_edges
    assert graph.info.total_share == pytest.approx(whole.info.total_share)


@settings(deadline=None)
@given(
    share=st.lists(st.floats(-1, 1, allow_nan=False), min_size=0, max_size=30),
    nucleus=st.sampled_from([0.01, 0.3, 0.5, 0.8, 0.99, 1.0]),
    groups=st.integers(1, 4),
)
def test_a_nucleus_keeps_the_fewest_edges_that_reach_it(share, nucleus, groups):
    size, target = np.abs(np.array(share)), np.arange(len(share)) % groups
    mask = nucleus_mask(target, np.array(share), nucleus)
    for group in range(groups):
        here, kept = size[target == group], size[(target == group) & mask]
        assert kept.sum() >= nucleus * here.sum() * (1 - 1e-9)
        if kept.size:
            assert kept.min() > 0
            assert kept.sum() - kept.min() <= nucleus * here.sum()
            assert kept.min() >= max(size[(target == group) & ~mask], default=0.0)


@pytest.mark.parametrize("method", EDGE_METHODS)
def test_a_window_of_layers(traces, method):
    trace = traces("llama")
    graph = build_graph(trace, method=method, layers=(1, 2), readings=False)
    assert graph.info.layers == (1, 2)
    assert all(layer in (-1, 1) for layer in graph.layer)
    first = {node.kind for node in graph.nodes if node.kind in ("embed", "resid_pre")}
    assert first == {"resid_pre"}
    lower = build_graph(trace, method=method, layers=(0, 1), readings=False)
    assert any(node.kind == "embed" for node in lower.nodes)
    assert any(node.kind == "logit" for node in lower.nodes) == (method == "logits")
    with pytest.raises(ArgumentError, match=r"layers=\(1, 3\) is not a window within 0…2"):
        build_graph(trace, method=method, layers=(1, 3))


def test_a_trace_of_some_layers_gives_their_graph(tiny):
    kept = flowgraph.trace(tiny("gpt2"), IDS, keep=flowgraph.TraceSites(layers=(1, 2)))
    graph = build_graph(kept)
    same = build_graph(flowgraph.trace(tiny("gpt2"), IDS), layers=(1, 2))
    assert _edge_set(graph) == _edge_set(same)
    assert [r and r.norm for r in graph.readings] == pytest.approx([r and r.norm for r in same.readings])


def test_a_graph_that_is_too_large_says_its_size(traces):
    trace = traces("llama")
    whole = build_graph(trace, readings=False)
    with pytest.raises(GraphTooLargeError, match=rf"has {len(whole)} edges, more than max_edges=10; set threshold="):
        build_graph(trace, max_edges=10)
    assert len(build_graph(trace, max_edges=10, top_k=10, readings=False)) == 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "magic"}, "method='magic' is not known; expected one of attention, norms, proximity, logits"),
        ({"threshold": 1.5}, "threshold=1.5 must lie between 0 and 1"),
        ({"threshold": float("nan")}, "threshold=nan must lie"),
        ({"mass": 0.0}, "mass=0.0 must lie above 0"),
        ({"nucleus": 0.0}, "nucleus=0.0 must lie above 0"),
        ({"top_k": 0}, "top_k=0 must be at least 1"),
        ({"max_edges": 0}, "max_edges=0 must be at least 1"),
    ],
)
def test_bad_arguments(traces, options, message):
    with pytest.raises(ArgumentError, match=message):
        build_graph(traces("llama"), **options)


def test_bad_level():
    # Called where the argument arrives unchecked, as it does without the tests' own type checks.
    with pytest.raises(ArgumentError, match="level='neuron' is not known; expected 'token' or 'head'"):
        check_filters("neuron", 0.0, None, top_k=None, max_edges=1)


def test_weights_carry_their_method(traces):
    weights = edge_weights(traces("llama"), method="attention")
    with pytest.raises(ArgumentError, match="these weights are 'attention'; leave method out"):
        build_graph(weights, method="logits")
    with pytest.raises(ArgumentError, match="readings=True needs a trace"):
        build_graph(weights, readings=True)


def test_what_was_not_kept_is_asked_for_by_name(tiny):
    kept = flowgraph.trace(tiny("llama"), IDS, keep={"pattern"})
    assert len(build_graph(kept, method="attention", readings=False)) > 0
    with pytest.raises(NotRecordedError, match="does not hold"):
        build_graph(kept, method="logits")


@pytest.mark.parametrize("level", ["token", "head"])
@pytest.mark.parametrize("name", ["gpt2", "gptj", "gemma2", "bert", "bert_headless"])
def test_nodes_carry_their_reading(traces, name, level):
    trace = traces(name)
    graph = build_graph(trace, level=level).to_networkx()
    sites = {"embed": "resid_pre", "resid_mid": "resid_mid", "resid_post": "resid_post", "mlp": "mlp_out"}
    for node, data in graph.nodes(data=True):
        assert data["label"] == str(node)
        assert (data["kind"], data["layer"], data["head"], data["position"]) == (
            node.kind, node.layer, node.head, node.position,
        )  # fmt: skip
        if node.kind in sites:
            vector = trace.site(sites[node.kind])[node.layer or 0, node.position]
            assert data["norm"] == pytest.approx(float(vector.norm()), rel=1e-5)
            if name != "bert_headless":
                single = flowgraph.read(trace, vector, k=5)[0]
                assert data["top_tokens"][0] == single.top[0][0]
                assert data["target_rank"] == single.target_rank
        elif node.kind == "logit":
            assert "norm" not in data


def test_edges_carry_their_numbers(traces):
    graph = build_graph(traces("llama"), method="attention").to_networkx()
    pattern = traces("llama").pattern.mean(1)
    for source, target, data in graph.edges(data=True):
        assert set(data) == {
            "kind",
            "layer",
            "head",
            "query_pos",
            "key_pos",
            "weight",
            "share",
            "unit",
            "flow",
            "number",
        }
        if data["kind"] == "attention":
            assert data["weight"] == pytest.approx(float(pattern[data["layer"], data["query_pos"], data["key_pos"]]))
            assert (source.position, target.position) == (data["key_pos"], data["query_pos"])
        if data["kind"] in ("mlp", "mlp_in"):
            assert data["weight"] is None
            assert data["share"] is None
    both = graph.get_edge_data(Node("embed", position=2), Node("resid_mid", layer=0, position=2))
    assert sorted(edge["kind"] for edge in both.values()) == ["attention", "residual"]


@pytest.mark.real_model
def test_the_real_model(smollm2):
    trace = flowgraph.trace(smollm2, JAPAN)
    weights = edge_weights(trace, method="logits")
    assert total(weights) == pytest.approx(float(trace.logits.max()), abs=1e-3)
    graph = build_graph(trace, method="logits", level="head", readings=False)
    heads = {
        str(graph.nodes[graph.source[e]]): graph.weight[e]
        for e in range(len(graph))
        if EDGE_KINDS[graph.kind[e]] == "head"
    }
    assert max(heads, key=heads.get).startswith("L2")  # the late layers read the country
    assert "Japan" in trace.tokens[3]
    reading = graph.kind == EDGE_KINDS.index("attention")
    strongest = np.argmax(np.where(reading, graph.weight, -np.inf))
    assert graph.key_pos[strongest] == 3


def _depth(node: Node, trace) -> float:
    """Where a node stands on the way up; biases stand below everything."""
    layer = -1 if node.layer is None else node.layer
    order = {
        "embed": -1, "position_embed": -1, "resid_pre": layer, "head": layer + 0.2, "resid_mid": layer + 0.4,
        "mlp": layer + 0.6, "resid_post": layer + 1.0, "logit": trace.n_layers + 1.0,
    }  # fmt: skip
    return order.get(node.kind, -2.0)


def _edge_set(graph) -> set[tuple]:
    return {
        (graph.nodes[graph.source[e]], graph.nodes[graph.target[e]], int(graph.kind[e]), int(graph.head[e]), float(graph.weight[e]))
        for e in range(len(graph))
    }  # fmt: skip


def test_a_registered_method(traces):
    trace = traces("llama")

    def doubled(trace, *, times: float = 2.0):
        weights = edge_weights(trace, method="attention")
        return dataclasses.replace(
            weights,
            info=dataclasses.replace(weights.info, method="doubled"),
            attention_summed=weights.attention_summed * times,
        )

    try:
        register_method("doubled", doubled, unit="share", meaning="Attention, twice.")
        row = EDGE_METHODS["doubled"]
        assert (row.unit, row.meaning, row.function) == ("share", "Attention, twice.", doubled)
        single, double = (build_graph(trace, method=name, readings=False) for name in ("attention", "doubled"))
        attended = single.kind == EDGE_KINDS.index("attention")
        np.testing.assert_allclose(double.weight[attended], 2 * single.weight[attended])
        assert build_graph(trace, method="doubled", times=1.0, readings=False).weight.sum() == pytest.approx(
            single.weight.sum()
        )
        with pytest.raises(ArgumentError, match=r"many= is not an option of method='doubled', which has times"):
            build_graph(trace, method="doubled", many=1)
        with pytest.raises(ArgumentError, match="name='doubled' is taken"):
            register_method("doubled", doubled, unit="share", meaning="")
    finally:
        EDGE_METHODS.pop("doubled", None)
    with pytest.raises(ArgumentError, match="name='Two words' is no name of a method"):
        register_method("Two words", doubled, unit="share", meaning="")


def test_the_table_says_the_unit_that_the_weights_say(traces):
    for name, method in EDGE_METHODS.items():
        weights = edge_weights(traces("llama"), method=name)
        assert (weights.info.method, weights.info.unit) == (name, method.unit) == (method.name, method.unit)
        assert method.meaning.endswith(".")


def test_naming_the_methods_is_light():
    code = "import sys\nimport flowgraph\nprint(list(flowgraph.EDGE_METHODS), 'torch' in sys.modules, 'numpy' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said == "['attention', 'norms', 'proximity', 'logits', 'ff'] False False\n"
