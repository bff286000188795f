"""Rows that a search suggests, from the one that says most to the one that says least; the first that is proved is taken."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from ...errors import ArchitectureError
from ..anatomy import Anatomy, build
from ..families import Family
from ..kinds import is_encoder_decoder, reads_choices
from .search import discover

Proof = Callable[[Anatomy], dict[str, float]]


def can_search(model: Any) -> bool:
    """Whether a search makes sense: one stack that takes token ids."""
    return not is_encoder_decoder(model) and not reads_choices(model)


def found_and_proved(model: Any, prove: Proof) -> tuple[Anatomy, dict[str, float]]:
    """The parts that a search finds in a model, and their proof.

    Raises
    ------
    ArchitectureError
        If none of the rows that the search suggests is proved.
    """
    first: ArchitectureError | None = None
    for row in _suggested(discover(model)):
        anatomy = build(model, row)
        try:
            return anatomy, prove(anatomy)
        except ArchitectureError as error:
            first = first or error
    assert first is not None
    raise first


def _suggested(found: Family) -> Iterator[Family]:
    """The found row with each form of rotary embedding, then without projections, whose queries and keys need no explanation."""
    (stack,) = found.stacks
    attention = stack.attention
    if attention.query or attention.fused:
        for rotary in ("none", "half", "interleaved"):
            yield replace(found, stacks=(replace(stack, attention=replace(attention, rotary=rotary)),))
    bare = replace(attention, query="", key="", value="", fused="", query_norm="", key_norm="")
    yield replace(found, stacks=(replace(stack, attention=bare),))
