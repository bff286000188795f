"""Upper bounds of the numbers that passes hold for each token of a prompt. Memory is estimated from them before anything runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..models import LoadedModel
from .network import network_of
from .prompts import Lengths

LAYERS_AT_ONCE = 5
"""Layers whose receivers share a product: the senders' changes are then read from memory a fifth as often."""
READERS_AT_ONCE = 4 * LAYERS_AT_ONCE
"""The readers of these layers: queries, keys, values and MLPs."""
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
    senders, layers, heads
        How many nodes write; attentions one after the other; heads of the widest of these.
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
    senders: int
    layers: int
    heads: int


def pass_numbers(loaded: LoadedModel, lengths: Lengths) -> PassNumbers:
    """Numbers that passes of a prompt hold for each token; of two stacks for each token of both, as if each went through both."""
    anatomy, n_tokens = loaded.anatomy, sum(lengths)
    stacks = (anatomy, *anatomy.sources.values())
    attentions = [part for one in stacks for part in (one, *(() if one.cross is None else (one.cross,)))]
    d_model = max(one.d_model for one in stacks)
    heads = max(one.n_heads for one in attentions)
    pattern = heads * n_tokens
    readers = max(one.n_heads + 2 * one.n_kv_heads for one in attentions)
    d_head, d_mlp = max(one.d_head for one in attentions), max(one.mlp_width for one in stacks)
    projected, widths = readers * d_head, (d_model, readers * d_head, d_mlp, pattern)
    # A layer of a decoder that reads an encoder attends twice, and is counted as two.
    layers = sum(len(one.blocks) for one in attentions)
    network = network_of(anatomy)
    senders, is_normed = network.count, any(one.wiring == "post_norm" for one in stacks)

    def together(counts: tuple[int, int, int, int]) -> int:
        return sum(count * width for count, width in zip(counts, widths, strict=True))

    return PassNumbers(
        # Numbers are computed in 32 bits at least, whatever the weights are stored in.
        width=max(4, loaded.dtype.itemsize),
        graph=layers * together(_SAVED),
        block=together(_WORKING),
        attention=6 * d_model + 6 * projected + 4 * pattern,
        # States before attention and MLP, what both add, z, and where there is a second norm what it reads.
        kept=layers * ((6 if is_normed else 4) * d_model + heads * max(one.d_value for one in attentions))
        + 2 * d_model,
        gradients=layers * (3 * d_model + 2 * projected) + 2 * d_model,
        changes=senders * d_model,
        making=senders * d_model if any(one.wiring == "sandwich" for one in stacks) else 0,
        into=2 * (2 * layers if is_normed else min(LAYERS_AT_ONCE, layers + 1)) * (readers + 1) * d_model,
        all_into=(layers * (readers + 1) + 1) * d_model * (2 * layers if is_normed else 1),
        pattern=pattern,
        logits=6 * anatomy.d_vocab,
        scores=senders * len(network.receivers),
        senders=senders,
        layers=layers,
        heads=heads,
    )


def fitting(count: int, size: Callable[[int], int], max_bytes: int) -> int:
    """How many prompts can be run together, so that their size stays within the bytes; 0 if not even one can."""
    # From the largest down: the size need not rise evenly, since work on a few tokens at a time has a floor.
    return next((prompts for prompts in range(count, 0, -1) if size(prompts) <= max_bytes), 0)
