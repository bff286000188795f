"""The two published rules for what a threshold on information flow routes is compared with.

``"edge"`` compares the share of an edge, at token level the sum over heads, and leaves shares as they are. ``"per_head"``
compares every part on its own, sets those below the threshold to zero and normalises what remains.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float

from ..errors import ArgumentError
from ..values.edge_weights import EdgeWeights

ThresholdRule = Literal["edge", "per_head"]
THRESHOLD_RULES: tuple[str, ...] = get_args(ThresholdRule)


def by_rule(weights: EdgeWeights, threshold: float, rule: str) -> EdgeWeights:
    """Weights after a threshold under a rule; under ``"edge"`` they are what they were.

    A state none of whose parts reaches the threshold is left without weights.

    Raises
    ------
    ArgumentError
        If the rule is not known, or the weights are not shares of single heads.

    References
    ----------
    Ferrando & Voita (2024), "Information Flow Routes: Automatically Interpreting Language Models at Scale".
    """
    if rule not in THRESHOLD_RULES:
        raise ArgumentError(f"threshold_rule={rule!r} is not known; expected one of {', '.join(THRESHOLD_RULES)}")
    if rule == "edge":
        return weights
    if weights.info.method != "proximity" or not weights.attention.shape[1]:
        raise ArgumentError(
            "threshold_rule='per_head' needs the shares of single heads that add up to one: method 'proximity' with "
            f"parts='head'; these weights are of {weights.info.method_text!r}"
        )
    assert weights.residual is not None
    assert weights.mlp is not None
    attention, residual = _above(weights.attention, threshold), _above(weights.residual, threshold)
    mlp = _above(weights.mlp, threshold)
    mixer = None if weights.mixer is None else _above(weights.mixer, threshold)
    whole = attention.sum((1, 3), dtype=np.float64) + residual + (mlp if weights.parallel else 0.0)
    whole += 0.0 if mixer is None else mixer
    after = None if weights.residual_mlp is None else _above(weights.residual_mlp, threshold)
    attention = _parts_of(attention, whole[:, None, :, None]).astype(weights.attention.dtype)
    return replace(
        weights,
        attention=attention,
        attention_summed=attention.sum(1, dtype=np.float64),
        head=attention.sum(-1, dtype=np.float64),
        residual=_parts_of(residual, whole),
        mixer=None if mixer is None else _parts_of(mixer, whole),
        mlp=_parts_of(mlp, whole if after is None else mlp + after),
        residual_mlp=None if after is None else _parts_of(after, mlp + after),
    )


def _above(share: Float[np.ndarray, "*n"], threshold: float) -> Float[np.ndarray, "*n"]:
    return np.where(share >= threshold, share, share.dtype.type(0))


def _parts_of(part: Float[np.ndarray, "*n"], whole: Float[np.ndarray, "*#n"]) -> Float[np.ndarray, "*n"]:
    """Part / whole, and 0 where the whole is."""
    result: np.ndarray = np.divide(part, whole, out=np.zeros(part.shape), where=whole > 0)
    return result
