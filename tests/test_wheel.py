"""The wheel holds all that is needed: it is built, installed beside nothing of ours, and used from another folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PARTS = ("flowgraph", "webapp", "pyproject.toml", "README.md", "LICENSE")
USE = """
import flowgraph
from pathlib import Path

import flowgraph_webapp
from flowgraph.render import page_bundle, page_library, page_styles
from flowgraph_webapp.app import create_app
from flowgraph_webapp.page.layout.header import PANEL_FILES
from flowgraph_webapp.server.recorded import EXAMPLES
from flowgraph_webapp.server.service import Service
from flowgraph_webapp.session import read_session

installed = Path({target!r})
for package in (flowgraph, flowgraph_webapp):
    assert Path(package.__file__).is_relative_to(installed), package.__file__
assert (installed / "flowgraph" / "py.typed").is_file()
assert all(getattr(flowgraph, name) is not None for name in flowgraph.__all__)
assert min(map(len, (page_bundle(), page_library(), page_styles()))) > 1_000

(example,) = EXAMPLES.glob("capital-of-japan.flowgraph")
assert example.is_relative_to(installed)
session = read_session(example.read_bytes())
assert session.recipe.text == "The capital of Japan is the city of"
assert len(session.answers) > 5

client = create_app(Service()).server.test_client()
assert client.get("/").status_code == 200
for name in ("assets/app.css", "assets/chart_panel.js", "page/flowgraph.js", "page/theme.css"):
    answer = client.get(f"/{{name}}")
    assert answer.status_code == 200 and len(answer.data) > 1_000, name
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder that the wheel is installed into, without what it depends on."""
    source, wheels, target = (tmp_path_factory.mktemp(name) for name in ("source", "wheels", "installed"))
    # Built from a copy: setuptools leaves its folders where it builds, and takes stale files from them.
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, source / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(ROOT / part, source / part)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "-w", str(wheels), str(source)]
    done = subprocess.run([*pip, *build], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = wheels.glob("*.whl")
    install = ["install", "--no-deps", "--no-index", "--target", str(target), str(wheel)]
    done = subprocess.run([*pip, *install], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return target


def run(code: str, folder: Path, installed: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    command = [sys.executable, "-W", "error::ImportWarning", "-c", code]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_an_installed_wheel_opens_an_example_and_finds_its_assets(installed, tmp_path):
    done = run(USE.format(target=str(installed)), tmp_path, installed)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_wheel_holds_every_file_of_the_package(installed):
    for name, folder in (("flowgraph", ROOT / "flowgraph"), ("flowgraph_webapp", ROOT / "webapp")):
        files = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
        ours = {path for path in files if "__pycache__" not in path.parts}
        there = {path.relative_to(installed / name) for path in (installed / name).rglob("*") if path.is_file()}
        assert ours <= there, sorted(map(str, ours - there))


@pytest.mark.slow
def test_the_command_is_installed(installed, tmp_path):
    code = "from flowgraph.cli import main; raise SystemExit(main(['models']))"
    done = run(code, tmp_path, installed)
    assert done.returncode == 0, done.stderr
    assert "smollm2" in done.stdout
    assert (installed / "bin" / "flowgraph").is_file()
