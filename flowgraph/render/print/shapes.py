"""What a picture for a paper consists of: lines, marks, pills, texts and plates on a page measured in points.

A :class:`Picture` knows neither matplotlib nor TeX; the writers in :mod:`flowgraph.files` turn it into files. The origin is
the upper left corner and y runs downwards. Colours are names, which :attr:`Picture.palette` turns into ``#RRGGBB``. Nothing
is transparent: a line that should be faint names how much of its colour it has, the rest being background. Printers treat
transparency badly, and mixed colours look the same in every format.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Point = tuple[float, float]
Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""
Anchor = Literal["start", "middle", "end"]
Dash = Literal["solid", "dashed", "dotted", "fine"]
DASHES: Mapping[str, tuple[float, float]] = {"dashed": (3.0, 1.8), "dotted": (0.6, 1.4), "fine": (1.1, 0.8)}
"""Drawn and empty lengths of a broken line, in points; ``fine`` is for the outlines of marks."""

# Advance widths of " " to "~" in DejaVu Sans, in hundredths of the size (of the backslash in TeX): Helvetica, Arial, the fonts that
# stand in for them and Computer Modern are narrower, so that text which fits by this measure fits in all of them.
_WIDTHS = (
    32, 40, 46, 84, 64, 95, 78, 28, 39, 39, 50, 84, 32, 36, 32, 34, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 34, 34, 84, 84, 84, 53,
    100, 69, 69, 70, 77, 64, 58, 78, 75, 30, 30, 66, 56, 87, 75, 79, 61, 79, 70, 64, 61, 74, 69, 99, 69, 61, 69, 39, 50, 39, 84, 50,
    50, 62, 64, 55, 64, 62, 36, 64, 64, 28, 28, 58, 28, 98, 64, 62, 64, 64, 42, 52, 40, 64, 60, 82, 60, 60, 53, 64, 34, 64, 84,
)  # fmt: skip
_UNUSUAL = {"⏎": 1.15}
_WIDE, _SYMBOL, _OTHER, _BOLD = 1.0, 1.4, 0.9, 1.24
_ASCENT, _DESCENT = 0.8, 0.24
_CAPITAL = 0.7
_ROUND = 1.8


@dataclass(frozen=True, slots=True)
class Line:
    """A straight line, or a curve with one control point ``bend``; ``tint`` is the part of its colour that it has."""

    start: Point
    end: Point
    colour: str
    width: float
    tint: float = 1.0
    dash: Dash = "solid"
    bend: Point | None = None


@dataclass(frozen=True, slots=True)
class Mark:
    """A circle, square or diamond of ``size`` points across, with a border in the middle of its edge."""

    shape: Literal["circle", "square", "diamond"]
    centre: Point
    size: float
    fill: str
    border: str
    border_width: float
    dash: Dash = "solid"
    tint: float = 1.0

    @property
    def corners(self) -> tuple[Point, Point, Point, Point]:
        """Corners of a diamond, from the top clockwise."""
        (x, y), half = self.centre, self.size / 2
        return (x, y - half), (x + half, y), (x, y + half), (x - half, y)

    def box(self) -> Box:
        """Where it is, border included."""
        half = (self.size + self.border_width) / 2
        x, y = self.centre
        return x - half, y - half, x + half, y + half


@dataclass(frozen=True, slots=True)
class Pill:
    """A rectangle with round corners, ``box`` being the middle of its border."""

    box: Box
    fill: str
    border: str
    border_width: float

    @property
    def radius(self) -> float:
        """Radius of its corners."""
        return min(_ROUND, (self.box[3] - self.box[1]) / 2)


@dataclass(frozen=True, slots=True)
class Label:
    """One line of text: ``at`` is on its baseline, at its start, middle or end; ``angle`` in degrees turns it there."""

    text: str
    at: Point
    size: float
    colour: str
    anchor: Anchor = "start"
    is_bold: bool = False
    angle: float = 0.0

    def box(self) -> Box:
        """Where it is at most, before it is turned."""
        width = text_width(self.text, self.size, self.is_bold)
        left = self.at[0] - {"start": 0.0, "middle": width / 2, "end": width}[self.anchor]
        return left, self.at[1] - _ASCENT * self.size, left + width, self.at[1] + _DESCENT * self.size


@dataclass(frozen=True, slots=True)
class Plate:
    """A rectangle of background behind a text."""

    box: Box


Shape = Line | Mark | Pill | Label | Plate


@dataclass(frozen=True, slots=True)
class Picture:
    """A page of ``width`` × ``height`` points.

    Attributes
    ----------
    shapes
        From the lowest to the uppermost.
    palette
        Name → ``#RRGGBB`` of every colour.
    title
        What it is, in a few words.
    caption
        One line: what it shows, and what it leaves out.
    provenance
        One line: what makes it again.
    """

    width: float
    height: float
    shapes: tuple[Shape, ...]
    palette: Mapping[str, str]
    title: str
    caption: str
    provenance: str = ""

    def colour(self, name: str, tint: float = 1.0) -> str:
        """``#RRGGBB`` of a colour of which a part ``1 - tint`` is background."""
        channels = zip(_channels(self.palette[name]), _channels(self.palette["background"]), strict=True)
        return "#" + "".join(f"{round(tint * own + (1 - tint) * ground):02X}" for own, ground in channels)


def _channels(colour: str) -> tuple[int, ...]:
    return tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))


def text_width(text: str, size: float, is_bold: bool = False) -> float:
    """Width in points that a text has at most, in any of the fonts that pictures are set in."""
    return sum(map(_advance, text)) * size * (_BOLD if is_bold else 1.0)


def _advance(character: str) -> float:
    code = ord(character)
    if 32 <= code < 127:
        return _WIDTHS[code - 32] / 100
    if character in _UNUSUAL:
        return _UNUSUAL[character]
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0.0
    if unicodedata.category(character).startswith("L"):
        return _WIDE if unicodedata.east_asian_width(character) in "WF" else _OTHER
    return _SYMBOL if unicodedata.east_asian_width(character) == "W" else _WIDE


def shortened(text: str, size: float, room: float, is_bold: bool = False) -> str:
    """The text, or as much of its start as fits into ``room`` points, with an ellipsis."""
    if text_width(text, size, is_bold) <= room:
        return text
    room -= text_width("…", size, is_bold)
    kept = text
    while kept and text_width(kept, size, is_bold) > room:
        kept = kept[:-1]
    return kept.rstrip() + "…"


def wrapped(text: str, room: float, size: float, *, is_bold: bool = False, most: int | None = None) -> list[str]:
    """The text in lines of at most ``room`` points; of more than ``most`` lines the last one says that there is more."""
    lines = [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}".lstrip()
        if lines[-1] and text_width(longer, size, is_bold) > room:
            if len(lines) == most:
                lines[-1] = shortened(f"{longer} ", size, room, is_bold)
                break
            lines.append("")
            longer = word
        lines[-1] = shortened(longer, size, room, is_bold)
    return lines


def baseline(middle: float, size: float) -> float:
    """Baseline of a text whose capitals and digits are centred on ``middle``."""
    return middle + _CAPITAL * size / 2


def corners(label: Label) -> tuple[Point, Point, Point, Point]:
    """Corners of a text's box after it is turned, in order round it."""
    left, top, right, bottom = label.box()
    x, y = label.at
    cosine, sine = math.cos(math.radians(label.angle)), math.sin(math.radians(label.angle))

    def turned(u: float, v: float) -> Point:
        # The angle is counter-clockwise as on paper, and y runs downwards.
        return x + (u - x) * cosine + (v - y) * sine, y - (u - x) * sine + (v - y) * cosine

    return turned(left, top), turned(right, top), turned(right, bottom), turned(left, bottom)
