"""Runs in which all but some edges, or some heads, are ablated: prompts of one length together, references made once.

When all but a circuit is ablated, a receiver sees two things: the current output of each sender with an edge in the circuit, and
the reference of every other sender.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..charts.text import printable
from ..errors import ArgumentError, PromptError
from ..interventions.ablation import Ablation, answer_logits, answer_tokens_of
from ..interventions.changes import Reference, changed, recorded, reference_of
from ..interventions.metrics import AnswerTokens, Metric
from ..interventions.network import Network, Reader, network_of
from ..interventions.passes import Pass
from ..interventions.plan import Plan, plan_of
from ..interventions.prompts import Batch, Lengths, Prompt, Prompts, batch_of, in_words, prompts_of
from ..interventions.senders import Changed, Changes, keep_senders, kept_of, pass_of, shifted, states_of, written
from ..interventions.ticks import Tick
from ..models import LoadedModel
from ..models.anatomy import Anatomy, upcast
from ..tasks import Example, TaskData
from ..tracing import explained_of_row
from ..values.inputs import row_of
from ..values.node import Node

Data = TaskData | Sequence[Example]
"""A task, or examples of one."""
Cancel = Callable[[], bool]

_BYTES = 2**28
"""Memory for the senders' outputs; prompts that need more run in parts, one after the other."""


@dataclass(frozen=True, eq=False)
class Part:
    """Prompts of one length that run together.

    Attributes
    ----------
    rows
        Numbers of the prompts among all examples.
    clean
        The prompts, with their answers.
    others
        Prompts of the reference: a corrupted prompt for each, or the prompts to average; None for zero ablation.
    """

    rows: tuple[int, ...]
    clean: Batch
    others: Batch | None


def task_of(loaded: LoadedModel, data: Data) -> TaskData:
    """The data as a task whose examples are known to fit the model.

    Raises
    ------
    ArgumentError
        If there is no example, or one that does not fit.
    TargetError
        If an answer is not one token.
    """
    if not isinstance(data, TaskData):
        if not isinstance(data, Sequence):
            raise ArgumentError(
                f"data= is a {type(data).__name__}; expected a TaskData, or a list of flowgraph.Example objects"
            )
        strange = [one for one in data if not isinstance(one, Example)]
        if strange:
            raise ArgumentError(
                f"data holds {strange[0]!r} ({type(strange[0]).__name__}); expected a TaskData, or flowgraph.Example objects"
            )
        data = TaskData("examples", "examples that were given", tuple(data))
    return data.checked(loaded)


def corruption_of(task: TaskData, how: Ablation, reference: Prompts | None) -> str:
    """The corruption of a task; empty where an ablation uses no corrupted prompt."""
    return "" if how == "zero" or reference is not None else task.corruption


def ablation_text(how: str, corruption: str) -> str:
    """An ablation and its corruption in words."""
    return f"{how} ablation, corruption {printable(corruption)}" if corruption else f"{how} ablation"


def parts_of(
    loaded: LoadedModel, task: TaskData, how: Ablation, *, reference: Prompts | None, bytes_of_token: int
) -> list[Part]:
    """Sort the examples of a task by length, and split each length into parts that fit into memory.

    Raises
    ------
    ArgumentError
        If ``how`` is not known, or ``reference`` is given where it is not averaged.
    PromptError
        If there are not two prompts of a length to average.
    """
    if how not in get_args(Ablation):
        raise ArgumentError(f"how={how!r} must be one of {', '.join(get_args(Ablation))}")
    if reference is not None and how != "mean":
        raise ArgumentError(
            f"reference= holds prompts to average, which how={how!r} does not; leave it out, or say how='mean'"
        )
    prompts = [prompt for example in task.examples for prompt in _prompts(loaded, example)]
    clean, corrupted = prompts[::2], prompts[1::2]
    averaged = corrupted if reference is None else prompts_of(loaded, reference, "reference")
    groups: dict[Lengths, list[int]] = {}
    for row, prompt in enumerate(clean):
        groups.setdefault(prompt.lengths, []).append(row)
    parts = []
    for lengths, rows in groups.items():
        together = _to_average(averaged, lengths, reference is None) if how == "mean" else []
        step = max(1, _BYTES // (bytes_of_token * sum(lengths)))
        for start in range(0, len(rows), step):
            chosen = rows[start : start + step]
            others = together or [corrupted[row] for row in chosen]
            parts.append(
                Part(
                    tuple(chosen),
                    batch_of(loaded, [clean[row] for row in chosen], "data"),
                    None if how == "zero" else batch_of(loaded, others, "reference"),
                )
            )
    return parts


def circuit_runs(
    loaded: LoadedModel,
    task: TaskData,
    network: Network,
    circuits: Sequence[Bool[Tensor, "sender receiver"]],
    *,
    how: Ablation,
    reference: Prompts | None,
    metric: Metric,
    tick: Tick,
) -> tuple[Float[np.ndarray, "circuit prompt"], Float[np.ndarray, "prompt"]]:
    """[circuit, prompt] metric with all edges ablated but those of each circuit, and [prompt] metric of the whole model.

    ``circuits`` are masks of :func:`flowgraph.interventions.edges.edge_mask`; ``tick`` is called before each run of some prompts with
    one circuit, with the number of these prompts.
    """
    width = max(tower.anatomy.d_model for tower in network.towers.values())
    # What senders wrote in the reference, what they write now, and a copy in between.
    parts = parts_of(loaded, task, how, reference=reference, bytes_of_token=3 * network.count * width * 4)
    measured, full = np.empty((len(circuits), len(task))), np.empty(len(task))
    with loaded.lock, torch.no_grad():
        for part in parts:
            rows, batch = list(part.rows), part.clean
            logits = answer_logits(loaded, Pass(loaded, len(batch)).run(batch.feed), batch.positions)
            answers = answer_tokens_of(batch, logits)
            full[rows] = _numbers(metric(logits, answers))
            wrote = _written(loaded, network, part, how)
            for n, kept in enumerate(circuits):
                tick(len(rows))
                run = Pass(loaded, len(batch))
                KeptEdges(run, network, wrote, kept).install()
                states = run.run(batch.feed)
                measured[n, rows] = _numbers(metric(answer_logits(loaded, states, batch.positions), answers))
    tick(0)
    return measured, full


class HeadRuns:
    """Prompts that can be run with any heads ablated, at all positions; MLPs stay as they are.

    Attributes
    ----------
    heads
        Every head of the model: of the encoder, and layer by layer of the decoder those that read itself and those that read the encoder.
    full
        [prompt] metric of the whole model.
    """

    def __init__(
        self, loaded: LoadedModel, task: TaskData, how: Ablation, reference: Prompts | None, metric: Metric
    ) -> None:
        self.loaded, self.metric, self.full = loaded, metric, np.empty(len(task))
        self.heads = tuple(
            node
            for tower in network_of(loaded.anatomy).towers.values()
            for node in tower.nodes
            if node.kind in ("head", "cross_head") and node.layer in tower.anatomy.attending
        )
        size = len(self.heads) * loaded.anatomy.d_value * 4
        self.parts: list[tuple[Part, AnswerTokens, Reference]] = []
        with loaded.lock, torch.no_grad():
            for part in parts_of(loaded, task, how, reference=reference, bytes_of_token=size):
                batch = part.clean
                logits = answer_logits(loaded, Pass(loaded, len(batch)).run(batch.feed), batch.positions)
                answers = answer_tokens_of(batch, logits)
                self.full[list(part.rows)] = _numbers(metric(logits, answers))
                self.parts.append((part, answers, _heads_of(loaded, part, self.heads, how)))

    def without(self, ablated: Bool[np.ndarray, "head"]) -> Float[np.ndarray, "prompt"]:
        """[prompt] metric with some heads ablated."""
        out = [node for node, is_out in zip(self.heads, ablated, strict=True) if is_out]
        measured = np.empty_like(self.full)
        with self.loaded.lock, torch.no_grad():
            for part, answers, reference in self.parts:
                batch, anatomy = part.clean, self.loaded.anatomy
                states = (
                    changed(self.loaded, batch.feed, plan_of_heads(anatomy, out, batch.lengths), reference)
                    if out
                    else Pass(self.loaded, len(batch)).run(batch.feed)
                )
                logits = answer_logits(self.loaded, states, batch.positions)
                measured[list(part.rows)] = _numbers(self.metric(logits, answers))
        return measured


class KeptEdges:
    """The edits of a pass in which every receiver sees the reference of the senders whose edges to it are not kept."""

    def __init__(
        self, run: Pass, network: Network, reference: Changed | None, kept: Bool[Tensor, "sender receiver"]
    ) -> None:
        self.run, self.network = run, network
        self.changes = Changes(run, network, reference)
        self.cut = network.possible & ~kept
        self.moved: dict[tuple[Any, ...], Tensor] = {}

    def install(self) -> None:
        """Add the edits; where nothing is cut there is none, so that the pass is the model's own."""
        keep_senders(self.run, self.network)
        for reader in self.network.readers:
            if not self.cut[reader.reads.all, reader.columns].any():
                continue
            for tower, site, layer in states_of(reader):
                pass_of(self.run, tower).keep((site,), [layer])
            pass_of(self.run, reader.owner).edit(reader.site, reader.at, partial(self._edited, reader))

    def _edited(self, reader: Reader, reads: Tensor) -> Tensor:
        # Receivers whose edges are cut alike read the same change, so the norm runs once for all of them.
        cuts, alike = torch.unique(self.cut[reader.reads.all, reader.columns].T, dim=0, return_inverse=True)
        moved: dict[int, Tensor] = {}
        for n, cut in enumerate(cuts):
            if cut.any():
                change = self._moved(reader, cut)
                moved |= dict.fromkeys((alike == n).nonzero()[:, 0].tolist(), change)
        return shifted(reader, reads, moved)

    def _moved(self, reader: Reader, cut: Bool[Tensor, "sender"]) -> Tensor:
        """Change of a receiver's input after its norm. Readers of one state whose cut edges are equal share one change."""
        # The key holds all that the change depends on within one pass.
        place = (reader.owner.name, reader.layer, reader.into == "mlp", reader.crossing, reader.reads.name)
        key = (*place, tuple(cut.tolist()))
        if key not in self.moved:
            # Layers run in order, so changes of an earlier one are never read again and free their memory.
            if self.moved and next(iter(self.moved))[:2] != key[:2]:
                self.moved.clear()
            self.moved[key] = reader.moved(kept_of(self.run, self.network), partial(self._added, reader, cut))
        return self.moved[key]

    def _added(self, reader: Reader, cut: Bool[Tensor, "sender"], some: slice) -> Float[Tensor, "row position d_model"]:
        """Σ over the cut senders of their reference less their output now."""
        chosen = cut[some].nonzero()
        # Later senders have not written yet when this reader runs.
        last = some.start + 1 + (int(chosen[-1, 0]) if len(chosen) else 0)
        changes = self.changes.upto(reader.reads, last)[some.start :]
        summed: Tensor = (cut[some.start : last].to(changes) @ changes.flatten(1)).view(changes.shape[1:])
        return summed


def _prompts(loaded: LoadedModel, example: Example) -> Iterator[Prompt]:
    """The clean prompt with its answers, and the corrupted one."""
    clean, corrupted = (row_of(loaded, one, "data") for one in (example.clean, example.corrupted))
    is_class = loaded.anatomy.readout is not None
    at = [explained_of_row(loaded, row) if is_class else clean.length - 1 for row in (clean, corrupted)]
    target, foil = (loaded.answers.target_id(getattr(example, name), name) for name in ("target", "foil"))
    yield Prompt(clean, at[0], target, foil)
    yield Prompt(corrupted, at[1])


def _to_average(prompts: Sequence[Prompt], lengths: Lengths, from_data: bool) -> list[Prompt]:
    found = [prompt for prompt in prompts if prompt.lengths == lengths]
    if len(found) < 2:
        where = "the corrupted prompts of data" if from_data else "reference="
        raise PromptError(
            f"how='mean' averages position by position, and {where} hold {len(found)} of {in_words(lengths)}, the length of some "
            "prompt of data; give at least two of each length as reference=, or say how='resample'"
        )
    return found


def _written(loaded: LoadedModel, network: Network, part: Part, how: Ablation) -> Changed | None:
    """Name of a tower → [sender, row or 1, position, d_model] the senders' output in the reference."""
    if part.others is None:
        return None
    if how == "mean":
        # As many prompts at a time as run together anyway, so a large set to average needs no more memory.
        return written_on_average(loaded, network, part.others.split(len(part.clean)))
    return written_in(loaded, network, part.others)


def written_on_average(loaded: LoadedModel, network: Network, batches: Sequence[Batch]) -> Changed:
    """Name of a tower → [sender, 1, position, d_model] mean output of every sender over all prompts of some batches."""
    total: dict[str, Tensor] = {}
    for batch in batches:
        for name, made in written_in(loaded, network, batch).items():
            summed = made.sum(1, keepdim=True)
            total[name] = total[name] + summed if name in total else summed
    return {name: summed / sum(map(len, batches)) for name, summed in total.items()}


def written_in(loaded: LoadedModel, network: Network, batch: Batch) -> Changed:
    """Name of a tower → [sender, row, position, d_model] output of every sender in these prompts."""
    run = Pass(loaded, len(batch))
    keep_senders(run, network)
    run.run(batch.feed)
    return written(network, kept_of(run, network))


def plan_of_heads(anatomy: Anatomy, heads: Sequence[Node], lengths: Lengths) -> Plan:
    """The plan that changes some heads at all positions."""
    return plan_of(anatomy, heads, lengths[0], outside=False, parts="nodes", n_source=lengths[1])


def _heads_of(loaded: LoadedModel, part: Part, heads: Sequence[Node], how: Ablation) -> Reference:
    """Outputs of all heads in the reference; averaged if ``how`` is ``"mean"``."""
    tokens, source = (range(length) for length in part.clean.lengths)
    if part.others is None:
        return Reference(None, False, tokens)
    plan = plan_of_heads(loaded.anatomy, heads, part.clean.lengths)
    kept = recorded(loaded, part.others.feed, plan)[0]
    if how == "mean":
        # Averaged once, and not again in each run.
        kept = {key: upcast(z).mean(0, keepdim=True).to(z.dtype) for key, z in kept.items()}
    return reference_of(kept, False, tokens, source, plan)


def _numbers(values: Tensor) -> Any:
    return values.double().cpu().numpy()
