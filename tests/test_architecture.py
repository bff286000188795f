"""The one direction of data: who may import whom, and what the front door shows."""

from __future__ import annotations

import ast
import functools
import importlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import networkx
import pytest

import flowgraph
from flowgraph.charts import rendering

ROOT = Path(flowgraph.__file__).parent
APP = ROOT.parent / "webapp"

LAYERS = (
    ("errors", "version", "atomic_file", "importing"),
    ("kernels", "charts"),
    ("models",),
    ("values",),
    ("tracing", "lenses"),
    ("methods",),
    ("interventions", "tasks"),
    ("algorithms", "semantic", "circuits"),
    ("analyses",),
    ("render",),
    ("files",),
    ("__init__",),
    ("cli",),
)
"""From the lowest to the highest; a module imports from its own folder and from lower layers."""
RANK = {name: n for n, layer in enumerate(LAYERS) for name in layer}
APP_LAYERS = (
    ("registered", "node_key"),
    ("recipe",),
    ("server", "session"),
    ("present",),
    ("panels",),
    ("page",),
    ("app",),
    ("__init__",),
)
"""The same of the app; panels register with the server, which imports none of them."""
APP_RANK = {name: n for n, layer in enumerate(APP_LAYERS) for name in layer}
MOST_LOOSE = 5


@functools.cache
def modules(root: Path = ROOT) -> tuple[Path, ...]:
    return tuple(sorted(root.rglob("*.py")))


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@functools.cache
def names(root: Path) -> frozenset[str]:
    return frozenset(name_of(path, root) for path in modules(root))


def name_of(path: Path, root: Path = ROOT) -> str:
    """Dotted name of a file: ``values.trace``; of a folder's ``__init__.py`` that of the folder, of the root's ``__init__``."""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


@functools.cache
def imports(path: Path, root: Path = ROOT, package: str = "flowgraph") -> list[tuple[str, int]]:
    """(imported module of the package, line), wherever the import stands: in functions and for types too."""
    here = path.relative_to(root).parts[:-1]
    found = []
    for node in ast.walk(tree(path)):
        if not isinstance(node, ast.ImportFrom):
            continue
        written = tuple((node.module or "").split(".")) if node.module else ()
        if node.level:
            base = (*here[: len(here) - node.level + 1], *written)
        elif written[:1] == (package,):
            base = written[1:]
        else:
            continue
        for alias in node.names:
            inner = ".".join((*base, alias.name))
            found.append((inner if inner in names(root) else ".".join(base) or "__init__", node.lineno))
    return [(there, line) for there, line in found if there != name_of(path, root)]


def part(name: str) -> str:
    return name.split(".")[0]


@pytest.mark.parametrize(("root", "package", "rank"), [(ROOT, "flowgraph", RANK), (APP, "flowgraph_webapp", APP_RANK)])
def test_imports_run_from_high_to_low(root, package, rank):
    """Without exceptions: in functions and under TYPE_CHECKING too."""
    faults = [
        f"{package}/{path.relative_to(root)}:{line} imports {there}, which stands higher"
        for path in modules(root)
        for there, line in imports(path, root, package)
        if part(name_of(path, root)) != "__init__" and rank[part(there)] > rank[part(name_of(path, root))]
    ]
    assert not faults, "\n".join(faults)


def test_the_server_knows_no_panel_by_name():
    """Neither a name of a panel as the address has it, nor a class of one: what is registered is all that is known."""
    from flowgraph_webapp.registered import KINDS, TABS

    panels = {*TABS, *(kind.__name__ for kind in KINDS.values() if ".panels." in kind.__module__)}
    assert len(panels) > 15
    for path in [*modules(APP / "server"), *modules(APP / "session"), APP / "registered.py"]:
        for node in ast.walk(tree(path)):
            said = node.value if isinstance(node, ast.Constant) else getattr(node, "id", getattr(node, "attr", None))
            assert not (isinstance(said, str) and said in panels), f"{path}:{node.lineno} says {said!r}"


@pytest.mark.parametrize("folder", ["page", "server", "session", "present"])
def test_the_page_and_the_server_know_no_panel_by_name(folder):
    """They take the panels from their one door; what belongs to one of them stands in its file."""
    from flowgraph_webapp import panels

    known = {f"panels.{name}" for name in panels._MODULES} | {m.__name__.partition(".")[2] for m in panels.BESIDE}
    assert {"panels.lens", "panels.circuit_search"} < known
    faults = [
        f"{path}:{line} imports {there}"
        for path in modules(APP / folder)
        for there, line in imports(path, APP, "flowgraph_webapp")
        if there in known
    ]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize(("root", "package"), [(ROOT, "flowgraph"), (APP, "flowgraph_webapp")])
def test_no_circle(root, package):
    graph = networkx.DiGraph(
        (name_of(path, root), there) for path in modules(root) for there, _line in imports(path, root, package)
    )
    circles = [sorted(circle) for circle in networkx.strongly_connected_components(graph) if len(circle) > 1]
    assert circles == []


def test_a_circle_and_an_upward_import_are_seen(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "__init__.py").write_text("def f():\n    from ..b import g\n")
    (tmp_path / "b.py").write_text("if TYPE_CHECKING:\n    from .a import f\n")
    assert imports(tmp_path / "a" / "__init__.py", tmp_path) == [("b", 2)]
    assert imports(tmp_path / "b.py", tmp_path) == [("a", 2)]


def test_every_module_has_its_place_and_its_docstring():
    for root, rank in ((ROOT, RANK), (APP, APP_RANK)):
        for path in modules(root):
            assert part(name_of(path, root)) in rank, f"{path} belongs to no layer; add it to the list"
            assert ast.get_docstring(tree(path)), f"{path} says nothing about itself"
        loose = [path.name for path in root.glob("*.py") if path.name != "__init__.py"]
        assert len(loose) <= MOST_LOOSE, loose


def test_the_doors_are_those_that_the_root_names():
    """What the root says registers, registers; nothing else is needed."""
    for door, given in flowgraph._DRAWN_BY.items():
        for of, by in given.items():
            importlib.import_module(f"flowgraph.{by}")
            classes = [c for c in rendering._DOORS[door]._of.registry if c.__module__ == f"flowgraph.{of}"]
            assert classes, (door, of, by)


@pytest.mark.slow
def test_modules_that_moved_are_found_by_their_old_names_with_a_warning():
    code = """
import importlib, sys, warnings
import flowgraph
from flowgraph.importing import MOVED
for old, new in MOVED.items():
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        module = importlib.import_module(f"flowgraph.{old}")
    assert module is sys.modules[f"flowgraph.{new}"] is importlib.import_module(f"flowgraph.{new}"), old
    assert module.__spec__.name == f"flowgraph.{new}" == module.__name__, old
    assert any(f"flowgraph.{old} is flowgraph.{new} now" in str(one.message) for one in seen), old
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


def test_the_front_door():
    assert len(set(flowgraph.__all__)) == len(flowgraph.__all__)
    assert set(flowgraph._MODULE_OF) | {"__version__"} == set(flowgraph.__all__)
    for name in flowgraph.__all__:
        assert getattr(flowgraph, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = flowgraph.nothing


@pytest.mark.parametrize("name", ["models", "render"])
def test_a_folder_that_is_loaded_late_has_all_that_it_names(name):
    door = importlib.import_module(f"flowgraph.{name}")
    late = getattr(door, "_MODULE_OF", door._WHERE)
    assert set(late) <= set(door.__all__)
    for one in late:
        assert door.__getattr__(one) is not None


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import flowgraph", ("torch", "transformers", "dash", "numpy", "networkx", "plotly")),
        ("import flowgraph; flowgraph.trace, flowgraph.build_graph", ("transformers", "dash", "plotly")),
        ("import flowgraph.cli", ("torch", "transformers", "dash")),
        # The worker knows every kind of question, and draws nothing; the server draws, and runs no model.
        ("import flowgraph_webapp.panels", ("torch", "transformers", "dash", "plotly")),
    ],
)
def test_imports_stay_light(statement, absent):
    code = f"{statement}\nimport sys\nprint([name for name in {absent!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_web_app_uses_the_front_doors():
    """Of flowgraph the app knows the public names, the errors, what its views show and the address; the command knows the app."""
    doors = ("flowgraph", "flowgraph.errors", "flowgraph.render", "flowgraph.values.recipe")
    for path in sorted(APP.rglob("*.py")):
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Import):
                beyond = [a for a in node.names if a.name.startswith("flowgraph.") and a.name != "flowgraph.errors"]
                assert not beyond, f"{path}:{node.lineno}"
            if isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").split(".")[0] == "flowgraph":
                assert node.module in doors, f"{path}:{node.lineno}"
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
        for node in ast.walk(tree(path)):
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
                assert called not in ("eval", "exec", "pickle.load", "pickle.loads"), (
                    f"{path}:{node.lineno} calls {called}"
                )
                if called == "torch.load":
                    # Torch's own restricted reader builds tensors and nothing else; of a file whose hash is known.
                    given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                    assert given.get("weights_only") == "True", f"{path}:{node.lineno} unpickles"
                    assert path.name == "tensors.py", f"{path}:{node.lineno} reads a pickle"


@pytest.mark.slow
def test_threads_that_come_first_at_once_all_get_in():
    """In a fresh process each time, since a module is imported once."""
    code = """
import threading
import flowgraph
from flowgraph.values.flow_graph import FlowGraph
from tests.synthetic_graphs import token_graph
import networkx
graph, plain, faults = token_graph(layers=2), networkx.DiGraph([("a", "b", {"weight": 1.0})]), []
asked = [
    lambda: graph.to_networkx(plain=True), lambda: FlowGraph.from_networkx(plain), lambda: flowgraph.import_graph,
    graph.explain, graph._repr_html_, graph.caption, lambda: repr(graph), lambda: flowgraph.render_picture,
]
wait = threading.Barrier(len(asked))
def ask(one):
    wait.wait()
    try:
        one()
    except BaseException as error:
        faults.append(repr(error))
threads = [threading.Thread(target=ask, args=(one,)) for one in asked]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
assert not faults, faults
"""
    for _ in range(4):
        subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT.parent)
