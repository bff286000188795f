"""Attention rollout: attention multiplied through the blocks, the residual stream included."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float

from ..errors import ArgumentError
from .attention import layer_matrices, present_tokens


def attention_rollout(
    attention_or_trace: Any,
    *,
    method: str = "attention",
    residual: bool | None = None,
    start_layer: int = 0,
    mask: Any = None,
) -> Float[np.ndarray, "layer query_pos key_pos"]:
    """Follow attention through the blocks: R of block l = Ã of block l · R of block l − 1, with Ã = (A + I) / row sum.

    Parameters
    ----------
    attention_or_trace
        A trace, or attention in any form of :func:`flowgraph.algorithms.attention.layer_matrices`: an array
        ``[layer, query_pos, key_pos]`` or ``[layer, head, query_pos, key_pos]``, or one matrix per block. All blocks have
        the same number of tokens.
    method
        For a trace: ``"attention"``, the pattern with heads averaged, or ``"proximity"``, the shares of information flow
        routes in place of Ã (no identity is added to them; an MLP moves nothing between positions).
    residual
        True: add the residual stream as above, rows having to sum to 1. False: take the matrices as they are. None: True
        unless the method's shares hold the residual stream already.
    start_layer
        Follow from the state that enters this block; negative counts from the end.
    mask
        [position] False for padding, whose rows and columns are zero.

    Returns
    -------
    [layer, T, T] float64: the share that input token ``key_pos`` has in token ``query_pos`` after each block. Up to
    ``start_layer`` nothing has moved, and R is the identity. Rows sum to 1 unless ``residual=False`` or for padding.

    Raises
    ------
    ArgumentError
        If the input cannot be used, see :func:`flowgraph.algorithms.attention.layer_matrices`, blocks differ in size, or
        ``start_layer`` is not one of the blocks.

    References
    ----------
    Abnar & Zuidema (2020), "Quantifying Attention Flow in Transformers".
    """
    blocks = layer_matrices(attention_or_trace, method=method, residual=residual, mask=mask)
    count = len(blocks[0])
    sizes = {block.shape for block in blocks}
    if sizes != {(count, count)}:
        raise ArgumentError(
            f"rollout needs square blocks of one size; these have {', '.join(str(size) for size in sorted(sizes))}"
        )
    if not -len(blocks) <= start_layer < len(blocks):
        raise ArgumentError(f"start_layer={start_layer} is not one of the {len(blocks)} blocks")
    moved = np.diag(present_tokens(mask, count).astype(np.float64))
    result = np.empty((len(blocks), count, count))
    first = start_layer % len(blocks)
    result[:first] = moved
    for layer in range(first, len(blocks)):
        np.matmul(blocks[layer], moved, out=result[layer])
        moved = result[layer]
    return result
