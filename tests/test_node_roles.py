"""Roles of heads on the nodes of graphs: set, kept, saved, refused, and said wherever a node is described."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass, replace
from pathlib import Path

import networkx
import numpy as np
import pytest

import flowgraph as fg
from flowgraph.errors import ArgumentError, FileFormatError
from flowgraph.files.csv_file import to_csv
from flowgraph.files.dot import to_dot
from flowgraph.render import page_data, roles_text
from flowgraph.render.plots.sankey import sankey
from flowgraph.values.flow_graph import FlowGraph, Role
from flowgraph.values.node import Node
from tests.circuit_graphs import circuit_graph, induction_data
from tests.graphs import Edge, graph_of, same
from tests.induction_circuits import llama_circuit

EMBED, LOGITS = Node("embed"), Node("logits")
PREVIOUS, INDUCTION = Node("head", layer=0, head=1), Node("head", layer=1, head=2)
IDLE, GROUP, MLP = Node("head", layer=1, head=0), Node("kv_group", layer=1, head=2), Node("mlp", layer=1)
HOSTILE: tuple[Role, ...] = (
    ("<img src=x onerror=alert(1)>", 0.5),
    ("=1+1", -2.0),
    ("a\n\x00\u202e\ud83d;", 1e-300),
    ("</script>", 1.0),
)


@dataclass(frozen=True)
class Known:
    """Roles that a test knows, and who was asked about."""

    table: dict[tuple[int, int], dict[str, float]]
    asked: list[Node]
    model: str = "constructed"

    def of(self, node: Node) -> dict[str, float]:
        self.asked.append(node)
        return self.table.get((node.layer or 0, node.head or 0), {})


def known() -> Known:
    return Known({(0, 1): {"previous_token": 0.97}, (1, 2): {"induction": 0.75, "negative_copying": -3.25}}, [])


def circuit() -> FlowGraph:
    edges = [
        fg.Edge(EMBED, PREVIOUS, "k"),
        fg.Edge(PREVIOUS, GROUP, "v"),
        fg.Edge(PREVIOUS, INDUCTION, "q"),
        fg.Edge(INDUCTION, LOGITS, "logits"),
        fg.Edge(IDLE, LOGITS, "logits"),
        fg.Edge(MLP, LOGITS, "logits"),
    ]
    return circuit_graph(edges)


def prompt() -> FlowGraph:
    """The same head at two positions."""
    state = Node("resid_post", layer=0, position=2)
    heads = [replace(PREVIOUS, position=p) for p in (1, 2)]
    edges = [Edge(head, state, 0.5, kind="head", layer=0, head=1, query_pos=2, key_pos=1) for head in heads]
    return graph_of(edges, model="constructed")


def hostile(graph: FlowGraph) -> FlowGraph:
    return replace(graph, roles=tuple(HOSTILE if node.kind == "head" else () for node in graph.nodes))


# Set and kept


def test_heads_get_their_roles_with_or_without_a_position():
    for graph in (circuit(), prompt()):
        roles = known()
        named = graph.with_roles(roles)
        for node, found in zip(named.nodes, named.roles, strict=True):
            place = (node.layer, node.head) if node.kind == "head" else None
            assert dict(found) == roles.table.get(place, {})
        assert len(roles.asked) == len({(node.layer, node.head) for node in roles.asked})
        assert graph.roles == ()
    assert dict(zip(circuit().nodes, circuit().with_roles(known()).roles, strict=True))[GROUP] == ()


def test_roles_follow_their_nodes():
    graph = circuit().with_roles(known())
    kept = graph.keep(np.array([3, 4]))
    assert dict(zip(kept.nodes, kept.roles, strict=True)) == {
        INDUCTION: (("induction", 0.75), ("negative_copying", -3.25)), IDLE: (), LOGITS: (),
    }  # fmt: skip
    strongest = fg.keep_strongest(graph, mass=None, max_edges=2)
    assert [dict(roles) for roles in strongest.roles] == [
        known().table.get((n.layer, n.head), {}) if n.kind == "head" else {} for n in strongest.nodes
    ]
    assert graph.with_readings([None] * len(graph.nodes)).roles == graph.roles


def test_measured_roles_come_with_the_numbers_behind_them():
    made = llama_circuit()
    loaded = fg.load_model(made.model)
    data = fg.TaskData("induction", "What followed the last word before?", tuple(induction_data(14)))
    found = fg.head_roles(loaded, data)
    graph = fg.discover(loaded, data=data, threshold=0.01).with_roles(found)
    assert any(node.kind == "kv_group" for node in graph.nodes)
    roles = dict(zip(graph.nodes, graph.roles, strict=True))
    behind = {"name_mover": "answer", "negative_mover": "answer", "negative_copying": "copying"}
    seen = set()
    for node, pairs in roles.items():
        for role, score in pairs:
            seen.add(role)
            assert score == found[behind.get(role, role)][node.layer, node.head]
            assert abs(score) > found.thresholds[behind.get(role, role)]
            assert replace(node, position=None) in found.roles[role]
    assert {"induction", "previous_token", "name_mover"} <= seen
    assert not any(pairs for node, pairs in roles.items() if node.kind != "head")
    with pytest.raises(ArgumentError, match=r"L7H0 is no head of .*, which has \d+ layers of \d+ heads"):
        found.of(Node("head", layer=7, head=0))
    prompted = fg.build_graph(
        fg.trace(loaded, [1, 2, 3, 4, 1, 2, 3]), method="logits", level="head", readings=False
    ).with_roles(found)
    for node, pairs in zip(prompted.nodes, prompted.roles, strict=True):
        assert dict(pairs) == (found.of(node) if node.kind == "head" else {})
    assert any(prompted.roles)


def test_roles_of_another_model_are_refused():
    with pytest.raises(ArgumentError, match="roles are of heads of 'gpt2', and the graph is of 'constructed'"):
        circuit().with_roles(replace(known(), model="gpt2"))


@pytest.mark.parametrize(
    ("roles", "message"),
    [
        (((),), "roles has 1 rows for 3 nodes"),
        (((), (("induction", 0.9),), ()), "roles of L0.resid_post@2, which is no head"),
        (((("a", 1.0), ("a", 2.0)), (), ()), "a role of L0H1@1 twice"),
        (((("a", float("nan")),), (), ()), "scores of L0H1@1 that are not finite"),
    ],
)
def test_rows_that_do_not_fit_are_refused(roles, message):
    with pytest.raises(ArgumentError, match=message):
        replace(prompt(), roles=roles)


# Files


@pytest.mark.parametrize("ending", ["json", "graphml"])
@pytest.mark.parametrize("name", ["known", "hostile", "none asked", "no head has one"])
def test_roles_are_saved_and_loaded(tmp_path: Path, ending: str, name: str) -> None:
    made = {
        "known": lambda graph: graph.with_roles(known()),
        "hostile": hostile,
        "none asked": lambda graph: graph,
        "no head has one": lambda graph: graph.with_roles(Known({}, [])),
    }[name]
    for number, graph in enumerate(map(made, (circuit(), prompt()))):
        path = graph.save(tmp_path / f"{number}.{ending}")
        assert same(FlowGraph.load(path), graph)
        assert same(fg.import_graph(path), graph)


@pytest.mark.parametrize(
    ("roles", "message"),
    [
        (["induction"], r"nodes\[1\].roles is a list of 1; expected an object"),
        ("induction", r"nodes\[1\].roles is 'induction'; expected an object"),
        ({"induction": "high"}, r"nodes\[1\].roles.induction is 'high'; expected a number"),
        ({"induction": True}, r"nodes\[1\].roles.induction is True; expected a number"),
        ({"induction": None}, r"nodes\[1\].roles.induction is null; expected a number"),
        ({"induction": 10**400}, r"nodes\[1\].roles.induction is an integer of more than 64 bits; expected a finite"),
        (None, r"nodes\[1\].roles is null; expected an object"),
    ],
)
def test_crafted_roles_are_refused(tmp_path: Path, roles: object, message: str) -> None:
    path = circuit().with_roles(known()).save(tmp_path / "graph.json")
    data = json.loads(path.read_text())
    data["nodes"][1]["roles"] = roles
    path.write_text(json.dumps(data))
    for load in (FlowGraph.load, fg.import_graph):
        with pytest.raises(FileFormatError, match=message):
            load(path)


def test_roles_of_what_is_no_head_are_refused_in_own_files_and_left_out_of_others(tmp_path: Path) -> None:
    path = circuit().save(tmp_path / "graph.json")
    data = json.loads(path.read_text())
    data["nodes"][0]["roles"] = {"induction": 1.0}
    path.write_text(json.dumps(data))
    with pytest.raises(FileFormatError, match="roles of embed, which is no head"):
        FlowGraph.load(path)
    del data["graph"]["format"]
    path.write_text(json.dumps(data))
    assert fg.import_graph(path).roles == ()
    data["nodes"][1]["roles"] = {"induction": 1.0}
    path.write_text(json.dumps(data))
    assert fg.import_graph(path).roles[1] == (("induction", 1.0),)


def test_other_formats_say_roles_as_text():
    graph = circuit().with_roles(known())
    n = graph.nodes.index(INDUCTION)
    text = '{"induction": 0.75, "negative_copying": -3.25}'
    assert networkx.parse_gml(fg.export.gml.to_gml(graph), label="id").nodes[n]["roles"] == text
    gexf = networkx.read_gexf(io.BytesIO(fg.export.gexf.to_gexf(graph).encode()))
    assert gexf.nodes[f"n{n}"]["roles"] == text
    assert "roles" not in gexf.nodes[f"n{graph.nodes.index(GROUP)}"]
    rows = list(csv.DictReader(io.StringIO(to_csv(graph)[0])))
    assert rows[n]["roles"] == text
    assert (rows[graph.nodes.index(GROUP)]["roles"], rows[graph.nodes.index(IDLE)]["roles"]) == ("", "{}")
    escaped = text.replace('"', '\\"')
    assert f'flow_roles="{escaped}"' in to_dot(graph)
    assert graph.to_networkx().nodes[INDUCTION]["roles"] == json.loads(text)
    frame = graph.to_dataframe(nodes=True)
    assert frame["roles"].tolist()[n] == json.loads(text)
    assert "roles" not in circuit().to_dataframe(nodes=True)


# Words


def test_roles_in_words():
    assert roles_text(()) == "none"
    assert (
        roles_text([("previous_token", 0.9731), ("negative_copying", -3.25)])
        == "previous token 0.973, negative copying −3.25"
    )
    assert roles_text([("a\n", 1e-5)]) == "a⏎ 1e−05"


def test_sentences_name_the_strongest_heads_with_roles():
    said = str(circuit().with_roles(known()).explain())
    assert "Head L0H1 has the role previous token 0.97." in said
    assert "Head L1H2 has the roles induction 0.75, negative copying −3.25." in said
    assert "L1H0 has" not in said
    graph = prompt().with_roles(known())
    sentences = [one for one in graph.explain().sentences if "role" in one.text]
    assert [one.text for one in sentences] == ["Head L0H1 has the role previous token 0.97."]
    assert graph.nodes[sentences[0].nodes[0]].kind == "head"
    assert "No head here has a role." in str(circuit().with_roles(Known({}, [])).explain())
    assert "role" not in str(circuit().explain())


def test_the_page_holds_roles_of_heads_only():
    graph = circuit().with_roles(known())
    said = dict(zip(graph.nodes, page_data(graph)["roles"], strict=True))
    assert said == {
        EMBED: None, PREVIOUS: "previous token 0.97", GROUP: None, LOGITS: None, MLP: None, IDLE: "none",
        INDUCTION: "induction 0.75, negative copying −3.25",
    }  # fmt: skip
    assert page_data(circuit())["roles"] == []


def test_hostile_roles_are_escaped_in_every_page():
    for graph in map(hostile, (circuit(), prompt())):
        page = fg.views.render_html(graph)
        assert "<img src=x" not in page
        assert "\x00" not in page
        assert graph.explain()


def test_a_sankey_says_roles(traces):
    trace = traces("gpt2")
    graph = fg.semantic_graph(trace, layers=1, positions=-1)
    graph = replace(graph, roles=tuple(HOSTILE if node.kind == "head" else () for node in graph.nodes))
    texts = sankey(graph).data[0].node.customdata
    for node, text in zip(graph.nodes, texts, strict=True):
        assert ("roles: &lt;img src=x onerror=alert(1)&gt; 0.5" in text) == (node.kind == "head")
        assert "<img" not in text
