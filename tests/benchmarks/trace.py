"""What recording a pass costs on top of the pass."""

from __future__ import annotations

from collections.abc import Iterator

import flowgraph

from .pairs import Row, timed
from .subject import Setup, bare_forward, prompt

LENGTHS = (8, 16, 64, 128, 256)
KEPT: dict[str, set[str] | None] = {"all sites": None, "pattern": {"pattern"}, "resid_post": {"resid_post"}}


def rows(setup: Setup) -> Iterator[Row]:
    """Every choice of sites at every length; all sites also against a pass with the logits of every position."""
    loaded = setup.loaded
    for n_tokens in setup.lengths(LENGTHS):
        ids = prompt(loaded, n_tokens)
        for name, keep in KEPT.items():
            for last_only in (True, False) if keep is None else (True,):
                yield timed(
                    f"trace, T = {n_tokens}, {name}",
                    lambda ids=ids, keep=keep: flowgraph.trace(loaded, ids, keep=keep),  # type: ignore[misc]
                    f"forward, {'last logits' if last_only else 'all logits'}",
                    lambda ids=ids, last_only=last_only: bare_forward(loaded, ids, last_only=last_only),  # type: ignore[misc]
                    pairs=setup.pairs,
                )
