"""Query, key and value projections as one matrix per head, for every layout of the modules."""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from ..errors import UnsupportedReadingError
from .anatomy import Anatomy, Projection, no_projections

Role = Literal["query", "key", "value"]


def attention_weights(
    anatomy: Anatomy, layer: int, role: Role
) -> tuple[Float[Tensor, "head d_model d_head"], Float[Tensor, "head d_head"] | None]:
    """W_Q, W_K or W_V of one layer, and its bias.

    Parameters
    ----------
    anatomy
        The model's parts.
    layer
        Layer of the model.
    role
        ``"query"``, ``"key"`` or ``"value"``.

    Returns
    -------
    [head, d_model, d_head] and [head, d_head] (None without a bias), at least in float32; for keys and values the heads are
    the key/value heads.
    """
    if not anatomy.has_projections:
        raise UnsupportedReadingError(no_projections(anatomy))
    block = anatomy.blocks[layer]
    anatomy.require_attention(layer, f"W of a {role}")
    module: nn.Module | None = getattr(block, role)
    heads = anatomy.n_heads if role == "query" else anatomy.n_kv_heads
    if module is not None:
        projection = Projection(module)
        return _by_head(projection.weight, heads), None if projection.bias is None else projection.bias.reshape(
            heads, -1
        )
    projection = Projection(block.fused)
    weight, bias = projection.weight, projection.bias
    n, g, d = anatomy.n_heads, anatomy.n_kv_heads, anatomy.d_head
    # Interleaved weights hold q, k and v of a head side by side, head after head; concatenated ones hold all queries,
    # all keys, all values.
    if anatomy.stack.attention.fused_layout == "interleaved":
        part = ("query", "key", "value").index(role)
        apart = weight.reshape(len(weight), n, 3, d)[:, :, part]
        return apart.transpose(0, 1), None if bias is None else bias.reshape(n, 3, d)[:, part]
    start = {"query": 0, "key": n, "value": n + g}[role] * d
    columns = slice(start, start + heads * d)
    return _by_head(weight[:, columns], heads), None if bias is None else bias[columns].reshape(heads, d)


def _by_head(weight: Float[Tensor, "d_model d_out"], heads: int) -> Float[Tensor, "head d_model d_head"]:
    return weight.reshape(len(weight), heads, -1).transpose(0, 1)
