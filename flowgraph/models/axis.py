"""Positions of a stack: what each of them is, and where it lies in the text, the image or the sound."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from ..errors import ArgumentError, PromptError

AxisKind = Literal["token", "patch", "frame", "region", "item"]
Place = tuple[float, ...]


@dataclass(frozen=True)
class Axis:
    """The positions of a stack.

    Attributes
    ----------
    kind
        ``"token"`` of a text, ``"patch"`` of an image or a spectrogram, ``"frame"`` of a sound, ``"region"`` of an image that was found
        before, or ``"item"`` without a place.
    labels
        [position] short names: a token's string, ``CLS``, ``register 1``, ``patch 3,5`` (row, column, both from 0), ``0.34 s``
        (start of what the frame reads).
    places
        [position] first and one-past-last character of a token; (top, left, bottom, right) of a patch in pixels of the model's
        input, of a spectrogram in (band, frame); start and end of what a frame reads, in seconds, where it reads a spectrogram
        those of its columns, whose windows reach further; of a region its box as the model was given it. None for a position that lies
        nowhere, as a special token.
    special
        [position] role of a special position, such as ``CLS`` or ``register``; None for all others. Empty where it is not known.
    """

    kind: AxisKind
    labels: tuple[str, ...]
    places: tuple[Place | None, ...]
    special: tuple[str | None, ...] = ()

    def __post_init__(self) -> None:
        if len(self.places) != len(self.labels) or len(self.special) not in (0, len(self.labels)):
            raise ArgumentError(
                f"Axis has {len(self.labels)} labels, {len(self.places)} places and {len(self.special)} roles; expected one each"
            )

    def __len__(self) -> int:
        """Number of positions."""
        return len(self.labels)


@dataclass(frozen=True)
class Layout:
    """How a model of images or sound makes positions of its input.

    Attributes
    ----------
    medium
        ``"image"`` or ``"audio"``.
    argument
        Name of the model's argument, such as ``"pixel_values"``.
    shape
        Sizes of one input without the row axis; None for a size that may vary.
    kind
        Kind of the positions.
    special
        Roles of the special positions, which come first.
    kernel, stride
        What one position reads, and the steps between positions: (rows, columns) of a grid; (samples,) of a wave; (frames,) of
        a spectrogram whose bands are read together.
    padding
        Zeros in front of the first sample or frame that the first position reads.
    turned
        Whether the grid's rows run along the last axis of the input, as the bands of a spectrogram [frame, band] do.
    count
        Number of positions behind the special ones, where neither kernel nor stride is known; the input then has one shape.
    """

    medium: Literal["image", "audio"]
    argument: str
    shape: tuple[int | None, ...]
    kind: AxisKind
    special: tuple[str, ...] = ()
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: int = 0
    turned: bool = False
    count: int = 0

    def check(self, shape: Sequence[int], name: str) -> None:
        """Refuse an input of another shape; ``name`` is the model's.

        Raises
        ------
        PromptError
            Naming the axis.
        """
        axes: tuple[str, ...] = ("channels", "rows", "columns") if self.medium == "image" else ("frames", "bands")
        axes = axes if len(self.shape) == len(axes) else ("samples",)
        axes = ("bands", "frames") if len(axes) == 2 and len(self.kernel) == 1 and not self.turned else axes
        expected = ", ".join("any" if size is None else str(size) for size in self.shape)
        if len(shape) != len(self.shape):
            raise PromptError(
                f"{self.argument} has the shape {list(shape)}; {name!r} takes [{', '.join(axes)}] = [{expected}]"
            )
        for axis, size, wanted in zip(axes, shape, self.shape, strict=True):
            if wanted is not None and size != wanted:
                raise PromptError(
                    f"{self.argument} has {size} {axes and axis}; {name!r} takes {wanted} ({', '.join(axes)} = [{expected}])"
                )
        if self.kernel and min(self._counts(shape)) < 1:
            raise PromptError(
                f"{self.argument} of the shape {list(shape)} is too small for {name!r}: one position alone reads {list(self.kernel)}"
            )

    def _counts(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Number of positions along each axis of the grid."""
        ordered = list(shape[::-1] if self.turned else shape)
        sizes = ordered[-len(self.kernel) :]
        return tuple(
            (n + 2 * self.padding - k) // s + 1 for n, k, s in zip(sizes, self.kernel, self.stride, strict=True)
        )

    def axis(self, shape: Sequence[int], rate: float | None = None) -> Axis:
        """The positions of an input of this shape, without the row axis; those of a sound have places if its rate is said.

        ``rate`` counts samples of a wave, or frames of a spectrogram, per second.
        """
        special = _numbered(self.special)
        roles = (*self.special, *([None] * self.n_positions(shape)))[: len(special) + self.n_positions(shape)]
        labels, places = self._labels(shape, rate)
        return Axis(self.kind, (*special, *labels), (*([None] * len(special)), *places), roles)

    def n_positions(self, shape: Sequence[int]) -> int:
        """Number of positions behind the special ones."""
        if not self.kernel:
            return self.count
        n = 1
        for one in self._counts(shape):
            n *= one
        return n

    def _labels(self, shape: Sequence[int], rate: float | None) -> tuple[list[str], list[Place | None]]:
        if not self.kernel or (len(self.kernel) == 1 and rate is None):
            n = self.n_positions(shape)
            return [f"{'frame' if self.kernel else 'position'} {i}" for i in range(n)], [None] * n
        if len(self.kernel) == 1:
            (kernel,), (stride,) = self.kernel, self.stride
            assert rate is not None
            n, first = self.n_positions(shape), -self.padding
            spans: list[Place | None] = [
                (max(i * stride + first, 0) / rate, (i * stride + first + kernel) / rate) for i in range(n)
            ]
            return [f"{i * stride / rate:.2f} s" for i in range(n)], spans
        cells = list(itertools.product(*map(range, self._counts(shape))))
        (high, wide), (down, right) = self.kernel, self.stride
        boxes: list[Place | None] = [
            tuple(map(float, (r * down, c * right, r * down + high, c * right + wide))) for r, c in cells
        ]
        return [f"patch {r},{c}" for r, c in cells], boxes


def _numbered(roles: Sequence[str]) -> tuple[str, ...]:
    """Roles with a number, from 1, behind those that come several times or are registers."""
    seen: dict[str, int] = {}
    made = []
    for role in roles:
        seen[role] = seen.get(role, 0) + 1
        made.append(f"{role} {seen[role]}" if roles.count(role) > 1 or role == "register" else role)
    return tuple(made)


def axis_of_dict(plain: Any) -> Axis:
    """The axis from plain data of a file, which may come from anybody.

    Raises
    ------
    ArgumentError
        If a value has the wrong type, or the wrong number of entries.
    """
    if not isinstance(plain, dict) or set(plain) != {"kind", "labels", "places", "special"}:
        raise ArgumentError("axis is not described by kind, labels, places and special")
    if plain["kind"] not in get_args(AxisKind):
        raise ArgumentError(f"axis: kind is none of {', '.join(get_args(AxisKind))}")
    for name in ("labels", "places", "special"):
        if not isinstance(plain[name], (list, tuple)):
            raise ArgumentError(f"axis: {name} is no list")
    if not all(isinstance(one, str) for one in plain["labels"]):
        raise ArgumentError("axis: labels holds what is no text")
    if not all(one is None or isinstance(one, str) for one in plain["special"]):
        raise ArgumentError("axis: special holds what is neither a text nor nothing")
    return Axis(plain["kind"], tuple(plain["labels"]), tuple(map(_place, plain["places"])), tuple(plain["special"]))


def _place(plain: Any) -> Place | None:
    if plain is None:
        return None
    numbers = isinstance(plain, (list, tuple)) and len(plain) in (2, 4)
    if not numbers or not all(
        isinstance(one, (int, float)) and not isinstance(one, bool) and math.isfinite(one) for one in plain
    ):
        raise ArgumentError("axis: places holds what is neither two or four numbers nor nothing")
    return tuple(map(float, plain))
