"""A semantic graph in the making: nodes with their vectors, and edges, each added once."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..lenses.logit_lens import read
from ..values.flow_graph import EDGE_KINDS, UNITS, EdgeKind, FlowGraph, Unit
from ..values.graph_info import GraphInfo
from ..values.node import Node
from ..values.reading import NodeReading
from ..values.trace import Trace
from .stored import read_weights


@dataclass
class Sketch:
    """Nodes and edges in the order in which they are added.

    Attributes
    ----------
    vectors
        Node → its vector [d_model]; nodes without one (logits) are missing.
    facts
        Node → further entries of its reading: ``activation``, ``contribution``, ``coverage``, ``left_out``.
    lengths
        Nodes whose vector lies where no head reads, with its length.
    weights
        Nodes whose vector is an unchanged piece of a weight matrix, the same for every prompt.
    edges
        One row for each edge, as columns of :class:`flowgraph.FlowGraph`; ends are nodes.
    """

    vectors: dict[Node, Tensor] = field(default_factory=dict)
    facts: dict[Node, dict[str, float | int]] = field(default_factory=dict)
    lengths: dict[Node, float] = field(default_factory=dict)
    weights: set[Node] = field(default_factory=set)
    edges: list[tuple[Node, Node, str, str, float, dict[str, int]]] = field(default_factory=list)

    def node(self, node: Node, vector: Tensor | None = None, **facts: float | int | None) -> Node:
        """Add a node, or more facts about it."""
        known = self.facts.setdefault(node, {})
        known |= {name: value for name, value in facts.items() if value is not None}
        if vector is not None:
            self.vectors[node] = vector
        return node

    def edge(self, source: Node, target: Node, kind: EdgeKind, unit: Unit, weight: Any, **place: int) -> None:
        """Add an edge; ``place`` are its layer, head, query_pos and key_pos where it has such."""
        self.edges.append((source, target, kind, unit, float(weight), place))

    def graph(self, info: GraphInfo, readings: tuple[NodeReading | None, ...]) -> FlowGraph:
        """The flow graph; shares are parts of all edges into the same node in the same unit."""
        nodes = tuple(self.facts)
        number = {node: n for n, node in enumerate(nodes)}
        source = np.array([number[edge[0]] for edge in self.edges], dtype=np.int64)
        target = np.array([number[edge[1]] for edge in self.edges], dtype=np.int64)
        kind = np.array([EDGE_KINDS.index(edge[2]) for edge in self.edges], dtype=np.int64)
        unit = np.array([UNITS.index(edge[3]) for edge in self.edges], dtype=np.int64)
        weight = np.array([edge[4] for edge in self.edges], dtype=np.float64)
        # Edges of different units into one node are not comparable, so each unit has its own whole.
        share = _shares(target * len(UNITS) + unit, weight)
        places: dict[str, Any] = {
            name: np.array([edge[5].get(name, -1) for edge in self.edges], dtype=np.int64)
            for name in ("layer", "head", "query_pos", "key_pos")
        }
        info = replace(info, total_edges=len(weight), total_share=float(np.abs(share).sum()))
        return FlowGraph(
            nodes=nodes, source=source, target=target, kind=kind, weight=weight, share=share,
            structural=np.zeros(len(weight), dtype=bool), info=info, readings=readings, unit=unit, **places,
        )  # fmt: skip

    def read(self, trace: Trace, k: int) -> tuple[NodeReading | None, ...]:
        """Readings of all nodes: weights from the disk if known, others from one projection; without a head only lengths."""
        k = min(k, trace.model.anatomy.d_vocab)
        fixed = [node for node in self.vectors if node in self.weights]
        moving = [node for node in self.vectors if node not in self.weights]
        # All moving vectors in one product: the unembedding is the largest matrix, and is read once.
        if trace.model.anatomy.has_head:
            by_node = dict(zip(fixed, read_weights(trace, self._stacked(fixed, trace), k), strict=True))
            aim = {"target": trace.target, "foil": trace.foil}
            by_node |= zip(moving, read(trace, self._stacked(moving, trace), k=k, **aim), strict=True)
        else:
            by_node = {node: NodeReading(norm=float(vector.norm())) for node, vector in self.vectors.items()}
        by_node |= {node: NodeReading(norm=length) for node, length in self.lengths.items()}
        return tuple(
            replace(by_node[node], **facts) if node in by_node else None  # type: ignore[arg-type]
            for node, facts in self.facts.items()
        )

    def _stacked(self, nodes: list[Node], trace: Trace) -> Tensor:
        """[N, d_model] vectors of some nodes."""
        if not nodes:
            return torch.empty(0, trace.model.anatomy.d_model, device="cpu")
        return torch.stack([self.vectors[node] for node in nodes])


def _shares(group: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Signed parts of Σ|weight| within each group."""
    _, group = np.unique(group, return_inverse=True)
    whole = np.bincount(group, weights=np.abs(weight))[group] if len(weight) else weight
    share: np.ndarray = np.divide(weight, whole, out=np.zeros_like(weight), where=whole > 0)
    return share
