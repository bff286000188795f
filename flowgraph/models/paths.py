"""Paths of attributes, as families' rows write them: ``a.b`` goes down, ``a|b`` takes what there is, a ``?`` at the end may be missing."""

from __future__ import annotations

from typing import Any

from torch import nn


def find(start: Any, path: str) -> Any:
    """Follow the first alternative of an attribute path that exists; None if there is none."""
    for alternative in path.rstrip("?").split("|"):
        found = start
        for part in alternative.split("."):
            found = getattr(found, part, None)
            if found is None:
                break
        if found is not None:
            return found
    return None


def list_of(root: Any, path: str) -> list[nn.Module]:
    """The blocks of one list, or of several that are joined by ``+``; nothing where one is missing."""
    found = [find(root, one) for one in path.split("+")]
    is_there = all(isinstance(one, (nn.ModuleList, nn.Sequential)) for one in found)
    return [block for one in found for block in one] if is_there else []


def block_of(path: str) -> str:
    """The path down to the last number in it: that of the block which holds a module."""
    parts = path.split(".")
    last = max((i for i, part in enumerate(parts) if part.isdecimal()), default=len(parts) - 1)
    return ".".join(parts[: last + 1])
