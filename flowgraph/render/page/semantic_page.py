"""One HTML document that shows a semantic graph: text in columns, from disk and with the network unplugged.

Everything in the graph is drawn, whatever its size; zoomed out, pills without text still show their rank by their colour.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from html import escape
from typing import Any

from ...charts.text import printable, visible
from ...values.flow_graph import FlowGraph
from ...values.node import OWN, Node
from ...values.reading import NodeReading
from ..scene.roles import node_roles
from ..scene.semantic_elements import edge_classes, semantic_elements, semantic_facts
from ..scene.semantic_layout import GRID, Panel, Plan
from ..scene.semantic_legend import semantic_legend
from ..scene.semantic_plan import plan_of
from ..scene.semantic_style import semantic_stylesheet
from ..scene.style import THEMES, Theme
from ..words.caption import layers_text, percent
from .document import Page, asset, noted_caption, shell, title

MEASURE_NAMES = {
    "contribution": "Σ |contribution|", "norm": "Σ norm", "attention": "Σ |activation|", "target": "Σ |logit|",
}  # fmt: skip


def semantic_page(graph: FlowGraph) -> Page:
    """Data and markup of the page of a semantic graph.

    Parameters
    ----------
    graph
        A graph that :func:`flowgraph.semantic_graph` made, or some of its edges.
    """
    plan = plan_of(graph)
    return Page(
        kind="semantic",
        title=title(graph.info),
        shell=_shell(graph, plan),
        data=_page_data(graph, plan) | {"provenance": graph.info.provenance_text},
    )


def statements(graph: FlowGraph, layer: int, position: int) -> list[str]:
    """How much of a layer at a position is shown, and what attention and the MLP write there, in sentences."""
    found = {node: graph.readings[n] if graph.readings else None for n, node in enumerate(graph.nodes)
             if node.layer == layer and node.position == position}  # fmt: skip
    measure = MEASURE_NAMES.get(str(graph.info.options.get("select", "contribution")), "what they are chosen by")
    lines = [*_head_statements(found, measure)]
    if any(node.kind == "cross_head" for node in found):
        own: dict[Node, NodeReading | None] = {
            replace(node, kind=OWN[node.kind]): reading for node, reading in found.items() if node.kind in OWN
        }
        lines += [f"Attention to the encoder: {line[0].lower()}{line[1:]}" for line in _head_statements(own, measure)]
    neurons = sum(node.kind == "neuron" for node in found)
    covered = _coverages(found, "mlp")
    if neurons:
        held = f" hold {percent(covered[0])} of {measure} of the MLP" if covered else ""
        left_out = [
            reading.left_out for node, reading in found.items() if node.kind == "mlp_rest" and reading is not None
        ]
        of_all = f" of {neurons + left_out[0]:,}" if left_out and left_out[0] is not None else ""
        others = "; the others are one node, rest" if left_out else ""
        lines.append(f"{neurons:,}{of_all} neuron{'s' * (neurons != 1 or bool(of_all))}{held}{others}.")
    wrote = [
        f"{name} {_signed(reading.contribution)}" for kind, name in (("attn", "attention"), ("cross_attn", "attention to the encoder"), ("mlp", "MLP"))
        for node, reading in found.items() if node.kind == kind and reading is not None and reading.contribution is not None
    ]  # fmt: skip
    if wrote:
        lines.append(f"Towards the target: {', '.join(wrote)} logits.")
    return lines


def _head_statements(found: dict[Node, NodeReading | None], measure: str) -> list[str]:
    heads = sum(node.kind == "head" for node in found)
    if not heads:
        return []
    rows = sum(node.kind == "row" for node in found)
    lines, covered = [], _coverages(found, "head")
    some = any(node.kind == "attn_rest" for node in found)
    whole = _coverages(found, "attn")
    if some and not rows and whole:
        lines.append(
            f"{heads} head{'s' * (heads != 1)} hold {percent(whole[0])} of {measure} of attention; the others are one node, rest."
        )
    else:
        lines.append(f"{'' if some else 'all '}{heads} head{'s' * (heads != 1)}.".capitalize())
    if covered:
        low, high = percent(min(covered)), percent(max(covered))
        between = low if low == high else f"{low.removesuffix(' %')}–{high}"
        lines.append(
            f"The sources shown of each head hold {between} of {measure} of the head; its other sources are one node, rest."
        )
    if rows and whole:
        lines.append(
            f"{rows} rows of W_O hold {percent(whole[0])} of {measure} of attention; the others are one node, rest."
        )
    return lines


def _coverages(found: dict[Node, NodeReading | None], kind: str) -> list[float]:
    return [reading.coverage for node, reading in found.items()
            if node.kind == kind and reading is not None and reading.coverage is not None]  # fmt: skip


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")


def _shell(graph: FlowGraph, plan: Plan) -> str:
    info = graph.info
    chosen = "the rules of VISIT" if info.method == "visit" else str(info.options.get("select", "contribution"))
    size = f"{len(info.tokens)} token{'s' if len(info.tokens) != 1 else ''}, {_layers(graph)}"
    origin = {
        "model": printable(info.model),
        "graph": f"{info.method}, {len(graph.nodes):,} nodes, {len(graph):,} edges",
        "chosen by": chosen,
        "prompt": size,
    }
    classes = sorted({name for e in range(len(graph)) for name in edge_classes(graph, plan, e)})
    return shell(
        graph,
        origin=[(name, escape(text)) for name, text in origin.items()],
        left=asset("semantic_left.html"),
        legend=semantic_legend(graph, classes),
        walk=asset("semantic_walk.html"),
        whole=asset("semantic_whole.html"),
        axes='      <div data-part="heads" class="axis" aria-hidden="true"></div>\n'
        '      <div data-part="rows" aria-hidden="true"></div>',
        fit="Fit this layer",
        find="Find a word or node",
        stage="Semantic graph: layers from left to right, each in columns from state to what is written",
        keys="Arrow keys left and right follow the strongest edge, up and down walk along a column. Page Up and Page Down "
        "go to the layer before and after. P pins the pill, Escape clears. Plus, minus, 0 and A zoom, fit the layer and "
        "show the whole graph.",
    )


def _page_data(graph: FlowGraph, plan: Plan) -> dict[str, Any]:
    info = graph.info
    return {
        "kind": "semantic",
        "caption": noted_caption(graph),
        "empty": "" if len(graph.nodes) else "No nodes to draw: the graph is empty.",
        "tokens": [visible(token) for token in info.tokens],
        "position": info.position,
        "target": None if info.target_token is None else visible(info.target_token),
        "foil": None if info.foil_token is None else visible(info.foil_token),
        "grid": dict(GRID),
        "plan": {
            "width": plan.width,
            "height": plan.height,
            "step": plan.step,
            "panels": [asdict(panel) for panel in plan.panels],
            "headings": [{"text": heading.text, "x": round(heading.x, 3)} for heading in plan.headings],
        },
        "blocks": [statements(graph, panel.layer, panel.position) for panel in plan.panels],
        "edge_panels": _edge_panels(graph, plan.panels),
        "styles": {name: [*semantic_stylesheet(theme), _pinned(theme)] for name, theme in THEMES.items()},
        **semantic_elements(graph, plan),
        **semantic_facts(graph),
        "roles": node_roles(graph),
    }


def _edge_panels(graph: FlowGraph, panels: Sequence[Panel]) -> list[int]:
    """Panel that each edge belongs to; edges without a layer lead into the first or out of the last."""
    number = {(panel.layer, panel.position): i for i, panel in enumerate(panels)}
    first, stop = graph.info.layers
    found = []
    for e in range(len(graph)):
        ends = graph.nodes[graph.source[e]].kind in ("embed", "position_embed")
        layer = int(graph.layer[e]) if graph.layer[e] >= 0 else first if ends else stop - 1
        found.append(number.get((layer, int(graph.query_pos[e])), number.get((layer, graph.info.position), 0)))
    return found


def _pinned(theme: Theme) -> dict[str, Any]:
    return {"selector": "node.pin", "style": {"border-width": 2.5, "border-color": theme.pin, "opacity": 1}}


def _layers(graph: FlowGraph) -> str:
    first, stop = graph.info.layers
    return f"layer {first} of {graph.info.total_layers}" if stop == first + 1 else layers_text(graph)
