"""The axes of a picture: tokens and layers, thinned before they could meet."""

from __future__ import annotations

from collections.abc import Sequence

from ..scene.layout import Place
from .content import Content
from .frame import AXIS_SIZE, LAYER_SIZE, LONGEST_TICK, Frame
from .shapes import Anchor, Label, Line, Point, baseline, corners, shortened, text_width


def token_ticks(content: Content, fitted: Frame, ticks: Sequence[str], *, target: int) -> list[Label]:
    """Tokens on their axis; those from which nothing comes are muted, the target's is bold."""
    heard = {content.places[n].token for n in content.nodes}
    pitch = fitted.token_pitch
    least = AXIS_SIZE * 1.05 if fitted.angle == 90 or not fitted.is_columns else 0.0
    every = max(1, -int(-least // pitch))
    found = []
    for t, tick in enumerate(ticks):
        if (target - t) % every:
            continue
        text, is_bold = shortened(tick, AXIS_SIZE, LONGEST_TICK, t == target), t == target
        colour = "ink" if is_bold or float(t) in heard else "muted"
        at = _tick_place(fitted, t)
        anchor: Anchor = "middle" if fitted.is_columns and not fitted.angle else "end"
        found.append(Label(text, at, AXIS_SIZE, colour, anchor, is_bold, fitted.angle))
    return found


def _tick_place(fitted: Frame, token: int) -> Point:
    x, y = fitted.point(Place(float(token), 0.0))
    if not fitted.is_columns:
        return fitted.side, baseline(y, AXIS_SIZE)
    if not fitted.angle:
        return x, fitted.ground + AXIS_SIZE
    # Turned text hangs from its end; half the height of its letters brings that under the column.
    half = 0.3 * AXIS_SIZE
    return x + (half if fitted.angle == 90 else half / 2), fitted.ground + 0.35 * AXIS_SIZE


def stack_names(
    fitted: Frame, ticks: Sequence[Label], spans: Sequence[tuple[str, int, int]]
) -> tuple[list[Label], list[Line]]:
    """Names of stacks outside of their tokens, each on a line along them."""
    names: list[Label] = []
    lines: list[Line] = []
    boxes = [corners(label) for label in ticks]
    for name, first, last in spans:
        (x, y), (right, low) = (fitted.point(Place(float(one), 0.0)) for one in (first, last))
        if fitted.is_columns:
            along = max(v for box in boxes for _, v in box) + 2.0
            lines.append(Line((x - 6.0, along), (right + 6.0, along), "line", 1.0))
            names.append(Label(name, ((x + right) / 2, along + 1.0 + LAYER_SIZE), LAYER_SIZE, "muted", "middle"))
        else:
            along = fitted.side + 3.0
            lines.append(Line((along, y - 2.5), (along, low + 2.5), "line", 1.0))
            names.append(Label(name, (along - 3.0, y - 0.75 * AXIS_SIZE), LAYER_SIZE, "muted", "end"))
    return names, lines


def layer_ticks(fitted: Frame, first: int, end: int) -> list[Label]:
    """Layers at the middle of their block, thinned before they could meet."""
    room = 1.3 * LAYER_SIZE if fitted.is_columns else text_width(f"L{end}", LAYER_SIZE) + 3
    every = max(1, -int(-room // fitted.layer_pitch))
    if every > 1:
        every = -(-every // 5) * 5 if every > 2 else 2
    found = []
    for layer in range(first, end, every):
        x, y = fitted.point(Place(0.0, layer - first + 0.5))
        if fitted.is_columns:
            found.append(Label(f"L{layer}", (fitted.side, baseline(y, LAYER_SIZE)), LAYER_SIZE, "muted", "end"))
        else:
            found.append(Label(f"L{layer}", (x, fitted.ground + LAYER_SIZE), LAYER_SIZE, "muted", "middle"))
    return found
