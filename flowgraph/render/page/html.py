"""One HTML document that shows a flow graph, from disk and with the network unplugged.

The page is a template, our own scripts and styles, the vendored Cytoscape.js and the graph as JSON. Nothing is built
and nothing is fetched: a content security policy forbids it, and allows only scripts whose hash it names.
"""

from __future__ import annotations

from html import escape
from string import Template
from typing import Any

from ...charts.text import visible
from ...values.effects import is_picture_of_parts, shows_effects
from ...values.flow_graph import FlowGraph
from ...values.graph_axes import column_names, column_of, columns, heights, is_circuit, stack_spans
from ...values.graph_info import GraphInfo
from ...values.node import Node
from ..scene.elements import LEVELS, MOST_EDGES, Drawing, drawing, elements, facts
from ..scene.layout import LAYOUT, extent
from ..scene.legend import legend_of
from ..scene.noted import pinned
from ..scene.roles import node_roles
from ..scene.style import THEMES, stylesheet
from ..words.caption import edges_text, filter_texts, layers_text, mass_of, model_text, percent
from .document import Page, asset, document, noted_caption, shell, title

_SEMANTIC = frozenset({"semantic", "visit"})
_STAGES = {
    (False, False): "Flow graph: tokens", (True, False): "Circuit: heads", (False, True): "Parts behind the answer: tokens",
}  # fmt: skip
_CARRIED = {
    "flow": {
        "name": "flow to the start", "node": "flow to the start", "short": "flow",
        "definition": "|share| times the flow of the target: what reaches the start node",
    },
    "effect": {
        "name": "effect, of the largest", "node": "effects of its edges out, of the largest", "short": "effect",
        "definition": "|weight| as a part of the largest",
    },
}  # fmt: skip
"""What the page calls the number that edges are ordered and drawn by."""


def render_html(graph: FlowGraph) -> str:
    """One self-contained HTML document of a flow graph.

    Parameters
    ----------
    graph
        Any flow graph, also one without edges. Of a graph with more than :data:`~flowgraph.render.scene.elements.MOST_EDGES`
        edges the strongest are drawn, and the page says so. A semantic graph is drawn whole, as text in columns.

    Returns
    -------
    The document. Encode it as UTF-8.

    Raises
    ------
    ArgumentError
        If the graph has edges but no node that their flow could run to, or has a cycle.
    """
    return document(page_of(graph))


def page_data(graph: FlowGraph) -> dict[str, Any]:
    """What the page scripts are given of a flow graph: plain data, ready for JSON.

    Parameters
    ----------
    graph
        As for :func:`render_html`.

    Returns
    -------
    ``kind`` is the namespace that mounts it. ``nodes`` and ``edges`` are the elements as Cytoscape takes them, without
    positions: node 17 of the graph that is drawn has the id ``n17``; ``styles`` are stylesheets by theme. The rest is what
    the page says about them.

    Raises
    ------
    ArgumentError
        As for :func:`render_html`.
    """
    return dict(page_of(graph).data)


def drawn_nodes(graph: FlowGraph) -> tuple[Node, ...]:
    """[n] nodes of the picture, by their number in its ids; fewer than the graph has where only its strongest edges are drawn."""
    return graph.nodes if graph.info.method in _SEMANTIC else drawing(graph).graph.nodes


def page_of(graph: FlowGraph) -> Page:
    """Data and markup of a graph's page."""
    if graph.info.method in _SEMANTIC:
        from .semantic_page import semantic_page  # pages of flow have no use for it

        return semantic_page(graph)
    drawn = drawing(graph)
    parts = elements(drawn)
    cut = cut_note(graph, drawn)
    return Page(
        kind="flow",
        title=title(graph.info),
        shell=_shell(graph, drawn, parts, cut),
        data=_page_data(graph, drawn, parts)
        | {"caption": noted_caption(graph, cut), "provenance": graph.info.provenance_text},
    )


def _shell(graph: FlowGraph, drawn: Drawing, parts: dict[str, list[dict[str, Any]]], cut: str) -> str:
    info = graph.info
    texts = {
        "mass_definition": _mass_definition(drawn), "level": str(drawn.page_level), "levels": str(LEVELS), "cut": cut,
    }  # fmt: skip
    circuit, is_parts = is_circuit(graph), is_picture_of_parts(graph)
    size = f"{_size(info)}, {layers_text(graph)}"
    carried = _carried(graph)
    texts |= {"strongest": "effects" if carried == "effect" else "flow", "carried": carried}
    texts["carried_definition"] = _CARRIED[carried]["definition"]
    # A share of what enters a state says nothing of a part, so there is one width.
    texts["hidden"] = "hidden" if is_parts else ""
    texts["along"] = "Heads" if circuit else "Tokens"
    return shell(
        graph,
        origin=[
            ("model", escape(model_text(info))),
            ("method", f'{escape(info.method)} <span class="note">in {escape(info.unit)}</span>'),
            ("level", escape(info.level)),
            ("size", layers_text(graph)) if circuit else ("prompt", escape(size)),
        ],
        note=cut,
        left=Template(asset("flow_left.html")).substitute({name: escape(text) for name, text in texts.items()}),
        legend=legend_of(drawn, parts),
        walk="",
        whole="",
        axes='      <div data-part="gutter" class="axis" aria-hidden="true"></div>\n'
        '      <div data-part="ground" class="axis" aria-hidden="true"></div>'
        + '\n      <div data-part="towers" class="axis" aria-hidden="true"></div>'
        * bool(info.stacks),
        fit="Fit the picture",
        find="Find a token or node",
        stage=f"{_STAGES[circuit, is_parts]} along one axis, layers along the other",
        keys="Arrow keys walk along tokens and layers. P pins the node, Escape clears. Plus, minus and 0 zoom and fit.",
    )


def _carried(graph: FlowGraph) -> str:
    return "effect" if shows_effects(graph) else "flow"


def _size(info: GraphInfo) -> str:
    """How long the prompt is; of two stacks what is read and what is written."""
    count = f"{len(info.tokens)} token{'s' if len(info.tokens) != 1 else ''}"
    if not info.stacks:
        return count
    read = sum(len(one.tokens) for one in info.stacks)
    return f"{read} {'positions' if read != 1 else 'position'} read, {count} written"


def _page_data(graph: FlowGraph, drawn: Drawing, parts: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    room = extent(drawn.graph, drawn.places)
    first, end = heights(graph)
    names = column_names(graph)
    explained = Node("logits", position=graph.info.position)
    return {
        "kind": "flow",
        "tokens": columns(graph),
        "carried": _CARRIED[_carried(graph)],
        "layers": [first, end],
        **({} if names is None else {"numbers": names, "stacks": [list(one) for one in stack_spans(graph)]}),
        "position": None if is_circuit(graph) else column_of(graph, explained),
        "unit": graph.info.unit,
        "target": None if graph.info.target_token is None else visible(graph.info.target_token),
        "total_edges": graph.info.total_edges,
        "signed": drawn.is_signed,
        "start": drawn.start,
        "level": drawn.page_level,
        "levels": LEVELS,
        "room": {"tokens": room.tokens, "layers": round(room.layers, 2), "slots": room.slots},
        "layout": dict(LAYOUT),
        "styles": {name: stylesheet(theme) for name, theme in THEMES.items()},
        "empty": _empty_note(graph),
        **parts,
        **facts(drawn),
        "roles": node_roles(drawn.graph),
        "pinned": [f"n{n}" for n in pinned(drawn.graph)],
    }


def cut_note(graph: FlowGraph, drawn: Drawing) -> str:
    """What a drawing holds of its graph; empty where that is everything."""
    if len(drawn.graph) == len(graph):
        return ""
    if is_picture_of_parts(graph):
        return f"drawn: the {len(drawn.graph):,} of {len(graph):,} edges with the largest effects"
    mass = f"{percent(float(drawn.mass[-1]))} {mass_of(graph)}"
    if len(drawn.graph) < MOST_EDGES:
        return f"drawn: the {len(drawn.graph):,} of {len(graph):,} edges that lead to the start, {mass}"
    return f"drawn: the strongest {len(drawn.graph):,} of {len(graph):,} edges, {mass}"


def _empty_note(graph: FlowGraph) -> str:
    if len(graph):
        return ""
    why = ", ".join(filter_texts(graph))
    return f"No edges to draw: {edges_text(graph)}." + (f" Filters: {why}." if why else "")


def _mass_definition(drawn: Drawing) -> str:
    if is_picture_of_parts(drawn.graph):
        return (
            "Parts appear from the largest effect downwards. An effect is the part's change of the logit difference, in logits, as all "
            "parts of the picture are faded in together. What fewer parts keep of the answer was not measured."
        )
    if is_circuit(drawn.graph):
        return (
            "Edges appear from the largest effect downwards; each was measured by itself. The percentage is of the summed |share| of "
            "all edges whose effect is known."
        )
    ordered = (
        "Edges appear from the strongest flow downwards, so that whatever is shown leads to the start node; those of a cut graph "
        "that no longer lead there come last. "
    )
    if not drawn.is_flow_mass:
        return f"{ordered}Here the percentage is of the summed |share| of all edges."
    whole = "all edges of the method" if drawn.graph.info.whole == "method" else "the edges in the file"
    return (
        f"{ordered}Here the mass is the summed flow, as a part of that of {whole}; the flow of an edge is |share| × the flow of its "
        "target, and 1 at the start. Residual and MLP edges count too and hold most of it."
    )
