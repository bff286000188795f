"""A prompt as plain data for a file, and back; each value of a file is checked as if a user had given it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from typing import Any, get_args

from torch import Tensor

from ..errors import ArgumentError
from ..models.axis import axis_of_dict
from .media import Values
from .messages import turns_of
from .row import MEDIA, OF_DECODERS, OF_MEDIA, Row, Source
from .whole_numbers import numbers, shown_value, whole


def row_dict(row: Row) -> dict[str, Any]:
    """A row as plain data for a file, without its ids, the numbers of an image or a sound, and what an encoder reads."""
    bare = replace(row, given=None, values=None, encoder=None, images=(), beside=None, labels=None)
    # What only images and sounds have, and what only encoder–decoders have, is left out of a text's row.
    left_out = {"ids", "given", "values", "encoder", "images", "beside", "labels"}
    left_out |= set() if row.axis is not None else set(OF_MEDIA)
    left_out |= set() if row.mixed is not None else {"mixed"}
    plain = {name: value for name, value in asdict(bare).items() if name not in left_out}
    return {name: value for name, value in plain.items() if name not in OF_DECODERS or value not in (None, False)}


def row_of_dict(plain: Any, ids: tuple[int, ...], values: Mapping[str, Tensor] | None = None) -> Row:
    """The row from the plain data of :func:`row_dict`, and the numbers of an image or a sound.

    Raises
    ------
    ArgumentError
        If a value has the wrong type, or the wrong number of entries.
    """
    # A file may come from anybody: each value is checked as if a user had given it.
    if values and isinstance(plain, Mapping) and "mixed" in plain:
        own = row_of_dict({name: value for name, value in plain.items() if name != "mixed"}, ids)
        positions = axis_of_dict(plain["mixed"])
        if len(positions) != len(ids):
            raise ArgumentError(f"mixed does not hold one position for each of {len(ids)} tokens")
        return replace(own, beside=Values(values), mixed=positions)
    of_images = {"images", "beside", "mixed", "labels"}
    expected = {item.name for item in fields(Row)} - {"ids", "given", "values", *OF_MEDIA, *OF_DECODERS, *of_images}
    if values and isinstance(plain, Mapping) and set(plain) == expected | set(OF_MEDIA):
        return _media_row(plain, values)
    if values or not isinstance(plain, Mapping) or not expected <= set(plain) <= expected | (OF_DECODERS - {"encoder"}):
        raise ArgumentError("what went in is not described by the fields of a row")
    if plain["source"] not in get_args(Source):
        raise ArgumentError(f"source is {plain['source']!r}; expected one of {', '.join(get_args(Source))}")
    for name in ("text", "pair", "target_text"):
        if not isinstance(plain.get(name), str | None):
            raise ArgumentError(f"{name} is {shown_value(plain[name])}; expected a text or nothing")
    if not isinstance(plain.get("generated", False), bool):
        raise ArgumentError(f"generated is {shown_value(plain['generated'])}; expected true or false")
    targets = None if plain.get("target_ids") is None else numbers(plain["target_ids"], "target_ids", whole)
    if targets is not None and len(targets) != 1:
        raise ArgumentError("target_ids does not hold one row of ids")
    columns: dict[str, Any] = {}
    for name in ("token_types", "position_ids", "words"):
        found = None if plain[name] is None else numbers(plain[name], name, whole)
        if found is not None and (len(found) != 1 or len(found[0]) != len(ids)):
            raise ArgumentError(f"{name} does not hold one number for each of {len(ids)} tokens")
        columns[name] = None if found is None else tuple(found[0])
    offsets = None if plain["offsets"] is None else numbers(plain["offsets"], "offsets", whole)
    if offsets is not None and (len(offsets) != len(ids) or any(len(pair) != 2 for pair in offsets)):
        raise ArgumentError(f"offsets does not hold a start and an end for each of {len(ids)} tokens")
    return Row(
        source=plain["source"],
        text=plain["text"],
        pair=plain["pair"],
        messages=None if plain["messages"] is None else turns_of(plain["messages"]),
        ids=ids,
        offsets=None if offsets is None else tuple((start, end) for start, end in offsets),
        target_text=plain.get("target_text"),
        target_ids=None if targets is None else tuple(targets[0]),
        generated=plain.get("generated", False),
        **columns,
    )


def _media_row(plain: Mapping[str, Any], values: Mapping[str, Tensor]) -> Row:
    """The row of an image or a sound from a file."""
    if plain["source"] not in MEDIA or any(
        plain[name] is not None
        for name in ("text", "pair", "messages", "token_types", "position_ids", "offsets", "words")
    ):
        raise ArgumentError("what went in is an image or a sound, and says things of a text")
    rate, file = plain["sampling_rate"], plain["file"]
    if not (rate is None or (isinstance(rate, int) and not isinstance(rate, bool) and rate > 0)):
        raise ArgumentError(
            f"sampling_rate is {shown_value(rate)}; expected a number of samples per second, or nothing"
        )
    if not isinstance(file, str | None):
        raise ArgumentError(f"file is {shown_value(file)}; expected a text or nothing")
    return Row(plain["source"], values=Values(values), axis=axis_of_dict(plain["axis"]), sampling_rate=rate, file=file)
