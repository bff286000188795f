"""Backward discovery: from the logits down, estimates shortlist edges and exact patching confirms them.

The search begins with first-order scores, with the QK fix for edges into queries and keys. Once edges out of a sender are
confirmed, real runs of its layer give new estimates for its inputs (:mod:`flowgraph.circuits.responses`). The result holds only
edges that exact patching has confirmed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..interventions.edge_scores import first_order
from ..interventions.network import Into, Reader
from .memory import FOLLOWED
from .pairs import Search
from .responses import Responses, Stage, stages_of

# The first round takes only the surest estimates: edges confirmed there guide the search further down.
_FIRST_LEVEL = 32
_MARGIN = 0.5
"""An estimate is a guess, so edges are tested if their estimate reaches this part of the threshold."""
_FAINT = 0.25
"""The change of a source is followed to the readers behind if it may reach this part of the threshold there."""
_MOVERS = 32
"""The MLP is run for this many sources, those that change its input most; the response to any other source counts as 0."""
_SOFTMAX: tuple[Into, ...] = ("q", "k")


@dataclass(frozen=True, eq=False)
class Found:
    """The result of a search.

    Attributes
    ----------
    effects
        [source, receiver] m(edge corrupted) − m(clean), mean over the prompts; NaN where it is not known.
    chosen
        [source, receiver] True for the edges of the circuit.
    notes
        Entries for the options of the result.
    """

    effects: Float[np.ndarray, "source receiver"]
    chosen: Bool[np.ndarray, "source receiver"]
    notes: dict[str, float | int | str]


def backward_discovery(search: Search, least: float) -> Found:
    """Find the edges whose exact effect is at least ``least`` in size.

    The search tests edges in rounds, the strongest estimates first. Each round goes from the logits down, so the edges that it
    confirms guide it further down. If the budget does not suffice for a round, the round takes only stronger estimates.
    """
    state = _State(search, least)
    level, lowest = _FIRST_LEVEL * least, _MARGIN * least
    while True:
        # The last round starts at the margin itself, however the halving falls.
        level = max(level, lowest)
        bound = state.affordable(level)
        for stage in state.stages:
            state.refine(stage)
            state.test(stage, bound)
        # A round that the budget cut short is the last: estimates below its bound are never reached.
        if bound <= lowest or search.spending.left < search.count:
            return state.found()
        level /= 2


class _State:
    """Estimates, tested edges and confirmed edges."""

    def __init__(self, search: Search, least: float) -> None:
        self.search, self.least = search, least
        self.first = np.zeros(search.possible.shape)
        self.direct_share, self.downstream_effect = np.zeros_like(self.first), np.zeros_like(self.first)
        self.effects = np.full(search.possible.shape, np.nan)
        self.by_prompt: dict[tuple[int, int], np.ndarray] = {}
        self.known: dict[Reader, np.ndarray] = {}
        self.known_receivers: dict[int, frozenset[int]] = {}
        self.responses = [Responses(runs) for runs in search.runs]
        self.stages = stages_of(search.network)
        self._score()

    def _score(self) -> None:
        """First-order scores of every edge; for edges into heads also the heads' real responses to each source."""
        search, network = self.search, self.search.network
        with torch.no_grad():
            for runs in search.runs:
                scores = first_order(network, *runs.backward, runs.changes)
                self.first += scores.double().cpu().numpy() / search.count
            stages = [stage for stage in reversed(self.stages) if stage.is_of_heads]
            for n, stage in enumerate(stages):
                search.tell("scoring every edge", n / len(stages))
                found = [responses.of_heads(stage) for responses in self.responses]
                for reader in stage.readers:
                    self.known[reader] = _joined([one.direct_share[reader] for one in found])
                    if reader.into not in _SOFTMAX:
                        continue
                    effect = np.sum([one.effect[reader].double().cpu().numpy() for one in found], axis=0)
                    # A first-order score sees nothing behind a saturated softmax, so for queries and keys the run of
                    # the layer replaces it.
                    self.first[_rows(reader), reader.columns] = effect / search.count

    def affordable(self, bound: float) -> float:
        """The bound, or a higher one if more edges reach the bound than the budget can test."""
        sizes = np.sort(np.abs(self.estimates()[self._waiting()]))[::-1]
        count = self.search.spending.left // self.search.count
        # Equal estimates may still be more than the budget holds; the test takes the first of them.
        return max(bound, float(sizes[count - 1])) if 0 < count <= len(sizes) else bound

    def test(self, stage: Stage, bound: float) -> None:
        """Cut those edges into some readers whose estimate is large enough, as far as the budget goes."""
        columns = np.concatenate([np.arange(one.columns.start, one.columns.stop) for one in stage.readers])
        estimate = np.abs(self.estimates()[:, columns])
        wanted = np.argwhere(self._waiting()[:, columns] & (estimate >= bound))
        order = np.argsort(-estimate[tuple(wanted.T)], kind="stable")
        affordable = self.search.spending.left // self.search.count
        chosen = [(int(s), int(columns[r])) for s, r in wanted[order[:affordable]]]
        if not chosen:
            return
        self.search.tell(f"cutting edges (≥ {bound:.2g} {self.search.metric.unit})", self._done())
        edges = [self.search.edge(*place) for place in chosen]
        effects = np.concatenate([runs.exact(edges) for runs in self.search.runs], axis=1)
        for place, effect in zip(chosen, effects, strict=True):
            self.by_prompt[place] = effect
            self.effects[place] = effect.mean()

    def estimates(self) -> Float[np.ndarray, "source receiver"]:
        """The largest of the estimates of each edge."""
        # Each estimate is blind in its own way and gives too little there, so the largest counts.
        several = np.stack([self.first, self.direct_share, self.downstream_effect])
        largest = np.abs(several).argmax(0)[None]
        chosen: np.ndarray = np.take_along_axis(several, largest, axis=0)[0]
        return chosen

    def refine(self, stage: Stage) -> None:
        """Estimate the inputs of a layer's senders again, if edges out of them were confirmed since the last estimate."""
        changed = [
            source
            for source in stage.senders
            if self._receivers(source) != self.known_receivers.get(source, frozenset())
        ]
        if not changed:
            return
        self.search.tell("running readers anew", self._done())
        with torch.no_grad():
            # The new edges alone, for the estimate that adds up; `seen` then holds all of them, for the estimate by
            # recall.
            new_receivers = {
                source: self._receivers(source) - self.known_receivers.get(source, frozenset()) for source in changed
            }
            for source in changed:
                self.known_receivers[source] = self._receivers(source)
            for reader in stage.readers:
                self._refine_recall(stage, reader)
                for source in changed:
                    self._refine_downstream(stage, reader, source, new_receivers[source])

    def found(self) -> Found:
        """All tested edges, and those of them that are large enough."""
        chosen = np.abs(np.nan_to_num(self.effects)) >= self.least
        waiting = self._waiting() & (np.abs(self.estimates()) >= _MARGIN * self.least)
        notes: dict[str, float | int | str] = {"tested": len(self.by_prompt), "untested": int(waiting.sum())}
        return Found(self.effects, chosen, notes)

    def _waiting(self) -> Bool[np.ndarray, "source receiver"]:
        """Edges of the model that were not tested."""
        waiting: np.ndarray = np.isnan(self.effects) & self.search.possible
        return waiting

    def _receivers(self, source: int) -> frozenset[int]:
        return frozenset(np.flatnonzero(np.abs(np.nan_to_num(self.effects[source])) >= self.least).tolist())

    def _refine_recall(self, stage: Stage, reader: Reader) -> None:
        """Estimate edges into a layer: recall × exact effects of the edges out of each sender."""
        direct_share = self._direct_share(stage, reader)
        rows, columns = _rows(reader), reader.columns
        # Recall is worked out over all confirmed edges anew, so it starts from nothing; the other estimate only adds
        # the new ones.
        self.direct_share[rows, columns] = 0.0
        for n in range(direct_share.shape[1]):
            source = stage.senders[n]
            receivers = self.known_receivers.get(source, frozenset())
            # Recall is a part of each prompt's change and goes with that prompt's effect: a product of means would lose
            # how they go together.
            effect = sum((self.by_prompt[source, out] for out in receivers), np.zeros(self.search.count))
            self.direct_share[rows, columns.start + n // reader.group] += (direct_share[:, n] * effect).mean(1)

    def _direct_share(self, stage: Stage, reader: Reader) -> Float[np.ndarray, "source n prompt"]:
        if reader not in self.known:
            moved = np.sum([one.moved_of_mlp(reader).double().cpu().numpy() for one in self.responses], axis=0)
            movers = torch.from_numpy(np.sort(np.argsort(-moved, kind="stable")[:_MOVERS]))
            self.known[reader] = _joined([one.recall_of_mlp(stage, movers) for one in self.responses])
        return self.known[reader]

    def _refine_downstream(self, stage: Stage, reader: Reader, source: int, new_receivers: frozenset[int]) -> None:
        """Add the effect that a sender's inputs have through it on the readers of the newly confirmed edges."""
        head = stage.senders.index(source)
        carried = sum(abs(float(self.effects[source, out])) for out in self.known_receivers[source])
        direct_share = np.abs(self._direct_share(stage, reader)[:, head]).mean(1)
        # A run for every source of every reader would cost more than the exact tests it saves. Recall tells which
        # sources matter.
        likely = np.argsort(-direct_share, kind="stable")[:FOLLOWED]
        # Recall times all confirmed effects of the sender estimates the most that a source can carry through it.
        likely = likely[direct_share[likely] * carried >= _FAINT * self.least]
        if not new_receivers or not len(likely):
            return
        senders, total = torch.from_numpy(likely.copy()), np.zeros(len(likely))
        _, writer = self.search.network.tower_of(source)
        for responses in self.responses:
            change = responses.mlp(reader, senders) if reader.into == "mlp" else responses.head(reader, head, senders)
            for behind, receivers in self._readers(new_receivers).items():
                found = responses.downstream_effect(change, writer, behind, receivers)
                total += found.double().cpu().numpy()
        column = reader.columns.start + head // reader.group
        self.downstream_effect[reader.reads.start + likely, column] += total / self.search.count

    def _readers(self, receivers: frozenset[int]) -> dict[Reader, list[int]]:
        """Reader → those of its receivers that edges end in."""
        readers: dict[Reader, list[int]] = {}
        for out in sorted(receivers):
            reader = next(one for one in self.search.network.readers if out < one.columns.stop)
            readers.setdefault(reader, []).append(out - reader.columns.start)
        return readers

    def _done(self) -> float:
        spending = self.search.spending
        return min(1.0, spending.forwards / max(1, spending.budget))


def _rows(reader: Reader) -> slice:
    """The senders that a reader may read, among those of all towers."""
    return slice(reader.reads.start, reader.reads.start + reader.before)


def _joined(parts: Sequence[Tensor]) -> Float[np.ndarray, "source n prompt"]:
    """The prompts of all parts, one after the other."""
    joined: np.ndarray = torch.cat(list(parts), -1).double().cpu().numpy()
    return joined
