"""The semantic graph against the matrix product that it cannot do without, and against reading one vector at a time."""

from __future__ import annotations

from collections.abc import Iterator
from unittest import mock

import numpy as np
import torch
from torch import Tensor

import flowgraph
from flowgraph.semantic import stored
from flowgraph.values.flow_graph import UNITS

from .pairs import Base, Row, compared
from .subject import Setup, bare_product, prompt, states

N_TOKENS = 8
K = 5
CHUNK = 1000
"""Vectors in one product where there are thousands: nobody keeps a gigabyte of logits."""


def rows(setup: Setup) -> Iterator[Row]:
    """One layer in the middle of the model, and all layers, at the last position: everything read, then weights from the disk."""
    with mock.patch.object(stored, "WORTHWHILE", float("inf")):
        yield from _everything_read(setup)
    loaded = setup.loaded
    trace = flowgraph.trace(loaded, prompt(loaded, N_TOKENS))
    middle = trace.n_layers // 2
    flowgraph.semantic_graph(trace, layers=middle, k=K)

    def everything() -> None:
        with mock.patch.object(stored, "WORTHWHILE", float("inf")):
            flowgraph.semantic_graph(trace, layers=middle, k=K)

    yield from compared(
        "semantic_graph, one layer, its weights read before",
        lambda: flowgraph.semantic_graph(trace, layers=middle, k=K),
        [Base("the same, everything read", everything)],
        pairs=setup.pairs,
    )


def _everything_read(setup: Setup) -> Iterator[Row]:
    loaded = setup.loaded
    trace = flowgraph.trace(loaded, prompt(loaded, N_TOKENS))
    middle = trace.n_layers // 2
    nodes, edges = sizes(flowgraph.semantic_graph(trace, layers=middle))
    vectors, along_edges = states(loaded, nodes), states(loaded, edges)
    yield from compared(
        f"semantic_graph, one layer, N = {nodes:,}",
        lambda: flowgraph.semantic_graph(trace, layers=middle, k=K),
        [
            Base("matrix product", lambda: bare_product(loaded, vectors)),
            Base("one vector at a time", lambda: read_singly(loaded, vectors)),
            Base(
                "one vector at a time, as VISIT",
                lambda: (
                    tokens_singly(loaded, vectors),
                    status_singly(loaded, vectors),
                    entropies_singly(loaded, along_edges),
                ),
                note=f"{2 * nodes + edges:,} products: each node for its tokens and again for its target's rank, as the first "
                f"version does, and each of {edges:,} edges for the entropy that colours it",
            ),
        ],
        pairs=setup.pairs,
    )
    nodes, _ = sizes(flowgraph.semantic_graph(trace, max_nodes=100_000))
    many = states(loaded, nodes)
    yield from compared(
        f"semantic_graph, {trace.n_layers} layers, N = {nodes:,}",
        lambda: flowgraph.semantic_graph(trace, k=K, max_nodes=100_000),
        [Base("matrix product", lambda: product_in_parts(loaded, many))],
        pairs=min(setup.pairs, 3),
    )


def sizes(graph: flowgraph.FlowGraph) -> tuple[int, int]:
    """How many nodes were read, and along how many edges a part of a sum goes, whose entropy VISIT colours them by."""
    assert graph.unit is not None
    parts = int(np.count_nonzero(graph.unit == UNITS.index("contribution")))
    return sum(reading is not None for reading in graph.readings), parts


def product_in_parts(loaded: flowgraph.LoadedModel, vectors: Tensor) -> None:
    """The matrix product of many vectors, each part dropped."""
    for part in vectors.split(CHUNK):
        bare_product(loaded, part)


def read_singly(loaded: flowgraph.LoadedModel, vectors: Tensor) -> list[tuple[Tensor, Tensor, int, float]]:
    """Top and bottom tokens, rank and probability of a token: norm, head and softmax of each vector by itself."""
    found = []
    for vector in vectors:
        probabilities = _probabilities(loaded, vector)
        top, bottom = probabilities.topk(K), probabilities.topk(K, largest=False)
        rank = 1 + int((probabilities > probabilities[0]).sum())
        found.append((top.indices, bottom.indices, rank, float(probabilities[0])))
    return found


def tokens_singly(loaded: flowgraph.LoadedModel, vectors: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Top and bottom tokens of each vector by itself."""
    found = []
    for vector in vectors:
        probabilities = _probabilities(loaded, vector)
        found.append((probabilities.topk(K).indices, probabilities.topk(K, largest=False).indices))
    return found


def status_singly(loaded: flowgraph.LoadedModel, vectors: Tensor) -> list[tuple[int, float]]:
    """Rank and probability of a token for each vector by itself."""
    found = []
    for vector in vectors:
        probabilities = _probabilities(loaded, vector)
        found.append((1 + int((probabilities > probabilities[0]).sum()), float(probabilities[0])))
    return found


def entropies_singly(loaded: flowgraph.LoadedModel, vectors: Tensor) -> list[float]:
    """Entropy in nats of each vector by itself."""
    return [float(torch.special.entr(_probabilities(loaded, vector)).sum()) for vector in vectors]


def _probabilities(loaded: flowgraph.LoadedModel, vector: Tensor) -> Tensor:
    norm, head = loaded.anatomy.final_norm, loaded.model.get_output_embeddings()
    with torch.no_grad():
        probabilities: Tensor = head(vector if norm is None else norm.module(vector)).softmax(-1)
    return probabilities
