"""Prompts of one length as a batch: their tokens, the positions that are explained, and the answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor

from ..errors import ArgumentError, ModelMismatchError, PromptError
from ..models import LoadedModel
from ..models.forward import Feed
from ..recorded import Trace
from ..tracing import explained_position, ids_of_prompt

Prompts = Trace | str | Tensor | Sequence[Any]
"""One prompt or several, each as a trace, as a text or as token ids."""
Align = Literal["start", "end"]
Answers = str | int | Sequence[str | int] | None


@dataclass(frozen=True, eq=False)
class Prompt:
    """One prompt: ids, the position that is explained, and what it is explained for (None: not said)."""

    ids: tuple[int, ...]
    position: int
    target: int | None = None
    foil: int | None = None


@dataclass(frozen=True, eq=False)
class Batch:
    """Prompts of one length.

    Attributes
    ----------
    ids
        [prompt, position] token ids.
    positions
        [prompt] the position whose logits are measured.
    targets, foils
        [prompt] token ids of the answers; −1 where none is said.
    """

    ids: Int[Tensor, "prompt position"]
    positions: Int[Tensor, "prompt"]
    targets: Int[Tensor, "prompt"]
    foils: Int[Tensor, "prompt"]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def n_tokens(self) -> int:
        """Length of every prompt."""
        return self.ids.shape[1]

    @property
    def feed(self) -> Feed:
        """What the model is called with."""
        return {"input_ids": self.ids}

    def split(self, size: int) -> list[Batch]:
        """So many of the prompts at a time."""
        return [self.part(slice(start, start + size)) for start in range(0, len(self), size)]

    def part(self, rows: slice) -> Batch:
        """Some of the prompts."""
        return Batch(self.ids[rows], self.positions[rows], self.targets[rows], self.foils[rows])

    def with_others(self, others: Batch) -> Batch:
        """These prompts, and others of the same length behind them."""
        pairs = zip(*((one.ids, one.positions, one.targets, one.foils) for one in (self, others)), strict=True)
        return Batch(*map(torch.cat, pairs))


def prompts_of(
    loaded: LoadedModel, prompts: Prompts, argument: str, *, target: Answers = None, foil: Answers = None
) -> list[Prompt]:
    """Every prompt, with its answers.

    Raises
    ------
    PromptError
        If there is none, or one is empty or too long.
    TargetError
        If an answer is not one token.
    ModelMismatchError
        If a trace is of another model.
    ArgumentError
        If there are not as many answers as prompts.
    """
    found = [_prompt(loaded, one) for one in _several(prompts)]
    if not found:
        raise PromptError(f"{argument} holds no prompt; give at least one trace, text or list of token ids")
    targets, foils = (_answers(loaded, value, len(found), name) for name, value in (("target", target), ("foil", foil)))
    aimed = []
    for prompt, own_target, own_foil in zip(found, targets, foils, strict=True):
        # A foil belongs to the target it came with.
        kept_foil = prompt.foil if own_target is None else None
        answer = prompt.target if own_target is None else own_target
        aimed.append(Prompt(prompt.ids, prompt.position, answer, kept_foil if own_foil is None else own_foil))
    return aimed


def batch_of(loaded: LoadedModel, prompts: Sequence[Prompt], argument: str) -> Batch:
    """Prompts of one length as a batch.

    Raises
    ------
    PromptError
        If their lengths differ.
    """
    lengths = [len(prompt.ids) for prompt in prompts]
    if len(set(lengths)) > 1:
        other = next(i for i, length in enumerate(lengths) if length != lengths[0])
        raise PromptError(
            f"{argument} has prompts of different lengths ({lengths[0]} tokens in prompt 0, {lengths[other]} in prompt "
            f"{other}), so a position is not the same place in all of them; make them equally long, or say align='start' or "
            "align='end'"
        )

    def column(values: list[int | None]) -> Tensor:
        return torch.tensor([-1 if value is None else value for value in values], device=loaded.device)

    return Batch(
        ids=torch.tensor([prompt.ids for prompt in prompts], device=loaded.device),
        positions=column([prompt.position for prompt in prompts]),
        targets=column([prompt.target for prompt in prompts]),
        foils=column([prompt.foil for prompt in prompts]),
    )


def groups_of(prompts: Sequence[Prompt], others: Sequence[Prompt] | None, align: Align | None) -> list[list[int]]:
    """Indices of prompts that can be run together: all of them, or with ``align`` those of the same lengths."""
    if align is None:
        return [list(range(len(prompts)))]
    if align not in ("start", "end"):
        raise ArgumentError(f"align={align!r} must be 'start', 'end' or None")
    groups: dict[tuple[int, int], list[int]] = {}
    for i, prompt in enumerate(prompts):
        groups.setdefault((len(prompt.ids), 0 if others is None else len(others[i].ids)), []).append(i)
    return list(groups.values())


def counterparts(n_tokens: int, other: int, align: Align | None) -> list[int]:
    """[position] the position of the other prompt that stands for each of this one's; −1 where there is none.

    Raises
    ------
    PromptError
        If the prompts differ in length and nothing was said of how to align them.
    """
    if n_tokens == other:
        return list(range(n_tokens))
    if align is None:
        raise PromptError(
            f"the prompts differ in length ({n_tokens} and {other} tokens), so a position is not the same place in both; "
            "make them equally long (swap words of equally many tokens), or say align='start' or align='end'"
        )
    shift = other - n_tokens if align == "end" else 0
    return [p + shift if 0 <= p + shift < other else -1 for p in range(n_tokens)]


def _several(prompts: Prompts) -> list[Any]:
    if isinstance(prompts, (Trace, str)):
        return [prompts]
    if isinstance(prompts, Tensor):
        return list(prompts) if prompts.ndim == 2 else [prompts]
    return [prompts] if prompts and all(isinstance(i, int) for i in prompts) else list(prompts)


def _prompt(loaded: LoadedModel, one: Any) -> Prompt:
    if not isinstance(one, Trace):
        ids = ids_of_prompt(loaded, one)
        return Prompt(tuple(ids), explained_position(loaded, ids))
    if one.loaded is not loaded and dict(one.fingerprint) != loaded.fingerprint():
        raise ModelMismatchError(
            f"the trace is of {one.model_name!r}, whose config or weights differ from {loaded.name!r}; trace the prompt with "
            "the model that is to be changed"
        )
    return Prompt(one.token_ids, one.position, one.target, one.foil)


def _answers(loaded: LoadedModel, given: Answers, count: int, name: str) -> list[int | None]:
    if given is None:
        return [None] * count
    several = [given] * count if isinstance(given, (str, int)) else list(given)
    if len(several) != count:
        raise ArgumentError(f"{name}= has {len(several)} tokens for {count} prompts; give one, or one for each prompt")
    return [loaded.vocabulary.target_id(value, name) for value in several]
