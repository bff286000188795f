"""Compiled loops of maximum flow in a layered graph whose edges only lead from one layer to the next one down.

``caps[l, i, j]`` is the capacity of the edge from token i above block l to token j below it; blocks that are narrower are
filled up with zeros. The source is one token above the last block, the sink one token below block 0. Layer k of the interior
lies between block k and block k − 1, 1 ≤ k < L. ``causal`` says that nothing lies above a diagonal, so that only the tokens
from the sink's position to the source's take part.

Dinic's algorithm finds a flow on the dense blocks. It stops when the flow reaches the value of a cut that is known beforehand,
since no flow is larger; most pairs therefore need no search that fails. A capacity counts as used up when its rest is below a
share of the flow already found. A share of the capacities would not do, since they may span many orders of magnitude. A set of
tokens is bits of integer words: the next useful edge then costs a few instructions, however many useless ones lie before it.

Two shortcuts settle most pairs before the search. Each makes a flow, checks that it is possible and that it reaches the bound:

- *A middle.* One flow runs from each source to a fixed share of every token half way down, and one from there to each sink:
  2·W flows of half the depth. At each token of the middle the smaller of the two amounts is a flow of the pair.
- *Merged blocks.* Neighbouring blocks are added up to one, in which flow changes its token at most once. A flow through the
  merged blocks can run through the real ones if each column holds, with all that comes and goes, no more than its narrowest
  diagonal.

Rows of the matrix (all sinks of a source) do not depend on one another, and one thread writes each. The compiled functions let
the interpreter's other threads run.

The smallest functions have one way out and no branches around arrays. Otherwise the compiler counts references to each array
at every call, which costs more than the work.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import intrinsic, overload

from .prepare import prepare

prepare()

# "nnan" and "ninf" are left out: the cuts start from infinity, and the compiler must keep it.
_FLAGS = {"nsz", "arcp", "contract", "afn", "reassoc"}
# A few roundings of a double: a rest of this size comes from the subtraction, not from the graph.
_NEGLIGIBLE = 1e-15
"""Capacity left over, as a share of the flow found so far, that counts as used up."""
# A sum of some thousand terms is off by about 1e-13 of itself; this lies above it and below any digit that is shown.
# Typed, since the compiler makes another version of a function for every constant that it is called with.
_FIRST, _ALL_PHASES, _TWO_PHASES = np.int64(0), np.int64(-1), np.int64(2)
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
    # A dynamic program from the source down: each array holds, for every pair, the cheapest cut so far whose source
    # side is this set in the layer just reached.
    for block in range(blocks - 1, -1, -1):
        into[:] = 0.0
        if not causal:
            for i in range(width):
                for j in range(width):
                    into[j] += 0.0 if i == j else caps[block, i, j]
        for s in range(width):
            stop = s + 1 if causal else width
            leaving = 0.0
            # Only tokens from t on lead to t in a causal graph, so a sum from the right gives what leaves s for every t
            # at once.
            for j in range(stop - 1, -1, -1):
                leaving += 0.0 if j == s else caps[block, s, j]
                out[j] = leaving
            for t in range(stop):
                if causal:
                    # Rows come in rising order: the column holds the tokens up to s, which are all that lie between t
                    # and s.
                    into[t] += 0.0 if t == s else caps[block, s, t]
                else:
                    out[t] = leaving
            for t in range(stop):
                # All four read the layer above, so the order of the assignments matters: `alone` is read by every other
                # one and changes last.
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
            # For s = t the set "s alone" holds the sink, so it cuts nothing.
            elif s != t:
                bounds[s, t] = min(bounds[s, t], alone[s, t])
    return bounds


# This is the plain Python twin, for runs without the compiler; the overload below is one instruction.
def _lowest(word: Any) -> int:
    """Number of the lowest bit of a word other than 0."""
    return (int(word) & -int(word)).bit_length() - 1


@intrinsic
def _trailing_zeros(_: Any, word: Any) -> Any:
    def instruction(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ARG001
        # The word is never 0, and True tells the instruction so: it then needs no branch for that case.
        return builder.cttz(arguments[0], context.get_constant(types.boolean, True))

    return types.int64(word), instruction


@overload(_lowest)
def _lowest_compiled(word: Any) -> Any:  # noqa: ARG001
    def lowest(word: Any) -> Any:
        return _trailing_zeros(word)

    return lowest


@njit(cache=True, nogil=True, forceinline=True)
def _bit(v: int, present: bool = True) -> Any:
    """Word in which only the bit of token v is set, if it is ``present``."""
    # A shift of a truth value sets or clears a bit without a branch.
    return np.uint64(present) << np.uint64(v & 63)


@njit(cache=True, nogil=True)
def _used_edges(caps: Any) -> Any:
    """[L, W, ceil(W / 64)] words; bit j of row i says whether the edge from i to j has any capacity."""
    blocks, width, _ = caps.shape
    result = np.zeros((blocks, width, (width + 63) // 64), np.uint64)
    for block in range(blocks):
        for i in range(width):
            for j in range(width):
                result[block, i, j >> 6] |= _bit(j, caps[block, i, j] > 0.0)
    return result


@njit(cache=True, nogil=True)
def _window(sets: Any, lo: int, hi: int) -> None:
    """Fill each of ``sets`` [N, words] with tokens ``lo`` to ``hi`` − 1."""
    sets[0] = 0
    for v in range(lo, hi):
        sets[0, v >> 6] |= _bit(v)
    for n in range(1, len(sets)):
        for word in range(sets.shape[1]):
            sets[n, word] = sets[0, word]


@njit(cache=True, nogil=True, forceinline=True)
def _reached_below(
    caps: Any, k: int, i: int, d: int, negligible: float, flow: Any, unused: Any, unseen: Any, front: Any
) -> bool:
    """Number the nodes that token i of layer k still has capacity to; returns whether there are any."""
    found = False
    for word in range(unused.shape[2]):
        # Each bit is an edge with capacity left to a node without a number: 64 edges cost one test where there is none.
        rest = unused[k - 1, i, word] & unseen[k - 1, word]
        while rest:
            j = 64 * word + _lowest(rest)
            # x & (x - 1) clears the lowest bit.
            rest &= rest - np.uint64(1)
            open_ = caps[k - 1, i, j] - flow[k - 1, i, j] > negligible
            front[d, k - 1, word] |= _bit(j, open_)
            unseen[k - 1, word] &= ~_bit(j, open_)
            # A full edge leaves the set, so no later search looks at it until flow is taken back.
            unused[k - 1, i, word] &= ~_bit(j, not open_)
            found = found or open_
    return found


@njit(cache=True, nogil=True, forceinline=True)
def _reached_above(
    k: int, i: int, d: int, negligible: float, flow: Any, carrying: Any, unseen: Any, front: Any
) -> bool:
    """Number the nodes whose flow to token i of layer k could be taken back; returns whether there are any."""
    found = False
    for word in range(carrying.shape[2]):
        rest = carrying[k, i, word] & unseen[k + 1, word]
        while rest:
            j = 64 * word + _lowest(rest)
            rest &= rest - np.uint64(1)
            open_ = flow[k, j, i] > negligible
            front[d, k + 1, word] |= _bit(j, open_)
            unseen[k + 1, word] &= ~_bit(j, open_)
            found = found or open_
    return found


@njit(cache=True, nogil=True)
def _distances(
    caps: Any, sink: Any, lo: int, hi: int, total: float, flow: Any, unused: Any, carrying: Any, left: Any, served: Any,
    front: Any, unseen: Any,
) -> Any:  # fmt: skip
    """Number the nodes by their distance from the unsent supply, until the sink is met.

    Returns the distance of the nearest node that the sink can still take flow from, −1 without any.
    """
    top, negligible = caps.shape[0] - 1, _NEGLIGIBLE * total
    _window(unseen, lo, hi)
    front[0] = 0
    for i in range(lo, hi):
        front[0, top, i >> 6] |= _bit(i, left[i] > negligible)
    for word in range(unseen.shape[1]):
        unseen[top, word] &= ~front[0, top, word]
    d, found = 0, True
    while found:
        # No node lies in layer 0, so that its set is free to gather the last nodes.
        unseen[0] = 0
        for i in range(lo, hi):
            unseen[0, i >> 6] |= front[d, 1, i >> 6] & _bit(i, sink[i] - served[i] > negligible)
        last = np.uint64(0)
        for word in range(unseen.shape[1]):
            last |= unseen[0, word]
        if last:
            front[d] = 0
            for word in range(unseen.shape[1]):
                front[d, 1, word] = unseen[0, word]
            # Only layer 2 leads into layer 1: other nodes of the distance before lie on no shortest path.
            front[d - 1, 1], front[d - 1, 3:] = 0, 0
            return d
        d += 1
        front[d], found = 0, False
        for k in range(1, top + 1):
            for word in range(unseen.shape[1]):
                rest = front[d - 1, k, word]
                while rest:
                    i = 64 * word + _lowest(rest)
                    rest &= rest - np.uint64(1)
                    # Edges of layer 1 go down to the sink alone; `sink` and `served` stand for them.
                    if k > 1 and _reached_below(caps, k, i, d, negligible, flow, unused, unseen, front):
                        found = True
                    if k < top and _reached_above(k, i, d, negligible, flow, carrying, unseen, front):
                        found = True
    return -1


@njit(cache=True, nogil=True, forceinline=True)
def _common(edges: Any, k: int, i: int, tokens: Any, d: int, t: int) -> int:
    """Token that both sets of layer k hold, −1 without any: ``t`` comes first, then ``i``, then the others in order.

    So flow that is already above its goal goes straight on, and flow that has far to go stays where capacity is largest.
    """
    if edges[k, i, t >> 6] & tokens[d, k, t >> 6] & _bit(t):
        return t
    if edges[k, i, i >> 6] & tokens[d, k, i >> 6] & _bit(i):
        return i
    for word in range(edges.shape[2]):
        both = edges[k, i, word] & tokens[d, k, word]
        if both:
            return 64 * word + _lowest(both)
    return -1


@njit(cache=True, nogil=True, forceinline=True)
def _send(
    caps: Any, amount: float, negligible: float, k: int, i: int, j: int, flow: Any, unused: Any, carrying: Any
) -> None:
    """Add to the flow of an edge of block k."""
    carried, capacity = flow[k, i, j], caps[k, i, j]
    # A filled edge takes its capacity itself: the sum of parts could end a rounding above it.
    carried = capacity if amount >= capacity - carried else carried + amount
    flow[k, i, j] = carried
    carrying[k, j, i >> 6] |= _bit(i)
    unused[k, i, j >> 6] &= ~_bit(j, capacity - carried <= negligible)


@njit(cache=True, nogil=True, forceinline=True)
def _take_back(amount: float, k: int, i: int, j: int, flow: Any, unused: Any, carrying: Any) -> None:
    """Lessen the flow of an edge of block k."""
    carried = flow[k, i, j]
    # An emptied edge takes 0 itself, for the same reason.
    carried = 0.0 if amount >= carried else carried - amount
    flow[k, i, j] = carried
    carrying[k, j, i >> 6] &= ~_bit(i, carried == 0.0)
    unused[k, i, j >> 6] |= _bit(j)


@njit(cache=True, nogil=True, forceinline=True)
def _to_sink(
    caps: Any, sink: Any, t: int, i: int, d: int, room: float, negligible: float, flow: Any, unused: Any, carrying: Any,
    served: Any, front: Any,
) -> float:  # fmt: skip
    """Send up to ``room`` from token i of layer 2 through the nodes of distance d to the sink; returns the amount sent."""
    passed = 0.0
    j = _common(unused, 1, i, front, d, t)
    while j >= 0:
        free = sink[j] - served[j]
        amount = min(min(free, caps[1, i, j] - flow[1, i, j]), room - passed)
        passed += amount
        served[j] = sink[j] if amount >= free else served[j] + amount
        _send(caps, amount, negligible, 1, i, j, flow, unused, carrying)
        front[d, 1, j >> 6] &= ~_bit(j, sink[j] - served[j] <= negligible)
        j = _common(unused, 1, i, front, d, t) if room - passed > negligible else -1
    return passed


@njit(cache=True, nogil=True, forceinline=True)
def _way_down(caps: Any, t: int, k: int, i: int, d: int, negligible: float, flow: Any, unused: Any, front: Any) -> int:
    """Token of layer k − 1 and distance d that token i of layer k still has capacity to, −1 without any."""
    j, searching = -1, k > 1
    while searching:
        j = _common(unused, k - 1, i, front, d, t)
        searching = j >= 0 and caps[k - 1, i, j] - flow[k - 1, i, j] <= negligible
        # j is −1 where nothing is found; token 0 then serves as an index, and no bit changes.
        unused[k - 1, i, max(j, 0) >> 6] &= ~_bit(j, searching)
    return j


@njit(cache=True, nogil=True)
def _way_up(top: int, k: int, i: int, d: int, negligible: float, flow: Any, carrying: Any, front: Any) -> int:
    """Token of layer k + 1 and distance d whose flow to token i of layer k could find another way, −1 without any."""
    found = -1
    for word in range(carrying.shape[2] if k < top else 0):
        rest = carrying[k, i, word] & front[d, k + 1, word]
        while rest:
            j = 64 * word + _lowest(rest)
            rest &= rest - np.uint64(1)
            found = j if flow[k, j, i] > negligible else found
    return found


@njit(cache=True, nogil=True)
def _take_out_column(caps: Any, t: int, unused: Any, column: Any) -> None:
    """Move flow and capacity of the sink's column, straight down, into ``column`` [2, L]."""
    # Kept apart, the column passes flow down in one step instead of one per layer.
    for k in range(1, caps.shape[0] - 1):
        column[0, k], column[1, k] = 0.0, caps[k, t, t]
        unused[k, t, t >> 6] &= ~_bit(t)


@njit(cache=True, nogil=True)
def _put_back_column(caps: Any, t: int, flow: Any, unused: Any, carrying: Any, column: Any) -> None:
    """Move the flow of the sink's column back among the others."""
    for k in range(1, caps.shape[0] - 1):
        flow[k, t, t] = column[0, k]
        carrying[k, t, t >> 6] |= _bit(t, column[0, k] > 0.0)
        unused[k, t, t >> 6] |= _bit(t, column[0, k] < column[1, k])


@njit(cache=True, nogil=True, forceinline=True)
def _down_column(sink: Any, t: int, k: int, room: float, served: Any, column: Any) -> Any:
    """Send up to ``room`` from token t of layer k straight down to the sink; returns the amount sent."""
    amount = min(room, sink[t] - served[t])
    for x in range(1, k):
        amount = min(amount, column[1, x] - column[0, x])
    for x in range(1, k):
        column[0, x] = column[1, x] if amount >= column[1, x] - column[0, x] else column[0, x] + amount
    served[t] = sink[t] if amount >= sink[t] - served[t] else served[t] + amount
    return amount


@njit(cache=True, nogil=True)
def _block_paths(
    caps: Any, sink: Any, t: int, lo: int, hi: int, apart: bool, deepest: int, total: float, bound: float, flow: Any,
    unused: Any, carrying: Any, left: Any, served: Any, front: Any, path: Any, limit: Any, sent: Any, column: Any,
) -> float:  # fmt: skip
    """Send flow along shortest paths until each of them is used up; returns the new total.

    The search gives each node that it enters a limit, and the node hands on as much of it as it can. The edge into the node is
    charged once, when the search leaves it. A node that cannot hand on all of its limit leaves ``front`` and is not entered
    again. While the sink's column is ``apart``, flow that reaches it goes down in one step; a full column is put back.
    """
    top, goal = caps.shape[0] - 1, bound * (1.0 - _REACHED)
    for start in range(lo, hi):
        if left[start] <= _NEGLIGIBLE * total or not front[0, top, start >> 6] & _bit(start):
            continue
        # `path`, `limit` and `sent` are the stack of a depth-first search; it allocates nothing.
        d, path[0, 0], path[0, 1], limit[0], sent[0] = 0, top, start, left[start], 0.0
        while True:
            k, i = path[d, 0], path[d, 1]
            room, negligible = min(limit[d] - sent[d], bound - total), _NEGLIGIBLE * total
            if apart and i == t and room > negligible and total < goal:
                passed = _down_column(sink, t, k, room, served, column)
                total += passed
                sent[d] += passed
                # The column or the sink is full: from here on its edges are searched like all others, and flow may be
                # taken back from them.
                if passed < room:
                    apart = False
                    _put_back_column(caps, t, flow, unused, carrying, column)
                room, negligible = min(limit[d] - sent[d], bound - total), _NEGLIGIBLE * total
            if room > negligible and total < goal:
                if d == deepest - 1:
                    passed = _to_sink(
                        caps, sink, t, i, deepest, room, negligible, flow, unused, carrying, served, front
                    )
                    total += passed
                    sent[d] += passed
                    front[d, k, i >> 6] &= ~_bit(i, room - passed > negligible)
                else:
                    # Free capacity comes first; flow is taken back only where no way down is left.
                    layer, j = k - 1, _way_down(caps, t, k, i, d + 1, negligible, flow, unused, front)
                    if j >= 0:
                        room = min(room, caps[layer, i, j] - flow[layer, i, j])
                    else:
                        layer, j = k + 1, _way_up(top, k, i, d + 1, negligible, flow, carrying, front)
                        room = min(room, flow[k, j, i])
                    if j >= 0:
                        d += 1
                        path[d, 0], path[d, 1], limit[d], sent[d] = layer, j, room, 0.0
                        continue
                    front[d, k, i >> 6] &= ~_bit(i)
            if d == 0:
                break
            passed = sent[d]
            d -= 1
            sent[d] += passed
            above, v = path[d, 0], path[d, 1]
            if passed > 0.0 and k < above:
                _send(caps, passed, _NEGLIGIBLE * total, k, v, i, flow, unused, carrying)
            elif passed > 0.0:
                _take_back(passed, above, i, v, flow, unused, carrying)
        left[start] = 0.0 if sent[0] >= left[start] else left[start] - sent[0]
    if apart:
        _put_back_column(caps, t, flow, unused, carrying, column)
    return total


@njit(cache=True, nogil=True)
def _scratch(blocks: int, width: int) -> Any:
    """Arrays of a search; flow and the edges that carry it are zero where a search expects and leaves them so."""
    nodes, words = blocks * width + 2, (width + 63) // 64
    return (
        np.zeros((blocks, width, width)),  # flow
        np.zeros((blocks, width, words), np.uint64),  # unused: whether token i of the row has capacity left to token j
        np.zeros(
            (blocks, width, words), np.uint64
        ),  # carrying: whether token i of the row gets flow from token j above
        np.zeros(width),  # left
        np.zeros(width),  # served
        np.empty((nodes, blocks, words), np.uint64),  # front: nodes of each distance and layer
        np.empty((blocks, words), np.uint64),  # unseen
        np.empty((nodes, 2), np.int64),  # path
        np.empty(nodes),  # limit
        np.empty(nodes),  # sent
        np.empty((2, blocks)),  # column
    )


@njit(cache=True, nogil=True)
def _max_flow(
    caps: Any, used: Any, supply: Any, sink: Any, t: int, lo: int, hi: int, bound: float, phases: int, work: Any
) -> Any:
    """Flow from ``supply`` [W] in the highest inner layer to ``sink`` [W] in the lowest, or ``bound`` if it gets there.

    It is a maximum unless the number of ``phases`` ends it. The flow stays in ``work`` until :func:`_clear`.
    """
    flow, unused, carrying, left, served, front, unseen, path, limit, sent, column = work
    top, total = caps.shape[0] - 1, 0.0
    for i in range(lo, hi):
        # With one inner layer supply and sink meet token by token, and there is nothing to search.
        served[i] = min(supply[i], sink[i]) if top == 1 else 0.0
        left[i] = supply[i] - served[i]
        total += served[i]
    # A copy, since the search strikes full edges from it.
    for k in range(1, top):
        for i in range(lo, hi):
            for word in range(used.shape[2]):
                unused[k, i, word] = used[k, i, word]
    _take_out_column(caps, t, unused, column)
    # All layers are used in order at first, as if a search had numbered them.
    _window(unseen, lo, hi)
    for d in range(top):
        for word in range(unseen.shape[1]):
            front[d, top - d, word] = unseen[0, word]
        # `_way_up` would look at this layer: emptied, it lets the first phase only go down.
        if d > 1:
            front[d, top - d + 2] = 0
    deepest, apart = top - 1, True
    if deepest == 0:
        # Nothing lies between supply and sink, and all of it is sent: the search only marks what is left.
        deepest = _distances(caps, sink, lo, hi, total, flow, unused, carrying, left, served, front, unseen)
    while deepest > 0:
        total = _block_paths(
            caps, sink, t, lo, hi, apart, deepest, total, bound, flow, unused, carrying, left, served, front, path, limit,
            sent, column,
        )  # fmt: skip
        apart = False
        phases -= 1
        if total >= bound * (1.0 - _REACHED):
            # The bound itself, not the sum that came near it: callers compare with ==.
            return bound
        if phases == 0:
            return total
        deepest = _distances(caps, sink, lo, hi, total, flow, unused, carrying, left, served, front, unseen)
    return total


@njit(cache=True, nogil=True)
def _clear(blocks: int, lo: int, hi: int, flow: Any, carrying: Any) -> None:
    """Take back all flow, touching only the edges that were used."""
    for k in range(1, blocks):
        for j in range(lo, hi):
            for word in range(carrying.shape[2]):
                rest = carrying[k, j, word]
                while rest:
                    flow[k, 64 * word + _lowest(rest), j] = 0.0
                    rest &= rest - np.uint64(1)
                carrying[k, j, word] = 0


@njit(cache=True, nogil=True, fastmath=_FLAGS)
def _in_common(first: Any, second: Any, s: int, t: int) -> float:
    """Sum of the smaller of two rows' entries."""
    both = 0.0
    for j in range(first.shape[1]):
        both += min(first[s, j], second[t, j])
    return both


@njit(cache=True, nogil=True)
def _from_middle(
    caps: Any, used: Any, last_hop: Any, bounds: Any, middle: Any, half: int, values: Any, work: Any
) -> Any:
    """Settle pairs by flows to and from the shares ``middle`` [W] of inner layer ``half``.

    ``values`` [W, W] is negative where a pair is open. Pairs that reach their bound are written there; returns how many stay
    open.
    """
    blocks, width, _ = caps.shape
    above, below, size = caps[half - 1 :], caps[: half + 1], middle.sum()
    used_above, used_below = used[half - 1 :], used[: half + 1]
    arriving, leaving = np.zeros((width, width)), np.zeros((width, width))
    for v in range(width):
        supply, sink = caps[blocks - 1, v], last_hop[v]
        _max_flow(above, used_above, supply, middle, v, _FIRST, width, min(size, supply.sum()), _ALL_PHASES, work)
        # Field 4 of the scratch is what each token of the middle has received.
        arriving[v] = work[4]
        _clear(blocks, _FIRST, width, work[0], work[2])
        _max_flow(below, used_below, middle, sink, v, _FIRST, width, min(size, sink.sum()), _ALL_PHASES, work)
        # Field 3 is what was not sent, so this is what each token of the middle gave.
        leaving[v] = middle - work[3]
        _clear(blocks, _FIRST, width, work[0], work[2])
    still = 0
    for s in range(width):
        for t in range(width):
            if values[s, t] < 0.0:
                if _in_common(arriving, leaving, s, t) >= bounds[s, t] * (1.0 - _REACHED):
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
def _settle_by_middles(caps: Any, used: Any, last_hop: Any, bounds: Any, values: Any) -> None:
    """Try a middle that is the same for every token, then one between that and the amounts that the capacities hand down."""
    blocks, width, _ = caps.shape
    half = blocks // 2
    work = _scratch(blocks, width)
    # The middle holds what an average source gives.
    size = caps[blocks - 1].sum() / width
    middle = np.full(width, size / width)
    if size <= 0.0 or _from_middle(caps, used, last_hop, bounds, middle, half, values, work) == 0:
        return
    # In deep models one layer further up as well: where most attention goes to one token, cuts are tight just below that.
    for layer in range(half, half + 2 if blocks >= 8 else half + 1):
        reach = np.full(width, 1.0 / width)
        for block in range(blocks - 1, layer - 1, -1):
            reach = _handed_down(reach, caps[block])
        # The root is the geometric mean of the even middle and of what the capacities hand down, up to a factor.
        reach = np.sqrt(reach)
        if reach.sum() > 0.0:
            middle = reach * (size / reach.sum())
            if _from_middle(caps, used, last_hop, bounds, middle, layer, values, work) == 0:
                return


@njit(cache=True, nogil=True)
def _merge(caps: Any, borders: Any, count: int, result: Any) -> None:
    """Add up blocks ``borders[g]`` to ``borders[g + 1]`` − 1 to block g + 1 of ``result``; diagonals are as wide as their narrowest."""
    width = caps.shape[1]
    for g in range(count):
        for block in range(borders[g], borders[g + 1]):
            for i in range(width):
                # A flow that stays in its column passes all blocks, so the narrowest limits it. A flow that changes its
                # token does so in one of them, so capacities add.
                narrow = caps[block, i, i]
                if block > borders[g]:
                    narrow = min(result[g + 1, i, i], narrow)
                for j in range(width):
                    result[g + 1, i, j] += caps[block, i, j]
                result[g + 1, i, i] = narrow


@njit(cache=True, nogil=True, fastmath=_FLAGS)
def _relieve(amounts: Any, own: int, edges: Any, straight: Any, low: float, lo: int, hi: int) -> None:
    """Spread the part of column ``own`` above ``low`` over one block's ``edges`` [W]; the rest goes straight on."""
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
    """Whether column s can carry its load if it hands on its flow to other columns (``sent`` [W]) as early as it can."""
    for block in range(stop - 1, first - 1, -1):
        # What fits through the narrowest diagonal fits through all that follow.
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
    caps: Any, narrow: float, first: int, stop: int, flow: Any, s: int, t: int, lo: int, hi: int, load: float, slack: float
) -> Any:  # fmt: skip
    """Whether column t can carry its load if it receives the others' flow as late as it can.

    The source's flow counts as received at once, since the source hands it on as early as it can.
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

    A column holds at most the sum of all that stays, leaves and arrives during a merged block, whatever the order. For the
    columns of source and sink this is too strict: there the order is worked out block by block.
    """
    flow, carrying = work[0], work[2]
    for g in range(1, merged.shape[0] - 1):
        first, stop = borders[g - 1], borders[g]
        if stop - first == 1:
            continue
        load[lo:hi] = 0.0
        for j in range(lo, hi):
            for word in range(carrying.shape[2]):
                rest = carrying[g, j, word]
                while rest:
                    i = 64 * word + _lowest(rest)
                    rest &= rest - np.uint64(1)
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
    caps: Any, last_hop: Any, straight: Any, merged: Any, used: Any, borders: Any, s: int, t: int, causal: bool, bound: float, amounts: Any, work: Any,
) -> Any:  # fmt: skip
    """Whether a flow through the merged blocks reaches the bound and fits; blocks outside them relieve both columns."""
    blocks, width, _ = caps.shape
    lo, hi = (t, s + 1) if causal else (0, width)
    supply, sink, load = amounts[0], amounts[1], amounts[2]
    for v in range(lo, hi):
        supply[v], sink[v] = caps[blocks - 1, s, v], last_hop[t, v]
    for x in range(1, borders[0]):
        upper = blocks - 1 - x
        _relieve(supply, s, caps[upper, s], straight[upper], straight[blocks, s], lo, hi)
        _relieve(sink, t, caps[x, :, t], straight[x], straight[blocks, t], lo, hi)
    enough = bound * (1.0 - _REACHED)
    if supply[lo:hi].sum() < enough or sink[lo:hi].sum() < enough:
        return False
    # Two phases at the most: a plan is a guess, and an exact search follows where it fails. The slack is far below the
    # tolerance of the bound, so it decides nothing.
    reached = _max_flow(merged, used, supply, sink, t, lo, hi, bound, _TWO_PHASES, work) == bound and _fits(
        caps, merged, borders, s, t, lo, hi, bound * _REACHED * 1e-2, load, work
    )
    _clear(merged.shape[0], lo, hi, work[0], work[2])
    return reached


@njit(cache=True, nogil=True)
def _rows(
    caps: Any, used: Any, last_hop: Any, straight: Any, merged: Any, used_merged: Any, plans: Any, sources: Any,
    targets: Any, causal: bool, bounds: Any, first: int, step: int, values: Any,
) -> None:  # fmt: skip
    """Flow from every ``step``-th of ``sources`` to each of ``targets``, into ``values`` [S, T], where that is negative."""
    blocks, width, _ = caps.shape
    # One scratch for all rows: to zero L·W² numbers for each pair would cost more than most searches.
    work, amounts = _scratch(blocks, width), np.zeros((3, width))
    tried, won = np.zeros(len(plans), np.int64), np.zeros(len(plans), np.int64)
    for row in range(first, len(sources), step):
        s = sources[row]
        tried[:] = 0
        won[:] = 0
        for n in range(len(targets)):
            t = targets[n]
            bound = bounds[s, t]
            lo, hi = (t, s + 1) if causal else (0, width)
            if bound <= 0.0:
                values[row, n] = 0.0
            elif blocks == 1:
                values[row, n] = caps[0, s, t]
            for p in range(len(plans)):
                # A plan that mostly fails in this row is only looked at now and then.
                if values[row, n] >= 0.0 or (tried[p] >= 6 and 4 * won[p] < tried[p] and n % 16):
                    continue
                tried[p] += 1
                count = plans[p, 0] + 2
                if _settles(
                    caps, last_hop, straight, merged[p, :count], used_merged[p, :count], plans[p, 1:], s, t, causal,
                    bound, amounts, work,
                ):  # fmt: skip
                    won[p] += 1
                    values[row, n] = bound
            if values[row, n] < 0.0:
                supply = caps[blocks - 1, s]
                values[row, n] = _max_flow(caps, used, supply, last_hop[t], t, lo, hi, bound, _ALL_PHASES, work)
                _clear(blocks, lo, hi, work[0], work[2])


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


def flow_matrix(caps: Any, sources: Any, targets: Any, causal: bool, plans: Any, chunks: int) -> Any:
    """Maximum flow from each of the sources to each of the targets.

    It is not compiled itself: whatever a compiled function calls is compiled once more with it, and most graphs need only a
    part of this.

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
        Number of threads that rows are dealt out to; the result does not depend on it.

    Returns
    -------
    [S, T] flow.
    """
    blocks, width, _ = caps.shape
    # The last hop is read sink by sink: in the transpose a sink is one stretch of memory.
    last_hop = np.ascontiguousarray(caps[0].T)
    bounds = cut_bounds(caps, causal)
    used = _used_edges(caps)
    merged = np.zeros((len(plans), max((plan[0] + 2 for plan in plans), default=0), width, width))
    used_merged = np.zeros((*merged.shape[:3], used.shape[2]), np.uint64)
    for n, plan in enumerate(plans):
        _merge(caps, plan[1:], plan[0], merged[n])
        used_merged[n] = _used_edges(merged[n])
    values = np.full((len(sources), len(targets)), -1.0)
    # 2·W flows through a middle serve W² pairs, which pays if all pairs are asked for. In a causal graph pairs use
    # different tokens, and no middle serves them all.
    if not causal and blocks >= 4 and len(sources) == width and len(targets) == width:
        _settle_by_middles(caps, used, last_hop, bounds, values)

    straight = _diagonals(caps)

    # Rows are dealt out in turn, since later rows of a causal graph have more tokens to search.
    def part(first: int) -> None:
        _rows(
            caps, used, last_hop, straight, merged, used_merged, plans, sources, targets, causal, bounds, first, chunks,
            values,
        )  # fmt: skip

    if chunks == 1:
        part(0)
    else:
        with ThreadPoolExecutor(chunks) as threads:
            list(threads.map(part, range(chunks)))
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
    [L, W, W] flow on each edge, and [L + 1, W] whether unused capacity leads from the source to the node (layer L holds the
    source, layer 0 the sink).
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
    # Without a bound the search ends only when nothing gets through, and only then are the nodes that it saw a minimum
    # cut.
    _max_flow(caps, _used_edges(caps), supply, sink, t, lo, hi, np.inf, _ALL_PHASES, work)
    carried[1 : blocks - 1] = work[0][1 : blocks - 1]
    for i in range(lo, hi):
        carried[0, i, t] = work[4][i]
        # What the source gave is the sum of what went on: a difference to its capacity would lose digits.
        sent = work[4][i] if blocks == 2 else work[0][blocks - 2, i].sum()
        carried[blocks - 1, s, i] = min(supply[i], sent)
        for k in range(1, blocks):
            # Field 6 marks the nodes that the last search did not see.
            reached[k, i] = not work[6][k, i >> 6] & _bit(i)
    return carried, reached
