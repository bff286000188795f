"""Bootstrap bands: how sure a mean over prompts is, from prompts drawn again out of the prompts."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from ..errors import ArgumentError

_LEAST_GAP = 1e-5
"""Below this part of the metric, a difference between two runs is rounding."""
Band = tuple[float, float] | None
"""Interval that holds a number in 95 % of the draws; None without draws."""


def draws_of(prompts: int, bootstrap: int, seed: int) -> Int[np.ndarray, "draw prompt"] | None:
    """[draw, prompt] how often each draw holds each prompt; a draw has as many as there are, with replacement. None for no bands.

    Raises
    ------
    ArgumentError
        If ``bootstrap`` is negative.
    """
    if bootstrap < 0:
        raise ArgumentError(f"bootstrap={bootstrap} must be 0 (no bands) or more")
    # One prompt drawn from one prompt is always the same: the band would claim certainty.
    if not bootstrap or prompts < 2:
        return None
    return np.random.default_rng(seed).multinomial(prompts, np.full(prompts, 1 / prompts), size=bootstrap)


def band_of(values: Float[np.ndarray, "draw"]) -> tuple[float, float]:
    """The middle 95 % of a number over the draws."""
    low, high = np.percentile(values, (2.5, 97.5))
    return float(low), float(high)


def mean_band(by_prompt: Float[np.ndarray, "prompt"], draws: Int[np.ndarray, "draw prompt"] | None) -> Band:
    """Band of a mean over the prompts."""
    return None if draws is None else band_of(draws @ by_prompt / len(by_prompt))


def area_under(values: Float[np.ndarray, "draw size"], sizes: Float[np.ndarray, "size"]) -> Float[np.ndarray, "draw"]:
    """[draw] the area under values over sizes, by trapezoids."""
    area: np.ndarray = (values[:, 1:] + values[:, :-1]) @ np.diff(sizes) / 2
    return area


def f_of(
    draws: Int[np.ndarray, "draw prompt"],
    by_prompt: Float[np.ndarray, "size prompt"],
    empty: Float[np.ndarray, "prompt"],
    full: Float[np.ndarray, "prompt"],
) -> Float[np.ndarray, "draw size"]:
    """[draw, size] f of each draw of prompts, from the metric of circuits, of no edge and of the whole model."""
    # Prompt by prompt and not as a product of matrices, which sums equal rows in different orders.
    measured = (draws[:, None] * by_prompt).sum(-1)
    whole, none = (draws * full).sum(-1)[:, None], (draws * empty).sum(-1)[:, None]
    # Draws without a gap are refused when a result is made; the division need not warn of them first.
    with np.errstate(divide="ignore", invalid="ignore"):
        found: np.ndarray = (measured - none) / (whole - none)
    return found


def check_gap(
    by_prompt: Float[np.ndarray, "size prompt"],
    empty: Float[np.ndarray, "prompt"],
    full: Float[np.ndarray, "prompt"],
    draws: Int[np.ndarray, "draw prompt"] | None,
    metric: str,
    how: str,
) -> None:
    """Refuse prompts on which the whole model does what no edge does.

    Raises
    ------
    ArgumentError
        If there is no gap, or none in some draw.
    """
    whole, none = float(full.mean()), float(empty.mean())
    if abs(whole - none) <= _LEAST_GAP * max(abs(whole), abs(none)):
        raise ArgumentError(
            f"the whole model has {metric} {whole:.6g} and with no edge {none:.6g} ({how} ablation): there is nothing "
            "that a circuit could keep, so no faithfulness; give examples whose corrupted prompts change the answer, or "
            "another metric"
        )
    if draws is not None and not np.isfinite(f_of(draws, by_prompt, empty, full)).all():
        raise ArgumentError(
            f"in some draws of the {len(full)} prompts the whole model is no better than no edge, so there is no band; give "
            "more prompts, leave out those whose corrupted prompt changes nothing, or say bootstrap=0"
        )


def with_band(value: float, band: Band) -> str:
    """A number and its band in words."""
    return f"{value:.3g}" if band is None else f"{value:.3g} [{band[0]:.3g}, {band[1]:.3g}]"
