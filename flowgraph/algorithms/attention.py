"""Attention as every library hands it over, as a chain of checked matrices: the input of rollout and flow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from ..errors import ArgumentError, NonFiniteError

ROW_SUM_TOLERANCE = 1e-3
"""Rows that miss 1 by no more are rounding, and divided out."""

NARROW_TOLERANCE = 1e-2
"""The same for numbers of 16 bits: of bfloat16, with its 8 digits, rows miss 1 by up to .008."""

_HINT = (
    'make sure you set output_attentions=True and loaded the model with attn_implementation="eager"; other '
    "implementations return no attention"
)

Blocks = list[Float[np.ndarray, "_ _"]]
"""[query_pos, key_pos] for each block, the first block first; sizes may differ."""


def layer_matrices(
    attention_or_trace: Any,
    *,
    method: str = "attention",
    residual: bool | None = None,
    mask: Any = None,
) -> Blocks:
    """Read attention as one matrix per block, the first block first, with the residual stream in it.

    Parameters
    ----------
    attention_or_trace
        A :class:`flowgraph.Trace`; dense :class:`flowgraph.EdgeWeights` of a method whose edges run from state to state, whose
        shares are taken; an array or tensor ``[layer, query_pos, key_pos]`` or ``[layer, head, query_pos, key_pos]``
        (heads are averaged); or a sequence with one matrix per block, ``[query_pos, key_pos]``, ``[head, query_pos, key_pos]``
        or ``[1, head, query_pos, key_pos]``, such as ``outputs.attentions`` of transformers. The blocks of a sequence may
        differ in size if they chain: the keys of a block are the queries of the block before. The step-by-step output of
        ``model.generate`` is joined to the attention of the whole text.
    method
        Edge method for a trace; ``"attention"`` is the pattern with heads averaged. The shares of all others hold the residual
        stream already. For a method with options pass its weights themselves.
    residual
        True: (A + I) / row sum, rows of A having to sum to 1 (those of 16-bit floats do within .01); the identity is added to
        square blocks only. If a trace's heads have sinks, a row is (A + I) / 2 and sums to less than 1; a layer that does not
        attend is the identity. False: the matrices as they are. None: True, except for shares that hold the residual stream already.
    mask
        [position] True where there is a token, False where there is padding, whose rows and columns become zero.

    Returns
    -------
    [query_pos, key_pos] float64 for each block.

    Raises
    ------
    ArgumentError
        If nothing can be made of the argument, blocks do not chain, entries are negative, or rows do not sum to 1.
    NonFiniteError
        If an entry is NaN or infinite.
    """
    attention_or_trace = of_stacks(attention_or_trace, method, residual)
    if hasattr(attention_or_trace, "attention_summed"):
        if method not in ("attention", attention_or_trace.info.method):
            raise ArgumentError(
                f"method={method!r}, but these weights are {attention_or_trace.info.method!r}; leave it out"
            )
        blocks, holds_residual = _of_weights(attention_or_trace), True
    elif hasattr(attention_or_trace, "pattern"):
        blocks, holds_residual = _of_trace(attention_or_trace, method)
    else:
        if method != "attention":
            raise ArgumentError(f"method={method!r} needs a trace; for matrices of another method pass them themselves")
        blocks, holds_residual = _of_arrays(attention_or_trace), False
    if residual is None:
        residual = not holds_residual
    elif residual and holds_residual:
        raise ArgumentError(
            "residual=True, but the shares of this method hold the residual stream already; leave it out"
        )
    tolerance = _tolerance(attention_or_trace)
    _check_chain(blocks)
    present = None if mask is None else _present(blocks, mask)
    if present is not None:
        # Rows of padding may hold anything, NaN included: zeros are put in, not multiplied.
        blocks = [np.where(present[:, None] & present, block, 0.0) for block in blocks]
    for layer, block in enumerate(blocks):
        _check_entries(block, layer)
    if not residual:
        return blocks
    if getattr(attention_or_trace, "is_incomplete", False) and method == "attention":
        return [_halves(block) for block in blocks]
    return [_with_residual(block, layer, present, tolerance) for layer, block in enumerate(blocks)]


def of_stacks(attention_or_trace: Any, method: str = "attention", residual: bool | None = None) -> Any:
    """The weights over all stacks of a trace of several; anything else as it is.

    Raises
    ------
    ArgumentError
        If a trace of several shall be without the residual stream.
    """
    if isinstance(attention_or_trace, Sequence):  # of matrices, or of the traces of a batch
        return attention_or_trace
    # A trace whose encoder is not there has heads that read it all the same.
    if "cross_pattern" not in getattr(attention_or_trace, "sites", ()) and not getattr(
        attention_or_trace, "stacks", None
    ):
        return attention_or_trace
    if residual is False:
        raise ArgumentError(
            "residual=False, but over several stacks each step leaves states alone that only the residual stream brings on; "
            "leave it out, or take one stack: attention_or_trace=trace.stacks['encoder'] or trace.pattern"
        )
    from ..methods.weigh import edge_weights

    return edge_weights(attention_or_trace, method=method)


def present_tokens(mask: Any, count: int) -> Bool[np.ndarray, "position"]:
    """Read a mask of tokens: [count], True where there is a token; all True for None.

    Raises
    ------
    ArgumentError
        If it has another size, holds anything but 0 and 1, or leaves no token.
    """
    if mask is None:
        return np.ones(count, dtype=bool)
    values = _array(mask, "mask")
    if values.shape == (1, count):
        values = values[0]
    if values.shape != (count,):
        raise ArgumentError(f"mask has shape {values.shape}; expected ({count},), one entry for each token")
    if not np.isin(values, (0, 1)).all():
        raise ArgumentError("mask must hold True (or 1) for tokens and False (or 0) for padding, and nothing else")
    if not values.any():
        raise ArgumentError("mask is False everywhere: there is no token left")
    return values.astype(bool)


def _of_trace(trace: Any, method: str) -> tuple[Blocks, bool]:
    if method == "attention":
        return list(_array(trace.pattern, "trace.pattern").mean(1, dtype=np.float64)), False
    # Attention given as arrays needs none of the edge methods, so they are loaded only for a trace.
    from ..methods.weigh import edge_weights

    return _of_weights(edge_weights(trace, method=method)), True


def _tolerance(given: Any) -> float:
    """How far the sum of a row may be from 1 and still count as rounding: more where numbers have 16 bits."""
    given = getattr(given, "pattern", given)
    items = (
        [part for item in given for part in (item if isinstance(item, Sequence) else [item])]
        if isinstance(given, Sequence)
        else [given]
    )
    floats = [item for item in items if getattr(getattr(item, "dtype", None), "itemsize", 8) <= 2]
    return NARROW_TOLERANCE if floats else ROW_SUM_TOLERANCE


def _is_generated(attention: Sequence[Any]) -> bool:
    """Whether it has the form of ``model.generate``: for each step one array [batch, head, query, key] for each layer."""
    return all(
        isinstance(step, Sequence) and len(step) > 0 and all(getattr(layer, "ndim", 0) == 4 for layer in step)
        for step in attention
    )


def _whole_text(steps: Sequence[Any]) -> list[Float[np.ndarray, "head query_pos key_pos"]]:
    """Attention of every layer over the whole text from that of each step of ``model.generate``.

    The first step reads the prompt, each further one the token that was written last; a token sees none that was written later.
    """
    hint = "what model.generate returns for each step does not fit together; run the finished text in one forward pass instead"
    if len({len(step) for step in steps}) > 1:
        raise ArgumentError(f"attention has steps of different numbers of layers; {hint}")
    layers = []
    for layer, parts in enumerate(zip(*steps, strict=True)):
        arrays = [_array(part, f"attention[{step}][{layer}]") for step, part in enumerate(parts)]
        if any(array.shape[0] != 1 for array in arrays):
            raise ArgumentError(
                f"attention[0][{layer}] has the shape {arrays[0].shape}, a batch or several beams of model.generate; generate "
                "one text at a time, with num_beams=1"
            )
        whole = np.zeros((arrays[0].shape[1], arrays[-1].shape[3], arrays[-1].shape[3]))
        done = 0
        for step, array in enumerate(arrays):
            _, heads, queries, keys = array.shape
            if heads != len(whole) or keys != done + queries:
                raise ArgumentError(
                    f"attention[{step}][{layer}] has the shape {array.shape} after {done} tokens; {hint}"
                )
            whole[:, done : done + queries, :keys] = array[0]
            done += queries
        layers.append(whole)
    return layers


def _of_weights(weights: Any) -> Blocks:
    """Shares of each state's inputs; the residual stream, and in parallel blocks the MLP, stay at their position."""
    if weights.residual is None:
        raise ArgumentError(
            f"the edges of method {weights.info.method!r} end in the logit, so it gives no shares between positions; take "
            "another method"
        )
    blocks = np.abs(weights.attention_summed).astype(np.float64)
    along = np.abs(weights.residual).astype(np.float64)
    if weights.parallel and weights.mlp is not None:
        along += np.abs(weights.mlp)
    positions = np.arange(blocks.shape[1])
    blocks[:, positions, positions] += along
    whole = blocks.sum(-1, keepdims=True)
    # What comes from no state counts in the whole, so rows then sum to less than 1.
    if weights.apart is not None:
        whole += weights.apart[..., None]
    return list(np.divide(blocks, whole, out=np.zeros_like(blocks), where=whole > 0))


def _of_arrays(attention: Any) -> Blocks:
    if attention is None:
        raise ArgumentError(f"attention is None; {_HINT}")
    if isinstance(attention, Sequence) and not isinstance(attention, str | bytes):
        if not attention:
            raise ArgumentError(f"attention is empty: there is no block; {_HINT}")
        if _is_generated(attention):
            return [_block(item, layer) for layer, item in enumerate(_whole_text(attention))]
        return [_block(item, layer) for layer, item in enumerate(attention)]
    values = _array(attention, "attention")
    # A stack of `outputs.attentions` still has the batch axis.
    if values.ndim == 5 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim == 4:
        _check_heads(values.shape[1], "attention", values.shape)
        values = values.mean(1, dtype=np.float64)
    if values.ndim != 3:
        raise ArgumentError(
            f"attention has shape {values.shape}; expected [layer, query_pos, key_pos] or [layer, head, query_pos, key_pos], "
            "or a sequence with one matrix per block"
        )
    if not len(values):
        raise ArgumentError(f"attention has shape {values.shape}: there is no block")
    return list(values.astype(np.float64, copy=False))


def _block(item: Any, layer: int) -> Float[np.ndarray, "query_pos key_pos"]:
    name = f"attention[{layer}]"
    if item is None:
        raise ArgumentError(f"{name} is None; {_HINT}")
    values = _array(item, name)
    if values.ndim == 4:
        if values.shape[0] != 1:
            raise ArgumentError(
                f"{name} has shape {values.shape}, a batch of {values.shape[0]}; pass one text at a time, such as "
                "[a[n:n + 1] for a in attentions]"
            )
        values = values[0]
    if values.ndim == 3:
        _check_heads(values.shape[0], name, values.shape)
        values = values.mean(0, dtype=np.float64)
    if values.ndim != 2:
        raise ArgumentError(
            f"{name} has shape {values.shape}; expected [query_pos, key_pos], [head, query_pos, key_pos] or "
            "[1, head, query_pos, key_pos]"
        )
    return values.astype(np.float64, copy=False)


def _array(item: Any, name: str) -> Float[np.ndarray, "..."]:
    """A tensor of any device and precision, or anything numpy understands, as an array of real numbers."""
    if hasattr(item, "detach"):
        tensor = item.detach().cpu()
        # numpy has no bfloat16.
        item = tensor.numpy() if tensor.element_size() > 2 else tensor.float().numpy()
    try:
        values = np.asarray(item)
    except ValueError as error:
        raise ArgumentError(f"{name} is not an array: its rows differ in length") from error
    if values.dtype.kind not in "fiub":
        raise ArgumentError(f"{name} is {type(item).__name__} of {values.dtype}; expected an array of real numbers")
    return values if values.dtype.kind == "f" else values.astype(np.float64)


def _check_heads(heads: int, name: str, shape: tuple[int, ...]) -> None:
    if not heads:
        raise ArgumentError(f"{name} has shape {shape}: there is no head to average")


def _check_chain(blocks: Blocks) -> None:
    for layer, block in enumerate(blocks):
        if 0 in block.shape:
            raise ArgumentError(f"attention[{layer}] has shape {block.shape}: there is no token")
        if layer and block.shape[1] != blocks[layer - 1].shape[0]:
            raise ArgumentError(
                f"attention[{layer}] reads {block.shape[1]} keys, but attention[{layer - 1}] has {blocks[layer - 1].shape[0]} "
                "queries; the keys of a block are the outputs of the block before"
            )


def _present(blocks: Blocks, mask: Any) -> Bool[np.ndarray, "position"]:
    sizes = sorted({size for block in blocks for size in block.shape})
    if len(sizes) > 1:
        raise ArgumentError(f"mask= needs blocks of one size; these have {', '.join(map(str, sizes))} tokens")
    return present_tokens(mask, sizes[0])


def _check_entries(block: Float[np.ndarray, "query_pos key_pos"], layer: int) -> None:
    for wrong, what, error in (
        (~np.isfinite(block), "not finite", NonFiniteError),
        (block < 0, "negative", ArgumentError),
    ):
        if wrong.any():
            query, key = np.argwhere(wrong)[0]
            raise error(
                f"attention[{layer}] is {block[query, key]} at query {query}, key {key}: {wrong.sum()} of {block.size} entries "
                f"are {what}; attention is made of probabilities"
            )


def _halves(block: Float[np.ndarray, "query_pos key_pos"]) -> Float[np.ndarray, "query_pos key_pos"]:
    """(A + I)/2 as it is, where rows of A may sum to less than 1: what heads' sinks take is then missing from the row.

    A layer that does not attend leaves every token where it is.
    """
    own = np.eye(len(block))
    return (block + own) / 2 if block.any() else own


def _with_residual(
    block: Float[np.ndarray, "query_pos key_pos"],
    layer: int,
    present: Bool[np.ndarray, "query_pos"] | None,
    tolerance: float,
) -> Float[np.ndarray, "query_pos key_pos"]:
    """(A + I) / row sum, or A / row sum where blocks are not square; rows of padding stay zero."""
    sums = block.sum(1)
    tokens = np.ones(len(sums), dtype=bool) if present is None else present
    off = tokens & (np.abs(sums - 1) > tolerance)
    if off.any():
        query = int(np.argmax(off))
        padding = (
            "" if present is None else "; if tokens attended to padding, give the model its attention mask as well"
        )
        raise ArgumentError(
            f"attention[{layer}] has {off.sum()} of {len(sums)} rows that do not sum to 1 within {tolerance:g} (query "
            f"{query}: {sums[query]:.6g}); pass probabilities with queries along the rows, or residual=False to take the "
            f"matrices as they are{padding}"
        )
    straight_on = block.shape[0] == block.shape[1]
    mixed = block + np.diag(tokens.astype(np.float64)) if straight_on else block
    whole = np.where(tokens, sums + 1.0 if straight_on else sums, 1.0)
    result: np.ndarray = mixed / whole[:, None]
    return result
