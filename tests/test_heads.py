"""Scores of heads against loops that say the same slowly, and against patterns whose scores are known."""

from __future__ import annotations

import dataclasses
import io
import math

import numpy as np
import pytest
import torch

import flowgraph
from flowgraph import HeadScores, head_scores
from flowgraph.errors import ArgumentError, NotRecordedError
from tests.conftest import LINEAR_REPRESENTATIVES, REPRESENTATIVES

REPEATED = [20, 31, 42, 20, 31, 53, 42, 31]
OF_ATTENTION = ("entropy", "sink", "previous_token", "duplicate_token", "induction", "strongest_other")
SCORES = (*OF_ATTENTION, "direct_logit")


def twin(pattern, ids, causal, position):
    """Scores of one head [T, T], position by position; None where no position has a key to speak of."""
    count = len(ids)
    seen = [[s for s in range(count) if s <= t or not causal] for t in range(count)]

    def mean(keys_of):
        sums = [sum(pattern[t][s] for s in keys) for t in range(count) if (keys := keys_of(t))]
        return sum(sums) / len(sums) if sums else None

    entropies = [
        -sum(pattern[t][s] * math.log(pattern[t][s]) for s in seen[t] if pattern[t][s] > 0)
        for t in range(count)
        if len(seen[t]) > 1
    ]
    return {
        "entropy": sum(entropies) / len(entropies) if entropies else None,
        "sink": mean(lambda t: [0] if t else []),
        "previous_token": mean(lambda t: [t - 1] if t else []),
        "duplicate_token": mean(lambda t: [s for s in seen[t] if s != t and ids[s] == ids[t]]),
        "induction": mean(lambda t: [s for s in seen[t] if s != t and s >= 1 and s - 1 != t and ids[s - 1] == ids[t]]),
        "strongest_other": max((pattern[position][s] for s in seen[position] if s != position), default=None),
    }


@pytest.mark.parametrize("ids", [REPEATED, [20, 31, 42, 53], [7, 7], [7]], ids=["repeated", "once", "twice", "one"])
@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_against_loops(tiny, name, ids):
    trace = flowgraph.trace(tiny(name), ids, position=-1)
    position = len(ids) // 2
    found = head_scores(trace, position=position)
    for row in range(trace.n_layers):
        for head in range(trace.n_heads):
            expected = twin(trace.pattern[row, head].double().tolist(), ids, trace.causal, position)
            for score, value in expected.items():
                if value is None:
                    assert found.undefined[score]
                    assert score not in found.scores
                else:
                    assert found[score][row, head] == pytest.approx(value, abs=1e-9), (score, row, head)
    assert set(found.scores) | set(found.undefined) == set(SCORES)
    for score in found.scores.values():
        assert np.isfinite(score.values).all()
        assert score.lowest is None or (score.values >= score.lowest - 1e-6).all()
        assert score.highest is None or (score.values <= score.highest + 1e-6).all()


def with_pattern(trace, pattern):
    """The same trace with another pattern in every head."""
    made = torch.tensor(pattern, dtype=torch.float32).expand(trace.n_layers, trace.n_heads, -1, -1)
    return dataclasses.replace(trace, sites={**trace.sites, "pattern": made})


def test_patterns_whose_scores_are_known(tiny):
    ids = [20, 31, 42, 53, 20, 31, 42, 53]
    trace = flowgraph.trace(tiny("gpt2"), ids)
    count = len(ids)
    first, before, match = (np.zeros((count, count)) for _ in range(3))
    first[:, 0] = 1
    before[range(1, count), range(count - 1)] = 1
    match[range(4, count), range(1, 5)] = 1
    same = np.zeros((count, count))
    same[range(4, count), range(4)] = 1
    for pattern, name in ((first, "sink"), (before, "previous_token"), (match, "induction"), (same, "duplicate_token")):
        pattern[~pattern.any(1), 0] = 1
        found = head_scores(with_pattern(trace, pattern))
        assert (found[name] == 1).all()
        assert (found["entropy"] == 0).all()
        assert "-0" not in str(found["entropy"][0, 0])
        assert (found["strongest_other"] == 1).all()
        assert (found.strongest_key == pattern[-1].argmax()).all()
    assert head_scores(trace).scores["induction"].queries == 4
    even = np.tri(count) / np.arange(1, count + 1)[:, None]
    entropy = head_scores(with_pattern(trace, even))["entropy"]
    np.testing.assert_allclose(entropy, np.mean(np.log(np.arange(2, count + 1))), rtol=1e-6)


@pytest.mark.parametrize("name", LINEAR_REPRESENTATIVES)
def test_direct_logits_are_those_of_the_attribution(tiny, name):
    trace = flowgraph.trace(tiny(name), REPEATED, foil=9)
    parts = flowgraph.direct_logit_attribution(trace)
    found = head_scores(trace)
    np.testing.assert_array_equal(found["direct_logit"], parts.heads)
    np.testing.assert_allclose(found["direct_logit"], parts.heads_by_source.sum(-1))
    assert "minus the foil" in found.scores["direct_logit"].description
    earlier = flowgraph.direct_logit_attribution(trace, position=3).heads
    np.testing.assert_array_equal(head_scores(trace, position=3)["direct_logit"], earlier)


@pytest.mark.parametrize(
    ("name", "reason"), [("bert", "masked language model"), ("bert_headless", "head"), ("opt_post_norm", "post-norm")]
)
def test_without_single_logits_the_reason_is_said(tiny, name, reason):
    found = head_scores(flowgraph.trace(tiny(name), REPEATED, position=-1))
    assert reason in found.undefined["direct_logit"]
    with pytest.raises(ArgumentError, match="'direct_logit' is not defined here"):
        found["direct_logit"]
    with pytest.raises(ArgumentError, match="'direct_logit' is not defined here"):
        found.figure("direct_logit")
    assert "direct_logit is not defined here" in found._repr_html_()
    assert "not defined: direct_logit" in repr(found)
    assert "direct_logit" not in found.to_dataframe()
    assert found.figure().data


def test_no_repeated_token_is_a_reason_not_a_number(tiny):
    found = head_scores(flowgraph.trace(tiny("gpt2"), [20, 31, 42]))
    assert found.undefined == {
        "duplicate_token": "no token of the prompt occurs twice",
        "induction": "no token of the prompt occurs again after another one has followed it",
    }
    with pytest.raises(ArgumentError, match="'induction' is not defined here: no token"):
        found["induction"]
    with pytest.raises(ArgumentError, match="'nothing' is not a score of heads; expected one of entropy"):
        found["nothing"]


def test_a_window_keeps_the_model_s_numbers(tiny):
    whole = head_scores(flowgraph.trace(tiny("llama"), REPEATED))
    window = head_scores(flowgraph.trace(tiny("llama"), REPEATED, keep=flowgraph.TraceSites(layers=(1, 2))))
    np.testing.assert_allclose(window["induction"], whole["induction"][1:2], rtol=1e-5)
    assert "needs all 2 layers" in window.undefined["direct_logit"]
    assert set(window.to_dataframe()["layer"]) == {1}
    assert {str(node)[:2] for node, _ in window.strongest("sink")} == {"L1"}
    assert list(window.figure("sink").data[0].y) == [1]


def test_a_trace_from_a_file(tiny, tmp_path):
    trace = flowgraph.trace(tiny("gpt2"), REPEATED)
    stored = flowgraph.Trace.load(trace.save(tmp_path / "run.safetensors"))
    found = head_scores(stored)
    assert "attach" in found.undefined["direct_logit"]
    for name in OF_ATTENTION:
        np.testing.assert_array_equal(found[name], head_scores(trace)[name])


def test_bad_questions(tiny):
    trace = flowgraph.trace(tiny("gpt2"), REPEATED)
    with pytest.raises(ArgumentError, match="position=8"):
        head_scores(trace, position=8)
    bare = flowgraph.trace(tiny("gpt2"), REPEATED, keep=flowgraph.TraceSites(frozenset({"resid_post"})))
    with pytest.raises(NotRecordedError, match="'pattern'"):
        head_scores(bare)
    found = head_scores(trace)
    broken = dataclasses.replace(found.scores["sink"], values=np.full((2, 4), np.nan))
    with pytest.raises(ArgumentError, match="not finite"):
        dataclasses.replace(found, scores={"sink": broken})
    with pytest.raises(ArgumentError, match="has 2 layers"):
        dataclasses.replace(found, layers=(0, 5))


def test_table_files_and_figures(tiny, tmp_path):
    trace = flowgraph.trace(tiny("gpt2"), REPEATED)
    found = head_scores(trace)
    assert isinstance(found, HeadScores)
    frame = found.to_dataframe()
    assert list(frame)[:3] == ["head_label", "layer", "head"]
    for row in frame.itertuples():
        assert row.head_label == f"L{row.layer}H{row.head}"
        assert row.induction == found["induction"][row.layer, row.head]
        assert row.strongest_key_token == trace.tokens[row.strongest_key]
        assert trace.pattern[row.layer, row.head, -1, row.strongest_key] == pytest.approx(row.strongest_other)
    with np.load(io.BytesIO(found.to_npz()), allow_pickle=False) as held:
        assert set(held) == {*SCORES, "strongest_key", "layer", "tokens"}
        np.testing.assert_array_equal(held["entropy"], found["entropy"])
    assert found.save(tmp_path / "heads.csv").read_text().startswith("head_label,layer,head,entropy")
    for score in SCORES:
        figure = found.figure(score, theme="dark")
        np.testing.assert_array_equal(figure.data[0].z, found[score])
        assert found.scores[score].unit in figure.layout.title.subtitle.text
    assert found.figure().layout.title.text == "Heads by direct logit"
    html = found._repr_html_()
    assert html.count("data:image/png;base64,") == len(SCORES)
    best, value = found.strongest("previous_token", 1)[0]
    assert value == found["previous_token"].max()
    assert str(best) in html
    assert found.strongest("entropy", 1)[0][1] == found["entropy"].min()


@pytest.mark.real_model
def test_real_heads_match_prefixes(smollm2):
    """Repeated random tokens, as in the paper: a few heads find what followed, most do not."""
    ids = torch.randint(1000, 40_000, (24,), generator=torch.Generator().manual_seed(5)).tolist()
    found = head_scores(flowgraph.trace(smollm2, ids + ids))
    assert found["induction"].max() > 0.5
    assert np.median(found["induction"]) < 0.1
    assert found["previous_token"].max() > 0.5
    assert np.median(found["sink"]) > 0.3
