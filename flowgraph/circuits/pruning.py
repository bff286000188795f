"""ACDC: take edges away one after the other, from the logits down, while the answer stays what it is."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float

from ..errors import ArgumentError
from ..interventions.ablation import answer_logits, answer_tokens_of
from ..interventions.passes import Pass
from .backward import Found
from .pairs import Pairs, Search
from .runs import KeptEdges, written_in

ALL_BELOW = 5000
"""Models with fewer edges are pruned edge by edge from the whole model on."""


def prune_greedily(
    search: Search, scores: Float[np.ndarray, "source receiver"], least: float, *, shortlist: int
) -> Found:
    """Keep the edges of a shortlist that change the metric by at least ``least`` when they are taken away as well.

    Edges off the shortlist are taken away at the start. The pruning goes through the readers from the logits down, and through
    the edges into a reader from the smallest score up. Edges into a node that no longer leads to the logits go without a run.
    """
    pruning = _Pruning(search)
    listed = _shortlist(search, scores, shortlist)
    kept, effects = listed.copy(), np.full(scores.shape, np.nan)
    now = pruning.measure(kept)
    start = now
    receivers = list(range(len(search.receivers)))[::-1]
    for done, receiver in enumerate(receivers):
        for source in np.argsort(np.abs(scores[:, receiver]), kind="stable").tolist():
            if not kept[source, receiver]:
                continue
            # No run is needed: what nobody reads changes nothing.
            if not pruning.leads_on(receiver, kept):
                kept[source, receiver] = False
                continue
            search.tell("taking edges away", done / len(receivers))
            kept[source, receiver] = False
            without = pruning.measure(kept)
            effects[source, receiver] = without - now
            if abs(without - now) >= least:
                kept[source, receiver] = True
            else:
                # The circuit without the edge is the new one, and the next edge is compared with it.
                now = without
    notes: dict[str, float | int | str] = {
        "tested": int((~np.isnan(effects)).sum()),
        "shortlist": int(listed.sum()),
        "metric_of_shortlist": float(start),
        "metric_of_circuit": float(now),
    }
    return Found(effects, kept, notes)


def _shortlist(search: Search, scores: np.ndarray, most: int) -> Bool[np.ndarray, "source receiver"]:
    """Every edge of a small model, else those with the largest scores; never more than the budget can test."""
    # One run is needed before the first edge is taken away.
    affordable = search.spending.left // search.count - 1
    if affordable < 1:
        raise ArgumentError(
            f"budget={search.spending.budget} forwards do not suffice to take away one edge for {search.count} prompts; at least "
            f"{search.spending.forwards + 2 * search.count} are needed"
        )
    total = int(search.possible.sum())
    wanted = min(total if total < ALL_BELOW else most, affordable)
    size = np.where(search.possible, np.abs(scores), -1.0)
    chosen = np.zeros_like(search.possible)
    chosen.flat[np.argsort(-size, axis=None, kind="stable")[:wanted]] = True
    return chosen


class _Pruning:
    """Runs of all prompts in which only some edges are left."""

    def __init__(self, search: Search) -> None:
        self.search, self.network = search, search.network
        with torch.no_grad():
            self.parts = [(pairs, *self._recorded(pairs)) for pairs in search.parts]

    def measure(self, kept: Bool[np.ndarray, "source receiver"]) -> float:
        """Mean metric with all other edges cut."""
        mask, total = torch.from_numpy(kept.copy()), 0.0
        for pairs, answers, reference in self.parts:
            self.search.spending.forwards += len(pairs)
            with torch.no_grad():
                run = Pass(self.search.loaded, len(pairs))
                KeptEdges(run, self.network, reference, mask).install()
                states = run.run(pairs.clean.feed)
                logits = answer_logits(self.search.loaded, states, pairs.clean.positions)
                total += float(self.search.metric(logits, answers).double().sum())
        return total / self.search.count

    def leads_on(self, receiver: int, kept: Bool[np.ndarray, "source receiver"]) -> bool:
        """Whether an edge that is left reads the output of a reader's node."""
        reader = next(one for one in self.network.readers if receiver < one.columns.stop)
        if reader.into == "logits":
            return True
        writers = reader.writers(receiver - reader.columns.start)
        start = reader.owner.start
        return bool(kept[start + writers.start : start + writers.stop].any())

    def _recorded(self, pairs: Pairs) -> tuple[Any, Any]:
        """Answers of the clean run, and the senders' outputs in the corrupted one."""
        loaded = self.search.loaded
        states = Pass(loaded, len(pairs)).run(pairs.clean.feed)
        self.search.spending.forwards += len(pairs)
        answers = answer_tokens_of(pairs.clean, answer_logits(loaded, states, pairs.clean.positions))
        if self.search.how != "resample":
            return answers, self.search.average(pairs.clean.lengths) if self.search.how == "mean" else None
        self.search.spending.forwards += len(pairs)
        return answers, written_in(loaded, self.network, pairs.corrupted)
