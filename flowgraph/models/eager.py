"""Eager attention for the length of a pass: the one implementation that gives patterns, and queries and keys as they enter.

Models of transformers ask the library for an attention function by the name in their config. For a pass this module puts the name
of its own function there. In the thread of the pass, that function calls the eager function of the model's own file and shows its
input and output. In any other thread it calls the model's own implementation, so a forward that the user runs beside a pass is
neither recorded nor changed. Passes of one model run one after the other: the lock belongs to the model.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..errors import ArgumentError, NoPatternError
from .parameters import device_of
from .torch_attention import in_steps

NAME = "flowgraph_eager"
"""Name of our attention function in the library's registry; during a pass it also stands in the model's config."""


@dataclass(frozen=True, eq=False)
class AttentionCall:
    """One call of a model's attention function: everything that enters it, and what leaves it.

    Attributes
    ----------
    query, key, value
        [row, head, query position, d_head], [row, kv_head, key position, d_head], [row, kv_head, key position, d_value], as they
        enter: after rotary embedding, norms, low-rank projections and temperatures.
    mask
        What is added to the scores, [row, 1 or head, query position, key position]; None where nothing is.
    pattern
        [row, head, query position, key position] attention weights; None if the function gives none.
    output
        [row, query position, head, d_value] outputs of the heads.
    options
        The other arguments by name: ``scaling``, ``softcap``, ``position_bias``, ``s_aux`` (one score of each head for a key that
        holds nothing, its sink) …
    """

    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None
    pattern: Tensor | None
    output: Tensor
    options: Mapping[str, Any]

    def products(self, key: Tensor, rows: Tensor) -> Float[Tensor, "row head query_pos key_pos"]:
        """Products q · k at some query positions, with these keys or others of their shape; sums are made in 32 bits at least."""
        keys = key.repeat_interleave(self.query.shape[1] // key.shape[1], 1)
        # In the model's own number type, so that half precision rounds as the model did.
        made = self.query[:, :, rows] @ keys.transpose(-1, -2)
        return made if made.dtype == torch.float64 else made.float()

    def pattern_of(
        self, products: Float[Tensor, "row head query_pos key_pos"], scale: float, softcap: float | None, rows: Tensor
    ) -> Float[Tensor, "row head query_pos key_pos"]:
        """softmax(scale · products, capped, + bias + mask, with the sink), without the sink's part."""
        scores = products * scale
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        for added in (self.options.get("position_bias"), self.mask):
            if isinstance(added, Tensor):
                # One row serves all queries where the bias depends on the key alone.
                chosen = added if added.shape[-2] == 1 else added[..., rows, :]
                scores = scores + chosen[..., : scores.shape[-1]].to(scores.dtype)
        sink = self.options.get("s_aux")
        if isinstance(sink, Tensor):
            whole = sink.to(scores.dtype).reshape(1, -1, 1, 1).expand(*scores.shape[:-1], 1)
            return torch.cat([scores, whole], -1).softmax(-1)[..., :-1]
        return scores.softmax(-1)

    def pattern_error(self, scale: float, softcap: float | None, rows: Tensor) -> Float[Tensor, ""]:
        """‖softmax(scale · q · k, capped, + bias + mask, with the sink) − pattern‖ / ‖pattern‖ at some query positions.

        Unlike the support of the pattern, the mask and the bias are those that were given.
        """
        assert self.pattern is not None
        pattern = self.pattern[:, :, rows]
        made = self.pattern_of(self.products(self.key, rows), scale, softcap, rows)
        error: Tensor = (made[..., : pattern.shape[-1]] - pattern).norm() / pattern.float().norm()
        return error

    def output_error(self) -> Float[Tensor, ""]:
        """‖pattern · v − output‖ / ‖output‖."""
        assert self.pattern is not None
        values = self.value.repeat_interleave(self.pattern.shape[1] // self.value.shape[1], 1)
        made = (self.pattern.to(values.dtype) @ values).transpose(1, 2).float()
        output = self.output.reshape(made.shape).float()
        error: Tensor = (made - output).norm() / output.norm()
        return error


Watch = Callable[[AttentionCall], None]
"""Called with each call of one attention module."""

_ROUNDING = {torch.float64: 1e-6, torch.float32: 1e-6, torch.float16: 5e-3, torch.bfloat16: 4e-2}
"""Rounding of a sum of weights."""
_LOCKS: WeakKeyDictionary[nn.Module, threading.RLock] = WeakKeyDictionary()
# Two threads that ask for the lock of one model at once must get the same one.
_MAKING = threading.Lock()


class _Here(threading.local):
    """State of this thread: the number of passes that it is inside of, and the watches on attention modules."""

    def __init__(self) -> None:
        self.passes = 0
        self.watches: Mapping[nn.Module, Watch] = {}


_here = _Here()
_OWN: dict[int, str | None] = {}
"""id of a config → the implementation it names outside of the pass that runs now."""


def lock_of(model: nn.Module) -> threading.RLock:
    """The lock of a model. Code that runs or changes the model under hooks holds it; loading a model twice gives one lock."""
    with _MAKING:
        lock = _LOCKS.get(model)
        if lock is None:
            # Reentrant: a pass may run inside code of the same thread that holds the lock.
            _LOCKS[model] = lock = threading.RLock()
        return lock


def share_lock(model: nn.Module, part: nn.Module) -> None:
    """Give a part of a model that is run by itself the model's lock, since both run the same modules."""
    lock = lock_of(model)
    with _MAKING:
        _LOCKS[part] = lock


def refuse_autocast(device: str) -> None:
    """Refuse to compute where torch chooses number types by itself.

    Raises
    ------
    ArgumentError
        If torch.autocast is on for this kind of device.
    """
    if torch.is_autocast_enabled(device):
        raise ArgumentError(
            f"torch.autocast is on for {device!r}: the model would be run, and what is recorded would be computed, in other number "
            f"types than its own. Leave that block, or write 'with torch.autocast({device!r}, enabled=False):' inside it; "
            "load_model(…, dtype=) gives a model of another number type"
        )


@contextmanager
def eager_attention(model: Any) -> Iterator[None]:
    """Hold the model's lock, switch the model to eager attention and evaluation mode, and restore both on leaving.

    The mode belongs to the model: a training step that another thread runs on it meanwhile sees evaluation mode too.

    Raises
    ------
    ArgumentError
        If torch.autocast is on.
    """
    _register()
    holds = (part for part in model.modules() if any(one is not None for one in part._parameters.values()))
    refuse_autocast(device_of(next(holds, model)).type)
    # Those of the library compute attention in functions of theirs.
    plain = in_steps(model, _seen, lambda: bool(_here.passes)) if getattr(model, "is_plain", False) else nullcontext()
    with evaluating(model), plain:
        previous = [(config, config._attn_implementation) for config in _configs(model)]
        outermost = [config for config, name in previous if name != NAME]
        # Counted, since a pass may run inside another: only the outermost puts the model's own name back.
        _here.passes += 1
        try:
            _OWN.update({id(config): name for config, name in previous if name != NAME})
            for config in outermost:
                config._attn_implementation = NAME
            yield
        finally:
            _here.passes -= 1
            # Outer configs first: setting one sets those inside it.
            for config, name in previous:
                config._attn_implementation = name
            for config in outermost:
                _OWN.pop(id(config), None)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Hold the model's lock, switch the model to evaluation mode, and back on leaving."""
    with lock_of(model):
        in_training = [module for module in model.modules() if module.training]
        try:
            # The flag itself, not `eval()`: a class may do more when its mode is switched.
            for module in in_training:
                module.training = False
            yield
        finally:
            for module in in_training:
                # Only modules that were in training go back: a user may have frozen others in evaluation mode.
                module.training = True


def asks_for_attention(module: nn.Module) -> bool:
    """Whether an attention module shows its attention to watches: it asks the library for its attention function, or is torch's."""
    return _file_of(module) is not None or isinstance(module, nn.MultiheadAttention)


@contextmanager
def watching(watches: Mapping[nn.Module, Watch]) -> Iterator[None]:
    """Show this thread's calls of attention modules to their watches."""
    before, _here.watches = _here.watches, watches
    try:
        yield
    finally:
        _here.watches = before


def _seen(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    pattern: Tensor,
    output: Tensor,
    scale: float,
) -> None:
    """Show a call of torch's own attention layer to its watch."""
    watch = _here.watches.get(module)
    if watch is not None:
        watch(AttentionCall(query, key, value, mask, pattern, output, {"scaling": scale}))


def _configs(model: Any) -> list[Any]:
    """Every config that the model's modules ask, outer ones first."""
    found: dict[int, Any] = {}
    waiting = [model.config, *(config for module in model.modules() if (config := module.__dict__.get("config")))]
    while waiting:
        config = waiting.pop(0)
        if id(config) in found or not hasattr(config, "_attn_implementation"):
            continue
        found[id(config)] = config
        waiting = [inner for key in config.sub_configs if (inner := getattr(config, key, None)) is not None] + waiting
    return list(found.values())


@lru_cache(maxsize=1)
def _register() -> None:
    """Give the library our attention function and its mask, once."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, _mask)


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *args: Any,
    **kwargs: Any,
) -> Any:
    """Eager attention with its watches in the thread of a pass; the model's own attention in any other."""
    # Another thread runs the same model while its config names our function.
    if not _here.passes:
        return _own_function(module)(module, query, key, value, attention_mask, *args, **kwargs)
    output, pattern = _eager_function(module)(module, query, key, value, attention_mask, *args, **kwargs)
    watch = _here.watches.get(module)
    if watch is not None:
        sinks = kwargs.get("s_aux", getattr(module, "sinks", None))
        if isinstance(sinks, Tensor) and bool((pattern.float().sum(-1) > 1 - _ROUNDING[pattern.dtype]).all()):
            pattern, kwargs = _with_sinks(pattern, value, output), {**kwargs, "s_aux": sinks}
        watch(AttentionCall(query, key, value, attention_mask, pattern, output, kwargs))
    return output, pattern


def _with_sinks(pattern: Tensor, value: Tensor, output: Tensor) -> Tensor:
    """The pattern with what sinks take left out, where the function returns it without sinks and makes heads' outputs smaller."""
    values = value.repeat_interleave(pattern.shape[1] // value.shape[1], 1)
    whole = (pattern.to(values.dtype) @ values).float()
    given = output.transpose(1, 2).float()
    # The proof says whether this one factor of each head and query explains what the heads give.
    left = (given * whole).sum(-1, keepdim=True) / whole.square().sum(-1, keepdim=True).clamp(min=1e-30)
    return pattern * left.to(pattern.dtype)


def _mask(*args: Any, **kwargs: Any) -> Any:
    """The mask of eager attention in the thread of a pass; the mask of the model's own attention in any other."""
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

    # A mask does not say which model it is for; eager's, a tensor added to the scores, suits sdpa as well.
    names = set() if _here.passes else set(_OWN.values())
    name = names.pop() if len(names) == 1 else "eager"
    return ALL_MASK_ATTENTION_FUNCTIONS[name or "eager"](*args, **kwargs)


def _own_function(module: nn.Module) -> Callable[..., Any]:
    """The attention function that the module asks for outside of another thread's pass."""
    config: Any = module.config
    # Another thread's pass may have put our name into the config meanwhile; `_OWN` remembers the user's.
    name = _OWN.get(id(config), config._attn_implementation)
    eager = _eager_function(module)
    if name in (None, "eager", NAME):
        return eager
    interface = _file_of(module).ALL_ATTENTION_FUNCTIONS
    found: Callable[..., Any] = interface.get_interface(name, eager)
    return found


def _eager_function(module: nn.Module) -> Callable[..., Any]:
    file = _file_of(module)
    if file is None:
        raise NoPatternError(
            f"{type(module).__name__} asks the library for an attention function, and its file defines no eager one that "
            "would give a pattern; a model of this kind cannot be traced"
        )
    function: Callable[..., Any] = file.eager_attention_forward
    return function


@lru_cache(maxsize=256)
def _file_of_class(kind: type) -> Any:
    for one in kind.__mro__:
        file = sys.modules.get(one.__module__)
        if hasattr(file, "eager_attention_forward") and hasattr(file, "ALL_ATTENTION_FUNCTIONS"):
            return file
    return None


def _file_of(module: nn.Module) -> Any:
    """The Python file that defines the attention, with its eager function in it; None for attention code of its own."""
    kind: Any = type(module)  # a class is hashable
    return _file_of_class(kind)
