"""What ``flowgraph semantic`` prints: per layer what attention and the MLP write, by which heads and neurons, and the target's rank."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from ..charts.text import visible
from ..render.page.semantic_page import statements
from ..render.words.terminal import print_line, report
from ..values.node import Node

if TYPE_CHECKING:
    from rich.console import Console

    from ..values.flow_graph import FlowGraph
    from ..values.reading import NodeReading

_HEADS, _NEURONS, _WORDS, _SOURCES = 5, 5, 4, 2
_RIGHT = frozenset({"part", "rank", "logits"})


def print_report(graph: FlowGraph, output: Path | None) -> None:
    """Print the report on standard output, and the name of the file that was written."""
    read = _Lookup(graph)
    with report() as out:
        for position in read.positions:
            for layer in range(*graph.info.layers):
                _print_block(out, read, layer, position)
        print_line(out, graph.caption())
        if output is not None:
            print_line(out, f"wrote {output} ({output.stat().st_size / 1024:,.0f} KB)")


class _Lookup:
    """Nodes of a graph by what they are, with their readings and the parts they make up."""

    def __init__(self, graph: FlowGraph) -> None:
        self.graph = graph
        readings = graph.readings or (None,) * len(graph.nodes)
        self.reading: dict[Node, NodeReading | None] = dict(zip(graph.nodes, readings, strict=True))
        self.part = {
            (graph.nodes[graph.source[e]], graph.nodes[graph.target[e]]): float(graph.weight[e])
            for e in range(len(graph))
            if graph.unit_of(e) == "contribution"
        }
        self.positions = sorted(
            {node.position for node in graph.nodes if node.kind == "attn" and node.position is not None}
        )

    def of_kind(self, kind: str, layer: int, position: int) -> list[Node]:
        """Nodes of a kind, those that make up most of their target first."""
        found = [node for node in self.graph.nodes if (node.kind, node.layer, node.position) == (kind, layer, position)]
        return sorted(found, key=lambda node: -abs(self.part_of(node)))

    def part_of(self, node: Node) -> float:
        """The part that a head or neuron makes up of what its block adds; 0 if it is no part of it."""
        whole = Node("mlp" if node.kind == "neuron" else "attn", layer=node.layer, position=node.position)
        return self.part.get((node, whole), 0.0)

    def words(self, node: Node) -> str:
        """The top tokens of a node."""
        reading = self.reading.get(node)
        return " ".join(visible(token) for token, *_ in reading.top[:_WORDS]) if reading is not None else ""


def _print_block(out: Console, read: _Lookup, layer: int, position: int) -> None:
    token = visible(read.graph.info.tokens[position])
    table = Table(
        title=Text(f"layer {layer} at position {position} ({token})"), title_justify="left", box=None, pad_edge=False
    )
    for name in ("", "part", "reads", "writes", "rank", "logits"):
        table.add_column(name, justify="right" if name in _RIGHT else "left", overflow="fold")
    for whole, kind, most in (("attn", "head", _HEADS), ("mlp", "neuron", _NEURONS)):
        node = Node(whole, layer=layer, position=position)  # type: ignore[arg-type]
        _add_row(table, read, node, "attention" if whole == "attn" else "MLP", "")
        for part in read.of_kind(kind, layer, position)[:most]:
            name = f"H{part.head}" if kind == "head" else f"N{part.index}"
            _add_row(table, read, part, f"  {name}", _sources(read, part) if kind == "head" else _inputs(read, part))
    out.print(table)
    for line in (_ranks(read, layer, position), " ".join(statements(read.graph, layer, position))):
        if line:
            print_line(out, line)
    print_line(out, "")


def _add_row(table: Table, read: _Lookup, node: Node, name: str, reads: str) -> None:
    reading = read.reading.get(node)
    if reading is None:
        return
    part = read.part_of(node)
    rank = "" if reading.target_rank is None else f"{reading.target_rank:,}"
    logits = "" if reading.contribution is None else f"{reading.contribution:+.2f}".replace("-", "−")
    shown = f"{part:.3f}".replace("-", "−") if part else ""
    style = "" if name.startswith(" ") else "bold"
    table.add_row(Text(name, style=style), shown, Text(reads), Text(read.words(node)), rank, logits)


def _sources(read: _Lookup, head: Node) -> str:
    """The tokens that a head reads most of, with their attention."""
    keys = [
        (reading.activation or 0.0, node) for node, reading in read.reading.items()
        if reading is not None and (node.kind, node.layer, node.head, node.position) == ("key", head.layer, head.head, head.position)
    ]  # fmt: skip
    tokens = read.graph.info.tokens
    strongest = sorted(keys, key=lambda key: -key[0])[:_SOURCES]
    return " ".join(f"{visible(tokens[node.index or 0])}@{node.index} {attended:.2f}" for attended, node in strongest)


def _inputs(read: _Lookup, neuron: Node) -> str:
    """What a neuron responds to: its gate, or where it has none its input."""
    place = {"layer": neuron.layer, "position": neuron.position, "index": neuron.index}
    gate, single = Node("gate", **place), Node("neuron_in", **place)  # type: ignore[arg-type]
    return read.words(gate if gate in read.reading else single)


def _ranks(read: _Lookup, layer: int, position: int) -> str:
    """The target's rank along the residual stream."""
    info = read.graph.info
    before = Node("resid_pre", layer=layer, position=position)
    if before not in read.reading and layer:
        before = Node("resid_post", layer=layer - 1, position=position)
    places = (
        (before, "before"),
        (Node("resid_mid", layer=layer, position=position), "after attention"),
        (Node("resid_post", layer=layer, position=position), "after the MLP"),
    )
    found = [(read.reading.get(node), name) for node, name in places]
    ranks = [
        f"{reading.target_rank:,} {name}"
        for reading, name in found
        if reading is not None and reading.target_rank is not None
    ]
    return f"rank of {visible(info.target_token or 'the target')}: {', '.join(ranks)}" if ranks else ""
