"""Edges and circuits over an encoder, a decoder and the attention between them, against forwards written out by hand."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

import flowgraph as fg
from flowgraph.errors import ArgumentError, UnsupportedReadingError
from flowgraph.interventions.edges import edge_network
from flowgraph.values.graph_info import StackInfo
from tests.circuit_graphs import circuit_graph, every_edge
from tests.every_type import model_of
from tests.naive_stacks import FORWARDS

TARGET, FOIL = 7, 11
ANSWERS = {"target": TARGET, "foil": FOIL}
KINDS = tuple(FORWARDS)
"""T5, norms on the stream itself twice, and sound."""


@cache
def made(kind, dtype=torch.float64):
    """A tiny model with a prompt and a corrupted one of the same lengths."""
    model = copy.deepcopy(model_of(kind, "speech" if kind == "whisper" else "sequences")).eval().to(dtype)
    assert sum(one.numel() for one in model.parameters()) < 400_000
    torch.manual_seed(3)
    with torch.no_grad():
        for name, values in model.named_parameters():
            if name.endswith("bias"):
                values.normal_(0, 0.3)
    loaded = fg.load_model(model)
    written = [9, 8, 7, 6], [10, 20, 30, 6]
    if kind != "whisper":
        read = [5, 6, 7, 8, 9, 10], [20, 21, 7, 8, 30, 10]
        return loaded, *(fg.inputs(ids=s, target_ids=t) for s, t in zip(read, written, strict=True))
    shape = loaded.stacks["encoder"].anatomy.layout.shape
    sounds = torch.randn(2, 1, *shape, generator=torch.Generator().manual_seed(0))
    return loaded, *(fg.inputs(audio=s, target_ids=t) for s, t in zip(sounds, written, strict=True))


def by_hand(kind, which=1, cuts=None):
    """Logit difference and what each sender wrote, by the forward that is written out."""
    loaded, *prompts = made(kind)
    feed = prompts[which - 1].of(loaded).rows[0].feed(loaded)
    feed = {name: x.to(torch.float64) if x.is_floating_point() else x for name, x in feed.items()}
    with torch.no_grad():
        logits, wrote = FORWARDS[kind](loaded.model, feed, cuts or {})
    return float(logits[TARGET] - logits[FOIL]), wrote


def some_edges(loaded):
    """Edges of every kind of source into every kind of reader."""
    found = {}
    for edge in every_edge(loaded.anatomy):
        ends = (edge.source.kind, edge.source.stack, edge.target.kind, edge.target.stack, edge.into)
        found.setdefault(ends, []).append(edge)
    return [edge for several in found.values() for edge in {several[len(several) // 3], several[-1]}]


@pytest.mark.parametrize("kind", KINDS)
def test_edges_of_every_kind_are_those_of_the_forward_by_hand(kind):
    loaded, clean, corrupted = made(kind)
    (before, own), (_, theirs) = by_hand(kind, 1), by_hand(kind, 2)
    trace = fg.trace(loaded, clean)
    assert float(trace.logits[TARGET] - trace.logits[FOIL]) == pytest.approx(before, abs=1e-6)
    network = edge_network(loaded.anatomy)
    assert {str(node) for node in network.senders} == set(own)
    edges = some_edges(loaded)
    assert {edge.target.kind for edge in edges} == {"head", "cross_head", "mlp", "logits"}
    nothing = {name: torch.zeros_like(x) for name, x in own.items()}
    for how, values, cut in (("noise", theirs, edges), ("zero", nothing, edges[::5])):
        found = fg.edge_effects(loaded, clean, corrupted, cut, how, **ANSWERS)
        for n, edge in enumerate(cut):
            receiver = str(edge.target)
            alone, _ = by_hand(kind, 1, {(receiver, edge.into): {str(edge.source): values[str(edge.source)]}})
            assert found.effects[n] == pytest.approx(alone - before, abs=1e-6), str(edge)
    assert np.abs(found.effects).max() > 1e-3


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [*((kind, torch.float64) for kind in (*KINDS, "t5gemma")), ("t5", torch.float32), ("bart", torch.float32)],
)
def test_all_edges_are_the_other_run_and_none_the_own(kind, dtype):
    loaded, clean, corrupted = made(kind, dtype)
    edges = every_edge(loaded.anatomy)
    error = 2e-5 if dtype == torch.float32 else 1e-7
    cut = fg.patch(loaded, clean, corrupted, edges, "noise", **ANSWERS)
    np.testing.assert_allclose(cut.after, cut.corrupted, atol=error)
    assert np.abs(cut.clean - cut.corrupted).max() > 1e-3
    rest = fg.patch(loaded, clean, corrupted, edges, "noise", outside=True, **ANSWERS)
    np.testing.assert_array_equal(rest.after, rest.clean)
    # Everything that reads the encoder: keys and values of cross attention see the other encoder.
    crossing = [edge for edge in edges if edge.source.stack and not edge.target.stack]
    assert {edge.into for edge in crossing} == {"k", "v"}
    ends = [fg.Node("resid_post", layer=len(loaded.stacks["encoder"].anatomy.blocks) - 1, stack="encoder")]
    of_edges = fg.patch(loaded, clean, corrupted, crossing, "noise", **ANSWERS)
    of_state = fg.patch(loaded, clean, corrupted, ends, "noise", **ANSWERS)
    np.testing.assert_allclose(of_edges.after, of_state.after, atol=error)


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_scores_are_the_slope_of_exact_effects(kind):
    """Changes of what is written scaled down to almost nothing: the effect of an edge goes to its score times the scale."""
    from flowgraph.interventions.edge_effects import Cuts
    from flowgraph.interventions.metrics import metric_of
    from flowgraph.interventions.prompts import batch_of, prompts_of
    from flowgraph.interventions.senders import written_change

    loaded, clean, corrupted = made(kind)
    network, edges = edge_network(loaded.anatomy), some_edges(loaded)
    scores = fg.edge_scores(loaded, clean, corrupted, **ANSWERS)
    assert scores.possible.sum() == len(every_edge(loaded.anatomy))
    assert not scores.scores[~scores.possible].any()
    prompts = [prompts_of(loaded, one, "prompts", **ANSWERS)[0] for one in (clean, corrupted)]
    scale, slopes = 2e-3, np.zeros(len(edges))
    batches = batch_of(loaded, prompts[:1], "clean"), batch_of(loaded, prompts, "both")
    for sign in (1, -1):

        def change(own, other, sign=sign):
            return {name: sign * scale * made for name, made in written_change(network, own, other).items()}

        with torch.no_grad():
            cuts = Cuts(loaded, network, *batches, change, metric_of(None))
            slopes += sign * cuts.run(edges, None, None).effects / (2 * scale)
    for edge, slope in zip(edges, slopes, strict=True):
        # T5's norm works in 32 bits, whatever the model is in.
        assert scores.score(edge) == pytest.approx(slope, rel=1e-4, abs=3e-4 if kind == "t5" else 1e-6), str(edge)


@pytest.mark.parametrize("kind", KINDS)
def test_a_part_of_all_edges_is_kept_as_by_hand(kind):
    """Every third edge stays; whatever else a receiver reads was written in the corrupted run."""
    loaded, clean, corrupted = made(kind)
    edges = every_edge(loaded.anatomy)
    (before, _), (worse, theirs) = by_hand(kind, 1), by_hand(kind, 2)
    cuts = {}
    for n, edge in enumerate(edges):
        if n % 3:
            cuts.setdefault((str(edge.target), edge.into), {})[str(edge.source)] = theirs[str(edge.source)]
    data = [fg.Example(clean, corrupted, TARGET, FOIL)]
    whole = fg.faithfulness(loaded, data, circuit_graph(edges), sizes=(0.5,), bootstrap=0)
    assert whole.model_edges == len(edges)
    assert whole.values[-1] == 1
    assert (whole.full[0], whole.by_prompt[0, 0]) == pytest.approx((before, worse), abs=1e-6)
    third = fg.faithfulness(loaded, data, circuit_graph(edges[::3]), sizes=(1.0,), bootstrap=0)
    assert third.by_prompt[-1, 0] == pytest.approx(by_hand(kind, 1, cuts)[0], abs=1e-6)


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_a_circuit_over_both_stacks_is_found_and_kept(kind, tmp_path):
    loaded, clean, corrupted = made(kind)
    asked = {"clean": clean, "corrupted": corrupted, **ANSWERS}
    graph = fg.discover(loaded, **asked, threshold=0.05, budget=200)
    edges = fg.interventions.plan.circuit_edges(graph)
    exact = fg.edge_effects(loaded, clean, corrupted, edges, **ANSWERS)
    np.testing.assert_allclose(-graph.weight, exact.effects, atol=1e-6)
    every = fg.edge_effects(loaded, clean, corrupted, every_edge(loaded.anatomy), **ANSWERS)
    assert every.edges[np.abs(every.effects).argmax()] in edges
    assert {node.stack for node in graph.nodes} == {"encoder", None}
    assert {node.kind for node in graph.nodes} >= {"cross_head", "logits"}
    assert [(one.name, one.layers) for one in graph.info.stacks] == [("encoder", 3 if kind == "t5" else 2)]
    again = fg.FlowGraph.load(graph.save(tmp_path / "circuit.json"))
    assert fg.interventions.plan.circuit_edges(again) == edges
    kept = fg.patch(loaded, clean, corrupted, again, "noise", outside=True, **ANSWERS)
    whole = fg.faithfulness(loaded, [fg.Example(clean, corrupted, TARGET, FOIL)], graph, sizes=(1.0,), bootstrap=0)
    np.testing.assert_allclose(kept.after, whole.by_prompt[-1], atol=1e-6)
    one = fg.discover(loaded, **asked, method="eap", threshold=0.0)
    same = fg.discover(loaded, **asked, method="eap-ig", steps=1, threshold=0.0)
    assert dict(zip(fg.interventions.plan.circuit_edges(one), one.weight, strict=True)) == pytest.approx(
        dict(zip(fg.interventions.plan.circuit_edges(same), same.weight, strict=True))
    )
    if kind == "bart":
        pruned = fg.discover(loaded, **asked, method="acdc", budget=40, threshold=1e-9)
        left = fg.patch(loaded, clean, corrupted, pruned, "noise", outside=True, **ANSWERS)
        assert left.after[0] == pytest.approx(pruned.info.options["metric_of_circuit"], abs=1e-6)


def test_heads_of_all_three_kinds_are_taken_out_of_a_circuit():
    loaded, clean, corrupted = made("t5")
    heads = [fg.Node("head", 0, 1, stack="encoder"), fg.Node("head", 1, 2), fg.Node("cross_head", 1, 0)]
    graph = circuit_graph([fg.Edge(head, fg.Node("logits"), "logits") for head in heads[1:]] + [
        fg.Edge(heads[0], heads[2], "k")
    ])  # fmt: skip
    data = [fg.Example(clean, corrupted, TARGET, FOIL)]
    found = fg.completeness(loaded, data, graph, random=1, greedy=0, bootstrap=0)
    assert set(found.heads) == set(heads)
    for out, circuit, model in zip(found.sets, found.in_circuit, found.in_model, strict=True):
        kept = [head for head in heads if head not in out]
        everything = [node for node in edge_network(loaded.anatomy).senders if "head" in node.kind]
        rest = [head for head in everything if head not in kept]
        assert fg.patch(loaded, clean, corrupted, rest, "noise", **ANSWERS).after == pytest.approx(circuit, abs=1e-6)
        if out:
            alone = fg.patch(loaded, clean, corrupted, list(out), "noise", **ANSWERS)
            assert alone.after == pytest.approx(model, abs=1e-6)
    assert fg.minimality(loaded, data, graph, random=0, bootstrap=0).heads == found.heads


def test_edges_that_an_encoder_decoder_does_not_have():
    loaded, clean, corrupted = made("t5")
    cross, own = fg.Node("cross_head", layer=0, head=0), fg.Node("head", layer=0, head=0)
    far = fg.Node("mlp", layer=0, stack="encoder")
    for edge, message in (
        (fg.Edge(far, own, "q"), "writes to the stream of the encoder, and L0H0 reads with its query that of the decoder"),
        (fg.Edge(own, cross, "k"), "writes to the stream of the decoder, and L0.cross.H0 reads with its key that of the encoder"),
        (fg.Edge(cross, own, "q"), "against the direction"),
        (fg.Edge(fg.Node("embed", stack="encoder", position=6), cross, "v"), "position=6 is outside the prompt of 6 tokens"),
        (fg.Edge(fg.Node("embed", position=5), cross, "q"), "position=5 is outside the prompt of 5 tokens"),
    ):  # fmt: skip
        with pytest.raises(ArgumentError, match=message):
            fg.edge_effects(loaded, clean, corrupted, [edge], **ANSWERS)
    with pytest.raises(ArgumentError, match="into='q' needs a 'head' or 'cross_head'"):
        fg.Edge(own, fg.Node("cross_kv_group", layer=0, head=0), "q")


def test_roles_of_both_kinds_of_the_decoders_heads():
    """Planted: a decoder whose heads look at the token before, and at the same token of the source, by their weights."""
    loaded, clean, corrupted = made("t5", torch.float32)
    own, cross = fg.head_roles(loaded, sequences=2), fg.head_roles(loaded, sequences=2, attention="cross")
    assert set(own.scores) == {
        "previous_token",
        "duplicate_token",
        "induction",
        "sink",
        "copying",
        "copying_eigenvalues",
    }
    assert set(cross.scores) == {"duplicate_token", "induction", "copying"}
    assert "counted apart" in cross.undefined["sink"]
    assert cross["induction"].shape == (2, 4)
    model = copy.deepcopy(loaded.model)
    with torch.no_grad():
        width, vocabulary = model.config.d_model, model.config.vocab_size
        # Embeddings that differ, blocks that hand them on, and queries, keys and values that are their first half.
        torch.manual_seed(0)
        model.shared.weight.copy_(torch.randn(vocabulary, width))
        for module in model.modules():
            if type(module).__name__.endswith("LayerNorm"):
                module.weight.fill_(1.0)
        for block in (*model.encoder.block, *model.decoder.block):
            for layer in block.layer:
                for name, matrix in layer.named_parameters():
                    if name.endswith(("o.weight", "wo.weight")):
                        matrix.mul_(1e-3)
        attention = model.decoder.block[1].layer[1].EncDecAttention
        for matrix in (attention.q, attention.k):
            matrix.weight.copy_(
                8 * torch.randn(attention.q.weight.shape[0], width, generator=torch.Generator().manual_seed(1))
            )
        bias = model.decoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight
        bias.zero_()
        bias[1, 2] = 1e3  # head 2 looks one token back
        model.decoder.block[0].layer[0].SelfAttention.q.weight.zero_()
        model.decoder.block[1].layer[0].SelfAttention.q.weight.zero_()
    planted = fg.load_model(model)
    roles = fg.head_roles(planted, sequences=4).roles
    assert set(roles["previous_token"]) == {fg.Node("head", 0, 2), fg.Node("head", 1, 2)}
    found = fg.head_roles(planted, sequences=4, attention="cross")
    assert set(found.roles["duplicate_token"]) == {fg.Node("cross_head", 1, head) for head in range(4)}
    assert found.of(fg.Node("cross_head", 1, 0, position=3))
    assert not found.of(fg.Node("head", 1, 0))
    assert not fg.head_roles(planted, sequences=1).of(fg.Node("head", 0, 2, stack="encoder"))
    data = [fg.Example(clean, corrupted, TARGET, FOIL)]
    of_task = fg.head_roles(loaded, data, sequences=1, attention="cross")
    effects = fg.head_effects(loaded, clean, corrupted, **ANSWERS)
    np.testing.assert_allclose(of_task["ablation_effect"], effects.by_attention["decoder.cross"], atol=1e-5)
    trace = fg.trace(loaded, clean, **ANSWERS)
    place = trace.stacks["encoder"].token_ids.index(TARGET)
    np.testing.assert_allclose(of_task["answer"], trace.cross_pattern[:, :, trace.position, place], atol=1e-6)
    with pytest.raises(UnsupportedReadingError, match="has one stack"):
        fg.head_roles(fg.load_model(copy.deepcopy(model_of("gpt2", "causal")).eval()), attention="cross")


def test_a_circuit_over_both_stacks_is_drawn_with_a_column_for_each(tmp_path):
    from flowgraph.render.scene.layout import places
    from flowgraph.values.graph_axes import columns, is_circuit, stack_spans

    edges = [
        fg.Edge(fg.Node("embed", stack="encoder"), fg.Node("head", 0, 1, stack="encoder"), "q"),
        fg.Edge(fg.Node("mlp", 0, stack="encoder"), fg.Node("cross_kv_group", 0, 0), "k"),
        fg.Edge(fg.Node("embed"), fg.Node("head", 0, 1), "q"),
        fg.Edge(fg.Node("cross_head", 0, 1), fg.Node("logits"), "logits"),
    ]
    graph = circuit_graph(edges)
    info = replace(graph.info, stacks=(StackInfo("encoder", (), 2),))
    graph = replace(graph, info=info)
    assert is_circuit(graph)
    names = ("enc.H1", "enc.MLP", "", "H1", "cross.KV0", "cross.H1", "MLP")[: len(columns(graph))]
    assert columns(graph) == names
    assert stack_spans(graph) == (("encoder", 0, 1), ("decoder", 3, len(names) - 1))
    stood = places(graph, [1.0] * len(graph.nodes))
    assert len({(one.token, one.layer) for one in stood}) == len(graph.nodes)
    assert graph.save(tmp_path / "both.svg").read_text().count("cross") > 1


def test_what_is_refused_is_known_before():
    """The app offers what these say."""
    for kind, refused in (("t5", True), ("gpt2", False)):
        loaded = fg.load_model(copy.deepcopy(model_of(kind, "sequences" if refused else "causal")).eval())
        assert bool(fg.EDGE_METHODS["ff"].refusal(loaded)) == refused
        assert not fg.EDGE_METHODS["norms"].refusal(loaded)
    loaded = made("t5", torch.float32)[0]
    with pytest.raises(ArgumentError, match="tasks ask for the next token"):
        fg.task(loaded, "ioi")
    with pytest.raises(UnsupportedReadingError, match="encoder of LongT5Stack mix tokens"):
        fg.edge_scores(fg.load_model(copy.deepcopy(model_of("longt5", "sequences")).eval()), *made("t5")[1:], **ANSWERS)
