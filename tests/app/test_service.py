"""One worker, many who ask: nothing is computed twice, nobody waits for ever, and whatever dies is there again."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import flowgraph_webapp.server.dispatch as dispatch
import numpy as np
import pytest
from flowgraph_webapp.panels.attention import AttentionQuestion
from flowgraph_webapp.panels.bars import BarsQuestion
from flowgraph_webapp.panels.continuation import GenerateQuestion
from flowgraph_webapp.panels.flow import GraphAnswer, GraphQuestion
from flowgraph_webapp.panels.heads import HeadsQuestion
from flowgraph_webapp.panels.lens import LensQuestion
from flowgraph_webapp.server.dispatch import Stage
from flowgraph_webapp.server.errors import Busy, Cancelled, Closed, InternalError, TimedOut, WorkerDied
from flowgraph_webapp.server.messages import Answered, Settings, Staged
from flowgraph_webapp.server.model import Model, ModelQuestion
from flowgraph_webapp.server.run import Run, RunQuestion
from flowgraph_webapp.server.service import Service
from flowgraph_webapp.server.sizes import Cache, size_of
from flowgraph_webapp.server.worker import Worker

import flowgraph
from flowgraph.errors import ArgumentError, FileFormatError, ModelNeededError, PromptError, TargetError
from tests.app.conftest import PATIENCE, TEXT, Held, alive, open_question, question_of, saved, until
from tests.app.faulty import FaultyQuestion

pytestmark = pytest.mark.slow


def run_of(folder: str, **options) -> RunQuestion:
    return RunQuestion(folder, TEXT, **options)


# Answers


def test_an_answer_is_the_models_own(service, folder):
    answer = service.ask(run_of(folder))
    trace = flowgraph.trace(folder, TEXT)
    assert (answer.tokens, answer.token_ids, answer.target) == (trace.tokens, trace.token_ids, trace.target)
    assert answer.predictions[0].token_id == trace.target
    assert answer.predictions[0].logit == pytest.approx(float(trace.logits.max()), abs=1e-5)


def test_many_who_ask_the_same_share_one_answer(service, folder, asking):
    question = LensQuestion(run_of(folder, target=33))
    with Held(service):
        waiting = [asking(service, question, f"same {n}") for n in range(20)]
        for n in range(20):
            open_question(service, f"same {n}")
    first, *others = [one.result(PATIENCE) for one in waiting]
    assert all(other is first for other in others)
    assert service.ask(question) is first


def test_many_who_ask_different_things_get_their_own(service, folder, asking):
    questions = [question_of(folder, n) for n in range(20)]
    answers = [one.result(PATIENCE) for one in [asking(service, question) for question in questions * 2]]
    for question, answer in zip(questions * 2, answers, strict=True):
        assert (answer.position, answer.target) == (question.position, question.target)


def test_errors_cross_under_their_own_name_and_words(service, folder):
    with pytest.raises(TargetError) as here:
        flowgraph.trace(folder, TEXT, target=10**6)
    with pytest.raises(TargetError) as there:
        service.ask(run_of(folder, target=10**6))
    assert type(there.value) is TargetError
    assert str(there.value) == str(here.value)
    with pytest.raises(ArgumentError, match="outside the prompt"):
        service.ask(run_of(folder, position=900))
    assert isinstance(service.ask(run_of(folder)), Run)


def test_a_fault_of_the_program_stays_in_the_log(service, folder, caplog):
    pid = service.worker_pid
    with caplog.at_level(logging.ERROR), pytest.raises(InternalError, match=r"reference [0-9a-f]{8}") as fault:
        service._dispatcher.ask(FaultyQuestion(), None)
    reference = str(fault.value).split("reference ")[1][:8]
    assert "KeyError" not in str(fault.value)
    assert "Traceback" not in str(fault.value)
    assert reference in caplog.text
    assert "KeyError" in caplog.text
    assert isinstance(service.ask(run_of(folder)), Run)
    assert service.worker_pid == pid


def test_only_models_of_the_list(service, folder, tmp_path):
    other = saved(tmp_path / "other", "gpt2")
    with pytest.raises(ArgumentError, match="is not one of the models of this server"):
        service.ask(RunQuestion(other, TEXT))
    with pytest.raises(ArgumentError, match="is not one of the models of this server"):
        service.ask(ModelQuestion("smollm2"))


def test_limits_of_a_prompt(make_service, folder):
    with pytest.raises(ArgumentError, match="20,001 characters; at most 20,000"):
        RunQuestion(folder, "x" * 20_001)
    with pytest.raises(PromptError, match="the prompt is empty"):
        RunQuestion(folder, "")
    small = make_service([folder], most_tokens=5)
    count = len(flowgraph.trace(folder, TEXT).tokens)
    with pytest.raises(PromptError, match=f"the prompt has {count} tokens; this server traces at most 5"):
        small.ask(run_of(folder))
    # Longer than the model's own context of 64 tokens: what is said is the limit that is met first.
    long = TEXT * 40
    count = len(flowgraph.inputs(text=long).tokenized(folder).ids)
    assert count > 64
    with pytest.raises(PromptError, match=f"the prompt has {count} tokens; this server traces at most 5"):
        small.ask(RunQuestion(folder, long))
    with pytest.raises(PromptError, match=f"the prompt has {count} tokens; 'tiny' takes at most 64. Shorten it"):
        make_service([folder], most_tokens=65).ask(RunQuestion(folder, long))


def test_a_model_says_what_it_is(service, folder):
    assert service.ask(ModelQuestion(folder)) == Model(
        name="tiny", family="llama", n_layers=2, n_heads=4, context=64, causal=True, has_head=True, has_attribution=True,
        chat=False,
    )  # fmt: skip


# Progress, cancelling, waiting


def test_stages_come_in_order(folder):
    worker = Worker(Settings((folder,), 2**28, 512))
    try:
        worker.ask(7, GraphQuestion(run_of(folder)))
        messages = []
        while not messages or isinstance(messages[-1], Staged):
            message = worker.receive(PATIENCE)
            assert message is not None
            messages.append(message)
    finally:
        worker.stop()
    assert isinstance(messages[-1], Answered)
    names = [message.name for message in messages[:-1]]
    assert names == ["loading the model", "tracing", "weighing edges", "drawing the graph", "reading nodes"]
    assert {message.number for message in messages} == {7}


def test_two_tickets_do_not_see_each_other(service, folder, asking):
    with Held(service):
        first = asking(service, question_of(folder, 50), "a")
        open_question(service, "a")
        until(lambda: service.progress("a").name != "waiting", "the first question to be handed over")
        second = asking(service, question_of(folder, 51), "b")
        open_question(service, "b")
        assert service.progress("a").waiting == 0
        assert service.progress("b") == Stage("waiting", None, 1)
        assert service.progress("c") is None
        assert not service.cancel("c")
    assert first.result(PATIENCE).target == 60
    assert second.result(PATIENCE).target == 61
    assert service.progress("a") is None


def test_a_cancel_that_is_obeyed_leaves_the_worker_alive(service, folder, asking):
    pid = service.worker_pid
    with Held(service):
        question = GenerateQuestion(run_of(folder, position=1), 40)
        asked = asking(service, question, "obeyed")
        open_question(service, "obeyed")
        until(lambda: service.progress("obeyed").name != "waiting", "the question to be handed over")
        assert service.cancel("obeyed")
        with pytest.raises(Cancelled, match="was cancelled"):
            asked.result(PATIENCE)
        until(lambda: question not in service._dispatcher._jobs, "the dispatcher to give the question up")
    assert isinstance(service.ask(question_of(folder, 70)), Run)
    assert service.worker_pid == pid
    assert service._dispatcher.kept(question) is None
    with pytest.raises(Cancelled):
        service.ask(question_of(folder, 71), ticket="obeyed")


def test_a_cancel_that_is_not_obeyed_ends_the_worker_and_nobody_else_is_hurt(service, folder, asking):
    with Held(service) as held:
        asked = asking(service, question_of(folder, 61), "stuck")
        open_question(service, "stuck")
        until(lambda: service.progress("stuck").name != "waiting", "the question to be handed over")
        others = [asking(service, question_of(folder, n), f"other {n}") for n in (62, 63)]
        for n in (62, 63):
            open_question(service, f"other {n}")
        assert service.cancel("stuck")
        with pytest.raises(Cancelled):
            asked.result(PATIENCE)
        assert [one.result(PATIENCE).target for one in others] == [72, 73]
        assert service.worker_pid != held.pid
        assert not alive(held.pid)


def test_who_asks_the_same_is_not_cancelled(service, folder, asking):
    with Held(service):
        question = question_of(folder, 80)
        one, two = asking(service, question, "gone"), asking(service, question, "stays")
        open_question(service, "gone")
        open_question(service, "stays")
        assert service.cancel("gone")
        with pytest.raises(Cancelled):
            one.result(PATIENCE)
    assert two.result(PATIENCE).target == 90


def test_a_waiting_question_can_be_taken_back(service, folder, asking):
    with Held(service):
        running = asking(service, question_of(folder, 90), "running")
        open_question(service, "running")
        until(lambda: service.progress("running").name != "waiting", "the question to be handed over")
        waiting = asking(service, question_of(folder, 91), "waits")
        open_question(service, "waits")
        assert service.cancel("waits")
        with pytest.raises(Cancelled):
            waiting.result(PATIENCE)
        assert len(service._dispatcher._waiting) == 0
    assert running.result(PATIENCE).target == 100


def test_a_full_queue_says_how_many_wait(service, folder, asking, monkeypatch):
    monkeypatch.setattr(service._dispatcher, "_queue", 2)
    with Held(service):
        answers = []
        for n in range(3):
            answers.append(asking(service, question_of(folder, 100 + n), f"t{n}"))
            open_question(service, f"t{n}")
            if n == 0:
                until(lambda: service.progress("t0").name != "waiting", "the first to be handed over")
        with pytest.raises(Busy, match="2 questions are waiting"):
            service.ask(question_of(folder, 109))
        again = asking(service, question_of(folder, 102), "again")  # what waits already can be joined
        open_question(service, "again")
    assert [one.result(PATIENCE).target for one in answers] == [110, 111, 112]
    assert again.result(PATIENCE).target == 112


def test_a_run_that_takes_too_long_is_stopped(service, folder, monkeypatch):
    monkeypatch.setattr(service._dispatcher, "_timeout", 0.3)
    service.ask(question_of(folder, 120))
    with Held(service) as held:
        with pytest.raises(TimedOut, match=r"no answer after 0\.3 seconds; the run was stopped"):
            service.ask(question_of(folder, 121))
        assert not alive(held.pid)
    monkeypatch.undo()
    assert isinstance(service.ask(question_of(folder, 121)), Run)  # it was the time, not the question


# The worker dies


def test_a_worker_killed_once_is_replaced_and_the_question_asked_again(service, folder, asking):
    with Held(service) as held:
        asked = asking(service, question_of(folder, 130), "killed")
        open_question(service, "killed")
        until(lambda: service.progress("killed").name != "waiting", "the question to be handed over")
        os.kill(held.pid, signal.SIGKILL)
        assert asked.result(PATIENCE).target == 140
        assert service.worker_pid != held.pid


def test_a_worker_killed_twice_is_an_error_and_the_next_question_works(make_service, folder, asking):
    service = make_service([folder])
    asked = asking(service, run_of(folder), "t")
    killed = set()
    for _ in range(2):
        pid = until(lambda: service.worker_pid not in (None, *killed) and service.worker_pid, "a new worker")
        os.kill(pid, signal.SIGKILL)
        killed.add(pid)
    with pytest.raises(WorkerDied, match="ended 2 times while it worked on this"):
        asked.result(PATIENCE)
    assert isinstance(service.ask(run_of(folder)), Run)


def test_a_worker_killed_while_idle_is_not_noticed(service, folder):
    pid = service.worker_pid
    os.kill(pid, signal.SIGKILL)
    until(lambda: not alive(pid), "the worker to end")
    assert isinstance(service.ask(question_of(folder, 150)), Run)


def test_a_model_that_cannot_be_loaded_says_why_each_time(make_service, folder, tmp_path):
    place = tmp_path / "model"
    place.mkdir()
    service = make_service([str(place)])
    for _ in range(2):
        with pytest.raises(FileFormatError, match=r"has no config\.json"):
            service.ask(run_of(str(place)))
    pid = service.worker_pid
    shutil.copytree(folder, place, dirs_exist_ok=True)
    assert isinstance(service.ask(run_of(str(place))), Run)
    assert service.worker_pid == pid


def test_closing_refuses_what_is_open(folder, asking):
    service = Service([folder], examples=False)
    service.ask(run_of(folder))
    pid = service.worker_pid
    with Held(service):
        asked = asking(service, question_of(folder, 1), "t")
        open_question(service, "t")
        service.close()
        with pytest.raises(Closed):
            asked.result(PATIENCE)
    assert not alive(pid)
    with pytest.raises(Closed):
        service.ask(question_of(folder, 2))
    service.close()


def test_the_worker_ends_with_its_parent(folder):
    code = f"""
        import time
        from flowgraph_webapp.server.run import RunQuestion
        from flowgraph_webapp.server.service import Service
        if __name__ == "__main__":
            service = Service([{folder!r}], examples=False)
            service.ask(RunQuestion({folder!r}, {TEXT!r}))
            print(service.worker_pid, flush=True)
            time.sleep(600)
    """
    parent = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True)
    pid = int(parent.stdout.readline())
    assert alive(pid)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    until(lambda: not alive(pid), "the worker to end")


# The cache


def test_kept_answers_stay_within_their_bytes(make_service, folder):
    service = make_service([folder], cache_bytes=60_000)
    run = run_of(folder)
    asked = [
        run,
        LensQuestion(run),
        HeadsQuestion(run),
        BarsQuestion(run),
        AttentionQuestion(run, 0),
        GraphQuestion(run),
    ]
    for question in asked * 2:
        service.ask(question)
        kept = dict(service._dispatcher.answers.items())
        assert service.cached_bytes == sum(size_of((key, answer)) for key, answer in kept.items()) <= 60_000
    assert 0 < len(kept) < len(asked)


def test_a_graph_with_another_threshold_needs_no_other_pass(service, folder):
    first = service.ask(GraphQuestion(run_of(folder), threshold=0.05))
    again = service.ask(GraphQuestion(run_of(folder), threshold=0.2))
    assert isinstance(first, GraphAnswer)
    assert len(again.graph) < len(first.graph)
    assert service.ask(run_of(folder, target=21)).seconds == service.ask(run_of(folder, target=22)).seconds


def test_sizes_are_those_of_the_data():
    array = np.zeros(1_000)
    assert 8_000 <= size_of(array) < 8_300
    assert size_of((array, array)) < 8_400
    assert size_of({"a": array, "b": array.copy()}) > 16_000
    assert size_of("x" * 5_000) >= 5_000
    assert size_of(tuple(range(1_000, 2_000))) > 30_000


def test_the_cache_drops_what_was_not_asked_for_longest():
    cache: Cache[str, str] = Cache(10)
    for name in "abc":
        cache.put(name, name.upper(), 4)
    assert (cache.get("a"), cache.get("b"), cache.get("c")) == (None, "B", "C")
    cache.get("b")
    cache.put("d", "D", 4)
    assert (cache.get("b"), cache.get("c"), cache.bytes) == ("B", None, 8)
    cache.put("b", "new", 5)
    assert (cache.get("b"), cache.bytes) == ("new", 9)
    cache.put("big", "x", 11)
    assert cache.get("big") is None
    cache.put("b", "big", 11)
    assert (cache.get("b"), cache.bytes, len(cache)) == (None, 4, 1)


# The process of the server


def test_the_server_imports_no_model_and_examples_open_without_a_worker():
    code = """
        import sys
        from flowgraph_webapp.recipe import to_query
        from flowgraph_webapp.panels.attention import AttentionQuestion
        from flowgraph_webapp.panels.flow import GraphQuestion
        from flowgraph_webapp.panels.bars import BarsQuestion
        from flowgraph_webapp.panels.heads import HeadsQuestion
        from flowgraph_webapp.panels.lens import LensQuestion
        from flowgraph_webapp.panels.details import NodeQuestion
        from flowgraph_webapp.panels.semantic import SemanticQuestion
        from flowgraph_webapp.server.run import RunQuestion
        from flowgraph_webapp.server.service import Service
        service = Service(["smollm2"])
        for example in service.examples:
            recipe = example.recipe
            for kind in (RunQuestion, GraphQuestion, LensQuestion, HeadsQuestion, BarsQuestion, SemanticQuestion):
                service.ask(kind.of(recipe))
            service.ask(AttentionQuestion.of(recipe, 0))
            node = service.ask(GraphQuestion.of(recipe)).graph.nodes[0]
            service.ask(NodeQuestion.of(recipe, node))
        assert len(service.examples) >= 3
        print(service.worker_pid, [name for name in ("torch", "transformers", "numba") if name in sys.modules])
        service.close()
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "None []"


def test_what_is_not_recorded_needs_its_model():
    service = Service([])
    example = service.examples[0]
    run = RunQuestion(example.recipe.model, example.recipe.text, foil=example.recipe.foil)
    assert isinstance(service.ask(run), Run)
    with pytest.raises(ModelNeededError, match="start it with 'flowgraph app --model smollm2'"):
        service.ask(GraphQuestion(run, threshold=0.37))
    assert service.worker_pid is None
    service.close()


def test_examples_can_be_left_out(folder):
    assert Service([folder], examples=False).examples == ()


def test_examples_are_small_enough():
    files = list((Path(dispatch.__file__).parent.parent / "examples").glob("*.flowgraph"))
    assert len(files) >= 3
    assert all(file.stat().st_size <= 3 * 2**20 for file in files)


def test_known_is_what_needs_no_work(service, folder):
    question = RunQuestion(folder, "a text that no test has asked before")
    assert service.known(question) is None
    assert service.ask(question) == service.known(question)
