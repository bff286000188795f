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
from .edges import Edge, check_edge, edge_network
from .metrics import Metric, metric_of
from .network import LAST, Added, KeptOf, Network, Reader
from .passes import Edit, Pass
from .prompts import Answers, Batch, Prompts, batch_of, prompts_of
from .senders import (
    Changed,
    each_alone,
    emptied,
    head_shift,
    keep_senders,
    keep_states,
    kept_of,
    pass_of,
    written_change,
)
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
    if how not in get_args(Literal["noise", "zero"]):
        raise ArgumentError(f"how={how!r} must be 'noise' or 'zero'")
    if not edges:
        raise ArgumentError("edges is empty; give at least one Edge")
    found = prompts_of(loaded, clean, "clean", target=target, foil=foil)
    others = one_for_each(found, prompts_of(loaded, corrupted, "corrupted"), "corrupted")
    both = batch_of(loaded, [*found, *others], "clean and corrupted")
    batch = batch_of(loaded, found, "clean")
    network = edge_network(loaded.anatomy)
    for edge in edges:
        check_edge(network, edge)
        count = batch.n_source if network.reader(edge.target, edge.into).reads.name else batch.n_tokens
        if edge.position is not None and edge.position >= count:
            raise ArgumentError(f"{edge}: position={edge.position} is outside the prompt of {count} tokens")

    def change(kept: KeptOf, other: KeptOf) -> Changed:
        return written_change(network, kept, other) if how == "noise" else emptied(network, kept)

    with loaded.lock, torch.no_grad():
        return Cuts(loaded, network, batch, both, change, metric_of(metric)).run(edges, progress, cancel)


class Cuts:
    """The clean run, and the difference of each sender's output to the other run."""

    def __init__(
        self, loaded: LoadedModel, network: Network, batch: Batch, both: Batch, change: Callable[[KeptOf, KeptOf], Changed], metric: Metric,
    ) -> None:  # fmt: skip
        self.loaded, self.network, self.metric, self.batch = loaded, network, metric, batch
        count = len(batch)
        # Both runs in one batch: rows of equal input then round alike, so an edge that changes nothing has effect 0.
        run = Pass(loaded, len(both))
        keep_senders(run, network)
        keep_states(run, network)
        run.keep(("resid_pre",))
        run.keep_calls()
        states = run.run(both.feed)
        logits = answer_logits(loaded, states, both.positions)
        self.answers = answer_tokens_of(batch, logits[:count])
        self.clean, self.corrupted = (_numbers(metric(part, self.answers)) for part in (logits[:count], logits[count:]))
        whole = kept_of(run, network)
        self.changes = change(
            *({name: {key: x[rows] for key, x in of.items()} for name, of in whole.items()}
              for rows in (slice(count), slice(count, None)))
        )  # fmt: skip
        # Of the clean run alone, so that the other's memory is free.
        self.kept = network.by_tower(
            lambda tower: {key: of.pop(key)[:count].clone() for of in [pass_of(run, tower).kept] for key in list(of)}
        )
        self.last, self.calls = states[:count].clone(), run.calls["module"].calls

    def run(self, edges: Sequence[Edge], progress: Progress | None, cancel: Callable[[], bool] | None) -> EdgeEffects:
        """Effects of all edges, those into one reader together."""
        by_prompt = np.empty((len(edges), len(self.batch)))
        groups: dict[int, list[int]] = {}
        for i, edge in enumerate(edges):
            reader = self.network.readers.index(self.network.reader(edge.target, edge.into))
            groups.setdefault(reader, []).append(i)
        step = max(1, CUT_TOKENS // (sum(self.batch.lengths) * len(self.batch)))
        tick = ticking("cutting each edge", len(edges), progress, cancel, unit="edges")
        for number, group in groups.items():
            reader_of_group = self.network.readers[number]
            for start in range(0, len(group), step):
                chunk = group[start : start + step]
                tick(len(chunk))
                by_prompt[chunk] = self._cut(reader_of_group, [edges[i] for i in chunk]) - self.clean
        tick(0)
        count = 2 * len(self.batch) + len(edges) * len(self.batch)
        return EdgeEffects(
            tuple(edges), by_prompt, self.clean, self.corrupted, self.metric.name, self.metric.unit, count
        )

    def _cut(self, reader: Reader, edges: Sequence[Edge]) -> np.ndarray:
        """[edge, prompt] metric with each edge cut; all end in one reader."""
        times = len(edges)
        moved = reader.moved(self.kept, self._added(reader, edges))
        if reader.layer is None:
            states = (upcast(self.last) + moved).to(self.last.dtype).flatten(0, 1)
        else:
            states = self._run(reader, edges, moved)
        logits = answer_logits(self.loaded, states, self.batch.positions.repeat(times))
        measured: np.ndarray = _numbers(self.metric(logits, self.answers.repeated(times)))
        return measured.reshape(times, len(self.batch))

    def _run(self, reader: Reader, edges: Sequence[Edge], moved: Float[Tensor, "edge prompt position d_in"]) -> Tensor:
        """[row, position, d_model] last states of runs in which a receiver reads something else, a row for each edge and prompt."""
        times = len(edges)
        run = Pass(self.loaded, times * len(self.batch))
        if reader.into == "mlp":
            edit: Edit = moved.flatten(0, 1).add
        else:
            edit = partial(self._shifted, reader, edges, moved)
        pass_of(run, reader.owner).edit(reader.site, reader.at, edit)
        if reader.owner.name:
            # What an encoder's reader changes goes through its end and through the whole decoder.
            return run.run({name: torch.cat([value] * times) for name, value in self.batch.feed.items()})
        # Nothing below the receiver changes, so each row starts from the clean state at its layer.
        entering = self.kept[LAST]["resid_pre", reader.at].repeat(times, 1, 1)
        prompt = torch.arange(len(self.batch), device="cpu").repeat(times)
        return run.resume(entering, reader.at, self.calls, prompt)

    def _shifted(self, reader: Reader, edges: Sequence[Edge], moved: Tensor, heads: Tensor) -> Tensor:
        # A copy: the output of the projection belongs to the model's pass.
        result: Tensor = heads.clone().unflatten(0, (len(edges), -1))
        for n, edge in enumerate(edges):
            receiver = edge.target.head or 0
            result[n, :, :, receiver] += head_shift(reader, receiver, moved[n])
        shifted: Tensor = result.flatten(0, 1)
        return shifted

    def _added(self, reader: Reader, edges: Sequence[Edge]) -> Added:
        """The change of each edge's sender, at the edge's position where it has one."""
        changes = self.changes[reader.reads.name]
        senders = torch.tensor([reader.reads.index(edge.source) for edge in edges], device="cpu")
        alone = each_alone(changes, senders)
        at = torch.tensor([-1 if edge.position is None else edge.position for edge in edges], device=changes.device)
        if bool((at < 0).all()):
            return alone
        everywhere = torch.arange(changes.shape[2], device=changes.device)
        mask = ((at[:, None] < 0) | (at[:, None] == everywhere))[:, None, :, None]
        return lambda some: alone(some) * mask.to(changes)


def _numbers(values: Tensor) -> Any:
    return values.double().cpu().numpy()
