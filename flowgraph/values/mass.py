"""Mass: the part of a method's whole flow into the explained position that a set of edges holds.

The whole graph has all edges that the method gives at one level within ``info.layers``. Along it every edge has a flow into one
node, ``info.flow_into``, usually the logit: |share| × the flow of its target, with 1 at that node
(:func:`flowgraph.connected_flow`). The mass of a set of edges is the sum of their flow divided by the sum over the whole graph.
So it is 0 without edges, 1 for the whole, never smaller with more edges, and the same for the same edges however they were
chosen. Signed methods are measured by |share|. A cut graph carries the flow of its edges and the sum over the whole along.

Circuits and semantic graphs have no single node that everything flows into. Their mass is a part of Σ|share| instead, and the
texts say so. If nothing is known of the edges that a file left out, the file is the whole, and the texts say that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar
from weakref import WeakKeyDictionary

import numpy as np
from jaxtyping import Bool, Float, Int

from ..errors import ArgumentError
from .arguments import takes
from .connected_flow import connected_flow, start_index
from .graph_columns import GraphColumns
from .graph_info import EFFECT, Whole
from .node import Node, label

G = TypeVar("G", bound=GraphColumns)
_WITHOUT_FLOW = ("semantic", "visit", EFFECT)


@dataclass(frozen=True, eq=False)
class Measured:
    """The measure of the mass of a graph's edges.

    Attributes
    ----------
    part
        [E] part of the whole that each edge holds.
    flow
        [E] flow of each edge into the start along the whole graph; None where Σ|share| is measured instead.
    into, total
        Label of the start, and the sum of the flow over the whole graph.
    whole
        The whole: all edges of the method, or those of a file.
    """

    part: Float[np.ndarray, "E"]
    flow: Float[np.ndarray, "E"] | None = None
    into: str | None = None
    total: float | None = None
    whole: Whole = "method"


@takes(GraphColumns)
def mass(
    graph: GraphColumns, edges: Bool[np.ndarray, "E"] | Int[np.ndarray, "e"] | Sequence[int] | None = None
) -> float:
    """Compute the part of the method's whole flow into the explained position that some edges hold.

    Every "% of the mass" is this number, and so is every argument ``mass=``. Module :mod:`flowgraph.values.mass` defines it.

    Parameters
    ----------
    graph
        Any graph.
    edges
        Mask or indices of some of its edges, each once; None: all.

    Returns
    -------
    Between 0, no edges, and 1, every edge that carries flow.

    Raises
    ------
    ArgumentError
        If ``graph`` is no graph, or ``edges`` holds an edge twice or anything but edges of the graph.

    Examples
    --------
    >>> graph = fg.build_graph(trace, method="proximity", readings=False)
    >>> round(fg.mass(graph), 6), fg.mass(graph, [])
    (1.0, 0.0)
    >>> few = fg.keep_strongest(graph, mass=0.5)
    >>> bool(0.5 <= fg.mass(few) < 0.51), fg.mass(few) == few.kept_mass
    (True, True)
    """
    part = edge_mass(graph)
    # A sum of many parts may end a digit above the whole.
    return float(min(1.0, (part if edges is None else part[graph.chosen(edges)]).sum()))


@takes(GraphColumns)
def edge_mass(graph: GraphColumns) -> Float[np.ndarray, "E"]:
    """[E] part of the whole that each edge holds; :func:`mass` is a sum of these.

    Examples
    --------
    >>> graph = fg.build_graph(trace, method="proximity", readings=False)
    >>> fg.edge_mass(graph).shape == (len(graph),), round(float(fg.edge_mass(graph).sum()), 6)
    (True, 1.0)
    """
    return measured(graph).part


# Graphs are frozen and compared by identity, so one measurement serves as long as the graph lives; weak, so that it
# goes with it.
_KNOWN: WeakKeyDictionary[GraphColumns, Measured] = WeakKeyDictionary()


def measured(graph: GraphColumns) -> Measured:
    """Measure the edges of a graph: by the flow that it carries, or, while it is whole, by the flow along its own edges."""
    found = _KNOWN.get(graph)
    # setdefault: two threads that measure at once give one answer.
    return _KNOWN.setdefault(graph, _measure(graph)) if found is None else found


def _measure(graph: GraphColumns) -> Measured:
    info = graph.info
    if graph.flow is not None:
        return Measured(_parts(graph.flow, info.total_flow), graph.flow, info.flow_into, info.total_flow, info.whole)
    # A graph that once had more edges and carries no flow is a file of another program, or of an earlier release.
    is_cut = np.count_nonzero(~graph.structural) < info.total_edges
    whole: Whole = "file" if is_cut and has_flow(graph) and info.whole == "method" else info.whole
    if has_flow(graph) and whole != "shares":
        try:
            return _along_itself(graph, None, whole)
        except ArgumentError:
            # A cycle, or several ends of which none is the explained one: made elsewhere, and without flow into one node.
            whole = "shares"
    return Measured(_parts(np.abs(graph.share.astype(np.float64)), info.total_share), whole=whole)


def has_flow(graph: GraphColumns) -> bool:
    """Whether a graph shows flow into a node; circuits show measured effects, semantic graphs vectors and their readings."""
    return graph.info.method not in _WITHOUT_FLOW and not graph.info.method.startswith("circuit")


def into_start(graph: G, start: Node | None = None) -> G:
    """The graph with the flow of its edges into ``start`` in its columns.

    For a cut graph the flow into another start than its own is known only along its own edges; these are then the whole.

    Raises
    ------
    ArgumentError
        As for :func:`flowgraph.connected_flow`.
    """
    # A graph that carries its flow already has its start.
    if not has_flow(graph) or (start is None and graph.flow is not None):
        return graph
    if start is not None and graph.flow is not None and label(start) == graph.info.flow_into:
        return graph
    whole: Whole = graph.info.whole
    if np.count_nonzero(~graph.structural) < graph.info.total_edges:
        whole = "file"
    return carrying(graph, _along_itself(graph, start, whole))


def carrying(graph: G, found: Measured) -> G:
    """The graph with the measured flow in its columns; without a flow, with the right ``info.whole``."""
    if found.flow is None:
        is_said = found.whole == graph.info.whole
        return graph if is_said else replace(graph, info=replace(graph.info, whole=found.whole))
    info = replace(graph.info, flow_into=found.into, total_flow=found.total, whole=found.whole)
    return replace(graph, flow=found.flow, info=info)


def _along_itself(graph: GraphColumns, start: Node | None, whole: Whole) -> Measured:
    flow = connected_flow(graph, start)
    total = float(flow.sum())
    into = label(graph.nodes[start_index(graph, start, "start")]) if graph.nodes or start is not None else None
    return Measured(_parts(flow, total), flow, into, total, whole)


def _parts(amount: Float[np.ndarray, "E"], total: float | None) -> Float[np.ndarray, "E"]:
    return amount / total if total else np.zeros(len(amount))
