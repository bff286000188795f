"""Compiled product of two lower triangular matrices, a sixth of the multiplications of a full product.

The loop makes four rows of the result at a time from four rows of the lower factor at a time, so it uses each number that it
fetches four times. Threads take the rows in groups; one thread makes a row, in one order.
"""

from __future__ import annotations

from typing import Any

from numba import njit, prange

from .prepare import prepare

prepare()

# "nnan" and "ninf" are left out, so a NaN in a matrix shows in the product.
_FLAGS = {"nsz", "arcp", "contract", "afn", "reassoc"}
_GROUP = 16
"""Rows that a thread makes in one go: a part of the lower factor that is in the cache serves all of them."""


@njit(cache=True, nogil=True, fastmath=_FLAGS)
def is_lower_triangular(block: Any) -> Any:
    """Whether nothing lies above the diagonal of [T, T]; a full matrix is recognised by its first row."""
    for i in range(len(block)):
        # A sum without a way out of the loop, since only such a loop takes several numbers at a time.
        above = block.dtype.type(0)
        for value in block[i, i + 1 :]:
            above += abs(value)
        if above != 0:
            return False
    return True


@njit(cache=True, nogil=True, fastmath=_FLAGS)
def _rows(upper: Any, lower: Any, result: Any, first: int, stop: int) -> None:
    """Rows ``first`` to ``stop`` of the product; ``first`` is a multiple of 4."""
    for i in range(first, stop):
        result[i] = 0.0
    whole, all_of_four = stop - stop % 4, len(lower) - len(lower) % 4
    for k in range(0, min(stop, all_of_four), 4):
        # Rows k to k + 3 reach to different columns. All are read up to the last: past the diagonal they hold zeros,
        # and no branch is needed.
        size = k + 4
        p, q, r, s = lower[k, :size], lower[k + 1, :size], lower[k + 2, :size], lower[k + 3, :size]
        # Rows above k have a zero in column k. Both first and k are multiples of four, so whole groups remain.
        top = max(first, k)
        for i in range(top, whole, 4):
            w, x, y, z = result[i, :size], result[i + 1, :size], result[i + 2, :size], result[i + 3, :size]
            # Sixteen numbers stay in registers for the whole inner loop.
            wp, wq, wr, ws = upper[i, k], upper[i, k + 1], upper[i, k + 2], upper[i, k + 3]
            xp, xq, xr, xs = upper[i + 1, k], upper[i + 1, k + 1], upper[i + 1, k + 2], upper[i + 1, k + 3]
            yp, yq, yr, ys = upper[i + 2, k], upper[i + 2, k + 1], upper[i + 2, k + 2], upper[i + 2, k + 3]
            zp, zq, zr, zs = upper[i + 3, k], upper[i + 3, k + 1], upper[i + 3, k + 2], upper[i + 3, k + 3]
            for j in range(size):
                a, b, c, d = p[j], q[j], r[j], s[j]
                w[j] += wp * a + wq * b + wr * c + ws * d
                x[j] += xp * a + xq * b + xr * c + xs * d
                y[j] += yp * a + yq * b + yr * c + ys * d
                z[j] += zp * a + zq * b + zr * c + zs * d
        # The rows of the last group that do not make four.
        for i in range(max(top, whole), stop):
            w = result[i, :size]
            wp, wq, wr, ws = upper[i, k], upper[i, k + 1], upper[i, k + 2], upper[i, k + 3]
            for j in range(size):
                w[j] += wp * p[j] + wq * q[j] + wr * r[j] + ws * s[j]
    # The columns that do not make four, where the size is no multiple of it.
    for k in range(all_of_four, stop):
        for i in range(max(first, k), stop):
            for j in range(k + 1):
                result[i, j] += upper[i, k] * lower[k, j]


@njit(cache=True, nogil=True, parallel=True, fastmath=_FLAGS)
def triangular_product(upper: Any, lower: Any, result: Any, chunks: int) -> None:
    """Write the product of two lower triangular matrices.

    Parameters
    ----------
    upper, lower
        [T, T] factors, nothing above their diagonals.
    result
        [T, T] upper · lower, written.
    chunks
        Number of parts that rows are dealt out to; the result does not depend on it.
    """
    groups = (len(upper) + _GROUP - 1) // _GROUP
    for chunk in prange(chunks):
        # Groups are dealt out in turn: later rows are longer, and each thread gets some of every length.
        for group in range(chunk, groups, chunks):
            first = group * _GROUP
            _rows(upper, lower, result, first, min(first + _GROUP, len(upper)))
