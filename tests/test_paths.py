import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowgraph.algorithms import Path, connected_flow, critical_levels, keep_strongest, merge_parallel, strongest_paths
from flowgraph.errors import ArgumentError
from flowgraph.values.flow_graph import EDGE_KINDS, FlowGraph
from flowgraph.values.node import Node
from tests import naive
from tests.graphs import Edge, dags, graph_of, logits_graph, token_graph

# The shape checks that run in tests sample lists at random, also while hypothesis draws a graph.
pytestmark = pytest.mark.filterwarnings("ignore:Do not use the `random` module")


A, B, C, D = (Node("resid_post", layer=n, position=0) for n in range(4))
LOGIT = Node("logit", index=17, token=" Tokyo")

GRAPHS = {
    "token": token_graph(1),
    "parallel": token_graph(2, parallel=True),
    "head": token_graph(3, heads=2, layers=2),
    "structural": token_graph(4, structural_mlp=True),
    "one token": token_graph(5, tokens=("The",)),
    "logits": logits_graph(6),
}


@st.composite
def graph_and_node(draw: st.DrawFn) -> tuple[FlowGraph, Node]:
    graph = draw(dags())
    last = max(graph.nodes, key=lambda node: node.layer or 0)
    return graph, draw(st.just(last) | st.sampled_from(graph.nodes))


# connected_flow


def test_flow_of_a_diamond_by_hand() -> None:
    graph = graph_of([Edge(A, B, 0.5), Edge(A, C, 1.0), Edge(B, D, 0.25), Edge(C, D, -0.75), Edge(A, B, 0.5)])
    assert connected_flow(graph, D).tolist() == [0.125, 0.75, 0.25, 0.75, 0.125]
    assert connected_flow(graph, B).tolist() == [0.5, 0, 0, 0, 0.5]


@given(graph_and_node())
def test_flow_is_the_sum_over_paths(case: tuple[FlowGraph, Node]) -> None:
    graph, start = case
    assert connected_flow(graph, start) == pytest.approx(naive.connected_flow(graph, start), rel=1e-12, abs=0)


@given(dags(normalised=True), st.data())
def test_flow_is_conserved(graph: FlowGraph, data: st.DataObject) -> None:
    start = data.draw(st.sampled_from(graph.nodes))
    flow = connected_flow(graph, start)
    n = graph.nodes.index(start)
    entered = set(graph.target.tolist())
    leaves = sum(f for s, f in zip(graph.source.tolist(), flow, strict=True) if s not in entered)
    assert leaves == pytest.approx(1.0 if n in entered else 0.0)
    assert flow[graph.target == n].sum() == pytest.approx(1.0 if n in entered else 0.0)


@pytest.mark.parametrize("name", GRAPHS)
def test_every_cut_of_a_whole_graph_carries_one(name: str) -> None:
    graph = GRAPHS[name]
    flow = connected_flow(graph)
    leaves = [not (graph.target == n).any() or (graph.structural[graph.target == n]).all() for n in graph.source]
    assert flow[leaves].sum() == pytest.approx(1.0)
    assert (flow >= 0).all()
    assert (flow[graph.structural] == 0).all()


def test_sign_does_not_matter_to_flow() -> None:
    signed = logits_graph(3)
    unsigned = graph_of(
        [
            Edge(signed.nodes[s], signed.nodes[t], abs(float(x)))
            for s, t, x in zip(signed.source, signed.target, signed.share, strict=True)
        ],
        nodes=signed.nodes,
        target=17,
    )
    assert (signed.share < 0).any()
    assert np.array_equal(connected_flow(signed), connected_flow(unsigned))


def test_structural_edges_carry_nothing_even_if_they_hold_a_share() -> None:
    graph = graph_of([Edge(A, B, 0.5), Edge(B, C, 0.5)])
    columns = {name: getattr(graph, name) for name in ("source", "target", "kind", "layer", "head", "query_pos")}
    odd = FlowGraph(
        nodes=graph.nodes,
        **columns,
        key_pos=graph.key_pos,
        weight=graph.weight,
        share=graph.share,
        structural=np.array([False, True]),
        info=graph.info,
    )
    assert connected_flow(odd, C).tolist() == [0, 0]


# the start


def test_start_is_the_logit_of_the_target() -> None:
    other = Node("logit", index=3)
    graph = graph_of([Edge(A, other, 1.0), Edge(A, LOGIT, 0.5)], target=17)
    assert connected_flow(graph).tolist() == [0, 0.5]
    with pytest.raises(ArgumentError, match=r"2 logit nodes \(logit\[3\], logit\[ Tokyo\]\)"):
        connected_flow(graph_of([Edge(A, other, 1.0), Edge(A, LOGIT, 0.5)]))


def test_start_without_logit_is_the_last_state_of_the_position() -> None:
    mid, post = Node("resid_mid", layer=1, position=2), Node("resid_post", layer=1, position=2)
    elsewhere = Node("resid_post", layer=5, position=1)
    graph = graph_of([Edge(A, elsewhere, 1.0), Edge(mid, post, 0.5), Edge(A, mid, 0.5)], position=2)
    assert connected_flow(graph).tolist() == [0, 0.5, 0.25]
    with pytest.raises(ArgumentError, match="residual state of position 7"):
        connected_flow(graph_of([Edge(A, B, 1.0), Edge(A, C, 1.0)], position=7))


def test_start_without_logit_is_where_everything_leads_if_there_is_one_such_node() -> None:
    head = Node("head", layer=1, head=2, position=2)
    graph = graph_of([Edge(A, B, 1.0), Edge(B, head, 0.75), Edge(A, head, 0.25)], position=2)
    assert connected_flow(graph).tolist() == connected_flow(graph, head).tolist() == [0.75, 0.75, 0.25]


@pytest.mark.parametrize("function", [connected_flow, critical_levels])
def test_start_must_be_in_the_graph(function) -> None:
    with pytest.raises(ArgumentError, match=r"start=L3.resid_post@0 is not one of the 2 nodes"):
        function(graph_of([Edge(A, B, 1.0)]), D)


@pytest.mark.parametrize("share", [1.0, None])
@pytest.mark.parametrize("function", [connected_flow, critical_levels, strongest_paths])
def test_cycles_are_refused(function, share: float | None) -> None:
    for edges in (
        [Edge(A, B, 1.0), Edge(B, C, 1.0), Edge(C, B, share), Edge(C, D, 1.0)],
        [Edge(A, A, share)],
    ):
        with pytest.raises(ArgumentError, match="cycle"):
            function(graph_of(edges, position=0))


# critical_levels


@given(graph_and_node())
def test_levels_are_widest_paths(case: tuple[FlowGraph, Node]) -> None:
    graph, start = case
    flow = connected_flow(graph, start)
    levels = critical_levels(graph, start)
    assert levels.tolist() == naive.critical_levels(graph, start, flow.tolist())
    assert (levels <= flow).all()


def test_a_strong_edge_behind_a_weak_one_has_the_level_of_the_weak_one() -> None:
    # Two weak edges join in C, so that more flows above C than through either of them.
    graph = graph_of([Edge(A, C, 1.0), Edge(C, D, 0.1), Edge(C, B, 1.0), Edge(B, D, 0.15)])
    assert connected_flow(graph, D) == pytest.approx([0.25, 0.1, 0.15, 0.15])
    assert critical_levels(graph, D) == pytest.approx([0.15, 0.1, 0.15, 0.15])


# keep_strongest


def edges_of(kept: FlowGraph) -> list[tuple[Node, Node, float]]:
    return [
        (kept.nodes[s], kept.nodes[t], float(x)) for s, t, x in zip(kept.source, kept.target, kept.share, strict=True)
    ]


@given(graph_and_node())
def test_every_prefix_is_connected(case: tuple[FlowGraph, Node]) -> None:
    graph, start = case
    flow, levels = connected_flow(graph, start), critical_levels(graph, start)
    whole = edges_of(keep_strongest(graph, mass=None, max_edges=None, start=start))
    assert len(whole) == np.count_nonzero(flow)
    kept_levels = sorted(levels[flow > 0].tolist(), reverse=True)
    for count in range(1, len(whole) + 1):
        kept = keep_strongest(graph, mass=None, max_edges=count, start=start)
        assert edges_of(kept) == whole[:count]
        assert naive.is_connected(kept, range(count), start)
        assert sorted(critical_levels_of(graph, levels, kept), reverse=True) == kept_levels[:count]


def critical_levels_of(graph: FlowGraph, levels: np.ndarray, kept: FlowGraph) -> list[float]:
    # Parallel edges of the same share have the same level, so the first match is as good as any.
    found = [edges_of(graph).index(edge) for edge in edges_of(kept)]
    return [float(levels[e]) for e in found]


def test_edges_of_one_level_are_taken_from_the_start_on() -> None:
    # Written from the far end, in which order the first edge alone would not hang on the start.
    chain = graph_of([Edge(A, B, 1.0), Edge(B, C, 1.0), Edge(C, D, 1.0)])
    kept = keep_strongest(chain, mass=None, max_edges=2, start=D)
    assert [(source, target) for source, target, _ in edges_of(kept)] == [(C, D), (B, C)]


@given(graph_and_node(), st.floats(0.01, 1.0))
def test_mass_is_first_reached(case: tuple[FlowGraph, Node], mass: float) -> None:
    graph, start = case
    flow = connected_flow(graph, start)
    kept = keep_strongest(graph, mass=mass, max_edges=None, start=start)
    assert kept.info.filters["path_mass"] == mass
    assert "max_edges" not in kept.info.filters
    assert bool(len(kept)) == bool(flow.any())
    if len(kept):
        assert kept.kept_mass >= mass * (1 - 1e-9)
        fewer = keep_strongest(graph, mass=None, max_edges=max(1, len(kept) - 1), start=start)
        assert len(kept) == 1 or fewer.kept_mass < mass * (1 + 1e-9)


@pytest.mark.parametrize("name", GRAPHS)
def test_filters_say_what_was_done(name: str) -> None:
    graph = GRAPHS[name]
    total = connected_flow(graph).sum()
    free = keep_strongest(graph, mass=0.6, max_edges=None)
    same = keep_strongest(graph, mass=0.6, max_edges=len(free))
    assert same.info.filters == free.info.filters == {"path_mass": 0.6}
    if len(free) > 1:
        cut = keep_strongest(graph, mass=0.6, max_edges=len(free) - 1)
        assert list(cut.info.filters) == ["path_mass", "max_edges"]
        assert cut.info.filters["max_edges"] == len(cut) == len(free) - 1
        assert cut.kept_mass < 0.6 <= free.kept_mass
    everything = keep_strongest(graph, mass=None, max_edges=None)
    assert (everything.info.filters, everything.kept_mass) == ({}, pytest.approx(1.0))
    assert connected_flow(everything).sum() == pytest.approx(total)


def test_readings_follow_their_nodes() -> None:
    graph = GRAPHS["token"]
    kept = keep_strongest(graph, max_edges=20)
    assert len(kept) == 20
    for node, reading in zip(kept.nodes, kept.readings, strict=True):
        assert reading == graph.readings[graph.nodes.index(node)]


def test_nothing_flows() -> None:
    zero = graph_of([Edge(A, B, 0.0), Edge(B, C, 0.0)])
    assert not connected_flow(zero, C).any()
    kept = keep_strongest(zero, start=C)
    assert (len(kept), len(kept.nodes)) == (0, 0)
    assert kept.info.filters == {"path_mass": 0.8}
    assert kept.kept_mass == 0
    assert strongest_paths(zero, target=C) == []


def test_no_edges_and_no_nodes() -> None:
    single = graph_of([], nodes=[LOGIT])
    for graph in (single, graph_of([])):
        assert connected_flow(graph).shape == critical_levels(graph).shape == (0,)
        assert len(keep_strongest(graph)) == 0
        assert strongest_paths(graph) == []
    with pytest.raises(ArgumentError, match="not one of the 0 nodes"):
        connected_flow(graph_of([]), LOGIT)


def test_a_tiny_edge_into_the_start_is_kept() -> None:
    graph = graph_of([Edge(A, B, 1.0), Edge(B, LOGIT, 5e-324)])
    assert len(keep_strongest(graph, mass=0.01, max_edges=1)) == 1


@pytest.mark.parametrize("mass", [0.0, -0.1, 1.1, math.nan])
def test_mass_out_of_range(mass: float) -> None:
    with pytest.raises(ArgumentError, match="mass="):
        keep_strongest(GRAPHS["token"], mass=mass)


def test_counts_out_of_range() -> None:
    with pytest.raises(ArgumentError, match="max_edges=0"):
        keep_strongest(GRAPHS["token"], max_edges=0)
    with pytest.raises(ArgumentError, match="k=0"):
        strongest_paths(GRAPHS["token"], k=0)


# strongest_paths


@given(graph_and_node(), st.data(), st.integers(1, 40))
def test_k_best_equals_enumeration(case: tuple[FlowGraph, Node], data: st.DataObject, k: int) -> None:
    graph, target = case
    source = data.draw(st.none() | st.sampled_from(graph.nodes))
    expected = naive.strongest_paths(graph, source, target)
    paths = strongest_paths(graph, source, target, k)
    assert [path.strength for path in paths] == [strength for strength, _ in expected[:k]]
    assert {path.edges for path in paths} <= {edges for _, edges in expected}
    assert len({path.edges for path in paths}) == len(paths)
    for path in paths:
        assert path.strength == naive.product(graph, path.edges)
        ends = [(graph.nodes[graph.source[e]], graph.nodes[graph.target[e]]) for e in path.edges]
        assert list(pairwise(path.nodes)) == ends
        assert path.kinds == tuple(EDGE_KINDS[graph.kind[e]] for e in path.edges)


@pytest.mark.parametrize("name", GRAPHS)
def test_all_paths_of_a_graph_that_is_a_flow_sum_to_one(name: str) -> None:
    graph = GRAPHS[name]
    paths = strongest_paths(graph, k=100_000) if len(graph) < 100 else strongest_paths(graph, k=50)
    found = [path.strength for path in paths]
    assert found == sorted(found, reverse=True)
    assert sum(found) == pytest.approx(1.0) if len(graph) < 100 else 0 < sum(found) < 1


def test_parallel_edges_are_different_paths() -> None:
    graph = graph_of([Edge(A, B, 0.25, "attention"), Edge(A, B, -0.75, "residual"), Edge(B, LOGIT, 1.0, "unembed")])
    assert [(path.edges, path.strength) for path in strongest_paths(graph)] == [
        ((1, 2), 0.75),
        ((0, 2), 0.25),
    ]


def test_ties_come_in_the_order_of_the_last_edges() -> None:
    edges = [Edge(A, B, 0.5), Edge(A, B, 0.5), Edge(B, D, 0.5), Edge(B, D, 0.5)]
    assert [path.edges for path in strongest_paths(graph_of(edges), target=D)] == [
        (0, 2),
        (1, 2),
        (0, 3),
        (1, 3),
    ]
    assert [path.edges for path in strongest_paths(graph_of(edges), target=D, k=3)] == [
        (0, 2),
        (1, 2),
        (0, 3),
    ]


def test_source_in_the_middle_and_source_equal_to_target() -> None:
    graph = graph_of([Edge(A, B, 1.0), Edge(B, C, 0.5), Edge(A, C, 0.5)])
    assert [path.nodes for path in strongest_paths(graph, B, C)] == [(B, C)]
    assert strongest_paths(graph, B, B) == []
    assert strongest_paths(graph, C, A) == []
    with pytest.raises(ArgumentError, match=r"source=L3\.resid_post@0 is not one of"):
        strongest_paths(graph, D, C)
    with pytest.raises(ArgumentError, match=r"target=L3\.resid_post@0 is not one of"):
        strongest_paths(graph, A, D)


# Path


def path_of(*steps: Node | str) -> Path:
    nodes = tuple(step for step in steps if isinstance(step, Node))
    kinds = tuple(step for step in steps if isinstance(step, str))
    return Path(nodes=nodes, edges=tuple(range(len(nodes) - 1)), strength=0.5, kinds=kinds)


def state(layer: int, position: int, step: str = "post") -> Node:
    return Node(f"resid_{step}", layer=layer, position=position)


def test_path_leaves_out_states_it_only_passes() -> None:
    embed, head = Node("embed", position=3), Node("head", layer=2, head=4, position=7)
    path = path_of(
        embed, "residual", state(0, 3, "mid"), "residual", state(0, 3), "residual", state(1, 3), "attention",
        head, "head", state(2, 7, "mid"), "residual", state(2, 7), "unembed", LOGIT,
    )  # fmt: skip
    assert str(path) == "embed@3 → L2H4@7 → logit[ Tokyo]"


def test_path_says_where_attention_brought_it() -> None:
    embed, mlp = Node("embed", position=3), Node("mlp", layer=1, position=5)
    path = path_of(
        embed, "attention", state(0, 5, "mid"), "residual", state(0, 5), "attention", state(1, 5, "mid"),
        "mlp_in", mlp, "mlp", state(1, 5), "unembed", LOGIT,
    )  # fmt: skip
    assert str(path) == "embed@3 → L0.resid_mid@5 → L1.resid_mid@5 → L1.mlp@5 → logit[ Tokyo]"


def test_path_writes_its_ends() -> None:
    assert str(path_of(state(0, 3), "residual", state(1, 3), "residual", state(2, 3))) == (
        "L0.resid_post@3 → L2.resid_post@3"
    )
    assert str(path_of(state(0, 3))) == "L0.resid_post@3"
    without_kinds = Path(nodes=(state(0, 3), state(1, 3), LOGIT), edges=(0, 1), strength=1.0)
    assert str(without_kinds) == "L0.resid_post@3 → logit[ Tokyo]"


def test_path_checks_its_lengths() -> None:
    with pytest.raises(ArgumentError, match="a path of 1 edges has 2 nodes, not 1"):
        Path(nodes=(A,), edges=(0,), strength=1.0)
    with pytest.raises(ArgumentError, match="kinds has 1 entries for 2 edges"):
        Path(nodes=(A, B, C), edges=(0, 1), strength=1.0, kinds=("residual",))


@pytest.mark.parametrize("name", GRAPHS)
def test_strongest_paths_print_distinctly(name: str) -> None:
    paths = strongest_paths(GRAPHS[name], k=40)
    assert len({str(path) for path in paths}) == len(paths)


@given(dags())
def test_merged_edges_carry_the_sum_of_what_they_stand_for(graph):
    merged = merge_parallel(graph)
    sums = {}
    for e in np.flatnonzero(~graph.structural):
        ends = graph.nodes[graph.source[e]], graph.nodes[graph.target[e]]
        sums[ends] = sums.get(ends, 0.0) + float(graph.share[e])
    found = {
        (merged.nodes[merged.source[e]], merged.nodes[merged.target[e]]): float(merged.share[e])
        for e in range(len(merged))
    }
    assert len(found) == len(merged)
    assert found == pytest.approx(sums, abs=1e-12)


def test_self_attention_and_residual_are_one_step_when_merged():
    graph = token_graph(layers=3)
    paths = strongest_paths(merge_parallel(graph), k=6)
    assert len({str(path) for path in paths}) == len(paths)
    for path in paths:
        between = [
            path.edges[n] for n in range(len(path.edges)) if path.nodes[n].position == path.nodes[n + 1].position
        ]
        assert all(path.kinds[path.edges.index(e)] != "attention" for e in between)
    assert paths[0].strength >= strongest_paths(graph, k=1)[0].strength


@pytest.mark.parametrize("tried_first", [1, 5, 40])
@given(data=st.data(), graph=dags(normalised=True), k=st.integers(1, 5))
def test_trying_the_strongest_edges_first_changes_nothing(tried_first, data, graph, k):
    end = data.draw(st.sampled_from(graph.nodes))
    whole = strongest_paths(graph, target=end, k=k)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flowgraph.algorithms.paths._TRIED_FIRST", tried_first)
        assert strongest_paths(graph, target=end, k=k) == whole
