"""Models that no row is written for: their parts are found by the flow of data, and proved.

Every model is tiny and random, its biases and norms included, so that a part that is missed shows.
"""

from __future__ import annotations

import copy
import math
import re
import warnings
from functools import cache

import numpy as np
import pytest
import torch
import transformers
from torch import nn

import flowgraph as fg
from flowgraph.errors import ArchitectureError, UnsupportedReadingError
from flowgraph.interventions.blocks import mlp_of
from flowgraph.models.consistency import trace_errors
from flowgraph.models.eager import AttentionCall, eager_attention
from flowgraph.models.forward import SITES, run
from flowgraph.models.norms import found_kind
from flowgraph.models.softmax_capture import capturing
from tests.every_type import model_of, small
from tests.tiny_models import tiny_model

DECODERS = (
    "afmoe", "apertus", "arcee", "bamba", "biogpt", "bitnet", "bloom", "codegen", "cohere", "cohere2", "cwm", "deepseek_v3",
    "ernie4_5", "ernie4_5_moe", "exaone4", "falcon", "falcon_h1", "flex_olmo", "gemma4_text", "gemma4_unified_text", "glm", "glm4", "glm4_moe", "gpt_bigcode", "gpt_oss", "granite", "granite_swa",
    "granitemoe", "granitemoe_swa", "granitemoehybrid", "granitemoeshared", "helium", "hunyuan_v1_dense", "jamba", "laguna", "lfm2", "lfm2_moe", "llama4", "mimo_v2_flash", "minicpm3", "minimax", "minimax_m2", "ministral3",
    "mixtral", "mpt", "nanochat", "nemotron", "nemotron_h", "olmo", "olmo2", "olmo3", "olmo_hybrid", "olmoe", "openai-gpt", "persimmon", "phi", "phimoe",
    "qwen2_moe", "qwen3_moe", "qwen3_next", "recurrent_gemma", "seed_oss", "smollm3", "stablelm", "starcoder2", "xglm",
)  # fmt: skip
ENCODERS = (
    "albert", "big_bird", "deberta-v2", "esm", "esmc", "eurobert", "gte", "megatron-bert", "modernbert", "mpnet", "nomic_bert",
    "rembert", "roberta-prelayernorm", "roformer", "xlm-roberta-xl",
)  # fmt: skip
PATTERNS = ("dory", "doge", "gemma3n_text", "hrm_text", "longcat_flash", "xlm", "xmod")
IDS = [20, 31, 42, 53, 64, 75, 86, 97, 108]
LONG = [5 + 7 * n % 300 for n in range(40)]


@cache
def loaded_of(model_type: str, task: str = "causal") -> fg.LoadedModel:
    return fg.load_model(model_of(model_type, task))


def check_full(loaded: fg.LoadedModel) -> None:
    assert loaded.level == "full"
    assert max(loaded.proof.values()) < 1e-5, loaded.proof
    layers = range(len(loaded.anatomy.blocks))
    for ids in ([50], IDS[:5], LONG):
        at = len(ids) - 1
        trace = fg.trace(loaded, ids, position=at)
        feed = {"input_ids": torch.tensor([ids])}
        record = run(loaded.anatomy, feed, sites=frozenset(SITES), layers=layers, logits_at=at)
        errors = trace_errors(loaded.anatomy, feed, record, layers=layers, at=at)
        assert max(float(error.max()) for error in errors.values()) < 1e-5, errors
        with torch.no_grad(), eager_attention(loaded.model):
            said = loaded.model(**feed).logits[0, at]
        torch.testing.assert_close(trace.logits, said, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("model_type", DECODERS)
def test_decoders_open_whole(model_type):
    loaded = loaded_of(model_type)
    check_full(loaded)
    trace = fg.trace(loaded, IDS, position=len(IDS) - 1)
    if loaded.has_attribution:
        assert fg.direct_logit_attribution(trace).completeness_error < 1e-5
    graph = fg.build_graph(trace, method="proximity", readings=False)
    assert fg.mass(graph) == pytest.approx(1.0)
    assert fg.attention_rollout(trace).shape == (len(loaded.anatomy.blocks), len(IDS), len(IDS))


_ODD = {"hidden_size": 24, "num_attention_heads": 3, "num_hidden_layers": 2, "intermediate_size": 40, "vocab_size": 316}
STYLES: dict[str, dict[str, object]] = {
    "Phi": {"num_key_value_heads": 3},
    "Starcoder2": {"num_key_value_heads": 1, "sliding_window": 6},
    "Mixtral": {"num_key_value_heads": 1, "num_local_experts": 3},
    "Olmo2": {"num_key_value_heads": 3},
    "Bloom": {"n_head": 3, "n_layer": 2},
    "GPTBigCode": {"n_embd": 24, "n_head": 3, "n_layer": 2, "n_inner": 40},
}


@pytest.mark.parametrize("style", ["no bias", "random biases"])
@pytest.mark.parametrize("name", STYLES)
def test_styles_of_one_architecture_open_whole(name, style):
    """An odd number of heads, one group of keys, no bias at all or every bias random."""
    ends = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), 1)
    config = getattr(transformers, f"{name}Config")(**_ODD | ends | STYLES[name])
    torch.manual_seed(0)
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    assert sum(weight.numel() for weight in model.parameters()) < 100_000
    with torch.no_grad():
        for part, weight in model.named_parameters():
            if part.endswith("bias"):
                weight.normal_() if style == "random biases" else weight.zero_()
            elif weight.ndim > 1:
                weight.normal_(std=0.2)
    loaded = fg.load_model(model)
    assert loaded.anatomy.n_heads == 3
    check_full(loaded)


@pytest.mark.parametrize("model_type", ENCODERS)
def test_encoders_open_whole(model_type):
    check_full(loaded_of(model_type, "masked"))


@pytest.mark.parametrize("model_type", ["mixtral", "qwen3_moe", "phi", "glm4", "olmo2", "gpt_oss", "smollm3"])
def test_patterns_are_the_models_own(model_type):
    loaded = loaded_of(model_type)
    trace = fg.trace(loaded, IDS)
    with torch.no_grad(), eager_attention(loaded.model):
        own = loaded.model(torch.tensor([IDS]), output_attentions=True).attentions
    assert len(own) == len(trace.pattern)
    for mine, theirs in zip(trace.pattern, own, strict=True):
        torch.testing.assert_close(mine, theirs[0], rtol=0, atol=0)


@pytest.mark.parametrize("model_type", ["mixtral", "bloom", "qwen3_next", "nemotron_h"])
def test_a_folder_opens_as_the_model_in_memory(model_type, tmp_path):
    model = model_of(model_type)
    model.save_pretrained(tmp_path)
    again = fg.load_model(tmp_path)
    assert (again.level, again.anatomy.family) == ("full", loaded_of(model_type).anatomy.family)
    torch.testing.assert_close(
        fg.trace(again, IDS).logits, fg.trace(loaded_of(model_type), IDS).logits, rtol=1e-5, atol=1e-5
    )


# Factors, norms and styles of one family


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("Granite", {"residual_multiplier": 0.22, "embedding_multiplier": 12.0, "logits_scaling": 8.0, "attention_multiplier": 0.3}),
        ("Cohere", {"logit_scale": 0.0625}),
        ("Cohere", {"logit_scale": 2.0, "use_qk_norm": True}),
        ("Olmo", {"clip_qkv": None}),
        ("Olmo2", {}),
        ("StableLm", {"use_parallel_residual": True, "use_qkv_bias": True}),
        ("StableLm", {"qk_layernorm": True, "partial_rotary_factor": 0.5}),
        ("Phi", {"qk_layernorm": True}),
        ("Starcoder2", {"use_bias": False}),
        ("SmolLM3", {"no_rope_layer_interval": 2}),
        ("Llama", {"hidden_size": 36, "num_attention_heads": 3, "head_dim": 8, "num_key_value_heads": 1, "attention_bias": True, "mlp_bias": True}),
    ],
)  # fmt: skip
def test_factors_norms_and_biases_are_fitted(kind, settings):
    config = getattr(transformers, f"{kind}Config")(
        **{"vocab_size": 60, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
           "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2} | settings
    )  # fmt: skip
    torch.manual_seed(3)
    model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    # Taken away, so that no row is tried first.
    from flowgraph.models.discovery import found_and_proved
    from flowgraph.models.proving import errors_of

    anatomy, proof = found_and_proved(model, errors_of)
    assert anatomy.level == "full"
    assert max(proof.values()) < 1e-5, proof
    if kind == "Granite":
        assert anatomy.blocks[0].attention_output.factor == pytest.approx(0.22, rel=1e-4)
        assert anatomy.blocks[1].mlp_factor == pytest.approx(0.22, rel=1e-4)
        assert anatomy.logit_factor == pytest.approx(1 / 8, rel=1e-4)
        assert anatomy.embedding_scale == pytest.approx(12.0, rel=1e-4)
        assert anatomy.blocks[0].scale == pytest.approx(0.3)
    if kind == "Cohere":
        assert anatomy.logit_factor == pytest.approx(settings["logit_scale"], rel=1e-4)


@pytest.mark.parametrize("name", ["gpt2", "gptj", "gpt_neox", "llama", "gemma2", "phi3"])
def test_a_search_finds_what_the_rows_say(name):
    """Of models whose row is written by hand the search finds the same numbers at every site."""
    from flowgraph.models.discovery import found_and_proved
    from flowgraph.models.proving import errors_of

    model, _ = tiny_model(name, torch.float32)
    by_row = fg.load_model(model).anatomy
    found, _ = found_and_proved(model, errors_of)
    assert (found.wiring, found.causal, found.n_heads, found.n_kv_heads) == (
        by_row.wiring, by_row.causal, by_row.n_heads, by_row.n_kv_heads,
    )  # fmt: skip
    feed, layers = {"input_ids": torch.tensor([[20, 31, 42, 53, 11]])}, range(len(found.blocks))
    records = [run(a, feed, sites=frozenset(SITES), layers=layers, logits_at=None) for a in (by_row, found)]
    common = records[0].sites.keys() & records[1].sites.keys()
    assert {"resid_pre", "resid_post", "pattern", "q", "k", "v", "z", "attn_out", "mlp_out", "neurons"} <= common
    for site in common:
        torch.testing.assert_close(records[1].sites[site], records[0].sites[site], rtol=1e-5, atol=1e-6, msg=site)


class _Scaled(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * x


def test_norms_are_recognised_by_their_formula():
    torch.manual_seed(0)
    layer, rms = nn.LayerNorm(8, eps=1e-3), nn.RMSNorm(8, eps=1e-4)
    for module in (layer, rms):
        for parameter in module.parameters():
            nn.init.normal_(parameter, 1.0, 0.3)
    assert found_kind(layer, 8) == ("layer", 1e-3)
    assert found_kind(rms, 8) == ("rms", 1e-4)
    gemma = transformers.models.gemma.modeling_gemma.GemmaRMSNorm(8)
    nn.init.normal_(gemma.weight, 0.2, 0.3)
    assert found_kind(gemma, 8) == ("rms_unit_offset", 1e-6)
    nemotron = transformers.models.nemotron.modeling_nemotron.NemotronLayerNorm1P(8)
    nn.init.normal_(nemotron.weight, 0.2, 0.3)
    assert found_kind(nemotron, 8) == ("layer_unit_offset", 1e-5)
    for other in (
        nn.Linear(8, 8),
        nn.Identity(),
        nn.GELU(),
        _Scaled(),
        nn.Dropout(),
        nn.Softmax(-1),
        nn.BatchNorm1d(8),
    ):
        assert found_kind(other, 8) is None


# Attention code of a module's own


class _OwnAttention(nn.Module):
    """Scores with a bias by distance, a factor after the product, and a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(12, 12) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (layer(x).view(1, -1, 3, 4).transpose(1, 2) for layer in (self.q, self.k, self.v))
        t = torch.arange(x.shape[1])
        scores = torch.matmul(q, k.transpose(-1, -2)) / math.sqrt(4) + 0.1 * (t - t[:, None]).abs()
        scores = scores.masked_fill(t > t[:, None], float("-inf"))
        weights = nn.functional.dropout(torch.softmax(scores, -1), 0.0)
        return self.o((weights @ v).transpose(1, 2).flatten(2))


def test_own_attention_is_followed_at_its_softmax():
    torch.manual_seed(1)
    module, x, calls = _OwnAttention().eval(), torch.randn(1, 6, 12), []
    with torch.no_grad(), capturing({module: calls.append}):
        module(x)
        (call,) = calls
        assert isinstance(call, AttentionCall)
        torch.testing.assert_close(call.query, module.q(x).view(1, -1, 3, 4).transpose(1, 2))
        torch.testing.assert_close(call.key, module.k(x).view(1, -1, 3, 4).transpose(1, 2))
        torch.testing.assert_close(call.value, module.v(x).view(1, -1, 3, 4).transpose(1, 2))
    assert call.options["scaling"] == pytest.approx(0.5)
    assert float(call.pattern_error(0.5, None, torch.arange(6))) < 1e-6
    assert float(call.output_error()) < 1e-6
    # Another factor, or no bias, is not what was computed.
    assert float(call.pattern_error(0.6, None, torch.arange(6))) > 1e-3


def test_products_written_as_sums_over_letters_are_followed():
    torch.manual_seed(2)

    class Summed(nn.Module):
        def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            scores = torch.einsum("ibnd,jbnd->bnij", q, k) * 0.5 + 0
            return torch.einsum("bnij,jbnd->ibnd", torch.softmax(scores, 3), v)

    module, calls = Summed(), []
    q, k, v = (torch.randn(5, 1, 3, 4) for _ in range(3))
    with capturing({module: calls.append}):
        out = module(q, k, v)
    (call,) = calls
    torch.testing.assert_close(call.query[0], q[:, 0].transpose(0, 1))
    torch.testing.assert_close(call.key[0], k[:, 0].transpose(0, 1))
    torch.testing.assert_close(call.value[0], v[:, 0].transpose(0, 1))
    torch.testing.assert_close(call.output[0], out[:, 0])
    assert float(call.pattern_error(0.5, None, torch.arange(5))) < 1e-6
    assert float(call.output_error()) < 1e-6


def test_a_module_that_fails_leaves_no_trace_behind():
    module = _OwnAttention()
    with pytest.raises(RuntimeError), capturing({module: lambda _: None}):
        module(torch.zeros(1, 3, 5))
    assert not torch.overrides._get_current_function_mode_stack()
    assert not module._forward_hooks
    assert not module._forward_pre_hooks


# Sinks, mixers, gates, blocks that run again


def test_a_row_and_its_sink_sum_to_one():
    trace = fg.trace(loaded_of("gpt_oss"), IDS)
    assert trace.has_sinks
    torch.testing.assert_close(trace.pattern.sum(-1) + trace.sink, torch.ones(trace.sink.shape))
    assert float(trace.sink.min()) > 0.01
    sinks = [layer.self_attn.sinks for layer in loaded_of("gpt_oss").model.model.layers]
    # At the first token only the token itself and the sink compete.
    scale = loaded_of("gpt_oss").anatomy.blocks[0].scale
    keys = trace.k[0].repeat_interleave(trace.n_heads // len(trace.k[0]), 0)
    own = scale * (trace.q[0, :, 0] * keys[:, 0]).sum(-1)
    torch.testing.assert_close(trace.sink[0, :, 0], torch.sigmoid(sinks[0].detach() - own))
    # Half of a state is attention: what sinks take of it is in no token.
    rollout = fg.attention_rollout(trace)
    np.testing.assert_allclose(rollout[0].sum(-1), 1 - trace.sink[0].mean(0).numpy() / 2, atol=1e-6)
    assert not fg.trace(loaded_of("mixtral"), IDS).has_sinks


def test_sinks_are_known_to_a_recorded_trace(tmp_path):
    trace = fg.trace(loaded_of("gpt_oss"), IDS)
    trace.save(tmp_path / "trace.safetensors")
    again = fg.Trace.load(tmp_path / "trace.safetensors")
    assert again.has_sinks
    np.testing.assert_array_equal(fg.attention_rollout(again), fg.attention_rollout(trace))


@pytest.mark.parametrize("model_type", ["bamba", "jamba", "lfm2_moe", "nemotron_h", "qwen3_next", "recurrent_gemma"])
def test_mixers_write_what_attention_does_not(model_type):
    loaded = loaded_of(model_type)
    trace = fg.trace(loaded, IDS)
    attending = loaded.anatomy.attending
    assert 0 < len(attending) < len(loaded.anatomy.blocks)
    for layer, block in enumerate(loaded.anatomy.blocks):
        assert (block.attention is None) == (layer not in attending)
        assert bool(trace.pattern[layer].any()) == (layer in attending)
        assert bool(trace.mixer_out[layer].any()) == (block.mixer is not None)
    added = trace.attn_out + trace.mixer_out + trace.mlp_out
    torch.testing.assert_close(trace.resid_pre[0] + added.sum(0), trace.resid_post[-1], rtol=1e-4, atol=1e-5)
    parts = fg.direct_logit_attribution(trace)
    assert parts.mixers is not None
    assert parts.total == pytest.approx(parts.logit, rel=1e-5)
    weights = fg.edge_weights(trace, method="norms")
    np.testing.assert_allclose(weights.mixer, trace.mixer_out.norm(dim=-1).numpy(), rtol=1e-5, atol=1e-6)
    graph = fg.build_graph(trace, method="logits", readings=False)
    mixers = [float(graph.weight[e]) for e in range(len(graph)) if graph.nodes[graph.source[e]].kind == "mixer"]
    assert sum(mixers) == pytest.approx(float(parts.mixers.sum()), rel=1e-5)


@pytest.mark.parametrize(
    ("model_type", "window"), [("jamba", (0, 1)), ("jamba", (2, 3)), ("nemotron_h", (0, 1)), ("nemotron_h", (3, 4))]
)
def test_a_window_of_layers_that_do_not_attend_is_traced(model_type, window):
    trace = fg.trace(loaded_of(model_type), IDS, keep=fg.TraceSites(layers=window))
    whole = fg.trace(loaded_of(model_type), IDS)
    torch.testing.assert_close(trace.resid_post[0], whole.resid_post[window[0]])
    assert not trace.q.any()
    assert not trace.pattern.any()


def test_a_graph_shows_no_heads_that_are_not_there():
    for model_type in ("bamba", "mamba"):
        loaded = loaded_of(model_type)
        trace = fg.trace(loaded, IDS)
        for method in ("attention", "norms", "proximity", "logits"):
            graph = fg.build_graph(trace, method=method, level="head", readings=False)
            assert {node.layer for node in graph.nodes if node.kind == "head"} <= set(loaded.anatomy.attending), method
    assert "no attention" in repr(trace)


def test_heads_of_layers_without_attention_have_no_effect():
    loaded = loaded_of("bamba")
    effects = fg.head_effects(loaded, [IDS]).effects
    silent = [layer for layer in range(len(loaded.anatomy.blocks)) if layer not in loaded.anatomy.attending]
    assert not np.asarray(effects)[..., silent, :].any()
    assert np.asarray(effects).any()


@pytest.mark.parametrize("model_type", ["qwen3_next", "afmoe", "bitnet", "laguna"])
def test_gates_are_in_every_part(model_type):
    """What each token brings through a head is pattern · (gate ∘ value) · W_O, another for each query."""
    loaded = loaded_of(model_type)
    anatomy = loaded.anatomy
    assert anatomy.is_gated
    trace = fg.trace(loaded, IDS)
    layer = anatomy.attending[0]
    values = anatomy.per_query_head(trace.v[layer])
    norms = fg.edge_weights(trace, method="norms")
    post = anatomy.blocks[layer].attention_post_norm
    for t in (0, 4, len(IDS) - 1):
        vectors = (values * trace.z_gate[layer, :, t, None]) @ anatomy.W_O(layer)
        parts = trace.pattern[layer, :, t, :, None] * vectors
        whole = parts.sum((0, 1))
        bias = anatomy.blocks[layer].attention_output.bias
        if post is None:
            torch.testing.assert_close(
                whole + (0 if bias is None else bias), trace.attn_out[layer, t], rtol=1e-4, atol=1e-5
            )
            np.testing.assert_allclose(norms.attention[layer, :, t], parts.norm(dim=-1).numpy(), rtol=1e-4, atol=1e-6)
        else:
            scale = trace.norm_scales["attention_post"][layer, t]
            through = post.linear(parts, scale.expand(parts.shape[:-1]))
            np.testing.assert_allclose(norms.attention[layer, :, t], through.norm(dim=-1).numpy(), rtol=1e-4, atol=1e-6)
    with pytest.raises(
        UnsupportedReadingError, match="multiplies the outputs of its heads before the output projection"
    ):
        fg.norm_map(trace)


@pytest.mark.parametrize("model_type", ["mixtral", "qwen3_next"])
def test_what_mixes_heads_before_their_projection_is_no_gate(model_type):
    """A factor that is read off fits anything; the derivative shows that number 1 comes from another's place."""
    from copy import deepcopy

    model = deepcopy(model_of(model_type))
    for layer in model.model.layers:
        if hasattr(layer, "self_attn"):
            layer.self_attn.o_proj.register_forward_pre_hook(lambda _, args: (args[0].roll(1, -1), *args[1:]))
    loaded = fg.load_model(model)
    assert loaded.level == "patterns"
    assert "more than a factor on each number" in loaded.anatomy.stack.reason


def test_an_mlp_that_reads_other_positions_is_none():
    from copy import deepcopy

    model = deepcopy(model_of("mixtral"))
    # Each token's experts are given the token before as well.
    for layer in model.model.layers:
        layer.mlp.forward = lambda x, forward=layer.mlp.forward: forward(x + x.roll(1, 1))
    loaded = fg.load_model(model)
    assert loaded.level == "patterns"
    assert "depends on other positions" in loaded.anatomy.stack.reason


def test_a_block_that_runs_again_is_a_layer_each_time():
    loaded = loaded_of("albert", "masked")
    model, anatomy = loaded.model, loaded.anatomy
    assert len({id(block.module) for block in anatomy.blocks}) == 1
    assert len(anatomy.blocks) == model.config.num_hidden_layers > 1
    trace = fg.trace(loaded, IDS, position=2)
    with torch.no_grad(), eager_attention(model):
        own = model(torch.tensor([IDS]), output_hidden_states=True, output_attentions=True)
    for layer in range(len(anatomy.blocks)):
        torch.testing.assert_close(trace.pattern[layer], own.attentions[layer][0])
        torch.testing.assert_close(trace.resid_post[layer], own.hidden_states[layer + 1][0])


def test_two_modules_that_write_one_output_are_one_node():
    """Shared experts beside the routed ones: together they are the MLP, and without it a layer hands its middle state on."""
    loaded = loaded_of("granitemoeshared")
    trace = fg.trace(loaded, IDS)
    layer = loaded.model.model.layers[1]
    block = loaded.anatomy.blocks[1]
    with torch.no_grad():
        reads = block.mlp_norm.module(trace.resid_mid[1][None])
        both = layer.block_sparse_moe(reads)[0] + layer.shared_mlp(reads)
    torch.testing.assert_close(
        trace.mlp_out[1], block.mlp_factor * both.reshape(trace.mlp_out[1].shape), rtol=1e-4, atol=1e-5
    )
    last, seen = len(loaded.anatomy.blocks) - 1, []
    handle = loaded.anatomy.final_norm.module.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    try:
        fg.ablate(loaded, IDS, fg.Node("mlp", layer=last))
    finally:
        handle.remove()
    assert any(torch.allclose(x.reshape(-1, x.shape[-1])[-1], trace.resid_mid[last, -1], atol=1e-5) for x in seen)


# Levels


def test_blocks_without_a_known_pattern_are_named():
    # Factors that differ from layer to layer are not taken apart.
    model = norms_on_the_stream(of_mixers=2.0).model
    said = "layers[1] (the layers here are layers[0, 2])"
    with pytest.warns(UserWarning, match=re.escape(f"no attention pattern is known of blocks {said}")):
        loaded = fg.load_model(model)
    assert "factors of the stream before attention differ from block to block" in loaded.anatomy.stack.reason
    assert f"without blocks {said}" in fg.rollout_graph(fg.trace(loaded, IDS)).caption()


@pytest.mark.parametrize("task", ["classifier", "masked"])
def test_attention_behind_the_blocks_is_no_part_of_the_head(task):
    """Funnel pools its positions twice, so its twelve layers are three stacks."""
    with pytest.raises(ArchitectureError, match="attends outside of the blocks"):
        fg.load_model(model_of("funnel", task))


@pytest.mark.parametrize("model_type", PATTERNS)
def test_where_no_more_is_found_patterns_are(model_type):
    loaded = loaded_of(model_type)
    assert loaded.level == "patterns"
    assert "level 'patterns'" in repr(loaded)
    assert max(loaded.proof.values()) < 1e-5
    trace = fg.trace(loaded, IDS)
    whole = trace.pattern.sum(-1) + trace.sink
    torch.testing.assert_close(whole, torch.ones_like(whole), rtol=1e-5, atol=1e-5)
    assert (trace.pattern >= 0).all()
    assert trace.pattern.std() > 0.01
    assert fg.attention_rollout(trace).shape[-1] == len(IDS)
    assert fg.attention_flow(trace).shape[-1] == len(IDS)
    assert len(fg.build_graph(trace, method="attention"))
    for use in (
        lambda: trace.resid_pre,
        lambda: fg.edge_weights(trace, method="norms"),
        lambda: fg.edge_weights(trace, method="proximity"),
        lambda: fg.ablate(loaded, IDS, fg.Node("head", layer=0, head=0)),
    ):
        with pytest.raises(UnsupportedReadingError, match="residual stream"):
            use()
    for use in (lambda: fg.logit_lens(trace), lambda: fg.direct_logit_attribution(trace)):
        with pytest.raises(UnsupportedReadingError):
            use()


def test_captions_and_files_say_what_is_not_known(tmp_path):
    for model_type, said in (
        ("doge", "attention patterns alone are known of this model"),
        ("bamba", "layers 0, 2 without attention: what moves between tokens there is on no edge"),
    ):
        graph = fg.build_graph(fg.trace(loaded_of(model_type), IDS), method="attention", readings=False)
        assert said in graph.caption()
        graph.save(tmp_path / "graph.json")
        assert said in fg.import_graph(tmp_path / "graph.json").caption()
    whole = fg.build_graph(fg.trace(loaded_of("mixtral"), IDS), method="attention", readings=False)
    assert not {"known", "without_attention"} & whole.info.provenance.keys()


def test_what_a_layer_does_not_have_is_named():
    loaded = loaded_of("bamba")
    with pytest.raises(UnsupportedReadingError, match="does not attend"):
        fg.head_roles(loaded)
    with pytest.raises(fg.ArgumentError, match="has no norm there"):
        fg.norm_filter(fg.trace(loaded_of("olmo2"), IDS), layer=1)


def test_levels_are_stated():
    assert fg.load_model(tiny_model("llama")).level == "full"
    assert fg.load_model(tiny_model("llama")[0].model).level == "stream"
    assert "level" not in repr(fg.load_model(tiny_model("llama")))
    assert "level 'stream'" in repr(fg.load_model(tiny_model("llama")[0].model))


@pytest.mark.parametrize(
    ("use", "said"),
    [
        (lambda loaded, trace: trace.neurons, "so they have no neurons"),
        (lambda loaded, trace: fg.edge_weights(trace, method="ff"), "so they have no neurons"),
        (lambda loaded, trace: fg.semantic_graph(trace, layers=1), "so they have no neurons"),
        (lambda loaded, trace: fg.ablate(loaded, IDS, fg.Node("neuron", layer=1, index=2)), "so they have no neurons"),
    ],
)
def test_a_mixture_of_experts_has_no_neurons(use, said):
    loaded = loaded_of("mixtral")
    with pytest.raises(UnsupportedReadingError, match=said):
        use(loaded, fg.trace(loaded, IDS))


@pytest.mark.parametrize("model_type", ["deepseek_v3", "olmo2"])
def test_queries_that_are_no_linear_map_are_named(model_type):
    loaded = loaded_of(model_type)
    assert not loaded.anatomy.has_projections
    trace = fg.trace(loaded, IDS)
    with pytest.raises(UnsupportedReadingError, match="no linear maps of what its attention reads"):
        _ = trace.q_proj
    edge = fg.Edge(fg.Node("head", layer=0, head=0), fg.Node("head", layer=1, head=0), "q")
    with pytest.raises(UnsupportedReadingError, match="no linear maps"):
        fg.ablate(loaded, IDS, edge)
    # Single entries of a pattern can be changed all the same: its values are seen at the attention function.
    off = fg.PatternEdit(layer=1, head=0, query_pos=len(IDS) - 1, key_pos=3)
    assert fg.ablate(loaded, IDS, off).after != fg.ablate(loaded, IDS, off).before


def test_a_changed_pattern_changes_what_it_says():
    """Removing one entry of a pattern takes pattern · value · W_O away from the stream, no more and no less."""
    loaded = loaded_of("bloom")
    trace = fg.trace(loaded, IDS)
    last, t = len(loaded.anatomy.blocks) - 1, len(IDS) - 1
    edit = fg.PatternEdit(layer=last, head=1, query_pos=t, key_pos=2)
    effect = fg.ablate(loaded, IDS, edit, metric=fg.log_probability)
    vector = trace.pattern[last, 1, t, 2] * trace.v[last, 1, 2] @ loaded.anatomy.W_O(last)[1]
    block = loaded.anatomy.blocks[last]
    with torch.no_grad():
        middle = trace.resid_mid[last, t] - vector
        state = middle + block.mlp_output.module(
            block.activation(block.mlp_input.module(block.mlp_norm.module(middle)))
        )
        logits = loaded.model.lm_head(loaded.anatomy.final_norm.module(state))
    expected = torch.log_softmax(logits, -1)[trace.target]
    assert float(effect.after[0]) == pytest.approx(float(expected), abs=1e-4)


@pytest.mark.parametrize("model_type", ["mamba", "falcon_mamba", "mamba2"])
def test_a_model_without_attention_is_placed_by_its_stream(model_type):
    loaded = loaded_of(model_type)
    check_full(loaded)
    assert "no attention" in repr(loaded)
    trace = fg.trace(loaded, IDS)
    assert not trace.pattern.any()
    parts = fg.direct_logit_attribution(trace)
    assert parts.completeness_error < 1e-5
    assert parts.mixers is not None
    assert parts.mixers.any()
    graph = fg.build_graph(trace, method="norms")
    assert "without attention" in graph.caption()
    assert {node.kind for node in graph.nodes} <= {"embed", "resid_mid", "resid_post", "mlp", "mixer", "logit"}
    for use in (
        lambda: fg.head_effects(loaded, [IDS]),
        lambda: fg.ablate(loaded, IDS, fg.Node("head", layer=0, head=0)),
        lambda: fg.ablate(loaded, IDS, fg.PatternEdit(layer=1, head=0, query_pos=3, key_pos=2)),
    ):
        with pytest.raises(UnsupportedReadingError, match="so it has no heads"):
            use()


def test_what_cannot_be_found_says_how_far_the_search_came():
    with pytest.raises(ArchitectureError, match="attends more than once each time that it runs"):
        fg.load_model(model_of("diffllama"))


def test_weights_and_modules_stay_as_they_were():
    model = model_of("jamba")
    before = [(name, p.data_ptr(), p._version) for name, p in model.named_parameters()]
    loaded = fg.load_model(model)
    fg.trace(loaded, IDS)
    assert [(name, p.data_ptr(), p._version) for name, p in model.named_parameters()] == before
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.real_model
@pytest.mark.parametrize("name", ["smollm2", "minilm"])
def test_a_search_finds_real_models(name):
    """Their states hold massive activations, beside which what a block adds is known to few digits."""
    from flowgraph.models.discovery import found_and_proved
    from flowgraph.models.proving import errors_of

    loaded = fg.load_model(name)
    found, proof = found_and_proved(loaded.model, errors_of)
    by_row = loaded.anatomy
    assert found.level == loaded.level
    assert (found.wiring, found.has_projections, found.has_neurons) == (by_row.wiring, True, True)
    assert max(proof.values()) < 1e-5
    for mine, theirs in zip(found.blocks, by_row.blocks, strict=True):
        for part in ("attention", "query", "key", "value", "mlp"):
            assert getattr(mine, part) is getattr(theirs, part), part
        assert mine.attention_output is not None
        assert theirs.attention_output is not None
        assert mine.attention_output.module is theirs.attention_output.module


@pytest.mark.parametrize("model_type", ["bloom", "phi", "olmo2", "glm4"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_number_types(model_type, dtype):
    loaded = fg.load_model(model_of(model_type), dtype=dtype)
    assert (loaded.level, loaded.dtype) == ("full", dtype)
    assert fg.trace(loaded, IDS).pattern.dtype == dtype


def test_sinks_that_make_heads_smaller_are_sinks():
    """Where a model multiplies what heads give by one minus the sink's share, the pattern is the one with the sink."""
    loaded = loaded_of("granite_swa")
    trace = fg.trace(loaded, IDS)
    assert loaded.anatomy.stack.attention.sinks
    assert (trace.sink > 0.01).all()
    module = loaded.anatomy.blocks[0].attention
    scores = loaded.anatomy.blocks[0].scale * trace.q[0] @ loaded.anatomy.per_query_head(trace.k[0]).transpose(-1, -2)
    seen = torch.where(trace.pattern[0] > 0, scores, -torch.inf)
    sink = module.sinks.detach()[:, None, None].expand(*seen.shape[:2], 1)
    by_hand = torch.cat([seen, sink], -1).softmax(-1)
    torch.testing.assert_close(trace.pattern[0], by_hand[..., :-1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(trace.sink[0], by_hand[..., -1], rtol=1e-4, atol=1e-5)


def test_keys_that_more_heads_share_in_some_layers():
    loaded = loaded_of("mimo_v2_flash")
    sizes = {
        block.attention.k_proj.out_features if hasattr(block.attention, "k_proj") else 0
        for block in loaded.anatomy.blocks
    }
    assert len(sizes) > 1
    trace = fg.trace(loaded, IDS)
    assert trace.k.shape[1] == trace.v.shape[1] == loaded.anatomy.n_kv_heads == 4
    # Layers of fewer keys hold each of them several times.
    few = [n for n, block in enumerate(loaded.anatomy.blocks) if block.attention.k_proj.out_features == min(sizes)]
    assert torch.equal(trace.k[few[0]][0], trace.k[few[0]][1])
    assert not torch.equal(trace.k[few[0]][1], trace.k[few[0]][2])
    effect = fg.ablate(loaded, IDS, [fg.Node("head", 1, head=0)]).effect
    assert np.isfinite(effect).all()


def test_heads_of_several_sizes_are_filled_up_with_zeros():
    loaded = loaded_of("gemma4_text")
    anatomy, trace = loaded.anatomy, fg.trace(loaded, IDS)
    small = [n for n, block in enumerate(anatomy.blocks) if block.attention_output.heads is not None]
    assert small
    assert len(small) < len(anatomy.blocks)
    own = anatomy.blocks[small[0]].attention_output.heads[1]
    assert own < anatomy.d_value == trace.z.shape[-1]
    for site in ("q", "k", "v", "z"):
        assert not trace.sites[site][small[0], ..., own:].any()
        assert trace.sites[site][small[0], ..., :own].any()
    assert anatomy.W_O(small[0]).shape == (anatomy.n_heads, anatomy.d_value, anatomy.d_model)
    # A head that is set to zero is one that the output projection does not read.
    model, at = loaded.model, len(IDS) - 1
    module = anatomy.blocks[small[0]].attention_output.module
    ablated = fg.ablate(
        loaded, IDS, [fg.Node("head", small[0], head=1)], how="zero", target=9, metric=fg.log_probability
    )
    kept = module.weight.detach().clone()
    with torch.no_grad(), eager_attention(model):
        before = model(torch.tensor([IDS])).logits[0, at].log_softmax(-1)[9]
        module.weight[:, own : 2 * own] = 0
        after = model(torch.tensor([IDS])).logits[0, at].log_softmax(-1)[9]
        module.weight.copy_(kept)
    assert float(ablated.effect[0]) == pytest.approx(float(after - before), rel=1e-3, abs=1e-5)
    graph = fg.build_graph(trace, method="norms", level="head", readings=False)
    assert fg.mass(graph) == pytest.approx(1.0)


def test_patterns_of_modules_that_run_several_times():
    loaded = loaded_of("hrm_text")
    assert len(loaded.anatomy.blocks) > len({id(block.attention) for block in loaded.anatomy.blocks})
    trace = fg.trace(loaded, IDS)
    assert not torch.equal(trace.pattern[0], trace.pattern[-1])


@pytest.mark.parametrize("model_type", ["mpt", "xglm", "bloom"])
def test_sweeps_over_heads_are_single_ablations(model_type):
    """Masks and biases by distance come with or without a row for each prompt."""
    loaded = loaded_of(model_type)
    trace = fg.trace(loaded, IDS)
    effects = fg.head_effects(loaded, trace, how="zero")
    for layer, head in ((0, 0), (1, 2)):
        alone = fg.ablate(loaded, trace, fg.Node("head", layer=layer, head=head))
        assert float(effects.by_prompt[0, layer, head]) == pytest.approx(alone.after[0] - alone.before[0], abs=1e-5)


@pytest.mark.parametrize("model_type", ["mixtral", "gpt_oss"])
def test_experts_take_any_number_of_axes(model_type):
    loaded = loaded_of(model_type)
    reads = torch.randn(3, 2, 5, loaded.anatomy.d_model)
    one_by_one = torch.stack([mlp_of(loaded.anatomy, 0, row) for row in reads])
    torch.testing.assert_close(mlp_of(loaded.anatomy, 0, reads), one_by_one)
    other = fg.inputs(ids=[IDS[0] + 1, *IDS[1:]])
    assert len(fg.discover(loaded, clean=fg.trace(loaded, IDS), corrupted=other))


def test_all_that_a_graph_does_not_show_is_not_defined_without_attention():
    loaded = loaded_of("jamba")
    trace = fg.trace(loaded, IDS)
    with pytest.raises(UnsupportedReadingError, match="no edge shows what layers without attention"):
        fg.ablate(loaded, trace, fg.build_graph(trace), outside=True)


def test_modules_that_a_pass_replaces_are_named():
    task = "masked"
    model = copy.deepcopy(model_of("big_bird", task))
    # In the shared model another test may have let them be replaced already.
    model.bert.set_attention_type("block_sparse")
    with pytest.warns(UserWarning, match=r"replaced 3 of its modules for good, .*BigBirdBlockSparseAttention"):
        fg.load_model(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fg.load_model(model).level == "full"


def test_second_norms_in_some_layers_are_frozen_there_alone():
    loaded = loaded_of("olmo_hybrid")
    with_norms = [block.attention_post_norm is not None for block in loaded.anatomy.blocks]
    assert with_norms == [block.attention is not None for block in loaded.anatomy.blocks]
    trace = fg.trace(loaded, IDS)
    found = trace.norm_scales
    for layer, block in enumerate(loaded.anatomy.blocks):
        state = trace.resid_mid[layer]
        torch.testing.assert_close(found["mlp"][layer], block.mlp_norm.scale(state))
        if not with_norms[layer]:
            assert bool((found["attention_post"][layer] == 1).all())


# A stream that goes through norms before each part


@cache
def norms_on_the_stream(of_mixers: float = 3.5) -> fg.LoadedModel:
    config = small(transformers.MiniMaxConfig)
    for name, alpha, beta in (("full_attn", 3.5, 0.7), ("linear_attn", of_mixers, 0.7), ("mlp", 2.5, 1.3)):
        setattr(config, f"{name}_alpha_factor", alpha)
        setattr(config, f"{name}_beta_factor", beta)
    torch.manual_seed(6)
    model = transformers.MiniMaxForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return fg.load_model(model)


def test_norms_at_the_beginning_of_blocks_stand_behind_the_ones_before():
    loaded = norms_on_the_stream()
    check_full(loaded)
    stack = loaded.anatomy.stack
    assert loaded.anatomy.wiring == "post_norm"
    assert stack.stream_factors == pytest.approx((3.5, 2.5), rel=1e-6)
    assert (stack.attention.factor, stack.mixer_factor, stack.mlp_factor) == pytest.approx((0.2, 0.2, 0.52), rel=1e-6)
    trace = fg.trace(loaded, IDS)
    layers, last = loaded.model.model.layers, loaded.model.model.norm
    with torch.no_grad():
        for i, layer in enumerate(layers):
            after = layers[i + 1].input_layernorm if i + 1 < len(layers) else last
            added = trace.attn_out[i] + trace.mixer_out[i]
            middle = layer.post_attention_layernorm(3.5 * (trace.resid_pre[i] + added))
            torch.testing.assert_close(trace.resid_mid[i], middle, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(
                trace.resid_post[i], after(2.5 * (middle + trace.mlp_out[i])), rtol=1e-5, atol=1e-5
            )
    # A longer epsilon would show here: the norms read a multiple of what a trace holds.
    graph = fg.build_graph(trace, method="proximity", readings=False)
    assert fg.mass(graph) == pytest.approx(1.0)
    assert fg.attention_rollout(trace).shape == (3, len(IDS), len(IDS))


@pytest.mark.parametrize(("kind", "layer"), [("resid_pre", 1), ("resid_mid", 0), ("resid_mid", 1), ("resid_post", 1), ("resid_post", 2)])  # fmt: skip
def test_states_behind_norms_are_changed_where_they_are(kind, layer):
    loaded = norms_on_the_stream()
    layers = [*loaded.model.model.layers, loaded.model.model]
    at = len(IDS) - 2 if layer < 2 else len(IDS) - 1
    norms = {
        "resid_pre": layers[layer].input_layernorm,
        "resid_mid": layers[layer].post_attention_layernorm if layer < 3 else None,
        "resid_post": layers[3].norm if layer == 2 else layers[layer + 1].input_layernorm,
    }  # fmt: skip

    def emptied(_module, _args, output):
        output = output.clone()
        output[:, at] = 0
        return output

    handle = norms[kind].register_forward_hook(emptied)
    with torch.no_grad(), eager_attention(loaded.model):
        wanted = loaded.model(torch.tensor([IDS])).logits[0, -1]
    handle.remove()
    found = fg.ablate(loaded, fg.trace(loaded, IDS, target=7, foil=8), fg.Node(kind, layer=layer, position=at))
    assert found.after[0] == pytest.approx(float(wanted[7] - wanted[8]), abs=1e-5)


def test_runs_go_on_behind_norms_on_the_stream():
    loaded = norms_on_the_stream()
    trace = fg.trace(loaded, IDS, target=7, foil=8)
    swept = fg.head_effects(loaded, trace, how="zero")
    for layer, head in ((0, 1), (2, 3)):
        alone = fg.ablate(loaded, trace, fg.Node("head", layer=layer, head=head))
        assert float(swept.by_prompt[0, layer, head]) == pytest.approx(alone.after[0] - alone.before[0], abs=1e-5)


# Two stacks


def test_decoders_of_other_names():
    """SeamlessM4T names its stacks after what they read."""
    loaded = loaded_of("seamless_m4t", "sequences")
    assert (loaded.level, loaded.stacks["encoder"].level) == ("full", "stream")
    trace = fg.trace(loaded, fg.inputs(ids=IDS, target_ids=IDS[:4]))
    feed = {"input_ids": torch.tensor([IDS]), "decoder_input_ids": torch.tensor([trace.token_ids])}
    with torch.no_grad(), eager_attention(loaded.model):
        said = loaded.model(**feed, use_cache=False).logits[0, -1]
    torch.testing.assert_close(trace.logits, said, rtol=1e-5, atol=1e-5)
    graph = fg.build_graph(trace, method="proximity", readings=False)
    assert fg.mass(graph) == pytest.approx(1.0)


def test_positions_may_be_counted_before_rows():
    """As FSMT's blocks count them."""
    with pytest.warns(UserWarning, match="has no config"):
        loaded = fg.load_model(model_of("fsmt", "sequences"))
    assert loaded.level == "stream"
    trace = fg.trace(loaded, fg.inputs(ids=IDS, target_ids=IDS[:4]))
    values = loaded.anatomy.per_query_head(trace.v[0])
    torch.testing.assert_close(trace.pattern[0] @ values, trace.z[0], rtol=1e-5, atol=1e-5)


def test_a_vector_beside_attention_is_part_of_its_bias():
    """The last layer of GPT-NeoX Japanese adds one outside of the projection."""
    loaded = loaded_of("gpt_neox_japanese")
    check_full(loaded)
    trace = fg.trace(loaded, IDS, target=7, foil=8)
    vector = loaded.model.gpt_neox_japanese.layers[-1].attention.dense_bias
    torch.testing.assert_close(trace.biases["attn"][-1], vector.detach())
    assert not trace.biases["attn"][:-1].any()
    assert fg.direct_logit_attribution(trace).completeness_error < 1e-5

    def emptied(_module, _args, output):
        return torch.zeros_like(output) - vector

    last = loaded.model.gpt_neox_japanese.layers[-1].attention.dense
    handle = last.register_forward_hook(emptied)
    with torch.no_grad():
        wanted = loaded.model(torch.tensor([IDS])).logits[0, -1]
    handle.remove()
    found = fg.ablate(loaded, trace, fg.Node("attn", layer=2))
    assert found.after[0] == pytest.approx(float(wanted[7] - wanted[8]), abs=1e-5)


@pytest.mark.parametrize(
    ("model_type", "task", "said"),
    [
        ("t5gemma2", "sequences", "its own states and others' side by side"),
        ("bart", "classifier", r"Take the model below its head, model\.base_model"),
    ],
)
def test_two_stacks_that_are_no_step_after_step_are_named(model_type, task, said):
    with pytest.raises(ArchitectureError, match=said):
        fg.load_model(model_of(model_type, task))


def test_a_classifier_of_two_stacks_opens_below_its_head():
    loaded = fg.load_model(model_of("bart", "classifier").base_model)
    assert loaded.level == "stream"
    assert len(fg.trace(loaded, fg.inputs(ids=IDS, target_ids=IDS)).tokens) == len(IDS) + 1


def test_a_decoder_reads_the_last_stage_of_windows():
    """Donut; its MLPs are as wide as its states, and are told from the projections of attention."""
    windows = {
        "image_size": [16, 32],
        "patch_size": 2,
        "embed_dim": 16,
        "depths": [4, 2],
        "num_heads": [2, 4],
        "window_size": 4,
    }
    width = {"d_model": 32, "decoder_ffn_dim": 32, "decoder_layers": 2, "decoder_attention_heads": 4}
    decoder = transformers.MBartConfig(
        vocab_size=60, max_position_embeddings=32, is_decoder=True, add_cross_attention=True, **width
    )
    encoder = transformers.DonutSwinConfig(**windows)
    config = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    config.decoder_start_token_id, config.pad_token_id = 1, 0
    torch.manual_seed(8)
    model = transformers.VisionEncoderDecoderModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    with pytest.warns(UserWarning, match="one stage"):
        loaded = fg.load_model(model)
    assert (loaded.level, loaded.stacks["encoder"].level) == ("full", "patterns")
    trace = fg.trace(loaded, fg.inputs(image=torch.rand(1, 3, 16, 32), target_ids=[5, 9, 11]))
    assert trace.stacks["encoder"].axis.labels[8] == "patch 1,0"
    assert trace.sites["cross_pattern"].shape == (2, 4, 4, 16 // 4 * 32 // 4)
    assert fg.direct_logit_attribution(trace).completeness_error < 1e-5
    with pytest.raises(UnsupportedReadingError, match="blocks that are unknown"):
        fg.attention_rollout(trace)


def test_a_window_of_layers_without_attention():
    loaded = loaded_of("bamba")
    whole, part = fg.trace(loaded, IDS), fg.trace(loaded, IDS, keep=fg.TraceSites(layers=(0, 1)))
    torch.testing.assert_close(part.resid_post[0], whole.resid_post[0])
    assert not part.pattern.any()


def test_states_side_by_side_are_sums_with_the_factors_of_each_position():
    """Gemma 3n: what the docs say of its four states, with the factors frozen as they were in the pass."""
    model = model_of("gemma3n_text", "causal").eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for one in model.parameters():
            one.add_(0.2 * torch.randn_like(one))
    seen: dict[tuple[int, str], tuple] = {}
    handles = []
    for n, layer in enumerate(model.model.layers):
        altup = layer.altup
        for name, module in {
            "layer": layer, "mixes": altup.prediction_coefs, "writes": altup.correction_coefs, "attention": layer.post_attention_layernorm,
            "mlp": layer.post_feedforward_layernorm, "laurel": layer.laurel, "own": layer.post_per_layer_input_norm,
        }.items():  # fmt: skip

            def hook(_module, args, output, at=(n, name)):
                seen[at] = (args[0].double(), output.double())

            handles.append(module.register_forward_hook(hook))
    with torch.no_grad():
        model(torch.tensor([IDS]), use_cache=False)
    for handle in handles:
        handle.remove()
    eye, root = torch.eye(4, dtype=torch.float64), 2**-0.5
    parts = seen[0, "layer"][0][:, 0]
    for n in range(len(model.model.layers)):
        before, after = (one[:, 0] for one in seen[n, "layer"])
        attention, mlp, laurel, own = (seen[n, name][1][0] for name in ("attention", "mlp", "laurel", "own"))
        predicts = eye + seen[n, "mixes"][1][0].unflatten(-1, (4, 4))
        writes = seen[n, "writes"][1][0] + 1
        corrects = eye.repeat(len(IDS), 1, 1)
        corrects[:, :, 0] += writes * (root - 1)
        maps = corrects @ predicts
        written = torch.einsum("to,td->otd", writes, root * (attention + laurel) + mlp)
        written[1:] += own
        made = torch.einsum("toi,itd->otd", maps, before) + written
        assert float((made - after).norm() / after.norm()) < 1e-6
        fixed = torch.einsum("oi,itd->otd", maps.mean(0), before) + written
        assert float((fixed - after).norm() / (after - before).norm()) > 0.02
        parts = torch.einsum("toi,itd->otd", maps, parts) + written
    assert float((parts - after).norm() / after.norm()) < 1e-6
