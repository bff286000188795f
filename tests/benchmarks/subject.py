"""The model under measurement and its inputs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

import flowgraph

SEED = 0
DEFAULT = "smollm2"
SHAPES = {"gpt2-small-shape": (12, 12, 768), "gpt2-tiny-shape": (2, 2, 16)}
"""Layers, heads and width of models with random weights, for work whose cost does not depend on what they say."""

TEXT = (
    "The ferry left the harbour an hour late, because the captain had lent his keys to the cook and the cook had gone to the "
    "market for onions. Most passengers did not mind. Two sisters from the island played cards on a suitcase, an old teacher "
    "corrected essays about the moon, and a boy asked everyone in turn whether whales can hear the engine. When the wind rose "
    "in the afternoon, the younger sister gave her coat to the boy, and the teacher read aloud what one of her pupils had "
    "written: that the moon is a lamp which the sea keeps polishing. Nobody laughed. The captain, who had been listening at "
    "the door, said that it was true, and that he had seen the cloth."
)
"""A text for work whose cost does depend on it: attention flow finds its way through real attention."""


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

    @property
    def small(self) -> bool:
        """Whether the model is one for tests, for which synthetic work is cut down as well."""
        return self.loaded.anatomy.d_model <= 64

    @property
    def title(self) -> str:
        """What rows call the model: its name, or the last part of its folder."""
        return PurePath(self.name).name

    @property
    def shape(self) -> str:
        """Which of :data:`SHAPES` to measure."""
        return "gpt2-tiny-shape" if self.small else "gpt2-small-shape"


def load(name: str) -> flowgraph.LoadedModel:
    """A model by name or folder, or one of :data:`SHAPES`."""
    if name not in SHAPES:
        return flowgraph.load_model(name)
    layers, heads, width = SHAPES[name]
    config = GPT2Config(
        n_layer=layers,
        n_head=heads,
        n_embd=width,
        n_positions=512,
        vocab_size=512,
        bos_token_id=None,
        eos_token_id=None,
    )
    config._attn_implementation = "eager"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model = GPT2LMHeadModel(config).eval()
    return flowgraph.load_model(model)


def attention_of_text(loaded: flowgraph.LoadedModel, n_tokens: int) -> np.ndarray:
    """[layer, query_pos, key_pos] float64 attention, heads averaged, of the first tokens of :data:`TEXT`."""
    ids = loaded.tokenizer(TEXT, truncation=True, max_length=n_tokens)["input_ids"]
    if len(ids) < n_tokens:
        raise ValueError(f"the text has {len(ids)} tokens; {n_tokens} are wanted")
    attention: np.ndarray = flowgraph.trace(loaded, ids, keep={"pattern"}).pattern.double().mean(1).numpy()
    return attention


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
