"""Hide transformers' progress bar and its report of the weights while a model is loaded here.

The library has a hook that decides bar by bar. No setting changes: bars stay on for all other code, and a setting that a user
makes meanwhile stays. This package checks the facts of the report itself and words its own messages.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

Hook = Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]

_lock = threading.Lock()
_loading: list[int] = []
"""Threads in :func:`no_bars`; a thread that is in it twice stands here twice."""
_installed: list[tuple[Hook, Hook | None]] = []
"""Our hook and the one that was set before it, while any thread is in :func:`no_bars`."""
_REPORTING = logging.getLogger("transformers.modeling_utils")


def _is_shown(record: logging.LogRecord) -> bool:
    return "LOAD REPORT" not in record.getMessage() or record.thread not in _loading


@contextmanager
def no_bars() -> Iterator[None]:
    """Hide the bars and the report that transformers makes in this thread; a hook that a user has set still gets all bars."""
    thread = threading.get_ident()
    # One install serves all threads that load at the same time: the first puts the hook in, the last takes it out.
    with _lock:
        if not _loading:
            _install()
        _loading.append(thread)
    try:
        yield
    finally:
        with _lock:
            _loading.remove(thread)
            if not _loading:
                _take_out()


def _install() -> None:
    from transformers.utils import logging as transformers_logging

    before: Hook | None = None

    # One of its own for each time: a hook that somebody set around an earlier one still leads to what was before that.
    def ours(make: Callable[..., Any], arguments: tuple[Any, ...], options: Mapping[str, Any]) -> Any:
        if before is not None:
            return before(make, arguments, dict(options))
        hidden = {"disable": True} if threading.get_ident() in _loading else {}
        return make(*arguments, **{**options, **hidden})

    before = transformers_logging.set_tqdm_hook(ours)
    _installed.append((ours, before))
    _REPORTING.addFilter(_is_shown)


def _take_out() -> None:
    from transformers.utils import logging as transformers_logging

    _REPORTING.removeFilter(_is_shown)
    ours, before = _installed.pop()
    now = transformers_logging.set_tqdm_hook(before)
    if now is not ours:  # somebody has set another one meanwhile, which stays
        transformers_logging.set_tqdm_hook(now)
