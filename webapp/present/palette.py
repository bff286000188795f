"""Steps of colour with text that can be read on them, made from the colours of flowgraph's themes.

Three scales: ``fill-0 … fill-5`` by decades, viridis, the last one hollow; ``up-1 … up-4`` and ``down-1 … down-4`` for
signed numbers around a neutral middle, and ``up`` alone for numbers that have no sign. Each has its text colour. A lowering
step also carries hatching, in ``assets/panels.css``: hue alone never says the sign.
"""

from __future__ import annotations

from flowgraph.render import THEMES, Theme, pill_fills

_MIXES = (0.16, 0.34, 0.58, 1.0)
BOUNDS = (0.02, 0.1, 0.3, 0.6)
"""Parts of the largest value at which the steps begin: signed numbers, of which few are large."""
EVEN_BOUNDS = (0.05, 0.25, 0.5, 0.75)
"""The same for numbers without a sign."""


def panel_variables() -> str:
    """CSS custom properties of both themes, to stand after those of :func:`flowgraph.render.css_variables`."""
    blocks = []
    for name, selector in (("light", ":root"), ("dark", ':root[data-theme="dark"]')):
        lines = [f"  --{key}: {colour};\n" for key, colour in colours(THEMES[name]).items()]
        blocks.append(f"{selector} {{\n{''.join(lines)}}}\n")
    return "".join(blocks)


def colours(theme: Theme) -> dict[str, str]:
    """Name → colour of a theme: each step, and ``…-text`` for what is written on it."""
    found: dict[str, str] = {}
    for step, (fill, text) in enumerate(pill_fills(theme)):
        found |= {f"fill-{step}": fill, f"fill-{step}-text": text}
    for side, end in (("down", theme.effects[0]), ("up", theme.effects[-1])):
        for step, part in enumerate(_MIXES, 1):
            colour = mixed(theme.background, end, part)
            found |= {f"{side}-{step}": colour, f"{side}-{step}-text": _text_on(colour, theme)}
    return found


def step_of(value: float, largest: float, bounds: tuple[float, ...] = BOUNDS) -> int:
    """Signed step, −4…4, of a value on a scale that ends at ``largest``."""
    if largest <= 0:
        return 0
    part = abs(value) / largest
    step = sum(part >= bound for bound in bounds)
    return -step if value < 0 else step


def step_class(step: int) -> str:
    """Class of a signed step."""
    return "zero" if step == 0 else f"{'up' if step > 0 else 'down'}-{abs(step)}"


def mixed(first: str, second: str, part: float) -> str:
    """Colour between two, ``part`` of the way to the second."""
    return "#" + "".join(
        f"{round(a + (b - a) * part):02X}" for a, b in zip(_channels(first), _channels(second), strict=True)
    )


def contrast(one: str, other: str) -> float:
    """Contrast of two colours as WCAG defines it, 1 to 21."""
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


def _text_on(colour: str, theme: Theme) -> str:
    return max((theme.ink, theme.on_accent, "#FFFFFF", "#0B1016"), key=lambda text: contrast(text, colour))


def _channels(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def _luminance(colour: str) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (x / 255 for x in _channels(colour))]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
