"""``flowgraph semantic``: what the states, heads and neurons of some layers read as, in one graph."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ArgumentError
from .arguments import Output, add_command, add_model, add_output, checked_output, count
from .running import by_command, loaded_model, prompt_of, run_trace, write_graph

if TYPE_CHECKING:
    from rich.console import Console

    from ..values.flow_graph import FlowGraph
    from ..values.trace import Trace

_MEASURES = ("contribution", "norm", "attention", "target")

_EXAMPLES = """\
examples:
  flowgraph semantic "The capital of Japan is the city of" --layers 23 \\
      -o graph.html
  flowgraph semantic "The capital of Japan is the city of" --layers 22-24 \\
      --target " Tokyo" --select target --heads 4 -o graph.json
  flowgraph semantic "The capital of Japan is the city of" --layers 23 \\
      --position 3,7 --view sankey -o sankey.html

Every number is a part, a probability, an activation or a length; the report,
the page and the files say which. What is not shown of a sum is one node, rest.
"""


def add_to(commands: Any) -> None:
    """Add the command."""
    parser = add_command(
        commands, "semantic", _semantic, epilog=_EXAMPLES,
        help="read states, heads and neurons of some layers in one graph",
    )  # fmt: skip
    add_model(parser)
    add = parser.add_argument
    add("--layers", type=_layers, help="9-11 or 9:12 for layers 9, 10 and 11; 23 for one (default: the last)")
    add("--position", type=_positions, action="extend", metavar="N",
        help="query positions, as 3,7 or several times; the target belongs to the last one named; "
        "negative ones count from the end, --position=-2,-1 (default: last, or the first mask)")  # fmt: skip
    add("--heads", type=_heads, metavar="N|LIST",
        help="the N strongest heads of each layer, or which: 0,4, and 4, for one (default: all)")  # fmt: skip
    add("--sources", type=count, default=3, metavar="N", help="source tokens of each head (default 3)")
    add("--rows", type=_amount, default=0, metavar="N", help="rows of the output projection (default 0)")
    add("--neurons", type=_amount, default=20, metavar="N", help="neurons of each layer (default 20)")
    add("--select", default="contribution", choices=_MEASURES,
        help="what decides: the part of the whole, its length, attention and activation, or the target's logit")  # fmt: skip
    add("--max-nodes", type=count, metavar="N", help="refuse a larger graph (default 5,000)")
    add("--view", default="graph", choices=("graph", "sankey"), help="what an .html file shows")
    add_output(parser)


def _layers(text: str) -> tuple[int, int]:
    """First and one past last: ``9-11`` and ``9:12`` are the same, ``23`` is one layer."""
    for sign, past in (("-", 1), (":", 0)):
        first, found, last = text.partition(sign)
        if found and _is_index(first) and _is_index(last) and int(first) < int(last) + past:
            return int(first), int(last) + past
    if _is_index(text):
        return int(text), int(text) + 1
    raise argparse.ArgumentTypeError(
        f"{text}: expected one layer, FIRST-LAST or FIRST:STOP, as 9-11 for layers 9 to 11"
    )


def _positions(text: str) -> list[int]:
    parts = text.split(",")
    if not all(_is_index(part.removeprefix("-")) for part in parts):
        raise argparse.ArgumentTypeError(f"{text}: expected positions as 7, -1 or 3,7")
    return [int(part) for part in parts]


def _heads(text: str) -> int | list[int]:
    parts = text.removesuffix(",").split(",")
    if not all(map(_is_index, parts)):
        raise argparse.ArgumentTypeError(f"{text}: expected how many, as 4, or which, as 0,4")
    return [int(part) for part in parts] if "," in text else int(text)


def _amount(text: str) -> int:
    if _is_index(text):
        return int(text)
    raise argparse.ArgumentTypeError(f"{text} must be a whole number, at least 0")


def _is_index(text: str) -> bool:
    return text.isascii() and text.isdecimal()


def _semantic(options: argparse.Namespace, console: Console) -> None:
    from ..render.words.terminal import stage

    output = _output(options)
    prompt_of(options)  # before a model is loaded for it
    loaded = loaded_model(options, console)
    with stage(console, f"tracing {loaded.name}"):
        trace = run_trace(loaded, options, options.position[-1] if options.position else None)
    with stage(console, "reading"):
        graph = _graph(trace, options)
    written = None
    if output is not None:
        with stage(console, f"writing {output.path}"):
            written = _write(by_command(graph, options), output, options.view)
    if not options.quiet:
        from .semantic_report import print_report

        print_report(graph, written)


def _output(options: argparse.Namespace) -> Output | None:
    is_sankey = options.view == "sankey"
    if options.output is None:
        if is_sankey:
            raise ArgumentError("--view sankey needs a file to write: -o FILE.html")
        return None
    return checked_output(options.output, force=options.force, extensions=(".html",) if is_sankey else None)


def _graph(trace: Trace, options: argparse.Namespace) -> FlowGraph:
    from ..semantic import semantic_graph

    sizes = {} if options.max_nodes is None else {"max_nodes": options.max_nodes}
    return semantic_graph(
        trace,
        layers=options.layers or trace.n_layers - 1,
        positions=options.position,
        heads=options.heads,
        sources_per_head=options.sources,
        rows_per_block=options.rows,
        neurons_per_block=options.neurons,
        select=options.select,
        **sizes,
    )


def _write(graph: FlowGraph, output: Output, view: str) -> Path:
    if view == "graph":
        return write_graph(graph, output)
    from ..files import atomic_write_text
    from ..render.plots.sankey import sankey

    return atomic_write_text(output.path, sankey(graph).to_html(include_plotlyjs=True), overwrite=output.replace)
