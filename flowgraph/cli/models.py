"""``flowgraph models`` and ``flowgraph fetch``: what is known by name, and what is cached."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from .arguments import add_command

if TYPE_CHECKING:
    from rich.console import Console


def add_to(commands: Any) -> None:
    """Add both commands."""
    parser = add_command(commands, "models", _models, help="list the models known by name, and what is cached")
    parser.add_argument("--remove", metavar="NAME", help="delete a cached model")
    parser = add_command(commands, "fetch", _fetch, help="download and convert a known model ahead of its first use")
    parser.add_argument("name", metavar="NAME", help="a name from 'flowgraph models'")


def _models(options: argparse.Namespace, _console: Console) -> None:
    from rich.table import Table

    from ..models import KNOWN_MODELS, cache_folder, cached_models, remove
    from ..render.words.terminal import print_line, report, say

    if options.remove is not None:
        freed = remove(options.remove)
        if not options.quiet:
            say(f"removed {options.remove}: {freed / 2**20:,.0f} MB freed")
        return
    cached = cached_models()
    table = Table(box=None, pad_edge=False)
    for name in ("name", "model", "license", "download", "cached"):
        table.add_column(name, justify="right" if name in ("download", "cached") else "left")
    for model in KNOWN_MODELS.values():
        size = f"{cached[model.name] / 2**20:,.0f} MB" if model.name in cached else "no"
        download = f"{model.download_bytes / 2**20:,.0f} MB"
        table.add_row(model.name, model.description, model.license, download, size)
    if not options.quiet:
        with report() as out:
            out.print(table)
            print_line(out, f"cache: {cache_folder()}")


def _fetch(options: argparse.Namespace, console: Console) -> None:
    from ..render.words.terminal import progress, say

    with progress(console, f"fetching {options.name}") as tell:
        from ..models import fetch

        folder = fetch(options.name, progress=tell)
    if not options.quiet:
        say(f"{options.name} is ready in {folder}")
