"""The zip of a session file: bounded before it is unpacked, counted while it is, and written the same way each time."""

from __future__ import annotations

import io
import re
import struct
import zipfile
import zlib
from collections.abc import Mapping

from flowgraph.errors import FileFormatError

from .counting import count_values

LARGEST_FILE = 64 * 2**20
LARGEST_MEMBER = 64 * 2**20
LARGEST_TOTAL = 256 * 2**20
MOST_MEMBERS = 5_000
MOST_VALUES = 2_000_000
"""Lists, objects and their entries in one member, counted before it is parsed: ten times those of a long prompt."""
MOST_VALUES_IN_ALL = 6_000_000
_LARGEST_LISTING = 2**20
_NAME = re.compile(r"(?:session|readings)\.json|(?:answers|graphs)/\d{1,6}\.json|arrays/\d{1,6}\.npy", re.ASCII)
_END = struct.Struct("<4s4H2LH")
_LOCATOR = 20
_DAMAGE = (
    zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError, OverflowError, ValueError, KeyError,
    struct.error,
)  # fmt: skip
"""What reading a damaged zip raises."""
# A date is needed by the format; one for all, so that the same session gives the same bytes.
_DATE = (1980, 1, 1, 0, 0, 0)


def packed(members: Mapping[str, bytes]) -> bytes:
    """A zip of members.

    Raises
    ------
    FileFormatError
        If :class:`Archive` would refuse it.
    """
    total = sum(map(len, members.values()))
    largest = max(map(len, members.values()), default=0)
    if len(members) > MOST_MEMBERS or total > LARGEST_TOTAL or largest > LARGEST_MEMBER:
        raise FileFormatError(
            f"the session has {len(members):,} members of {total / 2**20:,.0f} MiB; at most {MOST_MEMBERS:,} and "
            f"{LARGEST_TOTAL // 2**20} MiB are read back: record less"
        )
    values = [count_values(data) for name, data in members.items() if name.endswith(".json")]
    if sum(values) > MOST_VALUES_IN_ALL or max(values, default=0) > MOST_VALUES:
        raise FileFormatError(
            f"the session has {sum(values):,} values; at most {MOST_VALUES_IN_ALL:,}, and {MOST_VALUES:,} in one member, are read "
            "back: record less"
        )
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as made:
        for name, data in members.items():
            made.writestr(zipfile.ZipInfo(name, _DATE), data, zipfile.ZIP_DEFLATED, 9)
    return file.getvalue()


class Archive:
    """A zip that may come from anywhere; members are unpacked when they are asked for.

    Raises
    ------
    FileFormatError
        If it is too large, is no zip, is damaged, or lists members that a session does not have.
    """

    def __init__(self, data: bytes) -> None:
        if len(data) > LARGEST_FILE:
            raise FileFormatError(f"the file is larger than {LARGEST_FILE // 2**20} MiB")
        _refuse_listing(data)
        try:
            self._zip = zipfile.ZipFile(io.BytesIO(data))
        except _DAMAGE as error:
            raise FileFormatError(f"the file is not a session: {error}") from error
        self._members: dict[str, zipfile.ZipInfo] = {}
        self._values: dict[str, int] = {}
        total = 0
        for info in self._zip.infolist():
            self._check(info)
            self._members[info.filename] = info
            total += info.file_size
        if total > LARGEST_TOTAL:
            raise FileFormatError(f"the file unpacks to {total:,} bytes; at most {LARGEST_TOTAL:,} are read")

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all members."""
        return tuple(self._members)

    def member(self, name: str) -> bytes:
        """The bytes of a member.

        Raises
        ------
        FileFormatError
            If there is none of this name, it is damaged, has not the size that it says, or is JSON of too many values: a
            short file can hold so many that parsing them fills the memory.
        """
        info = self._members.get(name)
        if info is None:
            raise FileFormatError(f"the member {name[:60]!r} is missing")
        try:
            with self._zip.open(info) as file:
                data = file.read(info.file_size + 1)
        except _DAMAGE as error:
            raise FileFormatError(f"the member {name!r} is damaged: {error}") from error
        if len(data) != info.file_size:
            raise FileFormatError(f"the member {name!r} has not the {info.file_size:,} bytes that the file says")
        if name.endswith(".json"):
            self._count(name, data)
        return data

    def _count(self, name: str, data: bytes) -> None:
        """Refuse JSON of too many values before it is parsed."""
        self._values[name] = count_values(data)
        if self._values[name] > MOST_VALUES:
            raise FileFormatError(
                f"the member {name!r} holds {self._values[name]:,} lists, objects and entries; at most {MOST_VALUES:,} are read"
            )
        if sum(self._values.values()) > MOST_VALUES_IN_ALL:
            raise FileFormatError(f"the members hold more than {MOST_VALUES_IN_ALL:,} lists, objects and entries")

    def _check(self, info: zipfile.ZipInfo) -> None:
        name = info.filename
        if not _NAME.fullmatch(name):
            raise FileFormatError(f"the file has a member {name[:60]!r}, which is none of a session")
        if name in self._members:
            raise FileFormatError(f"the file has the member {name!r} twice")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or info.flag_bits & 1:
            raise FileFormatError(f"the member {name!r} is packed in a way that a session is not")
        if info.file_size > LARGEST_MEMBER:
            raise FileFormatError(f"the member {name!r} unpacks to {info.file_size:,} bytes, over {LARGEST_MEMBER:,}")


def _refuse_listing(data: bytes) -> None:
    """Look at the end of a zip, which says how much it lists, before the list is read."""
    end = len(data) - _END.size
    if end < 0 or data[end : end + 4] != b"PK\x05\x06":
        raise FileFormatError("the file is not a session: it does not end as a zip does; perhaps it was cut off")
    _, _, _, _, count, size, _, _ = _END.unpack_from(data, end)
    if data[end - _LOCATOR : end - _LOCATOR + 4] == b"PK\x06\x07" or count > MOST_MEMBERS or size > _LARGEST_LISTING:
        raise FileFormatError(f"the file lists more than {MOST_MEMBERS:,} members")
