"""The Cytoscape stylesheet of semantic graphs: pills filled by rank, edges by unit."""

from __future__ import annotations

from typing import Any

from .style import FONT, LIGHT, Theme

_DARKER_TEAL = "#1B7F7A"  # on the third step of viridis white text would stay below 4.5:1


def pill_fills(theme: Theme) -> tuple[tuple[str, str], ...]:
    """(fill, text) of pills by rank decade; the last is hollow."""
    ranks = list(theme.ranks)
    if theme is LIGHT:
        ranks[2] = _DARKER_TEAL
        texts = ("#FFFFFF", "#FFFFFF", "#FFFFFF", theme.ink, theme.ink)
    else:
        texts = (theme.on_accent, theme.on_accent, theme.on_accent, "#FFFFFF", "#FFFFFF")
    return (*zip(ranks, texts, strict=True), (theme.background, theme.ink))


def unit_colours(theme: Theme) -> dict[str, str]:
    """Colour of an edge by the unit of its weight; parts that are negative have ``theme.lowers``."""
    return {
        "contribution": theme.raises,
        "logits": theme.raises,
        "attention": theme.pin,
        "activation": theme.muted,
        "norm": theme.residual,
        "share": theme.residual,
        "visit": theme.muted,
    }


def semantic_variables(theme: Theme) -> str:
    """CSS custom properties that this page has besides those of every page."""
    fills = "".join(
        f"  --pill-{step}: {fill};\n  --pill-text-{step}: {text};\n"
        for step, (fill, text) in enumerate(pill_fills(theme))
    )
    return fills + "".join(f"  --unit-{unit}: {colour};\n" for unit, colour in unit_colours(theme).items())


def semantic_stylesheet(theme: Theme) -> list[dict[str, Any]]:
    """The stylesheet; later rules win: kinds come first, states last."""
    rules = {**_pill_rules(theme), **_edge_rules(theme), **_state_rules(theme)}
    return [{"selector": selector, "style": style} for selector, style in rules.items()]


def _pill_rules(theme: Theme) -> dict[str, dict[str, Any]]:
    rules: dict[str, dict[str, Any]] = {
        "core": {"active-bg-size": 0, "selection-box-opacity": 0},
        "node": {
            "shape": "round-rectangle", "width": "data(pw)", "height": "data(ph)", "background-color": theme.background,
            "border-width": 1, "border-color": theme.line, "overlay-opacity": 0, "label": "data(lb)",
            "font-family": FONT, "font-size": 10, "min-zoomed-font-size": 4, "color": theme.ink, "text-halign": "center",
            "text-valign": "center", "text-wrap": "ellipsis", "text-max-width": "data(pm)", "text-events": "no",
            "z-index-compare": "manual", "z-index": 20,
        },
    }  # fmt: skip
    for step, (fill, text) in enumerate(pill_fills(theme)):
        border = theme.residual if step >= 3 else fill
        rules[f".k{step}"] = {"background-color": fill, "color": text, "border-color": border}
    hollow = len(theme.ranks)
    rules[f".k{hollow}"] |= {"border-color": theme.line}
    rules[".k0"] |= {"border-width": 2, "border-color": theme.target}
    rules[f".quiet.k{hollow}, .quiet.plain"] = {"color": theme.muted}
    rules[".goal"] = {
        "background-color": theme.background, "border-width": 2, "border-color": theme.target, "font-weight": 600,
    }  # fmt: skip
    return rules


def _edge_rules(theme: Theme) -> dict[str, dict[str, Any]]:
    level = {"source-endpoint": "90deg", "target-endpoint": "270deg"}
    rules: dict[str, dict[str, Any]] = {
        "edge": {
            "width": "data(w)", "line-opacity": "data(o)", "curve-style": "straight", **level,
            "line-color": theme.residual, "overlay-opacity": 0, "z-index-compare": "manual", "z-index": 3,
        },
        ".curve": {"curve-style": "unbundled-bezier", "control-point-weights": "data(bw)", "control-point-distances": "data(bd)"},
        ".trunk, .under": {"curve-style": "segments", "segment-weights": "data(bw)", "segment-distances": "data(bd)"},
        ".curve, .trunk, .under": {"edge-distances": "endpoints"},
        ".down, .under": {"source-endpoint": "180deg", "target-endpoint": "0deg"},
    }  # fmt: skip
    for unit, colour in unit_colours(theme).items():
        rules[f".{unit}"] = {"line-color": colour, "z-index": 5 if unit == "contribution" else 4}
    rules |= {
        ".stream": {"line-color": theme.residual, "z-index": 2},
        ".from-source": {"line-opacity": 0.16, "z-index": 1},
        ".negative": {"line-style": "dashed", "line-dash-pattern": [5, 3]},
        ".contribution.negative": {"line-color": theme.lowers},
        ".stream.negative": {"line-color": theme.residual},
        ".structural": {"width": 1, "line-style": "dotted"},
    }
    return rules


def _state_rules(theme: Theme) -> dict[str, dict[str, Any]]:
    return {
        ".dim": {"opacity": 0.15},
        ".trunk.dim, .from-source.dim": {"opacity": 0.04},  # many lie on each other
        "node.lift": {"z-index": 90, "opacity": 1},
        "edge.lift": {"z-index": 15, "line-opacity": 1, "opacity": 1},
        "edge.chosen": {"line-opacity": 1, "z-index": 16},
        "node.chosen": {"border-width": 2.5, "border-color": theme.ink, "z-index": 92, "opacity": 1},
    }
