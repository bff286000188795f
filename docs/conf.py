"""The site: ``python -m sphinx -W -b html docs docs/_build``. It needs no network and runs no notebook."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import flowgraph

HERE = Path(__file__).parent
NOTEBOOKS = HERE.parent / "notebooks"


def copy_notebooks() -> None:
    """Copy the notebooks beside their index: Sphinx reads only what lies in its own folder, and there is one copy to edit."""
    for notebook in sorted(NOTEBOOKS.glob("*.ipynb")):
        target = HERE / "tutorials" / notebook.name
        # A new time would make Sphinx read an unchanged notebook again.
        if not target.exists() or target.read_bytes() != notebook.read_bytes():
            shutil.copyfile(notebook, target)
    shutil.copytree(NOTEBOOKS / "figures", HERE / "tutorials" / "figures", dirs_exist_ok=True)


copy_notebooks()

project = "flowgraph"
author = "The flowgraph authors"
copyright = author
version = release = flowgraph.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.viewcode", "numpydoc"]
exclude_patterns = ["_build", "jupyter_execute"]  # the second: where myst-nb puts pictures out of notebooks
root_doc = "index"
nitpicky = False

html_theme = "furo"
html_title = f"flowgraph {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
# The stored outputs are shown; tests/test_notebooks.py proves that they are what comes out.
nb_execution_mode = "off"

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
python_maximum_signature_line_length = 100
# Members of a class stand where :members: asks for them, not a second time in a table.
numpydoc_show_class_members = False

_BARS = re.compile(r"``.*?``|\\?\|")


def escape_bars(_app: Any, _what: str, _name: str, _of: Any, _options: Any, lines: list[str]) -> None:
    """Let |x| in a docstring be an absolute value: reStructuredText would look for a substitution of that name."""
    is_code = False
    for n, line in enumerate(lines):
        is_code = (is_code or line.lstrip().startswith(">>>")) and bool(line.strip())
        if not is_code:
            lines[n] = _BARS.sub(lambda found: r"\|" if found[0] == "|" else found[0], line)


def setup(app: Any) -> None:
    """Called by Sphinx."""
    # After numpydoc, which has made sections of the docstring by then.
    app.connect("autodoc-process-docstring", escape_bars, priority=900)
