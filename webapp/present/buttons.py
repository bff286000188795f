"""Buttons beside what is selected: pin it, let the flow start there, test it, and put a test away."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from flowgraph import Node, node_key

from . import html
from .attributes import named
from .drawn import Element, drawn

if TYPE_CHECKING:
    from dash.development.base_component import Component

_STARTS = frozenset({"resid_pre", "resid_mid", "resid_post", "head", "mlp", "attn"})


def acts(node: Node, pinned: Sequence[str], *, starts: bool = True) -> Component:
    """What can be done with a node: pin it, let the flow start there."""
    key = node_key(node)
    is_pinned = key in pinned
    buttons = [
        ("unpin", "Unpin", "Take the pin away (p)") if is_pinned else ("pin", "Pin", "Keep this node marked (p)")
    ]
    if starts and node.kind in _STARTS and node.position is not None:
        buttons.append(("start", "Start here", "Follow the flow into this node instead of the logit"))
    return html.Div(
        [
            html.Button(text, id={"type": "act", "act": act, "node": key}, type="button", className="button small", title=hint)
            for act, text, hint in buttons
        ],
        className="acts",
    )  # fmt: skip


def test_button(what: str, text: str, hint: str) -> Component:
    """A button that asks for a test."""
    return html.Button(text, type="button", className="button small", title=hint, **named({"data-test": what}))


def boxed(tree: Element, title: str, *below: Component) -> Component:
    """What a test gave, with a button that puts it away, and what can be done next."""
    close = html.Button(
        "Close",
        type="button",
        className="button small",
        title="Put this test away",
        **named({"data-dismiss": "effect"}),
    )
    return html.Div([drawn(tree, name="effect", label=title), close, *below], className="effect-box")
