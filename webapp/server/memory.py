"""Memory of this process, given back to the system once what was kept in it is gone."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable


@functools.cache
def _trim() -> Callable[[int], int] | None:
    """``malloc_trim`` of glibc; None where the system's library has none, and gives memory back by itself or never."""
    try:
        found: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError, TypeError):
        return None
    return found


def give_back() -> None:
    """Give free memory back: otherwise the largest sum of what ever lay side by side stays with the process."""
    trim = _trim()
    if trim is not None:
        trim(0)
