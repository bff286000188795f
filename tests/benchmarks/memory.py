"""How much more memory a trace and a reading take at their peak, each measured in a process of its own.

``python -m tests.benchmarks.memory MODEL CASE N [MODEL CASE N …]`` prints, for each case, the growth of the resident memory at
its peak, and the bytes kept. Every case is measured in a copy of a process that has only imported the libraries.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch

import flowgraph

from .pairs import Row
from .subject import SHAPES, Setup, bare_forward, bare_product, load, prompt, states

ROOT = Path(__file__).parents[2]
STATUS = Path("/proc/self/status")
MB = 2**20
COUNT = 2000


def rows(setup: Setup) -> Iterator[Row]:
    """Peak of a trace less the peak of a bare pass, against the bytes kept; peak of a reading against the product's."""
    if not STATUS.exists():
        raise SystemExit(
            "the benchmark 'memory' reads /proc/self/status, which only Linux has; name the others instead"
        )
    n_tokens = setup.lengths((8, 16, 64, 128, 256))[-1]
    layers, heads, width = SHAPES[setup.shape]
    shaped_tokens = 32 if setup.small else 512
    repeats = max(1, setup.pairs // 5)
    found = measured(
        [
            *[(setup.name, case, n_tokens) for case in ("trace", "forward") for _ in range(repeats)],
            *[(setup.name, case, COUNT) for case in ("read", "product") for _ in range(repeats)],
            *[(setup.shape, "proximity", shaped_tokens)] * repeats,
        ]
    )
    traced, bare, read, product, peaks = (found[n * repeats : (n + 1) * repeats] for n in range(5))
    taken = [(one["growth"] - other["growth"]) / MB for one, other in zip(traced, bare, strict=True)]
    yield _row(
        f"peak of trace − forward, T = {n_tokens}, all sites", taken, "bytes kept", [one["kept"] / MB for one in traced]
    )
    yield _row(f"peak of read, N = {COUNT:,}", _grown(read), "peak of matrix product", _grown(product))
    numbers = layers * heads * shaped_tokens**2 * 4 / MB
    vectors = layers * heads * shaped_tokens * width * 4 / MB
    every_part = heads * shaped_tokens**2 * width * 4 / MB
    yield replace(
        _row(
            f"peak of proximity, {setup.shape} T = {shaped_tokens}",
            _grown(peaks),
            "L·4·(T·H·d + T²·H)",
            [numbers + vectors] * repeats,
        ),
        note=f"{numbers:,.0f} MB of it are the result; all parts [T, S, H, d] of one layer would be {every_part:,.0f} MB",
    )


def _grown(found: list[dict[str, int]]) -> list[float]:
    return [one["growth"] / MB for one in found]


def measured(cases: list[tuple[str, str, int]]) -> list[dict[str, int]]:
    """Growth at the peak and bytes kept of each model, case and size."""
    command = [sys.executable, "-m", "tests.benchmarks.memory"]
    command += [str(part) for case in cases for part in case]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def _row(work: str, taken: list[float], against: str, base: list[float]) -> Row:
    ratios = [a / b for a, b in zip(taken, base, strict=True)]
    middle = median(taken), median(base)
    return Row(work, against, median(ratios), min(ratios), max(ratios), None, len(ratios), *middle, "MB")


def measure(model: str, case: str, size: int) -> dict[str, int]:
    """Run one case in this process, after a small one of its kind has done what is done once only."""
    torch.set_num_threads(1)
    loaded = load(model)
    trace = flowgraph.trace(loaded, prompt(loaded, 8))
    # The pass is over before the contributions begin.
    traced = {n: flowgraph.trace(loaded, prompt(loaded, n)) for n in {8, size} if case == "proximity"}
    cases = {
        "forward": lambda n: bare_forward(loaded, prompt(loaded, n), last_only=True),
        "trace": lambda n: flowgraph.trace(loaded, prompt(loaded, n)),
        "read": lambda n: flowgraph.read(trace, states(loaded, n), k=10),
        "product": lambda n: bare_product(loaded, states(loaded, n)),
        "proximity": lambda n: flowgraph.edge_weights(traced[n], method="proximity"),
    }
    cases[case](8)
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = _resident("VmRSS")
    made = cases[case](size)
    return {"growth": _resident("VmHWM") - before, "kept": getattr(made, "nbytes", 0)}


def _resident(name: str) -> int:
    """Bytes resident now (VmRSS) or at the peak (VmHWM)."""
    found = re.search(rf"^{name}:\s+(\d+) kB", STATUS.read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


def main(arguments: Sequence[str]) -> None:
    """Measure one case after the other."""
    cases = [arguments[n : n + 3] for n in range(0, len(arguments), 3)]
    for model, case, size in cases:
        copy = os.fork()
        if copy == 0:
            print(json.dumps(measure(model, case, int(size))), flush=True)
            os._exit(0)
        _, status = os.waitpid(copy, 0)
        if status:
            raise SystemExit(f"{model} {case} {size} ended with status {status}")


if __name__ == "__main__":
    main(sys.argv[1:])
