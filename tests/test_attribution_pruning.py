"""Pruning of attribution graphs, held against matrices that are written down as the definition says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flowgraph.algorithms.attribution_pruning import pruned
from flowgraph.errors import ArgumentError
from flowgraph.files import import_graph
from flowgraph.files.imports import graph_of
from flowgraph.values.flow_graph import FlowGraph
from flowgraph.values.node import Node
from tests.attribution_graphs import attribution_graph
from tests.graphs import Edge
from tests.graphs import graph_of as built


def naive(data: dict[str, Any], node_threshold: float, edge_threshold: float, top: int | None) -> set[tuple[str, str]]:
    """Links that are left, by inverting matrices and dropping one node at a time."""
    names = [row["node_id"] for row in data["nodes"]]
    kinds = {row["node_id"]: row["feature_type"] for row in data["nodes"]}
    number = {name: n for n, name in enumerate(names)}
    p = np.array([row["token_prob"] if row["feature_type"] == "logit" else 0.0 for row in data["nodes"]])
    raw = np.zeros((len(names), len(names)))
    for link in data["links"]:
        raw[number[link["target"]], number[link["source"]]] = abs(link["weight"])

    def spread(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        total = matrix.sum(1, keepdims=True)
        unit = np.divide(matrix, total, out=np.zeros_like(matrix), where=total > 0)
        influence = p @ (np.linalg.inv(np.eye(len(p)) - unit) - np.eye(len(p)))
        return influence, unit * (influence + p)[:, None]

    def fewest(values: np.ndarray, part: float) -> np.ndarray:
        order = np.argsort(-values, kind="stable")
        count = int(np.searchsorted(np.cumsum(values[order]), part * values.sum() - 1e-9)) + 1
        mask = np.zeros(len(values), dtype=bool)
        mask[order[:count]] = values[order[:count]] > 0
        return mask

    always = np.array([kinds[name] in ("embedding", "logit") for name in names])
    influence, _ = spread(raw)
    kept = fewest(influence, node_threshold)
    if top is not None:
        others = [n for n in np.argsort(-influence, kind="stable") if kept[n] and not always[n]]
        kept[others[top:]] = False
    kept |= always
    _, scores = spread(raw * np.outer(kept, kept))
    strong = fewest(scores.ravel(), edge_threshold).reshape(scores.shape)
    links = {
        (link["source"], link["target"])
        for link in data["links"]
        if strong[number[link["target"]], number[link["source"]]]
    }
    while True:
        gone = {
            name
            for name in names
            if kinds[name] not in ("embedding", "logit")
            and (
                not any(source == name for source, _ in links)
                or ("error" not in kinds[name] and not any(target == name for _, target in links))
            )
        }
        left = {(source, target) for source, target in links if source not in gone and target not in gone}
        if left == links:
            return links
        links = left


def links_of(graph: FlowGraph) -> set[tuple[str, str]]:
    ids = [note.id for note in graph.notes]
    return {(ids[s], ids[t]) for s, t in zip(graph.source, graph.target, strict=True)}


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    ("node_threshold", "edge_threshold", "top"), [(0.8, 0.98, None), (0.5, 0.7, None), (0.95, 0.9, 9), (1.0, 1.0, 3)]
)
def test_what_is_kept_is_what_the_definition_says(
    seed: int, node_threshold: float, edge_threshold: float, top: int | None, tmp_path: Path
) -> None:
    data = attribution_graph(seed, links=180)
    path = tmp_path / "g.json"
    path.write_text(json.dumps(data))
    found = import_graph(path, node_threshold=node_threshold, edge_threshold=edge_threshold, top=top)
    assert links_of(found) == naive(data, node_threshold, edge_threshold, top)
    assert 0 < len(found) < len(data["links"])
    assert [found.info.filters.get(name) for name in ("node_threshold", "edge_threshold", "top")] == [
        node_threshold,
        edge_threshold,
        top,
    ]
    assert found.info.total_edges == len(data["links"])


def test_thresholds_alone_leave_the_other_step_out() -> None:
    graph = graph_of(attribution_graph())
    few, edges = pruned(graph, 0.8), pruned(graph, None, 0.8)
    assert links_of(few) < links_of(graph)
    assert links_of(edges) < links_of(graph)
    assert few.info.filters == {"node_threshold": 0.8}
    assert len(pruned(graph, top=5).nodes) <= 5 + 6 + 3


def test_graphs_without_probabilities_are_pruned_towards_the_node_that_they_explain() -> None:
    embed, one, two, logit = (
        Node("embed", position=0),
        Node("neuron", layer=0, index=1),
        Node("neuron", layer=0, index=2),
        Node("logit", index=1),
    )
    edges = [Edge(embed, one, 0.9), Edge(embed, two, 0.1), Edge(one, logit, 0.9), Edge(two, logit, 0.1)]
    found = pruned(built(edges), top=1)
    assert set(found.nodes) == {embed, one, logit}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"node_threshold": 0.0}, "node_threshold=0.0 must lie above 0"),
        ({"edge_threshold": 1.5}, "edge_threshold=1.5 must lie"),
        ({"node_threshold": float("nan")}, "node_threshold=nan"),
        ({"top": 0}, "top=0 must be"),
        ({"top": True}, r"top=…\) expects a whole number or None, and got True"),
    ],
)
def test_wrong_thresholds_are_refused_before_the_file_is_read(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        import_graph("nowhere.json", **options)


def test_thresholds_that_leave_nothing_are_refused() -> None:
    """The strongest edge alone is kept, nothing leaves its target any more, and so it goes too."""
    embed, one, logit = Node("embed", position=0), Node("neuron", layer=0, index=1), Node("logit", index=1)
    graph = built([Edge(embed, one, 1.0), Edge(one, logit, 1.0)])
    assert len(pruned(graph, node_threshold=1.0)) == 2
    with pytest.raises(ArgumentError, match=r"node_threshold=1.0, edge_threshold=0.5: nothing is left"):
        pruned(graph, 1.0, 0.5)
