"""A search says what memory it takes before it runs, takes no more, and finds the same in less."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import flowgraph as fg
from flowgraph.circuits.discovery import METHODS
from flowgraph.errors import ArgumentError, PromptError
from flowgraph.interventions.plan import circuit_edges
from tests.conftest import IDS
from tests.live_memory import Live

N_TOKENS, COUNT = 24, 6
CASES = [("gpt2", method, "resample") for method in METHODS]
CASES += [("gpt2", method, how) for method in ("backward", "eap-ig-exact", "eap", "eap-ig") for how in ("mean", "zero")]
# Norms after attention and MLP, grouped heads and parallel blocks hold other tensors.
CASES += [(name, "eap-ig", "resample") for name in ("gemma2", "llama", "gpt_neox")]
CASES += [
    pytest.param(*case, marks=pytest.mark.slow)
    for case in [
        *(("gpt2", method, how) for method in ("eap-qk", "gradient", "acdc") for how in ("mean", "zero")),
        *((name, method, "resample") for name in ("gemma2", "llama", "gpt_neox") for method in ("backward", "acdc")),
    ]
]
ANSWERS = {"target": [3] * COUNT, "foil": [5] * COUNT}


@pytest.fixture(scope="module")
def prompts():
    words = torch.randint(3, 40, (2, COUNT, N_TOKENS), generator=torch.Generator().manual_seed(1))
    clean = words[0].tolist()
    return clean, [[*one[:4], *other[4:12], *one[12:]] for one, other in zip(clean, words[1].tolist(), strict=True)]


def found(model, prompts, method, how, **options):
    budget = {"backward": 20 * COUNT, "acdc": 16 * COUNT}.get(method)
    clean, corrupted = prompts
    return fg.discover(
        model, clean=clean, corrupted=corrupted, method=method, how=how, threshold=0.001, budget=budget, **ANSWERS, **options
    )  # fmt: skip


@pytest.mark.parametrize(("name", "method", "how"), CASES)
def test_a_search_keeps_the_memory_that_it_states(tiny, prompts, name, method, how):
    model = tiny(name)
    whole = fg.discovery_size(model, prompts[0], method=method, how=how)
    with Live(model.model) as live:
        together = found(model, prompts, method, how)
    assert 0.1 * whole < live.peak <= whole
    with pytest.raises(ArgumentError, match=r"max_bytes=1 does not hold a search .* one prompt at a time") as error:
        fg.discovery_size(model, prompts[0], method=method, how=how, max_bytes=1)
    assert ("holds no prompt's runs" in str(error.value)) == (method in ("backward", "acdc"))
    # In the least memory that is enough: one prompt after the other.
    least = int(str(error.value).split("(")[1].split(" bytes")[0].replace(",", ""))
    assert fg.discovery_size(model, prompts[0], method=method, how=how, max_bytes=least) == least < whole
    with Live(model.model) as live:
        apart = found(model, prompts, method, how, max_bytes=least)
    assert live.peak <= least
    assert_alike(apart, together)
    with pytest.raises(ArgumentError, match="raise it"):
        found(model, prompts, method, how, max_bytes=least - 1)


def assert_alike(one, other):
    """The same search, whose sums are added up in another order: that may decide about an edge on the verge, and what follows."""
    searched = other.info.method in ("circuit: backward", "circuit: acdc")
    for name in ("forwards", "backwards", "gap", "prompts"):
        assert one.info.options[name] == pytest.approx(other.info.options[name], rel=0.1 if searched else 1e-4)
    weights = [dict(zip(circuit_edges(graph), graph.weight.tolist(), strict=True)) for graph in (one, other)]
    shared = weights[0].keys() & weights[1].keys()
    assert len(shared) >= 0.8 * max(map(len, weights))
    largest = np.abs(other.weight).max()
    for edge in shared:
        # What taking an edge away does depends on all that were taken away before.
        tolerance = 0.05 if other.info.method == "circuit: acdc" else 1e-4
        assert weights[0][edge] == pytest.approx(weights[1][edge], rel=1e-3, abs=tolerance * largest)


def test_prompts_of_several_lengths_count_by_theirs(tiny):
    model = tiny("gpt2")
    rows = [([*IDS], [IDS[0], *IDS[2:], IDS[1]]), ([*IDS, 9], [IDS[0], *IDS[2:], IDS[1], 9])]
    examples = tuple(fg.Example(tuple(clean), tuple(corrupted), 3, 5) for clean, corrupted in rows)
    data = fg.TaskData("two lengths", "by hand", examples)
    sizes = [fg.discovery_size(model, data=data, method="eap")] + [
        fg.discovery_size(model, clean, method="eap") for clean, _ in rows
    ]
    # One after the other: as much as the longer one, and what is held of both.
    assert max(sizes[1:]) <= sizes[0] < sum(sizes[1:])
    both = fg.discovery_size(model, data=data)
    with Live(model.model) as live:
        fg.discover(model, data=data, budget=60, threshold=0.001)
    assert live.peak <= both


def test_the_first_stage_states_the_memory(tiny, prompts):
    model, stages = tiny("llama"), []
    found(model, prompts, "eap", "resample", progress=lambda stage, done: stages.append((stage, done)))
    size = fg.discovery_size(model, prompts[0], method="eap") / 2**20
    assert stages[0][0].endswith(f", working in {size:,.0f} MiB at most")
    assert stages[0][1] == 0.0


def test_what_has_no_size(tiny):
    with pytest.raises(ArgumentError, match="give clean="):
        fg.discovery_size(tiny("gpt2"))
    with pytest.raises(ArgumentError, match="steps=0"):
        fg.discovery_size(tiny("gpt2"), IDS, method="eap-ig", steps=0)
    with pytest.raises(PromptError):
        fg.discovery_size(tiny("gpt2"), [])
