"""Texts beside nodes: placed by priority where they cover nothing, left out where there is no such place."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float

from .shapes import Box, Label, Line

_CLEAR = 0.4
_SEEN_LINE = 0.3


@dataclass(frozen=True, slots=True)
class Wish:
    """A text that wants to be placed: the best of its candidates, first the one that is best of all.

    ``must`` texts may cover lines, never other texts or nodes.
    """

    priority: int
    candidates: tuple[Label, ...]
    must: bool


@dataclass
class Ground:
    """What is taken on a page: boxes that no text may cover, and lines that it should not."""

    bounds: Box
    boxes: list[Box] = field(default_factory=list)
    segments: list[tuple[float, float, float, float]] = field(default_factory=list)

    def take_lines(self, lines: Iterable[Line]) -> None:
        """Mind these lines, but for faint ones."""
        for line in lines:
            if line.width * line.tint < _SEEN_LINE:
                continue
            ends = [line.start, line.end]
            if line.bend is not None:
                # A curve of one control point passes half-way to it.
                middle = tuple((a + b) / 4 + c / 2 for a, b, c in zip(line.start, line.end, line.bend, strict=True))
                ends.insert(1, (middle[0], middle[1]))
            self.segments += [(*a, *b) for a, b in pairwise(ends)]

    def place(self, wishes: Sequence[Wish]) -> list[Label]:
        """Texts that found a place, by falling priority; each takes its place from the rest."""
        boxes = _array(self.boxes)
        segments = _array(self.segments)
        placed = []
        for wish in sorted(wishes, key=lambda wish: -wish.priority):
            found = self._best(wish, boxes, segments)
            if found is not None:
                placed.append(found)
                boxes = np.vstack([boxes, found.box()])
        return placed

    def _best(self, wish: Wish, boxes: Float[np.ndarray, "n 4"], segments: Float[np.ndarray, "s 4"]) -> Label | None:
        left, top, right, bottom = self.bounds
        best, least = None, np.inf
        for label in wish.candidates:
            box = label.box()
            if box[0] < left or box[1] < top or box[2] > right or box[3] > bottom or _covers(box, boxes).any():
                continue
            crossed = int(_crosses(box, segments).sum())
            if crossed < least and (wish.must or not crossed):
                best, least = label, crossed
        return best


def _array(rows: Sequence[Sequence[float]]) -> Float[np.ndarray, "n 4"]:
    return np.array(rows, dtype=np.float64).reshape(-1, 4)


def _covers(box: Box, boxes: Float[np.ndarray, "n 4"]) -> Bool[np.ndarray, "n"]:
    left, top, right, bottom = box
    return np.asarray(
        (boxes[:, 0] < right + _CLEAR)
        & (boxes[:, 2] > left - _CLEAR)
        & (boxes[:, 1] < bottom + _CLEAR)
        & (boxes[:, 3] > top - _CLEAR)
    )


def _crosses(box: Box, segments: Float[np.ndarray, "s 4"]) -> Bool[np.ndarray, "s"]:
    """Which segments pass through a box: the part of each that lies in both of the box's bands is not empty."""
    start, step = segments[:, :2], segments[:, 2:] - segments[:, :2]
    with np.errstate(divide="ignore", invalid="ignore"):
        one, other = (np.array(box[:2]) - start) / step, (np.array(box[2:]) - start) / step
    # A segment along an axis lies in the band of the other for all of its length, or for none of it.
    inside = (start >= np.array(box[:2])) & (start <= np.array(box[2:]))
    still = step == 0
    enters = np.where(still, np.where(inside, -np.inf, np.inf), np.minimum(one, other)).max(axis=1)
    leaves = np.where(still, np.where(inside, np.inf, -np.inf), np.maximum(one, other)).min(axis=1)
    return np.asarray(np.maximum(enters, 0.0) <= np.minimum(leaves, 1.0))
