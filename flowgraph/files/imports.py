"""Import of graphs of other programs.

:func:`import_graph` reads these formats:

**Node-link JSON**, as ``networkx.node_link_data`` writes it, the same attributes in **GraphML**, and the output of networkx'
``cytoscape_data`` and ``adjacency_data``. Needed are:

- ``nodes``: each with an ``id``, a text or an integer, once.
- ``edges`` (or ``links``): each with ``source`` and ``target``, ids of nodes, and ``weight``, a finite number or null
  for an edge that has none. Edges run from earlier to later: no cycle, and not ``"directed": false``. Two edges between
  the same nodes have different ``key`` attributes.

These fields are used if they are there, in the words of :meth:`FlowGraph.to_networkx`:

- of nodes: ``kind``, ``layer``, ``head``, ``position``, ``index``, ``label``, ``token``, with ``norm`` the fields of a
  reading, and of heads ``roles``;
- of edges: ``kind``, ``layer``, ``head``, ``query_pos``, ``key_pos``, ``share``, ``unit``;
- of the graph: the fields of :class:`~flowgraph.values.graph_info.GraphInfo`, and ``name`` for the model.

Missing fields are filled in from the file itself:

- A node without a ``kind`` that this project knows becomes a ``neuron``: its ``index`` or its place in the list, its
  ``layer`` or the number of edges on the longest way to it, and its ``label`` or id as its token.
- An edge without a kind gets the kind of its source; without ``key_pos`` and ``query_pos`` it gets the positions of its ends. If
  one share is missing, all are computed: the weight divided by the sum of all |weight| into the same target in the same unit.
- Missing tokens of the prompt come from the nodes at their positions; a position without a node has an empty token.

All other fields are left out.

**Attribution graphs** of Neuronpedia and circuit-tracer, as
:func:`~flowgraph.files.neuronpedia.node_link_of_neuronpedia` says.

**Circuits** of edge attribution patching, whose edges are named ``a0.h0->a1.h1<k>``, as :mod:`~flowgraph.files.circuit_file`
says.

A file is data, never code: it has a greatest size, its XML may not declare entities, and each value is checked at its
place.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from ..algorithms.attribution_pruning import check_thresholds, pruned
from ..atomic_file import as_path
from ..charts import rendering
from ..errors import ArgumentError, FileFormatError
from ..values.arguments import takes
from ..values.flow_graph import EDGE_KINDS, UNITS, FlowGraph
from ..values.graph_info import UNNAMED, GraphInfo
from ..values.node import FEATURES, NODE_KINDS, WITHOUT_LAYER
from .checked import LARGEST_FEATURE, Checked, Rows, parsed_json
from .circuit_file import is_circuit_file, node_link_of_circuit
from .graphml import is_own, own_data
from .graphml_reader import read_graphml
from .json_file import FORMAT, MOST_EDGES, MOST_NODES, VERSION, file_bytes, graph_of_data
from .networkx_graph import (
    graph_from_networkx,
    graph_of_plain,
    is_plain,
    node_link_of_adjacency,
    node_link_of_cytoscape,
    unfolded,
)
from .neuronpedia import is_neuronpedia, node_link_of_neuronpedia

MOST_LAYERS = 10_000
MOST_TOKENS = 1_000_000
_INFO = tuple(GraphInfo.__dataclass_fields__)
_OF_FLOW = ("flow_into", "total_flow")
"""Fields about the flow of the edges; they mean nothing without it."""
_PLACES = ("layer", "head", "query_pos", "key_pos")
_KIND_AFTER = {
    "embed": "embed", "position_embed": "embed", "head": "head", "kv_group": "head", "cross_head": "head", "cross_kv_group": "head", "mlp": "mlp", "neuron": "neuron", "mixer": "mixer", "sink": "sink",
    "expert": "expert", "shared_expert": "expert",
    "attn": "attn", "feature": "feature", "attn_feature": "feature", "mlp_error": "error", "attn_error": "error", "resid_pre": "residual", "resid_mid": "residual", "resid_post": "residual",
}  # fmt: skip


@takes()
def import_graph(
    path: str | Path,
    *,
    node_threshold: float | None = None,
    edge_threshold: float | None = None,
    top: int | None = None,
) -> FlowGraph:
    """Read a graph that another program wrote, or this one, whole or pruned as attribution graphs are.

    Parameters
    ----------
    path
        A ``.json`` file of node-link data or an attribution graph, or a ``.graphml`` file. The module describes the
        needed fields, and the use of all others. A graph saved by this project as ``.json`` or ``.graphml`` comes
        back exactly.
    node_threshold, edge_threshold
        Parts of all influence of nodes and of edges to keep, above 0 and at most 1; circuit-tracer's page takes .8 and .98. None
        keeps all. :func:`flowgraph.algorithms.attribution_pruning.pruned` defines influence.
    top
        Keep at most so many nodes, those of the most influence, besides embeddings and logits.

    Raises
    ------
    ArgumentError
        If there is no such file, it may not be read, its extension says another format, or a threshold is out of its range.
    FileFormatError
        If a value that is needed is missing, or one is impossible; the message names the place.

    Examples
    --------
    >>> graph = fg.routes(fg.edge_weights(trace, method="proximity"), threshold=0.1)
    >>> path = graph.save("flow.graphml")
    >>> fg.import_graph(path).nodes == graph.nodes
    True
    """
    check_thresholds(node_threshold, edge_threshold, top)
    graph = _read(as_path(path))
    if node_threshold is None and edge_threshold is None and top is None:
        return graph
    return pruned(graph, node_threshold, edge_threshold, top)


def _read(path: Path) -> FlowGraph:
    kind = path.suffix.lower()
    if kind not in (".json", ".graphml"):
        raise ArgumentError(f"path={str(path)!r}: graphs are read from .json and .graphml files")
    if not path.is_file():
        raise ArgumentError(f"path={str(path)!r} is {'a folder' if path.is_dir() else 'not there'}; name a {kind} file")
    try:
        if kind == ".json":
            return graph_of(parsed_json(file_bytes(path)))
        data = read_graphml(file_bytes(path))
        return graph_of_data(Checked(own_data(data) if is_own(data) else _own(Checked(data))))
    except FileFormatError as error:
        raise FileFormatError(f"{path} cannot be read as a graph: {error}") from error


@rendering.from_networkx.register(FlowGraph)
def graph_of_networkx(given: Any) -> FlowGraph:
    """Turn a networkx graph, of this project or of another program, into a flow graph.

    Raises
    ------
    ArgumentError
        If it is no directed graph, or what it holds is no flow graph; the message names the place.
    """
    return graph_from_networkx(given, lambda data: graph_of_data(Checked(_own(Checked(data)))))


def graph_of(data: Any) -> FlowGraph:
    """Graph of parsed JSON, in any of these formats or the project's own.

    Raises
    ------
    FileFormatError
        As for :func:`import_graph`.
    """
    if isinstance(data, dict) and "elements" in data:
        data = node_link_of_cytoscape(Checked(data))
    elif isinstance(data, dict) and "adjacency" in data:
        data = node_link_of_adjacency(Checked(data))
    about = data.get("graph") if isinstance(data, dict) else None
    if isinstance(about, dict) and about.get("format") == FORMAT:
        # `exact` marks the flat form for other programs; without it the file is the project's own JSON.
        if "exact" not in about:
            return graph_of_data(Checked(data))
        if is_plain(data):
            return graph_of_plain(data)
        data = unfolded(data)
    if is_circuit_file(data):
        data = node_link_of_circuit(Checked(data))
    if is_neuronpedia(data):
        data = node_link_of_neuronpedia(Checked(data))
    return graph_of_data(Checked(_own(Checked(data))))


def _own(data: Checked) -> dict[str, Any]:
    """The project's own JSON of a graph in node-link JSON."""
    directed = data.optional("directed")
    if directed is not None and directed.value is not True:
        directed.refuse("true: an edge of a flow graph runs from its source to its target")
    rows = list(data.field("nodes").items(MOST_NODES))
    # Older releases of networkx write "links", newer ones "edges".
    links = data.optional("edges") or data.field("links")
    edges = Rows.of(links, MOST_EDGES)
    number = _numbers(rows)
    ends = [_ends(Checked(row, f"{edges.place}[{e}]"), number) for e, row in enumerate(edges.rows)]
    nodes = _nodes(rows, _depths(rows, ends))
    about = data.optional("graph") or Checked({}, "graph")
    given = {name: entry.value for name, entry in about.entries() if entry.value is not None}
    unit = about.field("unit").text() if given.get("unit") else _common_unit(edges)
    flows = _edges(edges, ends, nodes, unit)
    # A part of the whole flow means something only if every edge has it and the whole is named.
    if "total_flow" in given and all(type(row.get("flow")) in (int, float) for row in edges.rows):
        flows = [flow | {"flow": float(row["flow"])} for flow, row in zip(flows, edges.rows, strict=True)]
    else:
        given = {name: value for name, value in given.items() if name not in _OF_FLOW}
    graph = _defaults(nodes, flows) | {name: given[name] for name in _INFO if name in given}
    graph |= {"unit": unit, "model": given.get("model", given.get("name", UNNAMED))}
    graph["tokens"] = _tokens(about, rows, nodes)
    return {"directed": True, "multigraph": True, "graph": graph, "nodes": nodes, "edges": flows}


def _numbers(rows: list[Checked]) -> dict[str | int, int]:
    """Place of each node in the list, by its id."""
    number: dict[str | int, int] = {}
    for n, row in enumerate(rows):
        name = row.field("id")
        if type(name.value) not in (str, int):
            name.refuse("a text or an integer")
        if number.setdefault(name.value, n) != n:
            name.refuse(f"another id than that of nodes[{number[name.value]}]")
    return number


def _ends(edge: Checked, number: dict[str | int, int]) -> tuple[int, int]:
    places = []
    for name in ("source", "target"):
        end = edge.field(name)
        place = number.get(end.value) if type(end.value) in (str, int) else None
        if place is None:
            end.refuse("the id of a node")
        places.append(place)
    return places[0], places[1]


def _depths(rows: list[Checked], ends: list[tuple[int, int]]) -> list[int]:
    """Number of edges on the longest way to each node."""
    after: defaultdict[int, list[int]] = defaultdict(list)
    # Nodes are taken when the last edge into them is done (Kahn's algorithm); a node on a cycle never is.
    waiting = Counter(target for _, target in ends)
    for source, target in ends:
        after[source].append(target)
    depths = [0] * len(rows)
    ready = [n for n in range(len(rows)) if not waiting[n]]
    for node in ready:
        for target in after[node]:
            depths[target] = max(depths[target], depths[node] + 1)
            waiting[target] -= 1
            if not waiting[target]:
                ready.append(target)
    if len(ready) < len(rows):
        stuck = min(n for n, left in waiting.items() if left)
        raise FileFormatError(
            f"{rows[stuck].place} lies on a cycle of edges, or after one; expected edges from earlier to later only"
        )
    return depths


def _nodes(rows: list[Checked], depths: list[int]) -> list[dict[str, Any]]:
    nodes: list[dict[str, Any]] = []
    seen: dict[tuple[Any, ...], int] = {}
    without_layer = [row for row in rows if _kind(row) is None and _index(row, "layer", MOST_LAYERS) is None]
    for n, row in enumerate(rows):
        node = _node(row, n)
        if _kind(row) is None and without_layer:
            # Layers of some nodes and depths of others would mix two scales.
            if node["layer"] is not None:
                row.field("layer").refuse(f"no layer, as {without_layer[0].place} has none, or one at every node")
            node["layer"] = depths[n]
        identity = tuple(node[name] for name in ("kind", "layer", "head", "position", "index"))
        if seen.setdefault(identity, n) != n:
            raise FileFormatError(f"{row.place} is the same node as nodes[{seen[identity]}]: the same {_IDENTITY}")
        nodes.append(node)
    return nodes


_IDENTITY = "kind, layer, head, position and index"


def _node(row: Checked, n: int) -> dict[str, Any]:
    kind = _kind(row)
    limits = {"layer": MOST_LAYERS, "head": MOST_TOKENS, "position": MOST_TOKENS, "index": LARGEST_FEATURE}
    numbers = {name: _index(row, name, limit) for name, limit in limits.items()}
    # A row without `norm` has no reading, and its other fields are not this project's.
    node: dict[str, Any] = {**(row.value if "norm" in row.value else {}), "id": n, "kind": kind, **numbers}
    for name in ("label_token", "roles"):
        node.pop(name, None)
    if kind == "head" and "roles" in row.value:
        node["roles"] = row.value["roles"]
    if "note" in row.value:
        node["note"] = row.value["note"]
    names: tuple[str, ...] = ("label_token", "token") if kind == "logit" else ("label_token",)
    if kind in FEATURES:
        names = ("label_token", "clerp")
    if kind is None:
        node |= {"kind": "neuron", "index": n if node["index"] is None else node["index"]}
        names = ("label_token", "label", "name", "id")
    elif kind in WITHOUT_LAYER:
        node["layer"] = None
    texts = [str(row.value[name]) for name in names if type(row.value.get(name)) in (str, int)]
    return {**node, "label_token": texts[0]} if texts else node


def _kind(row: Checked) -> str | None:
    kind = row.optional("kind")
    return kind.value if kind is not None and kind.value in NODE_KINDS else None


def _index(row: Checked, name: str, below: int | None) -> int | None:
    entry = row.optional(name)
    if entry is None:
        return None
    return entry.or_none(lambda value: value.index() if below is None else value.index(below))


def _defaults(nodes: list[dict[str, Any]], edges: list[dict[str, Any]]) -> dict[str, Any]:
    """Values for the fields of a graph that its file lacks."""
    end = max((node["layer"] + 1 for node in nodes if node["layer"] is not None), default=0)
    shares = [abs(edge["share"]) for edge in edges if edge["share"] is not None]
    unsaid = dict.fromkeys(("target", "target_token", "target_probability", "foil", "foil_token"))
    return {
        "format": FORMAT,
        "version": VERSION,
        "undefined": [],
        "method": "imported",
        "level": "token",
        "layers": [0, end],
        "total_layers": end,
        "position": max((node["position"] for node in nodes if node["position"] is not None), default=0),
        "total_edges": len(shares),
        "total_share": math.fsum(shares),
        "filters": {},
        "whole": "file",
        **unsaid,
    }


def _tokens(about: Checked, rows: list[Checked], nodes: list[dict[str, Any]]) -> list[Any]:
    given = about.optional("tokens")
    tokens = [] if given is None or given.value is None else [token.text() for token in given.items()]
    positions = [(n, node["position"]) for n, node in enumerate(nodes) if node["position"] is not None]
    if tokens:
        for n, position in positions:
            if position >= len(tokens):
                rows[n].field("position").refuse(f"0…{len(tokens) - 1}, since graph.tokens has {len(tokens)}")
        return tokens
    tokens = [""] * (1 + max((position for _, position in positions), default=-1))
    for n, position in positions:
        token = rows[n].value.get("token")
        tokens[position] = tokens[position] or (token if type(token) is str else "")
    return tokens


def _common_unit(edges: Rows) -> str:
    """The unit that all edges name, or ``weight`` where they name none or several."""
    units = {unit if type(unit := row.get("unit")) is str else "" for row in edges.rows}
    return (units.pop() if len(units) == 1 else "") or "weight"


def _edges(edges: Rows, ends: list[tuple[int, int]], nodes: list[dict[str, Any]], unit: str) -> list[dict[str, Any]]:
    weights, structural = edges.numbers_or_none("weight")
    units = [row["unit"] if row.get("unit") in UNITS else unit for row in edges.rows]
    shares = _shares(edges, [target for _, target in ends], units)
    seen: dict[tuple[int, int, Any], int] = {}
    keys: Counter[tuple[int, int]] = Counter()
    found = []
    for e, row in enumerate(edges.rows):
        edge = Checked(row, f"{edges.place}[{e}]")
        key = row.get("key")
        if key is not None and type(key) not in (str, int):
            edge.field("key").refuse("a text or an integer")
        if seen.setdefault((*ends[e], key), e) != e:
            first = f"{edges.place}[{seen[(*ends[e], key)]}]"
            raise FileFormatError(
                f"{edge.place} joins the same nodes as {first}; expected another key for each of them"
            )
        kind = row.get("kind")
        places = {name: _index(edge, name, None) for name in _PLACES}
        # An edge reads at the position of its source and ends at that of its target.
        for name, n in (("key_pos", ends[e][0]), ("query_pos", ends[e][1])):
            if name not in row:
                places[name] = nodes[n]["position"]
        found.append(
            {
                "source": ends[e][0],
                "target": ends[e][1],
                "key": keys[ends[e]],
                "kind": kind if kind in EDGE_KINDS else _KIND_AFTER.get(nodes[ends[e][0]]["kind"], "rest"),
                **places,
                "weight": None if structural[e] else float(weights[e]),
                "share": None if structural[e] else float(shares[e]),
                "unit": units[e],
            }
        )
        keys[ends[e]] += 1
    return found


def _shares(edges: Rows, targets: list[int], units: list[str]) -> Float[np.ndarray, "E"]:
    """Shares of a file that gives all of them; else weights divided by the sum of |weight| into target and unit."""
    weights, structural = edges.numbers_or_none("weight")
    if all("share" in row for row in edges.rows):
        shares, missing = edges.numbers_or_none("share")
        if (missing == structural).all():
            return shares
    number: dict[tuple[int, str], int] = {}
    into = np.array([number.setdefault(pair, len(number)) for pair in zip(targets, units, strict=True)], dtype=np.int64)
    # Divided by the largest first, so that the sum of huge weights stays finite.
    largest, total = np.zeros(len(number)), np.zeros(len(number))
    np.maximum.at(largest, into, np.abs(weights))
    scale = np.where(largest > 0, largest, 1.0)[into]
    np.add.at(total, into, np.abs(weights / scale))
    return weights / scale / np.where(total > 0, total, 1.0)[into]
