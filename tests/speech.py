"""A short recording of English speech, fetched once from the package index as a known model is."""

from __future__ import annotations

import hashlib
import tempfile
import zipfile
from pathlib import Path

from flowgraph.models import cache, wheel

_WHEEL, _WHEEL_HASH = (
    "useful-moonshine-onnx==20251121",
    "b4189b0d7dc8064d567fd0b5d5ce78634be290b0a3a3274ab80ad11c46d531a2",
)
"""MIT; 0.7 MB."""
_HASH = "e5a26b3d29e5b0bc8dbd72c11d16a3808a4ec0ac45b21f12a27d2a2fe5c5ae61"
WORDS = "Ever tried, ever failed. No matter, try again. Fail again. Fail better."
"""What is said, in ten seconds."""


def speech() -> Path:
    """The recording: 16,000 samples per second, one channel."""
    file = cache.cache_folder() / ".tests" / "speech.wav"
    if not file.is_file() or hashlib.sha256(file.read_bytes()).hexdigest() != _HASH:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=file.parent) as folder:
            found = wheel.obtain(_WHEEL, _WHEEL_HASH, Path(folder), size=729_305, report=lambda _stage, _done: None)
            with zipfile.ZipFile(found) as archive:
                made = Path(folder) / "made"
                made.write_bytes(archive.read("moonshine_onnx/assets/beckett.wav"))
            made.replace(file)
    return file
