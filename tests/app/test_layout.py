"""The page as data: names, choices, labels; nothing of it runs."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import fields

import pytest
from dash import dcc, html
from dash.development.base_component import Component
from flowgraph_webapp.page.layout import words
from flowgraph_webapp.page.layout.examples import Example, example_list
from flowgraph_webapp.page.layout.header import first_model
from flowgraph_webapp.page.layout.page import SILENT, VIEW, page
from flowgraph_webapp.page.wires.downloads import FORMATS
from flowgraph_webapp.present.chart_panel import ChartPanel
from flowgraph_webapp.present.ids import Id
from flowgraph_webapp.recipe import CHOICES, LONGEST_TEXT, Recipe, from_query
from flowgraph_webapp.registered import TABS

EXAMPLES = (Example("<b>Title</b>", "The text", "gpt2", "?text=The%20text&example=one"),)


@pytest.fixture(scope="module")
def layout():
    return page(("smollm2", "other"), EXAMPLES, FORMATS)


def _all(layout) -> list[Component]:
    return [layout, *layout._traverse()]


def components(layout, kind=Component) -> list:
    return [one for one in _all(layout) if isinstance(one, kind)]


def by_id(layout, name: str) -> Component:
    return next(one for one in components(layout) if getattr(one, "id", None) == name)


def text_of(component) -> str:
    if isinstance(component, str):
        return component
    children = getattr(component, "children", None) or []
    return "".join(map(text_of, children if isinstance(children, list | tuple) else [children]))


def test_every_id_is_on_the_page_once(layout):
    found = Counter(str(one.id) for one in components(layout) if getattr(one, "id", None))
    # The slider is an element of the page's own, and stands as text in the component that carries it.
    drawn = [one.chart for one in components(layout, ChartPanel)]
    found.update(attributes["id"] for _, attributes, *_ in drawn if "id" in attributes)
    assert {name for name, count in found.items() if count > 1} == set()
    assert {str(name) for name in Id} <= set(found)


def test_controls_offer_exactly_what_a_recipe_takes(layout):
    for name in ("method", "show", "level", "width", "orientation", "fill"):
        control = by_id(layout, name)
        assert tuple(option["value"] for option in control.options) == CHOICES[name]
        assert control.value == getattr(Recipe(), name)
        assert all(option["title"] for option in control.options)
    tabs = [one for one in components(layout, html.Button) if getattr(one, "role", None) == "tab"]
    assert tuple(getattr(tab, "data-tab") for tab in tabs) == tuple(words.TABS) == tuple(TABS)


def test_the_root_tells_the_scripts_the_defaults_as_the_address_writes_them(layout):
    defaults = json.loads(getattr(layout, "data-defaults"))
    assert set(defaults) == {item.name for item in fields(Recipe)}
    said = "&".join(f"{name}={value}" for name, value in defaults.items() if value)
    assert from_query(said) == Recipe()
    assert set(SILENT) <= set(VIEW) <= set(defaults)


def test_everything_that_can_be_operated_has_a_name(layout):
    labelled = {label.htmlFor for label in components(layout, html.Label)}
    for button in components(layout, html.Button):
        assert text_of(button).strip() or getattr(button, "aria-label", ""), button
        assert button.type == "button"
    for kind in (dcc.Textarea, dcc.Dropdown, dcc.Input):
        for control in components(layout, kind):
            in_group = control.id in (Id.SCORE, Id.LAYER)
            assert control.id in labelled or in_group or getattr(control, "placeholder", ""), control.id
    assert text_of(next(one for one in components(layout, html.Label) if one.htmlFor == Id.PROMPT)) == "Prompt"


def test_every_group_says_what_it_means(layout):
    groups = components(layout, html.Fieldset)
    assert len(groups) >= 6
    assert all(getattr(group, "aria-description") for group in groups)
    assert all(hint.endswith(".") for _, hint in words.METHODS.values())


def test_texts_are_children_and_never_markup(layout):
    assert not any(isinstance(one, dcc.Markdown) for one in components(layout))
    titles = [text_of(one) for one in components(layout, html.Span) if getattr(one, "className", "") == "example-title"]
    assert titles == ["<b>Title</b>", "<b>Title</b>"]


def test_the_prompt_is_as_long_as_a_recipe_takes(layout):
    assert by_id(layout, Id.PROMPT).maxLength == LONGEST_TEXT


def test_models_that_only_recordings_have_can_be_seen_and_not_chosen(layout):
    options = by_id(layout, Id.MODEL).options
    assert [option["value"] for option in options] == ["smollm2", "other", "gpt2"]
    assert [option.get("disabled", False) for option in options] == [False, False, True]
    assert first_model(()) == Recipe().model


def test_examples_are_links_to_their_address():
    [link] = components(example_list(EXAMPLES), html.A)
    assert from_query(link.href).example == "one"
    assert "No recorded runs" in text_of(example_list(()))


def test_every_format_of_the_graph_is_offered(layout):
    files = {getattr(one, "data-export", None) for one in components(layout, html.A)}
    assert {f"graph{ending}" for ending in FORMATS} <= files
    assert {f"{name}.csv" for name in TABS} | {"session.flowgraph", "panel.csv"} <= files
