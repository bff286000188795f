"""What one short pass shows: the input and output of every module, and every call of an attention function.

Two modules are linked if the output of one *is* the input of the other, number for number. No name of a module is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

from ..eager import AttentionCall, asks_for_attention, eager_attention, watching
from ..hooks import on_call, on_result
from ..registered import capturing_named, is_registered
from ..softmax_capture import capturing_all

_SHOWN = 24
"""Leading numbers by which tensors are looked up, before all of their numbers are compared."""


@dataclass(eq=False)
class ModuleCall:
    """One call of a module: its first input and first output of floating-point numbers, None where there is none."""

    name: str
    input: Tensor | None
    output: Tensor | None = None
    result: Any = None
    begun: int = 0


@dataclass(eq=False)
class Record:
    """The calls of one pass.

    Attributes
    ----------
    modules
        Path → module.
    calls
        Path → its calls, in their order.
    attention, attended_at
        Path of the attention module → its calls, and the time of the first, counted as that of modules' calls.
    logits, last
        The model's output: logits, or None; the first tensor of it.
    """

    modules: dict[str, nn.Module]
    calls: dict[str, list[ModuleCall]] = field(default_factory=dict)
    attention: dict[str, list[AttentionCall]] = field(default_factory=dict)
    attended_at: dict[str, int] = field(default_factory=dict)
    logits: Tensor | None = None
    last: Tensor | None = None
    _by_input: dict[tuple[Any, ...], list[str]] = field(default_factory=dict)
    _by_output: dict[tuple[Any, ...], list[str]] = field(default_factory=dict)

    def input(self, name: str) -> Tensor | None:
        """First input of a module's first call."""
        return self.calls[name][0].input if name in self.calls else None

    def output(self, name: str) -> Tensor | None:
        """First output of a module's first call."""
        return self.calls[name][0].output if name in self.calls else None

    def reading(self, x: Tensor, under: str = "") -> Iterator[str]:
        """Modules under a path whose input is exactly ``x``, in the order of their calls."""
        for name in self._by_input.get(_key(x), ()):
            found = self.input(name)
            if _is_under(name, under) and found is not None and same(found, x):
                yield name

    def giving(self, x: Tensor, under: str = "") -> Iterator[str]:
        """Modules under a path whose output is exactly ``x``, inner ones first."""
        for name in self._by_output.get(_key(x), ()):
            found = self.output(name)
            if _is_under(name, under) and found is not None and same(found, x):
                yield name

    def runs(self, name: str) -> int:
        """How often a module ran."""
        return len(self.calls.get(name, ()))

    def of_run(self, path: str, run: int) -> Record:
        """What one run of a module shows: of the modules inside it the calls of that run, of all others everything."""
        times = self.runs(path)

        def own(name: str, several: list[Any]) -> list[Any]:
            # A module inside may itself run several times in each run.
            each = len(several) // times
            return (
                several[run * each : (run + 1) * each]
                if _is_under(name, path) and len(several) % times == 0
                else several
            )

        calls = {name: found for name, several in self.calls.items() if (found := own(name, several))}
        attention = {name: own(name, several) for name, several in self.attention.items()}
        record = Record(self.modules, calls, attention, self.attended_at, self.logits, self.last)
        record.index()
        return record

    def index(self) -> None:
        """Make tensors findable."""
        for name, (call, *_) in self.calls.items():
            if call.input is not None:
                self._by_input.setdefault(_key(call.input), []).append(name)
        for name, (call, *_) in sorted(self.calls.items(), key=lambda item: -item[0].count(".")):
            if call.output is not None:
                self._by_output.setdefault(_key(call.output), []).append(name)


def _is_under(name: str, under: str) -> bool:
    return not under or name == under or name.startswith(f"{under}.")


def _key(x: Tensor) -> tuple[Any, ...]:
    return (x.numel(), *x.reshape(-1)[:_SHOWN].tolist())


def same(x: Tensor, y: Tensor) -> bool:
    """Whether two tensors hold the same numbers in the same order, whatever their shapes."""
    return x.numel() == y.numel() and bool(torch.equal(x.reshape(-1).to(y.dtype), y.reshape(-1)))


def record_pass(model: Any, feed: dict[str, Any]) -> Record:
    """Run the model once and note every call."""
    modules = {name: module for name, module in model.named_modules() if name}
    record = Record(modules)
    names = {module: name for name, module in modules.items()}
    unfinished: dict[str, list[ModuleCall]] = {}

    inside: list[str] = []
    clock = count()

    def begin(name: str) -> Any:
        def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            found = next((x for x in (*args, *kwargs.values()) if _is_number(x)), None)
            call = ModuleCall(name, None if found is None else found.detach().clone(), begun=next(clock))
            record.calls.setdefault(name, []).append(call)
            unfinished.setdefault(name, []).append(call)
            inside.append(name)

        return hook

    def end(name: str) -> Any:
        def hook(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
            call = unfinished[name].pop()
            inside.pop()
            found = next((x for x in _flat(output) if _is_number(x)), None)
            # A copy, since a model may go on in the same memory.
            call.output = None if found is None else found.detach().clone()
            call.result = output if isinstance(output, tuple) else None

        return hook

    def watch(name: str) -> Any:
        return lambda call: note(name, call)

    def note(name: str, call: AttentionCall) -> None:
        record.attention.setdefault(name, []).append(call)
        record.attended_at.setdefault(name, next(clock))

    def seen(call: AttentionCall) -> None:
        # Inside the library's function the same attention is already watched.
        around = modules[inside[-1]]
        if not asks_for_attention(around) and not is_registered(around):
            note(inside[-1], call)

    with torch.inference_mode(mode=False), torch.no_grad(), eager_attention(model), ExitStack() as hooks:
        for name, module in modules.items():
            hooks.callback(on_call(module, begin(name)).remove)
            hooks.callback(on_result(module, end(name)).remove)
        named = {module: watch(name) for module, name in names.items() if is_registered(module)}
        with (
            watching({module: watch(name) for module, name in names.items()}),
            capturing_all(seen),
            capturing_named(named),
        ):
            output = model(**feed)
    logits = getattr(output, "logits", None)
    record.logits = logits.detach() if isinstance(logits, Tensor) else None
    record.last = next((x.detach() for x in _flat(output) if _is_number(x)), None)
    record.index()
    return record


def _is_number(x: Any) -> bool:
    return isinstance(x, Tensor) and x.is_floating_point() and x.ndim > 1


def _flat(output: Any) -> Iterator[Any]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, (tuple, list)):
        for one in output:
            yield from _flat(one)
    elif hasattr(output, "values"):
        for one in output.values():
            yield from _flat(one)
