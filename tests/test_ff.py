"""The method ``ff``: its sums close for every family, and its numbers are those of integrated gradients by brute force."""

from __future__ import annotations

import dataclasses
import importlib

import numpy as np
import pytest
import torch

import flowgraph
from flowgraph import Node, build_graph
from flowgraph.errors import ArgumentError, ModelNeededError
from flowgraph.methods import edge_weights
from flowgraph.methods.ff import INTEGRATION_ERROR, _Block, ff, gated_means, mean_slope
from tests import naive
from tests.conftest import IDS, REPRESENTATIVES
from tests.tiny_models import tiny_model

ff_module = importlib.import_module("flowgraph.methods.ff")
# Hugging Face's RMSNorm computes in float32 even inside float64 models.
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-6}
MLPS = {
    "gpt2": lambda block: block.mlp,
    "gpt_neox": lambda block: block.mlp,
    "gpt_neox_sequential": lambda block: block.mlp,
    "opt": lambda block: lambda x: block.fc2(block.activation_fn(block.fc1(x))),
    "llama": lambda block: block.mlp,
    "llama_bias": lambda block: block.mlp,
    "gemma2": lambda block: block.mlp,
    "phi3": lambda block: block.mlp,
    "bert": lambda block: lambda x: block.output.dense(block.intermediate(x)),
}


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("sources", [None, 1, 3], ids=str)
@pytest.mark.parametrize(
    ("name", "count", "dtype"),
    [*((name, 7, torch.float64) for name in MLPS), *((name, 1, torch.float32) for name in REPRESENTATIVES)],
    ids=str,
)
def test_the_sums_close(traces, name, count, sources, dtype):
    """Parts and biases are the state before the MLP; what the MLP makes of them is what it writes."""
    trace = traces(name, dtype, count)
    for row in range(trace.n_layers):
        block = _Block.of(trace, row)
        covered = []
        for at, found in block.chunks(sources):
            assert relative(found.ff.sum(1) + found.baseline, trace.mlp_out[row, at]) <= TOLERANCE[dtype]
            state = trace.resid_pre if trace.wiring == "parallel" else trace.resid_mid
            assert relative(found.parts.sum(1) + block.bias[at], state[row, at]) <= TOLERANCE[dtype]
            assert float(found.error.max()) <= INTEGRATION_ERROR
            covered += range(count)[at]
        assert covered == list(range(count))


def frozen(norm, scale, x):
    """A norm at its actual scale, without its bias."""
    centred = x - x.mean(-1, keepdim=True) if norm.kind == "layer" else x
    return centred * norm.gain(x.shape[-1]).double() / scale


def brute_force(trace, row, mlp_of, points=2000):
    """[T, S + 1, d] part + ff of every source and of the residual stream: the MLP's own module, differentiated along the path."""
    block = trace.model.anatomy.blocks[row]
    mlp = mlp_of(block.module)
    parallel, post_norm = trace.wiring == "parallel", trace.wiring == "post_norm"
    entering = naive.step_parts(trace, row)[0][1]
    parts = np.concatenate([entering["heads"].sum(0), entering["residual"][:, None]], 1)
    parts = torch.tensor(parts)
    state = (trace.resid_pre if parallel else trace.resid_mid)[row]
    alpha = (torch.arange(points, dtype=torch.float64)[:, None] + 0.5) / points
    result = parts.clone()
    for t in range(len(parts)):
        read = parts[t].clone()
        if parallel:
            read[:-1] = 0.0
        with torch.no_grad():
            end = state[t] if post_norm else block.mlp_norm.module(state[t])
        if not post_norm:
            read = frozen(block.mlp_norm, trace.norm_scales["mlp"][row, t], read)
        whole = read.sum(0)
        path = end - (1 - alpha) * whole
        for j, part in enumerate(read):
            if part.any():
                _, change = torch.func.jvp(mlp, (path,), (part.expand_as(path),))
                made = change.detach().mean(0)
                if block.mlp_post_norm is not None:
                    made = frozen(block.mlp_post_norm, trace.norm_scales["mlp_post"][row, t], made)
                result[t, j] += made
        if post_norm:
            result[t] = frozen(block.mlp_norm, trace.norm_scales["mlp"][row, t], result[t])
    return result


@pytest.mark.parametrize("name", MLPS)
def test_against_integrated_gradients_by_brute_force(traces, name):
    trace = traces(name, torch.float64, 5)
    single, some = ff(trace, sources=None), ff(trace, sources=2)
    tolerance = 2e-3 if name == "opt" else 1e-5  # 2,000 points see a kink only so sharply
    assert single.rest is None
    for row in range(trace.n_layers):
        expected = brute_force(trace, row, MLPS[name])
        lengths = expected.norm(dim=-1).numpy()
        np.testing.assert_allclose(single.attention_summed[row], lengths[:, :-1], rtol=tolerance, atol=tolerance)
        np.testing.assert_allclose(single.residual[row], lengths[:, -1], rtol=tolerance, atol=tolerance)
        np.testing.assert_allclose(some.residual[row], lengths[:, -1], rtol=tolerance, atol=tolerance)
        listed = some.attention_summed[row] > 0
        np.testing.assert_allclose(
            some.attention_summed[row][listed], lengths[:, :-1][listed], rtol=tolerance, atol=tolerance
        )
        if trace.wiring == "parallel":
            assert some.rest is None
            continue
        assert (listed.sum(1) == np.minimum(2, (trace.pattern[row] > 0).any(0).sum(-1).numpy())).all()
        unlisted = expected[:, :-1] * torch.tensor(~listed)[..., None]
        np.testing.assert_allclose(some.rest[row], unlisted.sum(1).norm(dim=-1).numpy(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", ["gpt2", "llama", "mistral", "gemma3", "bert", "opt_post_norm"])
def test_the_longest_parts_go_one_by_one_and_the_token_itself_always(traces, name):
    trace = traces(name)
    lengths = edge_weights(trace, method="norms").attention_summed
    listed = ff(trace, sources=3).attention_summed > 0
    itself = np.eye(len(IDS), dtype=bool)
    for row in range(trace.n_layers):
        for t in range(len(IDS)):
            others = [s for s in np.argsort(-lengths[row, t]) if s != t and lengths[row, t, s] > 0]
            assert set(np.flatnonzero(listed[row, t])) == {t, *others[:2]}
    np.testing.assert_array_equal(ff(trace, sources=1).attention_summed > 0, itself[None].repeat(trace.n_layers, 0))


@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_as_many_sources_as_tokens_are_all(traces, name):
    trace = traces(name)
    every, named = ff(trace, sources=None), ff(trace, sources=len(IDS))
    assert every.rest is None
    assert named.rest is None
    np.testing.assert_allclose(every.attention_summed, named.attention_summed, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(every.attention_summed > 0, (trace.pattern > 0).any(1).numpy())
    assert every.attention.shape == (trace.n_layers, 0, len(IDS), len(IDS))
    assert np.isfinite(every.attention_summed).all()


def test_a_part_whose_length_rounds_to_nothing_is_still_a_part(traces):
    """Two heads that all but cancel: their products lose every digit, and the part goes through by itself."""
    block = _Block.of(traces("gpt2"), 0)
    vectors, coefficient = block.vectors.clone(), block.coefficient.clone()
    vectors[1], vectors[2:], coefficient[:] = -vectors[0] * (1 + 1e-6), 0.0, coefficient[0].clone()
    block = dataclasses.replace(block, vectors=vectors, coefficient=coefficient)
    assert (block.source_lengths()[-1] == 0).any()
    ((_, found),) = block.chunks(None)
    assert [sorted(row.tolist()) for row in found.sources[-1:]] == [list(range(len(IDS)))]
    assert not found.parts[:, -1].any()


def test_options_are_written_down(traces):
    trace = traces("gpt2")
    info = ff(trace, sources=4).info
    assert (info.method, info.unit, dict(info.options)) == ("ff", "norm", {"sources": 4})
    assert ff(trace, sources=None).info.options == {"sources": "all"}
    assert ff(trace).info.options == {}


@pytest.mark.parametrize("name", ["gpt2", "llama", "gpt_neox", "gemma2", "bert"])
def test_how_many_targets_go_at_a_time_changes_nothing(traces, name, monkeypatch):
    trace = traces(name)
    whole = ff(trace, sources=3)
    monkeypatch.setattr(ff_module, "_CHUNK_NUMBERS", 2000)
    parts = ff(trace, sources=3)
    for one, other in ((whole.attention_summed, parts.attention_summed), (whole.residual, parts.residual)):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    if whole.rest is not None:
        np.testing.assert_allclose(whole.rest, parts.rest, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gpt_neox", "gemma2", "bert"])
def test_a_graph(traces, name):
    trace = traces(name)
    weights = ff(trace, sources=2)
    graph = build_graph(weights, readings=False)
    kinds = {node.kind for node in graph.nodes}
    assert "resid_mid" not in kinds
    target = graph.nodes.index(Node("resid_post", layer=1, position=6))
    incoming = graph.target == target
    rest = 0.0 if weights.rest is None else weights.rest[1, 6]
    whole = weights.attention_summed[1, 6].sum() + weights.residual[1, 6] + rest
    assert graph.share[incoming].sum() == pytest.approx(1 - rest / whole, rel=1e-6)
    with pytest.raises(ArgumentError, match="level='head'"):
        build_graph(weights, level="head", readings=False)


def test_a_window_of_layers(tiny, traces):
    whole = ff(traces("gpt2"), sources=3)
    kept = ff(flowgraph.trace(tiny("gpt2"), IDS, keep=flowgraph.TraceSites(layers=(1, 2))), sources=3)
    np.testing.assert_allclose(kept.attention_summed[0], whole.attention_summed[1], rtol=1e-6)
    np.testing.assert_allclose(kept.rest[0], whole.rest[1], rtol=1e-6)
    lower = flowgraph.trace(tiny("gpt2"), IDS, keep=flowgraph.TraceSites(layers=(0, 1)))
    assert ff(lower).unembed is None
    assert kept.unembed == whole.unembed == pytest.approx(float(traces("gpt2").resid_post[-1, -1].norm()))


def test_only_what_is_needed_must_be_kept(tiny, traces):
    kept = flowgraph.trace(tiny("bert_headless"), IDS, keep={"pattern", "v", "resid_pre", "resid_post", "norm_scales"})
    weights = ff(kept)
    np.testing.assert_array_equal(weights.attention_summed, ff(traces("bert_headless")).attention_summed)
    assert weights.unembed is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["gpt2", "llama", "gpt_neox", "gemma2", "phi3", "bert"])
def test_half_precision_is_accumulated_in_float32(traces, name, dtype):
    """The same as a float32 model that holds the same rounded weights and numbers, up to rounding of the pass."""
    half = flowgraph.trace(flowgraph.load_model(tiny_model(name), dtype=dtype), IDS, position=-1)
    for row in range(half.n_layers):
        for _, found in _Block.of(half, row).chunks(3):
            assert found.ff.dtype == torch.float32
            bound = {torch.float16: 1e-2, torch.bfloat16: 8e-2}[dtype]
            assert relative(found.ff.sum(1) + found.baseline, half.mlp_out[row].float()) <= bound


def test_a_trace_without_a_model_asks_for_it(traces, tmp_path):
    path = traces("llama").save(tmp_path / "trace.safetensors")
    with pytest.raises(ModelNeededError):
        ff(flowgraph.Trace.load(path))


@pytest.mark.parametrize("sources", [0, -1])
def test_bad_sources(traces, sources):
    with pytest.raises(ArgumentError, match=rf"sources={sources} must be at least 1 \(the token itself\), or None"):
        ff(traces("llama"), sources=sources)


def test_in_inference_mode():
    """Slopes are differentiated, which a caller's inference mode would forbid."""
    loaded = flowgraph.load_model(tiny_model("llama"))
    plain = ff(flowgraph.trace(loaded, IDS))
    with torch.inference_mode():
        np.testing.assert_array_equal(ff(flowgraph.trace(loaded, IDS)).attention_summed, plain.attention_summed)


# The integrals


@pytest.mark.parametrize(
    "activation", [torch.nn.GELU(), torch.nn.ReLU(), torch.nn.SiLU(), torch.tanh], ids=("gelu", "relu", "silu", "tanh")
)
def test_the_mean_slope_is_that_of_the_path(activation):
    start = torch.linspace(-4, 4, 41, dtype=torch.float64)[:, None] + 1e-3
    step = torch.tensor([0.0, 1e-12, -1e-12, 1e-9, -1e-8, 1e-7, 1e-6, -1e-4, 0.1, -3.0, 7.0], dtype=torch.float64)
    start, step = start.expand(-1, len(step)), step.expand(len(start), -1)
    path = (start + (torch.arange(20_000)[:, None, None] + 0.5) / 20_000 * step).requires_grad_()
    (slope,) = torch.autograd.grad(activation(path).sum(), path)
    found = mean_slope(activation, start, step)
    # The brute force steps over ReLU's kink with a width of 1/20,000.
    torch.testing.assert_close(found, slope.mean(0), rtol=1e-7, atol=1e-4 if "ReLU" in str(activation) else 3e-7)


@pytest.mark.parametrize("width", [1.0, 30.0, 300.0])
def test_points_are_doubled_where_the_path_is_steep(width, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    gate, up, gate_step, up_step = torch.randn(4, 3, 50, generator=generator, dtype=torch.float64)
    gate, gate_step = gate * torch.tensor([[0.1], [1.0], [width]]), gate_step * torch.tensor([[0.1], [1.0], [width]])
    asked = []
    quadrature = ff_module._quadrature
    monkeypatch.setattr(ff_module, "_quadrature", lambda *a: (asked.append((len(a[1][0]), a[3])), quadrature(*a))[1])
    by_gate, by_up, error = gated_means(torch.nn.functional.silu, (gate, up), (gate_step, up_step))
    assert float(error.max()) <= INTEGRATION_ERROR
    assert asked[0] == (3, 32)
    assert asked[1:] == [(1, 64 * 2**n) for n in range(len(asked) - 1)]
    assert (len(asked) > 1) == (width > 1)
    alpha = (torch.arange(50_000, dtype=torch.float64)[:, None] + 0.5) / 50_000
    for t in range(3):
        path = (gate[t] + alpha * gate_step[t]).requires_grad_()
        value = torch.nn.functional.silu(path)
        (slope,) = torch.autograd.grad(value.sum(), path)
        along = up[t] + alpha * up_step[t]
        torch.testing.assert_close(by_gate[t], (slope * along).mean(0), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(by_up[t], value.detach().mean(0), rtol=1e-4, atol=1e-4)


def test_an_integral_that_does_not_settle_is_said():
    """A gate with a kink: the slope jumps, and no number of points is enough."""
    model, tokenizer = tiny_model("llama_bias")
    for layer in model.model.layers:
        layer.mlp.act_fn = torch.nn.ReLU()
    trace = flowgraph.trace(flowgraph.load_model(model, tokenizer=tokenizer), IDS)
    with pytest.warns(UserWarning, match=r"of 'LlamaForCausalLM' have a relative error of 0\.000\d with 1024 points"):
        ff(trace)


@pytest.mark.real_model
def test_the_real_model(smollm2):
    trace = flowgraph.trace(smollm2, "The capital of Japan is the city of")
    for row in range(trace.n_layers):
        for at, found in _Block.of(trace, row).chunks(4):
            assert relative(found.ff.sum(1) + found.baseline, trace.mlp_out[row, at]) <= 1e-5
            assert float(found.error.max()) <= INTEGRATION_ERROR
    weights = ff(trace, sources=4)
    assert weights.rest[:, 4:].any()
    assert not weights.rest[:, :4].any()
