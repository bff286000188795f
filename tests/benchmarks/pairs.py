"""Two pieces of work timed in turn, and the table of their ratios."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import median

Work = Callable[[], object]


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes
    ----------
    work, against
        What was measured, and what it is divided by.
    ratio, lowest, highest
        Median, smallest and largest ratio of the pairs.
    cpu_ratio
        Median ratio of processor times, which other work on the machine disturbs less; None for memory.
    pairs
        How many pairs were measured.
    quantity, base
        Medians of both sides in ``unit``.
    unit
        ``"s"`` or ``"MB"``.
    """

    work: str
    against: str
    ratio: float
    lowest: float
    highest: float
    cpu_ratio: float | None
    pairs: int
    quantity: float
    base: float
    unit: str


def timed(work: str, run: Work, against: str, base: Work, *, pairs: int) -> Row:
    """Run both sides in turn, ``pairs`` times, each pair in the other order than the one before."""
    run(), base()
    first: list[tuple[float, float]] = []
    second: list[tuple[float, float]] = []
    gc.collect()
    gc.disable()
    try:
        for turn in range(pairs):
            sides = [(run, first), (base, second)]
            for side, times in sides if turn % 2 else reversed(sides):
                times.append(_clock(side))
    finally:
        gc.enable()
    ratios = [a[0] / b[0] for a, b in zip(first, second, strict=True)]
    cpu = median(a[1] / b[1] for a, b in zip(first, second, strict=True))
    middle = median(a[0] for a in first), median(b[0] for b in second)
    return Row(work, against, median(ratios), min(ratios), max(ratios), cpu, pairs, *middle, "s")


def _clock(work: Work) -> tuple[float, float]:
    """Seconds by the wall clock and of the processor; what the work returns is dropped after the clock stops."""
    wall, cpu = time.perf_counter(), time.process_time()
    made = work()
    spent = time.perf_counter() - wall, time.process_time() - cpu
    del made
    return spent


def markdown(rows: Iterable[Row]) -> str:
    """The table, as it goes into a text."""
    lines = [
        "| work | against | median ratio | min–max | processor time | absolute |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        cpu = "" if row.cpu_ratio is None else f"{row.cpu_ratio:.2f}×"
        absolute = f"{row.quantity:.3g} / {row.base:.3g} {row.unit}"
        spread = f"{row.lowest:.2f}–{row.highest:.2f}"
        lines.append(f"| {row.work} | {row.against} | {row.ratio:.2f}× | {spread} | {cpu} | {absolute} |")
    return "\n".join(lines)
