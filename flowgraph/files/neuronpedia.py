"""Attribution graphs as JSON for Neuronpedia and circuit-tracer, and their graphs as plain node-link data.

Nodes of this project get these types:

===================================================  ===========================================================
nodes                                                ``feature_type``
===================================================  ===========================================================
embeddings                                           ``embedding``
logits                                               ``logit``
heads, their parts, and sums of heads                ``lorsa``
rests and biases of attention                        ``lorsa error``
rests and biases of everything else                  ``mlp reconstruction error``
MLPs, neurons, residual states, norms, features      ``cross layer transcoder``
===================================================  ===========================================================

- Their layers start at 1, since their page takes layer 0 for none: ``layer`` is the layer of the model + 1, and
  ``"E"`` for embeddings. Nodes after the last layer are one layer further.
- ``feature`` is the node's place in the graph. There are no features behind it, so no source of their dashboards is
  named, and no ``schema_version``.
- ``influence`` is cumulative, as theirs: the share of all influence that this node and all stronger ones have
  together, so *small is important*. It is null for logits; it is null for all nodes if the graph has a cycle, or no one
  node that it flows to.
- A link has the sum of the weights of all edges between two nodes; in a graph whose edges differ in unit, the sum of their
  shares. Without such a number, or if it is 0, there is no link.
- The probability in a logit's label is that of the target; for other logits none is known, and ``(p=?)`` says so.
- A graph that came in their format is written as it was read: nodes, links, metadata, pins and groups have the same ids and
  numbers, and fields that this project does not know. If the graph was cut, pins and groups keep the nodes that are left.
- Nodes, links and ``metadata`` of all other graphs have a field ``flowgraph`` with all that their format has no place for, in
  the words of :meth:`FlowGraph.to_networkx`; that of a link lists all its edges.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ..algorithms.influence import influence
from ..charts.text import printable, visible
from ..errors import ArgumentError
from ..values.connected_flow import start_index
from ..values.flow_graph import FlowGraph
from ..values.graph_info import info_dict
from ..values.node import Node, label
from ..values.reading import NodeReading
from ..version import __version__
from .attributes import json_spelled, json_text
from .checked import LARGEST_FEATURE, Checked
from .json_file import MOST_EDGES, MOST_NODES

_EMBEDDINGS = ("embed", "position_embed")
_ATTENTION = (
    "query",
    "key",
    "value",
    "head",
    "kv_group",
    "cross_kv_group",
    "row",
    "attn",
    "qkv",
    "concat_heads",
    "attn_feature",
    "mixer",
    "sink",
)
_ATTENTION_RESTS = ("head_rest", "attn_rest", "attn_bias", "attn_norm_bias", "attn_error")
_RESTS = (
    "mlp_error",
    "mlp_rest",
    "mlp_bias",
    "mlp_norm_bias",
    "mlp_bias_in",
    "final_norm_bias",
    "unembed_bias",
    "shared_expert",
)
_TYPES = {
    **dict.fromkeys(_EMBEDDINGS, "embedding"),
    **dict.fromkeys(_ATTENTION, "lorsa"),
    **dict.fromkeys(_ATTENTION_RESTS, "lorsa error"),
    **dict.fromkeys(_RESTS, "mlp reconstruction error"),
    "logit": "logit",
}
_FEATURE = "cross layer transcoder"
_LONGEST_SLUG = 60
_MOST_TOKENS = 3
_SURROGATES = re.compile("[\ud800-\udfff]")


def to_neuronpedia(graph: FlowGraph) -> str:
    """Write a graph as the text of a ``.neuronpedia.json`` file.

    Raises
    ------
    ArgumentError
        If no node but embeddings and logits is in the graph: their page draws no graph without a layer.
    NonFiniteError
        If a reading or a number of ``graph.info`` is NaN or infinite.
    """
    kept = [_as_read(graph, n) for n in range(len(graph.nodes))]
    is_whole = bool(kept) and all(row is not None for row in kept)
    # A graph that came in their format and lost nothing keeps its layers and influences; nothing is worked out again.
    layers = [""] * len(kept) if is_whole else _layers(graph)
    influences = [None] * len(kept) if is_whole else _cumulative_influence(graph)
    nodes = [_node(graph, n, layers[n], influences[n]) if row is None else dict(row) for n, row in enumerate(kept)]
    links = list(_links(graph, [node["node_id"] for node in nodes], kept))
    shown = _question(graph) if is_read(graph) else _QUESTION
    more = graph.info.outside.get("more", {}) if is_read(graph) else {}
    lines = (
        '{"metadata": ' + _line(_metadata(graph, is_ranked=influences.count(None) < len(nodes)), "graph") + ",",
        f'"qParams": {_line(shown, "graph")},',
        *(f"{json_text(name, 'graph')}: {_line(value, name)}," for name, value in more.items()),
        '"nodes": [\n' + ",\n".join(_line(node, f"nodes[{n}]") for n, node in enumerate(nodes)) + "\n],",
        '"links": [\n' + ",\n".join(_line(link, f"links[{n}]") for n, link in enumerate(links)) + "\n]}",
    )
    return "\n".join(lines) + "\n"


_QUESTION = {"pinnedIds": [], "supernodes": [], "linkType": "both", "clickedId": "", "sg_pos": ""}


def is_read(graph: FlowGraph) -> bool:
    """Whether a graph came in this format."""
    return "metadata" in graph.info.outside


def _as_read(graph: FlowGraph, n: int) -> Mapping[str, Any] | None:
    """The node as it was read; None if it did not come in this format."""
    note = graph.notes[n] if graph.notes and is_read(graph) else None
    return None if note is None or note.id is None else note.fields


def _question(graph: FlowGraph) -> Mapping[str, Any]:
    """Pins, groups and the clicked node, limited to nodes that are still in the graph."""
    outside = graph.info.outside
    question: Mapping[str, Any] = outside.get("qParams") or _QUESTION
    if outside.get("count") == len(graph.nodes):
        return question
    there = {note.id for note in graph.notes if note is not None}
    found = dict(question)
    pins, groups = question.get("pinnedIds"), question.get("supernodes")
    if isinstance(pins, list):
        found["pinnedIds"] = [pin for pin in pins if pin in there]
    if isinstance(groups, list):
        left = [[name, *(one for one in ids if one in there)] for name, *ids in filter(_is_group, groups)]
        found["supernodes"] = [group for group in left if len(group) > 1]
    if isinstance(question.get("clickedId"), str) and question["clickedId"] not in there:
        found["clickedId"] = ""
    return found


def _is_group(group: Any) -> bool:
    return isinstance(group, list) and bool(group) and all(isinstance(entry, str) for entry in group)


def _layers(graph: FlowGraph) -> list[str]:
    """Layer of each node in Neuronpedia's format."""
    numbers = [
        (graph.info.total_layers if node.layer is None else node.layer) + 1
        for node in graph.nodes
        if node.kind not in (*_EMBEDDINGS, "logit")
    ]
    if not numbers:
        raise ArgumentError(
            "the graph has no node but embeddings and logits, and Neuronpedia draws no graph without a layer; "
            "keep more edges, or choose another format"
        )
    found = iter(numbers)
    special = {**dict.fromkeys(_EMBEDDINGS, "E"), "logit": str(max(numbers) + 1)}
    return [special[node.kind] if node.kind in special else str(next(found)) for node in graph.nodes]


def _cumulative_influence(graph: FlowGraph) -> list[float | None]:
    """Share of all influence that a node and all stronger ones have together; None if the graph has no influence."""
    # Without a node that the graph flows to there is no influence, and the file says null.
    try:
        found = influence(graph)
        start = start_index(graph, None, "start")
    except ArgumentError:
        return [None] * len(graph.nodes)
    # As theirs: what the start contributes to itself is no influence.
    found[start] = 0.0
    if not found.any():
        return [None] * len(graph.nodes)
    order = np.argsort(-found, kind="stable")
    cumulative = np.ones(len(found))
    cumulative[order] = np.minimum(np.cumsum(found[order]) / found.sum(), 1.0)
    cumulative[start] = 0.0
    return [
        None if node.kind == "logit" else value for node, value in zip(graph.nodes, cumulative.tolist(), strict=True)
    ]


def _node(graph: FlowGraph, n: int, layer: str, rank: float | None) -> dict[str, Any]:
    node, info = graph.nodes[n], graph.info
    position = info.position if node.position is None else node.position
    reading = graph.readings[n] if graph.readings else None
    is_target = node.kind == "logit" and node.index == info.target
    probability = info.target_probability if is_target else None
    data = {
        "node_id": f"{layer}_{n}_{position}",
        "feature": n,
        "layer": layer,
        "ctx_idx": position,
        "feature_type": _TYPES.get(node.kind, _FEATURE),
        "jsNodeId": f"{layer}_{n}-{position}",
        "clerp": _output(node, probability) if node.kind == "logit" else _says(node, reading),
        "influence": rank,
        "activation": None if reading is None else reading.activation,
        "is_target_logit": is_target,
    }
    if node.kind != "logit" or probability is not None:
        data["token_prob"] = probability or 0.0
    own = {name: value for name, value in graph.node_dict(n).items() if value is not None}
    return {**data, "flowgraph": own if node.token is None else {**own, "label_token": node.token}}


def _output(node: Node, probability: float | None) -> str:
    # Their page takes the token from between the first two quotation marks, the probability from after the first "(p=".
    token = printable(str(node.index) if node.token is None else node.token)
    token = token.replace('"', "⟨0022⟩").replace("(p=", "(p⟨003D⟩")
    return f'Output "{token}" (p={"?" if probability is None else f"{probability:.3f}"})'


def _says(node: Node, reading: NodeReading | None) -> str:
    tokens = [] if reading is None else [visible(token) for token, _, _ in reading.top[:_MOST_TOKENS]]
    return " ".join([printable(label(node)), *tokens])


def _links(graph: FlowGraph, ids: list[str], kept: Sequence[Mapping[str, Any] | None]) -> Iterator[dict[str, Any]]:
    """One link between two nodes, since the page knows a link by its ends."""
    rows = graph.info.outside.get("links", ()) if is_read(graph) else ()
    more = {(row["source"], row["target"]): row for row in rows}
    numbers = graph.weight if graph.unit is None else graph.share
    between: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
    for e, ends in enumerate(zip(graph.source.tolist(), graph.target.tolist(), strict=True)):
        between[ends].append(e)
    for (source, target), edges in between.items():
        weight = math.fsum(float(numbers[e]) for e in edges)
        if kept[source] is not None and kept[target] is not None and len(edges) == 1:
            link = {"source": ids[source], "target": ids[target], "weight": weight}
            yield link | {
                name: value for name, value in more.get((ids[source], ids[target]), {}).items() if name not in link
            }
            continue
        # Of a node whose inputs are all 0 the page shows 0 / 0.
        if weight:
            own = [graph.edge_dict(e) for e in edges]
            yield {"source": ids[source], "target": ids[target], "weight": weight, "flowgraph": own}


def _metadata(graph: FlowGraph, *, is_ranked: bool) -> dict[str, Any]:
    info, prompt = graph.info, "".join(graph.info.tokens)
    if is_read(graph):
        own = {name: value for name, value in info_dict(info).items() if name != "outside"}
        return {**info.outside["metadata"], **({"flowgraph": own} if info.filters else {})}
    words = re.sub(r"[^a-z0-9]+", "-", f"{prompt[:_LONGEST_SLUG]} {info.method}".lower()).strip("-")
    return {
        "slug": words or "graph",
        "scan": info.model,
        "transcoder_list": [],
        "prompt_tokens": list(info.tokens),
        "prompt": prompt,
        # Up to 1 all nodes are shown, and their page has its slider.
        **({"node_threshold": 1.0} if is_ranked else {}),
        "info": {"description": graph.caption(), "generator": {"name": "flowgraph", "version": __version__}},
        "generation_settings": {"method": info.method_text, "unit": info.unit, "level": info.level},
        "pruning_settings": dict(info.filters),
        "flowgraph": info_dict(info),
    }


def _line(data: Any, place: str) -> str:
    return json_spelled(json_text(data, place), _SURROGATES)


_KINDS = {
    "embedding": "embed",
    "logit": "logit",
    "lorsa": "attn_feature",
    "lorsa error": "attn_error",
    # Names of several releases and programs; spelling differs in spaces, dashes and underlines.
    "attention error": "attn_error",
    "attention reconstruction error": "attn_error",
    "attn reconstruction error": "attn_error",
    "attention feature": "attn_feature",
    "mlp error": "mlp_error",
    "mlp reconstruction error": "mlp_error",
    "transcoder error": "mlp_error",
    "cross layer transcoder": "feature",
    "per layer transcoder": "feature",
    "transcoder": "feature",
    "unexplored node": "feature",
}
_NUMBERED = re.compile(r"(\w+)_(\d{1,16})_(\d{1,10})", re.ASCII)
_OUTPUT = re.compile(r""".*?(?:"(.*)"|'(.*)') \(p=.*\)""", re.DOTALL)
_PROBABILITY = re.compile(r"\s*\(p=[^()]*\)\s*\Z")
_LINK = frozenset({"source", "target", "weight"})


def is_neuronpedia(data: Any) -> bool:
    """Whether JSON has the shape of an attribution graph rather than that of node-link data."""
    return isinstance(data, dict) and bool({"metadata", "qParams"} & data.keys()) and "graph" not in data


def node_link_of_neuronpedia(data: Checked) -> dict[str, Any]:
    """Plain node-link data of an attribution graph in the format of Neuronpedia and circuit-tracer.

    ==============================================  ==============================================================
    ``feature_type``                                kind of node
    ==============================================  ==============================================================
    ``cross layer transcoder``, ``transcoder`` …    ``feature``, whose index is the feature
    ``lorsa``, ``attention feature``                ``attn_feature``, the same
    ``mlp reconstruction error``, ``lorsa error``   ``mlp_error``, ``attn_error``
    ``embedding``                                   ``embed``
    ``logit``                                       ``logit``, with the token between quotation marks in ``clerp``
    ==============================================  ==============================================================

    A feature's own number is the middle of a ``node_id`` of the form ``layer_number_position``; for other ids it is ``feature``.
    Its name (``clerp``) becomes its label. All entries of a node become its ``note``, and those of the graph ``outside``. The
    target is the logit that the file marks; if it marks none, the most probable one. If there is a field ``flowgraph``, which
    this project writes, it is taken instead.

    Raises
    ------
    FileFormatError
        If a field is missing or impossible; the message names its place.
    """
    about = data.field("metadata")
    rows = list(data.field("nodes").items(MOST_NODES))
    nodes = [_read_node(row) for row in rows]
    link_rows = list(data.field("links").items(MOST_EDGES))
    links = [edge for row in link_rows for edge in _read_link(row)]
    own, is_foreign = about.optional("flowgraph"), any(row.optional("flowgraph") is None for row in rows)
    outside = {"outside": _outside(data, link_rows)} if is_foreign else {}
    if own is not None:
        # The file was written by this project, which left its own fields beside theirs.
        return {"graph": _values(own) | outside, "nodes": nodes, "links": links}
    tokens = [token.text() for token in about.field("prompt_tokens").items()]
    graph = {
        "method": "attribution graph",
        "level": "feature",
        "model": about.field("scan").text(),
        "tokens": tokens,
        "position": max(0, len(tokens) - 1),
        "options": _thresholds(about),
    }
    return {"graph": graph | _target(rows, nodes) | outside, "nodes": nodes, "links": links}


def _outside(data: Checked, links: Sequence[Checked]) -> dict[str, Any]:
    """The file's entries about the whole graph, and those of links beside their weight."""
    values = _values(data)
    found: dict[str, Any] = {"count": len(values["nodes"])}
    found["metadata"] = {name: value for name, value in data.field("metadata").json().items() if name != "flowgraph"}
    if "qParams" in values:
        found["qParams"] = data.field("qParams").json()
    more = {name: value for name, value in values.items() if name not in ("metadata", "qParams", "nodes", "links")}
    found |= {"more": Checked(more).json()} if more else {}
    said = [row.json() for row in links if not row.value.keys() <= _LINK and "flowgraph" not in row.value]
    return found | ({"links": said} if said else {})


def _thresholds(about: Checked) -> dict[str, float]:
    """Thresholds of the pruning, as the file states them."""
    pruned = about.optional("pruning_settings")
    places = [about] if pruned is None or type(pruned.value) is not dict else [pruned, about]
    found = {}
    for name in ("node_threshold", "edge_threshold"):
        for place in places:
            value = place.value.get(name)
            if type(value) in (int, float) and name not in found:
                found[name] = place.field(name).number()
    return found


def _read_node(row: Checked) -> dict[str, Any]:
    name, own = row.field("node_id").text(), row.optional("flowgraph")
    if own is not None:
        return {**_values(own), "id": name}
    kind = _KINDS.get(_plain_type(row.field("feature_type").text()))
    if kind is None:
        row.field("feature_type").refuse(f"one of {', '.join(_KINDS)}")
    node = {"id": name, "kind": kind, "position": row.field("ctx_idx").index(), "note": row.value}
    layer = row.field("layer")
    if kind not in ("embed", "logit"):
        node["layer"] = _number(layer) if type(layer.value) is str else layer.index()
    if kind in ("feature", "attn_feature", "logit"):
        parts = _NUMBERED.fullmatch(name)
        # Only if layer and position agree is the middle number really the feature.
        agrees = parts and parts[1] == str(layer.value) and int(parts[3]) == node["position"]
        node["index"] = int(parts[2]) if parts and agrees else row.field("feature").index(LARGEST_FEATURE)
    clerp = row.optional("clerp")
    said = "" if clerp is None else clerp.or_none(Checked.text) or ""
    if kind == "logit":
        node["label_token"] = _token(row, said) or str(node["index"])
    elif kind in ("feature", "attn_feature") and said:
        node["label_token"] = said
    return node


def _plain_type(text: str) -> str:
    return " ".join(re.split(r"[\s_-]+", text.strip().lower()))


def _token(row: Checked, said: str) -> str:
    """The token of a logit: the text between quotation marks, or the text before its probability."""
    output, token = _OUTPUT.match(said), row.optional("token")
    if output is not None:
        return output[1] or output[2] or ""
    return _PROBABILITY.sub("", said) or ("" if token is None or type(token.value) is not str else token.text())


def _number(layer: Checked) -> int:
    if not re.fullmatch(r"\d{1,9}", layer.text(), re.ASCII):
        layer.refuse("the number of a layer")
    return int(layer.value)


def _read_link(row: Checked) -> Iterator[dict[str, Any]]:
    ends = {name: row.field(name).text() for name in ("source", "target")}
    own = row.optional("flowgraph")
    if own is None:
        yield {**ends, "weight": row.field("weight").number()}
    else:
        for n, edge in enumerate(own.items()):
            yield {**_values(edge), **ends, "key": n}


def _target(rows: Sequence[Checked], nodes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The token that the graph explains: the marked logit, else the most probable one; empty if the file has neither."""
    logits = [(row, node) for row, node in zip(rows, nodes, strict=True) if node["kind"] == "logit"]
    chances = [_chance(row) for row, _ in logits]
    marked = [n for n, (row, _) in enumerate(logits) if row.value.get("is_target_logit") is True]
    known = sorted((n for n, chance in enumerate(chances) if chance is not None), key=lambda n: -(chances[n] or 0.0))
    # Of equal probabilities none is the target.
    if not marked and (len(known) == 1 or (known and chances[known[0]] != chances[known[1]])):
        marked = known
    if not marked:
        marked = [0] * (len(logits) == 1)
    if not marked:
        return {}
    node = logits[marked[0]][1]
    place = {"target": node["index"], "target_token": node["label_token"], "target_probability": chances[marked[0]]}
    return place | {"position": node["position"]}


def _chance(row: Checked) -> float | None:
    probability = row.optional("token_prob")
    return None if probability is None else probability.or_none(Checked.number)


def _values(data: Checked) -> dict[str, Any]:
    return {name: entry.value for name, entry in data.entries()}
