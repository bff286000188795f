"""CPR and CMD against an own implementation from the published definition, and choices of edges against all there are."""

from __future__ import annotations

import inspect
import json
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch

import flowgraph as fg
from flowgraph.circuits import selection
from flowgraph.circuits.benchmark import BENCHMARK_SIZES
from flowgraph.circuits.selection import Paths, chosen
from flowgraph.errors import ArgumentError
from flowgraph.interventions.edges import edge_network
from flowgraph.interventions.plan import circuit_edges
from tests.circuit_graphs import circuit_graph, every_edge
from tests.conftest import IDS
from tests.studies.circuits import SIZES as SIZES_OF_STUDY

OTHER = [20, 31, 44, 53, 60, 75, 86]
DATA = [
    fg.Example(tuple(IDS), tuple(OTHER), 7, 11),
    fg.Example(tuple(IDS[::-1]), tuple(OTHER[::-1]), 7, 12),
    fg.Example(tuple(IDS[:5]), tuple(OTHER[:5]), 8, 11),
]
SIZES = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


def scored(loaded, seed=0):
    """Every edge with a score: a few strong ones of either sign."""
    edges = every_edge(loaded.anatomy)
    return circuit_graph(edges, np.random.default_rng(seed).standard_normal(len(edges)) ** 3)


def on_a_path(edges, heads_of):
    """The edges on a path from the embedding to the logits, by walking from both ends with names of nodes alone."""
    forward, grown = {"embed"}, True
    while grown:
        reached = {name for source, target, _ in edges if source in forward for name in heads_of(target)}
        grown = not reached <= forward
        forward |= reached
    backward, grown = {"logits"}, True
    while grown:
        leading = {source for source, target, _ in edges if backward & set(heads_of(target))}
        grown = not leading <= backward
        backward |= leading
    return [edge for edge in edges if edge[0] in forward and backward & set(heads_of(edge[1]))]


@pytest.mark.parametrize("order", ["signed", "absolute"])
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_it_is_the_benchmarks_definition(tiny, name, order):
    """Written out: sort, cut at ⌊s · E⌋, prune, run each circuit by itself, f, trapezoids over the nominal sizes."""
    loaded = tiny(name, torch.float64)
    graph = scored(loaded)
    found = fg.benchmark_faithfulness(loaded, DATA, graph, order=order, sizes=SIZES, bootstrap=0)
    edges, group = circuit_edges(graph), loaded.anatomy.n_heads // loaded.anatomy.n_kv_heads

    def heads_of(target):
        if "KV" in target:
            layer, number = target[1:].split("KV")
            return [f"L{layer}H{int(number) * group + n}" for n in range(group)]
        return [target]

    def run(kept):
        values = []
        for one in DATA:
            options = {"target": one.target, "foil": one.foil}
            effect = fg.ablate(loaded, one.clean, kept, "resample", reference=one.corrupted, outside=True, **options)
            values.append((effect.before[0], effect.after[0]))
        return np.array(values).mean(0)

    def empty():
        theirs = [fg.trace(loaded, one.corrupted).logits for one in DATA]
        return np.mean([float(x[one.target] - x[one.foil]) for x, one in zip(theirs, DATA, strict=True)])

    key = (lambda e: -graph.weight[e]) if order == "signed" else (lambda e: -abs(graph.weight[e]))
    ranked = sorted(range(len(edges)), key=key)
    f = []
    for size in SIZES:
        top = [(str(edges[e].source), str(edges[e].target), e) for e in ranked[: int(size * len(edges))]]
        kept = [edges[e] for _, _, e in on_a_path(top, heads_of)]
        assert found.edges[len(f)] == len(kept)
        full, measured = run(kept) if kept else (run([edges[0]])[0], empty())
        f.append((measured - empty()) / (full - empty()))
    cpr = cmd = 0.0
    for (x, a), (y, b) in zip(zip(SIZES, f, strict=True), list(zip(SIZES, f, strict=True))[1:], strict=False):
        cpr += (y - x) * (a + b) / 2
        cmd += (y - x) * (abs(1 - a) + abs(1 - b)) / 2
    np.testing.assert_allclose(found.values, f, rtol=1e-4, atol=1e-4)
    assert (found.cpr, found.cmd) == pytest.approx((cpr, cmd), rel=1e-4)
    assert found.values[-1] == pytest.approx(1.0, abs=1e-9)
    assert found.edges[0] < int(SIZES[0] * len(edges))  # some edges of the first circuit lead nowhere


def test_it_says_what_it_is(tiny, tmp_path):
    loaded = tiny("gpt2")
    data = fg.TaskData("own", "", tuple(DATA), "swap", ("swap",))
    found = fg.benchmark_faithfulness(loaded, data, scored(loaded), sizes=SIZES, bootstrap=50)
    for part in ("CPR", "CMD", "signed order, prune", "corruption swap", "3 prompts of own"):
        assert part in repr(found)
    assert "corruption swap" in found.chart().subtitle
    assert found.cpr_band[0] <= found.cpr <= found.cpr_band[1]
    assert found.cmd_band[0] <= found.cmd <= found.cmd_band[1]
    assert found.table().columns["edges"][-1] == found.model_edges
    saved = np.load(found.save(tmp_path / "found.npz"))
    np.testing.assert_array_equal(saved["areas"], [found.cpr, found.cmd])
    assert found.figure().layout.xaxis.type == "log"


def test_what_it_refuses(tiny):
    loaded = tiny("gpt2")
    graph = scored(loaded)
    unchecked = inspect.unwrap(fg.benchmark_faithfulness)
    with pytest.raises(ArgumentError, match="need the score of every edge; search with threshold=0"):
        fg.benchmark_faithfulness(
            loaded, DATA, fg.discover(loaded, clean=list(IDS), corrupted=OTHER, target=7, method="eap")
        )
    for options, message in (
        ({"sizes": (0.5,)}, "at least two ascending parts"),
        ({"sizes": (0.5, 0.1)}, "at least two ascending parts"),
        ({"order": "best"}, "order='best' must be one of absolute, signed, ratio"),
        ({"connect": "glue"}, "connect='glue' must be one of"),
        ({"ratio": 2.0}, "ratio=2.0"),
        ({"order": "ratio", "connect": "greedy"}, "not chosen greedily"),
    ):
        with pytest.raises(ArgumentError, match=message):
            unchecked(loaded, DATA, graph, **options)
    with pytest.raises(ArgumentError, match="so no faithfulness"):
        fg.benchmark_faithfulness(loaded, [replace(one, corrupted=one.clean) for one in DATA], graph)


def test_edges_of_score_0_may_be_left_out(tiny):
    """As a search with threshold=0 leaves them out."""
    loaded = tiny("gpt2")
    options = {"clean": list(IDS), "corrupted": OTHER, "target": 7, "foil": 11, "method": "eap", "threshold": 0.0}
    graph = fg.discover(loaded, **options)
    assert len(graph) < len(every_edge(loaded.anatomy))
    found = fg.benchmark_faithfulness(loaded, DATA, graph, sizes=(0.1, 1.0))
    assert found.edges[-1] == found.model_edges
    with pytest.raises(ArgumentError, match="score of every edge"):
        fg.benchmark_faithfulness(loaded, DATA, fg.discover(loaded, **options, top_k=50))
    with pytest.raises(ArgumentError, match="score of every edge"):
        fg.benchmark_faithfulness(loaded, DATA, graph.keep(np.arange(len(graph) - 1)))


# What the study found


def test_the_gallery_says_what_was_measured():
    root = Path(__file__).parent.parent
    rows = json.loads((root / "notebooks" / "figures" / "edge_scores.json").read_text(encoding="utf-8"))
    page = (root / "docs" / "gallery" / "edge_scores.md").read_text(encoding="utf-8")
    assert {(row["search"], row["prompts"]) for row in rows} == {(6, 8)}
    absolute = [row for row in rows if row["order"] == "absolute"]
    for row in absolute:
        cells = " | ".join(f"{f:.2f}" for f in row["f"])
        assert f"| `{row['task']}` | `{row['corruption']}` | `{row['scores']}` | {cells} |" in page
    f = {(row["task"], row["corruption"], row["scores"], row["order"]): np.array(row["f"]) for row in rows}
    at = SIZES_OF_STUDY.index
    for scores in ("eap-ig left", "eap-ig right", "eap-ig midpoint"):
        assert f["ioi", "flip", scores, "absolute"][at(0.01)] > 0.8 > f["ioi", "abc", scores, "absolute"][at(0.05)]
        assert all(
            f[*task, scores, "absolute"][0] > f[*task, "eap", "absolute"][0]
            for task in {key[:2] for key in f if key[1] != "abc"}
        )
    apart = [
        np.ptp([f[*task, f"eap-ig {points}", "absolute"] for points in ("left", "right", "midpoint")], axis=0).max()
        for task in {key[:2] for key in f}
    ]
    assert f"differ by {max(apart):.2f}".replace("0.", ".") in page
    width = np.median([high - low for row in absolute for low, high in row["bands"]])
    assert f"{width:.2f} wide".replace("0.", ".") in page
    for row in rows:
        if row["order"] == "signed" and row["scores"] == "eap" and row["task"] in ("ioi", "agreement"):
            assert max(row["f"]) < 0.02
            assert row["edges"][: at(0.002) + 1] == [0] * 2
    for row in json.loads((root / "notebooks" / "figures" / "benchmark_ioi.json").read_text(encoding="utf-8")):
        f, sizes = np.array(row["f"]), np.array(BENCHMARK_SIZES)
        assert row["cpr"] == pytest.approx(np.trapezoid(f, sizes), abs=1e-3)
        assert row["cmd"] == pytest.approx(np.trapezoid(np.abs(1 - f), sizes), abs=1e-3)
        areas = ("{:.2f} [{:.2f}, {:.2f}]".format(row[name], *row[f"{name}_band"]) for name in ("cpr", "cmd"))
        assert f"| {row['order']} | {' | '.join(areas)} |" in page


# Choices of edges


def best_of_all(paths, among, values, count):
    """The largest sum of any connected set of at most so many edges, by trying every set."""
    places = np.argwhere(among)
    best = 0.0
    for size in range(1, count + 1):
        for some in combinations(range(len(places)), size):
            kept = np.zeros_like(among)
            kept[tuple(places[list(some)].T)] = True
            if (paths.alive(kept) == kept).all():
                best = max(best, values[kept].sum())
    return best


@pytest.mark.parametrize("order", ["absolute", "signed"])
@pytest.mark.parametrize("seed", range(6))
def test_the_integer_program_is_the_best_of_all(tiny, seed, order):
    pytest.importorskip("scipy")
    network = edge_network(tiny("llama").anatomy)
    paths, draw = Paths(network), np.random.default_rng(seed)
    among = np.zeros_like(paths.possible)
    # Few enough to try every set, in chains so that some can be connected.
    among.flat[draw.choice(np.flatnonzero(paths.possible), 9, replace=False)] = True
    among[0, draw.choice(paths.possible.shape[1], 3, replace=False)] = True
    among[:, -1] |= draw.random(len(among)) < 0.15
    among &= paths.possible
    assert among.sum() <= 18
    scores = np.where(among, draw.standard_normal(among.shape), 0.0)
    values = scores if order == "signed" else np.abs(scores)
    for count in (2, 4):
        found = chosen(paths, scores, count, order=order, connect="program", ratio=0.5, among=among)
        assert found.sum() <= count
        assert (paths.alive(found) == found).all()
        assert values[found].sum() == pytest.approx(best_of_all(paths, among, values, count), abs=1e-6)
        greedy = chosen(paths, scores, count, order=order, connect="greedy", ratio=0.5, among=among)
        assert (paths.alive(greedy) == greedy).all()
        assert values[greedy].sum() <= values[found].sum() + 1e-6


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_program_of_all_edges_is_connected_and_beats_greedy_and_pruning(tiny, name):
    pytest.importorskip("scipy")
    loaded = tiny(name)
    graph, sums, sizes = scored(loaded), {}, {}
    for connect in ("program", "greedy", "prune"):
        found = fg.select_edges(loaded, graph, 25, connect=connect)
        sums[connect], sizes[connect] = np.abs(found.weight).sum(), len(found)
        again = fg.select_edges(loaded, found, 25, connect="prune")
        assert len(again) == len(found)  # every edge is on a path
        assert found.info.filters["select"] == f"absolute, {connect}"
    assert sizes["program"] == 25 > sizes["prune"]
    assert sums["program"] >= max(sums["greedy"], sums["prune"])


def test_orders(tiny):
    loaded = tiny("gpt2")
    graph = scored(loaded)
    by = {
        order: fg.select_edges(loaded, graph, 20, order=order, connect="none", ratio=0.4)
        for order in ("absolute", "signed", "ratio")
    }
    weights = {order: sorted(one.weight.tolist()) for order, one in by.items()}
    assert weights["signed"] == sorted(graph.weight.tolist())[-20:]
    assert sorted(map(abs, weights["absolute"])) == sorted(np.abs(graph.weight).tolist())[-20:]
    assert min(weights["absolute"]) < 0 < min(weights["signed"])
    # The first 8 are the best signed ones, the others the largest |score| of the rest.
    first = sorted(graph.weight.tolist())[-8:]
    rest = sorted([x for x in graph.weight.tolist() if x not in first], key=abs)[-12:]
    assert weights["ratio"] == sorted(first + rest)


def test_without_scipy_the_choice_is_greedy_and_says_so(tiny, monkeypatch):
    loaded = tiny("gpt2")
    graph = scored(loaded)
    greedy = fg.select_edges(loaded, graph, 12, connect="greedy")
    monkeypatch.setattr(selection, "has_program", lambda: False)
    found = fg.select_edges(loaded, graph, 12, connect="program")
    assert found.weight.tolist() == greedy.weight.tolist()
    assert found.info.filters["select"] == "absolute, greedy; scipy is not installed, so no integer program"
    measured = fg.benchmark_faithfulness(loaded, DATA, graph, connect="program", sizes=(0.1, 1.0), bootstrap=0)
    assert "greedy" in repr(measured)
    with pytest.raises(ArgumentError, match="needs scipy"):
        fg.select_edges(loaded, graph, 12, order="ratio", connect="program")


def test_choices_that_cannot_be_made(tiny, traces):
    loaded = tiny("gpt2")
    edge = fg.Edge(fg.Node("embed"), fg.Node("mlp", layer=0), "mlp")
    with pytest.raises(ArgumentError, match="lies on a path"):
        fg.select_edges(loaded, circuit_graph([edge]), 3)
    with pytest.raises(ArgumentError, match="count=0"):
        fg.select_edges(loaded, scored(loaded), 0)
    with pytest.raises(ArgumentError, match="no circuit to choose edges of"):
        fg.select_edges(loaded, fg.build_graph(traces("gpt2"), method="proximity", readings=False), 3)
