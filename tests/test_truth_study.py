"""The study of true pictures: which prompts it takes, and what its table counts."""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

import flowgraph as fg
from flowgraph.charts import rendering
from tests.studies.prompts import MASKED, PROMPTS
from tests.studies.truth import METHODS, SIZES, chosen, masked, table
from tests.studies.truth_figure import FOLDER, LINES, NAME, chart, stored

KINDS = tuple(PROMPTS)


def row(kind: str, mean: float, worst: float) -> dict:
    """One prompt of the study, as if explain_answer kept so much of it."""
    kept = {"mean": mean, "worst": worst}
    columns = {name: [mean / 2] * len(SIZES) for name in (*METHODS, "random of proximity's sizes")}
    return {
        "kind": kind, "unseen": 2, "explain_answer": kept, "rank": 1, "random": 0.01, "other_heads": None, "seconds": 2.0
    } | columns  # fmt: skip


def test_a_hundred_prompts_of_eight_kinds_are_taken_in_turns():
    whole = list(chosen(1, 0))
    assert len(whole) == len({prompt for _, prompt, _ in whole}) == 100
    assert len(KINDS) == 8
    quarters = [list(chosen(4, start)) for start in range(4)]
    assert sorted(chain(*quarters)) == sorted(whole)
    assert all({kind for kind, _, _ in quarter} == set(KINDS) for quarter in quarters)


def test_the_table_counts_prompts_that_keep_the_goal():
    rows = [row(KINDS[0], 0.9, 0.7), row(KINDS[0], 0.8, 0.8), row(KINDS[1], 0.5, 0.1)]
    said = table([*rows, {"kind": KINDS[1], "prompt": "x", "unseen": 0, "error": "none"}])
    assert said.startswith("4 prompts, 3 with their answer and with counterfactuals")
    assert "left out: 'x': none" in said
    assert "mean over unseen prompts ≥ .8 in 2 of 3" in said
    assert "the worst of them in 1 of 3" in said
    assert "median 0.80, least 0.50; answer first in 3" in said
    assert f"{KINDS[0]}: 2 of 2" in said
    assert f"{KINDS[1]}: 0 of 1" in said


@pytest.mark.real_model
@pytest.mark.parametrize("name", MASKED)
def test_of_a_masked_model_one_token_after_another_is_masked(name):
    model = fg.load_model(name)
    prompts = list(masked(model, name))
    assert len(prompts) >= 8
    whole = model.tokenizer.encode(MASKED[name][0])
    for _, ids, answer, position in prompts:
        assert ids[position] == model.tokenizer.mask_token_id
        assert [*ids[:position], model.tokenizer.convert_tokens_to_ids(answer), *ids[position + 1 :]] == whole


def test_the_gallery_says_what_is_stored(tmp_path):
    found = json.loads((FOLDER / f"{NAME}.json").read_text(encoding="utf-8"))
    page = (Path(__file__).parent.parent / "docs" / "gallery" / "true_pictures.md").read_text(encoding="utf-8")
    asked = [(kind, prompt) for kind, prompts in PROMPTS.items() for prompt in prompts]
    assert list(zip(found["kind"], found["prompt"], strict=True)) == asked
    own, *others = (np.array(found[name]) for name in LINES)
    worst = np.array(found["worst"])
    assert f"| {int((own >= 0.8).sum())} of 100 [77 %, 91 %] |" in page
    assert f"| {int((worst >= 0.8).sum())} of 100 [70 %, 86 %] |" in page
    assert f"| {np.median(own):.2f} | 84" in page
    assert (worst <= own + 1e-9).all()
    at_50, at_1000, chance = others
    counts = f"0 / 34 / {int((at_1000 >= 0.8).sum())}"
    assert (at_50 < 0.8).all()
    assert counts in page
    assert np.abs(chance).max() < 0.02
    for kind in KINDS:
        of_kind = own[np.array(found["kind"]) == kind]
        assert f"{int((of_kind >= 0.8).sum())} of {len(of_kind)}" in page
    rendering.picture(chart(found), tmp_path / f"{NAME}.svg", caption=False)
    assert (tmp_path / f"{NAME}.svg").read_bytes() == (FOLDER / f"{NAME}.svg").read_bytes()


def test_rows_of_the_study_become_columns_of_the_figure():
    rows = [row(KINDS[0], 0.9, 0.7) | {"prompt": "a"}, row(KINDS[1], 0.4, 0.2) | {"prompt": "b"}]
    found = stored([*rows, {"kind": KINDS[0], "prompt": "c", "unseen": 0}])
    assert found["prompt"] == ["a", "b"]
    assert found["worst"] == [0.7, 0.2]
    assert found["proximity, 50 parts"] == [0.45, 0.2]
    own = chart(found).panels[0].series[0]
    assert own.y.tolist() == [0.9, 0.4]
