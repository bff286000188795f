"""What the controls offer, and what each word means: said on hover, to screen readers and in the help."""

from __future__ import annotations

from flowgraph import EDGE_METHODS, EdgeMethod

from ...panels import PANELS

METHODS = {
    name: (method.unit, method.meaning) for name, method in EDGE_METHODS.items() if isinstance(method, EdgeMethod)
}
"""Method → unit of its numbers, and its meaning."""

SHOWS = {
    "all": "Every edge whose share reaches the threshold.",
    "routes": "What can reach the start node over edges that reach the threshold.",
    "rollout": "Attention rollout: the weights of all layers multiplied, from every token to the start.",
    "flow": "Attention flow: the most that can pass from every token to the start.",
}
LEVELS = {"token": "All heads of a layer as one edge.", "head": "Each head as a node of its own."}
WIDTHS = {
    "flow": "Width of an edge: its share times the flow of its target; what reaches the start node.",
    "share": "Width of an edge: its part of what enters its target.",
}
ORIENTATIONS = {
    "auto": "Columns while each token gets 52 pixels, otherwise rows.",
    "columns": "Tokens from left to right, layers upwards.",
    "rows": "Tokens from top to bottom, layers to the right.",
}
TABS = {panel.name: (panel.title, panel.hint) for panel in PANELS}
TERMS = {
    "flow": "share of an edge times the flow of its target; 1 at the start node",
    "share": "part of what enters the target of the edge",
    "start node": "where flow runs to: the logit, or a node that was double-clicked",
    "circuit": "the edges between embedding, heads, MLPs and logits by which the model gives its answer",
    "corrupted prompt": "as many tokens, without what decides the answer; a cut edge brings what it brings there",
    "gap": "what is measured on the prompt, less the same on the corrupted one; 100 % of it is the whole model",
}
"""Word of the help → what it means. docs/glossary.md says these, and all tooltips of this module, in the same words."""
KEYS = (
    ("Ctrl + Enter", "trace the prompt"),
    ("← ↑ ↓ →", "walk along tokens and layers"),
    ("Enter", "details of the node"),
    ("p", "pin or unpin the node; two pins show the ways between them"),
    ("Esc", "clear the selection, then the pins; close a menu"),
    ("/", "find a token, node or word"),
    ("+ − 0 f", "zoom in, zoom out, fit"),
    ("?", "this help"),
)
POINTER = (
    ("hover", "lift what matters to a node, dim the rest"),
    ("click", "select; the details are on the right"),
    ("Ctrl + click", "pin"),
    ("double click", "start the flow from this node"),
    ("click on L23", "at level token: show the heads of that layer one by one, or together again"),
    ("Shift + click", "on a predicted token: make it the foil"),
)
