"""GEXF 1.2, for Gephi and networkx.

Nodes are called ``n0``, ``n1`` … and edges ``e0``, ``e1`` …, in the graph's order. Every attribute of a node and an edge
has a declared type. GEXF has its own places for a node's ``label``, an edge's ``weight`` and its thickness, which grows
with |share|.

- An edge without a weight counts as 1 in GEXF. So a structural edge has the weight 0, no ``share``, and ``structural``
  is true.
- Weights keep their sign; Gephi's layouts want positive ones, and can be told to take |share| from the thickness.
- GEXF has no attributes of a graph. Its description is the caption, and after a line feed the fields of ``graph.info``
  as JSON.
- Texts and JSON are written as :mod:`~flowgraph.files.attributes` says. Line feeds, tabs and carriage returns stay.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from xml.sax.saxutils import escape, quoteattr

from ..values.flow_graph import FlowGraph
from ..values.graph_info import info_dict
from .attributes import GENERATOR, Simple, flat, json_spelled, json_text, spelled, types_of

_ILLEGAL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
# In the text of an element a carriage return would be read as a line feed; in an attribute it has an escape.
_ILLEGAL_IN_TEXT = re.compile("[\x00-\x08\x0b-\x1f\ud800-\udfff\ufffe\uffff]")
_TYPES = {bool: "boolean", int: "long", float: "double", str: "string"}
_THINNEST, _THICKEST = 0.5, 8.0


def to_gexf(graph: FlowGraph) -> str:
    """Write a graph as the text of a GEXF file.

    Raises
    ------
    NonFiniteError
        If a reading or a number of ``graph.info`` is NaN or infinite.
    """
    nodes = [flat(graph.node_dict(n), f"nodes[{n}]", _ILLEGAL) for n in range(len(graph.nodes))]
    # GEXF has its own place for label and weight, so they leave the attributes.
    labels = [str(node.pop("label")) for node in nodes]
    edges = [flat(graph.edge_dict(e), f"edges[{e}]", _ILLEGAL) for e in range(len(graph))]
    weights = [edge.pop("weight", 0.0) for edge in edges]
    for edge, structural in zip(edges, graph.structural.tolist(), strict=True):
        edge["structural"] = structural
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        '<gexf xmlns="http://www.gexf.net/1.2draft" xmlns:viz="http://www.gexf.net/1.2draft/viz" version="1.2">',
        f"<meta><creator>{escape(GENERATOR)}</creator><description>{_description(graph)}</description></meta>",
        '<graph defaultedgetype="directed" mode="static">',
        *_declared("node", nodes),
        *_declared("edge", edges),
        "<nodes>",
        *(f'<node id="n{n}" label={_quoted(labels[n])}>{_values(node)}</node>' for n, node in enumerate(nodes)),
        "</nodes>",
        "<edges>",
        *(
            f'<edge id="e{e}" source="n{graph.source[e]}" target="n{graph.target[e]}" weight="{weights[e]!r}">'
            f'{_values(edge)}<viz:thickness value="{_thickness(edge):.6g}"/></edge>'
            for e, edge in enumerate(edges)
        ),
        "</edges>",
        "</graph>",
        "</gexf>",
    ]
    return "\n".join(lines) + "\n"


def _description(graph: FlowGraph) -> str:
    info = json_spelled(json_text(info_dict(graph.info), "graph"), _ILLEGAL_IN_TEXT)
    return escape(f"{spelled(graph.caption(), _ILLEGAL_IN_TEXT)}\n{info}")


def _declared(owner: str, rows: list[dict[str, Simple]]) -> Iterator[str]:
    types = types_of(rows)
    if types:
        yield f'<attributes class="{owner}" mode="static">'
        yield from (f'<attribute id="{name}" title="{name}" type="{_TYPES[kind]}"/>' for name, kind in types.items())
        yield "</attributes>"


def _values(row: dict[str, Simple]) -> str:
    values = "".join(f'<attvalue for="{name}" value={_quoted(value)}/>' for name, value in row.items())
    return f"<attvalues>{values}</attvalues>"


def _quoted(value: Simple) -> str:
    # bool is an int to Python, and prints as True.
    if isinstance(value, bool):
        return '"true"' if value else '"false"'
    return quoteattr(value if isinstance(value, str) else repr(value))


def _thickness(edge: dict[str, Simple]) -> float:
    return _THINNEST + (_THICKEST - _THINNEST) * min(1.0, abs(float(edge.get("share", 0.0))))
