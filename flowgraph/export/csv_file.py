r"""CSV: a table of nodes and a table of edges, for spreadsheets, pandas and Gephi.

``NAME.csv`` becomes ``NAME.nodes.csv`` and ``NAME.edges.csv``: both are written, or none. They are UTF-8 without a byte
order mark, with lines as in RFC 4180: ended by CR LF, fields quoted where they need it.

- Nodes are called ``n0``, ``n1`` …, in the graph's order; ``source`` and ``target`` of an edge name them.
- A field that is None is empty, and so are ``weight`` and ``share`` of a structural edge, where ``structural`` is true.
- Every text that comes from a prompt or a model (``token``, ``model`` …) and every list is a JSON text: ``" Tokyo"``
  with its quotation marks, control characters as ``\u000b``. It reads back exactly, shows where a token begins, and
  is no formula: a spreadsheet would compute a token ``=1+1``, and shows ``"=1+1"``. A ``;`` is ``\u003b`` in it, for
  programs that take it as the end of a field. All other texts begin with a letter.
- Edges of a graph that knows the flow of the whole have their ``flow`` in a last column.
- There is no table for the graph as a whole. Each edge says its unit, and repeats ``model``, ``method``, ``filters``
  and ``generator``; the rest of ``graph.info`` is left out, tokens that have no node too.
"""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import ArgumentError
from ..graph import FlowGraph
from ..views.text import printable
from .attributes import GENERATOR, finite, json_text
from .files import atomic_write_text, part_beside

_OF_EDGES = (
    "source", "target", "kind", "layer", "head", "query_pos", "key_pos", "weight", "share", "unit", "structural",
    "model", "method", "filters", "generator",
)  # fmt: skip
_OF_NODES = ("id", "kind", "layer", "head", "position", "index", "label", "token")
_WORDS = ("kind", "label", "unit", "generator")
"""Columns whose texts are this project's own words, and written as they are."""


def to_csv(graph: FlowGraph) -> tuple[str, str]:
    """Write a graph as the texts of two tables: its nodes, and its edges.

    Raises
    ------
    NonFiniteError
        If a reading or a filter is NaN or infinite.
    """
    nodes = [{"id": f"n{n}", **_cells(graph.node_dict(n), f"nodes[{n}]")} for n in range(len(graph.nodes))]
    info = graph.info
    same = {"model": info.model, "method": info.method_text, "filters": dict(info.filters), "generator": GENERATOR}
    shared = _cells(same, "graph")
    edges = [
        {
            "source": f"n{graph.source[e]}",
            "target": f"n{graph.target[e]}",
            **_cells(graph.edge_dict(e), f"edges[{e}]"),
            "structural": "true" if graph.structural[e] else "false",
            **shared,
        }
        for e in range(len(graph))
    ]
    more = dict.fromkeys(name for node in nodes for name in node if name not in _OF_NODES)
    return _table([*_OF_NODES, *more], nodes), _table([*_OF_EDGES, *(() if graph.flow is None else ("flow",))], edges)


def save_csv(graph: FlowGraph, path: str | Path, *, overwrite: bool = True) -> tuple[Path, Path]:
    """Write a graph as two tables, both or none.

    Parameters
    ----------
    graph
        Any graph.
    path
        ``NAME.csv``, for ``NAME.nodes.csv`` and ``NAME.edges.csv``; there will be no file of this very name.
    overwrite
        Whether files of these two names may be replaced.

    Returns
    -------
    Paths of the table of nodes and of the table of edges.

    Raises
    ------
    ArgumentError
        If one of the files exists and ``overwrite`` is False, or one of them cannot be written. What was there before
        is then untouched.
    NonFiniteError
        As for :func:`to_csv`.
    """
    path = Path(path)
    nodes, edges = (path.with_name(f"{path.stem}.{name}.csv") for name in ("nodes", "edges"))
    texts = to_csv(graph)
    if not overwrite and edges.exists():
        raise ArgumentError(f"path={str(edges)!r} exists; pass overwrite=True to replace it, or choose another name")
    with _put_back_on_failure(nodes):
        atomic_write_text(nodes, texts[0], overwrite=overwrite)
        atomic_write_text(edges, texts[1], overwrite=overwrite)
    return nodes, edges


@contextmanager
def _put_back_on_failure(path: Path) -> Iterator[None]:
    """Give ``path`` back what it holds now, or nothing, if what follows fails."""
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


def _cells(row: Mapping[str, Any], place: str) -> dict[str, str]:
    return {name: _cell(name, value, f"{place}.{name}") for name, value in row.items()}


def _cell(name: str, value: Any, place: str) -> str:
    if value is None:
        return ""
    if isinstance(value, str) and name in _WORDS and value[:1].isalpha():
        return printable(value).replace(";", "⟨003B⟩")
    if isinstance(value, str | list | dict):
        return "".join(_json_character(character) for character in json_text(value, place))
    return repr(finite(value, place))


def _json_character(character: str) -> str:
    if character == ";":
        return "\\u003b"
    return character if character.isprintable() else json.dumps(character)[1:-1]


def _table(columns: Sequence[str], rows: Sequence[Mapping[str, str]]) -> str:
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, columns, restval="", lineterminator="\r\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()
