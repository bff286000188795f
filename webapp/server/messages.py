"""What the service and its worker say to each other, and the few words and numbers that both know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import flowgraph.errors
from flowgraph.errors import FlowgraphError

LOADING = "loading the model"
"""How the names of stages begin whose time is not that of the question."""
MOST_TOKENS = 512
"""Longest prompt that is traced unless another limit is set."""
KNOWN_ERRORS = {
    name: error
    for name, error in vars(flowgraph.errors).items()
    if isinstance(error, type) and issubclass(error, FlowgraphError)
}
"""Errors that cross from the worker under their own name."""


@dataclass(frozen=True)
class Settings:
    """What a worker may load, how it is loaded, how much it may keep and how long a prompt may be."""

    models: tuple[str, ...]
    cache_bytes: int
    most_tokens: int
    loading: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Staged:
    """A stage begins, or goes on."""

    number: int
    name: str
    part: float | None


@dataclass(frozen=True)
class Begun:
    """A question begins that had to wait for a search to pause."""

    number: int


@dataclass(frozen=True)
class Answered:
    """The answer of a question."""

    number: int
    answer: Any


@dataclass(frozen=True)
class Refused:
    """A question has no answer: the error's name and message, and the traceback of one that is not known by name."""

    number: int
    error: str
    message: str
    details: str | None


@dataclass(frozen=True)
class Stopped:
    """A question was taken back, and the worker has stopped working on it."""

    number: int


Message = Begun | Staged | Answered | Refused | Stopped
