"""The nodes and edges of one layer, as VISIT draws them."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...lenses.query_key import key_directions, query_directions
from ...models.anatomy import upcast
from ...values.flow_graph import EdgeKind
from ...values.node import Node, NodeKind
from ...values.trace import Trace
from ..layer import Layer, state_node
from ..selection import strongest
from ..sketch import Sketch
from .choice import Selection

# Widths of the original: constants where it has no number, and factors on numbers rounded to DIGITS.
DIGITS = 3
FIXED = 7.0
HIDDEN = 0.05
PER_ATTENTION, PER_VALUE, LEAST_ATTENTION = 10.0, 1.3, 0.51
PER_QUERY, PER_HEAD, PER_ACTIVATION = 0.2, 1.8, 1.5


def projected(trace: Trace, layer: int, position: int) -> dict[str, Float[Tensor, "head d_model"]]:
    """Queries, keys and values of one position as vectors of the residual stream, for each head.

    Parameters
    ----------
    trace
        A trace with its model.
    layer
        Layer of the model.
    position
        Position of the token, counted from 0.

    Returns
    -------
    ``"query"``, ``"key"``, ``"value"`` → [head, d_model]. The query as the key of the same position sees it, and the key as the
    query does; values through W_O. VISIT lists all three in one node; the nodes of the graph hold the query.
    """
    anatomy, row = trace.model.anatomy, layer - trace.layers[0]
    heads = torch.arange(trace.n_heads, device="cpu")
    here = torch.full_like(heads, position)
    values = anatomy.per_query_head(upcast(trace.v[row, :, position]))
    return {
        "query": query_directions(trace, layer, heads, query_pos=here, key_pos=here)[0],
        "key": key_directions(trace, layer, heads, query_pos=here, key_pos=here)[0],
        "value": torch.einsum("hk,hkd->hd", values, anatomy.W_O(layer)),
    }


class Drawing:
    """Adds one layer at one position to a sketch."""

    def __init__(self, sketch: Sketch, layer: Layer, selection: Selection, *, t: int, first: int) -> None:
        self.sketch, self.layer, self.selection, self.t, self.first = sketch, layer, selection, t, first
        self.trace, self.row = layer.trace, layer.row
        self.block = layer.trace.model.anatomy.blocks[layer.layer]

    def add(self) -> None:
        """Add the nodes and edges between the state that enters the layer and the one that leaves it."""
        trace, row, t = self.trace, self.row, self.t
        before = self.sketch.node(state_node(self.layer.layer, t, self.first), upcast(trace.resid_pre[row, t]))
        after = self._node("resid_post", upcast(trace.resid_post[row, t]))
        attn = self._add_attention(before)
        # A parallel block has no state between, so both outputs join the state after it.
        if trace.resid_mid is None:
            between, joint = before, after
        else:
            between = joint = self._node("resid_mid", upcast(trace.resid_mid[row, t]))
            self._edge(between, after, "residual", self._length(between))
        self._edge(attn, joint, "attn", self._length(attn))
        self._edge(before, joint, "residual", self._length(before))
        mlp = self._add_mlp(between)
        self._edge(mlp, after, "mlp", self._length(mlp))

    def _add_attention(self, before: Node) -> Node:
        """Add all nodes from the state to attention's output; returns the node of the output."""
        normed = self._add_norm("attn_norm", before)
        attn = self._node("attn", upcast(self.trace.attn_out[self.row, self.t]))
        queries = projected(self.trace, self.layer.layer, self.t)["query"]
        together = self._node("qkv", queries.sum(0))
        self._edge(normed, together, "query", self._length(normed))
        z = upcast(self.trace.z[self.row, :, self.t])
        joined = self._node("concat_heads", None, norm=float(z.norm()))
        for h in self._heads(z):
            self._add_head(h, queries[h], together=together, joined=joined)
        self._add_rows(joined, attn)
        bias = self.block.output_projection.bias
        if bias is not None:
            node = self._node("attn_bias", bias)
            self._edge(joined, node, "bias", FIXED)
            self._edge(node, attn, "bias", self._length(node))
        return attn

    def _heads(self, z: Float[Tensor, "head d_head"]) -> list[int]:
        heads = self.selection.heads
        return sorted(strongest(z.norm(dim=-1), heads).tolist()) if isinstance(heads, int) else list(heads)

    def _add_head(self, h: int, query: Float[Tensor, "d_model"], *, together: Node, joined: Node) -> None:
        """Add the query of a head, the sources with the most attention, with key and value, and the head's output."""
        anatomy, t = self.trace.model.anatomy, self.t
        W_O = anatomy.W_O(self.layer.layer)[h]
        asks = self._node("query", query, head=h)
        self._edge(together, asks, "query", PER_QUERY * self._length(asks), head=h)
        head = self._node("head", upcast(self.trace.z[self.row, h, t]) @ W_O, head=h)
        self._edge(head, joined, "head", PER_HEAD * self._length(head), head=h)
        pattern = upcast(self.trace.pattern[self.row, h, t])
        # VISIT chooses by attention alone, whatever the values.
        shown = strongest(pattern, self.selection.sources)
        keys, _ = key_directions(
            self.trace, self.layer.layer, torch.full_like(shown, h), query_pos=torch.full_like(shown, t), key_pos=shown
        )
        values = upcast(self.trace.v[self.row, h // (anatomy.n_heads // anatomy.n_kv_heads)])[shown] @ W_O
        for n, i in enumerate(shown.tolist()):
            attended, place = float(pattern[i]), {"head": h, "key_pos": i}
            key = self._node("key", keys[n], head=h, index=i, activation=attended)
            value = self._node("value", values[n], head=h, index=i, activation=attended)
            score = rounded(attended)
            width = max(PER_ATTENTION * score, LEAST_ATTENTION)
            self._edge(asks, key, "attention", width, **place)
            self._edge(key, value, "attention", width, **place)
            written = max(PER_VALUE * score * self._length(value), LEAST_ATTENTION)
            self._edge(value, head, "attention", written, **place)

    def _add_rows(self, joined: Node, attn: Node) -> None:
        """Add the rows of W_O with the largest and the smallest z · length."""
        rows, amounts = self.layer.output_rows, self.layer.output_amounts(self.t)
        measure, d_head = amounts * rows.norm(dim=-1), self.trace.model.anatomy.d_value
        for n in self._outermost(measure):
            row = self._node("row", rows[n], index=n, activation=float(amounts[n]))
            self._edge(joined, row, "head", FIXED, head=n // d_head)
            self._edge(row, attn, "head", abs(rounded(measure[n])), head=n // d_head)

    def _add_mlp(self, before: Node) -> Node:
        """Add all nodes from a state to the MLP's output; returns the node of the output."""
        normed = self._add_norm("mlp_norm", before)
        mlp = self._node("mlp", upcast(self.trace.mlp_out[self.row, self.t]))
        rows, amounts = self.layer.neuron_rows, self.layer.neuron_amounts(self.t)
        measure, into = amounts * rows.norm(dim=-1), self.block.neuron_layers.input.weight
        for n in self._outermost(measure):
            reads = self._node("neuron_in", into[:, n], index=n)
            neuron = self._node("neuron", rows[n], index=n, activation=float(amounts[n]))
            self._edge(normed, reads, "mlp_in", FIXED)
            self._edge(reads, neuron, "neuron", PER_ACTIVATION * abs(rounded(amounts[n])))
            self._edge(neuron, mlp, "neuron", abs(rounded(measure[n])))
        self._add_mlp_biases(normed, mlp)
        return mlp

    def _add_mlp_biases(self, normed: Node, mlp: Node) -> None:
        """Add the bias of the neurons' input, as if they were linear, and that of the output."""
        layers = self.block.neuron_layers
        before, after = layers.input.bias, layers.output.bias
        if before is not None:
            # The original multiplies the bias by the output weights, as if no activation lay between.
            reads = self._node("mlp_bias_in", before @ layers.output.weight)
            self._edge(normed, reads, "bias", self._length(normed) if self.selection.version == 1 else FIXED)
        if after is not None:
            adds = self._node("mlp_bias", after)
            self._edge(adds, mlp, "bias", self._length(adds))
        if before is not None and after is not None:
            # The original joins both biases by an edge that is hardly seen.
            self._edge(reads, adds, "bias", HIDDEN)

    def _add_norm(self, kind: Literal["attn_norm", "mlp_norm"], before: Node) -> Node:
        part = "attention" if kind == "attn_norm" else "mlp"
        normed = self._node(kind, self.layer.normed(part, self.t, self.sketch.vectors[before]))
        self._edge(before, normed, "norm", self._length(before))
        return normed

    def _outermost(self, measure: Float[Tensor, "n"]) -> list[int]:
        """Indices of the largest numbers, the largest first, then of the smallest, the smallest first."""
        order: Int[Tensor, "n"] = torch.argsort(measure, descending=True, stable=True)
        lowest = order.flip(0)[: self.selection.bottom]
        return [*order[: self.selection.top].tolist(), *lowest.tolist()]

    def _node(
        self,
        kind: NodeKind,
        vector: Tensor | None,
        *,
        head: int | None = None,
        index: int | None = None,
        **facts: float,
    ) -> Node:
        node = Node(kind, layer=self.layer.layer, head=head, position=self.t, index=index)
        return self.sketch.node(node, vector, **facts)

    def _edge(self, source: Node, target: Node, kind: EdgeKind, weight: float, **place: int) -> None:
        where = {"layer": self.layer.layer, "query_pos": self.t, "key_pos": self.t} | place
        self.sketch.edge(source, target, kind, "visit", weight, **where)

    def _length(self, node: Node) -> float:
        return rounded(self.sketch.vectors[node].norm())


def rounded(number: float | Float[Tensor, ""]) -> float:
    """The number as the original prints and draws it."""
    return round(float(number), DIGITS)
