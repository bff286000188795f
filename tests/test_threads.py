"""One model, several threads: traces are right, and forwards of the user's own are neither recorded nor changed."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import flowgraph
from flowgraph.errors import ArgumentError
from tests.tiny_models import tiny_model

PROMPTS = [[20 + (k * n) % 90 for n in range(12)] for k in (7, 11, 13, 17)]


def model_of(name, implementation="sdpa"):
    model, tokenizer = tiny_model(name)
    model.config._attn_implementation = implementation
    return model.eval(), tokenizer


@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_neo", "bert_headless", "gemma3"])
def test_wrappers_of_one_model_in_threads_give_what_they_give_alone(name):
    model, tokenizer = model_of(name)
    with ThreadPoolExecutor(4) as pool:
        wrappers = list(pool.map(lambda _: flowgraph.load_model((model, tokenizer)), range(4)))
    alone = [flowgraph.trace(wrappers[0], ids, position=-1) for ids in PROMPTS]
    jobs = [(wrapper, n) for _ in range(4) for n, wrapper in enumerate(wrappers)]
    with ThreadPoolExecutor(4) as pool:
        made = list(
            pool.map(lambda job: flowgraph.trace(job[0], PROMPTS[job[1]], position=-1, keep={"pattern", "q"}), jobs)
        )
    for (_, n), trace in zip(jobs, made, strict=True):
        assert torch.equal(trace.pattern, alone[n].pattern)
        assert torch.equal(trace.q, alone[n].q)


@pytest.mark.parametrize(
    ("name", "implementation"),
    [
        *((name, "sdpa") for name in ("llama", "gpt2", "gpt_neo", "bert")), ("gpt2", "eager"),
        *(pytest.param(name, "eager", marks=pytest.mark.slow) for name in ("llama", "gpt_neo", "bert")),
    ],
)  # fmt: skip
def test_forwards_of_the_users_own_are_left_alone(name, implementation):
    model, tokenizer = model_of(name, implementation)
    loaded = flowgraph.load_model((model, tokenizer))
    theirs = torch.tensor([PROMPTS[1]])
    with torch.no_grad():
        right = model(theirs).logits
    alone = flowgraph.trace(loaded, PROMPTS[0], position=-1)
    answers, faults, done = [], [], threading.Event()

    def user():
        try:
            while not done.is_set():
                with torch.no_grad():
                    answers.append(model(theirs).logits)
        except Exception as error:  # shown by the assertion below, in the test's own thread
            faults.append(error)

    thread = threading.Thread(target=user)
    thread.start()
    try:
        traces = [flowgraph.trace(loaded, PROMPTS[0], position=-1) for _ in range(30)]
        effect = flowgraph.ablate(loaded, traces[0], flowgraph.Node("head", layer=0, head=1))
    finally:
        done.set()
        thread.join()
    assert not faults
    assert len(answers) > 10
    for answer in answers:
        torch.testing.assert_close(answer, right, rtol=1e-4, atol=1e-5)
    for trace in traces:
        assert all(torch.equal(trace.sites[name], alone.sites[name]) for name in alone.sites)
    assert effect.before == pytest.approx(
        flowgraph.ablate(loaded, alone, flowgraph.Node("head", layer=0, head=1)).before
    )
    assert model.config._attn_implementation == implementation


def test_a_training_step_beside_a_trace_has_its_gradients():
    model, tokenizer = model_of("llama")
    loaded = flowgraph.load_model((model, tokenizer))
    ids = torch.tensor([PROMPTS[2]])
    model(ids, labels=ids).loss.backward()
    right = model.model.layers[0].mlp.up_proj.weight.grad.clone()
    found, done = [], threading.Event()

    def user():
        while not done.is_set():
            model.zero_grad()
            model(ids, labels=ids).loss.backward()
            found.append(model.model.layers[0].mlp.up_proj.weight.grad.clone())

    thread = threading.Thread(target=user)
    thread.start()
    for _ in range(20):
        flowgraph.trace(loaded, PROMPTS[0])
    done.set()
    thread.join()
    assert found
    for gradient in found:
        torch.testing.assert_close(gradient, right, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_callers_mode_of_torch_changes_nothing(mode):
    loaded = flowgraph.load_model(tiny_model("llama"))
    clean, corrupted = PROMPTS[0], [*PROMPTS[0][:5], 33, *PROMPTS[0][6:]]

    def scores():
        return flowgraph.edge_scores(loaded, [clean], [corrupted], target=[11], foil=[12])

    right = scores()
    with mode():
        inside = scores()
        traced = flowgraph.trace(loaded, clean, target=11, foil=12)
    assert inside.strongest(20) == right.strongest(20)
    outside = flowgraph.edge_scores(loaded, traced, flowgraph.trace(loaded, corrupted))
    assert outside.strongest(20) == right.strongest(20)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_the_callers_default_device_and_number_type_change_nothing(name):
    loaded = flowgraph.load_model(tiny_model(name))
    clean, corrupted = [5, 6, 7, 8, 9], [5, 6, 17, 8, 9]
    head = flowgraph.Node("head", layer=0, head=1)

    def answers():
        one, other = flowgraph.trace(loaded, clean), flowgraph.trace(loaded, corrupted)
        semantic = flowgraph.semantic_graph(one, layers=0)
        return [
            flowgraph.load_model(loaded.model).proof,
            one.pattern.tolist(),
            str(flowgraph.ablate(loaded, one, head)),
            str(flowgraph.patch(loaded, one, other, head)),
            flowgraph.head_effects(loaded, one, other).effects.tolist(),
            flowgraph.edge_scores(loaded, one, other).strongest(5),
            (semantic.source.tolist(), semantic.weight.tolist()),
        ]

    right = answers()
    # As after set_default_device("cuda") beside a model on the CPU: what is made without a device is elsewhere.
    with torch.device("meta"):
        assert answers() == right
    try:
        torch.set_default_dtype(torch.bfloat16)
        assert answers() == right
    finally:
        torch.set_default_dtype(torch.float32)


def test_autocast_is_refused_by_its_name():
    loaded = flowgraph.load_model(tiny_model("llama"))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for call in (lambda: flowgraph.trace(loaded, [5, 6, 7]), lambda: flowgraph.load_model(tiny_model("gpt2"))):
            with pytest.raises(ArgumentError, match=r"torch\.autocast is on for 'cpu'.*enabled=False"):
                call()
        with torch.autocast("cpu", enabled=False):
            assert len(flowgraph.trace(loaded, [5, 6, 7]).tokens) == 3


def test_analyses_of_a_finished_trace_are_refused_under_autocast():
    loaded = flowgraph.load_model(tiny_model("llama"))
    trace = flowgraph.trace(loaded, PROMPTS[0])
    analyses = (
        flowgraph.logit_lens, flowgraph.direct_logit_attribution, lambda t: flowgraph.build_graph(t, method="logits"),
        lambda t: flowgraph.build_graph(t, method="proximity"), lambda t: flowgraph.semantic_graph(t, layers=0),
    )  # fmt: skip
    for analysis in analyses:
        with torch.autocast("cpu", dtype=torch.bfloat16), pytest.raises(ArgumentError, match=r"torch\.autocast is on"):
            analysis(trace)
        analysis(trace)
