"""A picture as SVG: text stays text, in the sans-serif that the reader has.

Journals and editors want text that can be searched, restyled and checked for its size, and refuse letters that were drawn as
paths. An SVG cannot hold fonts that every program reads, so it names a list of fonts; all texts are measured for the widest of
them and stay clear of each other in any. Layers are groups with names, as drawing programs show them.
"""

from __future__ import annotations

import re
from itertools import groupby
from xml.sax.saxutils import escape

from .shapes import DASHES, Label, Line, Mark, Picture, Pill, Plate, Shape

FONTS = "Helvetica, Arial, 'Liberation Sans', 'DejaVu Sans', sans-serif"
_ILLEGAL = re.compile("[\x00-\x08\x0b-\x1f\ud800-\udfff\ufffe\uffff]")


def to_svg(drawn: Picture) -> str:
    """Write a picture as the text of an SVG file.

    Nothing in it refers to anything outside: no scripts, no links, no style sheets, no fonts.
    """
    size = f'width="{_short(drawn.width)}pt" height="{_short(drawn.height)}pt"'
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} viewBox="0 0 {_short(drawn.width)} {_short(drawn.height)}" '
        f'role="img" font-family="{FONTS}">',
        f"<title>{_text(drawn.title)}</title>",
        f"<desc>{_text(drawn.caption)}</desc>",
        *([f"<metadata>{_text(drawn.provenance)}</metadata>"] if drawn.provenance else []),
        f'<rect width="100%" height="100%" fill="{drawn.colour("background")}"/>',
    ]
    for name, shapes in groupby(drawn.shapes, lambda shape: f"{type(shape).__name__.lower()}s"):
        lines += [f'<g class="{name}">', *(_shape(shape, drawn) for shape in shapes), "</g>"]
    return "\n".join([*lines, "</svg>", ""])


def _shape(shape: Shape, drawn: Picture) -> str:
    match shape:
        case Line():
            return _line(shape, drawn)
        case Mark():
            return _mark(shape, drawn)
        case Pill():
            return _pill(shape, drawn)
        case Label():
            return _label(shape, drawn)
        case Plate(box=(left, top, right, bottom)):
            return (
                f'<rect x="{_short(left)}" y="{_short(top)}" width="{_short(right - left)}" '
                f'height="{_short(bottom - top)}" fill="{drawn.colour("background")}"/>'
            )


def _line(line: Line, drawn: Picture) -> str:
    via = "L" if line.bend is None else f"Q{_pair(line.bend)} "
    stroke = _stroke(drawn.colour(line.colour, line.tint), line.width, line.dash)
    return f'<path d="M{_pair(line.start)} {via}{_pair(line.end)}" fill="none"{stroke}/>'


def _mark(mark: Mark, drawn: Picture) -> str:
    (x, y), half = mark.centre, mark.size / 2
    paint = f' fill="{drawn.colour(mark.fill, mark.tint)}"'
    if mark.border_width:
        paint += _stroke(drawn.colour(mark.border, mark.tint), mark.border_width, mark.dash)
    if mark.shape == "circle":
        return f'<circle cx="{_short(x)}" cy="{_short(y)}" r="{_short(half)}"{paint}/>'
    if mark.shape == "diamond":
        return f'<path d="M{"L".join(map(_pair, mark.corners))}Z"{paint}/>'
    side = _short(mark.size)
    return f'<rect x="{_short(x - half)}" y="{_short(y - half)}" width="{side}" height="{side}"{paint}/>'


def _pill(pill: Pill, drawn: Picture) -> str:
    left, top, right, bottom = pill.box
    place = f'x="{_short(left)}" y="{_short(top)}" width="{_short(right - left)}" height="{_short(bottom - top)}"'
    border = _stroke(drawn.colour(pill.border), pill.border_width, "solid")
    return f'<rect {place} rx="{_short(pill.radius)}" fill="{drawn.colour(pill.fill)}"{border}/>'


def _label(label: Label, drawn: Picture) -> str:
    x, y = label.at
    turn = f' transform="rotate({_short(-label.angle)} {_pair(label.at)})"' if label.angle else ""
    weight = ' font-weight="bold"' if label.is_bold else ""
    return (
        f'<text x="{_short(x)}" y="{_short(y)}" font-size="{_short(label.size)}" text-anchor="{label.anchor}"'
        f'{weight} fill="{drawn.colour(label.colour)}"{turn} xml:space="preserve">{_text(label.text)}</text>'
    )


def _stroke(colour: str, width: float, dash: str) -> str:
    lengths = f' stroke-dasharray="{" ".join(map(_short, DASHES[dash]))}"' if dash in DASHES else ""
    return f' stroke="{colour}" stroke-width="{_short(width)}"{lengths}'


def _text(text: str) -> str:
    return _ILLEGAL.sub(lambda match: f"⟨{ord(match.group()):04X}⟩", escape(text))


def _pair(point: tuple[float, float]) -> str:
    return f"{_short(point[0])} {_short(point[1])}"


def _short(value: float) -> str:
    """A hundredth of a point is finer than any printer."""
    return f"{round(value, 2):g}"
