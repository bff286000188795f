"""The project's own file format: versioned node-link JSON that reads back exactly.

The file is one JSON object that ``networkx.node_link_graph(data, edges="edges")`` reads as it stands::

    {"directed": true, "multigraph": true,
     "graph": {"format": "flowgraph", "version": 1, "undefined": [node ids], … the fields of GraphInfo …},
     "nodes": [{"id": 0, "kind", "layer", "head", "position", "index", "label", "token", … reading fields …},
     …], "edges": [{"source": 0, "target": 1, "key": 0, "kind", "layer", "head", "query_pos", "key_pos",
                "weight", "share", "unit", "flow"}, …]}

- ``id`` is the node's place in the list, counted from 0; ``key`` counts the edges between the same two nodes, also from 0.
- ``weight`` and ``share`` are null on structural edges.
- A node that was read has reading fields, ``norm`` first (:meth:`NodeReading.to_dict`). If no node was read, the graph comes
  back with empty ``readings``.
- ``note`` of a node and ``outside`` of the graph hold the entries of another program's file.
- ``flow`` of edges, ``total_flow`` and ``flow_into`` give the part of the whole flow that the edges hold
  (:mod:`flowgraph.values.mass`). A file without them and with fewer edges than ``total_edges`` is its own whole.
- If the graph has roles of heads, a head has ``roles``, an object of each role's score, empty if it has no role.
- ``label`` and ``token`` are for other programs. A token that belongs to the node itself, such as a logit's, is in
  ``label_token``.
- Numbers are written with as many digits as give back the same float64.

The reader trusts nothing: a file is data, never code, of bounded size, and each value is checked at its place.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar, cast, get_args

import numpy as np
from jaxtyping import Float, Int

from ..atomic_file import as_path
from ..errors import ArgumentError, FileFormatError, FlowgraphError, GraphTooLargeError, NonFiniteError
from ..values.connected_flow import topological_levels
from ..values.flow_graph import EDGE_KINDS, UNITS, FlowGraph, Role
from ..values.graph_info import GraphInfo, StackInfo, Whole, info_dict
from ..values.node import NODE_KINDS, STACKS, Node
from ..values.note import NUMBERS, TEXTS, NodeNote
from ..values.reading import NodeReading
from .checked import LARGEST_COUNT, LARGEST_FEATURE, Checked, Rows, not_finite, parsed_json

T = TypeVar("T")

FORMAT = "flowgraph"
VERSION = 1
# Larger files would need several gigabytes once they are parsed.
LARGEST_FILE = 512 * 2**20
MOST_EDGES = 5_000_000
MOST_NODES = 5_000_000


def to_json(graph: FlowGraph) -> str:
    """Write a graph as the text of a ``.json`` file, one node or edge on a line.

    Raises
    ------
    NonFiniteError
        If a reading or a number of ``info`` is NaN or infinite, which JSON cannot hold.
    GraphTooLargeError
        If :func:`load_json` would refuse the file for its size.
    """
    number = {node: n for n, node in enumerate(graph.nodes)}
    undefined = [number[node] for node in graph.undefined]
    about = {"format": FORMAT, "version": VERSION, "undefined": undefined, **info_dict(graph.info)}
    lines = (
        '{"directed": true, "multigraph": true,',
        f'"graph": {_dump(about, "graph")},',
        _list_of("nodes", (_node_data(graph, n) for n in range(len(graph.nodes)))) + ",",
        _list_of("edges", _edges_data(graph)) + "}",
    )
    text = "\n".join(lines) + "\n"
    # A file that could not be read back would be lost work, so it is refused when it is written.
    if len(text) > LARGEST_FILE or len(graph) > MOST_EDGES:
        raise GraphTooLargeError(
            f"{len(graph):,} edges make a file of {len(text) / 2**20:,.0f} MiB; at most {MOST_EDGES:,} edges "
            f"and {LARGEST_FILE // 2**20} MiB can be read back: filter the graph first"
        )
    return text


def load_json(path: str | Path) -> FlowGraph:
    """Read a graph that :func:`flowgraph.files.save_graph` wrote as ``.json``.

    Integer columns come back as int64, weights and shares as float64, each the same number as was written.

    Parameters
    ----------
    path
        A ``.json`` file of at most 512 MiB and 5,000,000 edges.

    Raises
    ------
    ArgumentError
        If there is no such file, or it may not be read.
    FileFormatError
        If the file is not a flowgraph file, is of a version this release cannot read, or any value in it is
        missing or impossible; the message names the place.
    """
    path = as_path(path)
    try:
        return graph_of_data(Checked(parsed_json(file_bytes(path))))
    except FileFormatError as error:
        raise FileFormatError(f"{path} cannot be read as a flow graph: {error}") from error


def _node_data(graph: FlowGraph, n: int) -> dict[str, Any]:
    data = {"id": n, **graph.node_dict(n)}
    if graph.nodes[n].token is not None:
        data["label_token"] = graph.nodes[n].token
    return data


def _edges_data(graph: FlowGraph) -> Iterator[dict[str, Any]]:
    seen: Counter[tuple[int, int]] = Counter()
    for e, ends in enumerate(zip(graph.source.tolist(), graph.target.tolist(), strict=True)):
        yield {"source": ends[0], "target": ends[1], "key": seen[ends], **graph.edge_dict(e)}
        seen[ends] += 1


def _list_of(name: str, rows: Iterator[dict[str, Any]]) -> str:
    lines = ",\n".join(_dump(row, f"{name}[{n}]") for n, row in enumerate(rows))
    return f'"{name}": [\n{lines}\n]' if lines else f'"{name}": []'


def _dump(data: dict[str, Any], place: str) -> str:
    try:
        # Plain ASCII, so that half a surrogate pair in a token is written and read back as it is.
        return json.dumps(data, allow_nan=False, default=_plain)
    except ValueError as error:
        names = ", ".join(not_finite(data, place)) or place
        raise NonFiniteError(f"{names} is NaN or infinite, and a .json file cannot hold it") from error


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise ArgumentError(f"{value!r} of type {type(value).__name__} cannot be written to a .json file")


def file_bytes(path: Path) -> bytes:
    """Read a file of at most 512 MiB."""
    if not path.is_file():
        raise ArgumentError(f"path={str(path)!r} is {'a folder' if path.is_dir() else 'not there'}; name a graph file")
    try:
        with path.open("rb") as file:
            # One byte more than is allowed shows that there is more, whatever size the system states.
            data = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise ArgumentError(f"path={str(path)!r} could not be read: {error.strerror}") from error
    if len(data) > LARGEST_FILE:
        raise FileFormatError(f"it is larger than {LARGEST_FILE // 2**20} MiB")
    return data


def graph_of_data(data: Checked) -> FlowGraph:
    """The graph that the parsed text of a file of this format holds."""
    about = data.field("graph")
    if about.field("format").value != FORMAT:
        about.field("format").refuse(repr(FORMAT))
    version = about.field("version")
    if version.index() != VERSION:
        version.refuse(f"{VERSION}, the only version this release reads; a newer release may read the file")
    for name in ("directed", "multigraph"):
        if data.field(name).value is not True:
            data.field(name).refuse("true")
    info = info_of(about)
    rows = list(data.field("nodes").items(MOST_NODES))
    nodes = tuple(_node(row, n) for n, row in enumerate(rows))
    readings = tuple(_reading(row) for row in rows)
    roles = tuple(_roles(row) for row in rows)
    notes = tuple(None if (note := row.optional("note")) is None else note_of(note) for row in rows)
    undefined = tuple(nodes[entry.index(len(nodes))] for entry in about.field("undefined").items())
    edges = Rows.of(data.field("edges"), MOST_EDGES)
    columns = _columns(edges, len(nodes), info.unit)
    try:
        graph = FlowGraph(
            nodes=nodes,
            **columns,
            info=info,
            readings=readings if any(reading is not None for reading in readings) else (),
            undefined=undefined,
            roles=tuple(found or () for found in roles) if any(found is not None for found in roles) else (),
            notes=notes if any(note is not None for note in notes) else (),
            flow=None if info.total_flow is None else _flows(edges),
        )
        topological_levels(graph)  # refuses a cycle, and names a node on it
        return graph
    except ArgumentError as error:
        raise FileFormatError(str(error)) from error


def info_of(about: Checked) -> GraphInfo:
    """The origin of a graph, from the data of :func:`flowgraph.values.graph_info.info_dict`."""
    layers = [entry.index() for entry in about.field("layers").items()]
    if len(layers) != 2:
        about.field("layers").refuse("two integers, the first layer and one past the last")
    options, outside = about.optional("options"), about.optional("outside")
    return GraphInfo(
        method=about.field("method").text(),
        unit=about.field("unit").text(),
        level=about.field("level").text(),
        model=about.field("model").text(),
        tokens=tuple(entry.text() for entry in about.field("tokens").items()),
        layers=(layers[0], layers[1]),
        total_layers=about.field("total_layers").index(),
        position=about.field("position").index(),
        total_edges=about.field("total_edges").index(LARGEST_COUNT),
        total_share=about.field("total_share").number(),
        target=about.field("target").or_none(Checked.index),
        target_token=about.field("target_token").or_none(Checked.text),
        target_probability=about.field("target_probability").or_none(Checked.number),
        foil=about.field("foil").or_none(Checked.index),
        foil_token=about.field("foil_token").or_none(Checked.text),
        filters={name: _filter(entry) for name, entry in about.field("filters").entries()},
        options={} if options is None else {name: _filter(entry) for name, entry in options.entries()},
        outside={} if outside is None or outside.value is None else _outside(outside),
        provenance=_optional(about, "provenance", Checked.json) or {},
        flow_into=_optional(about, "flow_into", Checked.text),
        total_flow=_optional(about, "total_flow", Checked.number),
        whole=_whole(about),
        stacks=_stacks(about),
    )


def _stacks(about: Checked) -> tuple[StackInfo, ...]:
    entry = about.optional("stacks")
    found = []
    for one in () if entry is None or entry.value is None else entry.items():
        if one.field("name").value not in STACKS:
            one.field("name").refuse(f"one of {', '.join(STACKS)}")
        tokens = tuple(token.text() for token in one.field("tokens").items())
        found.append(StackInfo(one.field("name").text(), tokens, one.field("layers").index()))
    return tuple(found)


def _outside(about: Checked) -> dict[str, Any]:
    """Another program's entries about the whole graph."""
    found = about.json()
    for name in ("metadata", "qParams", "more"):
        entry = about.optional(name)
        if entry is not None:
            entry.json()
    count, links = about.optional("count"), about.optional("links")
    if count is not None:
        count.index()
    for link in () if links is None else links.items(MOST_EDGES):
        for end in ("source", "target"):
            link.field(end).text()
    return found


def _optional(about: Checked, name: str, read: Callable[[Checked], T]) -> T | None:
    """A field that files of earlier releases do not have."""
    entry = about.optional(name)
    return None if entry is None else entry.or_none(read)


def _whole(about: Checked) -> Whole:
    entry = about.optional("whole")
    if entry is None:
        return "method"
    if entry.value not in get_args(Whole):
        entry.refuse(f"one of {', '.join(get_args(Whole))}")
    return cast("Whole", entry.value)


def _flows(rows: Rows) -> Float[np.ndarray, "E"]:
    flow, missing = rows.numbers_or_none("flow")
    _refuse_where(rows, "flow", missing | (flow < 0), "a number of at least 0, since graph.total_flow is given")
    return flow


def _filter(entry: Checked) -> float | int | str:
    if type(entry.value) in (bool, int, str):
        value: int | str = entry.value
        return value
    return entry.number()


def _node(row: Checked, n: int) -> Node:
    if row.field("id").index() != n:
        row.field("id").refuse(f"{n}, the node's place in the list")
    kind = row.field("kind").text()
    if kind not in NODE_KINDS:
        row.field("kind").refuse(f"one of {', '.join(NODE_KINDS)}")
    token = row.optional("label_token")
    stack = row.optional("stack")
    if stack is not None and stack.value not in STACKS:
        stack.refuse(f"one of {', '.join(STACKS)}")
    numbers = {name: row.field(name).or_none(Checked.index) for name in ("layer", "head", "position")}
    numbers["index"] = row.field("index").or_none(lambda entry: entry.index(LARGEST_FEATURE))
    try:
        own = None if stack is None else stack.text()
        return Node(kind, **numbers, token=None if token is None else token.text(), stack=own)
    except FlowgraphError as error:
        raise FileFormatError(f"{row.place}: {error}") from error


def _roles(row: Checked) -> tuple[Role, ...] | None:
    """Roles of a node; None if the file has no such field."""
    roles = row.optional("roles")
    return None if roles is None else tuple((name, entry.number()) for name, entry in roles.entries())


def note_of(row: Checked) -> NodeNote:
    """The note of a node, from its object in the file.

    Raises
    ------
    FileFormatError
        If a text or number that this project shows is something else, or there is anything that JSON does not hold.
    """
    for names, read in ((TEXTS, Checked.text), (NUMBERS, Checked.number)):
        for name in names:
            entry = row.optional(name)
            if entry is not None:
                entry.or_none(read)
    return NodeNote(row.json())


_NUMBERS = (
    "target_logit", "target_probability", "target_log_probability", "entropy", "foil_logit", "foil_probability",
    "activation", "contribution", "coverage",
)  # fmt: skip
_RANKS = ("target_rank", "foil_rank", "left_out")
_LISTS = tuple(f"{end}_{name}" for end in ("top", "bottom") for name in ("tokens", "probabilities", "logits"))


def _reading(row: Checked) -> NodeReading | None:
    # Of a node with a note, the activation is what the note says.
    said = row.value.keys() - {"activation"} if "note" in row.value else row.value.keys()
    if said.isdisjoint(("norm", *_RANKS, *_NUMBERS, *_LISTS)):
        return None
    numbers: dict[str, Any] = {name: entry.number() for name in _NUMBERS if (entry := row.optional(name)) is not None}
    ranks: dict[str, Any] = {name: entry.index() for name in _RANKS if (entry := row.optional(name)) is not None}
    return NodeReading(
        norm=row.field("norm").number(),
        top=_entries(row, "top"),
        bottom=_entries(row, "bottom"),
        **ranks,
        **numbers,
    )


def _entries(row: Checked, end: str) -> tuple[tuple[str, float, float], ...]:
    if not any(f"{end}_{name}" in row.value for name in ("tokens", "probabilities", "logits")):
        return ()
    tokens = [entry.text() for entry in row.field(f"{end}_tokens").items()]
    columns = []
    for name in ("probabilities", "logits"):
        column = row.field(f"{end}_{name}")
        columns.append([entry.number() for entry in column.items()])
        if len(columns[-1]) != len(tokens):
            column.refuse(f"{len(tokens)} entries, as {end}_tokens has")
    return tuple(zip(tokens, *columns, strict=True))


def _columns(rows: Rows, nodes: int, unit: str) -> dict[str, Any]:
    columns: dict[str, Any] = {name: rows.indices(name, nodes) for name in ("source", "target")}
    _check_keys(rows, columns["source"], columns["target"])
    number_of = {kind: n for n, kind in enumerate(EDGE_KINDS)}
    kinds = rows.column("kind", Checked.text, str)
    columns["kind"] = np.array([number_of.get(kind, -1) for kind in kinds], dtype=np.int64)
    # A kind that is not known gets −1, so that the error can name its place.
    _refuse_where(rows, "kind", columns["kind"] < 0, f"one of {', '.join(EDGE_KINDS)}")
    for name in ("layer", "head", "query_pos", "key_pos"):
        columns[name] = rows.indices_or_none(name)
    columns["weight"], columns["structural"] = rows.numbers_or_none("weight")
    columns["share"], no_share = rows.numbers_or_none("share")
    _refuse_where(rows, "share", no_share != columns["structural"], "null exactly where weight is null")
    columns["unit"] = _units(rows, unit)
    return columns


def _units(rows: Rows, unit: str) -> Int[np.ndarray, "E"] | None:
    """Unit of each edge; None where all have that of the graph."""
    units = rows.column("unit", Checked.text, str)
    if all(entry == unit for entry in units):
        return None
    number_of = {name: n for n, name in enumerate(UNITS)}
    found = np.array([number_of.get(entry, -1) for entry in units], dtype=np.int64)
    _refuse_where(rows, "unit", found < 0, f"{unit!r} as in graph.unit, or one of {', '.join(UNITS)}")
    return found


def _check_keys(rows: Rows, source: Int[np.ndarray, "E"], target: Int[np.ndarray, "E"]) -> None:
    triples = np.stack([source, target, rows.indices("key")])
    _, first = np.unique(triples, axis=1, return_index=True)
    repeated = np.ones(len(source), dtype=bool)
    repeated[first] = False
    _refuse_where(rows, "key", repeated, "another number for each edge between the same two nodes")


def _refuse_where(rows: Rows, name: str, wrong: Any, expected: str) -> None:
    if wrong.any():
        n = int(np.flatnonzero(wrong)[0])
        Checked(rows.rows[n][name], f"{rows.place}[{n}].{name}").refuse(expected)
