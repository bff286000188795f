"""Faithfulness, completeness and minimality, against loops over single prompts and on circuits that are known."""

from __future__ import annotations

import inspect
from dataclasses import replace

import numpy as np
import pytest
import torch

import flowgraph as fg
from flowgraph.circuits.runs import parts_of, task_of
from flowgraph.errors import ArgumentError, CancelledError, PromptError
from flowgraph.interventions.edges import edge_mask, edge_network
from tests.circuit_graphs import circuit_graph, every_edge, induction_data
from tests.conftest import IDS, LINEAR_REPRESENTATIVES
from tests.induction_circuits import VARIANTS, gpt2_circuit, llama_circuit
from tests.naive_interventions import FORWARDS, logit_difference

OTHER = [20, 31, 44, 53, 60, 75, 86]
DATA = [
    fg.Example(tuple(IDS), tuple(OTHER), 7, 11),
    fg.Example(tuple(IDS[::-1]), tuple(OTHER[::-1]), 7, 12),
    fg.Example(tuple(IDS[2:]), tuple(OTHER[2:]), 9, 11),
    fg.Example(tuple(IDS[:5]), tuple(OTHER[:5]), 8, 11),
]
"""Prompts of two lengths."""
MODELS = {name: (lambda name=name: gpt2_circuit(name)) for name in VARIANTS} | {"llama": llama_circuit}


@pytest.fixture(scope="module")
def constructed():
    """``constructed(name)`` → model, data, all edges, and the exact effect of each."""
    made = {}

    def of(name):
        if name not in made:
            circuit = MODELS[name]()
            data = induction_data(circuit.model.config.vocab_size)
            loaded = fg.load_model(circuit.model)
            edges = every_edge(loaded.anatomy)
            found = fg.edge_effects(
                loaded,
                [one.clean for one in data],
                [one.corrupted for one in data],
                edges,
                target=[one.target for one in data],
                foil=[one.foil for one in data],
            )
            made[name] = circuit, loaded, data, edges, found
        return made[name]

    return of


def true_circuit(edges, found):
    """Edges whose exact effect exceeds 1 % of the gap, and their effects."""
    gap = float((found.clean - found.corrupted).mean())
    kept = [n for n, effect in enumerate(found.effects) if abs(effect) > 0.01 * gap]
    return [edges[n] for n in kept], found.effects[kept]


def some_edges(loaded, count=20, seed=1):
    edges = every_edge(loaded.anatomy)
    return [edges[i] for i in np.random.default_rng(seed).choice(len(edges), count, replace=False)]


# What the numbers are


@pytest.mark.parametrize("name", LINEAR_REPRESENTATIVES)
def test_no_edge_is_the_corrupted_run_and_all_edges_the_model(tiny, name):
    loaded = tiny(name, torch.float64)
    edges = every_edge(loaded.anatomy)
    found = fg.faithfulness(loaded, DATA, circuit_graph(edges), sizes=(0.1, 0.5))
    assert found.edges[-1] == found.model_edges == len(edges)
    assert found.values[0] == 0.0
    assert found.value == 1.0
    np.testing.assert_array_equal(found.by_prompt[-1], found.full)
    corrupted = [replace(one, clean=one.corrupted) for one in DATA]
    theirs = fg.faithfulness(loaded, [replace(one, corrupted=tuple(IDS[: len(one.clean)])) for one in corrupted],
                             circuit_graph(edges), sizes=(1.0,), bootstrap=0)  # fmt: skip
    np.testing.assert_allclose(found.by_prompt[0], theirs.full, rtol=2e-5, atol=1e-6)
    assert np.abs(found.full - found.by_prompt[0]).min() > 1e-6


@pytest.mark.parametrize("name", LINEAR_REPRESENTATIVES)
@pytest.mark.parametrize("how", ["resample", "mean", "zero"])
def test_it_is_everything_outside_ablated(tiny, name, how):
    """Against the general ablation, one prompt at a time."""
    loaded = tiny(name, torch.float64)
    edges = some_edges(loaded)
    found = fg.faithfulness(loaded, DATA, circuit_graph(edges), how=how, sizes=(0.3,))
    assert found.edges.tolist() == [0, 6, 20]
    for row, one in enumerate(DATA):
        same = [other.corrupted for other in DATA if len(other.corrupted) == len(one.clean)]
        reference = {"resample": [one.corrupted], "mean": same, "zero": None}[how]
        for n, count in ((1, 6), (2, 20)):
            alone = fg.ablate(loaded, one.clean, edges[:count], how, reference=reference and [list(r) for r in reference],
                              target=one.target, foil=one.foil, outside=True)  # fmt: skip
            assert found.by_prompt[n, row] == pytest.approx(alone.after[0], rel=2e-5, abs=5e-6)
            assert found.full[row] == pytest.approx(alone.before[0], rel=1e-9)


@pytest.mark.parametrize("name", FORWARDS)
def test_it_is_a_pass_written_out_from_the_weights(tiny, name):
    loaded = tiny(name, torch.float64)
    edges = some_edges(loaded)
    found = fg.faithfulness(loaded, DATA[:1], circuit_graph(edges), sizes=(0.5,))
    forward, everything = FORWARDS[name], [str(node) for node in edge_network(loaded.anatomy).senders]
    with torch.no_grad():
        _, other = forward(loaded.model, list(DATA[0].corrupted), {})
        for n, count in enumerate(found.edges):
            kept = {(str(edge.target), edge.into, str(edge.source)) for edge in edges[:count]}
            cuts = {
                (str(edge.target), edge.into): {
                    sender: other[sender]
                    for sender in everything
                    if (str(edge.target), edge.into, sender) not in kept and sender in other
                }
                for edge in every_edge(loaded.anatomy)
            }
            logits, _ = forward(loaded.model, list(DATA[0].clean), cuts)
            assert found.by_prompt[n, 0] == pytest.approx(logit_difference(logits, 7, 11), rel=2e-5, abs=1e-6)


def test_the_mean_is_that_of_the_given_prompts(tiny):
    loaded = tiny("llama", torch.float64)
    edges = some_edges(loaded)
    reference = [OTHER, IDS[::-1], [20, 21, 22, 23, 24, 25, 26], [20, 21]]
    found = fg.faithfulness(loaded, DATA[:2], circuit_graph(edges), how="mean", reference=reference, sizes=(1.0,))
    for row, one in enumerate(DATA[:2]):
        alone = fg.ablate(loaded, one.clean, edges, "mean", reference=reference[:3], target=one.target, foil=one.foil,
                          outside=True)  # fmt: skip
        assert found.by_prompt[1, row] == pytest.approx(alone.after[0], rel=1e-9)


def test_prompts_in_parts_are_the_prompts_together(tiny, monkeypatch):
    loaded = tiny("llama", torch.float64)
    graph = circuit_graph(some_edges(loaded))
    whole = {how: fg.faithfulness(loaded, DATA, graph, how=how).by_prompt for how in ("resample", "mean")}
    heads = fg.completeness(loaded, DATA, graph, random=2, greedy=1)
    monkeypatch.setattr("flowgraph.circuits.runs._BYTES", 1)
    for how, by_prompt in whole.items():
        np.testing.assert_allclose(fg.faithfulness(loaded, DATA, graph, how=how).by_prompt, by_prompt, rtol=1e-9)
    np.testing.assert_allclose(
        fg.completeness(loaded, DATA, graph, random=2, greedy=1).in_circuit, heads.in_circuit, rtol=1e-9
    )


def test_areas_and_values_by_hand(tiny):
    found = fg.faithfulness(tiny("gpt2"), DATA, circuit_graph(some_edges(tiny("gpt2"))), sizes=(0.5, 0.2), bootstrap=50)
    assert found.edges.tolist() == [0, 4, 10, 20]
    means = found.by_prompt.mean(1)
    values = [(mean - means[0]) / (found.full.mean() - means[0]) for mean in means]
    np.testing.assert_allclose(found.values, values)
    x = [0, 0.2, 0.5, 1]
    cpr = sum((x[i + 1] - x[i]) * (values[i + 1] + values[i]) / 2 for i in range(3))
    cmd = sum((x[i + 1] - x[i]) * (abs(1 - values[i + 1]) + abs(1 - values[i])) / 2 for i in range(3))
    assert found.area == pytest.approx(cpr)
    assert found.distance == pytest.approx(cmd)


def test_former_names_of_the_areas_say_what_they_are(tiny):
    found = fg.faithfulness(tiny("gpt2"), DATA, circuit_graph(some_edges(tiny("gpt2"))), sizes=(0.5,), bootstrap=20)
    for old, new in (("cpr", "area"), ("cmd", "distance"), ("cpr_band", "area_band"), ("cmd_band", "distance_band")):
        with pytest.warns(DeprecationWarning, match=f"Faithfulness.{old} is called {new}"):
            assert getattr(found, old) == getattr(found, new)


# Known circuits


@pytest.mark.parametrize("name", MODELS)
def test_the_true_circuit_is_faithful_and_a_random_one_is_not(constructed, name):
    _, loaded, data, edges, effects = constructed(name)
    circuit, weights = true_circuit(edges, effects)
    found = fg.faithfulness(loaded, data, circuit_graph(circuit, weights))
    assert found.value == pytest.approx(1.0, abs=1e-6)
    assert found.band == pytest.approx((1.0, 1.0), abs=1e-6)
    others = [edge for edge in edges if edge not in circuit]
    chosen = np.random.default_rng(0).choice(len(others), len(circuit), replace=False)
    wrong = fg.faithfulness(loaded, data, circuit_graph([others[i] for i in chosen]))
    assert abs(wrong.value) < 0.01
    for n in range(len(circuit)):
        less = fg.faithfulness(loaded, data, circuit_graph(circuit[:n] + circuit[n + 1 :]), sizes=(1.0,))
        assert abs(less.value - 1) > 0.01, str(circuit[n])


def test_faithfulness_is_not_clipped(constructed):
    """Without the head that writes against the answer the circuit does more than the model."""
    circuit, loaded, data, edges, effects = constructed("negative")
    layer, head = circuit.heads["negative"]
    node = fg.Node("head", layer=layer, head=head)
    kept = [edge for edge in true_circuit(edges, effects)[0] if node not in (edge.source, edge.target)]
    found = fg.faithfulness(loaded, data, circuit_graph(kept))
    assert found.value > 1.2
    assert found.value == found.values[-1]
    assert found.distance > 0.2


@pytest.mark.parametrize("name", MODELS)
def test_the_true_heads_are_complete_and_minimal(constructed, name):
    circuit, loaded, data, edges, effects = constructed(name)
    graph = circuit_graph(true_circuit(edges, effects)[0])
    whole = fg.completeness(loaded, data, graph)
    assert np.abs(whole.differences).max() < 1e-6
    assert set(whole.heads) == {fg.Node("head", layer=layer, head=head) for layer, head in circuit.heads.values()}
    assert set(whole.kinds) >= {"none", "all", "random"}
    assert whole.sets[0] == ()
    assert len(set(whole.sets)) == len(whole.sets)
    needed = fg.minimality(loaded, data, graph)
    assert np.abs(needed.changes).min() > 1.0
    assert all(head not in out for head, out in zip(needed.heads, needed.sets, strict=True))


def test_a_missing_head_is_noticed(constructed):
    circuit, loaded, data, edges, effects = constructed("negative")
    layer, head = circuit.heads["negative"]
    node = fg.Node("head", layer=layer, head=head)
    kept = [edge for edge in true_circuit(edges, effects)[0] if node not in (edge.source, edge.target)]
    found = fg.completeness(loaded, data, circuit_graph(kept))
    assert found.differences[0] == pytest.approx(13.33, abs=0.01)
    assert "largest difference" in repr(found)


def test_a_needless_head_shows(constructed):
    _, loaded, data, edges, effects = constructed("plain")
    idle = fg.Edge(fg.Node("head", layer=0, head=3), fg.Node("logits"), "logits")
    found = fg.minimality(loaded, data, circuit_graph([*true_circuit(edges, effects)[0], idle]))
    assert abs(found.changes[found.heads.index(idle.source)]) < 1e-6
    assert f"least needed {idle.source}" in repr(found)
    assert found.table().columns["head"][-1] == "L0H3"


def test_heads_are_taken_out_as_ablation_does(tiny):
    loaded = tiny("gpt2", torch.float64)
    graph = circuit_graph(some_edges(loaded, 6))
    found = fg.completeness(loaded, DATA[:2], graph, random=3, greedy=1)
    every = [fg.Node("head", layer=i, head=h) for i in range(2) for h in range(loaded.anatomy.n_heads)]
    for n, out in enumerate(found.sets):
        for row, one in enumerate(DATA[:2]):
            options = {"reference": one.corrupted, "target": one.target, "foil": one.foil}
            inside = [node for node in every if node in out or node not in found.heads]
            for heads, got in ((inside, found.in_circuit), (out, found.in_model)):
                expected = (
                    fg.ablate(loaded, one.clean, list(heads), "resample", **options).after[0]
                    if heads
                    else fg.ablate(loaded, one.clean, every[0], "resample", **options).before[0]
                )
                assert got[n, row] == pytest.approx(expected, rel=1e-9)
    kinds = dict(zip(found.sets, found.kinds, strict=True))
    assert kinds[()] == "none"
    assert kinds[found.heads] == "all"


# Bands


def test_bands_hold_the_value_and_shrink_with_more_prompts(constructed):
    circuit, loaded, _, edges, effects = constructed("plain")
    kept = [edge for edge in true_circuit(edges, effects)[0] if str(edge.source) != "L0H1"]
    widths = []
    for count in (8, 32, 128):
        data = induction_data(circuit.model.config.vocab_size, count=count)
        found = fg.faithfulness(loaded, data, circuit_graph([*kept, edges[0]]), sizes=(0.5,))
        low, high = found.band
        assert low <= found.value <= high
        assert (found.bands[:, 0] <= found.values).all()
        assert (found.values <= found.bands[:, 1]).all()
        assert found.area_band[0] <= found.area <= found.area_band[1]
        assert found.distance_band[0] <= found.distance <= found.distance_band[1]
        widths.append(high - low)
    assert widths[0] > widths[1] > widths[2] > 0


def test_draws_are_of_prompts(tiny):
    """A band is what drawing prompts with replacement gives, and the seed decides which."""
    loaded = tiny("gpt2")
    graph = circuit_graph(some_edges(loaded))
    first, again, other = (fg.faithfulness(loaded, DATA, graph, bootstrap=200, seed=seed) for seed in (0, 0, 1))
    assert first.band == again.band
    assert first.band != other.band
    values = []
    for draw in first.draws:
        rows = np.repeat(np.arange(len(DATA)), draw)
        assert len(rows) == len(DATA)
        part = first.by_prompt[:, rows].mean(1)
        values.append((part[-1] - part[0]) / (first.full[rows].mean() - part[0]))
    assert first.band == pytest.approx(tuple(np.percentile(values, (2.5, 97.5))))


def test_one_prompt_and_no_draws_have_no_band(tiny):
    loaded = tiny("gpt2")
    graph = circuit_graph(some_edges(loaded))
    for found in (fg.faithfulness(loaded, DATA[:1], graph), fg.faithfulness(loaded, DATA, graph, bootstrap=0)):
        assert found.bands is found.band is found.area_band is found.distance_band is None
        assert "low" not in found.table().columns
        assert "bands" not in found.arrays()
        assert "no bands" in found.table().note


# What it says


def test_the_result_says_what_it_is(tiny, tmp_path):
    loaded = tiny("gpt2")
    graph = circuit_graph(some_edges(loaded))
    found = fg.faithfulness(loaded, DATA, graph, how="zero", metric=fg.log_probability)
    for part in (f"{found.value:.3g} [", "20 of", "zero ablation, log-probability", "4 prompts", "area", "distance"):
        assert part in repr(found)
    assert "nats" in found.table().note
    assert found.table().columns["edges"][-1] == 20
    assert "faithfulness" in found._repr_html_()
    saved = np.load(found.save(tmp_path / "found.npz"))
    np.testing.assert_array_equal(saved["values"], found.values)
    np.testing.assert_array_equal(saved["areas"], [found.area, found.distance])


@pytest.mark.parametrize("how", ["resample", "mean", "zero"])
def test_the_corruption_stands_beside_f_where_corrupted_prompts_are_used(tiny, how):
    loaded = tiny("gpt2")
    data = fg.TaskData("own", "", (*DATA[:2], DATA[0]), "swap", ("swap",))
    found = fg.faithfulness(loaded, data, circuit_graph(some_edges(loaded)), how=how, bootstrap=0)
    texts = repr(found), found.table().note, found.chart().subtitle
    said = f"{how} ablation" if how == "zero" else f"{how} ablation, corruption swap"
    assert all(said in text and ("swap" in text) == (how != "zero") for text in texts)
    given = fg.faithfulness(loaded, DATA[:2], circuit_graph(some_edges(loaded)), how="mean", reference=[IDS, OTHER])
    assert "corruption" not in repr(given)
    assert "corruption as given" in repr(fg.faithfulness(loaded, DATA, circuit_graph(some_edges(loaded))))


def test_the_strongest_edges_come_first(tiny):
    loaded = tiny("gpt2")
    edges = some_edges(loaded, 4)
    found = fg.faithfulness(loaded, DATA, circuit_graph(edges, [0.1, -3.0, 2.0, 0.5]), sizes=(0.25, 0.5))
    alone = fg.faithfulness(loaded, DATA, circuit_graph([edges[1], edges[2]]), sizes=(0.5,))
    np.testing.assert_allclose(found.by_prompt[:3], alone.by_prompt, rtol=1e-6)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_figure(tiny, theme):
    loaded = tiny("gpt2")
    small = fg.faithfulness(loaded, [replace(DATA[0]), DATA[1]], circuit_graph(some_edges(loaded)))
    figure = small.figure(theme=theme)
    band, line = figure.data
    np.testing.assert_allclose(line.y, small.values)
    assert list(line.x) == small.edges.tolist()
    assert len(band.x) == 2 * len(line.x)
    assert "distance" in figure.layout.title.subtitle.text
    many = fg.faithfulness(loaded, DATA, circuit_graph(every_edge(loaded.anatomy)[:105]), bootstrap=0)
    (only,) = many.figure(theme=theme).data
    assert min(only.x) > 0
    assert many.figure().layout.xaxis.type == "log"


def test_names_are_escaped(tiny):
    loaded = tiny("gpt2")
    data = fg.TaskData("<img src=x onerror=alert(1)>", "", tuple(DATA))
    found = fg.faithfulness(loaded, data, circuit_graph(some_edges(loaded)))
    assert "<img" not in found.figure().layout.title.subtitle.text
    assert "<img" not in found._repr_html_()


def test_progress_and_cancel(tiny):
    loaded, seen = tiny("gpt2"), []
    graph = circuit_graph(some_edges(loaded))
    fg.faithfulness(loaded, DATA, graph, progress=lambda stage, part: seen.append((stage, part)))
    parts = [part for _, part in seen]
    assert parts == sorted(parts)
    assert parts[0] == 0.0
    assert parts[-1] == 1.0
    for act, options in ((fg.completeness, {"random": 2, "greedy": 1}), (fg.minimality, {"random": 2})):
        seen.clear()
        act(loaded, DATA, graph, **options, progress=lambda stage, part: seen.append((stage, part)))
        parts = [part for _, part in seen]
        assert parts == sorted(parts)
        assert parts[-1] == 1.0
    for act in (fg.faithfulness, fg.completeness, fg.minimality):
        calls = iter([False] * 2 + [True])
        with pytest.raises(CancelledError, match="cancelled after"):
            act(loaded, DATA, graph, cancel=lambda calls=calls: next(calls))
    assert not any(module._forward_pre_hooks for module in loaded.model.modules())


# Bad input


def test_bad_input(tiny):
    loaded = tiny("gpt2")
    edges = some_edges(loaded)
    graph = circuit_graph(edges)
    with pytest.raises(ArgumentError, match="the circuit has no edges"):
        fg.faithfulness(loaded, DATA, graph.keep(np.zeros(20, bool)))
    with pytest.raises(ArgumentError, match="so no faithfulness"):
        fg.faithfulness(loaded, [replace(one, corrupted=one.clean) for one in DATA], graph)
    with pytest.raises(PromptError, match="hold 1 of 7 tokens"):
        fg.faithfulness(loaded, DATA[:1], graph, how="mean")
    with pytest.raises(PromptError, match="reference= hold 0 of 5 tokens"):
        fg.faithfulness(loaded, DATA, graph, how="mean", reference=[IDS, OTHER])
    with pytest.raises(ArgumentError, match="how='resample' does not"):
        fg.faithfulness(loaded, DATA, graph, reference=[IDS, OTHER])
    with pytest.raises(ArgumentError, match="how='median' must be one of"):
        inspect.unwrap(parts_of)(loaded, fg.TaskData("", "", tuple(DATA)), "median", reference=None, bytes_of_token=1)
    with pytest.raises(ArgumentError, match="sizes holds 2"):
        fg.faithfulness(loaded, DATA, graph, sizes=(2.0,))
    with pytest.raises(ArgumentError, match="bootstrap=-1"):
        fg.faithfulness(loaded, DATA, graph, bootstrap=-1)
    with pytest.raises(ArgumentError, match="has no examples"):
        fg.faithfulness(loaded, [], graph)
    with pytest.raises(ArgumentError, match="expected a TaskData"):
        inspect.unwrap(task_of)(loaded, ["a text"])
    with pytest.raises(ArgumentError, match="7 tokens and the corrupted one 5"):
        fg.faithfulness(loaded, [replace(DATA[0], corrupted=tuple(OTHER[:5]))], graph)
    with pytest.raises(ArgumentError, match="does not exist"):
        fg.faithfulness(loaded, DATA, circuit_graph([fg.Edge(fg.Node("embed"), fg.Node("mlp", layer=9), "mlp")]))
    with pytest.raises(ArgumentError, match="has no heads"):
        fg.minimality(loaded, DATA, circuit_graph([fg.Edge(fg.Node("embed"), fg.Node("logits"), "logits")]))
    with pytest.raises(ArgumentError, match="random=-1"):
        fg.minimality(loaded, DATA, graph, random=-1)
    with pytest.raises(ArgumentError, match="candidates=0"):
        fg.completeness(loaded, DATA, graph, candidates=0)


def test_graphs_that_are_no_circuit(tiny, traces):
    flow = fg.build_graph(traces("gpt2"), method="proximity", readings=False)
    with pytest.raises(ArgumentError, match="not a circuit"):
        fg.faithfulness(tiny("gpt2"), DATA, flow)
    at = fg.Edge(fg.Node("embed", position=2), fg.Node("logits"), "logits")
    with pytest.raises(ArgumentError, match="restricted to a position"):
        edge_mask(edge_network(tiny("gpt2").anatomy), [at])


def test_draws_without_a_gap_are_refused(tiny):
    data = [DATA[0], replace(DATA[1], corrupted=DATA[1].clean)]
    with pytest.raises(ArgumentError, match="no better than no edge"):
        fg.faithfulness(tiny("gpt2", torch.float64), data, circuit_graph(some_edges(tiny("gpt2"))))
