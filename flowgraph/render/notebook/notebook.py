"""A flow graph in a notebook: its page inside a frame, which lives without a kernel; or, outside of notebooks, in the browser."""

from __future__ import annotations

import sys
import tempfile
import webbrowser
from html import escape
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...charts import rendering
from ...charts.diagram import Diagram
from ...errors import ArgumentError
from ...values.flow_graph import FlowGraph
from ..page.document import HEIGHT, HEIGHTS, THEME_CHOICES, document
from ..page.html import page_of
from ..scene.elements import shown_graph

if TYPE_CHECKING:
    from .widget import FlowWidget


@rendering.html.register(Diagram)
def diagram_frame(diagram: Diagram[FlowGraph]) -> str:
    """The page of a diagram's graph in a frame; of a level of the slider that is asked for, the graph as far as it is shown."""
    return frame(_graph(diagram))


def frame(graph: FlowGraph, *, height: int = HEIGHT, theme: str = "auto") -> str:
    """An ``<iframe>`` that holds the whole page of a graph.

    The page is inside the frame's ``srcdoc``: nothing is fetched, frames know nothing of each other, and the sandbox lets the
    page run its own scripts and nothing else.

    Parameters
    ----------
    graph
        Any flow graph.
    height
        Height of the frame in px.
    theme
        ``"auto"`` (as the system is), ``"light"`` or ``"dark"``.

    Raises
    ------
    ArgumentError
        If ``height`` is not between 200 and 4,000, or ``theme`` is not known.
    """
    _check(height, theme)
    page = page_of(graph)
    # Between single quotes only these two mean anything; a page has hundreds of thousands of other marks that need no escape.
    held = document(page, theme=theme, compact=True).replace("&", "&amp;").replace("'", "&#39;")
    return (
        f'<iframe sandbox="allow-scripts" title="{escape(page.title)}" height="{height}" '
        f"style=\"width:100%;border:0;border-radius:6px;display:block\" srcdoc='{held}'></iframe>"
    )


@rendering.show.register(Diagram)
def show(diagram: Diagram[FlowGraph], *, height: int = HEIGHT, theme: str = "auto") -> None:
    """Show a graph in the notebook, or in the browser where there is no IPython.

    Parameters
    ----------
    diagram
        That of the graph.
    height, theme
        As for :func:`frame`; the browser's page fills its window.

    Raises
    ------
    ArgumentError
        As for :func:`frame`.
    """
    _check(height, theme)
    graph = _graph(diagram)
    if _is_in_ipython():
        from IPython.display import display

        display({"text/html": frame(graph, height=height, theme=theme), "text/plain": repr(graph)}, raw=True)
        return
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", prefix="flowgraph-", suffix=".html", delete=False) as file:
        file.write(document(page_of(graph), theme=theme))
    webbrowser.open(Path(file.name).as_uri())


@rendering.widget.register(FlowGraph)
def widget(graph: FlowGraph, **traits: Any) -> FlowWidget:
    """The widget of a graph: see :class:`flowgraph.render.notebook.widget.FlowWidget`.

    Raises
    ------
    ArgumentError
        If anywidget is not installed.
    """
    if find_spec("anywidget") is None:
        raise ArgumentError("widget() needs anywidget: pip install 'transformer-flowgraph[notebook]'")
    from .widget import FlowWidget

    return FlowWidget(graph, **traits)


def _graph(diagram: Diagram[FlowGraph]) -> FlowGraph:
    return diagram.graph if diagram.keep is None else shown_graph(diagram.graph, diagram.keep)


def _is_in_ipython() -> bool:
    """Whether this code runs under IPython, which nobody has to import to find out."""
    shell = sys.modules.get("IPython")
    return shell is not None and shell.get_ipython() is not None


def _check(height: int, theme: str) -> None:
    low, high = HEIGHTS
    if isinstance(height, bool) or not isinstance(height, int) or not low <= height <= high:
        raise ArgumentError(f"height={height!r} must be a whole number of px between {low} and {high:,}")
    if theme not in THEME_CHOICES:
        raise ArgumentError(f"theme={theme!r} is not known; expected one of {', '.join(THEME_CHOICES)}")
