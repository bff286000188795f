"""The parts of one layer: rows, amounts that multiply them, and their sums.

Every sum of a block has one form, Σ amount · row: of a head over its sources (pattern · value W_O), of the attention over the rows
of W_O (z · row), of the MLP over its neurons (activation · row of W_out). Rows do not depend on the query. A norm after the block
(sandwich) is frozen at its scale: its linear part goes into the rows, its scale into the amounts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from ..models.anatomy import Anatomy, Block, Norm, Projection, upcast
from ..values.node import CROSS, Node, NodeKind
from ..values.trace import Trace

Vector = Float[Tensor, "d_model"]


@dataclass(frozen=True)
class Layer:
    """One layer of a trace, with the vectors of its nodes.

    Attributes
    ----------
    trace, layer
        The trace of a stack, and which of its layers.
    cross
        Whether ``"attention"`` is the layer's attention to the encoder rather than to its own stack.
    """

    trace: Trace
    layer: int
    cross: bool = False

    @property
    def row(self) -> int:
        """Index into the kept layers."""
        return self.layer - self.trace.layers[0]

    @property
    def kinds(self) -> Mapping[str, NodeKind]:
        """Kind of a part of attention → its kind in this layer."""
        return CROSS if self.cross else {}

    def site(self, name: str) -> Tensor:
        """A site of the attention over the kept layers: ``"pattern"``, ``"q"``, ``"k"``, ``"v"``, ``"z"`` or ``"out"``."""
        if name == "out":
            return self.trace.cross_out if self.cross else self.trace.attn_out
        return self.trace.site(f"cross_{name}" if self.cross else name)

    @property
    def state_before(self) -> Tensor:
        """[layer, position, d_model] the states that attention enters."""
        return self.trace.resid_cross if self.cross else self.trace.resid_pre

    @property
    def anatomy(self) -> Anatomy:
        """The parts of the attention."""
        anatomy = self.trace.model.anatomy
        return anatomy.reader_of_encoder if self.cross else anatomy

    @cached_property
    def source_rows(self) -> Float[Tensor, "head key_pos d_model"]:
        """[head, key_pos, d_model] value · W_O of each source."""
        anatomy = self.anatomy
        values = anatomy.per_query_head(upcast(self.site("v")[self.row]))
        # Key and value heads are repeated here once, so that every later sum has one row for each query head.
        return _gained(self._post_norm("attention"), values @ anatomy.W_O(self.layer))

    @cached_property
    def output_rows(self) -> Float[Tensor, "row d_model"]:
        """[head · d_head, d_model] rows of W_O."""
        weight = self.anatomy.W_O(self.layer).flatten(0, 1)
        return _gained(self._post_norm("attention"), weight)

    @cached_property
    def neuron_rows(self) -> Float[Tensor, "d_mlp d_model"]:
        """[d_mlp, d_model] rows of W_out."""
        return _gained(self._post_norm("mlp"), self._block("mlp").neuron_layers.output.weight)

    def source_amounts(self, position: int) -> Float[Tensor, "head key_pos"]:
        """[head, key_pos] pattern of a query, through the scale of a norm after the block."""
        return upcast(self.site("pattern")[self.row, :, position]) / self._scale("attention", position)

    def output_amounts(self, position: int) -> Float[Tensor, "row"]:
        """[head · d_head] z of a query, likewise."""
        return upcast(self.site("z")[self.row, :, position]).reshape(-1) / self._scale("attention", position)

    def neuron_amounts(self, position: int) -> Float[Tensor, "d_mlp"]:
        """[d_mlp] activations, likewise."""
        return upcast(self.trace.neurons[self.row, position]) / self._scale("mlp", position)

    def bias(self, part: str, position: int) -> Vector | None:
        """[d_model] contribution of the bias of ``"attention"`` or ``"mlp"`` and of a norm after it; None without a bias."""
        block = self._block(part)
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
        return self._norm(part).linear(x, upcast(self.trace.norm_scales[self._scales(part)][self.row, position]))

    def state_bias(self, part: str) -> Vector | None:
        """[d_model] bias of the norm over that sum in post-norm blocks; None elsewhere."""
        if self.trace.wiring != "post_norm":
            return None
        return self._norm(part).bias

    def normed(self, part: str, position: int, state: Vector) -> Vector:
        """[d_model] the state as ``"attention"`` or ``"mlp"`` reads it; in post-norm blocks the state itself."""
        if self.trace.wiring == "post_norm":
            return state
        norm = self._norm(part)
        out = norm.linear(state, upcast(self.trace.norm_scales[self._scales(part)][self.row, position]))
        return out if norm.bias is None else out + norm.bias

    def _block(self, part: str) -> Block:
        anatomy = self.anatomy if part == "attention" else self.trace.model.anatomy
        return anatomy.blocks[self.layer]

    def _norm(self, part: str) -> Norm:
        norm: Norm = self._block(part).attention_norm if part == "attention" else self._block(part).mlp_norm
        return norm

    def _scales(self, part: str) -> str:
        """What the scales of a norm are called."""
        return "cross" if self.cross and part == "attention" else part

    def _post_norm(self, part: str) -> Norm | None:
        norm: Norm | None = (
            self._block(part).attention_post_norm if part == "attention" else self._block(part).mlp_post_norm
        )
        return norm

    def _scale(self, part: str, position: int) -> Tensor:
        if self._post_norm(part) is None:
            return torch.ones((), device="cpu")
        return upcast(self.trace.norm_scales[f"{self._scales(part)}_post"][self.row, position])


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
