"""Files that are almost right: bytes changed, parts cut out and doubled, and values replaced by what no reader expects."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 5, 999, -5, 1.5, -0.0, 1e308, 2**31, 2**53 + 1, 10**30, -(10**30), "", "0", "nonsense", "9" * 50,
    "\ud800", "\x00", "‮", "a" * 3_000, [], {}, [[]], [None], [0], [1, 2, 3], [-1, 1], [5, 7], ["a", "b"], [[0, 0, 0]], {"": {}},
    {"a": 1}, [1e400], float("nan"), float("inf"),
)  # fmt: skip
"""What is put in the place of a value. The last three are written as JSON does not know them."""
_BYTES = (
    b"",
    b"\x00",
    b"\xff",
    b"[",
    b"]",
    b"{",
    b"}",
    b'"',
    b",",
    b"<",
    b">",
    b"&",
    b"9" * 30,
    b"-",
    b"NaN",
    b"1e999",
    b"\xed\xa0\x80",
)


def mutated(data: bytes, chance: random.Random) -> bytes:
    """The bytes with one to three changes."""
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        at = chance.randrange(len(data) + 1)
        end = min(len(data), at + chance.choice((1, 1, 2, 8, 64, 1_000)))
        match chance.randrange(6):
            case 0:
                data = data[:at] + chance.choice(_BYTES) + data[end:]
            case 1:
                data = data[:at] + bytes([chance.randrange(256)]) + data[at + 1 :]
            case 2:
                data = data[:at]
            case 3:
                data = data[:at] + data[end:]
            case 4:
                data = data[:end] + data[at:]
            case _:
                data = data[:at] + chance.choice(_BYTES) + data[at:]
    return data


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where there is a value, from the root on."""
    yield path
    if isinstance(value, dict):
        for name in value:
            yield from places(value[name], (*path, name))
    elif isinstance(value, list):
        for n in range(len(value)):
            yield from places(value[n], (*path, n))


def changed(value: Any, chance: random.Random, path: tuple[Any, ...]) -> Any:
    """A copy in which the value at a place is replaced, taken out, doubled, or named otherwise."""
    if not path:
        return chance.choice(VALUES)
    made = copy.deepcopy(value)
    at = made
    for step in path[:-1]:
        at = at[step]
    last = path[-1]
    match chance.randrange(6):
        case 0:
            del at[last]
        case 1 if isinstance(at, list):
            at.insert(last, copy.deepcopy(at[last]))
        case 1:
            at[chance.choice(("", "x", "__class__", "layers"))] = at.pop(last)
        case 2 if isinstance(at[last], int | float):
            at[last] = at[last] + chance.choice((1, -1, 0.5, 2, 100)) if chance.random() < 0.7 else -at[last]
        case _:
            at[last] = copy.deepcopy(chance.choice(VALUES))
    return made


def written(value: Any) -> bytes:
    """A changed value as text."""
    return json.dumps(value).replace("Infinity", "1e999").encode("utf-8", "surrogatepass")


def of_json(value: Any, count: int, seed: int) -> Iterator[bytes]:
    """So many changed texts of a value: every place once, as far as they reach, then any."""
    chance = random.Random(seed)
    known = list(places(value))
    chance.shuffle(known)
    for n in range(count):
        yield written(changed(value, chance, known[n % len(known)]))


def of_bytes(data: bytes, count: int, seed: int) -> Iterator[bytes]:
    """So many changed copies of bytes."""
    chance = random.Random(seed)
    for _ in range(count):
        yield mutated(data, chance)
