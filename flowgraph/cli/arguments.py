"""What commands have in common: the parser, its one-line complaints, values that are checked before any work is done."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from ..errors import ArgumentError

DEFAULT_MODEL = "smollm2"
ENDINGS = ".html .json .graphml .csv .gexf .gml .dot .gv .neuronpedia.json .svg .pdf .png .tex"


_MOST_BYTES = 20 * 2**20
_PICTURES = (".svg", ".pdf", ".png", ".tex")


@dataclass(frozen=True, slots=True)
class Output:
    """A file to write.

    Attributes
    ----------
    path
        Where to; its ending is known.
    replace
        Whether what exists there may be replaced: ``--force`` was given, or the question answered with yes.
    """

    path: Path
    replace: bool


class Parser(argparse.ArgumentParser):
    """A parser whose complaints are one line, as all others are."""

    def error(self, message: str) -> NoReturn:
        """Refuse the arguments."""
        raise ArgumentError(f"{message}; see {self.prog} --help")


def add_command(commands: Any, name: str, run: Callable[..., None], **texts: Any) -> argparse.ArgumentParser:
    """Add a command that ``run`` carries out, with its help."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name, formatter_class=argparse.RawDescriptionHelpFormatter, description=texts["help"], **texts
    )
    parser.add_argument("--quiet", action="store_true", help="print errors only")
    parser.set_defaults(run=run)
    return parser


def add_model(parser: argparse.ArgumentParser) -> None:
    """Options that say which model runs on what, and how."""
    add = parser.add_argument
    add("prompt", metavar="PROMPT", nargs="?", help="the text")
    add("--pair", metavar="TEXT", help="a second text beside PROMPT, put together as the tokenizer does it")
    add(
        "--messages", metavar="FILE", type=_messages, help="a chat in place of PROMPT: JSON, a list of role and content"
    )
    add("--ids", type=_ids, help="token ids in place of PROMPT, as they are: '1 15 27'")
    add(
        "--image",
        metavar="FILE",
        action="append",
        help="an image in place of PROMPT, or beside PROMPT or --messages for a model of both; there, may be given several times",
    )
    add("--audio", metavar="FILE", help="a sound in place of PROMPT: a .wav file of one channel")
    add(
        "--target-text",
        metavar="TEXT",
        help="of an encoder-decoder, what its decoder has written (default: what the model writes itself)",
    )
    add("--model", default=DEFAULT_MODEL, help=f"known name, folder, or hub name (default {DEFAULT_MODEL})")
    add("--target", help="token to explain, with its space: ' Tokyo' (default: the model's best)")
    add("--foil", help="token to compare it with")
    add("--chat", action="store_true", help="put the prompt into the model's chat template")
    add_loading(parser)


def add_loading(parser: argparse.ArgumentParser) -> None:
    """Options that say how a model's files are opened, and where its weights are put."""
    add = parser.add_argument
    add("--device", default="auto", help="cpu, cuda … (default auto)")
    add(
        "--device-map",
        metavar="PLAN",
        help="in place of --device: auto, balanced or sequential spread a large model over what there is",
    )
    add("--dtype", help="float32, float16, bfloat16, or auto for the file's own (default float32)")
    add("--revision", help="branch, tag or commit of a model of the hub, such as step1000")
    add("--subfolder", metavar="NAME", help="folder inside the model's folder or repository that holds the files")
    add("--adapter", metavar="FOLDER", help="folder of a LoRA adapter that is added to the model")
    add("--trust-remote-code", action="store_true",
        help="run Python code that comes with the model; it can do whatever you can")  # fmt: skip


def loading_options(options: argparse.Namespace) -> dict[str, Any]:
    """The options of :func:`add_loading`, as :func:`flowgraph.load_model` takes them."""
    names = ("device", "device_map", "dtype", "revision", "subfolder", "adapter", "trust_remote_code")
    return {name: getattr(options, name) for name in names}


def _messages(name: str) -> Any:
    """What a JSON file of messages holds."""
    path = Path(name)
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise argparse.ArgumentTypeError(f"{name} is larger than {_MOST_BYTES // 2**20} MB")
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{name} could not be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise argparse.ArgumentTypeError(f"{name} is not JSON: {error}") from None


def _ids(text: str) -> list[int]:
    parts = text.replace(",", " ").split()
    if not parts or not all(part.isascii() and part.isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r}: expected token ids, such as '1 15 27'")
    return [int(part) for part in parts]


def number(text: str) -> float:
    """A number."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None


def count(text: str) -> int:
    """A whole number, at least 1."""
    if text.isdecimal() and int(text):
        return int(text)
    raise argparse.ArgumentTypeError(f"{text} must be a whole number, at least 1")


def add_output(parser: argparse.ArgumentParser) -> None:
    """Options that say which file is written, and whether it may replace another."""
    parser.add_argument(
        "-o", "--output", metavar="FILE", help=f"write a file; its ending chooses the format: {ENDINGS}"
    )
    add_force(parser, "FILE")


def add_force(parser: argparse.ArgumentParser, name: str) -> None:
    """The option that lets a command replace a file."""
    parser.add_argument("--force", action="store_true", help=f"replace {name} if it exists, without asking")


def checked_output(output: str, *, force: bool, extensions: Collection[str] | None = None) -> Output:
    """Refuse a file that could not be written, and ask before one is replaced, before any work is done for it.

    ``extensions`` are those that can be written; None: all formats of a graph.
    """
    path = Path(output)
    if extensions is None:
        from ..files import EXPORTERS, ending

        extensions, known = EXPORTERS, ending(path) is not None
    else:
        known = path.suffix.lower() in extensions
    if not known:
        raise ArgumentError(f"-o {output}: the extension {path.suffix!r} is not known; use {', '.join(extensions)}")
    if not path.resolve().parent.is_dir():
        raise ArgumentError(f"-o {output}: there is no folder {str(path.resolve().parent)!r}; make it first")
    if path.is_dir():
        raise ArgumentError(f"-o {output} is a folder; give the name of a file")
    if not os.access(path.resolve().parent, os.W_OK):
        raise ArgumentError(
            f"-o {output}: the folder {str(path.resolve().parent)!r} may not be written to; choose another"
        )
    if path.suffix.lower() in (".pdf", ".png"):
        from ..render.print.matplotlib_picture import check_installed

        check_installed()
    standing = [str(one) for one in written_files(path) if one.exists()]
    if standing and not (force or _may_replace(standing)):
        raise ArgumentError(f"{standing[0]} exists; pass --force to replace it, or choose another name")
    return Output(path, replace=bool(standing))


def written_files(path: Path) -> list[Path]:
    """Every file that one output makes: a table is three, and a picture has its caption beside it."""
    end = path.suffix.lower()
    if end == ".csv":
        from ..files.csv_file import csv_files

        return list(csv_files(path))
    if end in _PICTURES:
        return [path, *(path.with_name(f"{path.stem}.caption.{kind}") for kind in ("txt", "tex"))]
    return [path]


def _may_replace(standing: Collection[str]) -> bool:
    """Ask on a terminal; where nobody can answer, the answer is no."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    from ..charts.text import printable

    names = printable(" and ".join(standing))
    print(f"{names} exist{'s' * (len(standing) == 1)}. Replace? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
