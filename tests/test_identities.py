"""One checker over every family: what the forward pass must satisfy, whatever the architecture."""

from __future__ import annotations

import dataclasses
import sys

import numpy as np
import pytest
import torch

import flowgraph
from flowgraph.errors import ArchitectureError, ArgumentError, NonFiniteError, NoPatternError, UnsupportedReadingError
from flowgraph.lenses.logit_lens import head_outputs
from flowgraph.models.eager import eager_attention
from flowgraph.models.families import FAMILIES
from flowgraph.models.forward import SITES, run
from flowgraph.models.proof import identity_errors, prove
from flowgraph.models.resolving import resolve
from tests.conftest import LINEAR
from tests.tiny_models import TINY, tiny_model

LENGTHS = (1, 2, 17)
DTYPES = (torch.float32, torch.float64)
TOLERANCE = 1e-5
GATED = (
    "llama", "llama_tied", "llama_bias", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "phi3",
)  # fmt: skip


def prompt(length: int) -> list[int]:
    """Ids without padding or mask, the same for every model."""
    return [20 + (7 * n) % 90 for n in range(length)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("name", TINY)
def test_identities(tiny, name, length, dtype):
    anatomy = tiny(name, dtype).anatomy
    ids = torch.tensor([prompt(length)])
    record = run(anatomy, {"input_ids": ids}, sites=frozenset(SITES), layers=range(len(anatomy.blocks)), logits_at=None)
    errors = identity_errors(anatomy, ids, record)
    assert len(errors) >= 8
    for identity, per_layer in errors.items():
        assert float(per_layer.max()) <= TOLERANCE, (identity, per_layer)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("name", TINY)
def test_trace_agrees_with_the_bare_model(tiny, name, length):
    loaded = tiny(name)
    ids = prompt(length)
    # Under eager attention too: some releases of transformers leave Gemma 2's soft-cap out otherwise.
    with torch.no_grad(), eager_attention(loaded.model):
        bare = loaded.model(torch.tensor([ids]), output_hidden_states=True)
    trace = flowgraph.trace(loaded, ids, position=-1, logits="all" if loaded.anatomy.has_head else "last")
    for layer in range(trace.n_layers - 1):
        torch.testing.assert_close(trace.resid_post[layer], bare.hidden_states[layer + 1][0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(trace.resid_pre[0], bare.hidden_states[0][0], rtol=1e-5, atol=1e-5)
    if loaded.anatomy.has_head:
        torch.testing.assert_close(trace.logits, bare.logits[0], rtol=1e-5, atol=1e-5)
        last = flowgraph.trace(loaded, ids, position=-1)
        torch.testing.assert_close(last.logits, bare.logits[0, -1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", TINY)
def test_shapes(tiny, name):
    loaded = tiny(name)
    a, t = loaded.anatomy, 9
    trace = flowgraph.trace(loaded, prompt(t), position=-1)
    n, block = len(a.blocks), a.blocks[0]
    assert trace.resid_pre.shape == trace.resid_post.shape == trace.attn_out.shape == (n, t, a.d_model)
    assert trace.mlp_out.shape == (n, t, a.d_model)
    assert trace.pattern.shape == (n, a.n_heads, t, t)
    assert trace.q.shape == trace.q_proj.shape == trace.z.shape == (n, a.n_heads, t, a.d_head)
    assert trace.k.shape == trace.k_proj.shape == trace.v.shape == (n, a.n_kv_heads, t, a.d_head)
    assert trace.neurons.shape == (n, t, block.mlp_output.d_in)
    assert block.mlp_input.weight.shape == (a.d_model, block.mlp_output.d_in)
    gate, up = a.mlp_pre(0, trace.resid_pre[0])
    assert up.shape == trace.neurons[0].shape
    assert (gate is None) == (block.mlp_gate is None) == (name not in GATED)
    assert gate is None or gate.shape == up.shape
    assert (trace.resid_mid is None) == (a.wiring == "parallel")
    assert trace.norm_scales["attention"].shape == trace.norm_scales["mlp"].shape == (n, t)
    assert set(trace.biases) <= {"attn", "mlp"}
    assert all(bias.shape == (n, a.d_model) for bias in trace.biases.values())


@pytest.mark.parametrize("name", TINY)
def test_parts_of_attention_add_up(tiny, name):
    """Σ over heads of what each writes, plus the bias, is what attention adds."""
    loaded = tiny(name)
    trace = flowgraph.trace(loaded, prompt(8), position=-1)
    written = head_outputs(trace).sum(1)
    for layer, block in enumerate(loaded.anatomy.blocks):
        bias = block.attention_output.bias
        if bias is not None:
            post = block.attention_post_norm
            scaled = bias.expand_as(written[layer])
            written[layer] += (
                scaled if post is None else post.linear(scaled, trace.norm_scales["attention_post"][layer])
            )
    torch.testing.assert_close(written, trace.attn_out, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in TINY if name != "bert_headless"])
def test_lens_at_the_last_layer_is_the_models_output(tiny, name):
    loaded = tiny(name)
    trace = flowgraph.trace(loaded, prompt(6), position=-1, logits="all")
    logits = flowgraph.unembed(trace, trace.resid_post[-1])
    torch.testing.assert_close(logits, trace.logits.float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("name", LINEAR)
def test_direct_logit_attribution_adds_up(tiny, name, length, dtype):
    trace = flowgraph.trace(tiny(name, dtype), prompt(length), logits="all")
    for target, foil, position in ((None, None, -1), (40, 41, 0), (7, None, length // 2)):
        parts = flowgraph.direct_logit_attribution(trace, target, foil, position=position)
        assert parts.completeness_error <= 1e-4
        assert parts.total == pytest.approx(parts.logit, abs=1e-4 * max(1, abs(parts.logit)))
        np.testing.assert_allclose(parts.heads_by_source.sum(-1), parts.heads, atol=1e-9)
        np.testing.assert_allclose(parts.neurons.sum(-1), parts.mlps, atol=1e-9)
        assert not parts.heads_by_source[:, :, parts.position + 1 :].any()


@pytest.mark.parametrize("name", LINEAR)
def test_attribution_is_what_removing_the_part_does(tiny, name):
    """Each head's part is the change of the frozen-norm logit when the head's vector is taken out of the stream."""
    loaded = tiny(name, torch.float64)
    trace = flowgraph.trace(loaded, prompt(7), logits="all")
    parts = flowgraph.direct_logit_attribution(trace, 33)
    norm, heads = loaded.anatomy.final_norm, head_outputs(trace)[:, :, -1]
    weight = loaded.anatomy.head[-1].weight[33].double()
    for module in reversed(loaded.anatomy.head[:-1]):
        weight = weight @ module.weight.double()
    for layer in range(trace.n_layers):
        for head in range(trace.n_heads):
            with_head = norm.linear(trace.resid_post[-1, -1], trace.final_scale[-1]) @ weight
            without = norm.linear(trace.resid_post[-1, -1] - heads[layer, head], trace.final_scale[-1]) @ weight
            assert parts.heads[layer, head] == pytest.approx(float(with_head - without), abs=1e-6)


@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert", "opt_post_norm", "bert_headless"])
def test_attribution_is_refused_where_it_does_not_exist(tiny, name):
    trace = flowgraph.trace(tiny(name), prompt(5), position=-1)
    with pytest.raises(UnsupportedReadingError, match=r"no direct logit attribution|no head"):
        flowgraph.direct_logit_attribution(trace)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "gpt_neox"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_accumulated_in_float32(name, dtype):
    loaded = flowgraph.load_model(tiny_model(name), dtype=dtype)
    trace = flowgraph.trace(loaded, prompt(9))
    assert trace.pattern.dtype == dtype
    parts = flowgraph.direct_logit_attribution(trace)
    # The stream itself is rounded to half precision after every block; the sum of its parts is not.
    assert parts.completeness_error < {torch.float16: 5e-3, torch.bfloat16: 5e-2}[dtype]
    reading = flowgraph.read(trace, trace.resid_post[-1, -1])
    assert reading.top_logits.dtype == np.float32


WRONG = (
    ("gpt2", {"wiring": "parallel"}),
    ("gptj", {"wiring": "sequential"}),
    ("gpt_neox", {"attention.fused_layout": "concatenated"}),
    ("llama", {"attention.rotary": "interleaved"}),
    ("qwen2", {"attention.rotary": "none"}),
    ("gemma", {"norm": "rms"}),
    ("gemma2", {"attention.softcap": ""}),
    ("gpt_neo", {"attention.scale": "module"}),
    ("gemma3", {"embedding_scale": "none"}),
    ("bert", {"wiring": "sequential"}),
    ("qwen3", {"attention.query_norm": ""}),
    ("phi3", {"mlp_norm": "input_layernorm"}),
    ("mistral", {"final_norm": ""}),
    ("llama", {"mlp_input": "mlp.gate_proj", "mlp_gate": "mlp.up_proj"}),
    ("llama", {"mlp_gate": ""}),
    ("gemma2", {"mlp_input": "mlp.gate_proj"}),
    ("gpt2", {"mlp_activation": "mlp.dropout"}),
    ("bert", {"mlp_activation": "output.dropout"}),
    ("phi3", {"mlp_activation": "resid_mlp_dropout"}),
)


@pytest.mark.parametrize(("name", "mistake"), WRONG, ids=str)
def test_a_wrong_row_is_refused(name, mistake, monkeypatch):
    """The proof fails for every kind of mistake in a row, so it can fail at all."""
    model, _ = tiny_model(name)
    row = FAMILIES[resolve(model).family.name]
    stack, attention = row.stacks[-1], row.stacks[-1].attention
    for key, value in mistake.items():
        if key.startswith("attention."):
            attention = dataclasses.replace(attention, **{key.removeprefix("attention."): value})
        elif key == "norm":
            row = dataclasses.replace(row, norm=value)
        else:
            stack = dataclasses.replace(stack, wiring_switch=None, **{key: value})
    stack = dataclasses.replace(stack, attention=attention)
    monkeypatch.setitem(FAMILIES, row.name, dataclasses.replace(row, stacks=(stack,)))
    of_the_mlp = mistake.keys() & {"mlp_input", "mlp_gate", "mlp_activation"}
    identity = (
        r"'activation\(norm\(x\) W_in \+ b_in\) = neurons, .*' fails"
        if of_the_mlp
        else r"' fails|not found: .*\.scaling"
    )
    with pytest.raises(ArchitectureError, match=identity):
        prove(resolve(model))


@pytest.mark.parametrize("wrong", ["mlp_input", "mlp_gate", "mlp_activation"])
def test_a_row_without_the_mlps_input_says_what_was_not_found(wrong, monkeypatch):
    stack = dataclasses.replace(FAMILIES["llama"].stacks[0], **{wrong: "mlp.nothing"})
    monkeypatch.setitem(FAMILIES, "llama", dataclasses.replace(FAMILIES["llama"], stacks=(stack,)))
    with pytest.raises(ArchitectureError, match=r"Nearest is 'llama'; not found: mlp\.nothing\. Known"):
        resolve(tiny_model("llama")[0])


@pytest.mark.parametrize(
    "paths",
    [
        {"mlp_input": ""},
        {"mlp_input": "", "mlp_gate": ""},
        {"mlp_gate_up": "mlp.gate_up_proj"},
        {"mlp_gate_up": "mlp.gate_up_proj", "mlp_input": ""},
    ],
    ids=str,
)
def test_the_mlps_input_is_said_in_one_way(paths):
    stack = dataclasses.replace(FAMILIES["llama"].stacks[0], **paths)
    with pytest.raises(ArgumentError, match=r"family 'llama': give either mlp_input=, .* or mlp_gate_up=, got \("):
        dataclasses.replace(FAMILIES["llama"], stacks=(stack,))


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "bert"])
def test_nan_in_weights_names_the_layer(name):
    model, tokenizer = tiny_model(name)
    block = resolve(model).blocks[1]
    with torch.no_grad():
        block.mlp_output.module.weight[3, 3] = float("nan")
    with pytest.raises(
        NonFiniteError, match=r"layer 1 gives NaN or infinity; parameters that are not finite: .*weight"
    ):
        flowgraph.load_model(model, tokenizer=tokenizer)


def test_nan_that_only_a_prompt_meets_is_refused_when_tracing():
    model, tokenizer = tiny_model("llama")
    loaded = flowgraph.load_model(model, tokenizer=tokenizer)
    with torch.no_grad():
        model.model.embed_tokens.weight[77] = float("inf")
    assert flowgraph.trace(loaded, [5, 6]).logits is not None
    with pytest.raises(NonFiniteError, match="token embedding"):
        flowgraph.trace(loaded, [5, 77, 6])


@pytest.mark.parametrize("keep", [{"pattern"}, {"mlp_out"}, {"q"}], ids=str)
def test_nan_is_refused_whatever_is_kept(keep):
    model, tokenizer = tiny_model("bert_headless")
    loaded = flowgraph.load_model(model, tokenizer=tokenizer)
    with torch.no_grad():
        model.embeddings.word_embeddings.weight[77] = float("nan")
    assert flowgraph.trace(loaded, [5, 6], keep=keep).sites
    with pytest.raises(NonFiniteError, match="token embedding"):
        flowgraph.trace(loaded, [5, 77, 6], keep=keep)


def test_attention_without_patterns_is_refused(monkeypatch):
    model, tokenizer = tiny_model("llama")
    loaded = flowgraph.load_model(model, tokenizer=tokenizer)
    file = sys.modules[type(model.model.layers[0].self_attn).__module__]
    eager = file.eager_attention_forward
    monkeypatch.setattr(file, "eager_attention_forward", lambda *args, **kwargs: (eager(*args, **kwargs)[0], None))
    with pytest.raises(NoPatternError, match="LlamaAttention of layer 0 gives no attention pattern"):
        flowgraph.trace(loaded, [5, 6, 7])


def test_the_attention_implementation_is_switched_back():
    model, tokenizer = tiny_model("llama")
    assert model.config._attn_implementation == "sdpa"
    model.train()
    flowgraph.trace(flowgraph.load_model(model, tokenizer=tokenizer), [5, 6, 7])
    assert model.config._attn_implementation == "sdpa"
    assert model.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_mlps_in_chunks_are_refused():
    model, tokenizer = tiny_model("bert")
    model.config.chunk_size_feed_forward = 2
    with pytest.raises(ArchitectureError, match="load it with chunk_size_feed_forward=0"):
        flowgraph.load_model(model, tokenizer=tokenizer)


def test_a_head_that_does_more_than_the_row_says_is_refused():
    """Granite scales its logits, which a Llama's row does not know of."""
    import transformers

    config = transformers.GraniteConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=32, logits_scaling=8.0,
    )  # fmt: skip
    row = dataclasses.replace(FAMILIES["llama"], name="granite", model_types=("granite",))
    FAMILIES["granite"] = row
    try:
        with pytest.warns(UserWarning, match="'final norm and head = logits' fails with relative error .* set aside"):
            loaded = flowgraph.load_model(transformers.GraniteForCausalLM(config).eval())
        assert loaded.anatomy.is_found
        assert loaded.anatomy.logit_factor == pytest.approx(1 / 8)
    finally:
        del FAMILIES["granite"]


def test_the_nearest_row_is_one_whose_blocks_are_found():
    import transformers

    from flowgraph.models.resolving import resolve

    config = transformers.CohereConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=32,
    )  # fmt: skip
    with pytest.raises(ArchitectureError, match=r"Nearest is 'llama'; not found: post_attention_layernorm\. Known"):
        resolve(transformers.CohereForCausalLM(config))
