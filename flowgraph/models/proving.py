"""From a model in memory to parts that are proved: by its family's row, else by search; and what is said where neither holds."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..errors import ArchitectureError, FlowgraphError
from .anatomy import Anatomy, without_head
from .discovery import can_search, found_and_proved
from .eager import lock_of
from .families import FAMILIES
from .hooks import hooks_on
from .kept_proof import Proof, Prover
from .kinds import kind_of, medium_of
from .media import layout_of, probe_feed
from .parameters import input_embeddings
from .proof import OwnAttention, prove_and_answer
from .readout import with_readout
from .resolving import named_rows, resolve
from .sources import Opened, first_line
from .stacks import encoder_of

FOREIGN = (
    ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, OSError, RuntimeError, TypeError, ValueError,
)  # fmt: skip
"""Errors that the library's code raises for a model of another structure, or for arguments that it cannot take."""
_OF_TYPES = re.compile(r"\b(Double|Float|Half|BFloat16|float64|float16|bfloat16|dtype|scalar type)\b")
"""Number types as errors of torch name them."""


@dataclass(frozen=True)
class Proved:
    """The parts of a model with what was seen when they were proved.

    Attributes
    ----------
    anatomy, proof
        The parts and their proof.
    own_attention
        How the model answers under its own attention.
    hooks
        The hooks that were on the model.
    replaced
        Path of each module that the model's own code replaced in the passes → its class before and now.
    """

    anatomy: Anatomy
    proof: Proof
    own_attention: OwnAttention
    hooks: frozenset[tuple[str, int]]
    replaced: Mapping[str, tuple[str, str]]


def prove_opened(opened: Opened, sources: Mapping[str, Anatomy]) -> Proved:
    """Find and prove the parts of an opened model; ``sources`` is name → parts of the stacks that it reads.

    Raises
    ------
    ArchitectureError
        If they are not found, or an identity that proves them fails.
    """
    model = opened.model
    before = _kinds_of_modules(model)
    # Proof and comparison run the model under hooks, so they hold its lock.
    with lock_of(model), _understood(model):
        prover = Prover(model, errors_and_answer, opened.files)
        anatomy, proof = _parts(model, prover, keep=opened.is_fresh)
        if anatomy.embedding is None:
            layout, more = layout_of(anatomy)
            anatomy, proof = replace(anatomy, layout=layout), proof.with_more(more)
        anatomy, more = with_readout(anatomy)
        proof = proof.with_more(more)
        if sources:
            anatomy = replace(anatomy, sources=sources)
        own, hooks = prover.own_attention(anatomy), hooks_on(model)
        now = _kinds_of_modules(model)
        if now != before:
            prover.forget()
    replaced = {path: (before[path], kind) for path, kind in now.items() if before.get(path, kind) != kind}
    return Proved(anatomy, proof, own, hooks, replaced)


def _kinds_of_modules(model: Any) -> dict[str, str]:
    return {path: type(module).__name__ for path, module in model.named_modules()}


def _parts(model: Any, prover: Prover, *, keep: bool) -> tuple[Anatomy, Proof]:
    """The model's parts with their proof: by a row, else by search. Where they disagree, the proof decides.

    Raises
    ------
    ArchitectureError
        If neither is proved; the message is the row's, with what the search says after it.
    """
    try:
        return _by_row(model, prover)
    except ArchitectureError as by_row:
        if not can_search(model):
            raise
        try:
            found, _ = found_and_proved(model, prover, keep=keep)
        except ArchitectureError as by_search:
            raise ArchitectureError(
                f"{str(by_row).rstrip('.')}. Nor are its parts found by search: {by_search}"
            ) from None
        except torch.cuda.OutOfMemoryError:
            raise
        except FOREIGN as error:  # the model itself fails on a few tokens
            said = _fails_in_its_type(model, error)
            raise ArchitectureError(
                said or f"{str(by_row).rstrip('.')}. A search fails with {type(error).__name__}: {first_line(error)}"
            ) from None
        if named_rows(model):
            warnings.warn(
                f"{str(by_row).rstrip('.')}. The row is set aside, and the parts that a search found are proved and used",
                stacklevel=5,
            )
        return found, prover.proof


def _by_row(model: Any, prover: Prover) -> tuple[Anatomy, Proof]:
    """The model's parts by a row, with their proof."""
    with _understood(model):
        return _proved(resolve(model), prover)


def _proved(anatomy: Anatomy, prover: Prover) -> tuple[Anatomy, Proof]:
    """The parts with their proof; without the head if only the head is of another make than its row says.

    A row that fits by its paths may still name modules of another make, and these fail in the proof.
    """
    from_row = anatomy.family in FAMILIES.values()
    try:
        return anatomy, prover(anatomy)
    except ArchitectureError:
        # A head that was found beside the base model, or one of several, is a guess; without it the rest may still be proved.
        if not anatomy.has_head or (from_row and "ForPreTraining" not in type(anatomy.model).__name__):
            raise
        bare = without_head(anatomy)
        with suppress(ArchitectureError):  # what was said with the head says more
            return bare, prover(bare)
        raise


def _fails_in_its_type(model: Any, error: BaseException) -> str:
    """That a model's own code does not run in the number type of its weights, and what to do; empty if that is not the reason.

    An error of torch that names a number type is the reason if the model fails with it by itself, without anything of this package.
    """
    if not isinstance(error, RuntimeError) or not _OF_TYPES.search(str(error)) or medium_of(model) != "text":
        return ""
    table = input_embeddings(model)
    if table is None or encoder_of(model) is not None:
        return ""
    try:
        with torch.no_grad():
            model(**probe_feed(model, table, 3))
    except RuntimeError as own:
        if str(own) != str(error):
            return ""
    else:
        return ""
    kind, name = type(model).__name__, str(table.weight.dtype).removeprefix("torch.")
    experts = getattr(model.config, "_experts_implementation", None)
    other = (
        f", or take other code for its experts: model.set_experts_implementation('eager') (it is {experts!r} now)"
        if experts not in (None, "eager") and hasattr(model, "set_experts_implementation")
        else ""
    )
    return (
        f"{kind} does not run here in {name}, the number type of its weights: its own code fails on a few tokens with "
        f"{type(error).__name__}: {first_line(error)}. Load it in another type, load_model(…, dtype='float32'){other}"
    )


@contextmanager
def _understood(model: Any) -> Iterator[None]:
    """Turn errors during search and proof of a model's parts into one: no row describes the model."""
    try:
        yield
    except (FlowgraphError, torch.cuda.OutOfMemoryError):
        raise
    except FOREIGN as error:
        kind, name = kind_of(model), type(model).__name__
        what = (
            f" is {kind.name}, which cannot be traced: {kind.why}"
            if kind
            else " is built otherwise than any known family"
        )
        advice = f" {kind.advice}." if kind and kind.advice else ""
        raise ArchitectureError(
            f"{name}{what} ({type(error).__name__}: {first_line(error)}).{advice} Families are rows of data; see "
            "flowgraph.register_family"
        ) from error


def errors_of(anatomy: Anatomy) -> dict[str, float]:
    """Identity → largest relative error of these parts; see :func:`errors_and_answer`."""
    return errors_and_answer(anatomy)[0]


def errors_and_answer(anatomy: Anatomy) -> tuple[dict[str, float], Tensor | None]:
    """Identity → largest relative error of these parts, and the answer to the prompt that proved them.

    Raises
    ------
    ArchitectureError
        If an identity fails, or the row does not describe the model.
    """
    try:
        return prove_and_answer(anatomy)
    except torch.cuda.OutOfMemoryError:
        raise
    except (AttributeError, RuntimeError) as error:
        raise ArchitectureError(
            f"the row {anatomy.family.name!r} does not describe {type(anatomy.model).__name__}: {first_line(error)}. A row "
            "of its own is needed; see flowgraph.register_family"
        ) from error
