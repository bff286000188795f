"""Arguments of blocks and attentions besides their states, kept so that a module can run again for other rows.

A row is one prompt, or a changed copy of it. Masks and positions are mostly the same for all prompts. What differs, such as a vector
that a layer gets for each token, goes with its prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Int
from torch import Tensor, nn

from ..errors import UnsupportedReadingError

Path = tuple[str | int, ...]
"""Where an argument stands: its name or place, and places inside of it."""


class _States:
    """Stands for the states, which some modules are given several times: as queries, keys and values."""


@dataclass(frozen=True, eq=False)
class _OfPrompts:
    """An argument with n entries for each prompt, [prompt · n, …]; ``prompts`` is 1 where all prompts have the same."""

    value: Tensor
    prompts: int

    def of(self, rows: int, prompt: Int[Tensor, "row"] | None) -> Tensor:
        n = len(self.value) // self.prompts
        if self.prompts == 1:
            # Views where that is possible: a mask of all rows would take rows · T² numbers.
            rest = self.value.shape[1:]
            return self.value.expand(rows, *rest) if n == 1 else self.value.repeat(rows, *[1] * len(rest))
        every = torch.arange(rows, device="cpu") % self.prompts if prompt is None else prompt
        chosen: Tensor = self.value.unflatten(0, (self.prompts, n))[every.to(self.value.device)].flatten(0, 1)
        return chosen


@dataclass(frozen=True, eq=False)
class Call:
    """The arguments of one call of a module, without the states."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    def run(self, module: nn.Module, states: Tensor, prompt: Int[Tensor, "row"] | None = None) -> Any:
        """Run the module on [row, position, d_model] states.

        ``prompt`` is the number of the recorded prompt that each row is of; None for all prompts in turn, again and again.
        """

        def filled(value: Any) -> Any:
            if isinstance(value, _States):
                return states
            if isinstance(value, _OfPrompts):
                return value.of(len(states), prompt)
            return type(value)(map(filled, value)) if type(value) in (tuple, list) else value

        return module(*map(filled, self.args), **{name: filled(value) for name, value in self.kwargs.items()})


Repeats = Mapping[tuple[int, Path], bool]
"""Layer and argument → whether it has entries for each prompt."""
_KNOWN: WeakKeyDictionary[nn.Module, dict[Any, Repeats]] = WeakKeyDictionary()


class Recorder:
    """Records the calls of one kind of module in a pass of some prompts.

    Parameters
    ----------
    prompts
        Number of prompts.
    repeats
        What has entries for each prompt; None to take every tensor for such that is as long as there are prompts.
    """

    def __init__(self, prompts: int, repeats: Repeats | None) -> None:
        self.prompts, self.repeats = prompts, repeats
        self.calls: dict[int, Call] = {}
        # One mask serves all layers. The tensor is held, so that its number is not given to another.
        self._seen: dict[int, tuple[Tensor, _OfPrompts]] = {}

    def record(self, layer: int, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Keep the arguments of a layer's module."""
        states = args[0] if args else next(iter(kwargs.values()))

        def kept(value: Any, path: Path) -> Any:
            if value is states:
                return _States()
            if isinstance(value, Tensor) and value.ndim and self._is_repeated(value, layer, path):
                if id(value) not in self._seen:
                    self._seen[id(value)] = (value, self._of_prompts(value))
                return self._seen[id(value)][1]
            if type(value) in (tuple, list):
                return type(value)(kept(part, (*path, n)) for n, part in enumerate(value))
            return value

        self.calls[layer] = Call(
            tuple(kept(value, (n,)) for n, value in enumerate(args)),
            {name: kept(value, (name,)) for name, value in kwargs.items()},
        )

    def _is_repeated(self, value: Tensor, layer: int, path: Path) -> bool:
        found = None if self.repeats is None else self.repeats.get((layer, path))
        # A mask of one row is one for each prompt; of cosines and positions one row serves all.
        by_length = len(value) == self.prompts and (self.prompts > 1 or value.ndim == 4)
        return by_length if found is None else found

    def _of_prompts(self, value: Tensor) -> _OfPrompts:
        value = value.detach()
        by_prompt = value.unflatten(0, (self.prompts, -1))
        # The first alone, so that the memory of the others is free.
        if self.prompts > 1 and torch.equal(by_prompt, by_prompt[:1].expand_as(by_prompt)):
            return _OfPrompts(by_prompt[0].clone(), 1)
        return _OfPrompts(value, self.prompts)


def repeats_of(model: nn.Module, key: Any, lengths: Callable[[int], Mapping[tuple[int, Path], int]]) -> Repeats:
    """Which arguments have entries for each prompt, from passes of one prompt and of two; made once for each ``key`` of a model.

    Parameters
    ----------
    model
        The model.
    key
        What the arguments depend on: the kind of module, and what the model is fed with.
    lengths
        Number of prompts → layer and argument → its length in a pass of that many.

    Raises
    ------
    UnsupportedReadingError
        If the length of an argument is neither that of one prompt nor twice as much.
    """
    known = _KNOWN.setdefault(model, {})
    if key not in known:
        one, two = lengths(1), lengths(2)
        found: dict[tuple[int, Path], bool] = {}
        for place in one.keys() & two.keys():
            if two[place] not in (one[place], 2 * one[place]):
                layer, path = place
                raise UnsupportedReadingError(
                    f"layer {layer} of {type(model).__name__} gets an argument ({'.'.join(map(str, path))}) of length {one[place]} for "
                    f"one prompt and {two[place]} for two, so it cannot be run again by itself for other rows, as sweeps over heads "
                    "and edges do; ablate() and patch() run the whole model"
                )
            found[place] = two[place] == 2 * one[place]
        known[key] = found
    return known[key]


def lengths_in(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Mapping[Path, int]:
    """Argument → its length, of every tensor among arguments."""
    found: dict[Path, int] = {}

    def look(value: Any, path: Path) -> None:
        if isinstance(value, Tensor) and value.ndim:
            found[path] = len(value)
        elif type(value) in (tuple, list):
            for n, part in enumerate(value):
                look(part, (*path, n))

    for n, value in enumerate(args):
        look(value, (n,))
    for name, value in kwargs.items():
        look(value, (name,))
    return found
