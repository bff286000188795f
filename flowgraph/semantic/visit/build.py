"""From a trace to its graph in VISIT's style: the arguments, and the readings of the nodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from ...errors import UnsupportedReadingError
from ...lenses.direct_attribution import target_and_foil
from ...lenses.logit_lens import read, unembed
from ...methods.origin import origin
from ...values.arguments import takes
from ...values.flow_graph import FlowGraph
from ...values.reading import Entry, NodeReading
from ...values.trace import Trace
from ..bounds import MAX_NODES, aimed, layers_of, positions_of, refuse_above
from ..layer import Layer
from ..sketch import Sketch
from .choice import Selection, Version, selected
from .drawing import Drawing

# Each row gives a row of logits over the vocabulary, so few at a time.
_ROWS_AT_ONCE = 64


@takes(Trace)
def visit_graph(
    trace: Trace,
    *,
    layers: int | tuple[int, int] | None = None,
    position: int | None = None,
    version: Version = 2,
    target: str | int | None = None,
    sources_per_head: int | None = None,
    heads: int | Sequence[int] | None = None,
    top_neurons: int | None = None,
    bottom_neurons: int | None = None,
    k: int = 5,
    max_nodes: int = MAX_NODES,
) -> FlowGraph:
    """Draw up the semantic graph by the rules of VISIT.

    Parameters
    ----------
    trace
        A trace with its model: pre-norm blocks, sequential or parallel, and a head.
    layers
        One layer, or (first, one past last); default all that the trace keeps.
    position
        Query position; default the trace's. Negative counts from the end.
    version
        1 or 2, the published versions; they differ in defaults, and in the width of the edge to the bias of the MLP's input.
    target
        Token whose logit, probability and rank readings give; default the trace's.
    sources_per_head
        Source tokens of each head, by attention. Default 2, in version 2 for models with rotary embeddings 1.
    heads
        How many heads of each layer, those with the longest z first, or which. Default all; in version 2 at most 10.
    top_neurons, bottom_neurons
        How many rows of W_O, and how many neurons of the MLP, with the largest and the smallest signed activation · length of
        what is multiplied. Default 20 and 10 (GPT-J: 10 and 5), in version 2 18 and 7.
    k
        How many top and bottom tokens each reading keeps.
    max_nodes
        Refuse a larger graph, naming its size.

    Returns
    -------
    A graph whose edges all have the unit ``visit``. Keys, values, rows and neurons carry their ``activation``, which is not
    multiplied into their vectors. In parallel blocks the two norms follow the state directly.

    Raises
    ------
    ArgumentError
        If an argument is out of its range.
    GraphTooLargeError
        If the graph would have more than ``max_nodes`` nodes.
    UnsupportedReadingError
        If the model has no head, or norms after its blocks.

    References
    ----------
    Katz & Belinkov (2023), "VISIT: Visualizing and Interpreting the Semantic Information Flow of Transformers". The module
    says where this differs.

    Examples
    --------
    >>> graph = fg.visit_graph(trace, layers=23)
    >>> graph.info.method, graph.info.layers
    ('visit', (23, 24))
    """
    _check_model(trace)
    trace = aimed(trace, *target_and_foil(trace, target, None))
    first, stop = layers_of(trace, layers)
    (t,) = positions_of(trace, position, "position")
    selection = selected(trace, version, heads=heads, sources=sources_per_head, top=top_neurons, bottom=bottom_neurons)
    _check_size(trace, stop - first, selection, max_nodes)
    sketch = Sketch()
    for layer in range(first, stop):
        Drawing(sketch, Layer(trace, layer), selection, t=t, first=first).add()
    options = {"version": version, "heads": selection.heads_text, "sources": selection.sources}
    options |= {"top": selection.top, "bottom": selection.bottom}
    info = replace(origin(trace, "visit", "visit"), level="head", layers=(first, stop), options=options)
    return sketch.graph(info, _readings(sketch, trace, k))


def _readings(sketch: Sketch, trace: Trace, k: int) -> tuple[NodeReading | None, ...]:
    """Readings of all nodes; a node with a negative activation is read as minus its weights, which is its output."""
    found = list(sketch.read(trace, k))
    negative: list[tuple[int, Tensor, float]] = []
    for n, (node, facts) in enumerate(sketch.facts.items()):
        if node.kind == "concat_heads":
            found[n] = NodeReading(norm=facts["norm"])
        elif node.kind in ("row", "neuron") and facts["activation"] < 0:
            negative.append((n, sketch.vectors[node], facts["activation"]))
    for start in range(0, len(negative), _ROWS_AT_ONCE):
        some = negative[start : start + _ROWS_AT_ONCE]
        written = _negative(trace, torch.stack([row for _, row, _ in some]), k)
        for (n, _, activation), reading in zip(some, written, strict=True):
            found[n] = replace(reading, activation=activation)
    return tuple(found)


def _negative(trace: Trace, rows: Float[Tensor, "n d_model"], k: int) -> list[NodeReading]:
    """Readings of minus each row; the lists hold the tokens of the row itself, the lowest first.

    With a bias in the final norm the lowest tokens of a row are not quite the highest of minus the row. The tokens are those
    of VISIT; their probabilities and logits are those of minus the row.
    """
    plus, minus = read(trace, rows, min(k, trace.model.anatomy.d_vocab)), read(trace, -rows, 1)
    logits = unembed(trace, -rows)
    probabilities = torch.softmax(logits, -1)

    def entries(n: int, ids: list[int], tokens: tuple[str, ...]) -> tuple[Entry, ...]:
        return tuple(zip(tokens, probabilities[n, ids].tolist(), logits[n, ids].tolist(), strict=True))

    return [
        replace(
            minus[n],
            top=entries(n, plus.bottom_token_ids[n].tolist(), plus.bottom_tokens[n]),
            bottom=entries(n, plus.top_token_ids[n].tolist(), plus.top_tokens[n]),
        )
        for n in range(len(rows))
    ]


def _check_model(trace: Trace) -> None:
    loaded = trace.model
    loaded.require_head("a graph in VISIT's style")
    if loaded.anatomy.cross is not None:
        raise UnsupportedReadingError(
            f"VISIT has no rules for attention to an encoder, which {loaded.name!r} has; semantic_graph(trace) shows it, each head and "
            "each value read in the decoder's vocabulary"
        )
    if trace.wiring not in ("sequential", "parallel"):
        where = {
            "sandwich": "norms what attention and MLP add before it enters the state, so that rows of W_O and neurons are not "
            "what is added (families gemma2, gemma3)",
            "post_norm": "norms the state after each block and has no norm before its head, so that there is no lens to read "
            "a vector with as VISIT does (families bert, roberta, distilbert, and opt with do_layer_norm_before=False)",
        }[trace.wiring]
        raise UnsupportedReadingError(
            f"VISIT has no rules for {loaded.name!r} (family {trace.family!r}): it {where}; use another style"
        )


def _check_size(trace: Trace, layers: int, selection: Selection, max_nodes: int) -> None:
    """Count before anything is computed; sources that attention does not reach make it a few less."""
    heads = selection.heads if isinstance(selection.heads, int) else len(selection.heads)
    block = trace.model.anatomy.blocks[0]
    biases = (block.output_projection.bias, block.neuron_layers.input.bias, block.neuron_layers.output.bias)
    states = (7 if trace.wiring == "parallel" else 8) + sum(bias is not None for bias in biases)
    sources = min(selection.sources, len(trace.tokens))
    # One state at the bottom; a head has query and output, a source key and value; a row of W_O is one node, a neuron
    # two.
    count = 1 + layers * (states + heads * (2 + 2 * sources) + 3 * (selection.top + selection.bottom))
    refuse_above(max_nodes, count, "layers=, heads=, sources_per_head=, top_neurons= or bottom_neurons=")
