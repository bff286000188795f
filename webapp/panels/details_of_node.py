"""What one node says, beside the picture: :class:`flowgraph.NodeDetails`, and what the graph on the screen adds to it.

``panel(said, graph, run, *, pinned=()) -> Component``: ``graph`` is the graph on the screen; ``pinned`` are node keys. Buttons
``{"type": "act", "act": "pin" | "unpin" | "start", "node": key}``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from flowgraph import FlowGraph, Node, NodeDetails, NodeReading
from flowgraph.render import note_facts, roles_text, visible

from ..present import html
from ..present.buttons import acts
from ..present.drawn import Element, Fact, drawn, element, facts, node_label, token
from ..present.figures import count, plural, probability, short, signed
from ..present.tables import Cell, Column, table
from ..server.run import Run
from .edges import edge_table, edges_at, flows

if TYPE_CHECKING:
    from dash.development.base_component import Component

_PARTS = frozenset({"head", "attn", "mlp", "neuron", "attn_bias", "mlp_bias"})
_KEYS = 8


def panel(
    said: NodeDetails, graph: FlowGraph | None, run: Run, *, pinned: Sequence[str] = (), starts: bool = True
) -> Component:
    """What a node says.

    Parameters
    ----------
    said
        What it says.
    graph
        The graph on the screen; None where there is none yet.
    run
        The pass.
    pinned
        Keys of the pinned nodes.
    starts
        Whether the flow into another node can be asked for.
    """
    node = said.node
    n = graph.nodes.index(node) if graph is not None and node in graph.nodes else None
    tree = element(
        "div",
        element("h3", node_label(node)),
        _place(node, run),
        _roles(graph, n),
        element("p", f"Not said: {said.note}.", cls="note") if said.note else None,
        facts(_facts(said, graph, n, run)),
        _two_measures(said, run),
        *_vocabulary(said.reading, ", read alone" if _is_part(node) else ""),
        _looks_at(said),
        *([] if graph is None else _edges(graph, n)),
        cls="details",
    )
    return html.Div(
        [acts(node, pinned, starts=starts), drawn(tree, name="details", label=f"Details of {node}")],
        className="node-panel",
    )


def _place(node: Node, run: Run) -> Element:
    if node.stack is not None:
        return element("p", f"layer {node.layer} of the {node.stack} · position {node.position}", cls="place")
    layer = "no layer" if node.layer is None else f"layer {node.layer} of {run.n_layers}"
    if node.position is None or node.position >= len(run.tokens):
        return element("p", layer, cls="place")
    return element("p", f"{layer} · ", token(run.tokens[node.position]), f" at position {node.position}", cls="place")


def _roles(graph: FlowGraph | None, n: int | None) -> Element | None:
    """Roles of a head, where the graph carries them."""
    if graph is None or n is None or not graph.roles or graph.nodes[n].kind != "head":
        return None
    return element("p", f"roles: {roles_text(graph.roles[n])}", cls="note")


def _facts(said: NodeDetails, graph: FlowGraph | None, n: int | None, run: Run) -> list[Fact]:
    noted = note_facts(graph) if graph is not None and n is not None else []
    found: list[Fact] = [(name, value, "") for name, value in (noted[n] or [] if noted and n is not None else [])]
    reading = said.reading
    if said.contribution is not None:
        found.append(("adds to the logit", signed(said.contribution), "logits"))
    if graph is not None and n is not None and len(graph):
        flow = sum(flows(graph)[edge] for edge in edges_at(graph, n, "out"))
        found.append(
            (
                "flow to the start",
                "1, it is the start" if not edges_at(graph, n, "out") else probability(float(flow)),
                "",
            )
        )
    if reading is None:
        return found
    alone = "read alone, " if _is_part(said.node) else ""
    found += _asked(
        f"{alone}target", run.target_token, reading.target_rank, reading.target_probability, reading.target_logit
    )
    found += _asked(f"{alone}foil", run.foil_token, reading.foil_rank, reading.foil_probability, reading.foil_logit)
    if reading.entropy is not None:
        found.append(("entropy", f"{reading.entropy:.2f}", "nats"))
    found.append(("norm", short(reading.norm), ""))
    if reading.activation is not None:
        found.append(("activation", signed(reading.activation, 3), ""))
    return found


def _is_part(node: Node) -> bool:
    """Whether a node is a part that is added to a state, and no state itself."""
    return node.kind in _PARTS


def _two_measures(said: NodeDetails, run: Run) -> Element | None:
    """What a part adds and what it says alone are two things, and may contradict each other."""
    reading, added = said.reading, said.contribution
    if (
        not _is_part(said.node)
        or reading is None
        or added is None
        or reading.target_rank is None
        or run.target_token is None
    ):
        return None
    aim: list[Element | str] = [token(run.target_token)]
    if run.foil_token is not None:
        aim += [" minus that of ", token(run.foil_token)]
    above = reading.target_rank - 1
    stands = (
        f"{visible(run.target_token)} is the first of all tokens"
        if not above
        else f"{plural(above, 'other token')} {'stands' if above == 1 else 'stand'} above {visible(run.target_token)}"
    )
    return element(
        "p", f"Two measures: it adds {signed(added)} to the logit of ", *aim, "; read alone, through the final norm, ", stands,
        ". What is added to one token says nothing of what is added to the others.", cls="note measures",
    )  # fmt: skip


def _asked(role: str, text: str | None, rank: int | None, chance: float | None, logit: float | None) -> list[Fact]:
    """Rank, probability and logit of target or foil on one line."""
    parts = [] if rank is None else [f"rank {count(rank)}"]
    parts += [] if chance is None else [f"p {probability(chance)}"]
    parts += [] if logit is None else [signed(logit)]
    name = element("span", f"{role} ", "" if text is None else token(text))
    return [(name, ", ".join(parts), "logits" if logit is not None else "")] if text is not None and parts else []


def _vocabulary(reading: NodeReading | None, how: str) -> list[Element]:
    """Highest and lowest tokens, each with its bar; ``how`` the vector was read is part of their names."""
    if reading is None or not reading.top:
        return []
    most = max(chance for _, chance, _ in reading.top) or 1.0
    top = [
        [
            Cell(token(text)),
            Cell(_gauge(chance / most, "up")),
            Cell(probability(chance), chance),
            Cell(signed(logit), logit),
        ]
        for text, chance, logit in reading.top
    ]
    columns = (
        Column("says"),
        Column("bar", kind="plot"),
        Column("probability", kind="number"),
        Column("logit", kind="number"),
    )
    found = [table(f"Highest tokens{how}", columns, top, by=(2, "descending"))]
    if reading.bottom:
        least = max(abs(logit) for *_, logit in reading.bottom) or 1.0
        low = [
            [
                Cell(token(text)),
                Cell(_gauge(abs(logit) / least, "down" if logit < 0 else "up")),
                Cell(signed(logit), logit),
            ]
            for text, _, logit in reading.bottom
        ]
        heads = (Column("says least"), Column("bar", kind="plot"), Column("logit", kind="number"))
        found.append(table(f"Lowest tokens{how}", heads, low, by=(2, "ascending")))
    return found


def _looks_at(said: NodeDetails) -> Element | None:
    """Where a head looks, the strongest keys first, and what the others hold."""
    if said.attention is None:
        return None
    ranked = sorted(enumerate(said.attention.tolist()), key=lambda pair: -pair[1])
    lines = [
        [
            Cell(element("span", token(said.tokens[key]), element("span", f" {key}", cls="note")), key),
            Cell(_gauge(value, "up")),
            Cell(probability(value), value),
        ]
        for key, value in ranked[:_KEYS]
        if value > 0
    ]
    columns = (Column("looks at"), Column("bar", kind="plot"), Column("attention", kind="number"))
    left = [value for _, value in ranked[_KEYS:] if value > 0]
    rest = (
        element("p", f"The other {len(left):,} keys together: {probability(sum(left))}.", cls="note") if left else None
    )
    return element("div", table("Attention", columns, lines, by=(2, "descending")), rest)


def _gauge(part: float, side: str) -> Element:
    return element("span", element("i", cls=f"measure {side}", v_from="0", v_size=f"{min(1.0, part):.3f}"), cls="track")


def _edges(graph: FlowGraph, n: int | None) -> list[Element]:
    if n is None:
        return [element("p", "Not in the graph on the screen: no kept edge touches it.", cls="note")]
    return [
        table_
        for way, title in (("in", "What enters"), ("out", "Where it goes"))
        if (table_ := edge_table(graph, edges_at(graph, n, way), title, "source" if way == "in" else "target"))
        is not None
    ]
