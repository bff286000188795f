"""Whole numbers as people give them: rows of ids and masks from lists, arrays and tensors."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from ..errors import ArgumentError, PromptError
from ..models.sources import first_line


def numbers(value: Any, argument: str, number: Callable[[Any, str], int]) -> list[list[int]]:
    """Rows of whole numbers from [position], [row, position] or a list of rows; ``number`` checks each of them.

    Raises
    ------
    PromptError
        If it is nothing of these.
    """
    if isinstance(value, (Tensor, np.ndarray)):
        if value.ndim not in (1, 2):
            hint = ""
            if argument == "ids" and value.ndim in (3, 4):
                hint = "; pixels of an image are flowgraph.inputs(image=…)"
                hint += ", and embeddings cannot be traced, give token ids" * (value.ndim == 3)
            raise PromptError(
                f"{argument}= has the shape {list(value.shape)}; expected [position] or [row, position]{hint}"
            )
        try:
            read = value.tolist()
        except RuntimeError as error:  # a tensor on the meta device, or a sparse one
            raise PromptError(f"{argument}= is a tensor whose numbers cannot be read: {first_line(error)}") from error
        rows = read if value.ndim == 2 else [read]
        return [[number(one, argument) for one in row] for row in rows]
    if not is_list(value):
        raise PromptError(
            f"{argument}= is {shown_value(value)}; expected a list, an array or a tensor of whole numbers"
        )
    nested = [is_list(one) or (isinstance(one, (Tensor, np.ndarray)) and one.ndim > 0) for one in value]
    if not any(nested):
        return [[number(one, argument) for one in value]]
    if not all(nested):
        raise PromptError(f"{argument}= mixes numbers and rows of numbers; give [position], or rows of them")
    rows = []
    for one in value:
        # A row may be [1, position] itself, but nothing deeper.
        deep = is_list(one) and any(is_list(part) and any(map(is_list, part)) for part in one)
        found = [] if deep else numbers(one, argument, number)
        if len(found) != 1:
            raise PromptError(f"{argument}= is nested deeper than [row, position]")
        rows += found
    return rows


def whole(value: Any, argument: str) -> int:
    """A whole number; ``argument`` is whose it is, for the message.

    Raises
    ------
    PromptError
        If it is anything else.
    """
    try:
        # True and 1.0 are refused: neither is meant as a token id.
        if not isinstance(value, (bool, np.bool_)):
            return operator.index(value)
    except TypeError:
        pass
    hint = ""
    if isinstance(value, (float, np.floating)) and argument == "ids":
        hint = "; samples of a sound are flowgraph.inputs(audio=…, sampling_rate=…)"
    if isinstance(value, str):
        hint = "; for words that are cut already, give their token ids, or the text as one string"
    raise PromptError(f"{argument}= holds {shown_value(value)}; expected whole numbers{hint}")


def zero_or_one(value: Any, argument: str) -> int:
    """An entry of a mask.

    Raises
    ------
    ArgumentError
        If it is neither 0 nor 1.
    """
    if isinstance(value, (str, bytes)) or not hasattr(value, "__float__"):
        raise ArgumentError(f"{argument}= holds {shown_value(value)}; expected 1 for tokens and 0 for padding")
    found = float(value)
    # NaN is neither 0 nor 1, and compares unequal to both.
    if math.isnan(found) or found not in (0.0, 1.0):
        raise ArgumentError(f"{argument}= holds {found:g}; expected 1 for tokens and 0 for padding, and nothing else")
    return int(found)


def is_list(value: Any) -> bool:
    """Whether a value is a sequence and no text."""
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def shown_value(value: Any) -> str:
    """A value and its type in a few words, for a message."""
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:60] + '…'} ({type(value).__name__})"
