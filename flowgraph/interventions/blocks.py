"""A block in two halves, by its own modules: up to z, and from z on. Rows can enter at z, or go on at one position alone."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import UnsupportedReadingError
from ..models.anatomy import Anatomy, Block, Norm, Projection
from ..models.hooks import before
from .calls import Call


def mixed(
    anatomy: Anatomy,
    layer: int,
    states: Float[Tensor, "row position d_model"],
    call: Call,
    prompt: Int[Tensor, "row"],
) -> Float[Tensor, "row position width"]:
    """[row, position, width] outputs z of a layer's heads, heads side by side; ``prompt`` as in :meth:`Call.run`."""
    block = anatomy.blocks[layer]
    assert block.attention_output is not None
    # Post-norm blocks normalise behind attention, so attention reads the state itself.
    reads = states if anatomy.wiring == "post_norm" else block.attention_norm.module(states)
    seen: list[Tensor] = []
    handle = before(block.attention_output.module, seen.append)
    try:
        output = call.run(block.attention, reads, prompt)
    finally:
        handle.remove()
    # In BERT the projection stands outside the module that attends, and has not run.
    z: Tensor = seen[0] if seen else output[0]
    return block.attention_output.filled(z)


def is_whole(block: Block) -> bool:
    """Whether a block runs as one module only: it does not attend, or something stands beside its attention or its MLP."""
    return block.attention is None or block.mixer is not None or block.mlp_beside is not None


def after_attention(
    anatomy: Anatomy, layer: int, states: Float[Tensor, "*row d_model"], z: Float[Tensor, "*row width"]
) -> Float[Tensor, "*row d_model"]:
    """[…, d_model] the state that leaves a block, from the state that entered it and its heads' outputs z.

    Each position is computed by itself: only attention mixes positions.
    """
    block = anatomy.blocks[layer]
    if block.attention_output is None or block.mixer is not None:
        raise UnsupportedReadingError(f"layer {layer}: what a mixer adds does not follow from the outputs of heads")
    added = _normed(block.attention_post_norm, block.attention_output.added(z))
    if anatomy.wiring == "parallel":
        return states + added + mlp_of(anatomy, layer, block.mlp_norm.module(states))
    middle = states + added
    if anatomy.wiring == "post_norm":
        middle = block.attention_norm(middle)
        return block.mlp_norm(middle + mlp_of(anatomy, layer, middle))
    return middle + mlp_of(anatomy, layer, block.mlp_norm.module(middle))


def mlp_of(anatomy: Anatomy, layer: int, reads: Tensor) -> Tensor:
    """[..., d_model] what the MLP of a layer writes for the vectors that it reads."""
    block = anatomy.blocks[layer]
    if block.mlp is None:
        return torch.zeros_like(reads)
    if block.mlp_beside is not None:
        raise UnsupportedReadingError(
            f"layer {layer} has a second module beside its MLP, which does not follow from what the MLP reads"
        )
    if block.mlp_output is None:
        # A module of its own, such as a mixture of experts, takes rows of positions only.
        output = block.mlp(reads[None] if reads.ndim == 2 else reads.flatten(0, -3))
        whole = output[0] if isinstance(output, tuple) else output
        return _normed(block.mlp_post_norm, (whole.reshape(reads.shape)) * block.mlp_factor)
    assert block.mlp_input is not None
    # One module may hold gate and input side by side; it then runs once for both.
    fused = block.mlp_gate is not None and block.mlp_gate.module is block.mlp_input.module
    up = block.mlp_input.module(reads)
    gate = None if block.mlp_gate is None else up if fused else block.mlp_gate.module(reads)
    neurons = block.neurons(None if gate is None else _part(block.mlp_gate, gate), _part(block.mlp_input, up))
    return _normed(block.mlp_post_norm, block.mlp_output.added(neurons))


def _part(projection: Projection | None, output: Tensor) -> Tensor:
    return output if projection is None else output[..., slice(*projection.columns)]


def _normed(norm: Norm | None, x: Any) -> Tensor:
    result: Tensor = x if norm is None else norm.module(x)
    return result
