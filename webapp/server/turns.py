"""Files that pages take away are made one at a time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from .errors import Busy

MOST_WAITING = 8
"""Files that are asked for at once; they are made one after another."""
_LONGEST_WAIT = 30.0


class Turns:
    """Files are made one after another, and only so many wait."""

    def __init__(self) -> None:
        self._slots = threading.BoundedSemaphore(MOST_WAITING)
        self._making = threading.Lock()

    @contextmanager
    def one(self) -> Iterator[None]:
        """Wait until no other file is being made.

        Raises
        ------
        Busy
            If too many wait already, or the wait is too long.
        """
        if not self._slots.acquire(blocking=False):
            raise Busy(f"{MOST_WAITING} files are being made, as many as this server lets wait; try again soon")
        try:
            if not self._making.acquire(timeout=_LONGEST_WAIT):
                raise Busy("other files are being made; try again soon")
            try:
                yield
            finally:
                self._making.release()
        finally:
            self._slots.release()
