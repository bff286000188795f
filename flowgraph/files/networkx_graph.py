"""Graphs of networkx, with keys and values that every writer of networkx takes, and back.

A *plain* graph names its nodes ``n0``, ``n1`` … and its edges ``e0``, ``e1`` …, and holds texts and numbers only, as
:mod:`~flowgraph.files.attributes` says. Its attribute ``exact`` repeats every text that this changes
(:mod:`~flowgraph.files.graphml`). So ``networkx.write_graphml``, ``write_gexf``, ``write_gml``, ``write_pajek``, ``node_link_data``,
``cytoscape_data``, ``adjacency_data`` and pydot write it. It reads back exactly, itself and from the formats that keep the
attributes of a graph: GraphML, node-link, Cytoscape and adjacency data.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import networkx
import numpy as np

from ..errors import ArgumentError, FileFormatError
from ..values.flow_graph import FlowGraph
from ..values.graph_info import GraphInfo
from ..values.node import Node
from .checked import Checked, parsed_json
from .graphml import is_own, own_data
from .graphml_reader import AS_JSON
from .json_file import FORMAT, MOST_EDGES, MOST_NODES, VERSION, graph_of_data


def graph_from_networkx(given: Any, read: Callable[[dict[str, Any]], FlowGraph]) -> FlowGraph:
    """Turn a networkx graph into a flow graph.

    Parameters
    ----------
    given
        A ``MultiDiGraph`` or ``DiGraph``.
    read
        A function from node-link data of another program to a graph.

    Raises
    ------
    ArgumentError
        If it is no directed graph, or what it holds is no flow graph; the message names the place.
    """
    if not isinstance(given, networkx.Graph):
        raise ArgumentError(f"graph is a {type(given).__name__}; expected a networkx.MultiDiGraph or networkx.DiGraph")
    if not given.is_directed():
        raise ArgumentError(
            "graph is undirected, and an edge of a flow graph runs from its source to its target; pass a networkx.DiGraph"
        )
    try:
        # Keys that are nodes come from `to_networkx`, in this process: no text has to be read back.
        if given and all(isinstance(key, Node) for key in given):
            return _of_nodes(given, read)
        data = _link_data(given)
        return graph_of_plain(data) if is_plain(data) else read(unfolded(data))
    except FileFormatError as error:
        raise ArgumentError(f"graph cannot be read as a flow graph: {error}") from error


def _link_data(given: Any) -> dict[str, Any]:
    """Node-link data of a graph. The key of an edge is its key, or its ``id``, as readers of GraphML keep it."""
    nodes = [{**attributes, "id": key} for key, attributes in given.nodes(data=True)]
    if given.is_multigraph():
        edges = [
            {**about, "source": source, "target": target, "key": key}
            for source, target, key, about in given.edges(keys=True, data=True)
        ]
    else:
        # Readers of GraphML without multigraphs keep the key of an edge as its `id`.
        edges = [
            {**about, "source": source, "target": target, **({"key": about["id"]} if "id" in about else {})}
            for source, target, about in given.edges(data=True)
        ]
    rows = {name: [_of_python(row) for row in found] for name, found in (("nodes", nodes), ("edges", edges))}
    return {"directed": True, "multigraph": True, "graph": _of_python(given.graph), **rows}


def _of_python(row: dict[str, Any]) -> dict[str, Any]:
    """Attributes with NumPy's numbers and texts as Python's own, since files hold only those."""
    return {name: value.item() if isinstance(value, np.generic) else value for name, value in row.items()}


def _of_nodes(given: Any, read: Callable[[dict[str, Any]], FlowGraph]) -> FlowGraph:
    """A graph whose keys are nodes: whole, as ``to_networkx`` makes it, or built by a user."""
    number = {node: n for n, node in enumerate(given)}
    data = _link_data(given)
    for n, (node, row) in enumerate(zip(given, data["nodes"], strict=True)):
        row |= {name: getattr(node, name) for name in ("kind", "layer", "head", "position", "index")} | {"id": n}
        if node.token is not None:
            row["label_token"] = node.token
        if node.stack is not None:
            row["stack"] = node.stack
    seen: dict[tuple[int, int], int] = {}
    for row in data["edges"]:
        ends = number[row["source"]], number[row["target"]]
        seen[ends] = seen.get(ends, -1) + 1
        row |= {"source": ends[0], "target": ends[1], "key": seen[ends]}
    needed = GraphInfo.__dataclass_fields__.keys() - {"options", "outside", "stacks"}
    about = data["graph"]
    # Somebody's own graph of nodes lacks the fields of this project; the reader fills them in.
    if not needed <= about.keys():
        return read(data)
    undefined = [n for n, row in enumerate(data["nodes"]) if row.pop("undefined", False)]
    numbers = [row.pop("number", None) for row in data["edges"]]
    if all(type(place) is int for place in numbers):
        # networkx lists edges by their source; `number` is their place in the graph.
        data["edges"] = [data["edges"][e] for e in sorted(range(len(numbers)), key=lambda e: numbers[e])]
    data["graph"] = {"format": FORMAT, "version": VERSION, "undefined": undefined} | about
    return graph_of_data(Checked(data))


def is_plain(data: dict[str, Any]) -> bool:
    """Whether node-link data is a whole plain graph of this project: no node or edge was added or removed."""
    about, rows = data.get("graph"), [data.get("nodes"), data.get("edges", data.get("links"))]
    if not isinstance(about, dict) or not all(isinstance(row, list) for row in rows):
        return False
    for names, found in zip((("id",), ("source", "target", "key")), rows, strict=True):
        if not all(
            isinstance(row, dict) and all(isinstance(row.get(name), str) for name in names) for row in found or ()
        ):
            return False
    return is_own({"graph": about, "nodes": rows[0], "edges": rows[1]})


def graph_of_plain(data: dict[str, Any]) -> FlowGraph:
    """The graph whose node-link data :func:`is_plain`.

    Raises
    ------
    FileFormatError
        If a value is missing or impossible; the message names the place.
    """
    edges = "edges" if "edges" in data else "links"
    rows = {
        "nodes": [_unfolded(row.value) for row in Checked(data["nodes"], "nodes").items(MOST_NODES)],
        "edges": [_unfolded(row.value) for row in Checked(data[edges], edges).items(MOST_EDGES)],
    }
    return graph_of_data(Checked(own_data({"graph": _unfolded(data["graph"]), **rows})))


def unfolded(data: dict[str, Any]) -> dict[str, Any]:
    """Node-link data of a part of a plain graph, with its JSON texts turned back into lists and tables.

    Raises
    ------
    FileFormatError
        If such a text is no JSON.
    """
    found = dict(data)
    if isinstance(data.get("graph"), dict):
        found["graph"] = _unfolded(data["graph"])
    for name in ("nodes", "edges", "links"):
        if isinstance(data.get(name), list):
            found[name] = [_unfolded(row) if isinstance(row, dict) else row for row in data[name]]
    return found


def _unfolded(row: dict[str, Any]) -> dict[str, Any]:
    """A row with its JSON texts turned back into lists and tables."""
    return {
        # Half a surrogate pair in a token is no UTF-8, and has to pass through.
        name: parsed_json(value.encode("utf-8", "surrogatepass"))
        if isinstance(value, str) and AS_JSON.fullmatch(name) and value[:1] in ("[", "{")
        else value
        for name, value in row.items()
    }


def node_link_of_cytoscape(data: Checked) -> dict[str, Any]:
    """Node-link data from the output of ``networkx.cytoscape_data``.

    Raises
    ------
    FileFormatError
        If it is something else; the message names the place.
    """
    inner = data.field("elements")
    nodes = [row.field("data") for row in inner.field("nodes").items(MOST_NODES)]
    edges = [row.field("data") for row in inner.field("edges").items(MOST_EDGES)]
    about = data.optional("data")
    return {
        "directed": True if (said := data.optional("directed")) is None else said.value,
        "graph": {} if about is None else _pairs(about),
        "nodes": [row.plain() for row in nodes],
        "edges": [row.plain() for row in edges],
    }


def node_link_of_adjacency(data: Checked) -> dict[str, Any]:
    """Node-link data from the output of ``networkx.adjacency_data``.

    Raises
    ------
    FileFormatError
        If it is something else; the message names the place.
    """
    nodes = [row.plain() for row in data.field("nodes").items(MOST_NODES)]
    edges: list[dict[str, Any]] = []
    lists = list(data.field("adjacency").items(MOST_NODES))
    if len(lists) != len(nodes):
        data.field("adjacency").refuse(f"a list for each of the {len(nodes)} nodes")
    for row, node in zip(lists, nodes, strict=True):
        for other in row.items(MOST_EDGES - len(edges)):
            edge = other.plain()
            edges.append(edge | {"source": node.get("id"), "target": edge.pop("id", None)})
    about = data.optional("graph")
    directed = data.optional("directed")
    return {
        "directed": True if directed is None else directed.value,
        "graph": {} if about is None else _pairs(about),
        "nodes": nodes,
        "edges": edges,
    }


def _pairs(entries: Checked) -> dict[str, Any]:
    """Attributes of a graph, which are a list of names and values."""
    found = {}
    for entry in entries.items():
        pair = list(entry.items())
        if len(pair) != 2:
            entry.refuse("a name and its value")
        found[pair[0].text()] = pair[1].value
    return found
