"""Recorded runs to begin with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from dash import html


class Example(NamedTuple):
    """A recorded run: its title, its prompt, its model, and the address that opens it."""

    title: str
    about: str
    model: str
    query: str


def example_list(examples: Sequence[Example]) -> html.Ul | html.P:
    """Links that open recorded runs."""
    if not examples:
        return html.P("No recorded runs are installed.", className="note")
    return html.Ul([html.Li(_link(example)) for example in examples], className="examples")


def _link(example: Example) -> html.A:
    about = [html.Span(example.about, className="note")] if example.about else []
    return html.A(
        [html.Span(example.title, className="example-title"), *about], href=example.query, className="example"
    )
