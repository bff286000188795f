"""What is done once before compiled loops run: every module of such loops calls :func:`prepare`.

Compilation takes seconds and happens once, and one line on the standard error stream says so. The compiler announces its work
by events of its own (``numba.core.event``): ``"numba:compile"`` is sent when a function is really compiled, never when it is
loaded from the cache.

Where the compiler's threads and torch's come from one library, starting the former sets the number of the latter back to all
cores. They are therefore started here, and torch's number is kept.
"""

from __future__ import annotations

import functools
import sys
from typing import Any

import numba
from numba.core import event

_PACKAGE = __name__.partition(".")[0]
MESSAGE = f"{_PACKAGE}: compiling its loops for this machine, once; later runs load them from the cache"


@functools.cache
def prepare() -> None:
    """Announce the first compilation of a function of this package, and start the threads that loops run on."""
    event.register("numba:compile", _Announcement())
    torch = sys.modules.get("torch")
    threads = None if torch is None else torch.get_num_threads()
    numba.get_num_threads()
    if torch is not None:
        torch.set_num_threads(threads)


class _Announcement(event.Listener):  # type: ignore[misc]  # the compiler has no types
    """Prints the line at the first compilation of a function of this package."""

    made = False

    def on_start(self, event: Any) -> None:
        module = event.data["dispatcher"].py_func.__module__ or ""
        if not self.made and module.partition(".")[0] == _PACKAGE:
            self.made = True
            print(MESSAGE, file=sys.stderr, flush=True)

    def on_end(self, event: Any) -> None:
        """Nothing to say: the result follows."""
