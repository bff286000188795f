"""Attention flow of every pair of tokens against four programs that solve one pair at a time.

Each program gets the whole graph once: building it is not counted, but OR-tools and SciPy build their own from it for every pair. It is timed on some of the pairs, drawn with a fixed seed, and the time extrapolated to all of them, whereas ours is
that of the whole matrix with all preparation. Two of them count in integers: capacities are multiplied by 2^50 for OR-tools,
and by 2^30 for SciPy, whose integers have 32 bits; what that rounds shows in the differences.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

import flowgraph
from flowgraph.algorithms.attention import layer_matrices

from .pairs import Base, Row, compared
from .subject import DEFAULT, SEED, Setup, attention_of_text

NEEDS = ("ortools", "igraph", "scipy")

Solver = Callable[[int, int], float]
"""Maximum flow from a token above the last block to one below the first."""


@dataclass(frozen=True)
class Regime:
    """One kind of attention, [layer, query_pos, key_pos]."""

    name: str
    attention: np.ndarray


@dataclass(frozen=True)
class Edges:
    """All edges with capacity, from node tail to node head; node k · tokens + i is token i after k blocks."""

    layers: int
    tokens: int
    tail: np.ndarray
    head: np.ndarray
    capacity: np.ndarray

    @property
    def nodes(self) -> int:
        return (self.layers + 1) * self.tokens

    def source(self, token: int) -> int:
        """Node of a token above the last block; the node of one below the first is its position."""
        return self.layers * self.tokens + token

    def scaled(self, scale: int) -> Edges:
        """Capacities in whole multiples of 1 / scale, without those that are none."""
        capacity = np.rint(self.capacity * scale).astype(np.int64)
        kept = capacity > 0
        return Edges(self.layers, self.tokens, self.tail[kept], self.head[kept], capacity[kept])


def edges_of(attention: np.ndarray) -> Edges:
    """The layered graph of attention with the residual stream, edge by edge."""
    blocks = np.stack(layer_matrices(attention))
    layer, query, key = np.nonzero(blocks)
    tokens = blocks.shape[1]
    return Edges(len(blocks), tokens, (layer + 1) * tokens + query, layer * tokens + key, blocks[layer, query, key])


def or_tools(edges: Edges) -> Solver:
    """Push-relabel on 64-bit integers; all pairs on one graph."""
    from ortools.graph.python.max_flow import SimpleMaxFlow

    scale = 2**50
    whole = edges.scaled(scale)
    graph = SimpleMaxFlow()
    graph.add_arcs_with_capacity(whole.tail, whole.head, whole.capacity)

    def solve(source: int, target: int) -> float:
        status = graph.solve(edges.source(source), target)
        if status != graph.OPTIMAL:
            raise RuntimeError(f"OR-tools ends with {status} for the pair ({source}, {target})")
        return graph.optimal_flow() / scale

    return solve


def igraph(edges: Edges) -> Solver:
    """Push-relabel on floating-point numbers."""
    import igraph

    graph = igraph.Graph(edges.nodes, np.column_stack([edges.tail, edges.head]).tolist(), directed=True)
    capacity = edges.capacity.tolist()
    return lambda source, target: float(graph.maxflow_value(edges.source(source), target, capacity))


def scipy(edges: Edges) -> Solver:
    """Dinic on 32-bit integers."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import maximum_flow

    scale = 2**30
    whole = edges.scaled(scale)
    graph = csr_array((whole.capacity.astype(np.int32), (whole.tail, whole.head)), shape=(edges.nodes, edges.nodes))
    return lambda source, target: maximum_flow(graph, edges.source(source), target).flow_value / scale


def networkx(edges: Edges) -> Solver:
    """Push-relabel on floating-point numbers, in Python."""
    import networkx as nx

    graph = nx.DiGraph()
    graph.add_nodes_from(range(edges.nodes))
    columns = zip(edges.tail.tolist(), edges.head.tolist(), edges.capacity.tolist(), strict=True)
    graph.add_weighted_edges_from(columns, weight="capacity")
    residual = nx.algorithms.flow.build_residual_network(graph, "capacity")

    def solve(source: int, target: int) -> float:
        found = nx.algorithms.flow.preflow_push(graph, edges.source(source), target, residual=residual, value_only=True)
        return float(found.graph["flow_value"])

    return solve


PEERS: dict[str, tuple[Callable[[Edges], Solver], int]] = {
    "OR-tools": (or_tools, 200),
    "igraph": (igraph, 200),
    "SciPy": (scipy, 200),
    "networkx": (networkx, 3),
}
"""Program → how it solves, and the most pairs that it is timed on."""

BUDGET = 0.25
"""Seconds that a program may take for its sample, unless three pairs (of networkx one) take longer."""


def rows(setup: Setup) -> Iterator[Row]:
    """Every program in every regime."""
    flowgraph.attention_flow(made_up(2, 4, False))  # whatever has to be compiled or loaded is, from here on
    for regime in regimes(setup):
        yield from against_peers(regime, setup.pairs)


def regimes(setup: Setup) -> Iterator[Regime]:
    """Real attention at several lengths, an encoder's where the model is the default one, and made-up attention."""
    for n_tokens in setup.lengths((16, 32) if setup.small else (16, 32, 64, 125)):
        yield Regime(f"{setup.title} T = {n_tokens}", attention_of_text(setup.loaded, n_tokens))
    if setup.name == DEFAULT:
        encoder = flowgraph.load_model("minilm")
        for n_tokens in (32, 64, 96):
            yield Regime(f"minilm T = {n_tokens}", attention_of_text(encoder, n_tokens))
    else:
        print(f"flow: the rows of the encoder are left out with --model {setup.name}", file=sys.stderr)
    layers, tokens = (4, 12) if setup.small else (12, 128)
    for causal in (True, False):
        what = f"{'causal' if causal else 'bidirectional'} L = {layers} T = {tokens}"
        for sink in (0.1, 0.5, 0.8, 0.95):
            yield Regime(f"{what}, sink {sink:g}", made_up(layers, tokens, causal, sink=sink))
        yield Regime(f"{what}, one peaky head", made_up(layers, tokens, causal, sharpness=8.0))


def made_up(layers: int, tokens: int, causal: bool, *, sink: float = 0.0, sharpness: float = 1.0) -> np.ndarray:
    """[layer, query_pos, key_pos] softmax of normal scores times a sharpness; a part ``sink`` of each row goes to token 0."""
    scores = sharpness * np.random.default_rng(SEED).normal(size=(layers, tokens, tokens))
    if causal:
        scores[:, ~np.tri(tokens, dtype=bool)] = -np.inf
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    made: np.ndarray = (1 - sink) * weights / weights.sum(-1, keepdims=True) + sink * np.eye(tokens)[0]
    return made


def against_peers(regime: Regime, pairs: int) -> list[Row]:
    """Rows of one regime: ours and all programs in turn."""
    attention = regime.attention
    begun = time.perf_counter()
    flow = flowgraph.attention_flow(attention)
    repeats = min(pairs, 7 if time.perf_counter() - begun < 0.5 else 3)
    edges, everything = edges_of(attention), _pairs_in_random_order(attention)
    bases = [_base(name, build(edges), most, everything, flow) for name, (build, most) in PEERS.items()]
    return compared(f"attention_flow, {regime.name}", lambda: flowgraph.attention_flow(attention), bases, pairs=repeats)


def _pairs_in_random_order(attention: np.ndarray) -> np.ndarray:
    """[n, 2] every source and target that a flow could join."""
    tokens = attention.shape[1]
    causal = not np.triu(attention, 1).any()
    possible = np.argwhere(np.tri(tokens) if causal else np.ones((tokens, tokens)))
    return np.random.default_rng(SEED).permutation(possible)


def _base(name: str, solve: Solver, most: int, everything: np.ndarray, flow: np.ndarray) -> Base:
    """A program on as many of the pairs as the budget allows; its answers are compared with ours."""
    begun = time.perf_counter()
    solve(*everything[0].tolist())
    affordable = int(BUDGET / (time.perf_counter() - begun))
    sample = everything[: min(most, max(affordable, 1 if most < 10 else 3))].tolist()
    difference = max(abs(solve(source, target) - flow[source, target]) for source, target in sample)
    return Base(
        name,
        lambda: [solve(source, target) for source, target in sample],
        len(everything) / len(sample),
        f"{len(sample)} of {len(everything):,} pairs, largest difference {difference:.0e}",
    )
