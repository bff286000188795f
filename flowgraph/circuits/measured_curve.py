"""What curves of faithfulness share: f at every size from the metric of each prompt, its bands, and the areas under it."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from ..charts.result import Result
from .bands import Band, area_under, band_of, f_of


class MeasuredCurve(Result):
    """f = (m − m(no edge)) / (m(model) − m(no edge)) over sizes of circuits, each m a mean over the prompts."""

    by_prompt: Float[np.ndarray, "size prompt"]
    full: Float[np.ndarray, "prompt"]
    draws: Int[np.ndarray, "draw prompt"] | None

    def _sizes(self) -> Float[np.ndarray, "size"]:
        """[size] where each circuit stands on the axis."""
        raise NotImplementedError

    def _without(self) -> Float[np.ndarray, "prompt"]:
        """[prompt] the metric with no edge."""
        raise NotImplementedError

    @property
    def values(self) -> Float[np.ndarray, "size"]:
        """[size] f, from the means over the prompts; unit 1, not clipped."""
        values: np.ndarray = self._of(np.ones((1, len(self.full)), dtype=np.int64))[0]
        return values

    @property
    def bands(self) -> Float[np.ndarray, "size 2"] | None:
        """[size, end] the interval that holds f in 95 % of the draws; None without draws."""
        if self.draws is None:
            return None
        bands: np.ndarray = np.percentile(self._of(self.draws), (2.5, 97.5), axis=0).T
        return bands

    def _area(self) -> tuple[float, Band]:
        """The area under f, and its band."""
        drawn = None if self.draws is None else band_of(area_under(self._of(self.draws), self._sizes()))
        return float(area_under(self.values[None], self._sizes())[0]), drawn

    def _distance(self) -> tuple[float, Band]:
        """The area between f and 1, and its band."""
        drawn = None if self.draws is None else band_of(area_under(np.abs(1 - self._of(self.draws)), self._sizes()))
        return float(area_under(np.abs(1 - self.values[None]), self._sizes())[0]), drawn

    def _of(self, draws: Int[np.ndarray, "draw prompt"]) -> Float[np.ndarray, "draw size"]:
        """[draw, size] f of each draw of prompts."""
        return f_of(draws, self.by_prompt, self._without(), self.full)
