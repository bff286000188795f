"""Runs of shown parts: against loops from the weights, at both ends in every family, and shared runs against whole passes."""

from __future__ import annotations

import pytest
import torch

from flowgraph.errors import ArgumentError, UnsupportedReadingError
from flowgraph.interventions.part_runs import PartRuns
from flowgraph.interventions.parts import Part, PartNumbers
from flowgraph.interventions.prompts import batch_of, prompts_of
from tests.conftest import DECODERS, IDS, slow_but
from tests.naive_parts import FORWARDS, masked

OTHER = [20, 31, 42, 50, 64, 75, 86]
"""Differs at position 3."""
THIRD = [20, 31, 42, 53, 61, 75, 86]
"""Differs at position 4."""
_SOME = ("gpt2", "gptj", "gpt_neox", "opt_post_norm", "llama", "gemma2")
"""One family of each wiring, and code that shares runs or cannot."""


def runs_of(loaded, others=(OTHER, THIRD), **options):
    prompts = [IDS, *others]
    return PartRuns(loaded, batch_of(loaded, prompts_of(loaded, prompts, "prompts"), "prompts"), **options)


def some_masks(runs, count=8, seed=0):
    draw = torch.Generator().manual_seed(seed)
    chance = torch.linspace(0.02, 0.98, count)[:, None]
    return (torch.rand(count, len(runs.numbers), generator=draw) < chance) & runs.valid


def pair_of(runs, rows):
    return torch.arange(rows) % runs.pairs


# The numbers of parts


def test_every_number_is_one_part():
    numbers = PartNumbers(2, 3, 5, 2, has_mixers=True)
    parts = [numbers.part(n) for n in range(len(numbers))]
    assert len(set(parts)) == len(numbers) == 2 * 3 * 3 * 5 + 2 * 2 * 3
    assert [numbers.number(part) for part in parts] == list(range(len(numbers)))
    assert str(numbers.part(0)) == "L0H0@2 ← 0"
    assert str(numbers.part(len(numbers) - 1)) == "L1.mixer@4"


def test_masks_are_put_together_and_taken_apart_again():
    numbers = PartNumbers(2, 3, 5, 2)
    terms, mlps = torch.zeros(2, 3, 5, 5, dtype=torch.bool), torch.zeros(2, 5, dtype=torch.bool)
    terms[1, 2, 4, 0] = mlps[0, 3] = True
    mask = numbers.joined(terms, mlps)
    assert [numbers.part(n) for n in mask.nonzero()[:, 0].tolist()] == [Part(1, 4, 2, 0), Part(0, 3)]
    apart = numbers.split(mask[None])
    assert torch.equal(apart[0][0], terms[:, :, 2:])
    assert torch.equal(apart[1][0], mlps[:, 2:])
    assert apart[2] is None


@pytest.mark.parametrize(
    ("part", "words"),
    [(Part(0, 1), "equal in both runs"), (Part(2, 3), "layer=2"), (Part(0, 3, 0, 9), "source=9"), (Part(0, 3, is_mixer=True), "no mixers")],
)  # fmt: skip
def test_a_part_that_is_not_there_is_refused(part, words):
    with pytest.raises(ArgumentError, match=words):
        PartNumbers(2, 3, 5, 2).number(part)


# The runs


@pytest.mark.parametrize("keys", ["shown", "all"])
@pytest.mark.parametrize("name", list(FORWARDS))
def test_runs_equal_loops_over_single_terms(tiny, name, keys):
    loaded = tiny(name, torch.float64)
    runs = runs_of(loaded, (OTHER,), keys=keys)
    masks = some_masks(runs, 6)
    found = runs.of(masks, pair_of(runs, len(masks)))
    with torch.no_grad():
        for mask, logits in zip(masks, found, strict=True):
            shown = set(runs.numbers.parts(mask.nonzero()[:, 0].tolist()))
            expected = masked(FORWARDS[name](loaded.model), IDS, OTHER, shown, strict=keys == "shown")
            # Llama's own softmax is one of 32 bits.
            torch.testing.assert_close(logits, expected, rtol=0, atol=5e-6)


@pytest.mark.parametrize("name", slow_but(_SOME, DECODERS))
def test_all_parts_are_the_prompt_and_none_its_counterfactual(tiny, name):
    runs = runs_of(tiny(name, torch.float64))
    everything = runs.valid.expand(runs.pairs, -1)
    pair = torch.arange(runs.pairs)
    for gates in (everything, everything.double()):
        torch.testing.assert_close(runs.of(gates, pair), runs.logits[:1].expand(runs.pairs, -1), rtol=0, atol=2e-5)
        torch.testing.assert_close(runs.of(torch.zeros_like(gates), pair), runs.logits[1:], rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", slow_but(_SOME, DECODERS))
def test_shared_runs_equal_whole_passes(tiny, name):
    runs = runs_of(tiny(name, torch.float64))
    masks, shared = some_masks(runs), runs.shared
    # A family whose blocks add nothing but attention and an MLP shares; the few others are named.
    assert (shared is not None) == (name not in ("opt_post_norm", "gpt_neo"))
    found = runs.of(masks, pair_of(runs, len(masks)))
    runs.shared = None
    torch.testing.assert_close(found, runs.of(masks, pair_of(runs, len(masks))), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "gpt_neo"])
def test_slopes_of_gates_are_those_of_differences(tiny, name):
    runs = runs_of(tiny(name, torch.float64), (OTHER,))
    draw = torch.Generator().manual_seed(3)
    gates = torch.rand(1, len(runs.numbers), generator=draw, dtype=torch.float64)
    pair = torch.zeros(1, dtype=torch.long)
    leaf = gates.clone().requires_grad_()
    (slope,) = torch.autograd.grad(runs.of(leaf, pair)[0, 7], leaf)
    for n in torch.randperm(len(runs.numbers), generator=draw)[:6].tolist():
        step = torch.zeros_like(gates)
        step[0, n] = 1e-3
        up, down = (runs.of(gates + sign * step, pair)[0, 7] for sign in (1, -1))
        torch.testing.assert_close(slope[0, n], (up - down) / 2e-3, rtol=1e-2, atol=1e-4)


def test_positions_before_the_first_change_have_no_parts(tiny):
    runs = runs_of(tiny("llama"), (THIRD,))
    assert runs.numbers.first == 4
    assert {part.position for part in runs.numbers.parts(range(len(runs.numbers)))} == {4, 5, 6}


def test_hidden_keys_are_no_parts(tiny):
    runs = runs_of(tiny("gpt2"), (OTHER,))
    for n in runs.valid.nonzero()[:, 0].tolist():
        part = runs.numbers.part(n)
        assert part.source is None or part.source <= part.position


def test_a_change_of_the_explained_token_reaches_the_logits_alone(tiny):
    """With no part shown the embedding of the last token still enters: the one free path."""
    runs = runs_of(tiny("llama", torch.float64), ([*IDS[:-1], 80],))
    found = runs.of(runs.valid[None] & False, torch.zeros(1, dtype=torch.long))
    assert (found[0] - runs.logits[1]).abs().max() > 1e-3


def test_the_prompt_itself_is_no_counterfactual(tiny):
    with pytest.raises(ArgumentError, match="counterfactual 1 is the prompt itself"):
        runs_of(tiny("gpt2"), (OTHER, IDS))


def test_a_model_without_a_head_is_refused(tiny):
    with pytest.raises(UnsupportedReadingError, match="no head"):
        runs_of(tiny("bert_headless"), (OTHER,))


def test_an_encoder_has_parts_at_every_position(tiny):
    loaded = tiny("bert", torch.float64)
    mask = loaded.tokenizer.mask_token_id
    prompt = [20, 31, 42, 53, mask, 75]
    both = batch_of(loaded, prompts_of(loaded, [prompt, [20, 31, 42, 50, mask, 75]], "prompts"), "prompts")
    runs = PartRuns(loaded, both)
    assert runs.numbers.first == 0
    pair = torch.zeros(1, dtype=torch.long)
    torch.testing.assert_close(runs.of(runs.valid[None], pair)[0], runs.logits[0], rtol=0, atol=2e-5)
    torch.testing.assert_close(runs.of(runs.valid[None] & False, pair)[0], runs.logits[1], rtol=0, atol=2e-5)
