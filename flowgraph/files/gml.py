"""GML, for networkx, igraph, Gephi, Cytoscape and yEd.

The file is plain ASCII: every other character, control characters and halves of characters too, is an XML reference
such as ``&#26481;``, so all texts survive. Integers above 32 bits, which GML does not have, are texts. Attributes have
their names in this project, with the ``_`` that common readers know and the oldest description of GML does not.

- Nodes are numbered from 0, in the graph's order. GML readers take labels as names, so a label that occurs again gets
  a number: ``logit[ Tokyo] (2)``.
- Edges between the same two nodes have different ``key`` attributes, their places in the graph.
- A structural edge has no ``weight`` and no ``share``, and ``structural`` is 1.
- The graph carries ``generator``, ``caption`` and the fields of ``graph.info``.
- None and empty texts are left out, and lists and tables are JSON texts. (networkx itself takes a text ``[]`` or ``()``
  for an empty list.)
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from ..values.flow_graph import FlowGraph
from .attributes import Simple, about, flat

_REFERENCED = re.compile('[^ -~]|["&]')
_SMALLEST, _LARGEST = -(2**31), 2**31 - 1


def to_gml(graph: FlowGraph) -> str:
    """Write a graph as the text of a GML file.

    Raises
    ------
    NonFiniteError
        If a reading or a number of ``graph.info`` is NaN or infinite.
    """
    lines = ["graph [", "  directed 1", "  multigraph 1", *_pairs(flat(about(graph), "graph"), "  ")]
    labels: set[Simple] = set()
    for n in range(len(graph.nodes)):
        node = flat(graph.node_dict(n), f"nodes[{n}]")
        # networkx names nodes by their labels, and refuses two with the same.
        node["label"] = _unused(str(node["label"]), labels)
        lines += ["  node [", f"    id {n}", *_pairs(node, "    "), "  ]"]
    for e in range(len(graph)):
        edge = flat(graph.edge_dict(e), f"edges[{e}]")
        if graph.structural[e]:
            edge["structural"] = 1
        # A multigraph needs a key that is unique between two nodes; the place of the edge is.
        ends = (f"    source {graph.source[e]}", f"    target {graph.target[e]}", f"    key {e}")
        lines += ["  edge [", *ends, *_pairs(edge, "    "), "  ]"]
    return "\n".join([*lines, "]"]) + "\n"


def _unused(label: str, labels: set[Simple]) -> str:
    unused, count = label, 1
    while unused in labels:
        count += 1
        unused = f"{label} ({count})"
    labels.add(unused)
    return unused


def _pairs(row: Mapping[str, Simple], indent: str) -> Iterator[str]:
    return (f"{indent}{name} {_value(value)}" for name, value in row.items())


def _value(value: Simple) -> str:
    if isinstance(value, str):
        return f'"{_REFERENCED.sub(lambda match: f"&#{ord(match.group())};", value)}"'
    if isinstance(value, float):
        # A real number of GML has a point, also before an exponent.
        number, exponent, power = repr(value).upper().partition("E")
        return (number if "." in number else f"{number}.0") + exponent + power
    return str(int(value)) if _SMALLEST <= value <= _LARGEST else f'"{value}"'
