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


def test_the_test_command_is_what_ci_runs():
    commands = re.findall(r"^python3 -m venv .*$", README, re.MULTILINE)
    assert len(commands) == 2
    assert commands[1] in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_it_is_short():
    assert len(README.splitlines()) <= 120
