"""``flowgraph circuit``: find the edges by which a model does a task."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ArgumentError
from .arguments import DEFAULT_MODEL, add_command, add_loading, add_output, checked_output, count, number
from .running import by_command, loaded_model, write_graph, wrote

if TYPE_CHECKING:
    from rich.console import Console

    from ..models import LoadedModel
    from ..tasks import TaskData
    from ..values.flow_graph import FlowGraph

_METHODS = ("backward", "eap-ig-exact", "eap", "eap-qk", "eap-ig", "gradient", "acdc")
_EXAMPLES = """\
examples:
  flowgraph circuit --task ioi -o circuit.html
  flowgraph circuit --task induction --method eap-ig --top-k 100 -o circuit.json
  flowgraph circuit --task pairs.csv --budget 2000 --threshold 0.02 -o circuit.json

A CSV file has the columns clean, corrupted, target, foil; clean and corrupted
prompts of a row have as many tokens each. --foil takes the place of every foil.
"""
_ROWS = 20


def add_to(commands: Any) -> None:
    """Add the command."""
    parser = add_command(
        commands, "circuit", _circuit, help="find the edges by which a model does a task", epilog=_EXAMPLES
    )
    add = parser.add_argument
    add("--task", required=True, metavar="NAME|FILE.csv",
        help="ioi, greater-than, induction, agreement, colored-objects, capitals, or a CSV file of pairs")  # fmt: skip
    add("--model", default=DEFAULT_MODEL, help=f"known name, folder, or hub name (default {DEFAULT_MODEL})")
    add("--method", default="backward", choices=_METHODS, help="how edges are found (default backward)")
    add("--corruption", metavar="NAME",
        help="what is changed in the corrupted prompts of a named task: flip (default) or abc of ioi")  # fmt: skip
    add("--points", default="right", choices=("left", "right", "midpoint"),
        help="where the runs of eap-ig lie between the prompts (default right; the benchmark has left)")  # fmt: skip
    add(
        "--bootstrap",
        type=count,
        help="draws of the prompts that decide whether the sign of a score is sure (default: none)",
    )
    add("--count", type=count, default=8, help="how many examples of a named task (default 8)")
    add("--seed", type=int, default=0, help="which examples of a named task (default 0)")
    add("--foil", help="wrong answer to compare with, for every prompt")
    add("--budget", type=count, help="most forwards of one prompt (default: 500 for each prompt)")
    add("--max-bytes", type=count, metavar="N", help="memory to work in, besides the model (default: 4 GiB)")
    add("--threshold", type=_threshold, default=0.01, help="smallest effect, as a part of the gap (default 0.01)")
    add("--top-k", type=count, help="keep at most this many edges")
    add("--how", default="resample", choices=("resample", "mean", "zero"),
        help="what a cut edge brings: what its source wrote for the corrupted prompt (default), on average over these, or nothing")  # fmt: skip
    add_loading(parser)
    add_output(parser)


def _threshold(text: str) -> float:
    value = number(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text} must be at least 0 and below 1: it is a part of the gap")
    return value


def _circuit(options: argparse.Namespace, console: Console) -> None:
    from ..circuits.discovery import discover
    from ..circuits.memory import MAX_BYTES
    from ..render.words.terminal import progress, stage

    _check_task(options.task, options.corruption)
    output = None if options.output is None else checked_output(options.output, force=options.force)
    loaded = loaded_model(options, console)
    data = _examples(loaded, options)
    with progress(console, f"searching {loaded.name}") as tell:
        graph = discover(
            loaded,
            data=data,
            method=options.method,
            how=options.how,
            budget=options.budget,
            threshold=options.threshold,
            top_k=options.top_k,
            points=options.points,
            bootstrap=options.bootstrap or 0,
            max_bytes=options.max_bytes or MAX_BYTES,
            progress=tell,
        )
    written = None
    if output is not None:
        with stage(console, f"writing {output.path}"):
            written = write_graph(by_command(graph, options), output)
    if not options.quiet:
        _print_report(graph, data, written)


def _check_task(task: str, corruption: str | None) -> None:
    """Refuse an unknown task or corruption before a model is loaded for it."""
    from ..tasks import TASKS

    if task not in TASKS and not Path(task).is_file():
        raise ArgumentError(f"--task {task} is neither a file nor one of {', '.join(TASKS)}")
    known = TASKS[task].corruptions if task in TASKS else {}
    if corruption is not None and corruption not in known:
        expected = f"one of {', '.join(known)}" if known else "none: the file brings its own corrupted prompts"
        raise ArgumentError(f"--corruption {corruption} is none of --task {task}; expected {expected}")


def _examples(loaded: LoadedModel, options: argparse.Namespace) -> TaskData:
    from dataclasses import replace

    from ..tasks import TASKS, TaskData, task

    if options.task in TASKS:
        data = task(loaded, options.task, corruption=options.corruption, count=options.count, seed=options.seed)
    else:
        data = TaskData.load(options.task)
    if options.foil is None:
        return data
    return replace(data, examples=tuple(replace(example, foil=options.foil) for example in data.examples))


def _print_report(graph: FlowGraph, data: TaskData, written: Path | None) -> None:
    from ..render.words.terminal import print_line, report

    options = graph.info.options
    with report() as out:
        print_line(out, f"{data.name}: {data.description}; corruption {data.corruption}; {len(data)} prompts")
        out.print(_table(graph))
        unit = graph.info.unit
        print_line(out, f"gap, clean less corrupted {options['metric']}: {options['gap']} {unit}")
        spent = f"{options['forwards']:,} forwards, {options['backwards']:,} backwards, {options['layer_runs']:,} runs of one layer"
        print_line(out, spent + (f"; budget {options['budget']:,} forwards" if "budget" in options else ""))
        if options.get("untested"):
            print_line(out, f"{options['untested']:,} edges that may be large enough were not tested; raise --budget")
        print_line(out, graph.caption())
        if written is not None:
            print_line(out, wrote(written))


def _table(graph: FlowGraph) -> Any:
    from rich.table import Table

    from ..interventions.plan import circuit_edges

    title = f"strongest edges of {len(graph):,}" if len(graph) > _ROWS else "edges"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("effect", justify="right")
    table.add_column(f"edge (effect in {graph.info.unit}: + supports the answer, − works against it)")
    for edge, weight in list(zip(circuit_edges(graph) or (), graph.weight.tolist(), strict=True))[:_ROWS]:
        table.add_row(f"{weight:+.3f}", str(edge))
    return table
