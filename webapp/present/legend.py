"""The legend of the picture as Dash components."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

from dash import html
from dash.development.base_component import Component

_TAGS: dict[str, Any] = {
    "section": html.Section, "h2": html.H2, "p": html.P, "span": html.Span, "div": html.Div, "b": html.B, "i": html.I,
    "ul": html.Ul, "li": html.Li,
}  # fmt: skip


def legend_components(markup: str) -> list[Component]:
    """The legend that flowgraph writes as HTML, as components: tags of a short list, texts as texts.

    Parameters
    ----------
    markup
        What :func:`flowgraph.render.legend_of` gives.

    Raises
    ------
    ValueError
        If there is a tag that is not on the list.
    """
    reader = _Reader()
    reader.feed(markup)
    reader.close()
    return [child for child in reader.open[0] if not isinstance(child, str)]


class _Reader(HTMLParser):
    """Components of what was read so far: the children of each tag that is open, outermost first."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[list[Any]] = [[]]
        self._begun: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in _TAGS:
            raise ValueError(f"the legend has a tag {tag!r}; known are {', '.join(_TAGS)}")
        self._begun.append((tag, dict(attrs)))
        self.open.append([])

    def handle_endtag(self, tag: str) -> None:
        name, attributes = self._begun.pop()
        if name != tag:
            raise ValueError(f"the legend closes {tag!r} where {name!r} is open")
        children = self.open.pop()
        self.open[-1].append(
            _TAGS[tag](children, className=attributes.get("class") or "", style=_style(attributes.get("style")))
        )

    def handle_data(self, data: str) -> None:
        if data.strip() or self._begun:
            self.open[-1].append(data)


def _style(text: str | None) -> dict[str, str]:
    """``height:2px;opacity:.4`` as a dictionary."""
    pairs = (part.partition(":") for part in (text or "").split(";") if part)
    return {name.strip(): value.strip() for name, _, value in pairs}
