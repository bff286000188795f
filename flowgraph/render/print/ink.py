"""Colours and sizes of a picture for a paper: the page's own stylesheet, read rule by rule.

The stylesheet is made once with the names of the colours in place of the colours, so that a picture and a TeX document can
refer to ``attention`` and say elsewhere what that looks like.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import fields, replace
from functools import cache
from typing import Any, Literal

from ..scene.style import LIGHT, RANK_LABELS, Theme, stylesheet

ThemeName = Literal["light", "print"]

# Kinds of edges differ in grey and in their dashes; ranks in grey alone, the best one darkest.
PRINT = replace(
    LIGHT, ink="#000000", muted="#404040", pane="#FFFFFF", line="#DCDCDC", attention="#000000", self_attention="#000000", cross_attention="#000000", mlp="#606060",
    residual="#A0A0A0", target="#000000", pin="#000000", raises="#000000", lowers="#000000",
    ranks=("#000000", "#484848", "#808080", "#B0B0B0", "#DADADA"),
    effects=("#FFFFFF", "#FFFFFF", "#FFFFFF", "#BDBDBD", "#000000"),
    effect_text=("#000000", "#000000", "#000000", "#000000", "#FFFFFF"),
)  # fmt: skip
THEMES: dict[str, Theme] = {"light": LIGHT, "print": PRINT}


def _named(name: str) -> Any:
    value = getattr(LIGHT, name)
    return name if isinstance(value, str) else tuple(f"{name}{n}" for n in range(len(value)))


NAMES = Theme(**{item.name: _named(item.name) for item in fields(Theme)})
"""A theme whose colours are their own names."""
# Without colour, what lowers is known by its broken outline.
_PRINT_RULES: tuple[tuple[str, dict[str, Any]], ...] = (
    (".effect0", {"border-style": "dashed", "border-width": 1.6}),
    (".effect1", {"border-style": "dashed"}),
    (".effect2", {"border-color": "residual"}),
    (f".k{len(RANK_LABELS) - 1}", {"border-color": "muted"}),
    (".mlp", {"line-style": "fine"}),
    (".cross, .to-cross, .from-cross", {"line-style": "dashed"}),
)
_SELECTOR = re.compile(r"(node|edge)?((?:\.[\w-]+)*)(\[lb\])?")


def palette(theme: Theme) -> dict[str, str]:
    """Names of a theme's colours, such as ``attention`` and ``ranks0``, and their ``#RRGGBB``."""
    colours: dict[str, str] = {}
    for item in fields(Theme):
        value, names = getattr(theme, item.name), getattr(NAMES, item.name)
        colours |= {names: value} if isinstance(value, str) else dict(zip(names, value, strict=True))
    return colours


def style_of(tag: Literal["node", "edge"], classes: Iterable[str], theme: ThemeName) -> dict[str, Any]:
    """Style of an element with these classes: later rules win, as in Cytoscape; colours are names."""
    return _style(tag, frozenset(classes), theme)


@cache
def _style(tag: str, classes: frozenset[str], theme: ThemeName) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for selectors, style in (*_rules(), *(_PRINT_RULES if theme == "print" else ())):
        if any(_matches(selector, tag, classes) for selector in selectors.split(", ")):
            found |= style
    return found


@cache
def _rules() -> tuple[tuple[str, dict[str, Any]], ...]:
    return tuple((rule["selector"], rule["style"]) for rule in stylesheet(NAMES))


def _matches(selector: str, tag: str, classes: frozenset[str]) -> bool:
    parts = _SELECTOR.fullmatch(selector)
    if parts is None or parts[1] not in (None, tag):
        return False
    return classes.issuperset(parts[2].split(".")[1:])
