"""Scores of where heads look, on random tokens that repeat: neither meaning nor position can take the place of the pattern."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ..errors import ArgumentError
from ..interventions.passes import Pass
from ..lenses.head_scores import HeadScore
from ..models import LoadedModel
from ..models.anatomy import upcast
from ..models.forward import Feed
from ..models.media import short_source
from ..models.stacks import DECODER_IDS, SOURCE, start_id

Kind = Literal["head", "cross_head"]

ATTENTION_SCORES = {
    "previous_token": "mean attention to the token just before",
    "duplicate_token": "mean attention to earlier places of the same token, where there are any",
    "induction": "mean attention to what followed the same token earlier, where there is such a place",
    "sink": "mean attention to the first token, from all later ones",
}
_LONGEST_PERIOD = 32
_SHORTEST_PERIOD = 4


CROSS_SCORES = {
    "duplicate_token": "mean attention to the same token in the source",
    "induction": "mean attention to what follows the same token in the source",
}
"""Scores of heads that read an encoder, which reads the same tokens from another place on."""
NO_DISTANCE = "positions of the decoder and of the encoder are counted apart, so there is no distance between them"


def attention_scores(loaded: LoadedModel, prompts: Repeating, *, crossing: bool) -> dict[str, HeadScore]:
    """Where each head looks on sequences of :func:`repeating`."""
    ids, source = prompts.ids, prompts.source
    wanted = _keys(ids) if not crossing or source is None else _source_keys(ids, source)
    names = CROSS_SCORES if crossing else ATTENTION_SCORES
    anatomy = loaded.anatomy.reader_of_encoder if crossing else loaded.anatomy
    shape = (len(anatomy.blocks), anatomy.n_heads)
    sums = {name: np.zeros(shape) for name in names}
    run = Pass(loaded, len(ids))
    for layer in range(shape[0]):
        run.edit("cross_pattern" if crossing else "pattern", layer, partial(_add_up, layer, wanted, sums))
    with loaded.lock, torch.no_grad():
        run.run(prompts.feed)
    scores = {}
    for name, about in names.items():
        queries = int(wanted[name].any(-1).sum())
        where = f"{about}; on {len(ids)} sequences of random tokens that repeat"
        kind: Kind = "cross_head" if crossing else "head"
        scores[name] = HeadScore(name, sums[name] / queries, "share", 0.0, 1.0, queries, where, kind)
    return scores


@dataclass(frozen=True, eq=False)
class Repeating:
    """Random tokens that repeat.

    Attributes
    ----------
    ids
        [row, position] what the model reads, or its decoder.
    source
        [row, position] what an encoder of texts reads: the same tokens from another place of their period on; None for one stack, and where the
        encoder reads no tokens or others than the decoder.
    feed
        Arguments of the model.
    """

    ids: Int[Tensor, "row position"]
    source: Int[Tensor, "row source_pos"] | None
    feed: Feed


def repeating(loaded: LoadedModel, sequences: int, seed: int) -> Repeating:
    """One token that does not come again, then different random tokens that repeat with a random period.

    The period is random: with a fixed one a position would tell as much as the token before. The tokens of a period differ, so
    each has one successor. The first token is the model's own start if it has one; special tokens are not drawn.

    Raises
    ------
    ArgumentError
        If there is no sequence, or the model cannot read one that repeats.
    """
    anatomy, config = loaded.anatomy, loaded.anatomy.config
    if sequences < 1:
        raise ArgumentError(f"sequences={sequences} must be at least 1")
    if not anatomy.causal:
        raise ArgumentError(
            f"{loaded.name!r} sees later tokens as well, so that nothing comes before anything; roles of heads are measured on "
            "causal models"
        )
    start = getattr(config, "bos_token_id", None) if anatomy.cross is None else start_id(loaded.model)
    special = set() if loaded.tokenizer is None else set(loaded.tokenizer.all_special_ids)
    used = len(loaded.vocabulary) if loaded.tokenizer is None else min(len(loaded.tokenizer), len(loaded.vocabulary))
    # A token that the head does not score, such as the place of an image, cannot be copied.
    used = min(used, anatomy.d_vocab) if anatomy.has_head else used
    pool = np.array([i for i in range(used) if i not in special and i != start])
    stacks = (anatomy, *(one for one in anatomy.sources.values() if one.layout is None))
    room = min([_LONGEST_PERIOD, *((one.context - 1) // 2 for one in stacks if one.context is not None)])
    longest = min(_LONGEST_PERIOD, room, len(pool) - 1)
    if longest < _SHORTEST_PERIOD:
        raise ArgumentError(
            f"{loaded.name!r} reads {anatomy.context} tokens and has {len(pool)} to draw from; a sequence that repeats needs a "
            f"period of {_SHORTEST_PERIOD} at least"
        )
    # Two draws, so that a seed gives the same tokens whether or not something is turned for an encoder.
    draw, turns = np.random.default_rng(seed), np.random.default_rng([seed, 1])
    rows, sources = [], []
    for _ in range(sequences):
        period = int(draw.integers(max(_SHORTEST_PERIOD, longest // 2), longest + 1))
        first, *tokens = draw.choice(pool, period + 1, replace=False)
        # All rows have one length, whatever their period, so that they run as one batch.
        again = np.resize(tokens, 2 * longest)
        rows.append([first if start is None or not 0 <= start < len(loaded.vocabulary) else start, *again])
        # Another place, so that no position of the source tells which token stands there.
        sources.append(np.resize(np.roll(tokens, -int(turns.integers(1, period))), 2 * longest))
    ids = torch.tensor(np.array(rows), device=loaded.device)
    if anatomy.cross is None:
        return Repeating(ids, None, {"input_ids": ids})
    return _over_stacks(loaded, ids, torch.tensor(np.array(sources), device=loaded.device))


def _over_stacks(loaded: LoadedModel, ids: Tensor, source: Tensor) -> Repeating:
    """What the decoder reads, and for its encoder the same tokens, or noise where it reads none of these."""
    reader = loaded.stacks.get(SOURCE)
    is_shared = (
        reader is not None and reader.anatomy.layout is None and len(reader.vocabulary) == len(loaded.vocabulary)
    )
    if is_shared:
        return Repeating(ids, source, {"input_ids": source, DECODER_IDS: ids})
    probe = short_source(loaded.model, source.shape[1])
    feed = {name: torch.cat([value] * len(ids)) for name, value in probe.items()}
    return Repeating(ids, None, {**feed, DECODER_IDS: ids})


def _keys(ids: Int[Tensor, "row position"]) -> dict[str, Bool[Tensor, "row query key"]]:
    """Name → which keys a score counts; all before the query."""
    count = ids.shape[1]
    t, s = torch.arange(count, device=ids.device)[:, None], torch.arange(count, device=ids.device)
    earlier = (s < t).expand(len(ids), -1, -1)
    # What stands before the first token is no token: its id is none.
    before = torch.cat([torch.full_like(ids[:, :1], -1), ids[:, :-1]], dim=1)
    return {
        "previous_token": earlier & (s == t - 1),
        "duplicate_token": earlier & (ids[:, :, None] == ids[:, None]),
        "induction": earlier & (ids[:, :, None] == before[:, None]),
        "sink": earlier & (s == 0),
    }


def _source_keys(
    ids: Int[Tensor, "row position"], source: Int[Tensor, "row source_pos"]
) -> dict[str, Bool[Tensor, "row query key"]]:
    """The same of keys in the source."""
    before = torch.cat([torch.full_like(source[:, :1], -1), source[:, :-1]], dim=1)
    return {"duplicate_token": ids[:, :, None] == source[:, None], "induction": ids[:, :, None] == before[:, None]}


def _add_up(layer: int, wanted: dict[str, Tensor], sums: dict[str, np.ndarray], pattern: Tensor) -> Tensor:
    """Add the attention that goes to the keys of each score; the pattern stays as it is."""
    for name, keys in wanted.items():
        sums[name][layer] = (
            torch.einsum("rhts,rts->h", upcast(pattern), keys.to(upcast(pattern))).double().cpu().numpy()
        )
    return pattern
