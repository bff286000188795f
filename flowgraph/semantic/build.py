"""The graph of a prompt in which every vector is a node that reads in vocabulary.

Each position and layer has these nodes: the state, its norm, the query of each head, the keys and values of the strongest
sources, the head, rows of the output projection, attention's output; the state between, its norm, the strongest neurons with
their input and output weights, the MLP's output, the state after. One *rest* node stands for all that is left out of a sum, so
the parts of every node sum to the node. An edge carries its part of the node, ⟨part, whole⟩ / ⟨whole, whole⟩.

In the decoder of an encoder–decoder, attention to the encoder has such nodes of its own between attention and MLP. What its heads
and their values write lies in the decoder's space and is read there. Its queries and keys are given by their lengths, and the keys
and values stand for the encoder's tokens: the encoder's own states lie in another space, which no head reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from torch import Tensor

from ..errors import ArgumentError, NotRecordedError, UnsupportedReadingError
from ..lenses.direct_attribution import logit_direction, target_and_foil
from ..methods.origin import origin
from ..models.anatomy import no_neurons, upcast
from ..values.arguments import takes
from ..values.flow_graph import FlowGraph
from ..values.node import Node, NodeKind
from ..values.trace import Trace
from .attention import AttentionNodes
from .bounds import MAX_NODES, aimed, layers_of, positions_of, refuse_above
from .layer import Layer, along, part_of, state_node
from .mlp import MlpNodes
from .selection import MEASURES, Choice, Measure
from .sketch import Sketch
from .visit import visit_graph

Style = Literal["flow", "visit"]


@takes(Trace)
def semantic_graph(
    trace: Trace,
    *,
    layers: int | tuple[int, int] | None = None,
    positions: int | Sequence[int] | None = None,
    target: str | int | None = None,
    foil: str | int | None = None,
    heads: int | Sequence[int] | None = None,
    sources_per_head: int | None = None,
    rows_per_block: int | None = None,
    neurons_per_block: int | None = None,
    select: Measure | None = None,
    style: Style = "flow",
    k: int = 5,
    max_nodes: int = MAX_NODES,
) -> FlowGraph:
    """Draw up the semantic flow graph: states, norms, queries, keys, values, heads, neurons, each read in vocabulary.

    Edges carry one unit each: ``contribution`` is the part of its target that a vector makes up (Σ = 1 over all parts);
    ``attention`` is the pattern; ``activation`` the factor of a neuron or row; ``norm`` the length of the vector that is read;
    ``logits`` the logits of the last state. Shares are within the same target and unit.

    Parameters
    ----------
    trace
        A trace with its model.
    layers
        One layer, or (first, one past last); default all that the trace keeps.
    positions
        One or several query positions; default the trace's. Negative counts from the end.
    target, foil
        Token whose logit, probability and rank readings give, and a second one; default those of the trace.
    heads
        How many heads of each layer, the strongest first, or which; default all.
    sources_per_head
        Source tokens of each head; default 3.
    rows_per_block
        Rows of the output projection of each layer; default 0: heads lead to attention's output directly.
    neurons_per_block
        Neurons of each layer; default 20.
    select
        Measure of the selection. ``"contribution"`` (default): the part of the whole that a vector makes up. ``"norm"``: the length
        of its output. ``"attention"``: the pattern for sources, |activation| for rows and neurons, length for heads. ``"target"``:
        the logit of the target (minus the foil) at the position.
    style
        ``"flow"``: as described here. ``"visit"``: nodes, rules of selection and edge weights of VISIT, for comparison; by its
        first version for models with learned positions, by its second for others. :func:`flowgraph.visit_graph` has its options.
    k
        How many top and bottom tokens each reading keeps.
    max_nodes
        Refuse a larger graph, naming its size.

    Returns
    -------
    A graph whose nodes carry, besides their reading, ``activation`` (pattern of a key or value), ``contribution`` (what they
    write in the direction of the target at their position, in logits, where the model has direct logit attribution and the
    trace reaches the last layer) and ``coverage`` (part of Σ measure that the shown parts of a sum hold).

    Raises
    ------
    ArgumentError
        If an argument is out of its range.
    GraphTooLargeError
        If the graph would have more than ``max_nodes`` nodes.
    UnsupportedReadingError
        If ``select="target"`` and the model has no direct logit attribution, or if its MLPs have no neurons.

    References
    ----------
    Katz & Belinkov (2023), "VISIT: Visualizing and Interpreting the Semantic Information Flow of Transformers".

    Examples
    --------
    >>> graph = fg.semantic_graph(trace, layers=23)
    >>> head = [str(node) for node in graph.nodes].index("L23H4@7")
    >>> graph.readings[head].top[0][0]  # what the head writes
    ' Japanese'
    """
    _refuse_model(trace)
    if style not in ("flow", "visit"):
        raise ArgumentError(f"style={style!r} is not known; expected 'flow' or 'visit'")
    if style == "visit":
        _refuse_for_visit(foil=foil, rows_per_block=rows_per_block, neurons_per_block=neurons_per_block, select=select)
        return visit_graph(
            trace, layers=layers, position=_only(positions), target=target, heads=heads, sources_per_head=sources_per_head,
            version=1 if trace.model.anatomy.stack.attention.rotary == "none" else 2, k=k, max_nodes=max_nodes,
        )  # fmt: skip
    if trace.model.anatomy.has_head:
        trace = aimed(trace, *target_and_foil(trace, target, foil))
    elif target is not None or foil is not None or select == "target":
        trace.model.require_head("a target")
    first, stop = layers_of(trace, layers)
    chosen = positions_of(trace, positions)
    choice = _choice(
        trace, heads, _given(sources_per_head, 3), _given(rows_per_block, 0), _given(neurons_per_block, 20),
        select or "contribution",
    )  # fmt: skip
    _check_size(trace, (stop - first) * len(chosen), choice, max_nodes)
    sketch = sketched(trace, (first, stop), chosen, choice=choice)
    info = replace(
        origin(trace, "semantic", "contribution"),
        level="head", layers=(first, stop),
        options={"select": choice.select, "sources": choice.sources, "rows": choice.rows, "neurons": choice.neurons},
    )  # fmt: skip
    return sketch.graph(info, sketch.read(trace, k))


def _refuse_model(trace: Trace) -> None:
    """Refuse a trace whose layers are not heads and neurons that are known."""
    anatomy = trace.model.anatomy
    if not anatomy.has_neurons:
        raise UnsupportedReadingError(f"a semantic graph shows neurons: {no_neurons(anatomy)}")
    anatomy.refuse_gates("a semantic graph")
    anatomy.refuse_exchange("a semantic graph")
    if anatomy.has_gaps:
        raise UnsupportedReadingError(
            f"a semantic graph shows heads and neurons of its layers, and some layers of {trace.model_name!r} do not attend"
        )


def sketched(trace: Trace, layers: tuple[int, int], positions: tuple[int, ...], *, choice: Choice) -> Sketch:
    """All nodes with their vectors, and all edges, before anything is read."""
    first, stop = layers
    directions = {position: _direction(trace, position, needed=choice.select == "target") for position in positions}
    sketch = Sketch()
    for layer in range(first, stop):
        _add_layer(sketch, Layer(trace, layer), positions, first, choice, directions)
    _add_end(sketch, trace, stop, positions)
    return sketch


def _add_layer(
    sketch: Sketch,
    layer: Layer,
    positions: Sequence[int],
    first: int,
    choice: Choice,
    directions: dict[int, Tensor | None],
) -> None:
    attention, mlp = AttentionNodes(sketch, layer, choice, first), MlpNodes(sketch, layer, choice)
    reading = None
    if layer.trace.model.anatomy.cross is not None:
        reading = AttentionNodes(sketch, Layer(layer.trace, layer.layer, cross=True), choice, first)
    trace, row = layer.trace, layer.row
    for t in positions:
        direction = directions[t]
        before = _add_state(sketch, layer, t, first, direction)
        attn = attention.add(t, before, direction)
        # Only at the first layer are embeddings the states that sources read.
        if layer.layer == 0:
            for source in attention.sources:
                _add_embedding(sketch, trace, source, state_node(0, source, first), directions.get(source))
        post = Node("resid_post", layer=layer.layer, position=t)
        after = upcast(trace.resid_post[row, t])
        if trace.wiring == "parallel":
            mlp_node = mlp.add(t, before, upcast(trace.resid_pre[row, t]), direction)
            sketch.node(post, after, contribution=along(after, direction))
            _add_sum(sketch, layer, "attention", t, post, (("residual", before), ("attn", attn), ("mlp", mlp_node)))
            continue
        assert trace.resid_mid is not None
        if reading is not None:
            between = upcast(trace.resid_cross[row, t])
            state = Node("resid_cross", layer=layer.layer, position=t)
            sketch.node(state, between, contribution=along(between, direction))
            _add_sum(sketch, layer, "attention", t, state, (("residual", before), ("attn", attn)))
            before, attn = state, reading.add(t, state, direction)
        middle = upcast(trace.resid_mid[row, t])
        mid = sketch.node(
            Node("resid_mid", layer=layer.layer, position=t), middle, contribution=along(middle, direction)
        )
        last = layer if reading is None else reading.layer
        _add_sum(sketch, last, "attention", t, mid, (("residual", before), ("attn", attn)))
        mlp_node = mlp.add(t, mid, middle, direction)
        sketch.node(post, after, contribution=along(after, direction))
        _add_sum(sketch, layer, "mlp", t, post, (("residual", mid), ("mlp", mlp_node)))


def _add_state(sketch: Sketch, layer: Layer, t: int, first: int, direction: Tensor | None) -> Node:
    """The state that enters a layer; at the first layer of the model with its embeddings."""
    state = upcast(layer.trace.resid_pre[layer.row, t])
    node = sketch.node(state_node(layer.layer, t, first), state, contribution=along(state, direction))
    if layer.layer == 0:
        _add_embedding(sketch, layer.trace, t, node, direction)
    return node


def _add_embedding(sketch: Sketch, trace: Trace, position: int, state: Node, direction: Tensor | None) -> None:
    """Token and position embedding of a state, where their sum is the state."""
    if not trace.model.anatomy.stack.embedding_is_residual:
        return
    whole = upcast(trace.resid_pre[0, position])
    place = None if trace.position_embedding is None else upcast(trace.position_embedding[position])
    parts: dict[NodeKind, Tensor | None] = {
        "embed": whole if place is None else whole - place, "position_embed": place,
    }  # fmt: skip
    for kind, part in parts.items():
        node = Node(kind, position=position)
        # A position may be a source of several queries; its embedding is added once.
        if part is not None and node not in sketch.facts:
            sketch.node(node, part, contribution=along(part, direction))
            sketch.edge(
                node, state, "embed", "contribution", part_of(part, whole), query_pos=position, key_pos=position
            )


def _add_sum(sketch: Sketch, layer: Layer, step: str, t: int, whole: Node, parts: Sequence[tuple[str, Node]]) -> None:
    """Edges of the parts of a state, through the norm over it in post-norm blocks."""
    vector, place = sketch.vectors[whole], {"layer": layer.layer, "query_pos": t, "key_pos": t}
    for kind, node in parts:
        part = layer.into_state(step, t, sketch.vectors[node])
        sketch.edge(node, whole, kind, "contribution", part_of(part, vector), **place)  # type: ignore[arg-type]
    bias = layer.state_bias(step)
    if bias is not None:
        name = layer.kinds.get("attn_norm_bias", "attn_norm_bias") if step == "attention" else "mlp_norm_bias"
        node = sketch.node(Node(name, layer=layer.layer, position=t), bias)
        sketch.edge(node, whole, "bias", "contribution", part_of(bias, vector), layer=layer.layer, query_pos=t)


def _add_end(sketch: Sketch, trace: Trace, stop: int, positions: Sequence[int]) -> None:
    """Final norm and logits, where the graph reaches them."""
    t = trace.position
    # The trace holds the answer of one position, so the graph ends there.
    if stop != trace.n_layers or t not in positions or trace.target is None or trace.logits is None:
        return
    last, place = Node("resid_post", layer=stop - 1, position=t), {"query_pos": t, "key_pos": t}
    norm = trace.model.anatomy.final_norm
    source = last
    if norm is not None and trace.final_scale is not None:
        state = sketch.vectors[last]
        normed = norm.linear(state, upcast(trace.final_scale[t]))
        normed = normed if norm.bias is None else normed + norm.bias
        source = sketch.node(Node("final_norm", position=t), normed)
        sketch.edge(last, source, "norm", "norm", state.norm(), **place)
    row = upcast(trace.logits if trace.logits.ndim == 1 else trace.logits[t])
    for token_id, token in ((trace.target, trace.target_token), (trace.foil, trace.foil_token)):
        if token_id is not None:
            node = sketch.node(Node("logit", index=token_id, token=token))
            sketch.edge(source, node, "unembed", "logits", row[token_id], **place)


def _direction(trace: Trace, position: int, *, needed: bool) -> Tensor | None:
    """Direction of the target's logit at a position; None where no logits of single parts exist."""
    if trace.target is None:
        return None
    try:
        return logit_direction(trace, trace.target, trace.foil, position)[0]
    except (UnsupportedReadingError, NotRecordedError):
        if needed:
            raise
        return None


def _given(value: int | None, default: int) -> int:
    return default if value is None else value


def _refuse_for_visit(**options: object) -> None:
    """Name the first option that is set, though VISIT's rules decide."""
    for name, value in options.items():
        if value is not None:
            raise ArgumentError(
                f"{name}={value!r} does not go with style='visit', which has rules of its own; leave it out, or see visit_graph()"
            )


def _only(positions: int | Sequence[int] | None) -> int | None:
    """The one position that VISIT draws."""
    if positions is None or isinstance(positions, int):
        return positions
    if len(positions) != 1:
        raise ArgumentError(f"positions={list(positions)} names {len(positions)} positions; style='visit' draws one")
    return positions[0]


def _choice(
    trace: Trace, heads: int | Sequence[int] | None, sources: int, rows: int, neurons: int, select: str
) -> Choice:
    if select not in MEASURES:
        raise ArgumentError(f"select={select!r} is not known; expected one of {', '.join(MEASURES)}")
    anatomy = trace.model.anatomy
    most = anatomy.n_heads * anatomy.d_value, anatomy.blocks[0].n_neurons
    for name, value, least, limit in (
        ("sources_per_head", sources, 1, None),
        ("rows_per_block", rows, 0, most[0]),
        ("neurons_per_block", neurons, 0, most[1]),
    ):
        if value < least or (limit is not None and value > limit):
            there = "" if limit is None else f" and at most {limit}, as many as there are"
            raise ArgumentError(f"{name}={value} must be at least {least}{there}")
    if isinstance(heads, int) and not 1 <= heads <= trace.n_heads:
        raise ArgumentError(f"heads={heads} must be between 1 and {trace.n_heads}, or a list of heads")
    which = heads if heads is None or isinstance(heads, int) else tuple(sorted(set(heads)))
    if isinstance(which, tuple) and not (which and which[0] >= 0 and which[-1] < trace.n_heads):
        raise ArgumentError(f"heads={list(which)} must name heads of 0…{trace.n_heads - 1}")
    return Choice(which, sources, rows, neurons, select)  # type: ignore[arg-type]


def _check_size(trace: Trace, blocks: int, choice: Choice, max_nodes: int) -> None:
    """Count before anything is computed; sources that attention does not reach make it a few less."""
    heads = choice.heads if isinstance(choice.heads, int) else len(choice.heads or range(trace.n_heads))
    gated = trace.model.anatomy.blocks[0].mlp_gate is not None
    sources = min(choice.sources, len(trace.tokens))
    # 11 nodes of a block are states, norms, sums, rests and biases; a head has query, rest and itself, and two nodes a
    # source.
    each = 11 + heads * (3 + 2 * sources) + choice.rows + choice.neurons * (3 if gated else 2)
    if trace.model.anatomy.cross is not None:
        read = min(choice.sources, trace.site("cross_pattern").shape[-1])
        each += 5 + heads * (3 + 2 * read) + choice.rows
    refuse_above(
        max_nodes,
        blocks * each,
        "layers=, positions=, heads=, sources_per_head=, rows_per_block= or neurons_per_block=",
    )
