"""What the README says is what happens."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import flowgraph
from tests.conftest import JAPAN

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.real_model
def test_the_python_example_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(compile(example, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert " Tokyo torch.Size([30, 9, 8, 8])" in printed
    assert (tmp_path / "flow.html").stat().st_size > 100_000


@pytest.mark.real_model
def test_the_further_examples_run(smollm2):
    """They go on from the first example's trace; each line that is not an assignment gives something."""
    examples = re.findall(r"```py\n(.*?)```", README, re.DOTALL)
    trace = flowgraph.trace(smollm2, JAPAN, foil=" Kyoto")
    names = {"fg": flowgraph, "model": smollm2, "trace": trace, "lens": flowgraph.logit_lens(trace)}
    assert len(examples) == 3
    for line in "".join(examples).strip().splitlines():
        if re.match(r"\w+ = ", line):
            exec(line, names)
        else:
            assert eval(line.strip(), names) is not None or line.startswith("print"), line


@pytest.mark.real_model
def test_what_is_said_of_the_picture(smollm2):
    trace = flowgraph.trace(smollm2, JAPAN)
    rank = [flowgraph.logit_lens(trace)[layer, -1].target_rank for layer in range(30)]
    assert min(rank[:22]) > 10_000
    assert rank[-1] == 1
    graph = flowgraph.build_graph(trace, method="proximity", readings=False)
    attention = [
        (float(flow), int(graph.layer[e]), int(graph.key_pos[e]), int(graph.query_pos[e]))
        for e, flow in enumerate(flowgraph.connected_flow(graph))
        if graph.key_pos[e] != graph.query_pos[e] and graph.key_pos[e] >= 0
    ]
    _, layer, source, target = max(attention)
    assert (layer, trace.tokens[source], target) == (23, " Japan", 7)


@pytest.mark.real_model
def test_what_is_said_of_the_layer(smollm2):
    graph = flowgraph.semantic_graph(flowgraph.trace(smollm2, JAPAN), layers=23)
    readings = {str(node): reading for node, reading in zip(graph.nodes, graph.readings, strict=True)}
    assert readings["L23H4.value[3]@7"].activation == pytest.approx(0.92, abs=0.005)
    assert readings["L23H4@7"].top[0][0] == " Japanese"
    assert readings["L23H4@7"].contribution == pytest.approx(2.68, abs=0.005)


def test_the_test_command_is_what_ci_runs():
    commands = re.findall(r"^python3 -m venv .*$", README, re.MULTILINE)
    assert len(commands) == 2
    assert commands[1] in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_every_folder_and_picture_it_names_exists():
    for picture in re.findall(r'(?:src|srcset)="([^"]+)"', README):
        assert (ROOT / picture).is_file(), picture
    for name in (
        "kernels",
        "charts",
        "models",
        "values",
        "lenses",
        "methods",
        "semantic",
        "algorithms",
        "analyses",
        "render",
        "files",
        "cli",
    ):
        assert f"  {name}/" in README
        assert (ROOT / "flowgraph" / name).is_dir()
    for module in re.findall(r"\b(\w+\.py)\b", README):
        assert any(any((ROOT / folder).rglob(module)) for folder in ("flowgraph", "webapp", "tests")), module
