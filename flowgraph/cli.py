"""The ``flowgraph`` command."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from . import __version__
from .errors import ArgumentError, FlowgraphError

if TYPE_CHECKING:
    from rich.console import Console

    from .graph import FlowGraph
    from .models import LoadedModel
    from .recorded import Trace

DEFAULT_MODEL = "smollm2"
DEFAULT_METHOD = "proximity"
_MOST_EDGES = 5_000_000
_PATHS = 5
_PREDICTIONS = 8

_TRACE_EXAMPLES = """\
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
        run: Callable[[argparse.Namespace, Console], None] = options.run
        from .views.terminal import progress_console

        run(options, progress_console(options.quiet))
    except BrokenPipeError:
        raise
    except ArgumentError as error:
        return _complain(f"error: {error}", 2)
    except (FlowgraphError, OSError) as error:
        return _complain(f"error: {error}", 1)
    except KeyboardInterrupt:
        return _complain("interrupted; nothing was left half-made", 130)
    return 0


def _complain(what: str, code: int) -> int:
    from .views.terminal import complain

    complain(what)
    return code


class _Parser(argparse.ArgumentParser):
    """A parser whose complaints are one line, as all others are."""

    def error(self, message: str) -> NoReturn:
        raise ArgumentError(f"{message}; see {self.prog} --help")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="flowgraph",
        description="Through which tokens, heads and layers did the information travel that made a language model say this?",
        epilog="'flowgraph COMMAND --help' tells more, with examples.",
    )
    parser.add_argument("--version", action="version", version=f"flowgraph {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    _add_trace(commands)
    _add_models(commands)
    _add_fetch(commands)
    return parser


def _add_command(commands: Any, name: str, run: Callable[..., None], **texts: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name, formatter_class=argparse.RawDescriptionHelpFormatter, description=texts["help"], **texts
    )
    parser.add_argument("--quiet", action="store_true", help="print errors only")
    parser.set_defaults(run=run)
    return parser


def _add_trace(commands: Any) -> None:
    parser = _add_command(
        commands, "trace", _trace, help="trace a prompt and draw its flow graph", epilog=_TRACE_EXAMPLES
    )
    add = parser.add_argument
    add("prompt", metavar="PROMPT", help="the text")
    add("--model", default=DEFAULT_MODEL, help=f"known name, folder, or hub name (default {DEFAULT_MODEL})")
    add("--target", help="token to explain, with its space: ' Tokyo' (default: the model's best)")
    add("--foil", help="token to compare it with")
    add("--position", type=int, help="query position to explain; -1 is the last (default: last, or the first mask)")
    add("--method", default=DEFAULT_METHOD, help=f"attention, norms, proximity or logits (default {DEFAULT_METHOD})")
    add("--level", default="token", choices=("token", "head"), help="heads together, or a node for each")
    add("--threshold", type=_threshold, help="keep edges whose share is at least this")
    add("--mass", type=_mass, help="keep the strongest paths until they hold this part of the mass")
    add("--max-edges", type=_edge_count, help="keep at most this many edges along the strongest paths")
    add("--layers", help="window FIRST:STOP, counted from 0; STOP is left out")
    add("--chat", action="store_true", help="put the prompt into the model's chat template")
    add("--device", default="auto", help="cpu, cuda … (default auto)")
    add("--dtype", help="float32, float16, bfloat16, or auto for the file's own (default float32)")
    add("-o", "--output", metavar="FILE", help="write .html, .json or .graphml")


def _add_models(commands: Any) -> None:
    parser = _add_command(commands, "models", _models, help="list the models known by name, and what is cached")
    parser.add_argument("--remove", metavar="NAME", help="delete a cached model")


def _add_fetch(commands: Any) -> None:
    parser = _add_command(commands, "fetch", _fetch, help="download and convert a known model ahead of its first use")
    parser.add_argument("name", metavar="NAME", help="a name from 'flowgraph models'")


def _threshold(text: str) -> float:
    value = _number(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} must lie between 0 and 1: it is compared with |share|")
    return value


def _mass(text: str) -> float:
    value = _number(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text} must lie above 0 and at most at 1")
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None


def _edge_count(text: str) -> int:
    if text.isdecimal() and int(text):
        return int(text)
    raise argparse.ArgumentTypeError(f"{text} must be a whole number, at least 1")


def _trace(options: argparse.Namespace, console: Console) -> None:
    from .views.terminal import stage

    output = _checked_output(options.output)
    window = _layers(options.layers)
    _check_method(options.method)
    loaded = _loaded(options, console)
    with stage(console, f"tracing {loaded.name}"):
        trace = _run_trace(loaded, options)
    with stage(console, "weighing edges"):
        whole = _whole_graph(trace, options, window)
        graph = _chosen(whole, options)
    if output is not None:
        page = output.suffix.lower() == ".html"
        with stage(console, f"reading nodes and writing {output}"):
            _read(trace, _page_graph(whole, graph, options) if page else graph).save(output)
    if not options.quiet:
        _print_report(trace, whole, graph, output)


def _check_method(method: str) -> None:
    """Refuse an unknown method before a model is loaded for it."""
    from .methods import EDGE_METHODS

    if method not in EDGE_METHODS:
        raise ArgumentError(f"--method {method} is not known; expected one of {', '.join(EDGE_METHODS)}")


def _run_trace(loaded: LoadedModel, options: argparse.Namespace) -> Trace:
    from .tracing import trace

    return trace(
        loaded,
        options.prompt,
        target=options.target,
        foil=options.foil,
        position=options.position,
        chat=options.chat,
    )


def _whole_graph(trace: Trace, options: argparse.Namespace, window: tuple[int, int] | None) -> FlowGraph:
    """Every edge, or above a size that still fits into memory the strongest; the caption says so."""
    from .errors import GraphTooLargeError
    from .methods import build_graph, edge_weights

    weights = edge_weights(trace, method=options.method)
    choice: dict[str, Any] = {"level": options.level, "layers": window, "threshold": options.threshold or 0.0}
    try:
        return build_graph(weights, **choice, max_edges=_MOST_EDGES)
    except GraphTooLargeError:
        return build_graph(weights, **choice, top_k=_MOST_EDGES, max_edges=_MOST_EDGES)


def _chosen(whole: FlowGraph, options: argparse.Namespace) -> FlowGraph:
    """What was asked for; without a word about size, the strongest paths."""
    from .algorithms.connected_flow import keep_strongest
    from .views.elements import OPENING_EDGES, OPENING_MASS

    if _is_default(options):
        return keep_strongest(whole, mass=OPENING_MASS, max_edges=OPENING_EDGES)
    if options.mass is None and options.max_edges is None:
        return whole
    return keep_strongest(whole, mass=options.mass, max_edges=options.max_edges)


def _is_default(options: argparse.Namespace) -> bool:
    return options.mass is None and options.threshold is None and options.max_edges is None


def _page_graph(whole: FlowGraph, graph: FlowGraph, options: argparse.Namespace) -> FlowGraph:
    """A page has a slider of its own, so by default it carries more than it opens on."""
    from .algorithms.connected_flow import keep_strongest
    from .views.elements import MOST_EDGES

    return keep_strongest(whole, mass=None, max_edges=MOST_EDGES) if _is_default(options) else graph


def _read(trace: Trace, graph: FlowGraph) -> FlowGraph:
    from .methods.node_readings import node_readings

    return graph.with_readings(node_readings(trace, graph.nodes))


def _print_report(trace: Trace, whole: FlowGraph, graph: FlowGraph, output: Path | None) -> None:
    from .views.terminal import print_line, report

    with report() as out:
        if trace.logits is not None:
            out.print(_prediction_table(trace))
        _print_paths(out, whole)
        print_line(out, graph.caption())
        if output is not None:
            print_line(out, f"wrote {output} ({output.stat().st_size / 1024:,.0f} KB)")


def _prediction_table(trace: Trace) -> Any:
    from rich.table import Table
    from rich.text import Text

    from .views.text import visible

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
        token = Text(visible(trace.model.vocabulary.string(i)), style="bold" if role else "")
        table.add_row(str(rank), token, f"{float(probabilities[i]):.4f}", f"{float(logits[i]):.3f}", role)
    return table


def _print_paths(out: Console, whole: FlowGraph) -> None:
    from rich.table import Table
    from rich.text import Text

    from .algorithms.paths import merge_parallel, strongest_paths
    from .views.text import printable

    paths = strongest_paths(merge_parallel(whole), k=_PATHS) if len(whole) else []
    if not paths:
        return
    table = Table(title="strongest paths", title_justify="left", box=None, pad_edge=False)
    table.add_column("share", justify="right")
    table.add_column("path", overflow="fold")
    for path in paths:
        table.add_row(f"{path.strength:.2g}", Text(printable(str(path))))
    out.print(table)


def _loaded(options: argparse.Namespace, console: Console) -> LoadedModel:
    from .views.terminal import progress

    with progress(console, f"loading {options.model}") as tell:
        from .models import load_model

        _hush_transformers()
        return load_model(options.model, device=options.device, dtype=options.dtype, progress=tell)


def _hush_transformers() -> None:
    """Keep the library's own progress bars and hints off the screen: this command has its own."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


def _checked_output(output: str | None) -> Path | None:
    """Refuse a file that could not be written before any work is done for it."""
    if output is None:
        return None
    from .export import EXPORTERS

    path = Path(output)
    if path.suffix.lower() not in EXPORTERS:
        raise ArgumentError(f"-o {output}: the extension {path.suffix!r} is not known; use {', '.join(EXPORTERS)}")
    if not path.resolve().parent.is_dir():
        raise ArgumentError(f"-o {output}: there is no folder {str(path.resolve().parent)!r}; make it first")
    if path.is_dir():
        raise ArgumentError(f"-o {output} is a folder; give the name of a file")
    if not os.access(path.resolve().parent, os.W_OK):
        raise ArgumentError(
            f"-o {output}: the folder {str(path.resolve().parent)!r} may not be written to; choose another"
        )
    return path


def _layers(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    first, colon, stop = text.partition(":")
    if not (colon and first.isdecimal() and stop.isdecimal() and int(first) < int(stop)):
        raise ArgumentError(f"--layers {text}: expected FIRST:STOP, FIRST below STOP, as 0:6 for layers 0 to 5")
    return int(first), int(stop)


def _models(options: argparse.Namespace, _console: Console) -> None:
    from rich.table import Table

    from .models import KNOWN_MODELS, cache_folder, cached_models, remove
    from .views.terminal import print_line, report, say

    if options.remove is not None:
        freed = remove(options.remove)
        if not options.quiet:
            say(f"removed {options.remove}: {freed / 2**20:,.0f} MB freed")
        return
    cached = cached_models()
    table = Table(box=None, pad_edge=False)
    for name in ("name", "model", "license", "download", "cached"):
        table.add_column(name, justify="right" if name in ("download", "cached") else "left")
    for model in KNOWN_MODELS.values():
        size = f"{cached[model.name] / 2**20:,.0f} MB" if model.name in cached else "no"
        download = f"{model.download_bytes / 2**20:,.0f} MB"
        table.add_row(model.name, model.description, model.license, download, size)
    if not options.quiet:
        with report() as out:
            out.print(table)
            print_line(out, f"cache: {cache_folder()}")


def _fetch(options: argparse.Namespace, console: Console) -> None:
    from .views.terminal import progress, say

    with progress(console, f"fetching {options.name}") as tell:
        from .models import fetch

        folder = fetch(options.name, progress=tell)
    if not options.quiet:
        say(f"{options.name} is ready in {folder}")


if __name__ == "__main__":
    sys.exit(main())
