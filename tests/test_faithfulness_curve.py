"""What pictures of every size keep: each point is the test of that picture, and the last that of the whole graph."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import flowgraph as fg
from flowgraph.circuits.effect_graph import effect_graph
from flowgraph.errors import ArgumentError, CancelledError
from flowgraph.interventions.parts import Part
from tests.conftest import IDS
from tests.test_graph_faithfulness import other_of

SIZES = [5, 40, 100]


def asked(tiny, name="llama", method="proximity", **options):
    loaded = tiny(name, torch.float64)
    assert sum(p.numel() for p in loaded.model.parameters()) < 1_000_000
    trace = fg.trace(loaded, IDS)
    graph = fg.build_graph(trace, method=method, level="head", readings=False)
    said = {"corrupted": other_of(loaded), "least_gap": 0.1}
    return (
        loaded,
        trace,
        graph,
        said,
        fg.faithfulness_curve(loaded, trace, graph, **(said | {"sizes": SIZES} | options)),
    )


@pytest.mark.parametrize("name", ["gpt_neox", "llama"])
def test_each_point_is_the_test_of_that_picture_and_the_last_of_the_whole_graph(tiny, name):
    loaded, trace, graph, said, curve = asked(tiny, name)
    assert curve.edges.tolist() == [*SIZES, len(graph)]
    for n, size in enumerate(SIZES):
        picture = fg.keep_strongest(graph, mass=None, max_edges=size)
        found = fg.graph_faithfulness(loaded, trace, picture, random=0, **said)
        np.testing.assert_allclose(curve.by_measure[n], found.by_measure, atol=1e-9)
        assert curve.f[n] == pytest.approx(found.f, abs=1e-9)
        assert curve.parts[n] == found.terms + found.outputs
    found = fg.graph_faithfulness(loaded, trace, graph, random=0, **said)
    np.testing.assert_allclose(curve.by_measure[-1], found.by_measure, atol=1e-9)
    assert (curve.possible, curve.answer, curve.foils) == (found.possible, found.answer, found.foils)


def test_everything_keeps_everything_and_several_counterfactuals_give_a_range(tiny):
    *_, one = asked(tiny, method="norms")
    np.testing.assert_allclose(one.f[-1], 1, atol=1e-5)
    loaded, _, _, said, _ = asked(tiny)
    further = next(
        ids for n in range(20, 79) if (ids := [*IDS[:3], n, *IDS[4:]]) != said["corrupted"] and _moves(loaded, ids)
    )
    *_, two = asked(tiny, method="norms", corrupted=[said["corrupted"], further])
    np.testing.assert_allclose(two.f[-1], 1, atol=1e-5)
    np.testing.assert_allclose(two.by_pair[:, 0], one.by_pair[:, 0], atol=1e-9)
    assert (two.bands[:, 0] <= two.f).all()
    assert (two.f <= two.bands[:, 1]).all()
    assert (two.bands[0, 0] < two.bands[0, 1]) or (two.bands[1, 0] < two.bands[1, 1])


def _moves(loaded, ids) -> bool:
    try:
        fg.graph_faithfulness(
            loaded,
            fg.trace(loaded, IDS),
            fg.build_graph(fg.trace(loaded, IDS), readings=False),
            corrupted=ids,
            least_gap=0.1,
            random=0,
        )
    except ArgumentError:
        return False
    return True


def test_the_smallest_picture_is_the_first_measured_that_keeps_enough(tiny):
    *_, curve = asked(tiny, method="norms", sizes=12)
    assert len(curve.edges) <= 12
    assert (np.diff(curve.edges) > 0).all()
    for goal in (0.2, 0.8, 1.0):
        reached = [int(edges) for edges, f in zip(curve.edges, curve.f, strict=True) if f >= goal]
        assert curve.smallest(goal) == (reached[0] if reached else None)
    with pytest.raises(ArgumentError, match=r"goal=0\.0 must lie above 0"):
        curve.smallest(0.0)


def test_chance_has_as_many_parts_and_stands_in_chart_and_table(tiny):
    *_, without = asked(tiny)
    assert without.random is None
    assert len(without.chart().panels[0].series) == 1
    *_, curve = asked(tiny, random=3)
    assert curve.blind.shape == (4, 3, 1)
    np.testing.assert_array_equal(curve.by_measure, without.by_measure)
    assert [one.name for one in curve.chart().panels[0].series] == ["random pictures", "kept"]
    assert "random" in curve.table().columns
    assert "of the answer" in str(curve.chart().panels[0].y)
    assert str(len(curve.edges)) in repr(curve)


def test_pictures_of_ones_own_are_tested_as_they_are(tiny):
    loaded, trace, graph, said, curve = asked(tiny)
    pictures = [fg.keep_strongest(graph, mass=None, max_edges=size) for size in (5, 100)]
    own = fg.faithfulness_curve(loaded, trace, pictures, **said)
    assert own.edges.tolist() == [5, 100]
    np.testing.assert_allclose(own.by_measure, curve.by_measure[[0, 2]], atol=1e-9)
    for wrong in ([], pictures[::-1]):
        with pytest.raises(ArgumentError, match="the smallest first"):
            fg.faithfulness_curve(loaded, trace, wrong, **said)


def test_what_has_no_curve_is_refused(tiny):
    loaded, trace, graph, said, _ = asked(tiny)
    for sizes, words in (
        ([0], "expected numbers of edges"),
        (0, "sizes=0 must be 1 or more"),
    ):
        with pytest.raises(ArgumentError, match=words):
            fg.faithfulness_curve(loaded, trace, graph, sizes=sizes, **said)
    parts = effect_graph(trace, {Part(0, 2): 1.0}, 10, frozenset({2}))
    with pytest.raises(ArgumentError, match="effects of parts that were chosen together"):
        fg.faithfulness_curve(loaded, trace, parts, **said)
    with pytest.raises(CancelledError):
        fg.faithfulness_curve(loaded, trace, graph, cancel=lambda: True, **said)
