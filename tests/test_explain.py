"""Every sentence about a graph stands on numbers that the graph holds."""

from __future__ import annotations

import json
import re

import networkx
import numpy as np
import pytest

import flowgraph
from flowgraph import build_graph, connected_flow
from flowgraph.render.words.explain import explain
from flowgraph.values.node import Node
from tests.conftest import IDS, JAPAN
from tests.graphs import HOSTILE_TOKENS, Edge, graph_of, token_graph


@pytest.fixture(scope="module")
def trace(tiny):
    return flowgraph.trace(tiny("llama"), IDS, foil=9)


def percentages(text: str) -> list[float]:
    return [float(found) for found in re.findall(r"([\d.]+) ?%", text)]


def test_flow_is_said_with_the_numbers_of_its_edges(trace):
    graph = build_graph(trace, method="proximity", readings=False)
    flow = connected_flow(graph)
    sentences = [sentence for sentence in graph.explain().sentences if sentence.edges]
    assert len(sentences) == 3
    crossing = np.flatnonzero((graph.key_pos != graph.query_pos) & (graph.key_pos >= 0))
    assert sentences[0].edges[0] == crossing[np.argmax(flow[crossing])]
    for sentence in sentences:
        (e,) = sentence.edges
        assert percentages(sentence.text) == pytest.approx([100 * graph.share[e], 100 * flow[e]], abs=0.06)
        assert f"layer {graph.layer[e]}," in sentence.text
        assert f"position {graph.query_pos[e]} (" in sentence.text
        assert f"position {graph.key_pos[e]} (" in sentence.text


def test_where_flow_starts_is_what_the_inputs_carry(trace):
    graph = build_graph(trace, method="proximity", readings=False)
    flow = connected_flow(graph)
    (sentence,) = [sentence for sentence in graph.explain().sentences if sentence.nodes]
    carried = [100 * flow[graph.source == n].sum() for n in sentence.nodes]
    inputs = [n for n, node in enumerate(graph.nodes) if node.kind == "embed"]
    everything = 100 * flow[np.isin(graph.source, inputs)].sum()
    assert percentages(sentence.text) == pytest.approx([everything, *carried], abs=0.06)
    assert everything == pytest.approx(100)
    assert carried == sorted(carried, reverse=True)


def test_logits_are_said_with_their_sign(trace):
    graph = build_graph(trace, method="logits", level="head", readings=False)
    raises, lowers = (sentence for sentence in graph.explain().sentences if sentence.edges)
    for sentence, best in ((raises, np.argmax), (lowers, np.argmin)):
        said = [float(found) for found in re.findall(r"\(([+-][\d.]+) logits\)", sentence.text)]
        assert said == pytest.approx([graph.weight[e] for e in sentence.edges], abs=0.006)
        into_logit = [e for e in range(len(graph)) if graph.nodes[graph.target[e]].kind == "logit"]
        assert sentence.edges[0] == into_logit[best(graph.weight[into_logit])]
    assert " − " in raises.text


def test_a_semantic_graph_says_what_its_parts_read_and_write(trace):
    graph = flowgraph.semantic_graph(trace, layers=1)
    head, neuron = (sentence for sentence in graph.explain().sentences if sentence.nodes)
    for sentence, kind in ((head, "head"), (neuron, "neuron")):
        (n,), (e,) = sentence.nodes, sentence.edges
        assert graph.nodes[n].kind == kind
        assert percentages(sentence.text)[0] == pytest.approx(100 * graph.weight[e], abs=0.6)
        assert f"{graph.readings[n].contribution:+.2f} logits" in sentence.text
    assert "reads position" in head.text


def test_undefined_states_and_empty_graphs_are_said(tiny):
    empty = graph_of([], total_edges=5)
    assert str(explain(empty)).endswith("Nothing is strong enough to be shown.")
    headless = flowgraph.trace(tiny("bert_headless"), IDS, position=-1)
    text = str(build_graph(headless, method="norms").explain())
    assert "the graph names no token that is explained" in text
    assert "what reaches the last state of position 6" in text


def test_a_cut_graph_says_what_it_holds_of_the_whole(trace):
    """A number of a cut graph is that of the same edges in the whole one, and what it does not hold is not said of it."""
    whole = build_graph(trace, readings=False)
    flow = dict(zip(zip(whole.source, whole.target, whole.kind, strict=True), connected_flow(whole), strict=True))
    few = flowgraph.keep_strongest(whole, mass=None, max_edges=6)
    text = str(few.explain())
    assert "0.0%" not in text.replace(" %", "%")
    inputs = [n for n, node in enumerate(few.nodes) if node.kind == "embed"]
    if not inputs:
        assert "is followed back to the inputs by the shown edges" in text
    routes = flowgraph.routes(flowgraph.edge_weights(trace), threshold=0.05)
    said = [sentence for sentence in routes.explain().sentences if sentence.edges]
    assert said
    for sentence in said:
        (e,) = sentence.edges
        ends = (routes.nodes[routes.source[e]], routes.nodes[routes.target[e]])
        key = (whole.nodes.index(ends[0]), whole.nodes.index(ends[1]), routes.kind[e])
        assert percentages(sentence.text)[-1] == pytest.approx(100 * flow[key], abs=0.06)


def test_routes_into_a_state_are_not_said_to_reach_the_token(trace):
    start = flowgraph.Node("resid_post", layer=0, position=4)
    text = str(flowgraph.routes(flowgraph.edge_weights(trace), start, threshold=0.01).explain())
    assert "what reaches L0.resid_post@4" in text


def test_absence_of_data_is_not_stated_as_fact():
    a, b, c = (flowgraph.Node("neuron", layer=n, position=n, index=n) for n in range(3))
    text = str(explain(graph_of([Edge(a, b, 1.0, kind="rest"), Edge(b, c, 1.0, kind="rest")], tokens=())))
    assert "no head" not in text
    assert "No shown edge leads from one position" not in text
    assert "L1N1@1 leads to L2N2@2: 100 % of its target" in text


def test_a_graph_without_layers_prompt_or_edges_is_not_given_any(tmp_path):
    file = tmp_path / "empty.json"
    file.write_text(json.dumps({"directed": True, "graph": {}, "nodes": [], "edges": []}))
    graph = flowgraph.import_graph(file)
    assert graph.info.layers == (0, 0)
    assert str(graph.explain()).splitlines() == [
        "The graph names no model, no prompt and no token that is explained.",
        "It has no nodes.",
        "By the method imported (weight), the graph, which spans no layer, shows 0 of 0 edges, 0 % of the mass.",
        "There is no edge to show.",
    ]
    assert "·  ·" not in graph.caption()
    assert "no nodes" not in str(graph_of([], nodes=[Node("embed", position=0)]).explain())


def test_hostile_tokens_stay_on_their_line():
    graph = token_graph(tokens=HOSTILE_TOKENS)
    text = str(explain(graph))
    assert len(text.splitlines()) == len(explain(graph))


@pytest.mark.real_model
def test_the_real_model(smollm2):
    graph = build_graph(flowgraph.trace(smollm2, JAPAN), method="proximity")
    assert "In layer 23, position 7 (“␣of”) reads position 3 (“␣Japan”)" in str(graph.explain())


def test_a_part_of_a_graph_is_not_said_to_hold_what_raises_the_logit_most(trace):
    """The strongest edge may be one of those that are not shown, or lie outside the layers that are."""
    whole = build_graph(trace, method="logits", level="head", readings=False)
    assert "What raises" in str(whole.explain())
    into = np.flatnonzero([whole.nodes[n].kind == "logit" for n in whole.target])
    weak = whole.keep(into[np.argsort(np.abs(whole.weight[into]))[:3]])
    window = build_graph(trace, method="logits", level="head", layers=(1, 2), readings=False)
    for graph in (weak, window):
        text = str(graph.explain())
        assert "Of the shown edges into the logit, what " in text
        assert "What raises" not in text
    others = whole.keep(np.setdiff1d(np.arange(len(whole)), into)[:5])
    assert "No shown edge leads into the logit." in str(others.explain())


def test_of_a_foreign_graph_nothing_is_said_of_inputs_and_positions_that_it_does_not_name():
    given = networkx.DiGraph()
    given.add_weighted_edges_from([("alpha", "beta", 1.0), ("beta", "gamma", 0.5)])
    text = str(flowgraph.FlowGraph.from_networkx(given).explain())
    assert "the inputs" not in text
    assert "position" not in text
    assert "Of what reaches gamma over" in text
    assert "nodes that no edge enters: alpha (100 %)" in text
