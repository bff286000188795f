"""How much is attacked: enough for every run of the tests, and ``--attack-factor N`` times as much where there is time."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def factor(request) -> int:
    """How many times as many attacks as usual."""
    return request.config.getoption("--attack-factor")
