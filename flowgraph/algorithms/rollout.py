"""Attention rollout: attention multiplied through the blocks, the residual stream included."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import ArgumentError
from ..values.arguments import takes
from ..values.token_matrix import Axis, TokenMatrix, origin_of
from .attention import Blocks, layer_matrices, of_stacks, present_tokens

_WORTH_LOADING = 2**27
"""Multiply–adds of the whole chain from which on compiled loops save more than the 5 ms that it takes to load them.

They take a fifth to two fifths of the time of numpy's product of triangles, which does not know that they are triangles.
"""


@takes()
def attention_rollout(
    attention_or_trace: Any,
    *,
    method: str = "attention",
    residual: bool | None = None,
    start_layer: int = 0,
    mask: Any = None,
) -> TokenMatrix:
    """Follow attention through the blocks: R of block l = Ã of block l · R of block l − 1, with Ã = (A + I) / row sum.

    Parameters
    ----------
    attention_or_trace
        A trace, weights of a method, or attention in any form of
        :func:`flowgraph.algorithms.attention.layer_matrices`: an array ``[layer, query_pos, key_pos]`` or
        ``[layer, head, query_pos, key_pos]``, or one matrix per block. All blocks have the same number of tokens. A trace of an
        encoder–decoder is followed through both stacks: blocks are then their steps, attention to the encoder among them, and
        positions those of the encoder, then those of the decoder.
    method
        For a trace: ``"attention"``, the pattern with heads averaged, or a method whose edges run from state to state, such as
        ``"proximity"``, whose shares take the place of Ã (no identity is added to them; an MLP moves nothing between
        positions).
    residual
        True: add the residual stream as above, rows having to sum to 1. False: take the matrices as they are. None: True
        unless the method's shares hold the residual stream already.
    start_layer
        Follow from the state that enters this block; negative counts from the end.
    mask
        [position] False for padding, whose rows and columns are zero.

    Returns
    -------
    [layer, query_pos, key_pos] float64, a :class:`flowgraph.TokenMatrix`: the share that input token ``key_pos`` has in token
    ``query_pos`` after each block. Up to ``start_layer`` nothing has moved, and R is the identity. Rows sum to 1 unless
    ``residual=False`` or for padding.

    Raises
    ------
    ArgumentError
        If the input cannot be used, see :func:`flowgraph.algorithms.attention.layer_matrices`, blocks differ in size, or
        ``start_layer`` is not one of the blocks.

    References
    ----------
    Abnar & Zuidema (2020), "Quantifying Attention Flow in Transformers".

    Examples
    --------
    >>> rollout = fg.attention_rollout(trace)
    >>> rollout.shape  # layer, query position, key position
    (30, 8, 8)
    >>> trace.tokens[rollout[-1, -1].argmax()]  # attention often rests on the first token
    'The'
    """
    attention_or_trace = of_stacks(attention_or_trace, method, residual)
    blocks = layer_matrices(attention_or_trace, method=method, residual=residual, mask=mask)
    count = len(blocks[0])
    sizes = {block.shape for block in blocks}
    if sizes != {(count, count)}:
        raise ArgumentError(
            f"rollout needs square blocks of one size; these have {', '.join(str(size) for size in sorted(sizes))}"
        )
    if not -len(blocks) <= start_layer < len(blocks):
        raise ArgumentError(f"start_layer={start_layer} is not one of the {len(blocks)} blocks")
    result = np.empty((len(blocks), count, count))
    first = start_layer % len(blocks)
    if first:
        result[:first] = np.diag(present_tokens(mask, count).astype(np.float64))
    # Rows and columns of padding are zero in the block already.
    result[first] = blocks[first]
    multiply = _product(blocks[first:])
    for layer in range(first + 1, len(blocks)):
        multiply(blocks[layer], result[layer - 1], result[layer])
    used = attention_or_trace.info.method_text if hasattr(attention_or_trace, "info") else method
    measure = "attention rollout" if used == "attention" else f"rollout of {used}"
    axes: tuple[Axis, ...] = ("layer", "query_pos", "key_pos")
    return TokenMatrix(result, axes, measure, "share", **origin_of(attention_or_trace))


def _product(blocks: Blocks) -> Callable[[np.ndarray, np.ndarray, np.ndarray], object]:
    """The quickest product for these blocks, as a function of both factors and of the array for the result.

    The two ways differ in the last digits at most. Compiled loops are used only if the compiler is already imported: its import
    takes a third of a second or more, and in that time numpy multiplies a dozen blocks of a thousand tokens.
    """
    if "numba" in sys.modules and len(blocks) * len(blocks[0]) ** 3 >= _WORTH_LOADING:
        import numba

        from ..kernels.rollout import is_lower_triangular, triangular_product

        # One layout for all: for any other the loops would be compiled again.
        blocks = [np.require(block, requirements=("C", "W")) for block in blocks]
        # With the compiler switched off the loops would be plain Python.
        if not numba.config.DISABLE_JIT and all(is_lower_triangular(block) for block in blocks):
            chunks = numba.get_num_threads()
            return lambda upper, lower, result: triangular_product(
                np.require(upper, requirements=("C", "W")), lower, result, chunks
            )
    return np.matmul
