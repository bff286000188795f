"""One set of edges, one number: mass against a naive twin, whatever cut the graph, and in every text and file."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
import warnings
from collections.abc import Iterator
from typing import Any

import jaxtyping
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import flowgraph
from flowgraph import (
    ArgumentError,
    FlowGraph,
    GraphTooLargeError,
    Node,
    build_graph,
    edge_weights,
    keep_strongest,
    mass,
    routes,
    strongest_paths,
)
from flowgraph.methods import build
from flowgraph.render import drawing, page_data
from flowgraph.render.scene.elements import LEVELS
from flowgraph.render.words.caption import percent
from flowgraph.values.connected_flow import connected_flow, flow_levels
from tests.conftest import LINEAR_REPRESENTATIVES
from tests.graphs import Edge, dags, graph_of, token_graph
from tests.test_methods import CASES
from tests.test_routes import NUCLEI, THRESHOLDS, dense, starts_in

A, B, C, D = (Node("resid_post", layer=layer, position=7) for layer in range(4))


def naive_flow(graph: FlowGraph, start: Node) -> list[float]:
    """What each edge carries into the start: all ways from its target to the start, one by one."""

    def ways(node: Node) -> float:
        if node == start:
            return 1.0
        return sum(
            abs(float(graph.share[e])) * ways(graph.nodes[graph.target[e]])
            for e in range(len(graph))
            if not graph.structural[e] and graph.nodes[graph.source[e]] == node
        )

    return [
        0.0 if graph.structural[e] else abs(float(graph.share[e])) * ways(graph.nodes[graph.target[e]])
        for e in range(len(graph))
    ]


def named(graph: FlowGraph) -> list[tuple[Any, ...]]:
    """Edges by what they are, not by where they stand."""
    columns = (graph.source, graph.target, graph.kind, graph.head)
    return [(graph.nodes[s], graph.nodes[t], k, h) for s, t, k, h in zip(*columns, strict=True)]


def unmeasured(graph: FlowGraph) -> FlowGraph:
    """The graph without the flow that it carries."""
    return dataclasses.replace(graph, flow=None, info=dataclasses.replace(graph.info, flow_into=None, total_flow=None))


@given(dags(), st.data())
def test_mass_against_a_naive_twin_however_the_edges_were_reached(graph: FlowGraph, data: st.DataObject) -> None:
    start = graph.nodes[graph.target[-1]] if len(graph) else None
    whole = build_graph_of(graph, start)
    flow = np.array(naive_flow(whole, start)) if start is not None else np.zeros(0)
    total = flow.sum()
    chosen = data.draw(st.lists(st.integers(0, len(graph) - 1), unique=True)) if len(graph) else []
    expected = flow[chosen].sum() / total if total else 0.0
    assert mass(whole, chosen) == pytest.approx(expected)
    assert whole.keep(chosen).kept_mass == pytest.approx(expected)
    # By way of a larger set, in another order.
    more = data.draw(st.permutations(range(len(graph))))
    between = [e for e in more if e in chosen or data.draw(st.booleans())]
    again = whole.keep(between).keep([between.index(e) for e in chosen])
    assert again.kept_mass == pytest.approx(expected)
    assert whole.keep(between).kept_mass >= expected - 1e-12
    assert whole.keep([]).kept_mass == whole.keep(between).keep([]).kept_mass == 0.0


def build_graph_of(graph: FlowGraph, start: Node | None) -> FlowGraph:
    """The whole graph, with flow into a node of it."""
    from flowgraph.values.mass import into_start

    return into_start(graph, start) if start is not None else graph


@pytest.mark.parametrize(("name", "method", "level"), CASES)
def test_the_whole_is_one_and_its_flow_is_known_without_listing_it(traces, name, method, level):
    weights = edge_weights(traces(name), method=method)
    graph = build_graph(weights, level=level)
    listed = unmeasured(graph)
    assert graph.flow == pytest.approx(connected_flow(listed), abs=1e-12)
    assert graph.info.total_flow == pytest.approx(connected_flow(listed).sum())
    assert (graph.kept_mass, listed.kept_mass) == (pytest.approx(1.0), pytest.approx(1.0))
    assert "100 % of the mass" in graph.caption()


@given(weights=dense() | dense(into_logit=True), level=st.sampled_from(["token", "head"]), data=st.data())
def test_routes_and_graphs_of_any_weights_carry_the_flow_of_the_whole(weights, level, data) -> None:
    if level == "head" and not weights.attention.shape[1]:
        level = "token"
    whole = unmeasured(build_graph(weights, level=level))
    assert build_graph(weights, level=level).info.total_edges == (~whole.structural).sum()
    start = data.draw(st.sampled_from(starts_in(weights, level)))
    flow = dict(zip(named(whole), connected_flow(whole, start), strict=True))
    threshold, nucleus = data.draw(st.tuples(THRESHOLDS, NUCLEI).filter(lambda both: both != (None, None)))
    found = routes(weights, start, threshold=threshold, nucleus=nucleus, level=level)
    assert found.flow is not None
    assert found.flow == pytest.approx([flow[edge] for edge in named(found)])
    total = sum(flow.values())
    assert found.info.total_flow == pytest.approx(total)
    assert found.kept_mass == pytest.approx(found.flow.sum() / total if total else 0.0)


@pytest.mark.parametrize("level", ["token", "head"])
@pytest.mark.parametrize("name", ["llama", "gpt_neox", "bert"])
def test_the_whole_into_any_start_is_that_of_the_listed_edges(traces, name, level):
    weights = edge_weights(traces(name), method="proximity")
    listed = unmeasured(build_graph(weights, level=level))
    for start in {(node.kind, node.layer): node for node in starts_in(weights, level)}.values():
        found = routes(weights, start, threshold=0.0, level=level)
        assert found.info.total_flow == pytest.approx(connected_flow(listed, start).sum()), start


@pytest.mark.parametrize("name", LINEAR_REPRESENTATIVES)
def test_shares_that_are_normalised_again_are_measured_by_what_the_method_gave(traces, name):
    weights = edge_weights(traces(name))
    whole = build_graph(weights)
    flow = dict(zip(named(whole), connected_flow(unmeasured(whole)), strict=True))
    for cut in (
        build_graph(weights, threshold=0.1, threshold_rule="per_head"),
        routes(weights, threshold=0.1, threshold_rule="per_head"),
    ):
        assert 0 < len(cut) < len(whole)
        assert cut.info.total_edges == whole.info.total_edges
        assert cut.kept_mass == pytest.approx(sum(flow[edge] for edge in named(cut)) / sum(flow.values()))
        assert cut.kept_mass < 1


def test_every_way_to_the_same_edges_says_the_same(traces, tmp_path):
    weights = edge_weights(traces("llama"))
    whole = build_graph(weights)
    strongest = keep_strongest(whole, mass=0.6, max_edges=None)
    cuts = {
        "keep": whole.keep(
            np.flatnonzero(np.isin(range(len(whole)), [named(whole).index(e) for e in named(strongest)]))
        ),
        "two steps": keep_strongest(keep_strongest(whole, mass=0.9, max_edges=None), mass=0.6, max_edges=None),
        "after a threshold": keep_strongest(build_graph(weights, threshold=1e-9), mass=0.6, max_edges=None),
        "after routes": keep_strongest(routes(weights, threshold=1e-9), mass=0.6, max_edges=None),
        "json": FlowGraph.load(strongest.save(tmp_path / "a.json")),
        "graphml": FlowGraph.load(strongest.save(tmp_path / "a.graphml")),
    }
    said = f"{len(strongest):,} of {whole.info.total_edges:,} edges, {percent(strongest.kept_mass)} of the mass"
    assert 0.6 <= strongest.kept_mass < 0.7
    for name, cut in cuts.items():
        assert sorted(named(cut), key=str) == sorted(named(strongest), key=str), name
        assert cut.kept_mass == pytest.approx(strongest.kept_mass, abs=1e-12), name
        assert drawing(cut).mass[-1] == pytest.approx(strongest.kept_mass, abs=1e-12), name
        assert said in cut.caption(), name
        assert said in str(cut.explain()), name


def test_the_page_the_caption_and_the_sentence_say_one_number(traces):
    graph = build_graph(edge_weights(traces("gpt2")), threshold=0.2)
    data = page_data(graph)
    number = percent(graph.kept_mass)
    assert 0.2 < graph.kept_mass < 1
    assert data["level"] == data["levels"] == LEVELS  # it opens on what was asked for
    assert f"{data['mass'][-1]:.1f} %".replace(".0 %", " %") == number
    assert data["mass_of"] == "of the mass"
    assert f"{len(graph):,} of {graph.info.total_edges:,} edges, {number} of the mass" in data["caption"]
    assert f"{number} of the mass" in str(graph.explain())
    assert f"{number} of the mass" in repr(graph)


def test_the_last_step_of_the_slider_is_no_jump(traces):
    """Edges that a threshold cut off from the start come last, one after the other."""
    graph = build_graph(edge_weights(traces("gpt2")), threshold=0.2)
    drawn = drawing(graph)
    cut_off = keep_strongest(graph, mass=None, max_edges=None)
    assert len(cut_off) < len(graph)
    steps = np.bincount(drawn.level[drawn.flow > 0], minlength=LEVELS + 1)
    assert steps.max() <= max(2, len(graph) // 20)
    assert (np.diff(drawn.level[drawn.order]) >= 0).all()
    assert {named(drawn.graph)[e] for e in drawn.order[: len(cut_off)]} == set(named(cut_off))


def test_a_file_that_does_not_know_the_whole_says_so(traces, tmp_path):
    path = keep_strongest(build_graph(edge_weights(traces("gpt2"))), mass=0.5).save(tmp_path / "new.json")
    data = json.loads(path.read_text())
    for name in ("flow_into", "total_flow", "whole"):
        data["graph"].pop(name)
    for edge in data["edges"]:
        edge.pop("flow")
    data["graph"]["filters"] = {"path_mass": 0.5, "kept_flow": 0.5}
    old = tmp_path / "old.json"
    old.write_text(json.dumps(data))
    graph = FlowGraph.load(old)
    assert "100 % of the mass of the edges in the file" in graph.caption()
    assert "100 % of the mass of the edges in the file" in repr(graph)
    assert "kept flow" not in graph.caption()
    fewer = graph.keep(np.arange(3))
    assert fewer.kept_mass == pytest.approx(connected_flow(graph)[:3].sum() / connected_flow(graph).sum())
    assert "% of the mass of the edges in the file" in FlowGraph.load(fewer.save(tmp_path / "fewer.json")).caption()
    data["graph"]["total_edges"] = len(data["edges"])
    old.write_text(json.dumps(data))
    assert FlowGraph.load(old).caption().count("100 % of the mass ·") == 1


def test_foreign_graphs_are_their_own_whole(tmp_path):
    rows = {
        "nodes": [{"id": name} for name in "abc"],
        "links": [{"source": "a", "target": "b", "weight": 2.0}, {"source": "b", "target": "c", "weight": 1.0}],
        "directed": True, "multigraph": False, "graph": {},
    }  # fmt: skip
    path = tmp_path / "theirs.json"
    path.write_text(json.dumps(rows))
    graph = flowgraph.import_graph(path)
    assert "2 of 2 edges, 100 % of the mass of the edges in the file" in graph.caption()
    assert "1 of 2 edges, 50 % of the mass of the edges in the file" in graph.keep([1]).caption()


def test_a_graph_without_flow_into_one_node_is_measured_by_share_and_says_so():
    edges = [Edge(A, B, 0.75), Edge(B, C, 0.25), Edge(C, A, 1.0)]
    graph = graph_of(edges)
    assert graph.keep([0]).kept_mass == pytest.approx(0.375)
    assert "1 of 3 edges, 37.5 % of the summed |share| of the edges in the file" in graph.keep([0]).caption()
    assert "1 edges, 37.5 % of the summed |share| of the edges in the file" in repr(graph.keep([0]))


def test_mass_of_a_graph_is_that_of_the_strongest_paths_and_warns_for_one_release(traces):
    weights = edge_weights(traces("llama"))
    with pytest.warns(FutureWarning, match="nucleus="):
        built = build_graph(weights, mass=0.6)
    strongest = keep_strongest(build_graph(weights), mass=0.6, max_edges=None)
    assert named(built) == named(strongest)
    assert built.kept_mass == strongest.kept_mass
    with pytest.warns(FutureWarning, match="nucleus="):
        found = routes(weights, mass=0.6)
    assert sorted(named(found), key=str) == sorted(named(strongest), key=str)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nucleus = build_graph(weights, nucleus=0.6)
    assert "nucleus per target 0.6" in nucleus.caption()
    assert set(named(nucleus)) != set(named(built))


@pytest.mark.filterwarnings("ignore:mass= is now")
def test_a_mass_is_exact_or_refused_where_not_every_edge_can_be_held(traces, monkeypatch):
    weights = edge_weights(traces("llama"))
    expected = {part: build_graph(weights, mass=part) for part in (0.3, 0.6, 1.0)}
    monkeypatch.setattr(build, "MOST_LISTED", 2 * len(expected[0.6]) + 20)
    for part in (0.3, 0.6):
        assert named(build_graph(weights, mass=part)) == named(expected[part])
    with pytest.raises(GraphTooLargeError, match=r"mass=1\.0 needs more than"):
        build_graph(weights, mass=1.0)
    with pytest.raises(GraphTooLargeError, match="more than max_edges=3"):
        build_graph(weights, mass=0.6, max_edges=3)


def test_another_start_of_a_cut_graph_is_measured_along_its_own_edges():
    graph = token_graph(layers=2)
    cut = keep_strongest(graph, mass=0.9, max_edges=None)
    start = Node("resid_post", layer=0, position=7)
    assert keep_strongest(graph, mass=None, max_edges=None, start=start).info.whole == "method"
    other = keep_strongest(cut, mass=None, max_edges=None, start=start)
    assert (other.info.whole, other.kept_mass) == ("file", pytest.approx(1.0))


def test_a_graph_whose_start_was_cut_away_can_be_looked_at(tmp_path):
    """No edge has a way to the start any more; every page and picture of them is drawn, and the refusals say why."""
    graph = token_graph(layers=2).keep([3, 5, 11])
    assert not {node.kind for node in graph.nodes} & {"logit"}
    assert not flow_levels(graph, graph.flow).any()
    for end in ("html", "svg", "png", "pdf", "tex"):
        assert graph.save(tmp_path / f"cut.{end}").stat().st_size
    assert "iframe" in graph._repr_html_()
    assert drawing(graph).mass[-1] == pytest.approx(graph.kept_mass)
    with pytest.raises(
        ArgumentError, match=re.escape(f"runs to {graph.info.flow_into}, which none of its edges touches")
    ):
        strongest_paths(graph)
    assert len(keep_strongest(graph, mass=0.5)) == 0
    lone = token_graph(layers=2).keep([3])
    assert len(keep_strongest(lone, mass=0.5)) == 0  # its end is not the start, though the only one that is left
    into = lone.nodes[lone.target[0]]
    assert len(keep_strongest(lone, mass=0.5, start=into)) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"flow": np.array([1.0, -1.0, 0.0])}, "below 0"),
        ({"flow": np.array([1.0, np.nan, 0.0])}, "not finite"),
        ({"flow": np.ones(3)}, "more than info.total_flow=2.0"),
    ],
)
def test_a_wrong_flow_is_refused(changes, message):
    graph = graph_of([Edge(A, B, 1.0), Edge(B, C, 1.0), Edge(C, D, 1.0)], total_flow=2.0)
    with pytest.raises(ArgumentError, match=re.escape(message)):
        dataclasses.replace(graph, **changes)


def test_the_default_method_is_one(traces):
    from flowgraph.cli import trace as command
    from flowgraph.values.graph_info import DEFAULT_METHOD

    trace = traces("llama")
    assert build_graph(trace, readings=False).info.method == edge_weights(trace).info.method == DEFAULT_METHOD
    assert command.DEFAULT_METHOD is DEFAULT_METHOD


def test_tables_hold_the_flow_of_each_edge(traces, tmp_path):
    graph = keep_strongest(build_graph(edge_weights(traces("llama"))), mass=0.6)
    graph.save(tmp_path / "flow.csv")
    with (tmp_path / "flow.edges.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert sum(float(row["flow"]) for row in rows) / graph.info.total_flow == pytest.approx(graph.kept_mass)
    for end in ("gexf", "gml", "dot", "neuronpedia.json", "graphml"):
        assert graph.save(tmp_path / f"flow.{end}").stat().st_size


@pytest.fixture
def unchecked_types() -> Iterator[None]:
    """Calls as users make them, without the type checks that tests put before them."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
    ("edges", "message"),
    [
        ([0, 0, 0], "edges holds edge 0 3 times; expected each edge once"),
        ([0, -3], "edges holds edge 0 2 times"),
        ([9999], "edges holds 9999; expected indices of edges: -3…2"),
        ([-4], "edges holds -4"),
        ([0.5], "edges holds values of type float64"),
        (["a"], "edges holds values of type <U1"),
        ([True], "edges is a mask of 1 booleans; the graph has 3 edges"),
        (1, "edges is 1; expected a mask of 3 booleans"),
        ([[0, 1]], "edges is an array of shape (1, 2)"),
        ([[0], [1, 2]], "edges is no array of one type"),
    ],
)
def test_edges_that_are_none_of_the_graph_are_refused(edges: Any, message: str) -> None:
    graph = graph_of([Edge(A, B, 1.0), Edge(B, C, 1.0), Edge(C, D, 1.0)])
    for ask in (lambda: mass(graph, edges), lambda: FlowGraph.keep(graph, edges)):
        with pytest.raises(ArgumentError, match=re.escape(message)):
            ask()


def test_edges_may_be_counted_from_the_end_or_be_a_mask() -> None:
    graph = graph_of([Edge(A, B, 1.0), Edge(B, C, 1.0), Edge(C, D, 1.0)])
    assert mass(graph, [-1]) == mass(graph, [2]) == mass(graph, np.array([False, False, True])) == pytest.approx(1 / 3)
    assert named(graph.keep([-1, 0])) == [named(graph)[2], named(graph)[0]]
    assert len(graph.keep([])) == 0
    assert mass(graph, []) == 0


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda: mass(None), "mass(graph=…) expects a FlowGraph, and got None"),
        (lambda: keep_strongest("a"), "keep_strongest(graph=…) expects a FlowGraph, and got a str"),
        (
            lambda: keep_strongest(token_graph(), mass="a"),
            "keep_strongest(mass=…) expects a number or None, and got 'a'",
        ),
        (lambda: keep_strongest(token_graph(), mass=1.5), "mass=1.5 must be a number above 0"),
        (lambda: keep_strongest(token_graph(), max_edges=1.5), "max_edges=1.5 must be 1 or more"),
        (lambda: build_graph(None), "expects a Trace or an EdgeWeights, and got None"),
    ],
)
def test_what_is_no_graph_trace_or_number_is_refused_by_name(ask: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=re.escape(message)):
        ask()
