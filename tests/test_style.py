"""The house style, checked by the tools that know it: what ``scripts/check`` runs."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

import flowgraph

ROOT = Path(__file__).parent.parent
_PYTHON = "python -m "
COMMANDS = [
    line.removeprefix(_PYTHON).split()
    for line in (ROOT / "scripts" / "check").read_text(encoding="utf-8").splitlines()
    if line.startswith(_PYTHON)
]


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_style(command):
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_fault_can_be_planted(monkeypatch):
    """Its text occurs once in the package, and the test files that should see it exist."""
    loader = importlib.machinery.SourceFileLoader("plant_faults", str(ROOT / "scripts" / "plant_faults"))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    script = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, loader.name, script)
    loader.exec_module(script)
    package = "\f".join(
        path.read_text(encoding="utf-8") for folder in ("flowgraph", "webapp") for path in (ROOT / folder).rglob("*.py")
    )
    assert len(script.FAULTS) >= 30
    assert [fault.name for fault in script.FAULTS if package.count(fault.old) != 1] == []
    named = {script.test_file(name) for fault in script.FAULTS for name in fault.tests.split()}
    assert [name for name in sorted(named) if not (ROOT / name).is_file()] == []


def test_readme_scripts_and_ci_say_the_same():
    assert [command[0] for command in COMMANDS] == ["ruff", "ruff", "mypy"]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    contributing = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    (command,) = [line for line in readme.splitlines() if line.endswith("/pytest")]
    assert command in ci.splitlines()
    for name in ("check", "test", "test-all", "plant_faults"):
        path = ROOT / "scripts" / name
        assert path.stat().st_mode & 0o111, f"{path} cannot be run"
        assert f"`scripts/{name}`" in contributing
    everything = (ROOT / "scripts" / "test-all").read_text(encoding="utf-8").splitlines()[-1]
    assert everything == 'exec python -m pytest "$@"'


def test_workflows_hooks_and_citation_say_what_the_scripts_say():
    workflow = (ROOT / ".github" / "workflows" / "checks.yml").read_text(encoding="utf-8")
    for command in ("scripts/check", "scripts/test", "scripts/test-all", ".ci/lowest"):
        assert re.search(rf"^ +(?:- )?run: {re.escape(command)}$", workflow, re.MULTILINE), command
    hooks = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    run = re.findall(r"entry: \.venv/bin/python -m (.*)$", hooks, re.MULTILINE)
    # A hook formats and is given the files; the script looks, and at everything.
    assert run == [" ".join(word for word in command if word not in ("--check", ".")) for command in COMMANDS]
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {flowgraph.__version__}\n" in citation
