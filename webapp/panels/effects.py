"""Tests by intervention: the buttons that ask for them, and what came of one beside the baseline."""

from __future__ import annotations

from dash import html
from dash.development.base_component import Component

from flowgraph import FlowGraph, Node
from flowgraph.render import visible

from ..present.attributes import named
from ..present.drawn import Element, drawn, element, facts, token
from ..present.figures import signed
from ..server.answers import Ablation, Run
from ..server.questions import ABLATED

_GRAPH = "Run the model once more with all heads’ reads and all MLPs that this picture does not show set to zero; the residual stream stays"
_NODE = "Run the model once more with what this writes set to zero, and see what becomes of the answer"
_EDGE = "Run the model once more without what is read over this edge; the other keys keep their attention"
_CAVEAT = (
    "Zeros at many places take a model far from anything it has seen: a small number may speak of that and not of the picture. "
    "It is never clipped."
)


def offer(key: str | None, node: Node | None, edge: tuple[FlowGraph, int] | None, run: Run) -> list[Component]:
    """The button that tests what is selected; none where nothing can be tested.

    Parameters
    ----------
    key
        The selection: a node, ``edge.17``, or None for the whole graph.
    node, edge
        What is selected.
    run
        The pass.
    """
    if not run.has_head:
        return []
    if key is None:
        return [test_button("graph", "Test this graph", _GRAPH)]
    if node is not None and node.kind in ABLATED and node.position is not None:
        return [test_button(key, "Ablate", _NODE)]
    if edge is not None and edge[0].edge_dict(edge[1])["kind"] == "attention":
        return [test_button(key, "Ablate", _EDGE)]
    return []


def effect(answer: Ablation, *, whole: bool) -> Component:
    """What a test gave.

    Parameters
    ----------
    answer
        What was measured.
    whole
        Whether a graph was tested: then the part of the baseline that is left is said, with what limits it.
    """
    change = answer.after - answer.before
    above = "the mean" if answer.foil_token is None else visible(answer.foil_token)
    # Logits of this page are of several kinds; these are differences.
    unit = f"{answer.unit} above {above}"
    rows: list[tuple[Element | str, Element | str, str]] = [
        ("the model", signed(answer.before), unit),
        ("what is shown alone" if whole else "without it", signed(answer.after), unit),
        ("change", signed(change), answer.unit),
    ]
    if whole and answer.before > 0:
        rows.append(("left of the baseline", f"{100 * answer.after / answer.before:.1f} %".replace("-", "−"), ""))
    title = "Test of this graph" if whole else f"Without {answer.what}"
    tree = element(
        "div",
        element("h3", title),
        _measured(answer),
        facts(rows),
        element("p", _CAVEAT, cls="note") if whole else None,
        cls="details",
    )
    return boxed(tree, title)


def boxed(tree: Element, title: str) -> Component:
    """What a test gave, with a button that puts it away."""
    close = html.Button(
        "Close",
        type="button",
        className="button small",
        title="Put this test away",
        **named({"data-dismiss": "effect"}),
    )
    return html.Div([drawn(tree, name="effect", label=title), close], className="effect-box")


def _measured(answer: Ablation) -> Element:
    against = ["the mean logit"] if answer.foil_token is None else ["that of ", token(answer.foil_token)]
    said = f". What is taken out is set to zero. {answer.note}".rstrip()
    return element("p", "Logit of ", token(answer.target_token), " minus ", *against, said, cls="note")


def test_button(what: str, text: str, hint: str) -> Component:
    """A button that asks for a test."""
    return html.Button(text, type="button", className="button small", title=hint, **named({"data-test": what}))
