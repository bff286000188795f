"""``python -m tests.benchmarks [--json FILE] [NAME …]``: print the table of ratios."""

from __future__ import annotations

import os

if __name__ == "__main__":
    # Read once, when the libraries are loaded.
    os.environ |= dict.fromkeys(
        ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1"
    )

import argparse
import importlib.util
import json
import platform
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numba
import torch
import transformers

import flowgraph

from . import (
    app,
    circuits,
    contributions,
    flow,
    interventions,
    load,
    memory,
    picture,
    readings,
    rollout,
    routes,
    semantic,
    trace,
    truth,
)
from .pairs import Row, markdown
from .subject import DEFAULT, Setup

BENCHMARKS = {
    "trace": trace.rows,
    "memory": memory.rows,
    "readings": readings.rows,
    "load": load.rows,
    "contributions": contributions.rows,
    "flow": flow.rows,
    "rollout": rollout.rows,
    "routes": routes.rows,
    "semantic": semantic.rows,
    "interventions": interventions.rows,
    "circuits": circuits.rows,
    "truth": truth.rows,
    "app": app.rows,
    "picture": picture.rows,
}
NEEDS = {"flow": flow.NEEDS, "app": app.NEEDS, "picture": app.NEEDS}
"""What a benchmark needs that is not installed with flowgraph itself."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what was named, or everything, with one thread."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which: {', '.join(BENCHMARKS)}; default all")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows to this file")
    parser.add_argument("--model", default=DEFAULT, help=f"known name or folder of a decoder (default: {DEFAULT})")
    parser.add_argument("--pairs", type=int, default=15, help="how often each pair is timed (default: 15)")
    chosen = parser.parse_args(arguments)
    unknown = sorted(set(chosen.names) - set(BENCHMARKS))
    if unknown:
        parser.error(f"unknown benchmark {', '.join(unknown)}; known are {', '.join(BENCHMARKS)}")
    if chosen.pairs < 1:
        parser.error(f"--pairs {chosen.pairs} must be at least 1")
    names = chosen.names or list(BENCHMARKS)
    absent = [part for name in names for part in NEEDS.get(name, ()) if importlib.util.find_spec(part) is None]
    if absent:
        parser.error(f"{', '.join(absent)} must be installed to compare with: pip install -e '.[bench]'")
    # In this order: where both share one OpenMP, the compiler's first parallel loop sets the number of threads for torch too.
    numba.set_num_threads(1)
    torch.set_num_threads(1)
    setup = Setup(chosen.model, flowgraph.load_model(chosen.model), chosen.pairs)
    found: list[Row] = []
    for name in names:
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
