"""Answers against flowgraph's own functions, called here by themselves."""

from __future__ import annotations

import json
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from flowgraph_webapp.panels import attention, details_of_node
from flowgraph_webapp.panels.attention import AttentionQuestion
from flowgraph_webapp.panels.bars import BarsQuestion, groupings
from flowgraph_webapp.panels.continuation import GenerateQuestion
from flowgraph_webapp.panels.details import NodeQuestion
from flowgraph_webapp.panels.flow import MOST_EDGES, GraphAnswer, GraphQuestion
from flowgraph_webapp.panels.heads import HeadsQuestion
from flowgraph_webapp.panels.lens import LensQuestion
from flowgraph_webapp.panels.picture import goes_on
from flowgraph_webapp.panels.semantic import SemanticQuestion
from flowgraph_webapp.panels.writers import writers
from flowgraph_webapp.present.drawn import token
from flowgraph_webapp.recipe import CHOICES, Recipe
from flowgraph_webapp.server import traces as traces_module
from flowgraph_webapp.server.model import ModelQuestion
from flowgraph_webapp.server.run import RunQuestion
from flowgraph_webapp.server.traces import Traces
from flowgraph_webapp.session import read_session, write_session

import flowgraph as fg
from flowgraph.algorithms import picture_edges
from flowgraph.algorithms.routes import SMALLEST_SHARE, routes_threshold
from flowgraph.errors import ArgumentError, GraphTooLargeError, PromptError, UnsupportedReadingError
from flowgraph.render import drawing
from tests.app.conftest import TEXT
from tests.conftest import IDS, JAPAN
from tests.every_type import model_of
from tests.tiny_models import tiny_model
from tests.tiny_translator import PAIRS, translator


def unheard(_stage, _part=None):
    pass


@pytest.fixture(scope="module")
def traces(folder, encoder) -> Traces:
    return Traces([folder, encoder], 2**30, 512)


@pytest.fixture(scope="module")
def run(folder) -> RunQuestion:
    return RunQuestion(folder, TEXT)


@pytest.fixture(scope="module")
def trace(traces, folder) -> fg.Trace:
    return fg.trace(traces.model(folder, unheard), TEXT)


def ask(traces, question, check=unheard):
    return question.answer(traces, check)


def same_graph(one, other):
    assert one.nodes == other.nodes
    assert one.info == other.info
    for name in ("source", "target", "kind", "layer", "head", "query_pos", "key_pos", "structural"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    for name in ("weight", "share"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-6)


# The run


def test_the_run_is_the_trace(traces, run, trace):
    answer = ask(traces, run)
    for name in (
        "tokens",
        "token_ids",
        "position",
        "target",
        "target_token",
        "n_layers",
        "n_heads",
        "causal",
        "family",
    ):
        assert getattr(answer, name) == getattr(trace, name)
    logits = trace.logits.double()
    best = logits.topk(10).indices.tolist()
    assert [one.token_id for one in answer.predictions] == best
    expected = logits.exp() / logits.exp().sum()
    for one in answer.predictions:
        assert one.probability == pytest.approx(float(expected[one.token_id]))
        assert one.token == trace.model.vocabulary.string(one.token_id)


def test_another_target_shares_the_pass(traces, run, trace):
    foil = 40
    aimed = RunQuestion(run.model, run.text, target=30, foil=foil)
    answer = ask(traces, aimed)
    assert (answer.target, answer.foil) == (30, foil)
    assert {30, foil} <= {one.token_id for one in answer.predictions}
    assert traces.trace(aimed, unheard).pattern.data_ptr() == traces.trace(run, unheard).pattern.data_ptr()
    own = fg.trace(trace.model, TEXT, target=30, foil=foil)
    assert ask(traces, BarsQuestion(aimed)).logit == pytest.approx(float(own.logits[30] - own.logits[foil]), abs=1e-5)
    assert ask(traces, LensQuestion(aimed)).target_token == own.target_token


def test_another_position_is_another_pass(traces, run):
    answer = ask(traces, RunQuestion(run.model, run.text, position=2))
    own = fg.trace(traces.model(run.model, unheard), TEXT, position=2)
    assert answer.target == own.target
    assert answer.predictions[0].logit == pytest.approx(float(own.logits.max()), abs=1e-5)


def test_too_many_tokens_are_refused_before_they_are_run(folder, monkeypatch):
    small = Traces([folder], 2**30, 6)
    monkeypatch.setattr(fg, "trace", None)
    with pytest.raises(PromptError, match="this server traces at most 6"):
        ask(small, RunQuestion(folder, TEXT))


def test_chat_needs_a_template(traces, run):
    with pytest.raises(ArgumentError, match="no chat template"):
        ask(traces, RunQuestion(run.model, run.text, chat=True))


@pytest.mark.real_model
def test_the_tokens_that_are_counted_are_those_that_are_run(smollm2):
    for chat in (False, True):
        assert traces_module.prompt_ids(smollm2, JAPAN, chat) == list(fg.trace(smollm2, JAPAN, chat=chat).token_ids)


# Graphs


def _edges(graph):
    return [(graph.nodes[s], graph.nodes[t], k) for s, t, k in zip(graph.source, graph.target, graph.kind, strict=True)]


@pytest.mark.parametrize("method", ["attention", "norms", "proximity", "logits", "ff"])
@pytest.mark.parametrize("threshold", [0.0, 0.1])
def test_routes(traces, run, trace, method, threshold):
    answer = ask(traces, GraphQuestion(run, method, threshold=threshold))
    weights = fg.edge_weights(trace, method=method)
    routes = fg.keep_strongest(
        fg.routes(weights, threshold=threshold or SMALLEST_SHARE), mass=None, max_edges=MOST_EDGES
    )
    same_graph(answer.graph, routes)
    whole = fg.build_graph(weights, readings=False)
    names = dict(zip(_edges(whole), fg.connected_flow(whole), strict=True))
    expected = sum(names[edge] for edge in _edges(answer.graph)) / sum(names.values())
    assert answer.graph.kept_mass == pytest.approx(expected)
    assert answer.note == f"routes over edges of share ≥ {'.1' if threshold else '.01'}"
    readings = fg.node_readings(trace, answer.graph.nodes, k=5)
    assert [r and r.top[0][0] for r in answer.graph.readings] == [r and r.top[0][0] for r in readings]
    assert [r and r.norm for r in answer.graph.readings] == pytest.approx([r and r.norm for r in readings])


@pytest.mark.parametrize(("most", "threshold"), [(10**6, 0.01), (None, 0.02), (5, 0.04)])
def test_routes_that_a_picture_cannot_hold_at_once_begin_at_a_larger_share(
    traces, run, trace, monkeypatch, most, threshold
):
    weights = fg.edge_weights(trace, method="proximity")
    sizes = {share: len(fg.routes(weights, threshold=share)) for share in (0.01, 0.02, 0.04)}
    assert sizes[0.01] > sizes[0.02] > sizes[0.04] > 5
    monkeypatch.setattr(picture_edges, "routes_threshold", partial(routes_threshold, most_edges=most or sizes[0.02]))
    answer = ask(traces, GraphQuestion(run))
    assert len(answer.graph) == sizes[threshold]
    assert answer.note == f"routes over edges of share ≥ {str(threshold)[1:]}"
    assert answer.graph.info.filters["threshold"] == threshold
    # Whoever asks for a share gets it.
    assert len(ask(traces, GraphQuestion(run, threshold=0.01)).graph) == sizes[0.01]


@pytest.mark.parametrize(
    ("method", "level"), [("proximity", "head"), ("norms", "head"), ("attention", "token"), ("logits", "head")]
)
def test_all_edges(traces, run, trace, method, level):
    answer = ask(traces, GraphQuestion(run, method, "all", level))
    whole = fg.build_graph(fg.edge_weights(trace, method=method), level=level)
    same_graph(answer.graph, fg.keep_strongest(whole, mass=None, max_edges=MOST_EDGES))
    assert len(answer.graph) < MOST_EDGES


def test_at_most_3000_edges_that_hang_together(traces, run, trace, monkeypatch):
    monkeypatch.setattr("flowgraph_webapp.panels.flow.MOST_EDGES", 20)
    answer = ask(traces, GraphQuestion(run, "proximity", "all"))
    assert len(answer.graph) == 20
    whole = fg.build_graph(fg.edge_weights(trace, method="proximity"))
    assert answer.note.startswith(f"all edges; the strongest 20 of {len(whole):,} that hang together")
    assert (fg.connected_flow(answer.graph) > 0).all()


def test_a_graph_too_large_to_list_is_cut_to_the_strongest(traces, run, monkeypatch):
    monkeypatch.setattr("flowgraph.algorithms.picture_edges.MOST_LISTED", 50)
    answer = ask(traces, GraphQuestion(run, "proximity", "all"))
    assert answer.note.startswith("the 50 edges of the largest share")
    assert 0 < len(answer.graph) <= 50
    with pytest.raises(GraphTooLargeError, match="set a larger threshold"):
        ask(traces, GraphQuestion(run, "proximity", threshold=0.001))


def test_rollout_and_flow(traces, run, trace):
    weights = fg.edge_weights(trace, method="proximity")
    start = fg.Node("resid_post", layer=0, position=3)
    for show, function in (("rollout", fg.rollout_graph), ("flow", fg.flow_graph)):
        for node in (None, start):
            answer = ask(traces, GraphQuestion(run, "proximity", show, start=node))
            drawn = function(weights, node)
            assert len(answer.graph)
            same_graph(answer.graph, fg.keep_strongest(drawn, mass=None, max_edges=MOST_EDGES, start=node))


def test_a_start_and_a_window(traces, run, trace):
    start = fg.Node("resid_post", layer=0, position=4)
    answer = ask(traces, GraphQuestion(run, "proximity", start=start, layers=(0, 1)))
    routes = fg.routes(fg.edge_weights(trace, method="proximity").window(0, 1), start, threshold=SMALLEST_SHARE)
    assert set(answer.graph.nodes) == set(routes.nodes)
    assert "resid_post" in str(answer.graph.info.filters["start"])
    empty = ask(traces, GraphQuestion(run, "proximity", start=start, threshold=1.0))
    assert (len(empty.graph), empty.note) == (0, "routes over edges of share ≥ 1: none")


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (("logits", "rollout"), "choose the method attention, norms or proximity"),
        (("logits", "flow"), "choose the method attention, norms or proximity"),
        (("proximity", "rollout", "head"), "choose level token"),
        (("ff", "routes", "head"), "'ff' takes heads together; choose level token"),
    ],
)
def test_what_a_method_does_not_have_is_said(traces, run, asked, reason):
    with pytest.raises(ArgumentError, match=reason):
        ask(traces, GraphQuestion(run, *asked))
    with pytest.raises(ArgumentError, match="layers="):
        ask(traces, GraphQuestion(run, layers=(0, 9)))
    with pytest.raises(ArgumentError):
        ask(traces, GraphQuestion(run, start=fg.Node("mlp", layer=9, position=0)))


@pytest.mark.parametrize("method", ["attention", "norms", "proximity", "ff"])
@pytest.mark.parametrize("show", ["all", "routes", "rollout", "flow"])
def test_every_other_combination_gives_a_graph(traces, run, method, show):
    answer = ask(traces, GraphQuestion(run, method, show))
    assert len(answer.graph)
    assert len(answer.graph.readings) == len(answer.graph.nodes)


def test_weights_and_readings_are_made_once(folder, run, monkeypatch):
    fresh = Traces([folder], 2**30, 512)
    calls = []
    for name in ("trace", "edge_weights", "node_readings"):
        real = getattr(fg, name)

        def counted(*arguments, real=real, name=name, **options):
            calls.append(name)
            return real(*arguments, **options)

        monkeypatch.setattr(fg, name, counted)
    ask(fresh, GraphQuestion(run, threshold=0.01))
    assert calls == ["trace", "edge_weights", "node_readings"]
    ask(fresh, GraphQuestion(run, threshold=0.05))
    ask(
        fresh,
        GraphQuestion(
            run, threshold=0.02, start=fg.Node("resid_post", layer=1, position=len(ask(fresh, run).tokens) - 1)
        ),
    )
    assert calls == ["trace", "edge_weights", "node_readings"]
    assert 0 < fresh.kept.bytes <= fresh.kept.limit


def test_what_does_not_fit_is_made_again(folder, run):
    tight = Traces([folder], 0, 512)
    assert len(ask(tight, GraphQuestion(run)).graph) == len(ask(tight, GraphQuestion(run)).graph)
    assert (tight.kept.bytes, len(tight.kept)) == (0, 0)


# The panels


def test_the_lens(traces, run, trace):
    answer, own = ask(traces, LensQuestion(run)), fg.logit_lens(trace, k=5)
    assert answer.shape == own.shape == (2, len(trace.tokens))
    assert answer.top_tokens == own.top_tokens
    assert answer.axis_names == ("layer", "position")
    for name in ("top_logits", "target_rank", "entropy", "norm", "bottom_probabilities"):
        np.testing.assert_allclose(getattr(answer, name), getattr(own, name), rtol=1e-4, atol=1e-6)


def test_the_lens_of_many_chunks_is_the_same(traces, run, trace, monkeypatch):
    stages = []
    monkeypatch.setattr("flowgraph_webapp.panels.lens.READ_AT_ONCE", 1)
    answer = ask(traces, LensQuestion(run), lambda stage, part=None: stages.append((stage, part)))
    np.testing.assert_allclose(answer.target_probability, fg.logit_lens(trace).target_probability, rtol=1e-4)
    assert stages == [("reading states", 0.0), ("reading states", 0.5)]


def test_heads(traces, run, trace):
    answer, own = ask(traces, HeadsQuestion(run)), fg.head_scores(trace)
    assert {*CHOICES["score"]} == {"", *own.scores, *own.undefined}
    assert next(iter(answer.scores)) == "direct_logit"
    assert set(answer.scores) == set(own.scores)
    for name, score in own.scores.items():
        np.testing.assert_allclose(answer.scores[name], score.values)
        assert (answer.units[name], answer.descriptions[name]) == (score.unit, score.description)
    assert answer.undefined == own.undefined


def test_attention(traces, run, trace):
    for layer in range(2):
        pattern = ask(traces, AttentionQuestion(run, layer)).pattern
        np.testing.assert_allclose(pattern, trace.pattern[layer].numpy(), rtol=1e-5, atol=1e-7)
    with pytest.raises(ArgumentError, match="layer=2 is outside the model; its layers are 0…1"):
        ask(traces, AttentionQuestion(run, 2))


def test_the_bars_are_the_logit(traces, run, trace):
    answer = ask(traces, BarsQuestion(run))
    assert sum(bar.value for bar in answer.rows) == pytest.approx(answer.total, abs=1e-9)
    assert answer.logit == pytest.approx(float(trace.logits[trace.target]))
    assert abs(answer.total - answer.logit) / max(1, abs(answer.logit)) == pytest.approx(answer.error)
    assert answer.error < 1e-5
    assert answer.sources.sum() == pytest.approx(answer.heads.sum())
    assert sum(bar.value for bar in answer.neurons) + answer.neurons_rest == pytest.approx(answer.mlps.sum())
    heads = {(bar.layer, bar.head): bar.value for bar in answer.rows if bar.kind == "head"}
    assert heads == {(layer, head): answer.heads[layer, head] for layer in range(2) for head in range(4)}
    sizes = [abs(bar.value) for bar in answer.neurons]
    assert sizes == sorted(sizes, reverse=True)
    assert len(sizes) == 50
    assert len({bar.label for bar in answer.rows}) == len(answer.rows)


def test_bars_of_every_family(tiny, tmp_path):
    for name in ("gpt2", "opt", "gemma2", "gpt_neox"):
        loaded = tiny(name)
        of_one = Traces([name], 2**28, 512)
        of_one._loaded[name] = loaded
        answer = ask(of_one, BarsQuestion(RunQuestion(name, "The cat sat")))
        assert sum(bar.value for bar in answer.rows) == pytest.approx(answer.logit, abs=1e-4)


def test_the_semantic_graph(traces, run, trace):
    answer = ask(traces, SemanticQuestion(run, (0, 1), (2, 3), "norm"))
    same_graph(answer.graph, fg.semantic_graph(trace, layers=(0, 1), positions=(2, 3), select="norm"))
    assert answer.note == "layer 0, parts chosen by norm"
    last = ask(traces, SemanticQuestion(run))
    assert last.graph.info.layers == (1, 2)


# Nodes


@pytest.mark.parametrize("kind", ["embed", "resid_mid", "resid_post", "attn", "mlp"])
def test_states_are_read(traces, run, trace, kind):
    at = len(trace.tokens) - 1
    node = fg.Node(kind, layer=None if kind == "embed" else 1, position=at)
    answer = ask(traces, NodeQuestion(run, node))
    site = {"embed": trace.resid_pre[0], "attn": trace.attn_out[1], "mlp": trace.mlp_out[1]}
    vector = site[kind][at] if kind in site else trace.site(kind)[1, at]
    own = fg.read(trace, vector[None], k=10)[0]
    assert answer.reading.top[0][0] == own.top[0][0]
    assert answer.reading.target_logit == pytest.approx(own.target_logit, abs=1e-4)
    assert len(answer.reading.top) == 10
    assert (answer.node, answer.attention) == (node, None)


def test_what_nodes_add_is_the_logit(traces, run, trace):
    at = len(trace.tokens) - 1
    nodes = [fg.Node("embed", position=at)]
    nodes += [fg.Node(kind, layer, position=at) for layer in range(2) for kind in ("attn", "mlp")]
    answers = [ask(traces, NodeQuestion(run, node)) for node in nodes]
    assert sum(answer.contribution for answer in answers) == pytest.approx(float(trace.logits[trace.target]), abs=1e-4)
    heads = [ask(traces, NodeQuestion(run, fg.Node("head", 1, head, at))) for head in range(4)]
    assert sum(answer.contribution for answer in heads) == pytest.approx(answers[3].contribution, abs=1e-5)
    for head, answer in enumerate(heads):
        np.testing.assert_allclose(answer.attention, trace.pattern[1, head, at].numpy())
    other = ask(traces, NodeQuestion(run, fg.Node("head", 1, 0, at - 1)))
    assert (other.contribution, other.note) == (None, f"only nodes of position {at} add to its logit themselves")


def test_nodes_inside_a_layer_are_read_as_the_semantic_graph_reads_them(traces, run, trace):
    graph = fg.semantic_graph(trace, layers=1, k=10, neurons_per_block=4, sources_per_head=2)
    for node, reading in zip(graph.nodes, graph.readings, strict=True):
        if node.kind in ("query", "key", "value", "neuron", "gate", "neuron_in", "attn_norm", "mlp_norm"):
            answer = ask(traces, NodeQuestion(run, node))
            assert answer.reading.top[0][0] == reading.top[0][0], node
            assert answer.reading.norm == pytest.approx(reading.norm), node


@pytest.mark.parametrize(
    "node", [fg.Node("logit", index=5), fg.Node("attn_rest", layer=0, position=1), fg.Node("unembed_bias")]
)
def test_nodes_without_a_vector_say_so(traces, run, node):
    answer = ask(traces, NodeQuestion(run, node))
    assert answer.reading is None
    assert answer.note


@pytest.mark.parametrize(
    ("node", "reason"),
    [
        (fg.Node("head", 0, 4, 0), "head=4 is outside this run; expected 0…3"),
        (fg.Node("mlp", 2, position=0), "layer=2 is outside"),
        (fg.Node("mlp", 0, position=999), "position=999 is outside"),
        (fg.Node("mlp", 0), "has no position"),
        (fg.Node("logit", index=10**6), "index=1000000 is outside"),
        (fg.Node("neuron", 0, position=0, index=10**6), "index=1000000 is outside"),
    ],
)
def test_nodes_that_are_not_there(traces, run, node, reason):
    with pytest.raises(ArgumentError, match=reason):
        ask(traces, NodeQuestion(run, node))


@pytest.fixture(scope="module")
def both() -> Traces:
    """What a worker holds that runs a model of two stacks."""
    found = Traces(["translator"], 2**30, 512)
    found._loaded["translator"] = translator()
    return found


def test_attention_is_of_both_stacks_and_between_them(both):
    run = RunQuestion("translator", PAIRS[0][0])
    about, trace = ask(both, run), both.trace(run, unheard)
    question = AttentionQuestion(run, 0)
    answer = ask(both, question)
    own = {f"{trace.role}.self": answer.pattern} | {one.name: one.pattern for one in answer.others}
    assert own.keys() == trace.attention.keys()
    for name, pattern in own.items():
        np.testing.assert_array_equal(pattern, trace.attention[name].pattern[0].numpy())
    between = next(one for one in answer.others if one.is_cross)
    assert (between.queries, between.keys) == (trace.tokens, trace.stacks["encoder"].tokens)
    kept = write_session(Recipe(model="translator", text=run.text), {run: about, question: answer})
    found = read_session(kept).answers[question]
    assert [one.name for one in found.others] == [one.name for one in answer.others]
    np.testing.assert_array_equal(found.others[0].pattern, answer.others[0].pattern)
    header, rows = attention.rows(answer, about)
    assert header[-1] == "of"
    sums: dict[tuple, float] = {}
    for row in rows:
        sums[row[-1], row[1], row[2]] = sums.get((row[-1], row[1], row[2]), 0.0) + row[6]
    assert {name for name, *_ in sums} == trace.attention.keys()
    assert list(sums.values()) == pytest.approx([1.0] * len(sums), abs=1e-5)
    drawn = json.dumps(attention.panel(answer, about).chart)
    for node in (fg.Node("cross_head", 0, 1, 0), fg.Node("head", 0, 1, 2, stack="encoder"), fg.Node("head", 0, 1, 4)):
        assert f'"data-pick": "{fg.node_key(node)}"' in drawn


def test_bars_and_largest_parts_hold_what_reads_the_encoder(both):
    run = RunQuestion("translator", PAIRS[0][0])
    about, trace = ask(both, run), both.trace(run, unheard)
    parts = fg.direct_logit_attribution(trace, position=about.position)
    answer = ask(both, BarsQuestion(run))
    crossed = {bar.head: bar.value for bar in answer.rows if bar.kind == "cross_head"}
    assert crossed == {head: pytest.approx(float(value)) for head, value in enumerate(parts.cross_heads[0])}
    assert sum(bar.value for bar in answer.rows) == pytest.approx(answer.total) == pytest.approx(parts.total)
    for name, bars in groupings(answer, about).items():
        assert sum(bar.value for bar in bars) == pytest.approx(answer.total), name
    strongest = max(crossed, key=lambda head: abs(crossed[head]))
    for level in ("token", "head"):
        graph = ask(both, GraphQuestion(run, level=level)).graph
        order = drawing(graph).order
        said = {one["name"]: one for one in writers(answer, about, Recipe(text="x"), graph)["parts"]}
        first = next(iter(said.values()))
        assert first["name"] == f"L0.cross.H{strongest}"
        ends = [graph.nodes[graph.source[order[e]]] for e in first["edges"]]
        assert any(node.stack == "encoder" for node in ends)
        for e in said.get("L0 attention", {"edges": []})["edges"]:
            assert graph.nodes[graph.source[order[e]]].stack is None


def test_bars_hold_what_mixers_write():
    trace = fg.trace(model_of("lfm2_moe"), IDS)
    asked = SimpleNamespace(trace=lambda *_: trace, attribution=lambda *_: fg.direct_logit_attribution(trace))
    answer = BarsQuestion(RunQuestion("hybrid", "x")).answer(asked, unheard)
    assert any(bar.kind == "mixer" for bar in answer.rows)
    assert sum(bar.value for bar in answer.rows) == pytest.approx(answer.total)


def test_a_node_says_in_the_app_what_the_library_says_in_both_stacks(both):
    run = RunQuestion("translator", PAIRS[0][0])
    trace, about = both.trace(run, unheard), ask(both, run)
    english = trace.stacks["encoder"].tokens
    assert english != about.tokens
    for node in (
        fg.Node("cross_head", 0, 1, 0),
        fg.Node("head", 0, 0, 2, stack="encoder"),
        fg.Node("head", 0, 1, 0),
        fg.Node("mlp", 0, position=0),
    ):
        question = NodeQuestion(run, node)
        answer, own = ask(both, question), fg.node_details(trace, node)
        assert (answer.reading, answer.contribution, answer.tokens, answer.note) == (
            own.reading,
            own.contribution,
            own.tokens,
            own.note,
        )
        np.testing.assert_array_equal(answer.attention, own.attention)
        kept = write_session(Recipe(model="translator", text=run.text), {run: about, question: answer})
        found = read_session(kept).answers[question]
        assert (found.reading, found.tokens, found.note) == (own.reading, own.tokens, own.note)
        drawn = json.dumps(details_of_node.panel(found, None, about).children[1].chart)
        looks_at = drawn.partition('"Attention"')[2]
        seen = [word for word in english if json.dumps(token(word).plain()) in looks_at]
        assert seen == (list(english) if own.tokens == english else []), node


# Generation


def test_a_continuation_takes_the_best_token_each_time(traces, run, trace):
    answer = ask(traces, GenerateQuestion(run, 6))
    ids = list(trace.token_ids)
    for word in answer.token_ids:
        assert word == fg.trace(trace.model, ids).target
        ids.append(word)
    assert answer.tokens == trace.model.vocabulary.strings(answer.token_ids)
    assert answer.text.startswith(TEXT)
    starts = [prompt for prompt in answer.prompts if prompt is not None]
    assert starts[0] == TEXT
    for n, prompt in enumerate(answer.prompts):
        if prompt is not None:
            again = fg.trace(trace.model, prompt)
            assert again.token_ids == trace.token_ids + answer.token_ids[:n]
            assert again.target == answer.token_ids[n]


def test_a_continuation_can_be_stopped_between_tokens(traces, run):
    class StopHere(Exception):  # noqa: N818
        pass

    seen = []

    def check(stage, part=None):
        seen.append((stage, part))
        if len(seen) == 3:
            raise StopHere

    with pytest.raises(StopHere):
        ask(traces, GenerateQuestion(run, 10), check)
    assert seen == [("generating", 0.0), ("generating", 0.1), ("generating", 0.2)]


def test_a_continuation_must_fit_the_context(traces, run):
    with pytest.raises(PromptError, match="takes at most 64 together"):
        ask(traces, GenerateQuestion(run, 60))


def test_models_without_what_is_asked_say_so(traces, encoder):
    masked = RunQuestion(encoder, "the [MASK] sat on the mat")
    assert ask(traces, masked).tokens[ask(traces, masked).position] == "[MASK]"
    assert not ask(traces, ModelQuestion(encoder)).has_attribution
    with pytest.raises(UnsupportedReadingError, match="masked language model"):
        ask(traces, BarsQuestion(masked))
    with pytest.raises(UnsupportedReadingError, match="does not go on with a text"):
        ask(traces, GenerateQuestion(masked, 2))
    assert ask(traces, LensQuestion(masked)).shape[0] == 2
    answer = ask(traces, NodeQuestion(masked, fg.Node("head", 0, 0, 1)))
    assert (answer.contribution, answer.note) == (None, "this model's logits are no sums of parts")


def test_a_masked_prompt_without_a_gap_is_refused_in_the_words_of_the_page(traces, encoder):
    text = "the cat sat on the mat"
    with pytest.raises(
        PromptError, match=r"write \[MASK\] where a token is to be predicted, or set Position"
    ) as refused:
        ask(traces, RunQuestion(encoder, text))
    assert "position=" not in str(refused.value)
    assert ask(traces, RunQuestion(encoder, text, position=2)).position == 2


def test_what_a_model_cannot_do_is_not_offered(traces, run, encoder):
    assert goes_on(ask(traces, run))
    assert not goes_on(ask(traces, RunQuestion(encoder, "the [MASK] sat on the mat")))


# The examples are what would be computed


@pytest.mark.parametrize("name", ["capital-of-japan", "drink-to-mary", "tower-and-colosseum"])
def test_graphs_of_the_examples_say_what_made_them(name):
    """What is exported from an example names the model, its weights and the programs, as every other graph file."""
    from flowgraph_webapp.server.recorded import Examples

    graphs = [answer.graph for answer in Examples()._sessions[name].answers.values() if isinstance(answer, GraphAnswer)]
    assert graphs
    for graph in graphs:
        assert {"weights", "config", "dtype", "token_ids", "torch", "made_by"} <= set(graph.info.provenance)


@pytest.mark.real_model
@pytest.mark.slow
def test_examples_are_what_is_computed_now(smollm2):
    from flowgraph_webapp.server.recorded import Examples

    from tests.app_examples import MODEL, SUBJECTS, record

    now = Traces([MODEL], 2**30, 512)
    now._loaded[MODEL] = smollm2
    examples = {example.id: example for example in Examples().listed()}
    assert set(examples) == set(SUBJECTS)
    _, answers = record(now, SUBJECTS["capital-of-japan"])
    recorded = Examples()._sessions["capital-of-japan"].answers
    assert set(answers) == set(recorded)
    for question, answer in answers.items():
        then = recorded[question]
        if isinstance(question, GraphQuestion):
            assert abs(len(then.graph) - len(answer.graph)) <= 0.01 * len(answer.graph), question
            assert then.graph.info.target == answer.graph.info.target
        elif isinstance(question, BarsQuestion):
            np.testing.assert_allclose(then.heads, answer.heads, atol=1e-3)
        elif isinstance(question, AttentionQuestion):
            np.testing.assert_allclose(then.pattern, answer.pattern, atol=1e-4)
        elif isinstance(question, LensQuestion):
            np.testing.assert_allclose(then.target_probability, answer.target_probability, atol=1e-3)


def test_a_model_of_which_patterns_alone_are_known_opens(tmp_path):
    """What needs more is refused in words that the page shows; its attention is drawn."""
    model_of("doge").save_pretrained(tmp_path)
    tiny_model("gpt2")[1].save_pretrained(tmp_path)
    name = str(tmp_path)
    traces = Traces([name], 2**30, 512)
    assert not ask(traces, ModelQuestion(name)).has_head
    run = RunQuestion(name, TEXT)
    drawn = ask(traces, GraphQuestion(run, method="attention"))
    assert len(drawn.graph)
    with pytest.raises(UnsupportedReadingError, match="open at level 'patterns'"):
        ask(traces, GraphQuestion(run, method="proximity"))
