"""What reading vectors in vocabulary costs on top of the matrix product."""

from __future__ import annotations

from collections.abc import Iterator

import flowgraph

from .pairs import Row, timed
from .subject import Setup, bare_product, prompt, states

COUNTS = (240, 480, 2000)


def rows(setup: Setup) -> Iterator[Row]:
    """Readings of 240 (8 tokens of 30 layers), 480 and 2,000 vectors."""
    loaded = setup.loaded
    trace = flowgraph.trace(loaded, prompt(loaded, 8), keep={"resid_post"})
    for count in COUNTS:
        vectors = states(loaded, count)
        yield timed(
            f"read, N = {count:,}",
            lambda vectors=vectors: flowgraph.read(trace, vectors, k=10),  # type: ignore[misc]
            "matrix product",
            lambda vectors=vectors: bare_product(loaded, vectors),  # type: ignore[misc]
            pairs=setup.pairs,
        )
