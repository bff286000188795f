"""The schema of nodes and edges: dense weights laid out as columns of edges, layer by layer.

States per position are ``embed@p`` (a window that starts later: ``L3.resid_pre@p``), ``L0.resid_mid@p``, ``L0.resid_post@p`` …;
resid_pre of a block *is* resid_post of the one before. Edges, at token level:

- ``attention``: previous state@s → resid_mid@t, ``residual``: previous state@t → resid_mid@t
- ``mlp_in``: resid_mid@t → mlp@t, ``mlp``: mlp@t → resid_post@t, ``residual``: resid_mid@t → resid_post@t
- ``unembed``: last state@position → logit

At head level attention ends in ``LlHh@t`` and ``head`` goes on from there, and of a mixture of experts ``mlp_in`` ends in
``LlEe@t`` and ``expert`` goes on to mlp@t. A ``sink`` and a ``mixer`` have an edge into what attention enters, and none that enters
them. In parallel blocks everything enters resid_post.
Weights that end in the logit run straight to it, at head level through the head; a share is then the signed part of Σ|weights|
into the logit, or into the head.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

import numpy as np

from ..errors import ArgumentError
from ..values.edge_weights import EdgeWeights
from ..values.flow_graph import EDGE_KINDS
from ..values.node import NODE_KINDS, Node

Columns = dict[str, Any]
"""Columns of edges by name, with node codes as source and target; see :data:`flowgraph.values.flow_graph.EDGE_COLUMNS`."""


def edge_parts(weights: EdgeWeights, level: str, heads_in: Collection[int] = ()) -> Iterator[Columns]:
    """All edges of the weights at a level, in parts that each hold everything that enters their targets.

    At token level the layers ``heads_in`` are laid out as their heads all the same; see :mod:`.mixed_levels`.

    Raises
    ------
    ArgumentError
        If the level is that of heads, and the method takes them together.
    """
    if level == "head" and weights.heads_together:
        raise ArgumentError(
            f"level='head', but the method ({weights.info.method_text}) takes heads together; use level='token'"
        )
    yield from parts_of_rows(weights, opened(weights, level, heads_in))


def parts_of_rows(weights: EdgeWeights, by_head: Collection[int]) -> Iterator[Columns]:
    """All edges of the weights, with some of their rows laid out as heads."""
    if weights.ends_in_logit:
        yield _logit_part(weights, by_head)
    else:
        yield from _state_parts(weights, by_head)


def opened(weights: EdgeWeights, level: str, heads_in: Collection[int]) -> Collection[int]:
    """Rows of the weights that are laid out as their heads."""
    if level == "head":
        return weights.rows
    return heads_in if weights.joint is None else [row for layer in heads_in for row in weights.joint.steps_of(layer)]


def no_edges() -> Columns:
    """Columns without rows."""
    return _edges("bias", [], [], [])


def joined(pieces: list[Columns]) -> Columns:
    """Some columns under one another."""
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}


class Standing(NamedTuple):
    """The kind of a node as weights of one stack have it, and its row and position among theirs."""

    kind: str
    row: int | None
    position: int | None


class Codes:
    """Nodes as integers while edges are still columns: kind, layer, head and position in one number."""

    def __init__(self, weights: EdgeWeights) -> None:
        _, h, _, t = weights.attention.shape
        rows = weights.info.total_layers if weights.joint is None else len(weights.rows)
        # An expert's number stands where a head's does.
        experts = 0 if weights.expert_index is None else int(weights.expert_index.max(initial=-1)) + 1
        self.sizes = (len(NODE_KINDS), rows + 1, max(h, experts) + 1, t + 1)
        self.weights = weights
        self._standing = None if weights.joint is None else self._states(t)

    def of(self, kind: str, layer: Any = -1, head: Any = -1, position: Any = -1) -> Any:
        """Code of nodes; −1 stands for None."""
        parts = (NODE_KINDS.index(kind), np.asarray(layer) + 1, np.asarray(head) + 1, np.asarray(position) + 1)
        code = np.asarray(parts[0])
        for part, size in zip(parts[1:], self.sizes[1:], strict=True):
            code = code * size + part
        return code

    def _states(self, count: int) -> list[Any]:
        """The codes of all states before each step of several stacks, and after the last."""
        at = np.arange(count)
        states = [self.of("embed", -1, -1, at)]
        joint = self.weights.joint
        assert joint is not None
        for row in self.weights.rows:
            entered = np.where(joint.enters[row], self.of("resid_mid", row, -1, at), states[-1])
            states.append(np.where(joint.has_mlp[row], self.of("resid_post", row, -1, at), entered))
        return states

    def after(self, layer: int, position: Any) -> Any:
        """The state that leaves a block."""
        if self._standing is not None:
            return self._standing[layer + 1][position]
        return self.of("resid_post", layer, -1, position)

    def state(self, layer: int, position: Any) -> Any:
        """The state that enters a block."""
        if self._standing is not None:
            return self._standing[layer][position]
        first = self.weights.info.layers[0]
        if layer > first:
            return self.of("resid_post", layer - 1, -1, position)
        return self.of("embed", -1, -1, position) if first == 0 else self.of("resid_pre", layer, -1, position)

    def states_at(self, row: Any, position: Any) -> Any:
        """The states before rows, one for each pair; before the row after the last, those that leave it."""
        if self._standing is not None:
            return np.stack(self._standing)[row, position]
        first = self.weights.rows.start
        lowest = self.state(first, position)
        return np.where(np.asarray(row) > 0, self.of("resid_post", np.asarray(row) + first - 1, -1, position), lowest)

    def place(self, node: Node) -> Standing:
        """Where a node stands in the arrays of the weights."""
        joint = self.weights.joint
        if joint is None:
            row = None if node.layer is None else node.layer - self.weights.rows.start
            return Standing(node.kind, row, node.position)
        kind = {"cross_head": "head", "resid_cross": "resid_mid"}.get(node.kind, node.kind)
        return Standing(kind, joint.row_of(node), joint.position_of(node))

    def code(self, node: Node) -> int:
        """The code of a node."""
        place = self.place(node)
        row = None if place.row is None else place.row + self.weights.rows.start
        return int(self.of(place.kind, *(-1 if one is None else one for one in (row, node.head, place.position))))

    def node(self, code: int) -> Node:
        """The node of a code."""
        fields = []
        for size in reversed(self.sizes[1:]):
            code, part = divmod(code, size)
            fields.append(None if part == 0 else int(part) - 1)
        position, head, layer = fields
        info = self.weights.info
        if NODE_KINDS[code] == "expert":
            return Node("expert", layer=layer, position=position, index=head)
        if NODE_KINDS[code] == "logit":
            token = info.target_token if info.foil_token is None else f"{info.target_token} − {info.foil_token}"
            return Node("logit", index=info.target, token=token)
        joint = self.weights.joint
        if joint is not None:
            return joint.node(NODE_KINDS[code], layer, head, position)
        return Node(NODE_KINDS[code], layer=layer, head=head, position=position)


def _edges(
    kind: str, source: Any, target: Any, weight: Any, *, layer: int = -1, head: Any = -1, query: Any = -1, key: Any = -1,
    structural: bool = False,
) -> Columns:  # fmt: skip
    """Columns of some edges of one kind, everything broadcast to one length; shares follow when a target is complete."""
    values = {
        "source": source, "target": target, "kind": EDGE_KINDS.index(kind), "layer": layer, "head": head,
        "query_pos": query, "key_pos": key, "weight": weight, "share": 0.0, "structural": structural,
    }  # fmt: skip
    arrays = np.broadcast_arrays(*map(np.atleast_1d, values.values()))
    types = {"weight": np.float64, "share": np.float64, "structural": bool}
    return {name: a.astype(types.get(name, np.int64)) for name, a in zip(values, arrays, strict=True)}


def _state_parts(weights: EdgeWeights, heads_in: Collection[int]) -> Iterator[Columns]:
    """Edges of each layer, of methods whose edges run from state to state."""
    codes = Codes(weights)
    for row, layer in enumerate(weights.rows):
        by_head = layer in heads_in
        pieces = _attention_edges(weights, codes, row, layer, by_head)
        pieces += _edges_from_no_state(weights, codes, row, layer, by_head)
        pieces += _residual_and_mlp_edges(weights, codes, row, layer, by_head)
        columns = joined(pieces)
        if weights.rest is None:
            yield with_shares(columns)
        else:
            entered = weights.enters[row]
            entry = codes.of(_entry(weights), layer, -1, np.asarray(weights.query_positions)[entered])
            yield with_shares(columns, entry, weights.rest[row][entered])
    if weights.unembed is not None:
        at = weights.explained
        last = codes.after(weights.rows[-1], at)
        yield with_shares(_edges("unembed", last, codes.of("logit"), weights.unembed, query=at))


def with_shares(part: Columns, entered: Any = (), rest: Any = ()) -> Columns:
    """Shares of edges that come with everything else that enters their targets; 0 where nothing has weight.

    States ``entered`` receive ``rest`` besides, which is on no edge.
    """
    targets, group = np.unique(part["target"], return_inverse=True)
    size = np.where(part["structural"], 0.0, np.abs(part["weight"]))
    whole = np.bincount(group, weights=size, minlength=len(targets))
    whole[np.searchsorted(targets, np.asarray(entered, dtype=targets.dtype))] += np.asarray(rest, dtype=np.float64)
    share = np.divide(part["weight"], whole[group], out=np.zeros_like(size), where=whole[group] > 0)
    return part | {"share": share}


def in_stacks(weights: EdgeWeights, columns: Columns) -> Columns:
    """Columns of edges with layers and positions as each stack counts them; nothing changes for one stack."""
    joint = weights.joint
    if joint is None:
        return columns
    own = {name: joint.own(columns[name]) for name in ("query_pos", "key_pos")}
    return columns | own | {"layer": joint.layer_of(columns["layer"], columns["query_pos"])}


def unlisted_share(weights: EdgeWeights) -> float:
    """Σ of the shares that ``rest`` has in what it enters, which no edge shows."""
    if weights.rest is None:
        return 0.0
    listed = np.abs(weights.attention_summed).sum(-1, dtype=np.float64)
    beside = (weights.residual, weights.mixer, weights.sink_summed, weights.mlp if weights.parallel else None)
    for part in beside:
        listed = listed if part is None else listed + np.abs(part)
    whole = listed + weights.rest
    return float(np.divide(weights.rest, whole, out=np.zeros_like(whole), where=whole > 0).sum())


def _attention_edges(weights: EdgeWeights, codes: Codes, row: int, layer: int, by_head: bool) -> list[Columns]:
    """Attention into the state (heads together), or into heads and from there into the state."""
    at = np.asarray(weights.query_positions)
    into = _entry(weights)
    if not by_head:
        q, s = np.nonzero(weights.attention_summed[row])
        target = codes.of(into, layer, -1, at[q])
        weight = weights.attention_summed[row][q, s]
        return [_edges("attention", codes.state(layer, s), target, weight, layer=layer, query=at[q], key=s)]
    h, q, s = np.nonzero(weights.attention[row])
    head, weight = codes.of("head", layer, h, at[q]), weights.attention[row][h, q, s]
    reading = _edges("attention", codes.state(layer, s), head, weight, layer=layer, head=h, query=at[q], key=s)
    h, q = np.nonzero(weights.head[row])
    head, target = codes.of("head", layer, h, at[q]), codes.of(into, layer, -1, at[q])
    writing = _edges("head", head, target, weights.head[row][h, q], layer=layer, head=h, query=at[q], key=at[q])
    return [reading, writing]


def _edges_from_no_state(weights: EdgeWeights, codes: Codes, row: int, layer: int, by_head: bool) -> list[Columns]:
    """Edges of sinks and mixers, which enter what attention enters."""
    at, into, pieces = np.asarray(weights.query_positions), _entry(weights), []
    if weights.sink is not None and weights.sink_summed is not None:
        if by_head:
            h, q = np.nonzero(weights.sink[row])
            target, weight = codes.of("head", layer, h, at[q]), weights.sink[row][h, q]
        else:
            (q,) = np.nonzero(weights.sink_summed[row])
            h, target, weight = np.full(len(q), -1), codes.of(into, layer, -1, at[q]), weights.sink_summed[row][q]
        source = codes.of("sink", layer, -1, at[q])
        pieces.append(_edges("sink", source, target, weight, layer=layer, head=h, query=at[q], key=at[q]))
    if weights.mixer is not None:
        (q,) = np.nonzero(weights.mixer[row])
        source, target = (codes.of(kind, layer, -1, at[q]) for kind in ("mixer", into))
        pieces.append(_edges("mixer", source, target, weights.mixer[row][q], layer=layer, query=at[q], key=at[q]))
    return pieces


def expert_edges(weights: EdgeWeights, codes: Codes, row: int, layer: int, queries: Any) -> Columns:
    """Edges through the experts of a layer at some of its queries: state@t → expert@t, where the method has a number, and expert@t → MLP@t."""
    assert weights.expert_index is not None
    assert weights.expert is not None
    at, queries = np.asarray(weights.query_positions), np.asarray(queries, dtype=np.int64)
    n, choice = np.nonzero(weights.expert_index[row][queries] >= 0)
    q = queries[n]
    expert = codes.of("expert", layer, weights.expert_index[row][q, choice], at[q])
    weight = weights.expert[row][q, choice]
    if weights.shared_expert is not None:
        shared = queries[weights.shared_expert[row][queries] != 0]
        q = np.concatenate([q, shared])
        expert = np.concatenate([expert, codes.of("shared_expert", layer, -1, at[shared])])
        weight = np.concatenate([weight, weights.shared_expert[row][shared]])
    place: dict[str, Any] = {"layer": layer, "query": at[q], "key": at[q]}
    pieces = []
    if weights.mlp_in is not None:
        state = codes.state(layer, at[q]) if weights.parallel else codes.of(_entry(weights), layer, -1, at[q])
        pieces.append(_edges("mlp_in", state, expert, weights.mlp_in[row][q], **place))
    pieces.append(_edges("expert", expert, codes.of("mlp", layer, -1, at[q]), weight, **place))
    return joined(pieces)


def has_experts(weights: EdgeWeights, row: int, queries: Any) -> np.ndarray:
    """Whether experts of the row's MLP are told apart, for some of its queries."""
    if weights.expert_index is None:
        return np.zeros(len(queries), bool)
    found: np.ndarray = (weights.expert_index[row][queries] >= 0).any(-1)
    return found


def _residual_and_mlp_edges(weights: EdgeWeights, codes: Codes, row: int, layer: int, by_head: bool) -> list[Columns]:
    assert weights.residual is not None
    entered, followed = np.flatnonzero(weights.enters[row]), np.flatnonzero(weights.follows[row])
    at = np.asarray(weights.query_positions)[entered]
    place: dict[str, Any] = {"layer": layer, "query": at, "key": at}
    before, entry = codes.state(layer, at), codes.of(_entry(weights), layer, -1, at)
    pieces = [_edges("residual", before, entry, weights.residual[row][entered], **place)]
    if not len(followed):
        return pieces
    at = np.asarray(weights.query_positions)[followed]
    place = {"layer": layer, "query": at, "key": at}
    after, mlp = codes.after(layer, at), codes.of("mlp", layer, -1, at)
    mlp_source = codes.state(layer, at) if weights.parallel else codes.of(_entry(weights), layer, -1, at)
    if weights.mlp is None or weights.mlp_in is None:
        pieces.append(_edges("mlp_in", mlp_source, mlp, 0.0, structural=True, **place))
        pieces.append(_edges("mlp", mlp, after, 0.0, structural=True, **place))
    else:
        apart = has_experts(weights, row, followed) if by_head else np.zeros(len(followed), bool)
        whole = followed[~apart]
        whole_at = np.asarray(weights.query_positions)[whole]
        pieces.append(
            _edges(
                "mlp_in", mlp_source[~apart], mlp[~apart], weights.mlp_in[row][whole],
                layer=layer, query=whole_at, key=whole_at,
            )
        )  # fmt: skip
        if apart.any():
            pieces.append(expert_edges(weights, codes, row, layer, followed[apart]))
        pieces.append(_edges("mlp", mlp, after, weights.mlp[row][followed], **place))
    if not weights.parallel:
        assert weights.residual_mlp is not None
        pieces.append(_edges("residual", mlp_source, after, weights.residual_mlp[row][followed], **place))
    return pieces


def _entry(weights: EdgeWeights) -> str:
    """Kind of state that attention enters."""
    return "resid_post" if weights.parallel else "resid_mid"


def _logit_part(weights: EdgeWeights, heads_in: Collection[int]) -> Columns:
    """All edges of methods whose edges end in the logit; they share one target."""
    codes = Codes(weights)
    at = weights.query_positions[0]
    logit = codes.of("logit")
    pieces = []
    for row, layer in enumerate(weights.rows):
        place: dict[str, Any] = {"layer": layer, "query": at}
        if layer not in heads_in:
            s = np.flatnonzero(weights.attention_summed[row, 0])
            w = weights.attention_summed[row, 0, s]
            pieces.append(_edges("attention", codes.state(layer, s), logit, w, key=s, **place))
        else:
            h, s = np.nonzero(weights.attention[row, :, 0])
            head, w = codes.of("head", layer, h, at), weights.attention[row, h, 0, s]
            pieces.append(_edges("attention", codes.state(layer, s), head, w, head=h, key=s, **place))
            # A layer that does not attend has no heads to show.
            attends = weights.attention[row].any() or weights.head[row].any()
            h = np.arange(weights.head.shape[1] if attends else 0)
            head = codes.of("head", layer, h, at)
            pieces.append(_edges("head", head, logit, weights.head[row, h, 0], head=h, key=at, **place))
        assert weights.mlp is not None
        if layer in heads_in and has_experts(weights, row, [0]).any():
            pieces.append(expert_edges(weights, codes, row, layer, [0]))
        if weights.follows[row].any():
            pieces.append(_edges("mlp", codes.of("mlp", layer, -1, at), logit, weights.mlp[row], key=at, **place))
        if weights.mixer is not None and weights.mixer[row, 0]:
            pieces.append(_edges("mixer", codes.of("mixer", layer, -1, at), logit, weights.mixer[row], key=at, **place))
    return with_shares(joined([*pieces, *_further_parts(weights, codes, logit, at)]))


def _further_parts(weights: EdgeWeights, codes: Codes, logit: Any, at: int) -> list[Columns]:
    """Embedding, position embedding and biases, unless a window leaves them out."""
    first, stop = weights.rows.start, weights.rows.stop
    pieces = []
    for kind, weight in (("embed", weights.embedding), ("position_embed", weights.position_embedding)):
        if weight is not None and first == 0:
            pieces.append(_edges("embed", codes.of(kind, -1, -1, at), logit, weight, query=at, key=at))
    for name, weight in weights.biases.items():
        layer_name, dot, kind = name.partition(".")
        layer = int(layer_name[1:]) if dot else -1
        if not dot or first <= layer < stop:
            source = codes.of(kind if dot else name, layer)
            pieces.append(_edges("bias", source, logit, weight, layer=layer, query=at))
    return pieces
