"""Readings of a graph's nodes: the vector of each node, read once, all in one batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..errors import NotRecordedError
from ..lenses.experts import LayerExperts, expert_vector, layer_experts
from ..lenses.logit_lens import head_outputs, read
from ..values.arguments import takes
from ..values.node import Node
from ..values.reading import NodeReading
from ..values.trace import Trace

READ_AT_MOST = 2_000
"""Graphs with more nodes are not read unless asked for."""

_SITE = {
    "embed": "resid_pre", "resid_pre": "resid_pre", "resid_mid": "resid_mid", "resid_post": "resid_post",
    "attn": "attn_out", "mlp": "mlp_out", "mixer": "mixer_out", "head": "head_out", "resid_cross": "resid_cross",
    "cross_head": "cross_head_out",
}  # fmt: skip

_EXPERTS = ("expert", "shared_expert")


@takes(Trace)
def node_readings(trace: Trace, nodes: Sequence[Node], *, k: int = 5) -> tuple[NodeReading | None, ...]:
    """Readings of nodes: [N], None for kinds that have no vector of their own (logits, biases), norms alone in other stacks.

    A model without a head gives norms alone, one of which patterns alone are known nothing. Readings that the trace has recorded are used where it has no model.

    Parameters
    ----------
    trace
        The trace that the nodes belong to.
    nodes
        Nodes of a graph.
    k
        How many top and bottom tokens each keeps.
    """
    if trace.loaded is None:
        return tuple(_recorded(trace if node.stack is None else trace.stacks[node.stack], node) for node in nodes)
    if trace.loaded.level == "patterns":
        return (None,) * len(nodes)  # there are no vectors to read
    result: list[NodeReading | None] = [None] * len(nodes)
    for name, stack in trace.stacks.items():
        # The head reads what the last stack writes; of another stack's states it is known how long they are.
        own = [n for n, node in enumerate(nodes) if node.stack == name]
        for n, reading in zip(
            own, node_readings(stack, [replace(nodes[n], stack=None) for n in own], k=k), strict=True
        ):
            result[n] = reading
    heads = {
        kind: head_outputs(trace, cross=kind == "cross_head")
        for kind in ("head", "cross_head") if any(node.kind == kind and node.stack is None for node in nodes)
    }  # fmt: skip
    readable = [n for n, node in enumerate(nodes) if node.kind in (*_SITE, *_EXPERTS) and node.stack is None]
    if not readable:
        return tuple(result)
    experts = {
        layer: layer_experts(trace, layer - trace.layers[0])
        for layer in {nodes[n].layer for n in readable if nodes[n].kind in _EXPERTS} if layer is not None
    }  # fmt: skip
    vectors = torch.stack([_vector(trace, nodes[n], heads, experts) for n in readable])
    if trace.target is None:
        found = [NodeReading(norm=float(norm)) for norm in vectors.norm(dim=-1)]
    else:
        found = list(read(trace, vectors, k=min(k, trace.model.anatomy.d_vocab)))
    for n, reading in zip(readable, found, strict=True):
        result[n] = reading
    return tuple(result)


def _vector(
    trace: Trace, node: Node, heads: Mapping[str, Tensor], experts: Mapping[int, LayerExperts | str | None]
) -> Tensor:
    if node.kind in _EXPERTS and node.layer is not None:
        return expert_vector(experts[node.layer], node)
    row = 0 if node.layer is None else node.layer - trace.layers[0]
    if node.kind in heads:
        return heads[node.kind][row, node.head, node.position]
    found = trace.site(_SITE[node.kind])[row, node.position]
    return found if found.dtype == torch.float64 else found.float()


def _recorded(trace: Trace, node: Node) -> NodeReading | None:
    """A reading that was recorded; without one, the norm of the vector where the trace holds it."""
    site = _SITE.get(node.kind)
    if site is None or node.position is None:
        return None
    row = 0 if node.layer is None else node.layer - trace.layers[0]
    reading = trace.recorded_readings.get(site)
    if reading is not None:
        return reading[(row, node.position) if node.head is None else (row, node.head, node.position)]
    try:
        vector = trace.site(site)[row, node.position]
    except NotRecordedError:
        return None
    return NodeReading(norm=float(vector.float().norm()))
