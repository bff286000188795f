"""Circuits as graphs, from a list of edges and their scores, and the data of the constructed models."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

import flowgraph as fg
from flowgraph.interventions.edges import edge_network
from flowgraph.models.anatomy import Anatomy
from flowgraph.values.flow_graph import EDGE_KINDS
from tests.induction_circuits import repeated

_KINDS = {"q": "query", "k": "key", "v": "value", "mlp": "mlp_in", "logits": "unembed"}


def circuit_graph(edges: Sequence[fg.Edge], scores: Sequence[float] | np.ndarray | None = None) -> fg.FlowGraph:
    """A graph of these edges; by default the first is the strongest."""
    weights = np.array(range(len(edges), 0, -1) if scores is None else scores, dtype=float)
    nodes = tuple(dict.fromkeys(node for edge in edges for node in (edge.source, edge.target)))
    none = np.full(len(edges), -1)
    info = fg.GraphInfo(
        "circuit", "logits", "head", "constructed", (), (0, 3), 3, 0, len(edges), float(np.abs(weights).sum())
    )
    return fg.FlowGraph(
        nodes=nodes,
        source=np.array([nodes.index(edge.source) for edge in edges], dtype=int),
        target=np.array([nodes.index(edge.target) for edge in edges], dtype=int),
        kind=np.array([EDGE_KINDS.index(_KINDS[edge.into]) for edge in edges], dtype=int),
        layer=none,
        head=none,
        query_pos=none,
        key_pos=none,
        weight=weights,
        share=weights,
        structural=np.zeros(len(edges), bool),
        info=info,
    )


def every_edge(anatomy: Anatomy) -> list[fg.Edge]:
    network = edge_network(anatomy)
    return [
        fg.Edge(source, node, reader.into)
        for reader in network.readers
        for node in reader.nodes
        for source in reader.reads.nodes[: reader.before]
    ]


def induction_data(words: int, *, count: int = 8, seed: int = 0) -> list[fg.Example]:
    """The first sequence of the corrupted prompt is another one; the foil is what would follow there."""
    clean, target = repeated(words, count=count, seed=seed)
    generator = torch.Generator().manual_seed(seed + 1)
    examples = []
    for ids, answer in zip(clean, target, strict=True):
        other = ids.clone()
        # The same words at other places: what follows the last word is another one.
        while True:
            other[1:9] = ids[1:9][torch.randperm(8, generator=generator)]
            place = int((other[1:9] == ids[-1]).nonzero()[0, 0]) + 1
            if place < 8 and other[place + 1] != answer:
                break
        examples.append(fg.Example(tuple(ids.tolist()), tuple(other.tolist()), int(answer), int(other[place + 1])))
    return examples
