"""A metric of last states: from all logits, or without them if metric and unembedding are both linear."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..models import LoadedModel
from ..models.anatomy import upcast
from ..models.parameters import bias_of, matrix_of
from .metrics import AnswerTokens, Metric
from .passes import logits_of_states, read_by_head

Measure = Callable[[Tensor, Tensor], Tensor]
"""(last states [row, d_model], the prompt of each row) → [row] the metric."""


def measure_of(loaded: LoadedModel, metric: Metric, answers: AnswerTokens) -> Measure:
    """A function that gives the metric of last states; ``answers`` are those of the prompts.

    Raises
    ------
    ArgumentError, NonFiniteError
        From what it returns, as when the metric is called.
    """
    anatomy = loaded.anatomy
    last = anatomy.head[-1]
    # Narrow weights would have to be copied to be summed, and capped logits are not linear.
    if not (
        metric.linear and isinstance(last, nn.Linear) and last.weight.dtype.itemsize >= 4 and anatomy.softcap is None
    ):
        return lambda states, prompt: metric(logits_of_states(loaded, states), answers.of(prompt))
    # A sweep measures thousands of rows: one sum over d_model then takes the place of the whole vocabulary.
    # Linear: the metric of what the unembedding makes of a unit vector is the weight of that coordinate.
    units = [
        AnswerTokens(target.expand(last.in_features), foil.expand(last.in_features), clean.expand(last.in_features, -1))
        for target, foil, clean in zip(answers.targets, answers.foils, answers.clean, strict=True)
    ]
    # A factor on the logits is one on the weights and biases.
    factor = anatomy.logit_factor
    matrix = matrix_of(last)
    weights = torch.stack([metric.measure(matrix.T * factor, own) for own in units])
    own_bias = bias_of(last)
    bias = None if own_bias is None else metric.measure(own_bias.expand(len(units), -1) * factor, answers)

    def measure(states: Tensor, prompt: Tensor) -> Tensor:
        values = (read_by_head(loaded, states) * weights[prompt]).sum(-1)
        return metric.checked(upcast(values if bias is None else values + bias[prompt]), len(states))

    return measure
