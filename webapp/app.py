"""The Dash application: one page, served with everything it needs."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import flask
from dash import Dash, set_props
from werkzeug.wrappers import Response

from flowgraph.errors import FlowgraphError
from flowgraph.render import css_variables, page_bundle, page_library, page_styles

from .page.layout.page import page
from .page.posted import check_posted
from .page.wires import browser, charts, downloads, panels, sessions
from .panels import PANELS, connect
from .present.errors import notice
from .present.ids import Id
from .present.palette import panel_variables
from .server.guard import HEADERS, refused

if TYPE_CHECKING:
    from .server.service import Service

LARGEST_REQUEST = 96 * 2**20
"""Bytes: a session file of the largest size as base64, and room."""
_LOG = logging.getLogger(__name__)
_ASSETS = Path(__file__).parent / "assets"
_SCRIPTS = ("cytoscape.js", "flowgraph.js")
_INDEX = """<!doctype html>
<html lang="en">
<head>
{%metas%}
<title>{%title%}</title>
<link rel="icon" href="assets/favicon.svg" type="image/svg+xml">
{%css%}
</head>
<body>
{%app_entry%}
<footer>{%config%}{%scripts%}{%renderer%}</footer>
</body>
</html>
"""


def create_app(service: Service, opening: str = "") -> Dash:
    """Make the app.

    Parameters
    ----------
    service
        What answers its questions; the app has no other state.
    opening
        Query that the bare address leads to, as :func:`flowgraph_webapp.recipe.to_query` writes it; empty: a page without a prompt.

    Returns
    -------
    The app; ``app.server`` is the WSGI application.
    """
    app = Dash(
        "flowgraph_webapp",
        assets_folder=str(_ASSETS),
        title="flowgraph",
        update_title="",
        serve_locally=True,
        index_string=_INDEX,
        external_scripts=[{"src": f"/page/{name}", "defer": "defer"} for name in _SCRIPTS],
        external_stylesheets=["/page/theme.css"],
        on_error=_tell,
        add_log_handler=False,
    )
    app.layout = page(service.models, sessions.examples(service), downloads.FORMATS)
    for module in (panels, sessions, downloads):
        module.register(app, service)
    connect(app, service)
    browser.register(app)
    charts.register(app)
    _serve_page_files(app)
    if opening:
        _open_at(app, opening)
    _protect(app)
    return app


def _tell(error: Exception) -> None:
    """Show an error beside the picture, which stays as it is."""
    if not isinstance(error, FlowgraphError):
        _LOG.error("a callback failed", exc_info=error)
    set_props(Id.NOTICE, {"children": notice(error)})


def _open_at(app: Dash, query: str) -> None:
    """Whoever types the address alone is led to what the server was started with."""

    @app.server.before_request  # type: ignore[untyped-decorator]
    def lead() -> Response | None:
        is_bare = flask.request.path == "/" and not flask.request.query_string
        return flask.redirect(f"/{query}") if is_bare else None


def _serve_page_files(app: Dash) -> None:
    """The page scripts and the colours come from flowgraph itself, made once."""
    files = {
        "cytoscape.js": (page_library(), "text/javascript"),
        "flowgraph.js": (page_bundle(panels=True), "text/javascript"),
        "theme.css": (_styles(), "text/css"),
    }

    @app.server.get("/page/<name>")  # type: ignore[untyped-decorator]
    def page_file(name: str) -> Response:
        if name not in files:
            flask.abort(404)
        text, kind = files[name]
        response = flask.Response(text, mimetype=kind)
        response.headers["Cache-Control"] = "no-cache"
        response.add_etag()
        return response.make_conditional(flask.request)


def _styles() -> str:
    return css_variables() + panel_variables() + page_styles(panels=True) + _with_their_panels()


def _with_their_panels() -> str:
    """The controls of a panel are seen while it is open."""
    return "".join(f'#app[data-panel="{panel.name}"] .for-{panel.name} {{ display: contents; }}\n' for panel in PANELS)


def _protect(app: Dash) -> None:
    """Nothing is fetched from elsewhere, asked for by other pages, framed by others, or larger than a session file."""
    app.server.config["MAX_CONTENT_LENGTH"] = LARGEST_REQUEST
    scripts = " ".join(["'self'", *app.csp_hashes()])
    policy = (
        f"default-src 'self'; script-src {scripts}; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
        "font-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    )

    @app.server.before_request  # type: ignore[untyped-decorator]
    def refuse() -> flask.Response | None:
        found = refused(flask.request, lambda body: check_posted(body, app.callback_map))
        return None if found is None else flask.Response(f"{found[0]}\n", status=found[1], mimetype="text/plain")

    @app.server.after_request  # type: ignore[untyped-decorator]
    def add_headers(response: flask.Response) -> flask.Response:
        response.headers["Content-Security-Policy"] = policy
        response.headers.update(HEADERS)
        return response
