"""What series and bars of charts look like by their roles: told apart by shape as well as by colour."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

from ...charts.axis import Role


class RoleLook(NamedTuple):
    """A colour by its name in a :class:`~flowgraph.render.scene.style.Theme`, the mark of a point, and how a bar is filled."""

    colour: str
    mark: Literal["circle", "ring", "triangle", "diamond", "square"] = "circle"
    is_dashed: bool = False
    hatch: str = ""
    """Of bars, as plotly writes it."""
    tint: float = 1.0
    """Of bars that have no hatch on paper: the part of their colour that they have."""


ROLES: Mapping[Role, RoleLook] = {
    "main": RoleLook("attention"),
    "target": RoleLook("target"),
    "foil": RoleLook("pin", is_dashed=True),
    "attention": RoleLook("attention", "triangle"),
    "cross": RoleLook("cross_attention", "diamond"),
    "mlp": RoleLook("mlp", "square", hatch="/", tint=0.75),
    "rest": RoleLook("residual", "ring", hatch="x", tint=0.6),
    "muted": RoleLook("muted", "ring", hatch=".", tint=0.3),
    "raises": RoleLook("raises"),
    "lowers": RoleLook("lowers"),
}
