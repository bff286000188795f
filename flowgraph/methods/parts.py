"""The parts that the sums of a block are made of, as they enter the residual stream.

What attention adds at target t is Σ over heads and sources of coefficient[h, t, s] · vectors[h, s], plus a bias that is not a
part. A post-norm (sandwich blocks) or the norm over the sum (post-norm blocks) is frozen at its actual scale, which makes it
linear: its gain goes into the vectors, its scale into the coefficients.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from ..models.anatomy import Norm
from ..values.trace import Trace
from .origin import array


@dataclass(frozen=True, eq=False)
class AttentionParts:
    """Parts of one attention step.

    Attributes
    ----------
    whole
        [T, d] the state that the step results in.
    coefficient
        [H, T, S] pattern, divided by the frozen scale of a norm where there is one.
    vectors
        [H, S, d] value · W_O of each head and source; it does not depend on the target.
    residual
        [T, d] the part that comes along the residual stream.
    mlp
        [T, d] the MLP's part, in parallel blocks only, where everything enters in one step.
    mixer
        [T, d] the part of the layer's mixer, which is not taken apart by source; None where there is none.
    """

    whole: Float[np.ndarray, "T d"]
    coefficient: Float[np.ndarray, "H T S"]
    vectors: Float[np.ndarray, "H S d"]
    residual: Float[np.ndarray, "T d"]
    mlp: Float[np.ndarray, "T d"] | None
    mixer: Float[np.ndarray, "T d"] | None = None


@dataclass(frozen=True, eq=False)
class MlpParts:
    """Parts of one MLP step, [T, d] each: whole = mlp + residual, biases of a norm apart."""

    whole: Float[np.ndarray, "T d"]
    mlp: Float[np.ndarray, "T d"]
    residual: Float[np.ndarray, "T d"]


def parts_by_target(trace: Trace, row: int) -> Iterator[AttentionParts]:
    """Parts of the attention step of one layer, of all targets at once or, where heads' outputs are gated, of one after another.

    A gate multiplies the numbers of a head's output, another way for each target, so the vectors differ from target to target.
    """
    parts = attention_parts(trace, row)
    anatomy, layer = trace.model.anatomy, trace.layers[0] + row
    if not anatomy.is_gated or layer not in anatomy.attending:
        yield parts
        return
    values, weight, gate = anatomy.per_query_head(trace.v[row]), anatomy.W_O(layer), trace.z_gate[row]
    block = anatomy.blocks[layer]
    norm = block.attention_post_norm or (block.attention_norm if trace.wiring == "post_norm" else None)
    for t in range(len(parts.whole)):
        vectors = array((values * gate[:, t, None]).to(weight.dtype) @ weight)
        yield AttentionParts(
            whole=parts.whole[t : t + 1],
            coefficient=np.ascontiguousarray(parts.coefficient[:, t : t + 1]),
            vectors=np.ascontiguousarray(vectors if norm is None else _gained(norm, vectors)),
            residual=parts.residual[t : t + 1],
            mlp=None if parts.mlp is None else parts.mlp[t : t + 1],
            mixer=None if parts.mixer is None else parts.mixer[t : t + 1],
        )


def cross_parts(trace: Trace, row: int) -> AttentionParts:
    """Parts of one layer's attention to the other stack; sources are positions of that."""
    anatomy = trace.model.anatomy.reader_of_encoder
    block = anatomy.blocks[trace.layers[0] + row]
    values = anatomy.per_query_head(trace.site("cross_v")[row])
    weight = anatomy.W_O(trace.layers[0] + row)
    vectors, coefficient = array(values.to(weight.dtype) @ weight), array(trace.cross_pattern[row])
    # Before attention to the stack itself or after it.
    first = trace.model.anatomy.exchanges
    residual = array((trace.resid_pre if first else trace.resid_cross)[row])
    norm, name = (
        (block.attention_norm, "cross") if trace.wiring == "post_norm" else (block.attention_post_norm, "cross_post")
    )
    if norm is not None:
        scale = array(trace.norm_scales[name][row])
        vectors, coefficient = _gained(norm, vectors), coefficient / scale[:, None]
        residual = _gained(norm, residual) / scale[:, None] if trace.wiring == "post_norm" else residual
    return AttentionParts(
        whole=array(trace.resid_cross[row] if first else trace.site("resid_mid")[row]),
        coefficient=np.ascontiguousarray(coefficient),
        vectors=np.ascontiguousarray(vectors),
        residual=residual,
        mlp=None,
    )


def attention_parts(trace: Trace, row: int, *, normed: bool = True) -> AttentionParts:
    """Parts of the attention step of one layer, of its attention to its own stack.

    Parameters
    ----------
    trace
        A trace with its model.
    row
        Index into the kept layers.
    normed
        Whether parts are taken after the norm over them, where there is one; the whole is the state after it either way.
    """
    anatomy = trace.model.anatomy
    layer = trace.layers[0] + row
    block = anatomy.blocks[layer]
    values = anatomy.per_query_head(trace.v[row])
    weight = anatomy.W_O(layer)
    vectors = array(values.to(weight.dtype) @ weight)
    coefficient = array(trace.pattern[row])
    residual = array((trace.resid_cross if anatomy.exchanges else trace.resid_pre)[row])
    mixer = None if block.mixer is None else array(trace.mixer_out[row])
    norm, name = (block.attention_norm, "attention") if trace.wiring == "post_norm" else (None, "")
    if block.attention_post_norm is not None:
        norm, name = block.attention_post_norm, "attention_post"
    if norm is not None and normed:
        scale = array(trace.norm_scales[name][row])
        vectors = _gained(norm, vectors)
        coefficient = coefficient / scale[:, None]
        if trace.wiring == "post_norm":
            residual = _gained(norm, residual) / scale[:, None]
            mixer = None if mixer is None else _gained(norm, mixer) / scale[:, None]
    parallel = trace.wiring == "parallel"
    ends_at_mid = block.cross is None or anatomy.exchanges
    middle = None if parallel else trace.resid_mid if ends_at_mid else trace.resid_cross
    return AttentionParts(
        whole=array(trace.resid_post[row] if middle is None else middle[row]),
        coefficient=np.ascontiguousarray(coefficient),
        vectors=np.ascontiguousarray(vectors),
        residual=residual,
        mlp=array(trace.mlp_out[row]) if parallel else None,
        mixer=mixer,
    )


def mlp_parts(trace: Trace, row: int) -> MlpParts:
    """Parts of the MLP step of one layer; parallel blocks have none of its own."""
    middle = trace.resid_mid
    assert middle is not None
    mlp, residual = array(trace.mlp_out[row]), array(middle[row])
    if trace.wiring == "post_norm":
        norm = trace.model.anatomy.blocks[trace.layers[0] + row].mlp_norm
        scale = array(trace.norm_scales["mlp"][row])[:, None]
        mlp, residual = _gained(norm, mlp) / scale, _gained(norm, residual) / scale
    return MlpParts(whole=array(trace.resid_post[row]), mlp=mlp, residual=residual)


def _gained(norm: Norm, parts: Float[np.ndarray, "*n d"]) -> Float[np.ndarray, "*n d"]:
    """Parts with the norm's mean subtraction and gain, before its scale."""
    if norm.is_layer:
        parts = parts - parts.mean(-1, keepdims=True)
    gained: np.ndarray = parts * array(norm.gain(parts.shape[-1])).astype(parts.dtype)
    return gained
