"""What upper floors register with lower ones, which know neither its names nor who it is.

The module that registers is imported when something is first looked up, as :func:`on_first_use` was told.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from typing import Any, Generic, TypeVar

V = TypeVar("V")
_LOADED_BY: list[str] = []


def on_first_use(module: str) -> None:
    """Import a module, by its full name, before anything that is registered is looked up."""
    _LOADED_BY.append(module)


class Registered(Mapping[str, V], Generic[V]):
    """Name → what is registered under it, in the order in which that was done."""

    def __init__(self) -> None:
        self._found: dict[str, V] = {}

    def add(self, name: str, value: V) -> None:
        """Register a value.

        Raises
        ------
        ValueError
            If another is registered under the name.
        """
        if self._found.setdefault(name, value) != value:
            raise ValueError(f"{name!r} is registered already, by {self._found[name]!r}; choose another name")

    def __getitem__(self, name: str) -> V:
        return self._loaded()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._loaded())

    def __len__(self) -> int:
        return len(self._loaded())

    def _loaded(self) -> dict[str, V]:
        for module in _LOADED_BY:
            importlib.import_module(module)
        return self._found


KINDS: Registered[type[Any]] = Registered()
"""Name of a kind of question → its class: the questions whose answers are kept in session files."""
TABS: Registered[Any] = Registered()
"""Name of a panel, as the address has it → the panel."""
POSTED: Registered[Any] = Registered()
"""End of a callback, ``picture.test`` → the type of what is read of its value; a request that brings another is refused."""
