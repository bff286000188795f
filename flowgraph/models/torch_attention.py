"""torch's own attention layer, computed step by step for the length of a pass.

``nn.MultiheadAttention`` computes attention in one function, which shows neither its heads nor what they give. For a pass its forward is
this one: the same numbers, with queries, keys, values and pattern in sight, and with its output projection called as a module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

Seen = Callable[[nn.Module, Tensor, Tensor, Tensor, "Tensor | None", Tensor, Tensor, float], None]
"""Called with the layer, queries, keys, values [row, head, position, d_head], the mask that is added to the scores, the pattern, what
the heads give, and the factor of the scores."""


@contextmanager
def in_steps(model: nn.Module, seen: Seen, is_here: Callable[[], bool]) -> Iterator[None]:
    """Compute torch's attention layers of a model in steps, in the thread of a pass."""
    layers = [module for module in model.modules() if isinstance(module, nn.MultiheadAttention)]
    fast = torch.backends.mha.get_fastpath_enabled()
    try:
        if layers:
            # The encoder's fast path calls none of its modules. The switch is of the whole process, and changes rounding alone.
            torch.backends.mha.set_fastpath_enabled(False)
        for layer in layers:
            layer.__dict__["forward"] = _forward_of(layer, seen, is_here)
        yield
    finally:
        for layer in layers:
            layer.__dict__.pop("forward", None)
        if layers:
            torch.backends.mha.set_fastpath_enabled(fast)


def _forward_of(layer: nn.MultiheadAttention, seen: Seen, is_here: Callable[[], bool]) -> Any:
    own = layer.forward

    def forward(
        query: Tensor, key: Tensor, value: Tensor, key_padding_mask: Tensor | None = None, need_weights: bool = True,
        attn_mask: Tensor | None = None, average_attn_weights: bool = True, is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        # Keys that the layer adds by itself, and other threads, are left to torch.
        if not is_here() or layer.bias_k is not None or layer.add_zero_attn:
            found: tuple[Tensor, Tensor | None] = own(
                query, key, value, key_padding_mask, need_weights, attn_mask, average_attn_weights, is_causal
            )
            return found
        has_rows = query.ndim == 3
        parts = [x if has_rows else x[None] for x in (query, key, value)]
        if has_rows and not layer.batch_first:
            parts = [x.transpose(0, 1) for x in parts]
        q, k, v = (x.unflatten(-1, (layer.num_heads, -1)).transpose(1, 2) for x in _projected(layer, *parts))
        mask = _added(attn_mask, key_padding_mask, q, k)
        scale = q.shape[-1] ** -0.5
        scores = scale * (q @ k.transpose(-1, -2))
        pattern = (scores if mask is None else scores + mask).softmax(-1)
        z = pattern @ v
        seen(layer, q, k, v, mask, pattern, z.transpose(1, 2), scale)
        out = layer.out_proj(z.transpose(1, 2).flatten(2))
        weights = pattern.mean(1) if average_attn_weights else pattern
        if not has_rows:
            return out[0], weights[0] if need_weights else None
        return out if layer.batch_first else out.transpose(0, 1), weights if need_weights else None

    return forward


def _projected(layer: Any, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, ...]:
    if layer.in_proj_weight is None:
        weights = (layer.q_proj_weight, layer.k_proj_weight, layer.v_proj_weight)
    else:
        weights = layer.in_proj_weight.chunk(3)
    biases = (None,) * 3 if layer.in_proj_bias is None else layer.in_proj_bias.chunk(3)
    return tuple(
        nn.functional.linear(x, weight, bias)
        for x, weight, bias in zip((query, key, value), weights, biases, strict=True)
    )


def _added(mask: Tensor | None, padding: Tensor | None, q: Tensor, k: Tensor) -> Tensor | None:
    """What is added to the scores: 0, and −∞ for what may not be seen."""
    added = None if mask is None else _as_numbers(mask, q)
    if added is not None:
        added = added[None, None] if added.ndim == 2 else added.unflatten(0, (q.shape[0], q.shape[1]))
    if padding is not None:
        hidden = _as_numbers(padding, q).reshape(-1, 1, 1, k.shape[2])
        added = hidden if added is None else added + hidden
    return added


def _as_numbers(mask: Tensor, like: Tensor) -> Tensor:
    if mask.dtype != torch.bool:
        return mask.to(like.dtype)
    return torch.zeros(mask.shape, dtype=like.dtype, device=like.device).masked_fill(mask, float("-inf"))
