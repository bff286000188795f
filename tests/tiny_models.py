"""Tiny random models of every supported architecture, with tiny tokenizers, built offline in milliseconds.

``tiny_model("gemma2")`` returns a model in evaluation mode and its tokenizer. Every weight is a function of
the row's name, the parameter's name and its shape: the same name gives the same model in every process, and
the global random state is left as it was. Numbers are drawn in float32 and then cast, so the float64 model
holds exactly the float32 model's weights.

The weights are made so that a wrong formula shows: no bias is zero, no norm weight is one, attention is
neither uniform nor one-hot. The odd settings that a correct implementation has to handle are in :data:`TINY`.
"""

from __future__ import annotations

import json
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from string import ascii_lowercase, digits, punctuation
from types import MappingProxyType
from typing import Any

import torch
import transformers
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedModel, PreTrainedTokenizerFast

CONTEXT = 64
"""Longest prompt of every tiny model, in tokens."""

ENGLISH = (
    "The cat sat on the mat, and the dog sat by the door.",
    "When Mary and John went to the store, John gave a drink to Mary.",
    "The capital of France is Paris; the capital of Japan is Tokyo.",
    "What is the time? It is ten past three, and the rain has not stopped yet.",
    "cats chase mice, dogs chase cats, and nobody chases the dogs!",
)
EMOJI_AND_JAPANESE = ("🗼 🐭🐱🐶 🐭 🐱 🐶", "猫が好きです。東京は日本の首都です。猫は猫です。")
"""What the tokenizers are trained on; word and sentence pieces see only the English."""

_EMBEDDING_STD = 0.5
_VECTOR_STD = 0.3
_WORD_START = "▁"


def _with_ends(tokenizer: Tokenizer, start: str | None, end: str | None) -> Tokenizer:
    """Let encoding put ``start`` before and ``end`` after every prompt (``None``: nothing)."""
    template = [piece for piece in (start, "$A", end) if piece is not None]
    second = ["$B:1"] if end is None else ["$B:1", f"{end}:1"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=template,
        pair=[*template, *second],
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in template if token != "$A"],
    )
    return tokenizer


def _byte_level_bpe(specials: list[str | AddedToken]) -> Tokenizer:
    """Byte-pair encoding over UTF-8 bytes: some tokens are parts of characters."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=specials,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*ENGLISH, *EMOJI_AND_JAPANESE], trainer)
    return tokenizer


def gpt2_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level, adds nothing to a prompt; one special token is start, end and unknown. No padding token."""
    end = "<|endoftext|>"
    return _wrapped(_byte_level_bpe([end]), bos_token=end, eos_token=end, unk_token=end)


def qwen_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level, without any start token."""
    end = "<|endoftext|>"
    return _wrapped(_byte_level_bpe([end]), eos_token=end, pad_token=end)


def opt_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level; the token put before every prompt is ``</s>``."""
    tokenizer = _with_ends(_byte_level_bpe(["<s>", "<pad>", "</s>", "<unk>"]), "</s>", None)
    return _wrapped(tokenizer, bos_token="</s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>")


def roberta_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level between ``<s>`` and ``</s>``; ``<mask>`` swallows the space before it."""
    mask = AddedToken("<mask>", lstrip=True, special=True)
    tokenizer = _with_ends(_byte_level_bpe(["<s>", "<pad>", "</s>", "<unk>", mask]), "<s>", "</s>")
    return _wrapped(
        tokenizer,
        bos_token="<s>",
        cls_token="<s>",
        eos_token="</s>",
        sep_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token=mask,
    )


def bert_tokenizer() -> PreTrainedTokenizerFast:
    """Lower-casing word pieces (``##`` continues a word) between ``[CLS]`` and ``[SEP]``.

    Words that occur once fall apart into letters; other scripts are ``[UNK]``. The pieces are listed,
    not trained, because the library's trainer breaks ties differently in every run.
    """
    normalizer = normalizers.BertNormalizer(lowercase=True)
    splitter = pre_tokenizers.BertPreTokenizer()
    words = Counter(word for line in ENGLISH for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(line)))
    letters = [*ascii_lowercase, *digits, *sorted(set(punctuation))]
    repeated = sorted(word for word, count in words.items() if count > 1 and len(word) > 1)
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    continued = [f"##{ending}" for ending in (*letters, "ed", "es", "ing")]
    pieces = [*specials, *letters, *repeated, *continued]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    tokenizer.add_special_tokens(specials)
    return _wrapped(
        _with_ends(tokenizer, "[CLS]", "[SEP]"),
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        pad_token="[PAD]",
        unk_token="[UNK]",
    )


def _sentence_pieces(specials: list[str]) -> Tokenizer:
    """Pieces in which ``▁`` is the space; an unknown character is spelt in bytes, ``<0xE7>`` …."""
    trained = Tokenizer(models.BPE())
    # Words are split off only for training, so that no piece spans two words; encoding sees the whole text.
    trained.pre_tokenizer = pre_tokenizers.Metaspace(replacement=_WORD_START, prepend_scheme="always")
    trainer = trainers.BpeTrainer(vocab_size=120, show_progress=False)
    trained.train_from_iterator(ENGLISH, trainer)
    learnt = json.loads(trained.to_str())["model"]
    pieces = sorted(learnt["vocab"], key=learnt["vocab"].__getitem__)
    names = [*specials, *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    merges = [(left, right) for left, right in learnt["merges"]]
    tokenizer = Tokenizer(
        models.BPE(
            vocab={name: number for number, name in enumerate(names)},
            merges=merges,
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    tokenizer.add_special_tokens(specials)
    return tokenizer


def llama_tokenizer() -> PreTrainedTokenizerFast:
    """Sentence pieces with ``▁`` before the first word; ``<s>`` is put before every prompt."""
    tokenizer = _sentence_pieces(["<unk>", "<s>", "</s>"])
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend(_WORD_START), normalizers.Replace(" ", _WORD_START)]
    )
    spaced = decoders.Replace(_WORD_START, " ")
    tokenizer.decoder = decoders.Sequence([spaced, decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return _wrapped(_with_ends(tokenizer, "<s>", None), bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def gemma_tokenizer() -> PreTrainedTokenizerFast:
    """Sentence pieces without anything before the first word; ``<bos>`` is put before every prompt."""
    tokenizer = _sentence_pieces(["<pad>", "<eos>", "<bos>", "<unk>"])
    tokenizer.normalizer = normalizers.Replace(" ", _WORD_START)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(_WORD_START, " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return _wrapped(
        _with_ends(tokenizer, "<bos>", None),
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        unk_token="<unk>",
    )


def _wrapped(tokenizer: Tokenizer, **special_tokens: str | AddedToken) -> PreTrainedTokenizerFast:
    # As the real ones have it: only BERT's names token types.
    types = ["token_type_ids"] if special_tokens.get("cls_token") == "[CLS]" else []
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=CONTEXT,
        model_input_names=["input_ids", *types, "attention_mask"],
        clean_up_tokenization_spaces=False,
        **special_tokens,
    )


@dataclass(frozen=True)
class Tiny:
    """One row: which classes of transformers, which settings, which tokenizer."""

    model_class: str
    config_class: str
    tokenizer: Callable[[], PreTrainedTokenizerFast]
    settings: Mapping[str, Any] = field(default_factory=dict)
    matrix_std: float = 0.25
    causal: bool = True
    head: bool = True


_GPT2_NAMES = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_inner": 64, "n_positions": CONTEXT}
_NAMES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": CONTEXT,
}
_GROUPED = {**_NAMES, "num_key_value_heads": 2}
_OPT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "ffn_dim": 64,
    "max_position_embeddings": CONTEXT,
}

TINY: Mapping[str, Tiny] = MappingProxyType(
    {
        "gpt2": Tiny("GPT2LMHeadModel", "GPT2Config", gpt2_tokenizer, _GPT2_NAMES),
        "gpt_neo": Tiny(
            "GPTNeoForCausalLM",
            "GPTNeoConfig",
            gpt2_tokenizer,
            {
                "hidden_size": 32,
                "num_layers": 2,
                "num_heads": 4,
                "intermediate_size": 64,
                "max_position_embeddings": CONTEXT,
                "attention_types": [[["global", "local"], 1]],
                "window_size": 4,
            },
            matrix_std=0.15,  # its scores are not divided by the square root of the head's width
        ),
        "gptj": Tiny("GPTJForCausalLM", "GPTJConfig", gpt2_tokenizer, {**_GPT2_NAMES, "rotary_dim": 4}),
        "gpt_neox": Tiny("GPTNeoXForCausalLM", "GPTNeoXConfig", gpt2_tokenizer, {**_NAMES, "rotary_pct": 0.5}),
        "gpt_neox_sequential": Tiny(
            "GPTNeoXForCausalLM",
            "GPTNeoXConfig",
            gpt2_tokenizer,
            {**_NAMES, "rotary_pct": 0.5, "use_parallel_residual": False},
        ),
        "opt": Tiny("OPTForCausalLM", "OPTConfig", opt_tokenizer, {**_OPT, "word_embed_proj_dim": 32}),
        "opt_post_norm": Tiny(
            "OPTForCausalLM",
            "OPTConfig",
            opt_tokenizer,
            {**_OPT, "word_embed_proj_dim": 24, "do_layer_norm_before": False},
        ),
        "llama": Tiny("LlamaForCausalLM", "LlamaConfig", llama_tokenizer, _GROUPED),
        "llama_tied": Tiny(
            "LlamaForCausalLM", "LlamaConfig", llama_tokenizer, {**_GROUPED, "tie_word_embeddings": True}
        ),
        "llama_bias": Tiny(
            "LlamaForCausalLM",
            "LlamaConfig",
            llama_tokenizer,
            {**_GROUPED, "attention_bias": True, "mlp_bias": True},
        ),
        "mistral": Tiny("MistralForCausalLM", "MistralConfig", llama_tokenizer, {**_GROUPED, "sliding_window": 5}),
        "qwen2": Tiny("Qwen2ForCausalLM", "Qwen2Config", qwen_tokenizer, _GROUPED),
        "qwen3": Tiny("Qwen3ForCausalLM", "Qwen3Config", qwen_tokenizer, {**_GROUPED, "head_dim": 12}),
        "gemma": Tiny(
            "GemmaForCausalLM",
            "GemmaConfig",
            gemma_tokenizer,
            {**_NAMES, "num_key_value_heads": 1, "head_dim": 8, "hidden_activation": "gelu_pytorch_tanh"},
        ),
        "gemma2": Tiny(
            "Gemma2ForCausalLM",
            "Gemma2Config",
            gemma_tokenizer,
            {
                **_GROUPED,
                "head_dim": 12,
                "query_pre_attn_scalar": 7,
                "sliding_window": 5,
                "attn_logit_softcapping": 4.0,
                "final_logit_softcapping": 3.0,
            },
        ),
        "gemma3": Tiny(
            "Gemma3ForCausalLM",
            "Gemma3TextConfig",
            gemma_tokenizer,
            {
                **_GROUPED,
                "num_hidden_layers": 3,
                "head_dim": 12,
                "query_pre_attn_scalar": 7,
                "sliding_window": 5,
                "sliding_window_pattern": 2,
            },
        ),
        "phi3": Tiny("Phi3ForCausalLM", "Phi3Config", llama_tokenizer, {**_GROUPED, "partial_rotary_factor": 0.5}),
        "bert": Tiny("BertForMaskedLM", "BertConfig", bert_tokenizer, _NAMES, causal=False),
        "bert_headless": Tiny("BertModel", "BertConfig", bert_tokenizer, _NAMES, causal=False, head=False),
        "roberta": Tiny(
            "RobertaForMaskedLM",
            "RobertaConfig",
            roberta_tokenizer,
            # Positions are counted from the padding token's number plus one: two are never used.
            {**_NAMES, "max_position_embeddings": CONTEXT + 2, "type_vocab_size": 1},
            causal=False,
        ),
        "distilbert": Tiny(
            "DistilBertForMaskedLM",
            "DistilBertConfig",
            bert_tokenizer,
            {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "max_position_embeddings": CONTEXT},
            causal=False,
        ),
    }
)
"""Every tiny model by name."""


def tiny_model(name: str, dtype: torch.dtype = torch.float32) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Build one tiny model and its tokenizer.

    Parameters
    ----------
    name : str
        A key of :data:`TINY`.
    dtype : torch.dtype
        Of the parameters; the values are the same for every dtype, up to its rounding.

    Returns
    -------
    (PreTrainedModel, PreTrainedTokenizerFast)
        The model in evaluation mode with the library's default attention implementation.

    Raises
    ------
    KeyError
        No tiny model has this name.
    """
    row = TINY[name]
    tokenizer = row.tokenizer()
    config = getattr(transformers, row.config_class)(
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **row.settings,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(transformers, row.model_class)(config)
    _fill(model, name)
    return model.to(dtype).eval(), tokenizer


def _fill(model: PreTrainedModel, name: str) -> None:
    """Give every parameter its seeded values: matrices anew, vectors as noise around what they start from.

    Vectors start from the value that makes them do nothing (bias 0, norm weight 1 or 0).
    """
    tables = {id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Embedding)}
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            seed = zlib.crc32(f"{name}/{path}".encode())
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed))
            if parameter.dim() == 1:
                parameter.add_(_VECTOR_STD * noise)
            else:
                parameter.copy_((_EMBEDDING_STD if id(parameter) in tables else TINY[name].matrix_std) * noise)
