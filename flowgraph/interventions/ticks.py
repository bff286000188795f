"""Progress and cancellation of long work."""

from __future__ import annotations

from collections.abc import Callable

from ..errors import CancelledError
from ..models.wheel import Progress

Tick = Callable[[int], None]
"""Called before a piece of work with its size, and with 0 when all is done."""


def ticking(stage: str, total: int, progress: Progress | None, cancel: Callable[[], bool] | None, *, unit: str) -> Tick:
    """A function that work calls before each piece: it reports the part done, and stops the work if ``cancel`` says so.

    Parameters
    ----------
    stage
        Name of the work, in words.
    total
        Size of all pieces together.
    progress, cancel
        As for :func:`flowgraph.head_effects`.
    unit
        Unit of the sizes, in words.

    Raises
    ------
    CancelledError
        From what it returns.
    """
    done = 0

    def tick(size: int) -> None:
        nonlocal done
        # A call with 0 says that all is done: there is nothing left to cancel.
        if cancel is not None and size and cancel():
            raise CancelledError(f"{stage} was cancelled after {done:,} of {total:,} {unit}")
        if progress is not None:
            progress(stage, done / total)
        done += size

    return tick
