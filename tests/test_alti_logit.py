"""ALTI-Logit: everything a logit is made of, shared out among the input tokens."""

from __future__ import annotations

import numpy as np
import pytest

import flowgraph
from flowgraph import alti_logit, direct_logit_attribution, edge_weights
from flowgraph.algorithms.alti_logit import AltiLogit
from flowgraph.errors import ArgumentError, UnsupportedReadingError
from tests.conftest import IDS, JAPAN, LINEAR_REPRESENTATIVES


def mixtures(trace) -> list[np.ndarray]:
    """What each state is made of, loop by loop: [T, T] before block 0, after block 0 …"""
    weights = edge_weights(trace, method="proximity", parts="token")
    count = len(trace.tokens)
    made = [np.eye(count)]
    for row in range(trace.n_layers):
        moved = np.zeros((count, count))
        for t in range(count):
            own = float(weights.residual[row, t]) + (float(weights.mlp[row, t]) if weights.parallel else 0.0)
            moved[t] = own * made[-1][t]
            for s in range(count):
                moved[t] += float(weights.attention_summed[row, t, s]) * made[-1][s]
        made.append(moved)
    return made


@pytest.mark.parametrize("position", [-1, 3])
@pytest.mark.parametrize("name", LINEAR_REPRESENTATIVES)
def test_parts_are_mixed_as_the_states_are_and_sum_to_the_logit(tiny, name, position):
    trace = flowgraph.trace(tiny(name), IDS, position=position, foil=5)
    found = alti_logit(trace)
    written = direct_logit_attribution(trace, position=trace.position)
    made = mixtures(trace)
    attention, mlps = np.zeros(7), np.zeros(7)
    for layer in range(trace.n_layers):
        for s in range(7):
            attention += written.heads_by_source[layer, :, s].sum() * made[layer][s]
        mlps += written.mlps[layer] * made[layer if trace.wiring == "parallel" else layer + 1][trace.position]
    np.testing.assert_allclose(found.attention, attention, atol=1e-5)
    np.testing.assert_allclose(found.mlps, mlps, atol=1e-5)
    assert found.tokens.sum() + found.biases == pytest.approx(found.logit, rel=1e-4, abs=1e-4)
    assert np.flatnonzero(found.embedding).tolist() in ([], [trace.position])
    assert not found.tokens[trace.position + 1 :].any()


def test_the_table_has_a_row_for_each_token_and_sums_to_the_logit(tiny, tmp_path):
    trace = flowgraph.trace(tiny("gpt2"), IDS, foil=5)
    found = alti_logit(trace)
    frame = found.to_dataframe()
    assert frame["position"].tolist() == list(range(7))
    assert frame["token"].tolist() == list(trace.tokens)
    parts = frame[["attention", "mlps", "embedding"]].to_numpy()
    np.testing.assert_array_equal(parts, np.stack([found.attention, found.mlps, found.embedding], axis=1))
    np.testing.assert_allclose(frame["logits"], parts.sum(1))
    assert frame["logits"].sum() + found.biases == pytest.approx(found.logit, rel=1e-4, abs=1e-4)
    for said in (f"{found.logit:.6g}", f"{found.biases:.6g}"):
        assert said in found.table().note
    with np.load(found.save(tmp_path / "logit.npz"), allow_pickle=False) as arrays:
        assert {"token", "attention", "mlps", "embedding", "logits", "biases", "logit"} <= set(arrays)
    assert repr(found) == f"AltiLogit({found.logit:.4g} logits over 7 tokens, biases {found.biases:.4g})"


def test_tokens_must_fit_the_parts():
    with pytest.raises(ArgumentError, match="prompt_tokens has 1 texts for 2 tokens"):
        AltiLogit(np.zeros(2), np.zeros(2), np.zeros(2), 0.0, 0.0, ("a",))


def test_models_without_a_linear_head_say_so(tiny):
    with pytest.raises(UnsupportedReadingError):
        alti_logit(flowgraph.trace(tiny("bert"), IDS, position=-1))


@pytest.mark.real_model
def test_the_real_model(smollm2):
    trace = flowgraph.trace(smollm2, JAPAN, foil=" Paris")
    found = alti_logit(trace)
    assert found.tokens.sum() + found.biases == pytest.approx(found.logit, rel=1e-3)
    # Tokyo rather than Paris: the country says so, and little that comes after it.
    assert trace.tokens[3] == " Japan"
    assert found.tokens[3] > 2 * np.abs(found.tokens[4:]).max()
