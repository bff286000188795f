"""A picture as PDF or PNG, drawn by matplotlib.

PDF holds its text as text in embedded TrueType fonts (type 42): journals refuse the type 3 fonts that matplotlib makes unless
told otherwise, and text as paths can be neither searched nor checked for its size.
"""

from __future__ import annotations

import importlib
import io
import threading
import unicodedata
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from ...version import __version__
from .shapes import DASHES, Label, Line, Mark, Picture, Pill, Plate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FONTS = ("Helvetica", "Arial", "Liberation Sans", "DejaVu Sans")
"""The first that is installed is used; the last one comes with matplotlib."""
FALLBACKS = (
    "DejaVu Sans", "Noto Sans", "Noto Sans CJK JP", "Noto Sans CJK SC", "Hiragino Sans", "Yu Gothic", "Microsoft YaHei",
    "Noto Sans Hebrew", "Noto Sans Arabic", "Noto Sans Devanagari", "Noto Sans Thai", "Noto Emoji", "Noto Sans Symbols",
    "Noto Sans Symbols2", "Segoe UI Symbol", "Arial Unicode MS",
)  # fmt: skip
"""Asked in this order for the characters that it does not have."""

_SETTINGS = {"pdf.fonttype": 42, "pdf.compression": 6, "font.size": 10, "axes.unicode_minus": False}
# Settings and fonts of matplotlib are shared by all threads of a process.
_LOCK = threading.RLock()


def to_matplotlib(drawn: Picture, format: Literal["pdf", "png"], *, dpi: int = 300) -> bytes:
    """Draw a picture whose texts were spelled by :func:`spell`; the same picture gives the same bytes.

    Raises
    ------
    ModuleNotFoundError
        If matplotlib is not installed.
    """
    matplotlib = _module("matplotlib")
    about = {
        "pdf": {"Title": drawn.title, "Subject": drawn.caption, "Creator": f"flowgraph {__version__}", "CreationDate": None,
                "Keywords": drawn.provenance or None},
        "png": {"Title": drawn.title, "Description": drawn.caption, "Software": f"flowgraph {__version__}",
                **({"Comment": drawn.provenance} if drawn.provenance else {})},
    }  # fmt: skip
    file = io.BytesIO()
    with _LOCK, matplotlib.rc_context(_SETTINGS):
        made = figure(drawn)
        _module(f"matplotlib.backends.backend_{'pdf' if format == 'pdf' else 'agg'}")
        made.savefig(file, format=format, dpi=dpi, metadata=about[format], facecolor=drawn.colour("background"))
    return file.getvalue()


def check_installed() -> None:
    """Refuse to go on where matplotlib is missing, before any work is done for a picture.

    Raises
    ------
    ModuleNotFoundError
        If matplotlib is not installed.
    """
    _module("matplotlib")


def figure(drawn: Picture) -> Figure:
    """The picture as a figure of matplotlib, which no window shows and no global list keeps."""
    made = _module("matplotlib.figure").Figure(figsize=(drawn.width / 72, drawn.height / 72))
    axes = made.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_axis_off()
    axes.set_xlim(0.0, drawn.width)
    axes.set_ylim(drawn.height, 0.0)
    for height, shape in enumerate(drawn.shapes):
        if isinstance(shape, Label):
            _add_label(axes, shape, drawn, height)
        else:
            axes.add_artist(_artist(shape, drawn, height))
    return made  # type: ignore[no-any-return]


def spell(text: str) -> str:
    """A text in characters that the installed fonts have: others as ``⟨1F600⟩``, marks of direction left out."""
    with _LOCK:
        kept = [c for c in text if unicodedata.category(c) != "Cf"]
        return "".join(
            c if any(ord(c) in _characters(name) for name in _families()) else f"⟨{ord(c):04X}⟩" for c in kept
        )


@cache
def _families() -> tuple[str, ...]:
    """Installed fonts, in the order in which characters are looked for."""
    fonts = _module("matplotlib.font_manager")
    installed = set(fonts.get_font_names())
    first = next(name for name in FONTS if name in installed)
    return tuple(dict.fromkeys([first, *(name for name in FALLBACKS if name in installed)]))


@cache
def _characters(family: str) -> frozenset[int]:
    fonts = _module("matplotlib.font_manager")
    return frozenset(fonts.get_font(fonts.findfont(family)).get_charmap())


def _artist(shape: Line | Mark | Pill | Plate, drawn: Picture, height: int) -> Any:
    patches = _module("matplotlib.patches")
    match shape:
        case Line():
            path = _module("matplotlib.path").Path
            points = [shape.start, shape.end] if shape.bend is None else [shape.start, shape.bend, shape.end]
            codes = [path.MOVETO, path.LINETO] if shape.bend is None else [path.MOVETO, path.CURVE3, path.CURVE3]
            return patches.PathPatch(
                path(points, codes), fill=False, edgecolor=drawn.colour(shape.colour, shape.tint), capstyle="butt",
                linewidth=shape.width, linestyle=_dashes(shape.dash, shape.width), zorder=height,
            )  # fmt: skip
        case Mark():
            look = {
                "facecolor": drawn.colour(shape.fill, shape.tint),
                "edgecolor": drawn.colour(
                    shape.border, shape.tint
                ),  # without a width, rather than "none", which is transparent
                "linewidth": shape.border_width,
                "linestyle": _dashes(shape.dash, shape.border_width),
                "zorder": height,
            }
            if shape.shape == "circle":
                return patches.Circle(shape.centre, shape.size / 2, **look)
            if shape.shape == "diamond":
                return patches.Polygon(shape.corners, closed=True, **look)
            corner = (shape.centre[0] - shape.size / 2, shape.centre[1] - shape.size / 2)
            return patches.Rectangle(corner, shape.size, shape.size, **look)
        case Pill(box=(left, top, right, bottom)):
            return patches.FancyBboxPatch(
                (left, top), right - left, bottom - top, boxstyle=f"round,pad=0,rounding_size={shape.radius}",
                facecolor=drawn.colour(shape.fill), edgecolor=drawn.colour(shape.border), linewidth=shape.border_width,
                zorder=height,
            )  # fmt: skip
        case Plate(box=(left, top, right, bottom)):
            ground = drawn.colour("background")
            return patches.Rectangle(
                (left, top), right - left, bottom - top, facecolor=ground, edgecolor=ground, linewidth=0, zorder=height
            )


def _add_label(axes: Any, label: Label, drawn: Picture, height: int) -> None:
    families = _families_for(label.text)
    axes.text(
        *label.at, label.text, fontsize=label.size, color=drawn.colour(label.colour), family=families,
        # The other fonts that are fallen back to may have no bold.
        weight="bold" if label.is_bold and set(families) <= {*FONTS} else "normal",
        ha={"start": "left", "middle": "center", "end": "right"}[label.anchor], va="baseline",
        rotation=label.angle, rotation_mode="anchor", zorder=height,
        parse_math=False,  # a dollar sign in a token is a dollar sign
    )  # fmt: skip


def _families_for(text: str) -> list[str]:
    """The fonts that a text needs."""
    first = _families()[0]
    found = (next((name for name in _families() if ord(c) in _characters(name)), first) for c in text)
    return list(dict.fromkeys([first, *found]))


def _dashes(dash: str, width: float) -> Any:
    """Lengths in line widths, as matplotlib counts them."""
    if dash not in DASHES or not width:
        return "solid"
    return 0.0, tuple(length / width for length in DASHES[dash])


def _module(name: str) -> Any:
    """A module of matplotlib, which is imported with the first picture."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != "matplotlib":
            raise
        raise ModuleNotFoundError(
            "PDF and PNG pictures are drawn with matplotlib, which is not installed: "
            "pip install 'transformer-flowgraph[figures]'; .svg and .tex need nothing more",
            name=error.name,
        ) from error
