"""Attention flow: attention as the capacities of pipes, and the largest flow from a token down to an input token.

The blocks make a layered graph. Node (k, i) is token i after k blocks, and block l has an edge from (l + 1, i) down to (l, j)
of capacity Ã^l_ij. Flow runs from an upper token, the source, against the direction of the forward pass to an input token.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any, SupportsIndex

import numpy as np
from jaxtyping import Bool, Float, Int

from ..charts.result import Result
from ..charts.table import Table
from ..errors import ArgumentError
from ..values.arguments import takes
from ..values.token_matrix import TokenMatrix, origin_of
from .attention import Blocks, layer_matrices, of_stacks


@dataclass(frozen=True, eq=False)
class FlowEdges(Result):
    """Edges of a flow or of a cut: edge e leads from token ``query_pos[e]`` above block ``layer[e]`` to ``key_pos[e]`` below.

    Attributes
    ----------
    value
        The maximum flow, which is also the capacity of the minimum cut.
    layer, query_pos, key_pos
        [E] block, token above it, token below it.
    weight
        [E] what the edge carries (of a flow), or its capacity (of a cut).
    """

    value: float
    layer: Int[np.ndarray, "E"]
    query_pos: Int[np.ndarray, "E"]
    key_pos: Int[np.ndarray, "E"]
    weight: Float[np.ndarray, "E"]

    def __post_init__(self) -> None:
        sizes = {len(column) for column in (self.layer, self.query_pos, self.key_pos, self.weight)}
        if len(sizes) != 1:
            raise ArgumentError(f"FlowEdges has columns of different lengths: {sorted(sizes)}")

    def __len__(self) -> int:
        return len(self.weight)

    def __repr__(self) -> str:
        return f"FlowEdges(value {self.value:.6g}, {len(self)} edges)"

    def table(self) -> Table:
        """One row for each edge: ``layer``, ``query_pos``, ``key_pos``, ``weight``."""
        names = ("layer", "query_pos", "key_pos", "weight")
        return Table(repr(self), {name: getattr(self, name) for name in names})

    def chart(self) -> Table:
        """The table."""
        return self.table()


@takes()
def attention_flow(
    attention_or_trace: Any,
    *,
    source: SupportsIndex | None = None,
    target: SupportsIndex | None = None,
    layer: SupportsIndex = -1,
    normalize: bool = False,
    residual: bool | None = None,
    mask: Any = None,
) -> TokenMatrix | float:
    """Find the maximum flow from upper tokens to input tokens, exactly.

    Parameters
    ----------
    attention_or_trace
        A trace, dense weights, or attention in any form of :func:`flowgraph.algorithms.attention.layer_matrices`: an array
        ``[layer, query_pos, key_pos]`` or ``[layer, head, query_pos, key_pos]``, or one matrix per block, which may be
        rectangular if they chain.
    source
        Upper token, where the flow starts; None for all. Negative counts from the end.
    target
        Input token, where it ends; None for all. Negative counts from the end.
    layer
        Start from the output of this block; negative counts from the end.
    normalize
        Divide each row by its sum, as the paper's code does; rows without any flow stay zero.
    residual
        True: capacities (A + I) / row sum. False: the matrices as they are. None: True, except for dense weights, whose shares
        hold the residual stream already.
    mask
        [position] False for padding, to and from which nothing flows.

    Returns
    -------
    [query_pos, key_pos] float64, a :class:`flowgraph.TokenMatrix`, if neither is given: ``result[i, j]`` from the upper token i
    to the input token j; [key_pos] if ``source`` is given; [query_pos] if ``target`` is given; a float if both are.

    Raises
    ------
    ArgumentError
        If the input cannot be used, see :func:`flowgraph.algorithms.attention.layer_matrices`, or ``source``, ``target`` or
        ``layer`` is out of range.

    Notes
    -----
    Equal to Edmonds–Karp on the same graph up to rounding. The first call of an installation compiles for some seconds, once.
    Every thread holds about 9·L·T² bytes while it works.

    References
    ----------
    Abnar & Zuidema (2020), "Quantifying Attention Flow in Transformers".

    Examples
    --------
    >>> flow = fg.attention_flow(trace, source=-1)
    >>> flow.shape  # from the last token to each input token
    (8,)
    """
    attention_or_trace = of_stacks(attention_or_trace, residual=residual)
    blocks = _blocks(attention_or_trace, layer, residual, mask)
    sources = _tokens(source, "source", len(blocks[-1]))
    # A row can only be normalised when all of it is there.
    targets = _tokens(None if normalize else target, "target", blocks[0].shape[1])
    wanted = _tokens(target, "target", blocks[0].shape[1])
    flow = _matrix(blocks, sources, targets)
    if normalize:
        sums = flow.sum(1, keepdims=True)
        flow = np.divide(flow, sums, out=np.zeros_like(flow), where=sums > 0)[:, wanted]
    if source is not None and target is not None:
        return float(flow[0, 0])
    unit, tokens = "share" if normalize else "flow", origin_of(attention_or_trace).get("tokens")
    if source is not None:
        return TokenMatrix(flow[0], ("key_pos",), f"attention flow from position {sources[0]}", unit, tokens)
    if target is not None:
        return TokenMatrix(flow[:, 0], ("query_pos",), f"attention flow to position {wanted[0]}", unit, tokens)
    return TokenMatrix(flow, ("query_pos", "key_pos"), "attention flow", unit, tokens)


@takes()
def flow_edges(
    attention_or_trace: Any,
    *,
    source: SupportsIndex,
    target: SupportsIndex,
    layer: SupportsIndex = -1,
    residual: bool | None = None,
    mask: Any = None,
) -> FlowEdges:
    """List the edges that carry a maximum flow between two tokens, and how much each carries.

    The flow into a node is the flow out of it, no edge carries more than its capacity, and the edges out of the source carry the
    value.
    A maximum flow is rarely the only one; the same input gives the same one.

    Parameters
    ----------
    attention_or_trace, source, target, layer, residual, mask
        As for :func:`attention_flow`.

    Raises
    ------
    ArgumentError
        As for :func:`attention_flow`.

    Examples
    --------
    >>> edges = fg.flow_edges(trace, source=-1, target=3)
    >>> float(round(edges.weight[edges.layer == 29].sum() / edges.value, 6))  # all of it leaves the last token
    1.0
    """
    blocks = _blocks(attention_or_trace, layer, residual, mask)
    carried, _, unit = _pair(blocks, source, target)
    return _edges(carried, carried > 0, float(carried[-1].sum()), unit)


@takes()
def minimum_cut(
    attention_or_trace: Any,
    *,
    source: SupportsIndex,
    target: SupportsIndex,
    layer: SupportsIndex = -1,
    residual: bool | None = None,
    mask: Any = None,
) -> FlowEdges:
    """List the edges of a cut of the smallest capacity between two tokens: without them nothing would get through.

    It is the cut nearest to the source.

    Parameters
    ----------
    attention_or_trace, source, target, layer, residual, mask
        As for :func:`attention_flow`.

    Raises
    ------
    ArgumentError
        As for :func:`attention_flow`.

    Examples
    --------
    >>> cut = fg.minimum_cut(trace, source=-1, target=3)
    >>> bool(abs(cut.value - fg.attention_flow(trace, source=-1, target=3)) < 1e-9)
    True
    """
    blocks = _blocks(attention_or_trace, layer, residual, mask)
    _, reached, unit = _pair(blocks, source, target)
    capacities, _ = _stacked(blocks)
    # An edge crosses the cut if its upper end lies on the source's side and its lower end does not.
    cut = reached[1:, :, None] & ~reached[:-1, None, :] & (capacities > 0)
    return _edges(capacities, cut, float(capacities[cut].sum()), unit)


def _blocks(attention_or_trace: Any, layer: SupportsIndex, residual: bool | None, mask: Any) -> Blocks:
    blocks = layer_matrices(attention_or_trace, residual=residual, mask=mask)
    count = len(blocks)
    last = operator.index(layer)
    if not -count <= last < count:
        raise ArgumentError(f"layer={last} is not one of the {count} blocks (0…{count - 1}, or negative from the end)")
    return blocks[: last % count + 1]


def _tokens(token: SupportsIndex | None, argument: str, count: int) -> Int[np.ndarray, "tokens"]:
    """The tokens that an argument stands for: all of ``count``, or one."""
    return np.arange(count) if token is None else np.array([_token(token, argument, count)])


def _token(token: SupportsIndex, argument: str, count: int) -> int:
    index = operator.index(token)
    if not -count <= index < count:
        raise ArgumentError(f"{argument}={index} is not one of the {count} tokens (0…{count - 1}, or negative)")
    return index % count


def _stacked(blocks: Blocks) -> tuple[Float[np.ndarray, "L W W"], float]:
    """All blocks in one array, filled up with zeros, and the unit it is in.

    The unit is a power of two, so that nothing is rounded, and other than 1 only where sums could overflow or lose digits.
    """
    width = max(max(block.shape) for block in blocks)
    capacities = np.zeros((len(blocks), width, width))
    for layer, block in enumerate(blocks):
        capacities[layer, : block.shape[0], : block.shape[1]] = block
    largest = float(capacities.max())
    if largest == 0 or 1e-100 < largest < 1e100:
        return capacities, 1.0
    unit = 2.0 ** (np.frexp(largest)[1] - 1)
    return capacities / unit, unit


def _matrix(
    blocks: Blocks, sources: Int[np.ndarray, "sources"], targets: Int[np.ndarray, "targets"]
) -> Float[np.ndarray, "sources targets"]:
    # The compiler is imported with the function that needs it: it takes longer than everything else here.
    import numba

    from ..kernels.max_flow import flow_matrix, is_lower_triangular

    capacities, unit = _stacked(blocks)
    causal = is_lower_triangular(capacities)
    plans = _merge_plans(len(blocks), causal)
    chunks = min(numba.get_num_threads(), len(sources))
    values: np.ndarray = flow_matrix(capacities, sources, targets, causal, plans, chunks)
    return values * unit


def _merge_plans(blocks: int, causal: bool) -> Int[np.ndarray, "plans 8"]:
    """Ways to merge the blocks between the first and the last, the coarsest first, as the kernel takes them.

    A row is the number of merged blocks and their borders. In deep models a few blocks at both ends stay out: they spread the
    flow of the source and gather that of the sink. Measurements chose these ways: they settle the most pairs, soonest. In
    causal models of few blocks none settles enough.
    """

    def evenly(first: int, stop: int, count: int) -> list[int]:
        return [first + (stop - first) * part // count for part in range(count + 1)]

    borders: list[list[int]] = []
    if blocks >= 16:
        borders = [evenly(2, blocks - 2, 2), evenly(2, blocks - 2, 3), evenly(5, blocks - 5, 4)]
    elif blocks >= 6 and not causal:
        borders = [evenly(1, blocks - 1, 2)]
        # The outer blocks stay themselves: there the flow still has to leave, or already has to find, one column.
        borders += [
            [1, *evenly(2, blocks - 2, count), blocks - 1] for count, least in ((2, 9), (4, 12)) if blocks >= least
        ]
    plans = np.zeros((len(borders), 8), dtype=np.int64)
    for plan, row in zip(plans, borders, strict=True):
        plan[0], plan[1 : len(row) + 1] = len(row) - 1, row
    return plans


def _pair(
    blocks: Blocks, source: SupportsIndex, target: SupportsIndex
) -> tuple[Float[np.ndarray, "L W W"], Bool[np.ndarray, "nodes W"], float]:
    """Flow on every edge, the nodes on the source's side of the cut, and the unit of the flow."""
    from ..kernels.max_flow import flow_of_pair, is_lower_triangular

    s = _token(source, "source", len(blocks[-1]))
    t = _token(target, "target", blocks[0].shape[1])
    capacities, unit = _stacked(blocks)
    carried, reached = flow_of_pair(capacities, s, t, is_lower_triangular(capacities))
    return carried, reached, unit


def _edges(
    weights: Float[np.ndarray, "L W W"], chosen: Bool[np.ndarray, "L W W"], value: float, unit: float
) -> FlowEdges:
    layer, query, key = np.nonzero(chosen)
    return FlowEdges(value * unit, layer, query, key, weights[chosen] * unit)
