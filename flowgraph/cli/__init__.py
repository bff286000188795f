"""The ``flowgraph`` command: one module for each of its commands."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from .. import __version__
from ..errors import ArgumentError, FlowgraphError
from . import app, circuit, explain, export, models, semantic, trace
from .arguments import Parser

if TYPE_CHECKING:
    from rich.console import Console


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code.

    0: done. 1: it could not be done. 2: an argument cannot be used. 130: interrupted.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal that lacks a character gets its number, not a traceback
            stream.reconfigure(errors="backslashreplace")
    try:
        try:
            return _run(arguments)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read our output has gone (| head). What is still buffered must not be written when Python closes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _run(arguments: Sequence[str] | None) -> int:
    parser = _parser()
    try:
        options = parser.parse_args(arguments)
        if not hasattr(options, "run"):
            parser.print_help(sys.stderr)
            return 2
        options.command_line = shlex.join(["flowgraph", *(sys.argv[1:] if arguments is None else arguments)])
        run: Callable[[argparse.Namespace, Console], None] = options.run
        from ..render.words.terminal import progress_console

        run(options, progress_console(options.quiet))
    except BrokenPipeError:
        raise
    except ArgumentError as error:
        return _complain(f"error: {error}", 2)
    except (FlowgraphError, OSError, ModuleNotFoundError) as error:
        return _complain(f"error: {error}", 1)
    except KeyboardInterrupt:
        return _complain("interrupted; nothing was left half-made", 130)
    return 0


def _complain(what: str, code: int) -> int:
    from ..render.words.terminal import complain

    complain(what)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="flowgraph",
        description="Through which tokens, heads and layers did the information travel that made a language model say this?",
        epilog="'flowgraph COMMAND --help' tells more, with examples.",
    )
    parser.add_argument("--version", action="version", version=f"flowgraph {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    trace.add_to(commands)
    explain.add_to(commands)
    semantic.add_to(commands)
    circuit.add_to(commands)
    app.add_to(commands)
    export.add_to(commands)
    models.add_to(commands)
    return parser
