"""Reading queries and keys in the space of the residual stream: the QK circuit for one query and one key at a time.

The score of query t and key i of a head is scale · q_t · k_i with q_t = (x̂_t W_Q + b_Q) D_t R_t: x̂ is what the attention
reads, D the norm of queries frozen at its scale, R the rotary embedding at position t (both the identity where there are none),
and likewise for k_i. Taken apart at the query's side, the score is x̂_t · r + bias with *r*, the key as the query's position
sees it; at the key's side, x̂_i · r + bias with *r*, the query as the key's position sees it. Such an r lies in the residual
stream and can be read in vocabulary; the query or key itself lies in the space of its head, where no word has a meaning.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import ArgumentError, UnsupportedReadingError
from ..models.anatomy import Norm, upcast
from ..models.attention_weights import Role, attention_weights
from ..models.rotary import rotate
from ..values.trace import Trace

Indices = Int[Tensor, "N"]


def attention_input(trace: Trace, layer: int) -> Float[Tensor, "position d_model"]:
    """[position, d_model] what the attention of a layer reads: the state after its norm, in post-norm blocks the state."""
    row = row_of(trace, layer)
    state = upcast(trace.resid_pre[row])
    if trace.wiring == "post_norm":
        return state
    norm = trace.model.anatomy.blocks[layer].attention_norm
    normed = norm.linear(state, trace.norm_scales["attention"][row])
    return normed if norm.bias is None else normed + norm.bias


def key_directions(
    trace: Trace, layer: int, heads: Indices, *, query_pos: Indices, key_pos: Indices
) -> tuple[Float[Tensor, "N d_model"], Float[Tensor, "N"]]:
    """Keys as queries see them: r = W_Q D_t R_t k_iᵀ, and the part b_Q D_t R_t k_iᵀ of the score that no state has.

    Parameters
    ----------
    trace
        A trace with its model that holds ``k``, and ``rotary`` and ``norm_scales`` where the model has such.
    layer
        Layer of the model.
    heads, query_pos, key_pos
        [N] head, position t of the query and position i of the key.

    Returns
    -------
    [N, d_model] r and [N] bias part with scale · (x̂_t · r + bias) = score, before mask and soft-cap.

    Raises
    ------
    ArgumentError
        If the layer is not in the trace.
    """
    vectors = upcast(trace.k[row_of(trace, layer)])[_kv_head(trace, heads), key_pos]
    return _taken_back(trace, layer, "query", heads, query_pos, vectors)


def query_directions(
    trace: Trace, layer: int, heads: Indices, *, query_pos: Indices, key_pos: Indices
) -> tuple[Float[Tensor, "N d_model"], Float[Tensor, "N"]]:
    """Queries as keys see them: r = W_K D_i R_i q_tᵀ of the head's group, and the part of the score from the key's bias.

    Parameters
    ----------
    trace, layer, heads, query_pos, key_pos
        As for :func:`key_directions`, with ``q`` in the trace.

    Returns
    -------
    [N, d_model] r and [N] bias part with scale · (x̂_i · r + bias) = score, before mask and soft-cap.

    Raises
    ------
    ArgumentError
        If the layer is not in the trace.
    """
    vectors = upcast(trace.q[row_of(trace, layer)])[heads, query_pos]
    return _taken_back(trace, layer, "key", _kv_head(trace, heads), key_pos, vectors)


def row_of(trace: Trace, layer: int) -> int:
    """Index of a layer of the model in the trace's tensors."""
    first, stop = trace.layers
    if not first <= layer < stop:
        raise ArgumentError(f"layer={layer} is not one of the trace's layers {first}…{stop - 1}")
    return layer - first


def _kv_head(trace: Trace, heads: Indices) -> Indices:
    anatomy = trace.model.anatomy
    return heads // (anatomy.n_heads // anatomy.n_kv_heads)


def _taken_back(
    trace: Trace, layer: int, role: Role, heads: Indices, positions: Indices, vectors: Float[Tensor, "N d_head"]
) -> tuple[Float[Tensor, "N d_model"], Float[Tensor, "N"]]:
    """Vectors of the dot product, taken back through the other side's rotary embedding, norm and projection."""
    anatomy, row = trace.model.anatomy, row_of(trace, layer)
    vectors = _rotated_back(trace, row, positions, vectors)
    block = anatomy.blocks[layer]
    norm: Norm | None = block.query_norm if role == "query" else block.key_norm
    if norm is not None:
        scale = upcast(trace.norm_scales[role][row])[heads, positions]
        vectors = torch.stack([norm.transposed(vector, s) for vector, s in zip(vectors, scale, strict=True)])
    weight, bias = attention_weights(anatomy, layer, role)
    directions = torch.einsum("nk,ndk->nd", vectors, weight[heads])
    return directions, vectors.new_zeros(len(vectors)) if bias is None else (vectors * bias[heads]).sum(-1)


def _rotated_back(
    trace: Trace, row: int, positions: Indices, vectors: Float[Tensor, "N d_head"]
) -> Float[Tensor, "N d_head"]:
    """Vectors times the transposed rotation of their position: rotated by the opposite angle."""
    kind = trace.model.anatomy.stack.attention.rotary
    if kind == "none":
        return vectors
    if "q_proj" in trace.sites and "k_proj" in trace.sites and "rotary.cos" not in trace.sites:
        raise UnsupportedReadingError(
            f"what enters the dot products of {trace.model_name!r} on this prompt is not its projections under rotary embedding "
            f"alone, as the row {trace.family!r} says, so a key cannot be read as a query sees it, nor a query as its key does; "
            "patterns, values and states can be read"
        )
    cos, sin = (upcast(part[row])[positions, None] for part in trace.rotary)
    result = torch.empty_like(vectors)[:, None]
    rotate(vectors[:, None], cos, -sin, interleaved=kind == "interleaved", out=result)
    return result[:, 0]
