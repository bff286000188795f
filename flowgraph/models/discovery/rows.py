"""Rows that a search suggests, from the one that says most to the one that says least; the first that is proved is taken."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch

from ...errors import ArchitectureError
from ..anatomy import Anatomy
from ..building import build
from ..families import NOT_READ, Family
from ..kinds import base_of, is_encoder_decoder, medium_of, reads_choices, reads_one_text_twice, reads_regions
from ..parameters import input_embeddings
from ..stacks import decoder_embeddings
from .block import NotFoundError
from .kept import keep_row, key_of, read_row
from .search import Search

_DAMAGED = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
Proof = Callable[[Anatomy], dict[str, float]]


def can_search(model: Any) -> bool:
    """Whether a search makes sense: the last stack takes token ids, an image or a sound."""
    if reads_choices(model) or reads_one_text_twice(model) or reads_regions(model):
        return False
    if is_encoder_decoder(model):
        return decoder_embeddings(model) is not None
    if hasattr(base_of(model), "layers_are_rescaled"):
        return False  # a forward of RWKV changes its own weights
    medium = medium_of(model)
    return input_embeddings(model) is not None if medium == "text" else medium is not None


def found_and_proved(model: Any, prove: Proof, *, keep: bool = False) -> tuple[Anatomy, dict[str, float]]:
    """The parts that a search finds in a model, and their proof.

    Parameters
    ----------
    model, prove
        The model, and what proves its parts.
    keep
        Whether a row may come from an earlier search, and is kept for later ones: for models that were just opened, whose code is
        that of their class.

    Raises
    ------
    ArchitectureError
        If none of the rows that the search suggests is proved; the message says how far each came.
    """
    key = key_of(model) if keep else None
    known = None if key is None else read_row(key)
    if known is not None:
        try:
            anatomy = build(model, known)
            return anatomy, prove(anatomy)
        except torch.cuda.OutOfMemoryError:
            raise
        except (ArchitectureError, *_DAMAGED):
            pass  # whatever a damaged row leads to, a search decides
    row, anatomy, proof = _searched(model, prove)
    if key is not None:
        keep_row(key, row)
    return anatomy, proof


def _searched(model: Any, prove: Proof) -> tuple[Family, Anatomy, dict[str, float]]:
    """The first row of a search that is proved, with what it names and the proof."""
    search = Search(model)
    try:
        suggested, reason = list(_suggested(search.row(), search)), ""
    except NotFoundError as error:
        suggested, reason = [], str(error)
    failures = []
    for row in suggested:
        anatomy = build(model, row)
        try:
            return row, anatomy, prove(anatomy)
        except ArchitectureError as error:
            failures.append(str(error))
    try:
        row = search.patterns_row(reason or failures[0])
        anatomy = build(model, row)
        return row, anatomy, prove(anatomy)
    except NotFoundError as error:
        reason = reason or failures[0]
        said = str(error)
        raise ArchitectureError(
            f"the parts of {type(model).__name__} (model_type {model.config.model_type!r}) are not found: {reason}"
            + ("" if said in reason else f"; and not even patterns can be shown: {said}")
        ) from error


def found_stages(model: Any, reason: str, prove: Proof) -> list[tuple[Anatomy, dict[str, float]] | str]:
    """The parts of each stage of a model that attends within windows, with their proofs; the reason where they are not found."""
    search = Search(model)
    found: list[tuple[Anatomy, dict[str, float]] | str] = []
    for n in range(len(search.stages())):
        try:
            anatomy = build(model, search.patterns_row(reason, n))
            found.append((anatomy, prove(anatomy)))
        except (NotFoundError, ArchitectureError) as error:
            found.append(str(error))
    return found


def _suggested(found: Family, search: Search) -> Iterator[Family]:
    """The found row with each form of rotary embedding, then without projections, whose queries and keys need no explanation."""
    (stack,) = found.stacks
    attention = stack.attention
    given = replace(
        attention, query="", key="", value="", fused="", query_norm="", key_norm="", scales=search.given_scales
    )
    forms = [given]
    if attention.query or attention.fused:
        forms = [*(replace(attention, rotary=rotary) for rotary in ("none", "half", "interleaved")), *forms]
    for form in forms:
        yield replace(found, stacks=(replace(stack, attention=form),))
    # A head that is not what it seems to be costs its readings, not the stream.
    for form in forms:
        yield replace(found, stacks=(replace(stack, attention=form),), head=NOT_READ)
