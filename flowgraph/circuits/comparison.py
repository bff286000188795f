"""Comparison of two circuits: the heads and edges that they share, by number and by weight."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from ..charts.result import Result
from ..charts.table import Table
from ..errors import ArgumentError, ModelMismatchError
from ..interventions.edges import Edge
from ..interventions.plan import circuit_edges
from ..values.arguments import takes
from ..values.flow_graph import FlowGraph
from ..values.node import Node

T = TypeVar("T", bound=Hashable)


@dataclass(frozen=True)
class Common(Generic[T]):
    """Heads or edges that two circuits share.

    Attributes
    ----------
    shared, only_a, only_b
        Items of both, of the first alone and of the second alone; the heaviest first.
    jaccard
        |shared| / |in either|, between 0 and 1.
    weighted
        Σ min(a, b) / Σ max(a, b), where a and b are the parts that an item has of its circuit's whole |weight|. It is 1 if both
        circuits weigh all items alike, in any unit.
    """

    shared: tuple[T, ...]
    only_a: tuple[T, ...]
    only_b: tuple[T, ...]
    jaccard: float
    weighted: float


@dataclass(frozen=True, eq=False)
class CircuitOverlap(Result):
    """Comparison of two circuits.

    Attributes
    ----------
    edges
        Comparison of the edges, weighed by |weight|.
    heads
        Comparison of the heads at the ends of edges; a head weighs the sum of its edges. Groups of keys and values are no heads.
    sign_agreement
        Part of the shared edges whose weight has the same sign in both; None without shared edges.
    weights
        Edge → its weight in the first and in the second circuit, None where it is not in it.
    names
        Methods of the two.
    """

    edges: Common[Edge]
    heads: Common[Node]
    sign_agreement: float | None
    weights: Mapping[Edge, tuple[float | None, float | None]]
    names: tuple[str, str]

    def __repr__(self) -> str:
        heads, edges = self.heads, self.edges
        return (
            f"CircuitOverlap(heads {len(heads.shared)} shared, {len(heads.only_a)} + {len(heads.only_b)} not, Jaccard "
            f"{heads.jaccard:.2f}, weighted {heads.weighted:.2f}; edges {len(edges.shared)} shared, {len(edges.only_a)} + "
            f"{len(edges.only_b)} not, Jaccard {edges.jaccard:.2f}, weighted {edges.weighted:.2f})"
        )

    def table(self) -> Table:
        """One row for each edge of either: ``source``, ``target``, ``into``, ``weight_a``, ``weight_b``; shared ones first."""
        several = [*self.edges.shared, *self.edges.only_a, *self.edges.only_b]
        columns: dict[str, Any] = {
            name: [str(getattr(edge, name)) for edge in several] for name in ("source", "target", "into")
        }
        columns |= {f"weight_{name}": [self.weights[edge][n] for edge in several] for n, name in enumerate("ab")}
        return Table(repr(self), columns, words=("source", "target", "into"))

    def chart(self) -> Table:
        """The table."""
        return self.table()


@takes(FlowGraph, FlowGraph)
def compare(circuit_a: FlowGraph, circuit_b: FlowGraph) -> CircuitOverlap:
    """Compare the heads and edges of two circuits, of two tasks, methods or seeds.

    Parameters
    ----------
    circuit_a, circuit_b
        Circuits of one model, such as :func:`flowgraph.discover` finds.

    Raises
    ------
    ArgumentError
        If one is empty, or not a circuit.
    ModelMismatchError
        If they are of models with different numbers of layers.
    """
    if circuit_a.info.total_layers != circuit_b.info.total_layers:
        raise ModelMismatchError(
            f"the circuits are of models with {circuit_a.info.total_layers} and {circuit_b.info.total_layers} layers "
            f"({circuit_a.info.model!r}, {circuit_b.info.model!r}), so their heads do not correspond"
        )
    a, b = _weights(circuit_a, "circuit_a"), _weights(circuit_b, "circuit_b")
    edges = _common({edge: abs(x) for edge, x in a.items()}, {edge: abs(x) for edge, x in b.items()})
    agree = [(a[edge] < 0) == (b[edge] < 0) for edge in edges.shared]
    return CircuitOverlap(
        edges=edges,
        heads=_common(_heads(a), _heads(b)),
        sign_agreement=sum(agree) / len(agree) if agree else None,
        weights={edge: (a.get(edge), b.get(edge)) for edge in [*a, *b]},
        names=(circuit_a.info.method, circuit_b.info.method),
    )


def _weights(circuit: FlowGraph, argument: str) -> dict[Edge, float]:
    if not len(circuit):
        raise ArgumentError(f"{argument} is empty: it has no edges to compare; lower the threshold of its search")
    edges = circuit_edges(circuit)
    if edges is None:
        raise ArgumentError(
            f"{argument} is a graph of method {circuit.info.method!r}, not a circuit; give what flowgraph.discover found"
        )
    return dict(zip(edges, circuit.weight.tolist(), strict=True))


def _heads(weights: Mapping[Edge, float]) -> dict[Node, float]:
    found: dict[Node, float] = {}
    for edge, weight in weights.items():
        # A set, so that an edge from a head into itself would count once.
        for node in {edge.source, edge.target}:
            if node.kind == "head":
                found[node] = found.get(node, 0.0) + abs(weight)
    return found


def _common(a: Mapping[T, float], b: Mapping[T, float]) -> Common[T]:
    a, b = _parts(a), _parts(b)
    either = sorted({*a, *b}, key=lambda one: -(a.get(one, 0.0) + b.get(one, 0.0)))
    shared = tuple(one for one in either if one in a and one in b)
    larger = sum(max(a.get(one, 0.0), b.get(one, 0.0)) for one in either)
    return Common(
        shared=shared,
        only_a=tuple(one for one in either if one not in b),
        only_b=tuple(one for one in either if one not in a),
        # Two circuits without a head have all their heads in common.
        jaccard=len(shared) / len(either) if either else 1.0,
        weighted=sum(min(a[one], b[one]) for one in shared) / larger if larger else 1.0,
    )


# Weights of two circuits may have different units; parts of each circuit's sum can be compared.
def _parts(weights: Mapping[T, float]) -> dict[T, float]:
    total = sum(weights.values())
    return {one: weight / total if total else 0.0 for one, weight in weights.items()}
