"""Sessions and examples: recorded runs that open at once."""

from __future__ import annotations

import base64
import binascii
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dash import Dash, Input, Output, State, no_update

from flowgraph.errors import FileFormatError

from ...panels.saved_trace import open_recorded_file
from ...present.ids import Id
from ...recipe import to_query
from ..layout.examples import Example

if TYPE_CHECKING:
    from ...server.service import Service
    from ...session import Session


def register(app: Dash, service: Service) -> None:
    """Connect the callback."""

    @app.callback(
        Output(Id.LOCATION, "search"), Input(Id.OPEN, "contents"), State(Id.OPEN, "filename"), prevent_initial_call=True
    )
    def open_file(contents: str | None, name: str | None) -> Any:
        if contents is None:
            return no_update
        return to_query(opened(service, uploaded(contents), name or "").recipe)


def opened(service: Service, data: bytes, name: str) -> Session:
    """Open the bytes of a session or a trace.

    Raises
    ------
    FlowgraphError
        As :func:`~flowgraph_webapp.panels.saved_trace.open_recorded_file`.
    """
    with tempfile.TemporaryDirectory(prefix="flowgraph-") as folder:
        path = Path(folder) / "upload"
        path.write_bytes(data)
        return open_recorded_file(service, path, name)


def uploaded(contents: str) -> bytes:
    """The bytes of an upload, as the browser hands them over: ``data:…;base64,…``.

    Raises
    ------
    FileFormatError
        If that is not base64.
    """
    try:
        return base64.b64decode(contents.partition(",")[2], validate=True)
    except binascii.Error as error:
        raise FileFormatError("the upload did not arrive whole; choose the file again") from error


def examples(service: Service) -> tuple[Example, ...]:
    """The recorded runs of a service, as links."""
    return tuple(
        Example(one.title, one.recipe.text, one.recipe.model, to_query(one.recipe)) for one in service.examples
    )
