"""The panel of attention: the patterns of one layer, drawn, and every pair as a row.

``rows(attention, run) -> (header, rows)``: one row for each pair that a head may see.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..present.ids import Id
from ..recipe import Recipe
from ..server.run import Run
from .attention_pattern import Attention, AttentionQuestion
from .attention_views import panel
from .panel import Panel, Sheet, Value
from .setting import Setting, looked_at

if TYPE_CHECKING:
    from dash.development.base_component import Component


def rows(attention: Attention, run: Run) -> Sheet:
    """Every pair of a query and a key that it may see; where there are several stacks, of which attention it is."""
    header: tuple[str, ...] = (
        "layer",
        "head",
        "query_position",
        "query_token",
        "key_position",
        "key_token",
        "attention",
    )
    found: list[tuple[Value, ...]] = []
    for head, pattern in enumerate(attention.pattern):
        for query, line in enumerate(pattern):
            for key, value in enumerate(line[: query + 1] if run.causal else line):
                found.append((attention.layer, head, query, run.tokens[query], key, run.tokens[key], float(value)))
    if not attention.others:
        return header, found
    found = [(*row, "decoder.self") for row in found]
    for one in attention.others:
        for (head, query, key), value in np.ndenumerate(one.pattern):
            pair = (query, one.queries[query], key, one.keys[key])
            found.append((attention.layer, head, *pair, float(value), one.name))
    return (*header, "of"), found


def _question(recipe: Recipe, run: Run) -> AttentionQuestion:
    return AttentionQuestion.of(recipe, run.n_layers - 1 if recipe.layer is None else recipe.layer)


def _of_run(recipe: Recipe, run: Run) -> dict[str, Any]:
    layers = [{"label": f"L{number}", "value": number} for number in range(run.n_layers)]
    return {"options": layers, "value": looked_at(recipe, run)}


def _beyond(recipe: Recipe, run: Run) -> str | None:
    if recipe.layer is None or recipe.layer < run.n_layers:
        return None
    last = run.n_layers - 1
    return f"layer={recipe.layer} is not a layer of this model; its layers are 0…{last}, and the last is chosen"


def controls() -> list[Component]:
    """Whose attention is shown."""
    from ..present.parts import group, late_choice

    return [group("Layer", "Whose attention is shown", late_choice(Id.LAYER))]


PANEL = Panel(
    "attention",
    "Attention",
    "Attention patterns of one layer.",
    _question,
    lambda answer, run, view: panel(answer, run, heads=view.recipe.heads, selected=view.recipe.selected_node),
    rows,
    fields=("layer",),
    view=("layer", "heads"),
    settings=(Setting(Id.LAYER, "last", ("options", "value"), _of_run, _beyond),),
    controls=controls,
)
