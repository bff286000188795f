"""The cache of the known models: its layout, and how a model gets there whole or not at all.

Layout of the cache folder::

    smollm2/                     one folder per model, ready for from_pretrained
        manifest.json            what it was made from, and the size and digest of every other file
        config.json …
    .smollm2.lock                held by the process that makes, replaces or removes the model
    .smollm2.<token>.partial/    a folder in the making, or one on its way out
    .rows/                       what searches found in models, see models/discovery/kept.py
    .proofs/                     what was proved of models from files, see models/kept_proof.py

A model is made in a partial folder, flushed to the disk and renamed into place, so that the folder with the
plain name is always whole. The holder of the lock may delete every partial folder of that model: its maker is
dead.

A folder is checked each time before it is used: the size and the digest of every file. The digest of a file
above 16 MiB covers its first and last MiB only. This finds truncated files, ends that a crash left empty and a
damaged safetensors header, in a few milliseconds; hashing all weights would take as long as loading them. It
does not find a flipped bit in the middle of the weights.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from flowgraph.errors import UnknownModelError
from flowgraph.models.wheel import Progress, bytes_below

_MANIFEST = "manifest.json"
_FORMAT = 1  # of the folder's contents; a cached folder of another number is made again
_MIB = 2**20
_WHOLLY_HASHED = 16 * _MIB


def cache_folder() -> Path:
    """Name the folder of the cached models; it need not exist yet.

    The environment variable ``FLOWGRAPH_CACHE`` names it; where that is unset or empty it is the user's cache
    folder of the operating system.
    """
    from platformdirs import user_cache_path

    setting = os.environ.get("FLOWGRAPH_CACHE")
    return Path(setting).expanduser().absolute() if setting else user_cache_path("flowgraph", appauthor=False)


def cached_models() -> dict[str, int]:
    """Name of each cached model → bytes it takes on the disk, sorted by name."""
    folder = cache_folder()
    if not folder.is_dir():
        return {}
    manifests = sorted(folder.glob(f"[!.]*/{_MANIFEST}"))
    return {manifest.parent.name: bytes_below(manifest.parent) for manifest in manifests}


def remove(name: str) -> int:
    """Delete a cached model and all that an interrupted fetch of it left; return the bytes freed.

    Raises
    ------
    UnknownModelError
        Nothing of this name is in the cache; the message says what is.
    """
    cached = cached_models()
    if name not in cached:
        held = ", ".join(cached) or "nothing"
        raise UnknownModelError(f"there is no {name!r} in the cache {cache_folder()}; it holds {held}")
    with locked(name):
        if (cache_folder() / name).exists():  # not so when another process was quicker
            _set_aside(name)
        return discard_partials(name)


@contextlib.contextmanager
def locked(name: str, report: Progress | None = None) -> Iterator[None]:
    """Hold the lock of one model; the system releases it when the process dies.

    ``report`` is called if another process holds the lock, before this one waits for it.
    """
    from filelock import FileLock, Timeout

    cache_folder().mkdir(parents=True, exist_ok=True)
    lock = FileLock(cache_folder() / f".{name}.lock")
    try:
        # A first try without waiting, so that the wait of the second can be reported.
        lock.acquire(timeout=0)
    except Timeout:
        if report:
            report(f"waiting for another process that is working on {name}", None)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def partial_folder(name: str) -> Iterator[Path]:
    """Make a hidden folder to work in, inside the cache; it is always deleted afterwards."""
    folder = _partial_path(name)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def discard_partials(name: str, *, but: Path | None = None) -> int:
    """Delete the partial folders of a model, except ``but``, and return the bytes freed.

    Call it with the lock held: then nobody is working in them.
    """
    freed = 0
    for folder in cache_folder().glob(f".{glob.escape(name)}.*.partial"):
        if folder != but:
            freed += bytes_below(folder)
            shutil.rmtree(folder)
    return freed


def publish(made: Path, name: str, origin: Mapping[str, str]) -> Path:
    """Seal a finished folder with its manifest, flush it to the disk and rename it into place.

    Call it with the lock held.

    Parameters
    ----------
    made
        A flat folder of finished files, inside the cache folder.
    name
        The model's name. A folder of this name that is there already is replaced.
    origin
        Source of the folder; a folder of another origin is outdated.
    """
    contents = {path.name: {"bytes": path.stat().st_size, "digest": _digest(path)} for path in sorted(made.iterdir())}
    manifest = {"format": _FORMAT, "origin": dict(origin), "files": contents}
    (made / _MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    # The rename may reach the disk before the files do; after a crash the plain name would then hold empty ones.
    for path in [*made.iterdir(), made]:
        _flush(path)
    folder = cache_folder() / name
    if folder.exists():
        _set_aside(name)
    made.rename(folder)
    _flush(cache_folder())
    # Deleting takes longer than renaming, so the replaced folder goes only when the new one is in place.
    discard_partials(name, but=made.parent)
    return folder


def fault(name: str, origin: Mapping[str, str]) -> str | None:
    """Why the cached folder of a model cannot be used, in words; None when it can."""
    folder = cache_folder() / name
    try:
        manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        if manifest["format"] != _FORMAT or manifest["origin"] != dict(origin):
            return "it was made from another wheel or by another version"
        for file_name, facts in manifest["files"].items():
            size = (folder / file_name).stat().st_size
            if size != facts["bytes"]:
                return f"{file_name} has {size} bytes instead of {facts['bytes']}"
            if _digest(folder / file_name) != facts["digest"]:
                return f"{file_name} was changed"
    except (FileNotFoundError, NotADirectoryError) as error:
        return f"{Path(error.filename).name} is missing"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{_MANIFEST} is damaged"
    return None


def _set_aside(name: str) -> None:
    """Take a model out of sight in one step: it becomes a partial folder."""
    # A folder that is being deleted is never visible under the model's name, so nobody reads half of it.
    (cache_folder() / name).rename(_partial_path(name))


def _partial_path(name: str) -> Path:
    return cache_folder() / f".{name}.{secrets.token_hex(4)}.partial"


def _digest(path: Path) -> str:
    """sha256 of a file, or of its first and last MiB where it is large (see the top of this module)."""
    with path.open("rb") as file:
        if path.stat().st_size <= _WHOLLY_HASHED:
            return hashlib.file_digest(file, "sha256").hexdigest()
        # Truncation, an end lost in a crash and a damaged header all show at the two ends of the file.
        digest = hashlib.sha256(file.read(_MIB))
        file.seek(-_MIB, os.SEEK_END)
        digest.update(file.read(_MIB))
        return digest.hexdigest()


def _flush(path: Path) -> None:
    """Have the system write a file or a folder's list of names to the disk now."""
    if path.is_dir() and os.name == "nt":  # Windows cannot open a folder, and needs no such call
        return
    descriptor = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
