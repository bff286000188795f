"""Adapters: small files of weights that are added to those of a model, and can be taken away again for comparison."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ..errors import ArchitectureError, ArgumentError, FileFormatError, UnknownModelError
from .eager import lock_of
from .options import require

_KINDS = (
    "LORA",
    "LOHA",
    "LOKR",
    "IA3",
    "OFT",
    "BOFT",
    "VERA",
    "HRA",
    "LN_TUNING",
    "FOURIERFT",
    "RANDLORA",
    "SHIRA",
    "DELORA",
)
"""Kinds of adapters, by peft's names, whose numbers become numbers of the weights."""


@dataclass(frozen=True, eq=False)
class Adapter:
    """An adapter in the weights of a model.

    Attributes
    ----------
    name
        Name of its folder.
    model
        The model, whose weights hold it.
    weights
        Parameter → its numbers without the adapter, and with it.
    """

    name: str
    model: Any
    weights: Mapping[str, tuple[Tensor, Tensor]] = field(repr=False)

    @contextmanager
    def off(self) -> Iterator[None]:
        """Take the adapter out of the weights, number for number, and put it back on leaving; the model is locked meanwhile."""
        with lock_of(self.model):
            parameters = dict(self.model.named_parameters())
            try:
                for name, (without, _) in self.weights.items():
                    parameters[name].data = without
                yield
            finally:
                for name, (_, with_it) in self.weights.items():
                    parameters[name].data = with_it


def add_adapter(model: Any, place: str | Path) -> Adapter:
    """Add an adapter to the weights of a model; nothing of peft remains in it.

    Parameters
    ----------
    model
        A model of plain weights in memory. It is changed.
    place
        Folder with ``adapter_config.json`` and ``adapter_model.safetensors``. The base model that it names is not fetched.

    Raises
    ------
    UnknownModelError, FileFormatError
        If there is no such folder, or it holds no adapter in safetensors.
    ArgumentError
        If peft is not installed, or the adapter does not fit the model.
    ArchitectureError
        If the adapter is of a kind that no weights can hold, such as a learned prompt.
    """
    folder = Path(place).expanduser()
    kind = _kind(folder)
    if kind not in _KINDS:
        raise ArchitectureError(
            f"the adapter in {str(folder)!r} is of kind {kind!r}, which is not added to weights; kinds that are: {', '.join(_KINDS)}"
        )
    require("peft", "adapters", "adapter=")
    import peft

    # Merging safely gives new tensors, so these go on holding the numbers of the base model.
    before = {name: parameter.detach() for name, parameter in model.named_parameters()}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # keys that do not meet are refused below
            wrapped = peft.PeftModel.from_pretrained(model, str(folder), local_files_only=True)
        unmet = _unmet(wrapped, folder, peft.get_peft_model_state_dict(wrapped, save_embedding_layers=False))
        merged = wrapped.merge_and_unload(safe_merge=True)
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        OSError,
        RuntimeError,
        TypeError,
        ValueError,
        SafetensorError,
    ) as error:
        first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ArgumentError(
            f"the adapter in {str(folder)!r} does not fit {type(model).__name__}, or is damaged: {first}"
        ) from error
    if unmet:
        raise ArgumentError(
            f"the adapter in {str(folder)!r} is of another model than {type(model).__name__}: {', '.join(unmet[:3])} "
            f"{'…' if len(unmet) > 3 else ''} stand only in one of the two"
        )
    if any(type(module).__module__.startswith("peft.") for module in merged.modules()):
        raise ArchitectureError(
            f"the adapter in {str(folder)!r} leaves modules of its own in {type(model).__name__}, so it is not in the weights alone"
        )
    after = {name: parameter.detach() for name, parameter in merged.named_parameters()}
    if before.keys() != after.keys() or any(before[name].shape != after[name].shape for name in before):
        raise ArchitectureError(
            f"the adapter in {str(folder)!r} changes the parts of {type(model).__name__}, and not its weights alone; merge it once, "
            "save the model, and open that"
        )
    changed = {name: (old, after[name]) for name, old in before.items() if old.data_ptr() != after[name].data_ptr()}
    if not changed:
        raise ArgumentError(f"the adapter in {str(folder)!r} changes no weight of {type(model).__name__}")
    _thaw(merged)
    return Adapter(folder.resolve().name, merged, changed)


def _unmet(wrapped: nn.Module, folder: Path, expected: Mapping[str, Tensor]) -> list[str]:
    """Tensors of the adapter's file that the model has no place for, and places that the file has no tensor for."""
    own = wrapped.state_dict().keys()
    with safe_open(folder / "adapter_model.safetensors", framework="pt") as tensors:
        saved = set(tensors.keys())
    return sorted((saved - expected.keys() - own) | (expected.keys() - saved))


def _thaw(model: nn.Module) -> None:
    """What peft froze for training is as free as in any other model."""
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.requires_grad_(True)


def _kind(folder: Path) -> str:
    if not folder.is_dir():
        raise UnknownModelError(
            f"adapter={str(folder)!r}: there is no such folder; an adapter is a folder on this machine"
        )
    file = folder / "adapter_config.json"
    if not file.is_file():
        raise FileFormatError(f"the folder {str(folder)!r} has no adapter_config.json, so it is not an adapter of peft")
    if not (folder / "adapter_model.safetensors").is_file():
        raise FileFormatError(
            f"the folder {str(folder)!r} has no adapter_model.safetensors; pickled weights can run code when they are opened and are "
            "never read here"
        )
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FileFormatError(f"{str(file)!r} is damaged, it is not JSON: {error}") from error
    return str(said.get("peft_type")) if isinstance(said, dict) else ""
