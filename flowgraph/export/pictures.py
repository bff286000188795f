"""Pictures for papers as files: SVG, PDF, PNG and TikZ."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Literal, get_args

from ..errors import ArgumentError
from ..graph import FlowGraph
from ..views.picture import MOST_EDGES, Look, Picture, ThemeName, is_semantic, picture
from . import matplotlib_picture, tikz
from .files import atomic_write_bytes, atomic_write_text
from .svg import to_svg

PictureFormat = Literal["svg", "pdf", "png", "tex"]
FORMATS: tuple[str, ...] = get_args(PictureFormat)
PAGE_HEIGHT = 648.0
"""9 in, in points: about what a page of a journal holds."""
_LEAST_DPI, _MOST_DPI = 50, 2400


def render_picture(
    graph: FlowGraph,
    format: PictureFormat = "svg",
    *,
    width: str | int | float = "two-column",
    theme: ThemeName = "light",
    legend: bool = True,
    caption: bool = False,
    dpi: int = 300,
) -> bytes:
    """Draw a graph for a paper; the same graph gives the same bytes.

    Parameters
    ----------
    graph
        Any graph. Of flow with more than 2,000 edges the strongest 2,000 are drawn; the caption says so, and a warning does.
        Of a semantic graph everything is drawn, one layer below the other; one layer at one position fills two columns of a
        journal, and more than two pages are refused.
    format
        ``"svg"`` and ``"tex"`` (TikZ) need nothing more; ``"pdf"`` and ``"png"`` need matplotlib.
    width
        ``"one-column"`` (3.25 in), ``"two-column"`` (6.75 in) or points (1/72 in). The height follows from the graph.
    theme
        ``"light"``, or ``"print"``: black and greys on white, told apart without colour.
    legend
        Whether colours, shapes and widths are explained below the graph.
    caption
        Whether the caption is set below; :func:`save_picture` writes it beside the file in any case.
    dpi
        Dots per inch of a PNG.

    Returns
    -------
    The file's content.

    Raises
    ------
    ArgumentError
        If an argument has none of these values, or the graph does not fit into the width.
    ModuleNotFoundError
        If matplotlib is needed and not installed.

    Examples
    --------
    >>> graph = fg.routes(fg.edge_weights(trace, method="proximity"), threshold=0.1)
    >>> fg.render_picture(graph, "svg", width="one-column")[:5]
    b'<?xml'
    """
    return _drawn(graph, format, dpi, Look(width, theme, legend, caption))[1]


def save_picture(
    graph: FlowGraph,
    path: str | Path,
    *,
    width: str | int | float = "two-column",
    theme: ThemeName = "light",
    legend: bool = True,
    caption: bool = False,
    dpi: int = 300,
    overwrite: bool = True,
) -> Path:
    """Write a picture to ``NAME.svg``, ``.pdf``, ``.png`` or ``.tex``, and its caption to ``NAME.caption.txt``.

    Parameters
    ----------
    graph, width, theme, legend, caption, dpi
        As for :func:`render_picture`.
    path
        Where to; the extension is the format, in any case.
    overwrite
        Whether files of these names may be replaced.

    Returns
    -------
    The path.

    Raises
    ------
    ArgumentError
        As for :func:`render_picture`; or if a file exists and ``overwrite`` is False, or cannot be written.
    """
    path = Path(path)
    format = path.suffix.lower().removeprefix(".")
    drawn, content = _drawn(graph, format, dpi, Look(width, theme, legend, caption))
    beside = path.with_name(f"{path.stem}.caption.txt")
    if not overwrite and beside.exists():
        raise ArgumentError(
            f"path={str(path)!r} has a caption at {str(beside)!r}, which exists; pass overwrite=True to replace it"
        )
    atomic_write_bytes(path, content, overwrite=overwrite)
    atomic_write_text(beside, f"{drawn.caption}\n", overwrite=overwrite)
    return path


def _drawn(graph: FlowGraph, format: str, dpi: int, look: Look) -> tuple[Picture, bytes]:
    """The picture and the file's content."""
    if format not in FORMATS:
        raise ArgumentError(f"format={format!r}; expected one of {', '.join(map(repr, FORMATS))}")
    if isinstance(dpi, bool) or not _LEAST_DPI <= dpi <= _MOST_DPI:
        raise ArgumentError(f"dpi={dpi!r}; expected a number in {_LEAST_DPI}…{_MOST_DPI}")
    match format:
        case "svg":
            drawn = picture(graph, look)
            content = to_svg(drawn).encode()
        case "tex":
            drawn = picture(graph, look, tikz.spell)
            content = tikz.to_tikz(drawn).encode()
        case _:
            drawn = picture(graph, look, matplotlib_picture.spell)
            content = matplotlib_picture.to_matplotlib(drawn, "pdf" if format == "pdf" else "png", dpi=dpi)
    _warn(graph, drawn)
    return drawn, content


def _warn(graph: FlowGraph, drawn: Picture) -> None:
    if len(graph) > MOST_EDGES and not is_semantic(graph):
        warnings.warn(
            f"the graph has {len(graph):,} edges, of which the strongest {MOST_EDGES:,} are drawn; "
            "choose fewer yourself with keep_strongest",
            stacklevel=4,
        )
    if drawn.height > PAGE_HEIGHT:
        warnings.warn(
            f"the picture is {drawn.height / 72:.1f} in high, and a page holds about {PAGE_HEIGHT / 72:g} in: "
            f"draw fewer layers or {'positions' if is_semantic(graph) else 'a shorter prompt'}",
            stacklevel=4,
        )
