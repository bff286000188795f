"""The parts behind an answer: a planted circuit, what is drawn and said, the prompts of search and test, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import flowgraph as fg
from flowgraph.circuits.contrasts import HELD_OUT, SEARCHED, shared_out
from flowgraph.circuits.effect_graph import effect_graph
from flowgraph.circuits.effect_search import EffectSearch
from flowgraph.circuits.kept_answer import LEAST_GAP, KeptAnswer
from flowgraph.errors import ArgumentError, CancelledError
from flowgraph.interventions.graph_parts import graph_parts
from flowgraph.interventions.parts import Part
from tests.circuit_graphs import induction_data
from tests.conftest import IDS, JAPAN
from tests.induction_circuits import gpt2_circuit

PERU, FRANCE, EGYPT = (f"The capital of {place} is the city of" for place in ("Peru", "France", "Egypt"))


@pytest.fixture(scope="module")
def japan(smollm2):
    trace = fg.trace(smollm2, JAPAN)
    return trace, fg.explain_answer(smollm2, trace, corrupted=[PERU, FRANCE], unseen=EGYPT)


# A circuit that is known


@pytest.mark.parametrize("variant", ["plain", "negative"])
def test_a_planted_circuit_is_found_and_nothing_else(variant):
    circuit, answer = planted(variant)
    search = EffectSearch(answer, goal=0.99)
    positive = (search.scores() > 1e-3).nonzero()[:, 0]
    keep, kept = search.pruned(positive)
    assert kept == pytest.approx(1, abs=1e-4)
    parts = list(answer.numbers.parts(keep.tolist()))
    # The first head notes where the word stood, in either sequence; the second reads the note and copies what follows.
    assert {(part.layer, part.head) for part in parts} == {circuit.heads["previous"], circuit.heads["induction"]}
    assert len(parts) <= 4
    without = answer.of((answer.runs.valid & ~answer.numbers.mask([keep])[0])[None]).by_measure
    assert without.max() < 0.05


def test_a_search_that_gradients_mislead_says_so():
    """A saturated head between two others hides the way from every gradient."""
    _, answer = planted("mover")
    search = EffectSearch(answer)
    search.chosen(4)
    assert search.scored < 0.5


def planted(variant):
    circuit = gpt2_circuit(variant)
    loaded = fg.load_model(circuit.model)
    example = induction_data(circuit.model.config.vocab_size, count=1)[0]
    return circuit, KeptAnswer(
        loaded, list(example.clean), list(example.corrupted), target=example.target, foil=example.foil
    )


# What is drawn


def test_a_graph_shows_exactly_the_parts_that_were_chosen(tiny):
    for name in ("gpt2", "gpt_neox"):
        trace = fg.trace(tiny(name), IDS)
        parts = {
            Part(0, 4, 1, 3): 0.5,
            Part(0, 4): -0.25,
            Part(1, 6, 0, 4): 2.0,
            Part(1, 6, 2, 4): 1.0,
            Part(1, 6): 0.5,
        }
        graph = effect_graph(trace, parts, 1000, frozenset({3}))
        found = graph_parts(graph, trace.model.anatomy, len(IDS))
        shown = {Part(*map(int, (layer, query, head, key))) for layer, head, query, key in found.shown.nonzero()}
        shown |= {Part(int(layer), int(position)) for layer, position in found.mlps.nonzero()}
        assert shown == set(parts)
        assert graph.info.method == "effect"
        frame = graph.to_dataframe()
        numbered = frame[frame.kind.isin(["attention", "mlp"])]
        assert sorted(numbered.weight) == sorted(parts.values())
        # A head with two terms writes their sum; the stream carries no number of its own.
        assert frame[frame.kind == "residual"].structural.all()
        ends = {graph.nodes[n].kind for n in range(len(graph.nodes)) if n not in set(graph.source.tolist())}
        assert ends == {"logit"}


def test_effects_sum_to_what_is_kept(japan):
    _, graph = japan
    frame = graph.to_dataframe()
    total = frame[frame.kind.isin(["attention", "mlp"])].weight.sum()
    found = fg.graph_faithfulness(graph_model(japan), japan[0], graph, corrupted=[PERU, FRANCE], random=0)
    kept = float((found.by_measure[:, 0] * found.gaps[:, 0]).mean())
    assert total == pytest.approx(kept, rel=0.03)


def graph_model(japan):
    return japan[0].model


# What is kept and said


def test_fifty_parts_keep_an_answer_beside_a_prompt_that_the_search_did_not_see(japan, smollm2):
    trace, graph = japan
    kept = graph.info.provenance["kept"]
    assert kept["terms"] + kept["outputs"] <= 50
    assert kept["unseen"] is True
    assert kept["f"] > 0.8
    assert abs(kept["random"]) < 0.01
    assert kept["rank"] <= 3
    again = fg.graph_faithfulness(smollm2, trace, graph, corrupted=EGYPT)
    assert again.f == pytest.approx(kept["f"], abs=1e-4)
    assert (again.terms, again.outputs) == (kept["terms"], kept["outputs"])
    said = graph.caption()
    assert f"keeps {round(100 * kept['f'])} % of “ Tokyo” rather than “ Cairo” (“ Egypt” for “ Japan”)" in said
    assert "the search saw other prompts" in said
    assert f"{kept['terms']} attention terms and {kept['outputs']} MLPs of 8,250 parts" in said


def test_the_statement_goes_with_the_file_and_not_with_a_smaller_graph(japan, tmp_path):
    _, graph = japan
    back = fg.FlowGraph.load(graph.save(tmp_path / "answer.json"))
    assert back.info.provenance["kept"] == graph.info.provenance["kept"]
    assert back.caption() == graph.caption()
    smaller = graph.keep(np.arange(10))
    assert "kept" not in smaller.info.provenance
    assert "keeps" not in smaller.caption()
    assert graph.keep(np.arange(len(graph))).info.provenance["kept"] == graph.info.provenance["kept"]


def test_what_is_measured_can_be_put_on_any_graph(smollm2, japan):
    trace, _ = japan
    graph = fg.keep_strongest(fg.build_graph(trace, level="head", readings=False), max_edges=300)
    found = fg.graph_faithfulness(smollm2, trace, graph, corrupted=PERU, random=1)
    assert found.caption() in graph.with_faithfulness(found).caption()


def test_the_smallest_picture_is_smaller_and_keeps_the_goal(smollm2, japan):
    trace, graph = japan
    small = fg.explain_answer(smollm2, trace, corrupted=PERU, unseen=FRANCE, smallest=True, readings=False, random=1)
    kept, of_whole = small.info.provenance["kept"], graph.info.provenance["kept"]
    assert kept["terms"] + kept["outputs"] <= 20 < of_whole["terms"] + of_whole["outputs"]
    assert 0.8 <= kept["searched"]["f"] < 0.9


# The prompts


def test_search_and_test_have_different_prompts_and_leave_the_explained_token(smollm2):
    trace = fg.trace(smollm2, JAPAN)
    searched, unseen = shared_out(smollm2, trace, None, None, seed=0, least_gap=LEAST_GAP)
    assert (len(searched), len(unseen)) == (SEARCHED, HELD_OUT)
    assert not set(searched) & set(unseen)
    assert all(text.endswith(" is the city of") for text in (*searched, *unseen))


def test_beside_proposals_a_foil_of_the_trace_is_not_used(smollm2):
    trace = fg.trace(smollm2, JAPAN, foil=" Kyoto")
    graph = fg.explain_answer(smollm2, trace, most=20, random=0, readings=False)
    assert graph.info.foil is None
    assert " Kyoto" not in graph.info.provenance["kept"]["foils"]
    found = fg.graph_faithfulness(smollm2, trace, graph, random=0)
    assert " Kyoto" not in found.foils


def test_given_prompts_are_shared_out(smollm2):
    trace = fg.trace(smollm2, JAPAN)
    searched, unseen = shared_out(smollm2, trace, [PERU, FRANCE, EGYPT], None, seed=0, least_gap=LEAST_GAP)
    assert (len(searched), len(unseen)) == (2, 1)
    alone = shared_out(smollm2, trace, PERU, None, seed=0, least_gap=LEAST_GAP)
    assert (len(alone[0]), len(alone[1])) == (1, 0)
    said = shared_out(smollm2, trace, PERU, [FRANCE, EGYPT], seed=0, least_gap=LEAST_GAP)
    assert (len(said[0]), len(said[1])) == (1, 2)


def test_a_foil_of_the_trace_is_kept(smollm2):
    trace = fg.trace(smollm2, JAPAN, foil=" Paris")
    graph = fg.explain_answer(smollm2, trace, corrupted=FRANCE, most=8, random=0, readings=False)
    assert graph.info.provenance["kept"]["foils"] == [" Paris"]
    assert graph.info.foil_token == " Paris"


def test_one_prompt_alone_is_said_to_be_that_of_the_search(smollm2, japan):
    graph = fg.explain_answer(smollm2, japan[0], corrupted=PERU, most=8, random=1, readings=False)
    assert graph.info.provenance["kept"]["unseen"] is False
    assert "measured beside the very prompts of the search" in graph.caption()


# What is refused


def test_what_cannot_be_searched_is_refused(smollm2, japan):
    with pytest.raises(ArgumentError, match="most=0"):
        fg.explain_answer(smollm2, JAPAN, most=0)
    with pytest.raises(ArgumentError, match=r"goal=1\.5"):
        fg.explain_answer(smollm2, JAPAN, goal=1.5)
    with pytest.raises(ArgumentError, match="same answer"):
        fg.explain_answer(smollm2, japan[0], corrupted="The capital of Japan was the city of")
    with pytest.raises(ArgumentError, match="several prompts"):
        fg.explain_answer(smollm2, fg.inputs([JAPAN, PERU]))


def test_a_search_reports_its_stages_and_can_be_cancelled(smollm2, japan):
    stages = []

    def cancel():
        return "scoring every part" in stages

    with pytest.raises(CancelledError):
        fg.explain_answer(
            smollm2, japan[0], corrupted=PERU, progress=lambda stage, _done: stages.append(stage), cancel=cancel
        )
    assert stages == ["running the prompt", "choosing counterfactual prompts", "scoring every part"]
    assert torch.is_grad_enabled()
