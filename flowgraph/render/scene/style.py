"""Colours and sizes of every picture, written once: CSS variables and Cytoscape stylesheets are made from them."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

from ...errors import ArgumentError

FONT = "Inter, Helvetica, Arial, sans-serif"  # Cytoscape refuses quotes in a font family


@dataclass(frozen=True)
class Theme:
    """The colours of one theme, as ``#RRGGBB``.

    ``ranks`` are the fills for the decades of :data:`RANK_LABELS` but the last, which is hollow; ``effects`` are the
    fills for the steps of :data:`EFFECT_LABELS`, from lowering to raising.
    """

    ink: str
    muted: str
    background: str
    pane: str
    line: str
    attention: str
    self_attention: str
    cross_attention: str
    mlp: str
    residual: str
    target: str
    pin: str
    raises: str
    lowers: str
    on_accent: str
    ranks: tuple[str, ...]
    effects: tuple[str, ...]
    effect_text: tuple[str, ...]


LIGHT = Theme(
    ink="#1B2430",
    muted="#5B6675",
    background="#FFFFFF",
    pane="#F6F8FA",
    line="#DDE2E8",
    attention="#0072B2",
    self_attention="#2F8FCB",
    cross_attention="#5E1A8B",
    mlp="#D55E00",
    residual="#8592A0",
    target="#009E73",
    pin="#CC79A7",
    raises="#0072B2",
    lowers="#D55E00",
    on_accent="#FFFFFF",
    ranks=("#440154", "#3B528B", "#21918C", "#5EC962", "#C6E3A0"),
    effects=("#C05400", "#F2BE93", "#F1F3F5", "#9CCBE6", "#0072B2"),
    effect_text=("#FFFFFF", "#1B2430", "#1B2430", "#1B2430", "#FFFFFF"),
)
DARK = Theme(
    ink="#E6EAF0",
    muted="#97A3B3",
    background="#12161C",
    pane="#171C24",
    line="#2A323D",
    attention="#56B4E9",
    self_attention="#7CC7F0",
    cross_attention="#EAD4FF",
    mlp="#E69F00",
    residual="#66748A",
    target="#2FD39E",
    pin="#E59BC4",
    raises="#56B4E9",
    lowers="#E69F00",
    on_accent="#0B1016",
    ranks=("#FDE725", "#7AD151", "#22A884", "#2A788E", "#414487"),
    effects=("#E69F00", "#7A5320", "#1C222B", "#2C5E7E", "#56B4E9"),
    effect_text=("#0B1016", "#FFFFFF", "#E6EAF0", "#FFFFFF", "#0B1016"),
)
THEMES = {"light": LIGHT, "dark": DARK}


def theme_of(name: str) -> Theme:
    """The theme of this name.

    Raises
    ------
    ArgumentError
        If there is none.
    """
    if not isinstance(name, str) or name not in THEMES:
        raise ArgumentError(f"theme={name!r} is not known; expected {' or '.join(map(repr, THEMES))}")
    return THEMES[name]


RANK_LABELS = ("1", "≤10", "≤100", "≤1k", "≤10k", "more")
EFFECT_LABELS = ("< −1", "−1…0", "≈ 0", "0…1", "> 1")
_NEGLIGIBLE_EFFECT = 0.15


def rank_decade(rank: int) -> int:
    """Index into :data:`RANK_LABELS` of a rank, 1 being the best."""
    return min(len(RANK_LABELS) - 1, math.ceil(math.log10(rank) - 1e-9))


def effect_step(effect: float) -> int:
    """Index into :data:`EFFECT_LABELS` of an effect in logits."""
    if abs(effect) < _NEGLIGIBLE_EFFECT:
        return 2
    if effect < 0:
        return 0 if effect < -1 else 1
    return 4 if effect > 1 else 3


class Stroke(NamedTuple):
    """Width ``thin + gain · √x`` px and opacity ``faint + rise · min(1, √(x / full))`` of an edge that carries x."""

    thin: float
    gain: float
    faint: float
    rise: float
    full: float


_ATTENTION_STROKE = Stroke(0.6, 7.0, 0.25, 0.7, 0.25)
_SELF_STROKE = Stroke(0.6, 4.0, 0.25, 0.7, 0.25)
_RESIDUAL_STROKE = Stroke(0.8, 2.4, 0.3, 0.5, 1.0)
_MLP_STROKE = Stroke(0.6, 2.4, 0.3, 0.5, 1.0)
_STROKES = {
    "self": _SELF_STROKE,
    "head": _RESIDUAL_STROKE,
    "residual": _RESIDUAL_STROKE,
    "unembed": _RESIDUAL_STROKE,
    "mlp": _MLP_STROKE,
    "mlp_in": _MLP_STROKE,
    "mixer": _MLP_STROKE,
    "expert": _MLP_STROKE,
    "sink": _SELF_STROKE,
}


def edge_stroke(kind: str, carried: float) -> tuple[float, float]:
    """Width in px and opacity of an edge of ``kind`` that carries a share or flow between 0 and 1."""
    stroke = _STROKES.get(kind, _ATTENTION_STROKE)
    root = math.sqrt(abs(carried))
    opacity = stroke.faint + stroke.rise * min(1.0, root / math.sqrt(stroke.full))
    return round(stroke.thin + stroke.gain * root, 1), round(opacity, 2)


def square_size(share: float) -> float:
    """Side in px of the square of an MLP or bias whose output has this share of its target."""
    return round(3 + 8 * math.sqrt(min(1.0, abs(share))), 1)


def css_variables() -> str:
    """CSS custom properties of both themes, for ``:root`` and ``:root[data-theme="dark"]``."""
    light = f":root {{\n  color-scheme: light;\n{_declarations(LIGHT)}  --font: {FONT};\n}}\n"
    return light + f':root[data-theme="dark"] {{\n  color-scheme: dark;\n{_declarations(DARK)}}}\n'


def _declarations(theme: Theme) -> str:
    lines = []
    for item in fields(theme):
        value = getattr(theme, item.name)
        name = item.name.replace("_", "-")
        named = {name: value} if isinstance(value, str) else {f"{name}-{i}": colour for i, colour in enumerate(value)}
        lines += [f"  --{key}: {colour};\n" for key, colour in named.items()]
    return "".join(lines)


def stylesheet(theme: Theme) -> list[dict[str, Any]]:
    """The Cytoscape stylesheet of a theme.

    Later rules win, there is no specificity: shapes come first, then labels, then edges, and states last. The classes
    are those that :func:`flowgraph.render.scene.elements.elements` gives out.
    """
    rules = {
        **_node_rules(theme),
        **_label_rules(theme),
        **_edge_rules(theme),
        **_dense_rules(),
        **_state_rules(theme),
    }
    return [{"selector": selector, "style": style} for selector, style in rules.items()]


def _node_rules(theme: Theme) -> dict[str, dict[str, Any]]:
    hollow = {"background-color": theme.background, "border-width": 1, "border-color": theme.residual}
    rules: dict[str, dict[str, Any]] = {
        "core": {"active-bg-size": 0, "selection-box-opacity": 0},
        "node": {
            "width": 9, "height": 9, "background-color": theme.residual, "border-width": 1,
            "border-color": theme.background, "overlay-opacity": 0, "z-index-compare": "manual", "z-index": 20,
        },
        "node.scaffold": {"width": 1, "height": 1, "opacity": 0, "events": "no", "z-index": 0},
        ".junction": {"width": 3, "height": 3, "border-width": 0, "background-color": theme.residual, "z-index": 3},
        ".square": {
            "shape": "rectangle", "width": "data(z)", "height": "data(z)", "border-width": 0,
            "background-color": theme.mlp, "z-index": 12,
        },
        "node.part": {"background-color": theme.residual},
        "node.attn-feature": {"background-color": theme.attention},
        "node.mixer": {"background-color": theme.attention},
        "node.sink": {"background-color": theme.background, "border-width": 1, "border-color": theme.attention},
        "node.shared-expert": {"background-color": theme.background, "border-width": 1, "border-color": theme.mlp},
        "node.error": {"background-color": theme.background, "border-width": 1, "border-color": theme.residual},
        ".head": {
            "width": 8, "height": 8, "background-color": theme.background, "border-width": 1,
            "border-color": theme.attention, "z-index": 25,
        },
        ".head.major": {"width": 14, "height": 14},
        ".head.expert": {"shape": "rectangle", "border-color": theme.mlp},
        ".head.expert.major": {"width": 12, "height": 12},
        # A diamond as wide as a circle would have no room for a number.
        ".cross-head": {"shape": "diamond", "width": 11, "height": 11, "border-color": theme.cross_attention},
        ".cross-head.major": {"width": 18, "height": 18},
    }  # fmt: skip
    return rules | _scale_rules(theme, hollow)


def _scale_rules(theme: Theme, hollow: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Colours of ranks and of effects, and of what has neither."""
    rules: dict[str, dict[str, Any]] = {}
    for step, colour in enumerate(theme.ranks):
        border = {"border-color": theme.residual} if step >= 3 else {}
        rules[f".k{step}"] = {"background-color": colour, **border}
    rules[".k0"] |= {"border-width": 2, "border-color": theme.target, "width": 10, "height": 10}
    rules[f".k{len(theme.ranks)}"] = hollow
    rules[".plain"] = {"background-color": theme.residual}
    for step, colour in enumerate(theme.effects):
        rules[f".effect{step}"] = {
            "background-color": colour,
            "color": theme.effect_text[step],
            "border-width": 1,
            "border-color": theme.raises if step >= 2 else theme.lowers,
        }
    rules[".goal"] = {
        "width": 12, "height": 12, "border-width": 2, "border-color": theme.target,
        "background-color": theme.ranks[0], "z-index": 30,
    }  # fmt: skip
    rules[".undefined"] = {"border-style": "dashed", "border-width": 1.5, "border-color": theme.ink}
    return rules


def _label_rules(theme: Theme) -> dict[str, dict[str, Any]]:
    beside = {"text-halign": "right", "text-valign": "center", "text-margin-x": 3, "text-margin-y": 5}
    above = {"text-halign": "center", "text-valign": "top", "text-margin-x": 0, "text-margin-y": -2}
    text = {
        "font-family": FONT, "font-size": 10, "color": theme.muted, "text-events": "no", "text-wrap": "ellipsis",
        "text-max-width": 90, "text-background-color": theme.background, "text-background-opacity": 0.82,
        "text-background-padding": 1, "text-background-shape": "roundrectangle",
    }  # fmt: skip
    return {
        "node[lb]": {**text, **beside},
        ".rows[lb]": above,
        ".goal.rows[lb]": {**beside, "text-margin-y": 0},
        ".p3": {"label": "data(lb)", "color": theme.ink, "font-weight": 600},
        ".p2.columns, .p2.near, .p1.near": {"label": "data(lb)"},
        ".head[lb]": {
            "text-halign": "center", "text-valign": "center", "text-margin-x": 0, "text-margin-y": 0.5,
            "text-background-opacity": 0, "font-size": 9, "color": theme.ink,
        },
        ".head.near[lb]": {"label": "data(lb)", "font-size": 6},
        ".head.major[lb]": {"label": "data(lb)", "font-size": 9},
        **{f".head.effect{step}[lb]": {"color": colour} for step, colour in enumerate(theme.effect_text)},
    }  # fmt: skip


def _edge_rules(theme: Theme) -> dict[str, dict[str, Any]]:
    return {
        "edge": {
            "width": "data(w)", "line-opacity": "data(o)", "curve-style": "haystack", "haystack-radius": 0,
            "line-color": theme.residual, "overlay-opacity": 0, "z-index-compare": "manual", "z-index": 2,
        },
        "edge.by-share": {"width": "data(ws)", "line-opacity": "data(os)"},
        "edge.scaffold": {"width": 1, "line-color": theme.line, "line-opacity": 1, "events": "no", "z-index": 0},
        ".attention, .to-head": {
            "line-color": theme.attention, "curve-style": "straight", "z-index": 5, "target-arrow-shape": "circle",
            "target-arrow-color": theme.attention, "arrow-scale": 0.45,
        },
        ".from-head": {"line-color": theme.attention, "z-index": 5},
        ".cross, .to-cross": {
            "line-color": theme.cross_attention, "curve-style": "straight", "z-index": 6, "target-arrow-shape": "circle",
            "target-arrow-color": theme.cross_attention, "arrow-scale": 0.45,
        },
        ".from-cross": {"line-color": theme.cross_attention, "z-index": 6},
        ".self": {
            "line-color": theme.self_attention, "target-arrow-shape": "none", "curve-style": "unbundled-bezier",
            "control-point-distances": [7], "control-point-weights": [0.5], "z-index": 4,
        },
        ".mlp": {"line-color": theme.mlp, "z-index": 3},
        ".mixer": {"line-color": theme.attention, "z-index": 3},
        ".sink": {"line-color": theme.self_attention, "z-index": 3},
        ".raises": {"line-color": theme.raises, "target-arrow-color": theme.raises},
        ".lowers": {
            "line-color": theme.lowers, "target-arrow-color": theme.lowers, "curve-style": "straight",
            "line-style": "dashed", "line-dash-pattern": [5, 3],
        },
        # Squares and heads already say what these carry; as full lines they would hide the column of the target.
        ".trunk": {"line-opacity": 0.12},
        ".stream": {"width": 1.6, "line-opacity": 0.8, "curve-style": "straight", "z-index": 1},
        ".structural": {
            "width": 1, "line-opacity": 0.7, "line-color": theme.residual, "curve-style": "straight",
            "line-style": "dotted", "target-arrow-shape": "none",
        },
    }  # fmt: skip


def _dense_rules() -> dict[str, dict[str, Any]]:
    return {
        "node.dense": {"width": 6, "height": 6},
        ".junction.dense": {"width": 2, "height": 2},
        ".square.dense": {"width": "data(zd)", "height": "data(zd)"},
        ".k0.dense": {"width": 7, "height": 7},
        ".head.dense": {"width": 6, "height": 6},
        ".head.major.dense": {"width": 10, "height": 10},
        ".cross-head.dense": {"width": 8, "height": 8},
        ".cross-head.major.dense": {"width": 14, "height": 14},
        ".head.dense[lb]": {"font-size": 7},
        ".goal.dense": {"width": 10, "height": 10},
    }


def _state_rules(theme: Theme) -> dict[str, dict[str, Any]]:
    return {
        ".off": {"visibility": "hidden", "events": "no"},
        ".dim": {"opacity": 0.15, "text-opacity": 0.15},
        "node.lift": {"z-index": 90, "opacity": 1, "text-opacity": 1},
        "edge.lift": {"z-index": 80, "line-opacity": 1, "opacity": 1},
        ".trunk.lift": {"line-opacity": 0.6},
        "node.pin": {
            "border-width": 2.5,
            "border-color": theme.pin,
            "width": 12,
            "height": 12,
            "z-index": 91,
        },
        "node.chosen": {"border-width": 2, "border-color": theme.ink, "z-index": 92},
        ".junction.chosen": {"width": 7, "height": 7},
        "edge.chosen": {
            "line-opacity": 1,
            "z-index": 81,
            "underlay-color": theme.ink,
            "underlay-padding": 4,
            "underlay-opacity": 0.28,
        },
        "node.chosen[lb], node.pin[lb]": {"label": "data(lb)", "color": theme.ink},
    }
