"""Selection of VISIT: the shown parts of each layer, and the defaults of its two versions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ...errors import ArgumentError
from ...values.trace import Trace

Version = Literal[1, 2]


@dataclass(frozen=True)
class Selection:
    """The shown parts of each layer.

    Attributes
    ----------
    version
        Published version of VISIT.
    heads
        The number of heads, those with the largest z first; or the heads themselves.
    sources
        Sources of each head, by attention.
    top, bottom
        Rows of W_O, and neurons of the MLP, with the largest and the smallest signed activation · length.
    """

    version: Version
    heads: int | tuple[int, ...]
    sources: int
    top: int
    bottom: int

    @property
    def heads_text(self) -> int | str:
        """The heads for a caption: how many, or which."""
        return self.heads if isinstance(self.heads, int) else " ".join(map(str, self.heads))


def selected(
    trace: Trace,
    version: int,
    *,
    heads: int | Sequence[int] | None,
    sources: int | None,
    top: int | None,
    bottom: int | None,
) -> Selection:
    """The selection, with the defaults of the version."""
    if version not in (1, 2):
        raise ArgumentError(f"version={version!r} is not a version of VISIT; expected 1 or 2")
    anatomy = trace.model.anatomy
    rotary = anatomy.stack.attention.rotary != "none"
    # Defaults of the published versions; the first has its own for GPT-J.
    many, few = (18, 7) if version == 2 else (10, 5) if trace.family == "gptj" else (20, 10)
    most_heads = trace.n_heads if version == 1 else min(10, trace.n_heads)
    selection = Selection(
        version=version,  # type: ignore[arg-type]
        heads=most_heads if heads is None else heads if isinstance(heads, int) else tuple(sorted(set(heads))),
        sources=(1 if rotary and version == 2 else 2) if sources is None else sources,
        top=many if top is None else top,
        bottom=few if bottom is None else bottom,
    )
    _check_selection(trace, selection)
    return selection


def _check_selection(trace: Trace, selection: Selection) -> None:
    anatomy, heads = trace.model.anatomy, selection.heads
    if isinstance(heads, int) and not 1 <= heads <= trace.n_heads:
        raise ArgumentError(f"heads={heads} must be between 1 and {trace.n_heads}, or a list of heads")
    if isinstance(heads, tuple) and not (heads and heads[0] >= 0 and heads[-1] < trace.n_heads):
        raise ArgumentError(f"heads={list(heads)} must name heads of 0…{trace.n_heads - 1}")
    for name, value, least in (
        ("sources_per_head", selection.sources, 1),
        ("top_neurons", selection.top, 0),
        ("bottom_neurons", selection.bottom, 0),
    ):
        if value < least:
            raise ArgumentError(f"{name}={value} must be at least {least}")
    there = min(anatomy.n_heads * anatomy.d_value, anatomy.blocks[0].n_neurons)
    if selection.top + selection.bottom > there:
        raise ArgumentError(
            f"top_neurons={selection.top} and bottom_neurons={selection.bottom} are more than the {there} there are; take fewer"
        )
