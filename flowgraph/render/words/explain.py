"""A graph in plain sentences, by templates: each sentence names the numbers of the graph that it stands on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from ...charts import rendering
from ...charts.text import printable, visible
from ...values.effects import is_picture_of_parts
from ...values.explanation import Explanation, Sentence
from ...values.flow_graph import EDGE_KINDS, FlowGraph
from ...values.graph_axes import is_circuit
from ...values.graph_info import UNNAMED
from ...values.node import EXCHANGING, Node, label
from ..scene.roles import roles_text
from .caption import edges_text, layers_text, model_text, percent, positions_text, prompt_text
from .kept import kept_of, kept_sentences

_SHOWN = 3
OF_A_FILE = "circuit: of a file"
"""Method of circuits out of files of other programs, which may give scores and mark no circuit."""
_INPUTS = ("embed", "position_embed", "resid_pre")
_ADDS = {"attn": "attention", "cross_attn": "attention to the encoder", "mlp": "the MLP"}
_HEADS = ("head", "cross_head")
_MEDIA = {"image": "an image", "audio": "a sound", "regions of an image": "regions of an image"}
_OF_PATTERNS = ("attention", "rollout of attention", "flow of attention")


@rendering.explain.register(FlowGraph)
def explain(graph: FlowGraph) -> Explanation:
    """Say in plain sentences what a graph shows.

    Returns
    -------
    What the model said, how much of the method's mass is shown, and then by the kind of graph: which tokens the flow comes
    from and where it changes its token; which parts raise and lower a logit; what heads and neurons read and write; or how much of
    the answer some parts keep, and which of them bring it. Where that was measured of another graph, it is said of that too.
    """
    kept = kept_of(graph.info)
    sentences = [*_about(graph), *(Sentence(text) for text in ([] if kept is None else kept_sentences(kept)))]
    if not len(graph):
        sentences.append(
            Sentence("Nothing is strong enough to be shown." if graph.info.total_edges else "There is no edge to show.")
        )
    elif graph.info.method in ("semantic", "visit"):
        sentences += _semantic(graph)
    elif is_picture_of_parts(graph):
        sentences += _parts(graph)
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
    model = model_text(info)
    prompt = f"“{positions_text(info, info.tokens, 'token_ids', 80)}”" if info.tokens else prompt_text(info)
    read = _source(graph)
    if info.target_token is not None:
        probability = "" if info.target_probability is None else f" a probability of {info.target_probability:.2g}"
        against = "" if info.foil_token is None else f", compared with {_token(info.foil_token)}"
        yield Sentence(
            f"After {f'reading {read} and writing {prompt}' if read else prompt}, {model} gives {_token(info.target_token)}{probability} at position {info.position}{against}."
        )
    elif info.method == OF_A_FILE and "kept" not in info.filters:
        yield Sentence(f"The file marks no circuit in {model}; these are edges to which it gives a score.")
    elif is_circuit(graph):
        yield Sentence(f"These parts of {model} were found to matter{f' for {prompt}' if prompt else ''}.")
    elif prompt:
        both = any(one.name == EXCHANGING for one in info.stacks)
        given = f"{read} and {'' if both else 'wrote '}{prompt}" if read else prompt
        yield Sentence(f"{model} read {given}; the graph names no token that is explained.")
    elif info.model == UNNAMED:
        yield Sentence("The graph names no model, no prompt and no token that is explained.")
    else:
        yield Sentence(f"The graph (model {model}) names neither a prompt nor a token that is explained.")
    if not graph.nodes:
        yield Sentence("It has no nodes.")
    yield Sentence(
        f"By the method {printable(info.method_text)} ({printable(info.unit)}), {_layers(graph)} {edges_text(graph)}."
    )


def _source(graph: FlowGraph) -> str:
    """What the stacks before the last one read, in words; empty for one stack."""
    info, said = graph.info, []
    for one in info.stacks:
        text = positions_text(info, one.tokens, f"{one.name}_token_ids", 80).strip()
        if info.provenance.get(f"{one.name}_token_ids") != []:
            said.append(f"the source “{text}”")
        else:
            said.append(f"{_MEDIA.get(str(info.provenance.get(f'{one.name}_reads')), 'the source')} ({text})")
    return " and ".join(said)


def _layers(graph: FlowGraph) -> str:
    """The layers that a graph spans and the verb of the sentence about them."""
    first, stop = graph.info.layers
    if graph.info.stacks:
        return f"the graph of {layers_text(graph)} shows"
    if stop == first:
        return "the graph, which spans no layer, shows"
    return f"layer {first} shows" if stop - first == 1 else f"layers {first} to {stop - 1} show"


def _flow(graph: FlowGraph) -> Iterator[Sentence]:
    """Where the flow into the start comes from, and where it changes its token."""
    known = graph.measured
    if known.flow is None:
        yield Sentence("Its edges do not all flow into one node, so that no way is followed to one.")
        return
    flow, goal = known.flow, _goal(graph)
    of = f"what reaches {goal}" if known.whole == "method" else f"what reaches {goal} over the edges in the file"
    by_input: dict[int, float] = defaultdict(float)
    for e, n in enumerate(graph.source.tolist()):
        if graph.nodes[n].kind in _INPUTS:
            by_input[n] += float(flow[e])
    inputs = sorted((n for n in by_input if by_input[n] > 0), key=lambda n: -by_input[n])
    if inputs:
        shown = f"the shown edges bring {percent(min(1.0, sum(by_input.values())))} from the inputs"
        if graph.info.stacks:
            yield _sides(graph, by_input, inputs, f"Of {of}, {shown}")
        else:
            parts = [f"{_place(graph, graph.nodes[n])} ({percent(by_input[n])})" for n in inputs[:_SHOWN]]
            yield Sentence(f"Of {of}, {shown}, most from {_listed(parts)}.", nodes=tuple(inputs[:_SHOWN]))
    elif any(node.kind in _INPUTS for node in graph.nodes) or _is_of_this_project(graph):
        yield Sentence(f"None of {of} is followed back to the inputs by the shown edges.")
    elif np.count_nonzero(~graph.structural) == graph.info.total_edges:
        yield from _beginnings(graph, flow, of)
    crossing = [e for e in np.argsort(-flow, kind="stable").tolist() if _crosses(graph, e)]
    carrying = [e for e in crossing if flow[e] > 0][:_SHOWN]
    for e in carrying:
        yield Sentence(
            f"{_move(graph, e)}: {_signed_percent(graph, e)} of its target, {percent(float(flow[e]))} of {of}.",
            edges=(e,),
        )
    if not crossing and any(node.position is not None for node in graph.nodes):
        yield Sentence("No shown edge leads from one position to another.")
    elif crossing and not carrying:
        yield Sentence(f"Edges lead from one position to another, and none of them carries flow to {goal}.")


def _sides(graph: FlowGraph, by_input: dict[int, float], inputs: list[int], begin: str) -> Sentence:
    """What the source brings and what was written, each by its tokens, the strongest first."""
    parts, named = [], []
    sides = [*((one.name, "the source brings") for one in graph.info.stacks), (None, "what was written brings")]
    if any(one.name == EXCHANGING for one in graph.info.stacks):
        sides = [(EXCHANGING, "the regions bring"), (None, "the text brings")]
    for stack, name in sides:
        own = [n for n in inputs if graph.nodes[n].stack == stack]
        if own:
            tokens = _listed([f"{_token_of(graph, n)} ({percent(by_input[n])})" for n in own[:_SHOWN]])
            parts.append(f"{name} {percent(min(1.0, sum(by_input[n] for n in own)))}, most by {tokens}")
            named += own[:_SHOWN]
    rule = ". Patterns alone give each attention half of a state, whatever the model does: compare tokens, not the two sides"
    note = rule * (graph.info.method in _OF_PATTERNS and len(parts) > 1)
    return Sentence(f"{begin}: {'; '.join(parts)}{note}.", nodes=tuple(named))


def _token_of(graph: FlowGraph, n: int) -> str:
    """The token of a node by itself, or its label where it has none."""
    node = graph.nodes[n]
    token = "" if node.position is None else _token_at(graph, node.position, node.stack)
    return _token(token) if token else label(node)


def _is_of_this_project(graph: FlowGraph) -> bool:
    """Whether it is known which nodes are inputs; another program's graph need not name any."""
    return not graph.info.outside and graph.info.method != "imported"


def _beginnings(graph: FlowGraph, flow: Float[np.ndarray, "E"], of: str) -> Iterator[Sentence]:
    """Which nodes that nothing enters the flow comes from, in a graph of another program."""
    begin = np.setdiff1d(graph.source, graph.target)
    brought = np.bincount(graph.source, weights=flow, minlength=len(graph.nodes))
    chosen = [n for n in begin[np.argsort(-brought[begin], kind="stable")].tolist() if brought[n] > 0][:_SHOWN]
    if chosen:
        parts = [f"{_named(graph, graph.nodes[n])} ({percent(min(1.0, float(brought[n])))})" for n in chosen]
        yield Sentence(
            f"Of {of}, the most comes from nodes that no edge enters: {_listed(parts)}.", nodes=tuple(chosen)
        )


def _crosses(graph: FlowGraph, e: int) -> bool:
    """Whether an edge leads from one position to another."""
    source, target = (graph.nodes[n[e]] for n in (graph.source, graph.target))
    ends = [(node.stack, node.position) for node in (source, target)]
    return not graph.structural[e] and None not in (source.position, target.position) and ends[0] != ends[1]


def _move(graph: FlowGraph, e: int) -> str:
    """An edge between positions in words: of attention what reads what, of other programs which node leads to which."""
    source, target = graph.nodes[graph.source[e]], graph.nodes[graph.target[e]]
    if EDGE_KINDS[graph.kind[e]] != "attention" or graph.layer[e] < 0:
        return f"{_named(graph, source)} leads to {_named(graph, target)}"
    head = f", head {graph.head[e]}" if graph.head[e] >= 0 else ""
    query, key = (int(column[e]) for column in (graph.query_pos, graph.key_pos))
    if query < 0 or key < 0:
        return f"In layer {graph.layer[e]}{head}, {_named(graph, target)} reads {_named(graph, source)}"
    where = f"layer {graph.layer[e]}{f' of the {target.stack}' if target.stack else ''}"
    return f"In {where}{head}, {_position(graph, query, target.stack)} reads {_position(graph, key, source.stack)}"


def _signed_percent(graph: FlowGraph, e: int) -> str:
    part = float(graph.share[e])
    return f"−{percent(-part)}" if part < 0 else percent(part)


def _circuit(graph: FlowGraph) -> Iterator[Sentence]:
    """Which edges support the answer, which work against it, and which heads have the most to do with both."""
    order = np.argsort(-graph.weight, kind="stable")
    for verb, what, edges in (
        ("supports", "the answer", order[:_SHOWN]),
        ("works", "against it", order[::-1][:_SHOWN]),
    ):
        chosen = [e for e in edges.tolist() if graph.weight[e] != 0 and (graph.weight[e] > 0) == (verb == "supports")]
        if chosen:
            parts = [f"{_ends(graph, e)} ({graph.weight[e]:+.3g} {graph.info.unit})" for e in chosen]
            yield Sentence(_most(graph, verb, what, parts, "edges"), edges=tuple(chosen))
    total = np.zeros(len(graph.nodes))
    np.add.at(total, graph.source, np.abs(graph.weight))
    heads = [n for n in np.argsort(-total, kind="stable").tolist() if graph.nodes[n].kind in _HEADS and total[n] > 0]
    if heads:
        names = _listed([label(graph.nodes[n]) for n in heads[:_SHOWN]])
        yield Sentence(
            f"By the effects of the {'' if _is_whole(graph) else 'shown '}edges out of them, the strongest heads are {names}.",
            nodes=tuple(heads[:_SHOWN]),
        )


def _parts(graph: FlowGraph) -> Iterator[Sentence]:
    """Which terms and MLPs bring the answer, and which work against it."""
    named = [e for e in np.argsort(-np.abs(graph.weight), kind="stable").tolist() if not graph.structural[e]]
    named = [e for e in named if graph.weight[e] != 0]
    goal = "the answer" if graph.info.target_token is None else _token(graph.info.target_token)
    terms = [e for e in named if EDGE_KINDS[graph.kind[e]] == "attention"]
    for begin, sign in (
        (f"The attention that brings {goal} most", 1),
        (f"The attention that works against {goal} most", -1),
    ):
        chosen = [e for e in terms if graph.weight[e] * sign > 0][:_SHOWN]
        if chosen:
            parts = [f"{_term(graph, e)} ({_logit_text(float(graph.weight[e]))})" for e in chosen]
            yield Sentence(f"{begin}: {'; '.join(parts)}.", edges=tuple(chosen))
    written: dict[int, list[int]] = defaultdict(list)
    for e in named:
        node = graph.nodes[graph.source[e]]
        if node.kind == "mlp" and node.position is not None:
            written[node.position].append(e)
    sums = {position: float(graph.weight[edges].sum()) for position, edges in written.items()}
    for position in sorted(sums, key=lambda position: -abs(sums[position]))[:_SHOWN]:
        edges = written[position]
        layers = [
            f"{graph.nodes[graph.source[e]].layer} ({_logit_text(float(graph.weight[e]))})" for e in edges[:_SHOWN]
        ]
        where = _position(graph, position)
        if len(edges) == 1:
            yield Sentence(f"At {where} the MLP of layer {layers[0]} is shown.", edges=tuple(edges))
            continue
        yield Sentence(
            f"At {where} {len(edges)} MLPs are shown, {_logit_text(sums[position])} together, most by {'that' if len(layers) == 1 else 'those'} "
            f"of layers {_listed(layers)}.",
            edges=tuple(edges),
        )


def _term(graph: FlowGraph, e: int) -> str:
    """A term in words: which head reads which token, from which position."""
    node = graph.nodes[graph.target[e]]
    head = f"L{graph.layer[e]}H{graph.head[e]}" if graph.head[e] >= 0 else label(node)
    query, key = (int(column[e]) for column in (graph.query_pos, graph.key_pos))
    return f"{head} at {_position(graph, query)} reads {_position(graph, key)}"


def _logit_text(effect: float) -> str:
    return f"{effect:+.2f} logits".replace("-", "−") if abs(effect) >= 0.005 else "< 0.01 logits"


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
    if not len(into):
        yield Sentence("No shown edge leads into the logit.")
    order = into[np.argsort(-graph.weight[into], kind="stable")]
    for verb, edges in (("raises", order[:_SHOWN]), ("lowers", order[::-1][:_SHOWN])):
        chosen = [e for e in edges.tolist() if (graph.weight[e] > 0) == (verb == "raises") and graph.weight[e] != 0]
        if chosen:
            parts = [f"{_part(graph, e)} ({graph.weight[e]:+.3g} logits)" for e in chosen]
            yield Sentence(_most(graph, verb, _goal(graph), parts, "edges into the logit"), edges=tuple(chosen))
    yield from _read_of_the_source(graph)


def _read_of_the_source(graph: FlowGraph) -> Iterator[Sentence]:
    """What attention to the encoder writes to the logit, by the token that it reads."""
    nodes = graph.nodes
    by_token: dict[int, float] = defaultdict(float)
    edges: dict[int, list[int]] = defaultdict(list)
    for e, (s, t) in enumerate(zip(graph.source.tolist(), graph.target.tolist(), strict=True)):
        if nodes[s].stack is not None and nodes[t].stack is None and not graph.structural[e]:
            by_token[s] += float(graph.weight[e])
            edges[s].append(e)
    chosen = [n for n in sorted(by_token, key=lambda n: -abs(by_token[n])) if by_token[n] != 0][:_SHOWN]
    if chosen:
        parts = [
            f"{_position(graph, nodes[n].position or 0, nodes[n].stack)} ({by_token[n]:+.3g} logits)" for n in chosen
        ]
        shown = "" if _is_whole(graph) else "the shown edges of "
        yield Sentence(
            f"Of the source, {shown}attention to the encoder writes most to {_goal(graph)} by reading {_listed(parts)}.",
            edges=tuple(e for n in chosen for e in edges[n]),
        )


def _most(graph: FlowGraph, verb: str, what: str, parts: list[str], among: str) -> str:
    """What does something most; of a part of a graph it is said only of the edges that are shown, as others may do more."""
    begin = "What" if _is_whole(graph) else f"Of the shown {among}, what"
    return f"{begin} {verb} {what} most: {_listed(parts)}."


def _is_whole(graph: FlowGraph) -> bool:
    """Whether every edge of the method is here, of every layer of the model."""
    info = graph.info
    is_cut = np.count_nonzero(~graph.structural) < info.total_edges
    return not is_cut and info.layers == (0, info.total_layers)


def _semantic(graph: FlowGraph) -> Iterator[Sentence]:
    """What the strongest head and neuron of each block read and write."""
    incoming: dict[int, list[int]] = defaultdict(list)
    for e, n in enumerate(graph.target.tolist()):
        incoming[n].append(e)
    for n, node in enumerate(graph.nodes):
        if node.kind not in _ADDS:
            continue
        parts = [e for e in incoming[n] if graph.nodes[graph.source[e]].kind in ("head", "cross_head", "neuron")]
        if not parts:
            continue
        e = max(parts, key=lambda e: abs(float(graph.weight[e])))
        part = int(graph.source[e])
        adds = f"what {_ADDS[node.kind]} adds in layer {node.layer} at position {node.position}"
        share = f"{graph.weight[e] * 100:.0f} % of {adds}" if graph.unit_of(e) == "contribution" else f"most of {adds}"
        yield Sentence(
            f"{label(graph.nodes[part])} makes up {share}; it {_reads(graph, part, incoming)}{_writes(graph, part)}.",
            (e,),
            (part,),
        )


def _reads(graph: FlowGraph, n: int, incoming: dict[int, list[int]]) -> str:
    """What a head reads: its strongest value's token."""
    values = [e for e in incoming[n] if graph.nodes[graph.source[e]].kind in ("value", "cross_value")]
    if not values:
        return ""
    node = graph.nodes[graph.source[max(values, key=lambda e: abs(float(graph.weight[e])))]]
    reading = graph.readings[graph.nodes.index(node)] if graph.readings else None
    attended = "" if reading is None or reading.activation is None else f" with attention {reading.activation:.2f}"
    stack = "encoder" if node.kind == "cross_value" else None
    return f"reads {_position(graph, node.index or 0, stack)}{attended} and "


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
    node = graph.nodes[graph.source[e]]
    name = label(node)
    if node.stack is not None:
        return _named(graph, node)
    return (
        f"{name} reading {_token(_token_at(graph, int(graph.key_pos[e])))}"
        if graph.key_pos[e] != graph.query_pos[e] and graph.key_pos[e] >= 0
        else name
    )


def _goal(graph: FlowGraph) -> str:
    """What the flow runs into: the token that is explained, or the node."""
    info, into = graph.info, graph.measured.into
    if into is None or into.startswith("logit"):
        if info.target_token is None:
            return f"position {info.position}" if into is None else printable(into)
        return (
            _token(info.target_token)
            if info.foil_token is None
            else f"{_token(info.target_token)} − {_token(info.foil_token)}"
        )
    last = Node("resid_post", layer=info.layers[1] - 1, position=info.position) if info.layers[1] else None
    if last is not None and into == label(last):
        return f"the last state of position {info.position}"
    names = (_own_name(graph, node) for node in graph.nodes if label(node) == into)
    return next(names, None) or printable(into)


def _own_name(graph: FlowGraph, node: Node) -> str | None:
    """What the file of another program calls a node whose kind this project does not know; None of all others."""
    is_named = node.kind == "neuron" and node.token and not _is_of_this_project(graph)
    return printable(node.token) if is_named and node.token else None


def _named(graph: FlowGraph, node: Node) -> str:
    """A node by its label and its token."""
    name = _own_name(graph, node) or printable(label(node))
    position = node.position
    token = "" if position is None else _token_at(graph, position, node.stack)
    return f"{name} ({_token(token)})" if token else name


def _place(graph: FlowGraph, node: Node) -> str:
    return label(node) if node.position is None else _position(graph, node.position, node.stack)


def _position(graph: FlowGraph, position: int, stack: str | None = None) -> str:
    token, where = _token_at(graph, position, stack), f"position {position}{f' of the {stack}' if stack else ''}"
    return f"{where} ({_token(token)})" if token else where


def _token_at(graph: FlowGraph, position: int, stack: str | None = None) -> str:
    """The token at a position, empty where the graph does not say it."""
    tokens = graph.info.tokens_of(stack)
    return tokens[position] if position < len(tokens) else ""


def _token(token: str) -> str:
    return f"“{visible(token)}”"


def _listed(parts: list[str], *, more: bool = False) -> str:
    """Parts joined as a sentence joins them."""
    parts = [*parts, "others"] if more else parts
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
