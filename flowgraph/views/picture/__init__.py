"""A flow graph as a picture for a paper: shapes in points, before any file format.

The nodes stand where :mod:`flowgraph.views.layout` puts them and look as on the page. What differs is what paper asks for: a
given width, text of at least 5 points, no transparency, no text over another, and a theme without colours.
"""

from .build import Look, picture
from .content import MOST_EDGES
from .frame import COLUMN_WIDTHS
from .ink import ThemeName
from .shapes import Picture

__all__ = ["COLUMN_WIDTHS", "MOST_EDGES", "Look", "Picture", "ThemeName", "picture"]
