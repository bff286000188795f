"""The edges of a circuit by their effect: what a search found, in numbers, as a chart, and what the search says of itself."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..charts.axis import Axis
from ..charts.bars import Bar, Bars, Column, check_most
from ..charts.grid import Places
from ..charts.result import Result
from ..charts.table import Table
from ..errors import ArgumentError
from ..values.arguments import takes
from ..values.flow_graph import FlowGraph
from ..values.node import label

PREFIX = "circuit: "
"""How the method of a graph begins that a search has found."""
_MEASURED = "Each edge was cut by itself, and the answer measured. Effects do not add up: edges depend on each other."
_ESTIMATED = (
    "Effects are first-order estimates; no edge was cut to confirm them. The search backward confirms what it shows."
)
_READS = {"query": "its query", "key": "its key", "value": "its value"}
"""Kind of edge → what of its target reads it, where that has several things that read."""
_ABLATIONS = {"resample": "the corrupted prompt’s", "zero": "nothing"}
_SAID = {
    "forwards": "forwards run", "backwards": "backwards run", "layer_runs": "runs of one layer", "budget": "budget, forwards",
    "steps": "runs between the prompts", "points": "ends of the parts where they lie", "tested": "edges cut", "untested": "left untested",
    "bootstrap": "draws of the prompts", "unsure": "edges without a sure sign",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class CircuitEdges(Result):
    """Edges of a circuit by their effect.

    Attributes
    ----------
    graph
        The circuit, as :func:`flowgraph.discover` gives it.
    """

    graph: FlowGraph

    def __post_init__(self) -> None:
        info = self.graph.info
        if not info.method.startswith(PREFIX) or "gap" not in info.options:
            raise ArgumentError(
                f"a graph of the method {info.method!r} is no circuit that flowgraph.discover found; expected one with the gap of its search"
            )

    def __repr__(self) -> str:
        return f"CircuitEdges({len(self.graph):,} edges, {self.searched}, {self.graph.info.unit})"

    @property
    def method(self) -> str:
        """How the circuit was searched, ``"backward"``."""
        return self.graph.info.method.removeprefix(PREFIX)

    @property
    def searched(self) -> str:
        """The method, with the points of integrated gradients: ``"eap-ig, points left"``."""
        points = self.graph.info.options.get("points")
        return self.method if points is None else f"{self.method}, points {points}"

    @property
    def measured(self) -> bool:
        """Whether the effects were measured, and not estimated."""
        return self.method in ("backward", "eap-ig-exact")

    @property
    def gap(self) -> float:
        """Mean metric of the clean runs less that of the corrupted ones, in ``graph.info.unit``."""
        return float(self.graph.info.options["gap"])

    @property
    def note(self) -> str:
        """What the effects are, and what the search could not test."""
        left = int(self.graph.info.options.get("untested", 0))
        untested = (
            f" {left:,} edge{'' if left == 1 else 's'} that may be large enough could not be tested with this budget; a larger one would."
            if left
            else ""
        )
        return f"{_MEASURED if self.measured else _ESTIMATED}{untested}"

    def order(self, edges: Iterable[int] | None = None) -> list[int]:
        """Indices of edges, the largest |effect| first; None: of all."""
        every = range(len(self.graph)) if edges is None else edges
        return sorted(every, key=lambda e: -abs(float(self.graph.weight[e])))

    def reads(self, edge: int) -> str:
        """What of its target reads an edge, ``"its key"``; empty where the target has one thing that reads."""
        return _READS.get(str(self.graph.edge_dict(edge)["kind"]), "")

    def facts(self) -> list[tuple[str, str | int | float, str]]:
        """What the search says of itself: (name, value, unit); whole numbers are counts."""
        said, unit = self.graph.info.options, self.graph.info.unit
        found: list[tuple[str, str | int | float, str]] = [
            ("method", self.method, ""),
            ("a cut edge brings", _ABLATIONS.get(str(said["ablation"]), str(said["ablation"])), ""),
            ("measured", str(said["metric"]), ""),
            ("prompts", int(said["prompts"]), ""),
            *([("corruption", str(said["corruption"]), "")] if "corruption" in said else []),
            ("gap, clean less corrupted", self.gap, unit),
            ("edges", len(self.graph), ""),
        ]
        more = ((text, said[name]) for name, text in _SAID.items() if name in said)
        return found + [(text, value if isinstance(value, str) else int(value), "") for text, value in more]

    def table(self) -> Table:
        """One row for each edge, the strongest first.

        ``source``, ``target``, ``reads``, ``effect`` (its contribution in ``unit``: above 0 where it supports the answer), ``unit``,
        ``part_of_gap`` (the effect over the gap, unless that is 0) and ``share`` (of what is known to enter the target).
        """
        graph, order = self.graph, self.order()
        names = [label(node) for node in graph.nodes]
        effects = graph.weight[order].astype(float)
        columns: dict[str, Any] = {
            "source": [names[graph.source[e]] for e in order],
            "target": [names[graph.target[e]] for e in order],
            "reads": [self.reads(e) for e in order],
            "effect": effects,
            "unit": [graph.info.unit] * len(order),
            # A gap of 0 has no parts.
            **({"part_of_gap": effects / self.gap} if self.gap else {}),
            "share": graph.share[order].astype(float),
        }
        return Table(repr(self), columns, words=("source", "target", "reads", "unit"), note=self.note)

    def chart(self, most: int = 30) -> Bars:
        """The strongest edges as bars.

        Parameters
        ----------
        most
            How many edges.

        Raises
        ------
        ArgumentError
            If that is not at least one.
        """
        check_most(most)
        table, unit = self.table(), self.graph.info.unit
        rows = list(zip(*(table.columns[name] for name in ("source", "target", "reads")), strict=True))[:most]
        names = [f"{source} → {target}{reads.replace('its', '', 1)}" for source, target, reads in rows]
        effects = np.asarray(table.columns["effect"][:most])
        bar = Bar(effects, lambda n: (names[n], f"{effects[n]:+.4g} {unit}"))
        places = Places("edge", tuple(range(len(names))), tuple(names), is_numbered=False)
        return Bars(
            title=f"The strongest {len(names)} of {len(table):,} edges of a circuit",
            columns=(Column(places, Axis(f"effect ({unit})"), (bar,)),),
            subtitle=f"{self.searched}; the gap is {self.gap:.4g} {unit}",
            about=self.note,
        )


@takes(FlowGraph)
def circuit_edges(graph: FlowGraph) -> CircuitEdges:
    """The edges of a circuit by their effect, as a table, a chart and files; the picture of the circuit is the graph's own.

    Parameters
    ----------
    graph
        A circuit that :func:`flowgraph.discover` found.

    Raises
    ------
    ArgumentError
        If the graph is none.

    Examples
    --------
    >>> circuit = fg.discover(trace.model, clean=trace, corrupted="The capital of France is the city of", method="eap")
    >>> edges = fg.circuit_edges(circuit)
    >>> edges.measured, edges.save("edges.csv").name
    (False, 'edges.csv')
    """
    return CircuitEdges(graph)
