"""The picture that Python makes of a recipe is the one that the app answers."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from flowgraph_webapp.panels.flow import GraphQuestion
from flowgraph_webapp.recipe import Recipe, from_query, to_query
from flowgraph_webapp.server.traces import Traces

import flowgraph as fg
from flowgraph import PictureRecipe
from flowgraph.render import shown_graph
from flowgraph.values.flow_graph import EDGE_COLUMNS
from tests.app.conftest import TEXT

RECIPES: tuple[dict[str, Any], ...] = (
    {},
    {"method": "norms", "threshold": 0.05},
    {"method": "attention", "level": "head"},
    {"method": "logits", "foil": 40},
    {"method": "logits", "target": 30, "foil": 40, "level": "head", "show": "all"},
    {"method": "logits", "heads_in": (1,)},
    {"method": "ff"},
    {"heads_in": (1,)},
    {"heads_in": (0, 1), "threshold": 0.02},
    {"heads_in": (1,), "show": "all"},
    {"show": "all", "threshold": 0.1},
    {"show": "all", "level": "head"},
    {"show": "rollout"},
    {"show": "flow", "method": "attention", "threshold": 0.5},
    {"layers": (0, 1)},
    {"start": "resid_post.0.4"},
    {"start": "mlp.1.3", "layers": (1, 2)},
    {"position": 2},
    {"keep": 200, "show": "all"},
)


def unheard(_stage: str, _part: float | None = None) -> None:
    pass


@pytest.fixture(scope="module")
def traces(folder) -> Traces:
    return Traces([folder], 2**30, 512)


def identical(one: fg.FlowGraph, other: fg.FlowGraph) -> None:
    assert one.nodes == other.nodes
    assert one.info == other.info
    assert one.undefined == other.undefined
    for name in (*EDGE_COLUMNS, "flow"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert len(one.readings) == len(other.readings)
    # The app reads a node once for all graphs of a run, beside other nodes: the last digits may differ, and so the order of equals.
    for found, expected in zip(one.readings, other.readings, strict=True):
        assert (found is None) == (expected is None)
        if found is not None:
            assert found.norm == pytest.approx(expected.norm, rel=1e-5)
            for end in ("top", "bottom"):
                logits = [[logit for _, _, logit in getattr(reading, end)] for reading in (found, expected)]
                assert logits[0] == pytest.approx(logits[1], abs=1e-4)


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_the_picture_is_the_answer(traces, folder, recipe):
    asked = Recipe(model=folder, text=TEXT, **recipe)
    answer = GraphQuestion.of(asked).answer(traces, unheard).graph
    assert len(answer)
    expected = answer if asked.keep is None else shown_graph(answer, asked.keep)
    loaded = traces.model(folder, unheard)
    identical(fg.picture(fg.trace(loaded, TEXT, position=asked.position), **recipe), expected)
    address = "http://127.0.0.1:8050/" + to_query(replace(asked, tab="bars", layer=1))
    identical(fg.picture(address, loaded=loaded), expected)
    identical(fg.picture(PictureRecipe.from_address(address)), expected)
    identical(
        fg.picture(
            to_query(replace(asked, method="ff", heads_in=())),
            loaded=loaded,
            method=asked.method,
            heads_in=asked.heads_in,
        ),
        expected,
    )


def test_the_address_of_a_picture_opens_in_the_app():
    recipe = PictureRecipe(model="smollm2", text="Why? 猫", method="norms", heads_in=(3, 1), start="mlp.1.3", keep=7)
    opened = from_query(recipe.address)
    assert {item.name: getattr(opened, item.name) for item in fields(PictureRecipe)} == {
        item.name: getattr(recipe, item.name) for item in fields(PictureRecipe)
    }
    assert to_query(opened) == recipe.address


def test_an_address_says_besides_a_picture_what_the_app_shows_around_it():
    names = [item.name for item in fields(Recipe)]
    assert [item.name for item in fields(PictureRecipe)] == names[: len(fields(PictureRecipe))]
    assert set(names) == {*(item.name for item in fields(PictureRecipe)), *PictureRecipe._BESIDES}
