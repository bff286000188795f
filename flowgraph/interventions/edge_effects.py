"""Exact effects of many edges, each cut by itself. An edge is a row of a batch that enters the model at its receiver's layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..charts.result import Result
from ..charts.table import Table
from ..errors import ArgumentError
from ..models import LoadedModel, load_model
from ..models.anatomy import upcast
from ..models.wheel import Progress
from ..values.arguments import takes
from .ablation import answer_logits, answer_tokens_of, one_for_each
from .edges import BOTH_STACKS, Edge, check_edge, sender_index
from .metrics import Metric, metric_of
from .passes import Pass
from .prompts import Answers, Batch, Prompts, batch_of, prompts_of
from .senders import Kept, emptied, head_shift, keep_senders, read_through_norm, written_change
from .ticks import ticking

CUT_TOKENS = 512
"""Tokens that run at a time; at least those of all prompts."""


@dataclass(frozen=True, eq=False)
class EdgeEffects(Result):
    """Change of the metric when each of some edges is cut by itself.

    Attributes
    ----------
    edges
        The edges, in the order in which they were given.
    by_prompt
        [edge, prompt] m(edge corrupted) − m(clean): negative where the edge supports the answer.
    clean, corrupted
        [prompt] metric of the clean run, and of the corrupted one.
    metric, unit
        Name and unit of the metric.
    forwards
        How many forwards of one prompt, or parts of one, were run.
    """

    edges: tuple[Edge, ...]
    by_prompt: Float[np.ndarray, "edge prompt"]
    clean: Float[np.ndarray, "prompt"]
    corrupted: Float[np.ndarray, "prompt"]
    metric: str
    unit: str
    forwards: int

    @property
    def effects(self) -> Float[np.ndarray, "edge"]:
        """[edge] mean over the prompts, in ``unit``."""
        mean: np.ndarray = self.by_prompt.mean(1)
        return mean

    def __repr__(self) -> str:
        return f"EdgeEffects({len(self.edges):,} edges, {len(self.clean)} prompts, {self.metric}, {self.unit})"

    def table(self) -> Table:
        """One row for each edge, the strongest first: ``source``, ``target``, ``into``, ``effect``."""
        order = np.argsort(-np.abs(self.effects), kind="stable")
        edges = [self.edges[i] for i in order]
        columns: dict[str, Any] = {
            name: [str(getattr(edge, name)) for edge in edges] for name in ("source", "target", "into")
        }
        return Table(repr(self), columns | {"effect": self.effects[order]}, words=("source", "target", "into"))

    def chart(self) -> Table:
        """The table."""
        return self.table()


@takes()
def edge_effects(
    model: Any,
    clean: Prompts,
    corrupted: Prompts,
    edges: Sequence[Edge],
    how: Literal["noise", "zero"] = "noise",
    *,
    target: Answers = None,
    foil: Answers = None,
    metric: Metric | Callable[..., Any] | None = None,
    progress: Progress | None = None,
    cancel: Callable[[], bool] | None = None,
) -> EdgeEffects:
    """Cut every edge by itself and measure its exact effect on the answer.

    Parameters
    ----------
    model, clean, corrupted, target, foil, metric
        As for :func:`flowgraph.patch`, prompts of one length.
    edges
        The edges.
    how
        ``"noise"``: the receiver sees the sender's output in the corrupted run; ``"zero"``: zeros.
    progress, cancel
        As for :func:`flowgraph.head_effects`.

    Raises
    ------
    ArgumentError
        If there is no edge, or one that the model does not have.
    CancelledError
        If ``cancel`` said so.
    PromptError, TargetError, NonFiniteError, UnsupportedReadingError
        As for :func:`flowgraph.ablate`.

    Examples
    --------
    >>> edge = fg.Edge(fg.Node("mlp", layer=26), fg.Node("logits"), "logits")
    >>> cut = fg.edge_effects(trace.model, trace, "The capital of Peru is the city of", [edge], foil=" Kyoto")
    >>> bool(cut.effects[0] < -1)  # logits
    True
    """
    loaded = load_model(model)
    loaded.require_head("an intervention's effect on the answer")
    loaded.anatomy.refuse_stacks("an effect of edges", BOTH_STACKS)
    if how not in get_args(Literal["noise", "zero"]):
        raise ArgumentError(f"how={how!r} must be 'noise' or 'zero'")
    if not edges:
        raise ArgumentError("edges is empty; give at least one Edge")
    found = prompts_of(loaded, clean, "clean", target=target, foil=foil)
    others = one_for_each(found, prompts_of(loaded, corrupted, "corrupted"), "corrupted")
    both = batch_of(loaded, [*found, *others], "clean and corrupted")
    batch = batch_of(loaded, found, "clean")
    for edge in edges:
        check_edge(loaded.anatomy, edge)
        if edge.position is not None and edge.position >= batch.n_tokens:
            raise ArgumentError(f"{edge}: position={edge.position} is outside the prompt of {batch.n_tokens} tokens")

    def change(kept: Kept, other: Kept) -> Tensor:
        return written_change(loaded.anatomy, kept, other) if how == "noise" else emptied(loaded.anatomy, kept)

    with loaded.lock, torch.no_grad():
        return Cuts(loaded, batch, both, change, metric_of(metric)).run(edges, progress, cancel)


class Cuts:
    """The clean run, and the difference of each sender's output to the other run."""

    def __init__(
        self, loaded: LoadedModel, batch: Batch, both: Batch, change: Callable[[Kept, Kept], Tensor], metric: Metric
    ) -> None:
        self.loaded, self.anatomy, self.metric, self.batch = loaded, loaded.anatomy, metric, batch
        count = len(batch)
        halves = slice(count), slice(count, None)
        # Both runs in one batch: rows of equal input then round alike, so an edge that changes nothing has effect 0.
        run = Pass(loaded, len(both))
        keep_senders(run)
        self.reads_mlp = "resid_pre" if self.anatomy.wiring == "parallel" else "resid_mid"
        run.keep({"resid_pre", self.reads_mlp})
        run.keep_calls()
        states = run.run(both.feed)
        logits = answer_logits(loaded, states, both.positions)
        self.answers = answer_tokens_of(batch, logits[:count])
        self.clean, self.corrupted = (_numbers(metric(part, self.answers)) for part in (logits[:count], logits[count:]))
        self.changes = change(*({key: value[rows] for key, value in run.kept.items()} for rows in halves))
        # Of the clean run alone, so that the other's memory is free.
        self.kept = {key: run.kept.pop(key)[:count].clone() for key in list(run.kept)}
        self.last, self.calls = states[:count].clone(), run.calls["module"].calls

    def run(self, edges: Sequence[Edge], progress: Progress | None, cancel: Callable[[], bool] | None) -> EdgeEffects:
        """Effects of all edges, receivers of one layer and kind together."""
        by_prompt = np.empty((len(edges), len(self.batch)))
        groups: dict[tuple[int, str], list[int]] = {}
        for i, edge in enumerate(edges):
            layer = len(self.anatomy.blocks) if edge.target.layer is None else edge.target.layer
            groups.setdefault((layer, edge.into), []).append(i)
        step = max(1, CUT_TOKENS // (self.batch.n_tokens * len(self.batch)))
        tick = ticking("cutting each edge", len(edges), progress, cancel, unit="edges")
        for (layer, _), group in groups.items():
            for start in range(0, len(group), step):
                chunk = group[start : start + step]
                tick(len(chunk))
                by_prompt[chunk] = self._cut(layer, [edges[i] for i in chunk]) - self.clean
        tick(0)
        count = 2 * len(self.batch) + len(edges) * len(self.batch)
        return EdgeEffects(
            tuple(edges), by_prompt, self.clean, self.corrupted, self.metric.name, self.metric.unit, count
        )

    def _cut(self, layer: int, edges: Sequence[Edge]) -> np.ndarray:
        """[edge, prompt] metric with each edge cut; all end in one layer and kind."""
        changes = torch.stack([self._change(edge) for edge in edges])
        times = len(edges)
        if layer == len(self.anatomy.blocks):
            states = (upcast(self.last) + changes).to(self.last.dtype).flatten(0, 1)
        else:
            run = Pass(self.loaded, times * len(self.batch))
            into = edges[0].into
            site = self.reads_mlp if into == "mlp" else "resid_pre"
            norm: Literal["attention", "mlp"] = "mlp" if into == "mlp" else "attention"
            moved = read_through_norm(self.anatomy, layer, norm, state=self.kept[site, layer], change=changes)
            if into == "mlp":
                run.edit("mlp_in", layer, moved.flatten(0, 1).add)
            else:
                run.edit(into, layer, partial(self._shifted, layer, edges, moved))
            # Nothing below the receiver changes, so each row starts from the clean state at its layer.
            entering = self.kept["resid_pre", layer].repeat(times, 1, 1)
            prompt = torch.arange(len(self.batch), device="cpu").repeat(times)
            states = run.resume(entering, layer, self.calls, prompt)
        logits = answer_logits(self.loaded, states, self.batch.positions.repeat(times))
        measured: np.ndarray = _numbers(self.metric(logits, self.answers.repeated(times)))
        return measured.reshape(times, len(self.batch))

    def _shifted(self, layer: int, edges: Sequence[Edge], moved: Tensor, heads: Tensor) -> Tensor:
        # A copy: the output of the projection belongs to the model's pass.
        result: Tensor = heads.clone().unflatten(0, (len(edges), -1))
        for n, edge in enumerate(edges):
            head = edge.target.head or 0
            result[n, :, :, head] += head_shift(self.anatomy, layer, edge.into, head=head, moved=moved[n])
        shifted: Tensor = result.flatten(0, 1)
        return shifted

    def _change(self, edge: Edge) -> Tensor:
        change = self.changes[sender_index(self.anatomy, edge.source)]
        if edge.position is None:
            return change
        only = torch.zeros_like(change)
        only[:, edge.position] = change[:, edge.position]
        return only


def _numbers(values: Tensor) -> Any:
    return values.double().cpu().numpy()
