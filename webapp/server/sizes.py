"""How many bytes a value takes, counted honestly, and a cache that is bounded by them."""

from __future__ import annotations

import dataclasses
import sys
from collections import OrderedDict
from collections.abc import Hashable, Iterator, Mapping
from typing import Any, Generic, TypeVar

import numpy as np

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


def size_of(value: Any) -> int:
    """Bytes of a value and of everything it holds; what is held twice counts once."""
    seen: set[int] = set()
    left = [value]
    total = 0
    while left:
        item = left.pop()
        if item is None or isinstance(item, bool) or id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, np.ndarray):
            total += item.nbytes + _ARRAY
        elif hasattr(item, "untyped_storage"):  # a tensor of torch, which this process need not know
            total += item.untyped_storage().nbytes()
        else:
            total += sys.getsizeof(item)
            left.extend(_held(item))
    return total


_ARRAY = sys.getsizeof(np.empty(0))


def _held(item: Any) -> Iterator[Any]:
    if isinstance(item, Mapping):
        yield from item.keys()
        yield from item.values()
    elif isinstance(item, list | tuple | set | frozenset):
        yield from item
    elif dataclasses.is_dataclass(item) and not isinstance(item, type):
        yield from (getattr(item, field.name) for field in dataclasses.fields(item))


class Cache(Generic[K, V]):
    """Values by key; those that were not asked for longest go when the bytes exceed the limit.

    A value that is larger than the limit is not kept. Callers that share a cache between threads hold a lock.

    Attributes
    ----------
    bytes
        Of all values that are kept.
    dropped
        Of those that went since somebody last set it to 0.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.bytes = 0
        self.dropped = 0
        self._kept: OrderedDict[K, tuple[V, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: K) -> V | None:
        """The value of a key, None where it is not kept."""
        found = self._kept.get(key)
        if found is None:
            return None
        self._kept.move_to_end(key)
        return found[0]

    def items(self) -> list[tuple[K, V]]:
        """Keys and values, those that were not asked for longest first."""
        return [(key, value) for key, (value, _) in self._kept.items()]

    def put(self, key: K, value: V, size: int) -> None:
        """Keep a value of so many bytes, in the place of what its key had."""
        before = self._kept.pop(key, None)
        self.bytes -= 0 if before is None else before[1]
        if size > self.limit:
            return
        self._kept[key] = (value, size)
        self.bytes += size
        while self.bytes > self.limit:
            _, (_, freed) = self._kept.popitem(last=False)
            self.bytes -= freed
            self.dropped += freed
