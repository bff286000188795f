"""Rotary position embedding."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .anatomy import upcast

Angles = tuple[Tensor, Tensor]
"""cos and sin, each [position, 1, rotated dimensions]."""
# Wide enough for the model's own rounding; a wrong form is off by far more.
_ROUNDING = {torch.float64: 1e-4, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 2e-2}


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
    # Written into `out` part by part, so no copy of the queries or keys is made.
    torch.mul(x[..., :n], cos, out=out[..., :n])
    out[..., first].addcmul_(x[..., second], sin[..., first], value=-1)
    out[..., second].addcmul_(x[..., first], sin[..., second])
    if n < x.shape[-1]:
        out[..., n:].copy_(x[..., n:])


class HandedAngles:
    """Angles that attention modules were called with, recognised by their effect.

    Releases and families differ in the form: (cos, sin) or (sin, cos), each angle once or twice. The right form turns the
    projections of one head into the input of the dot product. If no form does, a layer does more than its row says, and
    there are no angles.

    Parameters
    ----------
    interleaved
        The pairs of dimensions, as for :func:`rotate`.
    """

    def __init__(self, *, interleaved: bool) -> None:
        self.interleaved = interleaved
        self._pairs: dict[int, Any] = {}
        self._before: dict[tuple[str, int], Tensor] = {}
        self._after: dict[tuple[str, int], Tensor] = {}

    def handed(self, row: int, module: nn.Module, kwargs: dict[str, Any]) -> None:
        """Note the arguments of the attention of a row."""
        if "position_embeddings" in kwargs:
            self._pairs[row] = kwargs["position_embeddings"]
        elif hasattr(module, "embed_positions"):
            table: Any = module.embed_positions
            positions = kwargs["position_ids"]
            # GPT-J keeps one table of sines and cosines side by side.
            sin, cos = table.to(positions.device)[positions].chunk(2, dim=-1)
            self._pairs[row] = (cos, sin)

    def before(self, site: str, row: int, head: Float[Tensor, "position 1 d_head"]) -> None:
        """Note one head of the queries or keys before rotary embedding."""
        self._before[site, row] = head

    def after(self, site: str, row: int, head: Float[Tensor, "position 1 d_head"]) -> None:
        """Note the same head as it entered the dot product."""
        self._after[site, row] = head

    @property
    def rows(self) -> list[int]:
        """Rows whose attention was called with angles."""
        return sorted(self._pairs)

    def taken(self) -> list[Angles]:
        """Angles of modules that have a table of their own; the table holds each angle once."""
        return [self._full(pair, twice=True) for _, pair in sorted(self._pairs.items())]

    def recognised(self) -> list[Angles]:
        """Angles of each row; empty if those of one row are not recognised."""
        groups: dict[int, list[int]] = {}
        for row, pair in sorted(self._pairs.items()):  # most models hand the same pair to every layer
            groups.setdefault(id(pair), []).append(row)
        found: dict[int, Angles] = {}
        for rows in groups.values():
            right = next((form for form in self._forms(self._pairs[rows[0]]) if self._explains(form, rows)), None)
            if right is None:
                return []
            found |= dict.fromkeys(rows, right)
        return [found[row] for row in sorted(found)]

    def _forms(self, pair: Any) -> Iterator[Angles]:
        if isinstance(pair, tuple) and len(pair) == 2:
            for twice in (False, True):
                yield self._full(pair, twice=twice)
                yield self._full(pair[::-1], twice=twice)

    def _full(self, pair: tuple[Tensor, Tensor], *, twice: bool) -> Angles:
        cos, sin = (part.reshape(-1, 1, part.shape[-1]) for part in pair)
        if not twice:
            return cos, sin
        if self.interleaved:
            return cos.repeat_interleave(2, -1), sin.repeat_interleave(2, -1)
        return torch.cat([cos, cos], -1), torch.cat([sin, sin], -1)

    def _explains(self, angles: Angles, rows: list[int]) -> bool:
        cos, sin = angles
        for site in ("q", "k"):
            x = torch.stack([self._before[site, row] for row in rows])
            entered = torch.stack([self._after[site, row] for row in rows])
            if cos.shape[-1] > x.shape[-1] or len(cos) != x.shape[1]:
                return False
            made = torch.empty_like(x)
            rotate(x, cos, sin, interleaved=self.interleaved, out=made)
            error = upcast(made - entered).flatten(1).norm(dim=1)
            # A wrong form is off by a factor, a right one by its last bits.
            if not bool((error <= _ROUNDING[x.dtype] * upcast(entered).flatten(1).norm(dim=1)).all()):
                return False
        return True
