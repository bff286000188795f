"""The model of a command: loaded with its progress shown, and run."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from ..models import LoadedModel
    from ..recorded import Trace


def loaded_model(options: argparse.Namespace, console: Console) -> LoadedModel:
    """The model that was asked for."""
    from ..views.terminal import progress

    with progress(console, f"loading {options.model}") as tell:
        from ..models import load_model

        _hush_transformers()
        return load_model(options.model, device=options.device, dtype=options.dtype, progress=tell)


def _hush_transformers() -> None:
    """Keep the library's own progress bars and hints off the screen: this command has its own."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


def run_trace(loaded: LoadedModel, options: argparse.Namespace, position: int | None) -> Trace:
    """Run the model once on the prompt."""
    from ..tracing import trace

    return trace(loaded, options.prompt, target=options.target, foil=options.foil, position=position, chat=options.chat)
