"""How much of the answer pictures of every size keep: :func:`graph_faithfulness` of a graph's strongest parts, in one batch of runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int

from ..charts.axis import Axis
from ..charts.lines import Lines, Panel, Rule, Series
from ..charts.result import Result
from ..charts.table import Table
from ..charts.text import printable, whole_percent
from ..errors import ArgumentError
from ..interventions.metrics import Metric
from ..interventions.part_runs import Keys
from ..interventions.prompts import Answers, Prompts
from ..interventions.ticks import ticking
from ..models import load_model
from ..models.wheel import Progress
from ..values.arguments import takes
from ..values.effects import shows_effects
from ..values.flow_graph import FlowGraph
from ..values.strongest import keep_strongest
from .graph_faithfulness import answer_beside, blind_picture, differences, shown_parts
from .kept_answer import LEAST_GAP

_SIZES = 8
_LOGARITHMIC_FROM = 100
"""Edges from which on their number is shown on a logarithmic axis."""


@dataclass(frozen=True, eq=False)
class FaithfulnessCurve(Result):
    """The part of the answer that pictures of growing size keep.

    Attributes
    ----------
    edges
        [size] edges of each picture, ascending; the last is the whole graph.
    parts
        [size] attention terms, MLPs and mixers that it shows, from the first token on that differs.
    by_measure
        [size, pair, measure] as :attr:`GraphFaithfulness.by_measure`.
    blind
        [size, draw, pair] smaller part that pictures of as many terms and MLPs keep, chosen anywhere.
    possible
        How many parts the run has from that token on.
    measures, answer, foils, counterfactuals, model, method
        As in :class:`GraphFaithfulness`.
    """

    edges: Int[np.ndarray, "size"]
    parts: Int[np.ndarray, "size"]
    by_measure: Float[np.ndarray, "size pair measure"]
    blind: Float[np.ndarray, "size draw pair"]
    possible: int
    measures: tuple[str, ...]
    answer: str
    foils: tuple[str, ...]
    counterfactuals: tuple[tuple[str, str], ...]
    model: str
    method: str

    @property
    def by_pair(self) -> Float[np.ndarray, "size pair"]:
        """[size, pair] the smaller part of both measures, beside each counterfactual."""
        smallest: np.ndarray = self.by_measure.min(2)
        return smallest

    @property
    def f(self) -> Float[np.ndarray, "size"]:
        """[size] mean over the counterfactuals of the part that is kept: 1 is the clean run, 0 the counterfactual's; not clipped."""
        means: np.ndarray = self.by_pair.mean(1)
        return means

    @property
    def bands(self) -> Float[np.ndarray, "size 2"]:
        """[size, end] smallest and largest of ``by_pair``."""
        return np.stack([self.by_pair.min(1), self.by_pair.max(1)], 1)

    @property
    def random(self) -> Float[np.ndarray, "size"] | None:
        """[size] mean of what blind pictures of as many parts keep; None where none was drawn."""
        if not self.blind.size:
            return None
        means: np.ndarray = self.blind.mean((1, 2))
        return means

    def smallest(self, goal: float = 0.8) -> int | None:
        """Edges of the smallest picture among those that were measured that keeps ``goal`` of the answer; None if none does.

        The part that is kept need not grow with the size, so a larger picture may keep less.

        Raises
        ------
        ArgumentError
            If ``goal`` is not a number above 0 and at most 1.
        """
        if not 0 < goal <= 1:
            raise ArgumentError(f"goal={goal} must lie above 0 and at most at 1: it is a part of the answer")
        reached = np.flatnonzero(self.f >= goal)
        return int(self.edges[reached[0]]) if len(reached) else None

    def caption(self) -> str:
        """One line: what the whole graph keeps, against what, and the smallest picture that keeps 80 %."""
        foils = " or ".join(dict.fromkeys(f"“{printable(foil)}”" for foil in self.foils))
        words = ", ".join(f"“{printable(other)}” for “{printable(own)}”" for own, other in self.counterfactuals)
        count = self.smallest()
        least = "no picture that was measured keeps 80 %" if count is None else f"{count:,} edges keep 80 %"
        return (
            f"{self.edges[-1]:,} edges keep {whole_percent(float(self.f[-1]))} of “{printable(self.answer)}” rather than {foils} ({words}); "
            f"{least}"
        )

    def __repr__(self) -> str:
        return f"FaithfulnessCurve({self.caption()}; {len(self.edges)} sizes, {self.model!r}, {self.method!r})"

    def table(self) -> Table:
        """One row for each size: ``edges``, ``parts``, ``kept``, ``low``, ``high`` and, where drawn, ``random``."""
        columns: dict[str, Any] = {
            "edges": self.edges, "parts": self.parts, "kept": self.f, "low": self.bands[:, 0], "high": self.bands[:, 1],
        }  # fmt: skip
        if self.random is not None:
            columns["random"] = self.random
        return Table(repr(self), columns, note=f"kept: the smaller of {' and '.join(self.measures)}")

    def arrays(self) -> dict[str, np.ndarray]:
        """``edges``, ``parts``, ``f``, ``bands``, ``by_measure`` and, where drawn, ``blind``."""
        found = {name: getattr(self, name) for name in ("edges", "parts", "f", "bands", "by_measure")}
        return found | {"blind": self.blind} if self.blind.size else found

    def chart(self) -> Lines:
        """What is kept over the number of edges, with the range over the counterfactuals; the clean run (1) and the counterfactual's (0)."""
        x, bands = self.edges.astype(np.float64), self.bands
        several = self.by_pair.shape[1] > 1

        def tip(n: int) -> tuple[str, ...]:
            span = f" ({whole_percent(bands[n, 0])} to {whole_percent(bands[n, 1])})" if several else ""
            return f"{self.edges[n]:,} edges", f"{self.parts[n]:,} parts", f"keeps {whole_percent(self.f[n])}{span}"

        series = [
            Series(
                "kept", "main", x, self.f, tip, is_joined=True, band=bands if several else None, band_name="range over the counterfactuals",
            )
        ]  # fmt: skip
        random = self.random
        if random is not None:
            said = random

            def chance(n: int) -> tuple[str, ...]:
                return f"{self.parts[n]:,} random parts", f"keep {whole_percent(said[n])}"

            series.insert(0, Series("random pictures", "rest", x, random, chance, is_joined=True))
        return Lines(
            title=printable(f"What pictures keep of “{self.answer}”"),
            x=Axis("edges, the strongest first", "log" if self.edges[-1] > _LOGARITHMIC_FROM else "linear"),
            panels=(
                Panel(
                    Axis("part of the answer that is kept (not clipped)"),
                    tuple(series),
                    (Rule("x", 1.0, "whole model"), Rule("x", 0.0, "counterfactual")),
                ),
            ),
            subtitle=f"{self.caption()}; {self.model}, {self.method}",
        )


@takes()
def faithfulness_curve(
    model: Any,
    trace: Prompts,
    graph: FlowGraph | Sequence[FlowGraph],
    *,
    sizes: int | Sequence[int] = _SIZES,
    corrupted: Prompts | None = None,
    random: int = 0,
    metric: Metric | Callable[..., Any] | None = None,
    target: Answers = None,
    foil: Answers = None,
    keys: Keys = "shown",
    least_gap: float = LEAST_GAP,
    seed: int = 0,
    progress: Progress | None = None,
    cancel: Callable[[], bool] | None = None,
) -> FaithfulnessCurve:
    """Measure how much of the answer the strongest edges of a graph keep, from few of them to all, in one batch of runs.

    Each picture is what :func:`keep_strongest` keeps with ``mass=None`` and ``max_edges`` edges; it is tested as
    :func:`graph_faithfulness` tests it, with the same counterfactual prompts. The last is the graph itself.

    Parameters
    ----------
    model, trace, corrupted, metric, target, foil, keys, least_gap, seed, progress, cancel
        As for :func:`graph_faithfulness`.
    graph
        A graph of flow, not a picture of parts or a circuit, whose edges are chosen together. Or the pictures themselves, the smallest
        first: then these are tested, and ``sizes`` is not used.
    sizes
        Numbers of edges, or how many sizes: these are spread evenly over their logarithm. The whole graph always is the last.
    random
        Number of blind pictures by chance at each size; 0 for none.

    Raises
    ------
    ArgumentError
        If a size is below 1, there is no picture, pictures do not grow, or a graph's numbers are effects; else as for :func:`graph_faithfulness`.
    PromptError, ModelMismatchError, UnsupportedReadingError, CancelledError
        As for :func:`graph_faithfulness`.

    Examples
    --------
    >>> graph = fg.build_graph(trace, level="head", readings=False)
    >>> curve = fg.faithfulness_curve(trace.model, trace, graph, sizes=[100, 1000], corrupted="The capital of Peru is the city of")
    >>> curve.edges[:2].tolist(), bool(curve.f[0] < 0.5 < curve.f[1])
    ([100, 1000], True)
    """
    loaded = load_model(model)
    if random < 0:
        raise ArgumentError(f"random={random} must be 0 (no pictures by chance) or more")
    pictures = _pictures(graph, sizes)
    answer = answer_beside(
        loaded, trace, pictures[-1], corrupted, target=target, foil=foil, metric=metric, keys=keys, least_gap=least_gap, seed=seed
    )  # fmt: skip
    masks = [shown_parts(answer, picture)[0] for picture in pictures]
    draw = np.random.default_rng(seed)
    chance = [
        blind_picture(answer.numbers, answer.runs.valid, mask, draw) for mask in masks for _ in range(random)
    ]  # fmt: skip
    rows = torch.stack([*masks, *chance])
    answer.runs.tick = ticking("testing pictures", len(rows) * answer.pairs, progress, cancel, unit="runs")
    by_mask = answer.of(rows).by_measure.double().cpu().unflatten(0, (len(rows), answer.pairs)).numpy()
    strings = loaded.answers.strings
    return FaithfulnessCurve(
        edges=np.array([len(picture) for picture in pictures]), parts=np.array([int(mask.sum()) for mask in masks]),
        by_measure=by_mask[: len(masks)], blind=by_mask[len(masks) :].min(2).reshape(len(masks), random, answer.pairs),
        possible=int(answer.runs.valid.sum()), measures=tuple(one.name for one in answer.measures), answer=strings([answer.target])[0],
        foils=tuple(strings(answer.foils.tolist())), counterfactuals=differences(answer), model=loaded.name, method=pictures[-1].info.method,
    )  # fmt: skip


def _pictures(graph: FlowGraph | Sequence[FlowGraph], sizes: int | Sequence[int]) -> list[FlowGraph]:
    """The pictures of a graph, or those that are given."""
    given = [graph] if isinstance(graph, FlowGraph) else list(graph)
    if not given or any(len(small) > len(large) for small, large in pairwise(given)):
        raise ArgumentError("graph= must be a graph, or one or more pictures of it, the smallest first")
    if any(map(shows_effects, given)):
        raise ArgumentError(
            "the numbers of this graph are effects of parts that were chosen together, so that fewer of them are no smaller picture; give "
            "a graph of flow, as build_graph makes it"
        )
    if not isinstance(graph, FlowGraph):
        return given
    ordered = keep_strongest(graph, mass=None, max_edges=None)
    return [*(ordered.keep(np.arange(count)) for count in _counts(sizes, len(ordered))), graph]


def _counts(sizes: int | Sequence[int], most: int) -> list[int]:
    """Numbers of edges below the whole graph, ascending."""
    if isinstance(sizes, int):
        if sizes < 1:
            raise ArgumentError(f"sizes={sizes} must be 1 or more")
        wanted = np.geomspace(max(1, most / 200), max(1, most), int(sizes)).round().astype(int).tolist()[:-1]
    else:
        wanted = list(sizes)
    for size in wanted:
        if size < 1:
            raise ArgumentError(f"sizes holds {size!r}; expected numbers of edges, 1 or more")
    return sorted({int(size) for size in wanted if size < most})
