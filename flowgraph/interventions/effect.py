"""Effect of an intervention: the metric before and after, for each prompt."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from ..errors import ArgumentError


@dataclass(frozen=True, eq=False)
class Effect:
    """The metric of some prompts without and with an intervention.

    Attributes
    ----------
    what
        The change in words: ``"L3H4@5"``, ``"L0H1 → L3H4.q"``.
    how
        ``"zero"``, ``"mean"`` or ``"resample"`` ablation, or ``"denoise"`` or ``"noise"`` patching.
    metric, unit
        Name and unit of the metric.
    before, after
        [prompt] the metric of the run that was changed, and of the changed run.
    clean
        [prompt] the metric of the clean run: ``before``, unless a corrupted run was denoised.
    corrupted
        [prompt] the metric of the corrupted run; None where there is none.
    """

    what: str
    how: str
    metric: str
    unit: str
    before: Float[np.ndarray, "prompt"]
    after: Float[np.ndarray, "prompt"]
    clean: Float[np.ndarray, "prompt"]
    corrupted: Float[np.ndarray, "prompt"] | None = None

    def __repr__(self) -> str:
        unit = f" {self.unit}" if self.unit else ""
        count = f", {len(self.before)} prompts" if len(self.before) > 1 else ""
        return (
            f"Effect({self.how} {self.what}: {self.metric} {self.mean_before:.4g} → {self.mean_after:.4g}, "
            f"{self.mean_effect:+.4g}{unit}{count})"
        )

    @property
    def effect(self) -> Float[np.ndarray, "prompt"]:
        """[prompt] after − before: negative if the changed part supports the answer."""
        difference: np.ndarray = self.after - self.before
        return difference

    @property
    def mean_before(self) -> float:
        """Mean of ``before`` over the prompts."""
        return float(self.before.mean())

    @property
    def mean_after(self) -> float:
        """Mean of ``after`` over the prompts."""
        return float(self.after.mean())

    @property
    def mean_effect(self) -> float:
        """Mean of the effect over the prompts."""
        return float(self.effect.mean())

    @property
    def score(self) -> float:
        """Part of the way between the two runs that the intervention goes, from the means over the prompts; unit 1.

        Denoising: (after − corrupted) / (clean − corrupted). Every other: (clean − after) / (clean − corrupted).

        Raises
        ------
        ArgumentError
            If there is no corrupted run, or its metric is that of the clean one.
        """
        if self.corrupted is None:
            raise ArgumentError(
                f"{self.how!r} ablation has no corrupted run, so there is no score; read mean_effect, or use patch()"
            )
        # Means first: a mean of the prompts' own scores would blow up where a prompt's two runs nearly agree.
        clean, corrupted = float(self.clean.mean()), float(self.corrupted.mean())
        if clean == corrupted:
            raise ArgumentError(
                f"the clean and the corrupted run have the same {self.metric} ({clean:g}), so no part of the way between "
                "them can be stated; corrupt what the answer depends on"
            )
        way = self.mean_after - corrupted if self.how == "denoise" else clean - self.mean_after
        return way / (clean - corrupted)
