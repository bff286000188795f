"""Discovery finds the circuits that were written by hand, and nothing but them, and says what it cost."""

from __future__ import annotations

import inspect
import json
import re
from contextlib import contextmanager
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

import flowgraph
from flowgraph.circuits.discovery import METHODS
from flowgraph.cli import main
from flowgraph.errors import ArgumentError, CancelledError, ModelMismatchError, PromptError
from flowgraph.interventions.edges import Edge
from flowgraph.interventions.plan import circuit_edges
from flowgraph.render import render_html
from flowgraph.render.scene.layout import places
from flowgraph.values.graph_axes import columns, is_circuit
from flowgraph.values.node import Node
from tests.circuit_graphs import every_edge
from tests.conftest import IDS
from tests.induction_circuits import VARIANTS, gpt2_circuit, llama_circuit, repeated

COUNT = 8
CORRUPTIONS = [("first", 4.0), ("first", 25.0), ("first", 60.0), ("again", 60.0), ("all", 60.0)]


@cache
def made(name, beta=60.0, corruption="first"):
    """Model, its heads, and what ``discover`` is asked: prompts whose first half, second half or both are other ones."""
    circuit = llama_circuit(beta=beta) if name == "llama" else gpt2_circuit(name, beta=beta)
    words = circuit.model.config.vocab_size
    clean, answers = repeated(words, count=COUNT)
    other, _ = repeated(words, count=COUNT, seed=1)
    corrupted = other if corruption == "all" else clean.clone()
    if corruption == "first":
        corrupted[:, 1:9] = other[:, 1:9]
    elif corruption == "again":
        corrupted[:, 9:] = clean[:, 9:].roll(1, 0)
    asked = {"clean": clean, "corrupted": corrupted, "target": answers.tolist()}
    return flowgraph.load_model(circuit.model), circuit.heads, asked


def all_edges(model):
    return every_edge(model.anatomy)


@cache
def truth(name, beta=60.0, corruption="first"):
    """Every edge with its exact effect, and which of them are true: above 1 % of the gap."""
    model, _, asked = made(name, beta, corruption)
    found = flowgraph.edge_effects(model, asked["clean"], asked["corrupted"], all_edges(model), target=asked["target"])
    gap = float((found.clean - found.corrupted).mean())
    return found, np.abs(found.effects) > 0.01 * abs(gap), gap


def weights(graph):
    return dict(zip(circuit_edges(graph), graph.weight.tolist(), strict=True))


def auroc(size, true):
    positive, negative = size[true][:, None], size[~true]
    return float(((positive > negative) + 0.5 * (positive == negative)).mean())


def sizes(graph, edges):
    found = weights(graph)
    return np.array([abs(found.get(edge, 0.0)) for edge in edges])


@pytest.mark.parametrize(
    ("name", "corruption", "beta"),
    [
        (name, *how) if name in ("plain", "llama") or how == ("first", 60.0)
        else pytest.param(name, *how, marks=pytest.mark.slow)
        for name in (*VARIANTS, "llama") for how in CORRUPTIONS
    ],
)  # fmt: skip
def test_backward_discovery_finds_every_true_edge_and_ranks_them_first(name, corruption, beta):
    model, _, asked = made(name, beta, corruption)
    exact, true, gap = truth(name, beta, corruption)
    # So few forwards that trying out every edge is not the way.
    budget = COUNT * (3 + len(exact.edges) // 3)
    graph = flowgraph.discover(model, **asked, budget=budget)
    found = sizes(graph, exact.edges)
    assert auroc(found, true) == 1.0
    assert set(np.argsort(-found, kind="stable")[: true.sum()]) == set(np.flatnonzero(true))
    assert set(weights(graph)) == {edge for edge, is_true in zip(exact.edges, true, strict=True) if is_true}
    np.testing.assert_allclose(
        [-weights(graph)[edge] for edge in circuit_edges(graph)],
        [exact.effects[exact.edges.index(edge)] for edge in circuit_edges(graph)],
        rtol=1e-9,
    )
    assert graph.info.options["forwards"] <= budget
    assert graph.info.options["gap"] == pytest.approx(gap, rel=1e-5)
    assert graph.info.options["tested"] <= 2 * true.sum()


@pytest.mark.parametrize("name", ["plain", "mover", "llama"])
def test_plain_attribution_patching_is_blind_behind_a_saturated_softmax(name):
    model, heads, asked = made(name)
    exact, true, gap = truth(name)
    graph = flowgraph.discover(model, **asked, method="eap")
    found = sizes(graph, exact.edges)
    assert auroc(found, true) < 0.8
    scores = flowgraph.edge_scores(model, asked["clean"], asked["corrupted"], target=asked["target"])
    (layer, head), group = heads["induction"], model.anatomy.n_heads // model.anatomy.n_kv_heads
    kind = "head" if group == 1 else "kv_group"
    into = Edge(
        Node("head", layer=heads["previous"][0], head=heads["previous"][1]),
        Node(kind, layer=layer, head=head // group),
        "k",
    )
    upstream = Edge(Node("embed"), Node(kind, layer=heads["previous"][0], head=heads["previous"][1] // group), "v")
    for edge in (into, upstream):
        assert abs(exact.effects[exact.edges.index(edge)]) > 0.7 * gap
        assert abs(scores.score(edge)) < 0.001 * gap
    # With the QK fix the first of them is seen, the second is not.
    fixed = flowgraph.discover(model, **asked, method="eap-qk")
    assert (into in weights(fixed)) == (name != "mover")
    assert upstream not in weights(fixed)


@pytest.mark.parametrize("method", ["eap", "eap-qk", "eap-ig", "acdc"])
@pytest.mark.parametrize("name", [*VARIANTS, "llama"])
def test_every_method_finds_the_circuit_while_attention_is_soft(name, method):
    model, _, asked = made(name, 4.0)
    exact, true, _ = truth(name, 4.0)
    assert auroc(sizes(flowgraph.discover(model, **asked, method=method), exact.edges), true) == 1.0


@pytest.mark.parametrize("beta", [4.0, 60.0])
def test_the_negative_head_is_found_with_a_negative_sign(beta):
    model, heads, asked = made("negative", beta)
    found = weights(flowgraph.discover(model, **asked))
    logits = Node("logits")
    out = {role: found[Edge(Node("head", layer=layer, head=head), logits, "logits")]
           for role, (layer, head) in heads.items() if role != "previous"}  # fmt: skip
    assert out["induction"] > 0 > out["negative"]
    assert out["negative"] == pytest.approx(-out["induction"] / 3, rel=0.01)


@contextmanager
def counted(model):
    """Rows that reach the head, backward passes, and rows of attention or MLP outside of a pass, as they are run."""
    seen = {"forwards": 0, "backwards": 0, "layer_runs": 0}
    inside = [0]
    block_modules = [block.module for block in model.anatomy.blocks]

    def enter(*_args):
        inside[0] += 1

    def leave(*_args):
        inside[0] -= 1

    def layer_run(_module, args, kwargs):
        states = args[0] if args else next(iter(kwargs.values()))
        seen["layer_runs"] += 0 if inside[0] else states.shape[:-2].numel()

    def head_run(_module, args):
        seen["forwards"] += len(args[0])

    handles = [model.anatomy.head[0].register_forward_pre_hook(head_run)]
    for block in model.anatomy.blocks:
        handles.append(block.attention.register_forward_pre_hook(layer_run, with_kwargs=True))
        handles.append(block.mlp_input.module.register_forward_pre_hook(layer_run, with_kwargs=True))
    for module in block_modules:
        handles += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
    before = torch.autograd.grad

    def grad(outputs, *args, **kwargs):
        seen["backwards"] += COUNT
        return before(outputs, *args, **kwargs)

    torch.autograd.grad = grad
    try:
        yield seen
    finally:
        torch.autograd.grad = before
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["mover", "llama"])
def test_what_was_run_is_what_is_reported(name, method):
    model, _, asked = made(name)
    with counted(model) as seen:
        options = flowgraph.discover(model, **asked, method=method).info.options
    if method == "acdc":
        seen["forwards"] += COUNT  # the corrupted run, of which nobody asks the logits for its own sake
    assert {part: options[part] for part in seen} == seen
    if method in ("eap", "eap-qk", "gradient"):
        assert (options["forwards"], options["backwards"]) == (2 * COUNT, COUNT)
    if method == "eap-ig":
        assert (options["forwards"], options["backwards"]) == ((1 + 5) * COUNT, 5 * COUNT)


def test_a_budget_that_does_not_suffice_is_spent_on_the_strongest_edges_of_the_whole_model():
    model, _, asked = made("negative", 4.0)
    exact, true, _ = truth("negative", 4.0)
    strongest = np.sort(np.abs(exact.effects))[::-1]
    for affordable in range(1, int(true.sum())):
        graph = flowgraph.discover(model, **asked, budget=COUNT * (3 + affordable))
        np.testing.assert_allclose(np.abs(graph.weight), strongest[:affordable], rtol=1e-9)
        assert graph.info.options["untested"] >= true.sum() - affordable


@pytest.mark.parametrize("method", ["backward", "acdc"])
def test_a_budget_bounds_what_is_run_and_the_rest_is_said(method):
    model, _, asked = made("mover")
    full = flowgraph.discover(model, **asked, method=method)
    budget = COUNT * (6 if method == "backward" else 20)
    short = flowgraph.discover(model, **asked, method=method, budget=budget)
    assert short.info.options["forwards"] <= budget == short.info.options["budget"]
    if method == "backward":
        assert short.info.options["untested"] > 0
        assert full.info.options["untested"] == 0
        assert len(short) == 3
        assert set(weights(short)) < set(weights(full))
    else:
        assert short.info.options["shortlist"] < full.info.options["shortlist"]


def test_acdc_keeps_what_the_answer_needs_when_all_else_is_cut():
    model, _, asked = made("mover")
    graph = flowgraph.discover(model, **asked, method="acdc")
    kept = flowgraph.ablate(
        model, asked["clean"], graph, "resample", reference=asked["corrupted"], target=asked["target"], outside=True
    )
    assert kept.mean_after == pytest.approx(graph.info.options["metric_of_circuit"], rel=1e-6)
    assert kept.mean_after == pytest.approx(kept.mean_before, rel=0.05)
    assert graph.info.options["tested"] < len(all_edges(model)) / 2


def test_zero_ablation_and_other_metrics(tiny):
    model, _, asked = made("plain")
    zero = flowgraph.discover(model, **asked, how="zero")
    exact = flowgraph.edge_effects(
        model, asked["clean"], asked["corrupted"], circuit_edges(zero), "zero", target=asked["target"]
    )
    np.testing.assert_allclose(-zero.weight, exact.effects, rtol=1e-9)
    other = [IDS[0], *reversed(IDS[1:])]
    nats = flowgraph.discover(
        tiny("gpt2"), clean=IDS, corrupted=other, target=3, metric=flowgraph.log_probability, budget=60
    )
    assert nats.info.unit == "nats"
    assert "nats" in str(nats.explain())


@pytest.mark.parametrize("name", ["plain", "llama"])
def test_mean_ablation_cuts_to_the_mean_of_the_corrupted_prompts(name):
    model, _, asked = made(name)
    graph = flowgraph.discover(model, **asked, how="mean")
    assert graph.info.options["ablation"] == "mean"
    assert len(graph) >= 4
    for edge, weight in weights(graph).items():
        cut = flowgraph.ablate(
            model, asked["clean"], edge, "mean", reference=asked["corrupted"], target=asked["target"]
        )
        assert weight == pytest.approx(cut.mean_before - cut.mean_after, rel=1e-6)
    pruned = flowgraph.discover(model, **asked, how="mean", method="acdc")
    kept = flowgraph.ablate(
        model, asked["clean"], pruned, "mean", reference=asked["corrupted"], target=asked["target"], outside=True
    )
    assert kept.mean_after == pytest.approx(pruned.info.options["metric_of_circuit"], rel=1e-6)


def test_first_order_mean_ablation_is_change_to_the_mean_times_gradient():
    model, _, asked = made("plain", 4.0)
    graph = flowgraph.discover(model, **asked, how="mean", method="eap", threshold=0.0)
    grads = flowgraph.gradients(model, asked["clean"], target=asked["target"])
    embedding = model.model.transformer.wte
    positions = torch.arange(asked["clean"].shape[1])
    clean, corrupted = (
        embedding(asked[part]) + model.model.transformer.wpe(positions) for part in ("clean", "corrupted")
    )
    by_hand = float(((corrupted.mean(0) - clean) * grads.into(1, "v")[2]).sum()) / COUNT
    assert -weights(graph)[Edge(Node("embed"), Node("head", layer=1, head=2), "v")] == pytest.approx(by_hand, rel=1e-6)


def test_mean_ablation_needs_two_prompts_of_a_length():
    model, _, asked = made("plain")
    with pytest.raises(PromptError, match="there is 1 of 13 tokens; give at least two"):
        flowgraph.discover(
            model, clean=asked["clean"][:1], corrupted=asked["corrupted"][:1], target=asked["target"][:1], how="mean"
        )


def test_activation_times_gradient_is_first_order_zero_ablation():
    model, _, asked = made("plain", 4.0)
    graph = flowgraph.discover(model, **asked, method="gradient", threshold=0.0)
    assert graph.info.options["ablation"] == "zero"
    grads = flowgraph.gradients(model, asked["clean"], target=asked["target"])
    edge = Edge(Node("embed"), Node("head", layer=1, head=2), "v")
    embed = grads.states["resid_pre", 0].double()
    by_hand = float((embed * grads.into(1, "v")[2]).sum()) / COUNT
    assert weights(graph)[edge] == pytest.approx(by_hand, rel=1e-9)


@pytest.mark.parametrize(
    ("points", "parts"), [("left", (1 / 3, 2 / 3, 1)), ("right", (0, 1 / 3, 2 / 3)), ("midpoint", (1 / 6, 0.5, 5 / 6))]
)
def test_integrated_gradients_average_over_their_points(points, parts):
    """Against gradients of runs whose embeddings were mixed by hand, so much of the way to the corrupted ones."""
    model, _, asked = made("plain", 10.0)
    graph = flowgraph.discover(model, **asked, method="eap-ig", steps=3, points=points, threshold=0.0)
    starts = [model.model.transformer.wte(asked[name]) for name in ("clean", "corrupted")]
    total = 0.0
    for part in parts:
        handle = model.model.transformer.wte.register_forward_hook(
            lambda *_, mixed=starts[0] + part * (starts[1] - starts[0]): mixed
        )
        grads = flowgraph.gradients(model, asked["clean"], target=asked["target"])
        handle.remove()
        total += float(((starts[1] - starts[0]) * grads.into(1, "v")[2]).sum()) / COUNT / 3
    assert -weights(graph)[Edge(Node("embed"), Node("head", layer=1, head=2), "v")] == pytest.approx(total, rel=1e-6)
    options = graph.info.options
    assert options["points"] == points
    assert (options["forwards"], options["backwards"]) == ((4 + (points != "right")) * COUNT, 3 * COUNT)
    assert f"points={points}" in graph.caption()
    edges = flowgraph.circuit_edges(graph)
    assert f"eap-ig, points {points}" in repr(edges)
    assert f"points {points}" in edges.chart().subtitle


@pytest.mark.parametrize("name", [*VARIANTS, "llama"])
def test_the_strongest_scores_are_confirmed_by_cutting(name):
    model, _, asked = made(name, 4.0)
    exact, true, _ = truth(name, 4.0)
    graph = flowgraph.discover(model, **asked, method="eap-ig-exact", points="left")
    assert auroc(sizes(graph, exact.edges), true) == 1.0
    known = dict(zip(exact.edges, exact.effects, strict=True))
    for edge, weight in weights(graph).items():
        assert weight == pytest.approx(-known[edge], rel=1e-6)
    assert flowgraph.circuit_edges(graph).measured
    options = graph.info.options
    assert options["tested"] >= len(graph)
    assert options["untested"] == 0
    short = flowgraph.discover(model, **asked, method="eap-ig-exact", points="left", budget=(2 + 5 + 2 + 2) * COUNT)
    assert short.info.options["tested"] == 2
    assert short.info.options["untested"] == options["tested"] - 2
    assert short.info.options["forwards"] == short.info.options["budget"]


def test_a_search_says_its_cost_first():
    model, _, asked = made("plain", 4.0)
    for options, forwards in (
        ({"method": "eap"}, 2), ({"method": "eap-ig", "points": "left"}, 7), ({"method": "eap-ig-exact"}, 500), ({"method": "backward"}, 500)
    ):  # fmt: skip
        seen = []
        graph = flowgraph.discover(
            model, **asked, **options, progress=lambda stage, _part, seen=seen: seen.append(stage)
        )
        assert seen[0].startswith(f"at most {forwards * COUNT:,} forwards of a prompt, working in ")
        assert graph.info.options["forwards"] <= forwards * COUNT


def test_scores_without_a_sure_sign_are_none(tiny):
    """Against draws one by one of the scores of single prompts."""
    model = tiny("gpt2", torch.float64)
    examples = tuple(
        flowgraph.Example(tuple(np.roll(IDS, n).tolist()), tuple(np.roll(IDS, n)[::-1].tolist()), 3, 5)
        for n in range(COUNT)
    )
    data = flowgraph.TaskData("rolled", "", examples)
    plain = weights(flowgraph.discover(model, data=data, method="eap", threshold=0.0))
    graph = flowgraph.discover(model, data=data, method="eap", threshold=0.0, bootstrap=40, seed=3)
    alone = [
        weights(flowgraph.discover(model, data=replace(data, examples=(one,)), method="eap", threshold=0.0))
        for one in examples
    ]
    draws = np.random.default_rng(3).multinomial(COUNT, np.full(COUNT, 1 / COUNT), size=40)
    sure = {}
    for edge, weight in plain.items():
        drawn = draws @ np.array([one.get(edge, 0.0) for one in alone])
        if max((drawn > 0).mean(), (drawn < 0).mean()) >= 0.975:
            sure[edge] = weight
    assert 0 < len(sure) < len(plain)
    assert weights(graph) == pytest.approx(sure)
    assert graph.info.options["bootstrap"] == 40
    with pytest.raises(ArgumentError, match="method='backward' cuts edges"):
        flowgraph.discover(model, data=data, bootstrap=10)
    with pytest.raises(ArgumentError, match="draws prompts from one prompt"):
        flowgraph.discover(model, data=replace(data, examples=examples[:1]), method="eap", bootstrap=10)
    with pytest.raises(ArgumentError, match="bootstrap=-1"):
        flowgraph.discover(model, data=data, method="eap", bootstrap=-1)


def test_one_point_at_the_clean_end_is_attribution_patching():
    model, _, asked = made("plain", 10.0)
    one = flowgraph.discover(model, **asked, method="eap-ig", steps=1, points="right", threshold=0.0)
    plain = flowgraph.discover(model, **asked, method="eap", threshold=0.0)
    assert weights(one) == pytest.approx(weights(plain))


@pytest.mark.parametrize("points", ["left", "right", "midpoint"])
def test_the_answer_on_the_way_is_that_of_the_clean_run(tiny, points):
    """Where no answer is said it is the clean run's best token, whatever the runs on the way predict."""
    model = tiny("gpt2", torch.float64)
    asked = {"clean": IDS, "corrupted": [IDS[0], *IDS[:0:-1]], "method": "eap-ig", "points": points, "threshold": 0.0}
    logits = [flowgraph.trace(model, ids).logits for ids in (asked["clean"], asked["corrupted"])]
    best = [int(one.argmax()) for one in logits]
    assert best[0] != best[1]
    assert weights(flowgraph.discover(model, **asked)) == pytest.approx(
        weights(flowgraph.discover(model, **asked, target=best[0]))
    )


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox", "gemma2", "qwen3", "phi3"])
def test_every_wiring_is_searched(tiny, name):
    model = tiny(name, torch.float64)
    other = [IDS[0], *reversed(IDS[1:])]
    graph = flowgraph.discover(model, clean=IDS, corrupted=other, target=3, foil=5, budget=60, threshold=0.05)
    exact = flowgraph.edge_effects(model, [IDS], [other], circuit_edges(graph), target=3, foil=5)
    np.testing.assert_allclose(-graph.weight, exact.effects, rtol=1e-5)
    assert graph.info.options["forwards"] <= 60


def test_bad_input(tiny):
    model, _, asked = made("plain")
    # As outside of the tests, which check types at each call.
    unchecked = inspect.unwrap(flowgraph.discover)
    with pytest.raises(ArgumentError, match="corrupted prompts change nothing"):
        flowgraph.discover(model, clean=asked["clean"], corrupted=asked["clean"], target=asked["target"])
    for method in METHODS:
        with pytest.raises(ArgumentError, match="change nothing"):
            flowgraph.discover(model, clean=asked["clean"], corrupted=asked["clean"], target=1, method=method)
    with pytest.raises(ArgumentError, match="circuit is empty"):
        flowgraph.discover(model, **asked, metric=flowgraph.kl_divergence)
    with pytest.raises(ArgumentError, match="no gradient"):
        flowgraph.discover(model, **asked, metric=flowgraph.target_rank)
    for wrong, message in (
        ({"method": "magic"}, "method='magic' must be one of backward"),
        ({"how": "means"}, "how='means' must be one of zero, mean, resample"),
        ({"threshold": 1.0}, "threshold=1.0"),
        ({"top_k": 0}, "top_k=0"),
        ({"steps": 0}, "steps=0"),
        ({"points": "middle"}, "points='middle' must be one of left, right, midpoint"),
        ({"budget": 10}, "budget=10 is too small"),
        ({"data": flowgraph.TaskData("t", "d", (flowgraph.Example((1, 2), (1, 3), 2, 3),))}, "data= brings its own"),
    ):
        with pytest.raises(ArgumentError, match=message):
            unchecked(model, **(asked | wrong))
    with pytest.raises(ArgumentError, match="give clean= and corrupted="):
        flowgraph.discover(model, clean=asked["clean"])
    with pytest.raises(PromptError, match="different lengths"):
        flowgraph.discover(model, clean=asked["clean"], corrupted=asked["corrupted"][:, :-1], target=1)
    with pytest.raises(CancelledError, match="cancelled while"):
        flowgraph.discover(model, **asked, cancel=lambda: True)


def test_examples_of_several_lengths_are_searched_together():
    model, _, _ = made("plain")
    pairs = []
    for period in (6, 8):
        clean, answers = repeated(12, count=4, period=period)
        other, _ = repeated(12, count=4, period=period, seed=1)
        corrupted = torch.cat([other[:, : period + 1], clean[:, period + 1 :]], 1)
        pairs += zip(clean.tolist(), corrupted.tolist(), answers.tolist(), strict=True)
    examples = tuple(flowgraph.Example(tuple(a), tuple(b), answer, 1 if answer != 1 else 2) for a, b, answer in pairs)
    graph = flowgraph.discover(model, data=flowgraph.TaskData("repeated", "two periods", examples))
    assert graph.info.options["prompts"] == 8
    assert len(graph) == 4
    halves = []
    for part in (examples[:4], examples[4:]):
        effects = flowgraph.edge_effects(
            model, [list(e.clean) for e in part], [list(e.corrupted) for e in part], circuit_edges(graph),
            target=[e.target for e in part], foil=[e.foil for e in part],
        )  # fmt: skip
        halves.append(effects.by_prompt)
    np.testing.assert_allclose(-graph.weight, np.concatenate(halves, 1).mean(1), rtol=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_without_a_threshold_every_edge_that_is_known_to_do_something_is_found(tiny, method):
    model = tiny("gpt2")
    asked = {"clean": IDS, "corrupted": [IDS[0], *IDS[:0:-1]], "target": 3, "foil": 5}
    graph = flowgraph.discover(model, **asked, method=method, threshold=0.0, budget=60)
    found, options = weights(graph), graph.info.options
    assert 0.0 not in found.values()
    if method in ("backward", "acdc"):
        assert 0 < len(found) <= options["tested"] < 60
    if method == "backward":
        exact = flowgraph.edge_effects(model, IDS, asked["corrupted"], list(found), target=3, foil=5)
        np.testing.assert_allclose(-exact.effects, list(found.values()), rtol=1e-4, atol=1e-6)


def test_the_order_of_progress_and_the_strongest_edges_alone():
    model, _, asked = made("negative")
    stages = []
    graph = flowgraph.discover(model, **asked, top_k=2, progress=lambda stage, done: stages.append((stage, done)))
    assert len(graph) == 2
    assert np.abs(graph.weight).min() == np.sort(np.abs(flowgraph.discover(model, **asked).weight))[-2]
    assert graph.info.filters["top_k"] == 2
    assert [stage for stage, _ in dict.fromkeys(stages)][1] == "scoring every edge"
    assert all(0 <= done <= 1 for _, done in stages)


@pytest.mark.parametrize(("method", "least"), [("eap-qk", 3), ("eap-ig", 5)])
def test_methods_of_many_runs_can_be_stopped_between_them(method, least):
    model, _, asked = made("negative")
    told: list[float] = []
    whole = flowgraph.discover(model, **asked, method=method, progress=lambda _, done: told.append(done))
    assert len(told) >= least
    assert told == sorted(told)
    reports = iter(range(least))
    with pytest.raises(CancelledError, match="scoring every edge"):
        flowgraph.discover(model, **asked, method=method, cancel=lambda: next(reports) == least - 1)
    # The model is as before.
    assert np.array_equal(flowgraph.discover(model, **asked, method=method).weight, whole.weight)


@pytest.fixture(scope="module")
def circuits():
    found = {}
    for name in ("negative", "llama"):
        model, _, asked = made(name)
        found[name] = flowgraph.discover(model, **asked)
    return found


@pytest.mark.parametrize("name", ["negative", "llama"])
def test_every_view_and_export_takes_a_circuit(circuits, name, tmp_path):
    graph = circuits[name]
    for ending in ("json", "graphml", "gexf", "gml", "dot", "neuronpedia.json", "svg", "tex", "html"):
        assert graph.save(tmp_path / f"circuit.{ending}").stat().st_size > 100
    back = flowgraph.FlowGraph.load(tmp_path / "circuit.json")
    assert (back.info, back.nodes, weights(back)) == (graph.info, graph.nodes, weights(graph))
    assert circuit_edges(back) == circuit_edges(graph)
    assert len(graph.to_networkx()) == len(graph.nodes)
    page = render_html(graph)
    assert "supports the answer" in page
    assert "flow to the start" not in json.dumps(str(graph.explain()))
    assert "8 prompts" in graph.caption()
    text = str(graph.explain())
    assert "L1H2 → logits" in text
    assert ("works against it" in text) == (name == "negative")


@pytest.mark.parametrize("name", ["negative", "llama"])
def test_the_edges_of_a_circuit_have_a_table_a_chart_and_files(circuits, name, tmp_path):
    graph = circuits[name]
    edges = flowgraph.circuit_edges(graph)
    columns = edges.table().columns
    found = {
        (str(graph.nodes[s]), str(graph.nodes[t]), float(w))
        for s, t, w in zip(graph.source, graph.target, graph.weight, strict=True)
    }
    assert set(zip(columns["source"], columns["target"], columns["effect"].tolist(), strict=True)) == found
    assert list(abs(columns["effect"])) == sorted(abs(graph.weight), reverse=True)
    np.testing.assert_allclose(columns["part_of_gap"] * graph.info.options["gap"], columns["effect"])
    kinds = {graph.edge_dict(e)["kind"] for e in range(len(graph))}
    assert ("its value" in columns["reads"]) == ("value" in kinds)
    bars = edges.chart(most=3)
    np.testing.assert_array_equal(bars.columns[0].bars[0].values, columns["effect"][:3])
    assert bars.title == f"The strongest {min(3, len(graph))} of {len(graph)} edges of a circuit"
    assert len(edges.figure(most=2).data[0].y) == 2
    for ending in ("csv", "npz", "svg"):
        assert edges.save(tmp_path / f"edges.{ending}").stat().st_size > 100
    assert edges.measured
    assert "cut by itself" in edges.note
    assert flowgraph.FlowGraph.load(graph.save(tmp_path / "circuit.json")).weight.tolist() == graph.weight.tolist()
    with pytest.raises(ArgumentError, match="most=0"):
        edges.chart(most=0)
    closed = replace(graph, info=replace(graph.info, options={**graph.info.options, "gap": 0.0}))
    assert "part_of_gap" not in flowgraph.circuit_edges(closed).table().columns
    assert flowgraph.circuit_edges(closed).save(tmp_path / "closed.npz").stat().st_size > 100


def test_nodes_of_a_circuit_stand_in_the_columns_of_their_heads(circuits):
    graph = circuits["llama"]
    assert is_circuit(graph)
    assert columns(graph) == ("KV0", "KV1", "H1", "H2")
    placed = dict(zip(map(str, graph.nodes), places(graph, [1.0] * len(graph.nodes)), strict=True))
    assert [placed[name].token for name in ("L0KV0", "L1KV1", "L0H1", "L1H2")] == [0, 1, 2, 3]
    assert placed["embed"].layer == 0 < placed["L0H1"].layer < placed["L1H2"].layer < placed["logits"].layer
    assert len({(place.token, place.layer) for place in placed.values()}) == len(placed)


def test_circuits_are_compared(circuits):
    graph = circuits["negative"]
    same = flowgraph.compare(graph, graph)
    assert (same.edges.jaccard, same.edges.weighted, same.heads.jaccard, same.heads.weighted) == (1, 1, 1, 1)
    assert same.sign_agreement == 1
    assert not same.edges.only_a
    part = graph.keep(np.arange(4))
    found = flowgraph.compare(part, graph)
    assert found.edges.jaccard == 4 / 7
    assert set(found.edges.shared) == set(circuit_edges(part))
    assert set(found.edges.only_b) == set(circuit_edges(graph)) - set(circuit_edges(part))
    a, b = (np.abs(one.weight) / np.abs(one.weight).sum() for one in (part, graph))
    assert found.edges.weighted == pytest.approx(
        np.minimum(a, b[:4]).sum() / (np.maximum(a, b[:4]).sum() + b[4:].sum())
    )
    table = found.table()
    assert len(table) == 7
    assert table.columns["weight_a"][-1] is None
    assert "Jaccard 0.57" in repr(found)
    flipped = replace(graph, weight=-graph.weight)
    assert flowgraph.compare(graph, flipped).sign_agreement == 0
    with pytest.raises(ArgumentError, match="circuit_a is empty"):
        flowgraph.compare(graph.keep(np.arange(0)), graph)
    other = replace(graph, info=replace(graph.info, total_layers=3))
    with pytest.raises(ModelMismatchError, match="2 and 3 layers"):
        flowgraph.compare(graph, other)


def test_a_graph_of_flow_is_no_circuit(circuits, traces):
    graph = flowgraph.build_graph(traces("gpt2"), method="proximity", readings=False)
    with pytest.raises(ArgumentError, match="'proximity' is no circuit"):
        flowgraph.circuit_edges(graph)
    info = replace(graph.info, total_layers=circuits["negative"].info.total_layers)
    with pytest.raises(ArgumentError, match="not a circuit"):
        flowgraph.compare(replace(graph, info=info), circuits["negative"])


def test_the_command_refuses_what_it_cannot_do(capsys, tmp_path):
    assert main(["circuit", "--task", "nothing"]) == 2
    assert "neither a file nor one of ioi" in capsys.readouterr().err
    existing = tmp_path / "circuit.json"
    existing.write_text("mine")
    assert main(["circuit", "--task", "ioi", "-o", str(existing)]) == 2
    assert "--force" in capsys.readouterr().err
    assert existing.read_text() == "mine"
    assert main(["circuit", "--task", "ioi", "--corruption", "xyz"]) == 2
    assert "expected one of flip, abc" in capsys.readouterr().err
    assert main(["circuit", "--task", str(existing), "--corruption", "abc"]) == 2
    assert "the file brings its own" in capsys.readouterr().err
    assert main(["circuit", "--task", "ioi", "--threshold", "2"]) == 2
    assert main(["circuit", "--task", "ioi", "--method", "magic"]) == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.real_model
def test_the_command_finds_a_circuit(capsys, tmp_path):
    pairs = tmp_path / "pairs.csv"
    pairs.write_text(
        "clean,corrupted,target,foil\nThe capital of Japan is the city of,The capital of France is the city of, Tokyo, Paris\n"
    )
    out = tmp_path / "circuit.json"
    assert main(["circuit", "--task", str(pairs), "--method", "eap", "--top-k", "30", "-o", str(out)]) == 0
    said = capsys.readouterr().out
    assert "2 forwards, 1 backwards" in said
    assert "corruption as given; 1 prompts" in said
    assert "1 prompt of pairs, corruption as given" in said
    assert "→" in said
    graph = flowgraph.FlowGraph.load(out)
    assert len(graph) == 30
    assert main(["circuit", "--task", str(pairs), "--max-bytes", "1000000"]) == 2
    assert re.search(r"max_bytes=1,000,000 does not hold .* 1 prompts", capsys.readouterr().err)
    assert main(["circuit", "--task", str(pairs), "--method", "eap", "--foil", " Tokyo", "--quiet"]) == 2
    assert "same token" in capsys.readouterr().err
    # A mean is of several prompts of one length, and of one it would be that prompt itself.
    assert main(["circuit", "--task", str(pairs), "--method", "eap", "--how", "mean", "--quiet"]) == 2
    assert "mean" in capsys.readouterr().err
    pairs.write_text(
        pairs.read_text() + "The capital of Italy is the city of,The capital of Spain is the city of, Rome, Madrid\n"
    )
    assert main(["circuit", "--task", str(pairs), "--method", "eap", "--how", "mean", "--force", "-o", str(out)]) == 0
    assert flowgraph.FlowGraph.load(out).info.options["ablation"] == "mean"
