"""What stands along the two axes of a graph: its layers, and its tokens or, of a circuit, its heads."""

from __future__ import annotations

from collections.abc import Mapping

from ..charts.text import visible
from .graph_columns import GraphColumns
from .node import EXCHANGING, STACKS, Node, NodeKind

_HEADS: Mapping[NodeKind, str] = {"kv_group": "KV", "head": "H", "cross_kv_group": "cross.KV", "cross_head": "cross.H"}
"""Kind of a node with a head → what its column begins with, in the order of columns."""
_CIRCUIT = frozenset({"embed", *_HEADS, "mlp", "logits"})
MLP_COLUMN = "MLP"
"""Name of the column of a circuit's MLPs."""


def is_circuit(graph: GraphColumns) -> bool:
    """Whether a graph is of a model's parts, without positions, rather than of states at positions."""
    return bool(graph.nodes) and all(node.position is None and node.kind in _CIRCUIT for node in graph.nodes)


def columns(graph: GraphColumns) -> tuple[str, ...]:
    """What stands along the axis that layers do not: the tokens; of a circuit the numbers of its heads, and the MLPs."""
    if not is_circuit(graph):
        # A free column stands between two stacks.
        others = [visible(token) for stack in graph.info.stacks for token in (*stack.tokens, "")]
        return (*others, *(visible(token) for token in graph.info.tokens))
    found: list[str] = []
    for stack in (*(one.name for one in graph.info.stacks), None):
        own = [node for node in graph.nodes if node.stack == stack]
        for kind in _HEADS:
            numbers = sorted({node.head or 0 for node in own if node.kind == kind})
            found += [circuit_column(Node(kind, 0, number, stack=stack)) for number in numbers]
        found += [circuit_column(node) for node in own if node.kind == "mlp"][:1]
        found += [] if stack is None else [""]
    return tuple(found)


def circuit_column(node: Node) -> str:
    """Name of the column of a head or an MLP of a circuit."""
    own = MLP_COLUMN if node.kind == "mlp" else f"{_HEADS[node.kind]}{node.head}"
    return own if node.stack is None else f"{STACKS[node.stack]}.{own}"


def column_of(graph: GraphColumns, node: Node) -> int:
    """The column of a node's position, in that of the explained position if it has none."""
    position = graph.info.position if node.position is None else node.position
    passed = [stack.name for stack in graph.info.stacks]
    between = len(passed) if node.stack is None or node.stack not in passed else passed.index(node.stack)
    return graph.info.column(node.stack, position) + between


def column_names(graph: GraphColumns) -> list[str] | None:
    """The number of each column's position within its stack, with the stack's name; None for one stack, whose columns are its positions."""
    if not graph.info.stacks or is_circuit(graph):
        return None
    names = [
        name
        for stack in graph.info.stacks
        for name in (*(f"{n} of the {stack.name}" for n in range(len(stack.tokens))), "")
    ]
    return [*names, *map(str, range(len(graph.info.tokens)))]


def stack_spans(graph: GraphColumns) -> tuple[tuple[str, int, int], ...]:
    """Name, first and last column of each stack; empty for one stack."""
    info = graph.info
    if not info.stacks:
        return ()
    last = "text" if exchanges(graph) else "decoder"
    if is_circuit(graph):
        names = columns(graph)
        end = names.index("")
        return (info.stacks[0].name, 0, end - 1), (last, end + 1, len(names) - 1)
    sizes = [*((one.name, len(one.tokens)) for one in info.stacks), (last, len(info.tokens))]
    found, first = [], 0
    for name, count in sizes:
        found.append((name, first, first + count - 1))
        first += count + 1  # the free column between
    return tuple(found)


def heights(graph: GraphColumns) -> tuple[int, int]:
    """First and one-past-last layer that the picture has room for: those of the deepest stack."""
    first, end = graph.info.layers
    others = (first + stack.layers + raised(graph, stack.name) for stack in graph.info.stacks)
    return first, max([end + raised(graph, None), *others])


def exchanges(graph: GraphColumns) -> bool:
    """Whether the graph is of two stacks that read each other in the same layers."""
    return any(stack.name == EXCHANGING for stack in graph.info.stacks)


def raised(graph: GraphColumns, stack: str | None) -> int:
    """Layers by which a stack begins higher than another, so that layers that read each other stand side by side."""
    other = next((one.layers for one in graph.info.stacks if one.name == EXCHANGING), None)
    if other is None or stack not in (None, EXCHANGING):
        return 0
    # Both end together.
    more = graph.info.total_layers - other
    return max(0, -more if stack is None else more)
