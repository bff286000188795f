"""A node as text that can be read back, and from such text to a checked node.

``kind.layer.head.position.index``, ``-`` where the kind has none: ``resid_post.23.-.7.-``, ``head.21.4.7.-``. Shorter, without
what the kind does not have: ``resid_post.23.7``, ``head.21.4.7``, ``embed.3``. A node of an encoder begins with its name:
``encoder/head.2.4.7``.
"""

from __future__ import annotations

from functools import cache

from ..errors import ArgumentError
from .arguments import takes
from .node import NODE_KINDS, STACKS, Node

_FIELDS = ("layer", "head", "position", "index")
_LARGEST = 2**31 - 1
_LARGEST_INDEX = 2**53 - 1  # numbers of features, which some files make of two numbers
_LONGEST = 80


@takes(Node)
def node_key(node: Node, *, short: bool = False) -> str:
    """A node as text that :func:`parse_node` reads back, as the app's address writes it.

    Parameters
    ----------
    node
        Any node; the text of its token is not part of the key.
    short
        Leave out what nodes of this kind do not have.

    Examples
    --------
    >>> node = fg.Node("head", layer=21, head=4, position=7)
    >>> fg.node_key(node), fg.node_key(node, short=True)
    ('head.21.4.7.-', 'head.21.4.7')
    """
    stack = "" if node.stack is None else f"{node.stack}/"
    if short:
        return stack + ".".join([node.kind, *(str(getattr(node, name)) for name in _short_fields(node.kind))])
    return stack + ".".join([node.kind, *("-" if (n := getattr(node, name)) is None else str(n) for name in _FIELDS)])


@takes(str)
def parse_node(text: str) -> Node:
    """The node that a text names: ``head.21.4.7.-``, or shorter ``head.21.4.7``, as :func:`node_key` writes it.

    Parameters
    ----------
    text
        Kind, layer, head, position and index with dots between; of the shorter form only what nodes of this kind have.

    Raises
    ------
    ArgumentError
        If the text is no such key, or there is no such kind of node.

    Examples
    --------
    >>> fg.parse_node("resid_post.23.7")
    Node(kind='resid_post', layer=23, head=None, position=7, index=None, token=None, stack=None)
    """
    parts, stack = _parts(text)
    names = _short_fields(parts[0])
    if len(parts) == 1 + len(names) and "-" not in parts:
        numbers = {name: _number(part, text, name) for name, part in zip(names, parts[1:], strict=True)}
        return Node(parts[0], **numbers, stack=stack)  # type: ignore[arg-type]
    if len(parts) == 1 + len(_FIELDS):
        every = {
            name: None if part == "-" else _number(part, text, name)
            for name, part in zip(_FIELDS, parts[1:], strict=True)
        }
        return Node(parts[0], **every, stack=stack)  # type: ignore[arg-type]
    raise ArgumentError(
        f"{_short(text)} is not a node; expected {'.'.join([parts[0], *names])}, or {'.'.join(['kind', *_FIELDS])} with '-' for none"
    )


@cache
def _short_fields(kind: str) -> tuple[str, ...]:
    """Which numbers a kind has, in their order: the position, unless it is a logit, and those that it cannot be without."""
    return tuple(
        name for name in _FIELDS if (kind != "logit" if name == "position" else not _can_be_without(kind, name))
    )


def _can_be_without(kind: str, name: str) -> bool:
    try:
        Node(kind, **{other: 0 for other in _FIELDS if other != name})  # type: ignore[arg-type]
    except ArgumentError:
        return False
    return True


def _parts(text: str) -> tuple[list[str], str | None]:
    """Kind and numbers of a key, and the stack that it names."""
    if not isinstance(text, str) or not 0 < len(text) <= _LONGEST:
        raise ArgumentError(f"{_short(text)} is not a node: expected a text of 1 to {_LONGEST} characters")
    stack, slash, rest = text.partition("/")
    if slash and stack not in STACKS:
        raise ArgumentError(f"{stack[:20]!r} in {_short(text)} is not a stack; expected {', '.join(map(repr, STACKS))}")
    parts = (rest if slash else text).split(".")
    if parts[0] not in NODE_KINDS:
        raise ArgumentError(
            f"kind={parts[0]!r} in {_short(text)} is not a kind of node; expected one of {', '.join(NODE_KINDS)}"
        )
    return parts, stack if slash else None


def _number(part: str, whole: str, name: str) -> int:
    largest = _LARGEST_INDEX if name == "index" else _LARGEST
    # More digits than the largest has are refused before they are read as a number.
    if not (part.isascii() and part.isdecimal() and len(part) <= len(str(largest)) and int(part) <= largest):
        raise ArgumentError(f"{part[:20]!r} in {_short(whole)} is not a number from 0 to {largest}")
    return int(part)


def _short(text: object) -> str:
    shown = repr(text)
    return shown if len(shown) <= 60 else f"{shown[:58]}…"
