"""What is kept has a bound, and what goes is gone: bytes that live, not the size of a process, which other things decide too."""

from __future__ import annotations

import gc

import pytest
import torch
from flowgraph_webapp.panels.bars import BarsQuestion
from flowgraph_webapp.panels.flow import GraphQuestion
from flowgraph_webapp.panels.heads import HeadsQuestion
from flowgraph_webapp.panels.lens import LensQuestion
from flowgraph_webapp.recipe import Recipe
from flowgraph_webapp.server import worker
from flowgraph_webapp.server.run import RunQuestion
from flowgraph_webapp.server.sizes import Cache, size_of
from flowgraph_webapp.server.traces import Traces

from flowgraph.cli.app import add_to
from tests.app.conftest import asking, folder, make_service  # noqa: F401
from tests.app.faulty import FaultyQuestion
from tests.benchmarks.app_memory import ASKED, plateau

BOUND = 400_000
PROMPTS = 24


def live_bytes(known: set[int]) -> int:
    """Bytes of all dense tensors that are reachable, without those that were there before; other tests leave sparse ones."""
    gc.collect()
    storages = {}
    for item in gc.get_objects():
        if issubclass(type(item), torch.Tensor) and item.layout is torch.strided:
            storage = item.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(size for place, size in storages.items() if place not in known)


def test_tensors_of_many_prompts_stay_within_the_bound(folder):  # noqa: F811
    traces = Traces([folder], BOUND, 512)
    known = {p.untyped_storage().data_ptr() for p in traces.model(folder, lambda *_: None).model.state_dict().values()}
    before = live_bytes(known)
    most = 0
    for n in range(PROMPTS):
        run = RunQuestion(folder, f"The cat number {n} sat on the mat and looked at the dog")
        for question in (run, GraphQuestion(run), LensQuestion(run), HeadsQuestion(run), BarsQuestion(run)):
            question.answer(traces, lambda *_: None)
        assert traces.kept.bytes <= BOUND
        if n % 12 == 11:
            most = max(most, live_bytes(known) - before)
    one = traces.run(run, lambda *_: None)[0].nbytes
    assert one * PROMPTS > 3 * BOUND  # the bound was reached, or nothing is shown
    assert one < most <= BOUND + one


@pytest.mark.slow
def test_answers_of_many_prompts_stay_within_the_bound(make_service, folder):  # noqa: F811
    service = make_service([folder], cache_bytes=BOUND, worker_bytes=BOUND)
    asked = 0
    for n in range(12):
        recipe = Recipe(model=folder, text=f"The cat number {n} sat on the mat")
        for question in ASKED:
            asked += size_of(service.ask(question(recipe)))
            kept = dict(service._dispatcher.answers.items())
            assert service.cached_bytes == sum(size_of((key, answer)) for key, answer in kept.items()) <= BOUND
    assert asked > 3 * BOUND
    assert not service._dispatcher._jobs
    assert not service._dispatcher._tickets
    assert service._dispatcher._waiters == 0


def test_a_tensor_counts_whole():
    tensor = torch.zeros(1_000, dtype=torch.float64)
    assert size_of(tensor) == 8_000
    assert size_of((tensor, tensor)) < 8_200
    assert size_of(tensor[:1]) == 8_000  # it keeps the whole from being freed


def test_what_goes_is_counted():
    cache: Cache[int, str] = Cache(10)
    for n in range(4):
        cache.put(n, "x", 4)
    assert (cache.bytes, cache.dropped) == (8, 8)


def test_free_memory_is_given_back(monkeypatch):
    calls = []
    monkeypatch.setattr(worker, "give_back", lambda: calls.append(1))

    class Desk(worker._Desk):
        def _outcome(self, question, check):
            return None

    class Connection:
        def recv(self):
            return 1, FaultyQuestion()

        def send(self, _message):
            pass

    class Kept:
        kept = Cache(1)

    desk = Desk(Connection(), [0, 0], Kept)
    desk.answer()
    assert calls == []
    Kept.kept.dropped = worker._MANY + 1
    desk.answer()
    desk.answer()
    assert calls == [1]
    assert Kept.kept.dropped == 0


def test_the_bounds_are_settings():
    import argparse

    commands = argparse.ArgumentParser().add_subparsers()
    add_to(commands)
    parsed = commands.choices["app"].parse_args(["--keep-traces", "64", "--keep-answers", "32"])
    assert (parsed.keep_traces, parsed.keep_answers) == (64, 32)
    for wrong in ("0", "-1", "x", "1e3"):
        with pytest.raises(SystemExit):
            commands.choices["app"].parse_args(["--keep-traces", wrong])


def test_a_plateau_is_told_from_growth():
    assert plateau([100.0] * 40) == 1
    assert plateau([float(n) for n in range(1, 41)]) > 1.3
