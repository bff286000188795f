"""A text and regions of an image that read each other in the same layers, as LXMERT's do: proved, traced, drawn and saved.

Every model is tiny and random, its biases included; what it shows is held against the model's own outputs.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
import transformers

import flowgraph as fg
from flowgraph.errors import ArchitectureError, ArgumentError, FileFormatError, PromptError, UnsupportedReadingError
from flowgraph.models.building import build
from flowgraph.models.families import FAMILIES
from flowgraph.models.proof import prove
from flowgraph.render.scene.layout import places

torch.manual_seed(5)
FEATS, BOXES = torch.randn(4, 12), torch.rand(4, 4)
IDS = [5, 6, 7, 8, 9, 10]
T, R, TEXT, VISION, BETWEEN = 6, 4, 5, 4, 2


def lxmert(kind: str = "LxmertForPreTraining", **changed):
    sizes = {
        "vocab_size": 60, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 48, "l_layers": 3, "x_layers": 2, "r_layers": 2,
        "visual_feat_dim": 12, "max_position_embeddings": 40, "num_qa_labels": 5, "num_object_labels": 6, "num_attr_labels": 7,
    }  # fmt: skip
    torch.manual_seed(0)
    model = getattr(transformers, kind)(transformers.LxmertConfig(**{**sizes, **changed})).eval()
    assert sum(one.numel() for one in model.parameters()) < 200_000
    with torch.no_grad():
        for one in model.parameters():
            one.add_(0.1 * torch.randn_like(one))
    return model


@cache
def loaded_of(kind: str = "LxmertForPreTraining") -> fg.LoadedModel:
    with warnings.catch_warnings(record=True) as said:
        found = fg.load_model(lxmert(kind))
    assert any("is not read" in str(one.message) for one in said) == (kind != "LxmertModel")
    return found


@cache
def trace_of(kind: str = "LxmertForPreTraining") -> fg.Trace:
    return fg.trace(loaded_of(kind), fg.inputs(ids=IDS, visual_feats=FEATS, visual_pos=BOXES))


def own(model):
    with torch.no_grad():
        return model(
            input_ids=torch.tensor([IDS]), visual_feats=FEATS[None], visual_pos=BOXES[None], output_attentions=True,
            output_hidden_states=True,
        )  # fmt: skip


@pytest.mark.parametrize("kind", ["LxmertForPreTraining", "LxmertForQuestionAnswering", "LxmertModel"])
def test_every_attention_and_state_is_the_model_s_own(kind):
    loaded, trace = loaded_of(kind), trace_of(kind)
    assert loaded.level == "stream"
    assert max(loaded.proof.values()) < 1e-5
    assert any(name.endswith("of the vision stack") for name in loaded.proof)
    said, found = own(loaded.model), trace.attention
    assert set(found) == {"text.self", "text.cross", "vision.self", "vision.cross"}
    for given, name, first in (
        (said.language_attentions, "text.self", 0),
        (said.vision_attentions, "vision.self", 0),
        (said.cross_encoder_attentions, "text.cross", TEXT - BETWEEN),
    ):
        for n, one in enumerate(given):
            torch.testing.assert_close(found[name].pattern[first + n], one[0], atol=1e-6, rtol=0)
    vision = trace.stacks["vision"]
    for given, stack, count in (
        (said.language_hidden_states, trace, TEXT),
        (said.vision_hidden_states, vision, VISION),
    ):
        assert len(given) == count
        for n, one in enumerate(given):
            torch.testing.assert_close(stack.resid_post[n], one[0], atol=1e-5, rtol=0)


def test_what_the_model_does_not_return_is_made_of_its_states():
    """Regions read the text with the same weights as the text reads the regions, and both read what the other was before."""
    trace, model = trace_of(), loaded_of().model
    vision = trace.stacks["vision"]
    for n, layer in enumerate(model.lxmert.encoder.x_layers):
        here, there = TEXT - BETWEEN + n, VISION - BETWEEN + n
        read = layer.visual_attention.att
        q = read.query(vision.resid_pre[there]).unflatten(-1, (4, 8)).transpose(0, 1)
        k = read.key(trace.resid_pre[here]).unflatten(-1, (4, 8)).transpose(0, 1)
        pattern = (q @ k.transpose(-1, -2) / 8**0.5).softmax(-1).detach()
        torch.testing.assert_close(trace.attention["vision.cross"].pattern[there], pattern, atol=1e-6, rtol=0)
    for stack, layers in ((trace, TEXT), (vision, VISION)):
        assert stack.cross_pattern.flatten(1).any(1).tolist() == [False] * (layers - BETWEEN) + [True] * BETWEEN
        torch.testing.assert_close(stack.resid_cross[0], stack.resid_pre[0])


@pytest.mark.parametrize("wrong", [{"cross_run": 1}, {"leaves": "output.LayerNorm|visn_output.LayerNorm"}])
def test_a_row_that_mixes_up_the_streams_is_refused(wrong):
    row = FAMILIES["lxmert"]
    with pytest.raises((ArchitectureError, RuntimeError)):
        prove(build(lxmert(), replace(row, stacks=(row.stacks[0], replace(row.stacks[1], **wrong)))))


def by_hand(trace):
    """Rollout as recursions on two stacks, each row a distribution over the inputs of both."""
    text, vision = trace, trace.stacks["vision"]
    of = {"text": np.eye(T + R)[R:], "vision": np.eye(T + R)[:R]}

    def mean(site, layer):
        return site[layer].double().mean(0).numpy()

    for layer in range(TEXT - BETWEEN):
        of["text"] = (mean(text.pattern, layer) @ of["text"] + of["text"]) / 2
    for layer in range(VISION - BETWEEN):
        of["vision"] = (mean(vision.pattern, layer) @ of["vision"] + of["vision"]) / 2
    for n in range(BETWEEN):
        here, there = TEXT - BETWEEN + n, VISION - BETWEEN + n
        # Both read what the other was before this layer.
        of = {
            "text": (mean(text.cross_pattern, here) @ of["vision"] + of["text"]) / 2,
            "vision": (mean(vision.cross_pattern, there) @ of["text"] + of["vision"]) / 2,
        }
        of["text"] = (mean(text.pattern, here) @ of["text"] + of["text"]) / 2
        of["vision"] = (mean(vision.pattern, there) @ of["vision"] + of["vision"]) / 2
    return np.concatenate([of["vision"], of["text"]])


def test_rollout_is_two_recursions_that_read_each_other():
    trace = trace_of()
    rolled = fg.attention_rollout(trace)
    np.testing.assert_allclose(rolled.values[-1], by_hand(trace), atol=1e-6)
    np.testing.assert_allclose(rolled.values[-1].sum(-1), 1, atol=1e-6)


@pytest.mark.parametrize("start", [None, fg.Node("resid_post", layer=VISION - 1, position=2, stack="vision")])
def test_graphs_of_rollout_and_flow_carry_what_the_matrices_say(start):
    trace = trace_of()
    graph = fg.rollout_graph(trace, start=start)
    row = R + T - 1 if start is None else 2
    into = np.zeros(T + R)
    for e, n in enumerate(graph.source.tolist()):
        node = graph.nodes[n]
        if node.kind == "embed":
            into[node.position + (R if node.stack is None else 0)] += graph.weight[e]
    np.testing.assert_allclose(into, fg.attention_rollout(trace).values[-1][row], atol=1e-6)
    flow = fg.flow_graph(trace, start=start)
    entering = sum(flow.weight[e] for e, n in enumerate(flow.source.tolist()) if flow.nodes[n].kind == "embed")
    leaving = sum(
        flow.weight[e] for e, n in enumerate(flow.target.tolist()) if flow.nodes[n] == graph.nodes[graph.target.max()]
    )
    assert entering > 0
    assert leaving == pytest.approx(entering, abs=1e-6)


@pytest.mark.parametrize("method", ["attention", "norms", "proximity"])
def test_edges_stand_in_the_layers_of_their_own_stack(method):
    trace = trace_of()
    graph = fg.build_graph(trace, method=method, level="head")
    entered = {}
    for e, (s, t) in enumerate(zip(graph.source.tolist(), graph.target.tolist(), strict=True)):
        source, target = graph.nodes[s], graph.nodes[t]
        if graph.structural[e]:
            continue
        entered[t] = entered.get(t, 0.0) + abs(graph.share[e])
        if target.kind == "cross_head":
            assert source.stack != target.stack
            assert graph.layer[e] == target.layer
            assert target.layer >= (VISION if target.stack else TEXT) - BETWEEN
            # Both stacks read what the other was at the same time.
            last = TEXT - 1 if source.stack is None else VISION - 1
            assert source.kind == "resid_post"
            assert last - source.layer == (VISION if target.stack else TEXT) - target.layer
        elif target.kind == "head":
            assert source.stack == target.stack
    assert {n for n, one in entered.items() if one != pytest.approx(1, abs=1e-5)} == set()


def test_parts_of_proximity_and_norms_sum_to_the_states():
    from flowgraph.methods.parts import attention_parts, cross_parts

    for stack in (trace_of(), trace_of().stacks["vision"]):
        blocks = stack.model.anatomy.blocks
        for row, block in enumerate(blocks):
            found = [attention_parts(stack, row), *([] if block.cross is None else [cross_parts(stack, row)])]
            for parts, site in zip(found, (stack.site("resid_mid"), stack.resid_cross), strict=False):
                norm = block.attention_norm if site is not stack.resid_cross else block.cross.attention_norm
                bias = stack.biases["attn" if site is not stack.resid_cross else "cross"][row].numpy()
                made = parts.residual + np.einsum("hts,hsd->td", parts.coefficient, parts.vectors)
                # What is left is the same for every position but for the frozen scale: biases.
                scale = stack.norm_scales["attention" if site is not stack.resid_cross else "cross"][row].numpy()
                shifted = (bias - bias.mean()) * norm.gain(len(bias)).detach().numpy() / scale[
                    :, None
                ] + norm.bias.detach().numpy()
                np.testing.assert_allclose(made + shifted, parts.whole, atol=1e-5)


def test_traces_graphs_pages_and_pictures_hold_both_stacks(tmp_path):
    trace = trace_of().record(methods=["norms"])
    again = fg.Trace.load(trace.save(tmp_path / "a.safetensors"))
    assert again.axes["vision"].places == trace.axes["vision"].places
    assert again.axes["vision"].places[1] == pytest.approx(BOXES[1].tolist())
    assert set(again.attention) == set(trace.attention)
    for name, one in trace.attention.items():
        torch.testing.assert_close(again.attention[name].pattern, one.pattern)
    torch.testing.assert_close(fg.trace(loaded_of(), again.inputs).resid_post, trace.resid_post)
    graph = fg.build_graph(again, method="norms", level="head")
    assert fg.FlowGraph.load(graph.save(tmp_path / "a.json")).nodes == graph.nodes
    for name in ("a.svg", "a.html"):
        graph.save(tmp_path / name)
    assert "reads the other stack" in (tmp_path / "a.svg").read_text()
    assert "reads the encoder" not in (tmp_path / "a.html").read_text()
    assert "text reads vision" in str(fg.head_view(trace)._repr_html_())
    found = dict(zip(graph.nodes, places(graph, [1.0] * len(graph.nodes)), strict=True))
    # Layers that read each other stand side by side.
    for n in range(BETWEEN):
        pair = [
            found[fg.Node("cross_head", layer=first + n, head=0, position=1, stack=stack)].layer
            for first, stack in ((TEXT - BETWEEN, None), (VISION - BETWEEN, "vision"))
        ]
        assert pair[0] == pair[1]


def test_a_file_whose_stacks_do_not_fit_is_refused(tmp_path):
    trace = trace_of()
    short = {
        name: site[..., :3] if name in ("cross_k", "cross_pattern") else site
        for name, site in trace.stacks["vision"].sites.items()
    }
    short = {
        name: site[:, :, :3] if name in ("cross_k", "cross_v") else site
        for name, site in {**trace.stacks["vision"].sites, "cross_pattern": short["cross_pattern"]}.items()
    }
    wrong = replace(trace, stacks={"vision": replace(trace.stacks["vision"], sites=short)})
    with pytest.raises(FileFormatError, match="attention to 6 tokens"):
        fg.Trace.load(wrong.save(tmp_path / "a.safetensors"))


def test_more_layers_of_regions_than_of_text():
    trace = fg.trace(fg.load_model(lxmert("LxmertModel", l_layers=1, r_layers=3)), trace_of().inputs)
    graph = fg.build_graph(trace, method="attention", level="head")
    found = dict(zip(graph.nodes, places(graph, [1.0] * len(graph.nodes)), strict=True))
    heads = [fg.Node("cross_head", layer=n, head=0, position=1, stack=stack) for n, stack in ((1, None), (3, "vision"))]
    assert found[heads[0]].layer == found[heads[1]].layer
    assert min(one.layer for one in found.values()) == 0


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "reads a text and regions"),
        ({"visual_feats": FEATS}, "give both"),
        ({"visual_feats": FEATS[:, :3], "visual_pos": BOXES}, r"takes \[region, 12\]"),
        ({"visual_feats": FEATS, "visual_pos": BOXES[:2]}, "4 regions and visual_pos= has 2"),
        ({"visual_feats": FEATS * torch.nan, "visual_pos": BOXES}, "no finite"),
        ({"visual_feats": FEATS.long(), "visual_pos": BOXES}, "array of floats"),
    ],
)
def test_regions_that_do_not_fit_are_refused(given, said):
    with pytest.raises(PromptError, match=said):
        fg.trace(loaded_of(), fg.inputs(ids=IDS, **given))


def test_a_model_of_texts_refuses_regions():
    model = transformers.BertModel(
        transformers.BertConfig(
            vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=20
        )
    )
    with pytest.raises(PromptError, match="takes no regions"):
        fg.trace(model, fg.inputs(ids=IDS, visual_feats=FEATS, visual_pos=BOXES))


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda trace: fg.edge_weights(trace, method="ff"), "attends twice"),
        (lambda trace: fg.semantic_graph(trace), "read each other in the same"),
        (lambda trace: fg.head_scores(trace, attention="cross"), "made for encoder–decoders"),
        (lambda trace: fg.edge_weights(trace.stacks["vision"], method="norms"), "give the whole trace"),
    ],
)
def test_what_is_not_made_for_both_stacks_says_so(ask, said):
    with pytest.raises(UnsupportedReadingError, match=said):
        ask(trace_of())


def test_a_text_as_long_as_the_table_of_positions_is_read():
    ids = [1 + n for n in range(40)]
    assert len(fg.trace(loaded_of(), fg.inputs(ids=ids, visual_feats=FEATS, visual_pos=BOXES)).tokens) == 40
    with pytest.raises(PromptError, match="takes at most 40"):
        fg.trace(loaded_of(), fg.inputs(ids=[*ids, 1], visual_feats=FEATS, visual_pos=BOXES))


def test_regions_beside_an_image_are_refused_and_words_say_what_is_read():
    with pytest.raises(ArgumentError, match="of regions of an image beside a text"):
        fg.inputs(image=np.zeros((3, 8, 8), np.float32), visual_feats=FEATS, visual_pos=BOXES)
    said = str(fg.build_graph(trace_of(), method="attention").explain())
    assert "read regions of an image" in said
    assert "wrote" not in said
