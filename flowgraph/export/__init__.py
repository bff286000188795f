"""Graphs as files: the extension chooses the format.

``.json`` is the project's own format, which :func:`load_graph` reads back exactly, and is at the same time
plain node-link JSON. ``.graphml`` is for Gephi, yEd, Cytoscape and networkx. ``.html`` is a page to look at.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from ..errors import ArgumentError
from ..graph import FlowGraph
from .files import atomic_write_bytes, atomic_write_text
from .graphml import to_graphml
from .json_file import load_graph, to_json

__all__ = ["EXPORTERS", "atomic_write_bytes", "atomic_write_text", "load_graph", "save_graph"]


def _to_html(graph: FlowGraph) -> str:
    # Imported here: a page brings its assets along, and the other formats have no use for them.
    from ..views.html import render_html

    return render_html(graph)


EXPORTERS: Mapping[str, Callable[[FlowGraph], str]] = MappingProxyType(
    {".json": to_json, ".graphml": to_graphml, ".html": _to_html}
)
"""Extension → function that writes a graph as the text of such a file."""


def save_graph(graph: FlowGraph, path: str | Path, *, overwrite: bool = True) -> Path:
    """Write a graph to a file, whole or not at all.

    Parameters
    ----------
    graph
        Any graph; one without edges too.
    path
        Where to; its extension is one of :data:`EXPORTERS`, in any case.
    overwrite
        Whether a file of this name may be replaced.

    Returns
    -------
    The path.

    Raises
    ------
    ArgumentError
        If the extension is not known, the file exists and ``overwrite`` is False, or the file cannot be
        written.
    """
    path = Path(path)
    exporter = EXPORTERS.get(path.suffix.lower())
    if exporter is None:
        raise ArgumentError(
            f"path={str(path)!r} has the extension {path.suffix!r}; expected one of {', '.join(EXPORTERS)}"
        )
    return atomic_write_text(path, exporter(graph), overwrite=overwrite)
