"""Encoder–decoders in what reads a trace: trajectories, sentences, semantic graphs, and the methods that take blocks apart."""

from __future__ import annotations

import math
import re
from functools import cache

import numpy as np
import pytest
import torch

import flowgraph as fg
from flowgraph.charts import rendering
from flowgraph.errors import UnsupportedReadingError
from tests.test_stacks import listener, trace_of
from tests.tiny_translator import translator

KINDS = ["t5", "bart", "whisper"]


@cache
def traced(model_type: str) -> fg.Trace:
    """A T5 or a BART with a text, or a Whisper with a sound of numbers; each has written some tokens."""
    if model_type != "whisper":
        return trace_of(model_type)
    model, made = listener()
    sound = np.random.default_rng(0).normal(size=9000).astype(np.float32)
    loaded = fg.load_model(model, processor=made)
    return fg.trace(loaded, fg.inputs(audio=sound, sampling_rate=16000, target_ids=[3, 4, 5]))


@cache
def translated() -> fg.Trace:
    """*the car is old*, of which three words are written; the next is *alt*."""
    return fg.trace(translator(), fg.inputs(text="the car is old", target_text="das auto ist"))


@pytest.mark.parametrize("model_type", ["t5", "bart", "whisper"])
def test_a_trajectory_lists_all_that_is_added(model_type):
    """What stands between two states in the table sums to their difference; in post-norm blocks the norm over the sum gives it."""
    trace = traced(model_type)
    found = fg.trajectory(trace, position=-2)
    at, table = found.position, found.table().columns
    named = {f"L{layer}.{site}": getattr(trace, site)[layer, at] for layer in range(trace.n_layers)
             for site in ("attn_out", "cross_out", "mlp_out", "resid_cross", "resid_mid", "resid_post")}  # fmt: skip
    named["embed"] = trace.resid_pre[0, at]
    assert set(table["place"]) == set(named)
    state, added, last = None, [], -1.0
    for place, series, depth in zip(table["place"], table["series"], table["depth"], strict=True):
        assert depth >= last
        last = depth
        if series != "stream":
            added.append(named[place])
            continue
        if state is not None:
            (one,) = added
            whole = state + one
            if trace.wiring == "post_norm":
                block = trace.model.anatomy.blocks[int(place[1])]
                norm = {"resid_cross": block.attention_norm, "resid_mid": block.cross and block.cross.attention_norm,
                        "resid_post": block.mlp_norm}[place.split(".")[1]]  # fmt: skip
                whole = norm.module(whole)
            torch.testing.assert_close(whole, named[place], rtol=1e-5, atol=1e-5)
        state, added = named[place], []
    for series, site in ((found.attention, "attn_out"), (found.cross, "cross_out"), (found.mlp, "mlp_out")):
        expected = fg.read(trace, getattr(trace, site)[:, at])
        np.testing.assert_allclose(series.target_logit, expected.target_logit, rtol=1e-6)
    assert [one.name for one in found.chart().panels[0].series][1:] == [
        f"{what} alone, {found.stream.target_token}" for what in ("attention", "attention to the encoder", "MLP")
    ]


def test_a_model_of_one_stack_has_no_trajectory_of_a_source():
    from tests.tiny_models import tiny_model

    found = fg.trajectory(fg.trace(fg.load_model(tiny_model("llama")), [5, 6, 7]))
    assert found.cross is None
    assert "cross" not in found.table().columns["series"]


def test_sentences_name_the_source_and_what_of_it_the_flow_comes_from():
    trace = translated()
    graph = fg.build_graph(trace, method="proximity", level="head")
    said = str(graph.explain())
    assert said.startswith("After reading the source “the car is old</s>” and writing “<pad> das auto ist”, ")
    assert "the graph of 1 layer and 1 of the encoder shows" in said
    (sentence,) = [one for one in graph.explain().sentences if one.nodes]
    first = next(n for n in sentence.nodes if graph.nodes[n].stack == "encoder")
    assert graph.nodes[first] == fg.Node("embed", position=3, stack="encoder")
    brought = fg.attention_rollout(trace, method="proximity")[-1, -1]
    percent = [float(one) for one in re.findall(r"([\d.]+) %", sentence.text)]
    source = len(trace.stacks["encoder"].tokens)
    # The second number is what the source brings, the third what its word *old* does: those of rollout.
    assert percent[1:3] == pytest.approx([100 * brought[:source].sum(), 100 * brought[3]], abs=0.06)
    assert "the source brings" in sentence.text
    assert "most by “␣old”" in sentence.text
    assert "compare tokens" not in said
    assert "compare tokens" in str(fg.build_graph(trace, method="attention").explain())


@pytest.mark.parametrize("level", ["token", "head"])
def test_sentences_about_logits_name_the_token_that_attention_to_the_encoder_reads(level):
    trace = translated()
    graph = fg.build_graph(trace, method="logits", level=level)
    by_source = fg.direct_logit_attribution(trace).cross_by_source.sum((0, 1))
    (said,) = [one for one in graph.explain().sentences if one.text.startswith("Of the source")]
    order = np.argsort(-np.abs(by_source))[:3]
    numbers = [float(one) for one in re.findall(r"\(([+-][\d.e-]+) logits\)", said.text)]
    assert numbers == pytest.approx(by_source[order], rel=0.01)
    assert f"position {order[0]} of the encoder (“␣old”)" in said.text
    assert "reading “”" not in str(graph.explain())


def test_sentences_say_that_a_sound_was_read():
    said = str(fg.build_graph(traced("whisper")).explain())
    assert re.search(r"After reading a sound \(\d+ positions, 0\.00 s … [\d.]+ s\) and writing “", said)
    back = fg.build_graph(fg.trace(traced("whisper").model, traced("whisper").inputs)).explain()
    assert str(back) == said


@pytest.mark.parametrize("level", ["token", "head"])
def test_attention_to_the_encoder_has_a_look_of_its_own(level):
    from flowgraph.render.page.html import page_of
    from flowgraph.render.scene.elements import drawing, elements
    from flowgraph.render.scene.legend import legend_sections
    from flowgraph.render.scene.style import THEMES
    from tests.test_views import _contrast

    drawn = drawing(fg.build_graph(traced("t5"), level=level))
    parts, graph = elements(drawn), drawn.graph
    for node, made in zip(graph.nodes, parts["nodes"], strict=True):
        assert ("cross-head" in made["classes"].split()) == (node.kind == "cross_head")
    own = {"cross", "to-cross", "from-cross"}
    for e, made in zip(drawn.order.tolist(), parts["edges"], strict=True):
        source, target = graph.nodes[graph.source[e]], graph.nodes[graph.target[e]]
        reads = source.stack != target.stack or "cross_head" in (source.kind, target.kind)
        assert bool(own & set(made["classes"].split())) == reads
    said = {mark.text for one in legend_sections(drawn, parts) for mark in one.marks}
    expected = {"cross head: reads the encoder", "into a cross head", "cross head output"}
    assert said & {*expected, "attention to the encoder"} == (
        expected if level == "head" else {"attention to the encoder"}
    )
    for theme in THEMES.values():
        assert _contrast(theme.cross_attention, theme.background) > 4.5
        assert _contrast(theme.cross_attention, theme.attention) > 1.6  # told apart without colour
    page = page_of(graph)
    assert [name for name, *_ in page.data["stacks"]] == ["encoder", "decoder"]
    assert "8 positions read, 5 tokens written" in page.shell


def test_a_graph_of_one_stack_has_no_such_marks(tmp_path):
    from flowgraph.render.page.html import page_of
    from tests.synthetic_graphs import head_graph

    page = page_of(head_graph(layers=3))
    assert "stacks" not in page.data
    assert "cross" not in page.shell


@pytest.mark.parametrize("theme", ["light", "print"])
def test_pictures_on_paper_show_cross_heads_as_diamonds(theme):
    from flowgraph.render.print import Look, picture
    from flowgraph.render.print.shapes import Label, Line, Mark

    graph = fg.build_graph(traced("t5"), level="head", mass=0.9)
    shapes = picture(graph, Look(theme=theme)).shapes
    crossing = sum(node.kind == "cross_head" for node in graph.nodes)
    assert sum(isinstance(one, Mark) and one.shape == "diamond" for one in shapes) == crossing + 1  # one of the legend
    texts = [one.text for one in shapes if isinstance(one, Label)]
    assert {"encoder", "decoder", "cross head: reads the encoder"} <= set(texts)
    into = [one for one in shapes if isinstance(one, Line) and one.colour == "cross_attention"]
    assert into
    assert {one.dash for one in into} == {"dashed" if theme == "print" else "solid"}


def naive_parts(trace: fg.Trace, layer: int, t: int) -> dict[str, torch.Tensor]:
    """What attention to the encoder is made of, by the model's own modules: heads from their values, and the bias."""
    block = trace.model.anatomy.blocks[layer].cross
    heads = trace.n_heads
    weight = block.attention_output.module.weight.T  # [head · d, d_model]
    weight = weight.reshape(heads, -1, weight.shape[-1])
    pattern, values = trace.cross_pattern[layer, :, t], trace.site("cross_v")[layer]
    found = {
        f"L{layer}.cross.H{h}.value[{s}]@{t}": pattern[h, s] * (values[h, s] @ weight[h])
        for h in range(heads)
        for s in range(pattern.shape[-1])
    }
    found |= {f"L{layer}.cross.H{h}@{t}": pattern[h] @ values[h] @ weight[h] for h in range(heads)}
    bias = getattr(block.attention_output.module, "bias", None)
    return found if bias is None else found | {f"L{layer}.cross_bias@{t}": bias}


@pytest.mark.parametrize("model_type", KINDS)
def test_a_semantic_graph_shows_what_is_read_of_the_encoder(model_type):
    trace = traced(model_type)
    last = len(trace.tokens) - 1
    graph = fg.semantic_graph(trace, sources_per_head=2, neurons_per_block=3)
    whole: dict[int, float] = {}
    for e, n in enumerate(graph.target.tolist()):
        if graph.unit_of(e) == "contribution":
            whole[n] = whole.get(n, 0.0) + float(graph.weight[e])
    assert list(whole.values()) == pytest.approx([1.0] * len(whole), abs=1e-4)
    at = {str(node): n for n, node in enumerate(graph.nodes)}
    for layer in range(trace.n_layers):
        states = {"resid_cross": trace.resid_cross, "resid_mid": trace.resid_mid, "cross_attn": trace.cross_out}
        vectors = naive_parts(trace, layer, last) | {
            f"L{layer}.{name}@{last}": one[layer, last] for name, one in states.items()
        }
        named = [name for name in vectors if name in at]
        assert len(named) >= 3 + 3 * trace.n_heads
        read = fg.read(trace, torch.stack([vectors[name] for name in named]), k=5)
        for name, expected in zip(named, read, strict=True):
            found = graph.readings[at[name]]
            assert found.norm == pytest.approx(expected.norm, rel=1e-4, abs=1e-6)
            assert found.top[0][0] == expected.top[0][0]
    kinds = {node.kind for node in graph.nodes}
    assert {"cross_query", "cross_key", "cross_value", "cross_head", "cross_attn", "resid_cross"} <= kinds
    for node, reading in zip(graph.nodes, graph.readings, strict=True):
        if node.kind in ("cross_query", "cross_key"):
            assert not reading.top
            site = trace.site("cross_q" if node.kind == "cross_query" else "cross_k")
            place = node.position if node.kind == "cross_query" else node.index
            assert reading.norm == pytest.approx(float(site[node.layer, node.head, place].norm()), rel=1e-5)
    assert "read in the decoder's vocabulary; queries and keys to it" in rendering.caption(graph)


def test_rests_and_rows_of_attention_to_the_encoder_sum_up():
    trace = traced("bart")
    graph = fg.semantic_graph(trace, heads=2, rows_per_block=3, neurons_per_block=3, positions=[1, -1], select="norm")
    whole: dict[int, float] = {}
    for e, n in enumerate(graph.target.tolist()):
        if graph.unit_of(e) == "contribution":
            whole[n] = whole.get(n, 0.0) + float(graph.weight[e])
    assert list(whole.values()) == pytest.approx([1.0] * len(whole), abs=1e-4)
    assert {"cross_row", "cross_rest", "cross_head_rest", "cross_bias", "cross_norm_bias"} <= {
        n.kind for n in graph.nodes
    }
    for node in graph.nodes:
        assert fg.parse_node(fg.node_key(node)) == fg.parse_node(fg.node_key(node, short=True)) == node
        assert fg.node_details(trace, node).node == node
    # Each vector that an edge carries is that of the node it leaves.
    for e in range(len(graph)):
        source = graph.nodes[graph.source[e]]
        if graph.unit_of(e) == "contribution" and source.kind.startswith("cross"):
            carried = fg.edge_tokens(trace, graph, e).reading
            assert float(carried.norm[0]) == pytest.approx(graph.readings[graph.source[e]].norm, rel=1e-4)


def test_the_value_of_a_translated_word_reads_as_its_translation(tmp_path):
    trace = translated()
    graph = fg.semantic_graph(trace, neurons_per_block=3)
    read = {str(node): one for node, one in zip(graph.nodes, graph.readings, strict=True)}
    for head in range(trace.n_heads):
        assert read[f"L0.cross.H{head}.value[3]@3"].top[0][0] == " alt"
    parts = fg.direct_logit_attribution(trace)
    for head in range(trace.n_heads):
        assert read[f"L0.cross.H{head}@3"].contribution == pytest.approx(parts.cross_heads[0, head], abs=1e-4)
    assert "reads position 3 of the encoder (“␣old”)" in str(graph.explain())
    for name in ("graph.html", "graph.svg", "graph.json", "graph.graphml"):
        graph.save(tmp_path / name)
    assert fg.FlowGraph.load(tmp_path / "graph.json").nodes == graph.nodes
    assert "encoder (key)" in (tmp_path / "graph.html").read_text(encoding="utf-8")
    assert "old@3" in (tmp_path / "graph.svg").read_text(encoding="utf-8")


def test_what_travels_along_edges_of_two_stacks_is_read_or_refused():
    trace = traced("t5")
    for level in ("token", "head"):
        graph = fg.build_graph(trace, level=level)
        layer, last = 1, len(trace.tokens) - 1
        checked = 0
        for e in range(len(graph)):
            source, target = graph.nodes[graph.source[e]], graph.nodes[graph.target[e]]
            if target.stack == "encoder":
                if checked == 0:
                    with pytest.raises(
                        UnsupportedReadingError, match="lies in the encoder, whose vectors no head reads"
                    ):
                        fg.edge_tokens(trace, graph, e)
            elif source.stack == "encoder" and target.layer == layer and target.position == last:
                parts, h, s = naive_parts(trace, layer, last), target.head, source.position
                heads = range(trace.n_heads) if h is None else [h]
                expected = sum(parts[f"L{layer}.cross.H{one}.value[{s}]@{last}"] for one in heads)
                found = fg.edge_tokens(trace, graph, e)
                assert float(found.reading.norm[0]) == pytest.approx(float(expected.norm()), rel=1e-4)
                assert found.reading.top_tokens[0][0] == fg.read(trace, expected).top_tokens[0][0]
                assert f"position {s} of the encoder" in found.carried
                checked += 1
        assert checked >= len(trace.stacks["encoder"].tokens)


def test_visit_says_what_to_do_instead():
    with pytest.raises(
        UnsupportedReadingError, match=r"no rules for attention to an encoder.*semantic_graph\(trace\) shows it"
    ):
        fg.visit_graph(traced("t5"))


@pytest.mark.parametrize("model_type", KINDS)
def test_heads_that_read_the_encoder_are_scored_by_hand(model_type):
    trace = traced(model_type)
    encoder, at = trace.stacks["encoder"], 1
    found = fg.head_scores(trace, position=at, attention="cross")
    is_text = model_type != "whisper"
    assert found.keys == encoder.tokens
    assert {"sink", "previous_token", "induction"} <= set(found.undefined)
    assert "counted apart" in found.undefined["previous_token"]
    assert ("duplicate_token" in found.scores) == is_text
    for layer in range(trace.n_layers):
        for head in range(trace.n_heads):
            rows = trace.cross_pattern[layer, head].double().tolist()
            entropy = sum(-p * math.log(p) for row in rows for p in row if p > 0) / len(rows)
            assert found["entropy"][layer, head] == pytest.approx(entropy, rel=1e-6)
            assert found["strongest_other"][layer, head] == pytest.approx(max(rows[at]))
            assert found.strongest_key[layer, head] == rows[at].index(max(rows[at]))
            if is_text:
                per_query = [
                    sum(p for p, key in zip(row, encoder.token_ids, strict=True) if key == query)
                    for row, query in zip(rows, trace.token_ids, strict=True)
                    if query in encoder.token_ids
                ]
                assert found["duplicate_token"][layer, head] == pytest.approx(sum(per_query) / len(per_query))
    assert found.scores["entropy"].highest == pytest.approx(math.log(len(encoder.tokens)))
    if model_type == "bart":
        assert (
            "direct logit attribution" in found.undefined["direct_logit"]
            or "post-norm" in found.undefined["direct_logit"]
        )
    else:
        parts = fg.direct_logit_attribution(trace, position=at)
        np.testing.assert_array_equal(found["direct_logit"], parts.cross_heads)
    table = found.table().columns
    assert table["head_label"][0] == "L0.cross.H0"
    assert set(table["strongest_key_token"]) <= set(encoder.tokens)
    assert found.chart("entropy").tip(1, 2)[0] == "L1.cross.H2"


def test_scores_of_heads_that_are_not_there_are_refused():
    from tests.tiny_models import tiny_model

    trace = fg.trace(fg.load_model(tiny_model("llama")), [5, 6, 7])
    with pytest.raises(UnsupportedReadingError, match="no heads read another"):
        fg.head_scores(trace, attention="cross")


def every_part(trace: fg.Trace) -> list[fg.Node]:
    """All heads and MLPs of both stacks, and the heads that read the encoder."""
    encoder = trace.stacks["encoder"]
    found = [fg.Node("mlp", layer=n) for n in range(trace.n_layers)]
    found += [fg.Node(kind, layer=n, head=h) for kind in ("head", "cross_head") for n in range(trace.n_layers)
              for h in range(trace.n_heads)]  # fmt: skip
    found += [fg.Node("mlp", layer=n, stack="encoder") for n in range(encoder.n_layers)]
    return found + [
        fg.Node("head", layer=n, head=h, stack="encoder")
        for n in range(encoder.n_layers)
        for h in range(encoder.n_heads)
    ]


@pytest.mark.parametrize("model_type", KINDS)
def test_all_outside_of_some_parts_is_all_the_others(model_type):
    trace = traced(model_type)
    every = every_part(trace)
    assert fg.ablate(trace.model, trace, every, outside=True).effect == pytest.approx(0.0, abs=1e-6)
    kept = [every[0], every[-1], fg.Node("cross_head", layer=1, head=2)]
    others = [node for node in every if node not in kept]
    alone = fg.ablate(trace.model, trace, kept, outside=True)
    np.testing.assert_allclose(alone.after, fg.ablate(trace.model, trace, others).after, atol=1e-6)
    assert abs(float(alone.effect[0])) > 1e-4
    graph = fg.build_graph(trace, level="head", mass=0.98)
    shown = [node for node in graph.nodes if node.kind in ("head", "cross_head", "mlp")]
    by_graph = fg.ablate(trace.model, trace, graph, parts="nodes", outside=True)
    np.testing.assert_allclose(by_graph.after, fg.ablate(trace.model, trace, shown, outside=True).after, atol=1e-6)
    with pytest.raises(UnsupportedReadingError, match="not changed one by one; say parts='nodes'"):
        fg.ablate(trace.model, trace, graph, outside=True)


@pytest.mark.parametrize("model_type", KINDS)
def test_the_norm_before_the_encoder_is_read_is_a_filter_too(model_type):
    trace = traced(model_type)
    found = fg.norm_filter(trace, layer=1, part="cross", position=1)
    norm = trace.model.anatomy.reader_of_encoder.blocks[1].attention_norm.module
    before = trace.resid_cross[1, 1]
    if trace.wiring == "post_norm":
        before = before + trace.cross_out[1, 1]
        torch.testing.assert_close(norm(before), trace.resid_mid[1, 1], rtol=1e-5, atol=1e-5)
    expected = fg.read(trace, torch.stack([before, norm(before)]))
    assert found.before.top_tokens[0] == expected.top_tokens[0]
    assert found.after.norm[0] == pytest.approx(expected.norm[1], rel=1e-5)


def test_a_model_of_one_stack_has_no_norm_before_an_encoder():
    from tests.tiny_models import tiny_model

    trace = fg.trace(fg.load_model(tiny_model("llama")), [5, 6, 7])
    with pytest.raises(UnsupportedReadingError, match="no heads read another"):
        fg.norm_filter(trace, layer=1, part="cross")
