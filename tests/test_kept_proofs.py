"""A proof is kept on disk for a model from files, and counts only while nothing has changed that it rests on."""

from __future__ import annotations

import json
import os
from importlib.metadata import version

import pytest
import torch
from safetensors.torch import load_file, save_file

import flowgraph as fg
from flowgraph.errors import ArchitectureError, NonFiniteError
from flowgraph.models import kept_proof, proving
from flowgraph.models.kept_proof import Proof
from flowgraph.models.proof import prove_and_answer
from tests.conftest import IDS
from tests.tiny_models import tiny_model


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWGRAPH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / ".proofs"


@pytest.fixture
def proofs(monkeypatch):
    """Rows that were proved by a pass, in their order."""
    seen = []

    def counted(anatomy):
        seen.append(anatomy.family.name)
        return prove_and_answer(anatomy)

    monkeypatch.setattr(proving, "prove_and_answer", counted)
    return seen


def saved(folder, name="llama"):
    for part in tiny_model(name):
        part.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(tmp_path, cache):
    return saved(tmp_path / "model")


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert", "bert_headless"])
def test_a_model_is_proved_once_and_says_so(tmp_path, cache, proofs, name):
    folder = saved(tmp_path / "model", name)
    first, again = fg.load_model(folder), fg.load_model(folder)
    assert len(proofs) == len(list(cache.glob("*.json"))) == 1
    assert (first.proof.is_kept, again.proof.is_kept) == (False, True)
    assert again.proof == first.proof
    assert again.own_attention == first.own_attention
    assert (again.proof.made, again.proof.torch) == (first.proof.made, version("torch"))
    assert "kept from" in repr(again.proof)
    assert "proved at" in repr(first.proof)
    assert again.level == first.level
    one, other = (fg.trace(model, IDS, position=-1) for model in (first, again))
    torch.testing.assert_close(one.resid_post, other.resid_post, rtol=0, atol=0)


def test_no_forward_pass_runs_for_a_kept_proof(folder, monkeypatch):
    fg.load_model(folder)
    from transformers import LlamaForCausalLM

    def refused(*_args, **_options):
        raise AssertionError("a pass")

    monkeypatch.setattr(LlamaForCausalLM, "forward", refused)
    assert fg.load_model(folder).proof.is_kept


def test_the_proof_s_own_pass_serves_the_comparison_of_attentions(folder, monkeypatch):
    from transformers import LlamaForCausalLM

    passes = []
    forward = LlamaForCausalLM.forward

    def counted(*args, **options):
        passes.append(1)
        return forward(*args, **options)

    monkeypatch.setattr(LlamaForCausalLM, "forward", counted)
    loaded = fg.load_model(folder)
    assert len(passes) == 2
    assert loaded.own_attention.name == "sdpa"
    from flowgraph.models.proof import own_attention

    assert loaded.own_attention.gap == own_attention(loaded.anatomy).gap < 1e-5


def other_files(folder, _monkeypatch):
    file = folder / "model.safetensors"
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 1))
    return {}


def other_weights(folder, _monkeypatch):
    file = folder / "model.safetensors"
    weights = load_file(file)
    weights["model.layers.0.mlp.up_proj.weight"] *= 1.5
    save_file(weights, file, metadata={"format": "pt"})
    return {}


def other_config(folder, _monkeypatch):
    file = folder / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"rms_norm_eps": 1e-3}))
    return {}


def other_number_type(_folder, _monkeypatch):
    return {"dtype": "float64"}


def other_version(_folder, monkeypatch):
    from flowgraph.models.discovery import kept

    monkeypatch.setattr(kept, "version", lambda name: f"{name} 99")
    return {}


def other_machine(_folder, monkeypatch):
    monkeypatch.setattr(kept_proof, "_machine", lambda _device: ("another",))
    return {}


def other_code(_folder, monkeypatch):
    from flowgraph.models.discovery import kept

    monkeypatch.setattr(kept, "_code", lambda: b"another")
    return {}


@pytest.mark.parametrize(
    "change",
    [other_files, other_weights, other_config, other_number_type, other_version, other_machine, other_code],
)
def test_what_has_changed_is_proved_again(folder, proofs, monkeypatch, change):
    fg.load_model(folder)
    options = change(folder, monkeypatch)
    assert not fg.load_model(folder, **options).proof.is_kept
    assert len(proofs) == 2
    assert fg.load_model(folder, **options).proof.is_kept
    assert len(proofs) == 2


def test_another_row_is_proved(folder, proofs, monkeypatch):
    from dataclasses import replace

    from flowgraph.models import families

    fg.load_model(folder)
    (name, row) = next((name, row) for name, row in families.FAMILIES.items() if row.name == proofs[0])
    (stack,) = row.stacks
    wrong = replace(row, stacks=(replace(stack, mlp_factor=2.0),))
    monkeypatch.setitem(families.FAMILIES, name, wrong)
    with pytest.warns(UserWarning, match="set aside"):
        assert not fg.load_model(folder).proof.is_kept


@pytest.mark.parametrize(
    "damage",
    [
        lambda _data: "{",
        lambda data: json.dumps({**data, "errors": {}}),
        lambda data: json.dumps({**data, "errors": dict.fromkeys(data["errors"], 0.5)}),
        lambda data: json.dumps({**data, "errors": dict.fromkeys(data["errors"], float("nan"))}),
        lambda data: json.dumps({**data, "own": None}),
        lambda data: json.dumps({**data, "made": "yesterday"}),
        lambda data: json.dumps([data]),
        lambda data: json.dumps(data) + " " * 2**20,
    ],
)
def test_a_damaged_proof_is_made_again(folder, cache, proofs, damage):
    fg.load_model(folder)
    (file,) = cache.glob("*.json")
    file.write_text(damage(json.loads(file.read_text())))
    assert not fg.load_model(folder).proof.is_kept
    assert len(proofs) == 2
    assert fg.load_model(folder).proof.is_kept


def test_nothing_is_kept_of_models_in_memory_or_of_what_fails(tmp_path, cache):
    model, tokenizer = tiny_model("llama")
    assert not fg.load_model((model, tokenizer)).proof.is_kept
    folder = saved(tmp_path / "broken")
    file = folder / "model.safetensors"
    weights = load_file(file)
    weights["model.layers.1.mlp.up_proj.weight"][3, 5] = float("nan")
    save_file(weights, file, metadata={"format": "pt"})
    for _ in range(2):
        with pytest.raises(NonFiniteError):
            fg.load_model(folder)
    assert not list(cache.glob("*"))


def test_a_hook_on_a_model_whose_proof_is_kept_is_proved(folder):
    fg.load_model(folder)
    loaded = fg.load_model(folder)
    assert loaded.proof.is_kept
    handle = loaded.model.model.layers[0].mlp.register_forward_hook(lambda _module, _args, output: output * 2)
    with pytest.raises(ArchitectureError, match="hooks were added"):
        fg.trace(loaded, IDS)
    handle.remove()
    fg.trace(loaded, IDS)


def test_a_folder_that_cannot_be_written_keeps_nothing(folder, cache, proofs):
    cache.parent.mkdir(exist_ok=True)
    cache.write_text("a file in its place")
    for _ in range(2):
        assert not fg.load_model(folder).proof.is_kept
    assert len(proofs) == 2


def test_only_so_many_are_kept(tmp_path, cache, monkeypatch):
    monkeypatch.setattr(kept_proof, "_MOST_PROOFS", 2)
    for name in ("llama", "gpt2", "bert"):
        fg.load_model(saved(tmp_path / name, name))
    assert len(list(cache.glob("*.json"))) == 2
    assert not fg.load_model(tmp_path / "llama").proof.is_kept


def test_both_stacks_are_kept(tmp_path, cache):
    from tests.every_type import model_of

    model_of("bart", "sequences").save_pretrained(tmp_path / "model")
    fg.load_model(tmp_path / "model")
    again = fg.load_model(tmp_path / "model")
    assert again.proof.is_kept
    assert again.stacks["encoder"].proof.is_kept


def test_a_proof_is_a_dictionary_with_more():
    proof = Proof({"a": 1e-7}, "2026-01-01T00:00:00+00:00", "2.9", "5.0", is_kept=True)
    assert proof == {"a": 1e-7}
    more = proof.with_more({"b": 2e-7})
    assert more == {"a": 1e-7, "b": 2e-7}
    assert more.text == proof.text == "kept from 2026-01-01T00:00:00+00:00, torch 2.9, transformers 5.0"
