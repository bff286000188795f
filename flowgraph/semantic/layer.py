"""The parts of one layer: rows, amounts that multiply them, and their sums.

Every sum of a block has one form, Σ amount · row: of a head over its sources (pattern · value W_O), of the attention over the rows
of W_O (z · row), of the MLP over its neurons (activation · row of W_out). Rows do not depend on the query. A norm after the block
(sandwich) is frozen at its scale: its linear part goes into the rows, its scale into the amounts.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from ..models.anatomy import Block, Norm, Projection, upcast
from ..values.node import Node
from ..values.trace import Trace

Vector = Float[Tensor, "d_model"]


@dataclass(frozen=True)
class Layer:
    """One layer of a trace, with the vectors of its nodes."""

    trace: Trace
    layer: int

    @property
    def row(self) -> int:
        """Index into the kept layers."""
        return self.layer - self.trace.layers[0]

    @cached_property
    def source_rows(self) -> Float[Tensor, "head key_pos d_model"]:
        """[head, key_pos, d_model] value · W_O of each source."""
        anatomy = self.trace.model.anatomy
        values = anatomy.per_query_head(upcast(self.trace.v[self.row]))
        # Key and value heads are repeated here once, so that every later sum has one row for each query head.
        return _gained(self._post_norm("attention"), values @ anatomy.W_O(self.layer))

    @cached_property
    def output_rows(self) -> Float[Tensor, "row d_model"]:
        """[head · d_head, d_model] rows of W_O."""
        weight = self.trace.model.anatomy.W_O(self.layer).flatten(0, 1)
        return _gained(self._post_norm("attention"), weight)

    @cached_property
    def neuron_rows(self) -> Float[Tensor, "d_mlp d_model"]:
        """[d_mlp, d_model] rows of W_out."""
        return _gained(self._post_norm("mlp"), self._block.neuron_layers.output.weight)

    def source_amounts(self, position: int) -> Float[Tensor, "head key_pos"]:
        """[head, key_pos] pattern of a query, through the scale of a norm after the block."""
        return upcast(self.trace.pattern[self.row, :, position]) / self._scale("attention", position)

    def output_amounts(self, position: int) -> Float[Tensor, "row"]:
        """[head · d_head] z of a query, likewise."""
        return upcast(self.trace.z[self.row, :, position]).reshape(-1) / self._scale("attention", position)

    def neuron_amounts(self, position: int) -> Float[Tensor, "d_mlp"]:
        """[d_mlp] activations, likewise."""
        return upcast(self.trace.neurons[self.row, position]) / self._scale("mlp", position)

    def bias(self, part: str, position: int) -> Vector | None:
        """[d_model] contribution of the bias of ``"attention"`` or ``"mlp"`` and of a norm after it; None without a bias."""
        block = self._block
        projection: Projection = block.output_projection if part == "attention" else block.neuron_layers.output
        norm = self._post_norm(part)
        bias = projection.bias
        if bias is not None and norm is not None:
            bias = _gained(norm, bias) / self._scale(part, position)
        further = None if norm is None else norm.bias
        return further if bias is None else bias if further is None else bias + further

    def into_state(self, part: str, position: int, x: Vector) -> Vector:
        """[d_model] a part of the sum after ``"attention"`` or ``"mlp"`` as it enters the state: normed in post-norm blocks."""
        if self.trace.wiring != "post_norm":
            return x
        norm = self._block.attention_norm if part == "attention" else self._block.mlp_norm
        return norm.linear(x, upcast(self.trace.norm_scales[part][self.row, position]))

    def state_bias(self, part: str) -> Vector | None:
        """[d_model] bias of the norm over that sum in post-norm blocks; None elsewhere."""
        if self.trace.wiring != "post_norm":
            return None
        return (self._block.attention_norm if part == "attention" else self._block.mlp_norm).bias

    def normed(self, part: str, position: int, state: Vector) -> Vector:
        """[d_model] the state as ``"attention"`` or ``"mlp"`` reads it; in post-norm blocks the state itself."""
        if self.trace.wiring == "post_norm":
            return state
        norm = self._block.attention_norm if part == "attention" else self._block.mlp_norm
        out = norm.linear(state, upcast(self.trace.norm_scales[part][self.row, position]))
        return out if norm.bias is None else out + norm.bias

    @property
    def _block(self) -> Block:
        return self.trace.model.anatomy.blocks[self.layer]

    def _post_norm(self, part: str) -> Norm | None:
        norm: Norm | None = self._block.attention_post_norm if part == "attention" else self._block.mlp_post_norm
        return norm

    def _scale(self, part: str, position: int) -> Tensor:
        if self._post_norm(part) is None:
            return torch.ones((), device="cpu")
        return upcast(self.trace.norm_scales[f"{part}_post"][self.row, position])


def _gained(norm: Norm | None, rows: Float[Tensor, "*n d_model"]) -> Float[Tensor, "*n d_model"]:
    """Rows through a norm but for its scale and bias."""
    return rows if norm is None else norm.linear(rows, rows.new_ones(rows.shape[:-1]))


def state_node(layer: int, position: int, first: int) -> Node:
    """The state that enters a layer, in a graph that starts with layer ``first``."""
    if layer == first:
        return Node("resid_pre", layer=layer, position=position)
    return Node("resid_post", layer=layer - 1, position=position)


def along(vector: Vector, direction: Vector | None) -> float | None:
    """Logit of a vector in the direction of the target; None where there is no direction."""
    return None if direction is None else float(vector @ direction)


def part_of(part: Vector, whole: Vector) -> float:
    """Part of a whole that a vector makes up: ⟨part, whole⟩ / ⟨whole, whole⟩; 0 where the whole is zero."""
    size = float(whole @ whole)
    return float(part @ whole) / size if size else 0.0
