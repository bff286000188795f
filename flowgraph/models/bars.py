"""transformers' progress bar over the weights and its report of them, kept off the screen while a model is loaded here.

A hook of the library's own decides bar by bar, so that no setting is changed: bars that are on stay on for everybody else, and
what a user sets meanwhile stays set. What the report says is checked here and told in our own words.
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
"""Threads in :func:`no_bars`, one once for each time."""
_installed: list[tuple[Hook, Hook | None]] = []
"""Our hook and the one that was set before it, while any thread is in :func:`no_bars`."""
_REPORTING = logging.getLogger("transformers.modeling_utils")


def _is_shown(record: logging.LogRecord) -> bool:
    return "LOAD REPORT" not in record.getMessage() or record.thread not in _loading


@contextmanager
def no_bars() -> Iterator[None]:
    """Show no bar and no report of transformers that this thread makes; a hook that a user has set gets all bars as ever."""
    thread = threading.get_ident()
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
