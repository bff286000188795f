"""What each expert of a mixture of experts writes: router weight × expert output, which sum to the MLP's output.

The experts of a layer are one module that takes vectors, the numbers of the chosen experts and their router weights. It is linear in
the router weights, so the module itself gives each part: it runs again with one choice at a time. What the MLP writes beside its
experts (shared experts) is its output while the experts give nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import Parameter, signature
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..charts.result import Result
from ..charts.table import Table, columns_of
from ..errors import ArgumentError, UnsupportedReadingError
from ..models.anatomy import Block, upcast
from ..values.arguments import takes
from ..values.node import Node, label
from ..values.trace import Trace

_ROUNDING = {torch.float64: 1e-9, torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 6e-2}
"""Largest error of the sum of the parts, by dtype of the weights."""
_SAME = 1e-3
"""A factor this near to 1 is 1 and rounding."""


@dataclass(frozen=True, eq=False)
class LayerExperts:
    """The experts of one layer.

    Attributes
    ----------
    index
        [position, choice] numbers of the chosen experts, the largest router weight first; −1 where fewer were chosen.
    weight
        [position, choice] their router weights.
    out
        [position, choice, d_model] what each adds to the residual stream, its router weight included.
    shared
        [position, d_model] what the MLP adds beside its experts; None where it has nothing else that writes.
    error
        ‖sum of the experts − what the MLP's output loses without them‖ / ‖output of the MLP‖.
    """

    index: Int[Tensor, "position choice"]
    weight: Float[Tensor, "position choice"]
    out: Float[Tensor, "position choice d_model"]
    shared: Float[Tensor, "position d_model"] | None
    error: float


@dataclass(frozen=True, eq=False, repr=False)
class Experts(Result):
    """The experts that a pass chose, layer by layer.

    Attributes
    ----------
    model, tokens
        Name of the model and texts of the prompt's tokens.
    index
        Layer → [position, choice] numbers of the chosen experts, the largest router weight first; −1 where fewer were chosen.
    weight
        Layer → [position, choice] their router weights.
    norm
        Layer → [position, choice] ‖router weight × expert output‖₂ as it is added to the residual stream.
    shared_norm
        Layer → [position] ‖what the MLP adds beside its experts‖₂; zero where there is nothing.
    together
        Layer → why its experts are not told apart; empty where all are.
    error
        Layer → ‖sum of the experts − what the MLP's output loses without them‖ / ‖output of the MLP‖.
    """

    model: str
    tokens: tuple[str, ...]
    index: Mapping[int, Int[np.ndarray, "position choice"]]
    weight: Mapping[int, Float[np.ndarray, "position choice"]]
    norm: Mapping[int, Float[np.ndarray, "position choice"]]
    shared_norm: Mapping[int, Float[np.ndarray, "position"]]
    together: Mapping[int, str]
    error: Mapping[int, float]

    def chart(self) -> Table:
        """A row for each layer, position and chosen expert, the strongest router weight of each position first."""
        rows = []
        for layer, index in self.index.items():
            for position, choice in zip(*np.nonzero(index >= 0), strict=True):
                node = Node("expert", layer=layer, index=int(index[position, choice]), position=int(position))
                rows.append(
                    {
                        "expert": label(node), "layer": layer, "position": int(position), "token": self.tokens[position],
                        "number": node.index, "router weight": float(self.weight[layer][position, choice]),
                        "norm": float(self.norm[layer][position, choice]),
                    }
                )  # fmt: skip
        return Table(
            f"Experts of {self.model}",
            columns_of(rows, ("expert", "layer", "position", "token", "number", "router weight", "norm")),
            words=("expert",),
            note="norm: length of router weight × expert output as it is added to the residual stream",
        )

    def table(self) -> Table:
        """The chart, which is a table."""
        return self.chart()

    def __repr__(self) -> str:
        layers = len(self.index)
        return f"Experts({self.model!r}, {layers} layer{'s' if layers != 1 else ''}, {len(self.tokens)} positions)"


@takes(Trace)
def experts(trace: Trace) -> Experts:
    """The experts that a pass of a mixture of experts chose, with their router weights and how much each wrote.

    Parameters
    ----------
    trace
        A trace with its model that holds ``mlp_out`` and the states that its MLPs read (``resid_mid``; ``resid_pre`` in parallel
        blocks).

    Raises
    ------
    UnsupportedReadingError
        If no layer of the trace is a mixture of experts, or none can be told apart.
    """
    found: dict[int, LayerExperts] = {}
    together: dict[int, str] = {}
    for row, layer in enumerate(range(*trace.layers)):
        one = layer_experts(trace, row)
        if isinstance(one, str):
            together[layer] = one
        elif one is not None:
            found[layer] = one
    if not found:
        for name in ("resid_pre" if trace.wiring == "parallel" else "resid_mid", "mlp_out"):
            trace.site(name)  # what is missing is said by its name
        why = next(iter(together.values()), "none of its layers is a mixture of experts")
        raise UnsupportedReadingError(f"{trace.model_name!r} has no experts that can be told apart: {why}")

    def plain(of: Callable[[LayerExperts], Tensor]) -> dict[int, Any]:
        return {layer: of(one).cpu().numpy() for layer, one in found.items()}

    return Experts(
        model=trace.model_name,
        tokens=trace.tokens,
        index=plain(lambda one: one.index),
        weight=plain(lambda one: upcast(one.weight)),
        norm=plain(lambda one: one.out.norm(dim=-1)),
        shared_norm=plain(
            lambda one: one.out.new_zeros(one.out.shape[0]) if one.shared is None else one.shared.norm(dim=-1)
        ),
        together=together,
        error={layer: one.error for layer, one in found.items()},
    )


def layer_experts(trace: Trace, row: int) -> LayerExperts | str | None:
    """The experts of a kept layer; why they cannot be told apart, in words; None where the layer is no mixture of experts."""
    anatomy = trace.model.anatomy
    block = anatomy.blocks[trace.layers[0] + row]
    if block.mlp is None or block.mlp_output is not None:
        return None
    module = block.mlp
    needed = [
        name
        for name, one in signature(module.forward).parameters.items()
        if one.default is Parameter.empty and one.kind in (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    ]
    if len(needed) > 1:
        return (
            f"{type(module).__name__} takes {', '.join(needed[1:])} beside the state" if has_experts(module) else None
        )
    reads_of = "resid_pre" if trace.wiring == "parallel" else "resid_mid"
    missing = [name for name in (reads_of, "mlp_out") if name not in trace.sites]
    if missing:
        return f"the trace does not hold {missing[0]}"
    states = trace.site(reads_of)[row]
    like = next(module.parameters())
    with torch.inference_mode(mode=False), torch.no_grad():
        states = states.to(like.device, like.dtype)
        reads = states if trace.wiring == "post_norm" else block.mlp_norm.module(states)
        return _told_apart(trace, row, block, module, reads)


def expert_vector(found: LayerExperts | str | None, node: Node) -> Float[Tensor, "d_model"]:
    """What an expert, or what shares its MLP, adds to the residual stream at a position.

    Raises
    ------
    ArgumentError
        If the pass has no such node.
    """
    if isinstance(found, str):
        raise ArgumentError(f"{label(node)} is not known: {found}")
    vector = None
    if found is not None and node.position is not None and node.kind == "shared_expert" and found.shared is not None:
        vector = found.shared[node.position]
    elif found is not None and node.position is not None and node.kind == "expert":
        chosen = found.index[node.position].tolist()
        vector = found.out[node.position, chosen.index(node.index)] if node.index in chosen else None
    if vector is None:
        raise ArgumentError(f"{label(node)} is not a node of this pass: no such expert was chosen there")
    return vector


def _told_apart(
    trace: Trace, row: int, block: Block, module: nn.Module, reads: Float[Tensor, "position d_model"]
) -> LayerExperts | str | None:
    seen: list[ExpertsCall] = []
    with _watching(module, len(reads), seen):
        output = _output(module, reads)
    if not seen:
        name = type(module).__name__
        return f"{name} calls its experts in a way that is not known" if has_experts(module) else None
    if len(seen) > 1:
        return f"{type(module).__name__} calls experts {len(seen)} times for one state"
    call = seen[0]
    with _silenced(call.module):
        rest = _output(module, reads)
    parts = call.parts()
    if parts.out.shape[-1] != reads.shape[-1]:
        return (
            f"its experts write {parts.out.shape[-1]} numbers, and a layer behind them makes {reads.shape[-1]} of them"
        )
    summed, routed = upcast(parts.out).sum(1), upcast(output) - upcast(rest)
    # Some modules multiply what their experts give by a number of their own.
    factor = float((routed * summed).sum() / (summed.square().sum() or 1.0))
    factor = 1.0 if abs(factor - 1) < _SAME else factor
    error = float((summed * factor - routed).norm()) / (float(upcast(output).norm()) or 1.0)
    if not error <= _ROUNDING[reads.dtype]:
        return (
            f"what {type(module).__name__} writes is not the sum of its experts and of what it writes without them, to "
            f"{_ROUNDING[reads.dtype]:g}"
        )
    out, norm = upcast(parts.out) * factor * block.mlp_factor, block.mlp_post_norm
    if norm is not None:
        out = norm.linear(out, upcast(trace.norm_scales["mlp_post"][row]).to(reads.device)[:, None])
    # All the rest of what the MLP adds: shared experts in the module or beside it, a bias of the norm behind it.
    beside = upcast(trace.mlp_out[row]).to(reads.device) - out.sum(1)
    alone = float(beside.norm()) <= _ROUNDING[reads.dtype] * float(out.sum(1).norm())
    order = parts.weight.abs().masked_fill(parts.index < 0, -1).sort(dim=-1, descending=True, stable=True).indices
    return LayerExperts(
        index=parts.index.gather(-1, order),
        weight=parts.weight.gather(-1, order) * factor,
        out=out.gather(1, order[..., None].expand_as(out)),
        shared=None if alone else beside,
        error=error,
    )


def _output(module: nn.Module, reads: Float[Tensor, "position d_model"]) -> Float[Tensor, "position d_model"]:
    output = module(reads[None])
    whole: Tensor = output[0] if isinstance(output, tuple) else output
    return whole.reshape(reads.shape)


def expert_count(module: nn.Module) -> int | None:
    """How many experts a mixture has, by its matrices; None where they do not say it."""
    counts = {len(one) for one in module.parameters() if one.ndim == 3}
    return counts.pop() if len(counts) == 1 else None


def has_experts(module: nn.Module) -> bool:
    """Whether a module says by its parts' names that it holds experts."""
    return any("expert" in name.lower() for name, _ in module.named_modules())


@dataclass(frozen=True, eq=False)
class _Parts:
    index: Int[Tensor, "position choice"]
    weight: Float[Tensor, "position choice"]
    out: Float[Tensor, "position choice width"]


@dataclass(frozen=True, eq=False)
class ExpertsCall:
    """One call of the module of all experts."""

    module: nn.Module
    vectors: Float[Tensor, "*position d"]
    index: Int[Tensor, "position choice"] | None
    weight: Float[Tensor, "position choice"] | None
    output: Tensor
    names: tuple[str, ...]
    """Names of the three arguments that were given by name."""
    read: Float[Tensor, "position d"]

    def parts(self) -> _Parts:
        """What each choice gives."""
        if self.index is None or self.weight is None:
            return self._of_every_expert()
        found = [self._again(self.index[:, n : n + 1], self.weight[:, n : n + 1]) for n in range(self.index.shape[1])]
        return _Parts(self.index, self.weight, torch.stack(found, 1))

    def of(self, number: int) -> Float[Tensor, "position width"]:
        """What one expert gives; zero where it was not chosen."""
        if self.index is None or self.weight is None:
            return self.output.reshape(-1, len(self.read), self.output.shape[-1])[number]
        return self._again(self.index, self.weight * (self.index == number))

    def with_change(self, number: int, change: Float[Tensor, "position width"]) -> Tensor:
        """The output of the call once what one expert gives has changed by so much."""
        if self.index is not None:
            return self.output + change.reshape(self.output.shape)
        output = self.output.reshape(-1, len(self.read), self.output.shape[-1]).clone()
        output[number] = output[number] + change
        return output.reshape(self.output.shape)

    def _again(
        self, index: Int[Tensor, "position choice"], weight: Float[Tensor, "position choice"]
    ) -> Float[Tensor, "position width"]:
        one = (self.vectors, index, weight)
        places = len(one) - len(self.names)
        output: Tensor = self.module(*one[:places], **dict(zip(self.names, one[places:], strict=True)))
        return output.reshape(len(index), -1)

    def _of_every_expert(self) -> _Parts:
        """Every expert ran on every vector, its router weight multiplied into the vector: those with a weight were chosen."""
        count = len(self.read)
        scaled, out = (x.reshape(-1, count, x.shape[-1]).transpose(0, 1) for x in (self.vectors, self.output))
        # The weight is the factor between the vector and the scaled one.
        weight = (scaled @ self.read[..., None])[..., 0] / self.read.square().sum(-1, keepdim=True)
        most = int((weight != 0).sum(-1).max())
        index = weight.abs().sort(dim=-1, descending=True, stable=True).indices[:, :most]
        chosen = weight.gather(-1, index)
        return _Parts(
            torch.where(chosen != 0, index, -1), chosen, out.gather(1, index[..., None].expand(-1, -1, out.shape[-1]))
        )


def experts_call(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any, read: Float[Tensor, "position d"]
) -> ExpertsCall | None:
    """A call of a submodule as that of all experts, if it is one; ``read`` is what the MLP reads."""
    given = [*args, *kwargs.values()]
    tensors = [x for x in given if isinstance(x, Tensor)]
    if len(tensors) != len(given) or not isinstance(output, Tensor):
        return None
    if len(tensors) == 3 and _is_routed(tensors[0], tensors[1], tensors[2], len(read)):
        return ExpertsCall(module, tensors[0], tensors[1], tensors[2], output, tuple(kwargs), read)
    if len(tensors) == 1 and _is_repeated(module, tensors[0], len(read)):
        return ExpertsCall(module, tensors[0], None, None, output, tuple(kwargs), read)
    return None


@contextmanager
def _watching(module: nn.Module, count: int, seen: list[ExpertsCall]) -> Iterator[None]:
    """Keep the calls of a submodule that takes vectors, numbers of experts and router weights, of ``count`` positions."""
    read: list[Tensor] = []

    def look(one: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        call = experts_call(one, args, kwargs, output, read[0])
        if call is not None:
            seen.append(call)

    def begin(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        first = next(x for x in (*args, *kwargs.values()) if isinstance(x, Tensor))
        read.append(first.reshape(count, -1))

    handles = [module.register_forward_pre_hook(begin, with_kwargs=True)]
    handles += [one.register_forward_hook(look, with_kwargs=True) for one in module.modules() if one is not module]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _is_routed(vectors: Tensor, index: Tensor, weight: Tensor, count: int) -> bool:
    """Whether these are vectors, the numbers of chosen experts, each chosen once, and their router weights."""
    if index.is_floating_point() or index.dtype == torch.bool or index.ndim != 2 or len(index) != count:
        return False
    if not vectors.is_floating_point() or vectors.numel() % count or weight.shape != index.shape:
        return False
    ordered = index.sort(dim=-1).values
    return weight.is_floating_point() and bool((ordered[:, 1:] != ordered[:, :-1]).all())


def _is_repeated(module: nn.Module, vectors: Tensor, count: int) -> bool:
    """Whether a module of several experts' matrices takes the vectors of all positions once for each expert."""
    experts = {len(one) for one in module.parameters(recurse=False) if one.ndim == 3}
    return len(experts) == 1 and vectors.ndim == 2 and len(vectors) == experts.pop() * count


@contextmanager
def _silenced(module: nn.Module) -> Iterator[None]:
    """The module gives zeros."""
    handle = module.register_forward_hook(lambda _module, _args, output: torch.zeros_like(output))
    try:
        yield
    finally:
        handle.remove()
