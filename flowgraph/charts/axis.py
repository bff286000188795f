"""What charts share that measure along an axis: the axis itself, and the roles that tell series apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Role = Literal["main", "target", "foil", "attention", "cross", "mlp", "rest", "muted", "raises", "lowers"]
"""What a series or bar is; each look gives it a colour, a mark and a line.

``main`` is what a chart is about, ``rest`` what it is compared with, ``muted`` the least of all; ``raises`` and ``lowers`` are the two
sides of a sign.
"""


@dataclass(frozen=True)
class Axis:
    """An axis of numbers.

    Attributes
    ----------
    title
        What is measured, with its unit.
    scale
        ``"linear"``; ``"log"``, for values above 0; ``"rank"``: logarithmic too, with rank 1 at the better end, on top or at the right.
    ticks
        Place → its name. Empty: the look chooses numbers.
    ends
        Least and largest value that are shown; None: as the values ask for.
    is_percent
        Whether shares are written as per cent.
    """

    title: str
    scale: Literal["linear", "log", "rank"] = "linear"
    ticks: tuple[tuple[float, str], ...] = ()
    ends: tuple[float, float] | None = None
    is_percent: bool = False

    @property
    def is_logarithmic(self) -> bool:
        """Whether equal steps are equal factors."""
        return self.scale != "linear"
