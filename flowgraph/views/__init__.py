"""Pictures of flow graphs as plain data that tests can read, and the self-contained page made of them."""

from .caption import caption
from .html import render_html

__all__ = ["caption", "render_html"]
