"""From dense weights to a sparse graph: every edge, or what a threshold, a mass or a number leaves of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from ..errors import ArgumentError, GraphTooLargeError
from ..filters import mass_mask
from ..graph import FlowGraph
from ..recorded import Trace
from .node_readings import READ_AT_MOST, node_readings
from .schema import Codes, Columns, edge_parts, joined, no_edges, unlisted_share
from .thresholds import ThresholdRule, by_rule
from .weights import EdgeWeights

MAX_EDGES = 200_000
"""Graphs above this are refused unless ``max_edges=`` allows them."""


def build_graph(
    trace_or_weights: Trace | EdgeWeights,
    *,
    method: str | None = None,
    level: Literal["token", "head"] = "token",
    threshold: float = 0.0,
    mass: float | None = None,
    top_k: int | None = None,
    threshold_rule: ThresholdRule = "edge",
    layers: tuple[int, int] | None = None,
    max_edges: int = MAX_EDGES,
    readings: bool | Literal["auto"] = "auto",
    **options: Any,
) -> FlowGraph:
    """Build the flow graph of a trace, keeping every edge unless told otherwise.

    Filters apply in this order; edges that have no number under the method go as soon as any filter is set.

    Parameters
    ----------
    trace_or_weights
        A trace, or dense weights from :func:`flowgraph.edge_weights`.
    method
        Edge method for a trace; default ``"attention"``.
    level
        ``"token"``: heads taken together. ``"head"``: a node for every head.
    threshold
        Keep edges with |share| at or above this. At token level an edge is what all heads bring together.
    mass
        Per target keep the fewest incoming edges whose Σ|share| reaches this part of the target's total, 0 < mass ≤ 1.
    top_k
        Keep the k largest |share| of the graph.
    threshold_rule
        ``"edge"``: the threshold is for edges, as above. ``"per_head"``, for proximity: parts below the threshold (one head
        reading one token, the residual stream, the MLP) become zero before heads are summed, and what remains of a state is
        normalised again. Both are published rules of information flow routes (Ferrando & Voita 2024).
    layers
        First and one-past-last layer of the graph.
    max_edges
        Refuse a larger graph, naming its size.
    readings
        Whether nodes carry their reading in vocabulary. ``"auto"``: where there is a trace, up to 2,000 nodes.
    **options
        Options of the method, for a trace; see :func:`flowgraph.edge_weights`.

    Raises
    ------
    GraphTooLargeError
        If more than ``max_edges`` edges remain.
    ArgumentError
        If an argument is out of its range.

    Examples
    --------
    >>> graph = fg.build_graph(trace, method="proximity", threshold=0.05)
    >>> graph.info.method, graph.info.unit
    ('proximity', 'share')
    >>> len(graph) < graph.info.total_edges
    True
    """
    check_filters(level, threshold, mass, top_k, max_edges)
    weights = _weights(trace_or_weights, method, options)
    if threshold_rule != "edge":
        weights = by_rule(weights, threshold, threshold_rule)
    if layers is not None:
        weights = weights.window(*layers)
    columns, total_edges, total_share = _collect(
        edge_parts(weights, level), threshold if threshold_rule == "edge" else 0.0, mass, top_k, max_edges
    )
    filters: dict[str, float | int | str] = {"threshold": threshold} if threshold else {}
    filters |= {} if threshold_rule == "edge" else {"threshold_rule": threshold_rule}
    filters |= {name: value for name, value in (("mass", mass), ("top_k", top_k)) if value is not None}
    info = replace(
        weights.info,
        level=level,
        total_edges=total_edges,
        total_share=total_share + unlisted_share(weights),
        filters=filters,
    )
    graph = _assemble(columns, weights, info)
    if readings is False or not isinstance(trace_or_weights, Trace):
        if readings is True:
            raise ArgumentError("readings=True needs a trace; weights alone do not hold the vectors")
        return graph
    if readings == "auto" and len(graph.nodes) > READ_AT_MOST:
        return graph
    return graph.with_readings(node_readings(trace_or_weights, graph.nodes))


def check_filters(level: str, threshold: float, mass: float | None, top_k: int | None, max_edges: int) -> None:
    """Refuse a level or a filter that is out of its range."""
    if level not in ("token", "head"):
        raise ArgumentError(f"level={level!r} is not known; expected 'token' or 'head'")
    if not 0.0 <= threshold <= 1.0:
        raise ArgumentError(f"threshold={threshold} must lie between 0 and 1: it is compared with |share|")
    if mass is not None and not 0.0 < mass <= 1.0:
        raise ArgumentError(f"mass={mass} must lie above 0 and at most at 1")
    if top_k is not None and top_k < 1:
        raise ArgumentError(f"top_k={top_k} must be at least 1")
    if max_edges < 1:
        raise ArgumentError(f"max_edges={max_edges} must be at least 1")


def _weights(trace_or_weights: Trace | EdgeWeights, method: str | None, options: dict[str, Any]) -> EdgeWeights:
    if isinstance(trace_or_weights, EdgeWeights):
        if options:
            raise ArgumentError(
                f"{', '.join(options)}= belongs to edge_weights(trace, …): these weights are computed already"
            )
        if method not in (None, trace_or_weights.info.method):
            raise ArgumentError(
                f"method={method!r}, but these weights are {trace_or_weights.info.method!r}; leave method out"
            )
        return trace_or_weights
    from . import edge_weights

    return edge_weights(trace_or_weights, method=method or "attention", **options)


def _collect(
    parts: Iterator[Columns], threshold: float, mass: float | None, top_k: int | None, max_edges: int
) -> tuple[Columns, int, float]:
    """Filter part by part, so that a graph that is too large is counted and never held."""
    filtering = bool(threshold) or mass is not None or top_k is not None
    kept: list[Columns] = []
    count, total_edges, total_share = 0, 0, 0.0
    for part in parts:
        total_edges += int((~part["structural"]).sum())
        total_share += float(np.abs(part["share"]).sum())
        if filtering:
            part = taken(part, ~part["structural"] & (np.abs(part["share"]) >= threshold))
        if mass is not None:
            part = taken(part, mass_mask(part["target"], part["share"], mass))
        if top_k is not None:
            part = _strongest(part, top_k)
        count += len(part["share"])
        if count <= max_edges or top_k is not None:
            kept.append(part)
    columns = joined(kept) if kept else no_edges()
    if top_k is not None:
        columns = _strongest(columns, top_k)
        count = len(columns["share"])
    if count > max_edges:
        raise GraphTooLargeError(
            f"this graph has {count:,} edges, more than max_edges={max_edges:,}; set threshold=, mass= or top_k=, a window "
            "layers=(first, stop), level='token', or raise max_edges="
        )
    return columns, total_edges, total_share


def taken(part: Columns, mask: np.ndarray) -> Columns:
    """Some rows of columns."""
    return {name: column[mask] for name, column in part.items()}


def _strongest(part: Columns, k: int) -> Columns:
    """The k edges with the largest |share|, in their old order; ties go to the earlier edge."""
    order = np.argsort(-np.abs(part["share"]), kind="stable")[:k]
    return taken(part, np.sort(order))


def _assemble(columns: Columns, weights: EdgeWeights, info: Any) -> FlowGraph:
    codes = Codes(weights)
    used, numbered = np.unique(np.concatenate([columns["source"], columns["target"]]), return_inverse=True)
    half = len(columns["source"])
    columns = columns | {"source": numbered[:half], "target": numbered[half:]}
    nodes = tuple(codes.node(int(code)) for code in used)
    shown = set(nodes)
    undefined = tuple(node for node in weights.undefined if node in shown)
    return FlowGraph(nodes=nodes, **columns, info=info, undefined=undefined)
