"""Graphs as files: the ending of the name chooses the format.

``.json`` is the project's own format, at the same time plain node-link JSON, and like ``.graphml`` reads back exactly.
``.gexf``, ``.gml``, ``.dot``, ``.csv`` and ``.neuronpedia.json`` are for other programs, ``.html`` is a page to look at, and
``.svg``, ``.pdf``, ``.png`` and ``.tex`` are pictures for papers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ..atomic_file import as_path, atomic_write_bytes, atomic_write_text
from ..charts import rendering
from ..errors import ArgumentError
from ..values.flow_graph import FlowGraph
from .csv_file import save_csv
from .dot import to_dot
from .gexf import to_gexf
from .gml import to_gml
from .graphml import load_graphml, to_graphml
from .imports import import_graph
from .json_file import load_json, to_json
from .neuronpedia import to_neuronpedia

__all__ = ["EXPORTERS", "atomic_write_bytes", "atomic_write_text", "import_graph", "load_graph", "save_graph"]

Exporter = Callable[..., Path]


def _text(write: Callable[[FlowGraph], str]) -> Exporter:
    """Exporter of a format that is one text without options."""

    def export(graph: FlowGraph, path: Path, *, overwrite: bool) -> Path:
        return atomic_write_text(path, write(graph), overwrite=overwrite)

    return export


def _table(graph: FlowGraph, path: Path, *, overwrite: bool) -> Path:
    return save_csv(graph, path, overwrite=overwrite)[0]


def _to_html(graph: FlowGraph) -> str:
    # Imported here: a page brings its assets along, and the other formats have no use for them.
    from ..render.page.html import render_html

    return render_html(graph)


def _picture(graph: FlowGraph, path: Path, *, overwrite: bool, **options: Any) -> Path:
    return rendering.picture(graph.chart(), path, overwrite=overwrite, **options)


EXPORTERS: Mapping[str, Exporter] = MappingProxyType(
    {
        ".json": _text(to_json), ".graphml": _text(to_graphml), ".html": _text(_to_html), ".csv": _table,
        ".gexf": _text(to_gexf), ".gml": _text(to_gml), ".dot": _text(to_dot), ".gv": _text(to_dot),
        ".neuronpedia.json": _text(to_neuronpedia),
        ".svg": _picture, ".pdf": _picture, ".png": _picture, ".tex": _picture,
    }
)  # fmt: skip
"""Ending of the name → function that writes a graph to such a file."""


def ending(path: Path) -> str | None:
    """The longest of the known endings that a name has; None if it has none."""
    name = path.name.lower()
    # A file called ".json" has a name and no ending.
    known = [end for end in EXPORTERS if name.endswith(end) and name != end]
    # ".neuronpedia.json" also ends in ".json", so the longest ending decides.
    return max(known, key=len, default=None)


@rendering.save.register(FlowGraph)
def save_graph(graph: FlowGraph, path: str | Path, *, overwrite: bool = True, **options: Any) -> Path:
    """Write a graph to a file, whole or not at all.

    Parameters
    ----------
    graph
        Any graph; one without edges too.
    path
        Where to; its name ends as one of :data:`EXPORTERS`, in any case.
    overwrite
        Whether a file of this name may be replaced.
    **options
        For pictures, see :func:`flowgraph.render.print.pictures.save_picture`: ``width``, ``theme``, ``legend``, ``caption``,
        ``dpi``.

    Returns
    -------
    The path; of a table that of its nodes, NAME.nodes.csv.

    Raises
    ------
    ArgumentError
        If the ending is not known or has no such option, the file exists and ``overwrite`` is False, or the file cannot be
        written.
    """
    path = as_path(path)
    end = ending(path)
    if end is None:
        raise ArgumentError(
            f"path={str(path)!r} has the extension {path.suffix!r}; expected one of {', '.join(EXPORTERS)}"
        )
    exporter = EXPORTERS[end]
    if options and exporter is not _picture:
        raise ArgumentError(f"{next(iter(options))}= is an option of pictures; {end} files have none")
    return exporter(graph, path, overwrite=overwrite, **options)


@rendering.load.register(FlowGraph)
def load_graph(path: str | Path) -> FlowGraph:
    """Read a graph that :func:`save_graph` wrote as ``.json`` or ``.graphml``; it comes back exactly.

    Raises
    ------
    ArgumentError
        If there is no such file, it may not be read, or it is of another format.
    FileFormatError
        If the file is not a flowgraph file, is of a version this release cannot read, or any value in it is missing or
        impossible; the message names the place.
    """
    path = as_path(path)
    if path.suffix.lower() == ".graphml":
        return load_graphml(path)
    if path.suffix.lower() != ".json":
        raise ArgumentError(f"path={str(path)!r}: only graphs saved as .json or .graphml can be read back")
    return load_json(path)
