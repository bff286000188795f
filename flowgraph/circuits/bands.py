"""Bootstrap bands: how sure a mean over prompts is, from prompts drawn again out of the prompts."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from ..errors import ArgumentError

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


def with_band(value: float, band: Band) -> str:
    """A number and its band in words."""
    return f"{value:.3g}" if band is None else f"{value:.3g} [{band[0]:.3g}, {band[1]:.3g}]"
