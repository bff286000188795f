"""First-order scores of every edge: from gradients of the clean run, or of runs on the way to the corrupted one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ..interventions.ablation import answer_logits, answer_tokens_of
from ..interventions.edge_scores import first_order, fix_softmax, products, pulled_parts
from ..interventions.gradients import backward
from ..interventions.network import KeptOf, Reader
from ..interventions.passes import Pass
from ..interventions.prompts import Batch
from ..interventions.senders import keep_senders, kept_of
from ..models.hooks import on_call
from .bands import draws_of
from .pairs import Pairs, Search

_SURE, _AT_ONCE = 0.975, 4096
"""Part of the draws that has to agree on a sign; edges that are drawn together."""
Points = Literal["left", "right", "midpoint"]
POINTS: tuple[Points, ...] = get_args(Points)


def ways(points: Points, steps: int) -> list[float]:
    """Where gradients are taken, as parts of the way from the clean embeddings to the corrupted ones, ascending."""
    shift = {"left": 1.0, "right": 0.0, "midpoint": 0.5}[points]
    return [(step + shift) / steps for step in range(steps)]


@dataclass(frozen=True, eq=False)
class Scores:
    """Estimated m(edge corrupted) − m(clean) of every edge, mean over the prompts, and the metric of the two runs."""

    scores: Float[np.ndarray, "source receiver"]
    clean: Float[np.ndarray, "prompt"]
    corrupted: Float[np.ndarray, "prompt"]
    by_part: Float[np.ndarray, "part source receiver"] | None = None


def attribution(
    search: Search, *, steps: int = 1, points: Points = "right", qk_fix: bool = False, by_part: bool = False
) -> Scores:
    """Score every edge of the model by change · gradient.

    Parameters
    ----------
    search
        ``how="zero"`` makes the change −activation, so that the score is activation × gradient.
    steps
        Gradients are means over this many runs whose embeddings lie on the line from the clean to the corrupted prompt.
    points
        Where on it: at the corrupted end of each of ``steps`` equal parts (``"left"``, for the line is walked from the corrupted prompt
        to the clean one), at the clean end (``"right"``; one step is the clean run alone, EAP), or in the middle.
    qk_fix
        Score edges into queries and keys by a softmax that is run anew, whatever ``steps``.
    by_part
        Keep the sum of each part of the prompts as well.
    """
    scores = np.zeros(search.possible.shape)
    kept = np.zeros((len(search.parts), *scores.shape)) if by_part else None
    ends = []
    for n, pairs in enumerate(search.parts):

        def tell(done: float, n: int = n) -> None:
            search.tell("scoring every edge", (n + done) / len(search.parts))

        tell(0.0)
        found, *values = _of_part(search, pairs, ways(points, steps), qk_fix, tell)
        of_part = found.double().cpu().numpy()
        scores += of_part
        if kept is not None:
            kept[n] = of_part
        ends.append([value.double().cpu().numpy() for value in values])
    clean, corrupted = map(np.concatenate, zip(*ends, strict=True))
    return Scores(scores / search.count, clean, corrupted, kept)


def is_sure(
    by_prompt: Float[np.ndarray, "prompt source receiver"], draws: int, seed: int
) -> Bool[np.ndarray, "source receiver"]:
    """Where the mean over prompts has one sign in at least 97.5 % of the draws of as many prompts, with replacement.

    These are the edges whose middle 95 % of the draws does not hold 0.
    """
    drawn_prompts = draws_of(len(by_prompt), draws, seed)
    assert drawn_prompts is not None  # draws of one prompt were refused
    weights, shape = drawn_prompts.astype(float), by_prompt.shape[1:]
    flat = by_prompt.reshape(len(by_prompt), -1)
    above, below = np.zeros(flat.shape[1]), np.zeros(flat.shape[1])
    for start in range(0, flat.shape[1], _AT_ONCE):
        drawn = weights @ flat[:, start : start + _AT_ONCE]
        above[start : start + _AT_ONCE], below[start : start + _AT_ONCE] = (drawn > 0).mean(0), (drawn < 0).mean(0)
    sure: np.ndarray = (np.maximum(above, below) >= _SURE).reshape(shape)
    return sure


def _of_part(
    search: Search, pairs: Pairs, at: list[float], qk_fix: bool, tell: Callable[[float], None]
) -> tuple[Tensor, Tensor, Tensor]:
    loaded, network = search.loaded, search.network
    # The clean run is one of the points, or is run for its outputs and its answers alone.
    at_clean = (
        backward(loaded, pairs.clean, search.metric, extra=("pattern", "v") if qk_fix else ()) if at[0] == 0 else None
    )
    search.spending.forwards += len(pairs)
    with torch.no_grad():
        if at_clean is not None:
            search.spending.backwards += len(pairs)
            kept, answers, values = at_clean[1].kept, at_clean[1].answers, at_clean[0].values
        else:
            kept, logits = _run(search, pairs.clean)
            answers = answer_tokens_of(pairs.clean, logits)
            values = search.metric(logits, answers)
        theirs, other_logits = _run(search, pairs.corrupted)
        corrupted = search.metric(other_logits, answers)
        changes = search.changes(kept, theirs)
    search.spending.forwards += len(pairs)
    start = {name: of_tower["resid_pre", 0] for name, of_tower in kept.items()}
    if at == [0.0]:
        assert at_clean is not None
        with torch.no_grad():
            scores = first_order(network, *at_clean, changes)
            if qk_fix:
                fix_softmax(loaded, network, *at_clean, changes=changes, scores=scores, tell=tell)
                search.spending.layer_runs += softmax_runs(search, pairs)
        return scores, values, corrupted
    # Scores are linear in the gradients: these are summed, and multiplied once.
    summed: dict[Reader, list[tuple[slice, Tensor]]] = {}
    for n, part in enumerate(at):
        tell(n / len(at))
        found = at_clean if part == 0 else None
        if found is None:
            with ExitStack() as entering:
                for tower in network.towers.values():
                    embed = theirs[tower.name]["resid_pre", 0] - start[tower.name]
                    states = start[tower.name] + part * embed
                    entering.enter_context(_entering(tower.anatomy.blocks[0].module, states))
                found = backward(loaded, pairs.clean, search.metric, answers=answers)
            search.spending.forwards += len(pairs)
            search.spending.backwards += len(pairs)
        _add(summed, {reader: pulled_parts(*found, reader) for reader in network.readers})
    with torch.no_grad():
        scores = products(network, summed.__getitem__, changes) / len(at)
    return scores, values, corrupted


def _add(summed: dict[Reader, list[tuple[slice, Tensor]]], further: dict[Reader, list[tuple[slice, Tensor]]]) -> None:
    """Add gradients, in place once there are some."""
    if not summed:
        summed.update(further)
        return
    for reader, parts in summed.items():
        for (_, total), (_, part) in zip(parts, further[reader], strict=True):
            total += part


def _run(search: Search, batch: Batch) -> tuple[KeptOf, Tensor]:
    """What the senders wrote in a pass, and the logits of its answers."""
    run = Pass(search.loaded, len(batch))
    keep_senders(run, search.network)
    logits = answer_logits(search.loaded, run.run(batch.feed), batch.positions)
    return kept_of(run, search.network), logits


def softmax_runs(search: Search, pairs: Pairs) -> int:
    """How many attentions the QK fix runs: for each sender that queries or keys read, for each prompt."""
    return len(pairs) * sum(reader.before for reader in search.network.readers if reader.into in ("q", "k"))


@contextmanager
def _entering(block: nn.Module, states: Float[Tensor, "prompt position d_model"]) -> Iterator[None]:
    """The first block reads these states in place of the embeddings."""

    def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        # Families differ in whether a block takes its states by position or by name.
        if args:
            return (states.to(args[0].dtype), *args[1:]), kwargs
        name = next(iter(kwargs))
        return args, {**kwargs, name: states.to(kwargs[name].dtype)}

    handle = on_call(block, hook)
    try:
        yield
    finally:
        handle.remove()
