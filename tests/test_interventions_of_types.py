"""Changed passes of models with attention code, biases and arguments of their own, against plain hooks and one forward for each change.

Four prompts run together, as many as there are heads: what belongs to heads then has the length of what belongs to prompts.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

import flowgraph as fg
from flowgraph.errors import ArchitectureError, ArgumentError, UnsupportedReadingError
from flowgraph.interventions.calls import repeats_of
from flowgraph.interventions.edge_scores import patterns_of
from flowgraph.interventions.edges import edge_network
from flowgraph.interventions.gradients import backward
from flowgraph.interventions.metrics import metric_of
from flowgraph.interventions.passes import Pass
from flowgraph.interventions.prompts import batch_of, prompts_of
from flowgraph.models.eager import eager_attention
from tests.circuit_graphs import every_edge
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
    return [edge for edge in every_edge(anatomy) if edge.into in kinds]


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
                (reader,) = (one for one in edge_network(anatomy).readers if (one.layer, one.into) == (layer, into))
                found = patterns_of(loaded, forward, reader, moved)
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


WITHOUT_PROJECTIONS = ("olmo2", "deepseek_v3", "jamba", "falcon_h1", "qwen3_next", "mamba")


@pytest.mark.parametrize("model_type", WITHOUT_PROJECTIONS)
def test_gradients_of_what_a_model_has_are_autograds(model_type):
    """Against autograd of the whole model, with the outputs and inputs of its own modules held by plain hooks."""
    loaded = loaded_of(model_type)
    found, anatomy = fg.gradients(loaded, [IDS], **ANSWERS), loaded.anatomy
    held: dict[tuple[str, int], torch.Tensor] = {}
    handles = []

    def hold(key, module, part):
        def hook(_module, args, output):
            held[key] = args[0] if part == "input" else output[0] if isinstance(output, tuple) else output

        handles.append(module.register_forward_hook(hook))

    for block in anatomy.blocks:
        if block.attention_output is not None:
            hold(("z", block.index), block.attention_output.module, "input")
            written = block.attention_output if block.attention_post_norm is None else block.attention_post_norm
            hold(("attn_out", block.index), written.module, "output")
        if block.mlp is not None and block.mlp_beside is None:
            hold(
                ("mlp_out", block.index),
                block.mlp if block.mlp_post_norm is None else block.mlp_post_norm.module,
                "output",
            )

    def enter(_module, args, kwargs):
        held["embed", 0] = args[0] if args else kwargs["hidden_states"]

    handles.append(anatomy.blocks[0].module.register_forward_pre_hook(enter, with_kwargs=True))
    try:
        with torch.enable_grad(), eager_attention(loaded.model):
            logits = loaded.model(input_ids=torch.tensor([IDS]), use_cache=False).logits[0, -1]
            slopes = torch.autograd.grad(logits[TARGET] - logits[FOIL], list(held.values()))
    finally:
        for handle in handles:
            handle.remove()
    assert len(held) > 2 or not anatomy.attending
    for (site, layer), slope in zip(held, slopes, strict=True):
        block = anatomy.blocks[layer]
        ours = found.embed if site == "embed" else getattr(found, site)[layer]
        factor = {
            "attn_out": 1.0 if block.attention_output is None else block.attention_output.factor,
            "mlp_out": block.mlp_factor,
        }.get(site, 1.0)
        if site == "z":
            ours = block.attention_output.unfilled(ours.flatten(2))
        expected = slope.reshape(ours.shape)
        assert float((ours * factor - expected).norm() / expected.norm()) < 1e-4, (site, layer)
    for layer, block in enumerate(anatomy.blocks):
        assert bool(found.attn_out[layer].any()) == (block.attention is not None)
        assert bool(found.mlp_out[layer].any()) == (block.mlp is not None)


@pytest.mark.parametrize("site", ["q", "k", "v"])
def test_gradients_that_a_model_cannot_have_are_refused_where_they_are_asked_for(site):
    found = fg.gradients(loaded_of("olmo2"), [IDS], **ANSWERS)
    with pytest.raises(UnsupportedReadingError, match="no linear maps"):
        getattr(found, site)
    with pytest.raises(UnsupportedReadingError, match="no linear maps"):
        found.into(0, site)
    assert found.into(0, "mlp").shape == found.mlp_in[:1].shape
    assert fg.gradients(loaded_of("bloom"), [IDS], **ANSWERS).q is not None


def test_gradients_of_a_router_with_a_hard_cut_are_slopes():
    """PhiMoE's router leaves out experts beyond a threshold, so that steps across it jump; the slope between jumps is the gradient."""
    model = model_of("phimoe").eval().double()
    model.set_experts_implementation("eager")
    loaded = fg.load_model(model)
    slope = fg.gradients(loaded, [IDS], **ANSWERS).embed[0]
    way = slope / slope.norm()
    first = loaded.anatomy.blocks[0].module

    def moved(step):
        def hook(_module, args, kwargs):
            return (args[0] + step * way, *args[1:]), kwargs

        handle = first.register_forward_pre_hook(hook, with_kwargs=True)
        try:
            return measured(loaded, [IDS])[0]
        finally:
            handle.remove()

    step = 1e-4
    assert (moved(step) - moved(-step)) / (2 * step) == pytest.approx(float((slope * way).sum()), rel=1e-3)


@pytest.mark.parametrize("model_type", ["mixtral", "jamba"])
def test_a_number_type_that_the_model_s_own_code_does_not_run_in_is_named(model_type):
    model = model_of(model_type).eval().double()
    with pytest.raises(
        ArchitectureError,
        match=r"does not run here in float64, .* dtype='float32'.*set_experts_implementation\('eager'\)",
    ):
        fg.load_model(model)
    model.set_experts_implementation("eager")
    assert fg.load_model(model).level == "full"


def test_the_refusal_of_neurons_names_the_layers_with_experts():
    loaded = loaded_of("deepseek_v2")
    with pytest.raises(UnsupportedReadingError, match=r"DeepseekV2ForCausalLM in layers 1, 2 \(DeepseekV2M"):
        fg.edge_weights(fg.trace(loaded, IDS), method="ff")


def test_an_expert_is_no_start_and_the_mlp_is_named():
    trace = fg.trace(loaded_of("mixtral"), IDS)
    weights = fg.edge_weights(trace, method="norms")
    expert = next(node for node in fg.build_graph(weights, level="head").nodes if node.kind == "expert")
    with pytest.raises(ArgumentError, match=r"reads what its MLP reads.*L\d\.mlp@\d"):
        fg.routes(weights, expert, threshold=0.1, level="head")
    mlp = fg.Node("mlp", layer=expert.layer, position=expert.position)
    assert len(fg.routes(weights, mlp, threshold=0.1, level="head"))
