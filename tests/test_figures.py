"""Figures hold what the analyses say: every number of every mark, in both themes, with nothing a reader could misread."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys

import numpy as np
import pytest

import flowgraph
from flowgraph import build_graph, logit_lens, semantic_graph
from flowgraph.analyses import (
    edge_tokens,
    head_circuit,
    norm_filter,
    overlap_by_layer,
    regularization_neurons,
    trajectory,
)
from flowgraph.render.plots import figures
from flowgraph.render.plots.plotting import token_text
from flowgraph.render.scene.style import THEMES
from tests.conftest import IDS

pytest.importorskip("plotly")

PROMPTS = [[20, 31, 42], [53, 64, 75, 86, 97], [11]]
ODD = "<b>$x_1$</b>\n"


def analyses(loaded):
    """Each analysis with its figure."""
    trace = flowgraph.trace(loaded, IDS, foil=9)
    graph = semantic_graph(trace, layers=0)
    value = next(e for e in range(len(graph)) if graph.nodes[graph.source[e]].kind == "value")
    return {
        "trajectory": (figures.trajectory_figure, trajectory(trace)),
        "norm_filter": (figures.norm_filter_figure, norm_filter(trace, layer=1, k=4)),
        "regularization": (
            figures.regularization_figure,
            regularization_neurons(loaded, PROMPTS, most_active=9, threshold=0.5, others=3),
        ),
        "overlap": (
            figures.overlap_figure,
            overlap_by_layer(logit_lens(trace, k=5), logit_lens(trace, site="resid_pre", k=5), 5),
        ),
        "head_circuit": (figures.head_circuit_figure, head_circuit(trace, layer=1, head=2, sources=3)),
        "edge_tokens": (figures.edge_tokens_figure, edge_tokens(trace, graph, value, k=4)),
    }


@pytest.fixture(scope="module")
def found(tiny):
    return analyses(tiny("gpt2"))


def drawn(figure, name):
    """Series of a figure by the start of their name."""
    return [trace for trace in figure.data if (trace.name or "").startswith(name)]


NAMES = ("trajectory", "norm_filter", "regularization", "overlap", "head_circuit", "edge_tokens")


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("name", NAMES)
def test_every_figure_in_both_themes(found, name, theme):
    draw, value = found[name]
    figure = draw(value, theme=theme)
    colours = THEMES[theme]
    assert figure.layout.paper_bgcolor == figure.layout.plot_bgcolor == colours.background
    assert figure.layout.font.color == colours.ink
    allowed = {colour for colour in vars(colours).values() if isinstance(colour, str)}
    used = set(re.findall(r"#[0-9A-Fa-f]{6}", figure.to_json().split('"template"')[0]))
    assert used
    assert used <= allowed
    assert figure.layout.title.text
    titled = [figure.layout[axis].title.text for axis in figure.layout if re.fullmatch(r"[xy]axis\d*", axis)]
    assert any(titled)
    assert json.loads(figure.to_json())["layout"]["height"] > 150


@pytest.mark.parametrize("name", ["trajectory", "norm_filter", "regularization", "overlap", "edge_tokens"])
def test_numbers_have_units(found, name):
    """Every axis says what it is, but for those that list tokens or share the title of the one below."""
    draw, value = found[name]
    figure = draw(value)
    for axis in (axis for axis in figure.layout if re.fullmatch(r"[xy]axis\d*", axis)):
        here = figure.layout[axis]
        lists_tokens, is_shared = here.ticktext is not None and axis.startswith("y"), here.matches is not None
        assert here.title.text or lists_tokens or is_shared, axis
    text = " ".join(str(figure.layout[axis].title.text) for axis in figure.layout if re.fullmatch(r"[xy]axis\d*", axis))
    unit = {
        "trajectory": "nats", "norm_filter": "nats", "regularization": "nats", "overlap": "part of", "edge_tokens": "logit",
    }  # fmt: skip
    assert unit[name] in text


def test_a_trajectory_is_drawn_as_it_is(found):
    draw, value = found["trajectory"]
    figure = draw(value)
    rank, chance = drawn(figure, f"state, {token_text(value.stream.target_token)}")
    np.testing.assert_array_equal(rank.x, value.depth)
    np.testing.assert_array_equal(rank.y, value.stream.target_rank)
    np.testing.assert_array_equal(chance.y, value.stream.target_log_probability)
    assert [tip.split("<br>")[0] for tip in rank.customdata] == list(value.sites)
    numbers = value.stream.target_rank[3], value.stream.target_probability[3]
    assert rank.customdata[3].split("<br>")[1] == f"rank {numbers[0]:,}, p = {numbers[1]:.3g}"
    assert [tip.split("<br>")[0] for tip in drawn(figure, "MLP alone")[0].customdata] == ["L0.mlp_out", "L1.mlp_out"]
    foil = next(trace for trace in figure.data if trace.name.endswith("(foil)"))
    np.testing.assert_array_equal(foil.y, value.stream.foil_rank)
    np.testing.assert_array_equal(drawn(figure, "attention alone")[0].y, value.attention.target_rank)
    np.testing.assert_array_equal(drawn(figure, "MLP alone")[0].y, value.mlp.target_rank)
    assert (figure.layout.yaxis.type, figure.layout.yaxis.autorange) == ("log", "reversed")
    alone = draw(dataclasses.replace(value, stream=dataclasses.replace(value.stream, foil_token=None)))
    assert not any(trace.name.endswith("(foil)") for trace in alone.data)
    assert list(figure.layout.xaxis2.ticktext) == ["embed", "L0", "L1"]


def test_a_filter_is_drawn_as_it_is(found):
    draw, value = found["norm_filter"]
    figure = draw(value)
    moves = [trace for trace in figure.data if trace.type == "scatter"]
    expected = [*value.promoted_in_rank, *value.demoted_in_rank[::-1]]
    assert [tuple(trace.x) for trace in moves] == [(change.rank_before, change.rank_after) for change in expected]
    heights = [trace.y[0] for trace in moves]
    assert heights == sorted(heights, reverse=True)
    ticks = dict(zip(figure.layout.yaxis.tickvals, figure.layout.yaxis.ticktext, strict=True))
    assert [ticks[height] for height in heights] == [token_text(change.token) for change in expected]
    assert (figure.layout.xaxis.type, figure.layout.xaxis.autorange) == ("log", "reversed")
    bars = [trace for trace in figure.data if trace.type == "bar"]
    assert [bar.name.split(",")[0] for bar in bars] == ["centering", "scale", "gain γ", "bias β"]
    changed = [*value.promoted_in_log_probability, *value.demoted_in_log_probability[::-1]]
    np.testing.assert_allclose(
        np.sum([bar.x for bar in bars], axis=0), [change.log_probability_change for change in changed], atol=1e-9
    )
    assert figure.layout.barmode == "relative"


def test_the_other_figures_are_drawn_as_they_are(found):
    draw, neurons = found["regularization"]
    others, listed = draw(neurons).data
    np.testing.assert_array_equal(listed.x, neurons.frequency[neurons.layer, neurons.neuron])
    np.testing.assert_array_equal(listed.y, neurons.reading.entropy)
    np.testing.assert_array_equal(others.y, neurons.other_entropy.ravel())
    np.testing.assert_array_equal(others.x, neurons.frequency[:, neurons.other_neuron].ravel())
    named = [f"L{layer}N{neuron}" for layer, neuron in zip(neurons.layer, neurons.neuron, strict=True)]
    assert [tip.split(":")[0] for tip in listed.customdata] == named

    draw, by_layer = found["overlap"]
    each, mean = draw(by_layer).data
    np.testing.assert_array_equal(mean.y, by_layer.mean)
    np.testing.assert_array_equal(np.reshape(each.y, by_layer.values.shape), by_layer.values)
    np.testing.assert_array_equal(np.reshape(each.x, by_layer.values.shape)[:, 0], mean.x)

    draw, head = found["head_circuit"]
    bars = [trace for trace in draw(head).data if trace.type == "bar"]
    for bar, values in zip(bars, (head.pattern, head.contribution, head.logits), strict=True):
        np.testing.assert_array_equal(bar.x, values)
        np.testing.assert_array_equal(bar.y, [2, 1, 0])
    words = [trace for trace in draw(head).data if trace.type == "scatter"]
    assert words[2].text[0].split("<br>")[0] == token_text(head.values.top_tokens[0][0])
    without = draw(dataclasses.replace(head, logits=None, output_logits=None))
    assert sum(trace.type == "bar" for trace in without.data) == 2

    draw, edge = found["edge_tokens"]
    up, down = draw(edge).data
    assert (up.x[0], up.y[0]) == (edge.promoted[0][2], len(edge.promoted) - 1)
    assert down.x[0] == edge.suppressed[0][2]
    assert up.customdata[1].endswith(f"p = {edge.promoted[1][1]:.3g}")
    assert f"{edge.weight:.3g} (contribution)" in draw(edge).layout.title.subtitle.text


def with_odd_tokens(reading):
    tokens = tuple(tuple(ODD for _ in row) for row in reading.top_tokens)
    return dataclasses.replace(reading, top_tokens=tokens, bottom_tokens=tokens, target_token=ODD, foil_token=ODD)


def test_tokens_are_never_markup(found):
    """A token that reads like markup, or like a formula, reaches the picture as the characters it is made of."""
    assert token_text(ODD) == "&lt;b&gt;&#36;x_1&#36;&lt;/b&gt;⏎"
    assert token_text(" a") == "␣a"
    _, path = found["trajectory"]
    _, head = found["head_circuit"]
    _, edge = found["edge_tokens"]
    _, filtered = found["norm_filter"]
    odd = {name: with_odd_tokens(getattr(path, name)) for name in ("stream", "attention", "mlp")}
    made = [figures.trajectory_figure(dataclasses.replace(path, token=ODD, model=ODD, **odd))]
    odd = {name: with_odd_tokens(getattr(head, name)) for name in ("queries", "keys", "values", "output")}
    made.append(figures.head_circuit_figure(dataclasses.replace(head, token=ODD, source_tokens=(ODD,) * 3, **odd)))
    made.append(figures.edge_tokens_figure(dataclasses.replace(edge, reading=with_odd_tokens(edge.reading))))
    changed = {
        name: tuple(dataclasses.replace(change, token=ODD) for change in getattr(filtered, name))
        for name in ("promoted_in_rank", "demoted_in_rank", "promoted_in_log_probability", "demoted_in_log_probability")
    }
    made.append(figures.norm_filter_figure(dataclasses.replace(filtered, token=ODD, **changed)))
    _, neurons = found["regularization"]
    made.append(
        figures.regularization_figure(dataclasses.replace(neurons, model=ODD, reading=with_odd_tokens(neurons.reading)))
    )
    for figure in made:
        text = json.dumps(figure.to_plotly_json()["data"], default=lambda array: array.tolist(), ensure_ascii=False)
        text += json.dumps(figure.to_plotly_json()["layout"], default=str, ensure_ascii=False)
        assert "&lt;b&gt;" in text
        assert "<b>&#36;" not in text
        assert "<b>$" not in text


@pytest.mark.parametrize("name", ["llama", "bert", "gpt_neox", "gemma3"])
def test_other_families_can_be_drawn(tiny, name):
    trace = flowgraph.trace(tiny(name), [20], position=-1)
    assert figures.trajectory_figure(trajectory(trace)).data
    assert figures.norm_filter_figure(norm_filter(trace, layer=0)).data
    assert figures.head_circuit_figure(head_circuit(trace, layer=0, head=0)).data
    graph = build_graph(trace, readings=False)
    for e in range(len(graph)):
        figure = figures.edge_tokens_figure(edge_tokens(trace, graph, e, k=3))
        assert ("without a number" in figure.layout.title.subtitle.text) == bool(graph.structural[e])


def test_nothing_found_is_a_figure_too(tiny):
    never = regularization_neurons(tiny("llama"), PROMPTS, most_active=1, threshold=0.99, others=2)
    assert figures.regularization_figure(never).layout.title.text.startswith("0 of 128 neurons")


def test_without_plotly_the_message_says_what_to_install(found, monkeypatch):
    draw, value = found["overlap"]
    monkeypatch.setitem(sys.modules, "plotly.graph_objects", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'transformer-flowgraph\[app\]'"):
        draw(value)


@pytest.mark.slow
def test_the_module_leaves_plotly_alone():
    code = "import flowgraph.render.plots.figures, sys; print('plotly' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.real_model
def test_the_real_model(smollm2):
    trace = flowgraph.trace(smollm2, "The capital of Japan is the city of", foil=" Paris")
    figure = figures.trajectory_figure(trajectory(trace))
    assert figure.layout.title.text == "␣Tokyo through the residual stream at position 7 (␣of), smollm2"
    assert drawn(figure, "state, ␣Tokyo")[0].y[-1] == 1
    head = figures.head_circuit_figure(head_circuit(trace, layer=23, head=4))
    assert head.layout.yaxis.ticktext[0] == "3 ␣Japan"
