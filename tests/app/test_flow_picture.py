"""The two components of the app's own: what Python declares is what the scripts take, and what they tell."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.resources import files

import pytest
from flowgraph_webapp.page.flow_picture import FlowPicture
from flowgraph_webapp.panels.circuit_map import circuit_map, map_elements
from flowgraph_webapp.present.chart_panel import ChartPanel
from flowgraph_webapp.recipe import to_query
from flowgraph_webapp.server.service import Service

from flowgraph import Edge, Node, node_key
from tests.app.tabs import Opened, served
from tests.circuit_graphs import circuit_graph

STATE = "resid_post.23.-.7.-"
PROPS = "window.dash_component_api.getLayout('picture').props"


def script(name: str) -> str:
    return (files("flowgraph_webapp") / "assets" / name).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("component", "name", "given"),
    [
        (FlowPicture, "flow_picture.js", {"id", "data", "readings", "writers", "kept", "curve", "selected"}),
        (ChartPanel, "chart_panel.js", {"chart", "name", "label", "selected", "n_picks"}),
    ],
)
def test_a_script_takes_and_tells_what_the_class_declares(component, name, given):
    text = script(name)
    read = re.search(r"function \w+\(\{([^}]*)\}\) \{|const \{([^}]*)\} = props;", text)
    names = {re.split(r"\s*[=:]", one.strip())[0] for one in (read[1] or read[2]).split(",")}
    assert names == given | {"setProps"}
    everywhere = "".join(
        script(file.name) for file in (files("flowgraph_webapp") / "assets").iterdir() if file.name.endswith(".js")
    )
    told = set(re.findall(r"(?:app\.tell|setProps)\(\{ (\w+)", everywhere))
    assert told <= {*FlowPicture._prop_names, *ChartPanel._prop_names}
    assert given <= set(component._prop_names)


def test_the_scripts_reach_for_nothing_private():
    for file in (files("flowgraph_webapp") / "assets").iterdir():
        if file.name.endswith(".js"):
            assert not re.search(r"_cyreg|__react|_dashprivate|data-draw\b", file.read_text(encoding="utf-8")), (
                file.name
            )


def test_the_map_of_a_circuit_is_preset_and_holds_every_edge():
    embed, head, mlp, logits = Node("embed"), Node("head", 0, 1), Node("mlp", 2), Node("logits")
    graph = circuit_graph(
        [Edge(embed, head, "q"), Edge(head, mlp, "mlp"), Edge(mlp, logits, "logits")], [4.0, -2.0, 1.0]
    )
    made = map_elements(graph)
    nodes, edges = ([one for one in made if ("source" in one["data"]) == is_edge] for is_edge in (False, True))
    assert [one["data"]["key"] for one in nodes] == [node_key(node) for node in graph.nodes]
    assert sorted(one["data"]["size"] for one in edges) == [0.25, 0.5, 1.0]
    assert [one["data"]["size"] for one in edges if one["classes"] == "lowers"] == [0.5]
    height = {one["data"]["key"]: one["position"]["y"] for one in nodes}
    assert height[node_key(embed)] > height[node_key(head)] > height[node_key(mlp)] > height[node_key(logits)]
    shown = circuit_map().children
    assert shown.layout == {"name": "preset", "fit": False}
    assert shown.elements == []


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with served(Service(())) as found:
        yield found


@pytest.fixture(scope="module")
def queries() -> list[str]:
    """Addresses of the bundled examples."""
    service = Service(())
    service.close()
    return [to_query(one.recipe) for one in service.examples]


@pytest.mark.browser
def test_what_is_done_in_the_picture_are_properties_of_it(tab: Opened, queries: list[str]):
    tab.drawn(f"{queries[0]}&tab=lens")
    tab.wait(f"{PROPS}.drawn === app.root().dataset.drawn")
    tab.wait("app.root().dataset.read && app.root().dataset.held")
    tab.page.wait_for_selector("#content [role=gridcell]")
    # The open panel has scrolled the picture away.
    tab.evaluate("document.getElementById('stage').scrollIntoView()")
    x, y = tab.point(STATE)
    tab.page.mouse.click(x, y)
    tab.wait(f"{PROPS}.selected === argument", STATE)
    tab.page.wait_for_selector(f'#content [data-pick="{STATE}"].chosen')
    tab.page.keyboard.press("p")
    tab.wait(f"{PROPS}.pins.join() === argument", STATE)
    tab.page.keyboard.press("Escape")
    tab.wait(f"{PROPS}.selected === null")
    tab.page.wait_for_selector("#content .chosen[role=gridcell]", state="detached")
    # Escape took back the selection, and not yet the pin.
    assert f"pins={STATE}" in tab.search()
    assert "selected=" not in tab.search()


@pytest.mark.browser
def test_another_picture_takes_the_place_of_the_last(tab: Opened, queries: list[str]):
    """Of the former nothing is left: one canvas, no class, no listener of it."""
    tab.drawn(queries[0])
    first = tab.evaluate("(window.first = app.cy, app.cy.elements().length)")
    assert first
    tab.redrawn(lambda: tab.evaluate("app.address.go(argument)", queries[1]))
    assert tab.evaluate("window.first.destroyed() && !app.cy.destroyed()")
    assert tab.page.locator("#picture > div").count() == 1
