"""What a notebook shows of a result that has several charts: each of them small, and a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .grid import Grid
from .table import Table


@dataclass(frozen=True, eq=False)
class Overview:
    """Small grids side by side, and a table below them.

    Attributes
    ----------
    title
        What is seen, on one line.
    grids
        Name → grid, all over the same rows and columns.
    table
        Numbers in rows.
    """

    title: str
    grids: Mapping[str, Grid]
    table: Table
