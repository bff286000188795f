"""The picture of a recipe, put together from the functions it stands for, and recipes as addresses."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import flowgraph as fg
from flowgraph import PictureRecipe
from flowgraph.algorithms import picture_edges as module
from flowgraph.errors import ArgumentError, PromptError, TargetError
from flowgraph.render import drawing
from flowgraph.values.recipe import LONGEST_ADDRESS, SHOWS
from tests.conftest import IDS
from tests.graphs import nodes, same

STATE = fg.Node("resid_post", layer=0, position=3)


@pytest.fixture(scope="module")
def trace(tiny) -> fg.Trace:
    return fg.trace(tiny("llama"), IDS)


def strongest(graph: fg.FlowGraph, start: fg.Node | None = None) -> fg.FlowGraph:
    return fg.keep_strongest(graph, mass=None, max_edges=3_000, start=start)


def unread(graph: fg.FlowGraph) -> fg.FlowGraph:
    return replace(graph, readings=())


@pytest.mark.parametrize("method", ["attention", "norms", "proximity", "logits", "ff"])
@pytest.mark.parametrize("level", ["token", "head"])
def test_routes_and_all_edges(trace, method, level):
    if (method, level) == ("ff", "head"):
        with pytest.raises(ArgumentError, match="'ff' takes heads together; choose level token"):
            fg.picture(trace, method=method, level=level)
        return
    weights = fg.edge_weights(trace, method=method)
    threshold = fg.routes_threshold(weights, level=level)
    shown = fg.picture(trace, method=method, level=level)
    assert same(unread(shown), strongest(fg.routes(weights, threshold=threshold, level=level)))
    assert shown.readings == fg.node_readings(trace, shown.nodes)
    whole = fg.build_graph(weights, level=level, threshold=0.02)
    assert same(unread(fg.picture(trace, method=method, level=level, show="all", threshold=0.02)), strongest(whole))


def test_starts_windows_rollout_and_flow(trace):
    weights = fg.edge_weights(trace, method="proximity")
    for start in (STATE, "resid_post.0.3", "resid_post.0.-.3.-"):
        assert same(unread(fg.picture(trace, start=start)), strongest(fg.routes(weights, STATE, threshold=0.01), STATE))
        for show, function in (("rollout", fg.rollout_graph), ("flow", fg.flow_graph)):
            assert same(
                unread(fg.picture(trace, show=show, start=start, threshold=0.3)),
                strongest(function(weights, STATE), STATE),
            )
    cut = fg.routes(weights.window(1, 2), threshold=fg.routes_threshold(weights.window(1, 2)))
    assert same(unread(fg.picture(trace, layers=[1, 2])), strongest(cut))


def test_opened_layers(trace):
    weights = fg.edge_weights(trace, method="proximity")
    whole = fg.build_graph(weights, heads_in=[1])
    for asked, threshold in ((0.0, fg.routes_threshold(weights)), (0.05, 0.05)):
        shown = fg.picture(trace, heads_in=[1, 1], threshold=asked)
        expected = strongest(whole.keep(~whole.structural & (np.abs(whole.share) >= threshold), threshold=threshold))
        assert same(unread(shown), expected)
        assert {node.layer for node in shown.nodes if node.kind == "head"} == {1}
    head = fg.Node("head", 1, 0, len(IDS) - 1)
    assert fg.picture(trace, heads_in=(1,), start=head).info.flow_into == str(head)
    assert same(fg.picture(trace, heads_in=(1,), level="head"), fg.picture(trace, level="head"))


def test_the_threshold_of_routes_that_are_too_many(trace, monkeypatch):
    weights = fg.edge_weights(trace)
    monkeypatch.setattr(module, "routes_threshold", lambda *_args, **_options: 0.04)
    assert same(unread(fg.picture(trace)), strongest(fg.routes(weights, threshold=0.04)))
    graph, said = fg.picture_edges(weights, max_edges=5)
    assert (len(graph), said.partition(";")[0]) == (5, "routes over edges of share ≥ .04")
    assert "the strongest 5 of" in said
    assert fg.picture_edges(weights, threshold=1.0, start=STATE)[1] == "routes over edges of share ≥ 1: none"


def test_a_slider_level_is_what_the_slider_shows(trace):
    whole = fg.picture(trace, show="all")
    shown = fg.picture(trace, show="all", keep=300)
    drawn = drawing(whole)
    assert len(shown) == int((drawn.level <= 300).sum()) < len(whole)


def test_targets(trace):
    target, foil = trace.model.vocabulary.string(30), trace.model.vocabulary.string(40)
    own = fg.trace(trace.model, IDS, target=30, foil=40)
    for aims in ({"target": 30, "foil": 40}, {"target": target, "foil": foil}):
        shown = fg.picture(trace, method="logits", **aims)
        assert same(shown, fg.picture(own, method="logits"))
        assert (shown.info.target_token, shown.info.foil_token) == (target, foil)
    with pytest.raises(TargetError):
        fg.picture(trace, target=10**9)
    aimed = trace.record(methods=["logits"]).aimed_at(foil=40)
    assert (aimed.target, aimed.recorded_weights) == (trace.target, {})
    assert aimed.pattern.data_ptr() == trace.pattern.data_ptr()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"methods": "norms"}, "methods= is no field of a picture; the fields are model, text, chat"),
        ({"method": "magic"}, "method='magic' is not known"),
        ({"model": "gpt2"}, "model= is what the trace was made of"),
        ({"text": "a"}, "text= is what the trace was made of"),
        ({"position": 2}, "position=2, but this trace explains position 6; trace again with position=2"),
        ({"method": "logits", "show": "flow"}, "choose the method attention, norms or proximity"),
        ({"show": "rollout", "heads_in": [1]}, "between tokens"),
        ({"method": "norms", "heads_in": [1]}, "do not add up"),
        ({"threshold": 2.0}, "threshold=2.0 cannot be used; expected a number from 0 to 1"),
        ({"layers": [0, 9]}, "layers="),
        ({"start": "nothing.1"}, "start: kind='nothing'"),
        ({"keep": 1001}, "keep=1001 cannot be used"),
    ],
)
def test_what_cannot_be_shown_is_refused(trace, fields, words):
    with pytest.raises(ArgumentError, match=words):
        fg.picture(trace, **fields)


def test_a_picture_is_of_a_trace_an_address_or_a_recipe(tiny):
    with pytest.raises(PromptError):
        fg.picture("?method=norms", loaded=tiny("llama"))


recipes = st.builds(
    PictureRecipe,
    model=st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S")), min_size=1, max_size=20),
    text=st.text(st.characters(codec="utf-8"), max_size=60),
    chat=st.booleans(),
    position=st.none() | st.integers(0, 2**31 - 1),
    foil=st.none() | st.integers(0, 10**5),
    method=st.sampled_from(["attention", "norms", "my-own_method2"]),
    show=st.sampled_from(SHOWS),
    level=st.sampled_from(["token", "head"]),
    heads_in=st.lists(st.integers(0, 99), max_size=4).map(tuple),
    threshold=st.floats(0, 1),
    layers=st.none() | st.tuples(st.integers(0, 9), st.integers(10, 20)),
    start=st.none() | nodes().map(fg.node_key),
    keep=st.none() | st.integers(0, 1000),
)


@given(recipes)
def test_an_address_is_read_back(recipe):
    for before in ("", "http://127.0.0.1:8050/", "https://host.example/flow/", "/"):
        assert PictureRecipe.from_address(before + recipe.address) == recipe
    assert PictureRecipe.from_address(recipe.address.removeprefix("?")) == recipe


def test_an_address_says_what_differs_and_passes_over_the_page():
    recipe = PictureRecipe(text="a b?", heads_in=(21, 3), layers=(0, 6))
    assert recipe.address == "?model=smollm2&text=a%20b%3F&heads_in=21,3&layers=0,6"
    assert PictureRecipe().address == ""
    page = "&tab=bars&layer=3&heads=1,2&pins=mlp.1.-.0.-&circuit=none&width=share&session=abc"
    assert PictureRecipe.from_address(recipe.address + page) == recipe
    assert PictureRecipe.from_address("text=why?&method=norms").text == "why?"


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("?colour=red", "the address says 'colour', which is not known"), ("?text=a&text=b", "the address says 'text' twice"),
        ("?circuit=eap&text=a", "circuit='eap': the page of this address shows a circuit"), ("?layers=3", "expected FIRST,STOP"),
        ("?chat=yes", "expected 0 or 1"), ("?threshold=x", "a number from 0 to 1"), ("?position=1e3", "a whole number"),
        ("?method=Two%20words", "method='Two words' cannot be used"), ("?model=", "model=''"), ("?keep=1001", "keep=1001"),
        ("?text=" + "a" * LONGEST_ADDRESS, "longer than 60,000 bytes"), ("?text=%ff", "cannot be read after"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_an_address_is_said(address, words):
    with pytest.raises(ArgumentError, match=words):
        PictureRecipe.from_address(address)


def test_reading_an_address_is_light():
    code = """
import sys, flowgraph
assert flowgraph.PictureRecipe.from_address("?text=a&start=embed.3").start == "embed.3"
print([name for name in ("torch", "numpy") if name in sys.modules])
for wrong in ({"text": 5}, {"text": "\\ud800"}, {"chat": 1}, {"layers": [0, 3]}, {"position": True}, {"threshold": "0"},
              {"model": None}, {"method": None}, {"start": 5}, {"heads_in": [1]}, {"heads_in": (None,)}, {"keep": 1.0}):
    try:
        flowgraph.PictureRecipe(**wrong)
    except flowgraph.ArgumentError as error:
        assert next(iter(wrong)) in str(error), error
    else:
        raise AssertionError(wrong)
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
