"""How many numbers passes hold for each token of a prompt, at most: what memory is stated by before anything runs, and kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..models import LoadedModel

LAYERS_AT_ONCE = 5
"""Layers whose receivers share a product: what senders changed is then read a fifth as often."""
_SAVED = (16, 6, 5, 4)
"""What a block's pass with gradients holds at most: so many states, queries with keys and values, MLP inputs, and patterns."""
_WORKING = (8, 6, 5, 4)
"""The same of a block that works without them."""


@dataclass(frozen=True)
class PassNumbers:
    """Numbers for each token of one prompt.

    Attributes
    ----------
    width
        Bytes of a number.
    graph
        What autograd keeps of a pass.
    block
        What one block works with.
    attention
        What one attention works with, run anew for one sender.
    kept
        What is kept of a pass for senders and receivers.
    gradients
        Gradients with respect to what is written and read.
    changes
        A vector for every sender.
    making
        What making these takes besides.
    into
        Gradients into the receivers that share a product.
    all_into
        Gradients into every receiver.
    pattern
        Patterns of a layer.
    logits
        Not of a token but of a prompt: logits, and what a metric makes of them.
    scores
        Not of a token but of all: a number for every sender and receiver.
    """

    width: int
    graph: int
    block: int
    attention: int
    kept: int
    gradients: int
    changes: int
    making: int
    into: int
    all_into: int
    pattern: int
    logits: int
    scores: int


def pass_numbers(loaded: LoadedModel, n_tokens: int) -> PassNumbers:
    """What passes of a prompt of so many tokens hold."""
    anatomy = loaded.anatomy
    layers, d_model, pattern = len(anatomy.blocks), anatomy.d_model, anatomy.n_heads * n_tokens
    readers = anatomy.n_heads + 2 * anatomy.n_kv_heads
    projected, d_mlp = readers * anatomy.d_head, max(block.mlp_output.d_in for block in anatomy.blocks)
    senders, widths = 1 + layers * (anatomy.n_heads + 1), (d_model, projected, d_mlp, pattern)

    def together(counts: tuple[int, int, int, int]) -> int:
        return sum(count * width for count, width in zip(counts, widths, strict=True))

    return PassNumbers(
        width=max(4, loaded.dtype.itemsize),
        graph=layers * together(_SAVED),
        block=together(_WORKING),
        attention=6 * d_model + 6 * projected + 4 * pattern,
        # States before attention and MLP, what both add, z, and where there is a second norm what it reads.
        kept=layers * (4 * d_model + anatomy.n_heads * anatomy.d_head) + 2 * d_model,
        gradients=layers * (3 * d_model + 2 * projected) + 2 * d_model,
        changes=senders * d_model,
        making=senders * d_model if anatomy.wiring == "sandwich" else 0,
        into=2 * min(LAYERS_AT_ONCE, layers + 1) * (readers + 1) * d_model,
        all_into=(layers * (readers + 1) + 1) * d_model,
        pattern=pattern,
        logits=6 * anatomy.d_vocab,
        scores=senders * (1 + layers * (readers + 1)),
    )


def fitting(count: int, size: Callable[[int], int], max_bytes: int) -> int:
    """How many prompts can be run together, so that their size stays within the bytes; 0 if not even one can."""
    return next((prompts for prompts in range(count, 0, -1) if size(prompts) <= max_bytes), 0)
