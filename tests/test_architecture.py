"""The one direction of data: who may import whom, and what the front door shows."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import flowgraph

ROOT = Path(flowgraph.__file__).parent
APP = ROOT.parent / "webapp"

LAYERS = (
    {
        "compiling",
        "errors",
        "flow_kernels",
        "kernels",
        "matrices",
        "nodes",
        "notes",
        "reading",
        "rollout_kernels",
        "table",
    },
    {"models"},
    {"prompting"},
    {"tasks"},
    {"filters", "flow", "graph", "graph_info", "masses", "recorded", "tracing"},
    {"lenses", "attribution", "qk"},
    {"methods"},
    {"semantic"},
    {"analyses", "heads"},
    {"algorithms"},
    {"interventions"},
    {"circuits"},
    {"views"},
    {"export"},
    {"cli"},
)
"""From left to right; a module imports from layers to its left, or from its own."""

VALUE_METHODS = {
    ("recorded", "record"): {"lenses", "methods"},
    ("recorded", "save"): {"export"},
    ("recorded", "load"): {"export"},
    ("recorded", "_repr_html_"): {"views"},
    ("table", "save"): {"export"},
    ("table", "to_csv"): {"export"},
    ("table", "to_npz"): {"export"},
    ("table", "_repr_html_"): {"views"},
    ("table", "__str__"): {"views"},
    ("reading", "figure"): {"views"},
    ("reading", "_repr_html_"): {"views"},
    ("reading", "__str__"): {"views"},
    ("matrices", "figure"): {"views"},
    ("matrices", "save"): {"export"},
    ("matrices", "_repr_html_"): {"views"},
    ("methods", "_repr_html_"): {"views"},
    ("analyses", "figure"): {"views"},
    ("heads", "figure"): {"views"},
    ("circuits", "figure"): {"views"},
    ("heads", "_repr_html_"): {"views"},
    ("graph", "__repr__"): {"views"},
    ("graph", "save"): {"export"},
    ("tasks", "save"): {"export"},
    ("graph", "load"): {"export"},
    ("graph", "to_networkx"): {"export"},
    ("graph", "from_networkx"): {"export"},
    ("graph", "caption"): {"views"},
    ("graph", "explain"): {"views"},
    ("graph", "show"): {"views"},
    ("graph", "widget"): {"views"},
    ("graph", "_repr_html_"): {"views"},
}
"""The exception: methods of value objects that reach to the right, and how far."""

ANYWHERE = {"__init__", "errors"}


def modules() -> list[Path]:
    return sorted(path for path in ROOT.rglob("*.py"))


def unit(path: Path) -> str:
    """Name of the part of the package that a file belongs to: its folder, or its own name at the top."""
    relative = path.relative_to(ROOT)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def imports(path: Path) -> list[tuple[str, str | None, bool]]:
    """(imported part of the package, function it is imported in, whether only for types)."""
    found: list[tuple[str, str | None, bool]] = []
    package = ("flowgraph", *path.relative_to(ROOT).parts[:-1])

    def visit(node: ast.AST, function: str | None, typing_only: bool) -> None:
        if isinstance(node, ast.FunctionDef):
            function = node.name
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            typing_only = True
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            for target in [node.module] if node.module else [alias.name for alias in node.names]:
                full = (*base, *target.split("."))
                part = full[1] if len(full) > 1 and not full[1].startswith("__") else "__init__"
                found.append((part, function, typing_only))
        for child in ast.iter_child_nodes(node):
            visit(child, function, typing_only)

    visit(ast.parse(path.read_text(encoding="utf-8")), None, False)
    return found


def rank(name: str) -> int:
    return next(n for n, layer in enumerate(LAYERS) if name in layer)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_from_right_to_left(path):
    here = unit(path)
    if here == "__init__":
        return
    for there, function, typing_only in imports(path):
        if typing_only or there in ANYWHERE or there == here:
            continue
        allowed = VALUE_METHODS.get((here, function or ""), set())
        assert rank(there) <= rank(here) or there in allowed, (
            f"flowgraph/{path.relative_to(ROOT)} imports flowgraph.{there}, which lies to its right: data flows "
            "models → tracing → lenses → methods → algorithms → views → export → cli"
        )


def test_every_module_has_its_place_and_its_docstring():
    placed = set.union(*LAYERS) | {"__init__"}
    for path in modules():
        assert unit(path) in placed, f"{path.name} belongs to no layer; add it to LAYERS"
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), f"{path} says nothing about itself"


def test_the_exceptions_are_used():
    used = {
        (unit(path), function, there)
        for path in modules()
        for there, function, typing_only in imports(path)
        if not typing_only and (unit(path), function) in VALUE_METHODS
    }
    expected = {(here, name, there) for (here, name), parts in VALUE_METHODS.items() for there in parts}
    assert expected == {entry for entry in used if entry[2] not in ANYWHERE and entry[2] != entry[0]}


def test_the_front_door():
    assert len(set(flowgraph.__all__)) == len(flowgraph.__all__)
    assert set(flowgraph._MODULE_OF) | {"__version__"} == set(flowgraph.__all__)
    for name in flowgraph.__all__:
        assert getattr(flowgraph, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = flowgraph.nothing


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import flowgraph", ("torch", "transformers", "dash", "numpy", "networkx", "plotly")),
        ("import flowgraph; flowgraph.trace, flowgraph.build_graph", ("transformers", "dash", "plotly")),
        ("import flowgraph.cli", ("torch", "transformers", "dash")),
    ],
)
def test_imports_stay_light(statement, absent):
    code = f"{statement}\nimport sys\nprint([name for name in {absent!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_web_app_uses_the_front_doors():
    """Of flowgraph the app knows the public names, the errors and what its views show; the command knows the app."""
    for path in sorted(APP.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                beyond = [a for a in node.names if a.name.startswith("flowgraph.") and a.name != "flowgraph.errors"]
                assert not beyond, f"{path}:{node.lineno}"
            if isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").split(".")[0] == "flowgraph":
                assert node.module in ("flowgraph", "flowgraph.errors", "flowgraph.views"), f"{path}:{node.lineno}"
                if node.module == "flowgraph":
                    private = [alias.name for alias in node.names if alias.name not in flowgraph.__all__]
                    assert not private, f"{path}:{node.lineno} imports {private}"
    for path in modules():
        found = re.findall(r"^\s*(?:from|import) (?:flowgraph_webapp|dash)\b", path.read_text(encoding="utf-8"), re.M)
        assert not found or path == ROOT / "cli" / "app.py", path


def test_every_folder_is_installed():
    """The list is written by hand, because webapp/ goes by another name."""
    setup = tomllib.loads((ROOT.parent / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    folders = {
        ".".join((name, *path.parent.relative_to(root).parts)): path.parent.relative_to(ROOT.parent).as_posix()
        for name, root in (("flowgraph", ROOT), ("flowgraph_webapp", APP))
        for path in root.rglob("__init__.py")
    }
    assert sorted(setup["packages"]) == sorted(folders)
    moved = {name: folder for name, folder in folders.items() if name.startswith("flowgraph_webapp")}
    assert setup["package-dir"] == moved


def test_no_forbidden_habits():
    """No pickle, no eval, no swallowed exception, in the package and the app."""
    for path in [*modules(), *sorted(APP.rglob("*.py"))]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ExceptHandler):
                assert node.type is not None, f"{path}:{node.lineno} catches everything"
                # A server's loop may catch every fault, if it hands it on.
                hands_on = APP in path.parents and node.name in {
                    name.id for statement in node.body for name in ast.walk(statement) if isinstance(name, ast.Name)
                }
                # The library tokenizers raises plain Exception: whoever calls it may catch that, if it is told as ours at once.
                last = node.body[-1]
                hands_on |= isinstance(last, ast.Raise) and last.cause is not None and len(node.body) == 1
                caught = ast.unparse(node.type)
                assert caught != "BaseException", f"{path}:{node.lineno}"
                assert caught != "Exception" or hands_on, f"{path}:{node.lineno}"
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in ("eval", "exec", "torch.load", "pickle.load", "pickle.loads"), (
                    f"{path}:{node.lineno} calls {called}"
                )
