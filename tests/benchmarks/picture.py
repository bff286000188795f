"""Two ways to draw a graph of 2,000 edges in the app: its own component, and dash-cytoscape's through its public properties alone.

Measured in headless Chromium, from the moment when the properties arrive in a fresh page to the frame after the graph is drawn, and from a step of
the slider to the frame after it. Through the properties a step is another stylesheet: one rule hides what lies above the level.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import flowgraph
from flowgraph import FlowGraph

from .app import FRAME, STEP, app_row, opened_page, repeated
from .pairs import Row
from .subject import Setup

MOST = 0.15
"""Seconds that drawing and a step may take."""
N_EDGES = 2_000
_PITCH = (40, 150)
_LEVELS = (700, 1_000)
_DRAWN_BY_PROPERTIES = f"""async ([elements, stylesheet]) => {{
  {FRAME}
  const begun = performance.now();
  window.dash_clientside.set_props('cy', {{ elements, stylesheet }});
  while (!window.cy?.elements().length) await frame();
  await frame();
  await frame();
  return (performance.now() - begun) / 1000;
}}"""
_STEP_BY_PROPERTIES = f"""async ([level, stylesheet]) => {{
  {FRAME}
  const shown = () => window.cy.edges(':visible').length;
  const before = shown();
  const begun = performance.now();
  const rule = {{ selector: `[c > ${{level}}]`, style: {{ visibility: 'hidden', events: 'no' }} }};
  window.dash_clientside.set_props('cy', {{ stylesheet: [...stylesheet, rule] }});
  while (shown() === before) await frame();
  await frame();
  await frame();
  return (performance.now() - begun) / 1000;
}}"""
_DRAWN_BY_OWN = f"""async (data) => {{
  {FRAME}
  await frame();
  const begun = performance.now();
  window.dash_clientside.set_props('picture', {{ data }});
  const {{ root }} = window.flowgraphApp;
  while (root().dataset.drawn !== data.picture) await frame();
  await frame();
  await frame();
  return (performance.now() - begun) / 1000;
}}"""


def rows(setup: Setup) -> Iterator[Row]:
    """Drawing and a step of the slider, each in both ways."""
    from playwright.sync_api import sync_playwright

    from tests.browser import launch

    graph = large_graph()
    with sync_playwright() as playwright:
        browser = launch(playwright)
        yield from _own(setup, browser, graph)
        yield from _by_properties(setup, browser, graph)
        browser.close()


def large_graph() -> FlowGraph:
    """About 300 nodes and 2,000 edges."""
    from tests.synthetic_graphs import token_graph

    tokens = tuple(f" w{n}" for n in range(34))
    whole = token_graph(tokens, layers=4, mlp=False, threshold=0.0)
    return flowgraph.keep_strongest(whole, mass=None, max_edges=N_EDGES)


def _own(setup: Setup, browser: Any, graph: FlowGraph) -> Iterator[Row]:
    """The app's own component, in the page of the app."""
    from flowgraph_webapp.panels.flow import picture_data
    from flowgraph_webapp.panels.saved_graph import session_of_graph
    from flowgraph_webapp.recipe import to_query
    from flowgraph_webapp.server.service import Service

    from flowgraph.render import drawing, page_data
    from tests.app.tabs import served

    service = Service(())
    opened = service.add_session(session_of_graph(graph))
    data = picture_data(page_data(graph), drawing(graph), "measured")
    with served(service) as address, opened_page(browser) as page:

        def draw(_: int) -> float:
            page.goto(address)
            page.wait_for_function("() => window.flowgraphApp?.tell")
            return float(page.evaluate(_DRAWN_BY_OWN, data))

        yield app_row(f"FlowPicture, data to drawn, {_size(graph)}", MOST, repeated(setup, draw))
        page.goto(address + to_query(replace(opened.recipe, keep=_LEVELS[1])))
        page.wait_for_function("() => window.flowgraphApp.root()?.dataset.drawn")
        steps = repeated(setup, lambda n: float(page.evaluate(STEP, _level(n))))
        yield app_row(f"FlowPicture, step of the slider, {_size(graph)}", MOST, steps)


def _by_properties(setup: Setup, browser: Any, graph: FlowGraph) -> Iterator[Row]:
    """dash-cytoscape's component: preset positions, the same styles."""
    from flowgraph.render import page_data

    data = page_data(graph)
    styles = [rule for rule in data["styles"]["light"] if "text-max-width" not in str(rule)]
    nodes = [node | {"position": _place(node["data"])} for node in data["nodes"]]
    elements = [*nodes, *data["edges"]]
    with _component() as address, opened_page(browser) as page:

        def draw(_: int) -> float:
            page.goto(address)
            page.wait_for_function("() => window.cy")
            return float(page.evaluate(_DRAWN_BY_PROPERTIES, [elements, styles]))

        name = "dash-cytoscape’s component"
        yield app_row(f"{name}, elements to drawn, {_size(graph)}", MOST, repeated(setup, draw))
        steps = repeated(setup, lambda n: float(page.evaluate(_STEP_BY_PROPERTIES, [_level(n), styles])))
        yield app_row(f"{name}, step of the slider, {_size(graph)}", MOST, steps)


def _size(graph: FlowGraph) -> str:
    return f"{len(graph.nodes):,} nodes, {len(graph):,} edges"


def _level(n: int) -> int:
    """Between all edges and some of them, so that the picture is never a light one."""
    return _LEVELS[n % 2] - n


def _place(node: dict[str, Any]) -> dict[str, float]:
    return {"x": 60 + _PITCH[0] * node["x"], "y": 760 - _PITCH[1] * node["y"]}


@contextmanager
def _component() -> Iterator[str]:
    """Address of a page that holds the component and nothing else."""
    import dash_cytoscape as cyto  # type: ignore[import-untyped]
    from dash import Dash

    from tests.app.tabs import listened

    app = Dash(__name__, assets_folder="no-assets", add_log_handler=False)
    app.layout = cyto.Cytoscape(
        id="cy", elements=[], stylesheet=[], layout={"name": "preset", "fit": False}, autoRefreshLayout=False,
        autoungrabify=True, style={"width": "1400px", "height": "900px"},
    )  # fmt: skip
    with listened(app.server) as address:
        yield address
