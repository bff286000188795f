"""The tiny models are what the other tests take them for."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.tiny_models import CONTEXT, TINY, tiny_model

TEXT = "The cat chases 3 mice 🐭; 猫が好きです!"


def prompt(tokenizer, length: int) -> torch.Tensor:
    """Batch of one: ``length`` tokens of the text over and over."""
    return torch.tensor([(tokenizer(TEXT).input_ids * CONTEXT)[:length]])


@pytest.fixture(params=list(TINY))
def name(request) -> str:
    return request.param


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_runs_on_short_and_longer_prompts(name, dtype):
    model, tokenizer = tiny_model(name, dtype)
    assert not model.training
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    width = len(tokenizer) if TINY[name].head else 32
    for length in (1, 2, 17, CONTEXT):
        with torch.no_grad():
            output = model(prompt(tokenizer, length))[0]
        assert output.shape == (1, length, width)
        assert output.dtype == dtype
        assert output.isfinite().all()


def test_later_tokens_matter_exactly_when_the_model_is_not_causal(name):
    model, tokenizer = tiny_model(name)
    ids = prompt(tokenizer, 9)
    changed = ids.clone()
    changed[0, -1] = (ids[0, -1] + 7) % len(tokenizer)
    with torch.no_grad():
        difference = (model(ids)[0] - model(changed)[0])[0].abs().amax(dim=1)
    assert difference[-1] > 1e-2
    if TINY[name].causal:
        assert difference[:-1].max() < 1e-5
    else:
        assert difference[:-1].min() > 1e-3


def test_is_small(name):
    model, tokenizer = tiny_model(name)
    assert sum(parameter.numel() for parameter in model.parameters()) < 60_000
    assert 100 < len(tokenizer) < 400
    assert model.config.vocab_size == len(tokenizer) == max(tokenizer.get_vocab().values()) + 1
    assert model.config.hidden_size == 32
    assert model.config.num_attention_heads == 4
    assert model.config.num_hidden_layers == (3 if name == "gemma3" else 2)


def test_no_weight_is_trivial(name):
    model, _ = tiny_model(name)
    for path, parameter in model.named_parameters():
        assert not (parameter == 0).any(), path
        assert not (parameter == 1).any(), path
        assert parameter.std() > 0.1, path
        if parameter.dim() == 2 and len(parameter) > 1:
            assert not torch.allclose(parameter[0], parameter[1]), path


def test_attention_is_neither_uniform_nor_one_hot(name):
    model, tokenizer = tiny_model(name)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        patterns = model(prompt(tokenizer, 17), output_attentions=True).attentions
    assert len(patterns) == model.config.num_hidden_layers
    for pattern in patterns:
        last = pattern[0, :, -1]
        entropy = -(last * last.clamp_min(1e-30).log()).sum(dim=-1)
        uniform = (last > 0).sum(dim=-1).double().log()
        assert (entropy < 0.995 * uniform).all()
        assert 0.25 < (entropy / uniform).mean() < 0.97


def test_windows_hide_distant_tokens():
    for name, layer, window in [("gpt_neo", 1, 4), ("mistral", 0, 5), ("gemma2", 0, 5), ("gemma3", 0, 5)]:
        model, tokenizer = tiny_model(name)
        model.set_attn_implementation("eager")
        with torch.no_grad():
            pattern = model(prompt(tokenizer, 17), output_attentions=True).attentions[layer]
        assert ((pattern[0, :, -1] > 0).sum(dim=-1) == window).all(), name


def test_attention_implementation_is_the_default(name):
    model, _ = tiny_model(name)
    expected = "sdpa" if type(model)._supports_sdpa else "eager"
    assert model.config._attn_implementation == expected


def test_heads_are_tied_where_the_row_says(name):
    model, _ = tiny_model(name)
    untied = {
        "gptj",
        "gpt_neox",
        "gpt_neox_sequential",
        "llama",
        "llama_bias",
        "mistral",
        "qwen2",
        "qwen3",
        "phi3",
    }
    if not TINY[name].head:
        assert model.get_output_embeddings() is None
        return
    same = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert same == (name not in untied)


def test_same_weights_in_both_dtypes_whatever_the_random_state(name):
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    single, _ = tiny_model(name)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    double, _ = tiny_model(name, torch.float64)
    for (path, left), right in zip(single.named_parameters(), double.parameters(), strict=True):
        assert torch.equal(left.double(), right), path


def test_unknown_name():
    with pytest.raises(KeyError):
        tiny_model("gpt5")


def fingerprint() -> str:
    """Of every weight and every vocabulary."""
    digest = hashlib.sha256()
    for name in TINY:
        model, tokenizer = tiny_model(name)
        digest.update(repr(sorted(tokenizer.get_vocab().items())).encode())
        digest.update(repr(tokenizer(TEXT).input_ids).encode())
        for parameter in model.parameters():
            digest.update(parameter.detach().numpy().tobytes())
    return digest.hexdigest()


@pytest.mark.slow
def test_same_models_in_another_process():
    code = "from tests.test_tiny_models import fingerprint; print(fingerprint())"
    other = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True
    )
    assert other.stdout.split()[-1] == fingerprint()


def test_text_survives_encoding(name):
    _, tokenizer = tiny_model(name)
    ids = tokenizer(TEXT).input_ids
    decoded = tokenizer.decode(ids, skip_special_tokens=True)
    if TINY[name].tokenizer.__name__ == "bert_tokenizer":
        assert decoded == "the cat chases 3 mice ;!"
        assert tokenizer.unk_token_id in ids
    else:
        assert decoded == TEXT


@pytest.mark.parametrize(
    ("name", "start", "end"),
    [
        ("gpt2", None, None),
        ("qwen2", None, None),
        ("opt", "</s>", None),
        ("llama", "<s>", None),
        ("gemma2", "<bos>", None),
        ("bert", "[CLS]", "[SEP]"),
        ("roberta", "<s>", "</s>"),
    ],
)
def test_special_tokens_around_a_prompt(name, start, end):
    _, tokenizer = tiny_model(name)
    around = tokenizer.convert_ids_to_tokens(tokenizer(" cat").input_ids)
    plain = tokenizer.convert_ids_to_tokens(tokenizer(" cat", add_special_tokens=False).input_ids)
    assert around == [*([start] if start else []), *plain, *([end] if end else [])]
    assert set(around) - set(plain) <= set(tokenizer.all_special_tokens)


def test_pieces_look_as_their_kind():
    def tokens(name: str, text: str) -> list[str]:
        return tiny_model(name)[1].tokenize(text)

    assert tokens("gpt2", " cat") == ["Ġc", "at"]
    assert len(tokens("gpt2", "日")) == 3
    assert tokens("llama", "The cat") == ["▁The", "▁cat"]
    assert tokens("gemma", "The cat")[0] == "T"
    assert tokens("llama", "日")[-3:] == ["<0xE6>", "<0x97>", "<0xA5>"]
    assert tokens("bert", "The Catx") == ["the", "c", "##a", "##t", "##x"]
    assert tokens("bert", "a [MASK] 日") == ["a", "[MASK]", "[UNK]"]
    tokenizer = tiny_model("roberta")[1]
    masked = tokenizer("The <mask>.", add_special_tokens=False).input_ids
    assert tokenizer.convert_ids_to_tokens(masked) == ["The", "<mask>", "."]
