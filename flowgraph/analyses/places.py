"""Places that analyses are asked about: positions of the prompt, and the direction of the target there."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from ..attribution import logit_direction
from ..errors import ArgumentError, NotRecordedError, UnsupportedReadingError
from ..recorded import Trace


def position_of(trace: Trace, position: int | None) -> int:
    """A position counted from the start; None is the one that the trace explains, negative ones count from the end.

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


def direction_of_target(trace: Trace, position: int) -> Float[Tensor, "d_model"] | None:
    """[d_model] direction of the logit of the trace's target (minus its foil) at a position.

    None where single parts have no logit: heads that are not norm + linear, post-norm blocks, and traces that do not reach the
    last layer.
    """
    if trace.target is None:
        return None
    try:
        return logit_direction(trace, trace.target, trace.foil, position)[0]
    except (UnsupportedReadingError, NotRecordedError):
        return None
