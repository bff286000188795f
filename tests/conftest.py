"""Shared fixtures. The package's types and array shapes are checked at run time in every test."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from tests.checked_types import check

_PACKAGE = Path(__file__).parent.parent / "flowgraph"
_PARTS = {path.stem for path in _PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
# Compiled functions check their types themselves, and cannot be wrapped.
check(f"flowgraph.{part}" for part in _PARTS - {"__init__", "kernels"})

import pytest  # noqa: E402
import torch  # noqa: E402

import flowgraph  # noqa: E402
from tests.prompts import JAPAN as JAPAN  # noqa: E402
from tests.prompts import MARY as MARY  # noqa: E402
from tests.tiny_models import TINY, tiny_model  # noqa: E402

# A second thread makes small tensors slower, and on a shared machine much slower.
torch.set_num_threads(1)

IDS = [20, 31, 42, 53, 64, 75, 86]
"""A prompt that every tiny model's vocabulary has, long enough that most tokens have several sources."""
DECODERS = tuple(name for name in TINY if name not in ("bert", "bert_headless", "roberta", "distilbert"))
LINEAR = tuple(name for name in DECODERS if name != "opt_post_norm")
"""Rows with direct logit attribution: norm + linear head over a stream that adds up."""
REPRESENTATIVES = ("gpt2", "gpt_neox", "llama", "gemma2", "bert")
"""One row of each wiring, and one with grouped queries: sequential with biases and learned positions, parallel, grouped with a
gated MLP, sandwich with windows and soft-caps, post-norm. For code that sees a trace's arrays; that these arrays are right for
every family is what test_identities.py, test_consistency.py and test_tracing.py are for."""
LINEAR_REPRESENTATIVES = tuple(name for name in REPRESENTATIVES if name in LINEAR)


def slow_but(fast: Iterable[object], names: Iterable[object]) -> list[object]:
    """Parameters of which all but ``fast`` are marked slow."""
    kept = list(fast)
    return [name if name in kept else pytest.param(name, marks=pytest.mark.slow) for name in names]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--attack-factor",
        type=int,
        default=1,
        metavar="N",
        help="attack N times as much in tests/security (default: 1)",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """In several processes, whole files are dealt out in order: those that take long first, so that no process ends alone."""
    if not hasattr(config, "workerinput"):
        return
    seconds: Counter[Path] = Counter()
    for item in items:
        marks = {mark.name: mark.kwargs for mark in item.iter_markers()}
        said = marks.get("slow", {}).get("seconds")
        seconds[item.path] += said or 0.06 + sum(each for name, each in _SECONDS.items() if name in marks)
    items.sort(key=lambda item: -seconds[item.path])  # stable: a file's tests stay together and in their order


_SECONDS = {"browser": 4.0, "real_model": 1.0, "slow": 1.5}
"""About how long a test with this mark takes; ``slow(seconds=…)`` says it of one that takes much longer."""


@pytest.fixture(scope="session")
def tiny():
    """``tiny(name, dtype)`` → a loaded tiny model, made once per session."""
    made: dict[tuple[str, torch.dtype], flowgraph.LoadedModel] = {}

    def load(name: str, dtype: torch.dtype = torch.float32) -> flowgraph.LoadedModel:
        if (name, dtype) not in made:
            made[name, dtype] = flowgraph.load_model(tiny_model(name, dtype))
        return made[name, dtype]

    return load


@pytest.fixture(scope="session")
def traces(tiny):
    """``traces(name, dtype, count)`` → trace of the first ``count`` of :data:`IDS` by a tiny model, made once per session."""
    made: dict[tuple[str, torch.dtype, int], flowgraph.Trace] = {}

    def trace(name: str, dtype: torch.dtype = torch.float32, count: int = len(IDS)) -> flowgraph.Trace:
        key = (name, dtype, count)
        if key not in made:
            made[key] = flowgraph.trace(tiny(name, dtype), IDS[:count], position=-1)
        return made[key]

    return trace


@pytest.fixture(scope="session")
def smollm2() -> flowgraph.LoadedModel:
    """The real default model, fetched once and cached."""
    return flowgraph.load_model("smollm2")


@pytest.fixture(scope="session")
def minilm() -> flowgraph.LoadedModel:
    """A real encoder without a head."""
    return flowgraph.load_model("minilm")
