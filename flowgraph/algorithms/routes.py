"""Information flow routes: the nodes that one node reaches, against the arrows, over the strong edges of dense weights.

A walk goes down the layers with the set of reached states, heads and MLPs, and looks only at the edges into these. Another
threshold or another start therefore costs milliseconds, and no weight is computed again. Until the graph is made an edge is one
integer, its place in the order of the graph: layer, kind, head, query position, key position.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from ..errors import ArgumentError, GraphTooLargeError
from ..methods.build import MAX_EDGES, MOST_LISTED, check_filters, taken, warn_of_mass
from ..methods.origin import called
from ..methods.schema import Codes, Columns, expert_edges, has_experts, in_stacks, joined, no_edges, with_shares
from ..methods.thresholds import ThresholdRule, by_rule
from ..methods.whole import start_of, whole_flow
from ..values.arguments import takes
from ..values.edge_weights import EdgeWeights
from ..values.flow_graph import EDGE_KINDS, FlowGraph
from ..values.graph_info import GraphInfo
from ..values.node import Node, label
from ..values.nucleus import nucleus_mask
from ..values.strongest import keep_strongest
from .incoming import (
    ATTENTION,
    HEAD,
    KINDS,
    MLP,
    MLP_IN,
    PAST_MLP,
    SINK,
    UNEMBED,
    Incoming,
    Table,
    besides_attention,
    from_no_state,
    incoming,
)

SMALLEST_SHARE, LARGEST_SHARE = 0.01, 0.04
"""Between these a threshold of routes is chosen."""
MOST_ROUTES = 1_000
"""Edges of a picture that is there at once."""


@takes(EdgeWeights)
def routes(
    weights: EdgeWeights,
    start: Node | None = None,
    *,
    threshold: float | None = None,
    nucleus: float | None = None,
    mass: float | None = None,
    threshold_rule: ThresholdRule = "edge",
    level: Literal["token", "head"] = "token",
    max_edges: int = MAX_EDGES,
) -> FlowGraph:
    """Follow the strong edges from one node against the arrows.

    These are the edges, with their numbers, that :func:`flowgraph.build_graph` keeps at this threshold or nucleus, without
    those whose target does not lead to the start over kept edges.

    Parameters
    ----------
    weights
        Dense weights from :func:`flowgraph.edge_weights`.
    start
        The logit, a state, an MLP or, at head level, a head. None: the logit, or where there is none the last residual
        state of ``info.position``. A node that nothing enters has no routes.
    threshold
        Keep edges with |share| at or above this.
    nucleus
        For each reached node keep the fewest incoming edges whose Σ|share| reaches this part of the node's total, 0 < nucleus ≤ 1.
        With a threshold, the total is that of the edges that pass the threshold.
    mass
        Of the edges that are left, keep the strongest that are connected to the start, until they hold this part of the method's
        whole flow into it, 0 < mass ≤ 1, as :func:`flowgraph.keep_strongest` does. In earlier releases ``mass`` had the meaning of
        ``nucleus``; a FutureWarning says so for one release.
    threshold_rule
        What the threshold is compared with, as for :func:`flowgraph.build_graph`.
    level
        ``"token"``: heads taken together. ``"head"``: a node for every head.
    max_edges
        Refuse a larger graph, naming its size.

    Returns
    -------
    The graph of the kept edges and the nodes they touch; empty if nothing strong enough enters the start. Edges that have
    no number under the method are never in it. ``info.total_edges`` and ``info.total_share`` are those of the whole weights;
    ``info.filters`` holds the given filters and ``start``, the label of the start. ``kept_mass`` is a part of the method's whole
    flow into the start.

    Raises
    ------
    ArgumentError
        If none of threshold, nucleus and mass is given, one is out of its range, or the weights have no such node.
    GraphTooLargeError
        If more than ``max_edges`` edges remain.

    References
    ----------
    Ferrando & Voita (2024), "Information Flow Routes: Automatically Interpreting Language Models at Scale". There routes
    start at a last residual state and follow edges above a threshold; other starts, a nucleus and a mass are additions.

    Examples
    --------
    >>> weights = fg.edge_weights(trace, method="proximity")
    >>> graph = fg.routes(weights, threshold=0.1)
    >>> int(graph.layer[graph.key_pos == 3].max())  # the last layer in which " Japan" is read
    23
    """
    if threshold is None and nucleus is None and mass is None:
        raise ArgumentError(
            "threshold=None, nucleus=None and mass=None: routes need threshold=, the smallest |share| to follow, nucleus=, the "
            "part of each node's total to follow, or mass=, the part of the whole flow to keep"
        )
    check_filters(level, threshold or 0.0, nucleus, top_k=None, max_edges=max_edges, mass=mass)
    if mass is not None:
        warn_of_mass()
    if level == "head" and not weights.attention.shape[1]:
        raise ArgumentError(
            f"level='head', but the method ({weights.info.method_text}) takes heads together; use level='token'"
        )
    filters: dict[str, float | int | str] = {} if threshold is None else {"threshold": threshold}
    given = weights
    if threshold_rule != "edge":
        # The rule turns weights and threshold into weights of which every nonzero one passes.
        weights, threshold = by_rule(weights, threshold or 0.0, threshold_rule), 0.0
        filters["threshold_rule"] = threshold_rule
    start = start_of(weights, start, level)
    known = incoming(weights, level)
    # With a mass, what is too large is known only after it was cut.
    most = max_edges if mass is None else max(max_edges, MOST_LISTED)
    columns = _followed(weights, known, start, _Strength(threshold or 0.0, nucleus), level, most)
    filters |= {} if nucleus is None else {"nucleus": nucleus}
    filters["start"] = label(start)
    whole = whole_flow(given, level, start)
    info = replace(
        weights.info, level=level, total_edges=whole.edges, total_share=float(known.targets), filters=filters,
        flow_into=label(start), total_flow=whole.total,
        provenance={
            **weights.info.provenance,
            "made_by": called(
                "routes", method=weights.info.method, **(dict(weights.info.options) | {
                    "start": label(start), "threshold": filters.get("threshold"), "nucleus": nucleus, "mass": mass,
                    "threshold_rule": None if threshold_rule == "edge" else threshold_rule, "level": level,
                }),
            ),
        },
    )  # fmt: skip
    graph = _assembled(columns | {"flow": whole.flow_of(columns)}, weights, known.nodes, info)
    if mass is None:
        return graph
    graph = keep_strongest(graph, mass=mass, max_edges=None)
    _refuse_above(max_edges, len(graph))
    return graph


def _followed(
    weights: EdgeWeights, known: Incoming, start: Node, strength: _Strength, level: Literal["token", "head"], most: int
) -> dict[str, np.ndarray]:
    """Columns of the edges that are followed from the start; more than ``most`` are refused."""
    if known.into_logit is not None:
        columns = _into_logit(Codes(weights), known.into_logit, start, strength)
        _refuse_above(most, len(columns["share"]))
        return columns
    walk = _Walk(weights, known, strength, most)
    walk.follow(start)
    _refuse_above(most, walk.count)
    return _through_experts(walk.columns(), weights, strength) if level == "head" else walk.columns()


@takes(EdgeWeights)
def routes_threshold(
    weights: EdgeWeights,
    start: Node | None = None,
    *,
    level: Literal["token", "head"] = "token",
    most_edges: int = MOST_ROUTES,
    smallest: float = SMALLEST_SHARE,
    largest: float = LARGEST_SHARE,
    max_edges: int = MAX_EDGES,
) -> float:
    """Choose a threshold for routes: the smallest share, doubled until a picture holds what is left.

    Parameters
    ----------
    weights, start, level, max_edges
        As for :func:`routes`.
    most_edges
        So many edges a picture holds.
    smallest
        The threshold that is tried first, above 0.
    largest
        From here on the threshold is not doubled again, however many edges it leaves.

    Raises
    ------
    ArgumentError
        If a share is not between 0 and 1, or ``most_edges`` is below 1; else as for :func:`routes`.
    GraphTooLargeError
        If the routes of the smallest share have more than ``max_edges`` edges.

    Examples
    --------
    >>> weights = fg.edge_weights(trace, method="proximity")
    >>> fg.routes_threshold(weights)  # 1,206 edges have a share of .01 on their way to the logit
    0.02
    >>> fg.routes_threshold(weights, most_edges=2_000)
    0.01
    """
    if not 0 < smallest <= largest <= 1:
        raise ArgumentError(f"smallest={smallest} and largest={largest} must be shares, 0 < smallest ≤ largest ≤ 1")
    if most_edges < 1:
        raise ArgumentError(f"most_edges={most_edges} must be at least 1")
    threshold = smallest
    while len(routes(weights, start, threshold=threshold, level=level, max_edges=max_edges)) > most_edges:
        if threshold >= largest:
            break
        threshold *= 2
    return threshold


def _refuse_above(max_edges: int, count: int) -> None:
    if count > max_edges:
        raise GraphTooLargeError(
            f"these routes have {count:,} edges, more than max_edges={max_edges:,}; set a larger threshold=, a smaller "
            "nucleus= or mass=, level='token', or raise max_edges="
        )


@dataclass(frozen=True)
class _Strength:
    """The threshold and the nucleus that were asked for."""

    threshold: float
    nucleus: float | None

    def of(self, table: Table) -> tuple[Bool[np.ndarray, "*target source"], Float[np.ndarray, "*target source"]]:
        """Which edges of a table are strong enough, and the shares of all."""
        share = table.share
        strong = np.abs(share) >= self.threshold
        # At threshold 0 every number passes. An attention entry of weight 0 is no edge; other kinds are edges whatever
        # their weight.
        if not self.threshold:
            free = share.shape[-1] - len(table.kinds)
            strong[..., :free] = table.weight[..., :free] != 0
        if self.nucleus is not None:
            place = np.nonzero(strong)
            target = np.ravel_multi_index(place[:-1], strong.shape[:-1])
            strong[place] = nucleus_mask(target, share[place], self.nucleus)
        return strong, share


def _into_logit(codes: Codes, part: Columns, start: Node, strength: _Strength) -> Columns:
    """Routes of a method whose edges end in the logit, or in a head that has an edge to the logit."""
    part = taken(part, np.abs(part["share"]) >= strength.threshold)
    if strength.nucleus is not None:
        part = taken(part, nucleus_mask(part["target"], part["share"], strength.nucleus))
    # Such a method has edges head → logit and source → head, so two steps reach all that there is.
    first = part["target"] == codes.code(start)
    return taken(part, first | np.isin(part["target"], part["source"][first]))


def _assembled(columns: Columns, weights: EdgeWeights, known: dict[int, Node], info: GraphInfo) -> FlowGraph:
    """The graph of these columns; ``known`` holds the nodes that were made before, and gains the new ones."""
    codes = Codes(weights)
    used, numbered = np.unique(np.concatenate([columns["source"], columns["target"]]), return_inverse=True)
    source, target = numbered.reshape(2, -1)
    nodes = tuple(known.get(code) or known.setdefault(code, codes.node(code)) for code in used.tolist())
    shown = set(nodes) if weights.undefined else ()
    undefined = tuple(node for node in weights.undefined if node in shown)
    columns = in_stacks(weights, columns) | {"source": source, "target": target}
    return FlowGraph(nodes=nodes, **columns, info=info, undefined=undefined)


def _through_experts(columns: Columns, weights: EdgeWeights, strength: _Strength) -> Columns:
    """The edges with those through experts in place of the one input of each MLP that has some."""
    into_mlp = np.flatnonzero(columns["kind"] == EDGE_KINDS.index("mlp_in"))
    if weights.expert_index is None or not len(into_mlp):
        return columns
    codes, first = Codes(weights), weights.rows.start
    number = {position: n for n, position in enumerate(weights.query_positions)}
    queries = np.array([number[position] for position in columns["query_pos"][into_mlp].tolist()])
    pieces, replaced = [], []
    for layer in np.unique(columns["layer"][into_mlp]).tolist():
        here = columns["layer"][into_mlp] == layer
        apart = has_experts(weights, layer - first, queries[here])
        replaced.append(into_mlp[here][apart])
        pieces.append(expert_edges(weights, codes, layer - first, layer, queries[here][apart]))
    if not sum(map(len, replaced)):
        return columns
    made = with_shares(joined(pieces))
    made = taken(made, np.abs(made["share"]) >= strength.threshold)
    if strength.nucleus is not None:
        made = taken(made, nucleus_mask(made["target"], made["share"], strength.nucleus))
    # What enters an expert that was cut leads nowhere.
    is_input = made["kind"] == EDGE_KINDS.index("mlp_in")
    made = taken(made, ~is_input | np.isin(made["target"], made["source"][~is_input]))
    stays = np.ones(len(columns["kind"]), bool)
    stays[np.concatenate(replaced)] = False
    found = joined([taken(columns, stays), made])
    place = np.where(found["layer"] < 0, weights.rows.stop, found["layer"])
    return taken(found, np.argsort(place, kind="stable"))


class _Walk:
    """Which targets are reached, block by block from the top, and which edges were kept on the way."""

    def __init__(self, weights: EdgeWeights, known: Incoming, strength: _Strength, max_edges: int) -> None:
        n, h, q, t = weights.attention.shape
        self.weights, self.known, self.strength, self.max_edges = weights, known, strength, max_edges
        self.at, self.by_head = np.asarray(weights.query_positions), known.head is not None
        # Positions of another stack pass a step by: they are reached through it, and no edge is kept.
        self.enters, self.follows = weights.enters, weights.follows
        self.sizes = (n, len(KINDS), max(h, 1), q, t)
        self.after, self.mlp, self.heads = np.zeros((n, q), bool), np.zeros((n, q), bool), np.zeros((n, h, q), bool)
        # In a parallel block attention writes into the state after the block: both names stand for one array.
        self.entry = self.after if weights.parallel else np.zeros((n, q), bool)
        self.strong = dict.fromkeys((MLP_IN, MLP, PAST_MLP), np.zeros((n, q), bool))
        for table in known.small:
            strong, _ = strength.of(table)
            self.strong |= {kind: strong[..., column] for column, kind in enumerate(table.kinds)}
        self.kept: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self.count = 0

    def follow(self, start: Node) -> None:
        """Go down from the start and keep the strong edges."""
        place, explained = Codes(self.weights).place(start), self.weights.explained
        top = len(self.after) - 1 if place.row is None else place.row
        if start.kind == "logit":
            weight = np.full((1, 1), self.weights.unembed, dtype=np.float64)
            edge = self._place(top, UNEMBED, source=explained)
            into = Table(weight, np.abs(weight[0]), (UNEMBED,))
            found, _ = self._keep(into, np.array([edge]), np.zeros(1, np.int64))
            self.after[top] = (self.at == explained) & bool(len(found))
        elif place.kind == "head":
            self.heads[top, start.head] = self.at == place.position
        else:
            # Nothing enters the lowest state.
            reached = {"resid_post": self.after, "resid_mid": self.entry, "mlp": self.mlp}.get(place.kind)
            if reached is not None:
                reached[top] = self.at == place.position
        for row in range(top, -1, -1):
            self._block(row)
        # By now all that is reached is known, so the small tables are read once for all layers instead of block by
        # block.
        places = self._place(np.arange(len(self.after))[:, None], query=np.arange(len(self.at)))
        for table in self.known.small:
            hit = (self.mlp if table.kinds == (MLP_IN,) else self.after) & self.follows
            into = Table(table.weight[hit], table.whole[hit], table.kinds)
            self._keep(into, places[hit], self._place(kind=np.array(table.kinds)))

    def _block(self, row: int) -> None:
        """Follow the strong edges from the reached nodes of a block to others of it, and to the states before it."""
        before = np.zeros(self.sizes[-1], bool)
        if not self.weights.parallel:
            # The MLP comes first: if it is reached, it reads the state in the middle of its block.
            self.mlp[row] |= self.after[row] & self.strong[MLP][row] & self.follows[row]
            self.entry[row] |= self.after[row] & (self.strong[PAST_MLP][row] | ~self.follows[row])
            self.entry[row] |= self.mlp[row] & self.strong[MLP_IN][row]
            before[self.at[self.entry[row] & ~self.enters[row]]] = True
        if self.entry[row].any():
            self._into_entry(row, before)
        if self.heads[row].any():
            h, q = np.nonzero(self.heads[row])
            assert self.known.head is not None
            weight, sources = self.weights.attention[row][h, q], np.arange(self.sizes[-1])
            if self.weights.sink is not None:
                weight = np.column_stack([weight, self.weights.sink[row][h, q]])
                sources = np.append(sources, self._place(kind=SINK) - self._place(kind=ATTENTION))
            table = Table(weight, self.known.head[row][h, q], ())
            _, s = self._keep(table, self._place(row, ATTENTION, h, q), sources)
            before[s[s < self.sizes[-1]]] = True
        # A parallel MLP reads the state before the block, as the heads do.
        if self.weights.parallel:
            before[self.at[self.mlp[row] & self.strong[MLP_IN][row]]] = True
        if row:
            self.after[row - 1] |= before[self.at]

    def _into_entry(self, row: int, before: Bool[np.ndarray, "T"]) -> None:
        """Keep the strong edges into the reached states that attention enters."""
        assert self.known.entry is not None
        q = np.flatnonzero(self.entry[row] & self.enters[row])
        attention = self.weights.head[row].T[q] if self.by_head else self.weights.attention_summed[row][q]
        besides, apart = besides_attention(self.weights), from_no_state(self.weights, self.by_head)
        weight = np.column_stack([attention, *(part[row][q] for part in (*apart.values(), *besides.values()))])
        free = np.arange(attention.shape[1])
        from_attention = self._place(kind=HEAD, head=free) if self.by_head else self._place(kind=ATTENTION, source=free)
        sources = np.concatenate([from_attention, self._place(kind=np.array([*apart, *besides]))])
        table = Table(weight, self.known.entry[row][q], tuple(besides))
        target, source = self._keep(table, self._place(row, query=q), sources)
        target, beside = q[target], source - len(free) - len(apart)
        before[self.at[target[beside == 0]]] = True
        self.mlp[row, target[beside == 1]] = True
        # Nothing enters a sink or a mixer.
        read = source < len(free)
        target, source = target[read], source[read]
        if self.by_head:
            self.heads[row, source, target] = True
        else:
            before[source] = True

    def _place(self, row: Any = 0, kind: Any = 0, head: Any = 0, query: Any = 0, source: Any = 0) -> Any:
        """The integer of an edge; that of a target and that of a source add up to it."""
        _, kinds, heads, queries, sources = self.sizes
        return (((row * kinds + kind) * heads + head) * queries + query) * sources + source

    def _keep(
        self, table: Table, target: Int[np.ndarray, "target"], source: Int[np.ndarray, "source"]
    ) -> tuple[Int[np.ndarray, "e"], Int[np.ndarray, "e"]]:
        """Keep the strong edges of a table with these places; returns row and column of each edge."""
        strong, share = self.strength.of(table)
        r, c = np.nonzero(strong)
        self.count += len(r)
        # A graph that is too large is counted and never held.
        if self.count <= self.max_edges:
            self.kept.append((target[r] + source[c], table.weight[r, c].astype(np.float64), share[r, c]))
        return r, c

    def columns(self) -> Columns:
        """The kept edges in the order of the graph."""
        if not self.kept:
            return no_edges()
        place, weight, share = (np.concatenate(part) for part in zip(*self.kept, strict=True))
        # Tables are sorted as they come, which makes the stable sort the fastest.
        order = np.argsort(place, kind="stable")
        row, kind, head, query, source = np.unravel_index(place[order], self.sizes)
        codes, parallel = Codes(self.weights), self.weights.parallel
        first, is_unembed = self.weights.rows.start, kind == UNEMBED
        layer = row + first
        at = np.where(is_unembed, self.weights.explained, self.at[query])
        key = np.where(kind == ATTENTION, source, at)
        head = np.where((kind == HEAD) | (np.isin(kind, (ATTENTION, SINK)) & self.by_head), head, -1)
        before, after = codes.states_at(row, key), codes.states_at(row + 1, at)
        mlp = codes.of("mlp", layer, -1, at)
        entry = after if parallel else codes.of("resid_mid", layer, -1, at)
        heads, logit = codes.of("head", layer, head, at), np.broadcast_to(codes.of("logit"), kind.shape)
        sink, mixer = (codes.of(name, layer, -1, at) for name in ("sink", "mixer"))
        read_into = heads if self.by_head else entry
        sources = [before, heads, sink, mixer, before, before if parallel else entry, mlp, entry, after]
        targets = [read_into, entry, read_into, entry, entry, mlp, after, after, logit]
        return {
            "source": np.choose(kind, sources),
            "target": np.choose(kind, targets),
            "kind": np.array([EDGE_KINDS.index(name) for name in KINDS])[kind],
            "layer": np.where(is_unembed, -1, layer),
            "head": head,
            "query_pos": at,
            "key_pos": np.where(is_unembed, -1, key),
            "weight": weight[order],
            "share": share[order],
            "structural": np.zeros(len(order), bool),
        }
