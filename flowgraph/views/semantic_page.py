"""One HTML document that shows a semantic graph: text in columns, from disk and with the network unplugged.

Everything in the graph is drawn, whatever its size; zoomed out, pills without text still show their rank by their colour.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from html import escape
from string import Template
from typing import Any

from ..graph import FlowGraph
from ..nodes import Node
from ..reading import NodeReading
from .caption import caption, layers_text, percent
from .document import LIBRARY, asset, embedded_json, page_script, policy, prediction
from .semantic_elements import edge_classes, semantic_elements, semantic_facts
from .semantic_layout import GRID, Panel, Plan
from .semantic_legend import semantic_legend
from .semantic_plan import plan_of
from .semantic_style import semantic_stylesheet, semantic_variables
from .style import DARK, LIGHT, THEMES, css_variables
from .text import printable, prompt_line, visible

# In this order: each file is a group of functions, and the last one starts the page.
SCRIPTS = (
    "text.js", "semantic_picture.js", "semantic_hover.js", "semantic_details.js", "search.js", "semantic_keys.js",
    "semantic.js",
)  # fmt: skip
MEASURE_NAMES = {
    "contribution": "Σ |contribution|", "norm": "Σ norm", "attention": "Σ |activation|", "target": "Σ |logit|",
}  # fmt: skip


def render_semantic(graph: FlowGraph) -> str:
    """One self-contained HTML document of a semantic graph.

    Parameters
    ----------
    graph
        A graph that :func:`flowgraph.semantic_graph` made, or some of its edges.

    Returns
    -------
    The document. Encode it as UTF-8.
    """
    plan = plan_of(graph)
    library, script = asset(LIBRARY), page_script(SCRIPTS)
    classes = sorted({name for e in range(len(graph)) for name in edge_classes(graph, plan, e)})
    return Template(asset("semantic.html")).substitute(
        policy=policy(library, script),
        variables=_variables(),
        styles=asset("flow.css") + asset("semantic.css"),
        library=library,
        script=script,
        data=embedded_json(_page_data(graph, plan)),
        legend=semantic_legend(graph, classes),
        prediction=prediction(graph.info),
        layers=_choices([(panel.layer, f"layer {panel.layer}") for panel in plan.panels]),
        positions=_choices([(panel.position, _position_text(graph, panel.position)) for panel in plan.panels]),
        **_texts(graph),
    )


def statements(graph: FlowGraph, layer: int, position: int) -> list[str]:
    """How much of a layer at a position is shown, and what attention and the MLP write there, in sentences."""
    found = {node: graph.readings[n] if graph.readings else None for n, node in enumerate(graph.nodes)
             if node.layer == layer and node.position == position}  # fmt: skip
    measure = MEASURE_NAMES.get(str(graph.info.options.get("select", "contribution")), "what they are chosen by")
    lines = [*_head_statements(found, measure)]
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
        f"{name} {_signed(reading.contribution)}" for kind, name in (("attn", "attention"), ("mlp", "MLP"))
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


def _variables() -> str:
    own = f':root {{\n{semantic_variables(LIGHT)}}}\n:root[data-theme="dark"] {{\n{semantic_variables(DARK)}}}\n'
    return css_variables() + own


def _page_data(graph: FlowGraph, plan: Plan) -> dict[str, Any]:
    info = graph.info
    return {
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
        "styles": {name: semantic_stylesheet(theme) for name, theme in THEMES.items()},
        **semantic_elements(graph, plan),
        **semantic_facts(graph),
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


def _choices(pairs: Sequence[tuple[int, str]]) -> str:
    return "".join(f'<option value="{value}">{escape(text)}</option>' for value, text in sorted(set(pairs)))


def _position_text(graph: FlowGraph, position: int) -> str:
    token = graph.info.tokens[position] if position < len(graph.info.tokens) else ""
    return f"position {position} {visible(token)}"


def _layers(graph: FlowGraph) -> str:
    first, stop = graph.info.layers
    return f"layer {first} of {graph.info.total_layers}" if stop == first + 1 else layers_text(graph)


def _texts(graph: FlowGraph) -> dict[str, str]:
    info = graph.info
    texts = {
        "title": f"{printable(info.model)}: {prompt_line(info.tokens, 60)}",
        "model": printable(info.model),
        "prompt": prompt_line(info.tokens),
        "size": f"{len(info.tokens)} token{'s' if len(info.tokens) != 1 else ''}, {_layers(graph)}",
        "method": f"{info.method}, {len(graph.nodes):,} nodes, {len(graph):,} edges",
        "select": "the rules of VISIT" if info.method == "visit" else str(info.options.get("select", "contribution")),
        "caption": caption(graph),
        "empty": "" if len(graph.nodes) else "No nodes to draw: the graph is empty.",
    }
    return {name: escape(text) for name, text in texts.items()}
