"""How good scores of edges are in the benchmark's terms: points of EAP-IG, orders and choices of edges, over tasks and corruptions.

``python -m tests.studies.circuits [--search N] [--prompts N] [--tasks ioi:flip …] [--model NAME] [--out FILE]`` scores with some prompts
and measures on others, one thread, and prints f at each size, CPR and CMD with bands over prompts.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import flowgraph as fg
from flowgraph.circuits.benchmark import BENCHMARK_SIZES

TASKS = ("ioi:flip", "ioi:abc", "greater-than:01", "agreement:number", "capitals:country")
SCORES = {
    "eap": {"method": "eap"},
    "eap-ig left": {"method": "eap-ig", "points": "left"},
    "eap-ig right": {"method": "eap-ig", "points": "right"},
    "eap-ig midpoint": {"method": "eap-ig", "points": "midpoint"},
}
CHOICES = (("absolute", "prune"), ("signed", "prune"))
MORE = (("absolute", "greedy"), ("absolute", "program"), ("ratio", "prune"))
"""Other choices, of the scores with ``points="left"``."""
SIZES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05)
"""Sizes at which choices differ; the benchmark's areas need all of its sizes."""


def measured(
    model: fg.LoadedModel, data: fg.TaskData, graph: fg.FlowGraph, order: str, connect: str, sizes: Any
) -> dict[str, Any]:
    """f at each size, and the areas."""
    begin = time.process_time()
    found = fg.benchmark_faithfulness(model, data, graph, order=order, connect=connect, sizes=sizes)
    bands = [] if found.bands is None else found.bands.tolist()
    return {
        "order": order, "connect": found.connect, "edges": found.edges.tolist(), "f": found.values.tolist(), "bands": bands,
        "cpr": found.cpr, "cpr_band": found.cpr_band, "cmd": found.cmd, "cmd_band": found.cmd_band,
        "seconds": round(time.process_time() - begin, 1),
    }  # fmt: skip


def of_task(
    model: fg.LoadedModel, name: str, search: int, prompts: int, sizes: Any, *, scored: Sequence[str], more: bool
) -> list[dict[str, Any]]:
    """Rows of one task under one corruption."""
    task, corruption = name.split(":")
    drawn = fg.task(model, task, corruption=corruption, count=search + prompts, seed=0)
    seen, held_out = (replace(drawn, examples=part) for part in (drawn.examples[:search], drawn.examples[search:]))
    rows = []
    for scores in scored:
        begin = time.process_time()
        graph = fg.discover(model, data=seen, threshold=0.0, **SCORES[scores])
        seconds = round(time.process_time() - begin, 1)
        choices = CHOICES + MORE if more and scores == "eap-ig left" else CHOICES
        for order, connect in choices:
            row = {
                "task": task,
                "corruption": corruption,
                "scores": scores,
                "search": len(seen),
                "prompts": len(held_out),
            }
            row |= {"search_seconds": seconds} | measured(model, held_out, graph, order, connect, sizes)
            rows.append(row)
            print(json.dumps(row), flush=True)
    return rows


def table(rows: list[dict[str, Any]], sizes: Any) -> str:
    """Markdown: a line for each row."""
    heads = ["task", "corruption", "scores", "order", *(f"{size:.1%}" for size in sizes), "CPR", "CMD"]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for row in rows:
        cells = [row["task"], row["corruption"], row["scores"], f"{row['order']}, {row['connect']}"]
        cells += [f"{f:.2f}" for f in row["f"]]
        for name in ("cpr", "cmd"):
            band = row[f"{name}_band"]
            cells.append(f"{row[name]:.2f}" + (f" [{band[0]:.2f}, {band[1]:.2f}]" if band else ""))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--search", type=int, default=8)
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS))
    parser.add_argument("--scores", nargs="+", default=list(SCORES), choices=list(SCORES))
    parser.add_argument("--whole", action="store_true", help="all sizes of the benchmark, for its areas")
    parser.add_argument("--more", action="store_true", help="also greedy, the integer program and a ratio")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--out", type=Path, help="a file for one line of JSON for each row")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, rows = fg.load_model(options.model), []
    sizes = BENCHMARK_SIZES if options.whole else SIZES
    for name in options.tasks:
        rows += of_task(model, name, options.search, options.prompts, sizes, scored=options.scores, more=options.more)
        if options.out is not None:
            options.out.write_text("\n".join(map(json.dumps, rows)))
    print(table(rows, sizes))


if __name__ == "__main__":
    main()
