"""Rows that a search found, kept in the cache folder: a model that was opened before is not searched again.

A kept row is proved like any other when the model is opened, and a row that is not proved is searched for anew. What a search alone
checks, such as that an MLP mixes no tokens, depends on code, config and weights, which are all in the name that a row is kept under.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ...atomic_file import atomic_write_text
from ...errors import ArgumentError, FlowgraphError
from ..cache import cache_folder
from ..families import Attention, Family, Sizes, Stack
from ..weights import Weights

_FOLDER = ".rows"
_MOST_BYTES = 8 * 2**20
_MOST_ROWS = 500


def key_of(model: Any) -> str | None:
    """Name that a model's row is kept under; None for a model whose code is not transformers', and may change under its name."""
    kinds = [(path, type(module)) for path, module in model.named_modules()]
    if any(kind.__module__.split(".")[0] not in ("torch", "transformers") for _, kind in kinds):
        return None
    digest = hashlib.blake2b(_code(), digest_size=16)
    for part in (
        *(f"{path} {kind.__module__}.{kind.__qualname__}" for path, kind in kinds),
        *(f"{name} {parameter.dtype}" for name, parameter in model.named_parameters()),
        json.dumps(model.config.to_dict(), sort_keys=True, default=str),
        Weights(model).digest(),
        *(version(name) for name in ("torch", "transformers")),
    ):
        digest.update(part.encode())
    return digest.hexdigest()


def read_row(key: str) -> Family | None:
    """The row that is kept under a key; None where there is none that can be read."""
    place = _place(key)
    # What cannot be read is searched for, as if it had never been kept.
    with suppress(OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, ArgumentError):
        if place.stat().st_size <= _MOST_BYTES:
            return _row(json.loads(place.read_text(encoding="utf-8")))
    return None


def keep_row(key: str, row: Family) -> None:
    """Keep a row; the oldest ones make room. A folder that cannot be written keeps nothing."""
    place = _place(key)
    with suppress(OSError, FlowgraphError):
        place.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_text(place, json.dumps(asdict(row)))
        kept = sorted(place.parent.glob("*.json"), key=lambda one: one.stat().st_mtime)
        for one in kept[:-_MOST_ROWS]:
            one.unlink(missing_ok=True)


def _place(key: str) -> Path:
    return cache_folder() / _FOLDER / f"{key}.json"


@cache
def _code() -> bytes:
    """The code of the search, and of what it is written for."""
    here = Path(__file__).parent
    return b"".join(one.read_bytes() for one in sorted([*here.glob("*.py"), *here.parent.glob("*.py")]))


def _row(data: Mapping[str, Any]) -> Family:
    """A row from its JSON; its classes refuse what is none."""
    return Family(**_tuples(data) | {"stacks": tuple(map(_stack, data["stacks"]))})


def _stack(data: Mapping[str, Any]) -> Stack:
    attention, cross, sizes = (data[name] for name in ("attention", "cross_attention", "sizes"))
    return Stack(
        **_tuples(data)
        | {
            "attention": Attention(**_tuples(attention)),
            "cross_attention": None if cross is None else Attention(**_tuples(cross)),
            "sizes": None if sizes is None else Sizes(**sizes),
        }
    )


def _tuples(data: Mapping[str, Any]) -> dict[str, Any]:
    """The fields with tuples in place of lists, as rows have them."""

    def plain(value: Any) -> Any:
        return tuple(map(plain, value)) if isinstance(value, list) else value

    return {name: plain(value) for name, value in data.items()}
