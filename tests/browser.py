"""The Chromium that tests and pictures use: the system's own, headless and without its background network."""

from __future__ import annotations

import shutil
from typing import Any

_NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
_SWITCHES = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


def launch(playwright: Any) -> Any:
    """Start Chromium.

    Raises
    ------
    FileNotFoundError
        If there is none; the message says how to install it.
    """
    found = next((path for path in map(shutil.which, _NAMES) if path), None)
    if found is None:
        raise FileNotFoundError(
            "No Chromium on the PATH. Install it (Debian and Ubuntu: apt-get install chromium), or leave these tests "
            "out with FLOWGRAPH_SKIP_BROWSER=1."
        )
    return playwright.chromium.launch(executable_path=found, args=_SWITCHES)
