"""What requests may ask: nothing that another web page makes the browser send, and no body that grows when it is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import flask

from flowgraph.errors import FlowgraphError

from ..session.counting import count_values

HEADERS: Mapping[str, str] = {
    "Cross-Origin-Resource-Policy": "same-origin", "Cross-Origin-Opener-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
}  # fmt: skip
"""Headers of every answer, errors too."""
MOST_VALUES = 200_000
"""Lists, objects and their entries in a request: the page sends some hundred."""


CALLBACKS = "/_dash-update-component"
"""Where Dash's client sends questions."""


def refused(request: flask.Request, check: Callable[[bytes], None]) -> tuple[str, int] | None:
    """Why a request is refused, and with which status; None where it is answered. ``check`` refuses what is no question of the page.

    A browser says where a request comes from (``Sec-Fetch-Site``; older ones ``Origin`` or ``Referer``), and no page can make it lie.
    What says nothing, as curl, is no browser with somebody else's page in it. Other ports of this machine are other sites here:
    anybody's program may answer there. A link elsewhere may open the page itself, and nothing else.
    """
    if _is_from_elsewhere(request) and not _opens_page(request):
        return "Another web page asked for this. Open the address in the browser yourself.", 403
    if request.method == "POST":
        # Forms of other pages cannot send this kind; a page of a browser that says nothing else is refused by it.
        if not request.is_json:
            return "Questions are sent as application/json.", 415
        body = request.get_data()
        if count_values(body) > MOST_VALUES:
            return f"The request holds more than {MOST_VALUES:,} values.", 413
        if request.path == CALLBACKS:
            return _malformed(body, check)
    return None


def _malformed(body: bytes, check: Callable[[bytes], None]) -> tuple[str, int] | None:
    try:
        check(body)
    except FlowgraphError as error:
        return f"This is no question that the page asks: {error}.", 400
    return None


def _is_from_elsewhere(request: flask.Request) -> bool:
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site not in ("same-origin", "none")
    source = request.headers.get("Origin") or request.headers.get("Referer")
    return source is not None and _host(source) != request.headers.get("Host", "").lower()


def _opens_page(request: flask.Request) -> bool:
    """Whether a tab goes to the page itself."""
    if request.method != "GET" or request.path != "/":
        return False
    if "Sec-Fetch-Site" not in request.headers:
        return "Origin" not in request.headers
    return (request.headers.get("Sec-Fetch-Mode"), request.headers.get("Sec-Fetch-Dest")) == ("navigate", "document")


def _host(address: str) -> str:
    """Host and port of an address; of ``null`` and other things that are none, nothing."""
    return address.partition("://")[2].partition("/")[0].lower()
