"""First-order scores of every edge: from gradients of the clean run, or of runs on the way to the corrupted one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..interventions.ablation import answer_logits
from ..interventions.edge_scores import first_order, fix_softmax, products, pulled_parts
from ..interventions.gradients import Forward, Gradients, backward
from ..interventions.passes import Pass
from ..interventions.senders import keep_senders, kept_of
from ..models.hooks import on_call
from .pairs import Pairs, Search


@dataclass(frozen=True, eq=False)
class Scores:
    """Estimated m(edge corrupted) − m(clean) of every edge, mean over the prompts, and the metric of the two runs."""

    scores: Float[np.ndarray, "source receiver"]
    clean: Float[np.ndarray, "prompt"]
    corrupted: Float[np.ndarray, "prompt"]


def attribution(search: Search, *, steps: int = 1, qk_fix: bool = False) -> Scores:
    """Score every edge of the model by change · gradient.

    Parameters
    ----------
    search
        ``how="zero"`` makes the change −activation, so that the score is activation × gradient.
    steps
        Gradients are means over this many runs whose embeddings lie on the line from the clean to the corrupted prompt, its
        left ends: 1 is the clean run alone (EAP).
    qk_fix
        Score edges into queries and keys by a softmax that is run anew, whatever ``steps``.
    """
    scores = np.zeros(search.possible.shape)
    ends = []
    for n, pairs in enumerate(search.parts):

        def tell(done: float, n: int = n) -> None:
            search.tell("scoring every edge", (n + done) / len(search.parts))

        tell(0.0)
        found, *values = _of_part(search, pairs, steps, qk_fix, tell)
        scores += found.double().cpu().numpy()
        ends.append([value.double().cpu().numpy() for value in values])
    return Scores(scores / search.count, *map(np.concatenate, zip(*ends, strict=True)))


def _of_part(
    search: Search, pairs: Pairs, steps: int, qk_fix: bool, tell: Callable[[float], None]
) -> tuple[Tensor, Tensor, Tensor]:
    loaded, network = search.loaded, search.network
    grads, forward = _gradients(search, pairs, extra=("pattern", "v") if qk_fix else ())
    with torch.no_grad():
        run = Pass(loaded, len(pairs))
        keep_senders(run, network)
        states = run.run(pairs.corrupted.feed)
        corrupted = search.metric(answer_logits(loaded, states, pairs.corrupted.positions), forward.answers)
        theirs = kept_of(run, network)
        changes = search.changes(forward.kept, theirs)
    search.spending.forwards += len(pairs)
    start = {name: kept["resid_pre", 0] for name, kept in forward.kept.items()}
    # Scores are linear in the gradients: these are summed, and multiplied once.
    summed = {reader: pulled_parts(grads, forward, reader) for reader in network.readers} if steps > 1 else {}
    # Step 0 is the clean run, whose gradients are there already.
    for step in range(1, steps):
        tell(step / steps)
        with ExitStack() as entering:
            for tower in network.towers.values():
                embed = theirs[tower.name]["resid_pre", 0] - start[tower.name]
                states = start[tower.name] + (step / steps) * embed
                entering.enter_context(_entering(tower.anatomy.blocks[0].module, states))
            further, at_step = _gradients(search, pairs)
        for reader, parts in summed.items():
            for (_, total), (_, part) in zip(parts, pulled_parts(further, at_step, reader), strict=True):
                total += part
    with torch.no_grad():
        if summed:
            scores = products(network, summed.__getitem__, changes) / steps
        else:
            scores = first_order(network, grads, forward, changes)
        if qk_fix:
            fix_softmax(loaded, network, grads, forward, changes=changes, scores=scores, tell=tell)
            search.spending.layer_runs += softmax_runs(search, pairs)
    return scores, grads.values, corrupted


def softmax_runs(search: Search, pairs: Pairs) -> int:
    """How many attentions the QK fix runs: for each sender that queries or keys read, for each prompt."""
    return len(pairs) * sum(reader.before for reader in search.network.readers if reader.into in ("q", "k"))


def _gradients(search: Search, pairs: Pairs, extra: tuple[str, ...] = ()) -> tuple[Gradients, Forward]:
    search.spending.forwards += len(pairs)
    search.spending.backwards += len(pairs)
    return backward(search.loaded, pairs.clean, search.metric, extra=extra)


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
