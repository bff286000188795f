"""How true a picture is: ends, chance, complement, what is said, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import flowgraph as fg
from flowgraph.circuits.graph_faithfulness import blind_picture, matched_picture
from flowgraph.circuits.kept_answer import KeptAnswer
from flowgraph.errors import ArgumentError, CancelledError, ModelMismatchError, PromptError
from flowgraph.interventions.parts import Part
from tests.conftest import IDS, JAPAN
from tests.naive_parts import FORWARDS, masked

PERU = "The capital of Peru is the city of"
FRANCE = "The capital of France is the city of"


def other_of(loaded):
    """The prompt with the token at position 3 exchanged that makes its answer less probable than another one."""
    rows = torch.tensor([IDS] * 60)
    rows[1:, 3] = torch.arange(20, 79)
    with torch.no_grad():
        logits = loaded.model(rows).logits[:, -1]
    answer, found = int(logits[0].argmax()), logits.log_softmax(-1)
    falls = (found[0, answer] - found[:, answer]) * (logits.argmax(-1) != answer)
    assert falls.max() > 0.1
    return rows[falls.argmax()].tolist()


def measured(tiny, name="llama", graph=None, **options):
    loaded = tiny(name, torch.float64)
    trace = fg.trace(loaded, IDS)
    graph = graph or fg.build_graph(trace, level="head", readings=False)
    return fg.graph_faithfulness(
        loaded, trace, graph, **({"corrupted": other_of(loaded), "least_gap": 0.1, "random": 2} | options)
    )


@pytest.fixture(scope="module")
def japan(smollm2):
    trace = fg.trace(smollm2, JAPAN)
    return trace, fg.build_graph(trace, level="head", readings=False)


# What the numbers are


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox", "llama", "qwen3"])
def test_a_picture_of_everything_keeps_the_answer_and_its_complement_nothing(tiny, name):
    loaded = tiny(name, torch.float64)
    trace = fg.trace(loaded, IDS)
    # Norms give every term a length, so that none is clipped away.
    graph = fg.build_graph(trace, method="norms", level="head", readings=False)
    found = measured(tiny, name, graph)
    np.testing.assert_allclose(found.by_measure, 1, atol=1e-5)
    np.testing.assert_allclose(found.without, 0, atol=1e-5)
    assert found.lost == pytest.approx(1, abs=1e-5)
    assert found.terms + found.outputs == found.possible
    assert found.rank == 1


@pytest.mark.parametrize("name", list(FORWARDS))
def test_the_parts_of_a_picture_are_those_of_its_edges(tiny, name):
    loaded = tiny(name, torch.float64)
    trace = fg.trace(loaded, IDS)
    graph = fg.keep_strongest(fg.build_graph(trace, level="head", readings=False), max_edges=60)
    found = fg.graph_faithfulness(loaded, trace, graph, corrupted=other_of(loaded), least_gap=0.1, random=0)
    writes = {(n.layer, n.head, n.position) for n in graph.nodes if n.kind == "head"}
    frame = graph.to_dataframe()
    head_writes = {(r.layer, r.head, r.query_pos) for r in frame[frame.kind == "head"].itertuples()}
    reads = frame[frame.kind == "attention"].itertuples()
    shown = {
        Part(*map(int, (r.layer, r.query_pos, r.head, r.key_pos)))
        for r in reads
        if (r.layer, r.head, r.query_pos) in head_writes
    }
    shown |= {Part(int(r.layer), int(r.query_pos)) for r in frame[frame.kind == "mlp"].itertuples()}
    assert head_writes <= writes
    live = {part for part in shown if part.position >= 3}
    assert (found.terms, found.outputs) == (sum(p.head is not None for p in live), sum(p.head is None for p in live))
    assert found.equal == len(shown - live)
    forward = FORWARDS[name](loaded.model)
    with torch.no_grad():
        logits, clean, other = (
            masked(forward, IDS, other_of(loaded), live),
            *loaded.model(torch.tensor([IDS, other_of(loaded)])).logits[:, -1],
        )
    answer, foil = int(clean.argmax()), int(other.argmax())
    for n, measure in enumerate((lambda x: x[answer] - x[foil], lambda x: x.log_softmax(-1)[answer])):
        low, high = measure(other), measure(clean)
        assert found.by_measure[0, n] == pytest.approx(float((measure(logits) - low) / (high - low)), abs=1e-4)
    assert found.probability == pytest.approx(float(logits.softmax(-1)[answer]), abs=1e-5)
    assert found.rank == int((logits > logits[answer]).sum()) + 1


def test_against_one_word_the_default_picture_keeps_most_and_chance_nothing(japan, smollm2):
    trace, whole = japan
    graph = fg.keep_strongest(whole, max_edges=300)
    found = fg.graph_faithfulness(smollm2, trace, graph, corrupted=[PERU, FRANCE])
    assert (found.terms, found.outputs) == (10, 23)
    assert 0.5 < found.band[0] <= found.f <= found.band[1] < 0.7
    assert np.abs(found.blind).max() < 0.01
    assert found.matched is not None
    assert np.abs(found.matched).max() < 0.1
    assert found.rank == 1
    assert found.counterfactuals == ((" Japan", " Peru"), (" Japan", " France"))
    assert found.foils == (" Lima", " Paris")


def test_several_counterfactuals_are_each_by_themselves(japan, smollm2):
    trace, whole = japan
    graph = fg.keep_strongest(whole, max_edges=300)
    both = fg.graph_faithfulness(smollm2, trace, graph, corrupted=[PERU, FRANCE], random=0)
    for n, other in enumerate((PERU, FRANCE)):
        alone = fg.graph_faithfulness(smollm2, trace, graph, corrupted=other, random=0)
        np.testing.assert_allclose(alone.by_measure[0], both.by_measure[n], atol=1e-4)


def test_one_metric_stands_alone(tiny):
    both = measured(tiny, random=0)
    for n, metric in enumerate((fg.logit_difference, fg.log_probability)):
        alone = measured(tiny, random=0, metric=metric)
        np.testing.assert_allclose(alone.by_measure[:, 0], both.by_measure[:, n])
        assert alone.measures == (metric.name,)


# What is not listed


def test_mlps_that_a_method_never_lists_stay_in(japan, smollm2):
    trace, _ = japan
    graph = fg.build_graph(trace, method="attention", threshold=0.1, readings=False)
    found = fg.graph_faithfulness(smollm2, trace, graph, corrupted=PERU, random=1)
    assert found.outputs == 30 * 5
    assert found.notes[0] == "MLPs stay in: the graph of method 'attention' shows none."
    # All heads of an edge are shown together, so that no other is left.
    assert found.matched is None


def test_layers_outside_of_the_graph_stay_in(tiny):
    loaded = tiny("llama", torch.float64)
    trace = fg.trace(loaded, IDS)
    graph = fg.build_graph(trace, method="norms", layers=(1, 2), readings=False)
    found = fg.graph_faithfulness(loaded, trace, graph, corrupted=other_of(loaded), least_gap=0.1, random=0)
    np.testing.assert_allclose(found.by_measure, 1, atol=1e-5)
    assert found.notes[0] == "The graph is of layers 1 to 1; parts of all other layers stay in."


# Chance


def test_blind_pictures_have_as_many_parts_of_each_kind(tiny):
    loaded = tiny("llama", torch.float64)
    answer = KeptAnswer(loaded, IDS, other_of(loaded), least_gap=0.1)
    shown = torch.zeros(len(answer.numbers), dtype=torch.bool)
    shown[answer.runs.valid.nonzero()[::7, 0]] = True
    draw, terms = np.random.default_rng(0), answer.numbers.terms
    for _ in range(5):
        mask = blind_picture(answer.numbers, answer.runs.valid, shown, draw)
        assert (int(mask[:terms].sum()), int(mask[terms:].sum())) == (
            int(shown[:terms].sum()),
            int(shown[terms:].sum()),
        )
        assert not bool((mask & ~answer.runs.valid).any())


def test_matched_pictures_have_other_heads_at_the_same_places(tiny):
    loaded = tiny("llama", torch.float64)
    answer = KeptAnswer(loaded, IDS, other_of(loaded), least_gap=0.1)
    numbers = answer.numbers
    parts = [Part(0, 4, 0, 1), Part(0, 4, 1, 1), Part(1, 6, 2, 3), Part(1, 5)]
    shown = torch.zeros(len(numbers), dtype=torch.bool)
    shown[[numbers.number(part) for part in parts]] = True
    mask = matched_picture(numbers, answer.runs.valid, shown, np.random.default_rng(0))
    assert mask is not None
    found = list(numbers.parts(mask.nonzero()[:, 0].tolist()))
    assert sorted((p.layer, p.position, p.source) for p in found if p.head is not None) == [
        (0, 4, 1),
        (0, 4, 1),
        (1, 6, 3),
    ]
    assert Part(1, 5) in found
    assert not {p for p in found if p.head is not None} & set(parts[:3])


# What is said


def test_the_caption_says_what_is_kept_of_what(japan, smollm2):
    trace, whole = japan
    graph = fg.keep_strongest(whole, max_edges=300)
    found = fg.graph_faithfulness(smollm2, trace, graph, corrupted=PERU)
    said = found.caption()
    assert said.startswith(
        f"keeps {round(100 * found.f)} % of “ Tokyo” rather than “ Lima” (“ Peru” for “ Japan”) with "
    )
    assert (
        "10 attention terms and 23 MLPs; random pictures of as many parts 0 %; other heads at the same places" in said
    )
    table = found.table()
    assert table.columns["foil"] == [" Lima"]
    assert found.arrays()["matched"].shape == (8, 1)
    assert "Tokyo" in found._repr_html_()


# What is refused


def test_what_cannot_be_measured_is_refused(tiny, japan, smollm2):
    trace, graph = japan
    with pytest.raises(ArgumentError, match=r"same answer ' Tokyo'"):
        fg.graph_faithfulness(smollm2, trace, graph, corrupted="The capital of Japan was the city of")
    with pytest.raises(PromptError, match="corrupted prompt 0 has 9 tokens, and the prompt 8"):
        fg.graph_faithfulness(smollm2, trace, graph, corrupted="The capital of New Zealand is the city of")
    with pytest.raises(ArgumentError, match="least_gap=100"):
        fg.graph_faithfulness(smollm2, trace, graph, corrupted=PERU, least_gap=100.0)
    with pytest.raises(ArgumentError, match="the graph is of the prompt"):
        fg.graph_faithfulness(smollm2, PERU, graph, corrupted=FRANCE)
    with pytest.raises(ModelMismatchError, match="the graph is of 'smollm2'"):
        fg.graph_faithfulness(tiny("llama"), IDS, graph, corrupted=IDS)
    with pytest.raises(ArgumentError, match="expects 'resample'"):
        fg.graph_faithfulness(smollm2, trace, graph, corrupted=PERU, how="zero")
    with pytest.raises(ArgumentError, match="random=-1"):
        fg.graph_faithfulness(smollm2, trace, graph, corrupted=PERU, random=-1)
    logits = fg.build_graph(trace, method="logits", readings=False)
    with pytest.raises(ArgumentError, match="not those that run between states"):
        fg.graph_faithfulness(smollm2, trace, logits, corrupted=PERU)


def test_the_test_of_a_picture_can_be_cancelled(tiny):
    with pytest.raises(CancelledError, match="testing the picture"):
        measured(tiny, cancel=lambda: True)


def test_without_prompts_of_one_s_own_up_to_three_are_proposed(japan, smollm2):
    trace, graph = japan
    found = fg.graph_faithfulness(smollm2, trace, graph, random=0)
    assert 2 <= len(found.counterfactuals) <= 3
    assert {prompt for prompt, _ in found.counterfactuals} == {" Japan"}
    own = [JAPAN.replace(" Japan", other) for _, other in found.counterfactuals]
    assert np.allclose(
        fg.graph_faithfulness(smollm2, trace, graph, random=0, corrupted=own).by_measure, found.by_measure
    )
    with pytest.raises(ArgumentError, match=r"target=\[' Tokyo', ' Kyoto'\]: proposals are made for one answer"):
        fg.graph_faithfulness(smollm2, trace, graph, target=[" Tokyo", " Kyoto"])
