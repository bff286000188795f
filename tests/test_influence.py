"""Influence and pruning, against matrix algebra and against the definitions written out edge by edge."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import flowgraph
from flowgraph import ArgumentError, FlowGraph, Node, build_graph, connected_flow
from flowgraph.algorithms.influence import _influence_and_scores, _strong_edges, _strong_nodes, influence, prune
from flowgraph.values.connected_flow import strength_of, topological_levels
from tests import naive
from tests.graphs import Edge, dags, graph_of, logits_graph, token_graph

# The shape checks that run in tests sample lists at random, also while hypothesis draws a graph.
pytestmark = pytest.mark.filterwarnings("ignore:Do not use the `random` module")

A, B, C, D, E = (Node("resid_post", layer=n, position=0) for n in range(5))
EMBED = Node("embed", position=0)
LOGIT = Node("logit", index=17, token=" Tokyo")
GRAPHS = {
    "token": token_graph(1),
    "parallel": token_graph(2, parallel=True),
    "head": token_graph(3, heads=2, layers=2),
    "structural": token_graph(4, structural_mlp=True),
    "logits": logits_graph(6),
}
MASSES = st.sampled_from([0.05, 0.3, 0.5, 0.8, 0.98, 1.0])


@st.composite
def graph_and_start(draw: st.DrawFn) -> tuple[FlowGraph, Node]:
    """A small graph, some of whose nodes are embeddings, and one of its nodes."""
    graph = draw(dags(max_nodes=7, max_edges=14))
    embedded = draw(st.sets(st.sampled_from(range(len(graph.nodes)))))
    nodes = tuple(
        Node("embed", position=node.layer) if n in embedded and node.layer is not None else node
        for n, node in enumerate(graph.nodes)
    )
    last = max(range(len(nodes)), key=lambda n: graph.nodes[n].layer or 0)
    return replace(graph, nodes=nodes), nodes[draw(st.just(last) | st.sampled_from(range(len(nodes))))]


def naive_matrix(graph: FlowGraph, edges: list[int]) -> np.ndarray:
    """[target, source] summed |share| of some edges, each row divided by its sum."""
    share = naive.strengths(graph)
    matrix = np.zeros((len(graph.nodes), len(graph.nodes)))
    for e in edges:
        matrix[graph.target[e], graph.source[e]] += share[e]
    for row in matrix:
        if row.sum() > 0:
            row /= row.sum()
    return matrix


def naive_influence(graph: FlowGraph, edges: list[int], start: Node) -> np.ndarray:
    """Row of the start in (I − Â)⁻¹."""
    matrix = naive_matrix(graph, edges)
    return np.linalg.inv(np.eye(len(matrix)) - matrix)[graph.nodes.index(start)]


def fewest(score: list[float], mass: float) -> set[int]:
    """Indices of the largest scores that reach the mass of their sum, taken one by one."""
    total, reached, taken = math.fsum(score), 0.0, set()
    for n in sorted(range(len(score)), key=lambda n: -score[n]):
        if score[n] <= 0 or (mass < 1 and reached >= mass * total * (1 - 1e-10)):
            break
        taken.add(n)
        reached += score[n]
    return taken


def is_close(score: list[float], mass: float) -> bool:
    """Whether rounding decides what is taken: a tie across the cut, or a sum that is the mass but for its last digits."""
    taken = fewest(score, mass)
    last = min((score[n] for n in taken), default=math.inf)
    tied = any(abs(score[n] - last) < 1e-9 for n in range(len(score)) if n not in taken)
    sums = np.cumsum(sorted(score, reverse=True)) / (math.fsum(score) or 1.0)
    return tied or (mass < 1 and bool((np.abs(sums - mass) < 1e-8).any()))


def naive_prune(graph: FlowGraph, node_mass: float, edge_mass: float, start: Node) -> tuple[list[int], bool]:
    """Edges that are kept, and whether rounding may decide otherwise."""
    everything = list(range(len(graph)))
    share, end = naive.strengths(graph), graph.nodes.index(start)
    found = [0.0 if n == end else float(x) for n, x in enumerate(naive_influence(graph, everything, start))]
    nodes = fewest(found, node_mass) | {end}
    nodes |= {n for n, node in enumerate(graph.nodes) if node.kind in ("embed", "position_embed", "resid_pre")}
    among = [e for e in everything if graph.source[e] in nodes and graph.target[e] in nodes]
    after = naive_influence(graph, among, start)
    into = [math.fsum(share[i] for i in among if graph.target[i] == graph.target[e]) for e in everything]
    scores = [share[e] / into[e] * float(after[graph.target[e]]) if e in among and into[e] else 0.0 for e in everything]
    edges = fewest(scores, edge_mass)
    entered = {int(graph.target[e]) for e in everything if share[e] > 0}
    inputs = [n for n in range(len(graph.nodes)) if n not in entered]
    kept = graph.keep(np.array(sorted(edges), dtype=np.int64))
    on_path: set[int] = set()
    for first in inputs:
        if graph.nodes[first] in kept.nodes and start in kept.nodes:
            paths = naive.paths_between(kept, kept.nodes.index(graph.nodes[first]), kept.nodes.index(start))
            on_path |= {sorted(edges)[e] for path in paths for e in path}
    return sorted(on_path), is_close(found, node_mass) or is_close(scores, edge_mass)


# influence


def test_influence_of_a_diamond_by_hand() -> None:
    graph = graph_of([Edge(A, B, 0.2), Edge(A, C, 0.1), Edge(B, D, 0.1), Edge(C, D, -0.3), Edge(A, B, 0.6)])
    assert dict(zip(graph.nodes, influence(graph, D).tolist(), strict=True)) == pytest.approx(
        {A: 1.0, B: 0.25, C: 0.75, D: 1.0}
    )
    assert dict(zip(graph.nodes, influence(graph, B).tolist(), strict=True)) == pytest.approx(
        {A: 1.0, B: 1.0, C: 0.0, D: 0.0}
    )


@given(graph_and_start())
def test_influence_is_the_inverse_of_the_matrix(case: tuple[FlowGraph, Node]) -> None:
    graph, start = case
    expected = naive_influence(graph, list(range(len(graph))), start)
    assert influence(graph, start) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@given(graph_and_start())
def test_influence_arrives_whole_at_the_inputs(case: tuple[FlowGraph, Node]) -> None:
    graph, start = case
    entered = np.bincount(graph.target, weights=strength_of(graph), minlength=len(graph.nodes)) > 0
    assert influence(graph, start)[~entered].sum() == pytest.approx(1.0)


@pytest.mark.parametrize("name", GRAPHS)
def test_on_a_whole_graph_influence_is_flow(name: str) -> None:
    graph = GRAPHS[name]
    found, flow = influence(graph), connected_flow(graph)
    leaving = np.bincount(graph.source, weights=flow, minlength=len(graph.nodes))
    leaving[graph.nodes.index(LOGIT)] = 1.0
    assert found == pytest.approx(leaving)


def test_influence_makes_up_for_what_was_cut_and_flow_does_not() -> None:
    graph = token_graph(8)
    cut = graph.keep(np.flatnonzero(np.abs(graph.share) > 0.1))
    inputs = ~np.isin(np.arange(len(cut.nodes)), cut.target)
    assert influence(cut)[inputs].sum() == pytest.approx(1.0)
    assert connected_flow(cut)[inputs[cut.source]].sum() < 0.9


def test_sign_and_structure_do_not_matter_to_influence() -> None:
    plain = graph_of([Edge(A, B, 0.5), Edge(A, C, 1.0), Edge(B, D, 0.25), Edge(C, D, 0.75)])
    other = graph_of([Edge(A, B, -0.5), Edge(A, C, 1.0), Edge(B, D, -0.25), Edge(C, D, 0.75), Edge(A, D, None)])
    assert influence(other, D).tolist() == influence(plain, D).tolist()


def test_of_several_logits_one_is_meant() -> None:
    other = Node("logit", index=4)
    graph = graph_of([Edge(A, LOGIT, 0.5), Edge(B, other, 0.5)], target=17)
    assert dict(zip(graph.nodes, influence(graph), strict=True)) == {A: 1.0, LOGIT: 1.0, B: 0.0, other: 0.0}
    assert prune(graph, start=other).nodes == (B, other)
    neither = replace(graph, info=replace(graph.info, target=99))
    with pytest.raises(ArgumentError, match="has 2 logit nodes"):
        influence(neither)
    with pytest.raises(ArgumentError, match="has 2 logit nodes"):
        prune(neither)


# prune


@given(graph_and_start(), MASSES, MASSES)
def test_prune_is_its_definition(case: tuple[FlowGraph, Node], node_mass: float, edge_mass: float) -> None:
    graph, start = case
    expected, by_rounding = naive_prune(graph, node_mass, edge_mass, start)
    pruned = prune(graph, node_mass, edge_mass, start=start)
    if not by_rounding:
        assert edges_of(pruned) == edges_of(graph.keep(np.array(expected, dtype=np.int64)))
    assert pruned.info.filters == {"node_mass": node_mass, "edge_mass": edge_mass}
    assert pruned.info.total_share == graph.info.total_share


@given(graph_and_start(), MASSES, MASSES)
def test_every_kept_edge_leads_from_an_input_to_the_start(
    case: tuple[FlowGraph, Node], node_mass: float, edge_mass: float
) -> None:
    graph, start = case
    pruned = prune(graph, node_mass, edge_mass, start=start)
    assert (naive.strengths(pruned) == np.abs(pruned.share)).all()
    assert (pruned.share != 0).all()
    if not len(pruned):
        return
    entered = {graph.nodes[graph.target[e]] for e, share in enumerate(naive.strengths(graph)) if share > 0}
    end = pruned.nodes.index(start)
    assert naive.is_connected(pruned, list(range(len(pruned))), start)
    fed = {n for n, node in enumerate(pruned.nodes) if node not in entered}
    for _ in pruned.nodes:
        fed |= {int(t) for s, t in zip(pruned.source, pruned.target, strict=True) if s in fed}
    assert fed == set(range(len(pruned.nodes)))
    assert end not in pruned.source


@given(graph_and_start(), MASSES, MASSES)
def test_the_masses_are_reached_before_what_is_loose_goes(
    case: tuple[FlowGraph, Node], node_mass: float, edge_mass: float
) -> None:
    graph, start = case
    depths, n = topological_levels(graph), graph.nodes.index(start)
    found = influence(graph, start)
    found[n] = 0
    nodes = _strong_nodes(graph, n, depths, node_mass)
    assert nodes[n]
    assert found[nodes].sum() >= node_mass * found.sum() * (1 - 1e-9)
    among = np.where(nodes[graph.source] & nodes[graph.target], strength_of(graph), 0.0)
    _, scores = _influence_and_scores(graph, among, n, depths)
    edges = _strong_edges(graph, nodes, n, depths, edge_mass)
    assert scores[edges].sum() >= edge_mass * scores.sum() * (1 - 1e-9)
    assert (scores[edges] > 0).all()
    if edges.any():
        assert scores[edges].sum() - scores[edges].min() <= edge_mass * scores.sum() * (1 + 1e-9)


@given(graph_and_start(), st.tuples(MASSES, MASSES), MASSES)
def test_larger_masses_keep_what_was_there(
    case: tuple[FlowGraph, Node], masses: tuple[float, float], other: float
) -> None:
    graph, start = case
    low, high = sorted(masses)
    assert edges_of(prune(graph, other, low, start=start)) <= edges_of(prune(graph, other, high, start=start))
    assert edges_of(prune(graph, low, 1.0, start=start)) <= edges_of(prune(graph, high, 1.0, start=start))
    depths, n = topological_levels(graph), graph.nodes.index(start)
    assert (_strong_nodes(graph, n, depths, low) <= _strong_nodes(graph, n, depths, high)).all()


def test_a_larger_node_mass_can_take_an_edge_away_where_edges_compete() -> None:
    graph = graph_of([Edge(A, E, 0.6), Edge(B, E, 0.1), Edge(C, E, 0.3)])
    few, all_nodes = prune(graph, 0.6, 0.65, start=E), prune(graph, 1.0, 0.65, start=E)
    assert few.nodes == (A, E)
    assert set(all_nodes.nodes) == {A, C, E}


def test_embeddings_stay_until_nothing_leads_on_from_them() -> None:
    weak = Node("embed", position=1)
    graph = graph_of(
        [
            Edge(EMBED, B, 1.0),
            Edge(weak, C, 1.0),
            Edge(B, D, 0.9),
            Edge(C, D, 0.02),
            Edge(weak, D, 0.08),
            Edge(A, D, 0.01),
        ]
    )
    pruned = prune(graph, 0.5, 1.0, start=D)
    assert set(pruned.nodes) == {EMBED, weak, B, D}
    assert (weak, D) in {pair[:2] for pair in edges_of(pruned)}


def test_a_node_that_lost_its_inputs_goes_and_takes_its_way_on_along() -> None:
    """B has an input in the graph, but not one that is strong enough to stay: it does not become one itself."""
    graph = graph_of(
        [*(Edge(Node("neuron", layer=0, index=i), B, 0.01) for i in range(60)), Edge(B, D, 0.5), Edge(EMBED, D, 0.5)]
    )
    nodes = _strong_nodes(graph, graph.nodes.index(D), topological_levels(graph), 0.5)
    assert [graph.nodes[n] for n in np.flatnonzero(nodes)] == [B, D, EMBED]
    assert prune(graph, 0.5, 1.0, start=D).nodes == (D, EMBED)


def test_a_window_keeps_the_states_it_begins_with() -> None:
    first = Node("resid_pre", layer=3, position=0)
    graph = graph_of([Edge(first, D, 0.1), Edge(B, D, 0.9)])
    assert prune(graph, 0.5, 1.0, start=D).nodes == (first, D, B)


def test_of_equal_nodes_and_edges_the_first_are_taken() -> None:
    graph = graph_of([Edge(C, E, 0.25), Edge(A, E, 0.25), Edge(D, E, 0.25), Edge(B, E, 0.25)])
    assert graph.nodes == (C, E, A, D, B)
    assert prune(graph, 0.5, 1.0, start=E).nodes == (C, E, A)
    assert prune(graph, 1.0, 0.5, start=E).nodes == (C, E, A)
    assert prune(graph, 0.51, 1.0, start=E).nodes == (C, E, A, D)
    assert prune(graph, 0.75, 0.5, start=E).nodes == (C, E, A)


def test_the_order_of_edges_is_kept() -> None:
    graph = GRAPHS["head"]
    pruned = prune(graph, 0.7, 0.9)
    kept = set(edge_list(pruned))
    assert edge_list(pruned) == [edge for edge in edge_list(graph) if edge in kept]
    assert 0 < len(pruned) < len(graph)
    assert LOGIT in pruned.nodes


@pytest.mark.parametrize("name", GRAPHS)
def test_everything_is_kept_at_mass_one(name: str) -> None:
    graph = GRAPHS[name]
    flowing = connected_flow(graph) > 0
    assert edge_list(prune(graph, 1.0, 1.0)) == edge_list(graph.keep(np.flatnonzero(flowing)))


def test_an_empty_graph_stays_empty() -> None:
    empty = graph_of([])
    assert influence(empty).tolist() == []
    pruned = prune(empty)
    assert (len(pruned), pruned.nodes, pruned.info.filters) == (0, (), {"node_mass": 0.8, "edge_mass": 0.98})
    with pytest.raises(ArgumentError, match=r"start=L0.resid_post@0 is not one of the 0 nodes"):
        prune(empty, start=A)


@pytest.mark.parametrize("share", [0.0, None])
def test_a_graph_without_any_share(share: float | None) -> None:
    graph = graph_of([Edge(A, B, share), Edge(B, D, share)])
    assert dict(zip(graph.nodes, influence(graph, D), strict=True)) == {A: 0.0, B: 0.0, D: 1.0}
    pruned = prune(graph, start=D)
    assert (len(pruned), pruned.nodes) == (0, ())


def test_a_start_that_nothing_enters() -> None:
    graph = graph_of([Edge(A, B, 1.0)])
    assert dict(zip(graph.nodes, influence(graph, A), strict=True)) == {A: 1.0, B: 0.0}
    assert len(prune(graph, start=A)) == 0


@pytest.mark.parametrize("argument", ["node_mass", "edge_mass"])
@pytest.mark.parametrize("mass", [0.0, -0.5, 1.5, float("nan")])
def test_bad_masses(argument: str, mass: float) -> None:
    with pytest.raises(ArgumentError, match=rf"{argument}={mass} must lie above 0 and at most at 1"):
        prune(GRAPHS["token"], **{argument: mass})


def test_bad_graphs_and_starts() -> None:
    cycle = graph_of([Edge(A, B, 1.0), Edge(B, A, 1.0)])
    for act in (influence, prune):
        with pytest.raises(ArgumentError, match="has a cycle"):
            act(cycle, start=A)
        with pytest.raises(ArgumentError, match=r"start=L4.resid_post@0 is not one of"):
            act(GRAPHS["token"], start=E)


@pytest.mark.parametrize("level", ["token", "head"])
@pytest.mark.parametrize("method", ["proximity", "attention", "logits"])
def test_graphs_of_a_model(tiny: Any, method: str, level: str) -> None:
    trace = flowgraph.trace(tiny("llama"), [20, 31, 42, 53, 64])
    graph = build_graph(trace, method=method, level=level, readings=False)
    start = next(node for node in graph.nodes if node.kind == "logit")
    everything = list(range(len(graph)))
    assert influence(graph) == pytest.approx(naive_influence(graph, everything, start), rel=1e-9, abs=1e-12)
    pruned = prune(graph)
    assert 0 < len(pruned) < int((~graph.structural).sum())
    assert not pruned.structural.any()
    inputs = {node for n, node in enumerate(graph.nodes) if not strength_of(graph)[graph.target == n].any()}
    entered = {pruned.nodes[t] for t in pruned.target}
    assert set(pruned.nodes) - entered <= inputs
    assert {pruned.nodes[s] for s in pruned.source} | {start} == set(pruned.nodes)


def edge_list(graph: FlowGraph) -> list[tuple[Any, ...]]:
    return [
        (graph.nodes[s], graph.nodes[t], int(k), float(w), float(x))
        for s, t, k, w, x in zip(graph.source, graph.target, graph.kind, graph.weight, graph.share, strict=True)
    ]


def edges_of(graph: FlowGraph) -> set[tuple[Any, ...]]:
    """The edges, parallel ones of the same share counted."""
    seen: dict[tuple[Any, ...], int] = {}
    for edge in edge_list(graph):
        seen[edge] = seen.get(edge, 0) + 1
    return {(*edge, n) for edge, count in seen.items() for n in range(count)}
