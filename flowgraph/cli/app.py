"""``flowgraph app``: the page that explores a prompt, in the browser."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ArgumentError, FlowgraphError
from .arguments import DEFAULT_MODEL, add_command, add_loading, loading_options

if TYPE_CHECKING:
    from rich.console import Console

DEFAULT_PORT = 8050
_LARGEST_PORT = 65_535

_EXAMPLES = """\
examples:
  flowgraph app
  flowgraph app --model smollm2 --model ./my-gpt2
  flowgraph app study.flowgraph                    # a session that was saved in the page
  flowgraph app run.safetensors                    # a trace that Trace.save wrote, with what was recorded with it
  flowgraph app flow.json                          # a graph: .json, .graphml, or of another program

The page answers to this machine only, unless --host says otherwise.
"""


def add_to(commands: Any) -> None:
    """Add the command."""
    parser = add_command(commands, "app", _app, help="explore a prompt in the browser", epilog=_EXAMPLES)
    add = parser.add_argument
    add("file", metavar="FILE", nargs="?", help="a session (.flowgraph), a graph file, or a trace (.safetensors)")
    add("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1, this machine only)")
    add("--port", type=_port, default=DEFAULT_PORT, help=f"port to listen on (default {DEFAULT_PORT}; 0: a free one)")
    add("--model", action="append", metavar="NAME",
        help=f"a model the page may use: known name, folder, or hub name; may be given several times (default {DEFAULT_MODEL})")  # fmt: skip
    add_loading(parser)
    for name, default, what in (
        ("traces", 1024, "traces and what was computed from them"),
        ("answers", 256, "answers"),
    ):
        add(
            f"--keep-{name}",
            type=_mebibytes,
            default=default,
            metavar="MIB",
            help=f"memory for {what} (default {default} MiB)",
        )
    add("--no-browser", action="store_true", help="do not open the page")


def _port(text: str) -> int:
    if text.isdecimal() and len(text) <= 5 and int(text) <= _LARGEST_PORT:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text} is not a port; expected 0 to {_LARGEST_PORT}")


def _mebibytes(text: str) -> int:
    if text.isdecimal() and len(text) <= 7 and int(text):
        return int(text)
    raise argparse.ArgumentTypeError(f"{text} is not a number of MiB; expected 1 to 9,999,999")


def _app(options: argparse.Namespace, _console: Console) -> None:
    try:
        from flowgraph_webapp.app import create_app
        from flowgraph_webapp.recipe import to_query
        from flowgraph_webapp.server.service import Service
        from flowgraph_webapp.server.serving import serve
    except ModuleNotFoundError as error:
        raise _extra_missing(error) from error
    from ..render.words.terminal import say

    _hush_logs()
    models = tuple(dict.fromkeys(options.model or [DEFAULT_MODEL]))
    service = Service(
        models,
        worker_bytes=options.keep_traces * 2**20,
        cache_bytes=options.keep_answers * 2**20,
        loading=loading_options(options),
    )
    try:
        session = None if options.file is None else _opened(service, Path(options.file))
        query = "" if session is None else to_query(session.recipe)

        def begin() -> None:
            """Load the model behind the page's back, once it is known that there will be a page."""
            if session is None or session.recipe.model in service.models:
                service.warm(None if session is None else session.recipe.model)

        tell = (lambda _line: None) if options.quiet else say
        where = options.host, options.port, not options.no_browser
        serve(service, lambda: create_app(service, query).server, *where, query=query, tell=tell, begin=begin)
    except ModuleNotFoundError as error:
        raise _extra_missing(error) from error
    finally:
        service.close()


def _opened(service: Any, path: Path) -> Any:
    """The session of a recorded file, or the one that a graph file is made into."""
    from flowgraph_webapp.panels.saved_graph import session_of_graph
    from flowgraph_webapp.panels.saved_trace import open_recorded_file
    from flowgraph_webapp.session.container import is_recorded

    if not path.is_file():
        raise ArgumentError(f"FILE={str(path)!r} is {'a folder' if path.is_dir() else 'not there'}; name a file")
    with path.open("rb") as file:
        is_graph = not is_recorded(file) and path.suffix.lower() not in (".flowgraph", ".safetensors")
    if not is_graph:
        return open_recorded_file(service, path, path.name)
    from ..files import import_graph

    return service.add_session(session_of_graph(import_graph(path), path.name))


def _hush_logs() -> None:
    """Keep notes of the server's own off the terminal; warnings and errors stay."""
    import logging

    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)


def _extra_missing(error: ModuleNotFoundError) -> Exception:
    """What to install, where a module of the app's own is not there."""
    if (error.name or "").partition(".")[0] in ("dash", "dash_cytoscape", "flask", "waitress", "flowgraph_webapp"):
        return FlowgraphError(
            f"{error.name} is not installed; the app needs it: pip install 'transformer-flowgraph[app]'"
        )
    return error
