"""The one door to the numbers of a module: in place, kept elsewhere by accelerate, or packed by a quantiser.

Accelerate keeps weights in memory or on disk and brings them in for a module's forward alone; outside it they are on ``meta``. What
is read here is brought in for one module at a time, and is gone when its reader is.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

_PLAIN = (nn.Parameter, Tensor)


@dataclass(frozen=True)
class _Layout:
    """A way to pack a linear layer.

    ``name`` is what it is called, ``rounds`` says whether the inputs are rounded too, so that the layer is not quite linear, and
    ``unpack`` gives the matrix.
    """

    name: str
    rounds: bool
    unpack: Callable[[Any], Tensor]


def weight_of(module: Any) -> Tensor | None:
    """A module's weight as plain numbers, laid out as the module has it; None where it has none.

    A packed weight is what the packed numbers stand for.
    """
    layout = _layout(module)
    return _parameter(module, "weight") if layout is None else layout.unpack(module).detach()


def bias_of(module: Any) -> Tensor | None:
    """A module's bias; None where it has none."""
    bias = getattr(module, "bias", None)
    # Layers of torch's own dynamic quantisation give it by a call.
    found = bias() if callable(bias) and not isinstance(bias, (Tensor, nn.Module)) else _parameter(module, "bias")
    return None if found is None else found.detach()


def matrix_of(module: Any) -> Tensor:
    """:func:`weight_of` of a module that has one."""
    weight = weight_of(module)
    assert weight is not None
    return weight


def shape_of(module: Any) -> tuple[int, ...] | None:
    """The shape of :func:`weight_of`, without reading it; None where there is none."""
    if _layout(module) is not None:
        return int(module.out_features), int(module.in_features)
    weight = getattr(module, "weight", None)
    return tuple(weight.shape) if isinstance(weight, Tensor) else None


def is_matrix(module: Any) -> bool:
    """Whether a module has a weight matrix, as a linear layer and an embedding have."""
    return len(shape_of(module) or ()) == 2


def numbers_of(module: Any) -> Iterator[Tensor]:
    """The parameters of a module and of those inside it as plain numbers, one at a time."""
    for part in module.modules():
        yield from own_numbers(part)


def own_numbers(module: Any) -> Iterator[Tensor]:
    """The parameters of a module, without those of modules inside it, as plain numbers, one at a time."""
    if _layout(module) is None:
        found: Iterable[Tensor | None] = (_parameter(module, name) for name in module._parameters)
    else:
        found = (read(module) for read in (weight_of, bias_of))
    yield from (numbers for numbers in found if numbers is not None)


def key_of(module: Any) -> tuple[Any, ...]:
    """Names the numbers of a module's weight and bias: another key means that they may be others."""
    if not is_in_place(module):
        # Numbers that torch does not hold in place are not changed in place.
        return (id(module),)
    held = (getattr(module, name, None) for name in ("weight", "bias"))
    return tuple((value.data_ptr(), version(value)) for value in held if isinstance(value, Tensor))


def version(parameter: Tensor) -> int:
    """Number of changes of a parameter that torch counted; 0 for one made in inference mode, which torch does not count."""
    return 0 if parameter.is_inference() else parameter._version


def is_away(module: Any) -> bool:
    """Whether accelerate brings a module's parameters in for its forward alone."""
    hook = getattr(module, "_hf_hook", None)
    return hook is not None and bool(getattr(hook, "offload", False))


def is_in_place(module: Any) -> bool:
    """Whether a module's weight is plain numbers that torch holds where they are."""
    return _layout(module) is None and not is_away(module)


def device_of(module: Any) -> torch.device:
    """The device on which a module runs."""
    if is_away(module):
        return torch.device(module._hf_hook.execution_device)
    weight = getattr(module, "weight", None)
    if isinstance(weight, Tensor):
        return weight.device
    return next((parameter.device for parameter in module.parameters()), torch.device("cpu"))


def packing_of(module: Any) -> tuple[str, bool] | None:
    """How a module's weight is packed, in words, and whether its inputs are rounded too; None where it is not, or not known how."""
    layout = _layout(module)
    return None if layout is None else (layout.name, layout.rounds)


def _parameter(module: Any, name: str) -> Tensor | None:
    value = getattr(module, name, None)
    if not isinstance(value, Tensor):
        return None
    if value.is_meta and is_away(module):
        from accelerate.utils import align_module_device

        with align_module_device(module):
            value = getattr(module, name)
    found: Tensor = value.detach()
    return found


def _layout(module: Any) -> _Layout | None:
    """How a module's weight is packed; None for plain numbers, and for a packing that is not known."""
    weight = getattr(module, "weight", None)
    # First what nearly every module has.
    if isinstance(weight, Tensor) and type(weight) in _PLAIN and weight.is_floating_point():
        return None
    kind = type(module)
    if kind.__module__.startswith("bitsandbytes.") and isinstance(weight, Tensor):
        return {"Linear4bit": _FOUR, "Linear8bitLt": _EIGHT}.get(_base(kind, ("Linear4bit", "Linear8bitLt")))
    if kind.__module__.startswith("torch.ao.nn.quantized.dynamic") and hasattr(module, "in_features"):
        return _DYNAMIC
    if isinstance(weight, Tensor) and type(weight).__module__.startswith("torchao.") and isinstance(module, nn.Linear):
        return _TORCHAO_ROUNDED if getattr(weight, "act_quant_kwargs", None) is not None else _TORCHAO
    return None


def _base(kind: type, names: tuple[str, ...]) -> str:
    return next((one.__name__ for one in kind.__mro__ if one.__name__ in names), "")


def _unpack_four(module: Any) -> Tensor:
    from bitsandbytes import functional

    numbers, state = module.weight.data, module.weight.quant_state
    if getattr(state, "packing_format_for_cpu", False):
        # A first forward on a CPU lays the numbers out for its kernel.
        numbers, state = functional._convert_weight_packed_for_cpu_inverse(numbers.clone(), copy.copy(state))
        if state.absmax.ndim == 2:
            # Its inverse leaves the scales of blocks as they are laid out for the kernel.
            state.absmax = state.absmax.T.reshape(-1)
    found: Tensor = functional.dequantize_4bit(numbers, state)
    return found


def _unpack_eight(module: Any) -> Tensor:
    # A first forward moves the scales from the weight to the module's state.
    scales = module.state.SCB if module.weight.SCB is None else module.weight.SCB
    numbers = module.weight.data if module.state.CB is None else module.state.CB
    found: Tensor = numbers.float() * scales[:, None].float() / 127
    return found


_FOUR = _Layout("bitsandbytes, 4 bits", False, _unpack_four)
_EIGHT = _Layout("bitsandbytes, 8 bits", True, _unpack_eight)
_TORCHAO = _Layout("torchao", False, lambda module: module.weight.dequantize())
_TORCHAO_ROUNDED = _Layout("torchao, inputs rounded too", True, lambda module: module.weight.dequantize())
_DYNAMIC = _Layout("torch, dynamic 8 bits", True, lambda module: module.weight().dequantize())


def output_embeddings(model: Any) -> Any:
    """The linear layer over the vocabulary; None where the class has none."""
    output = _embeddings(model, "get_output_embeddings")
    return output if shape_of(output) is not None else None


def input_embeddings(model: Any) -> Any:
    """The table of the vocabulary's vectors; None where the class has none, as a model of images."""
    table = _embeddings(model, "get_input_embeddings")
    weight = getattr(table, "weight", None)
    return table if isinstance(weight, Tensor) and weight.ndim == 2 else None


def _embeddings(model: Any, name: str) -> Any:
    # Classes without the one or the other say so by an error, in several ways.
    try:
        return getattr(model, name)()
    except (AttributeError, NotImplementedError):
        return None
