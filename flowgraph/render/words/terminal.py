"""What a terminal shows: lines, tables and progress, in which no text from outside can move the cursor."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

from ...charts.text import printable

if TYPE_CHECKING:
    from rich.console import Console

_UNFOLDED = 100_000


def complain(what: str) -> None:
    """Print a message of the command on standard error."""
    for line in f"flowgraph: {what}".split("\n"):
        print(printable(line), file=sys.stderr)


@contextmanager
def report() -> Iterator[Console]:
    """A console for standard output: tables end without padding, and are not folded where no terminal reads them."""
    from rich.console import Console

    out = Console(highlight=False)
    if not out.is_terminal:
        out = Console(highlight=False, width=_UNFOLDED)
    with out.capture() as captured:
        yield out
    for line in captured.get().rstrip("\n").split("\n"):
        print(line.rstrip())


def print_line(out: Console, text: str) -> None:
    """Print one line of text as it is, without markup; only the terminal may fold it."""
    from rich.text import Text

    out.print(Text(printable(text)), soft_wrap=True)


def say(text: str) -> None:
    """Print one line on standard output, as :func:`print_line`."""
    with report() as out:
        print_line(out, text)


def progress_console(quiet: bool) -> Console:
    """The console that progress is shown on: standard error."""
    from rich.console import Console

    return Console(stderr=True, quiet=quiet, highlight=False)


@contextmanager
def stage(console: Console, text: str) -> Iterator[None]:
    """Show what is being done while it lasts, on a terminal."""
    from rich.text import Text

    with console.status(Text(printable(text))):
        yield


@contextmanager
def progress(console: Console, text: str) -> Iterator[Callable[[str, float | None], None]]:
    """Show how far the work is, and print a line for each of its stages, which stays.

    Yields
    ------
    A function to call with a stage in words and the fraction of it that is done, or None.
    """
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    description = TextColumn("{task.description}", markup=False)
    columns = (description, BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    bar = Progress(*columns, console=console, transient=True)
    task = bar.add_task(printable(text), total=None)
    seen: set[str] = set()

    def tell(name: str, fraction: float | None) -> None:
        if name not in seen:
            seen.add(name)
            print_line(console, name)
        known = {"total": None} if fraction is None else {"total": 1.0, "completed": fraction}
        bar.update(task, description=printable(name), **known)

    # Where no terminal shows the bar, it would still leave an empty line.
    with bar if console.is_terminal else nullcontext():
        yield tell
