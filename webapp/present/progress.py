"""How far a run is, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import html

if TYPE_CHECKING:
    from dash.development.base_component import Component

    from ..server.jobs import Stage


def progress_text(stage: Stage | None) -> list[Component]:
    """A bar, the name of the stage, its percentage where it is known, and how many questions wait before this one."""
    if stage is None:
        return [html.Span("starting …", className="stage-name")]
    part = "" if stage.part is None else f" {stage.part:.0%}".replace("%", " %")
    waiting = f" · {stage.waiting} before this" if stage.waiting else ""
    width = "100%" if stage.part is None else f"{100 * min(1.0, max(0.0, stage.part)):.0f}%"
    bar = html.I(html.I(style={"width": width}), className="progress" if stage.part is not None else "progress unknown")
    return [bar, html.Span(f"{stage.name}{part}{waiting}", className="stage-name")]
