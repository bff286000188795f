"""All heads changed in one climb against one forward for each; attribution against the passes that it is made of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel

import flowgraph
from flowgraph.models.eager import eager_attention

from .pairs import Base, Row, compared, timed
from .subject import SEED, SHAPES, Setup, bare_forward, prompt

LENGTHS = (8, 16)


def rows(setup: Setup) -> Iterator[Row]:
    """The model, and one of GPT-2's shape with random weights."""
    for title, loaded in ((setup.title, setup.loaded), (setup.shape, _shaped(setup))):
        for n_tokens in setup.lengths(LENGTHS):
            yield from _sweep(setup, title, loaded, n_tokens)
            yield from _scores(setup, title, loaded, n_tokens)


def _shaped(setup: Setup) -> flowgraph.LoadedModel:
    """GPT-2's shape with its vocabulary, which a plain forward puts every position through."""
    layers, heads, width = SHAPES[setup.shape]
    config = GPT2Config(n_layer=layers, n_head=heads, n_embd=width, vocab_size=512 if setup.small else 50_257)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        return flowgraph.load_model(GPT2LMHeadModel(config).eval())


def _sweep(setup: Setup, title: str, loaded: flowgraph.LoadedModel, n_tokens: int) -> Iterator[Row]:
    ids = prompt(loaded, n_tokens)
    # One layer in the middle stands for all: without resuming every layer costs the same.
    layers = len(loaded.anatomy.blocks)
    base = Base(
        "one forward for each head",
        lambda: _naive_layer(loaded, ids, layers // 2),
        layers,
        f"{layers} × one layer's heads",
    )
    yield from compared(
        f"head_effects, {title}, T = {n_tokens}",
        lambda: flowgraph.head_effects(loaded, ids, target=7),
        [base],
        pairs=max(1, setup.pairs // 3),
    )


def _naive_layer(loaded: flowgraph.LoadedModel, ids: list[int], layer: int) -> list[float]:
    """What a plain loop does: a hook that empties one head, a forward, the answer's logit."""
    anatomy, found = loaded.anatomy, []
    width = anatomy.d_head
    for head in range(anatomy.n_heads):

        def emptied(_module: Any, args: tuple[Any, ...], head: int = head) -> tuple[Any, ...]:
            z = args[0].clone()
            z[..., head * width : (head + 1) * width] = 0.0
            return (z, *args[1:])

        handle = anatomy.blocks[layer].attention_output.module.register_forward_pre_hook(emptied)
        logits = bare_forward(loaded, ids, last_only=False).logits[0, -1]
        handle.remove()
        found.append(float(logits[7] - logits.mean()))
    return found


def _scores(setup: Setup, title: str, loaded: flowgraph.LoadedModel, n_tokens: int) -> Iterator[Row]:
    ids = prompt(loaded, n_tokens)
    other = [ids[0], *reversed(ids[1:])]
    yield timed(
        f"edge_scores, {title}, T = {n_tokens}",
        lambda: flowgraph.edge_scores(loaded, ids, other, target=7),
        "2 forwards and 1 backward",
        lambda: _passes(loaded, ids, other),
        pairs=setup.pairs,
    )


def _passes(loaded: flowgraph.LoadedModel, ids: list[int], other: list[int]) -> None:
    """The passes alone: gradients to the embedding, through what is not a weight."""
    with eager_attention(loaded.model):
        bare_forward(loaded, other, last_only=True)
        embedded = loaded.anatomy.embedding(torch.tensor([ids])).detach().requires_grad_()
        logits = loaded.model(inputs_embeds=embedded, use_cache=False, logits_to_keep=1).logits[0, -1]
        torch.autograd.grad(logits[7] - logits.mean(), embedded)
