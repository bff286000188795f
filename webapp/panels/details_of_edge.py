"""What an edge of the flow graph carries, beside the picture. Edges are selected as ``edge.17``, their index in the graph."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowgraph import FlowGraph, Node
from flowgraph.render import visible

from ..present.drawn import Fact, drawn, element, facts, link, node_label
from ..present.figures import probability, signed, weight
from ..server.run import Run
from .edges import flows, has_signs

if TYPE_CHECKING:
    from dash.development.base_component import Component


def panel(graph: FlowGraph, edge: int, run: Run) -> Component:
    """What an edge carries.

    Parameters
    ----------
    graph
        The graph on the screen.
    edge
        Index of the edge in it.
    run
        The pass.
    """
    about = graph.edge_dict(edge)
    source, target = (graph.nodes[ends[edge]] for ends in (graph.source, graph.target))
    found: list[Fact] = [
        ("from", link(source, node_label(source)), _token_of(source, run)),
        ("to", link(target, node_label(target)), _token_of(target, run)),
    ]
    if about["head"] is not None:
        found.append(("head", f"L{about['layer']}H{about['head']}", ""))
    if about["weight"] is None:
        found.append(("weight", "none", "under this method"))
    else:
        # Where the weight is a share of the same whole, it would say the same number twice.
        if about["unit"] != "share":
            found.append(("weight", weight(about["weight"], about["unit"]), about["unit"]))
        found += [
            (
                "part of what enters the target",
                signed(about["share"], 3) if has_signs(graph) else probability(about["share"]),
                "",
            ),
            ("flow to the start", _flow(graph, edge), "share"),
        ]
    lowers = element("p", "It lowers its target.", cls="note") if (about["share"] or 0) < 0 else None
    tree = element("div", element("h3", f"{about['kind'].replace('_', ' ')} edge"), facts(found), lowers, cls="details")
    return drawn(tree, name="details", label="Details of an edge", selected=f"edge.{edge}")


def _flow(graph: FlowGraph, edge: int) -> str:
    """Flow of an edge, its sign where edges have one."""
    value = float(flows(graph)[edge])
    return signed(-value if graph.share[edge] < 0 else value, 3) if has_signs(graph) else probability(value)


def _token_of(node: Node, run: Run) -> str:
    """The token that a node stands at, in words."""
    if node.stack is not None or node.position is None or node.position >= len(run.tokens):
        return ""
    return visible(run.tokens[node.position])
