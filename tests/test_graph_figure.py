"""Flow graphs and circuits as plotly figures: every node and edge that the page opens with, where the page has it."""

from __future__ import annotations

import io

import numpy as np
import pytest

import flowgraph as fg
from flowgraph.charts import rendering
from flowgraph.charts.diagram import Diagram
from flowgraph.errors import ArgumentError
from flowgraph.render.scene.elements import drawing, shown_graph
from flowgraph.render.scene.style import THEMES
from tests.circuit_graphs import circuit_graph
from tests.conftest import IDS
from tests.synthetic_graphs import HOSTILE, empty_graph, head_graph, logits_graph, token_graph, with_structural

pytest.importorskip("plotly")

EMBED, LOGITS = fg.Node("embed"), fg.Node("logits")
FIRST, LAST, MLP = fg.Node("head", 0, 1), fg.Node("head", 2, 0), fg.Node("mlp", 1)


def found() -> fg.FlowGraph:
    """A circuit of one path through an MLP, one of whose edges works against the answer."""
    edges = (
        fg.Edge(EMBED, FIRST, "q"), fg.Edge(FIRST, MLP, "mlp"), fg.Edge(MLP, LAST, "v"), fg.Edge(LAST, LOGITS, "logits"),
    )  # fmt: skip
    return circuit_graph(edges, [3.0, -2.0, 1.0, 2.0])


def lines(figure) -> list[tuple]:
    """(ends, colour, width) of every line."""
    return [
        (((one.x[n], one.y[n]), (one.x[n + 1], one.y[n + 1])), one.line.color, one.line.width)
        for one in figure.data
        if one.mode == "lines"
        for n in range(0, len(one.x), 3)
    ]


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("make", [token_graph, head_graph, logits_graph, found, lambda: with_structural(token_graph())])
def test_every_node_and_edge_stands_where_the_page_has_it(make, theme):
    shown = shown_graph(make())
    drawn, figure = drawing(shown), make().figure(theme=theme)
    nodes = [at for one in figure.data if one.name for at in zip(one.x, one.y, strict=True)]
    on_line = [(place.token, place.layer) for place in drawn.places if not place.slot]
    assert len(nodes) == len(drawn.graph.nodes)
    assert set(on_line) <= set(nodes)
    edges = lines(figure)
    assert len(edges) == len(drawn.graph)
    assert {end for ends, *_ in edges for end in ends} <= set(nodes)
    assert figure.layout.paper_bgcolor == THEMES[theme].background


def test_what_works_against_the_answer_has_the_colour_of_that_and_is_named_in_its_tip():
    figure, theme = found().figure(), THEMES["light"]
    assert sorted(colour for _, colour, _ in lines(figure)) == sorted([theme.lowers, *[theme.raises] * 3])
    widths = {colour: width for _, colour, width in lines(figure) if colour == theme.lowers}
    assert min(width for *_, width in lines(figure)) < widths[theme.lowers] < max(width for *_, width in lines(figure))
    said = [text for one in figure.data if one.hovertext is not None for text in one.hovertext]
    assert "L0H1 → L1.mlp<br>-2 logits<br>share -2.000" in said
    assert {one.name for one in figure.data if one.name} == {"embedding", "head", "MLP", "logit"}
    assert figure.layout.title.text == "Circuit"


def test_the_slider_chooses_how_much_is_drawn():
    graph = token_graph()
    few, all_ = (lines(graph.figure(keep=level)) for level in (300, 1000))
    assert len(few) == len(shown_graph(graph, 300))
    assert 0 < len(few) < len(all_) == len(drawing(graph).graph)


def test_tokens_of_a_prompt_are_texts():
    figure = token_graph(tuple(HOSTILE), layers=2).figure()
    written = [*figure.layout.xaxis.ticktext, *(text for one in figure.data for text in one.hovertext or ())]
    assert any("&lt;" in text for text in written)
    assert not any("<" in text.replace("<br>", "") or "$" in text for text in written)


def test_a_graph_without_edges_has_a_figure():
    assert lines(empty_graph().figure()) == []
    assert lines(empty_graph(with_nodes=False).figure()) == []


def test_a_semantic_graph_is_drawn_by_another_function(tiny):
    graph = fg.semantic_graph(fg.trace(tiny("llama"), IDS), layers=0)
    with pytest.raises(ArgumentError, match=r"method 'semantic' is drawn by flowgraph\.sankey"):
        graph.figure()


def few_edges() -> fg.FlowGraph:
    return fg.keep_strongest(head_graph(), max_edges=200)


@pytest.mark.parametrize("make", [few_edges, logits_graph, found, empty_graph])
def test_a_graph_says_its_chart_and_every_door_takes_it(make, tmp_path):
    graph = make()
    chart = graph.chart()
    assert isinstance(chart, Diagram)
    assert (chart.title, chart.graph) == ("Circuit" if make is found else "Flow graph", graph)
    assert chart.row_of == tuple(node.layer for node in graph.nodes)
    assert [graph.info.tokens[n] for n in chart.column_of if n is not None] == [
        graph.info.tokens[node.position] for node in graph.nodes if node.position is not None
    ]
    first, end = graph.info.layers
    assert chart.rows.numbers == tuple(range(first, end))
    assert len(chart.table()) == len(graph)
    for e in range(len(graph)):
        assert str(graph.nodes[graph.target[e]]) in chart.edge_tip(e)[0]
    graph.save(tmp_path / "g.csv")
    edges = (tmp_path / "g.edges.csv").read_bytes()
    assert graph.to_csv().encode() == edges == rendering.csv(chart).encode()
    assert graph._repr_html_() == rendering.html(chart)
    rendering.picture(chart, tmp_path / "door.svg")
    assert (tmp_path / "door.svg").read_bytes() == graph.save(tmp_path / "g.svg").read_bytes()
    assert rendering.figure(chart).to_json() == graph.figure().to_json()
    assert str(graph) == repr(graph)
    arrays = np.load(io.BytesIO(graph.to_npz()), allow_pickle=False)
    assert arrays["node"][arrays["target"]].tolist() == [str(graph.nodes[n]) for n in graph.target]
    assert np.array_equal(arrays["share"], graph.share)


def test_a_chart_of_a_level_is_of_the_edges_that_the_slider_shows(tmp_path):
    graph = token_graph()
    few = graph.chart(keep=300)
    shown = shown_graph(graph, 300)
    assert 0 < len(shown) < len(graph)
    assert rendering.html(few) == shown._repr_html_()
    assert rendering.picture(few, tmp_path / "a.svg").read_bytes() == shown.save(tmp_path / "b.svg").read_bytes()
    assert len(lines(rendering.figure(few))) == len(lines(graph.figure(keep=300))) == len(shown)


def test_a_semantic_graph_has_a_chart_of_its_page_and_table(traces):
    graph = fg.semantic_graph(traces("gpt2"), layers=0, positions=2)
    assert len(graph.chart().table()) == len(graph)
    assert graph._repr_html_().startswith("<iframe")
    assert graph.to_dataframe().shape[0] == len(graph)
