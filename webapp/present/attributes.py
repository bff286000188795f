"""Attributes of elements whose names are no names in Python."""

from __future__ import annotations

from typing import Any


def named(values: dict[str, str]) -> dict[str, Any]:
    """``aria-…`` and ``data-…`` attributes, as Dash takes them: as keywords that its signatures do not list."""
    return dict(values)
