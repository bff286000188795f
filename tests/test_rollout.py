import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import flowgraph
from flowgraph.algorithms import attention_rollout
from flowgraph.errors import ArgumentError, NonFiniteError
from tests.conftest import MARY

pytestmark = pytest.mark.filterwarnings("ignore:Do not use the `random` module")


def twin(attention, start=0):
    """Rollout as a sum over all ways, entry by entry."""
    layers, tokens = attention.shape[:2]
    result = np.zeros(attention.shape)
    moved = np.eye(tokens)
    for layer in range(layers):
        if layer >= start:
            row_sums = attention[layer].sum(1) + 1
            after = np.zeros((tokens, tokens))
            for i in range(tokens):
                for j in range(tokens):
                    for m in range(tokens):
                        mixed = (attention[layer, i, m] + (i == m)) / row_sums[i]
                        after[i, j] += mixed * moved[m, j]
            moved = after
        result[layer] = moved
    return result


def random_attention(seed, layers, tokens, causal):
    scores = np.random.default_rng(seed).normal(size=(layers, tokens, tokens)) * 2
    if causal:
        scores[:, ~np.tri(tokens, dtype=bool)] = -np.inf
    weights = np.exp(scores)
    return weights / weights.sum(-1, keepdims=True)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(1, 6), st.booleans(), st.data())
def test_equals_the_definition(seed, layers, tokens, causal, data):
    attention = random_attention(seed, layers, tokens, causal)
    start = data.draw(st.integers(0, layers - 1))
    rollout = attention_rollout(attention, start_layer=start)
    assert rollout.dtype == np.float64
    np.testing.assert_allclose(rollout, twin(attention, start), rtol=1e-12, atol=1e-15)
    np.testing.assert_array_equal(attention_rollout(attention, start_layer=start - layers), rollout)
    np.testing.assert_allclose(rollout.sum(-1), 1, rtol=1e-12)
    if causal:
        assert (rollout[:, ~np.tri(tokens, dtype=bool)] == 0).all()


def test_without_a_residual_it_is_a_product():
    attention = random_attention(1, 3, 4, False)
    rollout = attention_rollout(attention, residual=False)
    np.testing.assert_allclose(rollout[2], attention[2] @ attention[1] @ attention[0], rtol=1e-12)
    doubled = attention_rollout(attention * 2, residual=False)
    np.testing.assert_allclose(doubled[2], rollout[2] * 8, rtol=1e-12)


def test_every_form_of_the_same_attention():
    heads = np.stack([random_attention(seed, 3, 5, True) for seed in range(4)], axis=1)
    expected = attention_rollout(heads.mean(1))
    tensors = tuple(torch.tensor(layer)[None] for layer in heads)
    for form in (heads, torch.tensor(heads), tensors, list(heads)):
        np.testing.assert_allclose(attention_rollout(form), expected, rtol=1e-12, atol=1e-15)


def test_padding_is_as_if_it_were_not_there():
    inner = random_attention(2, 3, 4, False)
    present = np.array([False, True, True, False, True, True])
    attention = np.full((3, 6, 6), np.nan)
    attention[:, present] = 0
    attention[np.ix_(range(3), present, present)] = inner
    rollout = attention_rollout(attention, mask=present, start_layer=1)
    expected = attention_rollout(inner, start_layer=1)
    np.testing.assert_allclose(rollout[np.ix_(range(3), present, present)], expected, rtol=1e-12)
    assert (rollout[:, ~present] == 0).all()
    assert (rollout[:, :, ~present] == 0).all()


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox", "gemma2", "bert"])
def test_of_a_trace(tiny, name):
    trace = flowgraph.trace(tiny(name), MARY, position=-1)
    rollout = attention_rollout(trace)
    np.testing.assert_allclose(rollout, twin(trace.pattern.double().mean(1).numpy()), rtol=1e-6, atol=1e-12)
    weights = flowgraph.edge_weights(trace, method="proximity")
    moved = np.eye(len(trace.tokens))
    proximity = attention_rollout(trace, method="proximity")
    for layer in range(trace.n_layers):
        # What an MLP adds it made of the state at its own position, wherever it enters.
        along = weights.residual[layer] + (weights.mlp[layer] if weights.parallel else 0)
        moved = (weights.attention_summed[layer] + np.diag(along)) @ moved
        np.testing.assert_allclose(proximity[layer], moved, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(proximity.sum(-1), 1, rtol=1e-12)
    assert np.abs(proximity - rollout).max() > 1e-3


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"start_layer": 2}, ArgumentError, "start_layer=2 is not one of the 2 blocks"),
        ({"start_layer": -3}, ArgumentError, "start_layer=-3"),
        ({"method": "proximity"}, ArgumentError, "needs a trace"),
        ({"mask": [True]}, ArgumentError, "mask has shape"),
    ],
)
def test_bad_options_are_named(options, error, message):
    with pytest.raises(error, match=message):
        attention_rollout(random_attention(3, 2, 4, True), **options)


def test_bad_attention_is_named(tiny):
    good = random_attention(4, 2, 3, True)
    with pytest.raises(NonFiniteError, match="nan"):
        attention_rollout(np.where(good > 0, good, np.nan))
    with pytest.raises(ArgumentError, match="do not sum to 1"):
        attention_rollout(good * 1.01)
    with pytest.raises(ArgumentError, match="square blocks of one size"):
        attention_rollout([np.ones((3, 4)) / 4, np.ones((3, 3)) / 3])
    trace = flowgraph.trace(tiny("gpt2"), MARY)
    with pytest.raises(ArgumentError, match="hold the residual stream already"):
        attention_rollout(trace, method="proximity", residual=True)
    with pytest.raises(ArgumentError, match="'norms' gives no shares between positions"):
        attention_rollout(trace, method="norms")
