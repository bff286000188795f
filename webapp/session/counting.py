"""How much JSON holds, counted before it is parsed: a short text of brackets alone grows thirtyfold in memory."""

from __future__ import annotations


def count_values(data: bytes) -> int:
    """At most so many lists, objects and entries are in the text of JSON: the characters that begin them."""
    return sum(map(data.count, (b"[", b"{", b",")))
