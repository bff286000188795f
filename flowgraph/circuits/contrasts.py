"""The counterfactual prompts that a picture is searched and tested with, where none or too few are given."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..errors import NoCounterfactualError
from ..interventions.prompts import Prompts, prompts_of
from ..models import LoadedModel
from ..tasks.counterfactuals import Counterfactuals, counterfactuals, of_one_kind
from ..tracing import trace as trace_of
from ..values.inputs import Inputs
from ..values.trace import Trace

SEARCHED, HELD_OUT = 3, 2
"""Number of proposed counterfactuals that a search sees, and of those that it is tested with."""
_ROOM = 2
"""Proposals move the answer by so many times the least gap, so that no measure of theirs is near its limit."""


def shared_out(
    loaded: LoadedModel, trace: Trace, corrupted: Prompts | None, unseen: Prompts | None, *, seed: int, least_gap: float
) -> tuple[list[Any], list[Any]]:
    """Counterfactual prompts for the search, and for the test: those that are given, else proposals."""
    held_out = [] if unseen is None else _each(loaded, unseen, "unseen")
    if corrupted is not None:
        given = _each(loaded, corrupted, "corrupted")
        if held_out or len(given) < 2:
            return given, held_out
        last = max(1, len(given) // 3)
        return given[:-last], given[-last:]
    found = proposed(loaded, trace, seed=seed, least_gap=least_gap)
    if held_out or len(found) < 2:
        return found[:SEARCHED], held_out
    # In turns, so that neither side has the prompts with the larger gaps.
    searched = found[::2][:SEARCHED]
    return searched, [one for one in found if one not in searched][:HELD_OUT]


def proposed(
    loaded: LoadedModel, prompt: Any, *, target: str | int | None = None, seed: int, least_gap: float
) -> list[Any]:
    """Proposals, the best first: exchanges of one word, for others of one kind if there are some: :meth:`Counterfactuals.alike`."""
    trace = prompt if isinstance(prompt, Trace) else trace_of(loaded, prompt, target=target, keep=())
    # A token that is explained itself would bring its change to the answer without a part.
    places = [n for n in range(len(trace.tokens)) if n != trace.position]
    options: dict[str, Any] = {
        "target": trace.target if target is None else target, "seed": seed, "least_gap": _ROOM * least_gap
    }  # fmt: skip
    found, wanted = counterfactuals(loaded, trace, 16, positions=places, **options), SEARCHED + HELD_OUT
    chosen = found.alike()
    if len(of_one_kind(chosen)) < wanted:
        more: Counterfactuals | None
        try:
            more = counterfactuals(loaded, trace, 2 * wanted, positions=list(chosen[0].positions), **options)
        except NoCounterfactualError:
            more = None  # those that were found before are enough
        known = {one.token_ids for one in chosen}
        both = [*chosen, *(one for one in more or () if one.token_ids not in known)]
        chosen = replace(found, items=tuple(both)).alike()
    if len(chosen) < SEARCHED:
        chosen += [one for one in found if one not in chosen]
    return [one.prompt for one in chosen]


def without_foil(prompt: Any) -> Any:
    """A trace that names no foil: what proposals answer is what the answer is compared with, and they need not move another difference."""
    if not isinstance(prompt, Trace) or prompt.foil is None:
        return prompt
    return replace(prompt, foil=None, foil_token=None, recorded_weights={}, recorded_readings={})


def _each(loaded: LoadedModel, prompts: Prompts, name: str) -> list[Inputs]:
    """Every prompt by itself."""
    return [Inputs((one.row,)) for one in prompts_of(loaded, prompts, name)]
