"""Edges and pattern edits: the parts of a run, besides nodes, that an intervention can change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import get_args

import torch
from jaxtyping import Bool
from torch import Tensor

from ..errors import ArgumentError, UnsupportedReadingError
from ..lenses.experts import expert_count, has_experts
from ..models.anatomy import Anatomy, no_neurons
from ..values.arguments import takes_fields
from ..values.node import Node, label
from .network import LAST, Into, Network, need_projections, network_of, require_end

SENDERS = ("embed", "head", "cross_head", "mlp")
"""Kinds of nodes that write to the residual stream, and so can send."""
_READERS = {
    "q": ("head", "cross_head"),
    "k": ("head", "kv_group", "cross_head", "cross_kv_group"),
    "v": ("head", "kv_group", "cross_head", "cross_kv_group"),
    "mlp": ("mlp",),
    "logits": ("logits",),
}
_WORDS = {"q": "query", "k": "key", "v": "value", "mlp": "input", "logits": "input"}


@takes_fields
@dataclass(frozen=True)
class Edge:
    """A direct connection over the residual stream: one node reads another's output, with no node between.

    Attributes
    ----------
    source
        The writer: ``embed`` (the state that enters the first block), ``head`` or ``mlp``; in a decoder that reads its encoder
        also ``cross_head``.
    target
        The reader: a ``head`` or, for keys and values of a model with grouped heads, a ``kv_group``; ``mlp``; ``logits``; and
        ``cross_head`` or ``cross_kv_group``, whose queries read the decoder, and whose keys and values read the encoder's last states.
    into
        The input of the target: ``"q"``, ``"k"``, ``"v"``, ``"mlp"`` or ``"logits"``.

    A position on either node restricts the edge to it; without one it is all positions. Of keys and values that are made of the
    encoder it is one of the encoder's.
    """

    source: Node
    target: Node
    into: Into

    def __post_init__(self) -> None:
        if self.source.kind not in SENDERS:
            raise ArgumentError(
                f"source={self.source} of an edge is a {self.source.kind!r}; only what writes to the residual stream can "
                f"send: {', '.join(SENDERS)}"
            )
        if self.into not in _READERS:
            raise ArgumentError(f"into={self.into!r} must be one of {', '.join(get_args(Into))}")
        if self.target.kind not in _READERS[self.into]:
            expected = " or ".join(repr(kind) for kind in _READERS[self.into])
            raise ArgumentError(
                f"target={self.target} is a {self.target.kind!r}; into={self.into!r} needs a {expected}"
            )
        if None not in (places := (self.source.position, self.target.position)) and places[0] != places[1]:
            raise ArgumentError(
                f"the edge runs from position {places[0]} to position {places[1]}; the residual stream stays at its "
                "position (what moves information is attention), so give one position, or none"
            )

    @property
    def position(self) -> int | None:
        """The position that the edge is restricted to."""
        return self.target.position if self.source.position is None else self.source.position

    def __str__(self) -> str:
        return f"{label(self.source)} → {label(self.target)}{f'.{self.into}' if self.into in ('q', 'k', 'v') else ''}"


@takes_fields
@dataclass(frozen=True)
class PatternEdit:
    """Entries of attention patterns.

    Attributes
    ----------
    layer, head
        Layer and head of the pattern; None for ``head`` is every head of the layer.
    query_pos, key_pos
        Row and column; all of them where one is None.
    value
        The new probability; None: the value of the ablation or of the other run.
    renormalise
        Scale the rest of each row so that the row keeps its sum.
    attention
        Of an encoder–decoder the attention that is changed, by its name in :attr:`flowgraph.Trace.attention`: ``"decoder.self"``,
        ``"decoder.cross"`` or ``"encoder.self"``; None for that of the last stack to itself.
    """

    layer: int
    head: int | None = None
    query_pos: int | None = None
    key_pos: int | None = None
    value: float | None = None
    renormalise: bool = False
    attention: str | None = None

    def __post_init__(self) -> None:
        if self.value is not None and not 0 <= self.value <= 1:
            raise ArgumentError(f"value={self.value} of a pattern edit must be a probability between 0 and 1, or None")

    def __str__(self) -> str:
        head = "" if self.head is None else f"H{self.head}"
        query, key = ("…" if place is None else place for place in (self.query_pos, self.key_pos))
        stack, _, reads = (self.attention or "decoder.self").partition(".")
        before = "enc." if stack == "encoder" else ""
        return f"{before}L{self.layer}{'.cross' if reads == 'cross' else ''}{'.' if head and reads == 'cross' else ''}{head}.pattern[{query}, {key}]"


def check_edge(network: Network, edge: Edge) -> None:
    """Refuse an edge that this model does not have.

    Raises
    ------
    UnsupportedReadingError
        If queries, keys and values are no linear maps of what attention reads.
    ArgumentError
        If a node does not exist, keys and values are not those of a group, the two nodes stand in streams that do not meet, or the
        target reads before the source writes.
    """
    anatomy = network.towers[LAST].anatomy
    for node in (edge.source, edge.target):
        check_node(anatomy, node)
    is_of_heads = edge.into in ("q", "k", "v")
    crossing = edge.target.kind.startswith("cross_")
    if is_of_heads and not crossing:
        need_projections(network.towers[edge.target.stack or LAST].anatomy)
    reader = network.reader(edge.target, edge.into)
    if edge.target.kind != reader.kind:
        group, owner = reader.group, (edge.target.head or 0) // reader.group
        says = f"belong to groups of {group} heads" if group > 1 else "are each head's own"
        stack = "" if reader.owner.stack is None else f", stack={reader.owner.stack!r}"
        raise ArgumentError(
            f"{edge}: in this model {'keys and values ' + says if reader.into != 'q' else 'queries are each head’s own'}; the edge ends "
            f"at Node({reader.kind!r}, layer={edge.target.layer}, head={owner}{stack})"
        )
    tower, sent = network.sender(edge.source)
    if tower is not reader.reads:
        raise ArgumentError(
            f"{edge}: {edge.source} writes to the stream of the {tower.name or 'decoder'}, and {edge.target} reads with its "
            f"{_WORDS[edge.into]} that of the {reader.reads.name or 'decoder'}; from the encoder edges run to the keys and values of "
            "heads that read it (cross_head)"
        )
    if sent >= reader.before:
        raise ArgumentError(
            f"{edge} runs against the direction of computation: {edge.target} reads before {edge.source} has written; the "
            "source has to be computed first"
        )


def check_node(anatomy: Anatomy, node: Node) -> None:
    """Refuse a node that the model does not have.

    Raises
    ------
    ArgumentError
        If layer, head or neuron are outside the model.
    """
    if node.stack is not None:
        if node.stack not in anatomy.sources:
            raise ArgumentError(f"{node}: the model has no stack {node.stack!r}")
        if node.kind.startswith("cross_"):
            raise ArgumentError(f"{node}: heads that read the encoder belong to the decoder; leave stack= out")
        check_node(anatomy.sources[node.stack], replace(node, stack=None))
        return
    if node.kind in ("cross_head", "cross_kv_group"):
        anatomy = anatomy.reader_of_encoder
    heads = anatomy.n_kv_heads if node.kind in ("kv_group", "cross_kv_group") else anatomy.n_heads
    limits = {"layer": len(anatomy.blocks), "head": heads}
    if node.layer is not None and node.layer < len(anatomy.blocks):
        if node.kind in ("head", "kv_group", "attn", "cross_head", "cross_kv_group"):
            anatomy.require_attention(node.layer, str(node))
        missing = {"mlp": "MLP", "mixer": "mixer"}.get(node.kind, "")
        if missing and getattr(anatomy.blocks[node.layer], node.kind) is None:
            raise ArgumentError(f"{node}: layer {node.layer} of {type(anatomy.model).__name__} has no {missing}")
    if node.kind == "expert" and node.layer is not None and node.layer < len(anatomy.blocks):
        mlp = anatomy.blocks[node.layer].mlp
        if mlp is None or not has_experts(mlp):
            raise UnsupportedReadingError(f"{node}: layer {node.layer} is no mixture of experts")
        count = expert_count(mlp)
        limits |= {} if count is None else {"index": count}
    if node.kind == "neuron" and not anatomy.has_neurons:
        raise UnsupportedReadingError(f"{node}: {no_neurons(anatomy)}")
    if node.kind == "neuron" and node.layer is not None and node.layer < len(anatomy.blocks):
        limits["index"] = anatomy.blocks[node.layer].n_neurons
    for name, limit in limits.items():
        value = getattr(node, name)
        if value is not None and value >= limit:
            raise ArgumentError(f"{node}: {name}={value} does not exist; this model has {limit}, counted from 0")


def edge_network(anatomy: Anatomy) -> Network:
    """The nodes of a model between which edges run.

    Raises
    ------
    UnsupportedReadingError
        If something in it writes that is no head and no MLP, or is not known to read the sum of what others write.
    """
    for name, part in {**anatomy.sources, LAST: anatomy}.items():
        refuse_others(
            part, "an edge between nodes", f"the {name or 'decoder'} of " if anatomy.cross is not None else ""
        )
        if part.stack.entering_norm:
            raise UnsupportedReadingError(
                f"the stream of {type(part.model).__name__} goes through a norm at the beginning of each block, and parts join it on both "
                "sides, so what one part wrote is no term of what a later part reads. Change nodes instead"
            )
    if anatomy.cross is not None:
        if anatomy.exchanges:
            raise UnsupportedReadingError(
                f"the stacks of {type(anatomy.model).__name__} read each other in the same layers, and edges are known where one stack reads "
                "what the other ends as. Change nodes instead"
            )
        require_end(anatomy)
    return network_of(anatomy)


def whole_network(anatomy: Anatomy) -> Network:
    """As :func:`edge_network`, for what asks every edge.

    Raises
    ------
    UnsupportedReadingError
        Also if queries, keys and values are no linear maps of what attention reads.
    """
    network = edge_network(anatomy)
    for tower in network.towers.values():
        need_projections(tower.anatomy)
    return network


def refuse_others(anatomy: Anatomy, wanted: str, of: str = "") -> None:
    """Refuse a stack in which something else than heads and MLPs writes to the stream; ``wanted`` is the thing that needs it, in words.

    Raises
    ------
    UnsupportedReadingError
        Naming the model, with ``of`` before its name.
    """
    anatomy.require_stream(wanted)
    anatomy.refuse_gates(wanted)
    if anatomy.has_gaps:
        raise UnsupportedReadingError(
            f"some layers of {of}{type(anatomy.model).__name__} mix tokens by something else than attention, and edges are known between "
            "heads and MLPs alone, so they would leave out what these layers write. Change nodes instead"
        )


def edge_mask(network: Network, edges: Sequence[Edge]) -> Bool[Tensor, "sender receiver"]:
    """[sender, receiver] True where there is one of the edges.

    Raises
    ------
    ArgumentError
        If the model has no such edge, or one is restricted to a position.
    """
    mask = torch.zeros_like(network.possible)
    for edge in edges:
        if edge.position is not None:
            raise ArgumentError(
                f"{edge} is restricted to a position, which is not the same place in all prompts; give a circuit without "
                "positions, or test this one prompt with ablate(…, outside=True)"
            )
        check_edge(network, edge)
        mask[place_of_edge(network, edge)] = True
    return mask


def place_of_edge(network: Network, edge: Edge) -> tuple[int, int]:
    """Numbers of an edge's sender and receiver."""
    tower, sent = network.sender(edge.source)
    return tower.start + sent, network.reader(edge.target, edge.into).columns.start + (edge.target.head or 0)
