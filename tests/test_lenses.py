"""Readings against a naive twin that keeps every logit, and attribution against its definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import flowgraph
from flowgraph.errors import ArgumentError
from flowgraph.lenses.logit_lens import READING_SITES, _extremes, _statistics, head_outputs, read, read_site
from tests import naive
from tests.conftest import LINEAR_REPRESENTATIVES, REPRESENTATIVES

IDS = [20, 31, 42, 53, 64, 75]


@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_a_reading_against_the_naive_twin(tiny, name):
    trace = flowgraph.trace(tiny(name), IDS, position=-1, target=40)
    vectors = torch.cat((trace.resid_post.flatten(0, 1), 3 * trace.mlp_out.flatten(0, 1), 1e-3 * trace.attn_out[0, :1]))
    reading = flowgraph.read(trace, vectors, k=7)
    expected = naive.reading(flowgraph.unembed(trace, vectors), 40, 7)
    assert reading.top_token_ids.tolist() == expected["top_token_ids"]
    assert reading.bottom_token_ids.tolist() == expected["bottom_token_ids"]
    for field in (
        "top_logits", "top_probabilities", "bottom_logits", "target_logit", "target_log_probability",
        "target_probability", "entropy",
    ):  # fmt: skip
        np.testing.assert_allclose(getattr(reading, field), expected[field], rtol=2e-4, atol=2e-5, err_msg=field)
    assert reading.target_rank.tolist() == expected["target_rank"]
    np.testing.assert_allclose(reading.norm, vectors.norm(dim=-1), rtol=1e-6)
    vocabulary = trace.model.vocabulary
    assert reading.top_tokens == tuple(vocabulary.strings(ids) for ids in reading.top_token_ids.tolist())
    assert reading.target_token == vocabulary.string(40)


@settings(deadline=None, max_examples=200)
@given(
    rows=st.integers(1, 4),
    size=st.integers(1, 400),
    k=st.integers(1, 12),
    levels=st.integers(1, 50),
    seed=st.integers(0, 10**6),
)
def test_extremes_are_exact_with_ties_and_any_size(rows, size, k, levels, seed):
    k = min(k, size)
    logits = torch.randint(levels, (rows, size), generator=torch.Generator().manual_seed(seed)).float()
    for largest in (True, False):
        values, ids = _extremes(logits, k, largest=largest)
        assert torch.equal(values, logits.sort(dim=-1, descending=largest).values[:, :k])
        assert torch.equal(logits.gather(1, ids), values)
        assert all(len(set(row)) == k for row in ids.tolist())


def test_probabilities_that_underflow_keep_their_rank_and_logarithm():
    logits = torch.linspace(-300.0, 300.0, 640)[None].repeat(2, 1)
    found = _statistics(logits.clone(), 3, {"target": 5})
    assert found["target_rank"].tolist() == [635, 635]
    assert found["target_probability"].tolist() == [0.0, 0.0]
    expected = float(logits[0, 5].double() - logits[0].double().logsumexp(-1))
    assert found["target_log_probability"].tolist() == pytest.approx([expected] * 2, rel=1e-6)
    assert (found["entropy"] >= 0).all()


def test_many_vectors_are_read_as_single_ones(tiny, monkeypatch):
    trace = flowgraph.trace(tiny("llama"), IDS)
    whole = flowgraph.logit_lens(trace)
    monkeypatch.setattr("flowgraph.lenses.logit_lens._GEMM_BYTES", 4 * trace.model.anatomy.d_vocab * 2)
    in_pairs = flowgraph.logit_lens(trace)
    assert in_pairs.top_tokens == whole.top_tokens
    np.testing.assert_allclose(in_pairs.top_logits, whole.top_logits, rtol=1e-6)


def test_shape_and_indices_of_a_reading(tiny):
    trace = flowgraph.trace(tiny("gpt2"), IDS)
    lens = flowgraph.logit_lens(trace, k=3)
    assert lens.shape == (2, 6)
    assert len(lens) == 12 == len(list(lens))
    assert lens[1, 2] == lens[-1, 2] == lens[8]
    assert lens[1, 2].top[0][0] == lens.top_tokens[8][0]
    with pytest.raises(IndexError):
        lens[12]
    empty = flowgraph.read(trace, torch.zeros(0, 32), k=4)
    assert len(empty) == 0
    assert empty.top_logits.shape == (0, 4)


def test_reading_of_a_node_survives_plain_data(tiny):
    for reading in flowgraph.logit_lens(flowgraph.trace(tiny("gpt2"), IDS), k=3):
        assert flowgraph.NodeReading.from_dict(reading.to_dict()) == reading
    assert flowgraph.NodeReading.from_dict({"norm": 2.0}) == flowgraph.NodeReading(norm=2.0)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gptj", "gemma2", "bert"])
@pytest.mark.parametrize("site", [site for site in READING_SITES if "cross" not in site])
def test_every_site_can_be_read(tiny, name, site):
    trace = flowgraph.trace(tiny(name), IDS, position=-1)
    if site == "resid_mid" and trace.wiring == "parallel":
        with pytest.raises(ArgumentError, match="no state between attention and MLP"):
            read_site(trace, site)
        return
    reading = read_site(trace, site, k=2)
    vectors = head_outputs(trace) if site == "head_out" else trace.site(site)
    assert reading.shape == vectors.shape[:-1]
    np.testing.assert_allclose(reading.norm, vectors.reshape(-1, 32).float().norm(dim=-1), rtol=1e-5)


def test_lens_of_a_masked_model_uses_the_whole_head(tiny):
    loaded = tiny("bert")
    trace = flowgraph.trace(loaded, IDS, position=-1)
    with torch.no_grad():
        expected = loaded.model.cls(trace.resid_post[0])
    torch.testing.assert_close(flowgraph.unembed(trace, trace.resid_post[0]), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 0}, "k=0 must be between 1 and 320"),
        ({"k": 321}, "k=321 must be between"),
        ({"vectors": torch.zeros(3, 31)}, r"shape \(3, 31\); the last axis must be d_model=32"),
        ({"target": 999}, "target=999 is not a token id"),
    ],
)
def test_bad_arguments_of_read(tiny, change, message):
    trace = flowgraph.trace(tiny("gpt2"), IDS)
    with pytest.raises(ArgumentError, match=message):
        flowgraph.read(**{"trace": trace, "vectors": trace.resid_post, **change})


def test_unknown_site(tiny):
    with pytest.raises(ArgumentError, match="site='pattern' is not read in vocabulary; expected one of resid_pre"):
        flowgraph.logit_lens(flowgraph.trace(tiny("gpt2"), IDS), site="pattern")


@pytest.mark.parametrize("name", LINEAR_REPRESENTATIVES)
def test_attribution_of_a_difference_is_the_difference_of_attributions(tiny, name):
    trace = flowgraph.trace(tiny(name), IDS)
    first, second = (flowgraph.direct_logit_attribution(trace, token) for token in (50, 60))
    both = flowgraph.direct_logit_attribution(trace, 50, 60)
    np.testing.assert_allclose(both.heads, first.heads - second.heads, atol=1e-5)
    np.testing.assert_allclose(both.neurons, first.neurons - second.neurons, atol=1e-5)
    assert both.logit == pytest.approx(first.logit - second.logit, abs=1e-5)
    assert set(both.biases) == set(first.biases)


def test_attribution_is_of_the_logit_before_a_soft_cap(tiny):
    trace = flowgraph.trace(tiny("gemma2"), IDS)
    cap = trace.model.anatomy.softcap
    parts = flowgraph.direct_logit_attribution(trace, 50)
    assert cap * np.tanh(parts.logit / cap) == pytest.approx(float(trace.logits[50]), abs=1e-4)
    assert abs(parts.logit - float(trace.logits[50])) > 1e-4


def test_attribution_defaults_to_the_traces_target_and_foil(tiny):
    trace = flowgraph.trace(tiny("gpt2"), IDS, target=50, foil=60)
    assert flowgraph.direct_logit_attribution(trace).foil == 60
    assert flowgraph.direct_logit_attribution(trace, 50).foil is None
    assert flowgraph.direct_logit_attribution(trace, position=1).position == 1


def test_attribution_needs_every_layer(tiny):
    trace = flowgraph.trace(tiny("gpt2"), IDS, keep=flowgraph.TraceSites(layers=(0, 1)))
    with pytest.raises(ArgumentError, match=r"needs all 2 layers; the trace kept \(0, 1\)"):
        flowgraph.direct_logit_attribution(trace)
    with pytest.raises(ArgumentError, match="position=6 is outside the prompt"):
        flowgraph.direct_logit_attribution(flowgraph.trace(tiny("gpt2"), IDS), position=6)


@pytest.mark.parametrize("name", ["llama", "gemma2", "bert"])
def test_a_foil_is_read_beside_the_target(tiny, name):
    trace = flowgraph.trace(tiny(name), [20, 31, 42, 53], position=-1, foil=7)
    states = trace.resid_post[-1]
    both, alone = read(trace, states, k=3), read(trace, states, k=3, target=7)
    assert (both.foil, both.foil_token) == (7, trace.foil_token)
    for part in ("logit", "probability", "log_probability", "rank"):
        np.testing.assert_array_equal(getattr(both, f"foil_{part}"), getattr(alone, f"target_{part}"))
    assert alone.foil is None  # the trace's foil belongs to the trace's target
    assert alone.foil_rank is None
    node = both[1]
    assert (node.foil_rank, node.foil_logit) == (int(alone.target_rank[1]), float(alone.target_logit[1]))
    assert flowgraph.values.reading.NodeReading.from_dict(node.to_dict()) == node
    assert len(read(trace, states[:0])) == 0
