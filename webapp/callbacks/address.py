"""From the address to the controls: on opening, and on going back and forward."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from dash import Dash, Input, Output, State, no_update

from ..ids import Id
from ..layout.header import first_model
from ..recipe import Recipe, from_query

if TYPE_CHECKING:
    from ..service.service import Service

_FIELDS = (Id.METHOD, Id.SHOW, Id.LEVEL, Id.WIDTH, Id.ORIENTATION, Id.FILL)
_SHARED = (Id.LAYER, Id.SCORE)
"""Controls whose choices, and first value, come with an answer."""
_CONTROLS = (Id.MODEL, Id.PROMPT, Id.CHAT, Id.THRESHOLD, Id.HEADS_IN, *_FIELDS, *_SHARED)


def register(app: Dash, service: Service) -> None:
    """Connect the callback."""

    @app.callback(
        {name.value: Output(name, "value", allow_duplicate=name in _SHARED) for name in _CONTROLS},
        Input(Id.LOCATION, "search"),
        State(Id.LAYER, "options"),
        prevent_initial_call="initial_duplicate",
    )
    def restore(search: str | None, layers: list[Any]) -> dict[str, Any]:
        recipe = from_query(search or "")
        return control_values(recipe if search else replace(recipe, model=first_model(service.models)), len(layers))


def control_values(recipe: Recipe, layers: int) -> dict[str, Any]:
    """Control → the value that a recipe gives it; ``layers`` is how many the drawn model has, 0 before the first."""
    values: dict[str, Any] = {name.value: getattr(recipe, name.value) for name in _FIELDS}
    return values | {
        Id.MODEL.value: recipe.model,
        Id.PROMPT.value: recipe.text,
        Id.CHAT.value: ["chat"] if recipe.chat else [],
        Id.THRESHOLD.value: recipe.threshold or None,
        Id.HEADS_IN.value: ", ".join(map(str, recipe.heads_in)),
        Id.LAYER.value: (layers - 1 if recipe.layer is None else recipe.layer) if layers else no_update,
        Id.SCORE.value: recipe.score or no_update,
    }
