"""Attention within windows of an image: which position stands where in which window, and one call over all of them.

A module that attends within windows sees each window as a row of its own. The places are found by numbers: each row that it reads is a
row of the block's state, or of a norm of it. With them a call becomes one over all positions, whose pattern is 0 between windows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from .eager import AttentionCall, Watch


def order_of(read: Float[Tensor, "window place d"], states: Sequence[Tensor]) -> tuple[int, ...] | None:
    """[window · place] the position that stands at each place, window by window; None if no state has exactly these rows.

    Rows of padding, and rows that come twice, belong to no position, so that nothing is found.
    """
    rows = _keys(read.reshape(-1, read.shape[-1]))
    for state in states:
        if state.numel() != read.numel() or state.shape[-1] != read.shape[-1]:
            continue
        positions = {key: n for n, key in enumerate(_keys(state.reshape(-1, state.shape[-1])))}
        if len(positions) == len(rows) and set(positions) == set(rows):
            return tuple(positions[key] for key in rows)
    return None


def _keys(rows: Float[Tensor, "n d"]) -> list[bytes]:
    return [row.tobytes() for row in rows.detach().cpu().double().numpy()]


def over_all(watch: Watch, order: Int[Tensor, "n"]) -> Watch:
    """A watch that is shown calls over all positions in place of calls within windows."""
    return lambda call: watch(whole(call, order))


def whole(call: AttentionCall, order: Int[Tensor, "n"]) -> AttentionCall:
    """One call over all positions, from one whose rows are windows.

    Parameters
    ----------
    call
        Queries, keys, values [window, head, place, …], mask and bias [window or 1, head or 1, place, place].
    order
        [window · place] the position at each place.
    """
    windows, _, places, _ = call.query.shape
    at = order.to(call.query.device).view(windows, places)

    def ordered(x: Float[Tensor, "window head place d"]) -> Float[Tensor, "1 head position d"]:
        made = x.new_empty(1, x.shape[1], windows * places, x.shape[-1])
        made[0, :, at.reshape(-1)] = x.transpose(0, 1).flatten(1, 2)
        return made

    def between(x: Any, outside: float) -> Any:
        """[1, head, position, position] numbers of pairs within windows, and one number for all others."""
        if not isinstance(x, Tensor):
            return x
        made = x.new_full((1, x.shape[1], windows * places, windows * places), outside)
        for window, here in enumerate(at):
            made[0, :, here[:, None], here] = x[window if len(x) > 1 else 0]
        return made

    nothing = call.query.new_zeros(1, 1, places, places)
    return replace(
        call, query=ordered(call.query), key=ordered(call.key), value=ordered(call.value),
        mask=between(nothing if call.mask is None else call.mask, float("-inf")),
        pattern=None if call.pattern is None else between(call.pattern, 0.0),
        output=ordered(call.output.transpose(1, 2)).transpose(1, 2),
        options={**call.options, "position_bias": between(call.options.get("position_bias"), 0.0)},
    )  # fmt: skip
