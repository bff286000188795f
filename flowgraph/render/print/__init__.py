"""A graph as a picture for a paper: shapes in points, before any file format.

The nodes stand where :mod:`flowgraph.render.scene.layout` or, of semantic graphs, :mod:`flowgraph.render.scene.semantic_plan` puts them, and
look as on the page. What differs is what paper asks for: a
given width, text of at least 5 points, no transparency, no text over another, and a theme without colours.
"""

from .build import Look, is_semantic, picture
from .content import MOST_EDGES
from .frame import COLUMN_WIDTHS
from .grid import grid_picture
from .ink import ThemeName
from .shapes import Picture

__all__ = ["COLUMN_WIDTHS", "MOST_EDGES", "Look", "Picture", "ThemeName", "grid_picture", "is_semantic", "picture"]
