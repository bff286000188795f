"""A setting of a panel: a control above it whose value is a field of the address."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ..present.ids import Id
from ..recipe import Recipe
from ..server.run import Run

Usual = Literal["choice", "first", "last", "window"]


@dataclass(frozen=True)
class Setting:
    """A control above a panel; its field of the address has the name of its id.

    Attributes
    ----------
    id
        Of the control.
    usual
        What it shows when the address says nothing of it, and what it therefore does not write: ``"choice"``, the default of the
        address; ``"first"`` or ``"last"`` of choices that come with an answer; ``"window"``, the one layer that is looked at.
    properties, of_run
        Properties that a run gives it as soon as it is drawn, and their values.
    unfit
        What the address says of it that a run does not have, in a sentence; None where it fits.
    """

    id: Id
    usual: Usual
    properties: tuple[str, ...] = ()
    of_run: Callable[[Recipe, Run], Mapping[str, Any]] = lambda _recipe, _run: {}
    unfit: Callable[[Recipe, Run], str | None] = lambda _recipe, _run: None

    @property
    def field(self) -> str:
        """Its field of the address."""
        return self.id.replace("-", "_")


def looked_at(recipe: Recipe, run: Run) -> int:
    """The layer that panels of one layer show: that of the address, or the last."""
    return run.n_layers - 1 if recipe.layer is None or recipe.layer >= run.n_layers else recipe.layer
