"""Runs in which all but some edges, or some heads, are ablated: prompts of one length together, references made once.

When all but a circuit is ablated, a receiver sees two things: the current output of each sender with an edge in the circuit, and
the reference of every other sender.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..errors import ArgumentError, PromptError
from ..interventions.ablation import Ablation, answer_logits, answer_tokens_of
from ..interventions.changes import Reference, changed
from ..interventions.edges import Edge, Into, check_edge, receivers, require_sum, sender_index, senders_before
from ..interventions.metrics import AnswerTokens, Metric
from ..interventions.passes import Pass
from ..interventions.plan import Plan
from ..interventions.prompts import Batch, Prompt, Prompts, batch_of, prompts_of
from ..interventions.senders import Changes, head_shift, keep_senders, read_through_norm, written
from ..interventions.ticks import Tick
from ..models import LoadedModel
from ..models.anatomy import Anatomy, upcast
from ..tasks import Example, TaskData
from ..tracing import explained_of_row
from ..values.inputs import row_of

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
    lengths: dict[int, list[int]] = {}
    for row, prompt in enumerate(clean):
        lengths.setdefault(prompt.length, []).append(row)
    parts = []
    for n_tokens, rows in lengths.items():
        together = _to_average(averaged, n_tokens, reference is None) if how == "mean" else []
        step = max(1, _BYTES // (bytes_of_token * n_tokens))
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
    circuits: Sequence[Bool[Tensor, "receiver sender"]],
    *,
    how: Ablation,
    reference: Prompts | None,
    metric: Metric,
    tick: Tick,
) -> tuple[Float[np.ndarray, "circuit prompt"], Float[np.ndarray, "prompt"]]:
    """[circuit, prompt] metric with all edges ablated but those of each circuit, and [prompt] metric of the whole model.

    ``circuits`` are masks of :func:`edge_mask`; ``tick`` is called before each run of some prompts with one circuit, with the
    number of these prompts.
    """
    anatomy = loaded.anatomy
    senders = 1 + len(anatomy.blocks) * (anatomy.n_heads + 1)
    # What senders wrote in the reference, what they write now, and a copy in between.
    parts = parts_of(loaded, task, how, reference=reference, bytes_of_token=3 * senders * anatomy.d_model * 4)
    measured, full = np.empty((len(circuits), len(task))), np.empty(len(task))
    with loaded.lock, torch.no_grad():
        for part in parts:
            rows, batch = list(part.rows), part.clean
            logits = answer_logits(loaded, Pass(loaded, len(batch)).run(batch.feed), batch.positions)
            answers = answer_tokens_of(batch, logits)
            full[rows] = _numbers(metric(logits, answers))
            wrote = _written(loaded, part, how)
            for n, kept in enumerate(circuits):
                tick(len(rows))
                run = Pass(loaded, len(batch))
                KeptEdges(run, wrote, kept).install()
                states = run.run(batch.feed)
                measured[n, rows] = _numbers(metric(answer_logits(loaded, states, batch.positions), answers))
    tick(0)
    return measured, full


def edge_mask(anatomy: Anatomy, edges: Sequence[Edge]) -> Bool[Tensor, "receiver sender"]:
    """[receiver, sender] True where there is one of the edges; receivers in the order of :func:`receivers`.

    Raises
    ------
    ArgumentError
        If the model has no such edge, or one is restricted to a position.
    UnsupportedReadingError
        If the model has no edges.
    """
    require_sum(anatomy)
    places = {receiver: n for n, receiver in enumerate(receivers(anatomy))}
    mask = torch.zeros(len(places), 1 + len(anatomy.blocks) * (anatomy.n_heads + 1), dtype=torch.bool, device="cpu")
    for edge in edges:
        if edge.position is not None:
            raise ArgumentError(
                f"{edge} is restricted to a position, which is not the same place in all prompts; give a circuit without "
                "positions, or test this one prompt with ablate(…, outside=True)"
            )
        check_edge(anatomy, edge)
        mask[places[edge.target, edge.into], sender_index(anatomy, edge.source)] = True
    return mask


def all_edges(anatomy: Anatomy) -> Bool[Tensor, "receiver sender"]:
    """[receiver, sender] True for every edge that the model has."""
    counts = torch.tensor(
        [senders_before(anatomy, node.layer, into) for node, into in receivers(anatomy)], device="cpu"
    )
    senders = torch.arange(1 + len(anatomy.blocks) * (anatomy.n_heads + 1), device="cpu")
    return senders < counts[:, None]


class HeadRuns:
    """Prompts that can be run with any heads ablated, at all positions; MLPs stay as they are.

    Attributes
    ----------
    full
        [prompt] metric of the whole model.
    """

    def __init__(
        self, loaded: LoadedModel, task: TaskData, how: Ablation, reference: Prompts | None, metric: Metric
    ) -> None:
        anatomy = loaded.anatomy
        self.loaded, self.metric, self.full = loaded, metric, np.empty(len(task))
        size = len(anatomy.blocks) * anatomy.n_heads * anatomy.d_value * 4
        self.parts: list[tuple[Part, AnswerTokens, Reference]] = []
        with loaded.lock, torch.no_grad():
            for part in parts_of(loaded, task, how, reference=reference, bytes_of_token=size):
                batch = part.clean
                logits = answer_logits(loaded, Pass(loaded, len(batch)).run(batch.feed), batch.positions)
                answers = answer_tokens_of(batch, logits)
                self.full[list(part.rows)] = _numbers(metric(logits, answers))
                self.parts.append((part, answers, _heads_of(loaded, part, how)))

    def without(self, ablated: Bool[np.ndarray, "layer head"]) -> Float[np.ndarray, "prompt"]:
        """[prompt] metric with some heads ablated."""
        heads, measured = torch.from_numpy(ablated), np.empty_like(self.full)
        with self.loaded.lock, torch.no_grad():
            for part, answers, reference in self.parts:
                batch = part.clean
                everywhere = heads[..., None].expand(-1, -1, batch.n_tokens)
                plan = Plan(
                    self.loaded.anatomy,
                    batch.n_tokens,
                    everywhere,
                    torch.zeros(len(heads), batch.n_tokens, device="cpu").bool(),
                )
                states = changed(self.loaded, batch.feed, plan, reference)
                logits = answer_logits(self.loaded, states, batch.positions)
                measured[list(part.rows)] = _numbers(self.metric(logits, answers))
        return measured


class KeptEdges:
    """The edits of a pass in which every receiver sees the reference of the senders whose edges to it are not kept."""

    def __init__(self, run: Pass, reference: Tensor | None, kept: Bool[Tensor, "receiver sender"]) -> None:
        self.run, self.anatomy, self.changes = run, run.anatomy, Changes(run, reference)
        self.cut = all_edges(run.anatomy) & ~kept
        self.rows: dict[tuple[int | None, Into], list[int]] = {}
        for n, (node, into) in enumerate(receivers(run.anatomy)):
            self.rows.setdefault((node.layer, into), []).append(n)
        self.moved: dict[tuple[int, str], Tensor] = {}

    def install(self) -> None:
        """Add the edits; where nothing is cut there is none, so that the pass is the model's own."""
        keep_senders(self.run)
        self.reads_mlp = "resid_pre" if self.anatomy.wiring == "parallel" else "resid_mid"
        for (layer, into), rows in self.rows.items():
            if not self.cut[rows].any():
                continue
            if layer is None:
                self.run.edit("final", len(self.anatomy.blocks) - 1, partial(self._into_logits, rows))
            elif into == "mlp":
                self.run.keep((self.reads_mlp,), [layer])
                self.run.edit("mlp_in", layer, partial(self._into_mlp, layer, rows))
            else:
                self.run.keep(("resid_pre",), [layer])
                self.run.edit(into, layer, partial(self._into_heads, layer, into, rows))

    def _into_heads(self, layer: int, into: Into, rows: list[int], heads: Tensor) -> Tensor:
        # Heads whose edges are cut alike read the same change, so the norm runs once for all of them.
        cuts, alike = torch.unique(self.cut[rows], dim=0, return_inverse=True)
        result = heads.clone()
        for n, cut in enumerate(cuts):
            if cut.any():
                moved = self._through_norm(layer, "attention", "resid_pre", cut)
                for head in (alike == n).nonzero()[:, 0].tolist():
                    result[:, :, head] += head_shift(self.anatomy, layer, into, head=head, moved=moved)
        return result

    def _into_mlp(self, layer: int, rows: list[int], reads: Tensor) -> Tensor:
        return reads + self._through_norm(layer, "mlp", self.reads_mlp, self.cut[rows[0]])

    def _into_logits(self, rows: list[int], state: Tensor) -> Tensor:
        return (upcast(state) + self._change(self.cut[rows[0]])).to(state.dtype)

    def _through_norm(self, layer: int, norm: Literal["attention", "mlp"], site: str, cut: Tensor) -> Tensor:
        """Change of a receiver's input after its norm. Receivers of a layer whose cut edges are equal share one change."""
        # The key holds layer, norm and cut senders: all that the change depends on within one pass.
        key = (layer, norm + "".join(map(str, cut.int().tolist())))
        if key not in self.moved:
            # Layers run in order, so changes of an earlier layer are never read again and free their memory.
            if self.moved and next(iter(self.moved))[0] != layer:
                self.moved.clear()
            self.moved[key] = read_through_norm(
                self.anatomy, layer, norm, state=self.run.kept[site, layer], change=self._change(cut)
            )
        return self.moved[key]

    def _change(self, cut: Bool[Tensor, "sender"]) -> Float[Tensor, "row position d_model"]:
        """Σ over the cut senders of their reference less their output now."""
        # Later senders have not written yet when this reader runs.
        last = int(cut.nonzero()[-1, 0]) + 1
        changes = self.changes.upto(last)
        summed: Tensor = (cut[:last].to(changes) @ changes.flatten(1)).view(changes.shape[1:])
        return summed


def _prompts(loaded: LoadedModel, example: Example) -> Iterator[Prompt]:
    """The clean prompt with its answers, and the corrupted one."""
    clean, corrupted = (row_of(loaded, one, "data") for one in (example.clean, example.corrupted))
    is_class = loaded.anatomy.readout is not None
    at = [explained_of_row(loaded, row) if is_class else clean.length - 1 for row in (clean, corrupted)]
    target, foil = (loaded.answers.target_id(getattr(example, name), name) for name in ("target", "foil"))
    yield Prompt(clean, at[0], target, foil)
    yield Prompt(corrupted, at[1])


def _to_average(prompts: Sequence[Prompt], n_tokens: int, from_data: bool) -> list[Prompt]:
    found = [prompt for prompt in prompts if prompt.length == n_tokens]
    if len(found) < 2:
        where = "the corrupted prompts of data" if from_data else "reference="
        raise PromptError(
            f"how='mean' averages position by position, and {where} hold {len(found)} of {n_tokens} tokens, the length of some "
            "prompt of data; give at least two of each length as reference=, or say how='resample'"
        )
    return found


def _written(loaded: LoadedModel, part: Part, how: Ablation) -> Tensor | None:
    """[sender, row or 1, position, d_model] the senders' output in the reference."""
    if part.others is None:
        return None
    if how == "mean":
        # As many prompts at a time as run together anyway, so a large set to average needs no more memory.
        return written_on_average(loaded, part.others.split(len(part.clean)))
    return written_in(loaded, part.others)


def written_on_average(loaded: LoadedModel, batches: Sequence[Batch]) -> Float[Tensor, "sender 1 position d_model"]:
    """Mean output of every sender over all prompts of some batches."""
    total = sum(written_in(loaded, batch).sum(1, keepdim=True) for batch in batches)
    assert isinstance(total, Tensor)
    return total / sum(map(len, batches))


def written_in(loaded: LoadedModel, batch: Batch) -> Float[Tensor, "sender row position d_model"]:
    """Output of every sender in these prompts."""
    run = Pass(loaded, len(batch))
    keep_senders(run)
    run.run(batch.feed)
    return written(loaded.anatomy, run.kept)


def _heads_of(loaded: LoadedModel, part: Part, how: Ablation) -> Reference:
    """Outputs z of the heads of every layer in the reference; averaged if ``how`` is ``"mean"``."""
    places = range(part.clean.n_tokens)
    if part.others is None:
        return Reference(None, False, places)
    run = Pass(loaded, len(part.others))
    run.keep(("z",))
    run.run(part.others.feed)
    if how == "mean":
        run.kept = {key: upcast(z).mean(0, keepdim=True).to(z.dtype) for key, z in run.kept.items()}
    return Reference(run.kept, False, places)


def _numbers(values: Tensor) -> Any:
    return values.double().cpu().numpy()
