"""Graphs in which some layers are shown as their heads, and the others with heads together.

Of a layer that is opened, the edges that all heads bring together make way for those into each head and from there into the
state; all other edges stay as they are. That is done where the numbers of the heads add up to what they stand for, and refused
elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Bool

import flowgraph
from flowgraph import EdgeWeights, FlowGraph, Node
from flowgraph.errors import ArgumentError

ADDITIVE = ("attention", "proximity", "logits")
"""Methods whose numbers for a layer's heads add up to that for the heads together."""
_COLUMNS = ("kind", "layer", "head", "query_pos", "key_pos", "weight", "share", "structural")


def refuse_mixture(method: str, layers: Sequence[int]) -> None:
    """Say why a method cannot show some layers as heads beside others.

    Raises
    ------
    ArgumentError
        If its numbers for heads do not add up to those for the heads together.
    """
    if method in ADDITIVE:
        return
    said = f"heads_in={','.join(map(str, layers))} cannot be shown under the method {method!r}: "
    if method == "ff":
        raise ArgumentError(f"{said}it takes heads together; choose the method {', '.join(ADDITIVE)}")
    raise ArgumentError(
        f"{said}lengths of what the heads bring do not add up to the length of what they bring together; choose level head for "
        f"all layers, or the method {', '.join(ADDITIVE)}"
    )


def mixed_graph(weights: EdgeWeights, layers: Sequence[int], *, max_edges: int) -> FlowGraph:
    """Every edge of a method, the heads of some layers one by one.

    Parameters
    ----------
    weights
        Dense weights of one of :data:`ADDITIVE`.
    layers
        Layers that are opened into their heads.
    max_edges
        Refuse a larger graph.

    Returns
    -------
    The graph. Σ weight of the edges from a layer's heads into a state is that of the attention edges they stand for. Shares are
    parts of Σ|weight| of what enters the same target in this graph.

    Raises
    ------
    ArgumentError
        If the weights do not have such a layer.
    GraphTooLargeError
        If the graph would be larger.
    """
    first, stop = weights.info.layers
    outside = [layer for layer in layers if not first <= layer < stop]
    if outside:
        raise ArgumentError(f"heads_in={outside[0]} is not among the layers that are drawn, {first}…{stop - 1}")
    summed = weights.attention_summed.copy()
    summed[[layer - first for layer in layers]] = 0.0
    together = flowgraph.build_graph(replace(weights, attention_summed=summed), max_edges=max_edges, readings=False)
    found: dict[Node, int] = {}
    parts = [_part(found, together, np.ones(len(together), bool))]
    for layer in layers:
        heads = flowgraph.build_graph(
            weights.window(layer, layer + 1), level="head", max_edges=max_edges, readings=False
        )
        is_head = np.array([node.kind == "head" for node in heads.nodes])
        parts.append(_part(found, heads, is_head[heads.source] | is_head[heads.target], first))
    return _joined(found, parts, together, layers)


def _part(
    found: dict[Node, int], graph: FlowGraph, kept: Bool[np.ndarray, "E"], first: int | None = None
) -> dict[str, Any]:
    """Columns of some edges, their ends numbered over all graphs; of a graph of one layer, ``first`` is the lowest of the whole."""
    nodes = [node if first is None else _in_whole(node, first) for node in graph.nodes]
    number = np.array([found.setdefault(node, len(found)) for node in nodes], dtype=np.int64)
    ends = {end: number[getattr(graph, end)[kept]] for end in ("source", "target")}
    return ends | {name: getattr(graph, name)[kept] for name in _COLUMNS}


def _in_whole(node: Node, first: int) -> Node:
    """The state that enters a layer is what the layer before it leaves."""
    if node.kind != "resid_pre" or node.layer is None or node.layer <= first:
        return node
    return replace(node, kind="resid_post", layer=node.layer - 1)


def _joined(
    found: dict[Node, int], parts: Sequence[dict[str, Any]], together: FlowGraph, layers: Sequence[int]
) -> FlowGraph:
    columns = {name: np.concatenate([part[name] for part in parts]) for name in ("source", "target", *_COLUMNS)}
    columns["share"] = _shares(columns)
    # Layer by layer, and in a layer what enters heads before what leaves them, as in every other graph.
    order = np.argsort(np.where(columns["layer"] < 0, np.iinfo(np.int64).max, columns["layer"]), kind="stable")
    weighted = ~columns["structural"]
    info = replace(
        together.info,
        total_edges=int(weighted.sum()),
        total_share=float(np.abs(columns["share"]).sum()),
        filters={"heads_in": ", ".join(map(str, layers))},
    )
    arrays: dict[str, Any] = {name: column[order] for name, column in columns.items()}
    shown = tuple(node for node in together.undefined if node in found)
    # Of the states of an opened layer, those that no edge touches are left out.
    return FlowGraph(nodes=tuple(found), **arrays, info=info, undefined=shown).keep(np.ones(len(order), bool))


def _shares(columns: dict[str, np.ndarray]) -> np.ndarray:
    """Parts of Σ|weight| of what enters the same target."""
    weight = np.where(columns["structural"], 0.0, columns["weight"])
    target = columns["target"]
    whole = np.bincount(target, weights=np.abs(weight))[target]
    share: np.ndarray = np.divide(weight, whole, out=np.zeros_like(weight), where=whole > 0)
    return share
