"""Features of dictionaries: what a file says of them survives reading, drawing and writing, and none is called a part of the model."""

from __future__ import annotations

import copy
import csv
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import networkx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as given_settings
from hypothesis import strategies as st

from flowgraph.errors import ArgumentError, FileFormatError
from flowgraph.files.imports import graph_of
from flowgraph.files.neuronpedia import to_neuronpedia
from flowgraph.render import drawing, facts, page_data, render_html
from flowgraph.render.scene.elements import elements
from flowgraph.values.flow_graph import EDGE_KINDS, FlowGraph
from flowgraph.values.node import NODE_KINDS, WITH_HEAD, WITH_INDEX, WITHOUT_LAYER, Node, label
from flowgraph.values.note import NodeNote
from tests.attribution_graphs import attribution_graph
from tests.graphs import Edge, dags, nodes, same
from tests.graphs import graph_of as built

PICTURES = ("svg", "tex", "pdf", "png")


@pytest.fixture(scope="module")
def graph() -> FlowGraph:
    """A graph of features, errors, embeddings and logits, out of a file."""
    return graph_of(attribution_graph())


def again(graph: FlowGraph) -> dict[str, Any]:
    """What the graph is in the format it came in."""
    data: dict[str, Any] = json.loads(to_neuronpedia(graph))
    return data


@pytest.mark.parametrize("seed", range(3))
def test_a_file_comes_back_as_it_was_read(seed: int) -> None:
    data = attribution_graph(seed)
    assert again(graph_of(copy.deepcopy(data))) == data


@pytest.mark.parametrize("ending", ["json", "graphml", "neuronpedia.json"])
def test_it_also_comes_back_over_files_of_this_project(ending: str, graph: FlowGraph, tmp_path: Path) -> None:
    from flowgraph.files import import_graph

    loaded = import_graph(graph.save(tmp_path / f"g.{ending}"))
    assert same(loaded, graph)
    assert loaded.notes == graph.notes
    assert again(loaded) == attribution_graph()


def test_no_feature_is_a_part_of_the_model(graph: FlowGraph) -> None:
    kinds = {node.kind for node in graph.nodes}
    assert kinds == {"embed", "feature", "attn_feature", "mlp_error", "attn_error", "logit"}
    rows = {row["node_id"]: row for row in attribution_graph()["nodes"]}
    for node, note in zip(graph.nodes, graph.notes, strict=True):
        if node.kind in ("feature", "attn_feature"):
            row = rows[note.id]
            assert node.index == int(row["node_id"].split("_")[1])
            assert node.index > 999_999
            assert label(node) == f"L{node.layer}.{node.kind}[{node.index}]@{node.position} {row['clerp']}".rstrip()
            assert (note.activation, note.influence) == (row["activation"], row["influence"])


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("Cross-Layer Transcoder", "feature"), ("per_layer_transcoder", "feature"), ("lorsa", "attn_feature"),
        ("attention reconstruction error", "attn_error"), ("unexplored node", "feature"),
    ],
)  # fmt: skip
def test_types_of_features_are_known_however_they_are_spelled(name: str, kind: str) -> None:
    data = attribution_graph(attention=False)
    row = next(row for row in data["nodes"] if row["feature_type"] == "cross layer transcoder")
    row["feature_type"] = name
    read = graph_of(data)
    assert (
        next(node.kind for node, note in zip(read.nodes, read.notes, strict=True) if note.id == row["node_id"]) == kind
    )


def test_a_number_out_of_two_is_kept() -> None:
    data = attribution_graph()
    row = next(row for row in data["nodes"] if row["feature_type"] == "lorsa")
    old, new, big = row["node_id"], "somewhere", 2**52 + 1
    row |= {"node_id": new, "feature": big}
    for link in data["links"]:
        link |= {end: new for end in ("source", "target") if link[end] == old}
    assert big in {node.index for node in graph_of(data).nodes if node.kind == "attn_feature"}


@pytest.mark.parametrize(
    ("clerp", "token"), [(' "a"" (p=0.1)', None), ("Jumps (p=0.61)", "Jumps"), ("", "0"), (None, "0")]
)
def test_tokens_of_logits(clerp: str | None, token: str | None) -> None:
    data = attribution_graph()
    row = next(row for row in data["nodes"] if row["feature_type"] == "logit")
    row["clerp"] = clerp
    found = next(node.token for node in graph_of(data).nodes if node.kind == "logit")
    assert found == token if token is not None else found


def test_the_target_is_the_marked_logit_or_the_most_probable() -> None:
    data = attribution_graph()
    logits = [row for row in data["nodes"] if row["feature_type"] == "logit"]
    for row in logits:
        del row["is_target_logit"]
    logits[0]["token_prob"], logits[1]["token_prob"] = 0.1, 0.7
    info = graph_of(data).info
    assert (info.target, info.target_token, info.target_probability) == (1, " T1", 0.7)
    logits[1]["token_prob"] = 0.1
    assert graph_of(data).info.target is None
    assert len(page_data(graph_of(data))["edges"]) == len(data["links"])
    logits[2]["is_target_logit"] = True
    assert graph_of(data).info.target_token == " T2"


def test_a_part_of_a_graph_keeps_its_pins_and_groups(graph: FlowGraph) -> None:
    keep = np.array([graph.notes[n].id in attribution_graph()["qParams"]["pinnedIds"][:1] for n in graph.source])
    assert keep.any()
    part = graph.keep(keep, top=1)
    data = again(part)
    there = {row["node_id"] for row in data["nodes"]}
    assert there == {note.id for note in part.notes}
    assert set(data["qParams"]["pinnedIds"]) == set(attribution_graph()["qParams"]["pinnedIds"]) & there != set()
    assert all(set(ids) <= there for _, *ids in data["qParams"]["supernodes"])
    assert graph_of(data).info.filters == {"top": 1}


def test_labels_and_numbers_are_seen_everywhere(graph: FlowGraph, tmp_path: Path) -> None:
    n = next(n for n, node in enumerate(graph.nodes) if node.token == "say a city")
    note = graph.notes[n]
    for ending in ("html", "graphml", "gexf", "gml", "dot", "json", "neuronpedia.json"):
        text = graph.save(tmp_path / f"g.{ending}").read_text(encoding="utf-8")
        assert "say a city" in text, ending
        assert str(note.activation) in text or ending == "html", ending
    with graph.save(tmp_path / "g.csv").open(encoding="utf-8", newline="") as file:
        row = list(csv.DictReader(file))[n]
    assert row["label"] == str(graph.nodes[n])
    assert float(row["influence"]) == note.influence
    assert graph.to_networkx().nodes[graph.nodes[n]]["clerp"] == "say a city"
    assert graph.to_dataframe(nodes=True)["activation"][n] == note.activation
    data = facts(drawing(graph))
    shown = dict(data["notes"][n])
    assert shown["called"] == "say a city"
    assert shown["activation"] == f"{note.activation:.4g}"


def test_other_programs_read_the_files(graph: FlowGraph, tmp_path: Path) -> None:
    for ending, read in (("graphml", networkx.read_graphml), ("gexf", networkx.read_gexf), ("gml", networkx.read_gml)):
        assert len(read(graph.save(tmp_path / f"g.{ending}"))) == len(graph.nodes)


def test_the_page_pins_what_the_file_pins(graph: FlowGraph) -> None:
    data = page_data(graph)
    ids = {f"n{n}": note.id for n, note in enumerate(graph.notes)}
    assert {ids[name] for name in data["pinned"]} == set(attribution_graph()["qParams"]["pinnedIds"])
    groups = [row for rows in data["notes"] for row in rows if row[0] == "group"]
    assert [name for _, name in groups] == ["rivers", "rivers", "city"]


def test_text_of_files_is_no_markup(tmp_path: Path) -> None:
    data, hostile = attribution_graph(), "</script><img src=x onerror=alert(1)>\x00\u202e]]>"
    row = next(row for row in data["nodes"] if row["feature_type"] == "cross layer transcoder")
    row["clerp"] = hostile
    data["qParams"]["supernodes"][0][0] = hostile
    data["metadata"]["scan"] = hostile
    read = graph_of(data)
    page = render_html(read)
    assert "<img src=x" not in page
    for ending in ("graphml", "gexf", "gml"):
        path = read.save(tmp_path / f"g.{ending}")
        {"graphml": networkx.read_graphml, "gexf": networkx.read_gexf, "gml": networkx.read_gml}[ending](path)
    for ending in PICTURES:
        read.save(tmp_path / f"g.{ending}")
    assert again(read) == data


def test_notes_are_checked() -> None:
    deep: Any = 1
    for _ in range(40):
        deep = [deep]
    for place, value, message in (
        ("later", deep, "nested more than 32 times"), ("later", math.inf, "expected a finite number"),
        ("token_prob", "much", "expected a number"), ("activation", True, "expected a number"),
    ):  # fmt: skip
        data = attribution_graph()
        data["nodes"][7][place] = value
        with pytest.raises(FileFormatError, match=message):
            graph_of(data)


@pytest.mark.parametrize("name", ["metadata", "qParams", "more", "links", "count"])
def test_what_a_file_of_this_project_says_of_the_outside_is_checked(
    name: str, graph: FlowGraph, tmp_path: Path
) -> None:
    path = graph.save(tmp_path / "g.json")
    data = json.loads(path.read_text())
    data["graph"]["outside"][name] = [{"source": 3}] if name == "links" else [1]
    path.write_text(json.dumps(data))
    with pytest.raises(FileFormatError, match=f"outside.{name}"):
        FlowGraph.load(path)


# Every kind of node in every picture


def every_kind() -> FlowGraph:
    """A graph in which each kind of node writes into one state."""
    goal = Node("logit", index=7, token=" x")
    parts = [
        Node(
            kind,
            layer=None if kind in WITHOUT_LAYER else 1,
            head=0 if kind in WITH_HEAD else None,
            position=2,
            index=3 if kind in WITH_INDEX else None,
            token="name" if kind in ("feature", "attn_feature") else None,
        )
        for kind in NODE_KINDS
    ]
    edges = [Edge(node, goal, 0.1, "rest") for node in parts]
    return built(edges, position=2, unit="weight")


@pytest.mark.parametrize("theme", ["light", "print"])
@pytest.mark.parametrize("ending", PICTURES)
def test_every_kind_can_be_drawn(ending: str, theme: str, tmp_path: Path) -> None:
    path = every_kind().save(tmp_path / f"g.{ending}", theme=theme)
    assert path.stat().st_size > 500


def test_every_square_has_a_size_and_a_name_in_the_legend() -> None:
    graph = every_kind()
    found = elements(drawing(graph))["nodes"]
    squares = [node for node in found if "square" in node["classes"].split()]
    assert len(squares) > 20
    assert all(node["data"]["z"] > 0 and node["data"]["zd"] > 0 for node in squares)
    page = render_html(graph)
    for name in (
        "feature of a transcoder",
        "feature of attention",
        "what the features leave out",
        "other part of the model",
    ):
        assert name in page


@pytest.mark.parametrize("method", ["semantic", "visit"])
def test_every_kind_has_a_place_in_columns_of_text(method: str, tmp_path: Path) -> None:
    graph = every_kind()
    graph = replace(graph, info=replace(graph.info, method=method))
    for ending in ("html", "svg", "tex"):
        # All kinds at once take more columns than a page of text is wide.
        wide = {} if ending == "html" else {"width": 560}
        assert "name" in graph.save(tmp_path / f"g.{ending}", **wide).read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", NODE_KINDS)
def test_each_kind_alone_can_be_drawn_and_written(kind: str, tmp_path: Path) -> None:
    node = Node(
        kind,  # type: ignore[arg-type]
        layer=None if kind in WITHOUT_LAYER else 0,
        head=0 if kind in WITH_HEAD else None,
        index=1 if kind in WITH_INDEX else None,
    )
    graph = built([Edge(node, Node("resid_post", layer=2, position=1), 0.5)], position=1)
    for ending in ("svg", "tex", "html", "json", "graphml", "gexf", "gml", "dot", "csv", "neuronpedia.json"):
        graph.save(tmp_path / f"g.{ending}")


@given_settings(max_examples=25)
@given(st.data())
def test_random_graphs_of_all_kinds_can_be_drawn(data: st.DataObject) -> None:
    from flowgraph.render.print import picture
    from flowgraph.render.print.svg import to_svg

    shape = data.draw(dags())
    kinds = data.draw(st.lists(nodes(), min_size=len(shape.nodes), max_size=len(shape.nodes), unique=True))
    tokens = tuple(f"w{n}" for n in range(13))
    info = {"tokens": tokens, "layers": (0, 13), "total_layers": 13, "position": 12, "method": "imported"}
    pairs = zip(shape.source, shape.target, shape.share, shape.structural, strict=True)
    edges = [Edge(kinds[s], kinds[t], None if no else float(share)) for s, t, share, no in pairs]
    graph = built(edges, nodes=kinds, **info)  # as from another program, where the end may be any node
    render_html(graph)
    to_svg(picture(graph))


def test_a_large_file_is_read_and_drawn(tmp_path: Path) -> None:
    graph = graph_of(attribution_graph(1, tokens=12, layers=26, features=5_000, links=12_000))
    assert len(graph.nodes) > 5_000
    assert len(page_data(graph)["edges"]) == 3_000
    graph.save(tmp_path / "g.svg")


def test_notes_say_what_they_hold() -> None:
    note = NodeNote({"clerp": "", "activation": None, "influence": 1, "token_prob": True})
    assert (note.label, note.activation, note.influence, note.probability, note.id) == (None, None, 1.0, None, None)
    assert note.shown() == {"clerp": "", "influence": 1.0}


def test_of_several_ends_of_a_foreign_graph_the_one_fed_most_is_explained() -> None:
    ends = [Node("neuron", layer=1, index=n) for n in range(3)]
    edges = [
        Edge(Node("neuron", layer=0, index=9), end, share) for end, share in zip(ends, (0.2, -0.9, 0.5), strict=True)
    ]
    assert drawing(built(edges, method="imported")).start == 2
    with pytest.raises(ArgumentError, match="neither a logit node nor a residual state"):
        drawing(built(edges))


def test_logits_of_one_position_stand_beside_one_another(graph: FlowGraph) -> None:
    drawn = drawing(graph)
    logits = [n for n, node in enumerate(graph.nodes) if node.kind == "logit"]
    assert len({drawn.places[n] for n in logits}) == len(logits) == 3
    assert next(graph.nodes[n].index for n in logits if drawn.places[n].slot == 0) == graph.info.target


def test_edges_of_features_are_not_called_neurons(graph: FlowGraph) -> None:
    kinds = {graph.nodes[s].kind: EDGE_KINDS[k] for s, k in zip(graph.source, graph.kind, strict=True)}
    assert kinds == {
        "embed": "embed",
        "feature": "feature",
        "attn_feature": "feature",
        "mlp_error": "error",
        "attn_error": "error",
    }
