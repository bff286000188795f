"""``flowgraph export``: a graph file as a file of another format."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ArgumentError
from .arguments import ENDINGS, add_command, add_force, checked_output
from .running import by_command, write_graph, wrote

if TYPE_CHECKING:
    from rich.console import Console

_EXAMPLES = """examples:
  flowgraph export flow.json flow.pdf --width one-column --theme print
  flowgraph export flow.json flow.gexf
  flowgraph export theirs.json flow.html          # node-link JSON, GraphML or a graph of Neuronpedia
"""


def add_to(commands: Any) -> None:
    """Add the command."""
    parser = add_command(
        commands, "export", _export, help="write a graph file in another format: a page, a picture, a file for other programs",
        epilog=_EXAMPLES,
    )  # fmt: skip
    add = parser.add_argument
    add("input", metavar="IN", help=".json or .graphml of this project or of another program")
    add("output", metavar="OUT", help=f"its ending chooses the format: {ENDINGS}")
    add_force(parser, "OUT")
    add("--width", help="of a picture: one-column, two-column or points (default two-column)")
    add("--theme", choices=("light", "print"), help="of a picture (default light)")
    add("--dpi", type=int, help="of a .png (default 300)")
    add("--no-legend", action="store_true", help="a picture without its legend")


def _export(options: argparse.Namespace, _console: Console) -> None:
    from ..files import import_graph
    from ..render.words.terminal import print_line, report

    look = _look(options)
    output = checked_output(options.output, force=options.force)
    graph = import_graph(Path(options.input))
    written = write_graph(by_command(graph, options, after=True), output, **look)
    if not options.quiet:
        with report() as out:
            print_line(out, graph.caption())
            print_line(out, wrote(written))


def _look(options: argparse.Namespace) -> dict[str, Any]:
    """Options of pictures that were given."""
    look: dict[str, Any] = {
        name: getattr(options, name) for name in ("width", "theme", "dpi") if getattr(options, name)
    }
    if options.width is not None and options.width not in ("one-column", "two-column"):
        try:
            look["width"] = float(options.width)
        except ValueError:
            raise ArgumentError(
                f"--width {options.width} is not one-column, two-column or a number of points"
            ) from None
    return look | ({"legend": False} if options.no_legend else {})
