"""Sums over the edges into each target of dense weights, computed once and kept with the weights.

A share is weight / Σ|weight| into the same target. The sums run in the order in which a graph lists its edges, so the shares are
those of the graph digit for digit.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import numpy as np
from jaxtyping import Float

from ..methods.schema import Columns, edge_parts
from ..values.edge_weights import EdgeWeights
from ..values.node import Node

KINDS = ("attention", "head", "sink", "mixer", "residual", "mlp_in", "mlp", "residual", "unembed")
"""Kinds of the edges of one layer, in the order of the graph; the second ``residual`` runs past the MLP."""
ATTENTION, HEAD, SINK, MIXER, RESIDUAL, MLP_IN, MLP, PAST_MLP, UNEMBED = range(len(KINDS))


@dataclass(frozen=True, eq=False)
class Table:
    """All edges into some targets: a row per target, a column per source.

    Attributes
    ----------
    weight
        [*target, source] weights.
    whole
        [*target] Σ|weight| into the target, the denominator of a share.
    kinds
        Kinds of the last columns. These are edges whatever their weight; columns before them are edges where they have weight.
    """

    weight: Float[np.ndarray, "*target source"]
    whole: Float[np.ndarray, "*target"]
    kinds: tuple[int, ...]

    @property
    def share(self) -> Float[np.ndarray, "*target source"]:
        """Signed parts of the whole; 0 where nothing has weight."""
        found: np.ndarray = self.weight / np.where(self.whole > 0, self.whole, 1.0)[..., None]
        return found


@dataclass(frozen=True, eq=False)
class Incoming:
    """The part of the routes that depends on neither threshold nor start.

    Attributes
    ----------
    edges, targets
        Number of edges that have a number, and of targets that have weight.
    into_logit
        All edges of a method whose edges end in the logit; such a method has none of the fields below.
    entry, head
        [layer, query_pos], [layer, head, query_pos] sums into the state that attention enters, and into heads at head level.
    small
        The edges into resid_post in sequential blocks, and those into MLPs that have a number; of all rows, those of positions that
        another stack's step leaves alone among them.
    nodes
        Nodes made so far, by their code: to make them again would take longer than everything else.
    """

    edges: int
    targets: int
    into_logit: Columns | None = None
    entry: Float[np.ndarray, "layer query_pos"] | None = None
    head: Float[np.ndarray, "layer head query_pos"] | None = None
    small: tuple[Table, ...] = ()
    nodes: dict[int, Node] = field(default_factory=dict)


# Weights are compared by identity and do not change, so they are the key; weak, so that the sums go when the weights
# go.
_KNOWN: WeakKeyDictionary[EdgeWeights, dict[str, Incoming]] = WeakKeyDictionary()


def incoming(weights: EdgeWeights, level: str) -> Incoming:
    """The edges into the targets of these weights at a level; computed at the first call, and kept as long as the weights are."""
    known = _KNOWN.setdefault(weights, {})
    if level not in known:
        known[level] = _of_logit(weights, level) if weights.ends_in_logit else _of_states(weights, level == "head")
    return known[level]


def besides_attention(weights: EdgeWeights) -> dict[int, np.ndarray]:
    """[layer, query_pos] weights into the same state as attention, by kind."""
    assert weights.residual is not None
    return {RESIDUAL: weights.residual} | (_from_mlp(weights) if weights.parallel else {})


def from_no_state(weights: EdgeWeights, by_head: bool) -> dict[int, np.ndarray]:
    """[layer, query_pos] weights into the same state as attention that come from no state, by kind; sinks of heads enter the heads."""
    sinks = {} if by_head or weights.sink_summed is None else {SINK: weights.sink_summed}
    return sinks | ({} if weights.mixer is None else {MIXER: weights.mixer})


def _of_logit(weights: EdgeWeights, level: str) -> Incoming:
    (part,) = edge_parts(weights, level)
    weighted = part["target"][part["share"] != 0]
    return Incoming(edges=len(part["target"]), targets=len(np.unique(weighted)), into_logit=part)


def _of_states(weights: EdgeWeights, by_head: bool) -> Incoming:
    into_entry = weights.head.swapaxes(1, 2) if by_head else weights.attention_summed
    besides = besides_attention(weights)
    entry = np.stack([_sum(row) for row in into_entry])
    apart = from_no_state(weights, by_head)
    for part in (*apart.values(), *besides.values(), weights.rest):
        entry = entry if part is None else entry + np.abs(part)
    head = np.stack([[_sum(one) for one in row] for row in weights.attention]) if by_head else None
    if head is not None and weights.sink is not None:
        head = head + np.abs(weights.sink)
    small = _small_tables(weights)
    sparse = [into_entry, *([weights.attention] if by_head else []), *apart.values()]
    sparse += [weights.sink] if by_head and weights.sink is not None else []
    enters, follows = weights.enters, weights.follows
    full = [part[enters] for part in besides.values()] + [table.weight[follows] for table in small]
    wholes = [entry[enters], *(table.whole[follows] for table in small)] + ([] if head is None else [head])
    targets = int(sum(map(np.count_nonzero, wholes))) + bool(weights.unembed)
    if by_head and weights.expert_index is not None and weights.mlp_in is not None:
        # Each expert is a target besides.
        parts = (weights.expert_index >= 0).sum(-1)
        parts += 0 if weights.shared_expert is None else (weights.shared_expert != 0) & (parts > 0)
        targets += int(parts[weights.mlp_in != 0].sum())
    return Incoming(
        edges=int(sum(map(np.count_nonzero, sparse)) + sum(part.size for part in full)) + (weights.unembed is not None),
        targets=targets,
        entry=entry,
        head=head,
        small=small,
    )


def _small_tables(weights: EdgeWeights) -> tuple[Table, ...]:
    tables = []
    if not weights.parallel:
        assert weights.residual_mlp is not None
        tables.append(_from_mlp(weights) | {PAST_MLP: weights.residual_mlp})
    if _from_mlp(weights):
        assert weights.mlp_in is not None
        tables.append({MLP_IN: weights.mlp_in})
    stacked = [(np.stack([*table.values()], axis=-1).astype(np.float64), tuple(table)) for table in tables]
    return tuple(Table(weight, _sum(weight), kinds) for weight, kinds in stacked)


def _from_mlp(weights: EdgeWeights) -> dict[int, np.ndarray]:
    """[layer, query_pos] weights of MLPs, if the method gives them a number."""
    return {} if weights.mlp is None or weights.mlp_in is None else {MLP: weights.mlp}


def _sum(weight: Float[np.ndarray, "*target source"]) -> Float[np.ndarray, "*target"]:
    """Σ|weight| per target, one source after the other."""
    # np.sum adds in pairs; cumsum adds from left to right, as the graph does.
    found: np.ndarray = np.cumsum(np.abs(weight), axis=-1, dtype=np.float64)[..., -1]
    return found
