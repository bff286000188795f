"""``norms``: how long the vectors are that enter a sum, whatever their direction (Kobayashi et al. 2020, 2021)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from ..values.edge_weights import EdgeWeights
from ..values.trace import Trace
from .joint import StepWeights, TraceStep, is_joint, joint_weights
from .mixture import mixture_of
from .origin import array, origin
from .parts import AttentionParts, mlp_parts, parts_by_target


def norms(trace: Trace) -> EdgeWeights:
    """Weights ‖part‖₂: per head A^h_ts ‖u^h_s‖, heads together ‖Σ_h A^h_ts u^h_s‖; ‖state‖ and ‖MLP‖ for the rest.

    The weight of ``head`` edges is the norm of all that the head writes. In sandwich and post-norm blocks parts are taken
    after the norm over them, frozen at its scale.

    References
    ----------
    Kobayashi et al. (2020), "Attention is Not Only a Weight: Analyzing Transformers with Vector Norms"; Kobayashi et al.
    (2021), "Incorporating Residual and Normalization Layers into Analysis of Masked Language Models".
    """
    if is_joint(trace):
        unembed = float(np.linalg.norm(array(trace.resid_post[-1, trace.position])))
        return joint_weights(trace, _of_step, method="norms", unit="norm", unembed=unembed)
    parallel = trace.wiring == "parallel"
    rows = range(trace.layers[1] - trace.layers[0])
    parts = [list(parts_by_target(trace, row)) for row in rows]
    steps = [] if parallel else [mlp_parts(trace, row) for row in rows]
    residual = _stacked(parts, _of_residual)
    before_mlp = np.stack([_length(step.residual) for step in steps]) if steps else residual
    of_mlp = _stacked(parts, _length_of_mlp) if parallel else np.stack([_length(step.mlp) for step in steps])
    reaches_logit = trace.target is not None and trace.layers[1] == trace.n_layers
    mixture = mixture_of(trace, lambda _whole, parts: _length(parts))
    return EdgeWeights(
        info=mixture.said(origin(trace, "norms", "norm")),
        parallel=parallel,
        query_positions=tuple(range(len(trace.tokens))),
        attention=_stacked(parts, _of_pairs, axis=1),
        attention_summed=_stacked(parts, norm_of_sum),
        head=_stacked(parts, _of_heads, axis=1),
        residual=residual,
        mlp=of_mlp,
        mlp_in=before_mlp,
        residual_mlp=None if parallel else before_mlp,
        mixer=_mixed(parts),
        unembed=float(np.linalg.norm(array(trace.resid_post[-1, trace.position]))) if reaches_logit else None,
        **mixture.arrays,
    )


def _of_step(step: TraceStep) -> StepWeights:
    """Lengths of one step of several stacks."""
    parts = [step.parts()]
    mlp = mlp_parts(step.trace, step.row) if step.step.has_mlp else None
    beside = None if mlp is None else _length(mlp.residual)
    mixed = _mixed(parts)
    return StepWeights(
        attention=_stacked(parts, _of_pairs, axis=1)[0],
        summed=_stacked(parts, norm_of_sum)[0],
        head=_stacked(parts, _of_heads, axis=1)[0],
        residual=_stacked(parts, _of_residual)[0],
        mlp=None if mlp is None else _length(mlp.mlp),
        mlp_in=beside,
        residual_mlp=beside,
        rest=None if mixed is None else mixed[0],
    )


def _of_pairs(part: AttentionParts) -> Float[np.ndarray, "H T S"]:
    """[head, target, source] length of what each head brings from each source."""
    found: np.ndarray = part.coefficient * _length(part.vectors)[:, None]
    return found


def _of_heads(part: AttentionParts) -> Float[np.ndarray, "H T"]:
    """[head, target] length of all that each head brings."""
    return _length(part.coefficient @ part.vectors)


def _of_residual(part: AttentionParts) -> Float[np.ndarray, "T"]:
    return _length(part.residual)


def _length_of_mlp(part: AttentionParts) -> Float[np.ndarray, "T"]:
    assert part.mlp is not None
    return _length(part.mlp)


def _stacked(
    parts: list[list[AttentionParts]], measure: Callable[[AttentionParts], np.ndarray], axis: int = 0
) -> Float[np.ndarray, "layer *n"]:
    """A measure of every layer's parts, those of its targets joined along an axis."""
    return np.stack([np.concatenate([measure(part) for part in layer], axis) for layer in parts])


def _mixed(parts: list[list[AttentionParts]]) -> Float[np.ndarray, "layer T"] | None:
    """[layer, T] lengths of what mixers write; None in models without any."""
    if all(part.mixer is None for layer in parts for part in layer):
        return None
    return _stacked(parts, lambda part: np.zeros(len(part.whole)) if part.mixer is None else _length(part.mixer))


def norm_of_sum(parts: AttentionParts) -> Float[np.ndarray, "T S"]:
    """[T, S] ‖Σ_h A^h_ts u^h_s‖ from the Gram matrices of each source's heads: sqrt(aᵀ G_s a), never a [T, S, d] array."""
    gram = np.einsum("hsd,gsd->shg", parts.vectors, parts.vectors, optimize=True)
    a = np.ascontiguousarray(parts.coefficient.transpose(2, 1, 0))
    squared: np.ndarray = np.einsum("sth,sth->ts", a @ gram, a)
    # The sum of many squares of either sign; what is zero may come out a little below.
    found: np.ndarray = np.sqrt(np.maximum(squared, 0))
    return found


def _length(x: Float[np.ndarray, "*n d"]) -> Float[np.ndarray, "*n"]:
    found: np.ndarray = np.linalg.norm(x, axis=-1)
    return found
