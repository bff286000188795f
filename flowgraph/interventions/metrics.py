"""Metrics: one number for each prompt, from the logits at the position that is explained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import ArgumentError, NonFiniteError
from ..models.anatomy import upcast


@dataclass(frozen=True, eq=False)
class AnswerTokens:
    """Answers, foils and clean logits that a metric may compare with.

    Attributes
    ----------
    targets
        [prompt] token ids of the answers.
    foils
        [prompt] token ids that the answers are compared with; −1 where there is none.
    clean
        [prompt, d_vocab] logits of the clean run.
    """

    targets: Int[Tensor, "prompt"]
    foils: Int[Tensor, "prompt"]
    clean: Float[Tensor, "prompt d_vocab"]

    def of(self, rows: Int[Tensor, "row"]) -> AnswerTokens:
        """The same for a batch of rows that belong to these prompts."""
        return AnswerTokens(self.targets[rows], self.foils[rows], self.clean[rows])

    def repeated(self, times: int) -> AnswerTokens:
        """The same for a batch that holds all prompts ``times`` times, one after the other."""
        return AnswerTokens(self.targets.repeat(times), self.foils.repeat(times), self.clean.repeat(times, 1))


@dataclass(frozen=True)
class Metric:
    """A number for each prompt, with its name and unit.

    Attributes
    ----------
    name, unit
        Name and unit for captions.
    measure
        (logits [prompt, d_vocab], :class:`AnswerTokens`) → [prompt].
    linear
        Whether it is a weighted sum of the logits, with weights that do not depend on them: then not every logit has to be made
        (:func:`flowgraph.interventions.measures.measure_of`).
    """

    name: str
    unit: str
    measure: Callable[[Tensor, AnswerTokens], Tensor]
    linear: bool = False

    def __call__(self, logits: Float[Tensor, "prompt d_vocab"], answers: AnswerTokens) -> Float[Tensor, "prompt"]:
        """[prompt] the metric, at least in float32.

        Raises
        ------
        ArgumentError
            If it is not one number for each prompt.
        NonFiniteError
            If a number is NaN or infinite.
        """
        return self.checked(self.measure(upcast(logits), answers), len(logits))

    def checked(self, values: Any, count: int) -> Float[Tensor, "prompt"]:
        """[prompt] values of ``count`` prompts, if they are finite numbers; raises the same errors as a call of the metric."""
        if not isinstance(values, Tensor) or values.shape != (count,):
            got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise ArgumentError(
                f"metric {self.name!r} gave {got} for logits of {count} prompts; expected one number for each: a "
                f"tensor of shape ({count},)"
            )
        # A NaN would pass silently through every mean that follows.
        bad = (~torch.isfinite(values.detach())).nonzero()
        if len(bad):
            row = int(bad[0])
            raise NonFiniteError(
                f"metric {self.name!r} gave {float(values[row])} for prompt {row}; an effect cannot be computed from it. "
                "Correct the metric, or leave the prompt out"
            )
        return upcast(values)


def metric_of(metric: Any) -> Metric:
    """The metric that was asked for: the logit difference for None; a plain callable of the logits gets its own name.

    Raises
    ------
    ArgumentError
        If it is neither.
    """
    if metric is None:
        return logit_difference
    if isinstance(metric, Metric):
        return metric
    if not callable(metric):
        raise ArgumentError(
            f"metric={metric!r} cannot be called; expected flowgraph.logit_difference, log_probability, kl_divergence, "
            "target_rank, or a function of logits [prompt, d_vocab] that gives [prompt]"
        )
    return Metric(getattr(metric, "__name__", type(metric).__name__), "", lambda logits, _aims: metric(logits))


def _logit_difference(logits: Tensor, answers: AnswerTokens) -> Tensor:
    target = logits.gather(1, answers.targets[:, None])[:, 0]
    # Row 0 stands in where there is no foil; the next line puts the mean logit in its place.
    foil = logits.gather(1, answers.foils.clamp(min=0)[:, None])[:, 0]
    return target - torch.where(answers.foils >= 0, foil, logits.mean(-1))


def _log_probability(logits: Tensor, answers: AnswerTokens) -> Tensor:
    return logits.log_softmax(-1).gather(1, answers.targets[:, None])[:, 0]


def _kl_divergence(logits: Tensor, answers: AnswerTokens) -> Tensor:
    before, after = upcast(answers.clean).log_softmax(-1), logits.log_softmax(-1)
    return (before.exp() * (before - after)).sum(-1)


def _target_rank(logits: Tensor, answers: AnswerTokens) -> Tensor:
    return 1.0 + (logits > logits.gather(1, answers.targets[:, None])).sum(-1).to(logits.dtype)


logit_difference = Metric("logit difference", "logits", _logit_difference, linear=True)
"""Logit of the target minus logit of the foil; without a foil minus the mean logit over the vocabulary."""
log_probability = Metric("log-probability", "nats", _log_probability)
"""Logarithm of the target's probability."""
kl_divergence = Metric("KL divergence", "nats", _kl_divergence)
"""KL divergence of the run from the clean run, Σ p_clean (log p_clean − log p): 0 for the clean run itself."""
target_rank = Metric("rank", "rank", _target_rank)
"""Rank of the target among all tokens; 1 is best."""
