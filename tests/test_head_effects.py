"""The sweep over all heads, against one head at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import flowgraph as fg
from flowgraph.errors import ArgumentError, CancelledError, PromptError
from tests.conftest import IDS, JAPAN, REPRESENTATIVES, slow_but
from tests.live_memory import Live
from tests.tiny_models import TINY

OTHER = [20, 31, 44, 53, 60, 75, 86]
TARGET, FOIL = 7, 11
FAMILIES = tuple(name for name in TINY if name != "bert_headless")


def one_by_one(loaded, clean, corrupted, how):
    layers, heads = len(loaded.anatomy.blocks), loaded.anatomy.n_heads
    found = np.empty((len(clean), layers, heads))
    for layer in range(layers):
        for head in range(heads):
            node = fg.Node("head", layer=layer, head=head)
            if how in ("zero", "mean"):
                effect = fg.ablate(loaded, clean, node, how, reference=corrupted)
            else:
                effect = fg.patch(loaded, clean, corrupted, node, "denoise" if how == "denoise" else "noise")
            found[:, layer, head] = effect.effect
    return found


@pytest.mark.parametrize("name", slow_but(REPRESENTATIVES, FAMILIES))
def test_the_sweep_is_the_loop(tiny, name):
    loaded = tiny(name, torch.float64)
    clean = [fg.trace(loaded, ids, position=-1, keep=(), target=TARGET, foil=FOIL) for ids in (IDS, IDS[::-1])]
    corrupted = [fg.trace(loaded, ids, position=-1, keep=()) for ids in (OTHER, OTHER[::-1])]
    for how, others in (("zero", None), ("mean", corrupted), ("resample", corrupted), ("denoise", corrupted)):
        sweep = fg.head_effects(loaded, clean, others, how)
        np.testing.assert_allclose(sweep.by_prompt, one_by_one(loaded, clean, others, how), rtol=1e-9, atol=1e-11)
        np.testing.assert_allclose(sweep.effects, sweep.by_prompt.mean(0))
    assert np.abs(sweep.effects).min() > 0
    assert sweep.corrupted is not None


@pytest.mark.parametrize("tokens", [1, 20, 50])
def test_parts_of_any_size_give_the_same(tiny, monkeypatch, tokens):
    loaded = tiny("llama", torch.float64)
    prompts = [IDS, OTHER, IDS[::-1]]
    whole = fg.head_effects(loaded, prompts, target=TARGET, metric=fg.log_probability)
    monkeypatch.setattr("flowgraph.interventions.sweep.WIDEST", tokens * 4 * loaded.anatomy.blocks[0].mlp_output.d_in)
    monkeypatch.setattr("flowgraph.interventions.sweep._LOGIT_ROWS", 4)
    parts = fg.head_effects(loaded, prompts, target=TARGET, metric=fg.log_probability)
    np.testing.assert_allclose(parts.by_prompt, whole.by_prompt, rtol=1e-9, atol=1e-12)


def test_a_prompt_explained_before_its_end(tiny):
    loaded = tiny("gpt2", torch.float64)
    clean = [fg.trace(loaded, IDS, position=at, keep=(), target=TARGET) for at in (3, 6)]
    sweep = fg.head_effects(loaded, clean)
    np.testing.assert_allclose(sweep.by_prompt, one_by_one(loaded, clean, None, "zero"), rtol=1e-9, atol=1e-11)


def test_the_result_says_what_it_is(tiny):
    sweep = fg.head_effects(tiny("gpt2"), IDS, OTHER, target=TARGET)
    assert sweep.how == "resample"
    assert sweep.unit == "logits"
    table = sweep.table()
    assert len(table) == 8
    strengths = np.abs(np.array(table.columns["effect"]))
    assert (np.diff(strengths) <= 0).all()
    layer, head = table.columns["layer"][0], table.columns["head"][0]
    assert f"strongest L{layer}H{head}" in repr(sweep)
    assert set(sweep.arrays()) == {"effects", "by_prompt", "clean", "corrupted"}


def test_progress_and_cancel(tiny):
    seen = []
    fg.head_effects(tiny("gpt2"), IDS, progress=lambda stage, part: seen.append((stage, part)))
    parts = [part for _, part in seen]
    assert parts == sorted(parts)
    assert parts[0] == 0.0
    assert parts[-1] == 1.0
    calls = iter((False, True))
    with pytest.raises(CancelledError, match="cancelled after 4 of 12 blocks"):
        fg.head_effects(tiny("gpt2"), IDS, cancel=lambda: next(calls))
    assert not any(module._forward_pre_hooks for module in tiny("gpt2").model.modules())


def test_the_memory_is_stated_and_bounded(tiny):
    loaded = tiny("gpt2")
    every = fg.sweep_size(loaded, IDS)
    assert every < 2**30
    assert fg.sweep_size(loaded, [IDS, OTHER]) > every
    tight = fg.sweep_size(loaded, IDS, max_bytes=every // 2)
    assert tight <= every // 2
    np.testing.assert_allclose(
        fg.head_effects(loaded, IDS, max_bytes=every // 2).effects, fg.head_effects(loaded, IDS).effects, atol=1e-5
    )
    with pytest.raises(ArgumentError, match="does not hold the unchanged runs and one changed row"):
        fg.head_effects(loaded, IDS, max_bytes=1000)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "bert"])
@pytest.mark.parametrize("part", [1.0, 0.6])
def test_the_stated_memory_is_kept(tiny, name, part):
    loaded = tiny(name)
    prompts = [fg.trace(loaded, (IDS * 7)[shift : 40 + shift], position=-1, keep=()) for shift in (0, 3, 5)]
    for how, others, metric in (("zero", None, None), ("resample", prompts[::-1], fg.kl_divergence)):
        whole = fg.sweep_size(loaded, prompts, others)
        stated = fg.sweep_size(loaded, prompts, others, max_bytes=int(part * whole))
        assert stated <= part * whole
        with Live(loaded.model) as live:
            fg.head_effects(loaded, prompts, others, how, metric=metric, max_bytes=int(part * whole))
        assert 0.2 * stated < live.peak <= stated


def test_a_linear_metric_needs_no_logits(tiny):
    """The target over the mean of all tokens, as weights of the last state and by all logits."""
    for name in FAMILIES:
        loaded = tiny(name, torch.float64)
        prompts = [fg.trace(loaded, ids, position=-1, keep=(), target=TARGET) for ids in (IDS, OTHER)]
        plain = fg.head_effects(loaded, prompts, metric=lambda logits: logits[:, TARGET] - logits.mean(-1))
        linear = fg.head_effects(loaded, prompts)
        np.testing.assert_allclose(linear.by_prompt, plain.by_prompt, rtol=1e-9, atol=1e-11)
        np.testing.assert_allclose(linear.clean, plain.clean, rtol=1e-12)


def test_bad_input(tiny):
    loaded = tiny("gpt2")
    with pytest.raises(ArgumentError, match="how='mean' needs corrupted="):
        fg.head_effects(loaded, IDS, how="mean")
    with pytest.raises(ArgumentError, match="how='zero' uses no corrupted prompts"):
        fg.head_effects(loaded, IDS, OTHER, "zero")
    with pytest.raises(PromptError, match="clean and corrupted has prompts of different lengths"):
        fg.head_effects(loaded, IDS, OTHER[:5])
    with pytest.raises(ArgumentError, match="corrupted= has 2 prompts for 3"):
        fg.head_effects(loaded, [IDS, IDS, IDS], [OTHER, OTHER])


@pytest.mark.real_model
def test_a_real_model(smollm2):
    """Four heads of the default model, against the loop."""
    clean = fg.trace(smollm2, JAPAN, foil=" Kyoto", keep=())
    sweep = fg.head_effects(smollm2, clean)
    assert sweep.effects.shape == (30, 9)
    for layer, head in ((0, 0), (11, 3), (23, 4), (29, 8)):
        alone = fg.ablate(smollm2, clean, fg.Node("head", layer=layer, head=head))
        assert sweep.effects[layer, head] == pytest.approx(alone.mean_effect, abs=2e-4)
