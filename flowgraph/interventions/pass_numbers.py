"""Upper bounds of the numbers that passes hold for each token of a prompt. Memory is estimated from them before anything runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..models import LoadedModel

LAYERS_AT_ONCE = 5
"""Layers whose receivers share a product: the senders' changes are then read from memory a fifth as often."""
# Upper bounds: tests compare them with the memory that passes really take.
_SAVED = (16, 6, 5, 4)
"""Most tensors that a block's pass with gradients holds: states, queries with keys and values, MLP inputs, and patterns."""
_WORKING = (8, 6, 5, 4)
"""The same for a block without gradients."""


@dataclass(frozen=True)
class PassNumbers:
    """Numbers for each token of one prompt.

    Attributes
    ----------
    width
        Bytes of a number.
    graph
        Autograd's graph of a pass.
    block
        Work of one block.
    attention
        Work of one attention that runs again for one sender.
    kept
        Sites of a pass that senders and receivers need.
    gradients
        Gradients with respect to outputs and inputs.
    changes
        A vector for every sender.
    making
        Further work to make these vectors.
    into
        Gradients into the receivers that share a product.
    all_into
        Gradients into every receiver.
    pattern
        Patterns of a layer.
    logits
        Not of a token but of a prompt: logits, and the work of a metric on them.
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
    """Numbers that passes of a prompt of ``n_tokens`` tokens hold for each token."""
    anatomy = loaded.anatomy
    layers, d_model, pattern = len(anatomy.blocks), anatomy.d_model, anatomy.n_heads * n_tokens
    readers = anatomy.n_heads + 2 * anatomy.n_kv_heads
    projected, d_mlp = readers * anatomy.d_head, anatomy.mlp_width
    senders, widths = 1 + layers * (anatomy.n_heads + 1), (d_model, projected, d_mlp, pattern)

    def together(counts: tuple[int, int, int, int]) -> int:
        return sum(count * width for count, width in zip(counts, widths, strict=True))

    return PassNumbers(
        # Numbers are computed in 32 bits at least, whatever the weights are stored in.
        width=max(4, loaded.dtype.itemsize),
        graph=layers * together(_SAVED),
        block=together(_WORKING),
        attention=6 * d_model + 6 * projected + 4 * pattern,
        # States before attention and MLP, what both add, z, and where there is a second norm what it reads.
        kept=layers * (4 * d_model + anatomy.n_heads * anatomy.d_value) + 2 * d_model,
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
    # From the largest down: the size need not rise evenly, since work on a few tokens at a time has a floor.
    return next((prompts for prompts in range(count, 0, -1) if size(prompts) <= max_bytes), 0)
