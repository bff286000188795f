"""Circuits of programs for edge attribution patching, as plain node-link data.

This module reads the files of EAP-IG and of the MIB benchmark, and others that name edges in the same way:

- ``edges`` is an object: the name of an edge → its entries, ``{"a0.h0->a1.h1<k>": {"score": 0.2, "in_graph": true}}``, or its score
  alone. It may also be a list: of objects with ``edge`` (or ``source``, ``target`` and ``qkv``), ``score`` and ``in_graph``, or of
  lists of name and score.
- Or the file holds arrays: ``src_nodes`` and ``dst_nodes`` name the rows and columns of ``edges_scores`` (or ``edges``), and
  ``edges_in_graph`` says for each edge whether it is in the circuit.
- ``nodes``, an object of names, and ``cfg`` with ``n_layers`` and ``model_name``, are used if they are there.

Nodes are ``input``, ``a0.h1``, ``m0``, ``logits``, or auto-circuit's ``Resid Start``, ``A0.1``, ``MLP 0``, ``Resid End``. The
input of a head that an edge leads into is written ``<q>``, ``<k>``, ``<v>`` or ``.Q``, ``.K``, ``.V``.

The graph has the edges that the file marks as its circuit; if it marks none, all edges with a score. An edge's weight is its
score. Its share is the part of Σ|score| of *all* scored edges into the same node, so the caption can name the whole.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..errors import FileFormatError
from ..values.graph_info import UNNAMED
from .checked import Checked
from .json_file import MOST_EDGES, MOST_NODES

_NODE = re.compile(
    r"(?P<embed>input|Resid Start)|(?P<logits>logits|Resid End)|(?:a(?P<layer>\d{1,4})\.h|A(?P<auto>\d{1,4})\.)(?P<head>\d{1,5})"
    r"|(?:m|MLP )(?P<mlp>\d{1,4})",
    re.ASCII,
)
_TARGET = re.compile(r"(?P<name>.+?)(?:<(?P<qkv>[qkv])>|\.(?P<auto>[QKV]))?", re.ASCII | re.DOTALL)
_INTO = {"q": "query", "k": "key", "v": "value"}
_ORDER = ("embed", "head", "mlp", "logits")
_SCORES = ("edges_scores", "edge_scores", "scores", "edges")


@dataclass(frozen=True, slots=True)
class _Edge:
    """One edge: the names of its ends, the input that it leads into, its score, and whether it is in the circuit."""

    source: str
    target: str
    into: str | None
    score: float | None
    is_kept: bool
    place: str


def is_circuit_file(data: Any) -> bool:
    """Whether JSON has the shape of a circuit with named edges rather than that of node-link data."""
    if not isinstance(data, dict):
        return False
    edges = data.get("edges")
    first = edges[0] if isinstance(edges, list) and edges else None
    if isinstance(first, dict):
        name = first.get("edge", first.get("name"))
        is_named = "score" in first and not isinstance(data.get("nodes"), list)
        is_named |= isinstance(name, str) and "->" in name and "source" not in first
    else:
        is_named = isinstance(first, list) and bool(first) and isinstance(first[0], str)
    return isinstance(edges, dict) or {"src_nodes", "dst_nodes"} <= data.keys() or is_named


def node_link_of_circuit(data: Checked) -> dict[str, Any]:
    """Plain node-link data of a circuit, as the module says.

    Raises
    ------
    FileFormatError
        If a name is no node's, a score no number, or there are too many edges; the message names the place.
    """
    # Arrays name each edge by its place, lists and objects by its name.
    edges = list(_of_arrays(data) if data.optional("src_nodes") is not None else _of_edges(data.field("edges")))
    scored = [edge for edge in edges if edge.score is not None]
    # An edge that is in the circuit and has no score is an edge without a number.
    kept = [edge for edge in edges if edge.is_kept]
    is_part = bool(kept)
    kept = kept or scored
    into: defaultdict[str, list[float]] = defaultdict(list)
    for edge in scored:
        into[edge.target].append(abs(edge.score or 0.0))
    whole = {target: math.fsum(scores) for target, scores in into.items()}
    places: dict[str, dict[str, Any]] = {}
    for edge in kept:
        for name in (edge.source, edge.target):
            if name not in places:
                places[name] = _place(name, edge.place)
        _refuse_backward(edge, places[edge.source], places[edge.target])
    # Node lists of such files have no fixed order; a flow graph lists nodes in the order of computation.
    names = sorted(places, key=lambda name: _depth(places[name]))
    notes = _notes(data.optional("nodes"), places)
    about = data.optional("cfg")
    layers = _layers(about, places)
    _refuse_outside(about, kept, places)
    return {
        "graph": {
            "method": "circuit: of a file",
            "unit": "score",
            "level": "head",
            "model": _model(about),
            "tokens": [],
            "layers": [0, layers],
            "total_layers": layers,
            "total_edges": len(scored),
            "total_share": float(sum(total > 0 for total in whole.values())),
            "filters": {"kept": "edges in the circuit of the file"} if is_part else {},
            "outside": {} if about is None else {"cfg": about.json()},
        },
        "nodes": [{"id": name, **places[name], **notes.get(name, {})} for name in names],
        "edges": [_link(edge, places[edge.target], whole.get(edge.target, 0.0), n) for n, edge in enumerate(kept)],
    }


def _link(edge: _Edge, target: dict[str, Any], whole: float, key: int) -> dict[str, Any]:
    kinds = {"mlp": "mlp_in", "logits": "unembed", "head": _INTO.get(edge.into or "", "rest"), "embed": "rest"}
    share = None if edge.score is None else edge.score / whole if whole else 0.0
    return {
        "source": edge.source, "target": edge.target, "key": key, "kind": kinds[target["kind"]], "weight": edge.score,
        "share": share, "layer": target["layer"], "head": target["head"],
    }  # fmt: skip


def _of_edges(edges: Checked) -> Iterator[_Edge]:
    if type(edges.value) is dict:
        if len(edges.value) > MOST_EDGES:
            raise FileFormatError(f"{edges.place} has {len(edges.value):,} entries; at most {MOST_EDGES:,} are read")
        for name, about in edges.entries():
            yield _edge(name, about, about)
        return
    for row in edges.items(MOST_EDGES):
        if type(row.value) is list:
            entries = list(row.items())
            has_ends = len(entries) > 2 and type(entries[1].value) is str
            if len(entries) < 2:
                row.refuse("a name and a score")
            name = "->".join(entry.text() for entry in entries[: 1 + has_ends])
            yield _edge(name, entries[1 + has_ends], row)
        else:
            yield _edge(_name(row), row, row)


def _name(row: Checked) -> str:
    """Name of an edge that is an object."""
    for field in ("edge", "name"):
        name = row.optional(field)
        if name is not None:
            return name.text()
    into = row.optional("qkv")
    letter = None if into is None else into.or_none(Checked.text)
    ends = "->".join(row.field(end).text() for end in ("source", "target"))
    return ends if letter is None else f"{ends}<{letter}>"


def _edge(name: str, about: Checked, row: Checked) -> _Edge:
    """An edge by its name; ``about`` is its score, or an object that holds it."""
    source, arrow, target = name.partition("->")
    found = _TARGET.fullmatch(target)
    if not arrow or found is None:
        raise FileFormatError(f"{row.place} is called {name[:60]!r}; expected source->target, as in 'a0.h0->logits'")
    into = (found["qkv"] or found["auto"] or "").lower() or None
    if type(about.value) is not dict:
        return _Edge(source, found["name"], into, about.or_none(Checked.number), False, row.place)
    score, kept = about.optional("score"), about.optional("in_graph")
    if kept is not None and type(kept.value) is not bool:
        kept.refuse("true or false")
    value = None if score is None else score.or_none(Checked.number)
    return _Edge(source, found["name"], into, value, kept is not None and kept.value is True, row.place)


def _of_arrays(data: Checked) -> Iterator[_Edge]:
    """Edges of a matrix of scores; those that would run backwards are no edges."""
    names = [_names(data.field(name)) for name in ("src_nodes", "dst_nodes")]
    if len(names[0]) * len(names[1]) > MOST_EDGES:
        raise FileFormatError(f"{len(names[0]):,} × {len(names[1]):,} edges are named; at most {MOST_EDGES:,} are read")
    field = next((name for name in _SCORES if data.optional(name) is not None), _SCORES[0])
    scores = [list(row.items()) for row in data.field(field).items(len(names[0]))]
    marks = data.optional("edges_in_graph")
    kept = None if marks is None else [list(row.items()) for row in marks.items(len(names[0]))]
    for table, place in ((scores, field), (kept, "edges_in_graph")):
        if table is not None and [len(row) for row in table] != [len(names[1])] * len(names[0]):
            raise FileFormatError(f"{place} is no table of {len(names[0])} rows and {len(names[1])} columns")
    depths = [[_depth(_place(_end(name), data.place or "src_nodes")) for name in side] for side in names]
    for s, source in enumerate(names[0]):
        for t, target in enumerate(names[1]):
            # Layer and kind decide; heads of one layer run side by side.
            if depths[0][s][:2] < depths[1][t][:2]:
                entry = scores[s][t]
                is_kept = kept is not None and kept[s][t].value in (True, 1)
                edge = _edge(f"{source}->{target}", entry, entry)
                # A matrix has a number for every pair, and most of them mean no edge.
                if edge.score or is_kept:
                    yield _Edge(edge.source, edge.target, edge.into, edge.score, is_kept, entry.place)


def _end(name: str) -> str:
    found = _TARGET.fullmatch(name)
    return name if found is None else found["name"]


def _names(entry: Checked) -> list[str]:
    if type(entry.value) is dict:
        return list(entry.value)
    return [name.text() for name in entry.items(MOST_NODES)]


def _place(name: str, place: str) -> dict[str, Any]:
    """Kind, layer and head of a node by its name."""
    found = _NODE.fullmatch(name)
    if found is None:
        raise FileFormatError(
            f"{place} names the node {name[:40]!r}; expected 'input', 'logits', 'm' and a layer, or 'a0.h1' with layer and head"
        )
    layer = found["layer"] or found["auto"] or found["mlp"]
    kind = "embed" if found["embed"] else "logits" if found["logits"] else "mlp" if found["mlp"] else "head"
    return {
        "kind": kind,
        "layer": None if layer is None else int(layer),
        "head": None if found["head"] is None else int(found["head"]),
    }


def _depth(place: dict[str, Any]) -> tuple[float, int, int]:
    """Place of a node in the order of computation."""
    layer = {"embed": -1.0, "logits": math.inf}.get(place["kind"], place["layer"])
    return float(layer), _ORDER.index(place["kind"]), place["head"] or 0


def _notes(nodes: Checked | None, places: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The file's entries of nodes, without the mark of the circuit."""
    found = {}
    for name, about in nodes.entries() if nodes is not None and type(nodes.value) is dict else ():
        if name in places and type(about.value) is dict and about.value.keys() - {"in_graph"}:
            found[name] = {"note": {"node_id": name, **about.value}}
    return found


def _refuse_backward(edge: _Edge, source: dict[str, Any], target: dict[str, Any]) -> None:
    """Refuse an edge that does not lead on in the order of computation."""
    if _depth(source)[:2] >= _depth(target)[:2]:
        raise FileFormatError(
            f"{edge.place} runs from {edge.source} to {edge.target}, which is not after it; expected edges from earlier to later"
        )


def _refuse_outside(about: Checked | None, kept: list[_Edge], places: dict[str, dict[str, Any]]) -> None:
    """Refuse nodes that a model of the size that the file states does not have."""
    for field, part in (("n_layers", "layer"), ("n_heads", "head")):
        stated = None if about is None else about.optional(field)
        if stated is None:
            continue
        count = stated.index(10_000)
        for edge in kept:
            for name in (edge.source, edge.target):
                if (places[name][part] or 0) >= count and places[name][part] is not None:
                    raise FileFormatError(
                        f"{edge.place} names the node {name}, and cfg.{field} is {count}; expected {part}s below it"
                    )


def _layers(about: Checked | None, places: dict[str, dict[str, Any]]) -> int:
    deepest = max((place["layer"] + 1 for place in places.values() if place["layer"] is not None), default=0)
    stated = None if about is None else about.optional("n_layers")
    return deepest if stated is None else stated.index(10_000)


def _model(about: Checked | None) -> str:
    name = None if about is None else about.optional("model_name")
    return UNNAMED if name is None or type(name.value) is not str else name.text()
