"""Backward discovery: from the logits down, estimates shortlist edges and exact patching confirms them.

The search begins with first-order scores, with the QK fix for edges into queries and keys. Once edges out of a sender are
confirmed, real runs of its layer give new estimates for its inputs (:mod:`flowgraph.circuits.responses`). The result holds only
edges that exact patching has confirmed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..interventions.edge_scores import columns_of, first_order
from ..interventions.edges import Into
from .memory import FOLLOWED
from .pairs import Search
from .responses import Responses

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
        for layer, intos in state.order():
            state.refine(layer, intos)
            state.test(layer, intos, bound)
        # A round that the budget cut short is the last: estimates below its bound are never reached.
        if bound <= lowest or search.spending.left < search.count:
            return state.found()
        level /= 2


class _State:
    """Estimates, tested edges and confirmed edges."""

    def __init__(self, search: Search, least: float) -> None:
        self.search, self.least, self.anatomy = search, least, search.loaded.anatomy
        self.first = np.zeros(search.possible.shape)
        self.direct_share, self.downstream_effect = np.zeros_like(self.first), np.zeros_like(self.first)
        self.effects = np.full(search.possible.shape, np.nan)
        self.by_prompt: dict[tuple[int, int], np.ndarray] = {}
        self.known: dict[tuple[int, str], dict[Into, np.ndarray]] = {}
        self.known_receivers: dict[int, frozenset[int]] = {}
        self.responses = [Responses(runs) for runs in search.runs]
        self._score()

    def _score(self) -> None:
        """First-order scores of every edge; for edges into heads also the heads' real responses to each source."""
        search, layers = self.search, len(self.anatomy.blocks)
        with torch.no_grad():
            for runs in search.runs:
                self.first += first_order(runs.backward[0], runs.changes).double().cpu().numpy() / search.count
            for layer in range(layers):
                search.tell("scoring every edge", layer / layers)
                found = [responses.of_heads(layer) for responses in self.responses]
                self.known[layer, "heads"] = _joined([one.direct_share for one in found])
                for into in _SOFTMAX:
                    effect = np.sum([one.effect[into].double().cpu().numpy() for one in found], axis=0)
                    # A first-order score sees nothing behind a saturated softmax, so for queries and keys the run of
                    # the layer replaces it.
                    self.first[: len(effect), columns_of(self.anatomy, layer, into)] = effect / search.count

    def order(self) -> Iterator[tuple[int, tuple[Into, ...]]]:
        """Readers from the logits down."""
        layers = len(self.anatomy.blocks)
        yield layers, ("logits",)
        for layer in reversed(range(layers)):
            yield layer, ("mlp",)
            yield layer, ("q", "k", "v")

    def affordable(self, bound: float) -> float:
        """The bound, or a higher one if more edges reach the bound than the budget can test."""
        sizes = np.sort(np.abs(self.estimates()[self._waiting()]))[::-1]
        count = self.search.spending.left // self.search.count
        # Equal estimates may still be more than the budget holds; the test takes the first of them.
        return max(bound, float(sizes[count - 1])) if 0 < count <= len(sizes) else bound

    def test(self, layer: int, intos: tuple[Into, ...], bound: float) -> None:
        """Cut those edges into some readers whose estimate is large enough, as far as the budget goes."""
        columns = np.concatenate([np.arange(*columns_of(self.anatomy, layer, into).indices(10**9)) for into in intos])
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

    def refine(self, layer: int, intos: tuple[Into, ...]) -> None:
        """Estimate the inputs of a layer's senders again, if edges out of them were confirmed since the last estimate."""
        if layer == len(self.anatomy.blocks):
            return
        first = 1 + layer * (self.anatomy.n_heads + 1)
        places = range(first, first + self.anatomy.n_heads)
        if intos == ("mlp",):
            places = range(places.stop, places.stop + 1)
        changed = [
            source for source in places if self._receivers(source) != self.known_receivers.get(source, frozenset())
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
            for into in intos:
                self._refine_recall(layer, into)
                for source in changed:
                    self._refine_downstream(layer, into, source, new_receivers[source])

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

    def _refine_recall(self, layer: int, into: Into) -> None:
        """Estimate edges into a layer: recall × exact effects of the edges out of each sender."""
        direct_share = self._direct_share(layer, into)
        columns = columns_of(self.anatomy, layer, into)
        group = self.anatomy.n_heads // self.anatomy.n_kv_heads if into in ("k", "v") else 1
        before = len(direct_share)
        # Recall is worked out over all confirmed edges anew, so it starts from nothing; the other estimate only adds
        # the new ones.
        self.direct_share[:before, columns] = 0.0
        for n in range(direct_share.shape[1]):
            source = self._source(layer, into, n)
            receivers = self.known_receivers.get(source, frozenset())
            # Recall is a part of each prompt's change and goes with that prompt's effect: a product of means would lose
            # how they go together.
            effect = sum((self.by_prompt[source, out] for out in receivers), np.zeros(self.search.count))
            self.direct_share[:before, columns.start + n // group] += (direct_share[:, n] * effect).mean(1)

    def _source(self, layer: int, into: Into, n: int) -> int:
        first = 1 + layer * (self.anatomy.n_heads + 1)
        return first + (self.anatomy.n_heads if into == "mlp" else n)

    def _direct_share(self, layer: int, into: Into) -> Float[np.ndarray, "source n prompt"]:
        if into != "mlp":
            return self.known[layer, "heads"][into]
        if (layer, "mlp") not in self.known:
            moved = np.sum([one.moved_of_mlp(layer).double().cpu().numpy() for one in self.responses], axis=0)
            movers = torch.from_numpy(np.sort(np.argsort(-moved, kind="stable")[:_MOVERS]))
            self.known[layer, "mlp"] = _joined([{into: one.recall_of_mlp(layer, movers)} for one in self.responses])
        return self.known[layer, "mlp"][into]

    def _refine_downstream(self, layer: int, into: Into, source: int, new_receivers: frozenset[int]) -> None:
        """Add the effect that a sender's inputs have through it on the readers of the newly confirmed edges."""
        head = 0 if into == "mlp" else source - self._source(layer, "q", 0)
        carried = sum(abs(float(self.effects[source, out])) for out in self.known_receivers[source])
        direct_share = np.abs(self._direct_share(layer, into)[:, head]).mean(1)
        # A run for every source of every reader would cost more than the exact tests it saves. Recall tells which
        # sources matter.
        likely = np.argsort(-direct_share, kind="stable")[:FOLLOWED]
        # Recall times all confirmed effects of the sender estimates the most that a source can carry through it.
        likely = likely[direct_share[likely] * carried >= _FAINT * self.least]
        if not new_receivers or not len(likely):
            return
        senders, total = torch.from_numpy(likely.copy()), np.zeros(len(likely))
        for responses in self.responses:
            change = responses.mlp(layer, senders) if into == "mlp" else responses.head(layer, head, into, senders)
            for (reader, reads), heads in self._readers(new_receivers).items():
                total += responses.downstream_effect(change, reader, reads, heads).double().cpu().numpy()
        group = self.anatomy.n_heads // self.anatomy.n_kv_heads if into in ("k", "v") else 1
        column = columns_of(self.anatomy, layer, into).start + head // group
        self.downstream_effect[likely, column] += total / self.search.count

    def _readers(self, receivers: frozenset[int]) -> dict[tuple[int | None, Into], list[int]]:
        """(layer, what reads) → the heads that edges end in; head 0 stands for MLP and logits."""
        readers: dict[tuple[int | None, Into], list[int]] = {}
        for out in sorted(receivers):
            node, reads = self.search.receivers[out]
            readers.setdefault((node.layer, reads), []).append(node.head or 0)
        return readers

    def _done(self) -> float:
        spending = self.search.spending
        return min(1.0, spending.forwards / max(1, spending.budget))


def _joined(parts: Sequence[Mapping[Into, Tensor]]) -> dict[Into, np.ndarray]:
    """One array for each kind of input: the prompts of all parts, one after the other."""
    return {name: torch.cat([part[name] for part in parts], -1).double().cpu().numpy() for name in parts[0]}
