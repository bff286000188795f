"""A family's row resolved in one model: the modules and weights that tracing, lenses and methods work with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..errors import UnsupportedReadingError
from .axis import Layout
from .block import Block, NeuronLayers, Norm, Place, Projection, Readout, fill, scale_of_size, scaled, upcast
from .families import Family, Stack, Wiring
from .kinds import base_of, holds_experts, unread_head
from .parameters import device_of, packing_of
from .paths import find
from .stacks import DECODER_IDS

__all__ = [
    "Anatomy", "Block", "Level", "NeuronLayers", "Norm", "Place", "Projection", "Readout", "counting", "fill", "no_neurons",
    "no_projections", "scale_of_size", "scaled", "upcast", "without_head",
]  # fmt: skip

Level = Literal["patterns", "stream", "full"]
"""What is known of a model, and proved: ``patterns`` (attention maps, rollout, attention flow), ``stream`` (also the residual
stream and heads' outputs: norms, proximity, routes), ``full`` (also readings in vocabulary, interventions on answers, circuits)."""


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
            blocks = find(base, path)
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


def without_head(anatomy: Anatomy) -> Anatomy:
    """The same parts, with the head marked as unread."""
    return replace(anatomy, head=(), d_vocab=0, unread_head=unread_head(anatomy.model))


def counting(anatomy: Anatomy) -> Iterator[Any]:
    """Hooks that count the runs of modules that run several times; set before all others."""
    seen: set[int] = set()
    for block in anatomy.blocks:
        if block.turns is not None and id(block.turns) not in seen:
            seen.add(id(block.turns))
            yield block.turns.counting(block.module)
