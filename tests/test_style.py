"""The house style, checked by the tools that know it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
COMMANDS = {
    "lint": ["ruff", "check", "flowgraph", "webapp", "tests"],
    "format": ["ruff", "format", "--check", "flowgraph", "webapp", "tests"],
    "types": ["mypy"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_style(name):
    done = subprocess.run(
        [sys.executable, "-m", *COMMANDS[name]], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
