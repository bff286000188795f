"""One HTML document that shows a flow graph, from disk and with the network unplugged.

The page is a template, our own scripts and styles, the vendored Cytoscape.js and the graph as JSON. Nothing is built
and nothing is fetched: a content security policy forbids it, and allows only scripts whose hash it names.
"""

from __future__ import annotations

from html import escape
from string import Template
from typing import Any

from ..graph import FlowGraph
from .caption import caption, edges_text, filter_texts, layers_text, percent
from .document import LIBRARY, asset, embedded_json, page_script, policy, prediction
from .elements import LEVELS, MOST_EDGES, Drawing, drawing, elements, facts
from .layout import LAYOUT, extent
from .legend import legend
from .style import THEMES, css_variables, stylesheet
from .text import printable, prompt_line, visible

# In this order: each file is a group of functions, and the last one starts the page.
SCRIPTS = (
    "text.js", "geometry.js", "picture.js", "filter.js", "axes.js", "lift.js", "details.js", "search.js", "keys.js",
    "flow.js",
)  # fmt: skip
_SEMANTIC = frozenset({"semantic", "visit"})


def render_html(graph: FlowGraph) -> str:
    """One self-contained HTML document of a flow graph.

    Parameters
    ----------
    graph
        Any flow graph, also one without edges. Of a graph with more than :data:`~flowgraph.views.elements.MOST_EDGES`
        edges the strongest are drawn, and the page says so. A semantic graph is drawn whole, as text in columns.

    Returns
    -------
    The document. Encode it as UTF-8.

    Raises
    ------
    ArgumentError
        If the graph has edges but no node that their flow could run to, or has a cycle.
    """
    if graph.info.method in _SEMANTIC:
        from .semantic_page import render_semantic  # pages of flow have no use for it

        return render_semantic(graph)
    drawn = drawing(graph)
    parts = elements(drawn)
    library, script = asset(LIBRARY), page_script(SCRIPTS)
    return Template(asset("page.html")).substitute(
        policy=policy(library, script),
        variables=css_variables(),
        styles=asset("flow.css"),
        library=library,
        script=script,
        data=embedded_json(_page_data(graph, drawn, parts)),
        legend=legend(drawn, _classes(parts["edges"]), _classes(parts["nodes"])),
        **_texts(graph, drawn),
    )


def _classes(found: list[dict[str, Any]]) -> list[str]:
    return sorted({name for element in found for name in element["classes"].split()})


def _page_data(graph: FlowGraph, drawn: Drawing, parts: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    room = extent(drawn.graph, drawn.places)
    first, end = graph.info.layers
    return {
        "tokens": [visible(token) for token in graph.info.tokens],
        "layers": [first, end],
        "position": graph.info.position,
        "unit": graph.info.unit,
        "target": None if graph.info.target_token is None else visible(graph.info.target_token),
        "total_edges": graph.info.total_edges,
        "signed": drawn.is_signed,
        "start": drawn.start,
        "level": drawn.opening_level,
        "levels": LEVELS,
        "room": {"tokens": room.tokens, "layers": round(room.layers, 2), "slots": room.slots},
        "layout": dict(LAYOUT),
        "styles": {name: stylesheet(theme) for name, theme in THEMES.items()},
        **parts,
        **facts(drawn),
    }


def _texts(graph: FlowGraph, drawn: Drawing) -> dict[str, str]:
    info = graph.info
    cut = _cut_note(graph, drawn)
    texts = {
        "title": f"{printable(info.model)}: {prompt_line(info.tokens, 60)}",
        "model": printable(info.model),
        "prompt": prompt_line(info.tokens),
        "size": f"{len(info.tokens)} token{'s' if len(info.tokens) != 1 else ''}, {layers_text(graph)}",
        "method": info.method,
        "unit": info.unit,
        "caption": caption(graph) + (f" · {cut}" if cut else ""),
        "cut": cut,
        "empty": _empty_note(graph),
        "mass_definition": _mass_definition(drawn),
        "level": str(drawn.opening_level),
        "levels": str(LEVELS),
        "level_name": info.level,
    }
    escaped = {name: escape(text) for name, text in texts.items()}
    return escaped | {"prediction": prediction(graph.info)}


def _cut_note(graph: FlowGraph, drawn: Drawing) -> str:
    if drawn.graph is graph:
        return ""
    mass = percent(float(drawn.mass[-1]))
    if len(drawn.graph) < MOST_EDGES:
        return f"drawn: the {len(drawn.graph):,} of {len(graph):,} edges that lead to the start, {mass} of the mass"
    return f"drawn: the strongest {len(drawn.graph):,} of {len(graph):,} edges, {mass} of the mass"


def _empty_note(graph: FlowGraph) -> str:
    if len(graph):
        return ""
    why = ", ".join(filter_texts(graph))
    return f"No edges to draw: {edges_text(graph)}." + (f" Filters: {why}." if why else "")


def _mass_definition(drawn: Drawing) -> str:
    measure = (
        "the mass is the summed flow; the flow of an edge is |share| × the flow of its target, along the edges of this graph, and 1 at the start"
        if drawn.is_flow_mass
        else "the mass is the summed |share| of all edges of the method"
    )
    return (
        "Edges appear from the strongest connected flow downwards, so that whatever is shown leads to the start node. "
        f"Here {measure}. Residual and MLP edges count too and hold most of it."
    )
