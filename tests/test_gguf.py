"""GGUF to a Hugging Face folder: a tiny Llama goes in as llama.cpp stores it and must come out the same."""

import copy
import json

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from flowgraph.errors import FetchError
from flowgraph.models import gguf as converter

CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MERGES = ["Ġ Ġ", "h i", "Ġ hi"]
TEMPLATE = "{% for message in messages %}<|im_start|>{{ message['content'] }}<|im_end|>{% endfor %}"
HEADS, KEY_HEADS = 4, 2


@pytest.fixture(scope="module")
def original():
    """A random Llama of some thousand numbers, grouped-query attention included."""
    torch.manual_seed(0)
    vocabulary = len(CONTROL) + 256 + len(MERGES)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        num_key_value_heads=KEY_HEADS,
        max_position_embeddings=64,
        rms_norm_eps=1e-5,
        rope_theta=1000.0,
        tie_word_embeddings=True,
        initializer_range=0.2,
    )
    model = LlamaForCausalLM(config).eval()
    assert sum(parameter.numel() for parameter in model.parameters()) < 30_000
    return model


def interleaved(weight, heads):
    """Rows of a projection as llama.cpp stores them: one loop per row, straight from the definition."""
    stored = np.empty_like(weight)
    size = len(weight) // heads
    for head in range(heads):
        for pair in range(size // 2):
            stored[head * size + 2 * pair] = weight[head * size + pair]
            stored[head * size + 2 * pair + 1] = weight[head * size + size // 2 + pair]
    return stored


def gguf_tensors(model):
    """GGUF name → float32 array for every parameter of the model."""
    names = {
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
    }
    tensors = {}
    for layer, block in enumerate(model.model.layers):
        for theirs, ours in names.items():
            weight = block.get_submodule(theirs).weight.detach().numpy()
            if ours in ("attn_q", "attn_k"):
                weight = interleaved(weight, HEADS if ours == "attn_q" else KEY_HEADS)
            tensors[f"blk.{layer}.{ours}.weight"] = weight
    tensors["token_embd.weight"] = model.model.embed_tokens.weight.detach().numpy()
    tensors["output_norm.weight"] = model.model.norm.weight.detach().numpy()
    return tensors


def write_gguf(path, tensors, *, architecture="llama", pre="smollm", kinds=None):
    tokens = CONTROL + sorted(pre_tokenizers.ByteLevel.alphabet()) + [merge.replace(" ", "") for merge in MERGES]
    writer = gguf.GGUFWriter(str(path), architecture)
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_block_count(2)
    writer.add_feed_forward_length(48)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_HEADS)
    writer.add_rope_freq_base(1000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds or [3] * len(CONTROL) + [1] * (len(tokens) - len(CONTROL)))
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(TEMPLATE)
    for name, tensor in tensors.items():
        quantised = name == "token_embd.weight"
        kind = gguf.GGMLQuantizationType.Q8_0
        data = gguf.quants.quantize(tensor, kind) if quantised else tensor
        writer.add_tensor(name, data, raw_dtype=kind if quantised else None)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def unheard(_stage, _fraction):
    pass


@pytest.fixture(scope="module")
def converted(original, tmp_path_factory):
    place = tmp_path_factory.mktemp("gguf")
    path = write_gguf(place / "tiny.gguf", gguf_tensors(original))
    folder = place / "model"
    folder.mkdir()
    heard = []
    converter.convert_llama(path, folder, lambda stage, fraction: heard.append((stage, fraction)))
    assert heard[-1] == ("converting the weights to float16", 1.0)
    return folder


def test_every_weight_comes_back_rounded_to_float16(original, converted):
    stored = load_file(converted / "model.safetensors")
    assert {weight.dtype for weight in stored.values()} == {torch.float16}
    weights = AutoModelForCausalLM.from_pretrained(converted).half().state_dict()
    assert weights.keys() == original.state_dict().keys()
    for name, weight in original.state_dict().items():
        if "embed_tokens" in name or "lm_head" in name:  # stored in 8 bits
            assert torch.allclose(weights[name].float(), weight, atol=weight.abs().max().item() / 250)
        else:
            assert torch.equal(weights[name], weight.half()), name


def test_the_model_says_the_same(original, converted):
    model = AutoModelForCausalLM.from_pretrained(converted).float()
    expected = copy.deepcopy(original)
    expected.model.embed_tokens.weight.data = model.model.embed_tokens.weight.data  # 8 bits: tested above
    ids = torch.arange(20)[None] * 7
    with torch.no_grad():
        assert torch.allclose(model(ids).logits, expected(ids).logits, atol=0.02)


def test_the_embedding_is_shared_with_the_head(converted):
    model = AutoModelForCausalLM.from_pretrained(converted)
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()


def test_a_head_of_its_own_stays_so(original, tmp_path):
    head = gguf_tensors(original)["token_embd.weight"] * 2
    path = write_gguf(tmp_path / "untied.gguf", gguf_tensors(original) | {"output.weight": head})
    converter.convert_llama(path, tmp_path, unheard)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert not model.config.tie_word_embeddings
    assert torch.equal(model.lm_head.weight.half(), torch.from_numpy(head).half())


def test_the_config_is_plain_and_exact(converted):
    config = json.loads((converted / "config.json").read_text())
    assert config["rms_norm_eps"] == 1e-5
    assert config["rope_theta"] == 1000.0
    assert config["head_dim"] == 8
    assert json.loads((converted / "generation_config.json").read_text())["eos_token_id"] == 2


def test_the_tokenizer_splits_digits_and_keeps_control_tokens(converted):
    tokenizer = AutoTokenizer.from_pretrained(converted)
    assert tokenizer.tokenize("hi hi  12") == ["hi", "Ġhi", "ĠĠ", "1", "2"]
    assert tokenizer("<|im_start|>hi").input_ids[0] == 1
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == (
        CONTROL[1],
        CONTROL[2],
        CONTROL[2],
    )
    assert tokenizer.decode(tokenizer("naïve\n 日本 👍").input_ids) == "naïve\n 日本 👍"
    assert sorted(tokenizer("hi")) == ["attention_mask", "input_ids"]
    assert tokenizer.model_max_length == 64
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
    assert chat == "<|im_start|>hi<|im_end|>"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"architecture": "qwen2"}, "general.architecture = 'qwen2'; only 'llama'"),
        ({"pre": "llama-bpe"}, "tokenizer.ggml.pre = 'llama-bpe'; only 'smollm'"),
        ({"kinds": [3] * 3 + [6] * 259}, r"tokens of type \[6\]"),
    ],
)
def test_another_kind_of_file_is_refused_by_name(original, tmp_path, change, said):
    path = write_gguf(tmp_path / "other.gguf", gguf_tensors(original), **change)
    with pytest.raises(FetchError, match=said):
        converter.convert_llama(path, tmp_path, unheard)


@pytest.mark.parametrize("name", ["blk.0.attn_q.bias", "rope_freqs.weight", "blk.0.ffn_gate_exps.weight"])
def test_a_tensor_that_llama_has_not_is_refused_by_name(original, tmp_path, name):
    extra = gguf_tensors(original) | {name: np.ones(32, dtype=np.float32)}
    path = write_gguf(tmp_path / "other.gguf", extra)
    with pytest.raises(FetchError, match=name):
        converter.convert_llama(path, tmp_path, unheard)


def test_a_number_that_float16_cannot_hold_is_refused_by_name(original, tmp_path):
    tensors = gguf_tensors(original)
    tensors["output_norm.weight"] = np.full(32, 1e6, dtype=np.float32)
    path = write_gguf(tmp_path / "large.gguf", tensors)
    with pytest.raises(FetchError, match=r"model\.norm\.weight"):
        converter.convert_llama(path, tmp_path, unheard)


def test_safetensors_are_checked_against_their_announced_shapes(tmp_path):
    arrays = [np.zeros((2, 3), dtype=np.float16)]
    with pytest.raises(ValueError, match=r"a has shape \(2, 3\), announced as \(3, 2\)"):
        converter.write_safetensors(tmp_path / "a.safetensors", {"a": (3, 2)}, arrays)


def test_a_gguf_file_of_a_llama_opens_by_its_path(original, tmp_path):
    import flowgraph as fg

    file = write_gguf(tmp_path / "tiny.gguf", gguf_tensors(original))
    loaded = fg.load_model(file)
    assert (loaded.name, loaded.level, loaded.anatomy.family.name) == ("tiny", "full", "llama")
    assert loaded.vocabulary.string(3) == "!"
    trace = fg.trace(loaded, [5, 17, 29], position=2)
    with torch.no_grad():
        said = original(torch.tensor([[5, 17, 29]])).logits[0, -1]
    # The embedding is stored in 8 bits.
    assert float((trace.logits - said).norm() / said.norm()) < 2e-2
    with pytest.raises(fg.FlowgraphError, match="is one file, whose weights are unpacked when they are read"):
        fg.load_model(file, subfolder="a")


def test_a_gguf_file_of_another_architecture(tmp_path):
    from transformers import Qwen2Config, Qwen2ForCausalLM

    import flowgraph as fg

    torch.manual_seed(0)
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(CONTROL) + 256 + len(MERGES), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
            num_attention_heads=HEADS, num_key_value_heads=KEY_HEADS, max_position_embeddings=64, rms_norm_eps=1e-5,
            rope_theta=1000.0, tie_word_embeddings=True, initializer_range=0.2,
        )
    ).eval()  # fmt: skip
    with torch.no_grad():
        for layer in model.model.layers:
            for projection in (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj):
                projection.bias.normal_()
    tensors = gguf_tensors(model)
    for n, layer in enumerate(model.model.layers):
        for ours, theirs in (("attn_q", "q_proj"), ("attn_k", "k_proj"), ("attn_v", "v_proj")):
            # llama.cpp turns the rows of Llama only.
            projection = layer.self_attn.get_submodule(theirs)
            tensors[f"blk.{n}.{ours}.weight"] = projection.weight.detach().numpy()
            tensors[f"blk.{n}.{ours}.bias"] = projection.bias.detach().numpy()
    loaded = fg.load_model(write_gguf(tmp_path / "other.gguf", tensors, architecture="qwen2", pre="qwen2"))
    assert (loaded.level, loaded.anatomy.family.name) == ("full", "qwen2")
    trace = fg.trace(loaded, [5, 17, 29], position=2)
    with torch.no_grad():
        said = model(torch.tensor([[5, 17, 29]])).logits[0, -1]
    assert float((trace.logits - said).norm() / said.norm()) < 2e-2


def test_a_damaged_gguf_file_is_refused(original, tmp_path):
    import flowgraph as fg

    file = write_gguf(tmp_path / "tiny.gguf", gguf_tensors(original))
    file.write_bytes(file.read_bytes()[:900])
    with pytest.raises(fg.FlowgraphError, match=r"the GGUF file .* cannot be read"):
        fg.load_model(file)
    tensors = gguf_tensors(original)
    del tensors["blk.1.ffn_up.weight"]
    with pytest.raises(fg.FlowgraphError, match=r"lacks weights that LlamaForCausalLM needs.*layers\.1\.mlp\.up_proj"):
        fg.load_model(write_gguf(file, tensors))
