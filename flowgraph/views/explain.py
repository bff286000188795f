"""A graph in plain sentences, by templates: each sentence names the numbers of the graph that it stands on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from ..flow import connected_flow
from ..graph import EDGE_KINDS, FlowGraph
from ..nodes import Node, label
from .caption import edges_text, prompt_text
from .layout import is_circuit
from .roles import roles_text
from .text import printable, prompt_line, visible

_SHOWN = 3
_INPUTS = ("embed", "position_embed", "resid_pre")


@dataclass(frozen=True)
class Sentence:
    """One sentence and what it stands on.

    Attributes
    ----------
    text
        The sentence.
    edges, nodes
        Indices of the edges and nodes of the graph whose numbers it gives.
    """

    text: str
    edges: tuple[int, ...] = ()
    nodes: tuple[int, ...] = ()

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Explanation:
    """Sentences about a graph, the most general first."""

    sentences: tuple[Sentence, ...]

    def __str__(self) -> str:
        return "\n".join(map(str, self.sentences))

    def __len__(self) -> int:
        return len(self.sentences)


def explain(graph: FlowGraph) -> Explanation:
    """Say in plain sentences what a graph shows.

    Returns
    -------
    What the model said, how much of the method's mass is shown, and then by the kind of graph: which tokens the flow comes
    from and where it changes its token; which parts raise and lower a logit; or what heads and neurons read and write.
    """
    sentences = [*_about(graph)]
    if not len(graph):
        sentences.append(Sentence("Nothing is strong enough to be shown."))
    elif graph.info.method in ("semantic", "visit"):
        sentences += _semantic(graph)
    elif is_circuit(graph):
        sentences += _circuit(graph)
    elif graph.info.unit == "logits":
        sentences += _logits(graph)
    else:
        sentences += _flow(graph)
    if graph.roles:
        sentences += _roles(graph)
    if graph.undefined:
        nodes = tuple(graph.nodes.index(node) for node in graph.undefined)
        names = _listed([label(node) for node in graph.undefined[:_SHOWN]], more=len(graph.undefined) > _SHOWN)
        sentences.append(
            Sentence(
                f"The shares into {names} are not defined by the method and follow the lengths of the parts.",
                nodes=nodes,
            )
        )
    return Explanation(tuple(sentences))


def _about(graph: FlowGraph) -> Iterator[Sentence]:
    info = graph.info
    model = printable(info.model)
    prompt = f"“{prompt_line(info.tokens, 80)}”" if info.tokens else prompt_text(info)
    if info.target_token is not None:
        probability = "" if info.target_probability is None else f" a probability of {info.target_probability:.2g}"
        against = "" if info.foil_token is None else f", compared with {_token(info.foil_token)}"
        yield Sentence(
            f"After {prompt}, {model} gives {_token(info.target_token)}{probability} at position {info.position}{against}."
        )
    elif is_circuit(graph):
        yield Sentence(f"These parts of {model} were found to matter for {prompt}.")
    else:
        yield Sentence(f"{model} read {prompt}; it has no head, so nothing is predicted.")
    first, stop = info.layers
    which = f"layer {first} shows" if stop - first == 1 else f"layers {first} to {stop - 1} show"
    yield Sentence(
        f"By the method {printable(info.method_text)} ({printable(info.unit)}), {which} {edges_text(graph)}."
    )


def _flow(graph: FlowGraph) -> Iterator[Sentence]:
    """Where the flow into the start comes from, and where it changes its token."""
    flow = connected_flow(graph)
    goal = _goal(graph)
    by_input: dict[int, float] = defaultdict(float)
    for e, n in enumerate(graph.source.tolist()):
        if graph.nodes[n].kind in _INPUTS:
            by_input[n] += float(flow[e])
    inputs = sorted((n for n in by_input if by_input[n] > 0), key=lambda n: -by_input[n])[:_SHOWN]
    if inputs:
        parts = [f"{_place(graph, graph.nodes[n])} ({by_input[n]:.1%})" for n in inputs]
        yield Sentence(
            f"Of what reaches {goal} along the shown edges, most starts at {_listed(parts)}.", nodes=tuple(inputs)
        )
    crossing = [
        e for e in np.argsort(-flow, kind="stable").tolist()
        if EDGE_KINDS[graph.kind[e]] == "attention" and flow[e] > 0 and graph.key_pos[e] != graph.query_pos[e]
    ][:_SHOWN]  # fmt: skip
    for e in crossing:
        head = f", head {graph.head[e]}" if graph.head[e] >= 0 else ""
        yield Sentence(
            f"In layer {graph.layer[e]}{head}, position {graph.query_pos[e]} ({_at(graph, int(graph.query_pos[e]))}) reads position "
            f"{graph.key_pos[e]} ({_at(graph, int(graph.key_pos[e]))}): {abs(graph.share[e]):.1%} of its target, {flow[e]:.1%} of what "
            f"reaches {goal}.",
            edges=(e,),
        )
    if not crossing:
        yield Sentence("No shown edge leads from one position to another.")


def _circuit(graph: FlowGraph) -> Iterator[Sentence]:
    """Which edges support the answer, which work against it, and which heads have the most to do with both."""
    order = np.argsort(-graph.weight, kind="stable")
    for verb, edges in (("supports the answer", order[:_SHOWN]), ("works against it", order[::-1][:_SHOWN])):
        chosen = [
            e
            for e in edges.tolist()
            if graph.weight[e] != 0 and (graph.weight[e] < 0) == (verb != "supports the answer")
        ]
        if chosen:
            parts = [f"{_ends(graph, e)} ({graph.weight[e]:+.3g} {graph.info.unit})" for e in chosen]
            yield Sentence(f"What {verb} most: {_listed(parts)}.", edges=tuple(chosen))
    total = np.zeros(len(graph.nodes))
    np.add.at(total, graph.source, np.abs(graph.weight))
    heads = [n for n in np.argsort(-total, kind="stable").tolist() if graph.nodes[n].kind == "head" and total[n] > 0]
    if heads:
        names = _listed([label(graph.nodes[n]) for n in heads[:_SHOWN]])
        yield Sentence(
            f"By the effects of the edges out of them, the strongest heads are {names}.", nodes=tuple(heads[:_SHOWN])
        )


def _roles(graph: FlowGraph) -> Iterator[Sentence]:
    """Roles of the heads whose edges weigh the most, a head of several positions once."""
    heads = [n for n, node in enumerate(graph.nodes) if node.kind == "head"]
    named = [n for n in heads if graph.roles[n]]
    if heads and not named:
        yield Sentence("No head here has a role.", nodes=tuple(heads))
    total = np.zeros(len(graph.nodes))
    # Weights of different units do not compare; shares do.
    np.add.at(total, graph.source, np.abs(graph.weight if graph.unit is None else graph.share))
    first: dict[tuple[int | None, int | None], int] = {}
    for n in sorted(named, key=lambda n: -total[n]):
        first.setdefault((graph.nodes[n].layer, graph.nodes[n].head), n)
    for n in list(first.values())[:_SHOWN]:
        head = replace(graph.nodes[n], position=None)
        noun = "role" if len(graph.roles[n]) == 1 else "roles"
        yield Sentence(f"Head {label(head)} has the {noun} {roles_text(graph.roles[n])}.", nodes=(n,))


def _ends(graph: FlowGraph, e: int) -> str:
    """An edge by its ends, and what of the target reads."""
    kind = EDGE_KINDS[graph.kind[e]]
    into = f" as its {kind}" if kind in ("query", "key", "value") else ""
    return f"{label(graph.nodes[graph.source[e]])} → {label(graph.nodes[graph.target[e]])}{into}"


def _logits(graph: FlowGraph) -> Iterator[Sentence]:
    """What raises and what lowers the logit most."""
    goal = [n for n, node in enumerate(graph.nodes) if node.kind == "logit"]
    into = np.flatnonzero(np.isin(graph.target, goal) & ~graph.structural)
    order = into[np.argsort(-graph.weight[into], kind="stable")]
    for verb, edges in (("raises", order[:_SHOWN]), ("lowers", order[::-1][:_SHOWN])):
        chosen = [e for e in edges.tolist() if (graph.weight[e] > 0) == (verb == "raises") and graph.weight[e] != 0]
        if chosen:
            parts = [f"{_part(graph, e)} ({graph.weight[e]:+.2f} logits)" for e in chosen]
            yield Sentence(f"What {verb} {_goal(graph)} most: {_listed(parts)}.", edges=tuple(chosen))


def _semantic(graph: FlowGraph) -> Iterator[Sentence]:
    """What the strongest head and neuron of each block read and write."""
    incoming: dict[int, list[int]] = defaultdict(list)
    for e, n in enumerate(graph.target.tolist()):
        incoming[n].append(e)
    for n, node in enumerate(graph.nodes):
        if node.kind not in ("attn", "mlp"):
            continue
        parts = [e for e in incoming[n] if graph.nodes[graph.source[e]].kind in ("head", "neuron")]
        if not parts:
            continue
        e = max(parts, key=lambda e: abs(float(graph.weight[e])))
        part = int(graph.source[e])
        adds = f"what {'attention' if node.kind == 'attn' else 'the MLP'} adds in layer {node.layer} at position {node.position}"
        share = f"{graph.weight[e]:.0%} of {adds}" if graph.unit_of(e) == "contribution" else f"most of {adds}"
        yield Sentence(
            f"{label(graph.nodes[part])} makes up {share}; it {_reads(graph, part, incoming)}{_writes(graph, part)}.",
            (e,),
            (part,),
        )


def _reads(graph: FlowGraph, n: int, incoming: dict[int, list[int]]) -> str:
    """What a head reads: its strongest value's token."""
    values = [e for e in incoming[n] if graph.nodes[graph.source[e]].kind == "value"]
    if not values:
        return ""
    node = graph.nodes[graph.source[max(values, key=lambda e: abs(float(graph.weight[e])))]]
    reading = graph.readings[graph.nodes.index(node)] if graph.readings else None
    attended = "" if reading is None or reading.activation is None else f" with attention {reading.activation:.2f}"
    return f"reads position {node.index} ({_at(graph, node.index or 0)}){attended} and "


def _writes(graph: FlowGraph, n: int) -> str:
    reading = graph.readings[n] if graph.readings else None
    if reading is None:
        return "is not read"
    tokens = _listed([_token(token) for token, *_ in reading.top[:_SHOWN]]) if reading.top else ""
    logits = "" if reading.contribution is None else f" ({reading.contribution:+.2f} logits for {_goal(graph)})"
    return (
        f"writes in the direction of {tokens}" if tokens else f"writes a vector of length {reading.norm:.3g}"
    ) + logits


def _part(graph: FlowGraph, e: int) -> str:
    name = label(graph.nodes[graph.source[e]])
    return (
        f"{name} reading {_at(graph, int(graph.key_pos[e]))}"
        if graph.key_pos[e] != graph.query_pos[e] and graph.key_pos[e] >= 0
        else name
    )


def _goal(graph: FlowGraph) -> str:
    info = graph.info
    if info.target_token is None:
        return f"the last state of position {info.position}"
    return (
        _token(info.target_token)
        if info.foil_token is None
        else f"{_token(info.target_token)} − {_token(info.foil_token)}"
    )


def _place(graph: FlowGraph, node: Node) -> str:
    return label(node) if node.position is None else f"position {node.position} ({_at(graph, node.position)})"


def _at(graph: FlowGraph, position: int) -> str:
    return _token(graph.info.tokens[position])


def _token(token: str) -> str:
    return f"“{visible(token)}”"


def _listed(parts: list[str], *, more: bool = False) -> str:
    """Parts joined as a sentence joins them."""
    parts = [*parts, "others"] if more else parts
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
