"""What commands do alike: load a model with its progress shown, run it, and write a graph to a file."""

from __future__ import annotations

import argparse
import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ArgumentError
from .arguments import loading_options

if TYPE_CHECKING:
    from rich.console import Console

    from ..models import LoadedModel
    from ..values.flow_graph import FlowGraph
    from ..values.inputs import Inputs
    from ..values.trace import Trace
    from .arguments import Output


def loaded_model(options: argparse.Namespace, console: Console) -> LoadedModel:
    """The model that was asked for; what is said of it beside errors is a note."""
    from ..render.words.terminal import complain, progress

    with warnings.catch_warnings(record=True) as caught, progress(console, f"loading {options.model}") as tell:
        from ..models import load_model

        _hush_transformers()
        warnings.simplefilter("always", UserWarning)
        loaded = load_model(options.model, **loading_options(options), progress=tell)
    for warning in caught:
        if issubclass(warning.category, UserWarning):
            complain(f"note: {warning.message}")
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    return loaded


def _hush_transformers() -> None:
    """Keep the library's own progress bars and hints off the screen: this command has its own."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


def prompt_of(options: argparse.Namespace) -> Inputs:
    """What goes in, checked as far as that can be done without the model.

    Raises
    ------
    ArgumentError
        If there is no prompt, or what was given does not go together.
    FileFormatError
        If a file is no image, or no sound.
    """
    way = check_prompt(options)
    from ..values.inputs import Inputs, inputs
    from ..values.media import check_readable

    images = options.image
    made = inputs(
        text=options.prompt, pair=options.pair, messages=options.messages, ids=options.ids, chat=options.chat,
        target_text=options.target_text, image=images[0] if way == "--image" else images, audio=options.audio,
    )  # fmt: skip
    row = made.one(way)
    for given in (*row.images, *([] if row.given is None else [row.given])):
        check_readable(given)
    return Inputs((row,))


def check_prompt(options: argparse.Namespace) -> str:
    """How the prompt is given: in one way, which is said before anything heavy is loaded.

    Raises
    ------
    ArgumentError
        If there is no prompt, or what was given does not go together.
    """
    ways = {"PROMPT": options.prompt, "--messages": options.messages, "--ids": options.ids, "--audio": options.audio}
    # Beside a text or a chat an image is a part of it.
    if options.prompt is None and options.messages is None:
        ways["--image"] = options.image
    given = [name for name, value in ways.items() if value is not None]
    if len(given) != 1:
        said = f"{' and '.join(given)} are given" if given else "there is no prompt"
        raise ArgumentError(f"{said}; give one of PROMPT, --messages, --ids, --image, --audio")
    if given == ["--image"] and len(options.image) > 1:
        raise ArgumentError(
            f"--image is given {len(options.image)} times without a text; give PROMPT or --messages beside them, or one image at a time"
        )
    if options.pair is not None and options.prompt is None:
        raise ArgumentError(f"--pair goes with PROMPT, not with {given[0]}")
    return given[0]


def run_trace(loaded: LoadedModel, options: argparse.Namespace, position: int | None) -> Trace:
    """Run the model once on the prompt."""
    from ..tracing import trace

    made: Trace = trace(loaded, prompt_of(options), target=options.target, foil=options.foil, position=position)
    return made


def write_graph(graph: FlowGraph, output: Output, **look: Any) -> Path:
    """Write a graph, say what the writer warns of, and name the file that it wrote.

    ``look`` are options of pictures. A file that has come to be since it was asked about is not replaced either.
    """
    from ..files import save_graph
    from ..render.words.terminal import complain

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        written = save_graph(graph, output.path, overwrite=output.replace, **look)
    for warning in caught:
        complain(f"note: {warning.message}")
    return written


def by_command(graph: FlowGraph, options: argparse.Namespace, *, after: bool = False) -> FlowGraph:
    """The graph saying the command line that makes it; ``after`` what made the graph that the command read."""
    before = graph.info.provenance.get("made_by") if after else None
    line = options.command_line if before is None else f"{before}; {options.command_line}"
    return replace(graph, info=replace(graph.info, provenance={**graph.info.provenance, "made_by": line}))


def wrote(path: Path) -> str:
    """The line that names a file that was written, and its size."""
    return f"wrote {path} ({path.stat().st_size / 1024:,.0f} KB)"
