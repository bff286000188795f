"""What one node of a pass says: numbers and words, from a model or from a graph that was saved with them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from ..charts.result import Result
from ..charts.table import Table
from ..errors import ArgumentError
from .flow_graph import FlowGraph
from .node import Node, label
from .reading import NodeReading


@dataclass(frozen=True, eq=False)
class NodeDetails(Result):
    """What one node of a pass says.

    Attributes
    ----------
    node
        The node.
    reading
        Its vector read in vocabulary; None for kinds that have no vector.
    contribution
        What it adds to the logit of the target (minus the foil), in logits; None where that has no meaning.
    attention
        [key_pos] where a head looks from its position; None for other kinds.
    tokens
        [key_pos] the tokens of the stack that the node, or a head that reads another stack, looks at.
    note
        Why something is missing; empty where nothing is.
    """

    node: Node
    reading: NodeReading | None
    contribution: float | None
    attention: Float[np.ndarray, "key_pos"] | None
    tokens: tuple[str, ...]
    note: str

    @classmethod
    def of_graph(cls, graph: FlowGraph, node: Node) -> NodeDetails:
        """What a graph itself says of one of its nodes, without the model: its reading, if the graph was made with readings.

        Raises
        ------
        ArgumentError
            If the graph has no such node.
        """
        if node not in graph.nodes:
            raise ArgumentError(f"node={node} is not in this graph of {len(graph.nodes)} nodes; see graph.nodes")
        reading = graph.readings[graph.nodes.index(node)] if graph.readings else None
        unsaid = (
            "what it adds to the logit" if reading is not None else "what it says in vocabulary and adds to the logit"
        )
        note = f"{unsaid}; this is what the file says, without the model"
        return cls(node, reading, None, None, graph.info.tokens_of(node.stack), note)

    def __repr__(self) -> str:
        added = "" if self.contribution is None else f", adds {self.contribution:+.2f} logits"
        return f"NodeDetails({label(self.node)}{added})"

    def table(self) -> Table:
        """One row for each token that is said: ``what`` (promoted, suppressed, attention), ``position``, ``token``, ``value``, ``unit``."""
        rows: list[tuple[str, int | None, str, float, str]] = []
        if self.reading is not None:
            ends = (("promoted", self.reading.top), ("suppressed", self.reading.bottom))
            rows += [(what, None, token, logit, "logits") for what, entries in ends for token, _, logit in entries]
        if self.attention is not None:
            rows += [
                ("attention", at, token, float(part), "share")
                for at, (token, part) in enumerate(zip(self.tokens, self.attention, strict=True))
            ]
        names = ("what", "position", "token", "value", "unit")
        columns = {name: [row[n] for row in rows] for n, name in enumerate(names)}
        return Table(repr(self), columns, words=("what", "unit"), note=self.note)

    def chart(self) -> Table:
        """The table: what is said is words as much as numbers."""
        return self.table()
