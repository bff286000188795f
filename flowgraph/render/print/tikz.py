r"""A picture as a ``tikzpicture`` that plain pdfLaTeX sets: ``\usepackage{tikz}`` is all it needs.

The text is set in the document's own sans-serif. Colours have names, defined at the top, so that a paper can change them in one
place. What pdfLaTeX cannot set without further packages is written as its code point, ``<U+1F600>``.
"""

from __future__ import annotations

import unicodedata
from itertools import groupby

from .shapes import DASHES, Label, Line, Mark, Picture, Pill, Plate, Shape

_SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\symbol{34}", "`": r"\symbol{96}", "'": r"\symbol{39}", "-": "-{}", ",": ",{}", "!": "!{}",
    "?": "?{}", " ": "~", "[": "{[}", "]": "{]}",
}  # fmt: skip
# Set with the fonts that every TeX has, in text or in mathematics.
_SETTABLE = {
    "ß": r"\ss{}", "æ": r"\ae{}", "Æ": r"\AE{}", "œ": r"\oe{}", "Œ": r"\OE{}", "ø": r"\o{}", "Ø": r"\O{}", "ł": r"\l{}",
    "Ł": r"\L{}", "ı": r"\i{}", "¿": "?`", "¡": "!`", "§": r"\S{}", "¶": r"\P{}", "–": r"\textendash{}",
    "—": r"\textemdash{}", "‘": r"\textquoteleft{}", "’": r"\textquoteright{}", "“": r"\textquotedblleft{}",
    "”": r"\textquotedblright{}", "…": "...", "•": r"$\bullet$", "·": r"$\cdot$", "×": r"$\times$", "÷": r"$\div$",
    "±": r"$\pm$", "−": "$-$", "≤": r"$\leq$", "≥": r"$\geq$", "≈": r"$\approx$", "→": r"$\rightarrow$",
    "←": r"$\leftarrow$", "␣": r"\textvisiblespace{}", "⏎": r"$\hookleftarrow$", "⇥": r"$\rightarrow$\kern-.3em\textbar{}",
    "⟨": r"$\langle$", "⟩": r"$\rangle$", "◌": r"$\circ$", "○": r"$\circ$", "●": r"$\bullet$", "γ": r"$\gamma$", "β": r"$\beta$",
    "Σ": r"$\Sigma$",
}  # fmt: skip
_ACCENTS = {
    "\u0300": "`", "\u0301": "'", "\u0302": "^", "\u0303": "~", "\u0304": "=", "\u0306": "u", "\u0307": ".", "\u0308": '"',
    "\u030a": "r", "\u030b": "H", "\u030c": "v", "\u0327": "c",
}  # fmt: skip
_ANCHORS = {"start": "base west", "middle": "base", "end": "base east"}
_DASHES = {
    name: f", dash pattern=on {drawn:g}pt off {empty:g}pt" for name, (drawn, empty) in DASHES.items()
}  # fmt: skip


def to_tikz(drawn: Picture) -> str:
    r"""Write a picture whose texts were spelled by :func:`spell`, to ``\input`` into a paper.

    Its first line says what the preamble has to load.
    """
    used = {name for shape in drawn.shapes for name in _colours(shape)} | {"background"}
    lines = [
        r"% In the preamble: \usepackage{tikz}",
        f"% {_ascii(drawn.caption)}",
        *([f"% {_ascii(drawn.provenance)}"] if drawn.provenance else []),
        r"\begin{tikzpicture}[x=1bp, y=-1bp, inner sep=0pt, outer sep=0pt, line cap=butt]",
        *(rf"  \definecolor{{flow{name}}}{{HTML}}{{{drawn.palette[name][1:]}}}" for name in sorted(used)),
        rf"  \path[use as bounding box] (0,0) rectangle ({_pair((drawn.width, drawn.height))});",
    ]
    for name, shapes in groupby(drawn.shapes, lambda shape: f"{type(shape).__name__.lower()}s"):
        lines += [f"  % {name}", *(f"  {_shape(shape)}" for shape in shapes)]
    return "\n".join([*lines, r"\end{tikzpicture}", ""])


def spell(text: str) -> str:
    """A text in characters that pdfLaTeX can set: others as ``<U+1F600>``, marks of direction left out."""
    kept = []
    for character in unicodedata.normalize("NFC", text):
        if " " <= character <= "~" or character in _SETTABLE or _accented(character):
            kept.append(character)
        elif unicodedata.category(character) != "Cf":
            kept.append(f"<U+{ord(character):04X}>")
    return "".join(kept)


def paragraph(text: str) -> str:
    """A text in LaTeX as :func:`latex`, whose lines may break at its spaces."""
    return " ".join(latex(word) for word in spell(text).split(" "))


def latex(text: str) -> str:
    """A spelled text in LaTeX, each character as itself and nothing as a command or a ligature."""
    return "".join(_SPECIAL.get(c) or _SETTABLE.get(c) or _accented(c) or c for c in spell(text))


def _accented(character: str) -> str:
    parts = unicodedata.normalize("NFD", character)
    if len(parts) != 2 or not parts[0].isascii() or parts[1] not in _ACCENTS:
        return ""
    base = {"i": r"\i", "j": r"\j"}.get(parts[0], parts[0])
    return rf"\{_ACCENTS[parts[1]]}{{{base}}}"


def _shape(shape: Shape) -> str:
    match shape:
        case Line():
            return _line(shape)
        case Mark():
            return _mark(shape)
        case Pill():
            return _pill(shape)
        case Label():
            return _label(shape)
        case Plate(box=(left, top, right, bottom)):
            return rf"\fill[flowbackground] ({_pair((left, top))}) rectangle ({_pair((right, bottom))});"


def _line(line: Line) -> str:
    way = "--"
    if line.bend is not None:
        # TikZ knows curves of two control points: each lies two thirds of the way to the one of ours.
        controls = [
            tuple(a + 2 / 3 * (b - a) for a, b in zip(end, line.bend, strict=True)) for end in (line.start, line.end)
        ]
        way = ".. controls " + " and ".join(f"({_pair((u, v))})" for u, v in controls) + " .."
    look = f"{_tinted(line.colour, line.tint)}, line width={_short(line.width)}pt{_DASHES.get(line.dash, '')}"
    return rf"\draw[{look}] ({_pair(line.start)}) {way} ({_pair(line.end)});"


def _mark(mark: Mark) -> str:
    look = f"fill={_tinted(mark.fill, mark.tint)}"
    command = r"\fill"
    if mark.border_width:
        command = r"\filldraw"
        look += f", draw={_tinted(mark.border, mark.tint)}, line width={_short(mark.border_width)}pt"
        look += _DASHES.get(mark.dash, "")
    (x, y), half = mark.centre, mark.size / 2
    if mark.shape == "circle":
        return rf"{command}[{look}] ({_pair(mark.centre)}) circle[radius={_short(half)}bp];"
    if mark.shape == "diamond":
        return rf"{command}[{look}] {' -- '.join(f'({_pair(corner)})' for corner in mark.corners)} -- cycle;"
    return rf"{command}[{look}] ({_pair((x - half, y - half))}) rectangle ({_pair((x + half, y + half))});"


def _pill(pill: Pill) -> str:
    left, top, right, bottom = pill.box
    look = f"fill=flow{pill.fill}, draw=flow{pill.border}, line width={_short(pill.border_width)}pt"
    corners = f"rounded corners={_short(pill.radius)}bp"
    return rf"\filldraw[{look}, {corners}] ({_pair((left, top))}) rectangle ({_pair((right, bottom))});"


def _label(label: Label) -> str:
    look = f"anchor={_ANCHORS[label.anchor]}, text=flow{label.colour}"
    if label.angle:
        look += f", rotate={_short(label.angle)}"
    size, lead = _short(label.size), _short(1.2 * label.size)
    font = rf"\fontsize{{{size}}}{{{lead}}}\sffamily" + (r"\bfseries" if label.is_bold else "") + r"\selectfont"
    return rf"\node[{look}, font={{{font}}}] at ({_pair(label.at)}) {{{latex(label.text)}}};"


def _colours(shape: Shape) -> tuple[str, ...]:
    match shape:
        case Mark() | Pill():
            return shape.fill, shape.border
        case Line() | Label():
            return (shape.colour,)
        case _:
            return ()


def _tinted(colour: str, tint: float) -> str:
    return f"flow{colour}" if tint >= 1 else f"flow{colour}!{_short(100 * tint)}!flowbackground"


def _pair(point: tuple[float, float]) -> str:
    return f"{_short(point[0])},{_short(point[1])}"


def _short(value: float) -> str:
    # Never with an exponent, which TeX does not read.
    return f"{value:.2f}".rstrip("0").rstrip(".")


def _ascii(text: str) -> str:
    return "".join(c if " " <= c <= "~" else f"<U+{ord(c):04X}>" for c in text)
