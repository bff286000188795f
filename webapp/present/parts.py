"""Small parts that several places of the page use."""

from __future__ import annotations

from typing import Any

from dash import dcc, html

from .attributes import named
from .ids import Id


def hidden_label(text: str, control: Id) -> html.Label:
    """A label that is heard and not seen."""
    return html.Label(text, htmlFor=control, className="hidden")


def icon_button(control: Id, icon: str, name: str, hint: str, **attributes: str) -> html.Button:
    """A button that shows an icon of ``app.css`` and says its name."""
    return html.Button(
        html.I(className=f"icon icon-{icon}", **named({"aria-hidden": "true"})),
        id=control, type="button", className="button square", title=hint, n_clicks=0, **named({"aria-label": name, **attributes}),
    )  # fmt: skip


def group(title: str, hint: str, *children: Any, name: str = "") -> html.Fieldset:
    """A titled group of controls; ``hint`` says what the title means, to the mouse and to a screen reader."""
    return html.Fieldset(
        [html.Legend(title, title=hint), *children],
        className=f"control {name}".strip(),
        **named({"aria-description": hint}),
    )


def switch(control: Id, options: dict[str, str], value: str) -> dcc.RadioItems:
    """A choice between a few words, side by side: ``options`` is word → what it means."""
    return dcc.RadioItems(
        id=control,
        options=[{"label": word, "value": word, "title": hint} for word, hint in options.items()],
        value=value,
        className="switch",
    )


def menu(control: Id, summary: Any, hint: str, *children: Any, name: str = "") -> html.Details:
    """A list that opens at once; the scripts close it on a click elsewhere and on Escape."""
    return html.Details(
        [html.Summary(summary, className="button", title=hint), html.Div(children, className="menu-body")],
        id=control,
        className=f"menu {name}".strip(),
    )


def late_choice(control: Id) -> dcc.Dropdown:
    """A list whose options come with an answer."""
    return dcc.Dropdown(id=control, options=[], clearable=False, searchable=False, className="choice")


def progress_row(progress: Id, cancel: Id, hint: str, name: str = "job") -> html.Div:
    """How far something is, and the button that stops it; not there while nothing runs."""
    return html.Div(
        [
            html.Span(id=progress, className="idle", role="status", **named({"aria-live": "polite"})),
            html.Button("Cancel", id=cancel, type="button", className="button small", title=hint, n_clicks=0),
        ],
        className=name,
    )
