"""Keys of nodes and of edges, as the page hands them back: one key for each, so that a key is what it names.

A node's key is that of :func:`flowgraph.node_key`.
"""

from __future__ import annotations

import flowgraph
from flowgraph.errors import ArgumentError

_LONGEST_EDGE = 240
EDGE = "edge."
"""Begins the key of an edge of the graph on the screen, ``edge.17``."""
EDGE_MARK = "~"
"""Between the parts of an edge's key; no node key has it."""


def parse_node_key(key: str) -> flowgraph.Node:
    """The node of a key.

    Raises
    ------
    ArgumentError
        If the text is not a key as :func:`flowgraph.node_key` writes it, or there is no such kind of node.
    """
    if not isinstance(key, str):
        raise ArgumentError(f"{key!r} is not a node key; expected a text")
    node = flowgraph.parse_node(key)
    if flowgraph.node_key(node) != key:
        raise ArgumentError(f"{key!r} is not a node key; expected kind.layer.head.position.index, '-' for none")
    return node


def check_edge_key(key: str) -> None:
    """Refuse what cannot name an edge: ``attention~resid_post.22.-.3.-~resid_mid.23.-.7.-``, its kind and the keys of its ends.

    Unlike the number of an edge, it means the same in every picture of a run.

    Raises
    ------
    ArgumentError
        If the text is no such key.
    """
    kind, *ends = key[:_LONGEST_EDGE].split(EDGE_MARK)
    if not (kind.isidentifier() and len(ends) == 2):
        raise ArgumentError(
            f"{key[:60]!r} is not an edge; expected its kind and the keys of its two ends, between {EDGE_MARK!r}"
        )
    for end in ends:
        parse_node_key(end)


def edge_of(key: str, count: int) -> int:
    """The number of an edge from its key.

    Raises
    ------
    ArgumentError
        If the graph has no such edge.
    """
    text = key.removeprefix(EDGE)
    if not (text.isascii() and text.isdecimal() and len(text) < 8 and int(text) < count):
        raise ArgumentError(f"{key[:40]!r} is not an edge of this graph; its {count:,} edges are counted from 0")
    return int(text)
