"""The study of true pictures: which prompts it takes, and what its table counts."""

from __future__ import annotations

from itertools import chain

from tests.studies.prompts import PROMPTS
from tests.studies.truth import METHODS, SIZES, chosen, table

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
