"""What is to be seen of a graph: its nodes in layers over tokens or heads, and what each node and edge says."""

from __future__ import annotations

from typing import TypeVar

import numpy as np

from ..charts.diagram import Diagram
from ..charts.grid import Places
from ..charts.table import Table, columns_of
from ..charts.text import visible
from .effects import is_picture_of_parts
from .graph_axes import column_of, columns, heights, is_circuit
from .graph_columns import GraphColumns
from .node import label

G = TypeVar("G", bound=GraphColumns)
EDGE_ATTRIBUTES = ("kind", "layer", "head", "query_pos", "key_pos", "weight", "share", "unit")
_WORDS = 3


def diagram(graph: G, keep: int | None = None) -> Diagram[G]:
    """A graph as a diagram; ``keep`` as there."""
    circuit = is_circuit(graph)
    names, (first, end) = columns(graph), heights(graph)
    return Diagram(
        title="Parts behind the answer" if is_picture_of_parts(graph) else "Circuit" if circuit else "Flow graph",
        graph=graph,
        rows=Places("layer", tuple(range(first, end)), is_upward=True),
        columns=Places("head" if circuit else "position", tuple(range(len(names))), names, is_numbered=not circuit),
        row_of=tuple(node.layer for node in graph.nodes),
        column_of=tuple(None if node.position is None else column_of(graph, node) for node in graph.nodes),
        node_tip=lambda n: node_tip(graph, n),
        edge_tip=lambda e: edge_tip(graph, e),
        edges=lambda: edge_table(graph),
        keep=keep,
    )


def edge_table(graph: GraphColumns) -> Table:
    """One row for each edge: its ends as rows of the nodes and with their names, and all that it carries."""
    labels = np.array([label(node) for node in graph.nodes], dtype=object)
    ends = {"source": graph.source, "target": graph.target}
    named = {f"{end}_label": labels[indices].tolist() for end, indices in ends.items()}
    attributes = EDGE_ATTRIBUTES if graph.flow is None else (*EDGE_ATTRIBUTES, "flow")
    carried = columns_of(map(graph.edge_dict, range(len(graph))), attributes)
    title = f"{len(graph):,} edges between {len(graph.nodes):,} nodes"
    return Table(title, {**ends, **named, **carried, "structural": graph.structural}, words=("kind", "unit"))


def node_tip(graph: GraphColumns, n: int) -> tuple[str, ...]:
    """Name and token of a node, and the words that are read from it."""
    node, names = graph.nodes[n], columns(graph)
    reading = graph.readings[n] if graph.readings else None
    token = "" if node.position is None else f" {names[column_of(graph, node)]}"
    said = [] if reading is None else [f"{visible(text)} {chance:.3f}" for text, chance, _ in reading.top[:_WORDS]]
    if reading is not None and reading.target_rank is not None and graph.info.target_token is not None:
        said.append(f"rank of {visible(graph.info.target_token)}: {reading.target_rank:,}")
    return (f"{label(node)}{token}", *said)


def edge_tip(graph: GraphColumns, e: int) -> tuple[str, ...]:
    """The ends of an edge, its weight and its share; of a part its effect."""
    ends = " → ".join(label(graph.nodes[int(end[e])]) for end in (graph.source, graph.target))
    if graph.structural[e]:
        return (ends, "no number under this method")
    weight = f"{float(graph.weight[e]):+.3g} {graph.unit_of(e)}"
    return (ends, weight) if is_picture_of_parts(graph) else (ends, weight, f"share {float(graph.share[e]):.3f}")
