"""Weights that are not plain numbers in memory: left on disk by accelerate, or packed by a quantiser."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
import transformers
from torch import nn

import flowgraph as fg
from flowgraph.errors import ArgumentError, UnsupportedReadingError
from flowgraph.models.parameters import key_of, matrix_of
from tests.every_type import model_of
from tests.tiny_models import tiny_model

IDS = [20, 31, 42, 53, 64, 75]
EVERY_SITE_TOLERANCE = {"rtol": 0, "atol": 0}


def same_traces(one: fg.LoadedModel, other: fg.LoadedModel, **tolerance) -> None:
    first, second = (fg.trace(model, IDS, position=len(IDS) - 1) for model in (one, other))
    assert first.sites.keys() == second.sites.keys()
    for name in first.sites:
        torch.testing.assert_close(first.sites[name], second.sites[name], **tolerance)
    torch.testing.assert_close(first.logits, second.logits, **tolerance)


# On disk


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2"])
def test_weights_on_disk_give_the_same_numbers(name, tmp_path):
    pytest.importorskip("accelerate")
    model, _ = tiny_model(name)
    model.save_pretrained(tmp_path)
    plain = fg.load_model(tmp_path)
    away = fg.load_model(tmp_path, device_map={"": "disk"})
    assert all(parameter.is_meta for parameter in away.model.parameters())
    assert away.level == plain.level == "full"
    assert max(away.proof.values()) < 1e-5
    same_traces(plain, away, **EVERY_SITE_TOLERANCE)
    trace, here = (fg.trace(one, IDS, target=7) for one in (away, plain))
    assert fg.direct_logit_attribution(trace).completeness_error < 1e-5
    for method in ("proximity", "norms", "logits"):
        graphs = [fg.build_graph(one, method=method) for one in (trace, here)]
        assert [str(edge) for edge in graphs[0].to_dataframe().itertuples()] == [
            str(edge) for edge in graphs[1].to_dataframe().itertuples()
        ]
    ablated = [fg.ablate(one, IDS, [fg.Node("head", 1, head=0)], target=7).effect for one in (away, plain)]
    torch.testing.assert_close(*map(torch.as_tensor, ablated), rtol=1e-5, atol=1e-6)
    assert all(parameter.is_meta for parameter in away.model.parameters())


def test_two_copies_on_disk_are_one_model_and_a_change_is_another(tmp_path):
    pytest.importorskip("accelerate")
    model, _ = tiny_model("llama")
    model.save_pretrained(tmp_path)
    first, second = (fg.load_model(tmp_path, device_map={"": "disk"}) for _ in range(2))
    assert first.fingerprint() == second.fingerprint()
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight.mul_(1.001)
    model.save_pretrained(tmp_path)
    assert fg.load_model(tmp_path, device_map={"": "disk"}).fingerprint() != first.fingerprint()


def test_layers_on_disk_are_told_apart(tmp_path):
    pytest.importorskip("accelerate")
    tiny_model("llama")[0].save_pretrained(tmp_path)
    blocks = fg.load_model(tmp_path, device_map={"": "disk"}).anatomy.blocks
    outputs = [block.output_projection.module for block in blocks]
    assert key_of(outputs[0]) != key_of(outputs[1])
    assert not torch.equal(matrix_of(outputs[0]), matrix_of(outputs[1]))


def test_weights_that_are_written_anew_go_with_the_model(tmp_path, monkeypatch):
    """Experts are saved in another form than they run in, so the library writes them to a folder of ours."""
    pytest.importorskip("accelerate")
    import gc
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    model_of("mixtral").save_pretrained(tmp_path / "model")
    away = fg.load_model(tmp_path / "model", device_map={"": "disk"})
    assert away.level == "full"
    same_traces(fg.load_model(tmp_path / "model"), away, rtol=1e-5, atol=1e-6)
    assert len(list((tmp_path / "temporary").iterdir())) == 1
    del away
    gc.collect()
    assert not list((tmp_path / "temporary").iterdir())


def test_a_part_on_disk_and_a_part_in_memory(tmp_path):
    pytest.importorskip("accelerate")
    tiny_model("llama")[0].save_pretrained(tmp_path)
    places = {"model.embed_tokens": "cpu", "model.rotary_emb": "cpu", "model.layers.0": "cpu", "model.layers.1": "disk",
              "model.norm": "cpu", "lm_head": "disk"}  # fmt: skip
    mixed = fg.load_model(tmp_path, device_map=places)
    assert {parameter.is_meta for parameter in mixed.model.parameters()} == {True, False}
    same_traces(fg.load_model(tmp_path), mixed, **EVERY_SITE_TOLERANCE)


def test_an_adapter_needs_weights_in_memory(tmp_path):
    pytest.importorskip("accelerate")
    tiny_model("llama")[0].save_pretrained(tmp_path)
    with pytest.raises(ArgumentError, match=r"adapter='x' is added to weights, .* not in memory"):
        fg.load_model(tmp_path, device_map={"": "disk"}, adapter="x")


def test_meta_weights_without_anything_that_brings_them_in_are_refused():
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(tiny_model("llama")[0].config)
    with pytest.raises(ArgumentError, match=r"holds no numbers, and nothing brings them in"):
        fg.load_model(model)


# Packed


def dynamic(model: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(copy.deepcopy(model), {nn.Linear}, dtype=torch.qint8)


@pytest.mark.parametrize("kind", ["llama", "mixtral", "qwen3"])
@pytest.mark.filterwarnings("ignore:.*row is set aside", "ignore:.*is not read")
def test_torch_int8_reaches_the_stream_and_says_what_it_holds_to(kind):
    model = dynamic(model_of(kind) if kind != "llama" else wide_enough("Llama"))
    loaded = fg.load_model(model)
    # Its head rounds its inputs too, so logits are not the head's matrix times the state.
    assert loaded.level == "stream"
    assert loaded.anatomy.packings == (("torch, dynamic 8 bits", True),)
    assert "weights packed (torch, dynamic 8 bits)" in repr(loaded)
    of_activations = {name: error for name, error in loaded.proof.items() if "W_" not in name}
    assert max(of_activations.values()) < 1e-5, of_activations
    assert 1e-4 < loaded.proof["Σ z W_O + b_O = attention's output"] < 5e-2
    trace = fg.trace(loaded, IDS)
    graph = fg.build_graph(trace, method="proximity", readings=False)
    assert fg.mass(graph) == pytest.approx(1.0)
    assert "weights packed (torch, dynamic 8 bits): what is computed from them holds to their kernel" in graph.caption()
    with pytest.raises(UnsupportedReadingError, match="its head 'lm_head' is not read"):
        fg.direct_logit_attribution(trace)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_kernel_that_rounds_too_much_is_refused_by_name():
    loaded = fg.load_model(dynamic(tiny_model("llama")[0]))
    with pytest.raises(
        fg.FlowgraphError, match=r"allowed for packed weights\): the kernels of torch, dynamic 8 bits round too much"
    ):
        fg.trace(loaded, IDS)
    assert fg.trace(loaded, IDS, keep=("pattern",)).pattern.shape[-1] == len(IDS)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_unpacked_weights_stay_near_those_that_were_packed():
    model = tiny_model("llama")[0]
    packed = dynamic(model)
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            found = matrix_of(packed.get_submodule(name))
            assert float((found - module.weight).norm() / module.weight.norm()) < 2e-2


_BNB = {"four": {"load_in_4bit": True}, "eight": {"load_in_8bit": True}, "nested": {"load_in_4bit": True, "bnb_4bit_use_double_quant": True}}  # fmt: skip


def wide_enough(kind: str) -> nn.Module:
    """A tiny model whose layers hold blocks of 64 numbers, as kernels for four bits want them."""
    sizes = {
        "vocab_size": 320,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    if kind == "GPT2":
        sizes = {"vocab_size": 320, "n_embd": 64, "n_layer": 2, "n_head": 4, "bos_token_id": 1, "eos_token_id": 2}
    else:
        sizes["num_key_value_heads"] = 2
    torch.manual_seed(0)
    named = {"GPT2": "GPT2LMHeadModel"}.get(kind, f"{kind}ForCausalLM")
    return getattr(transformers, named)(getattr(transformers, f"{kind}Config")(**sizes)).eval()


@pytest.mark.parametrize("how", _BNB)
@pytest.mark.parametrize("kind", ["Llama", "GPT2", "Mixtral"])
def test_bitsandbytes_reaches_full_and_says_what_it_holds_to(how, kind, tmp_path):
    pytest.importorskip("bitsandbytes")
    wide_enough(kind).save_pretrained(tmp_path / "plain")
    settings = transformers.BitsAndBytesConfig(**_BNB[how])
    loaded = fg.load_model(tmp_path / "plain", quantization_config=settings)
    check_packed(loaded, "bitsandbytes")
    # What was packed once opens packed.
    loaded.model.save_pretrained(tmp_path / "packed")
    again = fg.load_model(tmp_path / "packed")
    assert again.anatomy.packings == loaded.anatomy.packings
    trace, same = fg.trace(loaded, IDS), fg.trace(again, IDS)
    torch.testing.assert_close(trace.logits, same.logits, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("name", ["Int8WeightOnlyConfig", "Int8DynamicActivationInt8WeightConfig"])
def test_torchao_reaches_full_and_says_what_it_holds_to(name, tmp_path):
    torchao = pytest.importorskip("torchao.quantization")
    tiny_model("llama")[0].save_pretrained(tmp_path)
    settings = transformers.TorchAoConfig(getattr(torchao, name)())
    check_packed(fg.load_model(tmp_path, quantization_config=settings), "torchao")


def check_packed(loaded: fg.LoadedModel, maker: str) -> None:
    assert loaded.level == "full"
    ((name, _),) = loaded.anatomy.packings
    assert maker in name
    assert f"weights packed ({name})" in repr(loaded)
    of_activations = {name: error for name, error in loaded.proof.items() if "W_" not in name}
    assert max(of_activations.values()) < 1e-5, of_activations
    assert max(loaded.proof.values()) < 2e-2
    trace = fg.trace(loaded, IDS, position=len(IDS) - 1)
    with torch.no_grad():
        said = loaded.model(torch.tensor([IDS])).logits[0, -1]
    torch.testing.assert_close(trace.logits, said, rtol=1e-4, atol=1e-4)
    assert fg.direct_logit_attribution(trace).completeness_error < 2e-2
    assert maker in fg.build_graph(trace, method="norms", readings=False).info.provenance["weights_packed"]
    fg.ablate(loaded, IDS, [fg.Node("head", 1, head=0)])


def test_gradients_that_a_kernel_cuts_off_are_refused_by_name(tmp_path):
    pytest.importorskip("bitsandbytes")
    wide_enough("Llama").save_pretrained(tmp_path)
    loaded = fg.load_model(tmp_path, quantization_config=transformers.BitsAndBytesConfig(load_in_4bit=True))
    with pytest.raises(ArgumentError, match=r"gives no gradients: weights packed \(bitsandbytes, 4 bits\)"):
        fg.gradients(loaded, IDS)


def test_an_unknown_quantisation_is_refused(tmp_path):
    tiny_model("llama")[0].save_pretrained(tmp_path)
    with pytest.raises(ArgumentError, match="cannot be opened with"):
        fg.load_model(tmp_path, quantization_config={"quant_method": "wonder"})
