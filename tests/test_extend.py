"""The recipes of docs/how_to/extend.md, followed word by word in a copy of the project."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "how_to" / "extend.md").read_text(encoding="utf-8")
STEP = re.compile(
    r"^```(?:\{code-block\} python\n:caption: (?P<path>\S+)|(?P<kind>diff|pycon))\n(?P<body>.*?)^```$", re.M | re.S
)
RUN = """
import doctest, sys
import flowgraph as fg
from pathlib import Path

copy, code = Path(sys.argv[1]), Path(sys.argv[2]).read_text(encoding="utf-8")
assert Path(fg.__file__).is_relative_to(copy), fg.__file__
trace = fg.trace("smollm2", "The capital of Japan is the city of", foil=" Kyoto")
made = doctest.DocTestParser().get_doctest(code, {"fg": fg, "trace": trace}, "extend.md", "extend.md", 0)
result = doctest.DocTestRunner(verbose=False).run(made)
raise SystemExit(result.failed or not result.attempted)
"""


def change(text: str, hunk: str) -> str:
    """A text after one change; the lines that say where have to be there, once."""
    lines = hunk.splitlines()
    old = "\n".join(line[1:] for line in lines if not line.startswith("+"))
    new = "\n".join(line[1:] for line in lines if not line.startswith("-"))
    assert text.count(old) == 1, f"{text.count(old)} times in the file:\n{old}"
    return text.replace(old, new)


def follow(page: str, root: Path) -> str:
    """Write the files of a page and make its changes; returns its examples."""
    examples = []
    for step in STEP.finditer(page):
        if step["path"]:
            target = root / step["path"]
            assert not target.exists(), target
            target.write_text(step["body"], encoding="utf-8")
        elif step["kind"] == "pycon":
            examples.append(step["body"])
        else:
            for part in re.split(r"^--- ", step["body"], flags=re.M)[1:]:
                name, *hunks = part.split("\n@@\n")
                text = (root / name).read_text(encoding="utf-8")
                for hunk in hunks:
                    text = change(text, hunk)
                (root / name).write_text(text, encoding="utf-8")
    return "\n".join(examples)


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The package and the app after all recipes, and the examples of the page."""
    folder = tmp_path_factory.mktemp("copy")
    for part in ("flowgraph", "webapp"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copyfile(ROOT / "pyproject.toml", folder / "pyproject.toml")
    (folder / "flowgraph_webapp").symlink_to("webapp")
    return folder, follow(PAGE, folder)


def test_every_recipe_can_be_followed(copy):
    folder, examples = copy
    titles = re.findall(r"^## (.*)$", PAGE, re.M)
    assert len(titles) == 5
    assert examples.count(">>>") > 12
    for section in PAGE.split("\n## ")[1:]:
        assert "```pycon" in section, section[:40]
    new = {str(path.relative_to(folder)) for path in folder.rglob("*.py")} - {
        str(path.relative_to(ROOT))
        for path in ROOT.rglob("*.py")
        if path.parts[len(ROOT.parts)] in ("flowgraph", "webapp")
    }
    assert {path for path in new if not path.startswith("flowgraph_webapp")} == {
        "flowgraph/methods/uniform.py", "flowgraph/files/edge_list.py", "flowgraph/analyses/attention_entropy.py",
        "webapp/panels/lengths.py",
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.real_model
def test_what_was_added_works(copy, tmp_path):
    folder, examples = copy
    (tmp_path / "examples.txt").write_text(examples, encoding="utf-8")
    command = [sys.executable, "-c", RUN, str(folder), str(tmp_path / "examples.txt")]
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_what_was_added_is_clean(copy):
    folder, _ = copy
    ruff = [sys.executable, "-m", "ruff", "check", "flowgraph", "webapp"]
    done = subprocess.run(ruff, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_a_change_that_has_no_place_is_seen():
    assert change("a\nb\nc", " a\n-b\n+d") == "a\nd\nc"
    with pytest.raises(AssertionError, match="0 times"):
        change("a\nb\nc", " x\n+d")
    with pytest.raises(AssertionError, match="2 times"):
        change("a\na\n", "+b\n a")
