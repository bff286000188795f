"""Pictures tested against bare forwards of as many rows and against a loop that adds one part at a time; a whole answer explained."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

import flowgraph
from flowgraph.circuits.graph_faithfulness import blind_picture
from flowgraph.interventions.part_runs import PartRuns
from flowgraph.interventions.prompts import batch_of, prompts_of
from tests.naive_parts import FORWARDS, masked

from .pairs import Base, Row, compared, timed
from .subject import SEED, Setup, bare_forward, prompt

PICTURES, PARTS = 9, 50
"""One picture and eight by chance, and the parts of each."""
LENGTHS = (8, 16)
SENTENCE = "While Kate and Simon were at the store, Simon gave a flower to"


def rows(setup: Setup) -> Iterator[Row]:
    """Tests of pictures, and the search for one where the model reads words."""
    for n_tokens in setup.lengths(LENGTHS):
        yield from _tests(setup, n_tokens)
    if not setup.small:
        yield _answer(setup)


def _tests(setup: Setup, n_tokens: int) -> Iterator[Row]:
    loaded, ids = setup.loaded, prompt(setup.loaded, n_tokens)
    other = [ids[0] + 1, *ids[1:]]
    runs = PartRuns(loaded, batch_of(loaded, prompts_of(loaded, [ids, other], "prompts"), "prompts"))
    masks = _pictures(runs)
    pair = torch.zeros(PICTURES, dtype=torch.long)
    work = f"{PICTURES} pictures of {PARTS} parts, T = {n_tokens}"
    yield timed(
        work,
        lambda: runs.of(masks, pair),
        "a bare forward of as many rows",
        lambda: _bare(loaded, ids),
        pairs=setup.pairs,
    )
    family = loaded.anatomy.family.name
    if family in FORWARDS and n_tokens == LENGTHS[0]:
        forward, shown = FORWARDS[family](loaded.model), runs.numbers.parts(masks[0].nonzero()[:, 0].tolist())
        loop = Base("a loop over terms and MLPs", lambda: _loop(forward, ids, other, set(shown)), PICTURES)
        yield from compared(work, lambda: runs.of(masks, pair), [loop], pairs=max(1, setup.pairs // 5))


def _pictures(runs: PartRuns) -> torch.Tensor:
    """[picture, part] which parts each shows."""
    draw, valid = np.random.default_rng(SEED), runs.valid
    some = draw.permutation(valid.nonzero()[:, 0].numpy())[:PARTS]
    first = torch.zeros(len(valid), dtype=torch.bool).index_fill(0, torch.from_numpy(some), True)
    chance = [blind_picture(runs.numbers, valid, first, draw) for _ in range(PICTURES - 1)]
    return torch.stack([first, *chance])


def _bare(loaded: flowgraph.LoadedModel, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = loaded.model(torch.tensor([ids] * PICTURES), use_cache=False, logits_to_keep=1).logits
    return logits


def _loop(forward: object, ids: list[int], other: list[int], shown: set[object]) -> torch.Tensor:
    with torch.no_grad():
        return masked(forward, ids, other, shown)


def _answer(setup: Setup) -> Row:
    ids = setup.loaded.tokenizer.encode(SENTENCE)
    return timed(
        f"explain_answer, T = {len(ids)}",
        lambda: flowgraph.explain_answer(setup.loaded, SENTENCE),
        "one bare forward",
        lambda: bare_forward(setup.loaded, ids, last_only=True),
        pairs=max(1, setup.pairs // 5),
    )
