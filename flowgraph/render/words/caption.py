"""The one line that goes with every picture: what it shows, and how much it leaves out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ...charts import rendering
from ...charts.text import printable, prompt_line, visible
from ...values.effects import is_picture_of_parts
from ...values.flow_graph import EDGE_KINDS, FlowGraph
from ...values.graph_info import KEPT, UNNAMED, GraphInfo
from ...version import __version__

_LONGEST_PROMPT = 80
_FILTER_NAMES = {
    "path_mass": "mass along the strongest paths", "top_k": "top k", "nucleus": "nucleus per target",
    "mass": "nucleus per target",  # as files of earlier releases call it
}  # fmt: skip
_UNSAID = frozenset({"kept_flow"})
"""What files of earlier releases hold and the edges themselves say better."""


@rendering.caption.register(FlowGraph)
def caption(graph: FlowGraph) -> str:
    """One line: model, prompt, prediction, method and unit, level, layers, filters, edges and mass, version."""
    parts = [
        model_text(graph.info),
        f"“{prompt_text(graph.info, _LONGEST_PROMPT)}”" if graph.info.tokens else prompt_text(graph.info),
        *_prediction(graph),
        f"{graph.info.method_text} ({graph.info.unit}), {graph.info.level} level, {layers_text(graph)}",
        *limit_texts(graph.info),
        *reading_texts(graph),
        *filter_texts(graph),
        edges_text(graph),
        *kept_texts(graph.info),
        f"flowgraph {__version__}",
    ]
    return " · ".join(filter(None, parts))  # a file of another program may say no prompt


@rendering.summary.register(FlowGraph)
def summary(graph: FlowGraph) -> str:
    """A graph on one line of Python: method, level, size and how much of the mass it holds."""
    held = parts_text(graph) if is_picture_of_parts(graph) else f"{percent(graph.kept_mass)} {mass_of(graph)}"
    return (
        f"FlowGraph({graph.info.method!r}, level={graph.info.level!r}, {len(graph.nodes):,} nodes, "
        f"{len(graph):,} edges, {held})"
    )


def model_text(info: GraphInfo) -> str:
    """The model on one line; a file may name none."""
    return "an unnamed model" if info.model == UNNAMED else printable(info.model)


def prompt_text(info: GraphInfo, longest: int | None = None) -> str:
    """The prompt on one line; of a graph of several prompts, such as a circuit, their number."""
    if not info.tokens and info.outside:
        return "prompts that are not in the file"
    if info.stacks:
        stacks = [(one.tokens, f"{one.name}_token_ids") for one in info.stacks]
        return " → ".join(positions_text(info, *one, longest) for one in (*stacks, (info.tokens, "token_ids")))
    if info.tokens or "prompts" not in info.options:
        return positions_text(info, info.tokens, "token_ids", longest)
    count = info.options["prompts"]
    task, corruption = (info.options.get(name) for name in ("task", "corruption"))
    of = "" if task is None else f" of {printable(str(task))}"
    changed = "" if corruption is None else f", corruption {printable(str(corruption))}"
    return f"{count} prompt{'s' if count != 1 else ''}{of}{changed}"


def positions_text(info: GraphInfo, tokens: Sequence[str], ids: str, longest: int | None) -> str:
    """A prompt on one line; of an image or a sound, whose positions have no ids, the number of positions and their ends."""
    if tokens and info.provenance.get(ids) == []:
        ends = tokens[0] if len(tokens) == 1 else f"{tokens[0]} … {tokens[-1]}"
        return f"{len(tokens)} position{'s' if len(tokens) > 1 else ''}, {ends}"
    return prompt_line(tokens, longest)


def layers_text(graph: FlowGraph) -> str:
    """Which layers the graph spans, and of how many, where that differs."""
    first, end = graph.info.layers
    if graph.info.stacks:
        others = " and ".join(f"{one.layers} of the {one.name}" for one in graph.info.stacks)
        return f"{end - first} layer{'s' if end - first != 1 else ''} and {others}"
    if end - first == graph.info.total_layers:
        return f"{end} layer{'s' if end != 1 else ''}"
    which = f"layer {first}" if end - first == 1 else f"layers {first}–{end - 1}"
    return f"{which} of {graph.info.total_layers}"


def limit_texts(info: GraphInfo) -> list[str]:
    """What of the model the graph cannot show, in words."""
    texts = ["attention patterns alone are known of this model"] if info.provenance.get("known") == "patterns" else []
    if "blocks_left_out" in info.provenance:
        texts.append(f"without blocks {printable(str(info.provenance['blocks_left_out']))}")
    if "weights_packed" in info.provenance:
        texts.append(printable(str(info.provenance["weights_packed"])))
    if "experts_together" in info.provenance:
        texts.append(f"experts taken together: {printable(str(info.provenance['experts_together']))}")
    silent = info.provenance.get("without_attention")
    if isinstance(silent, (list, tuple)) and silent:
        which = f"layer{'s' if len(silent) > 1 else ''} {', '.join(printable(str(layer)) for layer in silent)}"
        texts.append(f"{which} without attention: what moves between tokens there is on no edge")
    return texts


def kept_texts(info: GraphInfo) -> list[str]:
    """How much of the answer the picture keeps, where that was measured."""
    kept = info.provenance.get(KEPT)
    text = kept.get("text") if isinstance(kept, Mapping) else None
    return [printable(text)] if isinstance(text, str) and text else []


def reading_texts(graph: FlowGraph) -> list[str]:
    """What of the attention to an encoder is read, and in whose words; nothing where every vector lies in one space."""
    if not any(node.kind in ("cross_key", "cross_value") for node in graph.nodes):
        return []
    return [
        "what heads and values bring from the encoder is read in the decoder's vocabulary; queries and keys to it, and its own states, are not"
    ]


def filter_texts(graph: FlowGraph) -> list[str]:
    """What was asked for, in the order of application."""
    texts = []
    for name, value in graph.info.filters.items():
        if name == "max_edges":
            texts.append(f"at most {value:,} edges")
        elif name not in _UNSAID:
            texts.append(f"{_FILTER_NAMES.get(name, name.replace('_', ' '))} {value}")
    return texts


def edges_text(graph: FlowGraph) -> str:
    """``N of M edges, x % of the mass`` of the whole graph as it is."""
    if is_picture_of_parts(graph):
        return f"{parts_text(graph)} of {graph.info.total_edges:,} parts"
    weighted = int((~graph.structural).sum())
    text = f"{weighted:,} of {graph.info.total_edges:,} edges, {percent(graph.kept_mass)} {mass_of(graph)}"
    return text if weighted == len(graph) else f"{text}, and {len(graph) - weighted:,} without a number"


def parts_text(graph: FlowGraph) -> str:
    """How many attention terms, and MLPs, a graph of parts shows."""
    kinds = [EDGE_KINDS[kind] for kind, structural in zip(graph.kind, graph.structural, strict=True) if not structural]
    counts = [
        (kinds.count("attention"), "attention term"),
        (kinds.count("mlp"), "MLP"),
        (kinds.count("mixer"), "mixer"),
    ]
    return " and ".join(
        f"{count:,} {name}{'' if count == 1 else 's'}" for count, name in counts if count or name != "mixer"
    )


def mass_of(graph: FlowGraph) -> str:
    """What a percentage of a graph's edges is a part of; :mod:`flowgraph.values.mass` defines it."""
    if not len(graph):
        return "of the mass"  # nothing, of whatever whole
    found = graph.measured
    measure = "mass" if found.flow is not None else "summed |share|"
    return f"of the {measure}" if found.whole == "method" else f"of the {measure} of the edges in the file"


def percent(part: float) -> str:
    """A part of 1 in percent, never rounded up to all or down to nothing."""
    if 0 < part < 0.001:
        return "< 0.1 %"
    if 0.9995 <= part < 1 - 1e-9:
        return "99.9 %"
    return f"{part:.1%}".removesuffix("%").removesuffix(".0") + " %"


def _prediction(graph: FlowGraph) -> list[str]:
    info = graph.info
    if info.target_token is None:
        return []
    probability = "" if info.target_probability is None else f" {info.target_probability:.2g}"
    against = "" if info.foil_token is None else f" against {visible(info.foil_token)}"
    return [f"{visible(info.target_token)}{probability}{against} at position {info.position}"]
