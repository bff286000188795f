"""GraphML, for Gephi, yEd, Cytoscape and networkx, which also reads back.

GraphML holds flat attributes of one simple type each, in XML. So

- nodes are called ``n0``, ``n1`` … and edges ``e0``, ``e1`` …, in the graph's order; a node's label is its attribute
  ``label``;
- None and empty texts are left out, so a structural edge has no ``weight`` and no ``share``;
- lists and tables (``top_tokens``, ``roles``, ``tokens``, ``filters`` …) are JSON texts;
- a character that XML cannot hold, or that its readers change, is written visibly by its number: ``⟨000B⟩`` for a
  vertical tab. Line feeds and tabs stay.

A changed text does not give back the original with certainty. The attribute ``exact`` of the graph therefore repeats every
changed text, as JSON in plain ASCII. It also holds two facts that nodes and edges have no attribute for: the ``undefined``
nodes, and tokens that belong to a node's label. With it a graph reads back exactly, if no program changed the file.
"""

from __future__ import annotations

import io
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import networkx

from ..atomic_file import as_path
from ..charts import rendering
from ..errors import ArgumentError, FileFormatError
from ..values.flow_graph import UNITS, FlowGraph
from ..values.graph_info import GraphInfo, info_dict
from .attributes import Simple, about, flat, json_text, plain, spelled
from .checked import Checked, parsed_json
from .graphml_reader import read_graphml
from .json_file import FORMAT, VERSION, file_bytes, graph_of_data

# Carriage returns are legal, and turned into line feeds by every XML reader.
_ILLEGAL = re.compile("[\x00-\x08\x0b-\x1f\ud800-\udfff\ufffe\uffff]")


def to_graphml(graph: FlowGraph) -> str:
    """Write a graph as the text of a GraphML file.

    Node, edge and graph attributes are those of :meth:`FlowGraph.to_networkx`; the module says how they are written.

    Raises
    ------
    NonFiniteError
        If a reading or a number of ``graph.info`` is NaN or infinite.
    """
    file = io.BytesIO()
    networkx.write_graphml(plain_graph(graph), file)
    return file.getvalue().decode("utf-8")


@rendering.to_networkx.register(FlowGraph)
def plain_graph(graph: FlowGraph) -> networkx.MultiDiGraph:
    """The graph as networkx has it, in texts and numbers only; the module says how they are written.

    Raises
    ------
    NonFiniteError
        If a reading or a number of ``graph.info`` is NaN or infinite.
    """
    # `exact` holds what the flat texts lose; it is plain ASCII, so every XML reader gives it back unchanged.
    own = {"format": FORMAT, "version": VERSION, **about(graph), "exact": json.dumps(_exact(graph), default=plain)}
    bare = networkx.MultiDiGraph(**_attributes(own, "graph"))
    for n in range(len(graph.nodes)):
        bare.add_node(f"n{n}", **_attributes(graph.node_dict(n), f"nodes[{n}]"))
    for e in range(len(graph)):
        ends = f"n{graph.source[e]}", f"n{graph.target[e]}"
        bare.add_edge(*ends, key=f"e{e}", **_attributes(graph.edge_dict(e), f"edges[{e}]"))
    return bare


def load_graphml(path: str | Path) -> FlowGraph:
    """Read a graph that :func:`to_graphml` wrote; it comes back exactly.

    Raises
    ------
    ArgumentError
        If there is no such file, or it may not be read.
    FileFormatError
        If it is not GraphML of this project and of a version this release can read, or any value in it is missing or
        impossible; the message names the place.
    """
    path = as_path(path)
    if not path.is_file():
        raise ArgumentError(f"path={str(path)!r} is {'a folder' if path.is_dir() else 'not there'}; name a file")
    try:
        data = read_graphml(file_bytes(path))
        if not is_own(data):
            raise FileFormatError(
                "it was not written by this project, or changed by another program; import_graph reads such files"
            )
        return graph_of_data(Checked(own_data(data)))
    except FileFormatError as error:
        raise FileFormatError(f"{path} cannot be read as a flow graph: {error}") from error


def is_own(data: dict[str, Any]) -> bool:
    """Whether parsed GraphML is a whole graph of this project: none of its nodes and edges taken away or added."""
    about = data["graph"]
    return (
        about.get("format") == FORMAT
        and type(about.get("exact")) is str
        and {node["id"] for node in data["nodes"]} == {f"n{n}" for n in range(len(data["nodes"]))}
        and {edge["key"] for edge in data["edges"]} == {f"e{e}" for e in range(len(data["edges"]))}
    )


def own_data(data: dict[str, Any]) -> dict[str, Any]:
    """The project's own JSON of a graph in its own GraphML.

    Raises
    ------
    FileFormatError
        If ``exact`` is damaged, or an edge joins what is no node.
    """
    exact = Checked(parsed_json(data["graph"]["exact"].encode("utf-8")), "graph.exact")
    # Fields that the file left out are None; those of `exact` come last, since they are the original texts.
    about = {**dict.fromkeys(GraphInfo.__dataclass_fields__), **data["graph"], **_values(exact.field("graph"))}
    about["undefined"] = exact.field("undefined").value
    nodes: list[dict[str, Any]] = [{}] * len(data["nodes"])
    texts, tokens = exact.field("nodes"), exact.field("label_tokens")
    for row in data["nodes"]:
        n = int(row["id"][1:])
        changed, token = texts.optional(str(n)), tokens.optional(str(n))
        nodes[n] = {**_NODE, **row, **({} if changed is None else _values(changed)), "id": n}
        nodes[n].pop("label_token", None)
        if token is not None:
            nodes[n]["label_token"] = token.value
    edges: list[dict[str, Any]] = [{}] * len(data["edges"])
    for row in data["edges"]:
        edges[int(row["key"][1:])] = row
    return {
        "directed": True,
        "multigraph": True,
        "graph": about,
        "nodes": nodes,
        "edges": _own_edges(edges, nodes, about["unit"]),
    }


_NODE = dict.fromkeys(("layer", "head", "position", "index"))
_EDGE = dict.fromkeys(("layer", "head", "query_pos", "key_pos", "weight", "share"))


def _own_edges(rows: list[dict[str, Any]], nodes: list[dict[str, Any]], unit: Any) -> list[dict[str, Any]]:
    number = {f"n{n}": n for n in range(len(nodes))}
    keys: Counter[tuple[int, int]] = Counter()
    edges = []
    for e, row in enumerate(rows):
        ends = {}
        for name in ("source", "target"):
            if row[name] not in number:
                Checked(row[name], f"edges[{e}].{name}").refuse("the id of a node")
            ends[name] = number[row[name]]
        pair = ends["source"], ends["target"]
        # A unit that this project does not know is the graph's own.
        known = row["unit"] if row.get("unit") in UNITS else unit
        edges.append({**_EDGE, **row, **ends, "key": keys[pair], "unit": known})
        keys[pair] += 1
    return edges


def _values(data: Checked) -> dict[str, Any]:
    return {name: entry.value for name, entry in data.entries()}


def _exact(graph: FlowGraph) -> dict[str, Any]:
    number = {node: n for n, node in enumerate(graph.nodes)}
    changed = ((n, _changed(_said(graph, n), f"nodes[{n}]")) for n in range(len(graph.nodes)))
    return {
        "undefined": [number[node] for node in graph.undefined],
        "label_tokens": {n: node.token for n, node in enumerate(graph.nodes) if node.token is not None},
        "graph": _changed(info_dict(graph.info), "graph"),
        "nodes": {n: texts for n, texts in changed if texts},
    }


def _said(graph: FlowGraph, n: int) -> dict[str, Any]:
    """Entries of a node beside its identity: its reading, its roles and its note."""
    reading = graph.readings[n] if graph.readings else None
    note = graph.notes[n] if graph.notes else None
    said = {} if reading is None else reading.to_dict()
    said |= {"roles": dict(graph.roles[n])} if graph.roles else {}
    return said if note is None else said | {"note": dict(note.fields)}


def _changed(data: dict[str, Any], place: str) -> dict[str, Any]:
    """The attributes whose text in the file differs from the original."""
    return {
        name: value
        for name, value in data.items()
        if value == ""
        or (isinstance(value, str) and _ILLEGAL.search(value))
        or (isinstance(value, list | dict) and _ILLEGAL.search(json_text(value, f"{place}.{name}")))
    }


def _attributes(data: dict[str, Any], place: str) -> dict[str, Simple]:
    return {
        name: spelled(value, _ILLEGAL) if isinstance(value, str) else value for name, value in flat(data, place).items()
    }
