"""``attention``: the pattern itself. Half of a state is attention, half residual; MLPs have no number.

The halves are those of attention rollout (Abnar & Zuidema 2020): (A + I)/2 for a pattern A whose rows sum to 1.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from ..values.edge_weights import EdgeWeights
from ..values.token_matrix import rows_of_one
from ..values.trace import Trace
from .joint import StepWeights, TraceStep, is_joint, joint_weights
from .origin import array, origin


def attention(trace: Trace) -> EdgeWeights:
    """Weights A^h_ts per head and mean_h A_ts for all heads together; residual 1; MLPs structural.

    References
    ----------
    Abnar & Zuidema (2020), "Quantifying Attention Flow in Transformers".
    """
    if is_joint(trace):
        return joint_weights(trace, _of_step, method="attention", unit="share", unembed=1.0, additive=True)
    pattern = rows_of_one(array(trace.pattern), trace.pattern.dtype.itemsize)
    n, h, t, _ = pattern.shape
    summed = pattern.mean(1, dtype=np.float64)
    sink = array(trace.sink).astype(np.float64) if trace.has_sinks else None
    parallel = trace.wiring == "parallel"
    ones = np.ones((n, t))
    return EdgeWeights(
        info=origin(trace, "attention", "share"),
        parallel=parallel,
        query_positions=tuple(range(t)),
        attention=pattern,
        additive=True,
        attention_summed=summed,
        # A head hands on what it read, its sink included: nothing in a layer that does not attend.
        head=_handed(pattern, sink) / h if trace.is_incomplete else np.full((n, h, t), 1.0 / h),
        residual=ones,
        residual_mlp=None if parallel else ones,
        sink=sink,
        unembed=1.0 if trace.target is not None and trace.layers[1] == trace.n_layers else None,
    )


def _handed(
    pattern: Float[np.ndarray, "layer head T T"], sink: Float[np.ndarray, "layer head T"] | None
) -> Float[np.ndarray, "layer head T"]:
    """[layer, head, T] all that heads attend to, their sinks among it."""
    found: np.ndarray = pattern.sum(-1, dtype=np.float64)
    return found if sink is None else found + sink


def _of_step(step: TraceStep) -> StepWeights:
    """The halves of one step of several stacks."""
    pattern = rows_of_one(step.pattern, step.trace.pattern.dtype.itemsize)
    h, t, _ = pattern.shape
    summed, ones = pattern.mean(0, dtype=np.float64), np.ones(t)
    return StepWeights(
        attention=pattern,
        summed=summed,
        head=pattern.sum(-1, dtype=np.float64) / h,
        residual=ones,
        residual_mlp=ones if step.step.has_mlp else None,
        rest=np.maximum(1.0 - summed.sum(-1), 0.0) if step.trace.has_sinks else None,
    )
