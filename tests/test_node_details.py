"""What a node says, against the readings, sums and patterns that it is put together from."""

from __future__ import annotations

import numpy as np
import pytest

import flowgraph as fg
from flowgraph.errors import ArgumentError, ModelNeededError
from tests.conftest import IDS, LINEAR_REPRESENTATIVES

AT = len(IDS) - 1


@pytest.mark.parametrize("name", LINEAR_REPRESENTATIVES)
def test_states_say_their_reading_and_parts_what_they_add(tiny, name):
    trace = fg.trace(tiny(name), IDS)
    parts = fg.direct_logit_attribution(trace)
    total = 0.0
    for layer in range(trace.n_layers):
        for kind in ("attn", "mlp"):
            total += fg.node_details(trace, fg.Node(kind, layer, position=AT), attribution=parts).contribution
        heads = [fg.node_details(trace, fg.Node("head", layer, head, AT), k=3) for head in range(trace.n_heads)]
        for head, said in enumerate(heads):
            assert said.contribution == pytest.approx(float(parts.heads[layer, head]))
            np.testing.assert_array_equal(said.attention, trace.pattern[layer, head, AT].double().numpy())
            assert len(said.reading.top) == 3
    for kind in ("embed", "position_embed", "final_norm_bias", "unembed_bias"):
        found = fg.node_details(trace, fg.Node(kind, position=AT)).contribution
        total += found or 0.0
    assert total == pytest.approx(parts.total, abs=1e-4)
    state = fg.Node("resid_post", 1, position=AT)
    said = fg.node_details(trace, state)
    assert said.reading == fg.node_readings(trace, [state], k=10)[0]
    assert (said.contribution, said.attention, said.note) == (None, None, "")


def test_what_is_inside_a_layer_is_read_as_in_the_semantic_graph(tiny):
    trace = fg.trace(tiny("llama"), IDS)
    graph = fg.semantic_graph(trace, layers=1, k=4, neurons_per_block=4, sources_per_head=2)
    kinds = set()
    for node, reading in zip(graph.nodes, graph.readings, strict=True):
        if node.kind in ("query", "key", "value", "neuron", "gate", "neuron_in"):
            kinds.add(node.kind)
            assert fg.node_details(trace, node, k=4).reading == reading, node
    assert len(kinds) == 6


def test_the_table_says_all_of_it(tiny):
    trace = fg.trace(tiny("llama"), IDS)
    said = fg.node_details(trace, fg.Node("head", 1, 2, AT), k=2)
    columns = said.table().columns
    assert columns["what"] == ["promoted"] * 2 + ["suppressed"] * 2 + ["attention"] * len(IDS)
    assert columns["token"][:2] == [entry[0] for entry in said.reading.top]
    assert columns["value"][4:] == said.attention.tolist()
    assert columns["position"] == [None] * 4 + list(range(len(IDS)))
    assert repr(said) == f"NodeDetails(L1H2@6, adds {said.contribution:+.2f} logits)"
    assert "<table" in said._repr_html_()


def test_what_cannot_be_said_says_why(tiny):
    trace = fg.trace(tiny("llama"), IDS)
    for node, words in (
        (fg.Node("logit", index=3), "a logit is a number"),
        (fg.Node("attn_rest", 0, position=1), "depends on the picture"),
        (fg.Node("head", 0, 0, 1), "only nodes of position 6 add"),
        (fg.Node("feature", 99, position=1, index=3), "belongs to a dictionary"),
    ):
        assert words in fg.node_details(trace, node).note
    masked = fg.trace(tiny("bert"), IDS, position=2)
    said = fg.node_details(masked, fg.Node("head", 0, 0, 2))
    assert (said.contribution, said.note) == (None, "this model's logits are no sums of parts")
    assert not masked.model.has_attribution
    assert trace.model.has_attribution


@pytest.mark.parametrize(
    ("node", "words"),
    [
        (fg.Node("head", 0, 99, 0), "head=99 is outside this run; expected 0…"),
        (fg.Node("mlp", 2, position=0), "layer=2 is outside"),
        (fg.Node("mlp", 0, position=999), "position=999 is outside"),
        (fg.Node("mlp", 0), "has no position"),
        (fg.Node("logit", index=10**6), "index=1000000 is outside"),
    ],
)
def test_nodes_that_are_not_there(tiny, node, words):
    with pytest.raises(ArgumentError, match=words):
        fg.node_details(fg.trace(tiny("llama"), IDS), node)


def test_a_window_and_a_trace_without_its_model(tiny, tmp_path):
    loaded = tiny("llama")
    kept = fg.trace(loaded, IDS, keep=fg.TraceSites(layers=(1, 2)))
    node = fg.Node("head", 1, 2, AT)
    with pytest.raises(ArgumentError, match="layer=0 is not among the layers that the trace keeps, 1…1"):
        fg.node_details(kept, fg.Node("head", 0, 2, AT))
    said = fg.node_details(fg.trace(loaded, IDS), node)
    np.testing.assert_array_equal(said.attention, kept.pattern[0, 2, AT].double().numpy())
    alone = fg.Trace.load(fg.trace(loaded, IDS).save(tmp_path / "run.safetensors"))
    with pytest.raises(ModelNeededError):
        fg.node_details(alone, node)


def test_a_graph_says_of_its_nodes_what_it_was_made_with(tiny):
    trace = fg.trace(tiny("llama"), IDS)
    graph = fg.build_graph(trace)
    node = next(node for node in graph.nodes if node.kind == "resid_post")
    said = fg.NodeDetails.of_graph(graph, node)
    assert said.reading == graph.readings[graph.nodes.index(node)]
    assert (said.contribution, said.attention, said.tokens) == (None, None, trace.tokens)
    assert said.note == "what it adds to the logit; this is what the file says, without the model"
    bare = fg.NodeDetails.of_graph(graph.with_readings(()), node)
    assert (bare.reading, "says in vocabulary" in bare.note) == (None, True)
    with pytest.raises(ArgumentError, match="is not in this graph"):
        fg.NodeDetails.of_graph(graph, fg.Node("mlp", 99, position=0))
