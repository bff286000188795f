"""What sums cannot prove, proved by derivatives: that a gate is a gate, and that an MLP mixes no tokens.

A factor that is read off as output / input fits anything. So it is held against the derivative: if number i of the projection's input
is g_i · o_i, with g_i from elsewhere, its derivative by the heads' outputs is g_i at place i and 0 at all others. A norm over the
outputs also depends on their size, and its derivative has a part along the outputs themselves; frozen at its scale it is such a factor.

An MLP that is known as one module alone could read other positions, as RWKV's does. Then what it writes at one position has a
derivative by what it reads at another.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..eager import AttentionCall, eager_attention, watching
from ..hooks import on_call, on_result


def gate_error(model: Any, feed: dict[str, Any], pairs: Sequence[tuple[nn.Module, nn.Module]]) -> float:
    """Largest relative error of the derivatives, over pairs of an attention module and the projection of its heads' outputs.

    Parameters
    ----------
    model, feed
        The model, and the arguments of a short pass.
    pairs
        (attention module, output projection), each of which runs once.
    """
    given: dict[int, Tensor] = {}
    read: dict[int, Tensor] = {}

    def watch(n: int) -> Any:
        def keep(call: AttentionCall) -> None:
            given[n] = call.output

        return keep

    def reader(n: int) -> Any:
        def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            read[n] = args[0] if args else next(iter(kwargs.values()))

        return hook

    with _differentiable(model, feed) as (hooks, feed):
        for n, (_, projection) in enumerate(pairs):
            hooks.callback(on_call(projection, reader(n)).remove)
        with watching({attention: watch(n) for n, (attention, _) in enumerate(pairs)}):
            model(**feed)
        return max(_error(given[n], read[n]) if n in given and n in read else torch.inf for n in range(len(pairs)))


def mixing_error(model: Any, feed: dict[str, Any], modules: Sequence[nn.Module]) -> float:
    """Largest derivative, over modules, of what is written at one position by what is read at others, in parts of the whole.

    Parameters
    ----------
    model, feed
        The model, and the arguments of a short pass.
    modules
        Modules that read and write a state at each position.
    """
    calls: dict[int, tuple[Tensor, Tensor]] = {}

    def note(n: int) -> Any:
        def hook(_module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if args and n not in calls:
                calls[n] = (args[0], output[0] if isinstance(output, (tuple, list)) else output)

        return hook

    with _differentiable(model, feed) as (hooks, feed):
        for n, module in enumerate(modules):
            hooks.callback(on_result(module, note(n)).remove)
        model(**feed)
        return max((_of_others(*calls[n]) for n in calls), default=0.0)


def mixes_tokens(model: Any, feed: dict[str, Any], module: nn.Module, rounding: float) -> bool:
    """Whether what a module writes at one position changes with what it reads at another.

    Parameters
    ----------
    model, feed
        The model, and the arguments of a short pass.
    module
        A module that reads and writes a state at each position.
    rounding
        Largest change, as a part of what is written, that is none.
    """
    calls: list[tuple[list[Any], dict[str, Any], Tensor]] = []

    def note(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        calls.append((list(args), dict(kwargs), output[0] if isinstance(output, (tuple, list)) else output))

    with torch.inference_mode(mode=False), torch.no_grad(), eager_attention(model):
        handle = module.register_forward_hook(note, with_kwargs=True)
        try:
            model(**feed)
        finally:
            handle.remove()
        args, kwargs, written = calls[0]
        place: Any = 0 if args else next(iter(kwargs))
        given: Any = args if args else kwargs
        read, count = given[place], written.reshape(-1, written.shape[-1]).shape[0]
        for at in {0, count // 2}:
            changed = read.clone()
            changed.reshape(count, -1)[at] *= -1.5
            given[place] = changed
            output = module(*args, **kwargs)
            again = output[0] if isinstance(output, (tuple, list)) else output
            others = torch.arange(count, device=again.device) != at
            before, after = (x.reshape(count, -1)[others] for x in (written, again))
            if float((after - before).norm()) > rounding * float(before.norm()):
                return True
    return False


def _of_others(read: Tensor, written: Tensor) -> float:
    rows = written.reshape(-1, written.shape[-1])
    at = len(rows) // 2
    if not read.requires_grad or not written.requires_grad or read.numel() // read.shape[-1] != len(rows):
        return 0.0
    generator = torch.Generator("cpu").manual_seed(12)
    probe = torch.randn(rows.shape[-1], generator=generator, dtype=torch.float32).to(rows)
    (found,) = torch.autograd.grad((rows[at] * probe).sum(), read, retain_graph=True, allow_unused=True)
    if found is None:
        return 0.0
    slopes = found.reshape(len(rows), -1).double()
    whole = slopes.norm()
    others = torch.cat([slopes[:at], slopes[at + 1 :]]).norm()
    return float(others / whole) if whole > 0 else 0.0


@contextmanager
def _differentiable(model: Any, feed: dict[str, Any]) -> Iterator[tuple[ExitStack, dict[str, Any]]]:
    """A pass whose tensors can be differentiated, whatever the model's parameters ask for; hooks are set in it."""

    def entering(_module: nn.Module, _args: tuple[Any, ...], output: Tensor) -> Tensor:
        return output.detach().requires_grad_()

    with torch.inference_mode(mode=False), torch.enable_grad(), eager_attention(model), ExitStack() as hooks:
        if "input_ids" in feed:
            hooks.callback(on_result(model.get_input_embeddings(), entering).remove)
        else:
            # An image or a sound can itself be differentiated by.
            feed = {name: x.clone().requires_grad_() if _is_number(x) else x for name, x in feed.items()}
        yield hooks, feed


def _is_number(x: Any) -> bool:
    return isinstance(x, Tensor) and x.is_floating_point()


def _error(output: Tensor, entering: Tensor) -> float:
    generator = torch.Generator("cpu").manual_seed(11)
    probe = torch.randn(entering.shape, generator=generator, dtype=torch.float32).to(entering)
    (found,) = torch.autograd.grad((entering * probe).sum(), output, retain_graph=True, allow_unused=True)
    if found is None:
        return torch.inf
    rows = output.detach().reshape(-1, entering.shape[-1]).double()
    slopes, wanted = found.reshape(rows.shape).double(), (entering * probe).detach().reshape(rows.shape).double()
    # The factor times the probe; where an output is 0 its factor does not matter.
    expected = torch.where(rows == 0, slopes, wanted / rows)
    rest = slopes - expected
    # What a norm's scale adds lies along the outputs.
    rest = rest - (rest * rows).sum(-1, keepdim=True) / rows.square().sum(-1, keepdim=True).clamp(min=1e-300) * rows
    return float(rest.norm() / slopes.norm())
