"""The first compilation says so, once, and only for what this package compiles; each case in processes of its own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from flowgraph.kernels.prepare import MESSAGE

pytestmark = pytest.mark.slow

MATRIX = """
import numpy as np
from flowgraph.kernels.rollout import is_lower_triangular
print(is_lower_triangular(np.eye(3)), is_lower_triangular(np.eye(3, dtype=np.float32)))
"""
OWN = """
import numba
import flowgraph.kernels.rollout
print(numba.njit(lambda x: x + 1)(1.0))
"""


def errors(script, cache, **environment):
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "NUMBA_DISABLE_JIT": "0", "NUMBA_CACHE_DIR": str(cache), **environment},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip()
    return done.stderr.splitlines()


def test_the_first_run_says_so_once_and_the_second_nothing(tmp_path):
    assert errors(MATRIX, tmp_path) == [MESSAGE]
    assert errors(MATRIX, tmp_path) == []
    # What is not in the cache is said again: another folder, another machine.
    assert errors(MATRIX, tmp_path / "other") == [MESSAGE]


def test_loops_that_are_not_compiled_and_loops_of_others_say_nothing(tmp_path):
    assert errors(MATRIX, tmp_path, NUMBA_DISABLE_JIT="1") == []
    assert errors(OWN, tmp_path) == []


THREADS = """
import torch
torch.set_num_threads(3)
import numpy as np
from flowgraph.kernels.proximity import proximity_of_parts
ones = np.ones((2, 3, 4), dtype=np.float32)
proximity_of_parts(ones[0], np.ones((2, 3, 3), dtype=np.float32), ones)
print(torch.get_num_threads())
"""


def test_the_loops_leave_torch_its_number_of_threads():
    """Both may run on threads of one library, and whoever starts them last sets their number."""
    done = subprocess.run([sys.executable, "-c", THREADS], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "3"
