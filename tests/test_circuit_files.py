"""Circuits of edge attribution patching: names of edges, scores, what is in the circuit."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowgraph.errors import FileFormatError
from flowgraph.files import circuit_file, import_graph
from flowgraph.files.imports import graph_of
from flowgraph.render import render_html
from flowgraph.values.flow_graph import EDGE_KINDS, FlowGraph
from flowgraph.values.node import Node
from tests.graphs import same
from tests.test_graph_imports import JUNK, change

INPUT, H00, H11, M0, OUT = (
    Node("embed"),
    Node("head", layer=0, head=0),
    Node("head", layer=1, head=1),
    Node("mlp", layer=0),
    Node("logits"),
)


def circuit() -> dict[str, Any]:
    """A circuit as EAP-IG writes it."""
    return {
        "cfg": {"n_layers": 3, "n_heads": 2, "model_name": "gpt2", "parallel_attn_mlp": False},
        "nodes": {"input": {"in_graph": True}, "a0.h0": {"in_graph": True, "score": 0.5}, "a1.h1": {"in_graph": True},
                  "m0": {"in_graph": False}, "logits": {"in_graph": True}},
        "edges": {
            "input->a0.h0<q>": {"score": 0.1, "in_graph": True}, "input->a0.h0<v>": {"score": -0.3, "in_graph": True},
            "a0.h0->a1.h1<k>": {"score": -0.2, "in_graph": True}, "a1.h1->logits": {"score": 0.6, "in_graph": True},
            "m0->logits": {"score": 0.2, "in_graph": False}, "input->m0": {"score": None, "in_graph": False},
        },
    }  # fmt: skip


def edges_of(graph: FlowGraph) -> set[tuple[Node, Node, str, float]]:
    return {
        (graph.nodes[s], graph.nodes[t], EDGE_KINDS[k], w)
        for s, t, k, w in zip(graph.source, graph.target, graph.kind, graph.weight.tolist(), strict=True)
    }


KEPT = {(INPUT, H00, "query", 0.1), (INPUT, H00, "value", -0.3), (H00, H11, "key", -0.2), (H11, OUT, "unembed", 0.6)}


def test_the_circuit_of_a_file_is_read() -> None:
    graph = graph_of(circuit())
    assert graph.nodes == (INPUT, H00, H11, OUT)
    assert edges_of(graph) == KEPT
    info = graph.info
    assert (info.model, info.total_layers, info.total_edges, info.unit) == ("gpt2", 3, 5, "score")
    shares = {(str(graph.nodes[t]), round(float(s), 6)) for t, s in zip(graph.target, graph.share, strict=True)}
    assert shares == {("L0H0", 0.25), ("L0H0", -0.75), ("L1H1", -1.0), ("logits", 0.75)}
    assert graph.kept_mass == pytest.approx(2.75 / 3)
    assert graph.notes[1].fields == {"node_id": "a0.h0", "in_graph": True, "score": 0.5}
    assert info.outside["cfg"]["n_heads"] == 2


def test_without_a_circuit_all_scored_edges_are_read() -> None:
    data = circuit()
    for about in data["edges"].values():
        about["in_graph"] = False
    graph = graph_of(data)
    assert edges_of(graph) == KEPT | {(M0, OUT, "unembed", 0.2)}
    assert graph.info.filters == {}


def listed(data: dict[str, Any]) -> dict[str, Any]:
    return {**data, "edges": [{"edge": name, **about} for name, about in data["edges"].items()]}


def ends(data: dict[str, Any]) -> dict[str, Any]:
    rows = []
    for name, about in data["edges"].items():
        source, target = name.split("->")
        letter = target[-2] if target.endswith(">") else None
        rows.append({"source": source, "target": target.split("<")[0], "qkv": letter, **about})
    return {**data, "edges": rows}


def flags(data: dict[str, Any]) -> dict[str, Any]:
    return {**data, "nodes": {name: about["in_graph"] for name, about in data["nodes"].items()}}


def arrays(data: dict[str, Any]) -> dict[str, Any]:
    sources, targets = (
        ["input", "a0.h0", "m0", "a1.h1"],
        ["a0.h0<q>", "a0.h0<k>", "a0.h0<v>", "m0", "a1.h1<k>", "logits"],
    )
    said = data["edges"]
    return {
        "cfg": data["cfg"], "src_nodes": dict.fromkeys(sources, True), "dst_nodes": targets,
        "edges_scores": [[said.get(f"{s}->{t}", {}).get("score") or 0.0 for t in targets] for s in sources],
        "edges_in_graph": [[said.get(f"{s}->{t}", {}).get("in_graph", False) for t in targets] for s in sources],
    }  # fmt: skip


@pytest.mark.parametrize("form", [listed, ends, flags, arrays])
def test_other_forms_hold_the_same_circuit(form: Any) -> None:
    graph = graph_of(form(circuit()))
    assert edges_of(graph) == KEPT
    assert graph.info.total_edges == 5


@pytest.mark.parametrize(
    "edges",
    [
        {"Resid Start->A0.0.Q": 0.1, "Resid Start->A0.0.V": -0.3, "A0.0->A1.1.K": -0.2, "A1.1->Resid End": 0.6},
        [["input->a0.h0<q>", 0.1], ["input->a0.h0<v>", -0.3], ["a0.h0->a1.h1<k>", -0.2], ["a1.h1->logits", 0.6]],
        [
            ["input", "a0.h0<q>", 0.1],
            ["input", "a0.h0<v>", -0.3],
            ["a0.h0", "a1.h1<k>", -0.2],
            ["a1.h1", "logits", 0.6],
        ],
    ],
)
def test_bare_scores_and_other_names(edges: Any) -> None:
    assert edges_of(graph_of({"edges": edges})) == KEPT


@pytest.mark.parametrize("ending", ["svg", "tex", "html", "json", "graphml", "gexf", "dot", "csv", "neuronpedia.json"])
def test_circuits_of_files_are_drawn_and_written(ending: str, tmp_path: Path) -> None:
    graph = graph_of(circuit())
    path = graph.save(tmp_path / f"g.{ending}")
    if ending in ("json", "graphml"):
        assert same(import_graph(path), graph)
    assert "gpt2" in render_html(graph)
    assert "matter for prompts that are not in the file" in str(graph.explain())


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("edges", {}, None),
        ("edges", {"a0->b": 1.0}, "edges.a0->b names the node 'a0'"),
        ("edges", {"a0.h0": 1.0}, "edges.a0.h0 is called 'a0.h0'; expected source->target"),
        ("edges", {"a0.h0->logits": "strong"}, "edges.a0.h0->logits is 'strong'"),
        ("edges", {"a0.h0->logits": {"score": float("inf")}}, "score is inf; expected a finite number"),
        ("edges", {"a0.h0->logits": {"score": 1, "in_graph": "yes"}}, "in_graph is 'yes'; expected true or false"),
        ("edges", {"a1.h0->a0.h0<q>": 1.0, "a0.h0->a1.h0<q>": 1.0}, "runs from a1.h0 to a0.h0"),
        ("edges", {"m1->a0.h0<k>": {"score": 1, "in_graph": True}}, "edges.m1->a0.h0<k> runs from m1 to a0.h0"),
        ("edges", {"a9.h1->logits": 1.0}, "edges.a9.h1->logits names the node a9.h1, and cfg.n_layers is 3"),
        ("edges", {"a0.h2->logits": 1.0}, "names the node a0.h2, and cfg.n_heads is 2"),
        ("edges", {"a99999.h0->logits": 1.0}, "names the node"),
        ("cfg", {"n_layers": -1}, "cfg.n_layers is -1"),
        ("cfg", [], "cfg is a list"),
    ],
)
def test_wrong_circuits_are_refused(place: str, value: Any, message: str | None) -> None:
    data = circuit()
    data[place] = value
    if message is None:
        assert len(graph_of(data)) == 0
        return
    with pytest.raises(FileFormatError) as caught:
        graph_of(data)
    assert message in str(caught.value)


@pytest.mark.parametrize("name", ["edges_scores", "edges_in_graph"])
@pytest.mark.parametrize("value", [[], [[1.0]], [[0.0] * 6] * 5, "x"])
def test_tables_of_another_size_are_refused(name: str, value: Any) -> None:
    data = arrays(circuit())
    data[name] = value
    with pytest.raises(FileFormatError, match=name):
        graph_of(data)


def test_counts_are_bounded_before_anything_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(circuit_file, "MOST_EDGES", 3)
    for form in (lambda data: data, listed, arrays):
        with pytest.raises(FileFormatError, match="at most 3"):
            graph_of(form(circuit()))


@given(data=st.data())
def test_a_value_replaced_by_anything_is_read_or_refused(data: st.DataObject) -> None:
    plain = copy.deepcopy(data.draw(st.sampled_from([listed, ends, arrays]))(circuit()))
    rows = [name for name in ("edges", "edges_scores", "edges_in_graph") if name in plain]
    places = [*plain, *(f"{name}[{n}]" for name in rows for n in range(len(plain[name])))]
    change(plain, data.draw(st.sampled_from(places)), data.draw(JUNK))
    try:
        graph_of(plain)
    except FileFormatError:
        return


def test_an_edge_of_the_circuit_without_a_score_is_kept_without_a_number() -> None:
    data = circuit()
    data["edges"]["m0->logits"] = {"score": None, "in_graph": True}
    graph = graph_of(data)
    (e,) = [e for e in range(len(graph)) if graph.nodes[graph.source[e]] == M0]
    assert graph.structural.tolist() == [n == e for n in range(len(graph))]
    assert "1 without a number" in graph.caption()


def test_what_a_file_does_not_say_of_its_circuit_is_not_said() -> None:
    data = circuit()
    del data["cfg"]
    assert "These parts of an unnamed model were found to matter." in str(graph_of(data).explain())
    assert graph_of(data).caption().startswith("an unnamed model · ")
    assert "unknown" not in render_html(graph_of(data))
    for about in data["edges"].values():
        about["in_graph"] = False
    text = str(graph_of(data).explain())
    assert "found to matter" not in text
    assert "The file marks no circuit in an unnamed model" in text
