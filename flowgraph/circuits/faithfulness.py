"""Faithfulness: how much of a model's behaviour on a task is left when all but a circuit is ablated.

f(C) = (m(C) − m(∅)) / (m(M) − m(∅)), with m the mean of a metric over the prompts, C the edges that are kept, ∅ none of them and
M all. f is 1 if the circuit does what the model does, above 1 if the ablated edges work against the answer, and below 0 if the
circuit does worse than no edge; it is never clipped. The value that replaces an ablated edge is part of the question: a number
without its ablation and metric says nothing.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from ..charts.axis import Axis
from ..charts.lines import Lines, Panel, Rule, Series
from ..charts.table import Table
from ..charts.text import printable
from ..errors import ArgumentError
from ..interventions.ablation import Ablation
from ..interventions.edges import Edge, edge_mask, whole_network
from ..interventions.metrics import Metric, metric_of
from ..interventions.plan import circuit_edges
from ..interventions.prompts import Prompts
from ..interventions.ticks import ticking
from ..models import load_model
from ..models.wheel import Progress
from ..values.arguments import takes
from ..values.flow_graph import FlowGraph
from .bands import Band, check_gap, draws_of, with_band
from .measured_curve import MeasuredCurve
from .runs import Cancel, Data, ablation_text, circuit_runs, corruption_of, task_of

SIZES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Parts of a circuit's edges that are measured."""
_LOGARITHMIC_FROM = 100
"""Edges from which on their number is shown on a logarithmic axis, which has no place for 0."""


@dataclass(frozen=True, eq=False)
class Faithfulness(MeasuredCurve):
    """Faithfulness of a circuit's strongest edges, from none of them to all.

    Attributes
    ----------
    edges
        [size] how many of the circuit's edges are kept, ascending: 0 … ``edges[-1]``, all of them.
    by_prompt
        [size, prompt] the metric with all other edges of the model ablated.
    full
        [prompt] the metric of the whole model.
    model_edges
        How many edges the model has.
    how
        Ablation of the edges that are left out: ``"resample"``, ``"mean"`` or ``"zero"``.
    metric, unit
        Name and unit of the metric.
    draws
        [draw, prompt] how often each prompt was drawn, for the bands; None without bands.
    seed
        Seed of these draws.
    model, task
        Names of the model and the task.
    corruption
        What was changed in the corrupted prompts, as :attr:`TaskData.corruption` has it; empty where no corrupted prompt was used.
    """

    edges: Int[np.ndarray, "size"]
    by_prompt: Float[np.ndarray, "size prompt"]
    full: Float[np.ndarray, "prompt"]
    model_edges: int
    how: str
    metric: str
    unit: str
    draws: Int[np.ndarray, "draw prompt"] | None
    seed: int
    model: str
    task: str
    corruption: str = ""

    @property
    def sizes(self) -> Float[np.ndarray, "size"]:
        """[size] part of the circuit's edges that is kept, 0 … 1."""
        sizes: np.ndarray = self.edges / self.edges[-1]
        return sizes

    @property
    def value(self) -> float:
        """Faithfulness of the whole circuit; unit 1."""
        return float(self.values[-1])

    @property
    def band(self) -> Band:
        """Band of ``value``; None without draws."""
        return None if self.bands is None else (float(self.bands[-1, 0]), float(self.bands[-1, 1]))

    @property
    def area(self) -> float:
        """Area under f over ``sizes``, by trapezoids; unit 1. The higher, the sooner a few edges do what the model does.

        The axis is the part of the circuit's own edges. :func:`flowgraph.benchmark_faithfulness` has the benchmark's CPR, whose axis is the
        part of the model's.
        """
        return self._area()[0]

    @property
    def distance(self) -> float:
        """Area between f and 1 over ``sizes``, by trapezoids of |1 − f|; unit 1. 0 is best."""
        return self._distance()[0]

    @property
    def area_band(self) -> Band:
        """Interval that holds ``area`` in 95 % of the draws; None without draws."""
        return self._area()[1]

    @property
    def distance_band(self) -> Band:
        """Interval that holds ``distance`` in 95 % of the draws; None without draws."""
        return self._distance()[1]

    @property
    def cpr(self) -> float:
        """Former name of ``area``, deprecated: it is not the benchmark's CPR."""
        return float(self._former("cpr", "area"))

    @property
    def cmd(self) -> float:
        """Former name of ``distance``, deprecated: it is not the benchmark's CMD."""
        return float(self._former("cmd", "distance"))

    @property
    def cpr_band(self) -> Band:
        """Former name of ``area_band``, deprecated."""
        band: Band = self._former("cpr_band", "area_band")
        return band

    @property
    def cmd_band(self) -> Band:
        """Former name of ``distance_band``, deprecated."""
        band: Band = self._former("cmd_band", "distance_band")
        return band

    def _former(self, old: str, new: str) -> Any:
        warnings.warn(
            f"Faithfulness.{old} is called {new}: its axis is the part of the circuit's edges. The benchmark's CPR and CMD are those of "
            "flowgraph.benchmark_faithfulness",
            DeprecationWarning,
            stacklevel=3,
        )
        return getattr(self, new)

    def __repr__(self) -> str:
        return (
            f"Faithfulness({with_band(self.value, self.band)} with {self.edges[-1]:,} of {self.model_edges:,} edges, "
            f"{ablation_text(self.how, self.corruption)}, {self.metric}, {len(self.full)} prompts of {self.task!r}, {self.model!r}; "
            f"area {with_band(self.area, self.area_band)}, distance {with_band(self.distance, self.distance_band)})"
        )

    def table(self) -> Table:
        """One row for each size: ``edges``, ``of_circuit``, ``of_model`` (parts), ``metric``, ``faithfulness``, ``low``, ``high``."""
        columns: dict[str, Any] = {
            "edges": self.edges,
            "of_circuit": self.sizes,
            "of_model": self.edges / self.model_edges,
            "metric": self.by_prompt.mean(1),
            "faithfulness": self.values,
        }
        if self.bands is not None:
            columns |= {"low": self.bands[:, 0], "high": self.bands[:, 1]}
        unit = f" in {self.unit}" if self.unit else ""
        bands = (
            "no bands" if self.draws is None else f"95 % of {len(self.draws):,} draws of the prompts (seed {self.seed})"
        )
        note = (
            f"{ablation_text(self.how, self.corruption)}; {self.metric}{unit}: whole model {self.full.mean():.4g}, no edge "
            f"{self.by_prompt[0].mean():.4g}; {bands}"
        )
        return Table(repr(self), columns, note=note)

    def arrays(self) -> dict[str, np.ndarray]:
        """``edges``, ``sizes``, ``values``, ``by_prompt``, ``full``, ``areas`` (``area`` and ``distance``) and, where drawn, ``bands``."""
        found = {name: getattr(self, name) for name in ("edges", "sizes", "values", "by_prompt", "full")}
        found["areas"] = np.array([self.area, self.distance])
        return found if self.bands is None else found | {"bands": self.bands}

    def chart(self) -> Lines:
        """Faithfulness over the number of edges, with its band, the whole model (1) and no edge (0)."""
        is_logarithmic = bool(self.edges[-1] > _LOGARITHMIC_FROM)
        shown = np.flatnonzero(self.edges > 0) if is_logarithmic else np.arange(len(self.edges))
        bands, values = self.bands, self.values

        def tip(n: int) -> tuple[str, ...]:
            size = int(shown[n])
            band = None if bands is None else (float(bands[size, 0]), float(bands[size, 1]))
            f = with_band(float(values[size]), band)
            return (
                f"{self.edges[size]:,} edges",
                f"f = {f}",
                f"{self.metric} {self.by_prompt[size].mean():.4g} {self.unit}",
            )

        curve = Series(
            "faithfulness", "main", self.edges[shown].astype(np.float64), values[shown], tip, is_joined=True,
            band=None if bands is None else bands[shown], band_name="95 % of the draws of the prompts",
        )  # fmt: skip
        ablation = ablation_text(self.how, self.corruption)
        measured = f"{ablation}, {self.metric}, {len(self.full)} prompts of {self.task}, {self.model}"
        areas = f"area {with_band(self.area, self.area_band)}, distance {with_band(self.distance, self.distance_band)}"
        whole = f"{self.edges[-1]:,} of {self.model_edges:,} edges"
        return Lines(
            title=f"Faithfulness {with_band(self.value, self.band)} with {whole}",
            x=Axis("edges of the circuit, the strongest first", "log" if is_logarithmic else "linear"),
            panels=(
                Panel(
                    Axis("faithfulness f (not clipped)"),
                    (curve,),
                    (Rule("x", 1.0, "whole model"), Rule("x", 0.0, "no edge")),
                ),
            ),
            subtitle=printable(f"{measured}; {areas}"),
        )

    def _sizes(self) -> Float[np.ndarray, "size"]:
        return self.sizes

    def _without(self) -> Float[np.ndarray, "prompt"]:
        empty: np.ndarray = self.by_prompt[0]
        return empty


@takes()
def faithfulness(
    model: Any,
    data: Data,
    graph: FlowGraph,
    *,
    how: Ablation = "resample",
    reference: Prompts | None = None,
    sizes: Sequence[float] = SIZES,
    metric: Metric | Callable[..., Any] | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
    progress: Progress | None = None,
    cancel: Cancel | None = None,
) -> Faithfulness:
    """Ablate all but the strongest edges of a circuit, for several numbers of edges, and measure the metric that is left.

    Parameters
    ----------
    model
        A :class:`LoadedModel`, or anything :func:`flowgraph.load_model` accepts.
    data
        A task (:func:`flowgraph.task`, or :meth:`TaskData.load`), or examples; prompts of different lengths are run by length.
    graph
        A circuit: edges between ``embed``, heads, MLPs and ``logits``, without positions. Its edges count in the order of
        |weight|.
    how
        Input in place of an edge that is left out: its sender's output in the corrupted prompt (``"resample"``), the mean output
        over a set of prompts (``"mean"``), or zeros (``"zero"``).
    reference
        Prompts that ``"mean"`` averages, position by position, at least two of each length in ``data``; default the corrupted
        prompts of ``data``.
    sizes
        Parts of the circuit's edges, each above 0 and at most 1, rounded up to whole edges; none and all of them are always
        measured.
    metric
        As for :func:`flowgraph.ablate`; the answers are those of ``data``.
    bootstrap
        How often as many prompts are drawn from the prompts, with replacement, for the bands; 0 for no bands. A single prompt
        has none.
    seed
        Seed of these draws.
    progress, cancel
        As for :func:`flowgraph.head_effects`.

    Returns
    -------
    Faithfulness
        f at every size with its band, and two areas. For a graph of all edges of the model, f of the whole is exactly 1.

    Raises
    ------
    ArgumentError
        If the graph is empty or no circuit, an example does not fit, or the model does no better than with no edge.
    PromptError
        If ``how="mean"`` has no two prompts of a length to average.
    CancelledError
        If ``cancel`` said so.
    TargetError, NonFiniteError, UnsupportedReadingError
        As for :func:`flowgraph.ablate`.

    References
    ----------
    Wang et al. (2022), "Interpretability in the Wild"; Hanna et al. (2024), "Have Faith in Faithfulness: Going Beyond Circuit
    Overlap When Finding Model Mechanisms". The areas are over parts of the given circuit: beyond it there is no order of edges.
    """
    loaded = load_model(model)
    loaded.require_head("the faithfulness of a circuit")
    network = whole_network(loaded.anatomy)
    edges = ordered_edges(graph)
    counts = _counts(sizes, len(edges))
    task = task_of(loaded, data)
    masks = [edge_mask(network, edges[:count]) for count in counts]
    chosen = metric_of(metric)
    measured, full = circuit_runs(
        loaded, task, network, masks, how=how, reference=reference, metric=chosen,
        tick=ticking("measuring circuits", len(masks) * len(task), progress, cancel, unit="runs of a prompt"),
    )  # fmt: skip
    draws = draws_of(len(task), bootstrap, seed)
    found = Faithfulness(
        np.array(counts), measured, full, int(network.possible.sum()), how, chosen.name, chosen.unit, draws, seed,
        loaded.name, task.name, corruption_of(task, how, reference),
    )  # fmt: skip
    check_gap(measured, measured[0], full, draws, chosen.name, how)
    return found


def ordered_edges(graph: FlowGraph) -> list[Edge]:
    """The edges of a circuit, the strongest first.

    Raises
    ------
    ArgumentError
        If there is none, or the graph is no circuit.
    """
    if not len(graph):
        raise ArgumentError(
            "the circuit has no edges, so there is nothing to keep; lower the threshold it was found with"
        )
    edges = circuit_edges(graph)
    if edges is None:
        raise ArgumentError(
            f"the graph of method {graph.info.method!r} shows flow between states, not a circuit of heads and MLPs; give a "
            "circuit, or test the graph on its own prompt with ablate(…, outside=True)"
        )
    return [edges[e] for e in np.argsort(-np.abs(graph.weight), kind="stable")]


def _counts(sizes: Sequence[float], edges: int) -> list[int]:
    """Numbers of edges for parts of a circuit, with none and all of them."""
    for size in sizes:
        if not 0 < size <= 1:
            raise ArgumentError(f"sizes holds {size}; each is a part of the circuit's edges, above 0 and at most 1")
    # A whole number of edges stays one, whatever the product is rounded to.
    return sorted({0, edges, *(math.ceil(size * edges - 1e-9) for size in sizes)})
