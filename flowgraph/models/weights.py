"""Digests of a model's weights: they tell whether the weights are those of a trace."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .parameters import is_in_place, own_numbers

_SAMPLES = 64


class Weights:
    """The weights of a model, as 64 numbers of each parameter.

    torch counts changes of a parameter, but not those through ``.data``; the numbers show both. Numbers that are packed, or kept
    elsewhere by accelerate, are read once: nothing changes them in place.

    Parameters
    ----------
    model
        The model.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._kept: tuple[tuple[Any, ...], list[_View]] = ((), [])
        self._apart = [name for name, module in model.named_modules() if not is_in_place(module)]
        self._read: list[tuple[bytes, bytes]] | None = None

    def digest(self) -> str:
        """Digest of name, shape and 64 numbers of every parameter, spread over each."""
        views = self._views()
        samples = [view.parameter.take(view.places) for view in views]
        # Samples of a model on several devices meet on the CPU; on one device a single copy is faster.
        if len({sample.device for sample in samples}) > 1:
            samples = [sample.cpu() for sample in samples]
        numbers = torch.cat(samples).float().cpu().numpy().tobytes() if samples else b""
        weights, start = hashlib.blake2b(digest_size=16), 0
        for view in views:
            stop = start + 4 * len(view.places)
            weights.update(view.name)
            weights.update(numbers[start:stop])
            start = stop
        if self._read is None:
            self._read = list(self._read_apart())
        for name, numbers in self._read:
            weights.update(name)
            weights.update(numbers)
        return weights.hexdigest()

    def _views(self) -> list[_View]:
        """The numbers to look at. They are kept: every use of a trace reads them, and making them takes as long as reading."""
        apart = {f"{name}." for name in self._apart}
        parameters = [
            (name, p) for name, p in self._model.named_parameters() if name[: name.rfind(".") + 1] not in apart
        ]
        # All that decides where a parameter's numbers lie and which are looked at.
        key = tuple((name, p.data_ptr(), p.dtype, p.shape, p.stride()) for name, p in parameters)
        kept, views = self._kept
        if key != kept:
            views = [
                _View(f"{name}{tuple(p.shape)}".encode(), p.detach(), spread(p.numel(), p.device))
                for name, p in parameters
            ]
            self._kept = (key, views)
        return views

    def _read_apart(self) -> Iterator[tuple[bytes, bytes]]:
        for name in self._apart:
            for n, numbers in enumerate(own_numbers(self._model.get_submodule(name))):
                yield f"{name}.{n}{tuple(numbers.shape)}".encode(), sample(numbers)


class _View(NamedTuple):
    name: bytes
    parameter: Tensor
    places: Tensor


def sample(parameter: Tensor) -> bytes:
    """64 numbers spread over a parameter, as float32."""
    return parameter.detach().take(spread(parameter.numel(), parameter.device)).float().cpu().numpy().tobytes()


@lru_cache(maxsize=256)
def spread(size: int, device: torch.device) -> Tensor:
    """Up to 64 indices, spread evenly over ``size`` numbers. Kept, because every trace takes a digest."""
    count = min(_SAMPLES, size)
    return torch.arange(count, device=device) * (size - 1) // max(1, count - 1)
