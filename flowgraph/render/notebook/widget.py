"""A flow graph as a Jupyter widget: what is selected, pinned and shown can be read and set from both sides.

It needs anywidget; :meth:`flowgraph.FlowGraph.widget` says so where it is missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import anywidget
import traitlets

from ...errors import ArgumentError
from ...values.flow_graph import FlowGraph
from ...values.node import Node
from ..page.document import HEIGHT, HEIGHTS, LIBRARY, THEME_CHOICES, asset, page_bundle, page_styles
from ..page.html import drawn_nodes, page_of
from ..scene.elements import LEVELS


class Nodes(traitlets.TraitType[tuple[Node, ...], Any]):
    """Nodes of the picture: a tuple of them; one node and None can be set too. In the browser they are ids."""

    def validate(self, obj: Any, value: Any) -> tuple[Node, ...]:
        """The nodes as a tuple."""
        found = () if value is None else (value,) if isinstance(value, Node) else value
        if isinstance(found, str) or not isinstance(found, Iterable):
            raise ArgumentError(f"{self.name}={value!r} must be a Node, a sequence of them, or None")
        nodes = tuple(found)
        for node in nodes:
            if not isinstance(node, Node) or node not in obj.numbers:
                raise ArgumentError(f"{self.name}: {node!s} is no node of the picture, which has {len(obj.numbers):,}")
        return nodes


class Whole(traitlets.TraitType[int, Any]):
    """A whole number between two others."""

    def __init__(self, default: int, low: int, high: int) -> None:
        super().__init__(default_value=default)
        self.low, self.high = low, high

    def validate(self, obj: Any, value: Any) -> int:  # noqa: ARG002
        """The number, if it is one and in range."""
        if isinstance(value, bool) or not isinstance(value, int) or not self.low <= value <= self.high:
            raise ArgumentError(f"{self.name}={value!r} must be a whole number between {self.low} and {self.high:,}")
        return value


class Choice(traitlets.TraitType[str, Any]):
    """One of a few words, at first the first."""

    def __init__(self, *choices: str) -> None:
        super().__init__(default_value=choices[0])
        self.choices = choices

    def validate(self, obj: Any, value: Any) -> str:  # noqa: ARG002
        """The word, if it is one of them."""
        if value not in self.choices:
            raise ArgumentError(f"{self.name}={value!r} is not known; expected one of {', '.join(self.choices)}")
        return str(value)


def _ids(nodes: Sequence[Node], widget: FlowWidget) -> list[str]:
    return [f"n{widget.numbers[node]}" for node in nodes]


def _nodes(ids: Sequence[str], widget: FlowWidget) -> tuple[Node, ...]:
    names = {f"n{n}": node for node, n in widget.numbers.items()}
    unknown = [name for name in ids if name not in names]
    if unknown:
        raise ArgumentError(f"the browser spoke of {', '.join(map(repr, unknown))}, which the picture does not have")
    return tuple(names[name] for name in ids)


def _module() -> str:
    """The widget's JavaScript module: Cytoscape.js, the page scripts and what joins them to the model; nothing is fetched."""
    # Notebooks may have a module loader of their own: the library must see none of it.
    library = f"const held = {{ exports: {{}} }};\n(function (module, exports, define) {{\n{asset(LIBRARY)}\n}})(held, held.exports);\n"
    return f"{library}const cytoscape = held.exports;\n{page_bundle()}{asset('widget.js')}"


class FlowWidget(anywidget.AnyWidget):
    """A flow graph on a notebook's page, connected with the kernel.

    Parameters
    ----------
    graph
        Any flow graph; of a large one the strongest edges are drawn, as on the page.
    **traits
        Values to begin with.

    Attributes
    ----------
    graph
        What was given.
    numbers
        Node → its number in the picture.
    selection
        The node that is selected, or source and target of the edge that is, as a tuple; empty without a selection. Set it
        to a node, to the two ends of an edge, or to None.
    pins
        Tuple of the nodes that are pinned. Set it to nodes, or to None.
    level
        Value of the slider, 0…1000: how many of the strongest edges are shown. Semantic graphs are shown whole.
    width
        ``"flow"`` or ``"share"``: what the width of edges stands for.
    theme
        ``"auto"`` (as the notebook is), ``"light"`` or ``"dark"``.
    height
        Height in px, 200…4,000.

    Raises
    ------
    ArgumentError
        If a node is not in the picture, two selected nodes have no edge between them, or a value is out of range.
    """

    _esm = _module()
    _css = page_styles()
    _page = traitlets.Dict().tag(sync=True)

    selection = Nodes(default_value=()).tag(sync=True, to_json=_ids, from_json=_nodes)
    pins = Nodes(default_value=()).tag(sync=True, to_json=_ids, from_json=_nodes)
    level = Whole(LEVELS, 0, LEVELS).tag(sync=True)
    width = Choice("flow", "share").tag(sync=True)
    theme = Choice(*THEME_CHOICES).tag(sync=True)
    height = Whole(HEIGHT, *HEIGHTS).tag(sync=True)

    def __init__(self, graph: FlowGraph, **traits: Any) -> None:
        unknown = sorted(set(traits) - _SETTABLE)
        if unknown:
            raise ArgumentError(
                f"{', '.join(unknown)}: not a trait of the widget; expected {', '.join(sorted(_SETTABLE))}"
            )
        page = page_of(graph)
        self.graph = graph
        self.numbers = {node: n for n, node in enumerate(drawn_nodes(graph))}
        self._ends = {(edge["data"]["source"], edge["data"]["target"]) for edge in page.data["edges"]}
        opening = {"level": page.data.get("level", LEVELS), **traits}
        super().__init__(_page={"shell": page.shell, "data": dict(page.data)}, **opening)

    @traitlets.validate("selection")
    def _one_thing(self, proposal: traitlets.Bunch) -> tuple[Node, ...]:
        nodes: tuple[Node, ...] = proposal["value"]
        if len(nodes) > 2 or (len(nodes) == 2 and tuple(_ids(nodes, self)) not in self._ends):
            raise ArgumentError(
                f"selection={', '.join(map(str, nodes))} must be one node, or source and target of one edge"
            )
        return nodes


_SETTABLE = frozenset({"selection", "pins", "level", "width", "theme", "height"})
