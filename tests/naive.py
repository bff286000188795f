"""Slow twins: the definitions written down as they are said, for graphs of a handful of nodes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from flowgraph.graph import FlowGraph
from flowgraph.nodes import Node
from flowgraph.recorded import Trace


def strengths(graph: FlowGraph) -> list[float]:
    """|share| of each edge, 0 on structural ones."""
    return [0.0 if structural else abs(float(s)) for s, structural in zip(graph.share, graph.structural, strict=True)]


def paths_between(graph: FlowGraph, first: int, last: int) -> Iterator[tuple[int, ...]]:
    """Every path from one node to another as a tuple of edges; the empty one where they are the same."""
    if first == last:
        yield ()
    for e in range(len(graph)):
        if graph.source[e] == first:
            for rest in paths_between(graph, int(graph.target[e]), last):
                yield (e, *rest)


def product(graph: FlowGraph, edges: Sequence[int]) -> float:
    """Product of |share|, in the order of the path."""
    share = strengths(graph)
    result = 1.0
    for e in edges:
        result *= share[e]
    return result


def connected_flow(graph: FlowGraph, start: Node) -> list[float]:
    """Sum over all paths from each edge to the start, the edge included, of the product of |share|."""
    end = graph.nodes.index(start)
    return [
        sum(product(graph, (e, *rest)) for rest in paths_between(graph, int(graph.target[e]), end))
        for e in range(len(graph))
    ]


def critical_levels(graph: FlowGraph, start: Node, flow: Sequence[float]) -> list[float]:
    """Largest, over all routes from each edge to the start, of the smallest flow on the route."""
    end = graph.nodes.index(start)
    return [
        max(
            (min(flow[i] for i in (e, *rest)) for rest in paths_between(graph, int(graph.target[e]), end)),
            default=0.0,
        )
        for e in range(len(graph))
    ]


def strongest_paths(graph: FlowGraph, source: Node | None, target: Node) -> list[tuple[float, tuple[int, ...]]]:
    """All paths with a strength above 0, the strongest first."""
    end = graph.nodes.index(target)
    entered = {int(graph.target[e]) for e in range(len(graph)) if not graph.structural[e]}
    firsts = [n for n in range(len(graph.nodes)) if n not in entered] if source is None else [graph.nodes.index(source)]
    paths = [path for first in firsts for path in paths_between(graph, first, end) if path]
    scored = [(product(graph, path), path) for path in paths]
    return sorted((entry for entry in scored if entry[0] > 0), key=lambda entry: -entry[0])


def is_connected(graph: FlowGraph, edges: Sequence[int], start: Node) -> bool:
    """Whether every edge has a way to the start over these edges alone."""
    reached = {graph.nodes.index(start)}
    grew = True
    while grew:
        more = {int(graph.source[e]) for e in edges if int(graph.target[e]) in reached} - reached
        reached |= more
        grew = bool(more)
    return all(int(graph.target[e]) in reached for e in edges)


def reading(logits: torch.Tensor, target: int, k: int) -> dict[str, list]:
    """What :func:`flowgraph.read` says of rows of logits, in float64, by sorting and summing everything."""
    rows = logits.double()
    log_probabilities = rows - rows.exp().sum(-1, keepdim=True).log()
    order = rows.sort(dim=-1, descending=True, stable=True)
    reverse = rows.sort(dim=-1, stable=True)
    probabilities = log_probabilities.exp()
    return {
        "top_token_ids": order.indices[:, :k].tolist(),
        "top_logits": order.values[:, :k].tolist(),
        "top_probabilities": probabilities.gather(1, order.indices[:, :k]).tolist(),
        "bottom_token_ids": reverse.indices[:, :k].tolist(),
        "bottom_logits": reverse.values[:, :k].tolist(),
        "target_logit": rows[:, target].tolist(),
        "target_log_probability": log_probabilities[:, target].tolist(),
        "target_probability": probabilities[:, target].tolist(),
        "target_rank": [1 + int((row > row[target]).sum()) for row in rows],
        "entropy": (-(probabilities * log_probabilities).sum(-1)).tolist(),
    }


def attention_edges(trace: Trace, level: str) -> dict[tuple[str, str, str], tuple[float, float] | None]:
    """(source, target, kind) → (weight, share) of the ``attention`` method, loop by loop from its table."""
    edges: dict[tuple[str, str, str], tuple[float, float] | None] = {}
    layers, heads, count, _ = trace.pattern.shape
    parallel = trace.wiring == "parallel"
    for layer in range(layers):
        for t in range(count):
            before = f"L{layer - 1}.resid_post@{t}" if layer else f"embed@{t}"
            entry = f"L{layer}.resid_post@{t}" if parallel else f"L{layer}.resid_mid@{t}"
            edges[before, entry, "residual"] = (1.0, 0.5)
            edges[before if parallel else entry, f"L{layer}.mlp@{t}", "mlp_in"] = None
            edges[f"L{layer}.mlp@{t}", f"L{layer}.resid_post@{t}", "mlp"] = None
            if not parallel:
                edges[entry, f"L{layer}.resid_post@{t}", "residual"] = (1.0, 1.0)
            for s in range(count):
                source = f"L{layer - 1}.resid_post@{s}" if layer else f"embed@{s}"
                a = [float(trace.pattern[layer, h, t, s]) for h in range(heads)]
                if level == "token" and any(a):
                    edges[source, entry, "attention"] = (sum(a) / heads, sum(a) / heads / 2)
                if level == "head":
                    for h in range(heads):
                        if a[h]:
                            edges[source, f"L{layer}H{h}@{t}", "attention"] = (a[h], a[h])
            if level == "head":
                for h in range(heads):
                    edges[f"L{layer}H{h}@{t}", entry, "head"] = (1 / heads, 0.5 / heads)
    if trace.target is not None:
        last = f"L{layers - 1}.resid_post@{trace.position}"
        edges[last, f"logit[{trace.target_token}]", "unembed"] = (1.0, 1.0)
    return edges


def kept_edges(graph: FlowGraph, threshold: float, mass: float | None, top_k: int | None) -> list[int]:
    """Indices that remain after threshold, mass per target and top k, in this order, one edge after another."""
    if not threshold and mass is None and top_k is None:
        return list(range(len(graph)))
    size = strengths(graph)
    kept = [e for e in range(len(graph)) if not graph.structural[e] and size[e] >= threshold]
    if mass is not None:
        chosen = []
        for target in sorted({int(graph.target[e]) for e in kept}):
            ranked = sorted((e for e in kept if graph.target[e] == target), key=lambda e: -size[e])
            whole, reached = sum(size[e] for e in ranked), 0.0
            for e in ranked:
                if not size[e] or reached >= (mass - 1e-10) * whole:
                    break
                chosen.append(e)
                reached += size[e]
        kept = sorted(chosen)
    return kept if top_k is None else sorted(sorted(kept, key=lambda e: -size[e])[:top_k])
