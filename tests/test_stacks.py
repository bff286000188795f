"""Encoder–decoders: two stacks and the attention between them, found, proved, traced, drawn and saved.

Every model is tiny and random, its biases and those of its logits included.
"""

from __future__ import annotations

import copy
import itertools
from functools import cache

import numpy as np
import pytest
import torch
import transformers

import flowgraph as fg
from flowgraph.algorithms.attention import layer_matrices
from flowgraph.errors import ArgumentError, FileFormatError, PromptError, UnsupportedReadingError
from flowgraph.methods.logits import total
from flowgraph.models.eager import eager_attention
from flowgraph.models.stacks import start_id
from tests.every_type import feed_of, model_of
from tests.tiny_models import tiny_model
from tests.tiny_translator import PAIRS, translator

SEQUENTIAL = (
    "t5", "mt5", "umt5", "mbart", "pegasus", "m2m_100", "blenderbot", "switch_transformers", "longt5", "nllb-moe", "t5gemma",
)  # fmt: skip
POST_NORM = ("bart", "marian", "plbart", "mvp", "blenderbot-small")
WITHOUT_ENCODER = ("led", "pegasus_x", "bigbird_pegasus")
SOURCE, TARGET = [5, 6, 7, 8, 9, 10, 11, 12], [9, 8, 7, 6]
S, T = len(SOURCE), len(TARGET) + 1


@cache
def loaded_of(model_type: str) -> fg.LoadedModel:
    model = model_of(model_type, "sequences").eval()
    torch.manual_seed(3)
    with torch.no_grad():
        for name, values in itertools.chain(model.named_parameters(), model.named_buffers()):
            if name.endswith("bias") and values.is_floating_point():
                values.normal_(0, 0.3)
    return fg.load_model(model)


@cache
def trace_of(model_type: str) -> fg.Trace:
    return fg.trace(loaded_of(model_type), fg.inputs(ids=SOURCE, target_ids=TARGET))


def parts_of(model):
    return {"input_ids": torch.tensor([SOURCE])}, torch.tensor([[model.config.decoder_start_token_id or 0, *TARGET]])


@pytest.mark.parametrize("model_type", [*SEQUENTIAL, *POST_NORM])
def test_both_stacks_open_whole(model_type):
    loaded = loaded_of(model_type)
    assert loaded.level == "full"
    assert loaded.stacks["encoder"].level == "stream"
    assert max(loaded.proof.values()) < 1e-5, loaded.proof
    assert sum("to the other stack" in name for name in loaded.proof) == 4
    trace = trace_of(model_type)
    with torch.no_grad(), eager_attention(loaded.model):
        said = loaded.model(**trace.fed.feed(loaded), output_attentions=True)
    torch.testing.assert_close(trace.logits, said.logits[0, -1], rtol=1e-5, atol=1e-5)
    assert torch.equal(trace.pattern, torch.cat(said.decoder_attentions))
    assert torch.equal(trace.cross_pattern, torch.cat(said.cross_attentions))
    if "encoder" in trace.stacks and said.encoder_attentions and model_type != "longt5":
        assert torch.equal(trace.stacks["encoder"].pattern, torch.cat(said.encoder_attentions))
    for k in (1, 3):
        assert fg.logit_lens(trace)[-1, -1].top[k - 1][0] == trace.predictions(k).columns["token"][k - 1]


@pytest.mark.parametrize("model_type", WITHOUT_ENCODER)
def test_the_decoder_opens_where_the_encoder_does_not(model_type):
    model = model_of(model_type, "sequences").eval()
    with pytest.warns(UserWarning, match="the encoder of .* is not traced"):
        loaded = fg.load_model(model)
    assert loaded.level == "full"
    assert not loaded.stacks
    trace = fg.trace(loaded, fg.inputs(ids=SOURCE, target_ids=TARGET))
    assert trace.attention["decoder.cross"].pattern.shape[-1] == S
    with pytest.raises(UnsupportedReadingError, match="run through its encoder, which is not traced"):
        fg.build_graph(trace)
    with pytest.raises(UnsupportedReadingError, match="run through its encoder, which is not traced"):
        fg.attention_rollout(trace)


def test_queries_that_are_scaled_behind_their_projection_are_projections():
    """Whisper multiplies queries before attention; the factor is part of the scores', and projections can be read and changed."""
    loaded = fg.load_model(model_of("whisper", "speech").eval())
    for one in (loaded, loaded.stacks["encoder"]):
        assert one.anatomy.stack.attention.query == "self_attn.q_proj"
        assert [block.scale for block in one.anatomy.blocks] == pytest.approx([one.anatomy.d_head**-0.5] * 2)
        assert max(one.proof.values()) < 1e-5
    trace = fg.trace(loaded, probe_of_sound(loaded))
    q, k = trace.sites["q"][1, :, -1].double(), trace.sites["k"][1].double()
    scores = torch.einsum("hd,htd->ht", q, k) * loaded.anatomy.d_head**-0.5
    assert trace.pattern[1, :, -1].double().numpy() == pytest.approx(scores.softmax(-1).numpy(), abs=1e-5)


def probe_of_sound(loaded):
    shape = loaded.stacks["encoder"].anatomy.layout.shape
    torch.manual_seed(4)
    return fg.inputs(audio=torch.randn(1, *shape), target_ids=[5, 6, 7])


def test_each_kind_of_attention_has_a_name():
    trace = trace_of("t5")
    attention = trace.attention
    assert list(attention) == ["decoder.self", "decoder.cross", "encoder.self"]
    assert [tuple(one.pattern.shape[1:]) for one in attention.values()] == [(4, T, T), (4, T, S), (4, S, S)]
    for one in attention.values():
        made = one.pattern @ one.v
        torch.testing.assert_close(made, one.z, rtol=1e-5, atol=1e-5)
    assert attention["decoder.cross"].out is trace.cross_out
    assert repr(trace).startswith("Trace('T5ForConditionalGeneration', 8 tokens of the encoder and 5 of the decoder")


@pytest.mark.parametrize("model_type", ["t5", "bart", "t5gemma"])
def test_a_forced_pass_gives_each_step_of_generation(model_type):
    loaded = loaded_of(model_type)
    given = fg.inputs(ids=SOURCE).of(loaded)
    row = given.rows[0]
    assert row.generated
    whole = fg.trace(loaded, given, logits="all")
    with torch.no_grad(), eager_attention(loaded.model):
        encoded, past = loaded.model.get_encoder()(input_ids=torch.tensor([SOURCE])), None
        for step, token in enumerate(row.token_ids[:6]):
            said = loaded.model(
                encoder_outputs=encoded, decoder_input_ids=torch.tensor([[token]]), past_key_values=past, use_cache=True
            )
            past = said.past_key_values
            torch.testing.assert_close(whole.logits[step], said.logits[0, -1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("model_type", SEQUENTIAL)
def test_a_logit_is_the_sum_of_parts_of_both_kinds_of_attention(model_type):
    trace = trace_of(model_type)
    parts = fg.direct_logit_attribution(trace)
    assert parts.completeness_error < 1e-5
    np.testing.assert_allclose(parts.cross_by_source.sum(-1), parts.cross_heads, rtol=1e-6, atol=1e-9)
    assert sum(parts.table().columns["logits"]) == pytest.approx(parts.logit, abs=1e-4)
    assert {"head", "cross_head"} <= set(parts.table().columns["kind"])
    weights = fg.edge_weights(trace, method="logits")
    assert total(weights) == pytest.approx(parts.logit, abs=1e-4)
    graph = fg.build_graph(weights, level="head")
    crossing = [n for n, node in enumerate(graph.nodes) if node.kind == "cross_head"]
    for n in crossing:
        node = graph.nodes[n]
        into = float(graph.weight[graph.target == n].sum())
        assert into == pytest.approx(parts.cross_heads[node.layer, node.head], abs=1e-6)


@pytest.mark.parametrize("model_type", POST_NORM)
def test_post_norm_decoders_have_no_direct_attribution(model_type):
    with pytest.raises(UnsupportedReadingError, match="post-norm"):
        fg.direct_logit_attribution(trace_of(model_type))


def by_hand(trace, states):
    """Rollout over both stacks as two recursions: [decoder, encoder] and [decoder, decoder] shares after the last layer."""
    encoder = np.eye(S)
    for matrix in states["encoder"]:
        encoder = matrix @ encoder
    own, source = np.eye(T), np.zeros((T, S))
    for matrix, (along, read) in zip(states["self"], states["cross"], strict=True):
        own, source = matrix @ own, matrix @ source
        own, source = along[:, None] * own, along[:, None] * source + read @ encoder
    return source, own


@pytest.mark.parametrize("model_type", ["t5", "bart", "t5gemma"])
def test_rollout_over_two_stacks_is_two_recursions(model_type):
    trace = trace_of(model_type)
    halves = {
        "encoder": [(one + np.eye(S)) / 2 for one in trace.stacks["encoder"].pattern.double().mean(1).numpy()],
        "self": [(one + np.eye(T)) / 2 for one in trace.pattern.double().mean(1).numpy()],
        "cross": [(np.full(T, 0.5), one / 2) for one in trace.cross_pattern.double().mean(1).numpy()],
    }
    source, own = by_hand(trace, halves)
    rollout = fg.attention_rollout(trace)
    np.testing.assert_allclose(rollout[-1, S:, :S], source, atol=1e-7)
    np.testing.assert_allclose(rollout[-1, S:, S:], own, atol=1e-7)
    # The half-half rule alone gives the source 1 − 2^−L.
    np.testing.assert_allclose(source.sum(1), 1 - 0.5**trace.n_layers, atol=1e-6)
    assert rollout.steps[-1] == f"L{trace.n_layers - 1} cross"
    assert rollout.tokens == (*trace.stacks["encoder"].tokens, *trace.tokens)
    assert "L0 self" in rollout.layer(trace.stacks["encoder"].n_layers).measure


STARTS = [
    None,
    fg.Node("resid_post", layer=0, position=2),
    fg.Node("resid_post", layer=1, position=4),
    fg.Node("resid_post", layer=1, position=5, stack="encoder"),
]


def entered(graph):
    """Weight that leaves each input, by its place among the positions of both stacks."""
    found = np.zeros(S + T)
    for source, weight in zip(graph.source, graph.weight, strict=True):
        node = graph.nodes[source]
        if node.kind == "embed":
            found[graph.info.column(node.stack, node.position)] += weight
    return found


def place_of(trace, start):
    """Row among the steps, and position among those of both stacks."""
    if start is None:
        return -1, S + trace.position
    if start.stack == "encoder":
        return start.layer, start.position
    return trace.stacks["encoder"].n_layers + 2 * start.layer + 1, S + start.position


def is_conserved(graph, start):
    into, out = np.zeros(len(graph.nodes)), np.zeros(len(graph.nodes))
    np.add.at(into, graph.target, graph.weight)
    np.add.at(out, graph.source, graph.weight)
    inner = [n for n, node in enumerate(graph.nodes) if node.kind != "embed" and str(node) != graph.info.flow_into]
    np.testing.assert_allclose(into[inner], out[inner], atol=1e-9)
    assert start is None or graph.info.flow_into == str(start)


@pytest.mark.parametrize("start", STARTS, ids=str)
@pytest.mark.parametrize("method", ["attention", "proximity"])
@pytest.mark.parametrize("model_type", ["t5", "bart"])
def test_the_graph_of_rollout_ends_in_the_rows_of_rollout(model_type, method, start):
    trace = trace_of(model_type)
    graph = fg.rollout_graph(trace, start, method=method)
    step, at = place_of(trace, start)
    row = fg.attention_rollout(trace, method=method)[step, at]
    np.testing.assert_allclose(entered(graph), row, atol=1e-9)
    is_conserved(graph, start)
    # A state is one node, whatever the other stack's steps pass it by, and no edge runs from a state to itself.
    assert len(set(graph.nodes)) == len(graph.nodes)
    assert (graph.source != graph.target).all()
    assert {node.kind for node in graph.nodes} <= {"embed", "resid_cross", "resid_post"}
    crossing = {str(graph.nodes[s]) for s, t in zip(graph.source, graph.target, strict=True)
                if graph.nodes[s].stack != graph.nodes[t].stack}  # fmt: skip
    last = trace.stacks["encoder"].n_layers - 1
    expected = {f"enc.L{last}.resid_post@{n}" for n in range(S)}
    assert crossing == (set() if start is not None and start.stack else expected)
    assert graph.info.stacks[0].tokens == trace.stacks["encoder"].tokens
    assert (graph.info.target is None) == (start is not None and (start.stack is not None or start.position == 2))


@pytest.mark.parametrize("start", STARTS, ids=str)
@pytest.mark.parametrize("source", [None, 2, S + 1])
@pytest.mark.parametrize("model_type", ["t5", "bart"])
def test_the_graph_of_flow_carries_what_attention_flow_says(model_type, source, start):
    trace = trace_of(model_type)
    graph = fg.flow_graph(trace, start, source=source)
    step, at = place_of(trace, start)
    arrives = entered(graph)
    is_conserved(graph, start)
    if source is None:
        # Rows of capacities sum to 1, so all of the start's inputs are filled.
        assert arrives.sum() == pytest.approx(1.0, abs=1e-9)
        return
    blocks = layer_matrices(trace)[: None if step == -1 else step + 1]
    value = fg.attention_flow(blocks, source=at, target=source, residual=False)
    if start is None:
        assert value == pytest.approx(fg.attention_flow(trace, source=at, target=source), abs=1e-9)
    assert arrives[source] == pytest.approx(value, abs=1e-9)
    assert arrives.sum() == pytest.approx(value, abs=1e-9)
    assert graph.info.options["source"] == (f"enc.embed@{source}" if source < S else f"embed@{source - S}")


def test_a_translator_is_explained_by_the_word_that_it_translates():
    """Its answers are known: each German word stands for the English one at its place, in a sentence that it never saw."""
    loaded = translator()
    english, german = next(pair for pair in PAIRS if pair[0] == "the car is old")
    assert fg.trace(loaded, fg.inputs(text=english)).fed.text.split() == german.split()
    place = 3
    trace = fg.trace(loaded, fg.inputs(text=english, target_text=german.rsplit(" ", 1)[0]))
    assert trace.target_token == " alt"
    source = len(trace.stacks["encoder"].tokens)
    assert (trace.cross_pattern[0, :, -1].argmax(-1) == place).all()
    assert fg.direct_logit_attribution(trace).cross_by_source.sum((0, 1)).argmax() == place
    for method in ("attention", "norms", "proximity"):
        assert fg.attention_rollout(trace, method=method)[-1, -1, :source].argmax() == place, method
    values = [fg.flow_graph(trace, source=n).info.options["value"] for n in range(source)]
    assert values[place] == max(values)


def test_graphs_of_rollout_and_flow_over_both_stacks_are_cut_drawn_and_saved(tmp_path):
    trace = trace_of("t5")
    whole = fg.rollout_graph(trace)
    for graph in (
        fg.rollout_graph(trace, top_k=12),
        fg.rollout_graph(trace, threshold=0.05),
        fg.flow_graph(trace, source=0),
    ):
        assert len(graph) < len(whole) == whole.info.total_edges
        back = fg.FlowGraph.load(graph.save(tmp_path / "graph.json"))
        assert back.nodes == graph.nodes
        assert graph.save(tmp_path / "graph.svg").stat().st_size > 500
        assert graph.explain()
    kept = fg.keep_strongest(whole, mass=0.8)
    assert fg.mass(kept) >= 0.8
    for start, match in (
        (fg.Node("resid_post", layer=3, position=0, stack="encoder"), "is not a state that a block writes"),
        (fg.Node("resid_cross", layer=1, position=0), "is not a state that a block writes"),
        (fg.Node("resid_post", layer=1, position=T), "is not a state that a block writes"),
    ):
        with pytest.raises(ArgumentError, match=match):
            fg.rollout_graph(trace, start)
    with pytest.raises(ArgumentError, match=f"source={S + T} is not one of the {S + T} tokens"):
        fg.flow_graph(trace, source=S + T)


@pytest.mark.parametrize("method", ["attention", "norms", "proximity"])
@pytest.mark.parametrize("model_type", ["t5", "bart", "t5gemma"])
def test_what_enters_a_state_is_one(model_type, method):
    weights = fg.edge_weights(trace_of(model_type), method=method)
    for level in ("token", "head"):
        graph = fg.build_graph(weights, level=level)
        assert fg.mass(graph) == pytest.approx(1.0)
        entered = np.zeros(len(graph.nodes))
        np.add.at(entered, graph.target, np.where(graph.structural, 0.0, np.abs(graph.share)))
        real = entered[entered > 0]
        np.testing.assert_allclose(real, 1.0, atol=1e-6)
        assert graph.info.total_edges == int((~graph.structural).sum())
    flow = fg.attention_flow(weights, source=-1)
    assert flow.shape == (S + T,)
    assert (np.asarray(flow) >= 0).all()


@pytest.mark.parametrize("method", ["attention", "norms", "proximity", "logits"])
@pytest.mark.parametrize("level", ["token", "head"])
def test_routes_are_the_part_of_the_graph_that_leads_to_the_start(method, level):
    weights = fg.edge_weights(trace_of("t5"), method=method)
    graph = fg.build_graph(weights, level=level, threshold=0.03)
    found = fg.routes(weights, threshold=0.03, level=level)

    def edges_of(one):
        ends = ((one.nodes[s], one.nodes[t]) for s, t in zip(one.source, one.target, strict=True))
        return {(*pair, int(k)): (w, f) for pair, k, w, f in zip(ends, one.kind, one.weight, one.flow, strict=True)}

    edges, got = edges_of(graph), edges_of(found)
    reached, grew = {next(node for node in graph.nodes if node.kind == "logit")}, True
    while grew:
        more = {source for source, target, _ in edges if target in reached} - reached
        reached |= more
        grew = bool(more)
    expected = {ends: numbers for ends, numbers in edges.items() if ends[1] in reached}
    assert got.keys() == expected.keys()
    # Weight and flow of an edge are the same, whichever way the graph was made.
    for ends, numbers in got.items():
        assert numbers == pytest.approx(expected[ends], abs=1e-9)


@pytest.mark.parametrize(
    "start",
    [
        fg.Node("resid_post", layer=1, position=2, stack="encoder"),
        fg.Node("resid_cross", layer=1, position=3),
        fg.Node("mlp", layer=0, position=4),
        fg.Node("cross_head", layer=1, head=2, position=4),
        fg.Node("head", layer=1, head=0, position=1, stack="encoder"),
    ],
    ids=str,
)
def test_flow_runs_into_any_node_of_either_stack(start):
    weights = fg.edge_weights(trace_of("t5"), method="proximity")
    graph = fg.build_graph(weights, level="head", start=start)
    assert graph.info.flow_into == str(start)
    into = graph.target == graph.nodes.index(start)
    assert graph.flow[into].sum() == pytest.approx(1.0)
    assert fg.routes(weights, start, threshold=0.02, level="head").nodes


def test_a_node_that_is_not_there_is_refused():
    weights = fg.edge_weights(trace_of("t5"), method="proximity")
    for start in (
        fg.Node("resid_cross", layer=1, position=2, stack="encoder"), fg.Node("resid_post", layer=1, position=7),
        fg.Node("cross_head", layer=0, head=0, position=0), fg.Node("resid_post", layer=5, position=0, stack="encoder"),
    ):  # fmt: skip
        with pytest.raises(ArgumentError, match="is not a node of these weights"):
            fg.routes(weights, start, threshold=0.1)


def planted(reads: int):
    """A T5 whose decoder reads position ``reads`` of the encoder in one head alone, and nothing else of it."""
    config = transformers.T5Config(
        vocab_size=40, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_decoder_layers=1, num_heads=2, decoder_start_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.T5ForConditionalGeneration(config).eval()
    attention = model.decoder.block[0].layer[1].EncDecAttention
    with torch.no_grad():
        attention.v.weight[8:] = 0.0  # the second head writes nothing, the first much
        attention.o.weight.mul_(20.0)
        # The encoder writes next to nothing, and every token but one has the same vector: the first head finds it.
        for block in model.encoder.block:
            block.layer[0].SelfAttention.o.weight.mul_(0.01)
            block.layer[1].DenseReluDense.wo.weight.mul_(0.01)
        model.shared.weight[1:9] = model.shared.weight[1]
        model.shared.weight[20] = -3 * model.shared.weight[1]
        attention.q.weight.zero_()
        attention.k.weight.zero_()
        query = model.shared.weight[0] / model.shared.weight[0].norm()
        key = model.shared.weight[20] / model.shared.weight[20].norm()
        attention.q.weight[0], attention.k.weight[0] = 8 * query, 8 * key
    return fg.load_model(model), [20 if n == reads else 2 for n in range(6)]


@pytest.mark.parametrize("reads", [0, 3, 5])
def test_a_planted_head_is_found_with_what_it_reads(reads):
    loaded, ids = planted(reads)
    trace = fg.trace(loaded, fg.inputs(ids=ids, target_ids=[0]))
    assert int(trace.cross_pattern[0, 0, -1].argmax()) == reads
    assert float(trace.cross_pattern[0, 0, -1, reads]) > 0.9
    parts = fg.direct_logit_attribution(trace)
    assert np.abs(parts.cross_heads[0, 1]) < 1e-6 < np.abs(parts.cross_heads[0, 0])
    graph = fg.build_graph(trace, level="head", threshold=0.05)
    edges = {(str(graph.nodes[s]), str(graph.nodes[t])) for s, t in zip(graph.source, graph.target, strict=True)}
    last = len(trace.tokens) - 1
    assert (f"enc.L0.resid_post@{reads}", f"L0.cross.H0@{last}") in edges
    assert not any("cross.H1" in end for ends in edges for end in ends)


@pytest.mark.parametrize("model_type", ["t5", "bart"])
def test_a_trace_of_two_stacks_is_saved_whole(model_type, tmp_path):
    trace = trace_of(model_type)
    path = trace.save(tmp_path / "two.safetensors")
    back = fg.Trace.load(path)
    assert back.fed == trace.fed
    assert back.stacks["encoder"].tokens == trace.stacks["encoder"].tokens
    for one, other in ((back, trace), (back.stacks["encoder"], trace.stacks["encoder"])):
        assert one.sites.keys() == other.sites.keys()
        assert all(torch.equal(one.sites[name], other.sites[name]) for name in one.sites)
    again = fg.trace(loaded_of(model_type), back.inputs)
    assert torch.equal(again.logits, trace.logits)
    attached = back.attach(loaded_of(model_type))
    assert fg.mass(fg.build_graph(attached)) == pytest.approx(1.0)


def test_a_file_of_two_stacks_that_do_not_fit_is_refused(tmp_path):
    from safetensors import safe_open
    from safetensors.torch import save_file

    path = trace_of("t5").save(tmp_path / "two.safetensors")
    with safe_open(path, "pt") as file:
        meta, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    for name, value in (
        ("sites.cross_pattern", tensors["sites.cross_pattern"][..., 1:]),
        ("sites.cross_pattern", tensors["sites.cross_pattern"] - 2),
    ):
        save_file({**tensors, name: value.contiguous()}, tmp_path / "bad.safetensors", meta)
        with pytest.raises(FileFormatError):
            fg.Trace.load(tmp_path / "bad.safetensors")


@pytest.mark.parametrize("model_type", ["t5", "bart"])
def test_recorded_weights_and_readings_of_two_stacks_need_no_model(model_type, tmp_path):
    trace = trace_of(model_type)
    methods = ("attention", "norms", "proximity", *(["logits"] if model_type == "t5" else []))
    sites = ("resid_post", "resid_cross", "head_out", "cross_head_out")
    recorded = trace.record(methods=methods, readings=sites)
    back = fg.Trace.load(recorded.save(tmp_path / "two.safetensors"))
    assert back.loaded is None
    for method in methods:
        weights, other = recorded.recorded_weights[method], back.recorded_weights[method]
        assert (other.joint, other.undefined, other.info) == (weights.joint, weights.undefined, weights.info)
        for level in ("token", "head"):
            graph, expected = (fg.build_graph(one, method=method, level=level) for one in (back, trace))
            assert graph.nodes == expected.nodes
            np.testing.assert_array_equal(graph.weight, expected.weight)
            for node, found, right in zip(graph.nodes, graph.readings, expected.readings, strict=True):
                if node.kind in ("resid_post", "head", "cross_head") and node.stack is None:
                    assert [token for token, *_ in found.top[: len(right.top)]] == [token for token, *_ in right.top]
            assert graph.explain()
    np.testing.assert_array_equal(fg.attention_rollout(back), fg.attention_rollout(trace))


def test_recorded_weights_that_are_not_of_these_stacks_are_refused(tmp_path):
    import json

    from safetensors import safe_open
    from safetensors.torch import save_file

    path = trace_of("t5").record(methods=["norms"]).save(tmp_path / "two.safetensors")
    with safe_open(path, "pt") as file:
        meta, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    header = json.loads(meta["flowgraph"])
    layers, (joint, info) = (
        header["trace"]["n_layers"],
        (header["weights"]["norms"][name] for name in ("joint", "info")),
    )
    assert joint["stacks"] == [["encoder", S], [None, T]]
    assert len(joint["steps"]) == header["stacks"]["encoder"]["trace"]["n_layers"] + 2 * layers
    undefined = [["resid_post", 0, S - 1, "encoder"]]
    for where, name, value, match in (
        (joint, "steps", joint["steps"][1:], r"joint\.steps\[0\] is a list of 4; expected \['encoder', 0,"),
        (joint, "steps", joint["steps"] * 2, r"joint\.steps has .* entries; at most"),
        (joint, "steps", joint["steps"][:-1], r"joint\.steps is a list of .*; expected a list of"),
        (joint, "stacks", [["encoder", S + 1], [None, T]], r"joint\.stacks\[0\]"),
        (joint, "stacks", None, r"joint\.stacks is null"),
        (header["weights"]["norms"], "joint", None, r"joint is null"),
        (info, "stacks", [], "1 stacks beside the last one"),
        (header["weights"]["norms"], "query_positions", [*range(S + T - 1), S + T], "query_positions"),
        (header["weights"]["norms"], "undefined", [["resid_post", 0, S, "encoder"]], "undefined"),
        (header["weights"]["norms"], "undefined", [["resid_post", 0, 0, "tower"]], "expected one of encoder"),
        (header["weights"]["norms"], "undefined", undefined, None),
    ):
        kept, where[name] = where[name], value
        save_file(tensors, tmp_path / "bad.safetensors", {**meta, "flowgraph": json.dumps(header)})
        where[name] = kept
        if match is None:
            back = fg.Trace.load(tmp_path / "bad.safetensors")
            assert str(back.recorded_weights["norms"].undefined[0]) == f"enc.L0.resid_post@{S - 1}"
            continue
        with pytest.raises(FileFormatError, match=match):
            fg.Trace.load(tmp_path / "bad.safetensors")


def test_files_of_one_stack_say_nothing_of_stacks(tmp_path):
    import json

    from safetensors import safe_open

    trace = fg.trace(fg.load_model(tiny_model("llama")), [5, 6, 7]).record(methods=["norms"])
    with safe_open(trace.save(tmp_path / "one.safetensors"), "pt") as file:
        said = json.loads(file.metadata()["flowgraph"])["weights"]["norms"]
    assert not {"joint", "mixer"} & said.keys()


@pytest.mark.parametrize("level", ["token", "head"])
def test_files_pages_and_pictures_hold_both_stacks(level, tmp_path):
    graph = fg.build_graph(trace_of("t5"), level=level, mass=0.9)
    for name in ("graph.json", "graph.graphml"):
        back = fg.FlowGraph.load(graph.save(tmp_path / name))
        assert back.nodes == graph.nodes
        assert back.info.stacks == graph.info.stacks
        np.testing.assert_array_equal(back.weight, graph.weight)
    assert fg.FlowGraph.from_networkx(graph.to_networkx()).nodes == graph.nodes
    table = graph.save(tmp_path / "graph.csv")
    assert table
    page = graph._repr_html_()
    assert "enc.L2.resid_post@7" in page
    for name in (
        "graph.svg",
        "graph.html",
        "graph.dot",
        "graph.gexf",
        "graph.gml",
        "graph.tex",
        "graph.pdf",
        "graph.png",
    ):
        assert graph.save(tmp_path / name).stat().st_size > 500
    text = graph.explain()
    assert "of the encoder" in str(text)


@pytest.mark.parametrize("method", ["proximity", "logits"])
def test_edges_of_a_picture_say_which_attention_they_belong_to(method):
    from flowgraph.render.scene.elements import drawing, facts

    def said(level):
        drawn = drawing(fg.build_graph(trace_of("t5"), method=method, level=level))
        graph = drawn.graph
        for e, place in zip(drawn.order.tolist(), facts(drawn)["edge_places"], strict=True):
            yield graph.nodes[graph.source[e]], graph.nodes[graph.target[e]], place

    for source, target, place in said("head"):
        head = next((node for node in (target, source) if node.kind in ("head", "cross_head")), None)
        if head is not None:
            assert place == str(fg.Node(head.kind, head.layer, head.head, stack=head.stack))
    for source, target, place in said("token"):
        if source.stack is None and target.stack is None and place:
            assert ".cross" not in place
        elif source.stack != target.stack:
            assert place in ("L0.cross", "L1.cross")
        elif target.stack == "encoder":
            assert place == f"enc.L{target.layer}"


def test_nodes_of_an_encoder_have_keys():
    node = fg.Node("head", layer=2, head=1, position=4, stack="encoder")
    for short in (False, True):
        assert fg.parse_node(fg.node_key(node, short=short)) == node
    assert str(node) == "enc.L2H1@4"
    assert str(fg.Node("cross_head", layer=2, head=1, position=4)) == "L2.cross.H1@4"
    with pytest.raises(ArgumentError, match="is not a stack"):
        fg.parse_node("tower/head.2.1.4")
    with pytest.raises(ArgumentError, match="is not a stack"):
        fg.Node("embed", position=0, stack="tower")


def test_what_the_decoder_has_written_is_given_or_generated():
    loaded = loaded_of("bart")
    start = loaded.model.config.decoder_start_token_id
    given = fg.inputs(ids=SOURCE, target_ids=TARGET).of(loaded).rows[0]
    assert given.token_ids == (start, *TARGET)
    assert given.encoder.token_ids == tuple(SOURCE)
    assert fg.inputs(ids=SOURCE, target_ids=[start, *TARGET]).of(loaded).rows[0].token_ids == (start, *TARGET)
    several = fg.trace(loaded, fg.inputs(ids=[SOURCE, SOURCE[::-1]], target_ids=[TARGET, TARGET[:2]]))
    assert [len(one.tokens) for one in several] == [5, 3]
    assert torch.equal(several[0].logits, trace_of("bart").logits)


class Endings:
    """A tokenizer that gives the same ids for every text."""

    eos_token_id, sep_token_id = 1, None

    def __init__(self, *ids, **begin):
        self.ids = ids
        self.__dict__.update(begin)

    def __call__(self, text_target):
        return {"input_ids": self.ids}


@pytest.mark.parametrize(
    ("model_type", "ids", "expected"),
    [
        ("t5", (7, 8, 1), (0, 7, 8)),
        ("t5", (7, 8), (0, 7, 8)),  # a tokenizer that adds no end
        ("mbart", (7, 8, 1, 9), (9, 7, 8)),  # the language stands last, and goes to the front
        ("whisper", (2, 5, 7, 1), (2, 5, 7)),  # the start is there already
    ],
)
def test_a_text_of_the_decoder_begins_and_ends_as_in_training(model_type, ids, expected):
    from flowgraph.models.stacks import written

    model = copy.deepcopy(model_of(model_type, "speech" if model_type == "whisper" else "sequences"))
    model.config.decoder_start_token_id = model.generation_config.decoder_start_token_id = (
        None if model_type == "mbart" else expected[0]
    )
    model.config.pad_token_id, model.config.bos_token_id = 0, 0
    assert written(model, Endings(*ids), "text").ids == expected


def test_a_decoder_that_starts_with_the_first_token_of_texts_has_it_twice():
    """BERT's decoders: as their own shift of the labels gives it."""
    from flowgraph.models.stacks import written

    model = PUT_TOGETHER["bert-bert"]()
    shifted = model.prepare_decoder_input_ids_from_labels(torch.tensor([[2, 7, 8, 3]]))[0].tolist()
    endings = Endings(2, 7, 8, 3, cls_token_id=2)
    endings.sep_token_id = 3
    assert written(model, endings, "text").ids == tuple(shifted) == (2, 2, 7, 8)


def test_labels_beside_ids_are_what_the_decoder_has_written():
    """As a training step reads them: moved by one place, without padding and the end token."""
    model = translator()
    english, german = zip(PAIRS[0], PAIRS[9], strict=True)
    given = model.tokenizer(list(english), text_target=list(german), padding=True, return_tensors="pt")
    given["labels"][given["labels"] == 0] = -100
    for trace, text, target in zip(fg.trace(model, given), english, german, strict=True):
        assert trace.fed.token_ids == fg.trace(model, fg.inputs(text=text, target_text=target)).fed.token_ids
        assert trace.fed.generated is False
    forced = dict(given) | {"decoder_input_ids": torch.tensor([[0, 4], [0, 6]])}
    assert [trace.fed.token_ids for trace in fg.trace(model, forced)] == [(0, 4), (0, 6)]
    with pytest.raises(PromptError, match=r"labels= holds 0\.5"):
        fg.trace(model, {"input_ids": [3, 7, 1], "labels": [0.5]})
    with pytest.raises(PromptError, match=r"one row of token ids for each prompt.*target_ids="):
        fg.trace(model, {"input_ids": [[3, 7, 1], [3, 7, 1]], "labels": [1, 2]})
    # No other model reads them.
    decoder = fg.load_model(tiny_model("llama"))
    with_labels = fg.inputs({"input_ids": [20, 31], "labels": [20, 31]}).of(decoder)
    assert with_labels == fg.inputs({"input_ids": [20, 31]}).of(decoder)


def test_labels_whose_language_stands_last_go_to_the_front():
    from flowgraph.models.stacks import read_of_labels

    model = copy.deepcopy(model_of("mbart", "sequences"))
    model.config.decoder_start_token_id = model.generation_config.decoder_start_token_id = None
    model.config.pad_token_id, model.config.eos_token_id = 1, 2
    expected = tuple(model.prepare_decoder_input_ids_from_labels(torch.tensor([[7, 8, 2, 9]]))[0].tolist())
    assert read_of_labels(model, None, [7, 8, 2, 9, -100, -100]).ids == expected[:-1] == (9, 7, 8)


def test_words_of_both_stacks_are_grouped(tmp_path):
    model = translator()
    english, german = PAIRS[0]
    trace = fg.trace(model, fg.inputs(text=english, target_text=german))
    for one in (trace, fg.trace(model, english)):  # given, and written by the model itself
        assert [word.strip() for word in one.grouped().tokens] == ["<pad>", *german.split()]
        assert [word.strip() for word in one.stacks["encoder"].grouped().tokens] == [*english.split(), "</s>"]
    trace.save(tmp_path / "kept.safetensors")
    assert fg.Trace.load(tmp_path / "kept.safetensors").grouped().tokens == trace.grouped().tokens
    with pytest.raises(ArgumentError, match=r"trace\.stacks\['encoder'\]\.grouped\('words'\)"):
        fg.trace(model, fg.inputs(text=english, target_ids=[4, 8])).grouped()


def test_a_start_that_the_config_does_not_name_is_no_fault():
    from flowgraph.models.stacks import written

    model = copy.deepcopy(model_of("t5", "sequences"))
    for config in (model.config, model.generation_config):
        config.__dict__.pop("decoder_start_token_id", None)
    model.config.pad_token_id = 0
    assert written(model, Endings(7, 8), "text").ids[1:] == (7, 8)


@pytest.mark.parametrize(
    ("model_type", "task"),
    [("whisper", "speech"), ("moonshine", "speech"), ("t5", "sequences"), ("mbart", "sequences")],
)
def test_what_is_generated_begins_with_what_the_decoder_begins_with(model_type, task):
    """Each token is the most probable one after those before it, the start among them."""
    model = model_of(model_type, task).eval()
    loaded = fg.load_model(model)
    feed = feed_of(loaded.stacks["encoder"])
    trace = fg.trace(loaded, fg.inputs(feed))
    ids = list(trace.token_ids)
    assert ids[0] == start_id(model)
    with torch.no_grad():
        logits = model(**feed, decoder_input_ids=torch.tensor([ids])).logits[0]
    forced = {getattr(model.generation_config, name, None) for name in ("forced_bos_token_id", "forced_eos_token_id")}
    for n, one in enumerate(ids[1:]):
        assert one == int(logits[n].argmax()) or one in forced


def test_prompts_that_do_not_fit_are_refused():
    loaded = loaded_of("bart")
    with pytest.raises(PromptError, match="token id 999 is not in this model's vocabulary"):
        fg.trace(loaded, fg.inputs(ids=[999], target_ids=TARGET))
    with pytest.raises(PromptError, match="token id 999 is not in this model's vocabulary"):
        fg.trace(loaded, fg.inputs(ids=SOURCE, target_ids=[999]))
    with pytest.raises(PromptError, match="has no tokenizer"):
        fg.trace(loaded, fg.inputs(ids=SOURCE, target_text="and so on"))
    with pytest.raises(ArgumentError, match="say the same"):
        fg.inputs(ids=SOURCE, target_ids=TARGET, target_text="and so on")
    with pytest.raises(ArgumentError, match="has 2 rows for 1 prompts"):
        fg.inputs(ids=SOURCE, target_ids=[TARGET, TARGET])
    limit = loaded.stacks["encoder"].anatomy.context
    with pytest.raises(PromptError, match=f"takes at most {limit}"):
        fg.trace(loaded, fg.inputs(ids=[5] * (limit + 1), target_ids=TARGET))
    with pytest.raises(PromptError, match="has no encoder"):
        fg.trace(fg.load_model(tiny_model("llama")), fg.inputs(ids=SOURCE, target_ids=TARGET))


def test_what_knows_one_stack_says_so():
    with pytest.raises(UnsupportedReadingError, match=r"attends twice.*take 'norms' or 'proximity' over both stacks"):
        fg.edge_weights(trace_of("t5"), method="ff")
    encoder = trace_of("t5").stacks["encoder"]
    assert fg.mass(fg.build_graph(encoder, method="ff")) == pytest.approx(1.0)


@pytest.mark.parametrize(
    "ask",
    [
        fg.attention_rollout,
        fg.rollout_graph,
        lambda trace, **more: fg.attention_flow(trace, source=0, **more),
        layer_matrices,
    ],
)
def test_stacks_are_not_followed_without_the_residual_stream(ask):
    with pytest.raises(ArgumentError, match="residual=False, but over several stacks"):
        ask(trace_of("t5"), residual=False)


def test_attention_views_show_all_attention_of_two_stacks():
    trace = trace_of("t5")
    for view in (fg.head_view, fg.model_view):
        drawn = view(trace, html_action="return")
        by_hand = view(
            encoder_attention=trace.stacks["encoder"].pattern, decoder_attention=trace.pattern,
            cross_attention=trace.cross_pattern, encoder_tokens=trace.stacks["encoder"].tokens, decoder_tokens=trace.tokens,
            html_action="return",
        )  # fmt: skip
        assert drawn.html == by_hand.html
        assert "cross: " in repr(drawn)
    with pytest.raises(ArgumentError, match="encoder_tokens= is given beside a Trace of two stacks"):
        fg.head_view(trace, encoder_tokens=["a"])
    assert "self-attention of the decoder" in fg.norm_map(trace).measure
    assert "self-attention of the decoder" in fg.mixing_ratio(trace).measure


def test_patterns_alone_are_kept_of_both_stacks():
    loaded = loaded_of("t5")
    trace = fg.trace(loaded, fg.inputs(ids=SOURCE, target_ids=TARGET), keep={"pattern", "cross_pattern"})
    assert set(trace.sites) == {"pattern", "cross_pattern"}
    assert set(trace.stacks["encoder"].sites) == {"pattern"}
    np.testing.assert_allclose(fg.attention_rollout(trace)[-1], fg.attention_rollout(trace_of("t5"))[-1], atol=1e-9)


SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}


def put_together(kind, encoder, decoder):
    torch.manual_seed(5)
    model = getattr(transformers, kind)(encoder=encoder, decoder=decoder).eval()
    model.config.decoder_start_token_id, model.config.pad_token_id = 2, 1
    return model


def gpt2():
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=80, add_cross_attention=True, is_decoder=True,
                                bos_token_id=2, eos_token_id=3)
    )  # fmt: skip


def vit():
    config = transformers.ViTConfig(**SMALL, image_size=32, patch_size=8)
    return transformers.ViTModel(config, add_pooling_layer=False)


def trocr():
    config = transformers.TrOCRConfig(
        vocab_size=80,
        d_model=32,
        decoder_layers=2,
        decoder_attention_heads=4,
        decoder_ffn_dim=64,
        max_position_embeddings=40,
    )
    return transformers.TrOCRForCausalLM(config)


def bert(**more):
    return transformers.BertConfig(**SMALL, vocab_size=80, **more)


def wav2vec2():
    config = transformers.Wav2Vec2Config(
        **SMALL, vocab_size=32, conv_dim=(16, 16), conv_kernel=(10, 3), conv_stride=(5, 2), num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4, mask_time_prob=0.0,
    )  # fmt: skip
    return transformers.Wav2Vec2Model(config)


PUT_TOGETHER = {
    "trocr": lambda: put_together("VisionEncoderDecoderModel", vit(), trocr()),
    "vit-gpt2": lambda: put_together("VisionEncoderDecoderModel", vit(), gpt2()),
    "wav2vec2-gpt2": lambda: put_together("SpeechEncoderDecoderModel", wav2vec2(), gpt2()),
    "bert-bert": lambda: put_together(
        "EncoderDecoderModel", transformers.BertModel(bert()),
        transformers.BertLMHeadModel(bert(is_decoder=True, add_cross_attention=True)),
    ),
    "whisper": lambda: model_of("whisper", "speech"),
    "speech_to_text": lambda: model_of("speech_to_text", "speech"),
    "moonshine": lambda: model_of("moonshine", "speech"),
}  # fmt: skip


@pytest.mark.parametrize("name", PUT_TOGETHER)
def test_decoders_read_images_and_sounds(name, tmp_path):
    from tests.every_type import inputs_of

    model = PUT_TOGETHER[name]().eval()
    loaded = fg.load_model(model)
    assert loaded.level == "full"
    assert max(loaded.proof.values()) < 1e-5
    trace = fg.trace(loaded, inputs_of(loaded))
    encoder = trace.stacks["encoder"]
    with torch.no_grad(), eager_attention(model):
        said = model(**trace.fed.feed(loaded))
    torch.testing.assert_close(trace.logits, said.logits[0, -1], rtol=1e-5, atol=1e-5)
    assert trace.axes["encoder"] == encoder.axis
    assert trace.axes["encoder"].kind == ("patch" if "vit" in name or name == "trocr" else encoder.axis.kind)
    graph = fg.build_graph(trace)
    assert fg.mass(graph) == pytest.approx(1.0)
    assert graph.info.stacks[0].tokens == encoder.tokens
    assert fg.attention_rollout(trace)[-1].sum(-1) == pytest.approx(np.ones(len(encoder.tokens) + len(trace.tokens)))
    back = fg.Trace.load(trace.save(tmp_path / "two.safetensors"))
    assert torch.equal(fg.trace(loaded, back.inputs).logits, trace.logits)


def listener():
    """A tiny Whisper, whose spectrogram has 128 frames in its one second."""
    model = model_of("whisper", "speech").eval()
    made = transformers.WhisperFeatureExtractor(feature_size=model.config.num_mel_bins, chunk_length=1, hop_length=125)
    return model, made


def test_frames_of_a_spectrogram_know_their_time():
    model, made = listener()
    loaded = fg.load_model(model, processor=made)
    sound = np.random.default_rng(0).normal(size=9000).astype(np.float32)
    encoder = fg.trace(loaded, fg.inputs(audio=sound, sampling_rate=16000, target_ids=[3, 4])).stacks["encoder"]
    assert encoder.axis.kind == "frame"
    assert encoder.tokens[:3] + encoder.tokens[-1:] == ("0.00 s", "0.02 s", "0.03 s", "0.98 s")
    assert encoder.axis.places[:2] == ((0.0, 3 / 128), (0.0, 5 / 128))
    # A frame that is changed reaches exactly the positions whose time it lies in.
    features = made(sound, sampling_rate=16000, return_tensors="pt").input_features
    for frame in (0, 1, 50, 127):
        other = features.clone()
        other[..., frame] += 1.0
        moved = fg.trace(loaded, fg.inputs(audio=other, target_ids=[3, 4])).stacks["encoder"]
        changed = (moved.resid_pre[0] - encoder.resid_pre[0]).abs().amax(-1) > 0
        inside = [first <= frame / 128 < end for first, end in encoder.axis.places]
        assert changed.tolist() == inside
    with pytest.raises(
        PromptError, match=r"audio= lasts 1\.25 s, and .* reads 1 s of it: its processor leaves the end out"
    ):
        fg.trace(loaded, fg.inputs(audio=np.tile(sound, 3)[:20000], sampling_rate=16000, target_ids=[3, 4]))
    bare = fg.trace(fg.load_model(model), fg.inputs(audio=features, target_ids=[3, 4])).stacks["encoder"]
    assert bare.tokens[:2] == ("frame 0", "frame 1")
    assert bare.axis.places[0] is None


def test_the_arguments_of_a_model_of_sounds_may_be_given_together():
    model, made = listener()
    loaded = fg.load_model(model)
    features = made(np.zeros(9000, np.float32), sampling_rate=16000, return_tensors="pt").input_features
    start = start_id(model)
    together = fg.trace(loaded, {"input_features": features, "decoder_input_ids": torch.tensor([[start, 3, 4]])})
    assert torch.equal(together.logits, fg.trace(loaded, fg.inputs(audio=features, target_ids=[3, 4])).logits)


@pytest.mark.parametrize("frames", [100, 121])
def test_bands_and_frames_may_be_turned(frames):
    """Speech2Text reads [frame, band] of any length."""
    loaded = fg.load_model(model_of("speech_to_text", "speech").eval())
    bands = loaded.stacks["encoder"].anatomy.layout.shape[1]
    trace = fg.trace(loaded, fg.inputs(audio=torch.randn(1, frames, bands), target_ids=[3, 4]))
    encoder = trace.stacks["encoder"]
    assert encoder.axis.kind == "frame"
    assert len(encoder.tokens) == encoder.resid_pre.shape[1] == (frames - 1) // 4 + 1


def changed_by_hand(loaded, feed, module, change):
    """Logits of the last position with another input of a module."""
    handle = module.register_forward_pre_hook(lambda _module, args: (change(args[0]), *args[1:]))
    try:
        with torch.no_grad(), eager_attention(loaded.model):
            return loaded.model(**feed).logits[0, -1]
    finally:
        handle.remove()


def without_head(head, width, positions):
    def change(x):
        x = x.clone()
        x[:, positions, head * width : (head + 1) * width] = 0.0
        return x

    return change


@pytest.mark.parametrize("model_type", ["t5", "bart", "t5gemma", "pegasus"])
def test_heads_of_every_kind_are_switched_off(model_type):
    loaded, trace = loaded_of(model_type), trace_of(model_type)
    feed, target = trace.fed.feed(loaded), trace.target
    anatomy, encoder = loaded.anatomy, loaded.stacks["encoder"].anatomy
    every = slice(None)
    for node, projection, positions in (
        (fg.Node("cross_head", layer=1, head=2), anatomy.cross.blocks[1].attention_output.module, every),
        (fg.Node("cross_head", layer=0, head=1, position=3), anatomy.cross.blocks[0].attention_output.module, 3),
        (fg.Node("head", layer=1, head=0), anatomy.blocks[1].attention_output.module, every),
        (fg.Node("head", layer=0, head=3, stack="encoder"), encoder.blocks[0].attention_output.module, every),
        (fg.Node("head", layer=1, head=1, position=5, stack="encoder"), encoder.blocks[1].attention_output.module, 5),
    ):
        effect = fg.ablate(loaded, trace, node, metric=fg.log_probability)
        by_hand = changed_by_hand(loaded, feed, projection, without_head(node.head, anatomy.d_value, positions))
        assert effect.after[0] == pytest.approx(float(by_hand.log_softmax(-1)[target]), abs=1e-5)
        assert effect.before[0] == pytest.approx(float(trace.logits.log_softmax(-1)[target]), abs=1e-5)
        assert abs(effect.mean_effect) > 1e-7


def test_the_encoder_is_patched_from_another_text():
    loaded, trace = loaded_of("t5"), trace_of("t5")
    other = fg.inputs(ids=SOURCE[::-1], target_ids=TARGET)
    whole = [fg.Node("resid_post", layer=2, stack="encoder")]
    effect = fg.patch(loaded, trace, other, whole)
    # All that the decoder knows of the text comes through the encoder's last states.
    assert effect.score == pytest.approx(1.0, abs=1e-4)
    part = fg.patch(loaded, trace, other, [fg.Node("cross_head", layer=n, head=h) for n in range(2) for h in range(4)])
    assert part.score != pytest.approx(0.0, abs=1e-4)
    mean = fg.ablate(loaded, trace, fg.Node("mlp", layer=0, stack="encoder"), "mean", reference=[other, trace])
    assert np.isfinite(mean.mean_effect)


def test_several_prompts_of_two_stacks_are_changed_at_once():
    loaded, node = loaded_of("bart"), fg.Node("cross_head", layer=1, head=2)
    prompts = [fg.inputs(ids=ids, target_ids=TARGET) for ids in (SOURCE, SOURCE[::-1])]
    together = fg.ablate(loaded, prompts, node, target=7)
    alone = [fg.ablate(loaded, one, node, target=7) for one in prompts]
    np.testing.assert_allclose(together.after, [one.after[0] for one in alone], rtol=1e-5, atol=1e-6)
    with pytest.raises(PromptError, match="whose encoder reads different lengths"):
        fg.ablate(loaded, [prompts[0], fg.inputs(ids=SOURCE[:3], target_ids=TARGET)], node, target=7)
    apart = fg.ablate(loaded, [prompts[0], fg.inputs(ids=SOURCE[:3], target_ids=TARGET)], node, target=7, align="start")
    assert apart.after[0] == pytest.approx(alone[0].after[0], abs=1e-6)


def test_changes_that_cannot_be_made_are_refused():
    loaded, trace = loaded_of("t5"), trace_of("t5")
    with pytest.raises(ArgumentError, match="layer=9 does not exist"):
        fg.ablate(loaded, trace, fg.Node("head", layer=9, head=0, stack="encoder"))
    with pytest.raises(ArgumentError, match="outside the prompt of 8 tokens"):
        fg.ablate(loaded, trace, fg.Node("head", layer=0, head=0, position=8, stack="encoder"))
    with pytest.raises(ArgumentError, match="corrupted prompts change nothing"):
        fg.discover(loaded, clean=trace, corrupted=trace)
    single = fg.load_model(tiny_model("llama"))
    with pytest.raises(ArgumentError, match="no stack 'encoder'"):
        fg.ablate(single, [5, 6, 7], fg.Node("head", layer=0, head=0, stack="encoder"))
    with pytest.raises(ArgumentError, match="cannot be changed"):
        fg.ablate(single, [5, 6, 7], fg.Node("cross_head", layer=0, head=0))


@pytest.mark.parametrize("model_type", ["t5", "t5gemma", "pegasus"])
def test_a_logit_is_shared_out_over_the_tokens_of_both_stacks(model_type):
    trace = trace_of(model_type)
    found = fg.alti_logit(trace)
    assert found.prompt_tokens == (*trace.stacks["encoder"].tokens, *trace.tokens)
    assert found.tokens.sum() + found.biases == pytest.approx(found.logit, abs=1e-4)
    parts = fg.direct_logit_attribution(trace)
    assert found.attention.sum() == pytest.approx(parts.heads.sum() + parts.cross_heads.sum(), abs=1e-5)
    # What the encoder's tokens bring comes through heads that read it, or through states that such heads wrote to.
    assert abs(found.tokens[:S].sum()) > 1e-4


def test_what_heads_bring_is_all_of_the_token_they_read_in_the_planted_model():
    loaded, ids = planted(3)
    trace = fg.trace(loaded, fg.inputs(ids=ids, target_ids=[0]))
    found, parts = fg.alti_logit(trace), fg.direct_logit_attribution(trace)
    brought = found.attention[: len(ids)]
    assert int(np.abs(brought).argmax()) == 3
    assert brought[3] == pytest.approx(parts.cross_heads[0, 0], rel=0.1)


def test_mistakes_with_two_stacks_are_named():
    loaded, trace = loaded_of("t5"), trace_of("t5")
    with pytest.raises(ArgumentError, match="heads that read the encoder belong to the decoder; leave stack= out"):
        fg.ablate(loaded, trace, fg.Node("cross_head", layer=1, head=1, stack="encoder"))
    with pytest.raises(ArgumentError, match="no encoder that its heads read"):
        fg.ablate(fg.load_model(tiny_model("llama")), [5, 6, 7], fg.Node("cross_head", layer=1, head=1))
    node = fg.Node("head", layer=1, head=1)
    for other, said in (
        (fg.inputs(ids=SOURCE, target_ids=TARGET[:2]), "what the decoder has written.*differs in length"),
        (fg.inputs(ids=SOURCE[:3], target_ids=TARGET), "what the encoder reads differs in length"),
    ):
        with pytest.raises(PromptError, match=said):
            fg.patch(loaded, trace, other, node)
    limit = loaded_of("bart").anatomy.context
    with pytest.raises(PromptError, match=r"target_text=, target_ids=\) has .* tokens"):
        fg.trace(loaded_of("bart"), fg.inputs(ids=SOURCE, target_ids=[5] * limit))
