"""``flowgraph explain``: the few parts of a run that keep its answer, tested beside counterfactual prompts."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .arguments import add_command, add_model, add_output, checked_output, count
from .running import by_command, check_prompt, loaded_model, prompt_of, run_trace, write_graph, wrote

if TYPE_CHECKING:
    from rich.console import Console

    from ..values.flow_graph import FlowGraph

_SHOWN = 12
_PARTS = ("attention", "mlp", "mixer")

_EXAMPLES = """\
examples:
  flowgraph explain "The capital of Japan is the city of" -o japan.html
  flowgraph explain "The capital of Japan is the city of" -o japan.svg \\
      --against "The capital of Peru is the city of" \\
      --against "The capital of France is the city of"
  flowgraph explain "The keys to the cabinet" --most 30 -o keys.json

Counterfactual prompts have as many tokens as PROMPT, one word exchanged and
another answer. Without --against they are proposed. Some choose the parts, and
the others test them.
"""


def add_to(commands: Any) -> None:
    """Add the command."""
    parser = add_command(
        commands, "explain", _explain, help="find the few parts of a run that keep its answer, and test them",
        epilog=_EXAMPLES,
    )  # fmt: skip
    add_model(parser)
    add = parser.add_argument
    add("--position", type=int, help="query position to explain; -1 is the last (default: last, or the first mask)")
    add("--against", metavar="TEXT", action="append",
        help="a counterfactual prompt; may be given several times (default: proposed)")  # fmt: skip
    add("--most", type=count, default=50, help="most parts: attention terms and MLPs (default 50)")
    add("--smallest", action="store_true",
        help="take out what can be spared while 80 %% of the answer are kept")  # fmt: skip
    add("--seed", type=int, default=0, help="of the proposals and of the pictures by chance (default 0)")
    add_output(parser)


def _explain(options: argparse.Namespace, console: Console) -> None:
    from ..circuits.explain_answer import explain_answer
    from ..render.words.terminal import progress, stage
    from ..values.inputs import inputs

    check_prompt(options)
    output = None if options.output is None else checked_output(options.output, force=options.force)
    prompt_of(options)  # before a model is loaded for it
    loaded = loaded_model(options, console)
    with stage(console, f"tracing {loaded.name}"):
        trace = run_trace(loaded, options, options.position)
    # They stand in the model's chat template where the prompt does.
    against = options.against and [inputs(text=text, chat=options.chat) for text in options.against]
    with progress(console, "explaining the answer") as tell:
        graph = explain_answer(
            loaded, trace, corrupted=against, most=options.most, smallest=options.smallest,
            seed=options.seed, progress=tell,
        )  # fmt: skip
    written = None
    if output is not None:
        with stage(console, f"writing {output.path}"):
            written = write_graph(by_command(graph, options), output)
    if not options.quiet:
        _print_report(graph, written)


def _print_report(graph: FlowGraph, written: Path | None) -> None:
    from ..render.words.terminal import print_line, report

    with report() as out:
        out.print(_table(graph))
        print_line(out, graph.caption())
        if written is not None:
            print_line(out, wrote(written))


def _table(graph: FlowGraph) -> Any:
    """The parts of the largest effects."""
    from rich.table import Table
    from rich.text import Text

    from ..charts.text import visible
    from ..values.flow_graph import EDGE_KINDS

    def place(position: int) -> str:
        return f"“{visible(graph.info.tokens[position])}” ({position})"

    kinds = [EDGE_KINDS[kind] for kind in graph.kind]
    parts = sorted((e for e, kind in enumerate(kinds) if kind in _PARTS), key=lambda e: -abs(float(graph.weight[e])))
    table = Table(title=f"largest effects of {len(parts)} parts", title_justify="left", box=None, pad_edge=False)
    table.add_column("logits", justify="right")
    table.add_column("part (+ supports the answer, − works against it)", overflow="fold")
    for e in parts[:_SHOWN]:
        at = place(int(graph.query_pos[e]))
        said = f"{kinds[e].upper() if kinds[e] == 'mlp' else kinds[e]} {graph.layer[e]} at {at}"
        if kinds[e] == "attention":
            said = f"head {graph.layer[e]}.{graph.head[e]} at {at} reads {place(int(graph.key_pos[e]))}"
        table.add_row(f"{graph.weight[e]:+.3f}", Text(said))
    return table
