"""Warnings of loading: what of a model is not read, not known or not as it seems, though it can be traced."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from .anatomy import Anatomy
from .kinds import task_of
from .proof import OwnAttention


def unread_in_words(model: Any, anatomy: Anatomy) -> str:
    """A description of a head that is not read."""
    labels = getattr(model.config, "num_labels", None)
    task = task_of(model)
    classes = f" over {labels} classes" if "classifier" in task and labels else ""
    heads = " and ".join(map(repr, anatomy.unread_head))
    return f"{type(model).__name__} is {task}, and its head {heads}{classes} is not read"


def warn_of_parts(name: str, anatomy: Anatomy, stacklevel: int) -> None:
    """Warn of a head that is not read, and of blocks that are no layers here."""
    said = []
    if anatomy.unread_head:
        said.append(f"{unread_in_words(anatomy.model, anatomy)}: traces explain its states and attention only")
    if anatomy.stack.windows and anatomy.left_out:
        said.append(
            f"{name!r} merges positions between its stages: the layers here are those of one stage, without {anatomy.left_out}; "
            "model.stages holds each stage as a model by itself, with its own positions"
        )
    elif anatomy.left_out:
        said.append(
            f"no attention pattern is known of blocks {anatomy.left_out} of {name!r}: rollout and flow leave out what moves between "
            "positions there, and layers are counted without them"
        )
    for one in said:
        warnings.warn(one, stacklevel=stacklevel)


def warn_of_replaced(name: str, replaced: Mapping[str, tuple[str, str]], stacklevel: int) -> None:
    """Warn if the model's own code replaced modules in the short passes, as BigBird does with its block-sparse attention.

    ``replaced`` is the path of each → its class before and now.
    """
    if replaced:
        path, (old, new) = next(iter(replaced.items()))
        warnings.warn(
            f"in a short pass the code of {name!r} replaced {len(replaced)} of its modules for good, {path} ({old}) by {new} first: "
            f"transformers does so in every pass of a text that is too short for {old}. Longer texts are answered and traced with "
            f"{new} as well; load the model again to run {old} elsewhere",
            stacklevel=stacklevel,
        )


def warn_of_attention(name: str, own: OwnAttention, stacklevel: int) -> None:
    """Warn if the model's own attention does not answer as eager attention does."""
    if own.fault:
        warnings.warn(
            f"{name!r}: its own attention {own.name!r} does not run here ({own.fault}), so its answers could not be held against "
            "those of eager attention, which is traced",
            stacklevel=stacklevel,
        )
    elif own.differs:
        warnings.warn(
            f"{name!r} answers differently under its own attention {own.name!r} and under eager attention: by {own.gap:.2g} of "
            "the logits' length on a short prompt. Eager attention is what is traced and shown",
            stacklevel=stacklevel,
        )
