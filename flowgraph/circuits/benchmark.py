"""Faithfulness of scores of edges as the Mechanistic Interpretability Benchmark measures it: CPR and CMD.

A method that scores every edge of a model gives a circuit of any size. f is measured at sizes that are parts of all edges of the model,
from .1 % to 100 %. CPR is the area under f over these parts, CMD the area between f and 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int

from ..charts.axis import Axis
from ..charts.lines import Lines, Panel, Rule, Series
from ..charts.table import Table
from ..charts.text import printable
from ..errors import ArgumentError
from ..interventions.ablation import Ablation
from ..interventions.edges import whole_network
from ..interventions.metrics import Metric, metric_of
from ..interventions.prompts import Prompts
from ..interventions.ticks import ticking
from ..models import load_model
from ..models.wheel import Progress
from ..values.arguments import takes
from ..values.flow_graph import FlowGraph
from .bands import Band, check_gap, draws_of, with_band
from .measured_curve import MeasuredCurve
from .runs import Cancel, Data, ablation_text, circuit_runs, corruption_of, task_of
from .selection import Connect, Order, Paths, as_possible, check_selection, chosen, scores_of

BENCHMARK_SIZES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Parts of the model's edges that the benchmark measures."""


@dataclass(frozen=True, eq=False)
class BenchmarkFaithfulness(MeasuredCurve):
    """Faithfulness of circuits of several sizes that scores of all edges give.

    Attributes
    ----------
    sizes
        [size] part of the model's edges that was asked for, ascending.
    edges
        [size] how many edges were kept.
    by_prompt
        [size, prompt] the metric with all other edges of the model ablated.
    empty, full
        [prompt] the metric with all edges ablated, and of the whole model.
    model_edges
        How many edges the model has.
    searched
        How the edges were scored.
    order, connect, ratio
        How they were chosen, as for :func:`flowgraph.select_edges`.
    how
        Ablation of the edges that are left out: ``"resample"``, ``"mean"`` or ``"zero"``.
    corruption
        What was changed in the corrupted prompts; empty where no corrupted prompt was used.
    metric, unit
        Name and unit of the metric.
    draws
        [draw, prompt] how often each prompt was drawn, for the bands; None without bands.
    seed
        Seed of these draws.
    model, task
        Names of the model and the task.
    """

    sizes: Float[np.ndarray, "size"]
    edges: Int[np.ndarray, "size"]
    by_prompt: Float[np.ndarray, "size prompt"]
    empty: Float[np.ndarray, "prompt"]
    full: Float[np.ndarray, "prompt"]
    model_edges: int
    searched: str
    order: str
    connect: str
    ratio: float
    how: str
    corruption: str
    metric: str
    unit: str
    draws: Int[np.ndarray, "draw prompt"] | None
    seed: int
    model: str
    task: str

    @property
    def cpr(self) -> float:
        """Circuit performance ratio: the area under f over ``sizes``, by trapezoids; unit 1. Above 1 where helpful edges come first."""
        return self._area()[0]

    @property
    def cmd(self) -> float:
        """Circuit–model distance: the area between f and 1 over ``sizes``, by trapezoids of |1 − f|; unit 1. 0 is best."""
        return self._distance()[0]

    @property
    def cpr_band(self) -> Band:
        """Interval that holds ``cpr`` in 95 % of the draws; None without draws."""
        return self._area()[1]

    @property
    def cmd_band(self) -> Band:
        """Interval that holds ``cmd`` in 95 % of the draws; None without draws."""
        return self._distance()[1]

    def __repr__(self) -> str:
        return (
            f"BenchmarkFaithfulness(CPR {with_band(self.cpr, self.cpr_band)}, CMD {with_band(self.cmd, self.cmd_band)}; "
            f"{printable(self.searched)}, {self.selection}, {self._measured})"
        )

    @property
    def selection(self) -> str:
        """How edges were chosen, in words: ``"signed order, prune"``."""
        part = f" {self.ratio:g}" if self.order == "ratio" else ""
        return f"{self.order}{part} order, {self.connect}"

    @property
    def _measured(self) -> str:
        ablation = ablation_text(self.how, self.corruption)
        return f"{ablation}, {self.metric}, {len(self.full)} prompts of {printable(self.task)}, {printable(self.model)}"

    def table(self) -> Table:
        """One row for each size: ``size`` (part of the model's edges), ``edges`` (kept), ``metric``, ``faithfulness``, ``low``, ``high``."""
        columns: dict[str, Any] = {
            "size": self.sizes, "edges": self.edges, "metric": self.by_prompt.mean(1), "faithfulness": self.values,
        }  # fmt: skip
        if self.bands is not None:
            columns |= {"low": self.bands[:, 0], "high": self.bands[:, 1]}
        unit = f" in {self.unit}" if self.unit else ""
        note = f"{self._measured}; metric{unit}: whole model {self.full.mean():.4g}, no edge {self.empty.mean():.4g}"
        return Table(repr(self), columns, note=note)

    def arrays(self) -> dict[str, np.ndarray]:
        """``sizes``, ``edges``, ``values``, ``by_prompt``, ``empty``, ``full``, ``areas`` (CPR and CMD) and, where drawn, ``bands``."""
        found = {name: getattr(self, name) for name in ("sizes", "edges", "values", "by_prompt", "empty", "full")}
        found["areas"] = np.array([self.cpr, self.cmd])
        return found if self.bands is None else found | {"bands": self.bands}

    def chart(self) -> Lines:
        """F over the part of the model's edges, with its band, the whole model (1) and no edge (0)."""
        bands, values = self.bands, self.values

        def tip(n: int) -> tuple[str, ...]:
            band = None if bands is None else (float(bands[n, 0]), float(bands[n, 1]))
            return f"{self.edges[n]:,} edges kept ({self.sizes[n]:.1%})", f"f = {with_band(float(values[n]), band)}"

        curve = Series(
            "faithfulness", "main", self.sizes, values, tip, is_joined=True, band=bands,
            band_name="95 % of the draws of the prompts",
        )  # fmt: skip
        return Lines(
            title=f"CPR {with_band(self.cpr, self.cpr_band)}, CMD {with_band(self.cmd, self.cmd_band)}",
            x=Axis(f"part of the model’s {self.model_edges:,} edges", "log"),
            panels=(
                Panel(
                    Axis("faithfulness f (not clipped)"),
                    (curve,),
                    (Rule("x", 1.0, "whole model"), Rule("x", 0.0, "no edge")),
                ),
            ),
            subtitle=printable(f"{self.searched}, {self.selection}; {self._measured}"),
        )

    def _sizes(self) -> Float[np.ndarray, "size"]:
        return self.sizes

    def _without(self) -> Float[np.ndarray, "prompt"]:
        return self.empty


@takes()
def benchmark_faithfulness(
    model: Any,
    data: Data,
    graph: FlowGraph,
    *,
    order: Order = "signed",
    connect: Connect = "prune",
    ratio: float = 0.5,
    how: Ablation = "resample",
    reference: Prompts | None = None,
    sizes: Sequence[float] = BENCHMARK_SIZES,
    metric: Metric | Callable[..., Any] | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
    progress: Progress | None = None,
    cancel: Cancel | None = None,
) -> BenchmarkFaithfulness:
    """Measure how good the scores of all edges are: faithfulness at parts of the model's edges, CPR and CMD.

    As the Mechanistic Interpretability Benchmark computes them: at each size s the ⌊s · E⌋ first edges of the model's E are taken, those on
    no path from the embeddings to the logits are taken away, all other edges bring what their sender writes for the corrupted prompt, and
    f = (m − m(no edge)) / (m(model) − m(no edge)), each m a mean over the prompts. CPR = ∫ f ds and CMD = ∫ |1 − f| ds by trapezoids
    from the least size to 1. The benchmark orders by signed score; for CMD also by |score| (``order="absolute"``).

    Keys and values of grouped heads are one edge for each group here, where the benchmark has one for each query head.

    Parameters
    ----------
    model
        A :class:`LoadedModel`, or anything :func:`flowgraph.load_model` accepts.
    data
        A task (:func:`flowgraph.task`, or :meth:`TaskData.load`), or examples.
    graph
        Scores of every edge: a circuit that :func:`flowgraph.discover` found with ``threshold=0`` by a method that estimates all edges.
        Edges that such a graph does not have are those of score 0.
    order, connect, ratio
        How the edges of each size are chosen, as for :func:`flowgraph.select_edges`.
    how, reference
        As for :func:`flowgraph.faithfulness`.
    sizes
        Parts of the model's edges, ascending, each above 0 and at most 1; at least two.
    metric, bootstrap, seed, progress, cancel
        As for :func:`flowgraph.faithfulness`.

    Raises
    ------
    ArgumentError
        If the graph does not score every edge, the model does no better than with no edge, or an argument cannot be used.
    PromptError, CancelledError, TargetError, NonFiniteError, UnsupportedReadingError
        As for :func:`flowgraph.faithfulness`.

    References
    ----------
    Mueller et al. (2025), "MIB: A Mechanistic Interpretability Benchmark".
    """
    check_selection(order, connect, ratio)
    _check_sizes(sizes)
    loaded = load_model(model)
    loaded.require_head("the faithfulness of circuits")
    network = whole_network(loaded.anatomy)
    scores, total = scores_of(network, graph), int(network.possible.sum())
    _check_scores(graph, total)
    task, way, paths = task_of(loaded, data), as_possible(connect), Paths(network)
    masks = [chosen(paths, scores, int(size * total), order=order, connect=way, ratio=ratio) for size in (0.0, *sizes)]
    found_metric = metric_of(metric)
    measured, full = circuit_runs(
        loaded, task, network, [torch.from_numpy(mask) for mask in masks], how=how, reference=reference, metric=found_metric,
        tick=ticking("measuring circuits", len(masks) * len(task), progress, cancel, unit="runs of a prompt"),
    )  # fmt: skip
    draws = draws_of(len(task), bootstrap, seed)
    check_gap(measured[:1], measured[0], full, draws, found_metric.name, how)
    options = graph.info.options
    searched = graph.info.method.removeprefix("circuit: ") + (
        f", points {options['points']}" if "points" in options else ""
    )
    return BenchmarkFaithfulness(
        np.array(sizes, dtype=float), np.array([int(mask.sum()) for mask in masks[1:]]), measured[1:], measured[0], full, total,
        searched, order, way, ratio, how, corruption_of(task, how, reference), found_metric.name, found_metric.unit, draws, seed,
        loaded.name, task.name,
    )  # fmt: skip


def _check_sizes(sizes: Sequence[float]) -> None:
    values = list(sizes)
    if len(values) < 2 or values != sorted(set(values)) or not 0 < values[0] <= values[-1] <= 1:
        raise ArgumentError(
            f"sizes={values} must be at least two ascending parts of the model's edges, each above 0 and at most 1"
        )


def _check_scores(graph: FlowGraph, total: int) -> None:
    """Refuse a graph that does not say the score of every edge."""
    # A search leaves edges of score 0 out, which take no part in the sum.
    whole, held = graph.info.total_share, float(np.abs(graph.share).sum())
    if len(graph) == total or (graph.info.total_edges == total and abs(held - whole) <= 1e-6 * whole):
        return
    raise ArgumentError(
        f"the graph has {len(graph):,} of the model's {total:,} edges, and circuits of parts of the model need the score of every edge; "
        "search with threshold=0 and method='eap-ig', 'eap' or 'eap-qk'"
    )
