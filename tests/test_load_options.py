"""Options of loading: what is passed on to transformers, what is refused, and that code of files runs only when it is trusted."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
import transformers

import flowgraph as fg
from flowgraph.errors import ArchitectureError, ArgumentError, DeviceError, UnknownModelError
from tests.tiny_models import tiny_model

IDS = [20, 31, 42, 53]


@pytest.fixture
def folder(tmp_path):
    model, tokenizer = tiny_model("llama")
    model.save_pretrained(tmp_path / "tiny")
    tokenizer.save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


def edit(folder, **settings):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))


# Contradictions


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"device_map": "auto"}, r"device_map='auto' says where the weights of files are put; a model in memory has none"),
        ({"quantization_config": {}}, "quantization_config={} says how the weights of files are packed"),
        ({"subfolder": "a"}, "subfolder='a' names a folder inside"),
        ({"trust_remote_code": True}, "trust_remote_code=True is about code that comes with files"),
        ({"adapter": "a"}, "adapter='a' is put on a model that is opened from files"),
        ({"revision": "main"}, "revision='main' names a branch"),
    ],
)  # fmt: skip
def test_options_of_files_are_refused_for_a_model_in_memory(options, said):
    model, tokenizer = tiny_model("llama")
    loaded = fg.load_model(model, tokenizer=tokenizer)
    for source in (model, (model, tokenizer), loaded):
        with pytest.raises(ArgumentError, match=said):
            fg.load_model(source, **options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"device": "cpu", "device_map": "auto"}, r"device='cpu' .* and device_map='auto' .* give one of the two"),
        ({"device_map": "everywhere"}, r"device_map='everywhere'; expected 'auto'"),
        ({"device_map": {}}, "device_map={}; expected"),
        ({"device_map": {"model": 1.5}}, "device_map={'model': 1.5}; expected"),
        ({"subfolder": " "}, "subfolder=' ' is not a folder inside"),
        ({"subfolder": "../tiny"}, r"subfolder='\.\./tiny' leads out of"),
        ({"subfolder": "/"}, "subfolder='/' leads out of"),
        ({"revision": "main"}, "revision='main' names a branch"),
        ({"adapter": "a", "quantization_config": {}}, r"adapter= is added .* leave one out"),
    ],
)  # fmt: skip
def test_options_that_contradict_each_other(folder, options, said):
    with pytest.raises(ArgumentError, match=said):
        fg.load_model(folder.parent if "subfolder" in options else folder, **options)


def test_a_known_model_has_no_subfolder():
    with pytest.raises(ArgumentError, match=r"subfolder='a' .*, but 'smollm2' is a known model"):
        fg.load_model("smollm2", subfolder="a")


def test_a_device_map_that_does_not_fit(folder):
    pytest.importorskip("accelerate")
    with pytest.raises(
        ArgumentError, match=r"device_map={'wrong': 'cpu'} does not fit this model, which has no part called 'wrong'"
    ):
        fg.load_model(folder, device_map={"wrong": "cpu"})


def test_a_device_map_needs_accelerate(folder, monkeypatch):
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "accelerate" else found(name))
    with pytest.raises(ArgumentError, match=r"device_map= needs accelerate, .*transformer-flowgraph\[offload\]"):
        fg.load_model(folder, device_map="cpu")


# Places


def test_a_subfolder_is_a_folder_of_its_own(folder):
    inner = fg.load_model(folder.parent, subfolder="tiny")
    assert inner.name == "tiny"
    torch.testing.assert_close(fg.trace(inner, IDS).logits, fg.trace(fg.load_model(folder), IDS).logits)
    with pytest.raises(UnknownModelError, match="there is no folder 'other' in"):
        fg.load_model(folder.parent, subfolder="other")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has cuda")
def test_a_device_map_to_a_device_that_is_not_here(folder):
    pytest.importorskip("accelerate")
    with pytest.raises(DeviceError, match="not available here"):
        fg.load_model(folder, device_map="cuda")


# Processors


def test_the_processor_of_a_folder_is_kept(folder):
    assert fg.load_model(folder).processor is None
    own = transformers.ViTImageProcessor(size={"height": 32, "width": 32})
    own.save_pretrained(folder)
    assert (folder / "preprocessor_config.json").is_file()
    found = fg.load_model(folder).processor
    assert type(found).__name__.startswith("ViTImageProcessor")
    assert (found.size["height"], found.size["width"]) == (32, 32)
    # What is given comes first, and a model in memory keeps it too.
    assert fg.load_model(folder, processor=own).processor is own
    assert fg.load_model(tiny_model("llama"), processor=own).processor is own


def test_a_processor_that_cannot_be_made_is_said(folder):
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": "NoSuchProcessor"}))
    with pytest.warns(UserWarning, match=r"the processor beside .* cannot be made here .*; pass processor="):
        loaded = fg.load_model(folder)
    assert loaded.processor is None
    assert loaded.level == "full"


# Code that comes with a model

_CODE = """
open({ran!r}, "w").close()
from transformers import LlamaConfig, LlamaForCausalLM

class OwnConfig(LlamaConfig):
    model_type = "wonder"

class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig
"""
_MAP = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}


@pytest.fixture
def wonder(folder, tmp_path, monkeypatch):
    """A folder whose model is made by Python code in it, and the file that the code writes when it runs."""
    from transformers import dynamic_module_utils

    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("a question was asked"))
    ran = tmp_path / "ran"
    (folder / "own.py").write_text(_CODE.format(ran=str(ran)))
    edit(folder, auto_map=_MAP, model_type="wonder", architectures=["OwnModel"])
    return folder, ran


def test_code_of_a_model_is_refused_and_the_message_says_what_it_means(wonder):
    folder, ran = wonder
    with pytest.raises(
        ArchitectureError, match=r"auto_map: own\.OwnConfig, own\.OwnModel.*trust_remote_code=True.*read it first"
    ):
        fg.load_model(folder)
    assert not ran.exists()


def test_trusted_code_is_run_and_said(wonder):
    folder, ran = wonder
    with pytest.warns(
        UserWarning, match=r"Python code that comes with .* is run now \(own\.OwnConfig, own\.OwnModel\)"
    ):
        loaded = fg.load_model(folder, trust_remote_code=True)
    assert ran.exists()
    assert type(loaded.model).__name__ == "OwnModel"
    assert loaded.level == "full"
    torch.testing.assert_close(fg.trace(loaded, IDS).logits, fg.trace(tiny_model("llama")[0], IDS).logits)


def test_a_folder_does_not_fetch_code_from_the_hub(wonder):
    folder, ran = wonder
    edit(folder, auto_map={key: f"other/place--{value}" for key, value in _MAP.items()})
    with pytest.raises(ArchitectureError, match=r"takes its code from the hub \(other/place--own\.OwnConfig"):
        fg.load_model(folder, trust_remote_code=True)
    assert not ran.exists()


def test_trust_changes_nothing_without_code(folder):
    assert type(fg.load_model(folder, trust_remote_code=True).model).__module__.startswith("transformers.")


def test_weights_are_safetensors_whatever_is_trusted(wonder):
    folder, ran = wonder
    shutil.move(folder / "model.safetensors", folder / "pytorch_model.bin")
    with pytest.raises(fg.FlowgraphError, match=r"has no \*\.safetensors"):
        fg.load_model(folder, trust_remote_code=True)
    assert not ran.exists()


# Adapters


@pytest.fixture
def adapter(tmp_path):
    """The folder of a LoRA adapter of the tiny model."""
    peft = pytest.importorskip("peft")
    model, _ = tiny_model("llama")
    torch.manual_seed(0)
    # Its second matrix starts at zero otherwise, and the adapter would change nothing.
    settings = peft.LoraConfig(target_modules=["q_proj", "v_proj", "down_proj"], init_lora_weights=False)
    made = peft.get_peft_model(model, settings)
    made.save_pretrained(tmp_path / "style")
    return tmp_path / "style", made


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_an_adapter_is_added_and_switched_off(folder, adapter):
    place, made = adapter
    loaded = fg.load_model(folder, adapter=place)
    assert loaded.name == "tiny+style"
    assert loaded.level == "full"
    assert max(loaded.proof.values()) < 1e-5
    with torch.no_grad():
        said = made(torch.tensor([IDS])).logits[0, -1]
    own = fg.trace(loaded, IDS)
    torch.testing.assert_close(own.logits[-1] if own.logits.ndim > 1 else own.logits, said, rtol=1e-4, atol=1e-4)
    plain = fg.load_model(folder)
    there = fg.trace(plain, IDS)
    with loaded.without_adapter() as base:
        assert base.name == "tiny"
        without = fg.trace(base, IDS)
        # Number for number the base model, as its files have it.
        assert base.fingerprint() == plain.fingerprint() != own.fingerprint
        assert torch.equal(without.logits, there.logits)
        with pytest.raises(fg.FlowgraphError, match="weights"):
            fg.edge_weights(own, method="norms")
    assert torch.equal(fg.trace(loaded, IDS).logits, own.logits)
    assert not torch.allclose(own.logits, without.logits, atol=1e-3)
    fg.edge_weights(own, method="norms")


def test_the_adapter_comes_back_after_an_error(folder, adapter):
    loaded = fg.load_model(folder, adapter=adapter[0])
    before = loaded.fingerprint()
    with pytest.raises(ZeroDivisionError), loaded.without_adapter():
        1 / 0  # noqa: B018
    assert loaded.fingerprint() == before


def test_a_model_without_adapter_has_none_to_switch_off(folder):
    with (
        pytest.raises(ArgumentError, match="'tiny' was loaded without an adapter"),
        fg.load_model(folder).without_adapter(),
    ):
        pass


def test_adapters_that_cannot_be_added(folder, adapter, tmp_path, monkeypatch):
    place, _ = adapter
    with pytest.raises(UnknownModelError, match="there is no such folder"):
        fg.load_model(folder, adapter="org/style")
    with pytest.raises(fg.FlowgraphError, match=r"has no adapter_config\.json"):
        fg.load_model(folder, adapter=folder)
    other = tmp_path / "other"
    model, _ = tiny_model("gpt2")
    model.save_pretrained(other)
    with pytest.raises(ArgumentError, match=r"the adapter in .* does not fit GPT2LMHeadModel"):
        fg.load_model(other, adapter=place)
    settings = json.loads((place / "adapter_config.json").read_text())
    (place / "adapter_config.json").write_text(json.dumps(settings | {"peft_type": "PROMPT_TUNING"}))
    with pytest.raises(ArchitectureError, match="kind 'PROMPT_TUNING', which is not added to weights"):
        fg.load_model(folder, adapter=place)
    (place / "adapter_config.json").write_text("{")
    with pytest.raises(fg.FlowgraphError, match="it is not JSON"):
        fg.load_model(folder, adapter=place)
    shutil.move(place / "adapter_model.safetensors", place / "adapter_model.bin")
    with pytest.raises(fg.FlowgraphError, match=r"pickled weights can run code"):
        fg.load_model(folder, adapter=place)


def test_a_damaged_adapter_is_named(folder, adapter):
    file = adapter[0] / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(ArgumentError, match=r"does not fit LlamaForCausalLM, or is damaged"):
        fg.load_model(folder, adapter=adapter[0])


def test_an_adapter_needs_peft(folder, adapter, monkeypatch):
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "peft" else found(name))
    with pytest.raises(ArgumentError, match=r"adapter= needs peft, .*transformer-flowgraph\[adapters\]"):
        fg.load_model(folder, adapter=adapter[0])


def test_an_adapter_of_a_larger_model_is_refused(tmp_path, folder, adapter):
    config = transformers.AutoConfig.from_pretrained(folder)
    config.num_hidden_layers -= 1
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "short")
    with pytest.raises(
        ArgumentError, match=r"is of another model than LlamaForCausalLM: .*layers\..* stand only in one"
    ):
        fg.load_model(tmp_path / "short", adapter=adapter[0])
    config.num_hidden_layers += 2
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "long")
    with pytest.raises(ArgumentError, match="stand only in one"):
        fg.load_model(tmp_path / "long", adapter=adapter[0])


# The command line and the app


def test_the_app_opens_its_models_as_the_command_line_says(folder, monkeypatch):
    pytest.importorskip("dash")
    from flowgraph_webapp.server import service, serving
    from flowgraph_webapp.server.traces import Traces

    from flowgraph.cli import main

    seen = []
    monkeypatch.setattr(service, "Dispatcher", lambda settings, *_: seen.append(settings) or _Closed())
    monkeypatch.setattr(serving, "serve", lambda *_a, **_k: None)
    assert main(["app", "--model", str(folder), "--dtype", "float64", "--no-browser", "--quiet"]) == 0
    (settings,) = seen
    assert settings.loading["dtype"] == "float64"
    opened = Traces(settings.models, 2**28, 512, settings.loading).model(str(folder), lambda *_: None)
    assert opened.dtype == torch.float64


class _Closed:
    def close(self) -> None:
        pass
