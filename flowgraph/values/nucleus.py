"""The nucleus of a set of edges: one rule for graphs, routes and pruning."""

from __future__ import annotations

import numpy as np


def nucleus_mask(target: np.ndarray, share: np.ndarray, nucleus: float) -> np.ndarray:
    """Per target, the fewest edges whose Σ|share| reaches ``nucleus`` of that target's Σ|share|."""
    size = np.abs(share)
    # A nucleus of 1 keeps every edge with a share: rounding of the sums must not drop the last one.
    if nucleus == 1.0 or not len(size):
        positive: np.ndarray = size > 0
        return positive
    order = np.lexsort((-size, target))
    grouped = target[order]
    starts = np.flatnonzero(np.r_[True, grouped[1:] != grouped[:-1]])
    lengths = np.diff(np.r_[starts, len(order)])
    totals = np.repeat(np.add.reduceat(size[order], starts), lengths)
    # Parts of their own target's total, so that a running sum over all targets keeps its digits.
    part = np.divide(size[order], totals, out=np.zeros(len(order)), where=totals > 0)
    running = np.cumsum(part)
    before = running - part - np.repeat(running[starts] - part[starts], lengths)
    mask = np.zeros(len(share), bool)
    # An edge is needed as long as those before it have not reached it; rounding must not ask for one more.
    mask[order] = (before < nucleus - 1e-10) & (part > 0)
    return mask
