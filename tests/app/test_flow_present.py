"""What the centre of the page shows, as data: elements, predictions, legend, errors, progress."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from dash.development.base_component import Component
from flowgraph_webapp.node_key import parse_node_key
from flowgraph_webapp.panels.flow import GraphAnswer, caption, picture_data, start_chip
from flowgraph_webapp.panels.prediction import predictions, probability, token_text
from flowgraph_webapp.present.errors import notice, panel_error
from flowgraph_webapp.present.legend import legend_components
from flowgraph_webapp.present.progress import progress_text
from flowgraph_webapp.server.dispatch import Stage
from flowgraph_webapp.server.errors import Busy, Cancelled
from flowgraph_webapp.server.run import Prediction, Run

from flowgraph import parse_node
from flowgraph.errors import ArgumentError, FlowgraphError, TargetError
from flowgraph.render import drawing, legend_of, legend_sections, page_data, shown_graph, visible
from tests.app.test_layout import components, text_of
from tests.synthetic_graphs import HOSTILE, empty_graph, head_graph, logits_graph, token_graph

GRAPHS = {
    "token": lambda: token_graph(layers=6),
    "heads": lambda: head_graph(layers=4),
    "logits": lambda: logits_graph(layers=4),
    "no head": lambda: token_graph(layers=4, head=False),
    "hostile": lambda: token_graph(HOSTILE, layers=3),
    "no edges": empty_graph,
    "nothing at all": lambda: empty_graph(with_nodes=False),
}
TOKENS = ("The", " capital", " of", "</script>")
BEST = tuple(
    Prediction(i, text, p, 10 - i) for i, (text, p) in enumerate(((" Tokyo", 0.85), ("\n", 0.04), (" <b>", 1e-5)))
)
RUN = Run(
    "tiny", "llama", None, TOKENS, (1, 2, 3, 4), 3, 6, 2, (0, 6), True, 0, " Tokyo", 1, "\n", BEST, True, True, 0.1
)  # fmt: skip


@pytest.fixture(params=GRAPHS)
def graph(request):
    return GRAPHS[request.param]()


def test_keys_and_edge_numbers_name_what_the_elements_show(graph):
    data, drawn = page_data(graph), drawing(graph)
    about = picture_data(data, drawn, "flow-1")
    assert [parse_node_key(key) for key in about["keys"]] == list(graph.nodes)
    for edge, e in zip(data["edges"], about["edge_index"], strict=True):
        assert edge["data"]["source"] == f"n{graph.source[e]}"
        assert edge["data"]["target"] == f"n{graph.target[e]}"
    assert (len(about["nodes"]), len(about["edges"])) == (len(graph.nodes), len(graph))
    assert about["picture"] == "flow-1"
    json.dumps(about, allow_nan=False)


def test_a_start_in_the_address_is_the_node_itself(graph):
    about = picture_data(page_data(graph), drawing(graph), "flow-1")
    for node, start in zip(graph.nodes, about["starts"], strict=True):
        assert start is None or parse_node(start) == node
        assert (start is None) == (node.position is None or node.kind == "logit")


def test_ways_between_pins_have_the_colour_of_a_pin_in_every_theme():
    about = picture_data(page_data(token_graph(layers=2)), drawing(token_graph(layers=2)), "flow-1")
    for rules in about["styles"].values():
        pin = next(rule["style"]["border-color"] for rule in rules if rule["selector"] == "node.pin")
        assert rules[-1]["selector"] == "edge.way"
        assert rules[-1]["style"]["line-color"] == pin


def test_the_start_is_said_with_the_way_back_only_where_it_is_not_the_logit():
    graph = token_graph(layers=3)
    assert start_chip(None, graph) == []
    node = next(node for node in graph.nodes if node.kind == "resid_post" and node.position == 3)
    chip, back = start_chip(node, graph)
    assert str(node) in text_of(chip)
    assert "Japan" in text_of(chip)
    assert getattr(back, "data-start") == ""


def test_the_caption_says_method_unit_and_what_was_taken():
    [line] = caption(GraphAnswer(token_graph(layers=3), "routes over edges of share ≥ .01"))
    assert line.children == "proximity in share, routes over edges of share ≥ .01"
    assert "smollm2" in line.title


@pytest.mark.parametrize("keep", [None, 1, 200, 600, 1000])
def test_what_is_exported_is_what_the_slider_shows(keep):
    graph = token_graph(layers=8)
    data, drawn = page_data(graph), drawing(graph)
    level = data["level"] if keep is None else keep
    wanted = [e for edge, e in zip(data["edges"], drawn.order, strict=True) if edge["data"]["c"] <= level]
    shown = shown_graph(graph, keep)
    ends = {(graph.nodes[graph.source[e]], graph.nodes[graph.target[e]]) for e in wanted}
    assert {(shown.nodes[s], shown.nodes[t]) for s, t in zip(shown.source, shown.target, strict=True)} == ends
    assert np.isclose(shown.share.sum(), graph.share[wanted].sum())


def test_predictions_are_buttons_with_target_and_foil_marked():
    title, *chips = predictions(RUN)
    assert text_of(title) == "next token"
    assert [getattr(chip, "data-token") for chip in chips] == ["0", "1", "2"]
    assert [chip.className for chip in chips] == ["chip target", "chip foil", "chip other"]
    assert [getattr(chip, "aria-pressed") for chip in chips] == ["true", "true", "false"]
    assert text_of(chips[0]) == "␣Tokyo.85target"
    assert text_of(chips[1]) == "⏎.04foil"
    assert text_of(chips[2]) == "␣<b>1e-5"
    assert "0.85" in chips[0].title


def test_a_model_without_a_head_predicts_nothing_and_says_so():
    bare = replace(RUN, predictions=(), has_head=False, target=None, foil=None)
    assert "no head over a vocabulary" in "".join(map(text_of, predictions(bare)))


def test_an_explained_position_inside_the_prompt_is_named():
    assert text_of(predictions(replace(RUN, position=1))[0]) == "at 1"


def test_a_model_that_is_not_open_whole_says_its_level():
    assert not any("open at" in text_of(one) for one in predictions(RUN))
    for level in ("patterns", "stream"):
        assert text_of(predictions(replace(RUN, level=level))[0]) == f"open at {level}"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.853, ".85"),
        (0.01, ".01"),
        (0.0049, "5e-3"),
        (7.1e-10, "7e-10"),
        (0.9999, "> .99"),
        (1.0, "1.00"),
        (0.0, "0e+00"),
    ],
)
def test_probabilities_are_short_and_never_rounded_to_certainty(value, text):
    assert probability(value) == text


@pytest.mark.parametrize("token", [*HOSTILE, "  two  ", ""])
def test_tokens_keep_every_character(token):
    assert text_of(token_text(token)) == visible(token)


def test_the_legend_is_the_one_that_flowgraph_writes(graph):
    data, drawn = page_data(graph), drawing(graph)
    markup = legend_of(drawn, data)
    found = legend_components(legend_sections(drawn, data))
    assert len(found) == markup.count("<section")
    heights = [
        one.style["height"]
        for top in found
        for one in components(top)
        if (getattr(one, "style", None) or {}).get("height")
    ]
    assert len(heights) == markup.count("height:")


def test_hostile_tokens_stay_text_in_the_legend():
    info = replace(token_graph(layers=2).info, target_token="<img src=x onerror=alert(1)>")
    graph = replace(token_graph(layers=2), info=info)
    [name] = [
        one
        for top in legend_components(legend_sections(drawing(graph), page_data(graph)))
        for one in components(top)
        if getattr(one, "className", "") == "token"
    ]
    assert text_of(name) == "<img src=x onerror=alert(1)>"


@pytest.mark.parametrize(
    ("error", "what", "why"),
    [
        (Busy("33 questions are waiting"), "busy", "33 questions are waiting."),
        (TargetError("target=' Tokyo Tower' is two tokens"), "target", "is two tokens."),
        (ArgumentError("method='x' cannot be used; expected one of …"), "cannot be shown", "method='x'"),
        (FlowgraphError("something else"), "went wrong", "Something else."),
    ],
)
def test_errors_say_what_why_and_what_to_do(error, what, why):
    for shown in (notice(error), panel_error(error)):
        text = text_of(shown)
        assert what in text
        assert why in text
        assert any("do" in (one.className or "") for one in components(shown) if getattr(one, "className", None))


def test_a_cancelled_run_is_no_problem_and_a_fault_tells_no_secrets():
    assert "quiet" in notice(Cancelled("the question was cancelled")).className
    shown = notice(RuntimeError("/home/someone/secret"))
    assert "secret" not in text_of(shown)
    assert "log" in text_of(shown)


def test_an_error_cannot_bring_markup():
    shown = notice(ArgumentError("<img src=x onerror=alert(1)>"))
    assert "<img src=x" in text_of(shown)
    assert all(isinstance(one, Component) for one in components(shown))


def test_progress_says_the_stage_its_part_and_who_waits_before():
    assert "starting" in "".join(map(text_of, progress_text(None)))
    bar, line = progress_text(Stage("tracing", 0.4, 2))
    assert text_of(line) == "tracing 40 % · 2 before this"
    assert bar.children.style == {"width": "40%"}
    assert text_of(progress_text(Stage("loading the model", None, 0))[1]) == "loading the model"
