"""One table for all panels: named, sortable by its column heads, numbers to the right with their unit in the head.

``table(caption, columns, rows, *, nodes=(), by=None) -> Element``: ``columns`` are :class:`Column`, ``rows`` are sequences of
:class:`Cell` or ready ``tr``s; ``by`` is the column that the rows are sorted by, ``(index, "descending")``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from flowgraph import Node, node_key

from .drawn import Element, element


class Column(NamedTuple):
    """Head of a column: its title, the unit of its numbers, and whether it holds texts, numbers or bars."""

    title: str
    unit: str = ""
    kind: Literal["text", "number", "plot"] = "text"


class Cell(NamedTuple):
    """What a cell shows, and what it is sorted by: a number, or None for its text."""

    content: Element | str
    value: float | None = None
    title: str | None = None


Order = tuple[int, Literal["ascending", "descending"]]


def table(
    caption: str,
    columns: Sequence[Column],
    rows: Sequence[Sequence[Cell]],
    *,
    nodes: Sequence[Node | None] = (),
    by: Order | None = None,
) -> Element:
    """A sortable table.

    Parameters
    ----------
    caption
        Its name.
    columns, rows
        Heads, and cells row by row. A bar has no head that can be sorted.
    nodes
        The node that each row belongs to, whose selection marks it; empty where rows belong to none.
    by
        Column that the rows already are sorted by.
    """
    heads = element("tr", *(_head(column, n, by) for n, column in enumerate(columns)))
    owners = nodes or [None] * len(rows)
    lines = [_row(columns, cells, node) for cells, node in zip(rows, owners, strict=True)]
    return element(
        "div",
        element(
            "table",
            element("caption", caption),
            element("thead", heads),
            element("tbody", *lines),
            cls="sortable",
        ),
        cls="table-box",
    )


def _head(column: Column, n: int, by: Order | None) -> Element:
    unit = element("span", f" {column.unit}", cls="note") if column.unit else None
    if column.kind == "plot":
        return element("th", element("span", column.title, cls="hidden"), scope="col", cls="plot")
    order = by[1] if by is not None and by[0] == n else "none"
    button = element("button", column.title, unit, type="button", cls="sort", title=f"Sort by {column.title}")
    return element("th", button, scope="col", cls=column.kind, aria_sort=order)


def _row(columns: Sequence[Column], cells: Sequence[Cell], node: Node | None) -> Element:
    found = [
        element("td", cell.content, cls=column.kind, title=cell.title, data_sort=None if cell.value is None else repr(float(cell.value)))
        for column, cell in zip(columns, cells, strict=True)
    ]  # fmt: skip
    return element("tr", *found, data_node=None if node is None else node_key(node))
