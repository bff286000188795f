import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import flowgraph
from flowgraph.algorithms import attention as rollout_input
from flowgraph.algorithms import attention_rollout, rollout
from flowgraph.errors import ArgumentError, NonFiniteError
from tests.conftest import MARY
from tests.tiny_models import tiny_model

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
    with pytest.raises(ArgumentError, match="'logits' end in the logit, so it gives no shares between positions"):
        attention_rollout(trace, method="logits")


def triangles(seed, tokens):
    made = np.random.default_rng(seed).random((2, tokens, tokens))
    return made * np.tri(tokens)


@pytest.mark.parametrize("tokens", [1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 18, 30, 31, 33, 64, 67])
def test_the_compiled_product_is_a_product_for_any_number_of_threads(tokens):
    from flowgraph.kernels.rollout import triangular_product

    upper, lower = triangles(tokens, tokens)
    results = np.full((4, tokens, tokens), np.nan)
    for chunks, result in enumerate(results, 1):
        triangular_product(upper, lower, result, chunks)
    np.testing.assert_allclose(results[0], upper @ lower, rtol=1e-12, atol=0)
    assert (results == results[0]).all()


def test_what_is_lower_triangular():
    from flowgraph.kernels.rollout import is_lower_triangular

    for row in range(5):
        for column in range(5):
            entry = np.zeros((5, 5))
            entry[row, column] = -1e-300
            assert is_lower_triangular(entry) == (column <= row)


@pytest.fixture
def products(monkeypatch):
    """Sizes of the products that compiled loops made, which are taken here for any amount of work."""
    import numba

    from flowgraph.kernels import rollout as rollout_kernels

    made = []
    product = rollout_kernels.triangular_product

    def counted(upper, lower, result, chunks):
        made.append(len(upper))
        product(upper, lower, result, chunks)

    monkeypatch.setattr(rollout, "_WORTH_LOADING", 0)
    monkeypatch.setattr(rollout_kernels, "triangular_product", counted)
    monkeypatch.setattr(numba.config, "DISABLE_JIT", 0)
    return made


@pytest.mark.parametrize("tokens", [1, 6, 23, 70])
def test_compiled_loops_make_the_same_rollout(products, tokens):
    attention = random_attention(tokens, 5, tokens, True)
    rollout = attention_rollout(attention, start_layer=1)
    assert products == [tokens] * 3
    np.testing.assert_allclose(rollout[0], np.eye(tokens))
    moved = np.eye(tokens)
    for layer in range(1, 5):
        moved = (attention[layer] + np.eye(tokens)) / 2 @ moved
        np.testing.assert_allclose(rollout[layer], moved, rtol=1e-12, atol=1e-15)
    present = np.arange(tokens) != 2
    padded = attention_rollout(attention * np.ones(tokens), residual=False, mask=present)
    kept = attention * present * present[:, None]
    np.testing.assert_allclose(padded[1], kept[1] @ kept[0] @ np.diag(present), rtol=1e-12, atol=1e-15)


def test_compiled_loops_take_any_layout(products):
    attention = random_attention(8, 3, 10, True)
    strided = np.repeat(attention, 2, axis=2)[:, :, ::2]
    strided.setflags(write=False)
    expected = attention_rollout(attention, residual=False)
    np.testing.assert_array_equal(attention_rollout(strided, residual=False), expected)
    assert products == [10] * 4
    np.testing.assert_allclose(expected[2], attention[2] @ attention[1] @ attention[0], rtol=1e-12)


def test_full_matrices_are_multiplied_as_such(products):
    attention = random_attention(5, 3, 6, True)
    attention[1] = random_attention(6, 1, 6, False)[0]
    np.testing.assert_allclose(attention_rollout(attention), twin(attention), rtol=1e-12, atol=1e-15)
    assert not products
    attention_rollout(attention[::-1], start_layer=-1)
    assert not products
    attention[1] = attention[0]
    attention_rollout(attention)
    assert products == [6, 6]


COMPILER = """
import sys
import numpy as np
from flowgraph.algorithms import attention as rollout_input
from flowgraph.algorithms import attention_rollout, rollout
attention = np.tri(200)[None].repeat(40, 0) / np.arange(1, 201)[:, None]
plain = attention_rollout(attention)
assert "numba" not in sys.modules
assert len(attention) * 200**3 > rollout._WORTH_LOADING
import numba
compiled = attention_rollout(attention)
assert "flowgraph.kernels.rollout" in sys.modules
np.testing.assert_allclose(compiled, plain, rtol=1e-12, atol=1e-15)
"""


@pytest.mark.slow
def test_the_compiler_is_not_imported_for_it():
    subprocess.run([sys.executable, "-c", COMPILER], check=True)


PLAIN = """
import numpy as np
from flowgraph.kernels.rollout import is_lower_triangular, triangular_product
upper, lower = np.random.default_rng(7).random((2, 23, 23)) * np.tri(23)
result = np.full((23, 23), np.nan)
triangular_product(upper, lower, result, 2)
np.testing.assert_allclose(result, upper @ lower, rtol=1e-12, atol=0)
assert is_lower_triangular(upper) and not is_lower_triangular(upper + 1)
assert type(triangular_product).__name__ == "function"
"""


@pytest.mark.slow
def test_the_loops_as_plain_python():
    subprocess.run([sys.executable, "-c", PLAIN], env={**os.environ, "NUMBA_DISABLE_JIT": "1"}, check=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rows_of_16_bits_are_whole_rows(dtype):
    """Rounding takes their sums off 1 by more than that of float32 may; rollout and flow stay near those of float32."""
    narrow, wide = [tiny_model("llama", t) for t in (dtype, torch.float32)]
    ids = torch.randint(20, 120, (40,), generator=torch.Generator().manual_seed(1)).tolist()
    half, full = flowgraph.trace(narrow, ids), flowgraph.trace(wide, ids)
    if dtype == torch.bfloat16:
        assert float((half.pattern.float().mean(1).sum(-1) - 1).abs().max()) > rollout_input.ROW_SUM_TOLERANCE
        with pytest.raises(ArgumentError, match=r"do not sum to 1 within 0\.001"):
            attention_rollout(half.pattern.float())
    for form in (half, half.pattern, [layer[None] for layer in half.pattern], half.pattern.mean(1)):
        for method in (attention_rollout, flowgraph.attention_flow):
            assert np.abs(np.asarray(method(form)) - np.asarray(method(full))).max() < 0.01
    np.testing.assert_allclose(attention_rollout(half)[-1].sum(-1), 1)
    for level in ("attention", "attention_summed"):
        rows = getattr(flowgraph.edge_weights(half, method="attention"), level).sum(-1)
        np.testing.assert_allclose(rows, 1, atol=1e-6)
    # What is off by more than rounding is refused in 16 bits as well.
    with pytest.raises(ArgumentError, match=r"do not sum to 1 within 0\.01"):
        attention_rollout(half.pattern * 0.9)


@pytest.fixture(scope="module")
def generated():
    model, _ = tiny_model("llama")
    model.set_attn_implementation("eager")
    ids = torch.tensor([[20, 31, 42]])
    options = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    return model, model.generate(ids, output_attentions=True, return_dict_in_generate=True, **options)


def test_what_generate_gives_step_by_step_is_the_whole_text(generated):
    model, made = generated
    traced = flowgraph.trace(model, made.sequences[0, :-1])
    assert len(traced.tokens) == 6
    for method in (attention_rollout, flowgraph.attention_flow):
        np.testing.assert_allclose(method(made.attentions), method(traced), atol=1e-6)


def test_steps_of_generate_that_do_not_fit_together_are_refused(generated):
    _, made = generated
    steps = made.attentions
    for wrong, message in (
        ((steps[0], *steps[2:]), r"attention\[1\]\[0\] has the shape .* after 3 tokens; what model\.generate"),
        ((steps[0][:1], *steps[1:]), r"different numbers of layers; what model\.generate"),
        (tuple(tuple(a.expand(2, -1, -1, -1) for a in step) for step in steps), r"several beams of model\.generate"),
    ):
        with pytest.raises(ArgumentError, match=message):
            attention_rollout(wrong)
