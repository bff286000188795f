"""GGUF to a plain Hugging Face folder, without loading the model.

The converter handles what the known model needs: the Llama architecture with a byte-level BPE vocabulary of
the ``smollm`` kind. It refuses anything else by name, because a converter that guesses gives a model that
runs and says the wrong things.

The weights are dequantised one tensor at a time and written straight into ``model.safetensors`` as float16:
no two tensors are in memory together, and a full disk is an ordinary ``OSError``.

Two things differ beside the container:

- llama.cpp stores the rows of the query and key projections with the two halves of every rotary pair
  interleaved; Hugging Face keeps the halves apart. The rows are put back.
- The ``smollm`` vocabulary was learned with every digit on its own, which the file says only by that name.
  The pre-tokenizer is built with that rule.

References
----------
The GGUF specification, https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowgraph.errors import FetchError
from flowgraph.models.wheel import Progress

_CONTROL_TOKEN = 3  # tokenizer.ggml.token_type: 1 is an ordinary token, 3 one that text never spells
_ORDINARY_TOKEN = 1

_WHOLE_MODEL_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
_BLOCK_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def convert_llama(gguf_file: Path, folder: Path, report: Progress) -> None:
    """Write the model of a GGUF file into a folder that ``from_pretrained`` opens.

    Parameters
    ----------
    gguf_file
        A GGUF file of the Llama architecture.
    folder
        An existing folder; receives ``config.json``, ``generation_config.json``, ``model.safetensors``,
        ``tokenizer.json`` and ``tokenizer_config.json`` (with the chat template, where the file has one).
    report
        Told the stage and the fraction of it that is done.

    Raises
    ------
    FetchError
        The file is of another architecture, or holds tensors or a vocabulary this converter does not know.
    OSError
        The folder cannot be written.
    """
    from gguf import GGUFReader

    report("reading the GGUF file", None)
    reader = GGUFReader(str(gguf_file))
    facts = {name: field_value(field) for name, field in reader.fields.items()}
    _check_kind(facts)
    tied = not any(tensor.name == "output.weight" for tensor in reader.tensors)
    config = llama_config(facts, tied=tied)
    _write_json(folder / "config.json", config)
    special = {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    _write_json(folder / "generation_config.json", special)
    report("building the tokenizer", None)
    write_tokenizer(facts, folder)
    _write_weights(reader.tensors, config, folder / "model.safetensors", report)


def field_value(field: Any) -> Any:
    """Read one GGUF metadata field: a number, a string, or a list of either."""
    from gguf import GGUFValueType

    is_text = field.types[-1] == GGUFValueType.STRING
    values = [bytes(field.parts[at]).decode("utf-8") if is_text else field.parts[at][0].item() for at in field.data]
    return values if field.types[0] == GGUFValueType.ARRAY else values[0]


def llama_config(facts: Mapping[str, Any], *, tied: bool) -> dict[str, Any]:
    """Write down, as ``config.json`` does, the model that GGUF metadata describes.

    ``rope_theta`` and ``torch_dtype`` are the spellings that every supported transformers version reads.
    """
    heads = facts["llama.attention.head_count"]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": len(facts["tokenizer.ggml.tokens"]),
        "hidden_size": facts["llama.embedding_length"],
        "intermediate_size": facts["llama.feed_forward_length"],
        "num_hidden_layers": facts["llama.block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": facts["llama.attention.head_count_kv"],
        "head_dim": facts["llama.embedding_length"] // heads,
        "hidden_act": "silu",
        "max_position_embeddings": facts["llama.context_length"],
        "rms_norm_eps": _shortest(facts["llama.attention.layer_norm_rms_epsilon"]),
        "rope_theta": _shortest(facts["llama.rope.freq_base"]),
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": tied,
        "bos_token_id": facts["tokenizer.ggml.bos_token_id"],
        "eos_token_id": facts["tokenizer.ggml.eos_token_id"],
        "pad_token_id": facts["tokenizer.ggml.padding_token_id"],
        "torch_dtype": "float16",
    }


def write_tokenizer(facts: Mapping[str, Any], folder: Path) -> None:
    """Write ``tokenizer.json`` and ``tokenizer_config.json`` from GGUF metadata."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokens: list[str] = facts["tokenizer.ggml.tokens"]
    kinds: list[int] = facts["tokenizer.ggml.token_type"]
    merges = [tuple(merge.split(" ")) for merge in facts["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        # The order matters: digits are split before bytes are mapped to characters.
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    control = [token for token, kind in zip(tokens, kinds, strict=True) if kind == _CONTROL_TOKEN]
    # Control tokens are special, so no text of a prompt is ever read as one.
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in control])
    tokenizer.save(str(folder / "tokenizer.json"))

    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": facts["llama.context_length"],
        "clean_up_tokenization_spaces": False,
        "bos_token": tokens[facts["tokenizer.ggml.bos_token_id"]],
        "eos_token": tokens[facts["tokenizer.ggml.eos_token_id"]],
        "unk_token": tokens[facts["tokenizer.ggml.unknown_token_id"]],
        "pad_token": tokens[facts["tokenizer.ggml.padding_token_id"]],
    }
    if "tokenizer.chat_template" in facts:
        settings["chat_template"] = facts["tokenizer.chat_template"]
    _write_json(folder / "tokenizer_config.json", settings)


def hugging_face_name(gguf_name: str) -> str:
    """Translate the name of a GGUF tensor, such as ``blk.3.attn_q.weight``.

    Raises
    ------
    FetchError
        The Llama architecture has no such tensor.
    """
    match gguf_name.split("."):
        case [part, "weight"] if part in _WHOLE_MODEL_NAMES:
            return f"{_WHOLE_MODEL_NAMES[part]}.weight"
        case ["blk", layer, part, "weight"] if part in _BLOCK_NAMES:
            return f"model.layers.{layer}.{_BLOCK_NAMES[part]}.weight"
    raise FetchError(f"the GGUF file holds the tensor {gguf_name!r}, which a Llama model does not have")


def rotary_halves_apart(rows: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Put the rows of a query or key projection back into Hugging Face order.

    Parameters
    ----------
    rows
        [heads · d_head, d_model]; inside each head, rows 2i and 2i + 1 are one rotary pair.
    heads
        How many heads the rows belong to.

    Returns
    -------
    NDArray
        [heads · d_head, d_model]; inside each head, rows i and i + d_head / 2 are one rotary pair.
    """
    paired = rows.reshape(heads, rows.shape[0] // heads // 2, 2, rows.shape[1])
    return paired.swapaxes(1, 2).reshape(rows.shape)


def write_safetensors(path: Path, shapes: Mapping[str, tuple[int, ...]], arrays: Iterable[NDArray[np.float16]]) -> None:
    """Write float16 arrays, given one at a time in the order of ``shapes``, as a safetensors file.

    Raises
    ------
    ValueError
        An array is not of the shape announced for it.
    OSError
        The file cannot be written.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * int(np.prod(shape))
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    # The format wants the data to begin at a multiple of eight bytes.
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for (name, shape), array in zip(shapes.items(), arrays, strict=True):
            if array.shape != shape:
                raise ValueError(f"{name} has shape {array.shape}, announced as {shape}")
            file.write(np.ascontiguousarray(array, dtype="<f2").data)


def _check_kind(facts: Mapping[str, Any]) -> None:
    expected = {
        "general.architecture": "llama",
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.ggml.add_space_prefix": False,
    }
    for name, wanted in expected.items():
        if facts.get(name) != wanted:
            raise FetchError(f"the GGUF file says {name} = {facts.get(name)!r}; only {wanted!r} can be converted")
    strange = set(facts["tokenizer.ggml.token_type"]) - {_ORDINARY_TOKEN, _CONTROL_TOKEN}
    if strange:
        raise FetchError(f"the GGUF file has tokens of type {sorted(strange)}; only 1 and 3 can be converted")


def _write_weights(tensors: list[Any], config: Mapping[str, Any], path: Path, report: Progress) -> None:
    from gguf.quants import dequantize

    # GGUF names the fastest axis first, numpy the slowest.
    shapes = {hugging_face_name(t.name): tuple(int(size) for size in reversed(t.shape)) for t in tensors}
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}

    def arrays() -> Iterable[NDArray[np.float16]]:
        total, done = sum(int(tensor.n_elements) for tensor in tensors), 0
        for name, tensor in zip(shapes, tensors, strict=True):
            values = dequantize(tensor.data, tensor.tensor_type)
            # The two that llama.cpp reorders; every other tensor is taken as it is.
            projection = name.split(".")[-2]
            if projection in heads:
                values = rotary_halves_apart(values, heads[projection])
            with np.errstate(over="ignore"):  # an overflow is refused by name below
                half = values.astype(np.float16)
            if not np.isfinite(half).all():
                raise FetchError(f"{name} has numbers that float16 cannot hold")
            yield half
            done += int(tensor.n_elements)
            report("converting the weights to float16", done / total)

    write_safetensors(path, shapes, arrays())


def _shortest(number: float) -> float:
    """Give the shortest decimal that is the same float32: 1e-05 for 9.999999747378752e-06."""
    return float(str(np.float32(number)))


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
