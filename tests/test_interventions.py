"""Nodes, patterns and graphs taken out of a run, against weights edited by hand and against what must come out."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch

import flowgraph as fg
from flowgraph.errors import (
    ArgumentError,
    CancelledError,
    ModelMismatchError,
    NonFiniteError,
    PromptError,
    TargetError,
    UnsupportedReadingError,
)
from flowgraph.interventions.metrics import AnswerTokens
from flowgraph.interventions.passes import Pass, logits_of_states
from flowgraph.interventions.prompts import groups_of
from flowgraph.models.eager import eager_attention
from tests.conftest import DECODERS, IDS, REPRESENTATIVES
from tests.tiny_models import TINY, tiny_model

OTHER = [20, 31, 44, 53, 60, 75, 86]
TARGET, FOIL = 7, 11
FAMILIES = tuple(name for name in TINY if name != "bert_headless")
SOME = (*REPRESENTATIVES, "gptj", "phi3")
"""Attention that the module computes itself, and fused projections, besides."""
HEAD = fg.Node("head", layer=1, head=2)


def hooks_of(model):
    return [(*module._forward_pre_hooks, *module._forward_hooks) for module in model.modules()]


@pytest.fixture
def prompt(tiny):
    """``prompt(name, ids)`` → a light trace in float64, explained at its last token."""

    def make(name, ids=IDS, dtype=torch.float64):
        return fg.trace(tiny(name, dtype), ids, position=-1, keep=(), target=TARGET, foil=FOIL)

    return make


def difference(logits):
    return float(logits[TARGET] - logits[FOIL])


def plain(loaded, ids=IDS):
    """The model's own logits of the last token."""
    options = {"use_cache": False} if loaded.anatomy.causal else {}
    with torch.no_grad(), eager_attention(loaded.model):
        return loaded.model(input_ids=torch.tensor([ids]), **options).logits[0, -1]


class Edited:
    """Some inputs of a linear layer cut off in its weights, and perhaps its bias; put back on leaving."""

    def __init__(self, projection, inputs=slice(None), bias=False):
        self.module, self.inputs, self.bias = projection.module, inputs, bias

    def __enter__(self):
        self.saved = {name: value.clone() for name, value in self.module.state_dict().items()}
        with torch.no_grad():
            weight = self.module.weight
            (weight if type(self.module).__name__ == "Conv1D" else weight.T)[self.inputs] = 0.0
            if self.bias and self.module.bias is not None:
                self.module.bias.zero_()

    def __exit__(self, *_):
        self.module.load_state_dict(self.saved)


# Nodes


@pytest.mark.parametrize("name", FAMILIES)
def test_zero_ablation_is_weights_set_to_zero(tiny, prompt, name):
    loaded, anatomy = tiny(name, torch.float64), tiny(name, torch.float64).anatomy
    block, d = anatomy.blocks[1], anatomy.d_head
    cases = {
        HEAD: Edited(block.attention_output, slice(2 * d, 3 * d)),
        fg.Node("neuron", layer=1, index=9): Edited(block.mlp_output, 9),
    }
    if anatomy.wiring != "sandwich":  # there a norm's bias or gain would come after
        cases[fg.Node("attn", layer=1)] = Edited(block.attention_output, bias=True)
        cases[fg.Node("mlp", layer=1)] = Edited(block.mlp_output, bias=True)
    before = difference(plain(loaded))
    for node, edited in cases.items():
        effect = fg.ablate(loaded, prompt(name), node)
        with edited:
            expected = difference(plain(loaded))
        assert effect.before[0] == pytest.approx(before, rel=1e-6)
        assert effect.after[0] == pytest.approx(expected, rel=1e-6, abs=1e-9), str(node)
        assert effect.mean_effect == pytest.approx(expected - before, rel=1e-5, abs=1e-7)
        # A neuron of a rectifier may be off at every position.
        assert effect.mean_effect != 0 or (name.startswith("opt") and node.kind == "neuron")


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_corrupted_text_is_read_where_its_clean_prompt_is(tiny, name):
    loaded = tiny(name, torch.float64)
    clean, other = (fg.trace(loaded, ids, position=3, keep=(), target=TARGET, foil=FOIL) for ids in (IDS, OTHER))
    for corrupted in (other, OTHER, torch.tensor(OTHER)):
        effect = fg.patch(loaded, clean, corrupted, HEAD)
        assert effect.corrupted[0] == pytest.approx(difference(other.logits.numpy()), abs=1e-9)
    graphs = [fg.discover(loaded, clean=clean, corrupted=one, method="eap", threshold=0.0) for one in (other, OTHER)]
    assert graphs[0].info.options["gap"] == graphs[1].info.options["gap"]
    assert np.array_equal(graphs[0].weight, graphs[1].weight)


@pytest.mark.parametrize("name", SOME)
def test_patching_everything_is_the_other_run(tiny, prompt, name):
    loaded = tiny(name, torch.float64)
    layers = range(len(loaded.anatomy.blocks))
    every = [fg.Node("embed"), *(fg.Node("mlp", layer=i) for i in layers)]
    every += [fg.Node("head", layer=i, head=h) for i in layers for h in range(loaded.anatomy.n_heads)]
    states = ["resid_pre", "resid_post", *(["resid_mid"] if loaded.anatomy.wiring != "parallel" else [])]
    clean, corrupted = prompt(name), prompt(name, OTHER)
    for what in (every, *(fg.Node(kind, layer=1) for kind in states)):
        for direction in ("denoise", "noise"):
            effect = fg.patch(loaded, clean, corrupted, what, direction)
            assert effect.score == pytest.approx(1.0, abs=1e-6)
            goal = effect.clean if direction == "denoise" else effect.corrupted
            np.testing.assert_allclose(effect.after, goal, rtol=1e-6)
    assert effect.clean[0] == pytest.approx(difference(plain(loaded)), rel=1e-6)
    assert effect.corrupted[0] == pytest.approx(difference(plain(loaded, OTHER)), rel=1e-6)


@pytest.mark.parametrize("name", SOME)
def test_states_position_by_position(tiny, prompt, name):
    """A prompt that differs in two positions: patching the embedding there is the other prompt."""
    loaded = tiny(name, torch.float64)
    clean, corrupted = prompt(name), prompt(name, OTHER)
    both = [fg.Node("embed", position=2), fg.Node("embed", position=4)]
    assert fg.patch(loaded, clean, corrupted, both).score == pytest.approx(1.0, abs=1e-6)
    same = fg.patch(loaded, clean, corrupted, fg.Node("embed", position=3), "noise")
    assert same.mean_effect == pytest.approx(0.0, abs=1e-9)
    half = fg.patch(loaded, clean, corrupted, fg.Node("embed", position=2), "noise")
    mixed = [*IDS[:2], OTHER[2], *IDS[3:]]
    assert half.after[0] == pytest.approx(difference(plain(loaded, mixed)), rel=1e-6)
    if loaded.anatomy.causal:
        late = fg.patch(loaded, clean, corrupted, fg.Node("head", layer=0, head=1, position=1), "noise")
        assert late.mean_effect == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("name", [name for name in DECODERS if name != "opt_post_norm"])
def test_nothing_written_leaves_the_embedding(tiny, prompt, name):
    loaded = tiny(name, torch.float64)
    layers = range(len(loaded.anatomy.blocks))
    every = [fg.Node(kind, layer=i) for i in layers for kind in ("attn", "mlp")]
    first = fg.trace(loaded, IDS, keep={"resid_pre"}).resid_pre[0, -1]
    with torch.no_grad():
        expected = difference(logits_of_states(loaded, first[None])[0])
    assert fg.ablate(loaded, prompt(name), every).after[0] == pytest.approx(expected, rel=1e-6)


def test_the_mean_is_that_of_the_reference(tiny, prompt):
    """Per position, over the prompts of the reference set, against a hook written here."""
    loaded = tiny("llama", torch.float64)
    reference = [OTHER, IDS[::-1], [20, 21, 22, 23, 24, 25, 26]]
    values = torch.stack([fg.trace(loaded, ids, keep={"z"}).z[1, 2] for ids in reference]).mean(0)
    assert loaded.anatomy.d_head == 8

    def hook(_module, args):
        z = args[0].clone()
        z[0, :, 16:24] = values
        return (z,)

    handle = loaded.anatomy.blocks[1].attention_output.module.register_forward_pre_hook(hook)
    expected = difference(plain(loaded))
    handle.remove()
    effect = fg.ablate(loaded, prompt("llama"), HEAD, "mean", reference=reference)
    assert effect.after[0] == pytest.approx(expected, rel=1e-6)
    one = fg.ablate(loaded, prompt("llama"), HEAD, "mean", reference=OTHER)
    resampled = fg.ablate(loaded, prompt("llama"), HEAD, "resample", reference=OTHER)
    assert one.after[0] == pytest.approx(resampled.after[0], rel=1e-12)
    noised = fg.patch(loaded, prompt("llama"), OTHER, HEAD, "noise")
    assert noised.after[0] == resampled.after[0]
    assert noised.score == pytest.approx(
        float((noised.clean[0] - noised.after[0]) / (noised.clean[0] - noised.corrupted[0]))
    )


# Patterns


@pytest.mark.parametrize("name", FAMILIES)
def test_a_knocked_out_entry_takes_its_term_out_of_z(tiny, name):
    loaded = tiny(name, torch.float64)
    from flowgraph.interventions.changes import Reference, install
    from flowgraph.interventions.plan import plan_of

    trace = fg.trace(loaded, IDS, position=-1)
    edit = fg.PatternEdit(1, 3, query_pos=5, key_pos=4)
    run = Pass(loaded, 1)
    plan = plan_of(loaded.anatomy, edit, len(IDS), outside=False, parts="edges")
    install(run, plan, Reference(None, False, range(len(IDS))))
    run.keep(("z",), [1])
    with torch.no_grad():
        run.run({"input_ids": torch.tensor([IDS])})
    expected = trace.z[1].clone()
    group = loaded.anatomy.n_heads // loaded.anatomy.n_kv_heads
    expected[3, 5] -= trace.pattern[1, 3, 5, 4] * trace.v[1, 3 // group, 4]
    found = run.kept["z", 1][0].unflatten(-1, (loaded.anatomy.n_heads, -1)).transpose(0, 1)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)
    assert trace.pattern[1, 3, 5, 4] > 0


@pytest.mark.parametrize("name", SOME)
def test_a_row_knocked_out_is_the_head_at_that_position(tiny, prompt, name):
    loaded = tiny(name, torch.float64)
    row = fg.ablate(loaded, prompt(name), fg.PatternEdit(1, 2, query_pos=6))
    head = fg.ablate(loaded, prompt(name), fg.Node("head", layer=1, head=2, position=6))
    assert row.after[0] == pytest.approx(head.after[0], rel=1e-6)
    every = fg.ablate(loaded, prompt(name), fg.PatternEdit(0))
    heads = fg.ablate(loaded, prompt(name), [fg.Node("head", layer=0, head=h) for h in range(loaded.anatomy.n_heads)])
    assert every.after[0] == pytest.approx(heads.after[0], rel=1e-6)


@pytest.mark.parametrize("name", SOME)
def test_a_pattern_that_is_put_back_changes_nothing(tiny, prompt, name):
    loaded = tiny(name, torch.float64)
    trace = fg.trace(loaded, IDS, position=-1)
    same = [fg.PatternEdit(1, 2, 6, k, value=float(trace.pattern[1, 2, 6, k])) for k in range(len(IDS))]
    effect = fg.ablate(loaded, prompt(name), same)
    assert effect.mean_effect == pytest.approx(0.0, abs=1e-6)
    other = fg.patch(
        loaded, prompt(name), OTHER if loaded.anatomy.causal else prompt(name, OTHER), fg.PatternEdit(0), "noise"
    )
    assert abs(other.mean_effect) > 1e-6


def test_a_renormalised_row_keeps_its_sum(tiny, prompt):
    loaded = tiny("mistral", torch.float64)
    trace = fg.trace(loaded, IDS)
    row = trace.pattern[1, 0, 6].double()
    rest = row.clone()
    rest[4] = 0.0
    by_hand = [fg.PatternEdit(1, 0, 6, k, value=float(rest[k] / rest.sum())) for k in range(7)]
    ours = fg.ablate(loaded, prompt("mistral"), fg.PatternEdit(1, 0, 6, 4, renormalise=True))
    assert ours.after[0] == pytest.approx(fg.ablate(loaded, prompt("mistral"), by_hand).after[0], rel=1e-6)
    with pytest.raises(ArgumentError, match="nothing else is attended to"):
        fg.ablate(loaded, prompt("mistral"), fg.PatternEdit(1, 0, 0, 0, renormalise=True))


# Graphs


@pytest.mark.parametrize("name", ["gpt2", "gptj", "gemma2", "mistral", "bert"])
@pytest.mark.parametrize("level", ["token", "head"])
def test_a_whole_graph_is_the_whole_run(tiny, prompt, name, level):
    loaded = tiny(name, torch.float64)
    graph = fg.build_graph(fg.trace(loaded, IDS, position=-1), method="norms", level=level)
    kept = fg.ablate(loaded, prompt(name), graph, outside=True)
    assert kept.mean_effect == pytest.approx(0.0, abs=1e-5)
    gone = fg.ablate(loaded, prompt(name), graph)
    layers = range(len(loaded.anatomy.blocks))
    nodes = [fg.Node("head", layer=i, head=h) for i in layers for h in range(loaded.anatomy.n_heads)]
    expected = fg.ablate(loaded, prompt(name), [*nodes, *(fg.Node("mlp", layer=i) for i in layers)])
    assert gone.after[0] == pytest.approx(expected.after[0], rel=1e-6)
    corrupted = prompt(name, OTHER)
    noised = fg.patch(loaded, prompt(name), corrupted, graph, "noise")
    whole = fg.patch(loaded, prompt(name), corrupted, [*nodes, *(fg.Node("mlp", layer=i) for i in layers)], "noise")
    assert noised.after[0] == pytest.approx(whole.after[0], rel=1e-6)


def test_what_a_graph_leaves_out(tiny, prompt):
    """One attention edge of one head: cut, it is the pattern's entry knocked out; kept alone, everything else is."""
    loaded = tiny("llama", torch.float64)
    trace = fg.trace(loaded, IDS)
    graph = fg.build_graph(trace, method="norms", level="head")
    kinds = [fg.graph.EDGE_KINDS[kind] for kind in graph.kind]
    place = [n for n, kind in enumerate(kinds) if kind == "attention" and graph.layer[n] == 1 and graph.head[n] == 2]
    chosen = next(n for n in place if graph.query_pos[n] == 6 and graph.key_pos[n] == 3)
    one = graph.keep(np.array([chosen]))
    cut = fg.ablate(loaded, prompt("llama"), one)
    assert cut.after[0] == pytest.approx(
        fg.ablate(loaded, prompt("llama"), fg.PatternEdit(1, 2, 6, 3)).after[0], rel=1e-6
    )
    mask = np.ones(len(graph), dtype=bool)
    mask[chosen] = False
    rest = fg.ablate(loaded, prompt("llama"), graph.keep(mask), outside=True)
    assert rest.after[0] == pytest.approx(cut.after[0], rel=1e-6)
    nodes = fg.ablate(loaded, prompt("llama"), one, parts="nodes")
    head = fg.ablate(loaded, prompt("llama"), fg.Node("head", layer=1, head=2, position=6))
    assert nodes.after[0] == head.after[0]


def test_graphs_that_cannot_be_tested(tiny, prompt):
    loaded = tiny("llama", torch.float64)
    trace = fg.trace(loaded, IDS)
    logits = fg.build_graph(trace, method="logits", level="head")
    with pytest.raises(ArgumentError, match="parts='nodes'"):
        fg.ablate(loaded, prompt("llama"), logits)
    fg.ablate(loaded, prompt("llama"), logits, parts="nodes")
    token = fg.build_graph(trace, method="norms")
    with pytest.raises(ArgumentError, match="level='head'"):
        fg.ablate(loaded, prompt("llama"), token, parts="nodes", outside=True)
    with pytest.raises(ArgumentError, match="the graph is of 7 tokens, the prompts have 5"):
        fg.ablate(loaded, IDS[:5], token)
    with pytest.raises(ArgumentError, match="the graph has no edges"):
        fg.ablate(loaded, IDS, token.keep(np.array([], dtype=int)))


# Prompts


def test_several_prompts_are_each_by_itself(tiny, prompt):
    loaded = tiny("gemma3", torch.float64)
    clean, corrupted = (
        [prompt("gemma3"), prompt("gemma3", IDS[::-1])],
        [prompt("gemma3", OTHER), prompt("gemma3", OTHER)],
    )
    for what in (HEAD, [fg.PatternEdit(0, 1, 4)], fg.Edge(fg.Node("embed"), fg.Node("mlp", layer=1), "mlp")):
        both = fg.patch(loaded, clean, corrupted, what)
        for n in range(2):
            alone = fg.patch(loaded, clean[n], corrupted[n], what)
            assert both.after[n] == pytest.approx(alone.after[0], rel=1e-5)
        assert len(both.effect) == 2
        assert both.mean_effect == pytest.approx(both.effect.mean())


def test_prompts_of_different_lengths(tiny, prompt):
    loaded = tiny("llama", torch.float64)
    short, long = prompt("llama", IDS[:5]), prompt("llama", OTHER)
    with pytest.raises(PromptError, match="prompts of different lengths"):
        fg.ablate(loaded, [short, long], HEAD)
    with pytest.raises(PromptError, match="differ in length \\(5 and 7 tokens\\)"):
        fg.patch(loaded, short, long, HEAD, "noise")
    both = fg.ablate(loaded, [short, long, short], HEAD, align="end")
    alone = [fg.ablate(loaded, one, HEAD).after[0] for one in (short, long, short)]
    np.testing.assert_allclose(both.after, alone, rtol=1e-9)
    # Only the beginning differs: from the end everything is the same, from the start it is not.
    shifted = prompt("llama", [99, *IDS])
    last = fg.Node("resid_post", layer=1, position=6)
    assert fg.patch(loaded, prompt("llama"), shifted, last, "noise", align="end").score == pytest.approx(1.0, abs=1e-6)
    assert fg.patch(loaded, prompt("llama"), shifted, last, "noise", align="start").score != pytest.approx(
        1.0, abs=1e-3
    )
    with pytest.raises(ArgumentError, match="no position that stands for 0"):
        fg.patch(loaded, shifted, prompt("llama"), fg.Node("mlp", layer=0, position=0), "noise", align="end")
    with pytest.raises(ArgumentError, match="only nodes can be changed across aligned prompts"):
        fg.patch(loaded, shifted, prompt("llama"), fg.PatternEdit(0, 1), "noise", align="end")


def test_answers(tiny, prompt):
    loaded = tiny("gpt2", torch.float64)
    logits = plain(loaded)
    best = int(logits.argmax())
    effect = fg.ablate(loaded, IDS, HEAD)
    assert effect.before[0] == pytest.approx(float(logits[best] - logits.mean()), rel=1e-6)
    asked = fg.ablate(loaded, [prompt("gpt2"), prompt("gpt2")], HEAD, target=[3, 4], foil=5)
    assert asked.before[1] == pytest.approx(float(logits[4] - logits[5]), rel=1e-6)
    # A foil belongs to the target it came with.
    other = fg.ablate(loaded, prompt("gpt2"), HEAD, target=3)
    assert other.before[0] == pytest.approx(float(logits[3] - logits.mean()), rel=1e-6)
    with pytest.raises(TargetError, match="tokens of this model"):
        fg.ablate(loaded, IDS, HEAD, target=" capital of France")
    with pytest.raises(ArgumentError, match="target= has 2 tokens for 1 prompts"):
        fg.ablate(loaded, IDS, HEAD, target=[3, 4])


# Metrics


def test_metrics_by_hand():
    generator = torch.Generator().manual_seed(0)
    logits, clean = (torch.randn(2, 9, generator=generator, dtype=torch.float64) for _ in range(2))
    aims = AnswerTokens(torch.tensor([3, 4]), torch.tensor([5, -1]), clean)
    expected = [float(logits[0, 3] - logits[0, 5]), float(logits[1, 4] - logits[1].mean())]
    assert fg.logit_difference(logits, aims).tolist() == pytest.approx(expected)
    p, now = clean.softmax(-1), logits.softmax(-1)
    assert fg.log_probability(logits, aims).tolist() == pytest.approx([float(now[0, 3].log()), float(now[1, 4].log())])
    assert fg.kl_divergence(logits, aims).tolist() == pytest.approx((p * (p / now).log()).sum(-1).tolist())
    assert fg.kl_divergence(clean, aims).tolist() == pytest.approx([0.0, 0.0], abs=1e-12)
    ranks = [
        1 + sorted(row.tolist(), reverse=True).index(float(row[t])) - 0 for row, t in zip(logits, (3, 4), strict=True)
    ]
    assert fg.target_rank(logits, aims).tolist() == [float(r) for r in ranks]


def test_metrics_of_a_run(tiny, prompt):
    loaded = tiny("gpt2", torch.float64)
    effect = fg.patch(loaded, prompt("gpt2"), OTHER, HEAD, metric=fg.kl_divergence)
    assert effect.clean[0] == pytest.approx(0.0, abs=1e-12)
    assert effect.unit == "nats"
    assert fg.ablate(loaded, prompt("gpt2"), HEAD, metric=fg.target_rank).before[0] >= 1

    def largest(logits):
        return logits.max(-1).values

    own = fg.ablate(loaded, prompt("gpt2"), HEAD, metric=largest)
    assert own.metric == "largest"
    assert own.before[0] == pytest.approx(float(plain(loaded).max()), rel=1e-6)
    assert "largest" in repr(own)


def test_metrics_that_are_none(tiny):
    loaded = tiny("gpt2")
    with pytest.raises(NonFiniteError, match="metric 'broken' gave nan for prompt 0"):
        fg.ablate(loaded, IDS, HEAD, metric=fg.Metric("broken", "", lambda logits, _: logits[:, 0] * float("nan")))
    with pytest.raises(ArgumentError, match="expected one number for each"):
        fg.ablate(loaded, IDS, HEAD, metric=lambda logits: logits)
    with pytest.raises(ArgumentError, match="expected one number for each"):
        fg.ablate(loaded, IDS, HEAD, metric=lambda logits: 3.0)
    with pytest.raises(ArgumentError, match="cannot be called"):
        inspect.unwrap(fg.ablate)(loaded, IDS, HEAD, metric="rank")


# The model is left as it was


@pytest.mark.parametrize("name", ["gpt2", "opt", "gemma2", "bert"])
def test_the_model_is_left_as_it_was(name):
    model, tokenizer = tiny_model(name)
    model.train()
    loaded = fg.load_model((model, tokenizer))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    implementation = model.config._attn_implementation
    prompts = [fg.trace(loaded, ids, position=-1, keep=()) for ids in (IDS, OTHER)]
    everything = [HEAD, fg.Node("resid_mid", layer=0), fg.Node("neuron", layer=0, index=1), fg.PatternEdit(0, 1)]
    fg.patch(loaded, *prompts, everything)
    fg.gradients(loaded, prompts)
    fg.head_effects(loaded, prompts)
    with pytest.raises(NonFiniteError):
        fg.ablate(loaded, prompts, everything, metric=lambda logits: logits[:, 0] / 0)
    with pytest.raises(ArgumentError, match="nothing else is attended"):
        fg.ablate(loaded, prompts, fg.PatternEdit(0, 1, renormalise=True))
    for module in model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
        assert module.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert model.config._attn_implementation == implementation
    assert torch.is_grad_enabled()


# Long work


@pytest.mark.parametrize("name", ["gpt2", "bert", "gpt_neox"])
def test_progress_and_cancel(tiny, prompt, name):
    """Every block of every run is reported, and each of them can be the last."""
    loaded = tiny(name)
    # The model is shared, and its library leaves hooks of its own behind where it was asked for attentions.
    before = hooks_of(loaded.model)
    clean, other, short, shorter = (prompt(name, ids, torch.float32) for ids in (IDS, OTHER, IDS[:5], OTHER[:4]))
    asked = {
        "ablate": (lambda **watch: fg.ablate(loaded, clean, HEAD, **watch), 2),
        "to the reference": (lambda **watch: fg.ablate(loaded, clean, HEAD, "mean", reference=other, **watch), 3),
        "patch": (lambda **watch: fg.patch(loaded, clean, other, HEAD, **watch), 3),
        "by length": (lambda **w: fg.patch(loaded, [clean, short], [other, shorter], HEAD, align="end", **w), 6),
    }
    for act, passes in asked.values():
        blocks, seen = passes * len(loaded.anatomy.blocks), []
        plain = act()
        np.testing.assert_array_equal(act(progress=lambda *told, seen=seen: seen.append(told)).after, plain.after)
        assert seen == [("measuring the change", n / blocks) for n in range(blocks + 1)]
        for last in (0, 1, blocks - 1):
            calls = iter([False] * last + [True])
            with pytest.raises(CancelledError, match=f"cancelled after {last} of {blocks} blocks"):
                act(cancel=lambda calls=calls: next(calls))
            assert hooks_of(loaded.model) == before
        np.testing.assert_array_equal(act(cancel=lambda: False).after, plain.after)


# Bad input


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ([], "there is nothing to change"),
        (fg.Node("query", layer=0, head=0), "is a 'query', which cannot be changed"),
        (fg.Node("logits"), "is a 'logits', which cannot be changed"),
        (fg.Node("head", layer=0, head=9), "head=9 does not exist; this model has 4"),
        (fg.Node("mlp", layer=4), "layer=4 does not exist"),
        (fg.Node("neuron", layer=0, index=64), "index=64 does not exist; this model has 64"),
        (fg.Node("mlp", layer=0, position=7), "position=7 is outside the prompt of 7 tokens"),
        (fg.PatternEdit(0, 1, 3, 5), "a token sees earlier tokens only"),
        (fg.PatternEdit(0, 1, 9), "query_pos=9 does not exist"),
        (fg.PatternEdit(3), "layer=3 does not exist"),
    ],
)
def test_what_cannot_be_changed(tiny, what, message):
    with pytest.raises(ArgumentError, match=message):
        fg.ablate(tiny("gpt2"), IDS, what)


def test_what_has_no_rest(tiny):
    with pytest.raises(ArgumentError, match="outside=True needs heads and MLPs alone"):
        fg.ablate(tiny("gpt2"), IDS, [HEAD, fg.PatternEdit(0)], outside=True)
    with pytest.raises(ArgumentError, match="cannot be changed \\(with outside=True\\)"):
        fg.ablate(tiny("gpt2"), IDS, fg.Node("embed"), outside=True)


def test_a_state_that_parallel_blocks_do_not_have(tiny):
    with pytest.raises(ArgumentError, match="parallel blocks have no state between"):
        fg.ablate(tiny("gptj"), IDS, fg.Node("resid_mid", layer=0))


def test_references(tiny):
    loaded = tiny("gpt2")
    for how, wanted in (("mean", "a set of prompts"), ("resample", "a corrupted prompt for each")):
        with pytest.raises(ArgumentError, match=f"how='{how}' needs reference=: {wanted}"):
            fg.ablate(loaded, IDS, HEAD, how)
    with pytest.raises(ArgumentError, match="how='zero' uses no reference="):
        fg.ablate(loaded, IDS, HEAD, reference=OTHER)
    with pytest.raises(ArgumentError, match="how='remove' must be one of zero, mean, resample"):
        inspect.unwrap(fg.ablate)(loaded, IDS, HEAD, "remove")
    with pytest.raises(ArgumentError, match="direction='up' must be"):
        inspect.unwrap(fg.patch)(loaded, IDS, OTHER, HEAD, "up")
    with pytest.raises(ArgumentError, match="reference= has 2 prompts for 3"):
        fg.ablate(loaded, [IDS, IDS, IDS], HEAD, "resample", reference=[OTHER, OTHER])
    with pytest.raises(ArgumentError, match="'zero' ablation has no corrupted run"):
        _ = fg.ablate(loaded, IDS, HEAD).score
    with pytest.raises(ArgumentError, match="have the same logit difference"):
        _ = fg.patch(loaded, IDS, IDS, HEAD).score


def test_models_and_prompts_that_do_not_fit(tiny, prompt):
    with pytest.raises(UnsupportedReadingError, match="no head over a vocabulary"):
        fg.ablate(tiny("bert_headless"), IDS, HEAD)
    with pytest.raises(ModelMismatchError, match="trace the prompt with the model that is to be changed"):
        fg.ablate(tiny("llama"), prompt("gpt2"), HEAD)
    with pytest.raises(PromptError, match="prompts holds no prompt"):
        fg.ablate(tiny("gpt2"), [], HEAD)
    with pytest.raises(ArgumentError, match="must be a probability"):
        fg.PatternEdit(0, value=1.5)
    with pytest.raises(ArgumentError, match="align='middle'"):
        inspect.unwrap(groups_of)([], None, "middle")
