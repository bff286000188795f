"""Positions of the prompt as arguments of analyses."""

from __future__ import annotations

from ..errors import ArgumentError
from .trace import Trace


def position_of(trace: Trace, position: int | None) -> int:
    """Resolve a position: None is the one that the trace explains, negative ones count from the end.

    Raises
    ------
    ArgumentError
        If the prompt has no such position.
    """
    if position is None:
        return trace.position
    count = len(trace.tokens)
    if not -count <= position < count:
        raise ArgumentError(
            f"position={position} is outside the prompt of {count} tokens; expected 0…{count - 1}, or negative from the end"
        )
    return position % count
