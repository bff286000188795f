"""Memory of the app over many prompts: ``python -m tests.benchmarks.app_memory [--model NAME] [--prompts N] …``.

Prints the resident memory of worker and server as prompts come, each asked as a page asks, and whether it has stopped to grow:
the largest of the last quarter against the largest of the quarter before. Only Linux says how much is resident.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flowgraph_webapp.panels.bars import BarsQuestion
from flowgraph_webapp.panels.flow import GraphQuestion, SketchQuestion
from flowgraph_webapp.panels.heads import HeadsQuestion
from flowgraph_webapp.panels.lens import LensQuestion
from flowgraph_webapp.recipe import Recipe
from flowgraph_webapp.server.run import RunQuestion
from flowgraph_webapp.server.service import Service

ASKED = (RunQuestion.of, SketchQuestion.of, GraphQuestion.of, LensQuestion.of, HeadsQuestion.of, BarsQuestion.of)
MIB = 2**20


def resident(pid: int | str) -> float:
    """MiB of a process that are in memory."""
    found = re.search(r"^VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) / 1024


def grown(service: Service, model: str, prompts: int, words: int) -> list[tuple[float, float]]:
    """Resident MiB of worker and server after each prompt, all different."""
    found = []
    for n in range(prompts):
        recipe = Recipe(model=model, text=f"{n} " + " ".join(f"word {n * k % 97}" for k in range(1, words // 2 + 1)))
        for question in ASKED:
            asked: Any = question(recipe)
            service.ask(asked)
        assert service.worker_pid is not None
        found.append((resident(service.worker_pid), resident("self")))
    return found


def plateau(sizes: Sequence[float]) -> float:
    """Largest of the last quarter as a part of the largest of the quarter before; 1 where nothing grows any more."""
    quarter = len(sizes) // 4
    return max(sizes[-quarter:]) / max(sizes[-2 * quarter : -quarter])


def main(arguments: Sequence[str] | None = None) -> None:
    """Ask, and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.app_memory", description=__doc__)
    parser.add_argument("--model", default="smollm2", help="known name or folder (default: smollm2)")
    parser.add_argument("--prompts", type=int, default=500, help="how many (default: 500)")
    parser.add_argument("--words", type=int, default=12, help="words of each (default: 12)")
    parser.add_argument("--keep-traces", type=int, default=1024, metavar="MIB", help="as for flowgraph app")
    parser.add_argument("--keep-answers", type=int, default=256, metavar="MIB", help="as for flowgraph app")
    chosen = parser.parse_args(arguments)
    service = Service(
        (chosen.model,), examples=False, worker_bytes=chosen.keep_traces * MIB, cache_bytes=chosen.keep_answers * MIB
    )
    try:
        sizes = grown(service, chosen.model, chosen.prompts, chosen.words)
    finally:
        service.close()
    print("prompts | worker MiB | server MiB")
    step = max(1, chosen.prompts // 10)
    for n in range(step - 1, len(sizes), step):
        print(f"{n + 1:7,} | {sizes[n][0]:10,.0f} | {sizes[n][1]:10,.0f}")
    for name, column in zip(("worker", "server"), zip(*sizes, strict=True), strict=True):
        print(f"{name}: last quarter {plateau(column):.3f} of the quarter before")


if __name__ == "__main__":
    main()
