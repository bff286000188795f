"""The model under measurement and its inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import flowgraph

SEED = 0


@dataclass(frozen=True)
class Setup:
    """What every benchmark gets.

    Attributes
    ----------
    name
        Known name or folder of the model.
    loaded
        The model.
    pairs
        How often each pair of timings is taken.
    """

    name: str
    loaded: flowgraph.LoadedModel
    pairs: int

    def lengths(self, wanted: tuple[int, ...]) -> list[int]:
        """The wanted prompt lengths that the model's context allows."""
        context = self.loaded.anatomy.context
        return [n for n in wanted if context is None or n <= context]


def prompt(loaded: flowgraph.LoadedModel, n_tokens: int) -> list[int]:
    """Token ids drawn with a fixed seed."""
    generator = torch.Generator().manual_seed(SEED)
    return list(torch.randint(1, loaded.anatomy.d_vocab, (n_tokens,), generator=generator).tolist())


def bare_forward(loaded: flowgraph.LoadedModel, ids: list[int], *, last_only: bool) -> Any:
    """The model's own forward pass without gradients and without a cache of keys and values.

    ``last_only`` applies the head to the last position, as a trace does; most people call it on all of them.
    """
    batch = torch.tensor([ids], device=loaded.device)
    options = {"logits_to_keep": 1} if last_only else {}
    with torch.no_grad():
        return loaded.model(input_ids=batch, use_cache=False, **options)


def states(loaded: flowgraph.LoadedModel, count: int) -> Tensor:
    """[count, d_model] vectors drawn with a fixed seed."""
    return torch.randn(count, loaded.anatomy.d_model, generator=torch.Generator().manual_seed(SEED))


def bare_product(loaded: flowgraph.LoadedModel, vectors: Tensor) -> Tensor:
    """[count, d_vocab] one matrix product with the unembedding, and nothing else."""
    with torch.no_grad():
        logits: Tensor = vectors @ loaded.model.get_output_embeddings().weight.T
    return logits
