"""Sessions and examples: recorded runs that open at once."""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Any

from dash import Dash, Input, Output

from flowgraph.errors import FileFormatError

from ...recipe import to_query
from ..ids import Id
from ..layout.examples import Example

if TYPE_CHECKING:
    from ...server.service import Service


def register(app: Dash, service: Service) -> None:
    """Connect the callback."""

    @app.callback(Output(Id.OPENED, "data"), Input(Id.OPEN, "contents"), prevent_initial_call=True)
    def open_file(contents: str | None) -> dict[str, Any] | None:
        if contents is None:
            return None
        session = service.open_session(uploaded(contents))
        return {"search": to_query(session.recipe)}


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
