"""What a panel is: a tab below the picture, a question, what is drawn of its answer, and its numbers as rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, NamedTuple

from flowgraph import Table

from ..recipe import Recipe
from ..server.question import A, Question
from ..server.run import Run
from .setting import Setting

if TYPE_CHECKING:
    from dash.development.base_component import Component

Value = str | int | float | None
Sheet = tuple[tuple[str, ...], list[tuple[Value, ...]]]
"""Names of the columns, and the rows, of a table of numbers; None stands for a value that does not exist."""


class View(NamedTuple):
    """How a panel is looked at.

    Attributes
    ----------
    recipe
        What the address says.
    first
        First token of a panel that does not show all; None: around the position that is explained.
    """

    recipe: Recipe
    first: int | None = None


@dataclass(frozen=True)
class Panel(Generic[A]):
    """A panel below the picture.

    Attributes
    ----------
    name
        As the address and the download have it.
    title, hint
        Of its tab.
    question
        What it asks, from what the address says and the run that it is about.
    draw
        What is drawn of an answer.
    rows
        The numbers of an answer.
    fields
        Fields of the address that what is drawn depends on, besides those of the run.
    view
        Fields of the address that only this panel reads: no graph depends on them.
    settings
        Controls whose value is a field of the address.
    controls
        What stands above the panel while it is open: these, and whatever else.
    words
        Columns whose texts are this project's own words. All other texts come from a prompt or a model.
    """

    name: str
    title: str
    hint: str
    question: Callable[[Recipe, Run], Question[A]]
    draw: Callable[[A, Run, View], Component]
    rows: Callable[[A, Run], Sheet]
    fields: tuple[str, ...] = ()
    view: tuple[str, ...] = ()
    settings: tuple[Setting, ...] = ()
    controls: Callable[[], Sequence[Component]] = tuple
    words: tuple[str, ...] = ()

    def table(self, answer: A, run: Run) -> Table:
        """The numbers of an answer, as the library writes tables."""
        header, rows = self.rows(answer, run)
        columns = {name: [row[n] for row in rows] for n, name in enumerate(header)}
        return Table(self.title, columns, self.words)
