"""The component that shows a graph."""

from __future__ import annotations

from typing import Any

import dash_cytoscape as cyto  # type: ignore[import-untyped]
from dash.development.base_component import Component

_HIDDEN = [{"selector": "*", "style": {"visibility": "hidden"}}]
"""Until the page scripts have placed and coloured the elements."""


def picture(data: dict[str, Any], name: str) -> Component:
    """The Cytoscape component of a graph.

    Parameters
    ----------
    data
        What :func:`flowgraph.render.page_data` gives.
    name
        Id of the component. Each graph needs one of its own: the same element id in another graph is another thing.
    """
    shown: Component = cyto.Cytoscape(
        id=name,
        elements={"nodes": data["nodes"], "edges": data["edges"]},
        stylesheet=_HIDDEN,
        layout={"name": "preset", "fit": False},
        className="cytoscape",
        style={"width": "100%", "height": "100%"},
        autoungrabify=True,
        autounselectify=True,
        autoRefreshLayout=False,
        responsive=False,
        boxSelectionEnabled=False,
        minZoom=0.25,
        maxZoom=8,
    )
    return shown
