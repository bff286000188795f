"""Selection of the shown parts of a sum: four measures of strength, and the strongest parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

Measure = Literal["contribution", "norm", "attention", "target"]
MEASURES: tuple[str, ...] = get_args(Measure)


@dataclass(frozen=True)
class Choice:
    """The shown parts of a layer at a position.

    Attributes
    ----------
    heads
        Number of heads, the strongest; or the heads themselves; None: all.
    sources, rows, neurons
        Sources of each head, rows of the output projection and neurons of each block.
    select
        Measure that chooses them.
    """

    heads: int | tuple[int, ...] | None
    sources: int
    rows: int
    neurons: int
    select: Measure


def made_up(
    rows: Float[Tensor, "*n d_model"], amounts: Float[Tensor, "*n"], whole: Float[Tensor, "d_model"]
) -> Float[Tensor, "*n"]:
    """[…] part of the whole that each ``amount · row`` makes up: ⟨part, whole⟩ / ⟨whole, whole⟩; sums to 1 over all parts."""
    size = whole @ whole
    part: Tensor = amounts * (rows @ whole) / torch.where(size > 0, size, torch.ones_like(size))
    return part


def measured(
    select: Measure,
    rows: Float[Tensor, "*n d_model"],
    amounts: Float[Tensor, "*n"],
    *,
    whole: Float[Tensor, "d_model"],
    direction: Float[Tensor, "d_model"] | None,
) -> Float[Tensor, "*n"]:
    """[…] strength of each part ``amount · row``, at least 0.

    Parameters
    ----------
    select
        ``"contribution"``: the part of the whole that it makes up. ``"norm"``: its length. ``"attention"``: the amount alone,
        a probability or an activation. ``"target"``: its logit in the direction of the target.
    rows, amounts
        The parts.
    whole
        [d_model] their sum.
    direction
        [d_model] direction of the target's logit; needed for ``"target"``.
    """
    found: Tensor
    if select == "contribution":
        found = made_up(rows, amounts, whole)
    elif select == "norm":
        found = amounts * rows.norm(dim=-1)
    elif select == "attention":
        found = amounts
    else:
        assert direction is not None
        found = amounts * (rows @ direction)
    return found.abs()


def strongest(measure: Float[Tensor, "n"], count: int) -> Int[Tensor, "k"]:
    """Indices of the ``count`` strongest parts, the strongest first; parts of strength 0 are never among them."""
    order = torch.argsort(measure, descending=True, stable=True)[:count]
    # A part of measure 0 would only fill a place.
    return order[measure[order] > 0]


def coverage(measure: Float[Tensor, "n"], shown: Int[Tensor, "k"]) -> float:
    """Part of Σ measure that the shown parts hold, between 0 and 1."""
    # In double precision: a layer has thousands of neurons.
    total = float(measure.double().sum())
    return float(measure[shown].double().sum()) / total if total else 1.0
