"""The benchmark command runs and reports; what it measures is nobody's pass mark."""

from __future__ import annotations

import json
import math

import pytest
import torch

from tests.benchmarks.__main__ import BENCHMARKS, main
from tests.benchmarks.memory import STATUS
from tests.benchmarks.pairs import markdown, timed
from tests.tiny_models import tiny_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    where = tmp_path_factory.mktemp("tiny")
    for part in tiny_model("llama"):
        part.save_pretrained(where)
    return where


def names_here():
    return [name for name in BENCHMARKS if name != "memory" or STATUS.exists()]


def test_the_command_prints_a_table_and_writes_json(folder, tmp_path, capsys):
    threads = torch.get_num_threads()
    file = tmp_path / "ratios.json"
    main(["--model", str(folder), "--pairs", "2", "--json", str(file), *names_here()])
    assert torch.get_num_threads() == 1
    torch.set_num_threads(threads)
    printed = capsys.readouterr().out
    written = json.loads(file.read_text(encoding="utf-8"))
    assert written["about"]["model"] == str(folder)
    works = [row["work"] for row in written["rows"]]
    # Three choices of sites, one of them against two passes, at the three lengths that fit into 64 tokens.
    assert sum(work.startswith("trace, T = ") for work in works) == 12
    assert sum(work.startswith("read, N = ") for work in works) == 3
    assert "load_model" in works
    for row in written["rows"]:
        assert f"| {row['work']} | {row['against']} |" in printed
        assert math.isfinite(row["ratio"])
        assert row["lowest"] <= row["ratio"] <= row["highest"]
        assert row["pairs"] >= 1


def test_only_what_is_named_runs(folder, capsys):
    main(["--model", str(folder), "--pairs", "1", "readings"])
    printed = capsys.readouterr().out
    assert "read, N = 240" in printed
    assert "trace" not in printed


@pytest.mark.parametrize("arguments", [["nonsense"], ["--pairs", "0"]])
def test_wrong_arguments_are_named(arguments, capsys):
    with pytest.raises(SystemExit):
        main(arguments)
    assert arguments[-1] in capsys.readouterr().err


def test_sides_are_timed_in_turn_and_in_changing_order():
    calls = []
    row = timed("a", lambda: calls.append("a"), "b", lambda: calls.append("b"), pairs=4)
    assert "".join(calls) == "ab" + "baab" * 2
    assert row.pairs == 4
    assert "| a | b |" in markdown([row])
