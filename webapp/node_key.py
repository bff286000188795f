"""A node as text, for the URL and for what the page hands back, and from such text to a checked node.

``kind.layer.head.position.index``, ``-`` where the kind has none: ``resid_post.23.-.7.-``, ``head.21.4.7.-``. People may
write a start shorter, without what the kind does not have: ``resid_post.23.7``, ``head.21.4.7``, ``embed.3``.
"""

from __future__ import annotations

from functools import cache
from typing import get_args, get_type_hints

import flowgraph
from flowgraph.errors import ArgumentError

_FIELDS = ("layer", "head", "position", "index")
_KINDS: tuple[str, ...] = get_args(get_type_hints(flowgraph.Node)["kind"])
_LARGEST = 2**31 - 1
_LARGEST_INDEX = 2**53 - 1  # numbers of features, which some files make of two numbers
_LONGEST = 80
_LONGEST_EDGE = 3 * _LONGEST
EDGE_MARK = "~"
"""Between the parts of an edge's key; no node key has it."""


def node_key(node: flowgraph.Node) -> str:
    """The key of a node: ``head.21.4.7.-``."""
    return ".".join([node.kind, *("-" if (n := getattr(node, name)) is None else str(n) for name in _FIELDS)])


def parse_node_key(key: str) -> flowgraph.Node:
    """The node of a key.

    Raises
    ------
    ArgumentError
        If the text is not a key as :func:`node_key` writes it, or there is no such kind of node.
    """
    parts = _parts(key, "a node key")
    if len(parts) != 1 + len(_FIELDS):
        raise ArgumentError(f"{_short(key)} is not a node key; expected kind.layer.head.position.index, '-' for none")
    numbers = {
        name: None if part == "-" else _number(part, key, name) for name, part in zip(_FIELDS, parts[1:], strict=True)
    }
    return flowgraph.Node(parts[0], **numbers)  # type: ignore[arg-type]


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
            f"{_short(key)} is not an edge; expected its kind and the keys of its two ends, between {EDGE_MARK!r}"
        )
    for end in ends:
        parse_node_key(end)


def start_text(node: flowgraph.Node) -> str:
    """A node as a start is written in the URL: ``resid_post.23.7``, ``head.21.4.7``."""
    return ".".join([node.kind, *(str(getattr(node, name)) for name in _short_fields(node.kind))])


def parse_start(text: str) -> flowgraph.Node:
    """The start node that a text names, as :func:`start_text` or :func:`node_key` write it.

    Raises
    ------
    ArgumentError
        If the text is neither, or there is no such kind of node.
    """
    parts = _parts(text, "a start node")
    names = _short_fields(parts[0])
    if len(parts) == 1 + len(names) and "-" not in parts:
        numbers = {name: _number(part, text, name) for name, part in zip(names, parts[1:], strict=True)}
        return flowgraph.Node(parts[0], **numbers)  # type: ignore[arg-type]
    if len(parts) == 1 + len(_FIELDS):
        return parse_node_key(text)
    raise ArgumentError(f"{_short(text)} is not a start node; expected {'.'.join([parts[0], *names])}")


@cache
def _short_fields(kind: str) -> tuple[str, ...]:
    """Which numbers a kind has, in their order: the position, unless it is a logit, and those that it cannot be without."""
    return tuple(
        name for name in _FIELDS if (kind != "logit" if name == "position" else not _can_be_without(kind, name))
    )


def _can_be_without(kind: str, name: str) -> bool:
    try:
        flowgraph.Node(kind, **{other: 0 for other in _FIELDS if other != name})  # type: ignore[arg-type]
    except ArgumentError:
        return False
    return True


def _parts(text: str, what: str) -> list[str]:
    if not isinstance(text, str) or not 0 < len(text) <= _LONGEST:
        raise ArgumentError(f"{_short(text)} is not {what}: expected a text of 1 to {_LONGEST} characters")
    parts = text.split(".")
    if parts[0] not in _KINDS:
        raise ArgumentError(
            f"kind={parts[0]!r} in {_short(text)} is not a kind of node; expected one of {', '.join(_KINDS)}"
        )
    return parts


def _number(part: str, whole: str, name: str) -> int:
    largest = _LARGEST_INDEX if name == "index" else _LARGEST
    # More digits than the largest has are refused before they are read as a number.
    if not (part.isascii() and part.isdecimal() and len(part) <= len(str(largest)) and int(part) <= largest):
        raise ArgumentError(f"{part[:20]!r} in {_short(whole)} is not a number from 0 to {largest}")
    return int(part)


def _short(text: object) -> str:
    shown = repr(text)
    return shown if len(shown) <= 60 else f"{shown[:58]}…"
