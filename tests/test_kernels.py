"""Compiled loops against their naive twins: compiled, without the compiler, and on one, two and four threads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from flowgraph.kernels.proximity import proximity_of_parts, proximity_of_sums

ROOT = Path(__file__).parent.parent
RUN = """
import hashlib
from tests.test_kernels import inputs
from flowgraph.kernels.proximity import proximity_of_parts, proximity_of_sums
whole, coefficient, vectors, own = inputs({heads}, {tokens}, {size})
found = hashlib.sha256(proximity_of_parts(whole, coefficient, vectors).tobytes())
found.update(proximity_of_sums(whole, coefficient, vectors, own).tobytes())
print(found.hexdigest())
"""


def inputs(heads: int, tokens: int, size: int, dtype=np.float32):
    """A causal step with parts that are zero, a whole that is zero, and a target that nothing enters."""
    rng = np.random.default_rng(0)
    coefficient = np.tril(rng.random((heads, tokens, tokens)))
    coefficient[0, -1, ::2] = 0
    coefficient[:, tokens // 2] = 0
    whole, own = rng.normal(size=(2, tokens, size))
    whole[0] = 0
    vectors = rng.normal(size=(heads, tokens, size))
    return tuple(np.ascontiguousarray(a, dtype=dtype) for a in (whole, coefficient, vectors, own))


def twins(whole, coefficient, vectors, own):
    """The same by the definition, dense and in float64."""
    whole, coefficient, vectors, own = (a.astype(np.float64) for a in (whole, coefficient, vectors, own))
    parts = coefficient[..., None] * vectors[:, None]
    size = np.abs(whole).sum(-1)
    single = np.maximum(0, size[None, :, None] - np.abs(whole[None, :, None] - parts).sum(-1))
    sums = parts.sum(0)
    sums[np.arange(len(own)), np.arange(len(own))] += own
    return single, np.maximum(0, size[:, None] - np.abs(whole[:, None] - sums).sum(-1))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 2, 3), (3, 5, 4), (4, 9, 33)])
def test_proximity_against_the_definition(shape, dtype):
    given = inputs(*shape, dtype=dtype)
    single, sums = twins(*given)
    tolerance = 1e-5 if dtype == np.float32 else 1e-12
    found = proximity_of_parts(*given[:3])
    np.testing.assert_allclose(found, single, atol=tolerance * shape[2])
    assert not found[given[1] == 0].any()
    np.testing.assert_allclose(proximity_of_sums(*given), sums, atol=tolerance * shape[2])
    assert found.dtype == dtype


def test_what_is_not_finite_stays_so():
    """Fast sums must not make a number of NaN: whoever is given one has to see it."""
    whole, coefficient, vectors, own = inputs(2, 3, 5)
    vectors[1, 0, 2] = np.nan
    assert np.isnan(proximity_of_parts(whole, coefficient, vectors)[1, -1, 0])
    assert np.isnan(proximity_of_sums(whole, coefficient, vectors, own)[-1, 0])


def digest(shape, **environment: str) -> str:
    code = RUN.format(heads=shape[0], tokens=shape[1], size=shape[2])
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@pytest.mark.slow
def test_the_number_of_threads_changes_no_bit():
    found = {digest((3, 40, 67), NUMBA_NUM_THREADS=str(threads)) for threads in (1, 2, 4)}
    assert len(found) == 1


@pytest.mark.slow
def test_loops_run_without_the_compiler():
    code = "from tests.test_kernels import *\nimport pytest\n" + (
        "import numba\nassert numba.config.DISABLE_JIT\n"
        "for shape in [(1, 1, 1), (3, 5, 4)]:\n"
        "    test_proximity_against_the_definition(shape, np.float64)\n"
        "print('passed')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "NUMBA_DISABLE_JIT": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "passed"
