"""Completeness and minimality: whether a circuit has all heads that matter, and only those.

The test takes heads out of the circuit (all heads outside it ablated) and out of the whole model. F is the mean metric over the
prompts, C the circuit's heads, M all heads; MLPs stay as they are. A circuit is *complete* if taking the same heads K out of it and
out of the model does the same: |F(C∖K) − F(M∖K)| is small for every K. It is *minimal* if each of its heads v is missed once some
heads K are gone: F(C∖(K∪{v})) − F(C∖K) is large for some K. Nobody can try every K; the sets tried are part of the result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from ..charts.axis import Axis, Role
from ..charts.bars import Bar, Bars, Column
from ..charts.grid import Places
from ..charts.lines import Lines, Panel, Rule, Series
from ..charts.result import Result
from ..charts.table import Table
from ..charts.text import printable
from ..errors import ArgumentError
from ..interventions.ablation import Ablation
from ..interventions.edges import check_node
from ..interventions.metrics import Metric, metric_of
from ..interventions.prompts import Prompts
from ..interventions.ticks import Tick, ticking
from ..models import load_model
from ..models.wheel import Progress
from ..values.arguments import takes
from ..values.flow_graph import FlowGraph
from ..values.node import Node
from .bands import Band, draws_of, mean_band, with_band
from .runs import Cancel, Data, HeadRuns, task_of

_SERIES: dict[str, tuple[str, Role]] = {
    "none": ("no head", "main"),
    "all": ("all heads", "mlp"),
    "random": ("random sets", "rest"),
    "greedy": ("greedy sets", "attention"),
}
"""Kind of a set, in the order of a result → its name and its role in a chart."""
_DEEPEST = 10
"""Heads that a greedy set grows to."""


@dataclass(frozen=True, eq=False, kw_only=True)
class _HeadsTakenOut(Result):
    """The question: heads, ablation, metric and draws.

    Attributes
    ----------
    heads
        The circuit's heads C.
    how, metric, unit
        Ablation, and the metric with its unit.
    draws
        [draw, prompt] how often each prompt was drawn, for the bands; None without.
    seed
        Seed of the sets and of the draws.
    model
        Name of the model.
    """

    heads: tuple[Node, ...]
    how: str
    metric: str
    unit: str
    draws: Int[np.ndarray, "draw prompt"] | None
    seed: int
    model: str

    @property
    def _measured(self) -> str:
        return printable(f"{self.how} ablation, {self.metric} ({self.unit}), {self.model}")


@dataclass(frozen=True, eq=False)
class Completeness(_HeadsTakenOut):
    """The metric after sets of heads are taken out of the circuit, and out of the whole model.

    Attributes
    ----------
    sets
        [set] the heads K that are taken out; the first is empty.
    kinds
        [set] ``"none"``, ``"all"``, ``"random"`` or ``"greedy"``.
    in_circuit, in_model
        [set, prompt] metric of C∖K and of M∖K.
    heads
        The circuit's heads C.
    how, metric, unit, draws, seed, model
        Ablation, the metric with its unit, [draw, prompt] how often each prompt was drawn for the bands (None without), the seed
        of sets and draws, and the model's name.
    """

    sets: tuple[tuple[Node, ...], ...]
    kinds: tuple[str, ...]
    in_circuit: Float[np.ndarray, "set prompt"]
    in_model: Float[np.ndarray, "set prompt"]

    @property
    def differences(self) -> Float[np.ndarray, "set"]:
        """[set] F(C∖K) − F(M∖K), in ``unit``: 0 for a complete circuit."""
        difference: np.ndarray = (self.in_circuit - self.in_model).mean(1)
        return difference

    @property
    def bands(self) -> list[Band]:
        """[set] band of each difference; None without draws."""
        return [mean_band(by_prompt, self.draws) for by_prompt in self.in_circuit - self.in_model]

    @property
    def worst(self) -> int:
        """The set whose |difference| is the largest."""
        return int(np.abs(self.differences).argmax())

    def __repr__(self) -> str:
        difference = with_band(float(self.differences[self.worst]), self.bands[self.worst])
        return (
            f"Completeness(largest difference {difference} {self.unit} without {_words(self.sets[self.worst])}; {len(self.sets)} "
            f"sets of {len(self.heads)} heads, {self.how} ablation, {self.metric}, {self.in_circuit.shape[1]} prompts, {self.model!r})"
        )

    def table(self) -> Table:
        """One row for each set: ``without`` (K), ``kind``, ``circuit``, ``model``, ``difference``, and its band ``low``, ``high``."""
        columns: dict[str, Any] = {
            "without": [_words(one) for one in self.sets],
            "kind": self.kinds,
            "circuit": self.in_circuit.mean(1),
            "model": self.in_model.mean(1),
            "difference": self.differences,
        }
        return Table(repr(self), columns | _band_columns(self.bands), words=("without", "kind"))

    def chart(self) -> Lines:
        """Each set as a point: what is left of the model without it, and what of the circuit. A complete circuit lies on the line."""
        series = tuple(self._series(kind, *_SERIES[kind]) for kind in dict.fromkeys(self.kinds))
        return Lines(
            title=f"What is left without sets of {len(self.heads)} heads: largest difference "
            f"{with_band(float(self.differences[self.worst]), self.bands[self.worst])} {self.unit}",
            x=Axis(f"in the whole model ({self.unit})"),
            panels=(Panel(Axis(f"in the circuit ({self.unit})"), series, (Rule("both", name="complete"),)),),
            subtitle=self._measured,
        )

    def _series(self, kind: str, name: str, role: Role) -> Series:
        at = [n for n, one in enumerate(self.kinds) if one == kind]
        bands = self.bands

        def tip(n: int) -> tuple[str, ...]:
            difference = with_band(float(self.differences[at[n]]), bands[at[n]])
            return f"without {_words(self.sets[at[n]])}", f"circuit − model = {difference} {self.unit}"

        return Series(name, role, self.in_model[at].mean(1), self.in_circuit[at].mean(1), tip)


@dataclass(frozen=True, eq=False)
class Minimality(_HeadsTakenOut):
    """For each head of a circuit, the largest change that taking it out makes.

    Attributes
    ----------
    heads
        [head] the circuit's heads.
    sets
        [head] the heads K that were out already when the change was the largest.
    by_prompt
        [head, prompt] metric of C∖(K∪{v}) − metric of C∖K, for that K.
    tried
        How many sets K were tried for each head.
    how, metric, unit, draws, seed, model
        As for :class:`Completeness`.
    """

    sets: tuple[tuple[Node, ...], ...]
    by_prompt: Float[np.ndarray, "head prompt"]
    tried: int

    @property
    def changes(self) -> Float[np.ndarray, "head"]:
        """[head] the change, in ``unit``: negative where the head supports the answer, near 0 where it is not needed."""
        change: np.ndarray = self.by_prompt.mean(1)
        return change

    @property
    def bands(self) -> list[Band]:
        """[head] band of each change; None without draws."""
        return [mean_band(by_prompt, self.draws) for by_prompt in self.by_prompt]

    def __repr__(self) -> str:
        least = int(np.abs(self.changes).argmin())
        change = with_band(float(self.changes[least]), self.bands[least])
        return (
            f"Minimality(least needed {self.heads[least]}: {change} {self.unit}; {len(self.heads)} heads, {self.tried} sets, "
            f"{self.how} ablation, {self.metric}, {self.by_prompt.shape[1]} prompts, {self.model!r})"
        )

    def table(self) -> Table:
        """One row for each head, the most needed first: ``head``, ``change``, its band ``low``, ``high``, ``without`` (K)."""
        order = np.argsort(-np.abs(self.changes), kind="stable")
        bands = self.bands
        columns: dict[str, Any] = {"head": [str(self.heads[i]) for i in order], "change": self.changes[order]}
        columns |= _band_columns([bands[i] for i in order])
        columns["without"] = [_words(self.sets[i]) for i in order]
        return Table(repr(self), columns, words=("head", "without"))

    def chart(self) -> Bars:
        """A bar for each head, the most needed first, with its band."""
        order = np.argsort(-np.abs(self.changes), kind="stable")
        changes, bands = self.changes[order], [self.bands[i] for i in order]
        held = [band for band in bands if band is not None]

        def tip(n: int) -> tuple[str, ...]:
            change = f"{self.heads[order[n]]}: {with_band(float(changes[n]), bands[n])} {self.unit}"
            return change, f"without {_words(self.sets[order[n]])} before"

        places = Places("head", tuple(range(len(order))), tuple(str(self.heads[i]) for i in order), is_numbered=False)
        bar = Bar(changes, tip, band=np.array(held) if held else None)
        return Bars(
            title=f"What taking out each of {len(self.heads)} heads changes",
            columns=(Column(places, Axis(f"change of {self.metric} ({self.unit})"), (bar,)),),
            subtitle=f"{self._measured}; the largest change among {self.tried} sets",
        )


@takes()
def completeness(
    model: Any,
    data: Data,
    graph: FlowGraph,
    *,
    how: Ablation = "resample",
    reference: Prompts | None = None,
    random: int = 10,
    greedy: int = 2,
    candidates: int = 5,
    metric: Metric | Callable[..., Any] | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
    progress: Progress | None = None,
    cancel: Cancel | None = None,
) -> Completeness:
    """Take sets of heads out of a circuit and out of the whole model, and compare what is left.

    Parameters
    ----------
    model, data, how, reference, metric, bootstrap, progress, cancel
        As for :func:`flowgraph.faithfulness`; here heads are ablated, at all positions, not edges.
    graph
        A graph whose heads are the circuit.
    random
        How many sets hold each head with probability ½.
    greedy
        How many sets are grown. Each step draws ``candidates`` heads from those still in the circuit and takes out the one that
        makes the difference largest, until 10 heads are out. Each set on the way counts.
    candidates
        See ``greedy``.
    seed
        Of the sets and of the bands.

    Returns
    -------
    Completeness
        The result for the set without a head, the set of all heads, and the random and the greedy sets.

    Raises
    ------
    ArgumentError
        If the graph has no heads, or a number of sets is negative.
    CancelledError, PromptError, TargetError, NonFiniteError, UnsupportedReadingError
        As for :func:`flowgraph.faithfulness`.

    References
    ----------
    Wang et al. (2022), "Interpretability in the Wild", section 4 and its appendix for the greedy sets.
    """
    for name, number, least in (("random", random, 0), ("greedy", greedy, 0), ("candidates", candidates, 1)):
        if number < least:
            raise ArgumentError(f"{name}={number} must be at least {least}")
    sides = _Sides(model, data, graph, how, reference, metric, progress, cancel)
    draw = np.random.default_rng(seed)
    count = len(sides.heads)
    wanted = [("none", np.zeros(count, bool)), ("all", np.ones(count, bool))]
    wanted += [("random", draw.random(count) < 0.5) for _ in range(random)]
    depth = min(_DEEPEST, count)
    sides.expect(2 * (len(wanted) + greedy * sum(min(candidates, count - n) for n in range(depth))))
    # Reversed, so that of equal sets the first kind stays: a random set without heads is the set "none".
    found = {out.tobytes(): (kind, out, *sides.both(out)) for kind, out in reversed(wanted)}
    for _ in range(greedy):
        for out in _grown(sides, draw, depth, candidates):
            # A greedy set may repeat a random one, which keeps its name.
            found.setdefault(out.tobytes(), ("greedy", out, *sides.both(out)))
    kinds, outs, circuit, whole = zip(*sorted(found.values(), key=lambda one: list(_SERIES).index(one[0])), strict=True)
    return Completeness(
        tuple(sides.named(out) for out in outs), kinds, np.stack(circuit), np.stack(whole),
        **sides.finished(how, bootstrap, seed),
    )  # fmt: skip


@takes()
def minimality(
    model: Any,
    data: Data,
    graph: FlowGraph,
    *,
    how: Ablation = "resample",
    reference: Prompts | None = None,
    random: int = 8,
    metric: Metric | Callable[..., Any] | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
    progress: Progress | None = None,
    cancel: Cancel | None = None,
) -> Minimality:
    """Take each head out of a circuit that already lacks other heads, and keep the largest change.

    Parameters
    ----------
    model, data, graph, how, reference, metric, bootstrap, progress, cancel
        As for :func:`flowgraph.completeness`.
    random
        How many sets K hold each other head with probability ½; no other head, and all others, are tried as well.
    seed
        Of the sets and of the bands.

    Returns
    -------
    Minimality
        The change of each head with the largest absolute value, and its set.

    Raises
    ------
    ArgumentError, CancelledError, PromptError, TargetError, NonFiniteError, UnsupportedReadingError
        As for :func:`flowgraph.completeness`.

    Notes
    -----
    The largest of several changes is hardly ever exactly 0. A head that is not needed has a change whose band includes 0; the
    more sets are tried, the larger that change is.

    References
    ----------
    Wang et al. (2022), "Interpretability in the Wild", section 4.
    """
    if random < 0:
        raise ArgumentError(f"random={random} must be at least 0")
    sides = _Sides(model, data, graph, how, reference, metric, progress, cancel)
    draw = np.random.default_rng(seed)
    count = len(sides.heads)
    drawn = [np.zeros(count, bool), np.ones(count, bool), *(draw.random(count) < 0.5 for _ in range(random))]
    sides.expect(len(drawn) * (count + 1))
    sets, changes = [], []
    for head in range(count):
        own = np.arange(count) == head
        # The head itself is taken out of K first, so K holds other heads only.
        tried = [(out & ~own, sides.circuit(out | own) - sides.circuit(out & ~own)) for out in drawn]
        out, change = max(tried, key=lambda one: abs(float(one[1].mean())))
        sets.append(sides.named(out))
        changes.append(change)
    return Minimality(tuple(sets), np.stack(changes), len(drawn), **sides.finished(how, bootstrap, seed))


_STAGE = "taking heads out"


class _Sides:
    """A circuit's heads, the prompts, and the two sides: the circuit and the whole model."""

    def __init__(
        self, model: Any, data: Data, graph: FlowGraph, how: Ablation, reference: Prompts | None, metric: Any,
        progress: Progress | None, cancel: Cancel | None,
    ) -> None:  # fmt: skip
        self.loaded = load_model(model)
        self.loaded.require_head("the completeness of a circuit")
        self.heads = _heads(graph)
        anatomy = self.loaded.anatomy
        for node in self.heads:
            check_node(anatomy, node)
        self.metric = metric_of(metric)
        self.runs = HeadRuns(self.loaded, task_of(self.loaded, data), how, reference, self.metric)
        # Heads of all kinds of attention in one row, as they run.
        places = {node: n for n, node in enumerate(self.runs.heads)}
        self._numbers = np.array([places[node] for node in self.heads])
        self.inside = np.zeros(len(places), bool)
        self.inside[self._numbers] = True
        self._watch = (progress, cancel)
        self._tick: Tick = lambda _prompts: None
        self._seen: dict[bytes, np.ndarray] = {}

    def expect(self, runs: int) -> None:
        """Say how many runs there will be at most."""
        self._tick = ticking(_STAGE, runs * len(self.runs.full), *self._watch, unit="runs of a prompt")

    def finished(self, how: str, bootstrap: int, seed: int) -> dict[str, Any]:
        """Report that all runs are done; returns the fields that describe the question."""
        if (progress := self._watch[0]) is not None:
            progress(_STAGE, 1.0)
        return {
            "heads": self.heads, "how": how, "metric": self.metric.name, "unit": self.metric.unit,
            "draws": draws_of(len(self.runs.full), bootstrap, seed), "seed": seed, "model": self.loaded.name,
        }  # fmt: skip

    def circuit(self, out: Bool[np.ndarray, "head"]) -> Float[np.ndarray, "prompt"]:
        """[prompt] metric of C∖K."""
        ablated = ~self.inside
        ablated[self._numbers[out]] = True
        return self._without(ablated)

    def both(self, out: Bool[np.ndarray, "head"]) -> tuple[Float[np.ndarray, "prompt"], Float[np.ndarray, "prompt"]]:
        """[prompt] metric of C∖K and of M∖K."""
        ablated = np.zeros_like(self.inside)
        ablated[self._numbers[out]] = True
        return self.circuit(out), self._without(ablated)

    def named(self, out: Bool[np.ndarray, "head"]) -> tuple[Node, ...]:
        """The heads of a set."""
        return tuple(node for node, is_out in zip(self.heads, out, strict=True) if is_out)

    def _without(self, ablated: Bool[np.ndarray, "any_head"]) -> np.ndarray:
        # Different sets often leave the same heads ablated, and a run takes far longer than its key.
        key = ablated.tobytes()
        if key not in self._seen:
            self._tick(len(self.runs.full))
            self._seen[key] = self.runs.without(ablated)
        return self._seen[key]


def _grown(sides: _Sides, draw: np.random.Generator, depth: int, candidates: int) -> Iterator[np.ndarray]:
    """Sets that grow by the head that makes the difference largest."""
    out = np.zeros(len(sides.heads), bool)
    for _ in range(depth):
        left = np.flatnonzero(~out)
        larger = []
        for head in draw.permutation(left)[:candidates]:
            one = out.copy()
            one[head] = True
            circuit, whole = sides.both(one)
            larger.append((abs(float((circuit - whole).mean())), one))
        out = max(larger, key=lambda found: found[0])[1]
        yield out


def _heads(graph: FlowGraph) -> tuple[Node, ...]:
    """The heads of a graph in the order of computation, without positions; those of the encoder first."""
    found = {replace(node, position=None) for node in graph.nodes if node.kind in ("head", "cross_head")}
    if not found:
        raise ArgumentError(f"{graph!r} has no heads, so none can be taken out; give a circuit with heads")
    return tuple(sorted(found, key=lambda node: (not node.stack, node.layer, node.kind == "cross_head", node.head)))


def _words(nodes: Sequence[Node]) -> str:
    return ", ".join(map(str, nodes)) or "no head"


def _band_columns(bands: Sequence[Band]) -> dict[str, list[float]]:
    held = [band for band in bands if band is not None]
    return {"low": [band[0] for band in held], "high": [band[1] for band in held]} if held else {}
