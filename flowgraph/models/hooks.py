"""Hooks that act only in the thread that set them.

The user may run a model in another thread while a pass has its hooks on it. Those forwards do not belong to the pass: the hooks
neither record nor change them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


def before(module: nn.Module, use: Callable[[Tensor], object]) -> Any:
    """Call ``use`` with a module's first input."""

    def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        use(args[0] if args else next(iter(kwargs.values())))

    return on_call(module, hook)


def after(module: nn.Module, use: Callable[[Tensor], object]) -> Any:
    """Call ``use`` with a module's output, the first of several."""

    def hook(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
        use(output[0] if isinstance(output, tuple) else output)

    return on_result(module, hook)


def on_call(module: nn.Module, hook: Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], Any]) -> Any:
    """Call ``hook(module, args, kwargs)`` before the module runs in this thread; its result, if any, replaces the arguments."""
    return module.register_forward_pre_hook(_of_this_thread(hook), with_kwargs=True)


def on_result(module: nn.Module, hook: Callable[[nn.Module, tuple[Any, ...], Any], Any]) -> Any:
    """Call ``hook(module, args, output)`` after the module has run in this thread; its result, if any, replaces the output."""
    return module.register_forward_hook(_of_this_thread(hook))


def hooks_on(model: nn.Module) -> frozenset[tuple[str, int]]:
    """Every hook on a forward pass of the model, as its module and number; the set changes when one is added or removed."""
    return frozenset(
        (f"{name}:{place}", number)
        for name, module in model.named_modules()
        for place in ("_forward_hooks", "_forward_pre_hooks")
        for number in module.__dict__[place]
    )


def _of_this_thread(hook: Callable[..., Any]) -> Callable[..., Any]:
    owner = threading.get_ident()

    # Any number of arguments: torch notes that a hook wants keywords only after it has put it where other threads see it.
    def acting(*args: Any) -> Any:
        return hook(*args) if threading.get_ident() == owner else None

    return acting
