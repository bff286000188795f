"""Flow graphs and circuits as plotly figures: nodes where the page has them, edges as wide as what they carry."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from ...charts import rendering
from ...charts.diagram import Diagram
from ...charts.table import ThemeName
from ...errors import ArgumentError
from ...values.flow_graph import FlowGraph
from ...values.graph_axes import is_circuit
from ...values.graph_chart import edge_tip, node_tip
from ...values.reading import NodeReading
from ..scene.elements import COLOURED_KINDS, drawing, elements, shown_graph
from ..scene.layout import Place
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
    "cross_kv_group": "diamond-tall",
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


@rendering.figure.register(Diagram)
def graph_figure(diagram: Diagram[FlowGraph], *, theme: ThemeName = "light") -> plotly.graph_objects.Figure:
    """Draw a flow graph or a circuit.

    Parameters
    ----------
    diagram
        Edges that the page would draw are drawn here.
    theme
        ``"light"`` or ``"dark"``.

    Raises
    ------
    ArgumentError
        If it is a semantic graph, which has no tokens by layers.
    """
    if diagram.graph.info.method in _NOT_FLOW:
        raise ArgumentError(f"a graph of the method {diagram.graph.info.method!r} is drawn by flowgraph.sankey(graph)")
    objects, colours = plotly_module("graph_objects"), theme_of(theme)
    shown = shown_graph(diagram.graph, diagram.keep)
    drawn = drawing(shown)
    graph, at = drawn.graph, [_place(place) for place in drawn.places]
    figure = objects.Figure()
    _add_edges(figure, graph, elements(drawn)["edges"], at, colours, drawn.order.tolist())
    _add_nodes(figure, graph, at, colours)
    seen = graph.chart()
    names, layers = [plain_text(name) for name in seen.columns.tokens or ()], seen.rows.numbers
    figure.update_xaxes(tickvals=list(range(len(names))), ticktext=names, showgrid=True)
    figure.update_yaxes(
        tickvals=[n + 0.5 for n in range(len(layers))], ticktext=[f"L{layer}" for layer in layers], showgrid=False
    )  # fmt: skip
    height = max(_LEAST, _ROW * len(layers) + _AROUND)
    return styled(figure, colours, seen.title, height=height, subtitle=plain_text(caption(shown)))


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
            hovertext=tips([edge_tip(graph, e) for e in range(len(graph))]), hoverinfo="text",
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
                hovertext=tips([node_tip(graph, n) for n in nodes]), hoverinfo="text",
            )
        )  # fmt: skip


def _fill(graph: FlowGraph, n: int, reading: NodeReading | None, colours: Theme) -> str:
    """A state in the colour of its rank, as on the page; hollow beyond the last."""
    if graph.nodes[n].kind not in COLOURED_KINDS or reading is None or reading.target_rank is None:
        return colours.background
    step = rank_decade(reading.target_rank)
    return colours.ranks[step] if step < len(colours.ranks) else colours.background
