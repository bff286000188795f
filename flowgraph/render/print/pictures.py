"""Pictures for papers as files: SVG, PDF, PNG and TikZ, of graphs and of charts."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

from ...atomic_file import as_path, atomic_write_bytes, atomic_write_text
from ...charts import rendering
from ...charts.bars import Bars
from ...charts.diagram import Diagram
from ...charts.grid import Grid
from ...charts.lines import Lines
from ...charts.table import Table
from ...errors import ArgumentError
from ...values.arguments import takes
from ...values.flow_graph import FlowGraph
from ..scene.elements import shown_graph
from . import MOST_EDGES, Look, Picture, ThemeName, grid_picture, is_semantic, matplotlib_picture, picture, tikz
from .bars import bars_picture
from .content import Spell
from .lines import lines_picture
from .svg import to_svg
from .table import table_picture

PictureFormat = Literal["svg", "pdf", "png", "tex"]
FORMATS: tuple[str, ...] = get_args(PictureFormat)
PAGE_HEIGHT = 648.0
"""9 in, in points: about what a page of a journal holds."""
_CHARTS: dict[type, Callable[[Any, Look, Spell], Picture]] = {
    Bars: bars_picture,
    Grid: grid_picture,
    Lines: lines_picture,
    Table: table_picture,
}
_LEAST_DPI, _MOST_DPI = 50, 2400


@takes(FlowGraph)
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
    r"""Write a picture to ``NAME.svg``, ``.pdf``, ``.png`` or ``.tex``, and its caption beside it.

    ``NAME.caption.txt`` holds the caption as text, ``NAME.caption.tex`` as LaTeX: ``\caption{\input{NAME.caption}}``, or pasted.

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
    path = as_path(path)
    drawn, content = _drawn(graph, _format(path), dpi, Look(width, theme, legend, caption))
    return _write(path, drawn, content, overwrite=overwrite)


@rendering.picture.register(*_CHARTS)
def save_chart(
    chart: Any,
    path: str | Path,
    *,
    width: str | int | float = "two-column",
    theme: ThemeName = "light",
    caption: bool = False,
    dpi: int = 300,
    overwrite: bool = True,
) -> Path:
    """Write a chart as a picture, and its caption beside it as for :func:`save_picture`.

    Raises
    ------
    ArgumentError
        If the ending is not known, or the chart does not fit into the width; otherwise as for
        :func:`save_picture`.
    """
    path = as_path(path)
    if _format(path) not in FORMATS:
        known = ", ".join(f".{name}" for name in FORMATS)
        raise ArgumentError(
            f"path={str(path)!r} has the extension {path.suffix!r}; expected .csv or .npz for the numbers, or {known} for a picture"
        )
    look = Look(width, theme, caption=caption)
    draw = _CHARTS[type(chart)]
    drawn, content = _made(_format(path), dpi, lambda spell: draw(chart, look, spell))
    return _write(path, drawn, content, overwrite=overwrite)


@rendering.picture.register(Diagram)
def save_diagram(diagram: Diagram[FlowGraph], path: str | Path, **options: Any) -> Path:
    """Write the picture of a diagram's graph: :func:`save_picture`."""
    graph = diagram.graph if diagram.keep is None else shown_graph(diagram.graph, diagram.keep)
    return save_picture(graph, path, **options)


def caption_files(path: Path) -> tuple[Path, Path]:
    """Where the caption of a picture is written, as text and as LaTeX."""
    return path.with_name(f"{path.stem}.caption.txt"), path.with_name(f"{path.stem}.caption.tex")


def _format(path: Path) -> str:
    return path.suffix.lower().removeprefix(".")


def _write(path: Path, drawn: Picture, content: bytes, *, overwrite: bool) -> Path:
    r"""Write a picture, and its caption beside it: as text, and as LaTeX can set it in ``\caption{…}``."""
    beside = dict(zip(caption_files(path), (drawn.caption, tikz.paragraph(drawn.caption)), strict=True))
    for other in beside:
        if not overwrite and other.exists():
            raise ArgumentError(
                f"path={str(path)!r} has a caption at {str(other)!r}, which exists; pass overwrite=True to replace it"
            )
    atomic_write_bytes(path, content, overwrite=overwrite)
    for other, text in beside.items():
        atomic_write_text(other, f"{text}\n", overwrite=overwrite)
    return path


def _drawn(graph: FlowGraph, format: str, dpi: int, look: Look) -> tuple[Picture, bytes]:
    """The picture of a graph and the file's content."""
    drawn, content = _made(format, dpi, lambda spell: picture(graph, look, spell))
    _warn(graph, drawn)
    return drawn, content


def _made(format: str, dpi: int, draw: Callable[[Spell], Picture]) -> tuple[Picture, bytes]:
    """The picture, its texts spelled for the format, and the file's content."""
    if format not in FORMATS:
        raise ArgumentError(f"format={format!r}; expected one of {', '.join(map(repr, FORMATS))}")
    if isinstance(dpi, bool) or not _LEAST_DPI <= dpi <= _MOST_DPI:
        raise ArgumentError(f"dpi={dpi!r}; expected a number in {_LEAST_DPI}…{_MOST_DPI}")
    match format:
        case "svg":
            drawn = draw(str)
            return drawn, to_svg(drawn).encode()
        case "tex":
            drawn = draw(tikz.spell)
            return drawn, tikz.to_tikz(drawn).encode()
        case _:
            drawn = draw(matplotlib_picture.spell)
            return drawn, matplotlib_picture.to_matplotlib(drawn, "pdf" if format == "pdf" else "png", dpi=dpi)


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
