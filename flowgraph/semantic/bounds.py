"""Limits of a semantic graph: layers and positions within the trace, and a size that a person can look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..errors import ArgumentError, GraphTooLargeError
from ..values.trace import Trace

MAX_NODES = 5_000
"""Graphs above this are refused unless ``max_nodes=`` allows them."""


def aimed(trace: Trace, target: int, foil: int | None) -> Trace:
    """The trace with another target and foil."""
    word = trace.model.answers.string
    foil_token = None if foil is None else word(foil)
    return replace(trace, target=target, target_token=word(target), foil=foil, foil_token=foil_token)


def layers_of(trace: Trace, layers: int | tuple[int, int] | None) -> tuple[int, int]:
    """First and one-past-last layer; for None all layers that the trace keeps."""
    first, stop = trace.layers
    if layers is None:
        return first, stop
    chosen = (layers, layers + 1) if isinstance(layers, int) else layers
    if not first <= chosen[0] < chosen[1] <= stop:
        raise ArgumentError(
            f"layers={layers} is not within the trace's layers {first}…{stop - 1}; give one, or (first, one past last)"
        )
    return chosen


def positions_of(trace: Trace, positions: int | Sequence[int] | None, name: str = "positions") -> tuple[int, ...]:
    """Positions in order, each once; the trace's own for None."""
    count = len(trace.tokens)
    wanted = [trace.position] if positions is None else [positions] if isinstance(positions, int) else list(positions)
    if not wanted:
        raise ArgumentError(f"{name} is empty; give one or several query positions")
    outside = [position for position in wanted if not -count <= position < count]
    if outside:
        raise ArgumentError(f"{name}={outside[0]} is outside the prompt of {count} tokens (0…{count - 1}, or negative)")
    return tuple(sorted({position % count for position in wanted}))


def refuse_above(max_nodes: int, count: int, fewer: str) -> None:
    """Refuse a graph that is too large; ``fewer`` names the arguments that make it smaller."""
    if count > max_nodes:
        raise GraphTooLargeError(
            f"this graph would have about {count:,} nodes, more than max_nodes={max_nodes:,}; take fewer {fewer}, or raise "
            "max_nodes="
        )
