"""The parts of a run that a graph of flow shows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from ..errors import ArgumentError
from ..models.anatomy import Anatomy
from ..values.flow_graph import EDGE_KINDS, FlowGraph

_FLOW = frozenset(
    {"attention", "head", "mlp", "mlp_in", "residual", "unembed", "embed", "bias", "sink", "mixer", "expert"}
)


@dataclass(frozen=True, eq=False)
class GraphParts:
    """What a graph shows of heads, MLPs and mixers.

    Attributes
    ----------
    terms
        [layer, head, query_pos, key_pos] terms that are read.
    writes
        [layer, head, query_pos] heads that are seen to write; at token level none are.
    mlps, mixers
        [layer, position] what is seen to write.
    experts
        [layer, position] MLPs of which single experts are seen to write.
    by_head
        Whether heads are nodes, so that a term counts only if its head is seen to write as well.
    """

    terms: Bool[Tensor, "layer head query_pos key_pos"]
    writes: Bool[Tensor, "layer head query_pos"]
    mlps: Bool[Tensor, "layer position"]
    mixers: Bool[Tensor, "layer position"]
    experts: Bool[Tensor, "layer position"]
    by_head: bool

    @property
    def shown(self) -> Bool[Tensor, "layer head query_pos key_pos"]:
        """Terms that reach the stream: those that are read by heads that write."""
        return self.terms & self.writes[..., None] if self.by_head else self.terms


def graph_parts(graph: FlowGraph, anatomy: Anatomy, n_tokens: int) -> GraphParts:
    """The parts of a graph whose edges run between states.

    Raises
    ------
    ArgumentError
        If its edges are others, or it is of another number of tokens.
    """
    kinds = {EDGE_KINDS[kind] for kind in graph.kind}
    ends = {
        graph.nodes[n].kind for n, kind in zip(graph.target, graph.kind, strict=True) if EDGE_KINDS[kind] != "unembed"
    }
    if not kinds <= _FLOW or "logit" in ends:
        raise ArgumentError(
            f"the edges of a graph of method {graph.info.method!r} are not those that run between states; change its nodes "
            "(parts='nodes'), or take another method"
        )
    if len(graph.info.tokens) != n_tokens:
        raise ArgumentError(f"the graph is of {len(graph.info.tokens)} tokens, the prompts have {n_tokens}")
    shape = (len(anatomy.blocks), anatomy.n_heads, n_tokens, n_tokens)
    terms = torch.zeros(shape, dtype=torch.bool, device="cpu")
    writes = torch.zeros(shape[:3], dtype=torch.bool, device="cpu")
    outputs = {
        kind: torch.zeros(shape[0], n_tokens, dtype=torch.bool, device="cpu") for kind in ("mlp", "mixer", "expert")
    }
    for kind, layer, head, query, key in _columns(graph):
        heads = slice(None) if head < 0 else head
        if kind == "attention":
            terms[layer, heads, query, key] = True
        elif kind == "head":
            writes[layer, heads, query] = True
        elif kind in outputs:
            outputs[kind][layer, query] = True
    return GraphParts(
        terms, writes, outputs["mlp"], outputs["mixer"], outputs["expert"], by_head=graph.info.level == "head"
    )


def _columns(graph: FlowGraph) -> Iterable[tuple[str, int, int, int, int]]:
    for kind, *place in zip(graph.kind, graph.layer, graph.head, graph.query_pos, graph.key_pos, strict=True):
        layer, head, query, key = (int(number) for number in place)
        yield EDGE_KINDS[kind], layer, head, query, key
