"""Proximity by head and by token against the dense formulas in float64, the two threshold rules, and options of methods."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import flowgraph
from flowgraph import Node, build_graph, edge_weights
from flowgraph.errors import ArgumentError
from flowgraph.methods.thresholds import by_rule
from tests import naive
from tests.conftest import IDS, JAPAN, MARY, REPRESENTATIVES


def by_token(whole: np.ndarray, parts: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """ALTI's shares of one sum: [T, S] of the tokens, [T] of the MLP (zero where it has a step of its own)."""
    made = parts["heads"].sum(0)
    t = np.arange(len(whole))
    made[t, t] += parts["residual"]
    near = np.maximum(0, np.abs(whole).sum(-1)[:, None] - np.abs(whole[:, None] - made).sum(-1))
    mlp = np.zeros(len(whole))
    if "mlp" in parts:
        mlp = np.maximum(0, np.abs(whole).sum(-1) - np.abs(whole - parts["mlp"]).sum(-1))
    total = near.sum(1) + mlp
    return near / total[:, None], mlp / total


@pytest.mark.parametrize("name", [*REPRESENTATIVES, "opt_post_norm"])
def test_parts_by_token_against_the_dense_formula(traces, name):
    trace = traces(name)
    weights = edge_weights(trace, method="proximity", parts="token")
    by_head = edge_weights(trace, method="proximity")
    assert weights.attention.shape == (trace.n_layers, 0, len(IDS), len(IDS))
    for row in range(trace.n_layers):
        tokens, mlp = by_token(*naive.step_parts(trace, row)[0])
        found = weights.attention_summed[row] + np.diag(weights.residual[row])
        np.testing.assert_allclose(found, tokens, atol=1e-6)
        if weights.parallel:
            np.testing.assert_allclose(weights.mlp[row], mlp, atol=1e-6)
        else:
            np.testing.assert_array_equal(weights.mlp[row], by_head.mlp[row])
    assert not weights.attention_summed[:, np.arange(7), np.arange(7)].any()
    assert not weights.attention_summed[(trace.pattern == 0).all(1).numpy()].any()


@pytest.mark.parametrize("name", ["llama", "gpt_neox", "bert"])
def test_graphs_by_token(traces, name):
    graph = build_graph(traces(name), method="proximity", parts="token", readings=False)
    sums = np.bincount(graph.target, weights=np.abs(graph.share), minlength=len(graph.nodes))
    np.testing.assert_allclose(sums[sums > 0], 1)
    assert graph.shown_share == pytest.approx(1)
    assert "proximity, parts=token (share)" in graph.caption()
    with pytest.raises(ArgumentError, match=r"parts=token.* takes heads together; use level='token'"):
        build_graph(traces(name), method="proximity", parts="token", level="head")


def test_a_sum_that_no_token_brings_nearer_is_listed_and_still_has_shares(traces):
    trace = traces("llama")
    middle = trace.resid_mid.clone()
    middle[1, 2] = -1e-3 * middle[1, 2].flip(0)
    pre, values = trace.resid_pre.clone(), trace.v.clone()
    middle[0, 0], pre[0, 0], values[0, :, 0] = 0.0, 0.0, 0.0
    sites = {**trace.sites, "resid_mid": middle, "resid_pre": pre, "v": values}
    weights = edge_weights(dataclasses.replace(trace, sites=sites), method="proximity", parts="token")
    undefined = [node for node in weights.undefined if node.kind == "resid_mid"]
    assert Node("resid_mid", layer=1, position=2) in undefined
    whole, parts = naive.step_parts(dataclasses.replace(trace, sites=sites), 1)[0]
    made = parts["heads"].sum(0)[2]
    made[2] += parts["residual"][2]
    lengths = np.abs(made).sum(-1)
    assert not (np.abs(whole[2]).sum() > np.abs(whole[2] - made).sum(-1)).any()
    found = weights.attention_summed[1, 2] + weights.residual[1, 2] * np.eye(7)[2]
    np.testing.assert_allclose(found, lengths / lengths.sum(), rtol=1e-5)
    # Nothing at all: what there is comes along the stream.
    assert weights.residual[0, 0] == 1


@pytest.mark.real_model
@pytest.mark.slow
@pytest.mark.parametrize("name", ["smollm2", "minilm"])
def test_real_models_agree_with_float64_to_one_in_a_million(request, name):
    text = " ".join([JAPAN + " Tokyo.", MARY + " Mary.", "The sea was calm, and the two of them spoke of the harvest."])
    trace = flowgraph.trace(request.getfixturevalue(name), text)
    assert len(trace.tokens) > 30
    weights = edge_weights(trace, method="proximity")
    summed = edge_weights(trace, method="proximity", parts="token")
    for row in range(0, trace.n_layers, 3):
        steps = naive.step_parts(trace, row)
        expected = [naive.proximity_step(*step) for step in steps]
        np.testing.assert_allclose(weights.attention[row], expected[0]["heads"], atol=1e-6)
        np.testing.assert_allclose(weights.residual[row], expected[0]["residual"], atol=1e-6)
        np.testing.assert_allclose(weights.mlp[row], expected[1]["mlp"], atol=1e-6)
        found = summed.attention_summed[row] + np.diag(summed.residual[row])
        np.testing.assert_allclose(found, by_token(*steps[0])[0], atol=1e-6)
    whole = weights.attention_summed.sum(-1) + weights.residual
    np.testing.assert_allclose(whole, 1, atol=1e-6)
    assert not weights.attention[trace.pattern.numpy() == 0].any()


@settings(deadline=None, max_examples=30)
@given(
    threshold=st.sampled_from([0.0, 1e-4, 0.01, 0.03, 0.1, 0.3, 0.6, 1.0]), name=st.sampled_from(["llama", "gpt_neox"])
)
def test_the_rule_for_single_heads_against_its_definition(traces, threshold, name):
    weights = edge_weights(traces(name), method="proximity")
    ruled = by_rule(weights, threshold, "per_head")
    for row, t in np.ndindex(weights.residual.shape):
        parts = {(h, s): float(c) for (h, s), c in np.ndenumerate(weights.attention[row, :, t])}
        parts["residual"] = float(weights.residual[row, t])
        if weights.parallel:
            parts["mlp"] = float(weights.mlp[row, t])
        kept = {part: c for part, c in parts.items() if c >= threshold}
        whole = sum(kept.values())
        for (h, s), found in np.ndenumerate(ruled.attention[row, :, t]):
            assert found == pytest.approx(kept.get((h, s), 0.0) / (whole or 1.0), abs=1e-6)
        assert ruled.residual[row, t] == pytest.approx(kept.get("residual", 0.0) / (whole or 1.0), abs=1e-6)
        for s in range(len(IDS)):
            heads = sum(c for part, c in kept.items() if part in {(h, s) for h in range(weights.attention.shape[1])})
            assert ruled.attention_summed[row, t, s] == pytest.approx(heads / (whole or 1.0), abs=1e-6)
        if not weights.parallel:
            pair = [c if c >= threshold else 0.0 for c in (weights.mlp[row, t], weights.residual_mlp[row, t])]
            expected = np.array(pair) / (sum(pair) or 1.0)
            np.testing.assert_allclose([ruled.mlp[row, t], ruled.residual_mlp[row, t]], expected, atol=1e-6)


def test_the_two_rules_differ_and_say_so(traces):
    trace = traces("llama")
    edge = build_graph(trace, method="proximity", threshold=0.03, readings=False)
    head = build_graph(trace, method="proximity", threshold=0.03, threshold_rule="per_head", readings=False)
    assert len(head) < len(edge)  # many weak heads together bring more than the threshold
    assert "threshold rule per_head" in head.caption()
    assert head.shown_share == pytest.approx(1)
    assert edge.shown_share < 1
    everything = build_graph(trace, method="proximity", threshold=0.0, threshold_rule="per_head", readings=False)
    assert len(everything) == len(build_graph(trace, method="proximity", readings=False))
    with pytest.raises(ArgumentError, match="threshold_rule='both' is not known"):
        by_rule(edge_weights(trace, method="proximity"), 0.1, "both")
    for method, options in (("norms", {}), ("proximity", {"parts": "token"})):
        with pytest.raises(ArgumentError, match="needs the shares of single heads"):
            build_graph(trace, method=method, threshold=0.1, threshold_rule="per_head", readings=False, **options)


def test_options_travel_with_the_graph(traces, tmp_path):
    trace = traces("llama")
    graph = build_graph(trace, method="proximity", parts="token", readings=False)
    assert graph.info.options == {"parts": "token"}
    for name in ("flow.json", "flow.graphml", "flow.html"):
        graph.save(tmp_path / name)
    assert flowgraph.FlowGraph.load(tmp_path / "flow.json").info == graph.info
    recorded = dataclasses.replace(
        trace, loaded=None, recorded_weights={"proximity": edge_weights(trace, method="norms")}
    )
    assert edge_weights(recorded, method="proximity").info.method == "norms"  # recorded is what is asked for
    with pytest.raises(flowgraph.ModelNeededError):
        edge_weights(recorded, method="proximity", parts="token")  # this was not recorded


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "norms", "parts": "head"}, "parts= is not an option of method='norms', which has no options"),
        ({"method": "proximity", "part": "head"}, "part= is not an option of method='proximity', which has parts"),
    ],
)
def test_unknown_options_are_named(traces, options, message):
    with pytest.raises(ArgumentError, match=message):
        edge_weights(traces("llama"), **options)
    with pytest.raises(ArgumentError, match=message):
        build_graph(traces("llama"), **options)


def test_options_of_weights_that_are_computed_already(traces):
    weights = edge_weights(traces("llama"), method="proximity")
    with pytest.raises(ArgumentError, match="parts= belongs to edge_weights"):
        build_graph(weights, parts="token")


def test_what_is_on_no_edge_counts(traces):
    """A rest belongs to the whole that shares are parts of, and is not shown."""
    weights = edge_weights(traces("llama"), method="norms")
    with_rest = dataclasses.replace(weights, rest=np.full(weights.residual.shape, 2.0))
    plain, graph = build_graph(weights), build_graph(with_rest)
    assert len(graph) == len(plain)
    into = np.array([node.kind == "resid_mid" for node in graph.nodes])[graph.target]
    whole = np.bincount(graph.target[into], weights=graph.weight[into], minlength=len(graph.nodes))
    np.testing.assert_allclose(graph.share[into], graph.weight[into] / (whole[graph.target[into]] + 2.0))
    np.testing.assert_array_equal(graph.share[~into], plain.share[~into])
    assert graph.info.total_share == pytest.approx(plain.info.total_share)
    assert graph.shown_share == pytest.approx(np.abs(graph.share).sum() / plain.info.total_share)
    assert 0.5 < graph.shown_share < 1
