"""What recording a pass costs on top of the pass, and what it costs to hold it against the identities and its weights."""

from __future__ import annotations

from collections.abc import Iterator

import torch

import flowgraph
from flowgraph.models.consistency import check_trace
from flowgraph.models.forward import SITES, Pass, run

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
        yield _identities(setup, ids)
        yield timed(
            f"weights looked at again, as each use of a trace does, T = {n_tokens}",
            loaded.weights.digest,
            "forward, last logits",
            lambda ids=ids: bare_forward(loaded, ids, last_only=True),  # type: ignore[misc]
            pairs=setup.pairs,
        )


def _identities(setup: Setup, ids: list[int]) -> Row:
    """What it costs to hold a pass that kept all sites against the identities, as a part of that pass."""
    anatomy, feed = setup.loaded.anatomy, {"input_ids": torch.tensor([ids], device=setup.loaded.device)}
    layers, last = range(len(anatomy.blocks)), len(ids) - 1

    def passed() -> Pass:
        return run(anatomy, feed, sites=frozenset(SITES), layers=layers, logits_at=last)

    kept = passed()
    return timed(
        f"identities of a trace, T = {len(ids)}",
        lambda: check_trace(anatomy, feed, kept, layers=layers, at=last),
        "the pass, all sites kept",
        passed,
        pairs=setup.pairs,
    )
