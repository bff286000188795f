"""What loading costs on top of reading the same folder, after the imports."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
import transformers

import flowgraph
from flowgraph.models.cache import cache_folder

from .pairs import Row, timed
from .subject import Setup


def rows(setup: Setup) -> Iterator[Row]:
    """Loading with its checks, against ``from_pretrained`` of model and tokenizer."""
    folder = Path(setup.name) if Path(setup.name).is_dir() else cache_folder() / setup.name
    yield timed(
        "load_model",
        lambda: flowgraph.load_model(setup.name),
        "from_pretrained",
        lambda: _plain(folder),
        pairs=max(1, setup.pairs // 3),
    )


def _plain(folder: Path) -> object:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    return model, transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
