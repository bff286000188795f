"""Lines as a picture for a paper: panels one below the other, a mark for each point, bands as whiskers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ...charts.lines import Lines, Panel, Rule, Series
from ...charts.text import printable
from ...errors import ArgumentError
from ..scene.chart_roles import ROLES
from .build import Look
from .content import Spell
from .frame import AXIS_SIZE, LAYER_SIZE, PAD
from .plot import LEAD, Sample, Scale, box, centred, finished, heading, legend, mark, path, scale
from .shapes import Label, Line, Picture, Shape, baseline, shortened, text_width

_ONE, _SEVERAL = 0.42, 0.3
"""Height of a panel by the width of the picture: of one, and of several."""
_LEAST, _TALLEST = 90.0, 0.75
"""Least height of a panel, and what a long title of its axis makes of it."""
_TICK = 11.0
_CROWDED = 40


def lines_picture(lines: Lines, look: Look, spell: Spell = str) -> Picture:
    """Shapes of lines.

    Raises
    ------
    ArgumentError
        If there is no point.
    """
    several = [series for panel in lines.panels for series in panel.series]
    if not sum(len(series.x) for series in several):
        raise ArgumentError(f"{lines.title!r} has no points; there is nothing to draw")
    width = look.points
    shapes, top = heading(lines.title, lines.subtitle, width, spell=spell)
    longest = max(text_width(spell(printable(panel.y.title)), AXIS_SIZE) for panel in lines.panels)
    tall = max(_LEAST, (_ONE if len(lines.panels) == 1 else _SEVERAL) * width, min(longest + 2, _TALLEST * width))
    heights = [top + PAD + n * (tall + 2 * PAD) for n in range(len(lines.panels))]
    scales = [_values(panel, height + tall, height) for panel, height in zip(lines.panels, heights, strict=True)]
    ticks = [one.ticks(2 * _TICK) for one in scales]
    widest = max(text_width(name, AXIS_SIZE) for some in ticks for _, name in some)
    left, right = PAD + LEAD + widest + 3, width - 2 * PAD
    uprights = [rule.at for panel in lines.panels for rule in panel.rules if rule.along == "y"]
    x = scale(lines.x, [*np.concatenate([series.x for series in several]).tolist(), *uprights], left, right)
    for panel, y, named in zip(lines.panels, scales, ticks, strict=True):
        shapes += _panel(panel, x, y, named, spell)
    bottom = scales[-1].first
    names = [spell(printable(name)) for _, name in x.axis.ticks] or ["1,000"]
    for at, name in x.ticks(max(text_width(name, AXIS_SIZE) for name in names) + 8):
        shapes.append(Line((at, bottom), (at, bottom + 2), "muted", 0.5))
        shapes.append(Label(spell(printable(name)), (at, bottom + LEAD + 1), AXIS_SIZE, "ink", "middle"))
    title = centred(x.axis.title, ((left + right) / 2, bottom + 2 * LEAD + 2), right - left, spell=spell)
    shapes += title
    lowest = title[-1].at[1] if title else bottom + LEAD + 2
    if look.legend and (len(several) > 1 or any(series.band is not None for series in several)):
        entries, lowest = legend(_samples(several), width, lowest + LEAD, spell=spell)
        shapes += entries
    return finished(shapes, lowest, look, title=lines.title, about=lines.about or lines.title, spell=spell)


def _values(panel: Panel, bottom: float, top: float) -> Scale:
    """Scale of a panel's values, its bands and rules."""
    held = [value for series in panel.series for value in series.y.tolist()]
    held += [value for series in panel.series if series.band is not None for value in series.band.ravel().tolist()]
    held += [rule.at for rule in panel.rules if rule.along == "x"]
    return scale(panel.y, held, bottom, top)


def _panel(panel: Panel, x: Scale, y: Scale, ticks: list[tuple[float, str]], spell: Spell) -> Iterator[Shape]:
    """Frame, ticks, rules and series of one panel."""
    left, right, bottom, top = x.first, x.last, y.first, y.last
    for at, name in ticks:
        yield Line((left, at), (right, at), "line", 0.5)
        yield Label(name, (left - 3, baseline(at, AXIS_SIZE)), AXIS_SIZE, "ink", "end")
    title = shortened(spell(printable(panel.y.title)), AXIS_SIZE, bottom - top)
    yield Label(title, (PAD + AXIS_SIZE, (top + bottom) / 2), AXIS_SIZE, "muted", "middle", angle=90.0)
    for rule in panel.rules:
        yield from _rule(rule, x, y, panel, spell)
    for series in panel.series:
        yield from _series(series, x, y)
    yield from box(left, top, right, bottom)


def _rule(rule: Rule, x: Scale, y: Scale, panel: Panel, spell: Spell) -> Iterator[Shape]:
    if rule.along == "both":
        least, most = max(x.least, y.least), min(x.most, y.most)
        ends = [(x.place(value), y.place(value)) for value in (least, most)]
        at, is_end = ((ends[0][0] + ends[1][0]) / 2 + 4, (ends[0][1] + ends[1][1]) / 2 + LEAD), False
    elif rule.along == "y":
        ends = [(x.place(rule.at), y.first), (x.place(rule.at), y.last)]
        at, is_end = (ends[1][0] - 3, ends[1][1] + LEAD), True
    else:
        ends = [(x.first, y.place(rule.at)), (x.last, y.place(rule.at))]
        is_top = all((series.y < rule.at).all() for series in panel.series)
        at, is_end = (x.first + 3, ends[0][1] + (LAYER_SIZE + 1 if is_top else -2.0)), False
    yield Line(ends[0], ends[1], "muted", 0.6, dash="dashed")
    if rule.name:
        yield Label(spell(printable(rule.name)), at, LAYER_SIZE, "muted", "end" if is_end else "start")


def _series(series: Series, x: Scale, y: Scale) -> Iterator[Shape]:
    colour = ROLES[series.role].colour
    points = [(x.place(a), y.place(b)) for a, b in zip(series.x.tolist(), series.y.tolist(), strict=True)]
    if series.band is not None:
        for (at, _), (low, high) in zip(points, series.band.tolist(), strict=True):
            yield Line((at, y.place(low)), (at, y.place(high)), colour, 1.0, tint=0.5)
    if series.is_joined:
        yield from path(points, colour, 1.1, is_dashed=ROLES[series.role].is_dashed)
    size = 2.2 if series.is_joined and len(points) > _CROWDED else 3.4
    yield from (mark(series.role, point, size) for point in points)


def _samples(several: list[Series]) -> list[Sample]:
    """Entries of the legend, each name once."""
    found: dict[str, Sample] = {}
    for series in several:
        if series.band is not None:
            found.setdefault(series.band_name, Sample(series.band_name, series.role, "band"))
        kind = "line" if series.is_joined else "points"
        found.setdefault(series.name, Sample(series.name, series.role, kind))
    return list(found.values())
