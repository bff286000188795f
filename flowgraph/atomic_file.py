"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import stat
import time
from pathlib import Path

from .errors import ArgumentError

OLD = 24 * 3600.0
"""Seconds after which a part of a file belongs to no writer any more."""
_PART = re.compile(r"\.[0-9a-f]{16}\.part")
_swept: dict[Path, float] = {}
"""Folder → when it was last swept by this process: once an hour is enough, however many files are written."""
_ADVICE = {
    errno.ENOSPC: "free some space there, or choose another folder",
    errno.EACCES: "choose a folder that you may write to",
    errno.EPERM: "choose a folder that you may write to",
    errno.EROFS: "choose a folder that you may write to",
    errno.ENAMETOOLONG: "choose a shorter name",
}


def as_path(path: str | Path, argument: str = "path") -> Path:
    """A path that was given.

    Raises
    ------
    ArgumentError
        If it is nothing that names a file.
    """
    if not isinstance(path, (str, os.PathLike)):
        was = "None" if path is None else f"a {type(path).__name__}"
        raise ArgumentError(f"{argument} is {was}; expected the name of a file, as a text or a pathlib.Path")
    return Path(path)


def atomic_write_text(path: str | Path, text: str, *, overwrite: bool = True) -> Path:
    """Write ``text`` as UTF-8; see :func:`atomic_write_bytes`."""
    return atomic_write_bytes(path, text.encode("utf-8"), overwrite=overwrite)


def atomic_write_bytes(path: str | Path, data: bytes, *, overwrite: bool = True) -> Path:
    """Write ``data`` beside ``path`` under a temporary name, then rename it.

    A reader sees the old file or the whole new one, never a part. On any failure the temporary file is
    removed and what was there before is untouched. A symbolic link is followed, so that it stays a link. What writers that
    were killed have left in the folder is removed once it is a day old.

    Returns
    -------
    The path as given.

    Raises
    ------
    ArgumentError
        If ``path`` exists and ``overwrite`` is False, its folder does not exist or may not be written to, it
        is something other than a file, or the disk is full.
    """
    path = as_path(path)
    try:
        place = Path(os.path.realpath(path))
        _check_place(path, place, overwrite)
        _write_beside(place, data)
    except OSError as error:
        advice = _ADVICE.get(error.errno or 0, "choose another place")
        raise ArgumentError(f"path={str(path)!r} could not be written: {error.strerror}; {advice}") from error
    return path


def _check_place(path: Path, place: Path, overwrite: bool) -> None:
    if not place.parent.is_dir():
        raise ArgumentError(
            f"path={str(path)!r} lies in {str(place.parent)!r}, which is not a folder; make it first, or choose another"
        )
    if place.exists() and not place.is_file():
        what = "a folder" if place.is_dir() else "not a regular file"
        raise ArgumentError(f"path={str(path)!r} is {what}; give the name of a file")
    if place.exists() and not overwrite:
        raise ArgumentError(f"path={str(path)!r} exists; pass overwrite=True to replace it, or choose another name")


def _write_beside(place: Path, data: bytes) -> None:
    # The name does not contain the file's own, which may already have the greatest length a name may have.
    beside = part_beside(place)
    sweep(place.parent)
    try:
        with beside.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(place)
    finally:
        beside.unlink(missing_ok=True)


def part_beside(place: Path) -> Path:
    """A name beside a file for what is not whole yet; :func:`sweep` knows it again."""
    return place.with_name(f".{secrets.token_hex(8)}.part")


def sweep(folder: Path) -> None:
    """Remove what writers that were killed have left in a folder: regular files under our own names, a day old.

    Nothing that is there under such a name by other ways is followed or touched: no link, no folder. What cannot be removed
    stays, since it is no reason not to write.
    """
    now = time.time()
    if now - _swept.get(folder, 0.0) < 3600:
        return
    _swept[folder] = now
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if not _PART.fullmatch(entry.name):
                continue
            with contextlib.suppress(OSError):
                about = entry.stat(follow_symlinks=False)
                if stat.S_ISREG(about.st_mode) and now - about.st_mtime > OLD:
                    Path(entry.path).unlink()
