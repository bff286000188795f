"""From dense weights to a sparse graph: every edge, or what a threshold, a nucleus, a number or a mass leaves of them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from ..errors import ArgumentError, GraphTooLargeError
from ..values.arguments import takes
from ..values.edge_weights import EdgeWeights
from ..values.flow_graph import FlowGraph
from ..values.graph_info import DEFAULT_METHOD
from ..values.node import Node, label
from ..values.nucleus import nucleus_mask
from ..values.strongest import keep_strongest
from ..values.trace import Trace
from .mixed_levels import layers_opened
from .node_readings import READ_AT_MOST, node_readings
from .origin import called
from .schema import Codes, Columns, edge_parts, in_stacks, joined, no_edges, unlisted_share
from .thresholds import ThresholdRule, by_rule
from .weigh import edge_weights
from .whole import WholeFlow, whole_flow

MAX_EDGES = 200_000
"""Graphs above this are refused unless ``max_edges=`` allows them."""
MOST_LISTED = 5_000_000
"""Edges that are held while a mass is looked for; of more, those of the largest flow."""


@takes((Trace, EdgeWeights))
def build_graph(
    trace_or_weights: Trace | EdgeWeights,
    *,
    method: str | None = None,
    level: Literal["token", "head"] = "token",
    heads_in: Sequence[int] = (),
    threshold: float = 0.0,
    nucleus: float | None = None,
    top_k: int | None = None,
    mass: float | None = None,
    threshold_rule: ThresholdRule = "edge",
    layers: tuple[int, int] | None = None,
    start: Node | None = None,
    max_edges: int = MAX_EDGES,
    readings: bool | Literal["auto"] = "auto",
    **options: Any,
) -> FlowGraph:
    """Build the flow graph of a trace, keeping every edge unless told otherwise.

    Filters apply in this order; edges that have no number under the method go as soon as any filter is set.

    =============  ======================================================================================================
    ``threshold``  every edge with |share| at or above it
    ``nucleus``    per target the fewest incoming edges that hold this part of what enters it
    ``top_k``      the k edges with the largest |share|
    ``mass``       the strongest connected edges that hold this part of the whole flow into the target, as ``--mass`` does
    ``max_edges``  keeps nothing: refuses a larger graph. In :func:`flowgraph.keep_strongest`, the most edges to keep
    =============  ======================================================================================================

    Whatever was kept, ``graph.kept_mass`` says what part of the whole flow it holds (:func:`flowgraph.mass`).

    Parameters
    ----------
    trace_or_weights
        A trace, or dense weights from :func:`flowgraph.edge_weights`.
    method
        Edge method for a trace; default ``"proximity"``.
    level
        ``"token"``: heads taken together. ``"head"``: a node for every head, and of a mixture of experts for every chosen expert.
    heads_in
        Layers whose heads are shown one by one at token level while those of the others are taken together; for methods whose
        numbers for heads add up to those for the heads together (``EdgeWeights.additive``).
    threshold
        Keep edges with |share| at or above this. At token level an edge is what all heads bring together.
    nucleus
        Per target keep the fewest incoming edges whose Σ|share| reaches this part of the target's total, 0 < nucleus ≤ 1.
    top_k
        Keep the k largest |share| of the graph.
    mass
        Of what the other filters leave, keep the strongest edges that hang together with the target, until they hold this part
        of the method's whole flow into it, 0 < mass ≤ 1; :func:`flowgraph.keep_strongest` does the same later on.
        Until this release ``mass`` was what ``nucleus`` is now; a FutureWarning says so for one release.
    threshold_rule
        ``"edge"``: the threshold is for edges, as above. ``"per_head"``, for proximity: parts below the threshold (one head
        reading one token, the residual stream, the MLP) become zero before heads are summed, and what remains of a state is
        normalised again. Both are published rules of information flow routes (Ferrando & Voita 2024).
    layers
        First and one-past-last layer of the graph.
    start
        Node that the flow is measured into. None: the logit, or where there is none the last residual state of the position.
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
    >>> graph = fg.build_graph(trace, heads_in=[23], threshold=0.05)
    >>> {node.layer for node in graph.nodes if node.kind == "head"}
    {23}
    """
    check_filters(level, threshold, nucleus, top_k=top_k, max_edges=max_edges, mass=mass)
    if mass is not None:
        warn_of_mass()
    weights = _weights(trace_or_weights, method, options)
    if layers is not None:
        weights = weights.window(*layers)
    heads_in = layers_opened(weights, level, heads_in)
    # Shares may be normalised again below; a mass is of what the method gives.
    given = weights
    if threshold_rule != "edge":
        weights = by_rule(weights, threshold, threshold_rule)
    collected = _Collected(threshold if threshold_rule == "edge" else 0.0, nucleus, top_k, mass, max_edges)
    whole = whole_flow(given, level, start, heads_in=heads_in)
    collected.read(edge_parts(weights, level, heads_in), whole)
    filters: dict[str, float | int | str] = {"heads_in": ", ".join(map(str, heads_in))} if heads_in else {}
    filters |= {"threshold": threshold} if threshold else {}
    filters |= {} if threshold_rule == "edge" else {"threshold_rule": threshold_rule}
    filters |= {name: value for name, value in (("nucleus", nucleus), ("top_k", top_k)) if value is not None}
    info = replace(
        weights.info, level=level, total_edges=whole.edges, total_share=collected.total_share + unlisted_share(weights), filters=filters,
        provenance=_made_with(
            weights, level=level, heads_in=heads_in or None, threshold=threshold or None, nucleus=nucleus, top_k=top_k, mass=mass,
            threshold_rule=None if threshold_rule == "edge" else threshold_rule, layers=layers,
            start=None if start is None else label(start),
        ),
        flow_into=label(whole.start), total_flow=whole.total,
    )  # fmt: skip
    graph = _assemble(collected.columns(), weights, info)
    if mass is not None:
        graph = collected.strongest(graph)
    return _read(graph, trace_or_weights, readings)


def _read(graph: FlowGraph, of: Trace | EdgeWeights, readings: bool | Literal["auto"]) -> FlowGraph:
    """The graph with readings of its nodes, where they are wanted and there is a trace."""
    if readings is True and not isinstance(of, Trace):
        raise ArgumentError("readings=True needs a trace; weights alone do not hold the vectors")
    too_many = readings == "auto" and len(graph.nodes) > READ_AT_MOST
    if readings is False or too_many or not isinstance(of, Trace):
        return graph
    return graph.with_readings(node_readings(of, graph.nodes))


def _made_with(weights: EdgeWeights, **said: Any) -> dict[str, Any]:
    """Where the weights come from, and the call that made the graph of them."""
    call = called("build_graph", method=weights.info.method, **(dict(weights.info.options) | said))
    return {**weights.info.provenance, "made_by": call}


def check_filters(
    level: str,
    threshold: float,
    nucleus: float | None,
    *,
    top_k: int | None,
    max_edges: int,
    mass: float | None = None,
) -> None:
    """Refuse a level or a filter that is out of its range."""
    if level not in ("token", "head"):
        raise ArgumentError(f"level={level!r} is not known; expected 'token' or 'head'")
    if not 0.0 <= threshold <= 1.0:
        raise ArgumentError(f"threshold={threshold} must lie between 0 and 1: it is compared with |share|")
    for name, part in (("nucleus", nucleus), ("mass", mass)):
        if part is not None and not 0.0 < part <= 1.0:
            raise ArgumentError(f"{name}={part} must lie above 0 and at most at 1")
    if top_k is not None and top_k < 1:
        raise ArgumentError(f"top_k={top_k} must be at least 1")
    if max_edges < 1:
        raise ArgumentError(f"max_edges={max_edges} must be at least 1")


def warn_of_mass() -> None:
    """Say that ``mass=`` of graphs and routes was a nucleus until this release."""
    warnings.warn(
        "mass= is now the part of the whole flow into the target that the strongest paths hold, as in keep_strongest and on the "
        "command line; what it was before, per target the fewest edges of that part, is nucleus=. This note goes with the next "
        "release; keep_strongest(graph, mass=…) means the same without it",
        FutureWarning,
        stacklevel=3,
    )


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
    return edge_weights(trace_or_weights, method=method or DEFAULT_METHOD, **options)


class _Collected:
    """Edges that filters leave, part by part, so that a graph that is too large is counted and never held."""

    def __init__(
        self, threshold: float, nucleus: float | None, top_k: int | None, mass: float | None, max_edges: int
    ) -> None:
        self.threshold, self.nucleus, self.top_k, self.mass, self.max_edges = threshold, nucleus, top_k, mass, max_edges
        self.total_share, self.count = 0.0, 0
        self.kept: list[Columns] = []
        self.left_out = 0.0  # the largest flow of an edge that was let go for want of room

    def read(self, parts: Iterator[Columns], whole: WholeFlow) -> None:
        """Filter part by part."""
        filtering = bool(self.threshold) or any(x is not None for x in (self.nucleus, self.top_k, self.mass))
        for part in parts:
            self.total_share += float(np.abs(part["share"]).sum())
            if filtering:
                part = taken(part, ~part["structural"] & (np.abs(part["share"]) >= self.threshold))
            if self.nucleus is not None:
                part = taken(part, nucleus_mask(part["target"], part["share"], self.nucleus))
            if self.top_k is not None:
                part = _strongest(part, self.top_k)
            self.count += len(part["share"])
            if self.mass is not None or self.count <= self.max_edges or self.top_k is not None:
                self.kept.append(part | {"flow": whole.flow_of(part)})
            if self.mass is not None and self.top_k is None and self.count > MOST_LISTED:
                self._let_go()

    def _let_go(self) -> None:
        """Of too many edges the largest flow: a path is as strong as its weakest edge, so that the strongest paths stay whole."""
        columns = joined(self.kept)
        order = np.argsort(-columns["flow"], kind="stable")
        self.left_out = max(self.left_out, float(columns["flow"][order[MOST_LISTED // 2]]))
        self.kept = [taken(columns, np.sort(order[: MOST_LISTED // 2]))]
        self.count = MOST_LISTED // 2

    def columns(self) -> Columns:
        """All that was kept."""
        columns = joined(self.kept) if self.kept else no_edges() | {"flow": np.zeros(0)}
        if self.top_k is not None:
            columns = _strongest(columns, self.top_k)
            self.count = len(columns["share"])
        if self.mass is None:
            self._refuse(self.count)
        return columns

    def strongest(self, graph: FlowGraph) -> FlowGraph:
        """The strongest paths that hold the mass."""
        assert self.mass is not None
        kept = keep_strongest(graph, mass=self.mass, max_edges=None)
        weakest = float(kept.flow.min()) if kept.flow is not None and len(kept) else 0.0
        if self.left_out and (kept.kept_mass < self.mass * (1 - 1e-9) or weakest <= self.left_out):
            raise GraphTooLargeError(
                f"mass={self.mass} needs more than the {MOST_LISTED // 2:,} edges of the largest flow, which are all that is held; "
                "set a smaller mass=, a threshold=, a window layers=(first, stop) or level='token'"
            )
        self._refuse(len(kept))
        return kept

    def _refuse(self, count: int) -> None:
        if count > self.max_edges:
            raise GraphTooLargeError(
                f"this graph has {count:,} edges, more than max_edges={self.max_edges:,}; set threshold=, nucleus=, top_k= or "
                "mass=, a window layers=(first, stop), level='token', or raise max_edges="
            )


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
    columns = in_stacks(weights, columns) | {"source": numbered[:half], "target": numbered[half:]}
    nodes = tuple(codes.node(int(code)) for code in used)
    shown = set(nodes)
    undefined = tuple(node for node in weights.undefined if node in shown)
    return FlowGraph(nodes=nodes, **columns, info=info, undefined=undefined)
