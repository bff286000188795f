"""A semantic graph as a Sankey figure: another view of the same nodes and edges, for those who read widths better than lines."""

from __future__ import annotations

from textwrap import wrap
from typing import TYPE_CHECKING, Any

from ...charts.text import printable, visible
from ...errors import ArgumentError
from ...values.arguments import takes
from ...values.flow_graph import EDGE_KINDS, FlowGraph
from ...values.node import label
from ...values.reading import NodeReading
from ..scene.roles import roles_text
from ..scene.semantic_elements import carried, pill_text
from ..scene.semantic_layout import Plan
from ..scene.semantic_plan import plan_of
from ..scene.semantic_style import pill_fills, unit_colours
from ..scene.style import LIGHT, RANK_LABELS, rank_decade
from ..words.caption import caption

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

THIN = 0.01
"""Width, as a share, of a link whose number has nothing to be compared with."""

_LEAST = 1e-6  # plotly drops links of no width
_ROW, _LEAST_HEIGHT, _COLUMN, _LEAST_WIDTH = 26, 640, 92, 1100
_CAPTION = 150
_ALPHA = {"contribution": 0.55, "logits": 0.55, "attention": 0.5}
_QUIET_ALPHA = 0.3
_HOVER_TOKENS = 5


def escape(text: str) -> str:
    """Text in which plotly finds no markup; it knows the entities of these three characters, and not those of quotes."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


@takes(FlowGraph)
def sankey(graph: FlowGraph) -> Figure:
    """Draw a semantic graph as a Sankey figure.

    A link is as wide as the part that it stands for: of a contribution |share| among what makes up the same target, of attention
    the probability. Lengths and activations compare with nothing at their target; their links are thin, all alike, and the
    subtitle says so. Nodes are coloured by the decade of the target's rank; negative contributions are orange.

    Parameters
    ----------
    graph
        A graph that :func:`flowgraph.semantic_graph` made, or some of its edges.

    Returns
    -------
    A plotly figure; ``figure.write_html(path, include_plotlyjs=True)`` makes a page that needs no network.

    Raises
    ------
    ArgumentError
        If the graph is not a semantic graph.
    """
    if graph.unit is None:
        raise ArgumentError(
            f"graph= is a graph of the method {graph.info.method!r}, whose edges all carry one unit; "
            "sankey draws graphs of flowgraph.semantic_graph(trace)"
        )
    from plotly import graph_objects

    plan = plan_of(graph)
    figure = graph_objects.Figure(
        graph_objects.Sankey(
            arrangement="snap",
            domain={"y": [0.1, 1]},
            node=_nodes(graph, plan),
            link=_links(graph),
            textfont={"size": 10, "color": LIGHT.ink},
        )
    )
    for name, colour in _legend(graph):
        marker = {"size": 11, "color": colour, "symbol": "square", "line": {"width": 1, "color": LIGHT.residual}}
        figure.add_trace(graph_objects.Scatter(x=[None], y=[None], mode="markers", marker=marker, name=name))
    figure.update_layout(**_layout(graph, plan))
    return figure


def _layout(graph: FlowGraph, plan: Plan) -> dict[str, Any]:
    right = max([panel.end for panel in plan.panels], default=0.0)
    bottom = max([panel.line for panel in plan.panels], default=0.0)
    hidden = {"visible": False, "fixedrange": True}
    return {
        "title": {
            "text": "<br>".join(escape(line) for line in wrap(caption(graph), _CAPTION, break_long_words=True)),
            "font": {"size": 13}, "y": 1, "yanchor": "top", "yref": "container", "pad": {"t": 14},
            "subtitle": {"text": _subtitle(graph), "font": {"size": 11}},
        },
        "width": max(_LEAST_WIDTH, int(_COLUMN * right)),
        "height": max(_LEAST_HEIGHT, int(_ROW * bottom) + 160),
        "xaxis": hidden, "yaxis": hidden, "plot_bgcolor": LIGHT.background, "paper_bgcolor": LIGHT.background,
        "font": {"family": "Inter, Helvetica, Arial, sans-serif", "color": LIGHT.ink},
        "margin": {"l": 20, "r": 20, "t": 100, "b": 90},
        "legend": {"orientation": "h", "y": 0, "yref": "container", "yanchor": "bottom", "font": {"size": 11}},
    }  # fmt: skip


def _subtitle(graph: FlowGraph) -> str:
    """What widths mean, of the units that the graph has."""
    units = {graph.unit_of(e) for e in range(len(graph))}
    parts = []
    if "contribution" in units:
        parts.append("contribution: width = |share| among the parts of the same target")
    if "attention" in units:
        parts.append("attention: width = probability")
    thin = sorted(units - {"contribution", "attention", "logits"})
    if thin:
        parts.append(f"{' and '.join(thin)}: one thin width, these numbers do not compare at their target")
    return "; ".join(parts)


def _legend(graph: FlowGraph) -> list[tuple[str, str]]:
    """(name, colour) of every rank decade and kind of link that occurs."""
    token = graph.info.target_token
    target = "the target" if token is None else escape(visible(token))
    decades = sorted(
        {rank_decade(r.target_rank) for r in graph.readings if r is not None and r.target_rank is not None}
    )
    fills = pill_fills(LIGHT)
    found = [(f"rank of {target} {RANK_LABELS[step]}", fills[step][0]) for step in decades]
    colours = unit_colours(LIGHT)
    found += [(unit, colours[unit]) for unit in dict.fromkeys(graph.unit_of(e) for e in range(len(graph)))]
    if any(EDGE_KINDS[kind] == "residual" for kind in graph.kind):
        found.append(("residual stream, a contribution", LIGHT.residual))
    if any(graph.unit_of(e) == "contribution" and graph.weight[e] < 0 for e in range(len(graph))):
        found.append(("contribution below 0", LIGHT.lowers))
    return found


def _nodes(graph: FlowGraph, plan: Plan) -> dict[str, Any]:
    rows = {panel.position for panel in plan.panels}
    right = max([spot.x for spot in plan.spots], default=1.0) or 1.0
    bottom = max([spot.y for spot in plan.spots], default=1.0) or 1.0
    readings = graph.readings or (None,) * len(graph.nodes)
    return {
        "label": [escape(pill_text(graph, n, rows)) for n in range(len(graph.nodes))],
        "color": [_fill(reading) for reading in readings],
        "line": {"color": LIGHT.residual, "width": 0.6},
        "customdata": [_node_text(graph, n) for n in range(len(graph.nodes))],
        "hovertemplate": "%{customdata}<extra></extra>",
        # Plotly takes places strictly between 0 and 1.
        "x": [0.01 + 0.98 * spot.x / right for spot in plan.spots],
        "y": [0.01 + 0.95 * spot.y / bottom for spot in plan.spots],
        "pad": 9, "thickness": 12,
    }  # fmt: skip


def _fill(reading: NodeReading | None) -> str:
    if reading is None or reading.target_rank is None:
        return LIGHT.residual
    return pill_fills(LIGHT)[rank_decade(reading.target_rank)][0]


def _node_text(graph: FlowGraph, n: int) -> str:
    reading = graph.readings[n] if graph.readings else None
    lines = [f"<b>{escape(printable(label(graph.nodes[n])))}</b>"]
    if graph.roles and graph.nodes[n].kind == "head":
        lines.append(f"roles: {escape(roles_text(graph.roles[n]))}")
    if reading is None:
        return "<br>".join(lines)
    for name, entries in (("most", reading.top), ("least", reading.bottom)):
        if entries:
            words = (f"{escape(visible(token))} {probability:.2g}" for token, probability, _ in entries[:_HOVER_TOKENS])
            lines.append(f"{name}: {' · '.join(words)}")
    token = graph.info.target_token
    if reading.target_rank is not None:
        lines.append(f"rank of {escape(visible(token or 'target'))}: {reading.target_rank:,}")
    if reading.contribution is not None:
        lines.append(f"contribution: {reading.contribution:+.3g} logits")
    if reading.activation is not None:
        name = (
            "attention"
            if graph.nodes[n].kind in ("key", "value", "head_rest", "cross_key", "cross_value", "cross_head_rest")
            else "activation"
        )
        lines.append(f"{name}: {reading.activation:.3g}")
    lines.append(f"norm: {reading.norm:.3g}")
    return "<br>".join(lines)


def _links(graph: FlowGraph) -> dict[str, Any]:
    edges = range(len(graph))
    return {
        "source": graph.source.tolist(),
        "target": graph.target.tolist(),
        "value": [_width(graph, e) for e in edges],
        "color": [_colour(graph, e) for e in edges],
        "customdata": [_edge_text(graph, e) for e in edges],
        "hovertemplate": "%{customdata}<extra></extra>",
    }


def _width(graph: FlowGraph, e: int) -> float:
    part = carried(graph, e)
    return THIN if part is None else max(part, _LEAST)


def _colour(graph: FlowGraph, e: int) -> str:
    unit = graph.unit_of(e)
    colour = LIGHT.residual if EDGE_KINDS[graph.kind[e]] == "residual" else unit_colours(LIGHT)[unit]
    if unit == "contribution" and graph.weight[e] < 0:
        colour = LIGHT.lowers
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{_ALPHA.get(unit, _QUIET_ALPHA)})"


def _edge_text(graph: FlowGraph, e: int) -> str:
    ends = " → ".join(escape(printable(label(graph.nodes[n]))) for n in (graph.source[e], graph.target[e]))
    kind = escape(EDGE_KINDS[graph.kind[e]])
    if graph.structural[e]:
        return f"{ends}<br>{kind}, no number"
    numbers = (
        f"weight {graph.weight[e]:.4g} {graph.unit_of(e)}<br>share {graph.share[e]:.4g} of what enters in this unit"
    )
    return f"{ends}<br>{kind}<br>{numbers}"
