"""The heatmap of attention holds the weights of the heads it names, over positions that tokens only label."""

from __future__ import annotations

import json

import jaxtyping
import numpy as np
import pytest
import torch

from flowgraph import ArgumentError, attention_figure
from flowgraph.charts.text import visible
from tests.test_attention_view import TOKENS, attention


@pytest.fixture(autouse=True)
def _as_users_call_it():
    """Without the run-time type checks of the tests, which users do not have: wrong types must get our own words."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def test_the_figure_shows_one_head_or_a_sum():
    weights = attention()
    tokens = ["<b>the", "$x$", "the", "the", "a", "\n"]
    figure = attention_figure(weights, tokens, layer=1, heads=2)
    (heat,) = figure.data
    assert np.array_equal(np.asarray(heat.z), weights[1, 2].astype(float))
    assert list(heat.x) == list(heat.y) == list(range(6))
    assert figure.layout.xaxis.ticktext == ("&lt;b&gt;the", "&#36;x&#36;", "the", "the", "a", "⏎")
    assert figure.layout.yaxis.autorange == "reversed"
    assert figure.layout.title.text == "layer 1, head 2"
    assert heat.customdata[0][5][1] == "⏎"
    summed = attention_figure(list(map(torch.tensor, weights)), tokens, layer=1, heads=[0, 3], theme="dark")
    assert np.allclose(summed.data[0].z, weights[1, 0] + weights[1, 3])
    assert summed.layout.title.text == "layer 1, sum over heads 0, 3"
    every = attention_figure(weights[1], tokens)
    assert np.allclose(every.data[0].z, weights[1].sum(0))
    assert every.layout.title.text == "layer 0, sum over all 4 heads"
    one = attention_figure(weights[1, 2], tokens)
    assert np.array_equal(np.asarray(one.data[0].z), weights[1, 2].astype(float))


def test_the_figure_of_cross_attention_and_of_a_trace(traces):
    cross = attention_figure(attention(1, 2, 3, 5), list("xyz"), key_tokens=list("abcde"), heads=1)
    assert cross.layout.xaxis.ticktext == tuple("abcde")
    trace = traces("llama")
    figure = attention_figure(trace, layer=1, heads=0)
    assert np.allclose(figure.data[0].z, trace.pattern[1, 0].numpy())
    assert figure.layout.yaxis.ticktext == tuple(visible(token) for token in trace.tokens)
    assert json.loads(figure.to_json())["data"][0]["type"] == "heatmap"


def test_labels_of_long_texts_are_thinned():
    tokens = [f"t{n}" for n in range(400)]
    figure = attention_figure(attention(1, 1, 400), tokens)
    assert 20 < len(figure.layout.xaxis.tickvals) <= 900 / 12
    assert tuple(tokens[place] for place in figure.layout.xaxis.tickvals) == figure.layout.xaxis.ticktext
    assert len(figure.data[0].customdata[7]) == 400


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((None, TOKENS), {}, "output_attentions=True"),
        ((attention(), TOKENS), {}, r"layer= is missing; attention= has the layers 0 to 2"),
        ((attention(), TOKENS), {"layer": 3}, "layer= asks for layer 3; attention= has 0 to 2"),
        ((attention(), TOKENS), {"layer": 0, "heads": 9}, "heads= asks for head 9"),
        ((attention(),), {"layer": 0}, "tokens= is missing"),
        ((attention(), TOKENS), {"layer": 0, "theme": "blue"}, "theme='blue'"),
        ((np.eye(2), ["a"] * 513), {}, "513 × 513 cells are more than a figure of 262,144"),
    ],
)
def test_figures_refuse_what_they_cannot_draw(arguments, options, message):
    with pytest.raises(ArgumentError, match=message):
        attention_figure(*arguments, **options)
