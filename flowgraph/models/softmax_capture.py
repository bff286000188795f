"""Attention that a module computes by code of its own, seen at its softmax.

The functions of torch that run inside the module are followed: the product of two tensors that becomes scores, what scales and
shifts these, the softmax over them, and the product of the softmax with values. The scores' two factors are queries and keys. What
is followed is arithmetic, not names, so a module of any kind can be looked at.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .eager import AttentionCall, Watch
from .hooks import on_call, on_result
from .registered import capturing_named, is_registered

_PRODUCTS = frozenset({"matmul", "__matmul__", "bmm", "baddbmm", "einsum"})
_TIMES = frozenset({"mul", "__mul__", "__rmul__", "mul_", "__imul__", "multiply"})
_OVER = frozenset({"div", "__truediv__", "div_", "__itruediv__", "true_divide"})
_PLUS = frozenset({"add", "__add__", "__radd__", "add_", "__iadd__"})
_MINUS = frozenset({"sub", "__sub__", "sub_", "__isub__"})
_SAME = frozenset({
    "view", "reshape", "to", "type", "type_as", "float", "contiguous", "clone", "dropout", "unsqueeze", "squeeze", "expand",
    "__getitem__", "masked_fill", "masked_fill_", "where", "half", "bfloat16", "flatten", "unflatten",
    # Lowest and highest numbers do not change a softmax of finite scores.
    "clamp", "max", "maximum",
})  # fmt: skip
"""Functions after which a tensor still holds the scores, or the pattern, in the same order."""


@dataclass(frozen=True, eq=False)
class _Scores:
    """How a tensor of scores was made: scale · q · k + what was added."""

    query: Tensor
    key: Tensor
    scale: float
    added: tuple[Tensor, ...]


class _Here(threading.local):
    """State of this thread: how many pieces of other work it is inside of."""

    def __init__(self) -> None:
        self.apart = 0


_here = _Here()


@contextmanager
def apart() -> Iterator[None]:
    """Work inside an attention module that is not the module's own, and is not followed."""
    _here.apart += 1
    try:
        yield
    finally:
        _here.apart -= 1


class _Following(TorchFunctionMode):
    """Follows the functions of torch until a pattern has met its values."""

    def __init__(self, found: Callable[[AttentionCall], None], rows: int = 1) -> None:
        super().__init__()
        self.found, self.rows = found, rows
        # The tensors are held, so that no other gets the number of one that is gone.
        self.scores: dict[int, tuple[Tensor, _Scores]] = {}
        self.patterns: dict[int, tuple[Tensor, _Scores]] = {}

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if _here.apart:
            return out
        if func is nn.functional.scaled_dot_product_attention:
            self.found(_in_one(args, kwargs, out, self.rows))
        elif isinstance(out, Tensor):
            self._follow(getattr(func, "__name__", ""), args, kwargs, out)
        return out

    def clear(self) -> None:
        """Forget the tensors that were followed."""
        self.scores.clear()
        self.patterns.clear()

    def _follow(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Tensor) -> None:
        if name in _PRODUCTS:
            self._product(name, args, kwargs, out)
            return
        first = args[0] if args else kwargs.get("input")
        if name == "softmax" and id(first) in self.scores and out.ndim in (3, 4):
            self.patterns[id(out)] = (out, self.scores[id(first)][1])
            return
        for one in args[:3]:
            if id(one) in self.patterns and (name in _SAME or name in _TIMES):
                self.patterns[id(out)] = (out, self.patterns[id(one)][1])
                return
            if id(one) in self.scores:
                made = self._shifted(name, one, args, self.scores[id(one)][1])
                if made is not None:
                    self.scores[id(out)] = (out, made)
                return

    def _product(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Tensor) -> None:
        added: tuple[Tensor, ...] = ()
        scale = 1.0
        if name == "einsum":
            ordered = _as_matmul(args, pattern=len(args) == 3 and id(args[1]) in self.patterns)
            if ordered is None:
                return
            left, right, made = ordered
            if id(args[1]) in self.patterns:
                self.found(_call(left, right, made(out), self.patterns[id(args[1])][1], self.rows))
            else:
                self.scores[id(out)] = (out, _Scores(left, right, 1.0, ()))
            return
        if name == "baddbmm":
            shift, left, right = (*args, *(kwargs[key] for key in ("batch1", "batch2") if key in kwargs))[:3]
            scale, beta = float(kwargs.get("alpha", 1.0)), float(kwargs.get("beta", 1.0))
            added = (shift * beta,) if beta else ()
        else:
            left, right = (*args, *kwargs.values())[:2]
        if id(left) in self.patterns:
            # As it meets the values: after a softmax in 32 bits it may have been rounded.
            self.found(_call(left, right, out, self.patterns[id(left)][1], self.rows))
        elif isinstance(left, Tensor) and isinstance(right, Tensor) and left.ndim in (3, 4) and right.ndim in (3, 4):
            self.scores[id(out)] = (out, _Scores(left, right, scale, added))

    def _shifted(self, name: str, own: Tensor, args: tuple[Any, ...], scores: _Scores) -> _Scores | None:
        """The scores after one more function; None if it is not one that is followed."""
        if name in _SAME:
            return scores
        other = next((one for one in args[:2] if one is not own), None)
        if name in _PLUS and isinstance(other, (int, float)):
            return scores  # the same for every key
        if name in _PLUS and isinstance(other, Tensor):
            return replace(scores, added=(*scores.added, other))
        if name in _TIMES and isinstance(other, Tensor) and _is_mask(other):
            return scores
        if name in _MINUS and isinstance(other, Tensor) and args[0] is own:
            return replace(scores, added=(*scores.added, -other))
        if name in _TIMES and isinstance(other, Tensor) and other.ndim > 2 and other.shape[-2:] == (1, 1):
            # A factor of each head, as a temperature that was learned.
            return replace(scores, query=scores.query * other, added=tuple(one * other for one in scores.added))
        number = (
            float(other)
            if isinstance(other, (int, float)) or (isinstance(other, Tensor) and other.numel() == 1)
            else None
        )
        if number is None or name not in _TIMES | _OVER:
            return None
        factor = number if name in _TIMES else 1 / number
        return replace(scores, scale=scores.scale * factor, added=tuple(one * factor for one in scores.added))


def _as_matmul(args: tuple[Any, ...], *, pattern: bool) -> tuple[Tensor, Tensor, Callable[[Tensor], Tensor]] | None:
    """The factors of an einsum of two tensors, turned so that a matrix product of them is meant, and a turn for its result.

    None for any other einsum: scores are to come out as [row, head, query, key], as softmax takes them.
    """
    if len(args) != 3 or not isinstance(args[0], str) or "->" not in args[0] or "." in args[0]:
        return None
    inputs, _, result = args[0].replace(" ", "").partition("->")
    first, _, second = inputs.partition(",")
    if {len(first), len(second), len(result)} != {4}:
        return None
    contracted = (set(first) & set(second)) - set(result)
    batch = [letter for letter in first if letter in second and letter in result]
    if len(contracted) != 1 or len(batch) != 2:
        return None
    inner = contracted.pop()
    of_first, of_second = (next(x for x in letters if x not in (*batch, inner)) for letters in (first, second))
    if not pattern and result != "".join((*batch, of_first, of_second)):
        return None

    def turned(x: Tensor, letters: str, order: str) -> Tensor:
        return x.permute([letters.index(letter) for letter in order])

    rows = "".join(batch)
    left, right = turned(args[1], first, rows + of_first + inner), turned(args[2], second, rows + inner + of_second)
    return left, right, lambda out: turned(out, result, rows + of_first + of_second)


def _is_mask(x: Tensor) -> bool:
    """Whether a tensor lets some scores pass and makes the others 0, which are then shifted out of the softmax."""
    return x.numel() > 1 and bool(((x == 0) | (x == 1)).all())


def _in_one(args: Sequence[Any], kwargs: Mapping[str, Any], output: Tensor, rows: int) -> AttentionCall:
    """The call of torch's function that computes attention in one step, whose pattern is computed beside it."""
    given = dict(zip(("query", "key", "value", "attn_mask", "dropout_p", "is_causal"), args, strict=False)) | dict(
        kwargs
    )
    query, key, value = (given[name].reshape(rows, -1, *given[name].shape[-2:]) for name in ("query", "key", "value"))
    scale = given.get("scale") or query.shape[-1] ** -0.5
    repeated = key.repeat_interleave(query.shape[1] // key.shape[1], 1)
    scores = scale * (query @ repeated.transpose(-1, -2))
    mask = given.get("attn_mask")
    if given.get("is_causal"):
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if mask is not None and mask.dtype == torch.bool:
        mask = torch.zeros(mask.shape, dtype=scores.dtype, device=mask.device).masked_fill(~mask, float("-inf"))
    if mask is not None:
        mask = mask.reshape(-1, *mask.shape[-3:]) if mask.ndim > 2 else mask[None, None]
        scores = scores + mask
    return AttentionCall(
        query,
        key,
        value,
        mask,
        scores.softmax(-1),
        output.reshape(rows, -1, *output.shape[-2:]).transpose(1, 2),
        {"scaling": scale},
    )


def _call(pattern: Tensor, value: Tensor, output: Tensor, scores: _Scores, rows: int) -> AttentionCall:
    """The call in the form that the library's attention function has, for ``rows`` rows of tokens."""
    n_queries, n_keys = pattern.shape[-2:]
    # Windows are rows as well.
    rows = pattern.shape[0] if pattern.ndim == 4 else rows
    bias: Tensor | None = None
    for added in scores.added:
        # Rows may be counted in two axes, of inputs and of windows in each.
        count = added.shape[:-3].numel() if added.ndim > 4 else _rows_of(added, pattern, rows)
        shaped = added if added.ndim <= 2 else added.reshape(count, -1, *added.shape[-2:])
        bias = shaped if bias is None else bias + shaped
    # What a module masked is not followed: a key without any weight was masked.
    mask = torch.zeros_like(pattern).masked_fill_(pattern == 0, float("-inf")).reshape(rows, -1, n_queries, n_keys)
    query, key = scores.query, scores.key.transpose(-1, -2)
    return AttentionCall(
        query=query.reshape(rows, -1, n_queries, query.shape[-1]),
        key=key.reshape(rows, -1, n_keys, key.shape[-1]),
        value=value.reshape(rows, -1, n_keys, value.shape[-1]),
        mask=mask,
        pattern=pattern.reshape(rows, -1, n_queries, n_keys),
        output=output.reshape(rows, -1, n_queries, output.shape[-1]).transpose(1, 2),
        options={"scaling": scores.scale, "position_bias": bias},
    )


def _rows_of(added: Tensor, pattern: Tensor, rows: int) -> int:
    """How many rows something that is added to scores holds: all, or one that serves them all."""
    is_whole = added.shape[:-2].numel() == pattern.shape[:-2].numel()
    return rows if is_whole or (added.ndim == 4 and len(added) == rows) else 1


@contextmanager
def capturing(watches: Mapping[nn.Module, Watch], rows: int = 1) -> Iterator[None]:
    """Show the attention that modules compute by code of their own to their watches; of a registered one, where it was said to be.

    ``rows`` is the number of rows of tokens in the pass.
    """
    running: list[_Following] = []
    handles = []

    def begin(watch: Watch) -> Any:
        def hook(_module: nn.Module, _args: tuple[Any, ...], _kwargs: dict[str, Any]) -> None:
            running.append(_Following(watch, rows))
            running[-1].__enter__()

        return hook

    def end(_module: nn.Module, _args: tuple[Any, ...], _output: Any) -> None:
        running.pop().__exit__(None, None, None)

    try:
        for module, watch in watches.items():
            if not is_registered(module):
                handles += [on_call(module, begin(watch)), on_result(module, end)]
        with capturing_named({module: watch for module, watch in watches.items() if is_registered(module)}):
            yield
    finally:
        for handle in handles:
            handle.remove()
        # An error inside a module leaves it without its end.
        while running:
            running.pop().__exit__(None, None, None)


@contextmanager
def capturing_all(found: Callable[[AttentionCall], None]) -> Iterator[None]:
    """Show every attention that is computed in this thread."""
    with torch.no_grad(), _Following(found) as mode:
        try:
            yield
        finally:
            mode.clear()
