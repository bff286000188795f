"""``FlowPicture``: the component that shows a graph and tells what a person does in it."""

from __future__ import annotations

from dash.development.base_component import Component

_PROPS = [
    "id",
    "data",
    "readings",
    "writers",
    "kept",
    "drawn",
    "selected",
    "pins",
    "test",
    "curve_wanted",
    "curve",
    "proposal",
]
_NONE: list[str] = []


class FlowPicture(Component):
    """The picture of a flow graph or a circuit, drawn in the browser by ``assets/flow_picture.js``.

    It uses the element with the id ``app`` as the page that it is on: axes, counter, slider and tips are parts of that.

    Parameters
    ----------
    id
        Of the component, and of its element.

    Attributes
    ----------
    data
        The graph, as :func:`flowgraph_webapp.panels.flow.picture_data` makes it; without, nothing is shown.
    readings
        What the nodes of the picture read and write: ``{"picture", "readings", "vocabulary"}``. It comes after the picture.
    writers
        The largest parts of the logit and which edges show them: ``{"picture", "about", "parts"}``, with ``"failed"`` why they are
        not known.
    kept
        How much of the answer the picture keeps that a test was of: ``{"ticket", "text"}``; None where it was not measured.
    drawn
        Name of the picture that is drawn. The component sets it: now there is time to read the rest of the nodes.
    selected
        Key of the selected node, ``"edge.17"`` for an edge of the graph, or None. The component sets it when one is chosen.
    pins
        Keys of the pinned nodes. The component sets it.
    test
        What is to be tested: ``{"id", "previous", "search", "what", "corrupted"}``. The component sets it.
    curve_wanted
        What of the slider's curve is to be measured: ``{"id", "previous", "search", "corrupted", "points", "random"}``; no points: nothing
        any more. The component sets it.
    curve
        What the slider's pictures keep: ``{"ticket", "levels", "edges", "f", "random", "against"}``, or ``{"ticket", "problem"}``.
    proposal
        A counterpart is wanted for the prompt of an address: ``{"search"}``. The component sets it.
    """

    _namespace = "flowgraph_webapp"
    _type = "FlowPicture"
    _prop_names = _PROPS
    _children_props = _base_nodes = _valid_wildcard_attributes = _NONE

    def __init__(self, *, id: str) -> None:
        super().__init__(id=id)
