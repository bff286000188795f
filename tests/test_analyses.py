"""Analyses against their definitions written down again: vector by vector, token by token, neuron by neuron."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

import flowgraph
from flowgraph import TraceSites, build_graph, logit_lens, read, semantic_graph, unembed
from flowgraph.analyses import (
    edge_tokens,
    head_circuit,
    norm_filter,
    overlap,
    overlap_by_layer,
    regularization_neurons,
    trajectory,
)
from flowgraph.analyses.vectors import _NO_VECTOR, carried
from flowgraph.errors import ArgumentError, NotRecordedError, UnsupportedReadingError
from flowgraph.lenses.logit_lens import head_outputs, read_site
from flowgraph.semantic.build import sketched
from flowgraph.semantic.layer import Layer
from flowgraph.semantic.selection import Choice
from flowgraph.values.graph_columns import EDGE_KINDS
from tests.conftest import IDS, JAPAN, LINEAR, LINEAR_REPRESENTATIVES, MARY, REPRESENTATIVES

SOME = ("gpt2", "gpt_neox", "llama", "gemma2", "qwen3", "opt_post_norm", "bert")


def input_of_norm(trace, layer, part, position):
    """What goes into a norm, and the norm."""
    block = trace.model.anatomy.blocks[layer]
    state = trace.resid_pre if part == "attention" or trace.wiring == "parallel" else trace.resid_mid
    state = state[layer, position]
    if trace.wiring == "post_norm":
        state = state + (trace.attn_out if part == "attention" else trace.mlp_out)[layer, position]
    return state, (block.attention_norm if part == "attention" else block.mlp_norm)


def log_probabilities(trace, vector):
    return unembed(trace, vector).double().log_softmax(-1).numpy()


def ranks(trace, vector):
    logits = unembed(trace, vector)
    return np.array([1 + int((logits > logit).sum()) for logit in logits])


@pytest.mark.parametrize("part", ["attention", "mlp"])
@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_a_norm_is_what_its_module_does(traces, name, part):
    """The two readings are those of the norm's input and of its module's output; every change is stated for its token."""
    trace = traces(name)
    found = norm_filter(trace, layer=1, part=part, position=3, k=6)
    before, norm = input_of_norm(trace, 1, part, 3)
    with torch.no_grad():
        after = norm.module(before[None, None])[0, 0]
    if trace.wiring == "post_norm":
        stored = (trace.resid_mid if part == "attention" else trace.resid_post)[1, 3]
        np.testing.assert_allclose(after, stored, atol=1e-5)
    # The output is rounded in another order here, so tokens are compared by number, and numbers not to the last digit.
    for reading, vector in ((found.before, before), (found.after, after)):
        assert reading.shape == ()
        np.testing.assert_allclose(reading.top_logits, read(trace, vector, k=6).top_logits, atol=1e-4)
    old, new = log_probabilities(trace, before), log_probabilities(trace, after)
    factor = ranks(trace, before) / ranks(trace, after)
    assert found.divergence == pytest.approx(float((np.exp(new) * (new - old)).sum()), abs=1e-4)
    changes = {
        "promoted_in_log_probability": new - old, "demoted_in_log_probability": old - new,
        "promoted_in_rank": np.log(factor), "demoted_in_rank": -np.log(factor),
    }  # fmt: skip
    for kind, measure in changes.items():
        tokens = getattr(found, kind)
        largest = np.sort(measure)[::-1][: len(tokens)]
        np.testing.assert_allclose([measure[change.token_id] for change in tokens], largest, atol=2e-4)
        assert 0 < len(tokens) <= 6
        for change in tokens:
            assert change.log_probability_before == pytest.approx(old[change.token_id], abs=1e-4)
            assert change.log_probability_change == pytest.approx((new - old)[change.token_id], abs=1e-4)
            assert change.rank_factor == pytest.approx(change.rank_before / change.rank_after)
            assert change.rank_before == ranks(trace, before)[change.token_id]
            assert change.token == trace.model.vocabulary.string(change.token_id)


@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_the_steps_of_a_norm_add_up(traces, name):
    trace = traces(name)
    found = norm_filter(trace, layer=0, position=2)
    kind = trace.model.anatomy.blocks[0].attention_norm.kind
    assert found.steps == (("centering", "scale", "gain", "bias") if kind == "layer" else ("scale", "gain"))
    for change in (*found.promoted_in_rank, *found.demoted_in_log_probability):
        assert sum(change.by_step) == pytest.approx(change.log_probability_change, abs=1e-9)
    assert found.step_divergence.shape == (len(found.steps),)
    by_step = dict(zip(found.steps, found.step_divergence, strict=True))
    assert by_step["gain"] > 1e-4
    if trace.model.anatomy.final_norm is not None:
        # The final norm does not see the scale, and a LayerNorm not the mean, but for its ε.
        assert by_step["scale"] < 1e-5 * by_step["gain"]
        assert by_step.get("centering", 0.0) < 1e-5 * by_step["gain"]


def test_without_a_final_norm_the_scale_speaks(traces):
    by_step = norm_filter(traces("opt_post_norm"), layer=0)
    assert dict(zip(by_step.steps, by_step.step_divergence, strict=True))["scale"] > 1e-3


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma3"])
def test_the_final_norm(traces, name):
    trace = traces(name)
    found = norm_filter(trace, part="final", k=4)
    assert (found.layer, found.position, found.token) == (None, 6, trace.tokens[6])
    assert found.before.top_tokens[0] == tuple(token for token, *_ in logit_lens(trace, k=4)[-1, -1].top)
    assert found.before.top_token_ids[0, 0] == trace.target
    with torch.no_grad():
        normed = trace.model.anatomy.final_norm.module(trace.resid_post[-1, -1])
    np.testing.assert_allclose(found.after.top_logits, read(trace, normed, k=4).top_logits, atol=1e-4)
    assert found.overlap == pytest.approx(
        len(set(found.before.top_token_ids[0].tolist()) & set(found.after.top_token_ids[0].tolist())) / 4
    )


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("llama", {"layer": 2}, ArgumentError, "layer=2 is not one of the trace's layers 0…1"),
        ("llama", {}, ArgumentError, r"part='attention' needs layer=, got None"),
        ("llama", {"part": "final", "layer": 1}, ArgumentError, "layer=1 with part='final'"),
        (
            "llama",
            {"layer": 0, "position": 7},
            ArgumentError,
            "position=7 is outside the prompt of 7 tokens; expected 0…6",
        ),
        ("llama", {"layer": 0, "k": 0}, ArgumentError, "k=0 must be between 1 and"),
        ("bert", {"part": "final"}, ArgumentError, "has no norm between its last block and its head"),
        ("bert_headless", {"layer": 0}, UnsupportedReadingError, "no head over a vocabulary, so the filter of a norm"),
    ],
)
def test_norms_that_are_not_there(traces, name, options, error, message):
    with pytest.raises(error, match=message):
        norm_filter(traces(name), **options)


def test_windows_of_layers(tiny, traces):
    whole = traces("llama")
    upper = flowgraph.trace(tiny("llama"), IDS, keep=TraceSites(layers=(1, 2)))
    lower = flowgraph.trace(tiny("llama"), IDS, keep=TraceSites(layers=(0, 1)))
    one, other = norm_filter(upper, layer=1), norm_filter(whole, layer=1)
    assert one.promoted_in_rank == other.promoted_in_rank
    assert trajectory(upper).sites == ("L1.resid_pre", "L1.resid_mid", "L1.resid_post")
    np.testing.assert_array_equal(trajectory(upper).stream.target_rank, trajectory(whole).stream.target_rank[2:])
    np.testing.assert_array_equal(trajectory(upper).depth, [1, 1.5, 2])
    ours, theirs = head_circuit(upper, layer=1, head=2), head_circuit(whole, layer=1, head=2)
    np.testing.assert_allclose(ours.logits, theirs.logits, atol=1e-5)
    assert head_circuit(lower, layer=0, head=0).logits is None  # the scale of the final norm is not known
    with pytest.raises(ArgumentError, match="part='final' needs the last layer; the trace keeps layers 0…0 of 2"):
        norm_filter(lower, part="final")
    with pytest.raises(ArgumentError, match="layer=0 is not one of the trace's layers 1…1"):
        edge_tokens(upper, semantic_graph(whole, layers=0), 0)


# -- overlap ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SOME)
def test_overlap_by_sets(traces, name):
    trace = traces(name)
    one, other = read_site(trace, "attn_out", k=42), read_site(trace, "mlp_out", k=41)
    found = overlap(one, other, k=40)
    expected = [
        len(set(a[:40]) & set(b[:40])) / 40
        for a, b in zip(one.top_token_ids.tolist(), other.top_token_ids.tolist(), strict=True)
    ]
    np.testing.assert_allclose(found, expected)
    assert 0 < found.mean() < 1
    np.testing.assert_array_equal(overlap(one, one, 42), 1.0)
    by_layer = overlap_by_layer(one, other, 40, first_layer=3)
    np.testing.assert_allclose(by_layer.values, np.reshape(expected, (2, 7)))
    np.testing.assert_allclose(by_layer.mean, np.reshape(expected, (2, 7)).mean(1))
    assert (by_layer.k, by_layer.first_layer) == (40, 3)


def test_overlap_of_heads_and_of_nothing(traces):
    trace = traces("gpt2")
    heads = read_site(trace, "head_out", k=5)
    assert overlap_by_layer(heads, heads, 5).values.shape == (2, 4 * 7)
    nothing = read(trace, trace.resid_post[0, :0], k=5)
    assert overlap(nothing, nothing, 5).shape == (0,)


def test_readings_that_do_not_fit(traces):
    trace = traces("gpt2")
    five, six, single = logit_lens(trace, k=5), logit_lens(trace, k=6), read(trace, trace.resid_post[0], k=6)
    with pytest.raises(ArgumentError, match="one holds 5 top tokens, k=6; read it again with k=6 or more"):
        overlap(five, six, 6)
    with pytest.raises(ArgumentError, match="other holds 5 top tokens, k=10"):
        overlap(logit_lens(trace, k=10), five)
    with pytest.raises(ArgumentError, match=r"one has shape \(2, 7\) and other \(7,\)"):
        overlap(six, single, 3)
    with pytest.raises(ArgumentError, match="k=0 must be at least 1"):
        overlap(six, six, 0)
    with pytest.raises(ArgumentError, match=r"by layer it needs \(layer, position\)"):
        overlap_by_layer(single, single, 3)


# -- trajectory -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_a_trajectory_passes_every_state_in_order(traces, name):
    trace = traces(name)
    found = trajectory(trace, position=2, target=40, foil=50)
    expected = [("embed", trace.resid_pre[0, 2])]
    for layer in range(trace.n_layers):
        if trace.wiring != "parallel":
            expected.append((f"L{layer}.resid_mid", trace.resid_mid[layer, 2]))
        expected.append((f"L{layer}.resid_post", trace.resid_post[layer, 2]))
    assert found.sites == tuple(site for site, _ in expected)
    assert (found.position, found.token, found.stream.target, found.stream.foil) == (2, trace.tokens[2], 40, 50)
    assert np.all(np.diff(found.depth) > 0)
    for n, (_, vector) in enumerate(expected):
        log_p = log_probabilities(trace, vector)
        assert found.stream.target_log_probability[n] == pytest.approx(log_p[40], abs=1e-4)
        assert found.stream.foil_log_probability[n] == pytest.approx(log_p[50], abs=1e-4)
        assert found.stream.target_rank[n] == ranks(trace, vector)[40]
    for series, site in ((found.attention, trace.attn_out), (found.mlp, trace.mlp_out)):
        assert series.shape == (trace.n_layers,)
        for layer in range(trace.n_layers):
            assert series.target_logit[layer] == pytest.approx(float(unembed(trace, site[layer, 2])[40]), abs=1e-4)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gpt_neox", "gemma2"])
def test_a_trajectory_ends_in_the_prediction(traces, name):
    trace = traces(name)
    found = trajectory(trace)
    assert found.stream.target == trace.target
    assert found.stream.target_rank[-1] == 1
    assert found.stream.target_logit[-1] == pytest.approx(float(trace.logits[trace.target]), abs=1e-4)


def test_trajectories_that_cannot_be(tiny, traces):
    with pytest.raises(UnsupportedReadingError, match="so a trajectory has no meaning"):
        trajectory(traces("bert_headless"))
    with pytest.raises(ArgumentError, match="position=-8 is outside"):
        trajectory(traces("gpt2"), position=-8)
    with pytest.raises(NotRecordedError, match="attn_out"):
        trajectory(flowgraph.trace(tiny("llama"), IDS, keep={"resid_pre", "resid_mid", "resid_post"}))


# -- heads ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_a_head_by_its_sources(traces, name):
    """With every source shown, parts sum to the output, scores make the pattern and logits make the attribution."""
    trace = traces(name)
    found = head_circuit(trace, layer=1, head=3, sources=len(IDS), k=4)
    anatomy, block = trace.model.anatomy, trace.model.anatomy.blocks[1]
    output = head_outputs(trace)[1, 3, 6]
    np.testing.assert_allclose(found.output.top_logits, read(trace, output, k=4).top_logits, atol=1e-4)
    assert found.contribution.sum() == pytest.approx(1, abs=1e-5)
    assert np.all(np.diff(np.abs(found.contribution)) <= 1e-7)
    assert found.coverage == pytest.approx(1)
    np.testing.assert_allclose(found.pattern, trace.pattern[1, 3, 6].numpy()[found.sources])
    assert found.source_tokens == tuple(trace.tokens[i] for i in found.sources)
    values = anatomy.per_query_head(trace.v[1])[3]
    for n, i in enumerate(found.sources):
        brought = trace.pattern[1, 3, 6, i] * values[i] @ anatomy.W_O(1)[3]
        if block.attention_post_norm is not None:
            brought = block.attention_post_norm.linear(brought, trace.norm_scales["attention_post"][1, 6])
        assert found.values.norm[n] == pytest.approx(float(brought.norm()), rel=1e-4)
        np.testing.assert_allclose(
            found.values.target_logit[n], float(unembed(trace, brought)[trace.target]), atol=1e-4
        )
        assert found.contribution[n] == pytest.approx(float(brought @ output / (output @ output)), abs=1e-5)
    scores = found.score if anatomy.attention_softcap is None else anatomy.attention_softcap * np.tanh(
        found.score / anatomy.attention_softcap
    )  # fmt: skip
    shown = np.exp(scores - scores.max())
    np.testing.assert_allclose(found.pattern / found.pattern.sum(), shown / shown.sum(), atol=1e-5)
    if name in LINEAR:
        written = flowgraph.direct_logit_attribution(trace)
        np.testing.assert_allclose(found.logits, written.heads_by_source[1, 3, found.sources], atol=1e-4)
        assert found.output_logits == pytest.approx(written.heads[1, 3], abs=1e-4)
    else:
        assert (found.logits, found.output_logits) == (None, None)


@pytest.mark.parametrize("name", SOME)
def test_the_strongest_sources_are_those_of_the_graph(traces, name):
    trace = traces(name)
    found = head_circuit(trace, layer=0, head=1, position=4, sources=2, k=3)
    graph = semantic_graph(trace, layers=0, positions=4, heads=[1], sources_per_head=2, k=3)
    readings = {str(node): reading for node, reading in zip(graph.nodes, graph.readings, strict=True)}
    for n, i in enumerate(found.sources):
        for kind, reading in (("key", found.keys), ("value", found.values)):
            node = readings[f"L0H1.{kind}[{i}]@4"]
            assert [token for token, *_ in node.top] == list(reading.top_tokens[n])
            assert node.activation == pytest.approx(found.pattern[n])
    assert [token for token, *_ in readings["L0H1.query@4"].top] == list(found.queries.top_tokens[0])
    assert readings["L0H1@4"].coverage == pytest.approx(found.coverage)


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("llama", {"layer": 0, "head": 4}, ArgumentError, "head=4 must be one of 0…3"),
        ("llama", {"layer": 0, "head": -1}, ArgumentError, "head=-1 must be one of 0…3"),
        ("llama", {"layer": 5, "head": 0}, ArgumentError, "layer=5 is not one of"),
        ("llama", {"layer": 0, "head": 0, "sources": 0}, ArgumentError, "sources=0 must be at least 1"),
        ("bert_headless", {"layer": 0, "head": 0}, UnsupportedReadingError, "the circuit of a head"),
    ],
)
def test_heads_that_are_not_there(traces, name, options, error, message):
    with pytest.raises(error, match=message):
        head_circuit(traces(name), **options)


def test_a_head_that_writes_nothing(tiny):
    trace = flowgraph.trace(tiny("gpt2"), IDS)
    silent = {**trace.sites, "v": torch.zeros_like(trace.v)}
    found = head_circuit(dataclasses.replace(trace, sites=silent), layer=0, head=0)
    assert (len(found.sources), len(found.keys), found.coverage) == (0, 0, 1.0)
    assert found.output.norm[0] == 0


@pytest.mark.parametrize("name", SOME)
def test_a_prompt_of_one_token(tiny, name):
    trace = flowgraph.trace(tiny(name), [20], position=-1)
    assert head_circuit(trace, layer=0, head=0).sources.tolist() == [0]
    assert head_circuit(trace, layer=0, head=0).contribution == pytest.approx(1)
    assert len(trajectory(trace).sites) == (3 if trace.wiring == "parallel" else 5)
    assert norm_filter(trace, layer=1, part="mlp").token == trace.tokens[0]
    graph = semantic_graph(trace, layers=0)
    edge = next(e for e in range(len(graph)) if EDGE_KINDS[graph.kind[e]] == "residual")
    assert edge_tokens(trace, graph, edge).promoted


# -- neurons ----------------------------------------------------------------------------------------------------------

PROMPTS = [[20, 31, 42], [53, 64, 75, 86, 97], [11], [99, 98, 97, 96]]


@pytest.mark.parametrize("positions", ["last", "all"])
@pytest.mark.parametrize("most_active", [9, None])
@pytest.mark.parametrize("name", ["gpt2", "llama", "opt", "gemma2", "gpt_neox"])
def test_frequencies_by_counting(tiny, name, most_active, positions):
    loaded = tiny(name)
    found = regularization_neurons(
        loaded, iter(PROMPTS), threshold=0.3, most_active=most_active, positions=positions, others=3
    )
    count, total, cases = np.zeros((2, 64)), np.zeros((2, 64)), 0
    for prompt in PROMPTS:
        trace = flowgraph.trace(loaded, prompt)
        for t in range(len(prompt)) if positions == "all" else [len(prompt) - 1]:
            cases += 1
            for layer in range(2):
                row = trace.neurons[layer, t].numpy()
                total[layer] += row
                for n in range(64):
                    larger = int((np.abs(row) > abs(row[n])).sum())
                    count[layer, n] += row[n] > 0 if most_active is None else larger < 9 and row[n] != 0
    assert (found.prompts, found.counted) == (4, cases)
    np.testing.assert_allclose(found.frequency, count / cases)
    np.testing.assert_allclose(found.mean_activation, total / cases, atol=1e-5)
    listed = list(zip(found.layer.tolist(), found.neuron.tolist(), strict=True))
    assert set(listed) == set(zip(*(axis.tolist() for axis in np.nonzero(count / cases > 0.3)), strict=True))
    assert listed
    frequencies = [found.frequency[place] for place in listed]
    assert frequencies == sorted(frequencies, reverse=True)
    trace = flowgraph.trace(loaded, PROMPTS[0])
    for n, (layer, neuron) in enumerate(listed):
        row = loaded.anatomy.blocks[layer].mlp_output.weight[neuron]
        if loaded.anatomy.blocks[layer].mlp_post_norm is not None:
            row = loaded.anatomy.blocks[layer].mlp_post_norm.linear(row, torch.ones(()))
        row = -row if total[layer, neuron] < 0 else row
        log_p = log_probabilities(trace, row)
        assert found.reading.entropy[n] == pytest.approx(-(np.exp(log_p) * log_p).sum(), abs=1e-3)
        assert found.row_norm[layer, neuron] == pytest.approx(float(row.norm()), rel=1e-5)
    assert found.other_entropy.shape == (2, 3)
    assert found.other_neuron.tolist() == [0, 32, 63]
    assert found.greatest_entropy == pytest.approx(np.log(loaded.anatomy.d_vocab))
    assert np.all(found.reading.entropy < found.greatest_entropy)


def test_neurons_of_some_layers_and_of_none(tiny):
    loaded = tiny("llama")
    all_layers = regularization_neurons(loaded, PROMPTS, most_active=5, threshold=0.2, others=2)
    upper = regularization_neurons(loaded, PROMPTS, layers=1, most_active=5, threshold=0.2, others=2)
    assert upper.layers == (1, 2)
    np.testing.assert_array_equal(upper.frequency, all_layers.frequency[1:])
    np.testing.assert_array_equal(upper.neuron, all_layers.neuron[all_layers.layer == 1])
    assert set(upper.layer.tolist()) == {1}
    never = regularization_neurons(loaded, PROMPTS, most_active=1, threshold=0.99, others=2)
    assert (len(never.neuron), len(never.reading)) == (0, 0)


def test_masked_models_are_counted_at_the_mask(tiny):
    loaded = tiny("bert")
    ids = [2, 20, 4, 31, 3]
    found = regularization_neurons(loaded, [ids], most_active=3, threshold=0.5)
    neurons = flowgraph.trace(loaded, ids).neurons
    assert found.counted == 1
    best = neurons[0, 2].abs().topk(3).indices.tolist()
    assert sorted(found.neuron[found.layer == 0].tolist()) == sorted(best)


def test_only_activations_are_kept(tiny, monkeypatch):
    asked = []
    module = __import__("flowgraph.analyses.regularization", fromlist=["trace"])
    original = module.trace
    monkeypatch.setattr(module, "trace", lambda *a, **b: (asked.append(b["keep"]), original(*a, **b))[1])
    module.regularization_neurons(tiny("llama"), PROMPTS, layers=(1, 2), most_active=5)
    assert asked == [TraceSites(frozenset({"neurons"}), (1, 2))] * 4


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("llama", {}, ArgumentError, "most_active=100 must be between 1 and 63, fewer than the 64 neurons of a layer"),
        ("llama", {"most_active": 0}, ArgumentError, "most_active=0 must be between"),
        ("llama", {"most_active": 5, "threshold": 1.0}, ArgumentError, "threshold=1.0 must be at least 0 and below 1"),
        ("llama", {"most_active": 5, "layers": 2}, ArgumentError, "layers=2 is not within 0…1"),
        ("llama", {"most_active": 5, "layers": (1, 1)}, ArgumentError, r"layers=\(1, 1\) is not within"),
        ("llama", {"most_active": 5, "others": 0}, ArgumentError, "others=0 must be between 1 and 64"),
        ("llama", {"most_active": 5, "prompts": []}, ArgumentError, "prompts is empty; give at least one"),
        ("bert_headless", {}, UnsupportedReadingError, "the entropy of a neuron's row"),
    ],
)
def test_bad_arguments_about_neurons(tiny, name, options, error, message):
    with pytest.raises(error, match=message):
        regularization_neurons(tiny(name), options.pop("prompts", PROMPTS), **options)


# -- edges ------------------------------------------------------------------------------------------------------------


def vectors_into(trace, graph, kind):
    """Node of a kind → sum of the vectors along all edges that enter it."""
    found = {}
    for e in range(len(graph)):
        target = graph.nodes[graph.target[e]]
        if target.kind == kind:
            found[target] = found.get(target, 0) + carried(trace, graph, e).vector
    return found


def with_every_edge(trace, method):
    """Weights of a method; parts that bring their state no nearer would be no edges of proximity, and get a number here."""
    if method != "alti":
        return flowgraph.edge_weights(trace, method=method)
    summed = trace.pattern.sum(1).double().numpy()
    summed[:, np.arange(len(IDS)), np.arange(len(IDS))] = 0  # on the residual edge
    weights = flowgraph.edge_weights(trace, method="proximity", parts="token")
    assert np.all(weights.attention_summed[summed == 0] == 0)
    return dataclasses.replace(weights, attention_summed=summed)


@pytest.mark.parametrize(("method", "level"), [
    ("attention", "token"), ("attention", "head"), ("norms", "token"), ("norms", "head"), ("alti", "token"),
])  # fmt: skip
@pytest.mark.parametrize("name", [*REPRESENTATIVES, "opt_post_norm"])
def test_what_edges_carry_sums_to_the_state(traces, name, level, method):
    """Vectors along all edges into a state, and the bias that is no edge, are the state: through the norm over it, if any."""
    trace = traces(name)
    graph = build_graph(with_every_edge(trace, method), level=level)
    attended = "resid_post" if trace.wiring == "parallel" else "resid_mid"
    for kind in {attended, "resid_post"}:
        sums = vectors_into(trace, graph, kind)
        assert len(sums) == trace.n_layers * len(IDS)
        for node, total in sums.items():
            layer, step = Layer(trace, node.layer), "attention" if kind == "resid_mid" else "mlp"
            bias = layer.bias("attention", node.position) if kind == attended else None
            whole = layer.into_state(step, node.position, total if bias is None else total + bias)
            after = layer.state_bias(step)
            whole = whole if after is None else whole + after
            state = trace.site(kind)[node.layer, node.position]
            np.testing.assert_allclose(whole, state, atol=3e-5 * float(state.abs().max()), err_msg=str(node))
    if level == "head":
        heads = head_outputs(trace)
        for node, total in vectors_into(trace, graph, "head").items():
            expected = heads[node.layer, node.head, node.position]
            np.testing.assert_allclose(total, expected, atol=3e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("level", ["token", "head"])
@pytest.mark.parametrize("name", LINEAR_REPRESENTATIVES)
def test_what_edges_carry_makes_the_logits(traces, name, level):
    """In the direction of the target, what travels along an edge is the edge's own weight."""
    trace = traces(name)
    graph = build_graph(trace, method="logits", level=level, readings=False)
    direction = flowgraph.lenses.direct_attribution.logit_direction(trace, trace.target, None, trace.position)[0]
    kinds = set()
    for e in range(len(graph)):
        source = graph.nodes[graph.source[e]]
        if source.kind in ("final_norm_bias", "unembed_bias"):
            with pytest.raises(UnsupportedReadingError, match="cannot be read in vocabulary: it is added"):
                carried(trace, graph, e)
            continue
        kind, logit = EDGE_KINDS[graph.kind[e]], float(carried(trace, graph, e).vector @ direction)
        bias = f"L{source.layer}.mlp_bias"
        if kind == "mlp":  # what the MLP adds has its bias in it, which the attribution lists by itself
            logit -= flowgraph.direct_logit_attribution(trace).biases.get(bias, 0.0)
        assert logit == pytest.approx(float(graph.weight[e]), abs=1e-4)
        kinds.add(kind)
    assert kinds >= {"attention", "mlp", "embed"}


@pytest.mark.parametrize("options", [{}, {"rows_per_block": 5, "heads": 2}, {"sources_per_head": 1, "heads": [1]}])
@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_edges_of_a_semantic_graph(traces, name, options):
    """Where a part of a sum travels it is the vector that the graph was made of; elsewhere there is a reason why none does."""
    trace = traces(name)
    graph = semantic_graph(trace, positions=[3, -1], neurons_per_block=4, **options)
    heads = options.get("heads")
    choice = Choice(
        tuple(heads) if isinstance(heads, list) else heads, options.get("sources_per_head", 3),
        options.get("rows_per_block", 0), 4, "contribution",
    )  # fmt: skip
    vectors = sketched(trace, (0, trace.n_layers), (3, 6), choice=choice).vectors
    refused, kinds = set(), set()
    for e in range(len(graph)):
        kind, source, target = EDGE_KINDS[graph.kind[e]], graph.nodes[graph.source[e]], graph.nodes[graph.target[e]]
        if (kind, target.kind) in _NO_VECTOR:
            with pytest.raises(UnsupportedReadingError, match="cannot be read in vocabulary") as raised:
                carried(trace, graph, e)
            assert f"edge {e} ({source} → {target}, {kind}): " in str(raised.value).replace(
                " cannot be read in vocabulary", ""
            )
            assert graph.unit_of(e) != "contribution"
            refused.add((kind, target.kind))
            continue
        found = carried(trace, graph, e).vector
        kinds.add(kind)
        if kind == "value":
            layer = Layer(trace, target.layer)
            expected = layer.source_rows[target.head, target.index]
            assert graph.weight[e] == pytest.approx(float(found.norm()), rel=1e-4)
        else:
            expected = vectors[source]
        np.testing.assert_allclose(found, expected, atol=1e-4 * float(expected.abs().max()) + 1e-7, err_msg=f"{source}")
    gated = {("mlp_in", "gate")} if trace.model.anatomy.blocks[0].mlp_gate is not None else set()
    rows = {("head", "row"), ("rest", "attn_rest")} if "rows_per_block" in options else set()
    assert refused - gated == {
        ("query", "query"), ("key", "key"), ("attention", "key"), ("attention", "value"), ("mlp_in", "neuron_in"),
        ("neuron", "neuron"),
    } | rows  # fmt: skip
    assert gated <= refused
    assert kinds >= {"residual", "attn", "mlp", "attention", "neuron", "head", "value", "rest", "unembed"}


def test_tokens_of_an_edge(traces):
    trace = traces("llama")
    graph = build_graph(trace, method="norms", level="head", readings=False)
    e = next(e for e in range(len(graph)) if EDGE_KINDS[graph.kind[e]] == "attention" and graph.key_pos[e] == 2)
    found = edge_tokens(trace, graph, e, k=4)
    layer, h, t = (int(column[e]) for column in (graph.layer, graph.head, graph.query_pos))
    anatomy = trace.model.anatomy
    vector = trace.pattern[layer, h, t, 2] * anatomy.per_query_head(trace.v[layer])[h, 2] @ anatomy.W_O(layer)[h]
    logits = unembed(trace, vector)
    np.testing.assert_allclose(
        [logit for *_, logit in found.promoted], logits.sort(descending=True).values[:4], atol=1e-4
    )
    np.testing.assert_allclose([logit for *_, logit in found.suppressed], logits.sort().values[:4], atol=1e-4)
    assert found.weight == pytest.approx(float(vector.norm()), rel=1e-4)
    assert (found.kind, found.unit, found.carried) == ("attention", "norm", f"what head {h} brings from position 2")
    assert (str(found.source), str(found.target)) == (str(graph.nodes[graph.source[e]]), f"L{layer}H{h}@{t}")
    structural = build_graph(trace, method="attention", readings=False)
    e = int(np.flatnonzero(structural.structural)[1])
    assert edge_tokens(trace, structural, e).weight is None


def test_edges_that_say_too_little(traces, tiny):
    trace = traces("llama")
    graph = semantic_graph(trace, layers=1, neurons_per_block=4)
    kinds = [EDGE_KINDS[kind] for kind in graph.kind]
    strongest = next(
        e for e, kind in enumerate(kinds) if kind == "neuron" and graph.nodes[graph.target[e]].kind == "mlp"
    )
    neuron = graph.source[strongest]
    filtered = graph.keep((graph.source != neuron) & (graph.target != neuron))
    e = next(e for e in range(len(filtered)) if filtered.nodes[filtered.source[e]].kind == "mlp_rest")
    with pytest.raises(
        ArgumentError, match=r"all that the graph does not show of L1.mlp@6, but some of what it did show"
    ):
        edge_tokens(trace, filtered, e)
    ff = build_graph(trace, method="ff", readings=False)
    with pytest.raises(
        UnsupportedReadingError, match="is of method 'ff': it carries a part of the state together with"
    ):
        edge_tokens(trace, ff, 0)
    with pytest.raises(ArgumentError, match=r"edge=-1 is not one of the graph's \d+ edges"):
        edge_tokens(trace, graph, -1)
    with pytest.raises(ArgumentError, match=r"with 7 tokens, the trace of .* with 1: another number of tokens"):
        edge_tokens(flowgraph.trace(tiny("llama"), [20]), graph, 0)
    with pytest.raises(ArgumentError, match="other tokens or another model"):
        edge_tokens(flowgraph.trace(tiny("llama"), IDS[::-1]), graph, 0)
    with pytest.raises(UnsupportedReadingError, match="the tokens of an edge"):
        edge_tokens(traces("bert_headless"), semantic_graph(traces("bert_headless")), 0)


# -- the real model ---------------------------------------------------------------------------------------------------


@pytest.mark.real_model
def test_the_real_model_says_tokyo(smollm2):
    trace = flowgraph.trace(smollm2, JAPAN, foil=" Paris")
    found = trajectory(trace)
    assert len(found.sites) == 61
    assert (found.stream.target_token, found.stream.foil_token) == (" Tokyo", " Paris")
    assert found.stream.target_rank[0] > 100
    assert found.stream.target_rank[-1] == 1
    head = head_circuit(trace, layer=23, head=4)
    assert head.source_tokens[0] == " Japan"
    assert head.pattern[0] > 0.9
    assert head.logits[0] == max(head.logits)
    assert "Japan" in head.values.top_tokens[0][0]
    graph = build_graph(trace, level="head", layers=(23, 24), readings=False)
    e = next(
        e for e in range(len(graph))
        if (graph.head[e], graph.query_pos[e], graph.key_pos[e]) == (4, 7, 3) and EDGE_KINDS[graph.kind[e]] == "attention"
    )  # fmt: skip
    assert edge_tokens(trace, graph, e, k=10).reading.top_tokens == head.values.top_tokens[:1]
    states = overlap_by_layer(logit_lens(trace), logit_lens(trace, site="resid_pre"))
    assert states.mean[-1] < 1
    assert states.values.shape == (30, 8)


@pytest.mark.real_model
def test_norms_of_the_real_model(smollm2):
    trace = flowgraph.trace(smollm2, JAPAN)
    found = norm_filter(trace, layer=29, part="mlp", k=10)
    assert found.steps == ("scale", "gain")
    gain = dict(zip(found.steps, found.step_divergence, strict=True))
    assert gain["gain"] > 100 * gain["scale"]
    assert found.promoted_in_rank[0].rank_factor > 2
    assert 0 <= found.overlap < 1


@pytest.mark.slow
@pytest.mark.real_model
def test_neurons_of_the_real_model(smollm2):
    prompts = [JAPAN, MARY, "The quick brown fox", "import numpy as", "Once upon a time there", "In 1998 the price of"]
    found = regularization_neurons(smollm2, prompts, others=2)
    assert found.counted == 6
    assert len(found.neuron) > 0
    assert np.all(found.frequency[found.layer, found.neuron] > 0.85)
    assert np.all(found.reading.entropy <= found.greatest_entropy)
    # About 100 of 1536 neurons are active in each case, so hardly any would be in all six by chance.
    np.testing.assert_allclose(found.frequency.mean(1), 100 / 1536, rtol=1e-6)
