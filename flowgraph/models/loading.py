"""From a name, a folder or a model in memory to a :class:`LoadedModel` whose parts are found and proved."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
from torch import Tensor, nn

from ..errors import (
    ArchitectureError,
    ArgumentError,
    DeviceError,
    FileFormatError,
    UnknownModelError,
    UnsupportedReadingError,
)
from .anatomy import Anatomy, resolve
from .known import KNOWN_MODELS, fetch
from .proof import prove
from .vocabulary import Vocabulary

Progress = Callable[[str, float | None], None]

_VOLATILE = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "_attn_implementation", "use_cache")
_SAMPLES = 64


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model that can be traced.

    Attributes
    ----------
    name
        Known name, hub name, folder or class name; for captions.
    model, tokenizer
        The Hugging Face objects; ``tokenizer`` may be None for a model in memory.
    anatomy
        Its parts, as the family's row found them.
    vocabulary
        Its tokens as strings.
    proof
        Identity → largest relative error seen when the model was attached.
    """

    name: str
    model: Any
    tokenizer: Any
    anatomy: Anatomy
    vocabulary: Vocabulary
    proof: dict[str, float]
    lock: threading.RLock = field(default_factory=threading.RLock, repr=False)
    _wide: dict[tuple[int, int], Tensor] = field(default_factory=dict, repr=False)

    def __repr__(self) -> str:
        a = self.anatomy
        return (
            f"LoadedModel({self.name!r}, family {a.family.name!r}, {len(a.blocks)} layers × {a.n_heads} heads, "
            f"d_model {a.d_model}, {self.dtype}, {self.device})"
        )

    @property
    def device(self) -> torch.device:
        """Where the token embedding lives."""
        device: torch.device = self.anatomy.embedding.weight.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """Number type of the token embedding."""
        dtype: torch.dtype = self.anatomy.embedding.weight.dtype
        return dtype

    def require_head(self, wanted: str) -> None:
        """Refuse what needs a vocabulary.

        Raises
        ------
        UnsupportedReadingError
            If the model ends in hidden states, not in logits.
        """
        if not self.anatomy.has_head:
            raise UnsupportedReadingError(
                f"{self.name!r} ({type(self.model).__name__}) has no head over a vocabulary, so {wanted} has no meaning for it; "
                "tracing, attention and norms work, readings and targets need a language model"
            )

    def widened(self, weight: Tensor) -> Tensor:
        """The weight in at least float32; the wide copy of a half-precision weight is kept for the next call."""
        if weight.dtype in (torch.float32, torch.float64):
            return weight
        key = (weight.data_ptr(), weight._version)
        if key not in self._wide:
            self._wide.clear()
            self._wide[key] = weight.detach().float()
        return self._wide[key]

    def fingerprint(self) -> dict[str, str]:
        """Short digests of the config and of the weights.

        The weights' digest covers name and shape of every parameter and 64 numbers spread over each, so that merged
        adapters and fine-tuned copies differ.
        """
        config = {key: value for key, value in self.model.config.to_dict().items() if key not in _VOLATILE}
        weights = hashlib.blake2b(digest_size=16)
        for name, parameter in self.model.named_parameters():
            flat = parameter.detach().reshape(-1)
            count = min(_SAMPLES, flat.numel())
            picks = torch.arange(count, device=flat.device) * (flat.numel() - 1) // max(1, count - 1)
            weights.update(f"{name}{tuple(parameter.shape)}".encode())
            weights.update(flat[picks].float().cpu().numpy().tobytes())
        digest = hashlib.blake2b(json.dumps(config, sort_keys=True, default=str).encode(), digest_size=16)
        return {"config": digest.hexdigest(), "weights": weights.hexdigest()}


def load_model(
    name_or_path_or_model: Any,
    *,
    tokenizer: Any = None,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype | None = None,
    progress: Progress | None = None,
) -> LoadedModel:
    """Load a model and prove that its parts are understood.

    Parameters
    ----------
    name_or_path_or_model
        ``"smollm2"`` or another known name (``flowgraph models`` lists them); a local folder in Hugging Face's layout;
        a name on the Hugging Face hub, the only case in which the hub is asked; a model in memory; a
        ``(model, tokenizer)`` pair; or a :class:`LoadedModel`, which is returned as it is.
    tokenizer
        For a model in memory. Without one, prompts are given as token ids.
    device
        ``"auto"``: a model in memory stays where it is, others go to cuda where there is one, else to the CPU.
    dtype
        Number type, as ``torch.float16`` or ``"float16"``; ``"auto"`` takes the file's own. None: float32 for files, as it
        is for a model in memory.
    progress
        Called with a stage and a fraction (or None) while a known model is fetched.

    Raises
    ------
    UnknownModelError
        If there is no such name or folder.
    ArchitectureError
        If no family's row fits, or an identity that proves it fails.
    FileFormatError
        If the folder holds no safetensors weights, or they are damaged or incomplete.
    FetchError
        If a known model cannot be fetched.
    DeviceError
        If the device does not exist here.
    NonFiniteError
        If the weights hold NaN.
    """
    if isinstance(name_or_path_or_model, LoadedModel):
        return name_or_path_or_model
    if isinstance(name_or_path_or_model, tuple):
        if len(name_or_path_or_model) != 2 or tokenizer is not None:
            raise ArgumentError(
                "a model in memory is given as (model, tokenizer), or as model with tokenizer=; got a tuple of "
                f"{len(name_or_path_or_model)} and tokenizer={tokenizer!r}"
            )
        name_or_path_or_model, tokenizer = name_or_path_or_model
    number_type = _dtype(dtype)
    if isinstance(name_or_path_or_model, (str, Path)):
        where = _device("cuda" if device == "auto" and torch.cuda.is_available() else _or_cpu(device))
        name, model, own_tokenizer = _open(name_or_path_or_model, number_type or torch.float32, progress)
        return _attach(name, model.to(where), tokenizer or own_tokenizer)
    if not isinstance(name_or_path_or_model, nn.Module) or not hasattr(name_or_path_or_model, "config"):
        raise ArgumentError(
            f"load_model got {type(name_or_path_or_model).__name__}; expected a name, a folder, a Hugging Face model or a "
            "(model, tokenizer) pair"
        )
    model = name_or_path_or_model
    if device != "auto":
        model = model.to(_device(device))
    if isinstance(number_type, torch.dtype):
        model = model.to(number_type)
    return _attach(type(model).__name__, model, tokenizer)


def _attach(name: str, model: Any, tokenizer: Any) -> LoadedModel:
    if hasattr(model, "peft_config"):
        raise ArchitectureError(
            f"{type(model).__name__} carries adapters that are not merged; call model = model.merge_and_unload() first"
        )
    anatomy = resolve(model)
    vocabulary = Vocabulary(tokenizer, int(anatomy.embedding.weight.shape[0]))
    return LoadedModel(name, model, tokenizer, anatomy, vocabulary, prove(anatomy))


def _open(name_or_path: str | Path, dtype: torch.dtype | str, progress: Progress | None) -> tuple[str, Any, Any]:
    """Name, model and tokenizer of a known name, a folder or a hub name."""
    text = str(name_or_path)
    if text in KNOWN_MODELS:
        return text, *_read_folder(fetch(text, progress=progress), dtype)
    folder = Path(text).expanduser()
    if folder.is_dir():
        return folder.resolve().name, *_read_folder(folder, dtype)
    if folder.exists():
        raise UnknownModelError(f"{text!r} is a file; a model is a folder with config.json and *.safetensors in it")
    if isinstance(name_or_path, Path) or text.startswith((".", "/", "~")) or text.count("/") > 1:
        raise UnknownModelError(f"there is no folder {text!r}{_nearest(text)}")
    return text, *_read_hub(text, dtype)


def _nearest(text: str) -> str:
    near = difflib.get_close_matches(text.lower(), KNOWN_MODELS, n=3, cutoff=0.4)
    known = ", ".join(repr(name) for name in near or KNOWN_MODELS)
    return f". {'Did you mean' if near else 'Known names are'} {known}{'?' if near else ''}"


def _read_folder(folder: Path, dtype: torch.dtype | str) -> tuple[Any, Any]:
    if not (folder / "config.json").is_file():
        raise FileFormatError(f"the folder {str(folder)!r} has no config.json, so it is not a Hugging Face model")
    if not any(folder.glob("*.safetensors")):
        other = sorted(
            path.name for path in folder.iterdir() if path.suffix in (".bin", ".pt", ".pth", ".ckpt", ".gguf")
        )
        raise FileFormatError(
            f"the folder {str(folder)!r} has no *.safetensors; found {', '.join(other) or 'no weights'}. Pickled weights "
            "can run code when they are opened and are never read here: convert them once, with "
            "AutoModel.from_pretrained(folder).save_pretrained(other_folder, safe_serialization=True)"
        )
    try:
        return _from_pretrained(str(folder), dtype, local_files_only=True)
    except (OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
        if isinstance(error, FileFormatError):
            raise
        raise FileFormatError(f"the model in {str(folder)!r} cannot be read: {_first_line(error)}") from error


def _read_hub(name: str, dtype: torch.dtype | str) -> tuple[Any, Any]:
    offline = not _hub_answers()
    try:
        return _from_pretrained(name, dtype, local_files_only=offline)
    except (OSError, ValueError, RuntimeError) as error:
        if isinstance(error, FileFormatError):
            raise
        hub = "the Hugging Face hub cannot be reached from here" if offline else f"the hub gave none: {_first_line(error)}"
        raise UnknownModelError(
            f"{name!r} is not a known model, not a folder and not among the hub's files on this machine, and {hub}"
            f"{_nearest(name)}"
        ) from error


def _hub_answers() -> bool:
    """Whether the hub's host can be reached: the hub's own client would try five times before it says no."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return True
    address = urlsplit(constants.ENDPOINT)
    try:
        with socket.create_connection((address.hostname, address.port or 443), timeout=5):
            return True
    except OSError:
        return False


def _from_pretrained(source: str, dtype: torch.dtype | str, *, local_files_only: bool) -> tuple[Any, Any]:
    import transformers

    config = transformers.AutoConfig.from_pretrained(source, local_files_only=local_files_only)
    kind = (config.architectures or [""])[0]
    auto = transformers.AutoModel
    if kind.endswith(("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")):
        auto = transformers.AutoModelForCausalLM
    elif kind.endswith(("ForMaskedLM", "ForPreTraining")):
        auto = transformers.AutoModelForMaskedLM
    model, report = auto.from_pretrained(
        source,
        dtype=dtype,
        use_safetensors=True,
        attn_implementation="eager",
        local_files_only=local_files_only,
        output_loading_info=True,
    )
    absent = sorted(key for key in report["missing_keys"] if "pooler" not in key)
    if absent:
        raise FileFormatError(
            f"{source!r} lacks weights that {type(model).__name__} needs, and random ones would stand in for them: "
            f"{', '.join(absent[:5])}{' …' if len(absent) > 5 else ''}"
        )
    tokenizer = transformers.AutoTokenizer.from_pretrained(source, local_files_only=local_files_only)
    return model, tokenizer


def _dtype(dtype: str | torch.dtype | None) -> torch.dtype | str | None:
    if dtype is None or dtype == "auto" or isinstance(dtype, torch.dtype):
        return dtype
    found = getattr(torch, str(dtype), None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ArgumentError(
            f"dtype={dtype!r} is not a floating-point type; expected 'float32', 'float16', 'bfloat16' …"
        )
    return found


def _or_cpu(device: str | torch.device) -> str | torch.device:
    return "cpu" if device == "auto" else device


def _device(device: str | torch.device) -> torch.device:
    """The device, proved by putting one number on it."""
    try:
        found = torch.device(device)
        torch.empty(1, device=found)
    except (RuntimeError, AssertionError) as error:
        here = "cpu" if not torch.cuda.is_available() else f"cpu, cuda ({torch.cuda.device_count()})"
        raise DeviceError(
            f"device={str(device)!r} is not available here ({_first_line(error)}); this machine has: {here}"
        ) from error
    return found


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
