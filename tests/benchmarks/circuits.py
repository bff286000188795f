"""Scores of every edge against the passes that they cannot do without, and the memory of searches against what is stated."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

import flowgraph
from flowgraph.models.eager import eager_attention

from ..live_memory import Live
from .pairs import Row, timed
from .subject import Setup, bare_forward, prompt

_STEPS = 5
_PROMPTS = 8
_FORWARDS = 40
"""Of a backward search, for each prompt: what it holds is there before any edge is cut."""


def rows(setup: Setup) -> Iterator[Row]:
    """Attribution patching, plain and with integrated gradients, for a short and a long prompt."""
    loaded = setup.loaded
    for n_tokens in setup.lengths((16, 64)):
        ids = prompt(loaded, n_tokens)
        other = [ids[0], *reversed(ids[1:])]
        yield timed(
            f"discover(method='eap'), {setup.title}, T = {n_tokens}",
            _search(loaded, ids, other, "eap"),
            "2 forwards and 1 backward",
            lambda ids=ids, other=other: _passes(loaded, ids, other, 1),
            pairs=setup.pairs,
        )
        yield timed(
            f"discover(method='eap-ig'), {_STEPS} steps, {setup.title}, T = {n_tokens}",
            _search(loaded, ids, other, "eap-ig"),
            f"2 forwards and {_STEPS} forwards with backward",
            lambda ids=ids, other=other: _passes(loaded, ids, other, _STEPS, apart=True),
            pairs=setup.pairs,
        )
    yield from _memory(loaded, setup.title, setup.lengths((16,))[0])


def _memory(loaded: flowgraph.LoadedModel, title: str, n_tokens: int) -> Iterator[Row]:
    """Bytes of the tensors that are there at the same time, at most, counted where they are made."""
    ids = torch.tensor([prompt(loaded, _PROMPTS * n_tokens)]).view(_PROMPTS, n_tokens)
    other = ids.roll(1, 1)
    for method in ("backward", "eap", "eap-ig"):
        stated = flowgraph.discovery_size(loaded, ids, method=method)
        with Live(loaded.model) as live:
            flowgraph.discover(
                loaded, clean=ids, corrupted=other, target=7, foil=9, method=method, steps=_STEPS, top_k=100, threshold=0.0,
                budget=_FORWARDS * _PROMPTS if method == "backward" else None,
            )  # fmt: skip
        ratio = live.peak / stated
        yield Row(
            f"tensors of discover(method='{method}'), {title}, T = {n_tokens}, {_PROMPTS} prompts", "discovery_size",
            ratio, ratio, ratio, None, 1, live.peak / 2**20, stated / 2**20, "MB",
        )  # fmt: skip


def _search(loaded: flowgraph.LoadedModel, ids: list[int], other: list[int], method: str) -> Callable[[], object]:
    return lambda: flowgraph.discover(
        loaded, clean=ids, corrupted=other, target=7, foil=9, method=method, steps=_STEPS, top_k=100, threshold=0.0
    )


def _passes(
    loaded: flowgraph.LoadedModel, ids: list[int], other: list[int], steps: int, *, apart: bool = False
) -> None:
    """The passes alone: gradients to the embedding; ``apart`` runs the clean prompt once more without them."""
    with eager_attention(loaded.model):
        bare_forward(loaded, other, last_only=True)
        if apart:
            bare_forward(loaded, ids, last_only=True)
        for _ in range(steps):
            embedded = loaded.anatomy.embedding(torch.tensor([ids])).detach().requires_grad_()
            logits = loaded.model(inputs_embeds=embedded, use_cache=False, logits_to_keep=1).logits[0, -1]
            torch.autograd.grad(logits[7] - logits[9], embedded)
