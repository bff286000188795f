"""What the file of another program says of a node, as rows of a panel: each says that it is the file's."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping

from ...charts.text import printable
from ...values.flow_graph import FlowGraph

NoteFact = tuple[str, str]
"""What it is, and its value as text, not markup: escape it for the format it goes into."""

_NUMBERS = (("activation", "activation"), ("influence", "influence, by the file"), ("score", "score"))


def note_facts(graph: FlowGraph) -> list[list[NoteFact] | None]:
    """[N] what the file says of each node, None where it says nothing; empty for graphs of this project."""
    groups = _groups(graph)
    pins = set(_texts(graph.info.outside.get("qParams"), "pinnedIds"))
    found: list[list[NoteFact] | None] = []
    for note in graph.notes:
        if note is None:
            found.append(None)
            continue
        rows = [("called", printable(note.label))] if note.label else []
        shown = note.shown()
        rows += [(name, _number(float(shown[field]))) for field, name in _NUMBERS if field in shown]
        if note.probability:
            rows.append(("probability", _number(note.probability)))
        if note.id is not None:
            rows.append(("name in the file", printable(note.id)))
            rows += [("group", printable(name)) for name in groups.get(note.id, ())]
            rows += [("pinned", "in the file")] * (note.id in pins)
        found.append(rows)
    return found


def pinned(graph: FlowGraph) -> list[int]:
    """Numbers of the nodes that the file pins."""
    pins = set(_texts(graph.info.outside.get("qParams"), "pinnedIds"))
    return [n for n, note in enumerate(graph.notes) if note is not None and note.id in pins]


def group_sizes(graph: FlowGraph) -> dict[str, int]:
    """Names of the file's groups and how many nodes of the graph are in each."""
    there = {note.id for note in graph.notes if note is not None}
    sizes: defaultdict[str, int] = defaultdict(int)
    for member, names in _groups(graph).items():
        for name in names:
            sizes[name] += member in there
    return {name: size for name, size in sizes.items() if size}


def _groups(graph: FlowGraph) -> Mapping[str, list[str]]:
    """Names of the groups that each node of the file is in."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    question = graph.info.outside.get("qParams")
    groups = question.get("supernodes") if isinstance(question, Mapping) else None
    for group in groups if isinstance(groups, list) else []:
        name, *members = (
            [entry for entry in group if isinstance(entry, str)] or [""] if isinstance(group, list) else [""]
        )
        for member in members:
            found[member].append(name)
    return found


def _texts(question: object, name: str) -> Iterator[str]:
    entries = question.get(name) if isinstance(question, Mapping) else None
    return (entry for entry in entries if isinstance(entry, str)) if isinstance(entries, list) else iter(())


def _number(value: float) -> str:
    return f"{value:.4g}".replace("-", "−")
