"""``python -m tests.benchmarks [--json FILE] [NAME …]``: print the table of ratios."""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
import transformers

import flowgraph

from . import load, memory, readings, trace
from .pairs import Row, markdown
from .subject import Setup

BENCHMARKS = {"trace": trace.rows, "memory": memory.rows, "readings": readings.rows, "load": load.rows}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what was named, or everything, with one thread."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which: {', '.join(BENCHMARKS)}; default all")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows to this file")
    parser.add_argument("--model", default="smollm2", help="known name or folder of a decoder (default: smollm2)")
    parser.add_argument("--pairs", type=int, default=15, help="how often each pair is timed (default: 15)")
    chosen = parser.parse_args(arguments)
    unknown = sorted(set(chosen.names) - set(BENCHMARKS))
    if unknown:
        parser.error(f"unknown benchmark {', '.join(unknown)}; known are {', '.join(BENCHMARKS)}")
    if chosen.pairs < 1:
        parser.error(f"--pairs {chosen.pairs} must be at least 1")
    torch.set_num_threads(1)
    setup = Setup(chosen.model, flowgraph.load_model(chosen.model), chosen.pairs)
    found: list[Row] = []
    for name in chosen.names or BENCHMARKS:
        fresh = list(BENCHMARKS[name](setup))
        print(f"\n{name}\n\n{markdown(fresh)}", flush=True)
        found += fresh
    if chosen.json is not None:
        about = {"model": chosen.model, "torch": torch.__version__, "transformers": transformers.__version__}
        about |= {"processor": platform.processor() or platform.machine(), "threads": "1"}
        text = json.dumps({"about": about, "rows": [asdict(row) for row in found]}, indent=2, ensure_ascii=False)
        chosen.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
