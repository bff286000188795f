"""The server: one process with threads, on the loopback interface unless another is asked for."""

from __future__ import annotations

import errno
import ipaddress
import logging
import re
import signal
import threading
import webbrowser
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from flowgraph.errors import ArgumentError

from .dispatch import MOST_WAITERS
from .guard import HEADERS
from .turns import MOST_WAITING

if TYPE_CHECKING:
    from .service import Service

THREADS = MOST_WAITERS + MOST_WAITING + 16
"""Requests at once. One that waits for an answer or a file keeps its thread; the others are left for pages."""
_LIMITS = {
    "threads": THREADS, "ident": None, "connection_limit": 500, "asyncore_use_poll": True,
    # Read on while a request is answered: so a closed connection is noticed.
    "channel_request_lookahead": 1,
    # What a client does not read goes to a temporary file, and keeps no thread; after the timeout it is closed.
    "outbuf_high_watermark": 2**40, "channel_timeout": 60, "cleanup_interval": 10,
}  # fmt: skip
"""Of the server, so that nobody who is slow or gone keeps others from being answered."""
LARGEST_REQUEST = 96 * 2**20
"""Bytes of a request: a session file of the largest size, as text."""
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+)(?::[0-9]{1,5})?")
_WSGI = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def serve(
    service: Service,
    application: Callable[[], _WSGI],
    host: str = "127.0.0.1",
    port: int = 8050,
    open_browser: bool = True,
    *,
    query: str = "",
    tell: Callable[[str], None] = print,
    begin: Callable[[], None] | None = None,
) -> None:
    """Serve the page until the process is told to end (Ctrl-C, or SIGTERM); then the worker is ended too.

    Parameters
    ----------
    service
        What answers the page; it is closed at the end.
    application
        Makes the WSGI application of the page, ``lambda: create_app(service).server``.
    host, port
        Where to listen; port 0 takes a free one.
    open_browser
        Whether to open the page in the browser.
    query
        What the page opens on, as :func:`flowgraph_webapp.recipe.to_query` writes it.
    tell
        Called with each line that whoever started this should read.
    begin
        Called once the address is taken, before anybody is answered.

    Raises
    ------
    ArgumentError
        If the host is no address of this machine, or the port is in use or may not be used.
    """
    try:
        logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # pages that wait are no reason to warn
        page = application()
        server = listening(LocalHosts(page) if is_loopback(host) else page, host, port)
        if begin is not None:
            begin()
        _run(service, server, _address(host, server) + query, open_browser, tell, warn=not is_loopback(host))
    finally:
        service.close()


def listening(application: _WSGI, host: str, port: int) -> Any:
    """A server that has its address and does not answer yet.

    Raises
    ------
    ArgumentError
        If the host is no address of this machine, or the port is in use or may not be used.
    """
    from waitress.server import create_server

    try:
        return create_server(application, host=host, port=port, max_request_body_size=LARGEST_REQUEST, **_LIMITS)
    except (OSError, OverflowError, ValueError) as error:
        raise ArgumentError(_why_not(host, port, error)) from error


def _run(
    service: Service, server: Any, address: str, open_browser: bool, tell: Callable[[str], None], *, warn: bool
) -> None:
    if warn:
        tell("warning: anyone who can reach this machine over the network can use this page, and with it the model")
    tell(f"flowgraph is at {address} (Ctrl-C ends it)")

    def end(*_: object) -> None:
        # First the service: whoever waits for an answer gets an error, and no thread is left waiting.
        service.close()
        raise KeyboardInterrupt

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        if open_browser:
            threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
        server.run()  # ends in peace when it is interrupted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        server.close()


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a host's address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class LocalHosts:
    """Refuses requests that name another host than this machine.

    A page of somebody else's may let its own name point at 127.0.0.1 and then read what is served there; its requests give it
    away, since they name that host.
    """

    def __init__(self, application: _WSGI) -> None:
        self._application = application

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer a request."""
        if is_loopback(_named(environ.get("HTTP_HOST", ""))):
            return self._application(environ, start_response)
        headers = [("Content-Type", "text/plain; charset=utf-8"), *HEADERS.items()]
        start_response("421 Misdirected Request", headers)
        return [b"This server answers to localhost and 127.0.0.1 only; --host lets it answer to others."]


def _named(host: str) -> str:
    """The name in a Host header, without its port; nothing of a header that is not a name and perhaps a port."""
    found = _HOST.fullmatch(host)
    return found[1].strip("[]").lower() if found else ""


def _address(host: str, server: Any) -> str:
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{server.effective_port}/"


def _why_not(host: str, port: int, error: Exception) -> str:
    """Why a server cannot listen, and what to do."""
    number = getattr(error, "errno", None)
    if number == errno.EADDRINUSE:
        return f"port={port} is in use on {host}, perhaps by another flowgraph app; choose another with --port"
    if number in (errno.EACCES, errno.EPERM):
        return f"port={port} may not be used by this user; choose one from 1024 up with --port"
    return f"host={host!r}, port={port} cannot be listened on ({error}); choose another --host or --port"
