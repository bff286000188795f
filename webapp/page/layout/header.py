"""The top of the page: model, prompt, run, and what can be taken away."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dash import dcc, html

from ...panels import PANELS
from ...present.attributes import named
from ...present.ids import Id
from ...present.parts import hidden_label, icon_button, menu
from ...recipe import LONGEST_TEXT, Recipe
from ...session.container import LARGEST_TRACE
from .examples import Example, example_list

_SESSION = (
    "A session holds the prompt, the view and every answer on this page, and the trace that they came from, which Python opens, up to "
    f"{LARGEST_TRACE // 2**20} MiB. Traces that Python saved (.safetensors) open here as well. Opening a file runs no model."
)
_NOTHING = "There is nothing to take along yet: trace a prompt, or open an example, and wait for its picture."
LARGEST_FILE = 64 * 2**20
"""Bytes of a recorded file that the page sends on."""
PANEL_FILES = {panel.name: panel.title for panel in PANELS}


def header(models: Sequence[str], examples: Sequence[Example], formats: Sequence[str]) -> html.Header:
    """The bar across the page."""
    return html.Header([
        html.H1("flowgraph"),
        _model(models, sorted({one.model for one in examples})),
        _prompt(),
        html.Div(
            [
                html.Button("Trace", id=Id.TRACE, type="button", className="button primary", title="Run the model (Ctrl + Enter)", n_clicks=0),
                html.Button("Cancel", id=Id.CANCEL, type="button", className="button", title="Stop this run", n_clicks=0),
                html.Span(id=Id.PROGRESS, className="idle", role="status", **named({"aria-live": "polite"})),
            ],
            className="run",
        ),
        menu(Id.EXAMPLES, "Examples", "Recorded runs that open at once", example_list(examples)),
        html.Div(
            [
                icon_button(Id.THEME, "theme", "Theme", "Light, dark or print"),
                icon_button(Id.COPY, "link", "Copy link", "Copy the address of this view"),
                menu(Id.EXPORT, _icon("export", "Export"), "Take this picture and its numbers along", *_exports(formats), name="right-menu"),
                menu(Id.SAVE, _icon("session", "Session"), "Save or open everything on this page", *_session(), name="right-menu"),
                *drawers(),
                icon_button(Id.HELP, "help", "Help", "Keys and terms (?)", **named({"aria-expanded": "false", "aria-controls": Id.HELP_TEXT})),
            ],
            className="tools",
        ),
    ])  # fmt: skip


def drawers() -> list[html.Button]:
    """Buttons that pull the panes out where the window is narrow."""
    closed = {"aria-expanded": "false"}
    return [
        icon_button(Id.LEFT_DRAWER, "sliders", "Controls", "Show or hide the controls", **closed),
        icon_button(Id.RIGHT_DRAWER, "details", "Details", "Show or hide the details", **closed),
    ]


def _icon(icon: str, name: str) -> list[html.I | html.Span]:
    return [
        html.I(className=f"icon icon-{icon}", **named({"aria-hidden": "true"})),
        html.Span(name, className="hidden"),
    ]


def first_model(models: Sequence[str]) -> str:
    """The model that a page opens with; the usual one where a server runs none and shows recordings only."""
    return models[0] if models else Recipe().model


def _model(models: Sequence[str], recorded: Sequence[str]) -> html.Div:
    options: list[Any] = [{"label": name, "value": name} for name in models]
    options += [
        {"label": f"{name} (recorded)", "value": name, "disabled": True} for name in recorded if name not in models
    ]
    choice = dcc.Dropdown(
        id=Id.MODEL,
        options=options,
        value=first_model(models),
        clearable=False,
        searchable=False,
        placeholder="choose a model",
    )
    return html.Div([hidden_label("Model", Id.MODEL), choice], className="model", title="Model that runs on the prompt")


def _prompt() -> html.Div:
    return html.Div(
        [
            hidden_label("Prompt", Id.PROMPT),
            dcc.Textarea(
                id=Id.PROMPT, rows=1, maxLength=LONGEST_TEXT, spellCheck=False, className="prompt",
                placeholder="Type a prompt, then Ctrl + Enter", title="Prompt (Ctrl + Enter runs it)",
            ),
            dcc.Checklist(
                id=Id.CHAT, value=[], className="chat",
                options=[{"label": "chat", "value": "chat", "title": "Put the text into the model’s chat template"}],
            ),
        ],
        className="ask",
    )  # fmt: skip


def _exports(formats: Sequence[str]) -> list[html.P | html.Ul]:
    """Links without an address: the scripts add that of the view when one is followed."""
    graph = [_file(f"graph{ending}", ending) for ending in formats]
    panels = [_file(f"{name}.csv", title) for name, title in PANEL_FILES.items()]
    return [
        html.P("Graph, as the slider shows it", className="menu-title taken"),
        html.Ul(graph, className="files taken"),
        html.P("Numbers of a panel (CSV)", className="menu-title taken of-panels"),
        html.Ul(panels, className="files taken of-panels panel-files"),
        html.P(_NOTHING, className="note untaken"),
    ]


def _file(name: str, title: str) -> html.Li:
    return html.Li(html.A(title, href=f"export/{name}", className="file", download="", **named({"data-export": name})))


def _session() -> list[html.A | html.Div | html.P]:
    return [
        html.A("Save session", href="export/session.flowgraph", className="button file taken", download="", **named({"data-export": "session.flowgraph"})),
        html.Div(
            dcc.Upload(
                html.Button("Open session …", type="button", className="button"),
                id=Id.OPEN, max_size=LARGEST_FILE, accept=".flowgraph,.safetensors", multiple=False, className="upload",
            ),
            **named({"data-largest": str(LARGEST_FILE)}),
        ),
        html.P(_SESSION, className="note"),
    ]  # fmt: skip
