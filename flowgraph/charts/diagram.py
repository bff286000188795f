"""A diagram: nodes in layers, joined by edges that carry numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from .grid import Places
from .table import Table

G = TypeVar("G")
TipOf = Callable[[int], tuple[str, ...]]


@dataclass(frozen=True, eq=False)
class Diagram(Generic[G]):
    """Nodes and edges, as every look of them needs it: no colour, no pixel, no place beside a line.

    Attributes
    ----------
    title
        What is seen: ``"Flow graph"``, ``"Circuit"``.
    graph
        The nodes and edges; each look takes those that it draws.
    rows, columns
        What stands along the axes: layers, and tokens or heads.
    row_of, column_of
        [N] place of each node along the axes, in units; one that has none there is None.
    node_tip, edge_tip
        Lines that say all about the node or edge of an index.
    edges
        Makes the table: one row for each edge.
    keep
        How much of the flow is shown, 0 to 1,000; None: as much as each look opens with.
    """

    title: str
    graph: G
    rows: Places
    columns: Places
    row_of: tuple[int | None, ...]
    column_of: tuple[int | None, ...]
    node_tip: TipOf
    edge_tip: TipOf
    edges: Callable[[], Table]
    keep: int | None = None

    def table(self) -> Table:
        """One row for each edge."""
        return self.edges()
