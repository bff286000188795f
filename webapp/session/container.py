"""The recorded file: safetensors that hold the trace of a pass, the session of a page, or both.

The trace is what :meth:`flowgraph.Trace.save` writes. The session is one tensor more, ``session``: the bytes of its zip
(:mod:`flowgraph_webapp.session.archive`), last in the file. Sessions of release 0.1 are that zip alone and are read as well. The
two are taken apart here and nothing is read of the tensors, which the library checks when it loads the trace.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import Any, BinaryIO, NamedTuple

from flowgraph.errors import FileFormatError

from .archive import LARGEST_FILE
from .codec import strict_json
from .counting import count_values

SESSION = "session"
KEY = "flowgraph"
"""Entry of the file's metadata that a trace has; both names are those of the library's reader."""
LARGEST_TRACE = 40 * 2**20
"""Bytes of a trace that is saved with a session."""
LARGEST_HEADER = 64 * 2**20
MOST_VALUES = 4_000_000
_METADATA = "__metadata__"
_ZIP = b"PK\x03\x04"


class Parts(NamedTuple):
    """The zip of a session, and a trace as a file of its own; empty where there is none."""

    session: bytes
    trace: bytes


def joined(session: bytes, trace: bytes = b"") -> bytes:
    """One file of the zip of a session and of the trace that its answers came from."""
    header, tensors = _taken_apart(trace) if trace else ({}, b"")
    end = len(tensors)
    header[SESSION] = {"dtype": "U8", "shape": [len(session)], "data_offsets": [end, end + len(session)]}
    return _file(header, tensors + session)


def parts(data: bytes) -> Parts:
    """Take a recorded file apart, which may come from anywhere.

    Raises
    ------
    FileFormatError
        If it is too large, its header is damaged, or its session does not stand where it has to.
    """
    if len(data) > LARGEST_FILE:
        raise FileFormatError(f"the file is larger than {LARGEST_FILE // 2**20} MiB")
    if not _is_safetensors(data[:9]):
        if not data.startswith(b"PK"):
            raise FileFormatError("the file is not a session: it begins neither as a session nor as a trace does")
        return Parts(data, b"")
    header, tensors = _taken_apart(data)
    if SESSION not in header:
        return Parts(b"", data)
    session = header.pop(SESSION)
    begin, end = session["data_offsets"]
    if session["dtype"] != "U8" or session["shape"] != [end - begin] or end != len(tensors):
        raise FileFormatError(
            f"the session is said to be {session['dtype']} up to byte {end:,}; expected U8 up to the last, {len(tensors):,}"
        )
    if KEY in header.get(_METADATA, {}):
        return Parts(tensors[begin:], _file(header, tensors[:begin]))
    if set(header) - {_METADATA}:
        raise FileFormatError("the file holds tensors beside its session, and does not say that they are of a trace")
    return Parts(tensors[begin:], b"")


def is_recorded(file: BinaryIO) -> bool:
    """Whether an open file begins as a session or a trace does."""
    file.seek(0)
    begins = file.read(9)
    return begins.startswith(_ZIP) or _is_safetensors(begins)


def holds_session(file: BinaryIO) -> bool:
    """Whether an open file is a session, with or without a trace; no more than its header is read.

    Raises
    ------
    FileFormatError
        If the header is damaged.
    """
    file.seek(0)
    begins = file.read(9)
    return not _is_safetensors(begins) or SESSION in _header(file)


def pass_of(trace: bytes) -> Mapping[str, Any]:
    """What the header of a trace says of its pass: model, tokens, position, target and foil, among others.

    Raises
    ------
    FileFormatError
        If it says nothing.
    """
    said = _taken_apart(trace)[0].get(_METADATA, {}).get(KEY, "null")
    about = _parsed(said.encode("utf-8", "surrogatepass"))
    found = about.get("trace") if isinstance(about, dict) else None
    if not isinstance(found, dict):
        raise FileFormatError("the header of the trace does not say which pass it is")
    return found


def _is_safetensors(begins: bytes) -> bool:
    """Whether so many bytes and then JSON follow; no text has a zero in it."""
    return len(begins) == 9 and begins[7] == 0 and begins[8:] == b"{"


def _taken_apart(data: bytes) -> tuple[dict[str, Any], bytes]:
    file = io.BytesIO(data)
    header = _header(file)
    return header, data[file.tell() :]


def _header(file: BinaryIO) -> dict[str, Any]:
    """The header; the file then stands where the tensors begin."""
    end = file.seek(0, io.SEEK_END)
    file.seek(0)
    size = int.from_bytes(file.read(8), "little")
    if size > min(LARGEST_HEADER, end - 8):
        raise FileFormatError(
            f"the header is said to have {size:,} bytes; the file has {end:,}, and at most {LARGEST_HEADER // 2**20} MiB of header "
            "are read"
        )
    found = _parsed(file.read(size))
    if not isinstance(found, dict):
        raise FileFormatError("the header is not an object")
    _check(found, end - 8 - size)
    return found


def _parsed(text: bytes) -> Any:
    values = count_values(text)
    if values > MOST_VALUES:
        raise FileFormatError(
            f"the header holds {values:,} lists, objects and entries; at most {MOST_VALUES:,} are read"
        )
    return strict_json(text, "the header")


def _check(header: Mapping[str, Any], size: int) -> None:
    """Refuse a header that says anything else than texts of metadata, and types, shapes and places of tensors."""
    for name, entry in header.items():
        if not isinstance(entry, dict):
            raise FileFormatError(f"{name[:60]!r} in the header is not an object")
        if name == _METADATA:
            if not all(isinstance(text, str) for text in entry.values()):
                raise FileFormatError("the metadata of the header are not all texts")
        elif not _is_tensor(entry, size):
            raise FileFormatError(
                f"{name[:60]!r} in the header is no tensor of this file; perhaps the file was cut off"
            )


def _is_tensor(entry: Mapping[str, Any], size: int) -> bool:
    """Whether an entry says a type, a shape, and a place within the bytes after the header."""
    if set(entry) != {"dtype", "shape", "data_offsets"} or not isinstance(entry["dtype"], str):
        return False
    numbers = [entry["shape"], entry["data_offsets"]]
    if not all(isinstance(of, list) and all(type(one) is int for one in of) for of in numbers):
        return False
    offsets = entry["data_offsets"]
    return (
        len(offsets) == 2 and 0 <= offsets[0] <= offsets[1] <= size and all(0 <= one < 2**63 for one in entry["shape"])
    )


def _file(header: Mapping[str, Any], tensors: bytes) -> bytes:
    text = json.dumps(header, allow_nan=False, separators=(",", ":")).encode("ascii")
    # The tensors stand at a multiple of eight bytes, as readers expect that map the file into memory.
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + tensors
