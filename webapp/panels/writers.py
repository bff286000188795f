"""What wrote most of the answer, and whether the picture shows it: ``writers(bars, graph, …)`` is what the page scripts are told.

The edges of a picture are those that a method finds strong, which need not be those that add most to the logit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from flowgraph import FlowGraph, Node, node_key
from flowgraph.render import drawing, visible

from ..present.figures import signed
from ..recipe import Recipe
from ..server.run import Run
from .bars import Bars

MOST = 3
"""Parts of the logit that a picture is held against."""
_MEASURES = {"attention": "attention", "norms": "lengths", "proximity": "nearness", "ff": "lengths"}
"""Method → what it measures, where that is not logits."""


_WITHOUT_MLPS = {"attention": "attention gives MLPs no number", "ff": "ff counts an MLP with the attention before it"}
"""Method → why its MLPs have no edges of their own."""


@dataclass(frozen=True)
class Writer:
    """A part of the logit: how it is written, its node, and what it adds in logits."""

    name: str
    node: Node
    value: float


def writers(bars: Bars, run: Run, recipe: Recipe, graph: FlowGraph) -> dict[str, Any]:
    """The largest parts of a logit, each with the edges of the picture that show it.

    Parameters
    ----------
    bars
        The logit as a sum.
    run
        The pass.
    recipe
        What the picture was asked for.
    graph
        What it shows with its slider at the end.

    Returns
    -------
    ``about`` says what all parts add up to. Of each of ``parts``: ``name``, ``adds``, ``key`` of its node, ``edges`` as the
    picture numbers them, and ``why`` it has none; that is empty where it has some.
    """
    rank = np.empty(len(graph), dtype=np.int64)
    rank[drawing(graph).order] = np.arange(len(graph))
    aim = visible(bars.target_token)
    if bars.foil_token is not None:
        aim = f"{aim} minus {visible(bars.foil_token)}"
    parts = []
    for one in _largest(bars, run, graph):
        edges = _edges(graph, one.node)
        parts.append(
            {
                "name": one.name, "adds": signed(one.value), "key": node_key(one.node),
                "edges": sorted(int(rank[e]) for e in edges), "why": "" if edges else _why(graph, one.node, recipe),
            }
        )  # fmt: skip
    return {"about": f"of {signed(bars.total)} logits for {aim}", "parts": parts}


def _largest(bars: Bars, run: Run, graph: FlowGraph) -> Sequence[Writer]:
    """Heads one by one where the picture has them so, else the attention of a layer as one; what reads the encoder; MLPs; the embedding."""
    at, first = run.position, run.layers[0]
    opened = {node.layer for node in graph.nodes if node.kind == "head"}
    found = []
    for n in range(len(bars.mlps)):
        layer = first + n
        found.append(Writer(f"L{layer} MLP", Node("mlp", layer, position=at), float(bars.mlps[n])))
        if graph.info.level == "head" or layer in opened:
            found += [
                Writer(f"L{layer}H{head}", Node("head", layer, head, at), float(value))
                for head, value in enumerate(bars.heads[n])
            ]
        else:
            found.append(Writer(f"L{layer} attention", Node("attn", layer, position=at), float(bars.heads[n].sum())))
    for bar in bars.rows:
        if bar.kind in ("cross_head", "mixer"):
            node = Node(bar.kind, bar.layer, bar.head, at)  # type: ignore[arg-type]
            found.append(
                Writer(f"L{bar.layer} mixer" if bar.kind == "mixer" else bar.label.partition("@")[0], node, bar.value)
            )
    embedding = [bar.value for bar in bars.rows if bar.kind == "embed"]
    found += [Writer("embedding", Node("embed", position=at), value) for value in embedding]
    return sorted(found, key=lambda one: -abs(one.value))[:MOST]


def _edges(graph: FlowGraph, node: Node) -> list[int]:
    """Edges that show a part: those at its node, or what the attention of its layer brings to its position."""
    if node.kind == "cross_head" and node not in graph.nodes:
        # Taken together, heads that read the encoder are edges between the stacks.
        states = [
            n
            for n, one in enumerate(graph.nodes)
            if (one.layer, one.position, one.stack) == (node.layer, node.position, None)
        ]
        between = [graph.nodes[s].stack is not None for s in graph.source]
        return [int(e) for e in np.flatnonzero(np.array(between, dtype=bool) & np.isin(graph.target, states))]
    if node.kind == "attn":
        kinds = [flow_kind(graph, e) in ("attention", "head") for e in range(len(graph))]
        # Another stack counts its layers and positions for itself.
        within = np.array([graph.nodes[n].stack is None for n in graph.source], dtype=bool)
        of_layer = (graph.layer == node.layer) & (graph.query_pos == node.position) & within
        return [int(e) for e in np.flatnonzero(of_layer & np.array(kinds, dtype=bool))]
    if node not in graph.nodes:
        return []
    n = graph.nodes.index(node)
    return [int(e) for e in np.flatnonzero((graph.source == n) | (graph.target == n))]


def flow_kind(graph: FlowGraph, e: int) -> str:
    """Kind of an edge."""
    return str(graph.edge_dict(e)["kind"])


def _why(graph: FlowGraph, node: Node, recipe: Recipe) -> str:
    """Why no edge shows a part, as far as the picture itself can say."""
    if recipe.layers is not None and node.layer is not None and not recipe.layers[0] <= node.layer < recipe.layers[1]:
        return f"layer {node.layer} is outside the layers that are drawn"
    if node.kind == "mlp" and graph.info.method in _WITHOUT_MLPS:
        return _WITHOUT_MLPS[graph.info.method]
    threshold = graph.info.filters.get("threshold")
    if threshold is None:
        return "it is not among the strongest edges that a page can draw"
    limit = f"{float(threshold):g}".replace("0.", ".", 1)
    measured = _MEASURES.get(graph.info.method)
    if measured is None:
        return f"share below {limit}"
    states = {state.kind for state in graph.nodes if (state.layer, state.position) == (node.layer, node.position)}
    if not states & {"resid_mid", "resid_post"}:
        return "the state it writes into is not drawn either"
    return f"share below {limit}; {graph.info.method} measures {measured}, not logits"
