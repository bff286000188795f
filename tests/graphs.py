"""Flow graphs made without a model: every kind of graph with seeded numbers, and hypothesis strategies."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

from flowgraph.values.flow_graph import EDGE_KINDS, FlowGraph
from flowgraph.values.graph_info import GraphInfo
from flowgraph.values.node import NODE_KINDS, WITH_HEAD, WITH_INDEX, WITHOUT_LAYER, Node
from flowgraph.values.reading import NodeReading

# How long an example takes says nothing about whether it is right.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

PLAIN_TOKENS = ("The", " capital", " of", " Japan", " is", " the", " city", " of")
HOSTILE_TOKENS = (
    ' "quoted"',
    "line\nfeed",
    "carriage\rreturn",
    "\x00\x0b\x1f",
    "<script>alert('&')</script>",
    " 🗼",
    "שלום",
    "\u202ereversed",
    "\u2028",
    "\ufffe",
    "<F0><9F>",
    "tab\t",
    " ",
    "",
)


@dataclass(frozen=True)
class Edge:
    """One edge of a graph to build; ``share`` None makes it structural."""

    source: Node
    target: Node
    share: float | None
    kind: str = "attention"
    layer: int | None = None
    head: int | None = None
    query_pos: int | None = None
    key_pos: int | None = None


def graph_of(edges: Sequence[Edge], nodes: Sequence[Node] = (), **changes: Any) -> FlowGraph:
    """Build a graph of these edges; ``nodes`` first, in this order, ``changes`` to info or to the graph."""
    everything = tuple(dict.fromkeys([*nodes, *(node for edge in edges for node in (edge.source, edge.target))]))
    number = {node: n for n, node in enumerate(everything)}
    shares = np.array([edge.share or 0.0 for edge in edges], dtype=np.float64)
    of_graph = {name: changes.pop(name) for name in ("readings", "undefined", "roles") if name in changes}
    facts: dict[str, Any] = {
        "method": "norms",
        "unit": "norm",
        "level": "token",
        "model": "synthetic",
        "tokens": PLAIN_TOKENS,
        "layers": (0, 3),
        "total_layers": 3,
        "position": len(PLAIN_TOKENS) - 1,
        "total_edges": sum(edge.share is not None for edge in edges),
        "total_share": float(np.abs(shares).sum()),
    }
    return FlowGraph(
        nodes=everything,
        source=np.array([number[edge.source] for edge in edges], dtype=np.int64),
        target=np.array([number[edge.target] for edge in edges], dtype=np.int64),
        kind=np.array([EDGE_KINDS.index(edge.kind) for edge in edges], dtype=np.int64),
        **{name: _column(edges, name) for name in ("layer", "head", "query_pos", "key_pos")},
        weight=shares * 3.7,
        share=shares,
        structural=np.array([edge.share is None for edge in edges], dtype=bool),
        info=GraphInfo(**(facts | changes)),
        **of_graph,
    )


def _column(edges: Sequence[Edge], name: str) -> np.ndarray:
    return np.array([-1 if getattr(edge, name) is None else getattr(edge, name) for edge in edges], dtype=np.int64)


def token_graph(
    seed: int = 0,
    *,
    tokens: Sequence[str] = PLAIN_TOKENS,
    layers: int = 3,
    heads: int = 0,
    parallel: bool = False,
    structural_mlp: bool = False,
    read: bool = True,
    **info: Any,
) -> FlowGraph:
    """Build the whole graph of a causal model, with the shares into each node summing to 1.

    Token level with ``heads=0``, else head level. ``structural_mlp`` gives the MLP no numbers, as the method
    ``attention`` does. The logit is of the last position.
    """
    rng = np.random.default_rng(seed)
    length = len(tokens)
    edges: list[Edge] = []
    states = [Node("embed", position=p) for p in range(length)]
    for layer in range(layers):
        for step in ("post",) if parallel else ("mid", "post"):
            after = [Node(f"resid_{step}", layer=layer, position=p) for p in range(length)]
            for p in range(length):
                attends = parallel or step == "mid"
                into = list(_attention(rng, states, after[p], layer, p, heads)) if attends else []
                if step == "post":
                    into += _mlp(states[p], after[p], layer, p)
                into.append(Edge(states[p], after[p], 1.0, "residual", layer, None, p, p))
                edges += _normalised(rng, into, structural_mlp)
            states = after
    logit = Node("logit", index=17, token=" Tokyo")
    edges.append(Edge(states[-1], logit, 1.0, "unembed", query_pos=length - 1, key_pos=length - 1))
    graph = graph_of(
        edges,
        tokens=tuple(tokens),
        layers=(0, layers),
        total_layers=layers,
        position=length - 1,
        level="head" if heads else "token",
        target=17,
        target_token=" Tokyo",
        target_probability=float(rng.uniform(0.1, 0.9)),
        **info,
    )
    return graph.with_readings(readings_for(graph, seed)) if read else graph


def logits_graph(seed: int = 0, *, tokens: Sequence[str] = PLAIN_TOKENS, layers: int = 2, heads: int = 2) -> FlowGraph:
    """Build a signed graph: what each part adds to the logit, and what each source adds to each head."""
    rng = np.random.default_rng(seed)
    last = len(tokens) - 1
    logit = Node("logit", index=17, token=" Tokyo")
    embed = [Node("embed", position=p) for p in range(len(tokens))]
    edges = []
    into = [
        Edge(embed[last], logit, 1.0, "embed", None, None, last, last),
        Edge(Node("unembed_bias"), logit, 1.0, "bias"),
    ]
    for layer in range(layers):
        for h in range(heads):
            head = Node("head", layer=layer, head=h, position=last)
            reads = [Edge(embed[s], head, 1.0, "attention", layer, h, last, s) for s in range(len(tokens))]
            edges += _normalised(rng, reads, False, signed=True)
            into.append(Edge(head, logit, 1.0, "head", layer, h, last, last))
        into.append(Edge(Node("mlp", layer=layer, position=last), logit, 1.0, "mlp", layer, None, last, last))
    edges += _normalised(rng, into, False, signed=True)
    facts = {"method": "logits", "unit": "logits", "level": "head", "target": 17, "target_token": " Tokyo"}
    graph = graph_of(edges, tokens=tuple(tokens), position=last, layers=(0, layers), total_layers=layers, **facts)
    return graph.with_readings(readings_for(graph, seed))


def _attention(
    rng: np.random.Generator, states: Sequence[Node], after: Node, layer: int, p: int, heads: int
) -> Iterator[Edge]:
    if not heads:
        for s in range(p + 1):
            yield Edge(states[s], after, 1.0, "attention", layer, None, p, s)
    for h in range(heads):
        head = Node("head", layer=layer, head=h, position=p)
        yield Edge(head, after, 1.0, "head", layer, h, p, p)
        shares = rng.dirichlet(np.ones(p + 1))
        for s in range(p + 1):
            yield Edge(states[s], head, float(shares[s]), "attention", layer, h, p, s)


def _mlp(before: Node, after: Node, layer: int, p: int) -> list[Edge]:
    mlp = Node("mlp", layer=layer, position=p)
    return [
        Edge(before, mlp, 1.0, "mlp_in", layer, None, p, p),
        Edge(mlp, after, 1.0, "mlp", layer, None, p, p),
    ]


def _normalised(
    rng: np.random.Generator, edges: Sequence[Edge], structural_mlp: bool, signed: bool = False
) -> Iterator[Edge]:
    """Give the edges into one state random shares of it; those into heads and MLPs on the way keep theirs."""
    state = edges[-1].target
    sums = [edge for edge in edges if edge.target == state and not (structural_mlp and edge.kind == "mlp")]
    shares = dict(zip(map(id, sums), rng.dirichlet(np.ones(len(sums))).tolist(), strict=True))
    for edge in edges:
        share: float | None = shares.get(id(edge), edge.share)
        if structural_mlp and edge.kind in ("mlp", "mlp_in"):
            share = None
        elif signed and share is not None and rng.random() < 0.4:
            share = -share
        yield Edge(edge.source, edge.target, share, edge.kind, edge.layer, edge.head, edge.query_pos, edge.key_pos)


def readings_for(graph: FlowGraph, seed: int = 0, k: int = 3) -> tuple[NodeReading | None, ...]:
    """Make up a reading of every node; MLPs have none, and biases have a norm only."""
    rng = np.random.default_rng(seed + 1)
    words = (*HOSTILE_TOKENS, *PLAIN_TOKENS)

    def reading(node: Node) -> NodeReading | None:
        norm = float(rng.uniform(0.5, 90))
        if node.kind == "mlp":
            return None
        if node.kind.endswith("bias"):
            return NodeReading(norm=norm)
        logits = np.sort(rng.normal(0, 5, 2 * k))[::-1].tolist()
        tokens = [words[i] for i in rng.integers(0, len(words), 2 * k)]
        entries = [(token, math.exp(logit - 20), logit) for token, logit in zip(tokens, logits, strict=True)]
        return NodeReading(
            norm=norm,
            top=tuple(entries[:k]),
            bottom=tuple(entries[: -k - 1 : -1]),
            target_logit=logits[1],
            target_probability=entries[1][1],
            target_log_probability=logits[1] - 20,
            target_rank=int(rng.integers(1, 50_000)),
            entropy=float(rng.uniform(0, 11)),
        )

    return tuple(reading(node) for node in graph.nodes)


@st.composite
def dags(draw: st.DrawFn, *, max_nodes: int = 6, max_edges: int = 11, normalised: bool = False) -> FlowGraph:
    """Draw a small acyclic graph: parallel and structural edges, zero and negative shares, any order.

    ``normalised`` makes the shares into each node positive with a sum of 1, and no edge structural.
    """
    count = draw(st.integers(1, max_nodes))
    nodes = [Node("resid_post", layer=n) for n in range(count)]
    pairs = [(i, j) for j in range(count) for i in range(j)]
    ends = draw(st.lists(st.sampled_from(pairs), max_size=max_edges)) if pairs else []
    # Few different values, so that ties are common.
    positive = st.sampled_from([0.25, 0.5, 1.0, 1.0, 1.0]) | st.floats(1e-6, 1.0)
    anything = positive | st.sampled_from([-0.25, -0.5, -1.0, 0.5, 1.0, 0.0, None])
    shares = [draw(positive if normalised else anything) for _ in ends]
    if normalised:
        into = [math.fsum(s for (_, other), s in zip(ends, shares, strict=True) if other == j) for _, j in ends]
        shares = [share / total for share, total in zip(shares, into, strict=True)]
    edges = [Edge(nodes[i], nodes[j], share) for (i, j), share in zip(ends, shares, strict=True)]
    return graph_of(draw(st.permutations(edges)), nodes=draw(st.permutations(nodes)))


@st.composite
def nodes(draw: st.DrawFn) -> Node:
    """Draw a node of any kind, with every field that its kind needs and a position or none."""
    small = st.integers(0, 12)
    kind = draw(st.sampled_from(NODE_KINDS))
    return Node(
        kind,
        layer=None if kind in WITHOUT_LAYER else draw(small),
        head=draw(small) if kind in WITH_HEAD else None,
        position=None if kind == "logit" else draw(st.none() | small),
        index=draw(small) if kind in WITH_INDEX else None,
    )


def same(one: FlowGraph, other: FlowGraph) -> bool:
    """Whether two graphs hold the same nodes, bit-identical columns, readings, roles and origin."""
    columns = (
        "source",
        "target",
        "kind",
        "layer",
        "head",
        "query_pos",
        "key_pos",
        "weight",
        "share",
        "structural",
    )
    return (
        one.nodes == other.nodes
        and [node.token for node in one.nodes] == [node.token for node in other.nodes]
        and all(np.array_equal(getattr(one, name), getattr(other, name)) for name in columns)
        and one.weight.astype(np.float64).tobytes() == other.weight.astype(np.float64).tobytes()
        and one.share.astype(np.float64).tobytes() == other.share.astype(np.float64).tobytes()
        and one.info == other.info
        and one.readings == other.readings
        and one.roles == other.roles
        and one.notes == other.notes
        and one.undefined == other.undefined
        and [one.unit_of(e) for e in range(len(one))] == [other.unit_of(e) for e in range(len(other))]
    )
