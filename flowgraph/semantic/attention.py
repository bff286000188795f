"""Attention in the semantic graph: queries, keys and values of the strongest sources, heads, rows of the output projection."""

from __future__ import annotations

import torch
from torch import Tensor

from ..lenses.query_key import key_directions, query_directions
from ..models.anatomy import upcast
from ..values.node import Node, NodeKind
from .layer import Layer, along, part_of, state_node
from .selection import Choice, coverage, made_up, measured, strongest
from .sketch import Sketch


class AttentionNodes:
    """Adds the attention of one layer to a sketch.

    Attributes
    ----------
    sources
        Source positions shown so far, whose states are nodes.
    """

    def __init__(self, sketch: Sketch, layer: Layer, choice: Choice, first: int) -> None:
        self.sketch, self.layer, self.choice, self.first = sketch, layer, choice, first
        self.trace, self.at = layer.trace, layer.layer
        self.sources: list[int] = []

    def add(self, t: int, before: Node, direction: Tensor | None) -> Node:
        """Add all nodes from the states to attention's output at a position; returns the node of the output."""
        rows, amounts = self.layer.source_rows, self.layer.source_amounts(t)
        outputs = (amounts[..., None] * rows).sum(1)
        whole = upcast(self.layer.site("out")[self.layer.row, t])
        normed = self._add_norm(t, before)
        heads, covered = self._heads(outputs, whole, direction)
        for h in heads:
            self._add_head(t, h, outputs[h], normed, direction)
        attn = self.sketch.node(
            self._node("attn", position=t), whole, contribution=along(whole, direction), coverage=covered
        )
        if self.choice.rows:
            self._add_rows(t, heads, outputs, attn, direction)
        else:
            self._add_heads_to(t, heads, outputs, attn)
        bias = self.layer.bias("attention", t)
        if bias is not None:
            node = self.sketch.node(self._node("attn_bias", position=t), bias, contribution=along(bias, direction))
            self.sketch.edge(node, attn, "bias", "contribution", part_of(bias, whole), **self._place(t))
        return attn

    def _add_norm(self, t: int, before: Node) -> Node:
        """The input of attention: the state after its norm, or in post-norm blocks the state."""
        if self.trace.wiring == "post_norm":
            return before
        state = self.sketch.vectors[before]
        node = self.sketch.node(self._node("attn_norm", position=t), self.layer.normed("attention", t, state))
        self.sketch.edge(before, node, "norm", "norm", state.norm(), **self._place(t))
        return node

    def _heads(self, outputs: Tensor, whole: Tensor, direction: Tensor | None) -> tuple[list[int], float]:
        """The shown heads, the strongest first, and the part of the measure that they hold."""
        # A head has no attention weight of its own, so it is chosen by its length.
        select = "norm" if self.choice.select == "attention" else self.choice.select
        measure = measured(select, outputs, torch.ones_like(outputs[:, 0]), whole=whole, direction=direction)
        which = self.choice.heads
        if which is None:
            return list(range(len(outputs))), 1.0
        shown = strongest(measure, which) if isinstance(which, int) else torch.tensor(which, device="cpu")
        return shown.tolist(), coverage(measure, shown)

    def _add_head(self, t: int, h: int, output: Tensor, normed: Node, direction: Tensor | None) -> None:
        """Add a head: its query, the strongest sources with key and value, its output, the rest of its sources."""
        rows, amounts = self.layer.source_rows[h], self.layer.source_amounts(t)[h]
        pattern = upcast(self.layer.site("pattern")[self.layer.row, h, t])
        by_pattern = self.choice.select == "attention"
        measure = measured(
            self.choice.select, rows, pattern if by_pattern else amounts, whole=output, direction=direction
        )
        shown = strongest(measure, self.choice.sources)
        head = self.sketch.node(
            self._node("head", head=h, position=t), output, contribution=along(output, direction),
            coverage=coverage(measure, shown),
        )  # fmt: skip
        self._add_sources(t, h, shown.tolist(), self._add_query(t, h, shown, normed), head, direction)
        left = torch.ones_like(amounts, dtype=torch.bool)
        left[shown] = False
        # Sources of weight 0 add nothing, so they do not count as left out.
        if bool((amounts[left] != 0).any()):
            vector = (amounts[left, None] * rows[left]).sum(0)
            rest = self.sketch.node(
                self._node("head_rest", head=h, position=t), vector, activation=float(pattern[left].sum()),
                contribution=along(vector, direction), left_out=int((amounts[left] != 0).sum()),
            )  # fmt: skip
            self.sketch.edge(rest, head, "rest", "contribution", part_of(vector, output), **self._place(t, h))

    def _add_query(self, t: int, h: int, shown: Tensor, normed: Node) -> Node:
        """The query, read as the key of the strongest source sees it."""
        node = self._node("query", head=h, position=t)
        length = upcast(self.layer.site("q")[self.layer.row, h, t]).norm()
        if not self._reads_keys:
            # What keys of an encoder see of it lies in the encoder's space, which no head reads.
            self.sketch.node(node)
            self.sketch.lengths[node] = float(length)
            self.sketch.edge(normed, node, "query", "norm", length, **self._place(t, h))
            return node
        # Without a source attention sees nothing; the query is then read as its own position's key sees it.
        strongest_source = shown[:1] if len(shown) else torch.tensor([t], device="cpu")
        vector = query_directions(
            self.trace,
            self.at,
            torch.tensor([h], device="cpu"),
            query_pos=torch.tensor([t], device="cpu"),
            key_pos=strongest_source,
        )[0][0]
        self.sketch.node(node, vector)
        self.sketch.edge(normed, node, "query", "norm", length, **self._place(t, h))
        return node

    def _add_sources(self, t: int, h: int, shown: list[int], query: Node, head: Node, direction: Tensor | None) -> None:
        if not shown:
            return
        rows, amounts = self.layer.source_rows[h], self.layer.source_amounts(t)[h]
        pattern, anatomy = upcast(self.layer.site("pattern")[self.layer.row, h, t]), self.layer.anatomy
        keys = upcast(self.layer.site("k")[self.layer.row, h // (anatomy.n_heads // anatomy.n_kv_heads)])
        at = torch.tensor(shown, device="cpu")
        seen = self._keys(t, h, at)
        parts = made_up(rows, amounts, self.sketch.vectors[head])
        for n, i in enumerate(shown):
            attended = float(pattern[i])
            place = {**self._place(t, h), "key_pos": i}
            written = amounts[i] * rows[i]
            key, value = (self._node(kind, head=h, position=t, index=i) for kind in ("key", "value"))
            self.sketch.node(key, None if seen is None else seen[n], activation=attended)
            if seen is None:
                self.sketch.lengths[key] = float(keys[i].norm())
            self.sketch.node(value, written, activation=attended, contribution=along(written, direction))
            # States of the encoder have no place among those of the decoder: their keys and values stand for them.
            state = None if self.layer.cross else self._source(i)
            if state is not None:
                self.sketch.edge(state, key, "key", "norm", keys[i].norm(), **place)
            self.sketch.edge(query, key, "attention", "attention", attended, **place)
            if state is not None:
                self.sketch.edge(state, value, "value", "norm", rows[i].norm(), **place)
            self.sketch.edge(key, value, "attention", "attention", attended, **place)
            self.sketch.edge(value, head, "attention", "contribution", parts[i], **place)

    @property
    def _reads_keys(self) -> bool:
        """Whether queries and keys are linear maps of states of this stack."""
        return not self.layer.cross and self.trace.model.anatomy.has_projections

    def _keys(self, t: int, h: int, at: Tensor) -> Tensor | None:
        """[N, d_model] keys as the query sees them; None where that is no vector of the residual stream."""
        if not self._reads_keys:
            return None
        return key_directions(
            self.trace, self.at, torch.full_like(at, h), query_pos=torch.full_like(at, t), key_pos=at
        )[0]

    def _source(self, position: int) -> Node:
        """State of a source, which is a node of its own."""
        if position not in self.sources:
            self.sources.append(position)
        # Other states are added only if a head reads them, so the graph holds no state without an edge.
        return self.sketch.node(
            state_node(self.at, position, self.first), upcast(self.trace.resid_pre[self.layer.row, position])
        )

    def _add_heads_to(self, t: int, heads: list[int], outputs: Tensor, attn: Node) -> None:
        """Add edges from heads to attention's output; heads that are not shown are one rest."""
        whole = self.sketch.vectors[attn]
        for h in heads:
            head = self._node("head", head=h, position=t)
            self.sketch.edge(head, attn, "head", "contribution", part_of(outputs[h], whole), **self._place(t, h))
        if len(heads) < len(outputs):
            self._add_rest(t, outputs.sum(0) - outputs[heads].sum(0), attn, len(outputs) - len(heads))

    def _add_rows(self, t: int, heads: list[int], outputs: Tensor, attn: Node, direction: Tensor | None) -> None:
        """Add edges from heads to the strongest rows of W_O, and from these to attention's output; other rows are one rest."""
        rows, amounts = self.layer.output_rows, self.layer.output_amounts(t)
        z = upcast(self.layer.site("z")[self.layer.row, :, t]).reshape(-1)
        whole = self.sketch.vectors[attn]
        measure = measured(self.choice.select, rows, amounts, whole=whole, direction=direction)
        shown = strongest(measure, self.choice.rows)
        self.sketch.node(attn, coverage=coverage(measure, shown))
        remains = outputs.clone()
        # What is left of each head once its shown rows are taken off it; together it is the rest of the sum.
        for n in shown.tolist():
            h, written = n // self.layer.anatomy.d_value, amounts[n] * rows[n]
            remains[h] -= written
            node = self.sketch.node(
                self._node("row", position=t, index=n), written, activation=float(z[n]),
                contribution=along(written, direction),
            )  # fmt: skip
            if h in heads:
                # A head that is not shown has no node to come from: its row stands alone.
                head = self._node("head", head=h, position=t)
                self.sketch.edge(head, node, "head", "activation", z[n], **self._place(t, h))
            self.sketch.edge(node, attn, "head", "contribution", part_of(written, whole), **self._place(t, h))
        rest = self._add_rest(t, remains.sum(0), attn, len(amounts) - len(shown))
        for h in heads:
            head = self._node("head", head=h, position=t)
            self.sketch.edge(head, rest, "rest", "norm", remains[h].norm(), **self._place(t, h))

    def _add_rest(self, t: int, vector: Tensor, attn: Node, left_out: int) -> Node:
        rest = self.sketch.node(self._node("attn_rest", position=t), vector, left_out=left_out)
        share = part_of(vector, self.sketch.vectors[attn])
        self.sketch.edge(rest, attn, "rest", "contribution", share, **self._place(t))
        return rest

    def _node(self, kind: NodeKind, *, position: int, head: int | None = None, index: int | None = None) -> Node:
        """A node of the layer's attention, by what it is in attention of a stack to itself."""
        return Node(self.layer.kinds.get(kind, kind), layer=self.at, head=head, position=position, index=index)

    def _place(self, t: int, head: int = -1) -> dict[str, int]:
        return {"layer": self.at, "head": head, "query_pos": t, "key_pos": t}
