"""Panels as plain trees that the browser draws at once: thousands of cells as Dash components would take it seconds.

A tree is made of :func:`element`; :func:`drawn` is the :class:`~.chart_panel.ChartPanel` that carries it.
``assets/chart_panel.js`` builds it with ``createElement`` and ``textContent``, from the tags and attributes listed here and no
others: no text can become markup.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from flowgraph import Node, node_key
from flowgraph.render import visible

if TYPE_CHECKING:
    from .chart_panel import ChartPanel

TAGS = frozenset({
    "div", "p", "span", "b", "i", "button", "table", "caption", "thead", "tbody", "tfoot", "tr", "th", "td", "dl", "dt", "dd", "h3", "h4",
    "label", "input", "section", "h2", "ul", "select",
})  # fmt: skip
ATTRIBUTES = frozenset(
    {
        "class",
        "title",
        "role",
        "scope",
        "type",
        "tabindex",
        "hidden",
        "colspan",
        "disabled",
        "checked",
        "id",
        "min",
        "max",
        "step",
        "value",
    }
)
"""Besides ``aria-…`` and ``data-…``, and custom properties ``--…`` for lengths."""
_MARKS = "␣⏎⇥"


@dataclass(frozen=True)
class Element:
    """A tag, its attributes by name (``--x`` is a custom property of its style), and its children."""

    tag: str
    attributes: Mapping[str, str] = field(default_factory=dict)
    children: tuple[Element | str, ...] = ()

    def plain(self) -> list[Any]:
        """``[tag, attributes, child, …]``, as the script reads it."""
        return [self.tag, dict(self.attributes), *(c if isinstance(c, str) else c.plain() for c in self.children)]

    def walk(self) -> Iterator[Element]:
        """The element and all elements in it."""
        yield self
        for child in self.children:
            if isinstance(child, Element):
                yield from child.walk()

    @property
    def text(self) -> str:
        """All text in it."""
        return "".join(child if isinstance(child, str) else child.text for child in self.children)


Fact = tuple[Element | str, Element | str, str]
"""What is said of something: name, value, unit."""


def element(tag: str, *children: Element | str | None, **attributes: Any) -> Element:
    """Make an element: ``cls`` is the class, ``data_pick`` is ``data-pick``, ``v_width=.5`` is ``--width: 0.5``.

    Attributes that are None or False, and children that are None, are left out.
    """
    named = {_attribute(name): value for name, value in attributes.items() if value is not None and value is not False}
    unknown = [name for name in named if name not in ATTRIBUTES and not name.startswith(("aria-", "data-", "--"))]
    if tag not in TAGS or unknown:
        raise ValueError(f"element({tag!r}, {', '.join(unknown)}) is nothing the script draws")
    texts = {name: "" if value is True else str(value) for name, value in named.items()}
    return Element(tag, texts, tuple(child for child in children if child is not None))


def drawn(tree: Element, *, name: str, label: str, selected: str | None = None) -> ChartPanel:
    """The component of a tree.

    Parameters
    ----------
    tree
        What is drawn.
    name
        Class of the panel, ``lens``. A page shows one panel of a name.
    label
        What a screen reader calls it.
    selected
        Key of the node that is marked, wherever it occurs.
    """
    # The process that answers questions draws nothing and needs no Dash.
    from .chart_panel import ChartPanel

    return ChartPanel(tree.plain(), name=name, label=label, selected=selected)


def message(text: str, *, name: str = "absent", label: str = "Nothing to show") -> ChartPanel:
    """A panel that has nothing to show, and why."""
    return drawn(element("p", text, cls="absent"), name=name, label=label)


def token(text: str, tag: str = "span") -> Element:
    """A token with the marks for spaces, newlines and tabs faded, unless it has nothing else."""
    shown = visible(text)
    pieces: list[str] = []
    for character in shown:
        if pieces and (character in _MARKS) == (pieces[-1][0] in _MARKS):
            pieces[-1] += character
        else:
            pieces.append(character)
    if len(pieces) == 1:
        return element(tag, shown, cls="token")
    parts = [element("i", piece) if piece[0] in _MARKS else piece for piece in pieces]
    return element(tag, *parts, cls="token")


def pick(tag: str, node: Node, *children: Element | str, **attributes: Any) -> Element:
    """An element that selects a node when it is clicked."""
    return element(tag, *children, data_pick=node_key(node), **attributes)


def link(node: Node, *children: Element | str) -> Element:
    """A button, written as text, that selects a node."""
    return pick("button", node, *children, type="button", cls="link")


def node_label(node: Node) -> str:
    """The label of a node, its token as it can be read."""
    return str(node if node.token is None else replace(node, token=visible(node.token)))


def facts(rows: list[Fact]) -> Element:
    """A list of (name, value, unit)."""
    cells = []
    for name, value, unit in rows:
        note = element("span", f" {unit}", cls="note") if unit else None
        cells += [element("dt", name), element("dd", value, note, cls="number")]
    return element("dl", *cells, cls="facts")


def _attribute(name: str) -> str:
    if name == "cls":
        return "class"
    if name.startswith("v_"):
        return f"--{name[2:]}"
    return name.replace("_", "-")
