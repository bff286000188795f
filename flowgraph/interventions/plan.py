"""Plan of an intervention: its changes sorted by place: masks of heads, MLPs and terms, edges, patterns, other nodes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from ..errors import ArgumentError, UnsupportedReadingError
from ..models.anatomy import Anatomy
from ..values.flow_graph import EDGE_KINDS, FlowGraph
from ..values.node import Node
from .edges import SENDERS, Edge, PatternEdit, check_edge, check_node, edge_network
from .graph_parts import graph_parts
from .network import Into, Network, Reader
from .passes import EXPERT

Part = Node | Edge | PatternEdit
What = Part | FlowGraph | Sequence[Part]
GraphParts = Literal["edges", "nodes"]

_OTHERS = ("attn", "mixer", "neuron", "expert", "resid_pre", "resid_mid", "resid_post", "embed")
_WRITERS = ("head", "mlp")
_CIRCUIT: dict[str, Into] = {"query": "q", "key": "k", "value": "v", "mlp_in": "mlp", "unembed": "logits"}


@dataclass(eq=False)
class Plan:
    """All changes of one pass over prompts of ``n_tokens``.

    Attributes
    ----------
    heads, mlps
        [layer, head, position] and [layer, position] True where the output is replaced.
    terms
        Layer → [head, query_pos, key_pos] True where the term pattern · value of a head is replaced.
    cuts
        (number of a reader of the network, number of one of its receivers) → [sender, position] 1 where the edge is cut; senders and
        positions are those of the stack that is read.
    network
        The nodes between which edges run; None where no edge is changed.
    patterns
        Edits of patterns by layer.
    others
        Further nodes.
    crossing
        [layer, head, position] True where the output of a head that reads the encoder is replaced.
    crossing_patterns
        Edits of the patterns of such heads by layer.
    n_source
        Number of the encoder's positions.
    stacks
        Name → plan of the changes in another stack.
    named
        Positions that were asked for by number.
    text
        The changes in words.
    """

    anatomy: Anatomy
    n_tokens: int
    heads: Tensor
    mlps: Tensor
    text: str = ""
    terms: dict[int, Tensor] = field(default_factory=dict)
    cuts: dict[tuple[int, int], Tensor] = field(default_factory=dict)
    network: Network | None = None
    patterns: dict[int, list[PatternEdit]] = field(default_factory=dict)
    others: list[Node] = field(default_factory=list)
    named: set[int] = field(default_factory=set)
    crossing: Tensor | None = None
    crossing_patterns: dict[int, list[PatternEdit]] = field(default_factory=dict)
    n_source: int = 0
    stacks: dict[str, Plan] = field(default_factory=dict)

    def sites(self) -> dict[str, set[int]]:
        """Site → layers whose values a reference has to hold."""
        wanted: dict[str, set[int]] = {}
        for site, layers in (
            ("z", self.heads.flatten(1).any(1).nonzero()[:, 0].tolist()),
            ("mlp_out", self.mlps.any(1).nonzero()[:, 0].tolist()),
            ("cross_z", [] if self.crossing is None else self.crossing.flatten(1).any(1).nonzero()[:, 0].tolist()),
            ("pattern", [*self.terms, *self.patterns]),
            ("v", [*self.terms]),
            ("cross_pattern", [*self.crossing_patterns]),
        ):
            wanted.setdefault(site, set()).update(layers)
        for node in self.others:
            site, layer = place_of(node)
            wanted.setdefault(site, set()).add(layer)
        return wanted


def plan_of(
    anatomy: Anatomy, what: What, n_tokens: int, *, outside: bool, parts: GraphParts, n_source: int = 0
) -> Plan:
    """Sort the changes by place; ``n_source`` is the number of the encoder's positions, where there is one.

    Raises
    ------
    ArgumentError
        If there is nothing to change, a part does not exist in the model or cannot be changed.
    UnsupportedReadingError
        If edges are asked for in a model that has none.
    """
    plan = _empty(anatomy, n_tokens)
    plan.n_source = n_source
    plan.stacks = {name: _empty(one, n_source) for name, one in anatomy.sources.items()}
    if isinstance(what, FlowGraph):
        _add_graph(plan, what, outside, parts)
    else:
        several = [what] if isinstance(what, (Node, Edge, PatternEdit)) else what
        if isinstance(several, str) or not isinstance(several, Iterable) or getattr(several, "ndim", 1) == 0:
            raise ArgumentError(
                f"what={what!r} is a {type(what).__name__}; expected a graph, flowgraph.Node, Edge or PatternEdit objects"
            )
        several = list(several)
        plan.text = ("all but " if outside else "") + words(several)
        _add_parts(plan, several, outside)
    return plan


def _empty(anatomy: Anatomy, n_tokens: int) -> Plan:
    heads = torch.zeros(len(anatomy.blocks), anatomy.n_heads, n_tokens, dtype=torch.bool, device="cpu")
    cross = anatomy.cross
    crossing = None if cross is None else heads.new_zeros(len(cross.blocks), cross.n_heads, n_tokens)
    return Plan(anatomy, n_tokens, heads, heads.any(1), crossing=crossing)


def words(parts: Sequence[object]) -> str:
    """A few parts by name, many by their number."""
    shown = ", ".join(str(part) for part in parts[:3])
    return shown if len(parts) <= 3 else f"{shown} and {len(parts) - 3} more"


def place_of(node: Node) -> tuple[str, int]:
    """Site and layer at which a node is changed."""
    if node.kind == "embed":
        return "resid_pre", 0
    assert node.layer is not None
    if node.kind == "expert":
        return f"{EXPERT}{node.index}", node.layer
    return {"head": "z", "mlp": "mlp_out", "attn": "attn_out", "mixer": "mixer_out", "neuron": "neurons"}.get(
        node.kind, node.kind
    ), node.layer


def circuit_edges(graph: FlowGraph) -> list[Edge] | None:
    """The edges of a circuit; None if the graph is one of flow between states."""
    kinds = {EDGE_KINDS[kind] for kind in graph.kind}
    ends = {graph.nodes[n].kind for n in graph.source}
    if not kinds or not kinds <= set(_CIRCUIT) or not ends <= set(SENDERS):
        return None
    return [
        Edge(graph.nodes[source], graph.nodes[target], _CIRCUIT[EDGE_KINDS[kind]])
        for source, target, kind in zip(graph.source, graph.target, graph.kind, strict=True)
    ]


def _add_parts(plan: Plan, parts: Sequence[Part], outside: bool) -> None:
    if not parts:
        raise ArgumentError(
            "there is nothing to change: give a Node, an Edge, a PatternEdit, several of these, or a graph"
        )
    nodes = [part for part in parts if isinstance(part, Node)]
    edges = [part for part in parts if isinstance(part, Edge)]
    strange = [part for part in parts if not isinstance(part, (Node, Edge, PatternEdit))]
    if strange:
        raise ArgumentError(
            f"{strange[0]!r} ({type(strange[0]).__name__}) cannot be changed; give a Node, an Edge, a PatternEdit, several of "
            "these, or a FlowGraph"
        )
    # The complement of a pattern or a state means nothing: only heads with MLPs, or edges, make up a whole.
    if outside and len(parts) not in (len(nodes), len(edges)):
        raise ArgumentError(
            "outside=True needs heads and MLPs alone, edges alone, or a graph: of others there is no rest"
        )
    for node in nodes:
        _add_node(plan, node, outside)
    plan.network = edge_network(plan.anatomy) if edges else None
    for edge in edges:
        _add_edge(plan, edge_network_of(plan), edge)
    if outside:
        _complement(plan, edges=bool(edges))
    for part in parts:
        if isinstance(part, PatternEdit):
            _add_pattern(plan, part)


def _add_node(plan: Plan, node: Node, outside: bool) -> None:
    if node.stack is not None:
        if node.stack not in plan.stacks:
            raise ArgumentError(f"{node}: the model has no stack {node.stack!r} that can be changed")
        if node.kind == "cross_head":
            raise ArgumentError(f"{node}: heads that read the encoder belong to the decoder; leave stack= out")
        _add_node(plan.stacks[node.stack], replace(node, stack=None), outside)
        return
    allowed = _WRITERS if outside else (*_WRITERS, *_OTHERS)
    if plan.crossing is not None:
        allowed = (*allowed, "cross_head") if outside else (*allowed, "cross_head", "resid_cross")
    if node.kind not in allowed:
        why = " (with outside=True)" if outside else ""
        if node.kind in ("cross_head", "resid_cross"):
            why = ", since the model has no encoder that its heads read"
        raise ArgumentError(f"{node} is a {node.kind!r}, which cannot be changed{why}; what can: {', '.join(allowed)}")
    check_node(plan.anatomy, node)
    if node.position is not None and node.position >= plan.n_tokens:
        raise ArgumentError(f"{node}: position={node.position} is outside the prompt of {plan.n_tokens} tokens")
    if node.kind in ("resid_mid", "resid_cross") and plan.anatomy.wiring == "parallel":
        raise ArgumentError(
            f"{node}: parallel blocks have no state between attention and MLP; take resid_pre or resid_post"
        )
    at = slice(None) if node.position is None else node.position
    plan.named |= set() if node.position is None else {node.position}
    if node.kind == "head":
        plan.heads[node.layer, node.head, at] = True
    elif node.kind == "mlp":
        plan.mlps[node.layer, at] = True
    elif node.kind == "cross_head":
        assert plan.crossing is not None
        plan.crossing[node.layer, node.head, at] = True
    else:
        plan.others.append(node)


def edge_network_of(plan: Plan) -> Network:
    """The network of a plan that changes edges."""
    assert plan.network is not None
    return plan.network


def _length(plan: Plan, reader: Reader) -> int:
    """Number of positions of the stream that is read."""
    return plan.n_source if reader.reads.name else plan.n_tokens


def _add_edge(plan: Plan, network: Network, edge: Edge) -> None:
    check_edge(network, edge)
    reader = network.reader(edge.target, edge.into)
    count = _length(plan, reader)
    if edge.position is not None and edge.position >= count:
        raise ArgumentError(f"{edge}: position={edge.position} is outside the prompt of {count} tokens")
    at = slice(None) if edge.position is None else edge.position
    key = (network.readers.index(reader), edge.target.head or 0)
    if key not in plan.cuts:
        plan.cuts[key] = torch.zeros(reader.reads.count, count, device="cpu")
    # A number and not a truth value: the changes are multiplied by it.
    plan.cuts[key][reader.reads.index(edge.source), at] = 1.0


def _complement(plan: Plan, *, edges: bool) -> None:
    if not edges:
        # Of several stacks all heads and MLPs make up the whole, those of the encoder too.
        for one in (plan, *plan.stacks.values()):
            one.heads, one.mlps = ~one.heads, ~one.mlps
            one.crossing = None if one.crossing is None else ~one.crossing
        return
    kept, plan.cuts = plan.cuts, {}
    for number, reader in enumerate(edge_network_of(plan).readers):
        # Senders that write too late are cut too; whoever installs the edges reads only those before the receiver.
        everything = torch.ones(reader.reads.count, _length(plan, reader), device="cpu")
        for receiver in range(len(reader.nodes)):
            key = (number, receiver)
            plan.cuts[key] = everything - kept[key] if key in kept else everything


def _add_pattern(plan: Plan, edit: PatternEdit) -> None:
    """Add the edit to the plan of its stack."""
    own = "decoder" if plan.anatomy.causal else "encoder"
    plans = {f"{own}.self": plan} | {f"{name}.self": other for name, other in plan.stacks.items()}
    if plan.anatomy.cross is not None:
        plans[f"{own}.cross"] = plan
    name = edit.attention or f"{own}.self"
    if name not in plans:
        raise ArgumentError(
            f"{edit}: attention={name!r} is not one of this model's; it has {', '.join(map(repr, plans))}"
        )
    of = plans[name]
    crosses = name.endswith(".cross")
    anatomy = of.anatomy.reader_of_encoder if crosses else of.anatomy
    limits = {"layer": len(anatomy.blocks), "head": anatomy.n_heads}
    limits |= {"query_pos": of.n_tokens, "key_pos": plan.n_source if crosses else of.n_tokens}
    for field_name, limit in limits.items():
        value = getattr(edit, field_name)
        if value is not None and not 0 <= value < limit:
            raise ArgumentError(f"{edit}: {field_name}={value} does not exist; it must lie in 0…{limit - 1}")
    anatomy.require_attention(edit.layer, str(edit))
    if crosses:
        of.crossing_patterns.setdefault(edit.layer, []).append(edit)
        return
    if anatomy.causal and edit.query_pos is not None and edit.key_pos is not None and edit.key_pos > edit.query_pos:
        raise ArgumentError(
            f"{edit}: key_pos={edit.key_pos} comes after query_pos={edit.query_pos}; in a causal model a token sees earlier "
            "tokens only"
        )
    of.patterns.setdefault(edit.layer, []).append(edit)


def _add_graph(plan: Plan, graph: FlowGraph, outside: bool, parts: GraphParts) -> None:
    if not len(graph):
        raise ArgumentError(
            "the graph has no edges, so there is nothing to change and nothing to keep; lower its threshold"
        )
    plan.text = f"all but the {parts} of {graph!r}" if outside else f"the {parts} of {graph!r}"
    edges = circuit_edges(graph)
    if parts == "nodes":
        kinds = _WRITERS if outside else (*_WRITERS, "attn", "neuron")
        kinds = kinds if plan.crossing is None else (*kinds, "cross_head")
        nodes = [node for node in graph.nodes if node.kind in kinds]
        if not any(node.kind in ("head", "cross_head") for node in nodes) and outside:
            raise ArgumentError("the graph shows no single heads, so all of them would be outside; use level='head'")
        if not nodes:
            raise ArgumentError(
                "parts='nodes' changes heads and MLPs, and the graph shows neither; use level='head', or parts='edges'"
            )
        _add_parts(plan, nodes, outside)
    elif parts != "edges":
        raise ArgumentError(f"parts={parts!r} must be 'edges' or 'nodes'")
    elif edges is not None:
        _add_parts(plan, edges, outside)
    elif plan.anatomy.cross is not None:
        raise UnsupportedReadingError(
            f"edges of a graph of flow over the two stacks of {type(plan.anatomy.model).__name__} are not changed one by one; say "
            "parts='nodes' for its heads and MLPs, or name heads or edges with flowgraph.Node and flowgraph.Edge; a circuit of "
            "flowgraph.discover can be given as it is"
        )
    else:
        _add_flow(plan, graph, outside)


def _add_flow(plan: Plan, graph: FlowGraph, outside: bool) -> None:
    """Add the terms of heads and the outputs of heads and MLPs that a graph of flow shows; with ``outside`` all others."""
    found = graph_parts(graph, plan.anatomy, plan.n_tokens)
    if outside:
        silent = [layer for layer in range(*graph.info.layers) if layer not in plan.anatomy.attending]
        if silent:
            raise UnsupportedReadingError(
                f"outside=True changes all that the graph does not show, and no edge shows what layers without attention "
                f"({', '.join(map(str, silent))}) move between tokens; leave outside= out, or name nodes"
            )
        window = slice(*graph.info.layers)
        plan.mlps[window] = ~(found.mlps | found.experts)[window]
        plan.terms = {layer: ~found.shown[layer] for layer in range(*graph.info.layers)}
    else:
        plan.heads |= found.writes
        plan.mlps |= found.mlps
        plan.terms = {
            layer: found.terms[layer] for layer in range(*graph.info.layers) if bool(found.terms[layer].any())
        }
