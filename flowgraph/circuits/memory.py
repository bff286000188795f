"""Memory of a search: an upper bound before it runs, and the number of prompts that run together within it.

A backward search holds every prompt's runs until its end. Pruning holds what senders wrote in every corrupted prompt.
First-order scores are sums over prompts and hold nothing of a prompt.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ..errors import ArgumentError
from ..interventions.edge_effects import CUT_TOKENS
from ..interventions.edge_scores import scoring_bytes
from ..interventions.pass_numbers import PassNumbers, fitting, pass_numbers
from ..interventions.prompts import Lengths
from ..models import LoadedModel

MAX_BYTES = 2**32
"""Memory that a search works in, unless ``max_bytes`` says otherwise."""
RESPONSE_TOKENS = 2048
"""Tokens whose attention or MLP runs again at a time; at least those of all prompts that run together."""
FOLLOWED = 16
"""Sources of one reader whose change is followed to the readers behind it."""
_MATRICES = 8
"""Numbers for each edge that a search holds: estimates, effects, and arrays made of them."""


@dataclass(frozen=True)
class SearchSize:
    """Number of tokens, the encoder's too → prompts of these lengths that run together, and the bytes of it all besides the model."""

    at_once: dict[Lengths, int]
    total: int


def search_size(
    loaded: LoadedModel, lengths: Iterable[Lengths], method: str, *, how: str, max_bytes: int, apart: bool = False
) -> SearchSize:
    """Find the numbers of prompts that run together within ``max_bytes``: one, where they are scored ``apart``.

    Raises
    ------
    ArgumentError
        If not even one prompt at a time fits beside the held runs of the others.
    """
    counts = Counter(lengths)
    held = sum(_held(loaded, own, count, method, how) for own, count in counts.items())
    if apart:
        # Scores of each prompt, in twice the model's numbers at least.
        held += sum(2 * 4 * count * pass_numbers(loaded, own).scores for own, count in counts.items())
    at_once, work = {}, 0
    for own, count in counts.items():
        size = _work(loaded, own, method)
        at_once[own] = fitting(1 if apart else count, size, max_bytes - held)
        if not at_once[own]:
            raise ArgumentError(_too_large(method, sum(counts.values()), held + size(1), max_bytes))
        work = max(work, size(at_once[own]))
    return SearchSize(at_once, held + work)


def _too_large(method: str, prompts: int, needed: int, max_bytes: int) -> str:
    instead = ", or say method='eap-qk', which holds no prompt's runs" if method in ("backward", "acdc") else ""
    return (
        f"max_bytes={max_bytes:,} does not hold a search with method={method!r} and {prompts} prompts ({needed:,} bytes, one "
        f"prompt at a time); raise it, give fewer or shorter prompts{instead}"
    )


def _held(loaded: LoadedModel, lengths: Lengths, count: int, method: str, how: str) -> int:
    """Bytes that a search holds from beginning to end."""
    of, n_tokens = pass_numbers(loaded, lengths), sum(lengths)
    numbers = _MATRICES * of.scores
    if how == "mean":
        numbers += 3 * n_tokens * of.changes  # the average, and the sum that it is made of
    if method == "backward":
        # The clean run is kept twice, with its gradients once, and what every source makes of every reader.
        token = of.changes + 2 * of.kept + of.gradients + of.layers * of.pattern
        numbers += count * (n_tokens * token + of.logits + 3 * of.layers * of.heads * of.senders)
    elif method == "acdc":
        numbers += count * (of.logits + (n_tokens * of.changes if how == "resample" else 0))
    return of.width * numbers


def _work(loaded: LoadedModel, lengths: Lengths, method: str) -> Callable[[int], int]:
    """A function: number of prompts that run together → bytes that come and go."""
    of, n_tokens = pass_numbers(loaded, lengths), sum(lengths)
    scored = scoring_bytes(loaded, lengths, method in ("eap-qk", "acdc"))

    def scoring(prompts: int) -> int:
        summed = prompts * n_tokens * of.all_into if method in ("eap-ig", "eap-ig-exact") else 0
        return scored(prompts) + of.width * summed

    def pruning(prompts: int) -> int:
        readers = of.scores // of.changes * loaded.anatomy.d_model
        token = 2 * (of.changes + of.making) + of.kept + of.block + 2 * readers
        return max(scoring(prompts), of.width * prompts * (n_tokens * token + of.logits))

    def backward(prompts: int) -> int:
        return of.width * max(_phases(of, loaded, n_tokens, prompts))

    def confirming(prompts: int) -> int:
        first, *_, cuts = _phases(of, loaded, n_tokens, prompts)
        kept = prompts * (n_tokens * (of.changes + 2 * of.kept) + of.logits)
        return max(scoring(prompts), of.width * (kept + max(first, cuts)))

    return {"backward": backward, "acdc": pruning, "eap-ig-exact": confirming}.get(method, scoring)


def _phases(of: PassNumbers, loaded: LoadedModel, n_tokens: int, prompts: int) -> tuple[int, ...]:
    """Numbers of each phase of a backward search, for prompts that run together."""
    anatomy, tokens = loaded.anatomy, prompts * n_tokens
    # All prompts of at least one sender run together, and never more than those of all senders.
    anew = min(max(RESPONSE_TOKENS, tokens), tokens * of.senders)
    cut = max(CUT_TOKENS, tokens)
    whole = of.heads * (anatomy.d_model + anatomy.d_head) + of.pattern
    followed = 3 * FOLLOWED * anatomy.d_model
    return (
        2 * tokens * (2 * of.kept + of.block) + tokens * of.making + 2 * prompts * of.logits,
        tokens * (of.graph + of.gradients) + prompts * of.logits,
        tokens * of.into,
        anew * max(of.attention, of.block) + tokens * (whole + followed + of.into),
        cut * (of.block + 3 * anatomy.d_model) + cut // n_tokens * of.logits,
    )
