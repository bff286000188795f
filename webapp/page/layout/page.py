"""The whole page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields

from dash import dcc, html
from dash.development.base_component import Component

from ...panels import PANELS, panel_settings, wired
from ...present.attributes import named
from ...present.ids import Id
from ...recipe import CHOICES, Recipe
from .controls import controls
from .examples import Example
from .header import first_model, header
from .stage import centre, details
from .words import KEYS, METHODS, POINTER, SHOWS, TABS, TERMS

VIEW = ("keep", "width", "orientation", "tab", "selected", "pins", *(field for panel in PANELS for field in panel.view))
"""Fields of a recipe that no graph depends on."""
SILENT = ("keep", "width", "orientation", "selected", "pins")
"""Fields that are looks only: they stand in the address without a step to go back over."""
_UNUSED = ("details", "theme")
"""Parts that the page scripts would fill, and that this page has of its own; named so that no part of a panel is taken for them."""
_POLL_MS = 250


def page(models: Sequence[str], examples: Sequence[Example], formats: Sequence[str]) -> html.Div:
    """Everything between the edges of the window."""
    return html.Div(
        [
            *_stores(),
            *(html.Div(hidden=True, **named({"data-part": name})) for name in _UNUSED),
            header(models, examples, formats),
            controls(),
            centre(examples),
            details(),
            _help(),
            html.P(className="hidden", **named({"data-part": "live", "aria-live": "polite"})),
            html.Section(className="hidden", **named({"data-part": "table", "aria-label": "The picture as a table"})),
        ],
        id=Id.APP,
        className="flowgraph",
        **named(
            {
                "data-defaults": json.dumps(_defaults()),
                "data-choices": json.dumps(CHOICES | {"tab": tuple(TABS)}),
                "data-settings": json.dumps([[one.id, one.field, one.usual] for one in panel_settings()]),
                "data-panels": json.dumps({panel.name: panel.fields for panel in PANELS}),
                "data-model": first_model(models),
                "data-view": " ".join(VIEW),
                "data-silent": " ".join(SILENT),
            }
        ),
    )


def _defaults() -> dict[str, str]:
    """Field → its default as the address would write it; empty for None."""
    recipe = Recipe()
    return {item.name: _text(getattr(recipe, item.name)) for item in fields(recipe)}


def _text(value: object) -> str:
    if value is None or value == ():
        return ""
    return str(int(value)) if isinstance(value, bool) else str(value)


def _stores() -> list[Component]:
    names = (Id.TICKET, Id.RUN, Id.PANEL, *wired("STORES"))
    polls = (Id.POLL, *wired("POLLS"))
    return [
        dcc.Location(id=Id.LOCATION, refresh=False),
        *(dcc.Store(id=name) for name in names),
        *(dcc.Interval(id=name, interval=_POLL_MS, disabled=True) for name in polls),
    ]


def _help() -> html.Section:
    methods = [(name, hint) for name, (_, hint) in METHODS.items()]
    blocks = (
        ("Keys", KEYS),
        ("Pointer", POINTER),
        ("Words", TERMS.items()),
        ("Methods", methods),
        ("Show", SHOWS.items()),
    )
    return html.Section(
        [block for title, rows in blocks for block in (html.H2(title), _definitions(rows))],
        id=Id.HELP_TEXT,
        className="help",
        hidden=True,
        tabIndex="0",
        **named({"aria-label": "Help"}),
    )


def _definitions(rows: object) -> html.Dl:
    return html.Dl([cell for name, text in rows for cell in (html.Dt(name), html.Dd(text))])  # type: ignore[attr-defined]
