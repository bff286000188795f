"""GraphML, for Gephi, yEd, Cytoscape and networkx.

GraphML holds flat attributes of one simple type each, in XML. So

- nodes are called ``n0``, ``n1`` … and edges ``e0``, ``e1`` …, in the graph's order; a node's label is its
attribute
  ``label``;
- what is None or an empty text is left out, so a structural edge has no ``weight`` and no ``share``; - lists
and tables (``top_tokens``, ``tokens``, ``filters`` …) are JSON texts; - a character that XML cannot hold, or
that its readers change, is written visibly by its number: ``⟨000B⟩`` for a
  vertical tab. Line feeds and tabs stay.

Text treated this way cannot be turned back with certainty; ``.json`` is the format that reads back exactly.
"""

from __future__ import annotations

import io
import json
import re
from typing import Any

import networkx

from ..graph import FlowGraph, info_dict

# Carriage returns are legal, and turned into line feeds by every XML reader.
_ILLEGAL = re.compile("[\x00-\x08\x0b-\x1f\ud800-\udfff\ufffe\uffff]")


def to_graphml(graph: FlowGraph) -> str:
    """Write a graph as the text of a GraphML file.

    Node, edge and graph attributes are those of :meth:`FlowGraph.to_networkx`; the module says how they are
    written.
    """
    plain = networkx.MultiDiGraph(**_attributes(info_dict(graph.info)))
    for n in range(len(graph.nodes)):
        plain.add_node(f"n{n}", **_attributes(graph.node_dict(n)))
    for e in range(len(graph)):
        ends = f"n{graph.source[e]}", f"n{graph.target[e]}"
        plain.add_edge(*ends, key=f"e{e}", **_attributes(graph.edge_dict(e)))
    file = io.BytesIO()
    networkx.write_graphml(plain, file)
    return file.getvalue().decode("utf-8")


def _attributes(data: dict[str, Any]) -> dict[str, str | int | float]:
    return {name: _simple(value) for name, value in data.items() if value is not None and value != ""}


def _simple(value: Any) -> str | int | float:
    if isinstance(value, list | tuple | dict):
        value = json.dumps(value, ensure_ascii=False)
    return _ILLEGAL.sub(_visible, value) if isinstance(value, str) else value


def _visible(match: re.Match[str]) -> str:
    return f"⟨{ord(match.group()):04X}⟩"
