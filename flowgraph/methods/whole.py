"""The whole that a mass is a part of: the flow of every edge of dense weights into one node, without listing an edge.

A walk down the layers keeps what each state, MLP and head passes on to the start; the flow of an edge is then its |weight| times
what its target passes on per weight that enters it. So the whole is known however few edges a graph keeps, and however many there
are: the weights are dense, and no edge is made for it.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any
from weakref import WeakKeyDictionary, ref

import numpy as np
from jaxtyping import Float

from ..errors import ArgumentError
from ..values.edge_weights import EdgeWeights
from ..values.flow_graph import EDGE_KINDS
from ..values.joint import Joint
from ..values.node import NODE_KINDS, Node, label
from .schema import Codes, Columns, has_experts, opened, parts_of_rows

_ATTENTION, _HEAD, _RESIDUAL, _MLP_IN, _MLP, _UNEMBED, _SINK, _MIXER, _EXPERT = (
    EDGE_KINDS.index(kind)
    for kind in ("attention", "head", "residual", "mlp_in", "mlp", "unembed", "sink", "mixer", "expert")
)


_KEPT = 8
_KNOWN: WeakKeyDictionary[EdgeWeights, dict[tuple[frozenset[int], Node], WholeFlow]] = WeakKeyDictionary()


def whole_flow(
    weights: EdgeWeights, level: str, start: Node | None = None, *, heads_in: Collection[int] = ()
) -> WholeFlow:
    """The whole flow into a start, see :func:`start_of`; for the last few starts it is kept as long as the weights are."""
    start = start_of(weights, start, level, heads_in=heads_in)
    known = _KNOWN.setdefault(weights, {})
    key = frozenset(opened(weights, level, heads_in)), start
    found = known.pop(key, None)
    known[key] = WholeFlow(weights, key[0], start) if found is None else found
    if len(known) > _KEPT:
        del known[next(iter(known))]
    return known[key]


def start_of(weights: EdgeWeights, start: Node | None, level: str, *, heads_in: Collection[int] = ()) -> Node:
    """The start if the weights have such a node at this level; if none is given, the logit, or the last state of the position.

    At token level, heads of the layers ``heads_in`` are nodes too.

    Raises
    ------
    ArgumentError
        If there is no such node.
    """
    info, codes = weights.info, Codes(weights)
    has_logit = weights.ends_in_logit or weights.unembed is not None
    logit = codes.node(int(codes.of("logit"))) if has_logit else None
    if logit is not None and start in (None, logit):
        return logit
    if start is None:
        return codes.node(int(codes.after(weights.rows[-1], weights.explained)))
    if weights.joint is not None and _is_there(weights, weights.joint, start, level, heads_in):
        return start
    places = _places(weights, opened(weights, level, heads_in))
    fields = (start.layer, start.head, start.position, start.index)
    if weights.joint is None and all(
        one in allowed for one, allowed in zip(fields, places.get(start.kind, _NOWHERE), strict=True)
    ):
        return start
    first, stop = info.layers
    if start.kind in ("expert", "shared_expert") and weights.expert_index is not None:
        raise ArgumentError(
            f"start={label(start)} is an expert, which reads what its MLP reads: whatever reaches it reaches the MLP in the same shares. "
            f"Give the MLP, {label(Node('mlp', layer=start.layer, position=start.position))}"
        )
    kinds = [*places] if logit is None else [f"{label(logit)} (index={logit.index})", *places]
    raise ArgumentError(
        f"start={label(start)} is not a node of these weights at level={level!r}; expected {', '.join(kinds)} within layers "
        f"{first}…{stop - 1} and {len(info.tokens)} positions, or None for the logit or the last state"
    )


def _is_there(weights: EdgeWeights, joint: Joint, start: Node, level: str, heads_in: Collection[int]) -> bool:
    """Whether a node stands in the chain of several stacks."""
    if start.stack not in joint.positions or start.position is None or start.index is not None:
        return False
    where = joint.positions[start.stack]
    if start.position >= where.stop - where.start:
        return False
    if start.kind == "embed":
        return start.layer is None
    row = joint.row_of(start)
    if row is None or row not in range(len(joint.steps)):
        return False
    step = joint.steps[row]
    if start.kind in ("head", "cross_head"):
        by_head = row in opened(weights, level, heads_in)
        has_head = start.head is not None and start.head < weights.attention.shape[1]
        return by_head and has_head and (start.kind == "cross_head") == (step.part == "cross")
    if start.head is not None:
        return False
    return {
        "resid_mid": step.has_mlp,
        "resid_cross": not step.has_mlp,
        "resid_post": step.has_mlp,
        "mlp": step.has_mlp,
    }.get(start.kind, False)


_Places = tuple[Collection[int | None], Collection[int | None], Collection[int | None], Collection[int | None]]
_NOWHERE: _Places = ((), (), (), ())


def _places(weights: EdgeWeights, heads_in: Collection[int]) -> dict[str, _Places]:
    """Layers, heads, positions and indices of the nodes that routes may start at, besides the logit."""
    first, stop = weights.info.layers
    layers, everywhere, none = range(first, stop), range(len(weights.info.tokens)), (None,)
    lowest: dict[str, _Places] = (
        {"resid_pre": ((first,), none, everywhere, none)} if first else {"embed": (none, none, everywhere, none)}
    )
    middle: dict[str, _Places] = {} if weights.parallel else {"resid_mid": (layers, none, everywhere, none)}
    heads = range(weights.attention.shape[1])
    by_head: dict[str, _Places] = {"head": (heads_in, heads, weights.query_positions, none)} if heads_in else {}
    return {
        **lowest,
        **middle,
        "resid_post": (layers, none, everywhere, none),
        "mlp": (layers, none, weights.query_positions, none),
        **by_head,
    }


class WholeFlow:
    """Flow of every edge of some weights into a start.

    Attributes
    ----------
    start
        The node that everything flows into.
    total
        Sum of the flow over all edges.
    edges
        How many edges have a number.

    Parameters
    ----------
    weights
        Dense weights, as the method gives them.
    heads_in
        Rows that are laid out as their heads: all at head level, none or some at token level.
    start
        A node of these weights.
    """

    def __init__(self, weights: EdgeWeights, heads_in: frozenset[int], start: Node) -> None:
        # Kept beside the weights, and must not keep them alive.
        self._weights, self.heads_in, self.start = ref(weights), heads_in, start
        self.total, self.edges = 0.0, 0
        if weights.ends_in_logit:
            self._of_logit()
        else:
            self._of_states()

    @property
    def weights(self) -> EdgeWeights:
        """What it is the flow of."""
        found = self._weights()
        assert found is not None
        return found

    def flow_of(self, columns: Columns) -> Float[np.ndarray, "e"]:
        """Flow of some of the edges, 0 on structural ones."""
        if self.weights.ends_in_logit:
            into = np.searchsorted(self.targets, columns["target"])
            flow: np.ndarray = np.abs(columns["share"]) * self.passed[into]
            return flow
        return self._of_places(columns)

    def _of_logit(self) -> None:
        """Edges that end in the logit, or in heads that go on to it: one part, held anyway."""
        (part,) = parts_of_rows(self.weights, self.heads_in)
        start = Codes(self.weights).code(self.start)
        self.edges = len(part["share"])
        self.targets = np.unique(part["target"])
        share, is_first = np.abs(part["share"]), part["target"] == start
        # What a head passes on: its share of the start, or all if it is the start.
        sources, group = np.unique(part["source"][is_first], return_inverse=True)
        handed = np.bincount(group, weights=share[is_first], minlength=len(sources))
        self.passed = np.zeros(len(self.targets))
        known = np.isin(self.targets, sources)
        self.passed[known] = handed[np.searchsorted(sources, self.targets[known])]
        self.passed[self.targets == start] = 1.0
        self.total = float(self.flow_of(part).sum())

    def _of_states(self) -> None:
        w, start = self.weights, self.start
        n, h, q, t = w.attention.shape
        at = np.asarray(w.query_positions)
        place = Codes(w).place(start)
        top, kind, here = n - 1 if place.row is None else place.row, place.kind, at == place.position
        enters, follows = w.enters, w.follows
        state = np.zeros(t)
        has_mlp = w.mlp is not None and w.mlp_in is not None
        assert w.residual is not None
        # What a target passes on to the start, per |weight| that enters it; 0 where it is not reached.
        self.entry, self.after, self.into_mlp = np.zeros((n, q)), np.zeros((n, q)), np.zeros((n, q))
        self.into_head = np.zeros((n, h, q)) if self.heads_in else None
        self.from_experts = np.zeros((n, q))
        self.unembed = 0.0
        if start.kind == "logit":
            self.unembed = float(bool(w.unembed))
            state[w.explained] = self.unembed
            self.total += self.unembed
        for row in range(top, -1, -1):
            after, before = state[at], np.zeros(t)
            mlp, entry = np.zeros(q), np.zeros(q)
            if row == top and start.kind != "logit":
                after = here * 1.0 if kind == "resid_post" else np.zeros(q)
                mlp = here * 1.0 if kind == "mlp" else mlp
                entry = here * 1.0 if kind == "resid_mid" else entry
            written = np.abs(w.mlp[row]).astype(np.float64) if has_mlp and w.mlp is not None else np.zeros(q)
            if w.parallel:
                entry = entry + after
            else:
                assert w.residual_mlp is not None
                past = np.abs(w.residual_mlp[row]).astype(np.float64)
                self.after[row] = _per(after, written + past)
                mlp = mlp + written * self.after[row]
                entry = entry + past * self.after[row]
                # What a step of another stack leaves alone passes by on no edge.
                self.total += float(((written + past) * self.after[row])[follows[row]].sum())
            into, along = self._into_entry(row), np.abs(w.residual[row]).astype(np.float64)
            apart = self._from_no_state(row)
            whole = into.sum(-1) + along + (written if w.parallel else 0.0) + apart
            whole = whole + (0.0 if w.rest is None else w.rest[row])
            if w.parallel:
                self.entry[row] = _per(entry, whole)
                mlp = mlp + written * self.entry[row]
                self.total += float((written * self.entry[row]).sum())
            if has_mlp and w.mlp_in is not None:
                self.into_mlp[row] = np.where(w.mlp_in[row] != 0, mlp, 0.0)
                self._through_experts(row, mlp)
                self.total += float(self.into_mlp[row].sum())
                if w.parallel:
                    before[at] += self.into_mlp[row]
                else:
                    entry = entry + self.into_mlp[row]
            if not w.parallel:
                self.entry[row] = _per(entry, whole)
            before[at] += along * self.entry[row]
            self.total += float((along * self.entry[row])[enters[row]].sum()) + float(
                ((into.sum(-1) + apart) * self.entry[row]).sum()
            )
            if not self._is_opened(row):
                before += self.entry[row] @ into
            else:
                before += self._through_heads(row, into, top)
            state = before
        self.edges = self._count(has_mlp)

    def _is_opened(self, row: int) -> bool:
        return row + self.weights.rows.start in self.heads_in

    def _into_entry(self, row: int) -> Float[np.ndarray, "query_pos source"]:
        """|weight| of what attention brings into the state: by source, or of an opened layer by head."""
        w = self.weights
        found = w.head[row].swapaxes(0, 1) if self._is_opened(row) else w.attention_summed[row]
        size: np.ndarray = np.abs(found).astype(np.float64)
        return size

    def _from_no_state(self, row: int) -> Float[np.ndarray, "query_pos"]:
        """|weight| of mixers, and of sinks where they do not enter heads."""
        w = self.weights
        found = np.zeros(w.attention.shape[2])
        if w.mixer is not None:
            found += np.abs(w.mixer[row])
        if w.sink_summed is not None and not self._is_opened(row):
            found += np.abs(w.sink_summed[row])
        return found

    def _through_experts(self, row: int, mlp: Float[np.ndarray, "query_pos"]) -> None:
        """What an opened layer's MLP passes on, along the edges of its experts; none of it goes on where none has weight."""
        w = self.weights
        if not self._is_opened(row) or w.expert is None:
            return
        apart = has_experts(w, row, range(len(mlp)))
        whole = np.abs(w.expert[row]).sum(-1) + (0.0 if w.shared_expert is None else np.abs(w.shared_expert[row]))
        self.from_experts[row] = _per(np.where(apart, mlp, 0.0), whole)
        self.total += float((whole * self.from_experts[row]).sum())
        self.into_mlp[row] = np.where(apart & (whole <= 0), 0.0, self.into_mlp[row])

    def _through_heads(
        self, row: int, into: Float[np.ndarray, "query_pos head"], top: int
    ) -> Float[np.ndarray, "key_pos"]:
        assert self.into_head is not None
        passed = (into * self.entry[row][:, None]).T
        if row == top and self.start.kind in ("head", "cross_head"):
            at = np.asarray(self.weights.query_positions)
            passed[self.start.head] = at == Codes(self.weights).place(self.start).position
        size = np.abs(self.weights.attention[row]).astype(np.float64)
        sinks = self.weights.sink
        whole = size.sum(-1) if sinks is None else size.sum(-1) + np.abs(sinks[row])
        self.into_head[row] = _per(passed, whole)
        self.total += float((whole * self.into_head[row]).sum())
        found: np.ndarray = np.einsum("hq,hqk->k", self.into_head[row], size)
        return found

    def _count(self, has_mlp: bool) -> int:
        w = self.weights
        n = len(w.attention)
        of_row = [
            [w.attention[row], w.head[row]] if self._is_opened(row) else [w.attention_summed[row]] for row in range(n)
        ]
        if w.sink is not None and w.sink_summed is not None:
            of_row.append([w.sink[row] if self._is_opened(row) else w.sink_summed[row] for row in range(n)])
        of_row += [] if w.mixer is None else [[w.mixer]]
        beside = (2 if has_mlp else 0) + (not w.parallel)
        listed: int = (
            sum(int(np.count_nonzero(one)) for parts in of_row for one in parts)
            + int(w.enters.sum())
            + beside * int(w.follows.sum())
            + (w.unembed is not None)
            + (self._count_of_experts() if has_mlp else 0)
        )
        return listed

    def _count_of_experts(self) -> int:
        """How many edges more there are where an MLP's one input is one of each of its experts."""
        w = self.weights
        if w.expert_index is None:
            return 0
        rows = [row for row in range(len(w.attention)) if self._is_opened(row)]
        parts = (w.expert_index[rows] >= 0).sum(-1)
        parts += 0 if w.shared_expert is None else (w.shared_expert[rows] != 0) & (parts > 0)
        return int((2 * parts - 1)[parts > 0].sum())

    def _of_places(self, columns: Columns) -> Float[np.ndarray, "e"]:
        w = self.weights
        row = columns["layer"] - w.rows.start
        number = np.zeros(max(w.explained, *w.query_positions) + 1, dtype=np.int64)
        number[list(w.query_positions)] = np.arange(len(w.query_positions))
        query, head, key, kind = number[columns["query_pos"]], columns["head"], columns["key_pos"], columns["kind"]
        flow = np.zeros(len(kind))

        def add(mask: Any, weight: Any, passed: Any, *place: Any) -> None:
            if weight is not None and mask.any():
                at = tuple(p[mask] for p in place)
                flow[mask] = np.abs(weight[at]).astype(np.float64) * passed(*at)

        # Past the MLP, an edge ends in resid_post and does not stand for what attention is added to.
        past = (kind == _RESIDUAL) & (self._kind_of(columns["target"]) == "resid_post") & (not w.parallel)
        entry, after, into_head = self.entry, self.after, self.into_head
        together = (kind == _ATTENTION) & (head < 0)
        add(together, w.attention_summed, lambda r, q, _: entry[r, q], row, query, key)
        if into_head is not None:
            by_head = (kind == _ATTENTION) & (head >= 0)
            add(by_head, w.attention, lambda r, h, q, _: into_head[r, h, q], row, head, query, key)
            add(kind == _HEAD, w.head, lambda r, _, q: entry[r, q], row, head, query)
            add((kind == _SINK) & (head >= 0), w.sink, lambda r, h, q: into_head[r, h, q], row, head, query)
        add((kind == _SINK) & (head < 0), w.sink_summed, lambda r, q: entry[r, q], row, query)
        add(kind == _MIXER, w.mixer, lambda r, q: entry[r, q], row, query)
        add((kind == _RESIDUAL) & ~past, w.residual, lambda r, q: entry[r, q], row, query)
        add(past, w.residual_mlp, lambda r, q: after[r, q], row, query)
        add(kind == _MLP, w.mlp, lambda r, q: (entry if w.parallel else after)[r, q], row, query)
        into_mlp = (kind == _MLP_IN) & ~columns["structural"]
        flow[into_mlp] = self.into_mlp[row[into_mlp], query[into_mlp]]
        by_expert = kind == _EXPERT
        flow[by_expert] = np.abs(columns["weight"][by_expert]) * self.from_experts[row[by_expert], query[by_expert]]
        into_expert = into_mlp & (self._kind_of(columns["target"]) != "mlp")
        if into_expert.any():
            # An expert has one input, along which all that it passes on comes.
            place = row[into_expert], query[into_expert]
            flow[into_expert] = self._of_experts(columns["target"][into_expert], *place) * (self.into_mlp[place] > 0)
        flow[kind == _UNEMBED] = self.unembed
        flow[columns["structural"]] = 0.0
        return flow

    def _of_experts(self, codes: np.ndarray, row: np.ndarray, query: np.ndarray) -> Float[np.ndarray, "e"]:
        """What experts pass on, by their codes and places."""
        w, sizes = self.weights, Codes(self.weights).sizes
        assert w.expert is not None
        assert w.expert_index is not None
        number = codes // sizes[3] % sizes[2] - 1
        weight = (np.abs(w.expert[row, query]) * (w.expert_index[row, query] == number[:, None])).sum(-1)
        if w.shared_expert is not None:
            shared = self._kind_of(codes) == "shared_expert"
            weight = np.where(shared, np.abs(w.shared_expert[row, query]), weight)
        found: np.ndarray = weight * self.from_experts[row, query]
        return found

    def _kind_of(self, codes: np.ndarray) -> np.ndarray:
        sizes = Codes(self.weights).sizes
        kinds: np.ndarray = np.array(NODE_KINDS)[codes // (sizes[1] * sizes[2] * sizes[3])]
        return kinds


def _per(passed: Float[np.ndarray, "*n"], whole: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
    found: np.ndarray = np.divide(passed, whole, out=np.zeros_like(whole), where=whole > 0)
    return found
