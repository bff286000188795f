"""Compiled loops of proximity: arrays in, arrays out, each with a naive twin in the tests.

Loops run in parallel over targets. One thread writes a target, so results do not depend on the number of threads. The flags let
the compiler reorder (and so vectorise) sums, but keep NaN and infinity.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, prange

from .prepare import prepare

prepare()

# "nnan" and "ninf" are left out, so a NaN in the activations shows in the result.
_FLAGS = {"nsz", "arcp", "contract", "afn", "reassoc"}


@njit(cache=True, parallel=True, fastmath=_FLAGS)
def proximity_of_parts(y: Any, coefficient: Any, vectors: Any) -> Any:
    """Compare y without each part with y itself: Σ_d (|y_d| − |y_d − c·v_d|), or 0 if that is negative.

    Parameters
    ----------
    y
        [T, d] the whole of each target.
    coefficient
        [H, T, S] of part (h, s) in target t; zero for parts that do not exist.
    vectors
        [H, S, d] the part before its coefficient.

    Returns
    -------
    [H, T, S] decrease of the distance from the sum of the others to y when the part is added, in units of ‖y‖₁.
    """
    heads, targets, sources = coefficient.shape
    size = y.shape[1]
    result = np.zeros((heads, targets, sources), dtype=y.dtype)
    # Targets are the outer loop: a thread writes its own rows, and y[t] stays in the cache for all parts.
    for t in prange(targets):
        row = y[t]
        for h in range(heads):
            for s in range(sources):
                c = coefficient[h, t, s]
                # Causal attention has zeros above the diagonal: half of the parts need no loop over d.
                if c != 0:
                    vector = vectors[h, s]
                    gained = y.dtype.type(0)
                    for d in range(size):
                        gained += abs(row[d]) - abs(row[d] - c * vector[d])
                    result[h, t, s] = max(gained, y.dtype.type(0))
    return result


@njit(cache=True, parallel=True, fastmath=_FLAGS)
def proximity_of_sums(y: Any, coefficient: Any, vectors: Any, own: Any) -> Any:
    """Compare y without each source's sum over heads with y itself, as :func:`proximity_of_parts`.

    Parameters
    ----------
    y
        [T, d] the whole of each target.
    coefficient
        [H, T, S] of part (h, s) in target t.
    vectors
        [H, S, d] the part before its coefficient.
    own
        [T, d] further part of target t, added to the sum of the source at its own position.

    Returns
    -------
    [T, S] decrease of the distance from the sum of the others to y when Σ_h c·v (and ``own``) is added, in units of ‖y‖₁.
    """
    heads, targets, sources = coefficient.shape
    size = y.shape[1]
    result = np.zeros((targets, sources), dtype=y.dtype)
    for t in prange(targets):
        # One buffer per target: the sum over heads of one source never exists for all sources at once.
        row, part = y[t], np.empty(size, dtype=y.dtype)
        for s in range(sources):
            for d in range(size):
                part[d] = own[t, d] if s == t else y.dtype.type(0)
            for h in range(heads):
                c = coefficient[h, t, s]
                if c != 0:
                    vector = vectors[h, s]
                    for d in range(size):
                        part[d] += c * vector[d]
            gained = y.dtype.type(0)
            for d in range(size):
                gained += abs(row[d]) - abs(row[d] - part[d])
            result[t, s] = max(gained, y.dtype.type(0))
    return result
