"""Doors: what a value has done with it by code that stands above it.

A value knows its numbers, and nothing of screens and files. Where one of its methods draws, writes or reads, it asks a door:
``html(value)``. The code that does it registers for the value's class: ``@html.register(Table)``. Which module registers is said
once, by the root of the package (:func:`at_first_use`), and that module is imported when a value of the class first comes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

from ..importing import late

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


class Door(Generic[T]):
    """A function of values, given by class: :func:`functools.singledispatch` that imports what it needs at first use.

    Parameters
    ----------
    name
        What the door does, for the message to who comes with a class that nobody registered for.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._of: Any = functools.singledispatch(self._nobody)
        self._modules: dict[str, str] = {}

    def _nobody(self, value: object, *_arguments: Any, **_options: Any) -> T:
        raise TypeError(f"nothing is registered that can {self.name} a {type(value).__name__}")

    def register(self, *classes: type) -> Callable[[F], F]:
        """Decorate a function that does it for values of ``classes``."""

        def of(function: F) -> F:
            for each in classes:
                self._of.register(each, function)
            return function

        return of

    def function(self, kind: type) -> Callable[..., T]:
        """What is registered for a class or the nearest of its bases."""
        for base in kind.__mro__:
            if base.__module__ in self._modules:
                late(self._modules[base.__module__])
        found: Callable[..., T] = self._of.dispatch(kind)
        return found

    def __call__(self, value: object, *arguments: Any, **options: Any) -> T:
        """Do it for a value."""
        return self.function(type(value))(value, *arguments, **options)


html: Door[str] = Door("show in a notebook")
text: Door[str] = Door("write as text")
figure: Door[Any] = Door("draw")
csv: Door[str] = Door("write as CSV")
npz: Door[bytes] = Door("write as arrays")
save: Door[Path] = Door("save")
picture: Door[Path] = Door("write as a picture")
load: Door[Any] = Door("load")
"""Called as ``load.function(cls)(path)``: a class comes, not a value."""
show: Door[None] = Door("show")
widget: Door[Any] = Door("make a widget of")
caption: Door[str] = Door("caption")
explain: Door[Any] = Door("explain")
summary: Door[str] = Door("describe on one line")
to_networkx: Door[Any] = Door("give networkx")
from_networkx: Door[Any] = Door("take from networkx")
"""Called as ``from_networkx.function(cls)(graph)``."""
record: Door[Any] = Door("record more of")

_DOORS = {name: door for name, door in list(globals().items()) if isinstance(door, Door)}


def at_first_use(modules: Mapping[str, Mapping[str, str]]) -> None:
    """Say which modules register for which classes.

    Parameters
    ----------
    modules
        Name of a door → module that a class is defined in → module to import when the first value of such a class comes.
    """
    for name, of_door in modules.items():
        _DOORS[name]._modules.update(of_door)
