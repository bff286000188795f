"""``flowgraph export``: a graph file as a file of another format."""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ArgumentError
from .arguments import add_command, checked_output

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
    add("output", metavar="OUT", help="the ending chooses the format: .html .svg .pdf .png .tex .json .graphml .gexf …")
    add("--force", action="store_true", help="replace OUT if it exists")
    add("--width", help="of a picture: one-column, two-column or points (default two-column)")
    add("--theme", choices=("light", "print"), help="of a picture (default light)")
    add("--dpi", type=int, help="of a .png (default 300)")
    add("--no-legend", action="store_true", help="a picture without its legend")


def _export(options: argparse.Namespace, _console: Console) -> None:
    from ..export import import_graph, save_graph
    from ..views.terminal import complain, print_line, report

    output = checked_output(options.output)
    assert output is not None
    standing = [path for path in _written(output) if path.exists()]
    if standing and not options.force:
        raise ArgumentError(f"{standing[0]} exists; pass --force to replace it")
    graph = import_graph(Path(options.input))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        written = save_graph(graph, output, overwrite=options.force, **_look(options))
    for warning in caught:
        complain(f"note: {warning.message}")
    if not options.quiet:
        with report() as out:
            print_line(out, graph.caption())
            print_line(out, f"wrote {written} ({written.stat().st_size / 1024:,.0f} KB)")


def _written(output: Path) -> list[Path]:
    """Every file that an export writes: a table is two, and a picture has its caption beside it."""
    end = output.suffix.lower()
    if end == ".csv":
        return [output.with_name(f"{output.stem}.{part}.csv") for part in ("nodes", "edges")]
    pictures = (".svg", ".pdf", ".png", ".tex")
    return [output, output.with_name(f"{output.stem}.caption.txt")] if end in pictures else [output]


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
