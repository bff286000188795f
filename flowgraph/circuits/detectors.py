"""Scores of where heads look, on random tokens that repeat: neither meaning nor position can take the place of the pattern."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ..errors import ArgumentError
from ..interventions.passes import Pass
from ..lenses.head_scores import HeadScore
from ..models import LoadedModel
from ..models.anatomy import upcast

ATTENTION_SCORES = {
    "previous_token": "mean attention to the token just before",
    "duplicate_token": "mean attention to earlier places of the same token, where there are any",
    "induction": "mean attention to what followed the same token earlier, where there is such a place",
    "sink": "mean attention to the first token, from all later ones",
}
_LONGEST_PERIOD = 32
_SHORTEST_PERIOD = 4


def attention_scores(loaded: LoadedModel, ids: Int[Tensor, "row position"]) -> dict[str, HeadScore]:
    """Where each head looks on sequences of :func:`repeating`."""
    wanted = _keys(ids)
    shape = (len(loaded.anatomy.blocks), loaded.anatomy.n_heads)
    sums = {name: np.zeros(shape) for name in ATTENTION_SCORES}
    run = Pass(loaded, len(ids))
    for layer in range(shape[0]):
        run.edit("pattern", layer, partial(_add_up, layer, wanted, sums))
    with loaded.lock, torch.no_grad():
        run.run({"input_ids": ids})
    scores = {}
    for name, about in ATTENTION_SCORES.items():
        queries = int(wanted[name].any(-1).sum())
        where = f"{about}; on {len(ids)} sequences of random tokens that repeat"
        scores[name] = HeadScore(name, sums[name] / queries, "share", 0.0, 1.0, queries, where)
    return scores


def repeating(loaded: LoadedModel, sequences: int, seed: int) -> Int[Tensor, "row position"]:
    """[row, position] one token that does not come again, then different random tokens that repeat with a random period.

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
    start = getattr(config, "bos_token_id", None)
    special = set() if loaded.tokenizer is None else set(loaded.tokenizer.all_special_ids)
    used = len(loaded.vocabulary) if loaded.tokenizer is None else min(len(loaded.tokenizer), len(loaded.vocabulary))
    # A token that the head does not score, such as the place of an image, cannot be copied.
    used = min(used, anatomy.d_vocab) if anatomy.has_head else used
    pool = np.array([i for i in range(used) if i not in special and i != start])
    room = _LONGEST_PERIOD if anatomy.context is None else (anatomy.context - 1) // 2
    longest = min(_LONGEST_PERIOD, room, len(pool) - 1)
    if longest < _SHORTEST_PERIOD:
        raise ArgumentError(
            f"{loaded.name!r} reads {anatomy.context} tokens and has {len(pool)} to draw from; a sequence that repeats needs a "
            f"period of {_SHORTEST_PERIOD} at least"
        )
    draw = np.random.default_rng(seed)
    rows = []
    for _ in range(sequences):
        period = int(draw.integers(max(_SHORTEST_PERIOD, longest // 2), longest + 1))
        first, *tokens = draw.choice(pool, period + 1, replace=False)
        # All rows have one length, whatever their period, so that they run as one batch.
        again = np.resize(tokens, 2 * longest)
        rows.append([first if start is None or not 0 <= start < len(loaded.vocabulary) else start, *again])
    return torch.tensor(np.array(rows), device=loaded.device)


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


def _add_up(layer: int, wanted: dict[str, Tensor], sums: dict[str, np.ndarray], pattern: Tensor) -> Tensor:
    """Add the attention that goes to the keys of each score; the pattern stays as it is."""
    for name, keys in wanted.items():
        sums[name][layer] = (
            torch.einsum("rhts,rts->h", upcast(pattern), keys.to(upcast(pattern))).double().cpu().numpy()
        )
    return pattern
