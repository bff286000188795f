"""What the app shows: one file for each panel, with what it asks, how that is computed, and what is drawn of it.

:data:`PANELS` are those below the picture. The other modules are of the picture and what stands beside it: the flow graph,
circuits, details of a node, tests, the continuation.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from ..registered import TABS
from . import circuit, continuation, details, effects, flow
from .panel import Panel

_MODULES = (
    "lens",
    "heads",
    "attention",
    "bars",
    "semantic",
)
"""The panels below the picture, in the order of their tabs: modules of this folder that have a ``PANEL``. A new one is its file and a line."""
PANELS: tuple[Panel[Any], ...] = tuple(import_module(f"{__name__}.{name}").PANEL for name in _MODULES)
BESIDE = (flow, circuit, continuation, details, effects)
"""What stands in and beside the picture. Session files know the questions of these modules because they are imported here."""

for _panel in PANELS:
    TABS.add(_panel.name, _panel)
