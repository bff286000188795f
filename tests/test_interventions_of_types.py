"""Changed passes of models with attention code, biases and arguments of their own, against plain hooks and one forward for each change.

Four prompts run together, as many as there are heads: what belongs to heads then has the length of what belongs to prompts.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

import flowgraph as fg
from flowgraph.errors import ArgumentError, UnsupportedReadingError
from flowgraph.interventions.calls import repeats_of
from flowgraph.interventions.edge_scores import patterns_of
from flowgraph.interventions.edges import receivers, sender_nodes, senders_before
from flowgraph.interventions.gradients import backward
from flowgraph.interventions.metrics import metric_of
from flowgraph.interventions.passes import Pass
from flowgraph.interventions.prompts import batch_of, prompts_of
from flowgraph.models.eager import eager_attention
from tests.every_type import IDS, model_of

OTHER = [6, 18, 30, 44, 50, 66, 77]
CLEAN, CORRUPTED = [IDS, OTHER, IDS[::-1], OTHER[::-1]], [OTHER, IDS, OTHER[::-1], IDS[::-1]]
TARGET, FOIL = 7, 11
ANSWERS = {"target": TARGET, "foil": FOIL}
TYPES = ("bloom", "falcon", "mpt", "ctrl")


@cache
def loaded_of(model_type: str) -> fg.LoadedModel:
    return fg.load_model(model_of(model_type))


def measured(loaded, prompts, hooks=()):
    """[prompt] logit difference of the model itself, under plain hooks of torch: (module, function of its first input)."""

    def hooked(edit):
        return lambda _module, args: (edit(args[0]), *args[1:])

    handles = [module.register_forward_pre_hook(hooked(edit)) for module, edit in hooks]
    try:
        with torch.no_grad(), eager_attention(loaded.model):
            logits = loaded.model(input_ids=torch.tensor(prompts), use_cache=False).logits[:, -1]
    finally:
        for handle in handles:
            handle.remove()
    return (logits[:, TARGET] - logits[:, FOIL]).numpy()


def inputs_of(loaded, prompts, modules):
    """What modules read, by plain hooks."""
    seen = [[] for _ in modules]
    pairs = zip(modules, seen, strict=True)
    measured(loaded, prompts, [(one, lambda x, into=into: into.append(x.clone()) or x) for one, into in pairs])
    return [found[0] for found in seen]


@pytest.mark.parametrize("model_type", [*TYPES, "granitemoeshared", "falcon_h1", "gemma4_text", "nemotron_h"])
def test_the_sweep_is_a_forward_for_each_head(model_type):
    loaded = loaded_of(model_type)
    anatomy = loaded.anatomy
    outputs = [anatomy.blocks[layer].attention_output.module for layer in anatomy.attending]
    theirs = inputs_of(loaded, CORRUPTED, outputs)
    clean = measured(loaded, CLEAN)
    zero = fg.head_effects(loaded, CLEAN, **ANSWERS).by_prompt
    resampled = fg.head_effects(loaded, CLEAN, CORRUPTED, **ANSWERS).by_prompt
    for n, layer in enumerate(anatomy.attending):
        size = theirs[n].shape[-1] // anatomy.n_heads
        for head in range(anatomy.n_heads):
            own = slice(head * size, (head + 1) * size)

            def changed(x, value, own=own):
                x = x.clone()
                x[..., own] = value[..., own]
                return x

            for found, value in ((zero, torch.zeros_like(theirs[n])), (resampled, theirs[n])):
                alone = measured(loaded, CLEAN, [(outputs[n], lambda x, value=value: changed(x, value))])
                np.testing.assert_allclose(found[:, layer, head], alone - clean, atol=2e-5)


def edges_into(anatomy, kinds):
    sources = sender_nodes(anatomy)
    return [
        fg.Edge(source, node, into) for node, into in receivers(anatomy) if into in kinds
        for source in sources[: senders_before(anatomy, node.layer, into)]
    ]  # fmt: skip


@pytest.mark.parametrize("model_type", TYPES)
def test_edges_are_a_forward_for_each(model_type):
    loaded = loaded_of(model_type)
    anatomy = loaded.anatomy
    some = [edge for into in ("q", "k", "v", "mlp") for edge in edges_into(anatomy, (into,))[::19]]
    found = fg.edge_effects(loaded, CLEAN, CORRUPTED, some, **ANSWERS)
    for n, edge in enumerate(some):
        alone = fg.patch(loaded, CLEAN, CORRUPTED, edge, "noise", **ANSWERS)
        np.testing.assert_allclose(found.by_prompt[n], alone.effect, atol=2e-5, err_msg=str(edge))
    # Into the logits, by plain hooks alone.
    layer, head = 1, 2
    output = anatomy.blocks[layer].attention_output
    z, theirs = (inputs_of(loaded, prompts, [output.module])[0] for prompts in (CLEAN, CORRUPTED))
    own = slice(head * anatomy.d_value, (head + 1) * anatomy.d_value)
    change = (theirs - z)[..., own] @ output.weight[own]
    by_hand = measured(loaded, CLEAN, [(anatomy.final_norm.module, lambda x: x + change)]) - measured(loaded, CLEAN)
    edge = fg.Edge(fg.Node("head", layer=layer, head=head), fg.Node("logits"), "logits")
    np.testing.assert_allclose(
        fg.edge_effects(loaded, CLEAN, CORRUPTED, [edge], **ANSWERS).by_prompt[0], by_hand, atol=2e-5
    )


@pytest.mark.parametrize("model_type", TYPES)
def test_what_all_senders_write_is_the_last_state(model_type):
    """Falcon adds attention to the MLP's output in place: what the MLP wrote is what it wrote before."""
    loaded = loaded_of(model_type)
    for kinds in (("logits",), ("q", "k", "v", "mlp", "logits")):
        effect = fg.patch(loaded, CLEAN, CORRUPTED, edges_into(loaded.anatomy, kinds), "noise", **ANSWERS)
        np.testing.assert_allclose(effect.after, effect.corrupted, atol=1e-4)
        assert np.abs(effect.before - effect.corrupted).max() > 1e-2


@pytest.mark.parametrize("model_type", TYPES)
def test_attention_that_runs_again_gives_the_patterns_of_a_whole_pass(model_type):
    loaded = loaded_of(model_type)
    anatomy = loaded.anatomy
    batch = batch_of(loaded, prompts_of(loaded, CLEAN, "clean"), "clean")
    _, forward = backward(loaded, batch, metric_of(None), extra=("pattern", "v"))
    generator = torch.Generator().manual_seed(0)
    for layer in (0, 2):
        moved = torch.randn(2, len(CLEAN), len(IDS), anatomy.d_model, generator=generator)
        for into, role in (("q", "query"), ("k", "key")):
            with torch.no_grad():
                found = patterns_of(loaded, forward, layer, into=into, moved=moved)
            assert found.shape == (2, len(CLEAN), anatomy.n_heads, len(IDS), len(IDS))
            weight, _ = fg.models.attention_weights.attention_weights(anatomy, layer, role)
            for n, own in enumerate(moved):
                shift = torch.einsum("ptd,hdk->pthk", own, weight)
                run = Pass(loaded, len(CLEAN))
                run.edit(into, layer, lambda heads, shift=shift: heads + shift)
                run.keep(("pattern",), [layer])
                run.run(batch.feed)
                torch.testing.assert_close(found[n], run.kept["pattern", layer], rtol=1e-4, atol=1e-5)
    size = fg.edge_scores(loaded, CLEAN, CORRUPTED, qk_fix=True, **ANSWERS).scores
    assert np.abs(size).max() > 0


@pytest.mark.parametrize("model_type", TYPES)
def test_a_circuit_is_found(model_type):
    loaded = loaded_of(model_type)
    several = {"target": [TARGET] * 2, "foil": [FOIL] * 2}
    circuit = fg.discover(loaded, clean=CLEAN[::2], corrupted=CORRUPTED[::2], budget=60, threshold=0.05, **several)
    edge = fg.interventions.plan.circuit_edges(circuit)[0]
    alone = fg.edge_effects(loaded, CLEAN[::2], CORRUPTED[::2], [edge], **several)
    assert float(circuit.weight[0]) == pytest.approx(-float(alone.effects[0]), abs=2e-5)


@pytest.mark.parametrize("model_type", [*TYPES, "gemma4_text"])
def test_entries_of_patterns_change_in_several_prompts_at_once(model_type):
    loaded = loaded_of(model_type)
    edit = fg.PatternEdit(1, 2, 4, 2, value=0.5)
    together = fg.ablate(loaded, CLEAN, edit, **ANSWERS).effect
    alone = [fg.ablate(loaded, prompt, edit, **ANSWERS).effect[0] for prompt in CLEAN]
    np.testing.assert_allclose(together, alone, atol=2e-5)
    assert np.abs(together).max() > 1e-4
    whole = fg.ablate(loaded, CLEAN, fg.PatternEdit(1, 2), **ANSWERS)
    np.testing.assert_allclose(
        whole.after, fg.ablate(loaded, CLEAN, fg.Node("head", layer=1, head=2), **ANSWERS).after, atol=2e-5
    )


def test_a_layer_without_an_mlp_changes_its_state_and_its_mixer():
    loaded = loaded_of("falcon_mamba")
    for layer in range(3):
        effect = fg.patch(loaded, IDS, OTHER, fg.Node("resid_post", layer=layer), "noise", **ANSWERS)
        np.testing.assert_allclose(effect.after, effect.corrupted, atol=1e-5)
    module = loaded.anatomy.blocks[1].mixer
    handle = module.register_forward_hook(lambda _module, _args, output: torch.zeros_like(output))
    without = measured(loaded, [IDS])
    handle.remove()
    found = fg.ablate(loaded, IDS, fg.Node("mixer", layer=1), **ANSWERS)
    np.testing.assert_allclose(found.after, without, atol=1e-5)
    with pytest.raises(ArgumentError, match="layer 1 of FalconMambaForCausalLM has no MLP"):
        fg.ablate(loaded, IDS, fg.Node("mlp", layer=1), **ANSWERS)
    with pytest.raises(UnsupportedReadingError, match="does not attend"):
        fg.ablate(loaded, IDS, fg.Node("attn", layer=1), **ANSWERS)
    with pytest.raises(ArgumentError, match="layer 1 of BloomForCausalLM has no mixer"):
        fg.ablate(loaded_of("bloom"), IDS, fg.Node("mixer", layer=1), **ANSWERS)


def test_roles_are_measured_on_tokens_that_the_head_scores():
    loaded = loaded_of("mllama")
    assert len(loaded.vocabulary) > loaded.anatomy.d_vocab
    assert np.isfinite(fg.head_roles(loaded, sequences=2)["copying"]).all()


def test_an_argument_that_grows_otherwise_than_prompts_is_named():
    model = torch.nn.Linear(1, 1)
    with pytest.raises(
        UnsupportedReadingError, match=r"layer 3 .* an argument \(bias.0\) of length 4 for one prompt and 7 for two"
    ):
        repeats_of(model, "module", lambda prompts: {(3, ("bias", 0)): {1: 4, 2: 7}[prompts]})


def test_wrong_fields_of_changes_are_named():
    with pytest.raises(ArgumentError, match=r"PatternEdit\(value=…\) expects a number or None, and got a Tensor"):
        fg.PatternEdit(0, value=torch.rand(3))
    with pytest.raises(ArgumentError, match=r"PatternEdit\(layer=…\) expects a whole number, and got 'a'"):
        fg.PatternEdit("a")
    with pytest.raises(ArgumentError, match=r"Edge\(source=…\) expects a Node, and got 'embed'"):
        fg.Edge("embed", fg.Node("logits"), "logits")
    node = fg.Node("mlp", layer=0)
    # Around the types that tests check at each call.
    object.__setattr__(node, "layer", "a")
    with pytest.raises(ArgumentError, match="layer='a' of a 'mlp' node must be a whole number"):
        node.__post_init__()
    assert fg.PatternEdit(0, value=torch.tensor(0.5)).value == 0.5
