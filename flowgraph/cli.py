"""The ``flowgraph`` command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
  flowgraph trace "The capital of Japan is the city of" --target " Tokyo" --foil " Kyoto" --method logits -o flow.html
  flowgraph trace "Hello" --chat --layers 10:20 --threshold 0.05 -o flow.graphml
  flowgraph trace "Paris is the capital of [MASK]." --model ./my-bert -o flow.json

Without --mass, --threshold or --max-edges the strongest paths into the target are kept until they hold 80 % of the mass,
at most 300 edges; an .html page carries up to 3,000 and opens on these.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code.

    0: done. 1: it could not be done. 2: an argument cannot be used. 130: interrupted.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    if not hasattr(options, "run"):
        parser.print_help()
        return 2
    console = _console(options.quiet)
    try:
        run: Callable[[argparse.Namespace, Console], None] = options.run
        run(options, console)
    except ArgumentError as error:
        return _complain(error, 2)
    except FlowgraphError as error:
        return _complain(error, 1)
    except KeyboardInterrupt:
        return _complain("interrupted; nothing was left half-made", 130)
    except BrokenPipeError:
        # The reader of our output has gone (| head): nothing is left to say, and closing must not say it again.
        sys.stderr.close()
    return 0


def _complain(what: object, code: int) -> int:
    print(f"flowgraph: error: {what}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="flowgraph",
        description="Through which tokens, heads and layers did the information travel that made a language model say this?",
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
    add("--level", default="token", help="token: heads together; head: a node per head (default token)")
    add("--threshold", type=float, help="keep edges whose share is at least this")
    add("--mass", type=float, help="keep the strongest paths until they hold this part of the mass")
    add("--max-edges", type=int, help="keep at most this many edges along the strongest paths")
    add("--layers", help="window FIRST:STOP, counted from 0; STOP is left out")
    add("--chat", action="store_true", help="put the prompt into the model's chat template")
    add("--device", default="auto", help="cpu, cuda … (default auto)")
    add("--dtype", help="float32, float16, bfloat16 (default float32)")
    add("-o", "--output", metavar="FILE", help="write .html, .json or .graphml")


def _add_models(commands: Any) -> None:
    parser = _add_command(commands, "models", _models, help="list the models known by name, and what is cached")
    parser.add_argument("--remove", metavar="NAME", help="delete a cached model")


def _add_fetch(commands: Any) -> None:
    parser = _add_command(commands, "fetch", _fetch, help="download and convert a known model ahead of its first use")
    parser.add_argument("name", metavar="NAME", help="a name from 'flowgraph models'")


def _trace(options: argparse.Namespace, console: Console) -> None:
    output = _checked_output(options.output)
    window = _layers(options.layers)
    loaded = _loaded(options, console)
    with _stage(console, f"tracing {loaded.name}"):
        trace = _run_trace(loaded, options)
    with _stage(console, "weighing edges"):
        whole = _whole_graph(trace, options, window)
        graph = _chosen(whole, options)
    with _stage(console, f"reading {len(graph.nodes):,} nodes"):
        drawn = _read(trace, _page_graph(whole, graph, options) if output and output.suffix.lower() == ".html" else graph)
    if not options.quiet:
        _print_report(trace, whole, graph)
    if output is not None:
        drawn.save(output)
        if not options.quiet:
            print(f"wrote {output} ({output.stat().st_size / 1024:,.0f} KB)")


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


def _print_report(trace: Trace, whole: FlowGraph, graph: FlowGraph) -> None:
    from rich.console import Console

    out = Console(highlight=False)
    if trace.logits is not None:
        out.print(_prediction_table(trace))
    _print_paths(out, whole)
    out.print(graph.caption(), markup=False, soft_wrap=True)


def _prediction_table(trace: Trace) -> Any:
    from rich.table import Table
    from rich.text import Text

    from .views.text import visible

    assert trace.logits is not None
    logits = (trace.logits if trace.logits.ndim == 1 else trace.logits[trace.position]).double()
    probabilities = logits.softmax(-1)
    best = logits.topk(min(_PREDICTIONS, len(logits))).indices.tolist()
    marked = [i for i in (trace.target, trace.foil) if i is not None]
    table = Table(title=f"prediction at position {trace.position}", title_justify="left", box=None, pad_edge=False)
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
    with _progress(console, f"loading {options.model}") as progress:
        from .models import load_model

        _hush_transformers()
        return load_model(options.model, device=options.device, dtype=options.dtype, progress=progress)


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
    return path


def _layers(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    first, colon, stop = text.partition(":")
    if not (colon and first.isdigit() and stop.isdigit()):
        raise ArgumentError(f"--layers {text}: expected FIRST:STOP, for example 0:6 for layers 0 to 5")
    return int(first), int(stop)


def _models(options: argparse.Namespace, console: Console) -> None:
    from rich.console import Console
    from rich.table import Table

    from .models import KNOWN_MODELS, cache_folder, cached_models, remove

    if options.remove is not None:
        freed = remove(options.remove)
        if not options.quiet:
            print(f"removed {options.remove}: {freed / 2**20:,.0f} MB freed")
        return
    cached = cached_models()
    table = Table(box=None, pad_edge=False)
    for name in ("name", "model", "license", "download", "cached"):
        table.add_column(name, justify="right" if name in ("download", "cached") else "left")
    for model in KNOWN_MODELS.values():
        size = f"{cached[model.name] / 2**20:,.0f} MB" if model.name in cached else "no"
        download = f"{model.download_bytes / 2**20:,.0f} MB"
        table.add_row(model.name, model.description, model.license, download, size)
    out = Console(highlight=False)
    out.print(table)
    out.print(f"cache: {cache_folder()}", markup=False, soft_wrap=True)


def _fetch(options: argparse.Namespace, console: Console) -> None:
    with _progress(console, f"fetching {options.name}") as progress:
        from .models import fetch

        folder = fetch(options.name, progress=progress)
    if not options.quiet:
        print(f"{options.name} is ready in {folder}")


def _console(quiet: bool) -> Console:
    from rich.console import Console

    return Console(stderr=True, quiet=quiet, highlight=False)


@contextmanager
def _stage(console: Console, text: str) -> Iterator[None]:
    with console.status(text):
        yield


@contextmanager
def _progress(console: Console, text: str) -> Iterator[Callable[[str, float | None], None]]:
    """A bar that shows the stage, and how far it is where that is known."""
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(text, total=None)

        def report(stage: str, fraction: float | None) -> None:
            known = {"total": None} if fraction is None else {"total": 1.0, "completed": fraction}
            bar.update(task, description=stage, **known)

        yield report


if __name__ == "__main__":
    sys.exit(main())
