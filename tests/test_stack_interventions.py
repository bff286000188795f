"""Changes of all parts of an encoder–decoder, against plain hooks of torch on the model itself, one forward for each change."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

import flowgraph as fg
from flowgraph.errors import ArgumentError, PromptError
from flowgraph.models.anatomy import Anatomy
from flowgraph.models.eager import eager_attention
from tests.every_type import model_of

TARGET, FOIL = 7, 11
ANSWERS = {"target": TARGET, "foil": FOIL}
WRITTEN, OTHERWISE = [9, 8, 7, 6], [10, 20, 30, 6]
KINDS = ("t5", "bart", "whisper")


@cache
def made(kind: str) -> tuple[fg.LoadedModel, list[fg.Inputs], list[fg.Inputs]]:
    """A tiny model with two prompts and two corrupted ones."""
    if kind != "whisper":
        loaded = fg.load_model(model_of(kind, "sequences").eval())
        sources = [[5, 6, 7, 8, 9, 10], [12, 11, 10, 9, 8, 7], [20, 21, 7, 8, 30, 10], [12, 40, 41, 9, 50, 7]]
        given = [fg.inputs(ids=ids, target_ids=WRITTEN if n < 2 else OTHERWISE) for n, ids in enumerate(sources)]
        return loaded, given[:2], given[2:]
    loaded = fg.load_model(model_of("whisper", "speech").eval())
    bands, frames = loaded.stacks["encoder"].anatomy.layout.shape
    generator = torch.Generator().manual_seed(0)
    sounds = [torch.randn(1, bands, frames, generator=generator) for _ in range(4)]
    given = [fg.inputs(audio=sound, target_ids=WRITTEN if n < 2 else OTHERWISE) for n, sound in enumerate(sounds)]
    return loaded, given[:2], given[2:]


def attentions_of(loaded: fg.LoadedModel) -> Iterator[tuple[str, dict[str, Any], Anatomy]]:
    """Name, what a node of its heads needs, and the parts of each attention."""
    yield "decoder.self", {"kind": "head"}, loaded.anatomy
    yield "decoder.cross", {"kind": "cross_head"}, loaded.anatomy.cross
    yield "encoder.self", {"kind": "head", "stack": "encoder"}, loaded.stacks["encoder"].anatomy


def run(loaded, prompts, module=None, change=None, *, after=False):
    """[prompt] logit difference of the model itself; ``change`` is made to a module's input, or to its output."""
    handle = None
    if module is not None and not after:
        handle = module.register_forward_pre_hook(
            lambda _module, args, kwargs: (
                ((change(args[0]), *args[1:]), kwargs)
                if args
                else (args, {**kwargs, "hidden_states": change(kwargs["hidden_states"])})
            ),
            with_kwargs=True,
        )
    elif module is not None:
        handle = module.register_forward_hook(
            lambda _module, _args, out: (change(out[0]), *out[1:]) if isinstance(out, tuple) else change(out)
        )
    feeds = [one.of(loaded).rows[0].feed(loaded) for one in prompts]
    try:
        with torch.no_grad(), eager_attention(loaded.model):
            whole = {name: torch.cat([feed[name] for feed in feeds]) for name in feeds[0]}
            logits = loaded.model(**whole).logits[:, -1]
    finally:
        if handle is not None:
            handle.remove()
    return (logits[:, TARGET] - logits[:, FOIL]).double().numpy()


def seen_by(loaded, prompts, module, *, after=False):
    seen: list[torch.Tensor] = []
    run(loaded, prompts, module, lambda x: seen.append(x.clone()) or x, after=after)
    return seen[0]


@pytest.mark.parametrize("kind", KINDS)
def test_every_head_of_every_attention_is_changed_by_itself(kind):
    loaded, clean, corrupted = made(kind)
    before, worse = run(loaded, clean), run(loaded, corrupted)
    found = {
        how: fg.head_effects(loaded, clean, None if how == "zero" else corrupted, how, **ANSWERS)
        for how in ("zero", "resample", "denoise", "mean")
    }
    np.testing.assert_allclose(found["resample"].corrupted, worse, atol=1e-5)
    effects = {how: {"decoder.self": one.by_prompt, **one.further} for how, one in found.items()}
    for name, _, anatomy in attentions_of(loaded):
        assert found["zero"].by_attention[name].shape == (len(anatomy.blocks), anatomy.n_heads)
        for layer in {0, len(anatomy.blocks) - 1}:
            module = anatomy.blocks[layer].attention_output.module
            own, theirs = (seen_by(loaded, prompts, module) for prompts in (clean, corrupted))
            new = {"zero": 0 * own, "resample": theirs, "denoise": own, "mean": theirs.mean(0, keepdim=True)}
            for head in {0, anatomy.n_heads - 1}:
                part = slice(head * anatomy.d_value, (head + 1) * anatomy.d_value)
                for how, values in new.items():

                    def changed(x, part=part, values=values):
                        x = x.clone()
                        x[..., part] = values[..., part]
                        return x

                    base, unchanged = (corrupted, worse) if how == "denoise" else (clean, before)
                    alone = run(loaded, base, module, changed) - unchanged
                    np.testing.assert_allclose(effects[how][name][:, layer, head], alone, atol=2e-5)


def test_a_sweep_over_three_attentions_is_told_and_drawn(tmp_path):
    loaded, clean, corrupted = made("t5")
    seen: list[float] = []
    found = fg.head_effects(loaded, clean, corrupted, **ANSWERS, progress=lambda _stage, part: seen.append(part))
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
    table = found.table()
    sizes = {name: len(one.blocks) * one.n_heads for name, _, one in attentions_of(loaded)}
    assert {name: table.columns["attention"].count(name) for name in sizes} == sizes
    assert (np.diff(np.abs(table.columns["effect"])) <= 0).all()
    first = {name: table.columns[name][0] for name in ("attention", "layer", "head")}
    label = {
        "decoder.self": "L{layer}H{head}",
        "decoder.cross": "L{layer}.cross.H{head}",
        "encoder.self": "enc.L{layer}H{head}",
    }
    assert f"strongest {label[first['attention']].format(**first)}:" in repr(found)
    chart = found.chart()
    assert chart.rows.tokens == ("enc.L0", "enc.L1", "enc.L2", "L0", "L1", "L0.cross", "L1.cross")
    assert chart.values[4, 2] == found.effects[1, 2]
    assert chart.values[6, 3] == found.by_attention["decoder.cross"][1, 3]
    assert found.save(tmp_path / "heads.svg").stat().st_size > 500
    assert set(found.arrays()) == {"effects", "by_prompt", "clean", "corrupted", "decoder.cross", "encoder.self"}


def test_rows_at_a_time_make_no_difference(monkeypatch):
    loaded, clean, _ = made("t5")
    whole = fg.head_effects(loaded, clean, **ANSWERS)
    monkeypatch.setattr("flowgraph.interventions.stack_sweep.WIDEST", 4 * 3000)
    parts = fg.head_effects(loaded, clean, **ANSWERS)
    for name, effects in whole.by_attention.items():
        np.testing.assert_allclose(parts.by_attention[name], effects, atol=1e-5)
    stated = fg.sweep_size(loaded, clean)
    with pytest.raises(ArgumentError, match="does not hold the unchanged runs"):
        fg.head_effects(loaded, clean, max_bytes=1000)
    assert stated < 2**24
    with pytest.raises(PromptError, match="whose encoder reads different lengths"):
        fg.head_effects(loaded, clean, [fg.inputs(ids=[5, 6], target_ids=WRITTEN)] * 2)


@pytest.mark.parametrize("kind", KINDS)
def test_entries_of_every_attention_are_changed(kind):
    """Against what the pattern and the values of the trace say that the head's output becomes."""
    loaded, clean, corrupted = made(kind)
    traces = [fg.trace(loaded, one, **ANSWERS) for one in clean]
    theirs = [fg.trace(loaded, one, **ANSWERS) for one in corrupted]
    before = run(loaded, clean)
    layer, head, query, key = 0, 2, 4, 1
    for name, _, anatomy in attentions_of(loaded):
        module = anatomy.blocks[layer].attention_output.module
        part = slice(head * anatomy.d_value, (head + 1) * anatomy.d_value)
        patterns, values, others = (
            torch.stack([getattr(one.attention[name], site)[layer, head] for one in several])
            for several, site in ((traces, "pattern"), (traces, "v"), (theirs, "pattern"))
        )
        for new, edit in (
            (0.7, fg.PatternEdit(layer, head, query, key, value=0.7, attention=name)),
            (0.0, fg.PatternEdit(layer, head, query, key, attention=name)),
        ):

            def changed(x, new=new, part=part, patterns=patterns, values=values):
                x = x.clone()
                x[:, query, part] += (new - patterns[:, query, key])[:, None] * values[:, key]
                return x

            alone = run(loaded, clean, module, changed)
            effect = fg.ablate(loaded, clean, edit, **ANSWERS)
            np.testing.assert_allclose(effect.after, alone, atol=2e-5, err_msg=str(edit))
            np.testing.assert_allclose(effect.before, before, atol=1e-5)
        assert np.abs(effect.effect).max() > 1e-6

        def exchanged(x, part=part, patterns=patterns, others=others, values=values):
            x = x.clone()
            x[:, :, part] += (others - patterns) @ values
            return x

        whole = fg.PatternEdit(layer, head, attention=name)
        effect = fg.patch(loaded, clean, corrupted, whole, "noise", **ANSWERS)
        np.testing.assert_allclose(effect.after, run(loaded, clean, module, exchanged), atol=2e-5, err_msg=str(whole))
    assert effect.what == "enc.L0H2.pattern[…, …]"


@pytest.mark.parametrize("kind", KINDS)
def test_states_of_both_stacks_are_changed(kind):
    loaded, clean, corrupted = made(kind)
    layer, at = 0, 2
    block, encoder = (one.anatomy.blocks[layer] for one in (loaded, loaded.stacks["encoder"]))
    # What comes out of these modules is the state, or the state less what entered the block or left attention before.
    writers: dict[str, tuple[Any, Any]] = {
        "t5": ((block.module.layer[0], None), (block.module.layer[1], None)) if kind == "t5" else (),
        "bart": ((block.attention_norm.module, None), (block.cross.attention_norm.module, None)),
        "whisper": ((block.attention, block.module), (block.cross.attention, block.cross.attention_norm.module)),
    }  # fmt: skip
    places = {
        fg.Node("resid_cross", layer=layer, position=at): writers[kind][0],
        fg.Node("resid_mid", layer=layer, position=at): writers[kind][1],
        fg.Node("resid_post", layer=layer, position=at): (block.module, None),
        fg.Node("resid_post", layer=layer, position=at, stack="encoder"): (encoder.module, None),
    }
    for node, (module, entered) in places.items():
        for prompts, ask in (
            (None, lambda node=node: fg.ablate(loaded, clean, node, **ANSWERS)),
            (corrupted, lambda node=node: fg.patch(loaded, clean, corrupted, node, "noise", **ANSWERS)),
        ):
            own = 0.0 if entered is None else seen_by(loaded, clean, entered)
            new = 0.0
            if prompts is not None:
                new = seen_by(loaded, prompts, module, after=True)
                new = new if entered is None else new + seen_by(loaded, prompts, entered)

            def changed(x, own=own, new=new):
                x = x.clone()
                x[:, at] = (new - own + 0 * x)[:, at]
                return x

            alone = run(loaded, clean, module, changed, after=True)
            effect = ask()
            np.testing.assert_allclose(effect.after, alone, atol=5e-5, err_msg=f"{node} {prompts is None}")
            assert np.abs(effect.effect).max() > 1e-5


def test_an_encoder_without_heads_has_no_effects_of_heads():
    loaded = fg.load_model(model_of("longt5", "sequences").eval())
    found = fg.head_effects(loaded, fg.inputs(ids=[5, 6, 7, 8], target_ids=WRITTEN), **ANSWERS)
    assert not loaded.stacks["encoder"].anatomy.attending
    assert not found.by_attention["encoder.self"].any()
    assert np.abs(found.by_attention["decoder.cross"]).min() > 0


def test_mistakes_with_attentions_are_named():
    loaded, clean, _ = made("t5")
    with pytest.raises(
        ArgumentError, match=r"attention='decoder' is not one of this model's; it has 'decoder\.self', 'encoder\.self'"
    ):
        fg.ablate(loaded, clean, fg.PatternEdit(0, attention="decoder"))
    with pytest.raises(ArgumentError, match=r"L0.cross.pattern\[0, 6\]: key_pos=6 does not exist; it must lie in 0…5"):
        fg.ablate(loaded, clean, fg.PatternEdit(0, query_pos=0, key_pos=6, attention="decoder.cross"))
    with pytest.raises(ArgumentError, match=r"enc\.L2H9\.pattern"):
        fg.ablate(loaded, clean, fg.PatternEdit(2, 9, attention="encoder.self"))
    with pytest.raises(ArgumentError, match="comes after"):
        fg.ablate(loaded, clean, fg.PatternEdit(0, query_pos=0, key_pos=3, attention="decoder.self"))
    short = fg.inputs(ids=[5, 6, 7], target_ids=WRITTEN)
    with pytest.raises(ArgumentError, match="the prompts differ in length: only nodes"):
        fg.patch(loaded, clean[0], short, fg.PatternEdit(0, attention="decoder.cross"), align="start")


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_the_slopes_of_both_stacks(kind):
    """Along a random direction at every site, against two forwards of the model in 64 bits, of which T5's norms keep 32."""
    loaded, clean, _ = made(kind)
    loaded = fg.load_model(copy.deepcopy(loaded.model).double())
    found = fg.gradients(loaded, clean, **ANSWERS)
    np.testing.assert_allclose(found.values.numpy(), run(loaded, clean), atol=1e-9)
    encoder, last = found.stacks["encoder"], loaded.stacks["encoder"].anatomy.blocks[-1]
    places = [(encoder.final, last.module, True)]
    for gradients, anatomy, names in (
        (found, loaded.anatomy, ("z", "attn_out")),
        (found, loaded.anatomy.cross, ("cross_z", "cross_out")),
        (encoder, loaded.stacks["encoder"].anatomy, ("z", "attn_out")),
    ):
        for layer in (0,):
            block = anatomy.blocks[layer]
            output = block.attention_output.module
            places.append((getattr(gradients, names[0])[layer].flatten(2), output, False))
            places.append((getattr(gradients, names[1])[layer], output, True))
            if block.mlp is not None:
                places.append((gradients.mlp_out[layer], block.mlp_output.module, True))
    generator, step = torch.Generator().manual_seed(0), 1e-3
    for number, (gradient, module, after) in enumerate(places):
        direction = torch.randn(gradient.shape, generator=generator, dtype=torch.float64)
        ahead, behind = (
            run(loaded, clean, module, lambda x, way=way, to=direction: x + way * step * to, after=after)
            for way in (1, -1)
        )
        slopes = (gradient * direction).flatten(1).sum(1).numpy()
        np.testing.assert_allclose((ahead - behind) / (2 * step), slopes, rtol=5e-3, atol=1e-3, err_msg=str(number))
        assert np.abs(slopes).max() > 1e-5
