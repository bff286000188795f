"""A family's row resolved in one model: the modules and weights that tracing, lenses and methods work with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..errors import ArchitectureError, UnsupportedReadingError
from .axis import Layout
from .families import FAMILIES, FUNCTION, NOT_READ, Attention, Family, NormKind, Sizes, Stack, Wiring
from .hooks import Turns
from .kinds import base_of, holds_experts, is_encoder_decoder, kind_of, reads_choices, unread_head
from .norms import found_kind
from .parameters import bias_of, device_of, matrix_of, output_embeddings, packing_of, shape_of, weight_of
from .stacks import DECODER_IDS

Level = Literal["patterns", "stream", "full"]
"""What is known of a model, and proved: ``patterns`` (attention maps, rollout, attention flow), ``stream`` (also the residual
stream and heads' outputs: norms, proximity, routes), ``full`` (also readings in vocabulary, interventions on answers, circuits)."""
Place = Literal["first", "last", "several"]
_FAR = 6
"""A row that misses more paths than this has nothing in common with the model but its age."""


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


@dataclass(frozen=True)
class Anatomy:
    """A model's parts, found by a family's row.

    Attributes
    ----------
    family, stack
        The row, and the stack of it that ends in the head.
    wiring
        How a block adds to the residual stream, after the config's switch.
    causal
        Whether a token sees earlier tokens only.
    n_heads, n_kv_heads, d_head, d_value, d_model, d_vocab
        Sizes; ``d_value`` is that of a head's values, ``d_vocab`` is 0 without a head.
    context
        Longest input in tokens; None where the config names none.
    head
        Modules from the final norm's output to the logits; empty for a model without a head.
    softcap, attention_softcap
        c of c·tanh(x/c) on logits and on attention scores; None where there is none.
    unread_head
        Names of the modules after the last state that are not read: a classifier's, say. Empty for a bare model and for one
        whose head is read.
    layout
        How positions are made of an image or a sound; None for a model of texts.
    readout
        How a classifier reads its classes; None for every other model.
    cross
        The blocks' attention to another stack, as the parts of a model without MLPs; None where there is none.
    sources
        Name → parts of the stacks whose last states are read by that attention.
    source_projection
        Of the part ``cross``: the linear layer between those states and what keys and values are made of; None where there is none.
    labels
        Names of what the head scores, where these are no tokens: classes of the whole input, or of each position.
    """

    family: Family
    stack: Stack
    model: Any
    config: Any
    wiring: Wiring
    causal: bool
    blocks: tuple[Block, ...]
    embedding: Any
    position_embedding: nn.Module | None
    final_norm: Norm | None
    head: tuple[Any, ...]
    n_heads: int
    n_kv_heads: int
    d_head: int
    d_value: int
    d_model: int
    d_vocab: int
    context: int | None
    softcap: float | None
    attention_softcap: float | None
    unread_head: tuple[str, ...] = ()
    layout: Layout | None = None
    readout: Readout | None = None
    cross: Anatomy | None = None
    sources: Mapping[str, Anatomy] = field(default_factory=dict)
    source_projection: Projection | None = None
    labels: tuple[str, ...] | None = None

    @property
    def like(self) -> Tensor:
        """A tensor of the model's device and number type: the token embedding, without one the first parameter."""
        if self.embedding is not None:
            table: Tensor = self.embedding.weight
            return table
        found: Tensor = next(one for one in self.model.parameters() if one.is_floating_point())
        return found

    @property
    def device(self) -> torch.device:
        """Device on which the token embedding runs; without one, the first parameter's."""
        return self.like.device if self.embedding is None else device_of(self.embedding)

    @property
    def dtype(self) -> torch.dtype:
        """Number type of the token embedding; without one, of the first parameter."""
        return self.like.dtype

    @cached_property
    def packings(self) -> tuple[tuple[str, bool], ...]:
        """Ways in which weights of linear layers are packed, and whether inputs are rounded too; empty for plain numbers."""
        found = (packing_of(module) for module in self.model.modules())
        return tuple(dict.fromkeys(one for one in found if one is not None))

    @property
    def packing(self) -> str:
        """How weights of linear layers are packed, in words; empty for plain numbers."""
        names = " and ".join(name for name, _ in self.packings)
        return f"weights packed ({names}): what is computed from them holds to their kernel" if names else ""

    @property
    def ids_name(self) -> str:
        """The argument of the model that holds the tokens of this stack."""
        return "input_ids" if self.cross is None or self.exchanges else DECODER_IDS

    @property
    def exchanges(self) -> bool:
        """Whether the stack reads another one that reads it, in the same layers, as LXMERT's text and regions do."""
        return self.stack.cross_first

    @property
    def reader_of_encoder(self) -> Anatomy:
        """The blocks' attention to another stack.

        Raises
        ------
        UnsupportedReadingError
            If the model is of one stack.
        """
        if self.cross is None:
            raise UnsupportedReadingError(f"{type(self.model).__name__} has one stack, so no heads read another")
        return self.cross

    @property
    def logit_factor(self) -> float:
        """Number that the output of the head's last module is multiplied by to give logits, before a soft-cap."""
        return self.family.logit_factor

    @property
    def level(self) -> Level:
        """What is known of the model: ``"patterns"``, ``"stream"`` or ``"full"``, see :data:`Level`."""
        if self.wiring == "unknown":
            return "patterns"
        return "full" if self.has_head else "stream"

    @property
    def left_out(self) -> str:
        """Of a model whose patterns alone are known, which of its blocks are no layers here, in words; empty if all are."""
        if self.level != "patterns":
            return ""
        base = base_of(self.model)
        said = []
        lists: dict[str, list[int]] = {}
        for path in self.stack.attentions:
            parts = path.split(".")
            at = next((i for i, part in enumerate(parts) if part.isdecimal()), None)
            if at is not None:
                there = lists.setdefault(".".join(parts[:at]), [])
                there += [int(parts[at])] * (int(parts[at]) not in there)
        for path, there in lists.items():
            blocks = _find(base, path)
            missing = [i for i in range(len(blocks)) if i not in there] if isinstance(blocks, nn.ModuleList) else []
            if missing:
                without, counted = (", ".join(map(str, some)) for some in (missing, there))
                said.append(f"{path}[{without}] (the layers here are {path}[{counted}])")
        return "; ".join(said)

    def require_stream(self, wanted: str) -> None:
        """Refuse a model of which patterns alone are known; ``wanted`` is the thing that needs more, in words.

        Raises
        ------
        UnsupportedReadingError
            Naming the level, and the reason why the model does not reach a higher one.
        """
        if self.level == "patterns":
            raise UnsupportedReadingError(
                f"{wanted} needs the residual stream, and {type(self.model).__name__} is open at level 'patterns': its attention "
                f"maps, rollout and attention flow can be used. No more is known of it because {self.stack.reason}"
            )

    @property
    def has_whole_head(self) -> bool:
        """Whether the head is applied as one function, since it is more than norm and linear at one position."""
        return self.family.head_kind != "linear"

    @property
    def has_head(self) -> bool:
        """Whether the model ends in logits over a vocabulary, or over the names of classes."""
        return bool(self.head)

    @property
    def is_found(self) -> bool:
        """Whether the row was found by search, and not written by hand."""
        return self.family.found

    @property
    def embedding_scale(self) -> float:
        """Factor on the token embeddings."""
        scale = self.stack.embedding_scale
        if isinstance(scale, str):
            return self.d_model**0.5 if scale == "sqrt_d_model" else 1.0
        return scale

    def require_attention(self, layer: int | None, wanted: str) -> None:
        """Refuse heads of a layer, or of any layer, that does not attend; ``wanted`` is the thing that needs them, in words.

        Raises
        ------
        UnsupportedReadingError
            Naming the layer.
        """
        if layer is None and not self.attending:
            raise UnsupportedReadingError(
                f"{wanted}: {type(self.model).__name__} does not attend in any layer, so it has no heads"
            )
        if layer is not None and layer not in self.attending:
            raise UnsupportedReadingError(
                f"{wanted}: layer {layer} of {type(self.model).__name__} does not attend, so it has no heads"
            )

    @property
    def is_gated(self) -> bool:
        """Whether something multiplies the outputs of heads before the output projection."""
        return self.stack.attention.gated

    def refuse_gates(self, wanted: str) -> None:
        """Refuse what takes a head's value · W_O as the same for every query.

        Raises
        ------
        UnsupportedReadingError
            If the model gates the outputs of heads.
        """
        if self.is_gated:
            raise UnsupportedReadingError(
                f"{wanted} is not made for {type(self.model).__name__}: it multiplies the outputs of its heads before the output "
                "projection, by a gate or a norm of their own, so a value writes something else for each query. Norms, proximity, "
                "direct logit attribution and changes of heads take that into account"
            )

    def refuse_stacks(self, wanted: str) -> None:
        """Refuse what knows blocks of one attention and an MLP alone; ``wanted`` is that, in words.

        Raises
        ------
        UnsupportedReadingError
            If the blocks attend to another stack as well.
        """
        self.refuse_exchange(wanted)
        if self.cross is not None:
            raise UnsupportedReadingError(
                f"{wanted} is made for models of one stack, and the decoder of {type(self.model).__name__} also reads its encoder. "
                "Graphs, routes, rollout, attention flow and circuits run through both stacks; readings and direct logit attribution are "
                "those of the decoder, heads that read the encoder among its parts"
            )

    def refuse_exchange(self, wanted: str) -> None:
        """Refuse what is not made for two stacks that read each other in the same layers.

        Raises
        ------
        UnsupportedReadingError
            If the model is of two such stacks.
        """
        if self.exchanges:
            raise UnsupportedReadingError(
                f"{wanted} is not made for {type(self.model).__name__}, whose text and regions of an image read each other in the same "
                "layers. Attention maps, norms and proximity, graphs, routes, rollout and attention flow run through both"
            )

    @property
    def attending(self) -> tuple[int, ...]:
        """Layers whose blocks attend."""
        return tuple(block.index for block in self.blocks if block.attention is not None)

    @property
    def has_mixers(self) -> bool:
        """Whether some blocks mix tokens by something else than attention."""
        return any(block.mixer is not None for block in self.blocks)

    @property
    def has_gaps(self) -> bool:
        """Whether blocks differ in what they hold: some do not attend, or have no MLP."""
        return any(block.attention is None or block.mlp is None for block in self.blocks) or self.has_mixers

    @property
    def has_second_mlp(self) -> bool:
        """Whether a second module writes beside some MLP."""
        return any(block.mlp_beside is not None for block in self.blocks)

    @property
    def has_neurons(self) -> bool:
        """Whether there are MLPs, and all of them have neurons."""
        mlps = [block for block in self.blocks if block.mlp is not None]
        return bool(mlps) and all(block.mlp_output is not None for block in mlps)

    @property
    def mlp_width(self) -> int:
        """Number of neurons of the widest MLP; where there are none, four times the stream, for counts of memory."""
        return max(block.n_neurons for block in self.blocks) or 4 * self.d_model

    @property
    def has_projections(self) -> bool:
        """Whether queries, keys and values are linear maps of what attention reads, rotated or not."""
        attending = [block for block in self.blocks if block.attention is not None]
        return bool(attending) and all(block.fused is not None or block.query is not None for block in attending)

    def W_O(self, layer: int) -> Float[Tensor, "head d_head d_model"]:
        """[head, d_head, d_model] output projection of one layer, at least in float32; zeros if the layer does not attend."""
        self.require_stream("what heads write")
        output = self.blocks[layer].attention_output
        if output is None:
            wide = upcast(torch.empty(0, dtype=self.dtype)).dtype
            return torch.zeros(self.n_heads, self.d_value, self.d_model, dtype=wide, device=self.device)
        return output.weight.reshape(self.n_heads, self.d_value, self.d_model)

    def mlp_pre(
        self, layer: int, x: Float[Tensor, "*n d_model"]
    ) -> tuple[Float[Tensor, "*n d_mlp"] | None, Float[Tensor, "*n d_mlp"]]:
        """Gate (None without one) and input of a layer's neurons before the activation, from the MLP's input x."""
        block = self.blocks[layer]
        assert block.mlp_input is not None
        return None if block.mlp_gate is None else block.mlp_gate(x), block.mlp_input(x)

    def per_query_head(self, x: Float[Tensor, "kv_head *n"]) -> Float[Tensor, "head *n"]:
        """[head, …] keys or values repeated for the query heads that share them."""
        return x.repeat_interleave(self.n_heads // self.n_kv_heads, dim=0)


def no_neurons(anatomy: Anatomy) -> str:
    """A sentence on a model whose MLPs are no projection – activation – projection."""
    whole = [block for block in anatomy.blocks if block.mlp_output is None and block.mlp]
    mixtures = [block for block in whole if block.mlp is not None and holds_experts(block.mlp)]
    where = ", ".join(str(block.index) for block in mixtures)
    which = f" in layers {where}" if mixtures and len(mixtures) < len(whole) else ""
    kinds = " and ".join(dict.fromkeys(type(block.mlp).__name__ for block in mixtures or whole)) or "none"
    return (
        f"the MLPs of {type(anatomy.model).__name__}{which} ({kinds}) are no projection, activation and projection, as a mixture of "
        "experts is not, so they have no neurons; each MLP is one node"
    )


def no_projections(anatomy: Anatomy) -> str:
    """A sentence on a model whose queries and keys are no linear maps of what attention reads."""
    return (
        f"queries, keys and values of {type(anatomy.model).__name__} are no linear maps of what its attention reads (a norm over all "
        "heads, or a low-rank projection, lies in between), so what single parts of the stream bring to them is not known; heads, "
        "patterns, values, MLPs and states can be used"
    )


def resolve(model: Any) -> Anatomy:
    """Find the parts of ``model`` by the row of its family.

    The row whose ``model_types`` name the model's type is taken; otherwise the first row that fits by structure.

    Raises
    ------
    ArchitectureError
        If no row fits; the message says what kind of model it is, or what could not be found and how to write a row.
    """
    config = model.config.get_text_config()
    model_type = getattr(config, "model_type", "")
    # The decoder of such a model alone looks like a row's, and would be another model; a model of choices looks like one too.
    if is_encoder_decoder(model) or reads_choices(model):
        raise ArchitectureError(no_row(model, model_type))
    named = named_rows(model)
    failures: dict[str, list[str]] = {}
    # A row that names the type is the only candidate: its failure is then said, and no other row is tried in its place.
    for row in named or FAMILIES.values():
        missing = _missing(model, row)
        if not missing:
            return build(model, row)
        failures[row.name] = missing
    raise ArchitectureError(no_row(model, model_type, failures))


def named_rows(model: Any) -> list[Family]:
    """Rows that name the type of a model."""
    model_type = getattr(model.config.get_text_config(), "model_type", "")
    return [row for row in FAMILIES.values() if model_type in row.model_types]


def no_row(model: Any, model_type: str, failures: dict[str, list[str]] | None = None) -> str:
    """The reason why a model is not traced: its kind, or else the nearest row and the paths that are missing."""
    kind = type(model).__name__
    known = f"Known families: {', '.join(FAMILIES)}."
    found = kind_of(model)
    if found is not None:
        advice = f"{found.advice}. " if found.advice else ""
        return f"{kind} (model_type {model.config.model_type!r}) is {found.name}, which cannot be traced: {found.why}. {advice}{known}"
    nearest = min(failures or {}, key=lambda name: len((failures or {})[name]), default=None)
    missing = (failures or {}).get(nearest or "", [])
    if nearest is None or len(missing) > _FAR:
        return (
            f"no architecture row fits {kind} (model_type {model_type!r}): its blocks are not laid out as those of any known "
            f"family. {known} A layout that differs only in names can be added as a row; see flowgraph.register_family"
        )
    return (
        f"no architecture row fits {kind} (model_type {model_type!r}). Nearest is {nearest!r}; not found: "
        f"{', '.join(missing)}. {known} To add one, write a row and register it: "
        f"from flowgraph.models import FAMILIES, register_family; register_family(dataclasses.replace("
        f"FAMILIES[{nearest!r}], name={model_type!r}, model_types=({model_type!r},), stacks=…)). The row is proved on the "
        "model when it is loaded."
    )


def _missing(model: Any, row: Family) -> list[str]:
    """Paths of the row that the model does not have, or that lead to a module without the weights that the row needs."""
    base = base_of(model)
    missing = []
    for stack in row.stacks:
        root = _find(base, stack.root) if stack.root else base
        # An optional root that is missing is the base model itself.
        root = base if root is None and stack.root.endswith("?") else root
        if root is None:
            missing += [stack.root, *_required_paths(stack)]
            continue
        blocks = _list_of(root, stack.blocks)
        if not blocks:
            missing += [stack.blocks, *_required_paths(stack)]
            continue
        for path in filter(None, (stack.embedding, stack.position_embedding, stack.final_norm)):
            fault = _fault(root, path, matrix=path == stack.embedding)
            missing += [] if fault is None else [fault]
        found = _find(blocks[0], stack.attention.module)
        if (
            stack.attention.scale == "module"
            and not stack.attention.scales
            and found is not None
            and not hasattr(found, "scaling")
        ):
            # Without it the row says that there is a factor and the model does not say which.
            where = stack.attention.module
            missing += [] if hasattr(found, "scale_attn") else [f"{where}.scaling or {where}.scale_attn"]
        matrices = _matrix_paths(stack)
        for path in filter(None, _block_paths(stack)):
            # Every block is looked at: mixtures of experts may have a first block of another make.
            faults = {i: _fault(block, path, matrix=path in matrices) for i, block in enumerate(blocks)}
            missing += _of_blocks({i: fault for i, fault in faults.items() if fault is not None}, len(blocks))
    return missing


def _fault(start: Any, path: str, *, matrix: bool) -> str | None:
    """The fault of a path: the path if it leads nowhere, with a remark if its module has no weight matrix; None without one."""
    found = _find(start, path)
    if found is None:
        return None if path.endswith("?") else path
    if matrix and not _is_matrix(found):
        return f"{path} ({type(found).__name__} has no weight matrix)"
    return None


def _is_matrix(module: Any) -> bool:
    return len(shape_of(module) or ()) == 2


def _of_blocks(faults: dict[int, str], n_blocks: int) -> list[str]:
    """The faults of one path in all blocks, each named once with its blocks."""
    if len(faults) == n_blocks:
        return [faults[0]]
    where: dict[str, list[int]] = {}
    for i, fault in faults.items():
        where.setdefault(fault, []).append(i)
    return [f"{fault} in block {', '.join(map(str, at))}" for fault, at in where.items()]


def _matrix_paths(stack: Stack) -> set[str]:
    """Paths in a block that must lead to a linear layer."""
    attention = stack.attention
    inner = (attention.query, attention.key, attention.value, attention.fused, attention.output)
    return {*inner, stack.mlp_output, stack.mlp_input, stack.mlp_gate, stack.mlp_gate_up}


def _required_paths(stack: Stack) -> list[str]:
    """Paths within a block. They all count as missing if there are no blocks, so a row with blocks is nearer."""
    return [path for path in _block_paths(stack) if path and not path.endswith("?")]


def _block_paths(stack: Stack) -> Iterator[str]:
    attention = stack.attention
    yield from (attention.module, attention.query, attention.key, attention.value, attention.fused, attention.output)
    yield from (attention.query_norm, attention.key_norm, stack.attention_norm, stack.attention_post_norm)
    if stack.cross_attention is not None:
        cross = stack.cross_attention
        yield from (cross.module, cross.query, cross.key, cross.value, cross.fused, cross.output)
        yield from (cross.query_norm, cross.key_norm, stack.cross_norm, stack.cross_post_norm)
    yield from (stack.mlp_norm, stack.mlp_post_norm, stack.mlp_output, stack.mlp, stack.mlp_beside, stack.mixer)
    if not stack.mlp_activation.startswith(FUNCTION):
        yield stack.mlp_activation
    yield from (stack.mlp_input, stack.mlp_gate, stack.mlp_gate_up)


def block_of(path: str) -> str:
    """The path down to the last number in it: that of the block which holds a module."""
    parts = path.split(".")
    last = max((i for i, part in enumerate(parts) if part.isdecimal()), default=len(parts) - 1)
    return ".".join(parts[: last + 1])


def _find(start: Any, path: str) -> Any:
    """Follow the first alternative of an attribute path that exists; None if there is none."""
    for alternative in path.rstrip("?").split("|"):
        found = start
        for part in alternative.split("."):
            found = getattr(found, part, None)
            if found is None:
                break
        if found is not None:
            return found
    return None


def _list_of(root: Any, path: str) -> list[nn.Module]:
    """The blocks of one list, or of several that are joined by ``+``; nothing where one is missing."""
    found = [_find(root, one) for one in path.split("+")]
    is_there = all(isinstance(one, (nn.ModuleList, nn.Sequential)) for one in found)
    return [block for one in found for block in one] if is_there else []


def build(model: Any, row: Family) -> Anatomy:
    """The parts that a row names, with the stacks that the last one reads where the row has several."""
    found = _build(model, row, row.stacks[-1])
    if found.cross is None or len(row.stacks) == 1:
        return found
    headless = replace(row, head=NOT_READ, context=())
    others = {stack.name: _build(model, headless, stack) for stack in row.stacks[:-1]}
    return replace(found, sources={name: replace(one, unread_head=()) for name, one in others.items()})


def _build(model: Any, row: Family, stack: Stack) -> Anatomy:
    """The parts of one stack."""
    base = base_of(model)
    config = model.config.get_text_config()
    root = (_find(base, stack.root) if stack.root else None) or base
    # Chunks run the MLP's modules several times on parts of the positions.
    if getattr(config, "chunk_size_feed_forward", 0):
        raise ArchitectureError(
            f"{type(model).__name__} computes its MLPs in chunks of positions (chunk_size_feed_forward="
            f"{config.chunk_size_feed_forward}), so no hook sees them whole; load it with chunk_size_feed_forward=0"
        )
    sizes = stack.sizes or _sizes(config)
    if stack.wiring == "unknown":
        return _patterns_only(model, row, stack, sizes)
    row, head = _head(model, row)
    position_embedding = _find(root, stack.position_embedding) if stack.position_embedding else None
    last = _find(root, stack.final_norm) if stack.final_norm else None
    final_norm = None if last is None else _norm(last, row.norm, sizes.d_model)
    blocks = _in_order(_list_of(root, stack.blocks), row, stack, sizes)
    if stack.leaves:
        blocks = _with_own_states(blocks, stack)
    if stack.entering_norm:
        assert final_norm is not None
        blocks, final_norm = _shifted(blocks, stack, final_norm), None
    found = Anatomy(
        family=row,
        stack=stack,
        model=model,
        config=config,
        wiring=_wiring(stack, config),
        causal=stack.role == "decoder" or bool(getattr(config, "is_decoder", False)),
        blocks=blocks,
        embedding=_find(root, stack.embedding),
        position_embedding=position_embedding,
        final_norm=final_norm,
        head=head,
        n_heads=sizes.heads,
        n_kv_heads=sizes.kv_heads,
        d_head=sizes.d_head,
        d_value=sizes.d_value,
        d_model=sizes.d_model,
        d_vocab=_vocabulary_size(model, head),
        context=_context(row, config, position_embedding),
        softcap=_number(config, row.logit_softcap),
        attention_softcap=_number(config, stack.attention.softcap),
        unread_head=() if head else unread_head(model),
    )
    if stack.cross_attention is None:
        return found
    cross = tuple(block.cross for block in found.blocks if block.cross is not None)
    if stack.cross_first:
        # A layer that does not read the other stack has a block without attention in its place.
        blocks = tuple(replace(one, cross=None) if one.cross and one.cross.attention is None else one for one in blocks)
    part = replace(
        replace(found, blocks=blocks), stack=_cross_stack(stack, stack.cross_attention), blocks=cross, causal=False, head=(), final_norm=None,
        position_embedding=None, attention_softcap=_number(config, stack.cross_attention.softcap),
        source_projection=Projection(_find(base, stack.source_projection)) if stack.source_projection else None,
    )  # fmt: skip
    return replace(found, blocks=blocks, cross=part)


def _with_own_states(blocks: tuple[Block, ...], stack: Stack) -> tuple[Block, ...]:
    """The blocks with the norms whose outputs are the states that leave them, and that enter the next."""
    ends = [_find(block.module, stack.leaves) for block in blocks]
    return tuple(
        replace(block, enters=before, leaves=end)
        for block, before, end in zip(blocks, [None, *ends], ends, strict=False)
    )


def _cross_stack(stack: Stack, cross: Attention) -> Stack:
    """The attention to another stack as a stack of blocks without MLPs."""
    return replace(
        stack, attention=cross, cross_attention=None, attention_norm=stack.cross_norm, attention_post_norm=stack.cross_post_norm,
        mlp="", mlp_output="", mlp_input="", mlp_gate="", mlp_gate_up="", mlp_norm="", mlp_post_norm="", mlp_beside="", mixer="",
        parts=(),
    )  # fmt: skip


def _patterns_only(model: Any, row: Family, stack: Stack, sizes: Sizes) -> Anatomy:
    """The modules that attend, and nothing around them."""
    base = base_of(model)
    none = Norm(nn.Identity(), "none")
    blocks = tuple(
        Block(
            index=i, module=_find(base, block_of(path) if stack.windows else path), attention=_find(base, path), mixer=None, mixer_factor=1.0, query=None, key=None,
            value=None, fused=None, attention_output=None, query_norm=None, key_norm=None, attention_norm=none,
            attention_post_norm=None, mlp_norm=none, mlp_post_norm=None, mlp=None, mlp_factor=1.0, mlp_beside=None, mlp_beside_factor=1.0, mlp_input=None, mlp_gate=None,
            mlp_output=None, activation=None, scale=stack.attention.scales[i],
            windows=torch.tensor(stack.windows[i]) if stack.windows else None,
        )
        for i, path in enumerate(stack.attentions)
    )  # fmt: skip
    if len(set(stack.attentions)) < len(blocks):
        turns = {path: Turns() for path in stack.attentions}
        blocks = tuple(
            replace(block, turns=turns[path], turn=stack.attentions[:i].count(path))
            for i, (path, block) in enumerate(zip(stack.attentions, blocks, strict=True))
        )
    return Anatomy(
        family=row, stack=stack, model=model, config=model.config.get_text_config(), wiring="unknown",
        causal=stack.role == "decoder", blocks=blocks, embedding=_find(base, stack.embedding), position_embedding=None,
        final_norm=None, head=(), n_heads=sizes.heads, n_kv_heads=sizes.kv_heads, d_head=sizes.d_head, d_value=sizes.d_value,
        d_model=sizes.d_model, d_vocab=0, context=_context(row, model.config.get_text_config(), None), softcap=None,
        attention_softcap=_number(model.config, stack.attention.softcap),
    )  # fmt: skip


def _sizes(config: Any) -> Sizes:
    """Sizes under the names that most configs have for them."""
    heads, d_model = int(config.num_attention_heads), int(config.hidden_size)
    d_head = int(getattr(config, "head_dim", None) or d_model // heads)
    return Sizes(heads, int(getattr(config, "num_key_value_heads", None) or heads), d_head, d_head, d_model)


def without_head(anatomy: Anatomy) -> Anatomy:
    """The same parts, with the head marked as unread."""
    return replace(anatomy, head=(), d_vocab=0, unread_head=unread_head(anatomy.model))


def _head(model: Any, row: Family) -> tuple[Family, tuple[Any, ...]]:
    """The row with the model's own head, and the head's modules; none for a bare model or a head of another kind.

    A model that fits a row by its blocks may have another head (CamemBERT is BERT with RoBERTa's head). If transformers knows
    its output embeddings, the modules beside the base model are taken as the head; the proof then decides.
    """
    found = [(path, _find(model, path)) for path in row.head]
    complete = all(module is not None or path.endswith("?") for path, module in found)
    modules = tuple(module for _, module in found if module is not None) if complete else ()
    output = output_embeddings(model)
    if row.head == NOT_READ:
        return row, ()
    if output is None:
        # A head without output embeddings scores something else, as that of next sentences does under BERT's name.
        return row, modules if modules and shape_of(modules[-1]) is not None else ()
    if modules and (row.head_kind == "masked" or all(_is_matrix(module) for module in modules)):
        added = _find(model, row.logit_bias) if row.logit_bias else None
        return row, modules if added is None else (*modules[:-1], BiasedHead(modules[-1], added, row.logit_factor))
    names = unread_head(model)
    if not names and is_encoder_decoder(model):
        # A decoder that is a language model by itself has a head of its own.
        names = tuple(f"decoder.{name}" for name in unread_head(model.get_decoder()))
    modules = tuple(_find(model, name) for name in names)
    kind: Literal["linear", "masked"] = "linear" if modules == (output,) else "masked"
    return replace(row, head=names, head_kind=kind), modules


class BiasedHead:
    """A head's last module with a tensor that the model adds to the logits, as one linear layer with a bias.

    Parameters
    ----------
    module
        The linear layer.
    added
        What is added to its output, as long as the vocabulary.
    factor
        Number that the layer's output is multiplied by before.
    """

    def __init__(self, module: Any, added: Tensor, factor: float) -> None:
        self.module, self.added, self.factor = module, added, factor

    @property
    def weight(self) -> Tensor:
        """[d_vocab, d_model]."""
        return matrix_of(self.module)

    @property
    def bias(self) -> Tensor:
        """[d_vocab] the layer's own bias and what is added."""
        own = bias_of(self.module)
        added = self.added.detach().reshape(-1) / self.factor
        return added if own is None else own + added

    def __call__(self, x: Tensor) -> Tensor:
        """Logits of states."""
        return torch.nn.functional.linear(x, self.weight, self.bias.to(x.dtype))


def _vocabulary_size(model: Any, head: tuple[Any, ...]) -> int:
    if not head:
        return 0
    output = output_embeddings(model)
    return int((shape_of(head[-1] if output is None else output) or (0,))[0])


def _wiring(stack: Stack, config: Any) -> Wiring:
    if stack.wiring_switch is not None:
        attribute, value, wiring = stack.wiring_switch
        if getattr(config, attribute, None) == value:
            return wiring
    return stack.wiring


def _context(row: Family, config: Any, positions: Any) -> int | None:
    """The longest input: the config's number, but at most the learned positions after the padding's."""
    # Some configs name a longer input than their table of positions holds.
    # XLNet says −1 for any length.
    said = next((int(value) for name in row.context if (value := getattr(config, name, None)) and value > 0), None)
    # Positions are counted from the padding's on where the table has one, as RoBERTa and its kin do; others skip a fixed
    # number of rows, as OPT does.
    padding = getattr(positions, "padding_idx", None)
    if padding is None and row.positions_start_after_padding:
        padding = getattr(config, "pad_token_id", None)
    unused = int(padding) + 1 if padding is not None else int(getattr(positions, "offset", 0))
    rows = getattr(positions, "num_embeddings", None)
    if said is None or rows is None:
        return said
    return min(said, int(rows) - unused)


def _number(config: Any, attribute: str | float) -> float | None:
    if not isinstance(attribute, str):
        return attribute
    value = getattr(config, attribute, None) if attribute else None
    return None if value is None else float(value)


def _in_order(modules: Any, row: Family, stack: Stack, sizes: Sizes) -> tuple[Block, ...]:
    """The block of each layer."""
    if not stack.order:
        return tuple(_block(i, module, row, stack, sizes) for i, module in enumerate(modules))
    turns = [Turns() for _ in modules]
    blocks = (_block(i, modules[n], row, stack, sizes) for i, n in enumerate(stack.order))
    return tuple(
        replace(block, turns=turns[n], turn=stack.order[:i].count(n))
        for i, (n, block) in enumerate(zip(stack.order, blocks, strict=True))
    )


def _shifted(blocks: tuple[Block, ...], stack: Stack, final: Norm) -> tuple[Block, ...]:
    """The blocks of a stream that goes through a norm before each part, each with the norm that begins the next one behind its MLP."""
    of_attention, of_mlp = stack.stream_factors
    entering = [block.mlp_norm for block in blocks]
    return tuple(
        replace(
            block, enters=own.module, leaves=behind.module, mlp_norm=replace(behind, times=of_mlp),
            attention_norm=replace(block.attention_norm, times=of_attention),
        )
        for block, own, behind in zip(blocks, entering, [*entering[1:], final], strict=True)
    )  # fmt: skip


def counting(anatomy: Anatomy) -> Iterator[Any]:
    """Hooks that count the runs of modules that run several times; set before all others."""
    seen: set[int] = set()
    for block in anatomy.blocks:
        if block.turns is not None and id(block.turns) not in seen:
            seen.add(id(block.turns))
            yield block.turns.counting(block.module)


def _norm(module: Any, kind: NormKind | None, width: int) -> Norm:
    """The norm of a row's kind, or of the kind that its formula shows."""
    if kind is not None:
        return Norm(module, kind)
    if isinstance(module, nn.Identity):
        return Norm(module, "none")
    found = found_kind(module, width)
    if found is None:
        raise ArchitectureError(f"{type(module).__name__} is no norm of a known formula")
    return Norm(module, *found)


def _block(index: int, block: nn.Module, row: Family, stack: Stack, sizes: Sizes) -> Block:
    """One block, with what it attends to in another stack."""
    found = _one_attention(index, block, row, stack, sizes)
    if stack.cross_attention is None:
        return found
    other = _cross_stack(stack, stack.cross_attention)
    cross = _one_attention(index, block, row, other, sizes)
    shared = _find(block, stack.cross_shared) if stack.cross_shared else None
    if shared is not None:
        cross = replace(cross, module=shared, turns=Turns(), turn=stack.cross_run)
    return replace(found, cross=cross)


def _one_attention(index: int, block: nn.Module, row: Family, stack: Stack, sizes: Sizes) -> Block:
    def norm(path: str, width: int = sizes.d_model) -> Norm | None:
        found = _find(block, path) if path else None
        return None if found is None else _norm(found, row.norm, width)

    def norm_or_none(path: str) -> Norm:
        return norm(path) or Norm(nn.Identity(), "none")

    def module(path: str) -> nn.Module | None:
        return _find(block, path) if path else None

    attention = stack.attention
    before, after, before_mlp, after_mlp = (
        stack.norms[index]
        if stack.norms
        else (stack.attention_norm, stack.attention_post_norm, stack.mlp_norm, stack.mlp_post_norm)
    )
    holds = stack.parts[index].split("+") if stack.parts else ("attention", "mixer", "mlp")
    has_mlp = "mlp" in holds
    attention_factor, mlp_factor = (
        _find(block, path).detach() if path else number
        for path, number in zip(stack.channel_factors, (attention.factor, stack.mlp_factor), strict=True)
    )
    mlp_output = Projection(_find(block, stack.mlp_output), factor=mlp_factor) if stack.mlp_output and has_mlp else None
    mlp_input, mlp_gate = (None, None) if mlp_output is None else _mlp_inputs(block, stack, mlp_output.d_in)
    output = _find(block, attention.output) if "attention" in holds else None
    found = None if output is None else _find(block, attention.module)
    shift = _find(block, attention.shift) if attention.shift else None
    projection = Projection(output, factor=attention_factor, shift=None if shift is None else shift.detach())
    return Block(
        index=index,
        module=block,
        attention=found,
        mixer=module(stack.mixer) if "mixer" in holds else None,
        mixer_factor=stack.mixer_factor,
        query=module(attention.query),
        key=module(attention.key),
        value=module(attention.value),
        fused=module(attention.fused),
        attention_output=None if output is None else _of_heads(projection, sizes),
        query_norm=norm(attention.query_norm, sizes.d_head),
        key_norm=norm(attention.key_norm, sizes.d_head),
        attention_norm=norm_or_none(before),
        attention_post_norm=norm(after),
        mlp_norm=norm_or_none(before_mlp if has_mlp else ""),
        mlp_post_norm=norm(after_mlp),
        mlp=mlp_output.module if mlp_output is not None else module(stack.mlp) if has_mlp else None,
        mlp_factor=mlp_factor,
        mlp_beside=module(stack.mlp_beside) if has_mlp else None,
        mlp_beside_factor=stack.mlp_beside_factor,
        mlp_input=mlp_input,
        mlp_gate=mlp_gate,
        mlp_output=mlp_output,
        activation=_activation(block, stack.mlp_activation) if mlp_output is not None else None,
        scale=1.0
        if found is None
        else attention.scales[index]
        if attention.scales
        else sizes.d_head**-0.5
        if attention.scale == "size"
        else _attention_scale(found, attention),
    )


def _of_heads(output: Projection, sizes: Sizes) -> Projection:
    """The projection of heads' outputs, whose heads may be smaller here than in other layers."""
    own = output.d_in // sizes.heads
    return output if own == sizes.d_value else replace(output, heads=(sizes.heads, own, sizes.d_value))


def _activation(block: nn.Module, path: str) -> Any:
    """The elementwise function of an MLP: a module of the block, or a function of the library by its name."""
    if not path.startswith(FUNCTION):
        return _find(block, path)
    from transformers.activations import ACT2FN

    return ACT2FN[path.removeprefix(FUNCTION)]


def _mlp_inputs(block: nn.Module, stack: Stack, d_mlp: int) -> tuple[Projection, Projection | None]:
    """The MLP's input projection and its gate."""
    # One module holds [gate; input]: the first d_mlp outputs are the gate.
    if stack.mlp_gate_up:
        fused = _find(block, stack.mlp_gate_up)
        return Projection(fused, (d_mlp, None)), Projection(fused, (None, d_mlp))
    gate = Projection(_find(block, stack.mlp_gate)) if stack.mlp_gate else None
    return Projection(_find(block, stack.mlp_input)), gate


def _attention_scale(module: Any, attention: Attention) -> float:
    if attention.scale == "none":
        return 1.0
    return float(module.scaling) if hasattr(module, "scaling") else 1.0 / float(module.scale_attn)


def scaled(x: Tensor, factor: float | Tensor) -> Tensor:
    """A tensor times a number, or times one number for each of its last axis."""
    if isinstance(factor, Tensor):
        return x * factor.to(x)
    return x if factor == 1.0 else x * factor


def upcast(x: Tensor) -> Tensor:
    """At least float32: half precision is accumulated in float32, float64 stays."""
    return x if x.dtype == torch.float64 else x.float()
