"""Rotary position embedding."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

Angles = tuple[Tensor, Tensor]
"""cos and sin, each [position, 1, rotated dimensions]."""


def rotate(
    x: Float[Tensor, "*layer position head d_head"],
    cos: Float[Tensor, "position 1 rotated"],
    sin: Float[Tensor, "position 1 rotated"],
    *,
    interleaved: bool,
    out: Float[Tensor, "*layer position head d_head"],
) -> None:
    """Rotary position embedding (Su et al. 2021) of the first ``rotated`` dimensions of each head, written to ``out``.

    Pairs are (i, i + rotated/2), or (2i, 2i + 1) when ``interleaved``.
    """
    n = cos.shape[-1]
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    first, second = (slice(0, n, 2), slice(1, n, 2)) if interleaved else (slice(0, n // 2), slice(n // 2, n))
    torch.mul(x[..., :n], cos, out=out[..., :n])
    out[..., first].addcmul_(x[..., second], sin[..., first], value=-1)
    out[..., second].addcmul_(x[..., first], sin[..., second])
    if n < x.shape[-1]:
        out[..., n:].copy_(x[..., n:])
