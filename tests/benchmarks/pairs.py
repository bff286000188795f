"""Two pieces of work timed in turn, and the table of their ratios."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable, Sequence
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
    note
        What else a reader has to know, such as how many of the pairs of tokens a peer was timed on.
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
    note: str = ""


@dataclass(frozen=True)
class Base:
    """What a piece of work is compared with.

    Attributes
    ----------
    name
        What it is.
    run
        The work, or a part of it.
    times
        How many such parts make the whole.
    note
        Goes into the row.
    """

    name: str
    run: Work
    times: float = 1.0
    note: str = ""


def timed(work: str, run: Work, against: str, base: Work, *, pairs: int) -> Row:
    """Run both sides in turn, ``pairs`` times, each pair in the other order than the one before."""
    return compared(work, run, [Base(against, base)], pairs=pairs)[0]


def compared(work: str, run: Work, bases: Sequence[Base], *, pairs: int) -> list[Row]:
    """Run the work and all that it is compared with in turn, ``pairs`` times, each turn in the other order."""
    sides = [run, *(base.run for base in bases)]
    clocks: list[list[tuple[float, float]]] = [[] for _ in sides]
    for side in sides:
        side()
    gc.collect()
    gc.disable()
    try:
        for turn in range(pairs):
            order = range(len(sides))
            for n in order if turn % 2 else reversed(order):
                clocks[n].append(_clock(sides[n]))
    finally:
        gc.enable()
    return [_row(work, base, clocks[0], clock) for base, clock in zip(bases, clocks[1:], strict=True)]


def _row(work: str, base: Base, first: list[tuple[float, float]], second: list[tuple[float, float]]) -> Row:
    wall, cpu = ([a[kind] / (b[kind] * base.times) for a, b in zip(first, second, strict=True)] for kind in (0, 1))
    middle = median(a[0] for a in first), median(b[0] for b in second) * base.times
    spread = median(wall), min(wall), max(wall)
    return Row(work, base.name, *spread, median(cpu), len(wall), *middle, "s", base.note)


def _clock(work: Work) -> tuple[float, float]:
    """Seconds by the wall clock and of the processor; what the work returns is dropped after the clock stops."""
    wall, cpu = time.perf_counter(), time.process_time()
    made = work()
    spent = time.perf_counter() - wall, time.process_time() - cpu
    del made
    return spent


def markdown(rows: Iterable[Row]) -> str:
    """The table, as it goes into a text; notes stand in a column of their own where there are any."""
    rows = list(rows)
    heads = ["work", "against", "median ratio", "min–max", "processor time", "absolute"]
    heads += ["note"] if any(row.note for row in rows) else []
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in rows:
        cpu = "" if row.cpu_ratio is None else _ratio(row.cpu_ratio)
        absolute = f"{row.quantity:.3g} / {row.base:.3g} {row.unit}"
        cells = [row.work, row.against, _ratio(row.ratio), f"{_ratio(row.lowest)}–{_ratio(row.highest)}", cpu, absolute]
        lines.append(f"| {' | '.join([*cells, row.note][: len(heads)])} |")
    return "\n".join(lines)


def _ratio(ratio: float) -> str:
    """Small ratios as a share of one, since nobody reads 0.0027; differences of memory may come out as nothing, or less."""
    return f"1/{1 / ratio:,.0f}" if 0 < ratio < 0.1 else f"{ratio:.2f}×"
