"""Every trace is held against the identities of what it kept; hooks that were added later are noticed."""

from __future__ import annotations

import sys

import pytest
import torch
import transformers

import flowgraph
from flowgraph.errors import ArchitectureError
from flowgraph.lenses.query_key import key_directions
from flowgraph.models.consistency import TOLERANCE, trace_errors
from flowgraph.models.forward import SITES, run
from tests.tiny_models import TINY, tiny_model

LONG = [20 + (7 * n) % 90 for n in range(40)]
SHORT = LONG[:6]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", TINY)
def test_the_identities_of_a_pass_hold_in_a_window_too(tiny, name, dtype):
    anatomy = tiny(name, dtype).anatomy
    ids = torch.tensor([LONG[: anatomy.context]])
    for layers in (range(len(anatomy.blocks)), range(1, len(anatomy.blocks))):
        record = run(anatomy, {"input_ids": ids}, sites=frozenset(SITES), layers=layers, logits_at=5)
        errors = trace_errors(anatomy, {"input_ids": ids}, record, layers=layers, at=5)
        assert len(errors) >= 6
        # The bound leaves room for real models: on tiny ones a tenth is enough.
        assert all(float(error.max()) <= TOLERANCE[dtype] / 10 for error in errors.values()), errors


def longer(x):
    """A change that short prompts do not see."""
    return x * 1.05 if x.shape[1] > 8 else x


def on_output(module):
    module.register_forward_hook(
        lambda _m, _a, out: (longer(out[0]), *out[1:]) if isinstance(out, tuple) else longer(out)
    )


BEYOND_THE_PROOF = {
    "the residual stream adds up": lambda model: on_output(model.model.layers[1]),
    "Σ z W_O + b_O = attention's output": lambda model: on_output(model.model.layers[0].self_attn.o_proj),
    "Σ neurons W_out + b_out = MLP's output": lambda model: on_output(model.model.layers[1].mlp.down_proj),
    "embedding = first residual": lambda model: on_output(model.model.embed_tokens),
    "final norm and head = logits": lambda model: on_output(model.model.norm),
}


@pytest.mark.parametrize("identity", BEYOND_THE_PROOF)
def test_what_only_longer_prompts_show_is_refused(identity):
    model, tokenizer = tiny_model("llama")
    BEYOND_THE_PROOF[identity](model)
    loaded = flowgraph.load_model(model, tokenizer=tokenizer)
    flowgraph.trace(loaded, SHORT)
    with pytest.raises(ArchitectureError, match="pass of 40 tokens is not what the row 'llama' says") as refused:
        flowgraph.trace(loaded, LONG)
    assert f"'{identity}' fails" in str(refused.value)


@pytest.mark.parametrize("part", ["scores", "values", "rows"])
def test_attention_that_changes_with_the_length_is_refused(part, monkeypatch):
    model, tokenizer = tiny_model("llama")
    file = sys.modules[type(model.model.layers[0].self_attn).__module__]
    eager = file.eager_attention_forward

    def changed(module, query, key, value, *args, **kwargs):
        if query.shape[2] <= 8:
            return eager(module, query, key, value, *args, **kwargs)
        if part == "scores":
            output, pattern = eager(module, query * 1.3, key, value, *args, **kwargs)
        else:
            output, pattern = eager(module, query, key, value, *args, **kwargs)
        return (output * 1.1 if part == "values" else output), (pattern * 0.9 if part == "rows" else pattern)

    loaded = flowgraph.load_model(model, tokenizer=tokenizer)
    monkeypatch.setattr(file, "eager_attention_forward", changed)
    flowgraph.trace(loaded, SHORT)
    with pytest.raises(ArchitectureError, match=r"'(softmax|pattern)"):
        flowgraph.trace(loaded, LONG)


def test_queries_that_change_with_the_position_are_taken_as_they_enter():
    """Ministral 3 multiplies queries beyond its original length; the row knows of rotary embedding alone."""
    config = transformers.Ministral3Config(
        vocab_size=120, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=64, initializer_range=0.3, pad_token_id=0,
        rope_parameters={
            "type": "yarn", "rope_type": "yarn", "rope_theta": 10000.0, "factor": 8.0, "original_max_position_embeddings": 8,
            "beta_fast": 32.0, "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.1,
        },
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.Ministral3ForCausalLM(config).eval()
    loaded = flowgraph.load_model(model)
    trace = flowgraph.trace(loaded, LONG)
    scores = loaded.anatomy.blocks[0].scale * trace.q @ trace.k.repeat_interleave(2, 1).transpose(-1, -2)
    made = scores.masked_fill(trace.pattern == 0, float("-inf")).softmax(-1)
    torch.testing.assert_close(made, trace.pattern, rtol=1e-4, atol=1e-6)
    ratio = (trace.q.norm(dim=-1) / trace.q_proj.norm(dim=-1))[0, 0]
    assert float(ratio[20:].min()) > float(ratio[:8].max()) * 1.02, "the case has to be one where queries change"
    # A key as the query sees it needs the rotary embedding alone, and says that it is not all.
    with pytest.raises(flowgraph.UnsupportedReadingError, match="is not its projections under rotary"):
        key_directions(trace, 0, torch.tensor([0]), query_pos=torch.tensor([30]), key_pos=torch.tensor([2]))


def test_weights_changed_behind_torchs_back_are_no_fault():
    model, tokenizer = tiny_model("llama")
    loaded = flowgraph.load_model(model, tokenizer=tokenizer)
    flowgraph.trace(loaded, LONG)
    for block in model.model.layers:
        block.self_attn.o_proj.weight.data.mul_(3.0)
        block.mlp.down_proj.weight.data.mul_(0.5)
    trace = flowgraph.trace(loaded, LONG)
    with torch.no_grad():
        torch.testing.assert_close(trace.logits, model(torch.tensor([LONG])).logits[0, -1], rtol=1e-4, atol=1e-5)


def test_a_hook_that_was_added_later_is_noticed():
    model, tokenizer = tiny_model("llama")
    loaded = flowgraph.load_model(model, tokenizer=tokenizer)
    before = flowgraph.trace(loaded, SHORT)
    seen = []
    looking = model.model.layers[0].register_forward_hook(lambda *_: seen.append(1))
    torch.testing.assert_close(flowgraph.trace(loaded, SHORT).logits, before.logits)
    assert seen
    changing = model.model.layers[1].register_forward_hook(lambda _m, _a, out: out * 1.5)
    with pytest.raises(ArchitectureError, match=r"hooks were added .* 'the residual stream adds up' fails in layer 1"):
        flowgraph.trace(loaded, SHORT)
    changing.remove()
    looking.remove()
    torch.testing.assert_close(flowgraph.trace(loaded, SHORT).logits, before.logits)


def test_a_hook_before_the_final_norm_is_noticed():
    """The norm undoes the factor, and the logits stay; a decomposition by its scale would miss a third of the logit."""
    model, tokenizer = tiny_model("llama")
    loaded = flowgraph.load_model(model, tokenizer=tokenizer)
    hook = model.model.norm.register_forward_pre_hook(lambda _m, args: (args[0] * 1.5,))
    with pytest.raises(ArchitectureError, match="'last residual = what the final norm reads' fails"):
        flowgraph.trace(loaded, SHORT)
    hook.remove()
    assert abs(flowgraph.direct_logit_attribution(flowgraph.trace(loaded, SHORT)).completeness_error) < 1e-5


@pytest.mark.parametrize("keep", [None, ["pattern"]])
def test_a_vocabulary_of_another_size_is_noticed(keep):
    model, tokenizer = tiny_model("llama")
    loaded = flowgraph.load_model(model, tokenizer=tokenizer)
    size = model.config.vocab_size
    model.resize_token_embeddings(size + 7, mean_resizing=False)
    with pytest.raises(ArchitectureError, match=f"gives {size + 7} logits, and had a vocabulary of {size} when it was"):
        flowgraph.trace(loaded, SHORT, keep=keep)


def test_answers_of_the_models_own_attention_are_held_against_eager(monkeypatch):
    model, tokenizer = tiny_model("llama")
    assert flowgraph.load_model(model, tokenizer=tokenizer).own_attention.gap < 1e-5
    from transformers.integrations import sdpa_attention
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    def without_mask(module, query, key, value, attention_mask, **kwargs):
        return sdpa_attention.sdpa_attention_forward(module, query, key, value, None, **{**kwargs, "is_causal": False})

    def broken(*_args, **_kwargs):
        raise ImportError("this attention needs another machine")

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, "sdpa", without_mask)
    with pytest.warns(UserWarning, match=r"answers differently under its own attention 'sdpa' .* by 0\.\d+ of"):
        loaded = flowgraph.load_model(model, tokenizer=tokenizer)
    assert loaded.own_attention.differs
    assert "eager attention traced, answers of its own 'sdpa' differ by 0." in repr(loaded)
    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, "sdpa", broken)
    with pytest.warns(UserWarning, match=r"'sdpa' does not run here \(this attention needs another machine\)"):
        flowgraph.load_model(model, tokenizer=tokenizer)
