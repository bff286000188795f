"""Attention rollout against the same matrices multiplied by ``numpy.matmul``."""

from __future__ import annotations

from collections.abc import Iterator

# Compiled loops are used where the compiler has been imported, which a rollout alone does not do.
import numba  # noqa: F401
import numpy as np

import flowgraph
from flowgraph.algorithms.attention import Blocks, layer_matrices

from .flow import made_up
from .pairs import Base, Row, compared
from .subject import Setup

TOKENS = (8, 16, 32, 64, 125, 128, 256, 512, 1024)


def rows(setup: Setup) -> Iterator[Row]:
    """Causal attention of 12 and 30 layers at every length, and one that looks both ways; checks and Ã on both sides."""
    for layers in (2,) if setup.small else (12, 30):
        for tokens in TOKENS[:3] if setup.small else TOKENS[: 9 if layers == 12 else 7]:
            yield from _against_matmul(f"causal L = {layers} T = {tokens}", made_up(layers, tokens, True), setup.pairs)
    layers, tokens = (2, 16) if setup.small else (12, 512)
    yield from _against_matmul(f"bidirectional L = {layers} T = {tokens}", made_up(layers, tokens, False), setup.pairs)


def _against_matmul(name: str, attention: np.ndarray, pairs: int) -> list[Row]:
    difference = np.abs(flowgraph.attention_rollout(attention) - _multiplied(layer_matrices(attention))).max()
    base = Base(
        "numpy.matmul", lambda: _multiplied(layer_matrices(attention)), note=f"largest difference {difference:.0e}"
    )
    run = lambda: flowgraph.attention_rollout(attention)  # noqa: E731
    return compared(f"attention_rollout, {name}", run, [base], pairs=pairs)


def _multiplied(blocks: Blocks) -> np.ndarray:
    result = np.empty((len(blocks), *blocks[0].shape))
    result[0] = blocks[0]
    for layer in range(1, len(blocks)):
        np.matmul(blocks[layer], result[layer - 1], out=result[layer])
    return result
