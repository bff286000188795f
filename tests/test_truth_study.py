"""The study of true pictures: which prompts it takes, and what its table counts."""

from __future__ import annotations

from itertools import chain

import pytest

import flowgraph as fg
from tests.studies.prompts import MASKED, PROMPTS
from tests.studies.truth import METHODS, SIZES, chosen, masked, table

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
