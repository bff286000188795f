"""How modules of this package are imported: late, one thread at a time, and for one release by their old names with a warning."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
import threading
import warnings
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

_ONE_AT_A_TIME = threading.RLock()

MOVED = {
    "analyses.places": "values.places", "attribution": "lenses.direct_attribution", "compiling": "kernels.prepare",
    "export": "files", "export.attributes": "files.attributes", "export.checked": "files.checked",
    "export.circuit_file": "files.circuit_file", "export.csv_file": "files.csv_file", "export.dot": "files.dot",
    "export.files": "atomic_file", "export.gexf": "files.gexf", "export.gml": "files.gml",
    "export.graphml": "files.graphml", "export.graphml_reader": "files.graphml_reader",
    "export.imports": "files.imports", "export.json_file": "files.json_file",
    "export.matplotlib_picture": "render.print.matplotlib_picture", "export.networkx_graph": "files.networkx_graph",
    "export.neuronpedia": "files.neuronpedia", "export.pictures": "render.print.pictures",
    "export.svg": "render.print.svg", "export.tables": "files.tables", "export.tikz": "render.print.tikz",
    "export.trace_file": "files.trace_file", "export.trace_reader": "files.trace_reader", "filters": "values.nucleus",
    "flow": "values.connected_flow", "flow_kernels": "kernels.max_flow", "graph": "values.flow_graph",
    "graph_info": "values.graph_info", "heads": "lenses.head_scores", "masses": "values.mass",
    "matrices": "values.token_matrix", "methods.weights": "values.edge_weights", "nodes": "values.node",
    "notes": "values.note", "prompting": "values.inputs", "qk": "lenses.query_key", "reading": "values.reading",
    "recorded": "values.trace", "rollout_kernels": "kernels.rollout", "table": "charts.table", "views": "render",
    "views.attention_codes": "render.scene.attention_codes", "views.attention_data": "render.scene.attention_data",
    "views.attention_figure": "render.plots.attention_figure", "views.attention_view": "render.page.attention_view",
    "views.caption": "render.words.caption", "views.document": "render.page.document",
    "views.elements": "render.scene.elements", "views.explain": "render.words.explain",
    "views.faithfulness_figure": "render.plots.figures", "views.figures": "render.plots.figures",
    "views.heatmaps": "render.plots.figures", "views.html": "render.page.html", "views.layout": "render.scene.layout",
    "views.legend": "render.scene.legend", "views.notebook": "render.notebook.notebook",
    "views.noted": "render.scene.noted", "views.picture": "render.print", "views.picture.axes": "render.print.axes",
    "views.picture.build": "render.print.build", "views.picture.content": "render.print.content",
    "views.picture.frame": "render.print.frame", "views.picture.ink": "render.print.ink",
    "views.picture.labels": "render.print.labels", "views.picture.legend": "render.print.legend",
    "views.picture.matrix": "render.print.grid", "views.picture.semantic": "render.print.semantic",
    "views.picture.semantic_ink": "render.print.semantic_ink", "views.picture.shapes": "render.print.shapes",
    "views.plotting": "render.plots.plotting", "views.roles": "render.scene.roles",
    "views.sankey": "render.plots.sankey", "views.semantic_elements": "render.scene.semantic_elements",
    "views.semantic_layout": "render.scene.semantic_layout", "views.semantic_legend": "render.scene.semantic_legend",
    "views.semantic_page": "render.page.semantic_page", "views.semantic_plan": "render.scene.semantic_plan",
    "views.semantic_style": "render.scene.semantic_style", "views.style": "render.scene.style",
    "views.tables": "render.page.tables", "views.terminal": "render.words.terminal", "views.text": "charts.text",
    "views.widget": "render.notebook.widget",
}  # fmt: skip
"""Old name → new name, both inside the package."""
_PACKAGE = __name__.rpartition(".")[0]


def late(module: str) -> ModuleType:
    """Import a module that is first needed now; one thread at a time.

    Two threads that import a folder and a file of it at once would wait for each other.
    """
    with _ONE_AT_A_TIME:
        return importlib.import_module(module)


def late_names(package: str, where: Mapping[str, str]) -> Callable[[str], Any]:
    """The ``__getattr__`` of a package whose names are imported when first asked for.

    Parameters
    ----------
    package
        Name of the package.
    where
        Name → module inside the package that has it.
    """

    def get(name: str) -> Any:
        if name not in where:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(late(f"{package}.{where[name]}"), name)
        setattr(sys.modules[package], name, value)
        return value

    return get


def old_name(module: str, old: str, new: str) -> Any:
    """What a name of a module is called now, for one release with a warning."""
    warnings.warn(
        f"{module}.{old} is {module}.{new} now; the old name goes with the next release",
        DeprecationWarning,
        stacklevel=3,
    )
    return getattr(sys.modules[module], new)


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def __init__(self) -> None:
        self._specs: dict[str, importlib.machinery.ModuleSpec | None] = {}

    def find_spec(self, fullname: str, *_where: object) -> importlib.machinery.ModuleSpec | None:
        old = fullname.removeprefix(f"{_PACKAGE}.")
        return importlib.machinery.ModuleSpec(fullname, self) if old != fullname and old in MOVED else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        new = f"{_PACKAGE}.{MOVED[spec.name.removeprefix(f'{_PACKAGE}.')]}"
        warnings.warn(
            f"{spec.name} is {new} now; this name goes with the next release", DeprecationWarning, stacklevel=2
        )
        module = importlib.import_module(new)
        self._specs[spec.name] = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        # The import system has just given the module the spec of its old name.
        assert module.__spec__ is not None
        module.__spec__ = self._specs.pop(module.__spec__.name)


def install() -> None:
    """Let the old names be imported."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        # First, because a folder of a new name may hold a file of an old one.
        sys.meta_path.insert(0, _Finder())
