"""``flowgraph trace``: trace a prompt and draw its flow graph."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ArgumentError
from ..values.graph_info import DEFAULT_METHOD
from .arguments import add_command, add_model, add_output, checked_output, count, number
from .running import by_command, check_prompt, loaded_model, prompt_of, run_trace, write_graph, wrote

if TYPE_CHECKING:
    from rich.console import Console

    from ..values.flow_graph import FlowGraph
    from ..values.trace import Trace

_MOST_EDGES = 5_000_000
_PATHS = 5
_PREDICTIONS = 8

_EXAMPLES = """\
examples:
  flowgraph trace "The capital of Japan is the city of" -o flow.html
  flowgraph trace "The capital of Japan is the city of" --method logits \\
      --target " Tokyo" --foil " Kyoto" -o flow.html
  flowgraph trace "Hello" --chat --layers 10:20 --threshold 0.05 -o flow.graphml
  flowgraph trace "Paris is in [MASK]." --model ./my-bert -o flow.json

Without --mass, --threshold or --max-edges the strongest paths into the target
are kept until they hold 80 % of the mass, at most 300 edges; an .html page
carries up to 3,000 and opens on these.
"""


def add_to(commands: Any) -> None:
    """Add the command."""
    parser = add_command(commands, "trace", _trace, help="trace a prompt and draw its flow graph", epilog=_EXAMPLES)
    add_model(parser)
    add = parser.add_argument
    add("--position", type=int, help="query position to explain; -1 is the last (default: last, or the first mask)")
    add("--method", default=DEFAULT_METHOD,
        help=f"attention, norms, proximity, logits or ff (default {DEFAULT_METHOD})")  # fmt: skip
    add("--level", default="token", choices=("token", "head"), help="heads together, or a node for each")
    add("--threshold", type=_threshold, help="keep edges whose share is at least this")
    add("--mass", type=_mass, help="keep the strongest paths until they hold this part of the mass")
    add("--max-edges", type=count, help="keep at most this many edges along the strongest paths")
    add("--layers", help="window FIRST:STOP, counted from 0; STOP is left out")
    add_output(parser)


def _threshold(text: str) -> float:
    value = number(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} must lie between 0 and 1: it is compared with |share|")
    return value


def _mass(text: str) -> float:
    value = number(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text} must lie above 0 and at most at 1")
    return value


def _trace(options: argparse.Namespace, console: Console) -> None:
    from ..render.words.terminal import stage

    check_prompt(options)
    window = _layers(options.layers)
    _check_method(options.method)
    output = None if options.output is None else checked_output(options.output, force=options.force)
    prompt_of(options)  # before a model is loaded for it
    loaded = loaded_model(options, console)
    with stage(console, f"tracing {loaded.name}"):
        trace = run_trace(loaded, options, options.position)
    with stage(console, "weighing edges"):
        whole = _whole_graph(trace, options, window)
        graph = _chosen(whole, options)
    written = None
    if output is not None:
        page = output.path.suffix.lower() == ".html"
        with stage(console, f"reading nodes and writing {output.path}"):
            chosen = by_command(_page_graph(whole, graph, options) if page else graph, options)
            written = write_graph(_read(trace, chosen), output)
    if not options.quiet:
        _print_report(trace, whole, graph, written)


def _check_method(method: str) -> None:
    """Refuse an unknown method before a model is loaded for it."""
    from ..methods import EDGE_METHODS

    if method not in EDGE_METHODS:
        raise ArgumentError(f"--method {method} is not known; expected one of {', '.join(EDGE_METHODS)}")


def _whole_graph(trace: Trace, options: argparse.Namespace, window: tuple[int, int] | None) -> FlowGraph:
    """Every edge, or above a size that still fits into memory the strongest; the caption says so."""
    from ..errors import GraphTooLargeError
    from ..methods import build_graph, edge_weights

    weights = edge_weights(trace, method=options.method)
    choice: dict[str, Any] = {"level": options.level, "layers": window, "threshold": options.threshold or 0.0}
    try:
        return build_graph(weights, **choice, max_edges=_MOST_EDGES)
    except GraphTooLargeError:
        return build_graph(weights, **choice, top_k=_MOST_EDGES, max_edges=_MOST_EDGES)


def _chosen(whole: FlowGraph, options: argparse.Namespace) -> FlowGraph:
    """What was asked for; without a word about size, the strongest paths."""
    from ..render.scene.elements import OPENING_EDGES, OPENING_MASS
    from ..values.strongest import keep_strongest

    if _is_default(options):
        return keep_strongest(whole, mass=OPENING_MASS, max_edges=OPENING_EDGES)
    if options.mass is None and options.max_edges is None:
        return whole
    return keep_strongest(whole, mass=options.mass, max_edges=options.max_edges)


def _is_default(options: argparse.Namespace) -> bool:
    return options.mass is None and options.threshold is None and options.max_edges is None


def _page_graph(whole: FlowGraph, graph: FlowGraph, options: argparse.Namespace) -> FlowGraph:
    """A page has a slider of its own, so by default it carries more than it opens on."""
    from ..render.scene.elements import MOST_EDGES
    from ..values.strongest import keep_strongest

    return keep_strongest(whole, mass=None, max_edges=MOST_EDGES) if _is_default(options) else graph


def _read(trace: Trace, graph: FlowGraph) -> FlowGraph:
    from ..methods.node_readings import node_readings

    return graph.with_readings(node_readings(trace, graph.nodes))


def _print_report(trace: Trace, whole: FlowGraph, graph: FlowGraph, written: Path | None) -> None:
    from ..render.words.terminal import print_line, report

    with report() as out:
        if trace.logits is not None:
            out.print(_prediction_table(trace))
        _print_paths(out, whole)
        print_line(out, graph.caption())
        if written is not None:
            print_line(out, wrote(written))


def _prediction_table(trace: Trace) -> Any:
    from rich.table import Table
    from rich.text import Text

    from ..charts.text import visible

    assert trace.logits is not None
    logits = (trace.logits if trace.logits.ndim == 1 else trace.logits[trace.position]).double()
    probabilities = logits.softmax(-1)
    best = logits.topk(min(_PREDICTIONS, len(logits))).indices.tolist()
    marked = [i for i in (trace.target, trace.foil) if i is not None]
    title = Text(f"prediction at position {trace.position} ({visible(trace.tokens[trace.position])})")
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for name in ("rank", "token", "probability", "logit", ""):
        table.add_column(name, justify="left" if name in ("token", "") else "right")
    for i in [*best, *(i for i in marked if i not in best)]:
        rank = int((logits > logits[i]).sum()) + 1
        role = "target" if i == trace.target else "foil" if i == trace.foil else ""
        token = Text(visible(trace.model.answers.string(i)), style="bold" if role else "")
        table.add_row(str(rank), token, f"{float(probabilities[i]):.4f}", f"{float(logits[i]):.3f}", role)
    return table


def _print_paths(out: Console, whole: FlowGraph) -> None:
    from rich.table import Table
    from rich.text import Text

    from ..algorithms.paths import merge_parallel, strongest_paths
    from ..charts.text import printable
    from ..values.connected_flow import flow_levels

    merged = merge_parallel(whole)
    # A threshold may have left nothing that leads to the explained node.
    leads = bool(len(whole)) and bool(flow_levels(whole, whole.flow).any())
    paths = strongest_paths(merged, k=_PATHS) if leads else []
    if not paths:
        return
    table = Table(title="strongest paths", title_justify="left", box=None, pad_edge=False)
    is_signed = whole.info.unit == "logits"
    table.add_column("logits" if is_signed else "share", justify="right")
    table.add_column("path", overflow="fold")
    if is_signed:
        # What a head, an MLP or the embedding wrote towards the logit: the weight of the first edge holds it, with its sign.
        weight = {path: float(merged.weight[path.edges[0]]) for path in paths}
        paths = sorted(paths, key=lambda path: -abs(weight[path]))
    for path in paths:
        number = f"{weight[path]:+.3g}" if is_signed else f"{path.strength:.2g}"
        table.add_row(number, Text(printable(str(path))))
    out.print(table)


def _layers(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    first, colon, stop = text.partition(":")
    if not (colon and first.isdecimal() and stop.isdecimal() and int(first) < int(stop)):
        raise ArgumentError(f"--layers {text}: expected FIRST:STOP, FIRST below STOP, as 0:6 for layers 0 to 5")
    return int(first), int(stop)
