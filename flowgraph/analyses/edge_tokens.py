"""What travels along an edge, in words: the tokens that its vector promotes and suppresses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..charts.axis import Axis, Role
from ..charts.bars import Bar, Bars, Column
from ..charts.grid import Places
from ..charts.result import Result
from ..charts.table import Table
from ..charts.text import printable, visible
from ..errors import ArgumentError
from ..lenses.logit_lens import read
from ..values.arguments import takes
from ..values.flow_graph import EDGE_KINDS, FlowGraph
from ..values.node import Node, label
from ..values.reading import Entry, Reading
from ..values.trace import Trace
from .vectors import carried


@dataclass(frozen=True, eq=False)
class EdgeTokens(Result):
    """The vector along one edge, read in vocabulary.

    Attributes
    ----------
    edge
        Index of the edge in the graph.
    source, target, kind
        Its ends and its kind.
    weight, unit
        The graph's number of it; None where the method gives none.
    carried
        What the vector is, in words: ``what head 7 brings from position 3``.
    reading
        Reading of one vector (shape ()).
    """

    edge: int
    source: Node
    target: Node
    kind: str
    weight: float | None
    unit: str
    carried: str
    reading: Reading

    @property
    def promoted(self) -> tuple[Entry, ...]:
        """(token, probability, logit) with the highest logits, the highest first."""
        return self.reading[0].top

    @property
    def suppressed(self) -> tuple[Entry, ...]:
        """(token, probability, logit) with the lowest logits, the lowest first."""
        return self.reading[0].bottom

    def __repr__(self) -> str:
        number = "without a number" if self.weight is None else f"{self.weight:.3g} {self.unit}"
        return f"EdgeTokens({label(self.source)} → {label(self.target)}, {self.kind}, {number}: {self.carried})"

    def table(self) -> Table:
        """One row for each token: ``side`` (promoted or suppressed), ``order`` (1 = outermost), ``token``, ``probability``, ``logit``."""
        sides = (("promoted", self.promoted), ("suppressed", self.suppressed))
        rows = [(side, order, *entry) for side, entries in sides for order, entry in enumerate(entries, start=1)]
        names = ("side", "order", "token", "probability", "logit")
        return Table(repr(self), {name: [row[n] for row in rows] for n, name in enumerate(names)}, words=("side",))

    def chart(self) -> Bars:
        """The tokens that the vector promotes and suppresses, by their logits."""
        number = "without a number" if self.weight is None else f"{self.weight:.3g} ({self.unit})"
        return Bars(
            title=" → ".join(printable(label(node)) for node in (self.source, self.target)),
            columns=(_column("promoted", "raises", self.promoted), _column("suppressed", "lowers", self.suppressed)),
            subtitle=f"{self.kind}, {number}: {self.carried}, length {self.reading.norm[0]:.3g}",
        )


def _column(title: str, role: Role, entries: Sequence[Entry]) -> Column:
    def tip(n: int) -> tuple[str, ...]:
        token, probability, logit = entries[n]
        return (f"{visible(token)}: {logit:.3f} logits, p = {probability:.3g}",)

    places = Places("token", tuple(range(len(entries))), tuple(token for token, *_ in entries), is_numbered=False)
    part = Bar(np.array([logit for *_, logit in entries]), tip, role=role)
    return Column(places, Axis("logit of the vector alone"), (part,), title=title)


@takes(Trace, FlowGraph)
def edge_tokens(trace: Trace, graph: FlowGraph, edge: int, k: int = 10) -> EdgeTokens:
    """Read the vector that travels along an edge of a graph.

    Of an attention edge it is A · value · W_O of its source, of one head or summed over heads, as the edge is; of a residual edge
    the state, of an MLP's edge what the MLP adds, of any other part of a sum that part. Parts of a sum that a norm follows are
    taken before that norm in post-norm blocks and after it in sandwich blocks, as everywhere in a trace. Whether the method
    gives the edge a number does not matter.

    Parameters
    ----------
    trace
        The trace that the graph was built from, with its model.
    graph
        A graph of :func:`flowgraph.semantic_graph` or :func:`flowgraph.build_graph`, or what a filter or an algorithm left of it.
    edge
        Index of the edge.
    k
        How many tokens on either side.

    Raises
    ------
    UnsupportedReadingError
        If the model has no head, or no vector travels along the edge: where a query meets a key, where one number is handed to a
        neuron or row, and from biases that come after the last state.
    ArgumentError
        If the edge does not exist, the graph is of another prompt or model, or a *rest* was asked for of a filtered graph.

    References
    ----------
    Katz & Belinkov (2023), "VISIT: Visualizing and Interpreting the Semantic Information Flow of Transformers", reads nodes in
    this way; here edges are read as well.

    Examples
    --------
    >>> graph = fg.routes(fg.edge_weights(trace, method="proximity"), threshold=0.1)
    >>> found = fg.edge_tokens(trace, graph, edge=0)
    >>> found.source == graph.nodes[graph.source[0]]
    True
    """
    trace.model.require_head("the tokens of an edge")
    if not 0 <= edge < len(graph):
        raise ArgumentError(f"edge={edge} is not one of the graph's {len(graph):,} edges, 0…{len(graph) - 1}")
    if (graph.info.model, graph.info.tokens) != (trace.model_name, trace.tokens):
        raise ArgumentError(
            f"the graph is of {graph.info.model!r} with {len(graph.info.tokens)} tokens, the trace of {trace.model_name!r} with "
            f"{len(trace.tokens)}: {'other' if len(graph.info.tokens) == len(trace.tokens) else 'another number of'} tokens or "
            "another model; use the trace that the graph was built from"
        )
    found = carried(trace, graph, edge)
    return EdgeTokens(
        edge=edge,
        source=graph.nodes[graph.source[edge]],
        target=graph.nodes[graph.target[edge]],
        kind=EDGE_KINDS[graph.kind[edge]],
        weight=None if graph.structural[edge] else float(graph.weight[edge]),
        unit=graph.unit_of(edge),
        carried=found.name,
        reading=read(trace, found.vector, k=k),
    )
