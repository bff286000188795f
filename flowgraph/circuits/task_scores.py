"""Scores of heads on a task: their attention to the answer, their first-order importance, and the exact effect of ablation."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor

from ..interventions.ablation import Ablation
from ..interventions.gradients import backward
from ..interventions.head_effects import HeadEffects, head_effects
from ..interventions.metrics import Metric
from ..interventions.network import LAST
from ..interventions.passes import Pass
from ..interventions.prompts import Batch
from ..interventions.stack_sweep import CROSS
from ..lenses.head_scores import HeadScore
from ..models import LoadedModel
from ..models.anatomy import upcast
from ..models.wheel import Progress
from ..tasks import TaskData
from .detectors import Kind
from .runs import Cancel, Part, parts_of

TASK_SCORES = ("answer", "importance", "ablation_effect")


def task_scores(
    loaded: LoadedModel,
    task: TaskData,
    how: Ablation,
    metric: Metric,
    progress: Progress | None,
    cancel: Cancel | None,
    *,
    crossing: bool,
) -> tuple[dict[str, HeadScore], dict[str, str]]:
    """Scores on a task, and why one is not defined."""
    anatomy = loaded.anatomy.reader_of_encoder if crossing else loaded.anatomy
    kind: Kind = "cross_head" if crossing else "head"
    shape = (len(anatomy.blocks), anatomy.n_heads)
    sums = {name: np.zeros(shape) for name in TASK_SCORES}
    # What a backward pass keeps: queries, keys, values, what heads hand on, states, neurons, and the gradients of it all.
    size = shape[0] * 4 * (16 * anatomy.d_model + 3 * anatomy.mlp_width)
    parts = parts_of(loaded, task, how, reference=None, bytes_of_token=size)
    answers, done = 0, 0
    for part in parts:
        share = (done / len(task), len(part.rows) / len(task))
        watch = None if progress is None else partial(_part_of, progress, *share)
        found_effects = _effects(loaded, task, part, how, metric, watch, cancel)
        own = found_effects.further[CROSS] if crossing else found_effects.by_prompt
        sums["ablation_effect"] += own.sum(0)
        with loaded.lock:
            sums["importance"] += _importance(loaded, part.clean, metric, crossing=crossing)
            looked, found = _looked_at(loaded, part.clean, crossing=crossing)
        sums["answer"] += looked
        answers += found
        done += len(part.rows)
    about = {
        "answer": f"mean attention from the explained position to where the answer's token stands{' in the source' if crossing else ''}",
        "importance": f"mean |Σ_t z · ∂m/∂z| over the prompts, m the {metric.name}",
        "ablation_effect": f"mean change of the {metric.name} without the head, {how} ablation",
    }
    scores = {
        name: HeadScore(name, sums[name] / len(task), metric.unit, None, None, len(task), about[name], kind)
        for name in ("importance", "ablation_effect")
    }
    if not answers:
        return scores, {"answer": "the answer's token stands in no prompt of the task"}
    return scores | {
        "answer": HeadScore("answer", sums["answer"] / answers, "share", 0.0, 1.0, answers, about["answer"], kind)
    }, {}


def _importance(loaded: LoadedModel, batch: Batch, metric: Metric, *, crossing: bool) -> np.ndarray:
    """[layer, head] Σ over the prompts of |Σ_t z · ∂m/∂z|."""
    found, forward = backward(loaded, batch, metric)
    anatomy = loaded.anatomy.reader_of_encoder if crossing else loaded.anatomy
    site, gradient = ("cross_z", found.cross_z) if crossing else ("z", found.z)
    outputs = torch.stack([upcast(forward.kept[LAST][site, layer]) for layer in range(len(anatomy.blocks))])
    outputs = outputs.unflatten(-1, (anatomy.n_heads, anatomy.d_value))
    # The sum over positions comes before the absolute value: a head counts by its net effect on a prompt.
    summed: np.ndarray = torch.einsum("lpthd,lpthd->lph", outputs, gradient).abs().sum(1).double().cpu().numpy()
    return summed


def _looked_at(loaded: LoadedModel, batch: Batch, *, crossing: bool) -> tuple[np.ndarray, int]:
    """[layer, head] Σ over the prompts of the attention to the answer's token, and in how many prompts it stands."""
    anatomy = loaded.anatomy.reader_of_encoder if crossing else loaded.anatomy
    sums = np.zeros((len(anatomy.blocks), anatomy.n_heads))
    rows = torch.arange(len(batch), device=batch.ids.device)
    # Tokens after the explained position cannot be looked at from there.
    seen = torch.arange(batch.n_tokens, device=batch.ids.device) <= batch.positions[:, None]
    keys = (batch.ids == batch.targets[:, None]) & seen
    if crossing:
        read = (batch.source or {}).get("input_ids")
        keys = torch.zeros_like(keys[:, :1]) if read is None else read == batch.targets[:, None]
    if anatomy.labels is not None or batch.values is not None:
        # An answer that is a class stands nowhere among the positions.
        keys = torch.zeros_like(keys)

    def add_up(layer: int, pattern: Tensor) -> Tensor:
        at = upcast(pattern[rows, :, batch.positions])
        sums[layer] = torch.einsum("rhs,rs->h", at, keys.to(at)).double().cpu().numpy()
        return pattern

    run = Pass(loaded, len(batch))
    for layer in range(len(anatomy.blocks)):
        run.edit("cross_pattern" if crossing else "pattern", layer, partial(add_up, layer))
    with torch.no_grad():
        run.run(batch.feed)
    return sums, int(keys.any(1).sum())


def _effects(
    loaded: LoadedModel, task: TaskData, part: Part, how: Ablation, metric: Metric, progress: Progress | None,
    cancel: Cancel | None,
) -> HeadEffects:  # fmt: skip
    """The change without each head."""
    examples = [task.examples[row] for row in part.rows]
    others = None if part.others is None else part.others.inputs
    return head_effects(
        loaded, part.clean.inputs, others, how, target=[example.target for example in examples],
        foil=[example.foil for example in examples], metric=metric, progress=progress, cancel=cancel,
    )  # fmt: skip


def _part_of(progress: Progress, start: float, share: float, stage: str, done: float | None) -> None:
    """Progress of one part of the prompts as progress of the whole."""
    progress(stage, None if done is None else start + share * done)
