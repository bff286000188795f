"""The Chromium that tests and pictures use: the system's own, headless and without its background network."""

from __future__ import annotations

import shutil
from typing import Any

_NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
_SWITCHES = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
    # Nothing but this machine has an address: what a page asks for elsewhere fails, without a look at each request in Python.
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1 , EXCLUDE localhost , EXCLUDE [::1]",
]  # fmt: skip


_STILL = """async (selectors) => {
  const boxes = () => selectors.map((one) => {
    const { x, y, width, height } = document.querySelector(one).getBoundingClientRect();
    return { x, y, width, height };
  });
  let [last, still] = ['', 0];
  for (let frame = 0; still < 6; frame += 1) {
    if (frame === 3600) throw new Error(`${selectors} did not stand still`);
    await new Promise(requestAnimationFrame);
    const now = JSON.stringify(boxes());
    still = now === last ? still + 1 : 0;
    last = now;
  }
  return boxes();
}"""


def boxes(page: Any, *selectors: str) -> list[dict[str, float]]:
    """``x``, ``y``, ``width`` and ``height`` of elements in one look, as soon as none of them has moved for six frames."""
    found: list[dict[str, float]] = page.evaluate(_STILL, list(selectors))
    return found


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
