"""What the app shows: one file for each panel, with what it asks, how that is computed, and what is drawn of it.

:data:`PANELS` are those below the picture. The other modules are of the picture and what stands beside it: the flow graph,
circuits, details of a node, tests, the continuation.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ..registered import TABS
from . import circuit_search, continuation, details, effects, flow, kept_curve, picture
from .panel import Panel
from .picture import panel_settings, shown

if TYPE_CHECKING:
    from dash import Dash
    from dash.development.base_component import Component

    from ..present.ids import Id
    from ..server.service import Service

__all__ = ["BESIDE", "PANELS", "connect", "panel_settings", "shown", "standing", "wired"]

_MODULES = (
    "lens",
    "heads",
    "attention",
    "bars",
    "semantic",
)
"""The panels below the picture, in the order of their tabs: modules of this folder that have a ``PANEL``. A new one is its file and a line."""
PANELS: tuple[Panel[Any], ...] = tuple(import_module(f"{__name__}.{name}").PANEL for name in _MODULES)
BESIDE = (picture, flow, circuit_search, continuation, effects, kept_curve, details)
"""What stands in and beside the picture. Session files know the questions of these modules because they are imported here."""

for _panel in PANELS:
    TABS.add(_panel.name, _panel)


def standing(place: str) -> list[Component]:
    """What the modules beside the panels bring to a place of the page.

    Parameters
    ----------
    place
        Name of a function of a module: ``"strip"``, ``"below_strip"`` or ``"right_pane"``; it gives a component or several.
    """
    found = [getattr(module, place)() for module in BESIDE if hasattr(module, place)]
    return [one for some in found for one in (some if isinstance(some, list) else [some])]


def wired(what: str) -> list[Id]:
    """The stores (``"STORES"``) or timers (``"POLLS"``) that the callbacks of the modules beside the panels need."""
    return [name for module in BESIDE for name in getattr(module, what, ())]


def connect(app: Dash, service: Service) -> None:
    """Connect the callbacks of the panels that have some of their own: a function ``wires(app, service)``."""
    for module in (*(import_module(f"{__name__}.{name}") for name in _MODULES), *BESIDE):
        if hasattr(module, "wires"):
            module.wires(app, service)
