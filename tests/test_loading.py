"""Loading: every way to name a model, and every way in which it can be the wrong thing."""

from __future__ import annotations

import dataclasses
import json
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers.utils import logging

import flowgraph
from flowgraph.errors import (
    ArchitectureError,
    ArgumentError,
    DeviceError,
    FileFormatError,
    ModelMismatchError,
    PromptError,
    UnknownModelError,
)
from flowgraph.models import FAMILIES, sources
from flowgraph.models.proof import prove
from flowgraph.models.resolving import resolve
from tests.tiny_models import TINY, tiny_model

SAVED = ("gpt2", "llama", "bert", "bert_headless", "gemma2", "roberta", "llama_tied")
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "vocab_size": 60}
IDS = [1, 7, 30, 12]
WEIGHT = "model.layers.1.mlp.down_proj.weight"


class Network(BaseException):
    """Raised in place of any use of the network; nothing that catches errors catches it."""


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Every connection and every name look-up fails the test, unless it takes this back."""

    def refuse(*arguments: object, **_options: object) -> None:
        raise Network(f"the network was asked for {arguments}")

    for name in ("create_connection", "getaddrinfo", "gethostbyname"):
        monkeypatch.setattr(socket, name, refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """``saved(name)`` → folder of a tiny model with its tokenizer, written once."""
    made: dict[str, Path] = {}

    def save(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp("models") / name
            for part in tiny_model(name):
                part.save_pretrained(made[name])
        return made[name]

    return save


@pytest.fixture
def copied(saved, tmp_path):
    """A copy of the tiny llama's folder, to be damaged."""
    return Path(shutil.copytree(saved("llama"), tmp_path / "llama"))


@pytest.fixture
def registered() -> Iterator[None]:
    """Whatever families a test registers are gone after it."""
    before = dict(FAMILIES)
    yield
    FAMILIES.clear()
    FAMILIES.update(before)


def edit(folder: Path, **entries: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | entries))


def change_weights(folder: Path, **changed: torch.Tensor | None) -> None:
    weights = load_file(folder / "model.safetensors")
    for name, value in changed.items():
        weights.pop(name.replace("__", "."))
        if value is not None:
            weights[name.replace("__", ".")] = value
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


# In memory


def test_a_model_in_memory():
    model, tokenizer = tiny_model("gpt2")
    pair = flowgraph.load_model((model, tokenizer))
    named = flowgraph.load_model(model, tokenizer=tokenizer)
    bare = flowgraph.load_model(model)
    assert pair.model is named.model is bare.model is model
    assert pair.tokenizer is named.tokenizer is tokenizer
    assert bare.tokenizer is None
    assert pair.name == "GPT2LMHeadModel"
    assert flowgraph.load_model(pair) is pair
    assert flowgraph.trace(bare, IDS).tokens == ("#1", "#7", "#30", "#12")
    with pytest.raises(PromptError, match="no tokenizer"):
        flowgraph.trace(bare, "The cat")


def test_wrong_things_in_memory():
    model, tokenizer = tiny_model("gpt2")
    with pytest.raises(ArgumentError, match="got Tensor; expected a name"):
        flowgraph.load_model(torch.ones(2))
    with pytest.raises(ArgumentError, match="a tuple of 3"):
        flowgraph.load_model((model, tokenizer, 1))
    with pytest.raises(ArgumentError, match="given as"):
        flowgraph.load_model((model, tokenizer), tokenizer=tokenizer)
    with torch.device("meta"):
        empty = transformers.GPT2LMHeadModel(model.config)
    with pytest.raises(ArgumentError, match="'meta' device, which holds no numbers"):
        flowgraph.load_model(empty)


def test_a_tokenizer_of_another_model_is_refused():
    small = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES))
    with pytest.raises(ArgumentError, match=r"has 320 tokens and 'LlamaForCausalLM' embeds 60: it belongs to another"):
        flowgraph.load_model(small, tokenizer=tiny_model("gpt2")[1])


# Folders


@pytest.mark.parametrize("name", SAVED)
def test_a_folder_is_the_model_that_was_saved_and_needs_no_network(saved, name):
    model, tokenizer = tiny_model(name)
    loaded = flowgraph.load_model(str(saved(name)))
    assert type(loaded.model) is type(model)
    assert loaded.name == name
    assert loaded.anatomy.has_head == TINY[name].head
    for text in ("The cat sat on the mat.", "🐭 猫!"):
        assert loaded.tokenizer(text)["input_ids"] == tokenizer(text)["input_ids"]
    prompt = "The cat sat" if TINY[name].causal else f"The {tokenizer.mask_token} sat"
    first, second = flowgraph.trace((model, tokenizer), prompt), flowgraph.trace(saved(name), prompt)
    torch.testing.assert_close(first.resid_post, second.resid_post)
    assert first.fingerprint == second.fingerprint
    assert first.attach(loaded).model is loaded


def test_loading_shows_no_bar_and_leaves_the_bars_as_they_were(saved, capfd, monkeypatch):
    """Bars of transformers that other threads make meanwhile are shown, and what a user sets meanwhile stays set."""
    monkeypatch.setattr(logging, "_tqdm_active", True)
    inside, outside = threading.Event(), threading.Event()
    real = transformers.LlamaForCausalLM.from_pretrained

    def slow(*arguments, **options):
        inside.set()
        assert outside.wait(60)
        return real(*arguments, **options)

    monkeypatch.setattr(transformers.LlamaForCausalLM, "from_pretrained", slow)
    loading = threading.Thread(target=flowgraph.load_model, args=(saved("llama"),))
    loading.start()
    assert inside.wait(60)
    list(logging.tqdm([1], desc="of another thread"))
    outside.set()
    loading.join()
    shown = capfd.readouterr().err
    assert "of another thread" in shown
    assert "Loading weights" not in shown
    real(saved("llama"))
    assert "Loading weights" in capfd.readouterr().err


@pytest.mark.parametrize("enabled", [True, False])
def test_bars_that_a_user_has_set_while_loading_stay_so(saved, enabled, monkeypatch):
    monkeypatch.setattr(logging, "_tqdm_active", not enabled)
    real = transformers.LlamaForCausalLM.from_pretrained

    def changing(*arguments, **options):
        monkeypatch.setattr(logging, "_tqdm_active", enabled)
        return real(*arguments, **options)

    monkeypatch.setattr(transformers.LlamaForCausalLM, "from_pretrained", changing)
    flowgraph.load_model(saved("llama"))
    assert logging.is_progress_bar_enabled() == enabled


def test_a_users_own_bars_are_made_as_ever(saved, monkeypatch):
    made = []

    def own(make, arguments, options):
        made.append(options.get("desc"))
        return make(*arguments, **options, disable=True)

    before = logging.set_tqdm_hook(own)
    try:
        flowgraph.load_model(saved("llama"))
        assert "Loading weights" in made
        assert logging.set_tqdm_hook(own) is own
    finally:
        logging.set_tqdm_hook(before)
    real = transformers.LlamaForCausalLM.from_pretrained

    def hooking(*arguments, **options):
        logging.set_tqdm_hook(own)
        return real(*arguments, **options)

    monkeypatch.setattr(transformers.LlamaForCausalLM, "from_pretrained", hooking)
    flowgraph.load_model(saved("llama"))
    assert logging.set_tqdm_hook(before) is own


def test_a_folder_without_a_tokenizer(copied):
    for file in copied.glob("tokenizer*"):
        file.unlink()
    assert flowgraph.load_model(copied).tokenizer is None
    tokenizer = tiny_model("llama")[1]
    assert flowgraph.load_model(copied, tokenizer=tokenizer).tokenizer is tokenizer


def test_a_tokenizer_that_is_given_is_taken(copied):
    (copied / "tokenizer.json").write_text("{")
    with pytest.raises(FileFormatError, match=r"the tokenizer in '.*llama' cannot be read: \w+"):
        flowgraph.load_model(copied)
    tokenizer = tiny_model("llama")[1]
    assert flowgraph.load_model(copied, tokenizer=tokenizer).tokenizer is tokenizer


def test_pickled_weights_are_not_opened(copied, monkeypatch):
    weights = load_file(copied / "model.safetensors")
    (copied / "model.safetensors").unlink()
    torch.save(weights, copied / "pytorch_model.bin")
    monkeypatch.setattr(torch, "load", lambda *_a, **_k: pytest.fail("a pickle was opened"))
    with pytest.raises(FileFormatError, match=r"no \*\.safetensors; found pytorch_model\.bin\. Pickled .* never read"):
        flowgraph.load_model(copied)
    (copied / "pytorch_model.bin").unlink()
    with pytest.raises(FileFormatError, match="found no weights"):
        flowgraph.load_model(copied)


def test_missing_weights_are_named(copied):
    change_weights(copied, **{WEIGHT.replace(".", "__"): None})
    with pytest.raises(FileFormatError, match=rf"lacks weights that LlamaForCausalLM needs.*: {WEIGHT}"):
        flowgraph.load_model(copied)


def test_weights_of_another_size_are_named(copied):
    change_weights(copied, **{WEIGHT.replace(".", "__"): torch.zeros(3, 3)})
    with pytest.raises(FileFormatError, match=rf"has other sizes than its config says.*: {WEIGHT}"):
        flowgraph.load_model(copied)


@pytest.mark.parametrize("kept", [0, 5, 100, 0.5, 0.999])
def test_truncated_weights(copied, kept):
    file = copied / "model.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[: kept if isinstance(kept, int) else int(kept * len(data))])
    with pytest.raises(FileFormatError, match=r"the model in '.*llama' cannot be read: .*header"):
        flowgraph.load_model(copied)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is damaged, it is not JSON"),
        (b'{"model_type": ', "is damaged, it is not JSON"),
        (b"\xff\xfe\x00", "is damaged, it is not JSON"),
        (b"[]", "names no model_type"),
        (b'{"hidden_size": 3}', "names no model_type"),
        (b'{"model_type": "llama", "hidden_size": "x"}', "cannot be read: .*hidden_size.* expected int, got str"),
        (b'{"model_type": "llama", "num_attention_heads": 0}', "cannot be read: .*modulo by zero"),
    ],
)
def test_damaged_configs(copied, content, message):
    (copied / "config.json").write_bytes(content)
    with pytest.raises(FileFormatError, match=message):
        flowgraph.load_model(copied)


def test_parts_that_are_not_there(copied):
    index = {"metadata": {}, "weight_map": {"lm_head.weight": "model-00002-of-00002.safetensors"}}
    (copied / "model.safetensors").rename(copied / "model-00001-of-00002.safetensors")
    (copied / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(FileFormatError, match=r"model-00002-of-00002\.safetensors"):
        flowgraph.load_model(copied)
    (copied / "config.json").unlink()
    with pytest.raises(FileFormatError, match=r"has no config\.json"):
        flowgraph.load_model(copied)


def test_a_model_with_code_of_its_own_is_refused_without_a_question(copied, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("a question was asked"))
    ran = copied / "ran"
    (copied / "own.py").write_text(f"open({str(ran)!r}, 'w')")
    edit(copied, auto_map={"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}, model_type="wonder")
    with pytest.raises(ArchitectureError, match=r"model_type 'wonder', which transformers .* does not know"):
        flowgraph.load_model(copied)
    edit(copied, model_type="llama")
    assert type(flowgraph.load_model(copied).model).__module__.startswith("transformers.")
    assert not ran.exists()


def test_an_adapter_is_not_a_model_and_its_base_is_not_fetched(copied):
    adapter = {"peft_type": "LORA", "base_model_name_or_path": "org/base", "task_type": "CAUSAL_LM"}
    (copied / "adapter_config.json").write_text(json.dumps(adapter))
    with pytest.raises(ArchitectureError, match=r"holds an adapter .*merge_and_unload"):
        flowgraph.load_model(copied)


def test_a_quantised_model_says_what_it_lacks(copied):
    edit(copied, quantization_config={"quant_method": "gptq", "bits": 4})
    with pytest.raises(
        ArchitectureError, match=r"is a quantised model .*quant_method 'gptq'.*Take the unquantised model"
    ):
        flowgraph.load_model(copied)


# Names


@pytest.mark.parametrize(
    "path",
    [
        "./smollm2", "../x", "/no/such/folder", "~/no-such", "~nobody-here/x", "a/b/c", "models/", "foo bar", "",
        "C:\\models\\x", "a\0b", "x" * 5000, Path("smollm2"), Path("org/name"),
    ],
)  # fmt: skip
def test_paths_never_go_to_the_hub(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnknownModelError, match="there is no folder"):
        flowgraph.load_model(path)


def test_a_name_in_a_folder_that_exists_is_a_path(tmp_path, monkeypatch):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "weights.safetensors").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnknownModelError, match="there is no folder 'models/lama'"):
        flowgraph.load_model("models/lama")
    with pytest.raises(UnknownModelError, match="is a file; a model is a folder"):
        flowgraph.load_model("models/weights.safetensors")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("smolm2", "Did you mean 'smollm2'"),
        ("SmolLM2", "Did you mean 'smollm2'"),
        ("HuggingFaceTB/SmolLM2-135M", "Did you mean 'smollm2'"),
        ("mini-lm", "Did you mean 'minilm'"),
        ("org/zzz", "Known names are 'smollm2', 'minilm'"),
    ],
)
def test_unknown_names_without_a_network(name, hint, monkeypatch, tmp_path):
    def fail(*_arguments: object, **_options: object) -> None:
        raise OSError("no route to host")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(socket, "create_connection", fail)  # asked once, briefly; the hub's own client stays unasked
    for variable in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(UnknownModelError, match=rf"cannot be reached from here\. {hint}"):
        flowgraph.load_model(name)


def test_what_the_hub_answers_is_passed_on(monkeypatch):
    def answer(name: str, **_options: object) -> None:
        raise OSError(f"{name} is not a valid model identifier\nand more")

    monkeypatch.setattr(sources, "_hub_answers", lambda: True)
    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", answer)
    with pytest.raises(UnknownModelError, match=r"the hub says: org/x is not a valid model identifier\. Known"):
        flowgraph.load_model("org/x")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """``org/steps`` as the hub's own client keeps it on disk, with another model on each of two branches."""
    repository = tmp_path / "models--org--steps"
    for number, branch in enumerate(("main", "step1000")):
        model, tokenizer = tiny_model("llama")
        with torch.no_grad():
            model.model.norm.weight.add_(number)
        commit = str(number) * 40
        for part in (model, tokenizer):
            part.save_pretrained(repository / "snapshots" / commit)
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / branch).write_text(commit)
    for module in (huggingface_hub.constants, transformers.utils.hub.constants):
        monkeypatch.setattr(module, "HF_HUB_CACHE", str(tmp_path))
        monkeypatch.setattr(module, "HF_HUB_OFFLINE", True)
    return "org/steps"


def test_a_revision_of_the_hub(hub, tmp_path):
    plain, named, step = (flowgraph.load_model(hub, revision=revision) for revision in (None, "main", "step1000"))
    assert (plain.revision, named.revision, step.revision) == (None, "main", "step1000")
    assert "revision" not in plain.fingerprint()
    assert step.fingerprint()["revision"] == "step1000"
    assert "revision 'step1000'" in repr(step)
    assert "revision" not in repr(plain)
    trace = flowgraph.trace(step, "The cat sat")
    assert trace.fingerprint["revision"] == "step1000"
    torch.testing.assert_close(step.model.model.norm.weight, named.model.model.norm.weight + 1)
    with pytest.raises(ModelMismatchError, match="weights differ"):
        trace.attach(plain)
    # The same weights by another name are the model that was traced.
    assert flowgraph.trace(named, "The cat sat").attach(plain).loaded is plain
    assert flowgraph.trace(plain, "The cat sat").attach(named).loaded is named
    assert flowgraph.ablate(plain, flowgraph.trace(named, "The cat sat"), [flowgraph.Node("mlp", layer=0, position=1)])
    assert flowgraph.Trace.load(trace.save(tmp_path / "step.safetensors")).fingerprint == trace.fingerprint
    with pytest.raises(UnknownModelError, match="'org/steps' at revision 'step7' is not a known model"):
        flowgraph.load_model(hub, revision="step7")


def test_the_tokenizer_is_of_the_same_revision(hub, tmp_path):
    (tmp_path / "models--org--steps" / "snapshots" / ("1" * 40) / "tokenizer.json").write_text("{")
    assert flowgraph.load_model(hub, revision="main").tokenizer is not None
    with pytest.raises(UnknownModelError, match="at revision 'step1000'"):
        flowgraph.load_model(hub, revision="step1000")


def test_a_revision_of_what_has_none(saved):
    for model in (tiny_model("llama"), tiny_model("llama")[0], flowgraph.load_model(tiny_model("llama"))):
        with pytest.raises(ArgumentError, match=r"revision='main' names .* a model in memory has none"):
            flowgraph.load_model(model, revision="main")
    with pytest.raises(ArgumentError, match=r"but '.*llama' is a folder on this machine"):
        flowgraph.load_model(saved("llama"), revision="main")
    with pytest.raises(ArgumentError, match="but 'smollm2' is a known model, which is one pinned version"):
        flowgraph.load_model("smollm2", revision="main")
    for revision in ("", " "):
        with pytest.raises(ArgumentError, match=r"revision=.* is not the name of a branch"):
            flowgraph.load_model("org/steps", revision=revision)


# Number types and devices


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64", torch.float16])
def test_number_types(saved, dtype):
    wanted = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    loaded = flowgraph.load_model(saved("llama"), dtype=dtype)
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {wanted}
    assert flowgraph.load_model(tiny_model("llama"), dtype=dtype).dtype == wanted


def test_the_number_type_of_the_file(tmp_path):
    model, _ = tiny_model("llama", torch.bfloat16)
    model.save_pretrained(tmp_path)
    assert flowgraph.load_model(tmp_path).dtype == torch.float32
    assert flowgraph.load_model(tmp_path, dtype="auto").dtype == torch.bfloat16
    assert flowgraph.load_model(model, dtype="auto").dtype == torch.bfloat16
    assert flowgraph.load_model(model).dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", ["float17", "int8", "float8_e4m3fn", "nn", torch.int8, torch.complex64])
def test_wrong_number_types(saved, dtype):
    for model in (saved("llama"), tiny_model("llama")):
        with pytest.raises(ArgumentError, match=r"dtype=.* is not a number type .*expected 'float64', 'float32'"):
            flowgraph.load_model(model, dtype=dtype)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has cuda")
@pytest.mark.parametrize("device", ["cuda", "cuda:0", torch.device("cuda")])
def test_cuda_on_a_machine_without(saved, device):
    for model in (saved("llama"), tiny_model("llama")):
        with pytest.raises(DeviceError, match=r"device='cuda.*' is not available here .*this machine has: cpu"):
            flowgraph.load_model(model, device=device)


@pytest.mark.parametrize("device", ["gpu", "", "meta", "cuda:99"])
def test_devices_that_are_none(device):
    model, _ = tiny_model("llama")
    with pytest.raises(DeviceError, match="is not available here"):
        flowgraph.load_model(model, device=device)
    assert not any(parameter.is_meta for parameter in model.parameters())


def test_a_device_is_checked_before_anything_is_fetched(monkeypatch):
    monkeypatch.setattr(sources, "fetch", lambda *_a, **_k: pytest.fail("a model was fetched"))
    with pytest.raises(DeviceError):
        flowgraph.load_model("smollm2", device="cuda:99")
    with pytest.raises(ArgumentError):
        flowgraph.load_model("smollm2", dtype="float17")


def test_automatic_devices(saved):
    best = "cuda" if torch.cuda.is_available() else "cpu"
    assert flowgraph.load_model(saved("llama"), device="auto").device.type == best
    assert flowgraph.load_model(tiny_model("llama"), device="auto").device.type == "cpu"


# Adapters


def adapted():
    peft = pytest.importorskip("peft")
    model, tokenizer = tiny_model("llama")
    torch.manual_seed(0)
    # Its second matrix starts at zero otherwise, and the adapter would change nothing.
    settings = peft.LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    return model, tokenizer, peft.get_peft_model(model, settings)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_adapters_are_refused_until_they_are_merged():
    model, tokenizer, wrapped = adapted()
    for unmerged in (wrapped, model, wrapped.base_model):
        with pytest.raises(ArchitectureError, match=r"adapters that are not merged; .*merge_and_unload\(\)"):
            flowgraph.load_model(unmerged, tokenizer=tokenizer)
    merged = flowgraph.load_model(wrapped.merge_and_unload(), tokenizer=tokenizer)
    assert max(merged.proof.values()) <= 1e-4
    plain = flowgraph.load_model(tiny_model("llama"))
    first, second = flowgraph.trace(plain, "The cat sat"), flowgraph.trace(merged, "The cat sat")
    assert not torch.allclose(first.v, second.v, atol=1e-3)
    assert plain.fingerprint()["config"] == merged.fingerprint()["config"]
    assert plain.fingerprint()["weights"] != merged.fingerprint()["weights"]


# Fingerprints


def test_equal_models_have_equal_fingerprints(saved):
    made = [flowgraph.load_model(tiny_model("gpt2")) for _ in range(2)]
    made.append(flowgraph.load_model(saved("gpt2")))
    assert len({tuple(model.fingerprint().values()) for model in made}) == 1
    model, tokenizer = tiny_model("gpt2")
    flowgraph.trace((model, tokenizer), "The cat")
    model.set_attn_implementation("eager")
    assert flowgraph.load_model(model).fingerprint() == made[0].fingerprint()


@pytest.mark.parametrize("name", [name for name, _ in tiny_model("llama")[0].named_parameters()])
def test_every_weight_is_in_the_fingerprint(name):
    model, _ = tiny_model("llama")
    loaded = flowgraph.load_model(model)
    before = loaded.fingerprint()
    with torch.no_grad():
        model.get_parameter(name).mul_(1.001)
    after = loaded.fingerprint()
    assert before["config"] == after["config"]
    assert before["weights"] != after["weights"]


def test_a_setting_is_in_the_fingerprint():
    loaded = flowgraph.load_model(tiny_model("llama"))
    before = loaded.fingerprint()
    loaded.model.config.rms_norm_eps = 0.5
    after = loaded.fingerprint()
    assert before["config"] != after["config"]
    assert before["weights"] == after["weights"]


# Architectures


def built(kind, **settings):
    """A small random model of a class of transformers."""
    model_class = getattr(transformers, kind)
    torch.manual_seed(0)
    return noisy(model_class(model_class.config_class(**settings)))


def both(model, folder):
    """The model in memory, and the folder that it is saved into."""
    model.save_pretrained(folder)
    return model, folder


def test_an_unknown_architecture_says_what_was_not_found_and_how_to_write_a_row(tmp_path):
    model = built("Olmo2ForCausalLM", **SIZES, pad_token_id=1, bos_token_id=1, eos_token_id=2)
    with pytest.raises(ArchitectureError, match="no architecture row fits Olmo2ForCausalLM") as error:
        resolve(model)
    message = str(error.value)
    assert "Nearest is" in message
    assert "input_layernorm" in message.partition("not found: ")[2]
    for part in ("model_type 'olmo2'", "register_family(dataclasses.replace(", "Known families: gpt2"):
        assert part in message
    # Its parts are found without a row, from memory and from a folder.
    for source in both(model, tmp_path):
        assert flowgraph.load_model(source).anatomy.is_found


@pytest.mark.parametrize("kind", ["Bloom", "Falcon"])
def test_a_row_that_has_nothing_in_common_is_not_called_near(kind, tmp_path):
    model = built(f"{kind}ForCausalLM", hidden_size=32, num_hidden_layers=1, num_attention_heads=4, vocab_size=60)
    with pytest.raises(ArchitectureError, match=f"no architecture row fits {kind}ForCausalLM") as error:
        resolve(model)
    assert "Known families: gpt2" in str(error.value)
    assert "Nearest" not in str(error.value)
    for source in both(model, tmp_path):
        assert flowgraph.load_model(source).level == "full"


def stablelm():
    torch.manual_seed(0)
    config = transformers.StableLmConfig(**SIZES, num_key_value_heads=2, partial_rotary_factor=0.5)
    return noisy(transformers.StableLmForCausalLM(config))


def starcoder2():
    torch.manual_seed(0)
    config = transformers.Starcoder2Config(**SIZES, num_key_value_heads=2, bos_token_id=1, eos_token_id=2)
    return noisy(transformers.Starcoder2ForCausalLM(config))


def noisy(model):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


@pytest.mark.parametrize(
    ("make", "refusal"),
    [(stablelm, "the identity 'the norm's formula' fails"), (starcoder2, "no architecture row fits")],
)
def test_a_row_that_a_user_writes_is_proved_and_traced(make, refusal, registered, tmp_path):
    model = make()
    with pytest.raises(ArchitectureError, match=refusal):
        prove(resolve(model))
    kind = model.config.model_type
    llama = FAMILIES["llama"]
    stack = llama.stacks[0]
    if kind == "starcoder2":
        stack = dataclasses.replace(
            stack, mlp_input="mlp.c_fc", mlp_gate="", mlp_activation="mlp.act", mlp_output="mlp.c_proj"
        )
    row = dataclasses.replace(llama, name=kind, model_types=(kind,), norm="layer", stacks=(stack,))

    wrong = dataclasses.replace(row, norm="rms")
    flowgraph.register_family(wrong)
    with pytest.warns(UserWarning, match=f"the row '{kind}' does not describe .* The row is set aside"):
        assert flowgraph.load_model(model).anatomy.is_found
    with pytest.raises(ArgumentError, match="already registered"):
        flowgraph.register_family(row)
    flowgraph.register_family(row, replace_existing=True)

    loaded = flowgraph.load_model(model)
    assert loaded.anatomy.family is row
    assert max(loaded.proof.values()) <= 1e-4
    trace = flowgraph.trace(loaded, IDS)
    torch.testing.assert_close(trace.logits, model(torch.tensor([IDS])).logits[0, -1], rtol=1e-4, atol=1e-4)
    parts = flowgraph.direct_logit_attribution(trace, trace.target)
    assert abs(parts.completeness_error) <= 1e-3
    for method in flowgraph.EDGE_METHODS:
        assert len(flowgraph.build_graph(trace, method=method))
    model.save_pretrained(tmp_path)
    assert flowgraph.load_model(tmp_path).fingerprint() == loaded.fingerprint()


def test_a_type_without_a_row_is_taken_by_structure_and_proved():
    """A fine-tuner's own model type on a llama needs no row at all."""

    class OwnConfig(transformers.LlamaConfig):
        model_type = "own"

    loaded = flowgraph.load_model(noisy(transformers.LlamaForCausalLM(OwnConfig(**SIZES))))
    assert loaded.anatomy.family.name == "llama"
    assert flowgraph.trace(loaded, IDS).family == "llama"


def test_modules_of_another_make_behind_the_same_names():
    """OLMo has a llama's paths, and norms without weights: another formula, which the proof sees."""
    model = transformers.OlmoForCausalLM(transformers.OlmoConfig(**SIZES, pad_token_id=1, eos_token_id=2)).eval()
    with pytest.raises(ArchitectureError, match="the row 'llama' does not describe OlmoForCausalLM"):
        prove(resolve(model))
    assert flowgraph.load_model(model).anatomy.blocks[0].attention_norm.kind == "layer"


def test_a_config_that_names_no_architecture_is_refused(tmp_path):
    model, _ = tiny_model("llama")
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["architectures"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        ArchitectureError, match="names no architectures, so it does not say whether its weights hold a head"
    ):
        flowgraph.load_model(tmp_path)
