"""The parts of a block: norms, projections and the modules around them, as tracing, lenses and methods work with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..errors import UnsupportedReadingError
from .families import NormKind
from .hooks import Turns
from .parameters import bias_of, matrix_of, shape_of, weight_of

Place = Literal["first", "last", "several"]


@dataclass(frozen=True)
class Norm:
    """One normalisation layer; its scale and its gain are separate.

    ``norm(x) = (x − mean)/scale(x) · gain + bias`` for LayerNorm; without mean and bias for RMSNorm. The module may read a multiple of
    x: ``norm(x) = module(times · x)``.
    """

    module: Any
    kind: NormKind
    found_epsilon: float | None = None
    times: float = 1.0

    def __call__(self, x: Tensor) -> Tensor:
        """The module's own output, in its own number type."""
        made: Tensor = self.module(scaled(x, self.times))
        return made

    @property
    def epsilon(self) -> float:
        """The ε inside the square root; where a multiple is read, divided by its square."""
        found = self.found_epsilon
        if found is None:
            found = float(getattr(self.module, "variance_epsilon", getattr(self.module, "eps", 0.0)))
        return found / self.times**2

    @property
    def is_layer(self) -> bool:
        """Whether the mean is subtracted, as in LayerNorm."""
        return self.kind in ("layer", "layer_unit_offset")

    def size(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n"]:
        """[…] length of each vector, less its mean for LayerNorm; at least in float32. See :func:`scale_of_size`."""
        x = upcast(x)
        if self.is_layer:
            x = x - x.mean(-1, keepdim=True)
        size: Tensor = torch.linalg.vector_norm(x, dim=-1)
        return size

    def scale(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n"]:
        """[…] denominator for each vector, at least in float32."""
        return scale_of_size(self.size(x)[None], [self], x.shape[-1])[0]

    def gain(self, d: int) -> Float[Tensor, "d"]:
        """[d] the factor γ after division, at least in float32."""
        weight = weight_of(self.module)
        if weight is None:
            return torch.ones(d, device="cpu")
        return upcast(weight) + (1.0 if self.kind.endswith("unit_offset") else 0.0)

    @property
    def bias(self) -> Float[Tensor, "d"] | None:
        """[d] the additive part β; None where there is none."""
        bias = bias_of(self.module)
        return None if bias is None else upcast(bias)

    def linear(self, x: Float[Tensor, "*n d"], scale: Float[Tensor, "*#n"]) -> Float[Tensor, "*n d"]:
        """[…, d] the norm frozen at ``scale``, without its bias: a linear map of x."""
        x = upcast(x)
        if self.is_layer:
            x = x - x.mean(-1, keepdim=True)
        return x / scale[..., None] * self.gain(x.shape[-1]).to(x)

    def transposed(self, direction: Float[Tensor, "d"], scale: Float[Tensor, ""]) -> Float[Tensor, "d"]:
        """[d] the vector g with ``linear(x, scale) · direction = x · g`` for every x."""
        # For LayerNorm the mean leaves x before the product; the same as taking it out of g.
        g = direction * self.gain(len(direction)).to(direction) / scale
        return g - g.mean() if self.is_layer else g


@dataclass(frozen=True, eq=False)
class Readout:
    """How a classifier reads its classes.

    Attributes
    ----------
    place
        The position that is read: ``"first"`` (CLS), ``"last"``, or ``"several"``, such as the mean over all.
    labels
        [class] names of the classes.
    is_affine
        Whether the numbers of classes are an affine function of the normed last states, so that parts of them add up.
    tail
        The model's own code behind its blocks, see :class:`flowgraph.models.readout.Tail`.
    norm
        The norm that it begins with; None where it begins with none.
    padding
        Token that the last position is counted without, as decoders do; None for every other model.
    """

    place: Place
    labels: tuple[str, ...]
    is_affine: bool
    tail: Any
    norm: Norm | None
    padding: int | None = None

    def position(self, n_positions: int, ids: Sequence[int] = ()) -> int | None:
        """The one position that is read; None where several are."""
        if self.place == "last" and self.padding is not None:
            # Decoders look for the last token that is no padding, the first where there is no other.
            return next((i for i in range(len(ids) - 1, -1, -1) if ids[i] != self.padding), 0)
        return {"first": 0, "last": n_positions - 1, "several": None}[self.place]


def scale_of_size(size: Float[Tensor, "layer *n"], norms: Sequence[Norm], d: int) -> Float[Tensor, "layer *n"]:
    """[layer, …] scales of norms, one norm for each row, from the sizes (:meth:`Norm.size`) of their d-dimensional inputs."""
    epsilon = size.new_tensor([norm.epsilon for norm in norms])
    scale = (size.square() / d + epsilon.view(-1, *[1] * (size.ndim - 1))).sqrt()
    absent = [i for i, norm in enumerate(norms) if norm.kind == "none"]
    # Where there is no norm the state is read as it is.
    return scale.index_fill(0, torch.tensor(absent, device=scale.device), 1.0) if absent else scale


@dataclass(frozen=True)
class Projection:
    """A linear layer, or some of its outputs, as ``x @ weight + bias``, whatever the layout of the module.

    Weight and bias hold the factor that the model multiplies the output by before it goes on, a number or one for each output.
    Where heads are larger in other layers, ``heads`` is their number, their size here and the largest size: inputs are then filled up
    with zeros behind each head, and the weight has zeros in these rows. ``shift`` is a vector that the model adds to the output outside
    of the module; it is part of the bias.
    """

    module: Any
    columns: tuple[int | None, int | None] = (None, None)
    factor: float | Tensor = 1.0
    heads: tuple[int, int, int] | None = None
    shift: Tensor | None = None

    def __call__(self, x: Float[Tensor, "*n d_in"]) -> Float[Tensor, "*n d_out"]:
        """[…, d_out] the layer's output, at least in float32."""
        out = upcast(x) @ self.weight
        return out if self.bias is None else out + self.bias

    @property
    def weight(self) -> Float[Tensor, "d_in d_out"]:
        """[d_in, d_out], at least in float32."""
        weight = matrix_of(self.module)
        # Hugging Face's Conv1D keeps [in, out]; torch.nn.Linear keeps [out, in].
        found = upcast((weight if type(self.module).__name__ == "Conv1D" else weight.T)[:, slice(*self.columns)])
        return scaled(self.filled(found.T).T, self.factor)

    @property
    def bias(self) -> Float[Tensor, "d_out"] | None:
        """[d_out], or None."""
        own = bias_of(self.module)
        if own is None and self.shift is None:
            return None
        parts = [
            upcast(one) for one in (None if own is None else own[slice(*self.columns)], self.shift) if one is not None
        ]
        return scaled(torch.stack(parts).sum(0), self.factor)

    def joined(self, x: Tensor) -> Tensor:
        """What joins the stream of an output of the module, in its own number type."""
        return scaled(x if self.shift is None else x + self.shift.to(x), self.factor)

    def left(self, x: Tensor) -> Tensor:
        """The module's output, from what joins the stream."""
        found = scaled(x, 1 / self.factor)
        return found if self.shift is None else found - self.shift.to(x)

    def added(self, x: Tensor) -> Tensor:
        """The module's own output in its own number type, times the factor."""
        return self.joined(self.module(self.unfilled(x)))

    def filled(self, x: Float[Tensor, "*n d_own"]) -> Float[Tensor, "*n d_in"]:
        """[…, d_in] an input of the module, each head filled up with zeros to the largest size."""
        if self.heads is None:
            return x
        number, own, largest = self.heads
        return fill(x.unflatten(-1, (number, own)), largest).flatten(-2)

    def unfilled(self, x: Float[Tensor, "*n d_in"]) -> Float[Tensor, "*n d_own"]:
        """[…, d_own] what the module itself reads."""
        if self.heads is None:
            return x
        number, own, largest = self.heads
        unfilled: Tensor = x.unflatten(-1, (number, largest))[..., :own].flatten(-2)
        return unfilled

    @property
    def d_in(self) -> int:
        """Length of the input."""
        shape = shape_of(self.module)
        assert shape is not None
        return int(shape[0] if type(self.module).__name__ == "Conv1D" else shape[1])


def fill(x: Float[Tensor, "*n d"], size: int) -> Float[Tensor, "*n d_filled"]:
    """[…, size] the vectors with zeros behind them."""
    return x if x.shape[-1] == size else nn.functional.pad(x, (0, size - x.shape[-1]))


class NeuronLayers(NamedTuple):
    """An MLP with neurons: activation(input) without a gate, activation(gate) · input with one, then the output projection."""

    input: Projection
    gate: Projection | None
    output: Projection
    activation: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Block:
    """One resolved block of a stack.

    ``query``, ``key``, ``value`` and ``fused`` are all None where queries and keys are no linear maps of what attention reads;
    ``mlp_gate`` is None where the MLP has no gate. An MLP without neurons has ``mlp`` alone. A block that does not attend has
    neither ``attention`` nor ``attention_output``, but a ``mixer``; one without an MLP has no ``mlp``. If the module runs several
    times in a pass, ``turns`` counts its runs, and this layer is its run number ``turn``. ``cross`` describes the attention to another
    stack that stands between ``attention`` and MLP, as a block without an MLP; None where there is none. ``enters`` and ``leaves`` are
    the norms whose outputs are the states that enter and leave, where these are not the module's input and output. ``windows`` is
    [place] the position at each place of the windows that the block attends within; None where it attends to all.
    """

    index: int
    module: nn.Module
    attention: Any
    mixer: nn.Module | None
    mixer_factor: float
    query: nn.Module | None
    key: nn.Module | None
    value: nn.Module | None
    fused: nn.Module | None
    attention_output: Projection | None
    query_norm: Norm | None
    key_norm: Norm | None
    attention_norm: Norm
    attention_post_norm: Norm | None
    mlp_norm: Norm
    mlp_post_norm: Norm | None
    mlp: nn.Module | None
    mlp_factor: float | Tensor
    mlp_beside: nn.Module | None
    mlp_beside_factor: float
    mlp_input: Projection | None
    mlp_gate: Projection | None
    mlp_output: Projection | None
    activation: Callable[[Tensor], Tensor] | None
    scale: float
    turn: int = 0
    turns: Turns | None = None
    cross: Block | None = None
    enters: nn.Module | None = None
    leaves: nn.Module | None = None
    windows: Tensor | None = None

    def is_running(self) -> bool:
        """Whether the run of the block's module that is going on is this layer's."""
        return self.turns is None or self.turns.now == self.turn

    @property
    def n_neurons(self) -> int:
        """Number of neurons of the MLP; 0 where it is no projection – activation – projection."""
        return 0 if self.mlp_output is None else self.mlp_output.d_in

    @property
    def output_projection(self) -> Projection:
        """W_O of a block that attends.

        Raises
        ------
        UnsupportedReadingError
            If the block does not attend.
        """
        if self.attention_output is None:
            raise UnsupportedReadingError(f"layer {self.index} does not attend, so it has no heads")
        return self.attention_output

    @property
    def neuron_layers(self) -> NeuronLayers:
        """The projections and the activation of an MLP with neurons.

        Raises
        ------
        UnsupportedReadingError
            If the MLP has none.
        """
        if self.mlp_input is None or self.mlp_output is None or self.activation is None:
            raise UnsupportedReadingError(f"the MLP of layer {self.index} has no neurons")
        return NeuronLayers(self.mlp_input, self.mlp_gate, self.mlp_output, self.activation)

    @property
    def mlp_reader(self) -> nn.Module | None:
        """The module that reads the MLP's input first; None without an MLP."""
        return self.mlp if self.mlp_input is None else self.mlp_input.module

    def neurons(
        self, gate: Float[Tensor, "*n d_mlp"] | None, up: Float[Tensor, "*n d_mlp"]
    ) -> Float[Tensor, "*n d_mlp"]:
        """[…, d_mlp] input of the MLP's output projection, from the values of :meth:`Anatomy.mlp_pre`."""
        assert self.activation is not None
        return self.activation(up) if gate is None else self.activation(gate) * up


def scaled(x: Tensor, factor: float | Tensor) -> Tensor:
    """A tensor times a number, or times one number for each of its last axis."""
    if isinstance(factor, Tensor):
        return x * factor.to(x)
    return x if factor == 1.0 else x * factor


def upcast(x: Tensor) -> Tensor:
    """At least float32: half precision is accumulated in float32, float64 stays."""
    return x if x.dtype == torch.float64 else x.float()
