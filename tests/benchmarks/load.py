"""What loading costs on top of reading the same folder, after the imports."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import torch
import transformers

import flowgraph
from flowgraph.models import kept_proof
from flowgraph.models.cache import cache_folder

from .pairs import Row, timed
from .subject import Setup


def rows(setup: Setup) -> Iterator[Row]:
    """Loading with its checks, against ``from_pretrained`` of model and tokenizer: with a proof that is kept, and proved again."""
    folder = Path(setup.name) if Path(setup.name).is_dir() else cache_folder() / setup.name
    for work, load in (("load_model", _opened), ("load_model, proved again", _proved)):
        yield timed(
            work,
            lambda load=load: load(setup.name),  # type: ignore[misc]
            "from_pretrained",
            lambda: _plain(folder),
            pairs=max(1, setup.pairs // 3),
        )


def _opened(name: str) -> object:
    return flowgraph.load_model(name)


def _proved(name: str) -> object:
    with mock.patch.object(kept_proof, "_read", return_value=None):
        return flowgraph.load_model(name)


def _plain(folder: Path) -> object:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    return model, transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
