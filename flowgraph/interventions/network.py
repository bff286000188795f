"""Who writes to which residual stream and who reads it: the nodes between which edges run, of one stack or of several.

A *tower* is a stack with its stream; its *senders* are the embedding, heads and MLPs that write to it. A *reader* reads a stream in
one way: the queries, keys or values of a layer's heads, its MLP, or the logits. Heads of a decoder that read its encoder write to the
decoder's stream; their queries read it, their keys and values read what the encoder's stream ends as.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, cast
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ..errors import UnsupportedReadingError
from ..models.anatomy import Anatomy, Norm, no_projections, upcast
from ..models.attention_weights import Role, attention_weights
from ..models.eager import eager_attention
from ..models.hooks import before, on_result
from ..models.proof import TOLERANCE, probe
from ..values.node import Node, NodeKind

Into = Literal["q", "k", "v", "mlp", "logits"]
Kept = Mapping[tuple[str, int], Tensor]
"""Site and layer → the tensor of a pass there."""
KeptOf = Mapping[str, Kept]
"""Name of a tower → what a pass kept of it."""
Added = Callable[[slice], Tensor]
"""Some senders of a tower → Σ of the changes of what they write, [*rows, position, d_model]."""
LAST = ""
"""Name of the tower that ends in the logits."""
ROLES: dict[str, Role] = {"q": "query", "k": "key", "v": "value"}


@dataclass(frozen=True, eq=False)
class Tower:
    """A stack and its stream.

    Attributes
    ----------
    name
        ``"encoder"``; :data:`LAST` for the stack that ends in the logits.
    anatomy
        Its parts.
    start
        Number of its first sender among those of all towers.
    """

    name: str
    anatomy: Anatomy
    start: int

    @property
    def stack(self) -> str | None:
        """The stack of its nodes, as :class:`flowgraph.Node` has it."""
        return self.name or None

    @property
    def crossing(self) -> int:
        """Heads of a layer that read another tower."""
        return 0 if self.anatomy.cross is None else self.anatomy.cross.n_heads

    @property
    def width(self) -> int:
        """Senders of a layer: heads, heads that read another tower, and the MLP."""
        return self.anatomy.n_heads + self.crossing + 1

    @property
    def count(self) -> int:
        """Number of senders."""
        return 1 + len(self.anatomy.blocks) * self.width

    @property
    def all(self) -> slice:
        """Its senders among those of all towers."""
        return slice(self.start, self.start + self.count)

    def heads(self, layer: int, *, crossing: bool = False) -> range:
        """The heads of a layer among the senders of this tower."""
        first = 1 + layer * self.width + (self.anatomy.n_heads if crossing else 0)
        return range(first, first + (self.crossing if crossing else self.anatomy.n_heads))

    def mlp(self, layer: int) -> int:
        """The MLP of a layer among the senders of this tower."""
        return (layer + 1) * self.width

    def index(self, node: Node) -> int:
        """A node that writes among the senders of this tower."""
        if node.kind == "embed":
            return 0
        assert node.layer is not None
        if node.kind == "mlp":
            return self.mlp(node.layer)
        assert node.head is not None
        return self.heads(node.layer, crossing=node.kind == "cross_head")[node.head]

    @cached_property
    def nodes(self) -> tuple[Node, ...]:
        """Every sender in the order of computation, without a position."""
        nodes = [Node("embed", stack=self.stack)]
        for layer in range(len(self.anatomy.blocks)):
            for kind, heads in (("head", self.anatomy.n_heads), ("cross_head", self.crossing)):
                nodes += [Node(_kind(kind), layer=layer, head=head, stack=self.stack) for head in range(heads)]
            nodes.append(Node("mlp", layer=layer, stack=self.stack))
        return tuple(nodes)


@dataclass(frozen=True, eq=False)
class Reader:
    """What reads a stream in one way.

    Attributes
    ----------
    owner, reads
        The tower that it belongs to, and the one whose stream it reads.
    layer
        Its layer; None for the logits.
    into
        Its input.
    crossing
        Whether it belongs to heads that read another tower.
    columns
        Its receivers, a head or a group of heads each, among those of all readers.
    before
        How many senders of the tower that it reads have written before.
    """

    owner: Tower
    reads: Tower
    layer: int | None
    into: Into
    crossing: bool
    columns: slice
    before: int

    @property
    def anatomy(self) -> Anatomy:
        """The parts of the attention that it belongs to; of an MLP and of the logits those of its stack."""
        return self.owner.anatomy.reader_of_encoder if self.crossing else self.owner.anatomy

    @property
    def prefix(self) -> str:
        """What the sites of its attention begin with."""
        return "cross_" if self.crossing else ""

    @property
    def site(self) -> str:
        """Where a pass of its tower is changed for it alone."""
        return {"mlp": "mlp_in", "logits": "final"}.get(self.into, f"{self.prefix}{self.into}")

    @property
    def at(self) -> int:
        """The layer of this site."""
        return len(self.owner.anatomy.blocks) - 1 if self.layer is None else self.layer

    @property
    def state(self) -> tuple[str, int]:
        """Site and layer, in the tower that it reads, of the state that it reads."""
        if self.reads is not self.owner or self.layer is None:
            return "resid_post", len(self.reads.anatomy.blocks) - 1
        if self.into == "mlp":
            return "resid_pre" if self.owner.anatomy.wiring == "parallel" else "resid_mid", self.layer
        return "resid_cross" if self.crossing else "resid_pre", self.layer

    @property
    def group(self) -> int:
        """Heads that share one of its receivers."""
        return self.anatomy.n_heads // self.anatomy.n_kv_heads if self.into in ("k", "v") else 1

    @property
    def nodes(self) -> tuple[Node, ...]:
        """Its receivers."""
        count, stack = self.columns.stop - self.columns.start, self.owner.stack
        if self.into == "logits":
            return (Node("logits"),)
        if self.into == "mlp":
            return (Node("mlp", layer=self.layer, stack=stack),)
        kind = self.kind
        return tuple(Node(kind, layer=self.layer, head=head, stack=stack) for head in range(count))

    @property
    def kind(self) -> NodeKind:
        """Kind of its receivers."""
        if self.into in ("mlp", "logits"):
            return _kind(self.into)
        return _kind(f"{self.prefix}{'head' if self.into == 'q' or self.group == 1 else 'kv_group'}")

    def writers(self, receiver: int) -> range:
        """The senders of its tower that a receiver belongs to: a head, the heads of a group, or the MLP; none of the logits."""
        if self.layer is None:
            return range(0)
        if self.into == "mlp":
            return range(self.owner.mlp(self.layer), self.owner.mlp(self.layer) + 1)
        heads = self.owner.heads(self.layer, crossing=self.crossing)
        return heads[receiver * self.group : (receiver + 1) * self.group]

    def weight(self) -> Float[Tensor, "receiver d_in d_head"]:
        """Projection of its queries, keys or values."""
        assert self.layer is not None
        return attention_weights(self.anatomy, self.layer, ROLES[self.into])[0]

    @property
    def norm(self) -> Norm:
        """The norm that it reads its own stack's state through; post-norm blocks read the state itself."""
        assert self.layer is not None
        block = self.owner.anatomy.blocks[self.layer]
        if self.owner.anatomy.wiring == "post_norm":
            return _NONE
        if self.into == "mlp":
            return block.mlp_norm
        part = block.cross if self.crossing else block
        assert part is not None
        return part.attention_norm

    def through(self, state: Float[Tensor, "*row position d_model"]) -> Float[Tensor, "*row position d_in"]:
        """What its projections, or its MLP, are given of a state."""
        if self.reads is self.owner:
            read: Tensor = self.norm.module(state)
            return read
        return end_of(self.owner.anatomy, self.reads.anatomy, state)

    def queries_of(self, kept: KeptOf) -> Float[Tensor, "*row position d_model"]:
        """What the queries of its attention read, behind the norm."""
        site = "resid_cross" if self.crossing else "resid_pre"
        read: Tensor = self.norm.module(kept[self.owner.name][site, self.at])
        return read

    def moved(self, kept: KeptOf, added: Added) -> Float[Tensor, "*rows position d_in"]:
        """Change of its input when senders write something else; of the logits the change of the last state."""
        change = self._change(kept[self.reads.name], added)
        if self.layer is None:
            return change
        state = kept[self.reads.name][self.state]
        # The sum is made in 32 bits at least, and the norm reads the type that the model gives it.
        return self.through((upcast(state) + change).to(state.dtype)) - self.through(state)

    def at_state(
        self, kept: KeptOf, gradient: Float[Tensor, "*m position d_in"]
    ) -> Float[Tensor, "*m position d_model"]:
        """Gradient with respect to the state that it reads from the one with respect to its input."""
        if self.layer is None:
            return gradient
        state = kept[self.reads.name][self.state]
        if self.reads is self.owner:
            return gradient if self.norm is _NONE else norm_vjp(self.norm, state, gradient)
        between, final = self.anatomy.source_projection, self.reads.anatomy.final_norm
        gradient = gradient if between is None else gradient @ between.weight.T.to(gradient)
        return gradient if final is None else norm_vjp(final, state, gradient)

    def pulled(self, kept: KeptOf, gradient: Float[Tensor, "*m position d_in"]) -> Iterator[tuple[slice, Tensor]]:
        """Senders that it reads, and the gradient with respect to what they write from the one with respect to its input."""
        gradient, own = self.at_state(kept, gradient), kept[self.reads.name]
        if self.reads.anatomy.wiring != "post_norm" or self.before == 1:
            yield slice(0, self.before), gradient
            return
        for senders, norm, state, written in reversed(list(self.norms())):
            gradient = norm_vjp(norm, upcast(own[state]) + upcast(own[written]), gradient)
            yield senders, gradient

    def _change(self, own: Kept, added: Added) -> Float[Tensor, "*rows position d_model"]:
        """Change of the state that it reads."""
        if self.reads.anatomy.wiring != "post_norm" or self.before == 1:
            return added(slice(0, self.before))
        change: Tensor | float = 0.0
        for senders, norm, state, written in self.norms():
            # Each norm runs anew on what goes through it: what was written before is scaled by all of it.
            whole = upcast(own[state]) + upcast(own[written])
            moved = (whole + change + added(senders)).to(own[state].dtype)
            change = upcast(norm.module(moved)) - upcast(norm.module(whole.to(own[state].dtype)))
        assert isinstance(change, Tensor)
        return change

    def norms(self) -> Iterator[tuple[slice, Norm, tuple[str, int], tuple[str, int]]]:
        """Norms on a post-norm stream up to the state that it reads: whose outputs join before, and the two sites that are summed there."""
        end = self.state
        for layer, block in enumerate(self.reads.anatomy.blocks):
            if ("resid_pre", layer) == end:
                return
            middle = "resid_mid" if block.cross is None else "resid_cross"
            # What enters the first block joins what its heads write.
            heads = slice(0 if layer == 0 else self.reads.heads(layer).start, self.reads.heads(layer).stop)
            yield heads, block.attention_norm, ("resid_pre", layer), ("attn_out", layer)
            if (middle, layer) == end:
                return
            if block.cross is not None:
                crossing = self.reads.heads(layer, crossing=True)
                yield (
                    slice(crossing.start, crossing.stop),
                    block.cross.attention_norm,
                    ("resid_cross", layer),
                    ("cross_out", layer),
                )
                if ("resid_mid", layer) == end:
                    return
            mlp = self.reads.mlp(layer)
            yield slice(mlp, mlp + 1), block.mlp_norm, ("resid_mid", layer), ("mlp_out", layer)


_NONE = Norm(nn.Identity(), "none")


@dataclass(frozen=True, eq=False)
class Network:
    """All towers and readers of a model, both in the order of computation."""

    towers: Mapping[str, Tower]
    readers: tuple[Reader, ...]

    @property
    def count(self) -> int:
        """Number of senders."""
        return sum(tower.count for tower in self.towers.values())

    @cached_property
    def senders(self) -> tuple[Node, ...]:
        """Every sender, tower by tower."""
        return tuple(node for tower in self.towers.values() for node in tower.nodes)

    @cached_property
    def receivers(self) -> tuple[tuple[Node, Into], ...]:
        """Every receiver: (node, its input)."""
        return tuple((node, reader.into) for reader in self.readers for node in reader.nodes)

    @cached_property
    def possible(self) -> Bool[Tensor, "sender receiver"]:
        """Where there is an edge: the sender writes to the stream that the receiver reads, and before."""
        found = torch.zeros(self.count, len(self.receivers), dtype=torch.bool, device="cpu")
        for reader in self.readers:
            found[reader.reads.start : reader.reads.start + reader.before, reader.columns] = True
        return found

    def by_tower(self, of: Callable[[Tower], Any]) -> dict[str, Any]:
        """Name of a tower → what a function gives for it."""
        return {name: of(tower) for name, tower in self.towers.items()}

    def reader(self, node: Node, into: Into) -> Reader:
        """The reader that a receiver belongs to."""
        return self._by_place[node.stack or LAST, node.layer, into, node.kind.startswith("cross_")]

    @cached_property
    def _by_place(self) -> dict[tuple[str, int | None, Into, bool], Reader]:
        return {(one.owner.name, one.layer, one.into, one.crossing): one for one in self.readers}

    def sender(self, node: Node) -> tuple[Tower, int]:
        """The tower of a sender, and its number there."""
        tower = self.towers[node.stack or LAST]
        return tower, tower.index(node)

    def tower_of(self, sender: int) -> tuple[Tower, int]:
        """As :meth:`sender`, of a number among the senders of all towers."""
        tower = next(one for one in self.towers.values() if sender < one.start + one.count)
        return tower, sender - tower.start


def network_of(anatomy: Anatomy) -> Network:
    """The towers and readers of a model: the stacks that are read first, then the one that ends in the logits."""
    towers: dict[str, Tower] = {}
    for name, one in {**anatomy.sources, LAST: anatomy}.items():
        towers[name] = Tower(name, one, sum(tower.count for tower in towers.values()))
    readers: list[Reader] = []
    own: tuple[Into, ...] = ("q", "k", "v")
    of_other: tuple[Into, ...] = ("k", "v")

    def add(owner: Tower, reads: Tower, layer: int | None, into: Into, before: int, *, crossing: bool = False) -> None:
        part = owner.anatomy.reader_of_encoder if crossing else owner.anatomy
        first = readers[-1].columns.stop if readers else 0
        count = {"q": part.n_heads, "k": part.n_kv_heads, "v": part.n_kv_heads}.get(into, 1)
        readers.append(Reader(owner, reads, layer, into, crossing, slice(first, first + count), before))

    for tower in towers.values():
        heads = tower.anatomy.n_heads
        for layer in range(len(tower.anatomy.blocks)):
            begun = 1 + layer * tower.width
            for into in own:
                add(tower, tower, layer, into, begun)
            if tower.crossing and anatomy.sources:
                source = next(iter(towers.values()))
                add(tower, tower, layer, "q", begun + heads, crossing=True)
                for into in of_other:
                    add(tower, source, layer, into, source.count, crossing=True)
            # In a parallel block attention and MLP read the same state, so heads of a layer send to its MLP only in sequential blocks.
            add(tower, tower, layer, "mlp", begun if tower.anatomy.wiring == "parallel" else tower.mlp(layer))
    last = towers[LAST]
    add(last, last, None, "logits", last.count)
    return Network(towers, tuple(readers))


def end_of(decoder: Anatomy, encoder: Anatomy, state: Float[Tensor, "*row position d_model"]) -> Tensor:
    """What a decoder's keys and values are made of, from the last state that an encoder's blocks write."""
    read: Tensor = state if encoder.final_norm is None else encoder.final_norm.module(state)
    between = decoder.reader_of_encoder.source_projection
    return read if between is None else between.module(read)


_ENDS: WeakKeyDictionary[nn.Module, float] = WeakKeyDictionary()


def require_end(anatomy: Anatomy) -> None:
    """Refuse a decoder of which it is not proved what its keys and values are made of.

    Raises
    ------
    UnsupportedReadingError
        If they are not linear in the encoder's last states behind its final norm, or nothing is known of the encoder.
    """
    name, cross = type(anatomy.model).__name__, anatomy.reader_of_encoder
    if not anatomy.sources:
        raise UnsupportedReadingError(
            f"edges of {name} run through its encoder, which is not traced. Change heads and MLPs of the decoder instead"
        )
    if not cross.has_projections:
        raise UnsupportedReadingError(
            f"queries, keys and values by which {name} reads its encoder are not found as a linear layer each, so what single parts of the "
            "encoder's stream bring to them is not known; heads, patterns, MLPs and states of both stacks can be changed"
        )
    if anatomy.model not in _ENDS:
        _ENDS[anatomy.model] = _end_error(anatomy)
    if _ENDS[anatomy.model] > TOLERANCE[anatomy.dtype]:
        raise UnsupportedReadingError(
            f"what the decoder of {name} reads is not the last state of its encoder's blocks behind the final norm (relative error "
            f"{_ENDS[anatomy.model]:.2g}), so there are no edges between its stacks; heads, patterns, MLPs and states of both can be changed"
        )


def _end_error(anatomy: Anatomy) -> float:
    """Relative error of :func:`end_of` against what the first layer's keys and values read in a short pass."""
    encoder, first = next(iter(anatomy.sources.values())), anatomy.reader_of_encoder.blocks[0]
    last = encoder.blocks[-1]
    assert first.key is not None
    seen: dict[str, Tensor] = {}

    def store(_module: nn.Module, _args: Any, output: Any) -> None:
        seen["written"] = (output[0] if isinstance(output, tuple) else output).detach().clone()

    with torch.inference_mode(mode=False), torch.no_grad(), eager_attention(anatomy.model):
        handles = [
            on_result(last.leaves or last.module, store),
            before(first.key, lambda x: seen.update(read=x.detach().clone())),
        ]
        try:
            anatomy.model(**probe(anatomy), use_cache=False)
        finally:
            for handle in handles:
                handle.remove()
        made = upcast(end_of(anatomy, encoder, seen["written"]))
    read = upcast(seen["read"]).reshape(made.shape)
    return float((made - read).norm() / read.norm())


def need_projections(anatomy: Anatomy) -> None:
    """Refuse edges into queries, keys and values that are no linear maps of what attention reads.

    Raises
    ------
    UnsupportedReadingError
        Naming the model.
    """
    if not anatomy.has_projections:
        raise UnsupportedReadingError(no_projections(anatomy))


def norm_vjp(norm: Norm, x: Float[Tensor, "*n d"], gradient: Float[Tensor, "*m d"]) -> Float[Tensor, "*m d"]:
    """Gradient before a norm from the gradient after it; the norm's scale moves along."""
    x = upcast(x)
    scale = norm.scale(x)[..., None]
    centred = x - x.mean(-1, keepdim=True) if norm.is_layer else x
    direction = centred / scale
    # In place: there is a gradient for each receiver, and each pass over them takes as long as a part of the model.
    result = gradient * (norm.gain(x.shape[-1]).to(gradient) / scale)
    if norm.is_layer:
        # The scale moves with the input: the part along the normalised direction drops out.
        along = (result * direction).mean(-1, keepdim=True)
        return result.sub_(result.mean(-1, keepdim=True)).addcmul_(direction, along, value=-1)
    return result.addcmul_(direction, (result * direction).mean(-1, keepdim=True), value=-1)


def _kind(name: str) -> NodeKind:
    """A name that was put together of parts; a node of a kind that is none refuses it."""
    return cast("NodeKind", name)
