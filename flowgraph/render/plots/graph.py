"""Flow graphs and circuits as plotly figures: nodes where the page has them, edges as wide as what they carry."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from ...charts import rendering
from ...charts.table import ThemeName
from ...charts.text import visible
from ...errors import ArgumentError
from ...values.flow_graph import FlowGraph
from ...values.node import label
from ...values.reading import NodeReading
from ..scene.elements import COLOURED_KINDS, drawing, elements, shown_graph
from ..scene.layout import Place, column_of, columns, heights, is_circuit
from ..scene.style import Theme, rank_decade, theme_of
from ..words.caption import caption
from .plotting import plain_text, plotly_module, styled, tips

if TYPE_CHECKING:
    import plotly.graph_objects

_NOT_FLOW = frozenset({"semantic", "visit"})
_BESIDE = 0.45
"""Columns: how far from a token's line the outermost of the nodes beside it stands."""
_SYMBOLS = {
    "mlp": "square",
    "head": "diamond",
    "cross_head": "diamond-tall",
    "kv_group": "diamond",
    "attn": "diamond",
    "logit": "star",
    "logits": "star",
}
_NAMES = {
    "square": "MLP",
    "diamond": "head",
    "diamond-tall": "head that reads another stack",
    "star": "logit",
    "circle": "state",
}
_ROW, _AROUND, _LEAST = 22, 180, 360
"""Pixels: of a layer, above and below all layers, and of a figure at least."""
_WORDS = 3


@rendering.figure.register(FlowGraph)
def graph_figure(
    graph: FlowGraph, *, keep: int | None = None, theme: ThemeName = "light"
) -> plotly.graph_objects.Figure:
    """Draw a flow graph or a circuit.

    Parameters
    ----------
    graph
        Edges that the page would draw are drawn here.
    keep
        Level of the slider, 0 to 1,000; None: where the page opens.
    theme
        ``"light"`` or ``"dark"``.

    Raises
    ------
    ArgumentError
        If it is a semantic graph, which has no tokens by layers.
    """
    if graph.info.method in _NOT_FLOW:
        raise ArgumentError(f"a graph of the method {graph.info.method!r} is drawn by flowgraph.sankey(graph)")
    objects, colours = plotly_module("graph_objects"), theme_of(theme)
    shown = shown_graph(graph, keep)
    drawn = drawing(shown)
    graph, at = drawn.graph, [_place(place) for place in drawn.places]
    figure = objects.Figure()
    _add_edges(figure, graph, elements(drawn)["edges"], at, colours, drawn.order.tolist())
    _add_nodes(figure, graph, at, colours)
    first, end = heights(graph)
    names = [plain_text(name) for name in columns(graph)]
    figure.update_xaxes(tickvals=list(range(len(names))), ticktext=names, showgrid=True)
    figure.update_yaxes(
        tickvals=[n + 0.5 for n in range(end - first)], ticktext=[f"L{first + n}" for n in range(end - first)], showgrid=False
    )  # fmt: skip
    kind = "Circuit" if is_circuit(graph) else "Flow graph"
    height = max(_LEAST, _ROW * (end - first) + _AROUND)
    return styled(figure, colours, kind, height=height, subtitle=plain_text(caption(shown)))


def _place(place: Place) -> tuple[float, float]:
    return place.token - _BESIDE * place.slot / place.slots, place.layer


def _add_edges(
    figure: Any,
    graph: FlowGraph,
    parts: list[dict[str, Any]],
    at: list[tuple[float, float]],
    colours: Theme,
    order: list[int],
) -> None:
    """Edges that look alike are one trace of lines; each has its tip at its middle."""
    objects = plotly_module("graph_objects")
    alike: dict[tuple[str, float, float], list[int]] = defaultdict(list)
    for part, e in zip(parts, order, strict=True):
        alike[_colour(part["classes"], colours), part["data"]["w"], part["data"]["o"]].append(e)
    ends = [(at[s], at[t]) for s, t in zip(graph.source, graph.target, strict=True)]
    # The strongest are drawn last, over the others.
    for (colour, width, opacity), edges in sorted(alike.items(), key=lambda one: one[0][1]):
        lines = [[value for e in edges for value in (ends[e][0][axis], ends[e][1][axis], None)] for axis in (0, 1)]
        figure.add_trace(
            objects.Scatter(
                x=lines[0], y=lines[1], mode="lines", line={"color": colour, "width": width}, opacity=opacity,
                hoverinfo="skip", showlegend=False,
            )
        )  # fmt: skip
    middles = [[(one[axis] + other[axis]) / 2 for one, other in ends] for axis in (0, 1)]
    figure.add_trace(
        objects.Scatter(
            x=middles[0], y=middles[1], mode="markers", marker={"size": 9, "opacity": 0}, showlegend=False,
            hovertext=tips([_edge_tip(graph, e) for e in range(len(graph))]), hoverinfo="text",
        )
    )  # fmt: skip


def _colour(classes: str, colours: Theme) -> str:
    named = {
        "raises": colours.raises, "lowers": colours.lowers, "self": colours.self_attention, "mlp": colours.mlp,
        **dict.fromkeys(("attention", "to-head", "from-head"), colours.attention),
        **dict.fromkeys(("cross", "to-cross", "from-cross"), colours.cross_attention),
    }  # fmt: skip
    return next((named[name] for name in classes.split() if name in named), colours.residual)


def _add_nodes(figure: Any, graph: FlowGraph, at: list[tuple[float, float]], colours: Theme) -> None:
    objects = plotly_module("graph_objects")
    of: dict[str, list[int]] = defaultdict(list)
    for n, node in enumerate(graph.nodes):
        of[_SYMBOLS.get(node.kind, "circle")].append(n)
    readings = graph.readings or (None,) * len(graph.nodes)
    names = _NAMES | {"circle": "embedding"} if is_circuit(graph) else _NAMES
    fills = {
        "square": colours.mlp,
        "diamond": colours.attention,
        "diamond-tall": colours.cross_attention,
        "star": colours.target,
    }
    for symbol, nodes in of.items():
        fill = [fills.get(symbol) or _fill(graph, n, readings[n], colours) for n in nodes]
        figure.add_trace(
            objects.Scatter(
                x=[at[n][0] for n in nodes], y=[at[n][1] for n in nodes], mode="markers", name=names[symbol],
                marker={"symbol": symbol, "size": 12 if symbol == "star" else 8, "color": fill, "line": {"color": colours.residual, "width": 1}},
                hovertext=tips([_node_tip(graph, n, readings[n]) for n in nodes]), hoverinfo="text",
            )
        )  # fmt: skip


def _fill(graph: FlowGraph, n: int, reading: NodeReading | None, colours: Theme) -> str:
    """A state in the colour of its rank, as on the page; hollow beyond the last."""
    if graph.nodes[n].kind not in COLOURED_KINDS or reading is None or reading.target_rank is None:
        return colours.background
    step = rank_decade(reading.target_rank)
    return colours.ranks[step] if step < len(colours.ranks) else colours.background


def _node_tip(graph: FlowGraph, n: int, reading: NodeReading | None) -> tuple[str, ...]:
    node, names = graph.nodes[n], columns(graph)
    token = "" if node.position is None else f" {names[column_of(graph, node)]}"
    said = [] if reading is None else [f"{visible(text)} {chance:.3f}" for text, chance, _ in reading.top[:_WORDS]]
    if reading is not None and reading.target_rank is not None and graph.info.target_token is not None:
        said.append(f"rank of {visible(graph.info.target_token)}: {reading.target_rank:,}")
    return (f"{label(node)}{token}", *said)


def _edge_tip(graph: FlowGraph, e: int) -> tuple[str, ...]:
    ends = " → ".join(label(graph.nodes[int(end[e])]) for end in (graph.source, graph.target))
    if graph.structural[e]:
        return (ends, "no number under this method")
    return (ends, f"{float(graph.weight[e]):+.3g} {graph.unit_of(e)}", f"share {float(graph.share[e]):.3f}")
