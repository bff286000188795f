"""Attention that a user's own module computes in a way that cannot be followed: the user names where it is seen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ArchitectureError, ArgumentError
from .eager import AttentionCall, Watch
from .hooks import on_call, on_result


@dataclass(frozen=True)
class _Places:
    """Names of modules inside an attention module; ``pattern`` may be the number of an element of what it returns."""

    q: str
    k: str
    v: str
    output: str
    pattern: str | int


_REGISTERED: dict[type, _Places] = {}


def register_attention(
    module_class: type[nn.Module],
    *,
    q: str,
    k: str,
    v: str,
    output: str,
    pattern: str | int,
    replace_existing: bool = False,
) -> None:
    """Say where attention is seen in a module of your own that computes it in a way of its own.

    Most modules need no such line: attention by ``softmax(q @ k.T) @ v``, by torch's ``scaled_dot_product_attention`` or by
    ``nn.MultiheadAttention`` is followed. What is said here is proved on each model: that the pattern is the softmax of the product of
    queries and keys, and that the pattern times the values enters the output projection. From it the row of data is found that
    :func:`register_family` takes, ``loaded.anatomy.family``.

    Parameters
    ----------
    module_class
        Class of the attention module.
    q, k, v
        Names of the modules inside it whose outputs, [row, position, head · d_head] or [row, head, position, d_head], are the
        queries, keys and values of the product. Where something turns them in between, name the module that does.
    output
        Name of the projection that reads what the heads give.
    pattern
        Name of the module inside it whose output is the pattern [row, head, query, key], or the number of an element of what the
        attention module returns.
    replace_existing
        Allow what was said of this class to be replaced.

    Raises
    ------
    ArgumentError
        If it is no class of modules, or is registered already.

    Examples
    --------
    >>> from torch import nn
    >>> class MyAttention(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.wq, self.wk, self.wv, self.wo = (nn.Linear(8, 8) for _ in range(4))
    ...         self.weights = nn.Identity()
    >>> fg.register_attention(MyAttention, q="wq", k="wk", v="wv", output="wo", pattern="weights")
    """
    if not isinstance(module_class, type) or not issubclass(module_class, nn.Module):
        raise ArgumentError(
            f"register_attention got {module_class!r}; expected the class of an attention module, such as type(model.blocks[0].attention)"
        )
    if module_class in _REGISTERED and not replace_existing:
        raise ArgumentError(
            f"{module_class.__name__} is already registered; pass replace_existing=True to say something else of it"
        )
    _REGISTERED[module_class] = _Places(q, k, v, output, pattern)


def is_registered(module: nn.Module) -> bool:
    """Whether it was said where attention is seen in a module."""
    return _places(module) is not None


def _places(module: nn.Module) -> _Places | None:
    return next((found for kind in type(module).__mro__ if (found := _REGISTERED.get(kind)) is not None), None)


@contextmanager
def capturing_named(watches: Mapping[nn.Module, Watch]) -> Iterator[None]:
    """Show the attention of registered modules to their watches.

    Raises
    ------
    ArchitectureError
        If a name that was given leads nowhere, or what is seen there has another shape.
    """
    with ExitStack() as hooks:
        for module, watch in watches.items():
            for handle in _hooks(module, watch):
                hooks.callback(handle.remove)
        yield


def _hooks(module: nn.Module, watch: Watch) -> Iterator[Any]:
    places = _places(module)
    assert places is not None
    seen: dict[str, Tensor] = {}

    def keep(role: str) -> Any:
        def hook(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
            seen[role] = output[0] if isinstance(output, (tuple, list)) else output

        return hook

    def reads(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen["z"] = args[0] if args else next(iter(kwargs.values()))

    def end(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
        if isinstance(places.pattern, int):
            seen["pattern"] = output[places.pattern]
        watch(_call(module, places, seen))
        seen.clear()

    for role in ("q", "k", "v"):
        yield on_result(_inside(module, role, getattr(places, role)), keep(role))
    if isinstance(places.pattern, str):
        yield on_result(_inside(module, "pattern", places.pattern), keep("pattern"))
    yield on_call(_inside(module, "output", places.output), reads)
    yield on_result(module, end)


def _inside(module: nn.Module, role: str, path: str) -> nn.Module:
    try:
        return module.get_submodule(path)
    except AttributeError as error:
        raise ArchitectureError(
            f"{type(module).__name__} is registered with {role}={path!r}, and has no module of this name; it has "
            f"{', '.join(name for name, _ in module.named_children())}"
        ) from error


def _call(module: nn.Module, places: _Places, seen: Mapping[str, Tensor]) -> AttentionCall:
    missing = [role for role in ("q", "k", "v", "pattern", "z") if not isinstance(seen.get(role), Tensor)]
    if missing:
        raise ArchitectureError(
            f"{type(module).__name__} is registered with {places}, and in a pass nothing was seen of {', '.join(missing)}"
        )
    pattern = seen["pattern"]
    heads, n_queries, n_keys = (
        (int(n) for n in pattern.reshape(-1, *pattern.shape[-3:]).shape[-3:])
        if pattern.ndim > 2
        else (1, *pattern.shape)
    )
    pattern = pattern.reshape(-1, heads, n_queries, n_keys)
    query = _by_head(seen["q"], len(pattern), heads, n_queries)
    key = _by_head(seen["k"], len(pattern), seen["k"].numel() // (len(pattern) * n_keys * query.shape[-1]), n_keys)
    value = _by_head(seen["v"], len(pattern), key.shape[1], n_keys)
    output = _by_head(seen["z"], len(pattern), heads, n_queries).transpose(1, 2)
    mask = torch.zeros_like(pattern).masked_fill_(pattern == 0, float("-inf"))
    return AttentionCall(query, key, value, mask, pattern, output, {"scaling": _scale(query, key, pattern)})


def _by_head(x: Tensor, rows: int, heads: int, n_positions: int) -> Tensor:
    if x.ndim == 4 and x.shape[1] == heads and x.shape[2] == n_positions:
        return x
    return x.reshape(rows, n_positions, max(heads, 1), -1).transpose(1, 2)


def _scale(query: Tensor, key: Tensor, pattern: Tensor) -> float:
    """The factor of the scores that explains the pattern best: log of the pattern is factor · q · k but for a number of each row."""
    keys = key.repeat_interleave(pattern.shape[1] // key.shape[1], 1)
    scores, is_seen = (query @ keys.transpose(-1, -2)).double(), pattern > 0
    logs = torch.where(is_seen, pattern.double(), 1.0).log()
    count = is_seen.sum(-1, keepdim=True).clamp(min=1)

    def centred(x: Tensor) -> Tensor:
        x = torch.where(is_seen, x, 0.0)
        return torch.where(is_seen, x - x.sum(-1, keepdim=True) / count, 0.0)

    made, wanted = centred(scores), centred(logs)
    size = float(made.square().sum())
    return float((made * wanted).sum()) / size if size else 1.0
