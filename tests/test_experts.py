"""Experts of a mixture, sinks and mixers as nodes: each is a part of a sum, and the sums are what the model computes."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from functools import cache

import numpy as np
import pytest
import torch

import flowgraph as fg
from flowgraph.errors import ArgumentError, NotRecordedError, UnsupportedReadingError
from flowgraph.lenses.experts import LayerExperts, layer_experts
from tests.every_type import model_of

IDS = [20, 31, 42, 53, 64, 75]
MIXTURES = (
    "mixtral", "qwen2_moe", "deepseek_v3", "gpt_oss", "llama4_text", "cohere2_moe", "granitemoeshared", "minimax_m3_vl_text", "olmoe",
    "jamba", "phimoe",
)  # fmt: skip


@cache
def traced(model_type: str) -> fg.Trace:
    return fg.trace(fg.load_model(model_of(model_type)), IDS, position=len(IDS) - 1)


def told_apart(trace: fg.Trace) -> dict[int, LayerExperts]:
    found = {row: layer_experts(trace, row) for row in range(trace.n_layers)}
    return {row: one for row, one in found.items() if isinstance(one, LayerExperts)}


def experts_at(graph: fg.FlowGraph, layer: int, position: int) -> set[int | None]:
    return {n.index for n in graph.nodes if (n.kind, n.layer, n.position) == ("expert", layer, position)}


def edges_of(graph: fg.FlowGraph) -> Iterator[tuple[tuple[fg.Node, fg.Node, int], tuple[int, float, float]]]:
    """(source, target, kind) of each edge that has a number, with its head, share and flow."""
    assert graph.flow is not None
    for e in np.flatnonzero(~graph.structural).tolist():
        ends = graph.nodes[graph.source[e]], graph.nodes[graph.target[e]], int(graph.kind[e])
        yield ends, (int(graph.head[e]), float(graph.share[e]), float(graph.flow[e]))


@pytest.mark.parametrize("model_type", MIXTURES)
def test_experts_and_what_shares_their_mlp_sum_to_it(model_type):
    trace = traced(model_type)
    found = told_apart(trace)
    assert found
    for row, one in found.items():
        shared = torch.zeros_like(trace.mlp_out[row]) if one.shared is None else one.shared
        torch.testing.assert_close(one.out.sum(1) + shared, trace.mlp_out[row], rtol=1e-5, atol=1e-6)
        assert one.error < 1e-5
        assert (one.weight.abs().diff(dim=-1) <= 1e-6).all()  # the largest router weight first
        assert all(len(set(row.tolist())) == len(row) for row in one.index)


def test_an_expert_is_its_matrices():
    """Each part by hand: router, gate, input and output projections of the expert's own."""
    trace = traced("mixtral")
    for row, one in told_apart(trace).items():
        block = trace.model.anatomy.blocks[row]
        experts, router = block.mlp.experts, block.mlp.gate
        with torch.no_grad():
            reads = block.mlp_norm.module(trace.resid_mid[row])
            chances = (reads @ router.weight.T).softmax(-1)
            best = chances.topk(one.index.shape[1], dim=-1)
            weights = best.values / best.values.sum(-1, keepdim=True)
            for t in range(len(IDS)):
                assert one.index[t].tolist() == best.indices[t].tolist()
                torch.testing.assert_close(one.weight[t], weights[t], rtol=1e-5, atol=1e-6)
                for choice, e in enumerate(best.indices[t].tolist()):
                    gate, up = (experts.gate_up_proj[e] @ reads[t]).chunk(2)
                    out = weights[t, choice] * (experts.down_proj[e] @ (torch.nn.functional.silu(gate) * up))
                    torch.testing.assert_close(one.out[t, choice], out, rtol=1e-4, atol=1e-6)


def test_what_shares_an_mlp_is_the_shared_expert():
    trace = traced("deepseek_v3")
    for row, one in told_apart(trace).items():
        block = trace.model.anatomy.blocks[row]
        with torch.no_grad():
            by_hand = block.mlp.shared_experts(block.mlp_norm.module(trace.resid_mid[row]))
        torch.testing.assert_close(one.shared, by_hand, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("model_type", ["mixtral", "qwen2_moe", "llama4_text", "jamba"])
def test_graphs_show_experts_where_they_show_heads(model_type):
    trace = traced(model_type)
    found = told_apart(trace)
    for method in ("proximity", "norms", "logits"):
        weights = fg.edge_weights(trace, method=method)
        assert not any(node.kind == "expert" for node in fg.build_graph(weights).nodes)
        graph = fg.build_graph(weights, level="head")
        at = [trace.position] if method == "logits" else range(len(IDS))
        for row, one in found.items():
            for t in at:
                assert experts_at(graph, row, t) == {e for e in one.index[t].tolist() if e >= 0}
        into = np.bincount(graph.target, np.abs(graph.share), len(graph.nodes))
        assert all(
            into[n] == pytest.approx(1.0)
            for n, node in enumerate(graph.nodes)
            if node.kind == "mlp" and node.layer in found
        )
        assert len(graph) == graph.info.total_edges
        assert float(graph.flow.sum()) == pytest.approx(graph.info.total_flow)
        assert graph.kept_mass == pytest.approx(1.0)


@pytest.mark.parametrize("model_type", ["mixtral", "qwen2_moe"])
def test_weights_of_experts_are_those_of_their_parts(model_type):
    trace = traced(model_type)
    direction = {}
    for method in ("norms", "logits", "proximity"):
        weights = fg.edge_weights(trace, method=method)
        for row, one in told_apart(trace).items():
            parts = [one.out[:, choice] for choice in range(one.out.shape[1])]
            parts += [] if one.shared is None else [one.shared]
            whole = trace.mlp_out[row]
            if method == "norms":
                expected = torch.stack([part.norm(dim=-1) for part in parts], -1)
            elif method == "proximity":
                near = torch.stack([(whole.abs() - (whole - part).abs()).sum(-1).clamp(min=0) for part in parts], -1)
                expected = near / near.sum(-1, keepdim=True)
            else:
                expected = None
                direction[row] = weights.expert[row].sum() + (
                    0 if weights.shared_expert is None else weights.shared_expert[row].sum()
                )
            if expected is not None:
                choices = one.index.shape[1]
                np.testing.assert_allclose(weights.expert[row], expected[:, :choices].numpy(), rtol=1e-4, atol=1e-6)
                if one.shared is not None:
                    np.testing.assert_allclose(
                        weights.shared_expert[row], expected[:, -1].numpy(), rtol=1e-4, atol=1e-6
                    )
    parts = fg.direct_logit_attribution(trace)
    for row, total in direction.items():
        assert total == pytest.approx(float(parts.mlps[row]), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("model_type", ["mixtral", "qwen2_moe", "cohere2_moe", "gpt_oss", "falcon_h1", "jamba"])
@pytest.mark.parametrize("level", ["token", "head"])
def test_routes_are_edges_of_the_graph(model_type, level):
    trace = traced(model_type)
    for method in ("attention", "proximity"):
        weights = fg.edge_weights(trace, method=method)
        graph = fg.build_graph(weights, level=level)
        known = dict(edges_of(graph))
        for threshold in (0.0, 0.15):
            routes = fg.routes(weights, level=level, threshold=threshold)
            shown = dict(edges_of(routes))
            assert shown.items() <= known.items()
            # Whatever is strong enough and enters a node of the routes is one of them, but what enters experts that were cut.
            inside = {target for _, target, _ in shown}
            strong = {
                edge for edge, (_, share, _) in known.items()
                if edge[1] in inside and abs(share) >= threshold and share and edge[1].kind not in ("expert", "shared_expert")
            }  # fmt: skip
            assert strong <= shown.keys()
        assert routes.info.total_edges == graph.info.total_edges
        assert routes.info.total_share == pytest.approx(graph.info.total_share)


def test_a_planted_expert_is_found():
    """One expert alone writes; the graph's flow through the MLP runs through it, and its edge is all of the MLP's logit."""
    model = deepcopy(model_of("mixtral"))
    layer = model.model.layers[1].mlp
    with torch.no_grad():
        layer.gate.weight.zero_()
        layer.gate.weight[2], layer.gate.weight[0] = 1.0, 0.5
        layer.experts.down_proj[[n for n in range(len(layer.experts.down_proj)) if n != 2]] = 0.0
    trace = fg.trace(fg.load_model(model), IDS, position=len(IDS) - 1)
    chosen = fg.experts(trace)
    at = [t for t in range(len(IDS)) if 2 in chosen.index[1][t]]
    assert at
    graph = fg.build_graph(trace, method="proximity", level="head")
    for t in at:
        into = [
            (graph.nodes[s].index, share) for s, target, share in zip(graph.source, graph.target, graph.share, strict=True)
            if graph.nodes[target] == fg.Node("mlp", layer=1, position=t)
        ]  # fmt: skip
        assert {index: pytest.approx(share) for index, share in into}[2] == 1.0


def test_sinks_are_nodes_and_rows_with_them_sum_to_one():
    trace = traced("gpt_oss")
    weights = fg.edge_weights(trace, method="attention")
    np.testing.assert_allclose(weights.attention.sum(-1) + weights.sink, 1.0, atol=1e-6)
    np.testing.assert_allclose(weights.head.sum(1), 1.0, atol=1e-6)
    heads = fg.build_graph(weights, level="head", readings=False)
    for e in np.flatnonzero([heads.nodes[n].kind == "sink" for n in heads.source]):
        node = heads.nodes[heads.target[e]]
        assert heads.weight[e] == pytest.approx(float(trace.sink[node.layer, node.head, node.position]))
    into = np.bincount(heads.target, heads.weight, len(heads.nodes))
    assert all(into[n] == pytest.approx(1.0) for n, node in enumerate(heads.nodes) if node.kind == "head")
    tokens = fg.build_graph(weights, readings=False)
    sinks = [e for e in range(len(tokens)) if tokens.nodes[tokens.source[e]].kind == "sink"]
    assert len(sinks) == trace.n_layers * len(IDS)
    for e in sinks:
        node = tokens.nodes[tokens.source[e]]
        assert tokens.weight[e] == pytest.approx(float(trace.sink[node.layer, :, node.position].mean()))


def test_mixers_are_nodes_of_every_method():
    trace = traced("falcon_h1")
    norms = fg.edge_weights(trace, method="norms")
    np.testing.assert_allclose(norms.mixer, trace.mixer_out.norm(dim=-1).numpy(), rtol=1e-5, atol=1e-6)
    for method in ("norms", "proximity", "logits"):
        graph = fg.build_graph(trace, method=method, readings=False)
        assert any(node.kind == "mixer" for node in graph.nodes), method
    ruled = fg.build_graph(trace, method="proximity", threshold=0.02, threshold_rule="per_head", readings=False)
    into = np.bincount(ruled.target, ruled.share, len(ruled.nodes))
    states = [n for n, node in enumerate(ruled.nodes) if node.kind == "resid_mid" and into[n]]
    assert states
    np.testing.assert_allclose(into[states], 1.0, atol=1e-6)


def test_a_layer_of_experts_alone_is_no_mixer():
    """Layers of Nemotron-H hold one part each; of those without attention only what mixes tokens is a mixer."""
    trace = traced("nemotron_h")
    blocks = trace.model.anatomy.blocks
    kinds = [type(block.mixer).__name__ if block.mlp is None else type(block.mlp).__name__ for block in blocks]
    assert "NemotronHMoE" in kinds
    assert {type(block.mixer).__name__ for block in blocks if block.mixer is not None} == {"NemotronHMamba2Mixer"}
    assert list(fg.experts(trace).index) == [kinds.index("NemotronHMoE")]


def test_experts_are_read_and_explained():
    trace = traced("qwen2_moe")
    graph = fg.build_graph(trace, method="proximity", level="head")
    found = told_apart(trace)
    for node, reading in zip(graph.nodes, graph.readings, strict=True):
        if node.kind == "expert":
            one = found[node.layer]
            choice = one.index[node.position].tolist().index(node.index)
            assert reading.norm == pytest.approx(float(one.out[node.position, choice].norm()), rel=1e-5)
    last = len(IDS) - 1
    parts = fg.direct_logit_attribution(trace)
    said = [
        fg.node_details(trace, node).contribution
        for node in [fg.Node("shared_expert", layer=0, position=last)]
        + [fg.Node("expert", layer=0, index=e, position=last) for e in found[0].index[last].tolist()]
    ]
    assert sum(said) == pytest.approx(float(parts.mlps[0]), rel=1e-4, abs=1e-5)
    absent = next(e for e in range(4) if e not in found[0].index[last].tolist())
    with pytest.raises(ArgumentError, match="no such expert was chosen there"):
        fg.node_details(trace, fg.Node("expert", layer=0, index=absent, position=last))
    with pytest.raises(ArgumentError, match="index=99 is outside this run; expected 0…3"):
        fg.node_details(trace, fg.Node("expert", layer=0, index=99, position=last))
    assert str(fg.parse_node("expert.0.5.2")) == "L0E2@5"


def test_the_table_of_experts():
    trace = traced("mixtral")
    found = fg.experts(trace)
    table = found.to_dataframe()
    assert set(table["layer"]) == set(range(trace.n_layers))
    np.testing.assert_allclose(table.groupby(["layer", "position"])["router weight"].sum(), 1.0, rtol=1e-5)
    with pytest.raises(UnsupportedReadingError, match="none of its layers is a mixture of experts"):
        fg.experts(traced("falcon_h1"))


def test_a_site_that_is_missing_is_named():
    trace = fg.trace(traced("mixtral").model, IDS, position=-1, keep=["resid_mid"])
    with pytest.raises(NotRecordedError, match="mlp_out"):
        fg.experts(trace)


def test_what_cannot_be_told_apart_says_so():
    """A norm over the sum of all experts is no sum."""
    trace = traced("axk1")
    with pytest.raises(UnsupportedReadingError, match="is not the sum of its experts"):
        fg.experts(trace)
    graph = fg.build_graph(trace, method="proximity", level="head", readings=False)
    assert not any(node.kind == "expert" for node in graph.nodes)
    assert "experts taken together: layers 1, 2: what AXK1MoE writes is not the sum" in graph.caption()


def test_graphs_of_several_stacks_say_that_experts_stay_together():
    model = model_of("switch_transformers", "sequences")
    trace = fg.trace(fg.load_model(model), fg.inputs(ids=IDS, target_ids=[0, 5, 6]))
    assert "experts taken together: in graphs of several stacks" in fg.build_graph(trace, readings=False).caption()


def test_recorded_weights_keep_experts_and_sinks(tmp_path):
    for model_type, method in (("qwen2_moe", "proximity"), ("gpt_oss", "attention")):
        trace = traced(model_type)
        trace.record(methods=[method]).save(tmp_path / f"{model_type}.safetensors")
        again = fg.Trace.load(tmp_path / f"{model_type}.safetensors")
        one, two = (fg.build_graph(x, method=method, level="head", readings=False) for x in (trace, again))
        assert one.nodes == two.nodes
        np.testing.assert_array_equal(one.share, two.share)


def test_graphs_of_experts_are_drawn_and_written(tmp_path):
    trace = traced("gpt_oss")
    for method in ("proximity", "attention"):
        graph = fg.build_graph(trace, method=method, level="head")
        for ending in ("svg", "html", "json", "graphml", "gexf", "dot", "csv", "neuronpedia.json"):
            graph.save(tmp_path / f"{method}.{ending}")
        again = fg.import_graph(tmp_path / f"{method}.json")
        assert again.nodes == graph.nodes
    text = (tmp_path / "proximity.svg").read_text()
    assert "expert, its number" in text
    assert "sink, a key that holds nothing" in (tmp_path / "attention.svg").read_text()


@pytest.mark.parametrize("model_type", ["mixtral", "qwen2_moe", "gpt_oss", "llama4_text", "granitemoeshared"])
def test_an_expert_that_is_taken_out_gives_nothing(model_type):
    """As if its matrices that write were zero; where it was not chosen nothing changes."""
    trace = traced(model_type)
    one, position = told_apart(trace)[1], 2
    number = int(one.index[position, 0])
    model = deepcopy(trace.model.model)
    experts = fg.load_model(model).anatomy.blocks[1].mlp.experts
    with torch.no_grad():
        experts.down_proj[number] = 0.0
        if hasattr(experts, "down_proj_bias"):
            experts.down_proj_bias[number] = 0.0
        said = model(torch.tensor([IDS])).logits[0, -1].log_softmax(-1)
    node, use = fg.Node("expert", layer=1, index=number), {"target": trace.target, "metric": fg.log_probability}
    effect = fg.ablate(trace.model, IDS, node, **use)
    assert float(effect.after[0]) == pytest.approx(float(said[trace.target]), rel=1e-4)
    for absent in {0, 1, 2, 3} - set(one.index[position].tolist()):
        unchanged = fg.ablate(trace.model, IDS, fg.Node("expert", layer=1, index=absent, position=position), **use)
        np.testing.assert_allclose(unchanged.after, unchanged.before, atol=1e-6)
    other = [21, 32, 43, 54, 65, 76]
    swapped = fg.patch(trace.model, IDS, other, [fg.Node("expert", layer=1, index=n) for n in range(4)], **use)
    parts = told_apart(trace)[1]
    if parts.shared is None:
        # All experts of a layer together are its MLP.
        whole = fg.patch(trace.model, IDS, other, fg.Node("mlp", layer=1), **use)
        np.testing.assert_allclose(swapped.after, whole.after, rtol=1e-4)
    same = fg.patch(trace.model, IDS, IDS, node, **use)
    np.testing.assert_allclose(same.after, same.before, atol=1e-5)


def test_experts_that_are_not_there_cannot_be_changed():
    trace = traced("mixtral")
    with pytest.raises(ArgumentError, match="index=4 does not exist"):
        fg.ablate(trace.model, IDS, fg.Node("expert", layer=1, index=4))
    with pytest.raises(UnsupportedReadingError, match="layer 0 is no mixture of experts"):
        fg.ablate(traced("falcon_h1").model, IDS, fg.Node("expert", layer=0, index=0))
    switch = fg.load_model(model_of("switch_transformers", "sequences"))
    with pytest.raises(UnsupportedReadingError, match="SwitchTransformersSparseMLP calls its experts in a way"):
        fg.ablate(
            switch, fg.inputs(ids=IDS, target_ids=[0, 5, 6]), fg.Node("expert", layer=0, index=0, stack="encoder")
        )
