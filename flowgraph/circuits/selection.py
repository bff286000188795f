"""Circuits of a given size out of scores of edges: the best edges by an order, and those of them that lie on a path to the answer.

An edge does nothing in a circuit if its source is not reached from the embeddings, or its target leads to no logits. Such edges are
taken away, or a circuit without them is chosen: from the logits down (greedy), or the best one of all by an integer program.
"""

from __future__ import annotations

import importlib.util
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Bool, Float

from ..errors import ArgumentError
from ..interventions.edges import place_of_edge, whole_network
from ..interventions.network import Network
from ..interventions.plan import circuit_edges
from ..models import load_model
from ..values.arguments import takes
from ..values.flow_graph import FlowGraph

Order = Literal["absolute", "signed", "ratio"]
Connect = Literal["prune", "greedy", "program", "none"]
_ROUNDS = 60
"""Rounds of the integer program, each with the constraints that the last choice broke."""


class Paths:
    """Which edges of a model lie on paths from its embeddings to its logits.

    Attributes
    ----------
    possible
        [sender, receiver] where there is an edge.
    feeds
        [receiver, sender] whether what a receiver reads changes what a sender writes.
    """

    def __init__(self, network: Network) -> None:
        self.possible: Bool[np.ndarray, "sender receiver"] = network.possible.numpy()
        senders, receivers = self.possible.shape
        self.feeds: Bool[np.ndarray, "receiver sender"] = np.zeros((receivers, senders), dtype=bool)
        for reader in network.readers:
            for n, receiver in enumerate(range(reader.columns.start, reader.columns.stop)):
                self.feeds[receiver, [reader.owner.start + sender for sender in reader.writers(n)]] = True
        self.is_root = np.array([node.kind == "embed" for node in network.senders])
        self.is_end = np.array([into == "logits" for _, into in network.receivers])

    def alive(self, kept: Bool[np.ndarray, "sender receiver"]) -> Bool[np.ndarray, "sender receiver"]:
        """The kept edges that lie on a path of kept edges from an embedding to the logits."""
        while True:
            alive: np.ndarray = kept & self.reached(kept)[:, None] & self.leading(kept)[None]
            if (alive == kept).all():
                return alive
            kept = alive

    def reached(self, kept: Bool[np.ndarray, "sender receiver"]) -> Bool[np.ndarray, "sender"]:
        """Senders that read something by a kept edge; embeddings always write."""
        found: np.ndarray = self.is_root | self.feeds[kept.any(0)].any(0)
        return found

    def leading(self, kept: Bool[np.ndarray, "sender receiver"]) -> Bool[np.ndarray, "receiver"]:
        """Receivers whose senders are read by a kept edge; the logits always are."""
        found: np.ndarray = self.is_end | self.feeds[:, kept.any(1)].any(1)
        return found


def scores_of(network: Network, graph: FlowGraph) -> Float[np.ndarray, "sender receiver"]:
    """The weights of a circuit's edges; 0 for edges that it does not have.

    Raises
    ------
    ArgumentError
        If the graph is empty or no circuit.
    """
    edges = circuit_edges(graph) if len(graph) else None
    if edges is None:
        raise ArgumentError(
            f"the graph of method {graph.info.method!r} has {len(graph)} edges and is no circuit to choose edges of; give what "
            "flowgraph.discover found"
        )
    scores = np.zeros(tuple(network.possible.shape))
    for edge, weight in zip(edges, graph.weight.tolist(), strict=True):
        scores[place_of_edge(network, edge)] = weight
    return scores


def chosen(
    paths: Paths,
    scores: Float[np.ndarray, "sender receiver"],
    count: int,
    *,
    order: Order,
    connect: Connect,
    ratio: float,
    among: Bool[np.ndarray, "sender receiver"] | None = None,
) -> Bool[np.ndarray, "sender receiver"]:
    """The edges of a circuit of at most ``count`` edges; ``among`` are those that may be chosen."""
    among = paths.possible if among is None else among
    count = min(count, int(among.sum()))
    if not count:
        return np.zeros_like(among)
    if connect == "program":
        return _program(paths, scores, count, order=order, ratio=ratio, among=among)
    if connect == "greedy":
        return _greedy(paths, scores if order == "signed" else np.abs(scores), count, among)
    best = _best(scores, count, order, ratio, among)
    return paths.alive(best) if connect == "prune" else best


def _best(
    scores: np.ndarray, count: int, order: Order, ratio: float, among: np.ndarray
) -> Bool[np.ndarray, "sender receiver"]:
    """The first edges of an order."""
    found = np.zeros_like(among)
    if order == "ratio":
        first = min(round(ratio * count), int((among & (scores > 0)).sum()))
        found.flat[_first(scores, first, among)] = True
    by = scores if order == "signed" else np.abs(scores)
    found.flat[_first(by, count - int(found.sum()), among & ~found)] = True
    return found


def _first(by: np.ndarray, count: int, among: np.ndarray) -> np.ndarray:
    """Places of the largest values, of equal ones the first in the order of computation."""
    return np.argsort(-np.where(among, by, -np.inf), axis=None, kind="stable")[:count]


def _greedy(paths: Paths, values: np.ndarray, count: int, among: np.ndarray) -> Bool[np.ndarray, "sender receiver"]:
    """From the logits up, again and again the best edge whose target leads to the logits; then what is reached."""
    found = np.zeros_like(among)
    open_: np.ndarray = np.where(among & paths.is_end[None], values, -np.inf)
    leading = paths.is_end.copy()
    for _ in range(count):
        place = np.unravel_index(int(open_.argmax()), open_.shape)
        if open_[place] == -np.inf:
            break
        found[place], open_[place] = True, -np.inf
        fresh = paths.feeds[:, place[0]] & ~leading
        leading |= fresh
        open_[:, fresh] = np.where(among[:, fresh], values[:, fresh], -np.inf)
    return paths.alive(found)


def has_program() -> bool:
    """Whether scipy is there, whose HiGHS solves the integer program."""
    return importlib.util.find_spec("scipy") is not None


def _program(
    paths: Paths, scores: np.ndarray, count: int, *, order: Order, ratio: float, among: np.ndarray
) -> Bool[np.ndarray, "sender receiver"]:
    """The connected circuit of at most ``count`` edges with the largest sum of scores, or of |scores|.

    Constraints are those that a choice breaks, added until none is broken: the best choice under some of the constraints that breaks
    none is the best under all.
    """
    values = scores if order == "signed" else np.abs(scores)
    at_least = round(ratio * count) if order == "ratio" else 0
    at_least = min(at_least, int((among & (scores > 0)).sum()))
    senders: set[int] = set()
    receivers: set[int] = set()
    for _ in range(_ROUNDS):
        found = _solved(paths, values, count, senders, receivers, among, scores > 0 if at_least else None, at_least)
        dead = found & ~paths.alive(found)
        if not dead.any():
            return found
        # A dead edge has a source that nothing reaches, or a target that leads nowhere, or is behind or before one that has.
        unread = ~paths.reached(found) & found.any(1)
        unled = ~paths.leading(found) & found.any(0)
        senders |= set(np.flatnonzero(unread).tolist())
        receivers |= set(np.flatnonzero(unled).tolist())
    raise ArgumentError(
        f"no connected circuit of {count} edges came out of {_ROUNDS} rounds of the integer program; take connect='greedy'"
    )


def _solved(
    paths: Paths,
    values: np.ndarray,
    count: int,
    senders: set[int],
    receivers: set[int],
    among: np.ndarray,
    positive: np.ndarray | None,
    at_least: int,
) -> Bool[np.ndarray, "sender receiver"]:
    """The best choice in which these senders read something if they are read, and these receivers lead on if they read."""
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import coo_matrix

    bound = np.zeros_like(among)
    bound[list(senders)] = True
    bound[:, list(receivers)] = True
    for sender in senders:
        bound[:, paths.feeds[:, sender]] = True
    for receiver in receivers:
        bound[paths.feeds[receiver]] = True
    # Of edges in no constraint but their number only the best can be chosen.
    free = np.zeros_like(among)
    groups = [among & ~bound] if positive is None else [among & ~bound & positive, among & ~bound & ~positive]
    for group in groups:
        free.flat[_first(values, min(count, int(group.sum())), group)] = True
    places = np.argwhere((bound & among) | free)
    number = np.full(among.shape, -1)
    number[tuple(places.T)] = np.arange(len(places))
    # A variable for each node that is bound: each of its edges ≤ it ≤ Σ the edges that it needs.
    n_edges, entries, row = len(places), list[tuple[int, int, float]](), 0
    needs = [(number[sender], number[:, paths.feeds[:, sender]]) for sender in sorted(senders)]
    needs += [(number[:, receiver], number[paths.feeds[receiver]]) for receiver in sorted(receivers)]
    for n, (of_node, needed) in enumerate(needs, start=n_edges):
        for edge in of_node[of_node >= 0].tolist():
            entries += [(row, edge, 1.0), (row, n, -1.0)]
            row += 1
        entries += [(row, n, 1.0), *((row, edge, -1.0) for edge in needed[needed >= 0].tolist())]
        row += 1
    width = n_edges + len(needs)

    def of_edges(numbers: np.ndarray) -> np.ndarray:
        """A row of numbers of edges, with 0 for the other variables."""
        padded: np.ndarray = np.concatenate([numbers, np.zeros(len(needs))])[None]
        return padded

    constraints: list[Any] = [LinearConstraint(of_edges(np.ones(n_edges)), -np.inf, count)]
    if positive is not None:
        constraints.append(LinearConstraint(of_edges(positive[tuple(places.T)].astype(float)), at_least, np.inf))
    if entries:
        i, j, x = zip(*entries, strict=True)
        constraints.append(LinearConstraint(coo_matrix((x, (i, j)), shape=(row, width)).tocsr(), -np.inf, 0))
    solved = milp(
        -of_edges(values[tuple(places.T)])[0], integrality=of_edges(np.ones(n_edges))[0], bounds=Bounds(0, 1),
        constraints=constraints, options={"mip_rel_gap": 1e-6},
    )  # fmt: skip
    if solved.x is None:
        raise ArgumentError(f"HiGHS found no circuit of {count} edges: {solved.message}")
    found = np.zeros_like(among)
    found[tuple(places[solved.x[:n_edges] > 0.5].T)] = True
    return found


def check_selection(order: str, connect: str, ratio: float) -> None:
    """Refuse an order that is not known, or one that does not go with a way to connect."""
    if order not in get_args(Order):
        raise ArgumentError(f"order={order!r} must be one of {', '.join(get_args(Order))}")
    if connect not in get_args(Connect):
        raise ArgumentError(f"connect={connect!r} must be one of {', '.join(get_args(Connect))}")
    if not 0 <= ratio <= 1:
        raise ArgumentError(f"ratio={ratio} must be at least 0 and at most 1: it is a part of the edges")
    if order == "ratio" and connect == "greedy":
        raise ArgumentError("order='ratio' is not chosen greedily; take connect='prune' or connect='program'")
    if order == "ratio" and connect == "program" and not has_program():
        raise ArgumentError(
            "order='ratio' with connect='program' needs scipy: pip install 'transformer-flowgraph[circuits]'; or take connect='prune'"
        )


def as_possible(connect: Connect) -> Connect:
    """The way to connect, or the greedy one in place of the integer program where scipy is not there."""
    return "greedy" if connect == "program" and not has_program() else connect


@takes()
def select_edges(
    model: Any,
    graph: FlowGraph,
    count: int,
    *,
    order: Order = "absolute",
    connect: Connect = "prune",
    ratio: float = 0.5,
) -> FlowGraph:
    """A circuit of at most so many edges of a scored graph.

    Parameters
    ----------
    model
        The model that the graph was found in.
    graph
        A circuit whose weights are scores, such as :func:`flowgraph.discover` gives with ``threshold=0``.
    count
        Most edges.
    order
        ``"absolute"``: the largest |score| first. ``"signed"``: the largest score first, so that edges that work against the answer come
        last. ``"ratio"``: a part of the edges by their signed score, those above 0, and the rest by |score|.
    connect
        ``"prune"``: the first edges of the order, without those on no path from the embeddings to the logits. ``"greedy"``: from the
        logits up, again and again the best edge whose target leads to the logits. ``"program"``: the circuit of the largest sum of
        scores (of |scores| unless ``order="signed"``) in which every edge is on a path, by an integer program: about a minute for 141 of
        the 70,651 edges of SmolLM2-135M, longer for more; without scipy (extra ``circuits``) the greedy choice. ``"none"``: the first edges of the order.
    ratio
        The part of ``"ratio"``, with ``"program"`` at least.

    Returns
    -------
    FlowGraph
        The chosen edges; ``info.filters`` says ``select``, the choice that was made, and ``most_edges``, the count.

    Raises
    ------
    ArgumentError
        If an argument cannot be used, the graph is no circuit, or no edge is left.

    References
    ----------
    Hanna et al. (2024), "Have Faith in Faithfulness", for the greedy choice; Nikankin et al. (2025), "BlackboxNLP-2025 MIB Shared Task:
    Improving Circuit Faithfulness via Better Edge Selection", for the ratio and the integer program.

    Examples
    --------
    >>> other = "The capital of Peru is the city of"
    >>> scored = fg.discover(trace.model, clean=trace, corrupted=other, method="eap", threshold=0.0)
    >>> len(fg.select_edges(trace.model, scored, 100, connect="none")), len(fg.select_edges(trace.model, scored, 100)) < 100
    (100, True)
    """
    check_selection(order, connect, ratio)
    if count < 1:
        raise ArgumentError(f"count={count} must be at least 1")
    network = whole_network(load_model(model).anatomy)
    edges = circuit_edges(graph)
    scores = scores_of(network, graph)
    assert edges is not None  # scores_of refuses such a graph
    places = [place_of_edge(network, edge) for edge in edges]
    among = np.zeros(tuple(network.possible.shape), dtype=bool)
    among[tuple(np.array(places).T)] = True
    way = as_possible(connect)
    kept = chosen(Paths(network), scores, count, order=order, connect=way, ratio=ratio, among=among)
    if not kept.any():
        raise ArgumentError(
            f"none of the {count} edges that order={order!r} takes of {len(graph):,} lies on a path from the embeddings to the logits; "
            "raise count, or take connect='greedy'"
        )
    said = f"{order}, {way}" + (f", ratio {ratio:g}" if order == "ratio" else "")
    said += "; scipy is not installed, so no integer program" if way != connect else ""
    return graph.keep(np.array([kept[place] for place in places]), select=said, most_edges=count)
