"""How much more memory a trace and a reading take at their peak, each measured in a process of its own.

``python -m tests.benchmarks.memory MODEL CASE N`` prints the growth of the resident memory at its peak, and the bytes kept.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median

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
    repeats = max(1, setup.pairs // 5)
    taken, kept = [], 0.0
    for _ in range(repeats):
        traced, bare = measured(setup.name, "trace", n_tokens), measured(setup.name, "forward", n_tokens)
        taken.append((traced["growth"] - bare["growth"]) / MB)
        kept = traced["kept"] / MB
    yield _row(f"peak of trace − forward, T = {n_tokens}, all sites", taken, "bytes kept", [kept] * repeats)
    read = [measured(setup.name, "read", COUNT)["growth"] / MB for _ in range(repeats)]
    product = [measured(setup.name, "product", COUNT)["growth"] / MB for _ in range(repeats)]
    yield _row(f"peak of read, N = {COUNT:,}", read, "peak of matrix product", product)
    yield _of_proximity(setup, repeats)


def _of_proximity(setup: Setup, repeats: int) -> Row:
    """Peak of the contributions of all layers, against one array of their vectors and one of their numbers."""
    layers, heads, width = SHAPES[setup.shape]
    n_tokens = 32 if setup.small else 512
    peaks = [measured(setup.shape, "proximity", n_tokens)["growth"] / MB for _ in range(repeats)]
    numbers = layers * heads * n_tokens**2 * 4 / MB
    vectors = layers * heads * n_tokens * width * 4 / MB
    every_part = heads * n_tokens**2 * width * 4 / MB
    return replace(
        _row(
            f"peak of proximity, {setup.shape} T = {n_tokens}",
            peaks,
            "L·4·(T·H·d + T²·H)",
            [numbers + vectors] * repeats,
        ),
        note=f"{numbers:,.0f} MB of it are the result; all parts [T, S, H, d] of one layer would be {every_part:,.0f} MB",
    )


def measured(model: str, case: str, size: int) -> dict[str, int]:
    """Growth at the peak and bytes kept of one case, from a fresh process."""
    command = [sys.executable, "-m", "tests.benchmarks.memory", model, case, str(size)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
    found: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return found


def _row(work: str, taken: list[float], against: str, base: list[float]) -> Row:
    ratios = [a / b for a, b in zip(taken, base, strict=True)]
    middle = median(taken), median(base)
    return Row(work, against, median(ratios), min(ratios), max(ratios), None, len(ratios), *middle, "MB")


def measure(model: str, case: str, size: int) -> dict[str, int]:
    """Run one case in this process, after a small one of its kind has done what is done once only."""
    import torch

    import flowgraph

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


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], sys.argv[2], int(sys.argv[3]))))
