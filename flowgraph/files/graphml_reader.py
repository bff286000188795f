"""GraphML as plain node-link data, from a file that somebody else may have made.

The XML parser takes UTF-8 and nothing else, and refuses a document type: without one, XML has no entities that could grow
without bound or name other files. The parser reads the file in one pass, and executes nothing in it.
"""

from __future__ import annotations

import re
from typing import Any
from xml.parsers import expat

from ..errors import FileFormatError
from .checked import parsed_json
from .json_file import MOST_EDGES, MOST_NODES

# GraphML needs four levels; a deep file would grow the list of open elements without bound.
_DEEPEST = 64
_OF_THE_FORMAT = {"graph": (), "node": ("id",), "edge": ("source", "target", "key")}
_TRUE_OR_FALSE = {"true": True, "1": True, "false": False, "0": False}
AS_JSON = re.compile(
    r"tokens|stacks|layers|filters|options|provenance|outside|note|roles|(top|bottom)_(tokens|probabilities|logits)"
)
"""Names of attributes that are lists and tables, which a format of simple values holds as JSON texts."""
_INTEGER = re.compile(r"\s*[+-]?[0-9]{1,4000}\s*", re.ASCII)
_REAL = re.compile(r"\s*[+-]?([0-9.]+(e[+-]?[0-9]+)?|inf|infinity|nan)\s*", re.ASCII | re.IGNORECASE)


def read_graphml(data: bytes) -> dict[str, Any]:
    """Node-link data of the graph in a GraphML file.

    Returns
    -------
    ``graph``, ``nodes`` and ``edges`` with their attributes; ``id`` of a node, ``source``, ``target`` and ``key`` of an
    edge (its id, or None) as the file has them. The project's lists and tables, which GraphML holds as JSON texts, are
    parsed.

    Raises
    ------
    FileFormatError
        If it is not XML, declares a document type, is not GraphML with exactly one flat graph, or an attribute is not
        of its declared type.
    """
    # The namespace comes before the name with a space between, which no name holds.
    parser = expat.ParserCreate("utf-8", " ")
    # Otherwise one text comes in pieces, as many as the buffer cuts it into.
    parser.buffer_text = True
    found = _Graph()

    def refuse(*_: Any) -> None:
        raise FileFormatError("it declares a document type, which is not read; GraphML needs none")

    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = found.start
    parser.EndElementHandler = found.end
    parser.CharacterDataHandler = found.characters
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        raise FileFormatError(f"it is not XML: {error}") from error
    except FileFormatError as error:
        raise FileFormatError(f"line {parser.CurrentLineNumber}: {error}") from error
    if found.directed is None:
        raise FileFormatError("it is not GraphML: there is no <graph> in it")
    about = found.defaults["graph"] | found.graph
    nodes = [{**found.defaults["node"], **node} for node in found.nodes]
    edges = [{**found.defaults["edge"], **edge} for edge in found.edges]
    return {"directed": found.directed, "graph": about, "nodes": nodes, "edges": edges}


class _Graph:
    """The graph read so far, and the parser's place in the file."""

    def __init__(self) -> None:
        self.directed: bool | None = None
        self.graph: dict[str, Any] = {}
        self.nodes: list[dict[str, Any]] = []
        self.edges: list[dict[str, Any]] = []
        self.defaults: dict[str, dict[str, Any]] = {"graph": {}, "node": {}, "edge": {}}
        self._keys: dict[str, tuple[str, str, tuple[str, ...]]] = {}
        self._open: list[str] = []
        self._key = ""
        self._text: list[str] = []

    def start(self, name: str, given: dict[str, str]) -> None:
        element = name.rpartition(" ")[2]
        self._open.append(element)
        if len(self._open) > _DEEPEST:
            raise FileFormatError("its elements are nested too deeply")
        match self._open:
            case ["graphml", "key"]:
                self._declare(given)
            case ["graphml", "graph"]:
                if self.directed is not None:
                    raise FileFormatError("there is a second <graph>; expected one")
                self.directed = given.get("edgedefault") != "undirected"
            case ["graphml", "graph", "node"]:
                self._add(self.nodes, MOST_NODES, {"id": _needed(given, "id", "node")})
            case ["graphml", "graph", "edge"]:
                if given.get("directed", "true") != "true":
                    raise FileFormatError(
                        "an edge has no direction; an edge of a flow graph runs from source to target"
                    )
                ends = {name: _needed(given, name, "edge") for name in ("source", "target")}
                self._add(self.edges, MOST_EDGES, {**ends, "key": given.get("id")})
            case ["graphml", "graph", "hyperedge"] | ["graphml", "graph", "node", "graph"]:
                raise FileFormatError(f"there is a <{element}> in its graph; expected nodes and edges only")
            case [*_, parent, "key"]:
                raise FileFormatError(f"there is a <key> in <{parent[:40]}>; expected it in <graphml> only")
            case ["graphml", "key", *_, "data"]:
                raise FileFormatError("there is a <data> in a <key>; expected it in <graph>, <node> or <edge> only")
            case [*_, "data"]:
                self._key = _needed(given, "key", "data")
            case [first, *_] if first != "graphml":
                raise FileFormatError(f"it is not GraphML: its first element is <{first[:40]}>")
        self._text.clear()

    def characters(self, text: str) -> None:
        self._text.append(text)

    def end(self, _: str) -> None:
        text = "".join(self._text)
        match self._open:
            case ["graphml", "key", "default"]:
                name, kind, owners = self._keys[self._key]
                for owner in owners:
                    self.defaults[owner][name] = _value(text, kind, name)
            case ["graphml", "graph", "data"]:
                self._set(self.graph, "graph", text)
            case ["graphml", "graph", "node", "data"]:
                self._set(self.nodes[-1], "node", text)
            case ["graphml", "graph", "edge", "data"]:
                self._set(self.edges[-1], "edge", text)
        self._open.pop()
        self._text.clear()

    def _declare(self, given: dict[str, str]) -> None:
        self._key = _needed(given, "id", "key")
        owner = given.get("for", "all")
        owners = tuple(self.defaults) if owner == "all" else tuple({owner} & set(self.defaults))
        self._keys[self._key] = (given.get("attr.name", self._key), given.get("attr.type", "string"), owners)

    @staticmethod
    def _add(rows: list[dict[str, Any]], most: int, row: dict[str, Any]) -> None:
        if len(rows) == most:
            raise FileFormatError(f"there are more than {most:,} nodes or edges, the most that are read")
        rows.append(row)

    def _set(self, row: dict[str, Any], owner: str, text: str) -> None:
        name, kind, owners = self._keys.get(self._key, ("", "", ()))
        if owner not in owners:
            raise FileFormatError(
                f"<data> of {owner} has key={self._key[:40]!r}; expected one that a <key> declares for it"
            )
        # Names that the format itself uses stay what the elements say.
        if name not in _OF_THE_FORMAT[owner]:
            row[name] = _value(text, kind, name)


def _needed(given: dict[str, str], name: str, element: str) -> str:
    if name not in given:
        raise FileFormatError(f"<{element}> has no {name}=")
    return given[name]


def _value(text: str, kind: str, name: str) -> Any:
    if kind in ("int", "long") and _INTEGER.fullmatch(text):
        return int(text)
    if kind in ("float", "double") and _REAL.fullmatch(text):
        try:
            # The pattern also takes texts such as "1.2.3", which are no numbers and are refused below.
            return float(text)
        except ValueError:
            pass
    if kind == "boolean" and text.strip().lower() in _TRUE_OR_FALSE:
        return _TRUE_OR_FALSE[text.strip().lower()]
    if kind in ("int", "long", "float", "double", "boolean"):
        raise FileFormatError(f"{name[:40]} is {text[:40]!r}; expected a value of its type, {kind}")
    if AS_JSON.fullmatch(name) and text[:1] in ("[", "{"):
        return parsed_json(text.encode("utf-8"))
    return text
