"""Slow twins: the definitions written down as they are said, for graphs of a handful of nodes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from flowgraph.values.flow_graph import FlowGraph
from flowgraph.values.node import Node
from flowgraph.values.trace import Trace


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


def step_parts(trace: Trace, row: int) -> list[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """(whole, part by name) of each sum in one layer, dense and in float64: attention heads as [H, T, S, d]."""
    anatomy = trace.model.anatomy
    layer = trace.layers[0] + row
    block = anatomy.blocks[layer]
    pre, post, mlp = (t[row].double().numpy() for t in (trace.resid_pre, trace.resid_post, trace.mlp_out))
    u = torch.einsum("hsk,hkd->hsd", anatomy.per_query_head(trace.v[row]).double(), anatomy.W_O(layer).double())
    heads = torch.einsum("hts,hsd->htsd", trace.pattern[row].double(), u).numpy()

    def through(norm, name: str, part: np.ndarray, axes: int = 0) -> np.ndarray:
        scale = trace.norm_scales[name][row].double().numpy()
        centred = part - part.mean(-1, keepdims=True) if norm.kind == "layer" else part
        return centred * norm.gain(part.shape[-1]).double().numpy() / scale.reshape(-1, *[1] * (axes + 1))

    if trace.wiring == "parallel":
        return [(post, {"heads": heads, "residual": pre, "mlp": mlp})]
    mid = trace.resid_mid[row].double().numpy()
    if block.attention_post_norm is not None:
        heads = through(block.attention_post_norm, "attention_post", heads, axes=1)
    residual, second = pre, {"mlp": mlp, "residual": mid}
    if trace.wiring == "post_norm":
        heads = through(block.attention_norm, "attention", heads, axes=1)
        residual = through(block.attention_norm, "attention", pre)
        second = {name: through(block.mlp_norm, "mlp", part) for name, part in second.items()}
    return [(mid, {"heads": heads, "residual": residual}), (post, second)]


def proximity_step(whole: np.ndarray, parts: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Shares of the parts of one sum by the published formula, with the stated substitute where it gives none."""
    sums: dict[str, np.ndarray] = {}
    lengths: dict[str, np.ndarray] = {}
    for name, part in parts.items():
        y = whole[None, :, None, :] if name == "heads" else whole
        sums[name] = np.maximum(0, np.abs(y).sum(-1) - np.abs(y - part).sum(-1))
        lengths[name] = np.abs(part).sum(-1)
    for t in range(len(whole)):
        at = {name: (slice(None), t) if name == "heads" else t for name in parts}
        # Rounding of two large sums must not count as a share.
        if sum(float(np.sum(sums[name][at[name]])) for name in parts) <= 1e-9 * np.abs(whole[t]).sum():
            for name in parts:
                sums[name][at[name]] = lengths[name][at[name]]
    total = sum(value.sum((0, 2)) if name == "heads" else value for name, value in sums.items())
    return {name: value / (total[None, :, None] if name == "heads" else total) for name, value in sums.items()}
