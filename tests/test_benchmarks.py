"""The benchmark command runs and reports; what it measures is nobody's pass mark."""

from __future__ import annotations

import json
import math
import re
import sys
from collections import Counter

import numba
import pytest
import torch

from tests.benchmarks.__main__ import BENCHMARKS, main
from tests.benchmarks.memory import STATUS
from tests.benchmarks.pairs import Base, compared, markdown, timed
from tests.tiny_models import tiny_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    where = tmp_path_factory.mktemp("tiny")
    for part in tiny_model("llama"):
        part.save_pretrained(where)
    return where


@pytest.fixture(autouse=True)
def threads():
    compiled, tensors = numba.get_num_threads(), torch.get_num_threads()
    yield
    numba.set_num_threads(compiled)
    torch.set_num_threads(tensors)


def names_here():
    return [name for name in BENCHMARKS if name != "memory" or STATUS.exists()]


@pytest.mark.slow(seconds=75)
def test_the_command_prints_a_table_and_writes_json(folder, tmp_path, capsys):
    file = tmp_path / "ratios.json"
    main(["--model", str(folder), "--pairs", "1", "--json", str(file), *names_here()])
    assert torch.get_num_threads() == numba.get_num_threads() == 1
    printed, said = capsys.readouterr()
    assert "flow: the rows of the encoder are left out" in said
    written = json.loads(file.read_text(encoding="utf-8"))
    assert written["about"]["model"] == str(folder)
    works = [row["work"] for row in written["rows"]]
    # Three choices of sites, one of them against two passes, at the three lengths that fit into 64 tokens.
    assert sum(work.startswith("trace, T = ") for work in works) == 12
    assert sum(work.startswith("identities of a trace, T = ") for work in works) == 3
    assert sum(work.startswith("read, N = ") for work in works) == 3
    assert {"load_model", "load_model, proved again"} <= set(works)
    against = Counter(row["against"] for row in written["rows"] if row["work"].startswith("attention_flow"))
    # Two lengths that are real for this model, and five kinds of made-up attention, causal and not.
    assert against == dict.fromkeys(("OR-tools", "igraph", "SciPy", "networkx"), 12)
    assert sum(work.startswith("attention_rollout") for work in works) == 4
    assert sum(work.startswith("proximity") for work in works) == 7
    assert sum(work.startswith("norm_of_sum") for work in works) == 3
    differences = [re.search(r"largest difference (?:of shares )?(\S+)", row["note"]) for row in written["rows"]]
    # SciPy counts in units of 2^-30, and shares are of single precision.
    assert max(float(found[1]) for found in differences if found) < 1e-5
    assert sum(found is not None for found in differences) == 48 + 4 + 3 + 3
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


def test_all_sides_take_their_turn_and_parts_are_extrapolated():
    calls = []
    bases = [
        Base(name, lambda name=name: calls.append(name), times, name.upper()) for name, times in (("b", 1), ("c", 1e9))
    ]
    b, c = compared("a", lambda: calls.append("a"), bases, pairs=2)
    assert "".join(calls) == "abc" + "cbaabc"
    assert (b.against, b.note, c.against, c.note) == ("b", "B", "c", "C")
    assert c.base > 1e3 * b.base
    assert c.ratio < 1e-3 * b.ratio
    lines = markdown([b, c]).splitlines()
    assert lines[0].endswith("| absolute | note |")
    assert lines[-1].endswith("| C |")
    assert "| 1/" in lines[-1]


def test_a_missing_program_is_named_before_anything_runs(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "igraph", None)
    with pytest.raises(SystemExit):
        main(["readings", "flow"])
    printed, said = capsys.readouterr()
    assert "igraph must be installed to compare with: pip install -e '.[bench]'" in said
    assert not printed
