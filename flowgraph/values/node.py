"""Nodes of a flow graph, and the one grammar of their labels.

A :class:`Node` is the identity, never a string: :func:`label` writes labels and nothing parses them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import index
from typing import Literal, get_args

from ..errors import ArgumentError

NodeKind = Literal[
    "embed", "position_embed", "resid_pre", "resid_mid", "resid_post",
    "attn_norm", "query", "key", "value", "head_rest", "head", "kv_group", "row", "attn_rest", "attn_bias",
    "attn_norm_bias", "attn", "qkv", "concat_heads",
    "mlp_norm", "gate", "neuron_in", "neuron", "mlp_rest", "mlp_bias", "mlp_norm_bias", "mlp", "mlp_bias_in",
    "final_norm", "final_norm_bias", "unembed_bias", "logit", "logits",
    "feature", "attn_feature", "mlp_error", "attn_error", "mixer", "resid_cross", "cross_head", "cross_bias",
    "expert", "shared_expert", "sink",
    "cross_norm", "cross_query", "cross_key", "cross_value", "cross_head_rest", "cross_row", "cross_rest", "cross_norm_bias", "cross_attn",
    "cross_kv_group",
]  # fmt: skip
NODE_KINDS: tuple[NodeKind, ...] = get_args(NodeKind)

WITHOUT_LAYER = frozenset(
    {"embed", "position_embed", "final_norm", "final_norm_bias", "unembed_bias", "logit", "logits"}
)
WITH_HEAD = frozenset(
    {"query", "key", "value", "head_rest", "head", "kv_group", "cross_head", "cross_query", "cross_key", "cross_value", "cross_head_rest", "cross_kv_group"}
)  # fmt: skip
WITH_INDEX = frozenset(
    {
        "key", "value", "cross_key", "cross_value", "cross_row", "row", "gate", "neuron_in", "neuron", "logit", "feature",
        "attn_feature", "expert",
    }
)  # fmt: skip
CROSS: Mapping[str, NodeKind] = {
    "attn_norm": "cross_norm", "query": "cross_query", "key": "cross_key", "value": "cross_value",
    "head_rest": "cross_head_rest", "head": "cross_head", "row": "cross_row", "attn_rest": "cross_rest",
    "attn_bias": "cross_bias", "attn_norm_bias": "cross_norm_bias", "attn": "cross_attn",
}  # fmt: skip
"""Kind of a part of attention → kind of the same part of attention to an encoder."""
OWN: Mapping[str, NodeKind] = {cross: own for own, cross in CROSS.items()}  # type: ignore[misc]
"""The other way round."""
STACKS = {"encoder": "enc", "vision": "img"}
"""Name of a stack beside the last one → what labels of its nodes begin with."""
EXCHANGING = "vision"
"""The stack that reads the last one, and is read by it, in the same layers."""
FEATURES = frozenset({"feature", "attn_feature"})
"""Features of sparse dictionaries that stand for MLPs (transcoders) and for attention: no neurons and no heads of the model."""
ERRORS = frozenset({"mlp_error", "attn_error"})
"""Parts of the output of a layer's MLP or attention that such dictionaries leave out."""


@dataclass(frozen=True, slots=True)
class Node:
    """One place in the forward pass.

    Attributes
    ----------
    kind
        One of :data:`NODE_KINDS`. ``logit`` is that of one token, ``logits`` the final norm and the head as readers. ``feature`` and
        ``attn_feature`` are features of sparse dictionaries, ``mlp_error`` and ``attn_error`` the parts that these leave out. A
        ``mixer`` mixes tokens in attention's place, as a state-space model does. In the decoder of an encoder–decoder a
        ``cross_head`` reads the encoder, and ``resid_cross`` is the state between attention and it. An ``expert`` is one of a mixture
        of experts, a ``shared_expert`` what the MLP writes beside those that were chosen. A ``sink`` is a key that holds nothing: what
        a query's heads spend on it.
    layer, head, position, index
        Counted from 0; None where the kind has none. ``position`` is the query's; ``index`` is the source position of a
        ``key`` or ``value`` (of a ``cross_key`` or ``cross_value`` that in the encoder), the neuron of a ``neuron``, ``neuron_in``
        (its row of W_in) or ``gate``, the row of W_O of a ``row``, the number of an expert, of a feature in its dictionary, and the
        token id of a ``logit``. For a ``kv_group`` or a ``cross_kv_group``, ``head``
        is the key/value head.
    token
        The text of a logit's token, or the name of a feature; for the label only, not part of the identity.
    stack
        The stack that the node belongs to: ``"encoder"``, ``"vision"``; None for the last one, which ends in the head. Layers and positions are
        counted in each stack.

    Raises
    ------
    ArgumentError
        If the kind is unknown or a field that the kind needs is missing.
    """

    kind: NodeKind
    layer: int | None = None
    head: int | None = None
    position: int | None = None
    index: int | None = None
    # compare=False: the same node may be named with and without its text.
    token: str | None = field(default=None, compare=False)
    stack: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in NODE_KINDS:
            raise ArgumentError(f"kind={self.kind!r} is not a kind of node; expected one of {', '.join(NODE_KINDS)}")
        if self.stack is not None and self.stack not in STACKS:
            raise ArgumentError(
                f"stack={self.stack!r} is not a stack; expected {', '.join(map(repr, STACKS))}, or None"
            )
        needed = {
            "layer": self.kind not in WITHOUT_LAYER,
            "head": self.kind in WITH_HEAD,
            "index": self.kind in WITH_INDEX,
        }
        for name, is_needed in needed.items():
            if is_needed and getattr(self, name) is None:
                raise ArgumentError(f"a node of kind {self.kind!r} needs {name}=, got None")
        for name in ("layer", "head", "position", "index"):
            value = getattr(self, name)
            if value is None:
                continue
            try:
                # A negative number would not fail, but count from the end.
                is_there = index(value) >= 0
            except TypeError as error:
                raise ArgumentError(f"{name}={value!r} of a {self.kind!r} node must be a whole number") from error
            if not is_there:
                raise ArgumentError(f"{name}={value} of a {self.kind!r} node must be 0 or more")

    def __str__(self) -> str:
        return label(self)


def label(node: Node) -> str:
    """Label of a node: ``embed@3``, ``L3H7@5``, ``L3.mlp@5``, ``L3.resid_post@5``, ``L3N1460@5``, ``logit[ Tokyo]``.

    A node of another stack says which: ``enc.L3H7@5``; a head that reads it is ``L3.cross.H7@5``. A part of a head or a neuron follows it: ``L3H7.query@5``, ``L3H7.key[2]@5`` (of source 2), ``L3N1460.gate@5``. The name of a
    feature stands behind it: ``L3.feature[253]@5 say a city``. Without a position the ``@…`` is left out.
    """
    text = _label(node)
    return text if node.stack is None else f"{STACKS[node.stack]}.{text}"


def _label(node: Node) -> str:
    at = "" if node.position is None else f"@{node.position}"
    match node.kind:
        case "query":
            return f"L{node.layer}H{node.head}.query{at}"
        case "key" | "value":
            return f"L{node.layer}H{node.head}.{node.kind}[{node.index}]{at}"
        case "head_rest":
            return f"L{node.layer}H{node.head}.rest{at}"
        case "row":
            return f"L{node.layer}.W_O[{node.index}]{at}"
        case "gate" | "neuron_in":
            return f"L{node.layer}N{node.index}.{'gate' if node.kind == 'gate' else 'in'}{at}"
        case "head":
            return f"L{node.layer}H{node.head}{at}"
        case "cross_query":
            return f"L{node.layer}.cross.H{node.head}.query{at}"
        case "cross_key" | "cross_value":
            return f"L{node.layer}.cross.H{node.head}.{node.kind.removeprefix('cross_')}[{node.index}]{at}"
        case "cross_head_rest":
            return f"L{node.layer}.cross.H{node.head}.rest{at}"
        case "cross_row":
            return f"L{node.layer}.cross.W_O[{node.index}]{at}"
        case "cross_head":
            return f"L{node.layer}.cross.H{node.head}{at}"
        case "cross_kv_group":
            return f"L{node.layer}.cross.KV{node.head}{at}"
        case "kv_group":
            return f"L{node.layer}KV{node.head}{at}"
        case "neuron":
            return f"L{node.layer}N{node.index}{at}"
        case "expert":
            return f"L{node.layer}E{node.index}{at}"
        case "feature" | "attn_feature":
            name = f"L{node.layer}.{node.kind}[{node.index}]{at}"
            return f"{name} {node.token}" if node.token else name
        case "logit":
            return f"logit[{node.index if node.token is None else node.token}]"
        case kind if kind in WITHOUT_LAYER:
            return f"{kind}{at}"
        case kind:
            return f"L{node.layer}.{kind}{at}"
