"""Compiled loops of maximum flow in a layered graph whose edges only lead from one layer to the next one down.

``caps[l, i, j]`` is the capacity of the edge from token i above block l to token j below it; blocks that are narrower are
filled up with zeros. The source is one token above the last block, the sink one token below block 0. Layer k of the interior
lies between block k and block k − 1, 1 ≤ k < L. ``causal`` says that nothing lies above a diagonal, so that only the tokens
from the sink's position to the source's take part.

A flow is found by Dinic's algorithm on the dense blocks. It ends as soon as it reaches the value of a cut that was found
beforehand, since no flow is larger; most pairs therefore need no search that fails. What is left of a capacity is neglected
below a share of the flow already found, never of the capacities, which may span many orders of magnitude.

Two shortcuts settle most pairs before that, each with a flow that is checked to be possible and reaches the bound:

- *A middle.* One flow from each source to a fixed share of every token half way down, and one from there to each sink, are
  2·W flows of half the depth. What both ends of a pair have in common is a flow of the pair.
- *Merged blocks.* Neighbouring blocks are added up to one, in which flow changes its token at most once. A flow through a few
  merged blocks can run through the real ones if what is in a column, comes and goes, fits through its narrowest diagonal.

Rows of the matrix (all sinks of a source) do not depend on one another, and each is written by one thread.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, prange

_FLAGS = {"nsz", "arcp", "contract", "afn", "reassoc"}
_NEGLIGIBLE = 1e-15
"""Capacity left over, as a share of the flow found so far, that counts as used up."""
_REACHED = 1e-12
"""How near, as a share of it, a flow must come to the value of a cut to have reached it."""


@njit(cache=True, nogil=True)
def is_lower_triangular(caps: Any) -> bool:
    """Whether nothing lies above the diagonal of any block of [L, W, W]."""
    blocks, width, _ = caps.shape
    for block in range(blocks):
        for i in range(width):
            for j in range(i + 1, width):
                if caps[block, i, j] != 0.0:
                    return False
    return True


@njit(cache=True, nogil=True, fastmath=_FLAGS)
def cut_bounds(caps: Any, causal: bool) -> Any:
    """Find the smallest of a family of cuts, for all pairs at once; no flow is larger.

    In every layer the source's side is one of: the source's token alone, all tokens but the sink's, all, none.

    Parameters
    ----------
    caps
        [L, W, W] capacities.
    causal
        Whether every block is lower triangular.

    Returns
    -------
    [W, W] value of the cut for each source and sink.
    """
    blocks, width, _ = caps.shape
    alone, none = np.zeros((width, width)), np.full((width, width), np.inf)
    rest, every = np.full((width, width), np.inf), np.full((width, width), np.inf)
    out, into = np.zeros(width), np.zeros(width)
    for block in range(blocks - 1, -1, -1):
        into[:] = 0.0
        if not causal:
            for i in range(width):
                for j in range(width):
                    into[j] += 0.0 if i == j else caps[block, i, j]
        for s in range(width):
            stop = s + 1 if causal else width
            leaving = 0.0
            for j in range(stop - 1, -1, -1):
                leaving += 0.0 if j == s else caps[block, s, j]
                out[j] = leaving
            for t in range(stop):
                if causal:
                    into[t] += 0.0 if t == s else caps[block, s, t]
                else:
                    out[t] = leaving
            for t in range(stop):
                by_rest = min(rest[s, t] + into[t], every[s, t] + (into[t] + caps[block, t, t]))
                none[s, t] = min(none[s, t], alone[s, t] + (out[t] + caps[block, s, s]))
                every[s, t] = min(alone[s, t], min(rest[s, t], every[s, t]))
                rest[s, t] = min(alone[s, t] + caps[block, s, t], by_rest)
                alone[s, t] += out[t]
    bounds = np.minimum(rest, none)
    for s in range(width):
        for t in range(width):
            if causal and t > s:
                bounds[s, t] = 0.0
            elif s != t:
                bounds[s, t] = min(bounds[s, t], alone[s, t])
    return bounds


@njit(cache=True, nogil=True)
def _distances(
    caps: Any, sink: Any, lo: int, hi: int, total: float, flow: Any, givers: Any, counts: Any, left: Any, served: Any,
    level: Any, arc: Any, waiting: Any, waits: Any, queue: Any,
) -> Any:  # fmt: skip
    """Number the nodes by their distance from what is left of the supply, until the sink is met.

    Returns the distance of the nearest node that the sink still takes something from, −1 where there is none.
    """
    top = caps.shape[0] - 1
    negligible = _NEGLIGIBLE * total
    for k in range(1, top + 1):
        waits[k] = hi - lo
        for i in range(lo, hi):
            level[k, i], arc[k, i], waiting[k, i - lo] = -1, 0, i
    tail = 0
    waits[top] = 0
    for i in range(lo, hi):
        if left[i] > negligible:
            level[top, i], queue[tail, 0], queue[tail, 1] = 0, top, i
            tail += 1
        else:
            waiting[top, waits[top]] = i
            waits[top] += 1
    head = 0
    while head < tail:
        k, i = queue[head, 0], queue[head, 1]
        head += 1
        step = level[k, i] + 1
        if k == 1:
            if sink[i] - served[i] > negligible:
                return step - 1
        else:
            still = 0
            for n in range(waits[k - 1]):
                j = waiting[k - 1, n]
                if caps[k - 1, i, j] - flow[k - 1, i, j] > negligible:
                    level[k - 1, j], queue[tail, 0], queue[tail, 1] = step, k - 1, j
                    tail += 1
                else:
                    waiting[k - 1, still] = j
                    still += 1
            waits[k - 1] = still
        if k < top and waits[k + 1] > 0:
            for n in range(counts[k, i]):
                j = givers[k, i, n]
                if level[k + 1, j] < 0 and flow[k, j, i] > negligible:
                    level[k + 1, j], queue[tail, 0], queue[tail, 1] = step, k + 1, j
                    tail += 1
            still = 0
            for n in range(waits[k + 1]):
                j = waiting[k + 1, n]
                if level[k + 1, j] < 0:
                    waiting[k + 1, still] = j
                    still += 1
            waits[k + 1] = still
    return -1


@njit(cache=True, nogil=True)
def _push(
    caps: Any, sink: Any, amount: float, negligible: float, first: bool, depth: int, flow: Any, givers: Any, counts: Any,
    left: Any, served: Any, path: Any, narrowest: Any,
) -> int:  # fmt: skip
    """Send an amount along the path; returns the depth of the last node that can still be reached along it."""
    start, end = path[0, 1], path[depth, 1]
    left[start] = 0.0 if amount >= left[start] else left[start] - amount
    served[end] = sink[end] if amount >= sink[end] - served[end] else served[end] + amount
    narrowest[0] = left[start]
    usable = depth
    for x in range(depth):
        k, i, below, j = path[x, 0], path[x, 1], path[x + 1, 0], path[x + 1, 1]
        if below < k:
            carried, capacity = flow[below, i, j], caps[below, i, j]
            if carried == 0.0:
                known = False
                if not first:
                    # Its flow may have been taken back entirely, in which case it is still listed.
                    for n in range(counts[below, j]):
                        known = known or givers[below, j, n] == i
                if not known:
                    givers[below, j, counts[below, j]] = i
                    counts[below, j] += 1
            carried = capacity if amount >= capacity - carried else carried + amount
            flow[below, i, j] = carried
            remains = capacity - carried
        else:
            remains = flow[k, j, i]
            remains = 0.0 if amount >= remains else remains - amount
            flow[k, j, i] = remains
        if x < usable:
            narrowest[x + 1] = min(narrowest[x], remains)
            if remains <= negligible:
                usable = x
    return usable


@njit(cache=True, nogil=True)
def _block_paths(
    caps: Any, sink: Any, t: int, lo: int, hi: int, causal: bool, first: bool, deepest: int, total: float, bound: float,
    flow: Any, givers: Any, counts: Any, left: Any, served: Any, level: Any, arc: Any, path: Any, narrowest: Any,
) -> float:  # fmt: skip
    """Send flow along shortest paths until each of them is used up; returns the new total.

    A node tries the sink's column first, then its own, then the others in order: flow that is already below its goal stays
    there, and flow that has far to go stays where capacity is largest.
    """
    top = caps.shape[0] - 1
    goal = bound * (1.0 - _REACHED)
    for start in range(lo, hi):
        if level[top, start] != 0 or left[start] <= _NEGLIGIBLE * total:
            continue
        depth, path[0, 0], path[0, 1], narrowest[0] = 0, top, start, left[start]
        while depth >= 0 and total < goal:
            negligible = _NEGLIGIBLE * total
            k, i = path[depth, 0], path[depth, 1]
            if k == 1 and sink[i] - served[i] > negligible:
                amount = min(min(narrowest[depth], sink[i] - served[i]), bound - total)
                total += amount
                depth = _push(
                    caps, sink, amount, negligible, first, depth, flow, givers, counts, left, served, path, narrowest
                )
                if left[start] <= negligible:
                    break
                continue
            step = level[k, i] + 1
            found, remains, layer = -1, 0.0, k - 1
            if step <= deepest:
                p = arc[k, i]
                stop = 0 if k == 1 else (i + 1 if causal else hi) - lo + 2
                while p < stop:
                    j = p - 2 + lo if p > 1 else (t if p == 0 else i)
                    if level[k - 1, j] == step:
                        remains = caps[k - 1, i, j] - flow[k - 1, i, j]
                        if remains > negligible:
                            found = j
                            break
                    p += 1
                if found < 0 and k < top:
                    # Beyond the ways down: take back what another node sends here, and let it find another way.
                    layer = k + 1
                    base = hi - lo + 2
                    p = max(p, base)
                    while p < base + counts[k, i]:
                        j = givers[k, i, p - base]
                        if level[k + 1, j] == step and flow[k, j, i] > negligible:
                            found, remains = j, flow[k, j, i]
                            break
                        p += 1
                arc[k, i] = p
            if found >= 0:
                depth += 1
                path[depth, 0], path[depth, 1] = layer, found
                narrowest[depth] = min(narrowest[depth - 1], remains)
            else:
                level[k, i] = -1
                depth -= 1
    return total


@njit(cache=True, nogil=True)
def _scratch(blocks: int, width: int) -> Any:
    """Arrays of a search, zero where a search expects and leaves them so."""
    nodes = blocks * width + 2
    return (
        np.zeros((blocks, width, width)),  # flow
        np.zeros((blocks, width, width), np.int32),  # givers
        np.zeros((blocks, width), np.int64),  # counts
        np.zeros(width),  # left
        np.zeros(width),  # served
        np.zeros((blocks, width), np.int64),  # level
        np.zeros((blocks, width), np.int64),  # arc
        np.zeros((blocks, width), np.int64),  # waiting
        np.zeros(blocks, np.int64),  # waits
        np.zeros((nodes, 2), np.int64),  # queue
        np.zeros((nodes, 2), np.int64),  # path
        np.zeros(nodes),  # narrowest
    )


@njit(cache=True, nogil=True)
def _max_flow(
    caps: Any, supply: Any, sink: Any, t: int, lo: int, hi: int, causal: bool, bound: float, phases: int, work: Any
) -> Any:
    """Flow from ``supply`` [W] in the highest inner layer to ``sink`` [W] in the lowest, or ``bound`` if it gets there.

    It is a maximum unless the number of ``phases`` ends it. The flow stays in ``work`` until :func:`_clear`.
    """
    flow, givers, counts, left, served, level, arc, waiting, waits, queue, path, narrowest = work
    top = caps.shape[0] - 1
    for i in range(lo, hi):
        left[i], served[i] = supply[i], 0.0
    # All layers are used in order at first, as if a search had numbered them.
    deepest = top - 1
    for k in range(1, top + 1):
        for i in range(lo, hi):
            level[k, i], arc[k, i] = top - k, 0
    total, first = 0.0, True
    while deepest >= 0:
        total = _block_paths(
            caps, sink, t, lo, hi, causal, first, deepest, total, bound, flow, givers, counts, left, served, level, arc, path,
            narrowest,
        )  # fmt: skip
        first = False
        phases -= 1
        if total >= bound * (1.0 - _REACHED):
            return bound
        if phases == 0:
            return total
        deepest = _distances(
            caps, sink, lo, hi, total, flow, givers, counts, left, served, level, arc, waiting, waits, queue
        )
    return total


@njit(cache=True, nogil=True)
def _clear(blocks: int, lo: int, hi: int, flow: Any, givers: Any, counts: Any) -> None:
    """Take back all flow, touching only the edges that were used."""
    for k in range(1, blocks):
        for j in range(lo, hi):
            for n in range(counts[k, j]):
                flow[k, givers[k, j, n], j] = 0.0
            counts[k, j] = 0


@njit(cache=True, nogil=True)
def _from_middle(caps: Any, last_hop: Any, bounds: Any, middle: Any, half: int, values: Any, work: Any) -> Any:
    """Settle pairs by flows to and from the shares ``middle`` [W] of inner layer ``half``.

    Writes the pairs that reach their bound into ``values`` [W, W], where those that are open are negative; returns how many
    stay open.
    """
    blocks, width, _ = caps.shape
    above, below = caps[half - 1 :], caps[: half + 1]
    arriving, leaving = np.zeros((width, width)), np.zeros((width, width))
    for v in range(width):
        _max_flow(above, caps[blocks - 1, v], middle, v, 0, width, False, np.inf, 1, work)
        arriving[v] = work[4]
        _clear(blocks, 0, width, work[0], work[1], work[2])
        _max_flow(below, middle, last_hop[v], v, 0, width, False, np.inf, 1, work)
        leaving[v] = middle - work[3]
        _clear(blocks, 0, width, work[0], work[1], work[2])
    still = 0
    for s in range(width):
        for t in range(width):
            if values[s, t] < 0.0:
                both = 0.0
                for j in range(width):
                    both += min(arriving[s, j], leaving[t, j])
                if both >= bounds[s, t] * (1.0 - _REACHED):
                    values[s, t] = bounds[s, t]
                else:
                    still += 1
    return still


@njit(cache=True, nogil=True)
def _handed_down(amounts: Any, edges: Any) -> Any:
    """Amounts [W] through one block [W, W]; a loop, since the compiler's own product asks for SciPy."""
    result = np.zeros(len(amounts))
    for i in range(len(amounts)):
        for j in range(len(amounts)):
            result[j] += amounts[i] * edges[i, j]
    return result


@njit(cache=True, nogil=True)
def _settle_by_middles(caps: Any, last_hop: Any, bounds: Any, values: Any) -> None:
    """Try a middle that is the same for every token, then one that follows the capacities."""
    blocks, width, _ = caps.shape
    half = blocks // 2
    work = _scratch(blocks, width)
    size = caps[blocks - 1].sum() / width
    middle = np.full(width, size / width)
    if size <= 0.0 or _from_middle(caps, last_hop, bounds, middle, half, values, work) == 0:
        return
    reach = np.full(width, 1.0 / width)
    for block in range(blocks - 1, half - 1, -1):
        reach = _handed_down(reach, caps[block])
    if reach.sum() > 0.0:
        _from_middle(caps, last_hop, bounds, reach * (size / reach.sum()), half, values, work)


@njit(cache=True, nogil=True)
def _merged(caps: Any, borders: Any, count: int) -> Any:
    """Add up blocks ``borders[g]`` to ``borders[g + 1]`` − 1 to block g + 1; diagonals are as wide as their narrowest."""
    width = caps.shape[1]
    result = np.zeros((count + 2, width, width))
    for g in range(count):
        merged = result[g + 1]
        merged[:] = caps[borders[g]]
        for block in range(borders[g] + 1, borders[g + 1]):
            for i in range(width):
                narrow = min(merged[i, i], caps[block, i, i])
                for j in range(width):
                    merged[i, j] += caps[block, i, j]
                merged[i, i] = narrow
    return result


@njit(cache=True, nogil=True, fastmath=_FLAGS)
def _relieve(amounts: Any, own: int, edges: Any, straight: Any, low: float, lo: int, hi: int) -> None:
    """Spread what is in column ``own`` beyond ``low`` over one block's ``edges`` [W], while the rest goes straight on."""
    width = 0.0
    for j in range(lo, hi):
        width += 0.0 if j == own else edges[j]
    part = min(1.0, max(amounts[own] - low, 0.0) / width) if width > 0.0 else 0.0
    stays = max(amounts[own] - part * width, 0.0)
    for j in range(lo, hi):
        amounts[j] = min(amounts[j], straight[j]) + part * edges[j]
    amounts[own] = min(stays, straight[own])


@njit(cache=True, nogil=True)
def _source_column_fits(
    caps: Any, narrow: float, first: int, stop: int, sent: Any, s: int, lo: int, hi: int, load: float, slack: float
) -> Any:
    """Whether column s can carry its load if it hands on what it sends (``sent`` [W]) as early as it can."""
    for block in range(stop - 1, first - 1, -1):
        if load <= narrow + slack:
            return True
        stays = load
        for j in range(lo, hi):
            if j != s and sent[j] > 0.0:
                passed = 0.0
                for above in range(block, stop):
                    passed += caps[above, s, j]
                stays -= min(sent[j], passed)
        if stays > caps[block, s, s] + slack:
            return False
        if stays <= narrow + slack:
            return True
    return True


@njit(cache=True, nogil=True)
def _sink_column_fits(
    caps: Any,
    narrow: float,
    first: int,
    stop: int,
    flow: Any,
    s: int,
    t: int,
    lo: int,
    hi: int,
    load: float,
    slack: float,
) -> Any:
    """Whether column t can carry its load if it takes what the others send as late as it can.

    What the source sends counts as taken at once, since the source hands it on as early as it can.
    """
    for block in range(first, stop):
        if load <= narrow + slack:
            return True
        carries = load
        for i in range(lo, hi):
            if i != t and i != s and flow[i, t] > 0.0:
                later = 0.0
                for below in range(first, block + 1):
                    later += caps[below, i, t]
                carries -= min(flow[i, t], later)
        if carries > caps[block, t, t] + slack:
            return False
        if carries <= narrow + slack:
            return True
    return True


@njit(cache=True, nogil=True)
def _fits(
    caps: Any, merged: Any, borders: Any, s: int, t: int, lo: int, hi: int, slack: float, load: Any, work: Any
) -> Any:
    """Whether the real blocks can carry the flow in ``work`` through the merged ones.

    A column holds at most what stays, leaves and arrives in it during a merged block, whenever that happens; the columns of
    source and sink get a timetable instead.
    """
    flow, givers, counts = work[0], work[1], work[2]
    for g in range(1, merged.shape[0] - 1):
        first, stop = borders[g - 1], borders[g]
        if stop - first == 1:
            continue
        load[lo:hi] = 0.0
        for j in range(lo, hi):
            for n in range(counts[g, j]):
                i = givers[g, j, n]
                load[i] += flow[g, i, j]
                load[j] += 0.0 if i == j else flow[g, i, j]
        for v in range(lo, hi):
            if load[v] > merged[g, v, v] + slack and (s == t or (v != s and v != t)):
                return False
        if s == t:
            continue
        source_column, sink_column = merged[g, s, s], merged[g, t, t]
        if not _source_column_fits(caps, source_column, first, stop, flow[g, s], s, lo, hi, load[s], slack):
            return False
        if not _sink_column_fits(caps, sink_column, first, stop, flow[g], s, t, lo, hi, load[t], slack):
            return False
    return True


@njit(cache=True, nogil=True)
def _settles(
    caps: Any, last_hop: Any, straight: Any, merged: Any, borders: Any, s: int, t: int, causal: bool, bound: float,
    amounts: Any, work: Any,
) -> Any:  # fmt: skip
    """Whether a flow through the merged blocks reaches the bound and fits; blocks outside them relieve both columns."""
    blocks, width, _ = caps.shape
    lo, hi = (t, s + 1) if causal else (0, width)
    supply, sink, load = amounts[0], amounts[1], amounts[2]
    supply[lo:hi], sink[lo:hi] = caps[blocks - 1, s, lo:hi], last_hop[t, lo:hi]
    for x in range(1, borders[0]):
        upper = blocks - 1 - x
        _relieve(supply, s, caps[upper, s], straight[upper], straight[blocks, s], lo, hi)
        _relieve(sink, t, caps[x, :, t], straight[x], straight[blocks, t], lo, hi)
    enough = bound * (1.0 - _REACHED)
    if supply[lo:hi].sum() < enough or sink[lo:hi].sum() < enough:
        return False
    reached = _max_flow(merged, supply, sink, t, lo, hi, causal, bound, 2, work) == bound and _fits(
        caps, merged, borders, s, t, lo, hi, bound * _REACHED * 1e-2, load, work
    )
    _clear(merged.shape[0], lo, hi, work[0], work[1], work[2])
    return reached


@njit(cache=True, nogil=True)
def _row(
    caps: Any, last_hop: Any, straight: Any, plans: Any, s: int, targets: Any, causal: bool, bounds: Any, amounts: Any,
    work: Any, values: Any,
) -> None:  # fmt: skip
    """Flow from one source to each of ``targets``, into ``values``, for those that are still negative there."""
    blocks, width, _ = caps.shape
    tried, won = np.zeros(len(plans), np.int64), np.zeros(len(plans), np.int64)
    for n in range(len(targets)):
        t = targets[n]
        lo, hi = (t, s + 1) if causal else (0, width)
        if bounds[t] <= 0.0:
            values[n] = 0.0
        elif blocks == 1:
            values[n] = caps[0, s, t]
        for p in range(len(plans)):
            # A plan that mostly fails in this row is only looked at now and then.
            if values[n] >= 0.0 or (tried[p] >= 6 and 4 * won[p] < tried[p] and n % 16):
                continue
            tried[p] += 1
            if _settles(caps, last_hop, straight, plans[p][0], plans[p][1], s, t, causal, bounds[t], amounts, work):
                won[p] += 1
                values[n] = bounds[t]
        if values[n] < 0.0:
            values[n] = _max_flow(caps, caps[blocks - 1, s], last_hop[t], t, lo, hi, causal, bounds[t], -1, work)
            _clear(blocks, lo, hi, work[0], work[1], work[2])


@njit(cache=True, nogil=True)
def _diagonals(caps: Any) -> Any:
    """Every diagonal, [L + 1, W], and in the last row the narrowest of the inner blocks."""
    blocks, width, _ = caps.shape
    result = np.full((blocks + 1, width), np.inf)
    for block in range(blocks):
        for v in range(width):
            result[block, v] = caps[block, v, v]
            if 1 <= block < blocks - 1:
                result[blocks, v] = min(result[blocks, v], caps[block, v, v])
    return result


@njit(cache=True, nogil=True, parallel=True)
def flow_matrix(caps: Any, sources: Any, targets: Any, causal: bool, plans: Any, chunks: int) -> Any:
    """Maximum flow from each of the sources to each of the targets.

    Parameters
    ----------
    caps
        [L, W, W] capacities.
    sources, targets
        [S] tokens above the last block and [T] tokens below block 0.
    causal
        Whether every block is lower triangular.
    plans
        [P, 8] ways to merge blocks, the coarsest first: how many merged blocks, then their borders, rising.
    chunks
        Number of parts that rows are dealt out to; the result does not depend on it.

    Returns
    -------
    [S, T] flow.
    """
    blocks, width, _ = caps.shape
    last_hop = np.ascontiguousarray(caps[0].T)
    bounds = cut_bounds(caps, causal)
    straight = _diagonals(caps)
    merged = [(_merged(caps, plan[1:], plan[0]), plan[1:]) for plan in plans]
    values = np.full((len(sources), len(targets)), -1.0)
    if not causal and blocks >= 4 and len(sources) == width and len(targets) == width:
        _settle_by_middles(caps, last_hop, bounds, values)
    for chunk in prange(chunks):
        work = _scratch(blocks, width)
        amounts = np.zeros((3, width))
        for n in range(chunk, len(sources), chunks):
            s = sources[n]
            _row(caps, last_hop, straight, merged, s, targets, causal, bounds[s], amounts, work, values[n])
    return values


@njit(cache=True, nogil=True)
def flow_of_pair(caps: Any, s: int, t: int, causal: bool) -> Any:
    """Flow of one pair, edge by edge, and the nodes on the source's side of a minimum cut.

    Parameters
    ----------
    caps
        [L, W, W] capacities.
    s, t
        Token above the last block and token below block 0.
    causal
        Whether every block is lower triangular.

    Returns
    -------
    [L, W, W] flow on each edge, and [L + 1, W] whether what is left of the capacities leads from the source to the node
    (layer L holds the source, layer 0 the sink).
    """
    blocks, width, _ = caps.shape
    carried = np.zeros((blocks, width, width))
    reached = np.zeros((blocks + 1, width), np.bool_)
    reached[blocks, s] = True
    # What cannot lead to the sink belongs to the source's side: the edges into it are not in the way.
    reached[0] = True
    reached[0, t] = False
    if causal:
        reached[:blocks, :t] = True
    if blocks == 1:
        carried[0, s, t] = caps[0, s, t]
        return carried, reached
    lo, hi = (t, s + 1) if causal else (0, width)
    if lo >= hi:
        return carried, reached
    work = _scratch(blocks, width)
    supply, sink = caps[blocks - 1, s], np.ascontiguousarray(caps[0, :, t])
    _max_flow(caps, supply, sink, t, lo, hi, causal, np.inf, -1, work)
    carried[1 : blocks - 1] = work[0][1 : blocks - 1]
    for i in range(lo, hi):
        carried[0, i, t] = work[4][i]
        # What the source gave is the sum of what went on: a difference to its capacity would lose digits.
        sent = work[4][i] if blocks == 2 else work[0][blocks - 2, i].sum()
        carried[blocks - 1, s, i] = min(supply[i], sent)
        for k in range(1, blocks):
            reached[k, i] = work[5][k, i] >= 0
    return carried, reached
