r"""CSV: a table of nodes and a table of edges, for spreadsheets, pandas and Gephi.

``NAME.csv`` becomes ``NAME.nodes.csv``, ``NAME.edges.csv`` and, with the facts about both, ``NAME.csv-metadata.json``: all
three are written, or none. The tables are UTF-8 without a byte order mark, with lines as in RFC 4180: ended by CR LF,
fields quoted where they need it.

- Nodes are called ``n0``, ``n1`` …, in the graph's order; ``source`` and ``target`` of an edge name them.
- A field that is None is empty, and so are ``weight`` and ``share`` of a structural edge, where ``structural`` is true.
- Every text that comes from a prompt or a model (``token``, ``model`` …) and every list is a JSON text: ``" Tokyo"``
  with its quotation marks, control characters as ``\u000b``. It reads back exactly, shows where a token begins, and
  is no formula: a spreadsheet would compute a token ``=1+1``, and shows ``"=1+1"``. A ``;`` is ``\u003b`` in it, for
  programs that take it as the end of a field. All other texts begin with a letter.
- Edges of a graph that knows the flow of the whole have their ``flow`` in a last column.
- Each edge says its unit, and repeats ``model``, ``method``, ``filters`` and ``generator``.
- The metadata hold the facts about the whole graph: generator, caption and all of ``graph.info``, with the tokens of the
  prompt and the provenance. A comment in the tables themselves would be read as data.

The metadata are those of the W3C's "CSV on the Web": a group of the two tables with their columns and types (``json`` for a
JSON text), keys from the edges to the nodes, and the graph as the one note of the group.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from ..atomic_file import as_path, atomic_write_text, part_beside
from ..charts import rendering
from ..charts.diagram import Diagram
from ..charts.text import printable
from ..errors import ArgumentError
from ..values.flow_graph import FlowGraph
from .attributes import GENERATOR, about, finite, json_spelled, json_text

_OF_EDGES = (
    "source", "target", "kind", "layer", "head", "query_pos", "key_pos", "weight", "share", "unit", "structural",
    "model", "method", "filters", "generator",
)  # fmt: skip
_OF_NODES = ("id", "kind", "layer", "head", "position", "index", "label", "token")
_IDS = ("id", "source", "target")
_WORDS = ("kind", "label", "unit", "generator")
"""Columns whose texts are this project's own words, and written as they are."""
_PARTS = ("nodes", "edges")
_HALF = re.compile("[\ud800-\udfff]")
"""Half of a surrogate pair, which UTF-8 does not hold."""


@rendering.csv.register(Diagram)
def edges_csv(diagram: Diagram[FlowGraph]) -> str:
    """The table of the edges of a diagram's graph, as :func:`to_csv` writes it."""
    return to_csv(diagram.graph)[1]


def to_csv(graph: FlowGraph) -> tuple[str, str]:
    """Write a graph as the texts of two tables: its nodes, and its edges.

    Raises
    ------
    NonFiniteError
        If a reading or a filter is NaN or infinite.
    """
    nodes, edges = map(_table, _rows(graph), _PARTS)
    return nodes, edges


def to_csv_metadata(graph: FlowGraph, name: str) -> str:
    """Write the common metadata of both tables of a graph in the form of "CSV on the Web".

    Parameters
    ----------
    graph
        Any graph.
    name
        NAME, of which the tables are NAME.nodes.csv and NAME.edges.csv.

    Raises
    ------
    NonFiniteError
        If a reading or a filter is NaN or infinite.
    """
    return _metadata(graph, name, *_rows(graph))


def csv_files(path: Path) -> tuple[Path, Path, Path]:
    """The files that a graph saved as ``NAME.csv`` makes: nodes, edges and metadata."""
    nodes, edges = (path.with_name(f"{path.stem}.{part}.csv") for part in _PARTS)
    return nodes, edges, path.with_name(f"{path.stem}.csv-metadata.json")


def save_csv(graph: FlowGraph, path: str | Path, *, overwrite: bool = True) -> tuple[Path, Path]:
    """Write a graph as two tables and their metadata, all or none.

    Parameters
    ----------
    graph
        Any graph.
    path
        ``NAME.csv``, for ``NAME.nodes.csv``, ``NAME.edges.csv`` and ``NAME.csv-metadata.json``; there will be no file of this
        very name.
    overwrite
        Whether files of these three names may be replaced.

    Returns
    -------
    Paths of the table of nodes and of the table of edges.

    Raises
    ------
    ArgumentError
        If one of the files exists and ``overwrite`` is False, or one of them cannot be written. Earlier files are then
        untouched.
    NonFiniteError
        As for :func:`to_csv`.
    """
    path = as_path(path)
    files = csv_files(path)
    rows = _rows(graph)
    texts = (*map(_table, rows, _PARTS), _metadata(graph, path.stem, *rows))
    # All names are looked at before anything is written, so that a refusal leaves no half of a set.
    standing = [] if overwrite else [str(file) for file in files if file.exists()]
    if standing:
        raise ArgumentError(f"path={standing[0]!r} exists; pass overwrite=True to replace it, or choose another name")
    with ExitStack() as stack:
        for file, text in zip(files, texts, strict=True):
            stack.enter_context(_put_back_on_failure(file))
            atomic_write_text(file, text, overwrite=overwrite)
    return files[:2]


@contextmanager
def _put_back_on_failure(path: Path) -> Iterator[None]:
    """Restore the present file at ``path``, or its absence, if the code in this context fails."""
    # A link is followed, so that the file behind it is saved and put back, and the link stays.
    place = Path(os.path.realpath(path))
    before = part_beside(place)
    done, existed = False, place.is_file()
    try:
        if existed:
            _name_again(place, before)
        yield
        done = True
    finally:
        if not done and existed and before.exists():
            before.replace(place)
        elif not done and not existed and place.is_file():
            place.unlink()
        before.unlink(missing_ok=True)


def _name_again(place: Path, name: Path) -> None:
    # A second name needs no room on the disk, neither now nor to be put back. Not every file system has them.
    try:
        os.link(place, name)
    except OSError:
        shutil.copy2(place, name)


def _rows(graph: FlowGraph) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
    """The values of both tables: column → [row] value."""
    nodes = [{"id": f"n{n}", **graph.node_dict(n)} for n in range(len(graph.nodes))]
    info = graph.info
    shared = {"model": info.model, "method": info.method_text, "filters": dict(info.filters), "generator": GENERATOR}
    edges = [
        {
            "source": f"n{graph.source[e]}",
            "target": f"n{graph.target[e]}",
            **graph.edge_dict(e),
            "structural": bool(graph.structural[e]),
            **shared,
        }
        for e in range(len(graph))
    ]
    more = dict.fromkeys(name for node in nodes for name in node if name not in _OF_NODES)
    return (
        {name: [node.get(name) for node in nodes] for name in (*_OF_NODES, *more)},
        {name: [edge[name] for edge in edges] for name in (*_OF_EDGES, *(() if graph.flow is None else ("flow",)))},
    )


def _metadata(graph: FlowGraph, name: str, nodes: Mapping[str, list[Any]], edges: Mapping[str, list[Any]]) -> str:
    # A file's name may hold characters that a URL does not.
    of_nodes, of_edges = (quote(f"{name}.{part}.csv") for part in _PARTS)
    reads = {"resource": of_nodes, "columnReference": "id"}
    metadata = {
        "@context": "http://www.w3.org/ns/csvw",
        "notes": [{key: value for key, value in about(graph).items() if value is not None}],
        "tables": [
            {"url": of_nodes, "tableSchema": {"columns": _columns(nodes), "primaryKey": "id"}},
            {
                "url": of_edges,
                "tableSchema": {
                    "columns": _columns(edges),
                    "foreignKeys": [{"columnReference": end, "reference": reads} for end in ("source", "target")],
                },
            },
        ],
    }
    return json_spelled(json_text(metadata, "graph"), _HALF) + "\n"


def _columns(table: Mapping[str, list[Any]]) -> list[dict[str, str]]:
    """Names and types of a table's columns; one without a value has no type."""
    types = {name: {_type(name, value) for value in values if value is not None} for name, values in table.items()}
    return [
        {"name": name}
        | (
            {"datatype": kinds.pop() if len(kinds) == 1 else "double" if kinds <= {"integer", "double"} else "json"}
            if kinds
            else {}
        )
        for name, kinds in types.items()
    ]


def _type(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, str | list | dict):
        return "string" if name in (*_WORDS, *_IDS) else "json"
    return "integer" if isinstance(value, int | np.integer) else "double"


def _cell(name: str, value: Any, place: str) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    # A word of our own begins with a letter, so no spreadsheet takes it for a formula.
    if isinstance(value, str) and name in (*_WORDS, *_IDS) and value[:1].isalpha():
        return printable(value).replace(";", "⟨003B⟩")
    if isinstance(value, str | list | dict):
        return "".join(_json_character(character) for character in json_text(value, place))
    return repr(finite(value, place))


def _json_character(character: str) -> str:
    if character == ";":
        return "\\u003b"
    return character if character.isprintable() else json.dumps(character)[1:-1]


def _table(table: Mapping[str, list[Any]], place: str) -> str:
    file = io.StringIO(newline="")
    writer = csv.writer(file, lineterminator="\r\n")
    writer.writerow(table)
    columns = [
        [_cell(name, value, f"{place}[{row}].{name}") for row, value in enumerate(values)]
        for name, values in table.items()
    ]
    writer.writerows(zip(*columns, strict=True))
    return file.getvalue()
