"""Readings of weights on the disk: the same words and numbers, never another model's, and no harm when the file is bad."""

from __future__ import annotations

import logging
import sqlite3
from contextlib import closing

import numpy as np
import pytest
import torch

import flowgraph
from flowgraph.semantic import stored
from tests.conftest import IDS


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A cache folder of its own, and every head large enough to be worth it."""
    monkeypatch.setenv("FLOWGRAPH_CACHE", str(tmp_path))
    monkeypatch.setattr(stored, "WORTHWHILE", 0)
    return tmp_path / "readings"


def rows(folder) -> int:
    (file,) = folder.glob("*.sqlite")
    with closing(sqlite3.connect(file)) as store:
        return store.execute("SELECT count(*) FROM readings").fetchone()[0]


def assert_same(found, expected):
    assert found.nodes == expected.nodes
    for node, a, b in zip(found.nodes, found.readings, expected.readings, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            a, b = a.to_dict(), b.to_dict()
            assert a.keys() == b.keys()
            for name, value in b.items():
                if name.endswith("tokens"):
                    assert a[name] == value, node
                else:
                    np.testing.assert_allclose(a[name], value, rtol=1e-5, atol=1e-6, err_msg=f"{node} {name}")


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "bert"])
def test_the_second_time_they_come_from_the_disk(tiny, folder, monkeypatch, name):
    trace = flowgraph.trace(tiny(name), IDS, position=-1, target=7, foil=9)
    assert not folder.exists()
    first = flowgraph.semantic_graph(trace, neurons_per_block=6)
    kept = rows(folder)
    assert kept == sum(node.kind in ("neuron_in", "gate") for node in first.nodes)
    asked = []
    monkeypatch.setattr(stored, "read", lambda *arguments, **options: asked.append(arguments))
    assert_same(flowgraph.semantic_graph(trace, neurons_per_block=6), first)
    assert not asked
    assert rows(folder) == kept


def test_another_prompt_shares_them_and_another_target_does_not(tiny, folder):
    model = tiny("llama")
    flowgraph.semantic_graph(flowgraph.trace(model, IDS, target=7), layers=0, neurons_per_block=6)
    assert rows(folder) == 12
    everything = model.anatomy.blocks[0].mlp_input.weight.shape[1]
    other = flowgraph.trace(model, IDS[:4], target=7)
    flowgraph.semantic_graph(other, layers=0, neurons_per_block=everything)
    assert rows(folder) == 2 * everything
    flowgraph.semantic_graph(flowgraph.trace(model, IDS, target=8), layers=0, neurons_per_block=6)
    assert rows(folder) == 2 * everything + 12


def test_a_changed_head_reads_again(tiny, folder):
    """Changed in place, through .data, which leaves no mark on the tensor but its numbers."""
    import copy

    model = flowgraph.load_model((copy.deepcopy(tiny("llama").model), None))
    before = stored.store_of(model)
    assert stored.store_of(model) == before
    head = model.anatomy.head[-1].weight
    with torch.no_grad():
        head[3, 5] += 1
    changed = stored.store_of(model)
    assert changed != before
    head.data.mul_(1.25)
    assert stored.store_of(model) not in (before, changed)
    assert stored.store_of(tiny("llama")) == before


@pytest.mark.parametrize("content", [b"no database at all", b"SQLite format 3\x00" + b"\xff" * 4000])
def test_a_damaged_file_is_made_again(tiny, folder, caplog, content):
    trace = flowgraph.trace(tiny("llama"), IDS)
    first = flowgraph.semantic_graph(trace, layers=0)
    (file,) = folder.glob("*.sqlite")
    file.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert_same(flowgraph.semantic_graph(trace, layers=0), first)
    assert "damaged" in caplog.text
    assert rows(folder) == 40


def test_a_folder_that_cannot_be_written(tiny, tmp_path, monkeypatch, caplog):
    (tmp_path / "readings").write_text("a file where the folder should be")
    monkeypatch.setenv("FLOWGRAPH_CACHE", str(tmp_path))
    monkeypatch.setattr(stored, "WORTHWHILE", 0)
    with caplog.at_level(logging.WARNING):
        graph = flowgraph.semantic_graph(flowgraph.trace(tiny("llama"), IDS), layers=0)
    assert "could not be stored" in caplog.text
    assert all(reading.top for node, reading in zip(graph.nodes, graph.readings, strict=True) if node.kind == "gate")


def test_the_oldest_go_first(tiny, folder, monkeypatch):
    monkeypatch.setattr(stored, "MOST_READINGS", 15)
    model = tiny("llama")
    flowgraph.semantic_graph(flowgraph.trace(model, IDS, target=7), layers=0, neurons_per_block=6)
    flowgraph.semantic_graph(flowgraph.trace(model, IDS, target=8), layers=0, neurons_per_block=6)
    assert rows(folder) == 15


def test_small_heads_are_read_at_once(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWGRAPH_CACHE", str(tmp_path))
    flowgraph.semantic_graph(flowgraph.trace(tiny("llama"), IDS), layers=0)
    assert not (tmp_path / "readings").exists()


@pytest.mark.real_model
def test_the_default_model(smollm2, tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWGRAPH_CACHE", str(tmp_path))
    trace = flowgraph.trace(smollm2, "The capital of Japan is the city of")
    first = flowgraph.semantic_graph(trace, layers=23)
    assert rows(tmp_path / "readings") == 40
    assert_same(flowgraph.semantic_graph(trace, layers=23), first)
