"""Edges and pattern edits: the parts of a run, besides nodes, that an intervention can change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from ..errors import ArgumentError, UnsupportedReadingError
from ..lenses.experts import expert_count, has_experts
from ..models.anatomy import Anatomy, no_neurons, no_projections
from ..values.arguments import takes_fields
from ..values.node import Node, label

Into = Literal["q", "k", "v", "mlp", "logits"]
BOTH_STACKS = "ablate() and patch() change heads, MLPs, states and entries of patterns of both stacks, head_effects() changes every head by itself"
"""What can be changed in an encoder–decoder, for refusals of what cannot."""
SENDERS = ("embed", "head", "mlp")
"""Kinds of nodes that write to the residual stream, and so can send."""


@takes_fields
@dataclass(frozen=True)
class Edge:
    """A direct connection over the residual stream: one node reads another's output, with no node between.

    Attributes
    ----------
    source
        The writer: ``embed`` (the state that enters the first block), ``head`` or ``mlp``.
    target
        The reader: a ``head`` or, for keys and values of a model with grouped heads, a ``kv_group``; ``mlp``; ``logits``.
    into
        The input of the target: ``"q"``, ``"k"``, ``"v"``, ``"mlp"`` or ``"logits"``.

    A position on either node restricts the edge to it; without one it is all positions.
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
        readers = {"q": ("head",), "k": ("head", "kv_group"), "v": ("head", "kv_group"), "mlp": ("mlp",)}
        readers["logits"] = ("logits",)
        if self.into not in readers:
            raise ArgumentError(f"into={self.into!r} must be one of {', '.join(get_args(Into))}")
        if self.target.kind not in readers[self.into]:
            expected = " or ".join(repr(kind) for kind in readers[self.into])
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


def sender_index(anatomy: Anatomy, node: Node) -> int:
    """Number of a sender in the order of computation: embed, then each layer's heads and its MLP.

    Raises
    ------
    ArgumentError
        If the model has no such node.
    """
    check_node(anatomy, node)
    if node.kind == "embed":
        return 0
    assert node.layer is not None
    first = 1 + node.layer * (anatomy.n_heads + 1)
    return first + (anatomy.n_heads if node.head is None else node.head)


def sender_nodes(anatomy: Anatomy) -> tuple[Node, ...]:
    """Every sender in the order of computation, without a position."""
    nodes = [Node("embed")]
    for layer in range(len(anatomy.blocks)):
        nodes += [Node("head", layer=layer, head=head) for head in range(anatomy.n_heads)]
        nodes.append(Node("mlp", layer=layer))
    return tuple(nodes)


def receivers(anatomy: Anatomy) -> tuple[tuple[Node, Into], ...]:
    """Every receiver in the order of computation: (node, its input)."""
    found: list[tuple[Node, Into]] = []
    for layer in range(len(anatomy.blocks)):
        found += [(Node("head", layer=layer, head=head), "q") for head in range(anatomy.n_heads)]
        kind: Literal["head", "kv_group"] = "head" if anatomy.n_kv_heads == anatomy.n_heads else "kv_group"
        keys = [Node(kind, layer=layer, head=head) for head in range(anatomy.n_kv_heads)]
        found += [(node, "k") for node in keys] + [(node, "v") for node in keys]
        found.append((Node("mlp", layer=layer), "mlp"))
    return (*found, (Node("logits"), "logits"))


def senders_before(anatomy: Anatomy, layer: int | None, into: Into) -> int:
    """How many senders have written before a receiver reads."""
    width = anatomy.n_heads + 1
    if layer is None:
        return 1 + len(anatomy.blocks) * width
    # In a parallel block attention and MLP read the same state, so heads of a layer send to its MLP only in sequential
    # blocks.
    own = anatomy.n_heads if into == "mlp" and anatomy.wiring != "parallel" else 0
    return 1 + layer * width + own


def check_edge(anatomy: Anatomy, edge: Edge) -> None:
    """Refuse an edge that this model does not have.

    Raises
    ------
    UnsupportedReadingError
        If the model's blocks normalise the stream itself: no node then reads another's output as it was written.
    ArgumentError
        If a node does not exist, keys and values are not those of a group, or the target reads before the source writes.
    """
    require_sum(anatomy)
    if edge.into in ("q", "k", "v") and not anatomy.has_projections:
        raise UnsupportedReadingError(no_projections(anatomy))
    check_node(anatomy, edge.target)
    sent = sender_index(anatomy, edge.source)
    grouped = anatomy.n_kv_heads != anatomy.n_heads
    if edge.into in ("k", "v") and grouped != (edge.target.kind == "kv_group"):
        group = anatomy.n_heads // anatomy.n_kv_heads
        owner = (edge.target.head or 0) // group if grouped else edge.target.head
        kind = "kv_group" if grouped else "head"
        raise ArgumentError(
            f"{edge}: in this model {'keys and values belong to groups of ' + str(group) if grouped else 'each head has'} "
            f"{'heads' if grouped else 'its own keys and values'}; the edge ends at Node({kind!r}, layer={edge.target.layer}, "
            f"head={owner})"
        )
    if sent >= senders_before(anatomy, edge.target.layer, edge.into):
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
    heads = anatomy.n_kv_heads if node.kind == "kv_group" else anatomy.n_heads
    limits = {"layer": len(anatomy.blocks), "head": heads}
    if node.layer is not None and node.layer < len(anatomy.blocks):
        if node.kind in ("head", "kv_group", "attn"):
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


def require_sum(anatomy: Anatomy) -> None:
    """Refuse models whose residual stream is not the sum of all that nodes write.

    Raises
    ------
    UnsupportedReadingError
        If blocks normalise the stream itself.
    """
    anatomy.refuse_gates("an edge between nodes")
    anatomy.refuse_stacks("an edge between nodes", BOTH_STACKS)
    if anatomy.has_gaps:
        raise UnsupportedReadingError(
            f"some layers of {type(anatomy.model).__name__} mix tokens by something else than attention, and edges are known between "
            "heads and MLPs alone, so they would leave out what these layers write. Change nodes instead"
        )
    # After a norm of the whole stream, what one part wrote is scaled by all others: its difference is no longer what a
    # reader sees.
    if anatomy.wiring == "post_norm":
        raise UnsupportedReadingError(
            f"blocks of {type(anatomy.model).__name__} normalise the residual stream itself (post-norm), so what one part "
            "wrote is no term of what a later part reads, and there are no edges between them. Change nodes instead"
        )
