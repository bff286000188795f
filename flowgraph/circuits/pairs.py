"""Pairs of clean and corrupted prompts for the search of a circuit, and the cost of the search."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float

from ..errors import ArgumentError, CancelledError
from ..interventions.ablation import one_for_each
from ..interventions.edge_effects import Cuts
from ..interventions.edges import Edge
from ..interventions.gradients import Forward, Gradients, backward
from ..interventions.metrics import Metric
from ..interventions.network import LAST, Into, KeptOf, Network
from ..interventions.prompts import Answers, Batch, Lengths, Prompts, batch_of, prompts_of
from ..interventions.senders import Changed, emptied, written_change
from ..models import LoadedModel
from ..models.wheel import Progress
from ..tasks import TaskData
from ..values.inputs import inputs
from ..values.node import Node
from .runs import written_on_average

# A gap below this part of the clean metric is rounding of 32-bit logits.
_SMALLEST_GAP = 1e-6


@dataclass(frozen=True, eq=False)
class Pairs:
    """Clean and corrupted prompts, all of one length."""

    clean: Batch
    corrupted: Batch

    def __len__(self) -> int:
        return len(self.clean)

    def split(self, at_once: int) -> Iterator[Pairs]:
        """Parts of at most ``at_once`` pairs."""
        for start in range(0, len(self), at_once):
            rows = slice(start, start + at_once)
            yield Pairs(self.clean.part(rows), self.corrupted.part(rows))


@dataclass
class Spending:
    """Number of runs so far; a run of a batch counts once for each prompt.

    Attributes
    ----------
    budget
        Most forwards.
    forwards
        Passes that ended in logits: from the tokens on, or resumed at a layer.
    backwards
        Backward passes.
    layer_runs
        Estimates: passes through the attention or the MLP of one layer alone.
    """

    budget: int
    forwards: int = 0
    backwards: int = 0
    layer_runs: int = 0

    @property
    def left(self) -> int:
        """Forwards that may still be run."""
        return max(0, self.budget - self.forwards)


@dataclass(eq=False)
class Search:
    """A model, its prompts and the question: the common part of all discovery methods.

    Attributes
    ----------
    parts
        The prompts, those of one length together, as many as fit into memory.
    how
        ``"resample"``: a cut edge brings its source's output in the corrupted run; ``"mean"``: the mean output over the corrupted
        runs of that length; ``"zero"``: zeros.
    """

    loaded: LoadedModel
    network: Network
    parts: list[Pairs]
    metric: Metric
    how: str
    spending: Spending
    progress: Progress | None = None
    cancel: Callable[[], bool] | None = None
    sources: tuple[Node, ...] = field(init=False)
    receivers: tuple[tuple[Node, Into], ...] = field(init=False)
    possible: Bool[np.ndarray, "source receiver"] = field(init=False)
    _average: tuple[Lengths, Changed] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.sources, self.receivers = self.network.senders, self.network.receivers
        self.possible = self.network.possible.numpy()

    @property
    def count(self) -> int:
        """Number of prompts."""
        return sum(map(len, self.parts))

    def tell(self, stage: str, done: float | None) -> None:
        """Report progress, and stop if that was asked for.

        Raises
        ------
        CancelledError
            If ``cancel`` said so.
        """
        if self.cancel is not None and self.cancel():
            raise CancelledError(f"the search for a circuit was cancelled while {stage}")
        if self.progress is not None:
            self.progress(stage, done)

    def average(self, lengths: Lengths) -> Changed:
        """Name of a tower → [source, 1, position, d_model] mean output of the sources over the corrupted runs of a length.

        The average of one length is held at a time.
        """
        # Averages of all lengths at once would not fit; prompts come by length, so each is made about once.
        if self._average is None or self._average[0] != lengths:
            self._average = None
            batches = [pairs.corrupted for pairs in self.parts if pairs.clean.lengths == lengths]
            self.spending.forwards += sum(map(len, batches))
            self._average = lengths, written_on_average(self.loaded, self.network, batches)
        return self._average[1]

    def changes(self, clean: KeptOf, corrupted: KeptOf) -> Changed:
        """Name of a tower → [source, prompt, position, d_model] change of each source's output, as readers see it, when its edges are cut."""
        if self.how == "resample":
            return written_change(self.network, clean, corrupted)
        negative = emptied(self.network, clean)
        if self.how == "zero":
            return negative
        source = next((made.shape[2] for name, made in negative.items() if name != LAST), 0)
        average = self.average((negative[LAST].shape[2], source))
        return {name: made.add_(average[name]) for name, made in negative.items()}

    def edge(self, source: int, receiver: int) -> Edge:
        """The edge from one source into one receiver, by their numbers."""
        return Edge(self.sources[source], *self.receivers[receiver])

    @cached_property
    def runs(self) -> list[Runs]:
        """Clean and corrupted runs of every part."""
        return [Runs(self, pairs) for pairs in self.parts]

    def gap_of(self, clean: Float[np.ndarray, "prompt"], corrupted: Float[np.ndarray, "prompt"]) -> float:
        """Mean metric of the clean runs less that of the corrupted ones.

        Raises
        ------
        ArgumentError
            If there is none.
        """
        gap = float(clean.mean() - corrupted.mean())
        if abs(gap) <= _SMALLEST_GAP * max(1.0, float(np.abs(clean).mean())):
            raise ArgumentError(
                f"the corrupted prompts change nothing: their {self.metric.name} is {corrupted.mean():.4g} on average, that of "
                f"the clean ones {clean.mean():.4g}, so no edge has an effect to be found; corrupt what the answer depends on"
            )
        return gap


class Runs:
    """The clean and the corrupted run of some prompts: the senders' outputs, gradients, exact effects of edges."""

    def __init__(self, search: Search, pairs: Pairs) -> None:
        self.search, self.pairs = search, pairs
        with torch.no_grad():
            # One pass for both runs: equal rows then round alike, and their difference is exact where nothing changes.
            both = pairs.clean.with_others(pairs.corrupted)
            self.cuts = Cuts(search.loaded, search.network, pairs.clean, both, search.changes, search.metric)
        search.spending.forwards += 2 * len(pairs)

    @property
    def changes(self) -> Changed:
        """As of :meth:`Search.changes`."""
        return self.cuts.changes

    # Made when first asked for: methods that never take gradients then pay for none.
    @cached_property
    def backward(self) -> tuple[Gradients, Forward]:
        """Gradients of the clean run, and what it kept: patterns and values as well."""
        self.search.spending.forwards += len(self.pairs)
        self.search.spending.backwards += len(self.pairs)
        return backward(self.search.loaded, self.pairs.clean, self.search.metric, extra=("pattern", "v"))

    def exact(self, edges: list[Edge]) -> Float[np.ndarray, "edge prompt"]:
        """m(edge corrupted) − m(clean), each edge cut by itself."""
        self.search.spending.forwards += len(edges) * len(self.pairs)
        with torch.no_grad():
            return self.cuts.run(edges, None, self.search.cancel).by_prompt


def pairs_of(
    loaded: LoadedModel,
    clean: Prompts | None,
    corrupted: Prompts | None,
    *,
    target: Answers,
    foil: Answers,
    data: TaskData | None,
) -> list[Pairs]:
    """The prompts, those of one length together; given as prompts they have to be of one length.

    Raises
    ------
    ArgumentError
        If both prompts and data are given, or neither.
    """
    if data is None:
        if clean is None or corrupted is None:
            raise ArgumentError("give clean= and corrupted= prompts, or data= with examples of a task")
        return [_pairs(loaded, clean, corrupted, target, foil)]
    if any(given is not None for given in (clean, corrupted, target, foil)):
        raise ArgumentError("data= brings its own prompts and answers; leave clean=, corrupted=, target= and foil= out")
    return [
        _pairs(
            loaded,
            [inputs(example.clean) for example in examples],
            [inputs(example.corrupted) for example in examples],
            [example.target for example in examples],
            [example.foil for example in examples],
        )
        for examples in data.checked(loaded).of_lengths(loaded).values()
    ]


def _pairs(loaded: LoadedModel, clean: Prompts, corrupted: Prompts, target: Any, foil: Any) -> Pairs:
    found = prompts_of(loaded, clean, "clean", target=target, foil=foil)
    others = one_for_each(found, prompts_of(loaded, corrupted, "corrupted"), "corrupted")
    both = batch_of(loaded, [*found, *others], "clean and corrupted")
    return Pairs(both.part(slice(len(found))), both.part(slice(len(found), None)))
