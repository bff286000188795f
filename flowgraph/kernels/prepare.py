"""Preparation of the compiled loops: every module that holds such loops calls :func:`prepare`.

Compilation takes seconds and happens once, and one line on the standard error stream says so. The compiler sends events
(``numba.core.event``): ``"numba:compile"`` means that it really compiles a function, not that it loads one from the cache.

The compiler and torch may take their threads from one library. The start of the compiler's threads then sets torch's number
back to all cores. :func:`prepare` therefore starts them and puts torch's number back.
"""

from __future__ import annotations

import functools
import sys
from typing import Any

import numba
from numba.core import event

_PACKAGE = __name__.partition(".")[0]
MESSAGE = f"{_PACKAGE}: compiling its loops for this machine, once; later runs load them from the cache"


# Every module of loops calls this at import: one listener and one start of threads are enough.
@functools.cache
def prepare() -> None:
    """Announce the first compilation of a function of this package, and start the threads that loops run on."""
    event.register("numba:compile", _Announcement())
    # torch is not imported for this: where it is not loaded, it has no number to lose.
    torch = sys.modules.get("torch")
    threads = None if torch is None else torch.get_num_threads()
    # To ask for the number starts the threads.
    numba.get_num_threads()
    if torch is not None:
        torch.set_num_threads(threads)


class _Announcement(event.Listener):  # type: ignore[misc]  # the compiler has no types
    """Prints the line at the first compilation of a function of this package."""

    made = False

    def on_start(self, event: Any) -> None:
        module = event.data["dispatcher"].py_func.__module__ or ""
        # The compiler announces functions of other packages as well.
        if not self.made and module.partition(".")[0] == _PACKAGE:
            self.made = True
            print(MESSAGE, file=sys.stderr, flush=True)

    def on_end(self, event: Any) -> None:
        """Nothing to say: the result follows."""
