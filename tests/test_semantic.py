"""The semantic graph: parts sum to their wholes, every number is the trace's, and nothing is shown that is not there."""

from __future__ import annotations

from collections import Counter, defaultdict

import networkx
import numpy as np
import pytest
import torch

import flowgraph
from flowgraph import Node, direct_logit_attribution, semantic_graph
from flowgraph.errors import ArgumentError, GraphTooLargeError, UnsupportedReadingError
from flowgraph.lenses.logit_lens import head_outputs
from flowgraph.semantic.build import sketched
from flowgraph.semantic.layer import Layer
from flowgraph.semantic.selection import MEASURES, Choice
from flowgraph.values.graph_columns import EDGE_KINDS
from tests.conftest import IDS, JAPAN, LINEAR, REPRESENTATIVES

FAMILIES = (*REPRESENTATIVES, "qwen3", "bert_headless")
"""Norms of queries and keys, and a model without a head, besides."""
EVERYTHING = Choice(heads=None, sources=2, rows=5, neurons=4, select="contribution")


def edges_of(graph) -> dict[tuple[str, str], tuple[str, str, float]]:
    """(source, target) → kind, unit, weight; no two edges of this graph run between the same two nodes."""
    found = {
        (str(graph.nodes[graph.source[e]]), str(graph.nodes[graph.target[e]])): (
            EDGE_KINDS[graph.kind[e]], graph.unit_of(e), float(graph.weight[e]),
        )
        for e in range(len(graph))
    }  # fmt: skip
    assert len(found) == len(graph)
    return found


@pytest.mark.parametrize("choice", [EVERYTHING, Choice(2, 1, 0, 0, "norm"), Choice((1,), 3, 0, 2, "attention")])
@pytest.mark.parametrize("name", FAMILIES)
def test_parts_sum_to_their_whole(traces, name, choice):
    """Vector by vector: the parts of every sum, the rest and the biases among them, add up to it."""
    trace = traces(name)
    sketch = sketched(trace, (0, trace.n_layers), (3, 6), choice=choice)
    parts: dict[Node, list] = defaultdict(list)
    made_up: dict[Node, float] = defaultdict(float)
    for source, target, kind, unit, weight, place in sketch.edges:
        if unit == "contribution":
            vector = sketch.vectors[source]
            is_bias_of_norm = source.kind in ("attn_norm_bias", "mlp_norm_bias")
            if target.kind in ("resid_mid", "resid_post") and not is_bias_of_norm and kind != "embed":
                step = "attention" if target.kind == "resid_mid" else "mlp"
                vector = Layer(trace, place["layer"]).into_state(step, place["query_pos"], vector)
            parts[target].append(vector)
            made_up[target] += weight
    assert {"head", "attn", "mlp", "resid_post"} <= {node.kind for node in parts}
    for node, vectors in parts.items():
        whole = sketch.vectors[node]
        np.testing.assert_allclose(sum(vectors), whole, atol=2e-5 * float(whole.abs().max()), err_msg=str(node))
        assert made_up[node] == pytest.approx(1, abs=1e-4), node


@pytest.mark.parametrize("name", FAMILIES)
def test_vectors_are_those_of_the_trace(traces, name):
    trace = traces(name)
    sketch = sketched(trace, (0, trace.n_layers), (6,), choice=EVERYTHING)
    heads = head_outputs(trace)
    sites = {
        "resid_pre": "resid_pre",
        "resid_mid": "resid_mid",
        "resid_post": "resid_post",
        "attn": "attn_out",
        "mlp": "mlp_out",
    }
    seen = Counter()
    for node, vector in sketch.vectors.items():
        if node.kind in sites:
            expected = trace.site(sites[node.kind])[node.layer, node.position]
        elif node.kind == "head":
            expected = heads[node.layer, node.head, node.position]
        else:
            continue
        seen[node.kind] += 1
        np.testing.assert_allclose(vector, expected, atol=2e-5 * float(expected.abs().max()), err_msg=str(node))
    assert seen["head"] == trace.n_layers * trace.n_heads


@pytest.mark.parametrize("name", FAMILIES)
def test_numbers_of_edges_and_nodes(traces, name):
    """Attention is the pattern, activations are the neurons', contributions in logits are the attribution's."""
    trace = traces(name)
    graph = semantic_graph(trace, sources_per_head=2, rows_per_block=5, neurons_per_block=4)
    data = {str(node): graph.node_dict(n) for n, node in enumerate(graph.nodes)}
    written = direct_logit_attribution(trace) if name in LINEAR else None
    units = Counter()
    for (source, target), (kind, unit, weight) in edges_of(graph).items():
        one, other = data[source], data[target]
        units[unit] += 1
        layer, h = other["layer"], other["head"]
        if unit == "attention":
            assert weight == pytest.approx(float(trace.pattern[layer, h, 6, other["index"]]))
            assert other["activation"] == pytest.approx(weight)
        if kind == "neuron" and unit == "contribution":
            assert one["activation"] == pytest.approx(float(trace.neurons[layer, 6, one["index"]]))
        if kind == "head" and unit == "activation":
            assert weight == pytest.approx(float(trace.z[layer, :, 6].reshape(-1)[other["index"]]))
            assert other["index"] // trace.model.anatomy.d_head == one["head"]
        if written is not None and unit == "contribution" and one["kind"] == "value":
            expected = written.heads_by_source[layer, h, one["index"]]
            assert one["contribution"] == pytest.approx(expected, abs=1e-4)
    expected = {"attention", "activation", "contribution", "norm"} | ({"logits"} if name != "bert_headless" else set())
    assert set(units) == expected
    for entry in data.values():
        if written is not None and entry["kind"] in ("mlp", "neuron", "head"):
            row = {"mlp": written.mlps, "neuron": written.neurons, "head": written.heads}[entry["kind"]]
            place = (
                entry["layer"]
                if entry["kind"] == "mlp"
                else (entry["layer"], entry["index" if entry["kind"] == "neuron" else "head"])
            )
            bias = written.biases.get(f"L{entry['layer']}.mlp_bias", 0.0) if entry["kind"] == "mlp" else 0.0
            assert entry["contribution"] == pytest.approx(row[place] + bias, abs=1e-4)
        if entry["kind"] in ("head", "attn", "mlp"):
            assert 0 < entry["coverage"] <= 1 + 1e-6


@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen3", "gemma3", "gpt_neox", "phi3", "bert"])
def test_what_neurons_read_makes_what_they_are(traces, name):
    trace = traces(name)
    graph = semantic_graph(trace, neurons_per_block=6)
    edges, block = edges_of(graph), trace.model.anatomy.blocks[0]
    for node in graph.nodes:
        if node.kind != "neuron":
            continue
        activation = float(trace.neurons[node.layer, 6, node.index])
        into = {source: edge[2] for (source, target), edge in edges.items() if target == str(node)}
        if block.mlp_gate is None:
            assert into == {f"L{node.layer}N{node.index}.in@6": pytest.approx(activation, abs=1e-5)}
        else:
            assert len(into) == 2
            assert np.prod(list(into.values())) == pytest.approx(activation, abs=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_readings_are_those_of_the_vectors(traces, name):
    trace = traces(name)
    graph = semantic_graph(trace, layers=1, positions=[2, -1], foil=None if name == "bert_headless" else 9, k=3)
    sketch = sketched(trace, (1, 2), (2, 6), choice=Choice(None, 3, 0, 20, "contribution"))
    assert {node for node in graph.nodes if node.index != 9 or node.kind != "logit"} == set(sketch.facts)
    for node, reading in zip(graph.nodes, graph.readings, strict=True):
        if node.kind == "logit":
            assert reading is None
            continue
        assert reading.norm == pytest.approx(float(sketch.vectors[node].norm()), rel=1e-5)
        if name == "bert_headless":
            assert reading.top == ()
        else:
            alone = flowgraph.read(trace, sketch.vectors[node], k=3, foil=9)[0]
            assert [token for token, *_ in reading.top] == [token for token, *_ in alone.top]
            assert (reading.target_rank, reading.foil_rank) == (alone.target_rank, alone.foil_rank)


def test_it_is_one_connected_graph(traces):
    for name in ("gpt2", "gpt_neox", "gemma2", "bert"):
        graph = semantic_graph(traces(name), positions=[4, 6], foil=9)
        as_networkx = graph.to_networkx()
        assert networkx.is_weakly_connected(as_networkx)
        assert networkx.is_directed_acyclic_graph(as_networkx)
        logits = [node for node in graph.nodes if node.kind == "logit"]
        assert [node.index for node in logits] == [traces(name).target, 9]
        assert "semantic, select=contribution, sources=3" in graph.caption()


@pytest.mark.parametrize("select", MEASURES)
def test_selection_takes_what_matters_most(traces, select):
    trace = traces("llama")
    graph = semantic_graph(trace, layers=(0, 1), heads=2, sources_per_head=2, neurons_per_block=3, select=select)
    layer = Layer(trace, 0)
    rows, amounts = layer.neuron_rows, layer.neuron_amounts(6)
    whole = trace.mlp_out[0, 6]
    # The direction of the target's logit is the only thing not written down again here; it is proved elsewhere.
    direction = flowgraph.lenses.direct_attribution.logit_direction(trace, trace.target, None, 6)[0]
    measures = {
        "contribution": [abs(float(a * (row @ whole))) for a, row in zip(amounts, rows, strict=True)],
        "norm": [float((a * row).norm()) for a, row in zip(amounts, rows, strict=True)],
        "attention": [abs(float(a)) for a in amounts],
        "target": [abs(float(a * (row @ direction))) for a, row in zip(amounts, rows, strict=True)],
    }
    best = np.argsort(measures[select])[::-1][:3]
    assert [node.index for node in graph.nodes if node.kind == "neuron"] == best.tolist()
    covered = next(r.coverage for n, r in zip(graph.nodes, graph.readings, strict=True) if n.kind == "mlp")
    assert covered == pytest.approx(np.sort(measures[select])[-3:].sum() / np.sum(measures[select]), rel=1e-4)
    assert sum(node.kind == "head" for node in graph.nodes) == 2
    rest = {n.kind: r.left_out for n, r in zip(graph.nodes, graph.readings, strict=True) if n.kind.endswith("_rest")}
    assert rest == {"attn_rest": 2, "head_rest": len(IDS) - 2, "mlp_rest": len(measures["norm"]) - 3}


def test_nothing_is_left_over_when_everything_is_shown(traces):
    trace = traces("llama")
    sizes = {"rows_per_block": trace.z.shape[1] * trace.z.shape[-1], "neurons_per_block": trace.neurons.shape[-1]}
    graph = semantic_graph(trace, layers=0, sources_per_head=len(IDS), **sizes)
    kinds = Counter(node.kind for node in graph.nodes)
    assert not kinds["head_rest"]
    assert not kinds["mlp_rest"]
    coverages = [r.coverage for r in graph.readings if r is not None and r.coverage is not None]
    np.testing.assert_allclose(coverages, 1.0)


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert"])
def test_files_hold_everything(traces, name, tmp_path):
    graph = semantic_graph(traces(name), foil=9)
    graph.save(tmp_path / "semantic.json")
    graph.save(tmp_path / "semantic.graphml")
    back = flowgraph.FlowGraph.load(tmp_path / "semantic.json")
    assert back.nodes == graph.nodes
    assert back.readings == graph.readings
    assert back.info == graph.info
    np.testing.assert_array_equal(back.unit, graph.unit)
    np.testing.assert_array_equal(back.weight, graph.weight)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"layers": 2}, ArgumentError, "layers=2 is not within the trace's layers 0…1"),
        ({"layers": (1, 1)}, ArgumentError, "is not within"),
        ({"positions": 7}, ArgumentError, r"positions=7 is outside the prompt of 7 tokens \(0…6"),
        ({"positions": []}, ArgumentError, "positions is empty"),
        ({"heads": 9}, ArgumentError, "heads=9 must be between 1 and 4"),
        ({"heads": [0, 9]}, ArgumentError, r"heads=\[0, 9\] must name heads of 0…3"),
        ({"sources_per_head": 0}, ArgumentError, "sources_per_head=0 must be at least 1"),
        ({"neurons_per_block": 10**6}, ArgumentError, "must be at least 0 and at most"),
        ({"rows_per_block": -1}, ArgumentError, "rows_per_block=-1 must be at least 0"),
        ({"target": 10**6}, flowgraph.TargetError, "1000000"),
        ({"max_nodes": 20}, GraphTooLargeError, r"about .* nodes, more than max_nodes=20; take fewer"),
    ],
)
def test_bad_arguments(traces, options, error, message):
    with pytest.raises(error, match=message):
        semantic_graph(traces("llama"), **options)


def test_models_without_a_linear_head(traces):
    for name in ("bert", "bert_headless"):
        with pytest.raises(UnsupportedReadingError):
            semantic_graph(traces(name), select="target")
    with pytest.raises(UnsupportedReadingError):
        semantic_graph(traces("bert_headless"), target=5)


def test_a_window_of_layers(tiny, traces):
    window = flowgraph.trace(tiny("llama"), IDS, keep=flowgraph.TraceSites(layers=(1, 2)))
    graph, whole = semantic_graph(window), semantic_graph(traces("llama"), layers=1)
    assert graph.nodes == whole.nodes
    np.testing.assert_allclose(graph.weight, whole.weight, rtol=1e-5)


@pytest.mark.real_model
def test_the_real_model(smollm2):
    trace = flowgraph.trace(smollm2, JAPAN)
    graph = semantic_graph(trace, layers=23)
    readings = {str(node): reading for node, reading in zip(graph.nodes, graph.readings, strict=True)}
    # Head 4 reads the country, and writes it in the direction of its capital.
    assert readings["L23H4.value[3]@7"].activation > 0.9
    assert "Japan" in readings["L23H4@7"].top[0][0]
    assert readings["L23H4@7"].contribution == max(
        r.contribution for n, r in readings.items() if n.endswith("@7") and n.startswith("L23H") and "." not in n[3:]
    )
    several = semantic_graph(trace, layers=(22, 24), positions=[3, 7], neurons_per_block=5)
    assert networkx.is_weakly_connected(several.to_networkx())
    assert torch.isfinite(torch.tensor(several.weight)).all()


def test_the_style_of_visit(traces):
    for name, version in (("gpt2", 1), ("llama", 2)):
        trace = traces(name)
        graph = semantic_graph(trace, layers=0, positions=[3], style="visit")
        assert graph.nodes == flowgraph.visit_graph(trace, layers=0, position=3, version=version).nodes
        assert graph.info.method == "visit"
    for options, message in (
        ({"select": "norm"}, "select='norm' does not go with style='visit'"),
        ({"foil": 3}, "foil=3 does not go"),
        ({"positions": [1, 2]}, r"positions=\[1, 2\] names 2 positions"),
    ):
        with pytest.raises(ArgumentError, match=message):
            semantic_graph(traces("gpt2"), style="visit", **options)
