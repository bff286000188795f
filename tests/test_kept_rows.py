"""Rows that a search found are kept on disk, and proved again whenever they are used."""

from __future__ import annotations

import json

import pytest
import torch

import flowgraph as fg
from flowgraph.models.discovery import kept, rows
from tests.every_type import model_of


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWGRAPH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / ".rows"


@pytest.fixture
def searches(monkeypatch):
    """Models that were searched, in their order."""
    seen = []

    class Watched(rows.Search):
        def __init__(self, model):
            seen.append(type(model).__name__)
            super().__init__(model)

    monkeypatch.setattr(rows, "Search", Watched)
    return seen


def saved(folder, model_type, task="causal"):
    model_of(model_type, task).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("model_type", "task"), [("mixtral", "causal"), ("gemma4_text", "causal"), ("doge", "causal")])
def test_a_model_is_searched_once(tmp_path, cache, searches, model_type, task):
    folder = saved(tmp_path / "model", model_type, task)
    first = fg.load_model(folder)
    assert len(searches) == len(list(cache.glob("*.json"))) == 1
    again = fg.load_model(folder)
    assert len(searches) == 1
    assert again.level == first.level
    assert again.anatomy.family == first.anatomy.family
    assert again.proof == pytest.approx(first.proof)


def test_both_stacks_are_kept(tmp_path, cache, searches):
    folder = saved(tmp_path / "model", "bart", "sequences")
    fg.load_model(folder)
    count = len(searches)
    assert count == len(list(cache.glob("*.json"))) > 0
    fg.load_model(folder)
    assert len(searches) == count


def test_other_weights_or_numbers_are_searched_again(tmp_path, cache, searches):
    folder = saved(tmp_path / "model", "phi")
    fg.load_model(folder)
    fg.load_model(folder, dtype="float64")
    assert len(searches) == 2
    model = fg.load_model(folder).model
    with torch.no_grad():
        model.model.layers[0].mlp.fc1.weight.mul_(1.5)
    model.save_pretrained(folder)
    fg.load_model(folder)
    assert len(searches) == 3


def test_a_row_that_is_not_proved_or_cannot_be_read_is_searched_again(tmp_path, cache, searches):
    folder = saved(tmp_path / "model", "mixtral")
    fg.load_model(folder)
    (file,) = cache.glob("*.json")
    right = file.read_text()
    wrong = json.loads(right)
    wrong["stacks"][0]["mlp_factor"] = 2.0
    for text in (
        json.dumps(wrong),
        "{",
        "[]",
        right.replace('"sequential"', '"sideways"'),
        right[:-1] + ', "more": 1}',
    ):
        file.write_text(text)
        before = len(searches)
        assert fg.load_model(folder).level == "full"
        assert len(searches) == before + 1
        assert file.read_text() == right


def test_models_in_memory_and_with_code_of_others_are_not_kept(cache, searches):
    fg.load_model(model_of("mixtral"))
    assert not list(cache.glob("*")) if cache.exists() else True
    assert kept.key_of(torch.nn.Sequential(type("Own", (torch.nn.Linear,), {"__module__": "own"})(2, 2))) is None


def test_the_oldest_rows_make_room(cache, monkeypatch):
    row = fg.load_model(model_of("mixtral")).anatomy.family
    monkeypatch.setattr(kept, "_MOST_ROWS", 3)
    for n in range(5):
        kept.keep_row(f"{n}", row)
    assert len(list(cache.glob("*.json"))) == 3
    assert kept.read_row("4") == row


def test_a_folder_that_cannot_be_written_keeps_nothing(tmp_path, cache, searches):
    folder = saved(tmp_path / "model", "mixtral")
    cache.parent.mkdir()
    cache.write_text("a file in the folder's place")
    assert fg.load_model(folder).level == "full"
    assert fg.load_model(folder).level == "full"
    assert len(searches) == 2
