"""Hooks that act only in the thread that set them.

The user may run a model in another thread while a pass has its hooks on it. Those forwards do not belong to the pass: the hooks
neither record nor change them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from torch import Tensor, nn

_gate: ContextVar[Callable[[], bool] | None] = ContextVar("gate", default=None)


class Turns:
    """Counts the runs of a module that a model runs several times in one pass, as ALBERT does with its one block."""

    def __init__(self) -> None:
        self.now = -1

    def counting(self, module: nn.Module) -> Any:
        """Start to count; set before any other hook, so that these find the turn that has begun."""
        self.now = -1

        def hook(_module: nn.Module, _args: tuple[Any, ...], _kwargs: dict[str, Any]) -> None:
            self.now += 1

        return on_call(module, hook)


@contextmanager
def only_while(gate: Callable[[], bool]) -> Iterator[None]:
    """Hooks that are set inside act only while the gate says so."""
    token = _gate.set(gate)
    try:
        yield
    finally:
        _gate.reset(token)


def before(module: nn.Module, use: Callable[[Tensor], object]) -> Any:
    """Call ``use`` with a module's first input."""

    def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        use(args[0] if args else next(iter(kwargs.values())))

    return on_call(module, hook)


def after(module: nn.Module, use: Callable[[Tensor], object]) -> Any:
    """Call ``use`` with a module's output, the first of several."""

    def hook(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
        use(output[0] if isinstance(output, (tuple, list)) else output)

    return on_result(module, hook)


def on_call(module: nn.Module, hook: Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], Any]) -> Any:
    """Call ``hook(module, args, kwargs)`` before the module runs in this thread; its result, if any, replaces the arguments."""
    return module.register_forward_pre_hook(_of_this_thread(hook), with_kwargs=True)


def on_result(module: nn.Module, hook: Callable[[nn.Module, tuple[Any, ...], Any], Any], *, first: bool = False) -> Any:
    """Call ``hook(module, args, output)`` after the module has run in this thread; its result, if any, replaces the output.

    With ``first`` it is called before the hooks that were set earlier.
    """
    return module.register_forward_hook(_of_this_thread(hook), prepend=first)


def hooks_on(model: nn.Module) -> frozenset[tuple[str, int]]:
    """Every hook on a forward pass of the model, as its module and number; the set changes when one is added or removed."""
    return frozenset(
        (f"{name}:{place}", number)
        for name, module in model.named_modules()
        for place in ("_forward_hooks", "_forward_pre_hooks")
        for number in module.__dict__[place]
    )


def _of_this_thread(hook: Callable[..., Any]) -> Callable[..., Any]:
    owner, gate = threading.get_ident(), _gate.get()

    # Any number of arguments: torch notes that a hook wants keywords only after it has put it where other threads see it.
    def acting(*args: Any) -> Any:
        return hook(*args) if threading.get_ident() == owner and (gate is None or gate()) else None

    return acting
