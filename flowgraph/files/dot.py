"""DOT, for Graphviz: a picture as text that a person can edit, with all attributes of the graph.

Nodes are called ``n0``, ``n1`` …, in the graph's order, and stand on one rank with those of the same kind and layer. The
width of a line is its |share|. A dashed line is structural and has no number; a bar in place of an arrow head means a
negative share.

Attributes of this project begin with ``flow_``: Graphviz has a ``layer``, a ``model``, a ``target`` and a ``weight`` of
its own, which mean other things. None and empty texts are left out; lists and tables are JSON texts.

- Labels and tooltips are written for people, as in pictures of this project.
- In other texts a character that DOT cannot hold is written by its number, as ``⟨005C⟩``, and in JSON texts with JSON's own
  escapes. Such characters are NUL and halves of characters, a backslash before a quotation mark, a backslash or the end of
  a text, and line feeds and carriage returns, some of which Graphviz drops.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from ..charts.text import printable, visible
from ..values.flow_graph import FlowGraph
from ..values.node import label
from .attributes import about, flat, json_spelled, spelled

_ILLEGAL = re.compile(r'[\x00\n\r\ud800-\udfff]|\\(?=["\\]|\Z)')
_ESCAPED_IN_JSON = re.compile(r'\\(["\\])')
_QUOTE, _ESCAPED_QUOTE = '"', '\\"'
_THINNEST, _WIDEST = 0.4, 6.0


def to_dot(graph: FlowGraph) -> str:
    """Write a graph as the text of a DOT file.

    Raises
    ------
    NonFiniteError
        If a reading or a number of ``graph.info`` is NaN or infinite.
    """
    own = about(graph)
    caption = own.pop("caption")
    lines = [
        "digraph flowgraph {",
        # From bottom to top, the direction in which a model is drawn.
        f"  graph [rankdir=BT, label={_shown([caption])}{_flow(own, 'graph')}];",
        '  node [shape=box, style=rounded, fontname="sans-serif"];',
        *(f"  n{n} [{_node(graph, n)}];" for n in range(len(graph.nodes))),
        *(f"  {{rank=same; {'; '.join(f'n{n}' for n in rank)}}}" for rank in _ranks(graph) if len(rank) > 1),
        *(f"  n{graph.source[e]} -> n{graph.target[e]} [{_edge(graph, e)}];" for e in range(len(graph))),
        "}",
    ]
    return "\n".join(lines) + "\n"


def _ranks(graph: FlowGraph) -> Iterable[list[int]]:
    ranks: defaultdict[tuple[int | None, str], list[int]] = defaultdict(list)
    for n, node in enumerate(graph.nodes):
        ranks[node.layer, node.kind].append(n)
    return ranks.values()


def _node(graph: FlowGraph, n: int) -> str:
    node, data = graph.nodes[n], graph.node_dict(n)
    lines = [label(node if node.token is None else replace(node, token=visible(node.token)))]
    if node.kind == "embed" and "token" in data:
        lines.append(visible(data["token"]))
    del data["label"]
    return f"label={_shown(lines)}{_flow(data, f'nodes[{n}]')}"


def _edge(graph: FlowGraph, e: int) -> str:
    data = graph.edge_dict(e)
    share, says, drawn = data["share"], "no number", "style=dashed, "
    if share is not None:
        says = f"{data['weight']:.4g} {printable(data['unit'])}, share {share:.4g}"
        drawn = "arrowhead=tee, " if share < 0 else ""
    # A share above 1 would hide its neighbours.
    width = _THINNEST + (_WIDEST - _THINNEST) * min(1.0, abs(share or 0.0))
    tooltip = _shown([f"{data['kind']}: {says}"])
    return f"{drawn}penwidth={width:.6g}, tooltip={tooltip}{_flow(data, f'edges[{e}]')}"


def _shown(lines: list[str]) -> str:
    """Quote the lines of a label. Graphviz reads backslashes in it as escapes, and references as in HTML."""
    escaped = (line.replace("\\", "\\\\").replace(_QUOTE, _ESCAPED_QUOTE).replace("&", "&amp;") for line in lines)
    return '"' + "\\n".join(escaped) + '"'


def _flow(data: dict[str, Any], place: str) -> str:
    """The project's own attributes, each after a comma."""
    return "".join(_own_attributes(data, place))


def _own_attributes(data: dict[str, Any], place: str) -> Iterator[str]:
    for name, value in flat(data, place).items():
        text = repr(value)
        if isinstance(value, str):
            # A plain text is spelled for DOT; JSON keeps its own escapes.
            text = spelled(value, _ILLEGAL) if isinstance(data[name], str) else _json(value)
        # Numbers too: without quotes, DOT has none with an exponent. Inside, only the quotation mark has an escape.
        yield f', flow_{name}="{text.replace(_QUOTE, _ESCAPED_QUOTE)}"'


def _json(text: str) -> str:
    """The same JSON, without a backslash before anything that DOT would take together with it."""
    return json_spelled(_ESCAPED_IN_JSON.sub(lambda match: f"\\u{ord(match[1]):04x}", text), _ILLEGAL)
