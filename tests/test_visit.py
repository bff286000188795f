"""The graph in VISIT's style agrees with two graphs of the original on tiny models, but for what the original gets wrong."""

from __future__ import annotations

import math
from collections import Counter

import networkx
import numpy as np
import pytest
import torch
import transformers

import flowgraph
from flowgraph.errors import ArgumentError, GraphTooLargeError, UnsupportedReadingError
from flowgraph.lenses.logit_lens import read, unembed
from flowgraph.models.attention_weights import attention_weights
from flowgraph.semantic.visit import projected, visit_graph
from flowgraph.semantic.visit.choice import selected
from tests.conftest import DECODERS, IDS, JAPAN
from tests.tiny_models import TINY
from tests.visit_fixture import ORIGINALS, edges_of, pair_of, same_list, stands_as

REFUSED = ("gemma2", "gemma3", "opt_post_norm", "bert", "roberta", "distilbert", "bert_headless")
DRAWN = tuple(name for name in TINY if name not in REFUSED)
SMALL = {"top_neurons": 6, "bottom_neurons": 3, "sources_per_head": 2}


# The original's graphs


@pytest.fixture(scope="module", params=ORIGINALS)
def pair(request):
    return pair_of(request.param)


def wrong_vectors(pair):
    """Nodes whose vector the original computes wrongly; :func:`test_what_is_left_out_is_wrong` says how."""
    kinds = ("query", "qkv", "concat_heads") if pair.name == "gpt2" else ("key", "concat_heads")
    return {label for label, node in pair.node.items() if node.kind in kinds}


def wrong_weights(pair):
    """Edges whose weight the original computes from such a vector, or from another layer's state."""
    if pair.name == "gpt2":
        return {edge for edge in pair.edges if ".query@" in edge[1]}
    return {("L0.resid_post@7", "L1.attn_norm@7"), ("L0.resid_post@7", "L1.resid_mid@7")}


def row_of_weights(trace, node):
    """[d_model] the row of W_O or W_out that a node stands for."""
    block = trace.model.anatomy.blocks[node.layer]
    return {"row": block.attention_output.weight, "neuron": block.mlp_output.weight}[node.kind][node.index]


def test_the_models_are_those_of_the_original(pair):
    facts = pair.original["model"]
    assert int(pair.trace.logits.argmax()) == facts["best_token"]
    np.testing.assert_allclose(pair.trace.logits[:8], facts["first_logits"], atol=2e-5)
    states = [pair.trace.resid_pre[0], *pair.trace.resid_post[:-1]]
    np.testing.assert_allclose([float(s[-1].norm()) for s in states], facts["state_norms"][:-1], atol=2e-5)


def test_the_same_nodes_and_edges(pair):
    assert set(pair.node) == set(pair.nodes)
    assert set(pair.edges) == set(pair.expected)
    assert (len(pair.graph.nodes), len(pair.graph)) == {"gpt2": (187, 267), "llama": (119, 168)}[pair.name]
    assert {pair.graph.unit_of(e) for e in range(len(pair.graph))} == {"visit"}


def test_the_same_tokens(pair):
    """The lowest tokens of a row with a negative activation stand first, because they are what it promotes."""
    left_out = wrong_vectors(pair)
    compared = [label for label in pair.nodes if label not in left_out]
    assert len(compared) == {"gpt2": 169, "llama": 101}[pair.name]
    word = pair.trace.model.vocabulary.strings
    for label in compared:
        assert same_list(pair.readings[label].top, word(pair.nodes[label]["tokens"])), label


def test_the_target_stands_the_same(pair):
    left_out, compared = wrong_vectors(pair), Counter()
    for label, expected in pair.nodes.items():
        reading = pair.readings[label]
        if label in left_out:
            continue
        if expected.get("lowest"):
            compared["lowest"] += 1
            # Theirs is of the row itself; ours of minus the row, which is written.
            row = row_of_weights(pair.trace, pair.node[label])
            plus, minus = read(pair.trace, torch.stack([row, -row]), 5)
            assert stands_as(plus, expected), label
            assert (reading.target_rank, reading.target_probability) == (
                minus.target_rank, pytest.approx(minus.target_probability, rel=1e-4)
            ), label  # fmt: skip
            continue
        compared["top"] += 1
        assert stands_as(reading, expected), label
        if "bits" in expected:
            low, high = expected["bits"]
            assert low - 1e-3 <= reading.entropy / math.log(2) <= high + 1e-3, label
    assert compared == {"gpt2": {"top": 151, "lowest": 18}, "llama": {"top": 89, "lowest": 12}}[pair.name]


def test_the_same_numbers_on_nodes(pair):
    left_out, compared = wrong_vectors(pair), Counter()
    for label, expected in pair.nodes.items():
        reading, node = pair.readings[label], pair.node[label]
        measured = {"attention": reading.activation, "activation": reading.activation}
        if label not in left_out and not (pair.name == "llama" and label == "L0.resid_post@7"):
            # Version 2 keeps the query's length after its factor.
            measured["norm"] = reading.norm * (0.2 if pair.version == 2 and node.kind == "query" else 1)
        if "written" in expected and node.kind in ("row", "neuron"):
            measured["written"] = reading.activation * reading.norm
        for name in expected.keys() & measured.keys():
            compared[name] += 1
            assert measured[name] == pytest.approx(expected[name], abs=0.002), (label, name)
    assert (
        compared
        == {
            "gpt2": {"attention": 48, "norm": 84, "activation": 54, "written": 54},
            "llama": {"attention": 32, "norm": 41, "activation": 36, "written": 36},
        }[pair.name]
    )


def test_the_same_weights(pair):
    left_out = wrong_weights(pair)
    compared = [edge for edge in pair.expected if edge not in left_out]
    assert len(compared) == {"gpt2": 267 - 12, "llama": 168 - 2}[pair.name]
    found, expected = (np.array([weights[edge] for edge in compared]) for weights in (pair.edges, pair.expected))
    np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_what_is_left_out_is_wrong(pair):
    """The original's numbers that ours differ from are these wrong formulas, each one made again here."""
    trace, t = pair.trace, 7
    word = trace.model.vocabulary.strings
    for layer in range(trace.n_layers):
        W_Q, W_K = (attention_weights(trace.model.anatomy, layer, role)[0] for role in ("query", "key"))
        full_Q, full_K = (w.transpose(0, 1).reshape(48, 48) for w in (W_Q, W_K))
        wrong = {f"L{layer}.concat_heads@7": trace.z[layer, :, t].reshape(-1)}
        for h in range(4):
            if pair.name == "gpt2":
                # q W_K in place of q W_Kᵀ
                query = torch.zeros(48)
                query[12 * h : 12 * (h + 1)] = trace.q[layer, h, t]
                wrong[f"L{layer}H{h}.query@7"] = query @ full_K
                width = pair.expected[f"L{layer}.qkv@7", f"L{layer}H{h}.query@7"]
                assert width == pytest.approx(0.2 * float((query @ full_K).norm()), abs=2e-4)
                continue
            for i in trace.pattern[layer, h, t].topk(2).indices.tolist():
                # W_Qᵀ k in place of W_Q k, and the rotation of position i left in it
                key = torch.zeros(48)
                key[12 * h : 12 * (h + 1)] = trace.k[layer, h, i]
                wrong[f"L{layer}H{h}.key[{i}]@7"] = full_Q.T @ key
        if pair.name == "gpt2":
            wrong[f"L{layer}.qkv@7"] = trace.q[layer, :, t].reshape(-1) @ full_K
        for label, vector in wrong.items():
            reading = read(trace, vector[None], 5)[0]
            assert same_list(reading.top, word(pair.nodes[label]["tokens"])), label
            assert stands_as(reading, pair.nodes[label]), label
    if pair.name == "llama":
        # The state that enters the second layer has the length of the one that enters the first.
        for edge in wrong_weights(pair):
            assert pair.expected[edge] == pytest.approx(float(trace.resid_pre[0, t].norm()), abs=1e-3)
            assert pair.edges[edge] == pytest.approx(float(trace.resid_pre[1, t].norm()), abs=1e-3)


def test_own_keys_and_values(pair):
    """Keys (in GPT-2, where the original has them right) and values of the position itself, all heads and each."""
    compared = 0
    for layer in range(pair.trace.n_layers):
        own = projected(pair.trace, layer, 7)
        for side, name in (("k", "key"), ("v", "value")):
            if side == "k" and pair.name == "llama":
                continue
            vectors = torch.cat([own[name].sum(0)[None], own[name]])
            labels = [f"L{layer}.qkv@7", *(f"L{layer}H{h}.query@7" for h in range(4))]
            for label, reading in zip(labels, read(pair.trace, vectors, 5), strict=True):
                expected = pair.nodes[label][side]
                compared += 1
                word = pair.trace.model.vocabulary.strings
                assert same_list(reading.top, word(expected["tokens"])), label
                assert stands_as(reading, expected), label
    assert compared == {"gpt2": 30, "llama": 10}[pair.name]


# By hand


def hand_made_model():
    """A block of GPT-2 with two dimensions: both tokens are (1, −1) after every norm, so that attention is even."""
    config = transformers.GPT2Config(
        vocab_size=3, n_embd=2, n_layer=1, n_head=1, n_positions=2, n_inner=2, attn_implementation="eager",
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        model = transformers.GPT2LMHeadModel(config)
    block, one = model.transformer.h[0], torch.eye(2)
    for parameter in model.parameters():
        parameter.data.zero_()
    for norm in (block.ln_1, block.ln_2, model.transformer.ln_f):
        norm.weight.data.fill_(1)
    model.transformer.wte.weight.data.copy_(torch.tensor([[2.0, 0.0], [4.0, 0.0], [0.0, 1.0]]))
    block.attn.c_attn.weight.data.copy_(torch.cat([2 * one, one, one], 1))
    block.attn.c_attn.bias.data[:2] = torch.tensor([1.0, 6.0])
    block.attn.c_proj.weight.data.copy_(one)
    block.attn.c_proj.bias.data.copy_(torch.tensor([0.0, 1.0]))
    block.mlp.c_fc.weight.data.copy_(one)
    block.mlp.c_fc.bias.data.copy_(torch.tensor([3.0, 4.0]))
    block.mlp.c_proj.weight.data.copy_(2 * one)
    block.mlp.c_proj.bias.data.copy_(torch.tensor([6.0, 8.0]))
    return flowgraph.load_model(model.eval())


def test_by_hand():
    """Every width from pen and paper: x = (4, 0), x̂ = (1, −1), q = 2x̂ + (1, 6) = (3, 4), z = v = (1, −1)."""
    trace = flowgraph.trace(hand_made_model(), [0, 1])
    graph = visit_graph(trace, version=1, sources_per_head=1, top_neurons=1, bottom_neurons=1)
    root2 = 1.414
    # GELU(1 + 3) = 4 and GELU(−1 + 4) = 2.996, both times a row of length 2; the MLP adds (8, 5.993) + (6, 8).
    assert trace.resid_mid[0, 1].tolist() == pytest.approx([5, 0], abs=1e-4)
    written = trace.mlp_out[0, 1].tolist()
    assert written == pytest.approx([14, 13.993], abs=2e-3)
    expected = {
        ("L0.resid_pre@1", "L0.attn_norm@1"): 4,
        ("L0.resid_pre@1", "L0.resid_mid@1"): 4,
        ("L0.attn_norm@1", "L0.qkv@1"): root2,
        ("L0.qkv@1", "L0H0.query@1"): 0.2 * 5,
        ("L0H0.query@1", "L0H0.key[0]@1"): 10 * 0.5,
        ("L0H0.key[0]@1", "L0H0.value[0]@1"): 10 * 0.5,
        ("L0H0.value[0]@1", "L0H0@1"): 1.3 * 0.5 * root2,
        ("L0H0@1", "L0.concat_heads@1"): 1.8 * root2,
        ("L0.concat_heads@1", "L0.W_O[0]@1"): 7,
        ("L0.concat_heads@1", "L0.W_O[1]@1"): 7,
        ("L0.W_O[0]@1", "L0.attn@1"): 1,
        ("L0.W_O[1]@1", "L0.attn@1"): 1,
        ("L0.concat_heads@1", "L0.attn_bias@1"): 7,
        ("L0.attn_bias@1", "L0.attn@1"): 1,
        ("L0.attn@1", "L0.resid_mid@1"): 1,
        ("L0.resid_mid@1", "L0.mlp_norm@1"): 5,
        ("L0.resid_mid@1", "L0.resid_post@1"): 5,
        ("L0.mlp_norm@1", "L0N0.in@1"): 7,
        ("L0.mlp_norm@1", "L0N1.in@1"): 7,
        ("L0N0.in@1", "L0N0@1"): 1.5 * 4,
        ("L0N1.in@1", "L0N1@1"): 1.5 * 2.996,
        ("L0N0@1", "L0.mlp@1"): 8,
        ("L0N1@1", "L0.mlp@1"): 5.993,
        ("L0.mlp_norm@1", "L0.mlp_bias_in@1"): root2,
        ("L0.mlp_bias_in@1", "L0.mlp_bias@1"): 0.05,
        ("L0.mlp_bias@1", "L0.mlp@1"): 10,
        ("L0.mlp@1", "L0.resid_post@1"): math.hypot(14, 13.993),
    }
    found = edges_of(graph)
    last = found.pop(("L0.mlp@1", "L0.resid_post@1"))
    assert last == pytest.approx(expected.pop(("L0.mlp@1", "L0.resid_post@1")), abs=2e-3)
    assert found == pytest.approx(expected, abs=1.1e-3)
    assert sum(found.values()) > 100  # the numbers above are not all small against the tolerance
    norms = {str(node): reading.norm for node, reading in zip(graph.nodes, graph.readings, strict=True)}
    # r = W_Q k = 2 (1, −1); W_K q = q; the bias of the neurons' input through W_out is 2 · (3, 4)
    assert norms["L0H0.key[0]@1"] == pytest.approx(2 * math.sqrt(2), abs=1e-4)
    assert norms["L0.qkv@1"] == pytest.approx(5, abs=1e-4)
    assert norms["L0.mlp_bias_in@1"] == pytest.approx(10)
    assert norms["L0.concat_heads@1"] == pytest.approx(math.sqrt(2), abs=1e-4)


# Rules, on every family it draws


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("name", DRAWN)
def test_every_family(traces, name, version):
    trace = traces(name)
    graph = visit_graph(trace, version=version, **SMALL)
    as_networkx = graph.to_networkx()
    assert networkx.is_weakly_connected(as_networkx)
    assert networkx.is_directed_acyclic_graph(as_networkx)
    assert np.isfinite(graph.weight).all()
    assert (graph.weight >= 0).all()
    for node, reading in zip(graph.nodes, graph.readings, strict=True):
        assert math.isfinite(reading.norm)
        if node.kind == "concat_heads":
            assert reading.top == ()
        else:
            assert all(
                map(math.isfinite, (reading.entropy, reading.target_logit, *(x for e in reading.top for x in e[1:])))
            )
    block = trace.model.anatomy.blocks[0]
    biases = [block.attention_output.bias, block.mlp_input.bias, block.mlp_output.bias]
    parallel = trace.wiring == "parallel"
    states = 9 - parallel + sum(bias is not None for bias in biases)
    edges = 7 - parallel + 2 * (biases[0] is not None) + 3 * (biases[1] is not None and biases[2] is not None)
    h, m, n, layers = trace.n_heads, 2, 9, trace.n_layers
    assert len(graph.nodes) == layers * (states - 1 + h * (2 + 2 * m) + 3 * n) + 1
    assert len(graph) == layers * (edges + h * (2 + 3 * m) + 5 * n)


def test_counts(traces):
    """The original's formulas, for blocks with all biases: the state that enters is the one that left the layer before."""
    trace = traces("gpt2")
    for h, m, top, bottom in ((4, 2, 20, 10), (2, 1, 3, 0), (1, 5, 0, 4)):
        sizes = {"heads": h, "sources_per_head": m, "top_neurons": top, "bottom_neurons": bottom}
        nodes, edges = 12 + h * (2 + 2 * m) + 3 * (top + bottom), 12 + h * (2 + 3 * m) + 5 * (top + bottom)
        one, both = (visit_graph(trace, layers=layers, version=1, **sizes) for layers in (1, (0, 2)))
        assert (len(one.nodes), len(one)) == (nodes, edges)
        assert (len(both.nodes), len(both)) == (2 * nodes - 1, 2 * edges)


@pytest.mark.parametrize(
    ("version", "name", "heads", "sources", "top", "bottom"),
    [
        (1, "gpt2", 4, 2, 20, 10),
        (1, "gptj", 4, 2, 10, 5),
        (2, "gpt2", 4, 2, 18, 7),
        (2, "llama", 4, 1, 18, 7),
        (2, "gptj", 4, 1, 18, 7),
    ],
)
def test_defaults_of_the_versions(traces, version, name, heads, sources, top, bottom):
    graph = visit_graph(traces(name), layers=1, version=version)
    assert Counter(node.kind for node in graph.nodes) >= Counter(
        query=heads, head=heads, key=heads * sources, value=heads * sources, row=top + bottom, neuron=top + bottom
    )
    options = {"version": version, "heads": heads, "sources": sources, "top": top, "bottom": bottom}
    assert graph.info.options == options
    assert "visit, version=" in graph.caption()


@pytest.mark.parametrize("name", ["mistral", "qwen2", "qwen3", "opt", "gpt_neox"])
def test_what_is_shown(traces, name):
    """By signed activation · length, by attention, by the length of z; and the tokens that an activation promotes."""
    trace = traces(name)
    anatomy, t = trace.model.anatomy, 4
    sizes = {"top_neurons": 8, "bottom_neurons": 12, "sources_per_head": 3}
    graph = visit_graph(trace, layers=1, position=t, heads=2, **sizes)
    shown = {kind: [n.index for n in graph.nodes if n.kind == kind] for kind in ("row", "neuron", "neuron_in")}
    block = anatomy.blocks[1]
    z = trace.z[1, :, t]
    for kind, weight, amounts in (
        ("row", block.attention_output.weight, z.reshape(-1)),
        ("neuron", block.mlp_output.weight, trace.neurons[1, t]),
    ):
        measure = np.array([float(a) * float(row.norm()) for a, row in zip(amounts, weight, strict=True)])
        ranked = sorted(measure)
        assert sorted(measure[shown[kind]]) == pytest.approx([*ranked[:12], *ranked[-8:]])
        for node, reading in zip(graph.nodes, graph.readings, strict=True):
            if node.kind == kind:
                assert reading.activation == pytest.approx(float(amounts[node.index]))
                row = weight[node.index]
                plain = read(trace, row[None], 5)
                highest, lowest = plain.top_token_ids[0].tolist(), plain.bottom_token_ids[0].tolist()
                is_negative = reading.activation < 0
                logits = unembed(trace, -row if is_negative else row)
                for entries, ids in zip(
                    (reading.top, reading.bottom), (lowest, highest) if is_negative else (highest, lowest), strict=True
                ):
                    assert [token for token, *_ in entries] == list(trace.model.vocabulary.strings(ids))
                    np.testing.assert_allclose([logit for *_, logit in entries], logits[ids], atol=1e-4)
                    np.testing.assert_allclose([p for _, p, _ in entries], logits.softmax(-1)[ids], rtol=1e-3)
    assert sorted(shown["neuron_in"]) == sorted(shown["neuron"])
    heads = sorted(sorted(range(trace.n_heads), key=lambda h: -float(z[h].norm()))[:2])
    assert [n.head for n in graph.nodes if n.kind == "query"] == heads
    for h in heads:
        best = sorted(range(t + 1), key=lambda i: -float(trace.pattern[1, h, t, i]))[:3]
        for kind in ("key", "value"):
            assert [n.index for n in graph.nodes if n.kind == kind and n.head == h] == best
    for e, (source, target) in enumerate(zip(graph.source, graph.target, strict=True)):
        ends = (graph.nodes[source], graph.nodes[target])
        sources = {node.index for node in ends if node.kind in ("key", "value")} or {t}
        assert {int(graph.key_pos[e])} == sources
        assert (graph.layer[e], graph.query_pos[e]) == (1, t)
        assert graph.head[e] in {
            -1,
            *(node.head for node in ends),
            *(node.index // anatomy.d_head for node in ends if node.kind == "row"),
        }
        assert (graph.head[e] >= 0) == any(node.head is not None or node.kind == "row" for node in ends)
    chosen = visit_graph(trace, layers=1, heads=[3, 0, 3])
    assert [n.head for n in chosen.nodes if n.kind == "query"] == [0, 3]
    assert chosen.info.options["heads"] == "0 3"


@pytest.mark.parametrize("name", ["llama", "gpt2", "mistral", "qwen2", "gptj", "gpt_neox"])
def test_a_position_sees_what_a_shorter_prompt_would(tiny, traces, name):
    """Drawn at an earlier position, the graph is that of the prompt that ends there."""
    target = traces(name).target
    short = visit_graph(flowgraph.trace(tiny(name), IDS[:4], target=target), **SMALL)
    inside = visit_graph(traces(name), position=-4, **SMALL)
    assert inside.nodes == short.nodes
    np.testing.assert_allclose(inside.weight, short.weight, atol=0.011)  # one step of rounding, times ten
    ranks = [[r.target_rank for r in g.readings if r.target_rank] for g in (inside, short)]
    assert ranks[0] == ranks[1]


@pytest.mark.parametrize("name", ["llama", "gpt2", "qwen3", "gpt_neo"])
def test_the_first_position_attends_to_itself(traces, name):
    """With one source, its value is what the head writes, and all values and the bias are what attention adds."""
    trace = traces(name)
    graph = visit_graph(trace, layers=0, position=0, sources_per_head=2)
    readings = {str(node): reading for node, reading in zip(graph.nodes, graph.readings, strict=True)}
    weights = edges_of(graph)
    for h in range(trace.n_heads):
        assert weights[f"L0H{h}.query@0", f"L0H{h}.key[0]@0"] == 10
        value, head = readings[f"L0H{h}.value[0]@0"], readings[f"L0H{h}@0"]
        assert (value.norm, value.target_logit) == pytest.approx((head.norm, head.target_logit), rel=1e-4)
    bias = trace.model.anatomy.blocks[0].attention_output.bias
    added = projected(trace, 0, 0)["value"].sum(0) + (0 if bias is None else bias)
    np.testing.assert_allclose(added, trace.attn_out[0, 0], atol=1e-5)


@pytest.mark.parametrize("name", ["gptj", "gpt_neox"])
def test_parallel_blocks(traces, name):
    graph = visit_graph(traces(name), layers=0, **SMALL)
    at = {node.kind: str(node) for node in graph.nodes}
    weights, norms = edges_of(graph), {str(n): r.norm for n, r in zip(graph.nodes, graph.readings, strict=True)}
    assert "resid_mid" not in at
    for source, target in (
        ("resid_pre", "attn_norm"), ("resid_pre", "mlp_norm"), ("resid_pre", "resid_post"), ("attn", "resid_post"),
        ("mlp", "resid_post"),
    ):  # fmt: skip
        assert weights[at[source], at[target]] == pytest.approx(norms[at[source]], abs=6e-4)
    into = [source for source, target in weights if target == at["resid_post"]]
    assert len(into) == 3
    # GPT-J has one norm for both, GPT-NeoX two.
    assert (norms[at["attn_norm"]] == pytest.approx(norms[at["mlp_norm"]])) == (name == "gptj")


def test_targets_layers_and_files(tiny, traces, tmp_path):
    trace = traces("llama")
    graph = visit_graph(trace, target=9, k=3, **SMALL)
    assert (graph.info.target, graph.info.method, graph.info.unit, graph.info.layers) == (9, "visit", "visit", (0, 2))
    first = read(trace, trace.resid_pre[0, -1:], 3, target=9)[0]
    found = graph.readings[0]
    assert (found.target_rank, [token for token, *_ in found.top]) == (first.target_rank, [t for t, *_ in first.top])
    assert found.target_logit == pytest.approx(first.target_logit, abs=1e-4)
    assert {len(r.top) for n, r in zip(graph.nodes, graph.readings, strict=True) if n.kind != "concat_heads"} == {3}
    window = flowgraph.trace(tiny("llama"), IDS, keep=flowgraph.TraceSites(layers=(1, 2)))
    part, whole = visit_graph(window, **SMALL), visit_graph(trace, layers=1, **SMALL)
    assert part.nodes == whole.nodes
    np.testing.assert_allclose(part.weight, whole.weight, atol=0.011)
    graph.save(tmp_path / "visit.json")
    back = flowgraph.FlowGraph.load(tmp_path / "visit.json")
    assert (back.nodes, back.readings, back.info) == (graph.nodes, graph.readings, graph.info)
    assert {back.unit_of(e) for e in range(len(back))} == {"visit"}
    np.testing.assert_array_equal(back.weight, graph.weight)


@pytest.mark.parametrize("name", REFUSED)
def test_refused(traces, name):
    trace = traces(name)
    if name == "bert_headless":
        with pytest.raises(UnsupportedReadingError, match="has no head"):
            visit_graph(trace)
        return
    why = "norms what attention and MLP add" if name.startswith("gemma") else "no norm before its head"
    with pytest.raises(UnsupportedReadingError, match=rf"family '{trace.family}'.*{why}"):
        visit_graph(trace)
    assert name in DECODERS or name in ("bert", "roberta", "distilbert")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"layers": 2}, ArgumentError, "layers=2 is not within the trace's layers 0…1"),
        ({"layers": (1, 1)}, ArgumentError, "is not within"),
        ({"position": 7}, ArgumentError, r"position=7 is outside the prompt of 7 tokens \(0…6"),
        ({"position": -8}, ArgumentError, "position=-8 is outside"),
        ({"heads": 9}, ArgumentError, "heads=9 must be between 1 and 4"),
        ({"heads": []}, ArgumentError, r"heads=\[\] must name heads of 0…3"),
        ({"heads": [0, 4]}, ArgumentError, r"heads=\[0, 4\] must name heads of 0…3"),
        ({"sources_per_head": 0}, ArgumentError, "sources_per_head=0 must be at least 1"),
        ({"top_neurons": -1}, ArgumentError, "top_neurons=-1 must be at least 0"),
        ({"bottom_neurons": -1}, ArgumentError, "bottom_neurons=-1 must be at least 0"),
        ({"top_neurons": 30}, ArgumentError, "top_neurons=30 and bottom_neurons=7 are more than the 32 there are"),
        ({"k": 0}, ArgumentError, "k=0 must be between 1 and"),
        ({"target": 10**6}, flowgraph.TargetError, "1000000"),
        ({"max_nodes": 20}, GraphTooLargeError, r"about .* nodes, more than max_nodes=20; take fewer"),
    ],
)
def test_bad_arguments(traces, options, error, message):
    with pytest.raises(error, match=message):
        visit_graph(traces("llama"), **options)


def test_versions_are_two(traces):
    with pytest.raises(ArgumentError, match="version=3 is not a version of VISIT; expected 1 or 2"):
        selected(traces("llama"), 3, heads=None, sources=None, top=None, bottom=None)


def test_the_stated_size_is_the_size(traces):
    for name in ("gpt2", "gptj", "llama"):
        size = len(visit_graph(traces(name)).nodes)
        assert len(visit_graph(traces(name), max_nodes=size).nodes) == size
        with pytest.raises(GraphTooLargeError, match=f"about {size:,} nodes"):
            visit_graph(traces(name), max_nodes=size - 1)


@pytest.mark.real_model
def test_the_real_model(smollm2):
    trace = flowgraph.trace(smollm2, JAPAN)
    graph = visit_graph(trace, layers=23)
    readings = {str(node): reading for node, reading in zip(graph.nodes, graph.readings, strict=True)}
    last = next(reading for label, reading in readings.items() if ".resid_post" in label)
    assert last.norm == pytest.approx(float(trace.resid_post[23, -1].norm()), rel=1e-4)
    assert {node.kind for node in graph.nodes} >= {"qkv", "concat_heads", "row", "neuron_in"}
    assert np.isfinite(graph.weight).all()
